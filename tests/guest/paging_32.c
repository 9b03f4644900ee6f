/* 32-bit paging: two levels, 4 MiB pages, PSE-36, PAE with its PDPTE registers; rights against a model (SDM Vol.
 * 3A, 4.3, 4.4). */
#include "guest32.h"

#define T 0x40000000u
enum { P = 1, W = 2, U = 4, A = 32, D = 64, PS = 128 };
enum { EV_P = 1, EV_W = 2, EV_U = 4, EV_RSVD = 8, EV_I = 16 };
static uint32_t *pd, *pt, frame0;
static uint64_t *pdpt, *pd64, *pt64;
static uint32_t feat[4], featx[4], rsvd;

/* User code at fixed offsets; the image is identity-mapped for everybody. */
__asm__(".pushsection .text.u,\"ax\"\n.balign 16\nuread: movb (%edi), %al\n int $0x80\n.balign 16\nuwrite: movb %al, "
        "(%edi)\n int $0x80\n"
        ".balign 16\nuexec: jmp *%edi\n.popsection");
extern uint8_t uread[], uwrite[], uexec[];
static uint8_t out_code[16];

static void access(int kind, uint32_t addr)
{
    struct frame f;
    switch (kind) {
    case 0: ATTEMPT("1: movb (%%ecx), %%al\n2:", "c"(addr)); return;
    case 1: ATTEMPT("1: movb %%al, (%%ecx)\n2:", "c"(addr)); return;
    case 2: ATTEMPT("movl %%ecx, site; movl $2f, %%edx\n1: jmp *%%ecx\n2:", "c"(addr), "d"(0)); return;
    default:
        f = user_frame(kind == 3 ? uread : kind == 4 ? uwrite : uexec);
        f.edi = addr;
        f.edx = (uint32_t)out_code;
        run_frame(&f);
    }
}

static int model(int kind, uint32_t leaf, uint32_t upper, bool nxl, bool nxu, bool wp, bool nxe)
{
    bool user = kind >= 3, wr = kind % 3 == 1, ex = kind % 3 == 2;
    int e = (wr ? EV_W : 0) | (user ? EV_U : 0) | (ex && nxe ? EV_I : 0);
    if (!(upper & 1) || !(leaf & 1))
        return e;
    e |= EV_P;
    bool u = upper & leaf & U, w = upper & leaf & W;
    if ((user && !u) || (ex && (nxl || nxu)) || (wr && !w && (user || wp)))
        return e;
    return -1;
}

static void combos(const char *name, bool pae, bool wp, bool nxe)
{
    unsigned bad = 0;
    uint32_t cr0 = read_cr0();
    write_cr0(wp ? cr0 | 0x10000 : cr0 & ~0x10000u);
    for (unsigned i = 0; i < 256; i++) {
        uint32_t leaf = i & 7, upper = i >> 4 & 7;
        bool nxl = i >> 3 & 1, nxu = i >> 7 & 1;
        if (!nxe && (nxl || nxu))
            continue;
        for (int kind = 0; kind < 6; kind++) {
            uint32_t addr = T + (kind % 3 == 2 ? 0x123 : 0x234);
            if (pae) {
                pt64[0] = frame0 | leaf | (uint64_t)nxl << 63;
                pd64[0] = (uint32_t)pt64 | upper | (uint64_t)nxu << 63;
            } else {
                pt[0] = frame0 | leaf;
                pd[T >> 22] = (uint32_t)pt | upper;
            }
            write_cr3(read_cr3());
            access(kind, addr);
            int want = model(kind, leaf, upper, nxl, nxu, wp, nxe), got = !fault.happened      ? -1
                                                                          : fault.vector == 14 ? (int)fault.error
                                                                                               : 1000 + fault.vector;
            uint32_t l = pae ? (uint32_t)pt64[0] : pt[0];
            bool ok = got == want && (got < 0 || fault.cr2 == addr) &&
                      (want < 0 ? (l & A) && !(l & D) == (kind % 3 != 1) : !(l & D));
            if (!ok && bad++ < 5)
                print("  kind %u leaf %x upper %x nx %u%u: got %x, want %x, cr2 %x, leaf %x\n", kind, leaf, upper, nxl,
                      nxu, got, want, fault.cr2, l);
        }
    }
    CHECK_EQ(name, bad, 0);
    write_cr0(cr0);
}

