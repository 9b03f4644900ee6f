/* Segmentation in 32-bit protected mode: limits, types, privilege, gates, returns to outer levels, LAR and friends (SDM
 * Vol. 3A, 5). */
#include "guest32.h"

static uint8_t ubuf[128] __attribute__((aligned(64)));
static uint8_t area[8192] __attribute__((aligned(4096)));
#define LIMITS "does not check segment limits and types (SDM Vol. 3A, 5.3, 5.5)"
#define FREE 8 /* first free descriptor */
#define SEL(i) ((FREE + (i)) * 8)

/* Ring 3 code with DS = ds; EDI = off. Ends with INT 0x80. */
static struct frame user(const char *code, unsigned n, unsigned ds, uint32_t off)
{
    memcpy(ubuf, code, n);
    memcpy(ubuf + n, "\xcd\x80", 2);
    struct frame f = user_frame(ubuf);
    f.ds = ds;
    f.edi = off;
    site = (uint32_t)ubuf;
    site_next = site + n;
    run_frame(&f);
    return f;
}
#define USER(code, ds, off) user(code, sizeof(code) - 1, ds, off)
#define RB "\x8a\x07"     /* mov (%edi), %al */
#define RW "\x66\x8b\x07" /* mov (%edi), %ax */
#define RD "\x8b\x07"     /* mov (%edi), %eax */
#define WB "\x88\x07"     /* mov %al, (%edi) */
#define GP_OR_NONE(name, bad)                                                                                          \
    do {                                                                                                               \
        if (bad) {                                                                                                     \
            LAX(LIMITS);                                                                                               \
            EXPECT_FAULT(name, 13, 0);                                                                                 \
        } else                                                                                                         \
            EXPECT_NONE(name);                                                                                         \
    } while (0)

