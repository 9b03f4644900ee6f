/*
 * Virtio 1.x devices (OASIS VIRTIO 1.2): the part common to all of them, independent of the transport.
 *
 * In a nutshell: a device (blk, console, rng) embeds struct virtio_dev and offers features and queues; the transport
 * (virtio_pci.c) turns register accesses into virtio_*() calls and virtio_dev.signal() into interrupts; virtqueue.c
 * pops requests and pushes completions. Rings are mapped once when a queue is enabled. Every descriptor is copied
 * before it is looked at, and a request's segments are checked to be RAM before the device sees it; anything malformed
 * marks the device DEVICE_NEEDS_RESET and stops its queues.
 *
 * All functions run under the VM's device lock unless they say otherwise.
 */
#ifndef DEV_VIRTIO_VIRTIO_H
#define DEV_VIRTIO_VIRTIO_H

#include "ringer/dev.h"

/* Device status (2.1). */
#define VIRTIO_S_ACKNOWLEDGE 1
#define VIRTIO_S_DRIVER 2
#define VIRTIO_S_DRIVER_OK 4
#define VIRTIO_S_FEATURES_OK 8
#define VIRTIO_S_NEEDS_RESET 64
#define VIRTIO_S_FAILED 128

/* Feature bits (6). */
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)
#define VIRTIO_F_RING_RESET (1ull << 40)

#define VIRTIO_MAX_QUEUES 4
#define VIRTIO_CONFIG_MAX 64
#define VQ_MAX_SIZE 256
#define VQ_MAX_SEGS 256 /* longest request; longer chains break the device */

/* A piece of guest memory: p is its stable host address. */
struct vq_seg {
    uint8_t *p;
    uint64_t gpa;
    uint32_t len;
};

/* A popped request: nout segments the device reads, then nin segments it writes. */
struct vq_elem {
    uint16_t head;
    unsigned nout, nin;
    uint64_t out_len, in_len; /* bytes */
    struct vq_seg seg[VQ_MAX_SEGS];
};

struct virtio_dev;

struct virtqueue {
    struct virtio_dev *v;
    unsigned index;
    uint16_t max, num; /* largest and chosen size, powers of two */
    bool enabled;
    uint64_t desc, avail, used; /* guest-physical */
    const uint8_t *desc_p;      /* host views while enabled */
    const uint16_t *avail_p;    /* flags, idx, ring[num], used_event */
    uint8_t *used_p;            /* flags, idx, {id, len}[num], avail_event */
    uint16_t last_avail;        /* next entry to pop */
    uint16_t next_used;         /* next entry to push */
    uint16_t published;         /* used.idx as the driver sees it */
};

struct virtio_ops {
    const char *name;   /* static; statistics key */
    uint16_t id;        /* device type */
    uint32_t pci_class; /* 24 bits */
    /* The driver made requests available in an enabled queue of a live device. */
    void (*kick)(struct virtio_dev *v, unsigned q);
    /* Forget everything in flight: after it returns no guest memory is touched and nothing is pushed. q: the queue
     * being reset, or -1 for the whole device. */
    void (*reset)(struct virtio_dev *v, int q);
    /* FEATURES_OK was accepted; v->features is final. May be NULL. */
    void (*negotiated)(struct virtio_dev *v);
    /* The driver wrote to the device configuration; NULL: read-only. Reads come from v->config. */
    void (*config_write)(struct virtio_dev *v, unsigned off, unsigned size, uint32_t val);
    void (*fini)(struct virtio_dev *v); /* frees the device */
};

struct virtio_dev {
    const struct virtio_ops *ops;
    struct dev_env env;
    uint64_t offered, features; /* features: what the driver has accepted */
    uint8_t status, config_gen;
    bool master; /* the transport allows DMA (bus mastering) */
    unsigned nvq;
    struct virtqueue vq[VIRTIO_MAX_QUEUES];
    uint8_t config[VIRTIO_CONFIG_MAX];
    unsigned config_len;
    /* Set by the transport: interrupt for queue q, or for a configuration change when q < 0. */
    void (*signal)(void *transport, int q);
    void *transport;
};

/* --- for devices ------------------------------------------------------------ */

/* offered: device-specific feature bits; the common ones are added. queue sizes are powers of two up to VQ_MAX_SIZE. */
void virtio_init(struct virtio_dev *v, const struct virtio_ops *ops, const struct dev_env *env, uint64_t offered,
                 unsigned nvq, const uint16_t *sizes);
/* The configuration changed: new generation, and an interrupt if the driver is live. */
void virtio_config_changed(struct virtio_dev *v);
/* The driver broke the rules: stop until it resets the device. why is logged. */
void virtio_broken(struct virtio_dev *v, const char *why);
static inline bool virtio_has(const struct virtio_dev *v, uint64_t f)
{
    return (v->features & f) != 0;
}
/* May the queue be processed now? */
static inline bool vq_live(const struct virtqueue *q)
{
    return q->enabled && q->v->master &&
           (q->v->status & (VIRTIO_S_DRIVER_OK | VIRTIO_S_NEEDS_RESET)) == VIRTIO_S_DRIVER_OK;
}

/* Next request: 1 and *e filled, 0 if there is none, -1 if the queue is not live or just broke. */
int vq_pop(struct virtqueue *q, struct vq_elem *e);
/* Complete the request with this head; len: bytes written from the start of its writable part. Not seen by the driver
 * until vq_publish, which also interrupts it if it wants that. */
void vq_push(struct virtqueue *q, uint16_t head, uint32_t len);
void vq_publish(struct virtqueue *q);
/* Ask the driver for / spare it notifications. vq_want returns true if requests arrived meanwhile: pop again. */
bool vq_want(struct virtqueue *q);
void vq_spare(struct virtqueue *q);

/* Copy from the readable / to the writable part, at byte off of it. Returns bytes copied (less at the end). Any thread,
 * as long as the request is in flight. */
size_t vq_read(const struct vq_elem *e, uint64_t off, void *buf, size_t len);
size_t vq_write(const struct virtio_dev *v, const struct vq_elem *e, uint64_t off, const void *buf, size_t len);

/* --- for transports ------------------------------------------------------------ */

/* Write to device status: 0 resets. Bits the driver may not set are ignored. */
void virtio_set_status(struct virtio_dev *v, uint8_t val);
void virtio_reset(struct virtio_dev *v);
void virtio_set_master(struct virtio_dev *v, bool on);
void virtio_kick(struct virtio_dev *v, unsigned q);
bool vq_set_size(struct virtqueue *q, uint16_t num);
void vq_enable(struct virtqueue *q);
void vq_reset(struct virtqueue *q); /* VIRTIO_F_RING_RESET */

#endif
