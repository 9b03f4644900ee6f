/*
 * Executing one decoded instruction on the canonical state, and the operand
 * helpers every implementation shares.
 *
 * An executor is called with cpu->rip at the instruction itself (the next one is
 * cpu->rip + in->len, truncated to the code size) and returns enum x86_result. It raises every
 * exception the SDM lists for it except those the decoder found (#UD of the
 * encoding, length #GP) and code fetch. Privilege checks are its own business.
 */
#ifndef X86_EXEC_H
#define X86_EXEC_H

#include "x86/cpu.h"
#include "x86/mmu.h"

typedef int (*x86_exec_fn)(struct x86_cpu *c, const struct x86_insn *in);

struct x86_exec_entry {
    uint16_t op; /* enum x86_op */
    x86_exec_fn fn;
};

/* Implementations by subject, each ended by {0, NULL}. The interpreter merges them into one table indexed by op. */
extern const struct x86_exec_entry x86_exec_sys[];    /* control/debug registers, MSR, descriptor-table and cache instructions, I/O, CPUID, time */
extern const struct x86_exec_entry x86_exec_far[];    /* segment loads, far transfers, INT/IRET, SYSCALL/SYSENTER, flags, protection checks */
extern const struct x86_exec_entry x86_exec_fpu[];    /* x87, MMX, SSE.., AVX.., XSAVE family, crypto: run on the host CPU */
extern const struct x86_exec_entry x86_exec_int[];    /* general-purpose integer instructions, generic (not specialised) form */

/* --- x87, vector state (x86/fpu.c) ------------------------------------- */
/* Make / free the vCPU's cache of host code (c->thunks). 0, or -1 when out of memory. Idempotent. */
int x86_fpu_init(struct x86_cpu *c);
void x86_fpu_fini(struct x86_cpu *c);
/* State after power-up (SDM Vol. 3A, table 9-1: FNINIT differs): all x87, MMX, XMM, YMM and MXCSR. */
void x86_fpu_reset(struct x86_cpu *c);
/* XINUSE as XGETBV with ECX = 1 returns it, before masking with XCR0 (SDM Vol. 1, 13.6). */
uint64_t x86_xinuse(const struct x86_cpu *c);

/* --- addressing ------------------------------------------------------- */

/* Offset part of insn.mem, truncated to the address size. */
uint64_t x86_ea(const struct x86_cpu *c, const struct x86_insn *in);

/* Segmentation: offset -> linear for an access of len bytes: limit, type, null, canonical checks.
 * Raises #GP(0), or #SS(0) for SS. Includes #AC when CR0.AM, RFLAGS.AC and CPL 3 ask for it and align > 1
 * (pass align = 1 for accesses that are never checked). In 64-bit mode only FS/GS bases count. */
int x86_seg_lin(struct x86_cpu *c, unsigned seg, uint64_t off, uint32_t len, int access, uint32_t align, uint64_t *lin);

/* The memory operand of an instruction, with all checks; natural alignment for #AC when len is 2, 4 or 8. */
int x86_mem_read(struct x86_cpu *c, const struct x86_insn *in, void *buf, uint32_t len);
int x86_mem_write(struct x86_cpu *c, const struct x86_insn *in, const void *buf, uint32_t len);
int x86_mem_lin(struct x86_cpu *c, const struct x86_insn *in, uint32_t len, int access, uint64_t *lin);

/* Operand i of any integer kind, zero-extended to 64 bits. Writing a 32-bit GPR clears the upper half;
 * 8- and 16-bit writes merge. */
int x86_opnd_read(struct x86_cpu *c, const struct x86_insn *in, unsigned i, uint64_t *val);
int x86_opnd_write(struct x86_cpu *c, const struct x86_insn *in, unsigned i, uint64_t val);

static inline uint64_t x86_reg_read(const struct x86_cpu *c, unsigned reg, unsigned size)
{
    uint64_t v = c->gpr[reg];
    return size == 8 ? v : size == 4 ? (uint32_t)v : size == 2 ? (uint16_t)v : (uint8_t)v;
}
static inline void x86_reg_write(struct x86_cpu *c, unsigned reg, unsigned size, uint64_t v)
{
    uint64_t *p = &c->gpr[reg];
    *p = size == 8 ? v : size == 4 ? (uint32_t)v : size == 2 ? (*p & ~0xffffull) | (uint16_t)v : (*p & ~0xffull) | (uint8_t)v;
}

