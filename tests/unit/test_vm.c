/* Whole machines on their own threads: two in one process, exclusive sections, map changes, resets, ends at any moment. */
#include "interp_fixture.h"

#include "core/clock.h"

#define COUNTERS 0x300000u /* one 64-byte line per CPU */

/* Each CPU counts in its own line; now and then a locked access across two lines, which takes the exclusive section. */
PROGRAM(counting, "1: lock incq (%rbx)\n"
                  "   mov $100, %ecx\n"
                  "2: incq 8(%rbx)\n"
                  "   loop 2b\n"
                  "   lock addq $1, 0x1003c(%rbx)\n"
                  "   jmp 1b\n");
PROGRAM(dying, "   incq (%rbx)\n"
               "   lidt (%rbx)\n" /* no limit worth the name: the next exception is the last */
               "   ud2\n");

static struct vm *new_vm_under(const struct engine_ops *engine, unsigned ncpu, bool no_reboot)
{
    struct vm_config cfg = {.ram_size = IM_RAM, .ncpu = ncpu, .engine = engine, .no_reboot = no_reboot};
    struct x86_cpuid_config cc = {.ncpu = ncpu, .tsc_khz = 2000000, .phys_bits = 39, .apic_hz = 1000000000};
    char err[128] = "";
    struct vm *vm = vm_new(&cfg, err, sizeof(err));
    assert_non_null(vm);
    assert_int_equal(vm_engine_init(vm, err, sizeof(err)), 0);
    vm->cpuid = x86_cpuid_new(&cc);
    assert_non_null(vm->cpuid);
    for (unsigned i = 0; i < ncpu; i++) {
        vm->cpu[i] = vcpu_new(vm, i);
        assert_non_null(vm->cpu[i]);
    }
    return vm;
}

static struct vm *new_vm(unsigned ncpu, bool no_reboot) { return new_vm_under(&engine_interp, ncpu, no_reboot); }

static void boot(struct vm *vm, const uint8_t *begin, const uint8_t *end)
{
    struct im m = {.vm = vm};
    im_put(&m, IM_CODE, begin, (size_t)(end - begin));
    for (unsigned i = 0; i < vm->ncpu; i++) {
        im_long(&m, vm->cpu[i]);
        vm->cpu[i]->cpu.gpr[X86_RBX] = COUNTERS + 64 * i;
    }
}
#define BOOT(vm, name) boot(vm, name##_begin, name##_end)

static uint64_t counter(struct vm *vm, unsigned cpu)
{
    return __atomic_load_n((uint64_t *)(vm->ram + COUNTERS + 64 * cpu), __ATOMIC_RELAXED);
}

static void start(struct vm *vm)
{
    char err[128] = "";
    assert_int_equal(vm_start(vm, err, sizeof(err)), 0);
}

/* Until every CPU has made some rounds. */
static void wait_rounds(struct vm *vm, uint64_t rounds)
{
    uint64_t deadline = host_now() + 20000000000ull, was[8];
    for (unsigned i = 0; i < vm->ncpu; i++)
        was[i] = counter(vm, i);
    struct host_event *never = host_event_new();
    for (unsigned i = 0; i < vm->ncpu; i++)
        while (counter(vm, i) - was[i] < rounds && host_now() < deadline)
            host_event_wait(never, host_now() + 200000);
    host_event_free(never);
    assert_true(host_now() < deadline);
}

static void two_machines(void **state)
{
    struct vm *a = new_vm(2, true), *b = new_vm(2, true);
    BOOT(a, counting);
    BOOT(b, counting);
    start(a);
    start(b);
    wait_rounds(a, 20);
    wait_rounds(b, 20);
    vm_request_end(a, VM_END_QUIT, 0);
    assert_int_equal(vm_wait(a), VM_END_QUIT);
    uint64_t at = counter(a, 0);
    wait_rounds(b, 20); /* the other runs on */
    assert_int_equal(counter(a, 0), at);
    vm_free(a);
    wait_rounds(b, 20);
    vm_request_end(b, VM_END_DEBUG_EXIT, 7);
    vm_request_end(b, VM_END_POWEROFF, 0); /* the first reason wins */
    assert_int_equal(vm_wait(b), VM_END_DEBUG_EXIT);
    assert_int_equal(b->end_code, 7);
    vm_free(b);
}

struct intruder {
    struct vm *vm;
    struct host_thread *thread;
    _Atomic int *inside;
    unsigned rounds, overlaps, moved;
};

