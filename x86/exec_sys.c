/*
 * Executors: control and debug registers, descriptor tables, caches and TLB,
 * MSRs, time, identification. Order of checks as in the SDM: #UD conditions,
 * then privilege, then operands.
 */
#include "x86/exec_sys.h"

#include <string.h>

#include "x86/cpuid.h"
#include "x86/decode.h"

#define EXEC(name) static int do_##name(struct x86_cpu *c, const struct x86_insn *in)

static int gp0(struct x86_cpu *c)
{
    return x86_raise_err(c, X86_GP, 0);
}
static int ud(struct x86_cpu *c)
{
    return x86_raise(c, X86_UD);
}

static uint32_t reg32(const struct x86_cpu *c, unsigned reg)
{
    return (uint32_t)c->gpr[reg];
}
static void set_edx_eax(struct x86_cpu *c, uint64_t v)
{
    c->gpr[X86_RAX] = (uint32_t)v;
    c->gpr[X86_RDX] = v >> 32;
}
static uint64_t get_edx_eax(const struct x86_cpu *c)
{
    return (uint64_t)reg32(c, X86_RDX) << 32 | reg32(c, X86_RAX);
}

/* --- control and debug registers ------------------------------------------ */

static int cr_read(struct x86_cpu *c, unsigned cr, uint64_t *v)
{
    switch (cr) {
    case 0: *v = c->cr0; return X86_OK;
    case 2: *v = c->cr2; return X86_OK;
    case 3: *v = c->cr3; return X86_OK;
    case 4: *v = c->cr4; return X86_OK;
    case 8: *v = c->ops->cr8_read(c->env) & 15; return X86_OK;
    }
    return ud(c);
}

static int cr_write(struct x86_cpu *c, unsigned cr, uint64_t v)
{
    switch (cr) {
    case 0: return x86_set_cr0(c, v);
    case 2: c->cr2 = v; return X86_OK;
    case 3: return x86_set_cr3(c, v);
    case 4: return x86_set_cr4(c, v);
    case 8:
        if (v & ~15ull)
            return gp0(c);
        c->ops->cr8_write(c->env, v);
        return X86_OK;
    }
    return ud(c);
}

EXEC(mov_cr)
{
    const struct x86_operand *dst = &in->opnd[0], *src = &in->opnd[1];
    bool load = dst->kind == X86_OPND_CR;
    unsigned cr = load ? dst->reg : src->reg;
    uint64_t v;

    if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8)
        return ud(c);
    if (c->cpl)
        return gp0(c);
    if (load)
        return cr_write(c, cr, x86_reg_read(c, src->reg, src->size));
    if (cr_read(c, cr, &v) != X86_OK)
        return X86_FAULT;
    x86_reg_write(c, dst->reg, dst->size, v);
    return X86_OK;
}

static int dr_write(struct x86_cpu *c, unsigned dr, uint64_t v)
{
    if (dr < 4) {
        c->dr[dr] = v;
    } else {
        if (v >> 32)
            return gp0(c);
        if (dr == 6)
            c->dr6 = (v & 0xe00f) | X86_DR6_FIXED;
        else
            c->dr7 = (v & 0xffff23ff) | X86_DR7_FIXED;
    }
    /* pages with an armed data breakpoint must not be cached */
    if (c->dr7 & 0xff)
        x86_tlb_flush_all(c);
    return X86_OK;
}

EXEC(mov_dr)
{
    const struct x86_operand *dst = &in->opnd[0], *src = &in->opnd[1];
    bool load = dst->kind == X86_OPND_DR;
    unsigned dr = load ? dst->reg : src->reg;

    if (dr > 7 || ((dr == 4 || dr == 5) && (c->cr4 & X86_CR4_DE)))
        return ud(c);
    if (c->cpl)
        return gp0(c);
    if (c->dr7 & X86_DR7_GD) { /* general detect: reported before the access; delivery clears GD */
        c->exc = (struct x86_exc){.vector = X86_DB, .dr6 = X86_DR6_BD};
        return X86_FAULT;
    }
    if (dr == 4 || dr == 5)
        dr += 2;
    if (load)
        return dr_write(c, dr, x86_reg_read(c, src->reg, src->size));
    x86_reg_write(c, dst->reg, dst->size, dr == 6 ? c->dr6 : dr == 7 ? c->dr7 : c->dr[dr]);
    return X86_OK;
}

EXEC(clts)
{
    if (c->cpl)
        return gp0(c);
    return x86_set_cr0(c, c->cr0 & ~(uint64_t)X86_CR0_TS);
}

