/* PCI bus: configuration mechanisms, BARs, decoding, interrupt pins, MSI-X. */
#include "tests/unit/virtio_fixture.h"

struct tfn {
    struct pci_fn fn;
    unsigned resets;
};

static void t_reset(struct dev *d)
{
    ((struct tfn *)d)->resets++;
}
static void t_fini(struct dev *d)
{
    free(d);
}
static int t_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    *val = bank;
    return DEV_OK;
}
static int t_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return DEV_OK;
}
static const struct dev_ops t_ops = {.name = "t", .reset = t_reset, .read = t_read, .write = t_write, .fini = t_fini};

static struct tfn *add_fn(struct fix *f, unsigned slot)
{
    struct tfn *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->fn.dev.ops = &t_ops;
    pci_fn_init(&t->fn, &f->env, 0x1234, 0x5678, 0x020304, 5, 0xaaaa, 0xbbbb, 1);
    pci_bar_init(&t->fn, 0, PCI_BAR_MEM64, 0x8000);
    pci_bar_init(&t->fn, 2, PCI_BAR_MEM32, 0x100);
    pci_bar_init(&t->fn, 3, PCI_BAR_IO, 0x40);
    assert_int_equal(pci_msix_init(&t->fn, 3, 0, 0x4000, 0x5000), 0);
    assert_int_equal(pci_plug(f->bus, slot, &t->fn), 0);
    return t;
}

static int setup(void **st)
{
    *st = fix_new();
    return 0;
}
static int teardown(void **st)
{
    fix_free(*st);
    return 0;
}

static uint64_t bus_rd(struct fix *f, uint32_t bank, uint64_t off, unsigned size)
{
    struct dev *b = pci_bus_dev(f->bus);
    uint64_t v = ~0ull;
    int rc = b->ops->read(b, bank, off, size, &v);
    return rc == DEV_OK ? v : 0xdead0000 + (unsigned)rc;
}
static int bus_wr(struct fix *f, uint32_t bank, uint64_t off, unsigned size, uint64_t v)
{
    struct dev *b = pci_bus_dev(f->bus);
    return b->ops->write(b, bank, off, size, v);
}
#define P PCI_BANK_PORTS
#define E PCI_BANK_ECAM

static void test_mechanism1(void **st)
{
    struct fix *f = *st;
    add_fn(f, 3);
    bus_wr(f, P, 0, 4, 0xffffffff);
    assert_int_equal(bus_rd(f, P, 0, 4), 0x80fffffc);
    bus_wr(f, P, 0, 4, 0x80000000 | 3 << 11);
    assert_int_equal(bus_rd(f, P, 4, 4), 0x56781234);
    assert_int_equal(bus_rd(f, P, 4, 2), 0x1234);
    assert_int_equal(bus_rd(f, P, 6, 2), 0x5678);
    assert_int_equal(bus_rd(f, P, 5, 1), 0x12);
    assert_int_equal(bus_rd(f, P, 7, 1), 0x56);
    assert_int_equal(bus_rd(f, P, 5, 2), 0x7812);
    bus_wr(f, P, 0, 4, 0x80000000 | 3 << 11 | 8);
    assert_int_equal(bus_rd(f, P, 4, 4), 0x02030405);
    /* byte writes reach their own byte */
    bus_wr(f, P, 0, 4, 0x80000000 | 3 << 11 | 0x3c);
    bus_wr(f, P, 4, 1, 0x5a);
    bus_wr(f, P, 5, 1, 0xff); /* the pin is read-only */
    assert_int_equal(bus_rd(f, P, 4, 4), 0x0000015a);
    /* enable bit off, other bus, other function, empty slot: ones */
    bus_wr(f, P, 0, 4, 3 << 11);
    assert_int_equal(bus_rd(f, P, 4, 4), 0xffffffff);
    bus_wr(f, P, 0, 4, 0x80010000 | 3 << 11);
    assert_int_equal(bus_rd(f, P, 4, 2), 0xffff);
    bus_wr(f, P, 0, 4, 0x80000100 | 3 << 11);
    assert_int_equal(bus_rd(f, P, 4, 1), 0xff);
    bus_wr(f, P, 0, 4, 0x80000000 | 4 << 11);
    assert_int_equal(bus_rd(f, P, 4, 4), 0xffffffff);
    /* the address register takes dwords only */
    assert_int_equal(bus_wr(f, P, 0, 2, 0), DEV_UNMAPPED);
    assert_int_equal(bus_wr(f, P, 1, 1, 6), DEV_UNMAPPED);
    assert_int_equal(bus_rd(f, P, 0, 4), 0x80000000 | 4 << 11);
    assert_int_equal(bus_wr(f, P, 6, 4, 0), DEV_UNMAPPED);
}

