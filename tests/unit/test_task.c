/* Hardware task switch: what is saved, loaded, linked and marked busy, and the faults on either side of it. */
#include "seg_fixture.h"

enum { OK = -2 };
enum { T_CR3 = 0x1c, T_EIP = 0x20, T_FL = 0x24, T_EAX = 0x28, T_ESP = 0x38, T_ES = 0x48, T_CS = 0x4c, T_SS = 0x50, T_DS = 0x54,
       T_FS = 0x58, T_GS = 0x5c, T_LDT = 0x60, T_TRAP = 0x64 };

#define CR3_B 0x106000u /* second page directory, sharing the table */

/* A complete 32-bit task in TSS_B. */
static void task_b(struct fx *f, uint16_t cs)
{
    uint16_t data = cs & 3 ? S_UD : S_KD;

    memset(f->ram + TSS_B, 0, 0x68);
    fx_put32(f, TSS_B + T_CR3, CR3_B);
    fx_put32(f, CR3_B, PT32 | 7);
    fx_put32(f, TSS_B + T_EIP, 0x7000);
    fx_put32(f, TSS_B + T_FL, X86_FL_1 | X86_FL_ZF);
    for (unsigned i = 0; i < 8; i++)
        fx_put32(f, TSS_B + T_EAX + 4 * i, 0xb0000000 + i);
    fx_put32(f, TSS_B + T_ESP, 0xc000);
    for (unsigned i = 0; i < 6; i++)
        fx_put32(f, TSS_B + T_ES + 4 * i, data);
    fx_put32(f, TSS_B + T_CS, cs);
    put16(f, TSS_B + T_LDT, S_LDT);
}

static struct fx *setup(uint16_t cs)
{
    struct fx *f = sf_prot(cs);

    for (unsigned i = 0; i < 8; i++)
        f->c->gpr[i] = 0xa0000000 + i;
    f->c->gpr[X86_RSP] = STACK;
    x86_set_rflags(f->c, X86_FL_1 | X86_FL_CF | X86_FL_IF);
    f->c->dr7 = 0x7ff;
    task_b(f, S_KC);
    return f;
}

static unsigned tss_type(struct fx *f, uint16_t sel) { return gdt_get(f, sel) >> 40 & 15; }

static void check_saved(struct fx *f, uint32_t eip, uint32_t flags, uint16_t cs)
{
    static const unsigned seg[6] = {X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS};

    assert_int_equal(fx_get32(f, TSS + T_EIP), eip);
    assert_int_equal(fx_get32(f, TSS + T_FL), flags);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(fx_get32(f, TSS + T_EAX + 4 * i), i == X86_RSP ? STACK : 0xa0000000 + i);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(get16(f, TSS + T_ES + 4 * i), seg[i] == X86_CS ? cs : cs & 3 ? S_UD : S_KD);
}

static void check_in_b(struct fx *f, uint32_t flags)
{
    struct x86_cpu *c = f->c;

    assert_int_equal(c->tr.sel, S_TSSB);
    assert_int_equal(c->tr.base, TSS_B);
    assert_int_equal(c->tr.ar & 15, 11);
    assert_int_equal(c->rip, 0x7000);
    assert_int_equal(x86_get_rflags(c), flags);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(c->gpr[i], i == X86_RSP ? 0xc000 : 0xb0000000 + i);
    assert_int_equal(c->ldtr.sel, S_LDT);
    assert_int_equal(c->ldtr.base, LDT);
    assert_true(c->cr0 & X86_CR0_TS);
    assert_int_equal(c->dr7, 0x7ff & ~0x155);
}

