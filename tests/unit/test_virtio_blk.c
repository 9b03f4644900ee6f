/* Virtio block device on a disk in memory. */
#include <errno.h>

#include "tests/unit/virtio_fixture.h"

#include "dev/virtio/virtio_blk.h"
#include "ringer/host.h"

#define SECTORS 2048u
#define F_RO (1ull << 5)
#define F_FLUSH (1ull << 9)
#define F_WCE (1ull << 11)
#define F_DISCARD (1ull << 13)
#define F_WZ (1ull << 14)

enum { OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_ZERO };

struct disk {
    uint8_t data[SECTORS * 512];
    struct fix *f;
    int rc; /* what every call gives */
    struct {
        int op;
        uint64_t off, len;
    } op[512];
    unsigned n;
    struct host_event *entered, *go; /* a read stops in the middle if set */
};
static struct disk disk;

static int log_op(struct disk *d, int op, uint64_t off, uint64_t len)
{
    if (d->f)
        assert_int_equal(d->f->depth, 0); /* never under the device lock */
    assert_true(d->n < 512);
    d->op[d->n].op = op;
    d->op[d->n].off = off;
    d->op[d->n++].len = len;
    assert_true(off <= sizeof d->data && len <= sizeof d->data - off);
    return d->rc;
}
static int d_read(void *ctx, uint64_t off, void *buf, size_t len)
{
    struct disk *d = ctx;
    int rc = log_op(d, OP_READ, off, len);
    if (d->entered) {
        host_event_set(d->entered);
        host_event_wait(d->go, UINT64_MAX);
    }
    if (!rc)
        memcpy(buf, d->data + off, len);
    return rc;
}
static int d_write(void *ctx, uint64_t off, const void *buf, size_t len)
{
    struct disk *d = ctx;
    int rc = log_op(d, OP_WRITE, off, len);
    if (!rc)
        memcpy(d->data + off, buf, len);
    return rc;
}
static int d_flush(void *ctx)
{
    return log_op(ctx, OP_FLUSH, 0, 0);
}
static int d_discard(void *ctx, uint64_t off, uint64_t len)
{
    return log_op(ctx, OP_DISCARD, off, len);
}
static int d_zero(void *ctx, uint64_t off, uint64_t len)
{
    struct disk *d = ctx;
    int rc = log_op(d, OP_ZERO, off, len);
    if (!rc)
        memset(d->data + off, 0, len);
    return rc;
}

static struct blockdev backend(bool ro)
{
    return (struct blockdev){.ctx = &disk,
                             .size = sizeof disk.data,
                             .readonly = ro,
                             .read = d_read,
                             .write = d_write,
                             .flush = d_flush,
                             .discard = d_discard,
                             .write_zeroes = d_zero};
}

static void start(struct fix *f, bool ro)
{
    memset(&disk, 0, sizeof disk);
    for (unsigned i = 0; i < sizeof disk.data; i++)
        disk.data[i] = (uint8_t)(i / 512 * 31 + i);
    disk.f = f;
    struct blockdev bd = backend(ro);
    f->slot = ro ? 7 : 6;
    f->d = virtio_blk_new(&f->env, f->bus, f->slot, &bd, "serial-1");
    assert_non_null(f->d);
}

static int setup(void **st)
{
    struct fix *f = fix_new();
    start(f, false);
    *st = f;
    return 0;
}
static int teardown(void **st)
{
    fix_free(*st);
    return 0;
}

#define HDR HEAP
#define DATA (HEAP + 0x1000)
#define STATUS (HEAP + 0x800)

static void put_header(struct fix *f, uint64_t gpa, uint32_t type, uint64_t sector)
{
    uint32_t t[2] = {type, 0};
    memcpy(at(f, gpa), t, 8);
    memcpy(at(f, gpa + 8), &sector, 8);
}

/* One request with one data segment (len 0: none), run to its end: the status byte; *used: length in the used ring. */
static uint8_t request(struct fix *f, uint32_t type, uint64_t sector, uint32_t len, bool in, uint32_t *used)
{
    struct seg s[3] = {{HDR, 16, false}, {DATA, len, in}, {STATUS, 1, true}};
    uint32_t id = 0, ulen = 0;
    put_header(f, HDR, type, sector);
    *(uint8_t *)at(f, STATUS) = 0xee;
    if (!len)
        s[1] = s[2];
    uint16_t head = add_chain(f, 0, s, len ? 3 : 2);
    kick(f, 0);
    fix_drain(f);
    assert_true(get_used(f, 0, &id, &ulen));
    assert_int_equal(id, head);
    if (used)
        *used = ulen;
    return *(uint8_t *)at(f, STATUS);
}

