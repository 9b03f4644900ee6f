/* The decoder: its table, its rules one by one, and Zydis as a second opinion on random bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/fuzz/decode_compare.h"
#include "tests/fuzz/decode_gen.h"

static uint64_t all_but[4]; /* features presented; see without() */

/* Every feature but those given (ended by X86_NFEAT) and NEVER. */
static const uint64_t *without(int f, ...)
{
    va_list ap;
    memset(all_but, 0xff, sizeof(all_but));
    all_but[X86_FEAT_NEVER / 64] &= ~(1ull << X86_FEAT_NEVER % 64);
    va_start(ap, f);
    for (; f != X86_NFEAT; f = va_arg(ap, int))
        all_but[f / 64] &= ~(1ull << f % 64);
    va_end(ap);
    return all_but;
}


static unsigned parse(const char *s, uint8_t *out)
{
    unsigned n = 0;
    for (; *s; s += *s == ' ')
        out[n++] = (uint8_t)strtoul(s, (char **)&s, 16);
    return n;
}

static struct x86_insn dec(const char *s, enum x86_mode_bits mode, const uint64_t *features, enum x86_decode_result res)
{
    struct x86_insn in;
    uint8_t b[32] = {0};
    parse(s, b);
    enum x86_decode_result got = x86_decode(&in, b, 16, mode, false, features);
    if (got != res)
        fail_msg("%s in mode %d: result %d, wanted %d", s, mode, got, res);
    return in;
}

static void check(const char *s, enum x86_mode_bits mode, unsigned op, unsigned len)
{
    struct x86_insn in = dec(s, mode, without(X86_NFEAT), X86_DEC_OK);
    if (in.op != op || in.len != len)
        fail_msg("%s in mode %d: %s, %d bytes; wanted %s, %u", s, mode, x86_op_name(in.op), in.len, x86_op_name(op), len);
}

static void check_ud(const char *s, enum x86_mode_bits mode) { dec(s, mode, without(X86_NFEAT), X86_DEC_UD); }

/* --- the table ------------------------------------------------------------- */

static void every_mnemonic_has_a_row(void **state)
{
    static bool seen[X86_NOP_COUNT];
    for (unsigned i = 0; i < x86_isa_count; i++) {
        assert_true(x86_isa[i].op > X86_OP_INVALID && x86_isa[i].op < X86_NOP_COUNT);
        assert_int_equal(strcasecmp(x86_isa[i].name, x86_op_name(x86_isa[i].op)), 0);
        seen[x86_isa[i].op] = true;
    }
    for (unsigned op = 1; op < X86_NOP_COUNT; op++)
        if (!seen[op])
            fail_msg("%s has no row", x86_op_name(op));
}

static void every_row_is_reachable(void **state)
{
    uint64_t s = 42;
    for (unsigned i = 0; i < x86_isa_count; i++) {
        const struct x86_isa_row *r = &x86_isa[i];
        enum x86_mode_bits mode = r->attr & X86_ATTR_NO64 ? X86_MODE_32 : X86_MODE_64;
        struct x86_insn in;
        bool found = false;
        /* ModRM and others are random; a row may share its opcode with more special ones before it. */
        for (unsigned k = 0; k < 500 && !found; k++) {
            uint8_t b[GEN_BYTES] = {0};
            gen_row_of(&s, b, r, false);
            found = x86_decode(&in, b, 16, mode, false, NULL) == X86_DEC_OK && in.row == i;
        }
        if (!found)
            fail_msg("row %u, %s %02x, is never chosen", i, r->name, r->opcode);
    }
}

static void flags_are_disjoint(void **state)
{
    for (unsigned i = 0; i < x86_isa_count; i++)
        assert_int_equal(x86_isa[i].flags_written & x86_isa[i].flags_undefined, 0);
}

