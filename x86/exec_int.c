/*
 * Integer executors: arithmetic and logic, and the read-modify-write operand
 * every other file of them uses.
 *
 * In a nutshell: the host CPU has the same instructions, so the operation is
 * done by the host's own instruction on the guest's bytes, with the guest's
 * flags loaded before and stored after. Results and flags, those the manual
 * leaves undefined included, are then the host's by construction.
 */
#include <string.h>

#include "ringer/gpa.h"
#include "x86/exec_int.h"

enum { DST_REG, DST_REG32, DST_HOST, DST_BUF };

/* Is the page of lin RAM? Only RAM needs (and can have) atomicity between processors. */
static bool lin_is_ram(struct x86_cpu *c, uint64_t lin)
{
    const struct gpa_range *r;
    uint64_t gpa;

    if (!x86_walk_peek(c, lin, &gpa))
        return false;
    r = gpa_find(c->mmu.map, gpa);
    return r && r->kind == GPA_RAM;
}

int x86_dst_begin_lin(struct x86_cpu *c, uint64_t lin, unsigned size, bool locked, struct x86_dst *d)
{
    void *host = NULL;
    int r;

    d->lin = lin;
    d->size = (uint8_t)size;
    d->exclusive = false;
    d->buf[0] = d->buf[1] = 0;
    /* A locked access across cache lines is slow and may even be trapped on the host; the exclusive section is cheaper. */
    if ((lin & (locked ? 63 : 0xfff)) + size <= (locked ? 64 : 0x1000) && (r = x86_lin_host(c, lin, X86_WRITE, &host)))
        return r;
    if (host) {
        d->p = host;
        d->how = DST_HOST;
        return X86_OK;
    }
    d->p = d->buf;
    d->how = DST_BUF;
    if ((r = x86_lin_probe(c, lin, size, X86_WRITE)))
        return r;
    if (locked && lin_is_ram(c, lin)) {
        c->ops->exclusive_begin(c->env);
        d->exclusive = true;
    }
    r = x86_lin_read(c, lin, d->buf, size);
    if (r && d->exclusive)
        c->ops->exclusive_end(c->env);
    return r;
}

int x86_dst_begin(struct x86_cpu *c, const struct x86_insn *in, unsigned i, bool locked, struct x86_dst *d)
{
    const struct x86_operand *o = &in->opnd[i];
    uint64_t lin;
    int r;

    d->size = (uint8_t)o->size;
    d->exclusive = false;
    switch (o->kind) {
    case X86_OPND_GPR:
        d->how = o->size == 4 ? DST_REG32 : DST_REG;
        d->p = &c->gpr[o->reg & 15];
        d->lin = o->reg & 15;
        return X86_OK;
    case X86_OPND_GPR8H:
        d->how = DST_REG;
        d->p = (uint8_t *)&c->gpr[o->reg & 3] + 1;
        return X86_OK;
    case X86_OPND_MEM:
        if ((r = x86_mem_lin(c, in, o->size, X86_WRITE, &lin)))
            return r;
        return x86_dst_begin_lin(c, lin, o->size, locked || in->lock, d);
    default:
        return X86_UNDEF;
    }
}

int x86_dst_end(struct x86_cpu *c, struct x86_dst *d, bool write)
{
    int r = X86_OK;

    if (d->how == DST_REG)
        return X86_OK;
    if (d->how == DST_REG32) {
        if (write)
            c->gpr[d->lin] = (uint32_t)c->gpr[d->lin];
        return X86_OK;
    }
    if (d->how == DST_BUF && write)
        r = x86_lin_write(c, d->lin, d->buf, d->size);
    if (d->exclusive)
        c->ops->exclusive_end(c->env);
    if (!r && x86_watching(c))
        x86_debug_data(c, d->lin, d->size, write);
    return r;
}

/* --- the host's instructions ------------------------------------------- */

/* Two operands: *p op= s. The flags go in (ADC, SBB) and out. */
#define ALU1(name, lk, op, sfx, T, m)                                                                                  \
    static uint16_t name(void *p, uint64_t s, uint16_t cc)                                                             \
    {                                                                                                                  \
        __asm__ volatile(X86_FLAGS_IN lk op sfx " %" m "2, %0" X86_FLAGS_OUT                                           \
                         : "+m"(*(T *)p), "+&a"(cc)                                                                    \
                         : "q"(s)                                                                                      \
                         : "cc", "memory");                                                                            \
        return cc;                                                                                                     \
    }
