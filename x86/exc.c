/*
 * Exceptions and interrupts (SDM Vol. 3A, chapter 6): delivery through the
 * vector table of real mode, the protected-mode IDT and the 64-bit IDT.
 *
 * In a nutshell: deliver_one takes one event and either completes it or leaves
 * c->exc holding the exception met on the way, with nothing else changed.
 * x86_deliver combines the two by the rules of table 6-5 and goes on until a
 * handler is reached or the processor shuts down.
 */
#include "x86/seg.h"

/* An event being delivered. */
struct event {
    uint8_t vector;
    bool has_error, soft;
    unsigned ext;
    uint32_t error;
    uint64_t rip;   /* return address */
    uint64_t flags; /* as saved */
};

static unsigned gate_err(const struct event *e) { return e->vector * 8u + 2 + e->ext; }

/* --- real mode --------------------------------------------------------------- */

/* Push FLAGS, CS and IP as 16-bit values and enter the handler the 4-byte vector table entry names. */
static int vector16(struct x86_cpu *c, uint64_t entry, uint16_t flags, uint64_t ret, uint32_t clear)
{
    struct x86_stack st = x86_stack_cur(c);
    uint16_t ptr[2];
    int r;

    if ((r = x86_sys_read_fast(c, entry, ptr, 4)) || (r = x86_stack_check(c, &st, 3, 2)) ||
        (r = x86_check_rip(c, &c->seg[X86_CS], ptr[0], 0)) ||
        (r = x86_stack_push(c, &st, (const uint64_t[]){flags, c->seg[X86_CS].sel, ret}, 3, 2)))
        return r;
    x86_stack_commit(c, &st);
    x86_load_seg16(c, X86_CS, ptr[1]);
    c->rip = ptr[0];
    c->fl_sys &= ~clear;
    return X86_OK;
}

static int deliver_real(struct x86_cpu *c, const struct event *e)
{
    if (e->vector * 4u + 3 > c->idtr.limit)
        return x86_raise_err(c, X86_GP, gate_err(e));
    return vector16(c, (uint32_t)(c->idtr.base + e->vector * 4u), (uint16_t)e->flags, e->rip,
                    X86_FL_IF | X86_FL_TF | X86_FL_AC | X86_FL_RF);
}

int x86_vme_int(struct x86_cpu *c, uint8_t vector, uint64_t next_rip)
{
    uint32_t flags = (uint32_t)x86_get_rflags(c);
    bool iopl3 = (flags & X86_FL_IOPL) == X86_FL_IOPL;

    if (!iopl3) {
        flags = (flags & ~X86_FL_IF) | X86_FL_IOPL;
        if (flags & X86_FL_VIF)
            flags |= X86_FL_IF;
    }
    /* The table is at linear address 0 of the virtual machine and read with its rights. */
    struct x86_stack st = x86_stack_cur(c);
    uint16_t ptr[2];
    int r;

    if ((r = x86_lin_read(c, vector * 4u, ptr, 4)) ||
        (r = x86_stack_push(c, &st, (const uint64_t[]){flags & 0xffff, c->seg[X86_CS].sel, next_rip}, 3, 2)))
        return r;
    x86_stack_commit(c, &st);
    x86_load_seg16(c, X86_CS, ptr[1]);
    c->rip = ptr[0];
    c->fl_sys &= ~(uint32_t)(X86_FL_TF | X86_FL_RF | (iopl3 ? X86_FL_IF : X86_FL_VIF));
    return X86_OK;
}

/* --- protected mode -------------------------------------------------------- */

/* The error code of a fault that a task gate delivers goes on the new task's stack. */
static int deliver_task(struct x86_cpu *c, const struct event *e, uint16_t sel)
{
    struct x86_stack st;
    int r = x86_task_gate(c, sel, X86_TASK_INT, e->rip, e->flags, e->ext);

    if (r)
        return r;
    if (!e->has_error)
        return X86_OK;
    st = x86_stack_cur(c);
    st.err = e->ext;
    if ((r = x86_stack_push(c, &st, (const uint64_t[]){e->error}, 1, c->tr.ar & 8 ? 4 : 2)))
        return r;
    x86_stack_commit(c, &st);
    return X86_OK;
}

