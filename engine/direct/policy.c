/*
 * Which address spaces run directly. Entering and leaving a world costs microseconds, translated code costs a factor: so a program that
 * computes for long between its traps should run directly, one that lives from system calls should not.
 *
 * While guest code runs, a clock ticks every millisecond. A tick that finds user code running speaks for the address space, one that finds
 * its kernel, or that it enters its kernel often, speaks against it, twice as loud. In a world, runs that were hardly longer than entering and leaving speak against it; whoever
 * falls out that way has to wait longer each time. (Shares of runs, not their mean: on a busy host some take very long.)
 */
#include <string.h>
#include <x86intrin.h>

#include "engine/direct/direct.h"

#define PROMOTE 2         /* ticks */
#define SCORE_MAX 4
#define BUSY_MAX 700u     /* sensitive instructions between ticks: a system call or page fault takes some ten, and is a run in a world */
#define MEAN_SHIFT 4      /* of moving averages: 16 runs */
#define ENTRIES_MIN 24u   /* before averages say anything */
#define PAYS_US 4         /* time in the world from which a run is worth while */
#define BRIEF_MAX 39000u  /* 60 % of runs were not */
#define WAIT_MAX 6u       /* 2^6 ticks, by the fourth time */

/* Where runs are short, both sides wait for each other awake, if there are processors for both. */
static void patience(const struct direct *d, const struct dspace *s)
{
    const uint64_t us = s->mean / (d->v->vm->tsc_khz / 1000 + 1);
    const bool room = d->host_cpus >= 2 * d->v->vm->ncpu;

    user64_patience(s->w, !room ? 0 : us < 60 ? 10 + 2 * (unsigned)us : 10, room ? 40 : 0);
}

/* What entering and leaving takes by itself: runs that fault at their first instruction. */
static void measure(struct direct *d, struct user64 *w)
{
    struct user64_regs r = {.rip = USER64_HIGH - 4096, .rflags = X86_FL_1 | X86_FL_IF};
    struct user64_exit e;

    memcpy(r.fp, d->v->cpu.fpu.raw, sizeof(r.fp));
    for (unsigned i = 0; i < 8; i++) {
        const uint64_t t0 = __rdtsc();

        if (user64_run(w, &r, &e) != USER64_OK)
            return;
        const uint64_t t = __rdtsc() - t0;
        if (!d->least || t < d->least)
            d->least = t;
    }
}

void policy_promote(struct direct *d, struct dspace *s)
{
    char why[128];

    if (!s->w) {
        if (d->nworlds >= DIRECT_WORLDS) { /* take the one that has not run for longest */
            struct dspace *old = NULL;

            for (struct dspace *o = d->space; o < d->space + DIRECT_SPACES; o++)
                if (o->w && o != s && (!old || (o->promoted == old->promoted ? o->used < old->used : !o->promoted)))
                    old = o;
            if (!old)
                return;
            policy_withdraw(d, old);
            s->w = old->w;
            old->w = NULL;
            dmap_clear(&old->map);
        } else {
            s->w = user64_new(d->v->vm->ram_fd, d->copies_fd, why, sizeof(why));
            if (!s->w) { /* out of processes or memory: translated code does it, too */
                s->score = -(1 << WAIT_MAX);
                return;
            }
            d->nworlds++;
            d->st.worlds++;
            d->shows_cpuid = user64_shows_cpuid(s->w);
            patience(d, s);
            measure(d, s->w);
        }
    }
    if (!s->map.e && dmap_init(&s->map)) {
        s->banned = true;
        return;
    }
    space_forget(d, s);
    s->promoted = true;
    s->mean = s->brief = 0;
    patience(d, s);
    s->entries = s->refused = 0;
    s->fault = NO_PAGE;
    d->promoted++;
    d->st.promoted++;
}

void policy_withdraw(struct direct *d, struct dspace *s)
{
    d->promoted -= s->promoted;
    s->promoted = false;
}

void policy_demote(struct direct *d, struct dspace *s)
{
    if (!s->promoted || d->always || d->forced)
        return;
    policy_withdraw(d, s);
    s->score = -(1 << (s->demotions < WAIT_MAX ? s->demotions : WAIT_MAX));
    s->demotions += 2;
    d->st.demoted++;
}

void policy_tick(struct direct *d)
{
    const struct x86_cpu *c = &d->v->cpu;

    const uint64_t busy = x86_sensitive_count(c) - d->sensitive;

    d->sensitive += busy;
    d->ticks++;
    if (d->off || !x86_lma(c) || !(c->cr0 & X86_CR0_PG))
        return;
    struct dspace *s = space_of(d);
    if (s->banned || s->promoted || d->always)
        return;
    if ((c->cpl == 3 || d->levels) && c->mode == X86_MODE_64 && busy < BUSY_MAX)
        s->score++;
    else
        s->score -= s->score > 0 ? 2 : 0;
    if (s->score > SCORE_MAX)
        s->score = SCORE_MAX;
    if (s->score >= PROMOTE)
        policy_promote(d, s);
}

void policy_exit(struct direct *d, struct dspace *s, uint64_t cycles)
{
    const bool brief = cycles < 2 * d->least + d->v->vm->tsc_khz / 1000 * PAYS_US;

    s->brief = s->brief - (s->brief >> MEAN_SHIFT) + (brief ? 65536u >> MEAN_SHIFT : 0);
    s->mean += (cycles >> MEAN_SHIFT) - (s->mean >> MEAN_SHIFT);
    if (++s->entries >= ENTRIES_MIN && s->brief > BRIEF_MAX)
        policy_demote(d, s);
    else if (s->entries % 16 == 0)
        patience(d, s);
    if (s->entries > 1000)
        s->demotions = s->refused = 0;
}
