/*
 * Local APIC (SDM Vol. 3A, chapter 10): xAPIC registers by MMIO, x2APIC by MSR.
 *
 * Threads: register accesses, lapic_ack and lapic_reset come from the owning
 * vCPU's thread; everything else from any thread. Requests (IRR, TMR) and what
 * senders read (ID, LDR, DFR, SVR, PPR) are atomics, so that IPIs, EOI, TPR and
 * acknowledge take no lock; a short private lock covers LVT and timer. No
 * callback is made with that lock held.
 */
#ifndef DEV_LAPIC_H
#define DEV_LAPIC_H

#include "core/clock.h"
#include "ringer/dev.h"

struct lapic;

/* Delivery modes (SDM Vol. 3A, figure 10-12). */
enum { LAPIC_FIXED, LAPIC_LOWEST, LAPIC_SMI, LAPIC_REMOTE_READ, LAPIC_NMI, LAPIC_INIT, LAPIC_SIPI, LAPIC_EXTINT };

/* An interrupt message on its way to one or more local APICs. */
struct lapic_msg {
    uint32_t dest;
    uint8_t vector;
    uint8_t mode; /* LAPIC_FIXED.. */
    bool logical;
    bool level;  /* level-triggered: sets TMR, EOI goes back to the I/O APIC */
    uint8_t pin; /* of the I/O APIC that sent it; 0 for others */
    bool dest32; /* dest is a 32-bit x2APIC destination (IPI of an x2APIC-mode sender) */
};

enum { LAPIC_SH_NONE, LAPIC_SH_SELF, LAPIC_SH_ALL, LAPIC_SH_OTHERS };

/* What a local APIC needs from its surroundings. All may be called from any thread, with no lock of the APIC held. */
struct lapic_env {
    void *ctx;
    void (*intr)(void *ctx); /* a maskable interrupt has become deliverable */
    void (*nmi)(void *ctx);
    void (*init)(void *ctx);
    void (*sipi)(void *ctx, uint8_t vector);
    /* Send an IPI. shorthand: LAPIC_SH_*. */
    void (*ipi)(void *ctx, struct lapic *self, const struct lapic_msg *m, unsigned shorthand);
    /* EOI of a level-triggered vector, broadcast to the I/O APICs. */
    void (*eoi)(void *ctx, uint8_t vector);
    /* Take the 8259's vector for an ExtINT. */
    uint8_t (*pic_ack)(void *ctx);
    /* This CPU's IA32_TSC minus the VM's counter; may be NULL (0). */
    uint64_t (*tsc_offset)(void *ctx);
    struct clock *clock;
    struct tsc_scale tsc;
};

struct lapic_config {
    uint32_t id;
    bool bsp;
    bool x2apic;        /* x2APIC mode is offered */
    bool tsc_deadline;  /* TSC-deadline mode is offered */
    unsigned phys_bits; /* MAXPHYADDR */
    /* Power-up leaves the APIC as firmware hands it over: enabled, LINT0 ExtINT (virtual wire), LINT1 NMI. */
    bool virtual_wire;
};

/* Bank 0 is the 4 KiB register page. Created in power-up state. NULL when out of memory. */
struct lapic *lapic_new(const struct lapic_config *cfg, const struct lapic_env *env);
struct dev *lapic_dev(struct lapic *l);
struct lapic *lapic_of(struct dev *d);
/* init: INIT rather than power-up (keeps APIC_BASE and the x2APIC mode). */
void lapic_reset(struct lapic *l, bool init);

/* --- towards the CPU ---------------------------------------------------- */
bool lapic_pending(const struct lapic *l); /* any thread */
int lapic_ack(struct lapic *l);            /* vector, or -1 */
/* IA32_APIC_BASE, x2APIC range, IA32_TSC_DEADLINE. 0, or -1 for #GP(0). */
int lapic_rdmsr(struct lapic *l, uint32_t msr, uint64_t *val);
int lapic_wrmsr(struct lapic *l, uint32_t msr, uint64_t val);
uint64_t lapic_cr8_read(const struct lapic *l);
void lapic_cr8_write(struct lapic *l, uint64_t val);
uint64_t lapic_base(const struct lapic *l); /* IA32_APIC_BASE; any thread */
/* Guest-physical address of the register page, or UINT64_MAX when it is not mapped (disabled or x2APIC). */
uint64_t lapic_page(const struct lapic *l);
/* The guest wrote IA32_TSC or IA32_TSC_ADJUST: deadlines move. */
void lapic_tsc_changed(struct lapic *l);

/* --- towards the bus ------------------------------------------------------ */
bool lapic_match(const struct lapic *l, const struct lapic_msg *m);
bool lapic_enabled(const struct lapic *l); /* APIC_BASE.EN and SVR enable: takes fixed interrupts */
uint8_t lapic_ppr(const struct lapic *l);
uint32_t lapic_id(const struct lapic *l);
/* Take a message that matched; false if it was not accepted. LAPIC_LOWEST counts as fixed (the bus has arbitrated). */
bool lapic_accept(struct lapic *l, const struct lapic_msg *m);
/* LINT pin 0 or 1 changes level. */
void lapic_set_lint(struct lapic *l, unsigned pin, bool level);
/* Thermal sensor and performance counter interrupts. */
void lapic_local_event(struct lapic *l, bool thermal);

/* Input clock of the timer, before division: one count is one nanosecond of virtual time. For CPUID. */
#define LAPIC_TIMER_HZ 1000000000u

#define MSR_APIC_BASE 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_LAST 0x8ff
#define APIC_BASE_BSP (1u << 8)
#define APIC_BASE_EXTD (1u << 10)
#define APIC_BASE_EN (1u << 11)
#define APIC_DEFAULT_PAGE 0xfee00000ull

#endif
