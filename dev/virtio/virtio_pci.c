/* Virtio over PCI: capabilities, common configuration, notification, ISR, configuration access (VIRTIO 1.2, 4.1). */
#include "dev/virtio/virtio_pci.h"

#include <stdlib.h>
#include <string.h>

#define NO_VECTOR 0xffff
#define COMMON_LEN 60 /* through queue_reset */

/* struct virtio_pci_cap types (4.1.4) */
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI };

struct virtio_pci {
    struct pci_fn fn;
    struct dev_ops ops; /* per instance: the name is the device's */
    struct virtio_dev *v;
    uint32_t device_sel, driver_sel;
    uint16_t queue_sel, config_vector, vector[VIRTIO_MAX_QUEUES];
    uint8_t isr;
    unsigned pci_cap; /* offset of the configuration access capability */
};

struct virtio_dev *virtio_pci_dev(struct dev *d)
{
    return ((struct virtio_pci *)d)->v;
}

/* --- interrupts (4.1.5.3, 4.1.5.4) ----------------------------------------- */

static void vp_signal(void *ctx, int q)
{
    struct virtio_pci *p = ctx;
    if (pci_msix_enabled(&p->fn)) {
        pci_msix_notify(&p->fn, q < 0 ? p->config_vector : p->vector[q]); /* NO_VECTOR is beyond every table */
        return;
    }
    p->isr |= q < 0 ? 2 : 1;
    pci_intx_set(&p->fn, true);
}

/* --- common configuration (4.1.4.3) ------------------------------------------ */

static void put64(uint8_t *b, uint64_t v)
{
    pci_put32(b, (uint32_t)v);
    pci_put32(b + 4, (uint32_t)(v >> 32));
}

static int common_read(struct virtio_pci *p, uint64_t off, unsigned size, uint64_t *val)
{
    struct virtio_dev *v = p->v;
    uint8_t b[COMMON_LEN + 4] = {0};
    if (off % size || off + size > sizeof b)
        return DEV_UNMAPPED;
    pci_put32(b, p->device_sel);
    pci_put32(b + 4, p->device_sel < 2 ? (uint32_t)(v->offered >> (32 * p->device_sel)) : 0);
    pci_put32(b + 8, p->driver_sel);
    pci_put32(b + 12, p->driver_sel < 2 ? (uint32_t)(v->features >> (32 * p->driver_sel)) : 0);
    pci_put16(b + 16, p->config_vector);
    pci_put16(b + 18, (uint16_t)v->nvq);
    b[20] = v->status;
    b[21] = v->config_gen;
    pci_put16(b + 22, p->queue_sel);
    if (p->queue_sel < v->nvq) {
        const struct virtqueue *q = &v->vq[p->queue_sel];
        pci_put16(b + 24, q->num);
        pci_put16(b + 26, p->vector[p->queue_sel]);
        pci_put16(b + 28, q->enabled);
        pci_put16(b + 30, p->queue_sel);
        put64(b + 32, q->desc);
        put64(b + 40, q->avail);
        put64(b + 48, q->used);
    } else {
        pci_put16(b + 26, NO_VECTOR);
    }
    *val = 0;
    memcpy(val, b + off, size);
    return DEV_OK;
}

static uint16_t valid_vector(const struct virtio_pci *p, uint64_t val)
{
    return (uint16_t)val < p->fn.msix.n ? (uint16_t)val : NO_VECTOR;
}

static void reset_registers(struct virtio_pci *p)
{
    p->device_sel = p->driver_sel = 0;
    p->queue_sel = 0;
    p->config_vector = NO_VECTOR;
    for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
        p->vector[i] = NO_VECTOR;
    p->isr = 0;
    pci_intx_set(&p->fn, false);
}

static int queue_write(struct virtio_pci *p, unsigned off, unsigned size, uint64_t val)
{
    struct virtio_dev *v = p->v;
    if (p->queue_sel >= v->nvq)
        return DEV_OK;
    struct virtqueue *q = &v->vq[p->queue_sel];
    if (off >= 32 && off < 56 && size >= 4) {
        uint64_t *addr = off < 40 ? &q->desc : off < 48 ? &q->avail : &q->used;
        if (q->enabled)
            return DEV_OK;
        if (size == 8)
            *addr = val;
        else if (off & 4)
            *addr = (*addr & 0xffffffff) | val << 32;
        else
            *addr = (*addr & ~0xffffffffull) | (uint32_t)val;
        return DEV_OK;
    }
    if (size != 2)
        return DEV_UNMAPPED;
    switch (off) {
    case 24: vq_set_size(q, (uint16_t)val); return DEV_OK;
    case 26: p->vector[p->queue_sel] = valid_vector(p, val); return DEV_OK;
    case 28:
        if (val == 1) /* 0 may not be written (4.1.4.3.2) */
            vq_enable(q);
        return DEV_OK;
    case 58:
        if (val == 1)
            vq_reset(q);
        return DEV_OK;
    default: return DEV_UNMAPPED;
    }
}