static void test_config(void **st)
{
    struct fix *f = *st;
    uint64_t feat = offered(f);
    assert_true((feat & (F_FLUSH | F_WCE | F_DISCARD | F_WZ)) == (F_FLUSH | F_WCE | F_DISCARD | F_WZ));
    assert_false(feat & F_RO);
    assert_true(bar_rd(f, 0x2000, 8) == SECTORS);
    assert_int_equal(bar_rd(f, 0x2000 + 12, 4), 254);
    assert_int_equal(bar_rd(f, 0x2000 + 20, 4), 512);
    assert_int_equal(cfg_rd(f, 0, 4), 0x10421af4);
    assert_int_equal(cfg_rd(f, 8, 4) >> 24, 1); /* mass storage */
}

static void test_read_write(void **st)
{
    struct fix *f = *st;
    uint32_t used;
    bring_up(f, F_FLUSH | VIRTIO_F_EVENT_IDX, 64);
    f->dirty_bytes = 0;
    assert_int_equal(request(f, 0, 5, 4096, true, &used), 0);
    assert_int_equal(used, 4097);
    assert_true(f->dirty_bytes >= 4097); /* code there is translated anew */
    assert_memory_equal(at(f, DATA), disk.data + 5 * 512, 4096);
    memset(at(f, DATA), 0xa5, 1024);
    assert_int_equal(request(f, 1, 100, 1024, false, &used), 0);
    assert_int_equal(used, 1);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(disk.data[100 * 512 + i], 0xa5);
    assert_int_equal(disk.data[102 * 512], (uint8_t)(102 * 31));
    assert_int_equal(disk.n, 2);
    assert_int_equal(request(f, 0, SECTORS - 1, 512, true, NULL), 0);
    /* id and flush */
    assert_int_equal(request(f, 8, 0, 20, true, &used), 0);
    assert_memory_equal(at(f, DATA), "serial-1\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    assert_int_equal(used, 21);
    memset(at(f, DATA), 0, 20);
    assert_int_equal(request(f, 8, 0, 4, true, &used), 0);
    assert_memory_equal(at(f, DATA), "seri\0", 5);
    disk.n = 0;
    assert_int_equal(request(f, 4, 0, 0, false, NULL), 0);
    assert_true(disk.n == 1 && disk.op[0].op == OP_FLUSH);
    assert_int_equal(request(f, 99, 0, 0, false, NULL), 2);
    assert_int_equal(request(f, 11, 0, 16, false, NULL), 2); /* discard was not negotiated */
}

/* Nothing outside of the disk is touched, and nothing at all by a request that is partly wrong. */
static void test_bad_ranges(void **st)
{
    struct fix *f = *st;
    static const struct {
        uint64_t sector;
        uint32_t len;
    } bad[] = {{SECTORS, 512},
               {SECTORS - 1, 1024},
               {~0ull, 512},
               {~0ull / 512, 512},
               {1ull << 55, 512},
               {0, 511},
               {0, 513},
               {3, 1},
               {0, (SECTORS + 1) * 512},
               {~0ull - 6, 8 * 512},
               {0x80000000000000ull, 512}};
    bring_up(f, F_FLUSH, 64);
    uint32_t used;
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(request(f, 1, bad[i].sector, bad[i].len, false, &used), 1);
        assert_int_equal(request(f, 0, bad[i].sector, bad[i].len, true, &used), 1);
        assert_int_equal(used, 0);
    }
    assert_int_equal(disk.n, 0);
    assert_int_equal(request(f, 1, SECTORS, 0, false, NULL), 0); /* nothing, at the end: nothing wrong */
    disk.rc = -EIO;
    assert_int_equal(request(f, 1, 0, 512, false, NULL), 1);
    assert_int_equal(request(f, 0, 0, 512, true, NULL), 1);
    assert_int_equal(request(f, 4, 0, 0, false, NULL), 1);
}

