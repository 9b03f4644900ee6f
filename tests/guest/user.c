/* 64-bit user code, as systems run it (lib/user.h): registers and flags through system calls, exceptions with their exact places,
 * instructions that show the processor's state, vector state, segment bases, timer interrupts, single-stepping. */
#include "user.h"

USER_CODE(u_sys, "syscall; u_sys_after: syscall; u_sys_after2: ud2");
USER_LABEL(u_sys_after);
USER_LABEL(u_sys_after2);
static const char *const reg_names[15] = {"r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax"};

/* All registers but RCX and R11, which a system call takes. */
static bool same_regs(const struct frame *a, const struct frame *b, bool all)
{
    const uint64_t *x = (const uint64_t *)a, *y = (const uint64_t *)b;
    bool ok = a->rsp == b->rsp && a->cs == b->cs && a->ss == b->ss;
    for (unsigned i = 0; i < 15; i++)
        if (x[i] != y[i] && (all || (i != 4 && i != 13))) {
            print("  %s: got %lx, want %lx\n", reg_names[i], x[i], y[i]);
            ok = false;
        }
    return ok;
}

static unsigned sys_count;
static struct frame sys_seen;
static bool change_on_sys(struct frame *f)
{
    if (f->vector != SYS || sys_count++)
        return false;
    sys_seen = *f;
    uint64_t *r = (uint64_t *)f;
    for (unsigned i = 0; i < 15; i++)
        if (i != 4 && i != 13)
            r[i] ^= 0x8000000000000001ull << i;
    f->rflags = 0x202 | 0x8d5;
    return true;
}

static void syscalls(void)
{
    for (int way = 0; way < 2; way++) {
        user_sysret = way;
        struct frame f = user_regs(USER_AT(u_sys)), want = f;
        user_run(&f);
        USER_EXPECT("system call: RIP", &f, SYS, 0, USER_AT(u_sys_after));
        CHECK("system call: registers", same_regs(&f, &want, false));
        CHECK("system call: RCX and R11", f.rcx == f.rip && f.r11 == 0x202);
        f = want;
        sys_count = 0;
        user_event = change_on_sys;
        user_run(&f);
        user_event = NULL;
        USER_EXPECT("second system call", &f, SYS, 0, USER_AT(u_sys_after2));
        uint64_t *r = (uint64_t *)&want;
        for (unsigned i = 0; i < 15; i++)
            r[i] ^= 0x8000000000000001ull << i;
        CHECK("registers the kernel changed", same_regs(&f, &want, false));
        CHECK_EQ("flags the kernel changed", f.rflags, 0xad7);
    }
    user_sysret = true;
    bool ok = true;
    static const uint64_t bits[] = {1, 4, 0x10, 0x40, 0x80, 0x800, 0x400, 0x200000};
    for (unsigned n = 0; n < 256; n++) {
        struct frame f = user_regs(USER_AT(u_sys));
        for (unsigned i = 0; i < 8; i++)
            f.rflags |= n >> i & 1 ? bits[i] : 0;
        uint64_t want = f.rflags;
        user_run(&f);
        if (f.r11 != want || f.vector != SYS) {
            print("  got %lx, want %lx\n", f.r11, want);
            ok = false;
        }
    }
    CHECK("every combination of flags", ok);
}

/* --- exceptions --- */