static void test_jmp_call_iret(void **state)
{
    static const char *const jmp[2] = {"\xea\0\0\0\0\xb0\0", "\xea\0\0\0\0\xd0\0"};   /* TSS, task gate */
    static const char *const call[2] = {"\x9a\0\0\0\0\xb0\0", "\x9a\0\0\0\0\xd0\0"};

    for (unsigned gate = 0; gate < 2; gate++) {
        struct fx *f = setup(S_KC);

        assert_int_equal(sf_run(f, jmp[gate], 7), X86_BRANCH);
        check_saved(f, CODE + 7, X86_FL_1 | X86_FL_CF | X86_FL_IF, S_KC);
        check_in_b(f, X86_FL_1 | X86_FL_ZF); /* no NT, no link */
        assert_int_equal(get16(f, TSS_B), 0);
        assert_int_equal(tss_type(f, S_TSS), 9);
        assert_int_equal(tss_type(f, S_TSSB), 11);
        fx_free(f);

        f = setup(S_KC);
        sf_paging32(f);
        assert_int_equal(sf_run(f, call[gate], 7), X86_BRANCH);
        check_saved(f, CODE + 7, X86_FL_1 | X86_FL_CF | X86_FL_IF, S_KC);
        check_in_b(f, X86_FL_1 | X86_FL_ZF | X86_FL_NT);
        assert_int_equal(get16(f, TSS_B), S_TSS);
        assert_int_equal(tss_type(f, S_TSS), 11); /* both busy */
        assert_int_equal(tss_type(f, S_TSSB), 11);
        assert_int_equal(f->c->cr3, CR3_B);

        /* back: B is saved without NT and is available again; A goes on */
        fx_put32(f, TSS + T_CR3, PD32);
        assert_int_equal(RUN(f, "\xcf"), X86_BRANCH);
        assert_int_equal(fx_get32(f, TSS_B + T_FL), X86_FL_1 | X86_FL_ZF);
        assert_int_equal(fx_get32(f, TSS_B + T_EIP), 0x7001);
        assert_int_equal(tss_type(f, S_TSS), 11);
        assert_int_equal(tss_type(f, S_TSSB), 9);
        assert_int_equal(f->c->tr.sel, S_TSS);
        assert_int_equal(f->c->rip, CODE + 7);
        assert_int_equal(x86_get_rflags(f->c), X86_FL_1 | X86_FL_CF | X86_FL_IF);
        assert_int_equal(f->c->gpr[X86_RBX], 0xa0000000 + X86_RBX);
        assert_int_equal(f->c->cr3, PD32);
        fx_free(f);
    }
}

static void test_to_ring3_and_v86(void **state)
{
    struct fx *f = setup(S_KC);

    task_b(f, S_UC);
    assert_int_equal(RUN(f, "\xea\0\0\0\0\xb0\0"), X86_BRANCH);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->c->seg[X86_SS].sel, S_UD);
    assert_ptr_equal(f->c->mmu.cur, f->c->mmu.tlb[X86_TLB_USER]);
    fx_free(f);

    f = setup(S_KC);
    fx_put32(f, TSS_B + T_FL, X86_FL_1 | X86_FL_VM);
    fx_put32(f, TSS_B + T_CS, 0x500);
    fx_put32(f, TSS_B + T_SS, 0x600);
    assert_int_equal(RUN(f, "\xea\0\0\0\0\xb0\0"), X86_BRANCH);
    assert_true(x86_v86(f->c));
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->c->seg[X86_CS].base, 0x5000);
    assert_int_equal(f->c->seg[X86_SS].base, 0x6000);
    assert_int_equal(f->c->mode, X86_MODE_16);
    fx_free(f);
}

static void test_16bit(void **state)
{
    struct fx *f = setup(S_KC);
    struct x86_cpu *c = f->c;

    for (unsigned i = 0; i < 0x2c / 2; i++)
        put16(f, TSS_16 + 2 * i, 0);
    put16(f, TSS_16 + 0x0e, 0x7000);
    put16(f, TSS_16 + 0x10, X86_FL_1 | X86_FL_SF);
    for (unsigned i = 0; i < 8; i++)
        put16(f, TSS_16 + 0x12 + 2 * i, (uint16_t)(0xc0 + i));
    put16(f, TSS_16 + 0x22, S_KD);
    put16(f, TSS_16 + 0x24, S_KC16);
    put16(f, TSS_16 + 0x26, S_KD16);
    put16(f, TSS_16 + 0x28, S_RO);
    assert_int_equal(RUN(f, "\x9a\0\0\0\0\xb8\0"), X86_BRANCH);
    assert_int_equal(c->tr.sel, S_TSS16);
    assert_int_equal(tss_type(f, S_TSS16), 3);
    assert_int_equal(c->rip, 0x7000);
    assert_int_equal(x86_get_rflags(c), X86_FL_1 | X86_FL_SF | X86_FL_NT);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal((uint16_t)c->gpr[i], 0xc0 + i);
    assert_int_equal(c->seg[X86_SS].sel, S_KD16);
    assert_int_equal(c->seg[X86_DS].sel, S_RO);
    assert_int_equal(c->seg[X86_FS].sel, 0);
    assert_int_equal(c->seg[X86_FS].ar & X86_AR_P, 0);
    assert_int_equal(c->ldtr.ar & X86_AR_P, 0);
    assert_int_equal(get16(f, TSS_16), S_TSS);
    assert_int_equal(c->mode, X86_MODE_16);
    /* back: words are saved */
    c->gpr[X86_RDX] = 0x12345678;
    assert_int_equal(RUN(f, "\xcf"), X86_BRANCH);
    assert_int_equal(c->tr.sel, S_TSS);
    assert_int_equal(c->rip, CODE + 7);
    assert_int_equal(c->gpr[X86_RDX], 0xa0000000 + X86_RDX);
    assert_int_equal(get16(f, TSS_16 + 0x0e), 0x7001);
    assert_int_equal(get16(f, TSS_16 + 0x12 + 2 * X86_RDX), 0x5678);
    assert_int_equal(get16(f, TSS_16 + 0x26), S_KD16);
    assert_int_equal(get16(f, TSS_16 + 0x2a), 0); /* the LDT field is not saved */
    fx_free(f);
}

