/*
 * Model-specific registers (SDM Vol. 4, chapter 2): those of the processor
 * itself. The local APIC's and the paravirtual ones are the surroundings';
 * everything else is #GP(0).
 */
#include "x86/cpuid.h"
#include "x86/exec.h"

enum {
    MSR_TSC = 0x10,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a,
    MSR_SMI_COUNT = 0x34,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_BIOS_UPDT_TRIG = 0x79,
    MSR_BIOS_SIGN_ID = 0x8b,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRRCAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_MISC_FEATURE_ENABLES = 0x140,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_PERF_STATUS = 0x198,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_MTRR_PHYSBASE0 = 0x200,
    MSR_MTRR_FIX64K = 0x250,
    MSR_MTRR_FIX16K = 0x258,
    MSR_MTRR_FIX4K = 0x268,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC_FIRST = 0x800,
    MSR_X2APIC_LAST = 0x8ff,
    MSR_XSS = 0xda0,
    MSR_KVM_WALL_OLD = 0x11,
    MSR_KVM_TIME_OLD = 0x12,
    MSR_KVM_FIRST = 0x4b564d00,
    MSR_KVM_LAST = 0x4b564dff,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_FMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

static int gp0(struct x86_cpu *c)
{
    return x86_raise_err(c, X86_GP, 0);
}

static bool elsewhere(uint32_t msr)
{
    return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE || (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST) ||
           msr == MSR_KVM_WALL_OLD || msr == MSR_KVM_TIME_OLD || (msr >= MSR_KVM_FIRST && msr <= MSR_KVM_LAST);
}

static int tsc_moved(struct x86_cpu *c)
{
    if (c->ops->tsc_changed)
        c->ops->tsc_changed(c->env);
    return X86_OK;
}

/* Index of a fixed-range MTRR in mtrr_fix, or -1. */
static int fixed_mtrr(uint32_t msr)
{
    if (msr == MSR_MTRR_FIX64K)
        return 0;
    if (msr == MSR_MTRR_FIX16K || msr == MSR_MTRR_FIX16K + 1)
        return 1 + (int)(msr - MSR_MTRR_FIX16K);
    if (msr >= MSR_MTRR_FIX4K && msr <= MSR_MTRR_FIX4K + 7)
        return 3 + (int)(msr - MSR_MTRR_FIX4K);
    return -1;
}

static bool mtrr_type(uint64_t t)
{
    return t == 0 || t == 1 || t == 4 || t == 5 || t == 6;
}

/* Every byte a memory type; PAT also knows 7 (UC-). */
static bool types(uint64_t v, bool pat)
{
    for (unsigned i = 0; i < 8; i++, v >>= 8)
        if (!mtrr_type(v & 0xff) && !(pat && (v & 0xff) == 7))
            return false;
    return true;
}

int x86_rdmsr(struct x86_cpu *c, uint32_t msr, uint64_t *val)
{
    uint64_t mhz;
    int i;

    if (elsewhere(msr))
        return c->ops->rdmsr(c->env, msr, val) == X86_OK ? X86_OK : gp0(c);
    if (msr >= MSR_MTRR_PHYSBASE0 && msr < MSR_MTRR_PHYSBASE0 + 2 * X86_NMTRR_VAR) {
        *val = c->mtrr_var[msr - MSR_MTRR_PHYSBASE0];
        return X86_OK;
    }
    if ((i = fixed_mtrr(msr)) >= 0) {
        *val = c->mtrr_fix[i];
        return X86_OK;
    }
    mhz = x86_tsc_khz(c->cpuid) / 1000;
    switch (msr) {
    case MSR_TSC: *val = x86_tsc(c); break;
    case MSR_TSC_ADJUST: *val = c->tsc_adjust; break;
    case MSR_TSC_AUX: *val = c->tsc_aux; break;
    case MSR_PLATFORM_ID:
    case MSR_EBL_CR_POWERON:
    case MSR_SMI_COUNT: *val = 0; break;
    case MSR_SPEC_CTRL: *val = c->spec_ctrl; break;
    case MSR_BIOS_SIGN_ID: *val = c->ucode_rev; break;
    /* ratios in units of 100 MHz: highest without turbo, lowest; CPUID faulting is there */
    case MSR_PLATFORM_INFO: *val = (mhz / 100 & 0xff) << 8 | (mhz / 100 & 0xff) << 40 | 1u << 31; break;
    case MSR_PERF_STATUS: *val = (mhz / 100 & 0xff) << 8; break;
    case MSR_MTRRCAP: *val = X86_NMTRR_VAR | 1u << 8 /* fixed ranges */ | 1u << 10 /* WC */; break;
    case MSR_ARCH_CAPABILITIES: *val = x86_arch_capabilities(c->cpuid); break;
    case MSR_MISC_FEATURE_ENABLES: *val = c->misc_feature_enables; break;
    case MSR_MISC_ENABLE: *val = c->misc_enable; break;
    case MSR_SYSENTER_CS: *val = c->sysenter_cs; break;
    case MSR_SYSENTER_ESP: *val = c->sysenter_esp; break;
    case MSR_SYSENTER_EIP: *val = c->sysenter_eip; break;
    case MSR_MCG_CAP: *val = 0; break; /* no banks */
    case MSR_MCG_STATUS: *val = c->mcg_status; break;
    case MSR_DEBUGCTL: *val = c->debugctl; break;
    case MSR_PAT: *val = c->pat; break;
    case MSR_MTRR_DEF_TYPE: *val = c->mtrr_deftype; break;
    case MSR_XSS: *val = 0; break;
    case MSR_EFER: *val = c->efer; break;
    case MSR_STAR: *val = c->star; break;
    case MSR_LSTAR: *val = c->lstar; break;
    case MSR_CSTAR: *val = c->cstar; break;
    case MSR_FMASK: *val = c->sfmask; break;
    case MSR_FS_BASE: *val = c->seg[X86_FS].base; break;
    case MSR_GS_BASE: *val = c->seg[X86_GS].base; break;
    case MSR_KERNEL_GS_BASE: *val = c->kernel_gs_base; break;
    default: return gp0(c);
    }
    return X86_OK;
}

/* Set if the reserved bits are clear. */
static int set_masked(struct x86_cpu *c, uint64_t *reg, uint64_t val, uint64_t defined)
{
    if (val & ~defined)
        return gp0(c);
    *reg = val;
    return X86_OK;
}

static int set_canonical(struct x86_cpu *c, uint64_t *reg, uint64_t val)
{
    if (!x86_canonical(val))
        return gp0(c);
    *reg = val;
    return X86_OK;
}

static int set_mtrr_var(struct x86_cpu *c, unsigned i, uint64_t val)
{
    uint64_t addr = ((1ull << x86_phys_bits(c->cpuid)) - 1) & ~0xfffull;

    if (i & 1) /* mask: bit 11 valid */
        return set_masked(c, &c->mtrr_var[i], val, addr | 0x800);
    if (!mtrr_type(val & 0xff))
        return gp0(c);
    return set_masked(c, &c->mtrr_var[i], val, addr | 0xff);
}

static int set_misc_enable(struct x86_cpu *c, uint64_t val)
{
    const uint64_t read_only = X86_MISC_BTS_UNAVAIL | X86_MISC_PEBS_UNAVAIL;
    const uint64_t writable = X86_MISC_FAST_STRINGS | X86_MISC_MONITOR | X86_MISC_LIMIT_CPUID | X86_MISC_XD_DISABLE;
    /* defined for some Intel CPU, without meaning here */
    const uint64_t ignored = 1u << 3 | 1u << 7 | 1u << 16 | 1u << 23 | 1ull << 38;

    if (val & ~(read_only | writable | ignored))
        return gp0(c);
    /* switching NX off under a running EFER.NXE is refused as on a CPU where the BIOS alone may do it */
    if ((val & X86_MISC_XD_DISABLE) && (c->efer & X86_EFER_NXE))
        return gp0(c);
    c->misc_enable = (c->misc_enable & read_only) | (val & writable);
    return X86_OK;
}

int x86_wrmsr(struct x86_cpu *c, uint32_t msr, uint64_t val)
{
    uint64_t delta;
    int i;

    if (elsewhere(msr))
        return c->ops->wrmsr(c->env, msr, val) == X86_OK ? X86_OK : gp0(c);
    if (msr >= MSR_MTRR_PHYSBASE0 && msr < MSR_MTRR_PHYSBASE0 + 2 * X86_NMTRR_VAR)
        return set_mtrr_var(c, msr - MSR_MTRR_PHYSBASE0, val);
    if ((i = fixed_mtrr(msr)) >= 0) {
        if (!types(val, false))
            return gp0(c);
        c->mtrr_fix[i] = val;
        return X86_OK;
    }
    switch (msr) {
    case MSR_TSC: /* SDM Vol. 3B, 17.17.3: moves IA32_TSC_ADJUST by the same amount, and the other way round */
        delta = val - x86_tsc(c);
        c->tsc_offset += delta;
        c->tsc_adjust += delta;
        return tsc_moved(c);
    case MSR_TSC_ADJUST:
        c->tsc_offset += val - c->tsc_adjust;
        c->tsc_adjust = val;
        return tsc_moved(c);
    case MSR_TSC_AUX: return set_masked(c, &c->tsc_aux, val, 0xffffffff);
    case MSR_EBL_CR_POWERON: return X86_OK;
    case MSR_BIOS_UPDT_TRIG:
    case MSR_BIOS_SIGN_ID: return X86_OK;                            /* no update is ever taken */
    case MSR_SPEC_CTRL: return set_masked(c, &c->spec_ctrl, val, 0x403); /* IBRS, STIBP, BHI_DIS_S */
    case MSR_PRED_CMD: return val & ~1ull ? gp0(c) : X86_OK;
    case MSR_MISC_FEATURE_ENABLES: return set_masked(c, &c->misc_feature_enables, val, 1); /* CPUID faulting */
    case MSR_MISC_ENABLE: return set_misc_enable(c, val);
    case MSR_SYSENTER_CS: return set_masked(c, &c->sysenter_cs, val, 0xffffffff);
    case MSR_SYSENTER_ESP: return set_canonical(c, &c->sysenter_esp, val);
    case MSR_SYSENTER_EIP: return set_canonical(c, &c->sysenter_eip, val);
    case MSR_MCG_STATUS: return set_masked(c, &c->mcg_status, val, 0); /* only clearing is allowed */
    case MSR_DEBUGCTL: return set_masked(c, &c->debugctl, val, X86_DEBUGCTL_LBR | X86_DEBUGCTL_BTF);
    case MSR_PAT:
        if (!types(val, true))
            return gp0(c);
        c->pat = val;
        return X86_OK;
    case MSR_MTRR_DEF_TYPE:
        if (!mtrr_type(val & 0xff))
            return gp0(c);
        return set_masked(c, &c->mtrr_deftype, val, 0xcff);
    case MSR_XSS: return val ? gp0(c) : X86_OK;
    case MSR_EFER: return x86_set_efer(c, val);
    case MSR_STAR: c->star = val; return X86_OK;
    case MSR_LSTAR: return set_canonical(c, &c->lstar, val);
    case MSR_CSTAR: return set_canonical(c, &c->cstar, val);
    case MSR_FMASK: return set_masked(c, &c->sfmask, val, 0xffffffff);
    case MSR_FS_BASE: return set_canonical(c, &c->seg[X86_FS].base, val);
    case MSR_GS_BASE: return set_canonical(c, &c->seg[X86_GS].base, val);
    case MSR_KERNEL_GS_BASE: return set_canonical(c, &c->kernel_gs_base, val);
    default: return gp0(c);
    }
}
