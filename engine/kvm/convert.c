/* Canonical state to KVM's structures and back. */
#include "engine/kvm/convert.h"

#include <string.h>

void kvm_regs_from(const struct x86_cpu *c, struct kvm_regs *r)
{
    *r = (struct kvm_regs){
        .rax = c->gpr[X86_RAX],
        .rbx = c->gpr[X86_RBX],
        .rcx = c->gpr[X86_RCX],
        .rdx = c->gpr[X86_RDX],
        .rsi = c->gpr[X86_RSI],
        .rdi = c->gpr[X86_RDI],
        .rsp = c->gpr[X86_RSP],
        .rbp = c->gpr[X86_RBP],
        .r8 = c->gpr[8],
        .r9 = c->gpr[9],
        .r10 = c->gpr[10],
        .r11 = c->gpr[11],
        .r12 = c->gpr[12],
        .r13 = c->gpr[13],
        .r14 = c->gpr[14],
        .r15 = c->gpr[15],
        .rip = c->rip,
        .rflags = x86_get_rflags(c),
    };
}

void kvm_regs_to(struct x86_cpu *c, const struct kvm_regs *r)
{
    const uint64_t gpr[X86_NGPR] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
                                    r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};
    memcpy(c->gpr, gpr, sizeof(gpr));
    c->rip = r->rip;
    x86_set_rflags(c, r->rflags);
}

static void seg_from(const struct x86_seg *s, struct kvm_segment *k)
{
    *k = (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->ar & X86_AR_TYPE,
        .s = !!(s->ar & X86_AR_S),
        .dpl = X86_AR_DPL(s->ar),
        .present = !!(s->ar & X86_AR_P),
        .avl = !!(s->ar & X86_AR_AVL),
        .l = !!(s->ar & X86_AR_L),
        .db = !!(s->ar & X86_AR_DB),
        .g = !!(s->ar & X86_AR_G),
        .unusable = !(s->ar & X86_AR_P),
    };
}

static void seg_to(struct x86_seg *s, const struct kvm_segment *k)
{
    s->base = k->base;
    s->limit = k->limit;
    s->sel = k->selector;
    s->ar = (uint16_t)((k->type & 15) | (k->s ? X86_AR_S : 0) | (k->dpl & 3) << 5 |
                       (k->present && !k->unusable ? X86_AR_P : 0) | (k->avl ? X86_AR_AVL : 0) | (k->l ? X86_AR_L : 0) |
                       (k->db ? X86_AR_DB : 0) | (k->g ? X86_AR_G : 0));
}

static bool pae_paging(const struct x86_cpu *c)
{
    return (c->cr0 & X86_CR0_PG) && (c->cr4 & X86_CR4_PAE) && !(c->efer & X86_EFER_LMA);
}

void kvm_sregs_from(const struct x86_cpu *c, uint64_t apic_base, uint64_t cr8, struct kvm_sregs2 *s)
{
    memset(s, 0, sizeof(*s));
    seg_from(&c->seg[X86_CS], &s->cs);
    seg_from(&c->seg[X86_DS], &s->ds);
    seg_from(&c->seg[X86_ES], &s->es);
    seg_from(&c->seg[X86_FS], &s->fs);
    seg_from(&c->seg[X86_GS], &s->gs);
    seg_from(&c->seg[X86_SS], &s->ss);
    seg_from(&c->tr, &s->tr);
    seg_from(&c->ldtr, &s->ldt);
    s->tr.type |= 2; /* VT-x enters with a busy TSS only; processors without one loaded show it so too */
    s->gdt = (struct kvm_dtable){.base = c->gdtr.base, .limit = c->gdtr.limit};
    s->idt = (struct kvm_dtable){.base = c->idtr.base, .limit = c->idtr.limit};
    s->cr0 = c->cr0;
    s->cr2 = c->cr2;
    s->cr3 = c->cr3;
    s->cr4 = c->cr4;
    s->cr8 = cr8;
    s->efer = c->efer;
    s->apic_base = apic_base;
    if (pae_paging(c) && c->pdptr_valid) {
        s->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        for (unsigned i = 0; i < 4; i++)
            s->pdptrs[i] = c->pdptr[i];
    }
}

void kvm_sregs_to(struct x86_cpu *c, const struct kvm_sregs2 *s)
{
    seg_to(&c->seg[X86_CS], &s->cs);
    seg_to(&c->seg[X86_DS], &s->ds);
    seg_to(&c->seg[X86_ES], &s->es);
    seg_to(&c->seg[X86_FS], &s->fs);
    seg_to(&c->seg[X86_GS], &s->gs);
    seg_to(&c->seg[X86_SS], &s->ss);
    seg_to(&c->tr, &s->tr);
    seg_to(&c->ldtr, &s->ldt);
    c->gdtr = (struct x86_dtr){s->gdt.base, s->gdt.limit};
    c->idtr = (struct x86_dtr){s->idt.base, s->idt.limit};
    c->cr0 = s->cr0;
    c->cr2 = s->cr2;
    c->cr3 = s->cr3;
    c->cr4 = s->cr4;
    c->efer = s->efer;
    c->pdptr_valid = !!(s->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID);
    for (unsigned i = 0; i < 4; i++)
        c->pdptr[i] = c->pdptr_valid ? s->pdptrs[i] : 0;
}

