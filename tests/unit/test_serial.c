#include "isa_fixture.h"

#include "dev/serial.h"

#define IN(port) in8(f, port)
#define OUT(port, v) dev_out(f->dev, 0, port, 1, v)
#define LINE (f->line[0])
#define SETTLE fixture_advance(f, 100000000) /* senders wait until the receiver has been set up */

static uint8_t in8(struct isa_fixture *f, uint64_t port)
{
    return (uint8_t)dev_in(f->dev, 0, port, 1);
}

static int setup(void **state)
{
    struct isa_fixture *f = fixture_new(0);
    f->dev = serial_new(&f->env, fixture_irq(f, 0), fixture_chardev(f));
    *state = f;
    return f->dev ? 0 : -1;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void input(struct isa_fixture *f, const char *s)
{
    struct chardev_sink k = serial_sink(f->dev);
    assert_true(k.room(k.ctx) >= strlen(s));
    k.input(k.ctx, (const uint8_t *)s, strlen(s));
}

static void reset_state(void **state)
{
    struct isa_fixture *f = *state;
    assert_int_equal(IN(1), 0);
    assert_int_equal(IN(2), 0x01);
    assert_int_equal(IN(3), 0);
    assert_int_equal(IN(4), 0);
    assert_int_equal(IN(5), 0x60);
    assert_int_equal(IN(6), 0xb0);
    assert_false(LINE.level);
}

/* What drivers do to find out that this is a 16550A. */
static void probe(void **state)
{
    struct isa_fixture *f = *state;
    OUT(1, 0xff);
    assert_int_equal(IN(1), 0x0f);
    OUT(1, 0);
    OUT(7, 0x5a);
    assert_int_equal(IN(7), 0x5a);
    OUT(4, 0x10 | 0x0a); /* loopback, OUT2 and RTS */
    assert_int_equal(IN(6) & 0xf0, 0x90);
    OUT(4, 0);
    assert_int_equal(IN(2) & 0xc0, 0);
    OUT(2, 0x01);
    assert_int_equal(IN(2) & 0xe0, 0xc0); /* 16550A, not a 16750 */
    OUT(3, 0x80);
    OUT(0, 0x34);
    OUT(1, 0x12);
    assert_int_equal(IN(0), 0x34);
    assert_int_equal(IN(1), 0x12);
    OUT(3, 0x03);
    assert_int_equal(IN(1), 0);
}

static void transmits(void **state)
{
    struct isa_fixture *f = *state;
    for (const char *p = "hello"; *p; p++) {
        assert_true(IN(5) & 0x20);
        OUT(0, (uint8_t)*p);
    }
    assert_int_equal(f->out.n, 5);
    assert_memory_equal(f->out.buf, "hello", 5);
}

static void thre_interrupt(void **state)
{
    struct isa_fixture *f = *state;
    OUT(1, 2);
    assert_true(LINE.level); /* enabling with an empty holding register raises it */
    assert_int_equal(IN(2), 0x02);
    assert_false(LINE.level); /* reading IIR acknowledges */
    assert_int_equal(IN(2), 0x01);
    OUT(1, 0);
    OUT(1, 2); /* and enabling again raises it again */
    assert_true(LINE.level);
    unsigned rises = LINE.rises;
    OUT(0, 'x'); /* a transmission is an edge even while it was pending */
    assert_true(LINE.level);
    assert_int_equal(LINE.rises, rises + 1);
}

static void back_pressure(void **state)
{
    struct isa_fixture *f = *state;
    OUT(2, 1);
    f->out.limit = 2;
    for (int i = 0; i < 10; i++)
        OUT(0, (uint8_t)('a' + i));
    assert_int_equal(f->out.n, 2);
    assert_int_equal(IN(5) & 0x60, 0);
    OUT(1, 2);
    assert_false(LINE.level);
    f->out.limit = SIZE_MAX;
    fixture_advance(f, 10000000);
    assert_true(LINE.level);
    assert_int_equal(IN(5) & 0x60, 0x60);
    assert_memory_equal(f->out.buf, "abcdefghij", 10);
}

static void input_waits_for_listener(void **state)
{
    struct isa_fixture *f = *state;
    struct chardev_sink k = serial_sink(f->dev);
    assert_int_equal(k.room(k.ctx), 0);
    OUT(2, 1);
    assert_int_equal(f->out.accepts, 0);
    OUT(1, 1);
    assert_int_equal(f->out.accepts, 0);
    assert_int_equal(k.room(k.ctx), 0);
    OUT(2, 0); /* the FIFO goes off and on again: nothing has come in that could be lost */
    OUT(2, 1);
    fixture_advance(f, 99000000);
    assert_int_equal(f->out.accepts, 0);
    SETTLE;
    assert_int_equal(f->out.accepts, 1);
    assert_int_equal(k.room(k.ctx), 16);
    OUT(1, 0);
    assert_int_equal(k.room(k.ctx), 0);
    for (int i = 0; i < 15; i++)
        IN(5);
    assert_int_equal(k.room(k.ctx), 0);
    IN(5); /* a guest that polls the line status is listening too */
    assert_int_equal(f->out.accepts, 2);
    assert_int_equal(k.room(k.ctx), 16);
}

static void receive_trigger_and_timeout(void **state)
{
    struct isa_fixture *f = *state;
    OUT(3, 0x83);
    OUT(0, 1); /* 115200 */
    OUT(1, 0);
    OUT(3, 0x03);
    OUT(2, 0x81); /* FIFO, trigger at 8 */
    OUT(1, 1);
    SETTLE;
    input(f, "1234567");
    assert_false(LINE.level);
    assert_true(IN(5) & 1);
    fixture_advance(f, 340000); /* 4 characters of 10 bits at 115200: 347 us */
    assert_false(LINE.level);
    fixture_advance(f, 10000);
    assert_true(LINE.level);
    assert_int_equal(IN(2), 0xcc);
    assert_int_equal(IN(0), '1'); /* any read ends the time-out, and starts the next */
    assert_false(LINE.level);
    fixture_advance(f, 400000);
    assert_int_equal(IN(2), 0xcc);
    input(f, "89");
    assert_int_equal(IN(2), 0xc4);
    for (const char *p = "23456789"; *p; p++)
        assert_int_equal(IN(0), *p);
    assert_int_equal(IN(5) & 1, 0);
    assert_int_equal(IN(2), 0xc1);
    assert_false(LINE.level);
    fixture_advance(f, 1000000);
    assert_false(LINE.level);
}

static void receive_without_fifo(void **state)
{
    struct isa_fixture *f = *state;
    struct chardev_sink k = serial_sink(f->dev);
    OUT(1, 1);
    SETTLE;
    assert_int_equal(k.room(k.ctx), 1);
    input(f, "a");
    assert_true(LINE.level);
    assert_int_equal(IN(2), 0x04);
    assert_int_equal(k.room(k.ctx), 0);
    unsigned accepts = f->out.accepts;
    assert_int_equal(IN(0), 'a');
    assert_int_equal(f->out.accepts, accepts + 1);
    assert_false(LINE.level);
}

static void loopback_and_overrun(void **state)
{
    struct isa_fixture *f = *state;
    OUT(4, 0x10);
    OUT(1, 5);
    OUT(0, 'p');
    assert_int_equal(f->out.n, 0);
    assert_int_equal(IN(2), 0x04);
    OUT(0, 'q'); /* no room: overrun, the holding register is overwritten */
    assert_int_equal(IN(2), 0x06);
    assert_int_equal(IN(5) & 0x03, 0x03);
    assert_int_equal(IN(5) & 0x02, 0); /* cleared by the read */
    assert_int_equal(IN(0), 'q');
    OUT(2, 1);
    for (int i = 0; i < 17; i++)
        OUT(0, (uint8_t)i);
    assert_true(IN(5) & 2);
    for (int i = 0; i < 16; i++) /* with the FIFO, what is in it stays */
        assert_int_equal(IN(0), i);
    assert_int_equal(IN(5) & 1, 0);
}

static void modem_deltas(void **state)
{
    struct isa_fixture *f = *state;
    OUT(4, 0x10); /* all lines drop */
    assert_int_equal(IN(6), 0x0b);
    OUT(1, 8);
    OUT(4, 0x10 | 0x04); /* RI rises: no delta */
    assert_int_equal(IN(6), 0x40);
    OUT(4, 0x10); /* trailing edge */
    assert_true(LINE.level);
    assert_int_equal(IN(2), 0x00);
    assert_int_equal(IN(6), 0x04);
    assert_false(LINE.level);
}

static void fifo_clear(void **state)
{
    struct isa_fixture *f = *state;
    OUT(2, 1);
    OUT(1, 1);
    SETTLE;
    input(f, "junk");
    OUT(2, 3);
    assert_int_equal(IN(5) & 1, 0);
    assert_int_equal(IN(2), 0xc1);
    fixture_advance(f, 100000000);
    assert_false(LINE.level);
}

static void fifo_switched_on_late(void **state)
{
    struct isa_fixture *f = *state;
    OUT(1, 1);
    SETTLE;
    input(f, "a");
    OUT(2, 1);
    assert_int_equal(IN(5) & 1, 1);
    SETTLE;
    input(f, "b");
    assert_int_equal(IN(0), 'a');
    assert_int_equal(IN(0), 'b');
    input(f, "cd");
    OUT(2, 0);
    assert_int_equal(IN(5) & 1, 0);
}

static void wide_and_outside(void **state)
{
    struct isa_fixture *f = *state;
    uint64_t v;
    dev_out(f->dev, 0, 7, 4, 0x11223344); /* port 7 gets the low byte, the rest is no port of ours */
    assert_int_equal(dev_in(f->dev, 0, 7, 4), 0xffffff44);
    assert_int_equal(f->dev->ops->read(f->dev, 0, 8, 1, &v), DEV_UNMAPPED);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(reset_state),
        T(probe),
        T(transmits),
        T(thre_interrupt),
        T(back_pressure),
        T(input_waits_for_listener),
        T(receive_trigger_and_timeout),
        T(receive_without_fifo),
        T(loopback_and_overrun),
        T(modem_deltas),
        T(fifo_clear),
        T(fifo_switched_on_late),
        T(wide_and_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