/* Fields are written with accesses of their own width (4.1.3.1); 64-bit fields also as two halves. */
static int common_write(struct virtio_pci *p, uint64_t off, unsigned size, uint64_t val)
{
    struct virtio_dev *v = p->v;
    if (off % size || off + size > COMMON_LEN)
        return DEV_UNMAPPED;
    switch (off << 8 | size) {
    case 0 << 8 | 4: p->device_sel = (uint32_t)val; return DEV_OK;
    case 8 << 8 | 4: p->driver_sel = (uint32_t)val; return DEV_OK;
    case 12 << 8 | 4:
        if (p->driver_sel < 2 && !(v->status & VIRTIO_S_FEATURES_OK)) {
            unsigned sh = 32 * p->driver_sel;
            v->features = (v->features & ~(0xffffffffull << sh)) | (uint64_t)(uint32_t)val << sh;
        }
        return DEV_OK;
    case 16 << 8 | 2: p->config_vector = valid_vector(p, val); return DEV_OK;
    case 20 << 8 | 1:
        virtio_set_status(v, (uint8_t)val);
        if (!(uint8_t)val)
            reset_registers(p);
        return DEV_OK;
    case 22 << 8 | 2: p->queue_sel = (uint16_t)val; return DEV_OK;
    default: return off >= 24 ? queue_write(p, (unsigned)off, size, val) : DEV_UNMAPPED;
    }
}

/* --- device configuration (4.1.4.6) ------------------------------------------- */

static int device_read(struct virtio_pci *p, uint64_t off, unsigned size, uint64_t *val)
{
    const struct virtio_dev *v = p->v;
    if (size > v->config_len || off > v->config_len - size)
        return DEV_UNMAPPED;
    *val = 0;
    memcpy(val, v->config + off, size);
    return DEV_OK;
}

static int device_write(struct virtio_pci *p, uint64_t off, unsigned size, uint64_t val)
{
    struct virtio_dev *v = p->v;
    if (size > 4 || size > v->config_len || off > v->config_len - size)
        return DEV_UNMAPPED;
    if (v->ops->config_write)
        v->ops->config_write(v, (unsigned)off, size, (uint32_t)val);
    return DEV_OK;
}

/* --- BAR 0 ------------------------------------------------------------------------ */

static int vp_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct virtio_pci *p = (struct virtio_pci *)d;
    if (bank != 0)
        return DEV_UNMAPPED;
    uint64_t in = off & 0xfff;
    switch (off >> 12) {
    case VIRTIO_PCI_COMMON >> 12: return common_read(p, in, size, val);
    case VIRTIO_PCI_ISR >> 12:
        if (in)
            return DEV_UNMAPPED;
        *val = p->isr;
        p->isr = 0; /* read to clear; takes the interrupt back */
        pci_intx_set(&p->fn, false);
        return DEV_OK;
    case VIRTIO_PCI_DEVICE >> 12: return device_read(p, in, size, val);
    case VIRTIO_PCI_NOTIFY >> 12: *val = 0; return DEV_OK;
    case VIRTIO_PCI_MSIX >> 12: return pci_msix_table_read(&p->fn, in, size, val);
    case VIRTIO_PCI_PBA >> 12: return pci_msix_pba_read(&p->fn, in, size, val);
    default: return DEV_UNMAPPED;
    }
}

static int vp_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct virtio_pci *p = (struct virtio_pci *)d;
    if (bank != 0)
        return DEV_UNMAPPED;
    uint64_t in = off & 0xfff;
    switch (off >> 12) {
    case VIRTIO_PCI_COMMON >> 12: return common_write(p, in, size, val);
    case VIRTIO_PCI_DEVICE >> 12: return device_write(p, in, size, val);
    case VIRTIO_PCI_NOTIFY >> 12:
        if (in % 4 || in / 4 >= p->v->nvq)
            return DEV_UNMAPPED;
        virtio_kick(p->v, (unsigned)(in / 4)); /* each queue has its own address: the value adds nothing */
        return DEV_OK;
    case VIRTIO_PCI_MSIX >> 12: return pci_msix_table_write(&p->fn, in, size, val);
    default: return DEV_UNMAPPED;
    }
}

/* --- configuration space: access to the BAR without mapping it (4.1.4.9) ------------ */

