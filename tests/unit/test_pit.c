/* 8254: modes, reading, latches, BCD, gate, port B, and channel 0's interrupt. */
#include "irq_fixture.h"

#include "dev/pit.h"

struct box {
    uint64_t now;
    struct clock *clock;
    struct pit *p;
    struct dev *d;
    bool line;
    unsigned rises;
};

static uint64_t box_now(void *ctx)
{
    return ((struct box *)ctx)->now;
}
static void out0(void *ctx, unsigned pin, bool level)
{
    struct box *b = ctx;
    b->rises += level && !b->line;
    b->line = level;
}

/* Nanoseconds at which the counter input has made t clocks. */
static uint64_t ns_of(uint64_t t)
{
    return (t * 17600 + 20) / 21;
}

static void to(struct box *b, uint64_t tick)
{
    uint64_t end = ns_of(tick);
    assert_true(end >= b->now);
    while (clock_next(b->clock) <= end) {
        if (clock_next(b->clock) > b->now)
            b->now = clock_next(b->clock);
        clock_run(b->clock);
    }
    b->now = end;
}

static void wr(struct box *b, unsigned port, uint8_t v)
{
    dev_wr(b->d, PIT_BANK_REGS, port - 0x40, 1, v);
}
static uint8_t rd(struct box *b, unsigned port)
{
    return (uint8_t)dev_rd(b->d, PIT_BANK_REGS, port - 0x40, 1);
}
static void portb(struct box *b, uint8_t v)
{
    dev_wr(b->d, PIT_BANK_PORTB, 0, 1, v);
}
static void load(struct box *b, unsigned ch, uint16_t n)
{
    wr(b, 0x40 + ch, (uint8_t)n);
    wr(b, 0x40 + ch, (uint8_t)(n >> 8));
}
static uint16_t count(struct box *b, unsigned ch)
{
    wr(b, 0x43, (uint8_t)(ch << 6));
    uint16_t v = rd(b, 0x40 + ch);
    return (uint16_t)(v | rd(b, 0x40 + ch) << 8);
}
static uint8_t status(struct box *b, unsigned ch)
{
    wr(b, 0x43, (uint8_t)(0xe0 | 2u << ch));
    return rd(b, 0x40 + ch);
}

