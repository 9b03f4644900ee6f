/*
 * Hardware task switch (SDM Vol. 3A, chapter 7), with 16- and 32-bit TSSs; it
 * does not exist in IA-32e mode.
 *
 * In a nutshell: everything that can fault in the old task (both TSSs and the
 * descriptors whose busy bits change) is read or probed first. Then the old
 * state is saved, the new one loaded, and from there on faults belong to the
 * new task: its selectors are in place, segments not yet validated are unusable.
 */
#include "x86/seg.h"

/* Dynamic and static fields of both layouts. */
struct tss {
    uint32_t cr3, eip, eflags, gpr[8], sel[X86_NSEG];
    uint16_t ldt, trap;
};

/* Offsets in a 32-bit and a 16-bit TSS. */
enum { TSS32_CR3 = 0x1c, TSS32_EIP = 0x20, TSS32_LDT = 0x60, TSS32_TRAP = 0x64, TSS32_SIZE = 0x68 };
enum { TSS16_IP = 0x0e, TSS16_LDT = 0x2a, TSS16_SIZE = 0x2c };

static void unpack32(const uint8_t *b, struct tss *t)
{
    memcpy(&t->cr3, b + TSS32_CR3, 4);
    memcpy(&t->eip, b + TSS32_EIP, 4 * 10); /* EIP, EFLAGS, eight registers */
    for (unsigned i = 0; i < X86_NSEG; i++) {
        uint16_t s;

        memcpy(&s, b + 0x48 + 4 * i, 2);
        t->sel[i] = s;
    }
    memcpy(&t->ldt, b + TSS32_LDT, 2);
    memcpy(&t->trap, b + TSS32_TRAP, 2);
}

static void unpack16(const uint8_t *b, struct tss *t)
{
    uint16_t w[15];

    memcpy(w, b + TSS16_IP, sizeof(w));
    memset(t, 0, sizeof(*t));
    t->eip = w[0];
    t->eflags = w[1];
    for (unsigned i = 0; i < 8; i++)
        t->gpr[i] = w[2 + i];
    for (unsigned i = 0; i < 4; i++) /* ES CS SS DS; FS and GS become null */
        t->sel[i] = w[10 + i];
    t->ldt = w[14];
}

/* The part of the old TSS that a switch writes: instruction pointer to the last selector. */
static unsigned pack(const struct x86_cpu *c, bool t32, uint64_t rip, uint32_t flags, uint8_t *b)
{
    unsigned size = t32 ? 4 : 2, n = 0;
    uint32_t v = (uint32_t)rip;

    memcpy(b + size * n++, &v, size);
    memcpy(b + size * n++, &flags, size);
    for (unsigned i = 0; i < 8; i++) /* the TSS keeps them in encoding order */
        memcpy(b + size * n++, &c->gpr[i], size);
    if (t32)
        return size * n; /* selectors are words with reserved halves between them: written one by one */
    for (unsigned i = 0; i < 4; i++)
        memcpy(b + size * n++, &c->seg[i].sel, 2);
    return size * n;
}

static int save_old(struct x86_cpu *c, uint64_t rip, uint64_t flags)
{
    bool t32 = c->tr.ar & 8;
    uint8_t buf[64];
    unsigned len = pack(c, t32, rip, (uint32_t)flags, buf);
    int r = x86_sys_write(c, (uint32_t)(c->tr.base + (t32 ? TSS32_EIP : TSS16_IP)), buf, len);

    for (unsigned i = 0; t32 && i < X86_NSEG && !r; i++)
        r = x86_sys_write(c, (uint32_t)(c->tr.base + 0x48 + 4 * i), &c->seg[i].sel, 2);
    return r;
}

/* CS of the new task. CPL is its RPL. */
static int load_cs(struct x86_cpu *c, uint16_t sel, unsigned ext)
{
    struct x86_desc d;
    int r;

    if (x86_sel_null(sel))
        return x86_raise_err(c, X86_TS, ext);
    if ((r = x86_desc_fetch(c, sel, &d, X86_TS, ext)))
        return r;
    if (!x86_desc_code(&d) || (x86_desc_conforming(&d) ? x86_desc_dpl(&d) > (sel & 3u) : x86_desc_dpl(&d) != (sel & 3u)))
        return x86_raise_err(c, X86_TS, x86_sel_err(sel, ext));
    if (!x86_desc_p(&d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, ext));
    if ((r = x86_desc_accessed(c, &d)))
        return r;
    c->seg[X86_CS] = x86_desc_seg(&d, sel);
    return X86_OK;
}

/* Validate and load the descriptors of the new task, whose selectors are in t. */
static int load_segments(struct x86_cpu *c, const struct tss *t, unsigned ext)
{
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    unsigned cpl = t->sel[X86_CS] & 3;
    int r;

    if ((r = x86_lldt(c, t->ldt, X86_TS, ext)))
        return r;
    if (x86_v86(c)) {
        for (unsigned i = 0; i < X86_NSEG; i++)
            x86_load_seg16(c, i, (uint16_t)t->sel[i]);
        x86_recompute(c);
        return X86_OK;
    }
    if ((r = load_cs(c, (uint16_t)t->sel[X86_CS], ext)) ||
        (r = x86_check_ss(c, (uint16_t)t->sel[X86_SS], cpl, X86_TS, ext, &c->seg[X86_SS])))
        return r;
    x86_recompute(c);
    for (unsigned i = 0; i < 4; i++) {
        if ((r = x86_load_data(c, data[i], (uint16_t)t->sel[data[i]], cpl, X86_TS, ext)))
            return r;
    }
    return X86_OK;
}

