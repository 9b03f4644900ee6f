/*
 * The canonical state of one x86 processor and the contract of the x86 layer.
 *
 * Everything here is architecture: no host call, no engine, no device. Engines
 * that keep state elsewhere (KVM, translated code) copy it in and out by mask
 * (include/ringer/engine.h). What the architecture needs from its surroundings
 * (time, ports, MSRs of the local APIC, interrupts) goes through x86_env_ops.
 */
#ifndef X86_CPU_H
#define X86_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/insn.h"

struct gpa_map;

/* RFLAGS (SDM Vol. 1, 3.4.3) */
enum {
    X86_FL_CF = 1 << 0, X86_FL_1 = 1 << 1, X86_FL_PF = 1 << 2, X86_FL_AF = 1 << 4,
    X86_FL_ZF = 1 << 6, X86_FL_SF = 1 << 7, X86_FL_TF = 1 << 8, X86_FL_IF = 1 << 9,
    X86_FL_DF = 1 << 10, X86_FL_OF = 1 << 11, X86_FL_IOPL = 3 << 12, X86_FL_NT = 1 << 14,
    X86_FL_RF = 1 << 16, X86_FL_VM = 1 << 17, X86_FL_AC = 1 << 18, X86_FL_VIF = 1 << 19,
    X86_FL_VIP = 1 << 20, X86_FL_ID = 1 << 21,
    X86_FL_ARITH = X86_FL_CF | X86_FL_PF | X86_FL_AF | X86_FL_ZF | X86_FL_SF | X86_FL_OF,
};

/* Control registers (SDM Vol. 3A, 2.5) */
#define X86_CR0_PE (1u << 0)
#define X86_CR0_MP (1u << 1)
#define X86_CR0_EM (1u << 2)
#define X86_CR0_TS (1u << 3)
#define X86_CR0_ET (1u << 4)
#define X86_CR0_NE (1u << 5)
#define X86_CR0_WP (1u << 16)
#define X86_CR0_AM (1u << 18)
#define X86_CR0_NW (1u << 29)
#define X86_CR0_CD (1u << 30)
#define X86_CR0_PG (1u << 31)
#define X86_CR4_VME (1u << 0)
#define X86_CR4_PVI (1u << 1)
#define X86_CR4_TSD (1u << 2)
#define X86_CR4_DE (1u << 3)
#define X86_CR4_PSE (1u << 4)
#define X86_CR4_PAE (1u << 5)
#define X86_CR4_MCE (1u << 6)
#define X86_CR4_PGE (1u << 7)
#define X86_CR4_PCE (1u << 8)
#define X86_CR4_OSFXSR (1u << 9)
#define X86_CR4_OSXMMEXCPT (1u << 10)
#define X86_CR4_UMIP (1u << 11)
#define X86_CR4_LA57 (1u << 12)
#define X86_CR4_FSGSBASE (1u << 16)
#define X86_CR4_PCIDE (1u << 17)
#define X86_CR4_OSXSAVE (1u << 18)
#define X86_CR4_SMEP (1u << 20)
#define X86_CR4_SMAP (1u << 21)
#define X86_CR4_PKE (1u << 22)

#define X86_DR6_FIXED 0xffff0ff0u /* bits that read as one */
#define X86_DR6_BD (1u << 13)
#define X86_DR6_BS (1u << 14)
#define X86_DR6_BT (1u << 15)
#define X86_DR7_FIXED 0x400u
#define X86_DR7_GD (1u << 13)

/* IA32_MISC_ENABLE, IA32_DEBUGCTL */
#define X86_MISC_FAST_STRINGS (1u << 0)
#define X86_MISC_BTS_UNAVAIL (1u << 11)
#define X86_MISC_PEBS_UNAVAIL (1u << 12)
#define X86_MISC_MONITOR (1u << 18)
#define X86_MISC_LIMIT_CPUID (1u << 22)
#define X86_MISC_XD_DISABLE (1ull << 34)
#define X86_DEBUGCTL_LBR (1u << 0)
#define X86_DEBUGCTL_BTF (1u << 1)

#define X86_EFER_SCE (1u << 0)
#define X86_EFER_LME (1u << 8)
#define X86_EFER_LMA (1u << 10)
#define X86_EFER_NXE (1u << 11)

/* Vectors (SDM Vol. 3A, 6.3.1) */
enum x86_vector {
    X86_DE, X86_DB, X86_NMI, X86_BP, X86_OF, X86_BR, X86_UD, X86_NM, X86_DF, X86_CSO,
    X86_TS, X86_NP, X86_SSF, X86_GP, X86_PF, X86_MF = 16, X86_AC, X86_MC, X86_XM,
};

