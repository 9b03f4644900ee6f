/*
 * From a decoded instruction to the handler that executes it. What has no
 * handler here is left to the generic executors.
 */
#include "engine/interp/interp.h"

#define OFF(field) ((uint8_t)offsetof(struct x86_cpu, field))

static int col(unsigned size) { return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : size == 8 ? 3 : -1; }

static bool is_reg(const struct x86_operand *o) { return o->kind == X86_OPND_GPR || o->kind == X86_OPND_GPR8H; }
static uint8_t reg_off(const struct x86_operand *o)
{
    return o->kind == X86_OPND_GPR8H ? (uint8_t)((o->reg & 3) * 8 + 1) : (uint8_t)((o->reg & 15) * 8);
}
static bool is_imm(const struct x86_operand *o) { return o->kind == X86_OPND_IMM || o->kind == X86_OPND_ONE; }
static int64_t imm_of(const struct x86_insn *in, const struct x86_operand *o) { return o->kind == X86_OPND_ONE ? 1 : in->imm; }

/* Fill in the memory operand: the addressing column, or -1 if the fast forms cannot express it. lea: no segment. */
static int address(const struct pick *p, bool lea)
{
    const struct x86_memref *m = &p->in->mem;
    const bool m64 = (p->mode & MODE_BITS) == X86_MODE_64;
    struct uop *u = p->u;
    int64_t disp = m->disp;

    u->base = u->index = u->seg = OFF(zero);
    u->scale = u->aux = 0;
    if (m64) {
        if (!lea && (m->seg == X86_FS || m->seg == X86_GS))
            u->seg = m->seg == X86_FS ? OFF(seg[X86_FS].base) : OFF(seg[X86_GS].base);
        if (p->in->addrsize != 8 && (p->in->addrsize != 4 || u->seg != OFF(zero) || m->base == X86_REG_RIP))
            return -1;
    } else if (!lea) {
        const unsigned need = m->seg == X86_FS ? MODE_FS : m->seg == X86_GS ? MODE_GS : 0;

        if (m->seg == X86_CS || !(p->mode & (MODE_FLAT | MODE_PLAIN)) || (p->mode & need) != need)
            return -1;
        if (need || !(p->mode & MODE_FLAT) || p->in->addrsize == 2)
            u->seg = (uint8_t)(offsetof(struct x86_cpu, seg) + m->seg * sizeof(struct x86_seg));
    }
    if (m->base < X86_NGPR) {
        u->base = (uint8_t)(m->base * 8);
    } else if (m->base == X86_REG_RIP) {
        u->base = OFF(rip);
        disp += u->off + u->len;
    }
    if (m->index < X86_NGPR) {
        u->index = (uint8_t)(m->index * 8);
        u->scale = (uint8_t)__builtin_ctz(m->scale);
    }
    if (disp != (int32_t)disp)
        return -1;
    u->disp = (int32_t)disp;
    if (p->in->addrsize == 2) {
        u->aux = 16;
        return AM_S;
    }
    if (!m64 && !lea && !(p->mode & MODE_FLAT))
        return AM_S;
    if (p->in->addrsize == 4)
        return m->index < X86_NGPR || u->seg != OFF(zero) ? AM_L : AM_W;
    return m->index < X86_NGPR || u->seg != OFF(zero) ? AM_G : AM_B;
}

static enum pick_result set(const struct pick *p, uop_fn fn)
{
    if (!fn)
        return PICK_GENERIC;
    p->u->fn = fn;
    return PICK_NEXT;
}

