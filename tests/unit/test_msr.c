/* MSRs and control registers: what is accepted, what is refused, what it changes. */
#include "cpu_fixture.h"

#define GOOD(msr, v) assert_int_equal(x86_wrmsr(f->c, msr, v), X86_OK)
#define BAD(expr)                                                                                                      \
    do {                                                                                                               \
        memset(&f->c->exc, 0xee, sizeof(f->c->exc));                                                                   \
        assert_int_equal(expr, X86_FAULT);                                                                             \
        assert_int_equal(f->c->exc.vector, X86_GP);                                                                    \
        assert_true(f->c->exc.has_error && !f->c->exc.error);                                                          \
    } while (0)

static uint64_t rd(struct fx *f, uint32_t msr)
{
    uint64_t v = 0xdead;

    assert_int_equal(x86_rdmsr(f->c, msr, &v), X86_OK);
    return v;
}

static struct fx *fx(void)
{
    struct fx *f = fx_new(40);

    x86_reset(f->c, false);
    f->c->activity = X86_RUNNING;
    return f;
}

static void unknown(void **state)
{
    struct fx *f = fx();
    static const uint32_t no[] = {0x3a,  0xc1,        0x186,      0x17b,      0x38f,      0x400,
                                  0x480, 0x8b1u << 8, 0xc0000104, 0xc0010015, 0x40000000, 0xffffffff,
                                  0x210, 0x251,       0x26f + 1,  0x6e1,      0x122,      0x10b};
    uint64_t v;

    (void)state;
    for (unsigned i = 0; i < sizeof(no) / sizeof(no[0]); i++) {
        BAD(x86_rdmsr(f->c, no[i], &v));
        BAD(x86_wrmsr(f->c, no[i], 0));
    }
    /* read-only and write-only ones */
    BAD(x86_wrmsr(f->c, 0xfe, 0));
    BAD(x86_wrmsr(f->c, 0x10a, 0));
    BAD(x86_wrmsr(f->c, 0x179, 0));
    BAD(x86_wrmsr(f->c, 0xce, 0));
    BAD(x86_rdmsr(f->c, 0x49, &v));
    GOOD(0x49, 1);
    BAD(x86_wrmsr(f->c, 0x49, 2));
    /* those of the surroundings */
    assert_true(rd(f, 0x1b) == 0xfee00900);
    BAD(x86_rdmsr(f->c, 0x802, &v));
    BAD(x86_wrmsr(f->c, 0x4b564d01, 0));
    fx_free(f);
}

static void canonical(void **state)
{
    struct fx *f = fx();
    static const uint32_t regs[] = {0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101, 0xc0000102, 0x175, 0x176};

    (void)state;
    for (unsigned i = 0; i < sizeof(regs) / sizeof(regs[0]); i++) {
        GOOD(regs[i], 0x00007fffffffffff);
        assert_true(rd(f, regs[i]) == 0x00007fffffffffff);
        GOOD(regs[i], 0xffff800000000000);
        BAD(x86_wrmsr(f->c, regs[i], 0x0000800000000000));
        BAD(x86_wrmsr(f->c, regs[i], 0xffff7fffffffffff));
        BAD(x86_wrmsr(f->c, regs[i], 0x8000000000000000));
        assert_true(rd(f, regs[i]) == 0xffff800000000000);
    }
    assert_true(f->c->seg[X86_FS].base == 0xffff800000000000);
    GOOD(0xc0000081, ~0ull); /* STAR takes anything */
    GOOD(0xc0000084, 0xffffffff);
    BAD(x86_wrmsr(f->c, 0xc0000084, 1ull << 32));
    GOOD(0xc0000103, 0x12345678);
    BAD(x86_wrmsr(f->c, 0xc0000103, 1ull << 32));
    fx_free(f);
}

