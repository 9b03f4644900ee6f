/* HPET: counter, one-shot and periodic, 32-bit mode, level and edge, legacy replacement. */
#include "irq_fixture.h"

#include "dev/hpet.h"

struct box {
    uint64_t now;
    struct clock *clock;
    struct hpet *h;
    struct dev *d;
    bool line[32], irq0, irq8;
    unsigned rises[32], rises0, rises8;
};

static uint64_t box_now(void *ctx)
{
    return ((struct box *)ctx)->now;
}
static void gsi(void *ctx, unsigned pin, bool level)
{
    struct box *b = ctx;
    b->rises[pin] += level && !b->line[pin];
    b->line[pin] = level;
}
static void irq0(void *ctx, unsigned pin, bool level)
{
    struct box *b = ctx;
    b->rises0 += level && !b->irq0;
    b->irq0 = level;
}
static void irq8(void *ctx, unsigned pin, bool level)
{
    struct box *b = ctx;
    b->rises8 += level && !b->irq8;
    b->irq8 = level;
}

static void to(struct box *b, uint64_t tick)
{
    uint64_t end = tick * 10;
    assert_true(end >= b->now);
    while (clock_next(b->clock) <= end) {
        if (clock_next(b->clock) > b->now)
            b->now = clock_next(b->clock);
        clock_run(b->clock);
    }
    b->now = end;
}
static void wr(struct box *b, unsigned off, uint64_t v)
{
    dev_wr(b->d, 0, off, 8, v);
}
static void wr4(struct box *b, unsigned off, uint32_t v)
{
    dev_wr(b->d, 0, off, 4, v);
}
static uint64_t rd(struct box *b, unsigned off)
{
    return dev_rd(b->d, 0, off, 8);
}

