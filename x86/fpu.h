/*
 * What the x87, vector and state-save executors share (x86/fpu*.c, x86/simd*.c).
 */
#ifndef X86_FPU_H
#define X86_FPU_H

#include "x86/decode.h"
#include "x86/exec.h"
#include "x86/thunk.h"

#define X86_XCR0_X87 1u
#define X86_XCR0_SSE 2u
#define X86_XCR0_AVX 4u

/* x87 status: exception flags, summary and busy. */
#define X86_FSW_ES 0x0080u
#define X86_FSW_B 0x8000u

int x86_exec_x87(struct x86_cpu *c, const struct x86_insn *in);      /* everything that computes */
int x86_exec_x87_ctl(struct x86_cpu *c, const struct x86_insn *in);  /* control and environment, FWAIT */
int x86_exec_simd(struct x86_cpu *c, const struct x86_insn *in);     /* MMX and vectors, through a thunk */
int x86_exec_simd_mem(struct x86_cpu *c, const struct x86_insn *in); /* masked moves and gathers, EMMS, VZEROUPPER, MXCSR */
int x86_exec_fxstate(struct x86_cpu *c, const struct x86_insn *in);  /* FXSAVE, FXRSTOR and the XSAVE family */

/* Is an unmasked x87 exception pending? Then FSW.ES and B are set. */
static inline bool x86_fpu_pending(const struct x86_fpu *f) { return f->fsw & ~f->fcw & 0x3f; }

/* Recompute ES and B after FCW or FSW changed. */
static inline void x86_fpu_summary(struct x86_fpu *f)
{
    f->fsw &= (uint16_t)~(X86_FSW_ES | X86_FSW_B);
    if (x86_fpu_pending(f))
        f->fsw |= X86_FSW_ES | X86_FSW_B;
}

/* A waiting instruction meets a pending exception: #MF, or FERR# when CR0.NE = 0. */
int x86_fpu_wait(struct x86_cpu *c);

/* Make TOP new_top without moving the physical registers (st[] is kept relative to TOP). */
void x86_fpu_rotate(struct x86_fpu *f, unsigned new_top);

void x86_fpu_fninit(struct x86_fpu *f);

/* Linear address of the memory operand with segmentation checks, #GP for `align` and #AC for `ac`. */
int x86_fpu_lin(struct x86_cpu *c, const struct x86_insn *in, uint32_t size, int access, uint32_t ac, uint32_t align, uint64_t *lin);

/* Checks of a VEX vector instruction and of a legacy SSE one. */
static inline int x86_check_avx(struct x86_cpu *c)
{
    if (__builtin_expect(!(c->cr4 & X86_CR4_OSXSAVE) || (c->xcr0 & 6) != 6 || !x86_pe(c) || x86_v86(c), 0))
        return x86_raise(c, X86_UD);
    return __builtin_expect(c->cr0 & X86_CR0_TS, 0) ? x86_raise(c, X86_NM) : X86_OK;
}
static inline int x86_check_sse(struct x86_cpu *c)
{
    if (__builtin_expect((c->cr0 & X86_CR0_EM) || !(c->cr4 & X86_CR4_OSFXSR), 0))
        return x86_raise(c, X86_UD);
    return __builtin_expect(c->cr0 & X86_CR0_TS, 0) ? x86_raise(c, X86_NM) : X86_OK;
}

#endif
