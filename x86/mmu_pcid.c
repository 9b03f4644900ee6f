/*
 * Process-context identifiers (SDM Vol. 3A, 4.10.1). The software TLB holds translations of the current PCID
 * and global ones. Those of a PCID that is left are set aside, as many as there is room for, and put back
 * when a MOV to CR3 returns to it without flushing; so a context switch costs what the process has touched, not
 * walks. What is set aside knows no generation: a flush of everything forgets it (x86_tlb_flush_all).
 */
#include "x86/mmu.h"

#define OFFS 0xfffull

void x86_tlb_forget_pcids(struct x86_cpu *c)
{
    for (unsigned i = 0; i < X86_PARKED_PCIDS; i++) {
        c->mmu.parked[i].used = false;
        c->mmu.parked[i].n = 0;
    }
}

static struct x86_parked *parked(struct x86_mmu *m, unsigned pcid)
{
    for (unsigned i = 0; i < X86_PARKED_PCIDS; i++)
        if (m->parked[i].used && m->parked[i].pcid == pcid)
            return &m->parked[i];
    return NULL;
}

void x86_tlb_forget_pcid(struct x86_cpu *c, unsigned pcid)
{
    struct x86_parked *p = parked(&c->mmu, pcid);

    if (p) {
        p->used = false;
        p->n = 0;
    }
}

static void park(struct x86_mmu *m, unsigned pcid)
{
    struct x86_parked *p = &m->parked[0];

    for (unsigned i = 0; i < X86_PARKED_PCIDS && p->used; i++)
        if (!m->parked[i].used || m->parked[i].age < p->age)
            p = &m->parked[i];
    p->used = true;
    p->pcid = (uint16_t)pcid;
    p->age = ++m->parkings;
    p->n = p->ncode = 0;
    p->large = m->large[0];
    for (unsigned x = 0; x < X86_TLB_NCTX; x++)
        for (unsigned w = 0; w < X86_TLB_SIZE / 64; w++)
            for (uint64_t bits = m->local[x][w]; bits && p->n < X86_PARKED_PAGES; bits &= bits - 1) {
                const unsigned slot = w * 64 + (unsigned)__builtin_ctzll(bits);
                struct x86_tlb_entry e = m->tlb[x][slot];

                if (!e.tag_r || (e.tag_r & OFFS) != m->gen)
                    continue;
                e.tag_w = e.tag_w == e.tag_r ? e.tag_w & ~OFFS : 0;
                e.tag_r &= ~OFFS;
                p->page[p->n].ctx = (uint16_t)x;
                p->page[p->n].slot = (uint16_t)slot;
                p->page[p->n++].e = e;
            }
    for (unsigned u = 0; u < 2; u++)
        for (unsigned w = 0; w < X86_ITLB_SIZE / 64; w++)
            for (uint64_t bits = m->ilocal[u][w]; bits && p->ncode < X86_PARKED_CODE; bits &= bits - 1) {
                const unsigned slot = w * 64 + (unsigned)__builtin_ctzll(bits);
                struct x86_itlb_entry e = m->itlb[u][slot];

                if ((e.tag & OFFS) != m->gen)
                    continue;
                e.tag &= ~OFFS;
                p->code[p->ncode].user = (uint16_t)u;
                p->code[p->ncode].slot = (uint16_t)slot;
                p->code[p->ncode++].e = e;
            }
}

#define NONE (~0u)
/* That of two slots which no global page has. */
static unsigned free_way(const uint64_t *global, unsigned slot, unsigned other)
{
    if (!(global[slot / 64] >> (slot % 64) & 1))
        return slot;
    return global[other / 64] >> (other % 64) & 1 ? NONE : other;
}

/* Into slots that no global page has. Page 0 is as good as any other here: the generation is never 0. */
static void unpark(struct x86_mmu *m, struct x86_parked *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        const unsigned x = p->page[i].ctx, slot = free_way(m->global[x], p->page[i].slot, X86_TLB_OTHER(p->page[i].slot));
        const bool may_write = p->page[i].e.tag_w == p->page[i].e.tag_r && p->page[i].e.tag_w;

        if (slot == NONE)
            continue;

        struct x86_tlb_entry *e = &m->tlb[x][slot];

        *e = p->page[i].e;
        e->tag_r |= m->gen;
        e->tag_w = may_write ? e->tag_r : 0;
        m->local[x][slot / 64] |= 1ull << (slot % 64);
    }
    for (unsigned i = 0; i < p->ncode; i++) {
        const unsigned u = p->code[i].user, slot = free_way(m->iglobal[u], p->code[i].slot, X86_ITLB_OTHER(p->code[i].slot));

        if (slot == NONE)
            continue;
        m->itlb[u][slot] = p->code[i].e;
        m->itlb[u][slot].tag |= m->gen;
        m->ilocal[u][slot / 64] |= 1ull << (slot % 64);
    }
    for (unsigned w = 0; w < X86_LARGE_FILTER_BITS / 64; w++)
        m->large[0].filter[w] |= p->large.filter[w];
    if (p->large.huge_lo < m->large[0].huge_lo)
        m->large[0].huge_lo = p->large.huge_lo;
    if (p->large.huge_hi > m->large[0].huge_hi)
        m->large[0].huge_hi = p->large.huge_hi;
    p->used = false;
    p->n = 0;
}

void x86_tlb_switch_pcid(struct x86_cpu *c, unsigned from, unsigned to, bool keep)
{
    struct x86_mmu *m = &c->mmu;

    if (from == to && keep)
        return; /* what is cached may stay, whatever tables CR3 now names */
    if (from != to)
        park(m, from);
    x86_tlb_flush_nonglobal(c);
    m->parked_as = from != to ? m->parkings : 0;

    struct x86_parked *p = parked(m, to);

    if (!p)
        return;
    if (keep) {
        m->unparked = p->age;
        unpark(m, p);
    } else {
        x86_tlb_forget_pcid(c, to);
    }
}
