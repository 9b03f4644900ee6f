/*
 * Our decoder against Zydis on one byte string. Everything that may differ is
 * written down as a rule here, with its reason; anything else is a failure.
 */
#ifndef TESTS_DECODE_COMPARE_H
#define TESTS_DECODE_COMPARE_H

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "x86/decode.h"

struct cmp {
    ZydisDecoder dec[4]; /* 16, 32, 64, real */
    /* The last comparison: */
    struct x86_insn in;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
    char why[200]; /* empty: agreed */
    uint64_t ok, refused, ruled; /* both decode it, both refuse, one of the rules */
};

enum cmp_mode { CMP_16, CMP_32, CMP_64, CMP_REAL };

static inline void cmp_init(struct cmp *c)
{
    static const struct {
        ZydisMachineMode mode;
        ZydisStackWidth stack;
    } modes[4] = {
        [CMP_16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
        [CMP_32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [CMP_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
        [CMP_REAL] = {ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16},
    };
    memset(c, 0, sizeof(*c));
    for (int i = 0; i < 4; i++) {
        ZydisDecoderInit(&c->dec[i], modes[i].mode, modes[i].stack);
        /* Not presented, so their encodings are the hint NOPs they were before. */
        ZydisDecoderEnableMode(&c->dec[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(&c->dec[i], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        ZydisDecoderEnableMode(&c->dec[i], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    }
}

/* --- instructions Zydis knows and no machine of ours has ----------------- */

static inline bool cmp_not_ours(const ZydisDecodedInstruction *z)
{
    switch (z->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX: case ZYDIS_INSTRUCTION_ENCODING_MVEX: case ZYDIS_INSTRUCTION_ENCODING_XOP:
    case ZYDIS_INSTRUCTION_ENCODING_3DNOW:
        return true;
    default: break;
    }
    switch (z->meta.isa_set) {
    case ZYDIS_ISA_SET_AMD: case ZYDIS_ISA_SET_AMD3DNOW: case ZYDIS_ISA_SET_AMD_INVLPGB: case ZYDIS_ISA_SET_SVM: case ZYDIS_ISA_SET_SNP:
    case ZYDIS_ISA_SET_MONITORX: case ZYDIS_ISA_SET_CLZERO: case ZYDIS_ISA_SET_RDPRU: case ZYDIS_ISA_SET_MCOMMIT: case ZYDIS_ISA_SET_SSE4A:
    case ZYDIS_ISA_SET_FMA4: case ZYDIS_ISA_SET_XOP: case ZYDIS_ISA_SET_TBM: case ZYDIS_ISA_SET_LWP: case ZYDIS_ISA_SET_PADLOCK_ACE:
    case ZYDIS_ISA_SET_PADLOCK_PHE: case ZYDIS_ISA_SET_PADLOCK_PMM: case ZYDIS_ISA_SET_PADLOCK_RNG:
    case ZYDIS_ISA_SET_AMX_BF16: case ZYDIS_ISA_SET_AMX_INT8: case ZYDIS_ISA_SET_AMX_TILE: case ZYDIS_ISA_SET_AVX_VNNI:
    case ZYDIS_ISA_SET_AVX512F_KOP: case ZYDIS_ISA_SET_AVX512BW_KOP: case ZYDIS_ISA_SET_AVX512DQ_KOP: /* mask registers, VEX-encoded */
    case ZYDIS_ISA_SET_KNC_MISC: case ZYDIS_ISA_SET_KNCE: case ZYDIS_ISA_SET_KNCJKBR: case ZYDIS_ISA_SET_KNCSTREAM:
    case ZYDIS_ISA_SET_KNCV: case ZYDIS_ISA_SET_KNC_PF_HINT:
    case ZYDIS_ISA_SET_CET: case ZYDIS_ISA_SET_ENQCMD: case ZYDIS_ISA_SET_HRESET: case ZYDIS_ISA_SET_KEYLOCKER:
    case ZYDIS_ISA_SET_KEYLOCKER_WIDE: case ZYDIS_ISA_SET_PCONFIG: case ZYDIS_ISA_SET_PT: case ZYDIS_ISA_SET_RTM: case ZYDIS_ISA_SET_TDX:
    case ZYDIS_ISA_SET_TSX_LDTRK: case ZYDIS_ISA_SET_UINTR: case ZYDIS_ISA_SET_WAITPKG: case ZYDIS_ISA_SET_PREFETCHWT1:
        return true;
    default: return false;
    }
}

/* --- names ------------------------------------------------------------ */

static inline const char *cmp_by_size(unsigned size, const char *s1, const char *s2, const char *s4, const char *s8)
{
    return size == 1 ? s1 : size == 2 ? s2 : size == 4 ? s4 : s8;
}

/* The name Zydis gives to what we decoded. */
static inline const char *cmp_name(const struct x86_insn *in, char *buf)
{
    static const struct {
        uint16_t op;
        const char *name;
    } same[] = {
        {X86_OP_MOV_CR, "mov"},   {X86_OP_MOV_DR, "mov"},     {X86_OP_MOV_SEG, "mov"},  {X86_OP_PUSH_SEG, "push"}, {X86_OP_POP_SEG, "pop"},
        {X86_OP_CALL_FAR, "call"}, {X86_OP_JMP_FAR, "jmp"},   {X86_OP_RET_FAR, "ret"},  {X86_OP_JAE, "jnb"},       {X86_OP_JNE, "jnz"},
        {X86_OP_JE, "jz"},        {X86_OP_JA, "jnbe"},        {X86_OP_JGE, "jnl"},      {X86_OP_JG, "jnle"},       {X86_OP_SETAE, "setnb"},
        {X86_OP_SETNE, "setnz"},  {X86_OP_SETE, "setz"},      {X86_OP_SETA, "setnbe"},  {X86_OP_SETGE, "setnl"},   {X86_OP_SETG, "setnle"},
        {X86_OP_CMOVAE, "cmovnb"}, {X86_OP_CMOVNE, "cmovnz"}, {X86_OP_CMOVE, "cmovz"},  {X86_OP_CMOVA, "cmovnbe"}, {X86_OP_CMOVGE, "cmovnl"},
        {X86_OP_CMOVG, "cmovnle"}, {X86_OP_ENDBR32, "nop"},   {X86_OP_ENDBR64, "nop"},
    };
    for (unsigned i = 0; i < sizeof(same) / sizeof(same[0]); i++)
        if (same[i].op == in->op)
            return same[i].name;
    unsigned size = in->opnd[0].size;
    switch (in->op) {
    case X86_OP_MOVS: return cmp_by_size(size, "movsb", "movsw", "movsd", "movsq");
    case X86_OP_CMPS: return cmp_by_size(size, "cmpsb", "cmpsw", "cmpsd", "cmpsq");
    case X86_OP_STOS: return cmp_by_size(size, "stosb", "stosw", "stosd", "stosq");
    case X86_OP_LODS: return cmp_by_size(size, "lodsb", "lodsw", "lodsd", "lodsq");
    case X86_OP_SCAS: return cmp_by_size(size, "scasb", "scasw", "scasd", "scasq");
    case X86_OP_INS: return cmp_by_size(size, "insb", "insw", "insd", "");
    case X86_OP_OUTS: return cmp_by_size(in->opnd[1].size, "outsb", "outsw", "outsd", "");
    case X86_OP_CBW: return cmp_by_size(in->opsize, "", "cbw", "cwde", "cdqe");
    case X86_OP_CWD: return cmp_by_size(in->opsize, "", "cwd", "cdq", "cqo");
    case X86_OP_PUSHF: return cmp_by_size(in->opsize, "", "pushf", "pushfd", "pushfq");
    case X86_OP_POPF: return cmp_by_size(in->opsize, "", "popf", "popfd", "popfq");
    case X86_OP_PUSHA: return cmp_by_size(in->opsize, "", "pusha", "pushad", "");
    case X86_OP_POPA: return cmp_by_size(in->opsize, "", "popa", "popad", "");
    case X86_OP_IRET: return cmp_by_size(in->opsize, "", "iret", "iretd", "iretq");
    case X86_OP_JCXZ: return cmp_by_size(in->addrsize, "", "jcxz", "jecxz", "jrcxz");
    }
    const char *n = x86_op_name(in->op);
    unsigned i = 0;
    for (; n[i] && i < 31; i++)
        buf[i] = n[i] >= 'A' && n[i] <= 'Z' ? n[i] + 32 : n[i];
    buf[i] = 0;
    return buf;
}

/* Names of ours for what Zydis splits or lumps. */
static inline bool cmp_name_rule(const struct x86_insn *in, const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_FENI8087_NOP: case ZYDIS_MNEMONIC_FDISI8087_NOP: case ZYDIS_MNEMONIC_FSETPM287_NOP: return in->op == X86_OP_FNOP;
    case ZYDIS_MNEMONIC_FSTPNCE: return in->op == X86_OP_FSTP;
    case ZYDIS_MNEMONIC_PREFETCHWT1: return in->op == X86_OP_PREFETCH; /* a hint like its neighbours where it is not presented */
    case ZYDIS_MNEMONIC_WBINVD: return in->op == X86_OP_WBNOINVD; /* unknown to Zydis 4.0 */
    default: return false;
    }
}

/* --- registers ---------------------------------------------------------- */

static inline ZydisRegister cmp_gpr(unsigned reg, unsigned size)
{
    ZydisRegisterClass cl = size == 2 ? ZYDIS_REGCLASS_GPR16 : size == 4 ? ZYDIS_REGCLASS_GPR32 : ZYDIS_REGCLASS_GPR64;
    if (size == 1)
        return reg < 4 ? ZYDIS_REGISTER_AL + reg : ZYDIS_REGISTER_SPL + (reg - 4);
    return ZydisRegisterEncode(cl, reg);
}

static inline ZydisRegister cmp_reg(const struct x86_operand *o, const ZydisDecodedOperand *z)
{
    switch (o->kind) {
    case X86_OPND_GPR: return cmp_gpr(o->reg, o->size);
    case X86_OPND_GPR8H: return ZYDIS_REGISTER_AH + o->reg;
    case X86_OPND_SEG: return ZydisRegisterEncode(ZYDIS_REGCLASS_SEGMENT, o->reg);
    case X86_OPND_CR: return ZydisRegisterEncode(ZYDIS_REGCLASS_CONTROL, o->reg);
    case X86_OPND_DR: return ZydisRegisterEncode(ZYDIS_REGCLASS_DEBUG, o->reg);
    case X86_OPND_ST: return ZYDIS_REGISTER_ST0 + o->reg;
    case X86_OPND_MM: return ZYDIS_REGISTER_MM0 + o->reg;
    case X86_OPND_VEC: return (o->size == 32 ? ZYDIS_REGISTER_YMM0 : ZYDIS_REGISTER_XMM0) + o->reg;
    }
    return ZYDIS_REGISTER_NONE;
}

static inline bool cmp_mem(struct cmp *c, const ZydisDecodedOperand *z, const struct x86_operand *o)
{
    const struct x86_insn *in = &c->in;
    const struct x86_memref *m = &in->mem;
    struct x86_memref other;
    if (o->reg == X86_RDI && m->base == X86_RSI) { /* the ES:rDI side of MOVS and CMPS */
        other = (struct x86_memref){.seg = X86_ES, .base = X86_RDI, .index = X86_REG_NONE, .scale = 1};
        m = &other;
    }
    bool vsib = z->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    ZydisRegister seg = ZydisRegisterEncode(ZYDIS_REGCLASS_SEGMENT, m->seg), base = ZYDIS_REGISTER_NONE, index = ZYDIS_REGISTER_NONE;
    if (m->base == X86_REG_RIP)
        base = in->addrsize == 8 ? ZYDIS_REGISTER_RIP : ZYDIS_REGISTER_EIP;
    else if (m->base != X86_REG_NONE)
        base = cmp_gpr(m->base, in->addrsize);
    if (m->index != X86_REG_NONE && !vsib)
        index = cmp_gpr(m->index, in->addrsize);
    else if (vsib)
        index = ZydisRegisterEncode(ZydisRegisterGetClass(z->mem.index), m->index);
    if (seg != z->mem.segment && z->mem.type != ZYDIS_MEMOP_TYPE_AGEN) { /* LEA has no segment to Zydis */
        snprintf(c->why, sizeof(c->why), "segment %d / %s", m->seg, ZydisRegisterGetString(z->mem.segment));
        return false;
    }
    /* Zydis 4.0 has R13D as base, and no displacement, where SIB.base 101 with mod 00 means disp32 alone, REX.B or not, when
     * the address size is 32 in 64-bit mode. The CPU computes disp32 (LEA shows it). */
    bool r13d = in->addrsize == 4 && base == ZYDIS_REGISTER_NONE && z->mem.base == ZYDIS_REGISTER_R13D && in->modrm < 0x40 && (in->rex & 1);
    if (r13d)
        base = ZYDIS_REGISTER_R13D;
    unsigned scale = index == ZYDIS_REGISTER_NONE ? 0 : m->scale;
    if (base != z->mem.base || index != z->mem.index || scale != z->mem.scale) {
        snprintf(c->why, sizeof(c->why), "base %d index %d scale %d / %s %s %d", m->base, m->index, m->scale,
                 ZydisRegisterGetString(z->mem.base), ZydisRegisterGetString(z->mem.index), z->mem.scale);
        return false;
    }
    /* Displacements agree modulo the address size: Zydis sign-extends, so do we. */
    uint64_t mask = in->addrsize == 8 ? ~0ull : in->addrsize == 4 ? 0xffffffff : 0xffff;
    if (((uint64_t)m->disp ^ (uint64_t)z->mem.disp.value) & mask && !r13d) {
        snprintf(c->why, sizeof(c->why), "disp %llx / %llx", (long long)m->disp, (long long)z->mem.disp.value);
        return false;
    }
    return true;
}

/* Memory sizes where Zydis says something else on purpose. */
static inline bool cmp_size_rule(const struct x86_insn *in)
{
    switch (in->op) {
    /* The image's size depends on XCR0: 0 with us, the largest known with Zydis. */
    case X86_OP_XSAVE: case X86_OP_XSAVE64: case X86_OP_XRSTOR: case X86_OP_XRSTOR64: case X86_OP_XSAVEOPT: case X86_OP_XSAVEOPT64:
    case X86_OP_XSAVEC: case X86_OP_XSAVEC64: case X86_OP_XSAVES: case X86_OP_XSAVES64: case X86_OP_XRSTORS: case X86_OP_XRSTORS64:
    /* m8 in the SDM, a line of 64 bytes with Zydis. */
    case X86_OP_CLFLUSH: case X86_OP_CLFLUSHOPT: case X86_OP_CLWB:
    /* No access, only an address. */
    case X86_OP_INVLPG:
    /* With 66 the SDM has a word as source, Zydis a doubleword. */
    case X86_OP_MOVSXD:
        return true;
    default: return false;
    }
}

/* Registers whose upper bits do not matter: the selector of LAR and LSL, masks of a few bits. */
static inline bool cmp_reg_rule(const struct x86_insn *in, const struct x86_operand *o, ZydisRegister z)
{
    if (o->kind != X86_OPND_GPR || ZydisRegisterGetId(z) != o->reg)
        return false;
    switch (in->op) {
    case X86_OP_LAR: case X86_OP_LSL: return o->size == 2;
    case X86_OP_MOVMSKPS: case X86_OP_MOVMSKPD: case X86_OP_VMOVMSKPS: case X86_OP_VMOVMSKPD: return o->size == 4;
    default: return false;
    }
}

/* Register reads Zydis does not mention. */
static inline bool cmp_access_rule(const struct x86_insn *in, const struct x86_operand *o, unsigned acc)
{
    if (o->access != (X86_ACC_R | X86_ACC_W) || acc != X86_ACC_W)
        return false;
    /* Legacy SSE keeps the part of the register it does not write. */
    if (o->kind == X86_OPND_VEC && !in->vex && o->size < 16)
        return true;
    switch (in->op) {
    case X86_OP_MOVHPS: case X86_OP_MOVHPD: case X86_OP_MOVLHPS: case X86_OP_MOVHLPS:
    case X86_OP_BSF: case X86_OP_BSR: /* a zero source leaves the destination alone */
    case X86_OP_LAR: case X86_OP_LSL: /* an invalid selector does */
        return true;
    default: return false;
    }
}

static inline bool cmp_operand(struct cmp *c, unsigned i, const struct x86_operand *o, const ZydisDecodedOperand *z)
{
    const struct x86_insn *in = &c->in;
    uint64_t v;
    switch (z->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        if (cmp_reg(o, z) != z->reg.value && !cmp_reg_rule(in, o, z->reg.value)) {
            snprintf(c->why, sizeof(c->why), "operand %u: kind %d reg %d size %d / %s", i, o->kind, o->reg, o->size,
                     ZydisRegisterGetString(z->reg.value));
            return false;
        }
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        if (o->kind != X86_OPND_MEM) {
            snprintf(c->why, sizeof(c->why), "operand %u: kind %d / memory", i, o->kind);
            return false;
        }
        if (!cmp_mem(c, z, o))
            return false;
        if (z->mem.type != ZYDIS_MEMOP_TYPE_AGEN && o->size * 8 != z->size && !cmp_size_rule(in)) {
            snprintf(c->why, sizeof(c->why), "operand %u: memory size %d / %d", i, o->size * 8, z->size);
            return false;
        }
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        v = (uint64_t)(o->kind == X86_OPND_IMM2 ? in->imm2 : o->kind == X86_OPND_ONE ? 1 : in->imm);
        if (o->kind != X86_OPND_IMM && o->kind != X86_OPND_IMM2 && o->kind != X86_OPND_REL && o->kind != X86_OPND_ONE) {
            snprintf(c->why, sizeof(c->why), "operand %u: kind %d / immediate", i, o->kind);
            return false;
        }
        {
            /* Signs of narrow immediates mean nothing beyond the operand they act on. */
            unsigned bits = o->size * 8;
            if (z->imm.is_signed && in->opnd[0].kind != X86_OPND_IMM && in->opnd[0].kind != X86_OPND_REL && in->opnd[0].size <= 8)
                bits = in->opnd[0].size * 8;
            else if (z->imm.is_signed)
                bits = 64;
            uint64_t mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
            if ((v ^ z->imm.value.u) & mask || z->imm.is_relative != (o->kind == X86_OPND_REL)) {
                snprintf(c->why, sizeof(c->why), "operand %u: immediate %llx / %llx", i, (long long)v, (long long)z->imm.value.u);
                return false;
            }
        }
        break;
    case ZYDIS_OPERAND_TYPE_POINTER:
        if (o->kind != X86_OPND_FAR || (uint32_t)in->imm != z->ptr.offset || (uint16_t)in->imm2 != z->ptr.segment) {
            snprintf(c->why, sizeof(c->why), "operand %u: far pointer", i);
            return false;
        }
        break;
    default: break;
    }
    /* Access. A conditional write keeps the old value otherwise, so it reads as well. */
    unsigned acc = 0;
    if (z->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        acc |= X86_ACC_R;
    if (z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        acc |= X86_ACC_W;
    if (z->actions & ZYDIS_OPERAND_ACTION_CONDWRITE)
        acc |= X86_ACC_R;
    /* REP with a count of 0 writes nothing: a conditional write to Zydis. */
    if (in->rep && (z->actions & ZYDIS_OPERAND_ACTION_CONDWRITE))
        acc &= ~X86_ACC_R | o->access;
    if (acc != o->access && o->kind != X86_OPND_REL && !(o->kind == X86_OPND_MEM && o->size == 0) && !cmp_access_rule(in, o, acc)) {
        snprintf(c->why, sizeof(c->why), "operand %u: access %d / %d", i, o->access, acc);
        return false;
    }
    return true;
}

/* String instructions: Zydis hides their operands and lists more registers. */
static inline bool cmp_string(struct cmp *c)
{
    const struct x86_insn *in = &c->in;
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct x86_operand *o = &in->opnd[i];
        unsigned k = 0;
        for (; k < c->zi.operand_count; k++) {
            const ZydisDecodedOperand *z = &c->zo[k];
            if (o->kind == X86_OPND_GPR && z->type == ZYDIS_OPERAND_TYPE_REGISTER && z->reg.value == cmp_reg(o, z))
                break;
            if (o->kind == X86_OPND_MEM && z->type == ZYDIS_OPERAND_TYPE_MEMORY && z->mem.base == cmp_gpr(o->reg, in->addrsize))
                break;
        }
        if (k == c->zi.operand_count) {
            snprintf(c->why, sizeof(c->why), "string operand %u not found", i);
            return false;
        }
        if (o->kind == X86_OPND_MEM && !cmp_operand(c, i, o, &c->zo[k]))
            return false;
    }
    unsigned rep = c->zi.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE) ? 0xf3 : c->zi.attributes & ZYDIS_ATTRIB_HAS_REPNE ? 0xf2 : 0;
    if (rep != in->rep) {
        snprintf(c->why, sizeof(c->why), "rep %x / %x", in->rep, rep);
        return false;
    }
    return true;
}

/* Instructions only one side decodes. */
static inline const char *cmp_only_zydis(struct cmp *c, enum cmp_mode mode)
{
    if (cmp_not_ours(&c->zi))
        return "not presented";
    /* VMX, SMX and SGX are not recognised in real mode (SDM Vol. 3C, 30.3); all are #UD for us anyway. */
    if (mode == CMP_REAL && c->in.op != X86_OP_INVALID && x86_isa[c->in.row].feature == X86_FEAT_NEVER)
        return "VMX in real mode";
    return NULL;
}

static inline const char *cmp_only_ours(struct cmp *c, enum cmp_mode mode)
{
    /* #GP(0) in real mode, not #UD (SDM Vol. 2B). */
    if (mode == CMP_REAL && (c->in.op == X86_OP_SYSENTER || c->in.op == X86_OP_SYSEXIT))
        return "SYSENTER in real mode";
    return NULL;
}

static inline bool cmp_decode(struct cmp *c, const uint8_t *bytes, unsigned n, enum cmp_mode mode)
{
    char buf[32];
    c->why[0] = 0;
    enum x86_mode_bits m = mode == CMP_64 ? X86_MODE_64 : mode == CMP_32 ? X86_MODE_32 : X86_MODE_16;
    enum x86_decode_result res = x86_decode(&c->in, bytes, n, m, mode == CMP_REAL, NULL);
    ZyanStatus zs = ZydisDecoderDecodeFull(&c->dec[mode], bytes, n, &c->zi, c->zo);
    const struct x86_insn *in = &c->in;

    if (res != X86_DEC_OK && !ZYAN_SUCCESS(zs)) {
        c->refused++;
        return true;
    }
    if (res != X86_DEC_OK || !ZYAN_SUCCESS(zs)) {
        const char *rule = res != X86_DEC_OK ? cmp_only_zydis(c, mode) : cmp_only_ours(c, mode);
        if (rule) {
            c->ruled++;
            return true;
        }
        if (res != X86_DEC_OK)
            snprintf(c->why, sizeof(c->why), "only Zydis: result %d / %s", res, ZydisMnemonicGetString(c->zi.mnemonic));
        else
            snprintf(c->why, sizeof(c->why), "only ours: %s / %x", x86_op_name(in->op), zs);
        return false;
    }
    c->ok++;
    const char *zn = ZydisMnemonicGetString(c->zi.mnemonic), *n1 = cmp_name(in, buf);
    if (strcmp(zn, n1) && !cmp_name_rule(in, &c->zi)) {
        snprintf(c->why, sizeof(c->why), "name %s / %s", n1, zn);
        return false;
    }
    if (in->len != c->zi.length) {
        snprintf(c->why, sizeof(c->why), "%s: length %d / %d", n1, in->len, c->zi.length);
        return false;
    }
    /* Zydis forces the address size of SGX instructions. */
    bool sgx = c->zi.meta.isa_set == ZYDIS_ISA_SET_SGX || c->zi.meta.isa_set == ZYDIS_ISA_SET_SGX_ENCLV;
    if (in->addrsize * 8 != c->zi.address_width && !sgx) {
        snprintf(c->why, sizeof(c->why), "%s: address size %d / %d", n1, in->addrsize * 8, c->zi.address_width);
        return false;
    }
    const struct x86_isa_row *row = &x86_isa[in->row];
    if (row->attr & X86_ATTR_STRING)
        return cmp_string(c);
    /* Zydis lists operands of hint NOPs other than the documented one. */
    if (c->zi.mnemonic == ZYDIS_MNEMONIC_NOP && in->map == 1)
        return true;
    unsigned k = 0;
    for (unsigned i = 0; i < in->nopnd; i++) {
        if (in->opnd[i].implicit)
            continue;
        if (k >= c->zi.operand_count_visible) {
            snprintf(c->why, sizeof(c->why), "%s: more operands than %d", n1, k);
            return false;
        }
        /* Of the one-operand compares, Zydis shows ST(0) for FUCOMP alone. */
        if (!cmp_operand(c, k, &in->opnd[i], &c->zo[in->op == X86_OP_FUCOMP ? k + 1 : k]))
            return false;
        k++;
    }
    if (k != c->zi.operand_count_visible && in->op != X86_OP_FUCOMP) {
        snprintf(c->why, sizeof(c->why), "%s: operands %d / %d", n1, k, c->zi.operand_count_visible);
        return false;
    }
    return true;
}

static inline enum x86_decode_result cmp_ours(struct x86_insn *in, const uint8_t *bytes, unsigned n, enum cmp_mode mode)
{
    enum x86_mode_bits m = mode == CMP_64 ? X86_MODE_64 : mode == CMP_32 ? X86_MODE_32 : X86_MODE_16;
    return x86_decode(in, bytes, n, m, mode == CMP_REAL, NULL);
}

/* What the decoder promises about missing bytes: it asks for more below the length it reports, and never at it; 15 bytes
 * always suffice. */
static inline bool cmp_bounds(struct cmp *c, const uint8_t *bytes, unsigned n, enum cmp_mode mode)
{
    struct x86_insn a, b;
    enum x86_decode_result res = cmp_ours(&a, bytes, n, mode);
    if (res == X86_DEC_MORE)
        return n < X86_MAX_INSN || !snprintf(c->why, sizeof(c->why), "wants more than 15 bytes");
    unsigned len = res == X86_DEC_GP ? X86_MAX_INSN : a.len;
    if (len == 0 || len > X86_MAX_INSN || len > n) {
        snprintf(c->why, sizeof(c->why), "length %u of %u", len, n);
        return false;
    }
    for (unsigned k = 0; k <= len; k++) {
        enum x86_decode_result r = cmp_ours(&b, bytes, k, mode);
        if (r != (k < len ? X86_DEC_MORE : res)) {
            snprintf(c->why, sizeof(c->why), "with %u of %u bytes: %d, with all: %d", k, len, r, res);
            return false;
        }
    }
    if (memcmp(&a, &b, sizeof(a)) && res != X86_DEC_GP) {
        snprintf(c->why, sizeof(c->why), "bytes beyond the length matter");
        return false;
    }
    return true;
}

#endif