static void limits(void)
{
    gdt[FREE] = segment((uint32_t)area, 0xfff, 0xf2, 4);
    USER(RB, SEL(0) | 3, 0xfff);
    GP_OR_NONE("limit 0xfff: byte at the limit", false);
    USER(RB, SEL(0) | 3, 0x1000);
    GP_OR_NONE("limit 0xfff: byte behind it", true);
    USER(RW, SEL(0) | 3, 0xffe);
    GP_OR_NONE("limit 0xfff: last word", false);
    USER(RW, SEL(0) | 3, 0xfff);
    GP_OR_NONE("limit 0xfff: word over it", true);
    USER(RD, SEL(0) | 3, 0xffc);
    GP_OR_NONE("limit 0xfff: last dword", false);
    USER(RD, SEL(0) | 3, 0xffd);
    GP_OR_NONE("limit 0xfff: dword over it", true);
    USER(RD, SEL(0) | 3, 0xffffffff);
    GP_OR_NONE("limit 0xfff: dword that wraps", true);
    USER(WB, SEL(0) | 3, 0x80000000);
    GP_OR_NONE("limit 0xfff: far beyond", true);
    gdt[FREE] = segment((uint32_t)area - 0x1000, 0, 0xf2, 12); /* limit 0 with G: 0xfff */
    USER(RB, SEL(0) | 3, 0xfff);
    GP_OR_NONE("G with limit 0: byte 0xfff", false);
    USER(RB, SEL(0) | 3, 0x1000);
    GP_OR_NONE("G with limit 0: byte 0x1000", true);
    gdt[FREE] = segment((uint32_t)area, 0xfff, 0xf6, 4); /* expand-down, 32-bit */
    USER(RB, SEL(0) | 3, 0xfff);
    GP_OR_NONE("expand-down: at the limit", true);
    USER(RB, SEL(0) | 3, 0x1000);
    GP_OR_NONE("expand-down: above it", false);
    USER(RD, SEL(0) | 3, 0xffe);
    GP_OR_NONE("expand-down: dword over the limit", true);
    USER(RB, SEL(0) | 3, (uint32_t)(ubuf - area));
    GP_OR_NONE("expand-down: up to 4 GiB with B", false);
    gdt[FREE] = segment((uint32_t)area - 0xff00, 0xfff, 0xf6, 0); /* 16-bit: up to 0xffff */
    USER(RB, SEL(0) | 3, 0xffff);
    GP_OR_NONE("expand-down without B: 0xffff", false);
    USER(RB, SEL(0) | 3, 0x10000);
    GP_OR_NONE("expand-down without B: 0x10000", true);
    USER(RW, SEL(0) | 3, 0xffff);
    GP_OR_NONE("expand-down without B: word at 0xffff", true);
    /* types */
    gdt[FREE] = segment((uint32_t)area, 0xfff, 0xf0, 4);
    USER(RB, SEL(0) | 3, 0);
    GP_OR_NONE("read-only: read", false);
    USER(WB, SEL(0) | 3, 0);
    GP_OR_NONE("read-only: write", true);
    gdt[FREE] = segment((uint32_t)area, 0xfff, 0xfa, 4);
    USER(RB, SEL(0) | 3, 0);
    GP_OR_NONE("readable code: read", false);
    USER(WB, SEL(0) | 3, 0);
    GP_OR_NONE("readable code: write", true);
    USER(RB, 0, 0);
    GP_OR_NONE("null selector: read", true);
    USER(RB, 3, (uint32_t)area);
    GP_OR_NONE("null selector with RPL 3: read", true);
    /* base + offset wraps modulo 4 GiB */
    gdt[FREE] = segment(0x80000000, 0xfffff, 0xf2, 12);
    area[5] = 0x77;
    struct frame f = USER(RB, SEL(0) | 3, (uint32_t)area + 5 - 0x80000000u);
    CHECK("base + offset wraps", !fault.happened && (f.eax & 0xff) == 0x77);
    /* SS: #SS(0) */
    gdt[FREE] = segment((uint32_t)area, 0xfff, 0xf2, 4);
    memcpy(ubuf, "\x50\xcd\x80", 3);
    f = user_frame(ubuf);
    f.ss = SEL(0) | 3;
    f.esp = 0x1000;
    site = (uint32_t)ubuf;
    run_frame(&f);
    EXPECT_NONE("PUSH below the limit");
    f = user_frame(ubuf);
    f.ss = SEL(0) | 3;
    f.esp = 0x1002;
    run_frame(&f);
    LAX(LIMITS);
    EXPECT_FAULT("PUSH over the limit: #SS(0)", 12, 0);
    CHECK("PUSH that faults leaves ESP", f.esp == 0x1002 || under_qemu());
    f = user_frame(ubuf);
    f.ss = SEL(0) | 3;
    f.esp = 2;
    run_frame(&f);
    LAX(LIMITS);
    EXPECT_FAULT("PUSH that wraps: #SS(0)", 12, 0);
    memcpy(ubuf, "\x8a\x45\x00\xcd\x80", 5);
    f = user_frame(ubuf);
    f.ss = SEL(0) | 3;
    f.ebp = 0x2000;
    run_frame(&f);
    LAX(LIMITS);
    EXPECT_FAULT("EBP-based read over the limit: #SS(0)", 12, 0);
    /* 16-bit stack segment: SP wraps, the upper half of ESP stays */
    gdt[FREE] = segment((uint32_t)area, 0xffff, 0xf2, 0);
    memcpy(ubuf, "\x50\xcd\x80", 3);
    f = user_frame(ubuf);
    f.ss = SEL(0) | 3;
    f.esp = 0x12340010; /* IRET to a 16-bit stack segment may leave the upper half of ESP alone */
    f.eax = 0xcafe;
    run_frame(&f);
    CHECK("16-bit stack segment: PUSH uses SP",
          !fault.happened && (uint16_t)f.esp == 0xc && *(uint32_t *)(area + 12) == 0xcafe);
    /* CS limit */
    memcpy(area, "\x90\x90\xb8\x01\0\0\0\xcd\x80", 9);
    gdt[FREE] = segment((uint32_t)area, 1, 0xfa, 4);
    f = user_frame(0);
    f.cs = SEL(0) | 3;
    site = 2;
    run_frame(&f);
    LAX(LIMITS);
    EXPECT_FAULT("execution beyond the CS limit: #GP(0)", 13, 0);
    gdt[FREE] = segment((uint32_t)area, 5, 0xfa, 4);
    f = user_frame(0);
    f.cs = SEL(0) | 3;
    run_frame(&f);
    LAX(LIMITS);
    EXPECT_FAULT("instruction over the CS limit: #GP(0)", 13, 0);
    gdt[FREE] = segment((uint32_t)area, 8, 0xfa, 4);
    f = user_frame(0);
    f.cs = SEL(0) | 3;
    run_frame(&f);
    EXPECT_NONE("instruction up to the CS limit");
    memcpy(area, "\xe9\xfb\x0f\0\0", 5); /* jmp 0x1000 */
    f = user_frame(0);
    f.cs = SEL(0) | 3;
    site = 0;
    run_frame(&f);
    LAX(LIMITS);
    EXPECT_FAULT("jump beyond the CS limit: #GP(0) at the jump", 13, 0);
    memcpy(area, "\x66\xe9\xf0\xff", 4); /* 16-bit jmp */
    gdt[FREE] = segment((uint32_t)area, 0xffff, 0xf8, 4);
    memcpy(area, "\x2e\x8a\x07\xcd\x80", 5);
    f = user_frame(0);
    f.cs = SEL(0) | 3;
    run_frame(&f);
    LAX(LIMITS);
    EXPECT_FAULT("CS override on execute-only code: #GP(0)", 13, 0);
}

