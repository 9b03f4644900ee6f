/*
 * PCI: one bus (number 0) behind a host bridge, 32 slots, type-0 functions at function 0
 * (PCI Local Bus Specification 3.0; ECAM as in the PCI Firmware Specification 3.3, 4.1).
 *
 * In a nutshell: the board makes a bus, device constructors plug functions into slots, the board maps the bus's own two
 * banks (ECAM, ports 0xCF8-0xCFF) once, and the ranges of pci_bus_ranges() each time map_changed() is called. A range
 * names the function's struct dev and the bank (= BAR number) to route accesses to. The bus owns its functions: the
 * board resets and frees the bus only.
 *
 * Everything here runs under the VM's device lock.
 */
#ifndef DEV_PCI_H
#define DEV_PCI_H

#include "ringer/dev.h"

#define PCI_SLOTS 32
#define PCI_BARS 6
#define PCI_ECAM_SIZE 0x100000u /* bus 0 only: MCFG says buses 0 to 0 */

/* Banks of the bus's own device. */
#define PCI_BANK_ECAM 0  /* PCI_ECAM_SIZE bytes */
#define PCI_BANK_PORTS 1 /* 8 bytes: ports 0xCF8 to 0xCFF */

/* Configuration space header. */
#define PCI_VENDOR 0x00
#define PCI_DEVICE 0x02
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_REVISION 0x08
#define PCI_CLASS 0x09 /* 24 bits */
#define PCI_HEADER 0x0e
#define PCI_BAR0 0x10
#define PCI_SUBVENDOR 0x2c
#define PCI_SUBDEVICE 0x2e
#define PCI_CAP_PTR 0x34
#define PCI_INT_LINE 0x3c
#define PCI_INT_PIN 0x3d

#define PCI_CMD_IO 0x0001
#define PCI_CMD_MEM 0x0002
#define PCI_CMD_MASTER 0x0004
#define PCI_CMD_PARITY 0x0040
#define PCI_CMD_SERR 0x0100
#define PCI_CMD_INTX_OFF 0x0400
#define PCI_STS_INTX 0x0008
#define PCI_STS_CAPS 0x0010

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX 0x11

/* A range of addresses the host bridge passes to the bus. size 0: none. */
struct pci_window {
    uint64_t start, size;
};

struct pci_bus_config {
    /* BARs decode only inside these windows: mem[0] below 4 GiB, mem[1] above, io for ports. Elsewhere they are deaf,
     * so a guest cannot put one over RAM or a local APIC. */
    struct pci_window mem[2], io;
    /* INTA to INTD of the bus; slot s, pin p (1 to 4) drives intx[(s + p - 1) % 4]. */
    struct irq_line intx[4];
    uint8_t intx_irq[4]; /* what firmware writes into Interrupt Line for each of them */
    /* The set of decoded ranges changed: fetch pci_bus_ranges() and remap. May be NULL. Called under the device lock,
     * never from pci_bus_new or a function's constructor. */
    void (*map_changed)(void *ctx);
    void *map_ctx;
    /* Byte accesses to port 0xCF9, which lies inside CONFIG_ADDRESS, go to bank 0, offset 0 of this one. NULL: none. */
    struct dev *cf9;
};

struct pci_bus;
struct pci_fn;

/* An empty bus with the host bridge at 00.0; NULL when out of memory. env is copied. */
struct pci_bus *pci_bus_new(const struct dev_env *env, const struct pci_bus_config *cfg);
/* The bus as a device: its banks, its reset (all functions, BARs cleared) and its fini (frees functions and bus). */
struct dev *pci_bus_dev(struct pci_bus *b);
/* Firmware's part: give every BAR an address from the windows (largest first), set the Interrupt Line registers, enable
 * decoding. Call it once all functions are plugged in, and after each reset. 0, or -1 if a window is full (logged). */
int pci_bus_assign(struct pci_bus *b);

struct pci_range {
    struct dev *dev;
    uint32_t bank; /* BAR number */
    bool io;       /* port I/O space */
    uint64_t start, size;
};
#define PCI_MAX_RANGES (PCI_SLOTS * PCI_BARS)
/* The BARs decoded now, none overlapping (the lower slot wins). Returns how many; out holds at least PCI_MAX_RANGES. */
unsigned pci_bus_ranges(const struct pci_bus *b, struct pci_range *out);

/* Configuration access as the bridge does it: slot's function 0; off + size <= 256. An empty slot reads all ones. */
uint32_t pci_cfg_read(struct pci_bus *b, unsigned slot, unsigned off, unsigned size);
void pci_cfg_write(struct pci_bus *b, unsigned slot, unsigned off, unsigned size, uint32_t val);

