/*
 * The interrupt system of one PC: local APICs, I/O APIC and 8259A pair, the APIC
 * bus between them, MSIs, and how ISA interrupts and the virtual wire are wired.
 *
 * ISA IRQ n reaches the 8259A's input n and I/O APIC pin n, IRQ 0 pin 2 (as the
 * MADT's override says). The 8259A's INTR goes to LINT0 of CPU 0 and I/O APIC pin 0.
 */
#ifndef DEV_INTC_H
#define DEV_INTC_H

#include "dev/ioapic.h"
#include "dev/kvmclock.h"
#include "dev/lapic.h"
#include "dev/pic.h"

#define INTC_MAX_CPUS 64

/* Towards one CPU. intr, nmi, init, sipi: from any thread, with or without the device lock. */
struct intc_cpu_ops {
    void (*intr)(void *cpu);
    void (*nmi)(void *cpu);
    void (*init)(void *cpu);
    void (*sipi)(void *cpu, uint8_t vector);
    uint64_t (*tsc_offset)(void *cpu); /* IA32_TSC minus the VM's counter; may be NULL (0) */
    /* Take and release the device lock on this CPU's own thread (EOI broadcast, 8259A acknowledge). */
    void (*lock)(void *cpu);
    void (*unlock)(void *cpu);
};

/* Local APICs that are somebody else's. Both under the device lock. */
struct intc_bus {
    void *ctx;
    /* A message of the I/O APIC. Whoever ends a level-triggered one calls intc_eoi. */
    void (*send)(void *ctx, const struct lapic_msg *m);
    void (*extint)(void *ctx, bool level); /* the 8259A's INTR; see intc_extint_ack */
};

struct intc_config {
    unsigned ncpu; /* 1 to INTC_MAX_CPUS; local APIC IDs are 0 to ncpu - 1, CPU 0 boots */
    void **cpu;    /* ncpu contexts for ops; copied */
    const struct intc_cpu_ops *ops;
    const struct intc_bus *bus; /* copied; if given there are no local APICs here, and ncpu, cpu and ops are not used */
    struct clock *clock;
    struct tsc_scale tsc;
    const struct dma *dma; /* for the paravirtual clock; NULL: none offered */
    bool x2apic, tsc_deadline;
    bool virtual_wire; /* CPU 0 starts as firmware leaves it: APIC enabled, LINT0 ExtINT, LINT1 NMI */
    unsigned phys_bits;
    uint8_t ioapic_id;
};

struct intc;
struct intc *intc_new(const struct intc_config *cfg);
/* Frees the controllers too. The clock must have been stopped or be unthreaded. */
void intc_free(struct intc *ic);
/* All controllers to power-up state. Under the device lock, with all CPUs stopped. */
void intc_reset(struct intc *ic);

/* With an intc_bus: EOI of a level-triggered message, under the device lock; the 8259A asks for an interrupt (any thread);
 * take its vector, or -1 if it no longer asks (device lock). */
void intc_eoi(struct intc *ic, uint8_t vector);
bool intc_extint(const struct intc *ic);
int intc_extint_ack(struct intc *ic);

struct lapic *intc_lapic(struct intc *ic, unsigned cpu);
struct dev *intc_ioapic(struct intc *ic);
struct dev *intc_pic(struct intc *ic);

/* Lines for devices; to be set under the device lock. */
struct irq_line intc_isa_line(struct intc *ic, unsigned irq);
struct irq_line intc_gsi_line(struct intc *ic, unsigned pin); /* I/O APIC pin alone */
struct irq_line intc_nmi_line(struct intc *ic);               /* LINT1 of all CPUs */
/* Any thread, no lock needed. */
struct msi_sink intc_msi(struct intc *ic);
/* Put a message on the APIC bus. Returns whether a local APIC accepted it. Any thread. */
bool intc_send(struct intc *ic, const struct lapic_msg *m);

/* On the CPU's own thread, without the device lock. 0, or -1 for #GP(0). */
int intc_rdmsr(struct intc *ic, unsigned cpu, uint32_t msr, uint64_t *val);
int intc_wrmsr(struct intc *ic, unsigned cpu, uint32_t msr, uint64_t val);
/* The guest changed IA32_TSC: deadlines and the paravirtual clock follow. */
void intc_tsc_changed(struct intc *ic, unsigned cpu);
/* One CPU's INIT or power-up. */
void intc_cpu_reset(struct intc *ic, unsigned cpu, bool init);

#endif
