/* The PC's interrupt system: bus, wiring, MSIs. */
#include "dev/intc.h"

#include <stdatomic.h>
#include <stdlib.h>

struct intc_cpu {
    struct intc *ic;
    void *cpu;
    struct lapic *lapic;
};

struct intc {
    struct intc_cpu_ops ops;
    struct ioapic *ioapic;
    struct pic *pic;
    struct kvmclock *kvmclock;
    struct intc_bus bus; /* send == NULL: local APICs are ours */
    _Atomic bool extint;
    _Atomic unsigned turn; /* lowest priority: equals take turns */
    unsigned ncpu;
    struct intc_cpu cpu[];
};

struct lapic *intc_lapic(struct intc *ic, unsigned cpu)
{
    return ic->cpu[cpu].lapic;
}
struct dev *intc_ioapic(struct intc *ic)
{
    return ioapic_dev(ic->ioapic);
}
struct dev *intc_pic(struct intc *ic)
{
    return pic_dev(ic->pic);
}

/* --- the APIC bus ---------------------------------------------------------------- */

/* Lowest-priority arbitration (10.6.2.4): the accepting CPU of least processor priority. */
static bool send_lowest(struct intc *ic, const struct lapic_msg *m, const struct lapic *skip)
{
    struct lapic *best = NULL;
    unsigned first = ic->ncpu > 1 ? atomic_fetch_add_explicit(&ic->turn, 1, memory_order_relaxed) % ic->ncpu : 0;
    for (unsigned i = 0; i < ic->ncpu; i++) {
        struct lapic *l = ic->cpu[(first + i) % ic->ncpu].lapic;
        if (l != skip && lapic_enabled(l) && lapic_match(l, m) && (!best || lapic_ppr(l) >> 4 < lapic_ppr(best) >> 4))
            best = l;
    }
    return best && lapic_accept(best, m);
}

static bool send_matching(struct intc *ic, const struct lapic_msg *m, const struct lapic *skip)
{
    bool taken = false;
    if (m->mode == LAPIC_LOWEST)
        return send_lowest(ic, m, skip);
    for (unsigned i = 0; i < ic->ncpu; i++) {
        struct lapic *l = ic->cpu[i].lapic;
        if (l != skip && lapic_match(l, m))
            taken |= lapic_accept(l, m);
    }
    return taken;
}

bool intc_send(struct intc *ic, const struct lapic_msg *m)
{
    return send_matching(ic, m, NULL);
}

static bool ioapic_send(void *ctx, const struct lapic_msg *m)
{
    struct intc *ic = ctx;
    if (ic->bus.send) {
        ic->bus.send(ic->bus.ctx, m);
        return true;
    }
    return send_matching(ctx, m, NULL);
}

/* SDM Vol. 3A, 10.11. */
static void msi_send(void *ctx, uint64_t addr, uint32_t data)
{
    struct lapic_msg m = {
        .dest = addr >> 12 & 0xff,
        .logical = addr >> 2 & 1,
        .vector = (uint8_t)data,
        .mode = data >> 8 & 7,
        .level = data >> 15 & 1,
    };
    if (addr >> 20 != 0xfee)
        return; /* not an interrupt message, and devices do not write memory this way */
    if (m.level && !(data >> 14 & 1))
        return; /* de-assert of a level: nothing to take back here */
    if (m.mode == LAPIC_SIPI || m.mode == LAPIC_REMOTE_READ)
        return; /* reserved in messages */
    if (m.mode == LAPIC_FIXED && (addr >> 3 & 1))
        m.mode = LAPIC_LOWEST; /* redirection hint */
    send_matching(ctx, &m, NULL);
}

struct msi_sink intc_msi(struct intc *ic)
{
    return (struct msi_sink){msi_send, ic};
}

/* --- local APIC's surroundings ------------------------------------------------------ */

static void env_intr(void *ctx)
{
    struct intc_cpu *c = ctx;
    c->ic->ops.intr(c->cpu);
}
static void env_nmi(void *ctx)
{
    struct intc_cpu *c = ctx;
    c->ic->ops.nmi(c->cpu);
}
static void env_init(void *ctx)
{
    struct intc_cpu *c = ctx;
    c->ic->ops.init(c->cpu);
}
static void env_sipi(void *ctx, uint8_t vector)
{
    struct intc_cpu *c = ctx;
    c->ic->ops.sipi(c->cpu, vector);
}

