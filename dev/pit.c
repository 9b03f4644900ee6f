/* 8254 (Intel datasheet 231164) and port B. */
#include "dev/pit.h"

#include <stdlib.h>
#include <string.h>

/* The input clock is 14.31818 MHz / 12 = 105/88 MHz, so ticks = ns * 21 / 17600. */
#define TICK_NUM 21u
#define TICK_DEN 17600u
#define MIN_NS 20000 /* closer edges of channel 0 coalesce */

static int64_t ticks_of(uint64_t ns)
{
    return (int64_t)(ns / TICK_DEN * TICK_NUM + ns % TICK_DEN * TICK_NUM / TICK_DEN);
}
static uint64_t ns_of(int64_t t)
{
    uint64_t u = (uint64_t)t;
    return u / TICK_NUM * TICK_DEN + (u % TICK_NUM * TICK_DEN + TICK_NUM - 1) / TICK_NUM;
}

/* One counter; fixed-width, also the snapshot layout. Elapsed clocks of the current count: now - base while it counts,
 * else hold. -1 means written, to be loaded by the next clock. */
struct chan {
    int64_t base, hold;
    uint32_t n;    /* initial count in force, 1-65536 */
    uint32_t next; /* written count that takes force later (modes 2, 3: end of period; 1, 5: trigger), 0 none */
    uint16_t latch;
    uint8_t mode, bcd, rw;
    uint8_t loaded; /* a count was written since the control word */
    uint8_t counting;
    uint8_t gate;
    uint8_t latched; /* bytes of latch still to be read */
    uint8_t status, status_latched;
    uint8_t read_hi, write_hi, write_lo;
    uint8_t pad[2];
};

struct pit {
    struct dev dev;
    struct clock *clock;
    struct irq_line out0;
    struct chan c[3];
    uint8_t portb; /* writable bits 3:0 */
    bool line;
    struct timer timer;
};

struct dev *pit_dev(struct pit *p)
{
    return &p->dev;
}

static uint32_t modulus(const struct chan *c)
{
    return c->bcd ? 10000 : 65536;
}
/* A count of 1 is illegal in modes 2 and 3. */
static int64_t cycle(const struct chan *c)
{
    return c->n < 2 ? 2 : c->n;
}

static int64_t elapsed(const struct chan *c, int64_t now)
{
    return c->counting ? now - c->base : c->hold;
}

/* Put a count written in modes 2 and 3 in force when the period it was written in has ended. */
static void sync(struct chan *c, int64_t now)
{
    if (!c->next || !c->counting || (c->mode != 2 && c->mode != 3))
        return;
    if (now < c->hold) /* while a count is pending, hold keeps the moment it takes force */
        return;
    c->base = c->hold;
    c->n = c->next;
    c->next = 0;
}

static bool out(const struct chan *c, int64_t now)
{
    int64_t e = elapsed(c, now);
    if (!c->loaded)
        return c->mode != 0;
    switch (c->mode) {
    case 0: return e >= c->n;
    case 1: return !c->counting || e < 0 || e >= c->n;
    case 2: return !c->gate || e < 0 || e % cycle(c) != cycle(c) - 1;
    case 3: return !c->gate || e < 0 || e % cycle(c) < (cycle(c) + 1) / 2;
    case 4: return e != c->n;
    default: return !c->counting || e != c->n;
    }
}

static uint16_t count(const struct chan *c, int64_t now)
{
    int64_t e = elapsed(c, now), v;
    if (e < 0)
        e = 0;
    switch (c->mode) {
    case 2: v = cycle(c) - e % cycle(c); break;
    case 3: {
        /* Down by two, once per half; odd counts start one lower and their high half is one longer. */
        int64_t n = cycle(c), hi = (n + 1) / 2, x = e % n;
        v = (n & ~1ll) - 2 * (x < hi ? x : x - hi);
        break;
    }
    default: v = (int64_t)c->n - e % modulus(c); break;
    }
    uint32_t m = modulus(c), u = (uint32_t)((v % (int64_t)m + m) % m);
    if (c->bcd)
        u = u / 1000 << 12 | u / 100 % 10 << 8 | u / 10 % 10 << 4 | u % 10;
    return (uint16_t)u;
}

