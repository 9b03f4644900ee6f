/* Debug exceptions: single step, code, data and I/O breakpoints, RF, general detect, ICEBP, the MOV SS shadow (SDM Vol.
 * 3B, 17). */
#include "attempt.h"

#define MAX 32
static struct {
    uint64_t rip, dr6, flags, rax;
} db[MAX];
static volatile unsigned ndb, stop_after;
static bool resume_flag = true;

#define DR_RW(n)                                                                                                       \
    static inline uint64_t read_dr##n(void)                                                                            \
    {                                                                                                                  \
        uint64_t v;                                                                                                    \
        __asm__ volatile("mov %%dr" #n ",%0" : "=r"(v));                                                               \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void write_dr##n(uint64_t v)                                                                         \
    {                                                                                                                  \
        __asm__ volatile("mov %0,%%dr" #n ::"r"(v) : "memory");                                                        \
    }
DR_RW(0)
DR_RW(1) DR_RW(2) DR_RW(3) DR_RW(6) DR_RW(7)

    static void on_db(struct frame *f)
{
    uint64_t d6 = read_dr6();
    if (ndb < MAX) {
        db[ndb].rip = f->rip;
        db[ndb].dr6 = d6;
        db[ndb].flags = f->rflags;
        db[ndb].rax = f->rax;
    }
    ndb++;
    write_dr6(0xffff0ff0);
    if (ndb >= stop_after)
        f->rflags &= ~0x100ull;
    if (resume_flag)
        f->rflags |= 0x10000;
}

static void begin(unsigned limit)
{
    ndb = 0;
    stop_after = limit;
    write_dr6(0xffff0ff0);
}

/* Set TF; the first instruction after POPFQ is the first to trap. */
#define TF_ON "pushfq\n orl $0x100, (%%rsp)\n popfq\n"
#define TF_OFF "pushfq\n andl $~0x100, (%%rsp)\n popfq\n"

extern const uint8_t ss1[], ss2[], ss3[], ss4[];
static uint8_t buf[64] __attribute__((aligned(64)));

static void single_step(void)
{
    begin(100);
    __asm__ volatile(TF_ON "nop\nss1: movl $5, %%eax\nss2: leaq (%%rax), %%rax\nss3: " TF_OFF "ss4: nop\n" ::
                         : "rax", "memory", "cc");
    CHECK_EQ("TF: one trap an instruction, also behind the POPF that clears it", ndb, 6);
    CHECK("TF: RIP is that of the next instruction", db[0].rip == (uint64_t)ss1 && db[1].rip == (uint64_t)ss2 &&
                                                         db[2].rip == (uint64_t)ss3 && db[5].rip == (uint64_t)ss4);
    CHECK("TF: DR6.BS alone", db[0].dr6 == 0xffff4ff0);
    CHECK("TF: set in the image, clear in the handler's flags", db[0].flags & 0x100);
    begin(100);
    uint64_t n = 3;
    __asm__ volatile("leaq %1, %%rdi\n movl $0x5a, %%eax\n" TF_ON "rep stosb\n" TF_OFF
                     : "+c"(n)
                     : "m"(buf)
                     : "rdi", "rax", "memory", "cc");
    CHECK_EQ("TF: a trap after each iteration of a repeated instruction", ndb, 3 + 3);
    LAX("does not push RF");
    CHECK("TF: RF is set in the image between iterations, clear behind the last",
          (db[0].flags & 0x10000) && (db[1].flags & 0x10000) && !(db[2].flags & 0x10000));
    CHECK("TF: RIP stays at the repeated instruction but for the last",
          db[0].rip == db[1].rip && db[2].rip == db[1].rip + 2);
}

static void on_60(struct frame *f)
{
    db[20].flags = rflags();
    db[20].rip = f->rflags;
}

static void step_int(void)
{
    set_handler(0x60, on_60);
    set_gate(0x60, stub_of(0x60), 3, 0, 15);
    begin(1);
    /* INT n clears TF and does not trap itself; the trap comes after the instruction behind it. */
    ATTEMPT(TF_ON "int $0x60\n1: nop\n2: " TF_OFF, "c"(0));
    CHECK("TF: clear inside INT n, also through a trap gate", !(db[20].flags & 0x100) && (db[20].rip & 0x100));
    CHECK("TF: INT n itself does not trap", db[0].rip == site_next);
    begin(1);
    ATTEMPT("movw %%ss, %%cx\n" TF_ON "1: movw %%cx, %%ss\n2: nop\n3: " TF_OFF, "c"(0x10));
    CHECK_EQ("TF: no trap behind MOV SS, but behind the next instruction", db[0].rip, site_next + 1);
    begin(1);
    ATTEMPT("pushq $0x10\n" TF_ON "1: nop\n2: nop\n" TF_OFF, "c"(0));
    CHECK_EQ("TF: trap behind NOP", db[0].rip, site_next);
    /* a fault takes precedence: the instruction did not complete */
    begin(1);
    ATTEMPT(TF_ON "1: ud2\n2: " TF_OFF, "c"(0));
    EXPECT_FAULT("TF: a fault of the instruction comes instead of the trap", 6, 0);
    CHECK("TF: and its image has TF", (fault.rflags & 0x100) != 0);
}

static void code(void)
{
    extern const uint8_t cb0[];
    begin(100);
    write_dr0((uint64_t)cb0);
    write_dr7(0x402);
    uint64_t r;
    __asm__ volatile("movl $1, %%eax\n movl $7, %%ecx\ncb0: addl $1, %%eax\n nop" : "=a"(r)::"rcx", "cc");
    CHECK("code breakpoint: fault at the instruction", ndb == 1 && db[0].rip == (uint64_t)cb0 && db[0].rax == 1);
    CHECK_EQ("code breakpoint: DR6.B0", db[0].dr6, 0xffff0ff1);
    CHECK_EQ("RF lets the instruction run once", r, 2);
    CHECK("code breakpoint: RF is clear in the image (SDM Vol. 3B, 17.3.1.1)", !(db[0].flags & 0x10000));
    write_dr0((uint64_t)cb0 + 1);
    begin(100);
    __asm__ volatile("call 1f\n jmp 2f\n 1: jmp cb2\n cb2: ret\n 2:" ::: "memory");
    CHECK_EQ("code breakpoint inside an instruction does not match", ndb, 0);
    /* disabled, other slots */
    extern const uint8_t cb3[];
    write_dr0(0);
    write_dr3((uint64_t)cb3);
    write_dr7(0x400 | 1 << 7);
    begin(100);
    __asm__ volatile("cb3: nop");
    CHECK("code breakpoint in DR3 by its G bit", ndb == 1 && db[0].rip == (uint64_t)cb3 && (db[0].dr6 & 15) == 8);
    write_dr7(0x400);
    /* in front of a faulting instruction the breakpoint is first */
    extern const uint8_t cb4[];
    write_dr7(0x400);
    write_dr0((uint64_t)cb4);
    write_dr7(0x402);
    begin(100);
    ATTEMPT("cb4:\n1: ud2\n2:", "c"(0));
    CHECK("code breakpoint comes before #UD", ndb == 1 && db[0].rip == site && fault.vector == 6);
    write_dr7(0x400);
}

static volatile uint64_t target[4] __attribute__((aligned(32)));
extern const uint8_t dw1[], dw2[], dw3[];

static void data(void)
{
    uint64_t v;
    write_dr1((uint64_t)&target[1]);
    write_dr7(0x400 | 8 | 1u << 20 | 3u << 22); /* G1, write, 4 bytes */
    begin(100);
    __asm__ volatile("movl $1, %0\ndw1:" : "=m"(target[1]));
    CHECK("data write breakpoint: trap behind the instruction", ndb == 1 && db[0].rip == (uint64_t)dw1);
    CHECK_EQ("data write breakpoint: DR6.B1", db[0].dr6, 0xffff0ff2);
    CHECK_EQ("data write breakpoint: the write is done", target[1], 1);
    begin(100);
    v = target[1];
    CHECK_EQ("write breakpoint: reads pass", ndb, 0);
    ((volatile uint8_t *)&target[1])[4] = 1;
    CHECK_EQ("write breakpoint: the byte behind its range passes", ndb, 0);
    begin(100);
    ((volatile uint8_t *)&target[1])[3] = 1;
    LAX("matches the exact address only");
    CHECK_EQ("write breakpoint: a byte inside its range", ndb, 1);
    begin(100);
    *(volatile uint32_t *)((uint8_t *)&target[1] - 3) = 0;
    CHECK_EQ("write breakpoint: an access that overlaps from below", ndb, 1);
    begin(100);
    __asm__ volatile("incl %0\ndw2:" : "+m"(target[1])::"cc");
    CHECK("write breakpoint: read-modify-write", ndb == 1 && db[0].rip == (uint64_t)dw2);
    write_dr7(0x400 | 8 | 3u << 20 | 2u << 22); /* read or write, 8 bytes */
    begin(100);
    v = target[1];
    CHECK_EQ("read/write breakpoint: read", ndb, 1);
    begin(100);
    __asm__ volatile("cmpq %0, %%rax" ::"m"(target[1]) : "cc");
    CHECK_EQ("read/write breakpoint: CMP", ndb, 1);
    begin(100);
    ((volatile uint8_t *)&target[1])[7] = 1;
    CHECK_EQ("8-byte breakpoint: its last byte", ndb, 1);
    begin(100);
    __asm__ volatile("pushq %0; popq %%rax" ::"m"(target[1]) : "rax", "memory");
    CHECK_EQ("read/write breakpoint: PUSH mem", ndb, 1);
    begin(100);
    __asm__ volatile("lea %0, %%rax; prefetcht0 %0" ::"m"(target[1]) : "rax");
    CHECK_EQ("read/write breakpoint: LEA and PREFETCH do not access", ndb, 0);
    begin(100);
    __asm__ volatile("leaq %0, %%rdi\n movl $4, %%ecx\n xorl %%eax, %%eax\n cld\n rep stosq\ndw3:"
                     : "=m"(target)::"rdi", "rcx", "rax", "memory");
    CHECK("write breakpoint: once in REP STOS", ndb == 1);
    CHECK("REP STOS: reported between iterations, or behind it",
          db[0].rip == (uint64_t)dw3 || db[0].rip == (uint64_t)dw3 - 3);
    /* MOV SS holds the trap back until after the next instruction */
    begin(100);
    target[1] = 0x10;
    ndb = 0;
    ATTEMPT("1: movw (%%rcx), %%ss\n2: nop\n3: nop\n", "c"(&target[1]));
    LAX("delivers it behind MOV SS (SDM Vol. 3A, 6.8.3)");
    CHECK("data breakpoint on MOV SS is delivered behind the next instruction", ndb == 1 && db[0].rip == site_next + 1);
    /* DR7 off */
    write_dr7(0x400);
    begin(100);
    target[1] = 0;
    v = target[1];
    CHECK_EQ("DR7 off: nothing", ndb, 0);
    (void)v;
}

static void io(void)
{
    write_dr7(0x400);
    write_cr4(read_cr4() | 8);
    write_dr2(0x80);
    write_dr7(0x400 | 0x20 | 2u << 24);
    begin(100);
    extern const uint8_t io1[];
    __asm__ volatile("outb %%al, $0x80\nio1:" ::"a"(0));
    LAX_KVM(KVM_ANY, "ends the instruction in software, without looking at breakpoints");
    CHECK("I/O breakpoint: trap behind OUT", ndb == 1 && db[0].rip == (uint64_t)io1 && (db[0].dr6 & 15) == 4);
    begin(100);
    (void)inb(0x80);
    LAX_KVM(KVM_ANY, "ends the instruction in software, without looking at breakpoints");
    CHECK_EQ("I/O breakpoint: IN", ndb, 1);
    begin(100);
    (void)inb(0x84);
    CHECK_EQ("I/O breakpoint: another port", ndb, 0);
    write_dr7(0x400);
    ATTEMPT("1: movq %%dr4, %%rcx\n2:", "c"(0));
    EXPECT_FAULT("DR4 with CR4.DE: #UD", 6, 0);
    write_cr4(read_cr4() & ~8ull);
    ATTEMPT("1: movq %%dr4, %%rcx\n2:", "c"(0));
    EXPECT_NONE("DR4 is DR6 without CR4.DE");
}

static void registers(void)
{
    write_dr6(0);
    CHECK_EQ("DR6 fixed bits", read_dr6(), 0xffff0ff0);
    write_dr7(0);
    CHECK_EQ("DR7 bit 10", read_dr7(), 0x400);
    ATTEMPT("1: movq %%rcx, %%dr7\n2:", "c"(1ull << 32));
    EXPECT_FAULT("DR7 bit 32: #GP", 13, 0);
    ATTEMPT("1: movq %%rcx, %%dr6\n2:", "c"(1ull << 32));
    EXPECT_FAULT("DR6 bit 32: #GP", 13, 0);
    write_dr0(0x123456789abcdef0ull);
    CHECK_EQ("DR0 holds 64 bits", read_dr0(), 0x123456789abcdef0ull);
    write_dr0(0);
    /* general detect */
    begin(100);
    extern const uint8_t gd1[];
    if (!lax("DR7.GD", "TCG has no general detect (SDM Vol. 3B, 17.2.4)")) {
        uint64_t d;
        resume_flag = false;
        write_dr7(0x2400);
        /* the handler's own DR accesses work: delivery clears GD */
        __asm__ volatile("gd1: movq %%dr0, %0" : "=r"(d));
        CHECK("DR7.GD: fault at the access", ndb == 1 && db[0].rip == (uint64_t)gd1);
        CHECK_EQ("DR7.GD: DR6.BD", db[0].dr6, 0xffff2ff0);
        CHECK_EQ("DR7.GD is cleared by delivery", read_dr7(), 0x400);
        resume_flag = true;
        begin(100);
        extern const uint8_t ib1[];
        __asm__ volatile(".byte 0xf1\nib1:");
        CHECK("INT1: trap, no DR6 bit", ndb == 1 && db[0].rip == (uint64_t)ib1 && db[0].dr6 == 0xffff0ff0);
    }
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    tss_init();
    set_handler(1, on_db);
    set_handler(0x60, on_60);
    registers();
    single_step();
    step_int();
    code();
    data();
    io();
    finish();
}
