/*
 * Integer executors: near branches.
 */
#include "x86/exec_int.h"

int x86_near_check(struct x86_cpu *c, const struct x86_insn *in, uint64_t *target)
{
    if (c->mode == X86_MODE_64) {
        if (!x86_canonical(*target))
            return x86_raise_err(c, X86_GP, 0);
        return X86_OK;
    }
    *target = in->opsize == 2 ? (uint16_t)*target : (uint32_t)*target;
    if (*target > c->seg[X86_CS].limit)
        return x86_raise_err(c, X86_GP, 0);
    return X86_OK;
}

static int jump_rel(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t t = x86_next_rip(c, in) + (uint64_t)in->imm;
    int r = x86_near_check(c, in, &t);

    if (r)
        return r;
    c->rip = t;
    return X86_BRANCH;
}

EXEC(jcc) { return x86_cond(c, in->opcode & 15) ? jump_rel(c, in) : X86_OK; }

/* Target of JMP and CALL: relative, or the register or memory operand. */
static int target(struct x86_cpu *c, const struct x86_insn *in, uint64_t *t)
{
    const unsigned i = x86_explicit(in, 0);
    int r = X86_OK;

    if (in->opnd[i].kind == X86_OPND_REL)
        *t = x86_next_rip(c, in) + (uint64_t)in->imm;
    else
        r = x86_opnd_read(c, in, i, t);
    return r ? r : x86_near_check(c, in, t);
}

EXEC(jmp)
{
    uint64_t t;
    int r = target(c, in, &t);

    if (r)
        return r;
    c->rip = t;
    return X86_BRANCH;
}

EXEC(call)
{
    uint64_t t;
    int r = target(c, in, &t);

    if (r || (r = x86_push(c, in->stacksize, x86_next_rip(c, in))))
        return r;
    c->rip = t;
    return X86_BRANCH;
}

EXEC(ret)
{
    const uint64_t sp = c->gpr[X86_RSP];
    uint64_t t;
    int r = x86_pop(c, in->stacksize, &t);

    if (r)
        return r;
    if ((r = x86_near_check(c, in, &t))) {
        c->gpr[X86_RSP] = sp;
        return r;
    }
    if (in->opnd[x86_explicit(in, 0)].kind == X86_OPND_IMM) {
        const unsigned w = c->mode == X86_MODE_64 ? 8 : c->seg[X86_SS].ar & X86_AR_DB ? 4 : 2;

        x86_reg_write(c, X86_RSP, w, c->gpr[X86_RSP] + (uint16_t)in->imm);
    }
    c->rip = t;
    return X86_BRANCH;
}

static int loop_if(struct x86_cpu *c, const struct x86_insn *in, bool cond)
{
    const uint64_t n = x86_reg_read(c, X86_RCX, in->addrsize) - 1;
    const bool zero = in->addrsize == 8 ? !n : in->addrsize == 4 ? !(uint32_t)n : !(uint16_t)n;
    int r = X86_OK;

    if (cond && !zero && (r = jump_rel(c, in)) == X86_FAULT)
        return r; /* the counter keeps its value */
    x86_reg_write(c, X86_RCX, in->addrsize, n);
    return r;
}
EXEC(loop)
{
    switch (in->op) {
    case X86_OP_LOOPE: return loop_if(c, in, c->cc_lo & X86_FL_ZF);
    case X86_OP_LOOPNE: return loop_if(c, in, !(c->cc_lo & X86_FL_ZF));
    default: return loop_if(c, in, true);
    }
}

EXEC(jcxz) { return x86_reg_read(c, X86_RCX, in->addrsize) ? X86_OK : jump_rel(c, in); }