/* Every descriptor type against LAR, LSL, VERR, VERW at CPL 3 and 0. */
static void inspect(void)
{
    unsigned bad = 0;
    for (unsigned type = 0; type < 32; type++)
        for (unsigned dpl = 0; dpl < 4; dpl += 3)
            for (unsigned cpl = 0; cpl < 4; cpl += 3) {
                bool s = type & 16, code = s && (type & 8), conforming = code && (type & 4);
                gdt[FREE] = segment(0x123400, 0x45678, 0x80 | dpl << 5 | type, 8 + 4);
                struct frame f;
                /* lar %ebx,%eax; setz %cl; lsl %ebx,%edx; setz %ch; verr %bx; pushf; pop %esi; verw %bx; pushf; pop
                 * %edi */
                memcpy(
                    ubuf,
                    "\x0f\x02\xc3\x0f\x94\xc1\x0f\x03\xd3\x0f\x94\xc5\x0f\x00\xe3\x9c\x5e\x0f\x00\xeb\x9c\x5f\xcd\x80",
                    24);
                f = user_frame(ubuf);
                f.ebx = SEL(0) | cpl;
                f.eax = f.edx = 0x5555aaaa;
                f.ecx = 0;
                if (cpl == 0) {
                    f.cs = 8;
                    f.ds = f.es = 0x10;
                }
                run_frame(&f);
                bool vis = conforming || dpl >= cpl;
                bool lar = vis && (s || type == 1 || type == 2 || type == 3 || type == 4 || type == 5 || type == 9 ||
                                   type == 11 || type == 12);
                bool lsl = vis && (s || type == 1 || type == 2 || type == 3 || type == 9 || type == 11);
                bool verr = s && vis && (!code || (type & 2)), verw = s && !code && (type & 2) && dpl >= cpl;
                uint32_t ar = 0xc08000u | dpl << 13 | type << 8 | 0x40000;
                bool ok = !fault.happened && (f.ecx & 1) == lar && (f.ecx >> 8 & 1) == lsl &&
                          (f.esi >> 6 & 1) == verr && (f.edi >> 6 & 1) == verw;
                ok &= lar ? (f.eax & 0xf0ff00) == (ar & 0xf0ff00) : f.eax == 0x5555aaaa;
                ok &= f.edx == (lsl ? 0x45678fffu : 0x5555aaaa);
                if (!ok && bad++ < 5)
                    print("  type %x dpl %u cpl %u: lar %u %x lsl %u %x verr %u verw %u fault %u %u\n", type, dpl, cpl,
                          f.ecx & 1, f.eax, f.ecx >> 8 & 1, f.edx, f.esi >> 6 & 1, f.edi >> 6 & 1, fault.happened,
                          fault.vector);
            }
    CHECK_EQ("LAR, LSL, VERR, VERW of every type, DPL and CPL", bad, 0);
    struct frame f = user_frame(ubuf);
    f.ebx = 0;
    f.ecx = 0;
    run_frame(&f);
    CHECK("LAR, LSL of null: ZF clear", (f.ecx & 0x101) == 0);
    f = user_frame(ubuf);
    f.ebx = 0xfff8;
    f.ecx = 0;
    run_frame(&f);
    CHECK("LAR, LSL beyond the GDT: ZF clear", (f.ecx & 0x101) == 0 && !fault.happened);
    uint32_t r, z;
    __asm__ volatile("arpl %w2, %w0; setz %b1" : "=&r"(r), "=q"(z) : "r"(3), "0"(0x38) : "cc");
    CHECK("ARPL raises RPL and sets ZF", (r & 0xffff) == 0x3b && (z & 0xff) == 1);
    __asm__ volatile("arpl %w2, %w0; setz %b1" : "=&r"(r), "=q"(z) : "r"(1), "0"(0x3a) : "cc");
    CHECK("ARPL leaves a higher RPL", (r & 0xffff) == 0x3a && (z & 0xff) == 0);
}

