/*
 * Engine kvm: what its files share.
 *
 * In a nutshell: one KVM VM per machine, one KVM vCPU per virtual CPU, made with
 * the VM and kept over resets (KVM cannot make a vCPU twice). The canonical
 * state (struct x86_cpu) is pushed before the threads start; while they run,
 * the state is KVM's. Exits become EXIT_IO and friends.
 */
#ifndef ENGINE_KVM_H
#define ENGINE_KVM_H

#include <linux/kvm.h>

#include "engine/kvm/kvm_text.h"
#include "ringer/vm.h"

#define KVM_MAX_SLOTS 64
#define KVM_IOAPIC_PINS 24

struct kvm_slot {
    uint64_t gpa, size;
    uint8_t *host;
    bool readonly, used;
};

struct kvm_vcpu {
    struct vcpu *v;
    int fd;
    _Atomic int thread; /* for kicks; 0: not running */
    struct kvm_run *run;
    uint64_t apic_base; /* VM_INTC_OURS: as KVM last told */
    int refused;        /* acknowledged vector that KVM did not take yet, or -1 */
    /* An access of the guest that KVM left to us, as the core sees it: pieces of 1, 2, 4 or 8 bytes. */
    struct {
        uint64_t addr;
        uint8_t *data;             /* in *run */
        uint32_t left;             /* bytes */
        uint8_t step;              /* port I/O: operand size, the port stays; 0: memory, the address moves on */
        bool write, mmio, waiting; /* waiting: a piece is with the core */
    } io;
    bool entered;                 /* has run since the last start: KVM may hold an unfinished instruction */
    struct kvm_lapic_state lapic; /* from state_pull(STATE_APIC): KVM's own form */
    uint64_t exits[KVM_NREASONS], interrupted, injected;
};

struct kvm_vm {
    struct vm *vm;
    int kvm, fd;
    size_t run_size;
    unsigned ncpu;
    bool readonly_mem, sregs2, xcrs, dirty_logging;
    uint64_t xfeatures; /* components KVM keeps */
    struct kvm_slot slot[KVM_MAX_SLOTS];
    struct host_mutex *route_lock;
    struct kvm_irq_routing_entry route[KVM_IOAPIC_PINS]; /* VM_INTC_SPLIT: level-triggered messages in use; gsi = pin */
    bool routed[KVM_IOAPIC_PINS];
    struct kvm_cpuid2 *supported; /* KVM_GET_SUPPORTED_CPUID */
    uint32_t *msrs;               /* KVM_GET_MSR_INDEX_LIST */
    unsigned nmsrs;
    _Atomic uint64_t messages, doorbells; /* MSIs sent, doorbells hung now; statistics */
    struct kvm_vcpu cpu[];
};

static inline struct kvm_vm *kvm_of(const struct vm *vm)
{
    return vm->engine_priv;
}
static inline struct kvm_vcpu *kvcpu_of(const struct vcpu *v)
{
    return __atomic_load_n(&v->engine_priv, __ATOMIC_ACQUIRE);
}

/* vm.c */
int kvm_slots_update(struct kvm_vm *k);

/* irq.c: interrupt controllers in KVM. */
int kvm_irq_init(struct kvm_vm *k, enum engine_irqchip want);
void kvm_irq_isa(struct vm *vm, unsigned irq, bool level);
void kvm_irq_pin(struct vm *vm, unsigned pin, bool level);
void kvm_irq_message(struct vm *vm, unsigned pin, uint64_t addr, uint32_t data);
void kvm_irq_msi(struct vm *vm, uint64_t addr, uint32_t data);
void kvm_irq_reset(struct vm *vm);
int kvm_doorbell(struct vm *vm, uint64_t gpa, int fd, bool on);

/* vcpu.c */
void kvm_vcpu_run(struct vcpu *v, struct vcpu_exit *exit);
/* Let KVM finish the instruction it is in, so that the state is at a boundary. perform: make its outstanding accesses,
 * rather than drop them (reads give all ones). */
void kvm_vcpu_settle(struct kvm_vcpu *kv, bool perform);

/* state.c */
int kvm_state_pull(struct vcpu *v, uint32_t mask);
int kvm_state_push(struct vcpu *v, uint32_t mask);
/* What a machine reset clears besides the canonical state: KVM's paravirtual MSRs, local APIC, event queues. */
int kvm_state_reset(struct kvm_vcpu *kv);

#endif
