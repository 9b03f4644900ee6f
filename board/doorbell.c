/* Doorbells of virtio queues. */
#include "board/doorbell.h"

#include <stdlib.h>

#include "dev/virtio/virtio_pci.h"

#define MAX_BELLS 128

struct bell {
    struct doorbells *d;
    struct dev *fn;
    uint64_t *counters;
    unsigned queue;
    int fd;
    uint64_t gpa; /* 0: not hung */
};

struct doorbells {
    struct vm *vm;
    struct host_loop *loop;
    unsigned n;
    struct bell bell[MAX_BELLS];
};

static bool on_ring(void *ctx)
{
    struct bell *b = ctx;
    struct vm *vm = b->d->vm;
    uint64_t times = host_signal_take(b->fd);
    if (!times)
        return true;
    if (b->counters)
        __atomic_fetch_add(&b->counters[1], times, __ATOMIC_RELAXED);
    host_lock(vm->device_lock);
    virtio_kick(virtio_pci_dev(b->fn), b->queue);
    host_unlock(vm->device_lock);
    return true;
}

struct doorbells *doorbells_new(struct vm *vm, struct host_loop *loop)
{
    struct doorbells *d = vm->engine->doorbell && loop ? calloc(1, sizeof(*d)) : NULL;
    if (d) {
        d->vm = vm;
        d->loop = loop;
    }
    return d;
}

void doorbells_add(struct doorbells *d, struct dev *fn, uint64_t *counters)
{
    for (unsigned q = 0; d && q < virtio_pci_dev(fn)->nvq && d->n < MAX_BELLS; q++) {
        struct bell *b = &d->bell[d->n];
        *b = (struct bell){.d = d, .fn = fn, .counters = counters, .queue = q, .fd = host_signal_new()};
        if (b->fd < 0)
            return;
        if (host_loop_add_fd(d->loop, b->fd, on_ring, b) != 0) {
            host_signal_free(b->fd);
            return;
        }
        d->n++;
    }
}

static uint64_t address(const struct bell *b, const struct pci_range *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (r[i].dev == b->fn && r[i].bank == 0 && !r[i].io)
            return r[i].start + VIRTIO_PCI_NOTIFY + 4 * b->queue;
    return 0;
}

void doorbells_move(struct doorbells *d, const struct pci_range *r, unsigned n)
{
    /* All down first: one function may take another's place. */
    for (unsigned i = 0; d && i < d->n; i++) {
        struct bell *b = &d->bell[i];
        if (b->gpa && b->gpa != address(b, r, n)) {
            d->vm->engine->doorbell(d->vm, b->gpa, b->fd, false);
            b->gpa = 0;
        }
    }
    for (unsigned i = 0; d && i < d->n; i++) {
        struct bell *b = &d->bell[i];
        uint64_t at = address(b, r, n);
        if (at && !b->gpa && d->vm->engine->doorbell(d->vm, at, b->fd, true) == 0)
            b->gpa = at;
    }
}

void doorbells_free(struct doorbells *d)
{
    if (!d)
        return;
    doorbells_move(d, NULL, 0);
    for (unsigned i = 0; i < d->n; i++) {
        host_loop_del_fd(d->loop, d->bell[i].fd);
        host_signal_free(d->bell[i].fd);
    }
    free(d);
}