static void loads(void)
{
#define LOAD_DS(name, sel, vec, err)                                                                                   \
    do {                                                                                                               \
        memcpy(ubuf, "\x8e\xdb\xcd\x80", 4);                                                                           \
        struct frame f_ = user_frame(ubuf);                                                                            \
        f_.ebx = (sel);                                                                                                \
        site = (uint32_t)ubuf;                                                                                         \
        run_frame(&f_);                                                                                                \
        if (vec)                                                                                                       \
            EXPECT_FAULT(name, vec, err);                                                                              \
        else                                                                                                           \
            EXPECT_NONE(name);                                                                                         \
    } while (0)
    gdt[FREE] = segment(0, 0xfffff, 0xf2, 12);
    LOAD_DS("DS: DPL 3 data with RPL 3", SEL(0) | 3, 0, 0);
    LOAD_DS("DS: DPL 3 data with RPL 0", SEL(0), 0, 0);
    gdt[FREE] = segment(0, 0xfffff, 0xd2, 12);
    LOAD_DS("DS: DPL 2 data at CPL 3: #GP(selector)", SEL(0), 13, SEL(0));
    gdt[FREE] = segment(0, 0xfffff, 0x9e, 12);
    LOAD_DS("DS: conforming readable code of DPL 0", SEL(0) | 3, 0, 0);
    gdt[FREE] = segment(0, 0xfffff, 0x9a, 12);
    LOAD_DS("DS: non-conforming code of DPL 0: #GP(selector)", SEL(0) | 3, 13, SEL(0));
    gdt[FREE] = segment(0, 0xfffff, 0xfc, 12);
    LOAD_DS("DS: execute-only code: #GP(selector)", SEL(0) | 3, 13, SEL(0));
    gdt[FREE] = segment(0, 0xfffff, 0x72, 12);
    LOAD_DS("DS: not present: #NP(selector)", SEL(0) | 3, 11, SEL(0));
    LOAD_DS("DS: a TSS: #GP(selector)", 0x38, 13, 0x38);
    LOAD_DS("DS: beyond the GDT: #GP(selector)", 0x203, 13, 0x200);
    /* the LDT */
    static uint64_t ldt[4];
    ldt[1] = segment(0, 0xfffff, 0xf2, 12);
    gdt[FREE + 1] = segment((uint32_t)ldt, 15, 0x82, 0);
    __asm__ volatile("lldt %w0" ::"r"(SEL(1)));
    LOAD_DS("DS: from the LDT", 0xf, 0, 0);
    LOAD_DS("DS: beyond the LDT's limit: #GP(selector)", 0x17, 13, 0x14);
    __asm__ volatile("lldt %w0" ::"r"(0));
    LOAD_DS("DS: LDT is null: #GP(selector)", 0xf, 13, 0xc);
#define LOAD_SS(name, sel, vec, err)                                                                                   \
    do {                                                                                                               \
        memcpy(ubuf, "\x8e\xd3\x90\xcd\x80", 5);                                                                       \
        struct frame f_ = user_frame(ubuf);                                                                            \
        f_.ebx = (sel);                                                                                                \
        site = (uint32_t)ubuf;                                                                                         \
        run_frame(&f_);                                                                                                \
        if (vec)                                                                                                       \
            EXPECT_FAULT(name, vec, err);                                                                              \
        else                                                                                                           \
            EXPECT_NONE(name);                                                                                         \
    } while (0)
    gdt[FREE] = segment(0, 0xfffff, 0xf2, 12);
    LOAD_SS("SS: DPL 3, RPL 3", SEL(0) | 3, 0, 0);
    LOAD_SS("SS: RPL 0 at CPL 3: #GP(selector)", SEL(0), 13, SEL(0));
    LOAD_SS("SS: null: #GP(0)", 0, 13, 0);
    gdt[FREE] = segment(0, 0xfffff, 0xf0, 12);
    LOAD_SS("SS: read-only: #GP(selector)", SEL(0) | 3, 13, SEL(0));
    gdt[FREE] = segment(0, 0xfffff, 0x92, 12);
    LOAD_SS("SS: DPL 0 at CPL 3: #GP(selector)", SEL(0) | 3, 13, SEL(0));
    gdt[FREE] = segment(0, 0xfffff, 0x72, 12);
    LOAD_SS("SS: not present: #SS(selector)", SEL(0) | 3, 12, SEL(0));
}