#define ALU4(name, lk, op)                                                                                             \
    ALU1(name##_1, lk, op, "b", uint8_t, "b")                                                                          \
    ALU1(name##_2, lk, op, "w", x86_u16, "w")                                                                          \
    ALU1(name##_4, lk, op, "l", x86_u32, "k")                                                                          \
    ALU1(name##_8, lk, op, "q", x86_u64, "q")
#define ALU(name, op) ALU4(name, "", op) ALU4(name##_lock, "lock; ", op)

/* One operand. */
#define UN1(name, lk, op, sfx, T)                                                                                      \
    static uint16_t name(void *p, uint64_t s, uint16_t cc)                                                             \
    {                                                                                                                  \
        (void)s;                                                                                                       \
        __asm__ volatile(X86_FLAGS_IN lk op sfx " %0" X86_FLAGS_OUT : "+m"(*(T *)p), "+&a"(cc) : : "cc", "memory");    \
        return cc;                                                                                                     \
    }
#define UN4(name, lk, op)                                                                                              \
    UN1(name##_1, lk, op, "b", uint8_t)                                                                                \
    UN1(name##_2, lk, op, "w", x86_u16)                                                                                \
    UN1(name##_4, lk, op, "l", x86_u32)                                                                                \
    UN1(name##_8, lk, op, "q", x86_u64)
#define UN(name, op) UN4(name, "", op) UN4(name##_lock, "lock; ", op)

ALU(h_add, "add")
ALU(h_or, "or")
ALU(h_adc, "adc")
ALU(h_sbb, "sbb")
ALU(h_and, "and")
ALU(h_sub, "sub")
ALU(h_xor, "xor")
ALU4(h_cmp, "", "cmp")
ALU4(h_test, "", "test")
UN(h_inc, "inc")
UN(h_dec, "dec")
UN(h_neg, "neg")
UN(h_not, "not")

typedef uint16_t (*host_fn)(void *p, uint64_t s, uint16_t cc);

static unsigned size_index(unsigned size) { return size == 8 ? 3 : size == 4 ? 2 : size == 2 ? 1 : 0; }

#define FNS(name) {name##_1, name##_2, name##_4, name##_8}

static int modify(struct x86_cpu *c, const struct x86_insn *in, const host_fn plain[4], const host_fn locked[4], bool two)
{
    struct x86_dst d;
    uint64_t s = 0;
    int r;

    if (two && in->opnd[1].kind == X86_OPND_MEM) { /* register destination: the source alone can fault */
        if ((r = x86_opnd_read(c, in, 1, &s)))
            return r;
        two = false;
    }
    if ((r = x86_dst_begin(c, in, 0, false, &d)))
        return r;
    if (two && (r = x86_opnd_read(c, in, 1, &s)))
        return r;
    const unsigned k = size_index(d.size);
    const uint16_t cc = (in->lock ? locked : plain)[k](d.p, s, c->cc);

    if ((r = x86_dst_end(c, &d, true)))
        return r;
    c->cc = cc;
    return X86_OK;
}

static int compare(struct x86_cpu *c, const struct x86_insn *in, const host_fn f[4])
{
    uint64_t a, b;
    int r;

    if ((r = x86_opnd_read(c, in, 0, &a)) || (r = x86_opnd_read(c, in, 1, &b)))
        return r;
    c->cc = f[size_index(in->opnd[0].size)](&a, b, c->cc);
    return X86_OK;
}

#define X_ALU(name, fn, two)                                                                                           \
    EXEC(name)                                                                                                         \
    {                                                                                                                  \
        static const host_fn plain[4] = FNS(fn), locked[4] = FNS(fn##_lock);                                           \
        return modify(c, in, plain, locked, two);                                                                      \
    }
#define X_CMP(name, fn)                                                                                                \
    EXEC(name)                                                                                                         \
    {                                                                                                                  \
        static const host_fn f[4] = FNS(fn);                                                                           \
        return compare(c, in, f);                                                                                      \
    }

X_ALU(add, h_add, true)
X_ALU(or, h_or, true)
X_ALU(adc, h_adc, true)
X_ALU(sbb, h_sbb, true)
X_ALU(and, h_and, true)
X_ALU(sub, h_sub, true)
X_ALU(xor, h_xor, true)
X_ALU(inc, h_inc, false)
X_ALU(dec, h_dec, false)
X_ALU(neg, h_neg, false)
X_CMP(cmp, h_cmp)
X_CMP(test, h_test)

EXEC(not)
{
    static const host_fn plain[4] = FNS(h_not), locked[4] = FNS(h_not_lock);

    return modify(c, in, plain, locked, false);
}

/* --- exchange ---------------------------------------------------------- */

EXEC(xchg)
{
    const unsigned mem = in->opnd[1].kind == X86_OPND_MEM ? 1 : 0, reg = !mem;
    struct x86_dst d;
    uint64_t v;
    int r;

    x86_opnd_read(c, in, reg, &v);
    if ((r = x86_dst_begin(c, in, mem, true, &d)))
        return r;
    switch (d.size) {
    case 1: __asm__ volatile("xchgb %b0, %1" : "+q"(v), "+m"(*(uint8_t *)d.p) : : "memory"); break;
    case 2: __asm__ volatile("xchgw %w0, %1" : "+r"(v), "+m"(*(x86_u16 *)d.p) : : "memory"); break;
    case 4: __asm__ volatile("xchgl %k0, %1" : "+r"(v), "+m"(*(x86_u32 *)d.p) : : "memory"); break;
    default: __asm__ volatile("xchgq %0, %1" : "+r"(v), "+m"(*(x86_u64 *)d.p) : : "memory"); break;
    }
    if ((r = x86_dst_end(c, &d, true)))
        return r;
    return x86_opnd_write(c, in, reg, v);
}

#define XADD1(lk, sfx, T, m)                                                                                           \
    __asm__ volatile(lk "xadd" sfx " %" m "1, %0" X86_FLAGS_OUT : "+m"(*(T *)d.p), "+q"(v), "=&a"(cc) : : "cc", "memory")

EXEC(xadd)
{
    struct x86_dst d;
    uint64_t v;
    uint16_t cc;
    int r;

    x86_opnd_read(c, in, 1, &v);
    if ((r = x86_dst_begin(c, in, 0, false, &d)))
        return r;
    if (in->lock)
        switch (d.size) {
        case 1: XADD1("lock; ", "b", uint8_t, "b"); break;
        case 2: XADD1("lock; ", "w", x86_u16, "w"); break;
        case 4: XADD1("lock; ", "l", x86_u32, "k"); break;
        default: XADD1("lock; ", "q", x86_u64, "q"); break;
        }
    else if (in->opnd[0].kind == X86_OPND_MEM)
        switch (d.size) {
        case 1: XADD1("", "b", uint8_t, "b"); break;
        case 2: XADD1("", "w", x86_u16, "w"); break;
        case 4: XADD1("", "l", x86_u32, "k"); break;
        default: XADD1("", "q", x86_u64, "q"); break;
        }
    else { /* registers: the source gets the old destination first, so XADD r,r with one register doubles it */
        static const host_fn add[4] = FNS(h_add);
        uint64_t old, sum;

        x86_opnd_read(c, in, 0, &old);
        sum = old;
        cc = add[size_index(d.size)](&sum, v, c->cc);
        x86_opnd_write(c, in, 1, old);
        x86_opnd_write(c, in, 0, sum);
        c->cc = cc;
        return X86_OK;
    }
    if ((r = x86_dst_end(c, &d, true)))
        return r;
    x86_opnd_write(c, in, 1, v);
    c->cc = cc;
    return X86_OK;
}

#define CMPXCHG1(lk, sfx, T, m)                                                                                        \
    __asm__ volatile("movq %4, %%rax\n\t" lk "cmpxchg" sfx " %" m "3, %0\n\tmovq %%rax, %1" X86_FLAGS_OUT               \
                     : "+m"(*(T *)d.p), "=&r"(out), "=&a"(cc)                                                          \
                     : "q"(src), "r"(acc)                                                                              \
                     : "cc", "memory")

EXEC(cmpxchg)
{
    struct x86_dst d;
    uint64_t src, acc = c->gpr[X86_RAX], out = 0;
    uint64_t cc;
    int r;

    x86_opnd_read(c, in, 1, &src);
    if (in->opnd[0].kind != X86_OPND_MEM) {
        static const host_fn cmp[4] = FNS(h_cmp);
        const unsigned size = in->opnd[0].size;
        uint64_t dst;

        x86_opnd_read(c, in, 0, &dst);
        c->cc = cmp[size_index(size)](&acc, dst, c->cc);
        if (c->cc & X86_CC_ZF)
            return x86_opnd_write(c, in, 0, src);
        x86_reg_write(c, X86_RAX, size, dst);
        return X86_OK;
    }
    if ((r = x86_dst_begin(c, in, 0, false, &d)))
        return r;
    if (in->lock)
        switch (d.size) {
        case 1: CMPXCHG1("lock; ", "b", uint8_t, "b"); break;
        case 2: CMPXCHG1("lock; ", "w", x86_u16, "w"); break;
        case 4: CMPXCHG1("lock; ", "l", x86_u32, "k"); break;
        default: CMPXCHG1("lock; ", "q", x86_u64, "q"); break;
        }
    else
        switch (d.size) {
        case 1: CMPXCHG1("", "b", uint8_t, "b"); break;
        case 2: CMPXCHG1("", "w", x86_u16, "w"); break;
        case 4: CMPXCHG1("", "l", x86_u32, "k"); break;
        default: CMPXCHG1("", "q", x86_u64, "q"); break;
        }
    if ((r = x86_dst_end(c, &d, true)))
        return r;
    c->cc = (uint16_t)cc;
    if (!(cc & X86_CC_ZF))
        x86_reg_write(c, X86_RAX, d.size, out);
    return X86_OK;
}

/* CMPXCHG8B/16B change ZF alone. */
static int cmpxchg_pair(struct x86_cpu *c, const struct x86_insn *in, unsigned half)
{
    uint64_t *g = c->gpr, lin;
    struct x86_dst d;
    bool zf;
    int r;

    /* CMPXCHG16B wants alignment whatever AC says; it is no #AC. */
    r = x86_seg_lin(c, in->mem.seg, x86_ea(c, in), half * 2, X86_WRITE, half == 4 ? 8 : 1, &lin);
    if (r)
        return r;
    if (half == 8 && (lin & 15))
        return x86_raise_err(c, X86_GP, 0);
    if ((r = x86_dst_begin_lin(c, lin, half * 2, in->lock, &d)))
        return r;
    uint64_t ax = g[X86_RAX], dx = g[X86_RDX];

    if (half == 4) {
        x86_u64 *p = d.p;
        uint64_t want = (uint32_t)ax | dx << 32, val = (uint32_t)g[X86_RBX] | g[X86_RCX] << 32;

        if (in->lock)
            __asm__ volatile("lock; cmpxchgq %3, %0" : "+m"(*p), "+a"(want), "=@ccz"(zf) : "r"(val) : "memory");
        else
            __asm__ volatile("cmpxchgq %3, %0" : "+m"(*p), "+a"(want), "=@ccz"(zf) : "r"(val) : "memory");
        ax = (uint32_t)want;
        dx = want >> 32;
    } else {
        __asm__ volatile("lock; cmpxchg16b %0"
                         : "+m"(*(unsigned __int128 *)__builtin_assume_aligned(d.p, 8)), "+a"(ax), "+d"(dx), "=@ccz"(zf)
                         : "b"(g[X86_RBX]), "c"(g[X86_RCX])
                         : "memory");
    }
    if ((r = x86_dst_end(c, &d, true)))
        return r;
    c->cc = (uint16_t)((c->cc & ~X86_CC_ZF) | (zf ? X86_CC_ZF : 0));
    if (!zf) {
        x86_reg_write(c, X86_RAX, half, ax);
        x86_reg_write(c, X86_RDX, half, dx);
    }
    return X86_OK;
}
EXEC(cmpxchg8b) { return cmpxchg_pair(c, in, 4); }
EXEC(cmpxchg16b) { return cmpxchg_pair(c, in, 8); }

/* --- add with one flag of its own (ADX) ----------------------------------- */

static int adx(struct x86_cpu *c, const struct x86_insn *in, bool of)
{
    uint64_t a, b;
    unsigned carry = of ? c->cc_of : c->cc_lo & 1u;
    bool out;
    int r;

    if ((r = x86_opnd_read(c, in, 1, &b)))
        return r;
    x86_opnd_read(c, in, 0, &a);
    if (in->opnd[0].size == 8) {
        unsigned __int128 t = (unsigned __int128)a + b + carry;

        out = t >> 64;
        a = (uint64_t)t;
    } else {
        a = a + b + carry;
        out = a >> 32;
    }
    x86_opnd_write(c, in, 0, a);
    if (of)
        c->cc_of = out;
    else
        c->cc_lo = (uint8_t)((c->cc_lo & ~1u) | out);
    return X86_OK;
}
EXEC(adcx) { return adx(c, in, false); }
EXEC(adox) { return adx(c, in, true); }

const struct x86_exec_entry x86_exec_int[] = {
#define ENTRY(op, fn) {X86_OP_##op, x86_i_##fn},
    X86_INT_EXECUTORS(ENTRY)
#undef ENTRY
    {0, NULL},
};
