/*
 * A world's mappings as the TLB of a guest address space (SDM Vol. 3A, 4.10). Dropping a mapping is always right; what the
 * guest flushes must go, at the latest before guest code runs again. Entries are made as a processor may make them: only for pages whose A
 * bit is set (and D, to be writable). So after a large flush an entry stays if the page tables still say what it says, which
 * is what a processor that walked them at once would have cached.
 *
 * Code and stores: a page is mapped for writing only while it holds no code (GPA_PF_CODE, x86/mmu.c), executable only when
 * all of it is marked as code and was looked at (scan.c), so never both.
 */
#include <string.h>

#include "ringer/gpa.h"
#include "engine/direct/direct.h"
#include "x86/cpuid.h"
#include "x86/mmu.h"

#define OFFS 0xfffull
#define MASK_PAGE (~OFFS)
#define AROUND 16u        /* pages looked at around one that faulted, aligned */
#define PAGES_MAX 40000u  /* of one world: below what hosts allow (vm.max_map_count, 65530) */
#define WRITES_MAX 64u    /* stores into a page of code done one by one, before its code is forgotten */

/* --- which space -------------------------------------------------------------------------- */

struct dspace *space_of(struct direct *d)
{
    const uint64_t cr3 = d->v->cpu.cr3, pgd = cr3 & 0x000ffffffffff000ull;
    const bool super = d->levels && d->v->cpu.cpl != 3;
    struct dspace *s, *old = &d->space[0];

    if (d->cur && d->cur_cr3 == cr3 && d->cur->super == super)
        return d->cur;
    for (s = d->space; s < d->space + DIRECT_SPACES; s++) {
        if (s->pgd == pgd && s->super == super)
            goto found;
        if (s->used < old->used)
            old = s;
    }
    s = old;
    policy_withdraw(d, s);
    struct user64 *const w = s->w; /* stays with the slot, for whoever is promoted next */
    if (w)
        space_forget(d, s);
    *s = (struct dspace){.pgd = pgd, .super = super, .w = w, .map = s->map, .fault = NO_PAGE};
found:
    if (s->pcid != (cr3 & 0xfff)) { /* cached under another tag, if at all */
        s->pcid = cr3 & 0xfff;
        s->stale = true;
    }
    s->used = ++d->clock;
    d->cur = s;
    d->cur_cr3 = cr3;
    return s;
}

void space_forget(struct direct *d, struct dspace *s)
{
    if (s->w) {
        user64_unmap_all(s->w);
        d->st.flushed++;
    }
    if (s->map.e)
        dmap_clear(&s->map);
    s->stale = s->large = s->huge = false;
    s->seen = d->v->cpu.mmu.events.seq;
}

/* --- dropping ------------------------------------------------------------------------------- */

static bool drop(struct direct *d, struct dspace *s, struct dmap_entry *e)
{
    if (!user64_unmap(s->w, e->lin, 4096)) {
        space_forget(d, s);
        return false;
    }
    d->st.unmapped++;
    dmap_del(&s->map, e);
    return true;
}

/* Drop what maps a guest-physical page with any of these rights. */
static void drop_gpa(struct direct *d, struct dspace *s, uint64_t gpa, unsigned rights)
{
    for (unsigned i = dmap_cap(&s->map); i-- > 0;)
        if (s->map.e[i].lin && ((s->map.e[i].gpa ^ gpa) & MASK_PAGE) == 0 && (s->map.e[i].gpa & rights) && !drop(d, s, &s->map.e[i]))
            return;
}

bool space_allows(const struct direct *d, const struct dspace *s, const struct x86_look *l, unsigned access)
{
    const struct x86_cpu *c = &d->v->cpu;

    if (!s->super)
        return l->user && (access != X86_WRITE || l->write) && (access != X86_EXEC || !l->nx);
    if (access == X86_EXEC)
        return !l->nx && !(l->user && (c->cr4 & X86_CR4_SMEP));
    return !(l->user && (c->cr4 & X86_CR4_SMAP) && !s->open) && (access != X86_WRITE || l->write || !(c->cr0 & X86_CR0_WP));
}

void space_forget_code(struct direct *d, struct dspace *s)
{
    for (unsigned i = s->map.e ? dmap_cap(&s->map) : 0; i-- > 0;)
        if (s->map.e[i].lin && (s->map.e[i].gpa & DMAP_X) && !drop(d, s, &s->map.e[i]))
            return;
}

