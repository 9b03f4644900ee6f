/* A 32-bit program without libc under a 64-bit kernel: INT 80, the vDSO's SYSENTER or SYSCALL, signals, 64-bit code by a far call,
 * segments, x87 and SSE across all that. gcc -m32 -nostdlib -static. */
typedef unsigned int u32;
typedef unsigned long long u64;

static long sys(long nr, long a, long b, long c, long d, long e)
{
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
    return r;
}
static u32 vsyscall;
static long fast(long nr, long a, long b, long c)
{
    long r;
    __asm__ volatile("call *%1" : "=a"(r) : "m"(vsyscall), "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
    return r;
}

static void say(const char *s)
{
    u32 n = 0;
    while (s[n])
        n++;
    sys(4, 1, (long)s, (long)n, 0, 0);
}
static u32 failed;
#define STR_(x) #x
#define STR(x) STR_(x)
#define CHECK(c)                                                                                                       \
    do {                                                                                                               \
        if (!(c))                                                                                                      \
            failed++, say("FAIL compat32.c:" STR(__LINE__) ": " #c "\n");                                              \
    } while (0)

struct ksigaction {
    void (*handler)(int, void *, void *);
    u32 flags;
    void (*restorer)(void);
    u32 mask[2];
};
#define SA_SIGINFO 4
#define SA_RESTORER 0x04000000

void restore(void);
__asm__("restore: movl $173, %eax; int $0x80\n");

static volatile u32 got, got_addr, hits;
static volatile int step;
static void on_signal(int sig, void *info, void *uc)
{
    u32 *r = (u32 *)uc + 5; /* gs fs es ds edi esi ebp esp ebx edx ecx eax trapno err eip cs efl */

    got = (u32)sig;
    got_addr = ((u32 *)info)[3];
    hits++;
    __asm__ volatile("fninit; fldpi; pxor %%xmm0, %%xmm0" ::: "xmm0");
    r[14] += (u32)step; /* eip */
    if (step)
        r[8] = 0x4321; /* ebx */
}

static void on(int sig)
{
    struct ksigaction sa = {on_signal, SA_SIGINFO | SA_RESTORER, restore, {0, 0}};
    CHECK(sys(174, sig, (long)&sa, 0, 8, 0) == 0);
}

/* 64-bit code, by CS 33: rax = rdi * 0x100000001 with all bits, back by a far return. */
extern const unsigned char gate[];
__asm__("gate: .code64\n movl %edi, %eax\n movabsq $0x100000001, %rcx\n imulq %rcx, %rax\n movq %rax, %rdx\n shrq $32, %rdx\n movl %eax, %eax\n"
        ".byte 0xcb\n" /* lret: 32-bit operands, as the caller pushed them */
        ".code32\n");

static u32 mix(u32 n)
{
    u32 a = 1, b = 2, c = 3, d = 5;
    for (u32 i = 0; i < n; i++) {
        a += b << 3;
        b ^= c >> 5;
        c *= d | 1;
        d += a ^ i;
        __asm__ volatile("adcl $7, %0; aaa; pushl %0; popl %0" : "+r"(a)::"eax", "cc");
    }
    return a ^ b ^ c ^ d;
}

static void body(long *sp)
{
    long *p = sp + 1 + sp[0] + 1;
    while (*p++)
        ;
    for (; p[0]; p += 2)
        if (p[0] == 32) /* AT_SYSINFO */
            vsyscall = (u32)p[1];
    CHECK(vsyscall);

    const long pid = sys(20, 0, 0, 0, 0, 0);
    CHECK(pid > 1);
    for (u32 i = 0; i < 5000; i++) {
        CHECK(sys(20, 0, 0, 0, 0, 0) == pid);
        CHECK(!vsyscall || fast(20, 0, 0, 0) == pid);
        if (failed)
            break;
    }
    CHECK(sys(6, 12345, 0, 0, 0, 0) == -9);                /* close: EBADF */
    CHECK(sys(6, -1, 0, 0, 0, 0) == -9);
    CHECK(sys(4, 1, (long)0xfffffff0u, 32, 0, 0) == -14);   /* write from there: EFAULT */

    on(11), on(8), on(4), on(5), on(10);
    step = 2;
    for (u32 i = 0; i < 300; i++) {
        u32 b = 0;
        float x = 1.5f, y;
        __asm__ volatile("movss %2, %%xmm0; xorl %%ebx, %%ebx; ud2; movl %%ebx, %0; movss %%xmm0, %1" : "=r"(b), "=m"(y) : "m"(x) : "ebx", "xmm0");
        CHECK(got == 4 && b == 0x4321 && y == 1.5f);
        __asm__ volatile("xorl %%eax, %%eax; xorl %%edx, %%edx; xorl %%ecx, %%ecx; divl %%ecx" ::: "eax", "ecx", "edx", "ebx");
        CHECK(got == 8);
        got_addr = 0;
        __asm__ volatile("movb %%al, (%0)" ::"d"(0xc0001238u) : "ebx", "memory");
        CHECK(got == 11 && got_addr == 0xc0001238u);
        if (failed)
            break;
    }
    step = 0;
    __asm__ volatile("int3" ::: "memory");
    CHECK(got == 5);
    hits = 0;
    for (u32 i = 0; i < 500; i++)
        sys(37, pid, 10, 0, 0, 0);
    CHECK(hits == 500);

    /* A timer over arithmetic with flags */
    const u32 want = mix(3000);
    long tv[4] = {0, 300, 0, 300};
    on(14);
    hits = 0;
    CHECK(sys(104, 0, (long)tv, 0, 0, 0) == 0);
    for (u32 i = 0; hits < 100 && i < 2000000; i++) {
        const u32 is = mix(3000);
        CHECK(is == want);
        if (failed)
            break;
    }
    CHECK(hits >= 100);
    tv[1] = tv[3] = 0;
    sys(104, 0, (long)tv, 0, 0, 0);

    for (u32 i = 1; i < 2000; i++) {
        struct {
            u32 ip;
            unsigned short cs;
        } __attribute__((packed)) far = {(u32)gate, 0x33};
        u32 lo, hi;
        __asm__ volatile("lcall *%2" : "=a"(lo), "=d"(hi) : "m"(far), "D"(i * 0x89abcdu) : "ecx", "cc", "memory");
        CHECK(lo == i * 0x89abcdu && hi == i * 0x89abcdu);
        if (failed)
            break;
    }

    /* A segment of its own: set_thread_area */
    static u32 block[4] = {0x11223344, 0x55667788, 0, 0};
    u32 desc[4] = {(u32)-1, (u32)block, 0xfffff, 0x51};
    CHECK(sys(243, (long)desc, 0, 0, 0, 0) == 0);
    u32 v, sel = desc[0] * 8 + 3;
    __asm__ volatile("mov %1, %%gs; movl %%gs:4, %0" : "=r"(v) : "r"(sel));
    CHECK(v == 0x55667788);
    CHECK(sys(24, 0, 0, 0, 0, 0) == 0); /* over a system call */
    __asm__ volatile("movl %%gs:0, %0" : "=r"(v));
    CHECK(v == 0x11223344);

    say(failed ? "compat32: FAILED\n" : "compat32: well\n");
    sys(252, failed != 0, 0, 0, 0, 0);
}

__attribute__((used)) static void begin(long *sp) { body(sp); }
__asm__(".globl _start\n_start: movl %esp, %eax; andl $-16, %esp; subl $12, %esp; pushl %eax; call begin\n");
