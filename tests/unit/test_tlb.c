/* The software TLB (x86/mmu.c): what it keeps, and what takes it away. */
#include "paging_fixture.h"

#define RANDOM_SEED 0x5b1f7e20c94ad863ull
#include "tests/random.h"

static void tlb_keeps_until_flushed(void **state)
{
    struct fx *f = fx64(40);
    uint32_t v = 0;

    (void)state;
    fx_put32(f, DATA, 0x11111111);
    fx_put32(f, DATA + 0x1000, 0x22222222);
    map_page(f, LIN, DATA, P | W | U);
    assert_int_equal(x86_lin_read(f->c, LIN, &v, 4), X86_OK);
    assert_int_equal(v, 0x11111111);
    assert_int_not_equal(x86_tlb_host_r(f->c, LIN + 4, 4), 0);
    assert_int_equal(x86_tlb_host_r(f->c, LIN + 0xffd, 4), 0); /* crosses */
    assert_int_equal(x86_tlb_host_w(f->c, LIN, 4), 0);         /* D not yet set */
    assert_int_equal(fx_get64(f, slot(1, LIN)) & D, 0);
    assert_int_equal(x86_lin_write(f->c, LIN + 8, &v, 4), X86_OK);
    assert_int_equal(fx_get64(f, slot(1, LIN)) & D, D);
    assert_int_not_equal(x86_tlb_host_w(f->c, LIN, 4), 0);
    assert_int_equal(f->flags[DATA / 4096], GPA_PF_WRITER(3));

    map_page(f, LIN, DATA + 0x1000, P | W | U);
    x86_lin_read(f->c, LIN, &v, 4);
    assert_int_equal(v, 0x11111111); /* stale, as the architecture allows and our fast path needs */
    x86_tlb_flush_page(f->c, LIN + 0x800);
    x86_lin_read(f->c, LIN, &v, 4);
    assert_int_equal(v, 0x22222222);
    map_page(f, LIN, DATA, P | W | U);
    x86_tlb_flush_all(f->c);
    x86_lin_read(f->c, LIN, &v, 4);
    assert_int_equal(v, 0x11111111);
    /* a fault leaves nothing behind */
    map_page(f, LIN, DATA, 0);
    x86_tlb_flush_page(f->c, LIN);
    expect_pf(f, x86_lin_read(f->c, LIN + 3, &v, 4), LIN + 3, 0);
    map_page(f, LIN, DATA, P);
    assert_int_equal(x86_lin_read(f->c, LIN, &v, 4), X86_OK);
    expect_pf(f, x86_lin_write(f->c, LIN, &v, 4), LIN, 3);
    fx_free(f);
}

/* MOV to CR3 keeps global pages, of all sizes and in all contexts, and INVLPG still finds them. */
static void global_pages(void **state)
{
    struct fx *f = fx64(40);
    struct x86_cpu *c = f->c;
    const uint64_t kernel = 0xffff888000000000, kernel2m = 0xffffffff81000000;
    const uint8_t *host;
    uint64_t gpa;
    uint32_t v = 0;

    (void)state;
    c->cr4 |= X86_CR4_PGE | X86_CR4_SMAP;
    x86_mmu_update_ctx(c);
    map_page(f, LIN, DATA, P | W | U | A | D);
    map_page(f, kernel, DATA + 0x1000, P | W | G | A | D);
    fx_put64(f, slot(4, kernel2m), 0x180000 | P | W);
    fx_put64(f, 0x180000 + (kernel2m >> 30 & 511) * 8, 0x181000 | P | W);
    fx_put64(f, 0x181000 + (kernel2m >> 21 & 511) * 8, 0x400000 | P | W | G | PS | A | D);
    for (unsigned round = 0; round < 10000; round++) { /* beyond the wrap of generations */
        c->fl_sys = X86_FL_1 | (round & 1 ? X86_FL_AC : 0);
        x86_mmu_update_ctx(c);
        if (round & 1)
            assert_int_equal(x86_lin_write(c, LIN, &v, 4), X86_OK);
        assert_int_equal(x86_lin_write(c, kernel, &v, 4), X86_OK);
        assert_int_equal(x86_lin_read(c, kernel2m + 0x5000, &v, 4), X86_OK);
        assert_int_equal(x86_fetch_page(c, kernel2m + 0x7000, &host, &gpa), X86_OK);
        uint64_t walks = c->mmu.walks;
        unsigned gen = (unsigned)c->mmu.gen;
        assert_int_equal(x86_set_cr3(c, c->cr3), X86_OK);
        assert_int_equal(x86_tlb_host_r(c, LIN, 4), 0);
        if (gen != 4095) {
            assert_int_not_equal(x86_tlb_host_w(c, kernel, 4), 0);
            assert_int_not_equal(x86_tlb_host_r(c, kernel2m + 0x5000, 4), 0);
            assert_int_equal(x86_fetch_page(c, kernel2m + 0x7000, &host, &gpa), X86_OK);
            assert_int_equal(gpa, 0x407000);
            assert_int_equal(c->mmu.walks, walks);
        } else {
            assert_int_equal(x86_tlb_host_r(c, kernel, 4), 0);
        }
    }
    x86_lin_read(c, kernel2m + 0x5000, &v, 4);
    x86_tlb_flush_page(c, kernel2m + 0x1ff000);
    assert_int_equal(x86_tlb_host_r(c, kernel2m + 0x5000, 4), 0);
    x86_lin_read(c, kernel, &v, 4);
    x86_tlb_flush_page(c, kernel);
    x86_set_cr3(c, c->cr3);
    assert_int_equal(x86_tlb_host_r(c, kernel, 4), 0); /* and stays away */
    x86_lin_read(c, kernel, &v, 4);
    assert_int_equal(x86_set_cr4(c, c->cr4 & ~(uint64_t)X86_CR4_PGE), X86_OK);
    assert_int_equal(x86_tlb_host_r(c, kernel, 4), 0);
    x86_lin_read(c, kernel, &v, 4);
    x86_set_cr3(c, c->cr3);
    assert_int_equal(x86_tlb_host_r(c, kernel, 4), 0);
    fx_free(f);
}

