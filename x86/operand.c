/*
 * Operands: effective addresses, segmentation of data accesses, the stack, and
 * the state a processor has after power-up, INIT and SIPI.
 */
#include <string.h>

#include "x86/cpuid.h"
#include "x86/exec.h"

uint64_t x86_ea(const struct x86_cpu *c, const struct x86_insn *in)
{
    const struct x86_memref *m = &in->mem;
    uint64_t a = (uint64_t)m->disp;

    if (m->base < X86_NGPR)
        a += c->gpr[m->base];
    else if (m->base == X86_REG_RIP)
        a += c->rip + in->len;
    if (m->index < X86_NGPR)
        a += c->gpr[m->index] * m->scale;
    return in->addrsize == 8 ? a : in->addrsize == 4 ? (uint32_t)a : (uint16_t)a;
}

static int seg_fault(struct x86_cpu *c, unsigned seg)
{
    return x86_raise_err(c, seg == X86_SS ? X86_SSF : X86_GP, 0);
}

/* Limit, type and null checks outside 64-bit mode (SDM Vol. 3A, 5.3-5.5). */
static bool seg_allows(const struct x86_cpu *c, const struct x86_seg *s, uint32_t off, uint32_t len, int access)
{
    uint64_t last = (uint64_t)off + len - 1;
    bool data = !(s->ar & 8);

    if (x86_pe(c) && !x86_v86(c)) {
        if (!(s->ar & X86_AR_P))
            return false;
        if (access == X86_WRITE ? !data || !(s->ar & 2) : access == X86_READ ? !data && !(s->ar & 2) : data)
            return false;
    }
    if (data && (s->ar & 4)) /* expand-down: valid offsets lie above the limit */
        return off > s->limit && last <= (s->ar & X86_AR_DB ? 0xffffffffu : 0xffffu);
    return last <= s->limit;
}

int x86_seg_lin(struct x86_cpu *c, unsigned seg, uint64_t off, uint32_t len, int access, uint32_t align, uint64_t *lin)
{
    uint64_t a;

    if (c->mode == X86_MODE_64) {
        a = seg == X86_FS || seg == X86_GS ? off + c->seg[seg].base : off;
        if (!x86_canonical(a) || !x86_canonical(a + len - 1))
            return seg_fault(c, seg);
    } else {
        const struct x86_seg *s = &c->seg[seg];

        off = (uint32_t)off;
        if (!seg_allows(c, s, (uint32_t)off, len, access))
            return seg_fault(c, seg);
        a = (uint32_t)(off + s->base);
    }
    if (align > 1 && (a & (align - 1)) && c->cpl == 3 && (c->fl_sys & X86_FL_AC) && (c->cr0 & X86_CR0_AM))
        return x86_raise_err(c, X86_AC, 0);
    *lin = a;
    return X86_OK;
}

int x86_mem_lin(struct x86_cpu *c, const struct x86_insn *in, uint32_t len, int access, uint64_t *lin)
{
    uint32_t align = len == 2 || len == 4 || len == 8 ? len : 1;

    return x86_seg_lin(c, in->mem.seg, x86_ea(c, in), len, access, align, lin);
}

int x86_mem_read(struct x86_cpu *c, const struct x86_insn *in, void *buf, uint32_t len)
{
    uint64_t lin;
    int r = x86_mem_lin(c, in, len, X86_READ, &lin);

    return r ? r : x86_lin_read(c, lin, buf, len);
}

int x86_mem_write(struct x86_cpu *c, const struct x86_insn *in, const void *buf, uint32_t len)
{
    uint64_t lin;
    int r = x86_mem_lin(c, in, len, X86_WRITE, &lin);

    return r ? r : x86_lin_write(c, lin, buf, len);
}

int x86_opnd_read(struct x86_cpu *c, const struct x86_insn *in, unsigned i, uint64_t *val)
{
    const struct x86_operand *o = &in->opnd[i];

    switch (o->kind) {
    case X86_OPND_GPR:
        *val = x86_reg_read(c, o->reg, o->size);
        return X86_OK;
    case X86_OPND_GPR8H:
        *val = (uint8_t)(c->gpr[o->reg & 3] >> 8);
        return X86_OK;
    case X86_OPND_SEG:
        *val = o->reg < X86_NSEG ? c->seg[o->reg].sel : 0;
        return X86_OK;
    case X86_OPND_IMM:
    case X86_OPND_REL:
    case X86_OPND_FAR:
        *val = (uint64_t)in->imm;
        return X86_OK;
    case X86_OPND_IMM2:
        *val = (uint64_t)in->imm2;
        return X86_OK;
    case X86_OPND_ONE:
        *val = 1;
        return X86_OK;
    case X86_OPND_MEM:
        *val = 0;
        return o->size <= 8 ? x86_mem_read(c, in, val, o->size) : X86_UNDEF;
    default:
        return X86_UNDEF;
    }
}

int x86_opnd_write(struct x86_cpu *c, const struct x86_insn *in, unsigned i, uint64_t val)
{
    const struct x86_operand *o = &in->opnd[i];

    switch (o->kind) {
    case X86_OPND_GPR:
        x86_reg_write(c, o->reg, o->size, val);
        return X86_OK;
    case X86_OPND_GPR8H: {
        uint64_t *p = &c->gpr[o->reg & 3];

        *p = (*p & ~0xff00ull) | (val & 0xff) << 8;
        return X86_OK;
    }
    case X86_OPND_MEM:
        return o->size <= 8 ? x86_mem_write(c, in, &val, o->size) : X86_UNDEF;
    default:
        return X86_UNDEF;
    }
}

