/*
 * Random sequences of 64-bit instructions that can run in the middle of the host process: every address, every
 * return and every jump is known while the sequence is made, whatever the instructions before it compute. So memory operands are preceded by
 * moves that set their registers, and control flow is nested: what a branch passes, repeats or calls is a
 * sequence itself, and the stack is as deep behind it as before.
 */
#ifndef SEQUENCES_H
#define SEQUENCES_H

#include "host_cpu.h"
#include "native.h"
#include "samples.h"

#define SEQ_CODE CODE_BASE /* two pages */
#define SEQ_CODE_SIZE 0x2000u
#define SEQ_STACK 0x10020000ul /* one page, nothing beside it */
#define SEQ_STACK_SIZE 0x1000u

struct seq {
    uint8_t code[SEQ_CODE_SIZE];
    unsigned start, n;                          /* offsets in code of the first instruction and behind the last byte */
    unsigned depth;                             /* bytes on the stack */
    unsigned reserved;                          /* registers that must keep what they hold, by bit */
    unsigned level;                             /* of nesting */
    unsigned ninsn;
};

struct seq_source {
    struct samples s;
    const uint64_t *features;
    uint16_t *scalar, *vector, *other; /* rows */
    unsigned nscalar, nvector, nother;
};

/* Instructions whose operands or results are not for this: pointers of the x87 unit, whole states, unbounded addresses. */
static bool seq_wants(const struct x86_isa_row *r)
{
    if (r->pg || skip_reason(r) || (r->attr & (X86_ATTR_BRANCH | X86_ATTR_NO64 | X86_ATTR_IO | X86_ATTR_CPL0)))
        return false;
    switch (r->op) {
    case X86_OP_FNSAVE: case X86_OP_FNSTENV: case X86_OP_FRSTOR: case X86_OP_FLDENV: case X86_OP_FXSAVE: case X86_OP_FXSAVE64:
    case X86_OP_FXRSTOR: case X86_OP_FXRSTOR64: case X86_OP_XSAVE: case X86_OP_XSAVE64: case X86_OP_XSAVEC: case X86_OP_XSAVEC64:
    case X86_OP_XSAVEOPT: case X86_OP_XSAVEOPT64: case X86_OP_XRSTOR: case X86_OP_XRSTOR64: case X86_OP_LDMXCSR: case X86_OP_VLDMXCSR:
    case X86_OP_VGATHERDPD: case X86_OP_VGATHERDPS: case X86_OP_VGATHERQPD: case X86_OP_VGATHERQPS: case X86_OP_VPGATHERDD:
    case X86_OP_VPGATHERDQ: case X86_OP_VPGATHERQD: case X86_OP_VPGATHERQQ: case X86_OP_MOVDIR64B: case X86_OP_ENTER: case X86_OP_LEAVE:
    case X86_OP_PUSH: case X86_OP_POP: case X86_OP_PUSHF: case X86_OP_POPF: case X86_OP_UD0: case X86_OP_UD1: case X86_OP_UD2:
        return false;
    default:
        return true;
    }
}

static void seq_source_init(struct seq_source *q, const uint64_t *features)
{
    samples_make(&q->s, X86_MODE_64, features);
    q->features = features;
    q->scalar = calloc(x86_isa_count * 3, sizeof(uint16_t));
    q->vector = q->scalar + x86_isa_count;
    q->other = q->vector + x86_isa_count;
    for (unsigned i = 0; i < x86_isa_count; i++) {
        const struct x86_isa_row *r = &x86_isa[i];

        if (!seq_wants(r) || !(q->s.b[2 * i].n + q->s.b[2 * i + 1].n))
            continue;
        if (r->attr & (X86_ATTR_X87 | X86_ATTR_MMX))
            q->other[q->nother++] = (uint16_t)i;
        else if (r->attr & (X86_ATTR_SSE | X86_ATTR_AVX))
            q->vector[q->nvector++] = (uint16_t)i;
        else
            q->scalar[q->nscalar++] = (uint16_t)i;
    }
}

static void seq_source_free(struct seq_source *q)
{
    free(q->s.b);
    free(q->scalar);
}

/* --- bytes ----------------------------------------------------------------------------------- */

static void put_bytes(struct seq *s, const void *p, unsigned n)
{
    memcpy(s->code + s->n, p, n);
    s->n += n;
}
#define BYTES(s, ...) put_bytes(s, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void put_imm32(struct seq *s, uint32_t v) { put_bytes(s, &v, 4); }

