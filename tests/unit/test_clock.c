/* Virtual clock, timers, TSC arithmetic, KVM clock. */
#include "irq_fixture.h"

#include "ringer/host.h"

struct probe {
    struct fx *f;
    struct timer t;
    unsigned n;
    uint64_t at[8];
    uint64_t rearm; /* period */
};

static void probe_fn(void *ctx)
{
    struct probe *p = ctx;
    if (p->n < 8)
        p->at[p->n] = clock_now(p->f->clock);
    p->n++;
    if (p->rearm)
        timer_arm(p->f->clock, &p->t, p->t.when + p->rearm);
}

static void order(void **state)
{
    struct fx *f = *state;
    struct probe p[50];
    uint64_t when[50];
    memset(p, 0, sizeof(p));
    assert_int_equal(clock_now(f->clock), 0);
    for (unsigned i = 0; i < 50; i++) {
        p[i].f = f;
        timer_init(&p[i].t, probe_fn, &p[i]);
        when[i] = 100 + i * 7919 % 50 * 10;
        timer_arm(f->clock, &p[i].t, when[i]);
    }
    /* Cancel some, move some both ways. */
    for (unsigned i = 0; i < 50; i += 5)
        timer_cancel(f->clock, &p[i].t);
    for (unsigned i = 1; i < 50; i += 5)
        timer_arm(f->clock, &p[i].t, when[i] = 50 + i);
    for (unsigned i = 2; i < 50; i += 5)
        timer_arm(f->clock, &p[i].t, when[i] = 700 + i);
    assert_int_equal(clock_next(f->clock), 51);
    fx_pass(f, 2000);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(p[i].n, i % 5 ? 1 : 0);
        if (i % 5)
            assert_int_equal(p[i].at[0], when[i]);
        assert_int_equal(p[i].t.heap_index, -1);
    }
    assert_int_equal(clock_next(f->clock), UINT64_MAX);
    assert_int_equal(clock_fired(f->clock), 40);
    timer_cancel(f->clock, &p[0].t); /* not armed: harmless */
}

static void pause_resume(void **state)
{
    struct fx *f = *state;
    struct probe p = {.f = f};
    timer_init(&p.t, probe_fn, &p);
    uint64_t wall = clock_wall_base(f->clock);
    assert_int_equal(wall, 1700000000123456789ull);
    f->now += 100;
    clock_pause(f->clock);
    clock_pause(f->clock);
    f->now += 1000;
    assert_int_equal(clock_now(f->clock), 100);
    timer_arm(f->clock, &p.t, 150);
    clock_run(f->clock);
    assert_int_equal(p.n, 0);
    clock_resume(f->clock);
    clock_resume(f->clock);
    assert_int_equal(clock_now(f->clock), 100);
    assert_int_equal(clock_wall_base(f->clock), wall + 1000);
    f->now += 50;
    clock_run(f->clock);
    assert_int_equal(p.n, 1);
    /* A timer that keeps re-arming itself in the past does not hold clock_run for ever. */
    p.rearm = 10;
    f->now += 1000;
    timer_arm(f->clock, &p.t, 0);
    p.n = 0;
    clock_run(f->clock);
    assert_int_equal(p.n, 116);
}

static void tsc(void **state)
{
    static const uint64_t khz[] = {1, 999, 1000000, 2400000, 2399998, 3333333, 999999, 7000001};
    uint64_t x = 88172645463325252ull;
    for (unsigned k = 0; k < sizeof(khz) / sizeof(*khz); k++) {
        struct tsc_scale s = tsc_scale_make(khz[k]);
        for (unsigned i = 0; i < 20000; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            uint64_t ns = x >> (i % 64);
            unsigned __int128 want = (unsigned __int128)ns * khz[k] / 1000000;
            assert_true(tsc_from_ns(&s, ns) == (uint64_t)want);
            /* tsc_to_ns is the earliest time the counter has got there. */
            uint64_t t = x >> (i % 48 + 16), at = tsc_to_ns(&s, t);
            if (at != UINT64_MAX) {
                assert_true((unsigned __int128)at * khz[k] / 1000000 >= t);
                assert_true(at == 0 || (unsigned __int128)(at - 1) * khz[k] / 1000000 < t);
            }
        }
    }
    struct tsc_scale slow = tsc_scale_make(1);
    assert_true(tsc_to_ns(&slow, UINT64_MAX) == UINT64_MAX);
}

