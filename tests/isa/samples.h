/*
 * Encodings for every row of the instruction table, found by decoding: all
 * opcodes with all mandatory prefixes and ModRM shapes, a few kept per row and
 * form.
 */
#ifndef SAMPLES_H
#define SAMPLES_H

#include <stdint.h>
#include <stdlib.h>

#include "tests/random.h"
#include "x86/decode.h"

#define NSAMPLE 12

struct sample {
    uint8_t bytes[16];
    uint8_t len;
};
struct bucket {
    struct sample s[NSAMPLE];
    unsigned n, seen;
};
struct samples {
    enum x86_mode_bits mode;
    struct bucket *b; /* [row * 2 + memory form] */
};

static bool has_mem(const struct x86_insn *in)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == X86_OPND_MEM)
            return true;
    return false;
}

/* Can the memory operand be pointed where we want by setting one base register or patching the displacement? */
static bool mem_usable(const struct x86_insn *in)
{
    const struct x86_memref *m = &in->mem;

    if (in->addrsize == 2 || in->seg_override != X86_SEG_NONE)
        return false;
    if (!in->has_modrm)
        return true;
    if (in->modrm >= 0xc0)
        return true; /* an implicit operand: fixed registers */
    if (m->base == X86_REG_NONE)
        return m->index == X86_REG_NONE;
    return m->base != m->index;
}

static void samples_try(struct samples *s, const uint8_t *bytes, const uint64_t *features)
{
    struct x86_insn in;
    struct bucket *b;
    unsigned slot;

    if (x86_decode(&in, bytes, 15, s->mode, false, features) != X86_DEC_OK)
        return;
    if (in.seg_override != X86_SEG_NONE || (has_mem(&in) && !mem_usable(&in)))
        return;
    b = &s->b[in.row * 2 + has_mem(&in)];
    slot = b->n < NSAMPLE ? b->n++ : below(++b->seen);
    if (slot < NSAMPLE) {
        memcpy(b->s[slot].bytes, bytes, 16);
        b->s[slot].len = in.len;
    }
    if (b->n == NSAMPLE && b->seen < NSAMPLE)
        b->seen = NSAMPLE;
}

/* All ModRM shapes after p bytes of prefix and opcode. */
static void samples_modrm(struct samples *s, uint8_t *bytes, unsigned p, const uint64_t *features)
{
    for (unsigned m = 0; m < 64 + 24; m++) {
        uint8_t buf[16];

        for (unsigned i = 0; i < 16; i++)
            buf[i] = (uint8_t)rnd();
        memcpy(buf, bytes, p);
        buf[p] = m < 64 ? (uint8_t)(0xc0 | m) : (uint8_t)(((m - 64) & 7) << 3 | ((m - 64) >> 3) << 6 | below(8));
        samples_try(s, buf, features);
        if (m >= 64 && below(3) == 0) { /* LOCK, where it is allowed */
            memmove(buf + 1, buf, 15);
            buf[0] = 0xf0;
            samples_try(s, buf, features);
        }
    }
}

static inline void samples_make(struct samples *s, enum x86_mode_bits mode, const uint64_t *features)
{
    static const uint8_t pfx[4] = {0, 0x66, 0xf2, 0xf3};
    uint8_t b[16];

    s->mode = mode;
    s->b = calloc(x86_isa_count * 2, sizeof(*s->b));
    for (unsigned i = 0; i < 4 * 3 * 2; i++) {
        unsigned rex = i / 4 % 3, addr32 = i / 12;

        if (mode != X86_MODE_64 && (rex || addr32))
            continue;
        if (addr32 && rex == 2)
            continue;
        for (unsigned map = 0; map < 4; map++) {
            for (unsigned op = 0; op < 256; op++) {
                unsigned p = 0;

                if (addr32)
                    b[p++] = 0x67;
                if (pfx[i % 4])
                    b[p++] = pfx[i % 4];
                if (rex)
                    b[p++] = rex == 1 ? 0x48 : (uint8_t)(0x40 | below(16));
                if (map)
                    b[p++] = 0x0f;
                if (map > 1)
                    b[p++] = map == 2 ? 0x38 : 0x3a;
                b[p++] = (uint8_t)op;
                samples_modrm(s, b, p, features);
            }
        }
    }
    /* VEX: W, L, pp, map, opcode; vvvv all ones (unused) and random, both lengths of prefix. */
    for (unsigned i = 0; i < 2 * 2 * 4 * 2; i++) {
        unsigned w = i & 1, l = i >> 1 & 1, pp = i >> 2 & 3, any_v = i >> 4;

        for (unsigned map = 1; map < 4; map++) {
            for (unsigned op = 0; op < 256; op++) {
                unsigned p = 0, v = any_v ? below(16) : 15, rxb = mode == X86_MODE_64 ? below(8) : 7;

                if (map == 1 && !w && below(3) == 0) {
                    b[p++] = 0xc5;
                    b[p++] = (uint8_t)((rxb & 4) << 5 | (mode == X86_MODE_64 ? v : v | 8) << 3 | l << 2 | pp);
                } else {
                    b[p++] = 0xc4;
                    b[p++] = (uint8_t)(rxb << 5 | map);
                    b[p++] = (uint8_t)(w << 7 | v << 3 | l << 2 | pp);
                }
                b[p++] = (uint8_t)op;
                samples_modrm(s, b, p, features);
            }
        }
    }
}

#endif
