/* x87, SSE and AVX state: initial values, exceptions, FXSAVE and XSAVE round trips (SDM Vol. 1, 8-13). */
#include "attempt.h"

static uint8_t area[4096] __attribute__((aligned(64))), area2[4096] __attribute__((aligned(64)));
static uint32_t l1[4];

static uint16_t fcw(void)
{
    uint16_t v;
    __asm__ volatile("fnstcw %0" : "=m"(v));
    return v;
}
static uint16_t fsw(void)
{
    uint16_t v;
    __asm__ volatile("fnstsw %0" : "=a"(v));
    return v;
}
static uint32_t mxcsr(void)
{
    uint32_t v;
    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}
static void set_mxcsr(uint32_t v)
{
    __asm__ volatile("ldmxcsr %0" ::"m"(v));
}
static void set_fcw(uint16_t v)
{
    __asm__ volatile("fldcw %0" ::"m"(v));
}

static void x87(void)
{
    __asm__ volatile("fninit");
    CHECK_EQ("FNINIT: control word", fcw(), 0x37f);
    CHECK_EQ("FNINIT: status word", fsw(), 0);
    uint64_t r;
    __asm__ volatile("fld1; fld1; faddp; fstpl %0" : "=m"(r));
    CHECK_EQ("1 + 1", r, 0x4000000000000000ull);
    __asm__ volatile("fldpi; fstpl %0" : "=m"(r));
    CHECK_EQ("pi", r, 0x400921fb54442d18ull);
    uint8_t t[10];
    __asm__ volatile("fldpi; fstpt %0" : "=m"(t));
    CHECK("pi in 80 bits", *(uint64_t *)t == 0xc90fdaa22168c235ull && *(uint16_t *)(t + 8) == 0x4000);
    __asm__ volatile("fninit; fld1; fldz");
    CHECK_EQ("TOP after two loads", fsw() >> 11 & 7, 6);
    __asm__ volatile("fninit; fld1; fldz; fdivr %st(1), %st");
    CHECK_EQ("masked division by zero: ZE", fsw() & 0x3f, 4);
    __asm__ volatile("fstpl %0" : "=m"(r));
    CHECK_EQ("masked division by zero: infinity", r, 0x7ff0000000000000ull);
    __asm__ volatile("fninit; fldz; fldz; fdivp; fstpl %0" : "=m"(r));
    CHECK_EQ("masked 0/0: default NaN", r, 0xfff8000000000000ull);
    CHECK_EQ("masked 0/0: IE", fsw() & 0x3f, 1);
    __asm__ volatile("fninit; fstpl %0" : "=m"(r));
    LAX("does not detect it (SDM Vol. 1, 8.5.1.1)");
    CHECK_EQ("stack underflow: IE and SF", fsw() & 0x41, 0x41);
    __asm__ volatile("fninit; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1");
    LAX("does not detect it (SDM Vol. 1, 8.5.1.1)");
    CHECK_EQ("stack overflow: IE, SF, C1", fsw() & 0x241, 0x241);
    /* unmasked: #MF at the next waiting instruction */
    write_cr0(read_cr0() | 0x20);
    __asm__ volatile("fninit");
    set_fcw(0x37b);
    __asm__ volatile("fld1; fldz; fdivr %st(1), %st");
    CHECK_EQ("unmasked division by zero: ES and ZE", fsw() & 0x84, 0x84);
    ATTEMPT("1: fwait\n2:", "c"(0));
    EXPECT_FAULT("#MF at FWAIT", 16, 0);
    ATTEMPT("1: fld1\n2:", "c"(0));
    LAX("raises #MF at FWAIT only (SDM Vol. 1, 8.6)");
    EXPECT_FAULT("#MF at the next x87 instruction", 16, 0);
    ATTEMPT("1: fnstsw %%ax\n2:", "c"(0));
    EXPECT_NONE("FNSTSW does not wait");
    ATTEMPT("1: fnstcw (%%rcx)\n2:", "c"(area));
    EXPECT_NONE("FNSTCW does not wait");
    ATTEMPT("1: movq %%rcx, %%mm0\n2:", "c"(0));
    LAX("raises #MF at FWAIT only (SDM Vol. 1, 8.6)");
    EXPECT_FAULT("#MF at MMX", 16, 0);
    ATTEMPT("1: fldl (%%rcx)\n2:", "c"(0x8000000000ull));
    LAX("raises #MF at FWAIT only (SDM Vol. 1, 8.6)");
    EXPECT_FAULT("#MF before the operand's #PF", 16, 0);
    ATTEMPT("1: fnclex\n2:", "c"(0));
    EXPECT_NONE("FNCLEX");
    ATTEMPT("1: fwait\n2:", "c"(0));
    EXPECT_NONE("no #MF behind FNCLEX");
    __asm__ volatile("fninit; fld1");
    __asm__ volatile("emms");
    __asm__ volatile("fxsave64 %0" : "=m"(area));
    CHECK_EQ("EMMS empties the tags", area[4], 0);
    __asm__ volatile("movq %0, %%mm3" ::"r"(0x1122334455667788ull));
    __asm__ volatile("fxsave64 %0" : "=m"(area));
    LAX("leaves the exponent (SDM Vol. 1, 9.5.1)");
    CHECK("MMX: all tags valid, exponent ones", area[4] == 0xff &&
                                                    *(uint64_t *)(area + 32 + 48) == 0x1122334455667788ull &&
                                                    *(uint16_t *)(area + 32 + 56) == 0xffff);
    CHECK_EQ("MMX: TOP is 0", *(uint16_t *)(area + 2) >> 11 & 7, 0);
    __asm__ volatile("emms");
}