static void two_level(void)
{
    pd = page_alloc();
    pt = page_alloc();
    for (uint32_t i = 0; i < 16; i++) { /* 64 MiB, identity, by 4 KiB pages */
        uint32_t *t = page_alloc();
        for (uint32_t k = 0; k < 1024; k++)
            t[k] = (i << 22 | k << 12) | P | W | U;
        pd[i] = (uint32_t)t | P | W | U;
    }
    pd[T >> 22] = (uint32_t)pt | P | W | U;
    pt[0] = frame0 | P | W | U;
    write_cr3((uint32_t)pd);
    write_cr0(read_cr0() | 0x80000000);
    *(volatile uint8_t *)(T + 5) = 0x42;
    CHECK_EQ("two-level translation", *(volatile uint8_t *)(frame0 + 5), 0x42);
    combos("32-bit paging: rights, WP = 0", false, false, false);
    combos("32-bit paging: rights, WP = 1", false, true, false);
    pt[0] = frame0 | P | W | U;
    pd[T >> 22] = (uint32_t)pt | P | W | U;
    /* 4 MiB pages */
    volatile uint32_t *m = (uint32_t *)0x812344;
    *m = 0x11223344;
    write_cr4(read_cr4() & ~0x10u);
    pd[T >> 22] = (uint32_t)pt | P | W | U | PS;
    write_cr3(read_cr3());
    access(0, T);
    EXPECT_NONE("PS is ignored without CR4.PSE");
    write_cr4(read_cr4() | 0x10);
    pd[T >> 22] = 0x800000 | P | W | U | PS;
    write_cr3(read_cr3());
    CHECK_EQ("4 MiB page", *(volatile uint32_t *)(T + 0x12344), 0x11223344);
    CHECK("4 MiB page: A, not D", (pd[T >> 22] & (A | D)) == A);
    *(volatile uint32_t *)(T + 0x12344) = 5;
    CHECK("4 MiB page: D", (pd[T >> 22] & D) && *m == 5);
    pd[T >> 22] = 0x800000 | 1 << 21 | P | W | U | PS;
    write_cr3(read_cr3());
    access(1, T);
    CHECK("4 MiB page, bit 21: reserved", fault.happened && fault.vector == 14 && fault.error == (rsvd | EV_W));
    if (feat[3] >> 17 & 1) {
        pd[T >> 22] = 0x800000 | 1 << 13 | P | W | U | PS; /* PSE-36: physical 4 GiB + 8 MiB: beyond RAM */
        write_cr3(read_cr3());
        *m = 0xabcd;
        access(0, T);
        EXPECT_NONE("PSE-36: bit 13 is an address bit");
        CHECK("PSE-36: another frame", *(volatile uint32_t *)(T + 0x12344) != 0xabcd);
    }
    pd[T >> 22] = (uint32_t)pt | P | W | U;
    write_cr3(read_cr3());
    write_cr0(read_cr0() & 0x7fffffff);
}

