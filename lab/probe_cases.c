/*
 * What ringer probe tries: every instruction that isa.def marks privileged or sensitive, in the operand forms that make
 * a difference. Encodings are hexadecimal; [rbx] is the data page, +0x20 a far pointer to behind the instruction, +0x30
 * one with the data selector 0x2b. Where control or state must go through the stack, "pre" prepares it.
 */
#include "lab/probe.h"

#define B PROBE_BOTH
#define L PROBE_64
#define S PROBE_32
#define T(f, m, fx, p, c, ...)                                                                                         \
    {                                                                                                                  \
        .form = f, .modes = m, .effect = fx, .pre = p, .code = c, ##__VA_ARGS__                                        \
    }

/* pushf; and dword [sp], ~IF */
#define PUSH_FLAGS_NO_IF "9c812424fffdffff"
/* pushf; or dword [sp], 3 << 12 */
#define PUSH_FLAGS_IOPL3 "9c810c2400300000"
/* 64-bit: push ss, rsp, flags without IF, cs, address behind a two-byte instruction */
#define IRETQ_FRAME "4889e08cd15150" PUSH_FLAGS_NO_IF "8cc951488d0d0300000051"
#define IRETD_FRAME PUSH_FLAGS_NO_IF "0ee80000000083042405"
/* return address and CS for RETF; the 32-bit one behind a one-byte instruction */
#define RETFQ_FRAME(n) "8cc951488d0d0" n "00000051"
#define RETFD_FRAME(n) "0ee800000000830424" n

