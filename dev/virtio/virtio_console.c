/*
 * Virtio console (VIRTIO 1.2, 5.3): one port.
 *
 * Output goes to the back end from the doorbell, a bounded amount at a time; what is left, or what the back end has no
 * room for, goes on from a timer, so the ring gives back pressure. Input waits in a small FIFO for the driver's
 * buffers.
 */
#include "dev/virtio/virtio_console.h"

#include <stdlib.h>
#include <string.h>

#include "dev/virtio/virtio.h"
#include "dev/virtio/virtio_pci.h"

#define F_SIZE (1ull << 0)
#define F_EMERG_WRITE (1ull << 2)

enum { CFG_COLS = 0, CFG_ROWS = 2, CFG_EMERG = 8, CFG_LEN = 12 };
enum { RX, TX };

#define QUEUE_SIZE 128
#define FIFO 4096u        /* input waiting for buffers; power of two */
#define TURN (64u << 10)  /* output bytes per turn */
#define RETRY_NS 1000000u /* back end full */
#define OPEN_NS 100000000u /* from the driver's first buffer to the first input, see rx_open */

struct console {
    struct virtio_dev v;
    struct chardev cd;
    struct timer again;
    struct vq_elem tx, rx;
    bool have_tx;
    uint64_t tx_off;
    uint8_t fifo[FIFO];
    unsigned head, count;
    /* Without multiport there is no message that says the driver listens, and Linux posts its buffers before it has
     * registered the port: what comes in between it throws away. So input is held for a moment. */
    bool rx_open, rx_opening;
    struct timer open;
};

/* --- output ------------------------------------------------------------------ */

/* Hand the rest of the current request to the back end. True when it is done. */
static bool tx_send(struct console *c, unsigned *sent, uint64_t *wait)
{
    uint8_t buf[1024];
    size_t len;
    while (*sent < TURN && (len = vq_read(&c->tx, c->tx_off, buf, sizeof buf))) {
        size_t took = c->cd.write ? c->cd.write(c->cd.ctx, buf, len) : len;
        c->tx_off += took;
        *sent += (unsigned)took;
        if (took < len) {
            *wait = RETRY_NS;
            return false;
        }
    }
    return c->tx_off == c->tx.out_len;
}

static void tx_run(struct console *c)
{
    struct virtqueue *q = &c->v.vq[TX];
    unsigned sent = 0, budget = 2 * QUEUE_SIZE; /* a driver that refills as we go cannot keep us here */
    uint64_t wait = 0;
    bool more = false;
    vq_spare(q);
    do {
        while (budget && !more && vq_live(q)) {
            if (!c->have_tx) {
                if (vq_pop(q, &c->tx) <= 0)
                    break;
                c->have_tx = true;
                c->tx_off = 0;
            }
            budget--;
            more = !tx_send(c, &sent, &wait);
            if (!more) {
                vq_push(q, c->tx.head, 0);
                c->have_tx = false;
            }
        }
        vq_publish(q);
    } while (!more && budget && vq_want(q));
    if (more || !budget)
        timer_arm(c->v.env.clock, &c->again, clock_now(c->v.env.clock) + wait);
}

/* --- input -------------------------------------------------------------------- */

static void rx_run(struct console *c)
{
    struct virtqueue *q = &c->v.vq[RX];
    if (!c->rx_open)
        return;
    unsigned before = c->count, budget = 2 * QUEUE_SIZE; /* empty buffers do not drain the FIFO */
    vq_spare(q);
    do {
        while (budget && c->count && vq_pop(q, &c->rx) > 0) {
            budget--;
            uint32_t done = 0;
            while (c->count) {
                unsigned len = FIFO - c->head < c->count ? FIFO - c->head : c->count;
                len = (unsigned)vq_write(&c->v, &c->rx, done, c->fifo + c->head, len);
                if (!len)
                    break;
                done += len;
                c->head = (c->head + len) % FIFO;
                c->count -= len;
            }
            vq_push(q, c->rx.head, done);
        }
        vq_publish(q);
        /* With nothing to deliver new buffers are no news; the next input looks by itself. */
    } while (c->count && budget && vq_want(q));
    if (!budget)
        timer_arm(c->v.env.clock, &c->again, clock_now(c->v.env.clock));
    if (c->count < before && c->cd.accept)
        c->cd.accept(c->cd.ctx);
}

