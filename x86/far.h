/* Far transfers (x86/far.c), as x86_exec_far[] lists them. */
#ifndef X86_FAR_H
#define X86_FAR_H

#include "x86/seg.h"

int x86_jmp_far(struct x86_cpu *c, const struct x86_insn *in);
int x86_call_far(struct x86_cpu *c, const struct x86_insn *in);
int x86_ret_far(struct x86_cpu *c, const struct x86_insn *in);
int x86_iret(struct x86_cpu *c, const struct x86_insn *in);
int x86_syscall(struct x86_cpu *c, const struct x86_insn *in);
int x86_sysret(struct x86_cpu *c, const struct x86_insn *in);
int x86_sysenter(struct x86_cpu *c, const struct x86_insn *in);
int x86_sysexit(struct x86_cpu *c, const struct x86_insn *in);

/* Flag instructions (x86/flags.c). */
int x86_pushf(struct x86_cpu *c, const struct x86_insn *in);
int x86_popf(struct x86_cpu *c, const struct x86_insn *in);
int x86_cli(struct x86_cpu *c, const struct x86_insn *in);
int x86_sti(struct x86_cpu *c, const struct x86_insn *in);
int x86_stac(struct x86_cpu *c, const struct x86_insn *in);
int x86_clac(struct x86_cpu *c, const struct x86_insn *in);
int x86_carry(struct x86_cpu *c, const struct x86_insn *in);
int x86_direction(struct x86_cpu *c, const struct x86_insn *in);
int x86_lahf(struct x86_cpu *c, const struct x86_insn *in);
int x86_sahf(struct x86_cpu *c, const struct x86_insn *in);

/* Replace the flags in mask by those of v. */
static inline void x86_merge_flags(struct x86_cpu *c, uint64_t v, uint32_t mask)
{
    x86_set_rflags(c, (x86_get_rflags(c) & ~(uint64_t)mask) | (v & mask));
}
/* Flags that POPF and IRET load at any privilege: 16-bit part, and what a 32-bit image adds. */
#define X86_FL_POP16 (X86_FL_ARITH | X86_FL_TF | X86_FL_DF | X86_FL_NT)
#define X86_FL_POP32 (X86_FL_AC | X86_FL_ID)

/* A memory operand with an alignment of its own (far pointers, bounds). */
static inline int x86_read_aligned(struct x86_cpu *c, const struct x86_insn *in, void *buf, unsigned len, unsigned align)
{
    uint64_t lin;
    int r = x86_seg_lin(c, in->mem.seg, x86_ea(c, in), len, X86_READ, align, &lin);

    return r ? r : x86_lin_read(c, lin, buf, len);
}

#endif
