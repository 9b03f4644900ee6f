/*
 * Handlers: branches. They end a block: count its instructions, set cpu->rip to
 * the target, look at vcpu->requests once, and go on in the next block.
 */
#include "engine/interp/interp.h"

typedef uint8_t x86_u8;

#define INLINE static inline __attribute__((always_inline))
#define SP (X86_RSP * 8)
#define CX (X86_RCX * 8)
#define AMS(n) {n##B, n##G, n##L, n##W, n##S}

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

/* Go on at the new RIP through the jump cache. */
#define LIN8(v) (v)
#define LIN4(v) (v)
#define LIN2(v) ((uint32_t)((v) + c->seg[X86_CS].base))
#define LIN5 LIN2
#define LOOKUP(s)                                                                                                      \
    do {                                                                                                               \
        const uint64_t lin_ = LIN##s(c->rip);                                                                          \
        const struct interp *it_ = interp_of(c);                                                                       \
        const struct jump *j_ = &it_->jump[jump_slot(lin_)];                                                           \
        if (PENDING)                                                                                                   \
            return NULL;                                                                                               \
        if (UNLIKELY(j_->lin != lin_ || j_->key != it_->key))                                                          \
            return interp_chain_far(c);                                                                                \
        GOTO(j_->u);                                                                                                   \
    } while (0)

/* A 64-bit branch target that is not canonical faults at the branch: left to the exact way. So is, in a segment, one
 * from where a block might reach the limit or the end of 64 KiB: blocks reached through links have no test of their own. */
#define BAD8(t) UNLIKELY(!x86_canonical(t))
#define BAD4(t) 0
#define BAD2(t) UNLIKELY((uint64_t)(t) + BLOCK_BYTES > (c->seg[X86_CS].limit < 0xffff ? c->seg[X86_CS].limit : 0xffffu))
#define BAD5(t) UNLIKELY((uint64_t)(t) + BLOCK_BYTES > c->seg[X86_CS].limit)
#define TARGET ((uint64_t)(uint32_t)(c->rip + (uint64_t)(int64_t)u->delta))
#define BEHIND ((uint64_t)(uint32_t)(c->rip + u->off + u->len))
#define EDGES8
#define EDGES4
#define EDGES2                                                                                                         \
    if (BAD2(TARGET) || BAD2(BEHIND))                                                                                  \
    return interp_redo(c, u)
#define EDGES5                                                                                                         \
    if (BAD5(TARGET) || BAD5(BEHIND))                                                                                  \
    return interp_redo(c, u)
#define BADREL8 BAD8(c->rip + (uint64_t)(int64_t)u->delta)
#define BADREL4 0
#define BADREL2 (BAD2(TARGET) || BAD2(BEHIND))
#define BADREL5 (BAD5(TARGET) || BAD5(BEHIND))
#define FALLS8 0
#define FALLS4 0
#define FALLS2 BAD2(c->rip)
#define FALLS5 BAD5(c->rip)

INLINE void take(struct x86_cpu *c, const struct uop *u, unsigned s)
{
    c->rip += (uint64_t)(int64_t)u->delta;
    if (s != 8)
        c->rip = (uint32_t)c->rip;
}
INLINE void fall(struct x86_cpu *c, const struct uop *u, unsigned s)
{
    c->rip += (uint32_t)u->off + u->len;
    if (s != 8)
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
        EDGES##s;                                                                                                      \
        COUNT;                                                                                                         \
        if (x86_cond(c, n))                                                                                            \
            TAKE(s);                                                                                                   \
        FALL(s);                                                                                                       \
    }