/* --- stack ------------------------------------------------------------- */

static unsigned stack_width(const struct x86_cpu *c)
{
    return c->mode == X86_MODE_64 ? 8 : c->seg[X86_SS].ar & X86_AR_DB ? 4 : 2;
}

static uint64_t width_mask(unsigned w) { return w == 8 ? ~0ull : w == 4 ? 0xffffffffull : 0xffff; }

int x86_push(struct x86_cpu *c, unsigned size, uint64_t val)
{
    unsigned w = stack_width(c);
    uint64_t sp = (c->gpr[X86_RSP] - size) & width_mask(w), lin;
    int r = x86_seg_lin(c, X86_SS, sp, size, X86_WRITE, size, &lin);
    uint64_t host;

    if (r)
        return r;
    if (size == 8 && (host = x86_tlb_host_w(c, lin, 8)))
        memcpy((void *)(uintptr_t)host, &val, 8);
    else if ((r = x86_lin_write(c, lin, &val, size)))
        return r;
    x86_reg_write(c, X86_RSP, w, sp);
    return X86_OK;
}

int x86_pop(struct x86_cpu *c, unsigned size, uint64_t *val)
{
    unsigned w = stack_width(c);
    uint64_t sp = c->gpr[X86_RSP] & width_mask(w), lin, v = 0;
    int r = x86_seg_lin(c, X86_SS, sp, size, X86_READ, size, &lin);
    uint64_t host;

    if (r)
        return r;
    if (size == 8 && (host = x86_tlb_host_r(c, lin, 8)))
        memcpy(&v, (const void *)(uintptr_t)host, 8);
    else if ((r = x86_lin_read(c, lin, &v, size)))
        return r;
    x86_reg_write(c, X86_RSP, w, sp + size);
    *val = v;
    return X86_OK;
}

/* --- processor state --------------------------------------------------- */

void x86_recompute(struct x86_cpu *c)
{
    uint8_t old = c->mode;
    uint16_t cs = c->seg[X86_CS].ar;

    /* CPL is SS.DPL: CS.RPL is no privilege right after MOV CR0 has set PE. */
    c->cpl = !x86_pe(c) ? 0 : x86_v86(c) ? 3 : X86_AR_DPL(c->seg[X86_SS].ar);
    c->mode = x86_lma(c) && (cs & X86_AR_L) ? X86_MODE_64 : cs & X86_AR_DB ? X86_MODE_32 : X86_MODE_16;
    x86_mmu_update_ctx(c);
    if (c->mode != old && c->ops && c->ops->mode_changed)
        c->ops->mode_changed(c->env);
}

void x86_reset(struct x86_cpu *c, bool init)
{
    uint64_t cache_bits = init ? c->cr0 & (X86_CR0_CD | X86_CR0_NW) : X86_CR0_CD | X86_CR0_NW;

    memset(c->gpr, 0, sizeof(c->gpr));
    c->gpr[X86_RDX] = c->cpuid ? x86_signature(c->cpuid) : 0x600;
    c->rip = 0xfff0;
    x86_set_rflags(c, X86_FL_1);

    for (unsigned i = 0; i < X86_NSEG; i++)
        c->seg[i] = (struct x86_seg){.limit = 0xffff, .ar = 0x93};
    c->seg[X86_CS] = (struct x86_seg){.base = 0xffff0000, .limit = 0xffff, .sel = 0xf000, .ar = 0x9b};
    c->ldtr = (struct x86_seg){.limit = 0xffff, .ar = 0x82};
    c->tr = (struct x86_seg){.limit = 0xffff, .ar = 0x8b};
    c->gdtr = c->idtr = (struct x86_dtr){.limit = 0xffff};

    c->cr0 = X86_CR0_ET | cache_bits;
    c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
    memset(c->dr, 0, sizeof(c->dr));
    c->dr6 = 0xffff0ff0;
    c->dr7 = 0x400;
    memset(c->pdptr, 0, sizeof(c->pdptr));
    c->pdptr_valid = 0;
    c->inhibit_irq = 0;
    c->nmi_blocked = false;
    c->pending_dbg = 0;
    c->monitor_addr = ~0ull;
    memset(&c->exc, 0, sizeof(c->exc));
    c->activity = c->is_bsp ? X86_RUNNING : X86_WAIT_SIPI;

    if (!init) {
        c->xcr0 = 1;
        c->star = c->lstar = c->cstar = c->sfmask = c->kernel_gs_base = 0;
        c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
        c->tsc_offset = c->tsc_adjust = c->tsc_aux = 0;
        c->pat = 0x0007040600070406;
        c->mtrr_deftype = 0;
        memset(c->mtrr_fix, 0, sizeof(c->mtrr_fix));
        memset(c->mtrr_var, 0, sizeof(c->mtrr_var));
        c->misc_enable = X86_MISC_FAST_STRINGS | X86_MISC_BTS_UNAVAIL | X86_MISC_PEBS_UNAVAIL | X86_MISC_MONITOR;
        c->misc_feature_enables = c->debugctl = c->spec_ctrl = c->mcg_status = 0;
        c->ucode_rev = 1ull << 32;
        x86_fpu_reset(c);
    }
    x86_tlb_flush_all(c);
    x86_recompute(c);
}

void x86_sipi(struct x86_cpu *c, uint8_t vector)
{
    if (c->activity != X86_WAIT_SIPI)
        return; /* a SIPI is ignored in any other state */
    c->seg[X86_CS].sel = (uint16_t)(vector << 8);
    c->seg[X86_CS].base = (uint32_t)vector << 12;
    c->rip = 0;
    c->activity = X86_RUNNING;
}