const struct probe_case probe_cases[] = {
    /* Robin and Irvine's: the state of the machine shows. */
    T("sgdt [rbx]", B, FX_GDT, "", "0f0103"),
    T("sidt [rbx]", B, FX_IDT, "", "0f010b"),
    T("sldt ecx", B, FX_LDT, "", "0f00c1", .ecx = 0x5a5a5a5a),
    T("sldt [rbx]", B, FX_LDT, "", "0f0003"),
    T("str ecx", B, FX_TR, "", "0f00c9", .ecx = 0x5a5a5a5a),
    T("str [rbx]", B, FX_TR, "", "0f000b"),
    T("smsw ecx", B, FX_MSW, "", "0f01e1", .ecx = 0x5a5a5a5a),
    T("smsw [rbx]", B, FX_MSW, "", "0f0123"),
    T("pushf", B, FX_FLAGS_PUSHED, "", "9c"),
    T("popf, IF cleared", B, FX_IF, PUSH_FLAGS_NO_IF, "9d"),
    T("popf, IOPL 3", B, FX_IOPL, PUSH_FLAGS_IOPL3, "9d"),
    T("popf, CF set", B, FX_ARITH, "9c810c2401000000", "9d"),
    T("popf 16-bit, IF cleared", B, FX_IF, "669c66812424fffd", "669d"),
    T("lar eax, own CS", B, FX_LAR, "8cc9", "0f02c1", .eax = 0x5a5a5a5a),
    T("lar eax, 0x10 (kernel CS)", B, FX_LAR, "", "0f02c1", .eax = 0x5a5a5a5a, .ecx = 0x10),
    T("lsl eax, own CS", B, FX_LSL, "8cc9", "0f03c1", .eax = 0x5a5a5a5a),
    T("lsl eax, 0x7b (Linux: CPU number)", B, FX_LSL, "", "0f03c1", .eax = 0x5a5a5a5a, .ecx = 0x7b),
    T("lsl eax, 0x10 (kernel CS)", B, FX_LSL, "", "0f03c1", .eax = 0x5a5a5a5a, .ecx = 0x10),
    T("verr own CS", B, FX_VERIFY, "8cc9", "0f00e1"),
    T("verr 0x18 (kernel DS)", B, FX_VERIFY, "", "0f00e1", .ecx = 0x18),
    T("verw own SS", B, FX_VERIFY, "8cd1", "0f00e9"),
    T("verw 0x18 (kernel DS)", B, FX_VERIFY, "", "0f00e9", .ecx = 0x18),

    /* Segment registers */
    T("mov eax, cs", B, FX_CS, "", "8cc8", .eax = 0x5a5a5a5a),
    T("mov eax, ss", B, FX_SEL, "", "8cd0", .eax = 0x5a5a5a5a),
    T("mov eax, ds", B, FX_SEL, "", "8cd8", .eax = 0x5a5a5a5a),
    T("mov [rbx], cs", B, FX_CS, "", "8c0b"),
    T("mov ds, ax = 0", B, FX_SEL_LOADED, "", "8ed8"),
    T("mov ds, ax = 0x2b (user DS)", B, FX_SEL_LOADED, "", "8ed8", .eax = 0x2b),
    T("mov ds, ax = 0x18 (kernel DS)", B, FX_SEL_LOADED, "", "8ed8", .eax = 0x18),
    T("mov ss, ax = 0x2b (user DS)", B, FX_SEL_LOADED, "", "8ed0", .eax = 0x2b),
    T("mov ss, ax = 0x18 (kernel DS)", B, FX_SEL_LOADED, "", "8ed0", .eax = 0x18),
    T("push cs", S, FX_CPL_STACK, "", "0e"),
    T("push ss", S, FX_SEL, "", "16"),
    T("push ds", S, FX_SEL, "", "1e"),
    T("push es", S, FX_SEL, "", "06"),
    T("push fs", B, FX_SEL, "", "0fa0"),
    T("push gs", B, FX_SEL, "", "0fa8"),
    T("pop es, 0x2b", S, FX_SEL_LOADED, "6a2b", "07", .eax = 0x2b),
    T("pop ds, 0x2b", S, FX_SEL_LOADED, "6a2b", "1f", .eax = 0x2b),
    T("pop ss, 0x2b", S, FX_SEL_LOADED, "6a2b", "17", .eax = 0x2b),
    T("pop ss, 0x18 (kernel DS)", S, FX_SEL_LOADED, "6a18", "17", .eax = 0x18),
    T("pop fs, 0x2b", B, FX_SEL_LOADED, "6a2b", "0fa1", .eax = 0x2b),
    T("pop gs, 0x2b", B, FX_SEL_LOADED, "6a2b", "0fa9", .eax = 0x2b),
    T("pop gs, 0x18 (kernel DS)", B, FX_SEL_LOADED, "6a18", "0fa9", .eax = 0x18),
    T("les edx, [ebx+0x30]", S, FX_SEL_LOADED, "", "c45330", .eax = 0x2b),
    T("lds edx, [ebx+0x30]", S, FX_SEL_LOADED, "", "c55330", .eax = 0x2b),
    T("lss edx, [rbx+0x30]", B, FX_SEL_LOADED, "", "0fb25330", .eax = 0x2b),
    T("lfs edx, [rbx+0x30]", B, FX_SEL_LOADED, "", "0fb45330", .eax = 0x2b),
    T("lgs edx, [rbx+0x30]", B, FX_SEL_LOADED, "", "0fb55330", .eax = 0x2b),
    T("swapgs", L, FX_EFFECT, "", "0f01f8"),

    /* Control transfers through segments and gates */
    T("call far ptr", S, FX_CPL_STACK, "", "9a@"),
    T("jmp far ptr", S, FX_FAR_TAKEN, "", "ea@"),
    T("call far [rbx+0x20]", B, FX_CPL_STACK, "", "ff5b20"),
    T("jmp far [rbx+0x20]", B, FX_FAR_TAKEN, "", "ff6b20"),
    T("call far, selector 0x10 (kernel CS)", B, FX_CPL_STACK, "66c743241000", "ff5b20"),
    T("ret far", S, FX_FAR_TAKEN, RETFD_FRAME("05"), "cb"),
    T("ret far", L, FX_FAR_TAKEN, RETFQ_FRAME("3"), "48cb"),
    T("ret far 0", S, FX_FAR_TAKEN, RETFD_FRAME("07"), "ca0000"),
    T("ret far 0", L, FX_FAR_TAKEN, RETFQ_FRAME("5"), "48ca0000"),
    T("ret far, selector 0x10 (kernel CS)", S, FX_FAR_TAKEN, "6a106a00", "cb"),
    T("ret far, selector 0x10 (kernel CS)", L, FX_FAR_TAKEN, "6a106a00", "48cb"),
    T("iret, IF cleared", S, FX_IF, IRETD_FRAME, "cf"),
    T("iret, IF cleared", L, FX_IF, IRETQ_FRAME, "48cf"),
    T("iret, selector 0x10 (kernel CS)", S, FX_FAR_TAKEN, "9c6a106a00", "cf"),
    T("iret, selector 0x10 (kernel CS)", L, FX_FAR_TAKEN, "6a2b6a009c6a106a00", "48cf"),
    T("int 0x80", B, FX_EFFECT, "", "cd80", .eax = 20),
    T("int 0x21", B, FX_EFFECT, "", "cd21"),
    T("int 0x0e (#PF)", B, FX_EFFECT, "", "cd0e"),
    T("int3", B, FX_EFFECT, "", "cc"),
    T("int1", B, FX_EFFECT, "", "f1"),
    T("into, OF = 1", S, FX_EFFECT, "", "ce", .flh = 0x800),
    T("into, OF = 0", S, FX_NOTHING, "", "ce"),
    T("syscall", L, FX_EFFECT, "", "0f05", .eax = 39),
    T("sysenter", B, FX_EFFECT, "", "0f34", .eax = 20),
    T("sysret", L, FX_EFFECT, "", "480f07", .ecx = PROBE_CODE),
    T("sysexit", B, FX_EFFECT, "", "0f35", .edx = PROBE_CODE, .ecx = PROBE_STACK),

    /* What reports on the processor */
    T("cpuid leaf 0", B, FX_CPUID, "", "0fa2"),
    T("cpuid after ARCH_SET_CPUID", B, FX_CPUID, "", "0fa2", .setup = PROBE_NO_CPUID),
    T("rdtsc", B, FX_TSC, "", "0f31"),
    T("rdtsc after PR_SET_TSC", B, FX_TSC, "", "0f31", .setup = PROBE_NO_TSC),
    T("rdtscp", B, FX_TSC, "", "0f01f9"),
    T("rdtscp after PR_SET_TSC", B, FX_TSC, "", "0f01f9", .setup = PROBE_NO_TSC),
    T("rdpid ecx", B, FX_PID, "", "f30fc7f9"),
    T("rdpid ecx after PR_SET_TSC", B, FX_PID, "", "f30fc7f9", .setup = PROBE_NO_TSC),
    T("rdpmc, counter 0", B, FX_PMC, "", "0f33"),
    T("xgetbv, XCR0", B, FX_XCR, "", "0f01d0"),

    /* Privileged: interrupts and I/O */
    T("cli", B, FX_IF, "", "fa"),
    T("sti", B, FX_NOTHING, "", "fb"),
    T("hlt", B, FX_NOTHING, "", "f4"),
    T("in al, 0x80", B, FX_EFFECT, "", "e480"),
    T("in eax, 0x80", B, FX_EFFECT, "", "e580"),
    T("out 0x80, al", B, FX_EFFECT, "", "e680"),
    T("out 0x80, eax", B, FX_EFFECT, "", "e780"),
    T("in al, dx = 0x80", B, FX_EFFECT, "", "ec", .edx = 0x80),
    T("in eax, dx = 0x80", B, FX_EFFECT, "", "ed", .edx = 0x80),
    T("out dx = 0x80, al", B, FX_EFFECT, "", "ee", .edx = 0x80),
    T("out dx = 0x80, eax", B, FX_EFFECT, "", "ef", .edx = 0x80),
    T("insb, dx = 0x80", B, FX_EFFECT, "", "6c", .edx = 0x80),
    T("insd, dx = 0x80", B, FX_EFFECT, "", "6d", .edx = 0x80),
    T("outsb, dx = 0x80", B, FX_EFFECT, "", "6e", .edx = 0x80),
    T("outsd, dx = 0x80", B, FX_EFFECT, "", "6f", .edx = 0x80),

    /* Privileged: tables, control and debug registers, MSRs */
    T("lgdt [rbx]", B, FX_EFFECT, "", "0f0113"),
    T("lidt [rbx]", B, FX_EFFECT, "", "0f011b"),
    T("lldt ax = 0", B, FX_EFFECT, "", "0f00d0"),
    T("ltr ax = 0x40", B, FX_EFFECT, "", "0f00d8", .eax = 0x40),
    T("lmsw ax", B, FX_EFFECT, "", "0f01f0", .eax = 0x33),
    T("clts", B, FX_EFFECT, "", "0f06"),
    T("mov rax, cr0", B, FX_EFFECT, "", "0f20c0"),
    T("mov rax, cr2", B, FX_EFFECT, "", "0f20d0"),
    T("mov rax, cr3", B, FX_EFFECT, "", "0f20d8"),
    T("mov rax, cr4", B, FX_EFFECT, "", "0f20e0"),
    T("mov rax, cr8", L, FX_EFFECT, "", "440f20c0"),
    T("mov cr0, rax", B, FX_EFFECT, "", "0f22c0"),
    T("mov cr3, rax", B, FX_EFFECT, "", "0f22d8"),
    T("mov cr4, rax", B, FX_EFFECT, "", "0f22e0"),
    T("mov cr8, rax", L, FX_EFFECT, "", "440f22c0"),
    T("mov rax, dr0", B, FX_EFFECT, "", "0f21c0"),
    T("mov rax, dr7", B, FX_EFFECT, "", "0f21f8"),
    T("mov dr0, rax", B, FX_EFFECT, "", "0f23c0"),
    T("mov dr7, rax", B, FX_EFFECT, "", "0f23f8", .eax = 0x400),
    T("rdmsr, IA32_TSC", B, FX_EFFECT, "", "0f32", .ecx = 0x10),
    T("wrmsr, IA32_TSC_AUX", B, FX_EFFECT, "", "0f30", .ecx = 0xc0000103),
    T("xsetbv, XCR0", B, FX_EFFECT, "", "0f01d1", .eax = 7),
    T("xsaves [rbx]", B, FX_EFFECT, "", "0fc72b", .eax = 1),
    T("xsaves64 [rbx]", L, FX_EFFECT, "", "480fc72b", .eax = 1),
    T("xrstors [rbx]", B, FX_EFFECT, "", "0fc71b", .eax = 1),
    T("xrstors64 [rbx]", L, FX_EFFECT, "", "480fc71b", .eax = 1),
    T("stac", B, FX_NOTHING, "", "0f01cb"),
    T("clac", B, FX_NOTHING, "", "0f01ca"),

    /* Privileged: caches, translations, waiting */
    T("invd", B, FX_NOTHING, "", "0f08"),
    T("wbinvd", B, FX_NOTHING, "", "0f09"),
    T("wbnoinvd", B, FX_NOTHING, "", "f30f09"),
    T("invlpg [rbx]", B, FX_NOTHING, "", "0f013b"),
    T("invpcid rax, [rbx]", B, FX_NOTHING, "", "660f388203"),
    T("monitor", B, FX_NOTHING, "", "0f01c8", .eax = PROBE_DATA),
    T("mwait", B, FX_NOTHING, "", "0f01c9"),
    T("rsm", B, FX_NOTHING, "", "0faa"),

    /* Virtualization and enclaves */
    T("vmcall, no such call", B, FX_HYPERCALL, "", "0f01c1", .eax = 0x5a5a5a5a),
    T("vmmcall, no such call", B, FX_HYPERCALL, "", "0f01d9", .eax = 0x5a5a5a5a),
    T("vmfunc 63", B, FX_NOTHING, "", "0f01d4", .eax = 63),
    T("vmlaunch", B, FX_EFFECT, "", "0f01c2"),
    T("vmresume", B, FX_EFFECT, "", "0f01c3"),
    T("vmxoff", B, FX_EFFECT, "", "0f01c4"),
    T("vmxon [rbx]", B, FX_EFFECT, "", "f30fc733"),
    T("vmptrld [rbx]", B, FX_EFFECT, "", "0fc733"),
    T("vmptrst [rbx]", B, FX_EFFECT, "", "0fc73b"),
    T("vmclear [rbx]", B, FX_EFFECT, "", "660fc733"),
    T("vmread ecx, eax", B, FX_EFFECT, "", "0f78c1"),
    T("vmwrite eax, ecx", B, FX_EFFECT, "", "0f79c1"),
    T("invept rax, [rbx]", B, FX_EFFECT, "", "660f388003"),
    T("invvpid rax, [rbx]", B, FX_EFFECT, "", "660f388103"),
    T("stgi", B, FX_EFFECT, "", "0f01dc"),
    T("clgi", B, FX_EFFECT, "", "0f01dd"),
    T("getsec, leaf 63", B, FX_EFFECT, "", "0f37", .eax = 63),
    T("encls, leaf 255", B, FX_EFFECT, "", "0f01cf", .eax = 255),
    T("enclu, leaf 255", B, FX_EFFECT, "", "0f01d7", .eax = 255),
    T("enclv, leaf 255", B, FX_EFFECT, "", "0f01c0", .eax = 255),
};
const unsigned probe_ncases = sizeof(probe_cases) / sizeof(probe_cases[0]);
