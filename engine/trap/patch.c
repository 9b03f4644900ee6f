/*
 * Patched code pages.
 *
 * The world never executes guest RAM but copies of its pages, apart from where data accesses meet RAM (space.c). A copy begins as
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
    p->mem = host_ram_alloc((size_t)PATCH_PAGES << 12, &p->fd);
    p->of = calloc(ram_pages, sizeof(*p->of));
    p->page = calloc(PATCH_PAGES, sizeof(*p->page));
    p->free = calloc(PATCH_PAGES, sizeof(*p->free));
    for (unsigned i = 0; i < 2; i++)
        p->reach[i] = (struct reach){.near_lo = REACH_NEAR, .near_hi = -REACH_NEAR, .far_lo = UINT32_MAX};
    return p->mem && p->of && p->page && p->free ? 0 : -1;
}

void patches_fini(struct patches *p)
{
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

static void forget(struct ppage *g);

void patches_uncross(struct ppage *a)
{
    struct ppage *b = a->next;

    if (!b)
        return;
    a->next = NULL;
    b->prev = NULL;
    a->start[a->cross / 64] &= ~(1ull << (a->cross % 64));
    for (unsigned i = a->cross; i < 4096; i++) {
        a->bytes[i] = TRAP_BYTE;
        a->used[i / 64] &= ~(1ull << (i % 64));
    }
    /* Its tail must not stay as code nobody looked at. */
    if (b->start[0] & ((1ull << a->tail) - 1)) {
        forget(b);
    } else {
        memset(b->bytes, TRAP_BYTE, a->tail);
        b->used[0] &= ~((1ull << a->tail) - 1);
    }
}

