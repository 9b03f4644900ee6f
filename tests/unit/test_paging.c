/*
 * Page walks, access rights, A/D bits, error codes and the TLB. The expected
 * outcome of every combination of rights comes from oracle(), which is written
 * from the tables of SDM Vol. 3A, 4.6.1 and 4.7 and shares nothing with the walker.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "paging_fixture.h"

static int walk(struct fx *f, uint64_t lin, int access, bool user, bool implicit, struct x86_xlat *x)
{
    memset(&f->c->exc, 0xee, sizeof(f->c->exc));
    return x86_walk(f->c, lin, access, user, implicit, x);
}

/* --- the oracle -------------------------------------------------------- */

struct situation {
    bool user_access, implicit, ac, wp, smep, smap, nxe, pae;
    int access;
    bool page_user, page_writable, page_nx; /* combined over levels */
};

static bool oracle(const struct situation *s)
{
    bool exec = s->access == X86_EXEC, write = s->access == X86_WRITE;

    if (s->user_access) {
        if (!s->page_user)
            return false;
        if (exec)
            return !(s->nxe && s->page_nx);
        return !write || s->page_writable;
    }
    if (exec) {
        if (s->page_user && s->smep)
            return false;
        return !(s->nxe && s->page_nx);
    }
    if (s->page_user && s->smap) {
        if (s->implicit)
            return false;
        if (!s->ac)
            return false;
    }
    if (write && s->wp)
        return s->page_writable;
    return true;
}

static uint32_t oracle_error(const struct situation *s, bool present, bool rsvd)
{
    return (present ? 1u : 0) | (s->access == X86_WRITE ? 2u : 0) | (s->user_access ? 4u : 0) | (rsvd ? 8u : 0) |
           (s->access == X86_EXEC && (s->smep || (s->pae && s->nxe)) ? 16u : 0);
}

static void set_situation(struct fx *f, const struct situation *s)
{
    struct x86_cpu *c = f->c;

    c->cr0 = (c->cr0 & ~(uint64_t)X86_CR0_WP) | (s->wp ? X86_CR0_WP : 0);
    c->cr4 = (c->cr4 & ~(uint64_t)(X86_CR4_SMEP | X86_CR4_SMAP)) | (s->smep ? X86_CR4_SMEP : 0) |
             (s->smap ? X86_CR4_SMAP : 0);
    c->efer = (c->efer & ~(uint64_t)X86_EFER_NXE) | (s->nxe ? X86_EFER_NXE : 0);
    c->fl_sys = X86_FL_1 | (s->ac ? X86_FL_AC : 0);
}

/* Every right at every level, every mode bit, every kind of access, 4 KiB, 2 MiB and 1 GiB pages. */
static void rights_long_mode(void **state)
{
    struct fx *f = fx64(40);

    (void)state;
    for (unsigned leaf = 1; leaf <= 3; leaf++)
        for (unsigned spoil = 0; spoil < 64; spoil++) /* which right is missing, and at which level */
            for (unsigned mode = 0; mode < 64; mode++)
                for (unsigned acc = 0; acc < 12; acc++) {
                    struct situation s = {.pae = true};
                    uint64_t fl[4];
                    unsigned bad_level = leaf + spoil / 8 % (5 - leaf);
                    struct x86_xlat x;
                    uint64_t gpa = leaf == 3 ? 0x40000000 : leaf == 2 ? 0x400000 : DATA;
                    int r;

                    if (spoil / 8 >= 5 - leaf)
                        continue;
                    s.wp = mode & 1;
                    s.smep = mode & 2;
                    s.smap = mode & 4;
                    s.nxe = mode & 8;
                    s.ac = mode & 16;
                    s.implicit = mode & 32;
                    s.access = (int)(acc % 3);
                    s.user_access = acc / 3 & 1;
                    if (s.user_access && s.implicit)
                        continue;
                    s.page_user = !(spoil & 1);
                    s.page_writable = !(spoil & 2);
                    s.page_nx = spoil & 4;
                    if (s.page_nx && !s.nxe)
                        continue; /* reserved: elsewhere */
                    for (unsigned level = 1; level <= 4; level++) {
                        fl[4 - level] = P | W | U | (acc >= 6 ? A | D : 0);
                        if (level == bad_level)
                            fl[4 - level] = P | (s.page_user ? U : 0) | (s.page_writable ? W : 0) |
                                            (s.page_nx ? NX : 0) | (acc >= 6 ? A | D : 0);
                    }
                    map64(f, LIN, gpa, fl, leaf);
                    set_situation(f, &s);
                    r = walk(f, LIN + 0x123, s.access, s.user_access, s.implicit, &x);
                    if (!oracle(&s)) {
                        expect_pf(f, r, LIN + 0x123, oracle_error(&s, true, false));
                        /* the leaf is as it was */
                        assert_int_equal(fx_get64(f, slot(leaf, LIN)) & (A | D), acc >= 6 ? A | D : 0);
                    } else {
                        struct situation w = s;

                        assert_int_equal(r, X86_OK);
                        assert_int_equal(x.page_size, 1ull << (12 + 9 * (leaf - 1)));
                        assert_int_equal(x.gpa, gpa | ((LIN + 0x123) & (x.page_size - 1)));
                        for (unsigned level = 4; level > leaf; level--)
                            assert_int_equal(fx_get64(f, slot(level, LIN)) & A, A);
                        assert_int_equal(fx_get64(f, slot(leaf, LIN)) & (A | D),
                                         acc >= 6 || s.access == X86_WRITE ? A | D : A);
                        w.access = X86_WRITE;
                        if (s.access != X86_EXEC)
                            assert_int_equal(x.writable, (acc >= 6 || s.access == X86_WRITE) && oracle(&w));
                    }
                }
    fx_free(f);
}