/* Robin & Irvine, table 2 and 3: the instructions that are sensitive and do not trap. */
static void the_seventeen(void **state)
{
    static const uint16_t ops[] = {
        X86_OP_SGDT, X86_OP_SIDT, X86_OP_SLDT, X86_OP_SMSW, X86_OP_PUSHF, X86_OP_POPF, X86_OP_LAR, X86_OP_LSL, X86_OP_VERR, X86_OP_VERW,
        X86_OP_POP_SEG, X86_OP_PUSH_SEG, X86_OP_CALL_FAR, X86_OP_JMP_FAR, X86_OP_INT, X86_OP_RET_FAR, X86_OP_IRET, X86_OP_STR,
        X86_OP_MOV_SEG,
    };
    for (unsigned i = 0; i < x86_isa_count; i++) {
        bool listed = false;
        for (unsigned k = 0; k < sizeof(ops) / sizeof(ops[0]); k++)
            listed |= ops[k] == x86_isa[i].op;
        assert_int_equal(listed, !!(x86_isa[i].pg & X86_PG_ROBIN_IRVINE));
        /* What needs CPL 0 traps elsewhere; the 17 do not. */
        if (x86_isa[i].attr & X86_ATTR_CPL0)
            assert_true(x86_isa[i].pg & X86_PG_PRIVILEGED);
        if (listed)
            assert_false(x86_isa[i].pg & X86_PG_PRIVILEGED);
    }
}

/* --- rules ------------------------------------------------------------------ */

static void length_limit(void **state)
{
    struct x86_insn in;
    uint8_t b[20];
    memset(b, 0x66, sizeof(b));
    b[13] = 0x01;
    b[14] = 0xc0; /* 15 bytes: the longest that is legal */
    assert_int_equal(x86_decode(&in, b, 15, X86_MODE_64, false, NULL), X86_DEC_OK);
    assert_int_equal(in.len, 15);
    b[13] = 0x66;
    b[14] = 0x01;
    b[15] = 0xc0;
    assert_int_equal(x86_decode(&in, b, 16, X86_MODE_64, false, NULL), X86_DEC_GP);
    assert_int_equal(x86_decode(&in, b, 15, X86_MODE_64, false, NULL), X86_DEC_GP);
    assert_int_equal(x86_decode(&in, b, 14, X86_MODE_64, false, NULL), X86_DEC_MORE);
    assert_int_equal(x86_decode(&in, b, 0, X86_MODE_64, false, NULL), X86_DEC_MORE);
    /* An immediate that would cross the limit. */
    memset(b, 0x2e, 10);
    b[10] = 0x48;
    b[11] = 0xb8;
    assert_int_equal(x86_decode(&in, b, 20, X86_MODE_64, false, NULL), X86_DEC_GP);
    assert_int_equal(x86_decode(&in, b, 14, X86_MODE_64, false, NULL), X86_DEC_MORE);
}

static void prefixes(void **state)
{
    /* REX counts only directly before the opcode. */
    assert_int_equal(dec("48 01 c3", X86_MODE_64, NULL, X86_DEC_OK).opsize, 8);
    assert_int_equal(dec("48 66 01 c3", X86_MODE_64, NULL, X86_DEC_OK).opsize, 2);
    assert_int_equal(dec("66 48 01 c3", X86_MODE_64, NULL, X86_DEC_OK).opsize, 8);
    assert_int_equal(dec("48 40 01 c3", X86_MODE_64, NULL, X86_DEC_OK).opsize, 4);
    /* The last segment override counts; in 64-bit mode FS and GS alone. */
    assert_int_equal(dec("64 2e 8b 03", X86_MODE_32, NULL, X86_DEC_OK).mem.seg, X86_CS);
    assert_int_equal(dec("64 2e 8b 03", X86_MODE_64, NULL, X86_DEC_OK).mem.seg, X86_FS);
    assert_int_equal(dec("3e 8b 45 00", X86_MODE_64, NULL, X86_DEC_OK).mem.seg, X86_SS);
    assert_int_equal(dec("3e 8b 45 00", X86_MODE_32, NULL, X86_DEC_OK).mem.seg, X86_DS);
    assert_int_equal(dec("64 65 8b 03", X86_MODE_64, NULL, X86_DEC_OK).mem.seg, X86_GS);
    /* The last of F2 and F3 counts, and both beat 66 as mandatory prefixes. */
    check("f2 f3 0f 10 c1", X86_MODE_64, X86_OP_MOVSS, 5);
    check("f3 f2 66 0f 10 c1", X86_MODE_64, X86_OP_MOVSD, 6);
    check("66 0f 10 c1", X86_MODE_64, X86_OP_MOVUPD, 4);
    assert_int_equal(dec("f3 f2 a6", X86_MODE_64, NULL, X86_DEC_OK).rep, X86_REP_REPNE);
    /* F3 as mandatory prefix leaves 66 its meaning. */
    assert_int_equal(dec("66 f3 0f b8 c1", X86_MODE_64, NULL, X86_DEC_OK).opnd[0].size, 2);
    assert_int_equal(dec("66 f2 0f 38 f1 c1", X86_MODE_64, NULL, X86_DEC_OK).opnd[1].size, 2);
    /* Near branches ignore 66 in 64-bit mode, not elsewhere. */
    check("66 e8 01 02 03 04", X86_MODE_64, X86_OP_CALL, 6);
    check("66 e8 01 02 03 04", X86_MODE_32, X86_OP_CALL, 4);
    assert_int_equal(dec("66 ff d0", X86_MODE_64, NULL, X86_DEC_OK).opnd[0].size, 8);
    assert_int_equal(dec("66 50", X86_MODE_64, NULL, X86_DEC_OK).stacksize, 2);
    assert_int_equal(dec("50", X86_MODE_64, NULL, X86_DEC_OK).stacksize, 8);
    assert_int_equal(dec("cb", X86_MODE_64, NULL, X86_DEC_OK).stacksize, 4);
    assert_int_equal(dec("48 cf", X86_MODE_64, NULL, X86_DEC_OK).stacksize, 8);
}

