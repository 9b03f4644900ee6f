/* 8259A pair. */
#include "irq_fixture.h"

struct box {
    struct pic *p;
    struct dev *d;
    bool intr;
};

static void out(void *ctx, unsigned pin, bool level)
{
    ((struct box *)ctx)->intr = level;
}

static void wr(struct box *b, unsigned port, uint8_t v)
{
    unsigned bank = port >= 0x4d0 ? PIC_BANK_ELCR : port >= 0xa0 ? PIC_BANK_SLAVE : PIC_BANK_MASTER;
    dev_wr(b->d, bank, port & 1, 1, v);
}
static uint8_t rd(struct box *b, unsigned port)
{
    unsigned bank = port >= 0x4d0 ? PIC_BANK_ELCR : port >= 0xa0 ? PIC_BANK_SLAVE : PIC_BANK_MASTER;
    return (uint8_t)dev_rd(b->d, bank, port & 1, 1);
}
static void init(struct box *b, uint8_t icw4)
{
    wr(b, 0x20, 0x11), wr(b, 0x21, 0x20), wr(b, 0x21, 0x04), wr(b, 0x21, icw4);
    wr(b, 0xa0, 0x11), wr(b, 0xa1, 0x28), wr(b, 0xa1, 0x02), wr(b, 0xa1, icw4);
}
static void pulse(struct box *b, unsigned pin)
{
    pic_set(b->p, pin, false);
    pic_set(b->p, pin, true);
}

static int setup(void **state)
{
    struct box *b = calloc(1, sizeof(*b));
    b->p = pic_new((struct irq_line){out, b, 0});
    b->d = pic_dev(b->p);
    init(b, 1);
    *state = b;
    return 0;
}
static int teardown(void **state)
{
    struct box *b = *state;
    b->d->ops->fini(b->d);
    free(b);
    return 0;
}

static void basic(void **state)
{
    struct box *b = *state;
    assert_false(b->intr);
    pulse(b, 3);
    pulse(b, 1);
    assert_true(b->intr);
    assert_int_equal(rd(b, 0x20), 0x0a); /* IRR */
    assert_int_equal(pic_ack(b->p), 0x21);
    assert_false(b->intr); /* 3 waits for 1 */
    wr(b, 0x20, 0x0b);
    assert_int_equal(rd(b, 0x20), 0x02); /* ISR */
    pulse(b, 0);
    assert_int_equal(pic_ack(b->p), 0x20); /* nests */
    wr(b, 0x20, 0x20);
    assert_int_equal(rd(b, 0x20), 0x02);
    wr(b, 0x20, 0x20);
    assert_true(b->intr);
    assert_int_equal(pic_ack(b->p), 0x23);
    wr(b, 0x20, 0x63); /* specific EOI */
    assert_int_equal(rd(b, 0x20), 0);
    /* Mask. */
    wr(b, 0x21, 0x10);
    assert_int_equal(rd(b, 0x21), 0x10);
    pulse(b, 4);
    assert_false(b->intr);
    wr(b, 0x21, 0);
    assert_int_equal(pic_ack(b->p), 0x24);
    /* A word write goes to both ports. */
    dev_wr(b->d, PIC_BANK_MASTER, 0, 2, 0x5520);
    assert_int_equal(rd(b, 0x21), 0x55);
    assert_int_equal(rd(b, 0x20), 0);
}

static void cascade(void **state)
{
    struct box *b = *state;
    pulse(b, 12);
    assert_int_equal(pic_ack(b->p), 0x2c);
    pulse(b, 9); /* higher on the slave, but the master serves input 2 */
    assert_false(b->intr);
    pulse(b, 1);
    assert_int_equal(pic_ack(b->p), 0x21);
    wr(b, 0x20, 0x20);
    wr(b, 0xa0, 0x20);
    assert_false(b->intr);
    wr(b, 0x20, 0x20);
    assert_int_equal(pic_ack(b->p), 0x29);
    wr(b, 0xa0, 0x20), wr(b, 0x20, 0x20);
    assert_false(b->intr);
    /* Special fully nested mode: the slave may interrupt itself. */
    init(b, 0x11);
    pulse(b, 12);
    assert_int_equal(pic_ack(b->p), 0x2c);
    pulse(b, 9);
    assert_int_equal(pic_ack(b->p), 0x29);
    pic_set(b->p, 2, true); /* the cascade is no input */
    assert_false(b->intr);
}

static void spurious(void **state)
{
    struct box *b = *state;
    pulse(b, 5);
    pic_set(b->p, 5, false);
    assert_int_equal(pic_ack(b->p), 0x27);
    wr(b, 0x20, 0x0b);
    assert_int_equal(rd(b, 0x20), 0);
    /* The slave's request goes away between the master's acknowledge and its own: modelled by masking it. */
    pulse(b, 10);
    wr(b, 0x21, 0x04);
    assert_int_equal(pic_ack(b->p), 0x27);
    wr(b, 0x21, 0);
    assert_int_equal(pic_ack(b->p), 0x2a);
}

