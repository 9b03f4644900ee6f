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
    struct vcpu *v = cpu;
    atomic_fetch_and(&v->requests, ~(uint32_t)VREQ_SIPI); /* one from before the INIT is lost with it */
    vcpu_request(v, VREQ_INIT);
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

/* --- local APICs of the engine's, the rest ours ---------------------------------- */

/* The I/O APIC's message in an MSI's form (SDM Vol. 3A, 10.11). */
static void split_send(void *ctx, const struct lapic_msg *m)
{
    struct vm *vm = ctx;
    uint64_t addr = 0xfee00000u | (m->dest & 0xff) << 12 | (uint32_t)m->logical << 2;
    uint32_t data = m->vector | (uint32_t)m->mode << 8 | (m->level ? 3u << 14 : 0);
    vm->engine->irq_message(vm, m->pin, addr, data);
}

static void split_extint(void *ctx, bool level)
{
    struct vm *vm = ctx;
    if (level)
        vcpu_request(vm->cpu[0], VREQ_INTR);
}

static bool split_pending(struct vcpu *v)
{
    return v->index == 0 && intc_extint(v->vm->irq);
}

static int split_ack(struct vcpu *v)
{
    cpu_lock(v);
    int vec = intc_extint_ack(v->vm->irq);
    cpu_unlock(v);
    return vec;
}

static void split_eoi(struct vcpu *v, uint8_t vector)
{
    cpu_lock(v);
    intc_eoi(v->vm->irq, vector);
    cpu_unlock(v);
}

static int attach_split(struct vm *vm, const struct vm_irq_config *cfg)
{
    struct intc_bus bus = {vm, split_send, split_extint};
    vm->irq = intc_new(&(struct intc_config){.bus = &bus, .clock = vm->clock, .tsc = *vm->tsc, .ioapic_id = cfg->ioapic_id});
    if (!vm->irq)
        return -1;
    vm->intc.pending = split_pending;
    vm->intc.ack = split_ack;
    vm->intc.eoi = split_eoi;
    return 0;
}

/* --- lines --------------------------------------------------------------------- */

static void engine_isa(void *ctx, unsigned pin, bool level)
{
    struct vm *vm = ctx;
    vm->engine->irq_isa(vm, pin, level);
}
static void engine_pin(void *ctx, unsigned pin, bool level)
{
    struct vm *vm = ctx;
    vm->engine->irq_pin(vm, pin, level);
}
static void engine_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct vm *vm = ctx;
    vm->engine->msi(vm, addr, data);
}

struct irq_line vm_isa_line(struct vm *vm, unsigned irq)
{
    if (vm->intc_kind != VM_INTC_ENGINE)
        return intc_isa_line(vm->irq, irq);
    return irq > 15 || irq == 2 ? (struct irq_line){0} : (struct irq_line){engine_isa, vm, irq};
}

struct irq_line vm_pin_line(struct vm *vm, unsigned pin)
{
    return vm->intc_kind != VM_INTC_ENGINE ? intc_gsi_line(vm->irq, pin) : (struct irq_line){engine_pin, vm, pin};
}

struct msi_sink vm_msi(struct vm *vm)
{
    return vm->intc_kind == VM_INTC_OURS ? intc_msi(vm->irq) : (struct msi_sink){engine_msi, vm};
}

/* --- life ------------------------------------------------------------------------ */

void vm_irq_reset(struct vm *vm)
{
    if (vm->irq)
        intc_reset(vm->irq);
    if (vm->intc_kind != VM_INTC_OURS && vm->engine->intc_reset)
        vm->engine->intc_reset(vm);
}

int vm_irq_attach(struct vm *vm, const struct vm_irq_config *cfg)
{
    if (vm->intc_kind == VM_INTC_ENGINE)
        return 0;
    if (vm->intc_kind == VM_INTC_SPLIT)
        return attach_split(vm, cfg);
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
        .dma = vm->engine_msrs ? NULL : &dma,
        .x2apic = !vm->engine_msrs,
        .tsc_deadline = !vm->engine_msrs,
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
