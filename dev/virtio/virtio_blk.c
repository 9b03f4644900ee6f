/*
 * Virtio block device (VIRTIO 1.2, 5.2).
 *
 * The doorbell only wakes the worker. The worker, on the I/O thread, takes the device lock to pop a batch of requests,
 * drops it to do the I/O straight to and from guest memory, takes it again to complete them; while it runs the driver
 * is asked not to ring. Requests are executed in ring order, so a flush covers every write completed before it was
 * issued. A request is checked completely before its first byte is transferred.
 *
 * io_lock is held while guest memory or the disk is accessed; reset raises `epoch` and then takes io_lock once, after
 * which nothing popped before touches anything. The worker never waits for the device lock with io_lock held.
 */
#include "dev/virtio/virtio_blk.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio/virtio.h"
#include "dev/virtio/virtio_pci.h"
#include "ringer/host.h"

#define F_SEG_MAX (1ull << 2)
#define F_RO (1ull << 5)
#define F_BLK_SIZE (1ull << 6)
#define F_FLUSH (1ull << 9)
#define F_TOPOLOGY (1ull << 10)
#define F_CONFIG_WCE (1ull << 11)
#define F_DISCARD (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

/* Offsets in the device configuration (5.2.4). */
enum {
    CFG_CAPACITY = 0,
    CFG_SEG_MAX = 12,
    CFG_BLK_SIZE = 20,
    CFG_PHYS_EXP = 24,
    CFG_MIN_IO = 26,
    CFG_WRITEBACK = 32,
    CFG_MAX_DISCARD = 36,
    CFG_MAX_DISCARD_SEG = 40,
    CFG_DISCARD_ALIGN = 44,
    CFG_MAX_WZ = 48,
    CFG_MAX_WZ_SEG = 52,
    CFG_WZ_UNMAP = 56,
    CFG_LEN = 60,
};

#define SECTOR 512u
#define QUEUE_SIZE 256
#define HEADER 16u               /* type, reserved, sector */
#define RANGES_MAX 32            /* per discard or write-zeroes request */
#define RANGE_SECTORS (1u << 22) /* 2 GiB each */
#define CHUNK (1u << 20)         /* most bytes between two looks at epoch */
#define BATCH 16
#define BATCH_BYTES (256u << 10)
#define ROUNDS 64 /* batches before the I/O thread's other users get a turn */

struct request {
    struct vq_elem e;
    uint8_t status;
    bool malformed;
    uint32_t written; /* for the used ring */
};

struct blk {
    struct virtio_dev v;
    struct blockdev bd;
    char serial[20];
    bool working; /* the worker is deferred or running; under the device lock */
    _Atomic bool writeback;
    _Atomic unsigned epoch; /* raised by reset */
    struct host_mutex *io_lock;
    struct request req[BATCH];
};

static bool cancelled(const struct blk *b, unsigned epoch)
{
    return atomic_load_explicit(&b->epoch, memory_order_acquire) != epoch;
}

/* --- execution: io_lock held, device lock not ------------------------------------ */

/* Move len bytes between the disk at off and the segments, starting skip bytes into them. */
static int transfer(struct blk *b, unsigned epoch, bool write, const struct vq_seg *s, unsigned n, uint64_t skip,
                    uint64_t off, uint64_t len)
{
    const struct dma *m = &b->v.env.dma;
    unsigned i = 0;
    while (len) {
        while (i < n && skip >= s[i].len)
            skip -= s[i++].len;
        if (i == n)
            return -EIO;
        uint8_t *p = s[i].p + skip;
        uint64_t gpa = s[i].gpa + skip, run = s[i].len - skip;
        /* One call for segments that lie next to each other. */
        for (unsigned k = i + 1; k < n && run < len && run < CHUNK && s[k].gpa == gpa + run && s[k].p == p + run; k++)
            run += s[k].len;
        if (run > len)
            run = len;
        if (run > CHUNK)
            run = CHUNK;
        if (cancelled(b, epoch))
            return -ECANCELED;
        int rc = write ? b->bd.write(b->bd.ctx, off, p, run) : b->bd.read(b->bd.ctx, off, p, run);
        if (!write)
            m->dirty(m->ctx, gpa, run); /* even when it failed half-way */
        if (rc)
            return rc;
        skip += run;
        off += run;
        len -= run;
    }
    return 0;
}

static uint8_t read_write(struct blk *b, unsigned epoch, struct request *r, bool write, uint64_t sector)
{
    const struct vq_elem *e = &r->e;
    uint64_t len = write ? e->out_len - HEADER : e->in_len - 1;
    if (write && b->bd.readonly)
        return S_IOERR;
    if (len % SECTOR || sector > b->bd.size / SECTOR || len > b->bd.size - sector * SECTOR)
        return S_IOERR;
    int rc = write ? transfer(b, epoch, true, e->seg, e->nout, HEADER, sector * SECTOR, len)
                   : transfer(b, epoch, false, e->seg + e->nout, e->nin, 0, sector * SECTOR, len);
    if (rc)
        return S_IOERR;
    if (write && !atomic_load(&b->writeback) && b->bd.flush && b->bd.flush(b->bd.ctx))
        return S_IOERR;
    if (!write)
        r->written = len < UINT32_MAX ? (uint32_t)len + 1 : UINT32_MAX;
    return S_OK;
}

