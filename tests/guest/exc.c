/* Exceptions in 64-bit mode: vector, error code and RIP of each, priorities, double faults, IST, privilege, #AC, NMI,
 * interrupt shadows. */
#include "attempt.h"

#define MISSING 0x8000000000ull /* unmapped */
/* Error code of a fault of a gate: vector * 8 with IDT set; TCG 7.2 multiplies by 16 in long mode (SDM Vol. 3A, 6.13).
 */
#define GATE_ERROR(v) ((v) * (under_qemu() ? 16u : 8u) + 2)

static uint8_t ubuf[64] __attribute__((aligned(4096)));

/* Run bytes at CPL 3 (followed by INT 0x80). */
static struct frame user_bytes(const void *code, unsigned n)
{
    memcpy(ubuf, code, n);
    memcpy(ubuf + n, "\xcd\x80", 2);
    struct frame f = user_frame(ubuf);
    f.rdi = f.rsi = f.rbx = (uint64_t)(ubuf + 32);
    run_frame(&f);
    site = (uint64_t)ubuf;
    site_next = (uint64_t)(ubuf + n);
    return f;
}
/* Run bytes at CPL 0; they fault, or the attempt goes through. */
static void kernel_bytes(const void *code, unsigned n)
{
    memcpy(ubuf, code, n);
    ubuf[n] = 0xc3;
    ATTEMPT("movq %%rcx, site(%%rip)\n1: call *%%rcx\n2:", "c"(ubuf), "D"(ubuf + 32));
    site_next = site + n;
}
#define KERNEL(s) kernel_bytes(s, sizeof(s) - 1)
#define USER(s) user_bytes(s, sizeof(s) - 1)

static void divide(void)
{
    ATTEMPT("xorl %%eax, %%eax\n1: divl %%ecx\n2:", "c"(0), "d"(0));
    EXPECT_FAULT("DIV by zero", 0, 0);
    ATTEMPT("xorl %%eax, %%eax\n1: divl %%ecx\n2:", "c"(1), "d"(1));
    EXPECT_FAULT("DIV overflow", 0, 0);
    ATTEMPT("movl $0x80000000, %%eax\n1: idivl %%ecx\n2:", "c"(-1), "d"(-1));
    EXPECT_FAULT("IDIV: the most negative by -1", 0, 0);
    ATTEMPT("movl $0x80000000, %%eax\n1: idivl %%ecx\n2:", "c"(1), "d"(-1));
    EXPECT_NONE("IDIV: the most negative by 1");
    ATTEMPT("movw $0x100, %%ax\n1: divb %%cl\n2:", "c"(1));
    EXPECT_FAULT("DIV byte overflow", 0, 0);
    ATTEMPT("1: divq (%%rcx)\n2:", "c"(MISSING), "d"(0));
    EXPECT_PF("DIV: #PF of the operand comes first", 0, MISSING);
}

