/*
 * What the files of the integer executors share (exec_int*.c): destination
 * operands that are read, modified and written, flags computed by the host, near
 * branches. Internal to x86/ and its users that extend the integer instructions.
 */
#ifndef X86_EXEC_INT_H
#define X86_EXEC_INT_H

#include "x86/decode.h"
#include "x86/exec.h"

/* Memory of the guest has any alignment and any type. */
typedef uint16_t __attribute__((aligned(1), may_alias)) x86_u16;
typedef uint32_t __attribute__((aligned(1), may_alias)) x86_u32;
typedef uint64_t __attribute__((aligned(1), may_alias)) x86_u64;

/* Assembler text that loads the arithmetic flags from AX (layout of x86_cpu.cc: AL = OF, AH as for SAHF), and back. */
#define X86_FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define X86_FLAGS_OUT "\n\tlahf\n\tseto %%al"
/* CF within the cc word. */
#define X86_CC_CF 0x0100
#define X86_CC_PF 0x0400
#define X86_CC_AF 0x1000
#define X86_CC_ZF 0x4000
#define X86_CC_SF 0x8000
#define X86_CC_OF 0x0001

/* A destination that is modified in place: p points at size bytes to operate on. */
struct x86_dst {
    void *p;
    uint64_t lin;
    uint8_t size, how;
    bool exclusive;
    _Alignas(16) uint64_t buf[2];
};

/* Prepare operand i (register or memory) for read-modify-write; faults as a write. With in->lock, or locked set (XCHG), the
 * access is atomic: in RAM the caller uses a host instruction with LOCK on p; else an exclusive section covers it until x86_dst_end. */
int x86_dst_begin(struct x86_cpu *c, const struct x86_insn *in, unsigned i, bool locked, struct x86_dst *d);
/* The same for a linear address already checked for writing by x86_seg_lin. */
int x86_dst_begin_lin(struct x86_cpu *c, uint64_t lin, unsigned size, bool locked, struct x86_dst *d);
/* Store the result (write) or only finish. */
int x86_dst_end(struct x86_cpu *c, struct x86_dst *d, bool write);

/* Index of the n-th operand that is written in assembler, or X86_NOPND. */
static inline unsigned x86_explicit(const struct x86_insn *in, unsigned n)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        if (!in->opnd[i].implicit && n-- == 0)
            return i;
    return X86_NOPND - 1;
}

/* Condition codes 0-15 as encoded in Jcc/SETcc/CMOVcc (SDM Vol. 1, appendix B). */
static inline bool x86_cond(const struct x86_cpu *c, unsigned cc)
{
    unsigned lo = c->cc_lo, of = c->cc_of, sf = lo >> 7;
    bool r;

    switch ((cc >> 1) & 7) {
    case 0: r = of; break;
    case 1: r = lo & X86_FL_CF; break;
    case 2: r = lo & X86_FL_ZF; break;
    case 3: r = lo & (X86_FL_CF | X86_FL_ZF); break;
    case 4: r = sf; break;
    case 5: r = lo & X86_FL_PF; break;
    case 6: r = sf != of; break;
    default: r = (lo & X86_FL_ZF) || sf != of; break;
    }
    return r != (cc & 1);
}

/* Check a near branch target (truncated to the operand size) against the CS limit or for being canonical. */
int x86_near_check(struct x86_cpu *c, const struct x86_insn *in, uint64_t *target);

/* Does DR7 enable any breakpoint? */
static inline bool x86_watching(const struct x86_cpu *c) { return c->dr7 & 0xff; }

