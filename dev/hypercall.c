/*
 * Hypercalls. Everything comes from the guest: a call is copied in, checked as a whole, done, and its answer copied out.
 *
 * Events: pending is set first, then the flag is read, then the line rises; the guest stores the flag, then reads pending. Whichever comes
 * second sees the other's store, so no event is lost, and an interrupt that was on its way while the guest closed the flag finds its bit in pending.
 */
#include "dev/hypercall.h"

#include <stdlib.h>

struct hypercall {
    struct dev dev;
    struct dev_env env;
    struct hypercall_config cfg;
    struct timer timer;
    uint64_t when, period;    /* of the timer, ns; period 0: one shot */
    uint64_t events_gpa;
    struct hc_events *events; /* in guest RAM; NULL: none */
    uint32_t status;          /* of the last call */
};

uint32_t hypercall_features(const struct hypercall_config *cfg)
{
    return HC_F_CONSOLE | HC_F_EVENTS | HC_F_HALT | HC_F_TIMER | HC_F_MMU | HC_F_POWEROFF | (cfg->flush ? HC_F_MMU_FLUSH : 0);
}

/* --- events ------------------------------------------------------------------ */

static void ring(struct hypercall *h)
{
    irq_set(&h->cfg.irq, false); /* the last edge may be as it was */
    irq_set(&h->cfg.irq, true);
}

static bool deliverable(const struct hypercall *h)
{
    return __atomic_load_n(&h->events->pending, __ATOMIC_SEQ_CST) && __atomic_load_n(&h->events->enabled, __ATOMIC_SEQ_CST);
}

static void events_written(struct hypercall *h)
{
    if (h->env.dma.dirty)
        h->env.dma.dirty(h->env.dma.ctx, h->events_gpa, sizeof(*h->events));
}

static void on_timer(void *ctx)
{
    struct hypercall *h = ctx;
    if (!h->events)
        return;
    if (h->period) {
        const uint64_t now = clock_now(h->env.clock);
        h->when += h->period;
        if (h->when <= now) /* late: periods nobody could have seen are left out */
            h->when = now + h->period - (now - h->when) % h->period;
        timer_arm(h->env.clock, &h->timer, h->when);
    }
    __atomic_fetch_add(&h->events->timer, 1, __ATOMIC_RELAXED);
    __atomic_fetch_or(&h->events->pending, HC_EV_TIMER, __ATOMIC_SEQ_CST);
    events_written(h);
    if (deliverable(h))
        ring(h);
}

static void forget_events(struct hypercall *h)
{
    timer_cancel(h->env.clock, &h->timer);
    irq_set(&h->cfg.irq, false);
    h->events = NULL;
}

static uint32_t call_events(struct hypercall *h, const struct hc_call *c)
{
    struct hc_events *e = NULL;
    if (c->arg[0]) {
        if (c->arg[0] % HC_EVENTS_ALIGN)
            return HC_EINVAL;
        e = h->env.dma.map(h->env.dma.ctx, c->arg[0], sizeof(*e), true);
        if (!e)
            return HC_EFAULT;
    }
    forget_events(h);
    h->events = e;
    h->events_gpa = c->arg[0];
    if (e) {
        *e = (struct hc_events){0};
        events_written(h);
    }
    return HC_OK;
}

static uint32_t call_timer(struct hypercall *h, const struct hc_call *c)
{
    if (!h->events)
        return HC_ENOTSUP;
    if (c->arg[0] != HC_TIMER_OFF && c->arg[1] && (c->arg[1] < HC_TIMER_MIN || c->arg[1] > INT64_MAX))
        return HC_EINVAL;
    timer_cancel(h->env.clock, &h->timer);
    if (c->arg[0] == HC_TIMER_OFF)
        return HC_OK;
    h->when = c->arg[0];
    h->period = c->arg[1];
    timer_arm(h->env.clock, &h->timer, h->when);
    return HC_OK;
}

/* The processor sleeps until its next interrupt, and an event in pending has to be one. */
static uint32_t call_halt(struct hypercall *h, bool *halt)
{
    if (!h->events)
        return HC_ENOTSUP;
    __atomic_store_n(&h->events->enabled, 1, __ATOMIC_SEQ_CST);
    events_written(h);
    if (deliverable(h))
        ring(h);
    else
        *halt = true;
    return HC_OK;
}

/* --- console, page tables --------------------------------------------------------- */

