/*
 * The world's program: freestanding, linked as a position-independent program of its own, so that the kernel puts it and its
 * stack at random addresses far above 4 GiB, where no 32-bit segment reaches. Everything below is the guest's.
 *
 * It lives in its signal handler: guest code runs until a signal, the handler reports the registers, waits for the next
 * request, changes the address space, and returns into the guest.
 */
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "sandbox/awake.h"
#include "sandbox/proto.h"

#define ALT_STACK 65536

static unsigned char alt_stack[ALT_STACK] __attribute__((aligned(64)));
static struct world_ctl *ctl;
static uint32_t seen; /* last request served */

extern char text_start[] __attribute__((visibility("hidden"))), text_end[] __attribute__((visibility("hidden")));
void stub_main(void);

static long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return r;
}
#define sys(nr, a, b, c, d) sys6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

static void die(int code)
{
    for (;;)
        sys(SYS_exit_group, code, 0, 0, 0);
}

static void copy(void *to, const void *from, uint64_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void hand_over(void)
{
    uint32_t r;
    __atomic_store_n(&ctl->answer, seen, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&ctl->monitor_sleeps, __ATOMIC_SEQ_CST))
        sys(SYS_futex, &ctl->answer, FUTEX_WAKE, 1, 0);
    uint32_t turns = 0;
    while ((r = __atomic_load_n(&ctl->request, __ATOMIC_SEQ_CST)) == seen) {
        if (turns < __atomic_load_n(&ctl->patience, __ATOMIC_RELAXED)) { /* RDTSC traps in here */
            awake_turn();
            turns++;
            continue;
        }
        __atomic_store_n(&ctl->world_sleeps, 1, __ATOMIC_SEQ_CST);
        sys(SYS_futex, &ctl->request, FUTEX_WAIT, seen, 0);
        __atomic_store_n(&ctl->world_sleeps, 0, __ATOMIC_SEQ_CST);
    }
    seen = r;
}

static long change(const struct world_op *o)
{
    struct user_desc d;
    switch (o->kind) {
    case WORLD_MAP_RAM:
    case WORLD_MAP_CODE:
        return sys6(SYS_mmap, (long)o->lin, (long)o->len, o->prot, MAP_SHARED | MAP_FIXED | (o->len <= 65536 ? MAP_POPULATE : 0),
                    o->kind == WORLD_MAP_RAM ? WORLD_FD_RAM : WORLD_FD_CODE, (long)o->off);
    case WORLD_UNMAP: return sys(SYS_munmap, o->lin, o->len, 0, 0);
    case WORLD_LDT:
        d = (struct user_desc){.entry_number = (unsigned)o->lin, .base_addr = (unsigned)o->off, .limit = (unsigned)o->len};
        d.seg_32bit = o->prot & 1;
        d.contents = o->prot >> 1 & 3;
        d.read_exec_only = o->prot >> 3 & 1;
        d.limit_in_pages = o->prot >> 4 & 1;
        d.useable = o->prot >> 6 & 1;
        return (int)sys(SYS_modify_ldt, 0x11, &d, sizeof(d), 0);
    default: return -22;
    }
}

/* The next request; changes that fail are answered at once. */
static void next_request(void)
{
    for (;;) {
        hand_over();
        uint32_t n = ctl->nops, i;
        long r = 0;
        for (i = 0; i < n && i < WORLD_OPS; i++) {
            r = change(&ctl->op[i]);
            if (r < 0 && r > -4096)
                break;
            r = 0;
        }
        if (!r)
            return;
        ctl->failed = i + 1;
        ctl->error = (int)r;
    }
}

