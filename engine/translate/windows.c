/*
 * Windows: accesses of a block through the same base, at most WINDOW_SPAN apart, share one lookup. The first looks
 * up the whole range and keeps what leads to the host's page; the others add it to their address and
 * cannot miss. Where the range fails (it crosses into another page, or not all of it may be written) and the first
 * access alone would not fault, the block is left for a translation of the rest without windows (TR_PLAIN).
 *
 * What a register holds is followed as (unknown value, known offset), so pushes, frames and pointers that advance share too. A window
 * lasts until C code is called on purpose, at most to the end of the block; a miss that finds the TLB changed does not come back.
 */
#include "engine/translate/select.h"

#define WINDOW_SPAN 248 /* fits struct tr_site.size */

struct value {
    unsigned id;
    int32_t off;
};

struct key { /* no padding: compared as bytes */
    unsigned base, index, scale;
};
_Static_assert(sizeof(struct key) == 3 * sizeof(unsigned), "padding");

struct follow {
    struct value reg[X86_NGPR];
    unsigned next;
    struct key key[SEL_WINDOWS];
};

static void forget(struct follow *f, unsigned reg) { f->reg[reg] = (struct value){f->next++, 0}; }
static void forget_all(struct follow *f)
{
    for (unsigned i = 0; i < X86_NGPR; i++)
        forget(f, i);
}

static void add(struct follow *f, unsigned reg, int64_t d)
{
    const int64_t off = f->reg[reg].off + d;

    if (off > -0x10000000 && off < 0x10000000)
        f->reg[reg].off = (int32_t)off;
    else
        forget(f, reg);
}

/* --- which accesses share ----------------------------------------------------------- */

static void note(struct tr *t, struct follow *f, struct sel_access *a, struct key k, int64_t at, unsigned size, bool write)
{
    if (at < -0x20000000 || at > 0x20000000 || !size || size > 32)
        return;
    a->at = (int32_t)at;
    for (unsigned i = t->nwin; i-- > 0;) {
        struct sel_window *w = &t->win[i];
        const int32_t lo = a->at < w->lo ? a->at : w->lo, end = a->at + (int32_t)size, hi = end > w->hi ? end : w->hi;

        if (memcmp(&f->key[i], &k, sizeof(k)) || hi - lo > WINDOW_SPAN)
            continue;
        w->lo = lo;
        w->hi = hi;
        w->write |= write;
        w->left++;
        a->win = (int8_t)i;
        return;
    }
    if (t->nwin == SEL_WINDOWS)
        return;
    f->key[t->nwin] = k;
    t->win[t->nwin] = (struct sel_window){.lo = a->at, .hi = a->at + (int32_t)size, .write = write, .left = 1};
    a->win = (int8_t)t->nwin++;
}

static void note_stack(struct tr *t, struct follow *f, unsigned i, unsigned reg, int d, bool write)
{
    struct key k;

    memset(&k, 0, sizeof(k));
    k.base = f->reg[reg].id;
    note(t, f, &t->acc[i][1], k, (int64_t)f->reg[reg].off + d, 8, write);
}

static void note_memory(struct tr *t, struct follow *f, unsigned i, unsigned off)
{
    const struct x86_insn *in = t->ins + i;
    const struct x86_memref *m = &in->mem;
    const struct x86_operand *o = NULL;
    int64_t at = m->disp;
    struct key k;

    for (unsigned n = 0; n < in->nopnd; n++)
        if (in->opnd[n].kind == X86_OPND_MEM && (!o || !in->opnd[n].implicit))
            o = &in->opnd[n];
    if (!o || !in->has_modrm || in->addrsize != 8 || m->seg == X86_FS || m->seg == X86_GS || m->disp != (int32_t)m->disp || in->lock || in->op == X86_OP_XCHG)
        return;
    memset(&k, 0, sizeof(k));
    if (m->base == X86_REG_RIP) {
        k.base = 1;
        at += off + in->len;
    } else if (m->base < X86_NGPR) {
        k.base = f->reg[m->base].id;
        at += f->reg[m->base].off;
    } else {
        return;
    }
    if (m->index < X86_NGPR) {
        k.index = f->reg[m->index].id;
        k.scale = m->scale;
        at += (int64_t)f->reg[m->index].off * m->scale;
    }
    note(t, f, &t->acc[i][0], k, at, o->size, o->access & X86_ACC_W);
}

