/*
 * Keyboard controller. Bank 0 is port 0x60, bank 1 is port 0x64 (one port each).
 *
 * Without a keyboard (the default machine) the first port answers as an
 * unconnected one: transmissions time out at once, so that a driver gives up
 * without waiting. The A20 gate is a latch without effect: as on current
 * processors, addresses are never masked.
 */
#ifndef DEV_I8042_H
#define DEV_I8042_H

#include "ringer/dev.h"

struct i8042_config {
    struct irq_line irq_kbd, irq_aux; /* IRQ1, IRQ12 */
    bool keyboard;                    /* a PS/2 keyboard is connected (it answers commands; nobody types) */
    void (*reset)(void *ctx);         /* the output port's reset line was pulsed */
    void *ctx;
};
struct dev *i8042_new(const struct dev_env *env, const struct i8042_config *cfg);

#endif
