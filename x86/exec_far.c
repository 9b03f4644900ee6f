/*
 * Executors of segment-register, protection-check and software-interrupt
 * instructions, and the table of everything this part of the layer implements.
 */
#include "x86/decode.h"
#include "x86/far.h"

/* --- selectors in operands --------------------------------------------------- */

/* A 16-bit source, whatever size the decoder gives a register form. */
static int read_sel(struct x86_cpu *c, const struct x86_insn *in, unsigned i, uint16_t *sel)
{
    if (in->opnd[i].kind == X86_OPND_MEM)
        return x86_mem_read(c, in, sel, 2);
    *sel = (uint16_t)c->gpr[in->opnd[i].reg & 15];
    return X86_OK;
}

/* A selector store: 16 bits to memory, zero-extended to the operand size in a register. */
static int write_sel(struct x86_cpu *c, const struct x86_insn *in, uint16_t sel)
{
    if (in->opnd[0].kind == X86_OPND_MEM)
        return x86_mem_write(c, in, &sel, 2);
    x86_reg_write(c, in->opnd[0].reg, in->opsize, sel);
    return X86_OK;
}

/* --- segment registers ------------------------------------------------------- */

/* A second load of SS in a row does not prolong the shadow. */
static void ss_shadow(struct x86_cpu *c)
{
    if (!c->inhibit_irq)
        c->inhibit_irq = 2;
}

static int mov_seg(struct x86_cpu *c, const struct x86_insn *in)
{
    uint16_t sel;
    unsigned seg;
    int r;

    if (in->opnd[0].kind != X86_OPND_SEG)
        return write_sel(c, in, c->seg[in->opnd[1].reg].sel);
    seg = in->opnd[0].reg;
    if (seg == X86_CS || seg >= X86_NSEG)
        return x86_raise(c, X86_UD);
    if ((r = read_sel(c, in, 1, &sel)) || (r = x86_load_seg(c, seg, sel)))
        return r;
    if (seg == X86_SS)
        ss_shadow(c);
    return X86_OK;
}

static int push_seg(struct x86_cpu *c, const struct x86_insn *in)
{
    return x86_push(c, in->stacksize, c->seg[in->opnd[0].reg].sel);
}

static int pop_seg(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t sp = c->gpr[X86_RSP], v;
    unsigned seg = in->opnd[0].reg;
    int r = x86_pop(c, in->stacksize, &v);

    if (r)
        return r;
    if ((r = x86_load_seg(c, seg, (uint16_t)v))) {
        c->gpr[X86_RSP] = sp;
        return r;
    }
    if (seg == X86_SS)
        ss_shadow(c);
    return X86_OK;
}

/* LDS LES LFS LGS LSS */
static int load_far(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned seg = in->op == X86_OP_LDS ? X86_DS : in->op == X86_OP_LES ? X86_ES : in->op == X86_OP_LFS ? X86_FS :
                   in->op == X86_OP_LGS ? X86_GS : X86_SS;
    uint8_t buf[10];
    uint64_t off = 0;
    uint16_t sel;
    int r;

    if ((r = x86_read_aligned(c, in, buf, in->opsize + 2u, in->opsize)))
        return r;
    memcpy(&off, buf, in->opsize);
    memcpy(&sel, buf + in->opsize, 2);
    if ((r = x86_load_seg(c, seg, sel)))
        return r;
    x86_reg_write(c, in->opnd[0].reg, in->opsize, off);
    return X86_OK;
}

/* --- LDTR and TR ------------------------------------------------------------ */

static bool umip_blocks(const struct x86_cpu *c) { return (c->cr4 & X86_CR4_UMIP) && c->cpl; }

static int sldt(struct x86_cpu *c, const struct x86_insn *in)
{
    return umip_blocks(c) ? x86_raise_err(c, X86_GP, 0) : write_sel(c, in, c->ldtr.sel);
}

static int str(struct x86_cpu *c, const struct x86_insn *in)
{
    return umip_blocks(c) ? x86_raise_err(c, X86_GP, 0) : write_sel(c, in, c->tr.sel);
}

static int lldt(struct x86_cpu *c, const struct x86_insn *in)
{
    uint16_t sel;
    int r;

    if (c->cpl)
        return x86_raise_err(c, X86_GP, 0);
    return (r = read_sel(c, in, 0, &sel)) ? r : x86_lldt(c, sel, X86_GP, 0);
}

