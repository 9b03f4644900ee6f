/* Operating-system calls of engine kvm. */
#include "engine/kvm/kvm_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ringer/host.h"

int kvm_sys_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

void kvm_sys_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

long kvm_sys_ioctl(int fd, unsigned long request, const void *arg)
{
    int r = ioctl(fd, request, arg);
    return r < 0 ? -errno : r;
}

long kvm_sys_ioctl_val(int fd, unsigned long request, unsigned long val)
{
    int r = ioctl(fd, request, val);
    return r < 0 ? -errno : r;
}

void *kvm_sys_map(int fd, size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

void *kvm_sys_memory(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void kvm_sys_unmap(void *p, size_t size)
{
    if (p)
        munmap(p, size);
}

/* --- kicks ------------------------------------------------------------------------ */

#define KICK_SIGNAL (SIGRTMIN + 6)

static void on_kick(int sig) {}

int kvm_sys_kick_init(void)
{
    /* Without SA_RESTART KVM_RUN would not restart either way; with it the thread's other calls are left alone. */
    struct sigaction sa = {.sa_handler = on_kick, .sa_flags = SA_RESTART};
    sigemptyset(&sa.sa_mask);
    return sigaction(KICK_SIGNAL, &sa, NULL) == 0 ? 0 : -errno;
}

int kvm_sys_thread(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return (int)syscall(SYS_gettid);
}

void kvm_sys_kick(int thread)
{
    int keep = errno;
    syscall(SYS_tgkill, getpid(), thread, KICK_SIGNAL);
    errno = keep;
}

/* --- trials ------------------------------------------------------------------------ */

/* Until the trial says it is done, its end of the pipe closes, or time is up. 1: it had to be ended. */
static int wait_or_kill(pid_t pid, int fd, unsigned ms)
{
    uint64_t end = host_now() + ms * 1000000ull;
    for (;;) {
        uint64_t now = host_now();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int r = poll(&p, 1, now >= end ? 0 : (int)((end - now + 999999) / 1000000));
        if (r > 0) {
            char done;
            return read(fd, &done, 1) != 1; /* closed: it died */
        }
        if (r == 0) {
            kill(pid, SIGKILL); /* it has the pipe open: the number is still its own */
            return 1;
        }
    }
}

/* The trial is a child of nobody: a VM takes its time to go away, and nobody need wait for that. */
static void start_trial(void (*fn)(void *shared, const void *arg), void *shared, const void *arg, int fd)
{
    if (fork() == 0) {
        pid_t self = getpid();
        signal(SIGALRM, SIG_DFL);
        alarm(3); /* should the parent be gone */
        if (write(fd, &self, sizeof(self)) == (ssize_t)sizeof(self)) {
            fn(shared, arg);
            (void)!write(fd, "", 1);
        }
    }
    _exit(0);
}

int kvm_sys_trial(void (*fn)(void *shared, const void *arg), const void *arg, void **shared, size_t size, unsigned ms)
{
    int fds[2], err = 0;
    pid_t trial = -1;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *shared = NULL;
    if (p == MAP_FAILED)
        return -errno;
    if (pipe2(fds, O_CLOEXEC) != 0) {
        err = -errno;
        munmap(p, size);
        return err;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        start_trial(fn, p, arg, fds[1]);
    }
    if (pid < 0)
        err = -errno;
    close(fds[1]);
    if (!err) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        err = read(fds[0], &trial, sizeof(trial)) == (ssize_t)sizeof(trial) ? wait_or_kill(trial, fds[0], ms) : -EAGAIN;
    }
    close(fds[0]);
    if (err < 0) {
        munmap(p, size);
        return err;
    }
    *shared = p;
    return err;
}