#define EACHN(X, ...)                                                                                                  \
    X(0, o, __VA_ARGS__) X(1, no, __VA_ARGS__) X(2, b, __VA_ARGS__) X(3, ae, __VA_ARGS__) X(4, e, __VA_ARGS__)         \
    X(5, ne, __VA_ARGS__) X(6, be, __VA_ARGS__) X(7, a, __VA_ARGS__) X(8, s, __VA_ARGS__) X(9, ns, __VA_ARGS__)        \
    X(10, p, __VA_ARGS__) X(11, np, __VA_ARGS__) X(12, l, __VA_ARGS__) X(13, ge, __VA_ARGS__)                          \
    X(14, le, __VA_ARGS__) X(15, g, __VA_ARGS__)
EACHN(JCC, 8)
EACHN(JCC, 4)
EACHN(JCC, 2)
EACHN(JCC, 5)
#define EACH(X, w)                                                                                                     \
    {                                                                                                                  \
        X(o, w), X(no, w), X(b, w), X(ae, w), X(e, w), X(ne, w), X(be, w), X(a, w), X(s, w), X(ns, w), X(p, w),        \
            X(np, w), X(l, w), X(ge, w), X(le, w), X(g, w)                                                             \
    }
#define J_N(n, s) j##n##s
const uop_fn interp_jcc[FLOW_COUNT][16] = {EACH(J_N, 8), EACH(J_N, 4), EACH(J_N, 2), EACH(J_N, 5)};

/* --- compare and branch in one ------------------------------------------------- */

