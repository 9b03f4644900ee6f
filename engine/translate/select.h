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
    OUT_WINDOW, /* the lookup of a window fails */
    OUT_FAR,   /* no link to another page */
};
struct out {
    enum out_kind kind;
    unsigned idx, off;    /* of the instruction */
    const struct x86_insn *in;
    uint8_t *disp;        /* rel32 to point at the out-of-line part */
    struct tr_site *site; /* OUT_STUB */
    uint8_t *stub;
};

/* Where a memory operand is. */
struct sel_where {
    struct x86_memref m;
    unsigned addrsize;
};

/* windows.c */
#define SEL_WINDOWS 32
struct sel_access {
    int8_t win; /* -1: none */
    int32_t at; /* relative to what the window's bounds are relative to */
};
struct sel_window {
    int32_t lo, hi;
    bool write, live; /* live: looked up */
    int8_t slot;      /* -1: looked up one by one */
    uint8_t left;     /* accesses to come */
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
    const struct x86_insn *ins;
    bool addressed; /* S0 is the address of the instruction's memory operand */
    /* Checks by LOOP whose jump is still to be emitted, and room for jumps behind which the code is. */
    struct sel_pads {
        unsigned n, nroom;
        struct {
            uint8_t *disp;
            unsigned out;
        } due[8];
        uint8_t *room[3];
    } pads;
    bool loops;      /* checks are by LOOP */
    bool stretched;  /* one of them did not reach */
    uint8_t vectors; /* surely live: 1 XMM registers and MXCSR, 2 upper halves too */
    int s1; /* window whose addend is in S1, or -1 */
    unsigned nwin;
    struct sel_window win[SEL_WINDOWS];
    struct sel_access acc[TR_BLOCK_MAX][2]; /* of the memory operand, of the stack */
    struct out out[OUT_MAX];
};

/* A site of the current instruction. */
struct tr_site *sel_site(struct tr *t);
/* Another that begins with a struct tr_site and says which block it is in; code behind the instruction does not follow it. */
void *sel_exit(struct tr *t, size_t size);
/* What code passes of it. */
uint32_t sel_site_id(const struct tr *t, const struct tr_site *s);
/* Goes on if RCX is what checks want (translate.one); else out of line. */
void sel_check(struct tr *t, struct out o);
/* Bytes of code without a check are about to come. */
void sel_before(struct tr *t, unsigned bytes);
/* Room for the jumps of checks to come. */
void sel_make_room(struct tr *t);
/* Before something long is emitted: jumps for the checks so far. over: the code goes on behind. */
void sel_pads(struct tr *t, bool over);
/* Goes on if RCX is 0; else to a stub. */
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


static inline struct sel_where sel_operand_of(const struct x86_insn *in) { return (struct sel_where){in->mem, in->addrsize}; }
static inline struct sel_where sel_stack(unsigned reg, int disp)
{
    return (struct sel_where){{.seg = X86_SS, .base = (uint8_t)reg, .index = X86_REG_NONE, .scale = 1, .disp = disp}, 8};
}
enum { SEL_MEM, SEL_STACK };

/* base + index * scale + disp + extra into dst; narrow: 32 bits of it. S0 and S1 are lost. False: cannot be expressed. */
bool sel_offset(struct tr *t, unsigned dst, const struct sel_where *at, int extra, bool narrow);
/* The linear address, and extra, into dst; S0 and S1 are lost. False: cannot be expressed. */
bool sel_address(struct tr *t, unsigned dst, const struct sel_where *at, int extra);
/* Make an operand accessible as *op, which may use S0, S1 and guest registers. RCX is lost. which: SEL_MEM, SEL_STACK. again: on a miss fill
 * the entry and start the instruction anew; else the executor does it (second operands: their entry may be that of the first
 * one). False: cannot be expressed. */
