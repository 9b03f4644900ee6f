/*
 * From decoded guest instructions to host code. Most instructions are encoded
 * again with the registers renamed and the memory operand replaced by the looked-up host address; the
 * rest calls its generic executor. Nothing emitted around an instruction changes flags.
 */
#include "engine/translate/select.h"

static void *take_site(struct tr *t, size_t size)
{
    struct tr_site *s = tr_take(t->x, size);

    memset(s, 0, size);
    s->at = tr_code_off(t->x, t->begin);
    s->off = (uint16_t)t->off;
    s->idx = (uint8_t)t->idx;
    s->len = t->in->len & 15;
    s->pg = x86_isa[t->in->row].pg;
    s->op = t->in->op;
    return s;
}

/* C code is called at sites that may come back. */
static void *comes_back(struct tr *t, struct tr_site *s)
{
    t->vectors = 0;
    if (t->nopen < 8)
        t->open[t->nopen++] = s;
    return s;
}

struct tr_site *sel_site(struct tr *t) { return comes_back(t, take_site(t, sizeof(struct tr_site))); }
void *sel_exit(struct tr *t, size_t size)
{
    struct tr_site *s = take_site(t, size);

    s->block = tr_arena_off(t->x, t->b);
    return s;
}
uint32_t sel_site_id(const struct tr *t, const struct tr_site *s) { return tr_arena_off(t->x, s); }

void sel_later(struct tr *t, uint8_t *disp, struct tr_site *s, uint8_t *stub)
{
    t->out[t->nout++] = (struct out){.disp = disp, .site = s, .stub = stub, .idx = t->idx, .off = t->off, .in = t->in};
}
void sel_leave_by(struct tr *t, enum out_kind kind, uint8_t *disp)
{
    t->out[t->nout++] = (struct out){.kind = kind, .disp = disp, .idx = t->idx, .off = t->off, .in = t->in};
}

/* The block has run k instructions. RCX is lost. */
void sel_emit_count(const struct translate *x, struct emit *e, unsigned k)
{
    if (!k || x->uncounted)
        return;
    e_load(e, H_CX, AT_VCPU(insns));
    e_lea(e, H_CX, (struct hmem){H_CX, NOREG, 1, (int32_t)k});
    e_store(e, H_CX, AT_VCPU(insns));
}
void sel_count(struct tr *t, unsigned k) { sel_emit_count(t->x, &t->e, k); }

/* To the dispatcher, before this instruction, if there are requests. RCX is lost. */
void sel_heed(struct tr *t)
{
    if (t->idx && t->in[-1].op == X86_OP_STI) /* its shadow; it has looked itself */
        return;
    e_rm(&t->e, 0, 0x8b, H_CX, AT_VCPU(requests));
    if (t->x->one)
        e_rm(&t->e, 0, 0x8d, H_CX, (struct hmem){H_CX, NOREG, 1, 1});
    sel_check(t, (struct out){.kind = OUT_LEAVE});
}

/* --- instructions that stay what they are ------------------------------------------- */

unsigned sel_prefix_bits(const struct x86_insn *in)
{
    unsigned how = (in->rex & 8 ? E_W : 0) | (unsigned)in->map << 4 | (in->lock ? E_LOCK : 0);

    for (unsigned i = 0; i < in->opcode_off; i++)
        if (in->bytes[i] == 0x66)
            how |= E_66;
    if (in->pfx == 0xf2)
        how |= E_F2;
    else if (in->pfx == 0xf3)
        how |= E_F3;
    return how;
}

void sel_immediate(struct tr *t)
{
    for (unsigned i = t->in->imm_off; i < t->in->len; i++)
        e1(&t->e, t->in->bytes[i]);
}

/* A guest register for use as an operand: its host register, or the scratch register it was loaded into. */
unsigned sel_fetch(struct tr *t, unsigned guest, unsigned scratch)
{
    if (tr_host[guest] != NOREG)
        return tr_host[guest];
    e_load(&t->e, scratch, AT_CPU(gpr[guest]));
    if (scratch == H_S1)
        t->s1 = -1;
    return scratch;
}
void sel_put_back(struct tr *t, unsigned guest, unsigned reg)
{
    if (tr_host[guest] != reg)
        e_store(&t->e, reg, AT_CPU(gpr[guest]));
}

