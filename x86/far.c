/*
 * Far transfers: JMP, CALL and RET between segments, through gates and tasks,
 * and IRET (SDM Vol. 3A, 5.8 and 6.12; Vol. 2, the instruction pages).
 *
 * All of them read and check everything first, write the stack next, and change
 * registers last, so that a fault finds the instruction not begun.
 */
#include "x86/far.h"

static int gp(struct x86_cpu *c, uint16_t sel) { return x86_raise_err(c, X86_GP, x86_sel_err(sel, 0)); }

static uint64_t trunc_to(uint64_t v, unsigned size) { return size == 8 ? v : size == 4 ? (uint32_t)v : (uint16_t)v; }

/* --- JMP and CALL ---------------------------------------------------------- */

static int far_pointer(struct x86_cpu *c, const struct x86_insn *in, uint16_t *sel, uint64_t *off)
{
    uint8_t buf[10];
    int r;

    if (in->opnd[0].kind == X86_OPND_FAR) {
        *sel = (uint16_t)in->imm2;
        *off = trunc_to((uint64_t)in->imm, in->opsize);
        return X86_OK;
    }
    if ((r = x86_read_aligned(c, in, buf, in->opsize + 2u, in->opsize)))
        return r;
    *off = 0;
    memcpy(off, buf, in->opsize);
    memcpy(sel, buf + in->opsize, 2);
    return X86_OK;
}

/* Real and virtual-8086 mode. */
static int far_16(struct x86_cpu *c, const struct x86_insn *in, bool call, uint16_t sel, uint64_t off)
{
    struct x86_stack st = x86_stack_cur(c);
    int r;

    if (call && (r = x86_stack_check(c, &st, 2, in->opsize)))
        return r;
    if ((r = x86_check_rip(c, &c->seg[X86_CS], off, 0)))
        return r;
    if (call) {
        if ((r = x86_stack_push(c, &st, (const uint64_t[]){c->seg[X86_CS].sel, x86_next_rip(c, in)}, 2, in->opsize)))
            return r;
        x86_stack_commit(c, &st);
    }
    x86_load_seg16(c, X86_CS, sel);
    c->rip = off;
    return X86_BRANCH;
}

/* Transfer without change of privilege; a call pushes CS and RIP of size bytes. */
static int far_same(struct x86_cpu *c, const struct x86_insn *in, bool call, const struct x86_seg *cs, uint64_t off,
                    unsigned size)
{
    struct x86_stack st = x86_stack_cur(c);
    int r;

    if (size == 8)
        st.width = 8; /* through a 64-bit gate the stack is a 64-bit one, whatever mode the caller is in */
    if (call && (r = x86_stack_check(c, &st, 2, size)))
        return r;
    if ((r = x86_check_rip(c, cs, off, 0)))
        return r;
    if (call) {
        if ((r = x86_stack_push(c, &st, (const uint64_t[]){c->seg[X86_CS].sel, x86_next_rip(c, in)}, 2, size)))
            return r;
        x86_stack_commit(c, &st);
    }
    x86_set_cs(c, cs, c->cpl);
    c->rip = off;
    x86_recompute(c);
    return X86_BRANCH;
}

static int far_code(struct x86_cpu *c, const struct x86_insn *in, bool call, uint16_t sel, uint64_t off,
                    const struct x86_desc *d)
{
    unsigned dpl = x86_desc_dpl(d);
    struct x86_seg cs;
    int r;

    if (!x86_desc_code(d))
        return gp(c, sel);
    if (x86_desc_conforming(d) ? dpl > c->cpl : (sel & 3u) > c->cpl || dpl != c->cpl)
        return gp(c, sel);
    if (x86_lma(c) && x86_desc_l(d) && x86_desc_db(d))
        return gp(c, sel);
    if (!x86_desc_p(d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, 0));
    if ((r = x86_desc_accessed(c, d)))
        return r;
    cs = x86_desc_seg(d, sel);
    return far_same(c, in, call, &cs, off, in->opsize);
}

