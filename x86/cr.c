/*
 * Writes to CR0, CR3, CR4 and EFER: what the processor refuses, what it
 * reloads and what it flushes (SDM Vol. 3A, 2.5, 4.1, 4.4.1, 4.10.4, 9.8.5).
 */
#include "x86/cpuid.h"
#include "x86/exec.h"

static int gp0(struct x86_cpu *c)
{
    return x86_raise_err(c, X86_GP, 0);
}

/* Load the four PDPTRs for PAE paging from the table at cr3. #GP(0) and no change when a present entry has reserved
 * bits. */
static int load_pdptrs(struct x86_cpu *c, uint64_t cr3)
{
    uint64_t reserved = ~((1ull << x86_phys_bits(c->cpuid)) - 1) | 0x1e6, e[4];

    x86_phys_read(c, cr3 & 0xffffffe0, e, sizeof(e));
    for (unsigned i = 0; i < 4; i++)
        if ((e[i] & 1) && (e[i] & reserved))
            return gp0(c);
    for (unsigned i = 0; i < 4; i++)
        c->pdptr[i] = e[i];
    c->pdptr_valid = 1;
    return X86_OK;
}

/* Caches of decoded code and of CPL-dependent things are looked up again. x86_recompute tells of mode changes by
 * itself. */
static void changed(struct x86_cpu *c)
{
    uint8_t mode = c->mode;

    x86_recompute(c);
    if (c->mode == mode && c->ops->mode_changed)
        c->ops->mode_changed(c->env);
}

int x86_set_cr0(struct x86_cpu *c, uint64_t val)
{
    const uint64_t defined = X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP |
                             X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG;
    uint64_t old = c->cr0, diff, efer = c->efer;

    if (val >> 32)
        return gp0(c);
    val = (val & defined) | X86_CR0_ET; /* undefined low bits are ignored, ET is hard-wired */
    diff = old ^ val;
    if ((val & X86_CR0_PG) && !(val & X86_CR0_PE))
        return gp0(c);
    if ((val & X86_CR0_NW) && !(val & X86_CR0_CD))
        return gp0(c);
    if (diff & X86_CR0_PG) {
        if (val & X86_CR0_PG) {
            if (efer & X86_EFER_LME) {
                /* consistency checks of the switch to IA-32e mode */
                if (!(c->cr4 & X86_CR4_PAE) || (c->seg[X86_CS].ar & X86_AR_L))
                    return gp0(c);
                if ((c->tr.ar & X86_AR_P) && !(c->tr.ar & 8)) /* 16-bit TSS */
                    return gp0(c);
                efer |= X86_EFER_LMA;
            }
        } else {
            if (c->mode == X86_MODE_64 || (c->cr4 & X86_CR4_PCIDE))
                return gp0(c);
            efer &= ~(uint64_t)X86_EFER_LMA;
        }
    }
    if ((val & X86_CR0_PG) && (c->cr4 & X86_CR4_PAE) && !(efer & X86_EFER_LMA) &&
        (diff & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW)) && load_pdptrs(c, c->cr3) != X86_OK)
        return X86_FAULT;
    c->cr0 = val;
    c->efer = efer;
    /* WP decides what the cached entries allow */
    if (diff & (X86_CR0_PG | X86_CR0_WP | X86_CR0_PE))
        x86_tlb_flush_all(c);
    if (diff)
        changed(c);
    return X86_OK;
}

int x86_set_cr3(struct x86_cpu *c, uint64_t val)
{
    uint64_t reserved = ~((1ull << x86_phys_bits(c->cpuid)) - 1);
    bool keep = false;
    const unsigned old = c->cr3 & 0xfff;

    if (c->cr4 & X86_CR4_PCIDE) {
        keep = val >> 63;
        val &= ~(1ull << 63);
    }
    if (val & reserved)
        return gp0(c);
    if ((c->cr0 & X86_CR0_PG) && (c->cr4 & X86_CR4_PAE) && !x86_lma(c) && load_pdptrs(c, val) != X86_OK)
        return X86_FAULT;
    c->cr3 = val;
    if (!keep)
        x86_tlb_event(c, X86_TLB_EV_PCID, c->cr4 & X86_CR4_PCIDE ? val & 0xfff : 0);
    if (c->cr4 & X86_CR4_PCIDE)
        x86_tlb_switch_pcid(c, old, val & 0xfff, keep);
    else
        x86_tlb_flush_nonglobal(c);
    return X86_OK;
}

static uint64_t cr4_defined(const struct x86_cpu *c)
{
    const struct x86_cpuid_policy *p = c->cpuid;
    uint64_t m = X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE |
                 X86_CR4_PGE | X86_CR4_PCE | X86_CR4_UMIP | X86_CR4_PCIDE | X86_CR4_SMEP;

    if (x86_has(p, X86_FEAT_FXSR))
        m |= X86_CR4_OSFXSR;
    if (x86_has(p, X86_FEAT_SSE))
        m |= X86_CR4_OSXMMEXCPT;
    if (x86_has(p, X86_FEAT_XSAVE))
        m |= X86_CR4_OSXSAVE;
    if (x86_has(p, X86_FEAT_FSGSBASE))
        m |= X86_CR4_FSGSBASE;
    if (x86_has(p, X86_FEAT_SMAP))
        m |= X86_CR4_SMAP;
    return m;
}

int x86_set_cr4(struct x86_cpu *c, uint64_t val)
{
    uint64_t diff = c->cr4 ^ val;

    if (val & ~cr4_defined(c))
        return gp0(c);
    if (x86_lma(c) && !(val & X86_CR4_PAE))
        return gp0(c);
    if (diff & val & X86_CR4_PCIDE) {
        if (!x86_lma(c) || (c->cr3 & 0xfff))
            return gp0(c);
    }
    if ((c->cr0 & X86_CR0_PG) && (val & X86_CR4_PAE) && !x86_lma(c) &&
        (diff & (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP)) && load_pdptrs(c, c->cr3) != X86_OK)
        return X86_FAULT;
    c->cr4 = val;
    if (diff & (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP))
        x86_tlb_flush_all(c);
    if (diff)
        changed(c);
    return X86_OK;
}

int x86_set_efer(struct x86_cpu *c, uint64_t val)
{
    uint64_t defined = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE, diff;

    if (c->misc_enable & X86_MISC_XD_DISABLE)
        defined &= ~(uint64_t)X86_EFER_NXE;
    if (val & ~defined)
        return gp0(c);
    val = (val & ~(uint64_t)X86_EFER_LMA) | (c->efer & X86_EFER_LMA); /* LMA is read-only */
    diff = c->efer ^ val;
    if ((diff & X86_EFER_LME) && (c->cr0 & X86_CR0_PG))
        return gp0(c);
    c->efer = val;
    if (diff & X86_EFER_NXE)
        x86_tlb_flush_all(c);
    if (diff)
        changed(c);
    return X86_OK;
}
