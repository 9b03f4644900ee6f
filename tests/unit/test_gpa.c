/* The guest-physical map against a byte-array model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ringer/gpa.h"

#define LIMIT 0x40000u
static uint8_t host_mem[LIMIT];
static uint32_t host_flags[LIMIT / 4096];

static struct gpa_range ram(uint64_t start, uint64_t size)
{
    return (struct gpa_range){.start = start,
                              .size = size,
                              .kind = GPA_RAM,
                              .host = host_mem + start,
                              .page_flags = host_flags + start / 4096,
                              .host_off = start,
                              .name = "ram"};
}

static struct gpa_range io(uint64_t start, uint64_t size, uint32_t bank)
{
    return (struct gpa_range){.start = start, .size = size, .kind = GPA_IO, .bank = bank, .name = "io"};
}

static void check_sorted(const struct gpa_map *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        assert_true(m->r[i].size > 0);
        if (i)
            assert_true(m->r[i - 1].start + m->r[i - 1].size <= m->r[i].start);
    }
}

static void find_and_bounds(void **state)
{
    struct gpa_map *m = gpa_begin(NULL, LIMIT);
    struct gpa_range a = ram(0x1000, 0x3000), d = io(0x8010, 0x10, 7), rom = ram(0x10000, 0x1000);

    (void)state;
    rom.kind = GPA_ROM;
    assert_int_equal(gpa_add(m, &a), 0);
    assert_int_equal(gpa_add(m, &d), 0);
    assert_int_equal(gpa_add(m, &rom), 0);
    assert_null(gpa_find(m, 0xfff));
    assert_int_equal(gpa_find(m, 0x1000)->start, 0x1000);
    assert_int_equal(gpa_find(m, 0x3fff)->start, 0x1000);
    assert_null(gpa_find(m, 0x4000));
    assert_int_equal(gpa_find(m, 0x801f)->bank, 7);
    assert_null(gpa_find(m, 0x8020));
    assert_null(gpa_find(m, UINT64_MAX));

    assert_ptr_equal(gpa_host(m, 0x1234, 0x10, true), host_mem + 0x1234);
    assert_ptr_equal(gpa_host(m, 0x1000, 0x3000, true), host_mem + 0x1000);
    assert_null(gpa_host(m, 0x1000, 0x3001, true));
    assert_null(gpa_host(m, 0x1001, UINT64_MAX, false)); /* would wrap */
    assert_null(gpa_host(m, 0x8010, 1, false));          /* a device is no memory */
    assert_ptr_equal(gpa_host(m, 0x10000, 1, false), host_mem + 0x10000);
    assert_null(gpa_host(m, 0x10000, 1, true)); /* ROM */

    assert_ptr_equal(gpa_page_flags(m, 0x2fff), &host_flags[2]);
    assert_ptr_equal(gpa_page_flags(m, 0x10000), &host_flags[16]);
    assert_null(gpa_page_flags(m, 0x8010));
    assert_null(gpa_page_flags(m, 0));
    gpa_free(m);
}

static void refusals(void **state)
{
    struct gpa_map *m = gpa_begin(NULL, LIMIT);
    struct gpa_range a = ram(0x1000, 0x4000), bad;

    (void)state;
    bad = ram(0x800, 0x1000);
    assert_int_equal(gpa_add(m, &bad), -1);
    bad = ram(0x1000, 0x800);
    assert_int_equal(gpa_add(m, &bad), -1);
    bad = io(LIMIT - 8, 16, 0);
    assert_int_equal(gpa_add(m, &bad), -1);
    bad = io(16, UINT64_MAX - 8, 0);
    assert_int_equal(gpa_add(m, &bad), -1);
    bad = io(16, 0, 0);
    assert_int_equal(gpa_add(m, &bad), -1);
    assert_int_equal(m->n, 0);
    assert_int_equal(gpa_add(m, &a), 0);
    /* a device that would leave RAM in part of a page */
    bad = io(0x2100, 0x100, 0);
    assert_int_equal(gpa_add(m, &bad), -1);
    assert_int_equal(gpa_del(m, 0x2000, 0x80), -1);
    assert_int_equal(m->n, 1);
    assert_int_equal(m->r[0].size, 0x4000);
    gpa_free(m);
}

