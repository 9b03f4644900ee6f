/* Local APIC: acceptance and priorities, IPIs, destinations, modes, timer, errors. */
#include "irq_fixture.h"

#define ICR(dest, low) (apic_wr(f, 0, 0x310, (uint32_t)(dest) << 24), apic_wr(f, 0, 0x300, (low)))
#define MSR(r) (0x800u + (r))

static int msr_wr(struct fx *f, unsigned cpu, uint32_t msr, uint64_t v)
{
    return intc_wrmsr(f->ic, cpu, msr, v);
}
static uint64_t msr_rd(struct fx *f, unsigned cpu, uint32_t msr)
{
    uint64_t v;
    assert_int_equal(intc_rdmsr(f->ic, cpu, msr, &v), 0);
    return v;
}
static int msr_rd_fails(struct fx *f, unsigned cpu, uint32_t msr)
{
    uint64_t v;
    return intc_rdmsr(f->ic, cpu, msr, &v) == -1;
}

static void power_up(void **state)
{
    struct fx *f = *state;
    assert_int_equal(msr_rd(f, 0, MSR_APIC_BASE), 0xfee00900);
    assert_int_equal(msr_rd(f, 3, MSR_APIC_BASE), 0xfee00800);
    for (unsigned i = 0; i < FX_CPUS; i++)
        assert_int_equal(apic_rd(f, i, 0x20), i << 24);
    assert_int_equal(apic_rd(f, 0, 0x30), 0x01050014);
    assert_int_equal(apic_rd(f, 0, 0xf0), 0xff);
    assert_int_equal(apic_rd(f, 0, 0xe0), 0xffffffff);
    for (unsigned r = 0x320; r <= 0x370; r += 16)
        assert_int_equal(apic_rd(f, 0, r), 0x10000);
    /* While software-disabled the masks stay set and fixed interrupts are refused. */
    apic_wr(f, 0, 0x350, 0x700);
    assert_int_equal(apic_rd(f, 0, 0x350), 0x10700);
    ICR(0, 0x4040);
    assert_false(fx_pending(f, 0));
    /* NMI, INIT and SIPI pass. */
    ICR(1, 0x4400);
    ICR(1, 0x4500);
    ICR(1, 0x4600 | 0x9a);
    assert_int_equal(f->cpu[1].nmi, 1);
    assert_int_equal(f->cpu[1].init, 1);
    assert_int_equal(f->cpu[1].sipi, 1);
    assert_int_equal(f->cpu[1].sipi_vector, 0x9a);
    /* Byte reads inside a register; writes must be whole. */
    struct dev *d = lapic_dev(fx_lapic(f, 2));
    assert_int_equal(dev_rd(d, 0, 0x23, 1), 2);
    assert_int_equal(dev_rd(d, 0, 0x32, 2), 0x0105);
    assert_int_equal(dev_rd(d, 0, 0x24, 4), 0);
    dev_wr(d, 0, 0x80, 1, 0x55);
    assert_int_equal(apic_rd(f, 2, 0x80), 0);
}

