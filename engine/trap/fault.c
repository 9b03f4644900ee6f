/*
 * Faults of a world that are translations it does not have yet, and the copies of code pages.
 */
#include <stdlib.h>

#include "engine/trap/trap.h"
#include "x86/mmu.h"

#define LOW_PAGES 16u /* hosts let nobody map the first 64 KiB */
#define RUN_MAX 512u  /* pages mapped around a fault in a large page */

/* --- code pages ---------------------------------------------------------------------------- */

static struct ppage *page_at(struct trap *t, const struct gpa_range *r, uint64_t gpa)
{
    return patches_find(&t->tv->patch, (r->host_off + gpa - r->start) >> 12);
}

struct ppage *trap_code_page(struct trap *t, uint64_t gpn)
{
    const struct gpa_range *r = gpa_find(t->v->vm->mem, gpn << 12);
    return r && r->kind == GPA_RAM ? page_at(t, r, gpn << 12) : NULL;
}

/* The copy of a RAM page, made if need be. */
static struct ppage *make_page(struct trap *t, const struct gpa_range *r, uint64_t gpa)
{
    struct patches *p = &t->tv->patch;
    const uint64_t off = gpa - r->start, page = (r->host_off + off) >> 12;
    struct ppage *g = patches_find(p, page);

    if (!g && !(g = patches_add(p, page, gpa >> 12, r->host + off))) { /* full: begin anew */
        for (uint64_t i = 0; i < p->nram; i++)
            patches_del(p, i);
        for (unsigned i = 0; i < t->nspaces; i++)
            space_flush(&t->space[i], true);
        g = patches_add(p, page, gpa >> 12, r->host + off);
    }
    return g;
}

void trap_check_neighbours(struct trap *t, const struct space *s, uint32_t page, struct ppage *g)
{
    const uint64_t before = page ? s->map[page - 1] : 0, after = page + 1 < SPACE_PAGES ? s->map[page + 1] : 0;
    struct ppage *p = before & SPACE_CODE ? trap_code_page(t, before >> 8) : NULL;

    if (p && p->next && p->next != g)
        patches_uncross(p);
    if (g->next && (after & SPACE_CODE) && g->next != trap_code_page(t, after >> 8))
        patches_uncross(g);
}

/* The instruction at CS:EIP crosses from page g into the next: take it over if that is so wherever g is mapped. */
static bool cross(struct trap *t, struct ppage *g)
{
    struct x86_cpu *c = &t->v->cpu;
    const uint32_t lin = (uint32_t)(c->seg[X86_CS].base + c->rip);
    struct x86_xlat x;

    if ((lin & 0xfff) <= 4096 - X86_MAX_INSN || x86_walk(c, (lin | 0xfff) + 1, X86_EXEC, c->cpl == 3, false, &x) != X86_OK)
        return false; /* the fault is found again by who interprets it */
    const struct gpa_range *r = gpa_find(t->v->vm->mem, x.gpa);
    struct ppage *b = r && r->kind == GPA_RAM ? make_page(t, r, x.gpa & ~0xfffull) : NULL;
    if (!b || trap_code_page(t, g->gpn) != g || !interp_mark(t->v->interp_priv, b->gpn << 12, 4096) ||
        !patches_cross(&t->tv->patch, g, lin & 0xfff, b, x86_feature_bits(c->cpuid)))
        return false;
    for (unsigned w = 0; w < t->nspaces && g->next; w++)
        for (uint32_t i = 0; i < t->space[w].n && g->next; i++) {
            const uint32_t page = t->space[w].list[i];
            if ((t->space[w].map[page] & SPACE_CODE) && (t->space[w].map[page] >> 8 == g->gpn || t->space[w].map[page] >> 8 == b->gpn))
                trap_check_neighbours(t, &t->space[w], page, t->space[w].map[page] >> 8 == g->gpn ? g : b);
        }
    return g->next;
}

/* A trap byte was met at CS:EIP, or the page there is executed for the first time: look at the code.
 * True: it can run now. */
