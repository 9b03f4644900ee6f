/* Virtual-8086 mode: sensitive instructions by IOPL, interrupts, segments, VME and PVI (SDM Vol. 3B, 20). */
#include "guest32.h"

#define CODE 0x20000u /* real-mode segment 0x2000 */
#define STACK 0x30000u
enum { CF = 1, IF = 0x200, VM = 0x20000, VIF = 1 << 19, VIP = 1 << 20, IOPL3 = 0x3000, NT = 0x4000, AC = 1 << 18 };

static struct frame v86(const char *code, unsigned n, uint32_t flags)
{
    memcpy((void *)CODE, code, n);
    memcpy((void *)(CODE + n), "\xf4", 1); /* HLT: #GP in v86 mode, the way out */
    struct frame f;
    memset(&f, 0, sizeof(f));
    f.cs = CODE >> 4;
    f.eip = 0;
    f.eflags = VM | 2 | flags;
    f.ss = STACK >> 4;
    f.esp = 0x1000;
    f.v_ds = 0x2800;
    f.v_es = 0x2900;
    f.v_fs = 0x2a00;
    f.v_gs = 0x2b00;
    site = 0;
    site_next = n;
    run_frame(&f);
    return f;
}
#define V86(code, flags) v86(code, sizeof(code) - 1, flags)
/* Went through to the HLT. */
#define DONE(name) EXPECT_TRAP(name, 13, 0)

static void plain(void)
{
    struct frame f = V86("\x8c\xc8\x8c\xdb\x8c\xc1\x8c\xe2\x8c\xee", IOPL3);
    DONE("v86: runs to HLT, which is #GP");
    CHECK("v86: selectors", (uint16_t)f.eax == 0x2000 && (uint16_t)f.ebx == 0x2800 && (uint16_t)f.ecx == 0x2900 &&
                                (uint16_t)f.edx == 0x2a00 && (uint16_t)f.esi == 0x2b00);
    CHECK("v86: data segments on the inner stack",
          f.v_ds == 0x2800 && f.v_es == 0x2900 && f.v_fs == 0x2a00 && f.v_gs == 0x2b00);
    CHECK("v86: VM in the image", f.eflags & VM);
    CHECK("v86: DS, ES are null in the handler's entry", f.ds == 0 && f.es == 0 && f.fs == 0 && f.gs == 0);
    CHECK("v86: CS:IP and SS:SP", f.cs == 0x2000 && f.ss == 0x3000 && f.esp == 0x1000);
    *(volatile uint8_t *)(0x28000 + 0x34) = 0x99;
    f = V86("\xa0\x34\x00", IOPL3);
    CHECK("v86: base is selector * 16", (f.eax & 0xff) == 0x99);
    f = V86("\xb8\x00\x10\x8e\xd8\xb0\x55\xa2\x00\x00", IOPL3); /* mov ax,1000; mov ds,ax; mov al,55; mov [0],al */
    DONE("v86: loading DS makes no check");
    CHECK_EQ("v86: store", *(volatile uint8_t *)0x10000, 0x55);
    f = V86("\xbb\xff\xff\x8b\x07", IOPL3); /* mov bx,ffff; mov ax,[bx] */
    site = 3;
    LAX("does not check limits");
    EXPECT_FAULT("v86: word at 0xffff: #GP(0)", 13, 0);
    f = V86("\xbb\xff\xff\x8a\x07", IOPL3);
    DONE("v86: byte at 0xffff");
    f = V86("\x66\xbb\x00\x00\x01\x00\x67\x8a\x03", IOPL3); /* mov ebx,10000; mov al,[ebx] */
    site = 6;
    LAX("does not check limits");
    EXPECT_FAULT("v86: 32-bit offset beyond 64 KiB: #GP(0)", 13, 0);
    f = V86("\x0f\x01\xe0", IOPL3);
    DONE("v86: SMSW");
    V86("\x0f\x20\xc0", IOPL3);
    EXPECT_FAULT("v86: MOV from CR0: #GP", 13, 0);
    V86("\x0f\x00\xc8", IOPL3);
    EXPECT_FAULT("v86: STR: #UD", 6, 0);
    V86("\x0f\x02\xc0", IOPL3);
    EXPECT_FAULT("v86: LAR: #UD", 6, 0);
    V86("\x63\xc0", IOPL3);
    EXPECT_FAULT("v86: ARPL: #UD", 6, 0);
    V86("\x0f\x35", IOPL3);
    EXPECT_FAULT("v86: SYSEXIT: #GP", 13, 0);
    V86("\x0f\x06", IOPL3);
    EXPECT_FAULT("v86: CLTS: #GP", 13, 0);
    V86("\x0f\x0b", IOPL3);
    EXPECT_FAULT("v86: UD2", 6, 0);
    f = V86("\x31\xc9\xf7\xf1", IOPL3);
    site = 2;
    EXPECT_FAULT("v86: DIV by zero goes to the monitor", 0, 0);
    V86("\xe4\x80", IOPL3);
    EXPECT_FAULT("v86: IN goes by the I/O bitmap whatever IOPL is: #GP", 13, 0);
    /* I/O bitmap */
    tss[25] = 104 << 16;
    memset(tss + 26, 0xff, 8192 + 1);
    ((uint8_t *)tss)[104 + 16] = 0xfe;
    V86("\xe4\x80", 0);
    DONE("v86: IN allowed by the bitmap at IOPL 0");
    V86("\xe5\x80", 0);
    EXPECT_FAULT("v86: word IN needs both bits", 13, 0);
}

