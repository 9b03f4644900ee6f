/* Split virtqueues (VIRTIO 1.2, 2.7): what the driver wrote is copied once, checked, and only then used. */
#include "dev/virtio/virtio.h"

#include <string.h>

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static struct desc fetch(const uint8_t *table, unsigned i)
{
    struct desc d;
    memcpy(&d, table + 16u * i, sizeof d);
    /* The driver may rewrite it at any time: keep the compiler from reading it twice. */
    __asm__ volatile("" : "+m"(d) : : "memory");
    return d;
}

static uint16_t load16(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}
static uint16_t avail_idx(const struct virtqueue *q)
{
    return __atomic_load_n(q->avail_p + 1, __ATOMIC_ACQUIRE);
}

static void used_store16(struct virtqueue *q, unsigned off, uint16_t val)
{
    __atomic_store_n((uint16_t *)(void *)(q->used_p + off), val, __ATOMIC_RELEASE);
    q->v->env.dma.dirty(q->v->env.dma.ctx, q->used + off, 2);
}

static int broken(struct virtqueue *q, const char *why)
{
    virtio_broken(q->v, why);
    return -1;
}

static int add_seg(struct virtqueue *q, struct vq_elem *e, const struct desc *d)
{
    const struct dma *m = &q->v->env.dma;
    bool in = d->flags & DESC_WRITE;
    if (!in && e->nin)
        return broken(q, "readable descriptor after a writable one");
    if (!d->len)
        return 0;
    uint8_t *p = m->map(m->ctx, d->addr, d->len, in);
    if (!p)
        return broken(q, "buffer outside of RAM");
    e->seg[e->nout + e->nin] = (struct vq_seg){p, d->addr, d->len};
    if (in) {
        e->nin++;
        e->in_len += d->len;
    } else {
        e->nout++;
        e->out_len += d->len;
    }
    return 0;
}

int vq_pop(struct virtqueue *q, struct vq_elem *e)
{
    if (!vq_live(q))
        return -1;
    uint16_t idx = avail_idx(q);
    if (idx == q->last_avail)
        return 0;
    if ((uint16_t)(idx - q->last_avail) > q->num)
        return broken(q, "available index runs ahead of the ring");

    const uint8_t *table = q->desc_p;
    unsigned n = q->num; /* entries of the table being walked */
    unsigned i = load16(q->avail_p + 2 + (q->last_avail & (q->num - 1)));
    bool indirect = false;
    e->head = (uint16_t)i;
    e->nout = e->nin = 0;
    e->out_len = e->in_len = 0;
    if (i >= n)
        return broken(q, "descriptor index outside of the ring");
    /* The step count bounds chains that loop, and fits seg[]. */
    for (unsigned steps = 0;; steps++) {
        if (steps == VQ_MAX_SEGS)
            return broken(q, "descriptor chain too long");
        struct desc d = fetch(table, i);
        if (d.flags & DESC_INDIRECT) {
            if (indirect || (d.flags & DESC_NEXT) || !virtio_has(q->v, VIRTIO_F_INDIRECT_DESC))
                return broken(q, "indirect descriptor not allowed here");
            if (!d.len || d.len % 16 || d.len / 16 > 65536)
                return broken(q, "bad size of indirect table");
            table = q->v->env.dma.map(q->v->env.dma.ctx, d.addr, d.len, false);
            if (!table)
                return broken(q, "indirect table outside of RAM");
            indirect = true;
            n = d.len / 16;
            i = 0;
            steps--; /* the reference itself carries no buffer; it happens once */
            continue;
        }
        if (add_seg(q, e, &d))
            return -1;
        if (!(d.flags & DESC_NEXT))
            break;
        i = d.next;
        if (i >= n)
            return broken(q, "next descriptor outside of the table");
    }
    q->last_avail++;
    return 1;
}

void vq_push(struct virtqueue *q, uint16_t head, uint32_t len)
{
    if (!q->used_p)
        return;
    unsigned off = 4 + 8u * (q->next_used & (q->num - 1));
    uint32_t ent[2] = {head, len};
    memcpy(q->used_p + off, ent, sizeof ent);
    q->v->env.dma.dirty(q->v->env.dma.ctx, q->used + off, sizeof ent);
    q->next_used++;
}

void vq_publish(struct virtqueue *q)
{
    uint16_t old = q->published, new = q->next_used;
    if (!q->used_p || old == new)
        return;
    used_store16(q, 2, new);
    q->published = new;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* used.idx before looking whether the driver sleeps (2.7.7.2) */
    bool signal;
    if (virtio_has(q->v, VIRTIO_F_EVENT_IDX)) {
        uint16_t event = load16(q->avail_p + 2 + q->num);
        signal = (uint16_t)(new - event - 1) < (uint16_t)(new - old);
    } else {
        signal = !(load16(q->avail_p) & AVAIL_NO_INTERRUPT);
    }
    if (signal)
        q->v->signal(q->v->transport, (int)q->index);
}

bool vq_want(struct virtqueue *q)
{
    if (!vq_live(q))
        return false;
    if (virtio_has(q->v, VIRTIO_F_EVENT_IDX))
        used_store16(q, 4 + 8u * q->num, q->last_avail);
    else
        used_store16(q, 0, 0);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the request before looking whether it came too late (2.7.10) */
    return avail_idx(q) != q->last_avail;
}

void vq_spare(struct virtqueue *q)
{
    /* With event indices a stale avail_event does it by itself. */
    if (vq_live(q) && !virtio_has(q->v, VIRTIO_F_EVENT_IDX))
        used_store16(q, 0, USED_NO_NOTIFY);
}

size_t vq_read(const struct vq_elem *e, uint64_t off, void *buf, size_t len)
{
    size_t done = 0;
    for (unsigned i = 0; i < e->nout && done < len; i++) {
        const struct vq_seg *s = &e->seg[i];
        if (off >= s->len) {
            off -= s->len;
            continue;
        }
        size_t n = s->len - off;
        if (n > len - done)
            n = len - done;
        memcpy((uint8_t *)buf + done, s->p + off, n);
        done += n;
        off = 0;
    }
    __asm__ volatile("" : : : "memory");
    return done;
}

size_t vq_write(const struct virtio_dev *v, const struct vq_elem *e, uint64_t off, const void *buf, size_t len)
{
    size_t done = 0;
    for (unsigned i = 0; i < e->nin && done < len; i++) {
        const struct vq_seg *s = &e->seg[e->nout + i];
        if (off >= s->len) {
            off -= s->len;
            continue;
        }
        size_t n = s->len - off;
        if (n > len - done)
            n = len - done;
        memcpy(s->p + off, (const uint8_t *)buf + done, n);
        v->env.dma.dirty(v->env.dma.ctx, s->gpa + off, n);
        done += n;
        off = 0;
    }
    return done;
}