bool trap_look(struct trap *t, struct ppage *g)
{
    struct x86_cpu *c = &t->v->cpu;
    const unsigned off = (uint32_t)(c->seg[X86_CS].base + c->rip) & 0xfff;

    /* Marked first, so that nobody writes it unseen: the bytes are read after that. */
    return interp_mark(t->v->interp_priv, g->gpn << 12, 4096) &&
           (patches_scan(&t->tv->patch, g, off, (enum x86_mode_bits)c->mode, c->cpl == 3, x86_feature_bits(c->cpuid)) || cross(t, g));
}

/* Replace wherever direct control flow leads from the entry. What is reached otherwise is still all trap bytes and looked at
 * before it runs. */
void trap_prepare(struct trap *t)
{
    enum { TARGETS = 1 << 16 };
    struct vcpu *v = t->v;
    const struct x86_cpu *c = &v->cpu;
    struct patches *p = &t->tv->patch;
    uint32_t *todo = malloc(TARGETS * sizeof(*todo)), n = 0;
    uint32_t *out = malloc(2 * 4096 * sizeof(*out));

    if (todo && out && x86_pe(c) && !(c->cr0 & X86_CR0_PG) && c->mode == X86_MODE_32 && !c->seg[X86_CS].base)
        todo[n++] = (uint32_t)c->rip;
    p->far = out + 4096;
    p->nfar = 0;
    while (n || p->nfar) {
        if (!n) { /* all that is sure is known */
            p->guess = true;
            todo[n++] = p->far[--p->nfar];
        }
        const uint32_t at = todo[--n];
        const struct gpa_range *r = gpa_find(v->vm->mem, at);
        struct ppage *g = r && r->kind == GPA_RAM ? make_page(t, r, at & ~0xfffu) : NULL;
        if (!g || !interp_mark(v->interp_priv, at & ~0xfffu, 4096))
            continue;
        const uint64_t before = p->scanned;
        p->out = out;
        p->out_cap = 4096;
        p->nout = 0;
        p->base = at & ~0xfffu;
        patches_scan(p, g, at & 0xfff, X86_MODE_32, false, x86_feature_bits(c->cpuid));
        p->out = NULL;
        p->prepared += p->scanned - before;
        for (uint32_t i = 0; i < p->nout && n < TARGETS; i++)
            todo[n++] = (at & ~0xfffu) + out[i];
    }
    p->guess = false;
    free(todo);
    free(out);
}

/* Bytes of a page lost their mark (struct code_user). */
void trap_inval(void *ctx, uint64_t gpa, uint32_t len)
{
    struct trap *t = ctx;
    struct ppage *g = trap_code_page(t, gpa >> 12);

    if (t->d)
        direct_inval(t->d, gpa, len);
    if (g) {
        const unsigned lo = gpa & 0xfc0, hi = ((gpa & 0xfff) + len + 63) & ~63u;
        patches_inval(&t->tv->patch, g, lo, hi - lo);
    }
}

void trap_forget_code(void *ctx)
{
    struct trap *t = ctx;

    if (t->d)
        direct_flush(t->d);
    patches_forget(&t->tv->patch);
}

void trap_unwrite(void *ctx, uint64_t page)
{
    struct trap *t = ctx;
    const struct gpa_range *r = gpa_find(t->v->vm->mem, page);

    if (!r || r->kind != GPA_RAM)
        return;
    uint64_t *w = &t->wmapped[((r->host_off + page - r->start) >> 12) / 64];
    const uint64_t bit = 1ull << ((r->host_off + page - r->start) >> 12) % 64;
    if (*w & bit)
        for (unsigned i = 0; i < t->nspaces; i++)
            space_drop(&t->space[i], page >> 12, SPACE_W);
    *w &= ~bit;
}

/* --- translations ---------------------------------------------------------------------------- */

static void note_writable(struct trap *t, const struct gpa_range *r, uint64_t roff)
{
    const uint64_t page = (r->host_off + roff) >> 12;

    __atomic_fetch_or(&r->page_flags[roff >> 12], GPA_PF_WRITER(t->v->index), __ATOMIC_SEQ_CST);
    t->wmapped[page / 64] |= 1ull << page % 64;
}

