/*
 * Virtio block device (VIRTIO 1.2, 5.2): one queue; read, write, flush, discard, write zeroes, get id.
 */
#ifndef DEV_VIRTIO_VIRTIO_BLK_H
#define DEV_VIRTIO_VIRTIO_BLK_H

#include "dev/pci.h"

/* Plug a disk into a slot. bd is copied; what it stands for stays the caller's and outlives the device. serial: a
 * string, of which 20 bytes count; NULL: none. The bus owns the device. NULL: out of memory or slot taken.
 *
 * Requests run on the thread behind env->defer, one at a time and in ring order, without the device lock; with defer
 * NULL they run in the doorbell, and lock and unlock are not used. A reset waits for the piece of I/O in progress (at
 * most 1 MiB). Before the bus is freed no deferred call may be pending or running: stop that thread first. */
struct dev *virtio_blk_new(const struct dev_env *env, struct pci_bus *bus, unsigned slot, const struct blockdev *bd,
                           const char *serial);

#endif