/* dst, src with any of r,r  r,i  r,m  m,r  m,i. */
static enum pick_result two(const struct pick *p, uop_fn rr, uop_fn ri, const uop_fn rm[AM_COUNT], const uop_fn mr[AM_COUNT],
                            const uop_fn mi[AM_COUNT])
{
    const struct x86_operand *d = &p->in->opnd[0], *s = &p->in->opnd[1];
    struct uop *u = p->u;
    int am;

    if (is_reg(d)) {
        u->dst = reg_off(d);
        if (is_reg(s)) {
            u->src = reg_off(s);
            return set(p, rr);
        }
        if (is_imm(s)) {
            u->imm = imm_of(p->in, s);
            return set(p, ri);
        }
        if (s->kind == X86_OPND_MEM && rm && (am = address(p, false)) >= 0)
            return set(p, rm[am]);
        return PICK_GENERIC;
    }
    if (d->kind != X86_OPND_MEM || (am = address(p, false)) < 0)
        return PICK_GENERIC;
    if (is_reg(s) && mr) {
        u->src = reg_off(s);
        return set(p, mr[am]);
    }
    if (is_imm(s) && mi) {
        u->imm = imm_of(p->in, s);
        return set(p, mi[am]);
    }
    return PICK_GENERIC;
}

static enum pick_result alu(const struct pick *p, unsigned op)
{
    const int k = col(p->in->opnd[0].size);

    if (p->in->lock)
        return two(p, NULL, NULL, NULL, interp_alu_lock_mr[op][k], interp_alu_lock_mi[op][k]);
    return two(p, interp_alu_rr[op][k], interp_alu_ri[op][k], interp_alu_rm[op][k], interp_alu_mr[op][k], interp_alu_mi[op][k]);
}

static enum pick_result unary(const struct pick *p, unsigned op)
{
    const struct x86_operand *d = &p->in->opnd[0];
    const int k = col(d->size);
    int am;

    if (is_reg(d)) {
        p->u->dst = reg_off(d);
        return set(p, interp_un_r[op][k]);
    }
    if ((am = address(p, false)) < 0)
        return PICK_GENERIC;
    return set(p, (p->in->lock ? interp_un_lock_m : interp_un_m)[op][k][am]);
}

static enum pick_result shift(const struct pick *p, unsigned op)
{
    const struct x86_operand *d = &p->in->opnd[0], *s = &p->in->opnd[1];
    const int k = col(d->size);

    if (!is_reg(d))
        return PICK_GENERIC;
    p->u->dst = reg_off(d);
    if (is_imm(s)) {
        const unsigned n = (unsigned)imm_of(p->in, s) & (d->size == 8 ? 63 : 31);

        /* Of a 32-bit register the upper half is cleared even then. */
        if (!n)
            return d->size == 4 ? PICK_GENERIC : set(p, interp_nop);
        p->u->imm = n;
        return set(p, interp_sh_ri[op][k]);
    }
    return s->kind == X86_OPND_GPR ? set(p, interp_sh_rc[op][k]) : PICK_GENERIC;
}

static enum pick_result shift_double(const struct pick *p, const uop_fn f[2])
{
    const struct x86_operand *o = p->in->opnd;

    if (!is_reg(&o[0]) || o[0].size < 4 || o[2].kind != X86_OPND_IMM || !(p->in->imm & (o[0].size == 8 ? 63 : 31)))
        return PICK_GENERIC;
    p->u->dst = reg_off(&o[0]);
    p->u->src = reg_off(&o[1]);
    p->u->imm = p->in->imm & (o[0].size == 8 ? 63 : 31);
    return set(p, f[o[0].size == 8]);
}

static enum pick_result multiply(const struct pick *p, bool sign)
{
    const struct x86_insn *in = p->in;
    const unsigned e0 = x86_explicit(in, 0), e1 = x86_explicit(in, 1), e2 = x86_explicit(in, 2);
    const struct x86_operand *d = &in->opnd[e0];
    const int k = col(d->size) - 1;
    int am;

    if (k < 0)
        return PICK_GENERIC;
    if (e1 == X86_NOPND - 1) {
        if (!is_reg(d) || k < 1)
            return PICK_GENERIC;
        p->u->src = reg_off(d);
        return set(p, interp_mul1[sign][k - 1]);
    }
    p->u->dst = reg_off(d);
    const struct x86_operand *s = &in->opnd[e1];

    if (is_reg(s)) {
        p->u->src = reg_off(s);
        if (e2 == X86_NOPND - 1)
            return set(p, interp_imul_rr[k]);
        p->u->imm = in->imm;
        return set(p, interp_imul_rri[k]);
    }
    if ((am = address(p, false)) < 0)
        return PICK_GENERIC;
    if (e2 == X86_NOPND - 1)
        return set(p, interp_imul_rm[k][am]);
    p->u->imm = in->imm;
    return set(p, interp_imul_rmi[k][am]);
}

