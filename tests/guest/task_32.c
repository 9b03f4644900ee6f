/* Hardware task switches: JMP, CALL, IRET, task gates, interrupts and exceptions; busy and NT bits, back links, #TS
 * (SDM Vol. 3A, 7). */
#include "guest32.h"

struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs,
        ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
};
_Static_assert(sizeof(struct tss) == 104, "TSS");

static volatile struct tss t1, t2;
static uint8_t stack1[4096] __attribute__((aligned(16)));
static volatile uint32_t saw[8];
#define T1 0x40
#define T2 0x48
#define GATE 0x50
#define BUSY(sel) (gdt[(sel) / 8] >> 41 & 1)

static void make(volatile struct tss *t, const void *eip, void *stack_end)
{
    memset((void *)t, 0, sizeof(*t));
    t->eip = (uint32_t)eip;
    t->eflags = 2;
    t->esp = (uint32_t)stack_end;
    t->cs = 8;
    t->ss = t->ds = t->es = 0x10;
    t->iomap = 104;
    t->esp0 = tss[1];
    t->ss0 = 0x10;
}

static void fresh(const void *eip)
{
    make(&t1, eip, stack1 + sizeof(stack1));
    gdt[T1 / 8] = segment((uint32_t)&t1, 103, 0x89, 0);
    gdt[GATE / 8] = gate(T1, NULL, 0x85);
    gdt[7] = (gdt[7] & ~(0xffull << 40)) | 0x8bull << 40;
    for (int i = 0; i < 8; i++)
        saw[i] = 0;
}

/* Tasks. They find the caller's state in its TSS. */
__asm__(".pushsection .text.tasks,\"ax\"\n"
        "task_iret: str saw; movl %cr0, %eax; movl %eax, saw+4; pushfl; popl saw+8; movl %ebx, saw+12; movl %esp, "
        "saw+16\n iret\n"
        " incl saw+20; iret\n" /* entered again: goes on behind the IRET */
        "task_jmp: str saw; pushfl; popl saw+8; ljmp $0x38, $0\n"
        "task_int: str saw; pushfl; popl saw+8; iret\n"
        ".popsection\n");
extern uint8_t task_iret[], task_jmp[], task_int[];

static void call_and_iret(void)
{
    fresh(task_iret);
    t1.ebx = 0x12345678;
    uint32_t before_esp, after_esp, ax;
    __asm__ volatile("movl %%esp, %0; movl $0x5a5a5a5a, %%eax; lcall $0x40, $0; movl %%eax, %2; movl %%esp, %1"
                     : "=&r"(before_esp), "=&r"(after_esp), "=&r"(ax)::"eax", "memory", "cc");
    CHECK("CALL to a TSS and IRET: back with registers", before_esp == after_esp && ax == 0x5a5a5a5a);
    CHECK_EQ("TR inside", saw[0] & 0xffff, T1);
    CHECK_EQ("back link", t1.link & 0xffff, 0x38);
    CHECK("NT inside, TS set", (saw[2] & 0x4000) && (saw[1] & 8));
    CHECK("registers from the TSS", saw[3] == 0x12345678 && saw[4] == (uint32_t)stack1 + sizeof(stack1));
    CHECK("busy: not the callee's any more, the caller's still", !BUSY(T1) && BUSY(0x38));
    CHECK("NT is clear in the image IRET saved", !(t1.eflags & 0x4000));
    CHECK("EAX of the caller is in its TSS", tss[10] == 0x5a5a5a5a);
    CHECK("CR0.TS", read_cr0() & 8);
    __asm__ volatile("clts");
    /* the saved EIP is behind the IRET */
    __asm__ volatile("lcall $0x40, $0" ::: "memory", "cc", "eax");
    CHECK_EQ("a task goes on behind its IRET", saw[5], 1);
    /* through a task gate in the GDT */
    fresh(task_iret);
    __asm__ volatile("lcall $0x50, $0x1234" ::: "memory", "cc", "eax");
    CHECK_EQ("CALL through a task gate", saw[0] & 0xffff, T1);
}

static void jump(void)
{
    fresh(task_jmp);
    __asm__ volatile("ljmp $0x40, $0" ::: "memory", "cc");
    CHECK_EQ("JMP to a TSS and back", saw[0] & 0xffff, T1);
    CHECK("JMP does not nest", !(saw[2] & 0x4000) && t1.link == 0);
    CHECK("JMP moves the busy bit", !BUSY(T1) && BUSY(0x38));
}

