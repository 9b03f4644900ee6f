/*
 * Making thunks (x86/thunk.h): a small assembler for exactly the shapes needed.
 *
 * Register use in a thunk: RDI the guest's struct x86_cpu, RSI the memory
 * operand, RAX the instruction's general register or flags; implicit RCX, RDX
 * of the string comparisons are themselves. Vector registers keep their
 * numbers: all of them are the caller's to lose.
 */
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "ringer/host.h"
#include "x86/decode.h"
#include "x86/exec.h"
#include "x86/thunk.h"

#define CODE_SIZE (2u << 20)
#define THUNK_ROOM 320u /* no thunk is longer */
#define HOST_MXCSR 0x1f80u

int x86_fpu_init(struct x86_cpu *c)
{
    struct x86_thunks *ts;
    void *rw, *rx;
    uint32_t r[4];
    _Alignas(16) uint8_t image[512];

    if (c->thunks)
        return 0;
    ts = aligned_alloc(64, (sizeof(*ts) + 63) & ~63ul);
    if (!ts)
        return -1;
    memset(ts, 0, sizeof(*ts));
    if (host_exec_alloc(CODE_SIZE, &rw, &rx)) {
        free(ts);
        return -1;
    }
    ts->rw = rw;
    ts->rx = rx;
    ts->gen = 1;
    /* The start of the code holds the MXCSR our own code runs with. */
    memcpy(ts->rw, &(uint32_t){HOST_MXCSR}, 4);
    ts->used = 64;

    __cpuid_count(7, 0, r[0], r[1], r[2], r[3]);
    ts->fcs_deprecated = r[1] & 1u << 13;
    memset(image, 0, sizeof(image));
    __asm__ volatile("fxsave64 %0" : "=m"(image));
    memcpy(&ts->mxcsr_mask, image + 28, 4);
    if (!ts->mxcsr_mask)
        ts->mxcsr_mask = 0xffbf; /* SDM Vol. 1, 11.6.6 */
    image[8] = 1; /* FIP */
    __asm__ volatile("fxrstor64 %0; fxsave64 %0" : "+m"(image));
    ts->hides_pointers = !image[8];
    __asm__ volatile("fninit");
    c->thunks = ts;
    return 0;
}

void x86_fpu_fini(struct x86_cpu *c)
{
    if (!c->thunks)
        return;
    host_exec_free(c->thunks->rw, c->thunks->rx, CODE_SIZE);
    free(c->thunks);
    c->thunks = NULL;
}

/* --- assembling --------------------------------------------------------- */

struct asmbuf {
    uint8_t *p;     /* next byte, in the writable view */
    uint8_t *rx;    /* address p will run at */
};

static void b(struct asmbuf *a, uint8_t v)
{
    *a->p++ = v;
    a->rx++;
}
static void bytes(struct asmbuf *a, const void *v, unsigned n)
{
    memcpy(a->p, v, n);
    a->p += n;
    a->rx += n;
}
static void d32(struct asmbuf *a, uint32_t v) { bytes(a, &v, 4); }

/* ModRM for register reg and [RDI + off]. */
static void at_cpu(struct asmbuf *a, unsigned reg, size_t off)
{
    b(a, 0x87 | (reg & 7) << 3);
    d32(a, (uint32_t)off);
}

#define OFF_XMM(n) (offsetof(struct x86_cpu, fpu) + offsetof(struct x86_fpu, xmm) + 16 * (n))
#define OFF_YMMH(n) (offsetof(struct x86_cpu, fpu) + offsetof(struct x86_fpu, ymmh) + 16 * (n))
#define OFF_ST(n) (offsetof(struct x86_cpu, fpu) + offsetof(struct x86_fpu, st) + 16 * (n))
#define OFF_MXCSR (offsetof(struct x86_cpu, fpu) + offsetof(struct x86_fpu, mxcsr))

static void movups(struct asmbuf *a, bool store, unsigned n)
{
    if (n & 8)
        b(a, 0x44);
    b(a, 0x0f);
    b(a, store ? 0x11 : 0x10);
    at_cpu(a, n, OFF_XMM(n));
}

static void vmovups(struct asmbuf *a, bool store, unsigned n)
{
    b(a, 0xc5);
    b(a, n & 8 ? 0x78 : 0xf8);
    b(a, store ? 0x11 : 0x10);
    at_cpu(a, n, OFF_XMM(n));
}

/* VINSERTF128 ymm, ymm, m, 1 / VEXTRACTF128 m, ymm, 1 */
static void vhalf(struct asmbuf *a, bool store, unsigned n)
{
    b(a, 0xc4);
    b(a, (n & 8 ? 0x63 : 0xe3));
    b(a, store ? 0x7d : (uint8_t)(0x05 | (~n & 15) << 3));
    b(a, store ? 0x19 : 0x18);
    at_cpu(a, n, OFF_YMMH(n));
    b(a, 1);
}

