/* 16550A serial port (National Semiconductor PC16550D). One bank of 8 ports. */
#ifndef DEV_SERIAL_H
#define DEV_SERIAL_H

#include "ringer/dev.h"

struct dev *serial_new(const struct dev_env *env, struct irq_line irq, struct chardev out);
struct chardev_sink serial_sink(struct dev *d);

#endif