static void lock_prefix(void **state)
{
    check("f0 01 03", X86_MODE_64, X86_OP_ADD, 3);
    assert_int_equal(dec("f0 01 03", X86_MODE_64, NULL, X86_DEC_OK).lock, 1);
    check_ud("f0 01 c3", X86_MODE_64);       /* register destination */
    check_ud("f0 03 03", X86_MODE_64);       /* memory is the source */
    check_ud("f0 39 03", X86_MODE_64);       /* CMP */
    check_ud("f0 8b 03", X86_MODE_64);
    check_ud("f0 0f a3 03", X86_MODE_64);    /* BT */
    check("f0 0f ab 03", X86_MODE_64, X86_OP_BTS, 4);
    check("f0 87 03", X86_MODE_64, X86_OP_XCHG, 3);
    check("f0 0f c7 0b", X86_MODE_64, X86_OP_CMPXCHG8B, 4);
    check_ud("f0 90", X86_MODE_64);
    check_ud("f0 0f 22 c0", X86_MODE_64);
}

static void operand_details(void **state)
{
    struct x86_insn in = dec("88 e0", X86_MODE_64, NULL, X86_DEC_OK);
    assert_int_equal(in.opnd[1].kind, X86_OPND_GPR8H);
    in = dec("40 88 e0", X86_MODE_64, NULL, X86_DEC_OK);
    assert_int_equal(in.opnd[1].kind, X86_OPND_GPR);
    assert_int_equal(in.opnd[1].reg, X86_RSP);
    in = dec("48 8b 05 10 00 00 00", X86_MODE_64, NULL, X86_DEC_OK);
    assert_int_equal(in.mem.base, X86_REG_RIP);
    in = dec("8b 05 10 00 00 00", X86_MODE_32, NULL, X86_DEC_OK);
    assert_int_equal(in.mem.base, X86_REG_NONE);
    /* SIB base 101 with mod 00 is a displacement alone, whatever REX.B. */
    in = dec("67 41 8d 04 25 10 00 00 00", X86_MODE_64, NULL, X86_DEC_OK);
    assert_int_equal(in.mem.base, X86_REG_NONE);
    assert_int_equal(in.mem.disp, 0x10);
    in = dec("8b 02", X86_MODE_16, NULL, X86_DEC_OK);
    assert_int_equal(in.mem.seg, X86_SS);
    assert_int_equal(in.mem.base, X86_RBP);
    assert_int_equal(in.mem.index, X86_RSI);
    in = dec("c8 34 12 05", X86_MODE_64, NULL, X86_DEC_OK);
    assert_int_equal(in.imm, 0x1234);
    assert_int_equal(in.imm2, 5);
    in = dec("83 c0 ff", X86_MODE_32, NULL, X86_DEC_OK);
    assert_int_equal(in.imm, -1);
    in = dec("9a 78 56 34 12 cd ab", X86_MODE_32, NULL, X86_DEC_OK);
    assert_int_equal(in.opnd[0].kind, X86_OPND_FAR);
    assert_int_equal(in.imm, 0x12345678);
    assert_int_equal(in.imm2, 0xabcd);
    in = dec("48 a1 88 77 66 55 44 33 22 11", X86_MODE_64, NULL, X86_DEC_OK);
    assert_true(in.mem.disp == 0x1122334455667788);
    /* MOV CR and DR ignore ModRM.mod; their operands are as wide as the mode. */
    in = dec("66 0f 20 05", X86_MODE_64, NULL, X86_DEC_OK);
    assert_int_equal(in.len, 4);
    assert_int_equal(in.opnd[0].size, 8);
    in = dec("0f 20 c0", X86_MODE_16, NULL, X86_DEC_OK);
    assert_int_equal(in.opnd[0].size, 4);
    check_ud("0f 20 c8", X86_MODE_64);
    check_ud("44 0f 21 c0", X86_MODE_64);
    check("44 0f 20 c0", X86_MODE_64, X86_OP_MOV_CR, 4);
    check_ud("8e c8", X86_MODE_32);
    check_ud("8e f0", X86_MODE_32);
}

