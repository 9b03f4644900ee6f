/* Memory as 64-bit user code sees it: page faults, accessed and dirty bits, every kind of flush, large pages, address spaces, and code
 * that changes. */
#include "user.h"

#define W 0x10000000000ull /* where pages come and go */
enum { RW = PTE_P | PTE_W | PTE_U, RO = PTE_P | PTE_U };

USER_CODE(u_read, "u_read_at: movq (%rdi), %rax; syscall");
USER_CODE(u_write, "u_write_at: movq %rsi, (%rdi); syscall");
USER_CODE(u_jump, "jmp *%rdi");
USER_CODE(u_call, "call *%rdi; syscall");
USER_CODE(u_fill, "u_fill_at: movq %rdi, (%rdi); addq $4096, %rdi; cmpq %rsi, %rdi; jb u_fill_at; syscall");
USER_CODE(u_sum, "xorl %eax, %eax; 1: addq (%rdi), %rax; addq $4096, %rdi; cmpq %rsi, %rdi; jb 1b; syscall");
USER_CODE(u_rmw, "u_rmw_at: lock incq (%rdi); syscall");
USER_LABEL(u_read_at);
USER_LABEL(u_write_at);
USER_LABEL(u_fill_at);
USER_LABEL(u_rmw_at);

static struct frame rd(uint64_t at)
{
    struct frame f = user_regs(USER_AT(u_read));
    f.rdi = at;
    user_run(&f);
    return f;
}
static struct frame wr(uint64_t at, uint64_t v)
{
    struct frame f = user_regs(USER_AT(u_write));
    f.rdi = at;
    f.rsi = v;
    user_run(&f);
    return f;
}
static struct frame jump(uint64_t at)
{
    struct frame f = user_regs(USER_AT(u_jump));
    f.rdi = at;
    user_run(&f);
    return f;
}
/* Call code at `at` with RSI; what it returned is in RAX. */
static struct frame call(uint64_t at, uint64_t rsi)
{
    struct frame f = user_regs(USER_AT(u_call));
    f.rdi = at;
    f.rsi = rsi;
    f.rax = 0;
    user_run(&f);
    return f;
}
static bool reads(uint64_t at, uint64_t v)
{
    struct frame f = rd(at);
    if (f.vector != SYS || f.rax != v)
        print("  at %lx: vector %lx, got %lx, want %lx\n", at, f.vector, f.rax, v);
    return f.vector == SYS && f.rax == v;
}
#define AD(pte) (*(volatile uint64_t *)(pte) & (PTE_A | PTE_D))

/* --- faults and bits --- */