static void counter(void **state)
{
    struct clock_counter c = {.insns_per_us = 3};
    struct clock_source src = clock_counter_source(&c);
    struct clock *ck = clock_new_source(NULL, &src, 0);
    assert_int_equal(clock_now(ck), 0);
    clock_counter_add(&c, 1);
    assert_int_equal(clock_now(ck), 333);
    clock_counter_add(&c, 2);
    assert_int_equal(clock_now(ck), 1000);
    clock_counter_skip_to(&c, ck, 5000);
    assert_int_equal(clock_now(ck), 5000);
    clock_counter_skip_to(&c, ck, 10);
    assert_int_equal(clock_now(ck), 5000);
    /* Billions of instructions do not overflow. */
    clock_counter_add(&c, 3ull << 50);
    assert_int_equal(clock_now(ck), 5000 + (1000ull << 50));
    clock_free(ck);
}

/* --- the threaded clock on host time --- */

struct threaded {
    struct clock *ck;
    struct host_mutex *lock;
    struct host_event *done;
    struct timer t, u;
    uint64_t at;
    unsigned n;
    bool held;
};

static void threaded_fn(void *ctx)
{
    struct threaded *x = ctx;
    x->held = host_locked_by_me(x->lock);
    x->at = clock_now(x->ck);
    x->n++;
    host_event_set(x->done);
}

static void never(void *ctx)
{
    fail();
}

static void thread(void **state)
{
    struct threaded x = {.lock = host_mutex_new(), .done = host_event_new()};
    x.ck = clock_new(x.lock);
    assert_non_null(x.ck);
    timer_init(&x.t, threaded_fn, &x);
    timer_init(&x.u, never, &x);
    /* Under the device lock a timer can be cancelled for certain, even when it is due. */
    host_lock(x.lock);
    timer_arm(x.ck, &x.u, 0);
    uint64_t until = host_now() + 3000000;
    while (host_now() < until)
        host_event_wait(x.done, until);
    timer_cancel(x.ck, &x.u);
    uint64_t when = clock_now(x.ck) + 2000000;
    /* A far timer first: the thread sleeps long and must be woken for the nearer one. */
    timer_arm(x.ck, &x.u, when + 3600000000000ull);
    host_unlock(x.lock);
    host_event_wait(x.done, host_now() + 3000000);
    when = clock_now(x.ck) + 2000000;
    host_lock(x.lock);
    timer_arm(x.ck, &x.t, when);
    host_unlock(x.lock);
    assert_true(host_event_wait(x.done, host_now() + 10000000000ull));
    host_lock(x.lock);
    assert_int_equal(x.n, 1);
    assert_true(x.held);
    assert_true(x.at >= when);
    host_unlock(x.lock);
    /* While paused nothing fires; after resume it does. */
    clock_pause(x.ck);
    host_lock(x.lock);
    timer_arm(x.ck, &x.t, clock_now(x.ck) + 100000);
    host_unlock(x.lock);
    assert_false(host_event_wait(x.done, host_now() + 5000000));
    clock_resume(x.ck);
    assert_true(host_event_wait(x.done, host_now() + 10000000000ull));
    assert_true(clock_wall_base(x.ck) + clock_now(x.ck) <= host_wall() + 1000000000ull);
    clock_stop(x.ck);
    clock_free(x.ck);
    host_event_free(x.done);
    host_mutex_free(x.lock);
}

/* --- KVM clock --- */

struct time_page {
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad[2];
};

