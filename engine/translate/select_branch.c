/*
 * Branches: links inside the page, the jump table for all others. What is
 * not taken goes on in the block where it can (tr_passes).
 */
#include "engine/translate/select.h"

/* The target in S0 to its entry of the jump table, offset in S1; RCX is what checks want if it is that. */
static void slot(struct tr *t, unsigned ctx)
{
    const int32_t base = (int32_t)(ctx * sizeof(t->x->room->jump[0]));
    struct emit *e = &t->e;

    RORX(H_CX, H_S0, 12);
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    PDEP(H_S1, H_CX, AT_ROOM(jump_mask));
    t->s1 = -1;
    e_load(e, H_CX, indexed(H_S1, AT_ROOM(jump), base + (int32_t)offsetof(struct tr_jump, nlin)));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
}
static void probe(struct tr *t, unsigned ctx, struct tr_site *s, uint8_t *stub)
{
    slot(t, ctx);
    sel_check(t, (struct out){.site = s, .stub = stub});
}
static void go(struct tr *t, unsigned ctx)
{
    const int32_t base = (int32_t)(ctx * sizeof(t->x->room->jump[0]));
    struct emit *e = &t->e;

    e_load(e, H_CX, indexed(H_S1, AT_ROOM(jump), base + (int32_t)offsetof(struct tr_jump, page)));
    e_store(e, H_CX, AT_CPU(rip));
    e_jmp_mem(e, indexed(H_S1, AT_ROOM(jump), base + (int32_t)offsetof(struct tr_jump, code)));
}

/* To the target in S0, which may turn out not to be canonical. popped: bytes the branch has taken off the stack. on: no branch, the
 * next instruction. */
static void jump_far(struct tr *t, int popped, bool on)
{
    struct tr_site *s = sel_site(t);

    s->size = (uint8_t)popped;
    s->redo = on;
    probe(t, t->b->key & TR_CTX, s, t->x->goto_stub);
    go(t, t->b->key & TR_CTX);
}

void sel_jump_ctx(struct tr *t, unsigned ctx)
{
    struct tr_site *s = sel_site(t);

    s->redo = true;
    probe(t, ctx, s, t->x->goto_stub);
    go(t, ctx);
}

/* To an offset relative to the page, in another one; see TR_FAR_*. */
static void far(struct tr *t, int64_t to, int popped, bool on)
{
    struct emit *e = &t->e;

    if ((t->b->key & TR_CTX) == X86_TLB_USER) { /* its pages are not global */
        e_load(e, H_S0, AT_CPU(rip));
        e_lea(e, H_S0, (struct hmem){H_S0, NOREG, 1, (int32_t)to});
        jump_far(t, popped, on);
        return;
    }
    struct tr_far_exit *s = sel_exit(t, sizeof(*s));

    s->s.size = (uint8_t)popped;
    s->s.redo = on;
    s->to = (int32_t)to;
    e_load(e, H_CX, AT_CPU(rip));
    e1(e, 0x48), e1(e, 0x8d), e1(e, 0x89); /* lea rcx, [rcx + disp32] */
    uint8_t *const link = e->p;
    s->link = tr_code_off(t->x, link);
    e4(e, TR_FAR_NEVER);
    sel_check(t, (struct out){.kind = OUT_FAR, .site = &s->s});
    e_rm(e, E_W, 0xc7, 0, AT_CPU(rip)), e4(e, 0);
    s->gap = (uint8_t)(e->p - 4 - link);
    e_patch(e_jmp(e, NULL), link); /* not taken before it is set */
}

void sel_far_out(struct tr *t, struct tr_site *site, uint8_t *disp)
{
    struct tr_far_exit *s = (void *)site;
    struct emit *e = &t->e;

    e_imm32(e, H_S1, sel_site_id(t, site));
    e_jmp(e, t->x->far_stub);
    s->next = tr_code_off(t->x, e->p);
    site->at = tr_code_off(t->x, disp);
    e_rm(e, 0, 0xc7, 0, AT_ROOM(tmp[2])), e4(e, sel_site_id(t, site));
    e_load(e, H_S0, AT_CPU(rip));
    e_lea(e, H_S0, (struct hmem){H_S0, NOREG, 1, s->to});
    e_jmp(e, t->x->table_stub[t->b->key & TR_CTX]);
}

void tr_make_table_stubs(struct translate *x, struct emit *e)
{
    struct tr t = {.x = x, .e = *e};

    for (unsigned ctx = 0; ctx < X86_TLB_NCTX; ctx++) {
        x->table_stub[ctx] = t.e.p;
        slot(&t, ctx);
        if (x->one)
            e_lea(&t.e, H_CX, (struct hmem){H_CX, NOREG, 1, -1});
        uint8_t *hit = e_jrcxz(&t.e);

        e_rm(&t.e, 0, 0x8b, H_S1, AT_ROOM(tmp[2]));
        e_jmp(&t.e, x->goto_stub);
        e_here(&t.e, hit);
        go(&t, ctx);
    }
    *e = t.e;
}

static bool in_page(int64_t off) { return off >= 0 && off <= 0xfff; }

void sel_chain(struct tr *t, int64_t to, uint8_t *disp)
{
    struct tr_site *s = sel_exit(t, sizeof(*s));

    s->off = (uint16_t)to;
    s->at = tr_code_off(t->x, disp);
    sel_later(t, disp, s, t->x->chain_stub);
}