static enum pick_result divide(const struct pick *p, bool sign)
{
    const struct x86_operand *s = &p->in->opnd[x86_explicit(p->in, 0)];

    if (!is_reg(s) || s->size < 4)
        return PICK_GENERIC;
    p->u->src = reg_off(s);
    return set(p, interp_div1[sign][s->size == 8]);
}

static enum pick_result bit(const struct pick *p, unsigned op)
{
    const struct x86_operand *d = &p->in->opnd[0], *s = &p->in->opnd[1];

    if (!is_reg(d) || d->size < 4)
        return PICK_GENERIC;
    p->u->dst = reg_off(d);
    if (is_imm(s)) {
        p->u->imm = p->in->imm & (d->size * 8 - 1);
        return set(p, interp_bt_ri[op][d->size == 8]);
    }
    p->u->src = reg_off(s);
    return op == 0 ? set(p, interp_bt_rr[d->size == 8]) : PICK_GENERIC;
}

static enum pick_result scan(const struct pick *p, unsigned op)
{
    const struct x86_operand *d = &p->in->opnd[0], *s = &p->in->opnd[1];

    if (!is_reg(s) || d->size < 4)
        return PICK_GENERIC;
    p->u->dst = reg_off(d);
    p->u->src = reg_off(s);
    return set(p, interp_scan[op][d->size == 8]);
}

static enum pick_result extend(const struct pick *p, bool sign)
{
    const unsigned from = p->in->opnd[1].size;
    const int f = from == 1 ? 0 : from == 2 ? 1 : 2, k = col(p->in->opnd[0].size);

    return two(p, interp_movx_rr[sign][f][k], NULL, interp_movx_rm[sign][f][k], NULL, NULL);
}

static enum pick_result exchange(const struct pick *p)
{
    const struct x86_operand *a = &p->in->opnd[0], *b = &p->in->opnd[1];
    const int k = col(a->size);
    int am;

    if (a->kind == X86_OPND_MEM) {
        p->u->src = reg_off(b);
        return (am = address(p, false)) < 0 ? PICK_GENERIC : set(p, interp_xchg_rm[k][am]);
    }
    if (!is_reg(b))
        return PICK_GENERIC;
    p->u->dst = reg_off(a);
    p->u->src = reg_off(b);
    return set(p, interp_xchg_rr[k]);
}

static enum pick_result mem_reg(const struct pick *p, const uop_fn f[AM_COUNT])
{
    int am;

    if (p->in->opnd[0].kind != X86_OPND_MEM || (am = address(p, false)) < 0)
        return PICK_GENERIC;
    p->u->src = reg_off(&p->in->opnd[1]);
    return set(p, f[am]);
}

static enum pick_result push(const struct pick *p, enum flow fm)
{
    const struct x86_operand *o = &p->in->opnd[x86_explicit(p->in, 0)];
    int am;

    if (fm < 0 || p->in->stacksize != interp_flow_size(fm))
        return PICK_GENERIC;
    if (o->kind == X86_OPND_GPR) {
        p->u->src = reg_off(o);
        return set(p, interp_push_r[fm]);
    }
    if (o->kind == X86_OPND_IMM) {
        p->u->imm = p->in->imm;
        return set(p, interp_push_i[fm]);
    }
    if (o->kind == X86_OPND_MEM && (am = address(p, false)) >= 0)
        return set(p, interp_push_m[fm][am]);
    return PICK_GENERIC;
}

/* --- branches -------------------------------------------------------------- */

static enum pick_result branch(const struct pick *p, uop_fn fn)
{
    const int64_t delta = p->u->off + p->u->len + p->in->imm;

    if (delta != (int32_t)delta)
        return PICK_GENERIC_END;
    *p->u = (struct uop){.fn = fn, .delta = (int32_t)delta, .off = p->u->off, .idx = p->u->idx, .len = p->u->len};
    return PICK_END;
}