static void memory_types(void **state)
{
    struct fx *f = fx();
    static const bool valid[256] = {[0] = true, [1] = true, [4] = true, [5] = true, [6] = true};

    (void)state;
    assert_true(rd(f, 0x277) == 0x0007040600070406);
    assert_int_equal(rd(f, 0xfe), 0x508);
    for (unsigned t = 0; t < 256; t++)
        for (unsigned at = 0; at < 8; at += 7) {
            uint64_t v = (0x0606060606060606 & ~(0xffull << 8 * at)) | (uint64_t)t << 8 * at;

            if (valid[t] || t == 7)
                GOOD(0x277, v);
            else
                BAD(x86_wrmsr(f->c, 0x277, v));
            if (valid[t]) {
                GOOD(0x250, v);
                GOOD(0x26f, v);
                assert_true(rd(f, 0x26f) == v);
            } else {
                BAD(x86_wrmsr(f->c, 0x259, v));
            }
            if (valid[t]) {
                GOOD(0x2ff, 0xc00 | t);
                GOOD(0x20e, 0x123456000 | t);
            } else {
                BAD(x86_wrmsr(f->c, 0x2ff, t));
                BAD(x86_wrmsr(f->c, 0x20e, t));
            }
        }
    BAD(x86_wrmsr(f->c, 0x2ff, 0x100));
    BAD(x86_wrmsr(f->c, 0x2ff, 0x1000));
    GOOD(0x20f, 0xffff000800);
    assert_true(rd(f, 0x20f) == 0xffff000800);
    BAD(x86_wrmsr(f->c, 0x20f, 0x10000000800)); /* beyond MAXPHYADDR */
    BAD(x86_wrmsr(f->c, 0x20f, 0x801));
    BAD(x86_wrmsr(f->c, 0x20e, 0x100));
    fx_free(f);
}

static void time_stamp(void **state)
{
    struct fx *f = fx();

    (void)state;
    f->tsc = 1000;
    assert_int_equal(rd(f, 0x10), 1000);
    GOOD(0x10, 500000);
    assert_int_equal(rd(f, 0x10), 500000);
    assert_int_equal(rd(f, 0x3b), 499000);
    f->tsc = 1010;
    assert_int_equal(rd(f, 0x10), 500010);
    GOOD(0x3b, 0);
    assert_int_equal(rd(f, 0x10), 1010);
    GOOD(0x3b, (uint64_t)-10);
    assert_int_equal(rd(f, 0x10), 1000);
    GOOD(0x10, 0);
    assert_true(rd(f, 0x3b) == (uint64_t)-1010);
    fx_free(f);
}

static void misc(void **state)
{
    struct fx *f = fx();

    (void)state;
    assert_int_equal(rd(f, 0x1a0),
                     X86_MISC_FAST_STRINGS | X86_MISC_BTS_UNAVAIL | X86_MISC_PEBS_UNAVAIL | X86_MISC_MONITOR);
    GOOD(0x1a0, 1);
    assert_int_equal(rd(f, 0x1a0), 1 | X86_MISC_BTS_UNAVAIL | X86_MISC_PEBS_UNAVAIL);
    BAD(x86_wrmsr(f->c, 0x1a0, 1ull << 63));
    GOOD(0xc0000080, X86_EFER_NXE);
    BAD(x86_wrmsr(f->c, 0x1a0, X86_MISC_XD_DISABLE));
    GOOD(0xc0000080, 0);
    GOOD(0x1a0, X86_MISC_XD_DISABLE);
    BAD(x86_wrmsr(f->c, 0xc0000080, X86_EFER_NXE));
    GOOD(0x140, 1);
    BAD(x86_wrmsr(f->c, 0x140, 2));
    assert_true(rd(f, 0xce) & 1u << 31);
    assert_int_equal(rd(f, 0xce) >> 8 & 0xff, 20);
    GOOD(0x48, 3);
    BAD(x86_wrmsr(f->c, 0x48, 4));
    GOOD(0x1d9, 3);
    BAD(x86_wrmsr(f->c, 0x1d9, 4));
    GOOD(0x17a, 0);
    BAD(x86_wrmsr(f->c, 0x17a, 1));
    GOOD(0xda0, 0);
    BAD(x86_wrmsr(f->c, 0xda0, 1));
    GOOD(0x8b, 0);
    assert_true(rd(f, 0x8b) == 1ull << 32);
    GOOD(0x48, 0x403); /* IBRS, STIBP, BHI_DIS_S */
    BAD(x86_wrmsr(f->c, 0x48, 0x407));
    /* nothing that is presented asks for a mitigation */
    assert_int_equal(rd(f, 0x10a) & (1 | 1u << 5 | 1u << 8 | 1u << 4), 1 | 1u << 5 | 1u << 8 | 1u << 4);
    fx_free(f);
}

/* --- control registers --------------------------------------------------------- */

