/*
 * x87: instructions that compute run on the host CPU (x86/thunk.h); control
 * and environment instructions only move state and are done here.
 *
 * The guest's own instruction and data pointers are kept: which of FIP, FDP and
 * FOP an instruction updates depends on the processor (SDM Vol. 1, 8.1.8: FDP
 * and FOP perhaps only at unmasked exceptions), so the host is asked. Sentinels
 * are loaded before a thunk runs, and what changed is replaced by the guest's
 * values. Hosts that do not tell leave it to us: then every computing instruction
 * updates FOP and FIP, and FDP if it has a memory operand.
 */
#include <string.h>

#include "x86/fpu.h"

#define SENTINEL_FIP 0x00005ead0badbeefull
#define SENTINEL_FDP 0x00005ead0badf00dull

int x86_fpu_wait(struct x86_cpu *c)
{
    if (c->cr0 & X86_CR0_NE)
        return x86_raise(c, X86_MF);
    if (c->ops && c->ops->ferr)
        c->ops->ferr(c->env);
    return X86_OK;
}

void x86_fpu_rotate(struct x86_fpu *f, unsigned new_top)
{
    unsigned top = f->fsw >> 11 & 7;
    uint8_t old[8][16];

    if (top != new_top) {
        memcpy(old, f->st, sizeof(old));
        for (unsigned i = 0; i < 8; i++) /* physical register new_top + i is ST(i) */
            memcpy(f->st[i], old[(new_top + i - top) & 7], 16);
    }
    f->fsw = (uint16_t)((f->fsw & ~0x3800u) | new_top << 11);
}

void x86_fpu_fninit(struct x86_fpu *f)
{
    x86_fpu_rotate(f, 0);
    f->fcw = 0x37f;
    f->fsw = 0;
    f->ftw = 0;
    f->fop = 0;
    f->fip = f->fdp = 0;
    f->fcs = f->fds = 0;
}

/* --- computing instructions ---------------------------------------------- */

/* An unmasked #I, #O or #U prevents a store to memory; an unmasked #P does not (SDM Vol. 1, 8.5). */
static bool store_suppressed(const struct x86_fpu *f, uint16_t before)
{
    return (f->fsw & ~f->fcw & ~before & 0x1f) != 0;
}

int x86_exec_x87(struct x86_cpu *c, const struct x86_insn *in)
{
    const struct x86_thunk *t = x86_thunk(c, in);
    struct x86_fpu *f = &c->fpu;
    uint8_t *mem = NULL;
    uint8_t image[512];
    bool bounced = false, ignored = false;
    uint16_t fop = f->fop, fop_probe, fop_new, fsw = f->fsw, fcw = f->fcw;
    uint16_t fcs = f->fcs, fds = f->fds;
    uint64_t fip = f->fip, fdp = f->fdp, lin = 0;
    int r, store_fault = X86_OK;

    if (!t)
        return x86_raise(c, X86_UD);
    if (c->cr0 & (X86_CR0_EM | X86_CR0_TS))
        return x86_raise(c, X86_NM);
    /* The 8087's FENI and FDISI and the 80287's FSETPM are no-operations that do not wait. */
    if (x86_fpu_pending(f)) {
        if (!(in->op == X86_OP_FNOP && in->opcode == 0xdb) && (r = x86_fpu_wait(c)))
            return r;
        /* IGNNE#: the instruction executes with the exception still flagged; hide it from the host. */
        ignored = true;
    }
    if (t->flags & (X86_TH_MEM_R | X86_TH_MEM_W)) {
        int access = t->flags & X86_TH_MEM_W ? X86_WRITE : X86_READ;

        store_fault = x86_fpu_lin(c, in, t->size, access, t->ac, 1, &lin);
        if (!store_fault)
            mem = (uint8_t *)(uintptr_t)(access == X86_WRITE ? x86_tlb_host_w(c, lin, t->size) : x86_tlb_host_r(c, lin, t->size));
        else if (access == X86_READ)
            return store_fault;
        if (!mem) {
            bounced = true;
            mem = c->thunks->bounce;
            if (access == X86_WRITE)
                memcpy(image, f->raw, sizeof(image));
            else if ((r = x86_lin_read(c, lin, mem, t->size)))
                return r;
        }
    }
    if (ignored)
        f->fsw &= (uint16_t)~(X86_FSW_ES | X86_FSW_B | (~fcw & 0x3f));

    fop_new = (uint16_t)((in->opcode & 7) << 8 | in->modrm);
    fop_probe = (uint16_t)((in->modrm < 0xc0 ? (fop_new & 0x738) | 6 : fop_new) ^ 0x7ff);
    f->fop = fop_probe;
    f->fip = SENTINEL_FIP;
    f->fdp = SENTINEL_FDP;
    t->code(c, mem);
    /* The host's own x87 state: an empty stack, nothing pending. FNINIT takes much longer, but EMMS waits. */
    if (__builtin_expect(fcw == 0x37f, 1))
        __asm__ volatile("emms");
    else
        __asm__ volatile("fninit");

    if (c->thunks->hides_pointers) {
        f->fip = SENTINEL_FIP ^ 1;
        f->fdp = mem ? (uint64_t)(uintptr_t)mem : SENTINEL_FDP;
        f->fop = (uint16_t)~fop_probe;
    }
    if (f->fip == SENTINEL_FIP) {
        f->fip = fip;
    } else {
        f->fip = c->mode == X86_MODE_64 ? c->rip : (uint32_t)c->rip;
        f->fcs = c->seg[X86_CS].sel;
    }
    if (f->fdp == SENTINEL_FDP) {
        f->fdp = fdp;
    } else if (mem && f->fdp == (uint64_t)(uintptr_t)mem) {
        f->fdp = x86_ea(c, in);
        f->fds = c->seg[in->mem.seg].sel;
    }
    f->fop = f->fop == fop_probe ? fop : fop_new;
    if (ignored) {
        f->fsw |= fsw & 0x3f;
        x86_fpu_summary(f);
    }

    if (bounced && (t->flags & X86_TH_MEM_W) && !store_suppressed(f, ignored ? fsw & 0x3f : 0)) {
        /* Only now is it known that the store takes place at all, and may fault. */
        if (store_fault || x86_lin_write(c, lin, mem, t->size)) {
            memcpy(f->raw, image, sizeof(image));
            f->fcs = fcs;
            f->fds = fds;
            return X86_FAULT;
        }
    }
    return X86_OK;
}

