/* Segment register loads, limits, LDTR and TR, the protection-check instructions, stack accesses. */
#include "seg_fixture.h"

enum { OK = -2 }; /* no exception */

/* --- data segments ------------------------------------------------------- */

static void test_data_loads(void **state)
{
    static const struct {
        uint16_t cs, sel;
        int vec, err;
    } t[] = {
        {S_KC, S_KD, OK, 0},
        {S_KC, S_KD | 3, X86_GP, S_KD},       /* RPL > DPL */
        {S_KC, S_UD, OK, 0},
        {S_UC, S_KD, X86_GP, S_KD},           /* CPL > DPL */
        {S_UC, S_UD, OK, 0},
        {S_UC, S_UD & ~3, OK, 0},
        {S_UC, S_D1, X86_GP, S_D1 & ~3},
        {S_KC, S_KC, OK, 0},                  /* readable code */
        {S_KC, S_XO, X86_GP, S_XO},           /* execute-only */
        {S_KC, S_CONF, X86_GP, S_CONF},       /* conforming but not readable */
        {S_UC, S_CONFR | 3, OK, 0},           /* conforming: no privilege check */
        {S_KC, S_NPD, X86_NP, S_NPD},
        {S_UC, S_NPD, X86_GP, S_NPD},         /* privilege before presence */
        {S_KC, S_TSS, X86_GP, S_TSS},         /* system segment */
        {S_KC, S_RO, OK, 0},
        {S_KC, S_END, X86_GP, S_END},         /* beyond the limit */
        {S_KC, 0xffff, X86_GP, 0xfffc},
        {S_KC, 4, X86_GP, 4},                 /* LDT, but LDTR is null */
        {S_KC, 0, OK, 0},
        {S_KC, 3, OK, 0},
    };
    static const unsigned seg[] = {X86_ES, X86_DS, X86_FS, X86_GS};

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        for (unsigned k = 0; k < 4; k++) {
            struct fx *f = sf_prot(t[i].cs);
            char mov[2] = {(char)0x8e, (char)(0xc0 | seg[k] << 3)}; /* mov sreg, ax */
            struct x86_seg before = f->c->seg[seg[k]];
            int r;

            f->c->gpr[X86_RAX] = 0xabcd0000 | t[i].sel;
            r = sf_run(f, mov, 2);
            if (t[i].vec == OK) {
                assert_int_equal(r, X86_OK);
                assert_int_equal(f->c->seg[seg[k]].sel, t[i].sel);
                assert_int_equal(!!(f->c->seg[seg[k]].ar & X86_AR_P), t[i].sel >= 4);
            } else {
                expect(f, r, (unsigned)t[i].vec, t[i].err);
                assert_memory_equal(&before, &f->c->seg[seg[k]], sizeof(before));
                assert_int_equal(f->c->rip, CODE);
            }
            fx_free(f);
        }
    }
}

static void test_accessed(void **state)
{
    struct fx *f = sf_prot(S_UC);

    f->c->gpr[X86_RBX] = S_UDNA;
    assert_int_equal(RUN(f, "\x8e\xdb"), X86_OK); /* mov ds, bx */
    assert_int_equal(gdt_get(f, S_UDNA) >> 40 & 0xff, 0xf3);
    assert_int_equal(f->c->seg[X86_DS].base, 0x10000);
    assert_int_equal(f->c->seg[X86_DS].limit, 0xfff);
    assert_int_equal(f->c->seg[X86_DS].ar, 0x40f3);
    /* a descriptor already marked is not written: the table may be read-only */
    sf_paging32(f);
    fx_put32(f, PT32 + 4 * (GDT >> 12), GDT | 5);
    assert_int_equal(RUN(f, "\x8e\xdb"), X86_OK);
    gdt_put(f, S_UDNA, mkdesc(0x10000, 0xfff, 0xf2, 4));
    expect(f, RUN(f, "\x8e\xdb"), X86_PF, 3); /* a supervisor write to a read-only page, CR0.WP = 1 */
    assert_int_equal(f->c->exc.cr2, GDT + (S_UDNA & ~7) + 5);
    /* code translated from the page is told of the store */
    fx_put32(f, PT32 + 4 * (GDT >> 12), GDT | 7);
    x86_tlb_flush_all(f->c);
    f->flags[GDT >> 12] |= GPA_PF_CODE;
    f->ncode = 0;
    assert_int_equal(RUN(f, "\x8e\xdb"), X86_OK);
    assert_int_equal(f->ncode, 1);
    assert_int_equal(f->code_gpa, GDT + (S_UDNA & ~7) + 5);
    fx_free(f);
}

