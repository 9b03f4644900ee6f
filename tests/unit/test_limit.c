/* The arithmetic of --cpu-limit, and parking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "core/limit.h"
#include "ringer/vm.h"

#define MS 1000000ull

/* Threads that take what they get, looked at when the budget says, late by `late` ns; share of a core in 1/100 percent.
 */
static uint64_t simulate(uint32_t percent, unsigned threads, unsigned busy, uint64_t late, uint64_t duration)
{
    struct cpu_budget b;
    uint64_t now = 5000 * MS, used = 77 * MS, start = used, end = now + duration;
    budget_init(&b, percent, threads, now, used);
    while (now < end) {
        uint64_t next = budget_update(&b, now, used);
        assert_true(next > 0 && (!b.run || next <= LIMIT_PERIOD_NS));
        next += late;
        now += next;
        if (b.run)
            used += busy * next;
    }
    return (used - start) * 10000 / duration;
}

static void holds(void **s)
{
    static const uint32_t percents[] = {1, 2, 5, 10, 33, 50, 75, 99, 100, 150, 199};
    static const uint64_t lates[] = {0, 60000, MS, 7 * MS};
    for (unsigned i = 0; i < sizeof(percents) / sizeof(percents[0]); i++)
        for (unsigned j = 0; j < sizeof(lates) / sizeof(lates[0]); j++) {
            uint32_t p = percents[i];
            uint64_t got = simulate(p, 3, 2, lates[j], 20000 * MS);
            /* Within half a point, however late the looks: what was too much is owed. */
            if (got > p * 100 + 50 || got + 50 < p * 100)
                fail_msg("%u %%, %u us late: %u/100 %%", p, (unsigned)(lates[j] / 1000), (unsigned)got);
        }
}

static void no_limit_that_is_not_reached(void **s)
{
    assert_int_equal(simulate(100, 2, 1, 0, 1000 * MS), 10000);
    assert_int_equal(simulate(400, 2, 1, 3 * MS, 1003 * MS) / 100, 100);
}

/* Idle time is saved up to LIMIT_SAVED slices only. */
static void burst_after_idling(void **s)
{
    struct cpu_budget b;
    budget_init(&b, 10, 2, 0, 0);
    assert_int_equal(b.slice, 2 * MS);
    for (uint64_t t = 0; t < 3000 * MS; t += 20 * MS)
        budget_update(&b, t, 0);
    assert_true(b.run);
    assert_int_equal(b.credit, LIMIT_SAVED * 2 * MS);
    assert_int_equal(budget_update(&b, 3600000 * MS, 0), (4 * 100 * MS + 189) / 190); /* an hour is no more */
}

static void parked_until_a_slice(void **s)
{
    struct cpu_budget b;
    budget_init(&b, 50, 2, 0, 0);
    /* 12 ms used in 4: 10 to begin with, 2 earned */
    uint64_t next = budget_update(&b, 4 * MS, 12 * MS);
    assert_false(b.run);
    assert_int_equal(b.credit, 0);
    assert_int_equal(next, 20 * MS); /* a slice of 10 ms at a half */
    next = budget_update(&b, 14 * MS, 12 * MS);
    assert_false(b.run);
    assert_int_equal(next, 10 * MS);
    budget_update(&b, 24 * MS, 12 * MS);
    assert_true(b.run);
    /* owed */
    next = budget_update(&b, 25 * MS, 62 * MS);
    assert_false(b.run);
    assert_int_equal(b.credit, -39 * (int64_t)MS - (int64_t)MS / 2);
    assert_int_equal(next, 99 * MS);
}

/* However much a look costs, the guest gets something, and all together no more than what is allowed. */
static void looks_cost(void **s)
{
    for (uint64_t cost = 10000; cost < 10 * MS; cost *= 3)
        for (uint32_t percent = 1; percent <= 10; percent += 3) {
            const uint64_t begin = 1000 * MS;
            uint64_t now = begin, used = 0, guest = 0;
            struct cpu_budget b;

            budget_init(&b, percent, 2, now, used);
            while (now < begin + 100000 * MS) {
                const uint64_t next = budget_update(&b, now, used += cost);
                now += next;
                if (b.run)
                    guest += next, used += next;
            }
            if (!guest || used * 100 > (now - begin) * percent + 100 * 2 * (10 * MS + LIMIT_PERIOD_NS))
                fail_msg("%u %%, %u us a look: the guest got %u ms, all %u ms", percent, (unsigned)(cost / 1000), (unsigned)(guest / MS), (unsigned)(used / MS));
            assert_true(guest > 100 * MS / 4 || cost > MS); /* not only what it begins with */
        }
}