static void faults(void)
{
    static const uint64_t at[] = {W + 0x123 * 8, 0x400000000000ull, 0x7fffffffd008ull, 0x7fffffffe010ull, 0x7ffffffff018ull, 0x10000000020ull,
                                  0xffff800000000000ull, 0xffff888000000008ull, 0xffffffff81000000ull, 0xffffffffff600000ull, 0xffffffffff600400ull, 0xfffffffffffff000ull};
    for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        struct frame f = rd(at[i]);
        USER_EXPECT_PF("read of nothing", &f, 4, at[i], USER_AT(u_read_at));
        f = wr(at[i], 1);
        USER_EXPECT_PF("write to nothing", &f, 6, at[i], USER_AT(u_write_at));
        f = jump(at[i]);
        USER_EXPECT_PF("jump to nothing", &f, 0x14, at[i], at[i]);
        uint8_t *p = page_alloc();
        memset(p, 0xf4, 4096); /* the kernel's */
        uint64_t *pte = map_page(at[i] & ~0xfffull, (uint64_t)p, PTE_P | PTE_W);
        f = rd(at[i]);
        USER_EXPECT_PF("read of the kernel's", &f, 5, at[i], USER_AT(u_read_at));
        f = wr(at[i], 1);
        USER_EXPECT_PF("write to the kernel's", &f, 7, at[i], USER_AT(u_write_at));
        f = jump(at[i]);
        USER_EXPECT_PF("jump to the kernel's", &f, 0x15, at[i], at[i]);
        CHECK_EQ("not dirty", *pte & PTE_D, 0);
        /* The user's, read-only, not executable */
        *(uint64_t *)(p + (at[i] & 0xff8)) = 0x1122334455667788ull + i;
        *pte = (uint64_t)p | RO | PTE_NX;
        invlpg(at[i]);
        CHECK("read-only: read", reads(at[i], 0x1122334455667788ull + i));
        f = wr(at[i], 1);
        USER_EXPECT_PF("read-only: write", &f, 7, at[i], USER_AT(u_write_at));
        f = jump(at[i]);
        USER_EXPECT_PF("not executable: jump", &f, 0x15, at[i], at[i]);
        CHECK_EQ("read-only: accessed, not dirty", AD(pte), PTE_A);
        *pte = (uint64_t)p | RO; /* now a HLT is there */
        memset(p, 0xf4, 4096);
        invlpg(at[i]);
        f = jump(at[i]);
        USER_EXPECT("executable: HLT", &f, 13, 0, at[i]);
        CHECK("the kernel's memory is as it was", p[0] == 0xf4 && p[4095] == 0xf4);
        *pte = 0;
        invlpg(at[i]);
        f = rd(at[i]);
        USER_EXPECT_PF("unmapped", &f, 4, at[i], USER_AT(u_read_at));
        f = jump(at[i]);
        USER_EXPECT_PF("unmapped: jump", &f, 0x14, at[i], at[i]);
    }
}

static void bits(void)
{
    uint64_t *pte[64];
    uint8_t *page[64];
    for (unsigned i = 0; i < 64; i++) {
        page[i] = page_alloc();
        pte[i] = map_page(W + i * 4096, (uint64_t)page[i], RW);
    }
    bool ok = true;
    for (unsigned i = 0; i < 64; i += 3) {
        ok &= AD(pte[i]) == 0;
        ok &= reads(W + i * 4096, 0) && AD(pte[i]) == PTE_A;
        ok &= wr(W + i * 4096, i).vector == SYS && AD(pte[i]) == (PTE_A | PTE_D);
    }
    for (unsigned i = 0; i < 64; i++)
        ok &= AD(pte[i]) == (i % 3 ? 0 : PTE_A | PTE_D);
    CHECK("A and D of what was used and of nothing else", ok);
    /* Taken back with a flush: one by one and all at once */
    for (int way = 0; way < 2; way++) {
        for (unsigned i = 0; i < 64; i++) {
            *pte[i] = (*pte[i] & ~(uint64_t)(PTE_A | PTE_D)) | (i & 1 ? PTE_A : 0);
            if (!way)
                invlpg(W + i * 4096);
        }
        if (way)
            write_cr3(read_cr3());
        ok = true;
        for (unsigned i = 0; i < 64; i += 5)
            ok &= reads(W + i * 4096, i % 3 ? 0 : i);
        for (unsigned i = 0; i < 64; i++)
            ok &= AD(pte[i]) == (i % 5 == 0 || (i & 1) ? PTE_A : 0);
        CHECK(way ? "A and D again after a reload of CR3" : "A and D again after INVLPG", ok);
        ok = true;
        for (unsigned i = 0; i < 64; i += 7)
            ok &= wr(W + i * 4096, i % 3 ? 0 : i).vector == SYS;
        for (unsigned i = 0; i < 64; i++)
            ok &= (AD(pte[i]) & PTE_D) == (i % 7 ? 0 : PTE_D);
        CHECK("D by writes only", ok);
    }
    /* Execution sets A */
    *pte[63] = (uint64_t)page[63] | RO;
    memcpy(page[63], "\x0f\x05", 2);
    invlpg(W + 63 * 4096);
    struct frame f = jump(W + 63 * 4096);
    CHECK("execution sets A", f.vector == SYS && AD(pte[63]) == PTE_A);
    /* A locked access that reads sets both or neither */
    *pte[62] = (uint64_t)page[62] | RO;
    invlpg(W + 62 * 4096);
    f = user_regs(USER_AT(u_rmw));
    f.rdi = W + 62 * 4096;
    user_run(&f);
    USER_EXPECT_PF("a read-modify-write is a write", &f, 7, W + 62 * 4096, USER_AT(u_rmw_at));
    CHECK_EQ("and not dirty", AD(pte[62]) & PTE_D, 0);
    for (unsigned i = 0; i < 64; i++)
        *pte[i] = 0;
    write_cr3(read_cr3());
}

