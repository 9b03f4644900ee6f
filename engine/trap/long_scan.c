/*
 * Which bytes of a page of 64-bit code are replaced (long_scan.h).
 *
 * 64-bit code has no segments that could show its copy to who executes it and the original to who reads it. So only what must be is
 * replaced, the first byte of each offender, and the rest of the copy is the page as it is. An offender is found in one of two ways: the
 * code was followed to it, from where execution came into the page; or it is among bytes nobody was seen to reach, and these are, from the end of
 * known code up to where code is known again, a sequence of instructions without a gap. A byte pattern that is neither known to be an
 * instruction nor known to be part of one makes the page doubtful: it is interpreted, until execution has shown more of it.
 */
#include <string.h>

#include "engine/trap/long_scan.h"

#define PAGE 4096u
#define TRAP_BYTE 0xf4
#define HEADS 15u /* where in the first bytes of a page, which may be the end of an instruction, code may begin */

static bool bit(const uint64_t *b, unsigned i) { return b[i / 64] >> (i % 64) & 1; }
static void set(uint64_t *b, unsigned i) { b[i / 64] |= 1ull << (i % 64); }

enum verdict { NO, YES, CUT /* by the end of the page */ };

static bool is_prefix(uint8_t b)
{
    return b == 0x66 || b == 0x67 || b == 0xf2 || b == 0xf3 || b == 0xf0 || b == 0x2e || b == 0x36 || b == 0x3e || b == 0x26 || b == 0x64 || b == 0x65 || (b & 0xf0) == 0x40;
}

/* Opcodes of the 0F map that CR4.OSFXSR turns on, and some besides. */
static bool is_sse(uint8_t op)
{
    return (op >= 0x10 && op <= 0x17) || (op >= 0x28 && op <= 0x2f) || op == 0x38 || op == 0x3a || (op >= 0x50 && op <= 0x7f) || op == 0xc2 || (op >= 0xc4 && op <= 0xc6) || op >= 0xd0;
}

static enum verdict two_byte(const uint8_t *p, unsigned room, bool f3, unsigned key)
{
    if (!room)
        return CUT;
    const uint8_t op = p[0];

    switch (op) {
    case 0x02: case 0x03: case 0x34: case 0xa0: case 0xa1: case 0xa8: case 0xa9: case 0xb2: case 0xb4: case 0xb5: return YES; /* LAR LSL SYSENTER; PUSH, POP, loads of FS, GS, SS */
    case 0xa2: return key & LONG_SHOWS_CPUID ? YES : NO;
    case 0x00: case 0x01: case 0xae: case 0xc7: break;
    default: return is_sse(op) && !(key & LONG_SSE) ? YES : NO;
    }
    if (room < 2)
        return CUT;
    const uint8_t m = p[1], reg = m >> 3 & 7;
    const bool mem = m < 0xc0;

    switch (op) {
    case 0x00: return reg <= 1 || reg == 4 || reg == 5 ? YES : NO; /* SLDT STR VERR VERW */
    case 0x01:
        if (mem)
            return reg <= 1 || reg == 4 ? YES : NO; /* SGDT SIDT SMSW */
        return reg == 4 || m == 0xc1 || m == 0xd9 || m == 0xd0 || m == 0xee || m == 0xef || m == 0xfd ? YES : NO; /* VMCALL VMMCALL XGETBV RDPKRU WRPKRU RDPRU */
    case 0xae:
        if (!mem)
            return f3 && reg <= 3 && !(key & LONG_FSGSBASE) ? YES : NO;
        return (reg >= 4 && reg <= 6) || (reg <= 3 && !(key & LONG_SSE)) ? YES : NO; /* XSAVE XRSTOR XSAVEOPT */
    default: return (mem && reg >= 3 && reg <= 5) || (!mem && reg == 7 && f3) ? YES : NO; /* XSAVEC and the like, RDPID */
    }
}

/* Would a processor at CPL 3 execute what begins at p without a trap, and wrongly? */
static enum verdict offends(const uint8_t *p, unsigned room, unsigned key)
{
    bool f3 = false;
    unsigned i = 0;

