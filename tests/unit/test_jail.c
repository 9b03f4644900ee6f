/* A confined process, in a child: what it may not do fails, on threads that were there before too, and what the machine needs works. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ringer/host.h"

#define REFUSED(call)                                                                                                  \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        if ((long)(call) != -1 || errno != EPERM) {                                                                    \
            dprintf(2, "%s: %s\n", #call, errno ? strerror(errno) : "works");                                         \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)
#define WORKS(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            dprintf(2, "%s: %s\n", #cond, strerror(errno));                                                            \
            _exit(2);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define CHILD 0x100u

static struct host_event *go, *done;

static void attack(unsigned flags)
{
    char *argv[] = {"/bin/true", NULL}, buf[8];
    struct iovec iov = {buf, sizeof(buf)};
    struct rlimit more = {100, 100};

    REFUSED(open("/etc/passwd", O_RDONLY));
    REFUSED(open("/tmp/ringer-jail", O_WRONLY | O_CREAT, 0600));
    REFUSED(syscall(SYS_openat2, AT_FDCWD, "/etc/passwd", NULL, 0));
    REFUSED(syscall(SYS_creat, "/tmp/ringer-jail", 0600));
    REFUSED(unlink("/tmp/ringer-jail"));
    REFUSED(rename("/tmp/ringer-jail", "/tmp/ringer-jail2"));
    REFUSED(execv("/bin/true", argv));
    REFUSED(socket(AF_INET, SOCK_STREAM, 0));
    REFUSED(socket(AF_UNIX, SOCK_STREAM, 0));
    REFUSED(ptrace(PTRACE_ATTACH, getppid(), 0, 0));
    REFUSED(process_vm_readv(getppid(), &iov, 1, &iov, 1, 0));
    REFUSED(syscall(SYS_unshare, 0x10000000));
    REFUSED(syscall(SYS_clone, 0x10000000 | SIGCHLD, 0, 0, 0, 0)); /* a user namespace */
    REFUSED(syscall(SYS_io_uring_setup, 8, NULL));
    REFUSED(syscall(SYS_bpf, 0, NULL, 0));
    REFUSED(syscall(SYS_keyctl, 0, 0));
    REFUSED(syscall(SYS_userfaultfd, 0));
    REFUSED(syscall(SYS_pidfd_open, getppid(), 0));
    REFUSED(syscall(SYS_mount, "", "/", "", 0, NULL));
    REFUSED(ioctl(0, 0x5412, "x"));                            /* TIOCSTI: typing into the terminal */
    REFUSED(fcntl(0, F_SETOWN, getppid()));
    if (!(flags & CHILD)) /* of which the confined process itself is the parent */
        REFUSED(syscall(SYS_tgkill, getppid(), getppid(), 0));
    REFUSED(syscall(SYS_prlimit64, getppid(), RLIMIT_CORE, NULL, &more));
    long r; /* the 32-bit way in: getpid, 20 */
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
    REFUSED((errno = (int)-r, -1));
    if (!(flags & HOST_JAIL_WORLDS)) {
        REFUSED(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        REFUSED(kill(getppid(), 0));
        REFUSED(fork());
        REFUSED(syscall(SYS_execveat, 0, "", argv, NULL, AT_EMPTY_PATH));
        REFUSED(syscall(SYS_prctl, 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0));
    }
}

static void early_thread(void *flags)
{
    host_event_wait(go, UINT64_MAX);
    attack((unsigned)(uintptr_t)flags);
    host_event_set(done);
}
static void late_thread(void *ctx)
{
    *(int *)ctx = 7;
}

static void confined(unsigned flags)
{
    struct rlimit core;
    void *rw, *rx;
    int ran = 0, fd, out[2];

    /* An ordinary user's limits would stop some of it; the filter must. */
    go = host_event_new();
    done = host_event_new();
    WORKS(pipe(out) == 0);
    struct host_thread *t = host_thread_start("early", early_thread, (void *)(uintptr_t)flags);
    WORKS(t);
    WORKS(host_jail(flags) == 0);
    attack(flags);
    host_event_set(go);
    host_event_wait(done, UINT64_MAX);
    host_thread_join(t);
    /* What a machine does. */
    t = host_thread_start("late", late_thread, &ran);
    WORKS(t);
    host_thread_join(t);
    WORKS(ran == 7);
    WORKS(host_ram_alloc(1 << 20, &fd));
    WORKS(host_exec_alloc(1 << 16, &rw, &rx) == 0);
    WORKS(host_random(&ran, sizeof(ran)) == 0);
    WORKS(write(out[1], "x", 1) == 1 && read(out[0], &ran, 1) == 1);
    WORKS(host_signal_new() >= 0);
    WORKS(getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0);
    if (flags & HOST_JAIL_WORLDS) {
        int st;
        const pid_t child = fork();
        if (child == 0) {
            attack(flags | CHILD); /* inherited */
            _exit(0);
        }
        WORKS(child > 0 && waitpid(child, &st, 0) == child && st == 0);
    }
    _exit(0);
}

static void check(unsigned flags)
{
    int st;
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0)
        confined(flags);
    assert_int_equal(waitpid(child, &st, 0), child);
    assert_int_equal(st, 0);
}

static void alone(void **state)
{
    (void)state;
    check(0);
}
static void with_worlds(void **state)
{
    (void)state;
    check(HOST_JAIL_WORLDS);
}
static void with_kvm(void **state)
{
    (void)state;
    check(HOST_JAIL_KVM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(alone), cmocka_unit_test(with_worlds), cmocka_unit_test(with_kvm)};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)tests;
    return 0; /* not confined: host/linux/jail.c */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(undefined_behavior_sanitizer)
    return 0;
#endif
#endif
    return cmocka_run_group_tests(tests, NULL, NULL);
}
