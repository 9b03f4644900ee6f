/*
 * Runs one instruction on the host CPU with a complete register state in and out.
 *
 * A trap hands the handler a signal frame; the frame is replaced by the state
 * to test and returned to, so that the kernel loads every register. The
 * instruction is followed by INT3s: completion and every fault alike come back
 * as a signal whose frame is the resulting state. 32-bit code runs through the
 * kernel's 32-bit user code segment in the same process.
 */
#ifndef NATIVE_H
#define NATIVE_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define CODE_BASE 0x10000000ul
#define CODE_AT (CODE_BASE + 0x800)
#define DATA_RO 0x10010000ul
#define DATA_RW 0x10011000ul /* two pages, then nothing */
#define DATA_RW_SIZE 0x2000ul
#define DATA_END (DATA_RW + DATA_RW_SIZE)
#define USER_CS64 0x33
#define USER_CS32 0x23
#define USER_DS 0x2b
#define XSTATE_SIZE 832u

struct state {
    _Alignas(64) uint8_t fx[XSTATE_SIZE]; /* standard XSAVE format: x87, SSE, AVX */
    uint64_t gpr[16], rip, rflags;
};

struct outcome {
    struct state s;
    int vector; /* -1: completed */
    uint32_t err;
    uint64_t cr2;
};

static struct native {
    const struct state *in;
    struct outcome *out;
    bool code32;
    enum { NATIVE_IDLE, NATIVE_ENTER, NATIVE_RUN } phase;
    gregset_t home;
    _Alignas(64) uint8_t home_fx[XSTATE_SIZE];
    struct sigaction old[32];
} native;

static const int native_greg[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* Components the frame does not hold have their initial value. */
static void native_get_fx(const uint8_t *frame, uint8_t *fx)
{
    uint64_t bv;

    memcpy(fx, frame, XSTATE_SIZE);
    memset(fx + 464, 0, 48);
    memcpy(&bv, frame + 512, 8);
    if (!(bv & 1)) {
        memset(fx, 0, 24);
        fx[0] = 0x7f;
        fx[1] = 3;
        memset(fx + 32, 0, 128);
    }
    if (!(bv & 2))
        memset(fx + 160, 0, 256);
    if (!(bv & 4))
        memset(fx + 576, 0, 256);
}

static void native_put_fx(uint8_t *frame, const uint8_t *fx)
{
    uint64_t bv;

    memcpy(frame, fx, 416);
    memcpy(&bv, frame + 512, 8);
    bv |= 7;
    memcpy(frame + 512, &bv, 8);
    memcpy(frame + 576, fx + 576, 256);
}

/* The interrupted state's AC must not meet compiled code. */
void native_handler(int sig, siginfo_t *si, void *ctx);
void native_signal(int sig, siginfo_t *si, void *ctx);
__asm__(".text\n.globl native_handler\nnative_handler:\n pushfq\n andl $~0x40000, (%rsp)\n popfq\n jmp native_signal\n");

void __attribute__((used)) native_signal(int sig, siginfo_t *si, void *ctx)
{
    ucontext_t *uc = ctx;
    greg_t *g = uc->uc_mcontext.gregs;
    uint8_t *frame = (uint8_t *)uc->uc_mcontext.fpregs;

    if (native.phase == NATIVE_ENTER) {
        const struct state *s = native.in;

        memcpy(native.home, g, sizeof(native.home));
        native_get_fx(frame, native.home_fx);
        native_put_fx(frame, s->fx);
        for (unsigned i = 0; i < 16; i++)
            g[native_greg[i]] = (greg_t)s->gpr[i];
        g[REG_RIP] = (greg_t)s->rip;
        g[REG_EFL] = (greg_t)(s->rflags | 0x202);
        g[REG_CSGSFS] = (g[REG_CSGSFS] & 0x0000ffffffff0000) | (native.code32 ? USER_CS32 : USER_CS64) | (greg_t)USER_DS << 48;
        native.phase = NATIVE_RUN;
    } else if (native.phase == NATIVE_RUN) {
        struct outcome *o = native.out;

        native_get_fx(frame, o->s.fx);
        for (unsigned i = 0; i < 16; i++)
            o->s.gpr[i] = (uint64_t)g[native_greg[i]];
        o->s.rip = (uint64_t)g[REG_RIP];
        o->s.rflags = (uint64_t)g[REG_EFL];
        o->vector = (int)g[REG_TRAPNO];
        o->err = (uint32_t)g[REG_ERR];
        o->cr2 = (uint64_t)g[REG_CR2];
        memcpy(g, native.home, sizeof(native.home));
        native_put_fx(frame, native.home_fx);
        native.phase = NATIVE_IDLE;
    } else if (native.old[sig].sa_flags & SA_SIGINFO) {
        native.old[sig].sa_sigaction(sig, si, ctx);
    } else {
        signal(sig, SIG_DFL);
    }
}

/* Anonymous memory at a fixed low address. */
static void *native_map(uint64_t at, size_t size, int prot)
{
    void *p = mmap((void *)at, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    if (p != (void *)at) {
        perror("mmap");
        exit(1);
    }
    return p;
}

static const int native_sigs[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL};

/* Take the signals; a test framework may have taken them since the last time. first: remember whom to pass on to. */
static void native_take_signals(bool first)
{
    struct sigaction sa = {.sa_sigaction = native_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

    sigemptyset(&sa.sa_mask);
    for (unsigned i = 0; i < sizeof(native_sigs) / sizeof(native_sigs[0]); i++)
        sigaction(native_sigs[i], &sa, first ? &native.old[native_sigs[i]] : NULL);
}

static void native_init(void)
{
    static uint8_t stack[1 << 17];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};

    sigaltstack(&ss, NULL);
    native_take_signals(true);
    /* 64-bit code ignores DS and ES; 32-bit code needs them. */
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(USER_DS));
    native_map(CODE_BASE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    memset((void *)CODE_BASE, 0xcc, 4096);
    native_map(DATA_RO, 4096, PROT_READ | PROT_WRITE);
    native_map(DATA_RW, DATA_RW_SIZE, PROT_READ | PROT_WRITE);
}

/* What the exception that ended the run means. */
static void native_classify(const struct state *in, struct outcome *out)
{
    if (out->vector == 3) {
        out->vector = -1;
        out->s.rip--;
    } else if (out->vector == 14 && (out->err & 0x10) && out->cr2 == out->s.rip && out->s.rip != in->rip) {
        out->vector = -1; /* a branch, completed, to where nothing is */
        out->err = 0;
    }
    if (out->vector != 14)
        out->cr2 = 0;
}

/* Execute the instruction at in->rip. out->s is the state after it, or at the fault. */
static inline void native_run(const struct state *in, bool code32, struct outcome *out)
{
    sigset_t others, old;

    /* Other signals' frames would be written to the stack under test. */
    sigfillset(&others);
    for (unsigned i = 0; i < sizeof(native_sigs) / sizeof(native_sigs[0]); i++)
        sigdelset(&others, native_sigs[i]);
    sigprocmask(SIG_BLOCK, &others, &old);
    native.in = in;
    native.out = out;
    native.code32 = code32;
    native.phase = NATIVE_ENTER;
    __asm__ volatile("int3" ::: "memory");
    sigprocmask(SIG_SETMASK, &old, NULL);
    native_classify(in, out);
}

#endif
