/* 4-level paging: every combination of rights against a model, error codes, CR2, A and D bits, reserved bits, large
 * pages, crossing accesses and instructions, and that every kind of flush works. */
#include "attempt.h"

#define T 0x8000000000ull /* PML4 entry 1: nothing of the image is there */
static uint64_t *pte, *pde, *pdpte, *pml4e, frame0;
static uint32_t feat7[4], featx[4], feat1[4];
enum { EV_P = 1, EV_W = 2, EV_U = 4, EV_RSVD = 8, EV_I = 16 };
enum { R, W, X, UR, UW, UX, KINDS };
#define CR0_WP (1ull << 16)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define CR4_PGE (1ull << 7)
#define CR4_PCIDE (1ull << 17)
#define EFER_NXE (1ull << 11)
#define FL_AC (1ull << 18)

/* User code: each access, then out by INT 0x80. The target page holds "jmp *%r8". */
__asm__(".balign 4096\n.globl ucode\nucode: movb (%rdi), %al\n int $0x80\n"
        ".balign 16\n movb %al, (%rdi)\n int $0x80\n"
        ".balign 16\n jmp *%rdi\n"
        ".balign 16\n int $0x80\n .balign 4096");
extern uint8_t ucode[];
static uint8_t ustack[4096] __attribute__((aligned(4096)));
#define UCODE (T + 0x40000000ull)
#define USTACK (T + 0x40001000ull)

static void flush(void)
{
    write_cr3(read_cr3());
}

/* Everything of the image becomes supervisor memory (for SMEP and SMAP) or user memory again. */
static void image_user(bool user)
{
    uint64_t *p = (uint64_t *)(read_cr3() & ~0xfffull);
    p = (uint64_t *)(p[0] & ~0xfffull);
    p = (uint64_t *)(p[0] & ~0xfffull);
    for (int i = 0; i < 32; i++)
        p[i] = user ? p[i] | PTE_U : p[i] & ~(uint64_t)PTE_U;
    flush();
}

static void access_super(int kind, uint64_t addr)
{
    if (kind == R)
        ATTEMPT("1: movb (%%rcx), %%al\n2:", "c"(addr));
    else if (kind == W)
        ATTEMPT("1: movb %%al, (%%rcx)\n2:", "c"(addr));
    else
        ATTEMPT("leaq 2f(%%rip), %%r8\n movq %%rcx, site(%%rip)\n1: jmp *%%rcx\n2:", "c"(addr));
}

static void access_user(int kind, uint64_t addr)
{
    struct frame f = user_frame((void *)(UCODE + 16u * (unsigned)(kind - UR)));
    f.rsp = USTACK + 4096;
    f.rdi = addr;
    f.r8 = UCODE + 48;
    f.rax = 0xff;
    run_frame(&f);
    if (fault.happened && fault.cs != 0x3b)
        print("  user access left from cs %lx\n", fault.cs);
}

/* The model (SDM Vol. 3A, 4.6, 4.7): error code, or -1 for no fault. */
static unsigned
    rsvd; /* error bits of a reserved-bit fault; TCG 7.2 leaves P clear (SDM Vol. 3A, 4.7: RSVD comes with P) */
static int model(int kind, uint64_t leaf, uint64_t upper, bool wp, bool smep, bool smap, bool ac, bool nxe)
{
    bool user = kind >= UR, wr = kind == W || kind == UW, ex = kind == X || kind == UX;
    int e = (wr ? EV_W : 0) | (user ? EV_U : 0) | (ex && (nxe || smep) ? EV_I : 0);
    if (!(upper & 1))
        return e;
    if (!nxe && upper >> 63)
        return e | (int)rsvd;
    if (!(leaf & 1))
        return e;
    if (!nxe && leaf >> 63)
        return e | (int)rsvd;
    uint64_t both = upper & leaf;
    bool u = both & PTE_U, w = both & PTE_W, nx = (upper | leaf) >> 63;
    e |= EV_P;
    if (user && !u)
        return e;
    if (ex && nx)
        return e;
    if (wr && !w && (user || wp))
        return e;
    if (!user && u && ex && smep)
        return e;
    if (!user && u && !ex && smap && !ac)
        return e;
    return -1;
}

