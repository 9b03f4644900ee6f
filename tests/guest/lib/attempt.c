/* See attempt.h. */
#include "attempt.h"

volatile uint64_t site, site_next;

void expect_at(const char *name, unsigned vector, uint64_t error, uint64_t rip, const char *file, int line)
{
    bool ok = fault.happened && fault.vector == vector && fault.error == error && fault.rip == rip;
    if (!ok && !fault.happened)
        print("  no fault, want vector %u error %lx\n", vector, error);
    else if (!ok)
        print("  got vector %u error %lx rip %lx cr2 %lx, want vector %u error %lx rip %lx\n", fault.vector,
              fault.error, fault.rip, fault.cr2, vector, error, rip);
    check_at(ok, name, file, line);
}

void expect_pf_at(const char *name, uint64_t error, uint64_t addr, const char *file, int line)
{
    if (fault.happened && fault.vector == 14 && fault.cr2 != addr) {
        print("  got CR2 %lx, want %lx\n", fault.cr2, addr);
        check_at(false, name, file, line);
    } else
        expect_at(name, 14, error, site, file, line);
}

void expect_none_at(const char *name, const char *file, int line)
{
    if (fault.happened)
        print("  got vector %u error %lx rip %lx cr2 %lx, want none\n", fault.vector, fault.error, fault.rip,
              fault.cr2);
    check_at(!fault.happened, name, file, line);
}

void skip(const char *name, const char *why)
{
    print("skip %s: %s\n", name, why);
}

/* For checks that would end the guest under QEMU. */
bool lax(const char *name, const char *why)
{
    if (!under_qemu())
        return false;
    skip(name, why);
    return true;
}

static uint8_t ist_stack[8192] __attribute__((aligned(16)));

void use_ist(unsigned vector, bool on)
{
    tss_init();
    *(uint64_t *)((uint8_t *)tss64 + 36) = (uint64_t)(ist_stack + sizeof(ist_stack));
    set_gate(vector, stub_of(vector), 0, on, 14);
}

/* --- run_frame --- */

__attribute__((used)) uint64_t frame_return_rsp;
static struct frame *frame_out;

static bool leave_frame(struct frame *f)
{
    if (f->vector >= 32 && f->vector != 0x80)
        return false;
    *frame_out = *f;
    fault.happened = f->vector != 0x80;
    fault.vector = (uint8_t)f->vector;
    fault.error = f->error;
    fault.rip = f->rip;
    fault.cr2 = read_cr2();
    fault.rflags = f->rflags;
    fault.cs = f->cs;
    f->rip = *(uint64_t *)frame_return_rsp;
    f->rsp = frame_return_rsp + 8;
    f->cs = 8;
    f->ss = 0x10;
    f->rflags = 2;
    trap_hook = NULL;
    return true;
}

__attribute__((naked, noinline)) static void enter_frame(struct frame *f)
{
    __asm__ volatile("pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
                     "leaq 2f(%rip), %rax; pushq %rax\n"
                     "movq %rsp, frame_return_rsp(%rip)\n"
                     "movl $22, %ecx\n"
                     "1: pushq -8(%rdi,%rcx,8)\n"
                     "decl %ecx; jnz 1b\n"
                     "popq %r15; popq %r14; popq %r13; popq %r12; popq %r11; popq %r10; popq %r9; popq %r8\n"
                     "popq %rdi; popq %rsi; popq %rbp; popq %rbx; popq %rdx; popq %rcx; popq %rax\n"
                     "addq $16, %rsp\n"
                     "iretq\n"
                     "2: popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx; ret");
}

void run_frame(struct frame *f)
{
    tss_init();
    set_gate(0x80, stub_of(0x80), 3, 0, 14);
    frame_out = f;
    trap_hook = leave_frame;
    enter_frame(f);
}

extern uint8_t user_stack[8192];

struct frame user_frame(const void *rip)
{
    struct frame f;
    memset(&f, 0, sizeof(f));
    f.rip = (uint64_t)rip;
    f.cs = 0x3b;
    f.ss = 0x33;
    f.rflags = 2;
    f.rsp = (uint64_t)user_stack + 8176;
    return f;
}