static void not_present_and_reserved(void **state)
{
    (void)state;
    for (unsigned m = 36; m <= 46; m += 5) {
        struct fx *f = fx64(m);
        struct x86_xlat x;

        for (unsigned leaf = 1; leaf <= 3; leaf++)
            for (unsigned level = leaf; level <= 4; level++)
                for (unsigned acc = 0; acc < 6; acc++) {
                    struct situation s = {
                        .pae = true, .wp = true, .nxe = true, .access = (int)(acc % 3), .user_access = acc >= 3};
                    uint64_t fl[4] = {P | W | U, P | W | U, P | W | U, P | W | U};

                    set_situation(f, &s);
                    fl[4 - level] &= ~(uint64_t)P;
                    fl[4 - level] |= 1ull << 51; /* ignored in an entry that is not present */
                    map64(f, LIN, 0, fl, leaf);
                    expect_pf(f, walk(f, LIN, s.access, s.user_access, false, &x), LIN, oracle_error(&s, false, false));

                    for (unsigned bit = 3; bit < 64; bit++) {
                        bool rsvd = (bit >= m && bit <= 51) || (level == 4 && bit == 7) ||
                                    (level == leaf && leaf == 3 && bit >= 13 && bit <= 29) ||
                                    (level == leaf && leaf == 2 && bit >= 13 && bit <= 20);
                        int r;

                        if (bit == 7 && level < 4)
                            continue; /* page size */
                        if (bit == 63 || (bit > 11 && bit < m && !rsvd))
                            continue; /* NX, address */
                        for (unsigned i = 0; i < 4; i++)
                            fl[i] = P | W | U;
                        fl[4 - level] |= 1ull << bit;
                        map64(f, LIN, 0, fl, leaf);
                        r = walk(f, LIN, s.access, s.user_access, false, &x);
                        if (rsvd)
                            expect_pf(f, r, LIN, oracle_error(&s, true, true));
                        else
                            assert_int_equal(r, X86_OK);
                    }
                    /* NX without NXE is reserved */
                    s.nxe = false;
                    set_situation(f, &s);
                    for (unsigned i = 0; i < 4; i++)
                        fl[i] = P | W | U;
                    fl[4 - level] |= NX;
                    map64(f, LIN, 0, fl, leaf);
                    expect_pf(f, walk(f, LIN, s.access, s.user_access, false, &x), LIN, oracle_error(&s, true, true));
                    /* reserved beats rights: a supervisor page with a reserved bit, touched by user code */
                    fl[4 - level] &= ~(uint64_t)U;
                    map64(f, LIN, 0, fl, leaf);
                    expect_pf(f, walk(f, LIN, s.access, true, false, &x), LIN,
                              oracle_error(&(struct situation){.pae = true, .access = s.access, .user_access = true},
                                           true, true));
                }
        fx_free(f);
    }
}