/* --- for function implementations -------------------------------------- */

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_MEM32, PCI_BAR_MEM64, PCI_BAR_IO };

struct pci_bar {
    enum pci_bar_kind kind;
    uint64_t size; /* power of two; at least 16 (memory) or 4 (I/O) */
    uint64_t base; /* valid when decoded */
    bool decoded;
};

#define PCI_MSIX_MAX 64
struct pci_msix {
    unsigned n;           /* vectors; 0: no MSI-X */
    unsigned cap;         /* offset of the capability */
    bool enabled, masked; /* message control: enable, function mask */
    struct {
        uint64_t addr;
        uint32_t data, ctrl; /* ctrl bit 0: masked */
    } table[PCI_MSIX_MAX];
    uint64_t pending;
};

/* Embed first. Its dev.ops->read/write get bank = BAR number. */
struct pci_fn {
    struct dev dev;
    struct pci_bus *bus;
    unsigned slot;
    struct dev_env env;
    uint8_t cfg[256], wmask[256]; /* register values; bits software can write */
    unsigned cap_next, cap_last;
    struct pci_bar bar[PCI_BARS];
    struct pci_msix msix;
    bool intx; /* what the function asks for, before Interrupt Disable */
    /* Before a read of [off, off + size) the function may refresh cfg[]; after a write it may act. May be NULL. */
    void (*cfg_reading)(struct pci_fn *f, unsigned off, unsigned size);
    void (*cfg_written)(struct pci_fn *f, unsigned off, unsigned size);
};

/* Fill in the header: ids, class (24 bits), interrupt pin (0: none). dev.ops must be set. */
void pci_fn_init(struct pci_fn *f, const struct dev_env *env, uint16_t vendor, uint16_t device, uint32_t class,
                 uint8_t revision, uint16_t subvendor, uint16_t subdevice, uint8_t pin);
/* Declare a BAR; a PCI_BAR_MEM64 takes bar and bar + 1. */
void pci_bar_init(struct pci_fn *f, unsigned bar, enum pci_bar_kind kind, uint64_t size);
/* Append a capability of len bytes (header included); returns its offset, or 0 if there is no room. */
unsigned pci_cap_add(struct pci_fn *f, uint8_t id, unsigned len);
/* Plug it in. -1: slot taken or out of range. From then on the bus owns it. */
int pci_plug(struct pci_bus *b, unsigned slot, struct pci_fn *f);
/* Registers back to power-up values: command, BARs, interrupt line, MSI-X. The bus does it before dev.ops->reset. */
void pci_fn_reset(struct pci_fn *f);

static inline bool pci_master(const struct pci_fn *f)
{
    return f->cfg[PCI_COMMAND] & PCI_CMD_MASTER;
}
/* The function's interrupt pin. The line obeys Interrupt Disable; Interrupt Status does not. */
void pci_intx_set(struct pci_fn *f, bool level);

static inline uint16_t pci_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t pci_get32(const uint8_t *p)
{
    return pci_get16(p) | (uint32_t)pci_get16(p + 2) << 16;
}
static inline void pci_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void pci_put32(uint8_t *p, uint32_t v)
{
    pci_put16(p, (uint16_t)v);
    pci_put16(p + 2, (uint16_t)(v >> 16));
}

/* --- MSI-X (PCI 3.0, 6.8.2), pci_msix.c ---------------------------------- */

/* Add the capability: n vectors, table (16 * n bytes) and PBA (8 bytes) at these offsets of a memory BAR.
 * -1: too many vectors or no room. */
int pci_msix_init(struct pci_fn *f, unsigned n, unsigned bar, uint32_t table_off, uint32_t pba_off);
static inline bool pci_msix_enabled(const struct pci_fn *f)
{
    return f->msix.enabled;
}
/* Send vector v, or set its pending bit while it, the function or bus mastering is off. Ignores v >= n. */
void pci_msix_notify(struct pci_fn *f, unsigned v);
/* Accesses to the table and the PBA; off relative to either. Aligned dwords and qwords; else DEV_UNMAPPED. */
int pci_msix_table_read(struct pci_fn *f, uint64_t off, unsigned size, uint64_t *val);
int pci_msix_table_write(struct pci_fn *f, uint64_t off, unsigned size, uint64_t val);
int pci_msix_pba_read(struct pci_fn *f, uint64_t off, unsigned size, uint64_t *val);
/* For pci.c: message control or bus mastering may have changed; back to power-up state. */
void pci_msix_update(struct pci_fn *f);
void pci_msix_reset(struct pci_fn *f);

#endif
