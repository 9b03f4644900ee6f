/*
 * Checks, and looking up what memory operands address: what is emitted before an instruction of the guest's. RCX says whether all is
 * well; nothing here changes flags.
 */
#include "engine/translate/select.h"

/* --- checks ------------------------------------------------------------------------ */

#define PAD 5u    /* bytes of a jump */
#define REACH 120 /* how far behind its LOOP we want a jump */

void sel_before(struct tr *t, unsigned bytes)
{
    if (t->pads.n && (t->pads.n == sizeof(t->pads.due) / sizeof(t->pads.due[0]) || t->e.p + bytes - t->pads.due[0].disp > REACH))
        sel_pads(t, true);
}

void sel_make_room(struct tr *t)
{
    for (t->pads.nroom = 0; t->pads.nroom < 3; t->pads.nroom++) {
        t->pads.room[t->pads.nroom] = t->e.p;
        for (unsigned i = 0; i < PAD; i++)
            e1(&t->e, 0xcc);
    }
}

void sel_pads(struct tr *t, bool over)
{
    struct emit *e = &t->e;
    uint8_t *skip = NULL;

    if (!t->pads.n)
        return;
    if (over) {
        e1(e, 0xeb), e1(e, 0);
        skip = e->p - 1;
    }
    for (unsigned i = 0; i < t->pads.n; i++) {
        uint8_t *disp = t->pads.due[i].disp;

        t->stretched |= e->p - (disp + 1) > 127;
        e_here(e, disp);
        t->out[t->pads.due[i].out].disp = e_jmp(e, NULL);
    }
    t->pads.n = 0;
    if (over) {
        sel_make_room(t);
        e_here(e, skip);
    }
}

void sel_check(struct tr *t, struct out o)
{
    struct emit *e = &t->e;

    o.idx = t->idx;
    o.off = t->off;
    o.in = t->in;
    if (!t->loops) {
        if (t->x->one)
            e_lea(e, H_CX, (struct hmem){H_CX, NOREG, 1, -1});
        uint8_t *ok = e_jrcxz(e);

        o.disp = e_jmp(e, NULL);
        t->out[t->nout++] = o;
        e_here(e, ok);
        return;
    }
    sel_before(t, 40);
    e1(e, 0xe2), e1(e, 0); /* loop */
    if (t->pads.nroom && e->p - t->pads.room[t->pads.nroom - 1] <= 128) {
        struct emit pad = {.p = t->pads.room[--t->pads.nroom]};

        e->p[-1] = (uint8_t)(pad.p - e->p);
        o.disp = e_jmp(&pad, NULL);
    } else {
        t->pads.due[t->pads.n].disp = e->p - 1;
        t->pads.due[t->pads.n++].out = t->nout;
    }
    t->out[t->nout++] = o;
}

void sel_unless_zero(struct tr *t, struct tr_site *s, uint8_t *stub)
{
    if (t->x->one)
        e_lea(&t->e, H_CX, (struct hmem){H_CX, NOREG, 1, 1});
    sel_check(t, (struct out){.site = s, .stub = stub});
}

/* --- addresses -------------------------------------------------------------------- */

bool sel_offset(struct tr *t, unsigned dst, const struct sel_where *at, int extra, bool narrow)
{
    const struct x86_memref *m = &at->m;
    const unsigned w = at->addrsize == 8 && !narrow ? E_W : 0;
    struct emit *e = &t->e;
    struct hmem h = {NOREG, NOREG, m->scale ? m->scale : 1, 0};
    int64_t d = m->disp + extra;

    if (at->addrsize < 4)
        return false;
    if (m->base == X86_REG_RIP) {
        d += t->off + t->in->len;
        if (d != (int32_t)d || at->addrsize != 8)
            return false;
        e_load(e, H_S0, AT_CPU(rip));
        h.base = H_S0;
    } else {
        if (m->base < X86_NGPR)
            h.base = (uint8_t)sel_fetch(t, m->base, H_S0);
        if (m->index < X86_NGPR)
            h.index = (uint8_t)sel_fetch(t, m->index, H_S1);
        if (d != (int32_t)d) {
            if (h.base != NOREG || h.index != NOREG || !w)
                return false;
            e_imm(e, dst, (uint64_t)d);
            return true;
        }
    }
    h.disp = (int32_t)d;
    if (h.index == NOREG && h.base != NOREG && !h.disp && w)
        e_mov(e, dst, h.base);
    else
        e_rm(e, w, 0x8d, dst, h);
    return true;
}

