/*
 * For tests of engine translate that run on either kind of its checks (struct translate.one), whatever the host prefers, and for those that
 * run a program both translated and by the interpreter, one instruction at a time, and compare what came of it.
 */
#ifndef TESTS_TRANSLATE_FIXTURE_H
#define TESTS_TRANSLATE_FIXTURE_H

#include <stdio.h>

#include "engine/translate/translate.h"
#include "tests/unit/interp_fixture.h"

static inline void im_checks(struct im *m, int one)
{
    struct translate *x = translate_of(m->v);

    tr_flush(x);
    tr_cache_fini(x);
    assert_int_equal(tr_cache_init(x, one), 0);
}

/* What all of them compare; each adds its own behind it. */
struct im_seen {
    uint64_t gpr[16], rip, flags, insns, cr2;
};

/* Run to HLT or the first fault (there are no handlers), translated or one instruction at a time. CR2 is the caller's to begin with. */
static inline void im_see(struct im *m, bool single, struct im_seen *out)
{
    struct x86_cpu *c = &m->v->cpu;

    c->idtr = (struct x86_dtr){0, 0};
    m->v->insns = 0;
    im_single(m, single);
    im_run(m, m->v);
    memcpy(out->gpr, c->gpr, sizeof(out->gpr));
    out->rip = c->rip;
    out->flags = x86_get_rflags(c) & ~(uint64_t)X86_FL_RF;
    out->insns = m->v->insns;
    out->cr2 = c->cr2;
}

/* A pair of values, if they differ. */
static inline void im_print_pair(const char *name, unsigned i, uint64_t a, uint64_t b)
{
    if (a != b)
        fprintf(stderr, "%s %u: %llx %llx\n", name, i, (unsigned long long)a, (unsigned long long)b);
}

static inline void im_print_seen(const struct im_seen *a, const struct im_seen *b)
{
    for (unsigned i = 0; i < 16; i++)
        fprintf(stderr, "%2u gpr %016llx %016llx%s\n", i, (unsigned long long)a->gpr[i], (unsigned long long)b->gpr[i],
                a->gpr[i] != b->gpr[i] ? " differs" : "");
    fprintf(stderr, "rip %llx %llx flags %llx %llx cr2 %llx %llx insns %llu %llu\n", (unsigned long long)a->rip, (unsigned long long)b->rip,
            (unsigned long long)a->flags, (unsigned long long)b->flags, (unsigned long long)a->cr2, (unsigned long long)b->cr2,
            (unsigned long long)a->insns, (unsigned long long)b->insns);
}

/* A round has failed: print both states and the program. */
static inline void im_fail(unsigned round, const struct im_seen *a, const struct im_seen *b, const uint8_t *code, unsigned n)
{
    im_print_seen(a, b);
    for (unsigned i = 0; i < n; i++)
        fprintf(stderr, "%02x ", code[i]);
    fail_msg("round %u differs", round);
}

#endif