static enum pick_result branch_to(const struct pick *p, uop_fn reg, const uop_fn mem[AM_COUNT])
{
    const struct x86_operand *o = &p->in->opnd[x86_explicit(p->in, 0)];
    int am;

    if (o->kind == X86_OPND_GPR) {
        p->u->src = reg_off(o);
        p->u->fn = reg;
        return PICK_END;
    }
    if (o->kind == X86_OPND_MEM && (am = address(p, false)) >= 0 && mem[am]) {
        p->u->fn = mem[am];
        return PICK_END;
    }
    return PICK_GENERIC_END;
}

static enum pick_result flow(const struct pick *p, enum flow fm)
{
    const struct x86_insn *in = p->in;
    const bool rel = in->opnd[x86_explicit(in, 0)].kind == X86_OPND_REL;

    if (fm < 0 || in->opsize != interp_flow_size(fm))
        return PICK_GENERIC_END;
    switch (in->op) {
    case X86_OP_JMP: return rel ? branch(p, interp_jmp[fm]) : branch_to(p, interp_jmp_r[fm], interp_jmp_m[fm]);
    case X86_OP_CALL: return rel ? branch(p, interp_call[fm]) : branch_to(p, interp_call_r[fm], interp_call_m[fm]);
    case X86_OP_RET:
        if (in->opnd[x86_explicit(in, 0)].kind == X86_OPND_IMM) {
            p->u->imm = (uint16_t)in->imm;
            p->u->fn = interp_ret_imm[fm];
        } else {
            p->u->fn = interp_ret[fm];
        }
        return PICK_END;
    case X86_OP_LOOP: return in->addrsize == in->opsize ? branch(p, interp_loop[fm]) : PICK_GENERIC_END;
    case X86_OP_JCXZ: return in->addrsize == in->opsize ? branch(p, interp_jcxz[fm]) : PICK_GENERIC_END;
    default: return branch(p, interp_jcc[fm][in->opcode & 15]);
    }
}

/* Sensitive instructions after which the block may go on: they neither write what blocks depend on nor flush. */
static bool goes_on(const struct pick *p)
{
    switch (p->in->op) {
    case X86_OP_RDTSC: case X86_OP_RDTSCP: case X86_OP_RDPID: case X86_OP_PUSHF: case X86_OP_PUSH_SEG:
    case X86_OP_SGDT: case X86_OP_SIDT: case X86_OP_SLDT: case X86_OP_STR: case X86_OP_SMSW: case X86_OP_LAR: case X86_OP_LSL:
    case X86_OP_VERR: case X86_OP_VERW: case X86_OP_RDFSBASE: case X86_OP_RDGSBASE: case X86_OP_WRFSBASE: case X86_OP_WRGSBASE:
    case X86_OP_XGETBV: case X86_OP_CLAC: case X86_OP_STAC:
        return true;
    case X86_OP_SWAPGS:
        return true;
    case X86_OP_MOV_SEG: /* in 64-bit mode only SS matters, for its shadow */
        return p->in->opnd[0].kind != X86_OPND_SEG ||
               ((p->mode & MODE_BITS) == X86_MODE_64 && p->in->opnd[0].reg != X86_SS);
    default:
        return false;
    }
}

static enum pick_result generic(const struct pick *p)
{
    const struct x86_isa_row *row = &x86_isa[p->in->row];

    if (row->attr & (X86_ATTR_BRANCH | X86_ATTR_SERIALIZING | X86_ATTR_IO))
        return PICK_GENERIC_END;
    if (p->in->op == X86_OP_POP_SEG || p->in->op == X86_OP_LSS || p->in->op == X86_OP_LDS || p->in->op == X86_OP_LES ||
        p->in->op == X86_OP_LFS || p->in->op == X86_OP_LGS)
        return PICK_GENERIC_END;
    return row->pg == X86_PG_INNOCUOUS || goes_on(p) ? PICK_GENERIC : PICK_GENERIC_END;
}

