/*
 * Small single-purpose ISA devices. Each is one bank at offset 0 of its port unless said otherwise.
 */
#ifndef DEV_MISC_H
#define DEV_MISC_H

#include "ringer/dev.h"

/* Debug console, one port (0xe9): bytes written go to out, reads give 0xe9 so that a guest can tell it is there. */
struct dev *debugcon_new(struct chardev out);

/* Exit device of test guests, 4 ports (0xf4): a write of val ends the VM; status is (val << 1) | 1. */
int isa_debug_exit_status(uint32_t val);
struct dev *isa_debug_exit_new(void (*ended)(void *ctx, int status), void *ctx);

/* System control port A, one port (0x92): bit 0 rising resets, bit 1 is the A20 latch (without effect). */
struct dev *port92_new(void (*reset)(void *ctx), void *ctx);

/* Diagnostic port, one port (0x80): remembers what was written. Also the delay port of old drivers. */
struct dev *post_port_new(void);

/* QEMU's firmware-configuration device, as far as its signature: 2 ports (0x510), item 0 reads "QEMU". For test guests on a processor that
 * is QEMU's TCG, so that they know its known inexactness. */
struct dev *fw_signature_new(void);

/* Coprocessor error as a PC/AT reports it, one port (0xf0): ferr_assert latches FERR# and raises the line (IRQ 13), a write clears both. */
struct dev *ferr_new(struct irq_line irq);
void ferr_assert(struct dev *d);

/* Panic notification, one port (0x505). Reads give the supported events. */
#define PVPANIC_PANICKED 1u
#define PVPANIC_CRASH_LOADED 2u
struct dev *pvpanic_new(void (*event)(void *ctx, uint32_t bits), void *ctx);

#endif
