/* The user's terminal: raw while the guest owns it, restored however the process ends. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "ringer/host.h"

/* One process has one controlling terminal; this is its state, not a VM's. */
static struct termios tty_saved;
static _Atomic int tty_fd = -1;     /* raw now */
static _Atomic int tty_wanted = -1; /* to be raw while we are in the foreground */
static pthread_once_t tty_once = PTHREAD_ONCE_INIT;

void host_tty_restore(void)
{
    int fd = atomic_exchange(&tty_fd, -1);
    if (fd >= 0)
        tcsetattr(fd, TCSANOW, &tty_saved); /* async-signal-safe */
}

static void on_fatal(int sig)
{
    host_tty_restore();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void tty_install(void)
{
    atexit(host_tty_restore);
    /* Ends that do not run atexit. SIGINT and SIGTERM are the command line's. */
    static const int sigs[] = {SIGABRT, SIGQUIT, SIGALRM, SIGXCPU, SIGSYS, SIGTRAP};
    for (size_t i = 0; i < sizeof(sigs) / sizeof(*sigs); i++) {
        struct sigaction old;
        if (sigaction(sigs[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            signal(sigs[i], on_fatal);
    }
}

static struct termios raw_of(const struct termios *t)
{
    struct termios raw = *t;
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST; /* keep newline translation for our own lines */
    return raw;
}

static int make_raw(int fd)
{
    struct termios now, raw;
    /* A background job must not touch the terminal (it would be stopped). */
    if (tcgetpgrp(fd) != getpgrp())
        return -EPERM;
    if (tcgetattr(fd, &now) != 0)
        return -errno;
    /* Stopped by SIGSTOP and continued, we may find our own modes or those of whoever had the terminal meanwhile. */
    raw = raw_of(&tty_saved);
    if (atomic_load(&tty_fd) < 0 || now.c_lflag != raw.c_lflag || now.c_iflag != raw.c_iflag || now.c_oflag != raw.c_oflag)
        tty_saved = now;
    raw = raw_of(&tty_saved);
    if (tcsetattr(fd, TCSANOW, &raw) != 0)
        return -errno;
    atomic_store(&tty_fd, fd);
    return 0;
}

int host_tty_raw(int fd)
{
    if (!isatty(fd))
        return -ENOTTY;
    pthread_once(&tty_once, tty_install);
    atomic_store(&tty_wanted, fd);
    return make_raw(fd);
}

void host_tty_stop(void)
{
    host_tty_restore();
    raise(SIGSTOP);
}

void host_tty_continue(void)
{
    int fd = atomic_load(&tty_wanted);
    if (fd >= 0)
        make_raw(fd);
}