/* Does the entry say what a walk at this moment would? *moved: the page is another one. */
static bool still(struct direct *d, const struct dspace *s, const struct dmap_entry *e, bool *moved)
{
    struct x86_look l;

    *moved = !x86_walk_look(&d->v->cpu, e->lin, &l) || !(s->super || l.user) || ((l.gpa ^ e->gpa) & MASK_PAGE);
    if (*moved || !l.accessed || !space_allows(d, s, &l, X86_READ) || ((e->gpa & DMAP_W) && !(l.dirty && space_allows(d, s, &l, X86_WRITE))) ||
        ((e->gpa & DMAP_X) && !space_allows(d, s, &l, X86_EXEC)))
        return false;
    const struct gpa_range *r = gpa_find(d->v->vm->mem, l.gpa);
    return r && r->kind == GPA_RAM && r->host_off + ((l.gpa & MASK_PAGE) - r->start) == e->off;
}

static void check_all(struct direct *d, struct dspace *s)
{
    unsigned wrote = 0, gone = 0;
    bool moved;

    d->st.checks++;
    s->stale = false;
    for (unsigned i = dmap_cap(&s->map); i-- > 0;) {
        const struct dmap_entry *e = &s->map.e[i];

        if (!e->lin)
            continue;
        wrote += !!(e->gpa & DMAP_W);
        if (!still(d, s, e, &moved)) {
            gone += moved && (e->gpa & DMAP_W);
            if (!drop(d, s, &s->map.e[i]))
                break;
        }
    }
    /* All its data: the tables now belong to another program. It has to show for itself that it computes. */
    if (!d->forced && wrote && gone > wrote - wrote / 8 - 1) {
        policy_withdraw(d, s);
        s->score = 0;
        s->demotions = 0;
    }
}

void space_sync(struct direct *d, struct dspace *s)
{
    const struct x86_tlb_events *l = &d->v->cpu.mmu.events;

    if (s->seen != l->seq && l->seq - s->seen > X86_TLB_EVENTS) {
        space_forget(d, s); /* not only stale: an UNWRITE may be among the lost */
        return;
    }
    for (; s->seen != l->seq; s->seen++) {
        const struct x86_tlb_event *ev = &l->ev[s->seen % X86_TLB_EVENTS];
        struct dmap_entry *e;

        if (!s->w)
            continue;
        switch (ev->kind) {
        case X86_TLB_EV_ALL: s->stale = true; break;
        case X86_TLB_EV_PCID: s->stale |= ev->arg == s->pcid || !(d->v->cpu.cr4 & X86_CR4_PCIDE); break;
        case X86_TLB_EV_PAGE:
            s->stale |= s->huge;
            for (uint64_t lin = s->large ? ev->arg & ~0x1fffffull : ev->arg, n = s->large ? 512 : 1; n--; lin += 4096)
                if ((e = dmap_find(&s->map, lin)) && (lin == ev->arg || (e->gpa & DMAP_LARGE)) && !drop(d, s, e))
                    return;
            break;
        case X86_TLB_EV_UNWRITE: {
            const uint32_t *f = gpa_page_flags(d->v->vm->ram_map, ev->arg);

            if (f && (d->mapped[direct_page(d, f) / 64] >> (direct_page(d, f) % 64) & 1)) {
                drop_gpa(d, s, ev->arg, DMAP_W);
                if (s->seen == l->seq)
                    return;
            }
            break;
        }
        }
    }
    if (s->stale && s->w)
        check_all(d, s);
}

void direct_inval(struct direct *d, uint64_t gpa, uint32_t len)
{
    const uint32_t *f = gpa_page_flags(d->v->vm->ram_map, gpa);

    if (!f || d->code[direct_page(d, f)] == DCODE_UNKNOWN)
        return;
    direct_code_forget(d, gpa, f);
}

void direct_code_forget(struct direct *d, uint64_t gpa, const uint32_t *flags)
{
    d->code[direct_page(d, flags)] = DCODE_UNKNOWN;
    for (struct dspace *s = d->space; s < d->space + DIRECT_SPACES; s++)
        if (s->w)
            drop_gpa(d, s, gpa, DMAP_X);
}

void direct_flush(struct direct *d)
{
    memset(d->code, DCODE_UNKNOWN, d->v->vm->ram_size >> 12);
    for (struct dspace *s = d->space; s < d->space + DIRECT_SPACES; s++)
        if (s->w)
            space_forget(d, s);
}

/* --- filling ------------------------------------------------------------------------------------- */

uint16_t direct_copy_of(struct direct *d, const uint32_t *flags)
{
    uint16_t *copy = &d->copy[direct_page(d, flags)];

    if (!*copy && d->ncopies < DIRECT_COPIES)
        *copy = (uint16_t)++d->ncopies;
    return *copy;
}

