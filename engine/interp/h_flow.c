/*
 * Handlers: branches. They end a block: count its instructions, set cpu->rip to
 * the target, look at vcpu->requests once, and go on in the next block.
 */
#include "engine/interp/interp.h"

typedef uint8_t x86_u8;

#define INLINE static inline __attribute__((always_inline))
#define SP (X86_RSP * 8)
#define CX (X86_RCX * 8)
#define TRUNC8(x) (x)
#define TRUNC4(x) ((uint64_t)(uint32_t)(x))
#define AM3(n) {n##B, n##G, n##L}

#define COUNT (vcpu_of(c)->insns += u->idx + 1u)
#define PENDING UNLIKELY(vcpu_requests(vcpu_of(c)))

/* Go on at the new RIP through a link of this uop. */
#define FOLLOW(l)                                                                                                      \
    do {                                                                                                               \
        if (PENDING)                                                                                                   \
            return NULL;                                                                                               \
        if (UNLIKELY(!u->l))                                                                                           \
            return interp_chain(c, (const struct uop **)(uintptr_t)&u->l);                                             \
        GOTO(u->l);                                                                                                    \
    } while (0)

/* Go on at the new RIP through the jump cache. In the modes that have these handlers CS has no base. */
#define LOOKUP                                                                                                         \
    do {                                                                                                               \
        const struct interp *it_ = interp_of(c);                                                                       \
        const struct jump *j_ = &it_->jump[jump_slot(c->rip)];                                                         \
        if (PENDING)                                                                                                   \
            return NULL;                                                                                               \
        if (UNLIKELY(j_->lin != c->rip || j_->key != it_->key))                                                        \
            return interp_chain_far(c);                                                                                \
        GOTO(j_->u);                                                                                                   \
    } while (0)

/* A 64-bit branch target that is not canonical faults at the branch: left to the exact way. */
#define BAD8(t) UNLIKELY(!x86_canonical(t))
#define BAD4(t) 0

INLINE void take(struct x86_cpu *c, const struct uop *u, unsigned s)
{
    c->rip += (uint64_t)(int64_t)u->delta;
    if (s == 4)
        c->rip = (uint32_t)c->rip;
}
INLINE void fall(struct x86_cpu *c, const struct uop *u, unsigned s)
{
    c->rip += (uint32_t)u->off + u->len;
    if (s == 4)
        c->rip = (uint32_t)c->rip;
}
#define TAKE(s)                                                                                                        \
    do {                                                                                                               \
        take(c, u, s);                                                                                                 \
        FOLLOW(link);                                                                                                  \
    } while (0)
#define FALL(s)                                                                                                        \
    do {                                                                                                               \
        fall(c, u, s);                                                                                                 \
        FOLLOW(link2);                                                                                                 \
    } while (0)

