/*
 * A teaching kernel, 32-bit: paging, two user processes, system calls, timer preemption, console; then a self-test of the
 * instructions that decide whether a processor can be virtualized by trap-and-emulate (Robin & Irvine, USENIX Security 2000).
 *
 * It prints what it saw beside what a processor of its own would show. On a bare machine, or an equivalent one, all is right.
 * Command line: "bench" measures the cost of what traps, "spin" loops for ever. Ends through the exit device at port 0xf4: 0 if nothing was wrong.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct frame {
    u32 es, ds, edi, esi, ebp, esp_dummy, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss;
};

extern u8 stubs[], stub_syscall[], user_start[], user_end[], gdtr[];
extern u64 gdt[];
void kernel_main(u32 info);
struct frame *interrupt(struct frame *f);
void enter(struct frame *f);
void leave(void) __attribute__((noreturn));

/* --- console ------------------------------------------------------------------- */

static void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static void put(char c)
{
    if (c == '\n')
        put('\r');
    while (!(inb(0x3fd) & 0x20))
        ;
    outb(0x3f8, (u8)c);
}

static void print(const char *s)
{
    while (*s)
        put(*s++);
}

static void print_hex(u32 v, int digits)
{
    while (digits--)
        put("0123456789abcdef"[v >> (4 * digits) & 15]);
}

static void print_dec(u32 v)
{
    if (v >= 10)
        print_dec(v / 10);
    put((char)('0' + v % 10));
}

/* --- the self-test's lines --------------------------------------------------------- */

static u32 right, wrong;

static void saw(const char *what, u32 value, u32 expected)
{
    const int ok = value == expected;
    print(ok ? "right  " : "WRONG  ");
    print(what);
    print(": ");
    print_hex(value, 8);
    if (!ok) {
        print(", a processor of its own shows ");
        print_hex(expected, 8);
    }
    put('\n');
    if (ok)
        right++;
    else
        wrong++;
}

/* --- interrupts ------------------------------------------------------------------------ */

static u64 idt[256];
static struct {
    u16 limit;
    u32 base;
} __attribute__((packed)) idtr;
static u32 tss[26];

static void gate(unsigned n, const void *at, unsigned dpl)
{
    idt[n] = ((u32)at & 0xffff) | 0x08ull << 16 | (u64)(0x8e00 | dpl << 13) << 32 | (u64)((u32)at & 0xffff0000) << 32;
}

static void descriptor(unsigned n, u32 base, u32 limit, u32 bits)
{
    gdt[n] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)bits << 40 | (u64)(limit >> 16 & 15) << 48 | (u64)(base >> 24) << 56;
}

#define PIT_RELOAD 11932 /* 100 Hz */

static void init_interrupts(void)
{
    for (unsigned i = 0; i < 49; i++) {
        u8 *s = stubs + i * 16;
        gate(i, s, i == 3 || i == 4 ? 3 : 0);
    }
    gate(0x80, stub_syscall, 3);
    idtr.limit = sizeof(idt) - 1;
    idtr.base = (u32)idt;
    __asm__ volatile("lidt %0" : : "m"(idtr));

    static const u8 icw[] = {0x11, 0x20, 4, 1, 0x11, 0x28, 2, 1};
    for (unsigned c = 0; c < 2; c++)
        for (unsigned i = 0; i < 4; i++)
            outb((u16)((c ? 0xa0 : 0x20) + !!i), icw[c * 4 + i]);
    outb(0x21, 0xfe);
    outb(0xa1, 0xff);
    outb(0x43, 0x34);
    outb(0x40, PIT_RELOAD & 0xff);
    outb(0x40, PIT_RELOAD >> 8);
}

/* --- paging: 8 MiB of identity-mapped kernel; a page of each process' own at USER_DATA ------ */

#define USER_DATA 0x800000u
#define NPROC 2

static u32 pd[NPROC + 1][1024] __attribute__((aligned(4096)));
static u32 pt[2][1024] __attribute__((aligned(4096)));
static u32 user_pt[NPROC][1024] __attribute__((aligned(4096)));
static u8 user_page[NPROC][4096] __attribute__((aligned(4096)));
static u8 stack[NPROC][4096] __attribute__((aligned(4096)));

