/*
 * SYSCALL and SYSRET as operating systems use them: flags that the kernel masks, user addresses in the lower half. Everything
 * that is asked is asked before anything changes, so that what is not so can be left to the executors.
 */
#include "engine/translate/select.h"
#include "x86/mmu.h"

/* CS (cs) or SS as fast system calls load them, with the selector in CX. All of RCX and S0 are lost. */
static void flat(struct tr *t, bool cs, unsigned dpl)
{
    const uint64_t ar = (cs ? 0xa09bu : 0xc093u) | dpl << 5;
    struct hmem base = cs ? AT_CPU(seg[X86_CS].base) : AT_CPU(seg[X86_SS].base), rest = base;
    struct emit *e = &t->e;

    _Static_assert(offsetof(struct x86_seg, limit) == 8 && offsetof(struct x86_seg, sel) == 12 && offsetof(struct x86_seg, ar) == 14, "one store");
    rest.disp += 8;
    e_imm(e, H_S0, ar << 48 | 0xffffffff);
    RORX(H_CX, H_CX, 32);
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    e_store(e, H_CX, rest);
    e_imm32(e, H_CX, 0);
    e_store(e, H_CX, base);
}

/* 16 bits of IA32_STAR, plus add, into CX, zero-extended. */
static void selector(struct tr *t, unsigned at, int add)
{
    struct hmem star = AT_CPU(star);
    struct emit *e = &t->e;

    star.disp += (int32_t)at;
    e_rm(e, E_0F, 0xb7, H_CX, star);
    if (add) {
        e_rm(e, 0, 0x8d, H_CX, (struct hmem){H_CX, NOREG, 1, add});
        e_rr(e, E_0F, 0xb7, H_CX, H_CX); /* movzx ecx, cx */
    }
}

static void level(struct tr *t, unsigned cpl, unsigned ctx)
{
    struct hmem tlb = AT_CPU(mmu.tlb);
    struct emit *e = &t->e;

    tlb.disp += (int32_t)(ctx * sizeof(t->x->v->cpu.mmu.tlb[0]));
    e_rm(e, 0, 0xc6, 0, AT_CPU(cpl)), e1(e, cpl);
    e_lea(e, H_CX, tlb);
    e_store(e, H_CX, AT_CPU(mmu.cur));
}

/* Goes on if RCX, the sum of what must be 0, is. */
static void only_if(struct tr *t, struct tr_site *s) { sel_unless_zero(t, s, t->x->miss_stub); }

/* SCE clear, as a number, into RCX. */
static void disabled(struct tr *t)
{
    struct emit *e = &t->e;

    e_rm(e, 0, 0x8b, H_CX, AT_CPU(efer));
    e_rr(e, 0, 0xf7, 2, H_CX); /* not */
    PEXT(H_CX, H_CX, AT_ROOM(sce));
}

enum sel_result sel_syscall(struct tr *t)
{
    struct emit *e = &t->e;
    struct tr_site *s;