static void insn_begins(struct seq *s) { s->ninsn++; }

static void mov_imm(struct seq *s, unsigned reg, uint64_t v)
{
    insn_begins(s);
    if (v >> 32) {
        BYTES(s, (uint8_t)(0x48 | reg >> 3), (uint8_t)(0xb8 | (reg & 7)));
        put_bytes(s, &v, 8);
    } else {
        if (reg >= 8)
            BYTES(s, 0x41);
        BYTES(s, (uint8_t)(0xb8 | (reg & 7)));
        put_imm32(s, (uint32_t)v);
    }
}

/* Everything but RSP and what is reserved. */
static unsigned any_reg(const struct seq *s)
{
    unsigned r;

    do
        r = below(16);
    while (r == X86_RSP || (s->reserved >> r & 1));
    return r;
}

static uint64_t at(const struct seq *s) { return SEQ_CODE + s->n; }
#define SEQ_RSP (SEQ_STACK + SEQ_STACK_SIZE - 0x200) /* at its start */

/* --- one instruction of the table ------------------------------------------------------------- */

static bool touches_reserved(const struct seq *s, const struct x86_insn *in)
{
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct x86_operand *o = &in->opnd[i];
        unsigned reg = o->reg;

        if ((o->kind != X86_OPND_GPR && o->kind != X86_OPND_GPR8H) || !(o->access & X86_ACC_W))
            continue;
        if (reg == X86_RSP && o->kind == X86_OPND_GPR)
            return true;
        if (s->reserved >> reg & 1)
            return true;
    }
    return false;
}

/* Where it reads or writes. safe: without a fault. */
static uint64_t pick_target(unsigned size, bool aligned, bool safe)
{
    const unsigned align = aligned ? (size >= 32 ? 32 : size >= 16 ? 16 : size ? size & -size : 1) : 1, r = below(64);
    uint64_t a = DATA_RW + 0x200 + below(0x1c00);

    if (!safe && r == 0)
        a = DATA_RO + below(0xc00);
    else if (!safe && r == 1)
        a = DATA_END + below(0x400);
    else if (!safe && r == 2)
        a = DATA_END - below(size + 1);
    else if (r < 8)
        a = DATA_RW + 0x1000 - below(size + 1);
    else if (!safe && r == 8)
        a = 0x800000000000ull + (below(0x100) << 12); /* not canonical */
    return a & ~(uint64_t)(align - 1);
}

/* What AMD's processors do otherwise (test_host.c says why): left out, or kept from faulting. */
static bool amd_alien(const struct x86_insn *in, bool memory)
{
    return host_cpu.amd && ((in->op == X86_OP_PAUSE && (in->rex & 1)) || (in->op == X86_OP_NOP && in->map == 1 && in->opcode == 0x0d) ||
                            (memory && x86_isa[in->row].feature == X86_FEAT_SHA));
}

static bool must_not_fault(const struct x86_insn *in)
{
    const struct x86_isa_row *r = &x86_isa[in->row];

    if (in->op == X86_OP_CMPS || in->op == X86_OP_SCAS)
        return in->rep;
    return (r->attr & (X86_ATTR_X87 | X86_ATTR_MMX)) || (in->op == X86_OP_MOVSXD && in->opsize == 2) || in->op == X86_OP_VCVTPS2PH || in->op == X86_OP_CMPXCHG16B || in->op == X86_OP_MASKMOVQ;
}

