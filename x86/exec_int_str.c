/*
 * Integer executors: string instructions.
 *
 * In a nutshell: iterations are done one element at a time through segmentation
 * and paging, registers updated after each, so that a fault finds the exact
 * partial state. When ascending, and source and destination lie in plain RAM, as
 * many elements as fit in the current pages are done at once on host memory. A
 * call does at most BATCH bytes and then returns X86_REPEAT, which is an instruction
 * boundary where interrupts are taken.
 */
#include <string.h>

#include "x86/exec_int.h"

#define BATCH 65536u

/* The state of one execution. */
struct str {
    struct x86_cpu *c;
    const struct x86_insn *in;
    unsigned size;   /* bytes of an element */
    uint64_t mask;   /* address size */
    uint64_t n;      /* iterations left; 1 without REP */
    uint64_t budget; /* iterations that this call may still do */
    int64_t step;
    bool slow;       /* single iterations only */
};

static bool str_begin(struct str *s, struct x86_cpu *c, const struct x86_insn *in)
{
    s->c = c;
    s->in = in;
    s->size = in->opcode & 1 ? in->opsize : 1;
    s->mask = in->addrsize == 8 ? ~0ull : in->addrsize == 4 ? 0xffffffffull : 0xffff;
    s->step = c->fl_sys & X86_FL_DF ? -(int64_t)s->size : (int64_t)s->size;
    s->n = in->rep ? c->gpr[X86_RCX] & s->mask : 1;
    s->slow = x86_watching(c) || (c->fl_sys & X86_FL_TF);
    s->budget = c->fl_sys & X86_FL_TF ? 1 : BATCH / s->size;
    return s->n != 0;
}

/* One or more iterations are done: move the registers. */
static void str_advance(struct str *s, uint64_t done, bool si, bool di)
{
    struct x86_cpu *c = s->c;
    const uint64_t by = (uint64_t)(s->step * (int64_t)done);

    if (si)
        x86_reg_write(c, X86_RSI, s->in->addrsize, c->gpr[X86_RSI] + by);
    if (di)
        x86_reg_write(c, X86_RDI, s->in->addrsize, c->gpr[X86_RDI] + by);
    if (s->in->rep) {
        s->n -= done;
        x86_reg_write(c, X86_RCX, s->in->addrsize, s->n);
    }
    s->budget = s->budget > done ? s->budget - done : 0;
}

static int str_end(const struct str *s) { return s->in->rep && s->n ? X86_REPEAT : X86_OK; }

static unsigned src_seg(const struct str *s) { return s->in->seg_override != X86_SEG_NONE ? s->in->seg_override : X86_DS; }

/* Linear address of the current element through RSI or RDI. */
static int str_lin(const struct str *s, bool di, int access, uint64_t *lin)
{
    const uint64_t off = s->c->gpr[di ? X86_RDI : X86_RSI] & s->mask;

    return x86_seg_lin(s->c, di ? X86_ES : src_seg(s), off, s->size, access, s->size, lin);
}

/* How many elements from the current one on lie in one page of plain RAM, as one ascending run inside the segment;
 * *host is their address. 0: go element by element (also when that is what raises the right fault). */
static uint64_t str_run(const struct str *s, bool di, int access, uint64_t want, uint8_t **host)
{
    struct x86_cpu *c = s->c;
    const uint64_t off = c->gpr[di ? X86_RDI : X86_RSI] & s->mask;
    const struct x86_exc saved = c->exc;
    uint64_t lin, room, n;
    void *h = NULL;

    if (s->slow || s->step < 0)
        return 0;
    if (x86_seg_lin(c, di ? X86_ES : src_seg(s), off, s->size, access, s->size, &lin))
        goto none;
    room = 0x1000 - (lin & 0xfff);
    if (s->mask - off < room) /* wraps inside the page */
        goto none;
    n = room / s->size < want ? room / s->size : want;
    if (n < 2)
        goto none;
    if (c->mode != X86_MODE_64 && x86_seg_lin(c, di ? X86_ES : src_seg(s), off, (uint32_t)n * s->size, access, 1, &lin))
        goto none;
    h = (void *)(access == X86_WRITE ? x86_tlb_host_w(c, lin, 1) : x86_tlb_host_r(c, lin, 1));
    if (!h && x86_lin_host(c, lin, access, &h))
        goto none;
    if (!h)
        return 0;
    *host = h;
    return n;
none:
    c->exc = saved;
    return 0;
}

/* Copy ascending, element by element where the areas overlap so that a pattern propagates as it does on silicon. */
static void copy_up(uint8_t *d, const uint8_t *s, uint64_t bytes, unsigned size)
{
    const uint64_t dist = (uint64_t)(d - s);

    if (dist >= bytes) {
        memmove(d, s, bytes);
        return;
    }
    switch (size) {
    case 1:
        for (uint64_t i = 0; i < bytes; i++)
            *(volatile uint8_t *)(d + i) = *(volatile const uint8_t *)(s + i);
        break;
    case 2:
        for (uint64_t i = 0; i < bytes; i += 2)
            *(volatile x86_u16 *)(d + i) = *(volatile const x86_u16 *)(s + i);
        break;
    case 4:
        for (uint64_t i = 0; i < bytes; i += 4)
            *(volatile x86_u32 *)(d + i) = *(volatile const x86_u32 *)(s + i);
        break;
    default:
        for (uint64_t i = 0; i < bytes; i += 8)
            *(volatile x86_u64 *)(d + i) = *(volatile const x86_u64 *)(s + i);
    }
}