/* --- far transfers --- */

static volatile uint32_t gate_args[4], gate_cs, gate_ss, gate_flags;
__asm__(".globl gate_entry, gate_entry0\n"
        "gate_entry: movl %cs, %eax; movl %eax, %ss:gate_cs; movl %ss, %eax; movl %eax, %ss:gate_ss\n"
        " movl 8(%esp), %eax; movl %eax, %ss:gate_args; movl 12(%esp), %eax; movl %eax, %ss:gate_args+4\n"
        " lret $8\n"
        "gate_entry0: movl %cs, %eax; movl %eax, %ss:gate_cs; lret\n");
extern uint8_t gate_entry[], gate_entry0[];

static struct frame far_call(unsigned sel, uint32_t off)
{
    ubuf[0] = 0x9a;
    memcpy(ubuf + 1, &off, 4);
    ubuf[5] = (uint8_t)sel;
    ubuf[6] = (uint8_t)(sel >> 8);
    memcpy(ubuf + 7, "\xcd\x80", 2);
    struct frame f = user_frame(ubuf);
    ((uint32_t *)f.esp)[0] = 0x11111111;
    ((uint32_t *)f.esp)[1] = 0x22222222;
    site = (uint32_t)ubuf;
    run_frame(&f);
    return f;
}

static void gates(void)
{
    struct frame f;
    gdt[FREE] = gate(8, gate_entry, 0xec) | 2ull << 32;
    uint32_t before = user_frame(0).esp;
    f = far_call(SEL(0) | 3, 0xdeadbeef);
    EXPECT_NONE("call gate from ring 3 to ring 0 and back");
    CHECK_EQ("call gate: CS inside", gate_cs, 8);
    CHECK_EQ("call gate: SS from the TSS", gate_ss, 0x10);
    CHECK("call gate: two parameters copied", gate_args[0] == 0x11111111 && gate_args[1] == 0x22222222);
    CHECK_EQ("far RET n releases the parameters on the outer stack", f.esp, before + 8);
    CHECK("back at CPL 3", f.cs == 0x2b && f.ss == 0x33 && f.eip == (uint32_t)ubuf + 9);
    gdt[FREE] = gate(8, gate_entry, 0x8c);
    far_call(SEL(0) | 3, 0);
    EXPECT_FAULT("call gate with DPL 0 from CPL 3: #GP(gate)", 13, SEL(0));
    gdt[FREE] = gate(8, gate_entry, 0x6c);
    far_call(SEL(0) | 3, 0);
    EXPECT_FAULT("call gate not present: #NP(gate)", 11, SEL(0));
    gdt[FREE] = gate(0, gate_entry, 0xec);
    far_call(SEL(0) | 3, 0);
    EXPECT_FAULT("call gate with a null target: #GP(0)", 13, 0);
    gdt[FREE] = gate(0x10, gate_entry, 0xec);
    far_call(SEL(0) | 3, 0);
    EXPECT_FAULT("call gate to data: #GP(target)", 13, 0x10);
    gdt[FREE] = gate(SEL(1), gate_entry, 0xec);
    gdt[FREE + 1] = segment(0, 0xfffff, 0x1a, 12);
    far_call(SEL(0) | 3, 0);
    EXPECT_FAULT("call gate to absent code: #NP(target)", 11, SEL(1));
    /* conforming target: no change of level */
    gdt[FREE] = gate(SEL(1), gate_entry0, 0xec);
    gdt[FREE + 1] = segment(0, 0xfffff, 0x9e, 12);
    f = far_call(SEL(0) | 3, 0);
    EXPECT_NONE("call gate to conforming code");
    LAX("takes RPL from the gate (SDM Vol. 2A, CALL)");
    CHECK_EQ("conforming: CPL stays 3", gate_cs, SEL(1) | 3);
    f = far_call(SEL(1), (uint32_t)gate_entry0);
    EXPECT_NONE("direct far call to conforming code of DPL 0");
    far_call(8, (uint32_t)gate_entry0);
    EXPECT_FAULT("direct far call to more privileged code: #GP(selector)", 13, 8);
    far_call(0, 0);
    EXPECT_FAULT("far call with a null selector: #GP(0)", 13, 0);
    far_call(0x33, 0);
    EXPECT_FAULT("far call to data: #GP(selector)", 13, 0x30);
    gdt[FREE + 1] = segment(0, 0xfffff, 0x7a, 12);
    far_call(SEL(1) | 3, (uint32_t)gate_entry0);
    EXPECT_FAULT("far call to absent code: #NP(selector)", 11, SEL(1));
    gdt[FREE + 1] = segment((uint32_t)gate_entry0, 2, 0xfa, 4);
    far_call(SEL(1) | 3, 0x100);
    LAX(LIMITS);
    EXPECT_FAULT("far call beyond the new limit: #GP(0)", 13, 0);
    /* inner stack faults: ESP0 with a bad SS0 */
    gdt[FREE] = gate(8, gate_entry, 0xec);
    /* far jump through a gate must not change the level */
    memcpy(ubuf, "\xea\0\0\0\0\0\0\xcd\x80", 9);
    ubuf[5] = SEL(0) | 3;
    f = user_frame(ubuf);
    run_frame(&f);
    EXPECT_FAULT("far JMP through a gate to ring 0: #GP(target)", 13, 8);
}

