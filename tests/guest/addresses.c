/* Where a monitor that is a process could have something of its own: addresses all over both halves, coarsely everywhere and finely where
 * Linux puts programs, libraries and stacks, the vsyscall page, what is not canonical. Kernel and user code load, store, push, jump,
 * call, return there. Not mapped, it is the page fault of the architecture; mapped, it is the guest's own page. */
#include "attempt.h"
#include "user.h"

static uint8_t buf[64];
static unsigned tried;

/* The i-th address; 0: no more. */
static uint64_t address(unsigned i)
{
    static const uint64_t odd[] = {0xffffffffff600000ull, 0xffffffffff600400ull, 0xffffffffff600800ull, 0x7ffffffff000ull, 0x7fffffffe000ull, 0x7fffffffdf00ull,
                                   0x400000000000ull, 0xffff888000000000ull, 0xffffffff81000000ull, 0xffff800000000000ull, 0xffffc90000000000ull,
                                   0xffffea0000000000ull, 0xffffffffc0000000ull, 0xfffffffffffff000ull};
    if (i < 255)
        return ((uint64_t)i + 1) << 39 | 0x7c0;
    i -= 255;
    if (i < 255)
        return 0xffff800000000000ull | (uint64_t)i << 39 | 0x345678c0;
    i -= 255;
    if (i < 1024)
        return 0x7f0000000000ull + ((uint64_t)i << 30) + (i * 0x35fa1000ull & 0x3ffff000) + 0x100;
    i -= 1024;
    if (i < 1024)
        return 0x550000000000ull + ((uint64_t)i << 31) + (i * 0x2b7e1000ull & 0x7ffff000) + 0x200;
    i -= 1024;
    if (i < 256) /* not canonical, but for the upper bits where something could be */
        return ((uint64_t)(i + 1) << 48) ^ (i & 1 ? 0x7ffff7d00000ull : 0xffff800000000000ull);
    i -= 256;
    return i < sizeof(odd) / sizeof(odd[0]) ? odd[i] : 0;
}

static bool canonical(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }

/* What TCG is known to do otherwise: it reports locked accesses as reads, and jumps out of the canonical range after they are done. */
static bool tcg;

/* Is the fault what an access of this kind to a must raise? at: RIP of the instruction; stack: the operand is in the stack segment. */
static bool right(uint64_t a, uint64_t vector, uint64_t error, uint64_t rip, uint64_t cr2, uint64_t want_error, uint64_t at, bool stack)
{
    tried++;
    if (tcg && (!canonical(a) || ((want_error ^ error) & 2)))
        return true;
    if (!canonical(a))
        return vector == (stack ? 12 : 13) && error == 0 && rip == at;
    return vector == 14 && error == want_error && cr2 == a && rip == (want_error & 16 ? a : at);
}

static unsigned shown;
static void complain(const char *name, uint64_t a, uint64_t vector, uint64_t error, uint64_t rip, uint64_t cr2)
{
    if (shown++ < 6)
        print("  %s at %lx: vector %lx error %lx rip %lx cr2 %lx\n", name, a, vector, error, rip, cr2);
}

/* --- kernel code --- */

static struct {
    uint64_t ip;
    uint16_t cs;
} __attribute__((packed)) far_pointer = {0, 8};

#define KERNEL(name, code, a, kind, stack)                                                                             \
    do {                                                                                                               \
        uint64_t a_ = (a);                                                                                             \
        ATTEMPT(code, "r"(a_), "r"(&far_pointer), "r"(buf));                                                           \
        if (!fault.happened || !right((a_) + ((stack) && (kind) == 2 ? -8ull : 0), fault.vector, fault.error, fault.rip, fault.cr2, (kind), site, (stack))) {  \
            bad++;                                                                                                     \
            complain(name, a_, fault.happened ? fault.vector : 0x99, fault.error, fault.rip, fault.cr2);              \
        }                                                                                                              \
    } while (0)

