/*
 * HPET (IA-PC HPET specification 1.0a): a 64-bit 100 MHz counter and three
 * periodic-capable timers, legacy replacement, no FSB delivery. Runs under the
 * VM's device lock.
 *
 * The 8254 and the RTC are wired through it: their lines reach IRQ 0 and IRQ 8
 * unless legacy replacement takes those over.
 */
#ifndef DEV_HPET_H
#define DEV_HPET_H

#include "ringer/dev.h"

#define HPET_DEFAULT_PAGE 0xfed00000ull
#define HPET_SIZE 1024
#define HPET_PERIOD_FS 10000000u
#define HPET_NTIMER 3

struct hpet;

struct hpet_wiring {
    struct irq_line irq0, irq8;
    struct irq_line gsi; /* pin is replaced by the I/O APIC pin a timer is routed to */
    uint32_t route_cap;  /* I/O APIC pins the timers may use */
};

/* Bank 0 is the register block. */
struct hpet *hpet_new(struct clock *clock, const struct hpet_wiring *w);
struct dev *hpet_dev(struct hpet *h);
/* Inputs: 0 from OUT of the 8254's channel 0, 1 from the RTC. */
struct irq_line hpet_input(struct hpet *h, unsigned i);

#endif