static void sse(void)
{
    write_cr4(read_cr4() | 0x600);
    set_mxcsr(0x1f80);
    double a = 1.0, b = 0.0;
    uint64_t r;
    __asm__ volatile("movsd %1, %%xmm0; divsd %2, %%xmm0; movsd %%xmm0, %0" : "=m"(r) : "m"(a), "m"(b));
    CHECK_EQ("masked DIVSD by zero", r, 0x7ff0000000000000ull);
    CHECK_EQ("MXCSR.ZE", mxcsr() & 0x3f, 4);
    set_mxcsr(0x1d80);
    ATTEMPT("movsd (%%rcx), %%xmm0\n1: divsd (%%rdx), %%xmm0\n2:", "c"(&a), "d"(&b));
    LAX("raises no SIMD exceptions (SDM Vol. 1, 11.5)");
    EXPECT_FAULT("#XM", 19, 0);
    uint64_t x0;
    __asm__ volatile("movq %%xmm0, %0" : "=r"(x0));
    LAX("raises no SIMD exceptions (SDM Vol. 1, 11.5)");
    CHECK_EQ("#XM leaves the destination", x0, 0x3ff0000000000000ull);
    CHECK_EQ("#XM sets the flag", mxcsr() & 4, 4);
    set_mxcsr(0x1d80);
    write_cr4(read_cr4() & ~0x400ull);
    ATTEMPT("movsd (%%rcx), %%xmm0\n1: divsd (%%rdx), %%xmm0\n2:", "c"(&a), "d"(&b));
    LAX("raises #XM (SDM Vol. 3A, 2.5, OSXMMEXCPT)");
    EXPECT_FAULT("without OSXMMEXCPT: #UD", 6, 0);
    write_cr4(read_cr4() | 0x400);
    set_mxcsr(0x1f80);
    uint32_t badm = 0x10000;
    ATTEMPT("1: ldmxcsr (%%rcx)\n2:", "c"(&badm));
    LAX("ignores reserved bits (SDM Vol. 2A, LDMXCSR)");
    EXPECT_FAULT("LDMXCSR reserved bits: #GP", 13, 0);
    set_mxcsr(0x1f80);
    ATTEMPT("1: movaps %%xmm0, (%%rcx)\n2:", "c"(area + 8));
    LAX("does not check alignment");
    EXPECT_FAULT("MOVAPS store misaligned: #GP", 13, 0);
    ATTEMPT("1: movups %%xmm0, (%%rcx)\n2:", "c"(area + 8));
    EXPECT_NONE("MOVUPS store misaligned");
    ATTEMPT("1: paddd (%%rcx), %%xmm0\n2:", "c"(area + 4));
    LAX("does not check alignment");
    EXPECT_FAULT("SSE arithmetic misaligned: #GP", 13, 0);
    ATTEMPT("1: movups (%%rcx), %%xmm1\n2:", "c"(0x8000000000ull - 8));
    CHECK("MOVUPS over the end of mapped memory: #PF", fault.happened && fault.vector == 14);
}

