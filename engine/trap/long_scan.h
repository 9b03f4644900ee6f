/*
 * Copies of pages of 64-bit code in which what does not trap is replaced (long_scan.c has how). Pure functions.
 */
#ifndef ENGINE_TRAP_LONG_SCAN_H
#define ENGINE_TRAP_LONG_SCAN_H

#include "x86/decode.h"

/* What offends depends on the state code is executed in. 0: as hosts execute programs, so that engine/direct/scan.c has the rules. */
enum {
    LONG_FULL = 1,
    LONG_SSE = 2, /* CR4 and XCR0 let these run */
    LONG_AVX = 4,
    LONG_FSGSBASE = 8,
    LONG_SHOWS_CPUID = 16, /* the host cannot make CPUID trap */
};

/* What is known of a page. */
struct lpage {
    uint8_t key;
    unsigned sites;                                        /* replaced in its copy */
    uint64_t start[64], inner[64], used[64], undefined[64]; /* by byte: instructions seen, their other bytes, both; not an instruction */
};

/* Where code leads out of the page: offsets relative to its beginning; 4096: it runs on into the next. */
struct long_out {
    int32_t *to;
    unsigned n, cap;
    uint16_t cut; /* an instruction that crosses into the next page begins here; 0: none */
};

void long_reset(struct lpage *l, unsigned key);
/* Was code followed to off? */
bool long_seen(const struct lpage *l, unsigned off);
/* Follow the code from off on inside the page. Returns how many instructions were new. out may be NULL. */
unsigned long_follow(struct lpage *l, const uint8_t *page, unsigned off, const uint64_t *features, struct long_out *out);
/* Bytes that are known to be something else, such as code of another mode. */
void long_exclude(struct lpage *l, const uint64_t bytes[64]);
/* Make the copy. Returns how many instructions are replaced; -1: the page must not be executed. */
int long_judge(const struct lpage *l, const uint8_t *page, const uint64_t *features, uint8_t *copy);

#endif
