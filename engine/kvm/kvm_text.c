/* Names of KVM's exit reasons. */
#include "engine/kvm/kvm_text.h"

#include <linux/kvm.h>
#include <stdio.h>

static const char *const names[KVM_NREASONS] = {
    [KVM_EXIT_UNKNOWN] = "exit unknown",
    [KVM_EXIT_EXCEPTION] = "exit exception",
    [KVM_EXIT_IO] = "exit io",
    [KVM_EXIT_HYPERCALL] = "exit hypercall",
    [KVM_EXIT_DEBUG] = "exit debug",
    [KVM_EXIT_HLT] = "exit hlt",
    [KVM_EXIT_MMIO] = "exit mmio",
    [KVM_EXIT_IRQ_WINDOW_OPEN] = "exit irq-window",
    [KVM_EXIT_SHUTDOWN] = "exit shutdown",
    [KVM_EXIT_FAIL_ENTRY] = "exit fail-entry",
    [KVM_EXIT_INTR] = "exit intr",
    [KVM_EXIT_SET_TPR] = "exit set-tpr",
    [KVM_EXIT_TPR_ACCESS] = "exit tpr-access",
    [KVM_EXIT_NMI] = "exit nmi",
    [KVM_EXIT_INTERNAL_ERROR] = "exit internal-error",
    [KVM_EXIT_SYSTEM_EVENT] = "exit system-event",
    [KVM_EXIT_IOAPIC_EOI] = "exit ioapic-eoi",
    [KVM_EXIT_HYPERV] = "exit hyperv",
    [KVM_EXIT_X86_RDMSR] = "exit rdmsr",
    [KVM_EXIT_X86_WRMSR] = "exit wrmsr",
    [KVM_EXIT_X86_BUS_LOCK] = "exit bus-lock",
};

const char *kvm_reason_name(uint32_t reason)
{
    return reason < KVM_NREASONS ? names[reason] : NULL;
}

static const char *suberror(uint64_t n)
{
    switch (n) {
    case KVM_INTERNAL_ERROR_EMULATION: return "KVM could not emulate an instruction";
    case KVM_INTERNAL_ERROR_SIMUL_EX: return "KVM met exceptions at once while emulating";
    case KVM_INTERNAL_ERROR_DELIVERY_EV: return "an exit during event delivery that KVM does not handle";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: return "a hardware exit that KVM does not know";
    default: return "internal error of KVM";
    }
}

void kvm_exit_text(uint32_t reason, uint64_t detail, char *text, size_t cap)
{
    switch (reason) {
    case KVM_EXIT_SHUTDOWN: snprintf(text, cap, "triple fault"); break;
    case KVM_EXIT_HLT: snprintf(text, cap, "halt"); break;
    case KVM_EXIT_INTERNAL_ERROR:
        snprintf(text, cap, "%s (suberror %llu)", suberror(detail), (unsigned long long)detail);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        snprintf(text, cap, "the processor refused to enter the guest (hardware reason %#llx)",
                 (unsigned long long)detail);
        break;
    case KVM_EXIT_UNKNOWN:
        snprintf(text, cap, "a hardware exit that KVM does not know (%#llx)", (unsigned long long)detail);
        break;
    default: {
        const char *n = kvm_reason_name(reason);
        if (n)
            snprintf(text, cap, "unexpected %s", n);
        else
            snprintf(text, cap, "unexpected exit %u", reason);
        break;
    }
    }
}
