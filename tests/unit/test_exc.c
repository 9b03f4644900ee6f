/* Delivery of exceptions and interrupts in every mode: frames, flags, error codes, stacks, nested faults. */
#include "seg_fixture.h"

#define HANDLER 0x12345678u
#define FL (X86_FL_1 | X86_FL_IF | X86_FL_TF | X86_FL_NT | X86_FL_AC | X86_FL_CF | X86_FL_OF)

static int soft(struct fx *f, unsigned vec, unsigned len)
{
    f->c->exc = (struct x86_exc){.vector = (uint8_t)vec, .kind = X86_EXC_SOFT, .insn_len = (uint8_t)len};
    return x86_deliver(f->c);
}

/* --- real mode -------------------------------------------------------------- */

static void test_real(void **state)
{
    struct fx *f = sf_real();

    fx_put32(f, 0x21 * 4, 0x12345678);
    x86_set_rflags(f->c, FL & ~(unsigned)X86_FL_NT);
    f->c->activity = X86_HALTED;
    f->c->inhibit_irq = 1;
    assert_int_equal(x86_interrupt(f->c, 0x21), X86_OK);
    assert_int_equal(f->c->rip, 0x5678);
    assert_int_equal(f->c->seg[X86_CS].sel, 0x1234);
    assert_int_equal(f->c->seg[X86_CS].base, 0x12340);
    assert_int_equal(f->c->gpr[X86_RSP], STACK - 6);
    assert_int_equal(get16(f, STACK - 2), (FL & ~(unsigned)X86_FL_NT) & 0xffff);
    assert_int_equal(get16(f, STACK - 4), 0x500);
    assert_int_equal(get16(f, STACK - 6), 0x10);
    assert_int_equal(x86_get_rflags(f->c), X86_FL_1 | X86_FL_CF | X86_FL_OF); /* IF, TF, AC cleared */
    assert_int_equal(f->c->activity, X86_RUNNING);
    assert_int_equal(f->c->inhibit_irq, 0);

    /* no error code in real mode; a software interrupt returns behind itself */
    fx_put32(f, 13 * 4, 0x00200030);
    raise(f, X86_GP, 0);
    f->c->gpr[X86_RSP] = STACK;
    assert_int_equal(x86_deliver(f->c), X86_OK);
    assert_int_equal(f->c->gpr[X86_RSP], STACK - 6);
    assert_int_equal(get16(f, STACK - 6), 0x5678);
    f->c->rip = 0x100;
    assert_int_equal(soft(f, 13, 2), X86_OK);
    assert_int_equal(get16(f, STACK - 12), 0x102);
    /* an IDT too small for the vector: #GP, whose entry is missing too, then #DF, then shutdown */
    f->c->idtr.limit = 0x1f;
    f->c->activity = X86_RUNNING;
    raise(f, X86_UD, -1);
    assert_int_equal(x86_deliver(f->c), X86_OK); /* vector 6 fits */
    assert_int_equal(x86_interrupt(f->c, 8), X86_FAULT);
    assert_int_equal(f->c->activity, X86_SHUTDOWN);
    fx_free(f);
}

/* --- protected mode ------------------------------------------------------------ */

static void test_same_level(void **state)
{
    static const struct {
        unsigned access, size;
        bool error;
    } t[] = {
        {0x8e, 4, false}, {0x8e, 4, true}, {0x8f, 4, false}, {0x8f, 4, true},
        {0x86, 2, false}, {0x86, 2, true}, {0x87, 2, false}, {0x87, 2, true},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = sf_prot(S_KC);
        unsigned n = t[i].size, sp = STACK - n * (t[i].error ? 4 : 3);
        uint64_t mask = n == 4 ? 0xffffffff : 0xffff;

        idt32(f, X86_SSF, S_KC, HANDLER, t[i].access);
        x86_set_rflags(f->c, FL);
        f->c->rip = 0xabcd1234;
        raise(f, X86_SSF, t[i].error ? 0x1230 : -1);
        assert_int_equal(x86_deliver(f->c), X86_OK);
        assert_int_equal(f->c->gpr[X86_RSP], sp);
        assert_int_equal(f->c->rip, HANDLER & mask);
        if (t[i].error) {
            assert_int_equal(fx_get64(f, sp) & mask, 0x1230);
            sp += n;
        }
        assert_int_equal(fx_get64(f, sp) & mask, 0xabcd1234 & mask);
        assert_int_equal(fx_get64(f, sp + n) & mask, S_KC);
        assert_int_equal(fx_get64(f, sp + 2 * n) & mask, (FL | X86_FL_RF) & mask); /* a fault sets RF in the image */
        assert_int_equal(x86_get_rflags(f->c),
                         (FL & ~(unsigned)(X86_FL_TF | X86_FL_NT)) & ~(t[i].access & 1 ? 0u : (unsigned)X86_FL_IF));
        assert_int_equal(f->c->cpl, 0);
        fx_free(f);
    }
}

