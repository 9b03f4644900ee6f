/*
 * When direct execution pays.
 *
 * Entering a world and coming back costs as much as interpreting some thousand instructions. So each privilege level is either executed
 * directly or interpreted: interpreted until it has executed many instructions for each event that would have ended a run, directly until
 * a sample shows that it no longer does. Samples are interpreted, a few events every so many runs, the rarer the longer all goes well.
 * Instructions are counted, not time: how long runs take says little where others use the processors, too. Kernels mostly end up interpreted,
 * programs that compute direct.
 *
 * Loops without events never return from the interpreter by themselves: a thread of its own asks for that now and then while the
 * vCPU interprets.
 */
#include <x86intrin.h>

#include "engine/trap/trap.h"

#define PATIENCE_MAX 64u    /* each try that failed doubles how long the next one is put off, up to this */
#define LOOK_INSNS 40000u   /* instructions a judgement takes that leads to direct execution */
#define PROMISES 8000u      /* instructions for each event from which it is tried, */
#define PAYS 4000u          /* and below which it is given up */
#define RUNS_FIRST 16u      /* runs before the first sample, and the most before another */
#define RUNS_MOST 1024u
#define FILLS_MOST 8u       /* runs that only fill mappings are not counted, up to so many for each other one */
#define SAMPLE_EVENTS 64u   /* a sample ends with so many, which is several bursts, as interrupts make them, */
#define SAMPLE_INSNS 128000u /* or so many instructions */
#define TICK_NS 500000u
#define TICK_MOST 64000000u /* while what it asked for is not done: the vCPU is held up, and so must the clock be, or a small limit on CPU time goes on it alone */
#define PARK_AFTER 20u      /* ticks without need */
#define MEAN_SHIFT 4        /* of moving averages: 16 runs */
#define SHORT_US 60u        /* runs that are waited for awake */

/* Where runs are short, both sides wait for each other awake, longer than the other mostly takes. */
static void patience(const struct trap *t, const struct space *s)
{
    const uint64_t us = s->level.mean / (t->v->vm->tsc_khz / 1000 + 1);

    world_patience(s->w, us < SHORT_US ? 10 + 2 * (unsigned)us : 10, 40);
}

void trap_policy_begin(struct space *s, bool direct)
{
    s->level = (struct level){.direct = direct, .patience = 1, .until = RUNS_FIRST};
}

void trap_policy_ran(struct trap *t, struct space *s, bool filled, uint64_t cycles)
{
    struct level *l = &s->level;

    if (s->split)
        trap_space_spent(t, s, cycles);
    l->mean += (cycles >> MEAN_SHIFT) - (l->mean >> MEAN_SHIFT);
    l->fills += filled;
    if (l->runs++ % 16 == 0)
        patience(t, s);
    if (t->tv->adaptive && (l->runs - l->fills >= l->until || l->runs >= l->until * FILLS_MOST)) {
        l->sampled = true;
        l->insns = l->events = 0;
    }
}

/* The sample is complete. What it says holds for runs that do not fill mappings. */
static void judge_sample(struct trap *t, struct level *l)
{
    l->sampled = false;
    if (l->insns * (l->runs - l->fills) >= (uint64_t)PAYS * l->events * l->runs) {
        l->until = l->until < RUNS_MOST ? l->until * 2 : RUNS_MOST;
        l->patience -= l->patience > 1 ? l->patience / 2 : 0;
    } else {
        l->direct = false;
        l->until = RUNS_FIRST;
        l->patience = l->patience < PATIENCE_MAX ? l->patience * 2 : PATIENCE_MAX;
        t->tv->n.given_up++;
    }
    l->runs = l->fills = 0;
    l->insns = l->events = 0;
}

void trap_policy_interprets(struct trap *t)
{
    t->sensitive = x86_sensitive_count(&t->v->cpu);
    atomic_store_explicit(&t->interprets, true, memory_order_relaxed);
    if (atomic_load_explicit(&t->parked, memory_order_relaxed))
        host_event_set(t->tick_event);
}

void trap_policy_interpreted(struct trap *t, struct space *s, uint64_t insns)
{
    struct level *l = &s->level;
    const uint64_t n = x86_sensitive_count(&t->v->cpu) - t->sensitive;
    const bool ticked = atomic_load_explicit(&t->ticked, memory_order_relaxed);

    if (ticked)
        atomic_store_explicit(&t->ticked, false, memory_order_relaxed);
    atomic_store_explicit(&t->interprets, false, memory_order_relaxed);
    l->insns += insns;
    l->events += n ? n : !ticked;
    if (l->direct) {
        if (l->events >= SAMPLE_EVENTS || l->insns >= SAMPLE_INSNS)
            judge_sample(t, l);
    } else if (l->insns >= (uint64_t)LOOK_INSNS * l->patience) {
        l->direct = l->events * PROMISES <= l->insns;
        l->insns = l->events = 0;
    }
}

static void tick(void *arg)
{
    struct trap *t = arg;
    uint64_t wait = TICK_NS;
    unsigned idle = 0;

    while (!atomic_load(&t->stop)) {
        if (idle > PARK_AFTER) {
            atomic_store(&t->parked, true);
            host_event_wait(t->tick_event, UINT64_MAX);
            atomic_store(&t->parked, false);
            idle = 0;
        } else {
            host_event_wait(t->tick_event, host_now() + wait);
        }
        idle++;
        if (atomic_load(&t->interprets)) {
            idle = 0;
            wait = !atomic_exchange(&t->ticked, true) ? TICK_NS : wait < TICK_MOST ? 2 * wait : TICK_MOST;
            atomic_fetch_or(&t->v->requests, VREQ_ENGINE);
        }
    }
}

int trap_policy_init(struct trap *t)
{
    if (!t->tv->adaptive)
        return 0;
    t->tick_event = host_event_new();
    t->ticker = t->tick_event ? host_thread_start("trap-tick", tick, t) : NULL;
    return t->ticker ? 0 : -1;
}

void trap_policy_fini(struct trap *t)
{
    if (t->ticker) {
        atomic_store(&t->stop, true);
        host_event_set(t->tick_event);
        host_thread_join(t->ticker);
    }
    if (t->tick_event)
        host_event_free(t->tick_event);
    t->ticker = NULL;
    t->tick_event = NULL;
}
