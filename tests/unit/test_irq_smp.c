/*
 * Four CPU threads at once on a real clock: IPIs all-to-all, MSIs, level-triggered lines and a periodic timer each. No
 * deliverable interrupt may go unannounced: a CPU sleeps only when nothing is pending and is woken by requests alone.
 */
#include "irq_fixture.h"

#include "ringer/host.h"

#define NCPU 4
#define ROUNDS 20000u
#define VEC_IPI 0x40
#define VEC_TIMER 0x50
#define VEC_LEVEL 0x60 /* + CPU: an EOI ends every pin with its vector, whoever serves it */
#define VEC_MSI 0x70

struct smp;
struct cpu {
    struct smp *s;
    unsigned i;
    struct host_event *wake;
    struct host_thread *thread;
    unsigned ipis, timers, levels, msis, other;
    bool lost;
};
struct smp {
    struct host_mutex *lock;
    struct clock *clock;
    struct intc *ic;
    struct cpu cpu[NCPU];
    _Atomic unsigned sent[NCPU]; /* IPIs acknowledged by the receiver */
    _Atomic bool stop;
};

static void intr(void *c)
{
    host_event_set(((struct cpu *)c)->wake);
}
static void nothing(void *c) {}
static void sipi(void *c, uint8_t v) {}
static void lock(void *c)
{
    host_lock(((struct cpu *)c)->s->lock);
}
static void unlock(void *c)
{
    host_unlock(((struct cpu *)c)->s->lock);
}

static void wr(struct smp *s, unsigned i, unsigned off, uint32_t v)
{
    struct dev *d = lapic_dev(intc_lapic(s->ic, i));
    d->ops->write(d, 0, off, 4, v);
}

static void line(struct smp *s, unsigned pin, bool level)
{
    struct irq_line l = intc_gsi_line(s->ic, pin);
    host_lock(s->lock);
    irq_set(&l, level);
    host_unlock(s->lock);
}

/* Take one interrupt; false if there was none. */
static bool serve(struct cpu *c)
{
    struct smp *s = c->s;
    int v = lapic_ack(intc_lapic(s->ic, c->i));
    if (v < 0)
        return false;
    switch (v) {
    case VEC_LEVEL ... VEC_LEVEL + NCPU - 1:
        c->levels++;
        line(s, 16 + c->i, false);
        break;
    case VEC_IPI: c->ipis++; break;
    case VEC_TIMER: c->timers++; break;
    case VEC_MSI: c->msis++; break;
    default: c->other++;
    }
    wr(s, c->i, 0xb0, 0);
    if (v == VEC_IPI)
        atomic_fetch_add(&s->sent[c->i], 1);
    return true;
}

static void thread(void *arg)
{
    struct cpu *c = arg;
    struct smp *s = c->s;
    /* A token goes round the CPUs; every holder also raises its own level line and sends itself an MSI. */
    struct msi_sink msi = intc_msi(s->ic);
    while (!atomic_load(&s->stop)) {
        unsigned before = c->ipis;
        while (serve(c))
            ;
        if (c->ipis != before) {
            line(s, 16 + c->i, true);
            msi.send(msi.ctx, 0xfee00000 | c->i << 12, VEC_MSI);
            wr(s, c->i, 0x80, 0x80); /* masked by TPR meanwhile */
            unsigned next = (c->i + 1) % NCPU;
            if (c->i == 0 && c->ipis >= ROUNDS) {
                atomic_store(&s->stop, true);
                for (unsigned i = 0; i < NCPU; i++)
                    host_event_set(s->cpu[i].wake);
                break;
            }
            wr(s, c->i, 0x310, next << 24);
            wr(s, c->i, 0x300, 0x4000 | VEC_IPI);
            wr(s, c->i, 0x80, 0);
        }
        if (!lapic_pending(intc_lapic(s->ic, c->i)) && !host_event_wait(c->wake, host_now() + 10000000000ull)) {
            c->lost = true;
            atomic_store(&s->stop, true);
            for (unsigned i = 0; i < NCPU; i++)
                host_event_set(s->cpu[i].wake);
        }
    }
}

static void storm(void **state)
{
    static const struct intc_cpu_ops ops = {intr, nothing, nothing, sipi, NULL, lock, unlock};
    struct smp *s = calloc(1, sizeof(*s));
    void *cpu[NCPU];
    s->lock = host_mutex_new();
    s->clock = clock_new(s->lock);
    for (unsigned i = 0; i < NCPU; i++) {
        s->cpu[i] = (struct cpu){.s = s, .i = i, .wake = host_event_new()};
        cpu[i] = &s->cpu[i];
    }
    s->ic = intc_new(&(struct intc_config){
        .ncpu = NCPU, .cpu = cpu, .ops = &ops, .clock = s->clock, .tsc = tsc_scale_make(1000000), .phys_bits = 40});
    for (unsigned i = 0; i < NCPU; i++) {
        struct dev *io = intc_ioapic(s->ic);
        wr(s, i, 0xf0, 0x1ff);
        wr(s, i, 0x3e0, 0xb);
        wr(s, i, 0x320, 0x20000 | VEC_TIMER);
        wr(s, i, 0x380, 500000);
        io->ops->write(io, 0, 0, 4, 0x11 + 2 * (16 + i));
        io->ops->write(io, 0, 0x10, 4, i << 24);
        io->ops->write(io, 0, 0, 4, 0x10 + 2 * (16 + i));
        io->ops->write(io, 0, 0x10, 4, 0x8000 | (VEC_LEVEL + i));
    }
    for (unsigned i = 0; i < NCPU; i++)
        s->cpu[i].thread = host_thread_start("cpu", thread, &s->cpu[i]);
    wr(s, 3, 0x300, 0x4000 | VEC_IPI); /* the token starts at CPU 0 */
    for (unsigned i = 0; i < NCPU; i++)
        host_thread_join(s->cpu[i].thread);
    for (unsigned i = 0; i < NCPU; i++) {
        struct cpu *c = &s->cpu[i];
        wr(s, i, 0x80, 0);
        while (serve(c))
            ;
        assert_false(c->lost);
        assert_in_range(c->ipis, ROUNDS - 1, ROUNDS);
        /* One each per token, none lost, none twice. */
        assert_int_equal(c->levels, c->ipis);
        assert_int_equal(c->msis, c->ipis);
        assert_true(c->timers > 0);
        assert_int_equal(c->other, 0);
    }
    clock_stop(s->clock);
    intc_free(s->ic);
    clock_free(s->clock);
    for (unsigned i = 0; i < NCPU; i++)
        host_event_free(s->cpu[i].wake);
    host_mutex_free(s->lock);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(storm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
