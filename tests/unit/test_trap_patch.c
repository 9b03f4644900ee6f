/* Patched code pages (engine/trap/patch.c): what is copied, what stays a trap, what invalidates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/trap/trap.h"

struct fix {
    struct patches p;
    uint8_t ram[4096];
    struct ppage *g;
};

static void begin(struct fix *f, const uint8_t *code, unsigned n, unsigned at)
{
    memset(f->ram, 0x90, sizeof(f->ram));
    memcpy(f->ram + at, code, n);
    assert_int_equal(patches_init(&f->p, 16), 0);
    f->g = patches_add(&f->p, 3, 7, f->ram);
    assert_non_null(f->g);
    assert_ptr_equal(patches_find(&f->p, 3), f->g);
    assert_null(patches_find(&f->p, 4));
}

static void test_offenders_stay_traps(void **state)
{
    struct fix f;
    /* pushf; mov $0x9c, %eax; sgdt (%eax); cli; ret; pushf */
    static const uint8_t code[] = {0x9c, 0xb8, 0x9c, 0, 0, 0, 0x0f, 0x01, 0x00, 0xfa, 0xc3, 0x9c};
    begin(&f, code, sizeof(code), 0x100);
    assert_false(patches_scan(&f.p, f.g, 0x100, X86_MODE_32, false, NULL)); /* the first one traps itself */
    assert_int_equal(f.g->bytes[0x100], 0xf4);
    assert_memory_equal(f.g->bytes + 0x101, code + 1, 5); /* a 9c inside an instruction is none */
    assert_int_equal(f.g->bytes[0x106], 0xf4);
    assert_int_equal(f.g->bytes[0x109], 0xfa); /* traps by itself */
    assert_int_equal(f.g->bytes[0x10a], 0xc3);
    assert_int_equal(f.g->bytes[0x10b], 0xf4); /* not reached, so not looked at */
    assert_int_equal(f.g->bytes[0xff], 0xf4);
    assert_int_equal(f.p.sites, 2);
    assert_memory_equal(f.ram + 0x100, code, sizeof(code)); /* RAM keeps the original */
    patches_fini(&f.p);
}

static void test_follows_branches(void **state)
{
    struct fix f;
    /* 200: jz 210; call 220; jmp 230 */
    static const uint8_t code[] = {0x74, 0x0e, 0xe8, 0x19, 0, 0, 0, 0xeb, 0x27};
    begin(&f, code, sizeof(code), 0x200);
    f.ram[0x210] = f.ram[0x220] = f.ram[0x230] = 0xc3;
    assert_true(patches_scan(&f.p, f.g, 0x200, X86_MODE_32, false, NULL));
    assert_int_equal(f.g->bytes[0x210], 0xc3);
    assert_int_equal(f.g->bytes[0x220], 0xc3);
    assert_int_equal(f.g->bytes[0x230], 0xc3);
    assert_int_equal(f.g->bytes[0x209], 0xf4);
    assert_int_equal(f.g->bytes[0x211], 0xf4);
    patches_fini(&f.p);
}

static void test_edges(void **state)
{
    struct fix f;
    static const uint8_t mov[] = {0x90, 0xb8, 1};
    begin(&f, mov, sizeof(mov), 0xffd); /* the MOV goes on in the next page */
    assert_true(patches_scan(&f.p, f.g, 0xffd, X86_MODE_32, false, NULL));
    assert_int_equal(f.g->bytes[0xffe], 0xf4);
    assert_false(patches_scan(&f.p, f.g, 0xffe, X86_MODE_32, false, NULL));
    patches_fini(&f.p);
}

static void test_invalidation(void **state)
{
    struct fix f;
    static const uint8_t code[] = {0x40, 0xc3};
    begin(&f, code, sizeof(code), 0x300);
    assert_true(patches_scan(&f.p, f.g, 0x300, X86_MODE_32, false, NULL));
    patches_inval(&f.p, f.g, 0x302, 64); /* beside the code */
    assert_int_equal(f.g->bytes[0x300], 0x40);
    patches_inval(&f.p, f.g, 0x2fe, 3);
    assert_int_equal(f.g->bytes[0x300], 0xf4);
    assert_int_equal(f.p.invals, 1);
    f.ram[0x300] = 0x48;
    assert_true(patches_scan(&f.p, f.g, 0x300, X86_MODE_32, false, NULL));
    assert_int_equal(f.g->bytes[0x300], 0x48);
    /* The same bytes as 16-bit code are looked at anew. */
    assert_true(patches_scan(&f.p, f.g, 0x301, X86_MODE_16, false, NULL));
    assert_int_equal(f.g->bytes[0x300], 0xf4);
    patches_del(&f.p, 3);
    assert_null(patches_find(&f.p, 3));
    patches_fini(&f.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offenders_stay_traps),
        cmocka_unit_test(test_follows_branches),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_invalidation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
