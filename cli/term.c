/*
 * The user's terminal: standard input and output as a character back end, with
 * an escape key (Ctrl-A). Output goes through a buffer and a thread of its own, so that a
 * slow reader holds up the guest (as a slow line would) but never its end.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"

#define OUT_CAP (256u << 10)
#define ESCAPE 1 /* Ctrl-A */

struct term {
    struct host_loop *loop;
    enum eof_kind eof;
    struct chardev_sink sink;
    struct host_mutex *device_lock;
    void (*quit)(void *);
    bool (*ending)(void *);
    void *ctx; /* of both */

    /* input: loop thread only, but for in_wait */
    uint8_t in[4096];
    size_t in_len;
    bool escaped, watching, eof_seen, mid_line;
    _Atomic bool in_wait; /* the device had no room */
    _Atomic bool stalled; /* a vCPU waits in term_write, with the device lock */

    /* output */
    struct host_mutex *lock;
    struct host_event *space, *data;
    struct host_thread *writer;
    uint8_t *out;
    size_t head, tail; /* free-running */
    _Atomic bool closing;
};

/* --- output --- */

static void writer_main(void *arg)
{
    struct term *t = arg;
    for (;;) {
        host_lock(t->lock);
        size_t n = t->head - t->tail, at = t->tail % OUT_CAP;
        host_unlock(t->lock);
        if (!n) {
            if (atomic_load(&t->closing))
                return;
            host_event_wait(t->data, UINT64_MAX);
            continue;
        }
        if (n > OUT_CAP - at)
            n = OUT_CAP - at;
        ssize_t w = write(1, t->out + at, n);
        if (w < 0 && (errno == EINTR || errno == EAGAIN)) {
            if (errno == EAGAIN)
                usleep(1000);
            continue;
        }
        host_lock(t->lock);
        t->tail += w < 0 ? n : (size_t)w; /* nobody reads any more: drop */
        host_unlock(t->lock);
        host_event_set(t->space);
    }
}

/* Put into the buffer what fits. */
static size_t put(struct term *t, const uint8_t *buf, size_t n)
{
    host_lock(t->lock);
    size_t room = OUT_CAP - (t->head - t->tail), k = n < room ? n : room;
    bool was_empty = t->head == t->tail;
    for (size_t i = 0; i < k; i++)
        t->out[(t->head + i) % OUT_CAP] = buf[i];
    t->head += k;
    host_unlock(t->lock);
    if (was_empty && k)
        host_event_set(t->data);
    return k;
}

static void resume_input(void *arg);

/* Waits for the reader, but not beyond the machine's end: the vCPU must come back to be stopped. */
static size_t term_write(void *ctx, const uint8_t *buf, size_t n)
{
    struct term *t = ctx;
    size_t done = put(t, buf, n);
    if (done == n)
        return n;
    atomic_store(&t->stalled, true);
    while (done < n && !atomic_load(&t->closing) && !(t->ending && t->ending(t->ctx))) {
        host_event_wait(t->space, host_now() + 100000000);
        done += put(t, buf + done, n - done);
    }
    atomic_store(&t->stalled, false);
    host_loop_post(t->loop, resume_input, t);
    return n;
}

/* --- input --- */

static void say(struct term *t, const char *s)
{
    put(t, (const uint8_t *)s, strlen(s));
}

/* Hand over what the device takes. It calls accept only after it has said that it has no room. */
static void push_input(struct term *t)
{
    size_t done = 0, n;
    /* While a vCPU holds the lock and waits for the reader of the output, input waits in our buffer, so that the escape key and
     * signals are still served here; term_write resumes it. */
    while (!host_trylock(t->device_lock)) {
        if (atomic_load(&t->stalled))
            return;
        usleep(100);
    }
    while (done < t->in_len && (n = t->sink.room(t->sink.ctx)) > 0) {
        if (n > t->in_len - done)
            n = t->in_len - done;
        t->sink.input(t->sink.ctx, t->in + done, n);
        done += n;
    }
    atomic_store(&t->in_wait, done < t->in_len);
    host_unlock(t->device_lock);
    memmove(t->in, t->in + done, t->in_len - done);
    t->in_len -= done;
}

static bool on_readable(void *ctx);

static void resume_input(void *arg)
{
    struct term *t = arg;
    if (t->in_len)
        push_input(t);
    if (t->in_len < sizeof(t->in) / 2 && !t->watching && !t->eof_seen) {
        t->watching = true;
        if (host_loop_add_fd(t->loop, 0, on_readable, t) != 0)
            t->watching = false;
    }
}

static void term_accept(void *ctx)
{
    struct term *t = ctx;
    if (atomic_exchange(&t->in_wait, false))
        host_loop_post(t->loop, resume_input, t);
}

