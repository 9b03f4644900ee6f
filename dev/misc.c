/* Small single-purpose ISA devices; see the header. */
#include "dev/misc.h"

#include <stdlib.h>

#include "dev/isa.h"

static void free_fini(struct dev *d)
{
    free(d);
}

static void no_reset(struct dev *d) {}

/* --- debug console -------------------------------------------------------- */

#define DEBUGCON_ID 0xe9

struct debugcon {
    struct dev dev;
    struct chardev out;
};

static uint8_t debugcon_read8(struct dev *d, unsigned port)
{
    return DEBUGCON_ID;
}

static void debugcon_write8(struct dev *d, unsigned port, uint8_t v)
{
    struct debugcon *c = (struct debugcon *)d;
    if (c->out.write)
        c->out.write(c->out.ctx, &v, 1); /* a full back end loses the byte: the port has no flow control */
}

static int debugcon_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    return isa_read_bytes(d, off, size, val, 1, debugcon_read8);
}

static int debugcon_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return isa_write_bytes(d, off, size, val, 1, debugcon_write8);
}

static const struct dev_ops debugcon_ops = {
    .name = "debugcon", .reset = no_reset, .read = debugcon_read, .write = debugcon_write, .fini = free_fini};

struct dev *debugcon_new(struct chardev out)
{
    struct debugcon *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->dev.ops = &debugcon_ops;
    c->out = out;
    return &c->dev;
}

/* --- isa-debug-exit ------------------------------------------------------ */

struct debug_exit {
    struct dev dev;
    void (*ended)(void *ctx, int status);
    void *ctx;
};

int isa_debug_exit_status(uint32_t val)
{
    return (int)(val << 1 | 1);
}

static int debug_exit_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    *val = 0;
    return off < 4 ? DEV_OK : DEV_UNMAPPED;
}

static int debug_exit_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct debug_exit *e = (struct debug_exit *)d;
    if (off >= 4)
        return DEV_UNMAPPED;
    e->ended(e->ctx, isa_debug_exit_status((uint32_t)val));
    return DEV_OK;
}

static const struct dev_ops debug_exit_ops = {
    .name = "isa-debug-exit", .reset = no_reset, .read = debug_exit_read, .write = debug_exit_write, .fini = free_fini};

struct dev *isa_debug_exit_new(void (*ended)(void *ctx, int status), void *ctx)
{
    struct debug_exit *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->dev.ops = &debug_exit_ops;
    e->ended = ended;
    e->ctx = ctx;
    return &e->dev;
}

/* --- system control port A ---------------------------------------------- */

enum { PORT92_RESET = 1, PORT92_A20 = 2 };

struct port92 {
    struct dev dev;
    void (*reset)(void *ctx);
    void *ctx;
    uint8_t val;
};

static uint8_t port92_read8(struct dev *d, unsigned port)
{
    return ((struct port92 *)d)->val;
}

static void port92_write8(struct dev *d, unsigned port, uint8_t v)
{
    struct port92 *p = (struct port92 *)d;
    bool rising = (v & PORT92_RESET) && !(p->val & PORT92_RESET);
    p->val = v;
    if (rising)
        p->reset(p->ctx);
}

static int port92_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    return isa_read_bytes(d, off, size, val, 1, port92_read8);
}

static int port92_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return isa_write_bytes(d, off, size, val, 1, port92_write8);
}

static void port92_reset(struct dev *d)
{
    ((struct port92 *)d)->val = PORT92_A20;
}

static const struct dev_ops port92_ops = {
    .name = "port92", .reset = port92_reset, .read = port92_read, .write = port92_write, .fini = free_fini};

struct dev *port92_new(void (*reset)(void *ctx), void *ctx)
{
    struct port92 *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->dev.ops = &port92_ops;
    p->reset = reset;
    p->ctx = ctx;
    port92_reset(&p->dev);
    return &p->dev;
}

/* --- diagnostic port ------------------------------------------------------ */

struct post_port {
    struct dev dev;
    uint8_t val;
};

static uint8_t post_read8(struct dev *d, unsigned port)
{
    return ((struct post_port *)d)->val;
}