/* Registers and displacement for in's memory operand. False: cannot be. */
static bool aim_operand(struct seq *s, struct x86_insn *in, uint8_t *b, unsigned size)
{
    const struct x86_memref *m = &in->mem;
    const bool lock = in->lock || in->op == X86_OP_XCHG, safe = must_not_fault(in);
    const bool align = lock || in->op == X86_OP_CMPXCHG16B || ((x86_isa[in->row].attr & (X86_ATTR_SSE | X86_ATTR_AVX | X86_ATTR_MMX)) && below(48));
    uint64_t target = pick_target(size ? size : 8, align, safe), index = 0;

    if (in->addrsize == 4 && target >> 32)
        target = DATA_END + 0x100;
    if (x86_isa[in->row].attr & X86_ATTR_STRING) {
        if (s->reserved & (1 << X86_RSI | 1 << X86_RDI | 1 << X86_RCX))
            return false;
        mov_imm(s, X86_RSI, target);
        mov_imm(s, X86_RDI, pick_target(8, false, safe) & (in->addrsize == 4 ? 0xffffffff : ~0ull));
        mov_imm(s, X86_RCX, (safe ? below(16) : below(96)) + (in->addrsize == 4));
        return true;
    }
    if (!in->has_modrm || in->modrm >= 0xc0) { /* XLAT, MASKMOVDQU, absolute addresses */
        if (m->base < X86_NGPR) {
            if (s->reserved >> m->base & 1 || m->base == X86_RSP)
                return false;
            mov_imm(s, m->base, DATA_RW + 0x400 + below(0x1000));
            return true;
        }
        memcpy(b + in->opcode_off + 1, &target, in->addrsize);
        return true;
    }
    if (m->base == X86_REG_RIP || m->base == X86_REG_NONE) {
        const unsigned off = in->modrm_off + 1u + ((in->modrm & 7) == 4);
        const uint64_t v = m->base == X86_REG_RIP ? target - (at(s) + in->len) : target;

        if (m->index != X86_REG_NONE || target >> 32)
            return false;
        memcpy(b + off, &(uint32_t){(uint32_t)v}, 4);
        return true;
    }
    if (m->base == X86_REG_NONE || m->base >= X86_NGPR || (s->reserved >> m->base & 1))
        return false;
    if (m->base == X86_RSP) { /* below the stack, or what a frame has */
        if ((in->modrm & 0xc0) != 0x40 || m->index != X86_REG_NONE || in->addrsize == 4 || lock)
            return false;
        b[in->modrm_off + 2] = (uint8_t)-(int)(align ? (16 + below(6) * 16) : 16 + below(100));
        return size <= 16 && !align;
    }
    if (m->index < X86_NGPR) {
        if (s->reserved >> m->index & 1 || m->index == X86_RSP)
            return false;
        index = below(4) ? below(64) : (uint64_t)-(int64_t)below(64);
        mov_imm(s, m->index, in->addrsize == 4 && below(2) ? index | rnd() << 32 : index);
    }
    const uint64_t base = target - (uint64_t)m->disp - (m->index < X86_NGPR ? index * m->scale : 0);

    mov_imm(s, m->base, in->addrsize == 4 ? (uint32_t)base | (below(2) ? rnd() << 32 : 0) : base);
    return true;
}

/* One instruction of these rows, with what makes its operands valid in front. */
static void put_row(struct seq *s, const struct seq_source *q, const uint16_t *rows, unsigned nrows)
{
    for (;;) {
        const unsigned row = rows[below(nrows)], mark = s->n, count = s->ninsn;
        const struct bucket *bk = &q->s.b[2 * row + (below(5) < 3)];
        struct x86_insn in;
        uint8_t b[16];
        bool memory = false;
        unsigned size = 0;

        if (!bk->n)
            bk = &q->s.b[2 * row];
        if (!bk->n)
            continue;
        memcpy(b, bk->s[below(bk->n)].bytes, 16);
        if (x86_decode(&in, b, 15, X86_MODE_64, false, q->features) != X86_DEC_OK || touches_reserved(s, &in))
            continue;
        for (unsigned i = 0; i < in.nopnd; i++)
            if (in.opnd[i].kind == X86_OPND_MEM) {
                memory = true;
                size = in.opnd[i].size;
            }
        if (amd_alien(&in, memory))
            continue;
        if (memory && (x86_isa[row].attr & X86_ATTR_BITSTR) && in.opnd[1].kind == X86_OPND_GPR) {
            const unsigned r = in.opnd[1].reg;

            if (r == X86_RSP || (s->reserved >> r & 1) || r == in.mem.base || r == in.mem.index)
                continue;
            mov_imm(s, r, (uint64_t)((int64_t)below(2048) - 1024));
        }
        if (memory && !aim_operand(s, &in, b, size)) {
            s->n = mark;
            s->ninsn = count;
            continue;
        }
        insn_begins(s);
        put_bytes(s, b, in.len);
        return;
    }
}

/* --- control flow ------------------------------------------------------------------------------ */

static void put_block(struct seq *s, const struct seq_source *q, unsigned units);