static void software(void)
{
    ATTEMPT("1: int3\n2:", "c"(0));
    EXPECT_TRAP("INT3", 3, 0);
    ATTEMPT("1: .byte 0xcd, 3\n2:", "c"(0));
    EXPECT_TRAP("INT 3, long form", 3, 0);
    ATTEMPT("1: int $1\n2:", "c"(0));
    EXPECT_TRAP("INT 1", 1, 0);
    ATTEMPT("1: .byte 0xf1\n2:", "c"(0));
    LAX("has no INT1 (SDM Vol. 2A, INT)");
    EXPECT_TRAP("INT1 (ICEBP)", 1, 0);
    ATTEMPT("1: int $0\n2:", "c"(0));
    EXPECT_TRAP("INT 0", 0, 0);
    ATTEMPT("1: int $4\n2:", "c"(0));
    EXPECT_TRAP("INT 4", 4, 0);
    /* INT n pushes no error code even for a vector that has one: the stub then takes RIP for it. Vector 6 has none. */
    ATTEMPT("1: int $6\n2:", "c"(0));
    EXPECT_TRAP("INT 6", 6, 0);
    /* gates */
    USER("\xcd\x20");
    EXPECT_FAULT("INT n from CPL 3 through a DPL 0 gate: #GP(vector * 8 + 2)", 13, GATE_ERROR(0x20));
    USER("\xcc");
    EXPECT_FAULT("INT3 from CPL 3 through a DPL 0 gate: #GP", 13, GATE_ERROR(3));
    USER("\xf1");
    LAX("has no INT1 (SDM Vol. 2A, INT: INT1 is not subject to the DPL check)");
    EXPECT_TRAP("INT1 from CPL 3: no DPL check", 1, 0);
    set_gate(3, stub_of(3), 3, 0, 14);
    USER("\xcc");
    EXPECT_TRAP("INT3 from CPL 3 through a DPL 3 gate", 3, 0);
    set_gate(3, stub_of(3), 0, 0, 14);
    USER("\x0f\x0b");
    EXPECT_FAULT("UD2 from CPL 3: exceptions ignore DPL", 6, 0);
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr, small;
    __asm__ volatile("sidt %0" : "=m"(idtr));
    CHECK_EQ("SIDT limit", idtr.limit, 4095);
    small = idtr;
    small.limit = 0x50 * 16 - 2;
    __asm__ volatile("lidt %0" ::"m"(small));
    ATTEMPT("1: int $0x4f\n2:", "c"(0));
    EXPECT_FAULT("INT n with the gate partly beyond the IDT limit: #GP", 13, GATE_ERROR(0x4f));
    ATTEMPT("1: int $0x90\n2:", "c"(0));
    EXPECT_FAULT("INT n beyond the IDT limit: #GP", 13, GATE_ERROR(0x90));
    __asm__ volatile("lidt %0" ::"m"(idtr));
    uint64_t *gate = (uint64_t *)(idtr.base + 16 * 0x4e), keep = *gate;
    *gate = keep & ~(1ull << 47);
    ATTEMPT("1: int $0x4e\n2:", "c"(0));
    EXPECT_FAULT("gate not present: #NP", 11, GATE_ERROR(0x4e));
    *gate = (keep & ~(0xfull << 40)) | 5ull << 40;
    ATTEMPT("1: int $0x4e\n2:", "c"(0));
    EXPECT_FAULT("task gate in long mode: #GP", 13, GATE_ERROR(0x4e));
    *gate = (keep & ~(0xffffull << 16)) | 0x10ull << 16;
    ATTEMPT("1: int $0x4e\n2:", "c"(0));
    EXPECT_FAULT("gate to a data segment: #GP(selector)", 13, 0x10);
    *gate = keep & ~(0xffffull << 16);
    ATTEMPT("1: int $0x4e\n2:", "c"(0));
    EXPECT_FAULT("gate with a null selector: #GP(0)", 13, 0);
    *gate = (keep & ~(0xffffull << 16)) | 0x18ull << 16;
    ATTEMPT("1: int $0x4e\n2:", "c"(0));
    EXPECT_FAULT("gate to 32-bit code in long mode: #GP(selector)", 13, 0x18);
    *gate = (keep & ~(0xffffull << 16)) | 0x38ull << 16;
    ATTEMPT("1: int $0x4e\n2:", "c"(0));
    EXPECT_FAULT("gate to less privileged code: #GP(selector)", 13, 0x38);
    *gate = (keep & ~(0xffffull << 16)) | 0xf00ull << 16;
    ATTEMPT("1: int $0x4e\n2:", "c"(0));
    EXPECT_FAULT("gate to a selector beyond the GDT: #GP(selector)", 13, 0xf00);
    *gate = keep;
    /* #UD whose gate is not present: error code has EXT (SDM Vol. 3A, 6.13) */
    gate = (uint64_t *)(idtr.base + 16 * 6);
    keep = *gate;
    *gate = keep & ~(1ull << 47);
    ATTEMPT("1: ud2\n2:", "c"(0));
    LAX("does not set EXT");
    EXPECT_FAULT("exception through a missing gate: #NP with EXT", 11, 6 * 8 + 3);
    *gate = keep;
}

