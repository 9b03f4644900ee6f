/*
 * The table in which translated code looks pages up (struct tr_tlb): two slots a page, one of which code looks at. What is in the other
 * one is found by stubs, without a call of C: programs and kernels have pages that every system call needs, and where two
 * of those shared the only slot, each call would fill it twice.
 */
#include "engine/translate/select.h"

/* Of no access: stands for a page that neither has the slot or the other one, nor follows one that has, so it never matches. */
static uint64_t none(const struct translate *x, unsigned slot)
{
    const bool edge = slot % TR_WAYS == 0 || slot % TR_WAYS == TR_WAYS - 1;

    return x->one * 0x1000u - (edge ? (uint64_t)(TR_WAYS / 2) * 0x1000 : 0);
}

static bool is_empty(const struct translate *x, unsigned ctx, unsigned slot)
{
    const struct tr_tlb *e = &x->room->tlb[ctx][slot];

    return e->nread == none(x, slot) && e->nwrite == none(x, slot);
}

static bool holds(const struct translate *x, unsigned ctx, unsigned slot, uint64_t page)
{
    const struct tr_tlb *e = &x->room->tlb[ctx][slot];
    const uint64_t n = x->one * 0x1000u - page;

    return e->nread == n || e->nwrite == n;
}

static void drop(struct translate *x, unsigned ctx, unsigned slot)
{
    struct tr_tlb *e = &x->room->tlb[ctx][slot];

    e->nread = e->nwrite = none(x, slot);
    e->local = 0;
}

static void drop_page(struct translate *x, unsigned ctx, unsigned slot, uint64_t page)
{
    if (holds(x, ctx, slot, page))
        drop(x, ctx, slot);
}

static uint64_t page_of(const struct translate *x, unsigned slot, const struct tr_tlb *e)
{
    return x->one * 0x1000u - (e->nread == none(x, slot) ? e->nwrite : e->nread);
}

static void enter(struct translate *x, unsigned ctx, unsigned slot, const struct tr_tlb *e)
{
    x->room->tlb[ctx][slot] = *e;
    x->tlb_used[ctx][slot % TR_WAYS / 64] |= 1ull << (slot % 64);
    if (e->local)
        tr_log(&x->tlb_log[ctx], slot);
}

void tr_tlb_put(struct translate *x, unsigned ctx, uint64_t page, bool read, bool write, uint64_t addend, bool local)
{
    const unsigned slot = page >> 12 & (TR_TLB_SIZE - 1);
    const uint64_t match = x->one * 0x1000u - page, never = none(x, slot);
    const struct tr_tlb e = {.nread = read ? match : never, .nwrite = write ? match : never, .addend = addend, .local = local};
    struct tr_tlb *t = x->room->tlb[ctx];

    drop_page(x, ctx, TR_OTHER(slot), page);
    if (!holds(x, ctx, slot, page) && !is_empty(x, ctx, slot))
        t[TR_OTHER(slot)] = t[slot];
    enter(x, ctx, slot, &e);
}

void tr_tlb_put_back(struct translate *x, unsigned ctx, unsigned slot, const struct tr_tlb *e)
{
    const uint64_t page = page_of(x, slot, e);

    if (holds(x, ctx, slot, page) || holds(x, ctx, TR_OTHER(slot), page))
        return;
    if (!is_empty(x, ctx, slot))
        slot = TR_OTHER(slot);
    if (!is_empty(x, ctx, slot))
        return;
    enter(x, ctx, slot, e);
}

void tr_tlb_init(struct translate *x)
{
    memset(x->tlb_used, 0xff, sizeof(x->tlb_used));
    for (unsigned ctx = 0; ctx < X86_TLB_NCTX; ctx++)
        tr_tlb_clear(x, ctx);
}

void tr_tlb_clear(struct translate *x, unsigned ctx)
{
    for (unsigned w = 0; w < TR_WAYS / 64; w++) {
        for (uint64_t bits = x->tlb_used[ctx][w]; bits; bits &= bits - 1) {
            const unsigned slot = w * 64 + (unsigned)__builtin_ctzll(bits);

            drop(x, ctx, slot);
            drop(x, ctx, TR_OTHER(slot));
        }
        x->tlb_used[ctx][w] = 0;
    }
    x->tlb_log[ctx].n = 0;
}

