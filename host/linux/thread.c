/* Threads and their meeting points. Events are futexes so that setting one is async-signal-safe. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ringer/host.h"

struct host_thread {
    pthread_t t;
    void (*fn)(void *);
    void *arg;
    char name[16];
};

static void *thread_main(void *p)
{
    struct host_thread *t = p;
    if (t->name[0])
        pthread_setname_np(pthread_self(), t->name); /* from outside it would take a file */
    t->fn(t->arg);
    return NULL;
}

struct host_thread *host_thread_start(const char *name, void (*fn)(void *), void *arg)
{
    struct host_thread *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->fn = fn;
    t->arg = arg;
    if (name)
        strncpy(t->name, name, sizeof(t->name) - 1);
    /* Process-directed signals belong to the thread that owns the VM. Synchronous faults stay deliverable. */
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGTERM);
    sigaddset(&block, SIGHUP);
    sigaddset(&block, SIGUSR1);
    sigaddset(&block, SIGUSR2);
    sigaddset(&block, SIGTSTP);
    sigaddset(&block, SIGCONT);
    sigaddset(&block, SIGWINCH);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    int e = pthread_create(&t->t, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e) {
        free(t);
        return NULL;
    }
    return t;
}

void host_thread_join(struct host_thread *t)
{
    if (!t)
        return;
    pthread_join(t->t, NULL);
    free(t);
}

struct host_mutex {
    pthread_mutex_t m;
#ifdef RINGER_DEBUG
    _Atomic pid_t owner;
#endif
};

struct host_mutex *host_mutex_new(void)
{
    struct host_mutex *m = calloc(1, sizeof(*m));
    if (m)
        pthread_mutex_init(&m->m, NULL);
    return m;
}

void host_mutex_free(struct host_mutex *m)
{
    if (!m)
        return;
    pthread_mutex_destroy(&m->m);
    free(m);
}

void host_lock(struct host_mutex *m)
{
    pthread_mutex_lock(&m->m);
#ifdef RINGER_DEBUG
    m->owner = (pid_t)syscall(SYS_gettid);
#endif
}

bool host_trylock(struct host_mutex *m)
{
    if (pthread_mutex_trylock(&m->m) != 0)
        return false;
#ifdef RINGER_DEBUG
    m->owner = (pid_t)syscall(SYS_gettid);
#endif
    return true;
}

void host_unlock(struct host_mutex *m)
{
#ifdef RINGER_DEBUG
    m->owner = 0;
#endif
    pthread_mutex_unlock(&m->m);
}

bool host_locked_by_me(struct host_mutex *m)
{
#ifdef RINGER_DEBUG
    return m->owner == (pid_t)syscall(SYS_gettid);
#else
    (void)m;
    return true;
#endif
}

struct host_cond {
    pthread_cond_t c;
};

struct host_cond *host_cond_new(void)
{
    struct host_cond *c = calloc(1, sizeof(*c));
    if (c)
        pthread_cond_init(&c->c, NULL);
    return c;
}

void host_cond_free(struct host_cond *c)
{
    if (!c)
        return;
    pthread_cond_destroy(&c->c);
    free(c);
}

void host_cond_wait(struct host_cond *c, struct host_mutex *m)
{
#ifdef RINGER_DEBUG
    m->owner = 0;
#endif
    pthread_cond_wait(&c->c, &m->m);
#ifdef RINGER_DEBUG
    m->owner = (pid_t)syscall(SYS_gettid);
#endif
}

void host_cond_broadcast(struct host_cond *c)
{
    pthread_cond_broadcast(&c->c);
}

struct host_event {
    _Atomic uint32_t set;
};

struct host_event *host_event_new(void)
{
    return calloc(1, sizeof(struct host_event));
}

void host_event_free(struct host_event *e)
{
    free(e);
}

void host_event_set(struct host_event *e)
{
    if (atomic_exchange(&e->set, 1) == 0) {
        int keep = errno;
        syscall(SYS_futex, &e->set, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
        errno = keep;
    }
}

bool host_event_wait(struct host_event *e, uint64_t deadline_ns)
{
    for (;;) {
        if (atomic_exchange(&e->set, 0))
            return true;
        struct timespec ts, *pts = NULL;
        if (deadline_ns != UINT64_MAX) {
            if (host_now() >= deadline_ns)
                return false;
            ts.tv_sec = (time_t)(deadline_ns / 1000000000u);
            ts.tv_nsec = (long)(deadline_ns % 1000000000u);
            pts = &ts;
        }
        /* FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time. */
        syscall(SYS_futex, &e->set, FUTEX_WAIT_BITSET_PRIVATE, 0, pts, NULL, FUTEX_BITSET_MATCH_ANY);
    }
}