/* Exclusive sections from a thread that is no vCPU: nobody else is inside, and no CPU makes progress. */
static void intrude(void *arg)
{
    struct intruder *in = arg;
    struct vm *vm = in->vm;
    for (unsigned r = 0; r < in->rounds; r++) {
        uint64_t was[8];
        vm_exclusive_begin(vm, NULL);
        in->overlaps += atomic_fetch_add(in->inside, 1) != 0;
        for (unsigned i = 0; i < vm->ncpu; i++)
            was[i] = counter(vm, i);
        for (uint64_t end = host_now() + 20000; host_now() < end;)
            ;
        for (unsigned i = 0; i < vm->ncpu; i++)
            in->moved += counter(vm, i) != was[i];
        atomic_fetch_sub(in->inside, 1);
        vm_exclusive_end(vm, NULL);
    }
}

static void change_maps(void *arg)
{
    struct intruder *in = arg;
    for (unsigned r = 0; r < in->rounds; r++) {
        host_lock(in->vm->device_lock);
        struct gpa_map *m = gpa_begin(in->vm->mem, in->vm->mem->limit);
        if (m)
            vm_set_map(in->vm, m);
        host_unlock(in->vm->device_lock);
    }
}

static void exclusive_sections(void **state)
{
    struct vm *vm = new_vm(4, true);
    _Atomic int inside = 0;
    struct intruder in[3] = {{vm, NULL, &inside, 150, 0, 0}, {vm, NULL, &inside, 150, 0, 0}, {vm, NULL, &inside, 300, 0, 0}};
    BOOT(vm, counting);
    start(vm);
    wait_rounds(vm, 5);
    for (unsigned i = 0; i < 3; i++) {
        in[i].thread = host_thread_start("intruder", i < 2 ? intrude : change_maps, &in[i]);
        assert_non_null(in[i].thread);
    }
    for (unsigned i = 0; i < 3; i++) {
        host_thread_join(in[i].thread);
        assert_int_equal(in[i].overlaps, 0);
        assert_int_equal(in[i].moved, 0);
    }
    wait_rounds(vm, 5);
    vm_request_end(vm, VM_END_QUIT, 0);
    assert_int_equal(vm_wait(vm), VM_END_QUIT);
    vm_free(vm);
}

static void again(struct vm *vm)
{
    BOOT(vm, dying);
    unsigned *resets = vm->board;
    if (++*resets == 100)
        vm_request_end(vm, VM_END_POWEROFF, 0);
}

/* Every CPU of the machine dies at once, again and again. */
static void resets(void **state)
{
    struct vm *vm = new_vm(3, false);
    unsigned n = 0;
    vm->board = &n;
    vm->reset_machine = again;
    BOOT(vm, dying);
    start(vm);
    assert_int_equal(vm_wait(vm), VM_END_POWEROFF);
    assert_int_equal(n, 100);
    assert_true(counter(vm, 0) + counter(vm, 1) + counter(vm, 2) >= 99);
    vm_free(vm);

    vm = new_vm(1, true);
    BOOT(vm, dying);
    start(vm);
    assert_int_equal(vm_wait(vm), VM_END_TRIPLE_FAULT);
    vm_free(vm);
}

struct ender {
    struct vm *vm;
    uint64_t at;
};

static void end_at(void *arg)
{
    struct ender *e = arg;
    while (host_now() < e->at)
        ;
    vm_request_end(e->vm, VM_END_QUIT, 0);
}

/* The end is asked for before, during and after the start of the threads, and while resets go on. */
static void end_at_any_moment(void **state)
{
    for (unsigned i = 0; i < 60; i++) {
        struct vm *vm = new_vm(4, false);
        unsigned n = 0;
        vm->board = &n;
        vm->reset_machine = again;
        if (i % 3)
            BOOT(vm, counting);
        else
            BOOT(vm, dying);
        struct ender e = {vm, host_now() + i * 20000};
        struct host_thread *t = host_thread_start("ender", end_at, &e);
        assert_non_null(t);
        start(vm);
        enum vm_end why = vm_wait(vm);
        host_thread_join(t);
        assert_true(why == VM_END_QUIT || (why == VM_END_POWEROFF && i % 3 == 0));
        vm_free(vm);
    }
}

