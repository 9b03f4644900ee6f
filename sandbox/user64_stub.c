/*
 * The program that becomes a user world: it puts the handler (user64_handler.S) and the areas of user64_layout.h at the place the monitor
 * chose, and goes there for good.
 */
#include <asm/prctl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "sandbox/user64_proto.h"

#define HIDDEN __attribute__((visibility("hidden")))
extern char user64_text[] HIDDEN, user64_text_end[] HIDDEN, user64_start[] HIDDEN, user64_handler[] HIDDEN;
extern char user64_ip_notify[] HIDDEN, user64_ip_wake[] HIDDEN, user64_ip_wait[] HIDDEN, user64_ip_op[] HIDDEN, user64_ip_return[] HIDDEN,
    user64_ip_dead[] HIDDEN;
void stub_main(void);

static long sys(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return r;
}

static void die(int code)
{
    for (;;)
        sys(SYS_exit_group, code, 0, 0, 0, 0, 0);
}

struct ksigaction {
    uint64_t handler, flags, restorer, mask;
};

/* --- the filter ---------------------------------------------------------------------- */

struct prog {
    struct sock_filter *f;
    unsigned n;
};
static void put(struct prog *p, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
    p->f[p->n++] = (struct sock_filter){code, jt, jf, k};
}
static void load(struct prog *p, unsigned off) { put(p, BPF_LD | BPF_W | BPF_ABS, off, 0, 0); }
/* Unless the loaded word is k, the call is turned away. */
static void need(struct prog *p, uint32_t k)
{
    put(p, BPF_JMP | BPF_JEQ | BPF_K, k, 1, 0);
    put(p, BPF_RET | BPF_K, SECCOMP_RET_TRAP, 0, 0);
}
static void need_ip(struct prog *p, uint64_t ip)
{
    load(p, offsetof(struct seccomp_data, instruction_pointer) + 4);
    need(p, (uint32_t)(ip >> 32));
    load(p, offsetof(struct seccomp_data, instruction_pointer));
    need(p, (uint32_t)ip);
}
/* The call nr is allowed at ip, with the secret if that is not 0. The accumulator holds the number before and after. */
static void allow(struct prog *p, uint32_t nr, uint64_t ip, uint32_t secret)
{
    const unsigned at = p->n;

    put(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0);
    need_ip(p, ip);
    if (secret) {
        load(p, offsetof(struct seccomp_data, args[4]) + 4);
        need(p, secret);
    }
    put(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    p->f[at].jf = (uint8_t)(p->n - at - 1);
}

static unsigned make_filter(struct sock_filter *f, uint64_t move, uint32_t secret)
{
    struct prog p = {f, 0};
#define IP(name) ((uint64_t)user64_ip_##name + move)
    load(&p, offsetof(struct seccomp_data, arch));
    need(&p, AUDIT_ARCH_X86_64);
    load(&p, offsetof(struct seccomp_data, nr));
    allow(&p, SYS_mmap, IP(op), secret);
    allow(&p, SYS_munmap, IP(op), secret);
    allow(&p, SYS_rt_sigreturn, IP(return), secret);
    allow(&p, SYS_pwrite64, IP(notify), 0);
    allow(&p, SYS_exit_group, IP(dead), 0);
    /* FUTEX_WAKE at one place, FUTEX_WAIT at the other */
    const unsigned at = p.n;
    put(&p, BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 0, 0);
    load(&p, offsetof(struct seccomp_data, instruction_pointer) + 4);
    need(&p, (uint32_t)(IP(wake) >> 32));
    load(&p, offsetof(struct seccomp_data, instruction_pointer));
    put(&p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)IP(wake), 2, 0);
    need(&p, (uint32_t)IP(wait));
    put(&p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    p.f[at].jf = (uint8_t)(p.n - at - 1);
    put(&p, BPF_RET | BPF_K, SECCOMP_RET_TRAP, 0, 0);
    return p.n;
}

/* --- becoming a world ------------------------------------------------------------------ */

static void map(uint64_t at, uint64_t len, int prot, int flags, int fd, uint64_t off)
{
    if (sys(SYS_mmap, (long)at, (long)len, prot, flags | MAP_FIXED_NOREPLACE, fd, (long)off) != (long)at)
        die(1);
}

void stub_main(void)
{
    const long shared = sys(SYS_mmap, 0, U64_SIZE - U64_CTL, PROT_READ | PROT_WRITE, MAP_SHARED, U64_FD_CTL, 0);
    if (shared < 0 && shared > -4096)
        die(1);
    const struct user64_ctl *first = (const struct user64_ctl *)shared;
    const uint64_t base = first->base, move = base - (uint64_t)user64_text;
    const uint32_t secret = (uint32_t)(first->secret >> 32), parent = first->parent;

    map(base, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    map(base + U64_NOTE, 4096, PROT_READ, MAP_SHARED, U64_FD_NOTE, 0);
    map(base + U64_CTL, U64_SIZE - U64_CTL, PROT_READ | PROT_WRITE, MAP_SHARED, U64_FD_CTL, 0);
    sys(SYS_close, U64_FD_CTL, 0, 0, 0, 0, 0);
    for (unsigned i = 0; i < (unsigned)(user64_text_end - user64_text); i++)
        ((volatile char *)base)[i] = user64_text[i];
    sys(SYS_mprotect, (long)base, 4096, PROT_READ | PROT_EXEC, 0, 0, 0);

    struct user64_ctl *ctl = (struct user64_ctl *)(base + U64_CTL);
    struct rlimit none = {0, 0};
    sys(SYS_setrlimit, RLIMIT_CORE, (long)&none, 0, 0, 0, 0);
    sys(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0);
    if ((uint32_t)sys(SYS_getppid, 0, 0, 0, 0, 0, 0) != parent)
        die(2);
    sys(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0, 0);
    sys(SYS_prctl, PR_SET_NAME, (long)"ringer-user", 0, 0, 0, 0);
    sys(SYS_prctl, PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0, 0);
    ctl->no_cpuid = sys(SYS_arch_prctl, ARCH_SET_CPUID, 0, 0, 0, 0, 0) == 0;

    const stack_t ss = {.ss_sp = (void *)(base + U64_ALT), .ss_size = U64_ALT_SIZE};
    if (sys(SYS_sigaltstack, (long)&ss, 0, 0, 0, 0, 0))
        die(4);
    static const uint8_t sigs[] = {SIGSEGV, SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSYS, SIGUSR1};
    uint64_t blocked = ~0ull;
    for (unsigned i = 0; i < sizeof(sigs); i++) {
        const struct ksigaction sa = {(uint64_t)user64_handler + move, SA_SIGINFO | SA_ONSTACK | 0x04000000 /* SA_RESTORER */,
                                      (uint64_t)user64_ip_dead + move, ~0ull};
        if (sys(SYS_rt_sigaction, sigs[i], (long)&sa, 0, 8, 0, 0))
            die(5);
        blocked &= ~(1ull << (sigs[i] - 1));
    }
    sys(SYS_rt_sigprocmask, SIG_SETMASK, (long)&blocked, 0, 8, 0, 0);

    /* The filter and its description go where the kernel can read them to the last; the monitor wipes them. */
    struct sock_filter *f = (struct sock_filter *)ctl->op;
    struct sock_fprog *fp = (struct sock_fprog *)(base + U64_FRAME);
    fp->len = (unsigned short)make_filter(f, move, secret);
    fp->filter = f;
    if (sys(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0))
        die(3);
    __asm__ volatile("jmp *%0" : : "r"((uint64_t)user64_start + move), "d"(fp));
    __builtin_unreachable();
}

__asm__(".text\n"
        ".globl _start\n"
        "_start: xor %ebp, %ebp\n"
        "  and $-16, %rsp\n"
        "  call stub_main\n"
        "  ud2\n");