/* A branch over units; cc: its condition, 16: none. */
static void put_over(struct seq *s, const struct seq_source *q, unsigned cc, unsigned units)
{
    const struct seq keep = *s;
    bool near = below(3) == 0;

    for (;; near = true) {
        const uint64_t state = rng;
        unsigned from;

        insn_begins(s);
        if (!near)
            BYTES(s, (uint8_t)(cc < 16 ? 0x70 | cc : 0xeb), 0);
        else if (cc < 16)
            BYTES(s, 0x0f, (uint8_t)(0x80 | cc), 0, 0, 0, 0);
        else
            BYTES(s, 0xe9, 0, 0, 0, 0);
        from = s->n;
        put_block(s, q, units);
        if (near) {
            memcpy(s->code + from - 4, &(uint32_t){s->n - from}, 4);
            return;
        }
        if (s->n - from < 128) {
            s->code[from - 1] = (uint8_t)(s->n - from);
            return;
        }
        *s = keep; /* too far */
        rng = state;
    }
}

static void put_loop(struct seq *s, const struct seq_source *q)
{
    unsigned r = any_reg(s), top;
    const unsigned old = s->reserved;

    if (below(3) == 0 && !(old >> X86_RCX & 1))
        r = X86_RCX;
    mov_imm(s, r, 2 + below(4));
    s->reserved |= 1u << r;
    top = s->n;
    put_block(s, q, 1 + below(4));
    insn_begins(s);
    if (r == X86_RCX && s->n - top < 120 && below(2)) {
        BYTES(s, 0xe2, (uint8_t)(top - s->n - 2)); /* LOOP */
    } else {
        BYTES(s, (uint8_t)(0x48 | r >> 3), 0xff, (uint8_t)(0xc8 | (r & 7))); /* DEC */
        insn_begins(s);
        BYTES(s, 0x0f, 0x85);
        put_imm32(s, top - (s->n + 4));
    }
    s->reserved = old;
}

/* Call of a function that follows, direct, by a register or through memory; or a jump to it with the return address pushed. */
static void put_call(struct seq *s, const struct seq_source *q)
{
    const unsigned kind = below(4), r = any_reg(s), pop = below(4) == 0 ? 8 * below(4) : 0;
    unsigned from, jump, fix = 0;
    uint64_t slot = DATA_RW + below(0x200);

    for (unsigned i = 0; i < pop; i += 8) {
        insn_begins(s);
        BYTES(s, 0x6a, (uint8_t)rnd());
    }
    s->depth += pop;
    if (kind) { /* LEA r, function */
        insn_begins(s);
        BYTES(s, (uint8_t)(0x48 | (r >> 3) << 2), 0x8d, (uint8_t)(0x05 | (r & 7) << 3), 0, 0, 0, 0);
        fix = s->n;
    }
    insn_begins(s);
    if (kind == 0) {
        BYTES(s, 0xe8, 0, 0, 0, 0);
        fix = s->n;
    } else if (kind == 1 || kind == 3) {
        if (r >= 8)
            BYTES(s, 0x41);
        BYTES(s, 0xff, (uint8_t)(0xd0 | (r & 7)));
    } else {
        BYTES(s, (uint8_t)(0x48 | (r >> 3) << 2), 0x89, (uint8_t)(0x04 | (r & 7) << 3), 0x25);
        put_imm32(s, (uint32_t)slot);
        insn_begins(s);
        BYTES(s, 0xff, 0x14, 0x25);
        put_imm32(s, (uint32_t)slot);
    }
    insn_begins(s);
    BYTES(s, 0xe9, 0, 0, 0, 0);
    jump = s->n;
    for (unsigned i = below(3) ? 0 : below(12); i; i--) /* what is never executed */
        BYTES(s, (uint8_t)rnd());
    from = s->n;
    memcpy(s->code + fix - 4, &(uint32_t){from - fix}, 4);
    s->depth += 8;
    put_block(s, q, 1 + below(4));
    s->depth -= 8;
    insn_begins(s);
    if (pop)
        BYTES(s, 0xc2, (uint8_t)pop, 0);
    else if (below(4) == 0)
        BYTES(s, 0xf3, 0xc3);
    else
        BYTES(s, 0xc3);
    s->depth -= pop;
    memcpy(s->code + jump - 4, &(uint32_t){s->n - jump}, 4);
}