#define FAULTING(name, before, code) USER_CODE(name, before "\n" #name "_at: " code "\n" #name "_next: syscall\n"); USER_LABEL(name##_at); USER_LABEL(name##_next)
FAULTING(u_ud2, "", "ud2");
FAULTING(u_div0, "xorl %ecx, %ecx; movl $1, %eax; cltd", "idivl %ecx");
FAULTING(u_divov, "movl $1, %ecx; movq $1, %rdx", "divq %rcx");
FAULTING(u_hlt, "", "hlt");
FAULTING(u_cli, "", "cli");
FAULTING(u_in, "", "inb $0x60, %al");
FAULTING(u_out, "movl $0x80, %edx", "outl %eax, %dx");
FAULTING(u_cr3, "", "movq %cr3, %rax");
FAULTING(u_dr7, "", "movq %dr7, %rax");
FAULTING(u_wrmsr, "", "wrmsr");
FAULTING(u_invlpg, "", "invlpg (%rsp)");
FAULTING(u_swapgs, "", "swapgs");
FAULTING(u_sysret, "", "sysretq");
FAULTING(u_iret, "pushq $0; pushq $0; pushq $2; pushq $8; pushq $0", "iretq");
FAULTING(u_lgdt, "", "lgdt (%rsp)");
FAULTING(u_clts, "", "clts");
FAULTING(u_int3, "", "int3");
FAULTING(u_int3l, "", ".byte 0xcd, 3");
FAULTING(u_int80, "", "int $0x80");
FAULTING(u_int81, "", "int $0x81");
FAULTING(u_int14, "", "int $14");
FAULTING(u_int1, "", ".byte 0xf1");
FAULTING(u_into, "", ".byte 0xce");
FAULTING(u_badlock, "", ".byte 0xf0, 0x90");
FAULTING(u_noncanon, "movabsq $0x800000000000, %rdi", "movq (%rdi), %rax");
FAULTING(u_noncanon2, "movabsq $0x7ffffffffffc, %rdi", "movb 4(%rdi), %al");
FAULTING(u_nonstack, "movabsq $0x1234567812345678, %rsp", "pushq %rax");
FAULTING(u_nonstack2, "movabsq $0x1234567812345678, %rbp", "movq (%rbp), %rax");
FAULTING(u_nonjmp, "movabsq $0x1234567812345678, %rax", "jmp *%rax");
FAULTING(u_movaps, "", "movaps %xmm0, -8(%rsp)");
FAULTING(u_seg, "movl $0x100, %eax", "movl %eax, %fs");
FAULTING(u_segsys, "movl $0x10, %eax", "movl %eax, %ds");
FAULTING(u_segss, "xorl %eax, %eax", "movl %eax, %ss");
FAULTING(u_lret, "pushq $8; pushq $0", "lretq");
FAULTING(u_long, "", ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
FAULTING(u_rsm, "", "rsm");
FAULTING(u_monitor, "", "monitor");
FAULTING(u_rdpmc, "xorl %ecx, %ecx", "rdpmc");
FAULTING(u_xsetbv, "xorl %ecx, %ecx; movl $7, %eax; xorl %edx, %edx", "xsetbv");
FAULTING(u_fsbase, "movabsq $0x800000000000, %rax", "wrfsbase %rax");
FAULTING(u_sysenter, "", "sysenter");
FAULTING(u_xm, "movl $0x1d80, -8(%rsp); ldmxcsr -8(%rsp); pxor %xmm1, %xmm1; pcmpeqd %xmm0, %xmm0; psrlq $54, %xmm0; psllq $52, %xmm0", "divsd %xmm1, %xmm0");
FAULTING(u_mf, "fninit; movw $0x37b, -8(%rsp); fldcw -8(%rsp); fld1; fldz; fdivrp", "fwait");
FAULTING(u_misaligned, "pushfq; orl $0x40000, (%rsp); popfq", "movl -5(%rsp), %eax");

static void exceptions(void)
{
    static const struct {
        const char *name;
        uint8_t *code, *at;
        uint16_t vector, error;
        const char *lax;
    } t[] = {
#define T(n, v, e) {#n, n, n##_at, v, e, NULL}
#define TL(n, v, e, lax) {#n, n, n##_at, v, e, lax}
#define TRAP(n, v) {#n, n, n##_next, v, 0, NULL}
        T(u_ud2, 6, 0), T(u_div0, 0, 0), T(u_divov, 0, 0), T(u_hlt, 13, 0), T(u_cli, 13, 0), T(u_in, 13, 0), T(u_out, 13, 0), T(u_cr3, 13, 0),
        T(u_dr7, 13, 0), T(u_wrmsr, 13, 0), T(u_invlpg, 13, 0), T(u_swapgs, 13, 0), T(u_sysret, 13, 0), T(u_iret, 13, 8), T(u_lgdt, 13, 0), T(u_clts, 13, 0),
        TRAP(u_int3, 3), TRAP(u_int3l, 3), TRAP(u_int80, 0x80), TL(u_int81, 13, 0x81 * 8 + 2, "counts IDT entries of 16 bytes"), TL(u_int14, 13, 14 * 8 + 2, "counts IDT entries of 16 bytes"), {"u_int1", u_int1, u_int1_next, 1, 0, "does not know it"},
        T(u_into, 6, 0), T(u_badlock, 6, 0), T(u_noncanon, 13, 0), T(u_noncanon2, 13, 0), TL(u_nonstack, 12, 0, "raises #GP"),
        TL(u_nonstack2, 12, 0, "raises #GP"), TL(u_nonjmp, 13, 0, "faults at the target"), TL(u_movaps, 13, 0, "does not check alignment"), T(u_seg, 13, 0x100), T(u_segsys, 13, 0x10), T(u_segss, 13, 0),
        T(u_lret, 13, 8), TL(u_long, 13, 0, "allows 16 bytes"), T(u_rsm, 6, 0), TL(u_monitor, 6, 0, "raises #GP"), T(u_rdpmc, 13, 0), T(u_xsetbv, 13, 0),
        TL(u_fsbase, 13, 0, "does not check"), TL(u_sysenter, 13, 0, "has an AMD processor, where it is #UD"), TL(u_xm, 19, 0, "raises no SIMD exceptions"), T(u_mf, 16, 0), TRAP(u_misaligned, SYS),
    };
    for (int round = 0; round < 2; round++)
        for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
            struct frame f = user_regs(USER_AT(t[i].code));
            f.rcx = 0; /* some read MSRs and counters */
            user_run(&f);
            uint64_t rip = USER_AT(t[i].at);
            if (t[i].vector == SYS)
                rip += 2;
            if (t[i].lax)
                LAX(t[i].lax);
            USER_EXPECT(t[i].name, &f, t[i].vector, t[i].error, rip);
            __asm__ volatile("fninit");
        }
    uint32_t mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
    /* Alignment is checked when CR0.AM says so. */
    write_cr0(read_cr0() | 1 << 18);
    struct frame f = user_regs(USER_AT(u_misaligned));
    user_run(&f);
    LAX("does not check alignment");
    USER_EXPECT("#AC", &f, 17, 0, USER_AT(u_misaligned_at));
    write_cr0(read_cr0() & ~(1ull << 18));
}

