/* Moving state between KVM and struct x86_cpu. */
#include <errno.h>
#include <string.h>

#include "engine/kvm/convert.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/kvm_sys.h"
#include "x86/exec.h"

#define MSR_APIC_BASE 0x1b
#define APIC_BASE_POWER_UP 0xfee00800ull
#define APIC_BASE_BSP 0x100u
#define MSR_TSC 0x10
#define MSR_TSC_DEADLINE 0x6e0

static struct kvm_vm *vm_of(const struct kvm_vcpu *kv)
{
    return kv->v->vm->engine_priv;
}

static int call(struct kvm_vcpu *kv, unsigned long request, const void *arg, const char *name)
{
    long r = kvm_sys_ioctl(kv->fd, request, arg);
    if (r >= 0)
        return 0;
    vm_log(kv->v->vm, "engine kvm: cpu %u: %s: %s", kv->v->index, name, strerror((int)-r));
    return -1;
}
#define CALL(kv, req, arg) call(kv, req, arg, #req)

/* --- MSRs ------------------------------------------------------------------------- */

struct one_msr {
    uint32_t nmsrs, pad; /* struct kvm_msrs */
    struct kvm_msr_entry e;
};

static bool known_msr(const struct kvm_vm *k, uint32_t msr)
{
    for (unsigned i = 0; i < k->nmsrs; i++)
        if (k->msrs[i] == msr)
            return true;
    return msr >= 0x200 && msr <= 0x2ff; /* MTRRs are always there and not listed by all versions */
}

static bool get_msr(struct kvm_vcpu *kv, uint32_t msr, uint64_t *val)
{
    struct one_msr m = {.nmsrs = 1, .e.index = msr};
    if (kvm_sys_ioctl(kv->fd, KVM_GET_MSRS, &m) != 1)
        return false;
    *val = m.e.data;
    return true;
}

static bool set_msr(struct kvm_vcpu *kv, uint32_t msr, uint64_t val)
{
    struct one_msr m = {.nmsrs = 1, .e = {.index = msr, .data = val}};
    return kvm_sys_ioctl(kv->fd, KVM_SET_MSRS, &m) == 1;
}

static void pull_msrs(struct kvm_vcpu *kv)
{
    struct x86_cpu *c = &kv->v->cpu;
    struct kvm_msr_field f;
    uint64_t val;
    for (unsigned i = 0; kvm_msr_field(i, &f); i++)
        if (known_msr(vm_of(kv), f.msr) && get_msr(kv, f.msr, &val))
            memcpy((uint8_t *)c + f.offset, &val, sizeof(val));
    if (get_msr(kv, MSR_TSC, &val))
        c->tsc_offset = val - c->ops->tsc(c->env);
}

/* What the guest's CPUID does not have, KVM refuses: such MSRs hold nothing. The time-stamp counter is left alone: KVM
 * keeps the counters of the vCPUs together and runs them from the VM's start; writing one would part them. */
static void push_msrs(struct kvm_vcpu *kv)
{
    const struct x86_cpu *c = &kv->v->cpu;
    struct kvm_msr_field f;
    uint64_t val;
    for (unsigned i = 0; kvm_msr_field(i, &f); i++) {
        memcpy(&val, (const uint8_t *)c + f.offset, sizeof(val));
        if (known_msr(vm_of(kv), f.msr))
            set_msr(kv, f.msr, val);
    }
}

/* --- system registers --------------------------------------------------------------- */

static int get_sregs(struct kvm_vcpu *kv, struct kvm_sregs2 *s)
{
    if (vm_of(kv)->sregs2)
        return CALL(kv, KVM_GET_SREGS2, s);
    struct kvm_sregs old = {0};
    int r = CALL(kv, KVM_GET_SREGS, &old);
    kvm_sregs2_from_1(&old, s);
    return r;
}

static int set_sregs(struct kvm_vcpu *kv, const struct kvm_sregs2 *s)
{
    if (vm_of(kv)->sregs2)
        return CALL(kv, KVM_SET_SREGS2, s);
    struct kvm_sregs old;
    kvm_sregs2_to_1(s, &old);
    return CALL(kv, KVM_SET_SREGS, &old);
}

