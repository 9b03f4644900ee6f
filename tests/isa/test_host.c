/*
 * Innocuous instructions checked against the host CPU itself: for every row of
 * the instruction table that the host supports, register and memory forms, in
 * 64-bit and 32-bit code, random operands and flags go once through the host
 * CPU, once through decoder and executors, and once through the interpreter's
 * blocks with exceptions delivered by the guest's IDT. All registers, flags, vector
 * and x87 state, memory, and faults with vector, error code and address must agree.
 *
 * Usage: test_host [runs per form (default 40)] [mnemonic] [seed]
 */
#include "tests/unit/interp_fixture.h"

#include <ctype.h>
#include <stdio.h>
#include <time.h>

#include "host_cpu.h"
#include "mirror.h"
#include "native.h"
#include "random_state.h"
#include "ringer/host.h"
#include "samples.h"
#include "x86/thunk.h"

static struct config {
    unsigned runs;
    const char *only;
    uint64_t seed;
} cfg = {40, NULL, 0x9e3779b97f4a7c15};

struct totals {
    unsigned rows, forms, runs, faults, undef_diffs, failures;
};

struct tester {
    struct im *m;
    struct x86_cpu *c;
    uint8_t *ram;
    bool code32;
    struct samples samples;
    x86_exec_fn fn[X86_NOP_COUNT];
    uint8_t data[DATA_RW_SIZE];
    struct totals t;
};

/* --- one case ---------------------------------------------------------------- */

struct kase {
    struct state s;
    struct x86_insn in;
    uint8_t code[16];
    uint64_t mem; /* address of the memory operand, 0 if none */
    unsigned size;
};

static uint64_t pick_address(unsigned size, bool whole_line)
{
    unsigned align = size >= 64 ? 64 : size ? size & -size : 1, r = below(32);
    uint64_t a = DATA_RW + 0x400 + below(0x800);

    if (size == 10 || size == 512 || size > 512)
        align = size == 10 ? 8 : 64;
    if (r < 3 && !whole_line)
        return a; /* any alignment */
    if (r == 3 && !whole_line)
        return DATA_RW + 0x1000 - below(size + 1); /* across the page boundary */
    if (r == 4)
        a = DATA_RO + below(0xc00);
    if (r == 5)
        a = DATA_END + below(0x800);
    if (r == 6 && !whole_line)
        return DATA_END - below(size + 1);
    return a & ~(uint64_t)(align - 1);
}

static void poke(struct tester *t, uint64_t at, const void *v, unsigned n)
{
    if (at >= DATA_RW && at < DATA_END)
        memcpy(t->data + (at - DATA_RW), v, at + n <= DATA_END ? n : DATA_END - at);
}

static bool op_is(const struct x86_insn *in, unsigned a, unsigned b, unsigned c, unsigned d)
{
    return in->op == a || in->op == b || in->op == c || in->op == d;
}

/* Make in->mem point at k->mem; false if this encoding cannot. */
static bool aim(struct kase *k)
{
    struct x86_memref *m = &k->in.mem;
    uint64_t disp;
    unsigned at;

    if (!k->in.has_modrm || k->in.modrm >= 0xc0) {
        if (m->base < X86_NGPR) {
            k->s.gpr[m->base] = k->mem - (uint64_t)m->disp;
            if (m->index < X86_NGPR)
                k->s.gpr[m->base] -= (uint8_t)k->s.gpr[m->index]; /* XLAT */
            return true;
        }
        at = k->in.opcode_off + 1u; /* moffs */
        memcpy(k->code + at, &k->mem, k->in.addrsize);
        return true;
    }
    if (m->base == X86_REG_RIP || m->base == X86_REG_NONE) {
        at = k->in.modrm_off + 1u + ((k->in.modrm & 7) == 4);
        disp = m->base == X86_REG_RIP ? k->mem - (CODE_AT + k->in.len) : k->mem;
        memcpy(k->code + at, &(uint32_t){(uint32_t)disp}, 4);
        return true;
    }
    disp = k->mem - (uint64_t)m->disp;
    if (m->index != X86_REG_NONE && k->in.op >= X86_OP_VGATHERDPD && k->in.op <= X86_OP_VGATHERQPS)
        ; /* vector index: small offsets from the base */
    else if (m->index < X86_NGPR && !op_is(&k->in, X86_OP_VPGATHERDD, X86_OP_VPGATHERDQ, X86_OP_VPGATHERQD, X86_OP_VPGATHERQQ))
        disp -= k->s.gpr[m->index] * m->scale;
    if (k->in.addrsize == 4)
        disp = (uint32_t)disp | (below(2) ? rnd() << 32 : 0);
    k->s.gpr[m->base] = disp;
    return true;
}