static void test_ss_loads(void **state)
{
    static const struct {
        uint16_t cs, sel;
        int vec, err;
    } t[] = {
        {S_KC, S_KD, OK, 0},
        {S_KC, S_UD, X86_GP, S_UD & ~3},
        {S_KC, S_KD | 1, X86_GP, S_KD},
        {S_UC, S_UD, OK, 0},
        {S_UC, S_UD & ~3, X86_GP, S_UD & ~3},
        {S_KC, S_RO, X86_GP, S_RO},
        {S_KC, S_KC, X86_GP, S_KC},
        {S_KC, S_LDT, X86_GP, S_LDT},
        {S_KC, S_NPD, X86_SSF, S_NPD},
        {S_KC, 0, X86_GP, 0},
        {S_UC, 3, X86_GP, 0},
        {S_KC, S_END, X86_GP, S_END},
        {S_KC64, 0, OK, 0},      /* 64-bit mode: null SS with RPL = CPL < 3 */
        {S_KC64, 1, X86_GP, 0},
        {S_UC64, 3, X86_GP, 0},
        {S_UC64, S_UD, OK, 0},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = t[i].cs == S_KC64 || t[i].cs == S_UC64 ? sf_long(t[i].cs) : sf_prot(t[i].cs);
        unsigned cpl = f->c->cpl;
        int r;

        f->c->gpr[X86_RAX] = t[i].sel;
        r = RUN(f, "\x8e\xd0"); /* mov ss, ax */
        if (t[i].vec == OK) {
            assert_int_equal(r, X86_OK);
            assert_int_equal(f->c->seg[X86_SS].sel, t[i].sel);
            assert_int_equal(f->c->inhibit_irq, 2);
            x86_recompute(f->c);
            assert_int_equal(f->c->cpl, cpl);
        } else {
            expect(f, r, (unsigned)t[i].vec, t[i].err);
            assert_int_equal(f->c->inhibit_irq, 0);
        }
        fx_free(f);
    }
}

static void test_ldt_entries(void **state)
{
    struct fx *f = sf_prot(S_KC);

    f->c->gpr[X86_RAX] = S_LDT;
    assert_int_equal(RUN(f, "\x0f\x00\xd0"), X86_OK); /* lldt ax */
    assert_int_equal(f->c->ldtr.base, LDT);
    assert_int_equal(f->c->ldtr.limit, 0x7f);
    fx_put64(f, LDT + 8, mkdesc(0x123456, 0x10, 0x92, 0xc));
    f->c->gpr[X86_RAX] = 0x0c;
    assert_int_equal(RUN(f, "\x8e\xe0"), X86_OK); /* mov fs, ax */
    assert_int_equal(f->c->seg[X86_FS].base, 0x123456);
    assert_int_equal(f->c->seg[X86_FS].limit, 0x10fff);
    assert_int_equal(f->ram[LDT + 13], 0x93);
    f->c->gpr[X86_RAX] = 0x84; /* beyond the LDT */
    expect(f, RUN(f, "\x8e\xe0"), X86_GP, 0x84);
    f->c->gpr[X86_RAX] = 4; /* not a null selector, but descriptor 0 is a system descriptor */
    expect(f, RUN(f, "\x8e\xe0"), X86_GP, 4);
    fx_free(f);
}

