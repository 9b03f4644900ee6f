/*
 * ringer probe: executes privileged and sensitive instructions at CPL 3 on the
 * CPU it runs on and records what happens, beside the class in the table.
 *
 * A case is one instruction in one operand form. Each runs in a fresh child:
 * its signal frame is replaced by a known state, so that the kernel enters the
 * case with every register set, in 64-bit or (through the kernel's 32-bit code
 * selector) in 32-bit mode; the next signal, caused by the instruction or by
 * the INT3 behind it, holds the resulting state. The child may make no system
 * call (seccomp turns an attempt into SIGSYS, which is how SYSCALL, SYSENTER
 * and INT 0x80 are seen to reach the host's kernel), has an alarm and limits.
 */
#ifndef LAB_PROBE_H
#define LAB_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "x86/decode.h"

/* Registers a case starts with; the rest are 0. rBX = PROBE_DATA, rSP = PROBE_STACK, rSI = rDI = PROBE_DATA + 0x100. */
#define PROBE_CODE 0x10000000u
#define PROBE_START (PROBE_CODE + 0x400u)
#define PROBE_DATA 0x10010000u /* one page; a far pointer to behind the instruction lies at +0x20 */
#define PROBE_FAR 0x20u
#define PROBE_LOAD 0x30u /* a far pointer with the data selector */
#define PROBE_STACK (PROBE_DATA + 0xc00u)
#define PROBE_SNAP 64u /* bytes of data and of stack (from rSP) kept of the result */

enum probe_modes { PROBE_32 = 1, PROBE_64 = 2, PROBE_BOTH = 3 };
enum probe_setup { PROBE_PLAIN, PROBE_NO_TSC, PROBE_NO_CPUID };

/* What a completed case showed. */
enum probe_effect {
    FX_EFFECT, /* take it as executed; say what changed */
    FX_CPUID,
    FX_FLAGS_PUSHED,
    FX_IF,
    FX_IOPL,
    FX_ARITH,
    FX_CS,
    FX_CPL_STACK,
    FX_SEL,
    FX_SEL_LOADED,
    FX_LAR,
    FX_LSL,
    FX_VERIFY,
    FX_GDT,
    FX_IDT,
    FX_LDT,
    FX_TR,
    FX_MSW,
    FX_TSC,
    FX_PID,
    FX_XCR,
    FX_PMC,
    FX_HYPERCALL,
    FX_NOTHING,
    FX_FAR_TAKEN,
};

struct probe_case {
    const char *form; /* in assembler syntax */
    uint8_t modes;    /* enum probe_modes */
    uint8_t setup;    /* enum probe_setup */
    uint8_t effect;   /* enum probe_effect */
    /* Hexadecimal; @ in code stands for a far pointer (offset, selector) to behind the instruction. */
    const char *pre, *code;
    uint32_t eax, ecx, edx;
    uint8_t rfl;  /* arithmetic flags to start with, | 2 */
    uint16_t flh; /* further RFLAGS bits to start with */
};
extern const struct probe_case probe_cases[];
extern const unsigned probe_ncases;

/* Bytes of a case in a mode, as they lie at PROBE_START: [pre][insn], INT3 behind. */
struct probe_code {
    uint8_t bytes[128];
    unsigned len, insn; /* insn: offset of the instruction tested */
};
void probe_assemble(const struct probe_case *c, bool m32, struct probe_code *out);
/* The row of the table the case's instruction is. NULL if the decoder does not know it in this mode. */
const struct x86_isa_row *probe_row(const struct probe_case *c, bool m32);

struct probe_raw {
    enum {
        RAW_NONE,
        RAW_DONE,
        RAW_SIGNAL,
        RAW_SETUP,
        RAW_DIED
    } end;                 /* DONE: reached the INT3 behind; SETUP: not offered here */
    int sig, code, vector; /* signal; si_code; exception vector, or -1 */
    uint32_t err;
    uint16_t cs, ss;
    uint64_t rip, rfl, rfl_in, gpr[16]; /* index: enum x86_gpr */
    uint8_t data[PROBE_SNAP], stack[PROBE_SNAP];
    bool at_insn;     /* the exception is the instruction's (not its preparation's) */
    bool system_call; /* seccomp saw a system call */
    uint32_t cycles;  /* least of some runs, 0: not measured */
};

enum probe_verdict {
    PV_TRAPPED,   /* exception: a VMM gets control */
    PV_UNDEFINED, /* #UD: no such instruction here, or not at this privilege */
    PV_KERNEL,    /* control goes to the host's kernel, through a gate it set up */
    PV_EXECUTED,  /* executed, with the effect it has at any privilege */
    PV_HOST,      /* executed, and shows the host's state, not the guest's */
    PV_DIFFERENT, /* did not trap, and did something else than at CPL 0 */
    PV_EMULATED,  /* trapped, but the host's kernel made up a result: the process sees no trap */
    PV_BELOW,     /* answered by a hypervisor below the host */
    PV_SKIPPED,   /* cannot be tried here */
    PV_FAILED,    /* hung or died without a word */
    PV_COUNT,
};
extern const char *const probe_verdict_name[PV_COUNT];
static inline bool probe_traps(enum probe_verdict v)
{
    return v == PV_TRAPPED || v == PV_UNDEFINED;
}
static inline bool probe_ran(enum probe_verdict v)
{
    return v != PV_SKIPPED && v != PV_FAILED;
}

struct probe_result {
    const struct probe_case *c;
    const struct x86_isa_row *row;
    bool m32;
    enum probe_verdict verdict;
    uint32_t cycles;
    char text[160];
};

/* One mnemonic: its classes in the table and what its cases showed. */
struct probe_op {
    const char *name;
    uint16_t op;
    uint8_t pg; /* union over the rows tried */
    /* Forms tried without special set-up: trapped; of these #UD; did not trap although it matters. An unprivileged
     * instruction whose effect was the one it has at any privilege (POPF of CF, INTO with OF clear) is none of them. */
    unsigned trapped, undefined, untrapped;
    bool configurable;                  /* a host setting makes it trap */
    const struct probe_result *witness; /* first case that did not trap */
};

struct probe_report {
    char cpu[64], kernel[160];
    bool umip, seccomp, mode32, hypervisor, cpuid_faulting, tsc_disable;
    char why32[120], below[16];
    struct probe_result *result;
    unsigned nresults;
    struct probe_op *op;
    unsigned nops;
};

/* Run one case in a child. 0, or -errno if no child could be made. */
int probe_run(const struct probe_case *c, bool m32, struct probe_raw *raw);
void probe_judge(const struct probe_report *rep, const struct probe_case *c, bool m32, const struct probe_raw *raw,
                 struct probe_result *res);
/* Everything. 0 or -errno. */
int probe_all(struct probe_report *rep);
/* From results to sets. */
int probe_gather(struct probe_report *rep);
void probe_free(struct probe_report *rep);
static inline bool probe_offender(const struct probe_op *o)
{
    return (o->pg & (X86_PG_CONTROL | X86_PG_BEHAVIOUR)) && o->untrapped;
}

/* Letters of a class: P C B and ! for Robin and Irvine. */
const char *lab_class(unsigned pg, char buf[8]);

void probe_print(const struct probe_report *rep, FILE *f);
void probe_print_json(const struct probe_report *rep, FILE *f);
void probe_print_html(const struct probe_report *rep, FILE *f);

#endif
