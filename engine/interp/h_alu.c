/*
 * Handlers: arithmetic, logic, shifts, multiplication, bits. Each operation and
 * its flags are the host's own instruction; `lahf; seto %al` leaves the flags in the
 * layout of cpu->cc.
 */
#include "engine/interp/interp.h"

#define INLINE static inline __attribute__((always_inline))

/* Operation on a value (registers) and on memory. C: the carry flag is an input. */
#define OP_T(name, op, sfx, T, m)                                                                                      \
    INLINE T name##_v(T d, T s, uint16_t *cc)                                                                          \
    {                                                                                                                  \
        __asm__(op sfx " %2, %0" FLAGS_OUT : "+q"(d), "=a"(*cc) : SRC(s) : "cc");                                      \
        return d;                                                                                                      \
    }                                                                                                                  \
    INLINE void name##_p(T *p, T s, uint16_t *cc)                                                                      \
    {                                                                                                                  \
        __asm__ volatile(op sfx " %2, %0" FLAGS_OUT : "+m"(*p), "=a"(*cc) : "q"(s) : "cc", "memory");                  \
    }                                                                                                                  \
    INLINE void name##_lp(T *p, T s, uint16_t *cc)                                                                     \
    {                                                                                                                  \
        __asm__ volatile("lock; " op sfx " %2, %0" FLAGS_OUT : "+m"(*p), "=a"(*cc) : "q"(s) : "cc", "memory");         \
    }
#define OPC_T(name, op, sfx, T, m)                                                                                     \
    INLINE T name##_v(T d, T s, uint16_t *cc)                                                                          \
    {                                                                                                                  \
        __asm__("btl $8, %k3\n\t" op sfx " %2, %0" FLAGS_OUT : "+q"(d), "=a"(*cc) : SRC(s), "r"(*cc) : "cc");          \
        return d;                                                                                                      \
    }                                                                                                                  \
    INLINE void name##_p(T *p, T s, uint16_t *cc)                                                                      \
    {                                                                                                                  \
        __asm__ volatile("btl $8, %k3\n\t" op sfx " %2, %0" FLAGS_OUT                                                  \
                         : "+m"(*p), "=a"(*cc)                                                                         \
                         : "q"(s), "r"(*cc)                                                                            \
                         : "cc", "memory");                                                                            \
    }                                                                                                                  \
    INLINE void name##_lp(T *p, T s, uint16_t *cc)                                                                     \
    {                                                                                                                  \
        __asm__ volatile("btl $8, %k3\n\tlock; " op sfx " %2, %0" FLAGS_OUT                                            \
                         : "+m"(*p), "=a"(*cc)                                                                         \
                         : "q"(s), "r"(*cc)                                                                            \
                         : "cc", "memory");                                                                            \
    }
/* Compare and test write nothing. */
#define OPN_T(name, op, sfx, T, m)                                                                                     \
    INLINE T name##_v(T d, T s, uint16_t *cc)                                                                          \
    {                                                                                                                  \
        __asm__(op sfx " %2, %1" FLAGS_OUT : "=a"(*cc) : "q"(d), SRC(s) : "cc");                                       \
        return d;                                                                                                      \
    }
