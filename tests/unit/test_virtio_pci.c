/* The virtio PCI transport, seen through an entropy device and a console. */
#include "tests/unit/virtio_fixture.h"

#include "dev/virtio/virtio_console.h"
#include "dev/virtio/virtio_rng.h"

static int fill(void *ctx, void *buf, size_t n)
{
    memset(buf, 0x11, n);
    return 0;
}

static size_t cd_write(void *ctx, const uint8_t *buf, size_t n)
{
    *(unsigned *)ctx += (unsigned)n;
    return n;
}

static unsigned emitted;

static int setup_rng(void **st)
{
    struct fix *f = fix_new();
    struct entropy src = {NULL, fill};
    f->d = virtio_rng_new(&f->env, f->bus, 4, &src);
    f->slot = 4;
    assert_non_null(f->d);
    *st = f;
    return 0;
}
static int setup_con(void **st)
{
    struct fix *f = fix_new();
    struct chardev cd = {.ctx = &emitted, .write = cd_write};
    struct chardev_sink sink;
    emitted = 0;
    f->d = virtio_console_new(&f->env, f->bus, 4, &cd, &sink, 80, 25);
    f->slot = 4;
    assert_non_null(f->d);
    *st = f;
    return 0;
}
static int teardown(void **st)
{
    fix_free(*st);
    return 0;
}

static void test_ids(void **st)
{
    struct fix *f = *st;
    assert_int_equal(cfg_rd(f, 0, 4), 0x10441af4);
    assert_true(cfg_rd(f, PCI_REVISION, 1) >= 1);
    assert_true(cfg_rd(f, PCI_SUBDEVICE, 2) >= 0x40);
    assert_int_equal(cfg_rd(f, PCI_INT_PIN, 1), 1);
    static const struct {
        int type;
        uint32_t off, len;
    } want[] = {{1, 0, 60}, {2, 0x3000, 4}, {3, 0x1000, 1}};
    for (unsigned i = 0; i < 3; i++) {
        unsigned c = find_cap(f, PCI_CAP_VENDOR, want[i].type);
        assert_true(c);
        assert_int_equal(cfg_rd(f, c + 4, 1), 0);
        assert_int_equal(cfg_rd(f, c + 8, 4), want[i].off);
        assert_int_equal(cfg_rd(f, c + 12, 4), want[i].len);
    }
    assert_int_equal(cfg_rd(f, find_cap(f, PCI_CAP_VENDOR, 2) + 16, 4), 4);
    assert_int_equal(find_cap(f, PCI_CAP_VENDOR, 4), 0); /* this device has no configuration */
    assert_true(find_cap(f, PCI_CAP_VENDOR, 5));
    assert_null(virtio_rng_new(&f->env, f->bus, 4, &(struct entropy){NULL, fill})); /* slot taken */
    assert_null(virtio_rng_new(&f->env, f->bus, 32, &(struct entropy){NULL, fill}));
}

static void test_negotiation(void **st)
{
    struct fix *f = *st;
    uint64_t all = VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_RING_RESET;
    assert_true(offered(f) == all);
    bar_wr(f, 0, 4, 2);
    assert_int_equal(bar_rd(f, 4, 4), 0);
    set_status(f, 3);
    accept_features(f, all | 1ull << 33); /* ACCESS_PLATFORM was not offered */
    set_status(f, 11);
    assert_int_equal(status(f), 3);
    accept_features(f, all & ~VIRTIO_F_VERSION_1);
    set_status(f, 11);
    assert_int_equal(status(f), 3);
    accept_features(f, all & ~VIRTIO_F_RING_RESET);
    bar_wr(f, 8, 4, 2);
    bar_wr(f, 12, 4, 0xffffffff); /* beyond 64 bits: nowhere */
    set_status(f, 11);
    assert_int_equal(status(f), 11);
    accept_features(f, 0); /* settled */
    bar_wr(f, 8, 4, 1);
    assert_int_equal(bar_rd(f, 12, 4), 1);
    set_status(f, 0);
    assert_int_equal(status(f), 0);
    bar_wr(f, 8, 4, 1);
    assert_int_equal(bar_rd(f, 12, 4), 0);
}