static void on_signal(int sig, siginfo_t *si, void *uctx)
{
    static const uint8_t regs[8] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI};
    ucontext_t *uc = uctx;
    greg_t *g = uc->uc_mcontext.gregs;
    uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;
    uint16_t s;

    for (unsigned i = 0; i < 8; i++)
        ctl->gpr[i] = (uint32_t)g[regs[i]];
    ctl->rip = (uint64_t)g[REG_RIP];
    ctl->eip = (uint32_t)g[REG_RIP];
    ctl->eflags = (uint32_t)g[REG_EFL];
    __asm__("mov %%es, %w0" : "=r"(s));
    ctl->sel[0] = s;
    ctl->sel[1] = (uint16_t)g[REG_CSGSFS];
    ctl->sel[2] = (uint16_t)(g[REG_CSGSFS] >> 48);
    __asm__("mov %%ds, %w0" : "=r"(s));
    ctl->sel[3] = s;
    __asm__("mov %%fs, %w0" : "=r"(s));
    ctl->sel[4] = s;
    __asm__("mov %%gs, %w0" : "=r"(s));
    ctl->sel[5] = s;
    ctl->sig = (uint32_t)sig;
    ctl->code = (uint32_t)si->si_code;
    ctl->trapno = (uint32_t)g[REG_TRAPNO];
    ctl->err = (uint32_t)g[REG_ERR];
    ctl->cr2 = (uint64_t)g[REG_CR2];
    ctl->arch = sig == SIGSYS ? si->si_arch : 0;
    ctl->failed = 0;
    copy(ctl->fp, fp, WORLD_FP_SIZE);

    next_request();

    for (unsigned i = 0; i < 8; i++)
        g[regs[i]] = ctl->gpr[i];
    for (unsigned i = REG_R8; i <= REG_R15; i++)
        g[i] = 0;
    g[REG_RIP] = ctl->eip;
    g[REG_EFL] = ctl->eflags;
    g[REG_CSGSFS] = (greg_t)((uint64_t)ctl->sel[1] | (uint64_t)ctl->sel[2] << 48);
    if (ctl->load_fp) {
        /* The kernel's own words of the frame (464-511) stay; so do the components the guest does not know. */
        copy(fp, ctl->fp, 464);
        uint64_t *bv = (uint64_t *)(void *)(fp + 512), want = *(uint64_t *)(void *)(ctl->fp + 512);
        *bv = (*bv & ~7ull) | (want & 7);
        copy(fp + 576, ctl->fp + 576, 256);
    }
    __asm__ volatile("mov %w0, %%es" : : "r"(ctl->sel[0]));
    __asm__ volatile("mov %w0, %%ds" : : "r"(ctl->sel[3]));
    __asm__ volatile("mov %w0, %%fs" : : "r"(ctl->sel[4]));
    __asm__ volatile("mov %w0, %%gs" : : "r"(ctl->sel[5]));
}

__asm__(".text\n"
        "restorer: mov $15, %eax\n" /* rt_sigreturn */
        "  syscall\n"
        ".globl _start\n"
        "_start: xor %ebp, %ebp\n"
        "  and $-16, %rsp\n"
        "  call stub_main\n"
        "  ud2\n");
extern char restorer[] __attribute__((visibility("hidden")));

struct ksigaction {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

/* Only the stub's own instructions may make system calls, and only those it needs; every other attempt is a signal. */
static void confine(void)
{
    static const uint8_t calls[] = {SYS_mmap, SYS_munmap, SYS_rt_sigreturn, SYS_modify_ldt, SYS_futex, SYS_exit_group};
    const uint64_t lo = (uint64_t)text_start, hi = (uint64_t)text_end;
    struct sock_filter f[32];
    unsigned n = 0;
#define LD(field) f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (field))
#define TRAP() f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)
    LD(offsetof(struct seccomp_data, arch));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    TRAP();
    /* The text lies inside one 4 GiB region (checked by the caller). */
    LD(offsetof(struct seccomp_data, instruction_pointer) + 4);
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(lo >> 32), 1, 0);
    TRAP();
    LD(offsetof(struct seccomp_data, instruction_pointer));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)lo, 1, 0);
    TRAP();
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)hi, 0, 1);
    TRAP();
    LD(offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < sizeof(calls); i++) {
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i], 0, 1);
        f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    TRAP();
    struct sock_fprog p = {.len = (unsigned short)n, .filter = f};
    if (sys6(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0) || sys(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p, 0))
        die(3);
}

/* An address as found at run time. Nobody relocates the stub, so it must not be part of a constant structure, which clang makes of those below. */
static void *here(void *sym)
{
    __asm__("" : "+r"(sym));
    return sym;
}

void stub_main(void)
{
    long r = sys6(SYS_mmap, 0, sizeof(struct world_ctl), PROT_READ | PROT_WRITE, MAP_SHARED, WORLD_FD_CTL, 0);
    if (r < 0 && r > -4096)
        die(1);
    ctl = (struct world_ctl *)r;
    sys(SYS_close, WORLD_FD_CTL, 0, 0, 0);

    struct rlimit none = {0, 0};
    sys(SYS_setrlimit, RLIMIT_CORE, &none, 0, 0);
    sys(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
    if ((uint32_t)sys(SYS_getppid, 0, 0, 0, 0) != ctl->parent)
        die(2);
    sys(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0);

    stack_t ss = {.ss_sp = here(alt_stack), .ss_size = ALT_STACK};
    sys(SYS_sigaltstack, &ss, 0, 0, 0);
    static const uint8_t sigs[] = {SIGSEGV, SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSYS, SIGUSR1};
    uint64_t blocked = ~0ull;
    for (unsigned i = 0; i < sizeof(sigs); i++) {
        struct ksigaction sa = {here(on_signal), SA_SIGINFO | SA_ONSTACK | 0x04000000 /* SA_RESTORER */, here(restorer), ~0ull};
        sys(SYS_rt_sigaction, sigs[i], &sa, 0, 8);
        blocked &= ~(1ull << (sigs[i] - 1));
    }
    sys(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, 0, 8);

    sys6(SYS_prctl, PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0, 0);
    ctl->no_cpuid = sys(SYS_arch_prctl, ARCH_SET_CPUID, 0, 0, 0) == 0;
    if ((uint64_t)text_start >> 32 != (uint64_t)text_end >> 32)
        die(4);
    confine();
    __asm__ volatile("ud2"); /* into the handler, for good */
}