static int ltr(struct x86_cpu *c, const struct x86_insn *in)
{
    uint16_t sel;
    int r;

    if (c->cpl)
        return x86_raise_err(c, X86_GP, 0);
    return (r = read_sel(c, in, 0, &sel)) ? r : x86_ltr(c, sel);
}

/* --- checks without loads ---------------------------------------------------- */

static void set_zf(struct x86_cpu *c, bool z)
{
    c->cc_lo = (uint8_t)((c->cc_lo & ~X86_FL_ZF) | (z ? X86_FL_ZF : 0));
}

/* May a program at CPL see this descriptor through this selector? Conforming code is open to all. */
static bool visible(const struct x86_cpu *c, uint16_t sel, const struct x86_desc *d)
{
    if (x86_desc_code(d) && x86_desc_conforming(d))
        return true;
    return x86_desc_dpl(d) >= c->cpl && x86_desc_dpl(d) >= (sel & 3u);
}

/* Fetch for LAR, LSL, VERR, VERW. types: bit set of system types accepted. X86_OK, X86_FAULT (page fault), -1: not valid. */
static int inspect(struct x86_cpu *c, uint16_t sel, uint32_t types, struct x86_desc *d)
{
    int r;

    if (x86_sel_null(sel))
        return -1;
    if ((r = x86_desc_try(c, sel, d)))
        return r;
    if (!x86_desc_s(d)) {
        if (!(types >> x86_desc_type(d) & 1))
            return -1;
        if (x86_lma(c)) { /* 16-byte descriptors, or the slot is no such thing */
            if ((sel | 7u) + 8 > (sel & 4 ? c->ldtr.limit : c->gdtr.limit))
                return -1;
            if ((r = x86_sys_read_fast(c, d->lin + 8, &d->hi, 8)))
                return r;
            if ((d->hi >> 40) & 0x1f)
                return -1;
        }
    }
    return visible(c, sel, d) ? X86_OK : -1;
}

#define T(x) (1u << X86_SYS_##x)

/* LAR and LSL */
static int load_info(struct x86_cpu *c, const struct x86_insn *in)
{
    bool lar = in->op == X86_OP_LAR;
    uint32_t types = x86_lma(c) ? T(LDT) | T(TSS) | T(TSS_BUSY) | (lar ? T(CALL) : 0)
                                : T(TSS16) | T(LDT) | T(TSS16_BUSY) | T(TSS) | T(TSS_BUSY) |
                                      (lar ? T(CALL16) | T(TASK) | T(CALL) : 0);
    struct x86_desc d;
    uint16_t sel;
    uint64_t v;
    int r;

    if ((r = read_sel(c, in, 1, &sel)))
        return r;
    if ((r = inspect(c, sel, types, &d)) > 0)
        return r;
    set_zf(c, r == X86_OK);
    if (r == X86_OK) {
        v = lar ? (d.lo >> 32) & 0xffff00 : x86_desc_seg(&d, sel).limit;
        x86_reg_write(c, in->opnd[0].reg, in->opsize, v);
    }
    return X86_OK;
}

/* VERR and VERW */
static int verify(struct x86_cpu *c, const struct x86_insn *in)
{
    struct x86_desc d;
    unsigned type;
    uint16_t sel;
    int r;

    if ((r = read_sel(c, in, 0, &sel)))
        return r;
    if ((r = inspect(c, sel, 0, &d)) > 0)
        return r;
    if (r == X86_OK) {
        type = x86_desc_type(&d);
        if (in->op == X86_OP_VERR ? (type & 0xa) == 8 : (type & 0xa) != 2)
            r = -1;
    }
    set_zf(c, r == X86_OK);
    return X86_OK;
}

static int arpl(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t dst;
    uint16_t src = (uint16_t)c->gpr[in->opnd[1].reg & 15];
    bool adjust;
    int r;

    if ((r = x86_opnd_read(c, in, 0, &dst)))
        return r;
    adjust = (dst & 3) < (src & 3u);
    if (adjust && (r = x86_opnd_write(c, in, 0, (dst & 0xfffc) | (src & 3))))
        return r;
    set_zf(c, adjust);
    return X86_OK;
}

/* --- software interrupts ------------------------------------------------------ */

static int soft(struct x86_cpu *c, const struct x86_insn *in, uint8_t vector, uint8_t kind)
{
    c->exc = (struct x86_exc){.vector = vector, .kind = kind, .insn_len = in->len};
    return X86_FAULT;
}