EXEC(lmsw)
{
    uint64_t v;
    int r;

    if (c->cpl)
        return gp0(c);
    if ((r = x86_opnd_read(c, in, 0, &v)))
        return r;
    /* sets PE but cannot clear it */
    return x86_set_cr0(c, (c->cr0 & ~(uint64_t)(X86_CR0_MP | X86_CR0_EM | X86_CR0_TS)) | (v & 15));
}

static bool umip_denies(const struct x86_cpu *c)
{
    return (c->cr4 & X86_CR4_UMIP) && c->cpl;
}

EXEC(smsw)
{
    if (umip_denies(c))
        return gp0(c);
    return x86_opnd_write(c, in, 0, c->cr0 & 0xffffffff);
}

/* --- descriptor tables -------------------------------------------------------- */

static int store_dtr(struct x86_cpu *c, const struct x86_insn *in, const struct x86_dtr *t)
{
    uint8_t img[10];

    if (umip_denies(c))
        return gp0(c);
    memcpy(img, &t->limit, 2);
    memcpy(img + 2, &t->base, 8);
    return x86_mem_write(c, in, img, c->mode == X86_MODE_64 ? 10 : 6);
}

static int load_dtr(struct x86_cpu *c, const struct x86_insn *in, struct x86_dtr *t)
{
    uint8_t img[10] = {0};
    struct x86_dtr v;
    int r;

    if (c->cpl)
        return gp0(c);
    if ((r = x86_mem_read(c, in, img, c->mode == X86_MODE_64 ? 10 : 6)))
        return r;
    memcpy(&v.limit, img, 2);
    memcpy(&v.base, img + 2, 8);
    if (c->mode != X86_MODE_64 && in->opsize == 2)
        v.base &= 0xffffff;
    if (!x86_canonical(v.base))
        return gp0(c);
    *t = v;
    return X86_OK;
}

EXEC(sgdt)
{
    return store_dtr(c, in, &c->gdtr);
}
EXEC(sidt)
{
    return store_dtr(c, in, &c->idtr);
}
EXEC(lgdt)
{
    return load_dtr(c, in, &c->gdtr);
}
EXEC(lidt)
{
    return load_dtr(c, in, &c->idtr);
}

/* --- TLB and caches --------------------------------------------------------------- */

EXEC(invlpg)
{
    uint64_t lin = x86_ea(c, in);

    if (c->cpl)
        return gp0(c);
    /* no segment checks: the operand is only an address */
    if (c->mode == X86_MODE_64) {
        if (in->mem.seg == X86_FS || in->mem.seg == X86_GS)
            lin += c->seg[in->mem.seg].base;
        if (!x86_canonical(lin))
            return X86_OK;
    } else {
        lin = (uint32_t)(lin + c->seg[in->mem.seg].base);
    }
    x86_tlb_flush_page(c, lin);
    return X86_OK;
}

EXEC(invpcid)
{
    uint64_t desc[2], type = c->gpr[in->opnd[0].reg];
    bool pcide = c->cr4 & X86_CR4_PCIDE;
    int r;

    if (c->cpl)
        return gp0(c);
    if (c->mode != X86_MODE_64)
        type = (uint32_t)type;
    if ((r = x86_mem_read(c, in, desc, 16)))
        return r;
    if (type > 3 || (desc[0] >> 12))
        return gp0(c);
    if (type <= 1 && !pcide && desc[0])
        return gp0(c);
    switch (type) {
    case 0:
        if (!x86_canonical(desc[1]))
            return gp0(c);
        if (!pcide || desc[0] == (c->cr3 & 0xfff)) {
            x86_tlb_flush_page(c, desc[1]);
        } else {
            x86_tlb_event(c, X86_TLB_EV_PAGE, desc[1] & ~0xfffull);
            x86_tlb_forget_pcid(c, (unsigned)desc[0]);
        }
        break;
    case 1:
        x86_tlb_event(c, X86_TLB_EV_PCID, desc[0]);
        if (!pcide || desc[0] == (c->cr3 & 0xfff))
            x86_tlb_flush_nonglobal(c);
        else
            x86_tlb_forget_pcid(c, (unsigned)desc[0]);
        break;
    case 2: x86_tlb_flush_all(c); break;
    case 3:
        x86_tlb_event(c, X86_TLB_EV_ALL, 0);
        x86_tlb_forget_pcids(c);
        x86_tlb_flush_nonglobal(c);
    }
    return X86_OK;
}

/* INVD, WBINVD, WBNOINVD: memory is always coherent here. */
EXEC(cache_all)
{
    return c->cpl ? gp0(c) : X86_OK;
}

