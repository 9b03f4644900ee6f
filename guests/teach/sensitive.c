/*
 * The instructions that decide whether a processor can be virtualized by trap-and-emulate: sensitive, and on x86 not privileged (Robin & Irvine,
 * USENIX Security 2000). Each is executed, and its result compared with what a processor of its own yields.
 */
#include "machine.h"

static word flags(void)
{
    word f;
    __asm__ volatile("pushf; pop %0" : "=r"(f));
    return f;
}
static void set_flags(word f) { __asm__ volatile("push %0; popf" : : "r"(f) : "cc", "memory"); }

static void test_flags(void)
{
    u32 t;
    __asm__ volatile("cli");
    saw("PUSHF after CLI, IF", flags() & FLAG_IF, 0);
    __asm__ volatile("sti");
    saw("PUSHF after STI, IF", flags() & FLAG_IF, FLAG_IF);
    saw("timer interrupts arrive after STI", (word)a_tick_comes(), 1);
    set_flags(flags() & ~(word)FLAG_IF);
    wait_ticks(1);
    t = ticks;
    wait_ticks(3);
    saw("timer interrupts arrive after POPF cleared IF", ticks > t, 0);
    __asm__ volatile("cli");
    set_flags(flags() | FLAG_IF);
    saw("timer interrupts arrive after POPF set IF", (word)a_tick_comes(), 1);
    __asm__ volatile("cli");
    set_flags((flags() & ~(word)FLAG_IF) | FLAG_IOPL);
    saw("PUSHF after POPF set IOPL to 3", flags() & FLAG_IOPL, FLAG_IOPL);
    set_flags(flags() & ~(word)(FLAG_IF | FLAG_IOPL));
}

static void test_tables(void)
{
    struct {
        u16 limit;
        word base;
    } __attribute__((packed)) d = {0, 0};
    u32 v = 0;
    __asm__ volatile("sgdt %0" : "=m"(d));
    saw("SGDT base", d.base, (word)gdt);
    __asm__ volatile("sidt %0" : "=m"(d));
    saw("SIDT base", d.base, (word)idt);
    __asm__ volatile("sldt %0" : "=r"(v));
    saw("SLDT", v & 0xffff, LDT_SEL);
    __asm__ volatile("str %0" : "=r"(v));
    saw("STR", v & 0xffff, TSS_SEL);
    __asm__ volatile("smsw %0" : "=r"(v));
    saw("SMSW", v & 0xffff, cr0() & 0xffff);
}

static void test_segments(void)
{
    static u32 percpu = 0x12345678;
    u32 v = 0, z = 0;
#ifdef __x86_64__ /* which has no PUSH CS and PUSH DS */
    word w;
    __asm__ volatile("movl %%cs, %0" : "=r"(v));
    saw("MOV from CS", v & 0xffff, KERNEL_CS);
    __asm__ volatile("movl %%ss, %0" : "=r"(v));
    saw("MOV from SS", v & 0xffff, KERNEL_DS);
    __asm__ volatile("movl %1, %%fs; push %%fs; pop %0" : "=r"(w) : "r"(KERNEL_DS));
    saw("PUSH FS", w & 0xffff, KERNEL_DS);
#else
    __asm__ volatile("pushl %%cs; popl %0" : "=r"(v));
    saw("PUSH CS", v & 0xffff, KERNEL_CS);
    __asm__ volatile("movl %%ss, %0" : "=r"(v));
    saw("MOV from SS", v & 0xffff, KERNEL_DS);
    __asm__ volatile("pushl %%ds; popl %0" : "=r"(v));
    saw("PUSH DS", v & 0xffff, KERNEL_DS);
#endif
    descriptor(SMALL_SEL, (word)&percpu, 3, 0x40f3);
    __asm__ volatile("movl %1, %%gs; movl %%gs:0, %0" : "=r"(v) : "r"(SMALL_SEL));
    saw("MOV to GS of selector 2b, then a load through it", v, percpu);
    __asm__ volatile("movl %%fs, %0; push %1; pop %%fs; movl %%fs:0, %0" : "=&r"(v) : "r"((word)SMALL_SEL));
    saw("POP FS of selector 2b, then a load through it", v, percpu);
    __asm__ volatile("movl %0, %%fs; movl %0, %%gs" : : "r"(0));
    v = z = 0;
    __asm__ volatile("lar %2, %0; setz %b1" : "+r"(v), "+q"(z) : "r"((u32)KERNEL_CS));
#ifdef __x86_64__
    saw("LAR of kernel code", z ? v & 0x00f0ff00 : 0, 0x00a09b00); /* bits 19:16 are undefined */
#else
    saw("LAR of kernel code", z ? v & 0x00f0ff00 : 0, 0x00c09b00);
#endif
    v = z = 0;
    __asm__ volatile("lsl %2, %0; setz %b1" : "+r"(v), "+q"(z) : "r"((u32)TSS_SEL));
    saw("LSL of the TSS", z ? v : 0, 103);
    z = 0;
    __asm__ volatile("verr %w1; setz %b0" : "+q"(z) : "r"(KERNEL_DS));
    saw("VERR of kernel data, ZF", z, 1);
    z = 0;
    __asm__ volatile("verw %w1; setz %b0" : "+q"(z) : "r"(KERNEL_DS));
    saw("VERW of kernel data, ZF", z, 1);
}

static void test_transfers(void)
{
    u32 v = 0, s = syscalls;
#ifdef __x86_64__ /* far pointers in memory only */
    struct {
        u32 offset;
        u16 sel;
    } __attribute__((packed)) at = {0, KERNEL_CS};
    __asm__ volatile("movl $1f, %1; lcall *%1; jmp 2f; 1: movl 4(%%rsp), %0; lretl; 2:" : "=&r"(v), "+m"(at.offset) : "m"(at));
    saw("CALL far pushes CS", v & 0xffff, KERNEL_CS);
    __asm__ volatile("movl $1f, %1; ljmp *%1; 1: movl %%cs, %0" : "=&r"(v), "+m"(at.offset) : "m"(at));
    saw("CS after JMP far", v & 0xffff, KERNEL_CS);
#else
    __asm__ volatile("lcall $0x08, $1f; jmp 2f; 1: movl 4(%%esp), %0; lret; 2:" : "=r"(v));
    saw("CALL far pushes CS", v & 0xffff, KERNEL_CS);
    __asm__ volatile("ljmp $0x08, $1f; 1: movl %%cs, %0" : "=r"(v));
    saw("CS after JMP far", v & 0xffff, KERNEL_CS);
#endif
    __asm__ volatile("int $0x80" : : "a"((word)SYS_NULL) : "memory");
    saw("INT 80 in the kernel reaches the gate", syscalls - s, 1);
#ifdef __x86_64__
    word sp;
    __asm__ volatile("mov %%rsp, %1; push $0x10; push %1; pushf; push $0x08; push $1f; iretq; 1: movl %%cs, %0" : "=&r"(v), "=&r"(sp));
#else
    __asm__ volatile("pushfl; pushl $0x08; pushl $1f; iret; 1: movl %%cs, %0" : "=r"(v));
#endif
    saw("CS after IRET to the same privilege", v & 0xffff, KERNEL_CS);
}

void test_sensitive(void)
{
    test_flags();
    test_tables();
    test_segments();
    test_transfers();
}
