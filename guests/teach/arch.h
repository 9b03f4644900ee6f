/* The processor: its types, selectors, interrupt frame, and the instructions C has no words for. One source, 32 and 64 bits. */
#ifndef TEACH_ARCH_H
#define TEACH_ARCH_H

#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned long word; /* a register */

/* Selectors; the descriptors are in start32.S and start64.S. */
enum { KERNEL_CS = 0x08, KERNEL_DS = 0x10, USER_CS = 0x1b, SMALL_SEL = 0x2b, TSS_SEL = 0x30, LDT_SEL = 0x58 };
#ifdef ADAPTED
enum { USER_DS = 0x43 }; /* in DS and ES all the time; no host has a segment for user code there, so that loading it traps */
#else
enum { USER_DS = 0x23 };
#endif

/* What the stubs leave on the stack. */
struct frame {
#ifdef __x86_64__
    word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
#else
    word es, ds, di, si, bp, sp_dummy, bx, dx, cx, ax;
#endif
    word vector, error, ip, cs, flags, sp, ss; /* 32-bit: sp and ss only of user code */
};
static inline int from_user(const struct frame *f) { return (f->cs & 3) == 3; }

#define FLAG_IF 0x200u
#define FLAG_IOPL 0x3000u

static inline void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
static inline u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u32 inl(u16 port)
{
    u32 v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline word cr0(void)
{
    word v;
    __asm__ volatile("mov %%cr0, %0" : "=r"(v));
    return v;
}
static inline word cr2(void)
{
    word v;
    __asm__ volatile("mov %%cr2, %0" : "=r"(v));
    return v;
}
static inline void set_cr3(const void *p) { __asm__ volatile("mov %0, %%cr3" : : "r"(p) : "memory"); }
static inline u64 tsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}

#endif