/* CALL through a gate to an inner level: the stack comes from the TSS, parameters are copied over. */
static int call_inner(struct x86_cpu *c, const struct x86_insn *in, const struct x86_seg *cs, uint64_t off, unsigned size,
                      unsigned count)
{
    unsigned dpl = X86_AR_DPL(cs->ar), n = 0;
    struct x86_stack st, old = x86_stack_cur(c);
    uint64_t v[4 + 31], par[31];
    int r;

    if (size == 8) {
        st = (struct x86_stack){.ss = x86_null_seg((uint16_t)dpl, dpl), .width = 8, .cpl = (uint8_t)dpl};
        if ((r = x86_tss_rsp(c, dpl, false, 0, &st.sp)))
            return r;
        count = 0;
    } else if ((r = x86_tss_stack(c, dpl, 0, &st))) {
        return r;
    }
    v[n++] = c->seg[X86_SS].sel;
    v[n++] = c->gpr[X86_RSP];
    if ((r = x86_stack_check(c, &st, 4 + count, size)) || (r = x86_check_rip(c, cs, off, 0)) ||
        (r = x86_stack_pop(c, &old, par, count, size)))
        return r;
    while (count)
        v[n++] = par[--count];
    v[n++] = c->seg[X86_CS].sel;
    v[n++] = x86_next_rip(c, in);
    if ((r = x86_stack_push(c, &st, v, n, size)))
        return r;
    x86_stack_commit(c, &st);
    x86_set_cs(c, cs, dpl);
    c->rip = off;
    x86_recompute(c);
    return X86_BRANCH;
}

static int far_gate(struct x86_cpu *c, const struct x86_insn *in, bool call, const struct x86_desc *gate)
{
    unsigned size = x86_lma(c) ? 8 : x86_desc_type(gate) == X86_SYS_CALL ? 4 : 2, dpl;
    uint64_t off = trunc_to(x86_gate_off(gate), size);
    uint16_t sel = x86_gate_sel(gate);
    struct x86_desc d;
    struct x86_seg cs;
    int r;

    if (x86_sel_null(sel))
        return gp(c, 0);
    if ((r = x86_desc_fetch(c, sel, &d, X86_GP, 0)))
        return r;
    dpl = x86_desc_dpl(&d);
    if (!x86_desc_code(&d) || dpl > c->cpl || (!call && !x86_desc_conforming(&d) && dpl != c->cpl))
        return gp(c, sel);
    if (x86_lma(c) && (!x86_desc_l(&d) || x86_desc_db(&d)))
        return gp(c, sel);
    if (!x86_desc_p(&d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, 0));
    if ((r = x86_desc_accessed(c, &d)))
        return r;
    cs = x86_desc_seg(&d, sel);
    if (call && !x86_desc_conforming(&d) && dpl < c->cpl)
        return call_inner(c, in, &cs, off, size, (gate->lo >> 32) & 31);
    return far_same(c, in, call, &cs, off, size);
}

static int far_system(struct x86_cpu *c, const struct x86_insn *in, bool call, uint16_t sel, struct x86_desc *d)
{
    enum x86_task_why why = call ? X86_TASK_CALL : X86_TASK_JMP;
    unsigned type = x86_desc_type(d), dpl = x86_desc_dpl(d);
    int r;

    if (x86_lma(c) ? type != X86_SYS_CALL
                   : type != X86_SYS_CALL && type != X86_SYS_CALL16 && type != X86_SYS_TASK && type != X86_SYS_TSS &&
                         type != X86_SYS_TSS16)
        return gp(c, sel);
    if (dpl < c->cpl || dpl < (sel & 3u))
        return gp(c, sel);
    if ((r = x86_desc_fetch_hi(c, sel, d)))
        return r;
    if (!x86_desc_p(d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, 0));
    if (type == X86_SYS_CALL || type == X86_SYS_CALL16)
        return far_gate(c, in, call, d);
    if (type == X86_SYS_TASK)
        r = x86_task_gate(c, x86_gate_sel(d), why, x86_next_rip(c, in), x86_get_rflags(c), 0);
    else if (sel & 4) /* a TSS descriptor lives in the GDT */
        return gp(c, sel);
    else
        r = x86_task_switch(c, sel, d, why, x86_next_rip(c, in), x86_get_rflags(c), 0);
    return r ? r : X86_BRANCH;
}