static void undefined(void)
{
    static const struct {
        const char *name, *code;
        uint8_t n;
    } t[] = {
#define C(name, s) {name, s, sizeof(s) - 1}
        C("UD2", "\x0f\x0b"),
        C("UD0", "\x0f\xff\xc0"),
        C("UD1", "\x0f\xb9\xc0"),
        C("PUSH ES in 64-bit mode", "\x06"),
        C("POP DS in 64-bit mode", "\x1f"),
        C("DAA in 64-bit mode", "\x27"),
        C("AAS in 64-bit mode", "\x3f"),
        C("PUSHA in 64-bit mode", "\x60"),
        C("POPA in 64-bit mode", "\x61"),
        C("82 group in 64-bit mode", "\x82\xc0\x01"),
        C("far CALL immediate in 64-bit mode", "\x9a\0\0\0\0\0\0"),
        C("INTO in 64-bit mode", "\xce"),
        C("AAM in 64-bit mode", "\xd4\x0a"),
        C("AAD in 64-bit mode", "\xd5\x0a"),
        C("SALC in 64-bit mode", "\xd6"),
        C("far JMP immediate in 64-bit mode", "\xea\0\0\0\0\0\0"),
        C("LOCK with a register destination", "\xf0\x01\xc0"),
        C("LOCK MOV", "\xf0\x89\x07"),
        C("LOCK CMP", "\xf0\x39\x07"),
        C("LOCK with a memory source", "\xf0\x03\x07"),
        C("LOCK BT", "\xf0\x0f\xa3\x07"),
        C("LOCK NOP", "\xf0\x90"),
        C("LOCK HLT", "\xf0\xf4"),
        C("MOV to CS", "\x8e\xc8"),
        C("MOV from segment 6", "\x8c\xf0"),
        C("MOV to segment 7", "\x8e\xf8"),
        C("MOV to CR1", "\x0f\x22\xc8"),
        C("MOV from CR5", "\x0f\x20\xe8"),
        C("MOV to CR7", "\x0f\x22\xf8"),
        C("LEA with a register", "\x8d\xc0"),
        C("LES in 64-bit mode is VEX: bad map", "\xc4\xc0\x78\x10\xc0"),
        C("FF /7", "\xff\xf8"),
        C("FE /2", "\xfe\xd0"),
        C("8F /1", "\x8f\xc8\x00"),
        C("C6 /1", "\xc6\xc8\0"),
        C("0F C7 /0", "\x0f\xc7\xc0"),
        C("CMPXCHG8B with a register", "\x0f\xc7\xc8"),
        C("LGDT with a register", "\x0f\x01\xd7"),
        C("INVLPG with a register", "\x0f\x01\xfb"),
        C("BA /3", "\x0f\xba\xd8\x01"),
        C("0F 04", "\x0f\x04"),
        C("0F 0A", "\x0f\x0a"),
        C("0F 36", "\x0f\x36"),
        C("RSM outside SMM", "\x0f\xaa"),
#undef C
    };
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        if (t[i].code[0] == 0x0f && (uint8_t)t[i].code[1] == 0xff)
            LAX("decodes UD0 otherwise");
        if ((uint8_t)t[i].code[0] == 0x8f && lax(t[i].name, "executes POP"))
            continue;
        if ((uint8_t)t[i].code[0] == 0xc6)
            LAX("executes MOV");
        if ((uint8_t)t[i].code[0] == 0xf0) {
            LAX("lets LOCK pass (SDM Vol. 2A, LOCK)");
            if ((uint8_t)t[i].code[1] == 0xf4 && lax(t[i].name, "halts"))
                continue;
        }
        kernel_bytes(t[i].code, t[i].n);
        EXPECT_FAULT(t[i].name, 6, 0);
    }
    lax_why = NULL;
    USER("\xf0\xf4");
    LAX("lets LOCK pass (SDM Vol. 2A, LOCK)");
    EXPECT_FAULT("LOCK HLT at CPL 3: #UD before #GP", 6, 0);
    LAX("lets LOCK pass (SDM Vol. 2A, LOCK)");
    ATTEMPT("1: .byte 0xf0; movl %%ecx, (%%rcx)\n2:", "c"(MISSING));
    EXPECT_FAULT("LOCK MOV to a missing page: #UD before #PF", 6, 0);
    KERNEL("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90");
    EXPECT_NONE("15 bytes are allowed");
    KERNEL("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90");
    EXPECT_FAULT("16 bytes: #GP", 13, 0);
}

