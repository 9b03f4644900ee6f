/*
 * The decoder against the processor this runs on. In a nutshell: put the first
 * k bytes of a string at the end of a page that is followed by nothing, let a
 * traced process step once, and look at what happened. A page fault on the next
 * page: the processor wants more bytes. The smallest k without it is the length,
 * and SIGILL then says #UD. So lengths, X86_DEC_MORE and #UD are compared with
 * silicon, for instructions nobody documents too.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <cpuid.h>

#include "tests/fuzz/decode_gen.h"

#define CODE 0x10000000ul /* one page of code, one that faults; below 4 GiB for 32-bit code */
#define DATA 0x20000000ul /* where all registers point, so that most memory operands work */

enum step { STEP_MORE, STEP_UD, STEP_DONE, STEP_BROKEN };

struct host {
    pid_t pid;
    uint8_t *code; /* the same page, writable here */
};

/* Writing 64-bit and 32-bit code segment selectors is how Linux sets the mode of a traced process. */
enum { CS64 = 0x33, CS32 = 0x23, SS3 = 0x2b };

static bool start(struct host *h)
{
    int st;
    h->pid = fork();
    if (h->pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0))
            _exit(1);
        mprotect((void *)(CODE + 4096), 4096, PROT_NONE);
        raise(SIGSTOP);
        _exit(1);
    }
    return h->pid > 0 && waitpid(h->pid, &st, 0) == h->pid && WIFSTOPPED(st);
}

static void stop(struct host *h)
{
    if (h->pid > 0) {
        kill(h->pid, SIGKILL);
        waitpid(h->pid, NULL, 0);
    }
    h->pid = 0;
}

static enum step step(struct host *h, const uint8_t *bytes, unsigned k, enum x86_mode_bits mode)
{
    struct user_regs_struct r = {0};
    siginfo_t si;
    int st;
    if (!h->pid && !start(h))
        return STEP_BROKEN;
    memcpy(h->code + 4096 - k, bytes, k);
    r.orig_rax = ~0ull;
    r.rip = CODE + 4096 - k;
    r.eflags = 0x202;
    r.rsp = DATA + 0x1000;
    r.rax = r.rbx = r.rcx = r.rdx = r.rsi = r.rdi = r.rbp = DATA + 0x800;
    r.cs = mode == X86_MODE_64 ? CS64 : CS32;
    r.ss = SS3;
    r.ds = r.es = mode == X86_MODE_64 ? 0 : SS3;
    if (ptrace(PTRACE_SETREGS, h->pid, 0, &r) || ptrace(PTRACE_SINGLESTEP, h->pid, 0, 0) || waitpid(h->pid, &st, 0) != h->pid)
        return STEP_BROKEN;
    if (!WIFSTOPPED(st)) {
        h->pid = 0; /* it killed itself; the next step starts another */
        return STEP_DONE;
    }
    if (ptrace(PTRACE_GETSIGINFO, h->pid, 0, &si) || ptrace(PTRACE_GETREGS, h->pid, 0, &r))
        return STEP_BROKEN;
    if (WSTOPSIG(st) == SIGSEGV && (uintptr_t)si.si_addr == CODE + 4096 && r.rip == CODE + 4096 - k)
        return STEP_MORE;
    return WSTOPSIG(st) == SIGILL ? STEP_UD : STEP_DONE;
}

/* Left out: what would leave the process, and what other processors than ours have at these places. */
static bool excluded(const struct x86_insn *in, const uint8_t *bytes)
{
    switch (in->op) {
    case X86_OP_SYSCALL: case X86_OP_SYSENTER: case X86_OP_INT:
        return true;
    }
    /* EVEX, and VEX maps above 3: how many bytes are taken depends on AVX-512 extensions we never present. */
    if (in->op == X86_OP_INVALID && in->map == 0 && !in->vex) {
        if (bytes[in->opcode_off] == 0x62 || (in->opcode_off == 0 && in->len >= 2 && bytes[in->len - 2] == 0xc4))
            return true;
    }
    return false;
}

/* #UD at CPL 3 though the encoding is legal. */
static bool ud_at_cpl3(const struct x86_insn *in)
{
    switch (in->op) {
    case X86_OP_UD0: case X86_OP_UD1: case X86_OP_UD2: case X86_OP_CLAC: case X86_OP_STAC: case X86_OP_MONITOR: case X86_OP_MWAIT:
        return true;
    default: return false;
    }
}

static const char *skipped;

static void skip_loudly(const char *why)
{
    skipped = why;
    skip();
}

static void compare(enum x86_mode_bits mode, uint64_t seed, unsigned count)
{
    struct host h = {0};
    unsigned a, b, c, d, ud = 0, done = 0;
    bool intel = __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx;
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
    if (!intel || !avx2) /* AMD's differ in what they ignore */
        skip_loudly("needs an Intel processor with AVX2");
    int fd = memfd_create("code", MFD_CLOEXEC);
    assert_true(fd >= 0 && ftruncate(fd, 8192) == 0);
    h.code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *code = mmap((void *)CODE, 8192, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    void *data = mmap((void *)DATA, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    assert_true(h.code != MAP_FAILED && code == (void *)CODE && data == (void *)DATA);

    /* Is there a usable ptrace, and this mode? NOP. */
    if (step(&h, (const uint8_t *)"\x90", 1, mode) != STEP_DONE) {
        stop(&h);
        skip_loudly("processes cannot be stepped here");
    }
    for (unsigned i = 0; i < count; i++) {
        uint8_t s[GEN_BYTES];
        struct x86_insn in;
        gen_insn(&seed, s);
        enum x86_decode_result res = x86_decode(&in, s, 16, mode, false, NULL);
        if (excluded(&in, s))
            continue;
        unsigned k = 1, want = res == X86_DEC_GP ? X86_MAX_INSN : in.len;
        enum step got = STEP_MORE;
        for (; k <= X86_MAX_INSN; k++)
            if ((got = step(&h, s, k, mode)) != STEP_MORE)
                break;
        if (got == STEP_BROKEN)
            fail_msg("ptrace: %s", strerror(errno));
        /* Rows Intel's processor may lack or hide are judged by length alone; so are places where it may have more. */
        bool known = res == X86_DEC_OK && !ud_at_cpl3(&in) && x86_isa[in.row].feature <= X86_FEAT_SSE42;
        if (k != want || (known && got == STEP_UD)) {
            char hex[64];
            for (unsigned j = 0; j < 15; j++)
                snprintf(hex + 3 * j, sizeof(hex) - 3 * j, " %02x", s[j]);
            fail_msg("mode %d:%s: %s, result %d, length %u; the processor: %s after %u", mode, hex, x86_op_name(in.op), res, want,
                     got == STEP_UD ? "#UD" : "other", k);
        }
        ud += got == STEP_UD;
        done += got == STEP_DONE;
    }
    print_message("%u executed or faulted, %u #UD\n", done, ud);
    assert_true(done > count / 2 && ud > count / 50);
    stop(&h);
    munmap(h.code, 4096);
    munmap(code, 8192);
    munmap(data, 65536);
    close(fd);
}

static void mode64(void **state) { compare(X86_MODE_64, 1, 8000); }
static void mode32(void **state) { compare(X86_MODE_32, 2, 5000); }

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mode64), cmocka_unit_test(mode32)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fflush(NULL);
    if (skipped)
        fprintf(stdout, "%s\n", skipped);
    return failed ? 1 : skipped ? 77 : 0;
}
