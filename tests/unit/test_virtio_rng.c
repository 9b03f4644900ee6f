/* Virtio entropy device. */
#include "tests/unit/virtio_fixture.h"

#include "dev/virtio/virtio_rng.h"

static struct source {
    int rc;
    unsigned calls;
    uint64_t bytes;
} src;

static int fill(void *ctx, void *buf, size_t n)
{
    struct source *s = ctx;
    s->calls++;
    if (s->rc)
        return s->rc;
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)buf)[i] = (uint8_t)(s->bytes + i + 1);
    s->bytes += n;
    return 0;
}

static int setup(void **st)
{
    struct fix *f = fix_new();
    src = (struct source){0};
    struct entropy e = {&src, fill};
    f->d = virtio_rng_new(&f->env, f->bus, 2, &e);
    f->slot = 2;
    assert_non_null(f->d);
    bring_up(f, VIRTIO_F_INDIRECT_DESC, 16);
    *st = f;
    return 0;
}
static int teardown(void **st)
{
    fix_free(*st);
    return 0;
}

static void test_fill(void **st)
{
    struct fix *f = *st;
    uint32_t id = 0, len = 0;
    struct seg s[] = {{HEAP, 3, true}, {HEAP + 100, 5, true}}, big = {HEAP + 0x1000, 100000, true},
               none = {HEAP, 9, false};
    uint16_t h = add_chain(f, 0, s, 2);
    kick(f, 0);
    assert_true(get_used(f, 0, &id, &len));
    assert_true(id == h && len == 8 && src.bytes == 8);
    assert_memory_equal(at(f, HEAP), "\1\2\3\0", 4);
    assert_memory_equal(at(f, HEAP + 100), "\4\5\6\7\10\0", 6);
    add_chain(f, 0, &big, 1);
    add_chain(f, 0, &none, 1); /* no room: returned empty */
    kick(f, 0);
    assert_true(get_used(f, 0, &id, &len));
    assert_int_equal(len, 4096);
    assert_int_equal(((uint8_t *)at(f, HEAP + 0x1000))[4096], 0);
    assert_true(get_used(f, 0, &id, &len));
    assert_int_equal(len, 0);
    assert_int_equal(f->msi_count, 2);
}

static void test_failing_source(void **st)
{
    struct fix *f = *st;
    uint32_t id = 0, len = 0;
    struct seg s = {HEAP, 8, true};
    src.rc = -1;
    add_chain(f, 0, &s, 1);
    add_chain(f, 0, &s, 1);
    kick(f, 0);
    assert_false(get_used(f, 0, &id, &len));
    assert_true(clock_next(f->clock) > f->now && clock_next(f->clock) != UINT64_MAX);
    f->now += 1000000000;
    clock_run(f->clock);
    assert_int_equal(src.calls, 2);
    src.rc = 0;
    f->now += 1000000000;
    clock_run(f->clock);
    assert_true(get_used(f, 0, &id, &len) && len == 8);
    assert_true(get_used(f, 0, &id, &len) && len == 8);
    assert_true(clock_next(f->clock) == UINT64_MAX);
    /* a reset forgets the waiting request and its timer */
    src.rc = -1;
    add_chain(f, 0, &s, 1);
    kick(f, 0);
    set_status(f, 0);
    assert_true(clock_next(f->clock) == UINT64_MAX);
    src.rc = 0;
    bring_up(f, 0, 16);
    kick(f, 0);
    assert_false(get_used(f, 0, &id, &len));
}

int main(void)
{
#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_fill), T(test_failing_source)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