static void mov_gpr(struct asmbuf *a, bool store, unsigned host, unsigned guest)
{
    b(a, 0x48);
    b(a, store ? 0x89 : 0x8b);
    at_cpu(a, host, offsetof(struct x86_cpu, gpr) + 8 * guest);
}

static void mxcsr_host(struct asmbuf *a, const struct x86_thunks *ts)
{
    b(a, 0x0f);
    b(a, 0xae);
    b(a, 0x15);
    d32(a, (uint32_t)(ts->rx - (a->rx + 4)));
}

static void flags_store(struct asmbuf *a)
{
    static const uint8_t code[] = {0x9f, 0x0f, 0x90, 0xc0, 0x66, 0x89}; /* lahf; seto al; mov [], ax */

    bytes(a, code, sizeof(code));
    at_cpu(a, 0, offsetof(struct x86_cpu, cc));
}

/* --- what an instruction uses ------------------------------------------- */

struct use {
    uint32_t vec_ld, vec_st, mm_ld, mm_st, gpr_ld, gpr_st; /* by guest number; gpr: implicit ones only */
    int gpr;         /* explicit general register, -1 if none */
    bool gpr_r, gpr_w, mem, flags_r, flags_w;
    uint8_t enc[16]; /* re-encoded instruction */
    uint8_t len;
};

/* Is the explicit general register operand in ModRM.rm (else in ModRM.reg)? */
static bool gpr_in_rm(const struct x86_insn *in)
{
    if (in->map == 3)
        return true; /* PEXTRx, EXTRACTPS, PINSRx */
    return in->map == 1 && (in->opcode == 0x6e || in->opcode == 0x7e || in->opcode == 0x2a || in->opcode == 0xc4);
}

static void gather_use(const struct x86_insn *in, const struct x86_isa_row *row, struct use *u)
{
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct x86_operand *o = &in->opnd[i];
        uint32_t bit = 1u << (o->reg & 15);

        switch (o->kind) {
        case X86_OPND_VEC:
            /* Legacy destinations are loaded too: much of what writes only a part of one. */
            if ((o->access & X86_ACC_R) || !in->vex)
                u->vec_ld |= bit;
            if (o->access & X86_ACC_W)
                u->vec_st |= bit;
            break;
        case X86_OPND_MM:
            u->mm_ld |= 1u << (o->reg & 7);
            if (o->access & X86_ACC_W)
                u->mm_st |= 1u << (o->reg & 7);
            break;
        case X86_OPND_GPR:
            if (o->implicit) {
                if (o->access & X86_ACC_R)
                    u->gpr_ld |= bit;
                if (o->access & X86_ACC_W)
                    u->gpr_st |= bit;
                break;
            }
            u->gpr = o->reg & 15;
            u->gpr_r |= o->access & X86_ACC_R;
            u->gpr_w |= (o->access & X86_ACC_W) != 0;
            break;
        case X86_OPND_MEM:
            u->mem = true;
            break;
        default:
            break;
        }
    }
    u->flags_w = row->flags_written & X86_FL_ARITH;
    u->flags_r = row->flags_read & X86_FL_ARITH;
}

/* Does REX.W / VEX.W only choose 32 or 64 bits of an integer operand? */
static bool w_is_width(const struct x86_insn *in)
{
    if (in->map == 3)
        return (in->opcode >= 0x14 && in->opcode <= 0x17) || (in->opcode >= 0x20 && in->opcode <= 0x22) || in->opcode == 0x60 ||
               in->opcode == 0x61;
    return in->map == 1 && (in->opcode == 0x6e || in->opcode == 0x7e || in->opcode == 0x2a || in->opcode == 0x2c || in->opcode == 0x2d);
}

