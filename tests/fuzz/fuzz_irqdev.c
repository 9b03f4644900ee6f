/*
 * libFuzzer: interrupt controllers and timers. The input is a program of port, MMIO and MSR accesses, line changes and
 * clock steps on a whole PC's worth of them with four CPUs. Besides memory safety: interrupts acknowledged are legal,
 * in-service state is consistent with PPR, level-triggered pins are not forgotten, time never stalls, locks balance.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "dev/hpet.h"
#include "dev/intc.h"
#include "dev/pit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x))                                                                                                      \
            __builtin_trap();                                                                                          \
    } while (0)

#define NCPU 4

struct cpu {
    struct box *b;
    unsigned i;
    bool announced;
    int depth;
    uint64_t tsc_offset;
};

struct box {
    uint64_t now;
    struct clock *clock;
    struct intc *ic;
    struct pit *pit;
    struct hpet *hpet;
    struct cpu cpu[NCPU];
    uint8_t ram[4096];
};

static uint64_t box_now(void *ctx)
{
    return ((struct box *)ctx)->now;
}
static void intr(void *c)
{
    ((struct cpu *)c)->announced = true;
}
static void nothing(void *c) {}
static void init(void *c)
{
    struct cpu *p = c;
    CHECK(p->i < NCPU);
}
static void sipi(void *c, uint8_t v) {}
static uint64_t tsc_offset(void *c)
{
    return ((struct cpu *)c)->tsc_offset;
}
static void lock(void *c)
{
    CHECK(((struct cpu *)c)->depth++ == 0);
}
static void unlock(void *c)
{
    CHECK(--((struct cpu *)c)->depth == 0);
}

static int dma_read(void *ctx, uint64_t gpa, void *buf, size_t len)
{
    struct box *b = ctx;
    if (gpa > sizeof(b->ram) || len > sizeof(b->ram) - gpa)
        return -1;
    memcpy(buf, b->ram + gpa, len);
    return 0;
}
static int dma_write(void *ctx, uint64_t gpa, const void *buf, size_t len)
{
    struct box *b = ctx;
    if (gpa > sizeof(b->ram) || len > sizeof(b->ram) - gpa)
        return -1;
    memcpy(b->ram + gpa, buf, len);
    return 0;
}

/* --- input --- */

struct in {
    const uint8_t *p, *end;
};
static uint64_t take(struct in *in, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n && in->p < in->end; i++)
        v |= (uint64_t)*in->p++ << 8 * i;
    return v;
}

static void access_dev(struct dev *d, unsigned bank, uint64_t off, unsigned size, bool write, uint64_t val)
{
    uint64_t v = 0;
    int r = write ? d->ops->write(d, bank, off, size, val) : d->ops->read(d, bank, off, size, &v);
    CHECK(r == DEV_OK || r == DEV_UNMAPPED);
    if (!write && r == DEV_OK && size < 8)
        CHECK(v >> 8 * size == 0);
}

static void save_load(struct dev *d, struct in *in)
{
    uint8_t buf[1024], again[1024];
    size_t n = d->ops->save(d, buf, sizeof(buf));
    CHECK(n <= sizeof(buf));
    uint8_t where = (uint8_t)take(in, 1), what = (uint8_t)take(in, 1);
    if (what)
        buf[where % n] ^= what; /* damaged: refused or survived */
    int r = d->ops->load(d, buf, n);
    if (!what) {
        CHECK(r == 0);
        CHECK(d->ops->save(d, again, sizeof(again)) == n);
    }
}

/* Take what is pending, as a CPU with interrupts enabled would. */
static void acknowledge(struct box *b, unsigned i)
{
    struct lapic *l = intc_lapic(b->ic, i);
    bool pending = lapic_pending(l);
    uint8_t ppr = lapic_ppr(l);
    int v = lapic_ack(l);
    CHECK(pending == (v >= 0));
    CHECK(v < 256);
    if (v >= 0 && lapic_ppr(l) != ppr) /* not ExtINT: the new priority is the vector's class, above the old */
        CHECK((lapic_ppr(l) & 0xf0) == (v & 0xf0) && v >> 4 > ppr >> 4);
}

static void pass(struct box *b, uint64_t ns)
{
    uint64_t end = b->now + ns;
    for (unsigned i = 0; i < 64; i++) {
        uint64_t next = clock_next(b->clock);
        if (next > end)
            break;
        if (next > b->now)
            b->now = next;
        clock_run(b->clock);
    }
    if (end > b->now)
        b->now = end;
    uint64_t fired = clock_fired(b->clock);
    clock_run(b->clock);
    CHECK(clock_fired(b->clock) - fired < 64); /* devices do not re-arm in the past for ever */
}

/* Whatever is deliverable was announced. */
static void check(struct box *b)
{
    for (unsigned i = 0; i < NCPU; i++) {
        CHECK(b->cpu[i].depth == 0);
        if (lapic_pending(intc_lapic(b->ic, i)))
            CHECK(b->cpu[i].announced);
        else
            b->cpu[i].announced = false;
    }
}