static void iopl(void)
{
    static const struct {
        const char *name, *code;
        uint8_t n;
    } t[] = {{"v86, IOPL 0: CLI", "\xfa", 1},        {"v86, IOPL 0: STI", "\xfb", 1},
             {"v86, IOPL 0: PUSHF", "\x9c", 1},      {"v86, IOPL 0: POPF", "\x9d", 1},
             {"v86, IOPL 0: INT n", "\xcd\x21", 2},  {"v86, IOPL 0: IRET", "\xcf", 1},
             {"v86, IOPL 0: PUSHFD", "\x66\x9c", 2}, {"v86, IOPL 0: IRETD", "\x66\xcf", 2}};
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct frame f = v86(t[i].code, t[i].n, 0);
        EXPECT_FAULT(t[i].name, 13, 0);
        if (f.esp != 0x1000)
            CHECK("SP stays", false);
    }
    struct frame f = V86("\xfa", IOPL3 | IF);
    DONE("v86, IOPL 3: CLI");
    CHECK("CLI cleared IF", !(f.eflags & IF));
    f = V86("\x9c\x58", IOPL3 | IF); /* pushf; pop ax */
    CHECK_EQ("v86, IOPL 3: PUSHF", (uint16_t)f.eax, 0x3202);
    f = V86("\x68\x00\x00\x9d", IOPL3 | IF); /* push 0; popf */
    CHECK("v86, IOPL 3: POPF changes IF, not IOPL", (f.eflags & (IF | IOPL3)) == IOPL3);
    f = V86("\x66\x9c\x66\x58", IOPL3); /* pushfd; pop eax */
    CHECK("v86: PUSHFD pushes VM as zero", !(f.eax & VM));
    f = V86("\x66\xb8\xd7\x4f\x26\x00\x66\x50\x66\x9d", IOPL3); /* popfd with many bits */
    CHECK("v86: POPFD cannot clear VM nor set IOPL", (f.eflags & VM) && (f.eflags & IOPL3) == IOPL3);
    /* IRET inside v86 */
    f = V86("\x68\x02\x02\x68\x00\x20\x68\x0d\x00\xcf\xf4\xf4\xf4", IOPL3);
    CHECK("v86, IOPL 3: IRET within v86", fault.eip == 0xd && (f.eflags & IF) && f.cs == 0x2000);
    /* INT n through the protected-mode IDT: needs a DPL 3 gate to ring 0 */
    f = V86("\xcd\x80", IOPL3);
    CHECK("v86, IOPL 3: INT n through the IDT",
          !fault.happened && f.vector == 0x80 && f.eip == 2 && (f.eflags & VM) && f.cs == 0x2000);
    f = V86("\xcd\x21", IOPL3);
    site = 0;
    EXPECT_FAULT("v86, IOPL 3: INT n through a gate of DPL 0: #GP", 13, 0x21 * 8 + 2);
    f = V86("\xcc", 0);
    EXPECT_FAULT("v86, IOPL 0: INT3 goes by the gate's DPL alone", 13, 3 * 8 + 2);
    set_idt(3, gate(8, stubs + 48, 0xee));
    f = V86("\xcc", 0);
    EXPECT_TRAP("v86, IOPL 0: INT3", 3, 0);
    set_idt(3, gate(8, stubs + 48, 0x8e));
    gdt[8] = segment(0, 0xfffff, 0x9e, 12);
    set_idt(0x80, gate(0x40, stubs + 16 * 0x80, 0xee));
    f = V86("\xcd\x80", IOPL3);
    site = 0;
    EXPECT_FAULT("v86: gate to conforming code: #GP(selector)", 13, 0x40);
    set_idt(0x80, gate(8, stubs + 16 * 0x80, 0xee));
}