/* 32-bit paging: no NX, PSE with and without CR4.PSE, PSE-36 address bits and its reserved bits. */
static void rights_32bit(void **state)
{
    (void)state;
    for (unsigned m = 36; m <= 44; m += 4) {
        struct fx *f = fx_new(m);
        struct x86_xlat x;
        uint32_t lin = 0xc0400000 + 0x5678;
        uint64_t pde = TABLE(0) + (lin >> 22) * 4, pte = TABLE(1) + (lin >> 12 & 1023) * 4;

        f->c->cr0 |= X86_CR0_PG;
        f->c->cr3 = TABLE(0) | 0x18;
        for (unsigned big = 0; big < 2; big++)
            for (unsigned spoil = 0; spoil < 8; spoil++)
                for (unsigned mode = 0; mode < 64; mode++)
                    for (unsigned acc = 0; acc < 6; acc++) {
                        struct situation s = {.access = (int)(acc % 3), .user_access = acc >= 3};
                        uint32_t leaf_fl = P | (spoil & 1 ? 0 : U) | (spoil & 2 ? 0 : W), top = P | U | W, t;
                        bool at_top = spoil & 4;
                        int r;

                        s.wp = mode & 1;
                        s.smep = mode & 2;
                        s.smap = mode & 4;
                        s.nxe = mode & 8; /* means nothing without PAE */
                        s.ac = mode & 16;
                        s.implicit = (mode & 32) && !s.user_access;
                        s.page_user = !(spoil & 1);
                        s.page_writable = !(spoil & 2);
                        f->c->cr4 = big ? X86_CR4_PSE : 0;
                        set_situation(f, &s);
                        if (big) {
                            fx_put32(f, pde, 0x00c00000 | PS | leaf_fl);
                        } else {
                            /* without CR4.PSE the PS bit says nothing */
                            t = at_top ? leaf_fl : top;
                            fx_put32(f, pde, (uint32_t)TABLE(1) | t | (mode & 1 ? PS : 0));
                            fx_put32(f, pte, (uint32_t)DATA | (at_top ? top : leaf_fl));
                        }
                        r = walk(f, lin, s.access, s.user_access, s.implicit, &x);
                        if (oracle(&s)) {
                            assert_int_equal(r, X86_OK);
                            assert_int_equal(x.gpa, big ? 0x00c00000u | (lin & 0x3fffff) : DATA | (lin & 0xfff));
                            assert_int_equal(x.page_size, big ? 0x400000 : 4096);
                            assert_int_equal(fx_get32(f, pde) & (A | D), A | (big && s.access == X86_WRITE ? D : 0));
                            if (!big)
                                assert_int_equal(fx_get32(f, pte) & (A | D), A | (s.access == X86_WRITE ? D : 0));
                        } else {
                            expect_pf(f, r, lin, oracle_error(&s, true, false));
                        }
                    }
        /* PSE-36 */
        f->c->cr4 = X86_CR4_PSE;
        f->c->efer = 0;
        f->c->fl_sys = X86_FL_1;
        for (unsigned bit = 13; bit <= 21; bit++) {
            unsigned limit = (m > 40 ? 40 : m) - 32 + 13; /* first bit that is reserved */
            int r;

            fx_put32(f, pde, 0x00c00000u | PS | P | W | U | 1u << bit);
            r = walk(f, lin, X86_READ, false, false, &x);
            if (bit >= limit) {
                expect_pf(f, r, lin, 1 | 8);
            } else {
                assert_int_equal(r, X86_OK);
                assert_int_equal(x.gpa, (1ull << (bit - 13 + 32)) | 0x00c00000u | (lin & 0x3fffff));
            }
        }
        fx_put32(f, pde, 0);
        expect_pf(f, walk(f, lin, X86_WRITE, true, false, &x), lin, 2 | 4);
        fx_free(f);
    }
}

