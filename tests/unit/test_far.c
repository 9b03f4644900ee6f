/* Far JMP, CALL, RET, IRET, system calls and software interrupts, in every mode. */
#include "seg_fixture.h"

enum { OK = -2 };

/* jmp/call ptr16:32 to sel:0x00123456 */
static int far32(struct fx *f, bool call, uint16_t sel)
{
    char b[7] = {(char)(call ? 0x9a : 0xea), 0x56, 0x34, 0x12, 0, (char)sel, (char)(sel >> 8)};

    return sf_run(f, b, 7);
}

/* --- JMP and CALL ------------------------------------------------------------- */

static void test_real(void **state)
{
    struct fx *f = sf_real();

    assert_int_equal(RUN(f, "\xea\x34\x12\x78\x56"), X86_BRANCH);
    assert_int_equal(f->c->seg[X86_CS].sel, 0x5678);
    assert_int_equal(f->c->seg[X86_CS].base, 0x56780);
    assert_int_equal(f->c->rip, 0x1234);
    assert_int_equal(RUN(f, "\x9a\x00\x01\x00\x20"), X86_BRANCH);
    assert_int_equal(f->c->rip, 0x100);
    assert_int_equal(f->c->gpr[X86_RSP], STACK - 4);
    assert_int_equal(get16(f, STACK - 4), 0x1239);
    assert_int_equal(get16(f, STACK - 2), 0x5678);
    assert_int_equal(RUN(f, "\xcb"), X86_BRANCH);
    assert_int_equal(f->c->rip, 0x1239);
    assert_int_equal(f->c->seg[X86_CS].sel, 0x5678);
    assert_int_equal(f->c->gpr[X86_RSP], STACK);
    assert_int_equal(RUN(f, "\x66\x9a\x00\x01\x00\x00\x00\x20"), X86_BRANCH); /* 32-bit operands */
    assert_int_equal(f->c->gpr[X86_RSP], STACK - 8);
    assert_int_equal(fx_get32(f, STACK - 8), 0x1241);
    assert_int_equal(RUN(f, "\x66\xca\x02\x00"), X86_BRANCH);
    assert_int_equal(f->c->gpr[X86_RSP], STACK + 2);
    EXPECT_UNCHANGED(f, "\x66\xea\x00\x00\x01\x00\x00\x20", X86_GP, 0); /* beyond the limit of 64 KiB */
    /* through memory */
    fx_put32(f, 0x6000, 0x44443333);
    assert_int_equal(RUN(f, "\xff\x2e\x00\x60"), X86_BRANCH);
    assert_int_equal(f->c->rip, 0x3333);
    assert_int_equal(f->c->seg[X86_CS].sel, 0x4444);
    fx_free(f);
}

static void test_jmp_call_code(void **state)
{
    static const struct {
        uint16_t cs, sel;
        int vec, err;
    } t[] = {
        {S_KC, S_KC, OK, 0},
        {S_KC, S_KC | 3, X86_GP, S_KC},
        {S_KC, S_UC, X86_GP, S_UC & ~3},
        {S_UC, S_UC & ~3, OK, 0},
        {S_UC, S_KC, X86_GP, S_KC},
        {S_UC, S_CONF, OK, 0},
        {S_UC, S_CONF | 3, OK, 0},
        {S_KC, S_CONFR, X86_GP, S_CONFR},
        {S_KC, S_NPC, X86_NP, S_NPC},
        {S_KC, S_KD, X86_GP, S_KD},
        {S_KC, 0, X86_GP, 0},
        {S_KC, 3, X86_GP, 0},
        {S_KC, S_END, X86_GP, S_END},
        {S_KC, S_LDT, X86_GP, S_LDT},
        {S_KC, S_KC16, X86_GP, 0}, /* offset beyond the limit */
        {S_KC, S_TSS, X86_GP, S_TSS}, /* busy */
        {S_UC, S_TSSB, X86_GP, S_TSSB},
        {S_UC, S_TASKG, X86_GP, S_TASKG},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        for (unsigned call = 0; call < 2; call++) {
            struct fx *f = sf_prot(t[i].cs);
            unsigned cpl = f->c->cpl;
            struct regs before = regs_of(f->c), after;
            int r = far32(f, call, t[i].sel);

            if (t[i].vec == OK) {
                assert_int_equal(r, X86_BRANCH);
                assert_int_equal(f->c->rip, 0x123456);
                assert_int_equal(f->c->cpl, cpl);
                assert_int_equal(f->c->seg[X86_CS].sel, (t[i].sel & ~3) | cpl);
                assert_int_equal(f->c->gpr[X86_RSP], STACK - 8 * call);
                if (call) {
                    assert_int_equal(fx_get32(f, STACK - 4), t[i].cs);
                    assert_int_equal(fx_get32(f, STACK - 8), CODE + 7);
                }
            } else {
                expect(f, r, (unsigned)t[i].vec, t[i].err);
                after = regs_of(f->c);
                assert_memory_equal(&before, &after, sizeof(before));
            }
            fx_free(f);
        }
    }

    struct fx *f = sf_prot(S_KC); /* no room for the return address */

    f->c->gpr[X86_RSP] = 4;
    f->c->seg[X86_SS].limit = 0x7fff;
    EXPECT_UNCHANGED(f, "\x9a\x00\x00\x00\x00\x08\x00", X86_SSF, 0);
    sf_seg(f, X86_SS, S_KD);
    sf_paging32(f);
    fx_put32(f, PT32 + 4 * 8, 0);
    f->c->gpr[X86_RSP] = 0x8004; /* half of it on a missing page */
    EXPECT_UNCHANGED(f, "\x9a\x00\x00\x00\x00\x08\x00", X86_PF, 2);
    assert_int_equal(f->c->exc.cr2, 0x8000);
    fx_free(f);
}

