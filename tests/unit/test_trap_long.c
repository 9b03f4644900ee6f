/* Replacement in pages of 64-bit code (engine/trap/long_scan.c): what is found, what makes a page doubtful. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/trap/long_scan.h"

#define KERNEL (LONG_FULL | LONG_SSE | LONG_AVX | LONG_FSGSBASE)

struct fix {
    struct lpage l;
    uint8_t page[4096], copy[4096];
};

static void begin(struct fix *f, unsigned key)
{
    memset(f->page, 0x90, sizeof(f->page));
    long_reset(&f->l, key);
}
static void put(struct fix *f, unsigned at, const char *bytes, unsigned n) { memcpy(f->page + at, bytes, n); }
#define PUT(f, at, s) put(f, at, s, sizeof(s) - 1)
static unsigned follow(struct fix *f, unsigned at) { return long_follow(&f->l, f->page, (struct long_target){(int32_t)at, true}, NULL, NULL); }
static bool seen(const struct fix *f, int32_t at) { return long_seen(&f->l, (struct long_target){at, true}); }
static int judge(struct fix *f) { return long_judge(&f->l, f->page, NULL, f->copy); }

/* Alone in a page of NOPs that was followed: replaced, at its first byte, or left alone. */
static int one(unsigned key, const char *bytes, unsigned n)
{
    struct fix f;

    begin(&f, key);
    put(&f, 0x100, bytes, n);
    follow(&f, 0);
    const int r = judge(&f);
    if (r == 1) {
        assert_int_equal(f.copy[0x100], 0xf4);
        assert_memory_equal(f.copy + 0x101, f.page + 0x101, 4096 - 0x101);
    }
    if (r == 0)
        assert_memory_equal(f.copy, f.page, 4096);
    return r;
}
#define ONE(key, s) one(key, s, sizeof(s) - 1)

static void test_offenders(void **state)
{
    assert_int_equal(ONE(KERNEL, "\x9c"), 1);             /* pushf */
    assert_int_equal(ONE(KERNEL, "\x9d"), 1);             /* popf */
    assert_int_equal(ONE(KERNEL, "\x48\xcf"), 1);         /* iretq */
    assert_int_equal(ONE(KERNEL, "\x48\xcb"), 1);         /* lretq */
    assert_int_equal(ONE(KERNEL, "\x8c\xc8"), 1);         /* mov %cs, %eax */
    assert_int_equal(ONE(KERNEL, "\x8e\xd8"), 1);         /* mov %eax, %ds */
    assert_int_equal(ONE(KERNEL, "\x0f\xa0"), 1);         /* push %fs */
    assert_int_equal(ONE(KERNEL, "\xff\x28"), 1);         /* ljmp *(%rax) */
    assert_int_equal(ONE(KERNEL, "\xff\x18"), 1);         /* lcall *(%rax) */
    assert_int_equal(ONE(KERNEL, "\x0f\x01\x00"), 1);     /* sgdt (%rax) */
    assert_int_equal(ONE(KERNEL, "\x0f\x01\xe0"), 1);     /* smsw %eax */
    assert_int_equal(ONE(KERNEL, "\x0f\x00\xc8"), 1);     /* str %eax */
    assert_int_equal(ONE(KERNEL, "\x66\x0f\x02\xc1"), 1); /* lar */
    assert_int_equal(ONE(KERNEL, "\x0f\x01\xd0"), 1);     /* xgetbv */
    /* These trap by themselves, or need not. */
    assert_int_equal(ONE(KERNEL, "\xfa"), 0);
    assert_int_equal(ONE(KERNEL, "\x0f\x31"), 0);         /* rdtsc, as worlds are set up */
    assert_int_equal(ONE(KERNEL, "\x0f\x01\xf8"), 0);     /* swapgs */
    assert_int_equal(ONE(KERNEL, "\x0f\x22\xd8"), 0);     /* mov %rax, %cr3 */
    assert_int_equal(ONE(KERNEL, "\x0f\x00\xd8"), 0);     /* ltr %eax */
    assert_int_equal(ONE(KERNEL, "\xb8\x9c\x9d\x8c\xcf"), 0); /* in an immediate operand */
    assert_int_equal(ONE(KERNEL, "\xff\x10"), 0);         /* call *(%rax) */
    /* By the state. */
    assert_int_equal(ONE(KERNEL, "\x0f\xa2"), 0);
    assert_int_equal(ONE(KERNEL | LONG_SHOWS_CPUID, "\x0f\xa2"), 1);
    assert_int_equal(ONE(KERNEL, "\xf3\x48\x0f\xae\xc0"), 0); /* rdfsbase %rax */
    assert_int_equal(ONE(KERNEL & ~LONG_FSGSBASE, "\xf3\x48\x0f\xae\xc0"), 1);
    assert_int_equal(ONE(KERNEL, "\x0f\x28\xc1"), 0); /* movaps */
    assert_int_equal(ONE(KERNEL & ~LONG_SSE, "\x0f\x28\xc1"), 1);
    assert_int_equal(ONE(KERNEL, "\xc5\xf8\x28\xc1"), 0);
    assert_int_equal(ONE(KERNEL & ~LONG_AVX, "\xc5\xf8\x28\xc1"), 1);
}

