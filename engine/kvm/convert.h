/* Canonical state to KVM's structures and back: no system calls. */
#ifndef ENGINE_KVM_CONVERT_H
#define ENGINE_KVM_CONVERT_H

#include <linux/kvm.h>

#include "x86/cpu.h"

void kvm_regs_from(const struct x86_cpu *c, struct kvm_regs *r);
void kvm_regs_to(struct x86_cpu *c, const struct kvm_regs *r);
/* cr8, apic_base and flags of PDPTRs included; kvm_sregs differs by its tail only (kvm_sregs2_to_1, _from_1). */
void kvm_sregs_from(const struct x86_cpu *c, uint64_t apic_base, uint64_t cr8, struct kvm_sregs2 *s);
void kvm_sregs_to(struct x86_cpu *c, const struct kvm_sregs2 *s);
void kvm_sregs2_to_1(const struct kvm_sregs2 *s, struct kvm_sregs *old);
void kvm_sregs2_from_1(const struct kvm_sregs *old, struct kvm_sregs2 *s);
void kvm_debugregs_from(const struct x86_cpu *c, struct kvm_debugregs *d);
void kvm_debugregs_to(struct x86_cpu *c, const struct kvm_debugregs *d);
/* Events in flight are not in the canonical state: from() leaves none. */
void kvm_events_from(const struct x86_cpu *c, struct kvm_vcpu_events *e);
void kvm_events_to(struct x86_cpu *c, const struct kvm_vcpu_events *e);

/* MSRs that are fields of the canonical state. index runs from 0; false past the end. */
struct kvm_msr_field {
    uint32_t msr;
    uint16_t offset; /* of a uint64_t in struct x86_cpu */
};
bool kvm_msr_field(unsigned index, struct kvm_msr_field *f);

/* A local APIC's registers after power-up. wire: as firmware leaves the boot processor's (enabled, LINT0 ExtINT, LINT1
 * NMI). */
void kvm_lapic_power_up(struct kvm_lapic_state *l, uint32_t id, bool wire);

#endif
