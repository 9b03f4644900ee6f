/* What the loaders share: the file being loaded, guest memory, and who has which part of it. */
#ifndef BOOT_LOADER_H
#define BOOT_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/boot.h"

#define LOAD_MAX_MAP 120 /* memory map entries; the Linux zero page takes 128 */
#define LOAD_MAX_CLAIMS 160
#define LOAD_LOW_MIN 0x1000u  /* above the real-mode vector table and BIOS data area */
#define LOAD_LOW_END 0x9fc00u /* conventional memory ends here: the EBDA's usual place */
#define LOAD_4G 0x100000000ull

/* GDT every protected-mode entry gets: flat segments at the selectors Linux asks for, and a TSS for PVH. */
#define BOOT_CS 0x10
#define BOOT_DS 0x18
#define BOOT_TR 0x20
#define BOOT_GDT_SIZE 0x30

/* The system ROM's place where no table lies: reserved to the guest, but an image may be loaded over it (linkers put
 * the headers of an executable for 1 MiB right below it). */
#define LOAD_MEM_ROM 100

struct loader {
    struct vm *vm;
    const struct boot_spec *spec;
    struct boot_entry *entry;
    char *err;
    size_t errcap;
    struct boot_region map[LOAD_MAX_MAP]; /* sorted, not overlapping */
    unsigned nmap;
    struct {
        uint64_t start, end;
    } claim[LOAD_MAX_CLAIMS];
    unsigned nclaims;
};

static inline uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}
static inline uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}
static inline void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)v);
    put16(p + 2, (uint16_t)(v >> 16));
}
static inline void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p + 4, (uint32_t)(v >> 32));
}

/* Record "file: message" as the error; returns -1. file NULL: the kernel. */
int load_fail(struct loader *l, const char *file, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Write guest memory (RAM, and ROM as the firmware that filled it); data NULL: zeros. -1 if any of it is neither. */
int load_write(struct loader *l, uint64_t gpa, const void *data, uint64_t len);

/* The type a guest is told. */
uint32_t load_type(const struct boot_region *r);

/* Take [start, start + len): it must be RAM in the map and not taken yet. -1 otherwise (no message). */
int load_claim(struct loader *l, uint64_t start, uint64_t len);
/* Find and claim the lowest / highest place inside [min, max). align: a power of two. */
int load_claim_low(struct loader *l, uint64_t len, uint64_t align, uint64_t min, uint64_t max, uint64_t *start);
int load_claim_high(struct loader *l, uint64_t len, uint64_t align, uint64_t min, uint64_t max, uint64_t *start);

/* Bytes of the GDT; long_mode chooses the code segment. */
void load_gdt(uint8_t gdt[BOOT_GDT_SIZE], bool long_mode);

/* The formats. */
int load_linux(struct loader *l);
int load_pvh(struct loader *l);
int load_multiboot(struct loader *l);
int load_flat(struct loader *l);

bool linux_probe(const uint8_t *image, size_t len);
bool multiboot_probe(const uint8_t *image, size_t len, size_t *header);

#endif