static void interrupts(void)
{
    fresh(task_int);
    set_idt(0x90, gate(T1, NULL, 0x85));
    uint32_t fl;
    __asm__ volatile("int $0x90; pushfl; popl %0" : "=r"(fl)::"memory", "cc");
    CHECK("INT n through a task gate", (saw[0] & 0xffff) == T1 && (saw[2] & 0x4000));
    CHECK("IF stays as the TSS says", !(saw[2] & 0x200));
    /* #UD: the saved EIP is that of the instruction; the task moves it on */
    __asm__(".pushsection .text.tasks,\"ax\"\ntask_ud: movl tss+32, %eax; movl %eax, saw+4; addl $2, tss+32; "
            "iret\n.popsection");
    extern uint8_t task_ud[], ud_at[];
    uint64_t old = idt[6];
    fresh(task_ud);
    set_idt(6, gate(T1, NULL, 0x85));
    __asm__ volatile("ud_at: ud2" ::: "memory", "cc");
    CHECK_EQ("#UD through a task gate: EIP", saw[1], (uint32_t)ud_at);
    set_idt(6, old);
    /* #GP with an error code on the new task's stack */
    __asm__(".pushsection .text.tasks,\"ax\"\ntask_gp: popl saw+4; movl %esp, saw+8; movl tss+32, %eax; movl %eax, "
            "saw+12; addl $3, tss+32; iret\n.popsection");
    extern uint8_t task_gp[], gp_at[];
    old = idt[13];
    fresh(task_gp);
    set_idt(13, gate(T1, NULL, 0x85));
    __asm__ volatile("gp_at: .byte 0x66; movw %%ax, %%fs" ::"a"(0xabc) : "memory", "cc");
    set_idt(13, old);
    CHECK_EQ("#GP through a task gate: error code on the task's stack", saw[1], 0xabc);
    CHECK_EQ("and nothing else", saw[2], (uint32_t)stack1 + sizeof(stack1));
    CHECK_EQ("#GP through a task gate: EIP", saw[3], (uint32_t)gp_at);
    CHECK("NT is clear again behind the IRET", !(fl & 0x4000));
}

static void nested(void)
{
    /* task 1 calls task 2, both return */
    __asm__(".pushsection .text.tasks,\"ax\"\nnest1: str saw; lcall $0x48, $0; incl saw+4; iret\nnest2: str saw+8; "
            "iret\n.popsection");
    extern uint8_t nest1[], nest2[];
    static uint8_t stack2[1024] __attribute__((aligned(16)));
    fresh(nest1);
    make(&t2, nest2, stack2 + sizeof(stack2));
    gdt[T2 / 8] = segment((uint32_t)&t2, 103, 0x89, 0);
    __asm__ volatile("lcall $0x40, $0" ::: "memory", "cc");
    CHECK("nested calls", (saw[0] & 0xffff) == T1 && (saw[2] & 0xffff) == T2 && saw[1] == 1);
    CHECK("back links", (t2.link & 0xffff) == T1 && (t1.link & 0xffff) == 0x38);
    CHECK("busy bits", !BUSY(T1) && !BUSY(T2) && BUSY(0x38));
}

static void state(void)
{
    /* ring 3 task with an LDT; the way back is a task gate for INT 0x91 of DPL 3 in the user's hands: INT 0x80 comes on
     * its ring 0 stack */
    static uint64_t ldt[2];
    static uint8_t ucode[16], ustack[256];
    ldt[1] = segment(0, 0xfffff, 0xf2, 12);
    gdt[11] = segment((uint32_t)ldt, 15, 0x82, 0);
    memcpy(ucode, "\x8c\xe0\x8c\xeb\xcd\x91\xcd\x80", 8); /* mov %fs,%eax; mov %gs,%ebx; int $0x91 */
    fresh(ucode);
    t1.cs = 0x2b;
    t1.ss = t1.ds = t1.es = 0x33;
    t1.fs = 0xf;
    t1.ldt = 0x58;
    t1.esp = (uint32_t)ustack + sizeof(ustack);
    set_idt(0x91, gate(0x38, NULL, 0xe5)); /* our own, busy: INT must refuse it */
    ATTEMPT("pushal; movl %%esp, try_esp\n1: lcall $0x40, $0\n2: popal; addl $32, try_esp",
            "c"(0)); /* the fault has the other task's registers */
    site = (uint32_t)ucode + 4;
    EXPECT_FAULT("INT through a task gate to a busy TSS: #GP(selector)", 13, 0x38);
    CHECK("ring 3 task ran, selectors and LDT loaded", fault.cs == 0x2b);
    uint32_t tr = 0, lr = 0;
    __asm__ volatile("str %0; sldt %1" : "=r"(tr), "=r"(lr));
    CHECK("TR and LDTR are the task's", (tr & 0xffff) == T1 && (lr & 0xffff) == 0x58);
    /* back: jump to our own TSS, made available, which resumes behind the far jump */
    gdt[7] &= ~(2ull << 40);
    uint32_t eip = tss[8];
    CHECK_EQ("our EIP was saved behind the call", eip, site_next);
    tss[8] = (uint32_t) && resumed; /* the far jump saves the other task's state and takes ours from here */
    __asm__ volatile(
        "movl %%esp, tss+56; movl %%ebp, tss+60; movl %%ebx, tss+52; movl %%esi, tss+64; movl %%edi, tss+68" ::
            : "memory");
    __asm__ goto("ljmp $0x38, $0" ::: "memory", "cc", "eax", "ecx", "edx" : resumed);
resumed:
    __asm__ volatile("str %0; sldt %1" : "=r"(tr), "=r"(lr));
    CHECK("back in our task, LDT null again", (tr & 0xffff) == 0x38 && (lr & 0xffff) == 0);
}