/* --- stack, by SS.B / 64-bit width; the pointer moves only when the access succeeded --------- */
int x86_push(struct x86_cpu *c, unsigned size, uint64_t val);
int x86_pop(struct x86_cpu *c, unsigned size, uint64_t *val);

/* RIP of the next instruction, truncated to the code size (32 bits in 16-bit code too: the limit check decides). */
static inline uint64_t x86_next_rip(const struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t r = c->rip + in->len;
    return c->mode == X86_MODE_64 ? r : (uint32_t)r;
}

/* --- state changes shared by engines ---------------------------------- */

/* Power-up or INIT state (SDM Vol. 3A, table 9-1). init: INIT rather than power-up (keeps FPU, MSRs that INIT keeps). */
void x86_reset(struct x86_cpu *c, bool init);
/* SIPI: start at vector << 12 in real mode. */
void x86_sipi(struct x86_cpu *c, uint8_t vector);

/* Deliver c->exc through the IDT: privilege and stack changes, IST, task gates, error code; nested faults become #DF or shutdown
 * (SDM Vol. 3A, 6.15). On return X86_OK: RIP at the handler; X86_FAULT: triple fault, activity = X86_SHUTDOWN. */
int x86_deliver(struct x86_cpu *c);
/* Deliver an external interrupt / NMI at an instruction boundary (clears halt and shadow). Same results. */
int x86_interrupt(struct x86_cpu *c, uint8_t vector);
int x86_nmi(struct x86_cpu *c);
/* May a maskable interrupt / NMI be delivered now (IF, shadow, blocking)? */
static inline bool x86_irq_allowed(const struct x86_cpu *c) { return (c->fl_sys & X86_FL_IF) && !c->inhibit_irq; }
static inline bool x86_nmi_allowed(const struct x86_cpu *c) { return !c->nmi_blocked && c->inhibit_irq != 2; }

/* After every instruction when c->pending_dbg, TF or an armed breakpoint is in force: raises #DB (trap). X86_OK if nothing.
 * tf_before: TF was set when the instruction began; with IA32_DEBUGCTL.BTF, pass true only if it was also a taken branch
 * or delivered an interrupt (SDM Vol. 3B, 17.4.3). */
int x86_debug_after(struct x86_cpu *c, bool tf_before);
/* Before an instruction: code breakpoint match (fault-type #DB unless RF). */
int x86_debug_before(struct x86_cpu *c);
/* Data and I/O breakpoints (DR7): record a match in c->pending_dbg. Cheap when DR7 is clear. */
void x86_debug_data(struct x86_cpu *c, uint64_t lin, uint32_t len, bool write);
void x86_debug_io(struct x86_cpu *c, uint16_t port, uint32_t len);

/* Register writes with architectural checks and side effects (TLB flush, mode change); X86_OK or X86_FAULT (#GP). */
int x86_set_cr0(struct x86_cpu *c, uint64_t val);
int x86_set_cr3(struct x86_cpu *c, uint64_t val);
int x86_set_cr4(struct x86_cpu *c, uint64_t val);
int x86_set_efer(struct x86_cpu *c, uint64_t val);
/* The time-stamp counter as RDTSC reads it. */
static inline uint64_t x86_tsc(const struct x86_cpu *c) { return c->ops->tsc(c->env) + c->tsc_offset; }
int x86_rdmsr(struct x86_cpu *c, uint32_t msr, uint64_t *val);
int x86_wrmsr(struct x86_cpu *c, uint32_t msr, uint64_t val);
/* Recompute the cached cpl, mode and TLB context from segments and control registers (after wholesale state changes). */
void x86_recompute(struct x86_cpu *c);
/* Load RFLAGS as POPF/IRET at the current privilege would leave it is the executor's business; this only keeps mmu.cur right after AC changes. */
static inline void x86_flags_changed(struct x86_cpu *c) { x86_mmu_update_ctx(c); }

#endif
