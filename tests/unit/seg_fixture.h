/*
 * A CPU with a GDT, LDT, IDT and TSSs in low memory, in any mode, and a way to
 * run one instruction through the decoder and the executors of x86_exec_far[].
 */
#ifndef SEG_FIXTURE_H
#define SEG_FIXTURE_H

#include "cpu_fixture.h"
#include "x86/decode.h"
#include "x86/seg.h"

#define GDT 0x1000u
#define LDT 0x1800u
#define IDT 0x2000u
#define TSS 0x3000u
#define TSS_B 0x3400u
#define TSS_16 0x3800u
#define IST(n) (0x30000u + (n)*0x1000u)
#define KSTACK 0x9000u /* ring 0 stack of the TSS */
#define R1STACK 0xa000u
#define STACK 0x8000u  /* stack of the running program */
#define CODE 0x5000u
#define PML4 0x100000u
#define PT 0x103000u   /* maps the first 2 MiB page by page, in IA-32e mode */
#define PD32 0x104000u /* 32-bit paging */
#define PT32 0x105000u

/* Selectors; the table is built by sf_tables */
enum {
    S_KC = 0x08, S_KD = 0x10, S_UC = 0x1b, S_UD = 0x23, S_KC64 = 0x28, S_UC64 = 0x33, S_TSS = 0x40, S_LDT = 0x50,
    S_CONF = 0x60,     /* conforming, DPL 0, not readable */
    S_NPC = 0x68,      /* code, not present */
    S_NPD = 0x70,      /* data, not present */
    S_RO = 0x78,       /* read-only data */
    S_XO = 0x80,       /* execute-only code, DPL 0 */
    S_DOWN = 0x88,     /* expand-down data, 32-bit, limit 0xfff */
    S_D1 = 0x91, S_C1 = 0x99, /* ring 1 */
    S_KC16 = 0xa0, S_KD16 = 0xa8, /* 16-bit */
    S_TSSB = 0xb0, S_TSS16 = 0xb8,
    S_GATE = 0xc0,     /* call gate, filled by tests; 16 bytes */
    S_TASKG = 0xd0,    /* task gate to S_TSSB */
    S_CONFR = 0xd8,    /* conforming, DPL 3, readable */
    S_UDNA = 0xe3,     /* ring 3 data, accessed bit clear */
    S_END = 0xe8,
};

static inline uint64_t mkdesc(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
           (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}
static inline uint64_t mkgate(uint16_t sel, uint32_t off, unsigned access, unsigned count)
{
    return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)count << 32 | (uint64_t)access << 40 | (uint64_t)(off >> 16) << 48;
}
static inline void gdt_put(struct fx *f, unsigned sel, uint64_t d) { fx_put64(f, GDT + (sel & ~7u), d); }
static inline uint64_t gdt_get(struct fx *f, unsigned sel) { return fx_get64(f, GDT + (sel & ~7u)); }
static inline uint16_t get16(struct fx *f, uint64_t a) { return (uint16_t)fx_get64(f, a); }
static inline void put16(struct fx *f, uint64_t a, uint16_t v) { memcpy(f->ram + a, &v, 2); }