static void cr0(void **state)
{
    struct fx *f = fx();
    struct x86_cpu *c = f->c;

    (void)state;
    BAD(x86_set_cr0(c, X86_CR0_PG)); /* paging without protection */
    BAD(x86_set_cr0(c, X86_CR0_NW));
    BAD(x86_set_cr0(c, 1ull << 32));
    assert_int_equal(x86_set_cr0(c, X86_CR0_PE | 0x0ff8ffc0), X86_OK); /* undefined bits are dropped, ET stays */
    assert_int_equal(c->cr0, X86_CR0_PE | X86_CR0_ET);
    assert_int_equal(x86_set_cr0(c, X86_CR0_PE | X86_CR0_NW | X86_CR0_CD), X86_OK);
    assert_int_equal(x86_set_cr0(c, X86_CR0_PE), X86_OK);

    /* into long mode: PAE first */
    assert_int_equal(x86_set_efer(c, X86_EFER_LME), X86_OK);
    BAD(x86_set_cr0(c, X86_CR0_PE | X86_CR0_PG));
    assert_int_equal(x86_set_cr4(c, X86_CR4_PAE), X86_OK);
    c->seg[X86_CS].ar |= X86_AR_L;
    BAD(x86_set_cr0(c, X86_CR0_PE | X86_CR0_PG)); /* CS.L already set */
    c->seg[X86_CS].ar &= (uint16_t)~X86_AR_L;
    c->tr.ar = 0x83;
    BAD(x86_set_cr0(c, X86_CR0_PE | X86_CR0_PG)); /* 16-bit TSS */
    c->tr.ar = 0x8b;
    assert_int_equal(x86_set_cr0(c, X86_CR0_PE | X86_CR0_PG), X86_OK);
    assert_int_equal(c->efer, X86_EFER_LME | X86_EFER_LMA);
    BAD(x86_set_efer(c, 0));                                 /* LME while paging */
    assert_int_equal(x86_set_efer(c, X86_EFER_LME), X86_OK); /* LMA is not software's */
    assert_int_equal(c->efer, X86_EFER_LME | X86_EFER_LMA);
    BAD(x86_set_cr4(c, 0));
    c->seg[X86_CS].ar |= X86_AR_L;
    c->seg[X86_CS].ar &= (uint16_t)~X86_AR_DB;
    x86_recompute(c);
    assert_int_equal(c->mode, X86_MODE_64);
    BAD(x86_set_cr0(c, X86_CR0_PE)); /* not from 64-bit mode */
    c->seg[X86_CS].ar &= (uint16_t)~X86_AR_L;
    x86_recompute(c);
    assert_int_equal(x86_set_cr4(c, X86_CR4_PAE | X86_CR4_PCIDE), X86_OK);
    BAD(x86_set_cr0(c, X86_CR0_PE)); /* PCIDE */
    assert_int_equal(x86_set_cr4(c, X86_CR4_PAE), X86_OK);
    assert_int_equal(x86_set_cr0(c, X86_CR0_PE), X86_OK);
    assert_int_equal(c->efer, X86_EFER_LME);
    BAD(x86_set_efer(c, 1u << 1));
    BAD(x86_set_efer(c, 1u << 12));
    fx_free(f);
}

static void cr4(void **state)
{
    struct fx *f = fx();
    struct x86_cpu *c = f->c;
    const uint64_t offered = X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE |
                             X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT |
                             X86_CR4_UMIP | X86_CR4_FSGSBASE | X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP;

    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        if (offered >> bit & 1)
            assert_int_equal(x86_set_cr4(c, 1ull << bit), X86_OK);
        else
            BAD(x86_set_cr4(c, 1ull << bit)); /* PCIDE too: outside IA-32e mode */
    }
    c->cr4 = X86_CR4_PAE;
    c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET;
    c->efer = X86_EFER_LME | X86_EFER_LMA;
    c->cr3 = 0x1001;
    BAD(x86_set_cr4(c, X86_CR4_PAE | X86_CR4_PCIDE)); /* PCID must be 0 */
    c->cr3 = 0x1000;
    assert_int_equal(x86_set_cr4(c, X86_CR4_PAE | X86_CR4_PCIDE), X86_OK);
    assert_int_equal(x86_set_cr3(c, 0x8000000000002005), X86_OK);
    assert_int_equal(c->cr3, 0x2005); /* the no-flush bit is not kept */
    BAD(x86_set_cr3(c, 1ull << 40));
    BAD(x86_set_cr3(c, 1ull << 62));
    assert_int_equal(x86_set_cr4(c, X86_CR4_PAE), X86_OK);
    BAD(x86_set_cr3(c, 0x8000000000002000));
    fx_free(f);
}

