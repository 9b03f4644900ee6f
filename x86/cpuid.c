/*
 * CPUID: one table of features, from which both the leaves and the decoder's
 * feature set are made, so that they cannot disagree (SDM Vol. 2A, CPUID).
 *
 * Vector, cryptographic and bit-manipulation features are offered only if the
 * host has them, because those instructions run on the host CPU.
 */
#include "x86/cpuid.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "ringer/hypercall.h"
#include "x86/cpu.h"

enum { EAX, EBX, ECX, EDX };

/* Where a feature is reported. */
enum { L1, L7, LD1, LX1, LX8, NLEAF, NOWHERE = NLEAF };
static const uint32_t leaf_number[NLEAF] = {1, 7, 0xd, 0x80000001, 0x80000008};

struct where {
    uint8_t leaf, reg, bit;
    bool host; /* only if the host reports the same bit */
};

static const struct where features[X86_NFEAT] = {
    [X86_FEAT_BASE] = {NOWHERE, 0, 0, false},
    [X86_FEAT_FPU] = {L1, EDX, 0, false},
    [X86_FEAT_CX8] = {L1, EDX, 8, false},
    [X86_FEAT_SEP] = {L1, EDX, 11, false},
    [X86_FEAT_CMOV] = {L1, EDX, 15, false},
    [X86_FEAT_CLFSH] = {L1, EDX, 19, false},
    [X86_FEAT_MMX] = {L1, EDX, 23, true},
    [X86_FEAT_FXSR] = {L1, EDX, 24, false},
    [X86_FEAT_SSE] = {L1, EDX, 25, true},
    [X86_FEAT_SSE2] = {L1, EDX, 26, true},
    [X86_FEAT_SSE3] = {L1, ECX, 0, true},
    [X86_FEAT_PCLMUL] = {L1, ECX, 1, true},
    [X86_FEAT_MONITOR] = {L1, ECX, 3, false},
    [X86_FEAT_SSSE3] = {L1, ECX, 9, true},
    [X86_FEAT_FMA] = {L1, ECX, 12, true},
    [X86_FEAT_CX16] = {L1, ECX, 13, true},
    [X86_FEAT_SSE41] = {L1, ECX, 19, true},
    [X86_FEAT_SSE42] = {L1, ECX, 20, true},
    [X86_FEAT_MOVBE] = {L1, ECX, 22, false},
    [X86_FEAT_POPCNT] = {L1, ECX, 23, true},
    [X86_FEAT_AES] = {L1, ECX, 25, true},
    [X86_FEAT_XSAVE] = {L1, ECX, 26, false},
    [X86_FEAT_AVX] = {L1, ECX, 28, true},
    [X86_FEAT_F16C] = {L1, ECX, 29, true},
    [X86_FEAT_RDRAND] = {L1, ECX, 30, false},
    [X86_FEAT_FSGSBASE] = {L7, EBX, 0, false},
    [X86_FEAT_BMI1] = {L7, EBX, 3, true},
    [X86_FEAT_AVX2] = {L7, EBX, 5, true},
    [X86_FEAT_BMI2] = {L7, EBX, 8, true},
    [X86_FEAT_INVPCID] = {L7, EBX, 10, false},
    [X86_FEAT_RDSEED] = {L7, EBX, 18, false},
    [X86_FEAT_ADX] = {L7, EBX, 19, true},
    [X86_FEAT_SMAP] = {L7, EBX, 20, false},
    [X86_FEAT_CLFLUSHOPT] = {L7, EBX, 23, false},
    [X86_FEAT_CLWB] = {L7, EBX, 24, false},
    [X86_FEAT_SHA] = {L7, EBX, 29, true},
    [X86_FEAT_GFNI] = {L7, ECX, 8, true},
    [X86_FEAT_VAES] = {L7, ECX, 9, true},
    [X86_FEAT_VPCLMUL] = {L7, ECX, 10, true},
    [X86_FEAT_RDPID] = {L7, ECX, 22, false},
    [X86_FEAT_SERIALIZE] = {L7, EDX, 14, false},
    [X86_FEAT_XSAVEOPT] = {LD1, EAX, 0, false},
    [X86_FEAT_XSAVEC] = {LD1, EAX, 1, false},
    [X86_FEAT_XSAVES] = {LD1, EAX, 3, false},
    [X86_FEAT_LAHF64] = {LX1, ECX, 0, false},
    [X86_FEAT_LZCNT] = {LX1, ECX, 5, true},
    [X86_FEAT_PREFETCHW] = {LX1, ECX, 8, false},
    [X86_FEAT_SYSCALL] = {LX1, EDX, 11, false},
    [X86_FEAT_RDTSCP] = {LX1, EDX, 27, false},
    [X86_FEAT_LM] = {LX1, EDX, 29, false},
    [X86_FEAT_WBNOINVD] = {LX8, EBX, 9, false},
    [X86_FEAT_RDPMC] = {NOWHERE, 0, 0, false}, /* the instruction exists; without counters every index is #GP(0) */
};

