/* I/O APIC (Intel 82093AA datasheet, 290566; EOI register as in the ICH datasheets). */
#include "dev/ioapic.h"

#include <stdlib.h>
#include <string.h>

#define RTE_REMOTE_IRR (1ull << 14)
#define RTE_LEVEL (1ull << 15)
#define RTE_MASK (1ull << 16)
#define RTE_WRITABLE 0xff0000000001afffull

#define VERSION 0x20u

struct ioapic {
    struct dev dev;
    bool (*send)(void *ctx, const struct lapic_msg *m);
    void *ctx;
    uint8_t id, reset_id;
    uint8_t select;
    uint64_t rte[IOAPIC_PINS];
    uint32_t level; /* asserted pins */
};

struct dev *ioapic_dev(struct ioapic *io)
{
    return &io->dev;
}

static void deliver(struct ioapic *io, unsigned pin)
{
    uint64_t r = io->rte[pin];
    struct lapic_msg m = {
        .dest = (uint32_t)(r >> 56),
        .vector = (uint8_t)r,
        .mode = r >> 8 & 7,
        .logical = r >> 11 & 1,
        .level = r & RTE_LEVEL,
        .pin = (uint8_t)pin,
    };
    /* NMI, INIT and ExtINT are edges whatever the trigger bit says; remote IRR belongs to fixed and lowest priority. */
    if (m.mode != LAPIC_FIXED && m.mode != LAPIC_LOWEST)
        m.level = false;
    /* Start-up and remote-read messages do not exist here. */
    if (m.mode == LAPIC_SIPI || m.mode == LAPIC_REMOTE_READ)
        return;
    if (m.level)
        io->rte[pin] |= RTE_REMOTE_IRR; /* first: the EOI may come before send returns */
    if (!io->send(io->ctx, &m))
        io->rte[pin] &= ~RTE_REMOTE_IRR; /* nobody took it: nobody will send the EOI */
}

/* A level-triggered pin asks as long as it is asserted and not in service. */
static void evaluate(struct ioapic *io, unsigned pin)
{
    uint64_t r = io->rte[pin];
    if ((r & RTE_LEVEL) && !(r & (RTE_MASK | RTE_REMOTE_IRR)) && (io->level >> pin & 1))
        deliver(io, pin);
}

void ioapic_set(struct ioapic *io, unsigned pin, bool level)
{
    if (pin >= IOAPIC_PINS)
        return;
    bool was = io->level >> pin & 1;
    if (was == level)
        return;
    io->level ^= 1u << pin;
    if (!level)
        return;
    uint64_t r = io->rte[pin];
    if (r & RTE_LEVEL)
        evaluate(io, pin);
    else if (!(r & RTE_MASK)) /* edges on a masked pin are lost, as the datasheet says */
        deliver(io, pin);
}

static void line_set(void *ctx, unsigned pin, bool level)
{
    ioapic_set(ctx, pin, level);
}
struct irq_line ioapic_line(struct ioapic *io, unsigned pin)
{
    return (struct irq_line){line_set, io, pin};
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t r = io->rte[pin];
        if ((uint8_t)r != vector || !(r & RTE_LEVEL) || !(r & RTE_REMOTE_IRR))
            continue;
        io->rte[pin] &= ~RTE_REMOTE_IRR;
        evaluate(io, pin);
    }
}

static uint32_t reg_read(struct ioapic *io)
{
    unsigned s = io->select;
    if (s == 0 || s == 2)
        return (uint32_t)io->id << 24;
    if (s == 1)
        return VERSION | (IOAPIC_PINS - 1) << 16;
    if (s >= 0x10 && s < 0x10 + 2 * IOAPIC_PINS)
        return (uint32_t)(io->rte[(s - 0x10) / 2] >> (s & 1 ? 32 : 0));
    return UINT32_MAX;
}

static void reg_write(struct ioapic *io, uint32_t v)
{
    unsigned s = io->select;
    if (s == 0) {
        io->id = v >> 24 & 15;
    } else if (s >= 0x10 && s < 0x10 + 2 * IOAPIC_PINS) {
        unsigned pin = (s - 0x10) / 2;
        uint64_t half = s & 1 ? 0xffffffff00000000ull : 0xffffffffull, old = io->rte[pin];
        uint64_t w = (s & 1 ? (uint64_t)v << 32 : v) & half & RTE_WRITABLE;
        io->rte[pin] = (old & ~(half & RTE_WRITABLE)) | w;
        /* Setting a pin to edge clears remote IRR: how software recovers a lost EOI. */
        if (!(io->rte[pin] & RTE_LEVEL))
            io->rte[pin] &= ~RTE_REMOTE_IRR;
        evaluate(io, pin);
    }
}

static int mmio_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct ioapic *io = (struct ioapic *)d;
    uint32_t v;
    switch (off & ~3ull) {
    case 0x00: v = io->select; break;
    case 0x10: v = reg_read(io); break;
    case 0x40: v = 0; break;
    default: return DEV_UNMAPPED;
    }
    v >>= 8 * (off & 3);
    *val = size >= 4 ? v : v & ((1u << 8 * size) - 1);
    return DEV_OK;
}

static int mmio_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct ioapic *io = (struct ioapic *)d;
    switch (off) {
    case 0x00: io->select = (uint8_t)val; return DEV_OK;
    case 0x10:
        if (size >= 4) /* registers are written whole */
            reg_write(io, (uint32_t)val);
        return DEV_OK;
    case 0x40: ioapic_eoi(io, (uint8_t)val); return DEV_OK;
    default: return DEV_UNMAPPED;
    }
}

static void reset(struct dev *d)
{
    struct ioapic *io = (struct ioapic *)d;
    io->id = io->reset_id;
    io->select = 0;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        io->rte[i] = RTE_MASK;
    /* Pin levels belong to the devices, which drive them low in their own reset. */
}

/* Snapshot layout: everything between the callbacks and the end, fixed-width. */
struct saved {
    uint8_t id, select, pad[2];
    uint32_t level;
    uint64_t rte[IOAPIC_PINS];
};

static size_t save(struct dev *d, void *buf, size_t cap)
{
    struct ioapic *io = (struct ioapic *)d;
    struct saved s = {.id = io->id, .select = io->select, .level = io->level};
    memcpy(s.rte, io->rte, sizeof(s.rte));
    if (cap)
        memcpy(buf, &s, cap < sizeof(s) ? cap : sizeof(s));
    return sizeof(s);
}

static int load(struct dev *d, const void *buf, size_t len)
{
    struct ioapic *io = (struct ioapic *)d;
    struct saved s;
    if (len != sizeof(s))
        return -1;
    memcpy(&s, buf, sizeof(s));
    io->id = s.id & 15;
    io->select = s.select;
    io->level = s.level & ((1u << IOAPIC_PINS) - 1);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        io->rte[i] = s.rte[i] & (RTE_WRITABLE | RTE_REMOTE_IRR);
    return 0;
}

static void fini(struct dev *d)
{
    free(d);
}

static const struct dev_ops ioapic_ops = {
    .name = "ioapic",
    .reset = reset,
    .read = mmio_read,
    .write = mmio_write,
    .save = save,
    .load = load,
    .fini = fini,
};

struct ioapic *ioapic_new(uint8_t id, bool (*send)(void *ctx, const struct lapic_msg *m), void *ctx)
{
    struct ioapic *io = calloc(1, sizeof(*io));
    if (!io)
        return NULL;
    io->dev.ops = &ioapic_ops;
    io->reset_id = id & 15;
    io->send = send;
    io->ctx = ctx;
    reset(&io->dev);
    return io;
}