/* Registers and memory that make the instruction meaningful, and keep the host process whole. */
static void special(struct tester *t, struct kase *k)
{
    struct x86_insn *in = &k->in;
    uint64_t *g = k->s.gpr, v;
    uint8_t img[XSTATE_SIZE];
    unsigned w = t->code32 ? 4 : 8;

    switch (in->op) {
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC:
        if (k->mem && in->opnd[1].kind == X86_OPND_GPR)
            g[in->opnd[1].reg] = (uint64_t)((int64_t)below(4096) - 2048);
        break;
    case X86_OP_DIV:
    case X86_OP_IDIV:
        if (below(4))
            g[X86_RDX] = in->op == X86_OP_DIV ? below(4) : (uint64_t)((int64_t)g[X86_RAX] >> 63);
        if (in->opnd[0].size == 1 && below(2))
            g[X86_RAX] &= 0x3ff;
        break;
    case X86_OP_CMPXCHG:
        if (k->mem && below(2))
            poke(t, k->mem, &g[X86_RAX], 8);
        else if (below(2) && in->opnd[0].kind == X86_OPND_GPR)
            g[in->opnd[0].reg] = g[X86_RAX];
        break;
    case X86_OP_CMPXCHG8B:
        if (below(2)) {
            poke(t, k->mem, &g[X86_RAX], 4);
            poke(t, k->mem + 4, &g[X86_RDX], 4);
        }
        break;
    case X86_OP_CMPXCHG16B:
        if (below(2)) {
            poke(t, k->mem, &g[X86_RAX], 8);
            poke(t, k->mem + 8, &g[X86_RDX], 8);
        }
        break;
    case X86_OP_ENTER:
        k->s.rflags &= ~(uint64_t)X86_FL_AC; /* whether the check of the new stack top or #AC comes first is not told */
        break;
    case X86_OP_RET:
        v = CODE_AT + 0x100 + below(64);
        poke(t, g[X86_RSP], &v, 8);
        break;
    case X86_OP_JMP:
    case X86_OP_CALL:
        if (in->opnd[0].kind == X86_OPND_GPR && in->opnd[0].reg == X86_RSP)
            break; /* where the stack is */
        v = CODE_AT + 0x100 + below(64);
        /* Not for CALL: processors push before they find the target not canonical. */
        if (!t->code32 && in->op == X86_OP_JMP && below(8) == 0)
            v = 1ull << (47 + below(16)) | rnd() >> 20; /* not canonical */
        if (k->mem)
            poke(t, k->mem, &v, w);
        else if (in->opnd[0].kind == X86_OPND_GPR)
            g[in->opnd[0].reg] = v;
        break;
    case X86_OP_MOVDIR64B:
        if (in->opnd[0].kind == X86_OPND_GPR)
            g[in->opnd[0].reg] = (DATA_RW + below(0x1000)) & ~63ull;
        break;
    case X86_OP_MASKMOVQ:
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
        g[X86_RDI] = pick_address(16, false);
        break;
    case X86_OP_LDMXCSR:
    case X86_OP_VLDMXCSR:
        if (below(4)) {
            v = rnd() & 0xffff;
            poke(t, k->mem, &v, 4);
        }
        break;
    case X86_OP_FXRSTOR:
    case X86_OP_FXRSTOR64:
    case X86_OP_XRSTOR:
    case X86_OP_XRSTOR64:
        g[X86_RDX] = 0;
        g[X86_RAX] = below(8);
        rnd_fx(img);
        if (below(16) == 0)
            put32(img + 24, (uint32_t)rnd());
        memset(img + 416, 0, 160);
        put64(img + 512, below(8));
        if (in->op == X86_OP_XRSTOR || in->op == X86_OP_XRSTOR64) {
            if (below(3) == 0)
                put64(img + 520, 1ull << 63 | below(8));
            if (below(16) == 0)
                img[512 + below(64)] ^= 1; /* reserved parts of the header */
        }
        poke(t, k->mem, img, sizeof(img));
        break;
    case X86_OP_XSAVE:
    case X86_OP_XSAVE64:
    case X86_OP_XSAVEC:
    case X86_OP_XSAVEC64:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEOPT64:
        g[X86_RDX] = 0;
        g[X86_RAX] = below(8);
        break;
    default:
        break;
    }
    /* With 32-bit addresses in 64-bit mode, fast strings clear upper halves even before the first iteration; the SDM does not say so. */
    if (in->rep)
        g[X86_RCX] = below(7) + (in->addrsize == 4);
}