static void test_call_gates(void **state)
{
    static const struct {
        uint16_t cs, gate_rpl, target;
        unsigned access; /* of the gate */
        bool call;
        int vec, err;
        unsigned new_cpl;
    } t[] = {
        {S_UC, 3, S_KC, 0xec, true, OK, 0, 0},
        {S_UC, 3, S_KC, 0xec, false, X86_GP, S_KC, 0},        /* JMP does not change privilege */
        {S_UC, 3, S_C1 & ~3, 0xec, true, OK, 0, 1},
        {S_UC, 3, S_CONF, 0xec, true, OK, 0, 3},
        {S_UC, 3, S_CONF, 0xec, false, OK, 0, 3},
        {S_UC, 3, S_UC, 0xec, false, OK, 0, 3},
        {S_UC, 0, S_KC, 0x8c, true, X86_GP, S_GATE, 0},       /* gate DPL < CPL */
        {S_KC, 3, S_KC, 0x8c, true, X86_GP, S_GATE, 0},       /* gate DPL < RPL */
        {S_KC, 0, S_KC, 0x8c, true, OK, 0, 0},
        {S_KC, 0, S_UC, 0x8c, true, X86_GP, S_UC & ~3, 0},    /* outward */
        {S_KC, 0, S_KC, 0x0c, true, X86_NP, S_GATE, 0},
        {S_KC, 0, 0, 0x8c, true, X86_GP, 0, 0},
        {S_KC, 0, S_KD, 0x8c, true, X86_GP, S_KD, 0},
        {S_KC, 0, S_NPC, 0x8c, true, X86_NP, S_NPC, 0},
        {S_KC, 0, S_END, 0x8c, true, X86_GP, S_END, 0},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = sf_prot(t[i].cs);
        struct regs before = regs_of(f->c), after;
        uint64_t top;
        int r;

        gdt_put(f, S_GATE, mkgate(t[i].target, 0x00654321, t[i].access, 2));
        STACK32(f, 0x1111, 0x2222, 0x3333);
        r = far32(f, t[i].call, S_GATE | t[i].gate_rpl);
        if (t[i].vec != OK) {
            expect(f, r, (unsigned)t[i].vec, t[i].err);
            after = regs_of(f->c);
            assert_memory_equal(&before, &after, sizeof(before));
            fx_free(f);
            continue;
        }
        assert_int_equal(r, X86_BRANCH);
        assert_int_equal(f->c->rip, 0x654321);
        assert_int_equal(f->c->cpl, t[i].new_cpl);
        assert_int_equal(f->c->seg[X86_CS].sel, (t[i].target & ~3) | t[i].new_cpl);
        if (t[i].new_cpl == (t[i].cs & 3u)) {
            assert_int_equal(f->c->gpr[X86_RSP], STACK - (t[i].call ? 8 : 0));
        } else {
            top = t[i].new_cpl ? R1STACK : KSTACK;
            assert_int_equal(f->c->gpr[X86_RSP], top - 24);
            assert_int_equal(fx_get32(f, top - 4), S_UD);
            assert_int_equal(fx_get32(f, top - 8), STACK);
            assert_int_equal(fx_get32(f, top - 12), 0x2222); /* parameters in the same order */
            assert_int_equal(fx_get32(f, top - 16), 0x1111);
            assert_int_equal(fx_get32(f, top - 20), S_UC);
            assert_int_equal(fx_get32(f, top - 24), CODE + 7);
            /* and back, releasing the parameters on both stacks */
            assert_int_equal(RUN(f, "\xca\x08\x00"), X86_BRANCH);
            assert_int_equal(f->c->cpl, 3);
            assert_int_equal(f->c->rip, CODE + 7);
            assert_int_equal(f->c->gpr[X86_RSP], STACK + 8);
            assert_int_equal(f->c->seg[X86_SS].sel, S_UD);
        }
        fx_free(f);
    }

    /* 16-bit gate: 16-bit offset, words on the stack */
    struct fx *f = sf_prot(S_UC);

    gdt_put(f, S_GATE, mkgate(S_KC, 0x00654321, 0xe4, 1));
    STACK32(f, 0xaaaabbbb);
    assert_int_equal(far32(f, true, S_GATE | 3), X86_BRANCH);
    assert_int_equal(f->c->rip, 0x4321);
    assert_int_equal(f->c->gpr[X86_RSP], KSTACK - 10);
    assert_int_equal(get16(f, KSTACK - 6), 0xbbbb);
    assert_int_equal(get16(f, KSTACK - 10), CODE + 7);
    /* inner stack unusable */
    sf_level(f, S_UC);
    fx_put32(f, TSS + 8, S_NPD);
    EXPECT_UNCHANGED(f, "\x9a\x00\x00\x00\x00\xc3\x00", X86_SSF, S_NPD);
    fx_put32(f, TSS + 8, 0);
    EXPECT_UNCHANGED(f, "\x9a\x00\x00\x00\x00\xc3\x00", X86_TS, 0);
    fx_put32(f, TSS + 8, S_UD);
    EXPECT_UNCHANGED(f, "\x9a\x00\x00\x00\x00\xc3\x00", X86_TS, S_UD & ~3);
    f->c->tr.limit = 8;
    EXPECT_UNCHANGED(f, "\x9a\x00\x00\x00\x00\xc3\x00", X86_TS, S_TSS);
    fx_free(f);
}