static unsigned bad;
static void combination(uint64_t leaf, uint64_t upper, bool wp, bool smep, bool smap, bool ac, bool nxe)
{
    for (int kind = R; kind < KINDS; kind++) {
        /* The table's owner: only P, W, U, NX of PTE and PDE vary. */
        *pte = frame0 | leaf;
        *pde = (*pde & 0x000ffffffffff000ull) | upper;
        invlpg(T);
        uint64_t addr = T + (kind == X || kind == UX ? 0x123 : 0x234);
        int want = model(kind, leaf, upper, wp, smep, smap, ac, nxe), got;
        if (kind < UR) {
            if (ac)
                __asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq" ::: "cc", "memory");
            access_super(kind, addr);
            __asm__ volatile("pushfq; andl $~0x40000, (%%rsp); popfq" ::: "cc", "memory");
        } else
            access_user(kind, addr);
        got = !fault.happened ? -1 : fault.vector == 14 ? (int)fault.error : 1000 + fault.vector;
        bool ok = got == want && (got < 0 || fault.cr2 == addr);
        bool acc = *pte & PTE_A, dirty = *pte & PTE_D;
        /* A and D of the leaf are set by an access that succeeds and by no other kind (A may be set early by hardware:
         * not checked when it faults). */
        if (want < 0)
            ok &= acc && dirty == (kind == W || kind == UW) && (*pde & PTE_A);
        else
            ok &= !dirty;
        if (!ok && bad++ < 10)
            print("  kind %d leaf %lx upper %lx wp %d smep %d smap %d ac %d nxe %d: got %d, want %d, cr2 %lx pte %lx "
                  "pde %lx\n",
                  kind, leaf, upper, wp, smep, smap, ac, nxe, got, want, fault.cr2, *pte, *pde);
    }
}

static void all_combinations(const char *name, bool wp, bool smep, bool smap, bool ac, bool nxe)
{
    uint64_t cr0 = read_cr0(), cr4 = read_cr4(), efer = rdmsr(0xc0000080);
    wrmsr(0xc0000080, nxe ? efer | EFER_NXE : efer & ~EFER_NXE);
    write_cr0(wp ? cr0 | CR0_WP : cr0 & ~CR0_WP);
    image_user(false);
    write_cr4(cr4 | (smep ? CR4_SMEP : 0) | (smap ? CR4_SMAP : 0));
    bad = 0;
    for (unsigned i = 0; i < 256; i++) {
        uint64_t leaf = (i & 7) | (i & 8 ? PTE_NX : 0), upper = (i >> 4 & 7) | (i & 128 ? PTE_NX : 0);
        combination(leaf, upper, wp, smep, smap, ac, nxe);
    }
    CHECK_EQ(name, bad, 0);
    write_cr4(cr4);
    write_cr0(cr0);
    image_user(true);
    *pte = frame0 | 7;
    *pde = (*pde & 0x000ffffffffff000ull) | 7;
    wrmsr(0xc0000080, efer);
    flush();
}

static void rights(void)
{
    bool smep = feat7[1] >> 7 & 1, smap = feat7[1] >> 20 & 1;
    all_combinations("rights: WP=0", false, false, false, false, true);
    all_combinations("rights: WP=1", true, false, false, false, true);
    all_combinations("rights: NXE=0", true, false, false, false, false);
    if (smep)
        all_combinations("rights: SMEP", true, true, false, false, true);
    if (smep)
        all_combinations("rights: SMEP, NXE=0", true, true, false, false, false);
    if (smap) {
        all_combinations("rights: SMAP", true, false, true, false, true);
        all_combinations("rights: SMAP, AC", true, false, true, true, true);
        all_combinations("rights: SMAP, SMEP, WP=0", false, true, true, false, true);
    }
}

/* Implicit supervisor accesses (here: the LDT) are refused by SMAP whatever AC says (SDM Vol. 3A, 4.6.1). */
static void smap_implicit(void)
{
    if (!(feat7[1] >> 20 & 1) || lax("SMAP: implicit access with AC set", "TCG goes by AC alone"))
        return;
    uint64_t ldt = T + 0x800;
    gdt[12] = 0xff | (ldt & 0xffffff) << 16 | 0x82ull << 40 | (ldt >> 24 & 0xff) << 56;
    gdt[13] = ldt >> 32;
    __asm__ volatile("lldt %w0" ::"r"(0x60));
    image_user(false);
    *pte = frame0 | 7;
    flush();
    *(uint64_t *)(T + 0x810) = gdt[2];
    ATTEMPT("1: movw %%cx, %%fs\n2:", "c"(0x14));
    EXPECT_NONE("segment load from an LDT in user memory");
    write_cr4(read_cr4() | CR4_SMAP);
    ATTEMPT("stac\n1: movw %%cx, %%fs\n2: clac", "c"(0x14));
    write_cr4(read_cr4() & ~CR4_SMAP);
    image_user(true);
    EXPECT_PF("SMAP: implicit access with AC set", EV_P, T + 0x810);
    __asm__ volatile("lldt %w0; movw %w0, %%fs" ::"r"(0));
}