/* What a PCID had cached is there again after a MOV to CR3 with bit 63, and only then. */
static void pcids(void **state)
{
    const uint64_t keep = 1ull << 63;
    struct fx *f = fx64(40);
    struct x86_cpu *c = f->c;
    const uint64_t base = c->cr3;
    const uint8_t *host;
    uint64_t gpa;
    uint32_t v;

    (void)state;
    assert_int_equal(x86_set_cr4(c, c->cr4 | X86_CR4_PGE | X86_CR4_PCIDE), X86_OK);
    fx_put32(f, DATA, 0x11111111);
    fx_put32(f, DATA + 0x1000, 0x22222222);
#define READS(want)                                                                                                    \
    do {                                                                                                               \
        x86_lin_read(c, LIN, &v, 4);                                                                                   \
        assert_int_equal(v, want);                                                                                     \
    } while (0)
    map_page(f, LIN, DATA, P | W | U | A | D);
    assert_int_equal(x86_set_cr3(c, base | 1), X86_OK);
    READS(0x11111111);
    v = 0x11111111;
    assert_int_equal(x86_lin_write(c, LIN, &v, 4), X86_OK);
    assert_int_equal(x86_fetch_page(c, LIN, &host, &gpa), X86_OK);
    map_page(f, LIN, DATA + 0x1000, P | W | U | A | D);
    assert_int_equal(x86_set_cr3(c, base | 2 | keep), X86_OK);
    READS(0x22222222); /* nothing of PCID 1 */
    assert_int_equal(x86_set_cr3(c, base | 1 | keep), X86_OK);
    READS(0x11111111);
    assert_int_not_equal(x86_tlb_host_w(c, LIN, 4), 0);
    assert_int_equal(x86_fetch_page(c, LIN, &host, &gpa), X86_OK);
    assert_int_equal(gpa, DATA);
    /* its write translation goes while it is set aside */
    x86_set_cr3(c, base | 2 | keep);
    x86_tlb_unwrite(c, DATA);
    x86_set_cr3(c, base | 1 | keep);
    assert_int_not_equal(x86_tlb_host_r(c, LIN, 4), 0);
    assert_int_equal(x86_tlb_host_w(c, LIN, 4), 0);
    /* INVLPG is the current PCID's */
    x86_set_cr3(c, base | 2 | keep);
    x86_tlb_flush_page(c, LIN);
    x86_set_cr3(c, base | 1 | keep);
    READS(0x11111111);
    x86_tlb_flush_page(c, LIN);
    READS(0x22222222);
    /* flushed by its own MOV to CR3, by INVPCID, by what flushes everything */
    map_page(f, LIN, DATA, P | W | U | A | D);
    x86_set_cr3(c, base | 2 | keep);
    READS(0x11111111);
    x86_set_cr3(c, base | 1);
    READS(0x11111111);
    map_page(f, LIN, DATA + 0x1000, P | W | U | A | D);
    x86_set_cr3(c, base | 2);
    READS(0x22222222);
    x86_tlb_forget_pcid(c, 1);
    x86_set_cr3(c, base | 1 | keep);
    READS(0x22222222);
    map_page(f, LIN, DATA, P | W | U | A | D);
    x86_set_cr3(c, base | 2 | keep);
    x86_tlb_flush_all(c);
    x86_set_cr3(c, base | 1 | keep);
    READS(0x11111111);
    /* a global page is every PCID's */
    map_page(f, LIN, DATA + 0x1000, P | W | U | A | D | G);
    x86_tlb_flush_page(c, LIN);
    READS(0x22222222);
    map_page(f, LIN, DATA, P | W | U | A | D);
    x86_set_cr3(c, base | 2 | keep);
    READS(0x22222222);
    x86_set_cr3(c, base | 1);
    READS(0x22222222);
    /* more PCIDs than there is room for */
    x86_tlb_flush_page(c, LIN);
    for (unsigned i = 1; i < 40; i++) {
        x86_set_cr3(c, base | i | keep);
        READS(0x11111111);
    }
    fx_free(f);
}

