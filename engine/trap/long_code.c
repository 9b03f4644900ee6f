/*
 * Pages of 64-bit code with replacement: what is known of each (long_scan.c), and its copy.
 *
 * User code in the state in which hosts execute programs is looked at as engine translate does (engine/direct/scan.c): there few
 * instructions offend. All other code, above all the kernel's, is followed.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/trap/trap.h"
#include "ringer/gpa.h"
#include "x86/cpuid.h"
#include "x86/mmu.h"

unsigned trap_long_key(const struct trap *t)
{
    const struct x86_cpu *c = &t->v->cpu;

    if (direct_can_run(c))
        return 0;
    return LONG_FULL | (c->cr4 & X86_CR4_OSFXSR ? LONG_SSE : 0) | ((c->cr4 & X86_CR4_OSXSAVE) && (c->xcr0 & 6) == 6 ? LONG_AVX : 0) |
           (c->cr4 & X86_CR4_FSGSBASE ? LONG_FSGSBASE : 0) | (t->d->shows_cpuid ? LONG_SHOWS_CPUID : 0);
}

/* Look at what is known of a page again. */
static uint8_t judge(struct trap *t, struct lpage *l, uint32_t *flags, const uint8_t *host)
{
    struct direct *d = t->d;
    uint8_t copy[4096];
    const int n = long_judge(l, host, x86_feature_bits(t->v->cpu.cpuid), copy);
    const uint16_t to = n > 0 ? direct_copy_of(d, flags) : 0;

    if (n >= 0) {
        t->tv->patch.sites += (unsigned)n > l->sites ? (unsigned)n - l->sites : 0;
        l->sites = (unsigned)n;
    }
    if (to) /* worlds that have it mapped see it change */
        memcpy(d->copies + ((to - 1u) << 12), copy, 4096);
    return n == 0 ? DCODE_PLAIN : to ? DCODE_COPY : DCODE_SENSITIVE;
}

/* The page of code at a linear address, without any effect. False: it is not plainly RAM. */
static bool code_at(struct trap *t, uint64_t lin, uint64_t *gpa, uint32_t **flags, const uint8_t **host)
{
    const struct gpa_range *r;
    struct x86_look l;

    if (!x86_walk_look(&t->v->cpu, lin, &l) || !(r = gpa_find(t->v->vm->mem, l.gpa)) || r->kind != GPA_RAM)
        return false;
    *gpa = l.gpa & ~0xfffull;
    *flags = &r->page_flags[(l.gpa - r->start) >> 12];
    *host = r->host + (*gpa - r->start);
    return true;
}

/* What an instruction that crosses into the page at lin has of it is none of its own. True: that is news. */
static bool take_tail(struct trap *t, uint64_t lin, struct lpage *l, const uint8_t *host)
{
    const uint64_t there = (lin & ~0xfffull) - 4096;
    const bool was = l->closed;
    const struct lpage *before;
    struct x86_look at;
    struct x86_insn in;
    const uint8_t *p;
    uint32_t *flags;
    uint64_t gpa;

    l->closed = !x86_walk_look(&t->v->cpu, there, &at) || !space_allows(t->d, space_of(t->d), &at, X86_EXEC);
    if (l->closed || was)
        return l->closed != was;
    if (!code_at(t, there, &gpa, &flags, &p) || !(before = t->lpages[direct_page(t->d, flags)]) || before->key != l->key)
        return false;
    const uint64_t tail = (1ull << long_tail(before, p, host, x86_feature_bits(t->v->cpu.cpuid), &in)) - 1;
    const bool news = tail & ~l->used[0];

    long_exclude(l, (uint64_t[64]){tail});
    return news;
}

/* lin: where the page is seen; met: there is code at this offset in it, or -1. */
static uint8_t look(struct trap *t, uint64_t lin, uint64_t gpa, uint32_t *flags, const uint8_t *host, struct long_target met, struct long_out *out)
{
    struct direct *d = t->d;
    const unsigned key = trap_long_key(t);
    const uint64_t page = direct_page(d, flags);
    struct lpage *l = t->lpages[page];
    uint8_t *kind = &d->code[page];
    bool fresh = false;

    if (*kind != DCODE_UNKNOWN && (l ? l->key : 0) != key)
        direct_code_forget(d, gpa, flags);
    d->ends_plain = key; /* an instruction that crosses offends, if it may */
    if (!key) {
        if (l)
            l->key = 0;
        return direct_code_kind(d, gpa, flags, host);
    }
    if (*kind == DCODE_UNKNOWN) {
        if (!l && !(l = t->lpages[page] = malloc(sizeof(*l))))
            return DCODE_SENSITIVE;
        if (!interp_mark(d->it, gpa & ~0xfffull, 4096))
            return DCODE_UNKNOWN;
        d->st.scans++;
        long_reset(l, key);
        const struct ppage *g = patches_find(&t->tv->patch, page);
        if (g) /* 32-bit code, as the way to long mode is */
            long_exclude(l, g->sure);
        fresh = true;
    }
    if (met.to >= 0 && !long_seen(l, met)) {
        t->tv->patch.scanned += long_follow(l, host, met, x86_feature_bits(t->v->cpu.cpuid), out);
        fresh |= met.sure;
    }
    if ((fresh || *kind == DCODE_SENSITIVE || l->closed) && take_tail(t, lin, l, host))
        fresh = true;
    if (fresh) {
        const uint8_t before = *kind;

        *kind = judge(t, l, flags, host);
        if (before != DCODE_UNKNOWN && before != *kind && *kind != DCODE_PLAIN) { /* what is mapped is not what is to be executed */
            const uint8_t now = *kind;

            direct_code_forget(d, gpa, flags);
            *kind = now;
        }
    }
    return *kind;
}

