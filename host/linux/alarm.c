/* Alarms of a thread: a POSIX timer whose signal goes to that thread. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "ringer/host.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

struct host_alarm {
    timer_t timer;
    void (*fn)(void *, uintptr_t);
    void *arg;
};

static void on_alarm(int sig, siginfo_t *si, void *uc)
{
    (void)sig;
    if (si->si_code == SI_TIMER) {
        const struct host_alarm *t = si->si_value.sival_ptr;

        t->fn(t->arg, (uintptr_t)((const ucontext_t *)uc)->uc_mcontext.gregs[REG_RIP]);
    }
}

struct host_alarm *host_alarm_new(void (*fn)(void *, uintptr_t), void *arg)
{
    struct host_alarm *t = calloc(1, sizeof(*t));
    struct sigaction sa = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};

    if (!t)
        return NULL;
    t->fn = fn;
    t->arg = arg;
    ev.sigev_value.sival_ptr = t;
    ev.sigev_notify_thread_id = gettid();
    sigemptyset(&sa.sa_mask);
    if (sigaction(SIGRTMIN, &sa, NULL) || timer_create(CLOCK_MONOTONIC, &ev, &t->timer)) {
        free(t);
        return NULL;
    }
    return t;
}

void host_alarm_set(struct host_alarm *t, uint64_t ns)
{
    const struct itimerspec its = {.it_value = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)}};

    timer_settime(t->timer, 0, &its, NULL);
}

void host_alarm_free(struct host_alarm *t)
{
    const struct timespec now = {0};
    sigset_t set, old;

    /* A signal may be pending: it would speak of memory that is gone. */
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    timer_delete(t->timer);
    while (sigtimedwait(&set, NULL, &now) == SIGRTMIN)
        ;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    free(t);
}

unsigned host_cpus(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) ? 1 : (unsigned)CPU_COUNT(&set);
}