/* --- what shows the processor --- */

USER_CODE(u_cpuid, "cpuid; syscall");
USER_CODE(u_rdtsc, "rdtsc; syscall");
USER_CODE(u_rdtscp, "rdtscp; movl %ecx, %esi; syscall");
USER_CODE(u_rdpid, "xorl %eax, %eax; .byte 0xf3, 0x0f, 0xc7, 0xf8; syscall");
USER_CODE(u_xgetbv, "xorl %ecx, %ecx; xgetbv; syscall");
/* On pages of their own: an engine may leave a page with these to another way of running it. */
__asm__(".pushsection frags, \"ax\"; .balign 4096, 0x90; .popsection");
USER_CODE(u_tables, "xorl %eax, %eax; xorl %ebx, %ebx; xorl %edx, %edx; sldt %eax; str %ebx; smsw %edx; sgdt -16(%rsp); sidt -32(%rsp); movq -14(%rsp), %rsi; movq -30(%rsp), %rdi\n"
                    "movzwl -16(%rsp), %r8d; movzwl -32(%rsp), %r9d; syscall");
USER_CODE(u_sel, "movl %edi, %eax; movl $0x777, %ebx; movl $0x777, %edx; lar %edi, %ebx; setz %r8b; lsl %edi, %edx; setz %r9b; verr %di; setz %r10b; verw %di; setz %r12b; syscall");
USER_CODE(u_cross, "xorl %r8d, %r8d; 1: movl $1, %eax; xorl %ecx, %ecx; cpuid; addl %eax, %r8d; rdtsc; decl %edi; jnz 1b; syscall");
FAULTING(u_sgdt, "", "sgdt -16(%rsp)");
__asm__(".pushsection frags, \"ax\"; .balign 4096, 0x90; .popsection");
FAULTING(u_tsd, "", "rdtsc");
FAULTING(u_rdpkru, "xorl %ecx, %ecx", ".byte 0x0f, 0x01, 0xee");
USER_CODE(u_xsave, "movl $-1, %eax; movl $-1, %edx; xsave64 (%rdi); syscall");

