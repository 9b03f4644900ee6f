/*
 * A limit on the host CPU time that a VM takes, in percent of one core: whatever the engine, and whatever the guest
 * does.
 *
 * In a nutshell: a bucket of CPU time. Time that passes fills it at the allowed rate; CPU time used by this
 * process and by those of the engine is taken from it. Empty, the vCPUs are parked (vm_park) until a slice has come
 * together again. A look that comes late loses nothing up to LIMIT_SAVED slices. What was used too much is owed, so
 * late looks change when a guest runs, not how much. Looks cost CPU time as well: with a small limit it may be all that came together
 * since the last one, so each that was in vain doubles the time to the next.
 */
#ifndef CORE_LIMIT_H
#define CORE_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

struct vm;

#define LIMIT_PERIOD_NS 20000000u /* a slice is what the limit allows in this time */
#define LIMIT_SAVED 2             /* slices that an idle guest saves up at most */
#define LIMIT_LOOK_NS 500000u     /* shortest time between two looks at a running guest */

struct cpu_budget {
    uint32_t percent, max_percent; /* what is allowed, and what the threads could take at once */
    int64_t slice, credit;         /* ns of CPU time; credit < 0: owed */
    uint64_t wall, used;           /* at the last look */
    uint64_t asked;                /* when the next one should be, ns from there */
    unsigned vain;                 /* looks that should have found a slice and did not */
    bool run;
};

/* percent: at least 1; threads: how many can take CPU time at once; wall, used: ns now. Begins with a full slice. */
void budget_init(struct cpu_budget *b, uint32_t percent, unsigned threads, uint64_t wall, uint64_t used);
/* Account up to now. b->run then says whether the vCPUs may run; returns when to look again, in ns from now. used may
 * go down (a process that has ended): that is no credit. */
uint64_t budget_update(struct cpu_budget *b, uint64_t wall, uint64_t used);

/* The thread that does it for a VM, from vm_start to vm_wait's end. NULL when out of memory. */
struct limit;
struct limit *limit_start(struct vm *vm, uint32_t percent);
void limit_stop(struct limit *l); /* the vCPUs run freely afterwards; l may be NULL */

#endif
