/*
 * The probe: a guest of one page, thrown away when it has halted. It runs a routine whose result
 * must be the one the routine gives when this processor runs it natively: loops, memory, calls, flags, vectors.
 * Then it takes a page fault and must find the right address and error code. That it was translated, and not interpreted, is checked too.
 */
#include <cpuid.h>
#include <stdio.h>
#include <string.h>

#include "engine/translate/translate.h"
#include "x86/cpuid.h"

#define PAGES 0x1000u /* page tables: three pages */
#define CODE 0x10000u
#define IDT 0x20000u
#define DATA 0x21000u
#define FAULT 0x22000u /* result, CR2, error code */
#define STACK 0x24000u
#define ABSENT 0x40000000u

/* uint64_t routine(uint8_t buf[64], unsigned n): touches buf, registers a C function may change, and flags. */
__asm__(".pushsection .text\n"
        ".globl tr_probe_guest, tr_probe_routine, tr_probe_handler, tr_probe_end\n"
        "tr_probe_guest:\n"
        "    movl $0x21000, %edi\n"
        "    movl $100000, %esi\n"
        "    call tr_probe_routine\n"
        "    movq %rax, 0x22000\n"
        "    movl %eax, 0x40000008\n" /* faults */
        "    ud2\n"
        "tr_probe_handler:\n"
        "    popq %rdx\n"
        "    movq %rdx, 0x22010\n"
        "    movq %cr2, %rax\n"
        "    movq %rax, 0x22008\n"
        "1:  hlt\n"
        "    jmp 1b\n"
        "tr_probe_routine:\n"
        "    movl $1, %eax\n"
        "    movdqu (%rdi), %xmm0\n"
        "2:  imulq $0x5851f42d, %rax, %rax\n"
        "    rolq $7, %rax\n"
        "    addq %rax, 8(%rdi)\n"
        "    adcq 16(%rdi), %rax\n"
        "    movl %esi, %ecx\n"
        "    andl $31, %ecx\n"
        "    movb %al, (%rdi,%rcx)\n"
        "    call 4f\n"
        "    movq %rax, %xmm1\n"
        "    paddq %xmm1, %xmm0\n"
        "    decl %esi\n"
        "    jnz 2b\n"
        "    movdqu %xmm0, 32(%rdi)\n"
        "    xorq 32(%rdi), %rax\n"
        "    addq 16(%rdi), %rax\n"
        "    ret\n"
        "4:  cmpq %rax, 24(%rdi)\n"
        "    pushfq\n"
        "    popq %rdx\n"
        "    andl $0x8d5, %edx\n"
        "    addq %rdx, 24(%rdi)\n"
        "    jc 5f\n"
        "    subq %rcx, %rax\n"
        "5:  ret\n"
        "tr_probe_end:\n"
        ".popsection");
extern const uint8_t tr_probe_guest[], tr_probe_handler[], tr_probe_end[];
uint64_t tr_probe_routine(uint8_t *buf, unsigned n);

static void fill(uint8_t *buf)
{
    for (unsigned i = 0; i < 64; i++)
        buf[i] = (uint8_t)(i * 37 + 11);
}

/* 64-bit mode at CPL 0, the first 2 MiB mapped as they are. */
static void prepare(struct vm *vm, struct x86_cpu *c)
{
    const uint64_t h = CODE + (uint64_t)(tr_probe_handler - tr_probe_guest);
    const uint64_t gate[2] = {(h & 0xffff) | 0x8e00ull << 32 | 8u << 16 | (h & 0xffff0000) << 32, 0};
    const uint64_t gdt[3] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff};
    uint64_t *pt = (uint64_t *)(void *)(vm->ram + PAGES);

    pt[0] = (PAGES + 0x1000) | 3;
    pt[512] = (PAGES + 0x2000) | 3;
    pt[1024] = 0x83;
    memcpy(vm->ram + CODE, tr_probe_guest, (size_t)(tr_probe_end - tr_probe_guest));
    memcpy(vm->ram + IDT + 16 * X86_PF, gate, sizeof(gate));
    memcpy(vm->ram + IDT + 0x800, gdt, sizeof(gdt));
    fill(vm->ram + DATA);
    c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_MP;
    c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    c->cr3 = PAGES;
    c->efer = X86_EFER_LME | X86_EFER_LMA;
    for (unsigned s = 0; s < X86_NSEG; s++)
        c->seg[s] = (struct x86_seg){.limit = 0xffffffff, .sel = 0x10, .ar = 0xc093};
    c->seg[X86_CS] = (struct x86_seg){.limit = 0xffffffff, .sel = 8, .ar = 0xa09b};
    c->gdtr = (struct x86_dtr){IDT + 0x800, sizeof(gdt) - 1};
    c->idtr = (struct x86_dtr){IDT, 16 * 32 - 1};
    c->gpr[X86_RSP] = STACK;
    c->rip = CODE;
    c->activity = X86_RUNNING;
    x86_set_rflags(c, X86_FL_1);
    x86_tlb_flush_all(c);
    x86_recompute(c);
}