static void generations_wrap(void **state)
{
    struct fx *f = fx64(40);
    uint32_t v = 0;

    (void)state;
    fx_put32(f, DATA, 1);
    fx_put32(f, DATA + 0x1000, 2);
    map_page(f, LIN, DATA, P | W | U);
    x86_lin_read(f->c, LIN, &v, 4);
    map_page(f, LIN, DATA + 0x1000, P | W | U);
    for (unsigned i = 0; i < 3 * 4095; i++) {
        x86_tlb_flush_all(f->c);
        assert_true(f->c->mmu.gen >= 1 && f->c->mmu.gen <= 4095);
        assert_int_equal(x86_tlb_host_r(f->c, LIN, 4), 0);
    }
    x86_lin_read(f->c, LIN, &v, 4);
    assert_int_equal(v, 2);
    fx_free(f);
}

/* INVLPG of any address of a large page drops every cached fragment of it, and of nothing that matters else. */
static void invlpg_large(void **state)
{
    (void)state;
    for (unsigned leaf = 2; leaf <= 3; leaf++) {
        struct fx *f = fx64(40);
        uint64_t size = 1ull << (12 + 9 * (leaf - 1)), base = LIN & ~(size - 1);
        const uint8_t *host;
        uint64_t gpa;
        uint32_t v;

        map64(f, base, 0, all_rights, leaf);
        for (uint64_t off = 0; off < 0x200000; off += 0x3000) {
            assert_int_equal(x86_lin_read(f->c, base + off, &v, 4), X86_OK);
            assert_int_not_equal(x86_tlb_host_r(f->c, base + off, 4), 0);
        }
        assert_int_equal(x86_lin_read(f->c, base + 0x123000, &v, 4), X86_OK);
        assert_int_equal(x86_fetch_page(f->c, base + 0x5000, &host, &gpa), X86_OK);
        assert_ptr_equal(host, f->ram + 0x5000);
        map64(f, base, 0, (const uint64_t[4]){P, P, 0, 0}, leaf);
        fx_put64(f, slot(leaf, base), 0);
        assert_int_not_equal(x86_tlb_host_r(f->c, base + 0x123000, 4), 0);
        x86_tlb_flush_page(f->c, base + size - 1);
        for (uint64_t off = 0; off < 0x200000; off += 0x1000)
            assert_int_equal(x86_tlb_host_r(f->c, base + off, 4), 0);
        assert_int_equal(x86_fetch_page(f->c, base + 0x5000, &host, &gpa), X86_FAULT);
        fx_free(f);
    }
}

/* INVLPG elsewhere is not taken for one of a large page, and flushes no more than it must. */
static void large_pages_elsewhere(void **state)
{
    struct fx *f = fx64(40);
    struct x86_cpu *c = f->c;
    unsigned whole = 0;

    (void)state;
    for (uint64_t base = 0xffff888000000000; base < 0xffff888000000000 + (16ull << 30); base += 1ull << 30) { /* 512 MiB each, as kernels map all memory */
        x86_tlb_flush_all(c);
        fx_put64(f, slot(4, base), 0x180000 | P | W);
        fx_put64(f, 0x180000 + (base >> 30 & 511) * 8, 0x181000 | P | W);
        for (unsigned i = 0; i < 256; i++) {
            uint32_t v;

            fx_put64(f, 0x181000 + i * 8u, i % 8 * 0x200000u | P | W | PS | A | D);
            assert_int_equal(x86_lin_read(c, base + i * 0x200000ull, &v, 4), X86_OK);
        }
        for (unsigned i = 0; i < 256; i++) {
            const uint64_t flushes = c->mmu.all_flushes;

            x86_tlb_flush_page(c, LIN + i * 0x400000ull);
            assert_int_equal(c->mmu.all_flushes, flushes);
            whole += c->mmu.page_version != c->mmu.version;
        }
    }
    assert_true(whole < 16 * 256 / 50);
    fx_free(f);
}