static void priorities(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    ICR(0, 0x4031);
    assert_int_equal(f->cpu[0].intr, 1);
    ICR(0, 0x4042);
    ICR(0, 0x4045);
    ICR(0, 0x4045); /* coalesces */
    assert_int_equal(apic_rd(f, 0, 0x210), 1u << 17);
    assert_int_equal(apic_rd(f, 0, 0x220), 1u << 2 | 1u << 5);
    assert_int_equal(fx_ack(f, 0), 0x45);
    assert_int_equal(apic_rd(f, 0, 0xa0), 0x40);
    assert_int_equal(apic_rd(f, 0, 0x120), 1u << 5);
    /* Same class waits, a higher one nests. */
    assert_false(fx_pending(f, 0));
    assert_int_equal(fx_ack(f, 0), -1);
    unsigned n = f->cpu[0].intr;
    ICR(0, 0x4049);
    assert_int_equal(f->cpu[0].intr, n); /* no announcement below PPR */
    ICR(0, 0x4050);
    assert_int_equal(f->cpu[0].intr, n + 1);
    assert_int_equal(fx_ack(f, 0), 0x50);
    apic_wr(f, 0, 0xb0, 0);
    assert_int_equal(apic_rd(f, 0, 0xa0), 0x40);
    n = f->cpu[0].intr;
    apic_wr(f, 0, 0xb0, 0); /* ends 0x45: 0x49 becomes deliverable and says so */
    assert_int_equal(f->cpu[0].intr, n + 1);
    assert_int_equal(fx_ack(f, 0), 0x49);
    apic_wr(f, 0, 0xb0, 0);
    assert_int_equal(fx_ack(f, 0), 0x42);
    apic_wr(f, 0, 0xb0, 0);
    /* TPR: its class masks; PPR shows the whole TPR when that is the higher. */
    apic_wr(f, 0, 0x80, 0x3f);
    assert_int_equal(apic_rd(f, 0, 0xa0), 0x3f);
    assert_int_equal(lapic_cr8_read(fx_lapic(f, 0)), 3);
    assert_false(fx_pending(f, 0));
    n = f->cpu[0].intr;
    lapic_cr8_write(fx_lapic(f, 0), 2);
    assert_int_equal(apic_rd(f, 0, 0x80), 0x20);
    assert_int_equal(f->cpu[0].intr, n + 1);
    assert_int_equal(fx_ack(f, 0), 0x31);
    assert_int_equal(apic_rd(f, 0, 0xa0), 0x30);
    apic_wr(f, 0, 0xb0, 0);
    apic_wr(f, 0, 0xb0, 0); /* EOI with nothing in service */
    assert_int_equal(apic_rd(f, 0, 0xa0), 0x20);
}

static unsigned who(struct fx *f, uint8_t vec)
{
    unsigned m = 0;
    for (unsigned i = 0; i < FX_CPUS; i++)
        if (fx_pending(f, i)) {
            assert_int_equal(fx_ack(f, i), vec);
            apic_wr(f, i, 0xb0, 0);
            m |= 1u << i;
        }
    return m;
}

static void destinations(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    for (unsigned i = 0; i < FX_CPUS; i++)
        apic_wr(f, i, 0xd0, 0x01000000u << i);
    ICR(2, 0x4040);
    assert_int_equal(who(f, 0x40), 4);
    ICR(9, 0x4040);
    assert_int_equal(who(f, 0x40), 0);
    ICR(0xff, 0x4041);
    assert_int_equal(who(f, 0x41), 15);
    ICR(0x0a, 0x4842); /* logical flat */
    assert_int_equal(who(f, 0x42), 10);
    ICR(7, 0x44040); /* shorthands ignore the destination */
    assert_int_equal(who(f, 0x40), 1);
    ICR(7, 0x84040);
    assert_int_equal(who(f, 0x40), 15);
    ICR(7, 0xc4040);
    assert_int_equal(who(f, 0x40), 14);
    /* Cluster model: two clusters of two. */
    for (unsigned i = 0; i < FX_CPUS; i++) {
        apic_wr(f, i, 0xe0, 0x0fffffff);
        apic_wr(f, i, 0xd0, (i / 2 << 4 | 1u << i % 2) << 24);
    }
    ICR(0x13, 0x4843);
    assert_int_equal(who(f, 0x43), 12);
    ICR(0x01, 0x4843);
    assert_int_equal(who(f, 0x43), 1);
    ICR(0xf2, 0x4843); /* the second of every cluster */
    assert_int_equal(who(f, 0x43), 10);
    /* A changed xAPIC ID answers to the new one. */
    apic_wr(f, 3, 0x20, 0x77000000);
    ICR(0x77, 0x4040);
    assert_int_equal(who(f, 0x40), 8);
    /* INIT level de-assert does nothing; NMI to all but self. */
    ICR(1, 0x8500);
    assert_int_equal(f->cpu[1].init, 0);
    ICR(1, 0xc500);
    assert_int_equal(f->cpu[1].init, 1);
    ICR(0, 0xc4400);
    assert_int_equal(f->cpu[0].nmi, 0);
    assert_int_equal(f->cpu[1].nmi + f->cpu[2].nmi + f->cpu[3].nmi, 3);
    assert_int_equal(apic_rd(f, 0, 0x300), 0xc4400);
}