static int far_transfer(struct x86_cpu *c, const struct x86_insn *in, bool call)
{
    struct x86_desc d;
    uint16_t sel;
    uint64_t off;
    int r;

    if ((r = far_pointer(c, in, &sel, &off)))
        return r;
    if (!x86_pe(c) || x86_v86(c))
        return far_16(c, in, call, sel, off);
    if (x86_sel_null(sel))
        return gp(c, 0);
    if ((r = x86_desc_fetch(c, sel, &d, X86_GP, 0)))
        return r;
    return x86_desc_s(&d) ? far_code(c, in, call, sel, off, &d) : far_system(c, in, call, sel, &d);
}

int x86_jmp_far(struct x86_cpu *c, const struct x86_insn *in) { return far_transfer(c, in, false); }
int x86_call_far(struct x86_cpu *c, const struct x86_insn *in) { return far_transfer(c, in, true); }

/* --- returns ----------------------------------------------------------------- */

/* The code segment a RET or IRET goes back to. */
static int return_cs(struct x86_cpu *c, uint16_t sel, struct x86_seg *cs)
{
    unsigned rpl = sel & 3, dpl;
    struct x86_desc d;
    int r;

    if (x86_sel_null(sel))
        return gp(c, 0);
    if ((r = x86_desc_fetch(c, sel, &d, X86_GP, 0)))
        return r;
    dpl = x86_desc_dpl(&d);
    if (!x86_desc_code(&d) || rpl < c->cpl || (x86_desc_conforming(&d) ? dpl > rpl : dpl != rpl))
        return gp(c, sel);
    if (x86_lma(c) && x86_desc_l(&d) && x86_desc_db(&d))
        return gp(c, sel);
    if (!x86_desc_p(&d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, 0));
    if ((r = x86_desc_accessed(c, &d)))
        return r;
    *cs = x86_desc_seg(&d, sel);
    return X86_OK;
}

static bool long_cs(const struct x86_cpu *c, const struct x86_seg *cs) { return x86_lma(c) && (cs->ar & X86_AR_L); }

/* The stack segment that goes with it; null is legal for 64-bit code outside ring 3. */
static int return_ss(struct x86_cpu *c, uint16_t sel, const struct x86_seg *cs, struct x86_seg *ss)
{
    unsigned rpl = cs->sel & 3;

    if (x86_sel_null(sel) && long_cs(c, cs) && rpl != 3) {
        if ((sel & 3) != rpl)
            return gp(c, sel);
        *ss = x86_null_seg(sel, rpl);
        return X86_OK;
    }
    return x86_check_ss(c, sel, rpl, X86_GP, 0, ss);
}

/* Commit CS:RIP and SS:RSP of a return that loaded a stack. */
static void commit_return(struct x86_cpu *c, const struct x86_seg *cs, uint64_t rip, const struct x86_seg *ss, uint64_t sp,
                          unsigned release)
{
    unsigned rpl = cs->sel & 3, width = x86_stack_width(long_cs(c, cs), ss);
    bool outer = rpl > c->cpl;

    c->gpr[X86_RSP] = x86_sp_add(x86_sp_set(c->gpr[X86_RSP], width, sp), width, release);
    c->seg[X86_SS] = *ss;
    c->seg[X86_CS] = *cs;
    c->rip = rip;
    if (outer)
        x86_null_inner_segs(c, rpl);
    x86_recompute(c);
}

