/* The encoder (SDM Vol. 2A, chapter 2). */
#include <stddef.h>

#include "engine/translate/emit.h"

static void prefixes(struct emit *e, unsigned how, unsigned rex)
{
    if (how & E_LOCK)
        e1(e, 0xf0);
    if (how & E_66)
        e1(e, 0x66);
    if (how & E_F2)
        e1(e, 0xf2);
    if (how & E_F3)
        e1(e, 0xf3);
    rex |= how & E_W;
    if (rex || (how & E_REX))
        e1(e, 0x40 | rex);
    switch ((how & E_MAP) >> 4) {
    case 1: e1(e, 0x0f); break;
    case 2: e1(e, 0x0f), e1(e, 0x38); break;
    case 3: e1(e, 0x0f), e1(e, 0x3a); break;
    default: break;
    }
}

static unsigned rex_of(unsigned reg, struct hmem m)
{
    return (reg & 8) >> 1 | (m.base != NOREG && (m.base & 8) ? 1 : 0) | (m.index != NOREG && (m.index & 8) ? 2 : 0);
}

static void modrm(struct emit *e, unsigned reg, struct hmem m)
{
    static const uint8_t log2[9] = {0, 0, 1, 0, 2, 0, 0, 0, 3};
    const unsigned r = (reg & 7) << 3, ss = (unsigned)log2[m.scale] << 6;
    const unsigned idx = m.index == NOREG ? 4 : m.index & 7;

    if (m.base == NOREG) {
        e1(e, r | 4);
        e1(e, ss | idx << 3 | 5);
        e4(e, (uint32_t)m.disp);
        return;
    }
    const unsigned b = m.base & 7;
    const unsigned mod = !m.disp && b != 5 ? 0 : m.disp == (int8_t)m.disp ? 0x40 : 0x80;

    if (m.index != NOREG || b == 4) {
        e1(e, mod | r | 4);
        e1(e, ss | idx << 3 | b);
    } else {
        e1(e, mod | r | b);
    }
    if (mod == 0x40)
        e1(e, (uint8_t)m.disp);
    else if (mod == 0x80)
        e4(e, (uint32_t)m.disp);
}

void e_rr(struct emit *e, unsigned how, unsigned opcode, unsigned reg, unsigned rm)
{
    prefixes(e, how, (reg & 8) >> 1 | (rm & 8) >> 3);
    e1(e, opcode);
    e1(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void e_rm(struct emit *e, unsigned how, unsigned opcode, unsigned reg, struct hmem m)
{
    prefixes(e, how, rex_of(reg, m));
    e1(e, opcode);
    modrm(e, reg, m);
}

static void vex(struct emit *e, unsigned map, unsigned pp, bool w, unsigned rex, unsigned vvvv)
{
    e1(e, 0xc4);
    e1(e, (~rex & 4) << 5 | (~rex & 2) << 5 | (~rex & 1) << 5 | map);
    e1(e, (w ? 0x80u : 0) | (~vvvv & 15) << 3 | pp);
}

void e_vrr(struct emit *e, unsigned map, unsigned pp, bool w, unsigned opcode, unsigned reg, unsigned vvvv, unsigned rm)
{
    vex(e, map, pp, w, (reg & 8) >> 1 | (rm & 8) >> 3, vvvv);
    e1(e, opcode);
    e1(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void e_vrm(struct emit *e, unsigned map, unsigned pp, bool w, unsigned opcode, unsigned reg, unsigned vvvv, struct hmem m)
{
    vex(e, map, pp, w, rex_of(reg, m), vvvv);
    e1(e, opcode);
    modrm(e, reg, m);
}

void e_imm32(struct emit *e, unsigned dst, uint32_t v)
{
    prefixes(e, 0, dst >> 3);
    e1(e, 0xb8 | (dst & 7));
    e4(e, v);
}

void e_imm(struct emit *e, unsigned dst, uint64_t v)
{
    if (v == (uint32_t)v) {
        e_imm32(e, dst, (uint32_t)v);
    } else if ((int64_t)v == (int32_t)v) {
        e_rr(e, E_W, 0xc7, 0, dst);
        e4(e, (uint32_t)v);
    } else {
        prefixes(e, E_W, dst >> 3);
        e1(e, 0xb8 | (dst & 7));
        e8(e, v);
    }
}

static uint8_t *rel32(struct emit *e, const uint8_t *to)
{
    uint8_t *at = e->p;

    e4(e, 0);
    if (to)
        e_patch(at, to);
    return at;
}

uint8_t *e_jmp(struct emit *e, const uint8_t *to)
{
    e1(e, 0xe9);
    return rel32(e, to);
}

uint8_t *e_jcc(struct emit *e, unsigned cc, const uint8_t *to)
{
    e1(e, 0x0f);
    e1(e, 0x80 | cc);
    return rel32(e, to);
}

void e_call(struct emit *e, const uint8_t *to)
{
    e1(e, 0xe8);
    rel32(e, to);
}

void e_jmp_mem(struct emit *e, struct hmem m) { e_rm(e, 0, 0xff, 4, m); }

uint8_t *e_jrcxz(struct emit *e)
{
    e1(e, 0xe3);
    e1(e, 0);
    return e->p - 1;
}