bool interp_generic_ends(const struct x86_insn *in, uint8_t mode, x86_exec_fn exec)
{
    const struct pick p = {.in = in, .mode = mode, .exec = exec};

    return generic(&p) == PICK_GENERIC_END;
}

static enum pick_result pick(const struct pick *p)
{
    const struct x86_insn *in = p->in;
    const struct x86_operand *o = in->opnd;
    const enum flow fm = interp_flow(p->mode);
    const int k = in->nopnd ? col(o[0].size) : 0;
    int am;

    switch (in->op) {
    case X86_OP_JO: case X86_OP_JNO: case X86_OP_JB: case X86_OP_JAE: case X86_OP_JE: case X86_OP_JNE: case X86_OP_JBE: case X86_OP_JA:
    case X86_OP_JS: case X86_OP_JNS: case X86_OP_JP: case X86_OP_JNP: case X86_OP_JL: case X86_OP_JGE: case X86_OP_JLE: case X86_OP_JG:
    case X86_OP_JMP: case X86_OP_CALL: case X86_OP_RET: case X86_OP_LOOP: case X86_OP_JCXZ:
        return flow(p, fm);
    case X86_OP_NOP: case X86_OP_ENDBR64: case X86_OP_ENDBR32: case X86_OP_PREFETCHT0: case X86_OP_PREFETCHT1:
    case X86_OP_PREFETCHT2: case X86_OP_PREFETCHNTA: case X86_OP_PREFETCHW: case X86_OP_PREFETCH:
        return set(p, interp_nop);
    case X86_OP_CLI: return set(p, interp_cli);
    case X86_OP_STI: return set(p, interp_sti);
    case X86_OP_PUSHF: return (fm == FLOW_64 || fm == FLOW_32) && in->stacksize == interp_flow_size(fm) ? set(p, interp_pushf[fm]) : PICK_GENERIC;
    case X86_OP_POPF: return (fm == FLOW_64 || fm == FLOW_32) && in->stacksize == interp_flow_size(fm) ? set(p, interp_popf[fm]) : PICK_GENERIC;
    case X86_OP_CBW: return set(p, interp_widen[0][col(in->opsize)]);
    case X86_OP_CWD: return set(p, interp_widen[1][col(in->opsize)]);
    case X86_OP_LEAVE: return fm >= 0 && in->stacksize == interp_flow_size(fm) ? set(p, interp_leave[fm]) : PICK_GENERIC;
    case X86_OP_PUSH: return push(p, fm);
    case X86_OP_POP:
        if (fm < 0 || in->stacksize != interp_flow_size(fm) || o[x86_explicit(in, 0)].kind != X86_OPND_GPR)
            return PICK_GENERIC;
        p->u->dst = reg_off(&o[x86_explicit(in, 0)]);
        return set(p, interp_pop_r[fm]);
    default: break;
    }
    if (x86_isa[in->row].attr & (X86_ATTR_SSE | X86_ATTR_AVX)) {
        bool mem = false;

        for (unsigned i = 0; i < in->nopnd; i++)
            mem |= o[i].kind == X86_OPND_MEM;
        if (interp_pick_sse(in, p->u, p->mode, mem ? address(p, false) : -1))
            return PICK_KEEP;
    }
    if (k < 0)
        return PICK_GENERIC;
    switch (in->op) {
    case X86_OP_ADD: return alu(p, ALU_ADD);
    case X86_OP_OR: return alu(p, ALU_OR);
    case X86_OP_ADC: return alu(p, ALU_ADC);
    case X86_OP_SBB: return alu(p, ALU_SBB);
    case X86_OP_AND: return alu(p, ALU_AND);
    case X86_OP_SUB: return alu(p, ALU_SUB);
    case X86_OP_XOR: return alu(p, ALU_XOR);
    case X86_OP_CMP: return alu(p, ALU_CMP);
    case X86_OP_TEST: return alu(p, ALU_TEST);
    case X86_OP_INC: return unary(p, UN_INC);
    case X86_OP_DEC: return unary(p, UN_DEC);
    case X86_OP_NEG: return unary(p, UN_NEG);
    case X86_OP_NOT: return unary(p, UN_NOT);
    case X86_OP_SHL: return shift(p, SH_SHL);
    case X86_OP_SHR: return shift(p, SH_SHR);
    case X86_OP_SAR: return shift(p, SH_SAR);
    case X86_OP_ROL: return shift(p, SH_ROL);
    case X86_OP_ROR: return shift(p, SH_ROR);
    case X86_OP_SHLD: return shift_double(p, interp_shld);
    case X86_OP_SHRD: return shift_double(p, interp_shrd);
    case X86_OP_IMUL: return multiply(p, true);
    case X86_OP_MUL: return multiply(p, false);
    case X86_OP_DIV: return divide(p, false);
    case X86_OP_IDIV: return divide(p, true);
    case X86_OP_BT: return bit(p, 0);
    case X86_OP_BTS: return in->lock ? PICK_GENERIC : bit(p, 1);
    case X86_OP_BTR: return in->lock ? PICK_GENERIC : bit(p, 2);
    case X86_OP_BTC: return in->lock ? PICK_GENERIC : bit(p, 3);
    case X86_OP_BSF: return scan(p, SCAN_BSF);
    case X86_OP_BSR: return scan(p, SCAN_BSR);
    case X86_OP_TZCNT: return scan(p, SCAN_TZCNT);
    case X86_OP_LZCNT: return scan(p, SCAN_LZCNT);
    case X86_OP_POPCNT: return scan(p, SCAN_POPCNT);
    case X86_OP_MOV:
        return two(p, interp_mov_rr[k], interp_mov_ri[k], interp_mov_rm[k], interp_mov_mr[k], interp_mov_mi[k]);
    case X86_OP_MOVNTI: return mem_reg(p, interp_mov_mr[k]);
    case X86_OP_MOVZX: return extend(p, false);
    case X86_OP_MOVSX: case X86_OP_MOVSXD: return extend(p, true);
    case X86_OP_LEA:
        if (k < 1 || (am = address(p, true)) < 0)
            return PICK_GENERIC;
        p->u->dst = reg_off(&o[0]);
        return set(p, interp_lea[k][am]);
    case X86_OP_BSWAP:
        p->u->dst = reg_off(&o[0]);
        return k == 3 ? set(p, interp_bswap8) : k == 2 ? set(p, interp_bswap4) : PICK_GENERIC;
    case X86_OP_XCHG: return exchange(p);
    case X86_OP_XADD: return in->lock ? mem_reg(p, interp_xadd_lock[k]) : PICK_GENERIC;
    case X86_OP_CMPXCHG: return mem_reg(p, interp_cmpxchg[k][in->lock != 0]);
    case X86_OP_SETO: case X86_OP_SETNO: case X86_OP_SETB: case X86_OP_SETAE: case X86_OP_SETE: case X86_OP_SETNE: case X86_OP_SETBE:
    case X86_OP_SETA: case X86_OP_SETS: case X86_OP_SETNS: case X86_OP_SETP: case X86_OP_SETNP: case X86_OP_SETL: case X86_OP_SETGE:
    case X86_OP_SETLE: case X86_OP_SETG:
        if (!is_reg(&o[0]))
            return PICK_GENERIC;
        p->u->dst = reg_off(&o[0]);
        return set(p, interp_setcc[in->opcode & 15]);
    case X86_OP_CMOVO: case X86_OP_CMOVNO: case X86_OP_CMOVB: case X86_OP_CMOVAE: case X86_OP_CMOVE: case X86_OP_CMOVNE:
    case X86_OP_CMOVBE: case X86_OP_CMOVA: case X86_OP_CMOVS: case X86_OP_CMOVNS: case X86_OP_CMOVP: case X86_OP_CMOVNP:
    case X86_OP_CMOVL: case X86_OP_CMOVGE: case X86_OP_CMOVLE: case X86_OP_CMOVG:
        return two(p, interp_cmov_rr[in->opcode & 15][k], NULL, interp_cmov_rm[in->opcode & 15][k], NULL, NULL);
    default: return PICK_GENERIC;
    }
}