static void split_keeps_pointers(void **state)
{
    struct gpa_map *m = gpa_begin(NULL, LIMIT), *copy;
    struct gpa_range a = ram(0, 0x10000), hole = io(0x4000, 0x2000, 1), dev = io(0x20000, 0x100, 2),
                     sub = io(0x20040, 8, 3);

    (void)state;
    gpa_add(m, &a);
    copy = gpa_begin(m, LIMIT);
    assert_int_equal(gpa_add(copy, &hole), 0);
    assert_int_equal(copy->n, 3);
    assert_int_equal(m->n, 1); /* the source is untouched */
    assert_ptr_equal(gpa_host(copy, 0x3fff, 1, true), host_mem + 0x3fff);
    assert_ptr_equal(gpa_host(copy, 0x6000, 0xa000, true), host_mem + 0x6000);
    assert_null(gpa_host(copy, 0x3fff, 2, true));
    assert_int_equal(gpa_find(copy, 0x6000)->host_off, 0x6000);
    assert_ptr_equal(gpa_page_flags(copy, 0x7000), &host_flags[7]);
    /* the tail of a split device range knows its register offset */
    gpa_add(copy, &dev);
    gpa_add(copy, &sub);
    assert_int_equal(gpa_find(copy, 0x20048)->bank, 2);
    assert_int_equal(gpa_find(copy, 0x20048)->host_off, 0x48);
    assert_int_equal(gpa_find(copy, 0x20047)->bank, 3);
    assert_int_equal(gpa_find(copy, 0x20000)->host_off, 0);
    check_sorted(copy);
    gpa_free(copy);
    gpa_free(m);
}

/* Random adds and deletes of page-sized things, compared with an array of owners. */
static void random_against_model(void **state)
{
    enum { PAGES = LIMIT / 4096 };
    unsigned seed = 12345;

    (void)state;
    for (unsigned round = 0; round < 200; round++) {
        int owner[PAGES];
        struct gpa_map *m = gpa_begin(NULL, LIMIT);

        memset(owner, 0xff, sizeof(owner));
        for (unsigned step = 0; step < 60; step++) {
            unsigned s = rand_r(&seed) % PAGES, n = 1 + rand_r(&seed) % (PAGES - s);
            int op = rand_r(&seed) % 4;

            if (n > 12)
                n = n % 12 + 1;
            if (op == 0) {
                assert_int_equal(gpa_del(m, s * 4096ull, n * 4096ull), 0);
                for (unsigned i = s; i < s + n; i++)
                    owner[i] = -1;
            } else if (op == 1) {
                struct gpa_range r = ram(s * 4096ull, n * 4096ull);

                assert_int_equal(gpa_add(m, &r), 0);
                for (unsigned i = s; i < s + n; i++)
                    owner[i] = 0;
            } else {
                struct gpa_range r = io(s * 4096ull, n * 4096ull, step + 1);

                assert_int_equal(gpa_add(m, &r), 0);
                for (unsigned i = s; i < s + n; i++)
                    owner[i] = (int)step + 1;
            }
            check_sorted(m);
        }
        for (unsigned i = 0; i < PAGES; i++) {
            const struct gpa_range *r = gpa_find(m, i * 4096ull + 77);

            if (owner[i] < 0) {
                assert_null(r);
            } else {
                assert_non_null(r);
                assert_int_equal(r->kind == GPA_RAM ? 0 : (int)r->bank, owner[i]);
                if (r->kind == GPA_RAM) {
                    assert_ptr_equal(gpa_host(m, i * 4096ull, 4096, true), host_mem + i * 4096ull);
                    assert_ptr_equal(gpa_page_flags(m, i * 4096ull), &host_flags[i]);
                }
            }
        }
        gpa_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(find_and_bounds),
        cmocka_unit_test(refusals),
        cmocka_unit_test(split_keeps_pointers),
        cmocka_unit_test(random_against_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
