/* Worlds: making the process, handing over, its end. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ringer/host.h"
#include "sandbox/awake.h"
#include "sandbox/spawn.h"
#include "sandbox/world.h"

struct world {
    struct world_ctl *ctl;
    pid_t pid;
    uint32_t seq;
    uint32_t nops;
    uint64_t runs;
    struct awake awake;
    uint32_t patience, w_patience; /* in turns of waiting: ours, the world's */
    char why[128];
    struct world_op queue[WORLD_OPS]; /* ours: the shared page is only written when it is handed over */
};

struct world_ctl *world_ctl(struct world *w)
{
    return w->ctl;
}

const char *world_why(const struct world *w)
{
    return w->why;
}

uint64_t world_runs(const struct world *w)
{
    return w->runs;
}

static long futex(uint32_t *word, int op, uint32_t val, const struct timespec *t)
{
    return syscall(SYS_futex, word, op, val, t, NULL, 0);
}

/* Has the process ended? Then say how. */
static bool gone(struct world *w)
{
    int st;
    pid_t p = w->pid > 0 ? waitpid(w->pid, &st, WNOHANG) : -1;
    if (p == 0 || (p < 0 && errno == EINTR))
        return false;
    if (p < 0)
        snprintf(w->why, sizeof(w->why), "the sandboxed process is gone");
    else if (WIFSIGNALED(st))
        snprintf(w->why, sizeof(w->why), "the sandboxed process was ended by signal %d (%s)", WTERMSIG(st), strsignal(WTERMSIG(st)));
    else
        snprintf(w->why, sizeof(w->why), "the sandboxed process ended with status %d", WEXITSTATUS(st));
    host_child(w->pid, false);
    w->pid = -1;
    return true;
}

/* Wait for the answer to request w->seq. */
static int await(struct world *w)
{
    struct world_ctl *c = w->ctl;
    uint32_t a;
    for (uint32_t i = 0; i < w->patience; i++) {
        if (__atomic_load_n(&c->answer, __ATOMIC_SEQ_CST) == w->seq)
            return 0;
        awake_turn();
    }
    while ((a = __atomic_load_n(&c->answer, __ATOMIC_SEQ_CST)) != w->seq) {
        const struct timespec t = {.tv_nsec = 100000000};
        __atomic_store_n(&c->monitor_sleeps, 1, __ATOMIC_SEQ_CST);
        futex(&c->answer, FUTEX_WAIT, a, &t);
        __atomic_store_n(&c->monitor_sleeps, 0, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&c->answer, __ATOMIC_SEQ_CST) != w->seq && gone(w))
            return -1;
    }
    return 0;
}

int world_run(struct world *w, struct world *last)
{
    struct world_ctl *c = w->ctl;
    if (w->pid <= 0)
        return -1;
    c->nops = w->nops;
    memcpy(c->op, w->queue, w->nops * sizeof(w->queue[0]));
    c->failed = 0;
    w->nops = 0;
    w->runs++;
    __atomic_store_n(&c->patience, w->w_patience, __ATOMIC_RELAXED);
    __atomic_store_n(&c->request, ++w->seq, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&c->world_sleeps, __ATOMIC_SEQ_CST))
        futex(&c->request, FUTEX_WAKE, 1, NULL);
    if (last && last != w) /* now, so that its processor never was idle */
        __atomic_store_n(&last->ctl->patience, 0, __ATOMIC_RELAXED);
    if (await(w) != 0)
        return -1;
    return c->failed ? 1 : 0;
}

unsigned world_queued(const struct world *w)
{
    return w->nops;
}

int world_queue(struct world *w, const struct world_op *op)
{
    if (w->nops >= WORLD_OPS)
        return -1;
    w->queue[w->nops++] = *op;
    return 0;
}

void world_clear(struct world *w)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->nops; i++)
        if (w->queue[i].kind == WORLD_LDT)
            w->queue[n++] = w->queue[i];
    w->nops = n;
}

void world_kick(struct world *w)
{
    if (w->pid > 0)
        kill(w->pid, SIGUSR1); /* not reaped before world_free: the number stays ours */
}

void world_patience(struct world *w, unsigned monitor_us, unsigned world_us)
{
    w->patience = w->awake.per_us * monitor_us;
    w->w_patience = w->awake.per_us * world_us;
    awake_apart(&w->awake, w->pid, w->patience | w->w_patience);
}

struct world *world_new(int ram_fd, int code_fd, char *reason, size_t cap)
{
    struct world *w = calloc(1, sizeof(*w));
    int ctl_fd = memfd_create("ringer-ctl", MFD_CLOEXEC);
    if (!w || ctl_fd < 0 || ftruncate(ctl_fd, sizeof(struct world_ctl)) != 0) {
        snprintf(reason, cap, "cannot make a memory file: %s", strerror(errno));
        goto fail;
    }
    w->ctl = mmap(NULL, sizeof(struct world_ctl), PROT_READ | PROT_WRITE, MAP_SHARED, ctl_fd, 0);
    if (w->ctl == MAP_FAILED) {
        w->ctl = NULL;
        snprintf(reason, cap, "cannot map: %s", strerror(errno));
        goto fail;
    }
    awake_init(&w->awake);
    w->ctl->parent = (uint32_t)getpid();
    w->ctl->answer = UINT32_MAX;
    const int fds[] = {ram_fd, code_fd, ctl_fd}; /* WORLD_FD_RAM and on */
    w->pid = spawn_image(world_stub_start, (size_t)(world_stub_end - world_stub_start), "ringer-world", fds, 3);
    if (w->pid > 0)
        host_child(w->pid, true);
    if (w->pid < 0) {
        snprintf(reason, cap, "cannot make a process: %s", strerror(-w->pid));
        goto fail;
    }
    if (await(w) != 0) { /* its first answer is to request 0 */
        snprintf(reason, cap, "%s", w->why);
        goto fail;
    }
    close(ctl_fd);
    return w;
fail:
    if (ctl_fd >= 0)
        close(ctl_fd);
    world_free(w);
    return NULL;
}

void world_free(struct world *w)
{
    if (!w)
        return;
    if (w->pid > 0) {
        kill(w->pid, SIGKILL);
        while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR)
            ;
        host_child(w->pid, false);
    }
    if (w->ctl)
        munmap(w->ctl, sizeof(struct world_ctl));
    free(w);
}

