/* HPET; register names as in the specification. */
#include "dev/hpet.h"

#include <stdlib.h>
#include <string.h>

#define TICK_NS (HPET_PERIOD_FS / 1000000u)
#define MIN_NS 20000 /* closer periodic events coalesce */

#define CONF_ENABLE 1u
#define CONF_LEGACY 2u

#define T_LEVEL (1u << 1)
#define T_INT_ENB (1u << 2)
#define T_PERIODIC (1u << 3)
#define T_PER_CAP (1u << 4)
#define T_SIZE_CAP (1u << 5)
#define T_VAL_SET (1u << 6)
#define T_32MODE (1u << 8)
#define T_ROUTE(c) ((c) >> 9 & 31)
#define T_WRITABLE (T_LEVEL | T_INT_ENB | T_PERIODIC | T_VAL_SET | T_32MODE | 31u << 9)

struct tim {
    uint64_t cmp, period;
    uint32_t conf;
    uint8_t set_val; /* the last write of the low half went to the accumulator too */
    uint8_t high;    /* output is asserted */
    uint8_t passed;  /* cmp equals the counter and has been served */
    uint8_t pad;
};

/* Fixed-width: also the snapshot layout. */
struct state {
    uint64_t conf, isr;
    uint64_t counter; /* value at `since`, or while halted */
    uint64_t since;   /* virtual time in ticks */
    struct tim t[HPET_NTIMER];
    uint8_t in[2];
    uint8_t pad[6];
};

struct hpet {
    struct dev dev;
    struct clock *clock;
    struct hpet_wiring w;
    struct state s;
    struct hpet_arm {
        struct timer timer;
        struct hpet *h;
        unsigned i;
    } arm[HPET_NTIMER];
};

struct dev *hpet_dev(struct hpet *h)
{
    return &h->dev;
}

static uint64_t ticks(const struct hpet *h)
{
    return clock_now(h->clock) / TICK_NS;
}

static uint64_t counter(const struct hpet *h)
{
    return h->s.conf & CONF_ENABLE ? h->s.counter + ticks(h) - h->s.since : h->s.counter;
}

static void output(struct hpet *h, unsigned i, bool level)
{
    struct tim *t = &h->s.t[i];
    t->high = level;
    if ((h->s.conf & CONF_LEGACY) && i < 2) {
        irq_set(i ? &h->w.irq8 : &h->w.irq0, level);
    } else if (h->w.route_cap >> T_ROUTE(t->conf) & 1) {
        struct irq_line l = h->w.gsi;
        l.pin = T_ROUTE(t->conf);
        irq_set(&l, level);
    }
}

static uint64_t width(const struct tim *t)
{
    return t->conf & T_32MODE ? UINT32_MAX : UINT64_MAX;
}

static void schedule(struct hpet *h, unsigned i)
{
    struct tim *t = &h->s.t[i];
    timer_cancel(h->clock, &h->arm[i].timer);
    if (!(h->s.conf & CONF_ENABLE))
        return;
    uint64_t now = clock_now(h->clock), tick = now / TICK_NS;
    uint64_t left = (t->cmp - counter(h)) & width(t);
    if (left == 0 && t->passed) {
        if (width(t) == UINT64_MAX)
            return;
        left = 1ull << 32; /* matches again when the 32-bit view has wrapped */
    }
    if (left > UINT64_MAX / TICK_NS - tick)
        return; /* beyond the end of time */
    uint64_t when = (tick + left) * TICK_NS;
    if ((t->conf & T_PERIODIC) && when < now + MIN_NS)
        when = now + MIN_NS;
    timer_arm(h->clock, &h->arm[i].timer, when);
}

static void event(void *ctx)
{
    struct hpet_arm *a = ctx;
    struct hpet *h = a->h;
    struct tim *t = &h->s.t[a->i];
    uint64_t now = counter(h), w = width(t);
    if ((t->conf & T_PERIODIC) && t->period) {
        /* The comparator moves past the counter; periods the host was too late for coalesce. */
        uint64_t late = (now - t->cmp) & w;
        t->cmp = (t->cmp + (late / t->period + 1) * t->period) & w;
        t->passed = 0;
    } else {
        t->passed = ((t->cmp - now) & w) == 0;
    }
    if (t->conf & T_LEVEL)
        h->s.isr |= 1u << a->i;
    if (t->conf & T_INT_ENB) {
        if (!(t->conf & T_LEVEL) && t->high)
            output(h, a->i, false);
        output(h, a->i, true);
    }
    schedule(h, a->i);
}