static void lowest_priority(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    for (unsigned i = 0; i < FX_CPUS; i++) {
        apic_wr(f, i, 0xd0, 0x01000000u << i);
        apic_wr(f, i, 0x80, i == 2 ? 0x10 : 0x30);
    }
    ICR(0x0f, 0x4950);
    assert_int_equal(who(f, 0x50), 4);
    ICR(0x0b, 0x4950); /* equals: exactly one of them */
    assert_int_equal(__builtin_popcount(who(f, 0x50)), 1);
    /* Equals take turns. */
    unsigned all = 0;
    for (unsigned i = 0; i < 8; i++) {
        ICR(0x0b, 0x4950);
        all |= who(f, 0x50);
    }
    assert_int_equal(all, 0x0b);
    apic_wr(f, 2, 0xf0, 0xff); /* disabled: not a candidate */
    ICR(0x04, 0x4950);
    assert_int_equal(who(f, 0x50), 0);
    /* MSI: redirection hint and logical mode. */
    struct msi_sink msi = intc_msi(f->ic);
    apic_wr(f, 3, 0x80, 0);
    msi.send(msi.ctx, 0xfee0f00c, 0x4061);
    assert_int_equal(who(f, 0x61), 8);
    msi.send(msi.ctx, 0xfee01000, 0x62);
    assert_int_equal(who(f, 0x62), 2);
    msi.send(msi.ctx, 0xfee03004, 0x63);
    assert_int_equal(who(f, 0x63), 3);
    msi.send(msi.ctx, 0xfee01000, 0x8062); /* de-assert */
    msi.send(msi.ctx, 0xfed01000, 0x62);
    msi.send(msi.ctx, 0x1fee01000ull, 0x62);
    assert_int_equal(who(f, 0x62), 0);
    msi.send(msi.ctx, 0xfee01000, 0x400);
    assert_int_equal(f->cpu[1].nmi, 1);
}

static void errors(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    apic_wr(f, 0, 0x370, 0xfe);
    ICR(0, 0x400f); /* send illegal vector */
    assert_int_equal(fx_ack(f, 0), 0xfe);
    apic_wr(f, 0, 0xb0, 0);
    ICR(0, 0x400e);
    assert_false(fx_pending(f, 0)); /* once until ESR is written */
    assert_int_equal(apic_rd(f, 0, 0x280), 0);
    apic_rd(f, 0, 0x3f0); /* no register there */
    assert_int_equal(fx_ack(f, 0), 0xfe);
    apic_wr(f, 0, 0xb0, 0);
    apic_wr(f, 0, 0x280, 0);
    assert_int_equal(apic_rd(f, 0, 0x280), 0xa0);
    apic_wr(f, 0, 0x280, 0);
    assert_int_equal(apic_rd(f, 0, 0x280), 0);
    /* Receive illegal vector, from an MSI; an LVT error entry that is itself illegal does not run away. */
    apic_wr(f, 0, 0x370, 0x03);
    struct msi_sink msi = intc_msi(f->ic);
    msi.send(msi.ctx, 0xfee00000, 0x0c);
    apic_wr(f, 0, 0x280, 0);
    assert_int_equal(apic_rd(f, 0, 0x280), 0x40);
    assert_false(fx_pending(f, 0));
}

