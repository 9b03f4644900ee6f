/* Local APIC; see lapic.h for threads and locks. Section numbers are of the SDM, Vol. 3A, chapter 10. */
#include "dev/lapic.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "ringer/host.h"

/* Register numbers: MMIO offset / 16 = x2APIC MSR - 0x800. */
enum {
    R_ID = 0x02,
    R_VERSION = 0x03,
    R_TPR = 0x08,
    R_APR = 0x09,
    R_PPR = 0x0a,
    R_EOI = 0x0b,
    R_RRD = 0x0c,
    R_LDR = 0x0d,
    R_DFR = 0x0e,
    R_SVR = 0x0f,
    R_ISR = 0x10,
    R_TMR = 0x18,
    R_IRR = 0x20,
    R_ESR = 0x28,
    R_ICR = 0x30,
    R_ICR2 = 0x31,
    R_LVT = 0x32,
    R_LVT_END = 0x37,
    R_ICT = 0x38,
    R_CCT = 0x39,
    R_DCR = 0x3e,
    R_SELF_IPI = 0x3f,
};

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, NLVT };

#define LVT_MASK (1u << 16)
#define LVT_LEVEL (1u << 15)
#define LVT_REMOTE_IRR (1u << 14)
#define LVT_MODE(v) ((v) >> 8 & 7)
#define LVT_TIMER_MODE(v) ((v) >> 17 & 3)
enum { TIMER_ONESHOT, TIMER_PERIODIC, TIMER_TSC };

#define SVR_ENABLE (1u << 8)
#define SVR_NO_BROADCAST (1u << 12)
#define SVR_BITS 0x13ffu

#define ESR_SEND_VECTOR (1u << 5)
#define ESR_RECV_VECTOR (1u << 6)
#define ESR_REGISTER (1u << 7)

/* Version 0x14, six LVT entries, EOI broadcast suppression (10.4.8). */
#define APIC_VERSION (0x14u | (NLVT - 1) << 16 | 1u << 24)

#define TIMER_MIN_NS 20000 /* periodic ticks closer than this coalesce, as they do in IRR on a busy CPU */

static const uint32_t lvt_bits[NLVT] = {0x100ff | 3u << 17, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};

typedef _Atomic uint32_t a32;

struct lapic {
    struct dev dev;
    struct lapic_config cfg;
    struct lapic_env env;

    _Atomic uint64_t base; /* IA32_APIC_BASE */
    a32 id, ldr, dfr, svr, tpr, ppr;
    a32 isr[8], tmr[8], irr[8];
    a32 lvt[NLVT];      /* written under lock, except remote IRR */
    a32 esr_new;        /* errors since the last write of ESR */
    a32 lint;           /* levels of LINT0, LINT1 */
    atomic_bool extint; /* an ExtINT message waits for acknowledge */

    /* owner only */
    uint32_t esr, icr, icr2;

    struct host_mutex *lock;
    uint32_t dcr, ict;
    bool running;      /* the timer counts (or a TSC deadline is armed) */
    uint64_t deadline; /* virtual ns the count reaches zero */
    uint64_t tsc_deadline;
    struct timer timer;
};

static uint32_t ld(const a32 *p)
{
    return atomic_load_explicit(p, memory_order_relaxed);
}
static void st(a32 *p, uint32_t v)
{
    atomic_store_explicit(p, v, memory_order_relaxed);
}

struct dev *lapic_dev(struct lapic *l)
{
    return &l->dev;
}
struct lapic *lapic_of(struct dev *d)
{
    return (struct lapic *)d;
}
uint64_t lapic_base(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed);
}
uint32_t lapic_id(const struct lapic *l)
{
    return ld(&l->id);
}
uint8_t lapic_ppr(const struct lapic *l)
{
    return (uint8_t)ld(&l->ppr);
}

static bool x2mode(const struct lapic *l)
{
    return lapic_base(l) & APIC_BASE_EXTD;
}
static bool hw_enabled(const struct lapic *l)
{
    return lapic_base(l) & APIC_BASE_EN;
}