int x86_ret_far(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned size = in->opsize, release = in->nopnd && in->opnd[0].kind == X86_OPND_IMM ? (uint16_t)in->imm : 0;
    struct x86_stack st = x86_stack_cur(c);
    struct x86_seg cs, ss;
    uint64_t v[2], w[2];
    uint16_t sel;
    int r;

    if ((r = x86_stack_pop(c, &st, v, 2, size)))
        return r;
    sel = (uint16_t)v[1];
    if (!x86_pe(c) || x86_v86(c)) {
        if ((r = x86_check_rip(c, &c->seg[X86_CS], v[0], 0)))
            return r;
        x86_load_seg16(c, X86_CS, sel);
        c->rip = v[0];
        c->gpr[X86_RSP] = x86_sp_add(st.sp, st.width, release);
        return X86_BRANCH;
    }
    if ((r = return_cs(c, sel, &cs)))
        return r;
    st.sp = x86_sp_add(st.sp, st.width, release);
    if ((sel & 3) == c->cpl) {
        if ((r = x86_check_rip(c, &cs, v[0], 0)))
            return r;
        c->gpr[X86_RSP] = st.sp;
        c->seg[X86_CS] = cs;
        c->rip = v[0];
        x86_recompute(c);
        return X86_BRANCH;
    }
    if ((r = x86_stack_pop(c, &st, w, 2, size)) || (r = return_ss(c, (uint16_t)w[1], &cs, &ss)) ||
        (r = x86_check_rip(c, &cs, v[0], 0)))
        return r;
    commit_return(c, &cs, v[0], &ss, w[0], release);
    return X86_BRANCH;
}

/* --- IRET -------------------------------------------------------------------- */

/* Flags IRET may change in protected mode at the privilege it runs at. */
static uint32_t iret_mask(const struct x86_cpu *c, unsigned size)
{
    uint32_t mask = X86_FL_POP16;

    if (size != 2)
        mask |= X86_FL_POP32 | X86_FL_RF;
    if (c->cpl <= ((c->fl_sys >> 12) & 3))
        mask |= X86_FL_IF;
    if (c->cpl == 0)
        mask |= X86_FL_IOPL | (size != 2 ? X86_FL_VIF | X86_FL_VIP : 0);
    return mask;
}

static int iret_real(struct x86_cpu *c, unsigned size)
{
    struct x86_stack st = x86_stack_cur(c);
    uint32_t mask = X86_FL_POP16 | X86_FL_IF | X86_FL_IOPL;
    uint64_t v[3];
    int r;

    if ((r = x86_stack_pop(c, &st, v, 3, size)) || (r = x86_check_rip(c, &c->seg[X86_CS], v[0], 0)))
        return r;
    if (size != 2)
        mask |= X86_FL_POP32 | X86_FL_RF;
    c->gpr[X86_RSP] = st.sp;
    x86_load_seg16(c, X86_CS, (uint16_t)v[1]);
    c->rip = v[0];
    x86_merge_flags(c, v[2], mask);
    x86_flags_changed(c);
    return X86_BRANCH;
}

static int iret_v86(struct x86_cpu *c, unsigned size)
{
    bool iopl3 = (c->fl_sys & X86_FL_IOPL) == X86_FL_IOPL;
    struct x86_stack st = x86_stack_cur(c);
    uint32_t mask = X86_FL_POP16;
    uint64_t v[3];
    int r;

    if (!iopl3 && (!(c->cr4 & X86_CR4_VME) || size != 2))
        return x86_raise_err(c, X86_GP, 0);
    c->nmi_blocked = false;
    if ((r = x86_stack_pop(c, &st, v, 3, size)))
        return r;
    if (!iopl3 && (((v[2] & X86_FL_IF) && (c->fl_sys & X86_FL_VIP)) || (v[2] & X86_FL_TF)))
        return x86_raise_err(c, X86_GP, 0);
    if ((r = x86_check_rip(c, &c->seg[X86_CS], v[0], 0)))
        return r;
    if (iopl3) {
        mask |= X86_FL_IF | (size != 2 ? X86_FL_POP32 | X86_FL_RF : 0);
    } else {
        v[2] = (v[2] & 0xffff) | (v[2] & X86_FL_IF ? X86_FL_VIF : 0);
        mask |= X86_FL_VIF;
    }
    c->gpr[X86_RSP] = st.sp;
    x86_load_seg16(c, X86_CS, (uint16_t)v[1]);
    c->rip = v[0];
    x86_merge_flags(c, v[2], mask);
    return X86_BRANCH;
}

