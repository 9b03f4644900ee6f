/*
 * Handlers: the commonest SSE instructions and 128- and 256-bit vector moves and logic, in 64-bit and flat 32-bit code.
 *
 * Blocks of mode MODE_SSE (MODE_AVX) are made only while CR0, CR4 and XCR0 let these instructions run. What the
 * handlers do not cover (misaligned operands that must fault, page crossings, unusual MXCSR) goes to the executors
 * of x86/, with the decoded instruction the uop keeps.
 *
 * Each operation is the host's own instruction. Vectors of 256 bits are two halves. Arithmetic runs under the host's MXCSR,
 * which is the guest's but for the exception flags: these are sticky on both sides, so nothing need be written
 * while the host's show nothing that the guest's do not have; otherwise they are cleared and the operation is done again.
 */
#include <emmintrin.h>

#include "engine/interp/interp.h"

#define MXCSR_DEFAULT 0x1f80u /* what our own code runs with */

typedef __m128i vec;
#define X(n) (*(vec *)(void *)c->fpu.xmm[n])
#define YH(n) (*(vec *)(void *)c->fpu.ymmh[n])
#define INLINE static inline __attribute__((always_inline))

/* Host address of a memory operand, or leave. Alignment is demanded by most legacy forms. */
#define VMEM(host, size, am, align, rw, access)                                                                        \
    const uint64_t lin_ = LIN_##am(size);                                                                              \
    if (UNLIKELY((align) && (lin_ & ((size)-1))) || UNLIKELY((lin_ & 0xfff) + (size) > 0x1000))                        \
        return interp_insn(c, u);                                                                                      \
    const uint64_t host = x86_tlb_host_##rw(c, lin_, size);                                                            \
    if (UNLIKELY(!host))                                                                                               \
    return interp_miss(c, u, lin_, access | (size) << 8)
#define VLOAD(host, size, am, align) VMEM(host, size, am, align, r, X86_READ)
#define VSTORE(host, size, am, align) VMEM(host, size, am, align, w, X86_WRITE)
#define GET16(host) _mm_loadu_si128((const vec *)(uintptr_t)(host))
#define PUT16(host, v) _mm_storeu_si128((vec *)(uintptr_t)(host), (v))
#define GET8(host) _mm_cvtsi64_si128((int64_t)*(const x86_u64 *)(host))
#define GET4(host) _mm_cvtsi32_si128((int32_t)*(const x86_u32 *)(host))

/* --- moves ------------------------------------------------------------------ */

