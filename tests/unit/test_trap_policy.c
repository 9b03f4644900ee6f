/* The clock of engine trap's policy: it asks a vCPU that interprets to return, and waits longer and longer for one that is held up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/trap/trap.h"

#define LIMIT 30000000000ull

static struct vcpu *v;
static struct trap_vm tv = {.adaptive = true};
static struct trap t;
static struct host_event *never;

static bool asked(void) { return atomic_fetch_and(&v->requests, ~(uint32_t)VREQ_ENGINE) & VREQ_ENGINE; }

static void wait_asked(void)
{
    const uint64_t end = host_now() + LIMIT;

    while (!asked()) {
        assert_true(host_now() < end);
        host_event_wait(never, host_now() + 100000);
    }
}

static void held_up(void **state)
{
    struct space s = {.level = {.patience = 1}};
    unsigned n = 0;

    (void)state;
    v = aligned_alloc(_Alignof(struct vcpu), sizeof(*v));
    memset(v, 0, sizeof(*v));
    t = (struct trap){.v = v, .tv = &tv};
    never = host_event_new();
    assert_int_equal(trap_policy_init(&t), 0);
    /* Each time it returns it is asked again. */
    for (unsigned i = 0; i < 5; i++) {
        trap_policy_interprets(&t);
        wait_asked();
        trap_policy_interpreted(&t, &s, 1);
    }
    /* It does not return: asked still, but rarely. */
    trap_policy_interprets(&t);
    wait_asked();
    for (const uint64_t end = host_now() + 500000000; host_now() < end;) {
        n += asked();
        host_event_wait(never, host_now() + 50000);
    }
    assert_in_range(n, 0, 60);
    wait_asked();
    trap_policy_interpreted(&t, &s, 1);
    trap_policy_interprets(&t);
    wait_asked();
    trap_policy_interpreted(&t, &s, 1);
    trap_policy_fini(&t);
    host_event_free(never);
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(held_up)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
