/* PCI configuration by mechanism 1. */
#ifndef PCI_H
#define PCI_H
#include "guest.h"

static inline uint32_t pci_read(unsigned bdf, unsigned reg)
{
    outl(0xcf8, 0x80000000u | bdf << 8 | (reg & 0xfc));
    return inl(0xcfc) >> (reg & 3) * 8;
}
static inline void pci_write(unsigned bdf, unsigned reg, uint32_t v)
{
    outl(0xcf8, 0x80000000u | bdf << 8 | (reg & 0xfc));
    outl(0xcfc, v);
}
static inline void pci_write16(unsigned bdf, unsigned reg, uint16_t v)
{
    outl(0xcf8, 0x80000000u | bdf << 8 | (reg & 0xfc));
    outw(0xcfc + (reg & 2), v);
}
unsigned pci_find(uint32_t id, unsigned nth);             /* bus 0; 0 if none */
unsigned pci_cap(unsigned bdf, uint8_t id, unsigned nth); /* offset of the capability, 0 if none */
volatile void *pci_bar(unsigned bdf,
                       unsigned bar); /* address of a memory BAR, which is placed if nobody did; decoding is enabled */
#endif
