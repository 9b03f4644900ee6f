/*
 * Integer executors: moves, conditions, single flags, stack, hints and fences.
 */
#include "x86/exec_int.h"

EXEC(mov)
{
    uint64_t v;
    int r = x86_opnd_read(c, in, 1, &v);

    return r ? r : x86_opnd_write(c, in, 0, v);
}

EXEC(movsx)
{
    uint64_t v;
    int r = x86_opnd_read(c, in, 1, &v);

    if (r)
        return r;
    switch (in->opnd[1].size) {
    case 1: v = (uint64_t)(int8_t)v; break;
    case 2: v = (uint64_t)(int16_t)v; break;
    default: v = (uint64_t)(int32_t)v; break;
    }
    return x86_opnd_write(c, in, 0, v);
}

EXEC(movbe)
{
    uint64_t v;
    int r = x86_opnd_read(c, in, 1, &v);

    if (r)
        return r;
    v = in->opsize == 8 ? __builtin_bswap64(v) : in->opsize == 4 ? __builtin_bswap32((uint32_t)v) : __builtin_bswap16((uint16_t)v);
    return x86_opnd_write(c, in, 0, v);
}

/* 64 bytes from the memory operand to ES:[register], whose address must be a multiple of 64. */
EXEC(movdir64b)
{
    uint64_t buf[8], off = c->gpr[in->opnd[0].reg & 15], src, dst;
    int r;

    off = in->addrsize == 8 ? off : in->addrsize == 4 ? (uint32_t)off : (uint16_t)off;
    if ((r = x86_mem_lin(c, in, 64, X86_READ, &src)) || (r = x86_seg_lin(c, X86_ES, off, 64, X86_WRITE, 1, &dst)))
        return r;
    if (dst & 63)
        return x86_raise_err(c, X86_GP, 0);
    if ((r = x86_lin_read(c, src, buf, 64)) || (r = x86_lin_write(c, dst, buf, 64)))
        return r;
    if (x86_watching(c)) {
        x86_debug_data(c, src, 64, false);
        x86_debug_data(c, dst, 64, true);
    }
    return X86_OK;
}

EXEC(lea) { return x86_opnd_write(c, in, 0, x86_ea(c, in)); }

EXEC(bswap)
{
    const unsigned reg = in->opnd[0].reg & 15;
    uint64_t v = c->gpr[reg];

    if (in->opnd[0].size == 8)
        v = __builtin_bswap64(v);
    else if (in->opnd[0].size == 4)
        v = __builtin_bswap32((uint32_t)v);
    else /* undefined; the host's way: bswap %ax */
        __asm__(".byte 0x66, 0x0f, 0xc8" : "+a"(v));
    c->gpr[reg] = v;
    return X86_OK;
}

EXEC(xlat)
{
    const unsigned seg = in->seg_override != X86_SEG_NONE ? in->seg_override : X86_DS;
    uint64_t off = c->gpr[X86_RBX] + (uint8_t)c->gpr[X86_RAX], lin;
    uint8_t v;
    int r;

    off = in->addrsize == 8 ? off : in->addrsize == 4 ? (uint32_t)off : (uint16_t)off;
    if ((r = x86_seg_lin(c, seg, off, 1, X86_READ, 1, &lin)) || (r = x86_lin_read(c, lin, &v, 1)))
        return r;
    if (x86_watching(c))
        x86_debug_data(c, lin, 1, false);
    x86_reg_write(c, X86_RAX, 1, v);
    return X86_OK;
}

EXEC(salc)
{
    x86_reg_write(c, X86_RAX, 1, c->cc_lo & X86_FL_CF ? 0xff : 0);
    return X86_OK;
}

EXEC(lahf)
{
    c->gpr[X86_RAX] = (c->gpr[X86_RAX] & ~0xff00ull) | (uint64_t)((c->cc_lo & 0xd5) | X86_FL_1) << 8;
    return X86_OK;
}
EXEC(sahf)
{
    c->cc_lo = (uint8_t)(c->gpr[X86_RAX] >> 8) & 0xd5;
    return X86_OK;
}

EXEC(clc) { c->cc_lo &= (uint8_t)~X86_FL_CF; return X86_OK; }
EXEC(stc) { c->cc_lo |= X86_FL_CF; return X86_OK; }
EXEC(cmc) { c->cc_lo ^= X86_FL_CF; return X86_OK; }
EXEC(cld) { c->fl_sys &= ~(uint32_t)X86_FL_DF; return X86_OK; }
EXEC(std) { c->fl_sys |= X86_FL_DF; return X86_OK; }

EXEC(nop) { return X86_OK; }
EXEC(lfence) { __asm__ volatile("lfence" : : : "memory"); return X86_OK; }
EXEC(mfence) { __asm__ volatile("mfence" : : : "memory"); return X86_OK; }
EXEC(sfence) { __asm__ volatile("sfence" : : : "memory"); return X86_OK; }
EXEC(ud) { return x86_raise(c, X86_UD); }