static void reserved_bits(void)
{
    uint64_t save[4] = {*pte, *pde, *pdpte, *pml4e};
    uint64_t *ent[4] = {pte, pde, pdpte, pml4e};
    static const char *const name[4] = {"reserved: PTE bit 51", "reserved: PDE bit 51", "reserved: PDPTE bit 51",
                                        "reserved: PML4E bit 51"};
    uint32_t r[4];
    cpuid(0x80000008, 0, r);
    if ((r[0] & 0xff) < 52)
        for (int i = 0; i < 4; i++) {
            *ent[i] |= 1ull << 51;
            flush();
            access_super(R, T);
            EXPECT_PF(name[i], rsvd, T);
            access_super(W, T);
            EXPECT_PF(name[i], rsvd | EV_W, T);
            if (i < 3) { /* the user's code lies under the same PML4E */
                access_user(UW, T);
                CHECK_EQ(name[i], fault.error, rsvd | EV_W | EV_U);
            }
            *ent[i] = save[i];
            flush();
        }
    else
        skip("reserved physical bits", "all 52 are implemented");
    *pml4e |= PTE_PS;
    flush();
    access_super(R, T);
    EXPECT_PF("reserved: PS in PML4E", rsvd, T);
    *pml4e = save[3];
    flush();
    /* A reserved bit matters only in a present entry. */
    *pte = 1ull << 51;
    invlpg(T);
    access_super(R, T);
    EXPECT_PF("reserved bit in an entry that is not present", 0, T);
    *pte = save[0];
    /* 2 MiB page: bits 20:13 are reserved. */
    *pde = 0x200000 | 0x87 | 1 << 13;
    flush();
    access_super(R, T);
    EXPECT_PF("reserved: 2 MiB page, bit 13", rsvd, T);
    *pde = 0x200000 | 0x87 | 1 << 20;
    flush();
    access_super(W, T);
    EXPECT_PF("reserved: 2 MiB page, bit 20", rsvd | EV_W, T);
    *pde = 0x200000 | 0x87 | 1 << 12; /* PAT: not reserved */
    flush();
    access_super(R, T);
    EXPECT_NONE("2 MiB page, bit 12 is PAT");
    *pde = save[1];
    flush();
}

static void large_pages(void)
{
    uint64_t spde = *pde, spdpte = *pdpte;
    volatile uint32_t *marker = (uint32_t *)0x234560;
    uint32_t keep = *marker;
    *marker = 0x11223344;
    *pde = 0x200000 | 0x87;
    flush();
    CHECK_EQ("2 MiB page translates", *(volatile uint32_t *)(T + 0x34560), 0x11223344);
    CHECK("2 MiB page: A set, D clear", (*pde & (PTE_A | PTE_D)) == PTE_A);
    *(volatile uint32_t *)(T + 0x34560) = 0x55667788;
    CHECK("2 MiB page: D set by a write", *pde & PTE_D);
    CHECK_EQ("2 MiB page: write seen through the identity map", *marker, 0x55667788);
    *pde = 0x200000 | 0x85;
    flush();
    write_cr0(read_cr0() | CR0_WP);
    access_super(W, T + 0x34560);
    EXPECT_PF("2 MiB page: read-only", EV_P | EV_W, T + 0x34560);
    write_cr0(read_cr0() & ~CR0_WP);
    *pde = spde;
    if (featx[3] >> 26 & 1) {
        *pdpte = 0x87;
        flush();
        *marker = 0x99aabbcc;
        CHECK_EQ("1 GiB page translates", *(volatile uint32_t *)(T + 0x234560), 0x99aabbcc);
        CHECK("1 GiB page: A set, D clear", (*pdpte & (PTE_A | PTE_D)) == PTE_A);
        *(volatile uint32_t *)(T + 0x234560) = 5;
        CHECK("1 GiB page: D set by a write", *pdpte & PTE_D);
        *pdpte = 0x87 | 1 << 13;
        flush();
        access_super(R, T);
        EXPECT_PF("reserved: 1 GiB page, bit 13", rsvd, T);
        *pdpte = 0x87 | 1 << 29;
        flush();
        access_super(R, T);
        EXPECT_PF("reserved: 1 GiB page, bit 29", rsvd, T);
    } else {
        *pdpte = 0x87;
        flush();
        access_super(R, T);
        EXPECT_PF("PS in PDPTE without 1 GiB pages", rsvd, T);
    }
    *pdpte = spdpte;
    *marker = keep;
    flush();
}

