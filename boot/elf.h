/* ELF executables for x86, 32 and 64 bit: every field checked against the file's size. */
#ifndef BOOT_ELF_H
#define BOOT_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ELF_MAX_SEG 64

struct elf_seg {
    uint64_t off, filesz, paddr, memsz;
};
struct elf_image {
    bool is64;
    uint64_t entry; /* physical: translated through the executable segment that holds it */
    unsigned nseg;  /* loadable segments with memsz > 0 */
    struct elf_seg seg[ELF_MAX_SEG];
    bool has_pvh;
    uint64_t pvh_entry; /* XEN_ELFNOTE_PHYS32_ENTRY */
};

bool elf_probe(const uint8_t *image, size_t len);
/* NULL, or what is wrong with it. */
const char *elf_parse(const uint8_t *image, size_t len, struct elf_image *out);

struct loader;
/* Claim and fill all segments (below 4 GiB). 0, or -1 with the error recorded. *end: first address after them. */
int elf_load(struct loader *l, const struct elf_image *elf, uint64_t *end);

#endif
