/*
 * The hypercall device: include/ringer/hypercall.h's ports, as any other device's. It sees guest memory, a clock, a line and a console, and
 * no processor: what concerns one is asked for by DEV_HALT (dev.h) and by flush.
 */
#ifndef DEV_HYPERCALL_H
#define DEV_HYPERCALL_H

#include "ringer/dev.h"
#include "ringer/hypercall.h"

struct hypercall_config {
    struct chardev console; /* write == NULL: output is taken and vanishes */
    struct irq_line irq;    /* of events; an edge for each, as ISA devices do */
    /* The translations of n linear addresses are invalid on every processor when this returns. NULL: no HC_F_MMU_FLUSH. */
    void (*flush)(void *ctx, const uint64_t *lin, unsigned n);
    void (*poweroff)(void *ctx);
    void *ctx;
};

/* One bank of HC_PORTS ports at HC_PORT. cfg is copied. NULL when out of memory. */
struct dev *hypercall_new(const struct dev_env *env, const struct hypercall_config *cfg);
uint32_t hypercall_features(const struct hypercall_config *cfg);

#endif