/* Faults found before the switch belong to the old task and change nothing. */
static void test_faults_before(void **state)
{
    struct fx *f = setup(S_KC);
    struct x86_cpu *c = f->c;
    static const char insn[] = "\x9a\0\0\0\0\xb0\0";

    gdt_put(f, S_TSSB, mkdesc(TSS_B, 0x67, 0x09, 0));
    expect(f, sf_run(f, insn, 7), X86_NP, S_TSSB);
    gdt_put(f, S_TSSB, mkdesc(TSS_B, 0x66, 0x89, 0));
    expect(f, sf_run(f, insn, 7), X86_TS, S_TSSB);
    gdt_put(f, S_TSSB, mkdesc(TSS_B, 0x67, 0x8b, 0)); /* busy */
    expect(f, sf_run(f, insn, 7), X86_GP, S_TSSB);
    expect(f, RUN(f, "\x9a\0\0\0\0\xd0\0"), X86_GP, S_TSSB); /* through the gate */
    gdt_put(f, S_TASKG, mkgate(S_TSSB | 4, 0, 0x85, 0));
    expect(f, RUN(f, "\x9a\0\0\0\0\xd0\0"), X86_GP, S_TSSB | 4);
    gdt_put(f, S_TASKG, mkgate(S_TSSB, 0, 0x05, 0));
    expect(f, RUN(f, "\x9a\0\0\0\0\xd0\0"), X86_NP, S_TASKG);
    gdt_put(f, S_TASKG, mkgate(S_END, 0, 0x85, 0));
    expect(f, RUN(f, "\x9a\0\0\0\0\xd0\0"), X86_GP, S_END);
    gdt_put(f, S_TSSB, mkdesc(0x10000, 0x67, 0x89, 0));
    sf_paging32(f);
    fx_put32(f, PT32 + 4 * 0x10, 0);
    expect(f, sf_run(f, insn, 7), X86_PF, 0); /* the new TSS is missing: read first */
    fx_put32(f, PT32 + 4 * 0x10, 0x10000 | 5);
    expect(f, sf_run(f, insn, 7), X86_PF, 3); /* read-only: the link cannot be written */
    assert_int_equal(c->exc.cr2, 0x10000);
    gdt_put(f, S_TSSB, mkdesc(TSS_B, 0x67, 0x89, 0));
    c->tr.base = 0x10000; /* now the old TSS is */
    x86_tlb_flush_all(c);
    expect(f, sf_run(f, insn, 7), X86_PF, 3);
    assert_int_equal(c->exc.cr2, 0x10000 + T_EIP);
    c->tr.base = TSS;
    c->tr.limit = 0x5e;
    expect(f, sf_run(f, insn, 7), X86_TS, S_TSS);
    /* after all that nothing has changed */
    assert_int_equal(c->rip, CODE);
    assert_int_equal(c->tr.sel, S_TSS);
    assert_int_equal(c->cr3, PD32);
    assert_int_equal(tss_type(f, S_TSSB), 9);
    assert_int_equal(get16(f, TSS_B), 0);
    assert_int_equal(fx_get32(f, TSS + T_EIP), 0);
    assert_int_equal(c->cr0 & X86_CR0_TS, 0);
    fx_free(f);

    /* IRET with NT: the link must name a busy TSS */
    static const struct {
        uint16_t link;
        unsigned vec, err;
    } t[] = {{0, X86_TS, 0}, {S_TSSB, X86_TS, S_TSSB}, {S_TSSB | 4, X86_TS, S_TSSB | 4}, {S_END, X86_TS, S_END}, {S_KD, X86_TS, S_KD}};
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        f = setup(S_KC);
        f->c->fl_sys |= X86_FL_NT;
        put16(f, TSS, t[i].link);
        expect(f, RUN(f, "\xcf"), t[i].vec, (int)t[i].err);
        assert_int_equal(f->c->rip, CODE);
        fx_free(f);
    }
}