/* The two structures are the same up to apic_base. */
_Static_assert(offsetof(struct kvm_sregs, interrupt_bitmap) == offsetof(struct kvm_sregs2, flags), "KVM ABI");

void kvm_sregs2_to_1(const struct kvm_sregs2 *s, struct kvm_sregs *old)
{
    memset(old, 0, sizeof(*old));
    memcpy(old, s, offsetof(struct kvm_sregs2, flags));
}

void kvm_sregs2_from_1(const struct kvm_sregs *old, struct kvm_sregs2 *s)
{
    memset(s, 0, sizeof(*s));
    memcpy(s, old, offsetof(struct kvm_sregs2, flags));
}

void kvm_debugregs_from(const struct x86_cpu *c, struct kvm_debugregs *d)
{
    memset(d, 0, sizeof(*d));
    for (unsigned i = 0; i < 4; i++)
        d->db[i] = c->dr[i];
    d->dr6 = c->dr6;
    d->dr7 = c->dr7;
}

void kvm_debugregs_to(struct x86_cpu *c, const struct kvm_debugregs *d)
{
    for (unsigned i = 0; i < 4; i++)
        c->dr[i] = d->db[i];
    c->dr6 = d->dr6;
    c->dr7 = d->dr7;
}

void kvm_events_from(const struct x86_cpu *c, struct kvm_vcpu_events *e)
{
    memset(e, 0, sizeof(*e));
    e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    e->interrupt.shadow = c->inhibit_irq == 2 ? KVM_X86_SHADOW_INT_MOV_SS : c->inhibit_irq ? KVM_X86_SHADOW_INT_STI : 0;
    e->nmi.masked = c->nmi_blocked;
}

void kvm_events_to(struct x86_cpu *c, const struct kvm_vcpu_events *e)
{
    uint8_t shadow = e->flags & KVM_VCPUEVENT_VALID_SHADOW ? e->interrupt.shadow : 0;
    c->inhibit_irq = shadow & KVM_X86_SHADOW_INT_MOV_SS ? 2 : shadow & KVM_X86_SHADOW_INT_STI ? 1 : 0;
    c->nmi_blocked = e->nmi.masked;
}

/* --- MSRs --------------------------------------------------------------------------- */

bool kvm_msr_field(unsigned index, struct kvm_msr_field *f)
{
#define FIELD(m, name)                                                                                                 \
    {                                                                                                                  \
        m, offsetof(struct x86_cpu, name)                                                                              \
    }
    static const struct kvm_msr_field table[] = {
        FIELD(0xc0000081, star),
        FIELD(0xc0000082, lstar),
        FIELD(0xc0000083, cstar),
        FIELD(0xc0000084, sfmask),
        FIELD(0xc0000102, kernel_gs_base),
        FIELD(0xc0000103, tsc_aux),
        FIELD(0x174, sysenter_cs),
        FIELD(0x175, sysenter_esp),
        FIELD(0x176, sysenter_eip),
        FIELD(0x3b, tsc_adjust),
        FIELD(0x48, spec_ctrl),
        FIELD(0x8b, ucode_rev),
        FIELD(0x140, misc_feature_enables),
        FIELD(0x17a, mcg_status),
        FIELD(0x1a0, misc_enable),
        FIELD(0x1d9, debugctl),
        FIELD(0x277, pat),
        FIELD(0x250, mtrr_fix[0]),
        FIELD(0x258, mtrr_fix[1]),
        FIELD(0x259, mtrr_fix[2]),
        FIELD(0x268, mtrr_fix[3]),
        FIELD(0x269, mtrr_fix[4]),
        FIELD(0x26a, mtrr_fix[5]),
        FIELD(0x26b, mtrr_fix[6]),
        FIELD(0x26c, mtrr_fix[7]),
        FIELD(0x26d, mtrr_fix[8]),
        FIELD(0x26e, mtrr_fix[9]),
        FIELD(0x26f, mtrr_fix[10]),
        FIELD(0x2ff, mtrr_deftype),
    };
    const unsigned n = sizeof(table) / sizeof(table[0]);
    if (index < n) {
        *f = table[index];
        return true;
    }
    index -= n;
    if (index >= 2 * X86_NMTRR_VAR)
        return false;
    *f = (struct kvm_msr_field){0x200 + index,
                                (uint16_t)(offsetof(struct x86_cpu, mtrr_var) + index * sizeof(uint64_t))};
    return true;
}

/* --- local APIC ------------------------------------------------------------------------ */

static void apic_put(struct kvm_lapic_state *l, unsigned reg, uint32_t val)
{
    memcpy(l->regs + reg, &val, sizeof(val));
}

/* SDM Vol. 3A, 10.4.7.1. */
void kvm_lapic_power_up(struct kvm_lapic_state *l, uint32_t id, bool wire)
{
    memset(l, 0, sizeof(*l));
    apic_put(l, 0x20, id << 24);
    apic_put(l, 0x30, 0x50014);
    apic_put(l, 0xe0, 0xffffffff);          /* DFR: flat */
    apic_put(l, 0xf0, wire ? 0x1ff : 0xff); /* SVR */
    for (unsigned lvt = 0x320; lvt <= 0x370; lvt += 0x10)
        apic_put(l, lvt, 0x10000);
    if (wire) {
        apic_put(l, 0x350, 0x700); /* LINT0: ExtINT */
        apic_put(l, 0x360, 0x400); /* LINT1: NMI */
    }
}