static void privileged(void)
{
    static const struct {
        const char *name, *code;
        uint8_t n, vector;
    } t[] = {
#define C(name, s) {name, s, sizeof(s) - 1, 13}
        C("HLT at CPL 3", "\xf4"),
        C("CLI at CPL 3, IOPL 0", "\xfa"),
        C("STI at CPL 3, IOPL 0", "\xfb"),
        C("IN at CPL 3", "\xe4\x80"),
        C("OUT DX at CPL 3", "\xee"),
        C("INS at CPL 3", "\x6c"),
        C("OUTS at CPL 3", "\x6e"),
        C("LGDT at CPL 3", "\x0f\x01\x17"),
        C("LIDT at CPL 3", "\x0f\x01\x1f"),
        C("LLDT at CPL 3", "\x0f\x00\xd0"),
        C("LTR at CPL 3", "\x0f\x00\xd8"),
        C("LMSW at CPL 3", "\x0f\x01\xf0"),
        C("MOV from CR0 at CPL 3", "\x0f\x20\xc0"),
        C("MOV to CR3 at CPL 3", "\x0f\x22\xd8"),
        C("MOV from CR8 at CPL 3", "\x44\x0f\x20\xc0"),
        C("MOV from DR7 at CPL 3", "\x0f\x21\xf8"),
        C("CLTS at CPL 3", "\x0f\x06"),
        C("INVD at CPL 3", "\x0f\x08"),
        C("WBINVD at CPL 3", "\x0f\x09"),
        C("INVLPG at CPL 3", "\x0f\x01\x3f"),
        C("RDMSR at CPL 3", "\x0f\x32"),
        C("WRMSR at CPL 3", "\x0f\x30"),
        C("SWAPGS at CPL 3", "\x0f\x01\xf8"),
        C("RDPMC at CPL 3", "\x0f\x33"),
        C("SYSEXIT at CPL 3", "\x0f\x35"),
        C("INVLPG of a missing page at CPL 3", "\x0f\x01\x3c\x25\0\0\0\x60"),
#undef C
    };
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        user_bytes(t[i].code, t[i].n);
        if ((uint8_t)t[i].code[1] == 0x35)
            LAX("has no SYSENTER with the vendor string it presents");
        EXPECT_FAULT(t[i].name, t[i].vector, 0);
    }
    lax_why = NULL;
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
    USER("\x0f\x07");
    EXPECT_FAULT("SYSRET at CPL 3", 13, 0);
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
    USER("\x0f\x07");
    EXPECT_FAULT("SYSRET without SCE: #UD", 6, 0);
    USER("\x0f\x05");
    EXPECT_FAULT("SYSCALL without SCE: #UD", 6, 0);
    write_cr4(read_cr4() | 4);
    USER("\x0f\x31");
    EXPECT_FAULT("RDTSC at CPL 3 with TSD", 13, 0);
    KERNEL("\x0f\x31");
    EXPECT_NONE("RDTSC at CPL 0 with TSD");
    write_cr4(read_cr4() & ~4ull);
    USER("\x0f\x31");
    EXPECT_NONE("RDTSC at CPL 3 without TSD");
    uint32_t r[4];
    cpuid(7, 0, r);
    if (r[2] >> 2 & 1) {
        write_cr4(read_cr4() | 1 << 11);
        USER("\x0f\x01\x07");
        EXPECT_FAULT("SGDT at CPL 3 with UMIP", 13, 0);
        USER("\x0f\x01\x0f");
        EXPECT_FAULT("SIDT at CPL 3 with UMIP", 13, 0);
        USER("\x0f\x00\xc0");
        EXPECT_FAULT("SLDT at CPL 3 with UMIP", 13, 0);
        USER("\x0f\x00\xc8");
        EXPECT_FAULT("STR at CPL 3 with UMIP", 13, 0);
        USER("\x0f\x01\xe0");
        EXPECT_FAULT("SMSW at CPL 3 with UMIP", 13, 0);
        KERNEL("\x0f\x01\xe0");
        EXPECT_NONE("SMSW at CPL 0 with UMIP");
        write_cr4(read_cr4() & ~(1ull << 11));
    }
    USER("\x0f\x01\xe0");
    EXPECT_NONE("SMSW at CPL 3 without UMIP");
    /* POPF at CPL 3 leaves IF and IOPL; at IOPL 3 it changes IF */
    struct frame f = USER("\x68\x02\x32\x00\x00\x9d");
    CHECK_EQ("POPF at CPL 3, IOPL 0: IF and IOPL stay", f.rflags & 0x3200, 0);
    memcpy(ubuf, "\x68\x02\x02\x00\x00\x9d\xcd\x80", 8);
    f = user_frame(ubuf);
    f.rflags = 0x3002;
    run_frame(&f);
    CHECK_EQ("POPF at CPL 3, IOPL 3: IF changes, IOPL stays", f.rflags & 0x3200, 0x3200);
    memcpy(ubuf, "\xfa\xfb\xfa\xcd\x80", 5);
    f = user_frame(ubuf);
    f.rflags = 0x3202;
    run_frame(&f);
    CHECK("CLI and STI at CPL 3, IOPL 3", !fault.happened && !(f.rflags & 0x200));
    /* the I/O permission bitmap */
    static uint8_t big_tss[104 + 8192 + 1] __attribute__((aligned(16)));
    memcpy(big_tss, tss64, 104);
    memset(big_tss + 104, 0xff, 8193);
    *(uint16_t *)(big_tss + 102) = 104;
    uint64_t b = (uint64_t)big_tss, g9 = gdt[9] & ~(2ull << 40), g10 = gdt[10];
    gdt[9] = (104 + 8192) | (b & 0xffffff) << 16 | 0x89ull << 40 | (b >> 24 & 0xff) << 56;
    gdt[10] = b >> 32;
    __asm__ volatile("ltr %w0" ::"r"(0x48));
    USER("\xe4\x80");
    EXPECT_FAULT("IN at CPL 3: bit set in the I/O bitmap", 13, 0);
    big_tss[104 + 16] = 0xfe;
    USER("\xe4\x80");
    EXPECT_NONE("IN at CPL 3: bit clear");
    USER("\xe5\x80");
    EXPECT_FAULT("IN of 4 bytes: every bit must be clear", 13, 0);
    big_tss[104 + 16] = 0xf0;
    USER("\xe5\x80");
    EXPECT_NONE("IN of 4 bytes: all four clear");
    big_tss[104 + 8191] = 0x7f;
    big_tss[104 + 8192] = 0xff;
    USER("\x66\xba\xff\xff\xec");
    CHECK("IN from port 0xffff allowed by the last bit", !fault.happened);
    *(uint16_t *)(big_tss + 102) = 0xffff;
    USER("\xe4\x80");
    EXPECT_FAULT("I/O bitmap beyond the TSS limit: #GP", 13, 0);
    gdt[9] = g9;
    gdt[10] = g10;
    __asm__ volatile("ltr %w0" ::"r"(0x48));
}

