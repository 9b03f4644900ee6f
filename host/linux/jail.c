/*
 * Confinement of the process itself: a system-call filter on all threads, no new privileges, no dumps, few limits. Nothing here can be
 * taken back, and whatever process this one may still make inherits it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/fs.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ringer/host.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define INSTRUMENTED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define INSTRUMENTED 1
#endif
#endif

#define FILTER_MAX 400
#define MAX_FILES 1024

struct filter {
    struct sock_filter f[FILTER_MAX];
    unsigned n;
};

static void put(struct filter *p, unsigned code, uint32_t k, uint8_t jt, uint8_t jf)
{
    if (p->n < FILTER_MAX)
        p->f[p->n++] = (struct sock_filter){(uint16_t)code, jt, jf, k};
}
static void load(struct filter *p, size_t off) { put(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)off, 0, 0); }
static void ret(struct filter *p, uint32_t what) { put(p, BPF_RET | BPF_K, what, 0, 0); }
static void allow_if(struct filter *p, unsigned test, uint32_t k)
{
    put(p, BPF_JMP | test | BPF_K, k, 0, 1);
    ret(p, SECCOMP_RET_ALLOW);
}
#define ARG(i) (offsetof(struct seccomp_data, args) + 8u * (i)) /* the low half */

/* A call that is judged by an argument: code up to here_end runs for it alone. */
static unsigned here(struct filter *p, uint32_t nr)
{
    put(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0);
    return p->n - 1;
}
static void here_end(struct filter *p, unsigned at)
{
    ret(p, SECCOMP_RET_ERRNO | EPERM);
    p->f[at].jf = (uint8_t)(p->n - at - 1);
}