static void fxsave(void)
{
    uint64_t v[2] = {0x0123456789abcdefull, 0xfedcba9876543210ull};
    __asm__ volatile("fninit; fldpi; fld1");
    __asm__ volatile("movdqu %0, %%xmm5; movdqu %0, %%xmm15" ::"m"(v));
    set_mxcsr(0x1fa0);
    memset(area, 0x5a, sizeof(area));
    __asm__ volatile("fxsave64 %0" : "=m"(area)::"memory");
    CHECK("FXSAVE: FCW, FSW, tags",
          *(uint16_t *)area == 0x37f && (*(uint16_t *)(area + 2) >> 11 & 7) == 6 && area[4] == 0xc0);
    CHECK("FXSAVE: MXCSR", *(uint32_t *)(area + 24) == 0x1fa0);
    CHECK("FXSAVE: ST(0) is 1, ST(1) is pi",
          *(uint64_t *)(area + 32) == 0x8000000000000000ull && *(uint64_t *)(area + 48) == 0xc90fdaa22168c235ull);
    CHECK("FXSAVE: XMM5 and XMM15", !memcmp(area + 160 + 80, v, 16) && !memcmp(area + 160 + 240, v, 16));
    CHECK("FXSAVE: the last 96 bytes stay", area[416] == 0x5a && area[511] == 0x5a);
    __asm__ volatile("fninit; xorps %%xmm5, %%xmm5; xorps %%xmm15, %%xmm15" ::: "memory");
    set_mxcsr(0x1f80);
    __asm__ volatile("fxrstor64 %0" ::"m"(area));
    memset(area2, 0, sizeof(area2));
    __asm__ volatile("fxsave64 %0" : "=m"(area2)::"memory");
    bool same = true;
    for (unsigned i = 0; i < 416; i++)
        if (area[i] != area2[i] && !(i >= 5 && i < 24) && !(i >= 32 && i < 160 && i % 16 >= 10))
            same = false;
    CHECK("FXRSTOR, FXSAVE: everything came back", same);
    *(uint32_t *)(area + 24) = 0x80000000;
    ATTEMPT("1: fxrstor64 (%%rcx)\n2:", "c"(area));
    LAX("ignores reserved bits (SDM Vol. 2A, FXRSTOR)");
    EXPECT_FAULT("FXRSTOR with a reserved MXCSR bit: #GP", 13, 0);
    *(uint32_t *)(area + 24) = 0x1f80;
    ATTEMPT("1: fxsave64 (%%rcx)\n2:", "c"(area + 8));
    EXPECT_FAULT("FXSAVE misaligned: #GP", 13, 0);
    set_mxcsr(0x1f80);
}

