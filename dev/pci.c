/* PCI bus, host bridge, configuration space. */
#include "dev/pci.h"

#include <stdlib.h>
#include <string.h>

struct pci_bus {
    struct dev dev;
    struct dev_env env;
    struct pci_bus_config cfg;
    struct pci_fn *fn[PCI_SLOTS];
    uint32_t config_address; /* port 0xCF8 */
    uint32_t intx_level[4];  /* per line: which slots assert it */
    unsigned hold;           /* > 0: map_changed is held back */
    bool map_dirty;
};

/* --- interrupt pins -------------------------------------------------------- */

static void intx_update(struct pci_fn *f)
{
    struct pci_bus *b = f->bus;
    unsigned pin = f->cfg[PCI_INT_PIN];
    if (f->intx)
        f->cfg[PCI_STATUS] |= PCI_STS_INTX;
    else
        f->cfg[PCI_STATUS] &= (uint8_t)~PCI_STS_INTX;
    if (!b || !pin)
        return;
    unsigned line = (f->slot + pin - 1) % 4;
    bool level = f->intx && !(pci_get16(f->cfg + PCI_COMMAND) & PCI_CMD_INTX_OFF);
    uint32_t was = b->intx_level[line], now = level ? was | 1u << f->slot : was & ~(1u << f->slot);
    b->intx_level[line] = now;
    if (!was != !now)
        irq_set(&b->cfg.intx[line], now != 0);
}

void pci_intx_set(struct pci_fn *f, bool level)
{
    if (f->intx == level)
        return;
    f->intx = level;
    intx_update(f);
}

/* --- BARs -------------------------------------------------------------------- */

static bool inside(const struct pci_window *w, uint64_t start, uint64_t size)
{
    return start >= w->start && size <= w->size && start - w->start <= w->size - size;
}

static uint64_t bar_base(const struct pci_fn *f, unsigned i)
{
    const uint8_t *p = f->cfg + PCI_BAR0 + 4 * i;
    switch (f->bar[i].kind) {
    case PCI_BAR_IO: return pci_get32(p) & ~3u;
    case PCI_BAR_MEM64: return (pci_get32(p) & ~15u) | (uint64_t)pci_get32(p + 4) << 32;
    default: return pci_get32(p) & ~15u;
    }
}

static void map_touched(struct pci_bus *b)
{
    b->map_dirty = true;
    if (b->hold)
        return;
    b->map_dirty = false;
    if (b->cfg.map_changed)
        b->cfg.map_changed(b->cfg.map_ctx);
}

static void map_hold(struct pci_bus *b)
{
    b->hold++;
}

static void map_release(struct pci_bus *b)
{
    if (!--b->hold && b->map_dirty)
        map_touched(b);
}

/* Work out what the function decodes; tell the board if that changed. */
static void decode_update(struct pci_fn *f)
{
    struct pci_bus *b = f->bus;
    if (!b)
        return;
    bool changed = false;
    uint16_t cmd = pci_get16(f->cfg + PCI_COMMAND);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *r = &f->bar[i];
        if (r->kind == PCI_BAR_NONE)
            continue;
        uint64_t base = bar_base(f, i);
        bool on;
        if (r->kind == PCI_BAR_IO)
            on = cmd & PCI_CMD_IO && inside(&b->cfg.io, base, r->size);
        else
            on = cmd & PCI_CMD_MEM && (inside(&b->cfg.mem[0], base, r->size) || inside(&b->cfg.mem[1], base, r->size));
        if (on != r->decoded || (on && base != r->base))
            changed = true;
        r->decoded = on;
        r->base = base;
    }
    if (changed)
        map_touched(b);
}

unsigned pci_bus_ranges(const struct pci_bus *b, struct pci_range *out)
{
    unsigned n = 0;
    for (unsigned s = 0; s < PCI_SLOTS; s++) {
        struct pci_fn *f = b->fn[s];
        for (unsigned i = 0; f && i < PCI_BARS; i++) {
            const struct pci_bar *r = &f->bar[i];
            if (!r->decoded)
                continue;
            bool io = r->kind == PCI_BAR_IO, clash = false;
            for (unsigned k = 0; k < n && !clash; k++)
                clash = out[k].io == io && r->base < out[k].start + out[k].size && out[k].start < r->base + r->size;
            if (!clash)
                out[n++] = (struct pci_range){&f->dev, i, io, r->base, r->size};
        }
    }
    return n;
}

