/* The hypercall device: discovery, errors, console, events, timer, halt, page-table batches. */
#include "irq_fixture.h"

#include "dev/hypercall.h"

#define RAM 65536u
#define CALL 0x100u
#define EVENTS 0x400u
#define BUF 0x1000u

struct box {
    uint64_t now;
    struct clock *clock;
    struct dev *d;
    uint8_t ram[RAM] __attribute__((aligned(64)));
    unsigned rises, written, flushed, offs;
    bool line;
    uint64_t lin[4];
    char out[8192];
    size_t nout, room;
};

static uint64_t box_now(void *ctx) { return ((struct box *)ctx)->now; }
static void set_line(void *ctx, unsigned pin, bool level)
{
    struct box *b = ctx;
    b->rises += level && !b->line;
    b->line = level;
}
static int mem_read(void *ctx, uint64_t gpa, void *buf, size_t len)
{
    if (gpa > RAM || len > RAM - gpa)
        return -1;
    memcpy(buf, ((struct box *)ctx)->ram + gpa, len);
    return 0;
}
static int mem_write(void *ctx, uint64_t gpa, const void *buf, size_t len)
{
    if (gpa > RAM || len > RAM - gpa)
        return -1;
    memcpy(((struct box *)ctx)->ram + gpa, buf, len);
    return 0;
}
static void *mem_map(void *ctx, uint64_t gpa, size_t len, bool write)
{
    return gpa > RAM || len > RAM - gpa ? NULL : ((struct box *)ctx)->ram + gpa;
}
static void mem_dirty(void *ctx, uint64_t gpa, size_t len) { ((struct box *)ctx)->written++; }
static size_t console(void *ctx, const uint8_t *buf, size_t n)
{
    struct box *b = ctx;
    n = n < b->room ? n : b->room;
    memcpy(b->out + b->nout, buf, n);
    b->nout += n;
    b->room -= n;
    return n;
}
static void flush(void *ctx, const uint64_t *lin, unsigned n)
{
    struct box *b = ctx;
    b->flushed += n;
    for (unsigned i = 0; i < n && i < 4; i++)
        b->lin[i] = lin[i];
}
static void off(void *ctx) { ((struct box *)ctx)->offs++; }

static int setup(void **state)
{
    struct box *b = aligned_alloc(64, (sizeof(*b) + 63) & ~63ul);
    memset(b, 0, sizeof(*b));
    b->room = sizeof(b->out);
    b->clock = clock_new_source(NULL, &(struct clock_source){box_now, b}, 0);
    struct dev_env env = {.clock = b->clock, .dma = {b, mem_read, mem_write, mem_map, mem_dirty}};
    struct hypercall_config cfg = {.console = {.ctx = b, .write = console}, .irq = {set_line, b, 0}, .flush = flush, .poweroff = off, .ctx = b};
    b->d = hypercall_new(&env, &cfg);
    *state = b;
    return 0;
}
static int teardown(void **state)
{
    struct box *b = *state;
    b->d->ops->fini(b->d);
    clock_free(b->clock);
    free(b);
    return 0;
}

static void to(struct box *b, uint64_t end)
{
    while (clock_next(b->clock) <= end) {
        if (clock_next(b->clock) > b->now)
            b->now = clock_next(b->clock);
        clock_run(b->clock);
    }
    b->now = end;
}

static struct hc_call *slot(struct box *b) { return (struct hc_call *)(void *)(b->ram + CALL); }
static struct hc_events *events(struct box *b) { return (struct hc_events *)(void *)(b->ram + EVENTS); }

/* Status of the call; *halt: the processor was asked to wait. */
static uint32_t call_halt(struct box *b, bool *halt, uint32_t nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
    *slot(b) = (struct hc_call){.nr = nr, .status = 99, .arg = {a0, a1, a2}, .result = 77};
    int r = b->d->ops->write(b->d, 0, 0, 4, CALL);
    assert_true(r == DEV_OK || r == DEV_HALT);
    *halt = r == DEV_HALT;
    assert_int_equal(dev_rd(b->d, 0, 8, 4), slot(b)->status);
    if (slot(b)->status != HC_OK)
        assert_int_equal(slot(b)->result, 0);
    return slot(b)->status;
}
static uint32_t call(struct box *b, uint32_t nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
    bool halt;
    uint32_t s = call_halt(b, &halt, nr, a0, a1, a2);
    assert_false(halt);
    return s;
}

static void test_ports(void **state)
{
    struct box *b = *state;
    uint64_t v;
    assert_int_equal(dev_rd(b->d, 0, 0, 4), HC_MAGIC);
    assert_int_equal(dev_rd(b->d, 0, 4, 4), 0x7f);
    for (unsigned size = 1; size <= 8; size *= 2)
        for (unsigned o = 0; o < 16; o++)
            if (size != 4 || o % 4 || o >= HC_PORTS) {
                assert_int_equal(b->d->ops->read(b->d, 0, o, size, &v), DEV_UNMAPPED);
                assert_int_equal(b->d->ops->write(b->d, 0, o, size, CALL), DEV_UNMAPPED);
            }
}

