/* Runs one case in a child process; see probe.h. */
#include <asm/prctl.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "lab/probe.h"

#define USER_CS64 0x33
#define USER_CS32 0x23
#define USER_DS 0x2b
#define T_START (PROBE_DATA + 0xe00u)
#define T_LEAST (PROBE_DATA + 0xe04u)
#define T_COUNT (PROBE_DATA + 0xe08u)
#define TIMED_RUNS 24u
#define SECONDS 1u

/* --- assembling ----------------------------------------------------------- */

struct out {
    uint8_t *b;
    unsigned n, cap;
};

static void byte(struct out *o, uint8_t v)
{
    if (o->n < o->cap)
        o->b[o->n++] = v;
}

static void word32(struct out *o, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        byte(o, (uint8_t)(v >> 8 * i));
}

static uint8_t nibble(char c)
{
    return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* Returns the length of the text in bytes. */
static unsigned hex_len(const char *s)
{
    unsigned n = 0;
    for (; *s; s++)
        n += *s == '@' ? 12 : 1;
    return n / 2;
}

static void hex(struct out *o, const char *s, uint32_t behind, uint16_t cs)
{
    while (*s) {
        if (*s == '@') {
            word32(o, behind);
            byte(o, (uint8_t)cs);
            byte(o, (uint8_t)(cs >> 8));
            s++;
        } else {
            byte(o, (uint8_t)(nibble(s[0]) << 4 | nibble(s[1])));
            s += 2;
        }
    }
}

/* OP reg, [addr] in either mode. */
static void mem_op(struct out *o, bool m32, uint8_t op, uint8_t reg, uint32_t addr)
{
    byte(o, op);
    byte(o, (uint8_t)((m32 ? 5 : 4) | reg << 3));
    if (!m32)
        byte(o, 0x25);
    word32(o, addr);
}

static void mov_imm(struct out *o, uint8_t reg, uint32_t v)
{
    byte(o, (uint8_t)(0xb8 + reg));
    word32(o, v);
}

static void fenced_rdtsc(struct out *o)
{
    static const uint8_t code[] = {0x0f, 0xae, 0xe8, 0x0f, 0x31, 0x0f, 0xae, 0xe8};
    for (unsigned i = 0; i < sizeof(code); i++)
        byte(o, code[i]);
}

static void body(struct out *o, const struct probe_case *c, bool m32, struct probe_code *pc)
{
    uint16_t cs = m32 ? USER_CS32 : USER_CS64;
    unsigned len = hex_len(c->code);
    hex(o, c->pre, 0, cs);
    pc->insn = o->n;
    hex(o, c->code, PROBE_START + pc->insn + len, cs);
    pc->len = o->n;
}

void probe_assemble(const struct probe_case *c, bool m32, struct probe_code *out)
{
    struct out o = {out->bytes, 0, sizeof(out->bytes)};
    body(&o, c, m32, out);
}

/* The same in a loop, keeping the least time-stamp difference around it (what prepares it included). */
static void assemble_timed(const struct probe_case *c, bool m32, struct probe_code *out)
{
    struct out o = {out->bytes, 0, sizeof(out->bytes)};
    fenced_rdtsc(&o);
    mem_op(&o, m32, 0x89, 0, T_START);
    mov_imm(&o, 0, c->eax);
    mov_imm(&o, 1, c->ecx);
    mov_imm(&o, 2, c->edx);
    body(&o, c, m32, out);
    fenced_rdtsc(&o);
    mem_op(&o, m32, 0x2b, 0, T_START);
    mem_op(&o, m32, 0x3b, 0, T_LEAST); /* cmp; jae over the store */
    byte(&o, 0x73);
    byte(&o, m32 ? 6 : 7);
    mem_op(&o, m32, 0x89, 0, T_LEAST);
    mov_imm(&o, 3, PROBE_DATA);
    mov_imm(&o, 4, PROBE_STACK);
    mem_op(&o, m32, 0xff, 1, T_COUNT); /* dec; jnz to the beginning */
    byte(&o, 0x0f);
    byte(&o, 0x85);
    word32(&o, -(o.n + 4));
    out->len = o.n;
}

const struct x86_isa_row *probe_row(const struct probe_case *c, bool m32)
{
    struct probe_code pc;
    struct x86_insn in;
    probe_assemble(c, m32, &pc);
    x86_decode(&in, pc.bytes + pc.insn, pc.len - pc.insn, m32 ? X86_MODE_32 : X86_MODE_64, false, NULL);
    return in.op == X86_OP_INVALID ? NULL : &x86_isa[in.row];
}

/* --- the child -------------------------------------------------------------- */

/* Shared with the parent. The child's handler may use nothing of libc: FS, thread-local storage, may be gone. */
struct shared {
    struct probe_raw raw;
    struct probe_code code;
    uint64_t gpr[16];
    uint32_t rfl;
    bool m32, entered;
};
#define HANDLER_SLOT (PROBE_CODE + 0x2000u) /* a page that holds the pointer to struct shared */

static inline void copy(void *to, const void *from, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
}

static inline long raw_syscall1(long nr, long a)
{
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a) : "rcx", "r11", "memory");
    return r;
}

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