static void env_ipi(void *ctx, struct lapic *self, const struct lapic_msg *m, unsigned shorthand)
{
    struct intc_cpu *c = ctx;
    struct lapic_msg all = *m;
    switch (shorthand) {
    case LAPIC_SH_NONE: send_matching(c->ic, m, NULL); break;
    case LAPIC_SH_SELF: lapic_accept(self, m); break;
    default:
        all.dest = UINT32_MAX;
        all.dest32 = true;
        all.logical = false;
        send_matching(c->ic, &all, shorthand == LAPIC_SH_OTHERS ? self : NULL);
    }
}

static void env_eoi(void *ctx, uint8_t vector)
{
    struct intc_cpu *c = ctx;
    c->ic->ops.lock(c->cpu);
    ioapic_eoi(c->ic->ioapic, vector);
    c->ic->ops.unlock(c->cpu);
}

static uint8_t env_pic_ack(void *ctx)
{
    struct intc_cpu *c = ctx;
    c->ic->ops.lock(c->cpu);
    uint8_t v = pic_ack(c->ic->pic);
    c->ic->ops.unlock(c->cpu);
    return v;
}

static uint64_t env_tsc_offset(void *ctx)
{
    struct intc_cpu *c = ctx;
    return c->ic->ops.tsc_offset ? c->ic->ops.tsc_offset(c->cpu) : 0;
}

/* --- local APICs elsewhere --- */

void intc_eoi(struct intc *ic, uint8_t vector)
{
    ioapic_eoi(ic->ioapic, vector);
}
bool intc_extint(const struct intc *ic)
{
    return atomic_load(&ic->extint);
}
int intc_extint_ack(struct intc *ic)
{
    return pic_intr(ic->pic) ? pic_ack(ic->pic) : -1;
}

/* --- wiring ---------------------------------------------------------------------------- */

static void isa_set(void *ctx, unsigned irq, bool level)
{
    struct intc *ic = ctx;
    pic_set(ic->pic, irq, level);
    ioapic_set(ic->ioapic, irq ? irq : 2, level);
}

struct irq_line intc_isa_line(struct intc *ic, unsigned irq)
{
    /* IRQ 2 is the cascade: no device is wired to it. */
    return irq > 15 || irq == 2 ? (struct irq_line){0} : (struct irq_line){isa_set, ic, irq};
}

struct irq_line intc_gsi_line(struct intc *ic, unsigned pin)
{
    return ioapic_line(ic->ioapic, pin);
}

static void pic_out(void *ctx, unsigned pin, bool level)
{
    struct intc *ic = ctx;
    if (ic->bus.send) {
        atomic_store(&ic->extint, level);
        ic->bus.extint(ic->bus.ctx, level);
    } else {
        lapic_set_lint(ic->cpu[0].lapic, 0, level);
    }
    ioapic_set(ic->ioapic, 0, level);
}

static void nmi_set(void *ctx, unsigned pin, bool level)
{
    struct intc *ic = ctx;
    for (unsigned i = 0; i < ic->ncpu; i++)
        lapic_set_lint(ic->cpu[i].lapic, 1, level);
}

struct irq_line intc_nmi_line(struct intc *ic)
{
    return (struct irq_line){nmi_set, ic, 0};
}

/* --- MSRs ---------------------------------------------------------------------------------- */

static bool kvm_msr(uint32_t msr)
{
    return msr == MSR_KVM_WALL_CLOCK || msr == MSR_KVM_SYSTEM_TIME || msr == MSR_KVM_WALL_CLOCK_NEW ||
           msr == MSR_KVM_SYSTEM_TIME_NEW;
}

int intc_rdmsr(struct intc *ic, unsigned cpu, uint32_t msr, uint64_t *val)
{
    if (kvm_msr(msr))
        return ic->kvmclock ? kvmclock_rdmsr(ic->kvmclock, cpu, msr, val) : -1;
    return lapic_rdmsr(ic->cpu[cpu].lapic, msr, val);
}