/* JMP by a register or memory, to the next instruction but some. */
static void put_indirect(struct seq *s, const struct seq_source *q)
{
    const unsigned r = any_reg(s);
    unsigned fix;

    insn_begins(s);
    BYTES(s, (uint8_t)(0x48 | (r >> 3) << 2), 0x8d, (uint8_t)(0x05 | (r & 7) << 3), 0, 0, 0, 0);
    fix = s->n;
    insn_begins(s);
    if (below(2)) {
        if (r >= 8)
            BYTES(s, 0x41);
        BYTES(s, 0xff, (uint8_t)(0xe0 | (r & 7)));
    } else { /* PUSH r; RET */
        if (r >= 8)
            BYTES(s, 0x41);
        BYTES(s, (uint8_t)(0x50 | (r & 7)));
        insn_begins(s);
        BYTES(s, 0xc3);
    }
    put_block(s, q, below(3));
    memcpy(s->code + fix - 4, &(uint32_t){s->n - fix}, 4);
}

static void put_push_pop(struct seq *s, const struct seq_source *q)
{
    unsigned r = any_reg(s), bytes = 8;

    insn_begins(s);
    switch (below(7)) {
    case 0: BYTES(s, 0x6a, (uint8_t)rnd()); break;
    case 1:
        BYTES(s, 0x68);
        put_imm32(s, (uint32_t)rnd());
        break;
    case 2: /* memory */
        BYTES(s, 0xff, 0x34, 0x25);
        put_imm32(s, (uint32_t)pick_target(8, false, true));
        break;
    case 3: /* 16 bits */
        bytes = 2;
        BYTES(s, 0x66, (uint8_t)(0x50 | (r & 7)));
        break;
    case 4:
        BYTES(s, 0x54); /* PUSH RSP */
        break;
    default:
        if (r >= 8)
            BYTES(s, 0x41);
        BYTES(s, (uint8_t)(0x50 | (r & 7)));
        break;
    }
    s->depth += bytes;
    put_block(s, q, below(3));
    s->depth -= bytes;
    r = any_reg(s);
    insn_begins(s);
    if (bytes == 2) {
        r &= 7;
        if (r == X86_RSP || s->reserved >> r & 1)
            BYTES(s, 0x66, 0x8f, 0x04, 0x25), put_imm32(s, DATA_RW + 0x40);
        else
            BYTES(s, 0x66, (uint8_t)(0x58 | r));
    } else if (below(4) == 0) {
        BYTES(s, 0x8f, 0x04, 0x25);
        put_imm32(s, (uint32_t)pick_target(8, false, true));
    } else {
        if (r >= 8)
            BYTES(s, 0x41);
        BYTES(s, (uint8_t)(0x58 | (r & 7)));
    }
}

/* PUSHFQ, POPFQ; SUB and ADD RSP; ENTER and LEAVE. */
static void put_frame(struct seq *s, const struct seq_source *q)
{
    const unsigned old = s->reserved, n = 8 * (1 + below(12)), kind = below(4);

    insn_begins(s);
    switch (kind) {
    case 0:
        BYTES(s, 0x9c);
        s->depth += 8;
        put_block(s, q, below(4));
        s->depth -= 8;
        BYTES(s, 0x9d);
        break;
    case 1:
        BYTES(s, 0x48, 0x83, 0xec, (uint8_t)n);
        s->depth += n;
        put_block(s, q, 1 + below(4));
        s->depth -= n;
        BYTES(s, 0x48, 0x83, 0xc4, (uint8_t)n);
        break;
    case 2:
        BYTES(s, 0x48, 0x8d, 0x64, 0x24, (uint8_t)-n); /* LEA RSP, [RSP-n] */
        s->depth += n;
        put_block(s, q, 1 + below(4));
        s->depth -= n;
        BYTES(s, 0x48, 0x8d, 0x64, 0x24, (uint8_t)n);
        break;
    default:
        if (old >> X86_RBP & 1) {
            BYTES(s, 0x90);
            return;
        }
        if (below(2)) {
            BYTES(s, 0xc8, (uint8_t)n, 0, 0); /* ENTER */
        } else {
            BYTES(s, 0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, (uint8_t)n);
            s->ninsn += 2;
        }
        s->depth += n + 8;
        s->reserved |= 1u << X86_RBP;
        put_block(s, q, 1 + below(4));
        s->depth -= n + 8;
        s->reserved = old;
        BYTES(s, 0xc9);
        break;
    }
    insn_begins(s);
}