static void shows(void)
{
    static const uint32_t leaves[] = {0, 1, 2, 4, 7, 0xb, 0xd, 0x40000000, 0x80000000, 0x80000001, 0x80000008};
    bool ok = true;
    for (unsigned i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
        uint32_t r[4];
        struct frame f = user_regs(USER_AT(u_cpuid));
        f.rax = leaves[i];
        f.rcx = 0;
        cpuid(leaves[i], 0, r);
        user_run(&f);
        /* The system call has taken RCX; R11 is flags. */
        if (f.rax != r[0] || f.rbx != r[1] || f.rdx != r[3]) {
            print("  leaf %x: %lx %lx %lx, want %x %x %x\n", leaves[i], f.rax, f.rbx, f.rdx, r[0], r[1], r[3]);
            ok = false;
        }
    }
    CHECK("CPUID is the kernel's", ok);
    struct frame f = user_regs(USER_AT(u_rdtsc));
    uint64_t a = rdtsc();
    user_run(&f);
    uint64_t b = rdtsc(), u = (f.rdx << 32) + f.rax;
    CHECK("RDTSC is the kernel's", a <= u && u <= b);
    uint32_t r[4];
    cpuid(0x80000001, 0, r);
    if (r[3] >> 27 & 1) {
        wrmsr(0xc0000103, 0x1234567);
        f = user_regs(USER_AT(u_rdtscp));
        a = rdtsc();
        user_run(&f);
        b = rdtsc(), u = (f.rdx << 32) + f.rax;
        CHECK("RDTSCP is the kernel's", a <= u && u <= b);
        CHECK_EQ("RDTSCP: IA32_TSC_AUX", f.rsi, 0x1234567);
    }
    cpuid(7, 0, r);
    if (r[2] >> 22 & 1) {
        wrmsr(0xc0000103, 0x7654321);
        f = user_regs(USER_AT(u_rdpid));
        user_run(&f);
        CHECK_EQ("RDPID", f.rax, 0x7654321);
    }
    if (!(r[2] >> 3 & 1) || !(read_cr4() >> 22 & 1)) {
        f = user_regs(USER_AT(u_rdpkru));
        user_run(&f);
        USER_EXPECT("RDPKRU without CR4.PKE", &f, 6, 0, USER_AT(u_rdpkru_at));
    }
    f = user_regs(USER_AT(u_xgetbv));
    user_run(&f);
    CHECK("XGETBV", f.rax == 7 && f.rdx == 0);

    gdt[12] = 0x00008200deef0000ull | 0x117; /* an LDT of the kernel's */
    gdt[13] = 0;
    gdt[14] = 0x0000f30000000123ull; /* 73: user data, 124 bytes */
    gdt[15] = 0x0000f10000000456ull; /* 7b: read-only */
    __asm__ volatile("lldt %w0" ::"r"(0x60));
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) g, i;
    __asm__ volatile("sgdt %0; sidt %1" : "=m"(g), "=m"(i));
    f = user_regs(USER_AT(u_tables));
    user_run(&f);
    CHECK("SLDT, STR", f.rax == 0x60 && f.rbx == 0x48);
    CHECK_EQ("SMSW", f.rdx & 0xffff, read_cr0() & 0xffff);
    CHECK("SGDT, SIDT", f.rsi == g.base && f.rdi == i.base && f.r8 == g.limit && f.r9 == i.limit);
    cpuid(7, 0, r);
    if (r[2] >> 2 & 1) {
        write_cr4(read_cr4() | 1 << 11);
        f = user_regs(USER_AT(u_sgdt));
        user_run(&f);
        USER_EXPECT("SGDT with CR4.UMIP", &f, 13, 0, USER_AT(u_sgdt_at));
        write_cr4(read_cr4() & ~(1ull << 11));
    }
    static const struct {
        uint16_t sel;
        bool lar, lsl, r, w;
        uint32_t rights, limit;
    } s[] = {
        {0x2b, true, true, true, true, 0xcff300, 0xffffffff}, {0x33, true, true, true, false, 0xaffb00, 0xffffffff}, {0x73, true, true, true, true, 0xf300, 0x123},
        {0x7b, true, true, true, false, 0xf100, 0x456},       {0x08, false, false, false, false, 0x777, 0x777},       {0x00, false, false, false, false, 0x777, 0x777},
        {0x4b, false, false, false, false, 0x777, 0x777},     {0x83, false, false, false, false, 0x777, 0x777},       {0x123, false, false, false, false, 0x777, 0x777},
    };
    for (unsigned k = 0; k < sizeof(s) / sizeof(s[0]); k++) {
        f = user_regs(USER_AT(u_sel));
        f.rdi = s[k].sel;
        f.r8 = f.r9 = f.r10 = f.r12 = 0;
        user_run(&f);
        bool good = f.r8 == s[k].lar && f.r9 == s[k].lsl && f.r10 == s[k].r && f.r12 == s[k].w && !((f.rbx ^ s[k].rights) & (s[k].lar ? 0xf0feff : ~0u)) && f.rdx == s[k].limit;
        if (!good)
            print("  selector %x: lar %lu %lx lsl %lu %lx verr %lu verw %lu\n", s[k].sel, f.r8, f.rbx, f.r9, f.rdx, f.r10, f.r12);
        CHECK("LAR, LSL, VERR, VERW", good);
    }
    __asm__ volatile("lldt %w0" ::"r"(0));
    f = user_regs(USER_AT(u_cross));
    f.rdi = 50;
    cpuid(1, 0, r);
    user_run(&f);
    CHECK("a loop with CPUID", f.vector == SYS && (uint32_t)f.r8 == r[0] * 50u);
    write_cr4(read_cr4() | 4);
    f = user_regs(USER_AT(u_tsd));
    user_run(&f);
    USER_EXPECT("RDTSC with CR4.TSD", &f, 13, 0, USER_AT(u_tsd_at));
    write_cr4(read_cr4() & ~4ull);
    uint8_t *area = page_alloc();
    map_page(0x600000000000ull, (uint64_t)area, PTE_P | PTE_W | PTE_U);
    memset(area, 0x5a, 4096);
    memset(area + 512, 0, 64);
    f = user_regs(USER_AT(u_xsave));
    f.rdi = 0x600000000000ull;
    user_run(&f);
    ok = f.vector == SYS && !(*(uint64_t *)(area + 512) & ~7ull) && !*(uint64_t *)(area + 520);
    for (unsigned k = 832; k < 4096; k++)
        ok &= area[k] == 0x5a;
    CHECK("XSAVE: what XCR0 has, and nothing behind it", ok);
}

