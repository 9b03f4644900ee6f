/*
 * Pages that share the slots of the table of translated code (engine/translate/tlb.c): random programs that access, copy, remap and
 * flush a few of them, against the interpreter one instruction at a time; and that two of them do not push each other out.
 */
#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x91d7c3a5e80b64f3ull
#include "tests/unit/translate_random.h"

/* Pairs of pages, a number of ways apart: each first page has the slots of all first pages, each second page those of the second ones. */
#define PAIRS 6u
#define BASE 0x40005000ull
#define PD 0x9000u
#define PT 0xa000u
_Static_assert(PT + PAIRS * 0x1000 <= IM_CODE, "tables");

static uint64_t lin_of(unsigned k) { return BASE + (uint64_t)(k / 2) * (TR_WAYS << 12) + k % 2 * 0x1000; }
static unsigned table_of(unsigned k) { return PT + k / 2 * 0x1000; }
_Static_assert((uint64_t)(TR_WAYS << 12) % 0x200000 == 0, "a page table each");

struct code {
    uint8_t b[2048];
    unsigned n;
};
static void bytes(struct code *c, const char *p, unsigned n)
{
    memcpy(c->b + c->n, p, n);
    c->n += n;
}
#define B(c, s) bytes(c, s, sizeof(s) - 1)
static void imm(struct code *c, unsigned reg, uint64_t v)
{
    c->b[c->n++] = 0x48;
    c->b[c->n++] = (uint8_t)(0xb8 | reg);
    bytes(c, (const char *)&v, 8);
}

static uint64_t pointer(void)
{
    const unsigned k = (unsigned)(rnd() % (2 * PAIRS));

    return rnd() % 6 ? lin_of(k) + rnd() % 0x1f0 * 8 : lin_of(k & ~1u) + 0x1000 - rnd() % 16; /* across the end of a first page */
}

static void emit(struct code *c)
{
    const unsigned k = (unsigned)(rnd() % (2 * PAIRS));

    switch (rnd() % 16) {
    case 0: imm(c, X86_RBX, pointer()), B(c, "\x48\x8b\x03"); break;             /* mov (%rbx), %rax */
    case 1: imm(c, X86_RBX, pointer()), B(c, "\x48\x89\x03"); break;
    case 2: imm(c, X86_RBX, pointer()), B(c, "\x48\x01\x13"); break;             /* add %rdx, (%rbx) */
    case 3: imm(c, X86_RBX, pointer()), B(c, "\x48\x13\x53\x08"); break;         /* adc 8(%rbx), %rdx */
    case 4: imm(c, X86_RBX, pointer()), B(c, "\xff\x33\x58"); break;             /* push (%rbx), pop %rax */
    case 5: imm(c, X86_RBX, pointer()), B(c, "\x50\x8f\x03"); break;             /* push %rax, pop (%rbx) */
    case 6: imm(c, X86_RBX, pointer()), B(c, "\xf0\x48\x0f\xc1\x13"); break;     /* lock xadd %rdx, (%rbx) */
    case 7: imm(c, X86_RBX, pointer()), B(c, "\x8b\x03\x89\x43\x04\x66\x01\x53\x0a"); break; /* a window */
    case 8: imm(c, X86_RBX, pointer()), B(c, "\x0f\x10\x03\x0f\x11\x43\x20"); break; /* movups */
    case 9: imm(c, X86_RSI, pointer()), imm(c, X86_RDI, pointer()), B(c, "\x48\xa5\xa4"); break; /* movsq, movsb */
    case 10: imm(c, X86_RSI, pointer()), imm(c, X86_RDI, pointer()), imm(c, X86_RCX, rnd() % 40), B(c, "\xf3\xa4"); break;
    case 11: imm(c, X86_RDI, pointer()), imm(c, X86_RCX, rnd() % 40), B(c, "\xf3\xaa"); break;
    case 12: imm(c, X86_RBX, lin_of(k)), B(c, "\x0f\x01\x3b"); break;            /* invlpg (%rbx) */
    case 13: /* another page there: writable or not, accessed or not, global or not */
        imm(c, X86_RBX, table_of(k) + (5 + k % 2) * 8);
        imm(c, X86_RAX, IM_DATA + rnd() % (2 * PAIRS) * 0x1000 + (rnd() % 6 ? 0x63 : 0x03) + (rnd() % 3 ? 0x100 : 0));
        B(c, "\x48\x89\x03");
        imm(c, X86_RBX, lin_of(k)), B(c, "\x0f\x01\x3b");
        break;
    case 14: B(c, "\x0f\x20\xd8\x0f\x22\xd8"); break; /* mov %cr3, %rax and back */
    case 15: B(c, "\x0f\xae\xe8\x9c\x58"); break;   /* lfence, pushf, pop */
    }
}

