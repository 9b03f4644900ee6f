/* Signal storms: timers, faults, traps and queued signals hit programs whose registers are all in use, vector and x87 ones included; handlers
 * use them too, change what they return to, and leave by siglongjmp. Each result is known beforehand. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "check.h"

static volatile unsigned ticks;
static volatile double sink;

/* Uses everything, leaves nothing. */
__attribute__((target("avx"))) static void spoil(void)
{
    __m256 v = _mm256_set1_ps((float)ticks);
    double d = ticks;

    __asm__ volatile("vmovups %0, %%ymm0; vmovups %0, %%ymm1; vmovups %0, %%ymm7; vmovups %0, %%ymm8; vmovups %0, %%ymm15" ::"m"(v) : "xmm0", "xmm1", "xmm7", "xmm8", "xmm15");
    __asm__ volatile("fldl %0; fsqrt; fstpl %0; fninit" : "+m"(d)::"memory");
    sink = d;
}

static void on_tick(int sig)
{
    (void)sig;
    ticks++;
    spoil();
}

static uint64_t all_registers(unsigned rounds);
/* Sixteen-fold mixing with every register live, vectors and x87 beside. The same rounds give the same sum. */
__attribute__((noinline, target("avx"))) static uint64_t all_registers(unsigned rounds)
{
    uint64_t a = 1, b = 2, c = 3, d = 5, e = 7, f = 11, g = 13, h = 17;
    __m256d x = _mm256_set_pd(1, 2, 3, 4), y = _mm256_set_pd(0.5, 0.25, 0.125, 3), z = _mm256_set1_pd(1.0000001);
    long double l = 1.25L;

    for (unsigned i = 0; i < rounds; i++) {
        a += b << 3; b ^= c >> 5; c *= d | 1; d += e ^ a; e = (e << 7) | (e >> 57); f -= g; g ^= h + b; h += f * 3;
        x = _mm256_add_pd(_mm256_mul_pd(x, z), y);
        y = _mm256_sub_pd(y, _mm256_mul_pd(x, _mm256_set1_pd(1e-6)));
        l = l * 1.0000001L + 1e-9L;
        /* Carry and direction across everything */
        __asm__ volatile("addq %2, %0; adcq %3, %1; std; cld" : "+r"(a), "+r"(b) : "r"(c), "r"(d) : "cc");
    }
    double out[8];
    uint64_t bits;
    _mm256_storeu_pd(out, x);
    _mm256_storeu_pd(out + 4, y);
    uint64_t sum = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h;
    for (unsigned i = 0; i < 8; i++) {
        memcpy(&bits, &out[i], 8);
        sum = sum * 31 + bits;
    }
    double dl = (double)l;
    memcpy(&bits, &dl, 8);
    return sum * 31 + bits;
}

static void timers(unsigned rounds)
{
    const uint64_t want = all_registers(rounds);
    struct sigaction sa = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct itimerval it = {{0, 200}, {0, 200}}, off = {{0, 0}, {0, 0}};
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
    struct itimerspec its = {{0, 170000}, {0, 170000}}, toff = {{0, 0}, {0, 0}};
    timer_t t;

    sigaction(SIGALRM, &sa, NULL);
    sigaction(SIGUSR2, &sa, NULL);
    CHECK(timer_create(CLOCK_MONOTONIC, &ev, &t) == 0, "timer");
    setitimer(ITIMER_REAL, &it, NULL);
    timer_settime(t, 0, &its, NULL);
    for (unsigned i = 0; ticks < 300 || i < 10; i++) {
        const uint64_t got = all_registers(rounds);
        CHECK(got == want, "round %u after %u ticks: %lx, not %lx", i, ticks, got, want);
        if (check_failed)
            break;
    }
    setitimer(ITIMER_REAL, &off, NULL);
    timer_settime(t, 0, &toff, NULL);
    timer_delete(t);
}

/* --- faults whose handlers repair them --- */

static uint8_t *area;
static volatile unsigned faults;
static void on_segv(int sig, siginfo_t *si, void *ctx)
{
    (void)sig, (void)ctx;
    faults++;
    spoil();
    mprotect((void *)((uintptr_t)si->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE);
}

static void repaired(void)
{
    struct sigaction sa = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO};
    const unsigned pages = 256;
    uint64_t sum = 0;

    sigaction(SIGSEGV, &sa, NULL);
    area = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned round = 0; round < 4; round++) {
        faults = 0;
        for (unsigned i = 0; i < pages; i++) {
            area[i * 4096 + 8 * (i % 500)] += (uint8_t)i;
            sum += area[i * 4096 + 8 * (i % 500)];
        }
        CHECK(faults == pages, "%u faults", faults);
        mprotect(area, pages * 4096, round & 1 ? PROT_NONE : PROT_READ);
    }

    uint64_t want = 0;
    for (unsigned r = 1; r <= 4; r++)
        for (unsigned i = 0; i < pages; i++)
            want += (uint8_t)(i * r);
    CHECK(sum == want, "%lu, not %lu", sum, want);
    munmap(area, pages * 4096);
}