/* INT n in virtual-8086 mode (SDM Vol. 3B, table 20-2): the redirection bitmap lies below the I/O permission bitmap. */
static int int_v86(struct x86_cpu *c, const struct x86_insn *in, uint8_t vector)
{
    bool iopl3 = (c->fl_sys & X86_FL_IOPL) == X86_FL_IOPL;
    int r;

    if (c->cr4 & X86_CR4_VME) {
        uint16_t iomap;
        uint32_t byte;
        uint8_t bits;

        if (c->tr.limit < 0x67)
            return x86_raise_err(c, X86_GP, 0);
        if ((r = x86_sys_read(c, (uint32_t)(c->tr.base + 0x66), &iomap, 2)))
            return r;
        byte = (uint32_t)iomap - 32 + vector / 8;
        if (iomap < 32 || byte > c->tr.limit)
            return x86_raise_err(c, X86_GP, 0);
        if ((r = x86_sys_read(c, (uint32_t)(c->tr.base + byte), &bits, 1)))
            return r;
        if (!(bits >> (vector & 7) & 1)) {
            r = x86_vme_int(c, vector, x86_next_rip(c, in));
            return r ? r : X86_BRANCH;
        }
    }
    return iopl3 ? soft(c, in, vector, X86_EXC_SOFT) : x86_raise_err(c, X86_GP, 0);
}

static int int_n(struct x86_cpu *c, const struct x86_insn *in)
{
    return x86_v86(c) ? int_v86(c, in, (uint8_t)in->imm) : soft(c, in, (uint8_t)in->imm, X86_EXC_SOFT);
}

static int int3(struct x86_cpu *c, const struct x86_insn *in) { return soft(c, in, X86_BP, X86_EXC_SOFT); }
static int int1(struct x86_cpu *c, const struct x86_insn *in) { return soft(c, in, X86_DB, X86_EXC_ICEBP); }
static int into(struct x86_cpu *c, const struct x86_insn *in)
{
    return c->cc_of ? soft(c, in, X86_OF, X86_EXC_SOFT) : X86_OK;
}

static int bound(struct x86_cpu *c, const struct x86_insn *in)
{
    int32_t b[2], i = (int32_t)c->gpr[in->opnd[0].reg];
    int16_t h[2];
    int r;

    if (in->opsize == 2) {
        if ((r = x86_read_aligned(c, in, h, 4, 2)))
            return r;
        b[0] = h[0];
        b[1] = h[1];
        i = (int16_t)i;
    } else if ((r = x86_read_aligned(c, in, b, 8, 4))) {
        return r;
    }
    return i < b[0] || i > b[1] ? x86_raise(c, X86_BR) : X86_OK;
}

const struct x86_exec_entry x86_exec_far[] = {
    {X86_OP_CALL_FAR, x86_call_far}, {X86_OP_JMP_FAR, x86_jmp_far},   {X86_OP_RET_FAR, x86_ret_far},
    {X86_OP_IRET, x86_iret},         {X86_OP_INT, int_n},             {X86_OP_INT3, int3},
    {X86_OP_INT1, int1},             {X86_OP_INTO, into},             {X86_OP_BOUND, bound},
    {X86_OP_SYSCALL, x86_syscall},   {X86_OP_SYSRET, x86_sysret},     {X86_OP_SYSENTER, x86_sysenter},
    {X86_OP_SYSEXIT, x86_sysexit},   {X86_OP_MOV_SEG, mov_seg},       {X86_OP_PUSH_SEG, push_seg},
    {X86_OP_POP_SEG, pop_seg},       {X86_OP_LDS, load_far},          {X86_OP_LES, load_far},
    {X86_OP_LFS, load_far},          {X86_OP_LGS, load_far},          {X86_OP_LSS, load_far},
    {X86_OP_SLDT, sldt},             {X86_OP_STR, str},               {X86_OP_LLDT, lldt},
    {X86_OP_LTR, ltr},               {X86_OP_LAR, load_info},         {X86_OP_LSL, load_info},
    {X86_OP_VERR, verify},           {X86_OP_VERW, verify},           {X86_OP_ARPL, arpl},
    {X86_OP_PUSHF, x86_pushf},       {X86_OP_POPF, x86_popf},         {X86_OP_CLI, x86_cli},
    {X86_OP_STI, x86_sti},           {X86_OP_STAC, x86_stac},         {X86_OP_CLAC, x86_clac},
    {X86_OP_CLC, x86_carry},         {X86_OP_STC, x86_carry},         {X86_OP_CMC, x86_carry},
    {X86_OP_CLD, x86_direction},     {X86_OP_STD, x86_direction},     {X86_OP_LAHF, x86_lahf},
    {X86_OP_SAHF, x86_sahf},         {0, NULL},
};