EXEC(movs)
{
    struct str s;
    uint64_t v = 0, a, b, n;
    uint8_t *sp, *dp;
    int r;

    if (!str_begin(&s, c, in))
        return X86_OK;
    do {
        n = s.n < s.budget ? s.n : s.budget;
        if (n > 1 && (n = str_run(&s, false, X86_READ, n, &sp)) && (n = str_run(&s, true, X86_WRITE, n, &dp))) {
            /* The second translation may have displaced the first from the TLB, never the memory behind it. */
            copy_up(dp, sp, n * s.size, s.size);
            str_advance(&s, n, true, true);
            continue;
        }
        if ((r = str_lin(&s, false, X86_READ, &a)) || (r = x86_lin_read(c, a, &v, s.size)) ||
            (r = str_lin(&s, true, X86_WRITE, &b)) || (r = x86_lin_write(c, b, &v, s.size)))
            return r;
        if (x86_watching(c)) {
            x86_debug_data(c, a, s.size, false);
            x86_debug_data(c, b, s.size, true);
        }
        str_advance(&s, 1, true, true);
        if (c->pending_dbg)
            break;
    } while (in->rep && s.n && s.budget);
    return str_end(&s);
}

EXEC(stos)
{
    struct str s;
    uint64_t a, n;
    uint8_t *dp;
    int r;

    if (!str_begin(&s, c, in))
        return X86_OK;
    const uint64_t v = x86_reg_read(c, X86_RAX, s.size);

    do {
        n = s.n < s.budget ? s.n : s.budget;
        if (n > 1 && (n = str_run(&s, true, X86_WRITE, n, &dp))) {
            if (s.size == 1 || !v) {
                memset(dp, (int)v, n * s.size);
            } else {
                for (uint64_t i = 0; i < n; i++)
                    memcpy(dp + i * s.size, &v, s.size);
            }
            str_advance(&s, n, false, true);
            continue;
        }
        if ((r = str_lin(&s, true, X86_WRITE, &a)) || (r = x86_lin_write(c, a, &v, s.size)))
            return r;
        if (x86_watching(c))
            x86_debug_data(c, a, s.size, true);
        str_advance(&s, 1, false, true);
        if (c->pending_dbg)
            break;
    } while (in->rep && s.n && s.budget);
    return str_end(&s);
}

EXEC(lods)
{
    struct str s;
    uint64_t v = 0, a;
    int r;

    if (!str_begin(&s, c, in))
        return X86_OK;
    do {
        if ((r = str_lin(&s, false, X86_READ, &a)) || (r = x86_lin_read(c, a, &v, s.size)))
            return r;
        if (x86_watching(c))
            x86_debug_data(c, a, s.size, false);
        x86_reg_write(c, X86_RAX, s.size, v);
        str_advance(&s, 1, true, false);
        if (c->pending_dbg)
            break;
    } while (in->rep && s.n && s.budget);
    return str_end(&s);
}

/* Flags of x - y, by the host. */
static uint16_t flags_cmp(uint64_t x, uint64_t y, unsigned size)
{
    uint16_t cc;

    switch (size) {
    case 1: __asm__("cmpb %b2, %b1" X86_FLAGS_OUT : "=&a"(cc) : "q"(x), "q"(y) : "cc"); break;
    case 2: __asm__("cmpw %w2, %w1" X86_FLAGS_OUT : "=&a"(cc) : "r"(x), "r"(y) : "cc"); break;
    case 4: __asm__("cmpl %k2, %k1" X86_FLAGS_OUT : "=&a"(cc) : "r"(x), "r"(y) : "cc"); break;
    default: __asm__("cmpq %2, %1" X86_FLAGS_OUT : "=&a"(cc) : "r"(x), "r"(y) : "cc"); break;
    }
    return cc;
}

static uint64_t load(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, p, size);
    return v;
}

/* CMPS (both) and SCAS (RDI against rAX). A fault in a later iteration leaves the flags of before the instruction
 * (SDM Vol. 2, REP), so they are stored at the end only. */
static int compare(struct x86_cpu *c, const struct x86_insn *in, bool cmps)
{
    struct str s;
    uint64_t x, y, a, b, n;
    uint8_t *sp = NULL, *dp = NULL;
    bool more = false;
    int r;

    if (!str_begin(&s, c, in))
        return X86_OK;
    x = x86_reg_read(c, X86_RAX, s.size);
    y = 0;
    do {
        n = s.n < s.budget ? s.n : s.budget;
        if (n > 1 && (!cmps || (n = str_run(&s, false, X86_READ, n, &sp))) && (n = str_run(&s, true, X86_READ, n, &dp))) {
            const bool stop_on_equal = in->rep == X86_REP_REPNE;
            uint64_t i = 0;

            do {
                if (cmps)
                    x = load(sp + i * s.size, s.size);
                y = load(dp + i * s.size, s.size);
                more = (x == y) != stop_on_equal;
            } while (++i < n && more);
            str_advance(&s, i, cmps, true);
            continue;
        }
        y = 0; /* processors read the destination operand first */
        if ((r = str_lin(&s, true, X86_READ, &b)) || (r = x86_lin_read(c, b, &y, s.size)))
            return r;
        if (x86_watching(c))
            x86_debug_data(c, b, s.size, false);
        if (cmps) {
            x = 0;
            if ((r = str_lin(&s, false, X86_READ, &a)) || (r = x86_lin_read(c, a, &x, s.size)))
                return r;
            if (x86_watching(c))
                x86_debug_data(c, a, s.size, false);
        }
        str_advance(&s, 1, cmps, true);
        more = (x == y) == (in->rep == X86_REP_REPE);
        if (c->pending_dbg)
            break;
    } while (in->rep && s.n && s.budget && more);
    c->cc = flags_cmp(x, y, s.size);
    return more ? str_end(&s) : X86_OK;
}
EXEC(cmps) { return compare(c, in, true); }
EXEC(scas) { return compare(c, in, false); }
