/* Four levels of page tables in the RAM of cpu_fixture.h. */
#ifndef PAGING_FIXTURE_H
#define PAGING_FIXTURE_H

#include "cpu_fixture.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX (1ull << 63)
#define LIN 0x00007f1234567000ull
#define TABLE(i) (0x100000ull + (i)*0x1000ull)
#define DATA 0x200000ull

static inline struct fx *fx64(unsigned phys_bits)
{
    struct fx *f = fx_new(phys_bits);

    f->c->cr0 |= X86_CR0_PG | X86_CR0_WP;
    f->c->cr4 = X86_CR4_PAE;
    f->c->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    f->c->cr3 = TABLE(0);
    f->c->mode = X86_MODE_64;
    x86_mmu_update_ctx(f->c);
    return f;
}

static inline uint64_t slot(unsigned level, uint64_t lin)
{
    return TABLE(4 - level) + (lin >> (12 + 9 * (level - 1)) & 511) * 8;
}

/* flags[i]: entry bits of level 4-i; leaf_level 1, 2 or 3. */
static inline void map64(struct fx *f, uint64_t lin, uint64_t gpa, const uint64_t flags[4], unsigned leaf_level)
{
    for (unsigned level = 4; level > leaf_level; level--)
        fx_put64(f, slot(level, lin), TABLE(4 - level + 1) | flags[4 - level]);
    fx_put64(f, slot(leaf_level, lin), gpa | flags[4 - leaf_level] | (leaf_level > 1 ? PS : 0));
}

static inline void expect_pf(struct fx *f, int result, uint64_t lin, uint32_t err)
{
    assert_int_equal(result, X86_FAULT);
    assert_int_equal(f->c->exc.vector, X86_PF);
    assert_true(f->c->exc.has_error);
    assert_int_equal(f->c->exc.error, err);
    assert_int_equal(f->c->exc.cr2, lin);
}

static const uint64_t all_rights[4] = {P | W | U, P | W | U, P | W | U, P | W | U};

static inline void map_page(struct fx *f, uint64_t lin, uint64_t gpa, uint64_t leaf)
{
    uint64_t fl[4] = {P | W | U, P | W | U, P | W | U, leaf};

    map64(f, lin, gpa, fl, 1);
}

#endif
