/* Descriptor tables (SDM Vol. 3A, chapters 3, 6 and 7). */
#include "machine.h"

#define STUBS 49u

#ifdef __x86_64__
u64 idt[512];
#else
u64 idt[256];
#endif
static u32 tss[26];

static void gate(unsigned n, const void *at, unsigned dpl)
{
    const word a = (word)at;
    const u64 lo = (a & 0xffff) | (u64)KERNEL_CS << 16 | (u64)(gate_type | dpl << 5) << 40 | (u64)(a >> 16 & 0xffff) << 48;
#ifdef __x86_64__
    idt[2 * n] = lo;
    idt[2 * n + 1] = a >> 32;
#else
    idt[n] = lo;
#endif
}

/* bits: type and rights as in the descriptor's second word from bit 8, granularity and size from bit 20. */
void descriptor(unsigned selector, word base, u32 limit, u32 bits)
{
    gdt[selector / 8] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)bits << 40 | (u64)(limit >> 16 & 15) << 48 | (u64)(base >> 24 & 0xff) << 56;
}

void set_kernel_stack(word top)
{
    tss[1] = (u32)top; /* ESP0, or the low half of RSP0 */
}

void tables_init(void)
{
    struct {
        u16 limit;
        word base;
    } __attribute__((packed)) idtr = {sizeof(idt) - 1, (word)idt};

    for (unsigned i = 0; i < STUBS; i++)
        gate(i, stubs + i * 16, i == 3 || i == 4 ? 3 : 0);
    gate(0x80, stub_syscall, 3);
    __asm__ volatile("lidt %0" : : "m"(idtr));

    descriptor(TSS_SEL, (word)tss, sizeof(tss) - 1, 0x89);
    descriptor(LDT_SEL, (word)gdt, 7, 0x82);
#ifndef __x86_64__
    tss[2] = KERNEL_DS;
#endif
    tss[25] = sizeof(tss) << 16; /* no I/O permissions */
    __asm__ volatile("ltr %w0" : : "r"(TSS_SEL));
    __asm__ volatile("lldt %w0" : : "r"(LDT_SEL));
}
