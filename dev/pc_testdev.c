/* Test device for bare-metal test guests; see the header. */
#include "dev/pc_testdev.h"

#include <stdlib.h>
#include <string.h>

struct testdev {
    struct dev dev;
    struct irq_line irq[PC_TESTDEV_NIRQ];
    uint32_t reg;
    uint8_t mem[PC_TESTDEV_MEM_SIZE];
};

static bool inside(uint64_t off, unsigned size, uint64_t bank_size)
{
    return size <= 8 && off < bank_size && size <= bank_size - off;
}

static int testdev_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct testdev *t = (struct testdev *)d;
    *val = 0;
    switch (bank) {
    case PC_TESTDEV_IO:
    case PC_TESTDEV_BYTE:
        if (!inside(off, size, 4))
            return DEV_UNMAPPED;
        memcpy(val, (uint8_t *)&t->reg + off, size);
        return DEV_OK;
    case PC_TESTDEV_FLUSH: return off < 4 ? DEV_OK : DEV_UNMAPPED;
    case PC_TESTDEV_IRQ: return DEV_UNMAPPED;
    case PC_TESTDEV_MEM:
        if (!inside(off, size, sizeof(t->mem)))
            return DEV_UNMAPPED;
        memcpy(val, t->mem + off, size);
        return DEV_OK;
    default: return DEV_UNMAPPED;
    }
}

static int testdev_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = (struct testdev *)d;
    switch (bank) {
    case PC_TESTDEV_IO:
    case PC_TESTDEV_BYTE:
        if (!inside(off, size, 4))
            return DEV_UNMAPPED;
        memcpy((uint8_t *)&t->reg + off, &val, size);
        return DEV_OK;
    case PC_TESTDEV_FLUSH: return off < 4 ? DEV_OK : DEV_UNMAPPED;
    case PC_TESTDEV_IRQ:
        if (off >= PC_TESTDEV_NIRQ)
            return DEV_UNMAPPED;
        irq_set(&t->irq[off], val & 0xff);
        return DEV_OK;
    case PC_TESTDEV_MEM:
        if (!inside(off, size, sizeof(t->mem)))
            return DEV_UNMAPPED;
        memcpy(t->mem + off, &val, size);
        return DEV_OK;
    default: return DEV_UNMAPPED;
    }
}

static void testdev_reset(struct dev *d)
{
    struct testdev *t = (struct testdev *)d;
    t->reg = 0;
    memset(t->mem, 0, sizeof(t->mem));
    for (unsigned i = 0; i < PC_TESTDEV_NIRQ; i++)
        irq_set(&t->irq[i], false);
}

static void testdev_fini(struct dev *d)
{
    free(d);
}

static const struct dev_ops testdev_ops = {
    .name = "pc-testdev", .reset = testdev_reset, .read = testdev_read, .write = testdev_write, .fini = testdev_fini};

struct dev *pc_testdev_new(const struct irq_line irq[PC_TESTDEV_NIRQ])
{
    struct testdev *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->dev.ops = &testdev_ops;
    memcpy(t->irq, irq, sizeof(t->irq));
    return &t->dev;
}