/* --- a kernel that pages --- */

static unsigned demands;
static bool demand_ok;
static uint64_t demand_next;
static bool demand(struct frame *f)
{
    if (f->vector != 14)
        return false;
    demand_ok &= f->error == 6 && user_cr2 == demand_next && f->rip == USER_AT(u_fill_at) && f->rdi == user_cr2;
    uint64_t *pte = map_page(user_cr2 & ~0xfffull, (uint64_t)page_alloc(), RW);
    if (demands & 1)
        *pte |= PTE_A | PTE_D; /* as Linux makes them */
    demands++;
    demand_next += 4096;
    return true;
}

static void paging(void)
{
    const uint64_t n = 200;
    struct frame f = user_regs(USER_AT(u_fill));
    f.rdi = demand_next = W + 0x200000 - 50 * 4096;
    f.rsi = f.rdi + n * 4096;
    demand_ok = true;
    user_event = demand;
    user_run(&f);
    user_event = NULL;
    CHECK("demand paging ends", f.vector == SYS && f.rdi == f.rsi);
    CHECK("each page was asked for once", demands == n && demand_ok);
    bool ok = true;
    for (uint64_t a = W + 0x200000 - 50 * 4096; a < f.rsi; a += 4096) {
        uint64_t pte = *pte_of(a);
        ok &= (pte & (PTE_A | PTE_D)) == (PTE_A | PTE_D) && *(uint64_t *)(pte & ~0xfffull & ~PTE_NX) == a;
    }
    CHECK("contents, A and D", ok);
    /* Copy on write */
    ok = true;
    for (unsigned i = 0; i < 20; i++) {
        uint64_t a = W + 0x200000 + i * 4096, *pte = pte_of(a), *old = (uint64_t *)(*pte & 0x000ffffffffff000ull), *copy = page_alloc();
        *pte &= ~(uint64_t)PTE_W;
        invlpg(a);
        ok &= reads(a, a);
        f = wr(a, 77);
        ok &= f.vector == 14 && f.error == 7 && user_cr2 == a && f.rip == USER_AT(u_write_at) && *old == a;
        memcpy(copy, old, 4096);
        *pte = (uint64_t)copy | RW | PTE_A | (i & 1 ? PTE_D : 0);
        invlpg(a);
        user_run(&f);
        ok &= f.vector == SYS && *old == a && *copy == 77 && AD(pte) == (PTE_A | PTE_D) && reads(a, 77);
        *copy = 78;
        ok &= reads(a, 78);
        *old = 79;
        ok &= reads(a, 78);
    }
    CHECK("copy on write", ok);
    /* More rights without a flush: at most one more fault, and then it works (SDM Vol. 3A, 4.10.4.3) */
    uint64_t a = W + 0x200000, *pte = pte_of(a);
    *pte &= ~(uint64_t)PTE_W;
    invlpg(a);
    reads(a, 78);
    *pte |= PTE_W;
    f = wr(a, 5);
    if (f.vector == 14)
        user_run(&f);
    CHECK("writable without a flush", f.vector == SYS && reads(a, 5));
    *pte |= PTE_NX;
    invlpg(a);
    f = jump(a);
    CHECK("not executable", f.vector == 14 && f.error == 0x15);
    *pte &= ~PTE_NX;
    *(uint16_t *)(*pte & 0x000ffffffffff000ull) = 0x050f;
    f = jump(a);
    if (f.vector == 14)
        user_run(&f);
    CHECK("executable without a flush", f.vector == SYS && f.rip == a + 2);
    /* Not there, then there: never cached */
    uint64_t was = *pte;
    *pte = 0;
    invlpg(a);
    ok = true;
    for (unsigned i = 0; i < 20; i++) {
        f = rd(a);
        ok &= f.vector == 14 && f.error == 4;
        *pte = was;
        ok &= reads(a, *(uint64_t *)(was & 0x000ffffffffff000ull));
        *pte = 0;
        invlpg(a);
    }
    CHECK("coming and going", ok);
}