static void lint(void **state)
{
    struct fx *f = *state;
    struct lapic *l = fx_lapic(f, 0);
    apic_on(f);
    apic_wr(f, 0, 0x360, 0x400);
    struct irq_line nmi = intc_nmi_line(f->ic);
    irq_set(&nmi, true);
    irq_set(&nmi, true);
    assert_int_equal(f->cpu[0].nmi, 1);
    irq_set(&nmi, false);
    irq_set(&nmi, true);
    assert_int_equal(f->cpu[0].nmi, 2);
    assert_int_equal(f->cpu[1].nmi, 0); /* masked there */
    /* LINT0 fixed, edge. */
    apic_wr(f, 0, 0x350, 0x55);
    lapic_set_lint(l, 0, true);
    assert_int_equal(fx_ack(f, 0), 0x55);
    apic_wr(f, 0, 0xb0, 0);
    assert_false(fx_pending(f, 0));
    lapic_set_lint(l, 0, false);
    /* Level: remote IRR until EOI, again while the line is high. */
    apic_wr(f, 0, 0x350, 0x8055);
    lapic_set_lint(l, 0, true);
    assert_int_equal(apic_rd(f, 0, 0x350), 0xc055);
    assert_int_equal(fx_ack(f, 0), 0x55);
    assert_int_equal(apic_rd(f, 0, 0x1a0), 1u << 21);
    apic_wr(f, 0, 0xb0, 0);
    assert_int_equal(fx_ack(f, 0), 0x55);
    lapic_set_lint(l, 0, false);
    apic_wr(f, 0, 0xb0, 0);
    assert_false(fx_pending(f, 0));
    assert_int_equal(apic_rd(f, 0, 0x350), 0x8055);
    /* Performance counter: delivery masks its entry. */
    apic_wr(f, 0, 0x340, 0x400);
    lapic_local_event(l, false);
    lapic_local_event(l, false);
    assert_int_equal(f->cpu[0].nmi, 3);
    assert_int_equal(apic_rd(f, 0, 0x340), 0x10400);
    apic_wr(f, 0, 0x330, 0x66);
    lapic_local_event(l, true);
    assert_int_equal(fx_ack(f, 0), 0x66);
}

static void timer_count(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    apic_wr(f, 0, 0x320, 0x40);
    apic_wr(f, 0, 0x3e0, 0x0b); /* by 1 */
    apic_wr(f, 0, 0x380, 1000);
    fx_pass(f, 400);
    assert_int_equal(apic_rd(f, 0, 0x390), 600);
    assert_false(fx_pending(f, 0));
    apic_wr(f, 0, 0x3e0, 0x00); /* by 2 from here */
    assert_int_equal(apic_rd(f, 0, 0x390), 600);
    fx_pass(f, 1199);
    assert_int_equal(apic_rd(f, 0, 0x390), 1);
    assert_false(fx_pending(f, 0));
    fx_pass(f, 1);
    assert_int_equal(fx_ack(f, 0), 0x40);
    apic_wr(f, 0, 0xb0, 0);
    assert_int_equal(apic_rd(f, 0, 0x390), 0);
    fx_pass(f, 1000000);
    assert_false(fx_pending(f, 0)); /* one shot */
    static const uint8_t dcr[] = {0, 1, 2, 3, 8, 9, 10, 11};
    static const unsigned div[] = {2, 4, 8, 16, 32, 64, 128, 1};
    for (unsigned i = 0; i < 8; i++) {
        apic_wr(f, 0, 0x3e0, dcr[i]);
        apic_wr(f, 0, 0x380, 100000);
        fx_pass(f, 50000ull * div[i]);
        assert_int_equal(apic_rd(f, 0, 0x390), 50000);
    }
    apic_wr(f, 0, 0x380, 0); /* stops */
    fx_pass(f, 1000000000);
    assert_int_equal(apic_rd(f, 0, 0x390), 0);
    assert_false(fx_pending(f, 0));
    /* Masked: counts, but does not interrupt. */
    apic_wr(f, 0, 0x320, 0x10040);
    apic_wr(f, 0, 0x380, 1000);
    fx_pass(f, 100);
    assert_int_equal(apic_rd(f, 0, 0x390), 900);
    fx_pass(f, 1000);
    assert_false(fx_pending(f, 0));
}