static inline void sf_tables(struct fx *f)
{
    gdt_put(f, S_KC, mkdesc(0, 0xfffff, 0x9b, 0xc));
    gdt_put(f, S_KD, mkdesc(0, 0xfffff, 0x93, 0xc));
    gdt_put(f, S_UC, mkdesc(0, 0xfffff, 0xfb, 0xc));
    gdt_put(f, S_UD, mkdesc(0, 0xfffff, 0xf3, 0xc));
    gdt_put(f, S_KC64, mkdesc(0, 0xfffff, 0x9b, 0xa));
    gdt_put(f, S_UC64, mkdesc(0, 0xfffff, 0xfb, 0xa));
    gdt_put(f, S_TSS, mkdesc(TSS, 0x3ff, 0x89, 0));
    gdt_put(f, S_LDT, mkdesc(LDT, 0x7f, 0x82, 0));
    gdt_put(f, S_CONF, mkdesc(0, 0xfffff, 0x9d, 0xc));
    gdt_put(f, S_NPC, mkdesc(0, 0xfffff, 0x1b, 0xc));
    gdt_put(f, S_NPD, mkdesc(0, 0xfffff, 0x13, 0xc));
    gdt_put(f, S_RO, mkdesc(0, 0xfffff, 0x91, 0xc));
    gdt_put(f, S_XO, mkdesc(0, 0xfffff, 0x99, 0xc));
    gdt_put(f, S_DOWN, mkdesc(0, 0xfff, 0x97, 0x4));
    gdt_put(f, S_D1, mkdesc(0, 0xfffff, 0xb3, 0xc));
    gdt_put(f, S_C1, mkdesc(0, 0xfffff, 0xbb, 0xc));
    gdt_put(f, S_KC16, mkdesc(0, 0xffff, 0x9b, 0));
    gdt_put(f, S_KD16, mkdesc(0, 0xffff, 0x93, 0));
    gdt_put(f, S_TSSB, mkdesc(TSS_B, 0x67, 0x89, 0));
    gdt_put(f, S_TSS16, mkdesc(TSS_16, 0x2b, 0x81, 0));
    gdt_put(f, S_TASKG, mkgate(S_TSSB, 0, 0x85, 0));
    gdt_put(f, S_CONFR, mkdesc(0, 0xfffff, 0xff, 0xc));
    gdt_put(f, S_UDNA, mkdesc(0x10000, 0xfff, 0xf2, 4));
    f->c->gdtr = (struct x86_dtr){.base = GDT, .limit = S_END - 1};
    f->c->idtr = (struct x86_dtr){.base = IDT, .limit = 0xfff};
    /* identity maps */
    fx_put64(f, PML4, (PML4 + 0x1000) | 7);
    fx_put64(f, PML4 + 0x1000, (PML4 + 0x2000) | 7);
    fx_put64(f, PML4 + 0x2000, PT | 7);
    fx_put64(f, PML4 + 0x2008, 0x200000 | 0x87);
    fx_put32(f, PD32, PT32 | 7);
    for (unsigned i = 0; i < 512; i++) {
        fx_put64(f, PT + 8 * i, i * 4096 | 7);
        fx_put32(f, PT32 + 4 * i, i * 4096 | 7);
    }
}

static inline void sf_seg(struct fx *f, unsigned seg, uint16_t sel)
{
    struct x86_desc d = {.lo = gdt_get(f, sel)};

    f->c->seg[seg] = x86_desc_seg(&d, sel);
}

/* Segments for privilege cpl (0 or 3): data everywhere, code cs. */
static inline void sf_level(struct fx *f, uint16_t cs)
{
    struct x86_cpu *c = f->c;
    uint16_t data = cs & 3 ? S_UD : S_KD;

    for (unsigned i = 0; i < X86_NSEG; i++)
        sf_seg(f, i, data);
    sf_seg(f, X86_CS, cs);
    c->gpr[X86_RSP] = STACK;
    c->rip = CODE;
    x86_recompute(c);
}

/* 32-bit protected mode without paging. */
static inline struct fx *sf_prot(uint16_t cs)
{
    struct fx *f = fx_new(40);

    sf_tables(f);
    f->c->tr = (struct x86_seg){.base = TSS, .limit = 0x3ff, .sel = S_TSS, .ar = 0x8b};
    gdt_put(f, S_TSS, gdt_get(f, S_TSS) | 2ull << 40);
    fx_put32(f, TSS + 4, KSTACK);
    fx_put32(f, TSS + 8, S_KD);
    fx_put32(f, TSS + 12, R1STACK);
    fx_put32(f, TSS + 16, S_D1);
    put16(f, TSS + 0x66, 0x88);
    sf_level(f, cs);
    return f;
}

static inline void sf_paging32(struct fx *f)
{
    f->c->cr3 = PD32;
    f->c->cr0 |= X86_CR0_PG | X86_CR0_WP;
    x86_tlb_flush_all(f->c);
    x86_recompute(f->c);
}

static inline struct fx *sf_real(void)
{
    struct fx *f = fx_new(40);

    x86_reset(f->c, false);
    f->c->activity = X86_RUNNING;
    f->c->seg[X86_CS].sel = 0x500;
    f->c->seg[X86_CS].base = 0x5000;
    f->c->rip = 0x10;
    f->c->gpr[X86_RSP] = STACK;
    f->c->idtr = (struct x86_dtr){.base = 0, .limit = 0x3ff};
    x86_recompute(f->c);
    return f;
}

/* Virtual-8086 mode with segments 0x500 (code), 0x700.. */
static inline struct fx *sf_v86(unsigned iopl)
{
    struct fx *f = sf_prot(S_KC);
    static const uint16_t sel[X86_NSEG] = {0x711, 0x500, 0x400, 0x722, 0x733, 0x744};

    f->c->fl_sys |= X86_FL_VM | iopl << 12 | X86_FL_IF;
    for (unsigned i = 0; i < X86_NSEG; i++)
        x86_load_seg16(f->c, i, sel[i]);
    f->c->rip = 0x10;
    f->c->gpr[X86_RSP] = 0x1000; /* linear 0x5000 */
    x86_recompute(f->c);
    return f;
}