    while (i < room && i < X86_MAX_INSN - 1 && is_prefix(p[i]))
        f3 |= p[i++] == 0xf3;
    if (i == room)
        return CUT;
    switch (p[i]) {
    case 0x8c: case 0x8e: case 0x9c: case 0x9d: case 0xca: case 0xcb: case 0xcf: return YES; /* MOV of segments, PUSHF POPF, RET far, IRET */
    case 0xff: /* CALL, JMP far */
        return i + 1 == room ? CUT : p[i + 1] < 0xc0 && ((p[i + 1] >> 3 & 7) == 3 || (p[i + 1] >> 3 & 7) == 5) ? YES : NO;
    case 0xc4: case 0xc5: return key & LONG_AVX ? NO : YES;
    case 0x0f: return two_byte(p + i + 1, room - i - 1, f3, key);
    default: return NO;
    }
}

/* UD2 is an instruction, though none that the decoder has: its fault needs no help. */
static bool is_ud2(const uint8_t *p, unsigned room) { return room >= 2 && p[0] == 0x0f && p[1] == 0x0b; }

void long_reset(struct lpage *l, unsigned key)
{
    memset(l, 0, sizeof(*l));
    l->key = (uint8_t)key;
}

bool long_seen(const struct lpage *l, struct long_target t) { return bit(l->start, (unsigned)t.to) || (!t.sure && bit(l->maybe, (unsigned)t.to)); }

static void take(struct lpage *l, unsigned at, unsigned len)
{
    set(l->start, at);
    for (unsigned i = 0; i < len && at + i < PAGE; i++) {
        set(l->used, at + i);
        if (i)
            set(l->inner, at + i);
    }
}

void long_exclude(struct lpage *l, const uint64_t bytes[64])
{
    for (unsigned i = 0; i < 64; i++)
        l->used[i] |= bytes[i];
}

unsigned long_tail(const struct lpage *before, const uint8_t *page, const uint8_t *next, const uint64_t *features, struct x86_insn *in)
{
    const unsigned here = PAGE - before->cut;
    uint8_t b[X86_MAX_INSN];

    if (!before->cut)
        return 0;
    memcpy(b, page + before->cut, here);
    memcpy(b + here, next, sizeof(b) - here);
    return x86_decode(in, b, sizeof(b), X86_MODE_64, false, features) == X86_DEC_OK && in->len > here ? in->len - here : 0;
}

static void leads(struct long_out *o, int64_t to, bool sure)
{
    if (o && o->n < o->cap)
        o->to[o->n++] = (struct long_target){(int32_t)to, sure};
}

struct path {
    uint16_t at[PAGE];
    unsigned n;
};
static void push(struct path *p, unsigned at)
{
    if (p->n < PAGE)
        p->at[p->n++] = (uint16_t)at;
}

unsigned long_follow(struct lpage *l, const uint8_t *page, struct long_target from, const uint64_t *features, struct long_out *out)
{
    struct path sure, unsure;
    unsigned count = 0;
    struct x86_insn in;

    sure.n = unsure.n = 0;
    push(from.sure ? &sure : &unsure, (unsigned)from.to);
    while (sure.n || unsure.n) {
        struct path *const p = sure.n ? &sure : &unsure;
        const bool known = p == &sure;

        for (unsigned at = p->at[--p->n]; at < PAGE && !bit(l->start, at) && (known || !bit(l->maybe, at));) {
            const unsigned room = PAGE - at < X86_MAX_INSN ? PAGE - at : X86_MAX_INSN;
            const enum x86_decode_result r = x86_decode(&in, page + at, room, X86_MODE_64, false, features);

            count++;
            if (!known)
                set(l->maybe, at);
            if (r != X86_DEC_OK) {
                if (known && r == X86_DEC_MORE) {
                    take(l, at, PAGE - at);
                    l->cut = (uint16_t)at;
                } else if (known && is_ud2(page + at, room)) {
                    take(l, at, 2);
                } else if (known) { /* nothing the guest's processor has: its fault is the interpreter's */
                    take(l, at, 1);
                    set(l->undefined, at);
                }
                break;
            }
            if (known)
                take(l, at, in.len);
            const uint32_t attr = x86_isa[in.row].attr;
            if (attr & X86_ATTR_BRANCH)
                for (unsigned i = 0; i < in.nopnd; i++)
                    if (in.opnd[i].kind == X86_OPND_REL) {
                        const int64_t to = (int64_t)at + in.len + in.imm;
                        if (to < 0 || to >= PAGE)
                            leads(out, to, known);
                        else
                            push(p, (unsigned)to);
                    }
            at += in.len;
            const bool returns = in.op == X86_OP_CALL || in.op == X86_OP_INT || in.op == X86_OP_SYSCALL;
            if ((attr & X86_ATTR_BRANCH) && !(attr & X86_ATTR_COND) && !returns)
                break;
            if (at == PAGE)
                leads(out, PAGE, known && !returns);
            if (known && returns) {
                if (out && at < PAGE)
                    push(&unsure, at);
                break;
            }
        }
    }
    return count;
}