static void returns(void)
{
    struct frame f;
    /* ring 0 far return to ring 3 with DS of DPL 0: nulled; ES of DPL 3: kept */
    extern uint8_t out_code[];
    __asm__(".pushsection .text.far,\"ax\"\nout_code: movl %ds, %eax; movl %es, %ebx; movl %fs, %ecx; movl %gs, %edx; "
            "int $0x80\n.popsection");
    static uint8_t stack[256];
    uint32_t *sp = (uint32_t *)(stack + 128);
    memcpy(ubuf, "\xcb", 1);
    gdt[FREE] = segment(0, 0xfffff, 0x9e, 12); /* conforming code: kept whatever its DPL */
    f = user_frame(ubuf);
    f.cs = 8;
    f.ds = 0x10;
    f.es = 0x33;
    f.fs = SEL(0);
    f.gs = 0x10;
    /* IRET to ring 0 keeps our stack: run on kernel stack by pushing there */
    memcpy(ubuf, "\x8e\xd6\x89\xfc\xcb", 5); /* mov %esi,%ss; mov %edi,%esp; lret */
    f.esi = 0x10;
    f.edi = (uint32_t)sp;
    sp[0] = (uint32_t)out_code;
    sp[1] = 0x2b;
    sp[2] = user_frame(0).esp;
    sp[3] = 0x33;
    struct frame g = f;
    run_frame(&g);
    CHECK("far RET to ring 3: segments of DPL 0 are nulled, others kept",
          !fault.happened && g.eax == 0 && g.ebx == 0x33 && g.ecx == SEL(0) && g.edx == 0);
    CHECK("far RET to ring 3: CS and SS", g.cs == 0x2b && g.ss == 0x33);
#define BAD_RET(name, cs_, ss_, vec, err)                                                                              \
    do {                                                                                                               \
        sp[0] = (uint32_t)out_code;                                                                                    \
        sp[1] = (cs_);                                                                                                 \
        sp[2] = user_frame(0).esp;                                                                                     \
        sp[3] = (ss_);                                                                                                 \
        g = f;                                                                                                         \
        site = (uint32_t)ubuf + 4;                                                                                     \
        run_frame(&g);                                                                                                 \
        EXPECT_FAULT(name, vec, err);                                                                                  \
    } while (0)
    BAD_RET("far RET: null CS: #GP(0)", 0, 0x33, 13, 0);
    BAD_RET("far RET: data as CS: #GP(selector)", 0x33, 0x33, 13, 0x30);
    BAD_RET("far RET: SS null to ring 3: #GP(0)", 0x2b, 0, 13, 0);
    BAD_RET("far RET: SS with RPL 0 to ring 3: #GP(selector)", 0x2b, 0x30, 13, 0x30);
    BAD_RET("far RET: SS with DPL 0 to ring 3: #GP(selector)", 0x2b, 0x13, 13, 0x10);
    BAD_RET("far RET: CS with DPL 0, RPL 3: #GP(selector)", 0xb, 0x33, 13, 8);
    gdt[FREE + 1] = segment(0, 0xfffff, 0x72, 12);
    lax_why = "raises #NP (SDM Vol. 2B, RET)";
    BAD_RET("far RET: SS not present: #SS(selector)", 0x2b, SEL(1) | 3, 12, SEL(1));
    gdt[FREE + 1] = segment(0, 0xfffff, 0x7a, 12);
    BAD_RET("far RET: CS not present: #NP(selector)", SEL(1) | 3, 0x33, 11, SEL(1));
    /* ring 3 must not return inward */
    memcpy(ubuf, "\x6a\x08\x6a\x00\xcb", 5);
    g = user_frame(ubuf);
    site = (uint32_t)ubuf + 4;
    run_frame(&g);
    EXPECT_FAULT("far RET inward: #GP(selector)", 13, 8);
    memcpy(ubuf, "\x6a\x02\x6a\x08\x6a\x00\xcf", 7);
    g = user_frame(ubuf);
    site = (uint32_t)ubuf + 6;
    run_frame(&g);
    EXPECT_FAULT("IRET inward: #GP(selector)", 13, 8);
}

