/*
 * The interpreter's fast handlers against the generic executors: random programs of integer and vector
 * instructions run once in blocks and once an instruction at a time; all registers, flags, memory and the
 * instruction count must agree.
 */
#include <stdio.h>

#define RANDOM_SEED 0x9e3779b97f4a7c15ull
#include "tests/random.h"
#include "tests/unit/interp_fixture.h"
#include "x86/decode.h"

#define PROGRAM_MAX 4096
#define DATA_SIZE 0x3000u

static uint64_t interesting(void)
{
    static const uint64_t v[] = {0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
                                 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff};

    return rnd() & 1 ? rnd() : v[rnd() % (sizeof(v) / sizeof(v[0]))] + (rnd() % 3) - 1;
}

/* 64 bits, 32 bits flat, 32 and 16 bits in segments with a base and a limit. */
enum kind { LONG, PROT, SEG32, SEG16 };
static enum x86_mode_bits bits_of(enum kind k) { return k == LONG ? X86_MODE_64 : k == SEG16 ? X86_MODE_16 : X86_MODE_32; }
static uint32_t origin_of(enum kind k) { return k >= SEG32 ? 0 : IM_DATA; } /* offset of the data */
#define SEG_LIMIT 0x1860u /* a few accesses meet it */
#define SEG_STACK 0x2e00u

static bool known[X86_NOP_COUNT]; /* has an integer or vector executor */
static bool have_avx2;

static bool is_vec(const struct x86_insn *in) { return x86_isa[in->row].attr & (X86_ATTR_SSE | X86_ATTR_AVX); }

static bool wanted(const struct x86_insn *in, enum kind kind)
{
    const struct x86_isa_row *r = &x86_isa[in->row];

    if (is_vec(in) && (in->map != 1 || in->opcode == 0xae || in->opcode == 0xc7 || in->opcode == 0xf7 || (in->vex && !have_avx2)))
        return false; /* what depends on more state, or on what the host has */

    if (r->pg || (r->attr & (X86_ATTR_BRANCH | X86_ATTR_IO | X86_ATTR_X87 | X86_ATTR_MMX | X86_ATTR_SERIALIZING)))
        return false;
    if (!known[in->op])
        return false;
    switch (in->op) {
    case X86_OP_BT: case X86_OP_BTS: case X86_OP_BTR: case X86_OP_BTC: /* bit strings reach anywhere */
        if (in->opnd[0].kind == X86_OPND_MEM && in->opnd[1].kind == X86_OPND_GPR)
            return false;
        break;
    case X86_OP_ENTER: case X86_OP_LEAVE: case X86_OP_XLAT: case X86_OP_MOVDIR64B: case X86_OP_POPA: case X86_OP_BOUND:
        return false;
    default:
        break;
    }
    if (in->addrsize != 4 && in->addrsize != (kind == LONG ? 8 : kind == PROT ? 4 : 2))
        return false;
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct x86_operand *o = &in->opnd[i];

        if (o->kind == X86_OPND_GPR && o->reg == X86_RSP && (o->access & X86_ACC_W))
            return false;
        if (o->kind == X86_OPND_MEM && in->mem.base < X86_NGPR) {
            if (in->mem.base == X86_RSP || in->mem.disp < -128 || in->mem.disp > 127)
                return false;
        } else if (o->kind == X86_OPND_MEM && in->mem.base == X86_REG_NONE && !(x86_isa[in->row].attr & X86_ATTR_STRING)) {
            return false;
        }
        if (o->kind == X86_OPND_MEM && in->mem.base == X86_REG_RIP && (in->mem.disp < 0x200 || in->mem.disp > 0xfff))
            return false;
    }
    return true;
}

static unsigned mov_imm(uint8_t *p, enum kind kind, unsigned reg, uint32_t imm)
{
    unsigned n = 0;

    if (kind == SEG16)
        p[n++] = 0x66;
    if (reg >= 8)
        p[n++] = 0x41;
    p[n++] = (uint8_t)(0xb8 + (reg & 7));
    memcpy(p + n, &imm, 4);
    return n + 4;
}

