/*
 * The decoder. In a nutshell: collect prefixes, find the opcode map and opcode,
 * look up the few rows of isa.def that can apply, take the first whose
 * constraints hold, then build the operands as the row's letters say.
 *
 * Bytes are consumed strictly in order and only when the instruction so far
 * proves that they belong to it: running out of them is X86_DEC_MORE, and the
 * 16th is X86_DEC_GP.
 */
#include <string.h>

#include "x86/decode_tables.h"

enum { SLOT_PFX_NONE, SLOT_PFX_66, SLOT_PFX_F3, SLOT_PFX_F2 };

struct dec {
    struct x86_insn *in;
    const uint8_t *bytes;
    unsigned avail, pos;
    enum x86_mode_bits mode;
    bool lock, opsz, adsz;
    uint8_t rep; /* last F2/F3 */
    uint8_t vvvv;
    bool bad_vvvv; /* vvvv must be read by some operand */
    bool illegal;  /* #UD, once all bytes are there: hardware finds the length first */
    const struct x86_isa_row *row;
};

/* Are n more bytes there? */
static enum x86_decode_result need(const struct dec *d, unsigned n)
{
    unsigned end = d->pos + n;
    if (end <= d->avail && end <= X86_MAX_INSN)
        return X86_DEC_OK;
    return d->avail < X86_MAX_INSN ? X86_DEC_MORE : X86_DEC_GP;
}

#define NEED(d, n)                                                                                                               \
    do {                                                                                                                         \
        enum x86_decode_result need_ = need(d, n);                                                                               \
        if (need_ != X86_DEC_OK)                                                                                                 \
            return need_;                                                                                                        \
    } while (0)

static uint64_t take(struct dec *d, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)d->bytes[d->pos + i] << (8 * i);
    d->pos += n;
    return v;
}

static int64_t sign_extend(uint64_t v, unsigned bytes)
{
    unsigned s = 64 - 8 * bytes;
    return (int64_t)(v << s) >> s;
}

/* --- prefixes --------------------------------------------------------- */

static enum x86_decode_result prefixes(struct dec *d)
{
    struct x86_insn *in = d->in;
    for (;;) {
        NEED(d, 1);
        uint8_t b = d->bytes[d->pos];
        switch (b) {
        case 0x26: case 0x2e: case 0x36: case 0x3e:
            /* In 64-bit mode these do nothing, not even cancel FS or GS. */
            if (d->mode != X86_MODE_64)
                in->seg_override = (b >> 3) & 3;
            break;
        case 0x64: in->seg_override = X86_FS; break;
        case 0x65: in->seg_override = X86_GS; break;
        case 0x66: d->opsz = true; break;
        case 0x67: d->adsz = true; break;
        case 0xf0: d->lock = true; break;
        case 0xf2: case 0xf3: d->rep = b; break;
        default:
            if (d->mode == X86_MODE_64 && (b & 0xf0) == 0x40) {
                in->rex = b; /* counts only directly before the opcode */
                d->pos++;
                continue;
            }
            return X86_DEC_OK;
        }
        in->rex = 0;
        d->pos++;
    }
}

/* C4/C5, known to be VEX; SDM Vol. 2A, 2.3.5. */
static enum x86_decode_result vex_prefix(struct dec *d, unsigned *map, unsigned *pfx)
{
    static const uint8_t slot[4] = {SLOT_PFX_NONE, SLOT_PFX_66, SLOT_PFX_F3, SLOT_PFX_F2};
    struct x86_insn *in = d->in;
    d->illegal = d->lock || d->opsz || d->rep || in->rex;
    bool three = d->bytes[d->pos] == 0xc4;
    NEED(d, 2);
    if (three) {
        *map = d->bytes[d->pos + 1] & 7;
        d->illegal |= (d->bytes[d->pos + 1] & 0x18) != 0; /* reserved, yet the length is that of the map below */
        if (*map < 1 || *map > 3) {
            d->pos += 2;
            return X86_DEC_UD;
        }
        NEED(d, 3);
    } else {
        *map = 1;
    }
    d->pos++;
    uint8_t b1 = d->bytes[d->pos++], last = b1, rxb = ~b1 >> 5 & 4;
    if (three) {
        last = d->bytes[d->pos++];
        rxb = ~b1 >> 5 & 7;
        rxb |= last >> 4 & 8;
    }
    /* Outside 64-bit mode there are eight registers: B and the top of vvvv do not count. */
    if (d->mode != X86_MODE_64)
        rxb &= 8;
    in->rex = rxb;
    in->vex = three ? 3 : 2;
    in->vexl = last >> 2 & 1;
    d->vvvv = ~last >> 3 & 15;
    d->bad_vvvv = d->vvvv != 0;
    if (d->mode != X86_MODE_64)
        d->vvvv &= 7;
    *pfx = slot[last & 3];
    return X86_DEC_OK;
}