static bool vsib(const struct x86_insn *in)
{
    switch (in->op) {
    case X86_OP_VGATHERDPD:
    case X86_OP_VGATHERDPS:
    case X86_OP_VGATHERQPD:
    case X86_OP_VGATHERQPS:
    case X86_OP_VPGATHERDD:
    case X86_OP_VPGATHERDQ:
    case X86_OP_VPGATHERQD:
    case X86_OP_VPGATHERQQ:
        return true;
    default:
        return false;
    }
}

/* A random state for one sample; false if the sample cannot be run safely. */
static bool build(struct tester *t, const struct sample *s, const uint64_t *features, struct kase *k)
{
    struct x86_insn *in = &k->in;
    unsigned window;
    bool locked;

    memset(k->code, 0xcc, sizeof(k->code));
    memcpy(k->code, s->bytes, s->len);
    if (x86_decode(in, k->code, 15, t->samples.mode, false, features) != X86_DEC_OK)
        return false;
    for (unsigned i = 0; i < 16; i++)
        k->s.gpr[i] = rnd_int();
    k->s.gpr[X86_RSP] = pick_address(8, false);
    k->s.gpr[X86_RSI] = pick_address(8, false);
    k->s.gpr[X86_RDI] = pick_address(8, false);
    k->s.gpr[X86_RBP] = pick_address(8, false);
    if (t->code32)
        for (unsigned i = 0; i < 16; i++)
            k->s.gpr[i] = i < 8 ? (uint32_t)k->s.gpr[i] : 0;
    k->s.rip = CODE_AT;
    k->s.rflags = (rnd() & (X86_FL_ARITH | X86_FL_DF)) | 0x202;
    if (below(16) == 0)
        k->s.rflags |= X86_FL_AC;
    rnd_fx(k->s.fx);
    for (unsigned i = 0; i < 4; i++) {
        window = below(DATA_RW_SIZE - 64);
        rnd_bytes(t->data + window, 64);
    }

    k->mem = 0;
    k->size = 0;
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct x86_operand *o = &in->opnd[i];

        if (o->kind == X86_OPND_REL) {
            int64_t to = in->imm + in->len;

            if (to >= -1 && to < in->len)
                return false; /* into itself */
        }
        if (o->kind != X86_OPND_MEM)
            continue;
        k->size = o->size;
        locked = in->lock || op_is(in, X86_OP_XCHG, X86_OP_CMPXCHG, X86_OP_XADD, X86_OP_CMPXCHG8B);
        if (in->mem.base == X86_RSP && !in->has_modrm)
            continue;
        k->mem = pick_address(o->size ? o->size : 8, locked);
        if (o->size >= 512 || op_is(in, X86_OP_XSAVE, X86_OP_XSAVE64, X86_OP_XSAVEC, X86_OP_XSAVEC64) ||
            op_is(in, X86_OP_XSAVEOPT, X86_OP_XSAVEOPT64, X86_OP_XRSTOR, X86_OP_XRSTOR64))
            k->mem = below(8) ? k->mem & ~63ull : k->mem & ~15ull;
        if (vsib(in)) {
            for (unsigned j = 0; j < 8; j++) {
                uint8_t *lo = k->s.fx + 160 + 16 * in->mem.index, *hi = k->s.fx + 576 + 16 * in->mem.index;
                bool q = op_is(in, X86_OP_VGATHERQPD, X86_OP_VGATHERQPS, X86_OP_VPGATHERQD, X86_OP_VPGATHERQQ);
                int64_t x = (int64_t)below(512) - 256;

                if (q && j < 4)
                    memcpy(j < 2 ? lo + 8 * j : hi + 8 * (j - 2), &x, 8);
                else if (!q)
                    memcpy(j < 4 ? lo + 4 * j : hi + 4 * (j - 4), &x, 4);
            }
        }
        if (k->mem + o->size <= DATA_END && k->mem >= DATA_RW && o->size)
            rnd_bytes(t->data + (k->mem - DATA_RW), o->size);
        if (o->size == 10 && k->mem + 10 <= DATA_END && k->mem >= DATA_RW && below(4))
            rnd_ext(t->data + (k->mem - DATA_RW));
        if (op_is(in, X86_OP_PUSH, X86_OP_POP, X86_OP_CALL, X86_OP_LEAVE) && in->mem.base == X86_RSP && in->has_modrm)
            return false; /* RSP stays where a stack is */
        if (!aim(k))
            return false;
    }
    special(t, k);
    if (in->op == X86_OP_CALL && k->mem >= DATA_RO && k->mem < DATA_RW)
        return false; /* the target there is random */
    if (k->mem) { /* a base register that is an operand too may have been changed */
        memcpy(t->c->gpr, k->s.gpr, sizeof(k->s.gpr));
        t->c->rip = CODE_AT;
        if (x86_decode(in, k->code, 15, t->samples.mode, false, features) != X86_DEC_OK || (!vsib(in) && x86_ea(t->c, in) != k->mem))
            return false;
    }
    /* Displacements may have been patched. */
    if (x86_decode(in, k->code, 15, t->samples.mode, false, features) != X86_DEC_OK)
        return false;
    if (t->code32)
        for (unsigned i = 0; i < 8; i++)
            k->s.gpr[i] = (uint32_t)k->s.gpr[i];
    return true;
}