static uint8_t vector_op(void)
{
    static const uint8_t lo[] = {0x10, 0x28, 0x2c, 0x50, 0x58, 0x60, 0x68, 0x70, 0x78, 0xd0, 0xd8, 0xe0, 0xe8, 0xf0, 0xf8};

    return (uint8_t)(lo[rnd() % sizeof(lo)] + rnd() % 8);
}

/* A call of the next instruction but one, which returns to a jump over it. */
static unsigned emit_call(uint8_t *p, enum kind kind)
{
    unsigned n = 0;

    p[n++] = 0xe8;
    p[n++] = 2;
    for (unsigned i = kind == SEG16 ? 1 : 3; i; i--)
        p[n++] = 0;
    p[n++] = 0xeb;
    p[n++] = 1;
    p[n++] = 0xc3;
    return n;
}

/* One random instruction, with what makes its addresses valid in front. */
static unsigned emit(uint8_t *p, enum kind kind)
{
    static const uint8_t bytes0f[] = {0x40, 0x48, 0x90, 0xa3, 0xa4, 0xa5, 0xab, 0xac, 0xad, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xb8,
                                      0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf, 0xc0, 0xc1, 0xc3, 0xc7, 0xc8, 0x38, 0x1f};
    struct x86_insn in;
    uint8_t b[16];

    for (;;) {
        unsigned n = 0, k = 0;

        if (rnd() % 8 == 0)
            b[n++] = 0x66;
        if (rnd() % 16 == 0)
            b[n++] = 0xf0;
        if (rnd() % 12 == 0)
            b[n++] = rnd() & 1 ? 0xf3 : 0xf2;
        if (rnd() % 24 == 0)
            b[n++] = 0x67;
        if (rnd() % 24 == 0)
            b[n++] = rnd() & 1 ? 0x64 : 0x65;
        if (kind == LONG && rnd() % 3)
            b[n++] = (uint8_t)(0x40 | rnd() % 16);
        const unsigned vec = rnd() % 4;

        if (vec == 0) {
            if (rnd() % 3 == 0)
                b[n++] = rnd() & 1 ? 0xf3 : 0xf2;
            b[n++] = 0x0f;
            b[n++] = vector_op();
        } else if (vec == 1 && kind <= PROT && rnd() & 1) {
            n = 0;
            b[n++] = 0xc5;
            b[n++] = (uint8_t)rnd();
            b[n++] = vector_op();
        } else if (rnd() % 3 == 0) {
            b[n++] = 0x0f;
            b[n++] = (uint8_t)(bytes0f[rnd() % sizeof(bytes0f)] + (rnd() % 3 ? 0 : rnd() % 8));
        }
        while (n < 16)
            b[n++] = (uint8_t)rnd();
        if (rnd() & 1) /* favour registers */
            for (unsigned i = 3; i < 6; i++)
                b[i] |= 0xc0;
        if (x86_decode(&in, b, 15, bits_of(kind), false, NULL) != X86_DEC_OK || !wanted(&in, kind))
            continue;
        bool mem = false;

        for (unsigned i = 0; i < in.nopnd; i++)
            mem |= in.opnd[i].kind == X86_OPND_MEM;
        if (x86_isa[in.row].attr & X86_ATTR_STRING) {
            k += mov_imm(p + k, kind, X86_RSI, origin_of(kind) + 0x800 + (uint32_t)(rnd() % 0x1000));
            k += mov_imm(p + k, kind, X86_RDI, origin_of(kind) + 0x800 + (uint32_t)(rnd() % 0x1000));
            k += mov_imm(p + k, kind, X86_RCX, (uint32_t)(rnd() % 64));
        } else if (mem && in.mem.base < X86_NGPR) {
            /* Vectors mostly where they must be, and now and then where they must not. */
            const bool align = is_vec(&in) && rnd() % 64;
            const uint32_t at = origin_of(kind) + 0x800 + (uint32_t)(rnd() % 0x1000);

            if (in.mem.index < X86_NGPR)
                k += mov_imm(p + k, kind, in.mem.index, (uint32_t)(rnd() % 64) & (align ? ~15u : ~0u));
            k += mov_imm(p + k, kind, in.mem.base, align ? (at & ~15u) - (uint32_t)in.mem.disp : at);
            if (in.mem.base == in.mem.index && in.mem.scale != 1)
                continue;
            if (in.mem.base == in.mem.index) /* twice the base must be in reach too */
                k += mov_imm(p + k, kind, in.mem.base, (origin_of(kind) + 0x800) / 2);
        }
        memcpy(p + k, b, in.len);
        return k + in.len;
    }
}