static int push_sregs(struct kvm_vcpu *kv)
{
    struct vcpu *v = kv->v;
    struct kvm_sregs2 now = {0}, s;
    if (get_sregs(kv, &now))
        return -1;
    uint64_t base = now.apic_base, cr8 = now.cr8;
    if (v->vm->intc_kind == VM_INTC_OURS) {
        v->vm->intc.rdmsr(v, MSR_APIC_BASE, &base);
        cr8 = v->vm->intc.cr8_read(v);
        kv->apic_base = base;
    }
    kvm_sregs_from(&v->cpu, base, cr8, &s);
    return set_sregs(kv, &s);
}

/* --- pull ------------------------------------------------------------------------------ */

static int pull(struct kvm_vcpu *kv, uint32_t mask)
{
    struct x86_cpu *c = &kv->v->cpu;
    int r = 0;
    if (mask & STATE_GPR) {
        struct kvm_regs g = {0};
        if (!(r |= CALL(kv, KVM_GET_REGS, &g)))
            kvm_regs_to(c, &g);
    }
    if (mask & STATE_SREG) {
        struct kvm_sregs2 s = {0};
        if (!(r |= get_sregs(kv, &s)))
            kvm_sregs_to(c, &s);
    }
    if (mask & STATE_FPU) {
        struct kvm_xcrs x = {0};
        _Static_assert(sizeof(struct kvm_xsave) == sizeof(c->fpu.raw), "one layout");
        r |= CALL(kv, KVM_GET_XSAVE, c->fpu.raw) | (vm_of(kv)->xcrs ? CALL(kv, KVM_GET_XCRS, &x) : 0);
        for (unsigned i = 0; i < x.nr_xcrs && i < KVM_MAX_XCRS; i++)
            if (x.xcrs[i].xcr == 0)
                c->xcr0 = x.xcrs[i].value;
    }
    if (mask & STATE_DEBUG) {
        struct kvm_debugregs d = {0};
        if (!(r |= CALL(kv, KVM_GET_DEBUGREGS, &d)))
            kvm_debugregs_to(c, &d);
    }
    if (mask & STATE_MSR)
        pull_msrs(kv);
    if (mask & STATE_EVENTS) {
        struct kvm_vcpu_events e = {0};
        struct kvm_mp_state mp = {0};
        if (!(r |= CALL(kv, KVM_GET_VCPU_EVENTS, &e)))
            kvm_events_to(c, &e);
        if (kv->v->vm->intc_kind != VM_INTC_OURS && !(r |= CALL(kv, KVM_GET_MP_STATE, &mp)))
            c->activity = mp.mp_state == KVM_MP_STATE_HALTED     ? X86_HALTED
                          : mp.mp_state == KVM_MP_STATE_RUNNABLE ? X86_RUNNING
                                                                 : X86_WAIT_SIPI;
    }
    if ((mask & STATE_APIC) && kv->v->vm->intc_kind != VM_INTC_OURS)
        r |= CALL(kv, KVM_GET_LAPIC, &kv->lapic);
    if (mask & (STATE_GPR | STATE_SREG)) {
        x86_recompute(c);
        x86_tlb_flush_all(c);
    }
    return r ? -1 : 0;
}

/* An event whose delivery an exit interrupted is in neither guest nor canonical state: deliver it the exact way. True
 * if there was one. */
static bool deliver_in_flight(struct kvm_vcpu *kv)
{
    struct kvm_vcpu_events e = {0};
    struct x86_cpu *c = &kv->v->cpu;
    if (CALL(kv, KVM_GET_VCPU_EVENTS, &e))
        return false;
    if (!e.exception.injected && !e.interrupt.injected && !e.nmi.injected)
        return false;
    if (pull(kv, STATE_ALL & ~(uint32_t)STATE_APIC))
        return false;
    int r;
    if (e.nmi.injected) {
        c->nmi_blocked = false;
        r = x86_nmi(c);
    } else if (e.interrupt.injected && !e.interrupt.soft) {
        r = x86_interrupt(c, e.interrupt.nr);
    } else {
        /* Software interrupts carry no length here; KVM delivers them again from RIP. */
        if (!e.exception.injected)
            return false;
        c->exc = (struct x86_exc){.vector = e.exception.nr,
                                  .has_error = e.exception.has_error_code,
                                  .error = e.exception.error_code,
                                  .cr2 = c->cr2};
        r = x86_deliver(c);
    }
    if (r != X86_OK)
        c->activity = X86_SHUTDOWN;
    kvm_state_push(kv->v, STATE_GPR | STATE_SREG | STATE_DEBUG | STATE_EVENTS);
    return true;
}