/* --- flushes --- */

static void flushes(void)
{
    uint64_t *p[3];
    for (unsigned i = 0; i < 3; i++) {
        p[i] = page_alloc();
        p[i][0] = 100 + i;
    }
    const uint64_t a = W + 0x800000;
    uint64_t *pte = map_page(a, (uint64_t)p[0], RW), *pte2 = map_page(a + 4096, (uint64_t)p[0], RW | PTE_G);
    bool ok = reads(a, 100);
    for (unsigned i = 1; i < 30; i++) {
        *pte = (uint64_t)p[i % 3] | RW;
        if (i & 1)
            invlpg(a);
        else
            write_cr3(read_cr3());
        ok &= reads(a, 100 + i % 3);
        ok &= wr(a + 8, i).vector == SYS && p[i % 3][1] == i;
    }
    CHECK("another page at the same address", ok);
    write_cr4(read_cr4() | 1 << 7);
    ok = reads(a + 4096, 100);
    *pte2 = (uint64_t)p[1] | RW | PTE_G;
    invlpg(a + 4096);
    ok &= reads(a + 4096, 101);
    *pte2 = (uint64_t)p[2] | RW | PTE_G;
    write_cr4(read_cr4() & ~(1ull << 7));
    ok &= reads(a + 4096, 102);
    CHECK("a global page", ok);
    /* Upper levels */
    uint64_t *pml4 = (uint64_t *)(read_cr3() & ~0xfffull), *pml4e = &pml4[a >> 39 & 511], was = *pml4e;
    *pml4e = 0;
    write_cr3(read_cr3());
    struct frame f = rd(a);
    USER_EXPECT_PF("PML4 entry gone", &f, 4, a, USER_AT(u_read_at));
    *pml4e = was & ~(uint64_t)PTE_U;
    f = rd(a);
    USER_EXPECT_PF("PML4 entry the kernel's", &f, 5, a, USER_AT(u_read_at));
    *pml4e = was & ~(uint64_t)PTE_W;
    invlpg(a);
    ok = reads(a, *(uint64_t *)(*pte & 0x000ffffffffff000ull));
    f = wr(a, 0);
    USER_EXPECT_PF("PML4 entry read-only", &f, 7, a, USER_AT(u_write_at));
    *pml4e = was | PTE_NX;
    write_cr3(read_cr3());
    f = jump(a);
    USER_EXPECT_PF("PML4 entry not executable", &f, 0x15, a, a);
    *pml4e = was;
    write_cr3(read_cr3());
    /* CR0.WP does not matter to user code */
    *pte = (uint64_t)p[0] | RO;
    invlpg(a);
    write_cr0(read_cr0() & ~0x10000ull);
    f = wr(a, 0);
    USER_EXPECT_PF("read-only without CR0.WP", &f, 7, a, USER_AT(u_write_at));
    write_cr0(read_cr0() | 0x10000);
    /* A whole range at once */
    for (unsigned i = 0; i < 300; i++)
        map_page(W + 0xa00000 + i * 4096, (uint64_t)p[i % 3], RW);
    f = user_regs(USER_AT(u_sum));
    f.rdi = W + 0xa00000;
    f.rsi = f.rdi + 300 * 4096;
    user_run(&f);
    CHECK_EQ("300 pages", f.rax, 100 * (100 + 101 + 102));
    for (unsigned i = 0; i < 300; i++) {
        *pte_of(W + 0xa00000 + i * 4096) = (uint64_t)p[(i / 100) % 3] | RW;
        invlpg(W + 0xa00000 + i * 4096);
    }
    *pte_of(W + 0xa00000 + 123 * 4096) = (uint64_t)p[0] | RW;
    invlpg(W + 0xa00000 + 123 * 4096);
    f = user_regs(USER_AT(u_sum));
    f.rdi = W + 0xa00000;
    f.rsi = f.rdi + 300 * 4096;
    user_run(&f);
    CHECK_EQ("300 other pages", f.rax, 100 * (100 + 101 + 102) - 1);
}

