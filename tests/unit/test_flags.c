/* Instructions that read and write RFLAGS, and what privilege lets them change. */
#include "seg_fixture.h"

#define ALL (X86_FL_ARITH | X86_FL_TF | X86_FL_IF | X86_FL_DF | X86_FL_IOPL | X86_FL_NT | X86_FL_RF | X86_FL_AC | X86_FL_VIF | \
             X86_FL_VIP | X86_FL_ID)
#define BASE (X86_FL_ARITH | X86_FL_TF | X86_FL_DF | X86_FL_NT)

/* Which flags IRET and POPF change, from all clear and from all set. */
static void test_flag_masks(void **state)
{
    static const struct {
        const char *insn;
        unsigned len;
        uint16_t cs;
        unsigned iopl;
        bool iret, w16;
        uint32_t mask;
    } t[] = {
        {"\xcf", 1, S_KC, 0, true, false, ALL},
        {"\xcf", 1, S_UC, 0, true, false, BASE | X86_FL_RF | X86_FL_AC | X86_FL_ID},
        {"\xcf", 1, S_UC, 3, true, false, BASE | X86_FL_RF | X86_FL_AC | X86_FL_ID | X86_FL_IF},
        {"\x66\xcf", 2, S_KC, 0, true, true, BASE | X86_FL_IF | X86_FL_IOPL},
        {"\x66\xcf", 2, S_UC, 0, true, true, BASE},
        {"\x9d", 1, S_KC, 0, false, false, BASE | X86_FL_IF | X86_FL_IOPL | X86_FL_AC | X86_FL_ID},
        {"\x9d", 1, S_UC, 2, false, false, BASE | X86_FL_AC | X86_FL_ID},
        {"\x9d", 1, S_UC, 3, false, false, BASE | X86_FL_IF | X86_FL_AC | X86_FL_ID},
        {"\x66\x9d", 2, S_KC, 0, false, true, BASE | X86_FL_IF | X86_FL_IOPL},
        {"\x66\x9d", 2, S_UC, 0, false, true, BASE},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        for (unsigned set = 0; set < 2; set++) {
            struct fx *f = sf_prot(t[i].cs);
            uint32_t old = X86_FL_1 | t[i].iopl << 12, v = set ? ALL : 0, want;

            if (!set)
                old |= ALL & ~(uint32_t)(X86_FL_IOPL | X86_FL_NT); /* NT would make IRET a task return */
            x86_set_rflags(f->c, old);
            if (t[i].w16 && t[i].iret) {
                put16(f, STACK, 0x4444);
                put16(f, STACK + 2, t[i].cs);
                put16(f, STACK + 4, (uint16_t)v);
            } else if (t[i].iret) {
                STACK32(f, 0x4444, t[i].cs, v);
            } else {
                STACK32(f, v);
            }
            assert_int_equal(sf_run(f, t[i].insn, t[i].len), t[i].iret ? X86_BRANCH : X86_OK);
            want = (old & ~t[i].mask) | (v & t[i].mask);
            if (!t[i].iret && !t[i].w16)
                want &= ~(uint32_t)X86_FL_RF; /* POPF clears RF */
            assert_int_equal(x86_get_rflags(f->c), want | X86_FL_1);
            fx_free(f);
        }
    }
}

static void test_cli_sti(void **state)
{
    /* what happens: 'I' changes IF, 'V' changes VIF, 'G' #GP(0) */
    static const struct {
        unsigned cpl, iopl;
        bool v86, ext; /* ext: VME or PVI set */
        char what;
    } t[] = {
        {0, 0, false, false, 'I'}, {3, 3, false, false, 'I'}, {3, 0, false, false, 'G'}, {3, 2, false, true, 'V'},
        {3, 3, false, true, 'I'},  {3, 3, true, false, 'I'},  {3, 0, true, false, 'G'},  {3, 0, true, true, 'V'},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = t[i].v86 ? sf_v86(t[i].iopl) : sf_prot(t[i].cpl ? S_UC : S_KC);
        struct x86_cpu *c = f->c;

        c->fl_sys = (c->fl_sys & X86_FL_VM) | X86_FL_1 | t[i].iopl << 12;
        if (t[i].ext)
            c->cr4 |= t[i].v86 ? X86_CR4_VME : X86_CR4_PVI;
        if (t[i].what == 'G') {
            EXPECT_UNCHANGED(f, "\xfb", X86_GP, 0);
            EXPECT_UNCHANGED(f, "\xfa", X86_GP, 0);
        } else {
            uint32_t bit = t[i].what == 'I' ? X86_FL_IF : X86_FL_VIF;

            assert_int_equal(RUN(f, "\xfb"), X86_OK);
            assert_int_equal(c->fl_sys & (X86_FL_IF | X86_FL_VIF), bit);
            assert_int_equal(c->inhibit_irq, bit == X86_FL_IF); /* shadow only when IF was clear */
            c->inhibit_irq = 0;
            assert_int_equal(RUN(f, "\xfb"), X86_OK);
            assert_int_equal(c->inhibit_irq, 0);
            assert_int_equal(RUN(f, "\xfa"), X86_OK);
            assert_int_equal(c->fl_sys & (X86_FL_IF | X86_FL_VIF), 0);
            c->fl_sys |= X86_FL_VIP;
            if (bit == X86_FL_VIF)
                EXPECT_UNCHANGED(f, "\xfb", X86_GP, 0);
            else
                assert_int_equal(RUN(f, "\xfb"), X86_OK);
        }
        fx_free(f);
    }
}

