/* Joins the interrupt system (dev/intc.h) to a VM and its vCPUs. */
#ifndef CORE_IRQ_H
#define CORE_IRQ_H

#include "ringer/vm.h"

struct intc;

struct vm_irq_config {
    bool virtual_wire; /* CPU 0's APIC as firmware leaves it; for guests started without firmware: yes */
    unsigned phys_bits;
    uint8_t ioapic_id;
};

/* Create the interrupt system of a VM whose engine is set up and whose vCPUs and clock exist, as far as the engine does not bring it:
 * sets vm->intc, vm->irq and every vcpu->lapic as vm->intc_kind asks for. 0, or -1 when out of memory. */
int vm_irq_attach(struct vm *vm, const struct vm_irq_config *cfg);
/* Undo; after clock_stop, before clock_free and vcpu_free. */
void vm_irq_detach(struct vm *vm);
/* 8259A and I/O APIC, and local APICs if they are ours, to power-up state; device lock held, vCPUs stopped. */
void vm_irq_reset(struct vm *vm);

/* Lines and messages for devices, whoever has the controllers behind them (dev/intc.h). */
struct irq_line vm_isa_line(struct vm *vm, unsigned irq);
struct irq_line vm_pin_line(struct vm *vm, unsigned pin);
struct msi_sink vm_msi(struct vm *vm);

#endif