static void large(void)
{
    uint32_t r[4];
    const uint64_t a = W + (1ull << 30), f0 = 0x2000000, f1 = 0x2200000;
    uint64_t *pdpt, *pd;
    map_page(a, 0, 0);
    pdpt = (uint64_t *)(((uint64_t *)(read_cr3() & ~0xfffull))[a >> 39 & 511] & 0x000ffffffffff000ull);
    pd = (uint64_t *)(pdpt[a >> 30 & 511] & 0x000ffffffffff000ull);
    for (uint64_t i = 0; i < 0x400000; i += 4096)
        *(volatile uint64_t *)(f0 + i) = i;
    pd[0] = f0 | RW | PTE_PS;
    invlpg(a);
    bool ok = true;
    for (uint64_t i = 0; i < 0x200000; i += 0x9000)
        ok &= reads(a + i, i);
    CHECK("a page of 2 MiB", ok && AD(&pd[0]) == PTE_A);
    ok = wr(a + 0x12345 * 8, 99).vector == SYS && *(uint64_t *)(f0 + 0x12345 * 8) == 99;
    CHECK("written", ok && AD(&pd[0]) == (PTE_A | PTE_D));
    pd[0] = f1 | RW | PTE_PS;
    invlpg(a + 0x54321);
    ok = true;
    for (uint64_t i = 0; i < 0x200000; i += 0x9000)
        ok &= reads(a + i, i + 0x200000);
    CHECK("one INVLPG is for all of it", ok);
    pd[0] = f1 | RO | PTE_PS | PTE_NX;
    write_cr3(read_cr3());
    struct frame f = wr(a + 0x3008, 1);
    USER_EXPECT_PF("read-only", &f, 7, a + 0x3008, USER_AT(u_write_at));
    f = jump(a + 0x3000);
    USER_EXPECT_PF("not executable", &f, 0x15, a + 0x3000, a + 0x3000);
    /* In small ones, one of them elsewhere */
    uint64_t *pt = page_alloc();
    for (uint64_t i = 0; i < 512; i++)
        pt[i] = (f1 + i * 4096) | RW;
    pt[9] = f0 | RW;
    pd[0] = (uint64_t)pt | RW;
    invlpg(a);
    ok = reads(a, 0x200000) && reads(a + 9 * 4096, 0) && reads(a + 10 * 4096, 0x20a000) && wr(a + 10 * 4096 + 8, 7).vector == SYS;
    CHECK("split", ok && AD(&pt[9]) == PTE_A && AD(&pt[10]) == (PTE_A | PTE_D) && AD(&pt[11]) == 0);
    pd[0] = f0 | RW | PTE_PS;
    write_cr3(read_cr3());
    CHECK("and whole again", reads(a + 9 * 4096, 9 * 4096));
    cpuid(0x80000001, 0, r);
    if (r[3] >> 26 & 1) {
        const uint64_t b = W + (3ull << 30);
        pdpt[b >> 30 & 511] = 0 | RW | PTE_PS;
        ok = reads(b + f0 + 0x5000, 0x5000) && reads(b + f1 + 0x5000, 0x205000);
        CHECK("a page of 1 GiB", ok);
        pdpt[b >> 30 & 511] = 0;
        invlpg(b);
        f = rd(b + f0 + 0x5000);
        USER_EXPECT_PF("and gone", &f, 4, b + f0 + 0x5000, USER_AT(u_read_at));
    }
}

/* --- address spaces --- */

USER_CODE(u_count, "incq (%rdi); call *%rsi; syscall");