void pci_bar_init(struct pci_fn *f, unsigned i, enum pci_bar_kind kind, uint64_t size)
{
    f->bar[i] = (struct pci_bar){.kind = kind, .size = size};
    uint64_t mask = ~(size - 1);
    uint8_t *c = f->cfg + PCI_BAR0 + 4 * i, *w = f->wmask + PCI_BAR0 + 4 * i;
    if (kind == PCI_BAR_IO) {
        pci_put32(c, 1);
        pci_put32(w, (uint32_t)mask & ~3u & 0xffff);
        return;
    }
    pci_put32(c, kind == PCI_BAR_MEM64 ? 4 : 0);
    pci_put32(w, (uint32_t)mask & ~15u);
    if (kind == PCI_BAR_MEM64)
        pci_put32(w + 4, (uint32_t)(mask >> 32));
}

/* --- functions ----------------------------------------------------------------- */

void pci_fn_init(struct pci_fn *f, const struct dev_env *env, uint16_t vendor, uint16_t device, uint32_t class,
                 uint8_t revision, uint16_t subvendor, uint16_t subdevice, uint8_t pin)
{
    f->env = *env;
    f->cap_next = 0x40;
    pci_put16(f->cfg + PCI_VENDOR, vendor);
    pci_put16(f->cfg + PCI_DEVICE, device);
    pci_put32(f->cfg + PCI_REVISION, class << 8 | revision);
    pci_put16(f->cfg + PCI_SUBVENDOR, subvendor);
    pci_put16(f->cfg + PCI_SUBDEVICE, subdevice);
    f->cfg[PCI_INT_PIN] = pin;
    pci_put16(f->wmask + PCI_COMMAND,
              PCI_CMD_IO | PCI_CMD_MEM | PCI_CMD_MASTER | PCI_CMD_PARITY | PCI_CMD_SERR | PCI_CMD_INTX_OFF);
    f->wmask[PCI_INT_LINE] = 0xff;
}

unsigned pci_cap_add(struct pci_fn *f, uint8_t id, unsigned len)
{
    unsigned at = f->cap_next;
    len = (len + 3) & ~3u;
    if (at + len > 256)
        return 0;
    f->cfg[at] = id;
    f->cfg[f->cap_last ? f->cap_last + 1 : PCI_CAP_PTR] = (uint8_t)at;
    f->cfg[PCI_STATUS] |= PCI_STS_CAPS;
    f->cap_last = at;
    f->cap_next = at + len;
    return at;
}

int pci_plug(struct pci_bus *b, unsigned slot, struct pci_fn *f)
{
    if (slot >= PCI_SLOTS || b->fn[slot])
        return -1;
    b->fn[slot] = f;
    f->bus = b;
    f->slot = slot;
    return 0;
}

static void bars_clear(struct pci_fn *f)
{
    for (unsigned i = PCI_BAR0; i < PCI_BAR0 + 4 * PCI_BARS; i++)
        f->cfg[i] &= (uint8_t)~f->wmask[i];
}

void pci_fn_reset(struct pci_fn *f)
{
    pci_put16(f->cfg + PCI_COMMAND, 0);
    f->cfg[PCI_INT_LINE] = 0;
    bars_clear(f);
    pci_msix_reset(f);
    f->intx = false;
    intx_update(f);
    decode_update(f);
}

/* --- configuration space --------------------------------------------------------- */

uint32_t pci_cfg_read(struct pci_bus *b, unsigned slot, unsigned off, unsigned size)
{
    struct pci_fn *f = slot < PCI_SLOTS ? b->fn[slot] : NULL;
    uint32_t v = 0;
    if (!f || size > 4 || off + size > sizeof f->cfg)
        return 0xffffffffu >> (32 - 8 * (size > 4 ? 4 : size));
    if (f->cfg_reading)
        f->cfg_reading(f, off, size);
    for (unsigned i = 0; i < size; i++)
        v |= (uint32_t)f->cfg[off + i] << (8 * i);
    return v;
}

void pci_cfg_write(struct pci_bus *b, unsigned slot, unsigned off, unsigned size, uint32_t val)
{
    struct pci_fn *f = slot < PCI_SLOTS ? b->fn[slot] : NULL;
    if (!f || size > 4 || off + size > sizeof f->cfg)
        return;
    for (unsigned i = 0; i < size; i++) {
        uint8_t m = f->wmask[off + i];
        f->cfg[off + i] = (uint8_t)((f->cfg[off + i] & ~m) | (val >> (8 * i) & m));
    }
    if (off < PCI_STATUS && off + size > PCI_COMMAND)
        intx_update(f);
    if (off < PCI_BAR0 + 4 * PCI_BARS && off + size > PCI_COMMAND)
        decode_update(f);
    pci_msix_update(f);
    if (f->cfg_written)
        f->cfg_written(f, off, size);
}