uint8_t direct_code_kind(struct direct *d, uint64_t gpa, uint32_t *flags, const uint8_t *host)
{
    uint8_t *k = &d->code[direct_page(d, flags)];
    uint16_t at[SCAN_SITES];

    if (*k != DCODE_UNKNOWN)
        return *k;
    if (!interp_mark(d->it, gpa & MASK_PAGE, 4096))
        return DCODE_UNKNOWN;
    d->st.scans++;
    const int n = scan_page(host, !d->shows_cpuid, x86_feature_bits(d->v->cpu.cpuid), at);
    const uint16_t copy = n > 0 ? direct_copy_of(d, flags) : 0;

    if (copy) {
        uint8_t *c = d->copies + ((copy - 1u) << 12);

        memcpy(c, host, 4096);
        for (int i = 0; i < n; i++)
            c[at[i]] = 0xf4;
    }
    *k = !n ? DCODE_PLAIN : copy ? DCODE_COPY : DCODE_SENSITIVE;
    if (*k != DCODE_PLAIN)
        d->st.sensitive++;
    return *k;
}

struct fill {
    uint64_t lin, gpa, off, page_size;
    uint64_t from; /* of the copy, if it is one */
    unsigned rights;
};

/* What is to be mapped at once. */
struct batch {
    struct fill f[AROUND];
    unsigned n;
};

/* The bytes of the page at lin if guest code can execute it, or will be able to. */
static const uint8_t *executable(struct direct *d, struct dspace *s, const struct batch *b, uint64_t lin)
{
    const struct dmap_entry *e = dmap_find(&s->map, lin);

    for (unsigned i = 0; i < b->n; i++)
        if (b->f[i].lin == lin && (b->f[i].rights & DMAP_X))
            return (const uint8_t *)d->v->vm->ram + b->f[i].off;
    return e && (e->gpa & DMAP_X) ? (const uint8_t *)d->v->vm->ram + e->off : NULL;
}

/* Would an instruction across one of the page's ends be one that must not run directly? Only if the other page is executable, too. */
static bool joints_plain(struct direct *d, struct dspace *s, const struct batch *b, uint64_t lin, const uint8_t *host)
{
    const uint8_t *before = executable(d, s, b, lin - 4096), *behind = executable(d, s, b, lin + 4096);

    return !(before && !scan_joint(before, host, !d->shows_cpuid, x86_feature_bits(d->v->cpu.cpuid))) && !(behind && !scan_joint(host, behind, !d->shows_cpuid, x86_feature_bits(d->v->cpu.cpuid)));
}

/* What may be mapped at lin, now that the page tables allow access there. False: not plainly RAM. want_x: for execution. */
static bool plan(struct direct *d, struct dspace *s, const struct batch *b, struct fill *f, bool want_w, bool want_x)
{
    const struct gpa_range *r = gpa_find(d->v->vm->mem, f->gpa);
    uint32_t *flags;

    if (!r || r->kind != GPA_RAM || f->lin < USER64_LOW || f->lin >= USER64_HIGH - 4096 || user64_collides(s->w, f->lin, 4096))
        return false;
    f->off = r->host_off + (f->gpa - r->start);
    flags = &r->page_flags[(f->gpa - r->start) >> 12];
    f->rights = 0;
    if (d->bare) {
        if (want_w)
            __atomic_fetch_or(flags, d->v->cpu.mmu.page_bit, __ATOMIC_SEQ_CST);
        f->rights = (want_x ? DMAP_X : 0) | (want_w ? DMAP_W : 0);
    } else if (want_x) {
        const uint8_t *host = r->host + (f->gpa - r->start);

        const uint8_t kind = d->look ? d->look(d->look_ctx, f->lin, f->gpa, flags, host) : direct_code_kind(d, f->gpa, flags, host);

        if ((kind != DCODE_PLAIN && kind != DCODE_COPY) || (!d->ends_plain && !joints_plain(d, s, b, f->lin, host)))
            return false;
        f->rights = DMAP_X | (kind == DCODE_COPY ? DMAP_COPY : 0);
        if (kind == DCODE_COPY)
            f->from = (uint64_t)(d->copy[direct_page(d, flags)] - 1) << 12;
    } else if (want_w) {
        const uint32_t old = __atomic_fetch_or(flags, d->v->cpu.mmu.page_bit, __ATOMIC_SEQ_CST);

        if (!(old & GPA_PF_CODE))
            f->rights = DMAP_W;
    }
    d->mapped[direct_page(d, flags) / 64] |= 1ull << (direct_page(d, flags) % 64);
    return true;
}

/* The same for a page next to one that faulted: only what the guest has used before in the same way. */
static bool neighbour(struct direct *d, struct dspace *s, const struct batch *b, struct fill *f, int access)
{
    struct x86_look l;

    if (dmap_find(&s->map, f->lin) || !x86_walk_look(&d->v->cpu, f->lin, &l) || !l.accessed || !space_allows(d, s, &l, X86_READ))
        return false;
    if (access == X86_EXEC && !space_allows(d, s, &l, X86_EXEC))
        return false;
    f->gpa = l.gpa & MASK_PAGE;
    f->page_size = l.page_size;
    return plan(d, s, b, f, l.dirty && space_allows(d, s, &l, X86_WRITE), access == X86_EXEC);
}

