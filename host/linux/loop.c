/* The event loop: epoll for descriptors, an eventfd for work posted from other threads. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ringer/host.h"

struct watch {
    int fd;
    bool (*fn)(void *ctx);
    void *ctx;
    bool always; /* epoll refuses regular files: they are always readable */
    struct watch *next;
};

struct work {
    void (*fn)(void *);
    void *arg;
    struct work *next;
};

struct host_loop {
    int ep, ev;
    _Atomic bool stop;
    struct watch *watches;
    struct host_mutex *lock; /* guards head/tail */
    struct work *head, **tail;
};

struct host_loop *host_loop_new(void)
{
    struct host_loop *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->ep = epoll_create1(EPOLL_CLOEXEC);
    l->ev = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->lock = host_mutex_new();
    l->tail = &l->head;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (l->ep < 0 || l->ev < 0 || !l->lock || epoll_ctl(l->ep, EPOLL_CTL_ADD, l->ev, &e) != 0) {
        host_loop_free(l);
        return NULL;
    }
    return l;
}

void host_loop_free(struct host_loop *l)
{
    if (!l)
        return;
    for (struct watch *w = l->watches, *n; w; w = n) {
        n = w->next;
        free(w);
    }
    for (struct work *w = l->head, *n; w; w = n) {
        n = w->next;
        free(w);
    }
    if (l->ep >= 0)
        close(l->ep);
    if (l->ev >= 0)
        close(l->ev);
    host_mutex_free(l->lock);
    free(l);
}

int host_loop_add_fd(struct host_loop *l, int fd, bool (*fn)(void *ctx), void *ctx)
{
    struct watch *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    *w = (struct watch){.fd = fd, .fn = fn, .ctx = ctx};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = w};
    if (epoll_ctl(l->ep, EPOLL_CTL_ADD, fd, &e) != 0) {
        if (errno != EPERM) {
            int err = -errno;
            free(w);
            return err;
        }
        w->always = true;
    }
    w->next = l->watches;
    l->watches = w;
    return 0;
}

void host_loop_del_fd(struct host_loop *l, int fd)
{
    for (struct watch **p = &l->watches; *p; p = &(*p)->next)
        if ((*p)->fd == fd) {
            struct watch *w = *p;
            *p = w->next;
            if (!w->always)
                epoll_ctl(l->ep, EPOLL_CTL_DEL, fd, NULL);
            free(w);
            return;
        }
}

static void wake(struct host_loop *l)
{
    uint64_t one = 1;
    int keep = errno;
    ssize_t r = write(l->ev, &one, sizeof(one));
    (void)r;
    errno = keep;
}

void host_loop_post(struct host_loop *l, void (*fn)(void *), void *arg)
{
    struct work *w = malloc(sizeof(*w));
    if (!w) {
        fn(arg); /* out of memory: late work is worse than work on the wrong thread */
        return;
    }
    *w = (struct work){.fn = fn, .arg = arg};
    host_lock(l->lock);
    *l->tail = w;
    l->tail = &w->next;
    host_unlock(l->lock);
    wake(l);
}

static void run_posted(struct host_loop *l)
{
    for (;;) {
        host_lock(l->lock);
        struct work *w = l->head;
        if (w) {
            l->head = w->next;
            if (!l->head)
                l->tail = &l->head;
        }
        host_unlock(l->lock);
        if (!w)
            return;
        w->fn(w->arg);
        free(w);
    }
}

static bool run_always(struct host_loop *l)
{
    bool any = false;
    for (struct watch *w = l->watches, *n; w; w = n) {
        n = w->next;
        if (!w->always)
            continue;
        if (w->fn(w->ctx))
            any = true;
        else
            host_loop_del_fd(l, w->fd);
    }
    return any;
}

void host_loop_run(struct host_loop *l)
{
    while (!atomic_load(&l->stop)) {
        bool busy = run_always(l);
        struct epoll_event e[16];
        int n = epoll_wait(l->ep, e, 16, busy ? 1 : -1);
        for (int i = 0; i < n; i++) {
            struct watch *w = e[i].data.ptr;
            if (!w) {
                uint64_t v;
                ssize_t r = read(l->ev, &v, sizeof(v));
                (void)r;
            } else {
                /* An earlier handler of this round may have removed it. */
                struct watch *x = l->watches;
                while (x && x != w)
                    x = x->next;
                if (x && !w->fn(w->ctx))
                    host_loop_del_fd(l, w->fd);
            }
        }
        run_posted(l);
    }
}

void host_loop_stop(struct host_loop *l)
{
    atomic_store(&l->stop, true);
    wake(l);
}

int host_signal_new(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

uint64_t host_signal_take(int fd)
{
    uint64_t n = 0;
    return read(fd, &n, sizeof(n)) == (ssize_t)sizeof(n) ? n : 0;
}

void host_signal_free(int fd)
{
    close(fd);
}