static uint8_t look_for_fill(void *ctx, uint64_t lin, uint64_t gpa, uint32_t *flags, const uint8_t *host)
{
    struct trap *t = ctx;
    const uint64_t rip = t->v->cpu.rip;

    return look(t, lin, gpa, flags, host, (struct long_target){rip - lin < 4096 ? (int32_t)(rip - lin) : -1, true}, NULL);
}

bool trap_long_doubtful(struct trap *t)
{
    const uint64_t rip = t->v->cpu.rip;
    const uint8_t *host;
    uint32_t *flags;
    uint64_t gpa;

    return code_at(t, rip, &gpa, &flags, &host) && t->d->code[direct_page(t->d, flags)] == DCODE_SENSITIVE && look(t, rip, gpa, flags, host, (struct long_target){rip & 0xfff, true}, NULL) == DCODE_SENSITIVE;
}

void trap_long_met(struct trap *t)
{
    const uint64_t rip = t->v->cpu.rip;
    const uint8_t *host;
    uint32_t *flags;
    uint64_t gpa;

    if (!code_at(t, rip, &gpa, &flags, &host))
        return;
    if (look(t, rip, gpa, flags, host, (struct long_target){rip & 0xfff, true}, NULL) == DCODE_COPY)
        t->tv->n.patched += t->d->copies[((t->d->copy[direct_page(t->d, flags)] - 1u) << 12) + (rip & 0xfff)] != host[rip & 0xfff];
}

void trap_long_prepare(struct trap *t)
{
    enum { TARGETS = 1 << 14, OUT = 4096 };
    struct place {
        uint64_t lin;
        bool sure;
    } *todo = malloc(TARGETS * sizeof(*todo));
    struct long_target *to = malloc(OUT * sizeof(*to));
    const uint64_t before = t->tv->patch.scanned, *features = x86_feature_bits(t->v->cpu.cpuid);
    const uint8_t *host, *next;
    uint32_t *flags;
    uint64_t gpa;
    unsigned n = 0;

    if (todo && to && trap_long_key(t))
        todo[n++] = (struct place){t->v->cpu.rip, true};
    while (n) {
        const struct place at = todo[--n];
        const uint64_t page = at.lin & ~0xfffull;
        struct long_out out = {.to = to, .cap = OUT};
        struct x86_insn in;

        if (!code_at(t, at.lin, &gpa, &flags, &host))
            continue;
        const struct lpage *const *l = (const struct lpage *const *)&t->lpages[direct_page(t->d, flags)];
        const bool had_cut = *l && (*l)->cut;
        look(t, at.lin, gpa, flags, host, (struct long_target){at.lin & 0xfff, at.sure}, &out);
        for (unsigned i = 0; i < out.n && n < TARGETS; i++)
            todo[n++] = (struct place){page + (uint64_t)(int64_t)to[i].to, to[i].sure};
        /* Behind an instruction that crosses into the next page, and where it leads. */
        if (!had_cut && *l && (*l)->cut && code_at(t, page + 4096, &gpa, &flags, &next) && long_tail(*l, host, next, features, &in)) {
            const uint64_t behind = page + (*l)->cut + in.len;
            const uint32_t attr = x86_isa[in.row].attr;

            for (unsigned i = 0; i < in.nopnd && n < TARGETS; i++)
                if (in.opnd[i].kind == X86_OPND_REL)
                    todo[n++] = (struct place){behind + (uint64_t)in.imm, true};
            if ((!(attr & X86_ATTR_BRANCH) || (attr & X86_ATTR_COND) || in.op == X86_OP_CALL) && n < TARGETS)
                todo[n++] = (struct place){behind, in.op != X86_OP_CALL};
        }
    }
    t->tv->patch.prepared += t->tv->patch.scanned - before;
    free(todo);
    free(to);
}

int trap_long_code_init(struct trap *t)
{
    t->lpages = calloc(t->v->vm->ram_size >> 12, sizeof(struct lpage *));
    t->d->look = look_for_fill;
    t->d->look_ctx = t;
    return t->lpages ? 0 : -1;
}

void trap_long_code_fini(struct trap *t)
{
    for (uint64_t i = 0; t->lpages && i < t->v->vm->ram_size >> 12; i++)
        free(t->lpages[i]);
    free(t->lpages);
    t->lpages = NULL;
}