/* A segment register with its hidden part. Limit is in bytes, already scaled.
 * ar holds descriptor bits as in the VMCS access-rights format (SDM Vol. 3C,
 * 24.4.1): 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G. An unusable
 * (null) segment has P = 0. */
struct x86_seg {
    uint64_t base;
    uint32_t limit;
    uint16_t sel;
    uint16_t ar;
};
#define X86_AR_TYPE 0x000f
#define X86_AR_S 0x0010
#define X86_AR_DPL(ar) (((ar) >> 5) & 3)
#define X86_AR_P 0x0080
#define X86_AR_AVL 0x1000
#define X86_AR_L 0x2000
#define X86_AR_DB 0x4000
#define X86_AR_G 0x8000

struct x86_dtr {
    uint64_t base;
    uint16_t limit;
};

/* x87/SSE/AVX state: the standard XSAVE format (SDM Vol. 1, 13.4), so the host
 * CPU can load it. Legacy region (FXSAVE64 layout) 0-511, header 512-575, AVX
 * upper halves at 576; the rest is room for what a host engine may expose. */
#define X86_XSAVE_SIZE 4096
struct x86_fpu {
    _Alignas(64) union {
        uint8_t raw[X86_XSAVE_SIZE];
        struct {
            uint16_t fcw, fsw;
            uint8_t ftw, rsvd0; /* abridged tag word */
            uint16_t fop;
            uint64_t fip; /* FXSAVE64 form; 32-bit forms are derived with fcs/fds below */
            uint64_t fdp;
            uint32_t mxcsr, mxcsr_mask;
            uint8_t st[8][16];
            uint8_t xmm[16][16];
            uint8_t pad[96];
            uint64_t xstate_bv, xcomp_bv, hdr[6];
            uint8_t ymmh[16][16];
        };
    };
    uint16_t fcs, fds; /* selectors for the 32-bit forms of FSAVE/FXSAVE */
};
_Static_assert(offsetof(struct x86_fpu, mxcsr) == 24, "FXSAVE layout");
_Static_assert(offsetof(struct x86_fpu, xmm) == 160, "FXSAVE layout");
_Static_assert(offsetof(struct x86_fpu, xstate_bv) == 512, "XSAVE layout");
_Static_assert(offsetof(struct x86_fpu, ymmh) == 576, "XSAVE layout");

/* How a memory access is made: read, write, or instruction fetch; RMW faults as a write. */
enum x86_access { X86_READ, X86_WRITE, X86_EXEC };

/* Results of functions that execute architecture. */
enum x86_result {
    X86_OK = 0,     /* done; if an instruction: the caller adds insn.len to RIP */
    X86_FAULT = 1,  /* cpu->exc holds an exception; architectural state is that before the instruction
                       (except what the SDM says stays, e.g. completed REP iterations) */
    X86_BRANCH = 2, /* done, RIP already written (far transfers, IRET, SYSCALL, ...) */
    X86_REPEAT = 3, /* one or more REP iterations done, RIP unchanged: instruction boundary, not finished */
    X86_EXIT = 4,   /* done, caller adds insn.len, then leaves the engine; cpu->activity or vcpu requests say why (HLT, MWAIT, ...) */
    X86_UNDEF = 5,  /* this function does not implement the instruction (internal; becomes #UD) */
};

/* An exception on its way to delivery (SDM Vol. 3A, 6). */
enum x86_exc_kind {
    X86_EXC_FAULT = 0, /* hardware exception: RIP of the instruction (fault) or next (trap), as set in cpu->rip */
    X86_EXC_SOFT,      /* INT n, INT3, INTO: DPL check, IOPL check in v86; return RIP is the next instruction */
    X86_EXC_EXTINT,    /* external interrupt */
    X86_EXC_NMI,
    X86_EXC_ICEBP,     /* INT1: like hardware #DB, next RIP, no DPL check */
};
struct x86_exc {
    uint8_t vector;
    uint8_t kind; /* enum x86_exc_kind */
    bool has_error;
    uint32_t error;
    uint64_t cr2;     /* #PF: linear address */
    uint64_t dr6;     /* #DB: bits to set in DR6 */
    uint8_t insn_len; /* X86_EXC_SOFT/ICEBP: bytes to add to RIP for the return address */
};

enum x86_activity {
    X86_RUNNING,
    X86_HALTED,       /* HLT or MWAIT: until an interrupt that would be delivered */
    X86_WAIT_SIPI,    /* after INIT on an application processor */
    X86_SHUTDOWN,     /* triple fault */
};