void tr_tlb_drop_page(struct translate *x, unsigned ctx, uint64_t page)
{
    const unsigned slot = page >> 12 & (TR_TLB_SIZE - 1);

    drop_page(x, ctx, slot, page);
    drop_page(x, ctx, TR_OTHER(slot), page);
}

void tr_tlb_drop_local(struct translate *x, unsigned ctx, struct tr_parked *p)
{
    struct tr_log *l = &x->tlb_log[ctx];

    if (l->n == TR_LOG)
        tr_tlb_clear(x, ctx);
    for (unsigned i = 0; i < 2 * l->n; i++) {
        const unsigned slot = i & 1 ? TR_OTHER(l->slot[i / 2]) : l->slot[i / 2];
        const struct tr_tlb *e = &x->room->tlb[ctx][slot];

        if (!e->local)
            continue;
        tr_park_tlb(p, ctx, slot, e);
        drop(x, ctx, slot);
    }
    l->n = 0;
}

/* --- exchanging, in translated code ------------------------------------------------------- */

/* RCX = minus the page in the entry at index register reg, plus S0's address, in pages: what a lookup checks. */
static void compare(struct translate *x, struct emit *e, unsigned reg, int32_t at)
{
    e_load(e, H_CX, indexed(reg, AT_ROOM(tlb), at));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    SHRX(H_CX, H_CX);
    if (x->one)
        e_lea(e, H_CX, (struct hmem){H_CX, NOREG, 1, -1});
}

/* A lookup of the address in S0 has failed, for the site whose offset is in S1. If the page is in its other slot, exchange the slots
 * and look again; else slow. Flags stay. The retried lookup finds the page; if it fails again, for the page's end, it comes here and the page is
 * no longer in the other slot. */
static void way(struct translate *x, struct emit *e, unsigned ctx, bool write, const uint8_t *slow)
{
    const int32_t table = (int32_t)(ctx * sizeof(x->room->tlb[0]));

    e_store(e, H_S1, AT_ROOM(kept[0]));
    e_lea(e, H_S1, (struct hmem){H_S0, NOREG, 1, (int32_t)TR_WAYS << 12});
    SHRX(H_S1, H_S1);
    PDEP(H_S1, H_S1, AT_ROOM(tlb_mask));
    compare(x, e, H_S1, table + (int32_t)(write ? offsetof(struct tr_tlb, nwrite) : offsetof(struct tr_tlb, nread)));
    uint8_t *there = e_jrcxz(e);
    e_load(e, H_S1, AT_ROOM(kept[0]));
    e_jmp(e, slow);
    e_here(e, there);
    e_store(e, H_AX, AT_ROOM(kept[1]));
    e_store(e, H_DX, AT_ROOM(kept[2]));
    SHRX(H_AX, H_S0);
    PDEP(H_AX, H_AX, AT_ROOM(tlb_mask));
    for (unsigned i = 0; i < sizeof(struct tr_tlb); i += 8) {
        e_load(e, H_CX, indexed(H_S1, AT_ROOM(tlb), table + (int32_t)i));
        e_load(e, H_DX, indexed(H_AX, AT_ROOM(tlb), table + (int32_t)i));
        e_store(e, H_CX, indexed(H_AX, AT_ROOM(tlb), table + (int32_t)i));
        e_store(e, H_DX, indexed(H_S1, AT_ROOM(tlb), table + (int32_t)i));
    }
    e_load(e, H_DX, AT_ROOM(kept[2]));
    e_load(e, H_AX, AT_ROOM(kept[1]));
    e_load(e, H_S1, AT_ROOM(kept[0]));
    e_imm(e, H_CX, (uintptr_t)x->arena);
    e_rm(e, 0, 0x8b, H_CX, (struct hmem){H_CX, H_S1, 1, (int32_t)offsetof(struct tr_site, at)});
    e_imm(e, H_S1, (uintptr_t)x->rx);
    e_lea(e, H_CX, (struct hmem){H_CX, H_S1, 1, 0});
    e_rr(e, 0, 0xff, 4, H_CX); /* jmp rcx */
}

void tr_make_way_stubs(struct translate *x, struct emit *e)
{
    for (unsigned ctx = 0; ctx < X86_TLB_NCTX; ctx++)
        for (unsigned write = 0; write < 2; write++) {
            x->way_stub[ctx][write] = e->p;
            way(x, e, ctx, write, x->miss_stub);
            x->window_way_stub[ctx][write] = e->p;
            way(x, e, ctx, write, x->window_stub);
        }
}