static void canonical(void)
{
    use_ist(12, true);
    use_ist(13, true);
    ATTEMPT("1: movb (%%rcx), %%al\n2:", "c"(0x800000000000ull));
    EXPECT_FAULT("non-canonical read: #GP", 13, 0);
    ATTEMPT("1: movb %%al, (%%rcx)\n2:", "c"(0xffff7fffffffffffull));
    EXPECT_FAULT("non-canonical write: #GP", 13, 0);
    if (!lax("non-canonical stack: #SS", "TCG 7.2 raises #GP (SDM Vol. 1, 3.3.7.1)")) {
        ATTEMPT("movq %%rcx, %%rsp\n1: pushq %%rax\n2:", "c"(0x800000000010ull));
        EXPECT_FAULT("non-canonical push: #SS", 12, 0);
        ATTEMPT("movq %%rbp, %%r8; movq %%rcx, %%rbp\n1: movb (%%rbp), %%al\n2: movq %%r8, %%rbp",
                "c"(0x800000000010ull));
        EXPECT_FAULT("non-canonical RBP-based read: #SS", 12, 0);
    }
    /* 8 bytes that begin canonical and end beyond */
    ATTEMPT("1: movq (%%rcx), %%rax\n2:", "c"(0x7ffffffffffcull));
    CHECK("read across the canonical hole: #GP or #PF",
          fault.happened &&
              ((fault.vector == 13 && fault.error == 0) || (fault.vector == 14 && fault.cr2 == 0x7ffffffffffcull)));
    ATTEMPT("1: jmp *%%rcx\n2:", "c"(0x800000000000ull));
    LAX("RIP is changed first (SDM Vol. 2A, JMP)");
    EXPECT_FAULT("jump to a non-canonical address: #GP at the jump", 13, 0);
    ATTEMPT("pushq %%rcx\n1: ret\n2:", "c"(0x800000000000ull));
    LAX("RIP is changed first (SDM Vol. 2B, RET)");
    EXPECT_FAULT("return to a non-canonical address: #GP at the RET", 13, 0);
    use_ist(12, false);
    use_ist(13, false);
}