struct result {
    uint64_t gpr[16], rip, flags, insns, cr2;
    uint32_t mxcsr;
    uint8_t xmm[16][16], ymmh[16][16];
    uint8_t data[DATA_SIZE], stack[0x400];
};

static void run(struct im *m, enum kind kind, bool single, const uint8_t *code, unsigned n, uint64_t seed, struct result *out)
{
    const uint64_t keep = rng;
    struct vcpu *v = m->v;
    struct x86_cpu *c = &v->cpu;

    rng = seed;
    for (unsigned i = 0; i < DATA_SIZE; i++)
        m->vm->ram[IM_DATA + i] = (uint8_t)rnd();
    memset(m->vm->ram + IM_STACK - 0x400, 0, 0x400);
    im_put(m, IM_CODE, code, n);
    if (kind == LONG)
        im_long(m, v);
    else
        im_prot(v);
    if (kind >= SEG32) {
        const uint16_t db = kind == SEG32 ? 0x4000 : 0;

        for (unsigned s = 0; s < X86_NSEG; s++)
            im_seg(c, s, 0x10, IM_DATA, s == X86_SS ? 0x2fff : SEG_LIMIT, 0x93 | db);
        im_seg(c, X86_CS, 0x08, IM_CODE - 0x100, 0x7fff, 0x9b | db);
        im_common(v, 0x100);
    }
    for (unsigned i = 0; i < 16; i++)
        if (i != X86_RSP)
            c->gpr[i] = kind == LONG ? interesting() : (uint32_t)interesting();
    c->gpr[X86_RSP] = kind >= SEG32 ? SEG_STACK : IM_STACK - 0x200;
    x86_set_rflags(c, (rnd() & X86_FL_ARITH) | X86_FL_1 | (rnd() % 8 == 0 ? X86_FL_DF : 0));
    c->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    c->xcr0 = 7;
    for (unsigned i = 0; i < 32; i++) {
        const double d[] = {0, -0.0, 1, -1.5, 1e300, -1e-300, 3, 4e9, 1e-310, 0.1};
        uint8_t *v16 = i < 16 ? c->fpu.xmm[i] : c->fpu.ymmh[i - 16];

        for (unsigned k = 0; k < 16; k++)
            v16[k] = (uint8_t)rnd();
        if (rnd() & 1)
            memcpy(v16, &d[rnd() % 10], 8);
    }
    c->fpu.mxcsr = 0x1f80 | (rnd() & 1 ? rnd() & 0x3f : 0) | (rnd() % 8 == 0 ? rnd() & 0xe040 : 0);
    c->idtr = (struct x86_dtr){0, 0}; /* a fault is the end */
    c->cr2 = 0;
    rng = keep;
    v->insns = 0;
    im_single(m, single);
    im_run(m, v);
    memcpy(out->gpr, c->gpr, sizeof(out->gpr));
    out->rip = c->rip;
    out->flags = x86_get_rflags(c) & ~(uint64_t)X86_FL_RF;
    out->insns = v->insns;
    out->cr2 = c->cr2;
    out->mxcsr = c->fpu.mxcsr;
    memcpy(out->xmm, c->fpu.xmm, sizeof(out->xmm));
    memcpy(out->ymmh, c->fpu.ymmh, sizeof(out->ymmh));
    memcpy(out->data, m->vm->ram + IM_DATA, DATA_SIZE);
    memcpy(out->stack, m->vm->ram + IM_STACK - 0x400, 0x400);
}

