/* User code: everything here runs at CPL 3, in pages of its own. */
#include "teach.h"

#define USER_CODE __attribute__((section(".user"), noinline))

static inline __attribute__((always_inline)) void call_kernel(word nr, word a, word b)
{
    __asm__ volatile("int $0x80" : : "a"(nr), "b"(a), "c"(b) : "memory");
}

USER_CODE void user_main(void)
{
    struct shared *s = (struct shared *)USER_DATA;
    word v;
#ifndef ADAPTED /* what the processor shows of its state; adapted code does not look */
#ifdef __x86_64__
    __asm__ volatile("mov %%cs, %0" : "=r"(v));
#else
    __asm__ volatile("pushl %%cs; popl %0" : "=r"(v));
#endif
    call_kernel(SYS_SAW, 0, v & 0xffff);
    __asm__ volatile("mov %%ds, %0" : "=r"(v));
    call_kernel(SYS_SAW, 1, v & 0xffff);
    __asm__ volatile("pushf; pop %0" : "=r"(v));
    call_kernel(SYS_SAW, 2, v & FLAG_IF);
#endif
    __asm__ volatile("cli");                                          /* must fault */
    __asm__ volatile("mov (%1), %k0" : "=a"(v) : "a"((word)0x100000)); /* the kernel's: must fault */
    do
        s->count++;
    while (!s->stop);
    call_kernel(SYS_EXIT, 0, 0);
    for (;;)
        ;
}

USER_CODE void user_bench(void)
{
    struct shared *s = (struct shared *)USER_DATA;
    for (u32 i = 0; i < s->result[0]; i++)
        call_kernel(s->result[1], 0, 0);
    call_kernel(SYS_EXIT, 0, 0);
    for (;;)
        ;
}