/* --- every kind of fault, told apart, left by siglongjmp or by changing where it returns to --- */

static sigjmp_buf env;
static volatile int got_sig, got_code, skip;
static void on_fault(int sig, siginfo_t *si, void *ctx)
{
    ucontext_t *uc = ctx;

    got_sig = sig;
    got_code = si->si_code;
    if (!skip)
        siglongjmp(env, 1);
    uc->uc_mcontext.gregs[REG_RIP] += skip;
    uc->uc_mcontext.gregs[REG_RBX] = 0x1234;
    uc->uc_mcontext.gregs[REG_EFL] |= 1; /* CF */
}

#define PROVOKE(sig_, code_, text, ...)                                                                                \
    do {                                                                                                               \
        got_sig = 0;                                                                                                   \
        if (!sigsetjmp(env, 1)) {                                                                                      \
            __asm__ volatile(text ::__VA_ARGS__ : "rax", "rcx", "rdx", "memory", "cc");                                \
        }                                                                                                              \
        CHECK(got_sig == (sig_) && ((code_) == 0 || got_code == (code_)), "%s: signal %d code %d", text, got_sig, got_code);  \
    } while (0)

static void kinds(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    static const int sigs[] = {SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS};

    for (unsigned i = 0; i < 5; i++)
        sigaction(sigs[i], &sa, NULL);
    for (volatile unsigned i = 0; i < 50; i++) {
        PROVOKE(SIGFPE, FPE_INTDIV, "xorl %%ecx, %%ecx; divl %%ecx", "r"(0));
        PROVOKE(SIGILL, ILL_ILLOPN, "ud2", "r"(0));
        PROVOKE(SIGTRAP, 0, "int3", "r"(0));
        PROVOKE(SIGTRAP, TRAP_TRACE, "pushfq; orl $0x100, (%%rsp); popfq; nop; nop", "r"(0));
        PROVOKE(SIGSEGV, SEGV_MAPERR, "movb (%0), %%al", "r"(8l));
        PROVOKE(SIGSEGV, 0, "movb %%al, (%0)", "r"(0xffff800000000000ul));
        PROVOKE(SIGSEGV, 0, "movb %%al, (%0)", "r"(0x8000000000000000ul));
        PROVOKE(SIGSEGV, SEGV_ACCERR, "movb %%al, (%0)", "r"(&kinds));
        PROVOKE(SIGSEGV, 0, "hlt", "r"(0));
        PROVOKE(SIGSEGV, 0, "cli", "r"(0));
        PROVOKE(SIGSEGV, 0, "int $0x13", "r"(0));
        PROVOKE(SIGSEGV, 0, "jmp *%0", "r"(0x123456l));
        PROVOKE(SIGSEGV, 0, "jmp *%0", "r"(0x123400000000000ul));
    }
    skip = 2; /* the length of UD2 */
    for (unsigned i = 0; i < 200; i++) {
        uint64_t b = 0, carry = 0;
        __asm__ volatile("xorl %%ebx, %%ebx; clc; ud2; setc %b1; movq %%rbx, %0" : "=r"(b), "+r"(carry)::"rbx", "cc");
        CHECK(b == 0x1234 && carry == 1, "%lx %lu", b, carry);
    }
    skip = 0;
}

/* --- many at once: processes, threads, queued signals --- */

static volatile unsigned queued;
static void on_rt(int sig, siginfo_t *si, void *ctx)
{
    (void)sig, (void)ctx;
    __atomic_fetch_add(&queued, (unsigned)si->si_value.sival_int, __ATOMIC_SEQ_CST); /* threads run this at the same time */
    spoil();
}

static void *thread(void *arg)
{
    const uint64_t want = *(uint64_t *)arg;

    for (unsigned i = 0; i < 20; i++)
        CHECK(all_registers(20000) == want, "in a thread");
    return NULL;
}

static void crowds(void)
{
    struct sigaction sa = {.sa_sigaction = on_rt, .sa_flags = SA_SIGINFO | SA_RESTART};
    uint64_t want = all_registers(20000);
    pid_t child[4];
    pthread_t t[3];

    sigaction(SIGRTMIN, &sa, NULL);
    for (unsigned i = 0; i < 4; i++) {
        const pid_t to = getpid();
        child[i] = fork();
        if (!child[i]) {
            for (unsigned k = 0; k < 250; k++)
                while (sigqueue(to, SIGRTMIN, (union sigval){.sival_int = 1}))
                    sched_yield();
            _exit(all_registers(20000) == want ? 0 : 1);
        }
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, thread, &want);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    for (unsigned i = 0; i < 4; i++) {
        int st = -1;
        while (waitpid(child[i], &st, 0) < 0)
            ;
        CHECK(st == 0, "status %x", st);
    }
    CHECK(queued == 1000, "%u signals of 1000", queued);
}

int main(void)
{
    timers(20000);
    repaired();
    kinds();
    crowds();
    return check_end("signals");
}