/* Counters of an engine, asked for by another thread, while vCPUs go and come: none is lost, none counted twice. */
struct reader {
    struct vm *vm;
    _Atomic bool stop, wrong;
    uint64_t entries;
};
static uint64_t entries(const struct vm *vm)
{
    struct engine_stat st[64];
    const unsigned n = vm->engine->stats(vm, st, 64);

    for (unsigned i = 0; i < n && i < 64; i++)
        if (!strcmp(st[i].name, "entries"))
            return st[i].value;
    return 0;
}
static void read_counters(void *arg)
{
    struct reader *r = arg;

    while (!atomic_load(&r->stop)) {
        const uint64_t now = entries(r->vm);

        if (now < r->entries)
            atomic_store(&r->wrong, true);
        r->entries = now;
    }
}
static void counters(void **state)
{
    struct vm *vm = new_vm_under(&engine_translate, 3, false);
    struct reader r = {.vm = vm};
    unsigned n = 0;

    (void)state;
    vm->board = &n;
    vm->reset_machine = again;
    BOOT(vm, dying);
    start(vm);
    struct host_thread *t = host_thread_start("reader", read_counters, &r);
    assert_non_null(t);
    assert_int_equal(vm_wait(vm), VM_END_POWEROFF);
    atomic_store(&r.stop, true);
    host_thread_join(t);
    assert_false(atomic_load(&r.wrong));
    assert_true(r.entries > 0 && r.entries <= entries(vm));
    vm_free(vm);
}

/* --- kicks ------------------------------------------------------------------------ */

/* An engine whose kick takes its time, while the vCPU ends. */
struct slow {
    _Atomic bool running, kicking, gone, gone_meanwhile, stop_seen;
};
static int slow_init(struct vcpu *v) { return (void)v, 0; }
static void slow_fini(struct vcpu *v) { atomic_store(&((struct slow *)v->vm->engine_priv)->gone, true); }
static void slow_run(struct vcpu *v, struct vcpu_exit *e)
{
    struct slow *s = v->vm->engine_priv;

    atomic_store(&s->running, true);
    while (!(vcpu_requests(v) & VREQ_STOP))
        host_event_wait(v->wake, host_now() + 100000);
    atomic_store(&s->stop_seen, true);
    e->kind = EXIT_KICK;
}
static void slow_kick(struct vcpu *v)
{
    struct slow *s = v->vm->engine_priv;
    struct host_event *never = host_event_new();

    atomic_store(&s->kicking, true);
    for (unsigned i = 0; i < 20000 && !atomic_load(&s->stop_seen); i++)
        host_event_wait(never, host_now() + 1000000);
    for (unsigned i = 0; i < 30 && !atomic_load(&s->gone); i++) /* time to do it wrong */
        host_event_wait(never, host_now() + 1000000);
    if (atomic_load(&s->gone))
        atomic_store(&s->gone_meanwhile, true);
    host_event_free(never);
}
static const struct engine_ops slow = {.name = "slow", .vcpu_init = slow_init, .vcpu_fini = slow_fini, .run = slow_run, .kick = slow_kick};

static void debug_request(void *v) { vcpu_request(v, VREQ_DEBUG); }

static void kicks_end_first(void **state)
{
    struct vm *vm = new_vm(1, true);
    struct slow s = {0};
    struct host_event *never = host_event_new();

    (void)state;
    engine_interp.vm_fini(vm);
    vm->engine = vm->cpu[0]->engine = &slow;
    vm->engine_priv = &s;
    start(vm);
    while (!atomic_load(&s.running))
        host_event_wait(never, host_now() + 100000);
    struct host_thread *t = host_thread_start("kicker", debug_request, vm->cpu[0]);
    assert_non_null(t);
    while (!atomic_load(&s.kicking))
        host_event_wait(never, host_now() + 100000);
    /* As vm_request_end does, without a kick of this thread's. */
    int none = VM_END_NONE;
    atomic_compare_exchange_strong(&vm->end, &none, VM_END_QUIT);
    atomic_fetch_or(&vm->cpu[0]->requests, VREQ_STOP);
    host_event_set(vm->done);
    assert_int_equal(vm_wait(vm), VM_END_QUIT);
    host_thread_join(t);
    assert_true(atomic_load(&s.gone));
    assert_false(atomic_load(&s.gone_meanwhile));
    host_event_free(never);
    vm->engine_priv = NULL;
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_machines),
        cmocka_unit_test(exclusive_sections),
        cmocka_unit_test(resets),
        cmocka_unit_test(end_at_any_moment),
        cmocka_unit_test(counters),
        cmocka_unit_test(kicks_end_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
