/* Virtual time and timers; see clock.h for the mechanism. */
#include "core/clock.h"

#include <stdlib.h>

#include "ringer/host.h"

#define FROZEN_NOT UINT64_MAX

struct clock {
    struct clock_source src;
    struct host_mutex *device_lock; /* NULL: none */
    struct host_mutex *lock;        /* heap, pause/resume */

    /* Readers retry while seq is odd or has changed. */
    _Atomic uint32_t seq;
    _Atomic uint64_t offset; /* source time at virtual time 0 */
    _Atomic uint64_t frozen; /* virtual time while paused, else FROZEN_NOT */
    _Atomic uint64_t wall_base;

    struct timer **heap;
    int n, cap;
    uint64_t fired_lo; /* under lock */

    struct host_thread *thread;
    struct host_event *wake;
    uint64_t sleep_until; /* under lock: virtual time the thread sleeps to; 0 while it is awake */
    bool stop;            /* under lock */
};

static uint64_t source_host(void *ctx)
{
    return host_now();
}

uint64_t clock_now(const struct clock *ck)
{
    for (;;) {
        uint32_t s = atomic_load_explicit(&ck->seq, memory_order_acquire);
        uint64_t frozen = atomic_load_explicit(&ck->frozen, memory_order_relaxed);
        uint64_t off = atomic_load_explicit(&ck->offset, memory_order_relaxed);
        uint64_t now = frozen != FROZEN_NOT ? frozen : ck->src.now(ck->src.ctx) - off;
        atomic_thread_fence(memory_order_acquire);
        if (!(s & 1) && atomic_load_explicit(&ck->seq, memory_order_relaxed) == s)
            return now;
    }
}

uint64_t clock_wall_base(const struct clock *ck)
{
    return atomic_load_explicit(&ck->wall_base, memory_order_relaxed);
}

/* --- heap (under ck->lock) ---------------------------------------------- */

static void place(struct clock *ck, int i, struct timer *t)
{
    ck->heap[i] = t;
    t->heap_index = i;
}