static void test_inner_level(void **state)
{
    struct fx *f = sf_prot(S_UC);

    idt32(f, 0x80, S_KC, HANDLER, 0xef);
    x86_set_rflags(f->c, FL);
    assert_int_equal(soft(f, 0x80, 2), X86_OK);
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->c->seg[X86_CS].sel, S_KC);
    assert_int_equal(f->c->seg[X86_SS].sel, S_KD);
    assert_int_equal(f->c->seg[X86_DS].sel, S_UD); /* data segments stay */
    assert_int_equal(f->c->gpr[X86_RSP], KSTACK - 20);
    assert_int_equal(fx_get32(f, KSTACK - 4), S_UD);
    assert_int_equal(fx_get32(f, KSTACK - 8), STACK);
    assert_int_equal(fx_get32(f, KSTACK - 12), FL);
    assert_int_equal(fx_get32(f, KSTACK - 16), S_UC);
    assert_int_equal(fx_get32(f, KSTACK - 20), CODE + 2);
    assert_int_equal(f->c->mmu.cur == f->c->mmu.tlb[X86_TLB_SUPER], true);

    /* to ring 1 */
    sf_level(f, S_UC);
    idt32(f, 0x81, S_C1, HANDLER, 0xee);
    assert_int_equal(soft(f, 0x81, 2), X86_OK);
    assert_int_equal(f->c->cpl, 1);
    assert_int_equal(f->c->seg[X86_CS].sel, S_C1);
    assert_int_equal(f->c->seg[X86_SS].sel, S_D1);
    assert_int_equal(f->c->gpr[X86_RSP], R1STACK - 20);

    /* conforming: stays in ring 3, on its stack, CS.RPL = CPL */
    sf_level(f, S_UC);
    idt32(f, 0x82, S_CONF, HANDLER, 0xee);
    assert_int_equal(soft(f, 0x82, 2), X86_OK);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->c->seg[X86_CS].sel, S_CONF | 3);
    assert_int_equal(f->c->gpr[X86_RSP], STACK - 12);

    /* a 16-bit TSS holds 16-bit stacks; a 16-bit gate pushes words */
    sf_level(f, S_UC);
    f->c->tr.ar = 0x83;
    put16(f, TSS + 2, 0xb000);
    put16(f, TSS + 4, S_KD16);
    idt32(f, 0x83, S_KC, 0x4321, 0xe6);
    assert_int_equal(soft(f, 0x83, 2), X86_OK);
    assert_int_equal(f->c->gpr[X86_RSP], 0xb000 - 10);
    assert_int_equal(get16(f, 0xb000 - 2), S_UD);
    assert_int_equal(get16(f, 0xb000 - 10), CODE + 2);
    assert_int_equal(f->c->rip, 0x4321);
    fx_free(f);
}

static void test_from_v86(void **state)
{
    struct fx *f = sf_v86(3);

    idt32(f, 0x20, S_KC, HANDLER, 0xee);
    assert_int_equal(x86_interrupt(f->c, 0x20), X86_OK);
    assert_int_equal(f->c->cpl, 0);
    assert_false(x86_v86(f->c));
    assert_int_equal(f->c->mode, X86_MODE_32);
    assert_int_equal(f->c->gpr[X86_RSP], KSTACK - 36);
    static const uint32_t frame[9] = {0x10, 0x500, X86_FL_1 | X86_FL_VM | X86_FL_IF | X86_FL_IOPL,
                                      0x1000, 0x400, 0x711, 0x722, 0x733, 0x744};
    for (unsigned i = 0; i < 9; i++)
        assert_int_equal(fx_get32(f, KSTACK - 36 + 4 * i), frame[i]);
    static const unsigned data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(f->c->seg[data[i]].sel, 0);
        assert_int_equal(f->c->seg[data[i]].ar & X86_AR_P, 0);
    }
    assert_int_equal(x86_get_rflags(f->c), X86_FL_1 | X86_FL_IOPL);
    fx_free(f);

    /* not into conforming code, nor into ring 1 or 3; then #GP by a good gate, with the selector and EXT */
    static const uint16_t bad[] = {S_CONF, S_C1 & ~3, S_UC & ~3};
    for (unsigned i = 0; i < 3; i++) {
        f = sf_v86(3);
        idt32(f, 0x20, bad[i], HANDLER, 0xee);
        idt32(f, X86_GP, S_KC, HANDLER, 0x8e);
        assert_int_equal(x86_interrupt(f->c, 0x20), X86_OK);
        assert_int_equal(fx_get32(f, KSTACK - 40), bad[i] | 1);
        assert_int_equal(f->c->gpr[X86_RSP], KSTACK - 40);
        fx_free(f);
    }
}