static void modes(void **state)
{
    static const char *const gone[] = {"06", "07", "0e", "16", "17", "1e", "1f", "27", "2f", "37", "3f", "60", "61", "62", "82", "9a",
                                       "c4", "c5", "ce", "d4", "d5", "d6", "ea"};
    for (unsigned i = 0; i < sizeof(gone) / sizeof(gone[0]); i++) {
        if (gone[i][0] == 'c' && gone[i][1] != 'e')
            continue; /* VEX */
        dec(gone[i], X86_MODE_64, NULL, X86_DEC_UD);
    }
    check("63 c8", X86_MODE_64, X86_OP_MOVSXD, 2);
    check("63 c8", X86_MODE_32, X86_OP_ARPL, 2);
    check("40", X86_MODE_32, X86_OP_INC, 1);
    check("90", X86_MODE_64, X86_OP_NOP, 1);
    check("41 90", X86_MODE_64, X86_OP_XCHG, 2);
    check("f3 41 90", X86_MODE_64, X86_OP_PAUSE, 3); /* as Intel's silicon has it */
    check_ud("0f 05", X86_MODE_32);
    struct x86_insn in;
    uint8_t lar[] = {0x0f, 0x02, 0xc1}, vaddps[] = {0xc5, 0xf8, 0x58, 0xc1};
    assert_int_equal(x86_decode(&in, lar, 3, X86_MODE_16, true, NULL), X86_DEC_UD);
    assert_int_equal(x86_decode(&in, lar, 3, X86_MODE_16, false, NULL), X86_DEC_OK);
    assert_int_equal(x86_decode(&in, vaddps, 4, X86_MODE_16, true, NULL), X86_DEC_UD);
    assert_int_equal(x86_decode(&in, vaddps, 4, X86_MODE_16, false, NULL), X86_DEC_OK);
}