static void timer_periodic(void **state)
{
    struct fx *f = *state;
    unsigned n = 0;
    apic_on(f);
    apic_wr(f, 0, 0x320, 0x20040);
    apic_wr(f, 0, 0x3e0, 0x0b);
    apic_wr(f, 0, 0x380, 1000000);
    for (unsigned i = 0; i < 100; i++) {
        fx_pass(f, 100000);
        if (fx_pending(f, 0)) {
            assert_int_equal(fx_ack(f, 0), 0x40);
            apic_wr(f, 0, 0xb0, 0);
            n++;
        }
    }
    assert_int_equal(n, 10);
    fx_pass(f, 250000);
    assert_int_equal(apic_rd(f, 0, 0x390), 750000);
    /* A period too short for the host coalesces, and the count still reads right. */
    apic_wr(f, 0, 0x380, 10);
    uint64_t fired = clock_fired(f->clock);
    fx_pass(f, 1000003);
    assert_in_range(clock_fired(f->clock) - fired, 40, 60);
    assert_int_equal(apic_rd(f, 0, 0x390), 7);
    assert_int_equal(fx_ack(f, 0), 0x40);
}

static void tsc_deadline(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    f->cpu[0].tsc_offset = (uint64_t)-1000000;
    assert_int_equal(msr_wr(f, 0, MSR_TSC_DEADLINE, 12345), 0); /* other mode: ignored */
    assert_int_equal(msr_rd(f, 0, MSR_TSC_DEADLINE), 0);
    apic_wr(f, 0, 0x320, 0x40041);
    fx_pass(f, 10000000);
    uint64_t tsc = tsc_from_ns(&f->tsc, clock_now(f->clock)) - 1000000;
    msr_wr(f, 0, MSR_TSC_DEADLINE, tsc + 2400);
    assert_int_equal(msr_rd(f, 0, MSR_TSC_DEADLINE), tsc + 2400);
    apic_wr(f, 0, 0x380, 5); /* ignored in this mode */
    assert_int_equal(apic_rd(f, 0, 0x390), 0);
    fx_pass(f, 999);
    assert_false(fx_pending(f, 0));
    fx_pass(f, 1);
    assert_int_equal(fx_ack(f, 0), 0x41);
    apic_wr(f, 0, 0xb0, 0);
    assert_int_equal(msr_rd(f, 0, MSR_TSC_DEADLINE), 0);
    /* In the past: at once. Zero: disarmed. */
    msr_wr(f, 0, MSR_TSC_DEADLINE, 1);
    assert_int_equal(fx_ack(f, 0), 0x41);
    apic_wr(f, 0, 0xb0, 0);
    msr_wr(f, 0, MSR_TSC_DEADLINE, tsc + 240000);
    msr_wr(f, 0, MSR_TSC_DEADLINE, 0);
    fx_pass(f, 1000000);
    assert_false(fx_pending(f, 0));
    /* The guest moves its TSC towards the deadline. */
    tsc = tsc_from_ns(&f->tsc, clock_now(f->clock)) - 1000000;
    msr_wr(f, 0, MSR_TSC_DEADLINE, tsc + 24000000);
    f->cpu[0].tsc_offset += 24000000 - 2400;
    intc_tsc_changed(f->ic, 0);
    fx_pass(f, 999);
    assert_false(fx_pending(f, 0));
    fx_pass(f, 1);
    assert_int_equal(fx_ack(f, 0), 0x41);
    apic_wr(f, 0, 0xb0, 0);
    /* Leaving the mode disarms; so far away that it never comes: no interrupt, no harm. */
    msr_wr(f, 0, MSR_TSC_DEADLINE, UINT64_MAX);
    fx_pass(f, 1000000000);
    assert_false(fx_pending(f, 0));
    apic_wr(f, 0, 0x320, 0x41);
    assert_int_equal(msr_rd(f, 0, MSR_TSC_DEADLINE), 0);
}