static void put_state(struct tester *t, const struct kase *k)
{
    struct x86_cpu *c = t->c;

    memcpy(t->ram + GPA_OF(DATA_RW), t->data, DATA_RW_SIZE);
    memcpy(c->gpr, k->s.gpr, sizeof(c->gpr));
    c->rip = k->s.rip;
    x86_set_rflags(c, k->s.rflags);
    memcpy(c->fpu.raw, k->s.fx, XSTATE_SIZE);
    c->fpu.fcs = c->fpu.fds = 0;
    mirror_segments(c, t->code32 ? USER_CS32 : USER_CS64);
    if (below(4) == 0)
        x86_tlb_flush_all(c);
}

/* The decoded instruction through the executors, to completion. */
static void run_exec(struct tester *t, struct kase *k, struct outcome *o)
{
    struct x86_cpu *c = t->c;
    x86_exec_fn fn = t->fn[k->in.op];
    int r = X86_REPEAT;

    put_state(t, k);
    for (unsigned i = 0; r == X86_REPEAT && i < 100; i++)
        r = fn(c, &k->in);
    o->vector = -1;
    o->err = 0;
    o->cr2 = 0;
    if (r == X86_OK || r == X86_EXIT) {
        c->rip = x86_next_rip(c, &k->in);
    } else if (r == X86_FAULT) {
        o->vector = c->exc.vector;
        o->err = c->exc.has_error ? c->exc.error : 0;
        o->cr2 = c->exc.vector == X86_PF ? c->exc.cr2 : 0;
    } else if (r != X86_BRANCH) {
        o->vector = 1000 + r;
    }
    memcpy(o->s.gpr, c->gpr, sizeof(c->gpr));
    o->s.rip = c->rip;
    o->s.rflags = x86_get_rflags(c);
    memcpy(o->s.fx, c->fpu.raw, XSTATE_SIZE);
}

/* Through the engine. */
static void run_engine(struct tester *t, struct kase *k, struct outcome *o)
{
    im_put(t->m, GPA_OF(CODE_AT), k->code, 16);
    put_state(t, k);
    if (mirror_run(t->m, o))
        native_classify(&k->s, o);
}

