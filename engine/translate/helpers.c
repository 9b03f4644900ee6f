/*
 * What translated code calls. The canonical state is complete, except that cpu->rip
 * is that of the page and vcpu->insns lacks the block's instructions so far. Whoever returns XL_LEAVE or code
 * of another block has made both exact.
 */
#include "engine/translate/translate.h"

_Static_assert(TR_TLB_SIZE == X86_TLB_SIZE, "slots are those of the software TLB");

/* On to cpu->rip, of whatever block. */
static inline uintptr_t next(struct vcpu *v)
{
    const uintptr_t code = tr_next(translate_of(v));

    return code ? code : XL_LEAVE;
}

static __attribute__((noinline)) uintptr_t leave(struct vcpu *v, const struct tr_site *s, int r, unsigned len)
{
    struct x86_cpu *c = &v->cpu;

    v->insns += s->idx;
    switch (r) {
    case X86_UNDEF:
        x86_raise(c, X86_UD);
        /* fall through */
    case X86_FAULT:
        interp_deliver(c);
        return next(v);
    case X86_OK:
    case X86_EXIT:
        c->rip += len;
        /* fall through */
    case X86_BRANCH:
        v->insns++;
        break;
    case X86_REPEAT: /* what arrives between iterations pushes RF */
        c->fl_sys |= X86_FL_RF;
        break;
    }
    /* The TF that SYSRET loads decides at once (SDM Vol. 2B, SYSRET). */
    const bool tf = s->op == X86_OP_SYSRET && r == X86_BRANCH && (c->fl_sys & X86_FL_TF);

    if (UNLIKELY(tf || c->pending_dbg) && x86_debug_after(c, tf))
        interp_deliver(c);
    return next(v);
}

static inline bool disturbed(const struct vcpu *v) { return UNLIKELY(v->cpu.pending_dbg | vcpu_requests(v)); }

static inline uintptr_t finish(struct vcpu *v, const struct tr_site *s)
{
    struct translate *x = translate_of(v);

    if (UNLIKELY(x->version != v->cpu.mmu.version))
        tr_sync(x);
    if (UNLIKELY(x->cr3 != v->cpu.cr3))
        tr_see_space(x);
    v->cpu.rip -= s->off;
    return XL_ON;
}

static inline int execute(struct vcpu *v, struct tr_site *s)
{
    const struct tr_exec *e = (const void *)s;
    struct x86_cpu *c = &v->cpu;

    translate_of(v)->st.calls++;
    translate_of(v)->st.by_op[s->op]++;
    x86_count_trap(c, s->pg, c->rip + s->off, s->op);
    c->rip += s->off;
    return e->exec(c, &e->in);
}

uintptr_t xl_exec(struct vcpu *v, struct tr_site *s)
{
    const int r = execute(v, s);

    if (UNLIKELY(r != X86_OK) || disturbed(v))
        return leave(v, s, r, s->len);
    return finish(v, s);
}

uintptr_t xl_exec_end(struct vcpu *v, struct tr_site *s) { return leave(v, s, execute(v, s), s->len); }

/* Start the instruction anew; go on behind it. */
static inline uintptr_t retry(const struct translate *x, const struct tr_site *s) { return (uintptr_t)(x->rx + s->at); }
static inline uintptr_t behind(const struct translate *x, const struct tr_site *s) { return retry(x, s) + s->next; }

/* The TLB changed, and with it what the block may have looked up ahead. */
static inline bool windows_shut(struct vcpu *v) { return UNLIKELY(translate_of(v)->version != v->cpu.mmu.version); }

/* Fetch the site's instruction again and execute it the exact way. */
static uintptr_t redo(struct vcpu *v, struct tr_site *s)
{
    struct x86_cpu *c = &v->cpu;

    translate_of(v)->st.redone++;
    c->rip += s->off;

    const struct x86_insn *in = interp_fetch_known(translate_of(v)->it);

    if (UNLIKELY(!in))
        return leave(v, s, X86_FAULT, 0);

    const x86_exec_fn fn = interp_vm_of(c)->exec[in->op];
    const unsigned len = in->len;
    const bool popf = in->op == X86_OP_POPF; /* when an interrupt waits for IF, or for TF and AC */

    x86_count_trap(c, x86_isa[in->row].pg, c->rip, in->op);

    const int r = fn ? fn(c, in) : X86_UNDEF;

    if (r != X86_OK || disturbed(v) || c->inhibit_irq || popf || len != s->len || windows_shut(v))
        return leave(v, s, r, len);
    finish(v, s);
    return behind(translate_of(v), s);
}

