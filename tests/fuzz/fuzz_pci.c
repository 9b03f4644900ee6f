/*
 * libFuzzer: PCI bus. The input is a list of accesses to ECAM, the configuration ports, and MSI-X structures of three
 * functions with every kind of BAR; what the bus tells the board must stay sane whatever they are.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dev/pci.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct board {
    struct pci_bus *bus;
    bool line[4];
};

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x))                                                                                                      \
            __builtin_trap();                                                                                          \
    } while (0)

static const struct pci_window win[2] = {{0xc0000000, 0x100000}, {0x800000000, 0x1000000}}, win_io = {0xc000, 0x1000};

static bool in(const struct pci_window *w, const struct pci_range *r)
{
    return r->start >= w->start && r->start + r->size <= w->start + w->size;
}

static void check_ranges(struct pci_bus *b)
{
    struct pci_range r[PCI_MAX_RANGES];
    unsigned n = pci_bus_ranges(b, r);
    CHECK(n <= PCI_MAX_RANGES);
    for (unsigned i = 0; i < n; i++) {
        CHECK(r[i].size && r[i].start % r[i].size == 0 && r[i].bank < PCI_BARS);
        CHECK(r[i].io ? in(&win_io, &r[i]) : in(&win[0], &r[i]) || in(&win[1], &r[i]));
        for (unsigned k = 0; k < i; k++)
            CHECK(r[i].io != r[k].io || r[i].start >= r[k].start + r[k].size || r[k].start >= r[i].start + r[i].size);
    }
}

static void map_changed(void *ctx)
{
    struct board *bd = ctx;
    if (bd->bus)
        check_ranges(bd->bus);
}

static void line_set(void *ctx, unsigned pin, bool level)
{
    struct board *bd = ctx;
    CHECK(pin < 4 && bd->line[pin] != level);
    bd->line[pin] = level;
}

static void msi_send(void *ctx, uint64_t addr, uint32_t d)
{
    CHECK((addr & 3) == 0);
}

static int fn_rd(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    *val = 0;
    return DEV_OK;
}
static int fn_wr(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return DEV_OK;
}
static void fn_fini(struct dev *d)
{
    free(d);
}
static const struct dev_ops fn_ops = {.name = "fuzz", .read = fn_rd, .write = fn_wr, .fini = fn_fini};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct board bd = {0};
    struct dev_env env = {.msi = {msi_send, &bd}};
    struct pci_bus_config cfg = {.mem = {win[0], win[1]}, .io = win_io, .map_changed = map_changed, .map_ctx = &bd};
    struct pci_fn *fn[3];
    for (unsigned i = 0; i < 4; i++)
        cfg.intx[i] = (struct irq_line){line_set, &bd, i};
    struct pci_bus *b = pci_bus_new(&env, &cfg);
    if (!b)
        return 0;
    bd.bus = b;
    for (unsigned i = 0; i < 3; i++) {
        fn[i] = calloc(1, sizeof *fn[i]);
        fn[i]->dev.ops = &fn_ops;
        pci_fn_init(fn[i], &env, 0x1234, (uint16_t)i, 0x020000, 1, 1, 1, (uint8_t)(1 + i));
        pci_bar_init(fn[i], 0, PCI_BAR_MEM64, 0x1000u << (4 * i));
        pci_bar_init(fn[i], 2, PCI_BAR_MEM32, 16);
        pci_bar_init(fn[i], 3, PCI_BAR_IO, 4u << i);
        pci_bar_init(fn[i], 4, PCI_BAR_MEM64, 0x100000);
        CHECK(pci_msix_init(fn[i], i ? PCI_MSIX_MAX : 3, 0, 0, 0x800) == 0);
        CHECK(pci_plug(b, 1 + 4 * i, fn[i]) == 0);
    }
    struct dev *d = pci_bus_dev(b);
    uint64_t v;
    while (size >= 8) {
        unsigned op = data[0] & 15, sz = 1u << (data[0] >> 4 & 3), f = (data[0] >> 6) % 3;
        uint64_t off = (uint64_t)data[1] | (uint64_t)data[2] << 8 | (uint64_t)(data[3] & 15) << 16, val = 0;
        memcpy(&val, data + 4, 4);
        val |= val << 32;
        data += 8;
        size -= 8;
        switch (op) {
        case 0: d->ops->write(d, PCI_BANK_ECAM, off, sz, val); break;
        case 1: d->ops->read(d, PCI_BANK_ECAM, off, sz, &v); break;
        case 2: d->ops->write(d, PCI_BANK_PORTS, off & 7, sz, val); break;
        case 3: d->ops->read(d, PCI_BANK_PORTS, off & 7, sz, &v); break;
        case 4: pci_cfg_write(b, fn[f]->slot, off & 255, sz, (uint32_t)val); break;
        case 5: pci_msix_table_write(fn[f], off & 0x3ff, sz, val); break;
        case 6: pci_msix_table_read(fn[f], off, sz, &v); break;
        case 7: pci_msix_pba_read(fn[f], off & 31, sz, &v); break;
        case 8: pci_msix_notify(fn[f], (unsigned)off); break;
        case 9: pci_intx_set(fn[f], val & 1); break;
        case 10: pci_bus_assign(b); break;
        case 11: d->ops->reset(d); break;
        default: pci_cfg_write(b, fn[f]->slot, PCI_COMMAND + (off & 0x1c), 4, (uint32_t)val); break;
        }
        check_ranges(b);
    }
    d->ops->reset(d);
    for (unsigned i = 0; i < 4; i++)
        CHECK(!bd.line[i]);
    d->ops->fini(d);
    return 0;
}