/* A defect found on the way is reported through #GP, #NP, #SS or #TS with the right error code and EXT. */
static void test_bad_gates(void **state)
{
    enum { SOFT, HARD, INTR };
    static const struct {
        uint16_t cs;
        int how;
        uint64_t gate;
        unsigned vec;
        uint32_t err;
    } t[] = {
#define G(sel, access) ((uint64_t)(sel) << 16 | (uint64_t)(access) << 40 | 0x5000)
        {S_UC, SOFT, G(S_KC, 0x8e), X86_GP, 0x40 * 8 + 2},      /* gate DPL < CPL */
        {S_KC, SOFT, G(S_KC, 0x80), X86_GP, 0x40 * 8 + 2},      /* no gate type */
        {S_KC, HARD, G(S_KC, 0x8c), X86_GP, 0x40 * 8 + 3},      /* call gate */
        {S_KC, INTR, G(S_KC, 0x9e), X86_GP, 0x40 * 8 + 3},      /* S = 1 */
        {S_KC, INTR, G(S_KC, 0x0e), X86_NP, 0x40 * 8 + 3},
        {S_KC, SOFT, G(S_KC, 0x0e), X86_NP, 0x40 * 8 + 2},
        {S_KC, SOFT, G(0, 0x8e), X86_GP, 0},
        {S_KC, INTR, G(0, 0x8e), X86_GP, 1},
        {S_KC, INTR, G(S_END, 0x8e), X86_GP, S_END | 1},
        {S_KC, INTR, G(S_KD, 0x8e), X86_GP, S_KD | 1},          /* data */
        {S_KC, SOFT, G(S_TSS, 0x8e), X86_GP, S_TSS},
        {S_KC, INTR, G(S_UC, 0x8e), X86_GP, (S_UC & ~3) | 1},   /* outer level */
        {S_KC, INTR, G(S_NPC, 0x8e), X86_NP, S_NPC | 1},
        {S_KC, INTR, G(S_TASKG, 0x85), X86_GP, S_TASKG | 1},    /* task gate to no TSS */
        {S_KC, SOFT, G(S_TSS, 0x85), X86_GP, S_TSS},            /* to a busy one */
        {S_KC, SOFT, G(4, 0x85), X86_GP, 4},                    /* in the LDT */
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = sf_prot(t[i].cs);
        unsigned top = t[i].cs & 3 ? KSTACK - 20 : STACK - 12;
        int r;

        fx_put64(f, IDT + 0x40 * 8, t[i].gate);
        idt32(f, X86_GP, S_KC, 0x1300, 0x8e);
        idt32(f, X86_NP, S_KC, 0x1100, 0x8e);
        x86_set_rflags(f->c, X86_FL_1 | X86_FL_IF);
        if (t[i].how == SOFT) {
            r = soft(f, 0x40, 2);
        } else if (t[i].how == INTR) {
            r = x86_interrupt(f->c, 0x40);
        } else {
            raise(f, 0x40, -1);
            r = x86_deliver(f->c);
        }
        assert_int_equal(r, X86_OK);
        assert_int_equal(f->c->rip, t[i].vec == X86_GP ? 0x1300 : 0x1100);
        assert_int_equal(f->c->gpr[X86_RSP], top - 4);
        assert_int_equal(fx_get32(f, top - 4), t[i].err);
        assert_int_equal(fx_get32(f, top), CODE); /* the instruction itself, even for INT n */
        assert_int_equal(fx_get32(f, top + 8), X86_FL_1 | X86_FL_IF | X86_FL_RF);
        fx_free(f);
    }

    struct fx *f = sf_prot(S_KC); /* vector beyond the IDT */
    f->c->idtr.limit = 0x3f * 8 + 7;
    idt32(f, X86_GP, S_KC, 0x1300, 0x8e);
    assert_int_equal(x86_interrupt(f->c, 0x40), X86_OK);
    assert_int_equal(fx_get32(f, STACK - 16), 0x40 * 8 + 3);
    fx_free(f);
}

