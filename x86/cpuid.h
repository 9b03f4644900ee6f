/*
 * CPUID policy: the one list of what the guest is told, built once per VM. It
 * presents exactly what the engine and the host can do; the decoder refuses
 * (#UD) what is not presented.
 */
#ifndef X86_CPUID_H
#define X86_CPUID_H

#include <stdbool.h>
#include <stdint.h>

struct x86_cpu;
struct x86_cpuid_policy;

/* Features an instruction row may require (isa.def's feature column). BASE is always there. */
enum x86_feature {
    X86_FEAT_BASE, X86_FEAT_FPU, X86_FEAT_CMOV, X86_FEAT_MMX, X86_FEAT_SSE, X86_FEAT_SSE2, X86_FEAT_SSE3, X86_FEAT_SSSE3,
    X86_FEAT_SSE41, X86_FEAT_SSE42, X86_FEAT_AES, X86_FEAT_PCLMUL, X86_FEAT_SHA, X86_FEAT_AVX, X86_FEAT_AVX2, X86_FEAT_FMA,
    X86_FEAT_F16C, X86_FEAT_BMI1, X86_FEAT_BMI2, X86_FEAT_LZCNT, X86_FEAT_POPCNT, X86_FEAT_ADX, X86_FEAT_MOVBE,
    X86_FEAT_CX8, X86_FEAT_CX16, X86_FEAT_FXSR, X86_FEAT_XSAVE, X86_FEAT_XSAVEOPT, X86_FEAT_XSAVEC, X86_FEAT_XSAVES,
    X86_FEAT_FSGSBASE, X86_FEAT_RDTSCP, X86_FEAT_RDPID, X86_FEAT_RDRAND, X86_FEAT_RDSEED, X86_FEAT_CLFSH, X86_FEAT_CLFLUSHOPT,
    X86_FEAT_CLWB, X86_FEAT_MONITOR, X86_FEAT_SYSCALL, X86_FEAT_SEP, X86_FEAT_INVPCID, X86_FEAT_LM, X86_FEAT_SMAP,
    X86_FEAT_VAES, X86_FEAT_VPCLMUL, X86_FEAT_GFNI, X86_FEAT_PREFETCHW, X86_FEAT_MOVDIRI, X86_FEAT_MOVDIR64B, X86_FEAT_SERIALIZE,
    X86_FEAT_WBNOINVD, X86_FEAT_LAHF64, X86_FEAT_RDPMC, X86_FEAT_NEVER, /* known encoding, never presented: always #UD */
    X86_NFEAT,
};

struct x86_cpuid_config {
    unsigned ncpu;
    uint64_t tsc_khz;
    unsigned phys_bits;      /* MAXPHYADDR presented: 36..46, others are clamped, 0 means 40 */
    uint64_t apic_hz;        /* input clock of the local APIC timer (leaf 0x15's crystal); 0: not told */
    bool kvm_leaves;         /* offer the KVM paravirtual leaves at 0x40000000 */
    uint32_t kvm_features;   /* leaf 0x40000001 EAX */
    bool has_x2apic, has_tsc_deadline;
    /* Hypercalls (ringer/hypercall.h): features, 0: no leaves; port and ISA interrupt. */
    uint32_t hc_features, hc_port, hc_irq;
    /* Host's own CPUID, so that only host-supported vector instructions are offered; NULL: the CPU this runs on. */
    void (*host_cpuid)(uint32_t leaf, uint32_t sub, uint32_t out[4]);
};

struct x86_cpuid_policy *x86_cpuid_new(const struct x86_cpuid_config *cfg);
void x86_cpuid_free(struct x86_cpuid_policy *p);
bool x86_has(const struct x86_cpuid_policy *p, enum x86_feature f);
/* Bit set of enum x86_feature for the decoder: words of 64. */
const uint64_t *x86_feature_bits(const struct x86_cpuid_policy *p);
/* out: EAX EBX ECX EDX as CPUID returns them on this vCPU (APIC id, OSXSAVE, XCR0-dependent sizes included). */
void x86_cpuid(const struct x86_cpu *c, uint32_t leaf, uint32_t sub, uint32_t out[4]);
unsigned x86_phys_bits(const struct x86_cpuid_policy *p);
uint64_t x86_tsc_khz(const struct x86_cpuid_policy *p);
/* The processor signature: CPUID leaf 1 EAX, and EDX after reset. */
uint32_t x86_signature(const struct x86_cpuid_policy *p);
/* IA32_ARCH_CAPABILITIES. */
uint64_t x86_arch_capabilities(const struct x86_cpuid_policy *p);
/* XCR0 bits the guest may set. */
/* The guest is told of hypercalls: leaves HC_LEAF and HC_LEAF + 1 exist. */
bool x86_cpuid_hypercalls(const struct x86_cpuid_policy *p);
uint64_t x86_xcr0_mask(const struct x86_cpuid_policy *p);

#endif
