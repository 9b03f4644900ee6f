/* x87, MMX, SSE and AVX: what the host cannot show at CPL 3: CR0, CR4 and XCR0 checks, formats by mode, FERR#, XSAVE headers. */
#include "cpu_fixture.h"
#include "x86/decode.h"
#include "x86/thunk.h"

#define AT 0x200000u /* where memory operands are: [RAX], [EAX], or [BX] with DS based there */

static unsigned ferr_calls;
static void count_ferr(void *env) { ferr_calls++; }

static void done(struct fx *f)
{
    x86_fpu_fini(f->c);
    fx_free(f);
}

/* X86_OK, or the vector raised. */
static int run(struct fx *f, const char *bytes, unsigned n)
{
    uint8_t buf[16] = {0};
    struct x86_insn in;
    const struct x86_exec_entry *e;
    int r;

    memcpy(buf, bytes, n);
    assert_int_equal(x86_decode(&in, buf, 15, f->c->mode, !x86_pe(f->c), NULL), X86_DEC_OK);
    assert_int_equal(in.len, n);
    for (e = x86_exec_fpu; e->fn && e->op != in.op; e++)
        ;
    assert_non_null(e->fn);
    r = e->fn(f->c, &in);
    assert_true(r == X86_OK || r == X86_FAULT);
    return r == X86_OK ? -1 : f->c->exc.vector;
}
static struct fx *setup(enum x86_mode_bits mode)
{
    static struct x86_env_ops ops;
    struct fx *f = fx_new(40);
    struct x86_cpu *c = f->c;

    ops = fx_ops;
    ops.ferr = count_ferr;
    c->ops = &ops;
    ferr_calls = 0;
    fx_put64(f, 0x1000, 0x2007);
    fx_put64(f, 0x2000, 0x3007);
    for (unsigned i = 0; i < 16; i++)
        fx_put64(f, 0x3000 + 8 * i, i * 0x200000ull | 0x87);
    for (unsigned i = 0; i < X86_NSEG; i++)
        c->seg[i] = (struct x86_seg){.limit = 0xffffffff, .ar = 0xc093, .sel = 0x10};
    c->cr0 |= X86_CR0_NE | X86_CR0_MP;
    c->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    c->xcr0 = 7;
    c->seg[X86_CS] = (struct x86_seg){.limit = 0xffffffff, .sel = 8, .ar = 0xc09b};
    if (mode == X86_MODE_64) {
        c->cr4 |= X86_CR4_PAE;
        c->cr3 = 0x1000;
        c->efer = X86_EFER_LME | X86_EFER_LMA;
        c->cr0 |= X86_CR0_PG;
        c->seg[X86_CS].ar = 0xa09b;
    } else if (mode == X86_MODE_16) {
        c->cr0 &= ~(uint64_t)X86_CR0_PE;
        c->seg[X86_CS] = (struct x86_seg){.base = 0x12340, .limit = 0xffff, .sel = 0x1234, .ar = 0x9b};
        c->seg[X86_DS] = (struct x86_seg){.base = AT, .limit = 0xffff, .sel = 0x2000, .ar = 0x93};
    }
    x86_recompute(c);
    x86_tlb_flush_all(c);
    x86_fpu_reset(c);
    assert_int_equal(run(f, "\xdb\xe3", 2), -1); /* FNINIT */
    c->gpr[X86_RAX] = AT;
    c->gpr[X86_RBX] = 0;
    c->rip = 0x4000;
    return f;
}

#define RUN(f, s) run(f, s, sizeof(s) - 1)
#define OK (-1)

#define ADDPS "\x0f\x58\xc1"
#define MOVQ_MM "\x0f\x6f\xc1"
#define VADDPS "\xc5\xf0\x58\xc2"
#define FLD1 "\xd9\xe8"
#define FWAIT "\x9b"
#define FNSTSW "\xdf\xe0"
#define FNINIT "\xdb\xe3"
#define FXSAVE "\x0f\xae\x00"
#define XSAVE "\x0f\xae\x20"
#define XRSTOR "\x0f\xae\x28"
#define XSAVEC "\x0f\xc7\x20"
#define LDMXCSR "\x0f\xae\x10"