bool pit_out(struct pit *p, unsigned channel)
{
    int64_t now = ticks_of(clock_now(p->clock));
    struct chan *c = &p->c[channel % 3];
    sync(c, now);
    return out(c, now);
}

/* --- channel 0's interrupt ------------------------------------------------------ */

/* Clock of the next edge of OUT after now, or -1. Low pulses of one clock (modes 2, 4) count as their rising end. */
static int64_t next_edge(const struct chan *c, int64_t now)
{
    if (!c->loaded || !c->counting)
        return -1;
    int64_t e = now - c->base, n = cycle(c);
    switch (c->mode) {
    case 0: return e < c->n ? c->base + c->n : -1;
    case 2: return c->base + (e < 0 ? n : (e / n + 1) * n);
    case 3: {
        int64_t start = e < 0 ? 0 : e / n * n, hi = start + (n + 1) / 2;
        return c->base + (e < hi ? hi : start + n);
    }
    case 4: return e <= c->n ? c->base + c->n + 1 : -1;
    default: return -1; /* 1, 5: channel 0 has no gate to trigger it */
    }
}

static void schedule(struct pit *p)
{
    uint64_t now = clock_now(p->clock);
    int64_t t = ticks_of(now);
    struct chan *c = &p->c[0];
    sync(c, t);
    int64_t edge = next_edge(c, t);
    if (edge < 0) {
        timer_cancel(p->clock, &p->timer);
        return;
    }
    uint64_t when = ns_of(edge);
    if (when < now + MIN_NS && (c->mode == 2 || c->mode == 3)) {
        /* The first edge that is not too close, in the same phase. */
        int64_t step = c->mode == 2 ? cycle(c) : (cycle(c) + 1) / 2;
        int64_t min = ticks_of(now + MIN_NS);
        edge += (min - edge + step - 1) / step * step;
        when = ns_of(edge);
    }
    timer_arm(p->clock, &p->timer, when);
}

static void drive(struct pit *p, bool level)
{
    p->line = level;
    irq_set(&p->out0, level);
}

static void fire(void *ctx)
{
    struct pit *p = ctx;
    struct chan *c = &p->c[0];
    int64_t now = ticks_of(clock_now(p->clock));
    sync(c, now);
    bool level = out(c, now);
    /* An edge has passed since the line was driven last; if the level is the same, so has the opposite one. */
    if (c->mode == 2 || c->mode == 4 || (c->mode == 3 && level)) {
        drive(p, false);
        level = true;
    }
    drive(p, level);
    schedule(p);
}

/* Channel 0 was written: bring line and timer up to date. */
static void changed(struct pit *p, unsigned ch)
{
    if (ch)
        return;
    bool level = out(&p->c[0], ticks_of(clock_now(p->clock)));
    if (level != p->line)
        drive(p, level);
    schedule(p);
}

/* --- programming ----------------------------------------------------------------- */

static void start(struct chan *c, int64_t now, uint32_t n)
{
    c->n = n;
    c->next = 0;
    c->hold = 0;
    c->base = now + 1; /* loaded by the next clock */
    c->counting = 1;
}

static void write_count(struct chan *c, int64_t now, uint16_t raw)
{
    uint32_t n = raw;
    if (c->bcd)
        n = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u + (raw >> 4 & 15) * 10u + (raw & 15);
    if (!n || n > modulus(c))
        n = modulus(c);
    bool first = !c->loaded;
    c->loaded = 1;
    switch (c->mode) {
    case 0:
    case 4:
        start(c, now, n);
        if (!c->gate)
            c->counting = 0;
        break;
    case 1:
    case 5: /* waits for the trigger; a count in progress goes on */
        if (first)
            c->n = n;
        c->next = n;
        break;
    default:
        if (first || !c->gate || !c->counting) {
            start(c, now, n);
            if (!c->gate)
                c->counting = 0;
        } else {
            int64_t e = now - c->base, len = cycle(c);
            /* Written again before it took force: the moment stays, the value changes. */
            if (!c->next) {
                int64_t begin = e < 0 ? 0 : e / len * len, half = (len + 1) / 2;
                c->hold = c->base + (c->mode == 3 && e - begin < half ? begin + half : begin + len);
            }
            c->next = n;
        }
        break;
    }
}