bool lapic_enabled(const struct lapic *l)
{
    return hw_enabled(l) && (ld(&l->svr) & SVR_ENABLE);
}

uint64_t lapic_page(const struct lapic *l)
{
    uint64_t b = lapic_base(l);
    return (b & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EN ? b & ~0xfffull : UINT64_MAX;
}

static int highest(const a32 *bits)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t w = atomic_load_explicit(&bits[i], memory_order_seq_cst);
        if (w)
            return i * 32 + 31 - __builtin_clz(w);
    }
    return -1;
}

static bool test_vec(const a32 *bits, unsigned v)
{
    return ld(&bits[v >> 5]) >> (v & 31) & 1;
}

/* PPR (10.8.3.1). Stored sequentially consistent: a sender sets IRR, then reads PPR; we store PPR, then read IRR.
 * One of the two sees the other, so no deliverable interrupt goes unannounced. */
static void update_ppr(struct lapic *l)
{
    uint32_t tpr = ld(&l->tpr);
    int isr = highest(l->isr);
    uint32_t cls = isr < 0 ? 0 : (uint32_t)isr & 0xf0;
    atomic_store_explicit(&l->ppr, (tpr & 0xf0) >= cls ? tpr : cls, memory_order_seq_cst);
}

/* --- delivery -------------------------------------------------------------- */

static bool extint_ready(const struct lapic *l)
{
    if (atomic_load_explicit(&l->extint, memory_order_relaxed))
        return true;
    if (!(ld(&l->lint) & 1))
        return false;
    if (!hw_enabled(l))
        return true; /* the pin is INTR (10.4.3) */
    uint32_t v = ld(&l->lvt[LVT_LINT0]);
    return !(v & LVT_MASK) && LVT_MODE(v) == LAPIC_EXTINT;
}

static int deliverable(const struct lapic *l)
{
    if (!hw_enabled(l))
        return -1;
    int v = highest(l->irr);
    return v >= 0 && (uint32_t)v >> 4 > ld(&l->ppr) >> 4 ? v : -1;
}

bool lapic_pending(const struct lapic *l)
{
    return extint_ready(l) || deliverable(l) >= 0;
}

static void announce(struct lapic *l)
{
    if (lapic_pending(l))
        l->env.intr(l->env.ctx);
}

static void lvt_event(struct lapic *l, unsigned i);

static void error(struct lapic *l, uint32_t bit)
{
    /* Each kind interrupts once until ESR is written (10.5.3). */
    if (!(atomic_fetch_or(&l->esr_new, bit) & bit))
        lvt_event(l, LVT_ERROR);
}

static bool accept_fixed(struct lapic *l, unsigned v, bool level)
{
    if (!lapic_enabled(l))
        return false;
    if (v < 16) {
        error(l, ESR_RECV_VECTOR);
        return false;
    }
    uint32_t bit = 1u << (v & 31);
    if (level)
        atomic_fetch_or_explicit(&l->tmr[v >> 5], bit, memory_order_relaxed);
    else if (test_vec(l->tmr, v))
        atomic_fetch_and_explicit(&l->tmr[v >> 5], ~bit, memory_order_relaxed);
    uint32_t old = atomic_fetch_or_explicit(&l->irr[v >> 5], bit, memory_order_seq_cst);
    if (!(old & bit) && v >> 4 > atomic_load_explicit(&l->ppr, memory_order_seq_cst) >> 4)
        l->env.intr(l->env.ctx);
    return true;
}