static void checks(void **st)
{
    struct fx *f = setup(X86_MODE_64);
    struct x86_cpu *c = f->c;

    assert_int_equal(RUN(f, ADDPS), OK);
    assert_int_equal(RUN(f, FLD1), OK);
    c->cr0 |= X86_CR0_TS;
    assert_int_equal(RUN(f, ADDPS), X86_NM);
    assert_int_equal(RUN(f, VADDPS), X86_NM);
    assert_int_equal(RUN(f, MOVQ_MM), X86_NM);
    assert_int_equal(RUN(f, FLD1), X86_NM);
    assert_int_equal(RUN(f, FNSTSW), X86_NM);
    assert_int_equal(RUN(f, FXSAVE), X86_NM);
    assert_int_equal(RUN(f, XSAVE), X86_NM);
    assert_int_equal(RUN(f, LDMXCSR), X86_NM);
    assert_int_equal(RUN(f, FWAIT), X86_NM);
    c->cr0 &= ~(uint64_t)X86_CR0_MP; /* FWAIT alone asks for MP too */
    assert_int_equal(RUN(f, FWAIT), OK);
    assert_int_equal(RUN(f, FLD1), X86_NM);

    c->cr0 |= X86_CR0_EM; /* #UD goes before #NM */
    assert_int_equal(RUN(f, ADDPS), X86_UD);
    assert_int_equal(RUN(f, MOVQ_MM), X86_UD);
    assert_int_equal(RUN(f, VADDPS), X86_NM); /* EM does not matter */
    assert_int_equal(RUN(f, FLD1), X86_NM);
    c->cr0 &= ~(uint64_t)(X86_CR0_EM | X86_CR0_TS);

    c->cr4 &= ~(uint64_t)X86_CR4_OSFXSR;
    assert_int_equal(RUN(f, ADDPS), X86_UD);
    assert_int_equal(RUN(f, LDMXCSR), X86_UD);
    assert_int_equal(RUN(f, MOVQ_MM), OK);
    assert_int_equal(RUN(f, VADDPS), OK);
    c->cr4 |= X86_CR4_OSFXSR;
    c->xcr0 = 3;
    assert_int_equal(RUN(f, VADDPS), X86_UD);
    c->xcr0 = 7;
    c->cr4 &= ~(uint64_t)X86_CR4_OSXSAVE;
    assert_int_equal(RUN(f, VADDPS), X86_UD);
    assert_int_equal(RUN(f, XSAVE), X86_UD);
    done(f);
}

static void simd_exception(void **st)
{
    struct fx *f = setup(X86_MODE_64);
    struct x86_cpu *c = f->c;
    const uint32_t one = 0x3f800000;

    /* 1 / 0 with #Z unmasked: nothing written, flag set. */
    memset(c->fpu.xmm, 0, sizeof(c->fpu.xmm));
    memcpy(c->fpu.xmm[0], &one, 4);
    c->fpu.mxcsr = 0x1f80 & ~0x200u;
    assert_int_equal(RUN(f, "\xf3\x0f\x5e\xc1"), X86_XM);
    assert_memory_equal(c->fpu.xmm[0], &one, 4);
    assert_int_equal(c->fpu.mxcsr, (0x1f80 & ~0x200u) | 4);
    c->cr4 &= ~(uint64_t)X86_CR4_OSXMMEXCPT;
    assert_int_equal(RUN(f, "\xf3\x0f\x5e\xc1"), X86_UD);
    c->fpu.mxcsr = 0x1f80;
    assert_int_equal(RUN(f, "\xf3\x0f\x5e\xc1"), OK);
    assert_memory_equal(c->fpu.xmm[0], "\x00\x00\x80\x7f", 4);
    assert_int_equal(c->fpu.mxcsr, 0x1f84);
    done(f);
}