static void write_byte(struct pit *p, unsigned ch, uint8_t v)
{
    struct chan *c = &p->c[ch];
    int64_t now = ticks_of(clock_now(p->clock));
    sync(c, now);
    switch (c->rw) {
    case 1: write_count(c, now, v); break;
    case 2: write_count(c, now, (uint16_t)(v << 8)); break;
    default:
        if (!c->write_hi) {
            c->write_lo = v;
            c->write_hi = 1;
            if (c->mode == 0) { /* the first byte stops the counter, OUT goes low */
                c->loaded = 0;
                c->counting = 0;
                c->hold = 0;
            }
        } else {
            c->write_hi = 0;
            write_count(c, now, (uint16_t)(v << 8 | c->write_lo));
        }
    }
    changed(p, ch);
}

static void latch_count(struct chan *c, int64_t now)
{
    if (c->latched)
        return; /* the first latch holds until read */
    c->latch = count(c, now);
    c->latched = c->rw == 3 ? 2 : 1;
}

static void latch_status(struct chan *c, int64_t now)
{
    if (c->status_latched)
        return;
    bool null = !c->loaded || c->next || (c->counting && now < c->base);
    c->status = (uint8_t)(out(c, now) << 7 | null << 6 | c->rw << 4 | c->mode << 1 | c->bcd);
    c->status_latched = 1;
}

static void control(struct pit *p, uint8_t v)
{
    int64_t now = ticks_of(clock_now(p->clock));
    if (v >> 6 == 3) { /* read-back */
        for (unsigned i = 0; i < 3; i++) {
            if (!(v >> (i + 1) & 1))
                continue;
            sync(&p->c[i], now);
            if (!(v & 0x20))
                latch_count(&p->c[i], now);
            if (!(v & 0x10))
                latch_status(&p->c[i], now);
        }
        return;
    }
    struct chan *c = &p->c[v >> 6];
    sync(c, now);
    if (!(v >> 4 & 3)) {
        latch_count(c, now);
        return;
    }
    c->rw = v >> 4 & 3;
    c->mode = v >> 1 & 7;
    if (c->mode > 5)
        c->mode -= 4; /* 6 and 7 are 2 and 3 */
    c->bcd = v & 1;
    c->hold = 0;
    c->loaded = c->counting = 0;
    c->next = 0;
    c->latched = c->status_latched = c->read_hi = c->write_hi = 0;
    changed(p, v >> 6);
}

static uint8_t read_byte(struct pit *p, unsigned ch)
{
    struct chan *c = &p->c[ch];
    int64_t now = ticks_of(clock_now(p->clock));
    sync(c, now);
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    uint16_t v = c->latched ? c->latch : count(c, now);
    bool hi = c->rw == 2 || (c->rw == 3 && c->read_hi);
    if (c->rw == 3)
        c->read_hi ^= 1;
    if (c->latched)
        c->latched--;
    return (uint8_t)(hi ? v >> 8 : v);
}

static void set_gate(struct chan *c, int64_t now, bool g)
{
    if (c->gate == g)
        return;
    sync(c, now);
    c->gate = g;
    if (!c->loaded)
        return;
    switch (c->mode) {
    case 0:
    case 4:
        if (g) {
            c->base = now - c->hold;
        } else {
            int64_t e = now - c->base;
            c->hold = e < 0 ? 0 : e;
        }
        c->counting = g;
        break;
    case 1:
    case 5:
        if (g)
            start(c, now, c->next ? c->next : c->n);
        break;
    default:
        if (g) {
            start(c, now, c->next ? c->next : c->n);
        } else {
            c->hold = now < c->base ? 0 : now - c->base; /* the count stands */
            c->counting = 0;
        }
    }
}