/* Header, data and status cut at odd places (any layout is legal). */
static void test_layout(void **st)
{
    struct fix *f = *st;
    uint32_t id = 0, len = 0;
    bring_up(f, F_FLUSH, 64);
    uint8_t *m = at(f, HEAP);
    put_header(f, HEAP, 1, 7);
    for (unsigned i = 0; i < 1024; i++)
        m[16 + i] = (uint8_t)(i * 3);
    struct seg w[] = {
        {HEAP, 5, false}, {HEAP + 5, 20, false}, {HEAP + 25, 1000, false}, {HEAP + 1025, 15, false}, {STATUS, 1, true}};
    m[0x800] = 9;
    add_chain(f, 0, w, 5);
    kick(f, 0);
    fix_drain(f);
    assert_true(get_used(f, 0, &id, &len));
    assert_int_equal(m[0x800], 0);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(disk.data[7 * 512 + i], (uint8_t)(i * 3));
    /* neighbours in memory are merged: one call, from byte 16 on */
    assert_int_equal(disk.n, 1);
    put_header(f, HEAP, 0, 7);
    struct seg r[] = {{HEAP, 16, false}, {DATA, 100, true}, {DATA + 0x1000, 1, true}, {DATA + 0x2000, 924, true}};
    add_chain(f, 0, r, 4); /* the status is the last byte of 1025 */
    kick(f, 0);
    fix_drain(f);
    assert_true(get_used(f, 0, &id, &len) && len == 1025);
    assert_memory_equal(at(f, DATA), disk.data + 7 * 512, 100);
    assert_memory_equal(at(f, DATA + 0x1000), disk.data + 7 * 512 + 100, 1);
    assert_memory_equal(at(f, DATA + 0x2000), disk.data + 7 * 512 + 101, 923);
    assert_int_equal(((uint8_t *)at(f, DATA + 0x2000))[923], 0);
}

static void test_malformed(void **st)
{
    struct fix *f = *st;
    struct seg no_status[] = {{HDR, 16, false}}, no_header[] = {{STATUS, 1, true}},
               shrt[] = {{HDR, 15, false}, {STATUS, 1, true}};
    struct seg no_ram[] = {{HDR, 16, false}, {0x1000, 512, false}, {STATUS, 1, true}};
    struct {
        struct seg *s;
        unsigned n;
    } c[] = {{no_status, 1}, {no_header, 1}, {shrt, 2}, {no_ram, 3}};
    for (unsigned i = 0; i < 4; i++) {
        bring_up(f, F_FLUSH, 64);
        put_header(f, HDR, 1, 0);
        add_chain(f, 0, c[i].s, c[i].n);
        kick(f, 0);
        fix_drain(f);
        assert_int_equal(status(f), 15 | 64);
        assert_int_equal(f->msi_count, 1);
        assert_int_equal(f->msi_data, 0x40);
    }
    assert_int_equal(disk.n, 0);
    bring_up(f, F_FLUSH, 64);
    assert_int_equal(request(f, 0, 0, 512, true, NULL), 0);
}

static void put_range(struct fix *f, unsigned i, uint64_t sector, uint32_t n, uint32_t flags)
{
    uint8_t *p = at(f, DATA + 16 * i);
    memcpy(p, &sector, 8);
    memcpy(p + 8, &n, 4);
    memcpy(p + 12, &flags, 4);
}

static void test_discard_zero(void **st)
{
    struct fix *f = *st;
    bring_up(f, F_FLUSH | F_DISCARD | F_WZ, 64);
    put_range(f, 0, 8, 16, 0);
    put_range(f, 1, 0, 0, 0);
    put_range(f, 2, SECTORS - 8, 8, 0);
    assert_int_equal(request(f, 11, 0, 48, false, NULL), 0);
    assert_true(disk.n == 2 && disk.op[0].op == OP_DISCARD && disk.op[0].off == 4096 && disk.op[0].len == 8192);
    assert_true(disk.op[1].off == (SECTORS - 8) * 512 && disk.op[1].len == 4096);
    put_range(f, 0, 8, 16, 1); /* may unmap */
    disk.n = 0;
    assert_int_equal(request(f, 13, 0, 16, false, NULL), 0);
    assert_true(disk.n == 1 && disk.op[0].op == OP_ZERO && disk.data[8 * 512] == 0 && disk.data[24 * 512 - 1] == 0);
    assert_true(disk.data[8 * 512 - 1] != 0 && disk.data[24 * 512] != 0);
    /* a good range before a bad one stays untouched */
    disk.n = 0;
    for (unsigned op = 11; op <= 13; op += 2) {
        put_range(f, 0, 40, 8, 0);
        put_range(f, 1, SECTORS, 1, 0);
        assert_int_equal(request(f, op, 0, 32, false, NULL), 1);
        put_range(f, 1, ~0ull, 1, 0);
        assert_int_equal(request(f, op, 0, 32, false, NULL), 1);
        put_range(f, 1, 0, 0xffffffff, 0);
        assert_int_equal(request(f, op, 0, 32, false, NULL), 1);
        put_range(f, 1, 0, 8, op == 11 ? 1 : 2); /* flags */
        assert_int_equal(request(f, op, 0, 32, false, NULL), 2);
        assert_int_equal(request(f, op, 0, 15, false, NULL), 1);
        assert_int_equal(request(f, op, 0, 0, false, NULL), 1);
        assert_int_equal(request(f, op, 0, 16 * 33, false, NULL), 1); /* more than announced */
    }
    assert_int_equal(disk.n, 0);
    disk.rc = -ENOTSUP;
    put_range(f, 0, 40, 8, 0);
    assert_int_equal(request(f, 11, 0, 16, false, NULL), 0);
    assert_int_equal(request(f, 13, 0, 16, false, NULL), 2);
}