/* Known encodings that are not presented. */
static bool withheld(unsigned f)
{
    switch (f) {
    case X86_FEAT_MOVDIRI: case X86_FEAT_MOVDIR64B: case X86_FEAT_NEVER:
        return true;
    }
    return false;
}

/* AVX and what is encoded with VEX on vector registers needs the host's operating system to keep YMM state. */
static bool needs_avx(unsigned f)
{
    return f == X86_FEAT_AVX || f == X86_FEAT_AVX2 || f == X86_FEAT_FMA || f == X86_FEAT_F16C || f == X86_FEAT_VAES ||
           f == X86_FEAT_VPCLMUL;
}

/* Features without instructions of their own, that are always there. */
static const struct where fixed[] = {
    {L1, EDX, 1, 0},  /* VME */
    {L1, EDX, 2, 0},  /* DE */
    {L1, EDX, 3, 0},  /* PSE */
    {L1, EDX, 4, 0},  /* TSC */
    {L1, EDX, 5, 0},  /* MSR */
    {L1, EDX, 6, 0},  /* PAE */
    {L1, EDX, 7, 0},  /* MCE */
    {L1, EDX, 9, 0},  /* APIC */
    {L1, EDX, 12, 0}, /* MTRR */
    {L1, EDX, 13, 0}, /* PGE */
    {L1, EDX, 14, 0}, /* MCA */
    {L1, EDX, 16, 0}, /* PAT */
    {L1, EDX, 17, 0}, /* PSE-36 */
    {L1, EDX, 27, 0}, /* self snoop */
    {L1, ECX, 17, 0}, /* PCID */
    {L1, ECX, 31, 0}, /* hypervisor */
    {L7, EBX, 1, 0},  /* TSC_ADJUST */
    {L7, EBX, 6, 1},  /* FDP only at exceptions: x87 runs on the host */
    {L7, EBX, 7, 0},  /* SMEP */
    {L7, EBX, 9, 0},  /* fast REP MOVSB/STOSB */
    {L7, EBX, 13, 1}, /* FCS, FDS deprecated */
    {L7, ECX, 2, 0},  /* UMIP */
    {L7, EDX, 4, 0},  /* fast short REP MOVSB */
    {L7, EDX, 26, 0}, /* IBRS, IBPB: IA32_SPEC_CTRL, IA32_PRED_CMD */
    {L7, EDX, 29, 0}, /* IA32_ARCH_CAPABILITIES */
    {LD1, EAX, 2, 0}, /* XGETBV with ECX = 1 */
    {LX1, EDX, 20, 0}, /* NX */
    {LX1, EDX, 26, 0}, /* 1 GiB pages */
};

struct x86_cpuid_policy {
    struct x86_cpuid_config cfg;
    uint64_t bits[(X86_NFEAT + 63) / 64];
    uint32_t leaf[NLEAF][4];
    uint64_t xcr0_mask;
    unsigned id_shift; /* bits of the APIC id that number cores */
};

static void real_cpuid(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    uint32_t max = __get_cpuid_max(leaf & 0x80000000, NULL);

    memset(out, 0, 16);
    if (max >= leaf)
        __cpuid_count(leaf, sub, out[0], out[1], out[2], out[3]);
}

static bool host_keeps_ymm(const struct x86_cpuid_config *cfg)
{
    uint32_t r[4], lo, hi;

    cfg->host_cpuid(1, 0, r);
    if (!(r[ECX] & (1u << 27)))
        return false;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (lo & 6) == 6;
}