static void pae(void **state)
{
    struct fx *f = fx_new(40);
    struct x86_xlat x;
    uint32_t lin = 0x80601abc;
    uint64_t pde = TABLE(1) + (lin >> 21 & 511) * 8, pte = TABLE(2) + (lin >> 12 & 511) * 8;
    struct situation s = {.pae = true, .nxe = true, .wp = true};

    (void)state;
    f->c->cr0 |= X86_CR0_PG;
    f->c->cr4 = X86_CR4_PAE;
    set_situation(f, &s);
    f->c->pdptr[2] = TABLE(1) | P;
    fx_put64(f, pde, TABLE(2) | P | W | U);
    fx_put64(f, pte, 0x2345678000ull | P | U | NX | G);
    assert_int_equal(walk(f, lin, X86_READ, true, false, &x), X86_OK);
    assert_int_equal(x.gpa, 0x2345678abcull);
    assert_false(x.global);
    f->c->cr4 |= X86_CR4_PGE;
    assert_int_equal(walk(f, lin, X86_READ, true, false, &x), X86_OK);
    assert_true(x.global);
    expect_pf(f, walk(f, lin, X86_EXEC, true, false, &x), lin, 1 | 4 | 16);
    expect_pf(f, walk(f, lin, X86_WRITE, false, false, &x), lin, 1 | 2);
    /* bits 62:MAXPHYADDR are reserved, unlike in 4-level paging */
    for (unsigned bit = 40; bit < 63; bit++) {
        fx_put64(f, pte, DATA | P | W | U | 1ull << bit);
        expect_pf(f, walk(f, lin, X86_READ, false, false, &x), lin, 1 | 8);
        fx_put64(f, pte, DATA | P | W | U);
        fx_put64(f, pde, TABLE(2) | P | W | U | 1ull << bit);
        expect_pf(f, walk(f, lin, X86_READ, false, false, &x), lin, 1 | 8);
        fx_put64(f, pde, TABLE(2) | P | W | U);
    }
    fx_put64(f, pde, 0x600000 | P | W | U | PS);
    assert_int_equal(walk(f, lin, X86_WRITE, false, false, &x), X86_OK);
    assert_int_equal(x.gpa, 0x600000 | (lin & 0x1fffff));
    assert_int_equal(x.page_size, 0x200000);
    assert_int_equal(fx_get64(f, pde) & (A | D), A | D);
    fx_put64(f, pde, 0x602000 | P | W | U | PS);
    expect_pf(f, walk(f, lin, X86_WRITE, false, false, &x), lin, 1 | 8 | 2);
    /* the register decides, not memory; a PDPTE has no rights */
    f->c->pdptr[2] = 0;
    expect_pf(f, walk(f, lin, X86_EXEC, true, false, &x), lin, 4 | 16);
    fx_free(f);
}

