/*
 * The nanobenchmarks of Adams & Agesen, "A Comparison of Software and Hardware
 * Techniques for x86 Virtualization" (ASPLOS 2006), as a guest: the cost in
 * cycles of one sensitive operation each, by RDTSC, less that of the empty loop.
 * Prints "nano NAME MIN MEDIAN COUNT" in hundredths of a cycle over RUNS runs.
 */
#include "guest.h"

#define RUNS 9
#define ENOUGH 20000000ull /* cycles a run should take */

typedef uint64_t (*bench_fn)(uint64_t n); /* cycles that n operations take */

/* A loop of n times `code`, which keeps RSI; unrolled by four. */
#define LOOP(code, ...)                                                                                                \
    uint64_t start = rdtsc_ordered(), c = n / 4;                                                                       \
    __asm__ volatile("1: " code "\n" code "\n" code "\n" code "\n dec %[c]; jnz 1b"                                    \
                     : [c] "+S"(c)                                                                                     \
                     : __VA_ARGS__                                                                                     \
                     : "rax", "rcx", "rdx", "r11", "memory", "cc");                                                    \
    return rdtsc_ordered() - start

static inline uint64_t rdtsc_ordered(void)
{
    uint32_t a, d;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(a), "=d"(d)::"memory");
    return a | (uint64_t)d << 32;
}

static volatile uint64_t faults;
static uint64_t *volatile spare_pte;
static uint64_t absent_page = 0x7f0000000000ull;

/* Handlers do as little as they can: step over the instruction, which is 3 bytes long, and count. */
__attribute__((naked)) static void on_fault_with_code(void)
{
    __asm__ volatile("addq $8, %rsp; addq $3, (%rsp); incq faults(%rip); iretq");
}

__attribute__((naked)) static void on_fault(void)
{
    __asm__ volatile("addq $3, (%rsp); incq faults(%rip); iretq");
}

__attribute__((naked)) static void on_syscall(void)
{
    __asm__ volatile("sysretq");
}

__attribute__((naked, used)) static void leaf(void)
{
    __asm__ volatile("ret");
}

static uint64_t empty(uint64_t n) { LOOP("nop"); }
static uint64_t do_syscall(uint64_t n) { LOOP("syscall"); }
static uint64_t do_in(uint64_t n) { LOOP("inb $0x80, %%al"); }
static uint64_t do_cr8wr(uint64_t n) { LOOP("mov %[zero], %%cr8", [zero] "r"(0ull)); }
static uint64_t do_callret(uint64_t n) { LOOP("call leaf"); }
static uint64_t do_pgfault(uint64_t n) { LOOP("movq (%[p]), %%rax", [p] "b"(absent_page)); }
static uint64_t do_divzero(uint64_t n) { LOOP("divq %[zero]", [zero] "b"(0ull)); }
/* Two page frames in turn, present, in a live table; no flush, which is another operation */
static uint64_t do_ptemod(uint64_t n) { LOOP("xorq %[bit], (%[p])", [p] "b"(spare_pte), [bit] "r"(0x1000ull)); }

struct user_run {
    bench_fn fn;
    uint64_t n;
};

static int64_t in_user(void *arg)
{
    struct user_run *u = arg;
    return (int64_t)u->fn(u->n);
}

static uint64_t once(bench_fn fn, bool user, uint64_t n)
{
    struct user_run u = {fn, n};
    return user ? (uint64_t)run_user(in_user, &u) : fn(n);
}

static void measure(const char *name, bench_fn fn, bool user)
{
    uint64_t n = 64, v[RUNS];
    while (once(fn, user, n) < ENOUGH && n < 1u << 30)
        n *= 2;
    for (unsigned i = 0; i < RUNS; i++) {
        uint64_t before = faults, loop = once(empty, user, n), all = once(fn, user, n);
        v[i] = all > loop ? (all - loop) * 100 / n : 0;
        if (fn == do_pgfault || fn == do_divzero)
            if (faults != before + n)
                CHECK_EQ("faults happened", faults - before, n);
        for (unsigned k = i; k > 0 && v[k] < v[k - 1]; k--) {
            uint64_t t = v[k];
            v[k] = v[k - 1];
            v[k - 1] = t;
        }
    }
    print("nano %s %lu %lu %lu\n", name, v[0], v[RUNS / 2], n);
}

void guest_main(uint32_t mb_info, uint32_t magic)
{
    idt_init();
    set_gate(0, (void *)on_fault, 0, 0, 14);
    set_gate(14, (void *)on_fault_with_code, 0, 0, 14);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1); /* SCE */
    wrmsr(0xc0000081, (uint64_t)0x2b << 48 | (uint64_t)8 << 32);
    wrmsr(0xc0000082, (uint64_t)on_syscall);
    wrmsr(0xc0000084, 0);
    uint8_t *two = page_alloc();
    uint64_t virt = 0x600000000000ull, pages = ((uint64_t)two + 0x1fff) & ~0x1fffull;
    page_alloc();
    page_alloc();
    spare_pte = map_page(virt, pages, PTE_P | PTE_W);
    *(volatile uint8_t *)virt = 1;

    uint64_t start = rdtsc();
    print("nano-begin\n");
    measure("syscall", do_syscall, true);
    measure("in", do_in, false);
    measure("cr8wr", do_cr8wr, false);
    measure("call/ret", do_callret, false);
    measure("pgfault", do_pgfault, false);
    measure("divzero", do_divzero, false);
    measure("ptemod", do_ptemod, false);
    uint64_t end = rdtsc();
    print("nano-end %lu\n", end - start);
    CHECK("the table's entry is one of the two", (*spare_pte & ~(uint64_t)(0x1000 | PTE_A | PTE_D)) == (pages | PTE_P | PTE_W));
    CHECK("faults were taken", faults > 0);
    finish();
}
