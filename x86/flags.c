/*
 * Instructions on RFLAGS, with the privilege rules of IOPL and of the virtual
 * interrupt flag (SDM Vol. 3B, 20.3-20.4).
 */
#include "x86/far.h"
#include "x86/seg.h"

static bool iopl_below(const struct x86_cpu *c) { return c->cpl > ((c->fl_sys >> 12) & 3); }

int x86_pushf(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t fl = x86_get_rflags(c) & ~(uint64_t)(X86_FL_RF | X86_FL_VM);

    if (__builtin_expect(x86_v86(c), 0) && iopl_below(c)) {
        if (!(c->cr4 & X86_CR4_VME) || in->stacksize != 2)
            return x86_raise_err(c, X86_GP, 0);
        fl = (fl & ~(uint64_t)X86_FL_IF) | X86_FL_IOPL | (fl & X86_FL_VIF ? X86_FL_IF : 0);
    }
    return x86_push(c, in->stacksize, fl);
}

int x86_popf(struct x86_cpu *c, const struct x86_insn *in)
{
    uint32_t mask = X86_FL_POP16, old = c->fl_sys;
    uint64_t sp = c->gpr[X86_RSP], v;
    bool vme = false;
    int r;

    if (__builtin_expect(x86_v86(c), 0) && iopl_below(c)) {
        if (!(c->cr4 & X86_CR4_VME) || in->stacksize != 2)
            return x86_raise_err(c, X86_GP, 0);
        vme = true;
    }
    if ((r = x86_pop(c, in->stacksize, &v)))
        return r;
    if (vme) {
        if (((old & X86_FL_VIP) && (v & X86_FL_IF)) || (v & X86_FL_TF)) {
            c->gpr[X86_RSP] = sp;
            return x86_raise_err(c, X86_GP, 0);
        }
        v = (v & 0xffff) | (v & X86_FL_IF ? X86_FL_VIF : 0);
        x86_merge_flags(c, v, mask | X86_FL_VIF);
        c->fl_sys &= ~(uint32_t)X86_FL_RF;
        return X86_OK;
    }
    if (in->stacksize != 2) {
        mask |= X86_FL_POP32 | X86_FL_RF;
        v &= ~(uint64_t)X86_FL_RF;
    }
    if (!iopl_below(c))
        mask |= X86_FL_IF;
    if (c->cpl == 0)
        mask |= X86_FL_IOPL;
    x86_merge_flags(c, v, mask);
    if ((old ^ c->fl_sys) & X86_FL_AC)
        x86_flags_changed(c);
    return X86_OK;
}

/* CLI and STI act on IF, on VIF, or fault. Gives the flag, 0 for #GP. */
static uint32_t interrupt_flag(const struct x86_cpu *c)
{
    if (__builtin_expect(!iopl_below(c), 1))
        return X86_FL_IF;
    if (c->cpl == 3 && (c->cr4 & (x86_v86(c) ? X86_CR4_VME : X86_CR4_PVI)))
        return X86_FL_VIF;
    return 0;
}

int x86_cli(struct x86_cpu *c, const struct x86_insn *in)
{
    uint32_t f = interrupt_flag(c);

    if (!f)
        return x86_raise_err(c, X86_GP, 0);
    c->fl_sys &= ~f;
    return X86_OK;
}

int x86_sti(struct x86_cpu *c, const struct x86_insn *in)
{
    uint32_t f = interrupt_flag(c);

    if (!f || (f == X86_FL_VIF && (c->fl_sys & X86_FL_VIP)))
        return x86_raise_err(c, X86_GP, 0);
    if (f == X86_FL_IF && !(c->fl_sys & X86_FL_IF) && !c->inhibit_irq)
        c->inhibit_irq = 1;
    c->fl_sys |= f;
    return X86_OK;
}

static int set_ac(struct x86_cpu *c, uint32_t ac)
{
    if (c->cpl)
        return x86_raise(c, X86_UD);
    c->fl_sys = (c->fl_sys & ~(uint32_t)X86_FL_AC) | ac;
    x86_flags_changed(c);
    return X86_OK;
}

int x86_stac(struct x86_cpu *c, const struct x86_insn *in) { return set_ac(c, X86_FL_AC); }
int x86_clac(struct x86_cpu *c, const struct x86_insn *in) { return set_ac(c, 0); }

/* CLC, STC, CMC: opcodes F8, F9, F5 */
int x86_carry(struct x86_cpu *c, const struct x86_insn *in)
{
    c->cc_lo = in->opcode == 0xf5 ? c->cc_lo ^ X86_FL_CF : (uint8_t)((c->cc_lo & ~X86_FL_CF) | (in->opcode & 1));
    return X86_OK;
}

/* CLD, STD: FC, FD */
int x86_direction(struct x86_cpu *c, const struct x86_insn *in)
{
    c->fl_sys = (c->fl_sys & ~(uint32_t)X86_FL_DF) | (in->opcode & 1 ? X86_FL_DF : 0);
    return X86_OK;
}

int x86_lahf(struct x86_cpu *c, const struct x86_insn *in)
{
    c->gpr[X86_RAX] = (c->gpr[X86_RAX] & ~0xff00ull) | (uint64_t)(c->cc_lo | X86_FL_1) << 8;
    return X86_OK;
}

int x86_sahf(struct x86_cpu *c, const struct x86_insn *in)
{
    c->cc_lo = (c->gpr[X86_RAX] >> 8) & 0xd5;
    return X86_OK;
}