/* --- x87, SSE, AVX --- */

USER_CODE(u_fpload, "vmovdqu (%rdi), %ymm0; vmovdqu 32(%rdi), %ymm7; vmovdqu 64(%rdi), %ymm15; fninit; fldl 96(%rdi); fldl 104(%rdi); ldmxcsr 112(%rdi); fldcw 116(%rdi); syscall\n"
                    "vmovdqu %ymm0, (%rsi); vmovdqu %ymm7, 32(%rsi); vmovdqu %ymm15, 64(%rsi); fstpl 104(%rsi); fstpl 96(%rsi); stmxcsr 112(%rsi); fnstcw 116(%rsi); syscall");
USER_CODE(u_fpfault, "vmovdqu (%rdi), %ymm3; fldpi; vaddpd (%rsi), %ymm3, %ymm3; vmovdqu %ymm3, (%rdx); fstpl 32(%rdx); syscall");
static uint8_t *fp_in, *fp_out;
static unsigned fp_way;
static bool fp_ok;

static bool fp_event(struct frame *f)
{
    if (f->vector != SYS || fp_way > 1)
        return false;
    if (fp_way == 1) {
        fp_way++;
        return false;
    }
    uint8_t v[32];
    uint32_t m;
    uint16_t w;
    __asm__ volatile("vmovdqu %%ymm15, %0; stmxcsr %1; fnstcw %2" : "=m"(v), "=m"(m), "=m"(w));
    fp_ok = !memcmp(v, fp_in + 64, 32) && m == *(uint32_t *)(fp_in + 112) && w == *(uint16_t *)(fp_in + 116);
    fp_way++;
    if (fp_in[4000]) { /* the kernel changes it all */
        uint64_t *d = (uint64_t *)fp_in;
        for (unsigned i = 0; i < 12; i++)
            d[i] = ~d[i];
        *(double *)(void *)(fp_in + 96) = *(double *)(void *)(fp_in + 104);
        *(uint32_t *)(fp_in + 112) = 0x1f80 | 0x6000;
        *(uint16_t *)(fp_in + 116) = 0x37f;
        __asm__ volatile("vmovdqu (%0), %%ymm0; vmovdqu 32(%0), %%ymm7; vmovdqu 64(%0), %%ymm15; fninit; fldl 96(%0); fldl 104(%0); ldmxcsr 112(%0); fldcw 116(%0)" ::"r"(fp_in) : "memory");
    }
    return true;
}

