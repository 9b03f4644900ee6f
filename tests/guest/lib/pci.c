/* See pci.h. */
#include "pci.h"

unsigned pci_find(uint32_t id, unsigned nth)
{
    for (unsigned bdf = 1; bdf < 256; bdf++)
        if (pci_read(bdf, 0) == id && !nth--)
            return bdf;
    return 0;
}

unsigned pci_cap(unsigned bdf, uint8_t id, unsigned nth)
{
    if (!(pci_read(bdf, 4) >> 16 & 0x10))
        return 0;
    unsigned at = pci_read(bdf, 0x34) & 0xfc;
    for (unsigned guard = 0; at && guard < 48; guard++, at = pci_read(bdf, at) >> 8 & 0xfc)
        if ((pci_read(bdf, at) & 0xff) == id && !nth--)
            return at;
    return 0;
}

volatile void *pci_bar(unsigned bdf, unsigned bar)
{
    unsigned reg = 0x10 + 4 * bar;
    uint32_t lo = pci_read(bdf, reg);
    bool wide = (lo & 6) == 4;
    uint64_t at = lo & ~15u;
    if (wide)
        at |= (uint64_t)pci_read(bdf, reg + 4) << 32;
    if (!at || at >> 32) { /* the identity map covers 4 GiB */
        at = 0xe0000000u + bdf * 0x100000u + bar * 0x20000u;
        pci_write(bdf, reg, (uint32_t)at);
        if (wide)
            pci_write(bdf, reg + 4, 0);
    }
    pci_write16(bdf, 4, (uint16_t)(pci_read(bdf, 4) | 6));
    return (void *)at;
}