/* Accesses and instructions over a page boundary: CR2 is the first byte on the faulting page; nothing is written. */
static void crossing(void)
{
    uint8_t *p0 = page_alloc(), *p1 = page_alloc();
    uint64_t A = T + 0x10000, B = A + 0x1000;
    map_page(A, (uint64_t)p0, 7);
    uint64_t *e1 = map_page(B, (uint64_t)p1, 7);
    memset(p0, 0x5a, 4096);
    memset(p1, 0xa5, 4096);
    *e1 = 0;
    invlpg(B);
    ATTEMPT("1: movq (%%rcx), %%rax\n2:", "c"(B - 3));
    EXPECT_PF("crossing read: second page missing", 0, B);
    ATTEMPT("1: movq %%rax, (%%rcx)\n2:", "c"(B - 3));
    EXPECT_PF("crossing write: second page missing", EV_W, B);
    CHECK("crossing write that faults leaves the first page alone",
          p0[4093] == 0x5a && p0[4094] == 0x5a && p0[4095] == 0x5a);
    ATTEMPT("1: lock addq %%rdx, (%%rcx)\n2:", "c"(B - 3), "d"(1));
    LAX("reads before it writes");
    EXPECT_PF("crossing locked add: second page missing", EV_W, B);
    CHECK("locked add that faults leaves the first page alone",
          p0[4093] == 0x5a && p0[4094] == 0x5a && p0[4095] == 0x5a);
    *e1 = (uint64_t)p1 | 5;
    write_cr0(read_cr0() | CR0_WP);
    flush();
    ATTEMPT("1: movq %%rax, (%%rcx)\n2:", "c"(B - 3));
    EXPECT_PF("crossing write: second page read-only", EV_P | EV_W, B);
    CHECK("crossing write to a read-only page leaves the first alone", p0[4093] == 0x5a && p0[4095] == 0x5a);
    ATTEMPT("1: addq %%rdx, (%%rcx)\n2:", "c"(B - 3), "d"(1));
    EXPECT_PF("crossing read-modify-write: reported as a write", EV_P | EV_W, B);
    write_cr0(read_cr0() & ~CR0_WP);
    *e1 = (uint64_t)p1 | 7;
    flush();
    ATTEMPT("1: movq %%rdx, (%%rcx)\n2:", "c"(B - 3), "d"(0x1122334455667788));
    EXPECT_NONE("crossing write");
    CHECK("crossing write: bytes",
          p0[4093] == 0x88 && p0[4095] == 0x66 && p1[0] == 0x55 && p1[4] == 0x11 && p1[5] == 0xa5);
    /* discontiguous: swap the frames */
    uint8_t *p2 = page_alloc();
    *e1 = (uint64_t)p2 | 7;
    invlpg(B);
    p2[0] = 0x42;
    CHECK_EQ("crossing read joins two frames", *(volatile uint16_t *)(B - 1), 0x4266);
    *e1 = (uint64_t)p1 | 7;
    invlpg(B);

    /* mov $imm32, %eax at B-2: its immediate lies on the second page */
    static const uint8_t insn[6] = {0xb8, 1, 2, 3, 4, 0xc3};
    for (unsigned k = 1; k < 5; k++) {
        *e1 = (uint64_t)p1 | 7;
        invlpg(B);
        memcpy((void *)(B - k), insn, 6);
        *e1 = 0;
        invlpg(B);
        ATTEMPT("movq %%rcx, site(%%rip)\n1: call *%%rcx\n2:", "c"(B - k));
        EXPECT_PF("instruction over a boundary, second page missing", rdmsr(0xc0000080) & EFER_NXE ? EV_I : 0, B);
    }
    /* A complete instruction at the very end needs nothing of the next page. */
    p0[4095] = 0xc3;
    ATTEMPT("1: call *%%rcx\n2:", "c"(B - 1));
    EXPECT_NONE("last byte of a page holds a whole instruction");
    /* #UD is found in the first bytes, but the fetch of the rest is not needed: ud2 ends the page */
    p0[4094] = 0x0f;
    p0[4095] = 0x0b;
    ATTEMPT("movq %%rcx, site(%%rip)\n1: call *%%rcx\n2:", "c"(B - 2));
    EXPECT_FAULT("UD2 at the end of a page", 6, 0);
    /* a 15-byte limit violation wins only when the bytes can be fetched: prefixes up to the missing page give #PF */
    memset(p0 + 4086, 0x66, 10);
    ATTEMPT("movq %%rcx, site(%%rip)\n1: call *%%rcx\n2:", "c"(B - 10));
    EXPECT_PF("prefixes up to a missing page", rdmsr(0xc0000080) & EFER_NXE ? EV_I : 0, B);
    *e1 = (uint64_t)p1 | 7;
    invlpg(B);
    memset(p1, 0x66, 16);
    ATTEMPT("movq %%rcx, site(%%rip)\n1: call *%%rcx\n2:", "c"(B - 10));
    EXPECT_FAULT("16 prefixes: #GP", 13, 0);
}