/* Inner stacks that cannot be used: #TS or #SS, delivered through a conforming handler in ring 3. */
static void test_bad_stacks(void **state)
{
    static const struct {
        uint16_t ss;
        unsigned vec;
        uint32_t err;
    } t[] = {
        {0, X86_TS, 0},          {S_END, X86_TS, S_END},   {S_KD | 1, X86_TS, S_KD}, {S_UD, X86_TS, S_UD & ~3},
        {S_RO, X86_TS, S_RO},    {S_KC, X86_TS, S_KC},     {S_NPD, X86_SSF, S_NPD},  {4, X86_TS, 4},
        {S_UD & ~3, X86_TS, S_UD & ~3}, {S_DOWN, X86_SSF, S_DOWN},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        for (unsigned ext = 0; ext < 2; ext++) {
            struct fx *f = sf_prot(S_UC);

            fx_put32(f, TSS + 8, t[i].ss);
            fx_put32(f, TSS + 4, 0x800); /* below the expand-down limit */
            idt32(f, 0x40, S_KC, HANDLER, 0xee);
            idt32(f, X86_TS, S_CONF, 0x1000, 0x8e);
            idt32(f, X86_SSF, S_CONF, 0x1200, 0x8e);
            assert_int_equal(ext ? x86_interrupt(f->c, 0x40) : soft(f, 0x40, 2), X86_OK);
            assert_int_equal(f->c->rip, t[i].vec == X86_TS ? 0x1000 : 0x1200);
            assert_int_equal(f->c->cpl, 3);
            assert_int_equal(fx_get32(f, STACK - 16), t[i].err | ext);
            fx_free(f);
        }
    }

    struct fx *f = sf_prot(S_UC); /* the TSS ends before SS0 */
    f->c->tr.limit = 8;
    idt32(f, 0x40, S_KC, HANDLER, 0xee);
    idt32(f, X86_TS, S_CONF, 0x1000, 0x8e);
    assert_int_equal(x86_interrupt(f->c, 0x40), X86_OK);
    assert_int_equal(fx_get32(f, STACK - 16), S_TSS | 1);
    f->c->tr.limit = 9; /* just long enough */
    sf_level(f, S_UC);
    assert_int_equal(x86_interrupt(f->c, 0x40), X86_OK);
    assert_int_equal(f->c->cpl, 0);

    /* handler beyond its segment limit: #GP(EXT), nothing pushed on the inner stack */
    sf_level(f, S_UC);
    gdt_put(f, S_KC, mkdesc(0, 0xfff, 0x9b, 4));
    idt32(f, X86_GP, S_CONF, 0x1300, 0x8e);
    memset(f->ram + KSTACK - 32, 0x77, 32);
    assert_int_equal(x86_interrupt(f->c, 0x40), X86_OK);
    assert_int_equal(f->c->rip, 0x1300);
    assert_int_equal(fx_get32(f, STACK - 16), 1);
    assert_int_equal(fx_get32(f, KSTACK - 4), 0x77777777);
    fx_free(f);
}

/* --- IA-32e mode -------------------------------------------------------------- */

