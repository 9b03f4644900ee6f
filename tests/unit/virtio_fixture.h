/*
 * A machine for virtio tests: guest memory, a PCI bus, an unthreaded clock, a queue of deferred calls, and a driver
 * that talks to one function through its BAR. Memory starts at MEM_BASE, so that address 0 is no RAM.
 */
#ifndef TESTS_UNIT_VIRTIO_FIXTURE_H
#define TESTS_UNIT_VIRTIO_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/clock.h"
#include "dev/pci.h"
#include "dev/virtio/virtio.h"
#include "dev/virtio/virtio_pci.h"

#define MEM_BASE 0x100000ull
#define MEM_SIZE 0x400000ull
#define RING(q) (MEM_BASE + 0x10000ull * (q)) /* descriptors, +0x4000 driver, +0x8000 device area */
#define HEAP (MEM_BASE + 0x100000)

struct drv_queue {
    uint16_t num, free_desc, avail_idx, used_seen;
    uint64_t desc, avail, used;
};

struct fix {
    uint8_t *mem;
    uint64_t dirty_bytes;
    struct dev_env env;
    struct clock *clock;
    uint64_t now;
    struct pci_bus *bus;
    struct pci_bus_config cfg;
    bool line[4];
    unsigned line_changes[4], map_changes;
    unsigned msi_count;
    uint64_t msi_addr;
    uint32_t msi_data;
    unsigned logs;
    int depth; /* device lock */
    struct {
        void (*fn)(void *);
        void *arg;
    } job[64];
    unsigned jobs;
    struct dev *d;
    unsigned slot;
    struct drv_queue q[VIRTIO_MAX_QUEUES];
};

/* --- what the board provides --------------------------------------------- */

static inline void *fix_map(void *ctx, uint64_t gpa, size_t len, bool write)
{
    struct fix *f = ctx;
    if (gpa < MEM_BASE || len > MEM_SIZE || gpa - MEM_BASE > MEM_SIZE - len)
        return NULL;
    return f->mem + (gpa - MEM_BASE);
}
static inline int fix_dma_read(void *ctx, uint64_t gpa, void *buf, size_t len)
{
    void *p = fix_map(ctx, gpa, len, false);
    if (p)
        memcpy(buf, p, len);
    return p ? 0 : -1;
}
static inline int fix_dma_write(void *ctx, uint64_t gpa, const void *buf, size_t len)
{
    void *p = fix_map(ctx, gpa, len, true);
    if (p)
        memcpy(p, buf, len);
    return p ? 0 : -1;
}
static inline void fix_dirty(void *ctx, uint64_t gpa, size_t len)
{
    struct fix *f = ctx;
    assert_non_null(fix_map(ctx, gpa, len, true));
    f->dirty_bytes += len;
}
static inline void fix_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct fix *f = ctx;
    f->msi_count++;
    f->msi_addr = addr;
    f->msi_data = data;
}
static inline void fix_irq(void *ctx, unsigned pin, bool level)
{
    struct fix *f = ctx;
    assert_int_not_equal(f->line[pin], level); /* transitions only */
    f->line[pin] = level;
    f->line_changes[pin]++;
}
static inline void fix_defer(void *ctx, void (*fn)(void *), void *arg)
{
    struct fix *f = ctx;
    assert_true(f->jobs < 64);
    f->job[f->jobs].fn = fn;
    f->job[f->jobs++].arg = arg;
}
static inline void fix_lock(void *ctx)
{
    assert_int_equal(((struct fix *)ctx)->depth++, 0);
}
static inline void fix_unlock(void *ctx)
{
    assert_int_equal(--((struct fix *)ctx)->depth, 0);
}
static inline void fix_log(void *ctx, const char *fmt, ...)
{
    ((struct fix *)ctx)->logs++;
}
static inline void fix_map_changed(void *ctx)
{
    ((struct fix *)ctx)->map_changes++;
}
static inline uint64_t fix_now(void *ctx)
{
    return *(uint64_t *)ctx;
}

/* Run what was deferred, in order, as the I/O thread would. */
static inline void fix_drain(struct fix *f)
{
    for (unsigned i = 0; i < f->jobs; i++)
        f->job[i].fn(f->job[i].arg);
    f->jobs = 0;
    assert_int_equal(f->depth, 0);
}