#define NO_CHECKS __attribute__((no_sanitize("address", "undefined", "thread"), no_stack_protector))

#ifdef __clang__
#undef NO_CHECKS
#define NO_CHECKS __attribute__((no_sanitize("address", "undefined", "thread")))
#endif

NO_CHECKS static void record(struct shared *s, int sig, const siginfo_t *si, const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    struct probe_raw *r = &s->raw;
    uint64_t sp = (uint64_t)g[REG_RSP], ip = (uint64_t)g[REG_RIP], at = ip - PROBE_START;
    r->sig = sig;
    r->code = si->si_code;
    r->vector = sig == SIGSYS ? -1 : (int)g[REG_TRAPNO];
    r->err = (uint32_t)g[REG_ERR];
    r->rip = ip;
    r->rfl = (uint64_t)g[REG_EFL];
    r->rfl_in = s->rfl;
    r->cs = (uint16_t)g[REG_CSGSFS];
    r->ss = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
    for (unsigned i = 0; i < 16; i++)
        r->gpr[i] = (uint64_t)g[greg_of[i]];
    r->system_call = sig == SIGSYS;
    copy(r->data, (void *)(uintptr_t)PROBE_DATA, PROBE_SNAP);
    if (sp >= PROBE_DATA && sp + PROBE_SNAP <= PROBE_DATA + 4096)
        copy(r->stack, (void *)(uintptr_t)sp, PROBE_SNAP);
    r->cycles = *(volatile uint32_t *)(uintptr_t)T_LEAST;
    /* A fault of the instruction shows its address, a trap the next; preparations are innocuous. */
    r->at_insn = at >= s->code.insn && at <= s->code.len;
    r->end = sig == SIGTRAP && g[REG_TRAPNO] == 3 && at == s->code.len + 1 ? RAW_DONE : RAW_SIGNAL;
}

NO_CHECKS static void on_signal(int sig, siginfo_t *si, void *ctx)
{
    struct shared *s = *(struct shared *volatile *)(uintptr_t)HANDLER_SLOT;
    ucontext_t *uc = ctx;
    greg_t *g = uc->uc_mcontext.gregs;
    if (s->entered) {
        record(s, sig, si, uc);
        for (;;)
            raw_syscall1(SYS_exit_group, 0);
    }
    s->entered = true;
    for (unsigned i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)s->gpr[i];
    g[REG_RIP] = PROBE_START;
    g[REG_EFL] = (greg_t)s->rfl;
    g[REG_CSGSFS] = (greg_t)(((uint64_t)g[REG_CSGSFS] & 0x0000ffffffff0000) | (s->m32 ? USER_CS32 : USER_CS64) |
                             (uint64_t)USER_DS << 48);
}

/* rt_sigaction itself: a handler of libc's or of a sanitizer's in front of ours would want the thread-local storage that may be gone. */
__asm__(".pushsection .text\n.type probe_restorer, @function\nprobe_restorer: mov $15, %eax\nsyscall\n.size probe_restorer, .-probe_restorer\n.popsection");
void probe_restorer(void);
static void handle(int sig)
{
    const struct {
        void (*handler)(int, siginfo_t *, void *);
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
    } a = {on_signal, SA_SIGINFO | SA_ONSTACK | SA_NODEFER | 0x04000000 /* SA_RESTORER */, probe_restorer, 0};
    syscall(SYS_rt_sigaction, sig, &a, NULL, sizeof(a.mask));
}

static bool map_at(uint32_t at, size_t size, int prot)
{
    void *want = (void *)(uintptr_t)at;
    return mmap(want, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == want;
}

/* Anything but leaving a handler and ending is SIGSYS, from any system call entry. */
static bool forbid_system_calls(void)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog p = {sizeof(f) / sizeof(f[0]), f};
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p);
}

