/* Mode transitions: 64-bit to compatibility, 32-bit, 16-bit protected and real mode and back; what each mode does
 * differently (SDM Vol. 3A, 9.8, 9.9; Vol. 3B, 20.1). */
#include "attempt.h"

#define LOW 0x10000u /* the 16-bit code is copied there; its offsets count from low_start */

__asm__(
    ".pushsection .text.modes,\"ax\"\n"
    /* void go_real(uint32_t offset) */
    ".code64\n.globl go_real\n"
    "go_real: pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
    " movq %rsp, saved_rsp; sidt saved_idt\n"
    " movw %di, 0x10000 + (low_off - low_start)\n"
    " pushq $0x18; pushq $1f; lretq\n"
    ".code32\n"
    "1: movl %cs, %eax; movl %eax, seen_cs32\n"
    " movl %cr0, %eax; andl $0x7fffffff, %eax; movl %eax, %cr0\n" /* leaves long mode */
    " movl $0xc0000080, %ecx; rdmsr; movl %eax, seen_efer; andl $~0x100, %eax; wrmsr\n"
    " movl %cr4, %eax; andl $~0x20, %eax; movl %eax, %cr4\n"
    " ljmp $0x60, $(lm_prot16 - low_start)\n"
    "back32: movl $0x10, %eax; movl %eax, %ds; movl %eax, %es; movl %eax, %ss; movl saved_rsp, %esp\n"
    " call to_long\n"
    ".code64\n"
    " movq saved_rsp, %rsp; lidt saved_idt\n"
    " popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx; ret\n"
    ".globl low_start, low_end\n"
    ".code16\n"
    "low_start:\n"
    "lm_prot16: movw $0x68, %ax; movw %ax, %ds; movw %ax, %es; movw %ax, %ss; movw %ax, %fs; movw %ax, %gs; movw "
    "$0xf000, %sp\n"
    " call prot16_test\n"
    " movl %cr0, %eax; andb $0xfe, %al; movl %eax, %cr0\n"
    " ljmp $0x1000, $(lm_real - low_start)\n"
    "lm_real: movw %cs, %ax; movw %ax, %ds; movw %ax, %es; movw %ax, %ss; movw $0xf000, %sp\n"
    " xorw %ax, %ax; movw %ax, %fs; movw %ax, %gs\n"
    " lidtl (real_idt - low_start)\n"
    " xorl %eax, %eax; xorl %ebx, %ebx; xorl %ecx, %ecx; xorl %edx, %edx; xorl %esi, %esi; xorl %edi, %edi\n"
    " call *(low_off - low_start)\n"
    " cli; cld; movw %cs, %ax; movw %ax, %ds\n"
    " lgdtl (low_gdtr - low_start)\n"
    " movl %cr0, %eax; orb $1, %al; movl %eax, %cr0\n"
    " ljmpl $0x18, $back32\n"
    ".balign 4\nreal_idt: .word 0x3ff\n .long 0\n"
    "low_gdtr: .word 255\n .long gdt\n"
    "low_off: .word 0\n .balign 8\n"
    "res: .skip 64\n"
    /* 16-bit protected mode: operand and stack sizes */
    "prot16_test: movw %sp, %bx; pushw $0x1234; movw %sp, %cx; popw %ax; pushl $0x12345678; movw %sp, %dx; popl %eax\n"
    " subw %bx, %cx; subw %bx, %dx; movw %cx, (res - low_start + 40); movw %dx, (res - low_start + 42); movl %eax, "
    "(res - low_start + 44)\n"
    " movw %cs, (res - low_start + 48); smsw %ax; movw %ax, (res - low_start + 50)\n"
    " call 3f\n3: popw %ax; subw $(3b - low_start), %ax; movw %ax, (res - low_start + 52)\n" /* near call pushes IP as
                                                                                                offset */
    " ret\n"
    /* real mode: addressing */
    "rt_addr: movw %cs, (res - low_start); movw $(res - low_start), %bx; movw $2, %si; movw $0xbeef, (%bx,%si)\n"
    " movw $(res - low_start - 0x100), %bp; movw $0x77, %di; movw $0xcafe, %ds:0x104-0x77(%bp,%di)\n"
    " movw $0xffff, %bx; movw $(res - low_start + 7), %si; movw $0x1111, (%bx,%si)\n" /* effective address wraps at 64
                                                                                         KiB */
    " movl $(res - low_start + 8), %ebx; movl $0x22334455, (%ebx)\n"
    " movl $4, %ecx; movl %ecx, 8(%ebx,%ecx)\n"
    " movw $0xffff, %ax; movw %ax, %es; movw $0x10, %di; movb %es:(%di), %al; movb %al, (res - low_start + 16)\n" /* 1
                                                                                                                     MiB
                                                                                                                   */
    " smsw %ax; movw %ax, (res - low_start + 18); ret\n"
    /* interrupts */
    "rt_int: movl %cs, %eax; shll $16, %eax; movw $(h60 - low_start), %ax; movl %eax, %fs:0x60*4\n"
    " movw $(h0 - low_start), %ax; movl %eax, %fs:0\n movw $(h6 - low_start), %ax; movl %eax, %fs:24\n"
    " movw $(h13 - low_start), %ax; movl %eax, %fs:52\n movw $(h12 - low_start), %ax; movl %eax, %fs:48\n"
    " movw %sp, %bx; sti; int $0x60\ni60: cli; cmpw %bx, %sp; sete (res - low_start + 12)\n"
    " xorw %cx, %cx; d0: divw %cx\n"
    "d1: .byte 0x0f, 0x02, 0xc0\n" /* LAR: #UD in real mode */
    "d2: movw $0xffff, %bx; d3: movw (%bx), %ax\n"
    "d4: movl $0x10000, %ebx; d5: movb (%ebx), %al\n"
    "d6: nop; movw $0xffff, %bp; d7: movw (%bp), %ax\n"
    "d8: ret\n"
    "h60: pushw %bp; movw %sp, %bp; pushfw; popw (res - low_start + 8); movw 2(%bp), %ax; movw %ax, (res - low_start); "
    "movw 4(%bp), %ax\n"
    " movw %ax, (res - low_start + 2); movw 6(%bp), %ax; movw %ax, (res - low_start + 4); popw %bp; iret\n"
    "h0: movw %sp, %bp; movw (%bp), %ax; movw %ax, (res - low_start + 14); movw $(d1 - low_start), (%bp); iret\n"
    "h6: movw %sp, %bp; movw (%bp), %ax; movw %ax, (res - low_start + 16); movw $(d2 - low_start), (%bp); iret\n"
    "h13: movw %sp, %bp; movw (%bp), %ax; incw (res - low_start + 18); cmpw $(d3 - low_start), %ax; jne 1f\n"
    " movw %ax, (res - low_start + 20); movw $(d4 - low_start), (%bp); iret\n"
    "1: movw %ax, (res - low_start + 22); movw $(d6 - low_start), (%bp); iret\n"
    "h12: movw %sp, %bp; movw (%bp), %ax; movw %ax, (res - low_start + 24); movw $(d8 - low_start), (%bp); iret\n"
    /* big real mode: a 4 GiB limit from protected mode survives */
    "rt_unreal: cli; lgdtl (low_gdtr - low_start); movl %cr0, %eax; orb $1, %al; movl %eax, %cr0; jmp 1f\n"
    "1: movw $0x10, %bx; movw %bx, %gs; andb $0xfe, %al; movl %eax, %cr0; jmp 1f\n"
    "1: movl $unreal_word, %ebx; movl %gs:(%ebx), %eax; movl %eax, (res - low_start); movl $0x600df00d, %gs:(%ebx)\n"
    " movw %gs, (res - low_start + 4); xorw %bx, %bx; movw %bx, %gs; movl $unreal_word, %ebx; movl %gs:(%ebx), %eax; "
    "movl %eax, (res - low_start + 8)\n"
    " ret\n" /* loading a selector in real mode changes base only */
    /* LMSW in and out is one way: PE cannot be cleared by it */
    "rt_lmsw: cli; lgdtl (low_gdtr - low_start); smsw %ax; orb $1, %al; lmsw %ax; jmp 1f\n"
    "1: xorw %ax, %ax; lmsw %ax; smsw %ax; movw %ax, (res - low_start)\n"
    " movl %cr0, %eax; andb $0xfe, %al; movl %eax, %cr0; ljmp $0x1000, $(1f - low_start)\n1: ret\n"
    /* stack and string wrap, 16-bit counters */
    "rt_misc: movl $0x10003, %ecx; xorw %ax, %ax; 1: incw %ax; loop 1b; movw %ax, (res - low_start); movl %ecx, (res - "
    "low_start + 4)\n"
    " movw $0x3000, %ax; movw %ax, %es; movw $0xfffe, %di; movl $0x20004, %ecx; movb $0x5a, %al; cld; rep stosb\n"
    " movw %di, (res - low_start + 8); movl %ecx, (res - low_start + 12)\n"
    " pushw %sp; popw %ax; subw %sp, %ax; movw %ax, (res - low_start + 16)\n"
    " movw %ss, %bx; movw %sp, %dx; movw $0x2000, %ax; movw %ax, %ss; xorw %sp, %sp; pushw $0x4321; movw %sp, %cx; "
    "movw %bx, %ss; movw %dx, %sp\n"
    " movw %cx, (res - low_start + 18)\n"
    " pushl $0; popfl; pushfl; popl %eax; movl %eax, (res - low_start + 20); ret\n"
    "low_end:\n"
    ".code64\n.popsection\n"
    ".data\n.globl saved_rsp\nsaved_rsp: .quad 0\nsaved_idt: .skip 16\nseen_cs32: .long 0\nseen_efer: .long "
    "0\nunreal_word: .long 0xfeedface\n.text\n");