static u32 cr0(void)
{
    u32 v;
    __asm__ volatile("movl %%cr0, %0" : "=r"(v));
    return v;
}
static void set_cr3(void *p) { __asm__ volatile("movl %0, %%cr3" : : "r"(p) : "memory"); }

static void init_paging(void)
{
    for (u32 i = 0; i < 2048; i++) {
        const u32 a = i << 12;
        pt[i >> 10][i & 1023] = a | 3 | (a >= (u32)user_start && a < (u32)user_end ? 4 : 0);
    }
    for (unsigned p = 0; p <= NPROC; p++) {
        pd[p][0] = (u32)pt[0] | 7;
        pd[p][1] = (u32)pt[1] | 7;
        if (p < NPROC) {
            user_pt[p][0] = (u32)user_page[p] | 7;
            pd[p][2] = (u32)user_pt[p] | 7;
        }
    }
    set_cr3(pd[NPROC]);
    __asm__ volatile("movl %0, %%cr0" : : "r"(cr0() | 0x80010000u) : "memory");
}

/* --- processes --------------------------------------------------------------------------------- */

enum { SYS_EXIT, SYS_SAW, SYS_NULL, SYS_YIELD };

struct shared { /* at USER_DATA, private to each process */
    volatile u32 count, stop, result[16];
};

static struct frame *proc[NPROC];
static u8 alive[NPROC];
static u32 current, running;
static volatile u32 ticks, switches, syscalls;
static volatile u32 user_fault_error, user_fault_addr, user_gp; /* what the user code's offences led to */
static u32 preempt_until;

static struct shared *shared_of(u32 p) { return (struct shared *)(void *)user_page[p]; }

static struct frame *schedule(struct frame *f)
{
    proc[current] = f;
    for (u32 i = 1; i <= NPROC; i++) {
        const u32 n = (current + i) % NPROC;
        if (alive[n]) {
            if (n != current)
                switches++;
            current = n;
            tss[1] = (u32)stack[n] + 4096;
            set_cr3(pd[n]);
            return proc[n];
        }
    }
    set_cr3(pd[NPROC]);
    running = 0;
    leave();
}

static const char *const user_what[] = {"PUSH CS in user code", "MOV from DS in user code", "PUSHF in user code, IF", "private page"};
static const u32 user_expect[] = {0x1b, 0x23, 0x200};