static void test_lldt_ltr(void **state)
{
    static const struct {
        const char *insn;
        uint16_t cs, sel;
        int vec, err;
    } t[] = {
        {"\x0f\x00\xd0", S_KC, S_LDT, OK, 0},         /* lldt */
        {"\x0f\x00\xd0", S_KC, 0, OK, 0},
        {"\x0f\x00\xd0", S_UC, S_LDT, X86_GP, 0},
        {"\x0f\x00\xd0", S_KC, S_KD, X86_GP, S_KD},
        {"\x0f\x00\xd0", S_KC, S_TSSB, X86_GP, S_TSSB},
        {"\x0f\x00\xd0", S_KC, S_LDT | 4, X86_GP, S_LDT | 4},
        {"\x0f\x00\xd0", S_KC, S_END, X86_GP, S_END},
        {"\x0f\x00\xd8", S_KC, S_TSSB, OK, 0},        /* ltr */
        {"\x0f\x00\xd8", S_KC, S_TSS16, OK, 0},
        {"\x0f\x00\xd8", S_KC, 0, X86_GP, 0},
        {"\x0f\x00\xd8", S_UC, S_TSSB, X86_GP, 0},
        {"\x0f\x00\xd8", S_KC, S_TSS, X86_GP, S_TSS}, /* busy */
        {"\x0f\x00\xd8", S_KC, S_LDT, X86_GP, S_LDT},
        {"\x0f\x00\xd8", S_KC, S_TSSB | 4, X86_GP, S_TSSB | 4},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = sf_prot(t[i].cs);
        int r;

        f->c->gpr[X86_RAX] = t[i].sel;
        r = sf_run(f, t[i].insn, 3);
        if (t[i].vec == OK)
            assert_int_equal(r, X86_OK);
        else
            expect(f, r, (unsigned)t[i].vec, t[i].err);
        if (t[i].vec == OK && t[i].insn[2] == '\xd8') {
            assert_int_equal(f->c->tr.sel, t[i].sel);
            assert_int_equal(gdt_get(f, t[i].sel) >> 40 & 0xf, t[i].sel == S_TSS16 ? 3 : 0xb);
            assert_int_equal(f->c->tr.ar & 0xf, t[i].sel == S_TSS16 ? 3 : 0xb);
        }
        fx_free(f);
    }

    struct fx *f = sf_prot(S_KC);

    gdt_put(f, S_LDT, gdt_get(f, S_LDT) & ~(0x80ull << 40));
    gdt_put(f, S_TSSB, gdt_get(f, S_TSSB) & ~(0x80ull << 40));
    f->c->gpr[X86_RAX] = S_LDT;
    expect(f, RUN(f, "\x0f\x00\xd0"), X86_NP, S_LDT);
    f->c->gpr[X86_RAX] = S_TSSB;
    expect(f, RUN(f, "\x0f\x00\xd8"), X86_NP, S_TSSB);
    fx_free(f);

    /* IA-32e mode: 16-byte descriptors */
    f = sf_long(S_KC64);
    gdt_put(f, S_TSS, mkdesc(0x12345678, 0x67, 0x89, 0));
    fx_put64(f, GDT + S_TSS + 8, 0xffff8000);
    f->c->gpr[X86_RAX] = S_TSS;
    assert_int_equal(RUN(f, "\x0f\x00\xd8"), X86_OK);
    assert_int_equal(f->c->tr.base, 0xffff800012345678);
    gdt_put(f, S_TSS, mkdesc(0x12345678, 0x67, 0x89, 0));
    fx_put64(f, GDT + S_TSS + 8, 0x00008000); /* not canonical */
    expect(f, RUN(f, "\x0f\x00\xd8"), X86_GP, S_TSS);
    fx_put64(f, GDT + S_TSS + 8, 1ull << 40); /* type of the upper half not 0 */
    expect(f, RUN(f, "\x0f\x00\xd8"), X86_GP, S_TSS);
    f->c->gpr[X86_RAX] = S_TSS16; /* no 16-bit TSS in IA-32e mode */
    expect(f, RUN(f, "\x0f\x00\xd8"), X86_GP, S_TSS16);
    f->c->gdtr.limit = S_LDT + 7; /* only half of it inside the table */
    f->c->gpr[X86_RAX] = S_LDT;
    expect(f, RUN(f, "\x0f\x00\xd0"), X86_GP, S_LDT);
    fx_free(f);
}

/* --- limits ----------------------------------------------------------------- */