#define JCC(n, name, s)                                                                                                \
    static UOP(j##name##s)                                                                                             \
    {                                                                                                                  \
        COUNT;                                                                                                         \
        if (x86_cond(c, n))                                                                                            \
            TAKE(s);                                                                                                   \
        FALL(s);                                                                                                       \
    }
#define EACHN(X, ...)                                                                                                  \
    X(0, o, __VA_ARGS__) X(1, no, __VA_ARGS__) X(2, b, __VA_ARGS__) X(3, ae, __VA_ARGS__) X(4, e, __VA_ARGS__)          \
    X(5, ne, __VA_ARGS__) X(6, be, __VA_ARGS__) X(7, a, __VA_ARGS__) X(8, s, __VA_ARGS__) X(9, ns, __VA_ARGS__)         \
    X(10, p, __VA_ARGS__) X(11, np, __VA_ARGS__) X(12, l, __VA_ARGS__) X(13, ge, __VA_ARGS__)                           \
    X(14, le, __VA_ARGS__) X(15, g, __VA_ARGS__)
EACHN(JCC, 8)
EACHN(JCC, 4)
#define EACH(X, w)                                                                                                     \
    {                                                                                                                  \
        X(o, w), X(no, w), X(b, w), X(ae, w), X(e, w), X(ne, w), X(be, w), X(a, w), X(s, w), X(ns, w), X(p, w),        \
            X(np, w), X(l, w), X(ge, w), X(le, w), X(g, w)                                                             \
    }
#define J_N(n, s) j##n##s
const uop_fn interp_jcc[2][16] = {EACH(J_N, 8), EACH(J_N, 4)};

/* --- compare and branch in one ------------------------------------------------- */

/* u is the compare, u + 1 the branch; both are counted by the branch's idx. */
#define FUSE_TAIL(cond, s)                                                                                             \
    c->cc = cc;                                                                                                        \
    u++;                                                                                                               \
    COUNT;                                                                                                             \
    if (cond)                                                                                                          \
        TAKE(s);                                                                                                       \
    FALL(s)
#define FUSE_ASM(op, a, b, cond) __asm__(op " %3, %2" FLAGS_OUT : "=a"(cc), "=@cc" #cond(t) : "q"(a), SRC(b))
#define FUSE_REG(n, cond, op, z, T, s)                                                                                 \
    static UOP(op##z##_rr_##cond##s)                                                                                   \
    {                                                                                                                  \
        uint16_t cc;                                                                                                   \
        bool t;                                                                                                        \
        FUSE_ASM(#op, AT(T, u->dst), AT(T, u->src), cond);                                                             \
        FUSE_TAIL(t, s);                                                                                               \
    }                                                                                                                  \
    static UOP(op##z##_ri_##cond##s)                                                                                   \
    {                                                                                                                  \
        uint16_t cc;                                                                                                   \
        bool t;                                                                                                        \
        FUSE_ASM(#op, AT(T, u->dst), (T)u->imm, cond);                                                                 \
        FUSE_TAIL(t, s);                                                                                               \
    }
#define FUSE_MEM(n, cond, op, z, T, s)                                                                                 \
    static UOP(op##z##_mi_##cond##s)                                                                                   \
    {                                                                                                                  \
        LOAD(T, x, LIN_B);                                                                                             \
        uint16_t cc;                                                                                                   \
        bool t;                                                                                                        \
        FUSE_ASM(#op, x, (T)u->imm, cond);                                                                             \
        FUSE_TAIL(t, s);                                                                                               \
    }                                                                                                                  \
    static UOP(op##z##_rm_##cond##s)                                                                                   \
    {                                                                                                                  \
        LOAD(T, x, LIN_B);                                                                                             \
        uint16_t cc;                                                                                                   \
        bool t;                                                                                                        \
        FUSE_ASM(#op, AT(T, u->dst), x, cond);                                                                         \
        FUSE_TAIL(t, s);                                                                                               \
    }
#define FUSE_SIZES(op)                                                                                                 \
    EACHN(FUSE_REG, op, 1, x86_u8, 8)                                                                                  \
    EACHN(FUSE_REG, op, 2, x86_u16, 8)                                                                                 \
    EACHN(FUSE_REG, op, 4, x86_u32, 8)                                                                                 \
    EACHN(FUSE_REG, op, 8, x86_u64, 8)                                                                                 \
    EACHN(FUSE_REG, op, 1, x86_u8, 4)                                                                                  \
    EACHN(FUSE_REG, op, 2, x86_u16, 4)                                                                                 \
    EACHN(FUSE_REG, op, 4, x86_u32, 4)                                                                                 \
    EACHN(FUSE_MEM, op, 1, x86_u8, 8)                                                                                  \
    EACHN(FUSE_MEM, op, 2, x86_u16, 8)                                                                                 \
    EACHN(FUSE_MEM, op, 4, x86_u32, 8)                                                                                 \
    EACHN(FUSE_MEM, op, 8, x86_u64, 8)
FUSE_SIZES(cmp)
FUSE_SIZES(test)
#define ROW16(f, w)                                                                                                    \
    {                                                                                                                  \
        f##_o##w, f##_no##w, f##_b##w, f##_ae##w, f##_e##w, f##_ne##w, f##_be##w, f##_a##w, f##_s##w, f##_ns##w,       \
            f##_p##w, f##_np##w, f##_l##w, f##_ge##w, f##_le##w, f##_g##w                                              \
    }
#define FUSE_T(f)                                                                                                      \
    {                                                                                                                  \
        {ROW16(cmp1_##f, 8), ROW16(cmp2_##f, 8), ROW16(cmp4_##f, 8), ROW16(cmp8_##f, 8)},                              \
        {                                                                                                              \
            ROW16(test1_##f, 8), ROW16(test2_##f, 8), ROW16(test4_##f, 8), ROW16(test8_##f, 8)                         \
        }                                                                                                              \
    }
#define FUSE_T32(f)                                                                                                    \
    {                                                                                                                  \
        {ROW16(cmp1_##f, 4), ROW16(cmp2_##f, 4), ROW16(cmp4_##f, 4), {NULL}},                                          \
        {                                                                                                              \
            ROW16(test1_##f, 4), ROW16(test2_##f, 4), ROW16(test4_##f, 4), {NULL}                                      \
        }                                                                                                              \
    }
const uop_fn interp_fuse_rr[2][4][16] = FUSE_T(rr);
const uop_fn interp_fuse_ri[2][4][16] = FUSE_T(ri);
const uop_fn interp_fuse_mi[2][4][16] = FUSE_T(mi);
const uop_fn interp_fuse_rm[2][4][16] = FUSE_T(rm);
const uop_fn interp_fuse32_rr[2][4][16] = FUSE_T32(rr);
const uop_fn interp_fuse32_ri[2][4][16] = FUSE_T32(ri);

/* Arithmetic on a register whose flags the branch behind it reads. */
#define PUT4(o, v) (R64(o) = (uint32_t)(v))
#define PUT8(o, v) (R64(o) = (v))
#define FUSE_ALU(n, cond, op, z, T, s)                                                                                 \
    static UOP(op##z##_rr_##cond##s)                                                                                   \
    {                                                                                                                  \
        T d = AT(T, u->dst);                                                                                           \
        uint16_t cc;                                                                                                   \
        bool t;                                                                                                        \
        __asm__(#op " %3, %0" FLAGS_OUT : "+q"(d), "=a"(cc), "=@cc" #cond(t) : SRC(AT(T, u->src)));                    \
        PUT##z(u->dst, d);                                                                                             \
        FUSE_TAIL(t, s);                                                                                               \
    }                                                                                                                  \
    static UOP(op##z##_ri_##cond##s)                                                                                   \
    {                                                                                                                  \
        T d = AT(T, u->dst);                                                                                           \
        uint16_t cc;                                                                                                   \
        bool t;                                                                                                        \
        __asm__(#op " %3, %0" FLAGS_OUT : "+q"(d), "=a"(cc), "=@cc" #cond(t) : SRC((T)u->imm));                        \
        PUT##z(u->dst, d);                                                                                             \
        FUSE_TAIL(t, s);                                                                                               \
    }
#define FUSE_UN(n, cond, op, z, T, s)                                                                                  \
    static UOP(op##z##_r_##cond##s)                                                                                    \
    {                                                                                                                  \
        T d = AT(T, u->dst);                                                                                           \
        uint16_t cc;                                                                                                   \
        bool t;                                                                                                        \
        __asm__("btl $8, %k3\n\t" #op " %0" FLAGS_OUT : "+q"(d), "=a"(cc), "=@cc" #cond(t) : "r"(c->cc));              \
        PUT##z(u->dst, d);                                                                                             \
        FUSE_TAIL(t, s);                                                                                               \
    }
#define FUSE_WIDTHS(X, op)                                                                                             \
    EACHN(X, op, 4, x86_u32, 8)                                                                                        \
    EACHN(X, op, 8, x86_u64, 8)                                                                                        \
    EACHN(X, op, 4, x86_u32, 4)
FUSE_WIDTHS(FUSE_ALU, add)
FUSE_WIDTHS(FUSE_ALU, sub)
FUSE_WIDTHS(FUSE_ALU, and)
FUSE_WIDTHS(FUSE_UN, inc)
FUSE_WIDTHS(FUSE_UN, dec)
#define W3(op, f) {ROW16(op##4_##f, 8), ROW16(op##8_##f, 8), ROW16(op##4_##f, 4)}
const uop_fn interp_fuse_alu_rr[ALU_COUNT][3][16] = {[ALU_ADD] = W3(add, rr), [ALU_SUB] = W3(sub, rr), [ALU_AND] = W3(and, rr)};
const uop_fn interp_fuse_alu_ri[ALU_COUNT][3][16] = {[ALU_ADD] = W3(add, ri), [ALU_SUB] = W3(sub, ri), [ALU_AND] = W3(and, ri)};
const uop_fn interp_fuse_un[2][3][16] = {W3(inc, r), W3(dec, r)};

/* --- JMP, CALL, RET -------------------------------------------------------------- */

#define FLOW(s, T)                                                                                                     \
    static UOP(jmp##s)                                                                                                 \
    {                                                                                                                  \
        COUNT;                                                                                                         \
        TAKE(s);                                                                                                       \
    }                                                                                                                  \
    static UOP(fall##s) /* no instruction: the block is full or the page ends */                                       \
    {                                                                                                                  \
        vcpu_of(c)->insns += u->idx;                                                                                   \
        fall(c, u, s);                                                                                                 \
        FOLLOW(link2);                                                                                                 \
    }                                                                                                                  \
    static UOP(call##s)                                                                                                \
    {                                                                                                                  \
        const uint64_t sp = TRUNC##s(R64(SP) - s);                                                                     \
        if (BAD##s(c->rip + (uint64_t)(int64_t)u->delta))                                                              \
            return interp_redo(c, u);                                                                                  \
        PLACE(T, p, sp);                                                                                               \
        *p = (T)(c->rip + u->off + u->len);                                                                            \
        R64(SP) = sp;                                                                                                  \
        COUNT;                                                                                                         \
        TAKE(s);                                                                                                       \
    }                                                                                                                  \
    static UOP(ret##s)                                                                                                 \
    {                                                                                                                  \
        const uint64_t sp = TRUNC##s(R64(SP));                                                                         \
        LOAD(T, t, sp);                                                                                                \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        R64(SP) = TRUNC##s(sp + s);                                                                                    \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP;                                                                                                        \
    }                                                                                                                  \
    static UOP(ret_imm##s)                                                                                             \
    {                                                                                                                  \
        const uint64_t sp = TRUNC##s(R64(SP));                                                                         \
        LOAD(T, t, sp);                                                                                                \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        R64(SP) = TRUNC##s(sp + s + (uint64_t)u->imm);                                                                 \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP;                                                                                                        \
    }                                                                                                                  \
    static UOP(jmp_r##s)                                                                                               \
    {                                                                                                                  \
        const uint64_t t = AT(T, u->src);                                                                              \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP;                                                                                                        \
    }                                                                                                                  \
    static UOP(call_r##s)                                                                                              \
    {                                                                                                                  \
        const uint64_t t = AT(T, u->src), sp = TRUNC##s(R64(SP) - s);                                                  \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        PLACE(T, p, sp);                                                                                               \
        *p = (T)(c->rip + u->off + u->len);                                                                            \
        R64(SP) = sp;                                                                                                  \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP;                                                                                                        \
    }                                                                                                                  \
    static UOP(loop##s)                                                                                                \
    {                                                                                                                  \
        const T n = (T)(AT(T, CX) - 1);                                                                                \
        R64(CX) = n;                                                                                                   \
        COUNT;                                                                                                         \
        if (n)                                                                                                         \
            TAKE(s);                                                                                                   \
        FALL(s);                                                                                                       \
    }                                                                                                                  \
    static UOP(jcxz##s)                                                                                                \
    {                                                                                                                  \
        COUNT;                                                                                                         \
        if (!AT(T, CX))                                                                                                \
            TAKE(s);                                                                                                   \
        FALL(s);                                                                                                       \
    }
#define FLOW_M(s, T, am)                                                                                               \
    static UOP(jmp_m##s##am)                                                                                           \
    {                                                                                                                  \
        LOAD(T, t, LIN_##am);                                                                                          \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP;                                                                                                        \
    }                                                                                                                  \
    static UOP(call_m##s##am)                                                                                          \
    {                                                                                                                  \
        LOAD(T, t, LIN_##am);                                                                                          \
        const uint64_t sp = TRUNC##s(R64(SP) - s);                                                                     \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        PLACE(T, p, sp);                                                                                               \
        *p = (T)(c->rip + u->off + u->len);                                                                            \
        R64(SP) = sp;                                                                                                  \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP;                                                                                                        \
    }
FLOW(8, x86_u64)
FLOW(4, x86_u32)
FLOW_M(8, x86_u64, B)
FLOW_M(8, x86_u64, G)
FLOW_M(8, x86_u64, L)
FLOW_M(4, x86_u32, L)
const uop_fn interp_jmp[2] = {jmp8, jmp4}, interp_fall[2] = {fall8, fall4}, interp_call[2] = {call8, call4},
             interp_ret[2] = {ret8, ret4}, interp_ret_imm[2] = {ret_imm8, ret_imm4}, interp_jmp_r[2] = {jmp_r8, jmp_r4},
             interp_call_r[2] = {call_r8, call_r4}, interp_loop[2] = {loop8, loop4}, interp_jcxz[2] = {jcxz8, jcxz4};
const uop_fn interp_jmp_m[2][AM_COUNT] = {AM3(jmp_m8), {NULL, NULL, jmp_m4L}};
const uop_fn interp_call_m[2][AM_COUNT] = {AM3(call_m8), {NULL, NULL, call_m4L}};

/* --- from block to block --------------------------------------------------------- */

static UOP(hop)
{
    (void)u;
    LOOKUP;
}
const struct uop interp_far_link = {.fn = hop};

/* A block that was invalidated. Linked code may still jump here: RIP is set, so the dispatcher looks the new one up. */
UOP(interp_dead) { return NULL; }
/* Its successor is known. */
UOP(interp_forward)
{
    GOTO(u->link);
}

/* The end of a block in the modes where every branch goes through the dispatcher. */
UOP(interp_stop)
{
    vcpu_of(c)->insns += u->idx;
    c->rip = (uint32_t)(c->rip + u->off);
    return NULL;
}
