/* CPUID: agreement of leaves, feature set and policy. The expected bits are written here from the manual. */
#include "cpu_fixture.h"

#include "x86/decode.h"

enum { EAX, EBX, ECX, EDX };

static void leaf(struct fx *f, uint32_t l, uint32_t s, uint32_t out[4])
{
    x86_cpuid(f->c, l, s, out);
}

static const struct {
    enum x86_feature feature;
    uint32_t l, s;
    unsigned reg, bit;
} table[] = {
    {X86_FEAT_FPU, 1, 0, EDX, 0},
    {X86_FEAT_CX8, 1, 0, EDX, 8},
    {X86_FEAT_SEP, 1, 0, EDX, 11},
    {X86_FEAT_CMOV, 1, 0, EDX, 15},
    {X86_FEAT_CLFSH, 1, 0, EDX, 19},
    {X86_FEAT_MMX, 1, 0, EDX, 23},
    {X86_FEAT_FXSR, 1, 0, EDX, 24},
    {X86_FEAT_SSE, 1, 0, EDX, 25},
    {X86_FEAT_SSE2, 1, 0, EDX, 26},
    {X86_FEAT_SSE3, 1, 0, ECX, 0},
    {X86_FEAT_PCLMUL, 1, 0, ECX, 1},
    {X86_FEAT_MONITOR, 1, 0, ECX, 3},
    {X86_FEAT_SSSE3, 1, 0, ECX, 9},
    {X86_FEAT_FMA, 1, 0, ECX, 12},
    {X86_FEAT_CX16, 1, 0, ECX, 13},
    {X86_FEAT_SSE41, 1, 0, ECX, 19},
    {X86_FEAT_SSE42, 1, 0, ECX, 20},
    {X86_FEAT_MOVBE, 1, 0, ECX, 22},
    {X86_FEAT_POPCNT, 1, 0, ECX, 23},
    {X86_FEAT_AES, 1, 0, ECX, 25},
    {X86_FEAT_XSAVE, 1, 0, ECX, 26},
    {X86_FEAT_AVX, 1, 0, ECX, 28},
    {X86_FEAT_F16C, 1, 0, ECX, 29},
    {X86_FEAT_RDRAND, 1, 0, ECX, 30},
    {X86_FEAT_FSGSBASE, 7, 0, EBX, 0},
    {X86_FEAT_BMI1, 7, 0, EBX, 3},
    {X86_FEAT_AVX2, 7, 0, EBX, 5},
    {X86_FEAT_BMI2, 7, 0, EBX, 8},
    {X86_FEAT_INVPCID, 7, 0, EBX, 10},
    {X86_FEAT_RDSEED, 7, 0, EBX, 18},
    {X86_FEAT_ADX, 7, 0, EBX, 19},
    {X86_FEAT_SMAP, 7, 0, EBX, 20},
    {X86_FEAT_CLFLUSHOPT, 7, 0, EBX, 23},
    {X86_FEAT_CLWB, 7, 0, EBX, 24},
    {X86_FEAT_SHA, 7, 0, EBX, 29},
    {X86_FEAT_GFNI, 7, 0, ECX, 8},
    {X86_FEAT_VAES, 7, 0, ECX, 9},
    {X86_FEAT_VPCLMUL, 7, 0, ECX, 10},
    {X86_FEAT_RDPID, 7, 0, ECX, 22},
    {X86_FEAT_MOVDIRI, 7, 0, ECX, 27},
    {X86_FEAT_MOVDIR64B, 7, 0, ECX, 28},
    {X86_FEAT_SERIALIZE, 7, 0, EDX, 14},
    {X86_FEAT_XSAVEOPT, 0xd, 1, EAX, 0},
    {X86_FEAT_XSAVEC, 0xd, 1, EAX, 1},
    {X86_FEAT_XSAVES, 0xd, 1, EAX, 3},
    {X86_FEAT_LAHF64, 0x80000001, 0, ECX, 0},
    {X86_FEAT_LZCNT, 0x80000001, 0, ECX, 5},
    {X86_FEAT_PREFETCHW, 0x80000001, 0, ECX, 8},
    {X86_FEAT_SYSCALL, 0x80000001, 0, EDX, 11},
    {X86_FEAT_RDTSCP, 0x80000001, 0, EDX, 27},
    {X86_FEAT_LM, 0x80000001, 0, EDX, 29},
    {X86_FEAT_WBNOINVD, 0x80000008, 0, EBX, 9},
};