static int setup(void **state)
{
    struct box *b = calloc(1, sizeof(*b));
    b->clock = clock_new_source(NULL, &(struct clock_source){box_now, b}, 0);
    b->h = hpet_new(b->clock, &(struct hpet_wiring){{irq0, b, 0}, {irq8, b, 0}, {gsi, b, 0}, 0x00f00000});
    b->d = hpet_dev(b->h);
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

static void counter(void **state)
{
    struct box *b = *state;
    assert_true(rd(b, 0) == (10000000ull << 32 | 0x8086a201));
    to(b, 1000);
    assert_int_equal(rd(b, 0xf0), 0); /* halted */
    wr(b, 0x10, 1);
    to(b, 1500);
    assert_int_equal(rd(b, 0xf0), 500);
    wr(b, 0x10, 0);
    to(b, 3000);
    assert_int_equal(rd(b, 0xf0), 500);
    wr(b, 0xf0, 0x1fffffff0ull);
    wr(b, 0x10, 1);
    to(b, 3020);
    assert_true(rd(b, 0xf0) == 0x200000004ull);
    assert_int_equal(dev_rd(b->d, 0, 0xf4, 4), 2);
    assert_int_equal(dev_rd(b->d, 0, 0xf0, 4), 4);
    assert_int_equal(rd(b, 0x100) >> 32, 0x00f00000);
    assert_int_equal(rd(b, 0x160), 0); /* a fourth timer is not there */
    uint64_t v;
    assert_int_equal(b->d->ops->read(b->d, 0, 1024, 4, &v), DEV_UNMAPPED);
}

static void one_shot(void **state)
{
    struct box *b = *state;
    wr(b, 0x10, 1);
    wr(b, 0x120, 21u << 9 | 4); /* timer 1, edge */
    assert_int_equal(rd(b, 0x120) & 0xffffffff, (21u << 9) | 0x34);
    wr(b, 0x120, 3u << 9 | 4); /* a route it does not have */
    assert_int_equal(rd(b, 0x120) >> 9 & 31, 21);
    wr(b, 0x128, 5000);
    to(b, 4999);
    assert_int_equal(b->rises[21], 0);
    to(b, 5000);
    assert_int_equal(b->rises[21], 1);
    to(b, 100000);
    assert_int_equal(b->rises[21], 1);
    wr(b, 0x128, 100100);
    to(b, 100100);
    assert_int_equal(b->rises[21], 2); /* edge again, though nobody lowered the line */
    /* Level: stays until the status bit is written. */
    wr(b, 0x120, 21u << 9 | 6);
    assert_false(b->line[21]);
    wr(b, 0x128, 100200);
    to(b, 100200);
    assert_true(b->line[21]);
    assert_int_equal(rd(b, 0x20), 2);
    wr(b, 0x20, 1);
    assert_true(b->line[21]);
    wr(b, 0x20, 2);
    assert_false(b->line[21]);
    assert_int_equal(rd(b, 0x20), 0);
    /* Interrupt disabled: the status bit alone. */
    wr(b, 0x120, 21u << 9 | 2);
    wr(b, 0x128, 100300);
    to(b, 100300);
    assert_false(b->line[21]);
    assert_int_equal(rd(b, 0x20), 2);
    /* 32-bit mode matches again after a wrap of the low half. */
    wr(b, 0x20, 2);
    wr(b, 0x120, 21u << 9 | 0x104);
    wr(b, 0x128, 100400);
    unsigned n = b->rises[21];
    to(b, 100400 + (1ull << 32) - 1);
    assert_int_equal(b->rises[21], n + 1);
    to(b, 100400 + (1ull << 32));
    assert_int_equal(b->rises[21], n + 2);
}

static void periodic(void **state)
{
    struct box *b = *state;
    to(b, 10);
    /* As Linux does it: VAL_SET, first expiry, then the period; 32-bit writes. */
    wr4(b, 0x10, 1);
    wr4(b, 0x100, 20u << 9 | 0x14c);
    wr4(b, 0x108, 10000);
    wr4(b, 0x108, 4000);
    assert_int_equal(dev_rd(b->d, 0, 0x100, 4) & 0x40, 0);
    to(b, 10 + 9999);
    assert_int_equal(b->rises[20], 0);
    to(b, 10 + 10000);
    assert_int_equal(b->rises[20], 1);
    assert_int_equal(rd(b, 0x108), 14000);
    to(b, 10 + 10000 + 40000);
    assert_int_equal(b->rises[20], 11);
    /* The host comes late: one event, and the phase is kept. */
    b->now += 10 * 10100;
    clock_run(b->clock);
    assert_int_equal(b->rises[20], 12);
    assert_int_equal(rd(b, 0x108), 50000 + 12000);
    /* A period no host can keep. */
    wr4(b, 0x100, 20u << 9 | 0x14c);
    wr4(b, 0x108, 70000);
    wr4(b, 0x108, 1);
    unsigned n = b->rises[20];
    to(b, 170010);
    assert_in_range(b->rises[20] - n, 20, 60);
    wr4(b, 0x100, 0);
    wr4(b, 0x10, 0);
    assert_true(clock_next(b->clock) == UINT64_MAX);
    /* 64-bit period written in halves. */
    wr(b, 0xf0, 0);
    wr4(b, 0x140, 22u << 9 | 0x4c);
    wr4(b, 0x148, 1000);
    wr4(b, 0x14c, 1);
    assert_true(rd(b, 0x148) == 0x1000003e8ull);
}

static void legacy(void **state)
{
    struct box *b = *state;
    struct irq_line pit = hpet_input(b->h, 0), rtc = hpet_input(b->h, 1);
    irq_set(&pit, true);
    irq_set(&rtc, true);
    assert_true(b->irq0 && b->irq8);
    irq_set(&rtc, false);
    assert_false(b->irq8);
    wr(b, 0x10, 3);
    assert_false(b->irq0); /* the 8254 is cut off */
    irq_set(&pit, false);
    irq_set(&pit, true);
    assert_int_equal(b->rises0, 1);
    wr(b, 0x100, 20u << 9 | 4);
    wr(b, 0x108, 1000);
    wr(b, 0x120, 21u << 9 | 6);
    wr(b, 0x128, 1500);
    to(b, 2000);
    assert_int_equal(b->rises0, 2);
    assert_true(b->irq8);
    assert_int_equal(b->rises[20] + b->rises[21], 0);
    wr(b, 0x20, 2);
    assert_false(b->irq8);
    /* Timer 2 keeps its I/O APIC route. */
    wr(b, 0x140, 22u << 9 | 4);
    wr(b, 0x148, 2500);
    to(b, 2500);
    assert_int_equal(b->rises[22], 1);
    wr(b, 0x10, 1);
    assert_true(b->irq0); /* the 8254's level is back */
    /* Snapshot keeps the counter and a pending comparator. */
    uint8_t buf[512];
    wr(b, 0x148, 3000);
    size_t n = b->d->ops->save(b->d, buf, sizeof(buf));
    assert_true(n <= sizeof(buf));
    b->d->ops->reset(b->d);
    to(b, 10000);
    assert_int_equal(b->d->ops->load(b->d, buf, n), 0);
    assert_int_equal(rd(b, 0xf0), 2500);
    to(b, 10000 + 499);
    assert_int_equal(b->rises[22], 1);
    to(b, 10000 + 500);
    assert_int_equal(b->rises[22], 2);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {T(counter), T(one_shot), T(periodic), T(legacy)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
