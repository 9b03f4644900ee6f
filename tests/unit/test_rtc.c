#include "isa_fixture.h"

#include "dev/rtc.h"

#define S 1000000000ull
#define WALL 951782399ull /* 2000-02-28 23:59:59 UTC, a Monday; a leap year divisible by 400 */
#define LINE (f->line[0])

static uint8_t rd(struct isa_fixture *f, uint8_t reg)
{
    dev_out(f->dev, 0, 0, 1, reg);
    return (uint8_t)dev_in(f->dev, 0, 1, 1);
}

static void wr(struct isa_fixture *f, uint8_t reg, uint8_t v)
{
    dev_out(f->dev, 0, 0, 1, reg);
    dev_out(f->dev, 0, 1, 1, v);
}

static int setup(void **state)
{
    struct isa_fixture *f = fixture_new(WALL * S);
    f->dev = rtc_new(&f->env, fixture_irq(f, 0));
    *state = f;
    return f->dev ? 0 : -1;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void expect_time(struct isa_fixture *f, const uint8_t want[8])
{
    static const uint8_t reg[8] = {0x32, 9, 8, 7, 6, 4, 2, 0};
    for (int i = 0; i < 8; i++)
        assert_int_equal(rd(f, reg[i]), want[i]);
}

static void wall_clock(void **state)
{
    struct isa_fixture *f = *state;
    assert_int_equal(rd(f, 0x0b), 0x02);
    assert_int_equal(rd(f, 0x0d), 0x80);
    expect_time(f, (uint8_t[]){0x20, 0x00, 0x02, 0x28, 2, 0x23, 0x59, 0x59});
    fixture_advance(f, S);
    expect_time(f, (uint8_t[]){0x20, 0x00, 0x02, 0x29, 3, 0x00, 0x00, 0x00});
    fixture_advance(f, 86400 * S);
    expect_time(f, (uint8_t[]){0x20, 0x00, 0x03, 0x01, 4, 0x00, 0x00, 0x00});
}

static void encodings(void **state)
{
    struct isa_fixture *f = *state;
    wr(f, 0x0b, 0x82); /* SET */
    wr(f, 0, 0x15);
    wr(f, 2, 0x45);
    wr(f, 4, 0x13);
    wr(f, 7, 0x31);
    wr(f, 8, 0x12);
    wr(f, 9, 0x99);
    wr(f, 0x32, 0x19);
    fixture_advance(f, 5 * S); /* held */
    assert_int_equal(rd(f, 0), 0x15);
    wr(f, 0x0b, 0x02);
    expect_time(f, (uint8_t[]){0x19, 0x99, 0x12, 0x31, 6, 0x13, 0x45, 0x15}); /* a Friday */
    fixture_advance(f, (10 * 3600 + 14 * 60 + 45) * S);
    expect_time(f, (uint8_t[]){0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00});
    /* 12-hour binary: midnight is 12 AM, 13 h is 1 PM */
    wr(f, 0x0b, 0x84);
    wr(f, 4, 0x81);
    wr(f, 2, 30);
    wr(f, 0, 0);
    wr(f, 7, 1);
    wr(f, 8, 1);
    wr(f, 9, 24);
    wr(f, 0x0b, 0x04);
    assert_int_equal(rd(f, 4), 0x81);
    assert_int_equal(rd(f, 2), 30);
    fixture_advance(f, 11 * 3600 * S);
    assert_int_equal(rd(f, 4), 12);
    assert_int_equal(rd(f, 7), 2);
    fixture_advance(f, 12 * 3600 * S);
    assert_int_equal(rd(f, 4), 0x80 | 12);
}

static void update_in_progress(void **state)
{
    struct isa_fixture *f = *state;
    assert_int_equal(rd(f, 0x0a), 0x26);
    fixture_advance(f, S - 200000);
    assert_int_equal(rd(f, 0x0a), 0xa6);
    assert_int_equal(rd(f, 0), 0x59); /* still the old time */
    fixture_advance(f, 200000);
    assert_int_equal(rd(f, 0x0a), 0x26);
    assert_int_equal(rd(f, 0), 0x00);
    wr(f, 0x0b, 0x82);
    fixture_advance(f, S - 100000);
    assert_int_equal(rd(f, 0x0a), 0x26); /* never while set */
}

static void divider_release(void **state)
{
    struct isa_fixture *f = *state;
    wr(f, 0x0b, 0x82);
    wr(f, 0x0a, 0x76);
    wr(f, 0, 0x10);
    fixture_advance(f, 300000000);
    wr(f, 0x0b, 0x02);
    assert_int_equal(rd(f, 0), 0x10);
    wr(f, 0x0a, 0x26); /* first update half a second from here */
    fixture_advance(f, S / 2 - 1000);
    assert_int_equal(rd(f, 0), 0x10);
    fixture_advance(f, 2000);
    assert_int_equal(rd(f, 0), 0x11);
}

static void update_interrupt(void **state)
{
    struct isa_fixture *f = *state;
    fixture_advance(f, S / 2);
    wr(f, 0x0b, 0x12);
    rd(f, 0x0c);
    fixture_advance(f, S / 2 - 1);
    assert_false(LINE.level);
    fixture_advance(f, 1);
    assert_true(LINE.level);
    fixture_advance(f, 3 * S);
    assert_int_equal(LINE.rises, 1); /* nobody read register C */
    assert_int_equal(rd(f, 0x0c) & 0x90, 0x90);
    assert_false(LINE.level);
    assert_int_equal(rd(f, 0x0c) & 0x90, 0x00);
    fixture_advance(f, S);
    assert_int_equal(LINE.rises, 2);
    wr(f, 0x0b, 0x92); /* SET clears UIE */
    assert_int_equal(rd(f, 0x0b), 0x82);
}

static void periodic_interrupt(void **state)
{
    struct isa_fixture *f = *state;
    wr(f, 0x0a, 0x26); /* 1024 Hz */
    wr(f, 0x0b, 0x42);
    rd(f, 0x0c);
    unsigned n = 0;
    for (int i = 0; i < 100; i++) {
        fixture_advance(f, 10000000);
        if (LINE.level) {
            n++;
            assert_int_equal(rd(f, 0x0c) & 0xc0, 0xc0);
        }
    }
    assert_int_equal(n, 100);
    uint64_t start = f->ns;
    unsigned rises = LINE.rises;
    while (LINE.rises < rises + 1024) {
        fixture_advance(f, clock_next(f->clock) - f->ns);
        rd(f, 0x0c);
    }
    assert_in_range(f->ns - start, S - 2000000, S + 2000000);
    wr(f, 0x0b, 0x02);
    assert_true(clock_next(f->clock) == UINT64_MAX); /* nothing runs when nobody wants it */
    fixture_advance(f, S);
    assert_int_equal(rd(f, 0x0c), 0x50); /* flags come without the enables, the request does not */
}

static void alarm_interrupt(void **state)
{
    struct isa_fixture *f = *state;
    wr(f, 1, 0x05);
    wr(f, 3, 0x01);
    wr(f, 5, 0xff); /* every hour */
    wr(f, 0x0b, 0x22);
    fixture_advance(f, 65 * S); /* 23:59:59 + 1:05 = 00:01:04 */
    assert_false(LINE.level);
    fixture_advance(f, S);
    assert_true(LINE.level);
    assert_int_equal(rd(f, 0x0c) & 0xb0, 0xb0);
    fixture_advance(f, 3599 * S);
    assert_false(LINE.level);
    fixture_advance(f, S);
    assert_true(LINE.level);
}

static void cmos_ram(void **state)
{
    struct isa_fixture *f = *state;
    rtc_set_memory(f->dev, 0x20000000, 0x40000000);
    assert_int_equal(rd(f, 0x15) | rd(f, 0x16) << 8, 640);
    assert_int_equal(rd(f, 0x17) | rd(f, 0x18) << 8, 65535);
    assert_int_equal(rd(f, 0x34) | rd(f, 0x35) << 8, (0x20000000 - 0x1000000) >> 16);
    assert_int_equal(rd(f, 0x5b) | rd(f, 0x5c) << 8, 0x4000);
    wr(f, 0x7f, 0xa5);
    wr(f, 0x80 | 0x40, 0x5a); /* bit 7 is the NMI mask */
    f->dev->ops->reset(f->dev);
    assert_int_equal(rd(f, 0x7f), 0xa5);
    assert_int_equal(rd(f, 0x40), 0x5a);
    assert_int_equal(dev_in(f->dev, 0, 0, 1), 0xff);
}

static void nonsense_time(void **state)
{
    struct isa_fixture *f = *state;
    for (int i = 0; i < 256; i++) {
        wr(f, 0x0b, 0x82);
        for (uint8_t r = 0; r < 10; r++)
            wr(f, r, (uint8_t)i);
        wr(f, 0x32, (uint8_t)i);
        wr(f, 0x0b, (uint8_t)(i & 6) | 0x70);
        fixture_advance(f, 3 * S);
        assert_true(rd(f, 0x0c) & 0x80);
        uint8_t month = rd(f, 8);
        assert_in_range(month, 1, 0x12);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(wall_clock),         T(encodings),       T(update_in_progress), T(divider_release), T(update_interrupt),
        T(periodic_interrupt), T(alarm_interrupt), T(cmos_ram),           T(nonsense_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