enum pick_result interp_pick(const struct pick *p)
{
    enum pick_result r = pick(p);

    if (r != PICK_GENERIC && r != PICK_GENERIC_END) {
        if (p->u->fn == interp_cli || p->u->fn == interp_sti || p->in->op == X86_OP_PUSHF || p->in->op == X86_OP_POPF)
            p->u->pg = x86_isa[p->in->row].pg;
        return r;
    }
    if (r == PICK_GENERIC)
        r = generic(p);
    *p->u = (struct uop){.fn = r == PICK_GENERIC ? interp_generic : interp_generic_end, .exec = p->exec,
                         .pg = x86_isa[p->in->row].pg, .off = p->u->off, .idx = p->u->idx, .len = p->u->len};
    return r;
}

static int alu_index(unsigned op)
{
    switch (op) {
    case X86_OP_ADD: return ALU_ADD;
    case X86_OP_OR: return ALU_OR;
    case X86_OP_AND: return ALU_AND;
    case X86_OP_SUB: return ALU_SUB;
    case X86_OP_XOR: return ALU_XOR;
    default: return -1;
    }
}

uop_fn interp_flagless(const struct x86_insn *in)
{
    const int op = alu_index(in->op);

    if (op < 0 || !is_reg(&in->opnd[0]))
        return NULL;
    const int k = col(in->opnd[0].size);

    return is_reg(&in->opnd[1]) ? interp_alu_rr_nf[op][k] : is_imm(&in->opnd[1]) ? interp_alu_ri_nf[op][k] : NULL;
}