struct frame *interrupt(struct frame *f)
{
    switch (f->vector) {
    case 0x20:
        outb(0x20, 0x20);
        ticks++;
        if (running && ticks >= preempt_until)
            for (u32 p = 0; p < NPROC; p++)
                shared_of(p)->stop = 1;
        if (running && (f->cs & 3) == 3)
            return schedule(f);
        return f;
    case 0x80:
        syscalls++;
        switch (f->eax) {
        case SYS_EXIT: alive[current] = 0; return schedule(f);
        case SYS_YIELD: return schedule(f);
        case SYS_SAW:
            if (f->ebx < 3 && current == 0)
                saw(user_what[f->ebx], f->ecx, user_expect[f->ebx]);
            return f;
        default: return f;
        }
    case 13:
        if ((f->cs & 3) == 3 && *(u8 *)f->eip == 0xfa) { /* CLI in user code: counted and skipped */
            user_gp++;
            f->eip++;
            return f;
        }
        break;
    case 14: {
        u32 cr2;
        __asm__ volatile("movl %%cr2, %0" : "=r"(cr2));
        if ((f->cs & 3) == 3) { /* the user code below reads with a two-byte instruction */
            user_fault_error = f->error;
            user_fault_addr = cr2;
            f->eip += 2;
            return f;
        }
        break;
    }
    case 3: return f;
    default: break;
    }
    print("unexpected exception ");
    print_dec(f->vector);
    print(" error ");
    print_hex(f->error, 8);
    print(" at ");
    print_hex(f->cs, 4);
    put(':');
    print_hex(f->eip, 8);
    put('\n');
    outb(0xf4, 0x7f);
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* --- user code: everything below runs at CPL 3 --------------------------------------------------- */

#define USER __attribute__((section(".user"), noinline))

static inline __attribute__((always_inline)) void user_call(u32 nr, u32 a, u32 b)
{
    __asm__ volatile("int $0x80" : : "a"(nr), "b"(a), "c"(b) : "memory");
}

USER static void user_main(void)
{
    struct shared *s = (struct shared *)USER_DATA;
    u32 v;
    __asm__ volatile("pushl %%cs; popl %0" : "=r"(v));
    user_call(SYS_SAW, 0, v & 0xffff);
    __asm__ volatile("movl %%ds, %0" : "=r"(v));
    user_call(SYS_SAW, 1, v & 0xffff);
    __asm__ volatile("pushfl; popl %0" : "=r"(v));
    user_call(SYS_SAW, 2, v & 0x200);
    __asm__ volatile("cli");
    __asm__ volatile("movl (%0), %0" : "=r"(v) : "0"(0x100000)); /* the kernel's: must fault */
    while (!s->stop)
        s->count++;
    user_call(SYS_EXIT, 0, 0);
    for (;;)
        ;
}

USER static void user_bench(void)
{
    struct shared *s = (struct shared *)USER_DATA;
    for (u32 i = 0; i < s->result[0]; i++)
        user_call(s->result[1], 0, 0);
    user_call(SYS_EXIT, 0, 0);
    for (;;)
        ;
}

static void spawn(u32 p, void (*fn)(void))
{
    struct frame *f = (struct frame *)(void *)(stack[p] + 4096 - sizeof(*f));
    *f = (struct frame){.es = 0x23, .ds = 0x23, .eip = (u32)fn, .cs = 0x1b, .eflags = 0x202, .esp = USER_DATA + 4096, .ss = 0x23};
    proc[p] = f;
    alive[p] = 1;
}

static void run_processes(void)
{
    running = 1;
    current = 0;
    tss[1] = (u32)stack[0] + 4096;
    set_cr3(pd[0]);
    enter(proc[0]);
    __asm__ volatile("cli");
}

/* --- the self-test ------------------------------------------------------------------------------------ */

static u32 flags(void)
{
    u32 f;
    __asm__ volatile("pushfl; popl %0" : "=r"(f));
    return f;
}
static void set_flags(u32 f) { __asm__ volatile("pushl %0; popfl" : : "r"(f) : "cc", "memory"); }

/* Wait n periods of the timer by reading its counter, whether or not it can interrupt. */
static void wait_periods(u32 n)
{
    u32 last = 0;
    while (n) {
        outb(0x43, 0);
        u32 v = inb(0x40);
        v |= (u32)inb(0x40) << 8;
        if (v > last + PIT_RELOAD / 4 && last)
            n--;
        last = v;
    }
}

static void test_flags(void)
{
    u32 t;
    __asm__ volatile("cli");
    saw("PUSHF after CLI, IF", flags() & 0x200, 0);
    __asm__ volatile("sti");
    saw("PUSHF after STI, IF", flags() & 0x200, 0x200);
    t = ticks;
    wait_periods(3);
    saw("timer interrupts arrive after STI", ticks > t, 1);
    set_flags(flags() & ~0x200u);
    wait_periods(1);
    t = ticks;
    wait_periods(3);
    saw("timer interrupts arrive after POPF cleared IF", ticks > t, 0);
    __asm__ volatile("cli");
    set_flags(flags() | 0x200);
    t = ticks;
    wait_periods(3);
    saw("timer interrupts arrive after POPF set IF", ticks > t, 1);
    __asm__ volatile("cli");
    set_flags((flags() & ~0x200u) | 0x3000);
    saw("PUSHF after POPF set IOPL to 3", flags() & 0x3000, 0x3000);
    set_flags(flags() & ~0x3200u);
}

static void test_tables(void)
{
    struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) d = {0, 0};
    u32 v = 0;
    __asm__ volatile("sgdt %0" : "=m"(d));
    saw("SGDT base", d.base, (u32)gdt);
    __asm__ volatile("sidt %0" : "=m"(d));
    saw("SIDT base", d.base, (u32)idt);
    __asm__ volatile("sldt %0" : "=r"(v));
    saw("SLDT", v & 0xffff, 0x38);
    __asm__ volatile("str %0" : "=r"(v));
    saw("STR", v & 0xffff, 0x30);
    __asm__ volatile("smsw %0" : "=r"(v));
    saw("SMSW", v & 0xffff, cr0() & 0xffff);
}

