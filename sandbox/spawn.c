#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/spawn.h"

#define FDS_MAX 8

/* In the child: only async-signal-safe calls. */
static _Noreturn void child(int image, const char *name, const int *fds, unsigned nfds)
{
    char *const argv[] = {(char *)(uintptr_t)name, NULL}, *const envp[] = {NULL};
    int f[FDS_MAX + 1];

    /* Out of the way of the numbers they get. */
    for (unsigned i = 0; i <= nfds; i++)
        if ((f[i] = fcntl(i < nfds ? fds[i] : image, F_DUPFD, 3 + FDS_MAX + 1)) < 0)
            _exit(120);
    int null = open("/dev/null", O_RDWR);
    if (null < 0) /* the monitor is confined: something harmless of its own */
        null = f[nfds];
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    for (unsigned i = 0; i <= nfds; i++)
        if (dup2(f[i], 3 + (int)i) < 0)
            _exit(120);
    fcntl(3 + (int)nfds, F_SETFD, FD_CLOEXEC);
    syscall(SYS_close_range, 3 + nfds + 1, UINT_MAX, 0);
    setsid();
    syscall(SYS_execveat, 3 + (int)nfds, "", argv, envp, AT_EMPTY_PATH);
    _exit(121);
}

pid_t spawn_image(const void *image, size_t len, const char *name, const int *fds, unsigned nfds)
{
    const int fd = memfd_create(name, MFD_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (nfds > FDS_MAX || write(fd, image, len) != (ssize_t)len) {
        close(fd);
        return -EIO;
    }
    /* The child borrows our memory until it is the new program: a fork would make every page of ours copy-on-write. No signal handler of
     * ours may run in it meanwhile. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const pid_t pid = vfork();
    if (pid == 0)
        child(fd, name, fds, nfds);
    const int err = errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    close(fd);
    return pid < 0 ? -err : pid;
}
