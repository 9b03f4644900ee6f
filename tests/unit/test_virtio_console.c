/* Virtio console: output with back pressure, input through the FIFO. */
#include "tests/unit/virtio_fixture.h"

#include "dev/virtio/virtio_console.h"

static struct back {
    char out[300000];
    size_t n, limit; /* takes at most limit bytes altogether */
    unsigned accepts;
} back;
static struct chardev_sink sink;

static size_t cd_write(void *ctx, const uint8_t *buf, size_t n)
{
    struct back *b = ctx;
    if (n > b->limit - b->n)
        n = b->limit - b->n;
    memcpy(b->out + b->n, buf, n);
    b->n += n;
    return n;
}
static void cd_accept(void *ctx)
{
    ((struct back *)ctx)->accepts++;
}

/* Input is held for a moment after the driver has posted its first buffer. */
static void settle(struct fix *f)
{
    f->now += 100000000;
    clock_run(f->clock);
}

static int setup(void **st)
{
    struct fix *f = fix_new();
    memset(&back, 0, sizeof back);
    back.limit = sizeof back.out;
    struct chardev cd = {&back, cd_write, cd_accept};
    f->d = virtio_console_new(&f->env, f->bus, 2, &cd, &sink, 0, 0);
    f->slot = 2;
    assert_non_null(f->d);
    assert_int_equal(offered(f) & 1, 0); /* size unknown */
    bring_up(f, VIRTIO_F_EVENT_IDX, 16);
    kick(f, 0);
    settle(f);
    *st = f;
    return 0;
}
static int teardown(void **st)
{
    fix_free(*st);
    return 0;
}

static void test_output(void **st)
{
    struct fix *f = *st;
    uint32_t id = 0, len = 0;
    memcpy(at(f, HEAP), "one two three", 13);
    struct seg a[] = {{HEAP, 4, false}, {HEAP + 8, 5, false}}, b = {HEAP + 4, 3, false};
    uint16_t h = add_chain(f, 1, a, 2);
    add_chain(f, 1, &b, 1);
    kick(f, 1);
    assert_string_equal(back.out, "one threetwo");
    assert_true(get_used(f, 1, &id, &len) && id == h && len == 0);
    assert_true(get_used(f, 1, &id, &len));
    assert_int_equal(f->msi_data, 0x42);
    assert_true(clock_next(f->clock) == UINT64_MAX);
}

static void test_back_pressure(void **st)
{
    struct fix *f = *st;
    uint32_t id = 0, len = 0;
    for (unsigned i = 0; i < 200000; i++)
        ((uint8_t *)at(f, HEAP))[i] = (uint8_t)(i * 7);
    struct seg s = {HEAP, 200000, false}, t = {HEAP, 1, false};
    back.limit = 1500;
    add_chain(f, 1, &s, 1);
    add_chain(f, 1, &t, 1);
    kick(f, 1);
    assert_int_equal(back.n, 1500);
    assert_false(get_used(f, 1, &id, &len));
    kick(f, 1); /* the driver insists: the order stays */
    back.limit = sizeof back.out;
    uint64_t fired = clock_fired(f->clock);
    f->now += 1000000;
    clock_run(f->clock);
    assert_true(clock_next(f->clock) == UINT64_MAX);
    assert_in_range(clock_fired(f->clock) - fired, 4, 5); /* 64 KiB at a time */
    assert_int_equal(back.n, 200001);
    assert_memory_equal(back.out, at(f, HEAP), 200000);
    assert_true(get_used(f, 1, &id, &len));
    assert_true(get_used(f, 1, &id, &len));
    assert_false(get_used(f, 1, &id, &len));
    /* a reset in the middle */
    back.limit = back.n + 10;
    add_chain(f, 1, &s, 1);
    kick(f, 1);
    set_status(f, 0);
    assert_true(clock_next(f->clock) == UINT64_MAX);
    back.limit = sizeof back.out;
    bring_up(f, 0, 16);
    kick(f, 1);
    assert_false(get_used(f, 1, &id, &len));
    assert_int_equal(back.n, 200011);
}

static void test_input(void **st)
{
    struct fix *f = *st;
    uint32_t id = 0, len = 0;
    struct seg s[] = {{HEAP, 4, true}, {HEAP + 4, 4, true}};
    add_chain(f, 0, s, 2);
    kick(f, 0);
    assert_false(get_used(f, 0, &id, &len));
    sink.input(sink.ctx, (const uint8_t *)"abcde", 5);
    assert_true(get_used(f, 0, &id, &len));
    assert_int_equal(len, 5);
    assert_memory_equal(at(f, HEAP), "abcde\0", 6);
    assert_int_equal(back.accepts, 1);
    /* no buffers: it waits, the room shrinks, nothing is lost */
    size_t room = sink.room(sink.ctx);
    assert_int_equal(room, 4096);
    uint8_t blob[4096];
    for (unsigned i = 0; i < sizeof blob; i++)
        blob[i] = (uint8_t)(i * 13 + i / 256);
    sink.input(sink.ctx, blob, 4000);
    sink.input(sink.ctx, blob + 4000, 96);
    assert_int_equal(sink.room(sink.ctx), 0);
    sink.input(sink.ctx, blob, 1); /* beyond the room: dropped */
    assert_int_equal(back.accepts, 1);
    struct seg big = {HEAP + 0x1000, 3000, true}, rest = {HEAP + 0x2000, 3000, true}, out = {HEAP, 1, false};
    add_chain(f, 0, &out, 1); /* a buffer that holds nothing goes back empty */
    add_chain(f, 0, &big, 1);
    kick(f, 0);
    assert_true(get_used(f, 0, &id, &len) && len == 0);
    assert_true(get_used(f, 0, &id, &len) && len == 3000);
    assert_int_equal(sink.room(sink.ctx), 3000);
    assert_int_equal(back.accepts, 2);
    add_chain(f, 0, &rest, 1);
    kick(f, 0);
    assert_true(get_used(f, 0, &id, &len) && len == 1096);
    assert_memory_equal(at(f, HEAP + 0x1000), blob, 3000);
    assert_memory_equal(at(f, HEAP + 0x2000), blob + 3000, 1096);
    assert_int_equal(sink.room(sink.ctx), 4096);
}

static void test_input_before_driver(void **st)
{
    struct fix *f = *st;
    uint32_t id = 0, len = 0;
    set_status(f, 0);
    sink.input(sink.ctx, (const uint8_t *)"early", 5);
    assert_int_equal(sink.room(sink.ctx), 4091);
    bring_up(f, 0, 16);
    struct seg s = {HEAP, 64, true};
    add_chain(f, 0, &s, 1);
    kick(f, 0);
    f->now += 50000000;
    clock_run(f->clock);
    assert_false(get_used(f, 0, &id, &len));
    settle(f);
    assert_true(get_used(f, 0, &id, &len) && len == 5);
    assert_memory_equal(at(f, HEAP), "early", 5);
}

int main(void)
{
#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_output), T(test_back_pressure), T(test_input),
                                       T(test_input_before_driver)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
