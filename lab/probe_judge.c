/* What a case's outcome means. */
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#include "lab/probe.h"
#include "x86/cpu.h"

const char *const probe_verdict_name[PV_COUNT] = {"trapped",      "undefined", "enters kernel", "executed",
                                                  "host's state", "different", "emulated",      "hypervisor",
                                                  "not tried",    "no answer"};

/* What Linux gives a process in place of the real tables when UMIP stops it (its dummies are the same in 32-bit mode,
 * cut). */
#define DUMMY_GDT 0xfffffffffffe0000ull
#define DUMMY_IDT 0xffffffffffff0000ull

struct judge {
    const struct probe_report *rep;
    const struct probe_case *c;
    const struct probe_raw *r;
    struct probe_result *res;
    bool m32;
};

static void say(struct judge *j, enum probe_verdict v, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void say(struct judge *j, enum probe_verdict v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(j->res->text, sizeof(j->res->text), fmt, ap);
    va_end(ap);
    j->res->verdict = v;
}

static uint64_t load(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    memcpy(&v, p, n);
    return v;
}

static void trapped(struct judge *j)
{
    static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "",
                                        "#TS", "#NP", "#SS", "#GP", "#PF", "",    "#MF", "#AC", "#MC", "#XM"};
    const struct probe_raw *r = j->r;
    const char *sig = r->sig == SIGSEGV  ? "SIGSEGV"
                      : r->sig == SIGILL ? "SIGILL"
                      : r->sig == SIGBUS ? "SIGBUS"
                      : r->sig == SIGFPE ? "SIGFPE"
                                         : "SIGTRAP";
    int v = r->vector;
    const char *name = v >= 0 && v < 20 ? names[v] : "?";
    if (v == X86_UD)
        say(j, PV_UNDEFINED, "#UD, %s: not on this CPU, or not at CPL 3", sig);
    else if (v == X86_TS || (v >= X86_NP && v <= X86_PF))
        say(j, PV_TRAPPED, "%s(%#x), %s", name, r->err, sig);
    else
        say(j, PV_TRAPPED, "%s, %s", name, sig);
}

static void judge_table(struct judge *j, uint64_t dummy, const char *name)
{
    unsigned n = j->m32 ? 4 : 8;
    uint64_t base = load(j->r->data + 2, n), limit = load(j->r->data, 2);
    if (limit == 0 && base == (j->m32 ? (uint32_t)dummy : dummy))
        say(j, PV_EMULATED, "%s base %#" PRIx64 " limit 0: the kernel's dummy", name, base);
    else
        say(j, PV_HOST, "%s base %#" PRIx64 " limit %#" PRIx64 ": the host's", name, base, limit);
}

/* Codes that come here end with a ModRM byte. */
static bool register_form(const struct probe_case *c)
{
    return c->code[strlen(c->code) - 2] >= 'c';
}

/* SLDT, STR, SMSW: the kernel's dummies look like real values; where UMIP is on, only it can have answered. */
static void judge_word(struct judge *j, const char *what)
{
    uint64_t v = register_form(j->c) ? j->r->gpr[X86_RCX] : load(j->r->data, 2);
    if (j->rep->umip)
        say(j, PV_EMULATED, "%s %#" PRIx64 ": made up by the kernel (UMIP)", what, v);
    else
        say(j, PV_HOST, "%s %#" PRIx64 ": the host's", what, v);
}

static void judge_effect(struct judge *j)
{
    static const char *const names[] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    const uint64_t in[8] = {j->c->eax,   j->c->ecx,   j->c->edx,           PROBE_DATA,
                            PROBE_STACK, PROBE_STACK, PROBE_DATA + 0x100u, PROBE_DATA + 0x100u};
    char list[100] = "";
    size_t n = 0;
    for (unsigned i = 0; i < 8; i++)
        if (j->r->gpr[i] != in[i] && n < sizeof(list))
            n += (size_t)snprintf(list + n, sizeof(list) - n, " %c%s=%#" PRIx64, j->m32 ? 'e' : 'r', names[i],
                                  j->r->gpr[i]);
    if (j->c->effect == FX_NOTHING || !n)
        say(j, PV_EXECUTED, "executed, no register changed");
    else
        say(j, PV_EXECUTED, "executed:%s", list);
}

static void judge_selector(struct judge *j)
{
    unsigned n = j->m32 ? 4 : 8;
    bool pushed = j->r->gpr[X86_RSP] != PROBE_STACK;
    uint64_t v = pushed ? load(j->r->stack, n) : register_form(j->c) ? j->r->gpr[X86_RAX] : load(j->r->data, 2);
    if (j->c->effect == FX_CS)
        say(j, PV_HOST, "shows CS = %#" PRIx64 ": privilege level %u", v, (unsigned)v & 3);
    else
        say(j, PV_HOST, "shows the host's selector %#" PRIx64, v);
}

