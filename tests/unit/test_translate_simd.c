/*
 * Random SSE and AVX instructions, translated, against the interpreter one instruction at a time: vector
 * registers, MXCSR, general registers, flags, memory and the place of a fault must agree.
 */
#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x243f6a8885a308d3ull
#include "tests/unit/translate_random.h"
#include "x86/decode.h"
#include "x86/fpu.h"

#define DATA_SIZE 0x2000u

static bool simd[X86_NOP_COUNT];

static bool wanted(const struct x86_insn *in)
{
    const struct x86_isa_row *r = &x86_isa[in->row];

    if (!simd[in->op] || (r->attr & (X86_ATTR_MMX | X86_ATTR_X87)) || in->addrsize != 8)
        return false;
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct x86_operand *o = &in->opnd[i];

        if (o->kind == X86_OPND_GPR && o->reg == X86_RSP)
            return false;
        if (o->kind == X86_OPND_MEM && (in->mem.base >= X86_NGPR || in->mem.base == X86_RSP || in->mem.index < X86_NGPR ||
                                        in->mem.seg >= X86_FS || in->mem.disp < -128 || in->mem.disp > 127))
            return false;
    }
    return true;
}

static unsigned emit(uint8_t *p)
{
    struct x86_insn in;
    uint8_t b[16];

    for (;;) {
        unsigned n = 0, k = 0;

        if (rnd() % 2) {
            static const uint8_t pfx[] = {0, 0x66, 0xf2, 0xf3};
            const uint8_t f = pfx[rnd() % 4];

            if (f)
                b[n++] = f;
            if (rnd() % 2)
                b[n++] = (uint8_t)(0x40 | rnd() % 16);
            b[n++] = 0x0f;
            if (rnd() % 3 == 0)
                b[n++] = rnd() & 1 ? 0x38 : 0x3a;
        } else if (rnd() % 2) {
            b[n++] = 0xc5;
            b[n++] = (uint8_t)rnd();
        } else {
            b[n++] = 0xc4;
            b[n++] = (uint8_t)((rnd() & 0xe0) | (1 + rnd() % 3));
            b[n++] = (uint8_t)rnd();
        }
        while (n < 16)
            b[n++] = (uint8_t)rnd();
        if (x86_decode(&in, b, 15, X86_MODE_64, false, NULL) != X86_DEC_OK || !wanted(&in))
            continue;
        for (unsigned i = 0; i < in.nopnd; i++)
            if (in.opnd[i].kind == X86_OPND_MEM) { /* mov base, address: mostly aligned */
                const uint32_t at = IM_DATA + 0x400 + ((uint32_t)(rnd() % 0x1000) & (rnd() % 4 ? ~31u : ~0u)) - (uint32_t)in.mem.disp;

                if (in.mem.base >= 8)
                    p[k++] = 0x41;
                p[k++] = (uint8_t)(0xb8 + (in.mem.base & 7));
                memcpy(p + k, &at, 4);
                k += 4;
                break;
            }
        memcpy(p + k, b, in.len);
        return k + in.len;
    }
}

struct result {
    struct im_seen seen;
    uint32_t mxcsr;
    uint8_t xmm[256], ymmh[256], data[DATA_SIZE];
};

static uint32_t mxcsr; /* the rounds begin with it */

static void begin(struct im *m, const uint8_t *code, unsigned n)
{
    struct x86_cpu *c = &m->v->cpu;

    im_random_bytes(m->vm->ram + IM_DATA, DATA_SIZE);
    im_put(m, IM_CODE, code, n);
    im_long(m, m->v);
    c->cr4 |= X86_CR4_OSXSAVE;
    c->xcr0 = 7;
    x86_recompute(c);
    c->fpu.mxcsr = mxcsr;
    for (unsigned i = 0; i < 256; i++) {
        c->fpu.xmm[i / 16][i % 16] = (uint8_t)rnd();
        c->fpu.ymmh[i / 16][i % 16] = (uint8_t)rnd();
    }
    for (unsigned i = 0; i < 8; i++) { /* some ordinary numbers */
        const double d = (double)(int64_t)(rnd() % 2000) / 8 - 100;
        const float f = (float)d;

        memcpy(&c->fpu.xmm[rnd() % 16][0], &d, 8);
        memcpy(&c->fpu.xmm[rnd() % 16][0], &f, 4);
    }
    im_random_gpr(c, false);
    x86_set_rflags(c, (rnd() & X86_FL_ARITH) | X86_FL_1);
}

static void see(struct im *m, struct result *out)
{
    const struct x86_cpu *c = &m->v->cpu;

    out->mxcsr = c->fpu.mxcsr;
    memcpy(out->xmm, c->fpu.xmm, 256);
    memcpy(out->ymmh, c->fpu.ymmh, 256);
    memcpy(out->data, m->vm->ram + IM_DATA, DATA_SIZE);
}

static void print(const struct result *a, const struct result *b)
{
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(a->xmm + 16 * i, b->xmm + 16 * i, 16) || memcmp(a->ymmh + 16 * i, b->ymmh + 16 * i, 16))
            fprintf(stderr, "vector %u differs\n", i);
    im_print_pair("mxcsr", 0, a->mxcsr, b->mxcsr);
}

static struct result translated, single;
static const struct im_test test = {begin, see, print, &translated, &single, sizeof(struct result)};

static bool one_round(struct im *m, unsigned r)
{
    const unsigned count = 1 + (unsigned)(rnd() % (rnd() % 4 ? 6 : 20));
    uint8_t code[512];
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++)
        n += emit(code + n);
    code[n++] = 0xf4;
    return im_compare(m, r, code, n, &test)->rip == IM_CODE + n;
}

static void compare(uint32_t with)
{
    const unsigned rounds = random_rounds(1500);

    mxcsr = with;
    assert_true(im_rounds(rounds, one_round) > rounds / 3); /* most get to their end */
}

static void masked(void **state)
{
    (void)state;
    compare(0x1f80);
}
static void unmasked(void **state)
{
    (void)state;
    compare(0x1f80 & ~0x80u); /* the invalid operation traps */
}
static void rounding(void **state)
{
    (void)state;
    compare(0x1f80 | 0x6000 | 0x8040); /* toward zero, flush to zero, denormals are zero */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(masked), cmocka_unit_test(unmasked), cmocka_unit_test(rounding)};

    for (const struct x86_exec_entry *e = x86_exec_fpu; e->fn; e++)
        simd[e->op] = e->fn == x86_exec_simd;
    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