static void not_available(void)
{
    uint64_t cr0 = read_cr0();
    write_cr0((cr0 | 8) & ~4ull);
    KERNEL("\xd9\xe8");
    EXPECT_FAULT("x87 with TS: #NM", 7, 0);
    write_cr0((cr0 | 8) & ~2ull & ~4ull);
    KERNEL("\x9b");
    EXPECT_NONE("WAIT with TS and MP = 0");
    write_cr0(cr0 | 8 | 2);
    KERNEL("\x9b");
    EXPECT_FAULT("WAIT with TS and MP: #NM", 7, 0);
    write_cr0((cr0 | 4) & ~8ull);
    KERNEL("\xd9\xe8");
    EXPECT_FAULT("x87 with EM: #NM", 7, 0);
    write_cr4(read_cr4() | 0x200);
    KERNEL("\x0f\x57\xc0");
    EXPECT_FAULT("SSE with EM: #UD", 6, 0);
    write_cr0((cr0 & ~4ull) | 8);
    KERNEL("\x0f\x57\xc0");
    EXPECT_FAULT("SSE with TS: #NM", 7, 0);
    ATTEMPT("1: movaps (%%rcx), %%xmm0\n2:", "c"(MISSING + 1));
    EXPECT_FAULT("SSE with TS: #NM before #GP and #PF", 7, 0);
    write_cr0(cr0 & ~12ull);
    ATTEMPT("1: movaps (%%rcx), %%xmm0\n2:", "c"(MISSING + 1));
    LAX("does not check the alignment first");
    EXPECT_FAULT("MOVAPS misaligned: #GP before #PF", 13, 0);
    ATTEMPT("1: movaps (%%rcx), %%xmm0\n2:", "c"(MISSING));
    EXPECT_PF("MOVAPS aligned, missing", 0, MISSING);
    write_cr4(read_cr4() & ~0x200ull);
    KERNEL("\x0f\x57\xc0");
    EXPECT_FAULT("SSE without OSFXSR: #UD", 6, 0);
    write_cr0(cr0);
}