static void test_limits(void **state)
{
    struct fx *f = sf_prot(S_KC);
    static const struct {
        uint32_t limit;
        uint16_t ar;
        uint32_t off, len;
        bool ok;
    } t[] = {
        {0xfff, 0x4093, 0, 1, true},
        {0xfff, 0x4093, 0xffc, 4, true},
        {0xfff, 0x4093, 0xffd, 4, false},
        {0xfff, 0x4093, 0x1000, 1, false},
        {0xfff, 0x4093, 0xffffffff, 2, false},
        {0xffffffff, 0xc093, 0xfffffffe, 2, true},
        {0xfff, 0x4097, 0xfff, 1, false}, /* expand-down, 32-bit */
        {0xfff, 0x4097, 0x1000, 4, true},
        {0xfff, 0x4097, 0xfffffffc, 4, true},
        {0xfff, 0x4097, 0xfffffffd, 4, false},
        {0xfff, 0x0097, 0x1000, 4, true}, /* expand-down, 16-bit */
        {0xfff, 0x0097, 0xfffe, 2, true},
        {0xfff, 0x0097, 0xffff, 2, false},
        {0xfff, 0x0097, 0x10000, 1, false},
        {0xffff, 0x0097, 0xffff, 1, false}, /* nothing is valid */
    };
    uint64_t lin;

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        static const unsigned seg[] = {X86_DS, X86_SS};

        for (unsigned k = 0; k < 2; k++) {
            struct x86_seg *s = &f->c->seg[seg[k]];
            int r;

            *s = (struct x86_seg){.base = 0x7000, .limit = t[i].limit, .sel = S_KD, .ar = t[i].ar};
            r = x86_seg_lin(f->c, seg[k], t[i].off, t[i].len, X86_WRITE, 1, &lin);
            if (t[i].ok) {
                assert_int_equal(r, X86_OK);
                assert_int_equal(lin, (uint32_t)(0x7000 + t[i].off));
            } else {
                expect(f, r, seg[k] == X86_SS ? X86_SSF : X86_GP, 0);
            }
        }
    }
    /* types */
    f->c->seg[X86_DS].limit = 0xffff;
    f->c->seg[X86_DS].ar = 0x4091;
    assert_int_equal(x86_seg_lin(f->c, X86_DS, 0, 1, X86_READ, 1, &lin), X86_OK);
    expect(f, x86_seg_lin(f->c, X86_DS, 0, 1, X86_WRITE, 1, &lin), X86_GP, 0);
    f->c->seg[X86_DS].ar = 0x409b;
    assert_int_equal(x86_seg_lin(f->c, X86_DS, 0, 1, X86_READ, 1, &lin), X86_OK);
    expect(f, x86_seg_lin(f->c, X86_DS, 0, 1, X86_WRITE, 1, &lin), X86_GP, 0);
    f->c->seg[X86_DS].ar = 0x4099;
    expect(f, x86_seg_lin(f->c, X86_DS, 0, 1, X86_READ, 1, &lin), X86_GP, 0);
    f->c->seg[X86_DS] = x86_null_seg(0, 0);
    expect(f, x86_seg_lin(f->c, X86_DS, 0, 1, X86_READ, 1, &lin), X86_GP, 0);
    fx_free(f);
}

static void test_long_addresses(void **state)
{
    struct fx *f = sf_long(S_KC64);
    uint64_t lin;

    f->c->seg[X86_DS] = x86_null_seg(0, 0); /* bases, limits and null do not matter */
    f->c->seg[X86_FS].base = 0x1000;
    assert_int_equal(x86_seg_lin(f->c, X86_DS, 0x7fffffffffff, 1, X86_WRITE, 1, &lin), X86_OK);
    assert_int_equal(lin, 0x7fffffffffff);
    expect(f, x86_seg_lin(f->c, X86_DS, 0x7fffffffffff, 2, X86_WRITE, 1, &lin), X86_GP, 0);
    expect(f, x86_seg_lin(f->c, X86_SS, 0x800000000000, 8, X86_READ, 1, &lin), X86_SSF, 0);
    assert_int_equal(x86_seg_lin(f->c, X86_FS, 0xffffffffffffffff, 1, X86_READ, 1, &lin), X86_OK);
    assert_int_equal(lin, 0xfff);
    expect(f, x86_seg_lin(f->c, X86_FS, 0x7fffffffffff, 1, X86_READ, 1, &lin), X86_GP, 0);
    fx_free(f);
}

static void test_alignment(void **state)
{
    for (unsigned cpl3 = 0; cpl3 < 2; cpl3++) {
        for (unsigned am = 0; am < 2; am++) {
            for (unsigned ac = 0; ac < 2; ac++) {
                struct fx *f = sf_prot(cpl3 ? S_UC : S_KC);
                uint64_t lin;
                int r;

                f->c->cr0 |= am ? X86_CR0_AM : 0;
                f->c->fl_sys |= ac ? X86_FL_AC : 0;
                r = x86_seg_lin(f->c, X86_DS, 0x1002, 4, X86_READ, 4, &lin);
                if (cpl3 && am && ac)
                    expect(f, r, X86_AC, 0);
                else
                    assert_int_equal(r, X86_OK);
                assert_int_equal(x86_seg_lin(f->c, X86_DS, 0x1002, 4, X86_READ, 2, &lin), X86_OK);
                fx_free(f);
            }
        }
    }
}