/* AH, CH, DH, BH cannot be named beside a register that needs REX: only forms of the first eight registers, with RCX in its place. */
static bool high_byte(struct tr *t)
{
    const struct x86_insn *in = t->in;
    const struct x86_isa_row *row = &x86_isa[in->row];
    const unsigned how = sel_prefix_bits(in);
    bool cx = false, cx_w = false;

    if (in->map > 1 || how & ~(unsigned)(E_66 | E_0F) || (in->rex & 0xf))
        return false;
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct x86_operand *o = &in->opnd[i];

        if (o->kind == X86_OPND_MEM)
            return false;
        if (o->kind != X86_OPND_GPR && o->kind != X86_OPND_GPR8H)
            continue;
        if (o->kind == X86_OPND_GPR && (o->reg == X86_RSP || o->reg > X86_RDI))
            return false;
        if (row->opnd[i].method == 'r' && o->reg == X86_RCX)
            return false;
        if ((o->kind == X86_OPND_GPR8H ? o->reg & 3u : o->reg) == X86_RCX) {
            cx = true;
            cx_w |= o->access & X86_ACC_W;
        }
    }
    if (cx)
        e_mov(&t->e, H_CX, H_GCX);
    for (unsigned i = 0; i < in->len; i++) /* the low eight registers keep their numbers */
        if (i >= in->opcode_off || in->bytes[i] == 0x66 || in->bytes[i] == 0x0f)
            e1(&t->e, in->bytes[i]);
    if (cx_w)
        e_mov(&t->e, H_GCX, H_CX);
    return true;
}

static bool modrm(struct tr *t)
{
    const struct x86_insn *in = t->in;
    const struct x86_isa_row *row = &x86_isa[in->row];
    const bool mem = in->modrm < 0xc0;
    const struct x86_operand *reg = NULL, *rm = NULL;
    unsigned how = sel_prefix_bits(in), size = 0;
    bool cl = false, locked = in->lock;
    struct emit *e = &t->e;

    if (in->vex || !in->has_modrm)
        return false;
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct x86_operand *o = &in->opnd[i];

        if (o->kind == X86_OPND_GPR8H)
            return high_byte(t);
        if (o->kind == X86_OPND_GPR && o->size == 1)
            how |= E_REX;
        switch (row->opnd[i].method) {
        case 'G': reg = o; break;
        case 'E': case 'M': case 'R': rm = o; break;
        case 'I': case '1': break;
        case 'r':
            if (o->reg == X86_RCX)
                cl = true;
            else if (o->reg != X86_RAX && o->reg != X86_RDX)
                return false;
            break;
        default: return false;
        }
    }
    if (!rm)
        return false;
    const unsigned rg = reg ? reg->reg : 0;

    if (!mem) {
        const unsigned hm = sel_fetch(t, rm->reg, H_S0);
        const unsigned hr = reg ? sel_fetch(t, rg, H_S1) : in->modrm >> 3 & 7u;

        if (cl)
            e_mov(e, H_CX, H_GCX);
        e_rr(e, how, in->opcode, hr, hm);
        sel_immediate(t);
        if (reg && (reg->access & X86_ACC_W))
            sel_put_back(t, rg, hr);
        if (rm->access & X86_ACC_W) /* last: what XADD of one register with itself leaves */
            sel_put_back(t, rm->reg, hm);
        return true;
    }
    if (cl && reg && tr_host[rg] == NOREG)
        return false;
    size = rm->size;
    if (!size || size > 8)
        return false;
    if (in->op == X86_OP_XCHG)
        locked = true;
    if (locked && !sel_aligned(t, size))
        return false;
    struct hmem op;
    if (!sel_memory(t, SEL_MEM, sel_operand_of(in), rm->access & X86_ACC_W, size, true, &op))
        return false;
    if (cl)
        e_mov(e, H_CX, H_GCX);
    const unsigned hr = reg ? sel_fetch(t, rg, H_CX) : in->modrm >> 3 & 7u;

    e_rm(e, how, in->opcode, hr, op);
    sel_immediate(t);
    if (reg && (reg->access & X86_ACC_W))
        sel_put_back(t, rg, hr);
    return true;
}

static bool verbatim(struct tr *t)
{
    for (unsigned i = 0; i < t->in->len; i++)
        e1(&t->e, t->in->bytes[i]);
    return true;
}