/* ECAM: address bits 27:20 bus, 19:15 device, 14:12 function, 11:0 register. The functions are conventional, so there
 * is nothing above 256. Wider or unaligned accesses are split into the bytes' dwords, as byte enables would. */
static bool ecam_slot(uint64_t off, unsigned *slot, unsigned *reg)
{
    *slot = (unsigned)(off >> 15 & 31);
    *reg = (unsigned)(off & 0xfff);
    return off < PCI_ECAM_SIZE && !(off >> 12 & 7) && *reg < 256;
}

static int ecam_read(struct pci_bus *b, uint64_t off, unsigned size, uint64_t *val)
{
    *val = 0;
    for (unsigned done = 0; done < size;) {
        unsigned slot, reg, n = 4 - ((off + done) & 3);
        if (n > size - done)
            n = size - done;
        uint32_t v = 0xffffffffu >> (32 - 8 * n);
        if (ecam_slot(off + done, &slot, &reg))
            v = pci_cfg_read(b, slot, reg, n);
        *val |= (uint64_t)v << (8 * done);
        done += n;
    }
    return DEV_OK;
}

static int ecam_write(struct pci_bus *b, uint64_t off, unsigned size, uint64_t val)
{
    for (unsigned done = 0; done < size;) {
        unsigned slot, reg, n = 4 - ((off + done) & 3);
        if (n > size - done)
            n = size - done;
        if (ecam_slot(off + done, &slot, &reg))
            pci_cfg_write(b, slot, reg, n, (uint32_t)(val >> (8 * done)));
        done += n;
    }
    return DEV_OK;
}

/* Configuration mechanism 1 (PCI 3.0, 3.2.2.3.2). CONFIG_ADDRESS takes dwords only; bits 30:24 and 1:0 read zero. */
static bool port_target(const struct pci_bus *b, uint64_t off, unsigned size, unsigned *slot, unsigned *reg)
{
    uint32_t a = b->config_address;
    *slot = a >> 11 & 31;
    *reg = (a & 0xfc) + (unsigned)(off - 4);
    return off >= 4 && off + size <= 8 && a >> 31 && !(a >> 16 & 0xff) && !(a >> 8 & 7);
}

static int port_read(struct pci_bus *b, uint64_t off, unsigned size, uint64_t *val)
{
    unsigned slot, reg;
    if (off == 0 && size == 4) {
        *val = b->config_address;
        return DEV_OK;
    }
    if (off == 1 && size == 1 && b->cfg.cf9)
        return b->cfg.cf9->ops->read(b->cfg.cf9, 0, 0, 1, val);
    if (off < 4 || off + size > 8 || size > 4)
        return DEV_UNMAPPED;
    *val = port_target(b, off, size, &slot, &reg) ? pci_cfg_read(b, slot, reg, size) : 0xffffffffu >> (32 - 8 * size);
    return DEV_OK;
}

static int port_write(struct pci_bus *b, uint64_t off, unsigned size, uint64_t val)
{
    unsigned slot, reg;
    if (off == 0 && size == 4) {
        b->config_address = (uint32_t)val & 0x80fffffcu;
        return DEV_OK;
    }
    if (off == 1 && size == 1 && b->cfg.cf9)
        return b->cfg.cf9->ops->write(b->cfg.cf9, 0, 0, 1, val);
    if (off < 4 || off + size > 8 || size > 4)
        return DEV_UNMAPPED;
    if (port_target(b, off, size, &slot, &reg))
        pci_cfg_write(b, slot, reg, size, (uint32_t)val);
    return DEV_OK;
}

/* --- the bus as a device ------------------------------------------------------------ */

static int bus_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct pci_bus *b = (struct pci_bus *)d;
    return bank == PCI_BANK_ECAM ? ecam_read(b, off, size, val) : port_read(b, off, size, val);
}

static int bus_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct pci_bus *b = (struct pci_bus *)d;
    return bank == PCI_BANK_ECAM ? ecam_write(b, off, size, val) : port_write(b, off, size, val);
}

static void bus_reset(struct dev *d)
{
    struct pci_bus *b = (struct pci_bus *)d;
    map_hold(b);
    b->config_address = 0;
    for (unsigned s = 0; s < PCI_SLOTS; s++) {
        if (!b->fn[s])
            continue;
        pci_fn_reset(b->fn[s]);
        if (b->fn[s]->dev.ops->reset)
            b->fn[s]->dev.ops->reset(&b->fn[s]->dev);
    }
    map_release(b);
}

