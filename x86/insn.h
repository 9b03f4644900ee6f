/*
 * A decoded instruction, as the decoder leaves it and every consumer reads it
 * (interpreter, x86 semantics, translator, classifier, trace, tests).
 *
 * The opcode numbers (enum x86_op) are the mnemonics of x86/isa.def, one per
 * SDM mnemonic: X86_OP_ADD, X86_OP_MOV, X86_OP_MOVAPS, ... Rows of isa.def (one
 * per encoding) are numbered too: insn.row indexes x86_isa[].
 */
#ifndef X86_INSN_H
#define X86_INSN_H

#include <stdbool.h>
#include <stdint.h>

#define X86_MAX_INSN 15 /* SDM Vol. 2A, 2.3.11: longer is #GP(0) */

/* Popek-Goldberg class (CACM 1974); a set of bits, 0 is innocuous. */
enum x86_pg {
    X86_PG_INNOCUOUS = 0,
    X86_PG_PRIVILEGED = 1 << 0, /* traps at CPL 3 */
    X86_PG_CONTROL = 1 << 1,    /* changes the configuration of resources */
    X86_PG_BEHAVIOUR = 1 << 2,  /* its result depends on that configuration */
    X86_PG_ROBIN_IRVINE = 1 << 3, /* one of the 17 of Robin & Irvine (2000) */
};

enum x86_seg_reg { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_NSEG, X86_SEG_NONE = 0xff };

enum x86_gpr {
    X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI,
    X86_R8, X86_R9, X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15,
    X86_NGPR,
    X86_REG_RIP = 0x20, /* only as insn.mem.base */
    X86_REG_NONE = 0xff,
};

enum x86_opnd_kind {
    X86_OPND_NONE,
    X86_OPND_GPR,   /* reg 0-15, size 1/2/4/8 */
    X86_OPND_GPR8H, /* reg 0-3 = AH CH DH BH, size 1 */
    X86_OPND_SEG,   /* reg = enum x86_seg_reg, size 2 */
    X86_OPND_CR,
    X86_OPND_DR,
    X86_OPND_ST,  /* x87 register ST(reg), size 10 */
    X86_OPND_MM,  /* size 8 */
    X86_OPND_VEC, /* XMM/YMM reg, size 16 or 32 (scalars: the size accessed, 4/8/..) */
    X86_OPND_MEM, /* insn.mem; size in bytes accessed, 0 if none (LEA, INVLPG); strings: reg = X86_RSI or X86_RDI */
    X86_OPND_IMM, /* insn.imm, sign- or zero-extended to 64 bits as the SDM says */
    X86_OPND_IMM2, /* insn.imm2: ENTER's second, EXTRQ-like second bytes */
    X86_OPND_REL, /* insn.imm, relative to the next instruction */
    X86_OPND_FAR, /* ptr16:16 / ptr16:32: offset in imm, selector in imm2 */
    X86_OPND_ONE, /* the constant 1 of D0/D1 shifts */
};

enum { X86_ACC_R = 1, X86_ACC_W = 2 };

struct x86_operand {
    uint8_t kind; /* enum x86_opnd_kind */
    uint8_t reg;
    uint8_t access;   /* X86_ACC_*; a vector register that is only partly replaced (upper bits kept) counts as read too */
    uint8_t implicit; /* not written in assembler syntax (CL of shifts is explicit, rAX of MUL is not) */
    uint16_t size;    /* bytes */
};

enum x86_rep { X86_REP_NONE, X86_REP_REPE = 0xf3, X86_REP_REPNE = 0xf2 };

struct x86_memref {
    uint8_t seg;   /* effective segment: override or default, enum x86_seg_reg */
    uint8_t base;  /* enum x86_gpr, X86_REG_RIP or X86_REG_NONE */
    uint8_t index; /* enum x86_gpr or X86_REG_NONE; a vector register number for VSIB */
    uint8_t scale; /* 1, 2, 4, 8 */
    int64_t disp;  /* sign-extended; for X86_REG_RIP relative to the next instruction */
};

#define X86_NOPND 6

struct x86_insn {
    uint16_t op;       /* enum x86_op (x86/decode.h) */
    uint16_t row;      /* index into x86_isa[] */
    uint8_t len;       /* bytes, 1..15 */
    uint8_t opsize;    /* effective operand size in bytes: 2, 4, 8 */
    uint8_t addrsize;  /* effective address size in bytes: 2, 4, 8 */
    uint8_t stacksize; /* stack operand width of PUSH/POP/CALL/RET/ENTER/LEAVE..: 2, 4, 8 */
    uint8_t lock;      /* F0 present (and legal) */
    uint8_t rep;       /* enum x86_rep when F2/F3 acts as REP; 0 when it is a mandatory prefix */
    uint8_t seg_override; /* enum x86_seg_reg or X86_SEG_NONE */
    uint8_t rex;       /* the REX byte, 0 if none (VEX: synthesised W/R/X/B with 0x40 clear) */
    uint8_t vex;       /* 0 legacy, 2 or 3: VEX prefix length */
    uint8_t vexl;      /* VEX.L */
    uint8_t modrm, has_modrm;
    uint8_t opcode;    /* last opcode byte */
    uint8_t map;       /* 0 one-byte, 1 0F, 2 0F38, 3 0F3A */
    uint8_t pfx;       /* mandatory prefix in force: 0, 0x66, 0xf2, 0xf3 */
    uint8_t nopnd;
    uint8_t opcode_off, modrm_off, imm_off; /* byte offsets inside bytes[]; imm_off == len if no immediate */
    struct x86_operand opnd[X86_NOPND];
    struct x86_memref mem; /* valid if some operand is X86_OPND_MEM; MOVS and CMPS: the rSI side (the other is ES:rDI) */
    int64_t imm, imm2;
    uint8_t bytes[X86_MAX_INSN + 1];
    /* Executors' own cache for this instruction (x86/thunk.c); zeroed by the decoder. Written through the const pointer an
     * executor gets: decoded instructions are private to one vCPU and never live in read-only memory. */
    uint64_t thunk;
};

/* What the decoder needs to know of the CPU mode. */
enum x86_mode_bits {
    X86_MODE_16,     /* real, virtual-8086, or 16-bit code segment (CS.D = 0) */
    X86_MODE_32,     /* CS.D = 1 */
    X86_MODE_64,     /* CS.L = 1 and EFER.LMA */
};

#endif
