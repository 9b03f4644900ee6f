/*
 * What the files of the selector share: a block being translated, addresses,
 * operands. Internal to select*.c.
 */
#ifndef ENGINE_TRANSLATE_SELECT_H
#define ENGINE_TRANSLATE_SELECT_H

#include "engine/translate/translate.h"

#define OUT_MAX 512

/* Code behind the block's: what leaves it. */
enum out_kind {
    OUT_STUB,  /* to a stub, with the site */
    OUT_LEAVE, /* requests: to the dispatcher, before the instruction */
    OUT_SIDE,  /* a conditional branch in the middle was taken */
};
struct out {
    enum out_kind kind;
    unsigned idx, off;    /* of the instruction */
    const struct x86_insn *in;
    uint8_t *disp;        /* rel32 to point at the out-of-line part */
    struct tr_site *site; /* OUT_STUB */
    uint8_t *stub;
};

struct tr {
    struct translate *x;
    struct tr_block *b;
    struct emit e;
    const struct x86_insn *in;
    unsigned idx, off;       /* number of the instruction; its offset in the page */
    uint8_t *begin;          /* of the instruction's code */
    struct tr_site *open[8]; /* sites of this instruction: next is not known yet */
    unsigned nopen, nout;
    unsigned n;
    struct out out[OUT_MAX];
};

/* A site of the current instruction. */
struct tr_site *sel_site(struct tr *t);
/* JRCXZ over a jump to a stub: goes on if RCX is 0. */
void sel_unless_zero(struct tr *t, struct tr_site *s, uint8_t *stub);

#define SHRX(dst, src) e_vrr(e, 2, V_F2, true, 0xf7, dst, H_STATE, src)
#define RORX(dst, src, n) (e_vrr(e, 3, V_F2, true, 0xf0, dst, 0, src), e1(e, n))
#define PDEP(dst, src, mask) e_vrm(e, 2, V_F2, true, 0xf5, dst, src, mask)
#define PEXT(dst, src, mask) e_vrm(e, 2, V_F3, true, 0xf5, dst, src, mask)

static inline struct hmem indexed(unsigned reg, struct hmem m, int32_t disp)
{
    return (struct hmem){m.base, (uint8_t)reg, 1, m.disp + disp};
}
static const struct hmem sel_operand = {H_S0, H_S1, 1, 0};


/* The linear address of the memory operand into S0; lea: the offset alone, in dst. False: cannot be expressed. */
bool sel_address(struct tr *t, unsigned dst, bool lea);
/* S0 to a host address: the operand is at sel_operand. RCX is lost. again: on a miss fill the entry and start the instruction
 * anew; else the executor does it (second operands: their entry may be that of the first one). */
void sel_lookup(struct tr *t, bool write, unsigned size, bool again);
/* Leave it to the executor unless S0 is a multiple of size. */
void sel_aligned(struct tr *t, unsigned size);
/* Prefixes, map and REX.W of the instruction, for the encoder; its immediate. */
unsigned sel_prefix_bits(const struct x86_insn *in);
void sel_immediate(struct tr *t);
/* A guest register as an operand: its host register, or the scratch register it was loaded into. */
unsigned sel_fetch(struct tr *t, unsigned guest, unsigned scratch);
void sel_put_back(struct tr *t, unsigned guest, unsigned reg);

/* SSE and AVX instructions (select_simd.c). False: the executor's. */
bool sel_simd(struct tr *t);

#endif