/* From ring 0 to virtual-8086 mode: v holds EIP, CS, EFLAGS; the rest is still on the stack. */
static int iret_to_v86(struct x86_cpu *c, struct x86_stack *st, const uint64_t *v)
{
    static const uint8_t order[] = {X86_SS, X86_ES, X86_DS, X86_FS, X86_GS};
    uint64_t w[6];
    int r;

    if ((r = x86_stack_pop(c, st, w, 6, 4)))
        return r;
    if (v[0] > 0xffff)
        return gp(c, 0);
    x86_set_rflags(c, v[2]);
    x86_load_seg16(c, X86_CS, (uint16_t)v[1]);
    for (unsigned i = 0; i < 5; i++)
        x86_load_seg16(c, order[i], (uint16_t)w[i + 1]);
    c->gpr[X86_RSP] = w[0];
    c->rip = v[0];
    x86_recompute(c);
    return X86_BRANCH;
}

/* 64-bit mode always restores SS:RSP. */
static int iret_64(struct x86_cpu *c, unsigned size)
{
    struct x86_seg cs, ss;
    uint64_t sp = c->gpr[X86_RSP], v[5], host;
    uint32_t mask;
    int r;

    if (c->fl_sys & X86_FL_NT)
        return gp(c, 0);
    if (__builtin_expect(size == 8 && x86_canonical(sp) && (host = x86_tlb_host_r(c, sp, 40)), 1)) {
        memcpy(v, (const void *)(uintptr_t)host, 40);
    } else {
        struct x86_stack st = x86_stack_cur(c);

        if ((r = x86_stack_pop(c, &st, v, 5, size)))
            return r;
    }
    if ((r = return_cs(c, (uint16_t)v[1], &cs)) || (r = return_ss(c, (uint16_t)v[4], &cs, &ss)) ||
        (r = x86_check_rip(c, &cs, v[0], 0)))
        return r;
    mask = iret_mask(c, size);
    x86_merge_flags(c, v[2], mask);
    commit_return(c, &cs, v[0], &ss, v[3], 0);
    return X86_BRANCH;
}

static int iret_prot(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned size = in->opsize;
    struct x86_stack st = x86_stack_cur(c);
    struct x86_seg cs, ss;
    uint64_t v[3], w[2];
    uint32_t mask;
    int r;

    if (c->fl_sys & X86_FL_NT) {
        if (x86_lma(c))
            return gp(c, 0);
        r = x86_task_return(c, x86_next_rip(c, in));
        return r ? r : X86_BRANCH;
    }
    if ((r = x86_stack_pop(c, &st, v, 3, size)))
        return r;
    if (size == 4 && (v[2] & X86_FL_VM) && c->cpl == 0 && !x86_lma(c))
        return iret_to_v86(c, &st, v);
    if ((r = return_cs(c, (uint16_t)v[1], &cs)))
        return r;
    mask = iret_mask(c, size);
    if ((v[1] & 3) == c->cpl) {
        if ((r = x86_check_rip(c, &cs, v[0], 0)))
            return r;
        c->gpr[X86_RSP] = st.sp;
        c->seg[X86_CS] = cs;
        c->rip = v[0];
        x86_merge_flags(c, v[2], mask);
        x86_recompute(c);
        return X86_BRANCH;
    }
    if ((r = x86_stack_pop(c, &st, w, 2, size)) || (r = return_ss(c, (uint16_t)w[1], &cs, &ss)) ||
        (r = x86_check_rip(c, &cs, v[0], 0)))
        return r;
    x86_merge_flags(c, v[2], mask);
    commit_return(c, &cs, v[0], &ss, w[0], 0);
    return X86_BRANCH;
}

int x86_iret(struct x86_cpu *c, const struct x86_insn *in)
{
    if (x86_v86(c))
        return iret_v86(c, in->opsize);
    c->nmi_blocked = false; /* even if the IRET faults */
    if (c->mode == X86_MODE_64)
        return iret_64(c, in->opsize);
    return x86_pe(c) ? iret_prot(c, in) : iret_real(c, in->opsize);
}