bool sel_memory(struct tr *t, unsigned which, struct sel_where at, bool write, unsigned size, bool again, struct hmem *op);
/* S0 to a host address: the operand is at sel_operand. */
void sel_lookup(struct tr *t, bool write, unsigned size, bool again);
/* The same for the window of size bytes from S0, of which the instruction itself accesses own_size at own. */
void sel_look_wide(struct tr *t, bool write, unsigned size, bool own_write, unsigned own, unsigned own_size);
/* The block has run k instructions. RCX is lost. */
void sel_count(struct tr *t, unsigned k);
void sel_emit_count(const struct translate *x, struct emit *e, unsigned k);
/* To the dispatcher, before this instruction, if there are requests. RCX is lost. */
void sel_heed(struct tr *t);
/* Code behind the block's for a jump whose displacement is at disp. */
void sel_later(struct tr *t, uint8_t *disp, struct tr_site *s, uint8_t *stub);
void sel_leave_by(struct tr *t, enum out_kind kind, uint8_t *disp);
/* Room for eight bytes below the top of the stack; the eight bytes at the top; RSP += d. */
struct hmem sel_stack_slot(struct tr *t, bool again);
struct hmem sel_stack_top(struct tr *t);
void sel_move_top(struct tr *t, int d);
/* Does the selector know the instruction, and do its operands name all general registers it changes (but RAX and RDX)? */
bool sel_known(const struct x86_insn *in);
void sel_find_windows(struct tr *t);
/* C code may have done anything to the TLB. */
void sel_end_windows(struct tr *t);
/* Leave it to the executor unless the memory operand's address is a multiple of size. S0, S1 and RCX are lost. False: cannot be expressed. */
bool sel_aligned(struct tr *t, unsigned size);
/* Prefixes, map and REX.W of the instruction, for the encoder; its immediate. */
unsigned sel_prefix_bits(const struct x86_insn *in);
void sel_immediate(struct tr *t);
/* A guest register as an operand: its host register, or the scratch register it was loaded into. */
unsigned sel_fetch(struct tr *t, unsigned guest, unsigned scratch);
void sel_put_back(struct tr *t, unsigned guest, unsigned reg);

/* As sel_lookup, on a miss starting anew, for size bytes; rep, not 0: for as many elements of rep bytes as guest RCX says, 1 to 4096. */
struct tr_site *sel_lookup_string(struct tr *t, bool write, unsigned size, unsigned scale);
/* STOS and MOVS (select_str.c). False: the executor's. */
bool sel_string(struct tr *t);
/* SSE and AVX instructions (select_simd.c). False: the executor's. */
bool sel_simd(struct tr *t);

enum sel_result { GO_ON, END, NONE }; /* NONE: the executor's */
/* System instructions (select_sys.c). */
enum sel_result sel_system(struct tr *t);
/* Branches (select_branch.c). */
enum sel_result sel_jcc(struct tr *t);
enum sel_result sel_jmp(struct tr *t);
enum sel_result sel_call(struct tr *t);
enum sel_result sel_ret(struct tr *t);
bool sel_is_jcc(const struct x86_insn *in);
/* Where a relative branch leads, relative to the page. */
int64_t sel_branch_to(const struct x86_insn *in, unsigned off);
/* The jump whose displacement is at disp leads to offset to in the page, by a link. */
void sel_chain(struct tr *t, int64_t to, uint8_t *disp);
/* Go on at an offset relative to the page. on: no branch, the next instruction. */
void sel_jump_to(struct tr *t, int64_t to, bool on);
/* What is behind the block for a branch to another page, whose check jumps by the displacement at disp. */
void sel_far_out(struct tr *t, struct tr_site *s, uint8_t *disp);
/* To the canonical address in S0, in another context, which the state is already that of. */
void sel_jump_ctx(struct tr *t, unsigned ctx);
/* SYSCALL and SYSRET (select_call.c). */
enum sel_result sel_syscall(struct tr *t);
enum sel_result sel_sysret(struct tr *t);
/* As x86_count_sensitive. RCX is lost. */
void sel_tally(struct tr *t);
/* Count, and go on at the next instruction, which is in the same page, in another block. */
void sel_go_on(struct tr *t);

#endif
