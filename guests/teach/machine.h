/*
 * What the kernel needs of the machine beyond plain instructions. native.c has it of the hardware, adapted.c of the monitor by hypercalls
 * (docs/hypercalls.md): that file is all there is to adapting this kernel.
 */
#ifndef TEACH_MACHINE_H
#define TEACH_MACHINE_H

#include "teach.h"

extern const char machine_name[];
#define TICK_US 10000u

void machine_init(void); /* before anything is printed; interrupts are closed */
void console_write(const char *s, u32 n);
void timer_init(void);     /* a tick every TICK_US */

/* The interrupt flag. */
void interrupts_open(void);
void interrupts_close(void);
int interrupts_are_open(void);

/* Around the handling of an interrupt or exception; inside, the flag is closed. */
enum { ENTER_TICK = 1, ENTER_WAS_OPEN = 2 };
int interrupt_enter(word vector);
/* The code to go on with has (open) the flag open. 1: a tick came meanwhile, handle it and ask again. */
int interrupt_leave(int open);
extern const u8 gate_type; /* 0x8e: the gate closes the processor's flag; 0x8f: it does not */

void wait_ticks(u32 n);    /* by reading a clock, whether or not it can interrupt */
void idle(void);           /* open, and wait for an interrupt */
struct pte_change {
    word *entry, value, linear;
};
void page_table_update(const struct pte_change *c, u32 n); /* and invalidate; n <= MAP_MAX */
void power_off(int failed) __attribute__((noreturn));

#endif
