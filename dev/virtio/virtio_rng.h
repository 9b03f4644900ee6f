/* Virtio entropy device (VIRTIO 1.2, 5.4). */
#ifndef DEV_VIRTIO_VIRTIO_RNG_H
#define DEV_VIRTIO_VIRTIO_RNG_H

#include "dev/pci.h"

/* Where entropy comes from: fill n bytes, return 0 or an error. Called under the device lock, at most 4 KiB at a time.
 */
struct entropy {
    void *ctx;
    int (*fill)(void *ctx, void *buf, size_t n);
};

/* Plug an entropy device into a slot; src is copied. The bus owns it. NULL: out of memory or slot taken. */
struct dev *virtio_rng_new(const struct dev_env *env, struct pci_bus *bus, unsigned slot, const struct entropy *src);

#endif