static int cf9_val;
static int cf9_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    assert_true(bank == 0 && off == 0 && size == 1);
    *val = 0x77;
    return DEV_OK;
}
static int cf9_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    cf9_val = (int)val;
    return DEV_OK;
}

static void test_cf9(void **st)
{
    struct fix *f = *st;
    static const struct dev_ops ops = {.name = "cf9", .read = cf9_read, .write = cf9_write};
    struct dev d = {&ops};
    f->cfg.cf9 = &d;
    struct dev *old = pci_bus_dev(f->bus);
    old->ops->fini(old);
    f->bus = pci_bus_new(&f->env, &f->cfg);
    bus_wr(f, P, 0, 4, 0x80000000);
    assert_int_equal(bus_wr(f, P, 1, 1, 6), DEV_OK);
    assert_int_equal(cf9_val, 6);
    assert_int_equal(bus_rd(f, P, 1, 1), 0x77);
    assert_int_equal(bus_rd(f, P, 0, 4), 0x80000000);
}

static void test_ecam(void **st)
{
    struct fix *f = *st;
    add_fn(f, 3);
    uint64_t base = 3 << 15;
    assert_int_equal(bus_rd(f, E, base, 4), 0x56781234);
    assert_int_equal(bus_rd(f, E, base + 3, 1), 0x56);
    assert_true(bus_rd(f, E, base, 8) == 0x0010000056781234ull);
    assert_int_equal(bus_rd(f, E, base + 0x100, 4), 0xffffffff);  /* no extended space */
    assert_int_equal(bus_rd(f, E, base + 0x1000, 4), 0xffffffff); /* function 1 */
    assert_int_equal(bus_rd(f, E, 4 << 15, 2), 0xffff);
    assert_int_equal(bus_rd(f, E, 0, 4), 0x00081b36);
    assert_int_equal(bus_rd(f, E, 8, 4) >> 8, 0x060000);
    bus_wr(f, E, base + 4, 2, 0xffff);
    assert_int_equal(bus_rd(f, E, base + 4, 2), 0x0547);
    bus_wr(f, E, base, 4, 0);
    assert_int_equal(bus_rd(f, E, base, 4), 0x56781234);
}

static void test_bar_sizing(void **st)
{
    struct fix *f = *st;
    add_fn(f, 3);
    f->slot = 3;
    cfg_wr(f, 0x10, 4, 0xffffffff);
    cfg_wr(f, 0x14, 4, 0xffffffff);
    assert_int_equal(cfg_rd(f, 0x10, 4), 0xffff8004);
    assert_int_equal(cfg_rd(f, 0x14, 4), 0xffffffff);
    cfg_wr(f, 0x18, 4, 0xffffffff);
    assert_int_equal(cfg_rd(f, 0x18, 4), 0xffffff00);
    cfg_wr(f, 0x1c, 4, 0xffffffff);
    assert_int_equal(cfg_rd(f, 0x1c, 4), 0x0000ffc1);
    cfg_wr(f, 0x20, 4, 0xffffffff); /* not implemented */
    cfg_wr(f, 0x30, 4, 0xffffffff); /* no ROM */
    assert_int_equal(cfg_rd(f, 0x20, 4), 0);
    assert_int_equal(cfg_rd(f, 0x30, 4), 0);
    assert_int_equal(f->map_changes, 0);
}