/* Both bounds are read whatever the first says; signed compare. */
/* The bounds are two accesses: below the first, the second is not read. */
EXEC(bound)
{
    const unsigned size = in->opsize;
    const uint32_t mask = in->addrsize == 2 ? 0xffff : 0xffffffff;
    uint64_t v, lin;
    int r;

    x86_opnd_read(c, in, 0, &v);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t b = 0;
        int64_t x, bound;

        if ((r = x86_seg_lin(c, in->mem.seg, (x86_ea(c, in) + i * size) & mask, size, X86_READ, size, &lin)) ||
            (r = x86_lin_read(c, lin, &b, size)))
            return r;
        if (x86_watching(c))
            x86_debug_data(c, lin, size, false);
        x = size == 2 ? (int16_t)v : (int32_t)v;
        bound = size == 2 ? (int16_t)b : (int32_t)b;
        if (i ? x > bound : x < bound)
            return x86_raise(c, X86_BR);
    }
    return X86_OK;
}

/* The source is read, and a 32-bit destination zero-extended, whether or not the condition holds. */
EXEC(cmov)
{
    uint64_t v, old;
    int r = x86_opnd_read(c, in, 1, &v);

    if (r)
        return r;
    x86_opnd_read(c, in, 0, &old);
    return x86_opnd_write(c, in, 0, x86_cond(c, in->opcode & 15) ? v : old);
}

EXEC(setcc) { return x86_opnd_write(c, in, 0, x86_cond(c, in->opcode & 15)); }

/* --- stack ------------------------------------------------------------------ */

EXEC(push)
{
    uint64_t v;
    int r = x86_opnd_read(c, in, x86_explicit(in, 0), &v);

    return r ? r : x86_push(c, in->stacksize, v);
}

/* The pointer has moved when a memory destination's address is computed; a register destination RSP gets the value. */
EXEC(pop)
{
    const unsigned i = x86_explicit(in, 0);
    const uint64_t sp = c->gpr[X86_RSP];
    uint64_t v;
    int r = x86_pop(c, in->stacksize, &v);

    if (r)
        return r;
    r = x86_opnd_write(c, in, i, v);
    if (r)
        c->gpr[X86_RSP] = sp;
    return r;
}

EXEC(pusha)
{
    const uint64_t sp = c->gpr[X86_RSP];

    for (unsigned i = X86_RAX; i <= X86_RDI; i++) {
        int r = x86_push(c, in->opsize, i == X86_RSP ? sp : c->gpr[i]);

        if (r) {
            c->gpr[X86_RSP] = sp;
            return r;
        }
    }
    return X86_OK;
}

EXEC(popa)
{
    const uint64_t sp = c->gpr[X86_RSP];
    uint64_t v[8];

    for (unsigned i = X86_RDI + 1; i-- > X86_RAX;) {
        int r = x86_pop(c, in->opsize, &v[i]);

        if (r) {
            c->gpr[X86_RSP] = sp;
            return r;
        }
    }
    for (unsigned i = X86_RAX; i <= X86_RDI; i++)
        if (i != X86_RSP)
            x86_reg_write(c, i, in->opsize, v[i]);
    return X86_OK;
}

static unsigned stack_width(const struct x86_cpu *c)
{
    return c->mode == X86_MODE_64 ? 8 : c->seg[X86_SS].ar & X86_AR_DB ? 4 : 2;
}

EXEC(enter)
{
    const unsigned size = in->stacksize, w = stack_width(c), level = (unsigned)in->imm2 & 31;
    const uint64_t sp = c->gpr[X86_RSP], wmask = w == 8 ? ~0ull : w == 4 ? 0xffffffffull : 0xffff;
    uint64_t bp = c->gpr[X86_RBP], frame, lin, v;
    int r = x86_push(c, size, bp);

    if (r)
        return r;
    frame = c->gpr[X86_RSP];
    for (unsigned i = 1; i < level; i++) {
        bp = (bp & ~wmask) | ((bp - size) & wmask);
        v = 0;
        r = x86_seg_lin(c, X86_SS, bp & wmask, size, X86_READ, size, &lin);
        if (!r)
            r = x86_lin_read(c, lin, &v, size);
        if (!r)
            r = x86_push(c, size, v);
        if (r)
            goto undo;
    }
    if (level && (r = x86_push(c, size, frame)))
        goto undo;
    v = (c->gpr[X86_RSP] - (uint16_t)in->imm) & wmask;
    /* "#PF if a write access to the final stack pointer would": nothing is written there. */
    r = x86_seg_lin(c, X86_SS, v, 1, X86_WRITE, 1, &lin);
    if (!r)
        r = x86_lin_probe(c, lin, 1, X86_WRITE);
    if (r)
        goto undo;
    x86_reg_write(c, X86_RSP, w, v);
    x86_reg_write(c, X86_RBP, size, frame);
    return X86_OK;
undo:
    c->gpr[X86_RSP] = sp;
    return r;
}

EXEC(leave)
{
    const uint64_t sp = c->gpr[X86_RSP];
    uint64_t v;
    int r;

    x86_reg_write(c, X86_RSP, stack_width(c), c->gpr[X86_RBP]);
    if ((r = x86_pop(c, in->stacksize, &v))) {
        c->gpr[X86_RSP] = sp;
        return r;
    }
    x86_reg_write(c, X86_RBP, in->stacksize, v);
    return X86_OK;
}