static void test_long(void **state)
{
    static const struct {
        uint16_t cs;
        unsigned access, ist;
        int err;
        uint64_t rsp;
    } t[] = {
        {S_KC64, 0x8e, 0, -1, STACK + 5}, {S_KC64, 0x8f, 0, 0, STACK + 5}, {S_KC64, 0x8e, 3, 0x18, STACK},
        {S_UC64, 0x8e, 0, -1, STACK + 9}, {S_UC64, 0x8e, 0, 0, STACK},     {S_UC64, 0x8f, 7, 5, STACK},
        {S_UC, 0x8e, 0, 0, STACK},        {S_KC, 0x8e, 0, -1, STACK},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = sf_long(t[i].cs);
        uint64_t top = t[i].ist ? IST(t[i].ist) : t[i].cs & 3 ? KSTACK : t[i].rsp & ~15ull;
        uint16_t old_ss = f->c->seg[X86_SS].sel;
        unsigned n = t[i].err >= 0 ? 6 : 5;

        idt64(f, X86_GP, S_KC64, 0xffff800012345678, t[i].access, t[i].ist);
        x86_set_rflags(f->c, FL);
        f->c->gpr[X86_RSP] = t[i].rsp;
        raise(f, X86_GP, t[i].err);
        assert_int_equal(x86_deliver(f->c), X86_OK);
        assert_int_equal(f->c->rip, 0xffff800012345678);
        assert_int_equal(f->c->mode, X86_MODE_64);
        assert_int_equal(f->c->cpl, 0);
        assert_int_equal(f->c->seg[X86_CS].sel, S_KC64);
        assert_int_equal(f->c->seg[X86_SS].sel, t[i].cs & 3 ? 0 : old_ss); /* null, RPL 0, when CPL changes */
        assert_int_equal(f->c->gpr[X86_RSP], top - 8 * n);
        assert_int_equal(fx_get64(f, top - 8), old_ss);
        assert_int_equal(fx_get64(f, top - 16), t[i].rsp);
        assert_int_equal(fx_get64(f, top - 24), FL | X86_FL_RF);
        assert_int_equal(fx_get64(f, top - 32), t[i].cs);
        assert_int_equal(fx_get64(f, top - 40), CODE);
        if (n == 6)
            assert_int_equal(fx_get64(f, top - 48), t[i].err);
        assert_int_equal(x86_get_rflags(f->c),
                         FL & ~(unsigned)(X86_FL_TF | X86_FL_NT | (t[i].access & 1 ? 0 : X86_FL_IF)));
        fx_free(f);
    }
}

static void test_long_bad(void **state)
{
    static const struct {
        uint16_t cs, sel;
        unsigned access;
        uint64_t off;
        uint64_t rsp0;
        unsigned vec;
        uint32_t err; /* without EXT */
    } t[] = {
        {S_KC64, S_KC64, 0x86, 0, KSTACK, X86_GP, 0x402}, /* 16-bit gates, task gates: none */
        {S_KC64, S_TSS, 0x85, 0, KSTACK, X86_GP, 0x402},
        {S_KC64, S_KC64, 0x0e, 0, KSTACK, X86_NP, 0x402},
        {S_KC64, 0, 0x8e, 0, KSTACK, X86_GP, 0},
        {S_KC64, S_KC, 0x8e, 0, KSTACK, X86_GP, S_KC}, /* 32-bit code */
        {S_KC64, S_KD, 0x8e, 0, KSTACK, X86_GP, S_KD},
        {S_KC64, S_UC64, 0x8e, 0, KSTACK, X86_GP, S_UC64 & ~3},
        {S_KC64, S_END, 0x8e, 0, KSTACK, X86_GP, S_END},
        {S_KC64, S_KC64, 0x8e, 0x0000800000000000, KSTACK, X86_GP, 0},
        {S_UC64, S_KC64, 0xee, 0, 0x0000900000000000, X86_SSF, 0},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        for (unsigned ext = 0; ext < 2; ext++) {
            struct fx *f = sf_long(t[i].cs);
            unsigned v[] = {X86_GP, X86_NP, X86_SSF, X86_TS};

            idt64(f, 0x40, t[i].sel, t[i].off, t[i].access, 0);
            for (unsigned k = 0; k < 4; k++)
                idt64(f, v[k], S_KC64, 0x1000 + v[k], 0x8e, 2);
            fx_put64(f, TSS + 4, t[i].rsp0);
            assert_int_equal(ext ? x86_interrupt(f->c, 0x40) : soft(f, 0x40, 2), X86_OK);
            assert_int_equal(f->c->rip, 0x1000 + t[i].vec);
            assert_int_equal(fx_get64(f, IST(2) - 48), (t[i].err == 0x402 ? 0x202 : t[i].err) | ext);
            assert_int_equal(fx_get64(f, IST(2) - 40), CODE);
            fx_free(f);
        }
    }

    struct fx *f = sf_long(S_UC64); /* DPL check of software interrupts only */
    idt64(f, 0x40, S_KC64, 0x4000, 0x8e, 0);
    idt64(f, X86_GP, S_KC64, 0x1300, 0x8e, 0);
    assert_int_equal(soft(f, 0x40, 2), X86_OK);
    assert_int_equal(f->c->rip, 0x1300);
    assert_int_equal(fx_get64(f, KSTACK - 48), 0x202);
    sf_level(f, S_UC64);
    assert_int_equal(x86_interrupt(f->c, 0x40), X86_OK);
    assert_int_equal(f->c->rip, 0x4000);
    /* TSS too short for the IST slot */
    sf_level(f, S_UC64);
    idt64(f, 0x40, S_KC64, 0x4000, 0x8e, 7);
    idt64(f, X86_TS, S_KC64, 0x1000, 0x8e, 0);
    f->c->tr.limit = 0x5a;
    assert_int_equal(x86_interrupt(f->c, 0x40), X86_OK);
    assert_int_equal(f->c->rip, 0x1000);
    assert_int_equal(fx_get64(f, KSTACK - 48), S_TSS | 1);
    fx_free(f);
}