/* Order of what one instruction finds wrong. */
static void order(void)
{
    ATTEMPT("1: movsb\n2:", "S"(T + 0x700000), "D"(T + 0x701000));
    EXPECT_PF("MOVS: the source faults first", 0, T + 0x700000);
    ATTEMPT("1: pushq (%%rcx)\n2:", "c"(T + 0x700000));
    EXPECT_PF("PUSH mem: the source faults first", 0, T + 0x700000);
    ATTEMPT("1: xchgq %%rax, (%%rcx)\n2:", "c"(T + 0x700000));
    LAX("reads before it writes");
    EXPECT_PF("XCHG faults as a write", EV_W, T + 0x700000);
    ATTEMPT("1: lock cmpxchgq %%rdx, (%%rcx)\n2:", "c"(T + 0x700000), "d"(0));
    LAX("reads before it writes");
    EXPECT_PF("CMPXCHG faults as a write", EV_W, T + 0x700000);
    ATTEMPT("1: testq %%rax, (%%rcx)\n2:", "c"(T + 0x700000));
    EXPECT_PF("TEST faults as a read", 0, T + 0x700000);
    ATTEMPT("1: cmpxchg16b (%%rcx)\n2:", "c"(T + 0x700008));
    EXPECT_FAULT("CMPXCHG16B misaligned: #GP before #PF", 13, 0);
    ATTEMPT("1: btsq %%rdx, (%%rcx)\n2:", "c"(T + 0x700000), "d"(64 * 512));
    LAX("reads before it writes");
    EXPECT_PF("BTS with a bit offset faults where the bit is", EV_W, T + 0x701000);
    ATTEMPT("1: invlpg (%%rcx)\n2:", "c"(T + 0x700000));
    EXPECT_NONE("INVLPG of an unmapped page");
    ATTEMPT("1: invlpg (%%rcx)\n2:", "c"(0x800000000000ull));
    EXPECT_NONE("INVLPG of a non-canonical address does nothing");
    ATTEMPT("1: lea (%%rcx), %%rax\n2:", "c"(0x800000000000ull));
    EXPECT_NONE("LEA checks nothing");
    ATTEMPT("1: prefetcht0 (%%rcx)\n2:", "c"(T + 0x700000));
    EXPECT_NONE("PREFETCH of an unmapped page");
    ATTEMPT("1: clflush (%%rcx)\n2:", "c"(T + 0x700000));
    LAX("does not access memory (SDM Vol. 2A, CLFLUSH)");
    EXPECT_PF("CLFLUSH faults as a read", 0, T + 0x700000);
    write_cr2(0x123456789abcdef0ull);
    CHECK_EQ("CR2 is writable and not checked", read_cr2(), 0x123456789abcdef0ull);
}

static void ad_bits(void)
{
    uint8_t *p = page_alloc();
    uint64_t A = T + 0x20000;
    uint64_t *e = map_page(A, (uint64_t)p, 7);
    pde[0] &= ~(uint64_t)(PTE_A);
    *pdpte &= ~(uint64_t)PTE_A;
    *pml4e &= ~(uint64_t)PTE_A;
    flush();
    (void)*(volatile uint8_t *)A;
    CHECK("read sets A at every level", (*e & PTE_A) && (*pde & PTE_A) && (*pdpte & PTE_A) && (*pml4e & PTE_A));
    CHECK("read leaves D alone", !(*e & PTE_D));
    *(volatile uint8_t *)A = 1;
    CHECK("write sets D though the translation was cached", *e & PTE_D);
    *e &= ~(uint64_t)(PTE_A | PTE_D);
    invlpg(A);
    __asm__ volatile("lock cmpxchgb %%cl, (%%rdx)" ::"a"(77), "c"(3), "d"(A) : "memory", "cc");
    CHECK("CMPXCHG that does not match sets D", (*e & PTE_D) && *(volatile uint8_t *)A == 1);
}

static void flushes(void)
{
    uint8_t *p = page_alloc(), *q = page_alloc();
    uint64_t A = T + 0x30000;
    p[0] = 1;
    q[0] = 2;
    uint64_t *e = map_page(A, (uint64_t)p, 7);
    volatile uint8_t *v = (uint8_t *)A;
    CHECK_EQ("mapped", *v, 1);
    *e = (uint64_t)q | 7;
    invlpg(A);
    CHECK_EQ("INVLPG flushes", *v, 2);
    *e = (uint64_t)p | 7;
    invlpg(A + 0xfff);
    CHECK_EQ("INVLPG of any byte of the page flushes", *v, 1);
    *e = (uint64_t)q | 7;
    flush();
    CHECK_EQ("MOV to CR3 flushes", *v, 2);
    write_cr4(read_cr4() | CR4_PGE);
    *e = (uint64_t)p | 7 | PTE_G;
    invlpg(A);
    CHECK_EQ("global page", *v, 1);
    *e = (uint64_t)q | 7 | PTE_G;
    invlpg(A);
    CHECK_EQ("INVLPG flushes a global page", *v, 2);
    *e = (uint64_t)p | 7 | PTE_G;
    write_cr4(read_cr4() & ~CR4_PGE);
    CHECK_EQ("clearing PGE flushes global pages", *v, 1);
    *e = (uint64_t)q | 7 | PTE_G;
    write_cr4(read_cr4() | CR4_PGE);
    CHECK_EQ("setting PGE flushes", *v, 2);
    /* CR0 and EFER writes that change paging rights take effect at once */
    *e = (uint64_t)q | 5;
    invlpg(A);
    *v = 9;
    write_cr0(read_cr0() | CR0_WP);
    access_super(W, A);
    EXPECT_PF("setting WP takes effect at once", EV_P | EV_W, A);
    write_cr0(read_cr0() & ~CR0_WP);
    access_super(W, A);
    EXPECT_NONE("clearing WP takes effect at once");
    /* not-present entries are never cached */
    *e = 0;
    invlpg(A);
    access_super(R, A);
    EXPECT_PF("missing", 0, A);
    *e = (uint64_t)p | 7;
    access_super(R, A);
    EXPECT_NONE("a page made present needs no flush");
    /* a page fault flushes the entry that caused it: rights may be raised without INVLPG */
    *e = (uint64_t)p | 5;
    invlpg(A);
    write_cr0(read_cr0() | CR0_WP);
    (void)*v;
    access_super(W, A);
    *e = (uint64_t)p | 7;
    access_super(W, A);
    EXPECT_NONE("after the fault, raised rights need no flush");
    write_cr0(read_cr0() & ~CR0_WP);
    /* changed upper level */
    uint64_t *pd2 = page_alloc(), *pt2 = page_alloc(), old = *pdpte;
    memcpy(pd2, (void *)(old & ~0xfffull), 4096);
    pd2[0] = (uint64_t)pt2 | 7;
    pt2[0x30] = (uint64_t)q | 7;
    q[0] = 77;
    p[0] = 66;
    *pdpte = (uint64_t)pd2 | 7;
    invlpg(A);
    CHECK_EQ("INVLPG drops cached paging structures too", *v, 77);
    *pdpte = old;
    flush();
    CHECK_EQ("and MOV to CR3", *v, 66);
}