static uint8_t read8(struct pit *p, uint32_t bank, unsigned port)
{
    if (bank == PIT_BANK_PORTB) {
        uint64_t now = clock_now(p->clock);
        /* Bit 4 toggles with every DRAM refresh, 15.085 us apart. */
        return (uint8_t)(p->portb | (now / 15085 & 1) << 4 | pit_out(p, 2) << 5);
    }
    return port < 3 ? read_byte(p, port) : 0xff; /* the control word is not readable */
}

static void write8(struct pit *p, uint32_t bank, unsigned port, uint8_t v)
{
    if (bank == PIT_BANK_PORTB) {
        p->portb = v & 15;
        set_gate(&p->c[2], ticks_of(clock_now(p->clock)), v & 1);
    } else if (port < 3) {
        write_byte(p, port, v);
    } else {
        control(p, v);
    }
}

/* Byte ports; wider accesses go to consecutive ones. */
static int pit_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    unsigned n = bank == PIT_BANK_PORTB ? 1 : 4;
    *val = 0;
    for (unsigned i = 0; i < size; i++)
        *val |= (off + i < n ? (uint64_t)read8((struct pit *)d, bank, (unsigned)off + i) : 0xff) << 8 * i;
    return off < n ? DEV_OK : DEV_UNMAPPED;
}

static int pit_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    unsigned n = bank == PIT_BANK_PORTB ? 1 : 4;
    for (unsigned i = 0; i < size && off + i < n; i++)
        write8((struct pit *)d, bank, (unsigned)off + i, (uint8_t)(val >> 8 * i));
    return off < n ? DEV_OK : DEV_UNMAPPED;
}

static void reset(struct dev *d)
{
    struct pit *p = (struct pit *)d;
    timer_cancel(p->clock, &p->timer);
    for (unsigned i = 0; i < 3; i++)
        p->c[i] = (struct chan){.rw = 3, .n = 65536, .gate = i != 2};
    p->portb = 0;
    drive(p, false);
}

#define FAR (1ll << 58) /* more clocks than 64-bit virtual time has */

struct saved {
    struct chan c[3];
    int64_t now;
    uint8_t portb, line, pad[6];
};

static size_t save(struct dev *d, void *buf, size_t cap)
{
    struct pit *p = (struct pit *)d;
    struct saved s = {.now = ticks_of(clock_now(p->clock)), .portb = p->portb, .line = p->line};
    memcpy(s.c, p->c, sizeof(s.c));
    if (cap)
        memcpy(buf, &s, cap < sizeof(s) ? cap : sizeof(s));
    return sizeof(s);
}

static int load(struct dev *d, const void *buf, size_t len)
{
    struct pit *p = (struct pit *)d;
    struct saved s;
    if (len != sizeof(s))
        return -1;
    memcpy(&s, buf, sizeof(s));
    if (s.now < 0 || s.now > FAR)
        return -1;
    int64_t shift = ticks_of(clock_now(p->clock)) - s.now;
    for (unsigned i = 0; i < 3; i++) {
        struct chan *c = &s.c[i];
        if (c->mode > 5 || c->n - 1 > 65535 || c->next > 65536 || c->rw > 3 || c->bcd > 1 || c->gate > 1 ||
            c->base < -FAR || c->base > FAR || c->hold < -FAR || c->hold > FAR)
            return -1;
        c->base += shift;
        if (c->next && c->counting)
            c->hold += shift;
    }
    memcpy(p->c, s.c, sizeof(s.c));
    p->portb = s.portb & 15;
    drive(p, s.line & 1);
    schedule(p);
    return 0;
}

static void fini(struct dev *d)
{
    struct pit *p = (struct pit *)d;
    timer_cancel(p->clock, &p->timer);
    free(p);
}

static const struct dev_ops pit_ops = {
    .name = "pit",
    .reset = reset,
    .read = pit_read,
    .write = pit_write,
    .save = save,
    .load = load,
    .fini = fini,
};

struct pit *pit_new(struct clock *clock, struct irq_line out0)
{
    struct pit *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->dev.ops = &pit_ops;
    p->clock = clock;
    p->out0 = out0;
    timer_init(&p->timer, fire, p);
    reset(&p->dev);
    return p;
}