/* A loop that changes the immediate of its own MOV each time, or a store to an instruction not executed yet. */
static void put_smc(struct seq *s, const struct seq_source *q)
{
    const unsigned r = any_reg(s) & 7, size = below(2) ? 1 : 4;
    unsigned fix, at_imm;

    if (r == X86_RSP || (s->reserved >> r & 1) || (s->reserved & 1))
        return;
    insn_begins(s);
    if (size == 1)
        BYTES(s, 0x88, 0x05, 0, 0, 0, 0); /* MOV [rip+x], AL */
    else
        BYTES(s, 0x01, 0x05, 0, 0, 0, 0); /* ADD [rip+x], EAX */
    fix = s->n;
    put_block(s, q, below(2));
    mov_imm(s, r, (uint32_t)rnd());
    at_imm = s->n - 4;
    memcpy(s->code + fix - 4, &(uint32_t){at_imm - fix}, 4);
}

static void put_fault(struct seq *s)
{
    const unsigned r = any_reg(s);

    insn_begins(s);
    switch (below(5)) {
    case 0: BYTES(s, 0x0f, 0x0b); break;                                                                   /* UD2 */
    case 1: BYTES(s, 0x31, 0xc9, 0xf7, 0xf1); break;                                                       /* XOR ECX, ECX; DIV ECX */
    case 2: BYTES(s, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 8, 0x14, 1, 0x10); break;                               /* CMPXCHG16B, misaligned */
    case 3: BYTES(s, 0xff, 0x24, 0x25), put_imm32(s, (uint32_t)DATA_END + 8); break;                       /* JMP through nothing */
    default: /* a jump to nothing */
        s->ninsn--;
        mov_imm(s, r, DATA_END + 0x1000 + below(0x1000));
        insn_begins(s);
        if (r >= 8)
            BYTES(s, 0x41);
        BYTES(s, 0xff, (uint8_t)((below(2) ? 0xe0 : 0xd0) | (r & 7)));
        break;
    }
}

/* STMXCSR and FSTCW of something valid, LDMXCSR and FLDCW of it. */
static void put_control(struct seq *s)
{
    const uint32_t slot = (uint32_t)(DATA_RW + 0x100 + 8 * below(16));
    const bool x87 = below(3) == 0;
    uint32_t v = x87 ? 0x37f : 0x1f80;

    if (x87 && below(2))
        v = 0x7f | below(4) << 8 | below(4) << 10;
    else if (!x87)
        v ^= (uint32_t)(below(2) ? rnd() & 0xe07f : below(4) ? rnd() & 0x6000 : rnd() & 0x1f80);
    insn_begins(s);
    BYTES(s, 0xc7, 0x04, 0x25);
    put_imm32(s, slot);
    put_imm32(s, v);
    insn_begins(s);
    if (x87)
        BYTES(s, 0xd9, 0x2c, 0x25);
    else
        BYTES(s, 0x0f, 0xae, 0x14, 0x25);
    put_imm32(s, slot);
}

static void put_unit(struct seq *s, const struct seq_source *q)
{
    const unsigned kind = below(100);

    if (s->level > 3 || kind < 44)
        put_row(s, q, q->scalar, q->nscalar);
    else if (kind < 60)
        put_row(s, q, q->vector, q->nvector);
    else if (kind < 64)
        put_row(s, q, q->other, q->nother);
    else if (kind < 74)
        put_over(s, q, below(16), 1 + below(3));
    else if (kind < 76)
        put_over(s, q, 16, below(2));
    else if (kind < 80)
        put_loop(s, q);
    else if (kind < 84)
        put_call(s, q);
    else if (kind < 86)
        put_indirect(s, q);
    else if (kind < 91)
        put_push_pop(s, q);
    else if (kind < 95)
        put_frame(s, q);
    else if (kind < 97)
        put_smc(s, q);
    else if (kind < 99)
        put_control(s);
    else if (below(2))
        put_fault(s);
}

static void put_block(struct seq *s, const struct seq_source *q, unsigned units)
{
    s->level++;
    while (units-- && s->n < SEQ_CODE_SIZE - 600)
        put_unit(s, q);
    s->level--;
}

/* A sequence of some instructions that ends in INT3. */
static void seq_make(struct seq *s, const struct seq_source *q)
{
    memset(s, 0, sizeof(*s));
    memset(s->code, 0xcc, sizeof(s->code));
    s->start = s->n = below(3) ? 0x1000 - below(500) : below(0x800); /* mostly over the page's end */
    put_block(s, q, 4 + below(24));
    s->code[s->n++] = 0xcc;
}

#endif