static void vectors(void)
{
    fp_in = page_alloc();
    fp_out = page_alloc();
    map_page(0x600000002000ull, (uint64_t)fp_in, PTE_P | PTE_W | PTE_U);
    map_page(0x600000003000ull, (uint64_t)fp_out, PTE_P | PTE_W | PTE_U);
    for (unsigned changes = 0; changes < 2; changes++) {
        for (unsigned i = 0; i < 96; i++)
            fp_in[i] = (uint8_t)(i * 7 + 3);
        *(uint64_t *)(fp_in + 96) = 0x400921fb54442d18ull;
        *(uint64_t *)(fp_in + 104) = 0x3ff8000000000000ull;
        *(uint32_t *)(fp_in + 112) = 0x1f80 | 0x2000 | 0x8000;
        *(uint16_t *)(fp_in + 116) = 0x27f;
        fp_in[4000] = (uint8_t)changes;
        memset(fp_out, 0, 128);
        struct frame f = user_regs(USER_AT(u_fpload));
        f.rdi = 0x600000002000ull;
        f.rsi = 0x600000003000ull;
        fp_way = 0;
        user_event = fp_event;
        user_run(&f);
        user_event = NULL;
        CHECK("vector state: the kernel sees the user's", fp_ok);
        CHECK(changes ? "vector state: the user sees the kernel's" : "vector state: as before the system call", f.vector == SYS && !memcmp(fp_in, fp_out, 118));
    }
    uint32_t mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0; fninit" ::"m"(mxcsr));
    /* A fault in the middle, and the state as it was. */
    uint64_t *pte = map_page(0x600000010000ull, 0, 0);
    for (unsigned i = 0; i < 4; i++)
        ((double *)(void *)fp_in)[i] = 0; /* bits below */
    uint64_t one[4] = {0x3ff0000000000000ull, 0x4000000000000000ull, 0x4008000000000000ull, 0x4010000000000000ull};
    memcpy(fp_in, one, 32);
    struct frame f = user_regs(USER_AT(u_fpfault));
    f.rdi = 0x600000002000ull;
    f.rsi = 0x600000010008ull;
    f.rdx = 0x600000003000ull;
    user_run(&f);
    CHECK("VADDPD with an operand that is not there", f.vector == 14 && f.error == 4 && user_cr2 == 0x600000010008ull);
    uint8_t *page = page_alloc();
    memcpy(page + 8, one, 32);
    *pte = (uint64_t)page | PTE_P | PTE_U;
    user_run(&f);
    uint64_t sum[4] = {0x4000000000000000ull, 0x4010000000000000ull, 0x4018000000000000ull, 0x4020000000000000ull};
    CHECK("and again", f.vector == SYS && !memcmp(fp_out, sum, 32) && *(uint64_t *)(fp_out + 32) == 0x400921fb54442d18ull);
    __asm__ volatile("fninit");
}

/* --- segments --- */