/* A local source fires (10.5.1). ExtINT is a level, looked at by lapic_pending. */
static void lvt_event(struct lapic *l, unsigned i)
{
    uint32_t v = ld(&l->lvt[i]);
    if ((v & LVT_MASK) || !hw_enabled(l))
        return;
    switch (i == LVT_TIMER || i == LVT_ERROR ? LAPIC_FIXED : LVT_MODE(v)) {
    case LAPIC_FIXED: {
        bool level = i == LVT_LINT0 && (v & LVT_LEVEL); /* LINT1 is always edge-triggered */
        if (level && (atomic_fetch_or(&l->lvt[i], LVT_REMOTE_IRR) & LVT_REMOTE_IRR))
            return;
        if (!accept_fixed(l, v & 0xff, level) && level)
            atomic_fetch_and(&l->lvt[i], ~LVT_REMOTE_IRR);
        break;
    }
    case LAPIC_NMI: l->env.nmi(l->env.ctx); break;
    case LAPIC_INIT: l->env.init(l->env.ctx); break;
    }
}

void lapic_set_lint(struct lapic *l, unsigned pin, bool level)
{
    uint32_t bit = 1u << (pin & 1);
    uint32_t old = level ? atomic_fetch_or(&l->lint, bit) : atomic_fetch_and(&l->lint, ~bit);
    if (!level || (old & bit))
        return;
    if (!hw_enabled(l)) {
        /* The pins are INTR and NMI. */
        if (pin & 1)
            l->env.nmi(l->env.ctx);
        else
            l->env.intr(l->env.ctx);
        return;
    }
    uint32_t v = ld(&l->lvt[LVT_LINT0 + (pin & 1)]);
    if (LVT_MODE(v) != LAPIC_EXTINT)
        lvt_event(l, LVT_LINT0 + (pin & 1));
    else if (extint_ready(l))
        l->env.intr(l->env.ctx);
}

void lapic_local_event(struct lapic *l, bool thermal)
{
    lvt_event(l, thermal ? LVT_THERMAL : LVT_PERF);
    if (!thermal)
        atomic_fetch_or(&l->lvt[LVT_PERF], LVT_MASK); /* delivery masks the entry (10.5.1) */
}

bool lapic_accept(struct lapic *l, const struct lapic_msg *m)
{
    if (!hw_enabled(l))
        return false;
    switch (m->mode) {
    case LAPIC_FIXED:
    case LAPIC_LOWEST: return accept_fixed(l, m->vector, m->level);
    case LAPIC_NMI: l->env.nmi(l->env.ctx); return true;
    case LAPIC_INIT: l->env.init(l->env.ctx); return true;
    case LAPIC_SIPI: l->env.sipi(l->env.ctx, m->vector); return true;
    case LAPIC_EXTINT:
        if (!lapic_enabled(l))
            return false;
        atomic_store(&l->extint, true);
        l->env.intr(l->env.ctx);
        return true;
    default: return false; /* SMI: no system management mode here; remote read: not in this family */
    }
}

/* Message destination (10.6.2, 10.12.10). */
bool lapic_match(const struct lapic *l, const struct lapic_msg *m)
{
    if (m->dest == (m->dest32 ? UINT32_MAX : 0xffu))
        return true;
    if (!m->logical)
        return m->dest == ld(&l->id);
    uint32_t ldr = ld(&l->ldr);
    if (x2mode(l))
        return m->dest >> 16 == ldr >> 16 && (m->dest & ldr & 0xffff);
    if (m->dest > 0xff)
        return false;
    ldr >>= 24;
    switch (ld(&l->dfr) >> 28) {
    case 0xf: return m->dest & ldr;
    case 0x0: return (m->dest >> 4 == ldr >> 4 || m->dest >> 4 == 0xf) && (m->dest & ldr & 0xf);
    default: return false;
    }
}

int lapic_ack(struct lapic *l)
{
    if (extint_ready(l)) {
        atomic_store_explicit(&l->extint, false, memory_order_relaxed);
        return l->env.pic_ack(l->env.ctx);
    }
    int v = deliverable(l);
    if (v < 0)
        return -1;
    uint32_t bit = 1u << (v & 31);
    atomic_fetch_and_explicit(&l->irr[v >> 5], ~bit, memory_order_relaxed);
    st(&l->isr[v >> 5], ld(&l->isr[v >> 5]) | bit);
    /* v is the highest in service now, and above TPR: PPR is its class. */
    atomic_store_explicit(&l->ppr, (uint32_t)v & 0xf0, memory_order_relaxed);
    return v;
}

