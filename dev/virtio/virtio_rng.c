/* Virtio entropy device (VIRTIO 1.2, 5.4): each buffer gets between 1 byte and FILL_MAX bytes. */
#include "dev/virtio/virtio_rng.h"

#include <stdlib.h>

#include "dev/virtio/virtio.h"
#include "dev/virtio/virtio_pci.h"

#define FILL_MAX 4096u
#define QUEUE_SIZE 64
#define RETRY_NS 10000000u

struct rng {
    struct virtio_dev v;
    struct entropy src;
    struct timer retry;
    struct vq_elem e;
    bool have; /* e waits for the source */
};

static void rng_run(struct rng *r)
{
    struct virtqueue *q = &r->v.vq[0];
    uint8_t buf[FILL_MAX];
    bool stuck = false;
    unsigned budget = 2 * QUEUE_SIZE; /* a driver that refills as we go cannot keep us here */
    vq_spare(q);
    do {
        while (budget && vq_live(q)) {
            if (!r->have && vq_pop(q, &r->e) <= 0)
                break;
            r->have = true;
            budget--;
            size_t n = r->e.in_len < sizeof buf ? (size_t)r->e.in_len : sizeof buf;
            stuck = n && r->src.fill(r->src.ctx, buf, n) != 0;
            if (stuck)
                break; /* the request stays ours until the source recovers: it may not be returned empty */
            vq_write(&r->v, &r->e, 0, buf, n);
            vq_push(q, r->e.head, (uint32_t)n);
            r->have = false;
        }
        vq_publish(q);
    } while (!stuck && budget && vq_want(q));
    if (stuck || !budget)
        timer_arm(r->v.env.clock, &r->retry, clock_now(r->v.env.clock) + (stuck ? RETRY_NS : 0));
}

static void rng_retry(void *ctx)
{
    rng_run(ctx);
}

static void rng_kick(struct virtio_dev *v, unsigned q)
{
    rng_run((struct rng *)v);
}

static void rng_reset(struct virtio_dev *v, int q)
{
    struct rng *r = (struct rng *)v;
    r->have = false;
    timer_cancel(v->env.clock, &r->retry);
}

static void rng_fini(struct virtio_dev *v)
{
    rng_reset(v, -1);
    free(v);
}

static const struct virtio_ops rng_ops = {
    .name = "virtio-rng", .id = 4, .pci_class = 0x00ff00, .kick = rng_kick, .reset = rng_reset, .fini = rng_fini};

struct dev *virtio_rng_new(const struct dev_env *env, struct pci_bus *bus, unsigned slot, const struct entropy *src)
{
    static const uint16_t sizes[] = {QUEUE_SIZE};
    struct rng *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->src = *src;
    timer_init(&r->retry, rng_retry, r);
    virtio_init(&r->v, &rng_ops, env, 0, 1, sizes);
    return virtio_pci_new(env, bus, slot, &r->v);
}
