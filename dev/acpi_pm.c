/*
 * ACPI fixed hardware: PM1a, the power-management timer, GPE block 0, and the
 * reset control register. The machine has no SMM and is always in ACPI mode,
 * so SCI_EN reads as one.
 */
#include "dev/acpi_pm.h"

#include <stdlib.h>

#include "dev/isa.h"

#define PMTMR_HZ 3579545ull
#define NS_PER_S 1000000000ull
#define HALF (1ull << 31) /* TMR_STS: the timer's top bit changes */

enum {
    STS_TMR = 1 << 0,
    STS_GBL = 1 << 5,
    STS_PWRBTN = 1 << 8,
    STS_SLPBTN = 1 << 9,
    STS_RTC = 1 << 10,
    STS_WAK = 1 << 15
};
enum { EN_VALID = STS_TMR | STS_GBL | STS_PWRBTN | STS_SLPBTN | STS_RTC };
enum { CNT_SCI_EN = 1, CNT_BM_RLD = 2, CNT_SLP_TYP = 7 << 10, CNT_SLP_EN = 1 << 13 };

struct acpi_pm {
    struct dev dev;
    struct clock *clock;
    struct acpi_pm_config cfg;
    uint16_t sts, en, cnt;
    uint16_t gpe_sts, gpe_en;
    uint64_t last_half; /* half-periods already turned into TMR_STS */
    struct timer overflow;
};

static uint64_t ticks_of(uint64_t ns)
{
    return ns / NS_PER_S * PMTMR_HZ + ns % NS_PER_S * PMTMR_HZ / NS_PER_S;
}

static uint64_t ns_of(uint64_t ticks) /* first ns at which the timer shows ticks */
{
    return ticks / PMTMR_HZ * NS_PER_S + (ticks % PMTMR_HZ * NS_PER_S + PMTMR_HZ - 1) / PMTMR_HZ;
}

static void sync_timer(struct acpi_pm *p)
{
    uint64_t half = ticks_of(clock_now(p->clock)) / HALF;
    if (half != p->last_half) {
        p->last_half = half;
        p->sts |= STS_TMR;
    }
}

static void update_sci(struct acpi_pm *p)
{
    sync_timer(p);
    irq_set(&p->cfg.sci, (p->sts & p->en & EN_VALID) || (p->gpe_sts & p->gpe_en));
    if ((p->en & STS_TMR) && !(p->sts & STS_TMR))
        timer_arm(p->clock, &p->overflow, ns_of((p->last_half + 1) * HALF));
    else
        timer_cancel(p->clock, &p->overflow);
}

static void overflow_fired(void *ctx)
{
    update_sci(ctx);
}

static uint8_t pm_read8(struct dev *d, unsigned port)
{
    struct acpi_pm *p = (struct acpi_pm *)d;
    unsigned hi = 8 * (port & 1);
    switch (port & ~1u) {
    case ACPI_PM_EVT: sync_timer(p); return (uint8_t)(p->sts >> hi);
    case ACPI_PM_EVT + 2: return (uint8_t)(p->en >> hi);
    case ACPI_PM_CNT: return (uint8_t)((p->cnt | CNT_SCI_EN) >> hi);
    case ACPI_PM_GPE0: return (uint8_t)(p->gpe_sts >> hi);
    case ACPI_PM_GPE0 + 2: return (uint8_t)(p->gpe_en >> hi);
    default: return 0;
    }
}

static void put_byte(uint16_t *reg, unsigned hi, uint8_t v)
{
    *reg = (uint16_t)((*reg & ~(0xff << hi)) | v << hi);
}

static void pm_write8(struct dev *d, unsigned port, uint8_t v)
{
    struct acpi_pm *p = (struct acpi_pm *)d;
    unsigned hi = 8 * (port & 1);
    switch (port & ~1u) {
    case ACPI_PM_EVT: /* write one to clear */
        sync_timer(p);
        p->sts &= (uint16_t) ~(v << hi);
        break;
    case ACPI_PM_EVT + 2: put_byte(&p->en, hi, v); break;
    case ACPI_PM_CNT:
        put_byte(&p->cnt, hi, v);
        if (p->cnt & CNT_SLP_EN) {
            p->cnt &= (uint16_t)~CNT_SLP_EN; /* write-only */
            if ((p->cnt & CNT_SLP_TYP) >> 10 == ACPI_PM_S5 && p->cfg.poweroff)
                p->cfg.poweroff(p->cfg.ctx);
        }
        p->cnt &= CNT_SCI_EN | CNT_BM_RLD | CNT_SLP_TYP;
        break;
    case ACPI_PM_GPE0: p->gpe_sts &= (uint16_t) ~(v << hi); break;
    case ACPI_PM_GPE0 + 2: put_byte(&p->gpe_en, hi, v); break;
    default: break;
    }
    update_sci(p);
}