static void loads(void)
{
    gdt[12] = gdt[2] & ~(1ull << 47); /* 60: data, not present */
    gdt[13] = gdt[1];                 /* 68: code, readable */
    gdt[14] = gdt[1] & ~(2ull << 40); /* 70: code, execute-only */
    gdt[15] = gdt[2] & ~(2ull << 40); /* 78: data, read-only */
    ATTEMPT("1: movw %%cx, %%ds\n2:", "c"(0x60));
    EXPECT_FAULT("DS not present: #NP(selector)", 11, 0x60);
    ATTEMPT("1: movw %%cx, %%ss\n2:", "c"(0x60));
    EXPECT_FAULT("SS not present: #SS(selector)", 12, 0x60);
    ATTEMPT("1: movw %%cx, %%ss\n2:", "c"(0x68));
    EXPECT_FAULT("SS with code: #GP(selector)", 13, 0x68);
    ATTEMPT("1: movw %%cx, %%ss\n2:", "c"(0x78));
    EXPECT_FAULT("SS with read-only data: #GP(selector)", 13, 0x78);
    ATTEMPT("1: movw %%cx, %%ss\n2:", "c"(0x33));
    EXPECT_FAULT("SS with RPL 3 at CPL 0: #GP(selector)", 13, 0x30);
    ATTEMPT("1: movw %%cx, %%es\n2:", "c"(0x70));
    EXPECT_FAULT("ES with execute-only code: #GP(selector)", 13, 0x70);
    ATTEMPT("1: movw %%cx, %%es\n2: xorl %%ecx, %%ecx; movw %%cx, %%es", "c"(0x68));
    EXPECT_NONE("ES with readable code");
    ATTEMPT("1: movw %%cx, %%es\n2:", "c"(0x100));
    EXPECT_FAULT("ES beyond the GDT: #GP(selector)", 13, 0x100);
    __asm__ volatile("lldt %w0" ::"r"(0));
    ATTEMPT("1: movw %%cx, %%es\n2:", "c"(0x104));
    EXPECT_FAULT("ES from the LDT when it is null: #GP(selector)", 13, 0x104);
    ATTEMPT("1: movw %%cx, %%es\n2:", "c"(3));
    EXPECT_NONE("ES null with RPL 3");
    ATTEMPT("1: movw %%cx, %%ss\n2: movl $0x10, %%ecx; movw %%cx, %%ss", "c"(0));
    EXPECT_NONE("SS null at CPL 0 in 64-bit mode");
    ATTEMPT("1: movw %%cx, %%ss\n2:", "c"(3));
    LAX("does not compare RPL");
    EXPECT_FAULT("SS null with RPL 3 at CPL 0: #GP(0)", 13, 0);
    ATTEMPT("1: lldt %%cx\n2:", "c"(0x10));
    EXPECT_FAULT("LLDT of a data segment: #GP(selector)", 13, 0x10);
    if (!lax("LTR null", "loads it (SDM Vol. 2A, LTR)")) {
        ATTEMPT("1: ltr %%cx\n2:", "c"(0));
        EXPECT_FAULT("LTR null: #GP(0)", 13, 0);
    }
    ATTEMPT("1: ltr %%cx\n2:", "c"(0x48));
    EXPECT_FAULT("LTR of a busy TSS: #GP(selector)", 13, 0x48);
    gdt[12] = 0x67 | 0x09ull << 40;
    gdt[13] = 0;
    ATTEMPT("1: ltr %%cx\n2:", "c"(0x60));
    EXPECT_FAULT("LTR not present: #NP(selector)", 11, 0x60);
    if (!lax("LTR with a non-canonical base", "loads it (SDM Vol. 2A, LTR)")) {
        gdt[12] = 0x67 | 0x89ull << 40;
        gdt[13] = 0xffff;
        ATTEMPT("1: ltr %%cx\n2:", "c"(0x60));
        EXPECT_FAULT("LTR with a non-canonical base: #GP(selector)", 13, 0x60);
    }
    /* loading a segment sets the accessed bit */
    gdt[16] = gdt[2] & ~(1ull << 40);
    __asm__ volatile("movw %w0, %%fs; movw %w1, %%fs" ::"r"(0x80), "r"(0) : "memory");
    CHECK("segment load sets the accessed bit", gdt[16] >> 40 & 1);
    /* FS and GS bases */
    wrmsr(0xc0000100, 0x1234567890ull);
    CHECK_EQ("FS base by MSR", rdmsr(0xc0000100), 0x1234567890ull);
    ATTEMPT("xorl %%eax, %%eax\n1: wrmsr\n2:", "c"(0xc0000100), "d"(0x8000));
    LAX("does not check (SDM Vol. 2C, WRMSR)");
    EXPECT_FAULT("FS base non-canonical: #GP", 13, 0);
    wrmsr(0xc0000100, 0);
    ATTEMPT("1: rdmsr\n2:", "c"(0x12345));
    LAX("reads zero (SDM Vol. 2B, RDMSR)");
    EXPECT_FAULT("RDMSR of an unknown MSR: #GP", 13, 0);
    ATTEMPT("1: wrmsr\n2:", "c"(0x12345), "d"(0));
    LAX("ignores it (SDM Vol. 2C, WRMSR)");
    EXPECT_FAULT("WRMSR of an unknown MSR: #GP", 13, 0);
}

/* --- double faults and IST --- */

static volatile uint64_t df_rsp, df_error, df_rip, df_count;
static void on_df(struct frame *f)
{
    df_count++;
    df_error = f->error;
    df_rip = f->rip;
    df_rsp = (uint64_t)f;
    f->rip = try_resume;
    f->rsp = try_rsp;
}