static void ready(struct fx *f)
{
    f->c->mode = X86_MODE_64;
    f->c->misc_enable = X86_MISC_MONITOR;
}

static void feature_set_agrees(void **state)
{
    struct fx *f = fx_new(40);
    const uint64_t *bits = x86_feature_bits(f->policy);
    uint32_t r[4];

    (void)state;
    ready(f);
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        unsigned ft = table[i].feature;

        leaf(f, table[i].l, table[i].s, r);
        if ((r[table[i].reg] >> table[i].bit & 1) != x86_has(f->policy, ft))
            fail_msg("feature %u disagrees with leaf %x", ft, table[i].l);
        assert_int_equal(bits[ft / 64] >> (ft % 64) & 1, x86_has(f->policy, ft));
    }
    assert_true(x86_has(f->policy, X86_FEAT_BASE));
    assert_false(x86_has(f->policy, X86_FEAT_NEVER));
    assert_false(x86_has(f->policy, X86_NFEAT));
    /* presented in no case */
    leaf(f, 7, 2, r);
    assert_int_equal(r[EDX], 1u << 4); /* BHI_CTRL */
    leaf(f, 7, 0, r);
    assert_int_equal(r[EAX], 2); /* highest subleaf */
    assert_int_equal(r[EBX] & (1u << 4 | 1u << 11 | 1u << 14 | 1u << 16), 0); /* HLE RTM MPX AVX512F */
    assert_int_equal(r[ECX] & (1u << 3 | 1u << 4 | 1u << 16), 0);             /* PKU, OSPKE, LA57 */
    leaf(f, 0xa, 0, r);
    assert_int_equal(r[EAX] | r[EBX] | r[ECX] | r[EDX], 0);
    fx_free(f);
}

static bool opcode_known(const struct fx *f, const uint8_t *b, unsigned n)
{
    struct x86_insn in;

    return x86_decode(&in, b, n, X86_MODE_64, false, x86_feature_bits(f->policy)) == X86_DEC_OK;
}

/* What is not presented does not decode, and what is does. */
static void old_host(uint32_t l, uint32_t s, uint32_t out[4])
{
    (void)s;
    memset(out, 0, 16);
    if (l == 7)
        out[EBX] = 1u << 13; /* no FCS and FDS */
    if (l == 1)
        out[EDX] = 1u << 23 | 1u << 25 | 1u << 26; /* MMX, SSE, SSE2: nothing newer */
}

static void follows_the_host(void **state)
{
    struct fx *f = fx_new(40);
    struct x86_cpuid_config cfg = {.ncpu = 1, .tsc_khz = 1000000, .host_cpuid = old_host};
    struct x86_cpuid_policy *old = x86_cpuid_new(&cfg), *real = f->policy;
    static const uint8_t vaddps[] = {0xc5, 0xf4, 0x58, 0xc2}, pshufb[] = {0x66, 0x0f, 0x38, 0x00, 0xc1},
                         addps[] = {0x0f, 0x58, 0xc1}, rdpid[] = {0xf3, 0x0f, 0xc7, 0xf8};
    uint32_t r[4];

    (void)state;
    ready(f);
    f->policy = old;
    f->c->cpuid = old;
    assert_false(x86_has(old, X86_FEAT_AVX));
    assert_false(x86_has(old, X86_FEAT_SSSE3));
    assert_false(x86_has(old, X86_FEAT_BMI2));
    assert_true(x86_has(old, X86_FEAT_RDPID)); /* needs no host support */
    assert_true(x86_xcr0_mask(old) == 3);
    leaf(f, 1, 0, r);
    assert_int_equal(r[ECX] & (1u << 28 | 1u << 12 | 1u << 9), 0);
    assert_int_equal(r[EDX] & 1u << 28, 0); /* one processor: no HTT */
    leaf(f, 7, 0, r);
    assert_int_equal(r[EBX] & (1u << 6 | 1u << 13), 1u << 13); /* the x87 is the host's */
    leaf(f, 0xd, 0, r);
    assert_int_equal(r[ECX], 576);
    leaf(f, 0xd, 2, r);
    assert_int_equal(r[EAX], 0);
    leaf(f, 0x80000008, 0, r);
    assert_int_equal(r[EAX] & 0xff, 40); /* the default */
    assert_true(opcode_known(f, addps, sizeof(addps)));
    assert_true(opcode_known(f, rdpid, sizeof(rdpid)));
    assert_false(opcode_known(f, pshufb, sizeof(pshufb)));
    assert_false(opcode_known(f, vaddps, sizeof(vaddps)));
    f->policy = real;
    f->c->cpuid = real;
    assert_int_equal(opcode_known(f, pshufb, sizeof(pshufb)), x86_has(real, X86_FEAT_SSSE3));
    assert_int_equal(opcode_known(f, vaddps, sizeof(vaddps)), x86_has(real, X86_FEAT_AVX));
    x86_cpuid_free(old);
    fx_free(f);
}