/* Arithmetic on a register and a conditional branch on its flags. */
static uop_fn fuse_alu(const struct uop *u, const struct x86_insn *in, unsigned cc, enum flow fm)
{
    const struct x86_operand *d = &in->opnd[0];
    const int k = col(d->size), op = alu_index(in->op);

    if (!is_reg(d) || k < 2 || fm > FLOW_32)
        return NULL;
    const int w = fm ? 2 : k - 2;

    if (in->op == X86_OP_INC || in->op == X86_OP_DEC)
        return interp_fuse_un[in->op == X86_OP_DEC][w][cc];
    if (op < 0)
        return NULL;
    if (u->fn == interp_alu_rr[op][k])
        return interp_fuse_alu_rr[op][w][cc];
    return u->fn == interp_alu_ri[op][k] ? interp_fuse_alu_ri[op][w][cc] : NULL;
}

void interp_fuse(struct uop *u, const struct x86_insn *cmp, const struct x86_insn *jcc, unsigned mode)
{
    const int t = cmp->op == X86_OP_CMP ? 0 : cmp->op == X86_OP_TEST ? 1 : -1;
    const unsigned cc = jcc->opcode & 15;

    if (!(x86_isa[jcc->row].attr & X86_ATTR_COND) || jcc->op == X86_OP_LOOP || jcc->op == X86_OP_JCXZ ||
        u[0].fn == interp_generic || u[1].fn == interp_generic_end)
        return;
    const struct x86_operand *d = &cmp->opnd[0], *s = &cmp->opnd[1];
    const int k = col(d->size);
    const enum flow fm = interp_flow(mode);
    const unsigned am = fm == FLOW_64 ? AM_B : fm == FLOW_32 ? AM_W : AM_S;
    uop_fn fn = NULL;

    if (t < 0)
        fn = fuse_alu(u, cmp, cc, fm);
    else if (is_reg(d) && is_reg(s))
        fn = interp_fuse_rr[fm][t][k][cc];
    else if (is_reg(d) && is_imm(s))
        fn = interp_fuse_ri[fm][t][k][cc];
    else if (d->kind == X86_OPND_MEM && is_imm(s) && u[0].fn == (t ? interp_alu_mi[ALU_TEST] : interp_alu_mi[ALU_CMP])[k][am])
        fn = interp_fuse_mi[fm][t][k][cc];
    else if (s->kind == X86_OPND_MEM && u[0].fn == (t ? interp_alu_rm[ALU_TEST] : interp_alu_rm[ALU_CMP])[k][am])
        fn = interp_fuse_rm[fm][t][k][cc];
    if (fn)
        u[0].fn = fn;
}