    if ((t->b->key & TR_CTX) != X86_TLB_USER)
        return NONE;
    sel_heed(t);
    s = sel_site(t);
    s->redo = true;
    disabled(t);
    e_load(e, H_S0, AT_CPU(sfmask));
    e_rr(e, 0, 0xf7, 2, H_S0);
    PEXT(H_S0, H_S0, AT_ROOM(masked));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    only_if(t, s);
    sel_pads(t, true); /* they would not reach */
    /* flags to R11, those that go on to fl_sys; RF and VM are 0 in blocks */
    e1(e, 0x9c); /* pushfq; pop rcx */
    e1(e, 0x59);
    PEXT(H_CX, H_CX, AT_ROOM(arith));
    PDEP(H_CX, H_CX, AT_ROOM(arith));
    e_rm(e, 0, 0x8b, H_S0, AT_CPU(fl_sys));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    e_store(e, H_CX, AT_CPU(gpr[X86_R11]));
    e_rm(e, 0, 0x8b, H_CX, AT_CPU(sfmask));
    e_rr(e, 0, 0xf7, 2, H_CX);
    e_rr(e, 0, 0x21, H_S0, H_CX);           /* and ecx, r10d */
    e_rr(e, 0, 0x83, 1, H_CX), e1(e, X86_FL_1); /* or */
    e_rm(e, 0, 0x89, H_CX, AT_CPU(fl_sys));
    e_load(e, H_GCX, AT_CPU(rip));
    e_lea(e, H_GCX, (struct hmem){H_GCX, NOREG, 1, (int32_t)(t->off + t->in->len)});
    selector(t, 4, 0);
    e_rr(e, 0, 0x81, 4, H_CX), e4(e, 0xfffc); /* and */
    flat(t, true, 0);
    selector(t, 4, 0);
    e_rr(e, 0, 0x81, 4, H_CX), e4(e, 0xfffc);
    e_rr(e, E_66, 0x83, 0, H_CX), e1(e, 8); /* add cx, 8 */
    flat(t, false, 0);
    level(t, 0, X86_TLB_SUPER);
    sel_tally(t);
    sel_count(t, t->idx + 1);
    e_imm32(e, H_S0, 0);
    e_rr(e, 0, 0x83, 0, H_S0), e1(e, 1); /* add: clears all arithmetic flags */
    e_load(e, H_S0, AT_CPU(lstar));
    sel_jump_ctx(t, X86_TLB_SUPER);
    return END;
}

enum sel_result sel_sysret(struct tr *t)
{
    struct emit *e = &t->e;
    struct tr_site *s;

    if ((t->b->key & TR_CTX) == X86_TLB_USER || t->in->opsize != 8)
        return NONE;
    s = sel_site(t);
    s->redo = true;
    disabled(t);
    PEXT(H_S0, H_GCX, AT_ROOM(upper));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    only_if(t, s);
    e_load(e, H_CX, AT_CPU(gpr[X86_R11])); /* nothing that makes blocks impossible */
    PEXT(H_CX, H_CX, AT_ROOM(stepped));
    e_rm(e, 0, 0x8b, H_S0, AT_VCPU(requests));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    e_rm(e, E_0F, 0xb6, H_S0, AT_VCPU(irq_waiting)); /* an interrupt that IF would let in */
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    e_rm(e, E_0F, 0xb6, H_S0, AT_VCPU(nmi_pending));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    e_rm(e, 0, 0x8b, H_S0, AT_ROOM(direct)); /* a truth value */
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    only_if(t, s);
    sel_pads(t, true);
    e_rm(e, 0, 0x8b, H_CX, AT_CPU(gpr[X86_R11]));
    e_rr(e, 0, 0x81, 4, H_CX), e4(e, 0x3c7fd7 & 0x3f7700);
    e_rr(e, 0, 0x83, 1, H_CX), e1(e, X86_FL_1);
    e_rm(e, 0, 0x89, H_CX, AT_CPU(fl_sys));
    selector(t, 6, 16);
    e_rr(e, 0, 0x83, 1, H_CX), e1(e, 3);
    flat(t, true, 3);
    selector(t, 6, 8);
    e_rr(e, 0, 0x83, 1, H_CX), e1(e, 3);
    flat(t, false, 3);
    level(t, 3, X86_TLB_USER);
    sel_tally(t);
    sel_count(t, t->idx + 1);
    /* the arithmetic flags: low byte to AH, OF to AL */
    e_mov(e, H_S1, H_AX);
    e_load(e, H_S0, AT_CPU(gpr[X86_R11]));
    e_rr(e, 0, 0x89, H_S0, H_AX);
    e_rr(e, 0, 0xc1, 4, H_AX), e1(e, 8);  /* shl eax, 8 */
    e_rr(e, 0, 0xc1, 5, H_S0), e1(e, 11); /* shr r10d, 11 */
    e_rr(e, 0, 0x83, 4, H_S0), e1(e, 1);  /* and r10d, 1 */
    e_rr(e, 0, 0x09, H_S0, H_AX);         /* or eax, r10d */
    e1(e, 0x04), e1(e, 127);              /* add al, 127 */
    e1(e, 0x9e);                          /* sahf */
    e_mov(e, H_AX, H_S1);
    e_mov(e, H_S0, H_GCX);
    sel_jump_ctx(t, X86_TLB_USER);
    return END;
}