static void test_common(void **st)
{
    struct fix *f = *st;
    assert_int_equal(bar_rd(f, 16, 2), 0xffff);
    assert_int_equal(bar_rd(f, 18, 2), 1);
    bar_wr(f, 16, 2, 1);
    assert_int_equal(bar_rd(f, 16, 2), 1);
    bar_wr(f, 16, 2, 2); /* two vectors only */
    assert_int_equal(bar_rd(f, 16, 2), 0xffff);
    assert_int_equal(bar_rd(f, 24, 2), 64);
    assert_int_equal(bar_rd(f, 30, 2), 0);
    bar_wr(f, 24, 2, 63);
    assert_int_equal(bar_rd(f, 24, 2), 64);
    bar_wr(f, 24, 2, 32);
    assert_int_equal(bar_rd(f, 24, 2), 32);
    bar_wr(f, 32, 4, 0x11223340);
    bar_wr(f, 36, 4, 0x55667788);
    assert_true(bar_rd(f, 32, 8) == 0x5566778811223340ull);
    bar_wr(f, 40, 8, 0x123456789abcdef0);
    assert_int_equal(bar_rd(f, 44, 4), 0x12345678);
    bar_wr(f, 22, 2, 1); /* no such queue */
    assert_int_equal(bar_rd(f, 24, 2), 0);
    bar_wr(f, 24, 2, 8);
    bar_wr(f, 28, 2, 1);
    assert_int_equal(bar_rd(f, 28, 2), 0);
    bar_wr(f, 22, 2, 0);
    assert_int_equal(bar_rd(f, 24, 2), 32);
    /* wrong widths and places */
    assert_int_equal(bar_wr(f, 20, 2, 0), DEV_UNMAPPED);
    assert_int_equal(bar_wr(f, 24, 4, 0), DEV_UNMAPPED);
    assert_int_equal(bar_wr(f, 4, 4, 0), DEV_UNMAPPED);
    assert_int_equal(bar_wr(f, 60, 4, 0), DEV_UNMAPPED);
    assert_int_equal(bar_wr(f, VIRTIO_PCI_NOTIFY + 4, 2, 0), DEV_UNMAPPED);
    assert_int_equal(bar_wr(f, VIRTIO_PCI_NOTIFY + 1, 2, 0), DEV_UNMAPPED);
    uint64_t v;
    assert_int_equal(f->d->ops->read(f->d, 0, 0x6000, 4, &v), DEV_UNMAPPED);
    assert_int_equal(f->d->ops->read(f->d, 0, 64, 1, &v), DEV_UNMAPPED);
    assert_int_equal(f->d->ops->read(f->d, 0, VIRTIO_PCI_DEVICE, 1, &v), DEV_UNMAPPED);
    assert_int_equal(f->d->ops->read(f->d, 1, 0, 4, &v), DEV_UNMAPPED);
    /* a reset forgets it all */
    set_status(f, 0);
    assert_int_equal(bar_rd(f, 24, 2), 64);
    assert_true(bar_rd(f, 32, 8) == 0);
}

static void one_request(struct fix *f)
{
    struct seg s = {HEAP, 16, true};
    uint32_t id = 0, len = 0;
    add_chain(f, 0, &s, 1);
    kick(f, 0);
    assert_true(get_used(f, 0, &id, &len));
    assert_int_equal(len, 16);
}

static void test_interrupts(void **st)
{
    struct fix *f = *st;
    bring_up(f, 0, 16);
    one_request(f);
    assert_int_equal(f->msi_count, 1);
    assert_int_equal(f->msi_data, 0x41);
    assert_int_equal(bar_rd(f, VIRTIO_PCI_ISR, 1), 0); /* not with MSI-X */
    bar_wr(f, 26, 2, 0xffff);
    one_request(f);
    assert_int_equal(f->msi_count, 1);
    /* without MSI-X: ISR and the pin; reading ISR acknowledges */
    unsigned c = find_cap(f, PCI_CAP_MSIX, -1);
    cfg_wr(f, c + 2, 2, 0);
    one_request(f);
    assert_true(f->line[0]);
    assert_int_equal(bar_rd(f, VIRTIO_PCI_ISR, 1), 1);
    assert_false(f->line[0]);
    assert_int_equal(bar_rd(f, VIRTIO_PCI_ISR, 1), 0);
    one_request(f);
    assert_true(f->line[0]);
    cfg_wr(f, c + 2, 2, 0x8000); /* MSI-X takes over */
    assert_false(f->line[0]);
    cfg_wr(f, c + 2, 2, 0);
    assert_int_equal(bar_rd(f, VIRTIO_PCI_ISR, 1), 1);
    put_desc(f, RING(0), f->q[0].free_desc, 0, 1, D_WRITE, 0); /* broken driver: configuration interrupt */
    make_avail(f, 0, f->q[0].free_desc);
    kick(f, 0);
    assert_int_equal(status(f), 15 | 64);
    assert_int_equal(bar_rd(f, VIRTIO_PCI_ISR, 1), 2);
    /* a machine reset */
    struct dev *b = pci_bus_dev(f->bus);
    b->ops->reset(b);
    assert_int_equal(status(f), 0);
    assert_int_equal(bar_rd(f, 16, 2), 0xffff);
    bring_up(f, VIRTIO_F_EVENT_IDX, 16);
    one_request(f);
}

