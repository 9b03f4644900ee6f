/*
 * Handlers that leave the fast path: TLB misses, instructions without a handler
 * of their own, and the interrupt flag.
 */
#include "engine/interp/interp.h"

#define SP (X86_RSP * 8)

/* Leave the block after an executor's result; cpu->rip is at the instruction, of len bytes. */
static __attribute__((noinline)) const struct uop *leave(struct x86_cpu *c, const struct uop *u, int r, unsigned len)
{
    struct vcpu *v = vcpu_of(c);

    v->insns += u->idx;
    switch (r) {
    case X86_UNDEF:
        x86_raise(c, X86_UD);
        /* fall through */
    case X86_FAULT:
        interp_deliver(c);
        return NULL;
    case X86_OK:
    case X86_EXIT:
        c->rip += len;
        if (c->mode != X86_MODE_64)
            c->rip = (uint32_t)c->rip;
        /* fall through */
    case X86_BRANCH:
        v->insns++;
        break;
    case X86_REPEAT: /* as in step_one */
        c->fl_sys |= X86_FL_RF;
        break;
    }
    if (UNLIKELY(c->pending_dbg) && x86_debug_after(c, false))
        interp_deliver(c);
    return NULL;
}

static inline bool disturbed(const struct x86_cpu *c)
{
    return UNLIKELY(c->pending_dbg | vcpu_requests((const struct vcpu *)c));
}

UOP(interp_generic)
{
    if (u->pg)
        x86_count_sensitive(c, u->pg, c->rip + u->off, u->in->op);
    c->rip += u->off;
    const int r = u->exec(c, u->in);

    if (UNLIKELY(r != X86_OK) || disturbed(c))
        return leave(c, u, r, u->len);
    c->rip -= u->off;
    NEXT;
}

const struct uop *interp_insn(struct x86_cpu *c, const struct uop *u)
{
    const x86_exec_fn fn = interp_vm_of(c)->exec[u->in->op];

    c->rip += u->off;
    const int r = fn ? fn(c, u->in) : X86_UNDEF;

    if (UNLIKELY(r != X86_OK) || disturbed(c))
        return leave(c, u, r, u->len);
    c->rip -= u->off;
    return u + 1;
}

/* The instruction may have changed anything: back to the dispatcher. */
UOP(interp_generic_end)
{
    if (u->pg)
        x86_count_sensitive(c, u->pg, c->rip + u->off, u->in->op);
    c->rip += u->off;
    return leave(c, u, u->exec(c, u->in), u->len);
}

/* Decode the instruction of this uop again and execute it the exact way. */
UOP(interp_redo)
{
    bool sensitive = false;
    struct x86_insn in;
    int r;

    c->rip += u->off;
    in.len = u->len;
    r = interp_fetch(c, &in);
    if (!r) {
        const x86_exec_fn fn = interp_vm_of(c)->exec[in.op];

        sensitive = x86_isa[in.row].pg;
        if (sensitive)
            x86_count_sensitive(c, x86_isa[in.row].pg, c->rip, in.op);
        r = fn ? fn(c, &in) : X86_UNDEF;
    }
    /* POPF comes here when an interrupt waits for IF, or for TF and AC. */
    if (r != X86_OK || disturbed(c) || c->inhibit_irq || in.op == X86_OP_POPF || in.len != u->len)
        return leave(c, u, r, in.len);
    c->rip -= u->off;
    return u + 1;
}

const struct uop *interp_miss(struct x86_cpu *c, const struct uop *u, uint64_t lin, unsigned how)
{
    const unsigned size = how >> 8;
    void *host;

    /* NO_LIN comes here too. */
    if ((lin & 0xfff) + size > 0x1000 || !x86_canonical(lin))
        return interp_redo(c, u);
    /* An instruction with two operands in memory whose pages share a TLB entry would miss for ever: the second miss
     * in a row by one uop goes to the generic executor. */
    struct interp *it = interp_of(c);
    if (it->missed == u) {
        it->missed = NULL;
        return interp_redo(c, u);
    }
    it->missed = u;
    c->rip += u->off;
    if (x86_lin_host(c, lin, (int)(how & 0xff), &host))
        return leave(c, u, X86_FAULT, 0);
    c->rip -= u->off;
    if (!host)
        return interp_redo(c, u);
    return u; /* now it hits */
}

/* --- the interrupt flag ------------------------------------------------------ */

static inline bool may_change_if(const struct x86_cpu *c) { return c->cpl <= (c->fl_sys >> 12 & 3); }

UOP(interp_cli)
{
    if (UNLIKELY(!may_change_if(c)))
        return interp_redo(c, u);
    x86_count_sensitive(c, u->pg, c->rip + u->off, X86_OP_CLI);
    c->fl_sys &= ~(uint32_t)X86_FL_IF;
    NEXT;
}

/* Never the last of its block, so the next instruction runs before requests are looked at: that is the interrupt
 * shadow. With an interrupt held back by IF, the dispatcher must see the window right behind the shadow. */
UOP(interp_sti)
{
    const struct vcpu *v = vcpu_of(c);

    if (UNLIKELY(!may_change_if(c) || v->irq_waiting || vcpu_requests(v)))
        return interp_redo(c, u);
    x86_count_sensitive(c, u->pg, c->rip + u->off, X86_OP_STI);
    c->fl_sys |= X86_FL_IF;
    NEXT;
}

/* PUSHF and POPF where neither IOPL nor virtual-8086 mode matter and only ordinary bits change. */
#define TRUNC8(x) (x)
#define TRUNC4(x) ((uint64_t)(uint32_t)(x))
#define FLAGS_T(s, T)                                                                                                  \
    static UOP(pushf##s)                                                                                               \
    {                                                                                                                  \
        const uint64_t sp = TRUNC##s(R64(SP) - s);                                                                     \
        PLACE(T, p, sp);                                                                                               \
        *p = (T)(x86_get_rflags(c) & ~(uint64_t)(X86_FL_RF | X86_FL_VM));                                              \
        R64(SP) = sp;                                                                                                  \
        x86_count_sensitive(c, u->pg, c->rip + u->off, X86_OP_PUSHF);                                                  \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(popf##s)                                                                                                \
    {                                                                                                                  \
        const uint32_t easy = X86_FL_IF | X86_FL_DF;                                                                   \
        const uint64_t sp = TRUNC##s(R64(SP));                                                                         \
        LOAD(T, x, sp);                                                                                                \
        const uint32_t diff = ((uint32_t)x ^ c->fl_sys) & 0x3f7700u;                                                   \
        if (UNLIKELY(diff & ~easy) || UNLIKELY((diff & X86_FL_IF) && !may_change_if(c)))                               \
            return interp_redo(c, u);                                                                                  \
        const struct vcpu *v = vcpu_of(c);                                                                             \
        if (UNLIKELY((diff & X86_FL_IF) && (v->irq_waiting || vcpu_requests(v))))                                      \
            return interp_redo(c, u);                                                                                  \
        R64(SP) = TRUNC##s(sp + s);                                                                                    \
        c->fl_sys ^= diff;                                                                                             \
        c->cc_lo = (uint8_t)x & 0xd5;                                                                                  \
        c->cc_of = x >> 11 & 1;                                                                                        \
        x86_count_sensitive(c, u->pg, c->rip + u->off, X86_OP_POPF);                                                   \
        NEXT;                                                                                                          \
    }
FLAGS_T(8, x86_u64)
FLAGS_T(4, x86_u32)
const uop_fn interp_pushf[2] = {pushf8, pushf4}, interp_popf[2] = {popf8, popf4};