/* --- real and virtual-8086 mode --------------------------------------------- */

static void test_real_loads(void **state)
{
    struct fx *f = sf_real();
    uint64_t lin;

    f->c->seg[X86_DS].limit = 0xffffffff; /* "unreal": the limit survives a load */
    f->c->gpr[X86_RAX] = 0x1234;
    assert_int_equal(RUN(f, "\x8e\xd8"), X86_OK);
    assert_int_equal(f->c->seg[X86_DS].base, 0x12340);
    assert_int_equal(f->c->seg[X86_DS].limit, 0xffffffff);
    assert_int_equal(RUN(f, "\x8e\xc0"), X86_OK);
    expect(f, x86_seg_lin(f->c, X86_ES, 0xffff, 2, X86_READ, 1, &lin), X86_GP, 0);
    expect(f, x86_seg_lin(f->c, X86_SS, 0xffff, 2, X86_READ, 1, &lin), X86_SSF, 0);
    f->c->seg[X86_FS] = x86_null_seg(0, 0); /* left null by protected mode */
    assert_int_equal(RUN(f, "\x8e\xe0"), X86_OK);
    assert_int_equal(f->c->seg[X86_FS].limit, 0xffff);
    expect(f, RUN(f, "\x0f\x00\xd0"), X86_UD, -1); /* lldt */
    fx_free(f);

    f = sf_v86(0);
    f->c->gpr[X86_RAX] = 0x2345;
    assert_int_equal(RUN(f, "\x8e\xd8"), X86_OK);
    assert_int_equal(f->c->seg[X86_DS].base, 0x23450);
    assert_int_equal(f->c->seg[X86_DS].limit, 0xffff);
    assert_int_equal(f->c->seg[X86_DS].ar, 0xf3);
    fx_free(f);
}

/* --- the stack ---------------------------------------------------------------- */

static void test_push_pop(void **state)
{
    struct fx *f = sf_real();
    uint64_t v;

    f->c->gpr[X86_RSP] = 0xabcd0000; /* SP = 0 wraps to FFFE; the rest of ESP stays */
    assert_int_equal(x86_push(f->c, 2, 0x1122), X86_OK);
    assert_int_equal(f->c->gpr[X86_RSP], 0xabcdfffe);
    assert_int_equal(get16(f, 0xfffe), 0x1122);
    assert_int_equal(x86_pop(f->c, 2, &v), X86_OK);
    assert_int_equal(v, 0x1122);
    assert_int_equal(f->c->gpr[X86_RSP], 0xabcd0000);
    f->c->gpr[X86_RSP] = 1; /* would straddle the limit */
    expect(f, x86_push(f->c, 2, 1), X86_SSF, 0);
    assert_int_equal(f->c->gpr[X86_RSP], 1);
    fx_free(f);

    f = sf_prot(S_KC);
    f->c->gpr[X86_RSP] = 0xffffffff00008000;
    assert_int_equal(x86_push(f->c, 4, 0x11223344), X86_OK);
    assert_int_equal(f->c->gpr[X86_RSP], 0x7ffc);
    f->c->gpr[X86_RAX] = 0;
    fx_put32(f, 0x7ffc, S_NPD);
    expect(f, RUN(f, "\x1f"), X86_NP, S_NPD); /* pop ds faults: ESP stays */
    assert_int_equal(f->c->gpr[X86_RSP], 0x7ffc);
    fx_put32(f, 0x7ffc, S_UD);
    assert_int_equal(RUN(f, "\x1f"), X86_OK);
    assert_int_equal(f->c->gpr[X86_RSP], 0x8000);
    assert_int_equal(RUN(f, "\x16"), X86_OK); /* push ss */
    assert_int_equal(fx_get32(f, 0x7ffc), S_KD);
    assert_int_equal(RUN(f, "\x17"), X86_OK); /* pop ss */
    assert_int_equal(f->c->inhibit_irq, 2);
    sf_seg(f, X86_SS, S_KD16); /* 16-bit stack in 32-bit code */
    f->c->gpr[X86_RSP] = 0x12340000;
    assert_int_equal(x86_push(f->c, 4, 0x55667788), X86_OK);
    assert_int_equal(f->c->gpr[X86_RSP], 0x1234fffc);
    assert_int_equal(fx_get32(f, 0xfffc), 0x55667788);
    sf_paging32(f);
    fx_put32(f, PT32 + 4 * 7, 0);
    f->c->gpr[X86_RSP] = 0x8000;
    expect(f, x86_push(f->c, 4, 0), X86_PF, 2);
    assert_int_equal(f->c->gpr[X86_RSP], 0x8000);
    fx_free(f);

    f = sf_long(S_UC64);
    assert_int_equal(x86_push(f->c, 8, 0x1122334455667788), X86_OK);
    assert_int_equal(f->c->gpr[X86_RSP], STACK - 8);
    assert_int_equal(fx_get64(f, STACK - 8), 0x1122334455667788);
    f->c->gpr[X86_RSP] = 0x800000000008;
    expect(f, x86_push(f->c, 8, 0), X86_SSF, 0);
    fx_free(f);
}