/* --- choosing the row -------------------------------------------------- */

static bool bit_fits(uint8_t want, bool have, bool mode64)
{
    switch (want) {
    case X86_BIT_0: return !have;
    case X86_BIT_1: return have;
    case X86_BIT_0_64: return !(have && mode64);
    case X86_BIT_1_64: return have && mode64;
    default: return true;
    }
}

static bool feature_on(const uint64_t *f, unsigned n) { return f[n / 64] >> (n % 64) & 1; }

static bool presented(const struct x86_isa_row *r, const uint64_t *features)
{
    return !features || ((r->feature == X86_FEAT_BASE || feature_on(features, r->feature)) &&
                         (!(r->attr & X86_ATTR_AVX) || feature_on(features, X86_FEAT_AVX)));
}

static bool row_fits(const struct dec *d, const struct x86_isa_row *r)
{
    const struct x86_insn *in = d->in;
    bool mode64 = d->mode == X86_MODE_64;
    if (r->attr & (mode64 ? X86_ATTR_NO64 : X86_ATTR_ONLY64))
        return false;
    if ((r->mod == X86_MOD_MEM && in->modrm >= 0xc0) || (r->mod == X86_MOD_REG && in->modrm < 0xc0))
        return false;
    if ((r->digit >= 0 && r->digit != (in->modrm >> 3 & 7)) || (r->rm >= 0 && r->rm != (in->modrm & 7)))
        return false;
    if (r->b0 && (in->rex & 1))
        return false;
    return bit_fits(r->w, in->rex & 8, mode64) && bit_fits(r->l, in->vexl, mode64);
}

/* The first row that fits and is presented; else the first that fits, to be refused once decoded; else NULL. */
static const struct x86_isa_row *choose_row(const struct dec *d, struct x86_rows rows, const uint64_t *features)
{
    const struct x86_isa_row *hidden = NULL;
    for (unsigned i = 0; i < rows.n; i++) {
        const struct x86_isa_row *r = &x86_isa[rows.row[i]];
        if (!row_fits(d, r))
            continue;
        if (presented(r, features))
            return r;
        if (!hidden)
            hidden = r;
    }
    return hidden;
}

/* --- operands ---------------------------------------------------------- */

static void set_sizes(struct dec *d)
{
    struct x86_insn *in = d->in;
    const struct x86_isa_row *r = d->row;
    bool mode64 = d->mode == X86_MODE_64;
    /* As a mandatory prefix 66 does not change the operand size. */
    bool opsz = d->opsz && r->pfx != X86_PFX_66;
    if (mode64) {
        if (r->attr & X86_ATTR_F64)
            in->opsize = 8;
        else if (in->rex & 8)
            in->opsize = 8;
        else if (opsz)
            in->opsize = 2;
        else
            in->opsize = r->attr & X86_ATTR_D64 ? 8 : 4;
    } else {
        in->opsize = (d->mode == X86_MODE_32) != opsz ? 4 : 2;
    }
    in->stacksize = in->opsize;
}

static unsigned type_size(const struct dec *d, const struct x86_isa_opnd *o)
{
    const struct x86_insn *in = d->in;
    bool mode64 = d->mode == X86_MODE_64;
    unsigned x = in->vexl ? 32 : 16;
    switch (o->type) {
    case 'v': return in->opsize;
    case 'z': return in->opsize == 2 ? 2 : 4;
    case 'y': return mode64 && (in->rex & 8) ? 8 : 4;
    case 'r': return mode64 ? 8 : 4;
    case 'g': return in->addrsize;
    case 'p': return in->opsize + 2;
    case 'a': return 2 * in->opsize;
    case 's': return mode64 ? 10 : 6;
    case 'x': return x;
    case 'h': return x / 2;
    case 'l': return x / 4;
    case 'e': return x / 8;
    case 'f': return in->opsize == 2 ? 14 : 28;
    case 'k': return in->opsize == 2 ? 94 : 108;
    default: return o->size;
    }
}