/* A second space: shares the image, fragments and stack, has its own at `a`. */
static uint64_t space(uint64_t *private, uint64_t *code, uint64_t a)
{
    const uint64_t one = read_cr3();
    uint64_t *pml4 = page_alloc();
    memcpy(pml4, (void *)(one & 0x000ffffffffff000ull), 4096);
    pml4[a >> 39 & 511] = 0;
    const uint64_t cr4 = read_cr4();
    write_cr4(cr4 & ~(1ull << 17));
    write_cr3((uint64_t)pml4);
    map_page(a, (uint64_t)private, RW);
    map_page(a + 4096, (uint64_t)code, RO);
    write_cr3(one & ~0xfffull);
    write_cr4(cr4);
    return (uint64_t)pml4;
}

static void spaces(void)
{
    const uint64_t a = 0x20000000000ull, home = read_cr3();
    uint32_t r[4];
    uint64_t cr3[2], *data[2], *other = page_alloc();
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *code = page_alloc();
        data[i] = page_alloc();
        memcpy(code, "\xb8\x11\0\0\0\xc3", 6);
        code[1] = (uint8_t)(0x11 * (i + 1));
        cr3[i] = space(data[i], (uint64_t *)code, a);
    }
    cpuid(1, 0, r);
    for (int pcid = 0; pcid < (r[2] >> 17 & 1 ? 3 : 1); pcid++) {
        if (pcid == 1)
            write_cr4(read_cr4() | 1 << 17);
        bool ok = true;
        for (unsigned k = 0; k < 60; k++) {
            unsigned i = k & 1;
            write_cr3(cr3[i] | (pcid ? i + 1 : 0) | (pcid == 2 && k > 1 ? 1ull << 63 : 0));
            struct frame f = user_regs(USER_AT(u_count));
            f.rdi = a + 8 * (unsigned)pcid;
            f.rsi = a + 4096;
            user_run(&f);
            ok &= f.vector == SYS && f.rax == 0x11 * (i + 1) && data[i][pcid] == k / 2 + 1;
        }
        static const char *const names[] = {"two spaces", "two spaces with PCIDs", "two spaces with PCIDs, not flushed"};
        CHECK(names[pcid], ok);
    }
    if (r[2] >> 17 & 1) {
        /* What space 0 has changes while space 1 runs. */
        uint32_t c7[4];
        cpuid(7, 0, c7);
        for (unsigned way = 0; way < 5; way++) {
            if (way && !(c7[1] >> 10 & 1))
                break;
            write_cr3(cr3[0] | 1 | 1ull << 63);
            data[0][5] = 555 + way;
            other[5] = 666 + way;
            bool ok = reads(a + 40, 555 + way);
            uint64_t *pte = pte_of(a), was = *pte;
            write_cr3(cr3[1] | 2 | 1ull << 63);
            *pte = (uint64_t)other | RW;
            struct {
                uint64_t pcid, lin;
            } d = {1, a};
            if (way)
                __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"((uint64_t)(way - 1)) : "memory");
            write_cr3(cr3[0] | 1 | (way ? 1ull << 63 : 0));
            ok &= reads(a + 40, 666 + way);
            static const char *const names[] = {"changed, reloaded with a flush", "changed, INVPCID of the address", "changed, INVPCID of the PCID", "changed, INVPCID of all", "changed, INVPCID of all but global pages"};
            CHECK(names[way], ok);
            *pte = was;
            write_cr3(read_cr3());
        }
        write_cr3(home & ~0xfffull);
        write_cr4(read_cr4() & ~(1ull << 17));
    }
    write_cr3(home);
    /* More spaces than any engine keeps */
    bool ok = true;
    uint64_t many[40], *d[40];
    for (unsigned i = 0; i < 40; i++) {
        d[i] = page_alloc();
        d[i][0] = i;
        many[i] = space(d[i], other, a);
    }
    for (unsigned k = 0; k < 3; k++)
        for (unsigned i = 0; i < 40; i++) {
            write_cr3(many[i]);
            ok &= reads(a, i + k) && wr(a, i + k + 1).vector == SYS && d[i][0] == i + k + 1;
        }
    write_cr3(home);
    CHECK("40 spaces", ok);
    /* A table that belongs to another program next time */
    ok = true;
    for (unsigned k = 0; k < 20; k++) {
        write_cr3(many[0]);
        *pte_of(a) = (uint64_t)d[k] | RW;
        write_cr3(many[0]);
        ok &= reads(a, d[k][0]);
        write_cr3(many[1]);
        ok &= reads(a, d[1][0]);
    }
    write_cr3(home);
    CHECK("tables used again", ok);
}