/* Random tables in all four paging modes: each level has its own rights, presence and reserved bits. */
static void random_tables(void **state)
{
    enum { LONG, PAE_MODE, BITS32, BITS32_PSE };
    static const uint8_t first_level[] = {4, 2, 2, 2};
    struct fx *f = fx_new(40);
    unsigned faults = 0, goods = 0;
    unsigned long long rng = 88172645463325252ull;

    (void)state;
    f->c->cr3 = TABLE(0);
    f->c->pdptr[2] = TABLE(2) | P; /* so that PAE's directory lies where slot() has it */
    for (unsigned round = 0; round < 400000; round++) {
        uint32_t dice, how;
        unsigned mode, level, leaf, esize;
        struct situation s = {0};
        uint64_t lin, page_size, base = 0, a;
        bool present = true, rsvd = false, used[5] = {false};
        struct x86_xlat x;
        int r;

        rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
        dice = (uint32_t)(rng >> 32);
        how = (uint32_t)rng;
        mode = dice & 3;
        s.wp = dice >> 2 & 1, s.smep = dice >> 3 & 1, s.smap = dice >> 4 & 1, s.ac = dice >> 5 & 1,
        s.nxe = dice >> 6 & 1;
        s.access = dice >> 7 & 3;
        if (s.access == 3)
            s.access = X86_WRITE;
        s.user_access = dice >> 9 & 1;
        s.implicit = !s.user_access && (dice >> 10 & 1);
        s.pae = mode <= PAE_MODE;
        esize = s.pae ? 8 : 4;
        lin = mode == LONG ? LIN + 0x5a8 : 0x9a3455a8;
        f->c->cr0 = X86_CR0_PE | X86_CR0_PG;
        f->c->cr4 = (s.pae ? X86_CR4_PAE : 0) | (mode == BITS32_PSE ? X86_CR4_PSE : 0);
        f->c->efer = mode == LONG ? X86_EFER_LME | X86_EFER_LMA : 0;
        set_situation(f, &s);
        leaf = 1 + (how & 1) + (mode == LONG && (how & 6) == 0);
        if (mode == BITS32)
            leaf = 1;
        page_size = s.pae ? 1ull << (12 + 9 * (leaf - 1)) : leaf == 2 ? 0x400000 : 0x1000;
        s.page_user = s.page_writable = true;
        s.page_nx = false;
        for (level = first_level[mode]; level >= leaf; level--) {
            unsigned b = how >> (3 + 6 * (level - 1)) & 63;
            uint64_t e = P | (b & 3 ? U : 0) | (b & 12 ? W : 0) | (dice >> (12 + level) & 1 ? A | D : 0);
            bool bad = false;

            if (b == 1) {
                e &= ~(uint64_t)P;
            } else if (esize == 8) {
                if (b == 20)
                    e |= 1ull << 41, bad = true;
                if (b == 21)
                    e |= 1ull << 55, bad = mode == PAE_MODE; /* ignored in 4-level paging */
                if (b == 22 && level == 4)
                    e |= PS, bad = true;
                if (b == 23 && level == leaf && leaf > 1)
                    e |= 1u << 14, bad = true;
                if (b >= 48 && b < 54)
                    e |= NX, bad = !s.nxe;
            } else if (b == 24 && level == 2 && leaf == 2) {
                e |= 1u << 21, bad = true;
            }
            if (level == leaf) {
                base = leaf == 1 ? DATA : 0;
                e |= base | (leaf > 1 ? PS : 0);
            } else {
                e |= esize == 8 ? TABLE(4 - level + 1) : TABLE(3);
            }
            if (present && !rsvd) {
                used[level] = true;
                if (!(e & P))
                    present = false;
                else if (bad)
                    rsvd = true;
                s.page_user &= !!(e & U);
                s.page_writable &= !!(e & W);
                s.page_nx |= e >> 63;
            }
            if (mode == LONG || mode == PAE_MODE)
                fx_put64(f, slot(level, lin), e);
            else
                fx_put32(f, (level == 2 ? TABLE(0) : TABLE(3)) + (level == 2 ? lin >> 22 : lin >> 12 & 1023) * 4,
                         (uint32_t)e);
        }
        r = walk(f, lin, s.access, s.user_access, s.implicit, &x);
        if (!present || rsvd || !oracle(&s)) {
            expect_pf(f, r, lin, oracle_error(&s, present, rsvd));
            faults++;
        } else {
            assert_int_equal(r, X86_OK);
            assert_int_equal(x.gpa, base | (lin & (page_size - 1)));
            for (level = leaf; level <= first_level[mode]; level++) {
                a = esize == 8 ? fx_get64(f, slot(level, lin))
                               : fx_get32(f, (level == 2 ? TABLE(0) : TABLE(3)) +
                                                 (level == 2 ? lin >> 22 : lin >> 12 & 1023) * 4);
                assert_true(used[level] && (a & A));
                if (level == leaf && s.access == X86_WRITE)
                    assert_true(a & D);
            }
            goods++;
        }
    }
    assert_true(faults > 50000 && goods > 50000); /* both kinds were really met */
    fx_free(f);
}

/* --- accesses through the TLB ------------------------------------------------- */

