/*
 * Saving and restoring x87, SSE and AVX state: FXSAVE, FXRSTOR and the XSAVE
 * family (SDM Vol. 1, chapter 13).
 *
 * XINUSE is exact for SSE and AVX (all zero or not), and x87 counts as in use
 * unless every field has its initial value. The modified optimisation of
 * XSAVEOPT and XSAVES is not used, as the SDM allows. IA32_XSS is always 0.
 */
#include <string.h>

#include "x86/fpu.h"

#define HDR 512u
#define AVX_OFF 576u /* in both formats: AVX is the first extended component */
#define XCOMP_COMPACT (1ull << 63)

void x86_fpu_reset(struct x86_cpu *c)
{
    struct x86_fpu *f = &c->fpu;

    memset(f, 0, sizeof(*f));
    f->fcw = 0x40; /* FNINIT would give 37FH */
    f->ftw = 0xff; /* tag word 5555H: every register holds zero */
    f->mxcsr = 0x1f80;
    f->mxcsr_mask = c->thunks ? c->thunks->mxcsr_mask : 0xffff;
    f->xstate_bv = 7;
}

static bool all_zero(const void *p, size_t n)
{
    const uint64_t *w = p;
    uint64_t v = 0;

    for (size_t i = 0; i < n / 8; i++)
        v |= w[i];
    return !v;
}

uint64_t x86_xinuse(const struct x86_cpu *c)
{
    const struct x86_fpu *f = &c->fpu;
    uint64_t u = 0;

    if (f->fcw != 0x37f || f->fsw || f->ftw || f->fop || f->fip || f->fdp || f->fcs || f->fds || !all_zero(f->st, sizeof(f->st)))
        u |= X86_XCR0_X87;
    if (f->mxcsr != 0x1f80 || !all_zero(f->xmm, sizeof(f->xmm)))
        u |= X86_XCR0_SSE;
    if (!all_zero(f->ymmh, sizeof(f->ymmh)))
        u |= X86_XCR0_AVX;
    return u;
}

/* Pieces of a save area: what an instruction touches, and nothing else. */
struct piece {
    uint16_t off, len;
};

static int each(struct x86_cpu *c, uint64_t lin, const struct piece *p, unsigned n, uint8_t *img, int access)
{
    int r;

    for (unsigned i = 0; i < n; i++) {
        r = access == X86_READ ? x86_lin_read(c, lin + p[i].off, img + p[i].off, p[i].len) : x86_lin_probe(c, lin + p[i].off, p[i].len, access);
        if (r)
            return r;
    }
    for (unsigned i = 0; i < n && access == X86_WRITE; i++)
        if ((r = x86_lin_write(c, lin + p[i].off, img + p[i].off, p[i].len)))
            return r;
    return X86_OK;
}

static unsigned nvec(const struct x86_cpu *c) { return c->mode == X86_MODE_64 ? 16 : 8; }

