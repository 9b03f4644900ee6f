/*
 * Which address spaces run directly. Entering and leaving a world costs microseconds, translated code costs a factor: so a program that
 * computes for long between its traps should run directly, one that lives from system calls should not.
 *
 * While guest code runs, a clock ticks every millisecond. A tick that finds user code running speaks for the address space, one that finds
 * its kernel, or that it enters its kernel often, speaks against it, twice as loud. How often is measured
 * by the CPU time of the processor's thread, not by the clock's, which on a busy host others take (instructions are not always counted).
 *
 * In a world accounts are kept: what a run computed is gained, what entering and leaving takes is spent. Programs come in phases (one that has
 * been computing takes fifty page faults in a row), so credit carries over, and so do, for their cost, pages mapped for the first time. Whoever has spent
 * it falls out, and waits longer each time.
 */
#include <string.h>
#include <x86intrin.h>

#include "engine/direct/direct.h"

#define PROMOTE 2         /* ticks */
#define SCORE_MAX 4
#define SENSITIVE_NS 1400u /* less CPU time for each sensitive instruction is a kernel's work (system calls, faults and forks: 100 to 500; gzip: 5000) */
#define MEAN_SHIFT 4      /* of moving averages: 16 runs */
#define PAYS_US 4         /* that a run must compute, besides as much as entering and leaving takes */
#define RUN_US 100        /* no run counts as more: on a busy host some take very long, whatever they do */
#define SHORT_US 300      /* runs for whose end the monitor waits awake: waking it takes some fifty */
#define DEBT_US 500
#define CREDIT_US 10000
#define FIRST_FILLS 2048u /* exits for a page not mapped yet that are free of charge: as many as programs need that fit into a world */
#define WAIT_MAX 6u       /* 2^6 ticks, by the fourth time */

/* Virtual CPUs that are not halted, this one included. */
static unsigned awake(const struct vm *vm)
{
    unsigned n = 0;

    for (unsigned i = 0; i < vm->ncpu; i++)
        n += !atomic_load_explicit(&vm->cpu[i]->sleeping, memory_order_relaxed);
    return n;
}

/* Where runs are short, both sides wait for each other awake, if there are processors for both. */
static void patience(const struct direct *d, const struct dspace *s)
{
    const uint64_t us = s->mean / (d->v->vm->tsc_khz / 1000 + 1);
    const bool room = d->host_cpus >= 2 * awake(d->v->vm) && !d->v->vm->cpu_limit; /* waiting awake is paid for, too */

    user64_patience(s->w, !room ? 0 : us < SHORT_US ? 10 + 2 * (unsigned)us : 10, room ? 40 : 0);
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

    const bool fresh = !s->w;

    if (fresh) {
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
    if (fresh) /* what it has besides is another one's; else space_sync will see to what has changed */
        space_forget(d, s);
    s->promoted = true;
    s->mean = 0;
    s->balance = 0;
    s->first_fills = FIRST_FILLS;
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

void policy_tick(struct direct *d, uint64_t cpu_ns)
{
    const struct x86_cpu *c = &d->v->cpu;

    const uint64_t busy = x86_sensitive_count(c) - d->sensitive;

    const uint64_t ns = cpu_ns - d->cpu_ns;

    d->sensitive += busy;
    d->cpu_ns = cpu_ns;
    d->ticks++;
    if (d->off || !x86_lma(c) || !(c->cr0 & X86_CR0_PG))
        return;
    struct dspace *s = space_of(d);
    if (s->banned || s->promoted || d->always)
        return;
    if ((c->cpl == 3 || d->levels) && c->mode == X86_MODE_64 && busy * SENSITIVE_NS <= ns)
        s->score++;
    else
        s->score -= s->score > 0 ? 2 : 0;
    if (s->score > SCORE_MAX)
        s->score = SCORE_MAX;
    if (s->score >= PROMOTE)
        policy_promote(d, s);
}

void policy_exit(struct direct *d, struct dspace *s, uint64_t cycles, bool filled)
{
    const int64_t us = (int64_t)(d->v->vm->tsc_khz / 1000), computed = (int64_t)(cycles > d->least ? cycles - d->least : 0);

    if (!s->promoted)
        return;
    s->mean += (cycles >> MEAN_SHIFT) - (s->mean >> MEAN_SHIFT);
    if (++s->entries % 16 == 0)
        patience(d, s);
    if (filled && s->first_fills) {
        s->first_fills--;
        return;
    }
    s->balance += (computed < RUN_US * us ? computed : RUN_US * us) - (int64_t)d->least - PAYS_US * us;
    if (s->balance < -DEBT_US * us) {
        policy_demote(d, s);
    } else if (s->balance > CREDIT_US * us) {
        s->balance = CREDIT_US * us;
        s->demotions = s->refused = 0;
        s->first_fills = FIRST_FILLS;
    }
}