static bool mov(struct tr *t)
{
    const struct x86_insn *in = t->in;
    const struct x86_operand *d = &in->opnd[0];
    struct emit *e = &t->e;

    if (in->has_modrm)
        return modrm(t);
    if ((in->opcode & 0xf0) == 0xb0) {
        if (d->kind != X86_OPND_GPR)
            return (d->reg & 3) != X86_RCX && verbatim(t);
        const unsigned h = tr_host[d->reg];

        if (d->size >= 4) {
            e_imm(e, h == NOREG ? H_CX : h, d->size == 4 ? (uint32_t)in->imm : (uint64_t)in->imm);
            if (h == NOREG)
                sel_put_back(t, d->reg, H_CX);
            return true;
        }
        const unsigned how = d->size == 2 ? E_66 : E_REX, op = d->size == 2 ? 0xc7 : 0xc6;

        if (h == NOREG)
            e_rm(e, how & ~(unsigned)E_REX, op, 0, AT_CPU(gpr[d->reg]));
        else
            e_rr(e, how, op, 0, h);
        sel_immediate(t);
        return true;
    }
    if (in->opcode >= 0xa0 && in->opcode <= 0xa3) {
        const bool write = in->opcode >= 0xa2;
        const unsigned size = in->opnd[write ? 0 : 1].size;
        struct hmem op;

        if (!sel_memory(t, SEL_MEM, sel_operand_of(in), write, size, true, &op))
            return false;
        e_rm(e, sel_prefix_bits(in), (write ? 0x88 : 0x8a) | (size > 1), H_AX, op);
        return true;
    }
    return false;
}

static bool xchg(struct tr *t)
{
    const struct x86_insn *in = t->in;

    if (in->has_modrm)
        return modrm(t);
    const unsigned g = (in->opcode & 7) | (in->rex & 1) << 3, h = sel_fetch(t, g, H_S0);

    e_rr(&t->e, sel_prefix_bits(in), 0x87, H_AX, h);
    sel_put_back(t, g, h);
    return true;
}

static bool bswap(struct tr *t)
{
    const struct x86_operand *d = &t->in->opnd[0];

    if (d->size < 4)
        return false;
    const unsigned h = sel_fetch(t, d->reg, H_S0);

    if (h & 8 || d->size == 8)
        e1(&t->e, 0x40 | (d->size == 8 ? 8 : 0) | h >> 3);
    e1(&t->e, 0x0f);
    e1(&t->e, 0xc8 | (h & 7));
    sel_put_back(t, d->reg, h);
    return true;
}

static bool lea(struct tr *t)
{
    const struct x86_operand *d = &t->in->opnd[0];

    const unsigned h = tr_host[d->reg] == NOREG ? H_S0 : tr_host[d->reg];
    const struct sel_where at = sel_operand_of(t->in);

    if (d->size < 4 || !sel_offset(t, h, &at, 0, d->size == 4))
        return false;
    sel_put_back(t, d->reg, h);
    return true;
}

/* DIV and IDIV run as they are where they cannot raise #DE; other cases go to the executor. */
static bool divide(struct tr *t, bool sign)
{
    const struct x86_insn *in = t->in;
    const struct x86_operand *o = &in->opnd[x86_explicit(in, 0)];
    struct emit *e = &t->e;
    struct tr_site *s;

    if (o->size < 4)
        return false;
    const unsigned w = o->size == 8 ? E_W : 0;

    if (o->kind == X86_OPND_MEM) {
        struct hmem op;

        if (!sel_memory(t, SEL_MEM, sel_operand_of(in), false, o->size, true, &op))
            return false;
        e_rm(e, w, 0x8b, H_S0, op);
    } else {
        e_rr(e, w, 0x89, sel_fetch(t, o->reg, H_S0), H_S0);
    }
    s = sel_site(t);
    s->redo = true;
    e_rr(e, w, 0x89, H_DX, H_CX); /* upper half 0 */
    sel_unless_zero(t, s, t->x->miss_stub);
    if (sign) { /* and the dividend far from negative */
        if (w)
            RORX(H_CX, H_AX, 56);
        else
            e_vrr(e, 3, V_F2, false, 0xf0, H_CX, 0, H_AX), e1(e, 24);
        e_rr(e, E_0F | E_REX, 0xb6, H_CX, H_CX);
        sel_unless_zero(t, s, t->x->miss_stub);
    }
    e_mov(e, H_CX, H_S0); /* and the divisor not 0 */
    uint8_t *zero = e_jrcxz(e);
    e_rr(e, w, 0xf7, sign ? 7 : 6, H_S0);
    e1(e, 0xeb);
    uint8_t *over = e->p;
    e1(e, 0);
    e_here(e, zero);
    sel_later(t, e_jmp(e, NULL), s, t->x->miss_stub);
    e_here(e, over);
    return true;
}