static void contexts(void **state)
{
    struct fx *f = fx64(40);
    uint32_t v = 7;

    (void)state;
    map_page(f, LIN, DATA, P | W | U | A | D);
    f->c->cr4 |= X86_CR4_SMAP;
    f->c->fl_sys |= X86_FL_AC;
    x86_mmu_update_ctx(f->c);
    assert_int_equal(x86_lin_write(f->c, LIN, &v, 4), X86_OK); /* STAC */
    expect_pf(f, x86_sys_read(f->c, LIN, &v, 4), LIN, 1);      /* implicit accesses never profit from AC */
    f->c->fl_sys &= ~(uint32_t)X86_FL_AC;
    x86_mmu_update_ctx(f->c);
    assert_int_equal(x86_tlb_host_r(f->c, LIN, 4), 0);
    expect_pf(f, x86_lin_read(f->c, LIN, &v, 4), LIN, 1);
    f->c->cpl = 3;
    x86_mmu_update_ctx(f->c);
    assert_int_equal(x86_lin_read(f->c, LIN, &v, 4), X86_OK);
    assert_int_equal(v, 7);
    expect_pf(f, x86_sys_write(f->c, LIN, &v, 4), LIN, 3); /* supervisor access from CPL 3: U/S clear */
    map_page(f, LIN + 0x1000, DATA, P | W | A | D);
    expect_pf(f, x86_lin_read(f->c, LIN + 0x1000, &v, 4), LIN + 0x1000, 5);
    assert_int_equal(x86_sys_read(f->c, LIN + 0x1000, &v, 4), X86_OK);
    expect_pf(f, x86_lin_read(f->c, LIN + 0x1000, &v, 4), LIN + 0x1000, 5);
    fx_free(f);
}

static void code_pages(void **state)
{
    struct fx *f = fx64(40);
    uint32_t v = 0xabcd;
    void *host;

    (void)state;
    map_page(f, LIN, DATA, P | W | U | A | D);
    assert_int_equal(x86_lin_write(f->c, LIN, &v, 4), X86_OK);
    assert_int_equal(f->ncode, 0);
    /* a translator takes the page: sets CODE, sees the writer bit, has the write translation dropped */
    f->flags[DATA / 4096] |= GPA_PF_CODE;
    assert_true(f->flags[DATA / 4096] & GPA_PF_WRITER(3));
    x86_tlb_unwrite(f->c, DATA);
    assert_int_equal(x86_tlb_host_w(f->c, LIN, 4), 0);
    assert_int_not_equal(x86_tlb_host_r(f->c, LIN, 4), 0);
    assert_int_equal(x86_lin_write(f->c, LIN + 0x10, &v, 4), X86_OK);
    assert_int_equal(f->ncode, 1);
    assert_int_equal(f->code_gpa, DATA + 0x10);
    assert_int_equal(f->code_len, 4);
    assert_int_equal(fx_get32(f, DATA + 0x10), 0xabcd); /* stored before the notice */
    assert_int_equal(x86_tlb_host_w(f->c, LIN, 4), 0);
    assert_int_equal(x86_lin_host(f->c, LIN, X86_WRITE, &host), X86_OK);
    assert_null(host);
    assert_int_equal(x86_lin_host(f->c, LIN + 8, X86_READ, &host), X86_OK);
    assert_ptr_equal(host, f->ram + DATA + 8);
    f->flags[DATA / 4096] &= ~GPA_PF_CODE;
    assert_int_equal(x86_lin_write(f->c, LIN, &v, 4), X86_OK);
    assert_int_equal(f->ncode, 1);
    assert_int_not_equal(x86_tlb_host_w(f->c, LIN, 4), 0);
    /* A and D bits are stores too */
    map_page(f, LIN, DATA, P | W | U);
    x86_tlb_flush_all(f->c);
    f->flags[TABLE(3) / 4096] |= GPA_PF_CODE;
    f->ncode = 0;
    assert_int_equal(x86_lin_read(f->c, LIN, &v, 4), X86_OK);
    assert_int_equal(f->ncode, 1);
    assert_int_equal(f->code_gpa, slot(1, LIN));
    fx_free(f);
}

