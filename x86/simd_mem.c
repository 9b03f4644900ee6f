/*
 * Vector instructions whose memory accesses depend on data (masked moves,
 * gathers), and those that only change state: EMMS, VZEROUPPER, VZEROALL, the
 * MXCSR moves. Pure data movement, so no host instruction is needed.
 */
#include <string.h>

#include "x86/fpu.h"

static int check(struct x86_cpu *c, const struct x86_insn *in) { return in->vex ? x86_check_avx(c) : x86_check_sse(c); }

/* --- MXCSR --------------------------------------------------------------- */

static int mxcsr(struct x86_cpu *c, const struct x86_insn *in, bool load)
{
    uint32_t v = c->fpu.mxcsr;
    int r = check(c, in);

    if (r)
        return r;
    if (!load)
        return x86_mem_write(c, in, &v, 4);
    if (x86_fpu_init(c))
        return x86_raise(c, X86_UD);
    if ((r = x86_mem_read(c, in, &v, 4)))
        return r;
    if (v & ~c->thunks->mxcsr_mask)
        return x86_raise_err(c, X86_GP, 0);
    c->fpu.mxcsr = v;
    return X86_OK;
}

/* --- masked moves ---------------------------------------------------------- */

/* Elements of the operand picked by bits of mask; nothing is accessed, nor faults, where the mask is clear. */
static int masked_store(struct x86_cpu *c, uint64_t off, unsigned seg, uint64_t addrmask, const uint8_t *data, uint32_t mask, unsigned n,
                        unsigned esize)
{
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < n; i++) {
            uint64_t lin;
            int r;

            if (!(mask >> i & 1))
                continue;
            if ((r = x86_seg_lin(c, seg, (off + i * esize) & addrmask, esize, X86_WRITE, 1, &lin)))
                return r;
            r = pass ? x86_lin_write(c, lin, data + i * esize, esize) : x86_lin_probe(c, lin, esize, X86_WRITE);
            if (r)
                return r;
        }
    }
    return X86_OK;
}

static uint64_t addr_mask(const struct x86_insn *in)
{
    return in->addrsize == 8 ? ~0ull : in->addrsize == 4 ? 0xffffffffull : 0xffff;
}

/* MASKMOVQ, (V)MASKMOVDQU: bytes to DS:rDI. */
static int maskmov_bytes(struct x86_cpu *c, const struct x86_insn *in, bool mmx)
{
    uint64_t off = c->gpr[X86_RDI] & addr_mask(in);
    unsigned seg = in->seg_override != X86_SEG_NONE ? in->seg_override : X86_DS;
    unsigned data = (in->modrm >> 3 & 7), sel = in->modrm & 7, n = mmx ? 8 : 16;
    const uint8_t *dp, *mp;
    uint8_t data_bytes[16];
    uint32_t mask = 0;
    uint64_t lin;
    int r;

    if (mmx) {
        if (c->cr0 & X86_CR0_EM)
            return x86_raise(c, X86_UD);
        if (c->cr0 & X86_CR0_TS)
            return x86_raise(c, X86_NM);
        if (x86_fpu_pending(&c->fpu) && (r = x86_fpu_wait(c)))
            return r;
        dp = c->fpu.st[(data - (c->fpu.fsw >> 11)) & 7];
        mp = c->fpu.st[(sel - (c->fpu.fsw >> 11)) & 7];
    } else {
        if ((r = check(c, in)))
            return r;
        if (c->mode == X86_MODE_64) {
            data |= in->rex & 4 ? 8 : 0;
            sel |= in->rex & 1 ? 8 : 0;
        }
        dp = c->fpu.xmm[data];
        mp = c->fpu.xmm[sel];
    }
    for (unsigned i = 0; i < n; i++)
        mask |= (uint32_t)(mp[i] >> 7) << i;
    memcpy(data_bytes, dp, n);
    if (mmx)
        x86_fpu_rotate(&c->fpu, 0);
    /* The whole destination is checked, whatever the mask says (the SDM leaves that open; this is what processors do). */
    if ((r = x86_seg_lin(c, seg, off, n, X86_WRITE, n, &lin)) || (r = x86_lin_probe(c, lin, n, X86_WRITE)))
        return r;
    if (mmx)
        c->fpu.ftw = 0xff;
    return masked_store(c, off, seg, addr_mask(in), data_bytes, mask, n, 1);
}

static void get_vec(const struct x86_cpu *c, unsigned n, uint8_t v[32])
{
    memcpy(v, c->fpu.xmm[n], 16);
    memcpy(v + 16, c->fpu.ymmh[n], 16);
}
static void set_vec(struct x86_cpu *c, unsigned n, const uint8_t v[32])
{
    memcpy(c->fpu.xmm[n], v, 16);
    memcpy(c->fpu.ymmh[n], v + 16, 16);
}

