/* The interpreter: blocks and links, modes, faults inside blocks, string instructions, self-modifying code. */
#include "engine/interp/interp.h"
#include "tests/unit/interp_fixture.h"

PROGRAM(loop64, "mov $1000000, %ecx\n"
                "xor %eax, %eax\n"
                "1: add %rcx, %rax\n"
                "dec %ecx\n"
                "jnz 1b\n"
                "hlt\n");

static void loops(void **state)
{
    struct im *m = im_new(1);

    (void)state;
    IM_LOAD(m, loop64);
    im_long(m, m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(m->v->cpu.gpr[X86_RAX], 500000500000ull);
    assert_int_equal(m->v->cpu.rip, IM_CODE + (loop64_end - loop64_begin));
    assert_int_equal(m->v->insns, 3 * 1000000 + 3);
    im_free(m);
}

PROGRAM(calls64, "mov $20, %edi\n"
                 "call 1f\n"
                 "mov %rax, %rbx\n"
                 "lea 3f(%rip), %rdx\n"
                 "call *%rdx\n"
                 "hlt\n"
                 "1: cmp $2, %edi\n"
                 "jae 2f\n"
                 "mov %edi, %eax\n"
                 "ret\n"
                 "2: push %rdi\n"
                 "dec %edi\n"
                 "call 1b\n"
                 "pop %rdi\n"
                 "push %rax\n"
                 "sub $2, %edi\n"
                 "call 1b\n"
                 "pop %rdx\n"
                 "add %rdx, %rax\n"
                 "ret\n"
                 ".skip 8192, 0x90\n"
                 "3: movabs $0x123456789abcdef0, %rcx\n"
                 "jmp *4f(%rip)\n"
                 "ud2\n"
                 "4: .quad 0x10000 + 5f - calls64_begin\n"
                 "5: bswap %rcx\n"
                 "ret\n");

static void calls(void **state)
{
    struct im *m = im_new(1);

    (void)state;
    IM_LOAD(m, calls64);
    im_long(m, m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(m->v->cpu.gpr[X86_RBX], 6765); /* fib(20) */
    assert_int_equal(m->v->cpu.gpr[X86_RCX], 0xf0debc9a78563412);
    assert_int_equal(m->v->cpu.gpr[X86_RSP], IM_STACK);
    im_free(m);
}

PROGRAM(prot32, ".code32\n"
                "movl $100000, %ecx\n"
                "xorl %eax, %eax\n"
                "movl $0x200000, %esi\n"
                "1: movl %ecx, (%esi,%eax,4)\n"
                "addl (%esi,%eax,4), %ebx\n"
                "incl %eax\n"
                "andl $0xff, %eax\n"
                "pushl %ecx\n"
                "call 2f\n"
                "popl %ecx\n"
                "loop 1b\n"
                "hlt\n"
                "2: movl 4(%esp), %edx\n"
                "ret\n");

static void prot(void **state)
{
    struct im *m = im_new(1);

    (void)state;
    IM_LOAD(m, prot32);
    im_prot(m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(m->v->cpu.gpr[X86_RBX], (uint32_t)5000050000ull);
    assert_int_equal(m->v->cpu.gpr[X86_RDX], 1);
    assert_int_equal(m->v->insns, 100000ull * 10 + 4);
    im_free(m);
}

PROGRAM(real16, ".code16\n"
                "movw $1000, %cx\n"
                "xorw %ax, %ax\n"
                "1: addw %cx, %ax\n"
                "movw %ax, 0x10\n"
                "pushw %ax\n"
                "popw %bx\n"
                "loop 1b\n"
                "movw $0xfffe, %di\n"
                "movb $1, 3(%di)\n" /* wraps to 1 */
                "hlt\n");

static void real(void **state)
{
    struct im *m = im_new(1);

    (void)state;
    IM_LOAD(m, real16);
    im_real(m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(m->v->cpu.gpr[X86_RAX], (uint16_t)500500);
    assert_int_equal(m->v->cpu.gpr[X86_RBX], (uint16_t)500500);
    assert_int_equal(m->vm->ram[0x20001], 1);
    im_free(m);
}

/* --- faults: a handler at vector n stores the frame and halts ------------------- */

PROGRAM(catch64, "pop %r15\n" /* error code or RIP */
                 "mov %rsp, %r14\n"
                 "hlt\n");
#define CATCH 0x18000u
#define IDT 0x8000u
#define GDT 0x9000u

static void im_idt(struct im *m, struct vcpu *v)
{
    uint64_t *idt = (uint64_t *)(m->vm->ram + IDT), *gdt = (uint64_t *)(m->vm->ram + GDT);

    gdt[1] = 0x00af9b000000ffffull;
    gdt[2] = 0x00cf93000000ffffull;
    for (unsigned i = 0; i < 32; i++) {
        const uint64_t to = CATCH + i * 16;

        idt[2 * i] = (to & 0xffff) | 0x08ull << 16 | 0x8e00ull << 32 | (to >> 16 & 0xffff) << 48;
        idt[2 * i + 1] = to >> 32;
        im_put(m, to, catch64_begin, (size_t)(catch64_end - catch64_begin));
    }
    v->cpu.idtr = (struct x86_dtr){.base = IDT, .limit = 0x1ff};
    v->cpu.gdtr = (struct x86_dtr){.base = GDT, .limit = 0xff};
}

PROGRAM(fault64, "mov $0x40000000, %rsi\n" /* not mapped */
                 "mov $7, %eax\n"
                 "add $1, %eax\n"
                 "add %eax, (%rsi)\n"
                 "mov $99, %eax\n"
                 "hlt\n");

static void fault(void **state)
{
    struct im *m = im_new(1);
    struct x86_cpu *c = &m->v->cpu;

    (void)state;
    IM_LOAD(m, fault64);
    im_long(m, m->v);
    im_idt(m, m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(c->rip, CATCH + 14 * 16 + (catch64_end - catch64_begin));
    assert_int_equal(c->gpr[X86_R15], 2); /* a write, page not present */
    assert_int_equal(c->cr2, 0x40000000);
    assert_int_equal(c->gpr[X86_RAX], 8);
    assert_int_equal(*(uint64_t *)(m->vm->ram + c->gpr[X86_R14]), IM_CODE + 15); /* RIP of the ADD */
    assert_int_equal(m->v->insns, 3 + 3);
    im_free(m);
}

PROGRAM(noncanon64, "movabs $0x0000800000000000, %rax\n"
                    "push %rax\n"
                    "mov %rsp, %rbx\n"
                    "ret\n");
PROGRAM(noncanon_mem64, "movabs $0x0000800000000000, %rbp\n"
                        "nop\n"
                        "mov (%rbp), %eax\n");

static void noncanonical(void **state)
{
    struct im *m = im_new(1);
    struct x86_cpu *c = &m->v->cpu;

    (void)state;
    IM_LOAD(m, noncanon64);
    im_long(m, m->v);
    im_idt(m, m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(c->rip, CATCH + 13 * 16 + (catch64_end - catch64_begin)); /* #GP at the RET */
    assert_int_equal(*(uint64_t *)(m->vm->ram + c->gpr[X86_R14]), IM_CODE + 14);
    assert_int_equal(*(uint64_t *)(m->vm->ram + c->gpr[X86_R14] + 24), c->gpr[X86_RBX]); /* RSP not moved */
    IM_LOAD(m, noncanon_mem64);
    im_long(m, m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(c->rip, CATCH + 12 * 16 + (catch64_end - catch64_begin)); /* #SS through RBP */
    im_free(m);
}

/* --- strings ------------------------------------------------------------------------ */

PROGRAM(rep64, "mov $0x1fff00, %edi\n"
               "mov $0x100, %ecx\n"
               "mov $0x55, %al\n"
               "rep stosb\n"
               "mov $0x3ffff0, %edi\n" /* up to the end of what is mapped below */
               "mov $0x1fff00, %esi\n"
               "mov $0x100, %ecx\n"
               "rep movsb\n"
               "hlt\n");

static void strings(void **state)
{
    struct im *m = im_new(1);
    struct x86_cpu *c = &m->v->cpu;

    (void)state;
    IM_LOAD(m, rep64);
    im_long(m, m->v);
    im_idt(m, m->v);
    ((uint64_t *)(m->vm->ram + 0x3000))[2] = 0; /* 4 MiB and up are gone */
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(c->gpr[X86_R15], 2);
    assert_int_equal(c->cr2, 0x400000);
    assert_int_equal(c->gpr[X86_RDI], 0x400000);
    assert_int_equal(c->gpr[X86_RSI], 0x1fff10);
    assert_int_equal(c->gpr[X86_RCX], 0xf0);
    assert_int_equal(m->vm->ram[0x1fffff], 0x55);
    assert_int_equal(m->vm->ram[0x200000], 0);
    assert_int_equal(m->vm->ram[0x3fffff], 0x55);
    im_free(m);
}

/* --- self-modifying code ---------------------------------------------------------------- */

/* Into the next instruction of the same block. */
PROGRAM(smc_next64, "movb $0x42, 1f+1(%rip)\n"
                    "1: mov $0x11, %al\n"
                    "movzbl %al, %eax\n"
                    "hlt\n");
/* The immediate of a loop's own body, a thousand times; and a REP STOS over code that then runs. */
PROGRAM(smc_loop64, "mov $1000, %ecx\n"
                    "xor %ebx, %ebx\n"
                    "1: mov %ecx, 2f+1(%rip)\n"
                    "2: mov $0, %eax\n"
                    "add %rax, %rbx\n"
                    "dec %ecx\n"
                    "jnz 1b\n"
                    "lea 3f(%rip), %rdi\n"
                    "call 3f\n" /* cached */
                    "mov $16, %ecx\n"
                    "mov $0x90, %al\n"
                    "rep stosb\n"
                    "movb $0xc3, -1(%rdi)\n"
                    "mov $5, %edx\n"
                    "call 3f\n"
                    "hlt\n"
                    ".p2align 6\n"
                    "3: mov $6, %edx\n"
                    "ret\n"
                    ".skip 64\n");

static void smc(void **state)
{
    struct im *m = im_new(1);

    (void)state;
    IM_LOAD(m, smc_next64);
    im_long(m, m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(m->v->cpu.gpr[X86_RAX], 0x42);
    IM_LOAD(m, smc_loop64);
    im_long(m, m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(m->v->cpu.gpr[X86_RBX], 500500);
    assert_int_equal(m->v->cpu.gpr[X86_RDX], 5);
    /* A device writes code that is cached. */
    static const uint8_t nops[6] = {0x90, 0x90, 0x90, 0x90, 0x90, 0x90};

    IM_LOAD(m, loop64);
    im_long(m, m->v);
    m->v->cpu.gpr[X86_RAX] = 1;
    im_put(m, IM_CODE + 7, nops, 3);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(m->v->cpu.gpr[X86_RAX], 0);
    im_free(m);
}

/* An instruction across two pages whose second page is remapped. */
PROGRAM(cross64, ".skip 0xffd, 0x90\n"
                 "mov $0x11111111, %eax\n" /* imm32's last two bytes are in the next page */
                 "hlt\n");

static void crossing(void **state)
{
    struct im *m = im_new(1);
    struct x86_cpu *c = &m->v->cpu;
    uint64_t *pd, *pt;

    (void)state;
    IM_LOAD(m, cross64);
    im_long(m, m->v);
    /* 4 KiB pages for the first 2 MiB */
    pd = (uint64_t *)(m->vm->ram + 0x3000);
    pt = (uint64_t *)(m->vm->ram + 0x4000);
    pd[0] = 0x4007;
    for (unsigned i = 0; i < 512; i++)
        pt[i] = i * 0x1000 | 7;
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(c->gpr[X86_RAX], 0x11111111);
    /* The next page becomes another one. */
    static const uint8_t tail[] = {0x22, 0x22, 0xf4};

    im_put(m, 0x20000, tail, 3);
    pt[IM_CODE / 0x1000 + 1] = 0x20007;
    c->rip = IM_CODE + 0xff0;
    c->activity = X86_RUNNING;
    x86_tlb_flush_all(c);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(c->gpr[X86_RAX], 0x22221111);
    /* And not there at all: the fault is on the second page. */
    pt[IM_CODE / 0x1000 + 1] = 0;
    c->rip = IM_CODE + 0xff0;
    c->activity = X86_RUNNING;
    x86_tlb_flush_all(c);
    im_idt(m, m->v);
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    assert_int_equal(c->cr2, IM_CODE + 0x1000);
    assert_int_equal(*(uint64_t *)(m->vm->ram + c->gpr[X86_R14]), IM_CODE + 0xffd);
    im_free(m);
}

/* --- several processors ------------------------------------------------------------------- */

/* Counters in one page, across a cache line and across two pages, changed by every kind of locked instruction. */
PROGRAM(atomic64, "mov $0x200000, %esi\n"
                  "mov $5000, %ecx\n"
                  "1: lock incq (%rsi)\n"
                  "lock addl $3, 60(%rsi)\n" /* to 63: the last byte of a line */
                  "lock addl $3, 62(%rsi)\n" /* overlaps it: the carries must not get lost either */
                  "mov $1, %eax\n"
                  "lock xadd %rax, 8(%rsi)\n"
                  "2: mov 16(%rsi), %rax\n"
                  "lea 5(%rax), %rdx\n"
                  "lock cmpxchg %rdx, 16(%rsi)\n"
                  "jne 2b\n"
                  "3: mov $1, %ebx\n" /* a spin lock by XCHG around a plain increment */
                  "xchg %ebx, 24(%rsi)\n"
                  "test %ebx, %ebx\n"
                  "jnz 3b\n"
                  "incq 32(%rsi)\n"
                  "movl $0, 24(%rsi)\n"
                  "4: lock btsl $7, 40(%rsi)\n" /* and one by BTS */
                  "jc 4b\n"
                  "incq 48(%rsi)\n"
                  "lock btrl $7, 40(%rsi)\n"
                  "test $255, %ecx\n"
                  "jnz 5f\n"
                  "lock incq 0xffc(%rsi)\n" /* two pages */
                  "5: dec %ecx\n"
                  "jnz 1b\n"
                  "hlt\n");

static void runner(void *arg)
{
    struct vcpu_exit e;
    struct vcpu *v = arg;

    vcpu_enter_guest(v);
    do
        engine_interp.run(v, &e);
    while (e.kind == EXIT_KICK);
    vcpu_leave_guest(v);
}

static void atomics(void **state)
{
    enum { N = 3, EACH = 5000 };
    struct im *m = im_new(N);
    struct host_thread *t[N];
    const uint8_t *d = m->vm->ram + IM_DATA;
    uint64_t q;
    uint32_t l;

    (void)state;
    IM_LOAD(m, atomic64);
    for (unsigned i = 0; i < N; i++)
        im_long(m, m->vm->cpu[i]);
    for (unsigned i = 0; i < N; i++)
        assert_non_null(t[i] = host_thread_start("guest", runner, m->vm->cpu[i]));
    for (unsigned i = 0; i < N; i++)
        host_thread_join(t[i]);
#define Q(off) (memcpy(&q, d + (off), 8), q)
    assert_int_equal(Q(0), N * EACH);
    assert_int_equal(Q(8), N * EACH);
    assert_int_equal(Q(16), 5 * N * EACH);
    assert_int_equal(Q(32), N * EACH);
    assert_int_equal(Q(48), N * EACH);
    assert_int_equal(Q(0xffc), N * (EACH / 256));
    /* 60: +3, 62: +3, together a 48-bit number that grows by 3 + 3 * 65536 modulo what a 32-bit add at 60 carries out of */
    memcpy(&l, d + 60, 4);
    assert_int_equal((uint16_t)l, (uint16_t)(3 * N * EACH));
    im_free(m);
}

/* One processor rewrites an instruction the other one runs, which must notice. */
PROGRAM(patcher64, "mov $1, %ecx\n"
                   "1: mov %ecx, 0x11001\n"
                   "2: pause\n"
                   "cmp %ecx, 0x200000\n"
                   "jne 2b\n"
                   "inc %ecx\n"
                   "cmp $300, %ecx\n"
                   "jne 1b\n"
                   "hlt\n");
PROGRAM(patched64, "1: mov $0, %eax\n"
                   "mov %eax, 0x200000\n"
                   "cmp $299, %eax\n"
                   "jne 1b\n"
                   "hlt\n");

static void cross_modifying(void **state)
{
    struct im *m = im_new(2);
    struct host_thread *t[2];

    (void)state;
    IM_LOAD(m, patcher64);
    im_put(m, IM_CODE + 0x1000, patched64_begin, (size_t)(patched64_end - patched64_begin));
    for (unsigned i = 0; i < 2; i++)
        im_long(m, m->vm->cpu[i]);
    m->vm->cpu[1]->cpu.rip = IM_CODE + 0x1000;
    for (unsigned i = 0; i < 2; i++)
        assert_non_null(t[i] = host_thread_start("guest", runner, m->vm->cpu[i]));
    for (unsigned i = 0; i < 2; i++)
        host_thread_join(t[i]);
    assert_int_equal(m->vm->cpu[1]->cpu.gpr[X86_RAX], 299);
    im_free(m);
}

/* A page that others may write is marked as code, and who marked it comes to execute something else: stores make it data again. */
PROGRAM(fill64, "mov $0x11000, %edi\n"
                "mov $4096, %ecx\n"
                "rep stosb\n"
                "hlt\n");

static void marked_in_vain(void **state)
{
    struct im *m = im_new(2);
    struct vcpu *marker = m->vm->cpu[1];
    const uint32_t *flags = gpa_page_flags(m->vm->ram_map, 0x11000);

    (void)state;
    IM_LOAD(m, fill64);
    for (unsigned i = 0; i < 3; i++) {
        im_long(m, m->v);
        assert_int_equal(im_run(m, m->v), EXIT_HLT);
        assert_int_equal(*flags & GPA_PF_CODE, 0);
        vcpu_enter_guest(marker);
        assert_false(interp_mark(marker->interp_priv, 0x11000, 64));
        vcpu_leave_guest(marker);
        assert_int_not_equal(*flags & GPA_PF_CODE, 0);
    }
    im_free(m);
}

/* --- steps ----------------------------------------------------------------------- */

static void step(struct im *m)
{
    struct vcpu_exit e;

    vcpu_enter_guest(m->v);
    IM_ENGINE.step(m->v, &e);
    vcpu_leave_guest(m->v);
}

/* What was decoded at an address is remembered for these bytes in this mode only. */
static void steps_remember(void **state)
{
    struct im *m = im_new(1);
    struct x86_cpu *c = &m->v->cpu;
    static const uint8_t add[] = {0x48, 0x05, 1, 0, 0, 0}; /* add $1, %rax; elsewhere dec %eax, add $1, %eax */
    static const uint8_t movabs[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8};

    (void)state;
    im_put(m, IM_CODE, add, sizeof(add));
    for (unsigned k = 0; k < 3; k++) {
        m->vm->ram[IM_CODE + 2] = (uint8_t)(1 + k); /* nobody is told */
        for (unsigned i = 0; i < 2; i++) {
            im_long(m, m->v);
            step(m);
            assert_int_equal(c->rip, IM_CODE + 6);
            assert_int_equal(c->gpr[X86_RAX], 1 + k);
        }
        im_prot(m->v);
        step(m);
        assert_int_equal(c->rip, IM_CODE + 1);
        assert_int_equal(c->gpr[X86_RAX], 0xffffffff);
        im_real(m->v);
        c->gpr[X86_RAX] = 0x10000;
        c->rip = 1;
        step(m);
        assert_int_equal(c->rip, 4);
        assert_int_equal(c->gpr[X86_RAX], 0x10001 + k);
        im_prot(m->v);
        c->rip = IM_CODE + 1;
        step(m);
        assert_int_equal(c->rip, IM_CODE + 6);
        assert_int_equal(c->gpr[X86_RAX], 1 + k);
        /* The last byte is beyond the code segment. */
        im_prot(m->v);
        c->rip = IM_CODE + 1;
        im_seg(c, X86_CS, 0x08, 0, IM_CODE + 4, 0x409b);
        step(m);
        assert_int_equal(c->activity, X86_SHUTDOWN);
    }
    for (unsigned k = 0; k < sizeof(movabs) + 6; k++) { /* any byte of it changes it, none behind it does */
        im_put(m, IM_CODE, movabs, sizeof(movabs));
        im_long(m, m->v);
        step(m);
        assert_int_equal(c->gpr[X86_RAX], 0x0807060504030201);
        m->vm->ram[IM_CODE + k] ^= 1;
        im_long(m, m->v);
        step(m);
        if (k == 0) /* another REX: R8 */
            assert_int_equal(c->gpr[X86_R8], 0x0807060504030201);
        else if (k == 1)
            assert_int_equal(c->gpr[X86_RCX], 0x0807060504030201);
        else
            assert_int_equal(c->gpr[X86_RAX], 0x0807060504030201 ^ (k < 10 ? 1ull << 8 * (k - 2) : 0));
        assert_int_equal(c->rip, IM_CODE + 10);
    }
    /* SLDT is for protected mode. */
    im_put(m, IM_CODE, "\x0f\x00\xc0", 3);
    im_prot(m->v);
    im_seg(c, X86_CS, 0x08, IM_CODE, 0xffff, 0x9b);
    c->rip = 0;
    x86_recompute(c);
    step(m);
    assert_int_equal(c->rip, 3);
    im_real(m->v);
    c->idtr.limit = 0x3ff;
    memcpy(m->vm->ram + 6 * 4, "\x34\x12\x00\x10", 4); /* #UD: 1000:1234 */
    step(m);
    assert_int_equal(c->rip, 0x1234);
    im_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops), cmocka_unit_test(calls), cmocka_unit_test(prot), cmocka_unit_test(real),
        cmocka_unit_test(fault), cmocka_unit_test(noncanonical), cmocka_unit_test(strings), cmocka_unit_test(smc),
        cmocka_unit_test(crossing), cmocka_unit_test(atomics), cmocka_unit_test(cross_modifying), cmocka_unit_test(marked_in_vain),
        cmocka_unit_test(steps_remember),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