static unsigned kernel_at(uint64_t a, unsigned round)
{
    unsigned bad = 0;

    KERNEL("load", "1: movb (%0),%%al; 2:", a, 0, false);
    KERNEL("store", "1: movb %%al,(%0); 2:", a, 2, false);
    KERNEL("JMP", "1: jmp *%0; 2:", a, 16, false);
    far_pointer.ip = a;
    switch (round % 11) {
    case 0: KERNEL("LOCK", "1: lock incl (%0); 2:", a, 2, false); break;
    case 1: KERNEL("PUSH", "movq %0,%%rsp; 1: pushq %%rax; 2:", a, 2, true); break;
    case 2: KERNEL("POP", "movq %0,%%rsp; 1: popq %%rax; 2:", a, 0, true); break;
    case 3: KERNEL("CALL", "movq %0,%%rsp; 1: call 3f; 2: jmp 4f; 3: ret; 4:", a, 2, true); break;
    case 4: KERNEL("RET", "pushq %0; 1: ret; 2:", a, 16, false); break;
    case 5: KERNEL("far RET", "pushq $8; pushq %0; 1: lretq; 2:", a, 16, false); break;
    case 6: KERNEL("far JMP", "1: rex.w ljmp *(%1); 2:", a, 16, false); break;
    case 7: KERNEL("IRET", "movq %%rsp,%%r8; pushq $0x10; pushq %%r8; pushfq; pushq $8; pushq %0; 1: iretq; 2:", a, 16, false); break;
    case 8:
        KERNEL("MOVS from", "movq %%rsi,%%r8; movq %%rdi,%%r9; movq %2,%%r10; movq %0,%%rsi; movq %%r10,%%rdi; 1: movsb; 2: movq %%r8,%%rsi; movq %%r9,%%rdi", a, 0, false);
        break;
    case 9:
        KERNEL("STOS", "movq %%rdi,%%r9; movq %%rcx,%%r8; movq %0,%%rdi; movl $8,%%ecx; 1: rep stosq; 2: movq %%r9,%%rdi; movq %%r8,%%rcx", a, 2, false);
        break;
    default: KERNEL("CALL by register", "movq %%rsp,%%r8; 1: call *%0; 2:", a, 16, false); break;
    }
    return bad;
}

/* --- user code --- */

