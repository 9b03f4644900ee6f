/*
 * 8254 programmable interval timer and system control port B (0x61): channel 0
 * interrupts, channel 2 drives the speaker gate. Runs under the VM's device lock.
 *
 * Nothing ticks: counters and outputs are functions of the virtual time, and one
 * timer waits for channel 0's next edge. Edges the host is too late for coalesce.
 */
#ifndef DEV_PIT_H
#define DEV_PIT_H

#include "ringer/dev.h"

struct pit;

enum {
    PIT_BANK_REGS,  /* 4 bytes, ports 0x40-0x43 */
    PIT_BANK_PORTB, /* 1 byte, port 0x61 */
};

/* out0: OUT of channel 0 (IRQ 0). */
struct pit *pit_new(struct clock *clock, struct irq_line out0);
struct dev *pit_dev(struct pit *p);
/* Speaker state, for tests and curious boards: OUT of channel 2 and the data gate of port B. */
bool pit_out(struct pit *p, unsigned channel);

#endif