static void pae(void)
{
    pdpt = page_alloc();
    pd64 = page_alloc();
    pt64 = page_alloc();
    uint64_t *low = page_alloc();
    for (uint32_t i = 0; i < 32; i++)
        low[i] = (uint64_t)i << 21 | P | W | U | PS;
    pdpt[0] = (uint32_t)low | P;
    pdpt[1] = (uint32_t)pd64 | P;
    pd64[0] = (uint32_t)pt64 | P | W | U;
    pt64[0] = frame0 | P | W | U;
    write_cr4(read_cr4() | 0x20);
    write_cr3((uint32_t)pdpt);
    write_cr0(read_cr0() | 0x80000000);
    *(volatile uint8_t *)(T + 6) = 0x43;
    CHECK_EQ("PAE translation", *(volatile uint8_t *)(frame0 + 6), 0x43);
    combos("PAE: rights, WP = 0", true, false, false);
    combos("PAE: rights, WP = 1", true, true, false);
    if (featx[3] >> 20 & 1) {
        wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
        combos("PAE: rights with NX", true, true, true);
        wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
    }
    pt64[0] = frame0 | P | W | U;
    pd64[0] = (uint32_t)pt64 | P | W | U;
    write_cr3(read_cr3());
    pt64[0] |= 1ull << 63;
    write_cr3(read_cr3());
    access(0, T);
    CHECK("NX without NXE: reserved", fault.happened && fault.vector == 14 && fault.error == rsvd);
    pt64[0] = frame0 | P | W | U;
    /* PDPTEs are registers: changes take effect with CR3 */
    write_cr3(read_cr3());
    pdpt[1] = 0;
    __asm__ volatile("invlpg (%0)" ::"r"(T) : "memory");
    access(0, T);
    LAX("reads the PDPTE from memory (SDM Vol. 3A, 4.4.1)");
    EXPECT_NONE("PDPTE changed in memory: the register still counts");
    write_cr3(read_cr3());
    access(0, T);
    CHECK("and CR3 loads it", fault.happened && fault.vector == 14 && fault.error == 0 && fault.cr2 == T);
    if (!lax("PDPTE reserved bits: #GP at MOV to CR3", "does not check (SDM Vol. 3A, 4.4.1)")) {
        uint32_t before = read_cr3();
        static const uint64_t bits[] = {1 << 1, 1 << 2, 1 << 5, 1 << 8, 1ull << 63, 1ull << 51};
        for (unsigned i = 0; i < sizeof(bits) / sizeof(bits[0]); i++) {
            pdpt[1] = (uint32_t)pd64 | P | bits[i];
            ATTEMPT("1: movl %%ecx, %%cr3\n2:", "c"(before));
            EXPECT_FAULT("PDPTE reserved bit: #GP at MOV to CR3", 13, 0);
        }
        pdpt[1] = (uint32_t)pd64 | 6;
        ATTEMPT("1: movl %%ecx, %%cr3\n2:", "c"(before));
        EXPECT_NONE("reserved bits of an absent PDPTE do not matter");
    }
    pdpt[1] = (uint32_t)pd64 | P;
    write_cr3(read_cr3());
    pd64[0] = 0x200000 | 1 << 13 | P | W | U | PS;
    write_cr3(read_cr3());
    access(0, T);
    CHECK("PAE 2 MiB page, bit 13: reserved", fault.happened && fault.vector == 14 && fault.error == rsvd);
    pd64[0] = 0x800000 | P | W | U | PS;
    write_cr3(read_cr3());
    *(volatile uint32_t *)0x812344 = 0x777;
    CHECK_EQ("PAE 2 MiB page", *(volatile uint32_t *)(T + 0x12344), 0x777);
    /* CR3 bits 4:0 are ignored but PCD, PWT; a table at 32-byte alignment */
    uint64_t *small = (uint64_t *)((uint8_t *)page_alloc() + 0x7e0);
    memcpy(small, pdpt, 32);
    write_cr3((uint32_t)small);
    CHECK_EQ("PDPT at 32-byte alignment", *(volatile uint32_t *)(T + 0x12344), 0x777);
    write_cr0(read_cr0() & 0x7fffffff);
    write_cr4(read_cr4() & ~0x20u);
}

void guest_main(void)
{
    init();
    cpuid(1, 0, feat);
    cpuid(0x80000001, 0, featx);
    rsvd = under_qemu() ? EV_RSVD : EV_RSVD | EV_P; /* TCG 7.2 leaves P clear (SDM Vol. 3A, 4.7) */
    memcpy(out_code, "\xcd\x80", 2);
    frame0 = (uint32_t)page_alloc();
    memcpy((void *)(frame0 + 0x123), "\xff\xe2", 2); /* jmp *%edx */
    two_level();
    pae();
    finish();
}
