/* String instructions: counts, directions, overlaps, faults in the middle with exact registers. */
#include "attempt.h"

#define A 0x8000000000ull /* two pages: the first present, the second not */
#define B (A + 0x1000)
static uint8_t *p0, *q0;
static uint64_t *eb;

struct regs {
    uint64_t rax, rcx, rsi, rdi, rflags;
};
__attribute__((used)) static volatile struct regs out;

/* Run one string instruction; registers as it left them, at a fault too. */
#define STRING(insn, a, c, s, d)                                                                                       \
    do {                                                                                                               \
        struct regs in_ = {(a), (c), (uint64_t)(s), (uint64_t)(d), 0};                                                 \
        fault.happened = false;                                                                                        \
        __asm__ volatile("leaq 1f(%%rip), %%rax; movq %%rax, site(%%rip)\n"                                            \
                         "leaq 2f(%%rip), %%rax; movq %%rax, site_next(%%rip); movq %%rax, try_resume(%%rip)\n"        \
                         "movq (%%rdx), %%rax; movq 8(%%rdx), %%rcx; movq 16(%%rdx), %%rsi; movq 24(%%rdx), %%rdi\n"   \
                         "1: " insn                                                                                    \
                         "\n2: movq %%rax, out(%%rip); movq %%rcx, 8+out(%%rip); movq %%rsi, 16+out(%%rip)\n"          \
                         "movq %%rdi, 24+out(%%rip); pushfq; popq 32+out(%%rip); cld\n" ::"d"(&in_)                    \
                         : "rax", "rcx", "rsi", "rdi", "memory", "cc");                                                \
        try_resume = 0;                                                                                                \
    } while (0)
#define REGS(name, c, s, d)                                                                                            \
    CHECK(name ": RCX, RSI, RDI", out.rcx == (uint64_t)(c) && out.rsi == (uint64_t)(s) && out.rdi == (uint64_t)(d))

static void fill(void)
{
    for (int i = 0; i < 4096; i++) {
        p0[i] = (uint8_t)(i * 7 + 3);
        q0[i] = 0xcc;
    }
}

static bool same(const uint8_t *a, const uint8_t *b, unsigned n)
{
    return !memcmp(a, b, n);
}

static void moves(void)
{
    fill();
    STRING("rep movsb", 0, 100, p0, q0);
    EXPECT_NONE("REP MOVSB");
    REGS("REP MOVSB", 0, p0 + 100, q0 + 100);
    CHECK("REP MOVSB: data", same(p0, q0, 100) && q0[100] == 0xcc);
    fill();
    STRING("rep movsq", 0, 64, p0, q0 + 1);
    REGS("REP MOVSQ", 0, p0 + 512, q0 + 513);
    CHECK("REP MOVSQ: data", same(p0, q0 + 1, 512) && q0[513] == 0xcc && q0[0] == 0xcc);
    fill();
    STRING("std; rep movsw", 0, 10, p0 + 100, q0 + 100);
    REGS("REP MOVSW backwards", 0, p0 + 80, q0 + 80);
    CHECK("REP MOVSW backwards: data", same(p0 + 82, q0 + 82, 20) && q0[81] == 0xcc && q0[102] == 0xcc);
    fill();
    STRING("rep movsb", 0, 0, p0, 0x800000000000ull);
    EXPECT_NONE("REP with RCX = 0 accesses nothing");
    REGS("RCX = 0", 0, p0, 0x800000000000ull);
    /* 32-bit counts and addresses: the upper halves are used or cleared as the address size says */
    fill();
    STRING("addr32 rep movsb", 0, 0x700000003ull, 0xf00000000ull + (uint64_t)p0, 0xa00000000ull + (uint64_t)q0);
    EXPECT_NONE("REP MOVSB, 32-bit addresses");
    REGS("32-bit addresses: upper halves cleared", 0, p0 + 3, q0 + 3);
    CHECK("32-bit addresses: data", same(p0, q0, 3) && q0[3] == 0xcc);
    /* overlap: forward by one replicates the first byte */
    fill();
    p0[0] = 0x42;
    STRING("rep movsb", 0, 200, p0, p0 + 1);
    bool all = true;
    for (int i = 0; i <= 200; i++)
        all &= p0[i] == 0x42;
    CHECK("overlapping REP MOVSB replicates", all && p0[201] == (uint8_t)(201 * 7 + 3));
    fill();
    STRING("rep movsq", 0, 20, p0, p0 + 3);
    for (int i = 0; i < 4096; i++)
        q0[i] = (uint8_t)(i * 7 + 3);
    for (int k = 0; k < 20; k++)
        for (int j = 0; j < 8; j++) {
            static uint8_t t[8];
            if (j == 0)
                memcpy(t, q0 + 8 * k, 8);
            q0[3 + 8 * k + j] = t[j];
        }
    CHECK("overlapping REP MOVSQ by 3", same(p0, q0, 4096));
    fill();
    STRING("std; rep movsb", 0, 100, p0 + 100, p0 + 99);
    all = true;
    for (int i = 0; i < 100; i++)
        all &= p0[i] == p0[100];
    CHECK("overlapping REP MOVSB backwards replicates", all);
}