static void x2apic(void **state)
{
    struct fx *f = *state;
    apic_on(f);
    assert_true(msr_rd_fails(f, 0, MSR(0x02)));
    assert_int_equal(msr_wr(f, 0, MSR(0x08), 0), -1);
    apic_wr(f, 1, 0x80, 0x20);
    for (unsigned i = 0; i < FX_CPUS; i++) {
        uint64_t base = msr_rd(f, i, MSR_APIC_BASE);
        assert_int_equal(msr_wr(f, i, MSR_APIC_BASE, base | 0xc00), 0);
    }
    struct dev *d = lapic_dev(fx_lapic(f, 0));
    uint64_t v;
    assert_int_equal(d->ops->read(d, 0, 0x20, 4, &v), DEV_UNMAPPED);
    assert_true(lapic_page(fx_lapic(f, 0)) == UINT64_MAX);
    assert_int_equal(msr_rd(f, 3, MSR(0x02)), 3);
    assert_int_equal(msr_rd(f, 3, MSR(0x0d)), 8);
    assert_int_equal(msr_rd(f, 1, MSR(0x08)), 0x20); /* state is kept */
    msr_wr(f, 1, MSR(0x08), 0);
    /* Registers that do not exist, are read-only or write-only; reserved bits. */
    static const uint8_t no_read[] = {0x00, 0x09, 0x0b, 0x0c, 0x0e, 0x2f, 0x31, 0x3f, 0x40, 0xff};
    for (unsigned i = 0; i < sizeof(no_read); i++)
        assert_true(msr_rd_fails(f, 0, MSR(no_read[i])));
    static const uint8_t no_write[] = {0x02, 0x03, 0x0a, 0x0d, 0x0e, 0x10, 0x18, 0x20, 0x31, 0x39, 0x50};
    for (unsigned i = 0; i < sizeof(no_write); i++)
        assert_int_equal(msr_wr(f, 0, MSR(no_write[i]), 0), -1);
    assert_int_equal(msr_wr(f, 0, MSR(0x0b), 1), -1);
    assert_int_equal(msr_wr(f, 0, MSR(0x28), 1), -1);
    assert_int_equal(msr_wr(f, 0, MSR(0x08), 0x100), -1);
    assert_int_equal(msr_wr(f, 0, MSR(0x32), 1ull << 32), -1);
    assert_int_equal(msr_wr(f, 0, MSR(0x3e), 4), -1);
    assert_int_equal(msr_wr(f, 0, MSR(0x30), 1u << 20), -1);
    /* IPIs: physical 32-bit, logical cluster, broadcast, self. */
    msr_wr(f, 0, MSR(0x30), 2ull << 32 | 0x4050);
    assert_int_equal(fx_ack(f, 2), 0x50);
    assert_int_equal(msr_rd(f, 0, MSR(0x30)), 2ull << 32 | 0x4050);
    msr_wr(f, 0, MSR(0x30), 0xffull << 32 | 0x4051);
    for (unsigned i = 0; i < FX_CPUS; i++)
        assert_int_equal(fx_ack(f, i), -1); /* 255 is an ID here, not a broadcast */
    msr_wr(f, 0, MSR(0x30), 0xcull << 32 | 0x4860);
    assert_int_equal(fx_ack(f, 3), 0x60);
    assert_int_equal(fx_ack(f, 2), 0x60);
    assert_int_equal(fx_ack(f, 1), -1);
    msr_wr(f, 0, MSR(0x30), 0x1000cull << 32 | 0x4870); /* another cluster */
    assert_int_equal(fx_ack(f, 3), -1);
    msr_wr(f, 0, MSR(0x30), 0xffffffffull << 32 | 0x4071);
    for (unsigned i = 0; i < FX_CPUS; i++)
        assert_int_equal(fx_ack(f, i), 0x71);
    msr_wr(f, 1, MSR(0x3f), 0x82);
    assert_int_equal(fx_ack(f, 1), 0x82);
    assert_int_equal(msr_wr(f, 1, MSR(0x0b), 0), 0);
    assert_int_equal(msr_rd(f, 1, MSR(0x0a)), 0x70);
    /* Messages of the I/O world keep 8-bit destinations: 255 is still everybody. */
    struct msi_sink msi = intc_msi(f->ic);
    msi.send(msi.ctx, 0xfeeff000, 0x91);
    for (unsigned i = 0; i < FX_CPUS; i++)
        assert_int_equal(fx_ack(f, i), 0x91);
    /* INIT keeps the mode. */
    intc_cpu_reset(f->ic, 3, true);
    assert_int_equal(msr_rd(f, 3, MSR_APIC_BASE), 0xfee00c00);
    assert_int_equal(msr_rd(f, 3, MSR(0x0d)), 8);
    assert_int_equal(msr_rd(f, 3, MSR(0x0f)), 0xff);
}