struct attempt {
    struct vcpu *v;
    struct vcpu_exit exit;
};

static void attempt(void *arg)
{
    struct attempt *a = arg;

    do
        engine_translate.run(a->v, &a->exit);
    while (a->exit.kind == EXIT_KICK && a->v->cpu.activity == X86_RUNNING);
}

static int judge(struct vm *vm, struct vcpu *v, char *reason, size_t cap)
{
    struct attempt a = {.v = v};
    uint8_t want[64];
    uint64_t got[3], addr;

    prepare(vm, &v->cpu);
    vcpu_enter_guest(v);
    const int fault = host_guarded(attempt, &a, &addr);
    vcpu_leave_guest(v);
    if (fault >= 0) {
        snprintf(reason, cap, "translated code faults on this CPU (vector %d, address %#llx)", fault, (unsigned long long)addr);
        return -1;
    }
    if (a.exit.kind != EXIT_HLT) {
        snprintf(reason, cap, "the probe's guest ended with exit %d at %#llx", (int)a.exit.kind, (unsigned long long)v->cpu.rip);
        return -1;
    }
    memcpy(got, vm->ram + FAULT, sizeof(got));
    fill(want);
    const uint64_t result = tr_probe_routine(want, 100000);

    if (got[0] != result || memcmp(want, vm->ram + DATA, sizeof(want))) {
        snprintf(reason, cap, "translated code computes %#llx where this CPU computes %#llx", (unsigned long long)got[0], (unsigned long long)result);
        return -1;
    }
    if (got[1] != ABSENT + 8 || got[2] != 2) {
        snprintf(reason, cap, "a page fault came with address %#llx, error code %#llx", (unsigned long long)got[1], (unsigned long long)got[2]);
        return -1;
    }
    const struct tr_stats *st = &translate_of(v)->st;

    if (st->built < 4 || st->steps + st->interp_insns > 1000) {
        snprintf(reason, cap, "the probe's guest was interpreted (%llu blocks translated)", (unsigned long long)st->built);
        return -1;
    }
    return 0;
}

int tr_probe(const struct engine_config *cfg, char *reason, size_t cap)
{
    const struct vm_config vc = {.ram_size = 2u << 20, .ncpu = 1, .engine = &engine_translate, .no_reboot = true};
    const struct x86_cpuid_config cc = {.ncpu = 1, .tsc_khz = 1000000, .phys_bits = 39, .apic_hz = 1000000000};
    uint32_t a, b = 0, c, d;
    void *rw, *rx;
    int r = -1;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_BMI2)) {
        snprintf(reason, cap, "the host CPU has no BMI2");
        return -1;
    }
    const int e = host_exec_alloc(0x1000, &rw, &rx);

    if (e) {
        snprintf(reason, cap, "no memory that is writable in one place and executable in another: %s", strerror(-e));
        return -1;
    }
    host_exec_free(rw, rx, 0x1000);

    struct vm *vm = vm_new(&vc, reason, cap);

    if (!vm)
        return -1;
    snprintf(reason, cap, "out of memory");
    vm->cpuid = x86_cpuid_new(&cc);
    vm->cpu[0] = vm->cpuid ? vcpu_new(vm, 0) : NULL;
    if (vm->cpu[0] && vm_engine_init(vm, reason, cap) == 0 && engine_translate.vcpu_init(vm->cpu[0]) == 0) {
        r = judge(vm, vm->cpu[0], reason, cap);
        engine_translate.vcpu_fini(vm->cpu[0]);
    }
    vm_free(vm);
    if (r == 0)
        reason[0] = 0;
    return r;
}