static void identity(void **state)
{
    struct fx *f = fx_new(40);
    uint32_t r[4], last[4];
    char name[49] = {0};

    (void)state;
    ready(f);
    leaf(f, 0, 0, r);
    assert_int_equal(r[EAX], 0x16);
    assert_memory_equal(&r[EBX], "Genu", 4);
    assert_memory_equal(&r[EDX], "ineI", 4);
    assert_memory_equal(&r[ECX], "ntel", 4);
    leaf(f, 1, 0, r);
    assert_int_equal(r[EAX], x86_signature(f->policy));
    assert_int_equal(r[EAX] >> 8 & 15, 6);
    assert_true(r[ECX] & 1u << 31);
    for (unsigned i = 0; i < 3; i++)
        leaf(f, 0x80000002 + i, 0, (uint32_t *)(name + 16 * i));
    assert_string_equal(name, "Ringer virtual CPU");
    leaf(f, 0x40000000, 0, r);
    assert_memory_equal(&r[EBX], "KVMKVMKVM\0\0\0", 12);
    leaf(f, 0x40000001, 0, r);
    assert_int_equal(r[EAX], 0x01000009);
    leaf(f, 0x40000010, 0, r);
    assert_int_equal(r[EAX], 2000000);
    assert_int_equal(r[EBX], 1000000);
    leaf(f, 0x400000ff, 0, r);
    assert_int_equal(r[EAX] | r[EBX] | r[ECX] | r[EDX], 0);
    /* out of range: the highest basic leaf answers */
    leaf(f, 0x16, 0, last);
    assert_int_equal(last[EAX], 2000);
    leaf(f, 0x17, 0, r);
    assert_memory_equal(r, last, 16);
    leaf(f, 0x8fffffff, 0, r);
    assert_memory_equal(r, last, 16);
    leaf(f, 0xffffffff, 0, r);
    assert_memory_equal(r, last, 16);
    leaf(f, 0x80000000, 0, r);
    assert_int_equal(r[EAX], 0x80000008);
    leaf(f, 0x80000007, 0, r);
    assert_int_equal(r[EDX], 1u << 8);
    leaf(f, 0x15, 0, r);
    assert_int_equal((uint64_t)r[ECX] * r[EBX] / r[EAX], 2000000000u);
    assert_int_equal(r[ECX], 1000000000);
    fx_free(f);
}

static void follows_the_state(void **state)
{
    struct fx *f = fx_new(40);
    uint32_t r[4];

    (void)state;
    ready(f);
    leaf(f, 1, 0, r);
    assert_false(r[ECX] & 1u << 27);
    f->c->cr4 |= X86_CR4_OSXSAVE;
    leaf(f, 1, 0, r);
    assert_true(r[ECX] & 1u << 27);
    leaf(f, 0xd, 0, r);
    assert_int_equal(r[EBX], 576);
    assert_int_equal(r[EAX], x86_xcr0_mask(f->policy));
    f->c->xcr0 = x86_xcr0_mask(f->policy);
    leaf(f, 0xd, 0, r);
    assert_int_equal(r[EBX], r[ECX]);
    if (x86_has(f->policy, X86_FEAT_AVX)) {
        assert_int_equal(r[EBX], 832);
        leaf(f, 0xd, 2, r);
        assert_int_equal(r[EAX], 256);
        assert_int_equal(r[EBX], 576);
    }
    leaf(f, 0x80000001, 0, r);
    assert_true(r[EDX] & 1u << 11);
    f->c->mode = X86_MODE_32;
    leaf(f, 0x80000001, 0, r);
    assert_false(r[EDX] & 1u << 11);
    assert_true(r[EDX] & 1u << 20);
    f->c->misc_enable |= X86_MISC_XD_DISABLE | X86_MISC_LIMIT_CPUID;
    f->c->misc_enable &= ~(uint64_t)X86_MISC_MONITOR;
    leaf(f, 0x80000001, 0, r);
    assert_false(r[EDX] & 1u << 20);
    leaf(f, 0, 0, r);
    assert_int_equal(r[EAX], 2);
    leaf(f, 1, 0, r);
    assert_false(r[ECX] & 1u << 3);
    fx_free(f);
}