static inline struct fix *fix_new(void)
{
    struct fix *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->mem = aligned_alloc(4096, MEM_SIZE);
    assert_non_null(f->mem);
    memset(f->mem, 0, MEM_SIZE);
    struct clock_source src = {fix_now, &f->now};
    f->clock = clock_new_source(NULL, &src, 0);
    assert_non_null(f->clock);
    f->env = (struct dev_env){
        .clock = f->clock,
        .dma = {f, fix_dma_read, fix_dma_write, fix_map, fix_dirty},
        .msi = {fix_msi, f},
        .defer = fix_defer,
        .defer_ctx = f,
        .lock = fix_lock,
        .unlock = fix_unlock,
        .lock_ctx = f,
        .log = fix_log,
        .log_ctx = f,
    };
    f->cfg = (struct pci_bus_config){
        .mem = {{0xc0000000, 0x10000000}, {0x800000000, 0x100000000}},
        .io = {0xc000, 0x1000},
        .intx_irq = {16, 17, 18, 19},
        .map_changed = fix_map_changed,
        .map_ctx = f,
    };
    for (unsigned i = 0; i < 4; i++)
        f->cfg.intx[i] = (struct irq_line){fix_irq, f, i};
    f->bus = pci_bus_new(&f->env, &f->cfg);
    assert_non_null(f->bus);
    return f;
}

static inline void fix_free(struct fix *f)
{
    struct dev *b = pci_bus_dev(f->bus);
    b->ops->fini(b);
    clock_free(f->clock);
    free(f->mem);
    free(f);
}

/* --- registers ---------------------------------------------------------------- */

static inline uint64_t bar_rd(struct fix *f, uint64_t off, unsigned size)
{
    uint64_t v = ~0ull;
    int rc = f->d->ops->read(f->d, 0, off, size, &v);
    assert_true(rc == DEV_OK || rc == DEV_UNMAPPED);
    return rc == DEV_OK ? v : ~0ull;
}
static inline int bar_wr(struct fix *f, uint64_t off, unsigned size, uint64_t v)
{
    return f->d->ops->write(f->d, 0, off, size, v);
}
static inline uint32_t cfg_rd(struct fix *f, unsigned off, unsigned size)
{
    return pci_cfg_read(f->bus, f->slot, off, size);
}
static inline void cfg_wr(struct fix *f, unsigned off, unsigned size, uint32_t v)
{
    pci_cfg_write(f->bus, f->slot, off, size, v);
}
static inline unsigned find_cap(struct fix *f, uint8_t id, int type)
{
    for (unsigned c = cfg_rd(f, PCI_CAP_PTR, 1), n = 0; c && n < 48; c = cfg_rd(f, c + 1, 1), n++)
        if (cfg_rd(f, c, 1) == id && (type < 0 || cfg_rd(f, c + 3, 1) == (unsigned)type))
            return c;
    return 0;
}

/* --- guest memory ----------------------------------------------------------------- */

static inline void *at(struct fix *f, uint64_t gpa)
{
    return f->mem + (gpa - MEM_BASE);
}
static inline uint16_t g16(struct fix *f, uint64_t gpa)
{
    return *(uint16_t *)at(f, gpa);
}
static inline uint32_t g32(struct fix *f, uint64_t gpa)
{
    return *(uint32_t *)at(f, gpa);
}
static inline void p16(struct fix *f, uint64_t gpa, uint16_t v)
{
    *(uint16_t *)at(f, gpa) = v;
}

/* --- the driver ------------------------------------------------------------------------ */

#define D_NEXT 1
#define D_WRITE 2
#define D_INDIRECT 4
struct seg {
    uint64_t gpa;
    uint32_t len;
    bool in;
};

static inline void put_desc(struct fix *f, uint64_t table, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
                            uint16_t next)
{
    uint8_t *p = at(f, table + 16u * i);
    memcpy(p, &addr, 8);
    memcpy(p + 8, &len, 4);
    memcpy(p + 12, &flags, 2);
    memcpy(p + 14, &next, 2);
}

static inline void make_avail(struct fix *f, unsigned qi, uint16_t head)
{
    struct drv_queue *q = &f->q[qi];
    p16(f, q->avail + 4 + 2u * (q->avail_idx % q->num), head);
    p16(f, q->avail + 2, ++q->avail_idx);
}