static void stores(void)
{
    fill();
    STRING("rep stosb", 0x1234, 33, 0, q0 + 5);
    REGS("REP STOSB", 0, 0, q0 + 38);
    CHECK("REP STOSB: data", q0[4] == 0xcc && q0[5] == 0x34 && q0[37] == 0x34 && q0[38] == 0xcc);
    STRING("rep stosl", 0x11223344, 3, 0, q0 + 101);
    CHECK("REP STOSD: data", *(uint32_t *)(q0 + 109) == 0x11223344 && q0[113] == 0xcc);
    STRING("std; rep stosq", 0x5566778899aabbccull, 3, 0, q0 + 300);
    REGS("REP STOSQ backwards", 0, 0, q0 + 276);
    CHECK("REP STOSQ backwards: data",
          *(uint64_t *)(q0 + 284) == 0x5566778899aabbccull && q0[283] == 0xcc && q0[308] == 0xcc);
    STRING("lodsl", ~0ull, 7, p0 + 4, 0);
    CHECK("LODSD clears the upper half", out.rax == *(uint32_t *)(p0 + 4) && out.rcx == 7);
    STRING("lodsb", ~0ull, 7, p0 + 4, 0);
    CHECK("LODSB leaves the rest", out.rax == (~0xffull | p0[4]));
    STRING("rep lodsb", 0, 5, p0, 0);
    CHECK("REP LODSB: the last byte", (out.rax & 0xff) == p0[4] && out.rsi == (uint64_t)p0 + 5 && out.rcx == 0);
}

static void scans(void)
{
    fill();
    memset(q0, 1, 100);
    q0[40] = 9;
    STRING("repne scasb", 9, 100, 0, q0);
    CHECK("REPNE SCASB stops behind the match", out.rcx == 59 && out.rdi == (uint64_t)q0 + 41 && (out.rflags & 0x40));
    STRING("repne scasb", 77, 100, 0, q0);
    CHECK("REPNE SCASB without a match", out.rcx == 0 && !(out.rflags & 0x40));
    STRING("repe scasb", 1, 100, 0, q0);
    CHECK("REPE SCASB", out.rcx == 59 && out.rdi == (uint64_t)q0 + 41 && !(out.rflags & 0x40) && (out.rflags & 1));
    memcpy(q0, p0, 100);
    q0[60] ^= 1;
    STRING("repe cmpsb", 0, 100, p0, q0);
    CHECK("REPE CMPSB",
          out.rcx == 39 && out.rsi == (uint64_t)p0 + 61 && out.rdi == (uint64_t)q0 + 61 && !(out.rflags & 0x40));
    STRING("cmpl %%eax, %%eax; repe cmpsb", 0, 0, p0, q0);
    CHECK("REPE CMPSB with RCX = 0 leaves the flags", (out.rflags & 0x45) == 0x44);
    STRING("repe cmpsq", 0, 3, p0, q0);
    CHECK("REPE CMPSQ equal", out.rcx == 0 && (out.rflags & 0x40));
    STRING("scasw", 0x0100, 5, 0, q0 + 200);
    CHECK("SCASW without REP: once", out.rcx == 5 && out.rdi == (uint64_t)q0 + 202);
}