#define SIZES(X, name, op)                                                                                             \
    X(name##1, op, "b", uint8_t, "b")                                                                                  \
    X(name##2, op, "w", x86_u16, "w")                                                                                  \
    X(name##4, op, "l", x86_u32, "k")                                                                                  \
    X(name##8, op, "q", x86_u64, "q")
SIZES(OP_T, add, "add")
SIZES(OP_T, or, "or")
SIZES(OPC_T, adc, "adc")
SIZES(OPC_T, sbb, "sbb")
SIZES(OP_T, and, "and")
SIZES(OP_T, sub, "sub")
SIZES(OP_T, xor, "xor")
SIZES(OPN_T, cmp, "cmp")
SIZES(OPN_T, test, "test")

/* Register destinations: 32-bit results zero-extend. */
#define PUT1(o, v) (R8(o) = (v))
#define PUT2(o, v) (R16(o) = (v))
#define PUT4(o, v) (R64(o) = (uint32_t)(v))
#define PUT8(o, v) (R64(o) = (v))
#define KEEP(o, v) ((void)(v))
#define KEEP1 KEEP
#define KEEP2 KEEP
#define KEEP4 KEEP
#define KEEP8 KEEP

/* r,r  r,imm  r,m */
#define H_REG(name, s, T, PUT)                                                                                         \
    static UOP(name##s##_rr)                                                                                           \
    {                                                                                                                  \
        uint16_t cc = c->cc;                                                                                           \
        const T v = name##s##_v(AT(T, u->dst), AT(T, u->src), &cc);                                                    \
        PUT##s(u->dst, v);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(name##s##_ri)                                                                                           \
    {                                                                                                                  \
        uint16_t cc = c->cc;                                                                                           \
        const T v = name##s##_v(AT(T, u->dst), (T)u->imm, &cc);                                                        \
        PUT##s(u->dst, v);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    H_RM(name, s, T, PUT, B)                                                                                           \
    H_RM(name, s, T, PUT, G)                                                                                           \
    H_RM(name, s, T, PUT, L)                                                                                           \
    H_RM(name, s, T, PUT, W)                                                                                           \
    H_RM(name, s, T, PUT, S)
#define H_RM(name, s, T, PUT, am)                                                                                      \
    static UOP(name##s##_rm##am)                                                                                       \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
        uint16_t cc = c->cc;                                                                                           \
        const T v = name##s##_v(AT(T, u->dst), x, &cc);                                                                \
        PUT##s(u->dst, v);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }
/* m,r  m,imm */
#define PLACE_(T, p, lin) PLACE(T, p, lin)
#define PLACE_l(T, p, lin) PLACE_LOCKED(T, p, lin)
#define H_MR(name, s, T, am, lk)                                                                                       \
    static UOP(name##s##_mr##lk##am)                                                                                   \
    {                                                                                                                  \
        PLACE_##lk(T, p, LIN_##am(sizeof(T)));                                                                         \
        uint16_t cc = c->cc;                                                                                           \
        name##s##_##lk##p(p, AT(T, u->src), &cc);                                                                      \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(name##s##_mi##lk##am)                                                                                   \
    {                                                                                                                  \
        PLACE_##lk(T, p, LIN_##am(sizeof(T)));                                                                         \
        uint16_t cc = c->cc;                                                                                           \
        name##s##_##lk##p(p, (T)u->imm, &cc);                                                                          \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }
#define H_MEM(name, s, T)                                                                                              \
    H_MR(name, s, T, B, ) H_MR(name, s, T, G, ) H_MR(name, s, T, L, ) H_MR(name, s, T, W, ) H_MR(name, s, T, S, )      \
    H_MR(name, s, T, B, l) H_MR(name, s, T, G, l) H_MR(name, s, T, L, l) H_MR(name, s, T, W, l) H_MR(name, s, T, S, l)
/* Compare and test with memory first. */
#define H_CMPM(name, s, T, am)                                                                                         \
    static UOP(name##s##_mr##am)                                                                                       \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
        uint16_t cc;                                                                                                   \
        name##s##_v(x, AT(T, u->src), &cc);                                                                            \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(name##s##_mi##am)                                                                                       \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
        uint16_t cc;                                                                                                   \
        name##s##_v(x, (T)u->imm, &cc);                                                                                \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }
#define H_FULL(name, s, T) H_REG(name, s, T, PUT) H_MEM(name, s, T)
#define H_CMP(name, s, T) H_REG(name, s, T, KEEP) H_CMPM(name, s, T, B) H_CMPM(name, s, T, G) H_CMPM(name, s, T, L) H_CMPM(name, s, T, W) H_CMPM(name, s, T, S)
#define ALL(X, name) X(name, 1, uint8_t) X(name, 2, x86_u16) X(name, 4, x86_u32) X(name, 8, x86_u64)
ALL(H_FULL, add)
ALL(H_FULL, or)
ALL(H_FULL, adc)
ALL(H_FULL, sbb)
ALL(H_FULL, and)
ALL(H_FULL, sub)
ALL(H_FULL, xor)
ALL(H_CMP, cmp)
ALL(H_CMP, test)

/* Flags dead: plain C. */
#define H_NF(name, s, T, op)                                                                                           \
    static UOP(name##s##_rr_nf)                                                                                        \
    {                                                                                                                  \
        PUT##s(u->dst, (T)(AT(T, u->dst) op AT(T, u->src)));                                                           \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(name##s##_ri_nf)                                                                                        \
    {                                                                                                                  \
        PUT##s(u->dst, (T)(AT(T, u->dst) op(T) u->imm));                                                               \
        NEXT;                                                                                                          \
    }
#define NF(name, op) H_NF(name, 4, x86_u32, op) H_NF(name, 8, x86_u64, op)
NF(add, +)
NF(or, |)
NF(and, &)
NF(sub, -)
NF(xor, ^)

#define ROW4(n, f) {n##1_##f, n##2_##f, n##4_##f, n##8_##f}
#define TABLE(f)                                                                                                       \
    {                                                                                                                  \
        ROW4(add, f), ROW4(or, f), ROW4(adc, f), ROW4(sbb, f), ROW4(and, f), ROW4(sub, f), ROW4(xor, f), ROW4(cmp, f), \
            ROW4(test, f)                                                                                              \
    }
const uop_fn interp_alu_rr[ALU_COUNT][4] = TABLE(rr);
const uop_fn interp_alu_ri[ALU_COUNT][4] = TABLE(ri);
#define NFROW(n, f) {NULL, NULL, n##4_##f##_nf, n##8_##f##_nf}
#define NFTABLE(f)                                                                                                     \
    {                                                                                                                  \
        [ALU_ADD] = NFROW(add, f), [ALU_OR] = NFROW(or, f), [ALU_AND] = NFROW(and, f), [ALU_SUB] = NFROW(sub, f),      \
        [ALU_XOR] = NFROW(xor, f)                                                                                      \
    }
const uop_fn interp_alu_rr_nf[ALU_COUNT][4] = NFTABLE(rr);
const uop_fn interp_alu_ri_nf[ALU_COUNT][4] = NFTABLE(ri);
#define AMS(n) {n##B, n##G, n##L, n##W, n##S}
#define ROW43(n, f) {AMS(n##1_##f), AMS(n##2_##f), AMS(n##4_##f), AMS(n##8_##f)}
#define TABLE3(f)                                                                                                      \
    {                                                                                                                  \
        ROW43(add, f), ROW43(or, f), ROW43(adc, f), ROW43(sbb, f), ROW43(and, f), ROW43(sub, f), ROW43(xor, f),        \
            ROW43(cmp, f), ROW43(test, f)                                                                              \
    }
#define TABLE3L(f)                                                                                                     \
    {                                                                                                                  \
        ROW43(add, f), ROW43(or, f), ROW43(adc, f), ROW43(sbb, f), ROW43(and, f), ROW43(sub, f), ROW43(xor, f)         \
    }
const uop_fn interp_alu_rm[ALU_COUNT][4][AM_COUNT] = TABLE3(rm);
const uop_fn interp_alu_mr[ALU_COUNT][4][AM_COUNT] = TABLE3(mr);
const uop_fn interp_alu_mi[ALU_COUNT][4][AM_COUNT] = TABLE3(mi);
const uop_fn interp_alu_lock_mr[ALU_COUNT][4][AM_COUNT] = TABLE3L(mrl);
const uop_fn interp_alu_lock_mi[ALU_COUNT][4][AM_COUNT] = TABLE3L(mil);

/* --- one operand ---------------------------------------------------------- */

/* INC and DEC keep CF: it is set up before. NOT changes no flag. */
#define CARRY "btl $8, %k2\n\t"
#define UN_T(name, s, op, sfx, T)                                                                                      \
    static UOP(name##s##_r)                                                                                            \
    {                                                                                                                  \
        uint16_t cc = c->cc;                                                                                           \
        T d = AT(T, u->dst);                                                                                           \
        __asm__(CARRY op sfx " %0" FLAGS_OUT : "+q"(d), "=a"(cc) : "r"(cc) : "cc");                                    \
        PUT##s(u->dst, d);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    UN_M(name, s, op, sfx, T, B, , "") UN_M(name, s, op, sfx, T, G, , "") UN_M(name, s, op, sfx, T, L, , "") UN_M(name, s, op, sfx, T, W, , "") UN_M(name, s, op, sfx, T, S, , "") \
    UN_M(name, s, op, sfx, T, B, l, "lock; ") UN_M(name, s, op, sfx, T, G, l, "lock; ")                                \
    UN_M(name, s, op, sfx, T, L, l, "lock; ") UN_M(name, s, op, sfx, T, W, l, "lock; ") UN_M(name, s, op, sfx, T, S, l, "lock; ")
#define UN_M(name, s, op, sfx, T, am, lk, lock)                                                                        \
    static UOP(name##s##_m##lk##am)                                                                                    \
    {                                                                                                                  \
        PLACE_##lk(T, p, LIN_##am(sizeof(T)));                                                                         \
        uint16_t cc = c->cc;                                                                                           \
        __asm__ volatile(CARRY lock op sfx " %0" FLAGS_OUT : "+m"(*p), "=a"(cc) : "r"(cc) : "cc", "memory");           \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }
#define UNOP(name, op)                                                                                                 \
    UN_T(name, 1, op, "b", uint8_t)                                                                                    \
    UN_T(name, 2, op, "w", x86_u16)                                                                                    \
    UN_T(name, 4, op, "l", x86_u32)                                                                                    \
    UN_T(name, 8, op, "q", x86_u64)
UNOP(inc, "inc")
UNOP(dec, "dec")
UNOP(neg, "neg")

#define NOT_T(s, sfx, T)                                                                                               \
    static UOP(not##s##_r)                                                                                             \
    {                                                                                                                  \
        PUT##s(u->dst, (T)~AT(T, u->dst));                                                                             \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    NOT_M(s, sfx, T, B, , "") NOT_M(s, sfx, T, G, , "") NOT_M(s, sfx, T, L, , "") NOT_M(s, sfx, T, W, , "") NOT_M(s, sfx, T, S, , "") \
    NOT_M(s, sfx, T, B, l, "lock; ") NOT_M(s, sfx, T, G, l, "lock; ") NOT_M(s, sfx, T, L, l, "lock; ") NOT_M(s, sfx, T, W, l, "lock; ") NOT_M(s, sfx, T, S, l, "lock; ")
#define NOT_M(s, sfx, T, am, lk, lock)                                                                                 \
    static UOP(not##s##_m##lk##am)                                                                                     \
    {                                                                                                                  \
        PLACE_##lk(T, p, LIN_##am(sizeof(T)));                                                                         \
        __asm__ volatile(lock "not" sfx " %0" : "+m"(*p) : : "memory");                                                \
        NEXT;                                                                                                          \
    }
NOT_T(1, "b", uint8_t)
NOT_T(2, "w", x86_u16)
NOT_T(4, "l", x86_u32)
NOT_T(8, "q", x86_u64)
const uop_fn interp_un_r[UN_COUNT][4] = {ROW4(inc, r), ROW4(dec, r), ROW4(neg, r), ROW4(not, r)};
const uop_fn interp_un_m[UN_COUNT][4][AM_COUNT] = {ROW43(inc, m), ROW43(dec, m), ROW43(neg, m), ROW43(not, m)};
const uop_fn interp_un_lock_m[UN_COUNT][4][AM_COUNT] = {ROW43(inc, ml), ROW43(dec, ml), ROW43(neg, ml), ROW43(not, ml)};

/* --- shifts ----------------------------------------------------------------- */

/* With a count that is not zero SHL, SHR and SAR write all flags from their operands alone; rotates keep some. */
#define SH_T(name, s, op, sfx, T)                                                                                      \
    static UOP(name##s##_ri)                                                                                           \
    {                                                                                                                  \
        uint16_t cc;                                                                                                   \
        T d = AT(T, u->dst);                                                                                           \
        __asm__(op sfx " %%cl, %0" FLAGS_OUT : "+q"(d), "=a"(cc) : "c"((uint8_t)u->imm) : "cc");                       \
        PUT##s(u->dst, d);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    SHC_T(name, s, op, sfx, T, rc, R8(X86_RCX * 8))
#define SHC_T(name, s, op, sfx, T, form, count)                                                                        \
    static UOP(name##s##_##form)                                                                                       \
    {                                                                                                                  \
        uint16_t cc = c->cc;                                                                                           \
        T d = AT(T, u->dst);                                                                                           \
        __asm__(X86_FLAGS_IN op sfx " %%cl, %0" FLAGS_OUT : "+q"(d), "+a"(cc) : "c"((uint8_t)(count)) : "cc");         \
        PUT##s(u->dst, d);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }
#define ROT_T(name, s, op, sfx, T)                                                                                     \
    SHC_T(name, s, op, sfx, T, ri, u->imm) SHC_T(name, s, op, sfx, T, rc, R8(X86_RCX * 8))
#define SHOP(X, name, op)                                                                                              \
    X(name, 1, op, "b", uint8_t) X(name, 2, op, "w", x86_u16) X(name, 4, op, "l", x86_u32) X(name, 8, op, "q", x86_u64)
SHOP(SH_T, shl, "shl")
SHOP(SH_T, shr, "shr")
SHOP(SH_T, sar, "sar")
SHOP(ROT_T, rol, "rol")
SHOP(ROT_T, ror, "ror")
const uop_fn interp_sh_ri[SH_COUNT][4] = {ROW4(shl, ri), ROW4(shr, ri), ROW4(sar, ri), ROW4(rol, ri), ROW4(ror, ri)};
const uop_fn interp_sh_rc[SH_COUNT][4] = {ROW4(shl, rc), ROW4(shr, rc), ROW4(sar, rc), ROW4(rol, rc), ROW4(ror, rc)};

#define SHD_T(name, s, op, T)                                                                                          \
    static UOP(name##s##_rri)                                                                                          \
    {                                                                                                                  \
        uint16_t cc = c->cc;                                                                                           \
        T d = AT(T, u->dst);                                                                                           \
        __asm__(X86_FLAGS_IN op " %%cl, %3, %0" FLAGS_OUT                                                              \
                : "+r"(d), "+a"(cc)                                                                                    \
                : "c"((uint8_t)u->imm), "r"(AT(T, u->src))                                                             \
                : "cc");                                                                                               \
        PUT##s(u->dst, d);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }
SHD_T(shld, 4, "shldl", x86_u32)
SHD_T(shld, 8, "shldq", x86_u64)
SHD_T(shrd, 4, "shrdl", x86_u32)
SHD_T(shrd, 8, "shrdq", x86_u64)
const uop_fn interp_shld[2] = {shld4_rri, shld8_rri};
const uop_fn interp_shrd[2] = {shrd4_rri, shrd8_rri};

/* --- multiply, divide --------------------------------------------------------- */

/* The guest's flags go in, because processors differ: AMD's leave the undefined ones as they were. */
#define IMUL(d, x) __asm__(X86_FLAGS_IN "imul %2, %0" FLAGS_OUT : "+r"(d), "+&a"(cc) : "r"(x) : "cc")
#define IMUL_T(s, T)                                                                                                   \
    static UOP(imul##s##_rr)                                                                                           \
    {                                                                                                                  \
        uint16_t cc = c->cc;                                                                                           \
        T d = AT(T, u->dst);                                                                                           \
        IMUL(d, AT(T, u->src));                                                                                        \
        PUT##s(u->dst, d);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(imul##s##_rri)                                                                                          \
    {                                                                                                                  \
        uint16_t cc = c->cc;                                                                                           \
        T d = AT(T, u->src);                                                                                           \
        IMUL(d, (T)u->imm);                                                                                            \
        PUT##s(u->dst, d);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    IMUL_M(s, T, B) IMUL_M(s, T, G) IMUL_M(s, T, L) IMUL_M(s, T, W) IMUL_M(s, T, S)
#define IMUL_M(s, T, am)                                                                                               \
    static UOP(imul##s##_rm##am)                                                                                       \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
        uint16_t cc = c->cc;                                                                                           \
        T d = AT(T, u->dst);                                                                                           \
        IMUL(d, x);                                                                                                    \
        PUT##s(u->dst, d);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(imul##s##_rmi##am)                                                                                      \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
        uint16_t cc = c->cc;                                                                                           \
        T d = x;                                                                                                       \
        IMUL(d, (T)u->imm);                                                                                            \
        PUT##s(u->dst, d);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }
IMUL_T(2, x86_u16)
IMUL_T(4, x86_u32)
IMUL_T(8, x86_u64)
const uop_fn interp_imul_rr[3] = {imul2_rr, imul4_rr, imul8_rr};
const uop_fn interp_imul_rri[3] = {imul2_rri, imul4_rri, imul8_rri};
const uop_fn interp_imul_rm[3][AM_COUNT] = {AMS(imul2_rm), AMS(imul4_rm), AMS(imul8_rm)};
const uop_fn interp_imul_rmi[3][AM_COUNT] = {AMS(imul2_rmi), AMS(imul4_rmi), AMS(imul8_rmi)};

#define MULX_T(name, op, s, T)                                                                                         \
    static UOP(name##s)                                                                                                \
    {                                                                                                                  \
        uint64_t cc = c->cc;                                                                                           \
        uint64_t lo, hi;                                                                                               \
        __asm__(X86_FLAGS_IN "movq %3, %%rax\n\t" op " %4\n\tmovq %%rax, %1" FLAGS_OUT                                 \
                : "+&a"(cc), "=&r"(lo), "=&d"(hi)                                                                      \
                : "r"(R64(X86_RAX * 8)), "r"(AT(T, u->src))                                                            \
                : "cc");                                                                                               \
        R64(X86_RAX * 8) = lo;                                                                                         \
        R64(X86_RDX * 8) = hi;                                                                                         \
        c->cc = (uint16_t)cc;                                                                                          \
        NEXT;                                                                                                          \
    }
MULX_T(mul, "mull", 4, uint32_t)
MULX_T(mul, "mulq", 8, uint64_t)
MULX_T(imul1_, "imull", 4, uint32_t)
MULX_T(imul1_, "imulq", 8, uint64_t)
const uop_fn interp_mul1[2][2] = {{mul4, mul8}, {imul1_4, imul1_8}};

/* Division: what could overflow goes the exact way. */
#define DIV_T(name, op, s, T, safe)                                                                                    \
    static UOP(name##s)                                                                                                \
    {                                                                                                                  \
        const T d = AT(T, u->src), l = AT(T, X86_RAX * 8), h = AT(T, X86_RDX * 8);                                     \
        uint64_t lo, hi, cc = c->cc;                                                                                   \
                                                                                                                       \
        if (UNLIKELY(!(safe)))                                                                                         \
            return interp_redo(c, u);                                                                                  \
        __asm__(X86_FLAGS_IN "movq %3, %%rax\n\tmovq %4, %%rdx\n\t" op " %5\n\tmovq %%rax, %1" FLAGS_OUT               \
                : "+&a"(cc), "=&r"(lo), "=&d"(hi)                                                                      \
                : "r"((uint64_t)l), "r"((uint64_t)h), "r"(d)                                                           \
                : "cc");                                                                                               \
        R64(X86_RAX * 8) = lo;                                                                                         \
        R64(X86_RDX * 8) = hi;                                                                                         \
        c->cc = (uint16_t)cc;                                                                                          \
        NEXT;                                                                                                          \
    }
DIV_T(div, "divl", 4, uint32_t, h < d)
DIV_T(div, "divq", 8, uint64_t, h < d)
/* Signed: a sign-extended dividend overflows only with -1 (or traps with 0). */
DIV_T(idiv, "idivl", 4, uint32_t, d + 1 > 1 && h == (uint32_t)((int32_t)l >> 31))
DIV_T(idiv, "idivq", 8, uint64_t, d + 1 > 1 && h == (uint64_t)((int64_t)l >> 63))
const uop_fn interp_div1[2][2] = {{div4, div8}, {idiv4, idiv8}};

/* --- bits --------------------------------------------------------------------- */

/* Only CF changes. */
#define BT_T(name, s, T, write)                                                                                        \
    static UOP(name##s##_ri)                                                                                           \
    {                                                                                                                  \
        const T bit = (T)1 << u->imm, v = AT(T, u->dst);                                                               \
        c->cc_lo = (uint8_t)((c->cc_lo & ~1u) | ((v & bit) != 0));                                                     \
        PUT##s(u->dst, (T)(write));                                                                                    \
        NEXT;                                                                                                          \
    }
#define BTR_T(s, T)                                                                                                    \
    static UOP(bt##s##_ri)                                                                                             \
    {                                                                                                                  \
        c->cc_lo = (uint8_t)((c->cc_lo & ~1u) | (AT(T, u->dst) >> u->imm & 1));                                        \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(bt##s##_rr)                                                                                             \
    {                                                                                                                  \
        c->cc_lo = (uint8_t)((c->cc_lo & ~1u) | (AT(T, u->dst) >> (AT(T, u->src) & (sizeof(T) * 8 - 1)) & 1));         \
        NEXT;                                                                                                          \
    }
BTR_T(4, uint32_t)
BTR_T(8, uint64_t)
BT_T(bts, 4, uint32_t, v | bit)
BT_T(bts, 8, uint64_t, v | bit)
BT_T(btr, 4, uint32_t, v & ~bit)
BT_T(btr, 8, uint64_t, v & ~bit)
BT_T(btc, 4, uint32_t, v ^ bit)
BT_T(btc, 8, uint64_t, v ^ bit)
const uop_fn interp_bt_ri[4][2] = {{bt4_ri, bt8_ri}, {bts4_ri, bts8_ri}, {btr4_ri, btr8_ri}, {btc4_ri, btc8_ri}};
const uop_fn interp_bt_rr[2] = {bt4_rr, bt8_rr};

#define SCAN_T(name, s, sfx, m)                                                                                        \
    static UOP(name##s##_rr)                                                                                           \
    {                                                                                                                  \
        uint64_t d = R64(u->dst);                                                                                      \
        uint16_t cc = c->cc;                                                                                           \
        __asm__(X86_FLAGS_IN #name sfx " %" m "2, %" m "0" FLAGS_OUT : "+r"(d), "+&a"(cc) : "r"(R64(u->src)) : "cc");  \
        R64(u->dst) = d;                                                                                               \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }
#define SCANS(name) SCAN_T(name, 4, "l", "k") SCAN_T(name, 8, "q", "q")
SCANS(bsf)
SCANS(bsr)
SCANS(tzcnt)
SCANS(lzcnt)
SCANS(popcnt)
const uop_fn interp_scan[SCAN_COUNT][2] = {
    {bsf4_rr, bsf8_rr}, {bsr4_rr, bsr8_rr}, {tzcnt4_rr, tzcnt8_rr}, {lzcnt4_rr, lzcnt8_rr}, {popcnt4_rr, popcnt8_rr}};
