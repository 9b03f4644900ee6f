/* MSI-X: table, pending bits, masks (PCI Local Bus 3.0, 6.8.2). */
#include "dev/pci.h"

#define MSIX_CTRL 2 /* message control, in the capability */
#define MSIX_MASK 0x4000
#define MSIX_ENABLE 0x8000
#define VEC_MASKED 1u

int pci_msix_init(struct pci_fn *f, unsigned n, unsigned bar, uint32_t table_off, uint32_t pba_off)
{
    if (!n || n > PCI_MSIX_MAX || (table_off & 7) || (pba_off & 7) || bar >= PCI_BARS)
        return -1;
    unsigned cap = pci_cap_add(f, PCI_CAP_MSIX, 12);
    if (!cap)
        return -1;
    f->msix.n = n;
    f->msix.cap = cap;
    pci_put16(f->cfg + cap + MSIX_CTRL, (uint16_t)(n - 1));
    pci_put16(f->wmask + cap + MSIX_CTRL, MSIX_MASK | MSIX_ENABLE);
    pci_put32(f->cfg + cap + 4, table_off | bar);
    pci_put32(f->cfg + cap + 8, pba_off | bar);
    pci_msix_reset(f);
    return 0;
}

void pci_msix_reset(struct pci_fn *f)
{
    struct pci_msix *m = &f->msix;
    if (!m->n)
        return;
    for (unsigned i = 0; i < m->n; i++) {
        m->table[i].addr = 0;
        m->table[i].data = 0;
        m->table[i].ctrl = VEC_MASKED;
    }
    m->pending = 0;
    m->enabled = m->masked = false;
    pci_put16(f->cfg + m->cap + MSIX_CTRL, (uint16_t)(m->n - 1));
}

static bool deliverable(const struct pci_fn *f, unsigned v)
{
    return f->msix.enabled && !f->msix.masked && !(f->msix.table[v].ctrl & VEC_MASKED) && pci_master(f);
}

static void fire_pending(struct pci_fn *f, unsigned v)
{
    struct pci_msix *m = &f->msix;
    if (!(m->pending >> v & 1) || !deliverable(f, v))
        return;
    m->pending &= ~(1ull << v);
    f->env.msi.send(f->env.msi.ctx, m->table[v].addr, m->table[v].data);
}

void pci_msix_update(struct pci_fn *f)
{
    struct pci_msix *m = &f->msix;
    if (!m->n)
        return;
    uint16_t ctrl = pci_get16(f->cfg + m->cap + MSIX_CTRL);
    m->enabled = ctrl & MSIX_ENABLE;
    m->masked = ctrl & MSIX_MASK;
    if (!m->pending)
        return;
    for (unsigned v = 0; v < m->n; v++)
        fire_pending(f, v);
}

void pci_msix_notify(struct pci_fn *f, unsigned v)
{
    struct pci_msix *m = &f->msix;
    if (v >= m->n || !m->enabled)
        return;
    m->pending |= 1ull << v;
    fire_pending(f, v);
}

static uint32_t table_get(const struct pci_msix *m, uint64_t off)
{
    unsigned v = (unsigned)(off / 16);
    switch (off % 16) {
    case 0: return (uint32_t)m->table[v].addr;
    case 4: return (uint32_t)(m->table[v].addr >> 32);
    case 8: return m->table[v].data;
    default: return m->table[v].ctrl;
    }
}

static void table_put(struct pci_fn *f, uint64_t off, uint32_t val)
{
    struct pci_msix *m = &f->msix;
    unsigned v = (unsigned)(off / 16);
    switch (off % 16) {
    case 0: m->table[v].addr = (m->table[v].addr & ~0xffffffffull) | (val & ~3u); break;
    case 4: m->table[v].addr = (m->table[v].addr & 0xffffffff) | (uint64_t)val << 32; break;
    case 8: m->table[v].data = val; break;
    default: m->table[v].ctrl = val & VEC_MASKED; fire_pending(f, v);
    }
}

static bool aligned(uint64_t off, unsigned size, uint64_t len)
{
    return (size == 4 || size == 8) && off % size == 0 && off < len && size <= len - off;
}

int pci_msix_table_read(struct pci_fn *f, uint64_t off, unsigned size, uint64_t *val)
{
    if (!aligned(off, size, f->msix.n * 16ull))
        return DEV_UNMAPPED;
    *val = table_get(&f->msix, off);
    if (size == 8)
        *val |= (uint64_t)table_get(&f->msix, off + 4) << 32;
    return DEV_OK;
}

int pci_msix_table_write(struct pci_fn *f, uint64_t off, unsigned size, uint64_t val)
{
    if (!aligned(off, size, f->msix.n * 16ull))
        return DEV_UNMAPPED;
    table_put(f, off, (uint32_t)val);
    if (size == 8)
        table_put(f, off + 4, (uint32_t)(val >> 32));
    return DEV_OK;
}

int pci_msix_pba_read(struct pci_fn *f, uint64_t off, unsigned size, uint64_t *val)
{
    if (!aligned(off, size, 8))
        return DEV_UNMAPPED;
    *val = f->msix.pending >> (off * 8);
    if (size == 4)
        *val &= 0xffffffff;
    return DEV_OK;
}