static void level_mode(void **state)
{
    struct box *b = *state;
    wr(b, 0x4d0, 0xff);
    wr(b, 0x4d1, 0xff);
    assert_int_equal(rd(b, 0x4d0), 0xf8);
    assert_int_equal(rd(b, 0x4d1), 0xde);
    pic_set(b->p, 11, true);
    assert_int_equal(pic_ack(b->p), 0x2b);
    wr(b, 0xa0, 0x20), wr(b, 0x20, 0x20);
    assert_true(b->intr); /* still asserted */
    assert_int_equal(pic_ack(b->p), 0x2b);
    pic_set(b->p, 11, false);
    wr(b, 0xa0, 0x20), wr(b, 0x20, 0x20);
    assert_false(b->intr);
    /* Edge: no new edge, no new interrupt. */
    wr(b, 0x4d0, 0);
    pic_set(b->p, 6, true);
    assert_int_equal(pic_ack(b->p), 0x26);
    wr(b, 0x20, 0x20);
    assert_false(b->intr);
}

static void rotation(void **state)
{
    struct box *b = *state;
    wr(b, 0x20, 0xc3); /* 3 is lowest: 4 highest */
    pulse(b, 3), pulse(b, 4), pulse(b, 0);
    assert_int_equal(pic_ack(b->p), 0x24);
    wr(b, 0x20, 0xa0); /* rotate on non-specific EOI: 4 lowest, 5 highest */
    assert_int_equal(pic_ack(b->p), 0x20);
    wr(b, 0x20, 0x20);
    assert_int_equal(pic_ack(b->p), 0x23);
    wr(b, 0x20, 0xe3); /* rotate on specific EOI */
    pulse(b, 3), pulse(b, 1);
    assert_int_equal(pic_ack(b->p), 0x21);
    wr(b, 0x20, 0x61);
    assert_int_equal(pic_ack(b->p), 0x23);
    wr(b, 0x20, 0x63);
    /* AEOI with rotation: each served input becomes the lowest. */
    init(b, 3);
    wr(b, 0x20, 0x80);
    pulse(b, 0), pulse(b, 1);
    assert_int_equal(pic_ack(b->p), 0x20);
    pulse(b, 0);
    assert_int_equal(pic_ack(b->p), 0x21);
    assert_int_equal(pic_ack(b->p), 0x20);
    wr(b, 0x20, 0x0b);
    assert_int_equal(rd(b, 0x20), 0);
    wr(b, 0x20, 0x00);
    pulse(b, 0), pulse(b, 7);
    assert_int_equal(pic_ack(b->p), 0x27); /* 0 was lowest, and stays */
}

static void special_mask(void **state)
{
    struct box *b = *state;
    pulse(b, 3);
    assert_int_equal(pic_ack(b->p), 0x23);
    pulse(b, 6);
    assert_false(b->intr);
    wr(b, 0x21, 0x08);
    wr(b, 0x20, 0x68);    /* set special mask mode */
    assert_true(b->intr); /* lower priority gets through */
    assert_int_equal(pic_ack(b->p), 0x26);
    wr(b, 0x20, 0x20); /* non-specific EOI skips the masked 3 */
    wr(b, 0x20, 0x0b);
    assert_int_equal(rd(b, 0x20), 0x08);
    wr(b, 0x20, 0x63);
    wr(b, 0x20, 0x48);
    wr(b, 0x20, 0x0b);
    assert_int_equal(rd(b, 0x20), 0);
}

static void polling(void **state)
{
    struct box *b = *state;
    wr(b, 0x20, 0x0c);
    assert_int_equal(rd(b, 0x20), 0);
    pulse(b, 5);
    wr(b, 0x20, 0x0c);
    assert_int_equal(rd(b, 0x20), 0x85);
    assert_false(b->intr);
    wr(b, 0x20, 0x0b);
    assert_int_equal(rd(b, 0x20), 0x20);
    pulse(b, 14);
    wr(b, 0xa0, 0x0c);
    assert_int_equal(rd(b, 0xa0), 0x86);
}

static void initialisation(void **state)
{
    struct box *b = *state;
    wr(b, 0x21, 0xff);
    pulse(b, 1);
    wr(b, 0x20, 0x11); /* clears mask and edge latches, expects three more */
    assert_int_equal(rd(b, 0x21), 0);
    assert_false(b->intr);
    wr(b, 0x21, 0x47); /* low bits of ICW2 do not count */
    wr(b, 0x21, 0x04);
    wr(b, 0x21, 0x01);
    wr(b, 0x21, 0xf0);
    assert_int_equal(rd(b, 0x21), 0xf0);
    pulse(b, 1);
    assert_int_equal(pic_ack(b->p), 0x41);
    /* Single, no ICW4: two words only. */
    wr(b, 0x20, 0x12), wr(b, 0x21, 0x60), wr(b, 0x21, 0xab);
    assert_int_equal(rd(b, 0x21), 0xab);
    /* Snapshot. */
    uint8_t buf[128];
    size_t n = b->d->ops->save(b->d, buf, sizeof(buf));
    b->d->ops->reset(b->d);
    assert_int_equal(rd(b, 0x21), 0xff);
    assert_int_equal(b->d->ops->load(b->d, buf, n), 0);
    assert_int_equal(rd(b, 0x21), 0xab);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {T(basic),    T(cascade),      T(spurious), T(level_mode),
                                       T(rotation), T(special_mask), T(polling),  T(initialisation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