static void test_long_far(void **state)
{
    struct fx *f = sf_long(S_UC64);
    struct x86_cpu *c = f->c;

    /* 64-bit call gate, inward */
    gdt_put(f, S_GATE, mkgate(S_KC64, 0x12345678, 0xec, 0));
    fx_put64(f, GDT + S_GATE + 8, 0xffff8000);
    fx_put64(f, 0x6000, 0xdddddddd00000000 | (uint64_t)(S_GATE | 3) << 32);
    c->gpr[X86_RAX] = 0x6000;
    fx_put32(f, 0x6004, S_GATE | 3);
    assert_int_equal(RUN(f, "\xff\x18"), X86_BRANCH); /* call far [rax] */
    assert_int_equal(c->rip, 0xffff800012345678);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->seg[X86_SS].sel, 0);
    assert_int_equal(c->gpr[X86_RSP], KSTACK - 32);
    assert_int_equal(fx_get64(f, KSTACK - 8), S_UD);
    assert_int_equal(fx_get64(f, KSTACK - 16), STACK);
    assert_int_equal(fx_get64(f, KSTACK - 24), S_UC64);
    assert_int_equal(fx_get64(f, KSTACK - 32), CODE + 2);
    assert_int_equal(RUN(f, "\x48\xcb"), X86_BRANCH); /* retfq */
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->rip, CODE + 2);
    assert_int_equal(c->gpr[X86_RSP], STACK);
    assert_int_equal(c->seg[X86_SS].sel, S_UD);

    /* the gate must be a 64-bit one to 64-bit code */
    fx_put64(f, GDT + S_GATE + 8, 0xffff8000 | 1ull << 40);
    EXPECT_UNCHANGED(f, "\xff\x18", X86_GP, S_GATE);
    fx_put64(f, GDT + S_GATE + 8, 0x8000);
    EXPECT_UNCHANGED(f, "\xff\x18", X86_GP, 0); /* target not canonical */
    fx_put64(f, GDT + S_GATE + 8, 0);
    gdt_put(f, S_GATE, mkgate(S_KC, 0x12345678, 0xec, 0));
    EXPECT_UNCHANGED(f, "\xff\x18", X86_GP, S_KC);
    gdt_put(f, S_GATE, mkgate(S_KC64, 0x12345678, 0xe4, 0)); /* no 16-bit call gates */
    EXPECT_UNCHANGED(f, "\xff\x18", X86_GP, S_GATE);
    fx_put32(f, 0x6004, S_TSSB);
    EXPECT_UNCHANGED(f, "\xff\x18", X86_GP, S_TSSB); /* no task switch */

    /* jump to compatibility mode and back */
    fx_put32(f, 0x6000, 0x5000);
    fx_put32(f, 0x6004, S_UC);
    assert_int_equal(RUN(f, "\xff\x28"), X86_BRANCH);
    assert_int_equal(c->mode, X86_MODE_32);
    assert_int_equal(RUN(f, "\xea\x00\x40\x00\x00\x33\x00"), X86_BRANCH);
    assert_int_equal(c->mode, X86_MODE_64);
    assert_int_equal(c->rip, 0x4000);
    /* REX.W takes a 64-bit offset */
    fx_put64(f, 0x6000, 0x00007fff00001000);
    put16(f, 0x6008, S_UC64);
    assert_int_equal(RUN(f, "\x48\xff\x28"), X86_BRANCH);
    assert_int_equal(c->rip, 0x00007fff00001000);
    fx_put64(f, 0x6000, 0x0000800000001000);
    EXPECT_UNCHANGED(f, "\x48\xff\x28", X86_GP, 0);
    /* L and D together */
    gdt_put(f, S_CONFR, mkdesc(0, 0xfffff, 0xff, 0xe));
    fx_put64(f, 0x6000, 0x1000);
    put16(f, 0x6008, S_CONFR);
    EXPECT_UNCHANGED(f, "\x48\xff\x28", X86_GP, S_CONFR);
    fx_free(f);
}