/* --- stack ----------------------------------------------------------------------- */

/* Room for eight bytes below the top. */
struct hmem sel_stack_slot(struct tr *t, bool again)
{
    struct hmem op;

    sel_memory(t, SEL_STACK, sel_stack(X86_RSP, -8), true, 8, again, &op);
    return op;
}
struct hmem sel_stack_top(struct tr *t)
{
    struct hmem op;

    sel_memory(t, SEL_STACK, sel_stack(X86_RSP, 0), false, 8, true, &op);
    return op;
}
void sel_move_top(struct tr *t, int d) { e_lea(&t->e, H_GSP, (struct hmem){H_GSP, NOREG, 1, d}); }

static bool push(struct tr *t)
{
    const struct x86_insn *in = t->in;
    const struct x86_operand *o = &in->opnd[x86_explicit(in, 0)];
    struct emit *e = &t->e;
    struct hmem op;

    if (in->stacksize != 8)
        return false;
    switch (o->kind) {
    case X86_OPND_GPR:
        op = sel_stack_slot(t, true);
        e_store(e, sel_fetch(t, o->reg, H_CX), op);
        break;
    case X86_OPND_IMM:
        if (in->imm != (int32_t)in->imm)
            return false;
        op = sel_stack_slot(t, true);
        e_rm(e, E_W, 0xc7, 0, op);
        e4(e, (uint32_t)in->imm);
        break;
    case X86_OPND_MEM:
        t->s1 = -1;
        if (!sel_memory(t, SEL_MEM, sel_operand_of(in), false, 8, true, &op))
            return false;
        e_load(e, H_CX, op);
        e_store(e, H_CX, AT_ROOM(tmp[0]));
        op = sel_stack_slot(t, false);
        e_load(e, H_CX, AT_ROOM(tmp[0]));
        e_store(e, H_CX, op);
        break;
    default: return false;
    }
    sel_move_top(t, -8);
    return true;
}

static bool pop(struct tr *t)
{
    const struct x86_insn *in = t->in;
    const struct x86_operand *o = &in->opnd[x86_explicit(in, 0)];
    struct emit *e = &t->e;

    if (in->stacksize != 8 || o->kind != X86_OPND_GPR)
        return false;

    const unsigned h = tr_host[o->reg] == NOREG ? H_CX : tr_host[o->reg];
    const struct hmem op = sel_stack_top(t);

    e_load(e, h, op);
    sel_put_back(t, o->reg, h);
    if (o->reg != X86_RSP)
        sel_move_top(t, 8);
    return true;
}

static bool leave(struct tr *t)
{
    struct emit *e = &t->e;
    struct hmem op;

    if (t->in->stacksize != 8)
        return false;
    sel_memory(t, SEL_STACK, sel_stack(X86_RBP, 0), false, 8, true, &op);
    e_lea(e, H_GSP, (struct hmem){H_BP, NOREG, 1, 8});
    e_load(e, H_BP, op);
    return true;
}

/* --- the rest --------------------------------------------------------------------- */

static enum sel_result executor(struct tr *t, tr_fn *fn)
{
    const struct interp_vm *iv = t->x->v->vm->interp_priv;
    const x86_exec_fn exec = iv->exec[t->in->op] ? iv->exec[t->in->op] : x86_i_ud;
    bool ends = interp_generic_ends(t->in, X86_MODE_64, exec);
    struct tr_exec *s = comes_back(t, take_site(t, sizeof(*s)));

    switch (t->in->op) {
    case X86_OP_CLAC: case X86_OP_STAC: /* another context */
    case X86_OP_LDMXCSR: case X86_OP_VLDMXCSR: case X86_OP_FXRSTOR: case X86_OP_FXRSTOR64: case X86_OP_XRSTOR:
    case X86_OP_XRSTOR64: case X86_OP_XRSTORS: case X86_OP_XRSTORS64: /* perhaps another key */
        ends = true;
        break;
    default: break;
    }
    s->in = *t->in;
    s->exec = exec;
    s->fn = fn ? fn : ends ? xl_exec_end : xl_exec;
    sel_end_windows(t);
    e_imm32(&t->e, H_S1, sel_site_id(t, &s->s));
    e_call(&t->e, t->x->exec_stub);
    return !fn && ends ? END : GO_ON;
}