USER_CODE(u_bases, "rdfsbase %rax; rdgsbase %rbx; movq %fs:0, %r8; movq %gs:8, %r9; wrfsbase %rdi; wrgsbase %rsi; movq %fs:0, %r10; movq %gs:8, %r12; syscall");
USER_CODE(u_nullfs, "xorl %eax, %eax; movl %eax, %fs; rdfsbase %rax; syscall");
USER_CODE(u_loadds, "movl $0x2b, %eax; movl %eax, %ds; movl %ds, %ebx; syscall; movl %ds, %ebp; xorl %eax, %eax; movl %eax, %ds; movl %ds, %r15d; syscall");
USER_CODE(u_to32, "movabsq $0x60000800, %rsp; pushq $0x23; movabsq $0x60000000, %rax; pushq %rax; lretq");
USER_CODE(u_fsneg, "wrfsbase %rdi; movq %fs:(%rsi), %rax; syscall");
FAULTING(u_fspf, "wrfsbase %rdi", "movq %fs:16, %rax");

static void segments(void)
{
    uint64_t *p = page_alloc();
    for (unsigned i = 0; i < 512; i++)
        p[i] = i * 0x100000001ull;
    map_page(0x600000020000ull, (uint64_t)p, PTE_P | PTE_U);
    wrmsr(0xc0000100, 0x600000020100ull);
    wrmsr(0xc0000101, 0x600000020200ull);
    struct frame f = user_regs(USER_AT(u_bases));
    f.rdi = 0x600000020300ull;
    f.rsi = 0x600000020400ull;
    user_run(&f);
    CHECK("FS and GS bases the kernel set", f.rax == 0x600000020100ull && f.rbx == 0x600000020200ull && f.r8 == p[32] && f.r9 == p[65]);
    CHECK("FS and GS bases the user set", f.r10 == p[96] && f.r12 == p[129]);
    CHECK("and the kernel sees", rdmsr(0xc0000100) == 0x600000020300ull && rdmsr(0xc0000101) == 0x600000020400ull);
    uint64_t want;
    __asm__ volatile("mov %1, %%fs; rdfsbase %0" : "=r"(want) : "r"(0));
    wrmsr(0xc0000100, 0x600000020100ull);
    f = user_regs(USER_AT(u_nullfs));
    user_run(&f);
    if (!want)
        CHECK_EQ("a null selector clears the base", f.rax, 0);
    f = user_regs(USER_AT(u_loadds));
    user_run(&f);
    CHECK("DS loaded", f.vector == SYS && f.rbx == 0x2b);
    user_run(&f);
    CHECK("DS kept, and null again", f.vector == SYS && f.rbp == 0x2b && (uint32_t)f.r15 == 0);
    f = user_regs(USER_AT(u_fsneg));
    f.rdi = 0x600000020800ull;
    f.rsi = (uint64_t)-0x700;
    user_run(&f);
    CHECK("an offset below the base", f.vector == SYS && f.rax == p[0x20]);
    f = user_regs(USER_AT(u_fspf));
    f.rdi = 0x600000021000ull;
    user_run(&f);
    USER_EXPECT_PF("page fault through FS", &f, 4, 0x600000021010ull, USER_AT(u_fspf_at));
    wrmsr(0xc0000100, 0);
    wrmsr(0xc0000101, 0);
    /* 32-bit code beside: mov $0x12345678, %eax; inc %eax (a REX prefix in 64-bit code); int $0x80 */
    uint8_t *code = page_alloc();
    memcpy(code, "\xb8\x78\x56\x34\x12\x40\xcd\x80", 8);
    map_page(0x60000000, (uint64_t)code, PTE_P | PTE_U | PTE_W);
    f = user_regs(USER_AT(u_to32));
    user_run(&f);
    USER_EXPECT("a system call from 32-bit code", &f, 0x80, 0, 0x60000008);
    CHECK_EQ("CS of the 32-bit code", f.cs, 0x23);
    CHECK_EQ("EAX of the 32-bit code", (uint32_t)f.rax, 0x12345679);
}

/* --- interrupts --- */