/* --- inputs from the devices replaced ---------------------------------------- */

static void input(void *ctx, unsigned pin, bool level)
{
    struct hpet *h = ctx;
    h->s.in[pin & 1] = level;
    if (!(h->s.conf & CONF_LEGACY))
        irq_set(pin & 1 ? &h->w.irq8 : &h->w.irq0, level);
}

struct irq_line hpet_input(struct hpet *h, unsigned i)
{
    return (struct irq_line){input, h, i & 1};
}

/* --- registers ------------------------------------------------------------------ */

static void write_conf(struct hpet *h, uint64_t v)
{
    uint64_t old = h->s.conf;
    v &= CONF_ENABLE | CONF_LEGACY;
    if ((old ^ v) & CONF_ENABLE) {
        h->s.counter = counter(h);
        h->s.since = ticks(h);
    }
    if ((old ^ v) & CONF_LEGACY) {
        for (unsigned i = 0; i < HPET_NTIMER; i++)
            if (h->s.t[i].high)
                output(h, i, false);
        h->s.conf = v;
        irq_set(&h->w.irq0, !(v & CONF_LEGACY) && h->s.in[0]);
        irq_set(&h->w.irq8, !(v & CONF_LEGACY) && h->s.in[1]);
        for (unsigned i = 0; i < HPET_NTIMER; i++)
            if ((h->s.isr >> i & 1) && (h->s.t[i].conf & T_INT_ENB))
                output(h, i, true);
    }
    h->s.conf = v;
    for (unsigned i = 0; i < HPET_NTIMER; i++)
        schedule(h, i);
}

static void write_timer_conf(struct hpet *h, unsigned i, uint32_t v)
{
    struct tim *t = &h->s.t[i];
    v &= T_WRITABLE;
    if (!(h->w.route_cap >> T_ROUTE(v) & 1)) /* a route that is not there reads back as the old one */
        v = (v & ~(31u << 9)) | (t->conf & 31u << 9);
    if (t->high)
        output(h, i, false);
    t->conf = v | T_PER_CAP | T_SIZE_CAP;
    if (v & T_32MODE) {
        t->cmp = (uint32_t)t->cmp;
        t->period = (uint32_t)t->period;
    }
    if (!(v & T_LEVEL))
        h->s.isr &= ~(1ull << i);
    if ((h->s.isr >> i & 1) && (v & T_INT_ENB))
        output(h, i, true);
    schedule(h, i);
}

static void put(uint64_t *r, uint64_t v, uint64_t mask)
{
    *r = (*r & ~mask) | (v & mask);
}

static void write_cmp(struct hpet *h, unsigned i, uint64_t v, uint64_t mask)
{
    struct tim *t = &h->s.t[i];
    if (t->conf & T_PERIODIC) {
        if (mask & 1)
            t->set_val = !!(t->conf & T_VAL_SET);
        put(&t->period, v, mask);
        t->period &= width(t);
    }
    if (!(t->conf & T_PERIODIC) || t->set_val)
        put(&t->cmp, v, mask);
    t->cmp &= width(t);
    t->conf &= ~T_VAL_SET;
    t->passed = 0;
    schedule(h, i);
}

static uint64_t reg_read(struct hpet *h, uint64_t reg)
{
    if (reg >= 0x100) {
        unsigned i = (unsigned)((reg - 0x100) / 0x20);
        if (i >= HPET_NTIMER)
            return 0;
        switch (reg & 0x18) {
        case 0x00: return h->s.t[i].conf | (uint64_t)h->w.route_cap << 32;
        case 0x08: return h->s.t[i].cmp;
        default: return 0;
        }
    }
    switch (reg) {
    case 0x00: return 0x8086a001u | (HPET_NTIMER - 1) << 8 | (uint64_t)HPET_PERIOD_FS << 32;
    case 0x10: return h->s.conf;
    case 0x20: return h->s.isr;
    case 0xf0: return counter(h);
    default: return 0;
    }
}

static int mmio_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct hpet *h = (struct hpet *)d;
    if (off >= HPET_SIZE)
        return DEV_UNMAPPED;
    uint64_t v = reg_read(h, off & ~7ull) >> 8 * (off & 7);
    *val = size >= 8 ? v : v & ((1ull << 8 * size) - 1);
    return DEV_OK;
}