static int deliver_prot(struct x86_cpu *c, const struct event *e)
{
    struct x86_desc gate = {0}, d;
    struct x86_seg cs;
    struct x86_stack st;
    uint64_t v[10], off;
    unsigned n = 0, type, size, dpl, new_cpl;
    bool v86 = x86_v86(c);
    uint16_t sel;
    int r;

    if (e->vector * 8u + 7 > c->idtr.limit)
        return x86_raise_err(c, X86_GP, gate_err(e));
    if ((r = x86_sys_read_fast(c, (uint32_t)(c->idtr.base + e->vector * 8u), &gate.lo, 8)))
        return r;
    type = x86_desc_type(&gate);
    if (x86_desc_s(&gate) || (type != X86_SYS_TASK && (type & 6) != 6))
        return x86_raise_err(c, X86_GP, gate_err(e));
    if (e->soft && x86_desc_dpl(&gate) < c->cpl)
        return x86_raise_err(c, X86_GP, gate_err(e));
    if (!x86_desc_p(&gate))
        return x86_raise_err(c, X86_NP, gate_err(e));
    sel = x86_gate_sel(&gate);
    if (type == X86_SYS_TASK)
        return deliver_task(c, e, sel);

    size = type & 8 ? 4 : 2;
    off = size == 4 ? x86_gate_off(&gate) & 0xffffffff : gate.lo & 0xffff;
    if (x86_sel_null(sel))
        return x86_raise_err(c, X86_GP, e->ext);
    if ((r = x86_desc_fetch(c, sel, &d, X86_GP, e->ext)))
        return r;
    dpl = x86_desc_dpl(&d);
    if (!x86_desc_code(&d) || dpl > c->cpl)
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, e->ext));
    if (!x86_desc_p(&d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, e->ext));
    new_cpl = x86_desc_conforming(&d) ? c->cpl : dpl;
    if (v86 && new_cpl != 0) /* virtual-8086 code may only be interrupted into ring 0 */
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, e->ext));
    if ((r = x86_desc_accessed(c, &d)))
        return r;
    cs = x86_desc_seg(&d, sel);

    if (new_cpl < c->cpl) {
        if ((r = x86_tss_stack(c, new_cpl, e->ext, &st)))
            return r;
        if (v86) {
            v[n++] = c->seg[X86_GS].sel;
            v[n++] = c->seg[X86_FS].sel;
            v[n++] = c->seg[X86_DS].sel;
            v[n++] = c->seg[X86_ES].sel;
        }
        v[n++] = c->seg[X86_SS].sel;
        v[n++] = c->gpr[X86_RSP];
    } else {
        st = x86_stack_cur(c);
        st.err = e->ext;
    }
    v[n++] = e->flags;
    v[n++] = c->seg[X86_CS].sel;
    v[n++] = e->rip;
    if (e->has_error)
        v[n++] = e->error;
    if ((r = x86_stack_check(c, &st, n, size)) || (r = x86_check_rip(c, &cs, off, e->ext)) ||
        (r = x86_stack_push(c, &st, v, n, size)))
        return r;

    x86_stack_commit(c, &st);
    x86_set_cs(c, &cs, new_cpl);
    if (v86) {
        static const uint8_t data[] = {X86_GS, X86_FS, X86_DS, X86_ES};

        for (unsigned i = 0; i < 4; i++)
            c->seg[data[i]] = x86_null_seg(0, 0);
    }
    c->rip = off;
    c->fl_sys &= ~(uint32_t)(X86_FL_TF | X86_FL_NT | X86_FL_RF | X86_FL_VM | (type & 1 ? 0 : X86_FL_IF));
    x86_recompute(c);
    return X86_OK;
}

/* --- IA-32e mode -------------------------------------------------------------- */

