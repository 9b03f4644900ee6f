/* ACPI fixed hardware, reset ports, debug console, exit, panic and test devices. */
#include "isa_fixture.h"

#include "dev/acpi_pm.h"
#include "dev/misc.h"
#include "dev/pc_testdev.h"

#define SCI (f->line[0])

struct seen {
    unsigned resets, poweroffs, ends, panics;
    int status;
    uint32_t bits;
};

static void on_reset(void *ctx)
{
    ((struct seen *)ctx)->resets++;
}
static void on_poweroff(void *ctx)
{
    ((struct seen *)ctx)->poweroffs++;
}
static void on_end(void *ctx, int status)
{
    ((struct seen *)ctx)->ends++;
    ((struct seen *)ctx)->status = status;
}
static void on_panic(void *ctx, uint32_t bits)
{
    ((struct seen *)ctx)->panics++;
    ((struct seen *)ctx)->bits = bits;
}

static struct isa_fixture *pm_fixture(struct seen *s)
{
    struct isa_fixture *f = fixture_new(0);
    struct acpi_pm_config cfg = {.sci = fixture_irq(f, 0), .poweroff = on_poweroff, .ctx = s};
    f->dev = acpi_pm_new(&f->env, &cfg);
    assert_non_null(f->dev);
    return f;
}

static void pm_timer(void **state)
{
    struct seen s = {0};
    struct isa_fixture *f = pm_fixture(&s);
    uint64_t t0 = dev_in(f->dev, 0, ACPI_PM_TMR, 4);
    fixture_advance(f, 1000000000);
    assert_int_equal(dev_in(f->dev, 0, ACPI_PM_TMR, 4) - t0, 3579545);
    dev_out(f->dev, 0, ACPI_PM_EVT + 2, 2, 1); /* TMR_EN */
    assert_false(SCI.level);
    fixture_advance(f, 598900000000ull); /* 2^31 ticks are 599.93 s */
    assert_false(SCI.level);
    fixture_advance(f, 100000000);
    assert_true(SCI.level);
    assert_int_equal(dev_in(f->dev, 0, ACPI_PM_EVT, 2), 1);
    assert_true(dev_in(f->dev, 0, ACPI_PM_TMR, 4) & 0x80000000);
    dev_out(f->dev, 0, ACPI_PM_EVT, 2, 1);
    assert_false(SCI.level);
    fixture_advance(f, 600000000000ull);
    assert_true(SCI.level); /* and again half a period later */
    fixture_free(f);
}

static void pm_sleep_and_button(void **state)
{
    struct seen s = {0};
    struct isa_fixture *f = pm_fixture(&s);
    assert_int_equal(dev_in(f->dev, 0, ACPI_PM_CNT, 2), 1); /* SCI_EN */
    dev_out(f->dev, 0, ACPI_PM_CNT, 2, 1 << 10 | 1 << 13);  /* not S5 */
    assert_int_equal(s.poweroffs, 0);
    assert_int_equal(dev_in(f->dev, 0, ACPI_PM_CNT, 2), 1 << 10 | 1);
    dev_out(f->dev, 0, ACPI_PM_CNT, 2, ACPI_PM_S5 << 10);
    assert_int_equal(s.poweroffs, 0);
    dev_out(f->dev, 0, ACPI_PM_CNT, 2, ACPI_PM_S5 << 10 | 1 << 13);
    assert_int_equal(s.poweroffs, 1);

    acpi_pm_power_button(f->dev);
    assert_false(SCI.level);
    dev_out(f->dev, 0, ACPI_PM_EVT + 2, 2, 1 << 8);
    assert_true(SCI.level);
    dev_out(f->dev, 0, ACPI_PM_EVT, 2, 1 << 8);
    assert_false(SCI.level);
    dev_out(f->dev, 0, ACPI_PM_GPE0 + 2, 2, 1 << 9);
    acpi_pm_gpe(f->dev, 9);
    assert_true(SCI.level);
    assert_int_equal(dev_in(f->dev, 0, ACPI_PM_GPE0, 2), 1 << 9);
    dev_out(f->dev, 0, ACPI_PM_GPE0 + 1, 1, 2); /* by bytes too */
    assert_false(SCI.level);
    fixture_free(f);
}

static void reset_ports(void **state)
{
    struct seen s = {0};
    struct dev *d = reset_cf9_new(on_reset, &s);
    dev_out(d, 0, 0, 1, 2);
    assert_int_equal(s.resets, 0);
    assert_int_equal(dev_in(d, 0, 0, 1), 2);
    dev_out(d, 0, 0, 1, RESET_CF9_VALUE);
    assert_int_equal(s.resets, 1);
    d->ops->fini(d);
    d = port92_new(on_reset, &s);
    assert_int_equal(dev_in(d, 0, 0, 1), 2);
    dev_out(d, 0, 0, 1, 0);
    assert_int_equal(dev_in(d, 0, 0, 1), 0);
    dev_out(d, 0, 0, 1, 3);
    dev_out(d, 0, 0, 1, 3); /* only the rising bit resets */
    assert_int_equal(s.resets, 2);
    d->ops->fini(d);
}