static void page_crossing(void **state)
{
    struct fx *f = fx64(40);
    uint64_t v = 0x8877665544332211;
    uint8_t big[4096];

    (void)state;
    map_page(f, LIN, DATA, P | W | U);
    map_page(f, LIN + 0x1000, DATA + 0x5000, P | U); /* read-only */
    expect_pf(f, x86_lin_write(f->c, LIN + 0xffc, &v, 8), LIN + 0x1000, 3);
    assert_int_equal(fx_get32(f, DATA + 0xffc), 0); /* nothing was written */
    map_page(f, LIN + 0x1000, DATA + 0x5000, P | W | U);
    x86_tlb_flush_all(f->c);
    assert_int_equal(x86_lin_write(f->c, LIN + 0xffd, &v, 8), X86_OK);
    assert_int_equal(f->ram[DATA + 0xffd], 0x11);
    assert_int_equal(f->ram[DATA + 0xfff], 0x33);
    assert_int_equal(f->ram[DATA + 0x5000], 0x44);
    assert_int_equal(f->ram[DATA + 0x5004], 0x88);
    v = 0;
    assert_int_equal(x86_lin_read(f->c, LIN + 0xffd, &v, 8), X86_OK);
    assert_true(v == 0x8877665544332211);
    for (unsigned i = 0; i < sizeof(big); i++)
        big[i] = (uint8_t)(i * 7);
    assert_int_equal(x86_lin_write(f->c, LIN + 0x800, big, sizeof(big)), X86_OK);
    memset(big, 0, sizeof(big));
    assert_int_equal(x86_lin_read(f->c, LIN + 0x800, big, sizeof(big)), X86_OK);
    for (unsigned i = 0; i < sizeof(big); i++)
        assert_int_equal(big[i], (uint8_t)(i * 7));
    /* a read that faults on its second page has performed no bus access on the first */
    map_page(f, LIN, FX_DEV, P | W | U);
    map_page(f, LIN + 0x1000, DATA, 0);
    x86_tlb_flush_all(f->c);
    f->nio = 0;
    expect_pf(f, x86_lin_read(f->c, LIN + 0xffc, &v, 8), LIN + 0x1000, 0);
    assert_int_equal(f->nio, 0);
    assert_int_equal(x86_lin_probe(f->c, LIN + 0xffc, 4, X86_WRITE), X86_OK);
    expect_pf(f, x86_lin_probe(f->c, LIN + 0xffc, 5, X86_WRITE), LIN + 0x1000, 2);
    fx_free(f);
}

/* Without long mode the address after 0xffffffff is 0. */
static void wraps_at_4g(void **state)
{
    struct fx *f = fx_new(40);
    uint32_t v = 0;

    (void)state;
    fx_put32(f, 0, 0x44332211);
    f->io_answer = 0xaabbccdd;
    assert_int_equal(x86_lin_read(f->c, 0xfffffffe, &v, 4), X86_OK);
    assert_int_equal(v, 0x2211ccdd);
    assert_int_equal(f->io[0].addr, 0xfffffffe);
    assert_int_equal(f->io[0].size, 2);
    fx_free(f);
}

static void device_and_rom(void **state)
{
    struct fx *f = fx64(40);
    uint64_t v = 0x1122334455667788;
    void *host;

    (void)state;
    map_page(f, LIN, FX_DEV, P | W | U);
    f->io_answer = 0x99;
    for (unsigned i = 0; i < 2; i++) {
        uint8_t b = 0;

        f->nio = 0;
        assert_int_equal(x86_lin_read(f->c, LIN + 5, &b, 1), X86_OK);
        assert_int_equal(b, 0x99);
        assert_int_equal(f->nio, 1); /* not cached */
        assert_int_equal(f->io[0].addr, FX_DEV + 5);
    }
    f->nio = 0;
    assert_int_equal(x86_lin_write(f->c, LIN + 6, &v, 8), X86_OK); /* 2 + 4 + 2 */
    assert_int_equal(f->nio, 3);
    assert_int_equal(f->io[0].size, 2);
    assert_int_equal(f->io[0].data, 0x7788);
    assert_int_equal(f->io[1].size, 4);
    assert_int_equal(f->io[1].addr, FX_DEV + 8);
    assert_int_equal(f->io[1].data, 0x33445566);
    assert_int_equal(f->io[2].data, 0x1122);
    assert_int_equal(x86_lin_host(f->c, LIN, X86_READ, &host), X86_OK);
    assert_null(host);

    map_page(f, LIN + 0x1000, FX_ROM, P | W | U);
    f->nio = 0;
    assert_int_equal(x86_lin_write(f->c, LIN + 0x1000, &v, 8), X86_OK);
    assert_int_equal(x86_lin_read(f->c, LIN + 0x1000, &v, 8), X86_OK);
    assert_true(v == 0x5a5a5a5a5a5a5a5a);
    assert_int_equal(f->nio, 0);
    assert_int_not_equal(x86_tlb_host_r(f->c, LIN + 0x1000, 8), 0);
    assert_int_equal(x86_tlb_host_w(f->c, LIN + 0x1000, 8), 0);
    assert_int_equal(x86_lin_host(f->c, LIN + 0x1000, X86_WRITE, &host), X86_OK);
    assert_null(host);
    fx_free(f);
}