/* --- returns --------------------------------------------------------------------- */

static void test_return_checks(void **state)
{
    static const struct {
        uint16_t cs, ret, ss;
        int vec, err;
    } t[] = {
        {S_KC, S_KC, 0, OK, 0},
        {S_KC, S_UC, S_UD, OK, 0},
        {S_KC, S_C1, S_D1, OK, 0},
        {S_KC, 0, 0, X86_GP, 0},
        {S_KC, S_END, 0, X86_GP, S_END},
        {S_KC, S_KD, 0, X86_GP, S_KD},
        {S_UC, S_KC, 0, X86_GP, S_KC},               /* RPL < CPL */
        {S_KC, S_KC | 3, S_UD, X86_GP, S_KC},        /* DPL != RPL */
        {S_KC, S_CONF | 3, S_UD, OK, 0},             /* conforming: DPL <= RPL */
        {S_KC, S_CONFR, 0, X86_GP, S_CONFR},         /* DPL > RPL */
        {S_KC, S_NPC, 0, X86_NP, S_NPC},
        {S_KC, S_UC, 0, X86_GP, 0},
        {S_KC, S_UC, S_KD, X86_GP, S_KD},
        {S_KC, S_UC, S_UD & ~3, X86_GP, S_UD & ~3},
        {S_KC, S_UC, S_KD | 3, X86_GP, S_KD},
        {S_KC, S_UC, S_UC, X86_GP, S_UC & ~3},
        {S_KC, S_UC, S_END | 3, X86_GP, S_END},
        {S_KC, S_UC, S_NPD | 3, X86_GP, S_NPD},      /* its DPL is 0: privilege first */
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        for (unsigned iret = 0; iret < 2; iret++) {
            struct fx *f = sf_prot(t[i].cs);
            struct regs before, after;
            unsigned n = iret ? 3 : 2;
            int r;

            if (iret)
                STACK32(f, 0x4444, t[i].ret, X86_FL_1, 0x6660, t[i].ss);
            else
                STACK32(f, 0x4444, t[i].ret, 0x6660, t[i].ss);
            before = regs_of(f->c);
            r = iret ? RUN(f, "\xcf") : RUN(f, "\xcb");
            if (t[i].vec == OK) {
                assert_int_equal(r, X86_BRANCH);
                assert_int_equal(f->c->rip, 0x4444);
                assert_int_equal(f->c->seg[X86_CS].sel, t[i].ret);
                assert_int_equal(f->c->cpl, t[i].ret & 3);
                if ((t[i].ret & 3) != (t[i].cs & 3)) {
                    assert_int_equal(f->c->gpr[X86_RSP], 0x6660);
                    assert_int_equal(f->c->seg[X86_SS].sel, t[i].ss);
                    assert_int_equal(f->c->seg[X86_DS].sel, 0); /* ring 0 data is taken away */
                    assert_int_equal(f->c->seg[X86_GS].ar & X86_AR_P, 0);
                } else {
                    assert_int_equal(f->c->gpr[X86_RSP], STACK + 4 * n);
                    assert_int_equal(f->c->seg[X86_DS].sel, S_KD);
                }
            } else {
                expect(f, r, (unsigned)t[i].vec, t[i].err);
                after = regs_of(f->c);
                assert_memory_equal(&before, &after, sizeof(before));
            }
            fx_free(f);
        }
    }

    struct fx *f = sf_prot(S_KC);

    gdt_put(f, S_UDNA, mkdesc(0, 0xfffff, 0x72, 4)); /* ring 3 stack not present */
    STACK32(f, 0x4444, S_UC, 0x6660, S_UDNA);
    EXPECT_UNCHANGED(f, "\xcb", X86_SSF, S_UDNA & ~3);
    STACK32(f, 0x10000, S_KC16);
    EXPECT_UNCHANGED(f, "\xcb", X86_GP, 0); /* beyond the limit */
    f->c->seg[X86_SS].limit = STACK + 5;
    EXPECT_UNCHANGED(f, "\xcb", X86_SSF, 0); /* the stack ends */
    fx_free(f);

    /* ring 3 data and conforming code survive an outer return; a 16-bit stack takes only SP */
    f = sf_prot(S_KC);
    sf_seg(f, X86_DS, S_UD);
    sf_seg(f, X86_ES, S_CONFR);
    gdt_put(f, S_UDNA, mkdesc(0, 0xffff, 0xf2, 0));
    f->c->gpr[X86_RSP] = 0x18000;
    STACK32(f, 0x4444, S_UC, X86_FL_1, 0x55556660, S_UDNA);
    assert_int_equal(RUN(f, "\xcf"), X86_BRANCH);
    assert_int_equal(f->c->seg[X86_DS].sel, S_UD);
    assert_int_equal(f->c->seg[X86_ES].sel, S_CONFR);
    assert_int_equal(f->c->seg[X86_FS].sel, 0);
    assert_int_equal(f->c->gpr[X86_RSP], 0x16660);
    fx_free(f);
}