static void test_readonly(void **st)
{
    struct fix *f = *st;
    start(f, true);
    assert_true((offered(f) & (F_RO | F_FLUSH | F_DISCARD | F_WZ)) == F_RO);
    bring_up(f, F_RO, 64);
    assert_int_equal(request(f, 1, 0, 512, false, NULL), 1);
    put_range(f, 0, 0, 1, 0);
    assert_int_equal(request(f, 11, 0, 16, false, NULL), 2);
    assert_int_equal(request(f, 13, 0, 16, false, NULL), 2);
    assert_int_equal(disk.n, 0);
    assert_int_equal(request(f, 0, 0, 512, true, NULL), 0);
}

static void test_cache_mode(void **st)
{
    struct fix *f = *st;
    bring_up(f, F_FLUSH, 64); /* write-back */
    assert_int_equal(bar_rd(f, 0x2020, 1), 1);
    request(f, 1, 0, 512, false, NULL);
    assert_int_equal(disk.n, 1);
    bar_wr(f, 0x2020, 1, 0); /* not negotiated */
    assert_int_equal(bar_rd(f, 0x2020, 1), 1);
    bring_up(f, 0, 64); /* the driver cannot flush: every write is flushed */
    assert_int_equal(bar_rd(f, 0x2020, 1), 0);
    disk.n = 0;
    request(f, 1, 0, 512, false, NULL);
    assert_true(disk.n == 2 && disk.op[0].op == OP_WRITE && disk.op[1].op == OP_FLUSH);
    bring_up(f, F_FLUSH | F_WCE, 64);
    disk.n = 0;
    bar_wr(f, 0x2020, 1, 0);
    assert_true(disk.n == 1 && disk.op[0].op == OP_FLUSH);
    request(f, 1, 0, 512, false, NULL);
    assert_int_equal(disk.n, 3);
    bar_wr(f, 0x2020, 1, 7);
    assert_int_equal(bar_rd(f, 0x2020, 1), 0);
    bar_wr(f, 0x2020, 1, 1);
    request(f, 1, 0, 512, false, NULL);
    assert_int_equal(disk.n, 4);
}

/* 64 requests, one doorbell: executed in ring order, completed in batches, few interrupts. */
static void test_batch(void **st)
{
    struct fix *f = *st;
    uint32_t id = 0, len = 0;
    bring_up(f, F_FLUSH | VIRTIO_F_EVENT_IDX, 256);
    for (unsigned i = 0; i < 64; i++) {
        put_header(f, HEAP + 0x10000 + 32 * i, i % 16 == 15 ? 4 : 1, i);
        struct seg s[] = {{HEAP + 0x10000 + 32 * i, 16, false}, {DATA, 512, false}, {HEAP + 0x20000 + i, 1, true}};
        if (i % 16 == 15)
            s[1] = s[2];
        ((uint8_t *)at(f, HEAP + 0x20000))[i] = 9;
        add_chain(f, 0, s, i % 16 == 15 ? 2 : 3);
    }
    kick(f, 0);
    kick(f, 0);
    assert_int_equal(f->jobs, 1); /* one worker */
    fix_drain(f);
    for (unsigned i = 0; i < 64; i++) {
        assert_true(get_used(f, 0, &id, &len));
        assert_int_equal(((uint8_t *)at(f, HEAP + 0x20000))[i], 0);
        assert_int_equal(disk.op[i].op, i % 16 == 15 ? OP_FLUSH : OP_WRITE);
        if (i % 16 != 15)
            assert_int_equal(disk.op[i].off, i * 512);
    }
    assert_int_equal(f->msi_count, 1);                            /* used_event 0: only the first was asked for */
    assert_int_equal(g16(f, RING(0) + 0x8000 + 4 + 8 * 256), 64); /* and the next doorbell is wanted */
}

/* --- a reset with a request in flight, on real threads --------------------- */