struct x86_cpu;
struct x86_thunks; /* host code that runs the guest's FP and vector instructions (x86/thunk.h) */

/* One port or MMIO access. addr is a port or a guest-physical address; size 1, 2, 4 or 8. */
struct x86_io {
    uint64_t addr;
    uint64_t data; /* little-endian in the low bytes; zero-extended on read */
    uint8_t size;
    bool write;
    bool mmio;
};

/* What the surroundings provide. env is x86_cpu.env. No function may be called with
 * pointers into the TLB held: a map change may happen during the call. */
struct x86_env_ops {
    /* Current time-stamp counter before IA32_TSC offset/adjust. */
    uint64_t (*tsc)(void *env);
    /* Perform an access on the bus; never fails (unmapped reads give all ones). */
    void (*io)(void *env, struct x86_io *io);
    /* MSRs the x86 layer does not own (APIC_BASE, x2APIC range, TSC_DEADLINE, paravirtual).
     * Return X86_OK, or X86_FAULT for #GP(0). */
    int (*rdmsr)(void *env, uint32_t msr, uint64_t *val);
    int (*wrmsr)(void *env, uint32_t msr, uint64_t val);
    /* CR8 <-> local APIC TPR. */
    uint64_t (*cr8_read)(void *env);
    void (*cr8_write)(void *env, uint64_t val);
    /* A store by this CPU hit guest-physical memory that holds translated code. */
    void (*code_write)(void *env, uint64_t gpa, uint32_t len);
    /* Stop all other vCPUs at an instruction boundary / let them go on. Not recursive.
     * For split locked accesses and the like. */
    void (*exclusive_begin)(void *env);
    void (*exclusive_end)(void *env);
    /* CR0/CR4/EFER/CPL-relevant state changed so that cached decode or translations keyed by mode
     * must be looked up again; may be NULL. */
    void (*mode_changed)(void *env);
    /* Fill with random bits for RDRAND/RDSEED; returns false if none now (CF = 0). */
    bool (*random)(void *env, uint64_t *val);
    /* tsc_offset changed (IA32_TSC or IA32_TSC_ADJUST was written); may be NULL. */
    void (*tsc_changed)(void *env);
    /* Observe an exception or interrupt being delivered (stats, trace); may be NULL. */
    void (*event)(void *env, const struct x86_exc *exc);
    /* CR0.NE = 0 and an unmasked x87 exception is pending at a waiting instruction: FERR# is asserted (IRQ 13 on a PC). The
     * instruction then executes, as with IGNNE# asserted by the board (SDM Vol. 1, 8.7.2); may be NULL. */
    void (*ferr)(void *env);
};

#define X86_NMTRR_VAR 8

/* CPUID policy: what the guest is told. Built once per VM (x86/cpuid.h), read by all vCPUs. */
struct x86_cpuid_policy;

#include "x86/mmu_state.h"

struct x86_cpu {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t zero; /* always 0: stands for an absent base, index or segment where addresses are summed without a test */

    /* RFLAGS is split: the arithmetic flags live in cc (low byte: as LAHF stores them in AH,
     * i.e. SF ZF AF PF CF at their RFLAGS positions), and OF separately as 0/1;
     * `fl_sys` holds every other bit with arithmetic bits zero and bit 1 set.
     * Use x86_get_rflags/x86_set_rflags. Layout relied on by the interpreter: the pair
     * (cc_of, cc_lo) is one 16-bit word as `lahf; seto %al` leaves it in AX. */
    union {
        uint16_t cc;
        struct {
            uint8_t cc_of;
            uint8_t cc_lo;
        };
    };
    uint32_t fl_sys;

    struct x86_seg seg[X86_NSEG];
    struct x86_seg ldtr, tr;
    struct x86_dtr gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint8_t cpl;          /* cached current privilege level; 3 in virtual-8086, 0 in real mode */
    uint8_t mode;         /* enum x86_mode_bits of the code segment */
    uint8_t inhibit_irq;  /* interrupt shadow: 1 after STI, 2 after MOV SS/POP SS (blocks #DB too); cleared after the next instruction */
    bool nmi_blocked;     /* between NMI delivery and IRET */
    uint8_t activity;     /* enum x86_activity */
    uint8_t pdptr_valid;

    uint64_t pdptr[4]; /* PAE page-directory-pointer registers, loaded with CR3 (SDM Vol. 3A, 4.4.1) */

    /* MSRs */
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t tsc_offset, tsc_adjust, tsc_aux;
    uint64_t pat, mtrr_deftype, mtrr_fix[11], mtrr_var[2 * X86_NMTRR_VAR];
    uint64_t misc_enable, misc_feature_enables, debugctl, spec_ctrl;
    uint64_t mcg_status, ucode_rev;

