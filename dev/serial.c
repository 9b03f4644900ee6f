/*
 * 16550A serial port. The line is infinitely fast towards the host: a byte
 * written leaves at once unless the back end is full, so THRE is normally set.
 * Only the receiver's character time-out runs at the programmed rate, because
 * drivers rely on it to get the last bytes below the FIFO's trigger level.
 *
 * Input is held back on the host side until the guest listens: it has enabled
 * the receive interrupt, or it polls the line status. Otherwise what was piped
 * in would be lost to the FIFO resets of a driver's probe.
 *
 * OUT2 does not gate the interrupt as it does on a PC's board: many guests
 * written for emulators never set it.
 */
#include "dev/serial.h"

#include <stdlib.h>
#include <string.h>

#include "dev/isa.h"

#define FIFO 16
#define QUIET_NS 100000000 /* a sender waits this long after the receiver was set up; a busy host may hold a driver up */
#define POLLS 16          /* line status reads in a row that make a polling guest */
#define RETRY_NS 1000000u /* back end full: try again */
#define NS_PER_S 1000000000ull
#define CLOCK_HZ 1843200u

enum { IER_RDA = 1, IER_THRE = 2, IER_RLS = 4, IER_MSR = 8 };
enum { IIR_NONE = 1, IIR_MSR = 0, IIR_THRE = 2, IIR_RDA = 4, IIR_RLS = 6, IIR_TIMEOUT = 12, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16 };
enum { LSR_DR = 1, LSR_OE = 2, LSR_ERRORS = 0x1e, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum {
    MSR_DELTA_CTS = 1,
    MSR_DELTA_DSR = 2,
    MSR_TRAIL_RI = 4,
    MSR_DELTA_DCD = 8,
    MSR_CTS = 16,
    MSR_DSR = 32,
    MSR_RI = 64,
    MSR_DCD = 128
};

struct fifo {
    uint8_t buf[FIFO];
    unsigned head, n;
};

struct serial {
    struct dev dev;
    struct dev_env env;
    struct irq_line irq;
    struct chardev out;
    struct fifo rx, tx;
    uint8_t ier, fcr, lcr, mcr, msr, scr;
    uint8_t overrun; /* LSR_OE or 0 */
    uint16_t divisor;
    bool thre_pending; /* THRE interrupt not yet seen through IIR */
    bool timeout;      /* character time-out interrupt */
    unsigned polls;
    bool starving; /* room() said 0: the back end wants to hear when that changes */
    struct timer timeout_timer, retry_timer, quiet_timer;
    bool proven; /* the driver has taken a byte since the FIFO was last switched: it listens */
    bool quiet;          /* the receiver was just set up: drivers clear it a few times before they listen */
};

static void fifo_put(struct fifo *f, uint8_t b)
{
    f->buf[(f->head + f->n++) % FIFO] = b;
}

static uint8_t fifo_get(struct fifo *f)
{
    uint8_t b = f->buf[f->head];
    f->head = (f->head + 1) % FIFO;
    f->n--;
    return b;
}

static unsigned fifo_depth(const struct serial *s)
{
    return s->fcr & FCR_ENABLE ? FIFO : 1;
}

static unsigned rx_trigger(const struct serial *s)
{
    static const uint8_t level[4] = {1, 4, 8, 14};
    return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

/* Highest pending interrupt, in the order of the data sheet's table. */
static uint8_t pending(const struct serial *s)
{
    if ((s->ier & IER_RLS) && s->overrun)
        return IIR_RLS;
    if ((s->ier & IER_RDA) && s->rx.n >= rx_trigger(s))
        return IIR_RDA;
    if ((s->ier & IER_RDA) && s->timeout)
        return IIR_TIMEOUT;
    if ((s->ier & IER_THRE) && s->thre_pending)
        return IIR_THRE;
    if ((s->ier & IER_MSR) && (s->msr & 0x0f))
        return IIR_MSR;
    return IIR_NONE;
}

static void update_irq(struct serial *s)
{
    irq_set(&s->irq, pending(s) != IIR_NONE);
}

static uint64_t char_ns(const struct serial *s)
{
    unsigned bits = 1 + 5 + (s->lcr & 3) + (s->lcr & 4 ? 2 : 1) + (s->lcr & 8 ? 1 : 0);
    unsigned div = s->divisor ? s->divisor : 1;
    return NS_PER_S * 16 * div * bits / CLOCK_HZ;
}

/* The receiver's time-out counts from the last byte in or out while bytes are waiting. */
static void restart_timeout(struct serial *s)
{
    s->timeout = false;
    if ((s->fcr & FCR_ENABLE) && s->rx.n)
        timer_arm(s->env.clock, &s->timeout_timer, clock_now(s->env.clock) + 4 * char_ns(s));
    else
        timer_cancel(s->env.clock, &s->timeout_timer);
}

static void timeout_fired(void *ctx)
{
    struct serial *s = ctx;
    s->timeout = s->rx.n != 0;
    update_irq(s);
}

static bool listening(const struct serial *s)
{
    return !s->quiet && !(s->mcr & MCR_LOOP) && ((s->ier & IER_RDA) || s->polls >= POLLS);
}

static size_t serial_room(void *ctx)
{
    struct serial *s = ctx;
    size_t room = listening(s) ? fifo_depth(s) - s->rx.n : 0;
    if (!room)
        s->starving = true;
    return room;
}

/* Tell the back end when the guest has begun to listen or has made room. */
static void offer_room(struct serial *s)
{
    if (s->starving && listening(s) && s->rx.n < fifo_depth(s)) {
        s->starving = false;
        if (s->out.accept)
            s->out.accept(s->out.ctx);
    }
}

static void quiet_over(void *ctx)
{
    struct serial *s = ctx;
    s->quiet = false;
    offer_room(s);
}

/* Hold the line: what came in now would be lost when the driver clears the FIFO next. */
static void hold_line(struct serial *s)
{
    s->quiet = true;
    timer_arm(s->env.clock, &s->quiet_timer, clock_now(s->env.clock) + QUIET_NS);
}

static void receive(struct serial *s, uint8_t b)
{
    if (s->rx.n >= fifo_depth(s)) {
        /* Without the FIFO the holding register is overwritten; with it the shift register is, and the FIFO stays. */
        if (!(s->fcr & FCR_ENABLE))
            s->rx.buf[s->rx.head] = b;
        s->overrun = LSR_OE;
    } else {
        fifo_put(&s->rx, b);
    }
}

static void serial_input(void *ctx, const uint8_t *buf, size_t n)
{
    struct serial *s = ctx;
    for (size_t i = 0; i < n; i++)
        receive(s, buf[i]);
    restart_timeout(s);
    update_irq(s);
}

static void transmit(struct serial *s)
{
    while (s->tx.n) {
        uint8_t run[FIFO];
        for (unsigned i = 0; i < s->tx.n; i++)
            run[i] = s->tx.buf[(s->tx.head + i) % FIFO];
        size_t took = s->out.write ? s->out.write(s->out.ctx, run, s->tx.n) : s->tx.n;
        if (took > s->tx.n)
            took = s->tx.n;
        s->tx.head = (s->tx.head + (unsigned)took) % FIFO;
        s->tx.n -= (unsigned)took;
        if (!took) {
            timer_arm(s->env.clock, &s->retry_timer, clock_now(s->env.clock) + RETRY_NS);
            return;
        }
    }
    s->thre_pending = true;
}

static void retry_fired(void *ctx)
{
    struct serial *s = ctx;
    transmit(s);
    update_irq(s);
}

static uint8_t modem_lines(const struct serial *s)
{
    if (!(s->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) | (s->mcr & MCR_OUT1 ? MSR_RI : 0) |
           (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void update_msr(struct serial *s)
{
    uint8_t now = modem_lines(s), diff = (s->msr ^ now) & 0xf0;
    uint8_t delta = (diff & MSR_CTS ? MSR_DELTA_CTS : 0) | (diff & MSR_DSR ? MSR_DELTA_DSR : 0) |
                    (diff & MSR_DCD ? MSR_DELTA_DCD : 0) | ((diff & MSR_RI) && !(now & MSR_RI) ? MSR_TRAIL_RI : 0);
    s->msr = now | (s->msr & 0x0f) | delta;
}

static uint8_t line_status(const struct serial *s)
{
    return (s->rx.n ? LSR_DR : 0) | s->overrun | (s->tx.n ? 0 : LSR_THRE | LSR_TEMT);
}

static uint8_t serial_read8(struct dev *d, unsigned port)
{
    struct serial *s = (struct serial *)d;
    uint8_t v = 0;
    switch (port) {
    case 0:
        if (s->lcr & LCR_DLAB)
            return (uint8_t)s->divisor;
        if (s->rx.n) {
            v = fifo_get(&s->rx);
            s->proven = true;
            restart_timeout(s);
        }
        update_irq(s);
        offer_room(s);
        return v;
    case 1: return s->lcr & LCR_DLAB ? s->divisor >> 8 : s->ier;
    case 2:
        v = pending(s);
        if (v == IIR_THRE) { /* reading IIR acknowledges this source only */
            s->thre_pending = false;
            update_irq(s);
        }
        return v | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
    case 3: return s->lcr;
    case 4: return s->mcr;
    case 5:
        v = line_status(s);
        s->overrun = 0;
        if (s->polls < POLLS)
            s->polls++;
        update_irq(s);
        offer_room(s);
        return v;
    case 6:
        v = s->msr;
        s->msr &= 0xf0;
        update_irq(s);
        return v;
    default: return s->scr;
    }
}

static void write_fcr(struct serial *s, uint8_t v)
{
    bool on = v & FCR_ENABLE, toggled = (v ^ s->fcr) & FCR_ENABLE;
    s->fcr = on ? v & 0xc9 : 0;
    /* Switching the FIFO on would lose a byte that came just before, however long the line was held: the driver's
     * processor may have been held up longer. It came just after instead. */
    if ((toggled && !on) || (on && (v & FCR_CLEAR_RX)))
        s->rx = (struct fifo){0};
    if (toggled) {
        s->proven = false;
        hold_line(s);
    }
    if ((toggled || (on && (v & FCR_CLEAR_TX))) && s->tx.n) {
        s->tx = (struct fifo){0};
        timer_cancel(s->env.clock, &s->retry_timer);
        s->thre_pending = true;
    }
    restart_timeout(s);
}

static void serial_write8(struct dev *d, unsigned port, uint8_t v)
{
    struct serial *s = (struct serial *)d;
    s->polls = 0;
    switch (port) {
    case 0:
        if (s->lcr & LCR_DLAB) {
            s->divisor = (s->divisor & 0xff00) | v;
            break;
        }
        s->thre_pending = false;
        update_irq(s); /* the line falls before it rises again: edge-triggered inputs see every transmission */
        if (s->mcr & MCR_LOOP) {
            receive(s, v);
            restart_timeout(s);
            s->thre_pending = true;
        } else {
            if (s->tx.n < fifo_depth(s))
                fifo_put(&s->tx, v);
            transmit(s);
        }
        break;
    case 1:
        if (s->lcr & LCR_DLAB) {
            s->divisor = (uint16_t)((s->divisor & 0xff) | v << 8);
            break;
        }
        /* Enabling THRE while the holding register is empty raises it anew; drivers probe for that. */
        if ((v & IER_THRE) && !(s->ier & IER_THRE) && !s->tx.n)
            s->thre_pending = true;
        if ((v & IER_RDA) && !(s->ier & IER_RDA) && !s->proven)
            hold_line(s);
        s->ier = v & 0x0f;
        break;
    case 2: write_fcr(s, v); break;
    case 3: s->lcr = v; break;
    case 4:
        s->mcr = v & 0x1f;
        update_msr(s);
        break;
    case 5:
    case 6: break; /* read-only */
    default: s->scr = v;
    }
    update_irq(s);
    offer_room(s);
}

static int serial_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    return isa_read_bytes(d, off, size, val, 8, serial_read8);
}

static int serial_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return isa_write_bytes(d, off, size, val, 8, serial_write8);
}

static void serial_reset(struct dev *d)
{
    struct serial *s = (struct serial *)d;
    timer_cancel(s->env.clock, &s->timeout_timer);
    timer_cancel(s->env.clock, &s->retry_timer);
    timer_cancel(s->env.clock, &s->quiet_timer);
    s->quiet = s->proven = false;
    s->rx = s->tx = (struct fifo){0};
    s->ier = s->fcr = s->lcr = s->mcr = s->scr = s->overrun = 0;
    s->msr = modem_lines(s);
    s->divisor = 12; /* 9600 baud, as firmware leaves it */
    s->thre_pending = s->timeout = false;
    s->polls = 0;
    update_irq(s);
}

static void serial_fini(struct dev *d)
{
    struct serial *s = (struct serial *)d;
    timer_cancel(s->env.clock, &s->timeout_timer);
    timer_cancel(s->env.clock, &s->retry_timer);
    timer_cancel(s->env.clock, &s->quiet_timer);
    free(s);
}

static const struct dev_ops serial_ops = {
    .name = "serial",
    .reset = serial_reset,
    .read = serial_read,
    .write = serial_write,
    .fini = serial_fini,
};

struct dev *serial_new(const struct dev_env *env, struct irq_line irq, struct chardev out)
{
    struct serial *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->dev.ops = &serial_ops;
    s->env = *env;
    s->irq = irq;
    s->out = out;
    timer_init(&s->timeout_timer, timeout_fired, s);
    timer_init(&s->retry_timer, retry_fired, s);
    timer_init(&s->quiet_timer, quiet_over, s);
    serial_reset(&s->dev);
    return &s->dev;
}

struct chardev_sink serial_sink(struct dev *d)
{
    return (struct chardev_sink){.ctx = d, .room = serial_room, .input = serial_input};
}
