/*
 * Integer executors: multiplication, division, decimal adjustment, widening of rAX.
 */
#include "x86/exec_int.h"

/* rDX:rAX = rAX * s on the host. */
#define MUL1(op, sfx, m)                                                                                               \
    __asm__(X86_FLAGS_IN "movq %3, %%rax\n\tmovq %4, %%rdx\n\t" op sfx " %" m "5\n\tmovq %%rax, %1" X86_FLAGS_OUT       \
            : "+&a"(cc), "=&r"(lo), "=&d"(hi)                                                                          \
            : "r"(g[X86_RAX]), "r"(g[X86_RDX]), "r"(s)                                                                 \
            : "cc")

static int mul_wide(struct x86_cpu *c, const struct x86_insn *in, unsigned i, bool sign)
{
    const unsigned size = in->opnd[i].size;
    uint64_t *g = c->gpr, s, lo, hi, cc = c->cc;
    int r = x86_opnd_read(c, in, i, &s);

    if (r)
        return r;
    if (size == 1) {
        if (sign)
            MUL1("imul", "b", "b");
        else
            MUL1("mul", "b", "b");
    } else if (size == 2) {
        if (sign)
            MUL1("imul", "w", "w");
        else
            MUL1("mul", "w", "w");
    } else if (size == 4) {
        if (sign)
            MUL1("imul", "l", "k");
        else
            MUL1("mul", "l", "k");
    } else if (sign) {
        MUL1("imul", "q", "q");
    } else {
        MUL1("mul", "q", "q");
    }
    g[X86_RAX] = lo; /* the host merged or zero-extended the parts as the operand size says */
    g[X86_RDX] = hi;
    c->cc = (uint16_t)cc;
    return X86_OK;
}

EXEC(mul) { return mul_wide(c, in, x86_explicit(in, 0), false); }

/* IMUL: one operand (rDX:rAX), two (r *= r/m), three (r = r/m * imm). */
EXEC(imul)
{
    const unsigned e0 = x86_explicit(in, 0), e1 = x86_explicit(in, 1), e2 = x86_explicit(in, 2);
    uint64_t a, b;
    uint16_t cc = c->cc;
    int r;

    if (e1 == X86_NOPND - 1)
        return mul_wide(c, in, e0, true);
    if ((r = x86_opnd_read(c, in, e1, &a)))
        return r;
    if ((r = x86_opnd_read(c, in, e2 == X86_NOPND - 1 ? e0 : e2, &b)))
        return r;
    switch (in->opnd[e0].size) {
    case 2: __asm__(X86_FLAGS_IN "imulw %w2, %w0" X86_FLAGS_OUT : "+r"(a), "+&a"(cc) : "r"(b) : "cc"); break;
    case 4: __asm__(X86_FLAGS_IN "imull %k2, %k0" X86_FLAGS_OUT : "+r"(a), "+&a"(cc) : "r"(b) : "cc"); break;
    default: __asm__(X86_FLAGS_IN "imulq %q2, %q0" X86_FLAGS_OUT : "+r"(a), "+&a"(cc) : "r"(b) : "cc"); break;
    }
    x86_opnd_write(c, in, e0, a);
    c->cc = cc;
    return X86_OK;
}

/* Will the host's DIV or IDIV trap? The quotient must fit; checked on 128 bits so that the host never faults. */
static bool div_overflows(uint64_t hi, uint64_t lo, uint64_t s, unsigned size, bool sign)
{
    const unsigned bits = size * 8;

    if (!sign)
        return hi >= s; /* also s == 0 */
    if (!s)
        return true;
    /* Magnitudes: |quotient| <= 2^(bits-1) - 1, or 2^(bits-1) when negative. */
    const bool ns = s >> (bits - 1) & 1, nd = hi >> (bits - 1) & 1;
    const uint64_t mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    unsigned __int128 n = (unsigned __int128)hi << bits | lo;

    if (nd) {
        n = 0 - n;
        if (bits < 64)
            n &= ((unsigned __int128)1 << (2 * bits)) - 1;
    }
    const uint64_t ms = ns ? (0 - s) & mask : s;

    if (n >> 64 >= ms)
        return true;
    const unsigned __int128 q = n / ms, max = (unsigned __int128)1 << (bits - 1);

    return ns != nd ? q > max : q >= max;
}

#define DIV1(op, sfx, m)                                                                                               \
    __asm__(X86_FLAGS_IN "movq %3, %%rax\n\tmovq %4, %%rdx\n\t" op sfx " %" m "5\n\tmovq %%rax, %1" X86_FLAGS_OUT       \
            : "+&a"(cc), "=&r"(lo), "=&d"(hi)                                                                          \
            : "r"(g[X86_RAX]), "r"(g[X86_RDX]), "r"(s)                                                                 \
            : "cc")