/* The four PDPTRs are checked and loaded by CR3, and by the CR0 and CR4 writes that switch PAE paging. */
static void pdptrs(void **state)
{
    struct fx *f = fx();
    struct x86_cpu *c = f->c;

    (void)state;
    c->cr0 |= X86_CR0_PE;
    for (unsigned i = 0; i < 4; i++)
        fx_put64(f, 0x5020 + 8 * i, 0x10000 * (i + 1) + 1);
    fx_put64(f, 0x5028, 0xfffffffffffffffe); /* not present: nothing is checked */
    assert_int_equal(x86_set_cr4(c, X86_CR4_PAE), X86_OK);
    assert_int_equal(x86_set_cr3(c, 0x5020), X86_OK);
    assert_true(c->pdptr[0] != 0x10001);
    assert_int_equal(x86_set_cr0(c, X86_CR0_PE | X86_CR0_PG), X86_OK);
    assert_int_equal(c->pdptr[0], 0x10001);
    assert_int_equal(c->pdptr[3], 0x40001);
    fx_put64(f, 0x5020, 0x77001);
    assert_int_equal(c->pdptr[0], 0x10001); /* registers, not memory */
    assert_int_equal(x86_set_cr3(c, 0x5020), X86_OK);
    assert_int_equal(c->pdptr[0], 0x77001);
    static const unsigned reserved[] = {1, 2, 5, 6, 7, 8, 40, 51, 52, 63};
    for (unsigned i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
        fx_put64(f, 0x5038, 0x40001 | 1ull << reserved[i]);
        BAD(x86_set_cr3(c, 0x5020));
        BAD(x86_set_cr4(c, X86_CR4_PAE | X86_CR4_PGE));
        assert_int_equal(c->cr4, X86_CR4_PAE);
        assert_int_equal(c->pdptr[3], 0x40001);
    }
    fx_put64(f, 0x5038, 0x40001 | 1 << 3 | 1 << 4 | 7 << 9); /* PWT, PCD, ignored bits */
    assert_int_equal(x86_set_cr4(c, X86_CR4_PAE | X86_CR4_PGE), X86_OK);
    fx_free(f);
}

/* Every change that alters what cached translations mean flushes them. */
static void flushes(void **state)
{
    struct fx *f = fx();
    struct x86_cpu *c = f->c;
    uint32_t v;

    (void)state;
#define FLUSHES(expr, yes)                                                                                             \
    do {                                                                                                               \
        assert_int_equal(x86_lin_read(c, 0x3000, &v, 4), X86_OK);                                                      \
        assert_int_not_equal(x86_tlb_host_r(c, 0x3000, 4), 0);                                                         \
        assert_int_equal(expr, X86_OK);                                                                                \
        if (yes)                                                                                                       \
            assert_int_equal(x86_tlb_host_r(c, 0x3000, 4), 0);                                                         \
        else                                                                                                           \
            assert_int_not_equal(x86_tlb_host_r(c, 0x3000, 4), 0);                                                     \
    } while (0)
    fx_put32(f, 0x8000, 0x83); /* 4 MiB identity */
    assert_int_equal(x86_set_cr4(c, X86_CR4_PSE), X86_OK);
    c->cr0 |= X86_CR0_PE;
    FLUSHES(x86_set_cr3(c, 0x8000), true);
    FLUSHES(x86_set_cr0(c, X86_CR0_PE | X86_CR0_PG), true);
    FLUSHES(x86_set_cr0(c, X86_CR0_PE | X86_CR0_PG | X86_CR0_WP), true);
    FLUSHES(x86_set_cr0(c, X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_TS), false);
    FLUSHES(x86_set_cr4(c, X86_CR4_PSE | X86_CR4_PGE), true);
    FLUSHES(x86_set_cr4(c, X86_CR4_PSE | X86_CR4_PGE | X86_CR4_SMEP), true);
    FLUSHES(x86_set_cr4(c, X86_CR4_PSE | X86_CR4_PGE | X86_CR4_SMEP | X86_CR4_SMAP), true);
    FLUSHES(x86_set_cr4(c, X86_CR4_PSE | X86_CR4_PGE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_TSD), false);
    FLUSHES(x86_set_efer(c, X86_EFER_NXE), true);
    FLUSHES(x86_set_efer(c, X86_EFER_NXE | X86_EFER_SCE), false);
    FLUSHES(x86_set_cr3(c, 0x8000), true);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown),    cmocka_unit_test(canonical), cmocka_unit_test(memory_types),
        cmocka_unit_test(time_stamp), cmocka_unit_test(misc),      cmocka_unit_test(cr0),
        cmocka_unit_test(cr4),        cmocka_unit_test(pdptrs),    cmocka_unit_test(flushes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