/* --- code --- */

USER_CODE(u_smc, "movl $200, %r12d; xorl %r13d, %r13d; 1: movl %r12d, 1(%rdi); call *%rdi; addl %eax, %r13d; decl %r12d; jnz 1b; syscall");
USER_CODE(u_smc2, "movl $200, %r12d; xorl %r13d, %r13d; 1: movl %r12d, 1(%rsi); call *%rdi; addl %eax, %r13d; decl %r12d; jnz 1b; syscall");

static void code(void)
{
    const uint64_t a = 0x30000000000ull;
    uint8_t *p = page_alloc(), *q = page_alloc();
    static const uint8_t ret5[] = {0xb8, 5, 0, 0, 0, 0xc3};
    /* Writable and executable */
    memcpy(p, ret5, 6);
    map_page(a, (uint64_t)p, RW);
    struct frame f = user_regs(USER_AT(u_smc));
    f.rdi = a;
    user_run(&f);
    CHECK("written and executed 200 times", f.vector == SYS && (uint32_t)f.r13 == 200 * 201 / 2);
    /* Through another mapping of the user's */
    map_page(a + 0x10000, (uint64_t)p, RW | PTE_NX);
    map_page(a, (uint64_t)p, RO);
    f = user_regs(USER_AT(u_smc2));
    f.rdi = a;
    f.rsi = a + 0x10000;
    user_run(&f);
    CHECK("written through another mapping", f.vector == SYS && (uint32_t)f.r13 == 200 * 201 / 2);
    /* By the kernel */
    bool ok = true;
    for (unsigned i = 0; i < 100; i++) {
        *(volatile uint32_t *)(p + 1) = i * 77;
        f = call(a, 0);
        ok &= f.vector == SYS && f.rax == i * 77;
    }
    CHECK("written by the kernel", ok);
    for (unsigned i = 0; i < 50; i++) { /* both */
        map_page(a, (uint64_t)(i & 1 ? p : q), i & 2 ? RW : RO);
        memcpy(i & 1 ? p : q, ret5, 6);
        (i & 1 ? p : q)[1] = (uint8_t)i;
        f = call(a, 0);
        ok &= f.vector == SYS && f.rax == i;
    }
    CHECK("other pages, other code", ok);
    /* Code and data in one page: mov 0x800(%rdi), %eax; incl 0x800(%rdi); ret */
    memcpy(p, "\x8b\x87\x00\x08\0\0\xff\x87\x00\x08\0\0\xc3", 13);
    *(uint32_t *)(p + 0x800) = 0;
    map_page(a, (uint64_t)p, RW);
    ok = true;
    for (unsigned i = 0; i < 200; i++) {
        f = call(a, 0);
        ok &= f.vector == SYS && f.rax == i;
    }
    CHECK("code that counts in its own page", ok);
    /* It changes what comes next: movb $0x55, 8(%rdi)...: c6 47 05 55 b8 11 00 00 00 c3 */
    memcpy(p, "\xc6\x47\x05\x55\xb8\x11\0\0\0\xc3", 10);
    f = call(a, 0);
    CHECK("a store into the next instruction", f.vector == SYS && f.rax == 0x55);
    /* Over the end of a page */
    map_page(a, (uint64_t)p, RO);
    map_page(a + 4096, (uint64_t)q, RO);
    memcpy(p + 4093, "\xb8\x01\x02", 3);
    memcpy(q, "\x03\x04\xc3", 3);
    CHECK_EQ("an instruction in two pages", call(a + 4093, 0).rax, 0x04030201);
    q[0] = 0x99;
    CHECK_EQ("its second part changed", call(a + 4093, 0).rax, 0x04990201);
    p[4095] = 0x98;
    CHECK_EQ("its first part changed", call(a + 4093, 0).rax, 0x04999801);
    uint8_t *q2 = page_alloc();
    memcpy(q2, "\x03\x05\xc3", 3);
    map_page(a + 4096, (uint64_t)q2, RO);
    CHECK_EQ("its second page another", call(a + 4093, 0).rax, 0x05039801);
    map_page(a + 4096, (uint64_t)q, RO | PTE_NX);
    f = call(a + 4093, 0);
    USER_EXPECT_PF("its second page not executable", &f, 0x15, a + 4096, a + 4093);
    map_page(a + 4096, 0, 0);
    f = call(a + 4093, 0);
    USER_EXPECT_PF("its second page not there", &f, 0x14, a + 4096, a + 4093);
    map_page(a + 4096, (uint64_t)q, RO);
    user_run(&f);
    CHECK("and then there", f.vector == SYS && f.rax == 0x04999801);
    /* CPUID over the end of a page, and RDTSC. In code: what else the bytes before could be is a limit of direct execution. */
    memset(p + 4032, 0x90, 63);
    p[4095] = 0x0f;
    memcpy(q, "\xa2\x0f\x05", 3);
    uint32_t r[4];
    cpuid(1, 0, r);
    for (unsigned i = 0; i < 3; i++) {
        f = user_regs(a + 4094);
        f.rax = 1;
        f.rcx = 0;
        user_run(&f);
        CHECK("CPUID in two pages", f.vector == SYS && f.rax == r[0] && f.rdx == r[3]);
    }
    /* SYSCALL at the very end of the lower half, and in two pages */
    memcpy(p + 4094, "\x0f\x05", 2);
    for (uint64_t top = 0x7ffffffff000ull; top >= 0x7fffffffd000ull; top -= 4096) {
        map_page(top, (uint64_t)p, RO);
        f = user_regs(top + 4094);
        user_run(&f);
        CHECK("SYSCALL at the end of a high page", f.vector == SYS && f.rcx == top + 4096 && f.rip == top + 4096);
    }
    memcpy(p + 4094, "\x90\x0f", 2);
    memcpy(q, "\x05", 1);
    f = user_regs(a + 4094);
    user_run(&f);
    CHECK("SYSCALL in two pages", f.vector == SYS && f.rip == a + 4097);
    /* Low addresses, where hosts map nothing */
    for (uint64_t low = 0x8000; low < 0x20000; low += 0x4000) {
        memcpy((void *)low, ret5, 6);
        CHECK("code at a low address", call(low, 0).rax == 5);
    }
}