static void test_iret_v86(void **state)
{
    struct fx *f = sf_prot(S_KC);
    struct x86_cpu *c = f->c;
    uint32_t fl = X86_FL_1 | X86_FL_VM | X86_FL_IF | X86_FL_IOPL | X86_FL_RF;

    STACK32(f, 0x1234, 0x500, fl, 0x8888, 0x400, 0x711, 0x722, 0x733, 0x744);
    assert_int_equal(RUN(f, "\xcf"), X86_BRANCH);
    assert_true(x86_v86(c));
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->mode, X86_MODE_16);
    assert_int_equal(c->rip, 0x1234);
    assert_int_equal(x86_get_rflags(c), fl);
    assert_int_equal(c->gpr[X86_RSP], 0x8888);
    static const uint16_t sel[X86_NSEG] = {0x711, 0x500, 0x400, 0x722, 0x733, 0x744};
    for (unsigned i = 0; i < X86_NSEG; i++) {
        assert_int_equal(c->seg[i].sel, sel[i]);
        assert_int_equal(c->seg[i].base, sel[i] << 4);
        assert_int_equal(c->seg[i].limit, 0xffff);
        assert_int_equal(c->seg[i].ar, 0xf3);
    }
    fx_free(f);

    f = sf_prot(S_KC);
    STACK32(f, 0x10000, 0x500, fl, 0x8888, 0x400, 0x711, 0x722, 0x733, 0x744);
    EXPECT_UNCHANGED(f, "\xcf", X86_GP, 0); /* EIP beyond 64 KiB */
    fx_free(f);

    /* not from ring 3: VM is ignored there */
    f = sf_prot(S_UC);
    STACK32(f, 0x1234, S_UC, fl);
    assert_int_equal(RUN(f, "\xcf"), X86_BRANCH);
    assert_false(x86_v86(f->c));
    fx_free(f);

    /* inside virtual-8086 mode */
    f = sf_v86(3);
    c = f->c;
    put16(f, 0x5000, 0x222);
    put16(f, 0x5002, 0x600);
    put16(f, 0x5004, X86_FL_1 | X86_FL_CF);
    assert_int_equal(RUN(f, "\xcf"), X86_BRANCH);
    assert_int_equal(c->rip, 0x222);
    assert_int_equal(c->seg[X86_CS].base, 0x6000);
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_CF | X86_FL_VM | X86_FL_IOPL); /* IF loaded, IOPL and VM kept */
    fx_free(f);
    f = sf_v86(0);
    EXPECT_UNCHANGED(f, "\xcf", X86_GP, 0);
    f->c->cr4 |= X86_CR4_VME;
    put16(f, 0x5000, 0x222);
    put16(f, 0x5002, 0x600);
    put16(f, 0x5004, X86_FL_1 | X86_FL_IF);
    EXPECT_UNCHANGED(f, "\x66\xcf", X86_GP, 0); /* VME helps 16-bit IRET only */
    f->c->fl_sys |= X86_FL_VIP;
    EXPECT_UNCHANGED(f, "\xcf", X86_GP, 0); /* an interrupt is waiting */
    f->c->fl_sys &= ~(unsigned)(X86_FL_VIP | X86_FL_IF);
    assert_int_equal(RUN(f, "\xcf"), X86_BRANCH);
    assert_int_equal(x86_get_rflags(f->c), X86_FL_1 | X86_FL_VM | X86_FL_VIF);
    f->c->gpr[X86_RSP] = 0x1000;
    put16(f, 0x5004, X86_FL_1 | X86_FL_TF);
    EXPECT_UNCHANGED(f, "\xcf", X86_GP, 0);
    fx_free(f);
}

