/* See guest32.h. */
#include "guest32.h"

#include <stdarg.h>

static unsigned passed, failed;
volatile struct fault fault;
volatile uint32_t site, site_next, try_resume, try_esp;
__attribute__((used)) volatile uint32_t resume_now;
const char *lax_why;
uint64_t idt[256] __attribute__((aligned(16)));
uint32_t tss[26 + 2048 + 8 + 1] __attribute__((aligned(128)));
static uint8_t kernel_stack[8192] __attribute__((aligned(16))), user_stack[8192] __attribute__((aligned(16)));
static struct frame *frame_out;
extern uint8_t end[];
void enter_frame(struct frame *f);
__attribute__((noreturn)) void leave_frame(void);
void trap(struct frame *f);

static void put_num(uint32_t v, unsigned base)
{
    char b[12];
    int n = 0;
    do {
        b[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    while (n)
        outb(0xe9, (uint8_t)b[--n]);
}

void print(const char *f, ...)
{
    va_list ap;
    va_start(ap, f);
    for (; *f; f++) {
        if (*f != '%') {
            outb(0xe9, (uint8_t)*f);
            continue;
        }
        switch (*++f) {
        case 's':
            for (const char *s = va_arg(ap, const char *); *s; s++)
                outb(0xe9, (uint8_t)*s);
            break;
        case 'u': put_num(va_arg(ap, unsigned), 10); break;
        case 'x': put_num(va_arg(ap, unsigned), 16); break;
        default: outb(0xe9, (uint8_t)*f);
        }
    }
    va_end(ap);
}

bool under_qemu(void)
{
    static const char sig[4] = "QEMU";
    bool same = true;
    outw(0x510, 0);
    for (int i = 0; i < 4; i++)
        same &= inb(0x511) == (uint8_t)sig[i];
    return same;
}

void skip(const char *name, const char *why)
{
    print("skip %s: %s\n", name, why);
}

bool lax(const char *name, const char *why)
{
    if (!under_qemu())
        return false;
    skip(name, why);
    return true;
}

void check_at(bool ok, const char *name, const char *file, int line)
{
    const char *why = lax_why;
    lax_why = NULL;
    if (ok) {
        passed++;
        print("ok %s\n", name);
    } else if (why && under_qemu()) {
        print("skip %s: under QEMU %s\n", name, why);
    } else {
        failed++;
        print("FAIL %s (%s:%u)\n", name, file, line);
    }
}

void check_eq_at(uint32_t got, uint32_t want, const char *name, const char *file, int line)
{
    if (got != want)
        print("  got %x, want %x\n", got, want);
    check_at(got == want, name, file, line);
}

void expect_at(const char *name, unsigned vector, uint32_t error, uint32_t eip, const char *file, int line)
{
    bool ok = fault.happened && fault.vector == vector && fault.error == error && fault.eip == eip;
    if (!ok && !fault.happened)
        print("  no fault, want vector %u error %x\n", vector, error);
    else if (!ok)
        print("  got vector %u error %x eip %x, want vector %u error %x eip %x\n", fault.vector, fault.error, fault.eip,
              vector, error, eip);
    check_at(ok, name, file, line);
}

void expect_none_at(const char *name, const char *file, int line)
{
    if (fault.happened)
        print("  got vector %u error %x eip %x, want none\n", fault.vector, fault.error, fault.eip);
    check_at(!fault.happened, name, file, line);
}

void finish(void)
{
    print("%u passed, %u failed\n", passed, failed);
    for (;;)
        outb(0xf4, failed || !passed);
}

static void record(struct frame *f)
{
    fault.vector = (uint8_t)f->vector;
    fault.error = f->error;
    fault.eip = f->eip;
    fault.cr2 = read_cr2();
    fault.eflags = f->eflags;
    fault.cs = f->cs;
}

void trap(struct frame *f)
{
    if (frame_out) {
        *frame_out = *f;
        frame_out = NULL;
        record(f);
        fault.happened = f->vector != 0x80;
        leave_frame();
    }
    if (try_resume) {
        record(f);
        fault.happened = true;
        resume_now = 1;
        return;
    }
    print("FAIL unexpected vector %u error %x at %x:%x cr2 %x flags %x\n", f->vector, f->error, f->cs, f->eip,
          read_cr2(), f->eflags);
    failed++;
    finish();
}

void run_frame(struct frame *f)
{
    fault.happened = false;
    frame_out = f;
    enter_frame(f);
}

struct frame user_frame(const void *eip)
{
    struct frame f;
    memset(&f, 0, sizeof(f));
    f.eip = (uint32_t)eip;
    f.cs = 0x2b;
    f.ss = f.ds = f.es = 0x33;
    f.eflags = 2;
    f.esp = (uint32_t)user_stack + sizeof(user_stack) - 16;
    return f;
}

uint64_t segment(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

uint64_t gate(unsigned sel, const void *off, unsigned access)
{
    uint32_t a = (uint32_t)off;
    return (a & 0xffff) | (uint64_t)sel << 16 | (uint64_t)access << 40 | (uint64_t)(a >> 16) << 48;
}

void set_idt(unsigned v, uint64_t g)
{
    idt[v] = g;
}

void init(void)
{
    outb(0x21, 0xff); /* firmware may have left the 8259s open */
    outb(0xa1, 0xff);
    struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) r = {sizeof(idt) - 1, (uint32_t)idt};
    for (unsigned i = 0; i < 256; i++)
        idt[i] = gate(8, stubs + 16 * i, 0x8e);
    idt[0x80] = gate(8, stubs + 16 * 0x80, 0xee);
    __asm__ volatile("lidt %0" ::"m"(r));
    tss[1] = (uint32_t)kernel_stack + sizeof(kernel_stack);
    tss[2] = 0x10;
    tss[25] = sizeof(tss) << 16; /* no I/O bitmap */
    gdt[7] = segment((uint32_t)tss, sizeof(tss) - 1, 0x89, 0);
    __asm__ volatile("ltr %w0" ::"r"(0x38));
}

void *page_alloc(void)
{
    static uint32_t next;
    if (!next)
        next = ((uint32_t)end + 0xfff) & ~0xfffu;
    void *p = (void *)next;
    next += 4096;
    return memset(p, 0, 4096);
}

void *memset(void *p, int c, size_t n)
{
    void *r = p;
    __asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(c) : "memory");
    return r;
}

void *memcpy(void *d, const void *s, size_t n)
{
    void *r = d;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n)::"memory");
    return r;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    for (; n; n--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}