static void eoi(struct lapic *l)
{
    int v = highest(l->isr);
    if (v < 0)
        return;
    st(&l->isr[v >> 5], ld(&l->isr[v >> 5]) & ~(1u << (v & 31)));
    update_ppr(l);
    if (test_vec(l->tmr, (unsigned)v)) {
        uint32_t lvt = ld(&l->lvt[LVT_LINT0]);
        if ((lvt & LVT_REMOTE_IRR) && (int)(lvt & 0xff) == v) {
            atomic_fetch_and(&l->lvt[LVT_LINT0], ~LVT_REMOTE_IRR);
            if (ld(&l->lint) & 1)
                lvt_event(l, LVT_LINT0);
        }
        if (!(ld(&l->svr) & SVR_NO_BROADCAST))
            l->env.eoi(l->env.ctx, (uint8_t)v);
    }
    announce(l);
}

static void set_tpr(struct lapic *l, uint32_t v)
{
    uint32_t old = ld(&l->tpr);
    st(&l->tpr, v);
    update_ppr(l);
    if (v < old)
        announce(l);
}

uint64_t lapic_cr8_read(const struct lapic *l)
{
    return ld(&l->tpr) >> 4;
}
void lapic_cr8_write(struct lapic *l, uint64_t val)
{
    set_tpr(l, ((uint32_t)val & 15) << 4);
}

static void send_ipi(struct lapic *l, uint32_t icr, uint32_t dest)
{
    struct lapic_msg m = {
        .dest = x2mode(l) ? dest : dest >> 24,
        .dest32 = x2mode(l),
        .vector = (uint8_t)icr,
        .mode = icr >> 8 & 7,
        .logical = icr >> 11 & 1,
        .level = false, /* level-triggered IPIs do not exist in this family (10.6.1) */
    };
    if (m.mode == LAPIC_INIT && (icr & 0xc000) == 0x8000)
        return; /* INIT level de-assert only synchronised arbitration IDs */
    if ((m.mode == LAPIC_FIXED || m.mode == LAPIC_LOWEST) && m.vector < 16) {
        error(l, ESR_SEND_VECTOR);
        return;
    }
    l->env.ipi(l->env.ctx, l, &m, icr >> 18 & 3);
}

/* --- timer (10.5.4) -------------------------------------------------------- */

static uint64_t divisor(const struct lapic *l)
{
    unsigned n = (l->dcr & 3) | (l->dcr >> 1 & 4);
    return n == 7 ? 1 : 2u << n;
}

static uint64_t period(const struct lapic *l)
{
    return l->ict * divisor(l);
}
static unsigned timer_mode(const struct lapic *l)
{
    return LVT_TIMER_MODE(ld(&l->lvt[LVT_TIMER]));
}

static uint64_t guest_tsc(const struct lapic *l)
{
    uint64_t off = l->env.tsc_offset ? l->env.tsc_offset(l->env.ctx) : 0;
    return tsc_from_ns(&l->env.tsc, clock_now(l->env.clock)) + off;
}

static void timer_stop(struct lapic *l)
{
    l->running = false;
    l->tsc_deadline = 0;
    timer_cancel(l->env.clock, &l->timer);
}

/* True if the deadline has passed already. */
static bool tsc_arm(struct lapic *l)
{
    uint64_t now = clock_now(l->env.clock), off = l->env.tsc_offset ? l->env.tsc_offset(l->env.ctx) : 0;
    uint64_t base = tsc_from_ns(&l->env.tsc, now), guest = base + off;
    if (l->tsc_deadline <= guest)
        return true;
    uint64_t left = l->tsc_deadline - guest;
    l->deadline = left > UINT64_MAX - base ? UINT64_MAX : tsc_to_ns(&l->env.tsc, base + left);
    timer_arm(l->env.clock, &l->timer, l->deadline);
    return false;
}

