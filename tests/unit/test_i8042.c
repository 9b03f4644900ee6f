#include "isa_fixture.h"

#include "dev/i8042.h"

#define DATA() data(f)
#define STATUS() ((uint8_t)dev_in(f->dev, 1, 0, 1))
#define CMD(v) dev_out(f->dev, 1, 0, 1, v)
#define PUT(v) dev_out(f->dev, 0, 0, 1, v)
#define KBD_LINE (f->line[0])

static uint8_t data(struct isa_fixture *f)
{
    return (uint8_t)dev_in(f->dev, 0, 0, 1);
}

static unsigned resets;

static void on_reset(void *ctx)
{
    (*(unsigned *)ctx)++;
}

static int setup_with(void **state, bool keyboard)
{
    struct isa_fixture *f = fixture_new(0);
    struct i8042_config cfg = {.irq_kbd = fixture_irq(f, 0),
                               .irq_aux = fixture_irq(f, 1),
                               .keyboard = keyboard,
                               .reset = on_reset,
                               .ctx = &resets};
    resets = 0;
    f->dev = i8042_new(&f->env, &cfg);
    *state = f;
    return f->dev ? 0 : -1;
}

static int setup(void **state)
{
    return setup_with(state, false);
}

static int setup_keyboard(void **state)
{
    return setup_with(state, true);
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static uint8_t answer(struct isa_fixture *f)
{
    assert_true(STATUS() & 1);
    return DATA();
}

static void controller(void **state)
{
    struct isa_fixture *f = *state;
    assert_int_equal(STATUS() & 3, 0);
    CMD(0xaa);
    assert_true(STATUS() & 8);
    assert_int_equal(answer(f), 0x55);
    assert_int_equal(STATUS() & 1, 0);
    CMD(0x60);
    PUT(0x47);
    assert_int_equal(STATUS() & 8, 0);
    CMD(0x20);
    assert_int_equal(answer(f), 0x47);
    CMD(0xad);
    CMD(0x20);
    assert_int_equal(answer(f), 0x57);
    CMD(0xae);
    CMD(0xa7);
    CMD(0x20);
    assert_int_equal(answer(f), 0x67);
    CMD(0xab);
    assert_int_equal(answer(f), 0x00);
    CMD(0x7f);
    PUT(0x99);
    CMD(0x3f);
    assert_int_equal(answer(f), 0x99);
    CMD(0xd0);
    assert_int_equal(answer(f) & 3, 3); /* not in reset, A20 on */
}

/* A driver must find out at once that nothing is there. */
static void nothing_connected(void **state)
{
    struct isa_fixture *f = *state;
    CMD(0x60);
    PUT(0x45);
    PUT(0xf2);
    assert_true(STATUS() & 0x40); /* time-out */
    assert_true(KBD_LINE.level);
    assert_int_equal(answer(f), 0xfe);
    assert_false(KBD_LINE.level);
    CMD(0xd3); /* second port: loopback does not come back as its data */
    PUT(0x5a);
    assert_int_equal(STATUS() & 0x20, 0);
    answer(f);
    CMD(0xa9);
    assert_in_range(answer(f), 1, 4);
    CMD(0xd4);
    PUT(0xf2);
    assert_int_equal(STATUS() & 0x61, 0x61);
    assert_int_equal(answer(f), 0xfe);
}

static void keyboard(void **state)
{
    struct isa_fixture *f = *state;
    CMD(0x60);
    PUT(0x45);
    PUT(0xff);
    assert_true(KBD_LINE.level);
    assert_int_equal(answer(f), 0xfa);
    assert_true(KBD_LINE.level); /* second byte */
    assert_int_equal(KBD_LINE.rises, 2);
    assert_int_equal(answer(f), 0xaa);
    assert_false(KBD_LINE.level);
    PUT(0xf2);
    assert_int_equal(answer(f), 0xfa);
    assert_int_equal(answer(f), 0xab);
    assert_int_equal(answer(f), 0x83);
    PUT(0xfe);
    assert_int_equal(answer(f), 0x83);
    PUT(0xed);
    assert_int_equal(answer(f), 0xfa);
    PUT(0x07);
    assert_int_equal(answer(f), 0xfa);
    PUT(0xf0);
    assert_int_equal(answer(f), 0xfa);
    PUT(3);
    assert_int_equal(answer(f), 0xfa);
    PUT(0xf0);
    answer(f);
    PUT(0);
    assert_int_equal(answer(f), 0xfa);
    assert_int_equal(answer(f), 3);
    PUT(0xee);
    assert_int_equal(answer(f), 0xee);
    PUT(0x00);
    assert_int_equal(answer(f), 0xfe);
    CMD(0x60);
    PUT(0x44); /* interrupt off */
    PUT(0xf4);
    assert_false(KBD_LINE.level);
    CMD(0xad); /* clock off: the byte waits in the keyboard */
    assert_int_equal(STATUS() & 1, 0);
    CMD(0xae);
    assert_int_equal(answer(f), 0xfa);
}

static void resets_machine(void **state)
{
    struct isa_fixture *f = *state;
    CMD(0xff); /* pulses nothing */
    assert_int_equal(resets, 0);
    CMD(0xfe);
    assert_int_equal(resets, 1);
    CMD(0xd1);
    PUT(0xdf);
    assert_int_equal(resets, 1);
    CMD(0xd1);
    PUT(0xde);
    assert_int_equal(resets, 2);
}

static void queue_overflow(void **state)
{
    struct isa_fixture *f = *state;
    for (int i = 0; i < 1000; i++)
        PUT(0xf2);
    unsigned n = 0;
    while (STATUS() & 1) {
        DATA();
        n++;
    }
    assert_in_range(n, 1, 64);
    assert_int_equal(dev_in(f->dev, 1, 0, 4) >> 8, 0xffffff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(controller, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_connected, setup, teardown),
        cmocka_unit_test_setup_teardown(keyboard, setup_keyboard, teardown),
        cmocka_unit_test_setup_teardown(resets_machine, setup, teardown),
        cmocka_unit_test_setup_teardown(queue_overflow, setup_keyboard, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