/* Nothing a guest can pass does more than give a status. */
static void test_errors(void **state)
{
    struct box *b = *state;
    dev_wr(b->d, 0, 0, 4, CALL + 4);
    assert_int_equal(dev_rd(b->d, 0, 8, 4), HC_EINVAL);
    for (uint64_t a = RAM - 48 + 8; a <= 0xfffffff8; a = a < RAM ? a + 8 : a * 2) {
        dev_wr(b->d, 0, 0, 4, a & 0xfffffff8);
        assert_int_equal(dev_rd(b->d, 0, 8, 4), HC_EFAULT);
    }
    const uint64_t far[] = {RAM, RAM - 8, 1ull << 40, ~0ull & ~63ull, 1ull << 63};
    for (uint32_t nr = 9; nr; nr *= 2)
        assert_int_equal(call(b, nr, 0, 0, 0), HC_ENOSYS);
    assert_int_equal(call(b, 0, 0, 0, 0), HC_ENOSYS);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(call(b, HC_CONSOLE_WRITE, far[i], 64, 0), HC_EFAULT);
        assert_int_equal(call(b, HC_EVENTS, far[i], 0, 0), i == 1 ? HC_EINVAL : HC_EFAULT);
        assert_int_equal(call(b, HC_MMU_UPDATE, far[i], 1, 8), HC_EFAULT);
    }
    assert_int_equal(call(b, HC_CONSOLE_WRITE, BUF, HC_CONSOLE_MAX + 1, 0), HC_EINVAL);
    assert_int_equal(call(b, HC_MMU_UPDATE, BUF, HC_MMU_MAX + 1, 8), HC_EINVAL);
    assert_int_equal(call(b, HC_MMU_UPDATE, BUF, 1, 2), HC_EINVAL);
    assert_int_equal(call(b, HC_DELIVER, 0, 0, 0), HC_ENOTSUP);
    assert_int_equal(call(b, HC_TIMER, 0, 0, 0), HC_ENOTSUP);
    assert_int_equal(call(b, HC_HALT, 0, 0, 0), HC_ENOTSUP);
    assert_int_equal(b->rises + b->nout + b->flushed + b->offs, 0);
}

static void test_console(void **state)
{
    struct box *b = *state;
    for (unsigned i = 0; i < 4096; i++)
        b->ram[BUF + i] = (uint8_t)(i * 7);
    assert_int_equal(call(b, HC_CONSOLE_WRITE, BUF, 4096, 0), HC_OK);
    assert_int_equal(slot(b)->result, 4096);
    assert_memory_equal(b->out, b->ram + BUF, 4096);
    b->room = 300; /* a full host side takes a part */
    assert_int_equal(call(b, HC_CONSOLE_WRITE, BUF, 4096, 0), HC_OK);
    assert_int_equal(slot(b)->result, 300);
    assert_int_equal(call(b, HC_CONSOLE_WRITE, 1ull << 40, 0, 0), HC_OK); /* no bytes, no address */
    assert_int_equal(call(b, HC_POWEROFF, 0, 0, 0), HC_OK);
    assert_int_equal(b->offs, 1);
}

static void test_timer(void **state)
{
    struct box *b = *state;
    b->now = 1000000;
    assert_int_equal(call(b, HC_TIME, 0, 0, 0), HC_OK);
    const uint64_t t0 = slot(b)->result;
    assert_int_equal(call(b, HC_EVENTS, EVENTS, 0, 0), HC_OK);
    assert_int_equal(call(b, HC_TIMER, t0 + 100000, HC_TIMER_MIN - 1, 0), HC_EINVAL);
    assert_int_equal(call(b, HC_TIMER, t0 + 100000, 100000, 0), HC_OK);
    /* closed: remembered, no interrupt */
    to(b, b->now + 250000);
    assert_int_equal(events(b)->timer, 2);
    assert_int_equal(events(b)->pending, HC_EV_TIMER);
    assert_int_equal(b->rises, 0);
    assert_int_equal(call(b, HC_DELIVER, 0, 0, 0), HC_OK);
    assert_int_equal(b->rises, 0); /* still closed */
    events(b)->enabled = 1;
    assert_int_equal(call(b, HC_DELIVER, 0, 0, 0), HC_OK);
    assert_int_equal(b->rises, 1);
    events(b)->pending = 0;
    assert_int_equal(call(b, HC_DELIVER, 0, 0, 0), HC_OK);
    assert_int_equal(b->rises, 1);
    /* open: an edge for each */
    to(b, b->now + 300000);
    assert_int_equal(b->rises, 4);
    assert_int_equal(events(b)->timer, 5);
    /* one shot, and in the past */
    assert_int_equal(call(b, HC_TIMER, 0, 0, 0), HC_OK);
    to(b, b->now + 1000000);
    assert_int_equal(events(b)->timer, 6);
    assert_int_equal(call(b, HC_TIMER, t0, 100000, 0), HC_OK);
    assert_int_equal(call(b, HC_TIMER, HC_TIMER_OFF, 0, 0), HC_OK);
    to(b, b->now + 1000000);
    assert_int_equal(events(b)->timer, 6);
    /* taken back: nothing is written any more, the timer is off */
    assert_int_equal(call(b, HC_TIMER, t0, 100000, 0), HC_OK);
    assert_int_equal(call(b, HC_EVENTS, 0, 0, 0), HC_OK);
    memset(events(b), 0x5a, sizeof(struct hc_events));
    const unsigned written = b->written;
    to(b, b->now + 1000000);
    assert_int_equal(events(b)->timer, 0x5a5a5a5a);
    assert_int_equal(b->written, written);
    assert_int_equal(call(b, HC_TIMER, t0, 0, 0), HC_ENOTSUP);
}