static bool window(struct virtio_pci *p, unsigned off, unsigned size, uint32_t *at, uint32_t *len)
{
    const uint8_t *c = p->fn.cfg + p->pci_cap;
    *at = pci_get32(c + 8);
    *len = pci_get32(c + 12);
    /* Once per access to pci_cfg_data, which is the one that covers its first byte. */
    return off <= p->pci_cap + 16 && off + size > p->pci_cap + 16 && c[4] == 0 &&
           (*len == 1 || *len == 2 || *len == 4) && *at % *len == 0;
}

static void vp_cfg_reading(struct pci_fn *f, unsigned off, unsigned size)
{
    struct virtio_pci *p = (struct virtio_pci *)f;
    uint32_t at, len;
    uint64_t val;
    if (!window(p, off, size, &at, &len))
        return;
    if (vp_read(&f->dev, 0, at, len, &val) != DEV_OK)
        val = ~0ull;
    memcpy(f->cfg + p->pci_cap + 16, &val, len);
}

static void vp_cfg_written(struct pci_fn *f, unsigned off, unsigned size)
{
    struct virtio_pci *p = (struct virtio_pci *)f;
    uint32_t at, len;
    virtio_set_master(p->v, pci_master(f));
    if (pci_msix_enabled(f))
        pci_intx_set(f, false);
    if (!window(p, off, size, &at, &len))
        return;
    uint64_t val = 0;
    memcpy(&val, f->cfg + p->pci_cap + 16, len);
    vp_write(&f->dev, 0, at, len, val);
}

static bool add_cap(struct pci_fn *f, uint8_t type, unsigned len, uint32_t off, uint32_t size)
{
    unsigned c = pci_cap_add(f, PCI_CAP_VENDOR, len);
    if (!c)
        return false;
    f->cfg[c + 2] = (uint8_t)len;
    f->cfg[c + 3] = type;
    pci_put32(f->cfg + c + 8, off);
    pci_put32(f->cfg + c + 12, size);
    if (type == CAP_NOTIFY)
        pci_put32(f->cfg + c + 16, 4); /* notify_off_multiplier */
    return true;
}

/* --- life cycle ------------------------------------------------------------------------ */

static void vp_reset(struct dev *d)
{
    struct virtio_pci *p = (struct virtio_pci *)d;
    uint8_t *c = p->fn.cfg + p->pci_cap;
    c[4] = 0;
    memset(c + 8, 0, 12);
    virtio_reset(p->v);
    virtio_set_master(p->v, pci_master(&p->fn));
    reset_registers(p);
}

static void vp_fini(struct dev *d)
{
    struct virtio_pci *p = (struct virtio_pci *)d;
    p->v->ops->fini(p->v);
    free(p);
}

struct dev *virtio_pci_new(const struct dev_env *env, struct pci_bus *bus, unsigned slot, struct virtio_dev *v)
{
    struct virtio_pci *p = calloc(1, sizeof *p);
    if (!p) {
        v->ops->fini(v);
        return NULL;
    }
    struct pci_fn *f = &p->fn;
    p->v = v;
    p->ops =
        (struct dev_ops){.name = v->ops->name, .reset = vp_reset, .read = vp_read, .write = vp_write, .fini = vp_fini};
    f->dev.ops = &p->ops;
    pci_fn_init(f, env, 0x1af4, (uint16_t)(0x1040 + v->ops->id), v->ops->pci_class, 1, 0x1af4, 0x1100, 1);
    pci_bar_init(f, 0, PCI_BAR_MEM64, VIRTIO_PCI_BAR_SIZE);
    bool ok = pci_msix_init(f, v->nvq + 1, 0, VIRTIO_PCI_MSIX, VIRTIO_PCI_PBA) == 0 &&
              add_cap(f, CAP_COMMON, 16, VIRTIO_PCI_COMMON, COMMON_LEN) &&
              add_cap(f, CAP_NOTIFY, 20, VIRTIO_PCI_NOTIFY, 4 * v->nvq) && add_cap(f, CAP_ISR, 16, VIRTIO_PCI_ISR, 1) &&
              (!v->config_len || add_cap(f, CAP_DEVICE, 16, VIRTIO_PCI_DEVICE, v->config_len)) &&
              add_cap(f, CAP_PCI, 20, 0, 0);
    p->pci_cap = f->cap_last;
    f->wmask[p->pci_cap + 4] = 0xff;
    memset(f->wmask + p->pci_cap + 8, 0xff, 12);
    f->cfg_reading = vp_cfg_reading;
    f->cfg_written = vp_cfg_written;
    v->signal = vp_signal;
    v->transport = p;
    reset_registers(p);
    if (!ok || pci_plug(bus, slot, f)) {
        vp_fini(&f->dev);
        return NULL;
    }
    return &f->dev;
}