/* u is the compare, u + 1 the branch; both are counted by the branch's idx. */
#define FUSE_TAIL(cond, s)                                                                                             \
    c->cc = cc;                                                                                                        \
    u++;                                                                                                               \
    EDGES##s;                                                                                                          \
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
#define FUSE_MEM(n, cond, op, z, T, s, am)                                                                             \
    static UOP(op##z##_mi_##cond##s)                                                                                   \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
        uint16_t cc;                                                                                                   \
        bool t;                                                                                                        \
        FUSE_ASM(#op, x, (T)u->imm, cond);                                                                             \
        FUSE_TAIL(t, s);                                                                                               \
    }                                                                                                                  \
    static UOP(op##z##_rm_##cond##s)                                                                                   \
    {                                                                                                                  \
        LOAD(T, x, LIN_##am(sizeof(T)));                                                                               \
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
    EACHN(FUSE_MEM, op, 1, x86_u8, 8, B)                                                                               \
    EACHN(FUSE_MEM, op, 2, x86_u16, 8, B)                                                                              \
    EACHN(FUSE_MEM, op, 4, x86_u32, 8, B)                                                                              \
    EACHN(FUSE_MEM, op, 8, x86_u64, 8, B)                                                                              \
    FUSE_SMALL(op, 4, W)                                                                                               \
    FUSE_SMALL(op, 2, S)                                                                                               \
    FUSE_SMALL(op, 5, S)
#define FUSE_SMALL(op, s, am)                                                                                          \
    EACHN(FUSE_REG, op, 1, x86_u8, s)                                                                                  \
    EACHN(FUSE_REG, op, 2, x86_u16, s)                                                                                 \
    EACHN(FUSE_REG, op, 4, x86_u32, s)                                                                                 \
    EACHN(FUSE_MEM, op, 1, x86_u8, s, am)                                                                              \
    EACHN(FUSE_MEM, op, 2, x86_u16, s, am)                                                                             \
    EACHN(FUSE_MEM, op, 4, x86_u32, s, am)
FUSE_SIZES(cmp)
FUSE_SIZES(test)
#define ROW16(f, w)                                                                                                    \
    {                                                                                                                  \
        f##_o##w, f##_no##w, f##_b##w, f##_ae##w, f##_e##w, f##_ne##w, f##_be##w, f##_a##w, f##_s##w, f##_ns##w,       \
            f##_p##w, f##_np##w, f##_l##w, f##_ge##w, f##_le##w, f##_g##w                                              \
    }
#define FUSE_8(op, f) {ROW16(op##1_##f, 8), ROW16(op##2_##f, 8), ROW16(op##4_##f, 8), ROW16(op##8_##f, 8)}
#define FUSE_4(op, f, s) {ROW16(op##1_##f, s), ROW16(op##2_##f, s), ROW16(op##4_##f, s), {NULL}}
#define FUSE_T(f)                                                                                                      \
    {                                                                                                                  \
        {FUSE_8(cmp, f), FUSE_8(test, f)}, {FUSE_4(cmp, f, 4), FUSE_4(test, f, 4)}, {FUSE_4(cmp, f, 2), FUSE_4(test, f, 2)}, \
            {FUSE_4(cmp, f, 5), FUSE_4(test, f, 5)}                                                                    \
    }
const uop_fn interp_fuse_rr[FLOW_COUNT][2][4][16] = FUSE_T(rr);
const uop_fn interp_fuse_ri[FLOW_COUNT][2][4][16] = FUSE_T(ri);
const uop_fn interp_fuse_mi[FLOW_COUNT][2][4][16] = FUSE_T(mi);
const uop_fn interp_fuse_rm[FLOW_COUNT][2][4][16] = FUSE_T(rm);

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
        EDGES##s;                                                                                                      \
        COUNT;                                                                                                         \
        TAKE(s);                                                                                                       \
    }                                                                                                                  \
    static UOP(fall##s) /* no instruction: the block is full or the page ends */                                       \
    {                                                                                                                  \
        vcpu_of(c)->insns += u->idx;                                                                                   \
        fall(c, u, s);                                                                                                 \
        if (FALLS##s)                                                                                                  \
            return NULL;                                                                                               \
        FOLLOW(link2);                                                                                                 \
    }                                                                                                                  \
    static UOP(call##s)                                                                                                \
    {                                                                                                                  \
        const uint64_t sp = STACK_OFF##s(R64(SP) - sizeof(T));                                                         \
        if (BADREL##s)                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        PLACE(T, p, STACK_LIN##s(sp, sizeof(T)));                                                                      \
        *p = (T)(c->rip + u->off + u->len);                                                                            \
        STACK_SET##s(sp);                                                                                              \
        COUNT;                                                                                                         \
        TAKE(s);                                                                                                       \
    }                                                                                                                  \
    static UOP(ret##s)                                                                                                 \
    {                                                                                                                  \
        const uint64_t sp = STACK_OFF##s(R64(SP));                                                                     \
        LOAD(T, t, STACK_LIN##s(sp, sizeof(T)));                                                                       \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        STACK_SET##s(sp + sizeof(T));                                                                                  \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP(s);                                                                                                     \
    }                                                                                                                  \
    static UOP(ret_imm##s)                                                                                             \
    {                                                                                                                  \
        const uint64_t sp = STACK_OFF##s(R64(SP));                                                                     \
        LOAD(T, t, STACK_LIN##s(sp, sizeof(T)));                                                                       \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        STACK_SET##s(sp + sizeof(T) + (uint64_t)u->imm);                                                               \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP(s);                                                                                                     \
    }                                                                                                                  \
    static UOP(jmp_r##s)                                                                                               \
    {                                                                                                                  \
        const uint64_t t = AT(T, u->src);                                                                              \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP(s);                                                                                                     \
    }                                                                                                                  \
    static UOP(call_r##s)                                                                                              \
    {                                                                                                                  \
        const uint64_t t = AT(T, u->src), sp = STACK_OFF##s(R64(SP) - sizeof(T));                                      \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        PLACE(T, p, STACK_LIN##s(sp, sizeof(T)));                                                                      \
        *p = (T)(c->rip + u->off + u->len);                                                                            \
        STACK_SET##s(sp);                                                                                              \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP(s);                                                                                                     \
    }                                                                                                                  \
    static UOP(loop##s)                                                                                                \
    {                                                                                                                  \
        const T n = (T)(AT(T, CX) - 1);                                                                                \
        EDGES##s;                                                                                                      \
        STACK_PUT##s(CX, n);                                                                                           \
        COUNT;                                                                                                         \
        if (n)                                                                                                         \
            TAKE(s);                                                                                                   \
        FALL(s);                                                                                                       \
    }                                                                                                                  \
    static UOP(jcxz##s)                                                                                                \
    {                                                                                                                  \
        EDGES##s;                                                                                                      \
        COUNT;                                                                                                         \
        if (!AT(T, CX))                                                                                                \
            TAKE(s);                                                                                                   \
        FALL(s);                                                                                                       \
    }
#define FLOW_M(s, T, am)                                                                                               \
    static UOP(jmp_m##s##am)                                                                                           \
    {                                                                                                                  \
        LOAD(T, t, LIN_##am(sizeof(T)));                                                                               \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP(s);                                                                                                     \
    }                                                                                                                  \
    static UOP(call_m##s##am)                                                                                          \
    {                                                                                                                  \
        LOAD(T, t, LIN_##am(sizeof(T)));                                                                               \
        const uint64_t sp = STACK_OFF##s(R64(SP) - sizeof(T));                                                         \
        if (BAD##s(t))                                                                                                 \
            return interp_redo(c, u);                                                                                  \
        PLACE(T, p, STACK_LIN##s(sp, sizeof(T)));                                                                      \
        *p = (T)(c->rip + u->off + u->len);                                                                            \
        STACK_SET##s(sp);                                                                                              \
        COUNT;                                                                                                         \
        c->rip = t;                                                                                                    \
        LOOKUP(s);                                                                                                     \
    }
FLOW(8, x86_u64)
FLOW(4, x86_u32)
FLOW(2, x86_u16)
FLOW(5, x86_u32)
FLOW_M(8, x86_u64, B)
FLOW_M(8, x86_u64, G)
FLOW_M(8, x86_u64, L)
FLOW_M(4, x86_u32, L)
FLOW_M(4, x86_u32, W)
FLOW_M(2, x86_u16, S)
FLOW_M(5, x86_u32, S)
#define FLOWS(n) {n##8, n##4, n##2, n##5}
#define FLOWS_M(n) {{n##8B, n##8G, n##8L}, {[AM_L] = n##4L, [AM_W] = n##4W}, {[AM_S] = n##2S}, {[AM_S] = n##5S}}
const uop_fn interp_jmp[FLOW_COUNT] = FLOWS(jmp), interp_fall[FLOW_COUNT] = FLOWS(fall), interp_call[FLOW_COUNT] = FLOWS(call),
             interp_ret[FLOW_COUNT] = FLOWS(ret), interp_ret_imm[FLOW_COUNT] = FLOWS(ret_imm), interp_jmp_r[FLOW_COUNT] = FLOWS(jmp_r),
             interp_call_r[FLOW_COUNT] = FLOWS(call_r), interp_loop[FLOW_COUNT] = FLOWS(loop), interp_jcxz[FLOW_COUNT] = FLOWS(jcxz);
const uop_fn interp_jmp_m[FLOW_COUNT][AM_COUNT] = FLOWS_M(jmp_m), interp_call_m[FLOW_COUNT][AM_COUNT] = FLOWS_M(call_m);

/* --- from block to block --------------------------------------------------------- */

static UOP(hop)
{
    (void)u;
    LOOKUP(8);
}
static UOP(hop_seg)
{
    (void)u;
    LOOKUP(2);
}
const struct uop interp_far_link[FLOW_COUNT] = {{.fn = hop}, {.fn = hop}, {.fn = hop_seg}, {.fn = hop_seg}};

UOP(interp_far_taken)
{
    if (UNLIKELY(!x86_canonical(c->rip))) { /* the branch itself faults: it has not been executed */
        c->rip -= (uint64_t)(int64_t)u->delta;
        vcpu_of(c)->insns -= u->idx + 1u;
        return interp_redo(c, u);
    }
    LOOKUP(8);
}

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
