/*
 * libFuzzer: virtio devices behind their PCI transport. The first byte chooses the device and whether a proper driver
 * brings it up first; then come register accesses, writes to rings and buffers, doorbells, time, input and resets.
 * The back ends trap on any access outside of the disk, or of guest memory.
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "dev/pci.h"
#include "dev/virtio/virtio_blk.h"
#include "dev/virtio/virtio_console.h"
#include "dev/virtio/virtio_pci.h"
#include "dev/virtio/virtio_rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x))                                                                                                      \
            __builtin_trap();                                                                                          \
    } while (0)

#define BASE 0x10000u
#define LEN 0x8000u /* guest RAM: [BASE, BASE + LEN) */
#define RING(q) (BASE + 0x1000u * (q))
#define NUM 8
#define DISK 16384u

struct world {
    uint8_t *mem;
    uint64_t now;
    struct clock *clock;
    struct pci_bus *bus;
    struct dev *d;
    struct chardev_sink sink;
    uint8_t *disk;
    bool ro, line[4];
    unsigned locked;
    void (*job)(void *);
    void *job_arg;
};

static void *w_map(void *ctx, uint64_t gpa, size_t len, bool write)
{
    struct world *w = ctx;
    if (gpa < BASE || len > LEN || gpa - BASE > LEN - len)
        return NULL;
    return w->mem + (gpa - BASE);
}
static int w_read(void *ctx, uint64_t gpa, void *buf, size_t len)
{
    void *p = w_map(ctx, gpa, len, false);
    if (p)
        memcpy(buf, p, len);
    return p ? 0 : -1;
}
static int w_write(void *ctx, uint64_t gpa, const void *buf, size_t len)
{
    void *p = w_map(ctx, gpa, len, true);
    if (p)
        memcpy(p, buf, len);
    return p ? 0 : -1;
}
static void w_dirty(void *ctx, uint64_t gpa, size_t len)
{
    CHECK(w_map(ctx, gpa, len, true));
}
static void w_msi(void *ctx, uint64_t addr, uint32_t d)
{
    CHECK((addr & 3) == 0);
}
static void w_line(void *ctx, unsigned pin, bool level)
{
    struct world *w = ctx;
    CHECK(w->line[pin] != level);
    w->line[pin] = level;
}
static void w_defer(void *ctx, void (*fn)(void *), void *arg)
{
    struct world *w = ctx;
    CHECK(!w->job);
    w->job = fn;
    w->job_arg = arg;
}
static void w_lock(void *ctx)
{
    CHECK(++((struct world *)ctx)->locked == 1);
}
static void w_unlock(void *ctx)
{
    CHECK(--((struct world *)ctx)->locked == 0);
}
static void w_log(void *ctx, const char *fmt, ...) {}
static uint64_t w_now(void *ctx)
{
    return ((struct world *)ctx)->now;
}

static int d_read(void *ctx, uint64_t off, void *buf, size_t len)
{
    struct world *w = ctx;
    CHECK(!w->locked && off <= DISK && len <= DISK - off);
    memcpy(buf, w->disk + off, len);
    return 0;
}
static int d_write(void *ctx, uint64_t off, const void *buf, size_t len)
{
    struct world *w = ctx;
    CHECK(!w->locked && !w->ro && off % 512 == 0 && off <= DISK && len <= DISK - off);
    memcpy(w->disk + off, buf, len);
    return 0;
}
static int d_flush(void *ctx)
{
    return 0;
}
static int d_range(void *ctx, uint64_t off, uint64_t len)
{
    struct world *w = ctx;
    CHECK(!w->locked && !w->ro && off <= DISK && len <= DISK - off);
    memset(w->disk + off, 0, len);
    return 0;
}
static size_t c_write(void *ctx, const uint8_t *buf, size_t n)
{
    struct world *w = ctx;
    size_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += buf[i];
    return (sum + w->now) % 3 ? n : n / 2;
}
static int r_fill(void *ctx, void *buf, size_t n)
{
    memset(buf, 0x42, n);
    return ((struct world *)ctx)->now % 5 == 4 ? -1 : 0;
}

static void wr(struct world *w, uint64_t off, unsigned size, uint64_t v)
{
    w->d->ops->write(w->d, 0, off, size, v);
}

static void bring_up(struct world *w, unsigned slot, uint8_t how)
{
    uint64_t n = 0;
    pci_bus_assign(w->bus);
    pci_cfg_write(w->bus, slot, PCI_COMMAND, 2, PCI_CMD_MEM | PCI_CMD_MASTER);
    wr(w, 20, 1, 0);
    wr(w, 20, 1, 3);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t feat = 0;
        wr(w, 0, 4, i);
        w->d->ops->read(w->d, 0, 4, 4, &feat);
        if (i == 0 && how & 1)
            feat &= ~(uint64_t)VIRTIO_F_EVENT_IDX;
        wr(w, 8, 4, i);
        wr(w, 12, 4, feat);
    }
    wr(w, 20, 1, 11);
    w->d->ops->read(w->d, 0, 18, 2, &n);
    for (unsigned q = 0; q < n; q++) {
        wr(w, 22, 2, q);
        wr(w, 24, 2, NUM);
        wr(w, 32, 8, RING(q));
        wr(w, 40, 8, RING(q) + 0x100);
        wr(w, 48, 8, RING(q) + 0x200);
        wr(w, 28, 2, 1);
    }
    wr(w, 20, 1, 15);
}