/* An access is allowed and cpu->rip that of the page: enter it in the room's table. False: it cannot be done inline. */
static bool fill(struct translate *x, uint64_t lin, bool write)
{
    const struct x86_mmu *m = &x->v->cpu.mmu;
    const unsigned ctx = (unsigned)(m->cur - m->tlb[0]) / X86_TLB_SIZE, slot = lin >> 12 & (TR_TLB_SIZE - 1);
    const struct x86_tlb_entry *e = &m->cur[slot];
    const uint64_t page = lin & ~0xfffull, tag = page | m->gen;

    if ((write ? e->tag_w : e->tag_r) != tag)
        return false;
    tr_tlb_put(x, ctx, page, e->tag_r == tag, e->tag_w == tag, e->addend, !(m->global[ctx][slot / 64] >> (slot % 64) & 1));
    return true;
}

/* To before the instruction: of another block, since what this one has looked up ahead is void. */
static uintptr_t anew(struct vcpu *v, const struct tr_site *s)
{
    v->insns += s->idx;
    v->cpu.rip += s->off;
    return next(v);
}

/* Must the executor do a string instruction of which an element at lin misses? */
static bool string_redo(const struct x86_cpu *c, const struct tr_site *s, uint64_t lin)
{
    const uint64_t si = c->gpr[X86_RSI] >> 12, di = c->gpr[X86_RDI] >> 12;

    if (s->rep && (lin & 0xfff) + c->gpr[X86_RCX] * s->rep > 0x1000)
        return true;
    return s->pair && si != di && ((si ^ di) & (TR_WAYS - 1)) == 0; /* filling for one may displace the other */
}

uintptr_t xl_miss(struct vcpu *v, struct tr_site *s)
{
    struct translate *x = translate_of(v);
    struct x86_cpu *c = &v->cpu;
    const uint64_t lin = x->room->lin;
    void *host;

    x->st.misses++;
    if (s->redo || (lin & 0xfff) + s->size > 0x1000 || !x86_canonical(lin) || ((s->rep | s->pair) && string_redo(c, s, lin)))
        return redo(v, s);
    c->rip += s->off;
    if (x86_lin_host(c, lin, s->access, &host)) {
        if (s->pg)
            x86_count_sensitive(c, s->pg, c->rip, s->op);
        return leave(v, s, X86_FAULT, 0);
    }
    c->rip -= s->off;
    if (windows_shut(v))
        return anew(v, s);
    if (!host || !fill(x, lin, s->access == X86_WRITE))
        return redo(v, s);
    return retry(x, s);
}

/* --- branches -------------------------------------------------------------------------- */

/* The jump table does not have the target. */
uintptr_t xl_goto(struct vcpu *v, struct tr_site *s)
{
    struct translate *x = translate_of(v);
    struct x86_cpu *c = &v->cpu;
    const uint64_t lin = x->room->lin;

    x->st.jumps++;
    if (UNLIKELY(!x86_canonical(lin)) && !s->redo) { /* the branch faults: back to before it */
        c->rip += s->off;
        c->gpr[X86_RSP] -= (uint64_t)(int64_t)(int8_t)s->size;
        v->insns--;
        interp_step_one(x->it);
    } else {
        c->rip = lin;
    }
    return next(v);
}

/* A branch to another page that is not linked, or not from here. */
uintptr_t xl_far(struct vcpu *v, struct tr_site *s)
{
    struct tr_far_exit *f = (void *)s;
    struct translate *x = translate_of(v);
    struct x86_cpu *c = &v->cpu;
    const uint64_t from = c->rip, lin = from + (uint64_t)(int64_t)f->to, flushed = x->st.flushed;

    x->st.links++;
    x->room->lin = lin;
    if (UNLIKELY(!x86_canonical(lin)))
        return xl_goto(v, s);
    c->rip = lin;
    if (!tr_ready(x))
        return XL_LEAVE;

    struct tr_found at;
    const uint8_t *code = tr_lookup(x, &at);

    if (!code) {
        x->turn = !x->it->again;
        return XL_LEAVE;
    }
    c->rip &= ~0xfffull;
    if (flushed == x->st.flushed && at.alone) {
        const struct tr_block *b = tr_block_at(x, s->block);

        if (!b->dead && ((b->key ^ x->key) & ~TR_PLAIN) == 0)
            tr_far_link(x, f, from, lin, code, at.gpa);
    }
    return (uintptr_t)code;
}