static void test_nothing_seen(void **state)
{
    struct fix f;

    /* Nothing that could offend: all of it may run unseen. */
    begin(&f, KERNEL);
    assert_int_equal(judge(&f), 0);
    /* Code nobody was seen to reach, behind code that was: a sequence of instructions up to the end. */
    PUT(&f, 0x00, "\xc3");
    PUT(&f, 0x40, "\x9c\x58\xc3"); /* pushf; pop %rax; ret */
    PUT(&f, 0x50, "\xb8\x9c\x9c\x9c\x9c\xc3");
    follow(&f, 0);
    assert_false(seen(&f, 0x40));
    assert_int_equal(judge(&f), 1);
    assert_int_equal(f.copy[0x40], 0xf4);
    assert_int_equal(f.copy[0x52], 0x9c);
    /* It is still a trap when execution gets there. */
    assert_true(follow(&f, 0x40) > 0);
    assert_int_equal(judge(&f), 1);
}

static void test_doubt(void **state)
{
    struct fix f;

    /* A table behind the code: not a sequence of instructions (06 is none). */
    begin(&f, KERNEL);
    PUT(&f, 0x00, "\xc3");
    PUT(&f, 0x40, "\x9c\x06\x9d\x06");
    follow(&f, 0);
    assert_int_equal(judge(&f), -1);
    /* Zeros would be, but no program has them: counters. */
    begin(&f, KERNEL);
    PUT(&f, 0x00, "\xc3");
    memset(f.page + 0x40, 0, 0xfc0);
    f.page[0x80] = 0x9c;
    follow(&f, 0);
    assert_int_equal(judge(&f), -1);
    /* Without what could offend the table is nobody's business. */
    f.page[0x80] = 0x9b;
    assert_int_equal(judge(&f), 0);
    /* Once execution has shown what the bytes are, there is no doubt. */
    f.page[0x80] = 0x9c;
    follow(&f, 0x80);
    assert_int_equal(judge(&f), 1);
    assert_int_equal(f.copy[0x80], 0xf4);
    /* Bytes read in two ways, one of which offends. */
    begin(&f, KERNEL);
    PUT(&f, 0x10, "\xb8\x90\x9c\x90\x90\xc3");
    follow(&f, 0x10);
    assert_int_equal(judge(&f), 0);
    follow(&f, 0x11);
    assert_int_equal(judge(&f), -1);
    /* Known to be something else. */
    begin(&f, KERNEL);
    PUT(&f, 0x00, "\xc3");
    PUT(&f, 0x40, "\x9c\x06\x9d\x06");
    uint64_t other[64] = {[1] = 15};
    long_exclude(&f.l, other);
    follow(&f, 0);
    assert_int_equal(judge(&f), 0);
}

/* Data behind a call that does not return, which seem to have an instruction across the code that follows them. */
static void test_behind_a_call(void **state)
{
    struct fix f;

    begin(&f, KERNEL);
    PUT(&f, 0x00, "\xe8\x0b\x00\x00\x00" "\x48\xb8\x06\x06\x06\x06\x06\x06\x06" "\x9c\x06"); /* call 10; data; pushf; what the guest has not */
    PUT(&f, 0x10, "\xc3");
    follow(&f, 0);
    assert_false(seen(&f, 5));
    assert_int_equal(judge(&f), -1);
    follow(&f, 0xe);
    assert_int_equal(judge(&f), 2);
    assert_int_equal(f.copy[0xe], 0xf4);
}

