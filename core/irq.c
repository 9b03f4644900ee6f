/* The interrupt system seen from vCPUs, and vCPUs seen from it. */
#include "core/irq.h"

#include "core/clock.h"
#include "dev/intc.h"

/* --- interrupt system to vCPU ----------------------------------------------- */

static void cpu_intr(void *cpu)
{
    vcpu_request(cpu, VREQ_INTR);
}
static void cpu_nmi(void *cpu)
{
    vcpu_request(cpu, VREQ_NMI);
}
static void cpu_init(void *cpu)
{
    vcpu_request(cpu, VREQ_INIT);
}

static void cpu_sipi(void *cpu, uint8_t vector)
{
    struct vcpu *v = cpu;
    atomic_store(&v->sipi_vector, vector);
    vcpu_request(v, VREQ_SIPI);
}

static uint64_t cpu_tsc_offset(void *cpu)
{
    struct vcpu *v = cpu;
    return __atomic_load_n(&v->cpu.tsc_offset, __ATOMIC_RELAXED);
}

/* The holder of the device lock may wait for every vCPU to reach a safe point: be at one while waiting for the lock. */
static void cpu_lock(void *cpu)
{
    struct vcpu *v = cpu;
    v->lock_from_guest = atomic_load_explicit(&v->in_guest, memory_order_relaxed);
    if (v->lock_from_guest)
        vcpu_leave_guest(v);
    host_lock(v->vm->device_lock);
}

static void cpu_unlock(void *cpu)
{
    struct vcpu *v = cpu;
    host_unlock(v->vm->device_lock);
    if (v->lock_from_guest)
        vcpu_enter_guest(v);
}

static const struct intc_cpu_ops cpu_ops = {
    .intr = cpu_intr,
    .nmi = cpu_nmi,
    .init = cpu_init,
    .sipi = cpu_sipi,
    .tsc_offset = cpu_tsc_offset,
    .lock = cpu_lock,
    .unlock = cpu_unlock,
};

/* --- vCPU to interrupt system ------------------------------------------------- */

static bool irq_pending(struct vcpu *v)
{
    return lapic_pending(lapic_of(v->lapic));
}
static int irq_ack(struct vcpu *v)
{
    return lapic_ack(lapic_of(v->lapic));
}
static uint64_t irq_cr8_read(struct vcpu *v)
{
    return lapic_cr8_read(lapic_of(v->lapic));
}
static void irq_cr8_write(struct vcpu *v, uint64_t val)
{
    lapic_cr8_write(lapic_of(v->lapic), val);
}
static uint64_t irq_local_page(struct vcpu *v)
{
    return lapic_page(lapic_of(v->lapic));
}
static void irq_reset(struct vcpu *v, bool init)
{
    intc_cpu_reset(v->vm->irq, v->index, init);
}

static int irq_rdmsr(struct vcpu *v, uint32_t msr, uint64_t *val)
{
    return intc_rdmsr(v->vm->irq, v->index, msr, val);
}
static int irq_wrmsr(struct vcpu *v, uint32_t msr, uint64_t val)
{
    return intc_wrmsr(v->vm->irq, v->index, msr, val);
}
static void irq_tsc_changed(struct vcpu *v)
{
    intc_tsc_changed(v->vm->irq, v->index);
}

int vm_irq_attach(struct vm *vm, const struct vm_irq_config *cfg)
{
    void *cpu[VM_MAX_CPUS];
    for (unsigned i = 0; i < vm->ncpu; i++)
        cpu[i] = vm->cpu[i];
    struct dma dma = vm_dma(vm);
    vm->irq = intc_new(&(struct intc_config){
        .ncpu = vm->ncpu,
        .cpu = cpu,
        .ops = &cpu_ops,
        .clock = vm->clock,
        .tsc = *vm->tsc,
        .dma = cfg->kvmclock ? &dma : NULL,
        .x2apic = cfg->x2apic,
        .tsc_deadline = cfg->tsc_deadline,
        .virtual_wire = cfg->virtual_wire,
        .phys_bits = cfg->phys_bits,
        .ioapic_id = cfg->ioapic_id,
    });
    if (!vm->irq)
        return -1;
    for (unsigned i = 0; i < vm->ncpu; i++)
        vm->cpu[i]->lapic = lapic_dev(intc_lapic(vm->irq, i));
    vm->intc.pending = irq_pending;
    vm->intc.ack = irq_ack;
    vm->intc.rdmsr = irq_rdmsr;
    vm->intc.wrmsr = irq_wrmsr;
    vm->intc.cr8_read = irq_cr8_read;
    vm->intc.cr8_write = irq_cr8_write;
    vm->intc.reset = irq_reset;
    vm->intc.local_page = irq_local_page;
    vm->intc.tsc_changed = irq_tsc_changed;
    return 0;
}

void vm_irq_detach(struct vm *vm)
{
    intc_free(vm->irq);
    vm->irq = NULL;
    for (unsigned i = 0; i < vm->ncpu; i++)
        if (vm->cpu[i])
            vm->cpu[i]->lapic = NULL;
}
