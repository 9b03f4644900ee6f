/*
 * Which world guest code runs in, and what the guest's flushes mean for all of them.
 *
 * Kernel code has one world. User code has one for each of the address spaces that ran last: a program that gets the processor back
 * finds its mappings, as far as the page tables still say the same (compared before it runs).
 */
#include "engine/trap/trap.h"
#include "x86/mmu.h"

/* CR3 without flags; nothing without paging. */
static uint64_t key_of(const struct x86_cpu *c)
{
    return c->cr0 & X86_CR0_PG ? c->cr3 & ~0x1full : 1;
}

static void take(struct space *s, uint64_t key)
{
    space_flush(s, true);
    s->key = key;
    s->stale = s->placed = false;
    s->trips = 0;
    trap_policy_begin(s, false);
}

int trap_space_open(struct trap *t, struct space *s, char *why, size_t cap)
{
    const struct vcpu *v = t->v;

    if (space_init(s, world_new(v->vm->ram_fd, t->tv->patching ? t->tv->patch.fd : v->vm->ram_fd, why, cap)) != 0) {
        space_fini(s);
        return -1;
    }
    s->split = t->tv->patching;
    t->nspaces++;
    return 0;
}

/* The one for the program at hand: its own, a new one, or that of who has not run for longest. */
static struct space *find_user(struct trap *t)
{
    const uint64_t key = key_of(&t->v->cpu);
    struct space *old = NULL;
    char why[128];

    for (struct space *s = t->space + WORLD_USER; s < t->space + t->nspaces; s++) {
        if (s->key == key)
            return s;
        if (!old || s->used < old->used)
            old = s;
    }
    /* Hosts that give no more processes give those we have. */
    if (old->used && t->nspaces < NSPACES && trap_space_open(t, &t->space[t->nspaces], why, sizeof(why)) == 0)
        old = &t->space[t->nspaces - 1];
    take(old, key);
    return old;
}

struct space *trap_space(struct trap *t)
{
    if (t->v->cpu.cpl != 3)
        return &t->space[WORLD_KERNEL];
    if (!x86_lma(&t->v->cpu) && t->user->key != key_of(&t->v->cpu)) {
        t->user = find_user(t);
        t->user->used = ++t->clock;
    }
    return t->user;
}

void trap_space_spent(const struct trap *t, struct space *s, uint64_t cycles)
{
    const unsigned q = t->code >> 30;

    s->spent[q] += cycles;
    if (s->level.runs % 64 || !s->placed || s->low)
        return;
    /* Code runs several times faster at home: it must be worth more than that. */
    if (!space_at_home(s, t->code) && s->spent[q] > 8 * s->spent[((s->shift >> 30) - 1) & 3])
        s->placed = false;
    for (unsigned i = 0; i < 4; i++)
        s->spent[i] /= 2;
}

/* --- flushes ------------------------------------------------------------------------- */

void trap_sync_tlb(struct trap *t)
{
    const struct x86_mmu *m = &t->v->cpu.mmu;
    const struct x86_tlb_events *l = &m->events;
    const bool lost = l->seq - t->seen > X86_TLB_EVENTS || m->map != t->map;

    if (t->seen == l->seq && !lost)
        return;
    for (struct space *s = t->space; s < t->space + t->nspaces; s++) {
        if (lost)
            space_flush(s, true);
        for (uint64_t i = t->seen; i != l->seq && s->n; i++) {
            const struct x86_tlb_event *e = &l->ev[i % X86_TLB_EVENTS];

            if (e->kind == X86_TLB_EV_PAGE && e->arg >> 32 == 0)
                space_flush_page(s, (uint32_t)(e->arg >> 12));
            else if (e->kind == X86_TLB_EV_ALL || e->kind == X86_TLB_EV_PCID) {
                if (s == &t->space[WORLD_KERNEL])
                    space_flush(s, e->kind == X86_TLB_EV_ALL);
                else
                    s->stale = true;
            }
        }
    }
    t->seen = l->seq;
    t->map = m->map;
}

/* Would a TLB filled anew hold the same? */
static bool current(const struct trap *t, const struct space *s, uint32_t page)
{
    const uint64_t m = s->map[page];
    uint32_t lin = page << 12;
    struct x86_look l;

    if (m & SPACE_CODE) {
        unsigned i = 0;
        while (i < WINDOWS && !(s->win[i].used && lin - s->win[i].at < WINDOW_SIZE))
            i++;
        if (i == WINDOWS)
            return false;
        lin += s->win[i].code - s->win[i].at;
    } else {
        lin -= s->shift;
    }
    return x86_walk_look(&t->v->cpu, lin, &l) && l.user && l.accessed && l.gpa >> 12 == m >> 8 && !((m & (SPACE_CODE | SPACE_X)) && l.nx) &&
           (!(m & SPACE_W) || (l.write && l.dirty)) && !(m & SPACE_LARGE) == (l.page_size <= 4096) && !(m & SPACE_GLOBAL) == !l.global;
}

void trap_revalidate(struct trap *t, struct space *s)
{
    uint32_t wrote = 0, gone = 0;

    s->stale = false;
    for (uint32_t i = 0; i < s->n;) {
        const uint32_t page = s->list[i], n = s->n;
        const bool w = s->map[page] & SPACE_W;

        wrote += w;
        if (current(t, s, page)) {
            i++;
            continue;
        }
        gone += w;
        space_unmap(s, page);
        if (s->n + 1 != n)
            break; /* everything went */
    }
    /* All its data: the tables now belong to another program, which has to show for itself that it computes. */
    if (wrote && gone > wrote - wrote / 8 - 1)
        trap_policy_begin(s, false);
}
