/*
 * STOS and MOVS inline (engine/translate/select_str.c): random counts, directions, sizes and prefixes around page borders, over pages that are
 * writable, clean, read-only, absent, large, watched by a breakpoint, no RAM, or hold code, or are one page by two names; against the
 * interpreter one instruction at a time. Registers, flags, memory, accessed and dirty bits, the place and address of a fault must agree.
 */
#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x2ffd72dbd01adfb7ull
#include "tests/unit/translate_random.h"

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
    const uint64_t page = IM_DATA + rnd() % IM_PAGES * 0x1000;

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
    struct im_seen seen;
    uint64_t dr6;
    struct im_memory memory;
};

static void begin(struct im *m, const uint8_t *code, unsigned n)
{
    struct x86_cpu *c = &m->v->cpu;
    uint64_t *pd = im_pd(m);

    im_random_words(m, IM_DATA, IM_PAGES << 12);
    im_put_alone(m, code, n);
    im_long(m, m->v);
    im_random_pages(m, false, true);
    if (down)
        im_pt(m)[0] = 0;
    pd[IM_DATA >> 21] = down || rnd() % 16 ? IM_PT | 0x23 : IM_DATA | 0xa3; /* or one large page */
    pd[(IM_DATA >> 21) + 1] = 0;
    if (pd[IM_DATA >> 21] & 0x80)
        memset(m->vm->ram + IM_DATA + (IM_PAGES << 12), 0, 0x200000 - (IM_PAGES << 12));
    im_random_gpr(c, true);
    for (unsigned i = 0; i < 2; i++)
        c->gpr[i ? X86_RSI : X86_RDI] = IM_DATA + rnd() % IM_PAGES * 0x1000 + rnd() % 0x1000;
    c->gpr[X86_R15] = 1 + rnd() % 6;
    x86_set_rflags(c, (rnd() & X86_FL_ARITH) | X86_FL_1 | (down && rnd() % 2 ? X86_FL_DF : 0));
    c->dr[0] = IM_DATA + rnd() % (IM_PAGES * 0x200) * 8;
    c->dr6 = X86_DR6_FIXED;
    c->dr7 = X86_DR7_FIXED | (rnd() % 12 ? 0 : 1 | (rnd() % 2 ? 0x90000 : 0xb0000)); /* 8 bytes, written or accessed */
    c->cr2 = 0;
}

static void see(struct im *m, struct result *out)
{
    const struct x86_cpu *c = &m->v->cpu;

    out->dr6 = c->dr6;
    im_see_memory(m, &out->memory);
}

static void print(const struct result *a, const struct result *b)
{
    im_print_pair("dr", 6, a->dr6, b->dr6);
    im_print_memory(&a->memory, &b->memory);
}

static struct result translated, single;
static const struct im_test test = {begin, see, print, &translated, &single, sizeof(struct result)};

static bool one_round(struct im *m, unsigned r)
{
    const unsigned count = 1 + (unsigned)(rnd() % 5);
    uint8_t code[512];
    unsigned n = 0;

    down = rnd() % 4 == 0;
    for (unsigned i = 0; i < count; i++)
        n += emit(code + n);
    n = im_loop_end(code, n);
    return im_compare(m, r, code, n, &test)->rip == IM_CODE + n;
}

static void strings(void **state)
{
    const unsigned rounds = random_rounds(3000);

    (void)state;
    assert_true(im_rounds(rounds, one_round) > rounds / 4); /* many get to their end */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(strings)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