/* A frame that wraps round a 16-bit stack segment, and one whose second page is missing. */
static void test_frames(void **state)
{
    struct fx *f = sf_prot(S_KC);
    struct x86_stack st;

    sf_seg(f, X86_SS, S_KD16);
    f->c->gpr[X86_RSP] = 0x10004;
    st = x86_stack_cur(f->c);
    assert_int_equal(x86_stack_push(f->c, &st, (const uint64_t[]){0xa1, 0xa2, 0xa3}, 3, 4), X86_OK);
    assert_int_equal(st.sp, 0x1fff8);
    assert_int_equal(fx_get32(f, 0), 0xa1);
    assert_int_equal(fx_get32(f, 0xfffc), 0xa2);
    assert_int_equal(fx_get32(f, 0xfff8), 0xa3);
    uint64_t v[3];
    assert_int_equal(x86_stack_pop(f->c, &st, v, 3, 4), X86_OK);
    assert_int_equal(v[0], 0xa3);
    assert_int_equal(v[2], 0xa1);
    assert_int_equal(st.sp, 0x10004);

    sf_seg(f, X86_SS, S_KD);
    sf_paging32(f);
    fx_put32(f, PT32 + 4 * 8, 0);
    fx_put32(f, PT32 + 4 * 9, 0);
    f->c->gpr[X86_RSP] = 0x9004;
    st = x86_stack_cur(f->c);
    expect(f, x86_stack_push(f->c, &st, (const uint64_t[]){1, 2}, 2, 4), X86_PF, 2);
    assert_int_equal(f->c->exc.cr2, 0x9000); /* as single pushes: the upper page first */
    fx_put32(f, PT32 + 4 * 9, 0x9007);
    fx_put32(f, 0x9000, 0x77);
    expect(f, x86_stack_push(f->c, &st, (const uint64_t[]){1, 2}, 2, 4), X86_PF, 2);
    assert_int_equal(f->c->exc.cr2, 0x8ffc);
    assert_int_equal(fx_get32(f, 0x9000), 0x77); /* nothing was written */
    fx_free(f);
}

/* --- instructions that look but do not load ------------------------------------ */