static void vex(void **state)
{
    check("c5 f8 58 c1", X86_MODE_64, X86_OP_VADDPS, 4);
    check("c5 fc 58 c1", X86_MODE_32, X86_OP_VADDPS, 4);
    check("c4 e1 78 58 c1", X86_MODE_64, X86_OP_VADDPS, 5);
    check("c5 03", X86_MODE_32, X86_OP_LDS, 2);
    check_ud("66 c5 f8 58 c1", X86_MODE_64);
    check_ud("f3 c5 f8 58 c1", X86_MODE_64);
    check_ud("f0 c5 f8 58 c1", X86_MODE_64);
    check_ud("40 c5 f8 58 c1", X86_MODE_64);
    check("40 2e c5 f8 58 c1", X86_MODE_64, X86_OP_VADDPS, 6);
    check("c5 f8 28 c1", X86_MODE_64, X86_OP_VMOVAPS, 4);
    check_ud("c5 f0 28 c1", X86_MODE_64);       /* vvvv must be 1111 */
    check_ud("c4 e0 78 58 c1", X86_MODE_64);    /* map 0 */
    check_ud("c4 e2 f9 18 c1", X86_MODE_64);    /* VBROADCASTSS has W0 */
    check_ud("c4 e2 75 92 04 05 00 00 00 00", X86_MODE_64); /* VGATHERDPS: index = destination */
    check("c4 e2 6d 92 0c 05 00 00 00 00", X86_MODE_64, X86_OP_VGATHERDPS, 10);
    check_ud("c4 e2 6d 92 08", X86_MODE_64);    /* no SIB */
    check_ud("c4 e2 74 f2 c1", X86_MODE_64);    /* ANDN has L0 */
    struct x86_insn in = dec("c4 e3 71 4a c2 f0", X86_MODE_32, NULL, X86_DEC_OK);
    assert_int_equal(in.opnd[3].kind, X86_OPND_VEC);
    assert_int_equal(in.opnd[3].reg, 7);
    assert_int_equal(dec("c4 e3 71 4a c2 f0", X86_MODE_64, NULL, X86_DEC_OK).opnd[3].reg, 15);
}

static void features(void **state)
{
    assert_int_equal(dec("f3 0f bc c1", X86_MODE_64, without(X86_FEAT_BMI1, X86_NFEAT), X86_DEC_OK).op, X86_OP_BSF);
    assert_int_equal(dec("f3 0f bc c1", X86_MODE_64, without(X86_NFEAT), X86_DEC_OK).op, X86_OP_TZCNT);
    assert_int_equal(dec("f3 0f bd c1", X86_MODE_64, without(X86_FEAT_LZCNT, X86_NFEAT), X86_DEC_OK).op, X86_OP_BSR);
    assert_int_equal(dec("0f 0d 08", X86_MODE_64, without(X86_FEAT_PREFETCHW, X86_NFEAT), X86_DEC_OK).op, X86_OP_PREFETCH);
    assert_int_equal(dec("f3 0f 09", X86_MODE_64, without(X86_FEAT_WBNOINVD, X86_NFEAT), X86_DEC_OK).op, X86_OP_WBINVD);
    dec("f3 0f b8 c1", X86_MODE_64, without(X86_FEAT_POPCNT, X86_NFEAT), X86_DEC_UD);
    dec("9f", X86_MODE_64, without(X86_FEAT_LAHF64, X86_NFEAT), X86_DEC_UD);
    dec("9f", X86_MODE_32, without(X86_FEAT_LAHF64, X86_NFEAT), X86_DEC_OK);
    dec("c5 f5 fc c1", X86_MODE_64, without(X86_FEAT_AVX2, X86_NFEAT), X86_DEC_UD);
    dec("c5 f1 fc c1", X86_MODE_64, without(X86_FEAT_AVX2, X86_NFEAT), X86_DEC_OK);
    dec("c4 e2 71 dc c1", X86_MODE_64, without(X86_FEAT_AVX, X86_NFEAT), X86_DEC_UD);
    check("f3 0f 1e fa", X86_MODE_64, X86_OP_ENDBR64, 4);
    check("f3 48 0f 1e c8", X86_MODE_64, X86_OP_NOP, 5); /* RDSSPQ */
    /* Never presented, but decoded to its end. */
    assert_int_equal(dec("0f 0b", X86_MODE_64, without(X86_NFEAT), X86_DEC_UD).op, X86_OP_UD2);
    assert_int_equal(dec("0f ff 80 00 00 00 00", X86_MODE_64, without(X86_NFEAT), X86_DEC_UD).len, 7);
    assert_int_equal(dec("0f 01 c1", X86_MODE_64, without(X86_NFEAT), X86_DEC_UD).op, X86_OP_VMCALL);
}