/* x87 part of the legacy region. wide: 64-bit instruction and data pointers (REX.W). */
static void x87_put(const struct x86_cpu *c, uint8_t *img, bool wide)
{
    const struct x86_fpu *f = &c->fpu;

    memcpy(img, f->raw, 24);
    img[5] = 0;
    if (!wide) {
        bool dep = c->thunks->fcs_deprecated;

        memset(img + 12, 0, 4);
        memset(img + 20, 0, 4);
        if (!dep) {
            memcpy(img + 12, &f->fcs, 2);
            memcpy(img + 20, &f->fds, 2);
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        memset(img + 32 + 16 * i, 0, 16);
        memcpy(img + 32 + 16 * i, f->st[i], 10);
    }
}

static void x87_get(struct x86_cpu *c, const uint8_t *img, bool wide)
{
    struct x86_fpu *f = &c->fpu;

    memcpy(f->raw, img, 24);
    f->rsvd0 = 0;
    f->fop &= 0x7ff;
    f->fcs = f->fds = 0;
    if (!wide) {
        memcpy(&f->fcs, img + 12, 2);
        memcpy(&f->fds, img + 20, 2);
        f->fip = (uint32_t)f->fip;
        f->fdp = (uint32_t)f->fdp;
    } else { /* made canonical for 48-bit linear addresses */
        f->fip = (uint64_t)((int64_t)(f->fip << 16) >> 16);
        f->fdp = (uint64_t)((int64_t)(f->fdp << 16) >> 16);
    }
    f->fcw = (f->fcw & 0x1f3f) | 0x40;
    x86_fpu_summary(f);
    for (unsigned i = 0; i < 8; i++) {
        memset(f->st[i], 0, 16);
        memcpy(f->st[i], img + 32 + 16 * i, 10);
    }
}

static void x87_init(struct x86_fpu *f)
{
    x86_fpu_fninit(f);
    memset(f->st, 0, sizeof(f->st));
}

static void mxcsr_put(const struct x86_cpu *c, uint8_t *img)
{
    memcpy(img + 24, &c->fpu.mxcsr, 4);
    memcpy(img + 28, &c->thunks->mxcsr_mask, 4);
}

static int fxsave(struct x86_cpu *c, const struct x86_insn *in, bool wide)
{
    uint16_t vec = (uint16_t)(16 * nvec(c));
    struct piece p = {0, (uint16_t)(160 + vec)};
    uint8_t img[512];
    uint64_t lin;
    int r = x86_fpu_lin(c, in, 512, X86_WRITE, 4, 16, &lin);

    if (r || (r = x86_lin_probe(c, lin, 512, X86_WRITE)))
        return r;
    x87_put(c, img, wide);
    mxcsr_put(c, img);
    memcpy(img + 160, c->fpu.xmm, vec);
    return each(c, lin, &p, 1, img, X86_WRITE);
}

static int fxrstor(struct x86_cpu *c, const struct x86_insn *in, bool wide)
{
    uint16_t vec = (uint16_t)(16 * nvec(c));
    struct piece p = {0, (uint16_t)(160 + vec)};
    uint8_t img[512];
    uint32_t mxcsr;
    uint64_t lin;
    int r = x86_fpu_lin(c, in, 512, X86_READ, 4, 16, &lin);

    if (r || (r = x86_lin_probe(c, lin, 512, X86_READ)) || (r = each(c, lin, &p, 1, img, X86_READ)))
        return r;
    memcpy(&mxcsr, img + 24, 4);
    if (mxcsr & ~c->thunks->mxcsr_mask)
        return x86_raise_err(c, X86_GP, 0);
    x87_get(c, img, wide);
    c->fpu.mxcsr = mxcsr;
    memcpy(c->fpu.xmm, img + 160, vec);
    return X86_OK;
}

static uint64_t rfbm(const struct x86_cpu *c) { return c->xcr0 & ((c->gpr[X86_RDX] << 32) | (uint32_t)c->gpr[X86_RAX]); }

enum { OPT_INIT = 1, OPT_COMPACT = 2 };

static int xsave(struct x86_cpu *c, const struct x86_insn *in, bool wide, unsigned opt)
{
    uint64_t want = rfbm(c), inuse = x86_xinuse(c), write = opt ? want & inuse : want, hdr[2], lin;
    uint16_t vec = (uint16_t)(16 * nvec(c));
    _Alignas(8) uint8_t img[AVX_OFF + 256];
    struct piece p[5];
    unsigned n = 0;
    int r = x86_fpu_lin(c, in, AVX_OFF, X86_WRITE, 4, 64, &lin);

    if (r)
        return r;
    if (write & X86_XCR0_X87) {
        x87_put(c, img, wide);
        p[n++] = (struct piece){0, 24};
        p[n++] = (struct piece){32, 128};
    }
    /* MXCSR goes with SSE; the formats that are not compacted save it for AVX alone too, and always. */
    if (opt & OPT_COMPACT ? write & X86_XCR0_SSE : want & (X86_XCR0_SSE | X86_XCR0_AVX)) {
        mxcsr_put(c, img);
        p[n++] = (struct piece){24, 8};
    }
    if (write & X86_XCR0_SSE) {
        memcpy(img + 160, c->fpu.xmm, vec);
        p[n++] = (struct piece){160, vec};
    }
    if (write & X86_XCR0_AVX) {
        memcpy(img + AVX_OFF, c->fpu.ymmh, vec);
        p[n++] = (struct piece){AVX_OFF, vec};
    }
    if (opt & OPT_COMPACT) {
        hdr[0] = want & inuse;
        hdr[1] = want | XCOMP_COMPACT;
        if ((r = x86_lin_probe(c, lin + HDR, 16, X86_WRITE)))
            return r;
    } else {
        /* Read for write: a fault must come before anything is stored. */
        if ((r = x86_lin_probe(c, lin + HDR, 8, X86_WRITE)) || (r = x86_lin_read(c, lin + HDR, hdr, 8)))
            return r;
        hdr[0] = (hdr[0] & ~want) | (want & inuse);
    }
    if ((r = each(c, lin, p, n, img, X86_WRITE)))
        return r;
    return x86_lin_write(c, lin + HDR, hdr, opt & OPT_COMPACT ? 16 : 8);
}

static int xrstor(struct x86_cpu *c, const struct x86_insn *in, bool wide, bool supervisor)
{
    uint64_t want = rfbm(c), hdr[8], lin, load;
    uint16_t vec = (uint16_t)(16 * nvec(c));
    _Alignas(8) uint8_t img[AVX_OFF + 256];
    bool compact, load_mxcsr;
    uint32_t mxcsr = 0x1f80;
    struct piece p[5];
    unsigned n = 0;
    int r = x86_fpu_lin(c, in, AVX_OFF, X86_READ, 4, 64, &lin);

    if (r || (r = x86_lin_read(c, lin + HDR, hdr, sizeof(hdr))))
        return r;
    compact = hdr[1] & XCOMP_COMPACT;
    if (compact) {
        if (((hdr[1] & ~XCOMP_COMPACT) & ~c->xcr0) || (hdr[0] & ~hdr[1]) || !all_zero(hdr + 2, 48))
            return x86_raise_err(c, X86_GP, 0);
    } else if (supervisor || (hdr[0] & ~c->xcr0) || hdr[1] || hdr[2]) {
        return x86_raise_err(c, X86_GP, 0);
    }
    load = want & hdr[0];
    if (load & X86_XCR0_X87) {
        p[n++] = (struct piece){0, 24};
        p[n++] = (struct piece){32, 128};
    }
    load_mxcsr = compact ? load & X86_XCR0_SSE : want & (X86_XCR0_SSE | X86_XCR0_AVX);
    if (load_mxcsr)
        p[n++] = (struct piece){24, 4};
    if (load & X86_XCR0_SSE)
        p[n++] = (struct piece){160, vec};
    if (load & X86_XCR0_AVX)
        p[n++] = (struct piece){AVX_OFF, vec};
    if ((r = each(c, lin, p, n, img, X86_READ)))
        return r;
    if (load_mxcsr) {
        memcpy(&mxcsr, img + 24, 4);
        if (mxcsr & ~c->thunks->mxcsr_mask)
            return x86_raise_err(c, X86_GP, 0);
    }

    if (want & X86_XCR0_X87) {
        if (load & X86_XCR0_X87)
            x87_get(c, img, wide);
        else
            x87_init(&c->fpu);
    }
    if (load_mxcsr || (want & X86_XCR0_SSE))
        c->fpu.mxcsr = mxcsr;
    if (want & X86_XCR0_SSE) {
        if (load & X86_XCR0_SSE)
            memcpy(c->fpu.xmm, img + 160, vec);
        else
            memset(c->fpu.xmm, 0, vec);
    }
    if (want & X86_XCR0_AVX) {
        if (load & X86_XCR0_AVX)
            memcpy(c->fpu.ymmh, img + AVX_OFF, vec);
        else
            memset(c->fpu.ymmh, 0, vec);
    }
    return X86_OK;
}

int x86_exec_fxstate(struct x86_cpu *c, const struct x86_insn *in)
{
    bool wide = c->mode == X86_MODE_64 && (in->rex & 8);

    if (x86_fpu_init(c))
        return x86_raise(c, X86_UD);
    switch (in->op) {
    case X86_OP_FXSAVE:
    case X86_OP_FXSAVE64:
    case X86_OP_FXRSTOR:
    case X86_OP_FXRSTOR64:
        if (c->cr0 & (X86_CR0_EM | X86_CR0_TS))
            return x86_raise(c, X86_NM);
        return in->op == X86_OP_FXSAVE || in->op == X86_OP_FXSAVE64 ? fxsave(c, in, wide) : fxrstor(c, in, wide);
    default:
        break;
    }
    if (!(c->cr4 & X86_CR4_OSXSAVE))
        return x86_raise(c, X86_UD);
    if (c->cr0 & X86_CR0_TS)
        return x86_raise(c, X86_NM);
    switch (in->op) {
    case X86_OP_XSAVES:
    case X86_OP_XSAVES64:
    case X86_OP_XRSTORS:
    case X86_OP_XRSTORS64:
        if (c->cpl)
            return x86_raise_err(c, X86_GP, 0);
        break;
    default:
        break;
    }
    switch (in->op) {
    case X86_OP_XSAVE:
    case X86_OP_XSAVE64:
        return xsave(c, in, wide, 0);
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEOPT64:
        return xsave(c, in, wide, OPT_INIT);
    case X86_OP_XSAVEC:
    case X86_OP_XSAVEC64:
    case X86_OP_XSAVES:
    case X86_OP_XSAVES64:
        return xsave(c, in, wide, OPT_INIT | OPT_COMPACT);
    case X86_OP_XRSTOR:
    case X86_OP_XRSTOR64:
        return xrstor(c, in, wide, false);
    case X86_OP_XRSTORS:
    case X86_OP_XRSTORS64:
        return xrstor(c, in, wide, true);
    default:
        return X86_UNDEF;
    }
}
