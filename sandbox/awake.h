/*
 * Waiting awake for another process: two that take turns answer within a fraction of a microsecond while both look, but
 * need a processor each for that. Waking one that sleeps on an idle processor takes tens of microseconds.
 */
#ifndef SANDBOX_AWAKE_H
#define SANDBOX_AWAKE_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* One turn of waiting. Not PAUSE: hypervisors below count those and take the processor away from who executes many. */
static inline void awake_turn(void)
{
    __asm__ volatile("lfence; lfence; lfence; lfence" ::: "memory");
}

struct awake {
    uint32_t per_us;   /* turns a microsecond takes; 0: there is one processor, so nobody could answer meanwhile */
    cpu_set_t allowed; /* processors of this process */
    int apart;         /* the one the other side is kept off; -1: none */
};

/* Measure; takes some ten microseconds. */
void awake_init(struct awake *a);
/* Keep process pid off the processor this thread runs on, where hosts like to put those who wake each other; or no longer. A system call
 * only if that changes something. */
void awake_apart(struct awake *a, pid_t pid, bool apart);

#endif