struct x86_cpuid_policy *x86_cpuid_new(const struct x86_cpuid_config *cfg)
{
    struct x86_cpuid_policy *p = calloc(1, sizeof(*p));
    uint32_t host[NLEAF][4];
    bool ymm;

    if (!p)
        return NULL;
    p->cfg = *cfg;
    if (!p->cfg.host_cpuid)
        p->cfg.host_cpuid = real_cpuid;
    if (!p->cfg.ncpu)
        p->cfg.ncpu = 1;
    if (!p->cfg.phys_bits)
        p->cfg.phys_bits = 40;
    if (p->cfg.phys_bits < 36)
        p->cfg.phys_bits = 36;
    if (p->cfg.phys_bits > 46)
        p->cfg.phys_bits = 46;
    while ((1u << p->id_shift) < p->cfg.ncpu)
        p->id_shift++;

    for (unsigned i = 0; i < NLEAF; i++)
        p->cfg.host_cpuid(leaf_number[i], leaf_number[i] == 0xd, host[i]);
    ymm = host_keeps_ymm(&p->cfg) && (host[L1][ECX] & (1u << features[X86_FEAT_AVX].bit));
    for (unsigned f = 0; f < X86_NFEAT; f++) {
        const struct where *w = &features[f];

        if (withheld(f) || (needs_avx(f) && !ymm))
            continue;
        if (w->leaf != NOWHERE) {
            if (w->host && !(host[w->leaf][w->reg] & (1u << w->bit)))
                continue;
            p->leaf[w->leaf][w->reg] |= 1u << w->bit;
        }
        p->bits[f / 64] |= 1ull << (f % 64);
    }
    for (unsigned i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
        if (!fixed[i].host || (host[fixed[i].leaf][fixed[i].reg] & (1u << fixed[i].bit)))
            p->leaf[fixed[i].leaf][fixed[i].reg] |= 1u << fixed[i].bit;
    if (p->cfg.has_x2apic)
        p->leaf[L1][ECX] |= 1u << 21;
    if (p->cfg.has_tsc_deadline)
        p->leaf[L1][ECX] |= 1u << 24;
    if (p->cfg.ncpu > 1)
        p->leaf[L1][EDX] |= 1u << 28;
    p->xcr0_mask = 3 | (ymm ? 4 : 0);
    return p;
}

void x86_cpuid_free(struct x86_cpuid_policy *p) { free(p); }

bool x86_has(const struct x86_cpuid_policy *p, enum x86_feature f)
{
    return (unsigned)f < X86_NFEAT && (p->bits[f / 64] >> (f % 64) & 1);
}

const uint64_t *x86_feature_bits(const struct x86_cpuid_policy *p) { return p ? p->bits : NULL; }
unsigned x86_phys_bits(const struct x86_cpuid_policy *p) { return p->cfg.phys_bits; }
uint64_t x86_tsc_khz(const struct x86_cpuid_policy *p) { return p->cfg.tsc_khz; }
bool x86_cpuid_hypercalls(const struct x86_cpuid_policy *p) { return p->cfg.hc_features; }
uint64_t x86_xcr0_mask(const struct x86_cpuid_policy *p) { return p->xcr0_mask; }

uint32_t x86_signature(const struct x86_cpuid_policy *p)
{
    (void)p;
    return 0x606a6; /* family 6, model 106, stepping 6 */
}

/* Nothing here speculates, so that the guest need not pay for mitigations. IBRS_ALL lets it use plain indirect branches
 * instead of retpolines, which cost an interpreter dear. */
uint64_t x86_arch_capabilities(const struct x86_cpuid_policy *p)
{
    (void)p;
    return 1ull << 0      /* RDCL_NO */
           | 1ull << 1    /* IBRS_ALL */
           | 1ull << 3    /* SKIP_L1DFL_VMENTRY */
           | 1ull << 4    /* SSB_NO */
           | 1ull << 5    /* MDS_NO */
           | 1ull << 6    /* IF_PSCHANGE_MC_NO */
           | 1ull << 8    /* TAA_NO */
           | 1ull << 13   /* SBDR_SSDP_NO */
           | 1ull << 14   /* FBSDP_NO */
           | 1ull << 15   /* PSDP_NO */
           | 1ull << 20   /* BHI_NO */
           | 1ull << 24   /* PBRSB_NO */
           | 1ull << 26   /* GDS_NO */
           | 1ull << 27   /* RFDS_NO */
           | 1ull << 62;  /* ITS_NO */
}

/* Standard format: the highest enabled component decides. */
static uint32_t xsave_size(uint64_t mask) { return mask & 4 ? 832 : 576; }

static void set(uint32_t out[4], uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    out[EAX] = a;
    out[EBX] = b;
    out[ECX] = c;
    out[EDX] = d;
}

/* One cache of leaf 4. share: APIC ids that share it. */
static void cache(const struct x86_cpuid_policy *p, uint32_t out[4], unsigned type, unsigned level, unsigned ways,
                  unsigned sets, unsigned share, uint32_t edx)
{
    set(out, type | level << 5 | 1u << 8 | (share - 1) << 14 | ((1u << p->id_shift) - 1) << 26, 63 | (ways - 1) << 22,
        sets - 1, edx);
}

static void cache_leaf(const struct x86_cpuid_policy *p, uint32_t sub, uint32_t out[4])
{
    switch (sub) {
    case 0: cache(p, out, 1, 1, 8, 64, 1, 0); break;
    case 1: cache(p, out, 2, 1, 8, 64, 1, 0); break;
    case 2: cache(p, out, 3, 2, 16, 1024, 1, 0); break;
    case 3: cache(p, out, 3, 3, 16, 16384, 1u << p->id_shift, 2 /* inclusive */); break;
    }
}

static void topology_leaf(const struct x86_cpu *c, uint32_t sub, uint32_t out[4])
{
    const struct x86_cpuid_policy *p = c->cpuid;

    if (sub == 0)
        set(out, 0, 1, 0x100, 0);
    else if (sub == 1)
        set(out, p->id_shift, p->cfg.ncpu, 0x201, 0);
    else
        out[ECX] = sub & 0xff;
    out[EDX] = c->apic_id;
}

/* TSC = crystal * EBX / EAX. Guests multiply in 32 bits and in kHz, so the ratio is told only if it is exact that way. */
static void tsc_leaf(const struct x86_cpuid_policy *p, uint32_t out[4])
{
    uint64_t a = p->cfg.apic_hz / 1000, b = p->cfg.tsc_khz, x = a, y = b;

    if (!a || !b || p->cfg.apic_hz % 1000 || p->cfg.apic_hz > UINT32_MAX)
        return;
    while (y) {
        uint64_t t = x % y;

        x = y;
        y = t;
    }
    if (b / x * a <= UINT32_MAX)
        set(out, (uint32_t)(a / x), (uint32_t)(b / x), (uint32_t)p->cfg.apic_hz, 0);
}

static void brand_leaf(unsigned part, uint32_t out[4])
{
    static const char brand[48] = "Ringer virtual CPU";

    memcpy(out, brand + 16 * part, 16);
}

static bool apic_enabled(const struct x86_cpu *c)
{
    uint64_t base;

    if (!c->ops || !c->ops->rdmsr || c->ops->rdmsr(c->env, 0x1b, &base) != X86_OK)
        return true;
    return base & (1u << 11);
}

static void hypervisor_leaf(const struct x86_cpuid_policy *p, uint32_t leaf, uint32_t out[4])
{
    uint32_t sig[3];

    switch (leaf) {
    case 0x40000000:
        memcpy(sig, p->cfg.kvm_leaves ? "KVMKVMKVM\0\0\0" : "RingerRinger", 12);
        set(out, 0x40000010, sig[0], sig[1], sig[2]);
        break;
    case 0x40000001:
        if (p->cfg.kvm_leaves)
            out[EAX] = p->cfg.kvm_features;
        break;
    case 0x40000010:
        set(out, (uint32_t)p->cfg.tsc_khz, (uint32_t)(p->cfg.apic_hz / 1000), 0, 0);
        break;
    }
}

static void hypercall_leaf(const struct x86_cpuid_policy *p, uint32_t leaf, uint32_t out[4])
{
    if (leaf == HC_LEAF) {
        out[EAX] = HC_LEAF + 1;
        memcpy(out + 1, "RingerRinger", 12);
    } else {
        set(out, p->cfg.hc_features, p->cfg.hc_port, p->cfg.hc_irq, 0);
    }
}

void x86_cpuid(const struct x86_cpu *c, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    const struct x86_cpuid_policy *p = c->cpuid;
    const uint32_t max_basic = c->misc_enable & X86_MISC_LIMIT_CPUID ? 2 : 0x16;

    set(out, 0, 0, 0, 0);
    if (leaf >= 0x40000000 && leaf < 0x40000100) {
        hypervisor_leaf(p, leaf, out);
        return;
    }
    if (p->cfg.hc_features && (leaf == HC_LEAF || leaf == HC_LEAF + 1)) {
        hypercall_leaf(p, leaf, out);
        return;
    }
    /* beyond the last leaf an Intel CPU answers as for the highest basic one */
    if (leaf > 0x80000008 || (leaf > max_basic && leaf < 0x80000000))
        leaf = max_basic;
    switch (leaf) {
    case 0:
        set(out, max_basic, 0x756e6547, 0x6c65746e, 0x49656e69); /* GenuineIntel */
        break;
    case 1:
        memcpy(out, p->leaf[L1], 16);
        out[EAX] = x86_signature(p);
        out[EBX] = 8u << 8 /* CLFLUSH line, in 8 bytes */ | (1u << p->id_shift) << 16 | c->apic_id << 24;
        if (c->cr4 & X86_CR4_OSXSAVE)
            out[ECX] |= 1u << 27;
        if (!apic_enabled(c))
            out[EDX] &= ~(1u << 9);
        if (!(c->misc_enable & X86_MISC_MONITOR))
            out[ECX] &= ~(1u << 3);
        break;
    case 2:
        set(out, 0x00ff0001, 0xf0, 0, 0); /* caches: see leaf 4; 64-byte prefetch */
        break;
    case 4:
        cache_leaf(p, sub, out);
        break;
    case 5:
        /* no C-states: a guest that idles should use HLT */
        set(out, 64, 64, 3, 0);
        break;
    case 6:
        out[EAX] = 1u << 2; /* the APIC timer never stops */
        break;
    case 7:
        if (sub == 0) {
            memcpy(out, p->leaf[L7], 16);
            out[EAX] = 2; /* highest subleaf */
        } else if (sub == 2) {
            /* BHI_CTRL: Linux no longer heeds BHI_NO, and without this it clears its branch history by a loop of hundreds
             * of instructions at every system call. */
            out[EDX] = 1u << 4;
        }
        break;
    case 0xb:
        topology_leaf(c, sub, out);
        break;
    case 0xd:
        if (sub == 0) {
            set(out, (uint32_t)p->xcr0_mask, xsave_size(c->xcr0), xsave_size(p->xcr0_mask), 0);
        } else if (sub == 1) {
            memcpy(out, p->leaf[LD1], 16);
            out[EBX] = xsave_size(c->xcr0); /* one extended component: compacted and standard sizes agree */
        } else if (sub == 2 && (p->xcr0_mask & 4)) {
            set(out, 256, 576, 0, 0);
        }
        break;
    case 0x15:
        tsc_leaf(p, out);
        break;
    case 0x16:
        set(out, (uint32_t)(p->cfg.tsc_khz / 1000), (uint32_t)(p->cfg.tsc_khz / 1000), 100, 0);
        break;
    case 0x80000000:
        out[EAX] = 0x80000008;
        break;
    case 0x80000001:
        memcpy(out, p->leaf[LX1], 16);
        if (c->misc_enable & X86_MISC_XD_DISABLE)
            out[EDX] &= ~(1u << 20);
        if (c->mode != X86_MODE_64)
            out[EDX] &= ~(1u << 11); /* Intel shows SYSCALL in 64-bit mode only */
        break;
    case 0x80000002: case 0x80000003: case 0x80000004:
        brand_leaf(leaf - 0x80000002, out);
        break;
    case 0x80000006:
        out[ECX] = 1024u << 16 | 8u << 12 | 64; /* L2: 1 MiB, 16 ways, 64-byte lines */
        break;
    case 0x80000007:
        out[EDX] = 1u << 8; /* invariant TSC */
        break;
    case 0x80000008:
        memcpy(out, p->leaf[LX8], 16);
        out[EAX] = p->cfg.phys_bits | 48u << 8;
        break;
    }
}
