/*
 * Segmentation (SDM Vol. 3A, chapters 3 and 5): descriptors, segment register
 * loads with their checks, and the stacks that far transfers switch to.
 */
#include "ringer/gpa.h"
#include "x86/seg.h"

/* --- descriptors --------------------------------------------------------- */

int x86_desc_try(struct x86_cpu *c, uint16_t sel, struct x86_desc *d)
{
    uint64_t base = c->gdtr.base;
    uint32_t limit = c->gdtr.limit;

    if (sel & 4) {
        if (!(c->ldtr.ar & X86_AR_P))
            return -1;
        base = c->ldtr.base;
        limit = c->ldtr.limit;
    }
    if ((sel | 7u) > limit)
        return -1;
    d->lin = base + (sel & 0xfff8u);
    if (!x86_lma(c))
        d->lin = (uint32_t)d->lin;
    d->hi = 0;
    return x86_sys_read_fast(c, d->lin, &d->lo, 8);
}

int x86_desc_fetch(struct x86_cpu *c, uint16_t sel, struct x86_desc *d, uint8_t vec, unsigned ext)
{
    int r = x86_desc_try(c, sel, d);

    return r < 0 ? x86_raise_err(c, vec, x86_sel_err(sel, ext)) : r;
}

int x86_desc_fetch_hi(struct x86_cpu *c, uint16_t sel, struct x86_desc *d)
{
    uint32_t limit = sel & 4 ? c->ldtr.limit : c->gdtr.limit;
    int r;

    if (!x86_lma(c))
        return X86_OK;
    if ((sel | 7u) + 8 > limit)
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, 0));
    if ((r = x86_sys_read_fast(c, d->lin + 8, &d->hi, 8)))
        return r;
    if ((d->hi >> 40) & 0x1f)
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, 0));
    return X86_OK;
}

struct x86_seg x86_desc_seg(const struct x86_desc *d, uint16_t sel)
{
    struct x86_seg s;
    uint32_t limit = (uint32_t)(d->lo & 0xffff) | ((uint32_t)(d->lo >> 32) & 0xf0000);

    s.base = ((d->lo >> 16) & 0xffffff) | ((d->lo >> 56) << 24) | (d->hi << 32);
    s.limit = (d->lo >> 55) & 1 ? limit << 12 | 0xfff : limit;
    s.sel = sel;
    s.ar = (uint16_t)((d->lo >> 40) & 0xf0ff);
    if (s.ar & X86_AR_S)
        s.ar |= 1;
    return s;
}

int x86_desc_update(struct x86_cpu *c, const struct x86_desc *d, uint8_t set, uint8_t clear)
{
    struct x86_xlat x;
    uint64_t lin = d->lin + 5;
    uint8_t *host, b;
    uint32_t *pf;
    int r;

    if (!x86_lma(c))
        lin = (uint32_t)lin;
    if ((r = x86_walk(c, lin, X86_WRITE, false, true, &x)))
        return r;
    host = gpa_host(c->mmu.map, x.gpa, 1, true);
    if (!host) { /* a table in device memory: no atomicity to keep */
        if ((r = x86_sys_read(c, lin, &b, 1)))
            return r;
        b = (uint8_t)((b | set) & ~clear);
        return x86_sys_write(c, lin, &b, 1);
    }
    if (set)
        __atomic_fetch_or(host, set, __ATOMIC_SEQ_CST);
    if (clear)
        __atomic_fetch_and(host, (uint8_t)~clear, __ATOMIC_SEQ_CST);
    pf = gpa_page_flags(c->mmu.map, x.gpa);
    if (pf && (__atomic_load_n(pf, __ATOMIC_ACQUIRE) & GPA_PF_CODE) && c->ops && c->ops->code_write)
        c->ops->code_write(c->env, x.gpa, 1);
    return X86_OK;
}

int x86_sys_probe(struct x86_cpu *c, uint64_t lin, uint32_t len, int access)
{
    struct x86_xlat x;
    uint64_t last = lin + len - 1;
    int r = x86_walk(c, lin, access, false, true, &x);

    if (!x86_lma(c))
        last = (uint32_t)last;
    if (!r && ((lin ^ last) & ~0xfffull))
        r = x86_walk(c, last & ~0xfffull, access, false, true, &x);
    return r;
}

/* --- loads ---------------------------------------------------------------- */