#define MOVES(am)                                                                                                      \
    static UOP(load16a##am)                                                                                            \
    {                                                                                                                  \
        VLOAD(h, 16, am, 1);                                                                                           \
        X(u->dst) = GET16(h);                                                                                          \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(load16u##am)                                                                                            \
    {                                                                                                                  \
        VLOAD(h, 16, am, 0);                                                                                           \
        X(u->dst) = GET16(h);                                                                                          \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(load8##am)                                                                                              \
    {                                                                                                                  \
        VLOAD(h, 8, am, 0);                                                                                            \
        X(u->dst) = GET8(h);                                                                                           \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(load4##am)                                                                                              \
    {                                                                                                                  \
        VLOAD(h, 4, am, 0);                                                                                            \
        X(u->dst) = GET4(h);                                                                                           \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(loadlo##am)                                                                                             \
    {                                                                                                                  \
        VLOAD(h, 8, am, 0);                                                                                            \
        *(x86_u64 *)c->fpu.xmm[u->dst] = *(const x86_u64 *)h;                                                          \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(loadhi##am)                                                                                             \
    {                                                                                                                  \
        VLOAD(h, 8, am, 0);                                                                                            \
        *(x86_u64 *)(c->fpu.xmm[u->dst] + 8) = *(const x86_u64 *)h;                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(store16a##am)                                                                                           \
    {                                                                                                                  \
        VSTORE(h, 16, am, 1);                                                                                          \
        PUT16(h, X(u->src));                                                                                           \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(store16u##am)                                                                                           \
    {                                                                                                                  \
        VSTORE(h, 16, am, 0);                                                                                          \
        PUT16(h, X(u->src));                                                                                           \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(store8##am)                                                                                             \
    {                                                                                                                  \
        VSTORE(h, 8, am, 0);                                                                                           \
        *(x86_u64 *)h = *(const x86_u64 *)c->fpu.xmm[u->src];                                                          \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(store4##am)                                                                                             \
    {                                                                                                                  \
        VSTORE(h, 4, am, 0);                                                                                           \
        *(x86_u32 *)h = *(const x86_u32 *)c->fpu.xmm[u->src];                                                          \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(storehi##am)                                                                                            \
    {                                                                                                                  \
        VSTORE(h, 8, am, 0);                                                                                           \
        *(x86_u64 *)h = *(const x86_u64 *)(c->fpu.xmm[u->src] + 8);                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(vload16u##am)                                                                                           \
    {                                                                                                                  \
        VLOAD(h, 16, am, 0);                                                                                           \
        X(u->dst) = GET16(h);                                                                                          \
        YH(u->dst) = _mm_setzero_si128();                                                                              \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(vload32u##am)                                                                                           \
    {                                                                                                                  \
        VLOAD(h, 32, am, 0);                                                                                           \
        X(u->dst) = GET16(h);                                                                                          \
        YH(u->dst) = GET16(h + 16);                                                                                    \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(vstore32u##am)                                                                                          \
    {                                                                                                                  \
        VSTORE(h, 32, am, 0);                                                                                          \
        PUT16(h, X(u->src));                                                                                           \
        PUT16(h + 16, YH(u->src));                                                                                     \
        NEXT;                                                                                                          \
    }
MOVES(B)
MOVES(G)
MOVES(L)
MOVES(W)
#define AMS(n) {n##B, n##G, n##L, n##W, NULL}
static const uop_fn load16[2][AM_COUNT] = {AMS(load16u), AMS(load16a)}, store16[2][AM_COUNT] = {AMS(store16u), AMS(store16a)},
                    load8[AM_COUNT] = AMS(load8), load4[AM_COUNT] = AMS(load4), loadlo[AM_COUNT] = AMS(loadlo),
                    loadhi[AM_COUNT] = AMS(loadhi), store8[AM_COUNT] = AMS(store8), store4[AM_COUNT] = AMS(store4),
                    storehi[AM_COUNT] = AMS(storehi), vload16[AM_COUNT] = AMS(vload16u), vload32[AM_COUNT] = AMS(vload32u),
                    vstore32[AM_COUNT] = AMS(vstore32u);

#define GEN(name, stmt)                                                                                                \
    static UOP(name)                                                                                                   \
    {                                                                                                                  \
        stmt;                                                                                                          \
        NEXT;                                                                                                          \
    }
GEN(mov_vv, X(u->dst) = X(u->src))
GEN(mov4_vv, *(x86_u32 *)c->fpu.xmm[u->dst] = *(const x86_u32 *)c->fpu.xmm[u->src])
GEN(mov8_vv, *(x86_u64 *)c->fpu.xmm[u->dst] = *(const x86_u64 *)c->fpu.xmm[u->src])
GEN(movq_vv, X(u->dst) = _mm_move_epi64(X(u->src)))
GEN(movq_vg, X(u->dst) = _mm_cvtsi64_si128((int64_t)R64(u->src)))
GEN(movd_vg, X(u->dst) = _mm_cvtsi32_si128((int32_t)R32(u->src)))
GEN(movq_gv, R64(u->dst) = *(const x86_u64 *)c->fpu.xmm[u->src])
GEN(movd_gv, R64(u->dst) = *(const x86_u32 *)c->fpu.xmm[u->src])
GEN(movmskb, R64(u->dst) = (uint32_t)_mm_movemask_epi8(X(u->src)))
GEN(vmovmskb, R64(u->dst) = (uint32_t)_mm_movemask_epi8(X(u->src)) | (uint32_t)_mm_movemask_epi8(YH(u->src)) << 16)
GEN(vmov16_vv, X(u->dst) = X(u->src); YH(u->dst) = _mm_setzero_si128())
GEN(vmov32_vv, X(u->dst) = X(u->src); YH(u->dst) = YH(u->src))
GEN(vzeroupper, __builtin_memset(c->fpu.ymmh, 0, (c->mode == X86_MODE_64 ? 16 : 8) * 16))

/* --- integer and logic ----------------------------------------------------------- */

#define V_OP(name)                                                                                                     \
    INLINE vec name##_v(vec d, vec s)                                                                                  \
    {                                                                                                                  \
        __asm__(#name " %1, %0" : "+x"(d) : "x"(s));                                                                   \
        return d;                                                                                                      \
    }                                                                                                                  \
    GEN(name##_rr, X(u->dst) = name##_v(X(u->dst), X(u->src)))                                                         \
    V_M(name, B) V_M(name, G) V_M(name, L) V_M(name, W)
#define V_M(name, am)                                                                                                  \
    static UOP(name##_rm##am)                                                                                          \
    {                                                                                                                  \
        VLOAD(h, 16, am, 1);                                                                                           \
        X(u->dst) = name##_v(X(u->dst), GET16(h));                                                                     \
        NEXT;                                                                                                          \
    }
/* VEX forms: sources in aux and src or memory; memory need not be aligned. */
#define VEX_OP(name)                                                                                                   \
    GEN(v16##name##_rr, X(u->dst) = name##_v(X(u->aux), X(u->src)); YH(u->dst) = _mm_setzero_si128())                  \
    GEN(v32##name##_rr, X(u->dst) = name##_v(X(u->aux), X(u->src)); YH(u->dst) = name##_v(YH(u->aux), YH(u->src)))     \
    VEX_M(name, B) VEX_M(name, G) VEX_M(name, L) VEX_M(name, W)
#define VEX_M(name, am)                                                                                                \
    static UOP(v16##name##_rm##am)                                                                                     \
    {                                                                                                                  \
        VLOAD(h, 16, am, 0);                                                                                           \
        X(u->dst) = name##_v(X(u->aux), GET16(h));                                                                     \
        YH(u->dst) = _mm_setzero_si128();                                                                              \
        NEXT;                                                                                                          \
    }                                                                                                                  \
    static UOP(v32##name##_rm##am)                                                                                     \
    {                                                                                                                  \
        VLOAD(h, 32, am, 0);                                                                                           \
        X(u->dst) = name##_v(X(u->aux), GET16(h));                                                                     \
        YH(u->dst) = name##_v(YH(u->aux), GET16(h + 16));                                                              \
        NEXT;                                                                                                          \
    }
#define BOTH(X_)                                                                                                       \
    X_(PXOR, pxor) X_(POR, por) X_(PAND, pand) X_(PANDN, pandn) X_(XORPS, xorps) X_(XORPD, xorpd) X_(ORPS, orps)       \
    X_(ORPD, orpd) X_(ANDPS, andps) X_(ANDPD, andpd) X_(ANDNPS, andnps) X_(ANDNPD, andnpd) X_(PCMPEQB, pcmpeqb)        \
    X_(PCMPEQW, pcmpeqw) X_(PCMPEQD, pcmpeqd) X_(PADDB, paddb) X_(PADDW, paddw) X_(PADDD, paddd) X_(PADDQ, paddq)      \
    X_(PSUBB, psubb) X_(PSUBW, psubw) X_(PSUBD, psubd) X_(PSUBQ, psubq) X_(PMINUB, pminub) X_(PMAXUB, pmaxub)          \
    X_(PUNPCKLBW, punpcklbw) X_(PUNPCKLWD, punpcklwd) X_(PUNPCKLDQ, punpckldq) X_(PUNPCKLQDQ, punpcklqdq)              \
    X_(PUNPCKHBW, punpckhbw) X_(PUNPCKHWD, punpckhwd) X_(PUNPCKHDQ, punpckhdq) X_(PUNPCKHQDQ, punpckhqdq)              \
    X_(PCMPGTB, pcmpgtb) X_(PCMPGTW, pcmpgtw) X_(PCMPGTD, pcmpgtd)
#define LEGACY(X_)                                                                                                     \
    BOTH(X_) X_(PMULLW, pmullw) X_(PMULUDQ, pmuludq) X_(PMADDWD, pmaddwd) X_(PSUBUSB, psubusb) X_(PADDUSB, paddusb)    \
    X_(PACKUSWB, packuswb) X_(PACKSSWB, packsswb) X_(PACKSSDW, packssdw) X_(PMINSW, pminsw) X_(PMAXSW, pmaxsw)         \
    X_(PAVGB, pavgb) X_(PSADBW, psadbw) X_(UNPCKLPS, unpcklps) X_(UNPCKLPD, unpcklpd)
#define DEF(op, name) V_OP(name)
LEGACY(DEF)
#define DEFV(op, name) VEX_OP(name)
BOTH(DEFV)

static UOP(pshufd_rr)
{
    const vec s = X(u->src);
    const unsigned k = (unsigned)u->in->imm;
    uint32_t v[4];

    _mm_storeu_si128((vec *)(void *)v, s);
    X(u->dst) = _mm_set_epi32((int)v[k >> 6 & 3], (int)v[k >> 4 & 3], (int)v[k >> 2 & 3], (int)v[k & 3]);
    NEXT;
}
#define SHIFT(name, f) GEN(name##_ri, X(u->dst) = f(X(u->dst), _mm_cvtsi32_si128((int)(uint8_t)u->in->imm)))
SHIFT(psllw, _mm_sll_epi16)
SHIFT(pslld, _mm_sll_epi32)
SHIFT(psllq, _mm_sll_epi64)
SHIFT(psrlw, _mm_srl_epi16)
SHIFT(psrld, _mm_srl_epi32)
SHIFT(psrlq, _mm_srl_epi64)
SHIFT(psraw, _mm_sra_epi16)
SHIFT(psrad, _mm_sra_epi32)

/* --- floating point ---------------------------------------------------------------- */

#define PLAIN_MXCSR LIKELY((c->fpu.mxcsr & 0xffc0u) == MXCSR_DEFAULT)
INLINE uint32_t new_flags(const struct x86_cpu *c)
{
    uint32_t m;

    __asm__ volatile("stmxcsr %0" : "=m"(m));
    return m & 0x3f & ~c->fpu.mxcsr;
}
#define CLEAR_FLAGS __asm__ volatile("ldmxcsr %0" : : "m"((const uint32_t){MXCSR_DEFAULT}))
/* Do op; when a flag is up that the guest does not have, it may be an old one. */
#define FP_RUN(op)                                                                                                     \
    op;                                                                                                                \
    if (UNLIKELY(new_flags(c))) {                                                                                      \
        CLEAR_FLAGS;                                                                                                   \
        op;                                                                                                            \
        c->fpu.mxcsr |= new_flags(c);                                                                                  \
    }
#define F_ASM(name, constraint) __asm__ volatile(#name " %1, %0" : constraint(r) : "x"(s))
#define FP_BODY(name, load)                                                                                            \
    if (!PLAIN_MXCSR)                                                                                                  \
        return interp_insn(c, u);                                                                                      \
    const vec s = load;                                                                                                \
    vec r;                                                                                                             \
    FP_RUN(r = X(u->dst); F_ASM(name, "+x"))                                                                           \
    X(u->dst) = r;                                                                                                     \
    NEXT
#define FP_OP(name, size)                                                                                              \
    static UOP(name##_rr) { FP_BODY(name, X(u->src)); }                                                                \
    FP_M(name, size, B) FP_M(name, size, G) FP_M(name, size, L) FP_M(name, size, W)
#define FP_M(name, size, am)                                                                                           \
    static UOP(name##_rm##am)                                                                                          \
    {                                                                                                                  \
        VLOAD(h, size, am, size == 16);                                                                                \
        FP_BODY(name, GET##size(h));                                                                                   \
    }
#define FP(X_)                                                                                                         \
    X_(ADDSD, addsd, 8) X_(SUBSD, subsd, 8) X_(MULSD, mulsd, 8) X_(DIVSD, divsd, 8) X_(SQRTSD, sqrtsd, 8)              \
    X_(MINSD, minsd, 8) X_(MAXSD, maxsd, 8) X_(ADDSS, addss, 4) X_(SUBSS, subss, 4) X_(MULSS, mulss, 4)                \
    X_(DIVSS, divss, 4) X_(SQRTSS, sqrtss, 4) X_(MINSS, minss, 4) X_(MAXSS, maxss, 4) X_(CVTSS2SD, cvtss2sd, 4)        \
    X_(CVTSD2SS, cvtsd2ss, 8) X_(ADDPD, addpd, 16) X_(SUBPD, subpd, 16) X_(MULPD, mulpd, 16) X_(DIVPD, divpd, 16)      \
    X_(ADDPS, addps, 16) X_(SUBPS, subps, 16) X_(MULPS, mulps, 16) X_(DIVPS, divps, 16)
#define DEFF(op, name, size) FP_OP(name, size)
FP(DEFF)

/* Compare: flags only. */
#define COMI_BODY(name, load)                                                                                          \
    if (!PLAIN_MXCSR)                                                                                                  \
        return interp_insn(c, u);                                                                                      \
    const vec s = load, d = X(u->dst);                                                                                 \
    uint16_t cc;                                                                                                       \
    FP_RUN(__asm__ volatile(#name " %2, %1" FLAGS_OUT : "=a"(cc) : "x"(d), "x"(s) : "cc"))                             \
    c->cc = cc;                                                                                                        \
    NEXT
#define COMI(name, size)                                                                                               \
    static UOP(name##_rr) { COMI_BODY(name, X(u->src)); }                                                              \
    COMI_M(name, size, B) COMI_M(name, size, G) COMI_M(name, size, L) COMI_M(name, size, W)
#define COMI_M(name, size, am)                                                                                         \
    static UOP(name##_rm##am)                                                                                          \
    {                                                                                                                  \
        VLOAD(h, size, am, 0);                                                                                         \
        COMI_BODY(name, GET##size(h));                                                                                 \
    }
#define COMIS(X_) X_(UCOMISD, ucomisd, 8) X_(COMISD, comisd, 8) X_(UCOMISS, ucomiss, 4) X_(COMISS, comiss, 4)
#define DEFC(op, name, size) COMI(name, size)
COMIS(DEFC)

/* To and from general registers, by register width: [8 bytes]. */
#define CVT_GV(name, sfx, T, width)                                                                                    \
    static UOP(name##width)                                                                                            \
    {                                                                                                                  \
        if (!PLAIN_MXCSR)                                                                                              \
            return interp_insn(c, u);                                                                                  \
        const vec s = X(u->src);                                                                                       \
        T r;                                                                                                           \
        FP_RUN(__asm__ volatile(#name " %1, %0" : "=r"(r) : "x"(s)))                                                   \
        R64(u->dst) = r;                                                                                               \
        NEXT;                                                                                                          \
    }
#define CVT_GVS(name) CVT_GV(name, "l", uint32_t, 4) CVT_GV(name, "q", uint64_t, 8)
CVT_GVS(cvttsd2si) CVT_GVS(cvtsd2si) CVT_GVS(cvttss2si) CVT_GVS(cvtss2si)
#define CVT_VG(name, sfx, T, width)                                                                                    \
    static UOP(name##width)                                                                                            \
    {                                                                                                                  \
        if (!PLAIN_MXCSR)                                                                                              \
            return interp_insn(c, u);                                                                                  \
        const T s = AT(T, u->src);                                                                                     \
        vec r;                                                                                                         \
        FP_RUN(r = X(u->dst); __asm__ volatile(#name sfx " %1, %0" : "+x"(r) : "r"(s)))                                \
        X(u->dst) = r;                                                                                                 \
        NEXT;                                                                                                          \
    }
#define CVT_VGS(name) CVT_VG(name, "l", uint32_t, 4) CVT_VG(name, "q", uint64_t, 8)
CVT_VGS(cvtsi2sd) CVT_VGS(cvtsi2ss)

/* --- choice --------------------------------------------------------------------------- */

struct forms {
    uop_fn rr, rm[AM_COUNT];
};
#define FORMS(name) {name##_rr, AMS(name##_rm)}
static bool forms_of(const struct x86_insn *in, struct forms *f)
{
#define CASE(op, name)                                                                                                 \
    case X86_OP_##op: *f = (struct forms)FORMS(name); return true;
#define CASE3(op, name, size) CASE(op, name)
#define CASEV(op, name)                                                                                                \
    case X86_OP_V##op: *f = in->vexl ? (struct forms)FORMS(v32##name) : (struct forms)FORMS(v16##name); return true;
    switch (in->op) {
        LEGACY(CASE)
        FP(CASE3)
        COMIS(CASE3)
        BOTH(CASEV)
    default: return false;
    }
}

static bool put(struct uop *u, uop_fn fn)
{
    if (!fn)
        return false;
    u->fn = fn;
    return true;
}

/* A move between vector registers, or one and memory. */
static bool move(const struct x86_insn *in, struct uop *u, uop_fn rr, const uop_fn *load, const uop_fn *store, int am)
{
    if (in->opnd[0].kind == X86_OPND_MEM) {
        u->src = in->opnd[1].reg;
        return am >= 0 && put(u, store[am]);
    }
    u->dst = in->opnd[0].reg;
    if (in->opnd[1].kind == X86_OPND_MEM)
        return am >= 0 && put(u, load[am]);
    u->src = in->opnd[1].reg;
    return in->opnd[1].kind == X86_OPND_VEC && put(u, rr);
}

static bool with_gpr(const struct x86_insn *in, struct uop *u, uop_fn gv, uop_fn vg)
{
    const struct x86_operand *d = &in->opnd[0], *s = &in->opnd[1];

    if (d->kind == X86_OPND_GPR && s->kind == X86_OPND_VEC) {
        u->dst = (uint8_t)(d->reg * 8);
        u->src = s->reg;
        return put(u, gv);
    }
    if (d->kind == X86_OPND_VEC && s->kind == X86_OPND_GPR) {
        u->dst = d->reg;
        u->src = (uint8_t)(s->reg * 8);
        return put(u, vg);
    }
    return false;
}

/* am: addressing column of the memory operand, -1 if there is none or it has no fast form. */
bool interp_pick_sse(const struct x86_insn *in, struct uop *u, unsigned mode, int am)
{
    const struct x86_operand *o = in->opnd;
    struct forms f;

    if (!(mode & (in->vex ? MODE_AVX : MODE_SSE)) || am == AM_S)
        return false;
    for (unsigned i = 0; i < in->nopnd; i++)
        if (o[i].kind == X86_OPND_MM)
            return false;
    if (forms_of(in, &f)) {
        const unsigned last = in->vex ? 2 : 1;

        u->dst = o[0].reg;
        if (in->vex)
            u->aux = o[1].reg;
        if (o[last].kind == X86_OPND_MEM)
            return am >= 0 && put(u, f.rm[am]);
        if (o[last].kind != X86_OPND_VEC)
            return false;
        u->src = o[last].reg;
        return put(u, f.rr);
    }
    switch (in->op) {
    case X86_OP_MOVAPS: case X86_OP_MOVAPD: case X86_OP_MOVDQA: return move(in, u, mov_vv, load16[1], store16[1], am);
    case X86_OP_MOVUPS: case X86_OP_MOVUPD: case X86_OP_MOVDQU: return move(in, u, mov_vv, load16[0], store16[0], am);
    case X86_OP_MOVSS: return move(in, u, mov4_vv, load4, store4, am);
    case X86_OP_MOVSD: return move(in, u, mov8_vv, load8, store8, am);
    case X86_OP_MOVLPS: case X86_OP_MOVLPD: return move(in, u, NULL, loadlo, store8, am);
    case X86_OP_MOVHPS: case X86_OP_MOVHPD: return move(in, u, NULL, loadhi, storehi, am);
    case X86_OP_MOVQ: return with_gpr(in, u, movq_gv, movq_vg) || move(in, u, movq_vv, load8, store8, am);
    case X86_OP_MOVD: return with_gpr(in, u, movd_gv, movd_vg) || move(in, u, NULL, load4, store4, am);
    case X86_OP_PMOVMSKB: return with_gpr(in, u, movmskb, NULL);
    case X86_OP_VPMOVMSKB: return with_gpr(in, u, in->vexl ? vmovmskb : movmskb, NULL);
    case X86_OP_VMOVDQU: case X86_OP_VMOVUPS: case X86_OP_VMOVUPD:
        return in->vexl ? move(in, u, vmov32_vv, vload32, vstore32, am) : move(in, u, vmov16_vv, vload16, store16[0], am);
    case X86_OP_VZEROUPPER: return put(u, vzeroupper);
    case X86_OP_PSHUFD:
        u->dst = o[0].reg;
        u->src = o[1].reg;
        return o[1].kind == X86_OPND_VEC && put(u, pshufd_rr);
    case X86_OP_CVTTSD2SI: return with_gpr(in, u, o[0].size == 8 ? cvttsd2si8 : cvttsd2si4, NULL);
    case X86_OP_CVTSD2SI: return with_gpr(in, u, o[0].size == 8 ? cvtsd2si8 : cvtsd2si4, NULL);
    case X86_OP_CVTTSS2SI: return with_gpr(in, u, o[0].size == 8 ? cvttss2si8 : cvttss2si4, NULL);
    case X86_OP_CVTSS2SI: return with_gpr(in, u, o[0].size == 8 ? cvtss2si8 : cvtss2si4, NULL);
    case X86_OP_CVTSI2SD: return with_gpr(in, u, NULL, o[1].size == 8 ? cvtsi2sd8 : cvtsi2sd4);
    case X86_OP_CVTSI2SS: return with_gpr(in, u, NULL, o[1].size == 8 ? cvtsi2ss8 : cvtsi2ss4);
#define SHIFT_CASE(op, name)                                                                                           \
    case X86_OP_##op:                                                                                                  \
        u->dst = o[0].reg;                                                                                             \
        return o[1].kind == X86_OPND_IMM && put(u, name##_ri);
        SHIFT_CASE(PSLLW, psllw) SHIFT_CASE(PSLLD, pslld) SHIFT_CASE(PSLLQ, psllq) SHIFT_CASE(PSRLW, psrlw)
        SHIFT_CASE(PSRLD, psrld) SHIFT_CASE(PSRLQ, psrlq) SHIFT_CASE(PSRAW, psraw) SHIFT_CASE(PSRAD, psrad)
    default: return false;
    }
}