static void test_pushf_popf_v86(void **state)
{
    struct fx *f = sf_v86(0);
    struct x86_cpu *c = f->c;

    EXPECT_UNCHANGED(f, "\x9c", X86_GP, 0);
    EXPECT_UNCHANGED(f, "\x9d", X86_GP, 0);
    c->cr4 |= X86_CR4_VME;
    EXPECT_UNCHANGED(f, "\x66\x9c", X86_GP, 0);
    EXPECT_UNCHANGED(f, "\x66\x9d", X86_GP, 0);
    c->fl_sys = X86_FL_1 | X86_FL_VM | X86_FL_VIF | X86_FL_RF;
    assert_int_equal(RUN(f, "\x9c"), X86_OK);
    assert_int_equal(get16(f, 0x4ffe), X86_FL_1 | X86_FL_IOPL | X86_FL_IF); /* IF shows VIF, IOPL shows 3 */
    put16(f, 0x4ffe, X86_FL_1 | X86_FL_ZF);
    assert_int_equal(RUN(f, "\x9d"), X86_OK);
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_VM | X86_FL_ZF);
    c->gpr[X86_RSP] = 0xffe;
    c->fl_sys |= X86_FL_VIP;
    put16(f, 0x4ffe, X86_FL_IF);
    EXPECT_UNCHANGED(f, "\x9d", X86_GP, 0);
    put16(f, 0x4ffe, X86_FL_TF);
    EXPECT_UNCHANGED(f, "\x9d", X86_GP, 0);
    /* IOPL 3: IF itself; IOPL does not change */
    c->fl_sys = X86_FL_1 | X86_FL_VM | X86_FL_IOPL;
    put16(f, 0x4ffe, X86_FL_IF);
    assert_int_equal(RUN(f, "\x9d"), X86_OK);
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_VM | X86_FL_IOPL | X86_FL_IF);
    fx_free(f);

    f = sf_long(S_UC64); /* RF and VM read as 0 */
    x86_set_rflags(f->c, ALL | X86_FL_1);
    assert_int_equal(RUN(f, "\x9c"), X86_OK);
    assert_int_equal(fx_get64(f, STACK - 8), (ALL | X86_FL_1) & ~X86_FL_RF);
    assert_int_equal(f->c->gpr[X86_RSP], STACK - 8);
    fx_free(f);
}

static void test_small_flags(void **state)
{
    struct fx *f = sf_long(S_KC64);
    struct x86_cpu *c = f->c;

    c->cr4 |= X86_CR4_SMAP;
    x86_mmu_update_ctx(c);
    assert_ptr_equal(c->mmu.cur, c->mmu.tlb[X86_TLB_SUPER]);
    assert_int_equal(RUN(f, "\x0f\x01\xcb"), X86_OK); /* stac */
    assert_true(c->fl_sys & X86_FL_AC);
    assert_ptr_equal(c->mmu.cur, c->mmu.tlb[X86_TLB_SUPER_AC]);
    assert_int_equal(RUN(f, "\x0f\x01\xca"), X86_OK); /* clac */
    assert_ptr_equal(c->mmu.cur, c->mmu.tlb[X86_TLB_SUPER]);
    fx_put64(f, PT + 8 * 7, 0x7000 | 3); /* a stack that SMAP lets us use */
    x86_tlb_flush_all(c);
    fx_put64(f, STACK - 8, X86_FL_AC); /* popf does the same */
    c->gpr[X86_RSP] = STACK - 8;
    assert_int_equal(RUN(f, "\x9d"), X86_OK);
    assert_ptr_equal(c->mmu.cur, c->mmu.tlb[X86_TLB_SUPER_AC]);
    sf_level(f, S_UC64);
    EXPECT_UNCHANGED(f, "\x0f\x01\xcb", X86_UD, -1);
    EXPECT_UNCHANGED(f, "\x0f\x01\xca", X86_UD, -1);

    x86_set_rflags(c, X86_FL_OF);
    RUN(f, "\xf9");
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_OF | X86_FL_CF);
    RUN(f, "\xf5");
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_OF);
    RUN(f, "\xf5");
    RUN(f, "\xfd");
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_OF | X86_FL_CF | X86_FL_DF);
    RUN(f, "\xf8");
    RUN(f, "\xfc");
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_OF);
    c->gpr[X86_RAX] = 0x1234ff56;
    RUN(f, "\x9e"); /* sahf */
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_OF | 0xd5);
    c->gpr[X86_RAX] = 0;
    RUN(f, "\x9f"); /* lahf */
    assert_int_equal(c->gpr[X86_RAX], 0xd700);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flag_masks), cmocka_unit_test(test_cli_sti), cmocka_unit_test(test_pushf_popf_v86),
        cmocka_unit_test(test_small_flags),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