static void test_decode(void **st)
{
    struct fix *f = *st;
    struct tfn *t = add_fn(f, 3);
    struct pci_range r[PCI_MAX_RANGES];
    f->slot = 3;
    cfg_wr(f, 0x10, 4, 0xc0010000);
    cfg_wr(f, 0x18, 4, 0xc0000100);
    cfg_wr(f, 0x1c, 4, 0xc040);
    assert_int_equal(f->map_changes, 0);
    assert_int_equal(pci_bus_ranges(f->bus, r), 0);
    cfg_wr(f, 4, 2, PCI_CMD_MEM);
    assert_int_equal(f->map_changes, 1);
    assert_int_equal(pci_bus_ranges(f->bus, r), 2);
    assert_true(r[0].dev == &t->fn.dev && r[0].bank == 0 && !r[0].io && r[0].start == 0xc0010000 &&
                r[0].size == 0x8000);
    assert_true(r[1].bank == 2 && r[1].start == 0xc0000100 && r[1].size == 0x100);
    cfg_wr(f, 4, 2, PCI_CMD_MEM | PCI_CMD_MASTER); /* nothing new */
    cfg_wr(f, 0x10, 4, 0xc0010000);
    assert_int_equal(f->map_changes, 1);
    cfg_wr(f, 4, 2, PCI_CMD_MEM | PCI_CMD_IO);
    assert_int_equal(f->map_changes, 2);
    assert_int_equal(pci_bus_ranges(f->bus, r), 3);
    assert_true(r[2].io && r[2].start == 0xc040 && r[2].size == 0x40);
    /* a 64-bit move passes through an intermediate address that no window has */
    cfg_wr(f, 0x14, 4, 8);
    assert_int_equal(pci_bus_ranges(f->bus, r), 3);
    assert_true(r[0].start == 0x8c0010000);
    /* outside of the windows: deaf, also across an end */
    cfg_wr(f, 0x14, 4, 0);
    cfg_wr(f, 0x10, 4, 0x00100000);
    assert_int_equal(pci_bus_ranges(f->bus, r), 2);
    cfg_wr(f, 0x10, 4, 0xffff8000);
    assert_int_equal(pci_bus_ranges(f->bus, r), 2);
    cfg_wr(f, 0x14, 4, 0xffffffff);
    assert_int_equal(pci_bus_ranges(f->bus, r), 2);
    /* overlap: the first one wins */
    cfg_wr(f, 0x14, 4, 0);
    cfg_wr(f, 0x10, 4, 0xc0000000);
    assert_int_equal(pci_bus_ranges(f->bus, r), 2);
    assert_true(r[0].bank == 0 && r[1].io);
}

static void test_assign(void **st)
{
    struct fix *f = *st;
    struct pci_range r[PCI_MAX_RANGES];
    for (unsigned s = 1; s < 6; s++)
        add_fn(f, s);
    assert_int_equal(pci_bus_assign(f->bus), 0);
    assert_int_equal(f->map_changes, 1);
    unsigned n = pci_bus_ranges(f->bus, r);
    assert_int_equal(n, 15);
    for (unsigned i = 0; i < n; i++)
        assert_true(r[i].start % r[i].size == 0 && r[i].start != 0);
    f->slot = 2;
    assert_int_equal(cfg_rd(f, 0x3c, 1), 18); /* slot 2, INTA: line (2 + 0) % 4 */
    assert_int_equal(cfg_rd(f, 4, 2), PCI_CMD_IO | PCI_CMD_MEM);
    assert_int_equal(cfg_rd(f, 0x10, 4) & 15, 4);
    assert_int_equal(pci_bus_assign(f->bus), 0); /* again: the same result */
    struct pci_range r2[PCI_MAX_RANGES];
    assert_int_equal(pci_bus_ranges(f->bus, r2), n);
    for (unsigned i = 0; i < n; i++)
        assert_true(r[i].start == r2[i].start && r[i].bank == r2[i].bank);
}