static void test_lar_lsl(void **state)
{
    enum { LAR = 2, LSL = 3 };
    static const struct {
        uint16_t cs;
        uint8_t op;
        uint16_t sel;
        int64_t v; /* -1: ZF = 0 */
    } t[] = {
        {S_KC, LAR, S_KC, 0xcf9b00}, {S_KC, LAR, S_NPD, 0xcf1300}, {S_KC, LAR, 0, -1}, {S_KC, LAR, S_END, -1},
        {S_UC, LAR, S_KC, -1}, {S_UC, LAR, S_CONF | 3, 0xcf9d00}, {S_UC, LAR, S_UD, 0xcff300}, {S_KC, LAR, S_KD | 3, -1},
        {S_KC, LAR, S_TSS, 0x8b00}, {S_KC, LAR, S_LDT, 0x8200}, {S_KC, LAR, S_TASKG, 0x8500}, {S_KC, LAR, S_TSS16, 0x8100},
        {S_KC64, LAR, S_TASKG, -1}, {S_KC64, LAR, S_TSS16, -1}, {S_KC64, LAR, S_TSS, 0x8900}, {S_KC64, LAR, S_UC64, 0xaffb00},
        {S_KC, LSL, S_KC, 0xffffffff}, {S_KC, LSL, S_DOWN, 0xfff}, {S_KC, LSL, S_TSSB, 0x67}, {S_KC, LSL, S_TASKG, -1},
        {S_UC, LSL, S_UDNA, 0xfff}, {S_UC, LSL, S_DOWN, -1}, {S_KC, LSL, S_GATE, -1}, {S_KC64, LSL, S_TSS16, -1},
        {S_KC64, LSL, S_LDT, 0x7f}, {S_KC, LSL, 4, -1},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = t[i].cs == S_KC64 ? sf_long(S_KC64) : sf_prot(t[i].cs);
        char insn[3] = {0x0f, (char)t[i].op, (char)0xc1}; /* eax, cx */

        gdt_put(f, S_GATE, mkgate(S_KC, 0, 0x8c, 0));
        f->c->gpr[X86_RCX] = t[i].sel;
        f->c->gpr[X86_RAX] = 0x1111111122222222;
        f->c->cc_lo = t[i].v < 0 ? 0xd5 : 0x95;
        assert_int_equal(sf_run(f, insn, 3), X86_OK);
        assert_int_equal(f->c->cc_lo, t[i].v < 0 ? 0x95 : 0xd5); /* ZF only */
        assert_int_equal(f->c->gpr[X86_RAX], t[i].v < 0 ? 0x1111111122222222 : t[i].v);
        fx_free(f);
    }

    struct fx *f = sf_prot(S_KC);

    f->c->gpr[X86_RCX] = S_KC;
    f->c->gpr[X86_RAX] = 0x22222222;
    assert_int_equal(RUN(f, "\x66\x0f\x02\xc1"), X86_OK);
    assert_int_equal(f->c->gpr[X86_RAX], 0x22229b00);
    assert_int_equal(RUN(f, "\x66\x0f\x03\xc1"), X86_OK);
    assert_int_equal(f->c->gpr[X86_RAX], 0x2222ffff);
    fx_free(f);
}

static void test_verify(void **state)
{
    static const struct {
        uint16_t cs, sel;
        bool r, w;
    } t[] = {
        {S_KC, S_KD, true, true},  {S_KC, S_RO, true, false},  {S_KC, S_KC, true, false},   {S_KC, S_XO, false, false},
        {S_UC, S_KD, false, false}, {S_UC, S_UD, true, true},   {S_KC, S_KD | 3, false, false}, {S_KC, S_NPD, true, true},
        {S_KC, S_TSS, false, false}, {S_KC, 0, false, false},   {S_KC, S_END, false, false},
        {S_UC, S_CONFR, true, false}, {S_UC, S_CONF, false, false},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = sf_prot(t[i].cs);

        f->c->gpr[X86_RAX] = t[i].sel;
        f->c->cc_lo = t[i].r ? 0 : 0x40;
        assert_int_equal(RUN(f, "\x0f\x00\xe0"), X86_OK);
        assert_int_equal(f->c->cc_lo, t[i].r ? 0x40 : 0);
        f->c->cc_lo = t[i].w ? 0 : 0x40;
        assert_int_equal(RUN(f, "\x0f\x00\xe8"), X86_OK);
        assert_int_equal(f->c->cc_lo, t[i].w ? 0x40 : 0);
        fx_free(f);
    }
}