static void xsave(void)
{
    if (!(l1[2] >> 26 & 1)) {
        skip("XSAVE", "not offered");
        return;
    }
    ATTEMPT("xorl %%eax, %%eax\n1: xgetbv\n2:", "c"(0));
    EXPECT_FAULT("XGETBV without OSXSAVE: #UD", 6, 0);
    write_cr4(read_cr4() | 1 << 18);
    uint32_t r[4];
    cpuid(1, 0, r);
    CHECK("CPUID.OSXSAVE follows CR4", r[2] >> 27 & 1);
    cpuid(0xd, 0, r);
    uint32_t mask = r[0] & 7;
    CHECK("XCR0: x87 and SSE supported", (mask & 3) == 3);
#define XSETBV(v) ATTEMPT("movl $" #v ", %%eax\n1: xsetbv\n2:", "c"(0), "d"(0))
    XSETBV(2);
    EXPECT_FAULT("XSETBV without x87: #GP", 13, 0);
    XSETBV(5);
    EXPECT_FAULT("XSETBV AVX without SSE: #GP", 13, 0);
    XSETBV(0x8000003);
    EXPECT_FAULT("XSETBV unknown component: #GP", 13, 0);
    ATTEMPT("movl $3, %%eax\n1: xsetbv\n2:", "c"(1), "d"(0));
    EXPECT_FAULT("XSETBV of XCR1: #GP", 13, 0);
    __asm__ volatile("xsetbv" ::"a"(mask), "d"(0), "c"(0));
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    CHECK("XGETBV", lo == mask && !hi);
    cpuid(0xd, 0, r);
    CHECK_EQ("size for XCR0", r[1], mask & 4 ? 832 : 576);
    uint64_t v[4] = {0x1111111111111111ull, 0x2222222222222222ull, 0x3333333333333333ull, 0x4444444444444444ull};
    memset(area, 0, sizeof(area));
    set_mxcsr(0x1f80);
    __asm__ volatile("fninit; fldpi; movdqu %0, %%xmm3" ::"m"(v));
    __asm__ volatile("xsave64 %0" : "+m"(area) : "a"(3), "d"(0) : "memory");
    CHECK("XSAVE: XSTATE_BV", (*(uint64_t *)(area + 512) & 3) == 3);
    CHECK("XSAVE: XMM3", !memcmp(area + 160 + 48, v, 16));
    __asm__ volatile("fninit; xorps %%xmm3, %%xmm3; xrstor64 %0" ::"m"(area), "a"(3), "d"(0));
    uint64_t got;
    __asm__ volatile("movq %%xmm3, %0" : "=r"(got));
    CHECK_EQ("XRSTOR: XMM3", got, v[0]);
    CHECK_EQ("XRSTOR: x87", fsw() >> 11 & 7, 7);
    *(uint64_t *)(area + 512) = 1; /* SSE in its initial state */
    __asm__ volatile("xrstor64 %0" ::"m"(area), "a"(3), "d"(0));
    __asm__ volatile("movq %%xmm3, %0" : "=r"(got));
    CHECK_EQ("XRSTOR: component not in XSTATE_BV is initialised", got, 0);
    *(uint64_t *)(area + 512) = 1ull << 62;
    ATTEMPT("movl $3, %%eax\n1: xrstor64 (%%rcx)\n2:", "c"(area), "d"(0));
    EXPECT_FAULT("XRSTOR: unknown component in XSTATE_BV: #GP", 13, 0);
    *(uint64_t *)(area + 512) = 3;
    *(uint64_t *)(area + 528) = 1;
    ATTEMPT("movl $3, %%eax\n1: xrstor64 (%%rcx)\n2:", "c"(area), "d"(0));
    EXPECT_FAULT("XRSTOR: header not zero: #GP", 13, 0);
    *(uint64_t *)(area + 528) = 0;
    ATTEMPT("movl $3, %%eax\n1: xsave64 (%%rcx)\n2:", "c"(area + 16), "d"(0));
    EXPECT_FAULT("XSAVE aligned to 16 only: #GP", 13, 0);
    write_cr0(read_cr0() | 8);
    ATTEMPT("movl $3, %%eax\n1: xsave64 (%%rcx)\n2:", "c"(area), "d"(0));
    LAX("does not check (SDM Vol. 1, 13.7)");
    EXPECT_FAULT("XSAVE with TS: #NM", 7, 0);
    write_cr0(read_cr0() & ~8ull);
    if (mask & 4) {
        uint64_t w[4];
        __asm__ volatile("vmovdqu %1, %%ymm2; vmovdqu %%ymm2, %0" : "=m"(w) : "m"(v));
        CHECK("YMM load and store", !memcmp(w, v, 32));
        memset(area, 0, sizeof(area));
        __asm__ volatile("xsave64 %0" : "+m"(area) : "a"(7), "d"(0) : "memory");
        CHECK("XSAVE: upper half of YMM2", !memcmp(area + 576 + 32, v + 2, 16) && (*(uint64_t *)(area + 512) & 4));
        __asm__ volatile("vzeroall; xrstor64 %1; vmovdqu %%ymm2, %0" : "=m"(w) : "m"(area), "a"(7), "d"(0));
        CHECK("XRSTOR: YMM2", !memcmp(w, v, 32));
        __asm__ volatile("vmovdqu %1, %%ymm2; movdqu %2, %%xmm2; vmovdqu %%ymm2, %0" : "=m"(w) : "m"(v), "m"(v[1]));
        CHECK("legacy SSE leaves the upper half", w[0] == v[1] && w[2] == v[2]);
        __asm__ volatile("vmovdqu %1, %%ymm2; vmovdqu %2, %%xmm2; vmovdqu %%ymm2, %0" : "=m"(w) : "m"(v), "m"(v[1]));
        CHECK("VEX.128 clears the upper half", w[0] == v[1] && w[2] == 0 && w[3] == 0);
        XSETBV(3);
        ATTEMPT("1: vmovdqu (%%rcx), %%ymm2\n2:", "c"(v));
        EXPECT_FAULT("AVX without XCR0.AVX: #UD", 6, 0);
        XSETBV(7);
        write_cr0(read_cr0() | 8);
        ATTEMPT("1: vmovdqu (%%rcx), %%ymm2\n2:", "c"(v));
        EXPECT_FAULT("AVX with TS: #NM", 7, 0);
        write_cr0(read_cr0() & ~8ull);
    }
    write_cr4(read_cr4() & ~(1ull << 18));
    if (mask & 4) {
        ATTEMPT("1: vmovdqu (%%rcx), %%ymm2\n2:", "c"(v));
        EXPECT_FAULT("AVX without OSXSAVE: #UD", 6, 0);
    }
}

