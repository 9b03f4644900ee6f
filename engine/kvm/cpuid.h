/* What a guest under KVM is told of its processor: our policy, as far as KVM supports it. */
#ifndef ENGINE_KVM_CPUID_H
#define ENGINE_KVM_CPUID_H

#include <linux/kvm.h>

#include "x86/cpuid.h"

struct kvm_cpuid_target {
    unsigned index, ncpu;
    bool kernel_apic;  /* the local APIC is KVM's */
    bool tsc_deadline; /* and has the TSC-deadline timer (KVM_CAP_TSC_DEADLINE_TIMER) */
    uint32_t name[12]; /* the processor's name, leaves 0x80000002 to 4, which KVM does not tell */
};

/* Fill out (at most cap entries) for KVM_SET_CPUID2; returns how many, or 0 when out of memory or room. Makes no system
 * call.
 *
 * Features are those both sides have. Who the processor is (vendor, signature, name, address width) and how it leaks
 * (speculation controls, IA32_ARCH_CAPABILITIES) is what the hardware is: guests work around its faults by that.
 * Topology is ours. */
unsigned kvm_cpuid_build(const struct x86_cpuid_policy *p, const struct kvm_cpuid2 *supported,
                         const struct kvm_cpuid_target *t, struct kvm_cpuid_entry2 *out, unsigned cap);

#endif