/* CLFLUSH, CLFLUSHOPT, CLWB: checked like a load of a byte, also from an execute-only code segment. */
EXEC(cache_line)
{
    const struct x86_seg *s = &c->seg[in->mem.seg];
    bool exec_only = x86_pe(c) && !x86_v86(c) && (s->ar & 8) && !(s->ar & 2);
    uint64_t lin;
    int r;

    if ((r = x86_mem_lin(c, in, 1, exec_only ? X86_EXEC : X86_READ, &lin)))
        return r;
    return x86_lin_probe(c, lin, 1, X86_READ);
}

EXEC(nop)
{
    (void)c;
    (void)in;
    return X86_OK;
}

/* --- halting --------------------------------------------------------------------- */

EXEC(hlt)
{
    if (c->cpl)
        return gp0(c);
    c->activity = X86_HALTED;
    return X86_EXIT;
}

EXEC(monitor)
{
    unsigned seg = in->seg_override == X86_SEG_NONE ? (unsigned)X86_DS : in->seg_override;
    uint64_t lin;
    int r;

    if (c->cpl || !(c->misc_enable & X86_MISC_MONITOR))
        return ud(c);
    if (c->mode == X86_MODE_64 ? c->gpr[X86_RCX] : reg32(c, X86_RCX))
        return gp0(c);
    if ((r = x86_seg_lin(c, seg, x86_reg_read(c, X86_RAX, in->addrsize), 1, X86_READ, 1, &lin)) ||
        (r = x86_lin_probe(c, lin, 1, X86_READ)))
        return r;
    if (!x86_walk_peek(c, lin, &c->monitor_addr))
        c->monitor_addr = ~0ull;
    return X86_OK;
}

/* Stores of other processors to the armed line are not observed, so that MWAIT may not wait for them: it ends at once,
 * as any implementation-dependent event allows. CPUID leaf 5 offers no C-states; idle guests use HLT. */
EXEC(mwait)
{
    uint64_t ext = c->mode == X86_MODE_64 ? c->gpr[X86_RCX] : reg32(c, X86_RCX);

    if (c->cpl || !(c->misc_enable & X86_MISC_MONITOR))
        return ud(c);
    if (ext & ~1ull) /* bit 0: interrupts end the wait even when masked */
        return gp0(c);
    c->monitor_addr = ~0ull;
    return X86_OK;
}

/* --- MSRs, time, identification ----------------------------------------------------- */

EXEC(rdmsr)
{
    uint64_t v;

    if (c->cpl)
        return gp0(c);
    if (x86_rdmsr(c, reg32(c, X86_RCX), &v) != X86_OK)
        return X86_FAULT;
    set_edx_eax(c, v);
    return X86_OK;
}

EXEC(wrmsr)
{
    return c->cpl ? gp0(c) : x86_wrmsr(c, reg32(c, X86_RCX), get_edx_eax(c));
}

EXEC(rdtsc)
{
    if ((c->cr4 & X86_CR4_TSD) && c->cpl)
        return gp0(c);
    set_edx_eax(c, x86_tsc(c));
    return X86_OK;
}

EXEC(rdtscp)
{
    int r = do_rdtsc(c, in);

    if (r == X86_OK)
        c->gpr[X86_RCX] = (uint32_t)c->tsc_aux;
    return r;
}

EXEC(rdpid)
{
    x86_reg_write(c, in->opnd[0].reg, in->opnd[0].size, (uint32_t)c->tsc_aux);
    return X86_OK;
}

/* There are no counters: every index is invalid. */
EXEC(rdpmc)
{
    return gp0(c);
}

EXEC(cpuid)
{
    uint32_t r[4];

    if ((c->misc_feature_enables & 1) && c->cpl) /* CPUID faulting */
        return gp0(c);
    x86_cpuid(c, reg32(c, X86_RAX), reg32(c, X86_RCX), r);
    c->gpr[X86_RAX] = r[0];
    c->gpr[X86_RBX] = r[1];
    c->gpr[X86_RCX] = r[2];
    c->gpr[X86_RDX] = r[3];
    return X86_OK;
}

EXEC(xgetbv)
{
    if (!(c->cr4 & X86_CR4_OSXSAVE))
        return ud(c);
    switch (reg32(c, X86_RCX)) {
    case 0: set_edx_eax(c, c->xcr0); return X86_OK;
    case 1: set_edx_eax(c, c->xcr0 & c->fpu.xstate_bv); return X86_OK; /* components in use */
    }
    return gp0(c);
}

EXEC(xsetbv)
{
    uint64_t v = get_edx_eax(c);

    if (!(c->cr4 & X86_CR4_OSXSAVE))
        return ud(c);
    if (c->cpl || reg32(c, X86_RCX) || (v & ~x86_xcr0_mask(c->cpuid)) || !(v & 1) || ((v & 4) && !(v & 2)))
        return gp0(c);
    c->xcr0 = v;
    if (c->ops->mode_changed)
        c->ops->mode_changed(c->env);
    return X86_OK;
}