static void run_job(struct world *w)
{
    void (*fn)(void *) = w->job;
    w->job = NULL;
    if (fn)
        fn(w->job_arg);
}

/* A chain made of three descriptors the fuzzer only tunes, so that good requests are easy to find. */
static void request(struct world *w, unsigned q, const uint8_t *p)
{
    uint8_t *ring = w->mem + 0x1000 * q;
    uint64_t sector = p[1];
    uint32_t type = p[0] & 15, zero = 0;
    uint8_t *hdr = w->mem + 0x2000;
    memcpy(hdr, &type, 4);
    memcpy(hdr + 4, &zero, 4);
    memcpy(hdr + 8, &sector, 8);
    uint64_t addr[3] = {BASE + 0x2000, BASE + 0x3000 + p[2], BASE + 0x2100};
    uint32_t len[3] = {16, (uint32_t)(p[3] & 1 ? p[3] : p[3] * 256), 1};
    uint16_t flags[3] = {1, (uint16_t)(1 | (p[0] >> 4 & 3)), 2}, idx;
    for (uint16_t i = 0; i < 3; i++) {
        uint16_t next = (uint16_t)(i + 1);
        memcpy(ring + 16 * i, &addr[i], 8);
        memcpy(ring + 16 * i + 8, &len[i], 4);
        memcpy(ring + 16 * i + 12, &flags[i], 2);
        memcpy(ring + 16 * i + 14, &next, 2);
    }
    memcpy(&idx, ring + 0x102, 2);
    memset(ring + 0x104 + 2 * (idx % NUM), 0, 2);
    idx++;
    memcpy(ring + 0x102, &idx, 2);
    wr(w, VIRTIO_PCI_NOTIFY + 4 * q, 2, q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    uint8_t how = *data++;
    size--;
    struct world *w = calloc(1, sizeof *w);
    /* Exact-size allocations: the sanitizer sees the first byte outside. */
    w->mem = aligned_alloc(4096, LEN);
    w->disk = calloc(1, DISK);
    memset(w->mem, 0, LEN);
    struct clock_source src = {w_now, w};
    w->clock = clock_new_source(NULL, &src, 0);
    struct dev_env env = {.clock = w->clock,
                          .dma = {w, w_read, w_write, w_map, w_dirty},
                          .msi = {w_msi, w},
                          .defer = w_defer,
                          .defer_ctx = w,
                          .lock = w_lock,
                          .unlock = w_unlock,
                          .lock_ctx = w,
                          .log = w_log};
    struct pci_bus_config cfg = {.mem = {{0xc0000000, 0x100000}, {0, 0}}};
    for (unsigned i = 0; i < 4; i++)
        cfg.intx[i] = (struct irq_line){w_line, w, i};
    w->bus = pci_bus_new(&env, &cfg);
    unsigned slot = 3;
    w->ro = (how & 7) == 3;
    struct blockdev bd = {w, DISK, w->ro, d_read, d_write, d_flush, d_range, d_range};
    struct chardev cd = {w, c_write, NULL};
    struct entropy ent = {w, r_fill};
    switch (how & 3) {
    case 1: w->d = virtio_console_new(&env, w->bus, slot, &cd, &w->sink, 80, 25); break;
    case 2: w->d = virtio_rng_new(&env, w->bus, slot, &ent); break;
    default: w->d = virtio_blk_new(&env, w->bus, slot, &bd, "fuzz"); break;
    }
    struct dev *bus = pci_bus_dev(w->bus);
    if (how & 0x80)
        bring_up(w, slot, how >> 3);
    uint64_t v;
    while (size >= 8) {
        unsigned op = data[0] & 15, sz = 1u << (data[0] >> 4 & 3);
        uint32_t off = (uint32_t)(data[1] | data[2] << 8), val;
        memcpy(&val, data + 4, 4);
        switch (op) {
        case 0: wr(w, off & 63, sz, val); break;
        case 1: wr(w, off & 0x7fff, sz, (uint64_t)val << 32 | val); break;
        case 2: w->d->ops->read(w->d, 0, off & 0x7fff, sz, &v); break;
        case 3: pci_cfg_write(w->bus, slot, off & 255, sz, val); break;
        case 4: pci_cfg_read(w->bus, slot, off & 255, sz); break;
        case 5: memcpy(w->mem + off % (LEN - 4), &val, 4); break;
        case 6: memcpy(w->mem + (off & 0x13ff), &val, 4); break; /* the rings */
        case 7: wr(w, VIRTIO_PCI_NOTIFY + (off & 4), 2, 0); break;
        case 8: run_job(w); break;
        case 9:
            w->now += val % 20000000;
            clock_run(w->clock);
            break;
        case 10:
            if (w->sink.input && w->sink.room(w->sink.ctx) >= 4)
                w->sink.input(w->sink.ctx, data + 4, 4);
            break;
        case 11: bring_up(w, slot, data[1]); break;
        case 12:
            if (data[1] == 0)
                bus->ops->reset(bus);
            else if ((how & 3) == 1)
                virtio_console_resize(w->d, (uint16_t)val, data[1]);
            break;
        default: request(w, (off >> 4) & 1, data + 4); break;
        }
        data += 8;
        size -= 8;
    }
    run_job(w);
    run_job(w);
    CHECK(!w->locked);
    clock_stop(w->clock);
    bus->ops->fini(bus);
    clock_free(w->clock);
    free(w->mem);
    free(w->disk);
    free(w);
    return 0;
}