static void on_key(struct term *t, uint8_t c)
{
    if (!t->escaped) {
        if (c == ESCAPE && isatty(0))
            t->escaped = true;
        else
            t->in[t->in_len++] = c;
        return;
    }
    t->escaped = false;
    switch (c) {
    case 'x':
    case 'X':
        say(t, "\r\nringer: quit\r\n");
        t->quit(t->ctx);
        break;
    case 'h':
    case 'H':
    case '?':
        say(t, "\r\nCtrl-A h  this help\r\nCtrl-A x  quit the guest\r\nCtrl-A s  statistics\r\nCtrl-A p  power button\r\nCtrl-A Ctrl-A  send Ctrl-A\r\n");
        break;
    case 's':
    case 'S': kill(getpid(), SIGUSR1); break;
    case 'p':
    case 'P': kill(getpid(), SIGUSR2); break;
    case ESCAPE: t->in[t->in_len++] = ESCAPE; break;
    default: break;
    }
}

static bool on_readable(void *ctx)
{
    struct term *t = ctx;
    uint8_t buf[1024];
    size_t want = sizeof(t->in) - t->in_len - 2; /* room for what stands for the end of file */
    if (want > sizeof(buf))
        want = sizeof(buf);
    ssize_t n = want ? read(0, buf, want) : 0;
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    if (n == 0 && want) {
        t->eof_seen = true;
        t->watching = false;
        if (t->eof == EOF_CTRL_D) {
            /* In mid-line the first Ctrl-D only hands over what there is of the line. */
            if (t->mid_line)
                t->in[t->in_len++] = 4;
            t->in[t->in_len++] = 4;
            push_input(t);
        }
        return false;
    }
    for (ssize_t i = 0; i < n; i++)
        on_key(t, buf[i]);
    if (n > 0)
        t->mid_line = buf[n - 1] != '\n';
    push_input(t);
    if (t->in_len >= sizeof(t->in) / 2) {
        t->watching = false; /* wait for room; resume_input watches again */
        return false;
    }
    return true;
}

/* --- life --- */

struct term *term_new(struct host_loop *loop, enum eof_kind eof, void (*quit)(void *), bool (*ending)(void *), void *ctx)
{
    struct term *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    struct stat st;
    t->loop = loop;
    t->eof = eof;
    t->quit = quit;
    t->ending = ending;
    t->ctx = ctx;
    if (eof == EOF_AUTO)
        t->eof = fstat(0, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode)) ? EOF_CTRL_D : EOF_IGNORE;
    t->lock = host_mutex_new();
    t->space = host_event_new();
    t->data = host_event_new();
    t->out = malloc(OUT_CAP);
    if (t->lock && t->space && t->data && t->out)
        t->writer = host_thread_start("output", writer_main, t);
    if (!t->writer) {
        term_free(t);
        return NULL;
    }
    return t;
}

void term_connect(struct term *t, const struct chardev_sink *sink, struct host_mutex *lock)
{
    t->sink = *sink;
    t->device_lock = lock;
}

struct chardev term_chardev(struct term *t)
{
    return (struct chardev){.ctx = t, .write = term_write, .accept = term_accept};
}

int term_start(struct term *t)
{
    if (!t->sink.input)
        return 0;
    host_tty_raw(0);
    t->watching = true;
    int r = host_loop_add_fd(t->loop, 0, on_readable, t);
    if (r)
        t->watching = false;
    return r == -EBADF ? 0 : r; /* standard input closed: a guest without input */
}

void term_free(struct term *t)
{
    if (!t)
        return;
    if (t->writer) {
        /* Wait as long as the reader makes progress. */
        for (unsigned stalled = 0; stalled < 20;) {
            host_lock(t->lock);
            size_t left = t->head - t->tail;
            host_unlock(t->lock);
            if (!left)
                break;
            stalled = host_event_wait(t->space, host_now() + 100000000) ? 0 : stalled + 1;
        }
        atomic_store(&t->closing, true);
        host_lock(t->lock);
        bool stuck = t->head != t->tail;
        host_unlock(t->lock);
        host_event_set(t->data);
        if (stuck)
            return; /* the writer hangs in write: leave it its memory, the process is about to end */
        host_thread_join(t->writer);
    }
    host_tty_restore();
    host_mutex_free(t->lock);
    host_event_free(t->space);
    host_event_free(t->data);
    free(t->out);
    free(t);
}

/* --- a file or FIFO --- */

static size_t file_write(void *ctx, const uint8_t *buf, size_t n)
{
    struct file_out *f = ctx;
    for (size_t done = 0; done < n;) {
        ssize_t w = write(f->fd, buf + done, n - done);
        if (w >= 0) {
            done += (size_t)w;
        } else if (errno == EAGAIN && !f->ending(f->ctx)) {
            struct pollfd p = {.fd = f->fd, .events = POLLOUT};
            poll(&p, 1, 100);
        } else if (errno != EINTR) {
            break;
        }
    }
    return n;
}

static void file_accept(void *ctx)
{
    (void)ctx;
}

struct chardev file_chardev(struct file_out *f)
{
    return (struct chardev){.ctx = f, .write = file_write, .accept = file_accept};
}