static void wild(void)
{
    uint64_t s = 88172645463325252ull;
    bool ok = true;
    for (unsigned i = 0; i < 600; i++) {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        uint64_t at = i < 60 ? (1ull << (32 + i / 4 % 15)) + (i & 3) * 0x1ffff : (s & 0x7fffffffffffull) >> (i % 3 * 4);
        if (at < 1ull << 32 || (at >> 39) == (W >> 39) || (at >> 39) == (0x20000000000ull >> 39) || (at >> 39) == (0x30000000000ull >> 39) || at >> 21 == UCODE >> 21 || at >> 21 == USTACK >> 21)
            continue;
        struct frame f = jump(at);
        ok &= f.vector == 14 && f.error == 0x14 && user_cr2 == at && f.rip == at;
        f = wr(at, 1);
        uint64_t first = user_cr2; /* at a page's end the second page's may be told */
        ok &= f.vector == 14 && f.error == 6 && first == at;
        if (!ok) {
            print("  at %lx: vector %lx error %lx rip %lx cr2 %lx\n", at, f.vector, f.error, f.rip, user_cr2);
            break;
        }
    }
    CHECK("wild jumps and stores", ok);
}

void guest_main(uint32_t info, uint32_t magic)
{
    if (user_init()) {
        faults();
        bits();
        paging();
        flushes();
        large();
        spaces();
        code();
        wild();
    }
    finish();
}