static void test_assign_spill(void **st)
{
    struct fix *f = *st;
    struct dev *old = pci_bus_dev(f->bus);
    old->ops->fini(old);
    f->cfg.mem[0] = (struct pci_window){0xc0000000, 0x9000}; /* one 32 KiB BAR and the small ones */
    f->cfg.io.size = 0x40;
    f->bus = pci_bus_new(&f->env, &f->cfg);
    add_fn(f, 1);
    add_fn(f, 2);
    struct pci_range r[PCI_MAX_RANGES];
    assert_int_equal(pci_bus_assign(f->bus), -1); /* the second I/O BAR has no room */
    assert_int_equal(f->logs, 1);
    assert_int_equal(pci_bus_ranges(f->bus, r), 5);
    assert_true(r[0].start == 0xc0000000 && r[3].start == 0x800000000);
}

static void test_intx(void **st)
{
    struct fix *f = *st;
    struct tfn *a = add_fn(f, 1), *b = add_fn(f, 5), *c = add_fn(f, 2);
    pci_intx_set(&a->fn, true);
    assert_true(f->line[1] && !f->line[2]);
    pci_intx_set(&b->fn, true); /* shares line 1 */
    assert_int_equal(f->line_changes[1], 1);
    pci_intx_set(&c->fn, true);
    assert_true(f->line[2]);
    pci_intx_set(&a->fn, false);
    assert_true(f->line[1]);
    f->slot = 5;
    assert_int_equal(cfg_rd(f, 6, 2) & 8, 8);
    cfg_wr(f, 4, 2, PCI_CMD_INTX_OFF);
    assert_false(f->line[1]);
    assert_int_equal(cfg_rd(f, 6, 2) & 8, 8); /* the status bit does not care */
    cfg_wr(f, 4, 2, 0);
    assert_true(f->line[1]);
    pci_intx_set(&b->fn, false);
    assert_false(f->line[1]);
    assert_int_equal(cfg_rd(f, 6, 2) & 8, 0);
}

static void test_msix(void **st)
{
    struct fix *f = *st;
    struct tfn *t = add_fn(f, 1);
    uint64_t v;
    f->slot = 1;
    unsigned c = find_cap(f, PCI_CAP_MSIX, -1);
    assert_int_equal(cfg_rd(f, c + 2, 2), 2);
    assert_int_equal(cfg_rd(f, c + 4, 4), 0x4000);
    assert_int_equal(cfg_rd(f, c + 8, 4), 0x5000);
    pci_msix_notify(&t->fn, 0); /* disabled: lost */
    cfg_wr(f, 4, 2, PCI_CMD_MASTER);
    cfg_wr(f, c + 2, 2, 0xffff);
    assert_int_equal(cfg_rd(f, c + 2, 2), 0xc002);
    cfg_wr(f, c + 2, 2, 0x8000);
    assert_int_equal(pci_msix_table_read(&t->fn, 12, 4, &v), DEV_OK);
    assert_int_equal(v, 1); /* masked after reset */
    assert_int_equal(pci_msix_pba_read(&t->fn, 0, 8, &v), DEV_OK);
    assert_int_equal(v, 0);
    pci_msix_table_write(&t->fn, 16, 8, 0x1fee01000);
    pci_msix_table_write(&t->fn, 24, 4, 0x4321);
    pci_msix_notify(&t->fn, 1);
    assert_int_equal(f->msi_count, 0);
    pci_msix_pba_read(&t->fn, 0, 8, &v);
    assert_int_equal(v, 2);
    pci_msix_table_write(&t->fn, 28, 4, 0xfffffffe); /* unmask; only bit 0 exists */
    assert_int_equal(f->msi_count, 1);
    assert_true(f->msi_addr == 0x1fee01000 && f->msi_data == 0x4321);
    pci_msix_table_read(&t->fn, 24, 8, &v);
    assert_true(v == 0x4321);
    pci_msix_pba_read(&t->fn, 0, 4, &v);
    assert_int_equal(v, 0);
    /* function mask, then bus mastering, hold it back */
    cfg_wr(f, c + 3, 1, 0xc0);
    pci_msix_notify(&t->fn, 1);
    pci_msix_notify(&t->fn, 1);
    assert_int_equal(f->msi_count, 1);
    cfg_wr(f, c + 3, 1, 0x80);
    assert_int_equal(f->msi_count, 2); /* one message for both */
    cfg_wr(f, 4, 2, 0);
    pci_msix_notify(&t->fn, 1);
    assert_int_equal(f->msi_count, 2);
    cfg_wr(f, 4, 2, PCI_CMD_MASTER);
    assert_int_equal(f->msi_count, 3);
    pci_msix_notify(&t->fn, 3);
    pci_msix_notify(&t->fn, 0xffff);
    assert_int_equal(f->msi_count, 3);
    assert_int_equal(pci_msix_table_read(&t->fn, 48, 4, &v), DEV_UNMAPPED);
    assert_int_equal(pci_msix_table_read(&t->fn, 44, 8, &v), DEV_UNMAPPED);
    assert_int_equal(pci_msix_table_write(&t->fn, 2, 4, 0), DEV_UNMAPPED);
    assert_int_equal(pci_msix_table_write(&t->fn, 0, 2, 0), DEV_UNMAPPED);
    assert_int_equal(pci_msix_table_read(&t->fn, ~3ull, 4, &v), DEV_UNMAPPED);
}