/* Go on at cpu->rip, in the page of the site's block. *hold: its jump there may be linked to the code. plain: TR_PLAIN or 0. */
static uintptr_t near(struct vcpu *v, const struct tr_site *s, uint8_t plain, bool *hold)
{
    struct translate *x = translate_of(v);
    struct x86_cpu *c = &v->cpu;
    const uint64_t flushed = x->st.flushed;

    *hold = false;
    if (vcpu_requests(v))
        return XL_LEAVE;

    x->key = (x->key & ~TR_CTX) | tr_ctx(c); /* STAC and CLAC have links, too */

    struct tr_found at;
    x->key |= plain;
    const uint8_t *code = tr_lookup(x, &at);

    x->key &= (uint8_t)~TR_PLAIN;
    if (!code) {
        x->turn = !x->it->again;
        return XL_LEAVE;
    }
    if (flushed == x->st.flushed) {
        const struct tr_block *b = tr_block_at(x, s->block);

        *hold = !b->dead && ((b->gpa ^ at.gpa) & ~0xfffull) == 0;
    }
    c->rip &= ~0xfffull;
    return (uintptr_t)code;
}

/* A link inside the page, not made yet. */
uintptr_t xl_chain(struct vcpu *v, struct tr_site *s)
{
    struct translate *x = translate_of(v);
    bool hold;

    x->st.links++;
    v->cpu.rip += s->off;

    const uintptr_t code = near(v, s, 0, &hold);

    if (hold)
        e_patch(x->rw + s->at, (const uint8_t *)code - (x->rx - x->rw));
    return code;
}

/* The lookup of a window fails: fill the entry and start the instruction anew, or go on without windows. */
uintptr_t xl_window(struct vcpu *v, struct tr_site *s)
{
    const struct tr_window *w = (const void *)s;
    struct translate *x = translate_of(v);
    struct x86_cpu *c = &v->cpu;
    const uint64_t lin = x->room->lin, own = lin + w->own;
    const bool ever = (own & 0xfff) + w->own_size > 0x1000 || !x86_canonical(own) || ((lin ^ (lin + s->size - 1)) & ~0xfffull);
    void *host;
    bool hold;

    x->st.misses++;
    c->rip += s->off;
    if (!ever) {
        if (x86_lin_host(c, own, s->access, &host))
            return leave(v, s, X86_FAULT, 0);
        c->rip -= s->off;
        if (windows_shut(v))
            return anew(v, s);
        if (host && fill(x, own, w->wide_write))
            return retry(x, s);
        c->rip += s->off;
    }
    v->insns += s->idx;

    const uintptr_t code = near(v, s, TR_PLAIN, &hold);

    if (hold && ever) /* it will often be so */
        tr_link_window(x, w, (const uint8_t *)code);
    return code;
}

/* --- the interrupt flag, as the interpreter does it (engine/interp/h_sys.c) ----------------- */

static inline bool may_change_if(const struct x86_cpu *c) { return c->cpl <= (c->fl_sys >> 12 & 3); }

uintptr_t xl_cli(struct vcpu *v, struct tr_site *s)
{
    struct x86_cpu *c = &v->cpu;

    if (UNLIKELY(!may_change_if(c)))
        return redo(v, s);
    x86_count_sensitive(c, s->pg, c->rip + s->off, X86_OP_CLI);
    c->fl_sys &= ~(uint32_t)X86_FL_IF;
    return XL_ON;
}

uintptr_t xl_sti(struct vcpu *v, struct tr_site *s)
{
    struct x86_cpu *c = &v->cpu;

    if (UNLIKELY(!may_change_if(c) || v->irq_waiting || vcpu_requests(v)))
        return redo(v, s);
    x86_count_sensitive(c, s->pg, c->rip + s->off, X86_OP_STI);
    c->fl_sys |= X86_FL_IF;
    return XL_ON;
}

uintptr_t xl_popf(struct vcpu *v, struct tr_site *s)
{
    const uint32_t easy = X86_FL_IF | X86_FL_DF;
    struct x86_cpu *c = &v->cpu;
    const uint64_t sp = c->gpr[X86_RSP], host = x86_tlb_host_r(c, sp, 8);

    if (UNLIKELY(!host))
        return redo(v, s);
    const uint64_t f = *(const x86_u64 *)(uintptr_t)host;
    const uint32_t diff = ((uint32_t)f ^ c->fl_sys) & 0x3f7700u;

    if (UNLIKELY(diff & ~easy) || UNLIKELY((diff & X86_FL_IF) && (!may_change_if(c) || v->irq_waiting || vcpu_requests(v))))
        return redo(v, s);
    c->gpr[X86_RSP] = sp + 8;
    c->fl_sys ^= diff;
    c->cc_lo = (uint8_t)f & 0xd5;
    c->cc_of = f >> 11 & 1;
    x86_count_sensitive(c, s->pg, c->rip + s->off, X86_OP_POPF);
    return XL_ON;
}
