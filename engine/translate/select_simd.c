/*
 * SSE and AVX instructions inline. They run as they are on the host's vector registers of the same numbers, which
 * hold the guest's, and MXCSR with them, from the first such instruction on until C code is called: room.xmm_dead is 0 while
 * XMM registers and MXCSR are live, room.ymm_dead while the upper halves are too. An instruction looks whether they are, unless one
 * before it in the block has and nothing between them can have called C. Where an exception of MXCSR is unmasked
 * (no TR_FP) the executor has the instructions that use it, since they could trap.
 */
#include "engine/translate/select.h"
#include "x86/fpu.h"

static struct hmem half(unsigned n, bool upper)
{
    struct hmem m = upper ? AT_CPU(fpu.ymmh) : AT_CPU(fpu.xmm);

    m.disp += 16 * (int32_t)n;
    return m;
}

/* VEX prefix from its last byte (W, vvvv, L, pp). */
static void vex(struct emit *e, unsigned map, unsigned last, unsigned reg, unsigned rex_rm)
{
    e1(e, 0xc4);
    e1(e, (reg & 8 ? 0 : 0x80u) | (~rex_rm & 2) << 5 | (~rex_rm & 1) << 5 | map);
    e1(e, last);
}
static void vex_rm(struct emit *e, unsigned map, unsigned last, unsigned opcode, unsigned reg, struct hmem m)
{
    struct emit tmp;
    uint8_t buf[24];

    vex(e, map, last, reg, (m.base & 8 ? 1u : 0) | (m.index != NOREG && m.index & 8 ? 2u : 0));
    /* The rest is that of the legacy form behind its REX. */
    tmp = (struct emit){buf, buf, 0};
    e_rm(&tmp, E_REX, opcode, reg, m);
    memcpy(e->p, buf + 1, (size_t)(tmp.p - buf - 1));
    e->p += tmp.p - buf - 1;
}

/* Move all registers from or to the guest's state. */
static void halves(struct emit *e, bool upper, bool to)
{
    for (unsigned n = 0; n < 16; n++) {
        if (!upper) {
            e_rm(e, E_0F, to ? 0x11 : 0x10, n, half(n, false)); /* movups */
        } else if (to) {
            vex_rm(e, 3, 0x7d, 0x19, n, half(n, true)); /* vextractf128 m, n, 1 */
            e1(e, 1);
        } else {
            vex_rm(e, 3, 0x05 | (~n & 15) << 3, 0x18, n, half(n, true)); /* vinsertf128 n, n, m, 1 */
            e1(e, 1);
        }
    }
}

static void set(struct emit *e, struct hmem m, uint32_t v)
{
    e_rm(e, 0, 0xc7, 0, m);
    e4(e, v);
}

/* While a stub runs, RCX has its return address, so that RSP is what it always is. */
static void take_return(struct emit *e) { e1(e, 0x59); }
static void give_return(struct emit *e) { e1(e, 0x51), e1(e, 0xc3); }

void tr_make_vector_stubs(struct translate *x, struct emit *e)
{
    x->xmm_stub = e->p;
    take_return(e);
    halves(e, false, false);
    e_rm(e, E_0F, 0xae, 2, AT_CPU(fpu.mxcsr)); /* ldmxcsr */
    set(e, AT_ROOM(xmm_dead), 0);
    give_return(e);

    x->ymm_stub = e->p;
    take_return(e);
    e_store(e, H_CX, AT_ROOM(tmp[1]));
    e_rm(e, 0, 0x8b, H_CX, AT_ROOM(xmm_dead));
    uint8_t *live = e_jrcxz(e);
    e_call(e, x->xmm_stub);
    e_here(e, live);
    halves(e, true, false);
    set(e, AT_ROOM(ymm_dead), 0);
    e_load(e, H_CX, AT_ROOM(tmp[1]));
    give_return(e);

    x->vector_save_stub = e->p;
    take_return(e);
    e_rm(e, 0, 0x83, 7, AT_ROOM(ymm_dead)), e1(e, 0); /* cmp */
    uint8_t *low = e_jcc(e, 5, NULL);
    halves(e, true, true);
    vex(e, 1, 0x78, 0, 0);
    e1(e, 0x77); /* vzeroupper: C code mixes in legacy instructions */
    set(e, AT_ROOM(ymm_dead), 1);
    e_patch(low, e->p);
    halves(e, false, true);
    e_rm(e, E_0F, 0xae, 3, AT_CPU(fpu.mxcsr)); /* stmxcsr */
    e_rm(e, E_0F, 0xae, 2, AT_ROOM(host_mxcsr));
    set(e, AT_ROOM(xmm_dead), 1);
    give_return(e);
}