static void set_gpr(const struct dec *d, struct x86_operand *op, unsigned reg)
{
    op->kind = X86_OPND_GPR;
    op->reg = reg;
    /* Without REX the byte registers 4-7 are AH CH DH BH; VEX forms have none. */
    if (op->size == 1 && reg >= 4 && reg < 8 && !(d->in->rex & 0x40)) {
        op->kind = X86_OPND_GPR8H;
        op->reg = reg - 4;
    }
}

static uint8_t data_seg(const struct x86_insn *in, uint8_t dflt)
{
    return in->seg_override != X86_SEG_NONE ? in->seg_override : dflt;
}

static void set_mem(struct x86_insn *in, uint8_t seg, uint8_t base)
{
    in->mem = (struct x86_memref){.seg = seg, .base = base, .index = X86_REG_NONE, .scale = 1};
}

/* ModRM 16-bit addressing; SDM Vol. 2A, table 2-1. */
static enum x86_decode_result mem16(struct dec *d)
{
    static const uint8_t base[8] = {X86_RBX, X86_RBX, X86_RBP, X86_RBP, X86_RSI, X86_RDI, X86_RBP, X86_RBX};
    static const uint8_t index[8] = {X86_RSI, X86_RDI, X86_RSI, X86_RDI, X86_REG_NONE, X86_REG_NONE, X86_REG_NONE, X86_REG_NONE};
    struct x86_insn *in = d->in;
    unsigned mod = in->modrm >> 6, rm = in->modrm & 7, n = mod == 1 ? 1 : mod == 2 ? 2 : 0;
    uint8_t b = base[rm];
    if (mod == 0 && rm == 6) {
        b = X86_REG_NONE;
        n = 2;
    }
    set_mem(in, data_seg(in, b == X86_RBP ? X86_SS : X86_DS), b);
    in->mem.index = index[rm];
    NEED(d, n);
    if (n)
        in->mem.disp = sign_extend(take(d, n), n);
    return X86_DEC_OK;
}

/* ModRM and SIB 32- and 64-bit addressing; SDM Vol. 2A, tables 2-2 and 2-3. */
static enum x86_decode_result mem32(struct dec *d, bool vsib)
{
    struct x86_insn *in = d->in;
    unsigned mod = in->modrm >> 6, rm = in->modrm & 7, n = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    uint8_t base = rm | (in->rex & 1) << 3, index = X86_REG_NONE, scale = 1;
    if (rm == 4) {
        NEED(d, 1);
        uint8_t sib = (uint8_t)take(d, 1);
        base = (sib & 7) | (in->rex & 1) << 3;
        index = (sib >> 3 & 7) | (in->rex & 2) << 2;
        scale = 1 << (sib >> 6);
        if (index == X86_RSP && !vsib) {
            index = X86_REG_NONE;
            scale = 1;
        }
        if ((sib & 7) == 5 && mod == 0) {
            base = X86_REG_NONE;
            n = 4;
        }
    } else if (rm == 5 && mod == 0) {
        base = d->mode == X86_MODE_64 ? X86_REG_RIP : X86_REG_NONE;
        n = 4;
    }
    set_mem(in, data_seg(in, base == X86_RSP || base == X86_RBP ? X86_SS : X86_DS), base);
    in->mem.index = index;
    in->mem.scale = scale;
    NEED(d, n);
    if (n)
        in->mem.disp = sign_extend(take(d, n), n);
    return X86_DEC_OK;
}

static enum x86_decode_result modrm_mem(struct dec *d)
{
    bool vsib = false;
    for (unsigned i = 0; d->row && i < d->row->nopnd; i++)
        vsib |= d->row->opnd[i].method == 'm';
    if (vsib && (d->in->addrsize == 2 || (d->in->modrm & 7) != 4))
        d->illegal = true; /* vector indices are in the SIB byte */
    return d->in->addrsize == 2 ? mem16(d) : mem32(d, vsib);
}

/* Fetch an immediate of n bytes; the first goes to imm, a second to imm2. */
static enum x86_decode_result immediate(struct dec *d, struct x86_operand *op, unsigned n, bool sext, bool second)
{
    NEED(d, n);
    uint64_t v = take(d, n);
    int64_t s = sext ? sign_extend(v, n) : (int64_t)v;
    *(second ? &d->in->imm2 : &d->in->imm) = s;
    op->kind = second ? X86_OPND_IMM2 : X86_OPND_IMM;
    op->size = n;
    return X86_DEC_OK;
}