/* clang-format off */
#define ARITHMETIC \
    case X86_OP_ADD: case X86_OP_OR: case X86_OP_ADC: case X86_OP_SBB: case X86_OP_AND: case X86_OP_SUB: case X86_OP_XOR: case X86_OP_CMP: \
    case X86_OP_TEST
/* One operand in ModRM.rm, perhaps one in ModRM.reg, perhaps an immediate. */
#define ORDINARY \
    case X86_OP_INC: case X86_OP_DEC: case X86_OP_NEG: case X86_OP_NOT: case X86_OP_SHL: case X86_OP_SHR: case X86_OP_SAR: case X86_OP_ROL: \
    case X86_OP_ROR: case X86_OP_RCL: case X86_OP_RCR: case X86_OP_SHLD: case X86_OP_SHRD: case X86_OP_IMUL: case X86_OP_MUL: \
    case X86_OP_MOVZX: case X86_OP_MOVSX: case X86_OP_MOVSXD: case X86_OP_MOVNTI: case X86_OP_BSF: case X86_OP_BSR: case X86_OP_TZCNT: \
    case X86_OP_LZCNT: case X86_OP_POPCNT: case X86_OP_XADD: case X86_OP_CMPXCHG: case X86_OP_CRC32: case X86_OP_MOVBE: \
    case X86_OP_SETO: case X86_OP_SETNO: case X86_OP_SETB: case X86_OP_SETAE: case X86_OP_SETE: case X86_OP_SETNE: case X86_OP_SETBE: \
    case X86_OP_SETA: case X86_OP_SETS: case X86_OP_SETNS: case X86_OP_SETP: case X86_OP_SETNP: case X86_OP_SETL: case X86_OP_SETGE: \
    case X86_OP_SETLE: case X86_OP_SETG: \
    case X86_OP_CMOVO: case X86_OP_CMOVNO: case X86_OP_CMOVB: case X86_OP_CMOVAE: case X86_OP_CMOVE: case X86_OP_CMOVNE: \
    case X86_OP_CMOVBE: case X86_OP_CMOVA: case X86_OP_CMOVS: case X86_OP_CMOVNS: case X86_OP_CMOVP: case X86_OP_CMOVNP: \
    case X86_OP_CMOVL: case X86_OP_CMOVGE: case X86_OP_CMOVLE: case X86_OP_CMOVG
/* clang-format on */

bool sel_known(const struct x86_insn *in)
{
    switch (in->op) {
    ARITHMETIC:
    ORDINARY:
    case X86_OP_BT: case X86_OP_BTS: case X86_OP_BTR: case X86_OP_BTC: case X86_OP_XCHG: case X86_OP_BSWAP: case X86_OP_DIV: case X86_OP_IDIV:
    case X86_OP_CBW: case X86_OP_CWD: case X86_OP_LAHF: case X86_OP_SAHF: case X86_OP_CLC: case X86_OP_STC: case X86_OP_CMC:
    case X86_OP_ENDBR64: case X86_OP_ENDBR32:
        return true;
    default:
        return sel_is_jcc(in) || (in->has_modrm && (x86_isa[in->row].attr & (X86_ATTR_SSE | X86_ATTR_AVX)) && !(x86_isa[in->row].attr & (X86_ATTR_MMX | X86_ATTR_X87)));
    }
}

static enum sel_result translate(struct tr *t)
{
    enum sel_result r = NONE;