USER_CODE(u_loop, "xorl %eax, %eax; xorl %ebx, %ebx; 1: incq %rax; leaq 1(%rbx,%rbx,2), %rbx; cmpl $0, (%rdi); je 1b; syscall");
static volatile uint32_t *stop;
static unsigned ticks;
static bool ticks_ok;

static bool tick(struct frame *f)
{
    if (f->vector != 0x40)
        return false;
    apic_write(0xb0, 0);
    ticks_ok &= f->cs == 0x33 && f->ss == 0x2b && (f->rflags & 0x200) && f->rsp == USTACK - 64 && f->r15 == 0x1111111111111111ull &&
                f->rip >= USER_AT(u_loop) && f->rip < USER_AT(u_loop) + 32;
    if (++ticks == 40)
        *stop = 1;
    return true;
}

static void timer(void)
{
    uint8_t *p = page_alloc();
    stop = (volatile uint32_t *)(void *)p;
    map_page(0x600000030000ull, (uint64_t)p, PTE_P | PTE_U | PTE_W);
    apic_write(0xf0, apic_read(0xf0) | 0x1ff);
    apic_write(0x3e0, 0xb);
    apic_write(0x320, 0x40 | 1 << 17);
    apic_write(0x380, 20000);
    ticks_ok = true;
    user_event = tick;
    struct frame f = user_regs(USER_AT(u_loop));
    f.rdi = 0x600000030000ull;
    user_run(&f);
    apic_write(0x320, 1 << 16);
    struct frame last = user_regs(USER_AT(u_loop)); /* one may be pending */
    last.rdi = f.rdi;
    user_run(&last);
    user_event = NULL;
    CHECK("a loop with timer interrupts ends", f.vector == SYS && ticks >= 40);
    CHECK("frames of the interrupts", ticks_ok);
    uint64_t want = 0;
    for (uint64_t n = f.rax; n; n--)
        want = want * 3 + 1;
    CHECK("nothing is lost or done twice", f.rbx == want && f.rax > 1);
}

/* --- single-stepping --- */

USER_CODE(u_tf, "pushfq; orl $0x100, (%rsp); popfq; u_tf_1: incq %rax; u_tf_2: incq %rbx; u_tf_3: syscall; u_tf_4: ud2");
USER_LABEL(u_tf_2);
USER_LABEL(u_tf_3);
USER_LABEL(u_tf_4);
USER_CODE(u_tfpf, "pushfq; orl $0x100, (%rsp); popfq; u_tfpf_at: movq (%rdi), %rax; ud2");
USER_LABEL(u_tfpf_at);

static void single(void)
{
    struct frame f = user_regs(USER_AT(u_tf));
    user_run(&f);
    USER_EXPECT("POPF with TF: behind the next instruction", &f, 1, 0, USER_AT(u_tf_2));
    uint64_t dr6;
    __asm__ volatile("mov %%dr6, %0; mov %1, %%dr6" : "=&r"(dr6) : "r"(0xffff0ff0ull));
    CHECK("DR6.BS", dr6 >> 14 & 1);
    CHECK("TF in the frame", f.rflags >> 8 & 1);
    user_run(&f);
    USER_EXPECT("and the next", &f, 1, 0, USER_AT(u_tf_3));
    user_run(&f);
    USER_EXPECT("SYSCALL masks TF", &f, SYS, 0, USER_AT(u_tf_4));
    CHECK("R11 has it", f.r11 >> 8 & 1);
    f = user_regs(USER_AT(u_tf));
    user_run(&f);
    f.rflags &= ~0x100ull;
    user_run(&f);
    USER_EXPECT("TF cleared by the kernel", &f, SYS, 0, USER_AT(u_tf_4));
    f = user_regs(USER_AT(u_tfpf));
    f.rdi = 0x600000099000ull;
    user_run(&f);
    USER_EXPECT_PF("page fault under TF", &f, 4, 0x600000099000ull, USER_AT(u_tfpf_at));
    __asm__ volatile("mov %0, %%dr6" ::"r"(0xffff0ff0ull));
}

void guest_main(uint32_t info, uint32_t magic)
{
    if (user_init()) {
        syscalls();
        exceptions();
        shows();
        vectors();
        segments();
        timer();
        single();
    }
    finish();
}