static void test_iret_long(void **state)
{
    static const struct {
        uint16_t cs, ret, ss;
        uint64_t rip;
        int vec, err;
    } t[] = {
        {S_KC64, S_UC64, S_UD, 0x00007fffffffffff, OK, 0},
        {S_KC64, S_KC64, S_KD, 0xffff800000001000, OK, 0},
        {S_KC64, S_KC64, 0, 0x1000, OK, 0},                    /* null SS in ring 0 */
        {S_KC64, S_UC64, 3, 0x1000, X86_GP, 0},                /* but not in ring 3 */
        {S_KC64, S_KC64, 3, 0x1000, X86_GP, 0},
        {S_KC64, S_UC, S_UD, 0x1000, OK, 0},                   /* to compatibility mode */
        {S_KC64, S_KC, 0, 0x1000, X86_GP, 0},                  /* which needs a stack */
        {S_KC64, S_UC64, S_UD, 0x0000800000000000, X86_GP, 0}, /* not canonical */
        {S_KC64, S_UC, S_UD, 0x100000000, X86_GP, 0},
        {S_KC64, S_UC64, S_KD, 0x1000, X86_GP, S_KD},
        {S_KC64, S_NPC, S_KD, 0x1000, X86_NP, S_NPC},
        {S_UC64, S_KC64, S_KD, 0x1000, X86_GP, S_KC64},
        {S_UC64, S_UC64, S_UD, 0x1000, OK, 0},
        {S_KC64, 0, S_UD, 0x1000, X86_GP, 0},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = sf_long(t[i].cs);
        struct regs before = regs_of(f->c), after;
        int r;

        STACK64(f, t[i].rip, t[i].ret, X86_FL_1 | X86_FL_ZF, 0x00006660, t[i].ss);
        f->c->nmi_blocked = true;
        r = RUN(f, "\x48\xcf");
        assert_false(f->c->nmi_blocked); /* even when it faults */
        if (t[i].vec == OK) {
            assert_int_equal(r, X86_BRANCH);
            assert_int_equal(f->c->rip, t[i].rip);
            assert_int_equal(f->c->seg[X86_CS].sel, t[i].ret);
            assert_int_equal(f->c->seg[X86_SS].sel, t[i].ss);
            assert_int_equal(f->c->gpr[X86_RSP], 0x6660);
            assert_int_equal(f->c->cpl, t[i].ret & 3);
            assert_int_equal(f->c->mode, t[i].ret == S_UC ? X86_MODE_32 : X86_MODE_64);
            assert_int_equal(x86_get_rflags(f->c), X86_FL_1 | X86_FL_ZF);
            assert_ptr_equal(f->c->mmu.cur, f->c->mmu.tlb[f->c->cpl == 3 ? X86_TLB_USER : X86_TLB_SUPER]);
        } else {
            expect(f, r, (unsigned)t[i].vec, t[i].err);
            after = regs_of(f->c);
            assert_memory_equal(&before, &after, sizeof(before));
        }
        fx_free(f);
    }

    struct fx *f = sf_long(S_KC64);

    f->c->fl_sys |= X86_FL_NT; /* no task return in IA-32e mode */
    EXPECT_UNCHANGED(f, "\x48\xcf", X86_GP, 0);
    f->c->fl_sys = X86_FL_1;
    f->c->gpr[X86_RSP] = 0x7fe8; /* the frame crosses into a missing page */
    fx_put64(f, PT + 8 * 8, 0);
    EXPECT_UNCHANGED(f, "\x48\xcf", X86_PF, 0);
    assert_int_equal(f->c->exc.cr2, 0x8000);
    fx_free(f);
}

/* --- fast system calls ----------------------------------------------------------- */

static void test_syscall(void **state)
{
    struct fx *f = sf_long(S_UC64);
    struct x86_cpu *c = f->c;
    uint32_t fl = X86_FL_1 | X86_FL_IF | X86_FL_TF | X86_FL_DF | X86_FL_CF | X86_FL_OF | X86_FL_AC;

    c->star = (uint64_t)0x20 << 48 | (uint64_t)S_KC64 << 32;
    c->lstar = 0xffffffff81000000;
    c->sfmask = X86_FL_IF | X86_FL_TF | X86_FL_DF | X86_FL_AC;
    x86_set_rflags(c, fl);
    assert_int_equal(RUN(f, "\x0f\x05"), X86_BRANCH);
    assert_int_equal(c->rip, 0xffffffff81000000);
    assert_int_equal(c->gpr[X86_RCX], CODE + 2);
    assert_int_equal(c->gpr[X86_R11], fl);
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_CF | X86_FL_OF);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->seg[X86_CS].sel, S_KC64);
    assert_int_equal(c->seg[X86_CS].ar, 0xa09b);
    assert_int_equal(c->seg[X86_SS].sel, S_KC64 + 8);
    assert_int_equal(c->seg[X86_SS].ar, 0xc093);
    assert_int_equal(c->gpr[X86_RSP], STACK);
    assert_ptr_equal(c->mmu.cur, c->mmu.tlb[X86_TLB_SUPER]);

    c->gpr[X86_R11] = ~0ull;
    assert_int_equal(RUN(f, "\x48\x0f\x07"), X86_BRANCH);
    assert_int_equal(c->rip, CODE + 2);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->mode, X86_MODE_64);
    assert_int_equal(c->seg[X86_CS].sel, 0x33);
    assert_int_equal(c->seg[X86_CS].ar, 0xa0fb);
    assert_int_equal(c->seg[X86_SS].sel, 0x2b);
    assert_int_equal(c->seg[X86_SS].ar, 0xc0f3);
    assert_int_equal(x86_get_rflags(c), 0x3c7fd7);
    assert_ptr_equal(c->mmu.cur, c->mmu.tlb[X86_TLB_USER]);
    EXPECT_UNCHANGED(f, "\x48\x0f\x07", X86_GP, 0); /* ring 3 */

    sf_level(f, S_KC64);
    c->gpr[X86_RCX] = 0x0000800000000000;
    EXPECT_UNCHANGED(f, "\x48\x0f\x07", X86_GP, 0);
    c->gpr[X86_RCX] = 0xffffffff12345678;
    c->gpr[X86_R11] = X86_FL_1;
    assert_int_equal(RUN(f, "\x0f\x07"), X86_BRANCH); /* to compatibility mode */
    assert_int_equal(c->rip, 0x12345678);
    assert_int_equal(c->mode, X86_MODE_32);
    assert_int_equal(c->seg[X86_CS].sel, 0x23);
    assert_int_equal(c->seg[X86_CS].ar, 0xc0fb);
    sf_level(f, S_UC64);
    c->efer &= ~X86_EFER_SCE;
    EXPECT_UNCHANGED(f, "\x0f\x05", X86_UD, -1);
    c->efer |= X86_EFER_SCE;
    sf_level(f, S_UC); /* compatibility mode: #UD on Intel */
    EXPECT_UNCHANGED(f, "\x0f\x05", X86_UD, -1);
    fx_free(f);
}

