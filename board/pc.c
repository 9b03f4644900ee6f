/* The PC machine: every address and interrupt number is here, and the explicit list of devices. */
#include "board/pc.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "board/doorbell.h"
#include "core/clock.h"
#include "core/irq.h"
#include "dev/acpi_pm.h"
#include "dev/hpet.h"
#include "dev/hypercall.h"
#include "dev/i8042.h"
#include "dev/intc.h"
#include "dev/misc.h"
#include "dev/pc_testdev.h"
#include "dev/pci.h"
#include "dev/pit.h"
#include "dev/rtc.h"
#include "dev/serial.h"
#include "dev/virtio/virtio_blk.h"
#include "dev/virtio/virtio_console.h"
#include "x86/cpuid.h"

/* Guest-physical layout. RAM: 0 to 3 GiB, then from 4 GiB (core/vm.c). */
#define FIRMWARE_BASE 0xe0000ull /* ACPI tables; RAM, reserved in the memory map */
#define FIRMWARE_SIZE 0x10000ull /* above it, images may be loaded over the system ROM's place */
#define PCI_MEM32 0xc0000000ull
#define PCI_MEM32_SIZE 0x20000000ull
#define ECAM 0xe0000000ull
#define IOAPIC 0xfec00000ull
#define HPET 0xfed00000ull
#define LAPIC 0xfee00000ull
#define TESTDEV_MEM 0xff000000ull
#define PCI_MEM64_SIZE 0x1000000000ull /* 64 GiB, at a multiple of that behind RAM */
#define PHYS_BITS 40

/* Ports */
#define PORT_ACPI 0x600
#define PORT_PCI_IO 0xc000
#define PORT_PCI_IO_SIZE 0x3000
#define PORT_PVPANIC 0x505
#define PORT_FW_CFG 0x510
#define PORT_ELCR 0x4d0

/* ISA interrupt of hypercall events */
#define IRQ_EVENTS 5

/* Global system interrupts */
#define GSI_PIT 2
#define GSI_SCI 9
#define GSI_INTX 16 /* four of them */

#define MAX_OWNED 40

struct pc {
    struct vm *vm;
    struct dev_env env;
    struct boot_spec boot;
    struct boot_region reserved[2];
    struct boot_entry entry;
    struct hpet *hpet;
    struct pci_bus *pci;
    struct dev *acpi_pm, *ferr, *serial, *virtio_console;
    struct dev *owned[MAX_OWNED]; /* in creation order */
    unsigned nowned;
    uint64_t *counters; /* two per owned device, in the same order, then for intc and PCI functions */
    unsigned ncounters;
    struct chardev_sink virtio_sink;
    struct acpi_config acpi;
    struct pc_config cfg;
    const char *error;
    uint64_t lapic_counters[2];
    struct gpa_map *fixed_mem, *fixed_pio; /* without PCI functions and local APICs */
    struct dev *pci_dev[PCI_MAX_RANGES];
    uint64_t *pci_counters[PCI_MAX_RANGES];
    unsigned npci;
    struct doorbells *bells; /* may be NULL */
    int (*wrmsr)(struct vcpu *v, uint32_t msr, uint64_t val); /* of the interrupt system */
};

#define MAX_COUNTERS 96

/* --- events from devices --- */

static void on_poweroff(void *ctx)
{
    vm_request_end(((struct pc *)ctx)->vm, VM_END_POWEROFF, 0);
}

static void on_reset(void *ctx)
{
    vm_request_reset(((struct pc *)ctx)->vm);
}

static void on_debug_exit(void *ctx, int status)
{
    vm_request_end(((struct pc *)ctx)->vm, VM_END_DEBUG_EXIT, status);
}

static void on_panic(void *ctx, uint32_t bits)
{
    struct pc *pc = ctx;
    vm_log(pc->vm, "guest reports %s", bits & PVPANIC_PANICKED ? "a panic" : "a crash kernel start");
    if (bits & PVPANIC_PANICKED)
        vm_request_end(pc->vm, VM_END_PANIC, 0);
}

