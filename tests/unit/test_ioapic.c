/* I/O APIC: registers, edge and level, remote IRR, EOI broadcast and EOI register, delivery modes. */
#include "irq_fixture.h"

#define LEVEL (1u << 15)
#define RIRR (1u << 14)
#define MASK (1u << 16)

static void line(struct fx *f, unsigned pin, bool level)
{
    struct irq_line l = intc_gsi_line(f->ic, pin);
    irq_set(&l, level);
}
static void end(struct fx *f, unsigned cpu)
{
    apic_wr(f, cpu, 0xb0, 0);
}

static void registers(void **state)
{
    struct fx *f = *state;
    struct dev *d = intc_ioapic(f->ic);
    assert_int_equal(io_rd(f, 1), 0x170020);
    io_wr(f, 0, 0xff000000);
    assert_int_equal(io_rd(f, 0), 0x0f000000);
    assert_int_equal(io_rd(f, 2), 0x0f000000);
    for (unsigned i = 0; i < 24; i++)
        assert_int_equal(io_rd(f, 0x10 + 2 * i), MASK);
    assert_int_equal(io_rd(f, 0x40), 0xffffffff); /* past the last pin */
    io_rte(f, 23, ~0ull);
    assert_int_equal(io_rd(f, 0x3e), 0x1afff); /* status and remote IRR are read-only */
    assert_int_equal(io_rd(f, 0x3f), 0xff000000);
    dev_wr(d, 0, 0, 4, 1);
    assert_int_equal(dev_rd(d, 0, 0x12, 1), 0x17);
    uint64_t v;
    assert_int_equal(d->ops->read(d, 0, 0x80, 4, &v), DEV_UNMAPPED);
}

static void edge(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    io_rte(f, 4, 1ull << 56 | 0x44);
    line(f, 4, true);
    line(f, 4, true);
    assert_int_equal(fx_ack(f, 1), 0x44);
    end(f, 1);
    assert_false(fx_pending(f, 1)); /* one edge, one interrupt */
    line(f, 4, false);
    assert_false(fx_pending(f, 1));
    line(f, 4, true);
    assert_int_equal(fx_ack(f, 1), 0x44);
    end(f, 1);
    /* An edge on a masked pin is lost. */
    io_rte(f, 4, 1ull << 56 | MASK | 0x44);
    line(f, 4, false);
    line(f, 4, true);
    io_rte(f, 4, 1ull << 56 | 0x44);
    assert_false(fx_pending(f, 1));
    /* ISA wiring: IRQ 0 is pin 2. */
    io_rte(f, 2, 0x52);
    struct irq_line irq0 = intc_isa_line(f->ic, 0);
    irq_set(&irq0, true);
    assert_int_equal(fx_ack(f, 0), 0x52);
    assert_null(intc_isa_line(f->ic, 2).set);
}

static void level(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    io_rte(f, 16, LEVEL | 0x61);
    io_rte(f, 17, LEVEL | 0x61); /* shares the vector */
    line(f, 16, true);
    assert_int_equal(io_rd(f, 0x30), LEVEL | RIRR | 0x61);
    assert_int_equal(fx_ack(f, 0), 0x61);
    assert_int_equal(apic_rd(f, 0, 0x1b0), 2); /* TMR */
    line(f, 17, true);
    end(f, 0); /* both asked: both are asked again */
    assert_int_equal(io_rd(f, 0x30), LEVEL | RIRR | 0x61);
    assert_int_equal(fx_ack(f, 0), 0x61);
    line(f, 16, false);
    line(f, 17, false);
    end(f, 0);
    assert_false(fx_pending(f, 0));
    assert_int_equal(io_rd(f, 0x30), LEVEL | 0x61);
    /* Masked while asserted: nothing; unmasking asks. */
    io_rte(f, 18, MASK | LEVEL | 0x62);
    line(f, 18, true);
    assert_false(fx_pending(f, 0));
    io_rte(f, 18, LEVEL | 0x62);
    assert_int_equal(fx_ack(f, 0), 0x62);
    /* Broadcast suppressed: the EOI register ends it. */
    apic_wr(f, 0, 0xf0, 0x11ff);
    end(f, 0);
    assert_false(fx_pending(f, 0));
    assert_int_equal(io_rd(f, 0x34), LEVEL | RIRR | 0x62);
    dev_wr(intc_ioapic(f->ic), 0, 0x40, 4, 0x62);
    assert_int_equal(fx_ack(f, 0), 0x62);
    line(f, 18, false);
    end(f, 0);
    dev_wr(intc_ioapic(f->ic), 0, 0x40, 4, 0x62);
    assert_int_equal(io_rd(f, 0x34), LEVEL | 0x62);
    apic_wr(f, 0, 0xf0, 0x1ff);
    /* Switching to edge and back clears remote IRR. */
    line(f, 16, true);
    assert_int_equal(fx_ack(f, 0), 0x61);
    io_rte(f, 16, MASK | 0x61);
    assert_int_equal(io_rd(f, 0x30), MASK | 0x61);
    io_rte(f, 16, LEVEL | 0x61);
    end(f, 0);
    assert_int_equal(fx_ack(f, 0), 0x61);
    line(f, 16, false);
    end(f, 0);
    /* Nobody there to accept: remote IRR does not stick. */
    io_rte(f, 19, 0x55ull << 56 | LEVEL | 0x63);
    line(f, 19, true);
    assert_int_equal(io_rd(f, 0x36), LEVEL | 0x63);
    /* Edge interrupts end without any message. */
    assert_int_equal(f->cpu[0].lock_depth, 0);
}

