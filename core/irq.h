/* Joins the interrupt system (dev/intc.h) to a VM and its vCPUs. */
#ifndef CORE_IRQ_H
#define CORE_IRQ_H

#include "ringer/vm.h"

struct intc;

struct vm_irq_config {
    bool x2apic, tsc_deadline, kvmclock;
    bool virtual_wire; /* CPU 0's APIC as firmware leaves it; for guests started without firmware: yes */
    unsigned phys_bits;
    uint8_t ioapic_id;
};

/* Create the interrupt system of a VM whose vCPUs and clock exist; sets vm->intc, vm->irq and every vcpu->lapic.
 * Engines that bring their own (ENGINE_CAP_OWN_INTC) do not call it. 0, or -1 when out of memory. */
int vm_irq_attach(struct vm *vm, const struct vm_irq_config *cfg);
/* Undo; after clock_stop, before clock_free and vcpu_free. */
void vm_irq_detach(struct vm *vm);

#endif