#define AT(name, before, insn)                                                                                         \
    USER_CODE(name, before #name "_at: " insn "; syscall");                                                          \
    USER_LABEL(name##_at)
AT(u_load, "", "movb (%rdi), %al");
AT(u_store, "", "movb %al, (%rdi)");
AT(u_jump, "", "jmp *%rdi");
AT(u_lock, "", "lock incl (%rdi)");
AT(u_push, "movq %rdi, %rsp; ", "pushq %rax");
AT(u_pop, "movq %rdi, %rsp; ", "popq %rax");
AT(u_ret, "pushq %rdi; ", "ret");
AT(u_lret, "pushq $0x33; pushq %rdi; ", "lretq");
AT(u_ljmp, "movq %rdi, -80(%rsp); movl $0x33, -72(%rsp); ", "rex.w ljmp *-80(%rsp)");
AT(u_iret, "movq %rsp, %rax; pushq $0x2b; pushq %rax; pushfq; pushq $0x33; pushq %rdi; ", "iretq");
AT(u_movs, "movq %rdi, %rsi; leaq -64(%rsp), %rdi; ", "movsb");
AT(u_stos, "movl $8, %ecx; ", "rep stosq");
AT(u_call, "", "call *%rdi");
AT(u_vector, "", "vmovups %ymm0, (%rdi)");

static const struct {
    const char *name;
    const uint8_t *code, *at;
    uint8_t kind;
    bool stack;
} user_ops[] = {
#define OP(n, kind, stack) {#n, n, n##_at, kind, stack}
    OP(u_load, 0, false), OP(u_store, 2, false), OP(u_jump, 16, false), OP(u_lock, 2, false), OP(u_push, 2, true), OP(u_pop, 0, true), OP(u_ret, 16, false),
    OP(u_lret, 16, false), OP(u_ljmp, 16, false), OP(u_iret, 16, false), OP(u_movs, 0, false), OP(u_stos, 2, false), OP(u_call, 16, false), OP(u_vector, 2, false),
};
#define NOPS (sizeof(user_ops) / sizeof(user_ops[0]))

static unsigned user_at(uint64_t a, unsigned round)
{
    unsigned bad = 0;

    for (unsigned k = 0; k < 4; k++) {
        unsigned op = k < 3 ? k : 3 + round % (NOPS - 3);
        struct frame f = user_regs(USER_AT(user_ops[op].code));
        f.rdi = a;
        user_run(&f);
        uint64_t from = a + (user_ops[op].stack && user_ops[op].kind == 2 ? -8ull : 0);
        /* The processor may name any byte of a wide access. */
        uint64_t cr2 = user_ops[op].code == u_vector && user_cr2 - from < 32 ? from : user_cr2;
        if (!right(from, f.vector, f.error, f.rip, cr2, user_ops[op].kind | 4u, USER_AT(user_ops[op].at), user_ops[op].stack)) {
            bad++;
            complain(user_ops[op].name, a, f.vector, f.error, f.rip, user_cr2);
        }
    }
    return bad;
}

/* --- mapped --- */

static uint64_t tables[3][512] __attribute__((aligned(4096)));
static uint8_t page[4096] __attribute__((aligned(4096)));

/* A page of the guest at a, for all privileges, beside what is there already in the top table's entry. */
static unsigned mapped_at(uint64_t a)
{
    uint64_t *pml4 = (uint64_t *)(read_cr3() & ~0xfffull), old = pml4[a >> 39 & 511];
    volatile uint8_t *there = (volatile uint8_t *)a, *own = page + (a & 0xfff);
    unsigned bad = 0;

    if (old)
        return 0; /* the guest's own programs live there */
    memset(tables, 0, sizeof(tables));
    memset(page, 0x5a, sizeof(page));
    pml4[a >> 39 & 511] = (uint64_t)tables[0] | 7;
    tables[0][a >> 30 & 511] = (uint64_t)tables[1] | 7;
    tables[1][a >> 21 & 511] = (uint64_t)tables[2] | 7;
    tables[2][a >> 12 & 511] = (uint64_t)page | 7;

    own[0] = 0x11;
    bad += there[0] != 0x11;
    there[1] = 0x22;
    bad += own[1] != 0x22;
    own[0] = 0xc3; /* RET */
    ATTEMPT("1: call *%0; 2:", "r"(a));
    bad += fault.happened;
    struct frame f = user_regs(USER_AT(u_load));
    own[0] = 0x77;
    f.rdi = a;
    user_run(&f);
    bad += f.vector != SYS || (f.rax & 0xff) != 0x77;
    f = user_regs(USER_AT(u_store));
    f.rdi = a, f.rax = 0x88;
    user_run(&f);
    bad += f.vector != SYS || own[0] != 0x88;
    own[0] = 0x0f, own[1] = 0x05; /* SYSCALL */
    f = user_regs(USER_AT(u_jump));
    f.rdi = a;
    user_run(&f);
    bad += f.vector != SYS || f.rip != a + 2;
    if (bad)
        complain("mapped", a, f.vector, f.error, f.rip, user_cr2);
    pml4[a >> 39 & 511] = old;
    invlpg(a);
    bad += kernel_at(a, 0) + user_at(a, 0);
    return bad;
}

void guest_main(uint32_t info, uint32_t magic)
{
    if (!user_init())
        finish();
    tcg = under_qemu();
    for (unsigned v = 12; v <= 14; v++)
        use_ist(v, true); /* the stack may be what is wrong */
    unsigned kernel = 0, user = 0, mapped = 0, n = 0;
    uint64_t a;

    for (; (a = address(n)); n++)
        kernel += kernel_at(a, n);
    CHECK_EQ("kernel code at addresses that are not mapped", kernel, 0);
    for (unsigned i = 0; i < n; i++)
        if (canonical(address(i)) || i % 4 == 0)
            user += user_at(address(i), i);
    CHECK_EQ("user code at addresses that are not mapped", user, 0);
    for (unsigned i = 0; i < n; i += i < 510 ? 3 : 17)
        if (canonical(address(i)))
            mapped += mapped_at(address(i));
    for (unsigned i = n - 14; i < n; i++)
        mapped += mapped_at(address(i));
    CHECK_EQ("pages of the guest at such addresses", mapped, 0);
    CHECK("as many as there are", tried > 4 * 2 * 2500 && n > 2700);
    finish();
}