/* A period that could not be kept yields one event, then the old phase. */
static void test_late(void **state)
{
    struct box *b = *state;
    b->now = 1000000;
    call(b, HC_TIME, 0, 0, 0);
    const uint64_t base = b->now - slot(b)->result;
    call(b, HC_EVENTS, EVENTS, 0, 0);
    call(b, HC_TIMER, b->now - base + 100000, 100000, 0);
    b->now += 1050000;
    clock_run(b->clock);
    assert_int_equal(events(b)->timer, 1);
    assert_int_equal(clock_next(b->clock) + base, 1000000 + 1100000);
}

static void test_halt(void **state)
{
    struct box *b = *state;
    bool halt;
    call(b, HC_EVENTS, EVENTS, 0, 0);
    assert_int_equal(call_halt(b, &halt, HC_HALT, 0, 0, 0), HC_OK);
    assert_true(halt);
    assert_int_equal(events(b)->enabled, 1);
    events(b)->enabled = 0;
    events(b)->pending = 1;
    assert_int_equal(call_halt(b, &halt, HC_HALT, 0, 0, 0), HC_OK);
    assert_false(halt);
    assert_int_equal(b->rises, 1);
    assert_int_equal(events(b)->enabled, 1);
}

static void test_mmu(void **state)
{
    struct box *b = *state;
    struct hc_mmu *m = (struct hc_mmu *)(void *)(b->ram + BUF);
    uint64_t *t = (uint64_t *)(void *)(b->ram + 0x2000);
    m[0] = (struct hc_mmu){0x2000, 0x1122334455667788ull, 0x400000};
    m[1] = (struct hc_mmu){0x2008, 7, HC_MMU_NO_ADDRESS};
    m[2] = (struct hc_mmu){0x2010, ~0ull, 0xffff800000000000ull};
    assert_int_equal(call(b, HC_MMU_UPDATE, BUF, 3, 8), HC_OK);
    assert_int_equal(slot(b)->result, 3);
    assert_true(t[0] == 0x1122334455667788ull && t[1] == 7 && t[2] == ~0ull);
    assert_int_equal(b->flushed, 2);
    assert_true(b->lin[0] == 0x400000 && b->lin[1] == 0xffff800000000000ull);
    /* 32-bit entries: neighbours stay */
    m[0] = (struct hc_mmu){0x2004, 0xdead, 0x1000};
    assert_int_equal(call(b, HC_MMU_UPDATE, BUF, 1, 4), HC_OK);
    assert_true(t[0] == 0xdead55667788ull);
    /* one bad entry: none is written, nothing is flushed */
    const struct hc_mmu bad[] = {{0x2004, 1, 0}, {RAM, 1, 0}, {~7ull, 1, 0}};
    for (unsigned i = 0; i < 3; i++) {
        m[0] = (struct hc_mmu){0x2000, 1, 0};
        m[1] = bad[i];
        assert_int_equal(call(b, HC_MMU_UPDATE, BUF, 2, 8), i ? HC_EFAULT : HC_EINVAL);
    }
    m[1] = (struct hc_mmu){0x2004, 1ull << 32, 0};
    assert_int_equal(call(b, HC_MMU_UPDATE, BUF, 2, 4), HC_EINVAL);
    assert_true(t[0] == 0xdead55667788ull);
    assert_int_equal(b->flushed, 3);
    /* the array may be what it changes */
    m[0] = (struct hc_mmu){BUF, 5, 0};
    assert_int_equal(call(b, HC_MMU_UPDATE, BUF, 1, 8), HC_OK);
    assert_true(m[0].entry == 5);
}

static void test_reset(void **state)
{
    struct box *b = *state;
    call(b, HC_EVENTS, EVENTS, 0, 0);
    events(b)->enabled = 1;
    call(b, HC_TIMER, 0, 100000, 0);
    to(b, b->now + 100);
    assert_true(b->line);
    b->d->ops->reset(b->d);
    assert_false(b->line);
    const uint32_t n = events(b)->timer;
    to(b, b->now + 1000000);
    assert_int_equal(events(b)->timer, n);
    assert_int_equal(call(b, HC_DELIVER, 0, 0, 0), HC_ENOTSUP);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_ports), T(test_errors), T(test_console), T(test_timer), T(test_late), T(test_halt), T(test_mmu), T(test_reset)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