/* Make the new task's registers current; its segments are unusable until loaded. */
static void enter_task(struct x86_cpu *c, const struct tss *t, bool nested)
{
    unsigned cpl = t->eflags & X86_FL_VM ? 3 : t->sel[X86_CS] & 3;

    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = t->gpr[i];
    c->rip = t->eip;
    x86_set_rflags(c, t->eflags | (nested ? X86_FL_NT : 0));
    for (unsigned i = 0; i < X86_NSEG; i++)
        c->seg[i] = x86_null_seg((uint16_t)t->sel[i], cpl);
    c->ldtr = x86_null_seg(t->ldt, 0);
    c->cr0 |= X86_CR0_TS;
    c->dr7 &= ~0x155ull; /* L0-L3 and LE are local to a task */
    x86_recompute(c);
}

int x86_task_switch(struct x86_cpu *c, uint16_t sel, const struct x86_desc *d, enum x86_task_why why, uint64_t next_rip,
                    uint64_t flags, unsigned ext)
{
    struct x86_seg tr = x86_desc_seg(d, sel);
    bool t32 = tr.ar & 8, old32 = c->tr.ar & 8, nested = why == X86_TASK_CALL || why == X86_TASK_INT;
    unsigned save = old32 ? TSS32_EIP : TSS16_IP, save_end = old32 ? TSS32_LDT : TSS16_LDT;
    uint16_t old_sel = c->tr.sel;
    struct x86_desc old = {.lin = (uint32_t)(c->gdtr.base + (old_sel & 0xfff8u))};
    uint8_t buf[TSS32_SIZE];
    struct tss t = {0};
    int r;

    if (!x86_desc_p(d))
        return x86_raise_err(c, X86_NP, x86_sel_err(sel, ext));
    if (tr.limit < (t32 ? TSS32_SIZE : TSS16_SIZE) - 1u)
        return x86_raise_err(c, X86_TS, x86_sel_err(sel, ext));
    if (c->tr.limit < save_end - 1)
        return x86_raise_err(c, X86_TS, x86_sel_err(old_sel, ext));

    /* All that may fault in the old task. */
    if ((r = x86_sys_read(c, (uint32_t)tr.base, buf, t32 ? TSS32_SIZE : TSS16_SIZE)) ||
        (r = x86_sys_probe(c, (uint32_t)(c->tr.base + save), save_end - save, X86_WRITE)) ||
        (nested && (r = x86_sys_probe(c, (uint32_t)tr.base, 2, X86_WRITE))) ||
        (why != X86_TASK_IRET && (r = x86_sys_probe(c, (uint32_t)(d->lin + 5), 1, X86_WRITE))) ||
        (!nested && (r = x86_sys_probe(c, (uint32_t)(old.lin + 5), 1, X86_WRITE))))
        return r;

    if (why == X86_TASK_IRET)
        flags &= ~(uint64_t)X86_FL_NT;
    if ((!nested && (r = x86_desc_update(c, &old, 0, 2))) || (r = save_old(c, next_rip, flags)) ||
        (nested && (r = x86_sys_write(c, (uint32_t)tr.base, &old_sel, 2))) ||
        (why != X86_TASK_IRET && (r = x86_desc_update(c, d, 2, 0))))
        return r;

    (t32 ? unpack32 : unpack16)(buf, &t);
    c->tr = tr;
    c->tr.ar |= 2;
    enter_task(c, &t, nested);
    if (t32 && (c->cr0 & X86_CR0_PG) && (r = x86_set_cr3(c, t.cr3)))
        return r;
    if ((r = load_segments(c, &t, ext)) || (r = x86_check_rip(c, &c->seg[X86_CS], c->rip, ext)))
        return r;
    if (t.trap & 1)
        c->pending_dbg |= 1 << 15; /* BT: before the first instruction of the new task */
    return X86_OK;
}

int x86_task_gate(struct x86_cpu *c, uint16_t sel, enum x86_task_why why, uint64_t next_rip, uint64_t flags, unsigned ext)
{
    struct x86_desc d;
    int r;

    if (sel & 4 || x86_sel_null(sel))
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, ext));
    if ((r = x86_desc_fetch(c, sel, &d, X86_GP, ext)))
        return r;
    if (x86_desc_s(&d) || (x86_desc_type(&d) & 7) != X86_SYS_TSS16) /* available only */
        return x86_raise_err(c, X86_GP, x86_sel_err(sel, ext));
    return x86_task_switch(c, sel, &d, why, next_rip, flags, ext);
}

int x86_task_return(struct x86_cpu *c, uint64_t next_rip)
{
    struct x86_desc d;
    uint16_t sel;
    int r;

    if ((r = x86_sys_read(c, (uint32_t)c->tr.base, &sel, 2)))
        return r;
    if (sel & 4 || x86_sel_null(sel))
        return x86_raise_err(c, X86_TS, x86_sel_err(sel, 0));
    if ((r = x86_desc_fetch(c, sel, &d, X86_TS, 0)))
        return r;
    if (x86_desc_s(&d) || (x86_desc_type(&d) & 7) != X86_SYS_TSS16_BUSY)
        return x86_raise_err(c, X86_TS, x86_sel_err(sel, 0));
    return x86_task_switch(c, sel, &d, X86_TASK_IRET, next_rip, x86_get_rflags(c), 0);
}
