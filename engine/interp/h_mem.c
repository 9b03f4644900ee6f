/*
 * Handlers: moves, addresses, exchange, the stack, conditions as values, 16-byte moves.
 */
#include "engine/interp/interp.h"

typedef uint8_t x86_u8;

#define PUT1(o, v) (R8(o) = (uint8_t)(v))
#define PUT2(o, v) (R16(o) = (uint16_t)(v))
#define PUT4(o, v) (R64(o) = (uint32_t)(v))
#define PUT8(o, v) (R64(o) = (uint64_t)(v))

/* --- MOV ------------------------------------------------------------------- */

#define MOV_AM(s, T, am)                                                                                               \
    static UOP(mov##s##_rm##am)                                                                                        \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
        PUT##s(u->dst, x);                                                                                             \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(mov##s##_mr##am)                                                                                        \
    {                                                                                                                  \
        PLACE(T, p, LIN_##am(sizeof(T)));                                                                              \
        *p = AT(T, u->src);                                                                                            \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(mov##s##_mi##am)                                                                                        \
    {                                                                                                                  \
        PLACE(T, p, LIN_##am(sizeof(T)));                                                                              \
        *p = (T)u->imm;                                                                                                \
        NEXT;                                                                                                          \
    }
#define MOV_T(s, T)                                                                                                    \
    static UOP(mov##s##_rr)                                                                                            \
    {                                                                                                                  \
        PUT##s(u->dst, AT(T, u->src));                                                                                 \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(mov##s##_ri)                                                                                            \
    {                                                                                                                  \
        PUT##s(u->dst, (T)u->imm);                                                                                     \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    MOV_AM(s, T, B) MOV_AM(s, T, G) MOV_AM(s, T, L) MOV_AM(s, T, W) MOV_AM(s, T, S)
MOV_T(1, x86_u8)
MOV_T(2, x86_u16)
MOV_T(4, x86_u32)
MOV_T(8, x86_u64)

#define ROW4(n, f) {n##1_##f, n##2_##f, n##4_##f, n##8_##f}
#define AMS(n) {n##B, n##G, n##L, n##W, n##S}
#define ROW43(n, f) {AMS(n##1_##f), AMS(n##2_##f), AMS(n##4_##f), AMS(n##8_##f)}
const uop_fn interp_mov_rr[4] = ROW4(mov, rr);
const uop_fn interp_mov_ri[4] = ROW4(mov, ri);
const uop_fn interp_mov_rm[4][AM_COUNT] = ROW43(mov, rm);
const uop_fn interp_mov_mr[4][AM_COUNT] = ROW43(mov, mr);
const uop_fn interp_mov_mi[4][AM_COUNT] = ROW43(mov, mi);

/* --- MOVZX, MOVSX, MOVSXD ------------------------------------------------------- */

#define MOVX_AM(name, d, F, am)                                                                                        \
    static UOP(name##d##_rm##am)                                                                                       \
    {                                                                                                                  \
        LOAD(F, x, LIN_##am(sizeof(F)));                                                                               \
        PUT##d(u->dst, x);                                                                                             \
        NEXT;                                                                                                          \
    }
#define MOVX_T(name, d, F)                                                                                             \
    static UOP(name##d##_rr)                                                                                           \
    {                                                                                                                  \
        PUT##d(u->dst, AT(F, u->src));                                                                                 \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    MOVX_AM(name, d, F, B) MOVX_AM(name, d, F, G) MOVX_AM(name, d, F, L) MOVX_AM(name, d, F, W) MOVX_AM(name, d, F, S)
typedef int8_t s8;
typedef int16_t __attribute__((aligned(1), may_alias)) s16;
typedef int32_t __attribute__((aligned(1), may_alias)) s32;
MOVX_T(zb, 2, x86_u8)
MOVX_T(zb, 4, x86_u8)
MOVX_T(zw, 4, x86_u16)
MOVX_T(sb, 2, s8)
MOVX_T(sb, 4, s8)
MOVX_T(sb, 8, s8)
MOVX_T(sw, 4, s16)
MOVX_T(sw, 8, s16)
MOVX_T(sd, 8, s32)
/* Zero extension to 32 and to 64 bits are the same. */
const uop_fn interp_movx_rr[2][3][4] = {
    {{NULL, zb2_rr, zb4_rr, zb4_rr}, {NULL, NULL, zw4_rr, zw4_rr}, {NULL, NULL, NULL, mov4_rr}},
    {{NULL, sb2_rr, sb4_rr, sb8_rr}, {NULL, NULL, sw4_rr, sw8_rr}, {NULL, NULL, mov4_rr, sd8_rr}},
};
const uop_fn interp_movx_rm[2][3][4][AM_COUNT] = {
    {{{NULL}, AMS(zb2_rm), AMS(zb4_rm), AMS(zb4_rm)}, {{NULL}, {NULL}, AMS(zw4_rm), AMS(zw4_rm)}, {{NULL}, {NULL}, {NULL}, AMS(mov4_rm)}},
    {{{NULL}, AMS(sb2_rm), AMS(sb4_rm), AMS(sb8_rm)}, {{NULL}, {NULL}, AMS(sw4_rm), AMS(sw8_rm)}, {{NULL}, {NULL}, AMS(mov4_rm), AMS(sd8_rm)}},
};

/* --- LEA, widening, BSWAP ------------------------------------------------------- */

#define LEA(s, am)                                                                                                     \
    static UOP(lea##s##_##am)                                                                                          \
    {                                                                                                                  \
        PUT##s(u->dst, LIN_##am(0));                                                                                   \
        NEXT;                                                                                                          \
    }
#define LIN_O(s) OFF_S /* what a segment would be added to */
LEA(4, B) LEA(4, G) LEA(4, L) LEA(4, W) LEA(8, B) LEA(8, G) LEA(8, L) LEA(8, W)
LEA(2, B) LEA(2, G) LEA(2, L) LEA(2, W) LEA(2, O) LEA(4, O) LEA(8, O)
#define LEAS(n) {n##B, n##G, n##L, n##W, n##O}
const uop_fn interp_lea[4][AM_COUNT] = {{NULL}, LEAS(lea2_), LEAS(lea4_), LEAS(lea8_)};

#define GEN(name, stmt)                                                                                                \
    static UOP(name)                                                                                                   \
    {                                                                                                                  \
        stmt;                                                                                                          \
        NEXT;                                                                                                          \
    }
#define AX (X86_RAX * 8)
#define DX (X86_RDX * 8)
GEN(cbw2, R16(AX) = (uint16_t)AT(s8, AX))
GEN(cbw4, R64(AX) = (uint32_t)AT(s16, AX))
GEN(cbw8, R64(AX) = (uint64_t)(int64_t)AT(s32, AX))
GEN(cwd2, R16(DX) = (uint16_t)(AT(s16, AX) >> 15))
GEN(cwd4, R64(DX) = (uint32_t)(AT(s32, AX) >> 31))
GEN(cwd8, R64(DX) = (uint64_t)((int64_t)R64(AX) >> 63))
const uop_fn interp_widen[2][4] = {{NULL, cbw2, cbw4, cbw8}, {NULL, cwd2, cwd4, cwd8}};

UOP(interp_nop) { NEXT; }
UOP(interp_bswap4)
{
    R64(u->dst) = __builtin_bswap32(R32(u->dst));
    NEXT;
}
UOP(interp_bswap8)
{
    R64(u->dst) = __builtin_bswap64(R64(u->dst));
    NEXT;
}

/* --- exchange; the host's instructions are atomic, so are these ------------------- */

#define XCHG_T(s, sfx, T)                                                                                              \
    static UOP(xchg##s##_rr)                                                                                           \
    {                                                                                                                  \
        const T a = AT(T, u->dst), b = AT(T, u->src);                                                                  \
        PUT##s(u->src, a);                                                                                             \
        PUT##s(u->dst, b);                                                                                             \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    XCHG_AM(s, sfx, T, B) XCHG_AM(s, sfx, T, G) XCHG_AM(s, sfx, T, L) XCHG_AM(s, sfx, T, W) XCHG_AM(s, sfx, T, S)
#define XCHG_AM(s, sfx, T, am)                                                                                         \
    static UOP(xchg##s##_rm##am)                                                                                       \
    {                                                                                                                  \
        PLACE_LOCKED(T, p, LIN_##am(sizeof(T)));                                                                       \
        T v = AT(T, u->src);                                                                                           \
        __asm__ volatile("xchg" sfx " %0, %1" : "+q"(v), "+m"(*p) : : "memory");                                       \
        PUT##s(u->src, v);                                                                                             \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(xadd##s##_rml##am)                                                                                      \
    {                                                                                                                  \
        PLACE_LOCKED(T, p, LIN_##am(sizeof(T)));                                                                       \
        T v = AT(T, u->src);                                                                                           \
        uint16_t cc;                                                                                                   \
        __asm__ volatile("lock; xadd" sfx " %0, %1" FLAGS_OUT : "+q"(v), "+m"(*p), "=a"(cc) : : "cc", "memory");       \
        PUT##s(u->src, v);                                                                                             \
        c->cc = cc;                                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    CMPXCHG(s, sfx, T, am, , "") CMPXCHG(s, sfx, T, am, l, "lock; ")
#define PLACE_(T, p, lin) PLACE(T, p, lin)
#define PLACE_l(T, p, lin) PLACE_LOCKED(T, p, lin)
#define CMPXCHG(s, sfx, T, am, lk, lock)                                                                               \
    static UOP(cmpxchg##s##_rm##lk##am)                                                                                \
    {                                                                                                                  \
        PLACE_##lk(T, p, LIN_##am(sizeof(T)));                                                                         \
        uint64_t cc, out;                                                                                              \
        __asm__ volatile("movq %4, %%rax\n\t" lock "cmpxchg" sfx " %3, %0\n\tmovq %%rax, %1" FLAGS_OUT                 \
                         : "+m"(*p), "=&r"(out), "=&a"(cc)                                                             \
                         : "q"(AT(T, u->src)), "r"(R64(AX))                                                            \
                         : "cc", "memory");                                                                            \
        c->cc = (uint16_t)cc;                                                                                          \
        if (!((uint16_t)cc & X86_CC_ZF))                                                                               \
            PUT##s(AX, (T)out);                                                                                        \
        NEXT;                                                                                                          \
    }
XCHG_T(1, "b", x86_u8)
XCHG_T(2, "w", x86_u16)
XCHG_T(4, "l", x86_u32)
XCHG_T(8, "q", x86_u64)
const uop_fn interp_xchg_rr[4] = ROW4(xchg, rr);
const uop_fn interp_xchg_rm[4][AM_COUNT] = ROW43(xchg, rm);
const uop_fn interp_xadd_lock[4][AM_COUNT] = ROW43(xadd, rml);
#define CX(s) {AMS(cmpxchg##s##_rm), AMS(cmpxchg##s##_rml)}
const uop_fn interp_cmpxchg[4][2][AM_COUNT] = {CX(1), CX(2), CX(4), CX(8)};

/* --- SETcc, CMOVcc ------------------------------------------------------------------ */

#define CMOV_T(n, name, s, T)                                                                                          \
    static UOP(cmov##name##s##_rr)                                                                                     \
    {                                                                                                                  \
        const T a = AT(T, u->dst), b = AT(T, u->src);                                                                  \
        PUT##s(u->dst, x86_cond(c, n) ? b : a);                                                                        \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    CMOV_AM(n, name, s, T, B) CMOV_AM(n, name, s, T, G) CMOV_AM(n, name, s, T, L) CMOV_AM(n, name, s, T, W) CMOV_AM(n, name, s, T, S)
#define CMOV_AM(n, name, s, T, am)                                                                                     \
    static UOP(cmov##name##s##_rm##am)                                                                                 \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
        const T a = AT(T, u->dst);                                                                                     \
        PUT##s(u->dst, x86_cond(c, n) ? x : a);                                                                        \
        NEXT;                                                                                                          \
    }
#define COND(n, name)                                                                                                  \
    static UOP(set##name)                                                                                              \
    {                                                                                                                  \
        R8(u->dst) = x86_cond(c, n);                                                                                   \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    CMOV_T(n, name, 2, x86_u16) CMOV_T(n, name, 4, x86_u32) CMOV_T(n, name, 8, x86_u64)
COND(0, o) COND(1, no) COND(2, b) COND(3, ae) COND(4, e) COND(5, ne) COND(6, be) COND(7, a)
COND(8, s) COND(9, ns) COND(10, p) COND(11, np) COND(12, l) COND(13, ge) COND(14, le) COND(15, g)
#define EACH(X) {X(o), X(no), X(b), X(ae), X(e), X(ne), X(be), X(a), X(s), X(ns), X(p), X(np), X(l), X(ge), X(le), X(g)}
#define SETN(n) set##n
#define CMRR(n) {NULL, cmov##n##2_rr, cmov##n##4_rr, cmov##n##8_rr}
#define CMRM(n) {{NULL}, AMS(cmov##n##2_rm), AMS(cmov##n##4_rm), AMS(cmov##n##8_rm)}
const uop_fn interp_setcc[16] = EACH(SETN);
const uop_fn interp_cmov_rr[16][4] = EACH(CMRR);
const uop_fn interp_cmov_rm[16][4][AM_COUNT] = EACH(CMRM);

/* --- stack, by enum flow ------------------------------------------------------------------ */

#define SP (X86_RSP * 8)
#define BP (X86_RBP * 8)
#define STACK_T(s, T)                                                                                                  \
    static UOP(push_r##s)                                                                                              \
    {                                                                                                                  \
        const uint64_t sp = STACK_OFF##s(R64(SP) - sizeof(T));                                                         \
        PLACE(T, p, STACK_LIN##s(sp, sizeof(T)));                                                                      \
        *p = AT(T, u->src);                                                                                            \
        STACK_SET##s(sp);                                                                                              \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(push_i##s)                                                                                              \
    {                                                                                                                  \
        const uint64_t sp = STACK_OFF##s(R64(SP) - sizeof(T));                                                         \
        PLACE(T, p, STACK_LIN##s(sp, sizeof(T)));                                                                      \
        *p = (T)u->imm;                                                                                                \
        STACK_SET##s(sp);                                                                                              \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(pop_r##s)                                                                                               \
    {                                                                                                                  \
        const uint64_t sp = STACK_OFF##s(R64(SP));                                                                     \
        LOAD(T, x, STACK_LIN##s(sp, sizeof(T)));                                                                       \
        STACK_SET##s(sp + sizeof(T));                                                                                  \
        STACK_PUT##s(u->dst, x);                                                                                       \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(leave##s)                                                                                               \
    {                                                                                                                  \
        const uint64_t bp = STACK_OFF##s(R64(BP));                                                                     \
        LOAD(T, x, STACK_LIN##s(bp, sizeof(T)));                                                                       \
        STACK_SET##s(bp + sizeof(T));                                                                                  \
        STACK_PUT##s(BP, x);                                                                                           \
        NEXT;                                                                                                          \
    }
#define PUSH_M(s, T, am)                                                                                               \
    static UOP(push_m##s##am)                                                                                          \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
        const uint64_t sp = STACK_OFF##s(R64(SP) - sizeof(T));                                                         \
        PLACE(T, p, STACK_LIN##s(sp, sizeof(T)));                                                                      \
        *p = x;                                                                                                        \
        STACK_SET##s(sp);                                                                                              \
        NEXT;                                                                                                          \
    }
STACK_T(8, x86_u64)
STACK_T(4, x86_u32)
STACK_T(2, x86_u16)
STACK_T(5, x86_u32)
PUSH_M(8, x86_u64, B) PUSH_M(8, x86_u64, G) PUSH_M(8, x86_u64, L) PUSH_M(4, x86_u32, L) PUSH_M(4, x86_u32, W)
PUSH_M(2, x86_u16, S) PUSH_M(5, x86_u32, S)
const uop_fn interp_push_r[FLOW_COUNT] = {push_r8, push_r4, push_r2, push_r5};
const uop_fn interp_push_i[FLOW_COUNT] = {push_i8, push_i4, push_i2, push_i5};
const uop_fn interp_push_m[FLOW_COUNT][AM_COUNT] = {{push_m8B, push_m8G, push_m8L}, {[AM_L] = push_m4L, [AM_W] = push_m4W},
                                                  {[AM_S] = push_m2S}, {[AM_S] = push_m5S}};
const uop_fn interp_pop_r[FLOW_COUNT] = {pop_r8, pop_r4, pop_r2, pop_r5};
const uop_fn interp_leave[FLOW_COUNT] = {leave8, leave4, leave2, leave5};