/* The frame is written with the new level's rights, and a fault leaves CPL as it was. */
static void test_long_page_faults(void **state)
{
    struct fx *f = sf_long(S_UC64);
    struct x86_cpu *c = f->c;

    idt64(f, 0x40, S_KC64, 0x4000, 0x8e, 0);
    idt64(f, X86_PF, S_KC64, 0x1400, 0x8e, 1);
    fx_put64(f, PT + 8 * 8, 0x8000 | 3); /* the page below KSTACK: supervisor only */
    assert_int_equal(x86_interrupt(c, 0x40), X86_OK);
    assert_int_equal(c->rip, 0x4000);

    sf_level(f, S_UC64);
    x86_tlb_flush_all(c);
    fx_put64(f, PT + 8 * 8, 0x8000 | 1); /* read-only */
    assert_int_equal(x86_interrupt(c, 0x40), X86_OK);
    assert_int_equal(c->rip, 0x1400);
    assert_int_equal(c->cr2, KSTACK - 8); /* the first push */
    assert_int_equal(fx_get64(f, IST(1) - 48), 3); /* present, write, supervisor */
    assert_int_equal(fx_get64(f, IST(1) - 32), S_UC64);
    assert_int_equal(fx_get64(f, IST(1) - 16), STACK);

    /* a frame that crosses into a missing page */
    sf_level(f, S_UC64);
    fx_put64(f, TSS + 4, 0x9010);
    fx_put64(f, PT + 8 * 8, 0);
    fx_put64(f, PT + 8 * 9, 0);
    x86_tlb_flush_all(c);
    assert_int_equal(x86_interrupt(c, 0x40), X86_OK);
    assert_int_equal(c->rip, 0x1400);
    assert_int_equal(c->cr2, 0x9008);
    sf_level(f, S_UC64);
    fx_put64(f, PT + 8 * 9, 0x9007);
    assert_int_equal(x86_interrupt(c, 0x40), X86_OK);
    assert_int_equal(c->cr2, 0x8ff8);
    fx_free(f);
}

/* --- flags, debug state, activity ------------------------------------------------ */

static void test_saved_rf(void **state)
{
    static const struct {
        unsigned vec, kind;
        uint64_t dr6;
        bool before, rf;
    } t[] = {
        {X86_PF, X86_EXC_FAULT, 0, false, true},  {X86_UD, X86_EXC_FAULT, 0, false, true},
        {X86_DB, X86_EXC_FAULT, 1, false, false}, {X86_DB, X86_EXC_FAULT, 0x4000, true, true},
        {X86_DB, X86_EXC_FAULT, 0x2000, false, true}, {X86_DB, X86_EXC_ICEBP, 0, true, false},
        {X86_BP, X86_EXC_SOFT, 0, true, false},   {0x40, X86_EXC_EXTINT, 0, true, true},
        {0x40, X86_EXC_EXTINT, 0, false, false},  {X86_DF, X86_EXC_FAULT, 0, false, false},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = sf_long(S_KC64);

        idt64(f, t[i].vec, S_KC64, 0x4000, 0x8e, 0);
        f->c->fl_sys |= t[i].before ? X86_FL_RF : 0;
        f->c->exc = (struct x86_exc){.vector = (uint8_t)t[i].vec, .kind = (uint8_t)t[i].kind, .dr6 = t[i].dr6};
        assert_int_equal(x86_deliver(f->c), X86_OK);
        assert_int_equal(!!(fx_get64(f, STACK - 24) & X86_FL_RF), t[i].rf);
        assert_int_equal(f->c->fl_sys & X86_FL_RF, 0);
        fx_free(f);
    }
}