/* --- fast system calls -------------------------------------------------------- */

/* Flat segments the fast system calls load without looking at a descriptor. */
static struct x86_seg flat_cs(uint16_t sel, unsigned dpl, bool l)
{
    return (struct x86_seg){.limit = 0xffffffff, .sel = sel, .ar = (uint16_t)((l ? 0xa09b : 0xc09b) | dpl << 5)};
}

static struct x86_seg flat_ss(uint16_t sel, unsigned dpl)
{
    return (struct x86_seg){.limit = 0xffffffff, .sel = sel, .ar = (uint16_t)(0xc093 | dpl << 5)};
}

int x86_syscall(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t fl = x86_get_rflags(c) & ~(uint64_t)X86_FL_RF;
    uint16_t sel = (c->star >> 32) & 0xfffc;

    if (c->mode != X86_MODE_64 || !(c->efer & X86_EFER_SCE))
        return x86_raise(c, X86_UD);
    c->gpr[X86_RCX] = c->rip + in->len;
    c->gpr[X86_R11] = fl;
    c->rip = c->lstar;
    x86_set_rflags(c, fl & ~c->sfmask);
    c->seg[X86_CS] = flat_cs(sel, 0, true);
    c->seg[X86_SS] = flat_ss((uint16_t)(sel + 8), 0);
    c->cpl = 0;
    x86_mmu_update_ctx(c);
    return X86_BRANCH;
}

int x86_sysret(struct x86_cpu *c, const struct x86_insn *in)
{
    uint16_t sel = (uint16_t)(c->star >> 48);
    bool to64 = in->opsize == 8;

    if (c->mode != X86_MODE_64 || !(c->efer & X86_EFER_SCE))
        return x86_raise(c, X86_UD);
    if (c->cpl || (to64 && !x86_canonical(c->gpr[X86_RCX])))
        return gp(c, 0);
    c->rip = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];
    x86_set_rflags(c, c->gpr[X86_R11] & 0x3c7fd7);
    c->seg[X86_CS] = flat_cs((uint16_t)((to64 ? sel + 16 : sel) | 3), 3, to64);
    c->seg[X86_SS] = flat_ss((uint16_t)((sel + 8) | 3), 3);
    c->cpl = 3;
    if (__builtin_expect(to64, 1))
        x86_mmu_update_ctx(c);
    else
        x86_recompute(c);
    return X86_BRANCH;
}

int x86_sysenter(struct x86_cpu *c, const struct x86_insn *in)
{
    uint16_t sel = c->sysenter_cs & 0xfffc;
    bool l = x86_lma(c);

    if (!x86_pe(c) || !sel)
        return gp(c, 0);
    c->fl_sys &= ~(uint32_t)(X86_FL_VM | X86_FL_IF | X86_FL_RF);
    c->gpr[X86_RSP] = l ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
    c->rip = l ? c->sysenter_eip : (uint32_t)c->sysenter_eip;
    c->seg[X86_CS] = flat_cs(sel, 0, l);
    c->seg[X86_SS] = flat_ss((uint16_t)(sel + 8), 0);
    x86_recompute(c);
    return X86_BRANCH;
}

int x86_sysexit(struct x86_cpu *c, const struct x86_insn *in)
{
    uint16_t sel = (uint16_t)c->sysenter_cs;
    bool to64 = in->opsize == 8;

    if (!x86_pe(c) || c->cpl || !(sel & 0xfffc))
        return gp(c, 0);
    if (to64 && (!x86_canonical(c->gpr[X86_RCX]) || !x86_canonical(c->gpr[X86_RDX])))
        return gp(c, 0);
    sel = (uint16_t)((sel + (to64 ? 32 : 16)) | 3);
    c->gpr[X86_RSP] = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];
    c->rip = to64 ? c->gpr[X86_RDX] : (uint32_t)c->gpr[X86_RDX];
    c->seg[X86_CS] = flat_cs(sel, 3, to64);
    c->seg[X86_SS] = flat_ss((uint16_t)(sel + 8), 3);
    x86_recompute(c);
    return X86_BRANCH;
}
