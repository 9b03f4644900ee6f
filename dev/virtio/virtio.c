/* Virtio: device status, feature negotiation, queue life cycle (VIRTIO 1.2, 2.1, 2.2, 2.6, 3.1). */
#include "dev/virtio/virtio.h"

#include <string.h>

static void queue_clear(struct virtqueue *q)
{
    q->enabled = false;
    q->num = q->max;
    q->desc = q->avail = q->used = 0;
    q->desc_p = NULL;
    q->avail_p = NULL;
    q->used_p = NULL;
    q->last_avail = q->next_used = q->published = 0;
}

void virtio_init(struct virtio_dev *v, const struct virtio_ops *ops, const struct dev_env *env, uint64_t offered,
                 unsigned nvq, const uint16_t *sizes)
{
    v->ops = ops;
    v->env = *env;
    v->offered = offered | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_RESET;
    v->nvq = nvq;
    for (unsigned i = 0; i < nvq; i++) {
        v->vq[i].v = v;
        v->vq[i].index = i;
        v->vq[i].max = sizes[i];
        queue_clear(&v->vq[i]);
    }
}

void virtio_reset(struct virtio_dev *v)
{
    v->ops->reset(v, -1);
    v->status = 0;
    v->features = 0;
    v->config_gen = 0;
    for (unsigned i = 0; i < v->nvq; i++)
        queue_clear(&v->vq[i]);
}

void virtio_broken(struct virtio_dev *v, const char *why)
{
    if (v->status & VIRTIO_S_NEEDS_RESET)
        return;
    if (v->env.log)
        v->env.log(v->env.log_ctx, "%s: guest driver error: %s", v->ops->name, why);
    v->status |= VIRTIO_S_NEEDS_RESET;
    if (v->status & VIRTIO_S_DRIVER_OK)
        v->signal(v->transport, -1);
}

void virtio_config_changed(struct virtio_dev *v)
{
    v->config_gen++;
    if (v->status & VIRTIO_S_DRIVER_OK)
        v->signal(v->transport, -1);
}

void virtio_kick(struct virtio_dev *v, unsigned q)
{
    if (q < v->nvq && vq_live(&v->vq[q]))
        v->ops->kick(v, q);
}

static void kick_all(struct virtio_dev *v)
{
    for (unsigned i = 0; i < v->nvq; i++)
        virtio_kick(v, i);
}

void virtio_set_master(struct virtio_dev *v, bool on)
{
    bool was = v->master;
    v->master = on;
    if (on && !was)
        kick_all(v);
}

void virtio_set_status(struct virtio_dev *v, uint8_t val)
{
    if (!val) {
        virtio_reset(v);
        return;
    }
    /* Bits are only ever added; NEEDS_RESET is the device's own. */
    uint8_t new =
        val &(VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_DRIVER_OK | VIRTIO_S_FEATURES_OK | VIRTIO_S_FAILED);
    new &= (uint8_t)~v->status;
    if (new &VIRTIO_S_FEATURES_OK) {
        /* A subset of the offer; this is no legacy device. */
        if ((v->features & ~v->offered) || !virtio_has(v, VIRTIO_F_VERSION_1))
            new &= (uint8_t)~VIRTIO_S_FEATURES_OK;
        else if (v->ops->negotiated)
            v->ops->negotiated(v);
    }
    if (!((v->status | new) & VIRTIO_S_FEATURES_OK))
        new &= (uint8_t)~VIRTIO_S_DRIVER_OK;
    v->status |= new;
    if (new &VIRTIO_S_DRIVER_OK)
        kick_all(v);
}

bool vq_set_size(struct virtqueue *q, uint16_t num)
{
    if (q->enabled || !num || num > q->max || (num & (num - 1)))
        return false;
    q->num = num;
    return true;
}

void vq_enable(struct virtqueue *q)
{
    struct virtio_dev *v = q->v;
    const struct dma *m = &v->env.dma;
    if (q->enabled || !(v->status & VIRTIO_S_FEATURES_OK))
        return;
    if ((q->desc & 15) || (q->avail & 1) || (q->used & 3)) {
        virtio_broken(v, "misaligned ring");
        return;
    }
    q->desc_p = m->map(m->ctx, q->desc, 16u * q->num, false);
    q->avail_p = m->map(m->ctx, q->avail, 6u + 2u * q->num, false);
    q->used_p = m->map(m->ctx, q->used, 6u + 8u * q->num, true);
    if (!q->desc_p || !q->avail_p || !q->used_p) {
        virtio_broken(v, "ring outside of RAM");
        return;
    }
    q->last_avail = q->next_used = q->published = 0;
    q->enabled = true;
}

void vq_reset(struct virtqueue *q)
{
    if (!virtio_has(q->v, VIRTIO_F_RING_RESET))
        return;
    q->v->ops->reset(q->v, (int)q->index);
    queue_clear(q);
}
