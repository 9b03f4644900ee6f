/*
 * What a MOV to CR3 takes from the room's tables is set aside with what it takes from the TLB of x86/ (x86/mmu_pcid.c), under the same number,
 * and comes back with it: so a program that gets the processor back finds its branches and its pages without calls of C.
 * What is set aside is dropped with all else when jumps or write translations are taken away; what x86/ forgets never comes back.
 */
#include <stdlib.h>

#include "engine/translate/translate.h"

#define PARKED_TLB 128u
#define PARKED_JUMP 128u

struct tr_parked {
    uint64_t age; /* struct x86_parked; 0: free */
    unsigned ntlb, njump;
    struct {
        uint16_t ctx, slot;
        struct tr_tlb e;
    } tlb[PARKED_TLB];
    struct {
        uint16_t ctx, slot;
        struct tr_jump e;
    } jump[PARKED_JUMP];
};

int tr_park_init(struct translate *x)
{
    x->parked = calloc(X86_PARKED_PCIDS, sizeof(*x->parked));
    return x->parked ? 0 : -1;
}

/* Was the last thing that happened to the TLB a MOV to CR3, and the only one since the tables were brought up to date? */
static bool alone(const struct translate *x) { return x->v->cpu.mmu.version == x->version + 1; }

struct tr_parked *tr_park_begin(struct translate *x)
{
    struct tr_parked *p = x->parked;

    if (!alone(x) || !x->v->cpu.mmu.parked_as)
        return NULL;
    for (unsigned i = 1; i < X86_PARKED_PCIDS; i++)
        if (x->parked[i].age < p->age)
            p = &x->parked[i];
    p->age = x->v->cpu.mmu.parked_as;
    p->ntlb = p->njump = 0;
    return p;
}

void tr_park_tlb(struct tr_parked *p, unsigned ctx, unsigned slot, const struct tr_tlb *e)
{
    if (!p || !e->local || p->ntlb == PARKED_TLB)
        return;
    p->tlb[p->ntlb].ctx = (uint16_t)ctx;
    p->tlb[p->ntlb].slot = (uint16_t)slot;
    p->tlb[p->ntlb++].e = *e;
}

void tr_park_jump(struct tr_parked *p, unsigned ctx, unsigned slot, const struct tr_jump *e)
{
    if (!p || !e->local || p->njump == PARKED_JUMP)
        return;
    p->jump[p->njump].ctx = (uint16_t)ctx;
    p->jump[p->njump].slot = (uint16_t)slot;
    p->jump[p->njump++].e = *e;
}

void tr_unpark(struct translate *x)
{
    const uint64_t age = x->v->cpu.mmu.unparked;
    struct tr_parked *p = x->parked;

    if (!alone(x) || !age)
        return;
    while (p < x->parked + X86_PARKED_PCIDS && p->age != age)
        p++;
    if (p == x->parked + X86_PARKED_PCIDS)
        return;
    for (unsigned i = 0; i < p->ntlb; i++)
        tr_tlb_put_back(x, p->tlb[i].ctx, p->tlb[i].slot, &p->tlb[i].e);
    for (unsigned i = 0; i < p->njump; i++) {
        const unsigned c = p->jump[i].ctx, slot = p->jump[i].slot;

        if (x->room->jump[c][slot].code)
            continue;
        x->room->jump[c][slot] = p->jump[i].e;
        tr_log(&x->jump_log[c], slot);
        tr_jumps_to(x, p->jump[i].e.page, false);
    }
    p->age = 0;
}

void tr_park_forget(struct translate *x)
{
    for (unsigned i = 0; i < X86_PARKED_PCIDS; i++)
        x->parked[i].age = 0;
}