    switch (t->in->op) {
    ARITHMETIC:
        return (t->in->has_modrm ? modrm(t) : verbatim(t)) ? GO_ON : NONE;
    ORDINARY:
        return modrm(t) ? GO_ON : NONE;
    case X86_OP_BT: case X86_OP_BTS: case X86_OP_BTR: case X86_OP_BTC: /* a register offset reaches outside the operand */
        if (t->in->opnd[0].kind == X86_OPND_MEM && t->in->opnd[1].kind != X86_OPND_IMM)
            return sel_system(t);
        return modrm(t) ? GO_ON : NONE;
    case X86_OP_MOV: return mov(t) ? GO_ON : NONE;
    case X86_OP_XCHG: return xchg(t) ? GO_ON : NONE;
    case X86_OP_BSWAP: return bswap(t) ? GO_ON : NONE;
    case X86_OP_LEA: return lea(t) ? GO_ON : NONE;
    case X86_OP_DIV: return divide(t, false) ? GO_ON : NONE;
    case X86_OP_IDIV: return divide(t, true) ? GO_ON : NONE;
    case X86_OP_CBW: case X86_OP_CWD: case X86_OP_LAHF: case X86_OP_SAHF: case X86_OP_CLC: case X86_OP_STC: case X86_OP_CMC:
        return verbatim(t) ? GO_ON : NONE;
    case X86_OP_PUSH: return push(t) ? GO_ON : NONE;
    case X86_OP_POP: return pop(t) ? GO_ON : NONE;
    case X86_OP_LEAVE: return leave(t) ? GO_ON : NONE;
    case X86_OP_STOS: case X86_OP_MOVS: return sel_string(t) ? GO_ON : NONE;
    case X86_OP_NOP: case X86_OP_ENDBR64: case X86_OP_ENDBR32: case X86_OP_PREFETCHT0: case X86_OP_PREFETCHT1:
    case X86_OP_PREFETCHT2: case X86_OP_PREFETCHNTA: case X86_OP_PREFETCHW: case X86_OP_PREFETCH:
        return GO_ON;
    case X86_OP_JO: case X86_OP_JNO: case X86_OP_JB: case X86_OP_JAE: case X86_OP_JE: case X86_OP_JNE: case X86_OP_JBE: case X86_OP_JA:
    case X86_OP_JS: case X86_OP_JNS: case X86_OP_JP: case X86_OP_JNP: case X86_OP_JL: case X86_OP_JGE: case X86_OP_JLE: case X86_OP_JG:
        return sel_jcc(t);
    case X86_OP_JMP: return sel_jmp(t);
    case X86_OP_CALL: return sel_call(t);
    case X86_OP_RET: return sel_ret(t);
    case X86_OP_CLI: r = sel_system(t); return r == NONE ? executor(t, xl_cli) : r;
    case X86_OP_STI: /* the shadow needs an instruction behind it */
        r = sel_system(t);
        return r == NONE && t->idx + 1 < t->n ? executor(t, xl_sti) : r;
    case X86_OP_POPF: return t->in->stacksize == 8 ? executor(t, xl_popf) : NONE;
    default:
        r = sel_system(t);
        return r == NONE && sel_simd(t) ? GO_ON : r;
    }
}

/* Would the block end with this instruction because only the executor knows what it does? */
static bool cuts(const struct tr *t, const struct x86_insn *in)
{
    if (sel_is_jcc(in))
        return false;
    switch (in->op) {
    case X86_OP_CLI: case X86_OP_STI: return false;
    case X86_OP_POPF: return in->stacksize != 8;
    case X86_OP_CLAC: case X86_OP_STAC: return true;
    case X86_OP_LFENCE: case X86_OP_SFENCE: case X86_OP_MFENCE: case X86_OP_PAUSE: return false;
    case X86_OP_MOV_CR:
        return in->opnd[0].kind != X86_OPND_GPR || in->opnd[1].reg == 8 || (t->b->key & TR_CTX) == X86_TLB_USER || x86_watches_sensitive(&t->x->v->cpu);
    case X86_OP_LDMXCSR: case X86_OP_VLDMXCSR: case X86_OP_FXRSTOR: case X86_OP_FXRSTOR64: case X86_OP_XRSTOR:
    case X86_OP_XRSTOR64: case X86_OP_XRSTORS: case X86_OP_XRSTORS64: return true;
    default: return interp_generic_ends(in, X86_MODE_64, NULL);
    }
}

/* Leave for an offset in the page. */
static void leave_for(struct tr *t, unsigned off)
{
    e_imm32(&t->e, H_S1, off);
    e_jmp(&t->e, t->x->leave_stub);
}