static void x87_exception(void **st)
{
    struct fx *f = setup(X86_MODE_64);
    struct x86_cpu *c = f->c;

    /* FLD1; FLDZ; FDIVP with #Z unmasked: pending until the next waiting instruction. */
    c->fpu.fcw = 0x37b;
    assert_int_equal(RUN(f, FLD1), OK);
    assert_int_equal(RUN(f, "\xd9\xee"), OK);
    c->rip = 0x4242;
    assert_int_equal(RUN(f, "\xde\xf9"), OK);
    assert_int_equal(c->fpu.fsw & 0x80bf, 0x8084);
    assert_int_equal(c->fpu.fip, 0x4242);
    assert_int_equal(c->fpu.fop, 0x6f9);
    assert_int_equal(RUN(f, FNSTSW), OK);
    assert_int_equal((uint16_t)c->gpr[X86_RAX], c->fpu.fsw);
    c->gpr[X86_RAX] = AT;
    assert_int_equal(RUN(f, FLD1), X86_MF);
    assert_int_equal(RUN(f, FWAIT), X86_MF);
    assert_int_equal(RUN(f, MOVQ_MM), X86_MF);
    assert_int_equal(RUN(f, FXSAVE), OK); /* does not wait */

    /* NE = 0: the board hears of it, the instruction goes on as with IGNNE#. */
    c->cr0 &= ~(uint64_t)X86_CR0_NE;
    assert_int_equal(ferr_calls, 0);
    assert_int_equal(RUN(f, FWAIT), OK);
    assert_int_equal(ferr_calls, 1);
    assert_int_equal(RUN(f, FLD1), OK);
    assert_int_equal(ferr_calls, 2);
    assert_int_equal(c->fpu.fsw & 0x80bf, 0x8084);
    assert_int_equal(c->fpu.st[0][9], 0x3f);
    c->cr0 |= X86_CR0_NE;
    assert_int_equal(RUN(f, "\xdb\xe2"), OK); /* FNCLEX */
    assert_int_equal(RUN(f, FLD1), OK);
    done(f);
}

/* FNSTENV in the four formats (SDM Vol. 1, 8.1.10). */
static void env_formats(void **st)
{
    struct fx *f = setup(X86_MODE_16);
    struct x86_cpu *c = f->c;
    uint8_t *m = f->ram + AT;
    static const uint8_t real16[14] = {0x7f, 0x03, 0x00, 0x00, 0xff, 0xff, 0x40, 0x63, 0x23, 0x11, 0x08, 0x02, 0x00, 0x20};
    static const uint8_t real32[28] = {0x7f, 0x03, 0xff, 0xff, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x40, 0x63,
                                       0xff, 0xff, 0x23, 0x11, 0x00, 0x00, 0x08, 0x02, 0xff, 0xff, 0x00, 0x20, 0x00, 0x00};

    c->fpu.fcs = 0x1234; /* 1234:4000 is linear 16340, 2000:0208 is 20208 */
    c->fpu.fip = 0x4000;
    c->fpu.fds = 0x2000;
    c->fpu.fdp = 0x208;
    c->fpu.fop = 0x123;
    memset(m, 0xaa, 64);
    assert_int_equal(RUN(f, "\xd9\x37"), OK); /* FNSTENV [BX] */
    assert_memory_equal(m, real16, sizeof(real16));
    assert_int_equal(m[14], 0xaa);
    memset(m, 0xaa, 64);
    assert_int_equal(RUN(f, "\x66\xd9\x37"), OK);
    assert_memory_equal(m, real32, sizeof(real32));
    assert_int_equal(m[28], 0xaa);
    /* Loaded back, the pointers are linear addresses with no segment. */
    assert_int_equal(RUN(f, "\x66\xd9\x27"), OK);
    assert_int_equal(c->fpu.fip + (c->fpu.fcs << 4), 0x16340);
    assert_int_equal(c->fpu.fdp + (c->fpu.fds << 4), 0x20208);
    assert_int_equal(c->fpu.fop, 0x123);
    done(f);

    /* Protected: FRSTOR of what FNSAVE stored gives the same state; FNSAVE initialises. */
    f = setup(X86_MODE_32);
    c = f->c;
    assert_int_equal(RUN(f, "\xd9\xeb"), OK); /* FLDPI */
    assert_int_equal(RUN(f, FLD1), OK);
    for (unsigned op16 = 0; op16 < 2; op16++) {
        uint8_t before[160];
        uint16_t fsw = c->fpu.fsw;

        memcpy(before, c->fpu.raw, sizeof(before));
        assert_int_equal(op16 ? RUN(f, "\x66\xdd\x30") : RUN(f, "\xdd\x30"), OK);
        assert_int_equal(c->fpu.fsw, 0);
        assert_int_equal(c->fpu.ftw, 0);
        assert_int_equal(c->fpu.fcw, 0x37f);
        assert_int_equal(op16 ? RUN(f, "\x66\xdd\x20") : RUN(f, "\xdd\x20"), OK);
        assert_int_equal(c->fpu.fsw, fsw);
        assert_memory_equal(c->fpu.raw, before, 6);
        assert_memory_equal(c->fpu.st, before + 32, 128);
    }
    done(f);
}