static void pcid(void)
{
    if (!(feat1[2] >> 17 & 1)) {
        skip("PCID", "not offered");
        return;
    }
    ATTEMPT("1: movq %%rcx, %%cr4\n2:", "c"(read_cr4() | CR4_PCIDE));
    EXPECT_NONE("PCIDE with CR3[11:0] = 0");
    write_cr4(read_cr4() & ~CR4_PCIDE);
    write_cr3(read_cr3() | 8); /* PWT: part of the PCID field when set */
    ATTEMPT("1: movq %%rcx, %%cr4\n2:", "c"(read_cr4() | CR4_PCIDE));
    EXPECT_FAULT("PCIDE with CR3[11:0] != 0: #GP", 13, 0);
    write_cr3(read_cr3() & ~0xfffull);
    write_cr4(read_cr4() | CR4_PCIDE);
    uint64_t base = read_cr3() & ~0xfffull;
    uint8_t *p = page_alloc(), *q = page_alloc();
    uint64_t A = T + 0x40000;
    volatile uint8_t *v = (uint8_t *)A;
    p[0] = 1;
    q[0] = 2;
    uint64_t *e = map_page(A, (uint64_t)p, 7);
    write_cr3(base | 5);
    CHECK_EQ("CR3 reads back the PCID", read_cr3() & 0xfff, 5);
    CHECK_EQ("PCID 5", *v, 1);
    write_cr3(base | 6 | 1ull << 63);
    CHECK_EQ("bit 63 of CR3 reads as zero", read_cr3() >> 63, 0);
    *e = (uint64_t)q | 7;
    write_cr3(base | 5); /* bit 63 clear: flushes PCID 5 */
    CHECK_EQ("MOV to CR3 flushes its PCID", *v, 2);
    if (feat7[1] >> 10 & 1) {
        struct {
            uint64_t pcid, addr;
        } d = {5, A};
        *e = (uint64_t)p | 7;
        __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(0ull) : "memory");
        CHECK_EQ("INVPCID individual address", *v, 1);
        *e = (uint64_t)q | 7;
        d.addr = 0;
        __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(1ull) : "memory");
        CHECK_EQ("INVPCID single context", *v, 2);
        *e = (uint64_t)p | 7 | PTE_G;
        d.pcid = 0;
        __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(2ull) : "memory");
        CHECK_EQ("INVPCID all with globals", *v, 1);
        *e = (uint64_t)q | 7 | PTE_G;
        __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(2ull) : "memory");
        CHECK_EQ("INVPCID all with globals, global page", *v, 2);
        *e = (uint64_t)q | 7;
        invlpg(A);
        (void)*v;
        *e = (uint64_t)p | 7;
        __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(3ull) : "memory");
        CHECK_EQ("INVPCID all without globals", *v, 1);
        ATTEMPT("1: invpcid (%%rcx), %%rdx\n2:", "c"(&d), "d"(4ull));
        EXPECT_FAULT("INVPCID type 4: #GP", 13, 0);
        d.pcid = 0x1000;
        ATTEMPT("1: invpcid (%%rcx), %%rdx\n2:", "c"(&d), "d"(1ull));
        EXPECT_FAULT("INVPCID reserved PCID bits: #GP", 13, 0);
        d.pcid = 5;
        d.addr = 0x800000000000ull;
        ATTEMPT("1: invpcid (%%rcx), %%rdx\n2:", "c"(&d), "d"(0ull));
        if (!lax("INVPCID non-canonical address: #GP", "TCG does not check it (SDM Vol. 2A, INVPCID)"))
            EXPECT_FAULT("INVPCID non-canonical address: #GP", 13, 0);
        ATTEMPT("1: invpcid (%%rcx), %%rdx\n2:", "c"(T + 0x700000), "d"(4ull));
        CHECK("INVPCID bad type or missing descriptor faults",
              fault.happened && (fault.vector == 13 || fault.vector == 14));
    }
    write_cr3(base);
    write_cr4(read_cr4() & ~CR4_PCIDE);
}