static void faults(void)
{
    fill();
    *eb = 0;
    invlpg(B);
    STRING("rep stosb", 0x77, 100, 0, B - 40);
    EXPECT_PF("REP STOSB into a missing page", 2, B);
    REGS("REP STOSB at the fault", 60, 0, B);
    CHECK("REP STOSB: what came before is done", p0[4055] != 0x77 && p0[4056] == 0x77 && p0[4095] == 0x77);
    STRING("rep stosq", 0x7878787878787878ull, 100, 0, B - 20);
    EXPECT_PF("REP STOSQ into a missing page", 2, B);
    REGS("REP STOSQ at the fault", 98, 0, B - 4);
    CHECK("REP STOSQ: the crossing element is not begun", p0[4091] == 0x78 && p0[4092] == 0x77);
    STRING("rep movsb", 0, 100, B - 10, q0);
    EXPECT_PF("REP MOVSB from a missing page", 0, B);
    REGS("REP MOVSB at the source's fault", 90, B, q0 + 10);
    STRING("rep movsl", 0, 100, q0, B - 12);
    EXPECT_PF("REP MOVSD to a missing page", 2, B);
    REGS("REP MOVSD at the destination's fault", 97, q0 + 12, B);
    STRING("rep lodsw", 0, 100, B - 4, 0);
    EXPECT_PF("REP LODSW from a missing page", 0, B);
    REGS("REP LODSW at the fault", 98, B, 0);
    CHECK("REP LODSW: AX of the last that worked", (out.rax & 0xffff) == *(uint16_t *)(p0 + 4094));
    memset(p0 + 4000, 5, 96);
    STRING("repe scasb", 5, 200, 0, B - 50);
    EXPECT_PF("REPE SCASB into a missing page", 0, B);
    REGS("REPE SCASB at the fault", 150, 0, B);
    memset(q0, 5, 64);
    STRING("repe cmpsb", 0, 64, q0, B - 9);
    EXPECT_PF("REPE CMPSB into a missing page", 0, B);
    REGS("REPE CMPSB at the fault", 55, q0 + 9, B);
    /* backwards out of the first page */
    *eb = (uint64_t)page_alloc() | 7;
    invlpg(B);
    uint64_t *ea = pte_of(A), keep = *ea;
    *ea = 0;
    invlpg(A);
    STRING("std; rep stosb", 3, 100, 0, B + 9);
    CHECK("REP STOSB backwards into a missing page",
          fault.happened && fault.vector == 14 && fault.error == 2 && fault.cr2 == B - 1 && fault.rip == site + 1);
    REGS("REP STOSB backwards at the fault", 90, 0, B - 1);
    STRING("std; rep movsq", 0, 10, B + 16, q0 + 512);
    CHECK("REP MOVSQ backwards from a missing page", fault.happened && fault.cr2 == B - 8 && fault.error == 0);
    REGS("REP MOVSQ backwards at the fault", 7, B - 8, q0 + 488);
    *ea = keep;
    invlpg(A);
    /* read-only destination */
    *eb &= ~2ull;
    write_cr0(read_cr0() | 1 << 16);
    invlpg(B);
    STRING("rep movsb", 0, 100, p0, B - 30);
    EXPECT_PF("REP MOVSB to a read-only page", 3, B);
    REGS("REP MOVSB at the protection fault", 70, p0 + 30, B);
    write_cr0(read_cr0() & ~(1ull << 16));
    *eb |= 2;
    invlpg(B);
    /* non-canonical */
    STRING("rep stosb", 0, 5, 0, 0x800000000000ull);
    EXPECT_FAULT("REP STOSB non-canonical: #GP", 13, 0);
    REGS("REP STOSB non-canonical", 5, 0, 0x800000000000ull);
    /* large copies over many pages */
    uint8_t *big = page_alloc();
    for (int i = 1; i < 40; i++)
        page_alloc();
    for (unsigned i = 0; i < 20 * 4096; i++)
        big[i] = (uint8_t)(i ^ i >> 8);
    STRING("rep movsb", 0, 20 * 4096 - 5, big + 2, big + 20 * 4096 + 1);
    bool ok = out.rcx == 0;
    for (unsigned i = 0; i < 20 * 4096 - 5; i++)
        ok &= big[20 * 4096 + 1 + i] == (uint8_t)((i + 2) ^ (i + 2) >> 8);
    CHECK("REP MOVSB over 20 pages", ok);
}

/* An interrupt in the middle of a long REP comes at its RIP, and the instruction goes on. */
static volatile unsigned ticks, inside;
static void on_tick(struct frame *f)
{
    ticks++;
    if (f->rip == site)
        inside++;
    apic_write(0xb0, 0);
}

static void interrupted(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    set_handler(0x40, on_tick);
    apic_write(0xf0, 0x1ff);
    apic_write(0x3e0, 0xb);
    apic_write(0x320, 0x20040);
    uint8_t *big = page_alloc();
    for (int i = 1; i < 64; i++)
        page_alloc();
    apic_write(0x380, 20000);
    bool ok = true;
    for (int i = 0; i < (ticks ? 200 : 20000) && inside < 3; i++) { /* a busy host's timer may be late */
        memset(big, 0, 64 * 4096);
        __asm__ volatile("sti");
        STRING("rep stosb", 0xa5, 64 * 4096, 0, big);
        __asm__ volatile("cli");
        ok &= out.rcx == 0 && out.rdi == (uint64_t)big + 64 * 4096;
        for (unsigned j = 0; j < 64; j++)
            ok &= big[j * 4096] == 0xa5 && big[j * 4096 + 4095] == 0xa5;
    }
    apic_write(0x380, 0);
    CHECK("REP STOSB is right under interrupts", ok);
    CHECK("interrupts came", ticks);
    if (!inside)
        skip("REP STOSB is interruptible", "no interrupt hit it");
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    p0 = page_alloc();
    q0 = page_alloc();
    map_page(A, (uint64_t)p0, 7);
    eb = map_page(B, 0, 0);
    moves();
    stores();
    scans();
    faults();
    interrupted();
    finish();
}