/* --- environment ------------------------------------------------------------ */

/* The 16-bit tag word from the abridged one and the register contents. */
static uint16_t full_tags(const struct x86_fpu *f)
{
    uint16_t tags = 0;
    unsigned top = f->fsw >> 11 & 7;

    for (unsigned p = 0; p < 8; p++) {
        const uint8_t *v = f->st[(p - top) & 7];
        uint64_t m;
        uint16_t se;
        unsigned tag;

        memcpy(&m, v, 8);
        memcpy(&se, v + 8, 2);
        if (!(f->ftw >> p & 1))
            tag = 3;
        else if (!(se & 0x7fff))
            tag = m ? 2 : 1;
        else if ((se & 0x7fff) == 0x7fff || !(m >> 63))
            tag = 2;
        else
            tag = 0;
        tags |= (uint16_t)(tag << (2 * p));
    }
    return tags;
}

static uint8_t abridge(uint16_t tags)
{
    uint8_t a = 0;

    for (unsigned p = 0; p < 8; p++)
        if ((tags >> (2 * p) & 3) != 3)
            a |= (uint8_t)(1u << p);
    return a;
}

static bool real_format(const struct x86_cpu *c) { return !x86_pe(c) || x86_v86(c); }

static void put16(uint8_t *p, uint32_t v) { memcpy(p, &(uint16_t){(uint16_t)v}, 2); }
static void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* Environment in the format of the mode and operand size (SDM Vol. 1, figures 8-9 to 8-12); returns its size. */
static unsigned env_put(const struct x86_cpu *c, unsigned opsize, uint8_t *p)
{
    const struct x86_fpu *f = &c->fpu;
    bool dep = c->thunks->fcs_deprecated;
    uint32_t ip = (uint32_t)f->fip, dp = (uint32_t)f->fdp, fop = f->fop & 0x7ff;
    uint16_t cs = dep ? 0 : f->fcs, ds = dep ? 0 : f->fds;

    if (real_format(c)) {
        ip += (uint32_t)f->fcs << 4;
        dp += (uint32_t)f->fds << 4;
    }
    if (opsize == 2) {
        put16(p, f->fcw);
        put16(p + 2, f->fsw);
        put16(p + 4, full_tags(f));
        put16(p + 6, ip);
        put16(p + 8, real_format(c) ? (ip >> 4 & 0xf000) | fop : cs);
        put16(p + 10, dp);
        put16(p + 12, real_format(c) ? dp >> 4 & 0xf000 : ds);
        return 14;
    }
    put32(p, 0xffff0000u | f->fcw);
    put32(p + 4, 0xffff0000u | f->fsw);
    put32(p + 8, 0xffff0000u | full_tags(f));
    if (real_format(c)) {
        put32(p + 12, 0xffff0000u | (ip & 0xffff));
        put32(p + 16, (ip >> 16 << 12) | fop);
        put32(p + 20, 0xffff0000u | (dp & 0xffff));
        put32(p + 24, dp >> 16 << 12);
    } else {
        put32(p + 12, ip);
        put32(p + 16, fop << 16 | cs);
        put32(p + 20, dp);
        put32(p + 24, 0xffff0000u | ds);
    }
    return 28;
}

