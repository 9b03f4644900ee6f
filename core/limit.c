/* A limit on CPU time; see limit.h for the mechanism. */
#include "core/limit.h"

#include <stdlib.h>

#include "ringer/vm.h"

#define VAIN_MOST 10u
#define LATE_MOST_NS 1000000000u /* than when there would be a slice, if nothing were used */

void budget_init(struct cpu_budget *b, uint32_t percent, unsigned threads, uint64_t wall, uint64_t used)
{
    int64_t slice = (int64_t)LIMIT_PERIOD_NS / 100 * percent;
    *b = (struct cpu_budget){.percent = percent,
                             .max_percent = 100 * threads,
                             .slice = slice,
                             .credit = slice,
                             .wall = wall,
                             .used = used,
                             .run = true};
}

/* What the limit allows in ns of time. */
static int64_t earned(const struct cpu_budget *b, uint64_t ns)
{
    return (int64_t)(ns / 100 * b->percent + ns % 100 * b->percent / 100);
}

/* Time in which credit comes or goes at percent of a core, rounded up. */
static uint64_t time_for(int64_t credit, uint32_t percent)
{
    return ((uint64_t)credit * 100 + percent - 1) / percent;
}

uint64_t budget_update(struct cpu_budget *b, uint64_t wall, uint64_t used)
{
    uint64_t passed = wall > b->wall ? wall - b->wall : 0;
    b->credit += earned(b, passed);
    if (used > b->used) {
        b->credit -= (int64_t)(used - b->used);
        b->used = used;
    }
    b->wall += passed;
    if (b->credit > LIMIT_SAVED * b->slice)
        b->credit = LIMIT_SAVED * b->slice;
    b->run = b->credit > 0 && (b->run || b->credit >= b->slice);
    if (!b->run) {
        if (b->asked && passed >= b->asked && b->vain < VAIN_MOST)
            b->vain++;
        const uint64_t exact = time_for(b->slice - b->credit, b->percent), late = (exact << b->vain) - exact;
        return b->asked = exact + (late < LATE_MOST_NS ? late : LATE_MOST_NS);
    }
    b->asked = b->vain = 0;
    if (b->max_percent <= b->percent)
        return LIMIT_PERIOD_NS;
    /* Not before it could be empty. */
    uint64_t next = time_for(b->credit, b->max_percent - b->percent);
    return next < LIMIT_LOOK_NS ? LIMIT_LOOK_NS : next < LIMIT_PERIOD_NS ? next : LIMIT_PERIOD_NS;
}

struct limit {
    struct vm *vm;
    struct cpu_budget budget;
    struct host_thread *thread;
    struct host_event *wake;
    _Atomic bool stop;
};

static void limit_thread(void *arg)
{
    struct limit *l = arg;
    while (!atomic_load(&l->stop)) {
        uint64_t now = host_now(), next = budget_update(&l->budget, now, host_cpu_tree_ns());
        vm_park(l->vm, !l->budget.run);
        host_event_wait(l->wake, now + next);
    }
    vm_park(l->vm, false);
}

struct limit *limit_start(struct vm *vm, uint32_t percent)
{
    struct limit *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->vm = vm;
    /* Terminal, timers and disk take some as well: one thread's worth. */
    budget_init(&l->budget, percent, vm->ncpu + 1, host_now(), host_cpu_tree_ns());
    l->wake = host_event_new();
    l->thread = l->wake ? host_thread_start("limit", limit_thread, l) : NULL;
    if (!l->thread) {
        host_event_free(l->wake);
        free(l);
        return NULL;
    }
    return l;
}

void limit_stop(struct limit *l)
{
    if (!l)
        return;
    atomic_store(&l->stop, true);
    host_event_set(l->wake);
    host_thread_join(l->thread);
    host_event_free(l->wake);
    free(l);
}