static enum x86_decode_result operand(struct dec *d, const struct x86_isa_opnd *o, struct x86_operand *op, unsigned *nimm)
{
    struct x86_insn *in = d->in;
    unsigned reg = (in->modrm >> 3 & 7) | (in->rex & 4) << 1;
    unsigned rm = (in->modrm & 7) | (in->rex & 1) << 3;
    bool is_mem = in->modrm < 0xc0 && d->row->mod != X86_MOD_IGNORED;
    enum x86_decode_result res;

    op->access = o->access;
    op->implicit = o->implicit;
    op->size = type_size(d, o);
    switch (o->method) {
    case 'G': set_gpr(d, op, reg); break;
    case 'E': case 'R':
        if (is_mem)
            op->kind = X86_OPND_MEM;
        else
            set_gpr(d, op, rm);
        break;
    case 'B':
        set_gpr(d, op, d->vvvv);
        d->bad_vvvv = false;
        break;
    case 'M': op->kind = X86_OPND_MEM; break;
    case 'm':
        op->kind = X86_OPND_MEM;
        break;
    case 'r':
        op->kind = X86_OPND_GPR;
        op->reg = o->reg;
        break;
    case 'h': op->kind = X86_OPND_GPR8H; break;
    case 'Z': {
        unsigned r = (in->opcode & 7) | (in->rex & 1) << 3;
        set_gpr(d, op, r);
        break;
    }
    case 's':
        op->kind = X86_OPND_SEG;
        op->reg = o->reg;
        break;
    case 'S':
        op->kind = X86_OPND_SEG;
        op->reg = in->modrm >> 3 & 7;
        if (op->reg > X86_GS || (op->reg == X86_CS && (o->access & X86_ACC_W)))
            return X86_DEC_UD;
        break;
    case 'C':
        op->kind = X86_OPND_CR;
        op->reg = reg;
        if (!(0x11d >> reg & 1)) /* CR0 CR2 CR3 CR4 CR8 */
            return X86_DEC_UD;
        break;
    case 'D':
        op->kind = X86_OPND_DR;
        op->reg = reg;
        if (reg > 7)
            return X86_DEC_UD;
        break;
    case 'P':
        op->kind = X86_OPND_MM;
        op->reg = reg & 7;
        break;
    case 'Q': case 'N':
        op->kind = is_mem ? X86_OPND_MEM : X86_OPND_MM;
        if (!is_mem) {
            op->reg = rm & 7;
            op->size = 8;
        }
        break;
    case 'V':
        op->kind = X86_OPND_VEC;
        op->reg = reg;
        break;
    case 'W': case 'U':
        op->kind = is_mem ? X86_OPND_MEM : X86_OPND_VEC;
        op->reg = is_mem ? 0 : rm;
        break;
    case 'H':
        op->kind = X86_OPND_VEC;
        op->reg = d->vvvv;
        d->bad_vvvv = false;
        break;
    case 'L': /* the register in an immediate's high nibble */
        in->imm_off = d->pos;
        res = immediate(d, op, 1, false, false);
        if (res != X86_DEC_OK)
            return res;
        op->kind = X86_OPND_VEC;
        op->size = in->vexl ? 32 : 16;
        op->reg = in->imm >> 4 & (d->mode == X86_MODE_64 ? 15 : 7);
        break;
    case 'x': op->kind = X86_OPND_VEC; break;
    case 't': op->kind = X86_OPND_ST; break;
    case 'T':
        op->kind = X86_OPND_ST;
        op->reg = in->modrm & 7;
        break;
    case '1': op->kind = X86_OPND_ONE; break;
    case 'X':
        op->kind = X86_OPND_MEM;
        op->reg = X86_RSI;
        set_mem(in, data_seg(in, X86_DS), X86_RSI);
        break;
    case 'Y':
        op->kind = X86_OPND_MEM;
        op->reg = X86_RDI;
        if (in->mem.base != X86_RSI)
            set_mem(in, X86_ES, X86_RDI);
        break;
    case 'K':
        op->kind = X86_OPND_MEM;
        op->reg = o->reg;
        set_mem(in, data_seg(in, X86_DS), o->reg);
        break;
    case 'O':
        op->kind = X86_OPND_MEM;
        NEED(d, in->addrsize);
        set_mem(in, data_seg(in, X86_DS), X86_REG_NONE);
        in->mem.disp = (int64_t)take(d, in->addrsize);
        break;
    case 'I': {
        bool second = (*nimm)++;
        if (!second)
            in->imm_off = d->pos;
        return immediate(d, op, op->size, o->sext, second);
    }
    case 'J':
        in->imm_off = d->pos;
        (*nimm)++;
        res = immediate(d, op, op->size, true, false);
        op->kind = X86_OPND_REL;
        return res;
    case 'A':
        in->imm_off = d->pos;
        (*nimm)++;
        NEED(d, in->opsize + 2u);
        in->imm = (int64_t)take(d, in->opsize);
        in->imm2 = (int64_t)take(d, 2);
        op->kind = X86_OPND_FAR;
        break;
    }
    return X86_DEC_OK;
}