/* May add to the list. */
static void out_of_line(struct tr *t, const struct out *o)
{
    struct emit *e = &t->e;

    t->pads.nroom = 0;
    e_patch(o->disp, e->p);
    t->in = o->in;
    t->idx = o->idx;
    t->off = o->off;
    t->nopen = 0;
    switch (o->kind) {
    case OUT_STUB:
        e_imm32(e, H_S1, sel_site_id(t, o->site));
        e_jmp(e, o->stub);
        break;
    case OUT_LEAVE:
        sel_count(t, o->idx);
        leave_for(t, o->off);
        break;
    case OUT_WINDOW:
        e_imm32(e, H_S1, sel_site_id(t, o->site));
        e_jmp(e, o->stub);
        ((struct tr_window *)(void *)o->site)->link = tr_code_off(t->x, o->disp);
        break;
    case OUT_FAR:
        sel_far_out(t, o->site, o->disp);
        break;
    case OUT_SIDE:
        sel_count(t, o->idx + 1);
        sel_jump_to(t, sel_branch_to(o->in, o->off), false);
        break;
    }
}

/* At the entry of a block: leave unless the instructions so far are fewer than vcpu->stop. */
static void unless_stopped(struct tr *t)
{
    struct emit *e = &t->e;

    e_load(e, H_CX, AT_VCPU(insns));
    e_rr(e, E_W, 0xf7, 2, H_CX); /* not: stop - 1 - insns, negative when it is reached */
    e_load(e, H_S0, AT_VCPU(stop));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    e_imm32(e, H_S0, 63);
    e_vrr(e, 2, V_F2, true, 0xf7, H_CX, H_S0, H_CX); /* shrx */
    uint8_t *on = e_jrcxz(e);

    sel_leave_by(t, OUT_LEAVE, e_jmp(e, NULL));
    e_here(e, on);
}

static bool select_block(struct translate *x, struct tr_block *b, const struct x86_insn *ins, unsigned n, bool loops)
{
    struct tr t = {.x = x, .b = b, .e = {x->rw + x->used, x->rw + x->used, x->rx - x->rw}, .loops = loops};
    struct emit *e = &t.e;
    enum sel_result r = GO_ON;

    for (unsigned i = 0; i < n; i++)
        if (cuts(&t, &ins[i])) {
            n = i + 1;
            break;
        }
    t.n = n;
    t.ins = ins;
    sel_find_windows(&t);
    if (loops) {
        e1(e, 0xcc);
        sel_make_room(&t);
    }
    uint8_t *const code = e->p;

    b->code = tr_code_off(x, code);
    b->n = (uint8_t)n;
    t.off = (unsigned)(b->gpa & 0xfff);
    if (x->v->paced)
        unless_stopped(&t);
    for (t.idx = 0; t.idx < n; t.idx++) {
        sel_before(&t, 50);
        const struct emit keep = *e;
        const struct sel_pads pads = t.pads;
        const unsigned out = t.nout;
        const size_t taken = x->taken;

        t.in = &ins[t.idx];
        t.begin = e->p;
        t.nopen = 0;
        t.addressed = false;
        r = translate(&t);
        if (r == NONE) {
            *e = keep;
            t.pads = pads;
            t.nout = out;
            t.nopen = 0;
            x->taken = taken;
            r = executor(&t, NULL);
        }
        for (unsigned i = 0; i < t.nopen; i++)
            t.open[i]->next = (uint16_t)(e->p - t.begin);
        if (t.nopen) { /* the executor may have come this way */
            t.s1 = -1;
            t.vectors = 0;
        }
        t.off += t.in->len;
        if (r == END)
            break;
    }
    b->bytes = (uint16_t)(t.off - (b->gpa & 0xfff));
    if (r != END) {
        t.idx = n - 1;
        t.in = &ins[n - 1];
        t.nopen = 0;
        sel_count(&t, n);
        sel_jump_to(&t, t.off, true);
    }
    sel_pads(&t, false);
    /* Out of line: what each site passes, and where to. */
    b->leave = (uint16_t)(e->p - code);
    leave_for(&t, (unsigned)(b->gpa & 0xfff));
    for (unsigned i = 0; i < t.nout; i++) {
        out_of_line(&t, &t.out[i]);
        sel_pads(&t, false);
    }
    if (t.stretched)
        return false;
    x->used = (size_t)(e->p - x->rw + 15) & ~(size_t)15;
    return true;
}

void tr_select(struct translate *x, struct tr_block *b, const struct x86_insn *ins, unsigned n)
{
    const size_t taken = x->taken;

    if (x->one && select_block(x, b, ins, n, true))
        return;
    x->taken = taken;
    select_block(x, b, ins, n, false);
}