static void m_lock(void *ctx)
{
    host_lock(ctx);
}
static void m_unlock(void *ctx)
{
    host_unlock(ctx);
}
struct resetter {
    struct fix *f;
    struct host_mutex *m;
    _Atomic bool done;
};
static void io_thread(void *arg)
{
    struct fix *f = arg;
    f->job[0].fn(f->job[0].arg);
}
static void reset_thread(void *arg)
{
    struct resetter *r = arg;
    host_lock(r->m);
    set_status(r->f, 0);
    host_unlock(r->m);
    r->done = true;
}

static void test_reset_in_flight(void **st)
{
    struct fix *f = fix_new();
    uint32_t id = 0, len = 0;
    struct resetter r = {.f = f, .m = host_mutex_new()};
    f->env.lock = m_lock;
    f->env.unlock = m_unlock;
    f->env.lock_ctx = r.m;
    start(f, false);
    disk.f = NULL;
    disk.entered = host_event_new();
    disk.go = host_event_new();
    bring_up(f, F_FLUSH, 64);
    /* two reads and a flush in one batch; the first is stopped inside the back end */
    for (unsigned i = 0; i < 3; i++) {
        put_header(f, HDR + 32 * i, i == 2 ? 4 : 0, 1 + i);
        struct seg s[] = {{HDR + 32 * i, 16, false}, {DATA + 0x1000 * i, 512, true}, {STATUS + i, 1, true}};
        add_chain(f, 0, s, 3);
    }
    memset(at(f, STATUS), 0xee, 3);
    kick(f, 0);
    struct host_thread *io = host_thread_start("io", io_thread, f);
    assert_true(host_event_wait(disk.entered, host_now() + 10000000000ull));
    struct host_thread *rt = host_thread_start("reset", reset_thread, &r);
    host_event_wait(disk.entered, host_now() + 30000000); /* a while */
    assert_false(r.done); /* the reset waits for the transfer, since it writes to guest memory */
    host_event_set(disk.go);
    host_thread_join(rt);
    host_thread_join(io);
    f->jobs = 0;
    assert_int_equal(disk.n, 1); /* the others were never started */
    assert_int_equal(status(f), 0);
    assert_int_equal(g16(f, RING(0) + 0x8002), 0);
    assert_int_equal(*(uint8_t *)at(f, STATUS), 0xee);
    assert_int_equal(f->msi_count, 0);
    /* the device works on */
    host_event_free(disk.entered);
    host_event_free(disk.go);
    disk.entered = NULL;
    bring_up(f, F_FLUSH, 64);
    assert_false(get_used(f, 0, &id, &len));
    assert_int_equal(request(f, 0, 1, 512, true, NULL), 0);
    fix_free(f);
    host_mutex_free(r.m);
}

static void test_inline(void **st)
{
    struct fix *f = fix_new();
    f->env.defer = NULL;
    start(f, false);
    bring_up(f, F_FLUSH, 64);
    assert_int_equal(request(f, 0, 1, 512, true, NULL), 0);
    assert_int_equal(f->jobs, 0);
    assert_int_equal(request(f, 1, 1, 512, false, NULL), 0);
    fix_free(f);
}

/* Enough requests, larger than a batch, that the worker hands the thread back in between. */
static void test_turns(void **st)
{
    struct fix *f = *st;
    uint32_t id = 0, len = 0;
    bring_up(f, F_FLUSH, 256);
    struct seg s[] = {{HDR, 16, false}, {MEM_BASE + 0x200000, 512 * 1024, true}, {STATUS, 1, true}};
    put_header(f, HDR, 0, 0);
    for (unsigned i = 0; i < 80; i++)
        add_chain(f, 0, s, 3);
    kick(f, 0);
    f->job[0].fn(f->job[0].arg);
    assert_int_equal(f->jobs, 2); /* deferred itself again */
    assert_int_equal(disk.n, 64);
    kick(f, 0);
    assert_int_equal(f->jobs, 2);
    f->job[1].fn(f->job[1].arg);
    assert_int_equal(disk.n, 80);
    for (unsigned i = 0; i < 80; i++)
        assert_true(get_used(f, 0, &id, &len) && len == 512 * 1024 + 1);
    f->jobs = 0;
}

int main(void)
{
#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_config),
        T(test_read_write),
        T(test_bad_ranges),
        T(test_layout),
        T(test_malformed),
        T(test_discard_zero),
        T(test_readonly),
        T(test_cache_mode),
        T(test_batch),
        T(test_turns),
        cmocka_unit_test(test_reset_in_flight),
        cmocka_unit_test(test_inline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