static void judge_flag(struct judge *j)
{
    uint64_t f = j->r->rfl;
    unsigned iopl = f >> 12 & 3;
    switch (j->c->effect) {
    case FX_FLAGS_PUSHED:
        f = load(j->r->stack, 2);
        say(j, PV_HOST, "pushed %#" PRIx64 ": IF=%u IOPL=%u are the host's", f, (unsigned)(f >> 9 & 1),
            (unsigned)(f >> 12 & 3));
        break;
    case FX_IF:
        if (f & X86_FL_IF)
            say(j, PV_DIFFERENT, "no trap, and IF is still 1");
        else
            say(j, PV_EXECUTED, "executed: IF is 0");
        break;
    case FX_IOPL:
        if (iopl == 3)
            say(j, PV_EXECUTED, "executed: IOPL is 3");
        else
            say(j, PV_DIFFERENT, "no trap, and IOPL is still %u", iopl);
        break;
    default:
        if (f & X86_FL_CF)
            say(j, PV_EXECUTED, "executed: CF is 1, as it should be");
        else
            say(j, PV_DIFFERENT, "no trap, and CF is still 0");
    }
}

static void judge_descriptor(struct judge *j)
{
    bool zf = j->r->rfl & X86_FL_ZF;
    uint64_t v = j->r->gpr[X86_RAX];
    if (j->c->effect == FX_LAR && zf)
        say(j, PV_HOST, "ZF=1, rights %#" PRIx64 " from the host's GDT", v);
    else if (j->c->effect == FX_LSL && zf)
        say(j, PV_HOST, "ZF=1, limit %#" PRIx64 " from the host's GDT", v);
    else if (zf)
        say(j, PV_HOST, "ZF=1 by the host's GDT");
    else
        say(j, PV_DIFFERENT, "ZF=0, no trap: the host's GDT, judged at CPL 3");
}

static void judge_cpuid(struct judge *j)
{
    char vendor[13] = "";
    for (unsigned i = 0; i < 3; i++) {
        static const uint8_t order[3] = {X86_RBX, X86_RDX, X86_RCX};
        memcpy(vendor + 4 * i, &j->r->gpr[order[i]], 4);
    }
    for (char *p = vendor; *p; p++)
        if (*p < ' ' || *p > '~')
            *p = '?';
    say(j, PV_HOST, "\"%s\", highest leaf %#" PRIx64 ": the host's", vendor, j->r->gpr[X86_RAX] & 0xffffffff);
}

static void completed(struct judge *j)
{
    const uint64_t *g = j->r->gpr;
    uint64_t pair = g[X86_RAX] | g[X86_RDX] << 32;
    switch (j->c->effect) {
    case FX_GDT: judge_table(j, DUMMY_GDT, "GDT"); break;
    case FX_IDT: judge_table(j, DUMMY_IDT, "IDT"); break;
    case FX_LDT: judge_word(j, "LDTR"); break;
    case FX_TR: judge_word(j, "TR"); break;
    case FX_MSW: judge_word(j, "CR0"); break;
    case FX_CS:
    case FX_SEL: judge_selector(j); break;
    case FX_SEL_LOADED:
        if (j->c->eax & ~3u)
            say(j, PV_HOST, "loaded: descriptor %#x of the host's GDT", j->c->eax);
        else
            say(j, PV_EXECUTED, "executed: a null selector, as at any privilege");
        break;
    case FX_CPL_STACK: {
        /* A far CALL pushes CS above the return address, in its operand size: 4 bytes in all forms tried. */
        unsigned at = PROBE_STACK - g[X86_RSP] == 8 && strcmp(j->c->code, "0e") ? 4 : 0;
        uint64_t cs = load(j->r->stack + at, 2);
        say(j, PV_HOST, "pushed CS = %#" PRIx64 ": privilege level %u", cs, (unsigned)cs & 3);
        break;
    }
    case FX_FAR_TAKEN: say(j, PV_HOST, "taken, through the host's GDT; CS = %#x", j->r->cs); break;
    case FX_FLAGS_PUSHED:
    case FX_IF:
    case FX_IOPL:
    case FX_ARITH: judge_flag(j); break;
    case FX_LAR:
    case FX_LSL:
    case FX_VERIFY: judge_descriptor(j); break;
    case FX_CPUID: judge_cpuid(j); break;
    case FX_TSC: say(j, PV_HOST, "the host's counter, %#" PRIx64, pair); break;
    case FX_PID: say(j, PV_HOST, "the host's IA32_TSC_AUX, %#" PRIx64, g[X86_RCX]); break;
    case FX_XCR: say(j, PV_HOST, "the host's XCR0, %#" PRIx64, pair); break;
    case FX_PMC: say(j, PV_HOST, "the host's counter, %#" PRIx64, pair); break;
    case FX_HYPERCALL:
        say(j, PV_BELOW, "a hypervisor below answered, %s=%#" PRIx64, j->m32 ? "eax" : "rax", g[X86_RAX]);
        break;
    default: judge_effect(j);
    }
}

void probe_judge(const struct probe_report *rep, const struct probe_case *c, bool m32, const struct probe_raw *raw,
                 struct probe_result *res)
{
    struct judge j = {rep, c, raw, res, m32};
    *res = (struct probe_result){.c = c, .m32 = m32, .row = probe_row(c, m32), .cycles = raw->cycles};
    switch (raw->end) {
    case RAW_DONE: completed(&j); break;
    case RAW_SETUP: say(&j, PV_SKIPPED, "the host does not offer this setting"); break;
    case RAW_SIGNAL:
        if (raw->system_call)
            say(&j, PV_KERNEL, "a system call of the host's (SIGSYS)");
        else if (raw->at_insn)
            trapped(&j);
        else
            say(&j, PV_KERNEL, "left for %#" PRIx64 " (signal %d)", raw->rip, raw->sig);
        break;
    default: say(&j, PV_FAILED, "no outcome (signal %d)", raw->sig);
    }
}