static void control(void)
{
    uint64_t cr0 = read_cr0(), cr4 = read_cr4();
    if (!lax("CR0 and CR4 checks", "TCG takes any value (SDM Vol. 3A, 2.5)")) {
        ATTEMPT("1: movq %%rcx, %%cr0\n2:", "c"(cr0 & ~1ull));
        EXPECT_FAULT("CR0: PG without PE: #GP", 13, 0);
        ATTEMPT("1: movq %%rcx, %%cr0\n2:", "c"(cr0 | 1ull << 32));
        EXPECT_FAULT("CR0 bit 32: #GP", 13, 0);
        ATTEMPT("1: movq %%rcx, %%cr0\n2:", "c"((cr0 | 1u << 29) & ~(1ull << 30)));
        EXPECT_FAULT("CR0: NW without CD: #GP", 13, 0);
        ATTEMPT("1: movq %%rcx, %%cr4\n2:", "c"(cr4 & ~(1ull << 5)));
        EXPECT_FAULT("CR4: PAE off in long mode: #GP", 13, 0);
        ATTEMPT("1: movq %%rcx, %%cr4\n2:", "c"(cr4 | 1ull << 31));
        EXPECT_FAULT("CR4 reserved bit: #GP", 13, 0);
        ATTEMPT("1: movq %%rcx, %%cr3\n2:", "c"(read_cr3() | 1ull << 60));
        EXPECT_FAULT("CR3 beyond the physical width: #GP", 13, 0);
    }
    write_cr0(cr0);
    write_cr4(cr4);
    write_cr0(cr0 & ~0x10ull);
    CHECK("CR0.ET reads as one", read_cr0() & 0x10);
    if (!lax("EFER check", "TCG takes any value (SDM Vol. 4, IA32_EFER)")) {
        ATTEMPT("xorl %%eax, %%eax\n1: wrmsr\n2:", "c"(0xc0000080), "d"(0));
        EXPECT_FAULT("EFER: LME off while paging: #GP", 13, 0);
    }
    CHECK_EQ("LMA reads as one", rdmsr(0xc0000080) >> 10 & 1, 1);
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    tss_init();
    rsvd = under_qemu() ? EV_RSVD : EV_RSVD | EV_P;
    cpuid(1, 0, feat1);
    cpuid(7, 0, feat7);
    cpuid(0x80000001, 0, featx);
    uint8_t *p = page_alloc();
    frame0 = (uint64_t)p;
    memcpy(p + 0x123, "\x41\xff\xe0", 3); /* jmp *%r8 */
    pte = map_page(T, frame0, 7);
    pml4e = (uint64_t *)(read_cr3() & ~0xfffull) + 1;
    pdpte = (uint64_t *)(*pml4e & 0x000ffffffffff000ull);
    pde = (uint64_t *)(*pdpte & 0x000ffffffffff000ull);
    map_page(UCODE, (uint64_t)ucode, 7);
    map_page(USTACK, (uint64_t)ustack, 7);
    control();
    rights();
    smap_implicit();
    reserved_bits();
    large_pages();
    canonical();
    crossing();
    order();
    ad_bits();
    flushes();
    pcid();
    finish();
}