/* Effects on registers, of instructions the selector may translate. */
static void step(struct tr *t, struct follow *f, unsigned i, unsigned off)
{
    const struct x86_insn *in = t->ins + i;
    const struct x86_operand *a = &in->opnd[x86_explicit(in, 0)];

    switch (in->op) {
    case X86_OP_PUSH:
        if (in->stacksize != 8) {
            forget_all(f);
            return;
        }
        if (a->kind == X86_OPND_MEM)
            note_memory(t, f, i, off);
        note_stack(t, f, i, X86_RSP, -8, true);
        add(f, X86_RSP, -8);
        return;
    case X86_OP_POP:
        if (in->stacksize != 8 || a->kind != X86_OPND_GPR) {
            forget_all(f);
            return;
        }
        note_stack(t, f, i, X86_RSP, 0, false);
        add(f, X86_RSP, 8);
        forget(f, a->reg);
        return;
    case X86_OP_LEAVE:
        if (in->stacksize != 8) {
            forget_all(f);
            return;
        }
        note_stack(t, f, i, X86_RBP, 0, false);
        f->reg[X86_RSP] = f->reg[X86_RBP];
        add(f, X86_RSP, 8);
        forget(f, X86_RBP);
        return;
    case X86_OP_CALL:
        if (a->kind == X86_OPND_MEM)
            note_memory(t, f, i, off);
        note_stack(t, f, i, X86_RSP, -8, true);
        return;
    case X86_OP_RET:
        note_stack(t, f, i, X86_RSP, 0, false);
        return;
    case X86_OP_JMP:
        note_memory(t, f, i, off);
        return;
    case X86_OP_MOV:
        note_memory(t, f, i, off);
        if (in->opnd[0].kind == X86_OPND_GPR && in->opnd[1].kind == X86_OPND_GPR && in->opnd[0].size == 8) {
            f->reg[in->opnd[0].reg] = f->reg[in->opnd[1].reg];
            return;
        }
        break;
    case X86_OP_LEA: {
        const struct x86_memref *m = &in->mem;

        if (in->opnd[0].size == 8 && in->addrsize == 8 && m->base < X86_NGPR && m->index == X86_REG_NONE) {
            f->reg[in->opnd[0].reg] = f->reg[m->base];
            add(f, in->opnd[0].reg, m->disp);
            return;
        }
        break;
    }
    case X86_OP_ADD: case X86_OP_SUB:
        note_memory(t, f, i, off);
        if (in->opnd[0].kind == X86_OPND_GPR && in->opnd[0].size == 8 && in->opnd[1].kind == X86_OPND_IMM) {
            add(f, in->opnd[0].reg, in->op == X86_OP_ADD ? in->imm : 0 - in->imm);
            return;
        }
        break;
    case X86_OP_NOP: case X86_OP_PREFETCHT0: case X86_OP_PREFETCHT1: case X86_OP_PREFETCHT2: case X86_OP_PREFETCHNTA: case X86_OP_PREFETCHW:
    case X86_OP_PREFETCH: case X86_OP_CLI: case X86_OP_STI: case X86_OP_SWAPGS: case X86_OP_PAUSE: case X86_OP_LFENCE: case X86_OP_SFENCE:
    case X86_OP_MFENCE:
        return;
    case X86_OP_CMPXCHG8B: case X86_OP_CMPXCHG16B:
        forget(f, X86_RAX);
        forget(f, X86_RDX);
        return;
    default:
        if (!sel_known(in)) {
            forget_all(f);
            return;
        }
        note_memory(t, f, i, off);
        forget(f, X86_RAX);
        forget(f, X86_RDX);
        break;
    }
    for (unsigned n = 0; n < in->nopnd; n++) {
        const struct x86_operand *o = &in->opnd[n];

        if (o->kind == X86_OPND_GPR && (o->access & X86_ACC_W))
            forget(f, o->reg);
        else if (o->kind == X86_OPND_GPR8H)
            forget(f, o->reg & 3);
    }
}