static void xsave_headers(void **st)
{
    struct fx *f = setup(X86_MODE_64);
    struct x86_cpu *c = f->c;

    memset(c->fpu.xmm, 0x11, sizeof(c->fpu.xmm));
    memset(c->fpu.ymmh, 0x22, sizeof(c->fpu.ymmh));
    c->gpr[X86_RDX] = 0;
#define WITH(mask, addr) (c->gpr[X86_RAX] = (mask), c->gpr[X86_RCX] = (addr))
#define XSAVE_C "\x0f\xae\x21"
#define XRSTOR_C "\x0f\xae\x29"
#define XSAVEC_C "\x0f\xc7\x21"
    WITH(7, AT + 16);
    assert_int_equal(RUN(f, XSAVE_C), X86_GP);
    WITH(7, AT);
    fx_put64(f, AT + 512, 0xf0); /* other components' bits stay */
    assert_int_equal(RUN(f, XSAVE_C), OK);
    assert_int_equal(fx_get64(f, AT + 512), 0xf6); /* x87 is in its initial state */
    assert_int_equal(f->ram[AT + 160], 0x11);
    assert_int_equal(f->ram[AT + 576], 0x22);
    assert_int_equal(RUN(f, XRSTOR_C), X86_GP); /* bits not in XCR0 */
    fx_put64(f, AT + 512, 4);
    WITH(6, AT);
    assert_int_equal(RUN(f, XRSTOR_C), OK); /* SSE to its initial state, AVX loaded */
    assert_int_equal(c->fpu.xmm[3][0], 0);
    assert_int_equal(c->fpu.ymmh[3][0], 0x22);
    fx_put64(f, AT + 528, 1);
    assert_int_equal(RUN(f, XRSTOR_C), X86_GP);
    fx_put64(f, AT + 528, 0);
    fx_put32(f, AT + 24, 0x10000); /* MXCSR is checked though SSE is not loaded */
    assert_int_equal(RUN(f, XRSTOR_C), X86_GP);
    fx_put32(f, AT + 24, 0x1f80);
    assert_int_equal(RUN(f, XRSTOR_C), OK);

    memset(f->ram + AT, 0x55, 1024);
    WITH(7, AT);
    c->gpr[X86_RDX] = 0xffffffff; /* masked with XCR0 */
    assert_int_equal(RUN(f, XSAVEC_C), OK);
    assert_int_equal(fx_get64(f, AT + 512), 4);
    assert_int_equal(fx_get64(f, AT + 520), 1ull << 63 | 7);
    assert_int_equal(f->ram[AT + 160], 0x55);
    assert_int_equal(f->ram[AT + 576], 0x22);
    assert_int_equal(x86_xinuse(c), 4);
    c->cpl = 3;
    assert_int_equal(RUN(f, "\x0f\xc7\x29"), X86_GP); /* XSAVES */
    done(f);
}