/* Vector gathers need three different registers (SDM Vol. 2C, VGATHERDPS). */
static bool gather_overlap(const struct dec *d)
{
    const struct x86_insn *in = d->in;
    const struct x86_isa_row *r = d->row;
    if (r->nopnd != 3 || r->opnd[1].method != 'm')
        return false;
    return in->opnd[0].reg == in->opnd[2].reg || in->opnd[0].reg == in->mem.index || in->opnd[2].reg == in->mem.index;
}

static enum x86_decode_result operands(struct dec *d)
{
    struct x86_insn *in = d->in;
    const struct x86_isa_row *r = d->row;
    enum x86_decode_result res = X86_DEC_OK;
    unsigned nimm = 0;

    if (r->modrm && in->modrm < 0xc0 && r->mod != X86_MOD_IGNORED) {
        res = modrm_mem(d);
        if (res != X86_DEC_OK)
            return res;
    }
    in->nopnd = r->nopnd;
    for (unsigned i = 0; i < r->nopnd; i++) {
        res = operand(d, &r->opnd[i], &in->opnd[i], &nimm);
        if (res == X86_DEC_UD)
            d->illegal = true;
        else if (res != X86_DEC_OK)
            return res;
    }
    if (d->bad_vvvv || gather_overlap(d))
        d->illegal = true;
    return X86_DEC_OK;
}

/* --- undefined opcodes ------------------------------------------------- */

/*
 * An encoding without a row is #UD, but the processor has fetched all of it by
 * then: the length is a function of map and opcode even where nothing is
 * defined. No manual says so; Intel processors can be asked, by placing the
 * bytes at the end of a page and watching for the page fault.
 */
static enum x86_decode_result undefined(struct dec *d)
{
    /* Opcodes 0F xx without ModRM. */
    static const uint16_t plain0f[16] = {0xdff0, 0, 0x00f0, 0xffff, 0, 0, 0, 0x0080, 0xffff, 0, 0x0707, 0, 0xff00, 0, 0, 0};
    struct x86_insn *in = d->in;
    uint8_t op = in->opcode;
    unsigned imm = 0, z = d->opsz && !(in->rex & 8) && !in->vex ? 2 : 4;
    bool modrm = false;
    if (d->mode == X86_MODE_16)
        z ^= 6;
    switch (in->map) {
    case 0:
        modrm = in->has_modrm || op == 0x82;
        if (op == 0x82 || op == 0xc6 || op == 0xd4 || op == 0xd5)
            imm = 1;
        else if (op == 0xc7)
            imm = z;
        else if (op == 0x9a || op == 0xea)
            imm = z + 2;
        break;
    case 1:
        if (!in->vex && (op == 0x39 || op >= 0x3b) && op < 0x40) {
            /* Escapes to maps that never were, in the manner of 0F 38 and 0F 3A. */
            NEED(d, 1);
            d->pos++;
            modrm = true;
            imm = op == 0x3b || op >= 0x3e;
            break;
        }
        modrm = !(plain0f[op >> 4] >> (op & 15) & 1);
        if ((op & 0xfc) == 0x70 || op == 0xa4 || op == 0xac || op == 0xba || op == 0xc2 || (op >= 0xc4 && op <= 0xc6))
            imm = 1;
        else if ((op & 0xf0) == 0x80)
            imm = d->mode == X86_MODE_64 ? 4 : z;
        break;
    default:
        modrm = true;
        imm = in->map == 3;
        break;
    }
    if (modrm && !in->has_modrm) {
        NEED(d, 1);
        in->modrm = d->bytes[d->pos++];
    }
    bool mov_cr = in->map == 1 && (op & 0xfc) == 0x20;
    if (modrm && in->modrm < 0xc0 && !mov_cr) {
        enum x86_decode_result res = modrm_mem(d);
        if (res != X86_DEC_OK)
            return res;
    }
    NEED(d, imm);
    d->pos += imm;
    return X86_DEC_UD;
}