static void test_queue_reset(void **st)
{
    struct fix *f = *st;
    bring_up(f, VIRTIO_F_RING_RESET, 16);
    one_request(f);
    bar_wr(f, 22, 2, 0);
    bar_wr(f, 58, 2, 1);
    assert_int_equal(bar_rd(f, 58, 2), 0);
    assert_int_equal(bar_rd(f, 28, 2), 0);
    assert_int_equal(bar_rd(f, 24, 2), 64);
    setup_queue(f, 0, 8, 1);
    one_request(f);
    bring_up(f, 0, 16); /* not negotiated: no effect */
    bar_wr(f, 58, 2, 1);
    assert_int_equal(bar_rd(f, 28, 2), 1);
}

static void test_cfg_access(void **st)
{
    struct fix *f = *st;
    unsigned c = find_cap(f, PCI_CAP_VENDOR, 5);
    cfg_wr(f, PCI_COMMAND, 2, 0); /* it works without decoding */
    cfg_wr(f, c + 4, 1, 0);
    cfg_wr(f, c + 8, 4, VIRTIO_PCI_DEVICE);
    cfg_wr(f, c + 12, 4, 4);
    assert_int_equal(cfg_rd(f, c + 16, 4), 80 | 25 << 16);
    cfg_wr(f, c + 8, 4, 20);
    cfg_wr(f, c + 12, 4, 1);
    cfg_wr(f, c + 16, 1, 3);
    assert_int_equal(status(f), 3);
    assert_int_equal(cfg_rd(f, c + 16, 1), 3);
    cfg_wr(f, c + 12, 4, 3); /* no such width: nothing happens */
    cfg_wr(f, c + 16, 1, 0);
    assert_int_equal(status(f), 3);
    cfg_wr(f, c + 12, 4, 2); /* unaligned */
    cfg_wr(f, c + 8, 4, 19);
    cfg_wr(f, c + 16, 2, 0);
    assert_int_equal(status(f), 3);
    cfg_wr(f, c + 8, 4, 0xfffffffe);
    assert_int_equal(cfg_rd(f, c + 16, 2), 0xffff);
    cfg_wr(f, c + 4, 1, 2); /* no such BAR */
    cfg_wr(f, c + 8, 4, 20);
    cfg_wr(f, c + 12, 4, 1);
    cfg_wr(f, c + 16, 1, 0);
    assert_int_equal(status(f), 3);
    cfg_wr(f, c, 4, 0xffffffff); /* id, length, type stay */
    assert_int_equal(find_cap(f, PCI_CAP_VENDOR, 5), c);
}

static void test_device_config(void **st)
{
    struct fix *f = *st;
    assert_int_equal(bar_rd(f, VIRTIO_PCI_DEVICE + 2, 2), 25);
    assert_int_equal(bar_rd(f, VIRTIO_PCI_DEVICE + 11, 1), 0);
    uint64_t v;
    assert_int_equal(f->d->ops->read(f->d, 0, VIRTIO_PCI_DEVICE + 11, 2, &v), DEV_UNMAPPED);
    assert_int_equal(f->d->ops->read(f->d, 0, VIRTIO_PCI_DEVICE + 12, 1, &v), DEV_UNMAPPED);
    assert_int_equal(bar_wr(f, VIRTIO_PCI_DEVICE + 10, 4, 0), DEV_UNMAPPED);
    assert_int_equal(bar_wr(f, VIRTIO_PCI_DEVICE + 8, 4, 'x'), DEV_OK); /* emergency write */
    assert_int_equal(emitted, 1);
    bar_wr(f, VIRTIO_PCI_DEVICE, 2, 7);
    assert_int_equal(bar_rd(f, VIRTIO_PCI_DEVICE, 2), 80);
    assert_int_equal(bar_rd(f, 21, 1), 0);
    bring_up(f, 1, 16);
    virtio_console_resize(f->d, 132, 50);
    assert_int_equal(bar_rd(f, VIRTIO_PCI_DEVICE, 4), 132 | 50 << 16);
    assert_int_equal(bar_rd(f, 21, 1), 1);
    assert_int_equal(f->msi_count, 1);
    assert_int_equal(f->msi_data, 0x40);
}

int main(void)
{
#define R(x) cmocka_unit_test_setup_teardown(x, setup_rng, teardown)
#define C(x) cmocka_unit_test_setup_teardown(x, setup_con, teardown)
    const struct CMUnitTest tests[] = {
        R(test_ids),         R(test_negotiation), R(test_common),        R(test_interrupts),
        R(test_queue_reset), C(test_cfg_access),  C(test_device_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
