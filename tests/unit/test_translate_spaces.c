/*
 * Address spaces that change under translated code: random programs that remap pages (and flush them), switch between spaces with and
 * without PCIDs kept, load and store through several names of a page, rewrite functions through one name and call them through another,
 * against the interpreter one instruction at a time. Registers, memory, page tables with their accessed and dirty bits, and faults must agree.
 */
#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x2545f4914f6cdd1dull
#include "tests/unit/translate_random.h"

#define SPACES 3u
#define SLOTS 12u            /* pages of a space's window at WINDOW */
#define WINDOW 0x200000u
#define POOL 0x400000u       /* what they map: pages of functions, then of data */
#define FUNCTIONS 3u
#define PAGES 9u
#define TABLES(s) (0x20000u + (s) * 0x4000u) /* PML4, PDPT, PD, PT */
#define PROGRAM_MAX 0x8000u

/* --- programs: what is mapped where is known all the time -------------------------------------- */

struct program {
    uint8_t code[PROGRAM_MAX];
    unsigned n, space;
    uint64_t pte[SPACES][SLOTS], first[SPACES][SLOTS];
};

static void put(struct program *p, const void *b, unsigned n)
{
    memcpy(p->code + p->n, b, n);
    p->n += n;
}
#define B(...) put(p, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
static void put32(struct program *p, uint32_t v) { put(p, &v, 4); }
static void rax_is(struct program *p, uint64_t v)
{
    B(0x48, 0xb8);
    put(p, &v, 8);
}

static uint64_t some_pte(void)
{
    const uint64_t page = POOL + (uint64_t)below(PAGES) * 0x1000;

    switch (below(10)) {
    case 0: return 0;
    case 1: return page | 0x21;  /* read-only */
    case 2: return page | 0x03;  /* never accessed */
    case 3: return page | 0x23;  /* clean */
    default: return page | 0x63;
    }
}
static bool present(uint64_t pte) { return pte & 1; }
static unsigned page_of(uint64_t pte) { return (unsigned)((pte & 0xfffff000) - POOL) >> 12; }

/* A slot that maps such a page. SLOTS: none. */
static unsigned slot_with(const struct program *p, bool functions, bool write)
{
    for (unsigned i = 0, k = below(SLOTS); i < SLOTS; i++, k = (k + 1) % SLOTS) {
        const uint64_t e = p->pte[p->space][k];

        if (present(e) && (!write || (e & 2)) && (page_of(e) < FUNCTIONS) == functions)
            return k;
    }
    return SLOTS;
}

static void access(struct program *p)
{
    const unsigned kind = below(12);
    unsigned k;

    if (kind < 3) { /* add V, %r8 */
        k = slot_with(p, below(4) == 0, false);
        if (k == SLOTS)
            return;
        B(0x4c, 0x03, 0x04, 0x25);
        put32(p, WINDOW + k * 0x1000 + 8 * below(511));
    } else if (kind < 6) { /* mov %r8, V */
        k = slot_with(p, false, true);
        if (k == SLOTS)
            return;
        B(0x4c, 0x89, 0x04, 0x25);
        put32(p, WINDOW + k * 0x1000 + 8 * below(511));
    } else if (kind < 9) { /* another constant for a function; now and then by the page's own address */
        const bool direct = below(4) == 0;
        const unsigned f = below(FUNCTIONS), at = 32 * (4 * below(32) + below(3)) + 1;

        k = direct ? 0 : slot_with(p, true, true);
        if (k == SLOTS)
            return;
        B(0xc7, 0x04, 0x25);
        put32(p, (direct ? POOL + f * 0x1000 : WINDOW + k * 0x1000) + at);
        put32(p, (uint32_t)rnd());
    } else { /* call one: mov $n, %edi; mov $V, %eax; call *%rax; add %rax, %r8 */
        const unsigned i = below(128);

        k = slot_with(p, true, i % 4 == 3);
        if (k == SLOTS)
            return;
        B(0xbf, (uint8_t)(1 + below(5)), 0, 0, 0, 0xb8);
        put32(p, WINDOW + k * 0x1000 + 32 * i);
        B(0xff, 0xd0, 0x49, 0x01, 0xc0);
    }
}

static void loop(struct program *p)
{
    B(0xb9);
    put32(p, 1 + below(6));
    const unsigned top = p->n;

    for (unsigned i = 1 + below(6); i; i--)
        access(p);
    B(0xff, 0xc9, 0x0f, 0x85); /* dec %ecx; jnz */
    put32(p, top - (p->n + 4));
}

static void remap(struct program *p)
{
    const unsigned k = below(SLOTS);
    const uint32_t v = WINDOW + k * 0x1000;

    p->pte[p->space][k] = some_pte();
    rax_is(p, p->pte[p->space][k]);
    B(0x48, 0x89, 0x04, 0x25); /* mov %rax, PTE */
    put32(p, TABLES(p->space) + 0x3000 + ((WINDOW >> 12) & 511) * 8 + k * 8);
    B(0x0f, 0x01, 0x3c, 0x25); /* invlpg */
    put32(p, v);
}

static void go_to(struct program *p, unsigned s, bool keep)
{
    rax_is(p, TABLES(s) | (s + 1) | (keep ? 1ull << 63 : 0));
    B(0x0f, 0x22, 0xd8);
    p->space = s;
}