/* As the guest computes it. */
static uint64_t guest_ns(const struct time_page *p, uint64_t guest_tsc)
{
    uint64_t d = guest_tsc - p->tsc_timestamp;
    d = p->shift >= 0 ? d << p->shift : d >> -p->shift;
    return p->system_time + (uint64_t)((unsigned __int128)d * p->mul >> 32);
}

static void kvm_clock(void **state)
{
    struct fx *f = *state;
    struct time_page p;
    uint64_t v;
    f->cpu[1].tsc_offset = 123456789;
    assert_int_equal(intc_wrmsr(f->ic, 0, MSR_KVM_SYSTEM_TIME_NEW, 0x101), 0);
    assert_int_equal(intc_wrmsr(f->ic, 1, MSR_KVM_SYSTEM_TIME, 0x141), 0);
    assert_int_equal(intc_rdmsr(f->ic, 1, MSR_KVM_SYSTEM_TIME_NEW, &v), 0);
    assert_int_equal(v, 0x141);
    f->now += 86400ull * 1000000000;
    uint64_t now = clock_now(f->clock), ns[2];
    for (unsigned i = 0; i < 2; i++) {
        memcpy(&p, f->ram + 0x100 + 0x40 * i, sizeof(p));
        assert_true(p.version && !(p.version & 1));
        assert_int_equal(p.flags, 1);
        ns[i] = guest_ns(&p, tsc_from_ns(&f->tsc, now) + f->cpu[i].tsc_offset);
        /* 2^-31 relative */
        assert_true(ns[i] <= now && now - ns[i] <= (now >> 31) + 2);
    }
    assert_int_equal(ns[0], ns[1]);
    /* The guest moves its TSC: the page follows, the version grows. */
    uint32_t old = p.version;
    f->cpu[1].tsc_offset = 5;
    intc_tsc_changed(f->ic, 1);
    memcpy(&p, f->ram + 0x140, sizeof(p));
    assert_int_equal(p.version, old + 2);
    assert_int_equal(guest_ns(&p, tsc_from_ns(&f->tsc, now) + 5), ns[0]);
    /* Disabled: no more writes. Outside RAM: no harm. */
    assert_int_equal(intc_wrmsr(f->ic, 1, MSR_KVM_SYSTEM_TIME, 0x140), 0);
    intc_tsc_changed(f->ic, 1);
    memcpy(&p, f->ram + 0x140, sizeof(p));
    assert_int_equal(p.version, old + 2);
    assert_int_equal(intc_wrmsr(f->ic, 1, MSR_KVM_SYSTEM_TIME, 0xfffffffffffff001ull), 0);
    /* Wall clock at virtual time 0. */
    assert_int_equal(intc_wrmsr(f->ic, 0, MSR_KVM_WALL_CLOCK_NEW, 0x200), 0);
    uint32_t w[3];
    memcpy(w, f->ram + 0x200, sizeof(w));
    assert_true(w[0] && !(w[0] & 1));
    assert_int_equal(w[1], 1700000000);
    assert_int_equal(w[2], 123456789);
    assert_int_equal(intc_wrmsr(f->ic, 0, 0x4b564d02, 0), -1);
}

static void kvm_scale(void **state)
{
    static const uint64_t khz[] = {1, 500000, 500001, 1000000, 1000001, 2000000, 2400000, 3999999, 5000000};
    for (unsigned i = 0; i < sizeof(khz) / sizeof(*khz); i++) {
        uint32_t mul;
        int8_t shift;
        kvmclock_scale(khz[i], &mul, &shift);
        /* One hour of counts, in ns. */
        uint64_t d = khz[i] * 1000 * 3600;
        struct time_page p = {.mul = mul, .shift = shift};
        uint64_t ns = guest_ns(&p, d);
        assert_in_range(ns, 3600000000000ull - 2000, 3600000000000ull);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FX_TEST(order),
        FX_TEST(pause_resume),
        FX_TEST(kvm_clock),
        cmocka_unit_test(tsc),
        cmocka_unit_test(counter),
        cmocka_unit_test(thread),
        cmocka_unit_test(kvm_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
