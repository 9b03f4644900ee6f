/* Executors that live outside x86/exec_sys.c but belong to its table. Internal to x86/. */
#ifndef X86_EXEC_SYS_H
#define X86_EXEC_SYS_H

#include "x86/exec.h"

int x86_do_in(struct x86_cpu *c, const struct x86_insn *in);
int x86_do_out(struct x86_cpu *c, const struct x86_insn *in);
int x86_do_ins(struct x86_cpu *c, const struct x86_insn *in);
int x86_do_outs(struct x86_cpu *c, const struct x86_insn *in);

#endif