static void env_get(struct x86_cpu *c, unsigned opsize, const uint8_t *p)
{
    struct x86_fpu *f = &c->fpu;
    uint16_t fsw;

    f->fcs = f->fds = 0;
    if (opsize == 2) {
        f->fcw = get16(p);
        fsw = get16(p + 2);
        f->ftw = abridge(get16(p + 4));
        f->fip = get16(p + 6);
        f->fdp = get16(p + 10);
        if (real_format(c)) {
            f->fop = get16(p + 8) & 0x7ff;
            f->fip |= (uint32_t)(get16(p + 8) & 0xf000) << 4;
            f->fdp |= (uint32_t)(get16(p + 12) & 0xf000) << 4;
        } else {
            f->fop = 0;
            f->fcs = get16(p + 8);
            f->fds = get16(p + 12);
        }
    } else {
        f->fcw = get16(p);
        fsw = get16(p + 4);
        f->ftw = abridge(get16(p + 8));
        if (real_format(c)) {
            f->fop = get32(p + 16) & 0x7ff;
            f->fip = get16(p + 12) | (get32(p + 16) & 0x0ffff000) << 4;
            f->fdp = get16(p + 20) | (get32(p + 24) & 0x0ffff000) << 4;
        } else {
            f->fip = get32(p + 12);
            f->fcs = get16(p + 16);
            f->fop = get16(p + 18) & 0x7ff;
            f->fdp = get32(p + 20);
            f->fds = get16(p + 24);
        }
    }
    f->fcw = (f->fcw & 0x1f3f) | 0x40;
    x86_fpu_rotate(f, fsw >> 11 & 7); /* the registers stay where they are, TOP moves */
    f->fsw = fsw;
    x86_fpu_summary(f);
}

static int store_env(struct x86_cpu *c, const struct x86_insn *in, bool save)
{
    uint8_t img[108];
    unsigned n = env_put(c, in->opsize, img);
    uint64_t lin;
    int r;

    if (save) {
        for (unsigned i = 0; i < 8; i++)
            memcpy(img + n + 10 * i, c->fpu.st[i], 10);
        n += 80;
    }
    if ((r = x86_fpu_lin(c, in, n, X86_WRITE, in->opsize == 2 ? 2 : 4, 1, &lin)) || (r = x86_lin_write(c, lin, img, n)))
        return r;
    if (save) {
        x86_fpu_fninit(&c->fpu);
    } else {
        c->fpu.fcw |= 0x3f;
        x86_fpu_summary(&c->fpu);
    }
    return X86_OK;
}

static int load_env(struct x86_cpu *c, const struct x86_insn *in, bool restore)
{
    uint8_t img[108];
    unsigned env = in->opsize == 2 ? 14 : 28, n = restore ? env + 80 : env;
    uint64_t lin;
    int r;

    if ((r = x86_fpu_lin(c, in, n, X86_READ, in->opsize == 2 ? 2 : 4, 1, &lin)) || (r = x86_lin_read(c, lin, img, n)))
        return r;
    env_get(c, in->opsize, img);
    if (restore) {
        for (unsigned i = 0; i < 8; i++) {
            memset(c->fpu.st[i], 0, 16);
            memcpy(c->fpu.st[i], img + env + 10 * i, 10);
        }
    }
    return X86_OK;
}

int x86_exec_x87_ctl(struct x86_cpu *c, const struct x86_insn *in)
{
    struct x86_fpu *f = &c->fpu;
    uint64_t v;
    int r;

    if (x86_fpu_init(c))
        return x86_raise(c, X86_UD);
    if (in->op == X86_OP_FWAIT) {
        if ((c->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS))
            return x86_raise(c, X86_NM);
        return x86_fpu_pending(f) ? x86_fpu_wait(c) : X86_OK;
    }
    if (c->cr0 & (X86_CR0_EM | X86_CR0_TS))
        return x86_raise(c, X86_NM);
    switch (in->op) {
    case X86_OP_FNINIT:
        x86_fpu_fninit(f);
        return X86_OK;
    case X86_OP_FNCLEX:
        f->fsw &= 0x7f00;
        return X86_OK;
    case X86_OP_FNSTSW:
        if (in->modrm >= 0xc0)
            x86_reg_write(c, X86_RAX, 2, f->fsw);
        else if ((r = x86_mem_write(c, in, &f->fsw, 2)))
            return r;
        return X86_OK;
    case X86_OP_FNSTCW:
        return x86_mem_write(c, in, &f->fcw, 2);
    case X86_OP_FNSTENV:
        return store_env(c, in, false);
    case X86_OP_FNSAVE:
        return store_env(c, in, true);
    case X86_OP_FLDCW:
    case X86_OP_FLDENV:
    case X86_OP_FRSTOR:
        if (x86_fpu_pending(f) && (r = x86_fpu_wait(c)))
            return r;
        if (in->op != X86_OP_FLDCW)
            return load_env(c, in, in->op == X86_OP_FRSTOR);
        v = 0;
        if ((r = x86_mem_read(c, in, &v, 2)))
            return r;
        f->fcw = ((uint16_t)v & 0x1f3f) | 0x40;
        x86_fpu_summary(f);
        return X86_OK;
    default:
        return X86_UNDEF;
    }
}