/* --- comparing ------------------------------------------------------------------ */

static void hex(const char *name, const uint8_t *a, const uint8_t *b, unsigned n)
{
    printf("    %-8s host ", name);
    for (unsigned i = n; i--;)
        printf("%02x%s", a[i], i % 8 ? "" : " ");
    printf("\n    %-8s ours ", "");
    for (unsigned i = n; i--;)
        printf("%02x%s", b[i], i % 8 ? "" : " ");
    printf("\n");
}

static const char *const gpr_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/* A prefix byte before the opcode. */
static bool has_prefix(const struct x86_insn *in, uint8_t p)
{
    return !in->vex && memchr(in->bytes, p, in->opcode_off - (in->map > 1 ? 2u : in->map));
}

/* Guests see Intel's processors, and where AMD's are different in kind there is nothing to compare (APM Vol. 3). h: what happened. */
static bool amd_differs(const struct kase *k, bool code32, const struct outcome *h)
{
    const struct x86_insn *in = &k->in;
    bool memory = false, mmx = false, loop = op_is(in, X86_OP_LOOPE, X86_OP_LOOPNE, X86_OP_LOOPE, X86_OP_LOOPNE);

    if (!host_cpu.amd)
        return false;
    for (unsigned i = 0; i < in->nopnd; i++) {
        memory |= in->opnd[i].kind == X86_OPND_MEM;
        mmx |= in->opnd[i].kind == X86_OPND_MM;
    }
    /* Near branches in 64-bit code heed the operand size. */
    if (!code32 && has_prefix(in, 0x66) && (in->op == X86_OP_RET || in->op == X86_OP_CALL || in->op == X86_OP_JMP || in->opnd[0].kind == X86_OPND_REL))
        return true;
    /* REPE and REPNE decide what LOOPE and LOOPNE test. */
    if (loop && (has_prefix(in, 0xf2) || has_prefix(in, 0xf3)))
        return true;
    /* F3 REX.B 90 is XCHG with R8. */
    if (in->op == X86_OP_PAUSE && (in->rex & 1))
        return true;
    /* PREFETCH is #UD with a register, not a NOP. */
    if (in->op == X86_OP_NOP && in->map == 1 && in->opcode == 0x0d)
        return true;
    /* VEX.W means something outside 64-bit code. */
    if (code32 && (in->rex & 8) && op_is(in, X86_OP_VPEXTRD, X86_OP_VPINSRD, X86_OP_VPEXTRD, X86_OP_VPINSRD))
        return true;
    /* Alignment checking covers vectors; SHA needs no alignment. */
    if (memory && k->size > 8 && k->size <= 32 && ((k->s.rflags & X86_FL_AC) || x86_isa[in->row].feature == X86_FEAT_SHA))
        return true;
    /* Flags of the iterations before a fault are there. */
    if (in->rep && h->vector >= 0 && op_is(in, X86_OP_CMPS, X86_OP_SCAS, X86_OP_CMPS, X86_OP_SCAS))
        return true;
    /* A store that an unmasked x87 exception suppresses faults all the same. */
    if (memory && h->vector == X86_PF && (x86_isa[in->row].attr & X86_ATTR_X87) && (k->s.fx[0] & 0x3f) != 0x3f)
        return true;
    /* What has changed already when memory faults. */
    return memory && h->vector >= 0 && (mmx || vsib(in) || in->op == X86_OP_VCVTPS2PH);
}

/* What a store of x87 pointers left, taken over from us: [from, to) of the operand. */
static void take_pointers(const struct kase *k, const uint8_t *ours)
{
    const struct x86_insn *in = &k->in;
    unsigned from = 6, to = 24;

    if (op_is(in, X86_OP_FNSTENV, X86_OP_FNSAVE, X86_OP_FNSTENV, X86_OP_FNSAVE)) {
        from = in->opsize == 2 ? 6 : 12;
        to = in->opsize == 2 ? 14 : 28;
    } else if (!op_is(in, X86_OP_FXSAVE, X86_OP_FXSAVE64, X86_OP_XSAVE, X86_OP_XSAVE64) &&
               !op_is(in, X86_OP_XSAVEC, X86_OP_XSAVEC64, X86_OP_XSAVEOPT, X86_OP_XSAVEOPT64)) {
        return;
    }
    for (uint64_t at = k->mem + from; at < k->mem + to; at++)
        if (at >= DATA_RW && at < DATA_END)
            *(uint8_t *)at = ours[at - DATA_RW];
}