void x86_load_seg16(struct x86_cpu *c, unsigned seg, uint16_t sel)
{
    struct x86_seg *s = &c->seg[seg];

    s->sel = sel;
    s->base = (uint32_t)sel << 4;
    if (x86_v86(c)) {
        s->limit = 0xffff;
        s->ar = 0xf3;
    } else if (!(s->ar & X86_AR_P)) { /* real mode keeps limit and rights, except those of a null segment */
        s->limit = 0xffff;
        s->ar = 0x93;
    }
}

int x86_check_ss(struct x86_cpu *c, uint16_t sel, unsigned cpl, uint8_t vec, unsigned ext, struct x86_seg *out)
{
    struct x86_desc d;
    int r;

    if (x86_sel_null(sel))
        return x86_raise_err(c, vec, ext);
    if ((r = x86_desc_fetch(c, sel, &d, vec, ext)))
        return r;
    /* writable data: S = 1, not code, W = 1 */
    if ((sel & 3) != cpl || ((d.lo >> 41) & 0xd) != 9 || x86_desc_dpl(&d) != cpl)
        return x86_raise_err(c, vec, x86_sel_err(sel, ext));
    if (!x86_desc_p(&d))
        return x86_raise_err(c, X86_SSF, x86_sel_err(sel, ext));
    if ((r = x86_desc_accessed(c, &d)))
        return r;
    *out = x86_desc_seg(&d, sel);
    return X86_OK;
}

int x86_load_data(struct x86_cpu *c, unsigned seg, uint16_t sel, unsigned cpl, uint8_t vec, unsigned ext)
{
    struct x86_desc d;
    unsigned type, dpl;
    int r;

    if (x86_sel_null(sel)) {
        c->seg[seg] = x86_null_seg(sel, 0);
        return X86_OK;
    }
    if ((r = x86_desc_fetch(c, sel, &d, vec, ext)))
        return r;
    type = x86_desc_type(&d);
    dpl = x86_desc_dpl(&d);
    if (!x86_desc_s(&d) || (type & 0xa) == 8) /* system, or code that is not readable */
        return x86_raise_err(c, vec, x86_sel_err(sel, ext));
    if ((type & 0xc) != 0xc && ((sel & 3u) > dpl || cpl > dpl))
        return x86_raise_err(c, vec, x86_sel_err(sel, ext));
    if (!x86_desc_p(&d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, ext));
    if ((r = x86_desc_accessed(c, &d)))
        return r;
    c->seg[seg] = x86_desc_seg(&d, sel);
    return X86_OK;
}

int x86_load_seg(struct x86_cpu *c, unsigned seg, uint16_t sel)
{
    if (!x86_pe(c) || x86_v86(c)) {
        x86_load_seg16(c, seg, sel);
        return X86_OK;
    }
    if (seg != X86_SS)
        return x86_load_data(c, seg, sel, c->cpl, X86_GP, 0);
    if (x86_sel_null(sel) && c->mode == X86_MODE_64 && c->cpl < 3 && (sel & 3) == c->cpl) {
        c->seg[X86_SS] = x86_null_seg(sel, c->cpl);
        return X86_OK;
    }
    return x86_check_ss(c, sel, c->cpl, X86_GP, 0, &c->seg[X86_SS]);
}

void x86_null_inner_segs(struct x86_cpu *c, unsigned cpl)
{
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};

    for (unsigned i = 0; i < 4; i++) {
        struct x86_seg *s = &c->seg[data[i]];

        if (!(s->ar & X86_AR_P))
            continue;
        /* data or non-conforming code */
        if ((s->ar & 0xc) != 0xc && X86_AR_DPL(s->ar) < cpl)
            *s = x86_null_seg(0, 0);
    }
}

int x86_lldt(struct x86_cpu *c, uint16_t sel, uint8_t vec, unsigned ext)
{
    struct x86_desc d;
    int r;

    if (x86_sel_null(sel)) {
        c->ldtr = x86_null_seg(sel, 0);
        return X86_OK;
    }
    if (sel & 4)
        return x86_raise_err(c, vec, x86_sel_err(sel, ext));
    if ((r = x86_desc_fetch(c, sel, &d, vec, ext)))
        return r;
    if (x86_desc_s(&d) || x86_desc_type(&d) != X86_SYS_LDT)
        return x86_raise_err(c, vec, x86_sel_err(sel, ext));
    if (!x86_desc_p(&d)) /* a task switch reports every defect of the LDT as #TS */
        return x86_raise_err(c, vec == X86_TS ? X86_TS : X86_NP, x86_sel_err(sel, ext));
    if ((r = x86_desc_fetch_hi(c, sel, &d)))
        return r;
    if (x86_lma(c) && !x86_canonical(x86_desc_seg(&d, sel).base))
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, ext));
    c->ldtr = x86_desc_seg(&d, sel);
    return X86_OK;
}