static void undefined(void **state)
{
    static const char *const ud[] = {
        "62 f1 7c 48 58 c1", /* EVEX */
        "8f e8 78 c0 c1 05", /* XOP */
        "0f 0f c1 9e",       /* 3DNow! */
        "c7 f8 00 00 00 00", "c6 f8 00", /* XBEGIN, XABORT */
        "0f 04", "0f 0a", "0f 24 c0", "0f 26 c0", "0f 36", "0f 39", "0f 7a c0", "0f a6 c0", "fe d0", "ff f8", "ff d8", "0f 01 d5",
        "d9 d1", "d9 e2", "db e5", "dd f0", "df e1", "0f c7 c8", "8d c0",
    };
    for (unsigned i = 0; i < sizeof(ud) / sizeof(ud[0]); i++) {
        check_ud(ud[i], X86_MODE_64);
        check_ud(ud[i], X86_MODE_32);
    }
    /* All bytes of an undefined instruction are fetched before its #UD; lengths as silicon has them. */
    static const struct {
        const char *bytes;
        unsigned len;
    } lens[] = {
        {"06", 1}, {"82 80", 7}, {"9a", 7}, {"66 9a", 6}, {"d4", 2}, {"0f 04", 2}, {"0f 0f", 2}, {"0f 24", 2}, {"0f 39 00", 4},
        {"0f 3b 00", 5}, {"f3 0f 14 80", 8}, {"f2 0f 71 00", 5}, {"0f a6 80", 7}, {"0f c7 80", 7}, {"f2 0f 38 00 80", 9},
        {"0f 3a 00 80", 9}, {"c6 88", 7}, {"66 c7 c8", 5}, {"fe 90", 6}, {"d9 88", 6}, {"f0 81 c0", 7}, {"66 c5 f8 58 80", 9},
        {"40 c5 f8 58 80", 9}, {"c4 e0", 2}, {"c4 e4", 2}, {"c5 f8 80", 7}, {"c5 f8 3b", 3}, {"c5 f0 28 80", 8},
        {"c4 e2 6d 92 88", 9}, {"0f 20 8d", 3},
    };
    for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
        struct x86_insn in = dec(lens[i].bytes, X86_MODE_64, without(X86_NFEAT), X86_DEC_UD);
        if (in.len != lens[i].len)
            fail_msg("%s: #UD after %u bytes, wanted %u", lens[i].bytes, in.len, lens[i].len);
    }
    /* Aliases Intel never documented, or only lately. */
    check("c0 f0 01", X86_MODE_64, X86_OP_SHL, 3);
    check("f7 c8 00 00 00 00", X86_MODE_64, X86_OP_TEST, 6);
    check("82 c0 01", X86_MODE_32, X86_OP_ADD, 3);
    check("d6", X86_MODE_32, X86_OP_SALC, 1);
    check("f1", X86_MODE_64, X86_OP_INT1, 1);
    check("df c0", X86_MODE_64, X86_OP_FFREEP, 2);
    check("dc d1", X86_MODE_64, X86_OP_FCOM, 2);
    check("0f 19 00", X86_MODE_64, X86_OP_NOP, 3);
}

/* --- random ------------------------------------------------------------------ */

static void random_against_zydis(void **state)
{
    static struct cmp c;
    uint64_t seed = 20240229, n = 3000000;
    const char *env = getenv("RINGER_DECODE_COUNT");
    if (env)
        n = strtoull(env, NULL, 0);
    cmp_init(&c);
    for (uint64_t i = 0; i < n; i++) {
        uint8_t b[GEN_BYTES];
        gen_insn(&seed, b);
        enum cmp_mode mode = (enum cmp_mode)(i % 5 == 4 ? CMP_64 : i % 5);
        if (!cmp_decode(&c, b, 16, mode) || (i % 8 == 0 && !cmp_bounds(&c, b, 16, mode))) {
            char hex[64];
            for (unsigned k = 0; k < 16; k++)
                sprintf(hex + 3 * k, " %02x", b[k]);
            fail_msg("mode %d:%s: %s", mode, hex, c.why);
        }
    }
    assert_true(c.ok > n / 2); /* the generator does produce instructions */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mnemonic_has_a_row),
        cmocka_unit_test(every_row_is_reachable),
        cmocka_unit_test(flags_are_disjoint),
        cmocka_unit_test(the_seventeen),
        cmocka_unit_test(length_limit),
        cmocka_unit_test(prefixes),
        cmocka_unit_test(lock_prefix),
        cmocka_unit_test(operand_details),
        cmocka_unit_test(modes),
        cmocka_unit_test(vex),
        cmocka_unit_test(features),
        cmocka_unit_test(undefined),
        cmocka_unit_test(random_against_zydis),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