static void test_segments(void)
{
    static u32 percpu = 0x12345678;
    u32 v = 0, z = 0;
    __asm__ volatile("pushl %%cs; popl %0" : "=r"(v));
    saw("PUSH CS", v & 0xffff, 0x08);
    __asm__ volatile("movl %%ss, %0" : "=r"(v));
    saw("MOV from SS", v & 0xffff, 0x10);
    __asm__ volatile("pushl %%ds; popl %0" : "=r"(v));
    saw("PUSH DS", v & 0xffff, 0x10);
    descriptor(5, (u32)&percpu, 3, 0x40f3);
    __asm__ volatile("movl %1, %%gs; movl %%gs:0, %0" : "=r"(v) : "r"(0x2b));
    saw("MOV to GS of selector 2b, then a load through it", v, percpu);
    __asm__ volatile("movl %%fs, %0; pushl %1; popl %%fs; movl %%fs:0, %0" : "=&r"(v) : "r"(0x2b));
    saw("POP FS of selector 2b, then a load through it", v, percpu);
    __asm__ volatile("movl %0, %%fs; movl %0, %%gs" : : "r"(0));
    v = z = 0;
    __asm__ volatile("lar %2, %0; setz %b1" : "+r"(v), "+q"(z) : "r"(0x08));
    saw("LAR of kernel code", z ? v & 0x00f0ff00 : 0, 0x00c09b00); /* bits 19:16 are undefined */
    v = z = 0;
    __asm__ volatile("lsl %2, %0; setz %b1" : "+r"(v), "+q"(z) : "r"(0x30));
    saw("LSL of the TSS", z ? v : 0, 103);
    z = 0;
    __asm__ volatile("verr %w1; setz %b0" : "+q"(z) : "r"(0x10));
    saw("VERR of kernel data, ZF", z, 1);
    z = 0;
    __asm__ volatile("verw %w1; setz %b0" : "+q"(z) : "r"(0x10));
    saw("VERW of kernel data, ZF", z, 1);
}

static void test_transfers(void)
{
    u32 v = 0, s = syscalls;
    __asm__ volatile("lcall $0x08, $1f; jmp 2f; 1: movl 4(%%esp), %0; lret; 2:" : "=r"(v));
    saw("CALL far pushes CS", v & 0xffff, 0x08);
    __asm__ volatile("ljmp $0x08, $1f; 1: movl %%cs, %0" : "=r"(v));
    saw("CS after JMP far", v & 0xffff, 0x08);
    user_call(SYS_NULL, 0, 0);
    saw("INT 80 in the kernel reaches the gate", syscalls - s, 1);
    __asm__ volatile("pushfl; pushl $0x08; pushl $1f; iret; 1: movl %%cs, %0" : "=r"(v));
    saw("CS after IRET to the same privilege", v & 0xffff, 0x08);
}

static void test_processes(void)
{
    for (u32 p = 0; p < NPROC; p++)
        spawn(p, user_main);
    preempt_until = ticks + 20;
    run_processes();
    saw("CLI in user code raises #GP, per process", user_gp, NPROC);
    saw("kernel page in user code: error code", user_fault_error, 5);
    saw("kernel page in user code: CR2", user_fault_addr, 0x100000);
    saw("both processes computed at one address", shared_of(0)->count && shared_of(1)->count, 1);
    saw("they were preempted", switches >= 4, 1);
}

/* --- bench: what traps cost, in nanoseconds ------------------------------------------------------------ */

static u64 tsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}