/* Add a chain of consecutive descriptors; returns its head. */
static inline uint16_t add_chain(struct fix *f, unsigned qi, const struct seg *s, unsigned n)
{
    struct drv_queue *q = &f->q[qi];
    uint16_t head = q->free_desc;
    for (unsigned i = 0; i < n; i++) {
        uint16_t d = (uint16_t)((head + i) % q->num);
        put_desc(f, q->desc, d, s[i].gpa, s[i].len, (uint16_t)((i + 1 < n ? D_NEXT : 0) | (s[i].in ? D_WRITE : 0)),
                 (uint16_t)((d + 1) % q->num));
    }
    q->free_desc = (uint16_t)((head + n) % q->num);
    make_avail(f, qi, head);
    return head;
}

static inline void kick(struct fix *f, unsigned qi)
{
    bar_wr(f, VIRTIO_PCI_NOTIFY + 4 * qi, 2, qi);
}

/* Next completion: true and its id and length. */
static inline bool get_used(struct fix *f, unsigned qi, uint32_t *id, uint32_t *len)
{
    struct drv_queue *q = &f->q[qi];
    if (g16(f, q->used + 2) == q->used_seen)
        return false;
    uint64_t e = q->used + 4 + 8u * (q->used_seen++ % q->num);
    *id = g32(f, e);
    *len = g32(f, e + 4);
    return true;
}

static inline uint8_t status(struct fix *f)
{
    return (uint8_t)bar_rd(f, VIRTIO_PCI_COMMON + 20, 1);
}
static inline void set_status(struct fix *f, uint8_t s)
{
    bar_wr(f, VIRTIO_PCI_COMMON + 20, 1, s);
}

static inline uint64_t offered(struct fix *f)
{
    bar_wr(f, 0, 4, 0);
    uint64_t v = bar_rd(f, 4, 4);
    bar_wr(f, 0, 4, 1);
    return v | bar_rd(f, 4, 4) << 32;
}
static inline void accept_features(struct fix *f, uint64_t v)
{
    bar_wr(f, 8, 4, 0);
    bar_wr(f, 12, 4, (uint32_t)v);
    bar_wr(f, 8, 4, 1);
    bar_wr(f, 12, 4, (uint32_t)(v >> 32));
}

static inline void setup_queue(struct fix *f, unsigned qi, uint16_t num, uint16_t vector)
{
    struct drv_queue *q = &f->q[qi];
    *q = (struct drv_queue){.num = num, .desc = RING(qi), .avail = RING(qi) + 0x4000, .used = RING(qi) + 0x8000};
    memset(at(f, RING(qi)), 0, 0x10000);
    bar_wr(f, 22, 2, qi);
    bar_wr(f, 24, 2, num);
    bar_wr(f, 26, 2, vector);
    bar_wr(f, 32, 8, q->desc);
    bar_wr(f, 40, 4, (uint32_t)q->avail);
    bar_wr(f, 44, 4, (uint32_t)(q->avail >> 32));
    bar_wr(f, 48, 8, q->used);
    bar_wr(f, 28, 2, 1);
    assert_int_equal(bar_rd(f, 28, 2), 1);
    assert_int_equal(bar_rd(f, 24, 2), num);
}

static inline void enable_msix(struct fix *f, unsigned n)
{
    for (unsigned v = 0; v < n; v++) {
        bar_wr(f, VIRTIO_PCI_MSIX + 16 * v, 8, 0xfee00000);
        bar_wr(f, VIRTIO_PCI_MSIX + 16 * v + 8, 4, 0x40 + v);
        bar_wr(f, VIRTIO_PCI_MSIX + 16 * v + 12, 4, 0);
    }
    unsigned c = find_cap(f, PCI_CAP_MSIX, -1);
    cfg_wr(f, c + 2, 2, 0x8000);
}

/* Bring the device up with these features; all queues at num entries, queue i on vector i + 1, configuration on 0. */
static inline void bring_up(struct fix *f, uint64_t features, uint16_t num)
{
    pci_bus_assign(f->bus);
    cfg_wr(f, PCI_COMMAND, 2, PCI_CMD_MEM | PCI_CMD_MASTER);
    set_status(f, 0);
    assert_int_equal(status(f), 0);
    set_status(f, 1);
    set_status(f, 3);
    accept_features(f, features | VIRTIO_F_VERSION_1);
    set_status(f, 11);
    assert_int_equal(status(f), 11);
    enable_msix(f, (unsigned)bar_rd(f, 18, 2) + 1);
    bar_wr(f, 16, 2, 0);
    for (unsigned i = 0; i < bar_rd(f, 18, 2); i++)
        setup_queue(f, i, num, (uint16_t)(i + 1));
    set_status(f, 15);
    assert_int_equal(status(f), 15);
    f->msi_count = 0;
}

#endif