static void test_debug_and_cr2(void **state)
{
    struct fx *f = sf_long(S_KC64);
    struct x86_cpu *c = f->c;

    idt64(f, X86_DB, S_KC64, 0x4000, 0x8e, 0);
    idt64(f, X86_PF, S_KC64, 0x4100, 0x8e, 0);
    c->dr6 = 0xffff4ff8; /* BS and B3 left over */
    c->dr7 = 0x2401;
    c->debugctl = 3;
    c->exc = (struct x86_exc){.vector = X86_DB, .dr6 = 2};
    assert_int_equal(x86_deliver(c), X86_OK);
    assert_int_equal(c->dr6, 0xffff4ff2);
    assert_int_equal(c->dr7, 0x401);
    assert_int_equal(c->debugctl, 0);
    c->exc = (struct x86_exc){.vector = X86_PF, .has_error = true, .error = 7, .cr2 = 0xffff800000001234};
    assert_int_equal(x86_deliver(c), X86_OK);
    assert_int_equal(c->cr2, 0xffff800000001234);
    /* vector 14 from outside is no page fault, INT1 sets no bit of DR6 */
    c->exc = (struct x86_exc){.vector = X86_PF, .kind = X86_EXC_EXTINT, .cr2 = 1};
    assert_int_equal(x86_deliver(c), X86_OK);
    assert_int_equal(c->cr2, 0xffff800000001234);
    c->exc = (struct x86_exc){.vector = X86_DB, .kind = X86_EXC_ICEBP, .insn_len = 1};
    c->rip = 0x7777;
    assert_int_equal(x86_deliver(c), X86_OK);
    assert_int_equal(c->dr6, 0xffff4ff2);
    assert_int_equal(fx_get64(f, c->gpr[X86_RSP]), 0x7778);
    fx_free(f);
}

static void test_nmi_and_halt(void **state)
{
    struct fx *f = sf_long(S_KC64);
    struct x86_cpu *c = f->c;

    idt64(f, X86_NMI, S_KC64, 0x4000, 0x8e, 4);
    assert_true(x86_nmi_allowed(c));
    c->activity = X86_HALTED;
    assert_int_equal(x86_nmi(c), X86_OK);
    assert_int_equal(c->gpr[X86_RSP], IST(4) - 40);
    assert_int_equal(c->activity, X86_RUNNING);
    assert_false(x86_nmi_allowed(c));
    assert_int_equal(RUN(f, "\x48\xcf"), X86_BRANCH); /* iretq unblocks */
    assert_true(x86_nmi_allowed(c));
    assert_int_equal(c->rip, CODE);
    assert_int_equal(c->gpr[X86_RSP], STACK);
    fx_free(f);
}

/* --- table 6-5 -------------------------------------------------------------------- */

/* The second exception is made to happen while the first is delivered: its gate is absent (#NP), refers to no code
 * segment (#GP), needs a bad stack (#SS, #TS) or a missing page of the IDT (#PF). */
enum second { SEC_NP, SEC_GP, SEC_SS, SEC_TS, SEC_PF, NSEC };

static void spoil(struct fx *f, unsigned vec, enum second s)
{
    switch (s) {
    case SEC_NP:
        idt64(f, vec, S_KC64, 0x4000, 0x0e, 0);
        break;
    case SEC_GP:
        idt64(f, vec, S_KD, 0x4000, 0x8e, 0);
        break;
    case SEC_SS: /* IST 5: not canonical */
        idt64(f, vec, S_KC64, 0x4000, 0x8e, 5);
        fx_put64(f, TSS + 0x1c + 8 * 5, 0x8000000000000000 >> 1);
        break;
    case SEC_TS: /* IST 7: beyond the TSS limit */
        idt64(f, vec, S_KC64, 0x4000, 0x8e, 7);
        f->c->tr.limit = 0x5a;
        break;
    default: /* IST 6: page not present */
        idt64(f, vec, S_KC64, 0x4000, 0x8e, 6);
        fx_put64(f, TSS + 0x1c + 8 * 6, 0x60000);
        fx_put64(f, PT + 8 * 0x5f, 0);
        break;
    }
}