static void mode_changes(void **state)
{
    struct fx *f = *state;
    const uint64_t page = 0xfee00000, en = 0x800, x2 = 0xc00;
    apic_on(f);
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, page | 0x400), -1); /* EXTD without EN */
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, page | en | 1), -1);
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, page | en | 1ull << 40), -1); /* beyond MAXPHYADDR */
    apic_wr(f, 1, 0x80, 0x50);
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, page), 0); /* off */
    assert_true(lapic_page(fx_lapic(f, 1)) == UINT64_MAX);
    ICR(1, 0x4400);
    assert_int_equal(f->cpu[1].nmi, 0);                           /* off the bus */
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, page | x2), -1); /* straight to x2APIC */
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, page | en), 0);
    assert_int_equal(apic_rd(f, 1, 0x80), 0); /* state was lost */
    assert_int_equal(apic_rd(f, 1, 0x20), 1u << 24);
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, page | x2), 0);
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, page | en), -1); /* back to xAPIC only through off */
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, page), 0);
    assert_int_equal(msr_wr(f, 1, MSR_APIC_BASE, 0xd0000000 | en), 0);
    assert_int_equal(lapic_page(fx_lapic(f, 1)), 0xd0000000);
    /* INIT keeps the base, power-up does not. */
    intc_cpu_reset(f->ic, 1, true);
    assert_int_equal(msr_rd(f, 1, MSR_APIC_BASE), 0xd0000800);
    intc_cpu_reset(f->ic, 1, false);
    assert_int_equal(msr_rd(f, 1, MSR_APIC_BASE), 0xfee00800);
}

static void virtual_wire(void **state)
{
    struct fx *f = fx_new(true);
    struct dev *pic = intc_pic(f->ic);
    dev_wr(pic, PIC_BANK_MASTER, 1, 1, 0xfe);
    struct irq_line irq0 = intc_isa_line(f->ic, 0);
    assert_int_equal(apic_rd(f, 0, 0x350), 0x700);
    assert_int_equal(apic_rd(f, 0, 0x360), 0x400);
    irq_set(&irq0, true);
    assert_true(f->cpu[0].intr > 0);
    assert_true(fx_pending(f, 0));
    assert_false(fx_pending(f, 1));
    apic_wr(f, 0, 0x80, 0xff); /* ExtINT knows no priority */
    assert_int_equal(fx_ack(f, 0), 0x08);
    assert_false(fx_pending(f, 0));
    assert_int_equal(apic_rd(f, 0, 0x100), 0); /* and no ISR bit */
    assert_int_equal(f->cpu[0].lock_depth, 0);
    dev_wr(pic, PIC_BANK_MASTER, 0, 1, 0x20);
    irq_set(&irq0, false);
    irq_set(&irq0, true);
    assert_true(fx_pending(f, 0));
    apic_wr(f, 0, 0x350, 0x10700);
    assert_false(fx_pending(f, 0));
    /* Unmasking with the line up announces it. */
    unsigned n = f->cpu[0].intr;
    apic_wr(f, 0, 0x350, 0x700);
    assert_int_equal(f->cpu[0].intr, n + 1);
    /* With the APIC off the pins are INTR and NMI. */
    apic_wr(f, 0, 0x350, 0x10700);
    assert_int_equal(msr_wr(f, 0, MSR_APIC_BASE, 0xfee00100), 0);
    assert_true(fx_pending(f, 0));
    assert_int_equal(fx_ack(f, 0), 0x08);
    struct irq_line nmi = intc_nmi_line(f->ic);
    irq_set(&nmi, true);
    assert_int_equal(f->cpu[0].nmi, 1);
    intc_reset(f->ic);
    assert_false(fx_pending(f, 0));
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FX_TEST(power_up),     FX_TEST(priorities), FX_TEST(destinations), FX_TEST(lowest_priority),
        FX_TEST(errors),       FX_TEST(lint),       FX_TEST(timer_count),  FX_TEST(timer_periodic),
        FX_TEST(tsc_deadline), FX_TEST(x2apic),     FX_TEST(mode_changes), cmocka_unit_test(virtual_wire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