struct result {
    struct im_seen seen;
    uint64_t pt[2 * PAIRS];
    uint8_t data[2 * PAIRS << 12];
};

static void tables(struct im *m)
{
    uint64_t *pdpt = (uint64_t *)(void *)(m->vm->ram + 0x2000), *pd = (uint64_t *)(void *)(m->vm->ram + PD);

    memset(m->vm->ram + PD, 0, 0x1000);
    pdpt[1] = PD | 7;
    for (unsigned k = 0; k < 2 * PAIRS; k++) {
        uint64_t *pt = (uint64_t *)(void *)(m->vm->ram + table_of(k));

        pd[(lin_of(k) - 0x40000000) >> 21] = table_of(k) | 7;
        pt[5 + k % 2] = (IM_DATA + k * 0x1000) | 3;
    }
}

static void begin(struct im *m, const uint8_t *code, unsigned n)
{
    struct x86_cpu *c = &m->v->cpu;

    memset(m->vm->ram + PT, 0, PAIRS * 0x1000);
    im_random_words(m, IM_DATA, 2 * PAIRS << 12);
    im_put_alone(m, code, n);
    im_long(m, m->v);
    tables(m);
    c->cr4 |= X86_CR4_PGE;
    im_random_gpr(c, false);
    c->gpr[X86_R15] = 2 + rnd() % 6;
    x86_set_rflags(c, (rnd() & X86_FL_ARITH) | X86_FL_1);
    c->cr2 = 0;
}

static void see(struct im *m, struct result *out)
{
    for (unsigned k = 0; k < 2 * PAIRS; k++)
        out->pt[k] = ((uint64_t *)(void *)(m->vm->ram + table_of(k)))[5 + k % 2];
    memcpy(out->data, m->vm->ram + IM_DATA, sizeof(out->data));
}

static void print(const struct result *a, const struct result *b)
{
    for (unsigned k = 0; k < 2 * PAIRS; k++)
        im_print_pair("pte", k, a->pt[k], b->pt[k]);
    if (memcmp(a->data, b->data, sizeof(a->data)))
        fprintf(stderr, "data differ\n");
}

static struct result translated, single;
static const struct im_test test = {begin, see, print, &translated, &single, sizeof(struct result)};

static bool one_round(struct im *m, unsigned r)
{
    struct code code = {.n = 0};

    for (unsigned i = 1 + (unsigned)(rnd() % 20); i--;)
        emit(&code);
    B(&code, "\x4d\x8d\x7f\xff\x49\x83\xff\x00\x0f\x85"); /* lea -1(%r15), %r15; cmp $0, %r15; jne to the start */
    bytes(&code, (const char *)&(int32_t){-(int32_t)(code.n + 4)}, 4);
    B(&code, "\xf4");
    assert_int_equal(im_compare(m, r, code.b, code.n, &test)->rip, IM_CODE + code.n);
    return true;
}

static void random_programs(void **state)
{
    (void)state;
    im_rounds(random_rounds(2000), one_round);
}

/* A loop over so many of the first pages: how often does a lookup need C? */
static uint64_t misses(unsigned pages, int one)
{
    struct im *m = im_new(1);
    struct code code = {.n = 0};

    im_checks(m, one);
    im_long(m, m->v);
    tables(m);
    for (unsigned k = 0; k < pages; k++)
        imm(&code, X86_RBX, lin_of(2 * k) + 8), B(&code, "\x48\x01\x13\x48\x8b\x43\x10");
    code.n = im_loop_end(code.b, code.n);
    im_put(m, IM_CODE, code.b, code.n);
    m->v->cpu.gpr[X86_R15] = 1000;
    im_run(m, m->v);
    assert_int_equal(m->v->cpu.gpr[X86_R15], 0);
    const uint64_t n = translate_of(m->v)->st.misses;

    im_free(m);
    return n;
}

static void two_pages_stay(void **state)
{
    (void)state;
    for (int one = 0; one < 2; one++) {
        assert_in_range(misses(1, one), 1, 8);
        assert_in_range(misses(2, one), 2, 16);
        assert_true(misses(3, one) > 1000); /* what is counted is what is meant */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_programs), cmocka_unit_test(two_pages_stay)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