extern uint8_t low_start[], low_end[], res[], rt_addr[], rt_int[], rt_unreal[], rt_lmsw[], rt_misc[], d0[], d1[], d3[],
    d5[], d7[], i60[];
extern volatile uint32_t seen_cs32, seen_efer, unreal_word;
void go_real(uint32_t offset);
#define OFF(l) ((uint32_t)((l)-low_start))
#define R16(n) (*(volatile uint16_t *)(uint64_t)(LOW + OFF(res) + (n)))
#define R32(n) (*(volatile uint32_t *)(uint64_t)(LOW + OFF(res) + (n)))

static void real(void)
{
    memcpy((void *)(uint64_t)LOW, low_start, (size_t)(low_end - low_start));
    gdt[12] = 0x00009b010000ffffull; /* 60: 16-bit code, base 0x10000 */
    gdt[13] = 0x000093010000ffffull; /* 68: 16-bit data */
    *(volatile uint8_t *)0x100000 = *(volatile uint8_t *)0x100000;
    go_real(OFF(rt_addr));
    CHECK_EQ("compatibility mode: CS", seen_cs32 & 0xffff, 0x18);
    CHECK_EQ("LMA clears when paging goes off", seen_efer & 0x500, 0x100);
    CHECK("16-bit protected mode: PUSH is 2 or 4 bytes",
          (int16_t)R16(40) == -2 && (int16_t)R16(42) == -4 && R32(44) == 0x12345678);
    CHECK("16-bit protected mode: CS, PE", R16(48) == 0x60 && (R16(50) & 1));
    CHECK_EQ("16-bit protected mode: CALL pushes IP", R16(52), 0);
    CHECK_EQ("real mode: CS", R16(0), 0x1000);
    CHECK_EQ("real mode: [BX+SI]", R16(2), 0xbeef);
    CHECK_EQ("real mode: DS:[BP+DI+disp16]", R16(4), 0xcafe);
    CHECK_EQ("real mode: the effective address wraps at 64 KiB", R16(6), 0x1111);
    CHECK_EQ("real mode: 32-bit address size", R32(8), 0x22334455);
    CHECK_EQ("real mode: scaled-index form", R32(20), 4);
    CHECK_EQ("real mode: FFFF:0010 is 1 MiB (A20 on)", R16(16) & 0xff, *(volatile uint8_t *)0x100000);
    CHECK_EQ("real mode: PE clear", R16(18) & 1, 0);
    CHECK_EQ("back in 64-bit mode: LMA", rdmsr(0xc0000080) & 0x500, 0x500);

    memset((void *)(uint64_t)(LOW + OFF(res)), 0, 40);
    go_real(OFF(rt_int));
    CHECK("real mode INT: IP and CS on the stack", R16(0) == OFF(i60) && R16(2) == 0x1000);
    CHECK("real mode INT: FLAGS on the stack have IF, the handler's not", (R16(4) & 0x200) && !(R16(8) & 0x300));
    CHECK_EQ("real mode IRET: SP restored", R16(12) & 0xff, 1);
    CHECK_EQ("real mode #DE: IP of the instruction", R16(14), OFF(d0) + (uint32_t)(d1 - d0) - 2);
    CHECK_EQ("real mode LAR: #UD", R16(16), OFF(d1));
    LAX("does not check limits");
    CHECK_EQ("real mode: word at 0xffff: #GP, no error code", R16(20), OFF(d3));
    LAX("does not check limits");
    CHECK_EQ("real mode: offset 0x10000: #GP", R16(22), OFF(d5));
    LAX("does not check limits");
    CHECK_EQ("real mode: stack-based word at 0xffff: #SS", R16(24), OFF(d7));

    unreal_word = 0xfeedface;
    go_real(OFF(rt_unreal));
    CHECK_EQ("big real mode: read above 1 MiB", R32(0), 0xfeedface);
    CHECK_EQ("big real mode: write above 1 MiB", unreal_word, 0x600df00d);
    CHECK_EQ("the selector is kept", R16(4), 0x10);
    CHECK_EQ("a real-mode load keeps the limit", R32(8), 0x600df00d);

    go_real(OFF(rt_lmsw));
    CHECK_EQ("LMSW sets PE and cannot clear it", R16(0) & 1, 1);

    go_real(OFF(rt_misc));
    CHECK("LOOP uses CX alone", R16(0) == 3 && R32(4) == 0x10000);
    CHECK("REP STOSB uses CX and DI, DI wraps", R16(8) == 2 && R32(12) == 0x20000);
    CHECK("REP STOSB: data at both ends of the segment",
          *(volatile uint8_t *)0x3ffff == 0x5a && *(volatile uint8_t *)0x30001 == 0x5a);
    CHECK_EQ("PUSH SP pushes the old value", R16(16), 0);
    CHECK_EQ("SP wraps from 0 to 0xfffe", R16(18), 0xfffe);
    CHECK_EQ("PUSHFD: bit 1", R32(20) & 0xfffff, 2);
    unsigned good = 0;
    for (int i = 0; i < 200; i++) {
        R16(0) = 0;
        go_real(OFF(rt_lmsw));
        good += (R16(0) & 1) && (rdmsr(0xc0000080) & 0x400);
    }
    CHECK_EQ("200 round trips", good, 200);
}

