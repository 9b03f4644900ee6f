/*
 * A little kernel library for self-checking guests. They run on any x86 PC with
 * a debug console at port 0xe9 and isa-debug-exit at 0xf4: Ringer under every engine, and QEMU.
 *
 * A guest prints one line a check ("ok NAME" / "FAIL NAME: …"), a line "N passed, N failed", and
 * leaves through isa-debug-exit with 0 (status 1: all passed) or 1 (status 3).
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

void guest_main(uint32_t mb_info, uint32_t magic);

/* Output. %d %u %x %lx %s %c %p; no widths but %0Nx. */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
__attribute__((noreturn)) void finish(void);
void summary(void); /* its last line alone, for guests that end by themselves */

/* One check. */
void check_at(bool ok, const char *name, const char *file, int line);
#define CHECK(name, cond) check_at((cond), (name), __FILE__, __LINE__)
void check_eq_at(uint64_t got, uint64_t want, const char *name, const char *file, int line);
#define CHECK_EQ(name, got, want) check_eq_at((uint64_t)(got), (uint64_t)(want), (name), __FILE__, __LINE__)

/* QEMU is the cross-check, but TCG leaves out some checks of the architecture: LAX("says why") before one check makes its failure there a
 * line "skip". It tells itself by the firmware-configuration device's signature. */
bool under_qemu(void);
extern const char *lax_why;
#define LAX(why) (lax_why = (why))
/* The same for checks that KVM is known to fail, on any processor: with its own local APIC (kernel_apic), or whatever has it. */
enum { KVM_ANY, KVM_APIC };
bool under_kvm(int what);
#define LAX_KVM(what, why)                                                                                             \
    do {                                                                                                               \
        if (under_kvm(what))                                                                                           \
            lax_why = (why), lax_kvm = true;                                                                           \
    } while (0)
extern bool lax_kvm;

/* Exceptions. A handler set for a vector gets the frame and may change it; without one the guest prints the frame and fails. */
typedef void (*handler_fn)(struct frame *f);
void set_handler(unsigned vector, handler_fn fn);
void idt_init(void);
void *stub_of(unsigned vector);                 /* the library's entry point for a vector, to put into gates */
extern bool (*trap_hook)(struct frame *f);      /* sees every exception and interrupt first; true: handled */
void set_gate(unsigned vector, void *entry, unsigned dpl, unsigned ist, unsigned type);

/* Run one expression of inline code that may fault; after it `fault` tells what happened. The asm must begin at label 1 and put label 2
 * behind the faulting instruction: TRY("1: mov …; 2:", …). */
struct fault {
    bool happened;
    uint8_t vector;
    uint64_t error, rip, cr2, rflags, cs;
};
extern volatile struct fault fault;
extern volatile uint64_t try_resume, try_rsp; /* try_rsp: restored with it, unless 0 */
#define TRY(code, ...)                                                                                                 \
    do {                                                                                                               \
        fault.happened = false;                                                                                        \
        __asm__ volatile("leaq 99f(%%rip), %%rax; movq %%rax, try_resume(%%rip)\n" code "\n99:" ::__VA_ARGS__          \
                         : "rax", "memory", "cc");                                                                     \
        try_resume = 0;                                                                                                \
    } while (0)

static inline void outb(uint16_t p, uint8_t v) { __asm__ volatile("outb %0,%1" ::"a"(v), "Nd"(p)); }
static inline void outw(uint16_t p, uint16_t v) { __asm__ volatile("outw %0,%1" ::"a"(v), "Nd"(p)); }
static inline void outl(uint16_t p, uint32_t v) { __asm__ volatile("outl %0,%1" ::"a"(v), "Nd"(p)); }
static inline uint8_t inb(uint16_t p) { uint8_t v; __asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline uint16_t inw(uint16_t p) { uint16_t v; __asm__ volatile("inw %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline uint32_t inl(uint16_t p) { uint32_t v; __asm__ volatile("inl %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline uint64_t rdmsr(uint32_t m) { uint32_t a, d; __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(m)); return a | (uint64_t)d << 32; }
static inline void wrmsr(uint32_t m, uint64_t v) { __asm__ volatile("wrmsr" ::"c"(m), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory"); }
#define CR_RW(n)                                                                                                       \
    static inline uint64_t read_cr##n(void) { uint64_t v; __asm__ volatile("mov %%cr" #n ",%0" : "=r"(v)); return v; } \
    static inline void write_cr##n(uint64_t v) { __asm__ volatile("mov %0,%%cr" #n ::"r"(v) : "memory"); }
CR_RW(0) CR_RW(2) CR_RW(3) CR_RW(4) CR_RW(8)
static inline void cpuid(uint32_t l, uint32_t s, uint32_t r[4]) { __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(l), "c"(s)); }
static inline uint64_t rdtsc(void) { uint32_t a, d; __asm__ volatile("rdtsc" : "=a"(a), "=d"(d)); return a | (uint64_t)d << 32; }
static inline void invlpg(uint64_t a) { __asm__ volatile("invlpg (%0)" ::"r"(a) : "memory"); }
static inline uint64_t rflags(void) { uint64_t v; __asm__ volatile("pushfq; pop %0" : "=r"(v)); return v; }

/* Memory: pages from above the image, zeroed, 4 KiB aligned; never freed. */
void *page_alloc(void);
/* Map one 4 KiB page in the tables of CR3 (creating levels; splitting 2 MiB pages). flags: PTE bits. Returns the PTE's address. */
uint64_t *map_page(uint64_t virt, uint64_t phys, uint64_t flags);
uint64_t *pte_of(uint64_t virt); /* the 4 KiB PTE, splitting a large page if needed; NULL if not mapped */
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_PWT = 8, PTE_PCD = 16, PTE_A = 32, PTE_D = 64, PTE_PS = 128, PTE_G = 256 };
#define PTE_NX (1ull << 63)

/* Run fn(arg) at CPL 3 on a stack of its own; returns its result, or -1 with `fault` filled in when it faulted. */
int64_t run_user(int64_t (*fn)(void *), void *arg);
void tss_init(void); /* load TR; idempotent */
extern uint64_t tss64[];
extern uint64_t gdt[]; /* 32 descriptors; 12 and above are free */

/* Local APIC by MMIO at its default page, and application processors. */
static inline uint32_t apic_read(unsigned r) { return *(volatile uint32_t *)(0xfee00000ull + r); }
static inline void apic_write(unsigned r, uint32_t v) { *(volatile uint32_t *)(0xfee00000ull + r) = v; }
unsigned start_aps(void (*entry)(unsigned index)); /* returns how many answered; entry gets 1.. */
void delay_us(unsigned us); /* by the ACPI-free way: PIT channel 2 */

void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
