/*
 * Integer executors: single bits, bit scans and counts, BMI1/2, CRC32.
 */
#include "x86/exec_int.h"

/* --- BT, BTS, BTR, BTC --------------------------------------------------- */

typedef uint16_t (*bit_fn)(void *p, uint64_t n, uint16_t cc);

/* The bit number is already reduced, so that the memory form touches no other bytes than p's. */
#define B1(name, lk, op, sfx, T, m)                                                                                    \
    static uint16_t name(void *p, uint64_t n, uint16_t cc)                                                             \
    {                                                                                                                  \
        __asm__ volatile(X86_FLAGS_IN lk op sfx " %" m "2, %0" X86_FLAGS_OUT                                           \
                         : "+m"(*(T *)p), "+&a"(cc)                                                                    \
                         : "r"(n)                                                                                      \
                         : "cc", "memory");                                                                            \
        return cc;                                                                                                     \
    }
#define B3(name, lk, op)                                                                                               \
    B1(name##_2, lk, op, "w", x86_u16, "w")                                                                            \
    B1(name##_4, lk, op, "l", x86_u32, "k")                                                                            \
    B1(name##_8, lk, op, "q", x86_u64, "q")
#define BF(name) {name##_2, name##_4, name##_8}

B3(h_bt, "", "bt")
B3(h_bts, "", "bts")
B3(h_btr, "", "btr")
B3(h_btc, "", "btc")
B3(h_bts_lock, "lock; ", "bts")
B3(h_btr_lock, "lock; ", "btr")
B3(h_btc_lock, "lock; ", "btc")

static int bit(struct x86_cpu *c, const struct x86_insn *in, const bit_fn plain[3], const bit_fn locked[3], bool write)
{
    const unsigned size = in->opnd[0].size, k = size == 8 ? 2 : size == 4 ? 1 : 0;
    const int acc = write ? X86_WRITE : X86_READ;
    struct x86_dst d;
    uint64_t n, lin, ea;
    uint16_t cc;
    int r;

    x86_opnd_read(c, in, 1, &n);
    if (in->opnd[0].kind != X86_OPND_MEM) {
        if ((r = x86_dst_begin(c, in, 0, false, &d)))
            return r;
        cc = plain[k](d.p, n & (size * 8 - 1), c->cc);
        x86_dst_end(c, &d, write);
        c->cc = cc;
        return X86_OK;
    }
    ea = x86_ea(c, in);
    if (in->opnd[1].kind == X86_OPND_GPR) { /* a bit string: the register is a signed bit offset */
        int64_t off = size == 8 ? (int64_t)n : size == 4 ? (int32_t)n : (int16_t)n;

        ea += (uint64_t)((off >> (3 + (k + 1))) * (int64_t)size);
        ea = in->addrsize == 8 ? ea : in->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
    }
    n &= size * 8 - 1;
    if ((r = x86_seg_lin(c, in->mem.seg, ea, size, acc, size, &lin)))
        return r;
    if (!write) {
        uint64_t v = 0;

        if ((r = x86_lin_read(c, lin, &v, size)))
            return r;
        if (x86_watching(c))
            x86_debug_data(c, lin, size, false);
        c->cc = plain[k](&v, n, c->cc);
        return X86_OK;
    }
    if ((r = x86_dst_begin_lin(c, lin, size, in->lock, &d)))
        return r;
    cc = (in->lock ? locked : plain)[k](d.p, n, c->cc);
    if ((r = x86_dst_end(c, &d, true)))
        return r;
    c->cc = cc;
    return X86_OK;
}

#define BIT(name, fn, lk, write)                                                                                       \
    EXEC(name)                                                                                                         \
    {                                                                                                                  \
        static const bit_fn plain[3] = BF(fn), locked[3] = BF(lk);                                                     \
        return bit(c, in, plain, locked, write);                                                                       \
    }
BIT(bt, h_bt, h_bt, false)
BIT(bts, h_bts, h_bts_lock, true)
BIT(btr, h_btr, h_btr_lock, true)
BIT(btc, h_btc, h_btc_lock, true)

/* --- scans and counts ------------------------------------------------------ */

/* The old destination is an input: BSF and BSR of zero leave it as the host leaves it. */
#define SCAN(name, op)                                                                                                 \
    EXEC(name)                                                                                                         \
    {                                                                                                                  \
        const unsigned size = in->opnd[0].size, reg = in->opnd[0].reg & 15;                                            \
        uint64_t s, v = c->gpr[reg];                                                                                   \
        uint16_t cc = c->cc;                                                                                           \
        int r = x86_opnd_read(c, in, 1, &s);                                                                           \
                                                                                                                       \
        if (r)                                                                                                         \
            return r;                                                                                                  \
        if (size == 8)                                                                                                 \
            __asm__(X86_FLAGS_IN op "q %q2, %q0" X86_FLAGS_OUT : "+r"(v), "+&a"(cc) : "r"(s) : "cc");                  \
        else if (size == 4)                                                                                            \
            __asm__(X86_FLAGS_IN op "l %k2, %k0" X86_FLAGS_OUT : "+r"(v), "+&a"(cc) : "r"(s) : "cc");                  \
        else                                                                                                           \
            __asm__(X86_FLAGS_IN op "w %w2, %w0" X86_FLAGS_OUT : "+r"(v), "+&a"(cc) : "r"(s) : "cc");                  \
        c->gpr[reg] = v;                                                                                               \
        c->cc = cc;                                                                                                    \
        return X86_OK;                                                                                                 \
    }
SCAN(bsf, "bsf")
SCAN(bsr, "bsr")
SCAN(tzcnt, "tzcnt")
SCAN(lzcnt, "lzcnt")
SCAN(popcnt, "popcnt")

/* --- BMI1 ------------------------------------------------------------------- */

#define BMI_OUT(op, ...)                                                                                               \
    if (in->opnd[0].size == 8)                                                                                         \
        __asm__(X86_FLAGS_IN op("q") X86_FLAGS_OUT : "=&r"(v), "+&a"(cc) : __VA_ARGS__ : "cc");                        \
    else                                                                                                               \
        __asm__(X86_FLAGS_IN op("k") X86_FLAGS_OUT : "=&r"(v), "+&a"(cc) : __VA_ARGS__ : "cc");                        \
    x86_opnd_write(c, in, 0, v);                                                                                       \
    c->cc = cc;                                                                                                        \
    return X86_OK

#define BMI3(name)                                                                                                     \
    EXEC(name)                                                                                                         \
    {                                                                                                                  \
        uint64_t a, b, v;                                                                                              \
        uint16_t cc = c->cc;                                                                                           \
        int r;                                                                                                         \
                                                                                                                       \
        if ((r = x86_opnd_read(c, in, 1, &a)) || (r = x86_opnd_read(c, in, 2, &b)))                                    \
            return r;                                                                                                  \
        BMI_OUT(OP_##name, "r"(a), "r"(b));                                                                            \
    }
#define BMI2(name)                                                                                                     \
    EXEC(name)                                                                                                         \
    {                                                                                                                  \
        uint64_t a, v;                                                                                                 \
        uint16_t cc = c->cc;                                                                                           \
        int r = x86_opnd_read(c, in, 1, &a);                                                                           \
                                                                                                                       \
        if (r)                                                                                                         \
            return r;                                                                                                  \
        BMI_OUT(OP_##name, "r"(a));                                                                                    \
    }
/* AT&T order is the reverse of the operands'. */
#define OP_andn(m) "andn %" m "3, %" m "2, %" m "0"
#define OP_bextr(m) "bextr %" m "3, %" m "2, %" m "0"
#define OP_bzhi(m) "bzhi %" m "3, %" m "2, %" m "0"
#define OP_pdep(m) "pdep %" m "3, %" m "2, %" m "0"
#define OP_pext(m) "pext %" m "3, %" m "2, %" m "0"
#define OP_blsi(m) "blsi %" m "2, %" m "0"
#define OP_blsr(m) "blsr %" m "2, %" m "0"
#define OP_blsmsk(m) "blsmsk %" m "2, %" m "0"
BMI3(andn)
BMI3(bextr)
BMI3(bzhi)
BMI3(pdep)
BMI3(pext)
BMI2(blsi)
BMI2(blsr)
BMI2(blsmsk)

/* MULX hi, lo, src: rDX times src, no flags; hi is written last, so it wins when both are one register. */
EXEC(mulx)
{
    const unsigned size = in->opnd[0].size;
    uint64_t s;
    int r = x86_opnd_read(c, in, x86_explicit(in, 2), &s);

    if (r)
        return r;
    if (size == 8) {
        unsigned __int128 t = (unsigned __int128)c->gpr[X86_RDX] * s;

        x86_opnd_write(c, in, 1, (uint64_t)t);
        return x86_opnd_write(c, in, 0, (uint64_t)(t >> 64));
    }
    s = (uint64_t)(uint32_t)c->gpr[X86_RDX] * (uint32_t)s;
    x86_opnd_write(c, in, 1, (uint32_t)s);
    return x86_opnd_write(c, in, 0, s >> 32);
}

/* CRC32C, bit-reflected polynomial 11EDC6F41H (SDM Vol. 2A, CRC32). */
EXEC(crc32)
{
    uint64_t s;
    uint32_t crc = (uint32_t)c->gpr[in->opnd[0].reg & 15];
    int r = x86_opnd_read(c, in, 1, &s);

    if (r)
        return r;
    for (unsigned i = 0; i < in->opnd[1].size; i++) {
        crc ^= (uint8_t)(s >> (8 * i));
        for (unsigned k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    c->gpr[in->opnd[0].reg & 15] = crc;
    return X86_OK;
}