/* --- compatibility mode as a user, and 64-bit mode --- */

__asm__(".pushsection .text.modes,\"ax\"\n.code32\n"
        "compat_user: movl %cs, %eax; movl %esp, %ecx; incl %edi; movl $-1, %edx; pushl %edx; popl %ebx; les (%esi), "
        "%esi; .byte 0x40; int $0x80\n"
        ".code64\n"
        "sc_user: movq %rsp, %rbx; syscall; int $0x80\n"
        "sc_entry: movl %cs, %eax; movl %ss, %edx; movq %rsp, %rsi; pushfq; popq %rdi; movq %rcx, %r12; sysretq\n"
        ".code64\n.popsection");
extern uint8_t compat_user[], sc_user[], sc_entry[];

static volatile uint64_t saved_probe = 0x1122334455667788ull;

static void compat(void)
{
    static struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) ptr = {0x1234, 0x33};
    struct frame f = user_frame(compat_user);
    f.cs = 0x43;
    f.rax = f.rdi = 0xffffffffffffffffull;
    f.rsi = (uint64_t)&ptr;
    __asm__ volatile("movw %w0, %%ds" ::"r"(0x33)); /* one of DPL 0 would be nulled on the way out */
    run_frame(&f);
    __asm__ volatile("movw %w0, %%ds" ::"r"(0x10));
    if (fault.happened)
        print("  vector %u error %lx rip %lx (+%lx)\n", fault.vector, fault.error, fault.rip,
              fault.rip - (uint64_t)compat_user);
    CHECK("compatibility mode at CPL 3 runs", !fault.happened && f.vector == 0x80 && f.cs == 0x43);
    CHECK_EQ("MOV from CS and 40 as INC EAX", f.rax, 0x44);
    CHECK_EQ("32-bit results are zero-extended", f.rdi, 0);
    CHECK_EQ("PUSH and POP of 32 bits", f.rbx, 0xffffffff);
    CHECK_EQ("LES works", f.rsi, 0x1234);
    __asm__ volatile("movw %w0, %%es" ::"r"(0x10));
    /* SYSCALL and SYSRET: STAR 63:48 + 16 is user CS, + 8 is SS; 47:32 kernel CS, + 8 SS */
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
    gdt[14] = gdt[6];
    gdt[15] = gdt[7]; /* 70: user data, 78: user code */
    wrmsr(0xc0000081, (uint64_t)(0x68 | 3) << 48 | 8ull << 32);
    wrmsr(0xc0000082, (uint64_t)sc_entry);
    wrmsr(0xc0000084, 0x40000 | 0x400 | 1);
    f = user_frame(sc_user);
    f.rflags = 0x443;
    run_frame(&f);
    CHECK("SYSCALL and SYSRET", !fault.happened && f.vector == 0x80 && f.rip == (uint64_t)sc_user + 7);
    CHECK("SYSCALL: CS and SS", (uint16_t)f.rax == 8 && (uint16_t)f.rdx == 0x10);
    CHECK("SYSCALL: RSP untouched", f.rsi == f.rbx);
    LAX("loses the arithmetic flags");
    CHECK_EQ("SYSCALL: FMASK clears flags", f.rdi & 0x443, 0x42);
    CHECK_EQ("SYSCALL: RCX is the return address", f.r12, (uint64_t)sc_user + 5);
    CHECK_EQ("SYSCALL: R11 is RFLAGS", f.r11 & ~0x10000ull, 0x443);
    CHECK("SYSRET: CS, SS, RFLAGS", f.cs == 0x7b && f.ss == 0x73 && (f.rflags & 0x443) == 0x443);
    if (!lax("SYSRET to a non-canonical address", "returns (SDM Vol. 2B, SYSRET)")) {
        ATTEMPT("movq %%rcx, %%r8; movabsq $0x800000000000, %%rcx; movl $2, %%r11d\n1: sysretq\n2: movq %%r8, %%rcx",
                "c"(0));
        EXPECT_FAULT("SYSRET to a non-canonical address: #GP at CPL 0", 13, 0);
    }
    /* SWAPGS */
    wrmsr(0xc0000101, 0x1111);
    wrmsr(0xc0000102, 0x2222);
    __asm__ volatile("swapgs");
    CHECK("SWAPGS", rdmsr(0xc0000101) == 0x2222 && rdmsr(0xc0000102) == 0x1111);
    wrmsr(0xc0000101, 0);
    /* call gate 64 from user to kernel */
    __asm__(".pushsection .text.modes,\"ax\"\ncg_user: lcall *(%rdi); int $0x80\ncg_entry: movl %cs, %eax; movl %ss, "
            "%edx; movq 24(%rsp), %rsi; movq 16(%rsp), %rbx; lretq\n.popsection");
    extern uint8_t cg_user[], cg_entry[];
    uint64_t e = (uint64_t)cg_entry;
    gdt[16] = (e & 0xffff) | 8ull << 16 | 0xecull << 40 | (e >> 16 & 0xffff) << 48;
    gdt[17] = e >> 32;
    static struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) gp = {0, 0x83};
    f = user_frame(cg_user);
    f.rdi = (uint64_t)&gp;
    uint64_t rsp = f.rsp;
    run_frame(&f);
    CHECK("64-bit call gate and far RET", !fault.happened && f.vector == 0x80 && f.cs == 0x3b && f.rsp == rsp);
    CHECK("64-bit call gate: CS, and SS is null", (uint16_t)f.rax == 8 && (uint16_t)f.rdx == 0);
    CHECK("64-bit call gate: SS and RSP pushed as quads", f.rsi == 0x33 && f.rbx == rsp);
    gdt[17] |= 0x1ull << 40; /* upper half: type must be 0 */
    f = user_frame(cg_user);
    f.rdi = (uint64_t)&gp;
    run_frame(&f);
    LAX("does not check it (SDM Vol. 3A, 5.8.3.1)");
    CHECK("64-bit call gate with a type in its upper half: #GP",
          fault.happened && fault.vector == 13 && fault.error == 0x80);
    gdt[16] = gdt[17] = 0;
    /* IRET in 64-bit mode pops SS:RSP always; null SS to CPL 0 */
    uint64_t s1, s2;
    __asm__ volatile("movq %%rsp, %0; movq %%rsp, %%rax; pushq $0; pushq %%rax; pushfq; pushq $8; leaq 1f(%%rip), "
                     "%%rax; pushq %%rax; iretq\n1: movq %%rsp, %1"
                     : "=&r"(s1), "=&r"(s2)::"rax", "memory", "cc");
    CHECK_EQ("IRETQ to the same level pops RSP", s2, s1);
    __asm__ volatile("movw %w0, %%ss" ::"r"(0x10));
    /* 64-bit mode details */
    uint64_t v;
    __asm__ volatile("movq $-1, %%rax; movl $1, %%eax; movq %%rax, %0" : "=r"(v)::"rax");
    CHECK_EQ("32-bit writes clear the upper half", v, 1);
    __asm__ volatile("movq $-1, %%rax; movw $1, %%ax; movq %%rax, %0" : "=r"(v)::"rax");
    CHECK_EQ("16-bit writes do not", v, 0xffffffffffff0001ull);
    __asm__ volatile("movw %w1, %%ds; movq (%2), %0; movw %w3, %%ds" : "=&r"(v) : "r"(0), "r"(&saved_probe), "r"(0x10));
    CHECK_EQ("a null DS does not matter in 64-bit mode", v, 0x1122334455667788ull);
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    tss_init();
    real();
    compat();
    finish();
}