/* Discard and write zeroes (5.2.6.2): all ranges are checked before the first is touched. */
static uint8_t ranges(struct blk *b, unsigned epoch, const struct vq_elem *e, bool zero)
{
    struct {
        uint64_t sector;
        uint32_t n, flags;
    } r[RANGES_MAX];
    uint64_t len = e->out_len - HEADER;
    if (!virtio_has(&b->v, zero ? F_WRITE_ZEROES : F_DISCARD))
        return S_UNSUPP;
    if (b->bd.readonly || !len || len % sizeof r[0] || len > sizeof r)
        return S_IOERR;
    vq_read(e, HEADER, r, (size_t)len);
    unsigned count = (unsigned)(len / sizeof r[0]);
    for (unsigned i = 0; i < count; i++) {
        if (r[i].flags & ~(zero ? 1u : 0u))
            return S_UNSUPP;
        uint64_t disk = b->bd.size / SECTOR;
        if (r[i].n > RANGE_SECTORS || r[i].sector > disk || r[i].n > disk - r[i].sector)
            return S_IOERR;
    }
    for (unsigned i = 0; i < count; i++) {
        if (cancelled(b, epoch))
            return S_IOERR;
        if (!r[i].n)
            continue;
        uint64_t off = r[i].sector * SECTOR, n = (uint64_t)r[i].n * SECTOR;
        int rc = zero ? b->bd.write_zeroes(b->bd.ctx, off, n) : b->bd.discard(b->bd.ctx, off, n);
        if (rc && !(rc == -ENOTSUP && !zero)) /* a discard is a hint */
            return rc == -ENOTSUP ? S_UNSUPP : S_IOERR;
    }
    if (zero && !atomic_load(&b->writeback) && b->bd.flush && b->bd.flush(b->bd.ctx))
        return S_IOERR;
    return S_OK;
}

static void execute(struct blk *b, unsigned epoch, struct request *r)
{
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } h;
    struct vq_elem *e = &r->e;
    r->written = e->in_len == 1; /* the status byte, if no gap comes before it */
    r->malformed = e->in_len < 1 || vq_read(e, 0, &h, sizeof h) != HEADER;
    if (r->malformed)
        return;
    switch (h.type) {
    case T_IN: r->status = read_write(b, epoch, r, false, h.sector); break;
    case T_OUT: r->status = read_write(b, epoch, r, true, h.sector); break;
    case T_FLUSH: r->status = b->bd.flush && b->bd.flush(b->bd.ctx) ? S_IOERR : S_OK; break;
    case T_GET_ID:
        r->status = S_OK;
        size_t want = e->in_len - 1 < sizeof b->serial ? (size_t)(e->in_len - 1) : sizeof b->serial;
        vq_write(&b->v, e, 0, b->serial, want);
        r->written = (uint32_t)want + (want == e->in_len - 1);
        break;
    case T_DISCARD: r->status = ranges(b, epoch, e, false); break;
    case T_WRITE_ZEROES: r->status = ranges(b, epoch, e, true); break;
    default: r->status = S_UNSUPP;
    }
}

/* --- the worker ------------------------------------------------------------------------ */

/* Device lock held. Pop a batch; 0 when there is nothing to do, and then the driver will ring again. */
static unsigned collect(struct blk *b)
{
    struct virtqueue *q = &b->v.vq[0];
    uint64_t bytes = 0;
    vq_spare(q);
    do {
        unsigned n = 0;
        while (n < BATCH && bytes < BATCH_BYTES && vq_pop(q, &b->req[n].e) > 0) {
            bytes += b->req[n].e.out_len + b->req[n].e.in_len;
            n++;
        }
        if (n)
            return n;
    } while (vq_want(q));
    return 0;
}

/* Device lock held. */
static void complete(struct blk *b, unsigned n)
{
    struct virtqueue *q = &b->v.vq[0];
    for (unsigned i = 0; i < n; i++) {
        struct request *r = &b->req[i];
        if (r->malformed) {
            virtio_broken(&b->v, "block request without header or status");
            break;
        }
        vq_write(&b->v, &r->e, r->e.in_len - 1, &r->status, 1);
        vq_push(q, r->e.head, r->written);
    }
    vq_publish(q);
}

static void run_batch(struct blk *b, unsigned epoch, unsigned n)
{
    host_lock(b->io_lock);
    for (unsigned i = 0; i < n && !cancelled(b, epoch); i++)
        execute(b, epoch, &b->req[i]);
    host_unlock(b->io_lock);
}