/* VEX operations clear the upper half, legacy ones keep it; a full thunk cache is emptied and goes on. */
static void upper_halves(void **st)
{
    struct fx *f = setup(X86_MODE_64);
    struct x86_cpu *c = f->c;
    uint64_t kept = 0;

    memset(c->fpu.ymmh, 0x77, sizeof(c->fpu.ymmh));
    assert_int_equal(RUN(f, ADDPS), OK);
    assert_int_equal(c->fpu.ymmh[0][5], 0x77);
    assert_int_equal(RUN(f, "\xc5\xf0\x58\xc2"), OK);
    assert_int_equal(c->fpu.ymmh[0][5], 0);
    assert_int_equal(c->fpu.ymmh[1][5], 0x77);
    /* PSHUFD xmm1, xmm2, i with every i and register pair: more encodings than the cache holds. */
    for (unsigned i = 0; i < 256; i++) {
        for (unsigned pair = 0; pair < 64; pair++) {
            char code[5] = {0x66, 0x0f, 0x70, (char)(0xc0 | pair), (char)i};
            uint32_t src[4], dst[4];

            for (unsigned r = 0; r < 8; r++)
                for (unsigned k = 0; k < 4; k++)
                    memcpy(c->fpu.xmm[r] + 4 * k, &(uint32_t){r * 16 + k}, 4);
            memcpy(src, c->fpu.xmm[pair & 7], 16);
            assert_int_equal(run(f, code, 5), OK);
            memcpy(dst, c->fpu.xmm[pair >> 3], 16);
            for (unsigned k = 0; k < 4; k++)
                kept += dst[k] == src[i >> (2 * k) & 3];
        }
    }
    assert_int_equal(kept, 256 * 64 * 4);
    done(f);
}

/* On hosts that do not tell the pointers, we know them. */
static void pointers(void **state)
{
    struct fx *f = setup(X86_MODE_64);
    struct x86_cpu *c = f->c;

    assert_int_equal(x86_fpu_init(c), 0);
    c->thunks->hides_pointers = true;
    c->rip = 0x400010;
    assert_int_equal(run(f, "\xdd\x00", 2), -1); /* FLD m64 */
    assert_int_equal(c->fpu.fip, 0x400010);
    assert_int_equal(c->fpu.fdp, AT);
    assert_int_equal(c->fpu.fop, 0x500);
    assert_int_equal(c->fpu.fcs, 8);
    c->rip = 0x400020;
    assert_int_equal(run(f, "\xd9\xe8", 2), -1); /* FLD1: no operand in memory */
    assert_int_equal(c->fpu.fip, 0x400020);
    assert_int_equal(c->fpu.fdp, AT);
    assert_int_equal(c->fpu.fop, 0x1e8);
    c->rip = 0x400030;
    c->gpr[X86_RAX] = AT + 0xffa; /* crosses a page: by way of a buffer */
    assert_int_equal(run(f, "\xd9\x10", 2), -1); /* FST m32 */
    assert_int_equal(c->fpu.fdp, AT + 0xffa);
    c->rip = 0x400040;
    assert_int_equal(run(f, "\xd9\x38", 2), -1); /* FNSTCW, no computing instruction */
    assert_int_equal(c->fpu.fip, 0x400030);
    done(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checks),      cmocka_unit_test(simd_exception), cmocka_unit_test(x87_exception),
        cmocka_unit_test(env_formats), cmocka_unit_test(xsave_headers),  cmocka_unit_test(upper_halves),
        cmocka_unit_test(pointers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