static void test_sysenter(void **state)
{
    struct fx *f = sf_prot(S_UC);
    struct x86_cpu *c = f->c;

    EXPECT_UNCHANGED(f, "\x0f\x34", X86_GP, 0); /* SYSENTER_CS is null */
    c->sysenter_cs = 0x0b;
    c->sysenter_esp = 0x1122334455667788;
    c->sysenter_eip = 0x8877665544332211;
    x86_set_rflags(c, X86_FL_1 | X86_FL_IF | X86_FL_CF);
    assert_int_equal(RUN(f, "\x0f\x34"), X86_BRANCH);
    assert_int_equal(c->seg[X86_CS].sel, 8);
    assert_int_equal(c->seg[X86_CS].ar, 0xc09b);
    assert_int_equal(c->seg[X86_SS].sel, 0x10);
    assert_int_equal(c->gpr[X86_RSP], 0x55667788);
    assert_int_equal(c->rip, 0x44332211);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_CF);
    c->gpr[X86_RCX] = 0x123400001111;
    c->gpr[X86_RDX] = 0x567800002222;
    c->sysenter_cs = 8;
    assert_int_equal(RUN(f, "\x0f\x35"), X86_BRANCH);
    assert_int_equal(c->seg[X86_CS].sel, 0x1b);
    assert_int_equal(c->seg[X86_SS].sel, 0x23);
    assert_int_equal(c->gpr[X86_RSP], 0x1111);
    assert_int_equal(c->rip, 0x2222);
    assert_int_equal(c->cpl, 3);
    EXPECT_UNCHANGED(f, "\x0f\x35", X86_GP, 0);
    fx_free(f);

    f = sf_long(S_UC);
    c = f->c;
    c->sysenter_cs = S_KC64;
    c->sysenter_esp = 0xffff800000001000;
    c->sysenter_eip = 0xffff800000002000;
    assert_int_equal(RUN(f, "\x0f\x34"), X86_BRANCH);
    assert_int_equal(c->mode, X86_MODE_64);
    assert_int_equal(c->rip, 0xffff800000002000);
    assert_int_equal(c->gpr[X86_RSP], 0xffff800000001000);
    c->gpr[X86_RDX] = 0x0000800000000000;
    c->gpr[X86_RCX] = 0x1000;
    EXPECT_UNCHANGED(f, "\x48\x0f\x35", X86_GP, 0);
    c->gpr[X86_RDX] = 0x00007f0000000000;
    assert_int_equal(RUN(f, "\x48\x0f\x35"), X86_BRANCH);
    assert_int_equal(c->seg[X86_CS].sel, (S_KC64 + 32) | 3);
    assert_int_equal(c->seg[X86_SS].sel, (S_KC64 + 40) | 3);
    assert_int_equal(c->rip, 0x00007f0000000000);
    assert_int_equal(c->mode, X86_MODE_64);
    fx_free(f);
    f = sf_real();
    f->c->sysenter_cs = 8;
    EXPECT_UNCHANGED(f, "\x0f\x34", X86_GP, 0);
    fx_free(f);
}

/* --- software interrupts ------------------------------------------------------------ */

