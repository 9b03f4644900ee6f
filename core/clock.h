/*
 * The virtual clock of one VM: time, one heap of timers, and who drives them.
 *
 * In a nutshell: virtual time = source time - offset while running, frozen while
 * paused; readers take no lock (a sequence counter covers pause and resume). The
 * heap has its own lock, the innermost one. A threaded clock fires timers from a
 * thread that sleeps until the earliest one; an unthreaded one (instruction
 * counter, tests) fires them from whoever calls clock_run.
 */
#ifndef CORE_CLOCK_H
#define CORE_CLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ringer/dev.h"

struct host_mutex;

/* Where time comes from: monotonic nanoseconds of any origin. Callable from any thread. */
struct clock_source {
    uint64_t (*now)(void *ctx);
    void *ctx;
};

/* A clock on the host's monotonic time with its timer thread. device_lock: held around fn of timers that are not
 * nolock; may be NULL (then nothing is held). NULL when out of memory or threads. */
struct clock *clock_new(struct host_mutex *device_lock);
/* A clock on another source, without a thread: the driver calls clock_run. wall_base: ns since 1970 at virtual time 0.
 */
struct clock *clock_new_source(struct host_mutex *device_lock, const struct clock_source *src, uint64_t wall_base);
/* Stop and join the timer thread: afterwards no timer fires. Call without the device lock, before devices are freed. */
void clock_stop(struct clock *ck);
/* Stops too. Timers still armed are forgotten. */
void clock_free(struct clock *ck);

/* Freeze / resume virtual time; idempotent. Wall time follows the real one: the wall base moves by the time paused. */
void clock_pause(struct clock *ck);
void clock_resume(struct clock *ck);

/* Virtual time of the earliest timer, UINT64_MAX if none. */
uint64_t clock_next(struct clock *ck);
/* Fire every timer that is due now. The caller holds neither the device lock nor any device's own lock. */
void clock_run(struct clock *ck);
/* Timers fired since creation (statistics). */
uint64_t clock_fired(const struct clock *ck);

/* --- time-stamp counter -------------------------------------------------
 * tsc = floor(now * khz / 10^6), exact for all of 64-bit virtual time (wraps modulo 2^64 as the register does). */
struct tsc_scale {
    uint64_t khz;
    uint64_t whole; /* counts per ns: integer part */
    uint64_t frac;  /* and fraction, in 2^-64, rounded down */
};
struct tsc_scale tsc_scale_make(uint64_t khz); /* khz > 0 */
uint64_t tsc_from_ns(const struct tsc_scale *s, uint64_t ns);
/* The earliest ns at which the counter is >= tsc; UINT64_MAX when beyond 64-bit time. */
uint64_t tsc_to_ns(const struct tsc_scale *s, uint64_t tsc);

/* --- an instruction counter as source ------------------------------------
 * Deterministic time: it moves only by instructions executed and by idle time skipped. */
struct clock_counter {
    _Atomic uint64_t insns;
    _Atomic uint64_t idle_ns;
    uint64_t insns_per_us; /* > 0, constant */
};
struct clock_source clock_counter_source(struct clock_counter *c);
static inline void clock_counter_add(struct clock_counter *c, uint64_t insns)
{
    atomic_fetch_add_explicit(&c->insns, insns, memory_order_relaxed);
}
/* Everything is halted: move time to `when` (no-op if it has passed). */
void clock_counter_skip_to(struct clock_counter *c, const struct clock *ck, uint64_t when);

#endif