int intc_wrmsr(struct intc *ic, unsigned cpu, uint32_t msr, uint64_t val)
{
    if (kvm_msr(msr))
        return ic->kvmclock ? kvmclock_wrmsr(ic->kvmclock, cpu, msr, val, env_tsc_offset(&ic->cpu[cpu])) : -1;
    return lapic_wrmsr(ic->cpu[cpu].lapic, msr, val);
}

void intc_tsc_changed(struct intc *ic, unsigned cpu)
{
    lapic_tsc_changed(ic->cpu[cpu].lapic);
    if (ic->kvmclock)
        kvmclock_update(ic->kvmclock, cpu, env_tsc_offset(&ic->cpu[cpu]));
}

/* --- life ----------------------------------------------------------------------------------- */

void intc_cpu_reset(struct intc *ic, unsigned cpu, bool init)
{
    lapic_reset(ic->cpu[cpu].lapic, init);
    if (!init && ic->kvmclock)
        kvmclock_reset(ic->kvmclock, cpu);
}

void intc_reset(struct intc *ic)
{
    for (unsigned i = 0; i < ic->ncpu; i++)
        intc_cpu_reset(ic, i, false);
    ioapic_dev(ic->ioapic)->ops->reset(ioapic_dev(ic->ioapic));
    pic_dev(ic->pic)->ops->reset(pic_dev(ic->pic));
}

void intc_free(struct intc *ic)
{
    if (!ic)
        return;
    if (ic->pic)
        pic_dev(ic->pic)->ops->fini(pic_dev(ic->pic));
    if (ic->ioapic)
        ioapic_dev(ic->ioapic)->ops->fini(ioapic_dev(ic->ioapic));
    for (unsigned i = 0; i < ic->ncpu; i++)
        if (ic->cpu[i].lapic)
            lapic_dev(ic->cpu[i].lapic)->ops->fini(lapic_dev(ic->cpu[i].lapic));
    kvmclock_free(ic->kvmclock);
    free(ic);
}

struct intc *intc_new(const struct intc_config *cfg)
{
    unsigned ncpu = cfg->bus ? 0 : cfg->ncpu;
    if (!cfg->bus && (ncpu < 1 || ncpu > INTC_MAX_CPUS))
        return NULL;
    struct intc *ic = calloc(1, sizeof(*ic) + ncpu * sizeof(ic->cpu[0]));
    if (!ic)
        return NULL;
    if (cfg->bus)
        ic->bus = *cfg->bus;
    else
        ic->ops = *cfg->ops;
    ic->ncpu = ncpu;
    for (unsigned i = 0; i < ncpu; i++) {
        ic->cpu[i] = (struct intc_cpu){.ic = ic, .cpu = cfg->cpu[i]};
        struct lapic_env env = {
            .ctx = &ic->cpu[i],
            .intr = env_intr,
            .nmi = env_nmi,
            .init = env_init,
            .sipi = env_sipi,
            .ipi = env_ipi,
            .eoi = env_eoi,
            .pic_ack = env_pic_ack,
            .tsc_offset = env_tsc_offset,
            .clock = cfg->clock,
            .tsc = cfg->tsc,
        };
        struct lapic_config lc = {
            .id = i,
            .bsp = i == 0,
            .x2apic = cfg->x2apic,
            .tsc_deadline = cfg->tsc_deadline,
            .phys_bits = cfg->phys_bits,
            .virtual_wire = cfg->virtual_wire && i == 0,
        };
        ic->cpu[i].lapic = lapic_new(&lc, &env);
        if (!ic->cpu[i].lapic)
            goto fail;
    }
    ic->ioapic = ioapic_new(cfg->ioapic_id, ioapic_send, ic);
    if (!ic->ioapic)
        goto fail;
    ic->pic = pic_new((struct irq_line){pic_out, ic, 0});
    if (!ic->pic)
        goto fail;
    if (cfg->dma) {
        ic->kvmclock = kvmclock_new(cfg->ncpu, cfg->clock, &cfg->tsc, cfg->dma);
        if (!ic->kvmclock)
            goto fail;
    }
    return ic;
fail:
    intc_free(ic);
    return NULL;
}