bool sel_address(struct tr *t, unsigned dst, const struct sel_where *at, int extra)
{
    struct emit *e = &t->e;

    if (!sel_offset(t, dst, at, extra, false))
        return false;
    if (at->m.seg == X86_FS || at->m.seg == X86_GS) {
        e_load(e, H_S1, at->m.seg == X86_FS ? AT_CPU(seg[X86_FS].base) : AT_CPU(seg[X86_GS].base));
        e_lea(e, dst, (struct hmem){(uint8_t)dst, H_S1, 1, 0});
        t->s1 = -1;
    }
    return true;
}

/* rep: not 0: guest RCX elements of this size, not size bytes. stub: where a miss goes; NULL: it is a window's. */
static void look(struct tr *t, bool write, unsigned size, unsigned rep, struct tr_site *s, uint8_t *stub)
{
    const unsigned ctx = t->b->key & TR_CTX;
    struct emit *e = &t->e;

    t->s1 = -1;
    sel_before(t, 75);
    SHRX(H_S1, H_S0);
    PDEP(H_S1, H_S1, AT_ROOM(tlb_mask));
    e_load(e, H_CX, indexed(H_S1, AT_ROOM(tlb), (int32_t)(ctx * sizeof(t->x->room->tlb[0]) + (write ? offsetof(struct tr_tlb, nwrite) : offsetof(struct tr_tlb, nread)))));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, rep ? -1 : (int32_t)size - 1});
    if (rep)
        e_lea(e, H_CX, (struct hmem){H_CX, H_GCX, (uint8_t)rep, 0});
    SHRX(H_CX, H_CX);
    sel_check(t, (struct out){.kind = stub ? OUT_STUB : OUT_WINDOW, .site = s, .stub = stub ? stub : t->x->window_way_stub[ctx][write]});
    e_load(e, H_S1, indexed(H_S1, AT_ROOM(tlb), (int32_t)(ctx * sizeof(t->x->room->tlb[0]) + offsetof(struct tr_tlb, addend))));
}

struct tr_site *sel_lookup_string(struct tr *t, bool write, unsigned size, unsigned scale)
{
    struct tr_site *s = sel_site(t);

    s->size = (uint8_t)(scale ? 1 : size);
    s->rep = (uint8_t)scale;
    s->access = write ? X86_WRITE : X86_READ;
    look(t, write, size, scale, s, t->x->miss_stub);
    return s;
}

void sel_lookup(struct tr *t, bool write, unsigned size, bool again)
{
    struct tr_site *s = sel_site(t);

    s->size = (uint8_t)size;
    s->access = write ? X86_WRITE : X86_READ;
    s->redo = !again;
    look(t, write, size, 0, s, again ? t->x->way_stub[t->b->key & TR_CTX][write] : t->x->miss_stub);
}

void sel_look_wide(struct tr *t, bool write, unsigned size, bool own_write, unsigned own, unsigned own_size)
{
    struct tr_window *w = sel_exit(t, sizeof(*w));

    t->vectors = 0; /* C code is called here */
    w->s.size = (uint8_t)size;
    w->s.access = own_write ? X86_WRITE : X86_READ;
    w->wide_write = write;
    w->own = (uint8_t)own;
    w->own_size = (uint8_t)own_size;
    look(t, write, size, 0, &w->s, NULL);
}

/* Locked accesses that are not aligned go the exact way: they might cross a cache line. */
bool sel_aligned(struct tr *t, unsigned size)
{
    const struct sel_where at = sel_operand_of(t->in);
    struct hmem mask = AT_ROOM(align_mask);
    struct emit *e = &t->e;
    struct tr_site *s;

    if (size == 1)
        return true;
    if (!sel_address(t, H_S0, &at, 0))
        return false;
    t->addressed = true;
    s = sel_site(t);
    s->redo = true;
    mask.disp += 8 * __builtin_ctz(size);
    PEXT(H_CX, H_S0, mask);
    sel_unless_zero(t, s, t->x->miss_stub);
    return true;
}