static void test_arpl_and_stores(void **state)
{
    struct fx *f = sf_prot(S_UC);

    for (unsigned d = 0; d < 4; d++) {
        for (unsigned s = 0; s < 4; s++) {
            f->c->gpr[X86_RAX] = 0xfff0 | d;
            f->c->gpr[X86_RCX] = 0x1230 | s;
            f->c->cc_lo = 1;
            assert_int_equal(RUN(f, "\x63\xc8"), X86_OK); /* arpl ax, cx */
            assert_int_equal(f->c->gpr[X86_RAX], 0xfff0 | (s > d ? s : d));
            assert_int_equal(f->c->cc_lo, s > d ? 0x41 : 1);
        }
    }
    f->c->ldtr.sel = 0x1234;
    f->c->gpr[X86_RAX] = ~0ull;
    assert_int_equal(RUN(f, "\x0f\x00\xc0"), X86_OK); /* sldt eax */
    assert_int_equal(f->c->gpr[X86_RAX], 0x1234);
    f->c->gpr[X86_RAX] = ~0ull;
    assert_int_equal(RUN(f, "\x66\x0f\x00\xc8"), X86_OK); /* str ax */
    assert_int_equal(f->c->gpr[X86_RAX], 0xffffffffffff0000 | S_TSS);
    f->c->cr4 |= X86_CR4_UMIP;
    expect(f, RUN(f, "\x0f\x00\xc0"), X86_GP, 0);
    expect(f, RUN(f, "\x0f\x00\xc8"), X86_GP, 0);
    sf_level(f, S_KC);
    assert_int_equal(RUN(f, "\x0f\x00\xc0"), X86_OK);
    /* mov [mem], sreg stores 16 bits at any operand size */
    fx_put32(f, 0x6000, 0xffffffff);
    assert_int_equal(RUN(f, "\x8c\x1d\x00\x60\x00\x00"), X86_OK);
    assert_int_equal(fx_get32(f, 0x6000), 0xffff0000 | S_KD);
    /* lss esp, [mem]: both or nothing, no shadow */
    fx_put32(f, 0x6000, 0x11223344);
    put16(f, 0x6004, S_RO);
    expect(f, RUN(f, "\x0f\xb2\x25\x00\x60\x00\x00"), X86_GP, S_RO);
    assert_int_equal(f->c->gpr[X86_RSP], STACK);
    put16(f, 0x6004, S_KD16);
    assert_int_equal(RUN(f, "\x0f\xb2\x25\x00\x60\x00\x00"), X86_OK);
    assert_int_equal(f->c->gpr[X86_RSP], 0x11223344);
    assert_int_equal(f->c->seg[X86_SS].sel, S_KD16);
    assert_int_equal(f->c->inhibit_irq, 0);
    fx_free(f);
}

static void test_reset(void **state)
{
    struct fx *f = sf_long(S_UC64);
    struct x86_cpu *c = f->c;

    c->is_bsp = true;
    c->lstar = 0x1234;
    c->xcr0 = 7;
    c->fpu.mxcsr = 0x1fa0;
    c->cr0 |= X86_CR0_CD;
    x86_reset(c, true); /* INIT keeps MSRs, FPU state and the cache bits */
    assert_int_equal(c->rip, 0xfff0);
    assert_int_equal(c->seg[X86_CS].base, 0xffff0000);
    assert_int_equal(c->cr0, X86_CR0_ET | X86_CR0_CD);
    assert_int_equal(c->lstar, 0x1234);
    assert_int_equal(c->xcr0, 7);
    assert_int_equal(c->fpu.mxcsr, 0x1fa0);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->mode, X86_MODE_16);
    assert_int_equal(c->activity, X86_RUNNING);
    x86_reset(c, false);
    assert_int_equal(c->lstar, 0);
    assert_int_equal(c->fpu.mxcsr, 0x1f80);
    assert_int_equal(c->cr0, 0x60000010);
    c->is_bsp = false;
    x86_reset(c, true);
    assert_int_equal(c->activity, X86_WAIT_SIPI);
    x86_sipi(c, 0x9a);
    assert_int_equal(c->activity, X86_RUNNING);
    assert_int_equal(c->seg[X86_CS].sel, 0x9a00);
    assert_int_equal(c->seg[X86_CS].base, 0x9a000);
    assert_int_equal(c->rip, 0);
    x86_sipi(c, 0x10); /* running: ignored */
    assert_int_equal(c->seg[X86_CS].sel, 0x9a00);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data_loads), cmocka_unit_test(test_accessed), cmocka_unit_test(test_ss_loads),
        cmocka_unit_test(test_ldt_entries), cmocka_unit_test(test_lldt_ltr), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_long_addresses), cmocka_unit_test(test_alignment), cmocka_unit_test(test_real_loads),
        cmocka_unit_test(test_push_pop), cmocka_unit_test(test_frames), cmocka_unit_test(test_lar_lsl),
        cmocka_unit_test(test_verify), cmocka_unit_test(test_arpl_and_stores), cmocka_unit_test(test_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