static int setup(void **state)
{
    struct box *b = calloc(1, sizeof(*b));
    b->clock = clock_new_source(NULL, &(struct clock_source){box_now, b}, 0);
    b->p = pit_new(b->clock, (struct irq_line){out0, b, 0});
    b->d = pit_dev(b->p);
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

static void mode0(void **state)
{
    struct box *b = *state;
    wr(b, 0x43, 0x30);
    assert_false(pit_out(b->p, 0));
    load(b, 0, 1000);
    assert_int_equal(status(b, 0), 0x70); /* null count: loaded by the next clock */
    to(b, 1);
    assert_int_equal(status(b, 0), 0x30);
    assert_int_equal(count(b, 0), 1000);
    to(b, 401);
    assert_int_equal(count(b, 0), 600);
    to(b, 1000);
    assert_false(b->line);
    to(b, 1001);
    assert_true(b->line);
    assert_int_equal(status(b, 0), 0xb0);
    to(b, 1011);
    assert_int_equal(count(b, 0), 65536 - 10); /* goes on, wraps */
    to(b, 200000);
    assert_int_equal(b->rises, 1);
    /* The first byte of a new count stops and lowers OUT. */
    wr(b, 0x40, 10);
    assert_false(pit_out(b->p, 0));
    assert_false(b->line);
    wr(b, 0x40, 0);
    to(b, 200011);
    assert_int_equal(b->rises, 2);
}

static void mode2(void **state)
{
    struct box *b = *state;
    wr(b, 0x43, 0x34);
    load(b, 0, 1000);
    unsigned base = b->rises; /* OUT rises with the control word */
    assert_int_equal(base, 1);
    to(b, 1 + 999);
    assert_false(pit_out(b->p, 0)); /* one clock low */
    assert_int_equal(count(b, 0), 1);
    to(b, 1 + 1000);
    assert_true(pit_out(b->p, 0));
    assert_int_equal(count(b, 0), 1000);
    assert_int_equal(b->rises, base + 1);
    to(b, 1 + 10500);
    assert_int_equal(b->rises, base + 10);
    /* A new count waits for the end of the period. */
    load(b, 0, 300);
    assert_int_equal(status(b, 0), 0xf4);
    assert_int_equal(count(b, 0), 500);
    to(b, 1 + 10999);
    assert_int_equal(count(b, 0), 1);
    to(b, 1 + 11100);
    assert_int_equal(count(b, 0), 200);
    assert_int_equal(status(b, 0), 0xb4);
    to(b, 1 + 11000 + 3000);
    assert_int_equal(b->rises, base + 21);
    /* A period far too short for the host coalesces. */
    wr(b, 0x43, 0x34);
    load(b, 0, 2);
    base = b->rises;
    to(b, 1 + 14000 + 119318); /* 0.1 s */
    assert_in_range(b->rises - base, 1000, 5000);
}

static void mode3(void **state)
{
    struct box *b = *state;
    wr(b, 0x43, 0x36);
    load(b, 0, 1001);
    unsigned base = b->rises;
    to(b, 1);
    assert_int_equal(count(b, 0), 1000);
    to(b, 1 + 500);
    assert_true(pit_out(b->p, 0));
    assert_int_equal(count(b, 0), 0);
    to(b, 1 + 501);
    assert_false(pit_out(b->p, 0));
    assert_false(b->line);
    assert_int_equal(count(b, 0), 1000);
    to(b, 1 + 1000);
    assert_false(b->line);
    assert_int_equal(count(b, 0), 2);
    to(b, 1 + 1001);
    assert_true(b->line);
    assert_int_equal(b->rises, base + 1);
    to(b, 1 + 100100);
    assert_int_equal(b->rises, base + 100);
    /* Even count: down by two. A new count takes force at the half. */
    wr(b, 0x43, 0x36);
    load(b, 0, 1000);
    uint64_t t0 = 1 + 100100 + 1;
    to(b, t0 + 100);
    assert_int_equal(count(b, 0), 800);
    load(b, 0, 400);
    to(b, t0 + 499);
    assert_int_equal(count(b, 0), 2);
    to(b, t0 + 510);
    assert_int_equal(count(b, 0), 380);
}

static void mode4(void **state)
{
    struct box *b = *state;
    wr(b, 0x43, 0x38);
    unsigned base = b->rises;
    load(b, 0, 500);
    to(b, 1 + 500);
    assert_false(pit_out(b->p, 0));
    assert_int_equal(b->rises, base);
    to(b, 1 + 501);
    assert_true(pit_out(b->p, 0));
    assert_int_equal(b->rises, base + 1);
    to(b, 200000);
    assert_int_equal(b->rises, base + 1);
    load(b, 0, 100); /* software triggers again */
    to(b, 200102);
    assert_int_equal(b->rises, base + 2);
}

static void channel2(void **state)
{
    struct box *b = *state;
    assert_int_equal(dev_rd(b->d, PIT_BANK_PORTB, 0, 1) & 0x2f, 0);
    /* Mode 0 under gate control: how kernels calibrate. */
    wr(b, 0x43, 0xb0);
    load(b, 2, 1000);
    to(b, 100);
    assert_int_equal(count(b, 2), 1000); /* gate low: stands */
    portb(b, 1);
    to(b, 400);
    assert_int_equal(count(b, 2), 700);
    portb(b, 0);
    to(b, 1400);
    assert_int_equal(count(b, 2), 700);
    assert_false(dev_rd(b->d, PIT_BANK_PORTB, 0, 1) & 0x20);
    portb(b, 3);
    to(b, 1400 + 699);
    assert_false(dev_rd(b->d, PIT_BANK_PORTB, 0, 1) & 0x20);
    to(b, 1400 + 700);
    assert_int_equal(dev_rd(b->d, PIT_BANK_PORTB, 0, 1) & 0x2f, 0x23);
    /* Mode 1: one-shot by the gate, retriggerable. */
    wr(b, 0x43, 0xb2);
    portb(b, 0);
    load(b, 2, 100);
    to(b, 3000);
    assert_true(pit_out(b->p, 2));
    portb(b, 1);
    to(b, 3001);
    assert_false(pit_out(b->p, 2));
    to(b, 3050);
    portb(b, 0), portb(b, 1);
    to(b, 3150);
    assert_false(pit_out(b->p, 2));
    to(b, 3151);
    assert_true(pit_out(b->p, 2));
    /* Mode 5: strobe. */
    wr(b, 0x43, 0xba);
    portb(b, 0);
    load(b, 2, 50);
    portb(b, 1);
    to(b, 3152 + 50);
    assert_false(pit_out(b->p, 2));
    to(b, 3152 + 51);
    assert_true(pit_out(b->p, 2));
    /* Mode 3: gate low forces OUT high and the rising edge starts anew. */
    wr(b, 0x43, 0xb6);
    load(b, 2, 100);
    to(b, 3204 + 60);
    assert_false(pit_out(b->p, 2));
    portb(b, 0);
    assert_true(pit_out(b->p, 2));
    to(b, 3300);
    portb(b, 1);
    to(b, 3301 + 49);
    assert_true(pit_out(b->p, 2));
    to(b, 3301 + 50);
    assert_false(pit_out(b->p, 2));
    /* Refresh bit toggles. */
    unsigned seen = 0;
    for (unsigned i = 0; i < 8; i++) {
        seen |= 1u << (dev_rd(b->d, PIT_BANK_PORTB, 0, 1) >> 4 & 1);
        b->now += 15085;
    }
    assert_int_equal(seen, 3);
}

static void reading(void **state)
{
    struct box *b = *state;
    wr(b, 0x43, 0x34);
    load(b, 0, 0x1234);
    to(b, 1 + 0x34);
    wr(b, 0x43, 0x00); /* latch */
    to(b, 1 + 0x100);
    wr(b, 0x43, 0x00); /* a second latch is ignored until read */
    assert_int_equal(rd(b, 0x40), 0x00);
    assert_int_equal(rd(b, 0x40), 0x12);
    assert_int_equal(rd(b, 0x40), 0x34); /* live again */
    assert_int_equal(rd(b, 0x40), 0x11);
    /* Read-back of status and count: status first. */
    wr(b, 0x43, 0xc2);
    assert_int_equal(rd(b, 0x40), 0xb4);
    assert_int_equal(rd(b, 0x40), 0x34);
    assert_int_equal(rd(b, 0x40), 0x11);
    /* One byte only. */
    wr(b, 0x43, 0x54);
    wr(b, 0x41, 0x80);
    to(b, 0x100 + 2);
    assert_int_equal(rd(b, 0x41), 0x80);
    assert_int_equal(rd(b, 0x41), 0x80);
    wr(b, 0x43, 0x64);
    wr(b, 0x41, 0x80); /* high byte */
    to(b, 0x100 + 3);
    assert_int_equal(rd(b, 0x41), 0x80);
    to(b, 0x100 + 4);
    assert_int_equal(rd(b, 0x41), 0x7f);
    /* BCD; 0 is 10000. */
    wr(b, 0x43, 0x75);
    load(b, 1, 0x1000);
    to(b, 0x104 + 2);
    assert_int_equal(count(b, 1), 0x0999);
    wr(b, 0x43, 0x75);
    load(b, 1, 0);
    to(b, 0x106 + 2);
    assert_int_equal(count(b, 1), 0x9999);
    assert_int_equal(rd(b, 0x43), 0xff);
    /* Snapshot: the count goes on from where it was. */
    uint8_t buf[512];
    size_t n = b->d->ops->save(b->d, buf, sizeof(buf));
    assert_true(n <= sizeof(buf));
    b->d->ops->reset(b->d);
    to(b, 5000);
    assert_int_equal(b->d->ops->load(b->d, buf, n), 0);
    assert_int_equal(count(b, 1), 0x9999);
    memset(buf + 16, 0xff, 4);
    assert_int_equal(b->d->ops->load(b->d, buf, n), -1); /* count out of range */
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {T(mode0), T(mode2), T(mode3), T(mode4), T(channel2), T(reading)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