static int pm_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct acpi_pm *p = (struct acpi_pm *)d;
    if (off >= ACPI_PM_TMR && off < ACPI_PM_TMR + 4) { /* one sample, whatever the width */
        uint32_t t = (uint32_t)ticks_of(clock_now(p->clock));
        *val = t >> (8 * (off - ACPI_PM_TMR));
        if (size < 4)
            *val &= (1u << (8 * size)) - 1;
        return DEV_OK;
    }
    return isa_read_bytes(d, off, size, val, ACPI_PM_SIZE, pm_read8);
}

static int pm_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return isa_write_bytes(d, off, size, val, ACPI_PM_SIZE, pm_write8);
}

static void pm_reset(struct dev *d)
{
    struct acpi_pm *p = (struct acpi_pm *)d;
    p->sts = p->en = p->cnt = p->gpe_sts = p->gpe_en = 0;
    p->last_half = ticks_of(clock_now(p->clock)) / HALF;
    update_sci(p);
}

static void pm_fini(struct dev *d)
{
    struct acpi_pm *p = (struct acpi_pm *)d;
    timer_cancel(p->clock, &p->overflow);
    free(p);
}

static const struct dev_ops pm_ops = {
    .name = "acpi-pm", .reset = pm_reset, .read = pm_read, .write = pm_write, .fini = pm_fini};

struct dev *acpi_pm_new(const struct dev_env *env, const struct acpi_pm_config *cfg)
{
    struct acpi_pm *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->dev.ops = &pm_ops;
    p->clock = env->clock;
    p->cfg = *cfg;
    timer_init(&p->overflow, overflow_fired, p);
    pm_reset(&p->dev);
    return &p->dev;
}

void acpi_pm_power_button(struct dev *d)
{
    struct acpi_pm *p = (struct acpi_pm *)d;
    p->sts |= STS_PWRBTN;
    update_sci(p);
}

void acpi_pm_gpe(struct dev *d, unsigned n)
{
    struct acpi_pm *p = (struct acpi_pm *)d;
    p->gpe_sts |= (uint16_t)(1u << (n & 15));
    update_sci(p);
}

/* --- reset control register ------------------------------------------- */

enum { CF9_SYS_RST = 2, CF9_RST_CPU = 4, CF9_FULL_RST = 8 };

struct cf9 {
    struct dev dev;
    void (*reset)(void *ctx);
    void *ctx;
    uint8_t val;
};

static uint8_t cf9_read8(struct dev *d, unsigned port)
{
    return ((struct cf9 *)d)->val;
}

static void cf9_write8(struct dev *d, unsigned port, uint8_t v)
{
    struct cf9 *c = (struct cf9 *)d;
    c->val = v & (CF9_SYS_RST | CF9_FULL_RST);
    if (v & CF9_RST_CPU)
        c->reset(c->ctx);
}

static int cf9_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    return isa_read_bytes(d, off, size, val, 1, cf9_read8);
}

static int cf9_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return isa_write_bytes(d, off, size, val, 1, cf9_write8);
}

static void cf9_reset(struct dev *d)
{
    ((struct cf9 *)d)->val = 0;
}

static void cf9_fini(struct dev *d)
{
    free(d);
}

static const struct dev_ops cf9_ops = {
    .name = "reset-cf9", .reset = cf9_reset, .read = cf9_read, .write = cf9_write, .fini = cf9_fini};

struct dev *reset_cf9_new(void (*reset)(void *ctx), void *ctx)
{
    struct cf9 *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->dev.ops = &cf9_ops;
    c->reset = reset;
    c->ctx = ctx;
    return &c->dev;
}
