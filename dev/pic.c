/* 8259A pair (Intel 8259A datasheet, 231468; ELCR as in the ICH datasheets). */
#include "dev/pic.h"

#include <stdlib.h>
#include <string.h>

/* State of one chip, fixed-width: also the snapshot layout. */
struct chip {
    uint8_t irr, imr, isr;
    uint8_t level;  /* input pins */
    uint8_t elcr;   /* 1: level-triggered */
    uint8_t lowest; /* IR with the lowest priority; 7 after initialisation */
    uint8_t icw2;   /* vector base */
    uint8_t step;   /* initialisation: next ICW expected at the odd port, 0 when done */
    uint8_t ltim;   /* ICW1: level mode for all inputs */
    uint8_t single; /* ICW1.SNGL */
    uint8_t need_icw4;
    uint8_t aeoi;     /* ICW4 */
    uint8_t sfnm;     /* ICW4: special fully nested mode */
    uint8_t smm;      /* special mask mode */
    uint8_t read_isr; /* OCW3: even port reads ISR instead of IRR */
    uint8_t poll;     /* next read is a poll */
    uint8_t rotate_aeoi;
    uint8_t icw3;
};

struct pic {
    struct dev dev;
    struct irq_line out;
    struct chip c[2]; /* master, slave */
    bool intr;
};

struct dev *pic_dev(struct pic *p)
{
    return &p->dev;
}
bool pic_intr(const struct pic *p)
{
    return p->intr;
}

static bool level_mode(const struct chip *c, unsigned pin)
{
    return c->ltim || (c->elcr >> pin & 1);
}

/* 0 is the highest priority. */
static unsigned prio(const struct chip *c, unsigned ir)
{
    return (ir - c->lowest - 1) & 7;
}

static int best(const struct chip *c, uint8_t set)
{
    for (unsigned i = 1; i <= 8; i++) {
        unsigned ir = (c->lowest + i) & 7;
        if (set >> ir & 1)
            return (int)ir;
    }
    return -1;
}

/* The input this chip asks to be served, or -1. */
static int request(const struct chip *c, bool master)
{
    uint8_t ask = c->irr & (uint8_t)~c->imr, isr = c->isr;
    if (c->smm) /* special mask mode: any unmasked input that is not itself in service may interrupt */
        return best(c, ask & (uint8_t)~isr);
    if (c->sfnm && master)
        isr &= (uint8_t)~c->icw3; /* special fully nested: the slave may interrupt itself */
    int ir = best(c, ask), serving = best(c, isr);
    return ir >= 0 && serving >= 0 && prio(c, (unsigned)serving) <= prio(c, (unsigned)ir) ? -1 : ir;
}

static void chip_pin(struct chip *c, unsigned pin, bool level)
{
    uint8_t bit = (uint8_t)(1u << pin);
    if (level_mode(c, pin))
        c->irr = level ? c->irr | bit : c->irr & (uint8_t)~bit;
    else if (level && !(c->level & bit))
        c->irr |= bit; /* edge: latched, */
    else if (!level)
        c->irr &= (uint8_t)~bit; /* but the input must stay high until INTA, or IRQ7 results */
    c->level = level ? c->level | bit : c->level & (uint8_t)~bit;
}

static void update(struct pic *p)
{
    chip_pin(&p->c[0], 2, request(&p->c[1], false) >= 0);
    bool intr = request(&p->c[0], true) >= 0;
    if (intr != p->intr) {
        p->intr = intr;
        irq_set(&p->out, intr);
    }
}

void pic_set(struct pic *p, unsigned pin, bool level)
{
    if (pin > 15 || pin == 2)
        return;
    chip_pin(&p->c[pin >> 3], pin & 7, level);
    update(p);
}

static void line_set(void *ctx, unsigned pin, bool level)
{
    pic_set(ctx, pin, level);
}
struct irq_line pic_line(struct pic *p, unsigned pin)
{
    return (struct irq_line){line_set, p, pin};
}

/* INTA of one chip: the input taken, or -1 for none (spurious). */
static int chip_ack(struct chip *c, bool master)
{
    int ir = request(c, master);
    if (ir < 0)
        return -1;
    uint8_t bit = (uint8_t)(1u << ir);
    if (!level_mode(c, (unsigned)ir))
        c->irr &= (uint8_t)~bit;
    if (!c->aeoi)
        c->isr |= bit;
    else if (c->rotate_aeoi)
        c->lowest = (uint8_t)ir;
    return ir;
}

uint8_t pic_ack(struct pic *p)
{
    uint8_t vec;
    int ir = chip_ack(&p->c[0], true);
    if (ir < 0) {
        vec = p->c[0].icw2 + 7; /* default IR7, no ISR bit set */
    } else if (ir == 2) {
        int s = chip_ack(&p->c[1], false);
        vec = p->c[1].icw2 + (uint8_t)(s < 0 ? 7 : s);
        /* The slave's output drops during its INTA and rises again if it has more: the master sees a new edge. */
        chip_pin(&p->c[0], 2, false);
    } else {
        vec = p->c[0].icw2 + (uint8_t)ir;
    }
    update(p);
    return vec;
}

/* --- registers --------------------------------------------------------------- */

static void icw1(struct chip *c, uint8_t v)
{
    c->ltim = v >> 3 & 1;
    c->single = v >> 1 & 1;
    c->need_icw4 = v & 1;
    c->imr = c->isr = 0;
    c->lowest = 7;
    c->smm = c->read_isr = c->poll = c->rotate_aeoi = 0;
    c->aeoi = c->sfnm = 0;
    /* The edge sense circuit is reset: an input must make a new transition. */
    c->irr = 0;
    for (unsigned i = 0; i < 8; i++)
        if (level_mode(c, i))
            c->irr |= c->level & (uint8_t)(1u << i);
    c->step = 2;
}