int x86_ltr(struct x86_cpu *c, uint16_t sel)
{
    struct x86_desc d;
    unsigned type;
    int r;

    if (x86_sel_null(sel))
        return x86_raise_err(c, X86_GP, 0);
    if (sel & 4)
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, 0));
    if ((r = x86_desc_fetch(c, sel, &d, X86_GP, 0)))
        return r;
    type = x86_desc_type(&d);
    if (x86_desc_s(&d) || (type != X86_SYS_TSS && (x86_lma(c) || type != X86_SYS_TSS16)))
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, 0));
    if (!x86_desc_p(&d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, 0));
    if ((r = x86_desc_fetch_hi(c, sel, &d)))
        return r;
    if (x86_lma(c) && !x86_canonical(x86_desc_seg(&d, sel).base))
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, 0));
    if ((r = x86_desc_update(c, &d, 2, 0)))
        return r;
    c->tr = x86_desc_seg(&d, sel);
    c->tr.ar |= 2;
    return X86_OK;
}

/* --- stacks ---------------------------------------------------------------- */

struct x86_stack x86_stack_cur(const struct x86_cpu *c)
{
    return (struct x86_stack){.ss = c->seg[X86_SS], .sp = c->gpr[X86_RSP], .cpl = c->cpl,
                              .width = x86_stack_width(c->mode == X86_MODE_64, &c->seg[X86_SS])};
}

static uint64_t sp_mask(unsigned width) { return width == 8 ? ~0ull : width == 4 ? 0xffffffffull : 0xffff; }

/* Linear address of len bytes at offset off of the stack, with limit and canonical checks. */
static int stack_lin(struct x86_cpu *c, const struct x86_stack *st, uint64_t off, unsigned len, unsigned align, uint64_t *lin)
{
    const struct x86_seg *s = &st->ss;
    uint64_t last = off + len - 1;
    bool ok;

    if (st->width == 8) {
        ok = x86_canonical(off) && x86_canonical(last);
        *lin = off;
    } else {
        if ((x86_pe(c) && !x86_v86(c)) && !(s->ar & X86_AR_P))
            ok = false;
        else if (s->ar & 4)
            ok = off > s->limit && last <= (s->ar & X86_AR_DB ? 0xffffffffu : 0xffffu);
        else
            ok = last <= s->limit;
        *lin = (uint32_t)(s->base + off);
    }
    if (!ok)
        return x86_raise_err(c, X86_SSF, st->err);
    if (st->cpl == 3 && (*lin & (align - 1)) && (c->fl_sys & X86_FL_AC) && (c->cr0 & X86_CR0_AM))
        return x86_raise_err(c, X86_AC, st->err & 1);
    return X86_OK;
}

static void use_cpl(struct x86_cpu *c, unsigned cpl)
{
    if (c->cpl != cpl) {
        c->cpl = (uint8_t)cpl;
        x86_mmu_update_ctx(c);
    }
}

#define MAX_FRAME 40 /* values: 31 parameters and the four registers of a call gate's frame */

