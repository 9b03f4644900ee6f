/* Counting where sensitive instructions are executed: a fixed table by address, a few probes, no eviction. */
#include "x86/cpu.h"

void x86_site_hit(struct x86_cpu *c, unsigned pg, uint64_t rip, unsigned op)
{
    struct x86_sites *t = c->sites;
    uint64_t h = (rip * 0x9e3779b97f4a7c15ull) >> 32;
    for (unsigned i = 0; i < 16; i++) {
        struct x86_site *e = &t->e[(h + i) % X86_SITES];
        if (!e->count || (e->rip == rip && e->op == op)) {
            e->rip = rip;
            e->op = (uint16_t)op;
            e->pg = (uint8_t)pg;
            e->cpl = c->cpl;
            e->count++;
            return;
        }
    }
    t->dropped++;
}