static void bus_fini(struct dev *d)
{
    struct pci_bus *b = (struct pci_bus *)d;
    for (unsigned s = 0; s < PCI_SLOTS; s++)
        if (b->fn[s])
            b->fn[s]->dev.ops->fini(&b->fn[s]->dev);
    free(b);
}

static void bridge_fini(struct dev *d)
{
    free(d);
}

static const struct dev_ops bus_ops = {
    .name = "pci", .reset = bus_reset, .read = bus_read, .write = bus_write, .fini = bus_fini};
static const struct dev_ops bridge_ops = {.name = "pci-bridge", .fini = bridge_fini};

struct pci_bus *pci_bus_new(const struct dev_env *env, const struct pci_bus_config *cfg)
{
    struct pci_bus *b = calloc(1, sizeof *b);
    struct pci_fn *f = calloc(1, sizeof *f);
    if (!b || !f) {
        free(b);
        free(f);
        return NULL;
    }
    b->dev.ops = &bus_ops;
    b->env = *env;
    b->cfg = *cfg;
    /* The generic ECAM host bridge: an id without chipset registers, which guests treat by its class alone. */
    f->dev.ops = &bridge_ops;
    pci_fn_init(f, env, 0x1b36, 0x0008, 0x060000, 0, 0x1b36, 0x1100, 0);
    pci_plug(b, 0, f);
    return b;
}

struct dev *pci_bus_dev(struct pci_bus *b)
{
    return &b->dev;
}

/* Lowest free, naturally aligned place of size in w among the BARs already decoded. */
static bool place(const struct pci_bus *b, const struct pci_window *w, bool io, uint64_t size, uint64_t *base)
{
    struct pci_range r[PCI_MAX_RANGES];
    unsigned n = pci_bus_ranges(b, r);
    uint64_t at = (w->start + size - 1) & ~(size - 1);
    for (unsigned i = 0; inside(w, at, size) && i < n;) {
        if (r[i].io == io && at < r[i].start + r[i].size && r[i].start < at + size) {
            at = (r[i].start + r[i].size + size - 1) & ~(size - 1);
            i = 0;
        } else {
            i++;
        }
    }
    *base = at;
    return w->size && inside(w, at, size);
}

static bool assign_bar(struct pci_fn *f, unsigned i)
{
    struct pci_bus *b = f->bus;
    struct pci_bar *r = &f->bar[i];
    uint8_t *p = f->cfg + PCI_BAR0 + 4 * i;
    uint64_t base;
    bool io = r->kind == PCI_BAR_IO;
    /* Below 4 GiB while there is room: 32-bit guests reach it too. */
    bool ok = place(b, io ? &b->cfg.io : &b->cfg.mem[0], io, r->size, &base) ||
              (r->kind == PCI_BAR_MEM64 && place(b, &b->cfg.mem[1], false, r->size, &base));
    if (!ok)
        return false;
    pci_put32(p, (uint32_t)base | (pci_get32(p) & 15));
    if (r->kind == PCI_BAR_MEM64)
        pci_put32(p + 4, (uint32_t)(base >> 32));
    f->cfg[PCI_COMMAND] |= io ? PCI_CMD_IO : PCI_CMD_MEM;
    decode_update(f);
    return true;
}

int pci_bus_assign(struct pci_bus *b)
{
    int rc = 0;
    bool done[PCI_SLOTS][PCI_BARS] = {{false}};
    map_hold(b);
    for (unsigned s = 0; s < PCI_SLOTS; s++) {
        struct pci_fn *f = b->fn[s];
        if (!f)
            continue;
        if (f->cfg[PCI_INT_PIN])
            f->cfg[PCI_INT_LINE] = b->cfg.intx_irq[(s + f->cfg[PCI_INT_PIN] - 1) % 4];
        f->cfg[PCI_COMMAND] &= (uint8_t) ~(PCI_CMD_IO | PCI_CMD_MEM);
        bars_clear(f);
        decode_update(f);
    }
    for (;;) {
        struct pci_fn *best = NULL;
        unsigned bi = 0;
        for (unsigned s = 0; s < PCI_SLOTS; s++)
            for (unsigned i = 0; b->fn[s] && i < PCI_BARS; i++)
                if (b->fn[s]->bar[i].kind != PCI_BAR_NONE && !done[s][i] &&
                    (!best || b->fn[s]->bar[i].size > best->bar[bi].size)) {
                    best = b->fn[s];
                    bi = i;
                }
        if (!best)
            break;
        done[best->slot][bi] = true;
        if (!assign_bar(best, bi)) {
            rc = -1;
            if (b->env.log)
                b->env.log(b->env.log_ctx, "pci: no room for BAR %u of slot %u", bi, best->slot);
        }
    }
    map_release(b);
    return rc;
}
