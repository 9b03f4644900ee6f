/*
 * Doorbells: a guest's notification of a virtio queue signals an event that the
 * event loop waits for, instead of stopping the vCPU, where the engine can do that
 * (engine_ops.doorbell). Where it cannot, nothing is lost: the write goes the usual way.
 */
#ifndef BOARD_DOORBELL_H
#define BOARD_DOORBELL_H

#include "dev/pci.h"
#include "ringer/vm.h"

struct doorbells;

/* loop: whose thread has not started yet. NULL when the engine has none, or out of memory. */
struct doorbells *doorbells_new(struct vm *vm, struct host_loop *loop);
/* A virtio function, before the loop's thread starts. counters as of its range: [1] counts what rang. */
void doorbells_add(struct doorbells *d, struct dev *fn, uint64_t *counters);
/* Where the functions' BARs are now. Under the device lock. */
void doorbells_move(struct doorbells *d, const struct pci_range *r, unsigned n);
/* After the loop's thread has ended, before the functions are freed. */
void doorbells_free(struct doorbells *d);

#endif