static uint32_t sign_mask(const uint8_t *v, unsigned n, unsigned esize)
{
    uint32_t m = 0;

    for (unsigned i = 0; i < n; i++)
        m |= (uint32_t)(v[(i + 1) * esize - 1] >> 7) << i;
    return m;
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q: load {dst, mask, mem} or store {mem, mask, src}. */
static int maskmov_vec(struct x86_cpu *c, const struct x86_insn *in, unsigned esize)
{
    bool store = in->opnd[0].kind == X86_OPND_MEM;
    unsigned n = (in->vexl ? 32 : 16) / esize;
    uint8_t mv[32], data[32] = {0};
    uint64_t off = x86_ea(c, in);
    uint32_t mask;
    int r = check(c, in);

    if (r)
        return r;
    get_vec(c, in->opnd[1].reg & 15, mv);
    mask = sign_mask(mv, n, esize);
    if (store) {
        get_vec(c, in->opnd[2].reg & 15, data);
        return masked_store(c, off, in->mem.seg, addr_mask(in), data, mask, n, esize);
    }
    for (unsigned i = 0; i < n; i++) {
        uint64_t lin;

        if (!(mask >> i & 1))
            continue;
        if ((r = x86_seg_lin(c, in->mem.seg, (off + i * esize) & addr_mask(in), esize, X86_READ, 1, &lin)) ||
            (r = x86_lin_read(c, lin, data + i * esize, esize)))
            return r;
    }
    set_vec(c, in->opnd[0].reg & 15, data);
    return X86_OK;
}

/* --- gathers ----------------------------------------------------------------- */

/* Operands {dst, vsib, mask}. Elements are loaded from the lowest on; a fault keeps what is done: their values are in the
 * destination, their mask elements are clear. */
static int gather(struct x86_cpu *c, const struct x86_insn *in, unsigned isize, unsigned esize)
{
    unsigned vl = in->vexl ? 32 : 16, n = vl / (isize > esize ? isize : esize);
    unsigned done = 0, dst = in->opnd[0].reg & 15, msk = in->opnd[2].reg & 15, idx = in->mem.index & 15;
    uint8_t d[32], m[32], x[32];
    uint64_t base;
    int r = check(c, in);

    if (r)
        return r;
    if (dst == msk || dst == idx || msk == idx)
        return x86_raise(c, X86_UD);
    get_vec(c, dst, d);
    get_vec(c, msk, m);
    get_vec(c, idx, x);
    base = (uint64_t)in->mem.disp + (in->mem.base < X86_NGPR ? c->gpr[in->mem.base] : 0);
    /* The mask becomes whole elements first (also those past the last index), so that a fault leaves each all ones or zeros. */
    for (unsigned i = 0; i < vl / esize; i++)
        memset(m + i * esize, m[(i + 1) * esize - 1] & 0x80 ? 0xff : 0, esize);
    memset(m + vl, 0, sizeof(m) - vl);
    for (unsigned i = 0; i < n && !r; i++) {
        int64_t index;
        uint64_t lin;

        if (!m[i * esize])
            continue;
        if (isize == 4) {
            int32_t v;
            memcpy(&v, x + i * 4, 4);
            index = v;
        } else {
            memcpy(&index, x + i * 8, 8);
        }
        r = x86_seg_lin(c, in->mem.seg, (base + (uint64_t)index * in->mem.scale) & addr_mask(in), esize, X86_READ, 1, &lin);
        if (!r)
            r = x86_lin_read(c, lin, d + i * esize, esize);
        if (!r) {
            memset(m + i * esize, 0, esize);
            done++;
        }
    }
    /* The destination becomes zero above VL with the first element written, beyond the elements of this form at the end. */
    if (done)
        memset(d + vl, 0, sizeof(d) - vl);
    if (!r) {
        memset(d + n * esize, 0, sizeof(d) - n * esize);
        memset(m, 0, sizeof(m));
    }
    set_vec(c, dst, d);
    set_vec(c, msk, m);
    return r;
}

int x86_exec_simd_mem(struct x86_cpu *c, const struct x86_insn *in)
{
    int r;

    switch (in->op) {
    case X86_OP_LDMXCSR:
    case X86_OP_VLDMXCSR:
        return mxcsr(c, in, true);
    case X86_OP_STMXCSR:
    case X86_OP_VSTMXCSR:
        return mxcsr(c, in, false);
    case X86_OP_MASKMOVQ:
        return maskmov_bytes(c, in, true);
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
        return maskmov_bytes(c, in, false);
    case X86_OP_VMASKMOVPS:
    case X86_OP_VPMASKMOVD:
        return maskmov_vec(c, in, 4);
    case X86_OP_VMASKMOVPD:
    case X86_OP_VPMASKMOVQ:
        return maskmov_vec(c, in, 8);
    case X86_OP_VPGATHERDD:
    case X86_OP_VGATHERDPS:
        return gather(c, in, 4, 4);
    case X86_OP_VPGATHERDQ:
    case X86_OP_VGATHERDPD:
        return gather(c, in, 4, 8);
    case X86_OP_VPGATHERQD:
    case X86_OP_VGATHERQPS:
        return gather(c, in, 8, 4);
    case X86_OP_VPGATHERQQ:
    case X86_OP_VGATHERQPD:
        return gather(c, in, 8, 8);
    case X86_OP_VZEROUPPER:
    case X86_OP_VZEROALL: {
        unsigned n = c->mode == X86_MODE_64 ? 16 : 8;

        if ((r = x86_check_avx(c)))
            return r;
        memset(c->fpu.ymmh, 0, 16 * n);
        if (in->op == X86_OP_VZEROALL)
            memset(c->fpu.xmm, 0, 16 * n);
        return X86_OK;
    }
    case X86_OP_EMMS:
        if (c->cr0 & X86_CR0_EM)
            return x86_raise(c, X86_UD);
        if (c->cr0 & X86_CR0_TS)
            return x86_raise(c, X86_NM);
        if (x86_fpu_pending(&c->fpu) && (r = x86_fpu_wait(c)))
            return r;
        x86_fpu_rotate(&c->fpu, 0);
        c->fpu.ftw = 0;
        return X86_OK;
    default:
        return X86_UNDEF;
    }
}
