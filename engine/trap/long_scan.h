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
    bool closed;                                           /* no instruction crosses into it: what is before it is not executable */
    uint16_t cut;                                          /* an instruction that crosses into the next page begins here; 0: none seen */
    unsigned sites;                                        /* replaced in its copy */
    uint64_t start[64], inner[64], used[64], undefined[64]; /* by byte: instructions known, their other bytes, both; not an instruction */
    uint64_t maybe[64];                                    /* where instructions may begin */
};

/* A place in a page, or relative to its beginning, where there is code. Not sure: only if a call before it returns. Such code is looked at for
 * where it leads, not known. */
struct long_target {
    int32_t to;
    bool sure;
};

/* Where code leads out of the page; 4096: it runs on into the next. */
struct long_out {
    struct long_target *to;
    unsigned n, cap;
};

void long_reset(struct lpage *l, unsigned key);
/* Was code followed to there? */
bool long_seen(const struct lpage *l, struct long_target t);
/* Follow the code from there on inside the page. Returns how many instructions were new. out may be NULL. */
unsigned long_follow(struct lpage *l, const uint8_t *page, struct long_target from, const uint64_t *features, struct long_out *out);
/* Bytes that are known to be something else, such as code of another mode. */
void long_exclude(struct lpage *l, const uint64_t bytes[64]);
/* How much of the page that follows belongs to the instruction, *in, that crosses into it. */
unsigned long_tail(const struct lpage *before, const uint8_t *page, const uint8_t *next, const uint64_t *features, struct x86_insn *in);
/* Make the copy. Returns how many instructions are replaced; -1: the page must not be executed. */
int long_judge(const struct lpage *l, const uint8_t *page, const uint64_t *features, uint8_t *copy);

#endif
