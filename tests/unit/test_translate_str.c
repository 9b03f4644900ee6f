/*
 * STOS and MOVS inline (engine/translate/select_str.c): random counts, directions, sizes and prefixes around page borders, over pages that are
 * writable, clean, read-only, absent, large, watched by a breakpoint, no RAM, or hold code, or are one page by two names; against the
 * interpreter one instruction at a time. Registers, flags, memory, accessed and dirty bits, the place and address of a fault must agree.
 */
#include <stdio.h>

#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x2ffd72dbd01adfb7ull
#include "tests/random.h"
#include "tests/unit/translate_fixture.h"

#define PAGES 16u
#define PT 0x8000u

static unsigned set(uint8_t *p, unsigned reg, uint64_t v)
{
    p[0] = 0x48;
    p[1] = (uint8_t)(0xb8 | reg);
    memcpy(p + 2, &v, 8);
    return 10;
}

/* Programs in which DF may be set stay where memory below is defined: page 0 is absent, none is large, no count is huge. */
static bool down;

static uint64_t pointer(void)
{
    const uint64_t page = IM_DATA + rnd() % PAGES * 0x1000;

    switch (rnd() % 6) {
    case 0: return page;
    case 1: return page + rnd() % 0x1000;
    case 2: return page + 0x1000 - rnd() % 0x40;
    case 3: return rnd() % 8 ? page + rnd() % 0x200 * 8 : rnd() % 2 ? rnd() : 0xfee00020; /* not canonical; the local APIC */
    default: return page + rnd() % 0x200 * 8;
    }
}

/* One string instruction with its registers. */
static unsigned emit(uint8_t *p)
{
    const unsigned log = (unsigned)(rnd() % 4);
    const uint64_t di = pointer(), si = rnd() % 4 ? pointer() : di + rnd() % 64 - 32;
    uint64_t n = rnd() % 24;
    unsigned at = 0;

    switch (rnd() % 8) {
    case 0: n = 0; break;
    case 1: n = 0x1000u >> log; break;
    case 2: n = (0x1000 - (di & 0xfff)) >> log; break;
    case 3: n = rnd() % 0x1200; break;
    case 4: n = down || rnd() % 16 ? n : 1ull << 61 | n; break; /* bytes overflow; ends in a fault */
    default: break;
    }
    at += set(p + at, X86_RCX, n);
    if (rnd() % 8)
        at += set(p + at, X86_RDI, di);
    if (rnd() % 8)
        at += set(p + at, X86_RSI, si);
    if (rnd() % 24 == 0)
        p[at++] = 0x67;
    if (rnd() % 24 == 0)
        p[at++] = rnd() % 2 ? 0x64 : 0x36; /* fs, ss */
    if (rnd() % 3)
        p[at++] = rnd() % 8 ? 0xf3 : 0xf2;
    if (log == 1)
        p[at++] = 0x66;
    if (log == 3)
        p[at++] = 0x48;
    p[at++] = (uint8_t)((rnd() % 2 ? 0xaa : 0xa4) | (log > 0));
    if (rnd() % 12 == 0)
        p[at++] = down && rnd() % 2 ? 0xfd : 0xfc; /* std, cld */
    return at;
}

struct result {
    uint64_t gpr[16], rip, flags, insns, cr2, dr6, pt[PAGES];
    uint8_t data[PAGES << 12], code[0x1000];
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
        pt[i] = i < PAGES ? IM_DATA + i * 0x1000 + 0x63 : 0;
    for (unsigned i = 0; i < PAGES; i++) {
        switch (rnd() % 24) {
        case 0: pt[i] &= ~0x40ull; break;          /* clean */
        case 1: pt[i] &= ~0x60ull; break;          /* not accessed */
        case 2: pt[i] &= ~0x42ull; break;          /* read-only */
        case 3: pt[i] = rnd() % 2 ? pt[i] : 0; break; /* absent */
        case 4: pt[i] = (rnd() % 2 ? IM_CODE : IM_CODE + 0x1000) | 0x61; break; /* the program, which must stay as it is */
        case 5: case 6: pt[i] = pt[rnd() % (i + 1)]; break; /* another name of a page */
        case 7: pt[i] = 0xfee00000 | 0x73; break; /* no RAM */
        default: break;
        }
    }
    if (down)
        pt[0] = 0;
    pd[IM_DATA >> 21] = down || rnd() % 16 ? PT | 0x23 : IM_DATA | 0xa3; /* or one large page */
    pd[(IM_DATA >> 21) + 1] = 0;
    if (pd[IM_DATA >> 21] & 0x80)
        memset(m->vm->ram + IM_DATA + (PAGES << 12), 0, 0x200000 - (PAGES << 12));
    for (unsigned i = 0; i < 16; i++)
        c->gpr[i] = rnd();
    for (unsigned i = 0; i < 2; i++)
        c->gpr[i ? X86_RSI : X86_RDI] = IM_DATA + rnd() % PAGES * 0x1000 + rnd() % 0x1000;
    c->gpr[X86_R15] = 1 + rnd() % 6;
    x86_set_rflags(c, (rnd() & X86_FL_ARITH) | X86_FL_1 | (down && rnd() % 2 ? X86_FL_DF : 0));
    c->dr[0] = IM_DATA + rnd() % (PAGES * 0x200) * 8;
    c->dr6 = X86_DR6_FIXED;
    c->dr7 = X86_DR7_FIXED | (rnd() % 12 ? 0 : 1 | (rnd() % 2 ? 0x90000 : 0xb0000)); /* 8 bytes, written or accessed */
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
    out->dr6 = c->dr6;
    memcpy(out->pt, pt, sizeof(out->pt));
    memcpy(out->data, m->vm->ram + IM_DATA, sizeof(out->data));
    memcpy(out->code, m->vm->ram + IM_CODE, sizeof(out->code));
}

static void strings(void **state)
{
    static struct result a, b;
    const unsigned rounds = random_rounds(3000);
    struct im *m = im_new(1);
    unsigned whole = 0;

    (void)state;
    for (unsigned r = 0; r < rounds; r++) {
        const unsigned count = 1 + (unsigned)(rnd() % 5);
        uint8_t code[512];
        unsigned n = 0;

        if (r == rounds / 2)
            im_checks(m, !translate_of(m->v)->one);
        down = rnd() % 4 == 0;
        for (unsigned i = 0; i < count; i++)
            n += emit(code + n);
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
                if (a.gpr[i] != b.gpr[i])
                    fprintf(stderr, "r%u: %llx %llx\n", i, (unsigned long long)a.gpr[i], (unsigned long long)b.gpr[i]);
            fprintf(stderr, "rip %llx %llx flags %llx %llx insns %llu %llu cr2 %llx %llx dr6 %llx %llx pt %d data %d code %d\n", (unsigned long long)a.rip,
                    (unsigned long long)b.rip, (unsigned long long)a.flags, (unsigned long long)b.flags, (unsigned long long)a.insns,
                    (unsigned long long)b.insns, (unsigned long long)a.cr2, (unsigned long long)b.cr2, (unsigned long long)a.dr6,
                    (unsigned long long)b.dr6, memcmp(a.pt, b.pt, sizeof(a.pt)), memcmp(a.data, b.data, sizeof(a.data)), memcmp(a.code, b.code, sizeof(a.code)));
            for (unsigned i = 0; i < n; i++)
                fprintf(stderr, "%02x ", code[i]);
            fail_msg("round %u differs", r);
        }
    }
    assert_true(whole > rounds / 4); /* many get to their end */
    im_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(strings)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