static void double_fault(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr;
    __asm__ volatile("sidt %0" : "=m"(idtr));
    set_handler(8, on_df);
    use_ist(8, true);
    uint64_t *gp = (uint64_t *)(idtr.base + 16 * 13), keep = *gp;
    *gp &= ~(1ull << 47);
    df_count = 0;
    ATTEMPT("1: movw %%cx, %%es\n2:", "c"(0x100));
    LAX("with AMD-V does not see the second fault as one of the first's delivery");
    CHECK("#GP whose gate is missing: double fault", df_count == 1 && df_error == 0 && df_rip == site);
    *gp = keep;
    df_count = 0;
    use_ist(12, false);
    ATTEMPT("movq %%rcx, %%rsp\n1: pushq %%rax\n2:", "c"(MISSING + 4096));
    CHECK("page fault on the stack of a page fault: double fault on IST",
          df_count == 1 && df_error == 0 && df_rip == site);
    CHECK_EQ("CR2 of the first level is that of the second fault", read_cr2() & ~0xfffull, MISSING);
    uint64_t ist = *(uint64_t *)((uint8_t *)tss64 + 36);
    CHECK_EQ("IST stack pointer", df_rsp + sizeof(struct frame), ist);
    *(uint64_t *)((uint8_t *)tss64 + 36) = ist - 8;
    df_count = 0;
    ATTEMPT("movq %%rcx, %%rsp\n1: pushq %%rax\n2:", "c"(MISSING + 4096));
    CHECK_EQ("the frame is aligned to 16 bytes", df_rsp + sizeof(struct frame), (ist - 8) & ~15ull);
    *(uint64_t *)((uint8_t *)tss64 + 36) = ist;
    /* benign then fault: serial handling, no double fault */
    uint64_t *ud = (uint64_t *)(idtr.base + 16 * 6);
    keep = *ud;
    *ud &= ~(1ull << 47);
    df_count = 0;
    ATTEMPT("1: ud2\n2:", "c"(0));
    CHECK("#UD whose gate is missing is #NP, not a double fault",
          df_count == 0 && fault.happened && fault.vector == 11);
    *ud = keep;
    /* #PF then #GP in delivery: double fault */
    uint64_t *pf = (uint64_t *)(idtr.base + 16 * 14);
    keep = *pf;
    *pf = (keep & ~(0xffffull << 16)) | 0x10ull << 16;
    df_count = 0;
    ATTEMPT("1: movb (%%rcx), %%al\n2:", "c"(MISSING));
    CHECK("#PF through a bad gate: double fault", df_count == 1 && df_error == 0 && df_rip == site);
    *pf = keep;
    set_handler(8, NULL);
}

/* --- alignment --- */

static void alignment(void)
{
    uint64_t cr0 = read_cr0();
    write_cr0(cr0 | 1 << 18);
    memcpy(ubuf, "\x8b\x47\x01\xcd\x80", 5); /* mov 1(%rdi), %eax */
    struct frame f = user_frame(ubuf);
    f.rdi = (uint64_t)ubuf + 32;
    f.rflags = 0x40002;
    site = (uint64_t)ubuf;
    run_frame(&f);
    bool qemu = under_qemu();
    const char *why = "has no alignment checks (SDM Vol. 3A, 6.15, interrupt 17)";
    LAX(why);
    EXPECT_FAULT("#AC: misaligned dword at CPL 3", 17, 0);
    f = user_frame(ubuf);
    f.rdi = (uint64_t)ubuf + 35;
    f.rflags = 0x40002;
    run_frame(&f);
    EXPECT_NONE("#AC: aligned dword");
    f = user_frame(ubuf);
    f.rdi = (uint64_t)ubuf + 32;
    run_frame(&f);
    EXPECT_NONE("#AC: not without RFLAGS.AC");
    memcpy(ubuf, "\x66\x8b\x47\x01\xcd\x80", 6);
    f = user_frame(ubuf);
    f.rdi = (uint64_t)ubuf + 32;
    f.rflags = 0x40002;
    run_frame(&f);
    LAX(why);
    EXPECT_FAULT("#AC: misaligned word", 17, 0);
    memcpy(ubuf, "\x8a\x47\x01\xcd\x80", 5);
    f = user_frame(ubuf);
    f.rdi = (uint64_t)ubuf + 32;
    f.rflags = 0x40002;
    run_frame(&f);
    EXPECT_NONE("#AC: bytes are always aligned");
    memcpy(ubuf, "\x8b\x07\xcd\x80", 4);
    f = user_frame(ubuf);
    f.rdi = MISSING + 1;
    f.rflags = 0x40002;
    run_frame(&f);
    CHECK("#AC or #PF when both apply", fault.happened && (fault.vector == 14 || (fault.vector == 17 && !qemu)));
    ATTEMPT("pushfq; orl $0x40000, (%%rsp); popfq\n1: movl 1(%%rcx), %%r8d\n2: pushfq; andl $~0x40000, (%%rsp); popfq",
            "c"(ubuf));
    EXPECT_NONE("#AC: not at CPL 0");
    write_cr0(cr0);
}

/* --- interrupts: shadow, NMI blocking --- */

static volatile uint64_t irq_rip[4], irq_count, nmi_count, nmi_depth, nmi_max, nmi_second;
static void on_irq(struct frame *f)
{
    if (irq_count < 4)
        irq_rip[irq_count] = f->rip;
    irq_count++;
    apic_write(0xb0, 0);
}

