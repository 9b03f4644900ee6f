/* Firmware tables, as far as guests need them. */
#ifndef ACPI_H
#define ACPI_H
#include "guest.h"

struct acpi_header {
    char sig[4];
    uint32_t length;
    uint8_t revision, sum;
    char oem[6], oem_table[8];
    uint32_t oem_rev, creator, creator_rev;
} __attribute__((packed));

/* The table with this signature whose checksum is right, or NULL. */
const struct acpi_header *acpi_find(const char sig[4]);
#endif
