/* See user.h. */
#include "user.h"

bool (*user_event)(struct frame *f);
volatile uint64_t user_cr2;
__attribute__((used)) volatile bool user_sysret = true;
__attribute__((used)) uint64_t user_frame_rsp, user_sys_rsp;
__attribute__((used)) static uint8_t sys_stack[8192] __attribute__((aligned(16)));
static struct frame *frame_out;

/* SYSCALL: the same frame as exceptions make. */
__asm__(".pushsection .text\n"
        "user_syscall: movq %rsp, user_sys_rsp(%rip)\n"
        "leaq sys_stack+8192(%rip), %rsp\n"
        "pushq $0x2b; pushq user_sys_rsp(%rip); pushq %r11; pushq $0x33; pushq %rcx; pushq $0; pushq $0x100\n"
        "pushq %rax; pushq %rcx; pushq %rdx; pushq %rbx; pushq %rbp; pushq %rsi; pushq %rdi; pushq %r8\n"
        "pushq %r9; pushq %r10; pushq %r11; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
        "movq %rsp, %rdi; cld; call trap\n"
        "cmpb $0, user_sysret(%rip)\n"
        "setne %al\n"
        "cmpl $0x33, 144(%rsp)\n"
        "sete %cl\n"
        "testb %al, %cl\n"
        "popq %r15; popq %r14; popq %r13; popq %r12; popq %r11; popq %r10; popq %r9; popq %r8\n"
        "popq %rdi; popq %rsi; popq %rbp; popq %rbx; popq %rdx; popq %rcx; popq %rax\n"
        "leaq 16(%rsp), %rsp\n"
        "jz 1f\n"
        "popq %rcx; leaq 8(%rsp), %rsp; popq %r11; popq %rsp; sysretq\n"
        "1: iretq\n.popsection\n");
extern uint8_t user_syscall[];

static bool from_user(struct frame *f)
{
    if ((f->cs & 3) != 3)
        return false;
    user_cr2 = read_cr2();
    if (user_event && user_event(f))
        return true;
    *frame_out = *f;
    f->rip = *(uint64_t *)user_frame_rsp;
    f->rsp = user_frame_rsp + 8;
    f->cs = 8;
    f->ss = 0x10;
    f->rflags = 2;
    return true;
}

__attribute__((naked, noinline)) static void enter(struct frame *f)
{
    __asm__ volatile("pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
                     "leaq 2f(%rip), %rax; pushq %rax\n"
                     "movq %rsp, user_frame_rsp(%rip)\n"
                     "movl $22, %ecx\n"
                     "1: pushq -8(%rdi,%rcx,8)\n"
                     "decl %ecx; jnz 1b\n"
                     "popq %r15; popq %r14; popq %r13; popq %r12; popq %r11; popq %r10; popq %r9; popq %r8\n"
                     "popq %rdi; popq %rsi; popq %rbp; popq %rbx; popq %rdx; popq %rcx; popq %rax\n"
                     "addq $16, %rsp\n"
                     "iretq\n"
                     "2: popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx; ret");
}

void user_run(struct frame *f)
{
    frame_out = f;
    trap_hook = from_user;
    enter(f);
    trap_hook = NULL;
}

struct frame user_regs(uint64_t rip)
{
    struct frame f;
    uint64_t *r = (uint64_t *)&f;
    for (unsigned i = 0; i < 15; i++)
        r[i] = 0x0101010101010101ull * (i + 0x11);
    f.vector = f.error = 0;
    f.rip = rip;
    f.cs = 0x33;
    f.ss = 0x2b;
    f.rflags = 0x202;
    f.rsp = USTACK - 64;
    return f;
}

bool user_init(void)
{
    uint32_t c1[4], c7[4], cd[4];
    cpuid(1, 0, c1);
    cpuid(7, 0, c7);
    if (!(c1[2] >> 26 & 1) || !(c1[2] >> 28 & 1) || !(c7[1] & 1)) {
        print("skip all: no XSAVE, AVX or FSGSBASE\n");
        CHECK("nothing to do", true);
        return false;
    }
    cpuid(0xd, 0, cd);
    idt_init();
    tss_init();
    /* As Linux has them: 23 code32, 2b data, 33 code64. */
    gdt[4] = 0x00cffb000000ffffull;
    gdt[5] = 0x00cff3000000ffffull;
    gdt[6] = 0x00affb000000ffffull;
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" ::"r"(0));
    write_cr0((read_cr0() & ~12ull) | 0x10022); /* WP, NE, MP */
    write_cr4(read_cr4() | 0x600 | 1 << 16 | 1 << 18);
    __asm__ volatile("xsetbv" ::"a"(7), "d"(0), "c"(0));
    __asm__ volatile("fninit");
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1 | 1 << 11); /* SCE, NXE */
    wrmsr(0xc0000081, 8ull << 32 | 0x23ull << 48);
    wrmsr(0xc0000082, (uint64_t)user_syscall);
    wrmsr(0xc0000084, 0x47700);
    set_gate(0x80, stub_of(0x80), 3, 0, 14);
    set_gate(3, stub_of(3), 3, 0, 14);
    for (uint64_t a = 0; a < (uint64_t)(__stop_frags - __start_frags); a += 4096) {
        uint8_t *p = page_alloc();
        uint64_t n = (uint64_t)(__stop_frags - __start_frags) - a;
        memcpy(p, __start_frags + a, n < 4096 ? n : 4096);
        map_page(UCODE + a, (uint64_t)p, PTE_P | PTE_U);
    }
    for (uint64_t a = USTACK - 4 * 4096; a < USTACK; a += 4096)
        map_page(a, (uint64_t)page_alloc(), PTE_P | PTE_W | PTE_U | PTE_NX);
    return true;
}

void user_expect_at(const char *name, const struct frame *f, uint64_t vector, uint64_t error, uint64_t rip, const char *file, int line)
{
    bool ok = f->vector == vector && f->error == error && f->rip == rip;
    if (!ok)
        print("  got vector %lx error %lx rip %lx cr2 %lx, want vector %lx error %lx rip %lx\n", f->vector, f->error, f->rip, user_cr2, vector, error, rip);
    check_at(ok, name, file, line);
}

void user_expect_pf_at(const char *name, const struct frame *f, uint64_t error, uint64_t cr2, uint64_t rip, const char *file, int line)
{
    bool ok = f->vector == 14 && f->error == error && f->rip == rip && user_cr2 == cr2;
    if (!ok)
        print("  got vector %lx error %lx rip %lx cr2 %lx, want a page fault, error %lx rip %lx cr2 %lx\n", f->vector, f->error, f->rip, user_cr2, error, rip, cr2);
    check_at(ok, name, file, line);
}
