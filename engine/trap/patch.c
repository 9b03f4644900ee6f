/*
 * Patched code pages.
 *
 * The world never executes guest RAM but copies of its pages, execute-only, so that data accesses still meet RAM. A copy begins as
 * trap bytes (HLT) alone. Execution that reaches a trap byte comes to the monitor, which follows the code from there within the
 * page and copies the instructions it meets; the first byte of each instruction that is sensitive and does not trap stays HLT.
 * So nothing is executed that was not looked at, and RAM keeps the original: whoever reads code as data, interprets an
 * instruction or transfers it by DMA sees it.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/trap/trap.h"

#define TRAP_BYTE 0xf4

int patches_init(struct patches *p, uint64_t ram_pages)
{
    memset(p, 0, sizeof(*p));
    p->fd = -1;
    p->nram = ram_pages;
    p->lock = host_mutex_new();
    p->mem = host_ram_alloc((size_t)PATCH_PAGES << 12, &p->fd);
    p->of = calloc(ram_pages, sizeof(*p->of));
    p->page = calloc(PATCH_PAGES, sizeof(*p->page));
    p->free = calloc(PATCH_PAGES, sizeof(*p->free));
    return p->lock && p->mem && p->of && p->page && p->free ? 0 : -1;
}

void patches_fini(struct patches *p)
{
    if (p->lock)
        host_mutex_free(p->lock);
    if (p->mem)
        host_ram_free(p->mem, (size_t)PATCH_PAGES << 12, p->fd);
    free(p->of);
    free(p->page);
    free(p->free);
}

struct ppage *patches_find(struct patches *p, uint64_t ram_page)
{
    return ram_page < p->nram && p->of[ram_page] ? &p->page[p->of[ram_page] - 1] : NULL;
}

static void forget(struct ppage *g)
{
    memset(g->bytes, TRAP_BYTE, 4096);
    memset(g->used, 0, sizeof(g->used));
    memset(g->start, 0, sizeof(g->start));
}

struct ppage *patches_add(struct patches *p, uint64_t ram_page, uint64_t gpn, const uint8_t *ram)
{
    uint32_t i;
    if (p->nfree)
        i = p->free[--p->nfree];
    else if (p->n < PATCH_PAGES)
        i = p->n++;
    else
        return NULL;
    struct ppage *g = &p->page[i];
    g->gpn = gpn;
    g->ram = ram;
    g->bytes = p->mem + ((size_t)i << 12);
    g->mode = X86_MODE_32;
    g->writes = 0;
    forget(g);
    p->of[ram_page] = i + 1;
    return g;
}

void patches_del(struct patches *p, uint64_t ram_page)
{
    if (p->of[ram_page]) {
        forget(&p->page[p->of[ram_page] - 1]);
        p->free[p->nfree++] = p->of[ram_page] - 1;
        p->of[ram_page] = 0;
    }
}

bool trap_is_offender(const struct x86_insn *in)
{
    const uint8_t pg = x86_isa[in->row].pg;
    return pg && !(pg & X86_PG_PRIVILEGED);
}

static bool bit(const uint64_t *b, unsigned i)
{
    return b[i / 64] >> (i % 64) & 1;
}

static void set(uint64_t *b, unsigned i)
{
    b[i / 64] |= 1ull << (i % 64);
}

bool patches_scan(struct patches *p, struct ppage *g, unsigned off, enum x86_mode_bits mode, const uint64_t *features)
{
    uint16_t todo[4096];
    unsigned n = 0;
    struct x86_insn in;

    if (g->mode != mode) {
        forget(g);
        g->mode = (uint8_t)mode;
    }
    todo[n++] = (uint16_t)off;
    while (n) {
        unsigned at = todo[--n];
        while (at < 4096 && !bit(g->start, at)) {
            const unsigned avail = 4096 - at < X86_MAX_INSN ? 4096 - at : X86_MAX_INSN;
            if (x86_decode(&in, g->ram + at, avail, mode, false, features) != X86_DEC_OK || at + in.len > 4096)
                break; /* not an instruction, or not all of it in this page: it stays a trap and is interpreted */
            const uint32_t attr = x86_isa[in.row].attr;
            set(g->start, at);
            for (unsigned i = 0; i < in.len; i++)
                set(g->used, at + i);
            p->scanned++;
            /* An offender's tail is copied too: it may be what another path runs. */
            const bool trap = trap_is_offender(&in);
            for (unsigned i = trap; i < in.len; i++)
                g->bytes[at + i] = in.bytes[i];
            if (trap)
                p->sites++;
            if (in.op == X86_OP_JMP_FAR && in.opnd[0].kind == X86_OPND_FAR && p->out && p->nout < p->out_cap)
                p->out[p->nout++] = (uint32_t)in.imm - p->base; /* into another flat segment, as kernels begin */
            if (attr & X86_ATTR_BRANCH) {
                for (unsigned i = 0; i < in.nopnd; i++)
                    if (in.opnd[i].kind == X86_OPND_REL) {
                        const int64_t to = (int64_t)at + in.len + in.imm;
                        if (to >= 0 && to < 4096 && !bit(g->start, (unsigned)to) && n < 4096)
                            todo[n++] = (uint16_t)to;
                        if ((to < 0 || to >= 4096) && p->out && p->nout < p->out_cap)
                            p->out[p->nout++] = (uint32_t)to;
                    }
                if (!(attr & X86_ATTR_COND) && in.op != X86_OP_CALL && in.op != X86_OP_INT)
                    break; /* nothing falls through; what follows traps when something gets there */
            }
            at += in.len;
            if (at == 4096 && p->out && p->nout < p->out_cap)
                p->out[p->nout++] = 4096;
        }
    }
    return bit(g->start, off) && g->bytes[off] == g->ram[off] && g->bytes[off] != TRAP_BYTE;
}

void patches_inval(struct patches *p, struct ppage *g, unsigned off, unsigned len)
{
    for (unsigned i = off; i < off + len && i < 4096; i++)
        if (bit(g->used, i)) {
            forget(g);
            p->invals++;
            return;
        }
}