/* Every integer executor: opcode, function. They are ordinary functions so that the interpreter may call them directly. */
#define X86_INT_EXECUTORS(X)                                                                                           \
    X(ADD, add) X(OR, or) X(ADC, adc) X(SBB, sbb) X(AND, and) X(SUB, sub) X(XOR, xor) X(CMP, cmp) X(TEST, test)         \
    X(INC, inc) X(DEC, dec) X(NEG, neg) X(NOT, not) X(XCHG, xchg) X(XADD, xadd) X(CMPXCHG, cmpxchg)                     \
    X(CMPXCHG8B, cmpxchg8b) X(CMPXCHG16B, cmpxchg16b) X(ADCX, adcx) X(ADOX, adox)                                      \
    X(ROL, rol) X(ROR, ror) X(RCL, rcl) X(RCR, rcr) X(SHL, shl) X(SHR, shr) X(SAR, sar) X(SHLD, shld) X(SHRD, shrd)     \
    X(SARX, sarx) X(SHLX, shlx) X(SHRX, shrx) X(RORX, rorx)                                                            \
    X(BT, bt) X(BTS, bts) X(BTR, btr) X(BTC, btc) X(BSF, bsf) X(BSR, bsr) X(TZCNT, tzcnt) X(LZCNT, lzcnt)               \
    X(POPCNT, popcnt) X(CRC32, crc32) X(ANDN, andn) X(BEXTR, bextr) X(BLSI, blsi) X(BLSMSK, blsmsk) X(BLSR, blsr)       \
    X(BZHI, bzhi) X(PDEP, pdep) X(PEXT, pext) X(MULX, mulx)                                                            \
    X(MUL, mul) X(IMUL, imul) X(DIV, div) X(IDIV, idiv) X(DAA, daa) X(DAS, das) X(AAA, aaa) X(AAS, aas) X(AAM, aam)      \
    X(AAD, aad) X(CBW, cbw) X(CWD, cwd)                                                                                \
    X(MOVS, movs) X(CMPS, cmps) X(SCAS, scas) X(LODS, lods) X(STOS, stos)                                              \
    X(MOV, mov) X(MOVZX, mov) X(MOVSX, movsx) X(MOVSXD, movsx) X(MOVBE, movbe) X(MOVNTI, mov) X(MOVDIRI, mov)           \
    X(MOVDIR64B, movdir64b) X(LEA, lea) X(BSWAP, bswap) X(XLAT, xlat) X(SALC, salc) X(LAHF, lahf) X(SAHF, sahf)         \
    X(CLC, clc) X(STC, stc) X(CMC, cmc) X(CLD, cld) X(STD, std) X(NOP, nop) X(PAUSE, nop) X(ENDBR32, nop)               \
    X(ENDBR64, nop) X(PREFETCH, nop) X(PREFETCHW, nop) X(PREFETCHNTA, nop) X(PREFETCHT0, nop) X(PREFETCHT1, nop)        \
    X(PREFETCHT2, nop) X(LFENCE, lfence) X(MFENCE, mfence) X(SFENCE, sfence) X(UD0, ud) X(UD1, ud) X(UD2, ud)           \
    X(BOUND, bound)                                                                                                    \
    X(CMOVO, cmov) X(CMOVNO, cmov) X(CMOVB, cmov) X(CMOVAE, cmov) X(CMOVE, cmov) X(CMOVNE, cmov) X(CMOVBE, cmov)        \
    X(CMOVA, cmov) X(CMOVS, cmov) X(CMOVNS, cmov) X(CMOVP, cmov) X(CMOVNP, cmov) X(CMOVL, cmov) X(CMOVGE, cmov)         \
    X(CMOVLE, cmov) X(CMOVG, cmov)                                                                                     \
    X(SETO, setcc) X(SETNO, setcc) X(SETB, setcc) X(SETAE, setcc) X(SETE, setcc) X(SETNE, setcc) X(SETBE, setcc)        \
    X(SETA, setcc) X(SETS, setcc) X(SETNS, setcc) X(SETP, setcc) X(SETNP, setcc) X(SETL, setcc) X(SETGE, setcc)         \
    X(SETLE, setcc) X(SETG, setcc)                                                                                     \
    X(JO, jcc) X(JNO, jcc) X(JB, jcc) X(JAE, jcc) X(JE, jcc) X(JNE, jcc) X(JBE, jcc) X(JA, jcc) X(JS, jcc) X(JNS, jcc)   \
    X(JP, jcc) X(JNP, jcc) X(JL, jcc) X(JGE, jcc) X(JLE, jcc) X(JG, jcc)                                               \
    X(JMP, jmp) X(CALL, call) X(RET, ret) X(LOOP, loop) X(LOOPE, loop) X(LOOPNE, loop) X(JCXZ, jcxz)                     \
    X(PUSH, push) X(POP, pop) X(PUSHA, pusha) X(POPA, popa) X(ENTER, enter) X(LEAVE, leave)

#define EXEC(name) int x86_i_##name(struct x86_cpu *c, const struct x86_insn *in)
#define DECLARE(op, name) EXEC(name);
X86_INT_EXECUTORS(DECLARE)
#undef DECLARE

#endif
