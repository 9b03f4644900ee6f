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
static _Atomic int tty_fd = -1;
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

int host_tty_raw(int fd)
{
    struct termios t;
    if (!isatty(fd))
        return -ENOTTY;
    /* A background job must not touch the terminal (it would be stopped). */
    if (tcgetpgrp(fd) != getpgrp())
        return -EPERM;
    if (tcgetattr(fd, &t) != 0)
        return -errno;
    tty_saved = t;
    cfmakeraw(&t);
    t.c_oflag |= OPOST; /* keep newline translation for our own lines */
    pthread_once(&tty_once, tty_install);
    if (tcsetattr(fd, TCSANOW, &t) != 0)
        return -errno;
    atomic_store(&tty_fd, fd);
    return 0;
}
