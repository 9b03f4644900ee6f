/*
 * Which code may run directly. At CPL 3 most sensitive instructions trap (system calls, RDTSC as we set the world up, port
 * accesses, INT n), but some do not: they would show or use the host's state:
 *
 *   SLDT STR VERR VERW, LAR, LSL, SGDT SIDT SMSW     the host's descriptor tables (UMIP's dummies)
 *   CPUID (where the host cannot make it trap), XGETBV, RDPID, RDPKRU WRPKRU, RDPRU      the host's features and numbers
 *   XSAVE XSAVEC XSAVEOPT XRSTOR     in the format of the host's XCR0, which may have more components
 *   SYSENTER     enters the host's kernel and does not say from where
 *   VMCALL VMMCALL     a hypervisor below the host answers
 *
 * A page that has such an instruction runs in a copy in which its first byte is HLT, which traps; the interpreter executes the original. (Guest
 * code that reads its own instructions there sees the HLT: without protection keys no page can be executed and not read.) Where it
 * cannot be told what is an instruction, the page is left to translation.
 *
 * Whether a byte pattern is an instruction is found by decoding from each of the bytes before it: streams of x86 code that begin wrong
 * soon run into the right one, so if nearly all of them step over the pattern it is part of something else. In doubt (next to data, at the
 * beginning of a page) instructions about descriptor tables are taken for constants (mov $15, %edx has the bytes of SLDT), and pages with others are
 * translated. So one is missed where a program jumps into the middle of another instruction, or has SLDT and the like behind data.
 *
 * HLT in what is no instruction would change one silently (the constant of a move, the distance of a branch), so a copy is made only where all streams
 * agree, and not for the patterns that constants have: behind data all streams may be wrong.
 */
#include <string.h>

#include "engine/direct/direct.h"

#define PAGE 4096u
#define BEFORE 256u /* bytes before from which decoding is started */
#define NEAR 80u    /* those that have a say, ... */
#define SETTLE 24u  /* ... but for the last: streams that begin wrong run into the right one after a few instructions */
#define VOTES 6u
#define FAR_VOTES 24u

/* Could an instruction that must not run directly begin with the 0F at p? What the end of the page cuts off is for scan_joint. */
static bool suspect(const uint8_t *p, unsigned room, bool f3, bool cpuid_traps)
{
    if (room < 2)
        return false;
    const uint8_t op = p[1];

    switch (op) {
    case 0x02: case 0x03: case 0x34: return true;
    case 0xa2: return !cpuid_traps;
    case 0x00: case 0x01: case 0xae: case 0xc7: break;
    default: return false;
    }
    if (room < 3)
        return false;
    const uint8_t m = p[2], reg = m >> 3 & 7;
    const bool mem = m < 0xc0;

    switch (op) {
    case 0x00: return reg <= 1 || reg == 4 || reg == 5;
    case 0x01:
        if (mem)
            return reg <= 1 || reg == 4;
        return reg == 4 || m == 0xc1 || m == 0xd9 || m == 0xd0 || m == 0xee || m == 0xef || m == 0xfd;
    case 0xae: return mem && reg >= 4 && reg <= 6;
    default: return mem ? reg >= 3 && reg <= 5 : reg == 7 && f3;
    }
}

/* The length of a VEX or EVEX instruction, which need not be one that the guest has: programs carry code for other processors. 0: none. */
static unsigned vector_length(const uint8_t *p, unsigned room)
{
    unsigned n, map, op;

    if (room < 6)
        return 0;
    if (p[0] == 0xc5)
        n = 2, map = 1;
    else if (p[0] == 0xc4)
        n = 3, map = p[1] & 31u;
    else if (p[0] == 0x62)
        n = 4, map = p[1] & 7u;
    else
        return 0;
    op = p[n++];
    if (!map || map > 6 || (map == 1 && op == 0x77))
        return map == 1 ? n : 0;
    const uint8_t m = p[n++];
    if (m < 0xc0) {
        const unsigned mod = m >> 6, rm = m & 7;

        if (rm == 4 && n < room)
            n += 1 + (mod == 0 && (p[n] & 7) == 5 ? 4 : 0);
        n += mod == 1 ? 1 : mod == 2 || (mod == 0 && rm == 5) ? 4 : 0;
    }
    return n + (map == 3 || (map == 1 && ((op >= 0x70 && op <= 0x73) || op == 0xc2 || (op >= 0xc4 && op <= 0xc6))));
}

enum { DEAD = 0xffff, CROSSES = 0xfffe, DOUBT = 0xfffd }; /* what a stream comes to; else where in [first, at] an instruction begins */

/* Is it the rare kind: about descriptor tables, in code that 64-bit programs have no use for? */
static bool soft(const uint8_t *op) { return op[1] <= 0x03 && (op[1] != 0x01 || op[2] < 0xc0); }

/* Is there an instruction before that has it in an immediate operand or displacement? */
static bool contained(const uint8_t *page, unsigned size, unsigned first, unsigned at, const uint64_t *features)
{
    for (unsigned i = first > 11 ? first - 11 : 0; i < first; i++) {
        const unsigned room = size - i < X86_MAX_INSN ? size - i : X86_MAX_INSN;
        struct x86_insn in;
        const enum x86_decode_result r = x86_decode(&in, page + i, room, X86_MODE_64, false, features);

        if (r == X86_DEC_MORE || (r == X86_DEC_OK && i + in.len > at))
            return true;
    }
    return first <= 11; /* it may begin on the page before */
}

