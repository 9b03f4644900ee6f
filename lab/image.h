/*
 * An image as ringer classify sees it: bytes at addresses, which of them may be code, and where functions are known to
 * begin. ELF (executables, shared objects, relocatables), Linux bzImage (its payload, decompressed) and flat images.
 *
 * The file is untrusted: every offset and size is checked against it, memory is bounded.
 */
#ifndef LAB_IMAGE_H
#define LAB_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/insn.h"

#define LAB_MAX_SECTIONS 65536u
#define LAB_MAX_SYMBOLS (4u << 20)
#define LAB_REL_BASE 0x100000u /* where the sections of a relocatable file are laid out; nothing lies below */

/* How an address was learnt; in the order in which they are used. */
enum lab_means { MEANS_ENTRY, MEANS_SYMBOL, MEANS_KALLSYMS, MEANS_UNWIND, MEANS_RELOC, MEANS_SWEEP, MEANS_COUNT };
extern const char *const lab_means_text[MEANS_COUNT];

struct lab_section {
    const char *name;
    const uint8_t *data;
    uint64_t addr, size; /* size bytes at data; addr + size does not wrap */
    bool exec;
};

/* An address where code begins; with a name and a size if it is a function that is known by them. */
struct lab_seed {
    uint64_t addr, size; /* size 0: up to the next */
    const char *name;    /* or NULL */
    uint8_t means;       /* enum lab_means */
    bool function;       /* a function begins here: bounds for the sweep */
};

struct lab_options {
    bool flat;
    uint8_t mode; /* enum x86_mode_bits; flat only */
    uint64_t base;
    size_t max_size; /* of decompressed data; 0: 512 MiB */
};

struct lab_image {
    char kind[200]; /* what it is, one line */
    uint8_t mode;   /* enum x86_mode_bits */
    bool relocatable, kernel, module;
    struct lab_section *sec;
    unsigned nsec;
    struct lab_seed *seed; /* sorted by address; the first of equals is the best known */
    size_t nseed, seed_cap;
    uint32_t *named; /* one named seed for each address that has one, by address */
    size_t nnamed;
    struct lab_block *mem;
    char *err;
    size_t errcap;
};

/* 0; -1 with one line in err. file must outlive the image. */
int lab_image_open(struct lab_image *im, const uint8_t *file, size_t len, const struct lab_options *o, char *err,
                   size_t cap);
void lab_image_close(struct lab_image *im);
/* The section that holds addr, or NULL. */
const struct lab_section *lab_section_at(const struct lab_image *im, uint64_t addr);

/* --- among the readers of formats --- */
int lab_fail(struct lab_image *im, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Memory that lives as long as the image; NULL with the error recorded. */
void *lab_alloc(struct lab_image *im, size_t n);
int lab_add_seed(struct lab_image *im, uint64_t addr, uint64_t size, const char *name, enum lab_means means,
                 bool function);
/* A seed only if an executable section holds it. */
int lab_add_code(struct lab_image *im, uint64_t addr, enum lab_means means);
int lab_elf_open(struct lab_image *im, const uint8_t *file, size_t len);
bool lab_is_elf(const uint8_t *file, size_t len);
/* Function names and addresses from Linux's own symbol table, if there is one. */
int lab_kallsyms(struct lab_image *im);
/* Function bounds from .eh_frame. */
int lab_eh_frame(struct lab_image *im, const struct lab_section *s);
bool lab_is_bzimage(const uint8_t *file, size_t len);
int lab_bzimage_open(struct lab_image *im, const uint8_t *file, size_t len, size_t max);
/* Name of the compression data begins with, or NULL. */
const char *lab_compression(const uint8_t *p, size_t len);
/* Data that follows the compressed stream is ignored. */
int lab_decompress(struct lab_image *im, const uint8_t *p, size_t len, size_t max, const uint8_t **out, size_t *outlen);

static inline uint16_t lab16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t lab32(const uint8_t *p)
{
    return lab16(p) | (uint32_t)lab16(p + 2) << 16;
}
static inline uint64_t lab64(const uint8_t *p)
{
    return lab32(p) | (uint64_t)lab32(p + 4) << 32;
}

#endif
