/* Virtio console (VIRTIO 1.2, 5.3): one port, hvc0 under Linux. */
#ifndef DEV_VIRTIO_VIRTIO_CONSOLE_H
#define DEV_VIRTIO_VIRTIO_CONSOLE_H

#include "dev/pci.h"

/* Plug a console into a slot. cd is copied; *sink is filled in for the back end to push input into (under the device
 * lock). cols, rows: size of the terminal, 0: unknown. The bus owns the device. NULL: out of memory or slot taken. */
struct dev *virtio_console_new(const struct dev_env *env, struct pci_bus *bus, unsigned slot, const struct chardev *cd,
                               struct chardev_sink *sink, uint16_t cols, uint16_t rows);
/* The terminal changed its size: tells the driver. Device lock held. */
void virtio_console_resize(struct dev *d, uint16_t cols, uint16_t rows);

#endif
