/* Direct execution's parts that need no world: the table of mappings against a naive one, what is found in code, when address spaces
 * are promoted and demoted. */
#define IM_ENGINE engine_translate
#include "engine/direct/direct.h"
#include "engine/translate/translate.h"
#include "tests/unit/interp_fixture.h"

/* --- map.c ---------------------------------------------------------------------------------- */

#define LINS 3000u

static uint64_t rnd(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void test_map(void **state)
{
    static struct dmap_entry naive[LINS]; /* lin 0: not there */
    struct dmap m;
    uint64_t s = 88172645463325252ull;
    unsigned n = 0;

    memset(naive, 0, sizeof(naive));
    assert_int_equal(dmap_init(&m), 0);
    for (unsigned round = 0; round < 200000; round++) {
        const unsigned i = (unsigned)(rnd(&s) % LINS);
        /* Some close together, some that differ in high bits only */
        const uint64_t lin = i & 1 ? 0x400000ull + i * 4096ull : (uint64_t)(i + 1) << 33;
        struct dmap_entry *e = dmap_find(&m, lin);

        assert_int_equal(e != NULL, naive[i].lin != 0);
        if (e)
            assert_memory_equal(e, &naive[i], sizeof(*e));
        /* Times of growing and of shrinking */
        if (rnd(&s) % 8 < (round / 20000 & 1 ? 2u : 6u)) {
            const struct dmap_entry put = {lin, rnd(&s) & ~0xfffull, rnd(&s)};

            assert_true(dmap_put(&m, &put));
            n += !naive[i].lin;
            naive[i] = put;
        } else if (e) {
            dmap_del(&m, e);
            naive[i].lin = 0;
            n--;
        }
        assert_int_equal(m.n, n);
        assert_true(m.n <= dmap_cap(&m) / 2 + 1);
    }
    /* Deleting while iterating from the end meets every entry, once. */
    unsigned seen = 0;
    for (unsigned i = dmap_cap(&m); i-- > 0;)
        if (m.e[i].lin) {
            seen++;
            if (m.e[i].lin & 1ull << 33)
                dmap_del(&m, &m.e[i]);
        }
    assert_int_equal(seen, n);
    for (unsigned i = 0; i < dmap_cap(&m); i++)
        assert_false(m.e[i].lin & 1ull << 33);
    for (unsigned i = 0; i < LINS; i++)
        if (naive[i].lin && !(naive[i].lin & 1ull << 33))
            assert_non_null(dmap_find(&m, naive[i].lin));
    const unsigned large = dmap_cap(&m);
    dmap_clear(&m);
    assert_int_equal(m.n, 0);
    assert_true(dmap_cap(&m) < large); /* memory was given back */
    for (unsigned i = 0; i < LINS; i++)
        assert_null(dmap_find(&m, naive[i].lin));
    dmap_fini(&m);
}

/* --- scan.c --------------------------------------------------------------------------------- */

static uint8_t page[4096];
static uint16_t at[SCAN_SITES];

/* All the instructions there are. */
static const uint64_t *everything(void)
{
    static uint64_t f[16];

    memset(f, 0xff, sizeof(f));
    return f;
}

/* A page of code as compilers make it: pushes, moves, adds, compares, branches, calls. */
static unsigned plain_code(void)
{
    static const struct {
        uint8_t n, b[10];
    } t[] = {
        {1, {0x55}}, {3, {0x48, 0x89, 0xe5}}, {4, {0x48, 0x83, 0xec, 0x20}}, {3, {0x8b, 0x45, 0xfc}}, {3, {0x83, 0xc0, 0x01}}, {3, {0x89, 0x45, 0xfc}},
        {4, {0x83, 0x7d, 0xfc, 0x63}}, {2, {0x7e, 0xf1}}, {5, {0xe8, 0x10, 0x20, 0x00, 0x00}}, {7, {0x48, 0x8d, 0x3d, 0x44, 0x33, 0x22, 0x00}}, {1, {0xc9}}, {1, {0xc3}},
        {4, {0x0f, 0x1f, 0x40, 0x00}}, {4, {0xf2, 0x0f, 0x58, 0xc1}}, {6, {0x0f, 0x84, 0x80, 0x00, 0x00, 0x00}}, {3, {0x0f, 0xb6, 0xc0}}, {2, {0x31, 0xc0}}, {5, {0xb8, 0x05, 0x00, 0x00, 0x00}},
    };
    unsigned n = 0, i = 0;

    for (; n + 10 < sizeof(page); i++) {
        memcpy(page + n, t[i % 18].b, t[i % 18].n);
        n += t[i % 18].n;
    }
    memset(page + n, 0x90, sizeof(page) - n);
    return n;
}
/* Put bytes where an instruction of plain_code begins, at or behind `from`, over whole instructions. */
static unsigned put(unsigned from, const char *b, unsigned n)
{
    plain_code();
    unsigned i = 0, end;

    for (struct x86_insn in; i < from; i += in.len)
        assert_int_equal(x86_decode(&in, page + i, 15, X86_MODE_64, false, everything()), X86_DEC_OK);
    for (end = i; end < i + n;) {
        struct x86_insn in;

        assert_int_equal(x86_decode(&in, page + end, 15, X86_MODE_64, false, everything()), X86_DEC_OK);
        end += in.len;
    }
    memset(page + i, 0x90, end - i);
    memcpy(page + i, b, n);
    return i;
}

static void test_scan_plain(void **state)
{
    plain_code();
    assert_int_equal(scan_page(page, false, everything(), at), 0);
    memset(page, 0, sizeof(page));
    assert_int_equal(scan_page(page, false, everything(), at), 0);
    memset(page, 0x90, sizeof(page));
    assert_int_equal(scan_page(page, false, everything(), at), 0);
}

static void test_scan_finds(void **state)
{
    static const struct {
        const char *name, *b;
        unsigned n;
    } t[] = {
#define C(name, s) {name, s, sizeof(s) - 1}
        C("CPUID", "\x0f\xa2"), C("XGETBV", "\x0f\x01\xd0"), C("RDPID", "\xf3\x0f\xc7\xf8"), C("RDPKRU", "\x0f\x01\xee"), C("WRPKRU", "\x0f\x01\xef"),
        C("RDPRU", "\x0f\x01\xfd"), C("SLDT", "\x0f\x00\xc0"), C("STR", "\x0f\x00\xcb"), C("VERR", "\x0f\x00\xe1"), C("VERW", "\x0f\x00\xe9"), C("LAR", "\x0f\x02\xc1"),
        C("LSL", "\x0f\x03\xc1"), C("SGDT", "\x0f\x01\x04\x24"), C("SIDT", "\x0f\x01\x0c\x24"), C("SMSW", "\x0f\x01\xe0"), C("XSAVE", "\x0f\xae\x27"), C("XSAVE64", "\x48\x0f\xae\x27"),
        C("XRSTOR", "\x0f\xae\x2f"), C("XSAVEOPT", "\x0f\xae\x37"), C("XSAVEC", "\x0f\xc7\x27"), C("SYSENTER", "\x0f\x34"), C("VMCALL", "\x0f\x01\xc1"), C("VMMCALL", "\x0f\x01\xd9"),
#undef C
    };
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        for (unsigned from = 200; from < 3800; from += 613) {
            const unsigned where = put(from, t[i].b, t[i].n);
            const int n = scan_page(page, false, everything(), at);

            /* A page with what may also be a constant is left to translation. */
            if ((n != 1 || at[0] != where) && !(n == -1 && (uint8_t)t[i].b[1] <= 3 && (t[i].b[1] != 1 || (uint8_t)t[i].b[2] < 0xc0)))
                fail_msg("%s at %x: %d, the first at %x", t[i].name, where, n, n > 0 ? at[0] : 0);
        }
    /* Where the host makes it trap */
    put(1000, "\x0f\xa2", 2);
    assert_int_equal(scan_page(page, true, everything(), at), 0);
    /* Their neighbours in the opcode map */
    static const char *const harmless[] = {"\x0f\xae\xe8" /* LFENCE */, "\x0f\xae\xf0" /* MFENCE */, "\x0f\xc7\xf1" /* RDRAND */, "\x0f\xc7\x0f" /* CMPXCHG8B */, "\x0f\xae\x17" /* LDMXCSR */};
    for (unsigned i = 0; i < sizeof(harmless) / sizeof(harmless[0]); i++) {
        put(1000, harmless[i], 3);
        assert_int_equal(scan_page(page, false, everything(), at), 0);
    }
}

static void test_scan_constants(void **state)
{
    static const struct {
        const char *b;
        unsigned n;
    } t[] = {
#define C(s) {s, sizeof(s) - 1}
        C("\xba\x0f\x00\x00\x00"),                 /* mov $15, %edx: SLDT */
        C("\xb8\x0f\xa2\x0f\xa2"),                 /* mov $0xa20fa20f, %eax: CPUID */
        C("\x48\x8d\x05\x0f\x01\xd0\x00"),         /* lea: XGETBV in the displacement */
        C("\x81\xf9\x0f\x01\xee\x00"),             /* cmp: RDPKRU */
        C("\xe8\x0f\x34\x00\x00"),                 /* call: SYSENTER */
        C("\x62\xf1\x7c\x48\x10\x0d\x0f\xa2\x00\x00"), /* EVEX: vmovups disp32(%rip), %zmm1 */
#undef C
    };
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        for (unsigned from = 300; from < 3900; from += 517) {
            put(from, t[i].b, t[i].n);
            const int n = scan_page(page, false, everything(), at);

            if (n)
                fail_msg("constant %u behind %x: %d", i, from, n);
        }
}

/* Comparisons with a constant and branches in turn: a stream that begins wrong stays wrong while they last. What the last branch's distance contains
 * is no instruction, the same bytes behind it are. */
static void test_scan_repeats(void **state)
{
    static const uint8_t turn[] = {0x66, 0x81, 0x3b, 0x99, 0x00, 0x0f, 0x84, 0x1b, 0x05, 0x00, 0x00};
    uint8_t b[6 * sizeof(turn) + 3];

    for (unsigned i = 0; i < 6; i++)
        memcpy(b + i * sizeof(turn), turn, sizeof(turn));
    for (unsigned from = 300; from < 3900; from += 517) {
        memcpy(b + 6 * sizeof(turn) - 4, "\x4c\x0f\x00\x00\x48\x89\xdf", 7);
        put(from, (const char *)b, sizeof(b));
        assert_int_equal(scan_page(page, false, everything(), at), 0);
        memcpy(b + 6 * sizeof(turn) - 4, "\x4c\x05\x00\x00\x0f\x00\x00", 7);
        put(from, (const char *)b, sizeof(b));
        assert_int_not_equal(scan_page(page, false, everything(), at), 0);
        memcpy(b + 6 * sizeof(turn) - 4, "\x4c\x05\x00\x00\x0f\xa2\xc3", 7);
        put(from, (const char *)b, sizeof(b));
        assert_int_not_equal(scan_page(page, false, everything(), at), 0);
        /* Of a few, most streams that begin among them are right. */
        const unsigned where = put(from, (const char *)b + 3 * sizeof(turn), sizeof(b) - 3 * sizeof(turn));
        assert_int_equal(scan_page(page, false, everything(), at), 1);
        assert_int_equal(at[0], where + 3 * sizeof(turn));
    }
}

/* A function behind data, which all streams of instructions read wrong: what is no instruction must not be replaced. */
static void test_scan_behind_data(void **state)
{
    static const uint8_t b[] = {0xe9, 0x68, 0x00, 0x00, 0x00, 0x29, 0x25, 0x26, 0xaf, /* jmp; data; mov %al, 64(%rip); lea 15(%rip), %r9 */
                                0x88, 0x05, 0x40, 0x00, 0x00, 0x00, 0x4c, 0x8d, 0x0d, 0x0f, 0x00, 0x00, 0x00};

    for (unsigned from = 300; from < 3900; from += 517) {
        put(from, (const char *)b, sizeof(b));
        assert_true(scan_page(page, false, everything(), at) <= 0);
    }
}

static void test_scan_limits(void **state)
{
    /* As many as can be replaced, in order, and one more */
    memset(page, 0x90, sizeof(page));
    for (unsigned i = 0; i < SCAN_SITES; i++)
        memcpy(page + 200 + i * 32, "\x0f\xa2", 2);
    assert_int_equal(scan_page(page, false, everything(), at), SCAN_SITES);
    for (unsigned i = 0; i < SCAN_SITES; i++)
        assert_int_equal(at[i], 200 + i * 32);
    memcpy(page + 200 + SCAN_SITES * 32, "\x0f\xa2", 2);
    assert_int_equal(scan_page(page, false, everything(), at), -1);
    /* Behind what is no code it cannot be told; nothing may be missed. */
    memset(page, 0x06, sizeof(page)); /* no instruction in 64-bit code */
    memcpy(page + 2000, "\x0f\xa2", 2);
    assert_int_equal(scan_page(page, false, everything(), at), -1);
    /* At the very beginning */
    plain_code();
    memcpy(page, "\x0f\xa2\x90", 3);
    const int n = scan_page(page, false, everything(), at);
    assert_true(n == -1 || (n == 1 && at[0] == 0));
}

static void test_scan_joints(void **state)
{
    static const struct {
        const char *b;
        unsigned n;
    } t[] = {{"\x0f\xa2", 2}, {"\x0f\x01\xd0", 3}, {"\x0f\xae\x27", 3}, {"\x0f\x34", 2}, {"\xf3\x0f\xc7\xf8", 4}, {"\x0f\x01\xee", 3}};
    uint8_t next[4096];

    memset(next, 0x90, sizeof(next));
    memset(page, 0x90, sizeof(page));
    assert_true(scan_joint(page, next, false, NULL));
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        for (unsigned k = 1; k < t[i].n; k++) { /* k bytes on the first page */
            memset(page, 0x90, sizeof(page));
            memset(next, 0x90, sizeof(next));
            memcpy(page + 4096 - k, t[i].b, k);
            memcpy(next, t[i].b + k, t[i].n - k);
            if (t[i].n == 4 && k == 1) { /* F3 | 0F ..: the scan of the second page thinks of the prefix */
                assert_int_not_equal(scan_page(next, false, everything(), at), 0);
                continue;
            }
            if (scan_joint(page, next, false, NULL))
                fail_msg("pattern %u with %u bytes before the end", i, k);
        }
    memset(page, 0x90, sizeof(page));
    memset(next, 0x90, sizeof(next));
    page[4095] = 0x0f;
    next[0] = 0xaf; /* IMUL */
    assert_true(scan_joint(page, next, false, NULL));
    next[0] = 0xa2;
    assert_true(scan_joint(page, next, true, NULL));
}

/* --- policy.c ------------------------------------------------------------------------------- */

#define MHZ 2000u
#define SHORT_RUN (MHZ / 2) /* cycles: nothing fits into it */
#define LONG_RUN (MHZ * 1000)

static struct direct *policy_begin(struct im **m)
{
    *m = im_new(1);
    struct x86_cpu *c = &(*m)->v->cpu;
    struct direct *d = translate_of((*m)->v)->direct;

    (*m)->vm->tsc_khz = MHZ * 1000;
    c->cr0 |= X86_CR0_PG | X86_CR0_PE;
    c->efer |= X86_EFER_LME | X86_EFER_LMA;
    c->mode = X86_MODE_64;
    c->cpl = 3;
    c->cr3 = 0x100000;
    assert_false(d->off);
    return d;
}
static struct dspace *here(struct direct *d) { return space_of(d); }
static void ticks(struct direct *d, unsigned n, unsigned cpl)
{
    d->v->cpu.cpl = (uint8_t)cpl;
    while (n--)
        policy_tick(d, d->cpu_ns + 1000000);
}
/* Of user code, until it is promoted. */
static unsigned ticks_needed(struct direct *d)
{
    unsigned n = 0;

    for (; !here(d)->promoted; n++) {
        assert_true(n < 10000);
        ticks(d, 1, 3);
    }
    return n;
}
static void exits(struct direct *d, unsigned n, uint64_t cycles)
{
    while (n-- && here(d)->promoted)
        policy_exit(d, here(d), cycles, false);
}

static void test_policy(void **state)
{
    struct im *m;
    struct direct *d = policy_begin(&m);

    /* One sample says nothing, two in a row do; the kernel's speak against it. */
    ticks(d, 1, 3);
    assert_false(here(d)->promoted);
    for (unsigned i = 0; i < 50; i++) {
        ticks(d, 2, 0);
        ticks(d, 1, 3);
        assert_false(here(d)->promoted);
    }
    ticks(d, 2, 0);
    assert_true(ticks_needed(d) >= 2);
    assert_int_equal(d->promoted, 1);
    assert_non_null(here(d)->w);
    /* Runs that are worth while keep it there, runs that are not do not. */
    exits(d, 1, SHORT_RUN);
    exits(d, 5000, LONG_RUN);
    assert_true(here(d)->promoted);
    exits(d, 5000, SHORT_RUN);
    assert_false(here(d)->promoted);
    assert_int_equal(d->promoted, 0);
    assert_int_equal(d->st.demoted, 1);
    /* Whoever falls out waits longer each time, but not for ever. */
    unsigned last = ticks_needed(d);
    assert_true(last > 2);
    for (unsigned i = 0; i < 8; i++) {
        exits(d, 900, SHORT_RUN);
        assert_false(here(d)->promoted);
        const unsigned n = ticks_needed(d);
        assert_true(n >= last);
        last = n;
    }
    assert_true(last > 30 && last < 1000);
    /* One that enters its kernel all the time stays out, one that does now and then does not; whether instructions are counted or not. */
    d->v->cpu.cr3 = 0x180000;
    for (unsigned i = 0; i < 100; i++) {
        d->v->cpu.pg_count[1] += 2000;
        ticks(d, 1, 3);
    }
    assert_false(here(d)->promoted);
    for (unsigned i = 0; i < 8; i++) {
        d->v->cpu.pg_count[1] += 200;
        ticks(d, 1, 3);
    }
    assert_true(here(d)->promoted);
    /* One that is banned stays out. */
    d->v->cpu.cr3 = 0x200000;
    here(d)->banned = true;
    ticks(d, 100, 3);
    assert_false(here(d)->promoted);
    /* Other modes are not counted. */
    d->v->cpu.cr3 = 0x300000;
    d->v->cpu.mode = X86_MODE_32;
    ticks(d, 100, 3);
    assert_false(here(d)->promoted);
    im_free(m);
}

static void test_policy_worlds(void **state)
{
    struct im *m;
    struct direct *d = policy_begin(&m);
    unsigned promoted = 0;

    /* More spaces than worlds, than names: the last is always served, the one not seen for longest gives. */
    for (unsigned i = 1; i <= DIRECT_SPACES + 10; i++) {
        d->v->cpu.cr3 = 0x100000ull * i;
        ticks_needed(d);
        assert_true(d->nworlds <= DIRECT_WORLDS);
        assert_int_equal(d->promoted, i < DIRECT_WORLDS ? i : DIRECT_WORLDS);
    }
    for (struct dspace *s = d->space; s < d->space + DIRECT_SPACES; s++) {
        promoted += s->promoted;
        assert_true(!s->promoted || s->w);
        if (s->promoted)
            assert_true(s->pgd > 0x100000ull * (DIRECT_SPACES + 10 - DIRECT_WORLDS));
    }
    assert_int_equal(promoted, DIRECT_WORLDS);
    im_free(m);
}

static void test_policy_forced(void **state)
{
    struct im *m;
    struct direct *d = policy_begin(&m);

    d->always = true;
    policy_promote(d, here(d));
    exits(d, 5000, SHORT_RUN);
    assert_true(here(d)->promoted);
    d->always = false;
    d->off = true; /* --user-code=translated */
    d->v->cpu.cr3 = 0x200000;
    ticks(d, 100, 3);
    assert_false(here(d)->promoted);
    im_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),         cmocka_unit_test(test_scan_plain),  cmocka_unit_test(test_scan_finds), cmocka_unit_test(test_scan_constants),
        cmocka_unit_test(test_scan_limits), cmocka_unit_test(test_scan_behind_data), cmocka_unit_test(test_scan_repeats), cmocka_unit_test(test_scan_joints),
        cmocka_unit_test(test_policy),      cmocka_unit_test(test_policy_worlds), cmocka_unit_test(test_policy_forced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
