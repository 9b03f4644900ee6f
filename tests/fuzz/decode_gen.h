/* Byte strings that look like instructions: rows of the table, opcodes at random, and noise. */
#ifndef TESTS_DECODE_GEN_H
#define TESTS_DECODE_GEN_H

#include "x86/decode.h"

static inline uint64_t gen_next(uint64_t *s)
{
    /* splitmix64 */
    uint64_t z = (*s += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

#define GEN_BYTES 24

static inline unsigned gen_prefixes(uint64_t *s, uint8_t *out)
{
    static const uint8_t pfx[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x66, 0x66, 0x67, 0x48, 0x41};
    uint64_t r = gen_next(s);
    unsigned n = 0, max = (r & 7) < 4 ? 0 : (r & 7) < 7 ? 1 + (r >> 3) % 3 : (r >> 3) % 14;
    for (; n < max; n++)
        out[n] = pfx[gen_next(s) % sizeof(pfx)];
    if ((r >> 16 & 3) == 0)
        out[n++] = 0x40 | (r >> 20 & 15);
    return n;
}

/* A row's own encoding up to ModRM; noise: other prefixes too, and VEX constraints sometimes broken. Returns its length. */
static inline unsigned gen_row_of(uint64_t *s, uint8_t *out, const struct x86_isa_row *r, bool noise)
{
    static const uint8_t mandatory[] = {0, 0, 0x66, 0xf3, 0xf2, 0};
    uint64_t x = gen_next(s);
    unsigned n = 0;
    uint8_t opcode = r->opcode + (r->plus_r ? x & 7 : 0);
    if (noise && (x >> 8 & 3) == 0)
        n = gen_prefixes(s, out);
    if (r->vex) {
        static const uint8_t pp[] = {0, 0, 1, 2, 3, 0};
        uint8_t w = r->w == X86_BIT_1 || r->w == X86_BIT_1_64 ? 1 : r->w == X86_BIT_ANY ? x >> 10 & 1 : 0;
        uint8_t l = r->l == X86_BIT_1 ? 1 : r->l == X86_BIT_ANY ? x >> 11 & 1 : 0;
        uint8_t v = 15;
        for (unsigned i = 0; i < r->nopnd; i++)
            if (r->opnd[i].method == 'H' || r->opnd[i].method == 'B')
                v = x >> 12 & 15;
        if (noise && (x >> 16 & 31) == 0)
            v = x >> 21 & 15;
        if (noise && (x >> 25 & 31) == 0)
            w ^= 1;
        if (noise && (x >> 30 & 31) == 0)
            l ^= 1;
        if (r->map == 1 && !w && (x >> 35 & 1)) {
            out[n++] = 0xc5;
            out[n++] = (x >> 36 & 0x80) | v << 3 | l << 2 | pp[r->pfx];
        } else {
            out[n++] = 0xc4;
            out[n++] = (x >> 37 & 0xe0) | r->map;
            out[n++] = w << 7 | v << 3 | l << 2 | pp[r->pfx];
        }
    } else {
        if (mandatory[r->pfx])
            out[n++] = mandatory[r->pfx];
        bool w1 = r->w == X86_BIT_1 || r->w == X86_BIT_1_64;
        if ((noise && (x >> 16 & 3) == 0) || w1)
            out[n++] = 0x40 | (noise ? x >> 20 & 15 : 0) | (w1 ? 8 : 0);
        if (r->map)
            out[n++] = 0x0f;
        if (r->map >= 2)
            out[n++] = r->map == 2 ? 0x38 : 0x3a;
    }
    out[n++] = opcode;
    if (r->modrm) {
        uint8_t b = (uint8_t)gen_next(s);
        if (r->mod == X86_MOD_REG)
            b |= 0xc0;
        else if (r->mod == X86_MOD_MEM && b >= 0xc0)
            b &= 0x3f;
        if (r->digit >= 0)
            b = (b & 0xc7) | r->digit << 3;
        if (r->rm >= 0)
            b = (b & 0xf8) | r->rm;
        out[n++] = b;
    }
    return n;
}

/* Fill out[GEN_BYTES]. */
static inline void gen_insn(uint64_t *s, uint8_t *out)
{
    uint64_t r = gen_next(s);
    unsigned n = 0;
    switch (r & 7) {
    case 0: case 1: case 2: case 3: n = gen_row_of(s, out, &x86_isa[gen_next(s) % x86_isa_count], true); break;
    case 4: case 5: case 6:
        n = gen_prefixes(s, out);
        switch (r >> 3 & 7) {
        case 0: case 1: break;
        case 2: case 3: out[n++] = 0x0f; break;
        case 4:
            out[n++] = 0x0f;
            out[n++] = r & 64 ? 0x38 : 0x3a;
            break;
        case 5: out[n++] = 0xc5; break;
        case 6:
            out[n++] = 0xc4;
            out[n++] = (r >> 8 & 0xe0) | (1 + (r >> 16) % 3);
            break;
        case 7: out[n++] = 0xd8 + (r >> 8 & 7); break;
        }
        break;
    default: break;
    }
    while (n < GEN_BYTES) {
        uint64_t x = gen_next(s);
        for (unsigned i = 0; i < 8 && n < GEN_BYTES; i++, x >>= 8)
            out[n++] = (uint8_t)x;
    }
}

#endif