    struct x86_exc exc; /* valid after X86_FAULT */
    uint64_t pending_dbg; /* DR6 bits of a data/TF breakpoint to be delivered after the current instruction */

    uint64_t monitor_addr; /* guest-physical line armed by MONITOR, ~0 if none */

    struct x86_fpu fpu;
    struct x86_thunks *thunks; /* made by x86_fpu_init or at first use; freed by x86_fpu_fini; survives reset */

    struct x86_mmu mmu; /* software TLB, see x86/mmu.h */

    const struct x86_cpuid_policy *cpuid;
    const struct x86_env_ops *ops;
    void *env;
    uint32_t apic_id;
    bool is_bsp;

    /* Instructions that were not innocuous, by x86_pg bits (index: bits & 7); kept by whoever executes them. */
    uint64_t pg_count[8];
    struct x86_sites *sites; /* where they are; NULL: not asked for */
};

/* Where instructions that are not innocuous were executed, and how often. One vCPU's; readers from other threads see a snapshot.
 * With traps set, where the engine had to step in instead: instructions, of any class, that it left to an executor, exceptions, and what
 * else it says. Those it does in place are then neither slowed down nor seen. */
#define X86_SITES 16384u
#define X86_SITE_EXC 0x8000u  /* + vector: not an instruction but its exception */
#define X86_SITE_FILL 0x8100u /* access to a page the host had not mapped yet */
#define X86_SITE_AWAY 0x8101u /* code that must not run directly */
struct x86_sites {
    bool traps;
    struct x86_site {
        uint64_t rip, count;
        uint16_t op;     /* enum x86_op, or X86_SITE_* */
        uint8_t pg, cpl; /* as last seen */
    } e[X86_SITES];
    uint64_t dropped; /* executions whose site found no place */
};
void x86_site_hit(struct x86_cpu *c, unsigned pg, uint64_t rip, unsigned op);

/* Whoever executes an instruction of class pg (not 0) at rip says so here. */
static inline void x86_count_sensitive(struct x86_cpu *c, unsigned pg, uint64_t rip, unsigned op)
{
    c->pg_count[pg & 7]++;
    if (__builtin_expect(c->sites != NULL, 0))
        x86_site_hit(c, pg, rip, op);
}

/* The engine stepped in at rip, for an instruction of class pg (0: innocuous) or for X86_SITE_*. */
static inline void x86_count_trap(struct x86_cpu *c, unsigned pg, uint64_t rip, unsigned op)
{
    if (pg)
        x86_count_sensitive(c, pg, rip, op);
    else if (__builtin_expect(c->sites != NULL, 0) && c->sites->traps)
        x86_site_hit(c, 0, rip, op);
}

/* Is every instruction that is not innocuous to be seen? */
static inline bool x86_watches_sensitive(const struct x86_cpu *c) { return c->sites && !c->sites->traps; }

/* How many instructions of any class but innocuous were executed. */
static inline uint64_t x86_sensitive_count(const struct x86_cpu *c)
{
    uint64_t n = 0;

    for (unsigned i = 1; i < 8; i++)
        n += c->pg_count[i];
    return n;
}

static inline uint64_t x86_get_rflags(const struct x86_cpu *c)
{
    return c->fl_sys | c->cc_lo | ((uint64_t)c->cc_of << 11);
}

/* Set RFLAGS wholesale; bit 1 is forced, reserved bits are dropped. No privilege rules. */
static inline void x86_set_rflags(struct x86_cpu *c, uint64_t v)
{
    c->fl_sys = ((uint32_t)v & 0x3f7700u) | X86_FL_1;
    c->cc_lo = (uint8_t)v & 0xd5;
    c->cc_of = (v >> 11) & 1;
}

static inline bool x86_pe(const struct x86_cpu *c) { return c->cr0 & X86_CR0_PE; }
static inline bool x86_v86(const struct x86_cpu *c) { return c->fl_sys & X86_FL_VM; }
static inline bool x86_lma(const struct x86_cpu *c) { return c->efer & X86_EFER_LMA; }
static inline bool x86_canonical(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }

/* Record an exception and return X86_FAULT. */
static inline int x86_raise(struct x86_cpu *c, uint8_t vector)
{
    c->exc = (struct x86_exc){.vector = vector};
    return X86_FAULT;
}
static inline int x86_raise_err(struct x86_cpu *c, uint8_t vector, uint32_t error)
{
    c->exc = (struct x86_exc){.vector = vector, .has_error = true, .error = error};
    return X86_FAULT;
}

#endif