static uint32_t call_console(struct hypercall *h, struct hc_call *c)
{
    uint8_t buf[256];
    uint64_t done = 0, len = c->arg[1];
    if (len > HC_CONSOLE_MAX)
        return HC_EINVAL;
    if (len && !h->env.dma.map(h->env.dma.ctx, c->arg[0], len, false))
        return HC_EFAULT;
    while (done < len) {
        size_t n = len - done < sizeof(buf) ? (size_t)(len - done) : sizeof(buf), taken = n;
        if (h->env.dma.read(h->env.dma.ctx, c->arg[0] + done, buf, n) != 0)
            break;
        if (h->cfg.console.write)
            taken = h->cfg.console.write(h->cfg.console.ctx, buf, n);
        done += taken;
        if (taken < n) /* the host side is full: the guest calls again */
            break;
    }
    c->result = done;
    return HC_OK;
}

static uint32_t call_mmu(struct hypercall *h, struct hc_call *c)
{
    struct hc_mmu m[HC_MMU_MAX];
    uint64_t lin[HC_MMU_MAX];
    void *at[HC_MMU_MAX];
    unsigned nlin = 0;
    const uint64_t n = c->arg[1], size = c->arg[2];
    if (n > HC_MMU_MAX || (size != 4 && size != 8))
        return HC_EINVAL;
    if (n && h->env.dma.read(h->env.dma.ctx, c->arg[0], m, n * sizeof(m[0])) != 0)
        return HC_EFAULT;
    for (unsigned i = 0; i < n; i++) {
        if (m[i].entry % size || (size == 4 && m[i].value >> 32))
            return HC_EINVAL;
        at[i] = h->env.dma.map(h->env.dma.ctx, m[i].entry, size, true);
        if (!at[i])
            return HC_EFAULT;
        if (m[i].linear != HC_MMU_NO_ADDRESS)
            lin[nlin++] = m[i].linear;
    }
    for (unsigned i = 0; i < n; i++) { /* whole, as processors walk them meanwhile */
        if (size == 4)
            __atomic_store_n((uint32_t *)at[i], (uint32_t)m[i].value, __ATOMIC_RELEASE);
        else
            __atomic_store_n((uint64_t *)at[i], m[i].value, __ATOMIC_RELEASE);
        if (h->env.dma.dirty)
            h->env.dma.dirty(h->env.dma.ctx, m[i].entry, size);
    }
    if (nlin && h->cfg.flush)
        h->cfg.flush(h->cfg.ctx, lin, nlin);
    c->result = n;
    return HC_OK;
}

/* --- ports ------------------------------------------------------------------------- */

static uint32_t perform(struct hypercall *h, struct hc_call *c, bool *halt)
{
    c->result = 0;
    switch (c->nr) {
    case HC_CONSOLE_WRITE: return call_console(h, c);
    case HC_EVENTS: return call_events(h, c);
    case HC_DELIVER:
        if (!h->events)
            return HC_ENOTSUP;
        if (deliverable(h))
            ring(h);
        return HC_OK;
    case HC_HALT: return call_halt(h, halt);
    case HC_TIMER: return call_timer(h, c);
    case HC_TIME: c->result = clock_now(h->env.clock); return HC_OK;
    case HC_MMU_UPDATE: return call_mmu(h, c);
    case HC_POWEROFF: h->cfg.poweroff(h->cfg.ctx); return HC_OK;
    default: return HC_ENOSYS;
    }
}

static int hc_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct hypercall *h = (struct hypercall *)d;
    struct hc_call c;
    bool halt = false;
    if (off != 0 || size != 4)
        return DEV_UNMAPPED;
    if (val % 8)
        h->status = HC_EINVAL;
    else if (!h->env.dma.map(h->env.dma.ctx, val, sizeof(c), true) || h->env.dma.read(h->env.dma.ctx, val, &c, sizeof(c)) != 0)
        h->status = HC_EFAULT;
    else {
        c.status = h->status = perform(h, &c, &halt);
        h->env.dma.write(h->env.dma.ctx, val, &c, sizeof(c));
    }
    return halt ? DEV_HALT : DEV_OK;
}

static int hc_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct hypercall *h = (struct hypercall *)d;
    if (size != 4 || off % 4 || off >= HC_PORTS)
        return DEV_UNMAPPED;
    *val = off == 0 ? HC_MAGIC : off == 4 ? hypercall_features(&h->cfg) : h->status;
    return DEV_OK;
}

static void hc_reset(struct dev *d)
{
    struct hypercall *h = (struct hypercall *)d;
    forget_events(h);
    h->status = HC_OK;
}

static void hc_fini(struct dev *d)
{
    struct hypercall *h = (struct hypercall *)d;
    timer_cancel(h->env.clock, &h->timer);
    free(h);
}

static const struct dev_ops hc_ops = {.name = "hypercall", .reset = hc_reset, .read = hc_read, .write = hc_write, .fini = hc_fini};

struct dev *hypercall_new(const struct dev_env *env, const struct hypercall_config *cfg)
{
    struct hypercall *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->dev.ops = &hc_ops;
    h->env = *env;
    h->cfg = *cfg;
    timer_init(&h->timer, on_timer, h);
    return &h->dev;
}