static void make(struct program *p)
{
    memset(p, 0, sizeof(*p));
    for (unsigned s = 0; s < SPACES; s++)
        for (unsigned k = 0; k < SLOTS; k++)
            p->first[s][k] = p->pte[s][k] = some_pte();
    for (unsigned i = 20 + below(60); i && p->n < PROGRAM_MAX - 600; i--) {
        const unsigned kind = below(16);

        if (kind < 8)
            loop(p);
        else if (kind < 11)
            remap(p);
        else if (kind < 14)
            go_to(p, below(SPACES), below(4) != 0);
        else if (kind == 14)
            access(p);
        else if (below(12) == 0) { /* to where nothing is, or what is read-only: the end */
            const unsigned k = below(SLOTS);

            if ((p->pte[p->space][k] & 3) == 3)
                continue;
            B(0x88, 0x04, 0x25);
            put32(p, WINDOW + k * 0x1000);
        }
    }
    B(0xf4);
}

/* --- running --------------------------------------------------------------------------------------- */

struct result {
    struct im_seen seen;
    uint64_t cr3;
    uint8_t pool[PAGES << 12], tables[SPACES][0x1000];
};

static void run(struct im *m, bool single, const struct program *p, uint64_t seed, struct result *out)
{
    const uint64_t keep = rng;
    struct x86_cpu *c = &m->v->cpu;
    uint8_t *ram = m->vm->ram;

    rng = seed;
    im_put(m, 0x80000, p->code, p->n);
    im_random_words(m, POOL + (FUNCTIONS << 12), (PAGES - FUNCTIONS) << 12);
    for (unsigned i = 0; i < FUNCTIONS << 12; i += 32) {
        const uint8_t f[32] = {0xb8, (uint8_t)rnd(), (uint8_t)i, 1, 0, 0xc3};
        /* Every fourth: the sum of EDI and all below, each put into the ADD that adds it */
        static const uint8_t sum[32] = {0x31, 0xc0, 0x89, 0x3d, 3, 0, 0, 0, 0x90, 0x90, 0x05, 0, 0, 0, 0, 0xff, 0xcf, 0x75, 0xef, 0xc3};

        memcpy(ram + POOL + i, i / 32 % 4 == 3 ? sum : f, 32);
    }
    vm_ram_written(m->vm, NULL, POOL, PAGES << 12);
    im_long(m, m->v);
    for (unsigned s = 0; s < SPACES; s++) {
        uint64_t *t = (uint64_t *)(void *)(ram + TABLES(s));

        memset(t, 0, 0x4000);
        t[0] = (TABLES(s) + 0x1000) | 0x27;
        t[512] = (TABLES(s) + 0x2000) | 0x27;
        for (unsigned i = 0; i < 16; i++)
            t[1024 + i] = i * 0x200000ull | 0xe7;
        t[1024 + (WINDOW >> 21)] = (TABLES(s) + 0x3000) | 0x27;
        memcpy(t + 1536 + ((WINDOW >> 12) & 511), p->first[s], sizeof(p->first[s]));
    }
    vm_ram_written(m->vm, NULL, TABLES(0), SPACES * 0x4000);
    c->cr4 |= X86_CR4_PCIDE;
    c->cr3 = TABLES(0) | 1;
    c->cr2 = 0;
    im_common(m->v, 0x80000);
    c->gpr[X86_R8] = rnd();
    rng = keep;
    memset(out, 0, sizeof(*out));
    im_see(m, single, &out->seen);
    out->cr3 = c->cr3;
    memcpy(out->pool, ram + POOL, sizeof(out->pool));
    for (unsigned s = 0; s < SPACES; s++)
        memcpy(out->tables[s], ram + TABLES(s) + 0x3000, 0x1000);
}

static void spaces(void **state)
{
    static struct result a, b;
    static struct program p;
    const unsigned rounds = random_rounds(400);
    struct im *m = im_new_as(1, USER_CODE_TRANSLATED);
    unsigned whole = 0;

    (void)state;
    for (unsigned r = 0; r < rounds; r++) {
        const uint64_t before = rng;

        make(&p);
        const uint64_t seed = rnd() | 1;

        run(m, false, &p, seed, &a);
        run(m, true, &p, seed, &b);
        whole += a.seen.rip == 0x80000 + p.n;
        if (memcmp(&a, &b, sizeof(a))) {
            for (unsigned i = 0; i < sizeof(a.pool); i++)
                if (a.pool[i] != b.pool[i])
                    fprintf(stderr, "pool+%x %02x %02x\n", i, a.pool[i], b.pool[i]);
            for (unsigned i = 0; i < SPACES; i++)
                if (memcmp(a.tables[i], b.tables[i], sizeof(a.tables[i])))
                    fprintf(stderr, "page table %u differs\n", i);
            im_print_seen(&a.seen, &b.seen);
            im_print_pair("cr", 3, a.cr3, b.cr3);
            fail_msg("round %u differs (RINGER_SEED=0x%llx RINGER_ROUNDS=1)", r, (unsigned long long)before);
        }
    }
    if (rounds >= 100)
        assert_in_range(whole, rounds / 4, rounds - 1);
    im_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(spaces)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