/* Where in [first, at] an instruction begins, CROSSES if nearly all ways of reading what is before lead over it, DOUBT if some do, DEAD if it
 * cannot be told. */
static unsigned begins(const uint8_t *page, unsigned size, unsigned first, unsigned at, const uint64_t *features)
{
    const unsigned lo = first > BEFORE ? first - BEFORE : 0, near = first > NEAR ? first - NEAR : 0;
    unsigned votes = 0, yes = 0, far = 0, far_yes = 0, far_best = 0, best = first, best_n = 0, count[X86_MAX_INSN + 1] = {0};
    uint16_t end[BEFORE];

    for (unsigned i = first; i-- > lo;) {
        const unsigned room = size - i < X86_MAX_INSN ? size - i : X86_MAX_INSN;
        struct x86_insn in;
        enum x86_decode_result r = x86_decode(&in, page + i, room, X86_MODE_64, false, features);
        unsigned len = in.len;

        if (r == X86_DEC_UD && (len = vector_length(page + i, room)))
            r = X86_DEC_OK;
        const unsigned next = i + len;

        if (r == X86_DEC_MORE)
            end[i - lo] = CROSSES;
        else if (r != X86_DEC_OK)
            end[i - lo] = DEAD;
        else if (next >= first)
            end[i - lo] = next <= at ? (uint16_t)next : CROSSES;
        else
            end[i - lo] = end[next - lo];
    }
    /* Those that begin near have not had the time to run into the right stream. */
    for (unsigned i = near; i + SETTLE < first; i++) {
        const uint16_t e = end[i - lo];

        votes += e != DEAD;
        if (e >= CROSSES)
            continue;
        yes++;
        if (++count[e - first] > best_n) {
            best_n = count[e - first];
            best = e;
        }
    }
    if (votes < VOTES)
        return DEAD;
    /* Code that repeats itself (compare with a constant, branch, and again) can keep a wrong stream going for long. All that begin before it know better. */
    for (unsigned i = lo; i + NEAR + SETTLE < first; i++) {
        far += end[i - lo] != DEAD;
        far_yes += end[i - lo] < DOUBT;
        far_best += end[i - lo] == best;
    }
    if (far >= FAR_VOTES && !far_yes && yes * 4 < votes * 3)
        return CROSSES;
    if (far >= FAR_VOTES && far_best == far && best_n * 2 > votes)
        return best;
    return yes * 4 < votes ? CROSSES : best_n == votes ? best : DOUBT;
}

static bool is_prefix(uint8_t b)
{
    return b == 0x66 || b == 0x67 || b == 0xf2 || b == 0xf3 || b == 0x2e || b == 0x36 || b == 0x3e || b == 0x26 || b == 0x64 || b == 0x65 || (b & 0xf0) == 0x40;
}

/* The 0F at op in a piece of code: where the instruction begins that must be replaced, CROSSES: there is none, DEAD or DOUBT: it cannot be told. */
static unsigned judge(const uint8_t *code, unsigned size, unsigned op, bool cpuid_traps, const uint64_t *features)
{
    unsigned first = op;
    bool f3 = false;

    while (first && op - first < 14 && is_prefix(code[first - 1]))
        f3 |= code[--first] == 0xf3;
    f3 |= !first; /* it may be on the page before */
    if (!suspect(code + op, size - op, f3, cpuid_traps))
        return CROSSES;
    const unsigned b = begins(code, size, first, op, features);

    if (b == CROSSES || !soft(code + op) || !contained(code, size, first, op, features))
        return b;
    return b == DEAD ? CROSSES : DOUBT;
}

int scan_page(const uint8_t *page, bool cpuid_traps, const uint64_t *features, uint16_t at[SCAN_SITES])
{
    const uint8_t *p = page, *end = page + PAGE;
    int n = 0;

    for (; (p = memchr(p, 0x0f, (size_t)(end - p))); p++) {
        const unsigned b = judge(page, PAGE, (unsigned)(p - page), cpuid_traps, features);

        if (b == CROSSES)
            continue;
        if (b == DEAD || b == DOUBT || n == SCAN_SITES)
            return -1;
        at[n++] = (uint16_t)b;
    }
    return n;
}

bool scan_joint(const uint8_t *page, const uint8_t *next, bool cpuid_traps, const uint64_t *features)
{
    enum { TAIL = 128, HEAD = 32 };
    uint8_t b[TAIL + HEAD];

    /* Only a 0F in the last two bytes can be one that scan_page could not see whole. */
    if (page[PAGE - 2] != 0x0f && page[PAGE - 1] != 0x0f)
        return true;
    memcpy(b, page + PAGE - TAIL, TAIL);
    memcpy(b + TAIL, next, HEAD);
    return (b[TAIL - 2] != 0x0f || suspect(b + TAIL - 2, 2, true, cpuid_traps) || judge(b, TAIL + HEAD, TAIL - 2, cpuid_traps, features) == CROSSES) &&
           (b[TAIL - 1] != 0x0f || judge(b, TAIL + HEAD, TAIL - 1, cpuid_traps, features) == CROSSES);
}