/* Where in a page's first bytes code begins is only known when it is reached. */
static void test_head(void **state)
{
    struct fix f;

    begin(&f, KERNEL);
    PUT(&f, 0x00, "\x9c\xc3"); /* an instruction, or the end of one */
    assert_int_equal(judge(&f), -1);
    f.l.closed = true;
    assert_int_equal(judge(&f), 1);
    f.l.closed = false;
    follow(&f, 0);
    assert_int_equal(judge(&f), 1);
    begin(&f, KERNEL);
    PUT(&f, 0x40, "\x9c\xc3");
    assert_int_equal(judge(&f), 1); /* all ways of reading what is before lead here */
}

static void test_tail(void **state)
{
    struct fix f;

    /* mov $imm32, %eax crosses, which is harmless; 66 alone could be the beginning of anything. */
    begin(&f, KERNEL);
    PUT(&f, 0xffd, "\xb8\x01\x02");
    follow(&f, 0);
    assert_int_equal(f.l.cut, 0xffd);
    struct x86_insn in;
    assert_int_equal(long_tail(&f.l, f.page, f.page, NULL, &in), 2);
    assert_int_equal(judge(&f), 0);
    begin(&f, KERNEL);
    PUT(&f, 0xfff, "\x66");
    follow(&f, 0);
    assert_int_equal(judge(&f), 1);
    assert_int_equal(f.copy[0xfff], 0xf4);
    begin(&f, KERNEL);
    PUT(&f, 0xffe, "\x66\x0f");
    follow(&f, 0);
    assert_int_equal(judge(&f), 1);
    assert_int_equal(f.copy[0xffe], 0xf4);
}

static void test_leads_out(void **state)
{
    struct fix f;
    struct long_target to[16];
    struct long_out out = {.to = to, .cap = 16};

    begin(&f, KERNEL);
    PUT(&f, 0x10, "\x74\x0e\xe8\x00\x10\x00\x00\xe9\x00\xe0\xff\xff"); /* jz 20; call +1000; jmp -2000 */
    PUT(&f, 0x20, "\xeb\x0e");                                       /* jmp 30 */
    PUT(&f, 0x30, "\xc3");
    assert_int_equal(long_follow(&f.l, f.page, (struct long_target){0x10, true}, NULL, &out), 5);
    assert_int_equal(out.n, 2);
    assert_int_equal(out.to[0].to, 0x1017);
    assert_true(out.to[0].sure);
    assert_int_equal(out.to[1].to, 0x1c - 0x2000);
    assert_false(out.to[1].sure); /* if the call returns */
    assert_true(seen(&f, 0x30));
    assert_false(seen(&f, 0x17));
    assert_true(long_seen(&f.l, (struct long_target){0x17, false}));
    assert_false(long_seen(&f.l, (struct long_target){0x1c, false}));
    out.n = 0;
    long_follow(&f.l, f.page, (struct long_target){0x40, true}, NULL, &out);
    assert_int_equal(out.n, 1);
    assert_int_equal(out.to[0].to, 4096);
}

static void test_undefined(void **state)
{
    struct fix f;

    begin(&f, KERNEL);
    PUT(&f, 0x80, "\x74\x7e\x0f\x0b"); /* jz 100; ud2 */
    PUT(&f, 0x100, "\x06"); /* the guest's #UD, whatever the host has there */
    follow(&f, 0);
    assert_int_equal(judge(&f), 1);
    assert_int_equal(f.copy[0x100], 0xf4);
    assert_int_equal(f.copy[0x82], 0x0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offenders), cmocka_unit_test(test_nothing_seen), cmocka_unit_test(test_doubt), cmocka_unit_test(test_behind_a_call), cmocka_unit_test(test_head),
        cmocka_unit_test(test_tail), cmocka_unit_test(test_leads_out), cmocka_unit_test(test_undefined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
