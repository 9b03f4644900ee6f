/* Virtio over PCI, modern interface only (VIRTIO 1.2, 4.1). */
#ifndef DEV_VIRTIO_VIRTIO_PCI_H
#define DEV_VIRTIO_VIRTIO_PCI_H

#include "dev/pci.h"
#include "dev/virtio/virtio.h"

/* BAR 0, 64-bit memory: one page per structure, then the MSI-X table and pending bits. */
#define VIRTIO_PCI_COMMON 0x0000
#define VIRTIO_PCI_ISR 0x1000
#define VIRTIO_PCI_DEVICE 0x2000
#define VIRTIO_PCI_NOTIFY 0x3000 /* 4 bytes per queue */
#define VIRTIO_PCI_MSIX 0x4000
#define VIRTIO_PCI_PBA 0x5000
#define VIRTIO_PCI_BAR_SIZE 0x8000

/* Plug v into a slot. v is initialised, allocated, and owned by the function from now on: also on failure (NULL: out of
 * memory, or the slot is taken) it is freed through its ops. */
struct dev *virtio_pci_new(const struct dev_env *env, struct pci_bus *bus, unsigned slot, struct virtio_dev *v);
/* The virtio device behind what virtio_pci_new returned. */
struct virtio_dev *virtio_pci_dev(struct dev *d);

#endif
