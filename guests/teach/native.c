/* The machine as hardware: serial port, 8259A, 8254, CLI and STI, INVLPG. */
#include "machine.h"

const char machine_name[] = "plain";
const u8 gate_type = 0x8e;

#define PIT_RELOAD 11932 /* 100 Hz */

static void put(char c)
{
    while (!(inb(0x3fd) & 0x20))
        ;
    outb(0x3f8, (u8)c);
}

void console_write(const char *s, u32 n)
{
    for (u32 i = 0; i < n; i++) {
        if (s[i] == '\n')
            put('\r');
        put(s[i]);
    }
}

void machine_init(void)
{
    static const u8 icw[] = {0x11, 0x20, 4, 1, 0x11, 0x28, 2, 1};
    outb(0x3fb, 3);
    for (unsigned i = 0; i < 8; i++)
        outb((u16)((i < 4 ? 0x20 : 0xa0) + (i % 4 != 0)), icw[i]);
    outb(0x21, 0xfe);
    outb(0xa1, 0xff);
}

void timer_init(void)
{
    outb(0x43, 0x34);
    outb(0x40, PIT_RELOAD & 0xff);
    outb(0x40, PIT_RELOAD >> 8);
}

void interrupts_open(void) { __asm__ volatile("sti" : : : "memory"); }
void interrupts_close(void) { __asm__ volatile("cli" : : : "memory"); }
int interrupts_are_open(void)
{
    word f;
    __asm__ volatile("pushf; pop %0" : "=r"(f));
    return !!(f & FLAG_IF);
}

int interrupt_enter(word vector)
{
    if (vector == 0x20)
        outb(0x20, 0x20);
    return vector == 0x20 ? ENTER_TICK : 0;
}
int interrupt_leave(int open) /* IRET restores the flag, and the 8259A has what came meanwhile */
{
    (void)open;
    return 0;
}

void wait_ticks(u32 n)
{
    u32 last = 0;
    while (n) {
        outb(0x43, 0);
        u32 v = inb(0x40);
        v |= (u32)inb(0x40) << 8;
        if (v > last + PIT_RELOAD / 4 && last)
            n--;
        last = v;
    }
}

void idle(void) { __asm__ volatile("sti; hlt" : : : "memory"); }

void page_table_update(const struct pte_change *c, u32 n)
{
    for (u32 i = 0; i < n; i++) {
        *(volatile word *)c[i].entry = c[i].value;
        __asm__ volatile("invlpg (%0)" : : "r"(c[i].linear) : "memory");
    }
}

void power_off(int failed)
{
    outb(0xf4, failed ? 1 : 0);
    for (;;)
        __asm__ volatile("cli; hlt");
}
