/*
 * STOS and MOVS, with and without REP, upward and with 64-bit addresses: one lookup an operand and the host's own instruction, if
 * all that is accessed lies in one page (two, for MOVS). The executor does everything else, and goes on where a part
 * of it was done: RCX = 0, more than a page, DF, pages with code, watched or not RAM, a fault.
 */
#include "engine/translate/select.h"

/* Guest RCX elements starting at a host address: is it a number that the lookup can add to an address? 1 to 4096. */
static void countable(struct tr *t, struct tr_site *s)
{
    struct emit *e = &t->e;

    e_lea(e, H_CX, (struct hmem){H_GCX, NOREG, 1, -1});
    SHRX(H_CX, H_CX);
    sel_unless_zero(t, s, t->x->miss_stub);
}

/* Host register reg, pointing to what was n elements of size bytes, past them: from S0 or what it was. */
static void advance(struct tr *t, unsigned reg, unsigned from, bool rep, unsigned size)
{
    e_lea(&t->e, reg, rep ? (struct hmem){(uint8_t)from, H_GCX, (uint8_t)size, 0} : (struct hmem){(uint8_t)from, NOREG, 1, (int32_t)size});
}

/* The instruction itself, without its segment. */
static void host_string(struct tr *t, unsigned size)
{
    struct emit *e = &t->e;

    e1(e, 0xf3);
    if (size == 2)
        e1(e, 0x66);
    if (size == 8)
        e1(e, 0x48);
    e1(e, (t->in->opcode & 0xfe) | (size > 1));
}

bool sel_string(struct tr *t)
{
    const struct x86_insn *in = t->in;
    const bool movs = in->op == X86_OP_MOVS, rep = in->rep;
    const unsigned size = in->opcode & 1 ? in->opsize : 1, scale = rep ? size : 0;
    struct emit *e = &t->e;
    struct tr_site *s;

    if (in->addrsize != 8 || (movs && (in->seg_override == X86_FS || in->seg_override == X86_GS)))
        return false;
    s = sel_site(t);
    s->redo = true;
    e_rm(e, 0, 0x8b, H_CX, AT_CPU(fl_sys));
    PEXT(H_CX, H_CX, AT_ROOM(df));
    sel_unless_zero(t, s, t->x->miss_stub);
    if (rep)
        countable(t, s);
    if (movs) {
        e_mov(e, H_S0, H_SI);
        sel_lookup_string(t, false, size, scale)->pair = true;
        if (rep)
            e_lea(e, H_CX, sel_operand);
        else
            e_rm(e, size == 8 ? E_W : size == 2 ? E_66 : 0, size == 1 ? 0x8a : 0x8b, H_CX, sel_operand);
        e_store(e, H_CX, AT_ROOM(tmp[0]));
    }
    e_mov(e, H_S0, H_DI);
    s = sel_lookup_string(t, true, size, scale);
    s->pair = movs;
    t->s1 = -1;
    if (!rep) {
        if (movs)
            e_load(e, H_CX, AT_ROOM(tmp[0]));
        e_rm(e, size == 8 ? E_W : size == 2 ? E_66 : 0, size == 1 ? 0x88 : 0x89, movs ? H_CX : H_AX, sel_operand);
    } else {
        e_lea(e, H_DI, sel_operand);
        e_mov(e, H_CX, H_GCX);
        if (movs) {
            e_mov(e, H_S1, H_SI);
            e_load(e, H_SI, AT_ROOM(tmp[0]));
        }
        host_string(t, size);
        if (movs)
            advance(t, H_SI, H_S1, true, size);
    }
    if (movs && !rep)
        advance(t, H_SI, H_SI, false, size);
    advance(t, H_DI, H_S0, rep, size);
    if (rep)
        e_imm32(e, H_GCX, 0);
    return true;
}
