/*
 * Links between pages (engine/translate/far.c): a kernel calls a routine in another page until the call is linked, then changes
 * where the page leads, in every way there is, and calls again.
 */
#define IM_ENGINE engine_translate
#include "tests/unit/translate_fixture.h"

#define TARGET 0x400000u /* linear; pd[2] */
#define PT 0x8000u
#define ROUTINE(n) (IM_DATA + (n) * 0x1000u)
#define CALLS 20u
#define PTE(page, bits) ((page) | 0x121u | (bits)) /* present, accessed, global */
#define G 0x100u

enum how { INVLPG, ALL, CR3, STORE };

static void put(uint8_t *code, unsigned *n, const char *bytes, unsigned len)
{
    memcpy(code + *n, bytes, len);
    *n += len;
}
#define PUT(s) put(code, &n, s, sizeof(s) - 1)

/* R15 calls, the change, and all that again R14 times. */
static unsigned program(uint8_t *code, enum how how)
{
    unsigned n = 0;

    PUT("\xe8");
    put(code, &n, (const char *)&(int32_t){(int32_t)(TARGET - IM_CODE - 5)}, 4);
    PUT("\x48\x8d\x1c\x18\x49\xff\xcf\x75\xf2"); /* lea (%rax,%rbx), %rbx; dec %r15; jnz */
    if (how == STORE)
        PUT("\xc6\x04\x25\x01\x00\x20\x00\x02"); /* movb $2, the operand of routine 0 */
    else
        PUT("\x4c\x89\x04\x25\x00\x80\x00\x00"); /* mov %r8, the entry */
    if (how == INVLPG)
        PUT("\x41\x0f\x01\x39"); /* invlpg (%r9) */
    if (how == ALL)
        PUT("\x0f\x20\xe0\x34\x80\x0f\x22\xe0\x34\x80\x0f\x22\xe0"); /* CR4.PGE off and on */
    if (how == CR3)
        PUT("\x0f\x20\xd8\x0f\x22\xd8");
    PUT("\x41\xbf");
    put(code, &n, (const char *)&(uint32_t){CALLS}, 4);
    PUT("\x49\xff\xce\x0f\x85"); /* dec %r14; jnz */
    put(code, &n, (const char *)&(int32_t){-(int32_t)(n + 4)}, 4);
    PUT("\xf4");
    return n;
}

static void far(int one, enum how how, uint64_t before, uint64_t after, uint64_t sum, bool linked)
{
    struct im *m = im_new(1);
    struct x86_cpu *c = &m->v->cpu;
    uint64_t *pd = (uint64_t *)(void *)(m->vm->ram + 0x3000), *pt = (uint64_t *)(void *)(m->vm->ram + PT);
    const struct translate *x = translate_of(m->v);
    uint8_t code[128];
    const unsigned n = program(code, how);

    im_checks(m, one);
    im_put(m, IM_CODE, code, n);
    for (uint32_t i = 0; i < 2; i++) /* mov $i + 1, %eax; ret */
        im_put(m, ROUTINE(i), (uint8_t[]){0xb8, (uint8_t)(i + 1), 0, 0, 0, 0xc3}, 6);
    im_long(m, m->v);
    for (unsigned i = 0; i < 16; i++)
        pd[i] = i * 0x200000ull | 0x1e3; /* the supervisor's, global */
    pd[TARGET >> 21] = PT | 0x27;
    pt[0] = before;
    c->cr4 |= X86_CR4_PGE | X86_CR4_SMEP;
    c->gpr[X86_R8] = after;
    c->gpr[X86_R9] = TARGET;
    c->gpr[X86_RAX] = c->gpr[X86_RBX] = 0;
    c->gpr[X86_R14] = 2;
    c->gpr[X86_R15] = CALLS;
    c->idtr = (struct x86_dtr){0, 0};
    c->cr2 = 0;
    m->v->insns = 0;
    im_run(m, m->v);
    assert_int_equal(c->gpr[X86_RBX], sum);
    if (sum == CALLS) { /* it cannot go there any more */
        assert_int_equal(c->rip, TARGET);
        assert_int_equal(c->cr2, TARGET);
    } else {
        assert_int_equal(c->rip, IM_CODE + n);
        assert_int_equal(m->v->insns, 2 * (CALLS * 6 + 3) + (how == STORE ? 2 : 2 + 2 * (how == INVLPG ? 1 : how == ALL ? 5 : 2)) + 1);
    }
    if (linked) /* first uses of links, and not one for each call */
        assert_in_range(x->st.links, 1, CALLS / 2);
    im_free(m);
}

static void changes(void **state)
{
    (void)state;
    for (int one = 0; one < 2; one++) {
        far(one, INVLPG, PTE(ROUTINE(0), 0), PTE(ROUTINE(1), 0), 3 * CALLS, true);
        far(one, ALL, PTE(ROUTINE(0), 0), PTE(ROUTINE(1), 0), 3 * CALLS, true);
        far(one, STORE, PTE(ROUTINE(0), 0), 0, 3 * CALLS, true);
        far(one, CR3, PTE(ROUTINE(0), 0) & ~(uint64_t)G, PTE(ROUTINE(1), 0) & ~(uint64_t)G, 3 * CALLS, false); /* not global: no link */
        far(one, INVLPG, PTE(ROUTINE(0), 0), PTE(ROUTINE(0), 2), 2 * CALLS, true); /* nothing that matters */
        far(one, ALL, PTE(ROUTINE(0), 0), PTE(ROUTINE(0), 2), 2 * CALLS, true);
        far(one, INVLPG, PTE(ROUTINE(0), 0), 0, CALLS, true);
        far(one, ALL, PTE(ROUTINE(0), 0), 0, CALLS, true);
        far(one, INVLPG, PTE(ROUTINE(0), 0), PTE(ROUTINE(0), 1ull << 63), CALLS, true); /* NX */
        far(one, ALL, PTE(ROUTINE(0), 0), PTE(ROUTINE(0), 4), CALLS, true);             /* the user's, with SMEP */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(changes)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