static void others(void)
{
    /* BOUND, INTO, in ring 3 */
    int32_t b[2] = {-5, 10};
    memcpy(ubuf, "\x62\x07\xcd\x80", 4); /* bound %eax,(%edi) */
    static const int32_t v[5] = {-6, -5, 0, 10, 11};
    for (int i = 0; i < 5; i++) {
        struct frame f = user_frame(ubuf);
        f.eax = (uint32_t)v[i];
        f.edi = (uint32_t)b;
        site = (uint32_t)ubuf;
        run_frame(&f);
        if (i == 0 || i == 4)
            EXPECT_FAULT("BOUND outside: #BR", 5, 0);
        else
            EXPECT_NONE("BOUND inside");
    }
    set_idt(4, gate(8, stubs + 64, 0xee));
    memcpy(ubuf, "\xb0\x7f\x04\x01\xce\xcd\x80", 7);
    struct frame f = user_frame(ubuf);
    site_next = (uint32_t)ubuf + 5;
    run_frame(&f);
    EXPECT_TRAP("INTO with OF: trap", 4, 0);
    memcpy(ubuf, "\xb0\x01\x04\x01\xce\xcd\x80", 7);
    f = user_frame(ubuf);
    run_frame(&f);
    EXPECT_NONE("INTO without OF");
    set_idt(4, gate(8, stubs + 64, 0x8e));
    memcpy(ubuf, "\xb0\x7f\x04\x01\xce\xcd\x80", 7);
    f = user_frame(ubuf);
    site = (uint32_t)ubuf + 4;
    run_frame(&f);
    EXPECT_FAULT("INTO through a gate of DPL 0 from CPL 3: #GP", 13, 4 * 8 + 2);
    set_idt(0x81, gate(8, stubs + 16 * 0x81, 0xee) & ~(0xffffull << 16));
    memcpy(ubuf, "\xcd\x81\xcd\x80", 4);
    f = user_frame(ubuf);
    site = (uint32_t)ubuf;
    run_frame(&f);
    EXPECT_FAULT("interrupt gate with a null selector: #GP(0)", 13, 0);
    /* 32-bit only instructions work, 16-bit operand sizes of far pointers */
    uint32_t ptr[2] = {0x12345678, 0x10};
    uint32_t off, sel;
    __asm__ volatile("les %2, %0; movl %%es, %1" : "=r"(off), "=r"(sel) : "m"(ptr));
    CHECK("LES", off == 0x12345678 && (sel & 0xffff) == 0x10);
    __asm__ volatile("lss %1, %%eax; movl %%ss, %0" : "=r"(sel) : "m"(ptr) : "eax");
    CHECK("LSS", (sel & 0xffff) == 0x10);
    memcpy(ubuf, "\xc5\x07\xcd\x80", 4);
    f = user_frame(ubuf);
    ptr[1] = 0x10;
    f.edi = (uint32_t)ptr;
    f.eax = 77;
    site = (uint32_t)ubuf;
    run_frame(&f);
    EXPECT_FAULT("LDS with a bad selector: #GP(selector)", 13, 0x10);
    CHECK_EQ("LDS that faults leaves the register", f.eax, 77);
    /* SYSENTER and SYSEXIT */
    uint32_t r[4];
    cpuid(1, 0, r);
    if ((r[3] >> 11 & 1)) {
        wrmsr(0x174, 0);
        memcpy(ubuf, "\x0f\x34\xcd\x80", 4);
        f = user_frame(ubuf);
        run_frame(&f);
        EXPECT_FAULT("SYSENTER with SYSENTER_CS 0: #GP(0)", 13, 0);
        extern uint8_t se_entry[];
        static uint8_t se_stack[128];
        __asm__(".pushsection .text.far,\"ax\"\nse_entry: movl %cs, %eax; movl %ss, %ebx; movl $se_back, %edx; movl "
                "%esp, %edi; pushfl; popl %esi\n"
                " movl %ebp, %ecx; sysexit\nse_back: movl %cs, %ecx; movl %ss, %edx; int $0x80\n.popsection");
        /* SYSENTER_CS gives CS, SS = CS + 8, user CS + 16, SS + 24: lay four descriptors out */
        gdt[FREE + 4] = gdt[1];
        gdt[FREE + 5] = gdt[2];
        gdt[FREE + 6] = gdt[5];
        gdt[FREE + 7] = gdt[6];
        wrmsr(0x174, SEL(4));
        wrmsr(0x175, (uint32_t)se_stack + 128);
        wrmsr(0x176, (uint32_t)se_entry);
        f = user_frame(ubuf);
        f.ebp = f.esp;
        f.eflags = 0x3202;
        run_frame(&f);
        EXPECT_NONE("SYSENTER and SYSEXIT");
        CHECK("SYSENTER: CS, SS, ESP", f.eax == SEL(4) && f.ebx == SEL(5) && f.edi == (uint32_t)se_stack + 128);
        CHECK("SYSENTER clears IF, keeps IOPL", (f.esi & 0x3200) == 0x3000);
        CHECK("SYSEXIT: CS, SS, ESP", f.ecx == (SEL(6) | 3) && f.edx == (SEL(7) | 3) && f.esp == f.ebp);
    }
}

void guest_main(void)
{
    init();
    limits();
    inspect();
    loads();
    gates();
    returns();
    others();
    finish();
}