static void errors(void)
{
    fresh(task_iret);
    gdt[T1 / 8] = segment((uint32_t)&t1, 102, 0x89, 0);
    ATTEMPT("1: lcall $0x40, $0\n2:", "c"(0));
    EXPECT_FAULT("TSS limit too small: #TS(selector)", 10, T1);
    gdt[T1 / 8] = segment((uint32_t)&t1, 103, 0x09, 0);
    ATTEMPT("1: lcall $0x40, $0\n2:", "c"(0));
    EXPECT_FAULT("TSS not present: #NP(selector)", 11, T1);
    gdt[T1 / 8] = segment((uint32_t)&t1, 103, 0x8b, 0);
    ATTEMPT("1: lcall $0x40, $0\n2:", "c"(0));
    EXPECT_FAULT("CALL to a busy TSS: #GP(selector)", 13, T1);
    ATTEMPT("1: ljmp $0x40, $0\n2:", "c"(0));
    EXPECT_FAULT("JMP to a busy TSS: #GP(selector)", 13, T1);
    gdt[GATE / 8] = gate(T1, NULL, 0x05);
    ATTEMPT("1: lcall $0x50, $0\n2:", "c"(0));
    EXPECT_FAULT("task gate not present: #NP(gate)", 11, GATE);
    gdt[GATE / 8] = gate(0x10, NULL, 0x85);
    ATTEMPT("1: lcall $0x50, $0\n2:", "c"(0));
    EXPECT_FAULT("task gate to data: #GP(selector)", 13, 0x10);
    /* IRET with NT and a bad link */
    uint32_t link = tss[0];
    tss[0] = 0x10;
    ATTEMPT("pushfl; orl $0x4000, (%%esp); popfl\n1: iret\n2: pushfl; andl $~0x4000, (%%esp); popfl", "c"(0));
    EXPECT_FAULT("IRET with NT: link to data: #TS(selector)", 10, 0x10);
    tss[0] = T1;
    gdt[T1 / 8] = segment((uint32_t)&t1, 103, 0x89, 0);
    ATTEMPT("pushfl; orl $0x4000, (%%esp); popfl\n1: iret\n2: pushfl; andl $~0x4000, (%%esp); popfl", "c"(0));
    EXPECT_FAULT("IRET with NT: link to a TSS that is not busy: #TS(selector)", 10, T1);
    tss[0] = link;
    /* from ring 3: the TSS's DPL counts */
    static uint8_t u[16];
    memcpy(u, "\x9a\0\0\0\0\x40\0\xcd\x80", 9);
    struct frame f = user_frame(u);
    fresh(task_iret);
    run_frame(&f);
    site = (uint32_t)u;
    EXPECT_FAULT("CALL from ring 3 to a TSS of DPL 0: #GP(selector)", 13, T1);
    gdt[T1 / 8] = segment((uint32_t)&t1, 103, 0xe9, 0);
    f = user_frame(u);
    run_frame(&f);
    CHECK("CALL from ring 3 to a TSS of DPL 3, and IRET",
          !fault.happened && f.vector == 0x80 && f.eip == (uint32_t)u + 9 && (saw[0] & 0xffff) == T1);
    /* a TSS whose DS is bad: the fault is in the new task (a bad CS would leave no usable stack) */
    fresh(task_iret);
    t1.ds = 0x38;
    ATTEMPT("pushal; movl %%esp, try_esp\n1: lcall $0x40, $0\n2: popal; addl $32, try_esp",
            "c"(0)); /* the fault has the other task's registers */
    LAX("does not report it in the new task");
    CHECK("bad DS in the new TSS: #TS(selector) in the new task",
          fault.happened && fault.vector == 10 && fault.error == 0x38 && fault.eip == (uint32_t)task_iret);
    uint32_t tr;
    __asm__ volatile("str %0" : "=r"(tr));
    CHECK_EQ("TR is already the new task's", tr & 0xffff, T1);
}

void guest_main(void)
{
    init();
    call_and_iret();
    jump();
    interrupts();
    nested();
    state();
    errors();
    finish();
}
