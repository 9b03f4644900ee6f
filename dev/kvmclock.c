/* KVM paravirtual clock. */
#include "dev/kvmclock.h"

#include <stdatomic.h>
#include <stdlib.h>

#define ENABLE 1u
#define FLAG_TSC_STABLE 1u

/* The guest ABI (struct pvclock_vcpu_time_info, struct pvclock_wall_clock). */
struct time_page {
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, pad[2];
};
_Static_assert(sizeof(struct time_page) == 32, "guest ABI");
struct wall_page {
    uint32_t version, sec, nsec;
};
_Static_assert(sizeof(struct wall_page) == 12, "guest ABI");

struct kvmclock {
    const struct clock *clock;
    struct tsc_scale tsc;
    struct dma dma;
    _Atomic uint64_t wall_msr;
    uint32_t mul;
    int8_t shift;
    unsigned ncpu;
    struct {
        uint64_t msr;
        uint32_t version;
    } cpu[];
};

void kvmclock_scale(uint64_t tsc_khz, uint32_t *mul, int8_t *shift)
{
    /* Bring the frequency into (1, 2] GHz, so that mul fills its 32 bits. */
    uint64_t hz = tsc_khz * 1000;
    int s = 0;
    while (hz > 2000000000ull) {
        hz >>= 1;
        s--;
    }
    while (hz <= 1000000000ull) {
        hz <<= 1;
        s++;
    }
    /* mul = 2^32 * 10^9 / (hz << s), from the exact frequency. */
    unsigned __int128 num = (unsigned __int128)1000000 << 32, den = tsc_khz;
    if (s < 0)
        num <<= -s;
    else
        den <<= s;
    *mul = (uint32_t)(num / den);
    *shift = (int8_t)s;
}

/* Version protocol: odd while the contents change. */
static void publish(struct kvmclock *k, unsigned cpu, uint64_t tsc_offset)
{
    uint64_t gpa = k->cpu[cpu].msr & ~(uint64_t)ENABLE;
    uint32_t version = k->cpu[cpu].version | 1;
    struct time_page p = {
        .version = version,
        .tsc_timestamp = tsc_offset, /* what this CPU's TSC reads at virtual time 0 */
        .system_time = 0,
        .tsc_to_system_mul = k->mul,
        .tsc_shift = k->shift,
        .flags = FLAG_TSC_STABLE,
    };
    if (!(k->cpu[cpu].msr & ENABLE))
        return;
    if (k->dma.write(k->dma.ctx, gpa, &version, sizeof(version)))
        return; /* not RAM: the guest's own fault */
    atomic_thread_fence(memory_order_seq_cst);
    k->dma.write(k->dma.ctx, gpa, &p, sizeof(p));
    atomic_thread_fence(memory_order_seq_cst);
    k->cpu[cpu].version = ++version;
    k->dma.write(k->dma.ctx, gpa, &version, sizeof(version));
}

static void publish_wall(struct kvmclock *k, uint64_t gpa)
{
    uint64_t base = clock_wall_base(k->clock);
    struct wall_page w = {.sec = (uint32_t)(base / 1000000000u), .nsec = (uint32_t)(base % 1000000000u)};
    if (k->dma.read(k->dma.ctx, gpa, &w.version, sizeof(w.version)))
        return;
    w.version |= 1;
    k->dma.write(k->dma.ctx, gpa, &w.version, sizeof(w.version));
    atomic_thread_fence(memory_order_seq_cst);
    k->dma.write(k->dma.ctx, gpa, &w, sizeof(w));
    atomic_thread_fence(memory_order_seq_cst);
    w.version++;
    k->dma.write(k->dma.ctx, gpa, &w.version, sizeof(w.version));
}

int kvmclock_rdmsr(struct kvmclock *k, unsigned cpu, uint32_t msr, uint64_t *val)
{
    switch (msr) {
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW: *val = atomic_load(&k->wall_msr); return 0;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW: *val = k->cpu[cpu].msr; return 0;
    default: return -1;
    }
}

int kvmclock_wrmsr(struct kvmclock *k, unsigned cpu, uint32_t msr, uint64_t val, uint64_t tsc_offset)
{
    switch (msr) {
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW:
        atomic_store(&k->wall_msr, val);
        publish_wall(k, val);
        return 0;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW:
        k->cpu[cpu].msr = val;
        publish(k, cpu, tsc_offset);
        return 0;
    default: return -1;
    }
}

void kvmclock_update(struct kvmclock *k, unsigned cpu, uint64_t tsc_offset)
{
    publish(k, cpu, tsc_offset);
}

void kvmclock_reset(struct kvmclock *k, unsigned cpu)
{
    k->cpu[cpu].msr = 0;
}

struct kvmclock *kvmclock_new(unsigned ncpu, const struct clock *clock, const struct tsc_scale *tsc,
                              const struct dma *dma)
{
    struct kvmclock *k = calloc(1, sizeof(*k) + ncpu * sizeof(k->cpu[0]));
    if (!k)
        return NULL;
    k->ncpu = ncpu;
    k->clock = clock;
    k->tsc = *tsc;
    k->dma = *dma;
    kvmclock_scale(tsc->khz, &k->mul, &k->shift);
    return k;
}

void kvmclock_free(struct kvmclock *k)
{
    free(k);
}
