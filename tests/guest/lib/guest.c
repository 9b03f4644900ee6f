/* Library of the self-checking guests; see guest.h. */
#include "guest.h"

#include <stdarg.h>

static unsigned passed, failed;
bool lax_kvm;
volatile struct fault fault;
volatile uint64_t try_resume, try_rsp;
static handler_fn handlers[256];
extern uint8_t stubs[], end[], stack_top[];
extern uint64_t boot_pml4[];

/* --- output --- */

static void put(char c)
{
    outb(0xe9, (uint8_t)c);
}

static void put_num(uint64_t v, unsigned base, int width)
{
    char b[24];
    int n = 0;
    do {
        b[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    while (n < width)
        b[n++] = '0';
    while (n)
        put(b[--n]);
}

void print(const char *f, ...)
{
    va_list ap;
    va_start(ap, f);
    for (; *f; f++) {
        if (*f != '%') {
            put(*f);
            continue;
        }
        int width = 0, l = 0;
        f++;
        while (*f >= '0' && *f <= '9')
            width = width * 10 + *f++ - '0';
        while (*f == 'l') {
            l++;
            f++;
        }
        switch (*f) {
        case 's': {
            const char *s = va_arg(ap, const char *);
            while (*s)
                put(*s++);
            break;
        }
        case 'c': put((char)va_arg(ap, int)); break;
        case 'd': {
            int64_t v = l ? va_arg(ap, int64_t) : va_arg(ap, int);
            if (v < 0)
                put('-');
            put_num(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, width);
            break;
        }
        case 'u': put_num(l ? va_arg(ap, uint64_t) : va_arg(ap, unsigned), 10, width); break;
        case 'x': put_num(l ? va_arg(ap, uint64_t) : va_arg(ap, unsigned), 16, width); break;
        case 'p': put_num((uint64_t)va_arg(ap, void *), 16, 16); break;
        default: put(*f);
        }
    }
    va_end(ap);
}

const char *lax_why;

void check_at(bool ok, const char *name, const char *file, int line)
{
    const char *why = lax_why;
    bool kvm = lax_kvm;
    lax_why = NULL;
    lax_kvm = false;
    if (!ok && why && (kvm || under_qemu())) {
        print("skip %s: under %s %s\n", name, kvm ? "KVM" : "QEMU", why);
        return;
    }
    if (ok) {
        passed++;
        print("ok %s\n", name);
    } else {
        failed++;
        print("FAIL %s (%s:%d)\n", name, file, line);
    }
}

void check_eq_at(uint64_t got, uint64_t want, const char *name, const char *file, int line)
{
    if (got != want)
        print("  got %lx, want %lx\n", got, want);
    check_at(got == want, name, file, line);
}

void summary(void)
{
    print("%u passed, %u failed\n", passed, failed);
}

void finish(void)
{
    summary();
    for (;;)
        outb(0xf4, failed || !passed);
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

/* The hypervisor's name says KVM under our other engines too, whose processor has a name of its own. KVM's own local APIC shows by its
 * paravirtual EOI. */
bool under_kvm(int what)
{
    uint32_t r[4];
    cpuid(0x40000000, 0, r);
    if (r[1] != 0x4b4d564b || r[2] != 0x564b4d56)
        return false;
    cpuid(0x80000002, 0, r);
    if (r[0] == 0x676e6952) /* "Ring" */
        return false;
    cpuid(0x40000001, 0, r);
    return what == KVM_ANY || (r[0] >> 6 & 1);
}

/* --- exceptions --- */

void *stub_of(unsigned v)
{
    return stubs + 16 * v;
}

void set_handler(unsigned v, handler_fn fn)
{
    handlers[v] = fn;
}

bool (*trap_hook)(struct frame *f);

void trap(struct frame *f)
{
    uint64_t cr2 = read_cr2();
    if (trap_hook && trap_hook(f))
        return;
    if (handlers[f->vector]) {
        handlers[f->vector](f);
        return;
    }
    if (try_resume && f->vector < 32) {
        fault.happened = true;
        fault.vector = (uint8_t)f->vector;
        fault.error = f->error;
        fault.rip = f->rip;
        fault.cr2 = cr2;
        fault.rflags = f->rflags;
        fault.cs = f->cs;
        f->rip = try_resume;
        if (try_rsp)
            f->rsp = try_rsp;
        return;
    }
    print("FAIL unexpected vector %lu error %lx at %lx:%lx rsp %lx cr2 %lx flags %lx\n", f->vector, f->error, f->cs, f->rip, f->rsp, cr2,
          f->rflags);
    failed++;
    finish();
}

struct gate {
    uint16_t off0, sel;
    uint8_t ist, type;
    uint16_t off1;
    uint32_t off2, zero;
};
static struct gate idt[256] __attribute__((aligned(16)));

void set_gate(unsigned v, void *entry, unsigned dpl, unsigned ist, unsigned type)
{
    uint64_t a = (uint64_t)entry;
    idt[v] = (struct gate){(uint16_t)a, 8, (uint8_t)ist, (uint8_t)(0x80 | dpl << 5 | type), (uint16_t)(a >> 16), (uint32_t)(a >> 32), 0};
}

void idt_init(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) d = {sizeof(idt) - 1, (uint64_t)idt};
    for (unsigned i = 0; i < 256; i++)
        set_gate(i, stubs + 16 * i, 0, 0, 14);
    __asm__ volatile("lidt %0" ::"m"(d));
    outb(0x21, 0xff); /* firmware may have left the 8259s open */
    outb(0xa1, 0xff);
}

/* --- memory --- */

static uint64_t next_page;

void *page_alloc(void)
{
    if (!next_page)
        next_page = ((uint64_t)end + 0xfff) & ~0xfffull;
    void *p = (void *)next_page;
    next_page += 4096;
    return memset(p, 0, 4096);
}

static uint64_t *walk(uint64_t virt, bool create)
{
    uint64_t *t = (uint64_t *)(read_cr3() & ~0xfffull);
    for (int shift = 39; shift > 12; shift -= 9) {
        uint64_t *e = &t[virt >> shift & 511];
        if (!(*e & PTE_P)) {
            if (!create)
                return NULL;
            *e = (uint64_t)page_alloc() | 7;
        } else if (shift < 39 && (*e & PTE_PS)) {
            /* Split into the next size with the same rights. */
            uint64_t *n = page_alloc(), size = 1ull << (shift - 9), base = *e & ~((1ull << shift) - 1) & ~PTE_NX, flags = *e & (0xfffull | PTE_NX);
            for (unsigned i = 0; i < 512; i++)
                n[i] = (base + i * size) | (shift - 9 > 12 ? flags : flags & ~(uint64_t)PTE_PS);
            *e = (uint64_t)n | 7;
        }
        t = (uint64_t *)(*e & 0x000ffffffffff000ull);
    }
    return &t[virt >> 12 & 511];
}

uint64_t *pte_of(uint64_t virt)
{
    return walk(virt, false);
}

uint64_t *map_page(uint64_t virt, uint64_t phys, uint64_t flags)
{
    uint64_t *e = walk(virt, true);
    *e = phys | flags;
    invlpg(virt);
    return e;
}

/* --- CPL 3 --- */

uint64_t tss64[14] __attribute__((aligned(16)));
__attribute__((used)) uint8_t user_stack[8192] __attribute__((aligned(16)));
static uint8_t kernel_stack[8192] __attribute__((aligned(16)));
static bool tss_ready;
static volatile uint64_t user_result;
__attribute__((used)) uint64_t user_return_rsp;

void tss_init(void)
{
    if (tss_ready)
        return;
    uint64_t b = (uint64_t)tss64;
    /* RSP0 at byte 4 */
    *(uint64_t *)((uint8_t *)tss64 + 4) = (uint64_t)(kernel_stack + sizeof(kernel_stack));
    *(uint16_t *)((uint8_t *)tss64 + 102) = 104;
    gdt[9] = 103 | (b & 0xffffff) << 16 | 0x89ull << 40 | (b >> 24 & 0xff) << 56;
    gdt[10] = b >> 32;
    __asm__ volatile("ltr %w0" ::"r"(0x48));
    tss_ready = true;
}

static void leave_user(struct frame *f)
{
    if (f->vector != 0x80) {
        fault.happened = true;
        fault.vector = (uint8_t)f->vector;
        fault.error = f->error;
        fault.rip = f->rip;
        fault.cr2 = read_cr2();
        fault.rflags = f->rflags;
        fault.cs = f->cs;
        user_result = ~0ull;
    } else {
        user_result = f->rax;
    }
    /* Back to run_user's frame at CPL 0. */
    f->rip = user_return_rsp ? *(uint64_t *)user_return_rsp : 0;
    f->rsp = user_return_rsp + 8;
    f->cs = 8;
    f->ss = 0x10;
    f->rflags = 2;
}

__attribute__((naked, noinline)) static void enter_user(int64_t (*fn)(void *), void *arg)
{
    __asm__ volatile("pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
                     "leaq 1f(%rip), %rax; pushq %rax\n"
                     "movq %rsp, user_return_rsp(%rip)\n"
                     "movq %rdi, %rax\n movq %rsi, %rdi\n"
                     "leaq user_stack+8176(%rip), %rcx\n"
                     "pushq $0x33; pushq %rcx; pushq $2; pushq $0x3b; leaq 2f(%rip), %rcx; pushq %rcx\n"
                     "iretq\n"
                     "2: call *%rax\n int $0x80\n"
                     "1: popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx; ret");
}

int64_t run_user(int64_t (*fn)(void *), void *arg)
{
    handler_fn saved[33];
    tss_init();
    for (unsigned i = 0; i < 32; i++) {
        saved[i] = handlers[i];
        handlers[i] = leave_user;
    }
    saved[32] = handlers[0x80];
    handlers[0x80] = leave_user;
    set_gate(0x80, stubs + 16 * 0x80, 3, 0, 14);
    fault.happened = false;
    enter_user(fn, arg);
    for (unsigned i = 0; i < 32; i++)
        handlers[i] = saved[i];
    handlers[0x80] = saved[32];
    return (int64_t)user_result;
}

/* --- time and application processors --- */

void delay_us(unsigned us)
{
    while (us) {
        unsigned n = us > 50000 ? 50000 : us, count = (unsigned)((uint64_t)n * 1193182 / 1000000) + 1;
        outb(0x61, (inb(0x61) & ~2u) | 1u);
        outb(0x43, 0xb0);
        outb(0x42, (uint8_t)count);
        outb(0x42, (uint8_t)(count >> 8));
        while (!(inb(0x61) & 0x20))
            __asm__ volatile("pause");
        us -= n;
    }
}

extern uint8_t ap_tramp[], ap_tramp_end[];
extern volatile uint64_t ap_entry;
static void (*ap_fn)(unsigned);
static volatile unsigned ap_started;

static void ap_main(void)
{
    unsigned index = ap_started + 1;
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) d = {sizeof(idt) - 1, (uint64_t)idt};
    __asm__ volatile("lidt %0" ::"m"(d));
    ap_started = index;
    ap_fn(index);
}

/*
 * One after another by APIC id, so that each is counted by itself. A host that is busy elsewhere may leave a
 * processor waiting for long: only one that CPUID does not announce is given up soon.
 */
unsigned start_aps(void (*entry)(unsigned index))
{
    uint32_t r[4];
    cpuid(1, 0, r);
    unsigned announced = r[3] >> 28 & 1 ? r[1] >> 16 & 0xff : 1;
    ap_fn = entry;
    memcpy((void *)0x8000, ap_tramp, (size_t)(ap_tramp_end - ap_tramp));
    ap_entry = (uint64_t)ap_main;
    apic_write(0xf0, apic_read(0xf0) | 0x1ff);
    for (unsigned id = 1; id < 16; id++) {
        unsigned before = ap_started;
        apic_write(0x310, id << 24);
        apic_write(0x300, 0x4500);
        delay_us(1000);
        for (int k = 0; k < 2 && ap_started == before; k++) {
            apic_write(0x310, id << 24);
            apic_write(0x300, 0x4608);
            for (int w = id < announced ? 5000 : 20; w && ap_started == before; w--)
                delay_us(1000);
        }
        if (ap_started == before)
            break;
    }
    return ap_started;
}

/* --- what the compiler expects --- */

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