int kvm_state_pull(struct vcpu *v, uint32_t mask)
{
    struct kvm_vcpu *kv = kvcpu_of(v);
    kvm_vcpu_settle(kv, true);
    if (mask & STATE_EVENTS)
        deliver_in_flight(kv);
    return pull(kv, mask);
}

/* --- push ------------------------------------------------------------------------------- */

int kvm_state_push(struct vcpu *v, uint32_t mask)
{
    struct kvm_vcpu *kv = kvcpu_of(v);
    const struct x86_cpu *c = &v->cpu;
    int r = 0;
    if (mask & STATE_SREG)
        r |= push_sregs(kv);
    if (mask & STATE_GPR) {
        struct kvm_regs g = {0};
        kvm_regs_from(c, &g);
        r |= CALL(kv, KVM_SET_REGS, &g);
    }
    if (mask & STATE_FPU) {
        struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = c->xcr0}}};
        struct x86_fpu f = c->fpu;
        f.xstate_bv &= vm_of(kv)->xfeatures;
        r |= (vm_of(kv)->xcrs ? CALL(kv, KVM_SET_XCRS, &x) : 0) | CALL(kv, KVM_SET_XSAVE, f.raw);
    }
    if (mask & STATE_MSR)
        push_msrs(kv);
    if (v->vm->intc_kind != VM_INTC_OURS) {
        if (mask & STATE_APIC)
            r |= CALL(kv, KVM_SET_LAPIC, &kv->lapic);
        if (mask & STATE_EVENTS) {
            struct kvm_mp_state mp = {.mp_state = c->activity == X86_WAIT_SIPI ? KVM_MP_STATE_UNINITIALIZED
                                                  : c->activity == X86_HALTED  ? KVM_MP_STATE_HALTED
                                                                               : KVM_MP_STATE_RUNNABLE};
            r |= CALL(kv, KVM_SET_MP_STATE, &mp);
        }
    }
    if (mask & STATE_DEBUG) {
        struct kvm_debugregs d = {0};
        kvm_debugregs_from(c, &d);
        r |= CALL(kv, KVM_SET_DEBUGREGS, &d);
    }
    if (mask & STATE_EVENTS) {
        struct kvm_vcpu_events e = {0};
        kvm_events_from(c, &e);
        r |= CALL(kv, KVM_SET_VCPU_EVENTS, &e);
        kv->run->ready_for_interrupt_injection = 0; /* was true of the old state */
    }
    return r ? -1 : 0;
}

int kvm_state_reset(struct kvm_vcpu *kv)
{
    /* Pages that KVM writes for the guest: clocks (both pairs' second), asynchronous faults, steal time, EOI. */
    static const uint32_t paravirtual[] = {0x12, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04};
    struct vcpu *v = kv->v;
    kv->refused = -1;
    for (unsigned i = 0; i < sizeof(paravirtual) / sizeof(paravirtual[0]); i++)
        if (known_msr(vm_of(kv), paravirtual[i]))
            set_msr(kv, paravirtual[i], 0);
    if (known_msr(vm_of(kv), 0x4b564d05))
        set_msr(kv, 0x4b564d05, 1); /* host-side polling, on at power-up */
    if (v->vm->intc_kind == VM_INTC_OURS)
        return 0;
    struct kvm_sregs2 s = {0};
    if (get_sregs(kv, &s))
        return -1;
    s.apic_base = APIC_BASE_POWER_UP | (v->index == 0 ? APIC_BASE_BSP : 0);
    s.cr8 = 0;
    set_msr(kv, MSR_TSC_DEADLINE, 0);
    kvm_lapic_power_up(&kv->lapic, v->index, v->index == 0);
    return set_sregs(kv, &s);
}