/* The number of differences; printed when asked. */
static unsigned compare(struct tester *t, const struct kase *k, const struct outcome *h, const struct outcome *o, bool print)
{
    unsigned bad = 0;
    uint64_t mask = t->code32 ? 0xffffffff : ~0ull, fl = X86_FL_ARITH | X86_FL_DF | X86_FL_AC | X86_FL_NT | X86_FL_ID, d;
    const uint8_t *ours = t->ram + GPA_OF(DATA_RW), *host = (const uint8_t *)DATA_RW;
    uint64_t undefined;
    char name[16];

    /* Which byte of a large operand faults is the processor's choice, but its page is not. */
    if (h->vector != o->vector || h->err != o->err || (k->size > 8 || !k->size ? (h->cr2 ^ o->cr2) >> 12 : h->cr2 ^ o->cr2)) {
        bad++;
        if (print)
            printf("    fault    host %d err %x cr2 %llx; ours %d err %x cr2 %llx\n", h->vector, h->err, (unsigned long long)h->cr2, o->vector,
                   o->err, (unsigned long long)o->cr2);
    }
    if (k->in.op == X86_OP_POPA && h->vector >= 0)
        return bad; /* how many registers are loaded before the fault is the processor's choice */
    for (unsigned i = 0; i < (t->code32 ? 8 : 16); i++) {
        if ((h->s.gpr[i] ^ o->s.gpr[i]) & mask) {
            bad++;
            if (print)
                printf("    %-8s host %016llx ours %016llx before %016llx\n", gpr_name[i], (unsigned long long)h->s.gpr[i],
                       (unsigned long long)o->s.gpr[i], (unsigned long long)k->s.gpr[i]);
        }
    }
    if ((h->s.rip ^ o->s.rip) & mask) {
        bad++;
        if (print)
            printf("    rip      host %llx ours %llx\n", (unsigned long long)h->s.rip, (unsigned long long)o->s.rip);
    }
    d = (h->s.rflags ^ o->s.rflags) & fl;
    undefined = x86_isa[k->in.row].flags_undefined;
    if (op_is(&k->in, X86_OP_ROL, X86_OP_ROR, X86_OP_RCL, X86_OP_RCR) && (k->in.opcode < 0xd0 || k->in.opcode > 0xd1))
        undefined |= X86_FL_OF; /* for counts other than one */
    if (d && !(d & ~undefined)) {
        t->t.undef_diffs++;
        d = 0;
    }
    if (d) {
        bad++;
        if (print)
            printf("    flags    host %llx ours %llx before %llx\n", (unsigned long long)h->s.rflags, (unsigned long long)o->s.rflags,
                   (unsigned long long)k->s.rflags);
    }
    if (h->vector == X86_GP && o->vector == X86_GP && op_is(&k->in, X86_OP_XRSTOR, X86_OP_XRSTOR64, X86_OP_FXRSTOR, X86_OP_FXRSTOR64))
        return bad; /* registers may be loaded before MXCSR is found wrong */
    if (memcmp(h->s.fx, o->s.fx, host_cpu.hides_pointers ? 6 : 24)) {
        bad++;
        if (print) {
            hex("x87", h->s.fx, o->s.fx, 24);
            hex(" before", k->s.fx, k->s.fx, 24);
        }
    }
    if (memcmp(h->s.fx + 24, o->s.fx + 24, 4)) {
        bad++;
        if (print)
            hex("mxcsr", h->s.fx + 24, o->s.fx + 24, 4);
    }
    for (unsigned i = 0; i < 8; i++) {
        if (memcmp(h->s.fx + 32 + 16 * i, o->s.fx + 32 + 16 * i, 10)) {
            bad++;
            snprintf(name, sizeof(name), "st%u", i);
            if (print) {
                hex(name, h->s.fx + 32 + 16 * i, o->s.fx + 32 + 16 * i, 10);
                hex(" before", k->s.fx + 32 + 16 * i, k->s.fx + 32 + 16 * i, 10);
            }
        }
    }
    for (unsigned i = 0; i < 32; i++) {
        unsigned off = i < 16 ? 160 + 16 * i : 576 + 16 * (i - 16);

        if (memcmp(h->s.fx + off, o->s.fx + off, 16)) {
            bad++;
            snprintf(name, sizeof(name), "%s%u", i < 16 ? "xmm" : "ymmh", i & 15);
            if (print) {
                hex(name, h->s.fx + off, o->s.fx + off, 16);
                hex(" before", k->s.fx + off, k->s.fx + off, 16);
            }
        }
    }
    if (k->in.op == X86_OP_CALL && h->vector == X86_GP)
        return bad;
    if (k->size == 10 && h->vector >= 0)
        return bad; /* such a store is made in two parts, of which only the second may fault */
    if (host_cpu.hides_pointers)
        take_pointers(k, ours);
    for (unsigned i = 0; i < DATA_RW_SIZE; i++) {
        if (host[i] != ours[i]) {
            bad++;
            if (print)
                printf("    memory   %lx: host %02x ours %02x before %02x\n", DATA_RW + i, host[i], ours[i], t->data[i]);
            break;
        }
    }
    return bad;
}