/* The guest's vector registers are in the host's from here on. RCX is lost. */
static void enliven(struct tr *t, bool wide)
{
    struct emit *e = &t->e;

    if (t->vectors > wide)
        return;
    e_rm(e, 0, 0x8b, H_CX, wide ? AT_ROOM(ymm_dead) : AT_ROOM(xmm_dead));
    uint8_t *live = e_jrcxz(e);
    e_call(e, wide ? t->x->ymm_stub : t->x->xmm_stub);
    e_here(e, live);
    t->vectors = 1 + wide;
}

static bool must_align(const struct x86_insn *in)
{
    switch (in->op) {
    case X86_OP_VMOVAPS: case X86_OP_VMOVAPD: case X86_OP_VMOVDQA: case X86_OP_VMOVNTPS: case X86_OP_VMOVNTPD: case X86_OP_VMOVNTDQ:
    case X86_OP_VMOVNTDQA:
        return true;
    default:
        return !in->vex && (x86_isa[in->row].attr & X86_ATTR_ALIGN16);
    }
}

static bool vzeroupper(struct tr *t)
{
    if (!(t->b->key & TR_AVX))
        return false;
    enliven(t, true);
    vex(&t->e, 1, 0x78, 0, 0);
    e1(&t->e, 0x77);
    return true;
}

bool sel_simd(struct tr *t)
{
    const struct x86_insn *in = t->in;
    const struct x86_isa_row *row = &x86_isa[in->row];
    const struct interp_vm *iv = t->x->v->vm->interp_priv;
    const bool fp = row->attr & X86_ATTR_FPEXC;
    const struct x86_operand *reg = NULL, *rm = NULL;
    bool cx = false, vector = false;
    struct emit *e = &t->e;

    if (in->op == X86_OP_VZEROUPPER)
        return vzeroupper(t);
    if (iv->exec[in->op] != x86_exec_simd || (row->attr & (X86_ATTR_MMX | X86_ATTR_X87)) || !in->has_modrm || in->len - in->imm_off > 1)
        return false;
    if (!(t->b->key & (in->vex ? TR_AVX : TR_SSE)) || (fp && !(t->b->key & TR_FP)))
        return false;
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct x86_operand *o = &in->opnd[i];

        switch (o->kind) {
        case X86_OPND_VEC: vector = true; break;
        case X86_OPND_GPR:
            if (o->implicit) {
                if (o->reg == X86_RCX && o->access == X86_ACC_W)
                    cx = true;
                else if ((o->reg != X86_RAX && o->reg != X86_RDX) || o->access != X86_ACC_R)
                    return false;
            }
            break;
        case X86_OPND_MEM: case X86_OPND_IMM: break;
        default: return false;
        }
        switch (row->opnd[i].method) {
        case 'V': case 'G': reg = o; break;
        case 'W': case 'U': case 'E': case 'M': case 'R': rm = o; break;
        case 'H': case 'I': case 'L': case 'x': break;
        case 'r': break;
        default: return false;
        }
    }
    if (!rm || !vector)
        return false;
    const bool mem = rm->kind == X86_OPND_MEM;
    struct hmem op = sel_operand;

    if (mem) {
        const unsigned size = rm->size;

        if (!size || size > 32 || (must_align(in) && !sel_aligned(t, size)))
            return false;
        if (!sel_memory(t, SEL_MEM, sel_operand_of(in), rm->access & X86_ACC_W, size, true, &op))
            return false;
    }
    unsigned hr = in->modrm >> 3 & 7, hm = 0;

    enliven(t, in->vex);
    if (reg)
        hr = reg->kind == X86_OPND_GPR ? sel_fetch(t, reg->reg, H_CX) : reg->reg;
    if (!mem)
        hm = rm->kind == X86_OPND_GPR ? sel_fetch(t, rm->reg, H_S0) : rm->reg;
    if (in->vex) {
        const unsigned last = (in->bytes[in->opcode_off - 1] & 0x7fu) | (in->rex & 8 ? 0x80 : 0);

        if (mem) {
            vex_rm(e, in->map, last, in->opcode, hr, op);
        } else {
            vex(e, in->map, last, hr, hm >> 3);
            e1(e, in->opcode);
            e1(e, 0xc0 | (hr & 7) << 3 | (hm & 7));
        }
    } else {
        unsigned how = (in->rex & 8 ? E_W : 0) | (unsigned)in->map << 4 | (in->pfx == 0x66 ? E_66 : in->pfx == 0xf2 ? E_F2 : in->pfx == 0xf3 ? E_F3 : 0);

        if (rm->kind == X86_OPND_GPR && rm->size == 1)
            how |= E_REX;
        if (mem)
            e_rm(e, how, in->opcode, hr, op);
        else
            e_rr(e, how, in->opcode, hr, hm);
    }
    sel_immediate(t);
    if (reg && reg->kind == X86_OPND_GPR && (reg->access & X86_ACC_W))
        sel_put_back(t, reg->reg, hr);
    if (!mem && rm->kind == X86_OPND_GPR && (rm->access & X86_ACC_W))
        sel_put_back(t, rm->reg, hm);
    if (cx)
        e_mov(e, H_GCX, H_CX);
    return true;
}