static void timer_fire(void *ctx)
{
    struct lapic *l = ctx;
    bool fire = false;
    host_lock(l->lock);
    uint64_t now = clock_now(l->env.clock);
    if (!l->running) {
        /* disarmed while the timer was on its way */
    } else if (timer_mode(l) == TIMER_TSC) {
        fire = tsc_arm(l);
        if (fire)
            timer_stop(l);
    } else if (now < l->deadline) {
        timer_arm(l->env.clock, &l->timer, l->deadline);
    } else if (timer_mode(l) == TIMER_PERIODIC) {
        fire = true;
        uint64_t p = period(l), earliest = now + TIMER_MIN_NS;
        l->deadline += p;
        if (l->deadline < earliest)
            l->deadline += (earliest - l->deadline + p - 1) / p * p;
        timer_arm(l->env.clock, &l->timer, l->deadline);
    } else {
        fire = true;
        l->running = false;
    }
    host_unlock(l->lock);
    if (fire)
        lvt_event(l, LVT_TIMER);
}

static uint32_t current_count(struct lapic *l)
{
    host_lock(l->lock);
    uint64_t left = 0, now = clock_now(l->env.clock), d = divisor(l);
    unsigned mode = timer_mode(l);
    if (l->running && mode != TIMER_TSC) {
        if (now < l->deadline)
            left = l->deadline - now;
        if (mode == TIMER_PERIODIC) {
            /* The host timer may be late, or set some periods ahead. */
            uint64_t p = period(l);
            left = now < l->deadline ? (left - 1) % p + 1 : p - (now - l->deadline) % p;
        }
    }
    host_unlock(l->lock);
    return (uint32_t)((left + d - 1) / d);
}

static void write_ict(struct lapic *l, uint32_t v)
{
    host_lock(l->lock);
    if (timer_mode(l) != TIMER_TSC) {
        l->ict = v;
        l->running = v != 0;
        if (v) {
            l->deadline = clock_now(l->env.clock) + period(l);
            timer_arm(l->env.clock, &l->timer, l->deadline);
        } else {
            timer_cancel(l->env.clock, &l->timer);
        }
    }
    host_unlock(l->lock);
}

static void write_dcr(struct lapic *l, uint32_t v)
{
    uint32_t left = current_count(l);
    host_lock(l->lock);
    l->dcr = v & 0xb;
    if (l->running && timer_mode(l) != TIMER_TSC) {
        /* The count goes on at the new rate. */
        l->deadline = clock_now(l->env.clock) + left * divisor(l);
        timer_arm(l->env.clock, &l->timer, l->deadline);
    }
    host_unlock(l->lock);
}

static void write_tsc_deadline(struct lapic *l, uint64_t v)
{
    bool fire = false;
    host_lock(l->lock);
    if (timer_mode(l) == TIMER_TSC) {
        l->tsc_deadline = v;
        l->running = v != 0;
        fire = v && tsc_arm(l);
        if (!v || fire)
            timer_stop(l);
    }
    host_unlock(l->lock);
    if (fire)
        lvt_event(l, LVT_TIMER);
}

void lapic_tsc_changed(struct lapic *l)
{
    bool fire = false;
    host_lock(l->lock);
    if (l->running && timer_mode(l) == TIMER_TSC) {
        fire = tsc_arm(l);
        if (fire)
            timer_stop(l);
    }
    host_unlock(l->lock);
    if (fire)
        lvt_event(l, LVT_TIMER);
}

/* --- registers ------------------------------------------------------------- */