static bool emit(struct direct *d, struct dspace *s, const struct fill *f, unsigned n)
{
    for (unsigned i = 0; i < n;) {
        unsigned k = i + 1;

        const bool copy = f[i].rights & DMAP_COPY;

        while (!copy && k < n && f[k].lin == f[k - 1].lin + 4096 && f[k].off == f[k - 1].off + 4096 && f[k].rights == f[i].rights)
            k++;
        if (!user64_map(s->w, f[i].lin, (uint64_t)(k - i) << 12, copy ? f[i].from : f[i].off, (copy ? USER64_COPY : 0) | USER64_R | (f[i].rights & DMAP_W ? USER64_W : 0) | (f[i].rights & DMAP_X ? USER64_X : 0)))
            return false;
        for (; i < k; i++) {
            const struct dmap_entry e = {f[i].lin, f[i].off, f[i].gpa | f[i].rights | (f[i].page_size > 4096 ? DMAP_LARGE : 0)};

            s->large |= f[i].page_size > 4096;
            s->huge |= f[i].page_size > 0x200000;
            if (!dmap_put(&s->map, &e))
                return false;
            d->st.mapped++;
        }
    }
    return true;
}

/* A store into a page that holds code is the interpreter's. A page that has had many is taken for data until it is executed again. */
static enum space_fill_result code_write(struct direct *d, uint64_t gpa)
{
    const uint32_t *flags = gpa_page_flags(d->v->vm->ram_map, gpa);
    uint8_t *n = &d->writes[direct_page(d, flags)];

    d->st.code_writes++;
    if (++*n < WRITES_MAX)
        return FILL_EMULATE;
    *n = 0;
    interp_code_inval(d->v->vm, d->v, gpa & MASK_PAGE, 4096);
    return FILL_DONE; /* try again */
}

enum space_fill_result space_fill(struct direct *d, struct dspace *s, uint64_t lin, int access)
{
    struct x86_cpu *c = &d->v->cpu;
    struct batch b;
    struct x86_xlat x;

    if (x86_walk(c, lin, access, !s->super, false, &x) != X86_OK)
        return FILL_FAULT;
    struct fill own = {.lin = lin & MASK_PAGE, .gpa = x.gpa & MASK_PAGE, .page_size = x.page_size};
    if (s->map.n > PAGES_MAX)
        space_forget(d, s);
    if (user64_collides(s->w, own.lin, 4096)) {
        s->banned = true;
        return FILL_EMULATE;
    }
    b.n = 0;
    if (!plan(d, s, &b, &own, x.writable, access == X86_EXEC)) {
        const uint32_t *flags = gpa_page_flags(d->v->vm->ram_map, own.gpa);

        if (access == X86_EXEC && flags && d->code[direct_page(d, flags)] != DCODE_UNKNOWN)
            return FILL_SENSITIVE;
        return FILL_EMULATE;
    }
    if (access == X86_WRITE && !(own.rights & DMAP_W))
        return code_write(d, own.gpa);
    const struct dmap_entry *had = dmap_find(&s->map, own.lin);
    if (had && (had->gpa & MASK_PAGE) == own.gpa && had->off == own.off) {
        if (d->bare)
            own.rights |= had->gpa & DMAP_RIGHTS;
        if ((had->gpa & DMAP_RIGHTS) == (own.rights & DMAP_RIGHTS))
            return FILL_EMULATE; /* the host has it already: no progress that way */
        /* A page that is executed and now read keeps both. */
        if (!d->bare && (had->gpa & DMAP_X) && !(own.rights & DMAP_W))
            return FILL_EMULATE;
    }
    /* What is around it comes along. Large pages as far as the window reaches. */
    const uint64_t first = own.lin & ~((uint64_t)AROUND * 4096 - 1);
    b.f[b.n++] = own;
    for (unsigned i = 0; i < AROUND; i++) {
        struct fill g = {.lin = first + i * 4096ull};

        if (g.lin != own.lin && neighbour(d, s, &b, &g, access))
            b.f[b.n++] = g;
    }
    /* In ascending order */
    for (unsigned i = 1; i < b.n && b.f[i].lin < own.lin; i++) {
        b.f[i - 1] = b.f[i];
        b.f[i] = own;
    }
    d->st.fills++;
    if (!emit(d, s, b.f, b.n))
        space_forget(d, s);
    return FILL_DONE;
}