static void modes(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    for (unsigned i = 0; i < FX_CPUS; i++)
        apic_wr(f, i, 0xd0, 0x01000000u << i);
    io_rte(f, 5, 0x06ull << 56 | 0x870); /* logical, fixed: both */
    line(f, 5, true);
    assert_int_equal(fx_ack(f, 1), 0x70);
    assert_int_equal(fx_ack(f, 2), 0x70);
    end(f, 1), end(f, 2);
    io_rte(f, 6, 0x0cull << 56 | 0x971); /* lowest priority */
    apic_wr(f, 3, 0x80, 0x20);
    line(f, 6, true);
    assert_int_equal(fx_ack(f, 2), 0x71);
    assert_false(fx_pending(f, 3));
    io_rte(f, 7, 3ull << 56 | 0x400); /* NMI */
    line(f, 7, true);
    assert_int_equal(f->cpu[3].nmi, 1);
    io_rte(f, 8, 3ull << 56 | LEVEL | 0x500); /* INIT: an edge whatever the bit says */
    line(f, 8, true);
    assert_int_equal(f->cpu[3].init, 1);
    assert_int_equal(io_rd(f, 0x20), LEVEL | 0x500);
    io_rte(f, 9, 3ull << 56 | 0x600); /* reserved */
    line(f, 9, true);
    assert_int_equal(f->cpu[3].sipi, 0);
    /* ExtINT through pin 0: the vector is the 8259A's. */
    io_rte(f, 0, 1ull << 56 | 0x700);
    struct dev *pic = intc_pic(f->ic);
    dev_wr(pic, PIC_BANK_MASTER, 1, 1, 0xfd);
    struct irq_line irq1 = intc_isa_line(f->ic, 1);
    irq_set(&irq1, true);
    assert_true(fx_pending(f, 1));
    assert_int_equal(fx_ack(f, 1), 0x09);
    assert_false(fx_pending(f, 1));
}

static void snapshot(void **state)
{
    struct fx *f = *state;
    struct dev *d = intc_ioapic(f->ic);
    uint8_t buf[512];
    apic_on(f);
    io_rte(f, 16, LEVEL | 0x61);
    line(f, 16, true);
    size_t n = d->ops->save(d, buf, sizeof(buf));
    assert_true(n > 0 && n <= sizeof(buf));
    assert_int_equal(d->ops->save(d, NULL, 0), n);
    d->ops->reset(d);
    assert_int_equal(io_rd(f, 0x30), MASK);
    assert_int_equal(d->ops->load(d, buf, n - 1), -1);
    assert_int_equal(d->ops->load(d, buf, n), 0);
    assert_int_equal(io_rd(f, 0x30), LEVEL | RIRR | 0x61);
}

int main(void)
{
    const struct CMUnitTest tests[] = {FX_TEST(registers), FX_TEST(edge), FX_TEST(level), FX_TEST(modes),
                                       FX_TEST(snapshot)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