static void write_lvt(struct lapic *l, unsigned i, uint32_t v)
{
    v &= lvt_bits[i];
    host_lock(l->lock);
    if (!(ld(&l->svr) & SVR_ENABLE))
        v |= LVT_MASK;
    if (i == LVT_TIMER) {
        if (!l->cfg.tsc_deadline)
            v &= ~(1u << 18);
        if ((LVT_TIMER_MODE(v) == TIMER_TSC) != (timer_mode(l) == TIMER_TSC))
            timer_stop(l); /* changing to or from TSC-deadline mode disarms */
    }
    if (i == LVT_LINT0 && (v & LVT_LEVEL) && LVT_MODE(v) == LAPIC_FIXED)
        v |= ld(&l->lvt[i]) & LVT_REMOTE_IRR;
    st(&l->lvt[i], v);
    host_unlock(l->lock);
    if (i == LVT_LINT0 && (ld(&l->lint) & 1)) {
        if (LVT_MODE(v) == LAPIC_FIXED && (v & LVT_LEVEL))
            lvt_event(l, i);
        announce(l);
    }
}

static void write_svr(struct lapic *l, uint32_t v)
{
    st(&l->svr, v & SVR_BITS);
    if (!(v & SVR_ENABLE)) {
        /* Software disable masks all local sources (10.4.7.2). */
        host_lock(l->lock);
        for (unsigned i = 0; i < NLVT; i++)
            atomic_fetch_or(&l->lvt[i], LVT_MASK);
        host_unlock(l->lock);
    }
}

static int reg_read(struct lapic *l, unsigned r, uint32_t *v)
{
    bool x2 = x2mode(l);
    switch (r) {
    case R_ID: *v = x2 ? ld(&l->id) : ld(&l->id) << 24; return 0;
    case R_VERSION: *v = APIC_VERSION; return 0;
    case R_TPR: *v = ld(&l->tpr); return 0;
    case R_APR:
    case R_RRD: *v = 0; return x2 ? -1 : 0;
    case R_PPR: *v = ld(&l->ppr); return 0;
    case R_EOI: *v = 0; return x2 ? -1 : 0;
    case R_LDR: *v = ld(&l->ldr); return 0;
    case R_DFR: *v = ld(&l->dfr); return x2 ? -1 : 0;
    case R_SVR: *v = ld(&l->svr); return 0;
    case R_ISR ... R_ISR + 7: *v = ld(&l->isr[r - R_ISR]); return 0;
    case R_TMR ... R_TMR + 7: *v = ld(&l->tmr[r - R_TMR]); return 0;
    case R_IRR ... R_IRR + 7: *v = ld(&l->irr[r - R_IRR]); return 0;
    case R_ESR: *v = l->esr; return 0;
    case R_ICR: *v = l->icr; return 0;
    case R_ICR2: *v = l->icr2; return x2 ? -1 : 0;
    case R_LVT ... R_LVT_END: *v = ld(&l->lvt[r - R_LVT]); return 0;
    case R_ICT: *v = l->ict; return 0;
    case R_CCT: *v = current_count(l); return 0;
    case R_DCR: *v = l->dcr; return 0;
    default: *v = 0; return -1;
    }
}

/* -1: no such writable register. */
static int reg_write(struct lapic *l, unsigned r, uint32_t v)
{
    bool x2 = x2mode(l);
    switch (r) {
    case R_ID:
        if (x2)
            return -1;
        st(&l->id, v >> 24);
        return 0;
    case R_TPR: set_tpr(l, v & 0xff); return 0;
    case R_EOI: eoi(l); return 0;
    case R_LDR:
        if (x2)
            return -1;
        st(&l->ldr, v & 0xff000000u);
        return 0;
    case R_DFR:
        if (x2)
            return -1;
        st(&l->dfr, v | 0x0fffffffu);
        return 0;
    case R_SVR: write_svr(l, v); return 0;
    case R_ESR: l->esr = atomic_exchange(&l->esr_new, 0); return 0;
    case R_ICR:
        l->icr = v & 0x000ccfffu;
        send_ipi(l, l->icr, l->icr2);
        return 0;
    case R_ICR2: l->icr2 = v & 0xff000000u; return 0;
    case R_LVT ... R_LVT_END: write_lvt(l, r - R_LVT, v); return 0;
    case R_ICT: write_ict(l, v); return 0;
    case R_DCR: write_dcr(l, v); return 0;
    default: return -1;
    }
}

