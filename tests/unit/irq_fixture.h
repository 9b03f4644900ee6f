/* A PC's interrupt system on a hand-driven clock, with CPUs that only record what reaches them. */
#ifndef IRQ_FIXTURE_H
#define IRQ_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/clock.h"
#include "dev/intc.h"

#define FX_CPUS 4
#define FX_RAM 8192
#define FX_KHZ 2400000u

struct fx_cpu {
    unsigned intr, nmi, init, sipi;
    int sipi_vector;
    uint64_t tsc_offset;
    int lock_depth;
};

struct fx {
    uint64_t now;
    struct clock *clock;
    struct tsc_scale tsc;
    struct fx_cpu cpu[FX_CPUS];
    struct intc *ic;
    uint8_t ram[FX_RAM];
    struct dma dma;
};

static inline uint64_t fx_now(void *ctx)
{
    return ((struct fx *)ctx)->now;
}
static inline void fx_intr(void *c)
{
    ((struct fx_cpu *)c)->intr++;
}
static inline void fx_nmi(void *c)
{
    ((struct fx_cpu *)c)->nmi++;
}
static inline void fx_init(void *c)
{
    ((struct fx_cpu *)c)->init++;
}
static inline void fx_sipi(void *c, uint8_t v)
{
    ((struct fx_cpu *)c)->sipi++;
    ((struct fx_cpu *)c)->sipi_vector = v;
}
static inline uint64_t fx_tsc_offset(void *c)
{
    return ((struct fx_cpu *)c)->tsc_offset;
}
static inline void fx_lock(void *c)
{
    ((struct fx_cpu *)c)->lock_depth++;
}
static inline void fx_unlock(void *c)
{
    ((struct fx_cpu *)c)->lock_depth--;
}

static inline int fx_dma_read(void *ctx, uint64_t gpa, void *buf, size_t len)
{
    if (gpa > FX_RAM || len > FX_RAM - gpa)
        return -1;
    memcpy(buf, ((struct fx *)ctx)->ram + gpa, len);
    return 0;
}
static inline int fx_dma_write(void *ctx, uint64_t gpa, const void *buf, size_t len)
{
    if (gpa > FX_RAM || len > FX_RAM - gpa)
        return -1;
    memcpy(((struct fx *)ctx)->ram + gpa, buf, len);
    return 0;
}

static inline struct fx *fx_new(bool virtual_wire)
{
    static const struct intc_cpu_ops ops = {fx_intr, fx_nmi, fx_init, fx_sipi, fx_tsc_offset, fx_lock, fx_unlock};
    struct fx *f = calloc(1, sizeof(*f));
    void *cpu[FX_CPUS];
    for (unsigned i = 0; i < FX_CPUS; i++)
        cpu[i] = &f->cpu[i];
    f->now = 5000;
    f->clock = clock_new_source(NULL, &(struct clock_source){fx_now, f}, 1700000000123456789ull);
    f->tsc = tsc_scale_make(FX_KHZ);
    f->dma = (struct dma){.ctx = f, .read = fx_dma_read, .write = fx_dma_write};
    f->ic = intc_new(&(struct intc_config){.ncpu = FX_CPUS,
                                           .cpu = cpu,
                                           .ops = &ops,
                                           .clock = f->clock,
                                           .tsc = f->tsc,
                                           .dma = &f->dma,
                                           .x2apic = true,
                                           .tsc_deadline = true,
                                           .virtual_wire = virtual_wire,
                                           .phys_bits = 40,
                                           .ioapic_id = 0});
    return f;
}

static inline void fx_free(struct fx *f)
{
    intc_free(f->ic);
    clock_free(f->clock);
    free(f);
}

/* Let time pass, firing what falls due at its own time. */
static inline void fx_pass(struct fx *f, uint64_t ns)
{
    uint64_t end = f->now + ns, base = f->now - clock_now(f->clock);
    for (;;) {
        uint64_t next = clock_next(f->clock);
        if (next == UINT64_MAX || next + base > end)
            break;
        if (next + base > f->now)
            f->now = next + base;
        clock_run(f->clock);
    }
    f->now = end;
}

static inline uint64_t dev_rd(struct dev *d, unsigned bank, uint64_t off, unsigned size)
{
    uint64_t v = 0xdeadbeefcafef00dull;
    assert_int_equal(d->ops->read(d, bank, off, size, &v), DEV_OK);
    return v;
}
static inline void dev_wr(struct dev *d, unsigned bank, uint64_t off, unsigned size, uint64_t v)
{
    assert_int_equal(d->ops->write(d, bank, off, size, v), DEV_OK);
}

static inline struct lapic *fx_lapic(struct fx *f, unsigned cpu)
{
    return intc_lapic(f->ic, cpu);
}
static inline uint32_t apic_rd(struct fx *f, unsigned cpu, unsigned off)
{
    return (uint32_t)dev_rd(lapic_dev(fx_lapic(f, cpu)), 0, off, 4);
}
static inline void apic_wr(struct fx *f, unsigned cpu, unsigned off, uint32_t v)
{
    dev_wr(lapic_dev(fx_lapic(f, cpu)), 0, off, 4, v);
}
static inline void apic_on(struct fx *f)
{
    for (unsigned i = 0; i < FX_CPUS; i++)
        apic_wr(f, i, 0xf0, 0x1ff);
}
static inline uint32_t io_rd(struct fx *f, unsigned reg)
{
    dev_wr(intc_ioapic(f->ic), 0, 0, 4, reg);
    return (uint32_t)dev_rd(intc_ioapic(f->ic), 0, 0x10, 4);
}
static inline void io_wr(struct fx *f, unsigned reg, uint32_t v)
{
    dev_wr(intc_ioapic(f->ic), 0, 0, 4, reg);
    dev_wr(intc_ioapic(f->ic), 0, 0x10, 4, v);
}
static inline void io_rte(struct fx *f, unsigned pin, uint64_t rte)
{
    io_wr(f, 0x11 + 2 * pin, (uint32_t)(rte >> 32));
    io_wr(f, 0x10 + 2 * pin, (uint32_t)rte);
}
static inline int fx_ack(struct fx *f, unsigned cpu)
{
    return lapic_ack(fx_lapic(f, cpu));
}
static inline bool fx_pending(struct fx *f, unsigned cpu)
{
    return lapic_pending(fx_lapic(f, cpu));
}

static inline int fx_setup(void **state)
{
    *state = fx_new(false);
    return 0;
}
static inline int fx_teardown(void **state)
{
    fx_free(*state);
    return 0;
}
#define FX_TEST(fn) cmocka_unit_test_setup_teardown(fn, fx_setup, fx_teardown)

#endif