static void post_write8(struct dev *d, unsigned port, uint8_t v)
{
    ((struct post_port *)d)->val = v;
}

static int post_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    return isa_read_bytes(d, off, size, val, 1, post_read8);
}

static int post_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return isa_write_bytes(d, off, size, val, 1, post_write8);
}

static void post_reset(struct dev *d)
{
    ((struct post_port *)d)->val = 0;
}

static const struct dev_ops post_ops = {
    .name = "port80", .reset = post_reset, .read = post_read, .write = post_write, .fini = free_fini};

struct dev *post_port_new(void)
{
    struct post_port *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->dev.ops = &post_ops;
    return &p->dev;
}

/* --- firmware signature ----------------------------------------------------- */

struct fw_signature {
    struct dev dev;
    uint16_t item;
    unsigned at;
};

static int fw_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct fw_signature *f = (struct fw_signature *)d;
    if (off != 1 || size != 1)
        return DEV_UNMAPPED;
    *val = f->item == 0 && f->at < 4 ? (uint8_t)"QEMU"[f->at++] : 0;
    return DEV_OK;
}

static int fw_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct fw_signature *f = (struct fw_signature *)d;
    if (off != 0 || size != 2)
        return DEV_UNMAPPED;
    f->item = (uint16_t)val;
    f->at = 0;
    return DEV_OK;
}

static void fw_reset(struct dev *d)
{
    struct fw_signature *f = (struct fw_signature *)d;
    f->item = 0;
    f->at = 0;
}

static const struct dev_ops fw_ops = {.name = "fw-signature", .reset = fw_reset, .read = fw_read, .write = fw_write, .fini = free_fini};

struct dev *fw_signature_new(void)
{
    struct fw_signature *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    f->dev.ops = &fw_ops;
    return &f->dev;
}

/* --- coprocessor error ---------------------------------------------------- */

struct ferr {
    struct dev dev;
    struct irq_line irq;
    bool latch;
};

static void ferr_set(struct ferr *f, bool on)
{
    if (f->latch != on)
        irq_set(&f->irq, on);
    f->latch = on;
}

void ferr_assert(struct dev *d) { ferr_set((struct ferr *)d, true); }

static uint8_t ferr_read8(struct dev *d, unsigned port) { return 0xff; }
static void ferr_write8(struct dev *d, unsigned port, uint8_t v) { ferr_set((struct ferr *)d, false); }

static int ferr_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    return isa_read_bytes(d, off, size, val, 1, ferr_read8);
}

static int ferr_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return isa_write_bytes(d, off, size, val, 1, ferr_write8);
}

static void ferr_reset(struct dev *d) { ferr_set((struct ferr *)d, false); }

static const struct dev_ops ferr_ops = {
    .name = "ferr", .reset = ferr_reset, .read = ferr_read, .write = ferr_write, .fini = free_fini};

struct dev *ferr_new(struct irq_line irq)
{
    struct ferr *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    f->dev.ops = &ferr_ops;
    f->irq = irq;
    return &f->dev;
}

/* --- pvpanic ---------------------------------------------------------------- */

struct pvpanic {
    struct dev dev;
    void (*event)(void *ctx, uint32_t bits);
    void *ctx;
};

static uint8_t pvpanic_read8(struct dev *d, unsigned port)
{
    return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

static void pvpanic_write8(struct dev *d, unsigned port, uint8_t v)
{
    struct pvpanic *p = (struct pvpanic *)d;
    v &= PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
    if (v)
        p->event(p->ctx, v);
}

static int pvpanic_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    return isa_read_bytes(d, off, size, val, 1, pvpanic_read8);
}

static int pvpanic_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return isa_write_bytes(d, off, size, val, 1, pvpanic_write8);
}

static const struct dev_ops pvpanic_ops = {
    .name = "pvpanic", .reset = no_reset, .read = pvpanic_read, .write = pvpanic_write, .fini = free_fini};

struct dev *pvpanic_new(void (*event)(void *ctx, uint32_t bits), void *ctx)
{
    struct pvpanic *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->dev.ops = &pvpanic_ops;
    p->event = event;
    p->ctx = ctx;
    return &p->dev;
}