void trap_page_fault(struct trap *t, uint32_t hw, uint32_t err, struct vcpu_exit *exit)
{
    struct vcpu *v = t->v;
    struct x86_cpu *c = &v->cpu;
    const bool user = c->cpl == 3;
    struct space *s = trap_space(t);
    const int access = err & 16 ? X86_EXEC : err & 2 ? X86_WRITE : X86_READ;
    const bool fetch = s->split && access == X86_EXEC;
    const uint32_t page = hw >> 12, lin = fetch ? hw - t->delta : hw - s->shift, eip = (uint32_t)(c->seg[X86_CS].base + c->rip);
    const uint64_t had = s->map[page];
    struct x86_xlat x;

    if (fetch && eip - t->code >= WINDOW_SIZE) { /* control left the window: the next entry has another */
        s->left = true;
        return;
    }
    if (s->split && (fetch ? lin - t->code >= WINDOW_SIZE : s->low ? lin < WINDOWS_LOW * WINDOW_SIZE : lin >= WINDOWS_HIGH))
        goto interpret;
    if (x86_walk(c, lin, access, user, false, &x) != X86_OK) {
        t->tv->n.faults_guest++;
        trap_deliver(t);
        return;
    }
    const struct gpa_range *r = gpa_find(v->vm->mem, x.gpa);
    if (!r || r->kind != GPA_RAM || page < LOW_PAGES)
        goto interpret;
    const uint64_t gpa = x.gpa & ~0xfffull, roff = gpa - r->start;
    uint32_t *flags = &r->page_flags[roff >> 12];
    unsigned f = (x.global && (c->cr4 & X86_CR4_PGE) ? SPACE_GLOBAL : 0) | (x.page_size > 4096 ? SPACE_LARGE : 0);

    t->tv->n.faults_tlb++;
    if (fetch) {
        struct ppage *g = make_page(t, r, gpa);
        if (!g)
            goto interpret;
        if (lin == eip)
            trap_look(t, g);
        if (had >> 8 == gpa >> 12 && (had & SPACE_CODE))
            goto interpret;
        trap_check_neighbours(t, s, page, g);
        space_map(s, page, 1, gpa >> 12, (uint64_t)(g - t->tv->patch.page) << 12, f | SPACE_CODE);
        return;
    }
    if (__atomic_load_n(flags, __ATOMIC_RELAXED) & GPA_PF_CODE) {
        if (access == X86_WRITE) {
            t->tv->n.code_writes++;
            goto interpret;
        }
    } else if (x.writable) {
        note_writable(t, r, roff);
        f |= SPACE_W;
    }
    if (!s->split && (access == X86_EXEC || (had & SPACE_X && had >> 8 == gpa >> 12) || !(c->efer & X86_EFER_NXE)))
        f |= SPACE_X;
    if (had >> 8 == gpa >> 12 && (had & (SPACE_W | SPACE_X | SPACE_GLOBAL | SPACE_LARGE | SPACE_CODE)) == f)
        goto interpret; /* the host has it already: no progress that way */

    /* The rest of a large page comes along as far as it is plain. */
    uint32_t n = 1;
    if (x.page_size > 4096) {
        const uint32_t last = page | ((uint32_t)(x.page_size >> 12) - 1);
        while (n < RUN_MAX && page + n <= last && !s->map[page + n] && roff + ((uint64_t)n << 12) < r->size) {
            if (__atomic_load_n(&r->page_flags[(roff >> 12) + n], __ATOMIC_RELAXED) & GPA_PF_CODE)
                break;
            if (f & SPACE_W)
                note_writable(t, r, roff + ((uint64_t)n << 12));
            n++;
        }
    }
    space_map(s, page, n, gpa >> 12, r->host_off + roff, f);
    return;
interpret:
    t->tv->n.interpreted++;
    trap_step_one(t, exit);
}