static u32 per_us; /* time-stamp counts per microsecond */

static u32 div64(u64 n, u32 d) /* no libgcc; quotients here fit */
{
    u32 q, r;
    while (n >> 32 >= d)
        n >>= 1;
    __asm__("divl %4" : "=a"(q), "=d"(r) : "0"((u32)n), "1"((u32)(n >> 32)), "rm"(d));
    return q;
}

static void cost(const char *what, u64 t0, u32 n)
{
    const u64 d = tsc() - t0;
    print("cost   ");
    print(what);
    print(": ");
    print_dec(div64(d * 1000, per_us * n));
    print(" ns\n");
}

#define N 20000u

static void bench(void)
{
    u64 t;
    u32 v;
    __asm__ volatile("cli");
    wait_periods(1);
    t = tsc();
    wait_periods(10);
    per_us = div64(tsc() - t, 100000);

    t = tsc();
    for (u32 i = 0; i < N * 1000; i++)
        __asm__ volatile("" : : : "memory");
    cost("1000 turns of an empty loop", t, N);
    t = tsc();
    for (u32 i = 0; i < N; i++)
        __asm__ volatile("cli");
    cost("CLI", t, N);
    t = tsc();
    for (u32 i = 0; i < N; i++)
        v = flags();
    cost("PUSHF", t, N);
    t = tsc();
    for (u32 i = 0; i < N; i++)
        __asm__ volatile("movl %%cr0, %0" : "=r"(v));
    cost("MOV from CR0", t, N);
    t = tsc();
    for (u32 i = 0; i < N; i++)
        (void)inb(0x61);
    cost("IN from a port", t, N);
    t = tsc();
    for (u32 i = 0; i < N / 10; i++) {
        __asm__ volatile("invlpg (%0)" : : "r"(0x300000) : "memory");
        (void)*(volatile u32 *)0x300000;
    }
    cost("INVLPG and the load that fills the TLB again", t, N / 10);
    t = tsc();
    for (u32 i = 0; i < N / 10; i++)
        set_cr3(pd[NPROC]);
    cost("MOV to CR3 and on", t, N / 10);

    alive[1] = 0;
    spawn(0, user_bench);
    shared_of(0)->result[0] = N;
    shared_of(0)->result[1] = SYS_NULL;
    t = tsc();
    run_processes();
    cost("system call (INT 80 and IRET)", t, N);
    spawn(0, user_bench);
    spawn(1, user_bench);
    for (u32 p = 0; p < NPROC; p++) {
        shared_of(p)->result[0] = N / 20;
        shared_of(p)->result[1] = SYS_YIELD;
    }
    t = tsc();
    run_processes();
    cost("switch of processes", t, N / 20 * 2);
}

static int has_word(const char *s, const char *w)
{
    for (; s && *s; s++) {
        u32 i = 0;
        while (w[i] && s[i] == w[i])
            i++;
        if (!w[i])
            return 1;
    }
    return 0;
}

void kernel_main(u32 info)
{
    const u32 *mb = (const u32 *)info;
    const int want_bench = (mb[0] & 4) && has_word((const char *)mb[4], "bench");

    outb(0x3fb, 3);
    print("teach: 32-bit teaching kernel\n");
    descriptor(6, (u32)tss, sizeof(tss) - 1, 0x89);
    descriptor(7, (u32)gdt, 7, 0x82);
    tss[2] = 0x10;
    tss[25] = sizeof(tss) << 16;
    init_interrupts();
    __asm__ volatile("ltr %w0" : : "r"(0x30));
    __asm__ volatile("lldt %w0" : : "r"(0x38));
    init_paging();
    if ((mb[0] & 4) && has_word((const char *)mb[4], "spin"))
        for (;;)
            __asm__ volatile("");
    if (want_bench) {
        bench();
    } else {
        test_flags();
        test_tables();
        test_segments();
        test_transfers();
        test_processes();
        print("teach: ");
        print_dec(right);
        print(" right, ");
        print_dec(wrong);
        print(" wrong\n");
    }
    outb(0xf4, wrong != 0);
}