static int divide(struct x86_cpu *c, const struct x86_insn *in, bool sign)
{
    const unsigned i = x86_explicit(in, 0), size = in->opnd[i].size;
    uint64_t *g = c->gpr, s, lo, hi, cc = c->cc;
    int r = x86_opnd_read(c, in, i, &s);

    if (r)
        return r;
    if (size == 1) {
        lo = (uint8_t)g[X86_RAX];
        hi = (uint8_t)(g[X86_RAX] >> 8);
    } else {
        lo = x86_reg_read(c, X86_RAX, size);
        hi = x86_reg_read(c, X86_RDX, size);
    }
    if (div_overflows(hi, lo, s, size, sign))
        return x86_raise(c, X86_DE);
    if (size == 1) {
        if (sign)
            DIV1("idiv", "b", "b");
        else
            DIV1("div", "b", "b");
    } else if (size == 2) {
        if (sign)
            DIV1("idiv", "w", "w");
        else
            DIV1("div", "w", "w");
    } else if (size == 4) {
        if (sign)
            DIV1("idiv", "l", "k");
        else
            DIV1("div", "l", "k");
    } else if (sign) {
        DIV1("idiv", "q", "q");
    } else {
        DIV1("div", "q", "q");
    }
    g[X86_RAX] = lo;
    g[X86_RDX] = hi;
    c->cc = (uint16_t)cc;
    return X86_OK;
}
EXEC(div) { return divide(c, in, false); }
EXEC(idiv) { return divide(c, in, true); }

EXEC(cbw)
{
    const uint64_t a = c->gpr[X86_RAX];

    if (in->opsize == 2)
        x86_reg_write(c, X86_RAX, 2, (uint64_t)(int8_t)a);
    else if (in->opsize == 4)
        x86_reg_write(c, X86_RAX, 4, (uint64_t)(int16_t)a);
    else
        c->gpr[X86_RAX] = (uint64_t)(int32_t)a;
    return X86_OK;
}

EXEC(cwd)
{
    const unsigned size = in->opsize;

    x86_reg_write(c, X86_RDX, size, c->gpr[X86_RAX] >> (size * 8 - 1) & 1 ? ~0ull : 0);
    return X86_OK;
}

/* --- decimal adjustment (SDM Vol. 2; the host has none of it in 64-bit mode) ---- */

static void set_szp(struct x86_cpu *c, uint8_t v, unsigned cf, unsigned af)
{
    uint8_t lo = (uint8_t)((v & 0x80) | (v ? 0 : X86_FL_ZF) | (__builtin_parity(v) ? 0 : X86_FL_PF));

    c->cc_lo = (uint8_t)(lo | (cf ? X86_FL_CF : 0) | (af ? X86_FL_AF : 0));
    c->cc_of = 0;
}

static void set_al(struct x86_cpu *c, uint8_t v) { x86_reg_write(c, X86_RAX, 1, v); }

EXEC(daa)
{
    uint8_t al = (uint8_t)c->gpr[X86_RAX];
    const uint8_t old = al;
    const unsigned cf = c->cc_lo & X86_FL_CF, af = (al & 15) > 9 || (c->cc_lo & X86_FL_AF);
    const bool high = old > 0x99 || cf;

    if (af)
        al = (uint8_t)(al + 6);
    if (high)
        al = (uint8_t)(al + 0x60);
    set_al(c, al);
    set_szp(c, al, high, af);
    return X86_OK;
}

EXEC(das)
{
    uint8_t al = (uint8_t)c->gpr[X86_RAX];
    const uint8_t old = al;
    const unsigned cf = c->cc_lo & X86_FL_CF, af = (al & 15) > 9 || (c->cc_lo & X86_FL_AF);
    bool carry = false;

    if (af) {
        carry = cf || al < 6;
        al = (uint8_t)(al - 6);
    }
    if (old > 0x99 || cf) {
        al = (uint8_t)(al - 0x60);
        carry = true;
    }
    set_al(c, al);
    set_szp(c, al, carry, af);
    return X86_OK;
}

EXEC(aaa)
{
    const uint16_t ax = (uint16_t)c->gpr[X86_RAX];
    const bool adjust = (ax & 15) > 9 || (c->cc_lo & X86_FL_AF);
    const uint16_t v = adjust ? (uint16_t)(ax + 0x106) : ax;

    x86_reg_write(c, X86_RAX, 2, v & 0xff0f);
    set_szp(c, (uint8_t)(v & 15), adjust, adjust);
    return X86_OK;
}

EXEC(aas)
{
    const uint16_t ax = (uint16_t)c->gpr[X86_RAX];
    const bool adjust = (ax & 15) > 9 || (c->cc_lo & X86_FL_AF);
    const uint16_t v = adjust ? (uint16_t)(ax - 0x106) : ax;

    x86_reg_write(c, X86_RAX, 2, v & 0xff0f);
    set_szp(c, (uint8_t)(v & 15), adjust, adjust);
    return X86_OK;
}

EXEC(aam)
{
    const uint8_t base = (uint8_t)in->imm, al = (uint8_t)c->gpr[X86_RAX];

    if (!base)
        return x86_raise(c, X86_DE);
    x86_reg_write(c, X86_RAX, 2, (uint64_t)(al / base) << 8 | al % base);
    set_szp(c, al % base, 0, 0);
    return X86_OK;
}

EXEC(aad)
{
    const uint16_t ax = (uint16_t)c->gpr[X86_RAX];
    const uint8_t v = (uint8_t)(ax + (ax >> 8) * (uint8_t)in->imm);

    x86_reg_write(c, X86_RAX, 2, v);
    set_szp(c, v, 0, 0);
    return X86_OK;
}