static size_t sink_room(void *ctx)
{
    const struct console *c = ctx;
    return FIFO - c->count;
}

static void sink_input(void *ctx, const uint8_t *buf, size_t n)
{
    struct console *c = ctx;
    for (size_t i = 0; i < n && c->count < FIFO; i++)
        c->fifo[(c->head + c->count++) % FIFO] = buf[i];
    if (vq_live(&c->v.vq[RX]))
        rx_run(c);
}

static void run_again(void *ctx)
{
    rx_run(ctx);
    tx_run(ctx);
}

/* --- the device ------------------------------------------------------------------ */

static void con_kick(struct virtio_dev *v, unsigned q)
{
    struct console *c = (struct console *)v;
    if (q == RX) {
        if (!c->rx_open && !c->rx_opening) {
            c->rx_opening = true;
            timer_arm(v->env.clock, &c->open, clock_now(v->env.clock) + OPEN_NS);
        }
        rx_run(c);
    } else {
        tx_run(c);
    }
}

static void open_fired(void *ctx)
{
    struct console *c = ctx;
    c->rx_open = true;
    c->rx_opening = false;
    if (vq_live(&c->v.vq[RX]))
        rx_run(c);
}

/* A character from a guest that cannot set up queues, perhaps in panic. */
static void con_config_write(struct virtio_dev *v, unsigned off, unsigned size, uint32_t val)
{
    struct console *c = (struct console *)v;
    uint8_t ch = (uint8_t)val;
    if (off == CFG_EMERG && c->cd.write)
        c->cd.write(c->cd.ctx, &ch, 1);
}

static void con_reset(struct virtio_dev *v, int q)
{
    struct console *c = (struct console *)v;
    if (q != RX)
        c->have_tx = false;
    if (q != TX) {
        c->rx_open = c->rx_opening = false;
        timer_cancel(v->env.clock, &c->open);
    }
    if (q < 0)
        timer_cancel(v->env.clock, &c->again);
}

static void con_fini(struct virtio_dev *v)
{
    con_reset(v, -1);
    free(v);
}

static const struct virtio_ops con_ops = {.name = "virtio-console",
                                          .id = 3,
                                          .pci_class = 0x078000,
                                          .kick = con_kick,
                                          .reset = con_reset,
                                          .config_write = con_config_write,
                                          .fini = con_fini};

static void set_size(struct console *c, uint16_t cols, uint16_t rows)
{
    memcpy(c->v.config + CFG_COLS, &cols, 2);
    memcpy(c->v.config + CFG_ROWS, &rows, 2);
}

struct dev *virtio_console_new(const struct dev_env *env, struct pci_bus *bus, unsigned slot, const struct chardev *cd,
                               struct chardev_sink *sink, uint16_t cols, uint16_t rows)
{
    static const uint16_t sizes[] = {QUEUE_SIZE, QUEUE_SIZE};
    struct console *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->cd = *cd;
    timer_init(&c->again, run_again, c);
    timer_init(&c->open, open_fired, c);
    virtio_init(&c->v, &con_ops, env, F_EMERG_WRITE | (cols && rows ? F_SIZE : 0), 2, sizes);
    set_size(c, cols, rows);
    c->v.config_len = CFG_LEN;
    struct dev *d = virtio_pci_new(env, bus, slot, &c->v);
    if (d)
        *sink = (struct chardev_sink){c, sink_room, sink_input};
    return d;
}

void virtio_console_resize(struct dev *d, uint16_t cols, uint16_t rows)
{
    struct virtio_dev *v = virtio_pci_dev(d);
    if (v->ops != &con_ops)
        return;
    set_size((struct console *)v, cols, rows);
    if (virtio_has(v, F_SIZE))
        virtio_config_changed(v);
}