static int mmio_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct lapic *l = lapic_of(d);
    uint32_t v = 0;
    *val = 0;
    if (off >= 4096 || lapic_page(l) == UINT64_MAX)
        return DEV_UNMAPPED;
    /* Registers are 32 bits at 16-byte boundaries; other accesses are undefined (10.4.1): bytes inside read as such. */
    unsigned byte = off & 15;
    if (byte + size > 4 && byte)
        return DEV_OK;
    if (reg_read(l, (unsigned)(off >> 4), &v)) {
        error(l, ESR_REGISTER);
        return DEV_OK;
    }
    v >>= 8 * byte;
    *val = size >= 4 ? v : v & ((1u << 8 * size) - 1);
    return DEV_OK;
}

static int mmio_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct lapic *l = lapic_of(d);
    if (off >= 4096 || lapic_page(l) == UINT64_MAX)
        return DEV_UNMAPPED;
    if ((off & 15) || size < 4)
        return DEV_OK;
    if (reg_write(l, (unsigned)(off >> 4), (uint32_t)val))
        error(l, ESR_REGISTER);
    return DEV_OK;
}

/* Bits a WRMSR may set in x2APIC mode; anything else is #GP (10.12.1.2, 10.12.1.3). */
static uint64_t x2_bits(const struct lapic *l, unsigned r)
{
    switch (r) {
    case R_TPR: return 0xff;
    case R_SVR: return SVR_BITS;
    case R_ICR: return 0xffffffff000cdfffull;
    case R_LVT: return 0x110ffu | (l->cfg.tsc_deadline ? 3u << 17 : 1u << 17);
    case R_LVT + LVT_THERMAL:
    case R_LVT + LVT_PERF: return 0x117ff;
    case R_LVT + LVT_LINT0:
    case R_LVT + LVT_LINT1: return 0x1f7ff;
    case R_LVT + LVT_ERROR: return 0x110ff;
    case R_ICT: return 0xffffffff;
    case R_DCR: return 0xb;
    case R_SELF_IPI: return 0xff;
    default: return 0; /* EOI and ESR take only zero */
    }
}

static void reset_regs(struct lapic *l)
{
    host_lock(l->lock);
    timer_stop(l);
    l->dcr = l->ict = 0;
    for (unsigned i = 0; i < NLVT; i++)
        st(&l->lvt[i], LVT_MASK);
    host_unlock(l->lock);
    for (unsigned i = 0; i < 8; i++) {
        st(&l->irr[i], 0);
        st(&l->isr[i], 0);
        st(&l->tmr[i], 0);
    }
    st(&l->tpr, 0);
    st(&l->svr, 0xff);
    st(&l->dfr, UINT32_MAX);
    st(&l->esr_new, 0);
    l->esr = l->icr = l->icr2 = 0;
    atomic_store(&l->extint, false);
    if (x2mode(l))
        st(&l->ldr, (l->cfg.id & ~0xfu) << 12 | 1u << (l->cfg.id & 15));
    else
        st(&l->ldr, 0);
    update_ppr(l);
}

void lapic_reset(struct lapic *l, bool init)
{
    if (!init) {
        atomic_store(&l->base, APIC_DEFAULT_PAGE | APIC_BASE_EN | (l->cfg.bsp ? APIC_BASE_BSP : 0));
        st(&l->id, l->cfg.id & 0xff);
    }
    reset_regs(l);
    if (!init && l->cfg.virtual_wire) {
        st(&l->svr, 0xff | SVR_ENABLE);
        st(&l->lvt[LVT_LINT0], LAPIC_EXTINT << 8);
        st(&l->lvt[LVT_LINT1], LAPIC_NMI << 8);
        announce(l);
    }
}

