/* Interrupt controllers and doorbells in KVM. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "engine/kvm/kvm_sys.h"

/*
 * Our numbers for KVM's routing (VM_INTC_ENGINE): 0 to 15 are ISA interrupts, wired
 * to the 8259A and to the I/O APIC, IRQ 0 to pin 2 (dev/intc.h); pins 16 to 23 keep
 * their numbers; PIN_GSI + n is pin n alone for n < 16.
 */
#define PIN_GSI KVM_IOAPIC_PINS

/* struct kvm_irq_routing with its entries. */
struct routing {
    uint32_t nr, flags;
    struct kvm_irq_routing_entry entry[80];
};
_Static_assert(offsetof(struct routing, entry) == sizeof(struct kvm_irq_routing), "layout of the ioctl's argument");

static void add_chip(struct routing *r, uint32_t gsi, uint32_t chip, uint32_t pin)
{
    r->entry[r->nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = chip, .pin = pin}};
}

static int set_pc_routing(struct kvm_vm *k)
{
    struct routing r = {0};
    for (uint32_t i = 0; i < 16; i++) {
        if (i == 2)
            continue;
        add_chip(&r, i, i < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, i & 7);
        add_chip(&r, i, KVM_IRQCHIP_IOAPIC, i ? i : 2);
    }
    for (uint32_t i = 0; i < KVM_IOAPIC_PINS; i++)
        add_chip(&r, i < 16 ? PIN_GSI + i : i, KVM_IRQCHIP_IOAPIC, i);
    return (int)kvm_sys_ioctl(k->fd, KVM_SET_GSI_ROUTING, &r);
}

static bool has(struct kvm_vm *k, int cap)
{
    return kvm_sys_ioctl_val(k->kvm, KVM_CHECK_EXTENSION, (unsigned long)cap) > 0;
}

static int split(struct kvm_vm *k)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {KVM_IOAPIC_PINS}};
    int err = (int)kvm_sys_ioctl(k->fd, KVM_ENABLE_CAP, &cap);
    if (!err)
        k->vm->intc_kind = VM_INTC_SPLIT;
    return err;
}

/* Set the IO APIC's number and take back what its last guest set. */
static int ioapic_power_up(struct kvm_vm *k)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    struct kvm_ioapic_state *io = &chip.chip.ioapic;
    io->base_address = 0xfec00000;
    io->id = k->ncpu & 15; /* as firmware tables say */
    for (unsigned i = 0; i < KVM_IOAPIC_PINS; i++)
        io->redirtbl[i].fields.mask = 1;
    return (int)kvm_sys_ioctl(k->fd, KVM_SET_IRQCHIP, &chip);
}

static int kernel(struct kvm_vm *k)
{
    int err = (int)kvm_sys_ioctl_val(k->fd, KVM_CREATE_IRQCHIP, 0);
    if (!err)
        err = set_pc_routing(k);
    if (!err)
        err = ioapic_power_up(k);
    if (!err)
        k->vm->intc_kind = VM_INTC_ENGINE;
    return err;
}

int kvm_irq_init(struct kvm_vm *k, enum engine_irqchip want)
{
    struct vm *vm = k->vm;
    int err = 0;
    bool in_kernel = has(k, KVM_CAP_IRQCHIP) && has(k, KVM_CAP_IRQ_ROUTING) && has(k, KVM_CAP_SIGNAL_MSI);
    vm->intc_kind = VM_INTC_OURS;
    vm->engine_msrs = true;
    if (want == IRQCHIP_USER || (want == IRQCHIP_DEFAULT && !in_kernel))
        return 0;
    if (!in_kernel || (want == IRQCHIP_SPLIT && !has(k, KVM_CAP_SPLIT_IRQCHIP))) {
        vm_log(vm, "engine kvm: this KVM has no interrupt controllers for --irqchip %s",
               want == IRQCHIP_SPLIT ? "split" : "kernel");
        return -1;
    }
    err = want == IRQCHIP_SPLIT ? split(k) : kernel(k);
    if (err)
        vm_log(vm, "engine kvm: interrupt controllers: %s", strerror(-err));
    return err ? -1 : 0;
}

static void set_level(struct vm *vm, uint32_t gsi, bool level)
{
    struct kvm_irq_level l = {.irq = gsi, .level = level};
    kvm_sys_ioctl(kvm_of(vm)->fd, KVM_IRQ_LINE, &l);
}

void kvm_irq_isa(struct vm *vm, unsigned irq, bool level)
{
    set_level(vm, irq, level);
}

void kvm_irq_pin(struct vm *vm, unsigned pin, bool level)
{
    if (pin < KVM_IOAPIC_PINS)
        set_level(vm, pin < 16 ? PIN_GSI + pin : pin, level);
}

void kvm_irq_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    struct kvm_vm *k = kvm_of(vm);
    struct kvm_msi msi = {.address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};
    atomic_fetch_add_explicit(&k->messages, 1, memory_order_relaxed);
    if (addr >> 20 == 0xfee)
        kvm_sys_ioctl(k->fd, KVM_SIGNAL_MSI, &msi);
}

/*
 * Local APICs in KVM tell of an EOI only for vectors that the routing of the first 24 numbers says
 * are level-triggered, so the pin's message is entered there before it is sent for the first time.
 */
void kvm_irq_message(struct vm *vm, unsigned pin, uint64_t addr, uint32_t data)
{
    struct kvm_vm *k = kvm_of(vm);
    if (pin < KVM_IOAPIC_PINS && (data & 1u << 15)) {
        struct kvm_irq_routing_entry e = {
            .gsi = pin, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = (uint32_t)addr, .data = data}};
        host_lock(k->route_lock);
        if (!k->routed[pin] || memcmp(&k->route[pin], &e, sizeof(e))) {
            struct routing r = {0};
            k->route[pin] = e;
            k->routed[pin] = true;
            for (unsigned i = 0; i < KVM_IOAPIC_PINS; i++)
                if (k->routed[i])
                    r.entry[r.nr++] = k->route[i];
            kvm_sys_ioctl(k->fd, KVM_SET_GSI_ROUTING, &r);
        }
        host_unlock(k->route_lock);
    }
    kvm_irq_msi(vm, addr, data);
}

void kvm_irq_reset(struct vm *vm)
{
    struct kvm_vm *k = kvm_of(vm);
    if (vm->intc_kind != VM_INTC_ENGINE)
        return;
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};
    chip.chip.pic.elcr_mask = 0xf8;
    kvm_sys_ioctl(k->fd, KVM_SET_IRQCHIP, &chip);
    chip = (struct kvm_irqchip){.chip_id = KVM_IRQCHIP_PIC_SLAVE};
    chip.chip.pic.elcr_mask = 0xde;
    kvm_sys_ioctl(k->fd, KVM_SET_IRQCHIP, &chip);
    ioapic_power_up(k);
}

/* --- doorbells -------------------------------------------------------------------------- */

int kvm_doorbell(struct vm *vm, uint64_t gpa, int fd, bool on)
{
    struct kvm_vm *k = kvm_of(vm);
    struct kvm_ioeventfd e = {.addr = gpa, .len = 0, .fd = fd, .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};
    if (!has(k, KVM_CAP_IOEVENTFD_ANY_LENGTH))
        return -1;
    if (kvm_sys_ioctl(k->fd, KVM_IOEVENTFD, &e) < 0)
        return -1;
    atomic_fetch_add_explicit(&k->doorbells, on ? 1 : -1, memory_order_relaxed);
    return 0;
}
