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

/* One row per encoding. */
struct x86_isa_row {
    uint16_t op;         /* enum x86_op */
    uint8_t pg;          /* enum x86_pg bits */
    uint8_t feature;     /* enum x86_feature */
    uint32_t attr;       /* X86_ATTR_* */
    uint16_t flags_read, flags_written, flags_undefined; /* arithmetic flags + DF/IF.., RFLAGS positions (low 16) */
    const char *name;    /* mnemonic in lower case */
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
    X86_ATTR_ALIGN16 = 1 << 11,    /* legacy SSE memory operand must be 16-byte aligned: #GP(0) */
    X86_ATTR_FPEXC = 1 << 12,      /* can raise SIMD floating-point exceptions */
    X86_ATTR_PE_ONLY = 1 << 13,    /* #UD in real and virtual-8086 mode */
    X86_ATTR_NO64 = 1 << 14,       /* #UD in 64-bit mode */
    X86_ATTR_ONLY64 = 1 << 15,
    X86_ATTR_MEMMOD = 1 << 16,     /* first operand is read, modified and written */
};
extern const struct x86_isa_row x86_isa[];
extern const unsigned x86_isa_count;
const char *x86_op_name(unsigned op);

enum x86_decode_result {
    X86_DEC_OK,
    X86_DEC_UD,       /* #UD; in->len is how many bytes the CPU had to fetch to know */
    X86_DEC_GP,       /* longer than 15 bytes: #GP(0) */
    X86_DEC_MORE,     /* avail bytes are not enough: supply more (a fetch fault is raised for the missing part) */
};

/* Decode at most avail (1..15, or more) bytes. mode: enum x86_mode_bits. features: x86_feature_bits(), or NULL for all known.
 * v86_or_real: X86_ATTR_PE_ONLY rows are #UD. Pure and thread-safe. */
enum x86_decode_result x86_decode(struct x86_insn *in, const uint8_t *bytes, unsigned avail, enum x86_mode_bits mode,
                                  bool v86_or_real, const uint64_t *features);

#endif
