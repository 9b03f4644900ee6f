/* Guarded execution: a CPU fault inside fn becomes a return value. Handlers are installed once per process and pass
 * on every fault that no guard on its thread claims, so that real bugs still end the process with a signal. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "ringer/host.h"

struct guard {
    sigjmp_buf env;
    int vector;
    uint64_t addr;
};

/* Per-thread, because a fault belongs to the thread that made it; set only while a guard is active. */
static __thread struct guard *volatile guard_active;
static pthread_once_t guard_once = PTHREAD_ONCE_INIT;

/* Outside the handler again, on the stack of the code that faulted. */
static _Noreturn void give_up(struct guard *g)
{
    siglongjmp(g->env, 1);
}

static void on_fault(int sig, siginfo_t *si, void *ctx)
{
    struct guard *g = guard_active;
    if (!g) {
        host_tty_restore();
        signal(sig, SIG_DFL); /* the instruction faults again, now fatally */
        return;
    }
    ucontext_t *uc = ctx;
    g->vector = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
    g->addr = g->vector == 19 ? uc->uc_mcontext.fpregs->mxcsr : (uint64_t)si->si_addr;
    guard_active = NULL;
    /* The handler returns into give_up, as if it had been called there: leaving a handler by a jump is more than some
     * runtimes (sanitizers) follow. Flags of the guarded code that would disturb compiled code are cleared. */
    greg_t *r = uc->uc_mcontext.gregs;
    r[REG_RIP] = (greg_t)(uintptr_t)give_up;
    r[REG_RDI] = (greg_t)(uintptr_t)g;
    r[REG_RSP] = (greg_t)(((uintptr_t)r[REG_RSP] - 128) & ~(uintptr_t)15) - 8;
    r[REG_EFL] &= ~(greg_t)0x40500; /* AC, DF, TF */
}

static void guard_install(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    sigaction(SIGFPE, &sa, NULL);
    sigaction(SIGILL, &sa, NULL);
}

int host_guarded(void (*fn)(void *), void *arg, uint64_t *addr)
{
    struct guard g;
    uint32_t mxcsr = 0;
    uint16_t fcw = 0;
    pthread_once(&guard_once, guard_install);
    __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(fcw));
    /* SA_NODEFER leaves the signal mask alone, so there is none to restore. */
    if (sigsetjmp(g.env, 0) == 0) {
        g.vector = -1;
        guard_active = &g;
        fn(arg);
        guard_active = NULL;
    }
    __asm__ volatile("fnclex; ldmxcsr %0; fldcw %1" ::"m"(mxcsr), "m"(fcw));
    if (addr)
        *addr = g.vector >= 0 ? g.addr : 0;
    return g.vector;
}