static void topology(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 64; n = n * 2 + 1) {
        struct fx *f = fx_new(40);
        struct x86_cpuid_config cfg = {.ncpu = n, .tsc_khz = 1000000};
        uint32_t r[4];
        unsigned shift;

        x86_cpuid_free(f->policy);
        f->policy = x86_cpuid_new(&cfg);
        f->c->cpuid = f->policy;
        f->c->apic_id = n - 1;
        leaf(f, 0xb, 0, r);
        assert_int_equal(r[EAX], 0);
        assert_int_equal(r[EBX], 1);
        assert_int_equal(r[ECX], 0x100);
        assert_int_equal(r[EDX], n - 1);
        leaf(f, 0xb, 1, r);
        shift = r[EAX];
        assert_int_equal(r[EBX], n);
        assert_int_equal(r[ECX], 0x201);
        assert_true((1u << shift) >= n && (shift == 0 || (1u << (shift - 1)) < n));
        leaf(f, 0xb, 2, r);
        assert_int_equal(r[ECX], 2);
        assert_int_equal(r[EBX], 0);
        assert_int_equal(r[EDX], n - 1);
        leaf(f, 1, 0, r);
        assert_int_equal(r[EBX] >> 24, n - 1);
        assert_int_equal(!!(r[EDX] & 1u << 28), n > 1);
        leaf(f, 4, 0, r);
        assert_int_equal(r[EAX] & 31, 1);
        assert_int_equal((r[EAX] >> 26) + 1, 1u << shift);
        assert_int_equal((r[EAX] >> 14 & 0xfff) + 1, 1);
        leaf(f, 4, 3, r);
        assert_int_equal((r[EAX] >> 14 & 0xfff) + 1, 1u << shift);
        leaf(f, 4, 4, r);
        assert_int_equal(r[EAX], 0);
        fx_free(f);
    }
}

static void address_bits(void **state)
{
    static const unsigned want[][2] = {{0, 40}, {20, 36}, {36, 36}, {42, 42}, {46, 46}, {52, 46}};

    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        struct x86_cpuid_config cfg = {.ncpu = 1, .tsc_khz = 1000000, .phys_bits = want[i][0]};
        struct x86_cpuid_policy *p = x86_cpuid_new(&cfg);

        assert_int_equal(x86_phys_bits(p), want[i][1]);
        x86_cpuid_free(p);
    }
}

/* Asked for, two leaves; else the range stays as on a processor that has no such leaves. */
static void hypercall_leaves(void **state)
{
    (void)state;
    for (unsigned on = 0; on < 2; on++) {
        struct x86_cpuid_config cfg = {.ncpu = 1, .tsc_khz = 1000000, .hc_features = on ? 0x7f : 0, .hc_port = 0x560, .hc_irq = 5};
        struct x86_cpuid_policy *p = x86_cpuid_new(&cfg);
        struct x86_cpu *c = aligned_alloc(_Alignof(struct x86_cpu), sizeof(*c));
        memset(c, 0, sizeof(*c));
        uint32_t r[4], last[4];
        c->cpuid = p;
        x86_cpuid(c, 0x16, 0, last);
        for (uint32_t l = 0x400000ff; l < 0x40000110; l++) {
            x86_cpuid(c, l, 0, r);
            if (on && l == 0x40000100) {
                assert_int_equal(r[EAX], 0x40000101);
                assert_memory_equal(r + 1, "RingerRinger", 12);
            } else if (on && l == 0x40000101) {
                assert_true(r[EAX] == 0x7f && r[EBX] == 0x560 && r[ECX] == 5 && r[EDX] == 0);
            } else if (l >= 0x40000100) {
                assert_memory_equal(r, last, sizeof(r));
            }
        }
        assert_int_equal(x86_cpuid_hypercalls(p), on);
        free(c);
        x86_cpuid_free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(feature_set_agrees), cmocka_unit_test(follows_the_host), cmocka_unit_test(identity),
        cmocka_unit_test(follows_the_state),  cmocka_unit_test(topology),         cmocka_unit_test(address_bits), cmocka_unit_test(hypercall_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