static void data_breakpoints(void **state)
{
    struct fx *f = fx64(40);
    uint32_t v = 0;

    (void)state;
    map_page(f, LIN, DATA, P | W | U);
    f->c->dr[1] = LIN + 0x104;
    f->c->dr7 = 0x400 | 2u << 2 | 1u << 20 | 3u << 22; /* G1, writes, 4 bytes */
    assert_int_equal(x86_lin_write(f->c, LIN + 0x100, &v, 4), X86_OK);
    assert_int_equal(f->c->pending_dbg, 0);
    assert_int_equal(x86_lin_read(f->c, LIN + 0x104, &v, 4), X86_OK);
    assert_int_equal(f->c->pending_dbg, 0);
    assert_int_equal(x86_lin_write(f->c, LIN + 0x107, &v, 1), X86_OK);
    assert_int_equal(f->c->pending_dbg, 2);
    assert_int_equal(x86_tlb_host_w(f->c, LIN, 4), 0);
    f->c->pending_dbg = 0;
    assert_int_equal(x86_lin_write(f->c, LIN + 0x102, &v, 4), X86_OK);
    assert_int_equal(f->c->pending_dbg, 2);
    f->c->dr7 |= 3u << 20; /* reads too */
    f->c->pending_dbg = 0;
    assert_int_equal(x86_lin_read(f->c, LIN + 0x100, &v, 4), X86_OK);
    assert_int_equal(f->c->pending_dbg, 0);
    assert_int_equal(x86_lin_read(f->c, LIN + 0x101, &v, 4), X86_OK);
    assert_int_equal(f->c->pending_dbg, 2);
    assert_int_equal(x86_debug_after(f->c, true), X86_FAULT);
    assert_int_equal(f->c->exc.vector, X86_DB);
    assert_int_equal(f->c->exc.dr6, 2 | 1u << 14);
    assert_int_equal(x86_debug_after(f->c, false), X86_OK);
    fx_free(f);
}

/* --- pages that share slots ------------------------------------------------------------- */

/* The first one's, and others with its slot or the other one of it. */
static uint64_t sharing(unsigned i) { return LIN + (uint64_t)i * (X86_TLB_SIZE / 2) * 0x1000; }
_Static_assert(X86_TLB_SIZE >= X86_ITLB_SIZE, "what shares slots in the one does in the other");
static void map_sharing(struct fx *f, unsigned i, uint64_t gpa, uint64_t leaf)
{
    const uint64_t lin = sharing(i), table = 0x180000 + i * 0x1000u;

    fx_put64(f, slot(4, lin), TABLE(1) | P | W | U);
    fx_put64(f, slot(3, lin), TABLE(2) | P | W | U);
    fx_put64(f, slot(2, lin), table | P | W | U);
    fx_put64(f, table + (lin >> 12 & 511) * 8, gpa | leaf);
}

/* Two of them do not push each other out. */
static void two_share(void **state)
{
    struct fx *f = fx64(40);
    struct x86_cpu *c = f->c;
    const uint8_t *host;
    uint64_t gpa, walks = 0;
    uint32_t v;

    (void)state;
    for (unsigned apart = 1; apart <= 2; apart++) {
        x86_tlb_flush_all(c);
        map_sharing(f, 0, DATA, P | W | U);
        map_sharing(f, apart, DATA + 0x1000, P | W | U);
        for (unsigned round = 0; round < 100; round++) {
            for (unsigned i = 0; i < 2; i++) {
                assert_int_equal(x86_lin_write(c, sharing(i * apart), &(uint32_t){i + 1}, 4), X86_OK);
                assert_int_equal(x86_fetch_page(c, sharing(i * apart), &host, &gpa), X86_OK);
                assert_int_equal(gpa, DATA + i * 0x1000);
                assert_int_equal(x86_lin_read(c, sharing(i * apart), &v, 4), X86_OK);
                assert_int_equal(v, i + 1);
            }
            assert_true(round == 0 || c->mmu.walks == walks);
            walks = c->mmu.walks;
        }
        /* Flushing finds either, in whichever slot it is. */
        for (unsigned i = 0; i < 2; i++) {
            map_sharing(f, i * apart, DATA + 0x2000, P | W | U | A | D);
            x86_tlb_flush_page(c, sharing(i * apart));
            assert_int_equal(x86_lin_write(c, sharing(i * apart), &(uint32_t){9}, 4), X86_OK);
            assert_int_equal(fx_get32(f, DATA + i * 0x1000), i + 1);
            assert_int_equal(x86_fetch_page(c, sharing(i * apart), &host, &gpa), X86_OK);
            assert_int_equal(gpa, DATA + 0x2000);
        }
    }
    fx_free(f);
}

