/*
 * The decoder: bytes to struct x86_insn, driven by isa.def alone.
 */
#ifndef X86_DECODE_H
#define X86_DECODE_H

#include "x86/cpuid.h"
#include "x86/insn.h"

enum x86_op {
    X86_OP_INVALID,
#define X86_MNEMONIC(name) X86_OP_##name,
#include "x86/mnemonics.def"
#undef X86_MNEMONIC
    X86_NOP_COUNT,
};

/* An operand of a row: the SDM's addressing method and type (Vol. 2D, A.2) in a form tables can hold. */
struct x86_isa_opnd {
    uint8_t method; /* the SDM's letter; also Z register in the opcode, T ST(i), K memory at [reg], 'm' vector-indexed memory,
                       'r' fixed GPR, 'h' AH, 's' fixed segment register, 't' ST(0), 'x' XMM0, '1' the constant */
    uint8_t type;   /* 0: size says it; else a letter of isa.def: v z y r g p a s x h l e f k */
    uint8_t access; /* X86_ACC_* */
    uint8_t implicit;
    uint8_t reg;    /* methods r s K */
    uint8_t sext;   /* immediate is sign-extended */
    uint16_t size;  /* bytes when type is 0 */
};

enum x86_isa_pfx { X86_PFX_ANY, X86_PFX_NP, X86_PFX_66, X86_PFX_F3, X86_PFX_F2, X86_PFX_P66 };
enum x86_isa_mod { X86_MOD_ANY, X86_MOD_MEM, X86_MOD_REG, X86_MOD_IGNORED };
enum x86_isa_bit { X86_BIT_ANY, X86_BIT_0, X86_BIT_1, X86_BIT_0_64, X86_BIT_1_64 }; /* _64: taken as 0 outside 64-bit mode */

/* One row per encoding. */
struct x86_isa_row {
    uint16_t op;         /* enum x86_op */
    uint8_t pg;          /* enum x86_pg bits */
    uint8_t feature;     /* enum x86_feature; X86_ATTR_AVX rows need AVX besides */
    uint32_t attr;       /* X86_ATTR_* */
    /* Arithmetic flags + DF/IF.., RFLAGS positions (low 16). written: with a defined value; undefined is disjoint from it. */
    uint16_t flags_read, flags_written, flags_undefined;
    const char *name;    /* mnemonic in lower case */

    /* The encoding, so that tests can enumerate and synthesise. */
    uint8_t vex;    /* VEX form */
    uint8_t map;    /* 0 one-byte, 1 0F, 2 0F38, 3 0F3A */
    uint8_t pfx;    /* enum x86_isa_pfx */
    uint8_t opcode;
    uint8_t plus_r; /* opcode .. opcode+7 */
    uint8_t modrm;  /* has a ModRM byte */
    uint8_t mod;    /* enum x86_isa_mod */
    int8_t digit, rm; /* ModRM fields required, or -1 */
    uint8_t w, l;   /* enum x86_isa_bit */
    uint8_t b0;     /* REX.B must be clear */
    uint8_t nopnd;
    struct x86_isa_opnd opnd[X86_NOPND];
};
enum {
    X86_ATTR_LOCKABLE = 1 << 0,
    X86_ATTR_BRANCH = 1 << 1,      /* may change RIP other than by falling through */
    X86_ATTR_COND = 1 << 2,        /* conditional branch */
    X86_ATTR_SERIALIZING = 1 << 3, /* ends a block; later fetches see earlier stores */
    X86_ATTR_CPL0 = 1 << 4,        /* #GP(0) unless CPL 0 */
    X86_ATTR_IO = 1 << 5,
    X86_ATTR_STRING = 1 << 6,      /* takes REP */
    X86_ATTR_X87 = 1 << 7,
    X86_ATTR_MMX = 1 << 8,
    X86_ATTR_SSE = 1 << 9,         /* legacy SSE encoding: #NM/#UD by CR0.TS/EM, CR4.OSFXSR */
    X86_ATTR_AVX = 1 << 10,        /* VEX vector encoding: needs XCR0 */
    X86_ATTR_ALIGN16 = 1 << 11,    /* memory operand must be aligned to its size (16; 32 for VEX.256): #GP(0) */
    X86_ATTR_FPEXC = 1 << 12,      /* can raise SIMD floating-point exceptions */
    X86_ATTR_PE_ONLY = 1 << 13,    /* #UD in real and virtual-8086 mode */
    X86_ATTR_NO64 = 1 << 14,       /* #UD in 64-bit mode */
    X86_ATTR_ONLY64 = 1 << 15,
    X86_ATTR_MEMMOD = 1 << 16,     /* first operand is read, modified and written */
    X86_ATTR_FLAGCOND = 1 << 17,   /* some operand values leave all flags alone (shift count 0): writing kills nothing */
    X86_ATTR_BITSTR = 1 << 18,     /* BT family: a register bit offset reaches outside the memory operand */
    X86_ATTR_D64 = 1 << 19,        /* operand size defaults to 64 bits in 64-bit mode */
    X86_ATTR_F64 = 1 << 20,        /* operand size is 64 bits in 64-bit mode whatever the prefixes */
};
extern const struct x86_isa_row x86_isa[];
extern const unsigned x86_isa_count;
const char *x86_op_name(unsigned op);

enum x86_decode_result {
    X86_DEC_OK,
    X86_DEC_UD,       /* #UD; in->len is how many bytes the CPU had to fetch to know; in->op is X86_OP_INVALID, or the
                         instruction that is not presented or not legal here (LOCK, mode, feature) */
    X86_DEC_GP,       /* longer than 15 bytes: #GP(0) */
    X86_DEC_MORE,     /* avail bytes are not enough: supply more (a fetch fault is raised for the missing part) */
};

/* Decode at most avail (1..15, or more) bytes. mode: enum x86_mode_bits. features: x86_feature_bits(), or NULL for all known.
 * v86_or_real: X86_ATTR_PE_ONLY rows and VEX are #UD. Pure and thread-safe. bytes[] of the result holds len bytes. */
enum x86_decode_result x86_decode(struct x86_insn *in, const uint8_t *bytes, unsigned avail, enum x86_mode_bits mode,
                                  bool v86_or_real, const uint64_t *features);

#endif