static void test_soft(void **state)
{
    static const struct {
        const char *insn;
        unsigned len, vec, kind;
    } t[] = {
        {"\xcd\x80", 2, 0x80, X86_EXC_SOFT}, {"\xcc", 1, X86_BP, X86_EXC_SOFT}, {"\xf1", 1, X86_DB, X86_EXC_ICEBP},
        {"\xce", 1, X86_OF, X86_EXC_SOFT},   {"\xcd\x03", 2, 3, X86_EXC_SOFT},
    };
    struct fx *f = sf_prot(S_UC);

    f->c->cc_of = 1;
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        assert_int_equal(sf_run(f, t[i].insn, t[i].len), X86_FAULT);
        assert_int_equal(f->c->exc.vector, t[i].vec);
        assert_int_equal(f->c->exc.kind, t[i].kind);
        assert_int_equal(f->c->exc.insn_len, t[i].len);
        assert_int_equal(f->c->rip, CODE);
    }
    f->c->cc_of = 0;
    assert_int_equal(RUN(f, "\xce"), X86_OK);

    /* BOUND: signed, inclusive */
    static const struct {
        int32_t i;
        bool ok;
    } b[] = {{-5, true}, {-6, false}, {7, true}, {8, false}, {0, true}};
    fx_put32(f, 0x6000, (uint32_t)-5);
    fx_put32(f, 0x6004, 7);
    fx_put32(f, 0x6010, 0x0007fffb);
    for (unsigned i = 0; i < 5; i++) {
        f->c->gpr[X86_RAX] = (uint32_t)b[i].i;
        if (b[i].ok)
            assert_int_equal(RUN(f, "\x62\x05\x00\x60\x00\x00"), X86_OK);
        else
            EXPECT_UNCHANGED(f, "\x62\x05\x00\x60\x00\x00", X86_BR, -1);
        f->c->gpr[X86_RAX] |= 0x12340000;
        if (b[i].ok)
            assert_int_equal(RUN(f, "\x66\x62\x05\x10\x60\x00\x00"), X86_OK);
        else
            EXPECT_UNCHANGED(f, "\x66\x62\x05\x10\x60\x00\x00", X86_BR, -1);
    }
    fx_free(f);
}

static void test_int_v86(void **state)
{
    struct fx *f = sf_v86(0);

    EXPECT_UNCHANGED(f, "\xcd\x21", X86_GP, 0); /* IOPL < 3 */
    assert_int_equal(RUN(f, "\xcc"), X86_FAULT);
    assert_int_equal(f->c->exc.kind, X86_EXC_SOFT); /* INT3 is not IOPL-sensitive */
    f->c->fl_sys |= X86_FL_IOPL;
    assert_int_equal(RUN(f, "\xcd\x21"), X86_FAULT);
    assert_int_equal(f->c->exc.vector, 0x21);

    /* VME: the bitmap of 32 bytes before the I/O map decides */
    for (unsigned iopl = 0; iopl < 4; iopl += 3) {
        for (unsigned bit = 0; bit < 2; bit++) {
            fx_free(f);
            f = sf_v86(iopl);
            f->c->cr4 |= X86_CR4_VME;
            f->c->fl_sys |= X86_FL_VIF;
            f->ram[TSS + 0x88 - 32 + 0x21 / 8] = (uint8_t)(bit << (0x21 & 7));
            fx_put32(f, 0x21 * 4, 0x12345678);
            if (bit && iopl < 3) {
                EXPECT_UNCHANGED(f, "\xcd\x21", X86_GP, 0);
                continue;
            }
            if (bit) {
                assert_int_equal(RUN(f, "\xcd\x21"), X86_FAULT);
                assert_int_equal(f->c->exc.kind, X86_EXC_SOFT);
                continue;
            }
            assert_int_equal(RUN(f, "\xcd\x21"), X86_BRANCH);
            assert_true(x86_v86(f->c));
            assert_int_equal(f->c->seg[X86_CS].sel, 0x1234);
            assert_int_equal(f->c->rip, 0x5678);
            assert_int_equal(f->c->gpr[X86_RSP], 0xffa);
            assert_int_equal(get16(f, 0x4ffa), 0x12);
            assert_int_equal(get16(f, 0x4ffc), 0x500);
            assert_int_equal(get16(f, 0x4ffe), X86_FL_1 | X86_FL_IOPL | X86_FL_IF);
            assert_int_equal(f->c->fl_sys & (X86_FL_VIF | X86_FL_IF), iopl ? X86_FL_VIF : X86_FL_IF);
        }
    }
    f->c->tr.limit = 0x60; /* no bitmap in the TSS */
    EXPECT_UNCHANGED(f, "\xcd\x21", X86_GP, 0);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real), cmocka_unit_test(test_jmp_call_code), cmocka_unit_test(test_call_gates),
        cmocka_unit_test(test_long_far), cmocka_unit_test(test_return_checks),
        cmocka_unit_test(test_iret_v86), cmocka_unit_test(test_iret_long), cmocka_unit_test(test_syscall),
        cmocka_unit_test(test_sysenter), cmocka_unit_test(test_soft), cmocka_unit_test(test_int_v86),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