static void vme(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    if (!(r[3] >> 1 & 1)) {
        skip("VME", "not offered");
        return;
    }
    write_cr4(read_cr4() | 1);
    struct frame f = V86("\xfb", 0);
    DONE("VME, IOPL 0: STI");
    CHECK("STI sets VIF, not IF", (f.eflags & (VIF | IF)) == VIF);
    f = V86("\xfa", VIF | IF);
    CHECK("CLI clears VIF, not IF", (f.eflags & (VIF | IF)) == IF);
    f = V86("\xfb", VIP);
    EXPECT_FAULT("STI with VIP: #GP", 13, 0);
    f = V86("\x9c\x58", VIF);
    CHECK_EQ("PUSHF: IF is VIF, IOPL is 3", (uint16_t)f.eax, 0x3202);
    f = V86("\x68\x02\x02\x9d", 0);
    CHECK("POPF: IF goes to VIF", (f.eflags & (VIF | IF | IOPL3)) == VIF);
    f = V86("\x68\x02\x03\x9d", 0);
    site = 3;
    EXPECT_FAULT("POPF with TF: #GP", 13, 0);
    f = V86("\x68\x02\x02\x9d", VIP);
    site = 3;
    EXPECT_FAULT("POPF that sets IF with VIP: #GP", 13, 0);
    V86("\x66\x9c", 0);
    EXPECT_FAULT("PUSHFD: #GP", 13, 0);
    V86("\x66\x9d", 0);
    EXPECT_FAULT("POPFD: #GP", 13, 0);
    /* interrupt redirection: 32 bytes below the I/O bitmap */
    tss[25] = (104 + 32) << 16;
    memset((uint8_t *)tss + 104 + 32, 0xff, 64);
    memset((uint8_t *)tss + 104, 0, 32); /* all redirected to the virtual-8086 program */
    *(volatile uint16_t *)(4 * 0x21) = 0x100;
    *(volatile uint16_t *)(4 * 0x21 + 2) = CODE >> 4;
    *(volatile uint8_t *)(CODE + 0x100) = 0xf4;
    f = V86("\xcd\x21", VIF | IF);
    CHECK("VME: INT n redirected to the program's handler",
          fault.vector == 13 && fault.eip == 0x100 && f.cs == CODE >> 4 && f.esp == 0xffa);
    CHECK("VME: IP, CS and FLAGS (IF from VIF, IOPL 3) on its stack", *(uint16_t *)(STACK + 0xffa) == 2 &&
                                                                          *(uint16_t *)(STACK + 0xffc) == CODE >> 4 &&
                                                                          *(uint16_t *)(STACK + 0xffe) == 0x3202);
    CHECK("VME: VIF cleared, IF kept", (f.eflags & (VIF | IF)) == IF);
    f = V86("\xcd\x21", IOPL3 | IF);
    CHECK("VME, IOPL 3: redirected; IF cleared", fault.vector == 13 && fault.eip == 0x100 && !(f.eflags & IF));
    /* IRET by VME */
    *(volatile uint8_t *)(CODE + 0x100) = 0xcf;
    f = V86("\xcd\x21", VIF | IF);
    CHECK("VME: IRET restores VIF", fault.eip == 2 && (f.eflags & (VIF | IF)) == (VIF | IF));
    ((uint8_t *)tss)[104 + 0x21 / 8] = 1 << (0x21 & 7);
    f = V86("\xcd\x21", 0);
    site = 0;
    EXPECT_FAULT("VME, IOPL 0: INT n not redirected: #GP(0)", 13, 0);
    f = V86("\xcd\x21", IOPL3);
    site = 0;
    EXPECT_FAULT("VME, IOPL 3: INT n not redirected: through the IDT", 13, 0x21 * 8 + 2);
    write_cr4(read_cr4() & ~1u);
    /* PVI: CLI and STI at CPL 3 in protected mode */
    write_cr4(read_cr4() | 2);
    static uint8_t u[8];
    memcpy(u, "\xfb\xcd\x80", 3);
    f = user_frame(u);
    run_frame(&f);
    LAX("has no PVI");
    CHECK("PVI: STI sets VIF", !fault.happened && (f.eflags & (VIF | IF)) == VIF);
    memcpy(u, "\xfa\xcd\x80", 3);
    f = user_frame(u);
    f.eflags |= VIF | IF;
    run_frame(&f);
    LAX("has no PVI");
    CHECK("PVI: CLI clears VIF", !fault.happened && (f.eflags & (VIF | IF)) == IF);
    memcpy(u, "\xfb\xcd\x80", 3);
    f = user_frame(u);
    f.eflags |= VIP;
    site = (uint32_t)u;
    run_frame(&f);
    EXPECT_FAULT("PVI: STI with VIP: #GP", 13, 0);
    write_cr4(read_cr4() & ~2u);
}

void guest_main(void)
{
    init();
    plain();
    iopl();
    vme();
    finish();
}
