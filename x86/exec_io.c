/*
 * Port input and output (SDM Vol. 1, chapter 18; Vol. 2, IN OUT INS OUTS).
 */
#include "x86/exec_sys.h"

#define BATCH 1024u /* iterations of one call of a repeated INS or OUTS */

static uint64_t size_mask(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << (8 * size)) - 1;
}

/* IOPL, or the bitmap of the current task: every bit of the access must be clear. */
static int io_allowed(struct x86_cpu *c, uint16_t port, unsigned size)
{
    unsigned iopl = c->fl_sys >> 12 & 3, type = c->tr.ar & X86_AR_TYPE;
    uint16_t map, bits;
    uint32_t at;

    if (!x86_pe(c) || (c->cpl <= iopl && !x86_v86(c)))
        return X86_OK;
    /* only a 32- or 64-bit TSS has a bitmap; two bytes of it are always read */
    if (!(c->tr.ar & X86_AR_P) || !(type == 9 || type == 11) || c->tr.limit < 0x67)
        return x86_raise_err(c, X86_GP, 0);
    if (x86_sys_read(c, c->tr.base + 0x66, &map, 2) != X86_OK)
        return X86_FAULT;
    at = map + port / 8u;
    if (at + 1 > c->tr.limit)
        return x86_raise_err(c, X86_GP, 0);
    if (x86_sys_read(c, c->tr.base + at, &bits, 2) != X86_OK)
        return X86_FAULT;
    if (bits >> (port & 7) & ((1u << size) - 1))
        return x86_raise_err(c, X86_GP, 0);
    return X86_OK;
}

static uint64_t port_in(struct x86_cpu *c, uint16_t port, unsigned size)
{
    struct x86_io io = {.addr = port, .size = (uint8_t)size};

    c->ops->io(c->env, &io);
    x86_debug_io(c, port, size);
    return io.data & size_mask(size);
}

static void port_out(struct x86_cpu *c, uint16_t port, unsigned size, uint64_t val)
{
    struct x86_io io = {.addr = port, .data = val & size_mask(size), .size = (uint8_t)size, .write = true};

    c->ops->io(c->env, &io);
    x86_debug_io(c, port, size);
}

static uint16_t port_of(const struct x86_cpu *c, const struct x86_insn *in, unsigned opnd)
{
    return in->opnd[opnd].kind == X86_OPND_IMM ? (uint8_t)in->imm : (uint16_t)c->gpr[X86_RDX];
}

int x86_do_in(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned size = in->opnd[0].size;
    uint16_t port = port_of(c, in, 1);

    if (io_allowed(c, port, size) != X86_OK)
        return X86_FAULT;
    x86_reg_write(c, X86_RAX, size, port_in(c, port, size));
    return X86_OK;
}

int x86_do_out(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned size = in->opnd[1].size;
    uint16_t port = port_of(c, in, 0);

    if (io_allowed(c, port, size) != X86_OK)
        return X86_FAULT;
    port_out(c, port, size, c->gpr[X86_RAX]);
    return X86_OK;
}

/* One element. INS finds out whether the store will succeed before it takes the data from the device. */
static int ins_one(struct x86_cpu *c, const struct x86_insn *in, unsigned size, uint16_t port)
{
    uint64_t off = x86_reg_read(c, X86_RDI, in->addrsize), lin, val;
    int r;

    if ((r = x86_seg_lin(c, X86_ES, off, size, X86_WRITE, size, &lin)) || (r = x86_lin_probe(c, lin, size, X86_WRITE)))
        return r;
    val = port_in(c, port, size);
    return x86_lin_write(c, lin, &val, size);
}

static int outs_one(struct x86_cpu *c, const struct x86_insn *in, unsigned size, uint16_t port)
{
    unsigned seg = in->seg_override == X86_SEG_NONE ? (unsigned)X86_DS : in->seg_override;
    uint64_t off = x86_reg_read(c, X86_RSI, in->addrsize), lin, val = 0;
    int r;

    if ((r = x86_seg_lin(c, seg, off, size, X86_READ, size, &lin)) || (r = x86_lin_read(c, lin, &val, size)))
        return r;
    port_out(c, port, size, val);
    return X86_OK;
}

static int string_io(struct x86_cpu *c, const struct x86_insn *in, unsigned size, unsigned index_reg,
                     int (*one)(struct x86_cpu *, const struct x86_insn *, unsigned, uint16_t))
{
    uint16_t port = (uint16_t)c->gpr[X86_RDX];
    uint64_t step = c->fl_sys & X86_FL_DF ? -(uint64_t)size : size;
    uint64_t count = in->rep ? x86_reg_read(c, X86_RCX, in->addrsize) : 1;
    unsigned batch = c->fl_sys & X86_FL_TF ? 1 : BATCH; /* TF traps after every iteration */
    int r;

    if (!count)
        return X86_OK;
    if (io_allowed(c, port, size) != X86_OK)
        return X86_FAULT;
    while (batch--) {
        if ((r = one(c, in, size, port)) != X86_OK)
            return r;
        x86_reg_write(c, index_reg, in->addrsize, c->gpr[index_reg] + step);
        if (!in->rep)
            return X86_OK;
        x86_reg_write(c, X86_RCX, in->addrsize, --count);
        if (!count)
            return X86_OK;
        if (c->pending_dbg) /* a breakpoint was met: the trap comes now */
            break;
    }
    return X86_REPEAT;
}

int x86_do_ins(struct x86_cpu *c, const struct x86_insn *in)
{
    return string_io(c, in, in->opnd[0].size, X86_RDI, ins_one);
}

int x86_do_outs(struct x86_cpu *c, const struct x86_insn *in)
{
    return string_io(c, in, in->opnd[1].size, X86_RSI, outs_one);
}