int x86_stack_push(struct x86_cpu *c, struct x86_stack *st, const uint64_t *v, unsigned n, unsigned size)
{
    uint8_t buf[MAX_FRAME * 8];
    uint64_t mask = sp_mask(st->width), top = st->sp & mask, sp = (top - (uint64_t)n * size) & mask, lin;
    unsigned old_cpl = c->cpl, len = n * size;
    int r;

    /* One piece unless it wraps, or crosses a page: then the upper page faults first, as with single pushes. */
    if ((sp < top || (top == 0 && st->width != 8)) && !(((st->ss.base + sp) ^ (st->ss.base + sp + len - 1)) & ~0xfffull)) {
        for (unsigned i = 0; i < n; i++)
            memcpy(buf + (n - 1 - i) * size, &v[i], size);
        if ((r = stack_lin(c, st, sp, len, size, &lin)))
            return r;
        use_cpl(c, st->cpl);
        if (!(r = x86_lin_probe(c, lin + len - size, size, X86_WRITE))) /* the first push is the one to fault */
            r = x86_lin_write(c, lin, buf, len);
    } else { /* check every value, then write */
        use_cpl(c, st->cpl);
        r = X86_OK;
        for (unsigned pass = 0; pass < 2 && !r; pass++) {
            for (unsigned i = 0; i < n && !r; i++) {
                uint64_t off = (top - (uint64_t)(i + 1) * size) & mask;

                if (!(r = stack_lin(c, st, off, size, size, &lin)))
                    r = pass ? x86_lin_write(c, lin, &v[i], size) : x86_lin_probe(c, lin, size, X86_WRITE);
            }
        }
    }
    use_cpl(c, old_cpl);
    if (!r)
        st->sp = x86_sp_add(st->sp, st->width, -(uint64_t)len);
    return r;
}

int x86_stack_check(struct x86_cpu *c, const struct x86_stack *st, unsigned n, unsigned size)
{
    uint64_t lin;
    int r = X86_OK;

    for (unsigned i = 1; i <= n && !r; i++)
        r = stack_lin(c, st, (st->sp - (uint64_t)i * size) & sp_mask(st->width), size, size, &lin);
    return r;
}

int x86_stack_pop(struct x86_cpu *c, struct x86_stack *st, uint64_t *v, unsigned n, unsigned size)
{
    uint64_t mask = sp_mask(st->width), lin;
    unsigned old_cpl = c->cpl;
    int r = X86_OK;

    use_cpl(c, st->cpl);
    for (unsigned i = 0; i < n && !r; i++) {
        uint64_t host;

        v[i] = 0;
        if ((r = stack_lin(c, st, (st->sp + i * size) & mask, size, size, &lin)))
            break;
        if ((host = x86_tlb_host_r(c, lin, size)))
            memcpy(&v[i], (const void *)(uintptr_t)host, size);
        else
            r = x86_lin_read(c, lin, &v[i], size);
    }
    use_cpl(c, old_cpl);
    if (!r)
        st->sp = x86_sp_add(st->sp, st->width, n * size);
    return r;
}

int x86_tss_stack(struct x86_cpu *c, unsigned dpl, unsigned ext, struct x86_stack *out)
{
    bool t32 = c->tr.ar & 8;
    unsigned off = t32 ? dpl * 8 + 4 : dpl * 4 + 2, size = t32 ? 4 : 2;
    uint32_t sp = 0;
    uint16_t ss;
    int r;

    if (off + size + 1 > c->tr.limit)
        return x86_raise_err(c, X86_TS, x86_sel_err(c->tr.sel, ext));
    if ((r = x86_sys_read_fast(c, (uint32_t)(c->tr.base + off), &sp, size)) ||
        (r = x86_sys_read_fast(c, (uint32_t)(c->tr.base + off + size), &ss, 2)) ||
        (r = x86_check_ss(c, ss, dpl, X86_TS, ext, &out->ss)))
        return r;
    out->sp = sp;
    out->cpl = (uint8_t)dpl;
    out->width = x86_stack_width(false, &out->ss);
    out->err = x86_sel_err(ss, ext);
    return X86_OK;
}

int x86_tss_rsp(struct x86_cpu *c, unsigned n, bool ist, unsigned ext, uint64_t *rsp)
{
    unsigned off = ist ? 0x1c + n * 8 : 4 + n * 8;
    int r;

    if (off + 7 > c->tr.limit)
        return x86_raise_err(c, X86_TS, x86_sel_err(c->tr.sel, ext));
    if ((r = x86_sys_read_fast(c, c->tr.base + off, rsp, 8)))
        return r;
    if (!x86_canonical(*rsp))
        return x86_raise_err(c, X86_SSF, ext);
    return X86_OK;
}

int x86_check_rip(struct x86_cpu *c, const struct x86_seg *cs, uint64_t rip, unsigned ext)
{
    bool ok = x86_lma(c) && (cs->ar & X86_AR_L) ? x86_canonical(rip) : rip <= cs->limit;

    return ok ? X86_OK : x86_raise_err(c, X86_GP, ext);
}