static int deliver_long(struct x86_cpu *c, const struct event *e)
{
    struct x86_desc gate, d;
    struct x86_seg cs;
    unsigned ist, dpl, new_cpl, n, i, old_cpl = c->cpl;
    uint64_t rip, sp, host, frame[6];
    uint16_t sel;
    int r;

    if (e->vector * 16u + 15 > c->idtr.limit)
        return x86_raise_err(c, X86_GP, gate_err(e));
    if ((r = x86_sys_read_fast(c, c->idtr.base + e->vector * 16u, &gate, 16)))
        return r;
    if (x86_desc_s(&gate) || (x86_desc_type(&gate) & 0xe) != X86_SYS_INT)
        return x86_raise_err(c, X86_GP, gate_err(e));
    if (e->soft && x86_desc_dpl(&gate) < old_cpl)
        return x86_raise_err(c, X86_GP, gate_err(e));
    if (!x86_desc_p(&gate))
        return x86_raise_err(c, X86_NP, gate_err(e));
    sel = x86_gate_sel(&gate);
    rip = x86_gate_off(&gate);
    ist = (gate.lo >> 32) & 7;

    if (x86_sel_null(sel))
        return x86_raise_err(c, X86_GP, e->ext);
    if ((r = x86_desc_fetch(c, sel, &d, X86_GP, e->ext)))
        return r;
    dpl = x86_desc_dpl(&d);
    if (!x86_desc_code(&d) || dpl > old_cpl || !x86_desc_l(&d) || x86_desc_db(&d))
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, e->ext));
    if (!x86_desc_p(&d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, e->ext));
    if ((r = x86_desc_accessed(c, &d)))
        return r;
    new_cpl = x86_desc_conforming(&d) ? old_cpl : dpl;

    sp = c->gpr[X86_RSP];
    if (ist || new_cpl != old_cpl) {
        if ((r = x86_tss_rsp(c, ist ? ist : new_cpl, ist, e->ext, &sp)))
            return r;
    }
    sp &= ~15ull;

    n = 0;
    if (e->has_error)
        frame[n++] = e->error;
    frame[n++] = e->rip;
    frame[n++] = c->seg[X86_CS].sel;
    frame[n++] = e->flags;
    frame[n++] = c->gpr[X86_RSP];
    frame[n++] = c->seg[X86_SS].sel;
    sp -= n * 8;
    if (!x86_canonical(sp) || !x86_canonical(sp + n * 8 - 1))
        return x86_raise_err(c, X86_SSF, e->ext);
    if (!x86_canonical(rip))
        return x86_raise_err(c, X86_GP, e->ext);

    /* The frame is written with the new level's rights. */
    if (new_cpl != old_cpl) {
        c->cpl = (uint8_t)new_cpl;
        x86_mmu_update_ctx(c);
    }
    host = x86_tlb_host_w(c, sp, n * 8);
    if (__builtin_expect(host != 0, 1)) {
        memcpy((void *)(uintptr_t)host, frame, n * 8);
        r = X86_OK;
    } else { /* a fault names the address that single pushes would have met first */
        for (i = n, r = X86_OK; i-- > 0 && !r;)
            r = x86_lin_probe(c, sp + i * 8, 8, X86_WRITE);
        if (!r)
            r = x86_lin_write(c, sp, frame, n * 8);
    }
    if (__builtin_expect(r, 0)) {
        c->cpl = (uint8_t)old_cpl;
        x86_mmu_update_ctx(c);
        return r;
    }

    c->gpr[X86_RSP] = sp;
    if (new_cpl != old_cpl)
        c->seg[X86_SS] = x86_null_seg((uint16_t)new_cpl, new_cpl);
    cs = x86_desc_seg(&d, sel);
    x86_set_cs(c, &cs, new_cpl);
    c->rip = rip;
    c->fl_sys &= ~(uint32_t)(X86_FL_TF | X86_FL_NT | X86_FL_RF | (gate.lo >> 40 & 1 ? 0 : X86_FL_IF));
    if (__builtin_expect(c->mode != X86_MODE_64, 0))
        x86_recompute(c);
    return X86_OK;
}

/* --- any mode -------------------------------------------------------------------- */

/* Is RF set in the saved flags? For every fault but an instruction breakpoint, so that the instruction can be
 * restarted past its breakpoint (SDM Vol. 3B, 17.3.1.1). */