/* Read [at, end) as instructions one behind the other: where they begin. False: they do not come out at end, or are none as programs have up to
 * last: zeros, which would be ADDs to where RAX points. */
static bool sweep(const uint8_t *page, unsigned at, unsigned last, unsigned end, const uint64_t *features, uint64_t start[64])
{
    struct x86_insn in;

    memset(start, 0, 64 * sizeof(start[0]));
    while (at < end) {
        const unsigned room = PAGE - at < X86_MAX_INSN ? PAGE - at : X86_MAX_INSN;
        const enum x86_decode_result r = x86_decode(&in, page + at, room, X86_MODE_64, false, features);

        if (at < last && room >= 2 && !page[at] && !page[at + 1])
            return false;
        set(start, at);
        if (r == X86_DEC_MORE)
            return end == PAGE;
        if (r != X86_DEC_OK && !is_ud2(page + at, room))
            return false;
        at += r == X86_DEC_OK ? in.len : 2;
    }
    return at == end || end == PAGE;
}

/* Bytes [a, b) that no instruction seen has: replace what offends in them. False: it cannot be told. */
static bool judge_unseen(const struct lpage *l, const uint8_t *page, unsigned a, unsigned b, const uint64_t *features, uint8_t *copy, unsigned *n)
{
    uint64_t start[64], first[64];
    bool any = false;
    unsigned p = b, last = a; /* the first and the last in question */

    for (unsigned i = a; i < b; i++)
        if (offends(page + i, PAGE - i, l->key) != NO) {
            p = p < i ? p : i;
            last = i;
        }
    if (p == b)
        return true;
    for (unsigned from = a; from < b && from < a + (a || l->closed ? 1 : HEADS); from++) {
        if (!sweep(page, from, last, b, features, start))
            continue;
        if (!any)
            memcpy(first, start, sizeof(first));
        any = true;
        /* All ways to begin must agree on what offends. */
        for (unsigned i = p; i <= last; i++)
            if (bit(first, i) != bit(start, i) && offends(page + i, PAGE - i, l->key) != NO)
                return false;
    }
    for (unsigned i = p; any && i <= last; i++)
        if (bit(first, i) && offends(page + i, PAGE - i, l->key) != NO) {
            copy[i] = TRAP_BYTE;
            ++*n;
        }
    return any;
}

int long_judge(const struct lpage *l, const uint8_t *page, const uint64_t *features, uint8_t *copy)
{
    unsigned n = 0;

    memcpy(copy, page, PAGE);
    for (unsigned i = 0; i < PAGE; i++) {
        if (!bit(l->start, i) || (!bit(l->undefined, i) && offends(page + i, PAGE - i, l->key) == NO))
            continue;
        if (bit(l->inner, i))
            return -1; /* these bytes are read in two ways */
        copy[i] = TRAP_BYTE;
        n++;
    }
    for (unsigned a = 0; a < PAGE;) {
        unsigned b = a;

        while (b < PAGE && !bit(l->used, b))
            b++;
        if (b > a && !judge_unseen(l, page, a, b, features, copy, &n))
            return -1;
        for (a = b; a < PAGE && bit(l->used, a);)
            a++;
    }
    return (int)n;
}