/* The guest's instruction for 64-bit code, with [RSI] and RAX in place of its memory and general-register operands. */
static bool encode(const struct x86_insn *in, bool mode64, struct use *u)
{
    uint8_t *p = u->enc, modrm = in->modrm, rex = mode64 ? in->rex & 0xf : 0;
    unsigned immlen = in->len - in->imm_off;

    /* Outside 64-bit mode VEX.W still selects the operation, but never the width of a general register or its memory form. */
    if (!mode64 && in->vex == 3 && (in->bytes[in->opcode_off - 1] & 0x80) && !w_is_width(in))
        rex |= 8;
    if (in->has_modrm) {
        if (modrm < 0xc0) {
            modrm = (modrm & 0x38) | 6;
            rex &= 0xc;
        }
        rex &= 0xd; /* no index */
        if (u->gpr >= 0) {
            if (gpr_in_rm(in)) {
                if (modrm >= 0xc0) {
                    modrm &= 0xf8;
                    rex &= 0xe;
                }
            } else {
                modrm &= 0xc7;
                rex &= 0xb;
            }
        }
    }
    if (in->vex) {
        uint8_t last = in->bytes[in->opcode_off - 1]; /* vvvv, L, pp at the same bits in both forms */

        if (!mode64)
            last |= 0x40; /* vvvv has three bits there */
        *p++ = 0xc4;
        *p++ = (uint8_t)((~rex & 7) << 5 | in->map);
        *p++ = (uint8_t)((rex & 8) << 4 | (last & 0x7f));
    } else {
        if (in->pfx)
            *p++ = in->pfx;
        if (rex)
            *p++ = 0x40 | rex;
        if (in->map)
            *p++ = 0x0f;
        if (in->map == 2)
            *p++ = 0x38;
        else if (in->map == 3)
            *p++ = 0x3a;
    }
    *p++ = in->opcode;
    if (in->has_modrm)
        *p++ = modrm;
    if (immlen > 2)
        return false;
    for (unsigned i = 0; i < immlen; i++) {
        uint8_t v = in->bytes[in->imm_off + i];

        /* A register in imm8[7:4] has three bits outside 64-bit mode; only VEX rows with such an operand use map 3, W = 0, 4xH. */
        if (!mode64 && in->vex && in->map == 3 && in->opcode >= 0x4a && in->opcode <= 0x4c)
            v &= 0x7f;
        *p++ = v;
    }
    u->len = (uint8_t)(p - u->enc);
    return true;
}

static bool vex_aligned(unsigned op)
{
    switch (op) {
    case X86_OP_VMOVAPS:
    case X86_OP_VMOVAPD:
    case X86_OP_VMOVDQA:
    case X86_OP_VMOVNTPS:
    case X86_OP_VMOVNTPD:
    case X86_OP_VMOVNTDQ:
    case X86_OP_VMOVNTDQA:
        return true;
    default:
        return false;
    }
}

static void emit_x87(struct asmbuf *a, struct x86_thunk *t, const struct x86_thunks *ts, const struct use *u, const uint8_t *start)
{
    b(a, 0x48), b(a, 0x0f), b(a, 0xae); /* fxrstor64 */
    at_cpu(a, 1, offsetof(struct x86_cpu, fpu));
    if (u->flags_r) {
        b(a, 0x66), b(a, 0x8b); /* mov ax, cc; sahf */
        at_cpu(a, 0, offsetof(struct x86_cpu, cc));
        b(a, 0x9e);
    }
    t->insn_off = (uint16_t)(a->p - start);
    bytes(a, u->enc, u->len);
    if (u->flags_w)
        flags_store(a);
    b(a, 0x48), b(a, 0x0f), b(a, 0xae); /* fxsave64 */
    at_cpu(a, 0, offsetof(struct x86_cpu, fpu));
    mxcsr_host(a, ts); /* the caller cleans the x87 state */
}

static void emit_vec(struct asmbuf *a, struct x86_thunk *t, const struct x86_thunks *ts, const struct use *u, const struct x86_insn *in,
                     const uint8_t *start)
{
    bool wide = in->vex && in->vexl;

    if (t->flags & X86_TH_MXCSR) {
        b(a, 0x0f), b(a, 0xae);
        at_cpu(a, 2, OFF_MXCSR);
    }
    for (unsigned n = 0; n < 16; n++) {
        if (u->vec_ld & 1u << n) {
            if (in->vex)
                vmovups(a, false, n);
            else
                movups(a, false, n);
            if (wide)
                vhalf(a, false, n);
        }
        if (n < 8 && (u->mm_ld & 1u << n)) {
            b(a, 0x0f), b(a, 0x6f);
            at_cpu(a, n, OFF_ST(n));
        }
    }
    if (u->gpr >= 0)
        mov_gpr(a, false, 0, (unsigned)u->gpr);
    for (unsigned n = 0; n < 3; n++)
        if (u->gpr_ld & 1u << n)
            mov_gpr(a, false, n, n);
    t->insn_off = (uint16_t)(a->p - start);
    bytes(a, u->enc, u->len);
    for (unsigned n = 0; n < 16; n++) {
        if (u->vec_st & 1u << n) {
            if (in->vex) {
                vmovups(a, true, n);
                vhalf(a, true, n); /* zeros after a 128-bit operation */
            } else {
                movups(a, true, n);
            }
        }
        if (n < 8 && (u->mm_st & 1u << n)) {
            b(a, 0x0f), b(a, 0x7f);
            at_cpu(a, n, OFF_ST(n));
            b(a, 0x66), b(a, 0xc7); /* bits 79:64 become ones */
            at_cpu(a, 0, OFF_ST(n) + 8);
            b(a, 0xff), b(a, 0xff);
        }
    }
    if (u->gpr >= 0 && u->gpr_w)
        mov_gpr(a, true, 0, (unsigned)u->gpr);
    for (unsigned n = 0; n < 3; n++)
        if (u->gpr_st & 1u << n)
            mov_gpr(a, true, n, n);
    if (u->flags_w)
        flags_store(a);
    if (u->mm_ld)
        b(a, 0x0f), b(a, 0x77);
    if (wide)
        b(a, 0xc5), b(a, 0xf8), b(a, 0x77);
    if (t->flags & X86_TH_MXCSR) {
        b(a, 0x0f), b(a, 0xae);
        at_cpu(a, 3, OFF_MXCSR);
        mxcsr_host(a, ts);
    }
}