static bool fault_sets_rf(const struct x86_exc *x)
{
    if (x->kind != X86_EXC_FAULT)
        return false;
    if (x->vector == X86_DB)
        return x->dr6 & (1 << 13); /* general detect */
    return x->vector != X86_DF && x->vector != X86_MC && x->vector != X86_BP && x->vector != X86_OF;
}

static int deliver_one(struct x86_cpu *c, const struct x86_exc *x)
{
    struct event e = {.vector = x->vector, .has_error = x->has_error, .error = x->error, .rip = c->rip};
    bool hard = x->kind == X86_EXC_FAULT;

    e.soft = x->kind == X86_EXC_SOFT;
    e.ext = !e.soft;
    e.flags = x86_get_rflags(c);
    if (e.soft || x->kind == X86_EXC_ICEBP) {
        e.rip += x->insn_len;
        if (c->mode != X86_MODE_64)
            e.rip = (uint32_t)e.rip;
        e.flags &= ~(uint64_t)X86_FL_RF;
    } else if (fault_sets_rf(x)) {
        e.flags |= X86_FL_RF;
    } /* else as it is: set between the iterations of a repeated instruction */

    if (hard && x->vector == X86_PF) {
        c->cr2 = x->cr2;
    } else if (x->vector == X86_DB && (hard || x->kind == X86_EXC_ICEBP)) {
        if (hard)
            c->dr6 = (c->dr6 & ~0xfull) | x->dr6;
        c->dr7 &= ~(1ull << 13);  /* GD: the handler may use the debug registers */
        c->debugctl &= ~3ull;     /* LBR, BTF */
    }
    if (x86_lma(c))
        return deliver_long(c, &e);
    if (x86_pe(c))
        return deliver_prot(c, &e);
    return deliver_real(c, &e);
}

/* Classes of table 6-4. */
enum { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static int exc_class(const struct x86_exc *x)
{
    const uint32_t contributory = 1u << X86_DE | 1u << X86_TS | 1u << X86_NP | 1u << X86_SSF | 1u << X86_GP;

    if (x->kind != X86_EXC_FAULT)
        return BENIGN;
    if (x->vector == X86_PF)
        return PAGE_FAULT;
    if (x->vector == X86_DF)
        return DOUBLE_FAULT;
    return x->vector < 32 && (contributory >> x->vector & 1) ? CONTRIBUTORY : BENIGN;
}

/* Benign exceptions met one after the other are delivered serially for ever on silicon (an #AC whose handler's stack
 * is misaligned). More of them in a row than this shut the processor down. */
#define MAX_SERIAL 16

int x86_deliver(struct x86_cpu *c)
{
    struct x86_exc x = c->exc;
    unsigned serial = 0;

    c->inhibit_irq = 0;
    if (c->activity == X86_HALTED)
        c->activity = X86_RUNNING;
    for (;;) {
        int first, second;

        if (c->ops && c->ops->event)
            c->ops->event(c->env, &x);
        if (__builtin_expect(deliver_one(c, &x) == X86_OK, 1))
            return X86_OK;

        first = exc_class(&x);
        second = exc_class(&c->exc);
        if ((first == DOUBLE_FAULT && second != BENIGN) || ++serial == MAX_SERIAL) {
            c->activity = X86_SHUTDOWN;
            return X86_FAULT;
        }
        if ((first == CONTRIBUTORY && second == CONTRIBUTORY) || (first == PAGE_FAULT && second != BENIGN)) {
            if (c->exc.vector == X86_PF)
                c->cr2 = c->exc.cr2;
            x = (struct x86_exc){.vector = X86_DF, .has_error = true};
        } else {
            x = c->exc;
        }
    }
}

int x86_interrupt(struct x86_cpu *c, uint8_t vector)
{
    c->exc = (struct x86_exc){.vector = vector, .kind = X86_EXC_EXTINT};
    return x86_deliver(c);
}

int x86_nmi(struct x86_cpu *c)
{
    c->nmi_blocked = true;
    c->exc = (struct x86_exc){.vector = X86_NMI, .kind = X86_EXC_NMI};
    return x86_deliver(c);
}