static void ocw2(struct chip *c, uint8_t v)
{
    uint8_t bit = (uint8_t)(1u << (v & 7));
    int ir;
    switch (v >> 5) {
    case 0: c->rotate_aeoi = 0; break;
    case 4: c->rotate_aeoi = 1; break;
    case 1: /* non-specific EOI */
    case 5: /* and rotate */
        /* In special mask mode masked inputs are not cleared by a non-specific EOI. */
        ir = best(c, c->smm ? c->isr & (uint8_t)~c->imr : c->isr);
        if (ir >= 0) {
            c->isr &= (uint8_t) ~(1u << ir);
            if (v >> 5 == 5)
                c->lowest = (uint8_t)ir;
        }
        break;
    case 3: c->isr &= (uint8_t)~bit; break;
    case 7:
        c->isr &= (uint8_t)~bit;
        c->lowest = v & 7;
        break;
    case 6: c->lowest = v & 7; break;
    default: break; /* 2: no operation */
    }
}

static void ocw3(struct chip *c, uint8_t v)
{
    if (v & 0x40)
        c->smm = v >> 5 & 1;
    if (v & 4)
        c->poll = 1;
    if (v & 2)
        c->read_isr = v & 1;
}

static void chip_write(struct chip *c, bool odd, uint8_t v)
{
    if (!odd) {
        if (v & 0x10)
            icw1(c, v);
        else if (v & 8)
            ocw3(c, v);
        else
            ocw2(c, v);
        return;
    }
    switch (c->step) {
    case 2:
        c->icw2 = v & 0xf8;
        c->step = !c->single ? 3 : c->need_icw4 ? 4 : 0;
        break;
    case 3:
        c->icw3 = v;
        c->step = c->need_icw4 ? 4 : 0;
        break;
    case 4:
        c->aeoi = v >> 1 & 1;
        c->sfnm = v >> 4 & 1;
        c->step = 0;
        break;
    default: c->imr = v; break;
    }
}

static uint8_t read8(struct pic *p, uint32_t bank, unsigned port)
{
    if (bank == PIC_BANK_ELCR)
        return p->c[port].elcr;
    struct chip *c = &p->c[bank & 1];
    if (!c->poll)
        return port ? c->imr : c->read_isr ? c->isr : c->irr;
    /* The read acts as INTA. */
    c->poll = 0;
    int ir = chip_ack(c, !(bank & 1));
    if (bank & 1)
        chip_pin(&p->c[0], 2, false);
    update(p);
    return ir < 0 ? 0 : (uint8_t)(0x80 | ir);
}

static void write8(struct pic *p, uint32_t bank, unsigned port, uint8_t v)
{
    if (bank == PIC_BANK_ELCR) {
        /* Timer, keyboard, cascade, RTC and FPU inputs stay edge-triggered. */
        struct chip *c = &p->c[port];
        c->elcr = v & (port ? 0xde : 0xf8);
        for (unsigned i = 0; i < 8; i++)
            if (level_mode(c, i))
                chip_pin(c, i, c->level >> i & 1);
    } else {
        chip_write(&p->c[bank & 1], port, v);
    }
    update(p);
}

/* Two byte ports a bank; wider accesses go to consecutive ports. */
static int pic_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    *val = 0;
    for (unsigned i = 0; i < size; i++)
        *val |= (off + i < 2 ? (uint64_t)read8((struct pic *)d, bank, (unsigned)off + i) : 0xff) << 8 * i;
    return off < 2 ? DEV_OK : DEV_UNMAPPED;
}

static int pic_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    for (unsigned i = 0; i < size && off + i < 2; i++)
        write8((struct pic *)d, bank, (unsigned)off + i, (uint8_t)(val >> 8 * i));
    return off < 2 ? DEV_OK : DEV_UNMAPPED;
}

static void reset(struct dev *d)
{
    struct pic *p = (struct pic *)d;
    for (unsigned i = 0; i < 2; i++) {
        uint8_t level = p->c[i].level;
        /* Until ICW1 arrives everything is masked, as firmware leaves it. */
        p->c[i] = (struct chip){.level = level, .imr = 0xff, .lowest = 7, .icw2 = i ? 0x70 : 0x08, .icw3 = i ? 2 : 4};
    }
    update(p);
}

static size_t save(struct dev *d, void *buf, size_t cap)
{
    struct pic *p = (struct pic *)d;
    if (cap)
        memcpy(buf, p->c, cap < sizeof(p->c) ? cap : sizeof(p->c));
    return sizeof(p->c);
}

static int load(struct dev *d, const void *buf, size_t len)
{
    struct pic *p = (struct pic *)d;
    if (len != sizeof(p->c))
        return -1;
    memcpy(p->c, buf, len);
    p->c[0].lowest &= 7;
    p->c[1].lowest &= 7;
    p->intr = request(&p->c[0], true) >= 0;
    irq_set(&p->out, p->intr);
    return 0;
}

static void fini(struct dev *d)
{
    free(d);
}

static const struct dev_ops pic_ops = {
    .name = "pic",
    .reset = reset,
    .read = pic_read,
    .write = pic_write,
    .save = save,
    .load = load,
    .fini = fini,
};

struct pic *pic_new(struct irq_line out)
{
    struct pic *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->dev.ops = &pic_ops;
    p->out = out;
    reset(&p->dev);
    return p;
}