const struct x86_thunk *x86_thunk_make(struct x86_cpu *c, const struct x86_insn *in)
{
    const struct x86_isa_row *row = &x86_isa[in->row];
    struct use u = {.gpr = -1};
    struct x86_thunks *ts;
    struct x86_thunk *t;
    struct asmbuf a;
    uint8_t key[sizeof(t->key)] = {0}, *start;
    uint32_t h = 0;
    unsigned i;

    if (x86_fpu_init(c))
        return NULL;
    ts = c->thunks;
    gather_use(in, row, &u);
    if (!encode(in, c->mode == X86_MODE_64, &u))
        return NULL;
    memcpy(key, u.enc, u.len);
    key[16] = (uint8_t)u.gpr;
    key[17] = (uint8_t)in->row;
    key[18] = (uint8_t)(in->row >> 8);
    key[19] = u.len;
    for (i = 0; i < sizeof(key); i++)
        h = (h ^ key[i]) * 0x01000193u;
    h = (h ^ h >> 15) & (X86_THUNK_HASH - 1);
    for (i = ts->hash[h]; i; i = ts->t[i - 1].next)
        if (!memcmp(ts->t[i - 1].key, key, sizeof(key)))
            goto found;

    if (ts->n == X86_THUNK_MAX || ts->used + THUNK_ROOM > CODE_SIZE) {
        uint32_t r[4];

        memset(ts->hash, 0, sizeof(ts->hash));
        ts->n = 0;
        ts->used = 64;
        ts->gen++;
        /* The code about to be replaced may be in the pipeline under its other address: serialise (SDM Vol. 3A, 9.1.3). */
        __cpuid(0, r[0], r[1], r[2], r[3]);
    }
    i = ++ts->n;
    t = &ts->t[i - 1];
    *t = (struct x86_thunk){.ac = 1, .align = 1};
    memcpy(t->key, key, sizeof(key));
    for (unsigned k = 0; k < in->nopnd; k++) {
        const struct x86_operand *o = &in->opnd[k];

        if (o->kind == X86_OPND_MEM) {
            if (o->access & X86_ACC_R)
                t->flags |= X86_TH_MEM_R;
            if (o->access & X86_ACC_W)
                t->flags |= X86_TH_MEM_W;
            t->size = (uint8_t)o->size;
            t->ac = o->size == 10 ? 8 : o->size <= 8 && o->size ? (uint8_t)o->size : 1;
            if (in->op == X86_OP_VCVTPH2PS || in->op == X86_OP_VCVTPS2PH)
                t->ac = 1; /* exception class 11: no #AC */
            if (in->vex ? vex_aligned(in->op) : (row->attr & X86_ATTR_ALIGN16) != 0)
                t->align = t->size;
        }
        if (o->kind == X86_OPND_MM)
            t->flags |= X86_TH_MMX;
        if (o->kind == X86_OPND_VEC)
            t->flags |= X86_TH_XMM;
    }
    if (in->vex)
        t->flags = (t->flags & ~X86_TH_XMM) | X86_TH_VEX;
    if (row->attr & X86_ATTR_FPEXC)
        t->flags |= X86_TH_MXCSR;

    start = ts->rw + ts->used;
    a = (struct asmbuf){start, ts->rx + ts->used};
    t->code = (void (*)(struct x86_cpu *, void *))(uintptr_t)a.rx;
    if (row->attr & X86_ATTR_X87)
        emit_x87(&a, t, ts, &u, start);
    else
        emit_vec(&a, t, ts, &u, in, start);
    b(&a, 0xc3);
    ts->used = (uint32_t)((a.p - ts->rw + 15) & ~15u);
    t->next = ts->hash[h];
    ts->hash[h] = (uint16_t)i;
found:
    /* Decoded instructions are written here by contract (x86/insn.h). */
    ((struct x86_insn *)(uintptr_t)in)->thunk = (uint64_t)ts->gen << 32 | (i - 1);
    return &ts->t[i - 1];
}