static void describe(const struct tester *t, const struct kase *k)
{
    printf("  %s-bit %s:", t->code32 ? "32" : "64", x86_op_name(k->in.op));
    for (unsigned i = 0; i < k->in.len; i++)
        printf(" %02x", k->code[i]);
    for (unsigned i = 0; i < k->in.nopnd; i++)
        printf(" %u:%u%s%s%s/%u", k->in.opnd[i].kind, k->in.opnd[i].reg, k->in.opnd[i].access & 1 ? "r" : "", k->in.opnd[i].access & 2 ? "w" : "",
               k->in.opnd[i].implicit ? "i" : "", k->in.opnd[i].size);
    printf("  (row %u, memory %llx size %u, rflags %llx, fcw %02x%02x fsw %02x%02x mxcsr %02x%02x)\n", k->in.row, (unsigned long long)k->mem,
           k->size, (unsigned long long)k->s.rflags, k->s.fx[1], k->s.fx[0], k->s.fx[3], k->s.fx[2], k->s.fx[25], k->s.fx[24]);
}

/* --- the runs ---------------------------------------------------------------------- */

static void add(struct tester *t, const struct x86_exec_entry *e)
{
    for (; e->fn; e++) /* the first wins, as in the interpreter */
        if (!t->fn[e->op])
            t->fn[e->op] = e->fn;
}

static void run_row(struct tester *t, unsigned row)
{
    const uint64_t *features = x86_feature_bits(t->m->vm->cpuid);
    unsigned printed = 0, failures = 0;
    static struct kase k;
    static struct outcome host, ours;
    bool any = false;

    for (unsigned form = 0; form < 2; form++) {
        const struct bucket *b = &t->samples.b[row * 2 + form];

        if (!b->n)
            continue;
        any = true;
        t->t.forms++;
        for (unsigned i = 0; i < cfg.runs; i++) {
            unsigned bad;

            if (!build(t, &b->s[i % b->n], features, &k))
                continue;
            memcpy((void *)DATA_RW, t->data, DATA_RW_SIZE);
            memcpy((void *)CODE_AT, k.code, 16);
            native_run(&k.s, t->code32, &host);
            if (amd_differs(&k, t->code32, &host))
                continue;
            t->t.runs++;
            t->t.faults += host.vector >= 0;
            for (unsigned way = 0; way < 2; way++) {
                if (way)
                    run_engine(t, &k, &ours);
                else
                    run_exec(t, &k, &ours);
                bad = compare(t, &k, &host, &ours, false);
                if (!bad)
                    continue;
                failures++;
                if (printed++ < (cfg.only ? 5 : 1)) {
                    printf("  %s:", way ? "interpreter" : "executor");
                    describe(t, &k);
                    compare(t, &k, &host, &ours, true);
                }
            }
        }
    }
    t->t.rows += any;
    if (failures) {
        printf("  row %u %s: %u failures\n", row, x86_isa[row].name, failures);
        t->t.failures++;
    }
}