/* IA-32e mode; cs chooses 64-bit or compatibility mode and the privilege. */
static inline struct fx *sf_long(uint16_t cs)
{
    struct fx *f = fx_new(40);
    struct x86_cpu *c = f->c;

    sf_tables(f);
    c->cr0 |= X86_CR0_PG | X86_CR0_WP;
    c->cr4 = X86_CR4_PAE;
    c->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
    c->cr3 = PML4;
    c->tr = (struct x86_seg){.base = TSS, .limit = 0x67, .sel = S_TSS, .ar = 0x8b};
    fx_put64(f, TSS + 4, KSTACK);
    fx_put64(f, TSS + 12, R1STACK);
    for (unsigned i = 1; i < 8; i++)
        fx_put64(f, TSS + 0x1c + 8 * i, IST(i));
    sf_level(f, cs);
    return f;
}

static inline void idt32(struct fx *f, unsigned vec, uint16_t sel, uint32_t off, unsigned access)
{
    fx_put64(f, IDT + vec * 8, mkgate(sel, off, access, 0));
}
static inline void idt64(struct fx *f, unsigned vec, uint16_t sel, uint64_t off, unsigned access, unsigned ist)
{
    fx_put64(f, IDT + vec * 16, mkgate(sel, (uint32_t)off, access, ist));
    fx_put64(f, IDT + vec * 16 + 8, off >> 32);
}

/* Decode and execute; RIP moves as an engine moves it. An exception is left in c->exc. */
static inline int sf_run(struct fx *f, const char *bytes, unsigned n)
{
    struct x86_cpu *c = f->c;
    struct x86_insn in;
    const struct x86_exec_entry *e;
    int r;

    memset(&c->exc, 0xee, sizeof(c->exc));
    r = x86_decode(&in, (const uint8_t *)bytes, n, c->mode, !x86_pe(c) || x86_v86(c), NULL);
    if (r == X86_DEC_UD)
        return x86_raise(c, X86_UD);
    assert_int_equal(r, X86_DEC_OK);
    assert_int_equal(in.len, n);
    for (e = x86_exec_far; e->fn && e->op != in.op; e++)
        ;
    assert_non_null(e->fn);
    r = e->fn(c, &in);
    if (r == X86_OK)
        c->rip = x86_next_rip(c, &in);
    return r;
}
#define RUN(f, s) sf_run(f, s, sizeof(s) - 1)

static inline void expect(struct fx *f, int r, unsigned vec, int err)
{
    assert_int_equal(r, X86_FAULT);
    assert_int_equal(f->c->exc.vector, vec);
    assert_int_equal(f->c->exc.kind, X86_EXC_FAULT);
    assert_int_equal(f->c->exc.has_error, err >= 0);
    if (err >= 0)
        assert_int_equal(f->c->exc.error, err);
}

/* Registers that a faulting instruction must leave alone. */
struct regs {
    uint64_t gpr[16], rip, flags;
    struct x86_seg seg[X86_NSEG], ldtr, tr;
    uint8_t cpl, mode;
};
static inline struct regs regs_of(const struct x86_cpu *c)
{
    struct regs r;

    memset(&r, 0, sizeof(r));
    memcpy(r.gpr, c->gpr, sizeof(r.gpr));
    r.rip = c->rip;
    r.flags = x86_get_rflags(c);
    memcpy(r.seg, c->seg, sizeof(r.seg));
    r.ldtr = c->ldtr;
    r.tr = c->tr;
    r.cpl = c->cpl;
    r.mode = c->mode;
    return r;
}
#define EXPECT_UNCHANGED(f, insn, vec, err)                              \
    do {                                                                 \
        struct regs before_ = regs_of((f)->c), after_;                   \
        expect(f, RUN(f, insn), vec, err);                               \
        after_ = regs_of((f)->c);                                        \
        assert_memory_equal(&before_, &after_, sizeof(before_));         \
    } while (0)

static inline void stack32(struct fx *f, unsigned n, const uint32_t *v)
{
    memcpy(f->ram + f->c->gpr[X86_RSP], v, 4 * n);
}
static inline void stack64(struct fx *f, unsigned n, const uint64_t *v)
{
    memcpy(f->ram + f->c->gpr[X86_RSP], v, 8 * n);
}
#define STACK32(f, ...) stack32(f, sizeof((uint32_t[]){__VA_ARGS__}) / 4, (const uint32_t[]){__VA_ARGS__})
#define STACK64(f, ...) stack64(f, sizeof((uint64_t[]){__VA_ARGS__}) / 8, (const uint64_t[]){__VA_ARGS__})

static inline void raise(struct fx *f, unsigned vec, int err)
{
    f->c->exc = (struct x86_exc){.vector = (uint8_t)vec, .has_error = err >= 0, .error = err >= 0 ? (uint32_t)err : 0};
}

#endif
