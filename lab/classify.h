/*
 * ringer classify: finds the code of an image, decodes it with the machine's own decoder and counts instructions by
 * their Popek-Goldberg class.
 *
 * Code is found by recursive descent from every address where some table says that code begins (the better known
 * first), then by linear sweep of what is left between a function's bounds. Indirect jumps are not followed.
 */
#ifndef LAB_CLASSIFY_H
#define LAB_CLASSIFY_H

#include "lab/image.h"
#include "x86/decode.h"

struct lab_site {
    uint64_t addr;
    uint16_t row; /* index into x86_isa[] */
    uint8_t len, means;
};

struct lab_counts {
    uint64_t exec_bytes, means_bytes[MEANS_COUNT], padding, uncovered;
    uint64_t insns, innocuous, privileged, control, behaviour, sensitive, offending, robin_irvine;
    uint64_t unknown;   /* instructions the table has not, known to the disassembler (AVX-512 and the like) */
    uint64_t overlaps;  /* paths given up because they lead into the middle of an instruction */
    uint64_t *op_count; /* sensitive but unprivileged, by enum x86_op */
};

struct lab_classified {
    struct lab_counts n;
    struct lab_site *site; /* sensitive but unprivileged, by address */
    size_t nsite, site_cap;
};

/* sweep_all: also where no function is known. 0, or -1 if out of memory. */
int lab_classify(const struct lab_image *im, bool sweep_all, struct lab_classified *out);
void lab_classified_free(struct lab_classified *c);
/* The function that holds addr: its seed and the offset, or NULL. */
const struct lab_seed *lab_function_at(const struct lab_image *im, uint64_t addr, uint64_t *off);
/* Its text, "?" if there is none. */
void lab_disassemble(const struct lab_image *im, uint64_t addr, char *buf, size_t cap);

#endif
