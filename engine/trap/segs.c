/*
 * Segments of directly executing code: descriptors of the world's LDT with privilege 3.
 *
 * Bare and with --report-sensitive they are at the index the guest's selector has in its own table, so that a guest which looks sees
 * the right index, table and privilege wrong. Where everything that shows a selector is replaced they have places of their own.
 *
 * Where code and data are apart (space.c), the code segment leads to the window and is not readable, so that CS: overrides trap, and
 * each data segment leads to where data is, cut down to offsets that stay clear of the windows, by its limit (from below as an expand-down segment). What
 * lies beyond traps and is interpreted with the guest's own segment. A segment that reaches around the windows has two parts,
 * of which the world has one at a time.
 */
#include <string.h>

#include "engine/trap/trap.h"

#define LOCAL 4096u /* the guest's own LDT begins here */
#define OWN 8u      /* first place of ours */

/* Index in the world's LDT by the guest's selector; 0: cannot be had. */
static unsigned slot_of(uint16_t sel)
{
    const unsigned i = sel >> 3;
    return i >= LOCAL || (sel & 0xfffc) == 0 ? 0 : sel & 4 ? LOCAL + i : i;
}

static bool own_places(const struct trap *t)
{
    return t->tv->patching && !t->tv->report;
}

/* A descriptor in the form of WORLD_LDT: base | limit << 32 | flags << 52 | 1 << 63. */
static uint64_t desc_of(const struct x86_seg *s)
{
    const unsigned type = s->ar & X86_AR_TYPE;
    const bool code = type & 8, big = s->limit > 0xfffff;
    const unsigned contents = code ? 2 | (type >> 2 & 1) : type >> 2 & 1;
    const unsigned flags = (s->ar & X86_AR_DB ? 1u : 0) | contents << 1 | (type & 2 ? 0 : 8u) | (big ? 16u : 0) | (s->ar & X86_AR_AVL ? 64u : 0);
    return (uint32_t)s->base | (uint64_t)(big ? s->limit >> 12 : s->limit) << 32 | (uint64_t)flags << 52 | 1ull << 63;
}

static bool loaded(const struct x86_seg *s)
{
    return (s->ar & (X86_AR_P | X86_AR_S)) == (X86_AR_P | X86_AR_S);
}

static bool whole_pages(uint32_t limit)
{
    return limit <= 0xfffff || (limit & 0xfff) == 0xfff; /* real-mode remnants may not be */
}

/* In the guest's addresses, whatever the shift: what the world may have of a data segment: 0 nothing, 1 *out, 2 *out is one of two parts. */
static unsigned cut(const struct space *s, const struct x86_seg *g, bool stack, bool upper, struct x86_seg *out)
{
    const bool data = !(g->ar & 8), down = data && (g->ar & 4), db = g->ar & X86_AR_DB;
    const uint32_t p0 = s->low ? 0 : WINDOWS_HIGH, n = s->low ? WINDOWS_LOW * WINDOW_SIZE : 0u - WINDOWS_HIGH;
    const uint64_t first = down ? (uint64_t)g->limit + 1 : 0, last = down ? (db ? 0xffffffffu : 0xffffu) : g->limit;
    const uint32_t o0 = p0 - (uint32_t)g->base;
    uint64_t from[2], to[2]; /* offsets below and above those that lead into a window */
    unsigned have = 0;

    *out = *g;
    if ((uint64_t)o0 + n <= 1ull << 32) {
        from[0] = first, to[0] = o0 ? (last < o0 - 1u ? last : o0 - 1u) : 0;
        if (!o0)
            from[0] = 1;
        from[1] = first > (uint64_t)o0 + n ? first : (uint64_t)o0 + n, to[1] = last;
    } else {
        const uint64_t end = (uint64_t)o0 + n - (1ull << 32);
        from[0] = first > end ? first : end, to[0] = last < o0 - 1u ? last : o0 - 1u;
        from[1] = 1, to[1] = 0;
    }
    for (unsigned i = 0; i < 2; i++) {
        const uint64_t a = from[i], b = to[i];
        if (a > b)
            continue;
        struct x86_seg c = *g;
        if (a == first && b == last && whole_pages(g->limit)) {
            if (!data)
                c.ar &= (uint16_t)~X86_AR_TYPE;
        } else if (a == 0) {
            uint64_t limit = b > 0xfffff ? ((b + 1) & ~0xfffull) - 1 : b;
            c.limit = (uint32_t)limit;
            c.ar = (uint16_t)(g->ar & ~(X86_AR_TYPE | X86_AR_G)) | 2 | (limit > 0xfffff ? X86_AR_G : 0);
        } else if (b == 0xffffffffu && (db || !stack) && a <= 0xfffff000u) {
            c.limit = (uint32_t)((a + 0xfff) & ~0xfffull) - 1;
            c.ar = (uint16_t)(g->ar & ~X86_AR_TYPE) | 6 | X86_AR_G | X86_AR_DB;
        } else {
            continue;
        }
        if (!data || !(g->ar & 2)) /* read-only; readable code is data that cannot be written */
            c.ar &= (uint16_t)~2u;
        if (!have || upper)
            *out = c;
        have++;
    }
    return have;
}

/* Does no code the world has seen lead into the windows through all of FS or GS? */
static bool harmless(const struct space *s, const struct x86_seg *g, const struct reach *r)
{
    const uint32_t p0 = s->low ? 0 : WINDOWS_HIGH, n = s->low ? WINDOWS_LOW * WINDOW_SIZE : 0u - WINDOWS_HIGH, size = 4096; /* more than any operand */
    const uint32_t near = (uint32_t)g->base + (uint32_t)r->near_lo - p0, far = (uint32_t)g->base + r->far_lo - p0;

    /* [x, x + length) clear of [0, n), both modulo 2^32 */
    if (r->near_lo <= r->near_hi && (near < n || near + (uint64_t)(uint32_t)(r->near_hi - r->near_lo) + size > 1ull << 32))
        return false;
    return r->far_lo > r->far_hi || (far >= n && far + (uint64_t)(r->far_hi - r->far_lo) + size <= 1ull << 32);
}