void sel_find_windows(struct tr *t)
{
    unsigned off = (unsigned)(t->b->gpa & 0xfff), slots = 0;
    struct follow f = {.next = 2};

    memset(t->acc, 0xff, t->n * sizeof(t->acc[0]));
    t->nwin = 0;
    t->s1 = -1;
    if (t->b->key & TR_PLAIN)
        return;
    forget_all(&f);
    for (unsigned i = 0; i < t->n; i++) {
        step(t, &f, i, off);
        off += t->ins[i].len;
    }
    for (unsigned i = 0; i < t->nwin; i++)
        t->win[i].slot = t->win[i].left > 1 && slots < TR_WINDOWS ? (int8_t)slots++ : -1;
}

/* --- code ------------------------------------------------------------------------------ */

void sel_end_windows(struct tr *t)
{
    for (unsigned i = 0; i < t->nwin; i++)
        t->win[i].live = false;
    t->s1 = -1;
}

static struct hmem slot_of(const struct sel_window *w)
{
    struct hmem m = AT_ROOM(window);

    m.disp += 8 * w->slot;
    return m;
}

void tr_link_window(struct translate *x, const struct tr_window *w, const uint8_t *code)
{
    struct emit e = {.p = x->rw + x->used, .rx = x->rx - x->rw};

    if (x->used + 64 > TR_CODE_SIZE)
        return;
    sel_emit_count(x, &e, w->s.idx);
    if (e.p == x->rw + x->used) {
        e_patch(x->rw + w->link, code - e.rx);
        return;
    }
    e_jmp(&e, code - e.rx);
    e_patch(x->rw + w->link, x->rw + x->used);
    x->used = (size_t)(e.p - x->rw + 15) & ~(size_t)15;
}

bool sel_memory(struct tr *t, unsigned which, struct sel_where where, bool write, unsigned size, bool again, struct hmem *op)
{
    const struct sel_access *a = &t->acc[t->idx][which];
    struct sel_window *w = a->win >= 0 ? &t->win[a->win] : NULL;
    struct emit *e = &t->e;

    *op = sel_operand;
    if (w)
        w->left--;
    if (!w || w->slot < 0 || (write && !w->write) || a->at < w->lo || a->at + (int32_t)size > w->hi || (!w->live && (!w->left || !again))) {
        if (!t->addressed && !sel_address(t, H_S0, &where, 0))
            return false;
        sel_lookup(t, write, size, again);
        return true;
    }
    if (!w->live) { /* S0 is the lower end of the window */
        if (!sel_address(t, H_S0, &where, w->lo - a->at))
            return false;
        sel_look_wide(t, w->write, (unsigned)(w->hi - w->lo), write, (unsigned)(a->at - w->lo), size);
        e_store(e, H_S1, slot_of(w));
        op->disp = a->at - w->lo;
        w->live = true;
    } else {
        if (where.m.index < X86_NGPR || where.m.base >= X86_NGPR) {
            if (!sel_address(t, H_S0, &where, 0))
                return false;
        } else {
            op->base = (uint8_t)sel_fetch(t, where.m.base, H_S0);
            op->disp = (int32_t)where.m.disp;
        }
        if (t->s1 != a->win)
            e_load(e, H_S1, slot_of(w));
    }
    t->s1 = a->win;
    return true;
}