static void coprocessor_error(void **state)
{
    struct isa_fixture *f = fixture_new(0);
    f->dev = ferr_new(fixture_irq(f, 0));
    ferr_assert(f->dev);
    ferr_assert(f->dev);
    assert_true(f->line[0].level);
    assert_int_equal(f->line[0].rises, 1);
    dev_out(f->dev, 0, 0, 1, 0);
    assert_false(f->line[0].level);
    ferr_assert(f->dev);
    assert_int_equal(f->line[0].rises, 2);
    f->dev->ops->reset(f->dev);
    assert_false(f->line[0].level);
    fixture_free(f);
}

static void debug_console(void **state)
{
    struct isa_fixture *f = fixture_new(0);
    f->dev = debugcon_new(fixture_chardev(f));
    assert_int_equal(dev_in(f->dev, 0, 0, 1), 0xe9);
    dev_out(f->dev, 0, 0, 1, 'o');
    dev_out(f->dev, 0, 0, 1, 'k');
    assert_int_equal(f->out.n, 2);
    assert_memory_equal(f->out.buf, "ok", 2);
    fixture_free(f);
}

static void debug_exit(void **state)
{
    struct seen s = {0};
    struct dev *d = isa_debug_exit_new(on_end, &s);
    dev_out(d, 0, 0, 1, 0);
    assert_int_equal(s.status, 1);
    dev_out(d, 0, 0, 4, 0x31);
    assert_int_equal(s.status, 0x63);
    assert_int_equal(s.ends, 2);
    d->ops->fini(d);
}

static void panic_and_post(void **state)
{
    struct seen s = {0};
    struct dev *d = pvpanic_new(on_panic, &s);
    assert_int_equal(dev_in(d, 0, 0, 1), 3);
    dev_out(d, 0, 0, 1, 0xfc);
    assert_int_equal(s.panics, 0);
    dev_out(d, 0, 0, 1, 1);
    assert_int_equal(s.bits, PVPANIC_PANICKED);
    d->ops->fini(d);
    d = post_port_new();
    dev_out(d, 0, 0, 1, 0xab);
    assert_int_equal(dev_in(d, 0, 0, 1), 0xab);
    d->ops->fini(d);
}

static void test_device(void **state)
{
    struct isa_fixture *f = fixture_new(0);
    struct irq_line irq[PC_TESTDEV_NIRQ] = {0};
    uint64_t v;
    irq[3] = fixture_irq(f, 3);
    f->dev = pc_testdev_new(irq);
    dev_out(f->dev, PC_TESTDEV_IO, 0, 4, 0x11223344);
    dev_out(f->dev, PC_TESTDEV_IO, 1, 1, 0xaa);
    assert_int_equal(dev_in(f->dev, PC_TESTDEV_IO, 0, 4), 0x1122aa44);
    assert_int_equal(dev_in(f->dev, PC_TESTDEV_IO, 2, 2), 0x1122);
    assert_int_equal(f->dev->ops->read(f->dev, PC_TESTDEV_IO, 2, 4, &v), DEV_UNMAPPED);
    dev_out(f->dev, PC_TESTDEV_IRQ, 3, 1, 1);
    assert_true(f->line[3].level);
    dev_out(f->dev, PC_TESTDEV_IRQ, 3, 1, 0);
    assert_false(f->line[3].level);
    assert_int_equal(f->dev->ops->write(f->dev, PC_TESTDEV_IRQ, 24, 1, 1), DEV_UNMAPPED);
    dev_out(f->dev, PC_TESTDEV_MEM, PC_TESTDEV_MEM_SIZE - 8, 8, 0x0123456789abcdefull);
    assert_true(dev_in(f->dev, PC_TESTDEV_MEM, PC_TESTDEV_MEM_SIZE - 4, 4) == 0x01234567);
    assert_int_equal(f->dev->ops->read(f->dev, PC_TESTDEV_MEM, PC_TESTDEV_MEM_SIZE - 4, 8, &v), DEV_UNMAPPED);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pm_timer),      cmocka_unit_test(pm_sleep_and_button), cmocka_unit_test(reset_ports),
        cmocka_unit_test(debug_console), cmocka_unit_test(debug_exit),          cmocka_unit_test(panic_and_post),
        cmocka_unit_test(test_device), cmocka_unit_test(coprocessor_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