static void work(void *arg)
{
    struct blk *b = arg;
    const struct dev_env *env = &b->v.env;
    env->lock(env->lock_ctx);
    for (unsigned round = 0;; round++) {
        if (round == ROUNDS) {
            env->defer(env->defer_ctx, work, b);
            break;
        }
        unsigned epoch = atomic_load(&b->epoch), n = collect(b);
        if (!n) {
            b->working = false;
            break;
        }
        env->unlock(env->lock_ctx);
        run_batch(b, epoch, n);
        env->lock(env->lock_ctx);
        if (!cancelled(b, epoch))
            complete(b, n);
    }
    env->unlock(env->lock_ctx);
}

static void blk_kick(struct virtio_dev *v, unsigned q)
{
    struct blk *b = (struct blk *)v;
    unsigned n;
    if (b->working)
        return;
    if (v->env.defer) {
        b->working = true;
        v->env.defer(v->env.defer_ctx, work, b);
        return;
    }
    while ((n = collect(b))) {
        run_batch(b, atomic_load(&b->epoch), n);
        complete(b, n);
    }
}

/* --- configuration and life cycle --------------------------------------------------------- */

static void set_writeback(struct blk *b, bool on)
{
    atomic_store(&b->writeback, on);
    b->v.config[CFG_WRITEBACK] = on;
}

/* A driver that cannot flush gets a write-through disk (5.2.5.2, 5.2.6.2). */
static void blk_negotiated(struct virtio_dev *v)
{
    set_writeback((struct blk *)v, virtio_has(v, F_FLUSH));
}

static void blk_config_write(struct virtio_dev *v, unsigned off, unsigned size, uint32_t val)
{
    struct blk *b = (struct blk *)v;
    if (off != CFG_WRITEBACK || size != 1 || !virtio_has(v, F_CONFIG_WCE) || val > 1)
        return;
    /* What was written before the change counts as written through from now on. */
    host_lock(b->io_lock);
    if (val || !atomic_load(&b->writeback) || !b->bd.flush || !b->bd.flush(b->bd.ctx))
        set_writeback(b, val);
    host_unlock(b->io_lock);
}

static void blk_reset(struct virtio_dev *v, int q)
{
    struct blk *b = (struct blk *)v;
    atomic_fetch_add(&b->epoch, 1);
    host_lock(b->io_lock); /* wait for the piece in progress */
    host_unlock(b->io_lock);
    if (q < 0)
        set_writeback(b, true);
}

static void blk_fini(struct virtio_dev *v)
{
    struct blk *b = (struct blk *)v;
    if (b->io_lock)
        host_mutex_free(b->io_lock);
    free(b);
}

static const struct virtio_ops blk_ops = {
    .name = "virtio-blk",
    .id = 2,
    .pci_class = 0x018000,
    .kick = blk_kick,
    .reset = blk_reset,
    .negotiated = blk_negotiated,
    .config_write = blk_config_write,
    .fini = blk_fini,
};

static void put32(struct blk *b, unsigned off, uint32_t val)
{
    memcpy(b->v.config + off, &val, sizeof val);
}

struct dev *virtio_blk_new(const struct dev_env *env, struct pci_bus *bus, unsigned slot, const struct blockdev *bd,
                           const char *serial)
{
    static const uint16_t sizes[] = {QUEUE_SIZE};
    struct blk *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->io_lock = host_mutex_new();
    if (!b->io_lock) {
        free(b);
        return NULL;
    }
    b->bd = *bd;
    if (serial)
        memcpy(b->serial, serial, strnlen(serial, sizeof b->serial));
    uint64_t f = F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY;
    f |= bd->readonly ? F_RO : F_FLUSH | F_CONFIG_WCE;
    if (!bd->readonly && bd->discard)
        f |= F_DISCARD;
    if (!bd->readonly && bd->write_zeroes)
        f |= F_WRITE_ZEROES;
    virtio_init(&b->v, &blk_ops, env, f, 1, sizes);

    uint64_t sectors = bd->size / SECTOR;
    memcpy(b->v.config + CFG_CAPACITY, &sectors, sizeof sectors);
    put32(b, CFG_SEG_MAX, VQ_MAX_SEGS - 2); /* header and status apart */
    put32(b, CFG_BLK_SIZE, SECTOR);
    b->v.config[CFG_PHYS_EXP] = 3; /* 4 KiB blocks suit every host file system */
    b->v.config[CFG_MIN_IO] = 8;
    if (f & F_DISCARD) {
        put32(b, CFG_MAX_DISCARD, RANGE_SECTORS);
        put32(b, CFG_MAX_DISCARD_SEG, RANGES_MAX);
        put32(b, CFG_DISCARD_ALIGN, 8);
    }
    if (f & F_WRITE_ZEROES) {
        put32(b, CFG_MAX_WZ, RANGE_SECTORS);
        put32(b, CFG_MAX_WZ_SEG, RANGES_MAX);
        b->v.config[CFG_WZ_UNMAP] = 1;
    }
    b->v.config_len = CFG_LEN;
    set_writeback(b, true);
    return virtio_pci_new(env, bus, slot, &b->v);
}
