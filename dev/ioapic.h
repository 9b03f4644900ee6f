/*
 * I/O APIC: an 82093AA with 24 pins and the EOI register of version 0x20.
 * Runs under the VM's device lock throughout.
 *
 * Lines carry assertion, not voltage: a device that asks is `true` whatever the
 * wire's polarity, so the polarity bit of a redirection entry is kept for the
 * guest and changes nothing.
 */
#ifndef DEV_IOAPIC_H
#define DEV_IOAPIC_H

#include "dev/lapic.h"
#include "ringer/dev.h"

#define IOAPIC_PINS 24
#define IOAPIC_DEFAULT_PAGE 0xfec00000ull

struct ioapic;

/* send: put a message on the APIC bus; returns whether some local APIC accepted it. */
struct ioapic *ioapic_new(uint8_t id, bool (*send)(void *ctx, const struct lapic_msg *m), void *ctx);
/* Bank 0 is the register page: select 0x00, window 0x10, EOI 0x40. */
struct dev *ioapic_dev(struct ioapic *io);
void ioapic_set(struct ioapic *io, unsigned pin, bool level);
struct irq_line ioapic_line(struct ioapic *io, unsigned pin);
/* EOI message from a local APIC. */
void ioapic_eoi(struct ioapic *io, uint8_t vector);

#endif