/* Go on at an offset relative to the page. */
void sel_jump_to(struct tr *t, int64_t to, bool on)
{
    if (in_page(to))
        sel_chain(t, to, e_jmp(&t->e, NULL));
    else
        far(t, to, 0, on);
}

void sel_go_on(struct tr *t)
{
    sel_count(t, t->idx + 1);
    sel_jump_to(t, (int64_t)t->off + t->in->len, true);
}

int64_t sel_branch_to(const struct x86_insn *in, unsigned off) { return (int64_t)off + in->len + in->imm; }

bool sel_is_jcc(const struct x86_insn *in)
{
    return !in->vex && ((in->map == 0 && (in->opcode & 0xf0) == 0x70) || (in->map == 1 && (in->opcode & 0xf0) == 0x80));
}

bool tr_passes(const struct x86_insn *in, unsigned off)
{
    return sel_is_jcc(in) && in->opsize == 8 && sel_branch_to(in, off) > off;
}

enum sel_result sel_jcc(struct tr *t)
{
    const int64_t next = t->off + t->in->len, to = next + t->in->imm;
    const unsigned cc = t->in->opcode & 15;
    struct emit *e = &t->e;

    if (t->in->opsize != 8 || to != (int32_t)to)
        return NONE;
    if (t->idx + 1 < t->n) {
        if (t->x->uncounted && in_page(to))
            sel_chain(t, to, e_jcc(e, cc, NULL));
        else
            sel_leave_by(t, OUT_SIDE, e_jcc(e, cc, NULL));
        return GO_ON;
    }
    if (to <= t->off)
        sel_heed(t);
    sel_count(t, t->idx + 1);
    if (in_page(to)) {
        sel_chain(t, to, e_jcc(e, cc, NULL));
    } else {
        uint8_t *over = e_jcc(e, cc ^ 1, NULL);

        sel_jump_to(t, to, false);
        e_patch(over, e->p);
    }
    sel_jump_to(t, next, true);
    return END;
}

/* The target of an indirect branch into S0 (the operand looked up). */
static bool target(struct tr *t)
{
    const struct x86_operand *o = &t->in->opnd[x86_explicit(t->in, 0)];
    struct emit *e = &t->e;

    if (o->kind == X86_OPND_GPR) {
        if (tr_host[o->reg] == NOREG)
            e_load(e, H_S0, AT_CPU(gpr[o->reg]));
        else
            e_mov(e, H_S0, tr_host[o->reg]);
        return true;
    }
    struct hmem op;
    if (o->kind != X86_OPND_MEM || !sel_memory(t, SEL_MEM, sel_operand_of(t->in), false, 8, true, &op))
        return false;
    e_load(e, H_S0, op);
    return true;
}

static void push_next(struct tr *t, bool again)
{
    struct emit *e = &t->e;

    const struct hmem op = sel_stack_slot(t, again);
    e_load(e, H_CX, AT_CPU(rip));
    e_lea(e, H_CX, (struct hmem){H_CX, NOREG, 1, (int32_t)(t->off + t->in->len)});
    e_store(e, H_CX, op);
    sel_move_top(t, -8);
}

enum sel_result sel_jmp(struct tr *t)
{
    const int64_t to = (int64_t)t->off + t->in->len + t->in->imm;

    if (t->in->opsize != 8)
        return NONE;
    if (t->in->opnd[x86_explicit(t->in, 0)].kind == X86_OPND_REL) {
        if (to != (int32_t)to)
            return NONE;
        if (to <= t->off)
            sel_heed(t);
        sel_count(t, t->idx + 1);
        sel_jump_to(t, to, false);
        return END;
    }
    sel_heed(t);
    if (!target(t))
        return NONE;
    sel_count(t, t->idx + 1);
    jump_far(t, 0, false);
    return END;
}

enum sel_result sel_call(struct tr *t)
{
    const int64_t to = (int64_t)t->off + t->in->len + t->in->imm;
    struct emit *e = &t->e;

    if (t->in->opsize != 8)
        return NONE;
    if (t->in->opnd[x86_explicit(t->in, 0)].kind == X86_OPND_REL) {
        if (to != (int32_t)to)
            return NONE;
        if (to <= t->off)
            sel_heed(t);
        push_next(t, true);
        sel_count(t, t->idx + 1);
        if (in_page(to))
            sel_jump_to(t, to, false);
        else
            far(t, to, -8, false);
        return END;
    }
    sel_heed(t);
    if (!target(t))
        return NONE;
    struct tr_site *s = sel_site(t);

    s->redo = true;
    probe(t, t->b->key & TR_CTX, s, t->x->miss_stub);
    e_store(e, H_S1, AT_ROOM(tmp[0]));
    push_next(t, t->in->opnd[x86_explicit(t->in, 0)].kind != X86_OPND_MEM);
    sel_count(t, t->idx + 1);
    e_load(e, H_S1, AT_ROOM(tmp[0]));
    go(t, t->b->key & TR_CTX);
    return END;
}

enum sel_result sel_ret(struct tr *t)
{
    const struct x86_insn *in = t->in;
    const bool imm = in->opnd[x86_explicit(in, 0)].kind == X86_OPND_IMM;
    const unsigned bytes = 8 + (imm ? (uint16_t)in->imm : 0);
    struct emit *e = &t->e;

    if (in->opsize != 8 || bytes > 127)
        return NONE;
    sel_heed(t);
    const struct hmem op = sel_stack_top(t);
    sel_count(t, t->idx + 1);
    e_load(e, H_S0, op);
    sel_move_top(t, (int)bytes);
    jump_far(t, (int)bytes, false);
    return END;
}
