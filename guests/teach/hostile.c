/* Two guests for resource control (tests/lab/separate.sh): one that does its work and checks it, one that takes all it can reach. */
#include "machine.h"

#define FROM 0x400000u /* memory of nobody else's, up to the user pages */
#define WORDS ((USER_DATA - FROM) / 4)

static u32 step(u32 x) { return x * 1664525 + 1013904223; }

/* Fill memory, compute, look whether it is still there: over and over, with ticks arriving meanwhile. */
void victim(void)
{
    volatile u32 *m = (u32 *)(word)FROM;
    u32 sum = 0, bad = 0;
    interrupts_open();
    const u32 t0 = ticks;
    for (u32 round = 0; round < 20; round++) {
        u32 x = round;
        for (u32 i = 0; i < WORDS; i++)
            m[i] = x = step(x);
        x = round;
        for (u32 i = 0; i < WORDS; i++) {
            x = step(x);
            bad += m[i] != x;
            sum = (sum << 1 | sum >> 31) ^ m[i];
        }
    }
    while (ticks == t0)
        ;
    interrupts_close();
    saw("words of mine that somebody changed", bad, 0);
    saw("the sum of my work", sum, 0xf3b52fa1);
    saw("ticks reached me", ticks > t0, 1);
}

/* Physical memory that is not ours: beyond RAM, devices', anything. */
static void poke(u32 physical)
{
    volatile u32 *at = (u32 *)(word)(USER_DATA + 0x1000);
    map_pages(&(struct mapping){0, (word)at, physical & ~0xfffu}, 1);
    at[physical >> 2 & 1023] = physical;
    (void)at[physical >> 2 & 1023];
}

/* All ports, all physical addresses, calls with records anywhere, interrupts off, for ever. It must get at nothing, and end when its owner says so. */
void hostile(void)
{
    u32 x = 12345;
    print("hostile: begins\n");
    interrupts_close();
    __asm__ volatile("cli");
    use_space(0);
    for (;;) {
        for (u32 i = 0; i < 1000; i++) {
            x = step(x);
            const u16 port = (u16)(x >> 16);
            /* but for what ends a machine by right: exit device, ACPI, reset, keyboard controller */
            if (port == 0xf4 || (port & 0xfff0) == 0x600 || (port & 0xfffc) == 0xcf8 || port == 0x64 || port == 0x92 || port == 0x505)
                continue;
            if (x >= 16u << 20) /* below is our own */
                poke(x);
            if (x & 1)
                outl(port, x);
            else
                (void)inl(port);
#ifdef ADAPTED
            outl(0x560, x); /* calls whose records are anywhere */
#endif
        }
        for (u32 i = 0; i < 10000000; i++)
            __asm__ volatile("" : : : "memory");
    }
}
