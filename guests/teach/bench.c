/* What things cost, in nanoseconds. */
#include "machine.h"

static u32 per_us; /* time-stamp counts per microsecond */

static u32 div64(u64 n, u32 d) /* no libgcc; quotients here fit */
{
    u32 q, r;
    while (n >> 32 >= d)
        n >>= 1;
    __asm__("divl %4" : "=a"(q), "=d"(r) : "0"((u32)n), "1"((u32)(n >> 32)), "rm"(d));
    return q;
}

static void cost(const char *what, u64 t0, u32 n)
{
    const u64 d = tsc() - t0;
    print("cost   ");
    print(what);
    print(": ");
    print_dec(div64(d * 1000, per_us * n));
    print(" ns\n");
}

#define N 20000u
#define COST(what, n, code)                                                                                            \
    do {                                                                                                               \
        const u64 t0_ = tsc();                                                                                         \
        for (u32 i_ = 0; i_ < (n); i_++) {                                                                             \
            code;                                                                                                      \
        }                                                                                                              \
        cost(what, t0_, n);                                                                                            \
    } while (0)

/* What both builds need, each in its own way. */
static void bench_machine(void)
{
    static struct mapping m[64];
    u32 open = 0;
    interrupts_close();
    COST("interrupts opened and closed", N, interrupts_open(); interrupts_close());
    COST("interrupt flag read", N, open += (u32)interrupts_are_open());
    right += open == 0;
    use_space(0);
    for (u32 i = 0; i < 64; i++)
        m[i] = (struct mapping){0, USER_DATA + 0x1000 * (1 + i), (word)user_page(1)};
    COST("64 pages mapped and touched", N / 400, map_pages(m, 64); for (u32 k = 0; k < 64; k++)(void)*(volatile u8 *)m[k].addr);
    for (u32 i = 0; i < 64; i++)
        m[i].page = 0;
    map_pages(m, 64);
    use_space(NPROC);
    const u64 t0 = tsc();
    for (u32 i = 0; i < 20; i++)
        print("cost   a line of 64 characters to the console                  \n");
    cost("that line", t0, 20);
}

#ifndef ADAPTED
static void bench_instructions(void)
{
    word v;
    __asm__ volatile("cli");
    COST("CLI", N, __asm__ volatile("cli"));
    COST("PUSHF", N, __asm__ volatile("pushf; pop %0" : "=r"(v)));
    COST("MOV from CR0", N, (void)cr0());
    COST("IN from a port", N, (void)inb(0x61));
    COST("INVLPG and the load that fills the TLB again", N / 10, __asm__ volatile("invlpg (%0)" : : "r"((word)0x300000) : "memory");
         (void)*(volatile u32 *)0x300000);
    COST("MOV to CR3 and on", N / 10, use_space(NPROC));
}
#endif

static void start(u32 p, u32 turns, u32 call)
{
    spawn(p, user_bench);
    shared_of(p)->result[0] = turns;
    shared_of(p)->result[1] = call;
}

void bench(void)
{
    interrupts_close();
    wait_ticks(1);
    u64 t = tsc();
    wait_ticks(10);
    per_us = div64(tsc() - t, 10 * TICK_US);

    COST("1000 turns of an empty loop", N, for (u32 k = 0; k < 1000; k++) __asm__ volatile("" : : : "memory"));
    bench_machine();
#ifndef ADAPTED
    bench_instructions();
#endif
    start(0, N, SYS_NULL);
    t = tsc();
    run_processes();
    cost("system call (INT 80 and IRET)", t, N);
    start(0, N / 20, SYS_YIELD);
    start(1, N / 20, SYS_YIELD);
    t = tsc();
    run_processes();
    cost("switch of processes", t, N / 20 * 2);
}
