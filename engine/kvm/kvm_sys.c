/* Operating-system calls of engine kvm. */
#include "engine/kvm/kvm_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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

static void on_kick(int sig)
{
}

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

static int wait_or_kill(pid_t pid, int pipe_fd, unsigned ms)
{
    uint64_t end = host_now() + ms * 1000000ull;
    int status, killed = 0;
    for (;;) {
        uint64_t now = host_now();
        struct pollfd p = {.fd = pipe_fd, .events = POLLIN};
        /* The other end of the pipe closes when the process ends, however it does. */
        int r = poll(&p, 1, now >= end ? 0 : (int)((end - now + 999999) / 1000000));
        if (r > 0)
            break;
        if (r < 0 && errno == EINTR)
            continue;
        if (killed)
            return 1; /* stuck in the kernel: init will reap it */
        kill(pid, SIGKILL);
        killed = 1;
        end = host_now() + 100000000ull;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return killed || status != 0;
}

int kvm_sys_trial(void (*fn)(void *shared, const void *arg), const void *arg, void **shared, size_t size, unsigned ms)
{
    int fds[2];
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *shared = NULL;
    if (p == MAP_FAILED)
        return -errno;
    if (pipe2(fds, O_CLOEXEC) != 0) {
        munmap(p, size);
        return -errno;
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        close(fds[0]);
        fn(p, arg);
        _exit(0);
    }
    int err = pid < 0 ? -errno : 0;
    close(fds[1]);
    if (!err)
        err = wait_or_kill(pid, fds[0], ms);
    close(fds[0]);
    if (err < 0) {
        munmap(p, size);
        return err;
    }
    *shared = p;
    return err;
}