static void sift_up(struct clock *ck, int i)
{
    struct timer *t = ck->heap[i];
    while (i > 0 && ck->heap[(i - 1) / 2]->when > t->when) {
        place(ck, i, ck->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(ck, i, t);
}

static void sift_down(struct clock *ck, int i)
{
    struct timer *t = ck->heap[i];
    for (;;) {
        int c = 2 * i + 1;
        if (c >= ck->n)
            break;
        if (c + 1 < ck->n && ck->heap[c + 1]->when < ck->heap[c]->when)
            c++;
        if (ck->heap[c]->when >= t->when)
            break;
        place(ck, i, ck->heap[c]);
        i = c;
    }
    place(ck, i, t);
}

static void heap_remove(struct clock *ck, struct timer *t)
{
    int i = t->heap_index;
    struct timer *last = ck->heap[--ck->n];
    t->heap_index = -1;
    if (last == t)
        return;
    place(ck, i, last);
    sift_up(ck, i);
    sift_down(ck, last->heap_index);
}

void timer_init(struct timer *t, void (*fn)(void *ctx), void *ctx)
{
    *t = (struct timer){.fn = fn, .ctx = ctx, .heap_index = -1};
}

void timer_arm(struct clock *ck, struct timer *t, uint64_t when)
{
    bool wake = false;
    host_lock(ck->lock);
    if (t->heap_index >= 0) {
        uint64_t old = t->when;
        t->when = when;
        if (when < old)
            sift_up(ck, t->heap_index);
        else
            sift_down(ck, t->heap_index);
    } else {
        if (ck->n == ck->cap) {
            int cap = ck->cap ? 2 * ck->cap : 64;
            struct timer **h = realloc(ck->heap, (size_t)cap * sizeof(*h));
            if (!h) {
                /* The number of timers is fixed by the board and far below the first allocation's worth. */
                host_unlock(ck->lock);
                host_log("out of memory for timers");
                return;
            }
            ck->heap = h;
            ck->cap = cap;
        }
        t->when = when;
        ck->heap[ck->n] = t;
        sift_up(ck, ck->n++);
    }
    /* The thread is woken only when it would sleep too long; later deadlines cost no system call. */
    if (ck->sleep_until > when) {
        ck->sleep_until = 0;
        wake = true;
    }
    host_unlock(ck->lock);
    if (wake)
        host_event_set(ck->wake);
}

void timer_cancel(struct clock *ck, struct timer *t)
{
    host_lock(ck->lock);
    if (t->heap_index >= 0)
        heap_remove(ck, t);
    host_unlock(ck->lock);
}

uint64_t clock_next(struct clock *ck)
{
    host_lock(ck->lock);
    uint64_t w = ck->n ? ck->heap[0]->when : UINT64_MAX;
    host_unlock(ck->lock);
    return w;
}

uint64_t clock_fired(const struct clock *ck)
{
    host_lock(ck->lock);
    uint64_t n = ck->fired_lo;
    host_unlock(ck->lock);
    return n;
}

/* Fire the earliest timer if it is due by `now`. A locked timer leaves the heap only with the device lock held, so that
 * timer_cancel under that lock is final. */
static bool fire_one(struct clock *ck, uint64_t now)
{
    bool locked = false;
    host_lock(ck->lock);
    for (;;) {
        struct timer *t = ck->n ? ck->heap[0] : NULL;
        bool due = t && t->when <= now && !ck->stop;
        bool want = due && !t->nolock && ck->device_lock;
        if (due && want == locked) {
            heap_remove(ck, t);
            ck->fired_lo++;
            host_unlock(ck->lock);
            t->fn(t->ctx);
            if (locked)
                host_unlock(ck->device_lock);
            return true;
        }
        host_unlock(ck->lock);
        if (locked)
            host_unlock(ck->device_lock);
        if (!due)
            return false;
        locked = want;
        if (locked)
            host_lock(ck->device_lock);
        host_lock(ck->lock);
    }
}

void clock_run(struct clock *ck)
{
    /* `now` is read once: a timer that re-arms itself in the past is served by the next call, not in an endless loop
     * here. */
    uint64_t now = clock_now(ck);
    while (fire_one(ck, now))
        ;
}

static void timer_thread(void *arg)
{
    struct clock *ck = arg;
    for (;;) {
        uint64_t now = clock_now(ck);
        while (fire_one(ck, now))
            now = clock_now(ck);
        host_lock(ck->lock);
        if (ck->stop) {
            host_unlock(ck->lock);
            return;
        }
        uint64_t until = UINT64_MAX, deadline = UINT64_MAX;
        if (atomic_load_explicit(&ck->frozen, memory_order_relaxed) != FROZEN_NOT) {
            until = 0; /* paused: arming needs no wake-up, resume makes one */
        } else if (ck->n) {
            until = ck->heap[0]->when;
            if (until <= now) {
                host_unlock(ck->lock);
                continue;
            }
            uint64_t off = atomic_load_explicit(&ck->offset, memory_order_relaxed);
            deadline = until > UINT64_MAX - off ? UINT64_MAX : until + off;
        }
        ck->sleep_until = until;
        host_unlock(ck->lock);
        host_event_wait(ck->wake, deadline);
        host_lock(ck->lock);
        ck->sleep_until = 0;
        host_unlock(ck->lock);
    }
}

/* --- life ---------------------------------------------------------------- */

struct clock *clock_new_source(struct host_mutex *device_lock, const struct clock_source *src, uint64_t wall_base)
{
    struct clock *ck = calloc(1, sizeof(*ck));
    if (!ck)
        return NULL;
    ck->src = *src;
    ck->device_lock = device_lock;
    atomic_init(&ck->seq, 0);
    atomic_init(&ck->frozen, FROZEN_NOT);
    atomic_init(&ck->offset, src->now(src->ctx));
    atomic_init(&ck->wall_base, wall_base);
    ck->cap = 64;
    ck->heap = calloc((size_t)ck->cap, sizeof(*ck->heap));
    ck->lock = host_mutex_new();
    ck->wake = host_event_new();
    if (!ck->heap || !ck->lock || !ck->wake) {
        clock_free(ck);
        return NULL;
    }
    return ck;
}

struct clock *clock_new(struct host_mutex *device_lock)
{
    struct clock *ck = clock_new_source(device_lock, &(struct clock_source){source_host, NULL}, host_wall());
    if (!ck)
        return NULL;
    ck->thread = host_thread_start("timer", timer_thread, ck);
    if (!ck->thread) {
        clock_free(ck);
        return NULL;
    }
    return ck;
}

void clock_stop(struct clock *ck)
{
    if (!ck->thread)
        return;
    host_lock(ck->lock);
    ck->stop = true;
    host_unlock(ck->lock);
    host_event_set(ck->wake);
    host_thread_join(ck->thread);
    ck->thread = NULL;
}

void clock_free(struct clock *ck)
{
    if (!ck)
        return;
    clock_stop(ck);
    for (int i = 0; i < ck->n; i++)
        ck->heap[i]->heap_index = -1;
    free(ck->heap);
    if (ck->wake)
        host_event_free(ck->wake);
    if (ck->lock)
        host_mutex_free(ck->lock);
    free(ck);
}

static void seq_begin(struct clock *ck)
{
    atomic_fetch_add_explicit(&ck->seq, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}
static void seq_end(struct clock *ck)
{
    atomic_fetch_add_explicit(&ck->seq, 1, memory_order_release);
}

void clock_pause(struct clock *ck)
{
    host_lock(ck->lock);
    if (atomic_load_explicit(&ck->frozen, memory_order_relaxed) == FROZEN_NOT) {
        seq_begin(ck);
        uint64_t now = ck->src.now(ck->src.ctx) - atomic_load_explicit(&ck->offset, memory_order_relaxed);
        atomic_store_explicit(&ck->frozen, now, memory_order_relaxed);
        seq_end(ck);
    }
    host_unlock(ck->lock);
}

void clock_resume(struct clock *ck)
{
    host_lock(ck->lock);
    uint64_t frozen = atomic_load_explicit(&ck->frozen, memory_order_relaxed);
    if (frozen != FROZEN_NOT) {
        seq_begin(ck);
        uint64_t off = ck->src.now(ck->src.ctx) - frozen;
        uint64_t away = off - atomic_load_explicit(&ck->offset, memory_order_relaxed);
        atomic_store_explicit(&ck->offset, off, memory_order_relaxed);
        atomic_store_explicit(&ck->frozen, FROZEN_NOT, memory_order_relaxed);
        atomic_fetch_add_explicit(&ck->wall_base, away, memory_order_relaxed);
        seq_end(ck);
        ck->sleep_until = 0;
    }
    host_unlock(ck->lock);
    host_event_set(ck->wake);
}

/* --- time-stamp counter -------------------------------------------------- */

struct tsc_scale tsc_scale_make(uint64_t khz)
{
    unsigned __int128 r = (unsigned __int128)(khz % 1000000) << 64;
    return (struct tsc_scale){.khz = khz, .whole = khz / 1000000, .frac = (uint64_t)(r / 1000000)};
}

uint64_t tsc_from_ns(const struct tsc_scale *s, uint64_t ns)
{
    uint64_t t = ns * s->whole + (uint64_t)((unsigned __int128)ns * s->frac >> 64);
    /* frac is rounded down, so the estimate is low by at most one: exact when the remainder is below 10^6.
     * Only the product modulo 2^64 is needed, as the remainder is small. */
    uint64_t rem = ns * s->khz - t * 1000000;
    return rem >= 1000000 ? t + 1 : t;
}

uint64_t tsc_to_ns(const struct tsc_scale *s, uint64_t tsc)
{
    unsigned __int128 n = ((unsigned __int128)tsc * 1000000 + s->khz - 1) / s->khz;
    return n > UINT64_MAX ? UINT64_MAX : (uint64_t)n;
}

/* --- instruction counter --------------------------------------------------- */

static uint64_t counter_now(void *ctx)
{
    struct clock_counter *c = ctx;
    uint64_t n = atomic_load_explicit(&c->insns, memory_order_relaxed);
    uint64_t us = n / c->insns_per_us, rest = n % c->insns_per_us;
    return atomic_load_explicit(&c->idle_ns, memory_order_relaxed) + us * 1000 + rest * 1000 / c->insns_per_us;
}

struct clock_source clock_counter_source(struct clock_counter *c)
{
    return (struct clock_source){counter_now, c};
}

void clock_counter_skip_to(struct clock_counter *c, const struct clock *ck, uint64_t when)
{
    uint64_t now = clock_now(ck);
    if (when > now)
        atomic_fetch_add_explicit(&c->idle_ns, when - now, memory_order_relaxed);
}