static void run_mode(bool code32)
{
    static struct tester t;
    const char *why;
    char last[32] = "";
    unsigned skipped = 0;
    static bool found64[4096];

    assert_true(x86_isa_count <= 4096);
    native_take_signals(false); /* from cmocka */
    memset(&t, 0, sizeof(t));
    rng = cfg.seed;
    t.code32 = code32;
    t.m = im_new(1);
    t.c = &t.m->v->cpu;
    host_cpu.hides_pointers = t.c->thunks && t.c->thunks->hides_pointers;
    t.ram = t.m->vm->ram;
    mirror_setup(t.m);
    add(&t, x86_exec_int);
    add(&t, x86_exec_fpu);
    add(&t, x86_exec_sys);
    add(&t, x86_exec_far);
    samples_make(&t.samples, code32 ? X86_MODE_32 : X86_MODE_64, x86_feature_bits(t.m->vm->cpuid));
    for (unsigned i = 0; i < DATA_RW_SIZE; i += 64)
        rnd_bytes(t.data + i, 64);

    printf("%s-bit code. Not checked:", code32 ? "32" : "64");
    for (unsigned row = 0; row < x86_isa_count; row++) {
        const struct bucket *b = &t.samples.b[row * 2];

        why = skip_reason(&x86_isa[row]);
        if (!code32)
            found64[row] = b[0].n || b[1].n;
        if (!why && !b[0].n && !b[1].n)
            why = x86_isa[row].attr & (code32 ? X86_ATTR_ONLY64 : X86_ATTR_NO64) ? "not in this mode"
                  : !x86_has(t.m->vm->cpuid, x86_isa[row].feature)                    ? "not presented on this host"
                  : t.code32 && found64[row]                                       ? "64-bit encodings only"
                                                                                   : "no encoding found";
        if (!why && !t.fn[x86_isa[row].op])
            why = "no executor";
        if (why) {
            skipped++;
            if (strcmp(why, "not innocuous") && strcmp(last, x86_isa[row].name))
                printf(" %s (%s)", x86_isa[row].name, why);
            snprintf(last, sizeof(last), "%s", x86_isa[row].name);
            t.samples.b[row * 2].n = t.samples.b[row * 2 + 1].n = 0;
            if (!strcmp(why, "no executor") || !strcmp(why, "no encoding found"))
                t.t.failures++;
        }
    }
    printf("\n");
    for (unsigned row = 0; row < x86_isa_count; row++)
        if (!cfg.only || !strcasecmp(cfg.only, x86_isa[row].name))
            run_row(&t, row);
    printf("%s-bit code: %u of %u rows checked in %u forms (%u rows skipped), %u runs of which %u faulted, %u differed in undefined flags only\n",
           code32 ? "32" : "64", t.t.rows, x86_isa_count, t.t.forms, skipped, t.t.runs, t.t.faults, t.t.undef_diffs);
    free(t.samples.b);
    im_free(t.m);
    assert_int_equal(t.t.failures, 0);
}

static void test_64(void **st) { run_mode(false); }
static void test_32(void **st) { run_mode(true); }

static void nothing(void *arg) { (void)arg; }

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_64), cmocka_unit_test(test_32)};

    if (argc > 1)
        cfg.runs = (unsigned)strtoul(argv[1], NULL, 0);
    if (argc > 2 && strcmp(argv[2], "-"))
        cfg.only = argv[2];
    if (argc > 3)
        cfg.seed = strtoull(argv[3], NULL, 0) | 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    look_at_host();
    /* The guard's handlers first: ours pass on what they do not want. */
    host_guarded(nothing, NULL, NULL);
    native_init();
    rng = cfg.seed;
    for (unsigned i = 0; i < 4096; i++)
        ((uint8_t *)DATA_RO)[i] = (uint8_t)rnd();
    mprotect((void *)DATA_RO, 4096, PROT_READ);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
