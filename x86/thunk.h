/*
 * Thunks: host code that runs one FP or vector instruction of the guest.
 *
 * In a nutshell: innocuous FP and vector instructions are executed by the host
 * CPU itself, so their results are right by construction. A thunk loads the
 * registers the instruction uses from the guest's state, executes the same
 * instruction re-encoded (memory operand replaced by [RSI], a general register
 * by RAX), and stores what it changed. Thunks are made once per encoding and
 * kept per vCPU; a full cache is emptied (the generation changes).
 *
 * x87 instructions run on the whole FXSAVE image, since they depend on the
 * stack; MMX and vector instructions load only the registers they name.
 */
#ifndef X86_THUNK_H
#define X86_THUNK_H

#include "x86/cpu.h"

enum {
    X86_TH_MEM_R = 1 << 0,
    X86_TH_MEM_W = 1 << 1,
    X86_TH_VEX = 1 << 2,   /* VEX encoding: checks of XCR0 */
    X86_TH_XMM = 1 << 3,   /* legacy SSE checks (CR4.OSFXSR) */
    X86_TH_MMX = 1 << 4,   /* names an MMX register: #MF check, switches the x87 stack to MMX */
    X86_TH_MXCSR = 1 << 5, /* can raise SIMD floating-point exceptions */
};

struct x86_thunk {
    void (*code)(struct x86_cpu *c, void *mem);
    uint8_t flags;   /* X86_TH_* */
    uint8_t size;    /* bytes of the memory operand */
    uint8_t ac;      /* alignment #AC asks for, 1 if none */
    uint8_t align;   /* alignment #GP asks for, 1 if none */
    uint8_t key[20]; /* normalised encoding */
    uint16_t next;   /* hash chain, index + 1 */
    uint16_t insn_off; /* offset of the guest's instruction from code */
};

#define X86_THUNK_MAX 8192u
#define X86_THUNK_HASH 4096u

struct x86_thunks {
    _Alignas(64) uint8_t bounce[64]; /* for memory operands that are not plain RAM in one page */
    uint8_t *rw, *rx;
    uint32_t used;
    uint32_t gen, n;
    bool fcs_deprecated; /* CPUID.7.EBX[13]: FCS and FDS are stored as zero */
    bool hides_pointers; /* FXSAVE stores FOP, FIP and FDP as zero while no unmasked exception is pending (AMD) */
    uint32_t mxcsr_mask;
    uint16_t hash[X86_THUNK_HASH];
    struct x86_thunk t[X86_THUNK_MAX];
};

/* The slow path of x86_thunk: find or make. NULL when there is no memory for code, or the instruction is none that a thunk can run. */
const struct x86_thunk *x86_thunk_make(struct x86_cpu *c, const struct x86_insn *in);

static inline const struct x86_thunk *x86_thunk(struct x86_cpu *c, const struct x86_insn *in)
{
    struct x86_thunks *ts = c->thunks;

    if (__builtin_expect(ts && (uint32_t)(in->thunk >> 32) == ts->gen, 1))
        return &ts->t[(uint32_t)in->thunk];
    return x86_thunk_make(c, in);
}

#endif