/* Mode changes (10.12.5, figure 10-27). */
static int write_base(struct lapic *l, uint64_t v)
{
    const uint64_t mode = APIC_BASE_EN | APIC_BASE_EXTD;
    uint64_t ok = mode | APIC_BASE_BSP | (((1ull << l->cfg.phys_bits) - 1) & ~0xfffull), old = lapic_base(l);
    if (!l->cfg.x2apic)
        ok &= ~(uint64_t)APIC_BASE_EXTD;
    if (v & ~ok)
        return -1;
    uint64_t from = old & mode, to = v & mode;
    if (to == APIC_BASE_EXTD || (from == 0 && to == mode) || (from == mode && to == APIC_BASE_EN))
        return -1;
    atomic_store(&l->base, v);
    if (from == to)
        return 0;
    if (to == 0) {
        reset_regs(l); /* state is lost; enabling again finds the power-up state */
        announce(l);   /* LINT0 has become INTR */
    } else if (to == mode) {
        st(&l->id, l->cfg.id);
        st(&l->ldr, (l->cfg.id & ~0xfu) << 12 | 1u << (l->cfg.id & 15));
        l->icr2 = 0;
    } else {
        st(&l->id, l->cfg.id & 0xff);
        announce(l);
    }
    return 0;
}

int lapic_rdmsr(struct lapic *l, uint32_t msr, uint64_t *val)
{
    uint32_t v;
    *val = 0;
    if (msr == MSR_APIC_BASE) {
        *val = lapic_base(l);
        return 0;
    }
    if (msr == MSR_TSC_DEADLINE && l->cfg.tsc_deadline) {
        host_lock(l->lock);
        /* Expired but not yet fired reads as expired. */
        if (l->running && l->tsc_deadline && guest_tsc(l) < l->tsc_deadline)
            *val = l->tsc_deadline;
        host_unlock(l->lock);
        return 0;
    }
    if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST || !x2mode(l) || reg_read(l, msr - MSR_X2APIC_FIRST, &v))
        return -1;
    *val = v;
    if (msr - MSR_X2APIC_FIRST == R_ICR)
        *val |= (uint64_t)l->icr2 << 32;
    return 0;
}

int lapic_wrmsr(struct lapic *l, uint32_t msr, uint64_t val)
{
    if (msr == MSR_APIC_BASE)
        return write_base(l, val);
    if (msr == MSR_TSC_DEADLINE && l->cfg.tsc_deadline) {
        write_tsc_deadline(l, val);
        return 0;
    }
    if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST || !x2mode(l))
        return -1;
    unsigned r = msr - MSR_X2APIC_FIRST;
    if (val & ~x2_bits(l, r))
        return -1;
    switch (r) {
    case R_ICR: l->icr2 = (uint32_t)(val >> 32); return reg_write(l, R_ICR, (uint32_t)val);
    case R_ICR2: return -1;
    case R_SELF_IPI:
        if ((uint8_t)val < 16)
            error(l, ESR_SEND_VECTOR);
        else
            accept_fixed(l, (uint8_t)val, false);
        return 0;
    default: return reg_write(l, r, (uint32_t)val);
    }
}

/* --- device ------------------------------------------------------------------ */

static void dev_reset(struct dev *d)
{
    lapic_reset(lapic_of(d), false);
}

static void fini(struct dev *d)
{
    struct lapic *l = lapic_of(d);
    timer_cancel(l->env.clock, &l->timer);
    host_mutex_free(l->lock);
    free(l);
}

static const struct dev_ops lapic_ops = {
    .name = "lapic",
    .reset = dev_reset,
    .read = mmio_read,
    .write = mmio_write,
    .fini = fini,
};

struct lapic *lapic_new(const struct lapic_config *cfg, const struct lapic_env *env)
{
    struct lapic *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->dev.ops = &lapic_ops;
    l->cfg = *cfg;
    l->env = *env;
    l->lock = host_mutex_new();
    if (!l->lock) {
        free(l);
        return NULL;
    }
    timer_init(&l->timer, timer_fire, l);
    l->timer.nolock = true;
    lapic_reset(l, false);
    return l;
}