static bool set_up(const struct probe_case *c)
{
    if (c->setup == PROBE_NO_TSC)
        return !prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
    if (c->setup == PROBE_NO_CPUID)
        return !syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    return true;
}

static void put32(uint32_t at, uint32_t v)
{
    memcpy((void *)(uintptr_t)at, &v, 4);
}

static void child_main(const struct probe_case *c, bool m32, bool timed, pid_t parent, struct shared *s)
{
    static const int sigs[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS};
    struct rlimit none = {0, 0}, cpu = {SECONDS, SECONDS};
    struct itimerval limit = {.it_value.tv_sec = SECONDS};
    stack_t ss = {.ss_size = 1 << 16};
    sigset_t empty;

    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent)
        _exit(1);
    signal(SIGALRM, SIG_DFL);
    sigemptyset(&empty);
    sigprocmask(SIG_SETMASK, &empty, NULL);
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_CPU, &cpu);
    setrlimit(RLIMIT_FSIZE, &none);
    setitimer(ITIMER_REAL, &limit, NULL);

    ss.ss_sp = mmap(NULL, ss.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ss.ss_sp == MAP_FAILED || sigaltstack(&ss, NULL) ||
        !map_at(PROBE_CODE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) ||
        !map_at(PROBE_DATA, 4096, PROT_READ | PROT_WRITE) || !map_at(HANDLER_SLOT, 4096, PROT_READ | PROT_WRITE))
        _exit(1);
    memset((void *)(uintptr_t)PROBE_CODE, 0xcc, 4096);
    if (timed)
        assemble_timed(c, m32, &s->code);
    else
        probe_assemble(c, m32, &s->code);
    memcpy((void *)(uintptr_t)PROBE_START, s->code.bytes, s->code.len);
    unsigned behind = s->code.insn + hex_len(c->code);
    put32(PROBE_DATA + PROBE_FAR, PROBE_START + behind);
    put32(PROBE_DATA + PROBE_FAR + 4, m32 ? USER_CS32 : USER_CS64);
    put32(PROBE_DATA + PROBE_LOAD, 0x12345678);
    put32(PROBE_DATA + PROBE_LOAD + 4, USER_DS);
    put32(T_LEAST, timed ? UINT32_MAX : 0);
    put32(T_COUNT, TIMED_RUNS);
    memcpy((void *)(uintptr_t)HANDLER_SLOT, &s, sizeof(s));
    s->m32 = m32;
    s->rfl = 0x202u | c->rfl | c->flh;
    s->gpr[X86_RAX] = c->eax;
    s->gpr[X86_RCX] = c->ecx;
    s->gpr[X86_RDX] = c->edx;
    s->gpr[X86_RBX] = PROBE_DATA;
    s->gpr[X86_RSP] = s->gpr[X86_RBP] = PROBE_STACK;
    s->gpr[X86_RSI] = s->gpr[X86_RDI] = PROBE_DATA + 0x100;

    for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
        handle(sigs[i]);
    if (!set_up(c)) {
        s->raw.end = RAW_SETUP;
        _exit(0);
    }
    /* Without the filter the few instructions that enter the kernel ask for getpid: harmless, but not seen as such. */
    forbid_system_calls();
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; int3" ::"r"(USER_DS) : "memory");
    _exit(1);
}

static int run_once(const struct probe_case *c, bool m32, bool timed, struct shared *s)
{
    int status;
    pid_t parent = getpid(), pid;
    memset(s, 0, sizeof(*s));
    pid = fork();
    if (pid < 0)
        return -errno;
    if (!pid)
        child_main(c, m32, timed, parent, s);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    if (s->raw.end == RAW_NONE) {
        s->raw.end = RAW_DIED;
        s->raw.sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    }
    return 0;
}

int probe_run(const struct probe_case *c, bool m32, struct probe_raw *raw)
{
    struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED)
        return -errno;
    int e = run_once(c, m32, false, s);
    *raw = s->raw;
    raw->cycles = 0;
    if (!e && raw->end == RAW_DONE && c->setup != PROBE_NO_TSC) {
        e = run_once(c, m32, true, s);
        if (s->raw.end == RAW_DONE && s->raw.cycles != UINT32_MAX)
            raw->cycles = s->raw.cycles;
    }
    munmap(s, sizeof(*s));
    return e;
}
