/*
 * What tests that run random programs through engine translate share: rounds, the comparison with the interpreter, the programs' ends and the
 * memory that they run in. A test may define RANDOM_SEED before (tests/random.h).
 */
#ifndef TESTS_TRANSLATE_RANDOM_H
#define TESTS_TRANSLATE_RANDOM_H

#include "tests/random.h"
#include "tests/unit/translate_fixture.h"

static inline void im_random_bytes(void *p, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        ((uint8_t *)p)[i] = (uint8_t)rnd();
}

static inline void im_random_words(struct im *m, uint64_t gpa, unsigned size)
{
    for (unsigned i = 0; i < size; i += 8)
        memcpy(m->vm->ram + gpa + i, &(uint64_t){rnd()}, 8);
}

/* General registers; the stack pointer too? */
static inline void im_random_gpr(struct x86_cpu *c, bool rsp)
{
    for (unsigned i = 0; i < 16; i++)
        if (rsp || i != X86_RSP)
            c->gpr[i] = rnd();
}

/* A page of HLT that begins with the program. */
static inline void im_put_alone(struct im *m, const uint8_t *code, unsigned n)
{
    memset(m->vm->ram + IM_CODE, 0xf4, 0x1000);
    im_put(m, IM_CODE, code, n);
}

/* dec %r15; jnz to the start; hlt. Returns the size with them. */
static inline unsigned im_loop_end(uint8_t *code, unsigned n)
{
    memcpy(code + n, "\x49\xff\xcf\x0f\x85", 5);
    memcpy(code + n + 5, &(int32_t){-(int32_t)(n + 9)}, 4);
    code[n + 9] = 0xf4;
    return n + 10;
}

/* Rounds on one machine, half of them with either kind of checks. A round fails by itself; those that returned true are counted. */
static inline unsigned im_rounds(unsigned rounds, bool (*round)(struct im *m, unsigned r))
{
    struct im *m = im_new(1);
    unsigned whole = 0;

    for (unsigned r = 0; r < rounds; r++) {
        if (r == rounds / 2)
            im_checks(m, !translate_of(m->v)->one);
        whole += round(m, r);
    }
    im_free(m);
    return whole;
}

struct result; /* each test's own: what it compares, a struct im_seen first */

struct im_test {
    void (*begin)(struct im *m, const uint8_t *code, unsigned n); /* put the program and a random state, the same with the same seed */
    void (*see)(struct im *m, struct result *out);                /* what else is compared than im_seen */
    void (*print)(const struct result *a, const struct result *b);
    struct result *a, *b; /* room for the translated run and the other */
    size_t size;
};

static inline struct im_seen *im_seen_of(struct result *r) { return (struct im_seen *)(void *)r; }

/* The program in both ways from the same state; the test fails where they differ. Returns what both have come to, until the next. */
static inline const struct im_seen *im_compare(struct im *m, unsigned round, const uint8_t *code, unsigned n, const struct im_test *t)
{
    const uint64_t seed = rnd() | 1, keep = rng;

    for (unsigned single = 0; single < 2; single++) {
        struct result *out = single ? t->b : t->a;

        rng = seed;
        t->begin(m, code, n);
        rng = keep;
        memset(out, 0, t->size);
        im_see(m, single, im_seen_of(out));
        t->see(m, out);
    }
    if (memcmp(t->a, t->b, t->size)) {
        t->print(t->a, t->b);
        im_fail(round, im_seen_of(t->a), im_seen_of(t->b), code, n);
    }
    return im_seen_of(t->a);
}

/* Pages of random rights from IM_DATA on, in the page table at IM_PT. */
#define IM_PAGES 16u
#define IM_PT 0x8000u

static inline uint64_t *im_pt(struct im *m) { return (uint64_t *)(void *)(m->vm->ram + IM_PT); }
static inline uint64_t *im_pd(struct im *m) { return (uint64_t *)(void *)(m->vm->ram + 0x3000); } /* im_long's */

/* beyond: map the pages behind them, too. no_ram: there may be some without RAM. The caller puts IM_PT into the page directory. */
static inline void im_random_pages(struct im *m, bool beyond, bool no_ram)
{
    uint64_t *pt = im_pt(m);

    for (unsigned i = 0; i < 512; i++)
        pt[i] = beyond || i < IM_PAGES ? IM_DATA + i * 0x1000 + 0x63 : 0;
    for (unsigned i = 0; i < IM_PAGES; i++) {
        switch (rnd() % 24) {
        case 0: pt[i] &= ~0x40ull; break;             /* clean */
        case 1: pt[i] &= ~0x60ull; break;             /* not accessed */
        case 2: pt[i] &= ~0x42ull; break;             /* read-only */
        case 3: pt[i] = rnd() % 2 ? pt[i] : 0; break; /* absent */
        case 4: pt[i] = (rnd() % 2 ? IM_CODE : IM_CODE + 0x1000) | 0x61; break; /* the program, which must stay as it is */
        case 5: case 6: pt[i] = pt[rnd() % (i + 1)]; break; /* another name of a page */
        case 7: pt[i] = no_ram ? 0xfee00000 | 0x73 : pt[i]; break;
        default: break;
        }
    }
}

/* Memory as it is after a run: those pages, their entries, and the program. */
struct im_memory {
    uint64_t pt[IM_PAGES];
    uint8_t data[IM_PAGES << 12], code[0x1000];
};

static inline void im_see_memory(struct im *m, struct im_memory *out)
{
    memcpy(out->pt, im_pt(m), sizeof(out->pt));
    memcpy(out->data, m->vm->ram + IM_DATA, sizeof(out->data));
    memcpy(out->code, m->vm->ram + IM_CODE, sizeof(out->code));
}

static inline void im_print_memory(const struct im_memory *a, const struct im_memory *b)
{
    for (unsigned i = 0; i < IM_PAGES; i++)
        fprintf(stderr, "%2u pte %016llx %016llx%s\n", i, (unsigned long long)a->pt[i], (unsigned long long)b->pt[i],
                memcmp(a->data + (i << 12), b->data + (i << 12), 4096) ? " contents differ" : "");
    if (memcmp(a->code, b->code, sizeof(a->code)))
        fprintf(stderr, "the program differs\n");
}

#endif