static void forget(struct ppage *g)
{
    if (g->prev)
        patches_uncross(g->prev);
    if (g->next)
        patches_uncross(g);
    memset(g->bytes, TRAP_BYTE, 4096);
    memset(g->used, 0, sizeof(g->used));
    memset(g->start, 0, sizeof(g->start));
    memset(g->sure, 0, sizeof(g->sure));
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
    g->next = g->prev = NULL;
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

void patches_forget(struct patches *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        forget(&p->page[i]);
}

bool trap_is_offender(const struct x86_insn *in)
{
    const uint8_t pg = x86_isa[in->row].pg;
    return pg && !(pg & X86_PG_PRIVILEGED);
}

/* Memory operands through FS or GS with an address in the instruction: remember which; true if it is computed (segs.c). */
static bool through_fs_gs(struct patches *p, const struct x86_insn *in)
{
    if (in->seg_override != X86_FS && in->seg_override != X86_GS)
        return false;
    for (unsigned i = 0; i < in->nopnd; i++) {
        if (in->opnd[i].kind != X86_OPND_MEM)
            continue;
        if (in->addrsize != 4 || in->mem.base != X86_REG_NONE || in->mem.index != X86_REG_NONE || (x86_isa[in->row].attr & X86_ATTR_BITSTR))
            return true;
        struct reach *r = &p->reach[in->seg_override == X86_GS];
        const int32_t d = (int32_t)in->mem.disp;
        if (d >= -REACH_NEAR && d < REACH_NEAR) {
            r->near_lo = d < r->near_lo ? d : r->near_lo;
            r->near_hi = d > r->near_hi ? d : r->near_hi;
        } else {
            r->far_lo = (uint32_t)d < r->far_lo ? (uint32_t)d : r->far_lo;
            r->far_hi = (uint32_t)d > r->far_hi ? (uint32_t)d : r->far_hi;
        }
    }
    return false;
}

static bool bit(const uint64_t *b, unsigned i)
{
    return b[i / 64] >> (i % 64) & 1;
}

static void set(uint64_t *b, unsigned i)
{
    b[i / 64] |= 1ull << (i % 64);
}

static void leads(struct patches *p, bool sure, int64_t to)
{
    if (!p->out)
        return;
    if (sure && p->nout < p->out_cap)
        p->out[p->nout++] = (uint32_t)to;
    if (!sure && p->nfar < p->out_cap)
        p->far[p->nfar++] = p->base + (uint32_t)to;
}

bool patches_scan(struct patches *p, struct ppage *g, unsigned off, enum x86_mode_bits mode, bool user, const uint64_t *features)
{
    uint16_t todo[4096], later[4096];
    unsigned n = 0, m = 0;
    struct x86_insn in;

    if (g->mode != mode || g->user != user) {
        forget(g);
        g->mode = (uint8_t)mode;
        g->user = user;
    }
    todo[n++] = (uint16_t)off;
    while (n || m) {
        const bool sure = n && !p->guess; /* first what is */
        unsigned at = n ? todo[--n] : later[--m];
        while (at < 4096 && !bit(g->start, at)) {
            const unsigned avail = 4096 - at < X86_MAX_INSN ? 4096 - at : X86_MAX_INSN;
            if (x86_decode(&in, g->ram + at, avail, mode, false, features) != X86_DEC_OK || at + in.len > 4096)
                break; /* not an instruction, or not all of it in this page: it stays a trap and is interpreted */
            const uint32_t attr = x86_isa[in.row].attr;
            set(g->start, at);
            for (unsigned i = 0; i < in.len; i++)
                set(g->used, at + i);
            for (unsigned i = 0; i < in.len && sure; i++)
                set(g->sure, at + i);
            p->scanned++;
            /* An offender's tail is copied too: it may be what another path runs. */
            const bool trap = (through_fs_gs(p, &in) && !user) || trap_is_offender(&in);
            for (unsigned i = trap; i < in.len; i++)
                g->bytes[at + i] = in.bytes[i];
            if (trap) {
                p->sites++;
                if (g->prev && at < g->prev->tail)
                    patches_uncross(g->prev); /* forgets this very page: it is looked at anew */
            }
            if (in.op == X86_OP_JMP_FAR && in.opnd[0].kind == X86_OPND_FAR)
                leads(p, false, (int64_t)(uint32_t)in.imm - p->base); /* into another flat segment, as kernels begin */
            if (attr & X86_ATTR_BRANCH) {
                for (unsigned i = 0; i < in.nopnd; i++)
                    if (in.opnd[i].kind == X86_OPND_REL) {
                        const int64_t to = (int64_t)at + in.len + in.imm;
                        if (to < 0 || to >= 4096)
                            leads(p, sure, to);
                        else if (!bit(g->start, (unsigned)to) && (sure ? n : m) < 4096)
                            *(sure ? &todo[n++] : &later[m++]) = (uint16_t)to;
                    }
                if (!(attr & X86_ATTR_COND) && in.op != X86_OP_CALL && in.op != X86_OP_INT)
                    break; /* nothing falls through; what follows traps when something gets there */
            }
            at += in.len;
            const bool called = in.op == X86_OP_CALL; /* who returns from there may have changed the mode */
            if (at == 4096)
                leads(p, sure && !called, 4096);
            if (sure && called) {
                if (at < 4096 && m < 4096)
                    later[m++] = (uint16_t)at;
                break;
            }
        }
    }
    return bit(g->start, off) && g->bytes[off] == g->ram[off] && g->bytes[off] != TRAP_BYTE;
}

bool patches_cross(struct patches *p, struct ppage *a, unsigned off, struct ppage *b, const uint64_t *features)
{
    const unsigned here = 4096 - off;
    uint8_t buf[X86_MAX_INSN];
    struct x86_insn in;

    if (a == b || a->next || b->prev || here >= X86_MAX_INSN || bit(a->start, off))
        return false;
    if (b->mode != a->mode || b->user != a->user) {
        forget(b);
        b->mode = a->mode;
        b->user = a->user;
    }
    for (unsigned i = off; i < 4096; i++)
        if (bit(a->used, i))
            return false; /* another way to read these bytes */
    memcpy(buf, a->ram + off, here);
    memcpy(buf + here, b->ram, sizeof(buf) - here);
    if (x86_decode(&in, buf, sizeof(buf), (enum x86_mode_bits)a->mode, false, features) != X86_DEC_OK || in.len <= here ||
        trap_is_offender(&in) || (through_fs_gs(p, &in) && !a->user) || in.bytes[0] == TRAP_BYTE)
        return false;
    for (unsigned i = here; i < in.len; i++)
        if (bit(b->start, i - here) && b->bytes[i - here] != in.bytes[i])
            return false; /* a replaced instruction begins there */
    set(a->start, off);
    for (unsigned i = 0; i < in.len; i++) {
        set(i < here ? a->used : b->used, i < here ? off + i : i - here);
        *(i < here ? a->bytes + off + i : b->bytes + i - here) = in.bytes[i];
    }
    a->next = b;
    a->cross = (uint16_t)off;
    a->tail = (uint8_t)(in.len - here);
    b->prev = a;
    p->scanned++;
    return true;
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
