/*
 * Eight-bit ISA devices: the bus splits wider accesses into bytes at
 * consecutive ports; ports beyond the device float.
 */
#ifndef DEV_ISA_H
#define DEV_ISA_H

#include "ringer/dev.h"

static inline int isa_read_bytes(struct dev *d, uint64_t off, unsigned size, uint64_t *val, unsigned nports,
                                 uint8_t (*read8)(struct dev *d, unsigned port))
{
    *val = 0;
    if (off >= nports)
        return DEV_UNMAPPED;
    for (unsigned i = 0; i < size && i < 8; i++) {
        uint8_t b = off + i < nports ? read8(d, (unsigned)off + i) : 0xff;
        *val |= (uint64_t)b << (8 * i);
    }
    return DEV_OK;
}

static inline int isa_write_bytes(struct dev *d, uint64_t off, unsigned size, uint64_t val, unsigned nports,
                                  void (*write8)(struct dev *d, unsigned port, uint8_t v))
{
    if (off >= nports)
        return DEV_UNMAPPED;
    for (unsigned i = 0; i < size && i < 8 && off + i < nports; i++)
        write8(d, (unsigned)off + i, (uint8_t)(val >> (8 * i)));
    return DEV_OK;
}

#endif
