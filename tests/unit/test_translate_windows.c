/*
 * Accesses that share lookups (engine/translate/windows.c): random loads, stores, pushes, pops and pointer arithmetic around page
 * borders, over pages that are writable, clean, read-only, absent, or hold code, against the interpreter one instruction at a time.
 * Registers, flags, memory, the pages' accessed and dirty bits, the place and address of a fault must agree.
 */
#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x13198a2e03707344ull
#include "tests/unit/translate_random.h"

/* The counter of the loop is R15; pointers are all these but RSP, which is one too. */
static const uint8_t pointers[] = {X86_RBX, X86_RSI, X86_RBP, X86_R9, X86_R12, X86_RCX, X86_RSP};
static const uint8_t others[] = {X86_RAX, X86_RDX, X86_RDI, X86_R8, X86_R10, X86_R11, X86_R13, X86_R14};
static unsigned pointer(void) { return pointers[rnd() % sizeof(pointers)]; }
static unsigned other(void) { return others[rnd() % sizeof(others)]; }

static unsigned memory(uint8_t *p, unsigned prefix, unsigned w, unsigned map, unsigned op, unsigned reg)
{
    const unsigned base = pointer();
    unsigned n = 0;

    if (prefix)
        p[n++] = (uint8_t)prefix;
    p[n++] = (uint8_t)(0x40 | w << 3 | (reg >> 3) << 2 | base >> 3);
    if (map)
        p[n++] = 0x0f;
    p[n++] = (uint8_t)op;
    p[n++] = (uint8_t)(0x40 | (reg & 7) << 3 | ((base & 7) == 4 ? 4 : base & 7));
    if ((base & 7) == 4)
        p[n++] = 0x24;
    p[n++] = (uint8_t)(rnd() % 4 ? rnd() % 64 * 8 : rnd());
    return n;
}

static unsigned registers(uint8_t *p, unsigned op, unsigned reg, unsigned rm)
{
    p[0] = (uint8_t)(0x48 | (reg >> 3) << 2 | rm >> 3);
    p[1] = (uint8_t)op;
    p[2] = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    return 3;
}

static unsigned stack(uint8_t *p, unsigned op, unsigned reg)
{
    p[0] = (uint8_t)(0x40 | reg >> 3);
    p[1] = (uint8_t)(op | (reg & 7));
    return 2;
}

static unsigned emit(uint8_t *p)
{
    static const uint8_t sums[] = {0x01, 0x03, 0x11, 0x13, 0x21, 0x29, 0x31, 0x39, 0x3b, 0x85};
    unsigned n;

    switch (rnd() % 18) {
    case 0: case 1: case 2: return memory(p, 0, 1, 0, 0x8b, other());
    case 3: case 4: return memory(p, 0, 1, 0, 0x89, other());
    case 5: return memory(p, 0, rnd() & 1, 0, sums[rnd() % sizeof(sums)], other());
    case 6: return memory(p, 0, rnd() & 1, 1, 0xb6, other());
    case 7: return memory(p, 0, 0, 1, rnd() & 1 ? 0x10 : 0x11, other());
    case 8: return memory(p, rnd() % 4 ? 0 : 0x66, 0, 1, rnd() & 1 ? 0x28 : 0x29, other());
    case 9: return memory(p, 0, 0, 0, rnd() & 1 ? 0x88 : 0x8a, other());
    case 10: return stack(p, 0x50, rnd() & 1 ? other() : pointer());
    case 11: return stack(p, 0x58, other());
    case 12: /* push [m] */ return memory(p, 0, 0, 0, 0xff, 6);
    case 13: /* lea pointer, [pointer + d] */ return memory(p, 0, 1, 0, 0x8d, pointer());
    case 14: /* add or sub pointer, imm8 */
        n = registers(p, 0x83, rnd() & 1 ? 0 : 5, pointer());
        p[n++] = (uint8_t)(rnd() % 8 * 8);
        return n;
    case 15: return registers(p, 0x8b, pointer(), pointer());
    case 16: /* call of the next instruction */
        memcpy(p, "\xe8\0\0\0\0", 5);
        return 5;
    default: /* lock xadd, inc */
        if (rnd() & 1)
            return registers(p, 0xff, 0, other());
        return memory(p, 0xf0, rnd() & 1, 1, 0xc1, other());
    }
}

struct result {
    struct im_seen seen;
    uint8_t xmm[256];
    struct im_memory memory;
};

static void begin(struct im *m, const uint8_t *code, unsigned n)
{
    struct x86_cpu *c = &m->v->cpu;

    im_random_words(m, IM_DATA, IM_PAGES << 12);
    im_put_alone(m, code, n);
    im_long(m, m->v);
    im_random_pages(m, true, false);
    im_pd(m)[IM_DATA >> 21] = IM_PT | 0x23;
    im_random_bytes(c->fpu.xmm, 256);
    im_random_gpr(c, true);
    for (unsigned i = 0; i < sizeof(pointers); i++) /* mostly near borders */
        c->gpr[pointers[i]] = IM_DATA + (3 + rnd() % 10) * 0x1000 + (rnd() % 2 ? (rnd() % 64 - 32) * 8 : rnd() % 0x1000 & ~7ull) + (rnd() % 16 ? 0 : rnd() % 8);
    c->gpr[X86_R15] = 1 + rnd() % 6;
    x86_set_rflags(c, (rnd() & X86_FL_ARITH) | X86_FL_1);
    c->cr2 = 0;
}

static void see(struct im *m, struct result *out)
{
    const struct x86_cpu *c = &m->v->cpu;

    memcpy(out->xmm, c->fpu.xmm, 256);
    im_see_memory(m, &out->memory);
}

static void print(const struct result *a, const struct result *b)
{
    im_print_memory(&a->memory, &b->memory);
}

static struct result translated, single;
static const struct im_test test = {begin, see, print, &translated, &single, sizeof(struct result)};

static bool one_round(struct im *m, unsigned r)
{
    const unsigned count = 2 + (unsigned)(rnd() % 24);
    uint8_t code[512];
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++) {
        const bool skip = rnd() % 8 == 0;
        const unsigned jump = n;

        n += 2 * skip;
        n += emit(code + n);
        if (skip) {
            code[jump] = (uint8_t)(0x70 | rnd() % 16);
            code[jump + 1] = (uint8_t)(n - jump - 2);
        }
    }
    n = im_loop_end(code, n);
    return im_compare(m, r, code, n, &test)->rip == IM_CODE + n;
}

static void windows(void **state)
{
    const unsigned rounds = random_rounds(1500);

    (void)state;
    assert_in_range(im_rounds(rounds, one_round), rounds / 3, rounds - rounds / 20); /* most get to their end, and some do not */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(windows)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