static void explain(const struct result *a, const struct result *b, const uint8_t *code, unsigned n)
{
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(a->xmm[i], b->xmm[i], 16) || memcmp(a->ymmh[i], b->ymmh[i], 16))
            fprintf(stderr, "vector register %u differs\n", i);
    if (a->mxcsr != b->mxcsr)
        fprintf(stderr, "mxcsr: blocks %x single %x\n", a->mxcsr, b->mxcsr);
    for (unsigned i = 0; i < 16; i++)
        if (a->gpr[i] != b->gpr[i])
            fprintf(stderr, "r%u: blocks %llx single %llx\n", i, (unsigned long long)a->gpr[i], (unsigned long long)b->gpr[i]);
    fprintf(stderr, "rip %llx %llx flags %llx %llx insns %llu %llu\n", (unsigned long long)a->rip, (unsigned long long)b->rip,
            (unsigned long long)a->flags, (unsigned long long)b->flags, (unsigned long long)a->insns, (unsigned long long)b->insns);
    for (unsigned i = 0; i < DATA_SIZE; i++)
        if (a->data[i] != b->data[i])
            fprintf(stderr, "data+%x: %02x %02x\n", i, a->data[i], b->data[i]);
    for (unsigned i = 0; i < n; i++)
        fprintf(stderr, "%02x%s", code[i], i % 32 == 31 ? "\n" : " ");
    fprintf(stderr, "\n");
}

static void compare(enum kind kind, unsigned rounds)
{
    static struct result a, b;
    struct im *m = im_new(1);
    uint64_t faults = 0;

    for (unsigned r = 0; r < rounds; r++) {
        uint8_t code[PROGRAM_MAX];
        unsigned n = 0, count = 1 + (unsigned)(rnd() % 24);

        for (unsigned i = 0; i < count; i++) {
            const bool skip = rnd() % 4 == 0; /* over the instruction, if a condition holds */
            const unsigned jump = n;

            n += (rnd() % 8 ? emit : emit_call)(code + n + 2 * skip, kind) + 2 * skip;
            if (skip) {
                code[jump] = (uint8_t)(0x70 | rnd() % 16);
                code[jump + 1] = (uint8_t)(n - jump - 2);
            }
        }
        code[n++] = 0xf4;
        const uint64_t seed = rnd() | 1;

        run(m, kind, false, code, n, seed, &a);
        run(m, kind, true, code, n, seed, &b);
        faults += a.rip != (kind >= SEG32 ? 0x100 : IM_CODE) + n;
        if (memcmp(&a, &b, sizeof(a))) {
            explain(&a, &b, code, n);
            fail_msg("round %u differs", r);
        }
    }
    /* The programs must mostly get to their end to mean anything. */
    assert_true(faults < rounds / 2);
    im_free(m);
}

/* RINGER_ROUNDS asks for more, RINGER_SEED for others. */
static unsigned rounds(void)
{
    const char *s = getenv("RINGER_ROUNDS");

    return s ? (unsigned)strtoul(s, NULL, 0) : 1000;
}

static void long_mode(void **state)
{
    (void)state;
    compare(LONG, rounds());
}

static void protected_mode(void **state)
{
    (void)state;
    compare(PROT, rounds());
}

static void segments_32(void **state)
{
    (void)state;
    compare(SEG32, rounds());
}

static void segments_16(void **state)
{
    (void)state;
    compare(SEG16, rounds());
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(long_mode), cmocka_unit_test(protected_mode), cmocka_unit_test(segments_32),
                                       cmocka_unit_test(segments_16)};

    for (const struct x86_exec_entry *e = x86_exec_int; e->fn; e++)
        known[e->op] = true;
    for (const struct x86_exec_entry *e = x86_exec_fpu; e->fn; e++)
        known[e->op] = true;
    have_avx2 = __builtin_cpu_supports("avx2");
    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
