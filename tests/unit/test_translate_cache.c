/* A code cache that is too small for the guest: emptied again and again, in the middle of whatever leads to new code, and made larger and smaller. */
#define IM_ENGINE engine_translate
#include "tests/unit/translate_fixture.h"

#define FUNCTIONS 400u
#define FUNCTION_AT(i) (0x400000u + (i) * 0x234u) /* some of them cross pages */
#define LOOPS 6u
#define SMALL (160u << 10) /* four blocks of the longest kind, far less than all of them */

static unsigned put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
    return 4;
}

/* RAX = 3 RAX + k, by way of the stack; adds it to the words at RBX and, half of the time, behind. */
static void put_function(struct im *m, unsigned i, uint32_t k)
{
    uint8_t p[64];
    unsigned n = 0;

    memcpy(p, "\x48\x8d\x84\x40", 4), n = 4; /* lea rax, [rax + 2 rax + k] */
    n += put32(p + n, k);
    memcpy(p + n, "\x50\x59" "\x48\x01\x0b" "\xa8\x01" "\x74\x04" "\x48\x01\x4b\x08" "\xc3", 14); /* push rax; pop rcx; add [rbx], rcx; test al, 1; jz; add [rbx + 8], rcx; ret */
    im_put(m, FUNCTION_AT(i), p, n + 14);
}

/* Calls all of them, R15 times. */
static void put_main(struct im *m)
{
    static uint8_t p[5 * FUNCTIONS + 16];
    unsigned n = 0;

    for (unsigned i = 0; i < FUNCTIONS; i++) {
        p[n++] = 0xe8;
        n += put32(p + n, FUNCTION_AT(i) - (IM_CODE + n + 4));
    }
    memcpy(p + n, "\x41\xff\xcf" "\x0f\x85", 5), n += 5; /* dec r15d; jnz */
    n += put32(p + n, (uint32_t)-(int32_t)(n + 4));
    p[n++] = 0xf4;
    im_put(m, IM_CODE, p, n);
}

static void go(struct im *m, const uint32_t k[FUNCTIONS], unsigned loops)
{
    struct x86_cpu *c = &m->v->cpu;
    uint64_t a = 7, got[2], sum[2] = {0};

    im_long(m, m->v);
    im_put(m, IM_DATA, sum, sizeof(sum));
    c->gpr[X86_RAX] = a;
    c->gpr[X86_RBX] = IM_DATA;
    c->gpr[X86_R15] = loops;
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    for (unsigned n = 0; n < loops; n++)
        for (unsigned i = 0; i < FUNCTIONS; i++) {
            a = 3 * a + k[i];
            sum[0] += a;
            sum[1] += a & 1 ? a : 0;
        }
    memcpy(got, m->vm->ram + IM_DATA, sizeof(got));
    assert_int_equal(c->gpr[X86_RAX], a);
    assert_memory_equal(got, sum, sizeof(sum));
    assert_int_equal(c->gpr[X86_RSP], IM_STACK);
}

static void emptied_with(int one)
{
    struct im *m = im_new(1);
    struct translate *x = translate_of(m->v);
    uint32_t k[FUNCTIONS];

    im_checks(m, one);
    put_main(m);
    for (unsigned i = 0; i < FUNCTIONS; i++)
        put_function(m, i, k[i] = i * 977);
    go(m, k, 2);
    assert_int_equal(x->st.flushed, 1); /* by im_checks: all of it fits */
    for (unsigned n = 1; n < LOOPS; n++) {
        const uint64_t flushed = x->st.flushed;

        x->size.cap = SMALL;
        for (unsigned i = 0; i < n; i++) /* code that changes is translated anew, whatever led to the old one */
            put_function(m, 61 * i, k[61 * i] += 5 + n);
        go(m, k, n);
        assert_true(x->st.flushed >= flushed + 1);
    }
    im_free(m);
}
static void emptied(void **state)
{
    (void)state;
    emptied_with(0);
    emptied_with(1);
}

/* The same code again and again: grown until it fits, and then smaller because it is long until it is full. */
static void grown_and_shrunk(void **state)
{
    struct im *m = im_new(1);
    struct translate *x = translate_of(m->v);
    uint32_t k[FUNCTIONS];

    (void)state;
    put_main(m);
    for (unsigned i = 0; i < FUNCTIONS; i++)
        put_function(m, i, k[i] = i * 31);
    x->size.cap = SMALL;
    go(m, k, 200);
    assert_true(x->size.cap > SMALL);
    const uint64_t flushed = x->st.flushed;
    go(m, k, 200);
    assert_int_equal(x->st.flushed, flushed);

    x->size.cap = TR_CODE_SIZE;
    for (unsigned i = 0; i < 2; i++) {
        const size_t cap = i ? TR_CODE_LEAST : TR_CODE_SIZE / 2;

        x->rw[x->size.cap - 1] = 1;
        tr_size_full(x, x->size.since + 3600000000000ull);
        tr_flush(x);
        assert_int_equal(x->size.cap, cap);
        assert_int_equal(x->rw[cap], 0); /* given back, as is */
        assert_int_equal(x->rw[(i ? TR_CODE_SIZE / 2 : TR_CODE_SIZE) - 1], 0);
        go(m, k, 2);
    }
    im_free(m);
}

static void next_size(void **state)
{
    const uint64_t s = 1000000000;

    (void)state;
    assert_int_equal(tr_size_next(TR_CODE_LEAST, 1000, 400, s / 10), TR_CODE_LEAST); /* new code */
    assert_int_equal(tr_size_next(TR_CODE_LEAST, 1000, 900, 5 * s), TR_CODE_LEAST);  /* seldom enough */
    assert_int_equal(tr_size_next(TR_CODE_LEAST, 1000, 900, s / 10), 2 * TR_CODE_LEAST);
    assert_int_equal(tr_size_next(2 * TR_CODE_LEAST, 1000, 900, s / 10), TR_CODE_SIZE);
    assert_int_equal(tr_size_next(TR_CODE_SIZE, 1000, 900, s / 10), TR_CODE_SIZE);
    assert_int_equal(tr_size_next(TR_CODE_SIZE, 1000, 900, 5 * s), TR_CODE_SIZE);
    assert_int_equal(tr_size_next(TR_CODE_SIZE, 1000, 900, 100 * s), TR_CODE_SIZE / 2);
    assert_int_equal(tr_size_next(TR_CODE_SIZE / 2, 1000, 900, 100 * s), TR_CODE_LEAST);
    assert_int_equal(tr_size_next(TR_CODE_LEAST, 1000, 900, 100 * s), TR_CODE_LEAST);
    assert_int_equal(tr_size_next(TR_CODE_LEAST, 0, 0, 0), TR_CODE_LEAST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(emptied), cmocka_unit_test(grown_and_shrunk), cmocka_unit_test(next_size)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