static void shadow(void)
{
    apic_write(0xf0, 0x1ff);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    set_handler(0x50, on_irq);
    irq_count = 0;
    ATTEMPT("movl $0x44050, (%%rcx)\n movl 0x20(%%rcx), %%r8d\n sti\n nop\n1: nop\n2: cli", "c"(0xfee00300ull));
    CHECK("STI: interrupt after the next instruction", irq_count == 1 && irq_rip[0] == site);
    irq_count = 0;
    ATTEMPT("movl $0x44050, (%%rcx)\n movl 0x20(%%rcx), %%r8d\n sti\n cli\n1: nop\n nop\n2:", "c"(0xfee00300ull));
    CHECK_EQ("STI, CLI: no interrupt between", irq_count, 0);
    ATTEMPT("sti; nop\n1: nop\n2: cli", "c"(0));
    CHECK("the interrupt was kept pending", irq_count == 1 && irq_rip[0] == site);
    irq_count = 0;
    /* POP SS with IF already set: one instruction of grace. The IPI is sent with IF = 0. */
    ATTEMPT("movl $0x44050, (%%rcx)\n movl 0x20(%%rcx), %%r8d\n pushfq; popq %%r9; orl $0x200, %%r9d; movw %%ss, "
            "%%r10w\n pushq %%r9; popfq\n1: nop\n2: cli",
            "c"(0xfee00300ull));
    CHECK("POPF that sets IF has no shadow", irq_count == 1 && irq_rip[0] == site);
    irq_count = 0;
    ATTEMPT("movl $0x10, %%r8d\n movl $0x44050, (%%rcx)\n movl 0x20(%%rcx), %%r9d\n sti\n movw %%r8w, %%ss\n nop\n1: "
            "nop\n2: cli",
            "c"(0xfee00300ull));
    CHECK("STI then MOV SS: still one instruction later at most",
          irq_count == 1 && (irq_rip[0] == site || irq_rip[0] == site - 1));
    irq_count = 0;
    ATTEMPT("movl $0x44050, (%%rcx)\n movl 0x20(%%rcx), %%r8d\n sti\n hlt\n1: nop\n2: cli", "c"(0xfee00300ull));
    CHECK("STI, HLT: woken", irq_count == 1 && irq_rip[0] == site);
}

static void on_nmi(struct frame *f)
{
    nmi_count++;
    nmi_depth++;
    if (nmi_depth > nmi_max)
        nmi_max = nmi_depth;
    if (nmi_count == 1) {
        apic_write(0x310, apic_read(0x20));
        apic_write(0x300, 0x4400); /* NMI to itself */
        for (int i = 0; i < 100; i++)
            __asm__ volatile("pause");
        nmi_second = nmi_count;
    }
    nmi_depth--;
}

static void nmi(void)
{
    set_handler(2, on_nmi);
    apic_write(0x310, apic_read(0x20));
    apic_write(0x300, 0x4400);
    for (int i = 0; i < 1000 && nmi_count < 2; i++)
        __asm__ volatile("pause");
    CHECK_EQ("NMI is delivered with IF = 0; the second waits for IRET", nmi_count, 2);
    CHECK_EQ("NMIs do not nest", nmi_max, 1);
    CHECK_EQ("no NMI before IRET", nmi_second, 1);
    set_handler(2, NULL);
}

/* --- flags on the stack, gates --- */

static volatile uint64_t seen_flags, pushed_flags;
static void on_gate(struct frame *f)
{
    seen_flags = rflags();
    pushed_flags = f->rflags;
}

static void gates(void)
{
    set_handler(0x51, on_gate);
    set_gate(0x51, stub_of(0x51), 0, 0, 15);
    __asm__ volatile("sti; int $0x51; cli" ::: "memory");
    CHECK("trap gate leaves IF", (seen_flags & 0x200) && (pushed_flags & 0x200));
    set_gate(0x51, stub_of(0x51), 0, 0, 14);
    __asm__ volatile("sti; int $0x51; cli" ::: "memory");
    CHECK("interrupt gate clears IF", !(seen_flags & 0x200) && (pushed_flags & 0x200));
    __asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq; int $0x51; pushfq; andl $~0x40000, (%%rsp); popfq" ::
                         : "memory", "cc");
    CHECK("AC is kept by delivery without SMAP", seen_flags & 0x40000);
    /* RF in the pushed image: set for faults, clear for traps */
    ATTEMPT("1: ud2\n2:", "c"(0));
    LAX("does not push RF (SDM Vol. 3B, 17.3.1.1)");
    CHECK("RF is set in the image a fault pushes", fault.rflags & 0x10000);
    ATTEMPT("1: int3\n2:", "c"(0));
    CHECK("RF is clear in the image of INT3", fault.happened && !(fault.rflags & 0x10000));
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    tss_init();
    divide();
    software();
    undefined();
    privileged();
    not_available();
    loads();
    double_fault();
    alignment();
    shadow();
    nmi();
    gates();
    finish();
}
