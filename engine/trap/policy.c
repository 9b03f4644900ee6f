/*
 * When direct execution pays.
 *
 * Entering a world and coming back costs as much as interpreting some thousand instructions. So each privilege level is either executed
 * directly or interpreted: directly until its runs prove hardly longer than that overhead, interpreted until it has executed many
 * instructions for each event that would have ended a run. Kernels mostly end up interpreted, programs that compute direct.
 *
 * Loops without events never return from the interpreter by themselves: a thread of its own asks for that now and then while the
 * vCPU interprets.
 */
#include "engine/trap/trap.h"

#define RUNS 8u             /* runs a judgement takes */
#define PATIENCE_MAX 64u    /* each try that failed doubles how long the next one is put off, up to this */
#define WORTH_NS 3000u       /* a run must compute that long on average; */
#define CREDIT_NS 500000
#define DEBT_NS 50000
#define RUN_LEAST_NS 2500u   /* between these lies what a run costs that computes nothing */
#define RUN_MOST_NS 10000u
#define CHANGE_NS 6000u      /* what changing a mapping takes is not computing */
#define LOOK_INSNS 40000u   /* instructions a judgement takes */
#define INSNS_PER_EVENT 8000u
#define TICK_NS 500000u
#define PARK_AFTER 20u /* ticks without need */

void trap_policy_ran(struct trap *t, unsigned level)
{
    struct level *l = &t->level[level];

    if (++l->runs < RUNS)
        return;
    /* What the world computed is its CPU time less what runs cost at least (that ages, since how busy the host is changes) and what
     * mappings cost. Time on the clock says nothing when others use the processors, too. */
    const uint64_t now = world_computed_ns(t->world[level]), cost = l->changes * CHANGE_NS;
    const uint64_t cpu = now > l->cpu_ns + cost ? now - l->cpu_ns - cost : 0;
    l->least_ns = cpu < l->least_ns ? cpu : l->least_ns + l->least_ns / 64;
    l->least_ns = l->least_ns < RUNS * RUN_LEAST_NS ? RUNS * RUN_LEAST_NS : l->least_ns > RUNS * RUN_MOST_NS ? RUNS * RUN_MOST_NS : l->least_ns;
    /* Credit for what went well, so that a program which computed may fault its pages in again. */
    const int64_t score = l->score + ((int64_t)cpu - (int64_t)l->least_ns) - (int64_t)RUNS * WORTH_NS;
    l->score = score < CREDIT_NS ? score : CREDIT_NS;
    if (score < -DEBT_NS) {
        l->direct = false;
        l->insns = l->events = 0;
        l->patience = l->patience < PATIENCE_MAX ? l->patience * 2 : PATIENCE_MAX;
        t->tv->n.given_up++;
    } else if (score > 0 && l->patience > 1) {
        l->patience /= 2;
    }
    l->runs = l->changes = 0;
    l->cpu_ns = now;
}

void trap_policy_interprets(struct trap *t)
{
    t->sensitive = x86_sensitive_count(&t->v->cpu);
    atomic_store_explicit(&t->interprets, true, memory_order_relaxed);
    if (atomic_load_explicit(&t->parked, memory_order_relaxed))
        host_event_set(t->tick_event);
}

void trap_policy_interpreted(struct trap *t, unsigned level, uint64_t insns)
{
    struct level *l = &t->level[level];
    const uint64_t n = x86_sensitive_count(&t->v->cpu) - t->sensitive;
    const bool ticked = atomic_load_explicit(&t->ticked, memory_order_relaxed);

    if (ticked)
        atomic_store_explicit(&t->ticked, false, memory_order_relaxed);
    atomic_store_explicit(&t->interprets, false, memory_order_relaxed);
    l->insns += insns;
    l->events += n ? n : !ticked;
    if (l->insns < (uint64_t)LOOK_INSNS * l->patience)
        return;
    if (l->events * INSNS_PER_EVENT <= l->insns) {
        l->direct = true;
        l->score = 0;
        l->runs = l->changes = 0;
        l->cpu_ns = world_computed_ns(t->world[level]);
    }
    l->insns = l->events = 0;
}

static void tick(void *arg)
{
    struct trap *t = arg;
    unsigned idle = 0;

    while (!atomic_load(&t->stop)) {
        if (idle > PARK_AFTER) {
            atomic_store(&t->parked, true);
            host_event_wait(t->tick_event, UINT64_MAX);
            atomic_store(&t->parked, false);
            idle = 0;
        } else {
            host_event_wait(t->tick_event, host_now() + TICK_NS);
        }
        idle++;
        if (atomic_load(&t->interprets)) {
            idle = 0;
            atomic_store(&t->ticked, true);
            atomic_fetch_or(&t->v->requests, VREQ_ENGINE);
        }
    }
}

int trap_policy_init(struct trap *t)
{
    for (unsigned i = 0; i < NWORLDS; i++)
        t->level[i] = (struct level){.direct = true, .patience = 1, .least_ns = RUNS * RUN_MOST_NS, .cpu_ns = world_computed_ns(t->world[i])};
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