static void test_reset(void **st)
{
    struct fix *f = *st;
    struct tfn *t = add_fn(f, 1);
    struct pci_range r[PCI_MAX_RANGES];
    uint64_t v;
    f->slot = 1;
    pci_bus_assign(f->bus);
    unsigned c = find_cap(f, PCI_CAP_MSIX, -1), changes = f->map_changes;
    pci_intx_set(&t->fn, true);
    cfg_wr(f, c + 2, 2, 0x8000);
    pci_msix_notify(&t->fn, 2);
    bus_wr(f, P, 0, 4, 0x80000800);
    struct dev *b = pci_bus_dev(f->bus);
    b->ops->reset(b);
    assert_int_equal(t->resets, 1);
    assert_int_equal(f->map_changes, changes + 1);
    assert_int_equal(pci_bus_ranges(f->bus, r), 0);
    assert_false(f->line[1]);
    assert_int_equal(cfg_rd(f, 4, 4), 0x00100000);
    assert_int_equal(cfg_rd(f, 0x10, 4), 4);
    assert_int_equal(cfg_rd(f, 0x1c, 4), 1);
    assert_int_equal(cfg_rd(f, c + 2, 2), 2);
    assert_int_equal(bus_rd(f, P, 0, 4), 0);
    pci_msix_pba_read(&t->fn, 0, 8, &v);
    assert_int_equal(v, 0);
}

static void test_plug(void **st)
{
    struct fix *f = *st;
    struct tfn *t = add_fn(f, 31);
    assert_int_equal(pci_plug(f->bus, 31, &t->fn), -1);
    assert_int_equal(pci_plug(f->bus, 32, &t->fn), -1);
    assert_int_equal(pci_plug(f->bus, 0, &t->fn), -1);
    while (pci_cap_add(&t->fn, PCI_CAP_VENDOR, 20))
        ;
    f->slot = 31;
    unsigned n = 0;
    for (unsigned c = cfg_rd(f, 0x34, 1); c; c = cfg_rd(f, c + 1, 1), n++)
        assert_true(c >= 0x40 && c % 4 == 0);
    assert_int_equal(n, 1 + (192 - 12) / 20);
}

int main(void)
{
#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_mechanism1),   T(test_cf9),  T(test_ecam), T(test_bar_sizing), T(test_decode), T(test_assign),
        T(test_assign_spill), T(test_intx), T(test_msix), T(test_reset),      T(test_plug),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