static int mmio_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct hpet *h = (struct hpet *)d;
    if (off >= HPET_SIZE)
        return DEV_UNMAPPED;
    if (size < 4 || (off & (size - 1)))
        return DEV_OK; /* registers are written in halves or whole */
    uint64_t reg = off & ~7ull, mask = size == 8 ? UINT64_MAX : UINT32_MAX;
    if (off & 4) {
        mask <<= 32;
        val <<= 32;
    }
    if (reg >= 0x100) {
        unsigned i = (unsigned)((reg - 0x100) / 0x20);
        if (i >= HPET_NTIMER)
            return DEV_OK;
        if ((reg & 0x18) == 0x00 && (mask & 1))
            write_timer_conf(h, i, (uint32_t)val);
        else if ((reg & 0x18) == 0x08)
            write_cmp(h, i, val, mask);
        return DEV_OK;
    }
    switch (reg) {
    case 0x10:
        if (mask & 1)
            write_conf(h, val);
        break;
    case 0x20:
        for (unsigned i = 0; i < HPET_NTIMER; i++)
            if ((mask & val & h->s.isr) >> i & 1) {
                h->s.isr &= ~(1ull << i);
                output(h, i, false);
            }
        break;
    case 0xf0: {
        uint64_t c = counter(h);
        put(&c, val, mask);
        h->s.counter = c;
        h->s.since = ticks(h);
        for (unsigned i = 0; i < HPET_NTIMER; i++) {
            h->s.t[i].passed = 0;
            schedule(h, i);
        }
        break;
    }
    }
    return DEV_OK;
}

static void reset(struct dev *d)
{
    struct hpet *h = (struct hpet *)d;
    uint8_t in[2] = {h->s.in[0], h->s.in[1]};
    for (unsigned i = 0; i < HPET_NTIMER; i++) {
        timer_cancel(h->clock, &h->arm[i].timer);
        if (h->s.t[i].high)
            output(h, i, false);
    }
    h->s = (struct state){.in = {in[0], in[1]}};
    for (unsigned i = 0; i < HPET_NTIMER; i++) {
        uint32_t route = h->w.route_cap ? (uint32_t)__builtin_ctz(h->w.route_cap) : 0;
        h->s.t[i] = (struct tim){.cmp = UINT64_MAX, .conf = T_PER_CAP | T_SIZE_CAP | route << 9};
    }
}

static size_t save(struct dev *d, void *buf, size_t cap)
{
    struct hpet *h = (struct hpet *)d;
    struct state s = h->s;
    s.counter = counter(h); /* `since` has no meaning elsewhere */
    if (cap)
        memcpy(buf, &s, cap < sizeof(s) ? cap : sizeof(s));
    return sizeof(s);
}

static int load(struct dev *d, const void *buf, size_t len)
{
    struct hpet *h = (struct hpet *)d;
    if (len != sizeof(h->s))
        return -1;
    memcpy(&h->s, buf, len);
    h->s.conf &= CONF_ENABLE | CONF_LEGACY;
    h->s.isr &= (1u << HPET_NTIMER) - 1;
    h->s.since = ticks(h);
    for (unsigned i = 0; i < HPET_NTIMER; i++) {
        h->s.t[i].conf = (h->s.t[i].conf & T_WRITABLE) | T_PER_CAP | T_SIZE_CAP;
        schedule(h, i);
    }
    return 0;
}

static void fini(struct dev *d)
{
    struct hpet *h = (struct hpet *)d;
    for (unsigned i = 0; i < HPET_NTIMER; i++)
        timer_cancel(h->clock, &h->arm[i].timer);
    free(h);
}

static const struct dev_ops hpet_ops = {
    .name = "hpet",
    .reset = reset,
    .read = mmio_read,
    .write = mmio_write,
    .save = save,
    .load = load,
    .fini = fini,
};

struct hpet *hpet_new(struct clock *clock, const struct hpet_wiring *w)
{
    struct hpet *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->dev.ops = &hpet_ops;
    h->clock = clock;
    h->w = *w;
    for (unsigned i = 0; i < HPET_NTIMER; i++) {
        h->arm[i].h = h;
        h->arm[i].i = i;
        timer_init(&h->arm[i].timer, event, &h->arm[i]);
    }
    reset(&h->dev);
    return h;
}
