/*
 * Accesses that share lookups (engine/translate/windows.c): random loads, stores, pushes, pops and pointer arithmetic around page
 * borders, over pages that are writable, clean, read-only, absent, or hold code, against the interpreter one instruction at a time.
 * Registers, flags, memory, the pages' accessed and dirty bits, the place and address of a fault must agree.
 */
#include <stdio.h>

#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x13198a2e03707344ull
#include "tests/random.h"
#include "tests/unit/translate_fixture.h"

#define PAGES 16u
#define PT 0x8000u

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
    uint64_t gpr[16], rip, flags, insns, cr2, pt[PAGES];
    uint8_t xmm[256], data[PAGES << 12], code[0x1000];
};

static void run(struct im *m, bool single, const uint8_t *code, unsigned n, uint64_t seed, struct result *out)
{
    const uint64_t keep = rng;
    struct x86_cpu *c = &m->v->cpu;
    uint64_t *pt = (uint64_t *)(void *)(m->vm->ram + PT), *pd = (uint64_t *)(void *)(m->vm->ram + 0x3000);

    rng = seed;
    for (unsigned i = 0; i < PAGES << 12; i += 8)
        memcpy(m->vm->ram + IM_DATA + i, &(uint64_t){rnd()}, 8);
    memset(m->vm->ram + IM_CODE, 0xf4, 0x1000);
    im_put(m, IM_CODE, code, n);
    im_long(m, m->v);
    for (unsigned i = 0; i < 512; i++)
        pt[i] = IM_DATA + i * 0x1000 + 0x63;
    for (unsigned i = 0; i < PAGES; i++) {
        switch (rnd() % 24) {
        case 0: pt[i] &= ~0x40ull; break;          /* clean */
        case 1: pt[i] &= ~0x60ull; break;          /* not accessed */
        case 2: pt[i] &= ~0x42ull; break;          /* read-only */
        case 3: pt[i] = rnd() % 2 ? pt[i] : 0; break; /* absent */
        case 4: pt[i] = (rnd() % 2 ? IM_CODE : IM_CODE + 0x1000) | 0x61; break; /* the program, which must stay as it is */
        case 5: case 6: pt[i] = pt[rnd() % (i + 1)]; break; /* another name of a page */
        default: break;
        }
    }
    pd[IM_DATA >> 21] = PT | 0x23;
    for (unsigned i = 0; i < 256; i++)
        c->fpu.xmm[i / 16][i % 16] = (uint8_t)rnd();
    for (unsigned i = 0; i < 16; i++)
        c->gpr[i] = rnd();
    for (unsigned i = 0; i < sizeof(pointers); i++) /* mostly near borders */
        c->gpr[pointers[i]] = IM_DATA + (3 + rnd() % 10) * 0x1000 + (rnd() % 2 ? (rnd() % 64 - 32) * 8 : rnd() % 0x1000 & ~7ull) + (rnd() % 16 ? 0 : rnd() % 8);
    c->gpr[X86_R15] = 1 + rnd() % 6;
    x86_set_rflags(c, (rnd() & X86_FL_ARITH) | X86_FL_1);
    c->idtr = (struct x86_dtr){0, 0}; /* a fault is the end */
    c->cr2 = 0;
    rng = keep;
    m->v->insns = 0;
    im_single(m, single);
    im_run(m, m->v);
    memset(out, 0, sizeof(*out));
    memcpy(out->gpr, c->gpr, sizeof(out->gpr));
    out->rip = c->rip;
    out->flags = x86_get_rflags(c) & ~(uint64_t)X86_FL_RF;
    out->insns = m->v->insns;
    out->cr2 = c->cr2;
    memcpy(out->xmm, c->fpu.xmm, 256);
    memcpy(out->pt, pt, sizeof(out->pt));
    memcpy(out->data, m->vm->ram + IM_DATA, sizeof(out->data));
    memcpy(out->code, m->vm->ram + IM_CODE, sizeof(out->code));
}

static void windows(void **state)
{
    static struct result a, b;
    const unsigned rounds = random_rounds(1500);
    struct im *m = im_new(1);
    unsigned whole = 0;

    (void)state;
    for (unsigned r = 0; r < rounds; r++) {
        if (r == rounds / 2)
            im_checks(m, !translate_of(m->v)->one);
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
        memcpy(code + n, "\x49\xff\xcf\x0f\x85", 5); /* dec r15; jnz to the start */
        memcpy(code + n + 5, &(int32_t){-(int32_t)(n + 9)}, 4);
        n += 9;
        code[n++] = 0xf4;
        const uint64_t seed = rnd() | 1;

        run(m, false, code, n, seed, &a);
        run(m, true, code, n, seed, &b);
        whole += a.rip == IM_CODE + n;
        if (memcmp(&a, &b, sizeof(a))) {
            for (unsigned i = 0; i < 16; i++)
                fprintf(stderr, "%2u gpr %016llx %016llx\n", i, (unsigned long long)a.gpr[i], (unsigned long long)b.gpr[i]);
            for (unsigned i = 0; i < PAGES; i++)
                fprintf(stderr, "%2u pte %016llx %016llx%s\n", i, (unsigned long long)a.pt[i], (unsigned long long)b.pt[i],
                        memcmp(a.data + (i << 12), b.data + (i << 12), 4096) ? " contents differ" : "");
            fprintf(stderr, "rip %llx %llx flags %llx %llx cr2 %llx %llx insns %llu %llu\n", (unsigned long long)a.rip, (unsigned long long)b.rip,
                    (unsigned long long)a.flags, (unsigned long long)b.flags, (unsigned long long)a.cr2, (unsigned long long)b.cr2,
                    (unsigned long long)a.insns, (unsigned long long)b.insns);
            for (unsigned i = 0; i < n; i++)
                fprintf(stderr, "%02x ", code[i]);
            fail_msg("round %u differs", r);
        }
    }
    assert_in_range(whole, rounds / 3, rounds - rounds / 20); /* most get to their end, and some do not */
    im_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(windows)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