static void peek_has_no_effect(void **state)
{
    struct fx *f = fx64(40);
    uint64_t gpa = 0;

    (void)state;
    map_page(f, LIN, DATA, P);
    assert_true(x86_walk_peek(f->c, LIN + 0x42, &gpa));
    assert_int_equal(gpa, DATA + 0x42);
    assert_int_equal(fx_get64(f, slot(1, LIN)) & (A | D), 0);
    assert_int_equal(fx_get64(f, slot(4, LIN)) & A, 0);
    assert_false(x86_walk_peek(f->c, LIN + 0x1000, &gpa));
    fx_free(f);
}

/* Page tables in device memory and in ROM do not break the walk. */
static void odd_tables(void **state)
{
    struct fx *f = fx64(40);
    struct x86_xlat x;
    uint64_t v;

    (void)state;
    f->c->cr3 = FX_DEV;
    f->io_answer = 0; /* not present */
    expect_pf(f, walk(f, LIN, X86_READ, false, false, &x), LIN, 0);
    f->io_answer = TABLE(1) | P | W | U;
    map64(f, LIN, DATA, all_rights, 1);
    f->nio = 0;
    assert_int_equal(walk(f, LIN, X86_READ, false, false, &x), X86_OK);
    assert_int_equal(f->nio, 2); /* the entry, then its A bit */
    assert_true(f->io[1].write);
    assert_int_equal(f->io[1].data, TABLE(1) | P | W | U | A);
    f->c->cr3 = FX_ROM;
    v = TABLE(1) | P | W | U;
    for (unsigned i = 0; i < 512; i++)
        memcpy(f->rom + 8 * i, &v, 8);
    assert_int_equal(walk(f, LIN, X86_WRITE, false, false, &x), X86_OK);
    assert_int_equal(memcmp(f->rom, &v, 8), 0);
    fx_free(f);
}

/* Another processor changes an entry all the time: no update of either side is lost. */
struct race {
    uint64_t *entry;
    unsigned adds;
    atomic_bool stop;
};

static void *racer(void *arg)
{
    struct race *r = arg;

    while (!atomic_load(&r->stop)) {
        __atomic_fetch_and(r->entry, ~(uint64_t)(A | D), __ATOMIC_SEQ_CST);
        __atomic_fetch_add(r->entry, 1ull << 52, __ATOMIC_SEQ_CST);
        r->adds++;
    }
    return NULL;
}

static void racing_tables(void **state)
{
    struct fx *f = fx64(40);
    struct race r = {.entry = (uint64_t *)(f->ram + slot(1, LIN))};
    struct x86_xlat x;
    pthread_t t;

    (void)state;
    map_page(f, LIN, DATA, P | W | U);
    f->c->efer &= ~(uint64_t)X86_EFER_NXE;
    assert_int_equal(pthread_create(&t, NULL, racer, &r), 0);
    for (unsigned i = 0; i < 300000; i++) {
        int res = walk(f, LIN, X86_WRITE, false, false, &x);

        /* bit 63 comes and goes with the count: reserved then, and never anything else */
        if (res == X86_OK)
            assert_int_equal(x.gpa, DATA);
        else
            expect_pf(f, res, LIN, 1 | 2 | 8);
    }
    atomic_store(&r.stop, true);
    pthread_join(t, NULL);
    assert_int_equal(fx_get64(f, slot(1, LIN)) >> 52, r.adds & 0xfff);
    assert_int_equal(fx_get64(f, slot(1, LIN)) & 0xffffffffff000, DATA);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rights_long_mode), cmocka_unit_test(not_present_and_reserved),
        cmocka_unit_test(rights_32bit),     cmocka_unit_test(pae),
        cmocka_unit_test(random_tables),
        cmocka_unit_test(page_crossing),    cmocka_unit_test(wraps_at_4g),
        cmocka_unit_test(device_and_rom), cmocka_unit_test(peek_has_no_effect),
        cmocka_unit_test(odd_tables),       cmocka_unit_test(racing_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