/* RDRAND, RDSEED: CF tells whether there was a value; the other arithmetic flags are cleared. */
EXEC(random)
{
    uint64_t v = 0;
    bool ok = c->ops->random(c->env, &v);

    x86_reg_write(c, in->opnd[0].reg, in->opnd[0].size, ok ? v : 0);
    c->cc_lo = ok ? X86_FL_CF : 0;
    c->cc_of = 0;
    return X86_OK;
}

/* --- FS and GS bases ---------------------------------------------------------------- */

static int rd_base(struct x86_cpu *c, const struct x86_insn *in, unsigned seg)
{
    if (!(c->cr4 & X86_CR4_FSGSBASE))
        return ud(c);
    x86_reg_write(c, in->opnd[0].reg, in->opnd[0].size, c->seg[seg].base);
    return X86_OK;
}

static int wr_base(struct x86_cpu *c, const struct x86_insn *in, unsigned seg)
{
    uint64_t v = x86_reg_read(c, in->opnd[0].reg, in->opnd[0].size);

    if (!(c->cr4 & X86_CR4_FSGSBASE))
        return ud(c);
    if (!x86_canonical(v))
        return gp0(c);
    c->seg[seg].base = v;
    return X86_OK;
}

EXEC(rdfsbase)
{
    return rd_base(c, in, X86_FS);
}
EXEC(rdgsbase)
{
    return rd_base(c, in, X86_GS);
}
EXEC(wrfsbase)
{
    return wr_base(c, in, X86_FS);
}
EXEC(wrgsbase)
{
    return wr_base(c, in, X86_GS);
}

EXEC(swapgs)
{
    uint64_t v = c->kernel_gs_base;

    if (c->mode != X86_MODE_64)
        return ud(c);
    if (c->cpl)
        return gp0(c);
    c->kernel_gs_base = c->seg[X86_GS].base;
    c->seg[X86_GS].base = v;
    return X86_OK;
}

/* --- others ------------------------------------------------------------------------- */

/* Outside SMM, which there is not. */
EXEC(rsm)
{
    return ud(c);
}

/* No VMX or SVM operation here, and hypercalls come by a port (docs/hypercalls.md). */
EXEC(vmcall)
{
    return ud(c);
}

const struct x86_exec_entry x86_exec_sys[] = {
    {X86_OP_MOV_CR, do_mov_cr},
    {X86_OP_MOV_DR, do_mov_dr},
    {X86_OP_CLTS, do_clts},
    {X86_OP_LMSW, do_lmsw},
    {X86_OP_SMSW, do_smsw},
    {X86_OP_SGDT, do_sgdt},
    {X86_OP_SIDT, do_sidt},
    {X86_OP_LGDT, do_lgdt},
    {X86_OP_LIDT, do_lidt},
    {X86_OP_INVLPG, do_invlpg},
    {X86_OP_INVPCID, do_invpcid},
    {X86_OP_INVD, do_cache_all},
    {X86_OP_WBINVD, do_cache_all},
    {X86_OP_WBNOINVD, do_cache_all},
    {X86_OP_CLFLUSH, do_cache_line},
    {X86_OP_CLFLUSHOPT, do_cache_line},
    {X86_OP_CLWB, do_cache_line},
    {X86_OP_SERIALIZE, do_nop},
    {X86_OP_HLT, do_hlt},
    {X86_OP_MONITOR, do_monitor},
    {X86_OP_MWAIT, do_mwait},
    {X86_OP_RDMSR, do_rdmsr},
    {X86_OP_WRMSR, do_wrmsr},
    {X86_OP_RDTSC, do_rdtsc},
    {X86_OP_RDTSCP, do_rdtscp},
    {X86_OP_RDPID, do_rdpid},
    {X86_OP_RDPMC, do_rdpmc},
    {X86_OP_CPUID, do_cpuid},
    {X86_OP_XGETBV, do_xgetbv},
    {X86_OP_XSETBV, do_xsetbv},
    {X86_OP_RDRAND, do_random},
    {X86_OP_RDSEED, do_random},
    {X86_OP_RDFSBASE, do_rdfsbase},
    {X86_OP_RDGSBASE, do_rdgsbase},
    {X86_OP_WRFSBASE, do_wrfsbase},
    {X86_OP_WRGSBASE, do_wrgsbase},
    {X86_OP_SWAPGS, do_swapgs},
    {X86_OP_RSM, do_rsm},
    {X86_OP_VMCALL, do_vmcall},
    {X86_OP_IN, x86_do_in},
    {X86_OP_OUT, x86_do_out},
    {X86_OP_INS, x86_do_ins},
    {X86_OP_OUTS, x86_do_outs},
    {0, NULL},
};