static void env_log(void *ctx, const char *fmt, ...)
{
    struct pc *pc = ctx;
    char line[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    vm_log(pc->vm, "%s", line);
}

static void env_lock(void *ctx)
{
    host_lock(((struct pc *)ctx)->vm->device_lock);
}

static void env_unlock(void *ctx)
{
    host_unlock(((struct pc *)ctx)->vm->device_lock);
}

/* --- putting devices on the buses --- */

static uint64_t *new_counters(struct pc *pc)
{
    return pc->ncounters < MAX_COUNTERS ? &pc->counters[2 * pc->ncounters++] : NULL;
}

/* Take ownership; NULL (out of memory) is remembered as an error. */
static struct dev *own(struct pc *pc, struct dev *d)
{
    if (d && pc->nowned < MAX_OWNED)
        pc->owned[pc->nowned++] = d;
    else
        pc->error = "out of memory";
    return d;
}

static void add_range(struct pc *pc, struct gpa_map *m, uint64_t start, uint64_t size, struct dev *d, uint32_t bank, bool nolock)
{
    if (!d)
        return;
    struct gpa_range r = {.start = start, .size = size, .kind = GPA_IO, .nolock = nolock, .dev = d, .bank = bank,
                          .name = d->ops->name, .counters = new_counters(pc)};
    if (gpa_add(m, &r) != 0)
        pc->error = "out of memory";
}

static void add_port(struct pc *pc, uint16_t port, unsigned n, struct dev *d, uint32_t bank)
{
    add_range(pc, pc->vm->pio, port, n, d, bank, false);
}

static void add_mmio(struct pc *pc, uint64_t addr, uint64_t size, struct dev *d, uint32_t bank)
{
    add_range(pc, pc->vm->mem, addr, size, d, bank, false);
}

/* --- PCI ranges and local APIC pages come and go --- */

static void add_pci_ranges(struct pc *pc, struct gpa_map *mem, struct gpa_map *pio)
{
    struct pci_range r[PCI_MAX_RANGES];
    unsigned n = pci_bus_ranges(pc->pci, r);
    for (unsigned i = 0; i < n; i++) {
        struct gpa_range g = {.start = r[i].start, .size = r[i].size, .kind = GPA_IO, .dev = r[i].dev, .bank = r[i].bank,
                              .name = r[i].dev->ops->name};
        /* A function keeps its counters over moves. */
        unsigned k = 0;
        while (k < pc->npci && pc->pci_dev[k] != r[i].dev)
            k++;
        if (k == pc->npci && k < PCI_MAX_RANGES) {
            pc->pci_dev[pc->npci] = r[i].dev;
            pc->pci_counters[pc->npci] = new_counters(pc);
            /* Every function with BARs is a virtio one, and seen here first while the machine is built. */
            doorbells_add(pc->bells, r[i].dev, pc->pci_counters[pc->npci++]);
        }
        g.counters = k < pc->npci ? pc->pci_counters[k] : NULL;
        if (gpa_add(r[i].io ? pio : mem, &g) != 0)
            vm_log(pc->vm, "PCI BAR at %#llx cannot be mapped", (unsigned long long)r[i].start);
    }
    doorbells_move(pc->bells, r, n);
}

/* One page wherever some vCPU has its local APIC; it answers only to the vCPUs whose APIC is there. */
static void add_lapic_pages(struct pc *pc, struct gpa_map *mem)
{
    struct vm *vm = pc->vm;
    for (unsigned i = 0; i < vm->ncpu && vm->intc.local_page; i++) {
        uint64_t page = vm->intc.local_page(vm->cpu[i]);
        const struct gpa_range *r = page == UINT64_MAX ? NULL : gpa_find(mem, page);
        struct gpa_range g = {.start = page, .size = 0x1000, .kind = GPA_IO, .nolock = true, .percpu = true, .name = "lapic",
                              .counters = pc->lapic_counters};
        if (page != UINT64_MAX && !(r && r->percpu) && gpa_add(mem, &g) != 0)
            vm_log(vm, "cpu %u: the local APIC cannot be at %#llx", i, (unsigned long long)page);
    }
}

/* Always from the parts that never move, so that what a moving part covered comes back. Device lock held, or no vCPU runs. */
static void rebuild_maps(struct pc *pc, bool ports)
{
    struct gpa_map *mem = gpa_begin(pc->fixed_mem, pc->fixed_mem->limit), *pio = gpa_begin(pc->fixed_pio, pc->fixed_pio->limit);
    if (!mem || !pio) {
        gpa_free(mem);
        gpa_free(pio);
        vm_log(pc->vm, "out of memory for the guest-physical map");
        vm_request_end(pc->vm, VM_END_ERROR, 0);
        return;
    }
    add_pci_ranges(pc, mem, pio);
    add_lapic_pages(pc, mem);
    vm_set_map(pc->vm, mem);
    if (ports)
        vm_set_pio(pc->vm, pio);
    else
        gpa_free(pio);
}

static void on_map_changed(void *ctx)
{
    rebuild_maps(ctx, true);
}

static int on_wrmsr(struct vcpu *v, uint32_t msr, uint64_t val)
{
    struct vm *vm = v->vm;
    struct pc *pc = vm->board;
    if (msr != MSR_APIC_BASE)
        return pc->wrmsr(v, msr, val);
    uint64_t old = vm->intc.local_page(v);
    int res = pc->wrmsr(v, msr, val);
    uint64_t page = vm->intc.local_page(v);
    /* A page that answers nobody at the usual place does no harm. */
    if (res || page == old || (page == UINT64_MAX && old == LAPIC))
        return res;
    vcpu_leave_guest(v);
    host_lock(vm->device_lock);
    rebuild_maps(pc, false);
    host_unlock(vm->device_lock);
    vcpu_enter_guest(v);
    return 0;
}

static void on_ferr(struct vcpu *v)
{
    struct pc *pc = v->vm->board;
    host_lock(v->vm->device_lock);
    if (pc->ferr)
        ferr_assert(pc->ferr);
    host_unlock(v->vm->device_lock);
}

/* --- the machine, piece by piece --- */

static uint64_t pci_mem64(const struct vm *vm)
{
    const struct gpa_range *top = &vm->ram_map->r[vm->ram_map->n - 1];
    return (top->start + top->size + PCI_MEM64_SIZE - 1) & ~(PCI_MEM64_SIZE - 1);
}

/* The user chose its place, so it comes last and takes nobody's. */
static int make_debug_exit(struct pc *pc, char *err, size_t cap)
{
    unsigned port = pc->cfg.debug_exit_port;
    for (unsigned i = 0; port && i < 4; i++) {
        const struct gpa_range *r = gpa_find(pc->vm->pio, port + i);
        if (r) {
            snprintf(err, cap, "--isa-debug-exit: port %#x belongs to %s", port + i, r->name);
            return -1;
        }
    }
    if (port)
        add_port(pc, (uint16_t)port, 4, own(pc, isa_debug_exit_new(on_debug_exit, pc)), 0);
    return 0;
}

static void make_legacy(struct pc *pc)
{
    const struct dev_env *env = &pc->env;
    struct vm *vm = pc->vm;
    struct dev *d;
    struct irq_line irq0 = vm_isa_line(vm, 0), irq8 = vm_isa_line(vm, 8);
    if (pc->cfg.hpet) {
        struct hpet_wiring w = {.irq0 = irq0, .irq8 = irq8, .gsi = vm_pin_line(vm, 0), .route_cap = 0xf00000};
        pc->hpet = hpet_new(pc->vm->clock, &w);
        d = own(pc, pc->hpet ? hpet_dev(pc->hpet) : NULL);
        add_mmio(pc, HPET, 0x400, d, 0);
        if (!d)
            return;
        irq0 = hpet_input(pc->hpet, 0);
        irq8 = hpet_input(pc->hpet, 1);
    }
    struct pit *pit = pit_new(pc->vm->clock, irq0);
    d = own(pc, pit ? pit_dev(pit) : NULL);
    add_port(pc, 0x40, 4, d, PIT_BANK_REGS);
    add_port(pc, 0x61, 1, d, PIT_BANK_PORTB);
    pc->serial = own(pc, serial_new(env, vm_isa_line(pc->vm, 4), pc->cfg.serial));
    add_port(pc, 0x3f8, 8, pc->serial, 0);
    d = own(pc, rtc_new(env, irq8));
    add_port(pc, 0x70, 2, d, 0);
    if (d) {
        uint64_t low = pc->vm->ram_size < PCI_MEM32 ? pc->vm->ram_size : PCI_MEM32;
        rtc_set_memory(d, low, pc->vm->ram_size - low);
    }
    struct i8042_config kc = {.irq_kbd = vm_isa_line(pc->vm, 1), .irq_aux = vm_isa_line(pc->vm, 12), .reset = on_reset, .ctx = pc};
    d = own(pc, i8042_new(env, &kc));
    add_port(pc, 0x60, 1, d, 0);
    add_port(pc, 0x64, 1, d, 1);
    struct acpi_pm_config ac = {.sci = vm_isa_line(pc->vm, GSI_SCI), .poweroff = on_poweroff, .ctx = pc};
    pc->acpi_pm = own(pc, acpi_pm_new(env, &ac));
    add_port(pc, PORT_ACPI, ACPI_PM_SIZE, pc->acpi_pm, 0);
    add_port(pc, 0x92, 1, own(pc, port92_new(on_reset, pc)), 0);
    add_port(pc, 0x80, 1, own(pc, post_port_new()), 0);
    pc->ferr = own(pc, ferr_new(vm_isa_line(pc->vm, 13)));
    add_port(pc, 0xf0, 1, pc->ferr, 0);
    pc->vm->ferr = on_ferr;
    if (pc->cfg.debugcon.write)
        add_port(pc, 0xe9, 1, own(pc, debugcon_new(pc->cfg.debugcon)), 0);
    add_port(pc, PORT_PVPANIC, 1, own(pc, pvpanic_new(on_panic, pc)), 0);
    if (pc->cfg.fw_signature)
        add_port(pc, PORT_FW_CFG, 2, own(pc, fw_signature_new()), 0);
    if (pc->cfg.pc_testdev) {
        struct irq_line lines[PC_TESTDEV_NIRQ];
        for (unsigned i = 0; i < PC_TESTDEV_NIRQ; i++)
            lines[i] = i < 16 ? vm_isa_line(pc->vm, i) : vm_pin_line(pc->vm, i);
        d = own(pc, pc_testdev_new(lines));
        add_port(pc, 0xe0, 4, d, PC_TESTDEV_IO);
        add_port(pc, 0xe4, 4, d, PC_TESTDEV_FLUSH);
        add_port(pc, 0x2000, PC_TESTDEV_NIRQ, d, PC_TESTDEV_IRQ);
        add_mmio(pc, TESTDEV_MEM, PC_TESTDEV_MEM_SIZE, d, PC_TESTDEV_MEM);
    }
}

static void flush_pages(void *ctx, const uint64_t *lin, unsigned n)
{
    vm_flush_pages(((struct pc *)ctx)->vm, lin, n);
}

static struct hypercall_config hypercalls(struct pc *pc)
{
    /* Paging that hardware does is flushed by the guest's INVLPG alone, which costs nothing there. */
    const bool hardware = pc->vm->engine->caps & ENGINE_CAP_HARDWARE;
    return (struct hypercall_config){.console = pc->cfg.serial, .flush = hardware ? NULL : flush_pages, .poweroff = on_poweroff, .ctx = pc};
}

static void make_hypercalls(struct pc *pc)
{
    struct hypercall_config hc = hypercalls(pc);
    hc.irq = vm_isa_line(pc->vm, IRQ_EVENTS);
    add_port(pc, HC_PORT, HC_PORTS, own(pc, hypercall_new(&pc->env, &hc)), 0);
}

/* Interrupt controllers, as far as the engine does not bring them; their devices belong to vm->irq. */
static int make_irq(struct pc *pc)
{
    struct vm *vm = pc->vm;
    struct vm_irq_config ic = {.virtual_wire = true, .phys_bits = PHYS_BITS, .ioapic_id = (uint8_t)vm->ncpu};
    if (vm_irq_attach(vm, &ic) != 0)
        return -1;
    pc->env.msi = vm_msi(vm);
    if (vm->intc_kind == VM_INTC_ENGINE)
        return 0;
    struct dev *pic = intc_pic(vm->irq);
    add_port(pc, 0x20, 2, pic, PIC_BANK_MASTER);
    add_port(pc, 0xa0, 2, pic, PIC_BANK_SLAVE);
    add_port(pc, PORT_ELCR, 2, pic, PIC_BANK_ELCR);
    add_mmio(pc, IOAPIC, 0x1000, intc_ioapic(vm->irq), 0);
    if (vm->intc_kind == VM_INTC_SPLIT)
        return 0;
    pc->wrmsr = vm->intc.wrmsr;
    vm->intc.wrmsr = on_wrmsr;
    return 0;
}

static void make_pci(struct pc *pc)
{
    struct dev *cf9 = own(pc, reset_cf9_new(on_reset, pc));
    struct pci_bus_config bc = {
        .mem = {{PCI_MEM32, PCI_MEM32_SIZE}, {pci_mem64(pc->vm), PCI_MEM64_SIZE}},
        .io = {PORT_PCI_IO, PORT_PCI_IO_SIZE},
        .map_changed = on_map_changed,
        .map_ctx = pc,
        .cf9 = cf9,
    };
    for (unsigned i = 0; i < 4; i++) {
        bc.intx[i] = vm_pin_line(pc->vm, GSI_INTX + i);
        bc.intx_irq[i] = (uint8_t)(GSI_INTX + i);
    }
    pc->pci = pci_bus_new(&pc->env, &bc);
    if (!pc->pci) {
        pc->error = "out of memory";
        return;
    }
    struct dev *bus = own(pc, pci_bus_dev(pc->pci));
    add_port(pc, 0xcf8, 8, bus, PCI_BANK_PORTS);
    add_mmio(pc, ECAM, PCI_ECAM_SIZE, bus, PCI_BANK_ECAM);
    unsigned slot = 1;
    if (!virtio_rng_new(&pc->env, pc->pci, slot++, &pc->cfg.entropy))
        pc->error = "out of memory";
    if (pc->cfg.virtio_console.write) {
        pc->virtio_console = virtio_console_new(&pc->env, pc->pci, slot++, &pc->cfg.virtio_console, &pc->virtio_sink, 0, 0);
        if (!pc->virtio_console)
            pc->error = "out of memory";
    }
    for (unsigned i = 0; i < pc->cfg.ndisk; i++) {
        char serial[21] = "";
        snprintf(serial, sizeof(serial), "ringer-disk%u", i & 0xff);
        if (!virtio_blk_new(&pc->env, pc->pci, slot++, pc->cfg.disk[i], serial))
            pc->error = "out of memory";
    }
}

static void make_tables(struct pc *pc)
{
    pc->acpi = (struct acpi_config){
        .base = FIRMWARE_BASE,
        .ncpu = pc->vm->ncpu,
        .lapic_addr = LAPIC,
        .ioapic_addr = IOAPIC,
        .ioapic_id = (uint8_t)pc->vm->ncpu,
        .pm_evt = PORT_ACPI + ACPI_PM_EVT,
        .pm_cnt = PORT_ACPI + ACPI_PM_CNT,
        .pm_tmr = PORT_ACPI + ACPI_PM_TMR,
        .gpe0 = PORT_ACPI + ACPI_PM_GPE0,
        .gpe0_len = ACPI_PM_GPE0_LEN,
        .sci_gsi = GSI_SCI,
        .reset_port = 0xcf9,
        .reset_value = RESET_CF9_VALUE,
        .slp_typ_s5 = ACPI_PM_S5,
        .pci = true,
        .ecam_base = ECAM,
        .pci_bus_end = 0,
        .mmio32_base = PCI_MEM32,
        .mmio32_size = PCI_MEM32_SIZE,
        .mmio64_base = pci_mem64(pc->vm),
        .mmio64_size = PCI_MEM64_SIZE,
        .intx_gsi = {GSI_INTX, GSI_INTX + 1, GSI_INTX + 2, GSI_INTX + 3},
        .hpet_addr = pc->cfg.hpet ? HPET : 0,
        .serial = {{0x3f8, 4}},
        .rtc = true,
        .i8042 = true,
        .pvpanic_port = PORT_PVPANIC,
        .debugcon_port = pc->cfg.debugcon.write ? 0xe9 : 0,
    };
}

/* Firmware's work, at power-up and after every reset: tables, BARs, the image, the first CPU's registers. */
static int load_machine(struct pc *pc, char *err, size_t cap)
{
    struct vm *vm = pc->vm;
    if (vm->ram_size >= FIRMWARE_BASE + FIRMWARE_SIZE) {
        size_t n = acpi_build(&pc->acpi, vm->ram + FIRMWARE_BASE, FIRMWARE_SIZE, &pc->boot.rsdp);
        if (!n) {
            snprintf(err, cap, "the ACPI tables do not fit");
            return -1;
        }
        vm_ram_written(vm, NULL, FIRMWARE_BASE, n);
    }
    if (boot_load(vm, &pc->boot, &pc->entry, err, cap) != 0)
        return -1;
    boot_start(&pc->entry, &vm->cpu[0]->cpu);
    for (unsigned i = 1; i < vm->ncpu; i++)
        vm->cpu[i]->cpu.activity = X86_WAIT_SIPI;
    return 0;
}

static void reset_machine(struct vm *vm)
{
    struct pc *pc = vm->board;
    char err[256];
    vm_irq_reset(vm);
    for (unsigned i = 0; i < pc->nowned; i++)
        if (pc->owned[i]->ops->reset)
            pc->owned[i]->ops->reset(pc->owned[i]);
    pci_bus_assign(pc->pci);
    if (load_machine(pc, err, sizeof(err)) != 0) {
        vm_log(vm, "%s", err);
        vm_request_end(vm, VM_END_ERROR, 0);
    }
}

static int make_cpus(struct pc *pc, char *err, size_t cap)
{
    struct vm *vm = pc->vm;
    if (vm_engine_init(vm, err, cap) != 0)
        return -1;
    struct x86_cpuid_config cc = {.ncpu = vm->ncpu,
                                  .tsc_khz = vm->tsc_khz,
                                  .phys_bits = PHYS_BITS,
                                  .kvm_leaves = true,
                                  .kvm_features = KVMCLOCK_FEATURES,
                                  .has_x2apic = vm->intc_kind != VM_INTC_OURS || !vm->engine_msrs,
                                  .has_tsc_deadline = vm->intc_kind != VM_INTC_OURS || !vm->engine_msrs,
                                  .apic_hz = 1000000000};
    if (pc->cfg.hypercalls) {
        const struct hypercall_config hc = hypercalls(pc);
        cc.hc_features = hypercall_features(&hc);
        cc.hc_port = HC_PORT;
        cc.hc_irq = IRQ_EVENTS;
    }
    vm->cpuid = x86_cpuid_new(&cc);
    for (unsigned i = 0; vm->cpuid && i < vm->ncpu; i++) {
        vm->cpu[i] = vcpu_new(vm, i);
        if (!vm->cpu[i])
            break;
    }
    if (!vm->cpuid || !vm->cpu[vm->ncpu - 1]) {
        snprintf(err, cap, "out of memory");
        return -1;
    }
    return 0;
}

struct pc *pc_new(struct vm *vm, const struct pc_config *cfg, bool *usage, char *err, size_t cap)
{
    struct pc *pc = calloc(1, sizeof(*pc));
    *usage = false;
    if (!pc || !(pc->counters = calloc(MAX_COUNTERS, 2 * sizeof(uint64_t)))) {
        free(pc);
        snprintf(err, cap, "out of memory");
        return NULL;
    }
    pc->vm = vm;
    pc->cfg = *cfg;
    pc->boot = cfg->boot;
    vm->board = pc;
    vm->reset_machine = reset_machine;
    pc->env = (struct dev_env){.clock = vm->clock, .dma = vm_dma(vm), .defer = cfg->defer, .defer_ctx = cfg->defer_ctx,
                               .lock = env_lock, .unlock = env_unlock, .lock_ctx = pc, .log = env_log, .log_ctx = pc};
    if (make_cpus(pc, err, cap) != 0)
        goto fail;
    snprintf(err, cap, "out of memory");
    if (make_irq(pc) != 0)
        goto fail;
    make_legacy(pc);
    if (pc->cfg.hypercalls)
        make_hypercalls(pc);
    if (!pc->error)
        make_pci(pc);
    *usage = true;
    if (!pc->error && make_debug_exit(pc, err, cap) != 0)
        goto fail;
    *usage = false;
    if (pc->error) {
        snprintf(err, cap, "%s", pc->error);
        goto fail;
    }
    pc->fixed_mem = gpa_begin(vm->mem, vm->mem->limit);
    pc->fixed_pio = gpa_begin(vm->pio, vm->pio->limit);
    if (!pc->fixed_mem || !pc->fixed_pio)
        goto fail;
    if (!vm->trace || !vm->trace->io) /* a trace shows accesses, and these would be none */
        pc->bells = doorbells_new(vm, pc->cfg.loop);
    if (pci_bus_assign(pc->pci) != 0) {
        snprintf(err, cap, "the PCI devices do not fit their address windows");
        goto fail;
    }
    rebuild_maps(pc, true);
    make_tables(pc);
    pc->reserved[0] = (struct boot_region){FIRMWARE_BASE, FIRMWARE_SIZE, BOOT_MEM_RESERVED};
    pc->reserved[1] = (struct boot_region){ECAM, PCI_ECAM_SIZE, BOOT_MEM_RESERVED};
    pc->boot.reserved = pc->reserved;
    pc->boot.nreserved = 2;
    *usage = true;
    if (load_machine(pc, err, cap) != 0)
        goto fail;
    *usage = false;
    return pc;
fail:
    pc_free(pc);
    return NULL;
}

struct chardev_sink pc_serial_sink(struct pc *pc)
{
    return serial_sink(pc->serial);
}

struct chardev_sink pc_virtio_console_sink(struct pc *pc)
{
    return pc->virtio_sink;
}

void pc_power_button(struct pc *pc)
{
    host_lock(pc->vm->device_lock);
    acpi_pm_power_button(pc->acpi_pm);
    host_unlock(pc->vm->device_lock);
}

void pc_free(struct pc *pc)
{
    if (!pc)
        return;
    doorbells_free(pc->bells);
    while (pc->nowned) {
        struct dev *d = pc->owned[--pc->nowned];
        if (d->ops->fini)
            d->ops->fini(d);
    }
    if (pc->vm->irq)
        vm_irq_detach(pc->vm);
    gpa_free(pc->fixed_mem);
    gpa_free(pc->fixed_pio);
    free(pc->counters);
    free(pc);
}
