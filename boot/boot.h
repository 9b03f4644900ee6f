/*
 * Boot loaders: put a guest image into memory and say in which state its first
 * processor begins.
 *
 * boot_load and boot_start are separate, and both may be done again: a machine
 * reset reloads the image (the guest may have written over it) and then sets
 * the bootstrap processor's registers on top of its power-up state.
 *
 * Loading writes through vm->mem (RAM, and ROM where the map has ROM) and calls
 * vm_ram_written, so it must run before the vCPUs start or under exclusion.
 */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;
struct x86_cpu;

enum boot_kind { BOOT_AUTO, BOOT_LINUX, BOOT_PVH, BOOT_MULTIBOOT, BOOT_FLAT };

/* One initrd or boot module; the bytes stay the caller's. */
struct boot_module {
    const char *name;    /* file name, for messages */
    const char *cmdline; /* Multiboot and PVH: the module's string, NULL: its name */
    const uint8_t *data;
    size_t len;
};

/* e820 types */
enum { BOOT_MEM_RAM = 1, BOOT_MEM_RESERVED = 2, BOOT_MEM_ACPI = 3, BOOT_MEM_NVS = 4 };
struct boot_region {
    uint64_t start, size;
    uint32_t type;
};

#define BOOT_FLAT_ADDR 0x7c00u

struct boot_spec {
    enum boot_kind kind;
    const char *name; /* the kernel's file name, for messages */
    const uint8_t *kernel;
    size_t kernel_len;
    const struct boot_module *mod; /* initrds; Linux gets them as one, joined */
    unsigned nmod;
    const char *cmdline; /* NULL: empty */
    bool flat_at;        /* flat images: load and entry given, not 0x7c00 */
    uint32_t flat_addr;  /* physical load address */
    uint32_t flat_entry; /* physical entry, reached in real mode, so below 1 MiB */
    uint64_t rsdp;       /* physical address of the ACPI root pointer, 0: none */
    /* What the memory map shown to the guest holds besides RAM: firmware tables, ECAM. Takes precedence over RAM. */
    const struct boot_region *reserved;
    unsigned nreserved;
};

/* How the bootstrap processor begins; filled by boot_load. */
struct boot_entry {
    enum boot_kind kind; /* what the image turned out to be, never BOOT_AUTO */
    bool long_mode;
    uint64_t rip;  /* entry: linear; for BOOT_FLAT a physical address below 1 MiB */
    uint64_t cr3;  /* long mode: identity page tables */
    uint64_t info; /* physical address of the boot information structure */
    uint64_t gdt;  /* physical address of the GDT, BOOT_GDT_LIMIT + 1 bytes */
};

/* The kind an image's content says it is; BOOT_FLAT only if it can be a boot sector (0x55 0xaa at 510), else BOOT_AUTO:
 * unknown. */
enum boot_kind boot_guess(const uint8_t *image, size_t len);
const char *boot_kind_name(enum boot_kind k);

/* 0, or -1 with one line in err that names the file and what is wrong with it. */
int boot_load(struct vm *vm, const struct boot_spec *spec, struct boot_entry *entry, char *err, size_t errcap);

/* Set the registers; bsp must be in its power-up state. Vendor-neutral: touches struct x86_cpu alone. */
void boot_start(const struct boot_entry *entry, struct x86_cpu *bsp);

#endif