bool trap_segs_ok(const struct trap *t)
{
    const struct x86_cpu *c = &t->v->cpu;
    const struct space *s = &t->space[c->cpl == 3]; /* any of a level: they are alike */
    const bool own = own_places(t);

    for (unsigned i = 0; i < X86_NSEG; i++) {
        const struct x86_seg *g = &c->seg[i];
        if (!loaded(g)) {
            if (i == X86_CS || i == X86_SS)
                return false;
            continue;
        }
        if (i == X86_CS || !s->split) {
            if (!whole_pages(g->limit))
                return false;
        } else if (i == X86_SS) {
            struct x86_seg x;
            if (!cut(s, g, true, t->upper[i], &x))
                return false;
        }
        if (own)
            continue;
        if (!slot_of(g->sel))
            return false;
        for (unsigned j = 0; j < i; j++)
            if (loaded(&c->seg[j]) && slot_of(c->seg[j].sel) == slot_of(g->sel) && (desc_of(&c->seg[j]) != desc_of(g) || (s->split && j == X86_CS)))
                return false; /* one selector, two descriptors: the table changed in between */
    }
    return true;
}

void trap_segs_load(struct trap *t, struct space *s, struct world_ctl *k)
{
    const bool own = own_places(t);

    t->delta = 0;
    if (s->split) {
        const struct x86_cpu *c = &t->v->cpu;
        const uint32_t lin = (uint32_t)(c->seg[X86_CS].base + c->rip);
        const struct window *w = space_window(s, lin, lin >= (c->cpl == 3 ? 0xc0000000u : 0x80000000u));
        t->delta = w->at - w->code;
        t->code = w->code;
    }
    for (unsigned i = 0; i < X86_NSEG; i++) {
        const struct x86_seg *g = &t->v->cpu.seg[i];
        struct x86_seg h = *g;
        uint16_t sel = 0;
        bool there = loaded(g);

        t->parts[i] = 1;
        if (there && s->split) {
            if (i == X86_CS) {
                const uint32_t end = t->code + WINDOW_SIZE - 1 - (uint32_t)g->base; /* the window's last byte */
                if (t->delta && (end & 0xfff) == 0xfff && end > 0xfffff && end < g->limit && !((uint32_t)g->base > t->code))
                    h.limit = end;
                h.base = (uint32_t)(h.base + t->delta);
                h.ar &= (uint16_t)~2u;
            } else {
                t->parts[i] = (uint8_t)cut(s, g, i == X86_SS, t->upper[i], &h);
                if (t->parts[i] != 1 && i >= X86_FS && harmless(s, g, &t->tv->patch.reach[i - X86_FS]) && whole_pages(g->limit)) {
                    h = *g;
                    t->parts[i] = 1;
                }
                there = t->parts[i];
                h.base = (uint32_t)(h.base + s->shift);
            }
        }
        if (there) {
            /* Code segments of different windows have a place each, so that going from one to the other changes no table. */
            const unsigned slot = !own ? slot_of(g->sel) : i == X86_CS ? OWN + X86_NSEG + (((uint32_t)t->delta + t->code) / WINDOW_SIZE) % WINDOWS : OWN + i;
            const uint64_t d = desc_of(&h);
            if (s->ldt[slot] != d) {
                const struct world_op op = {.kind = WORLD_LDT, .lin = slot, .off = (uint32_t)d, .len = d >> 32 & 0xfffff, .prot = d >> 52 & 0x7f};
                world_queue(s->w, &op);
                s->ldt[slot] = d;
            }
            s->orig[slot] = *g;
            sel = (uint16_t)(slot << 3 | 7);
        }
        k->sel[i] = t->loaded[i] = sel;
    }
}

bool trap_segs_back(struct trap *t, const struct world_ctl *k)
{
    struct x86_cpu *c = &t->v->cpu;
    const struct space *s = &t->space[c->cpl == 3];

    for (unsigned i = 0; i < X86_NSEG; i++) {
        const uint16_t sel = k->sel[i];
        if (sel == t->loaded[i] || ((sel & 0xfffc) == 0 && t->loaded[i] == 0))
            continue;
        t->tv->n.lost++;
        struct x86_seg *g = &c->seg[i];
        if (i == X86_CS && sel == 0x33)
            return false;
        if ((sel & 0xfffc) == 0) {
            *g = (struct x86_seg){.sel = sel};
            continue;
        }
        if ((sel & 4) && s->ldt[sel >> 3]) {
            *g = s->orig[sel >> 3];
            g->ar = (uint16_t)(g->ar | 0x60 | X86_AR_P | X86_AR_S | 1); /* privilege 3, accessed */
        } else { /* the host's own flat segments */
            *g = (struct x86_seg){.limit = 0xffffffffu, .ar = (uint16_t)((i == X86_CS ? 0xfb : 0xf3) | X86_AR_DB | X86_AR_G)};
        }
        /* In the guest's terms: its own table and index, with the privilege the hardware gave it. */
        g->sel = !(sel & 4) ? sel : sel >> 3 < LOCAL ? (uint16_t)((sel & ~7) | 3) : (uint16_t)(((sel >> 3) - LOCAL) << 3 | 7);
    }
    return true;
}