/* Faults in the new task's segments: the switch has happened; registers are those of the new task. */
static void test_faults_after(void **state)
{
    static const struct {
        unsigned field;
        uint16_t sel;
        unsigned vec, err;
    } t[] = {
        {T_LDT, S_KD, X86_TS, S_KD},
        {T_LDT, S_LDT | 4, X86_TS, S_LDT | 4},
        {T_LDT, S_END, X86_TS, S_END},
        {T_CS, 0, X86_TS, 0},
        {T_CS, S_KD, X86_TS, S_KD},
        {T_CS, S_UC & ~3, X86_TS, S_UC & ~3},
        {T_CS, S_CONFR, X86_TS, S_CONFR},
        {T_CS, S_NPC, X86_NP, S_NPC},
        {T_SS, 0, X86_TS, 0},
        {T_SS, S_UD, X86_TS, S_UD & ~3},
        {T_SS, S_KD | 1, X86_TS, S_KD},
        {T_SS, S_RO, X86_TS, S_RO},
        {T_SS, S_NPD, X86_SSF, S_NPD},
        {T_DS, S_XO, X86_TS, S_XO},
        {T_ES, S_KD | 3, X86_TS, S_KD},
        {T_FS, S_NPD, X86_NP, S_NPD},
        {T_GS, S_END, X86_TS, S_END},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct fx *f = setup(S_KC);

        put16(f, TSS_B + t[i].field, t[i].sel);
        expect(f, RUN(f, "\x9a\0\0\0\0\xb0\0"), t[i].vec, (int)t[i].err);
        assert_int_equal(f->c->tr.sel, S_TSSB);
        assert_int_equal(f->c->rip, 0x7000);
        assert_int_equal(f->c->gpr[X86_RAX], 0xb0000000);
        assert_int_equal(fx_get32(f, TSS + T_EIP), CODE + 7);
        assert_int_equal(tss_type(f, S_TSSB), 11);
        assert_int_equal(f->c->seg[X86_DS].sel, t[i].field == T_DS ? t[i].sel : S_KD); /* selectors are in place */
        fx_free(f);
    }

    struct fx *f = setup(S_KC); /* LDT not present: #TS, not #NP */
    gdt_put(f, S_LDT, mkdesc(LDT, 0x7f, 0x02, 0));
    expect(f, RUN(f, "\x9a\0\0\0\0\xb0\0"), X86_TS, S_LDT);
    fx_free(f);
    f = setup(S_KC); /* EIP beyond the new code segment */
    put16(f, TSS_B + T_CS, S_KC16);
    fx_put32(f, TSS_B + T_EIP, 0x10000);
    expect(f, RUN(f, "\x9a\0\0\0\0\xb0\0"), X86_GP, 0);
    assert_int_equal(f->c->tr.sel, S_TSSB);
    fx_free(f);
}

static void test_trap_bit(void **state)
{
    struct fx *f = setup(S_KC);

    put16(f, TSS_B + T_TRAP, 1);
    assert_int_equal(RUN(f, "\xea\0\0\0\0\xb0\0"), X86_BRANCH);
    assert_int_equal(f->c->pending_dbg, 1 << 15);
    expect(f, x86_debug_after(f->c, false), X86_DB, -1);
    assert_int_equal(f->c->exc.dr6, 1 << 15);
    assert_int_equal(f->c->rip, 0x7000);
    fx_free(f);
}

