/*
 * Segments of directly executing code: descriptors of the world's LDT at the index the guest's selector has in its own table, with
 * privilege 3. The guest sees a selector of the right index and the wrong table and privilege, unless what reads it is replaced.
 */
#include "engine/trap/trap.h"

#define LOCAL 4096u /* the guest's own LDT begins here */

/* Index in the world's LDT; 0: cannot be had. */
static unsigned slot_of(uint16_t sel)
{
    const unsigned i = sel >> 3;
    return i >= LOCAL || (sel & 0xfffc) == 0 ? 0 : sel & 4 ? LOCAL + i : i;
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

bool trap_segs_ok(const struct x86_cpu *c)
{
    for (unsigned i = 0; i < X86_NSEG; i++) {
        const struct x86_seg *s = &c->seg[i];
        if (!loaded(s)) {
            if (i == X86_CS || i == X86_SS)
                return false;
            continue;
        }
        if (!slot_of(s->sel))
            return false;
        /* A limit in pages ends with its page; real-mode remnants may not. */
        if (s->limit > 0xfffff && (s->limit & 0xfff) != 0xfff)
            return false;
        for (unsigned j = 0; j < i; j++)
            if (loaded(&c->seg[j]) && slot_of(c->seg[j].sel) == slot_of(s->sel) && desc_of(&c->seg[j]) != desc_of(s))
                return false; /* one selector, two descriptors: the table changed in between */
    }
    return true;
}

void trap_segs_load(struct trap *t, struct space *s, struct world_ctl *k)
{
    for (unsigned i = 0; i < X86_NSEG; i++) {
        const struct x86_seg *g = &t->v->cpu.seg[i];
        uint16_t sel = 0;
        if (loaded(g)) {
            const unsigned slot = slot_of(g->sel);
            const uint64_t d = desc_of(g);
            if (s->ldt[slot] != d) {
                const struct world_op op = {.kind = WORLD_LDT, .lin = slot, .off = (uint32_t)d, .len = d >> 32 & 0xfffff, .prot = d >> 52 & 0x7f};
                world_queue(s->w, &op);
                s->ldt[slot] = d;
            }
            sel = (uint16_t)(slot << 3 | 7);
        }
        k->sel[i] = t->loaded[i] = sel;
    }
}

bool trap_segs_back(struct trap *t, const struct world_ctl *k)
{
    struct x86_cpu *c = &t->v->cpu;
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
        uint64_t d = 0;
        if (sel & 4)
            d = t->space[c->cpl == 3].ldt[sel >> 3];
        if (d) {
            const unsigned f = d >> 52 & 0x7f, contents = f >> 1 & 3;
            const uint32_t limit = d >> 32 & 0xfffff;
            g->base = (uint32_t)d;
            g->limit = f & 16 ? limit << 12 | 0xfff : limit;
            g->ar = (uint16_t)(0xf1 | (contents & 2 ? 8 : 0) | (contents & 1) << 2 | (f & 8 ? 0 : 2) | (f & 1 ? X86_AR_DB : 0) | (f & 16 ? X86_AR_G : 0) |
                               (f & 64 ? X86_AR_AVL : 0));
        } else { /* the host's own flat segments */
            *g = (struct x86_seg){.limit = 0xffffffffu, .ar = (uint16_t)((i == X86_CS ? 0xfb : 0xf3) | X86_AR_DB | X86_AR_G)};
        }
        /* In the guest's terms: its own table and index, with the privilege the hardware gave it. */
        g->sel = !(sel & 4) ? sel : sel >> 3 < LOCAL ? (uint16_t)((sel & ~7) | 3) : (uint16_t)(((sel >> 3) - LOCAL) << 3 | 7);
    }
    return true;
}