/* --- the whole instruction ------------------------------------------- */

static enum x86_decode_result decode(struct dec *d, bool v86_or_real, const uint64_t *features)
{
    struct x86_insn *in = d->in;
    bool mode64 = d->mode == X86_MODE_64;
    unsigned map = 0, pfx;
    enum x86_decode_result res = prefixes(d);
    if (res != X86_DEC_OK)
        return res;
    if (mode64)
        in->addrsize = d->adsz ? 4 : 8;
    else
        in->addrsize = (d->mode == X86_MODE_32) != d->adsz ? 4 : 2;
    pfx = d->rep == 0xf3 ? SLOT_PFX_F3 : d->rep == 0xf2 ? SLOT_PFX_F2 : d->opsz ? SLOT_PFX_66 : SLOT_PFX_NONE;

    uint8_t b = d->bytes[d->pos];
    if ((b & 0xfe) == 0xc4) {
        /* VEX in 64-bit mode; elsewhere only where LES/LDS would have a register operand. */
        NEED(d, 2);
        if (mode64 || d->bytes[d->pos + 1] >= 0xc0) {
            if (v86_or_real) {
                d->pos += 2;
                return X86_DEC_UD;
            }
            res = vex_prefix(d, &map, &pfx);
            if (res != X86_DEC_OK)
                return res;
        }
    } else if (b == 0x0f) {
        d->pos++;
        NEED(d, 1);
        map = 1;
        b = d->bytes[d->pos];
        if (b == 0x38 || b == 0x3a) {
            d->pos++;
            map = b == 0x38 ? 2 : 3;
        }
    }
    NEED(d, 1);
    in->opcode_off = d->pos;
    in->opcode = d->bytes[d->pos++];
    in->map = map;

    enum x86_lookup found = x86_rows_probe(in->vex, map, in->opcode, pfx, mode64);
    if (found == X86_LOOKUP_NONE)
        return undefined(d);
    if (found == X86_LOOKUP_MODRM) {
        NEED(d, 1);
        in->has_modrm = 1;
        in->modrm_off = d->pos;
        in->modrm = d->bytes[d->pos++];
    }
    const struct x86_isa_row *r = choose_row(d, x86_rows_get(in->vex, map, in->opcode, pfx, in->modrm >> 3 & 7), features);
    if (!r)
        return undefined(d);
    d->row = r;
    in->op = r->op;
    in->row = r - x86_isa;
    static const uint8_t pfx_byte[] = {0, 0, 0x66, 0xf3, 0xf2, 0};
    in->pfx = pfx_byte[r->pfx];
    if (r->attr & X86_ATTR_STRING)
        in->rep = d->rep;
    set_sizes(d);
    res = operands(d);
    if (res != X86_DEC_OK)
        return res;
    if (d->lock) {
        if (!(r->attr & X86_ATTR_LOCKABLE) || in->opnd[0].kind != X86_OPND_MEM)
            return X86_DEC_UD;
        in->lock = 1;
    }
    if (d->illegal)
        return X86_DEC_UD;
    if (v86_or_real && (in->vex || (r->attr & X86_ATTR_PE_ONLY)))
        return X86_DEC_UD;
    return presented(r, features) ? X86_DEC_OK : X86_DEC_UD;
}

enum x86_decode_result x86_decode(struct x86_insn *in, const uint8_t *bytes, unsigned avail, enum x86_mode_bits mode,
                                  bool v86_or_real, const uint64_t *features)
{
    struct dec d = {.in = in, .bytes = bytes, .avail = avail, .mode = mode};
    memset(in, 0, sizeof(*in));
    in->seg_override = X86_SEG_NONE;
    enum x86_decode_result res = decode(&d, v86_or_real, features);
    in->len = d.pos;
    if (!in->imm_off)
        in->imm_off = d.pos;
    if (d.pos <= X86_MAX_INSN)
        memcpy(in->bytes, bytes, d.pos);
    return res;
}
