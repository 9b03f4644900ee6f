/*
 * ACPI tables (ACPI 6.4, chapter 5) describing the PC machine: built into a
 * buffer that the board copies to guest memory. Everything here comes from the
 * board; this file owns no address.
 */
#ifndef BOOT_ACPI_H
#define BOOT_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACPI_MAX_SERIAL 4

struct acpi_config {
    uint64_t base; /* physical address of buf[0]: 64-byte aligned, below 4 GiB, RAM (the guest writes the FACS) */

    unsigned ncpu; /* local APIC ids 0 .. ncpu - 1 */
    uint32_t lapic_addr, ioapic_addr;
    uint8_t ioapic_id;

    /* Fixed hardware (dev/acpi_pm.h); all zero lengths are left out */
    uint16_t pm_evt, pm_cnt, pm_tmr; /* ports */
    uint16_t gpe0;
    uint8_t gpe0_len;
    uint8_t sci_gsi;     /* level, active high (as wired to the I/O APIC) */
    uint16_t reset_port; /* 0: no reset register */
    uint8_t reset_value;
    uint8_t slp_typ_s5;

    /* PCI */
    bool pci;
    uint64_t ecam_base; /* 0: configuration mechanism 1 only */
    uint8_t pci_bus_end;
    uint32_t mmio32_base, mmio32_size; /* window for BARs below 4 GiB */
    uint64_t mmio64_base, mmio64_size; /* 0 size: none */
    uint8_t intx_gsi[4];               /* INTA of slot s, pin p goes to intx_gsi[(s + p) % 4]; level, active high */

    uint32_t hpet_addr; /* 0: none */
    struct {
        uint16_t port; /* 0: not there */
        uint8_t irq;
    } serial[ACPI_MAX_SERIAL];
    bool rtc;
    bool i8042;
    uint16_t pvpanic_port;  /* 0: none */
    uint16_t debugcon_port; /* 0: none */
    bool spcr;              /* name serial[0] the console */
};

/* Build all tables. Returns the bytes used, 0 if they do not fit in cap. *rsdp: the root pointer's physical address. */
size_t acpi_build(const struct acpi_config *cfg, uint8_t *buf, size_t cap, uint64_t *rsdp);

#endif