static void step(struct box *b, struct in *in)
{
    static const uint32_t msrs[] = {MSR_APIC_BASE,       MSR_TSC_DEADLINE,       MSR_KVM_WALL_CLOCK,
                                    MSR_KVM_SYSTEM_TIME, MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW};
    unsigned op = (unsigned)take(in, 1), cpu = op >> 4 & 3, size = 1u << (op >> 6);
    bool write = op & 8;
    uint64_t val;
    struct irq_line line;
    switch (op & 7) {
    case 0: { /* local APIC page: registers mostly, whole and aligned mostly */
        unsigned off = (unsigned)take(in, 1) << 4 & 0x3f0;
        if (size == 1)
            off += (unsigned)take(in, 1);
        else if (size == 2)
            size = 4;
        access_dev(lapic_dev(intc_lapic(b->ic, cpu)), 0, off, size, write, take(in, 4));
        break;
    }
    case 1: { /* MSR */
        unsigned sel = (unsigned)take(in, 1);
        uint32_t msr = sel < 0xc0 ? MSR_X2APIC_FIRST + (sel & 0x3f) : msrs[sel % 6];
        val = take(in, size == 1 ? 2 : size == 2 ? 5 : 8);
        if (msr == MSR_APIC_BASE)
            val = (val & 0xd00) | 0xfee00000 | (val >> 12 & 1) << 45;
        if (write)
            intc_wrmsr(b->ic, cpu, msr, val);
        else
            intc_rdmsr(b->ic, cpu, msr, &val);
        break;
    }
    case 2: { /* I/O APIC */
        unsigned reg = (unsigned)take(in, 1);
        access_dev(intc_ioapic(b->ic), 0, 0, 4, true, reg);
        access_dev(intc_ioapic(b->ic), 0, reg & 0x80 ? reg & 0x7f : 0x10, 4, write, take(in, 4));
        break;
    }
    case 3: { /* ports: both PICs, ELCR, PIT, port B */
        unsigned port = (unsigned)take(in, 1);
        val = take(in, size);
        if (port & 0x80)
            access_dev(pit_dev(b->pit), port & 1 ? PIT_BANK_PORTB : PIT_BANK_REGS, port >> 1 & 7, size, write, val);
        else
            access_dev(intc_pic(b->ic), port % 3, port >> 4 & 3, size, write, val);
        break;
    }
    case 4: { /* HPET */
        unsigned off = (unsigned)take(in, 1) * 4 + (size == 1 ? cpu : 0);
        access_dev(hpet_dev(b->hpet), 0, size == 8 ? off & ~7u : off, size == 2 ? 4 : size, write,
                   take(in, size == 1 ? 1 : 8));
        break;
    }
    case 5: /* lines, and messages */
        val = take(in, 1);
        if (op & 0x80) {
            struct msi_sink m = intc_msi(b->ic);
            m.send(m.ctx, 0xfee00000 | val << 12 | (op & 12), (uint32_t)take(in, 2));
        } else {
            line = val & 0x40   ? intc_nmi_line(b->ic)
                   : val & 0x20 ? intc_isa_line(b->ic, val & 15)
                                : intc_gsi_line(b->ic, val & 31);
            if (val != 0x20) /* IRQ 0 and 8 belong to the HPET's outputs */
                irq_set(&line, write);
        }
        break;
    case 6: /* time and CPU */
        switch (op >> 6) {
        case 0: pass(b, take(in, 2) * (write ? 1000 : 1)); break;
        case 1: acknowledge(b, cpu); break;
        case 2:
            if (write)
                lapic_cr8_write(intc_lapic(b->ic, cpu), take(in, 1));
            else
                CHECK(lapic_cr8_read(intc_lapic(b->ic, cpu)) < 16);
            break;
        default: pass(b, take(in, 4)); break;
        }
        break;
    default:
        switch (op >> 6) {
        case 0:
            b->cpu[cpu].tsc_offset = take(in, 8);
            intc_tsc_changed(b->ic, cpu);
            break;
        case 1: intc_cpu_reset(b->ic, cpu, write); break;
        case 2: lapic_local_event(intc_lapic(b->ic, cpu), write); break;
        default: {
            struct dev *d[] = {intc_pic(b->ic), intc_ioapic(b->ic), pit_dev(b->pit), hpet_dev(b->hpet)};
            if (write)
                save_load(d[cpu], in);
            else
                d[cpu]->ops->reset(d[cpu]);
        }
        }
    }
    check(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct intc_cpu_ops ops = {intr, nothing, init, sipi, tsc_offset, lock, unlock};
    struct box *b = calloc(1, sizeof(*b));
    void *cpu[NCPU];
    if (!b)
        return 0;
    for (unsigned i = 0; i < NCPU; i++) {
        b->cpu[i] = (struct cpu){.b = b, .i = i};
        cpu[i] = &b->cpu[i];
    }
    struct dma dma = {.ctx = b, .read = dma_read, .write = dma_write};
    b->clock = clock_new_source(NULL, &(struct clock_source){box_now, b}, 1);
    b->ic = intc_new(&(struct intc_config){.ncpu = NCPU,
                                           .cpu = cpu,
                                           .ops = &ops,
                                           .clock = b->clock,
                                           .tsc = tsc_scale_make(2399998),
                                           .dma = &dma,
                                           .x2apic = true,
                                           .tsc_deadline = true,
                                           .virtual_wire = size & 1,
                                           .phys_bits = 40});
    struct hpet_wiring w = {intc_isa_line(b->ic, 0), intc_isa_line(b->ic, 8), intc_gsi_line(b->ic, 0), 0x00f00000};
    b->hpet = hpet_new(b->clock, &w);
    b->pit = pit_new(b->clock, hpet_input(b->hpet, 0));
    struct in in = {data, data + size};
    while (in.p < in.end)
        step(b, &in);
    clock_stop(b->clock);
    pit_dev(b->pit)->ops->fini(pit_dev(b->pit));
    hpet_dev(b->hpet)->ops->fini(hpet_dev(b->hpet));
    intc_free(b->ic);
    clock_free(b->clock);
    free(b);
    return 0;
}