/* Any order of accesses, remapping and flushes: what was flushed is gone, rights are those of the tables. */
static void sharing_at_random(void **state)
{
    enum { PAGES = 7, FRAMES = 8 };
    const unsigned rounds = random_rounds(200000);
    struct {
        uint64_t leaf;
        bool stale; /* the table has changed since the last flush */
        bool global;
    } page[PAGES] = {0};
    struct fx *f = fx64(40);
    struct x86_cpu *c = f->c;

    (void)state;
    assert_int_equal(x86_set_cr4(c, c->cr4 | X86_CR4_PGE | X86_CR4_PCIDE), X86_OK);
    for (unsigned i = 0; i < FRAMES; i++)
        fx_put32(f, DATA + i * 0x1000, i);
    for (unsigned i = 0; i < PAGES; i++)
        map_sharing(f, i, 0, page[i].leaf = 0);
    for (unsigned r = 0; r < rounds; r++) {
        const unsigned i = (unsigned)(rnd() % PAGES), what = (unsigned)(rnd() % 16);
        const uint64_t lin = sharing(i), frame = page[i].leaf & 0xff000;
        uint32_t v = 0xdead;
        const uint8_t *host;
        uint64_t gpa;

        if (what < 5) {
            const int r1 = x86_lin_read(c, lin, &v, 4);
            if (!page[i].stale)
                assert_int_equal(r1, page[i].leaf & P ? X86_OK : X86_FAULT);
            if (!page[i].stale && r1 == X86_OK)
                assert_int_equal(v, frame >> 12);
        } else if (what < 8) {
            if (page[i].stale)
                continue;
            void *p;
            assert_int_equal(x86_lin_host(c, lin, X86_WRITE, &p), (page[i].leaf & (P | W)) == (P | W) ? X86_OK : X86_FAULT);
            if ((page[i].leaf & (P | W)) == (P | W))
                assert_ptr_equal(p, f->ram + DATA + frame);
        } else if (what < 11) {
            if (page[i].stale)
                continue;
            assert_int_equal(x86_fetch_page(c, lin, &host, &gpa), page[i].leaf & P ? X86_OK : X86_FAULT);
            if (page[i].leaf & P)
                assert_int_equal(gpa, DATA + frame);
        } else if (what < 13) {
            page[i].global = page[i].stale ? page[i].global : page[i].leaf & G;
            page[i].leaf = (rnd() % FRAMES) << 12 | (rnd() % 8 ? P : 0) | (rnd() % 2 ? W : 0) | (rnd() % 2 ? G : 0);
            page[i].global |= !!(page[i].leaf & G);
            page[i].stale = true;
            map_sharing(f, i, (DATA + (page[i].leaf & 0xff000)), (page[i].leaf & (P | W | G)) | U | A | D);
        } else if (what < 15) {
            x86_tlb_flush_page(c, lin);
            page[i].stale = false;
        } else {
            /* Another PCID and back again, keeping it or not. */
            const bool keep = rnd() % 2;

            assert_int_equal(x86_set_cr3(c, TABLE(0) | 1 | 1ull << 63), X86_OK);
            x86_lin_read(c, sharing((unsigned)(rnd() % PAGES)), &v, 4);
            assert_int_equal(x86_set_cr3(c, TABLE(0) | (keep ? 1ull << 63 : 0)), X86_OK);
            for (unsigned k = 0; !keep && k < PAGES; k++)
                page[k].stale &= page[k].global; /* pages that are or were global may be cached still */
        }
    }
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tlb_keeps_until_flushed), cmocka_unit_test(global_pages), cmocka_unit_test(pcids),
        cmocka_unit_test(generations_wrap), cmocka_unit_test(invlpg_large), cmocka_unit_test(large_pages_elsewhere), cmocka_unit_test(contexts),
        cmocka_unit_test(code_pages), cmocka_unit_test(data_breakpoints), cmocka_unit_test(two_share),
        cmocka_unit_test(sharing_at_random),
    };

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