/* Clocks that stand or go back give nothing. */
static void odd_clocks(void **s)
{
    struct cpu_budget b;
    budget_init(&b, 20, 2, 1000 * MS, 500 * MS);
    int64_t credit = b.credit;
    budget_update(&b, 1000 * MS, 500 * MS);
    assert_int_equal(b.credit, credit);
    budget_update(&b, 900 * MS, 100 * MS);
    assert_int_equal(b.credit, credit);
    budget_update(&b, 1000 * MS, 501 * MS); /* as before, and 1 ms */
    assert_int_equal(b.credit, credit - (int64_t)MS);
    assert_int_equal(b.wall, 1000 * MS);
}

/* --- parking ------------------------------------------------------------------------- */

static _Atomic unsigned runs;

/* An engine whose guest spins: it notices requests, as all do. */
static void spin(struct vcpu *v, struct vcpu_exit *exit)
{
    exit->kind = EXIT_KICK;
    while (vcpu_poll(v) == X86_OK)
        atomic_fetch_add(&runs, 1);
}
static const struct engine_ops spinner = {.name = "spinner", .run = spin};

static unsigned progress(void)
{
    unsigned before = atomic_load(&runs);
    for (uint64_t end = host_now() + 2000 * MS; host_now() < end && atomic_load(&runs) == before;)
        ;
    return atomic_load(&runs) - before;
}

static void *enter(struct vm **vm)
{
    char err[200] = "";
    struct vm_config cfg = {.ram_size = 1 << 20, .ncpu = 2, .engine = &spinner};
    *vm = vm_new(&cfg, err, sizeof(err));
    assert_non_null(*vm);
    for (unsigned i = 0; i < 2; i++) {
        (*vm)->cpu[i] = vcpu_new(*vm, i);
        (*vm)->cpu[i]->cpu.activity = X86_RUNNING;
    }
    assert_int_equal(vm_start(*vm, err, sizeof(err)), 0);
    return *vm;
}

static void parking(void **s)
{
    struct vm *vm;
    enter(&vm);
    assert_true(progress() > 0);
    for (unsigned i = 0; i < 20; i++) {
        vm_park(vm, true);
        for (unsigned c = 0; c < 2; c++) {
            while (atomic_load(&vm->cpu[c]->in_guest)) /* hangs if it is not taken out */
                ;
            /* Requests wait, and do not free it. */
            vcpu_request(vm->cpu[c], VREQ_TLB);
        }
        unsigned before = atomic_load(&runs);
        for (uint64_t end = host_now() + 2 * MS; host_now() < end;)
            ;
        assert_int_equal(atomic_load(&runs), before);
        vm_exclusive_begin(vm, NULL); /* parked is a safe point */
        vm_exclusive_end(vm, NULL);
        vm_park(vm, false);
        assert_true(progress() > 0);
    }
    /* Parked ones can be stopped. */
    vm_park(vm, true);
    vm_request_end(vm, VM_END_QUIT, 0);
    assert_int_equal(vm_wait(vm), VM_END_QUIT);
    assert_true(vm->cpu[0]->parked_ns > 0);
    vm_free(vm);
}

static void limited_machine_ends(void **s)
{
    struct vm *vm;
    char err[200];
    struct vm_config cfg = {.ram_size = 1 << 20, .ncpu = 1, .engine = &spinner};
    vm = vm_new(&cfg, err, sizeof(err));
    vm->cpu[0] = vcpu_new(vm, 0);
    vm->cpu[0]->cpu.activity = X86_RUNNING;
    vm->cpu_limit = 1;
    assert_int_equal(vm_start(vm, err, sizeof(err)), 0);
    while (!atomic_load(&vm->parked)) /* hangs if it is never held up */
        ;
    vm_request_end(vm, VM_END_QUIT, 0);
    assert_int_equal(vm_wait(vm), VM_END_QUIT);
    assert_false(atomic_load(&vm->parked));
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds),
        cmocka_unit_test(no_limit_that_is_not_reached),
        cmocka_unit_test(burst_after_idling),
        cmocka_unit_test(parked_until_a_slice),
        cmocka_unit_test(looks_cost), cmocka_unit_test(odd_clocks),
        cmocka_unit_test(parking),
        cmocka_unit_test(limited_machine_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