/* CR0.NE = 0: a pending exception becomes IRQ 13 of the second 8259A; a write to port 0xf0 takes it back. */
static void ferr(void)
{
    const uint64_t cr0 = read_cr0();

    __asm__ volatile("fninit");
    outb(0xf0, 0);
    write_cr0(cr0 & ~(1ull << 5));
    outb(0xa0, 0x0a); /* reads give the request register */
    CHECK("no IRQ 13 to begin with", !(inb(0xa0) & 1 << 5));
    set_fcw(0x37b);
    __asm__ volatile("fld1; fldz; fdivrp; fwait");
    CHECK("IRQ 13 at the waiting instruction", inb(0xa0) & 1 << 5);
    CHECK("the exception stays", fsw() & 0x84);
    __asm__ volatile("fnclex");
    outb(0xf0, 0);
    CHECK("a write to port 0xf0 takes it back", !(inb(0xa0) & 1 << 5));
    __asm__ volatile("fninit");
    write_cr0(cr0);
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    write_cr0((read_cr0() & ~12ull) | 2);
    cpuid(1, 0, l1);
    x87();
    if (under_kvm(KVM_ANY)) /* VT-x runs guests with CR0.NE set, AMD-V's FERR# is not intercepted */
        skip("IRQ 13", "KVM does not report FERR#");
    else
        ferr();
    sse();
    fxsave();
    xsave();
    finish();
}