/* Argument i must be one of these. */
static void one_of(struct filter *p, uint32_t nr, unsigned i, const uint32_t *val, unsigned n)
{
    const unsigned at = here(p, nr);
    load(p, ARG(i));
    for (unsigned k = 0; k < n; k++)
        allow_if(p, BPF_JEQ, val[k]);
    here_end(p, at);
}
#define ONE_OF(p, nr, i, ...)                                                                                          \
    one_of(p, nr, i, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

/* Memory that is writable and executable in one place is nobody's business. */
static void not_wx(struct filter *p, uint32_t nr)
{
    const unsigned at = here(p, nr);
    load(p, ARG(2));
    put(p, BPF_ALU | BPF_AND | BPF_K, PROT_WRITE | PROT_EXEC, 0, 0);
    put(p, BPF_JMP | BPF_JEQ | BPF_K, PROT_WRITE | PROT_EXEC, 1, 0);
    ret(p, SECCOMP_RET_ALLOW);
    here_end(p, at);
}

static void build(struct filter *p, unsigned flags)
{
    static const uint32_t plain[] = {
        /* The frequent ones first. */
        SYS_futex, SYS_epoll_wait, SYS_epoll_pwait, SYS_write, SYS_read, SYS_pread64, SYS_pwrite64, SYS_clock_gettime, SYS_clock_nanosleep,
        SYS_nanosleep, SYS_poll, SYS_ppoll, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_sigaltstack, SYS_sched_yield,
        SYS_readv, SYS_writev, SYS_preadv, SYS_pwritev, SYS_lseek, SYS_fsync, SYS_fdatasync, SYS_fallocate, SYS_ftruncate, SYS_fstat, SYS_newfstatat,
        SYS_close, SYS_dup, SYS_epoll_ctl, SYS_epoll_create1, SYS_eventfd2, SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_memfd_create,
        SYS_getrandom, SYS_gettid, SYS_getpid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_sched_getaffinity, SYS_set_robust_list, SYS_rseq, SYS_getrusage, SYS_gettimeofday,
        SYS_timer_create, SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete, /* signals to threads of this process only */
        SYS_restart_syscall, SYS_exit, SYS_exit_group, SYS_clock_getres, SYS_membarrier,
    };
    /* For worlds (sandbox/): made by fork and execveat of a memory file; they and what they become keep this filter and add their own. */
    static const uint32_t worlds[] = {
        SYS_vfork, SYS_wait4, SYS_setsid, SYS_dup2, SYS_close_range, SYS_execveat, SYS_modify_ldt, SYS_arch_prctl, SYS_setrlimit, SYS_seccomp, SYS_kill,
        SYS_pkey_alloc, SYS_pkey_free, SYS_sched_setaffinity,
    };
    const uint32_t pid = (uint32_t)getpid();
    unsigned at;

    load(p, offsetof(struct seccomp_data, arch));
    put(p, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    ret(p, SECCOMP_RET_ERRNO | EPERM); /* not worse than an error: worlds' own filters turn such calls into signals */
    load(p, offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
        allow_if(p, BPF_JEQ, plain[i]);
    if (flags & HOST_JAIL_WORLDS)
        for (unsigned i = 0; i < sizeof(worlds) / sizeof(worlds[0]); i++)
            allow_if(p, BPF_JEQ, worlds[i]);

    if (flags & HOST_JAIL_WORLDS) { /* guest pages have the rights of the guest's tables there */
        allow_if(p, BPF_JEQ, SYS_mmap);
        allow_if(p, BPF_JEQ, SYS_mprotect);
        allow_if(p, BPF_JEQ, SYS_pkey_mprotect);
    } else {
        not_wx(p, SYS_mmap);
        not_wx(p, SYS_mprotect);
    }
    /* Threads; processes only for worlds, and never in namespaces of their own. */
    at = here(p, SYS_clone);
    load(p, ARG(0));
    if (flags & HOST_JAIL_WORLDS) {
        put(p, BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET, 1, 0);
        ret(p, SECCOMP_RET_ALLOW);
    } else {
        allow_if(p, BPF_JSET, CLONE_THREAD);
    }
    here_end(p, at);
    put(p, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1); /* its arguments cannot be seen: the C library then uses clone */
    ret(p, SECCOMP_RET_ERRNO | ENOSYS);
    if (flags & HOST_JAIL_WORLDS)
        ONE_OF(p, SYS_prctl, 0, PR_SET_NAME, PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_TSC);
    else
        ONE_OF(p, SYS_prctl, 0, PR_SET_NAME);
    ONE_OF(p, SYS_tgkill, 0, pid);
    if (!(flags & HOST_JAIL_WORLDS))
        ONE_OF(p, SYS_kill, 0, pid);
    ONE_OF(p, SYS_prlimit64, 0, 0);
    ONE_OF(p, SYS_fcntl, 1, F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_DUPFD, F_DUPFD_CLOEXEC);
    at = here(p, SYS_ioctl);
    load(p, ARG(1));
    static const uint32_t ioctls[] = {0x5401 /* TCGETS */, 0x5402, 0x5403, 0x5404 /* TCSETS, W, F */, TIOCGWINSZ, FIONREAD, BLKDISCARD, BLKZEROOUT};
    for (unsigned i = 0; i < sizeof(ioctls) / sizeof(ioctls[0]); i++)
        allow_if(p, BPF_JEQ, ioctls[i]);
    if (flags & HOST_JAIL_KVM) {
        put(p, BPF_ALU | BPF_AND | BPF_K, 0xff00, 0, 0);
        allow_if(p, BPF_JEQ, 0xae00); /* KVMIO */
    }
    here_end(p, at);
    ret(p, SECCOMP_RET_ERRNO | EPERM);
}

int host_jail(unsigned flags)
{
#ifdef INSTRUMENTED
    (void)build;
    return flags ? 0 : 0; /* sanitizers' runtimes open and fork as they please */
#else
    struct filter p = {.n = 0};
    struct rlimit none = {0, 0}, files;

    build(&p, flags);
    if (p.n >= FILTER_MAX)
        return -E2BIG;
    if (setrlimit(RLIMIT_CORE, &none) != 0 || getrlimit(RLIMIT_NOFILE, &files) != 0)
        return -errno;
    if (files.rlim_max == RLIM_INFINITY || files.rlim_max > MAX_FILES) {
        files.rlim_cur = files.rlim_max = MAX_FILES;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
            return -errno;
    }
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -errno;
    struct sock_fprog prog = {.len = (unsigned short)p.n, .filter = p.f};
    /* All threads there are; those to come inherit it. The filter is no reason to slow the process down against speculation attacks, so
     * the mitigation some kernels turn on with it is declined. */
    const long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog);
    return r == 0 ? 0 : r > 0 ? -ESRCH : -errno;
#endif
}