static void test_double_fault_matrix(void **state)
{
    static const unsigned sec_vec[NSEC] = {X86_NP, X86_GP, X86_SSF, X86_TS, X86_PF};
    /* 0 benign, 1 contributory, 2 page fault */
    static const struct {
        unsigned vec, kind, cls;
    } first[] = {
        {X86_DE, X86_EXC_FAULT, 1}, {X86_DB, X86_EXC_FAULT, 0}, {X86_NMI, X86_EXC_NMI, 0},   {X86_BP, X86_EXC_SOFT, 0},
        {X86_OF, X86_EXC_SOFT, 0},  {X86_BR, X86_EXC_FAULT, 0}, {X86_UD, X86_EXC_FAULT, 0},  {X86_NM, X86_EXC_FAULT, 0},
        {X86_TS, X86_EXC_FAULT, 1}, {X86_NP, X86_EXC_FAULT, 1}, {X86_SSF, X86_EXC_FAULT, 1}, {X86_GP, X86_EXC_FAULT, 1},
        {X86_PF, X86_EXC_FAULT, 2}, {X86_MF, X86_EXC_FAULT, 0}, {X86_AC, X86_EXC_FAULT, 0},  {X86_MC, X86_EXC_FAULT, 0},
        {X86_XM, X86_EXC_FAULT, 0}, {0x30, X86_EXC_EXTINT, 0},  {X86_GP, X86_EXC_SOFT, 0},   {X86_PF, X86_EXC_EXTINT, 0},
        {X86_DF, X86_EXC_SOFT, 0},
    };

    for (unsigned i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
        for (unsigned s = 0; s < NSEC; s++) {
            struct fx *f = sf_long(S_KC64);
            bool df = (first[i].cls == 1 && s != SEC_PF) || first[i].cls == 2;

            if (sec_vec[s] == first[i].vec && !df) { /* the handler wanted is the one spoiled: its own case below */
                fx_free(f);
                continue;
            }
            for (unsigned v = 0; v < 32; v++)
                idt64(f, v, S_KC64, 0x1000 + v, 0x8e, 0);
            spoil(f, first[i].vec, (enum second)s);
            f->c->exc = (struct x86_exc){.vector = (uint8_t)first[i].vec, .kind = (uint8_t)first[i].kind, .insn_len = 2,
                                         .cr2 = 0x1111};
            assert_int_equal(x86_deliver(f->c), X86_OK);
            assert_int_equal(f->c->rip, 0x1000 + (df ? X86_DF : sec_vec[s]));
            assert_int_equal(fx_get64(f, STACK - 40), CODE);
            if (df)
                assert_int_equal(fx_get64(f, STACK - 48), 0);
            if (s == SEC_PF)
                assert_int_equal(f->c->cr2, 0x60000 - 8);
            fx_free(f);
        }
    }

    /* contributory or page fault while #DF is delivered: shutdown */
    for (unsigned s = 0; s < NSEC; s++) {
        struct fx *f = sf_long(S_KC64);
        struct x86_cpu before;

        for (unsigned v = 0; v < 32; v++)
            idt64(f, v, S_KC64, 0x1000 + v, 0x8e, 0);
        spoil(f, X86_GP, SEC_NP);
        spoil(f, X86_DF, (enum second)s);
        idt64(f, X86_NP, S_KC64, 0x4000, 0x0e, 0);
        raise(f, X86_GP, 0);
        memcpy(before.gpr, f->c->gpr, sizeof(before.gpr));
        assert_int_equal(x86_deliver(f->c), X86_FAULT);
        assert_int_equal(f->c->activity, X86_SHUTDOWN);
        assert_int_equal(f->c->rip, CODE);
        assert_memory_equal(before.gpr, f->c->gpr, sizeof(before.gpr));
        fx_free(f);
    }
}

/* An #AC whose handler in ring 3 meets #AC again and again ends, and does not hang the host. */
static void test_endless_ac(void **state)
{
    struct fx *f = sf_prot(S_UC);

    idt32(f, X86_AC, S_CONF, 0x4000, 0x8e);
    f->c->cr0 |= X86_CR0_AM;
    f->c->fl_sys |= X86_FL_AC;
    f->c->gpr[X86_RSP] = STACK + 2;
    raise(f, X86_AC, 0);
    assert_int_equal(x86_deliver(f->c), X86_FAULT);
    assert_int_equal(f->c->activity, X86_SHUTDOWN);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real), cmocka_unit_test(test_same_level), cmocka_unit_test(test_inner_level),
        cmocka_unit_test(test_from_v86), cmocka_unit_test(test_bad_gates), cmocka_unit_test(test_bad_stacks),
        cmocka_unit_test(test_long), cmocka_unit_test(test_long_bad), cmocka_unit_test(test_long_page_faults),
        cmocka_unit_test(test_saved_rf), cmocka_unit_test(test_debug_and_cr2), cmocka_unit_test(test_nmi_and_halt),
        cmocka_unit_test(test_double_fault_matrix), cmocka_unit_test(test_endless_ac),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