/* Exceptions and interrupts through task gates. */
static void test_through_idt(void **state)
{
    struct fx *f = setup(S_UC);

    idt32(f, X86_GP, S_TSSB, 0, 0x85);
    raise(f, X86_GP, 0x1234);
    assert_int_equal(x86_deliver(f->c), X86_OK);
    check_saved(f, CODE, X86_FL_1 | X86_FL_CF | X86_FL_IF | X86_FL_RF, S_UC); /* of a fault, with RF */
    assert_int_equal(f->c->tr.sel, S_TSSB);
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->c->gpr[X86_RSP], 0xc000 - 4); /* the error code */
    assert_int_equal(fx_get32(f, 0xc000 - 4), 0x1234);
    assert_int_equal(x86_get_rflags(f->c), X86_FL_1 | X86_FL_ZF | X86_FL_NT);
    assert_int_equal(get16(f, TSS_B), S_TSS);
    fx_free(f);

    /* from virtual-8086 mode, no error code; the whole state comes back by IRET */
    f = sf_v86(0);
    task_b(f, S_KC);
    idt32(f, 0x20, S_TSSB, 0, 0x85);
    assert_int_equal(x86_interrupt(f->c, 0x20), X86_OK);
    assert_int_equal(f->c->gpr[X86_RSP], 0xc000);
    assert_false(x86_v86(f->c));
    assert_int_equal(fx_get32(f, TSS + T_FL), X86_FL_1 | X86_FL_VM | X86_FL_IF);
    assert_int_equal(get16(f, TSS + T_GS), 0x744);
    assert_int_equal(RUN(f, "\xcf"), X86_BRANCH);
    assert_true(x86_v86(f->c));
    assert_int_equal(f->c->seg[X86_GS].base, 0x7440);
    assert_int_equal(f->c->rip, 0x10);
    assert_int_equal(f->c->fl_sys & X86_FL_IF, X86_FL_IF);
    fx_free(f);

    /* no room for the error code on the new stack: #SS, in the new task, whose handler is an ordinary gate */
    f = setup(S_KC);
    gdt_put(f, S_KD16, mkdesc(0, 0xff, 0x93, 0));
    fx_put32(f, TSS_B + T_SS, S_KD16);
    fx_put32(f, TSS_B + T_ESP, 0xc000);
    idt32(f, X86_TS, S_TSSB, 0, 0x85);
    idt32(f, X86_DF, S_KC, 0x1800, 0x8e);
    raise(f, X86_TS, 0x10);
    assert_int_equal(x86_deliver(f->c), X86_FAULT); /* #TS then #SS is #DF, which has no stack either */
    assert_int_equal(f->c->activity, X86_SHUTDOWN);
    assert_int_equal(f->c->tr.sel, S_TSSB);
    fx_free(f);

    /* #DF through a task gate rescues a lost stack: the classic use */
    f = setup(S_KC);
    f->c->gpr[X86_RSP] = 4;
    f->c->seg[X86_SS].limit = 0x7fff;
    idt32(f, X86_DF, S_TSSB, 0, 0x85);
    idt32(f, X86_GP, S_KC, 0x1300, 0x8e);
    raise(f, X86_GP, 0);
    assert_int_equal(x86_deliver(f->c), X86_OK);
    assert_int_equal(f->c->tr.sel, S_TSSB);
    assert_int_equal(f->c->gpr[X86_RSP], 0xc000 - 4);
    assert_int_equal(fx_get32(f, 0xc000 - 4), 0);
    assert_int_equal(fx_get32(f, TSS + T_EIP), CODE);
    assert_int_equal(fx_get32(f, TSS + T_ESP), 4);
    fx_free(f);

    /* EXT in the error codes of a switch made for an interrupt */
    f = setup(S_KC);
    put16(f, TSS_B + T_DS, S_XO);
    idt32(f, 0x20, S_TSSB, 0, 0x85);
    idt32(f, X86_TS, S_KC, 0x1000, 0x8e);
    assert_int_equal(x86_interrupt(f->c, 0x20), X86_OK);
    assert_int_equal(f->c->rip, 0x1000);
    assert_int_equal(f->c->tr.sel, S_TSSB);
    assert_int_equal(fx_get32(f, 0xc000 - 16), S_XO | 1);
    assert_int_equal(fx_get32(f, 0xc000 - 12), 0x7000);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jmp_call_iret), cmocka_unit_test(test_to_ring3_and_v86), cmocka_unit_test(test_16bit),
        cmocka_unit_test(test_faults_before), cmocka_unit_test(test_faults_after), cmocka_unit_test(test_trap_bit),
        cmocka_unit_test(test_through_idt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
