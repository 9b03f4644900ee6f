/* Engine kvm without KVM: the probe's verdicts, CPUID, conversions of state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/kvm/convert.h"
#include "engine/kvm/cpuid.h"
#include "engine/kvm/probe.h"
#include "ringer/host.h"
#include "x86/cpu.h"

/* --- verdicts ------------------------------------------------------------------------- */

static struct probe_result good(void)
{
    return (struct probe_result){.step = PROBE_RUN,
                                 .api = KVM_API_VERSION,
                                 .stage = PROBE_DONE,
                                 .exit_reason = UINT32_MAX,
                                 .native_ns = 300000,
                                 .guest_ns = 310000,
                                 .sse = PROBE_SSE_RESULT,
                                 .fault_addr = PROBE_FAULT_ADDR,
                                 .fault_error = PROBE_FAULT_ERROR};
}

static void refused(const struct probe_result *r, const char *why)
{
    char text[200] = "";
    assert_int_equal(kvm_verdict(r, "/dev/x", text, sizeof(text)), -1);
    if (!strstr(text, why) || strncmp(text, "/dev/x ", 7) || strchr(text, '\n'))
        fail_msg("'%s' does not say '%s'", text, why);
}

static void works(void **s)
{
    struct probe_result r = good();
    char text[200] = "untouched";
    assert_int_equal(kvm_verdict(&r, "/dev/kvm", text, sizeof(text)), 0);
    assert_string_equal(text, "untouched");
    r.killed = 1; /* it only took its time to go away */
    assert_int_equal(kvm_verdict(&r, "/dev/kvm", text, sizeof(text)), 0);
}

static void cannot_open(void **s)
{
    struct probe_result r = {.step = PROBE_OPEN, .error = ENOENT};
    refused(&r, "does not exist");
    r.error = EACCES;
    refused(&r, "permission denied");
    r.error = EPERM;
    refused(&r, "permission denied");
    r.error = ENODEV;
    refused(&r, "no driver");
    r.error = EMFILE;
    refused(&r, strerror(EMFILE));
}

static void wrong_interface(void **s)
{
    struct probe_result r = {.step = PROBE_API, .error = ENOTTY, .api = -ENOTTY};
    refused(&r, "is no KVM device");
    r = (struct probe_result){.step = PROBE_API, .api = 11};
    refused(&r, "version 11");
    r = (struct probe_result){.step = PROBE_CAPS, .api = KVM_API_VERSION, .missing = "KVM_CAP_WISH"};
    refused(&r, "too old: it lacks KVM_CAP_WISH");
    r = (struct probe_result){.step = PROBE_CREATE_VM, .api = KVM_API_VERSION, .error = EBUSY};
    refused(&r, "KVM_CREATE_VM");
    r.step = PROBE_RUN;
    refused(&r, "KVM_RUN");
}

static void emulates(void **s)
{
    struct probe_result r = good();
    r.guest_ns = r.native_ns * 3000;
    refused(&r, "3000 times slower");
    r.guest_ns = r.native_ns * PROBE_MAX_RATIO;
    refused(&r, "only emulates");
    r.guest_ns = r.native_ns * PROBE_MAX_RATIO - 1;
    char text[200];
    assert_int_equal(kvm_verdict(&r, "/dev/x", text, sizeof(text)), 0);
    r = good();
    r.stage = PROBE_LOOP_BEGIN;
    r.killed = 1;
    r.guest_ns = 0;
    refused(&r, "did not end");
    r = good();
    r.stage = PROBE_LONG;
    r.exit_reason = KVM_EXIT_INTERNAL_ERROR;
    r.detail = KVM_INTERNAL_ERROR_EMULATION;
    refused(&r, "only emulates: KVM could not emulate an instruction (suberror 1) at an SSE instruction");
}

static void breaks(void **s)
{
    struct probe_result r = good();
    r.stage = PROBE_REAL;
    r.exit_reason = KVM_EXIT_SHUTDOWN;
    refused(&r, "triple fault at entering protected mode");
    r.exit_reason = KVM_EXIT_FAIL_ENTRY;
    r.detail = 0x80000021;
    refused(&r, "0x80000021");
    r.exit_reason = 4711;
    refused(&r, "unexpected exit 4711");
    r.killed = 1;
    refused(&r, "did not get past entering protected mode");
    r = (struct probe_result){.step = PROBE_CREATE_VM, .api = KVM_API_VERSION, .killed = 1};
    refused(&r, "hangs in KVM_CREATE_VM");
    r = good();
    r.sse++;
    refused(&r, "SSE");
    r = good();
    r.fault_error = 0;
    refused(&r, "page fault");
    r = good();
    r.fault_addr += 4096;
    refused(&r, "page fault");
    r = good();
    r.native_ns = 0;
    refused(&r, "measured");
    r = good();
    r.guest_ns = 0;
    refused(&r, "only emulates");
}

/* Whatever the trial's process leaves in shared memory, there is an answer. */
static void garbage(void **s)
{
    struct probe_result r;
    char text[200];
    uint32_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        for (size_t k = 0; k < sizeof(r); k++)
            ((uint8_t *)&r)[k] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
        r.missing = NULL;
        if (kvm_verdict(&r, "/dev/x", text, sizeof(text)) == 0)
            assert_int_equal(r.stage, PROBE_DONE);
        else
            assert_true(strlen(text) > 8);
    }
}

/* The whole probe, where the answer is known. */
static void real_probe(void **s)
{
    char text[200];
    struct engine_config cfg = {.kvm_device = "/nonexistent/kvm"};
    uint64_t t = host_now();
    assert_int_equal(kvm_probe(&cfg, text, sizeof(text)), -1);
    assert_non_null(strstr(text, "does not exist"));
    cfg.kvm_device = "/dev/null";
    assert_int_equal(kvm_probe(&cfg, text, sizeof(text)), -1);
    assert_non_null(strstr(text, "no KVM device"));
    /* Of this host's own KVM only this is known: there is an answer, and in time. */
    cfg.kvm_device = NULL;
    text[0] = 0;
    if (kvm_probe(&cfg, text, sizeof(text)) != 0)
        assert_true(!strncmp(text, "/dev/kvm ", 9));
    assert_true(host_now() - t < 10000000000ull);
}

/* --- CPUID ------------------------------------------------------------------------------ */

enum { A, B, C, D };

static void no_host(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    memset(out, 0xff, 16);
}

/* struct kvm_cpuid2 with room. */
struct table {
    uint32_t nent, pad;
    struct kvm_cpuid_entry2 e[16];
};
_Static_assert(offsetof(struct table, e) == offsetof(struct kvm_cpuid2, entries), "one layout");

static void add(struct table *t, uint32_t leaf, uint32_t sub, uint32_t flags, uint32_t a, uint32_t b, uint32_t c,
                uint32_t d)
{
    t->e[t->nent++] = (struct kvm_cpuid_entry2){
        .function = leaf, .index = sub, .flags = flags, .eax = a, .ebx = b, .ecx = c, .edx = d};
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid_entry2 *e, unsigned n, uint32_t leaf, uint32_t sub)
{
    for (unsigned i = 0; i < n; i++)
        if (e[i].function == leaf && e[i].index == sub)
            return &e[i];
    fail_msg("no leaf %x.%u", leaf, sub);
    return NULL;
}

static struct x86_cpuid_policy *policy(void)
{
    struct x86_cpuid_config c = {.ncpu = 3,
                                 .tsc_khz = 2000000,
                                 .phys_bits = 40,
                                 .apic_hz = 1000000000,
                                 .kvm_leaves = true,
                                 .kvm_features = 0x100000b,
                                 .has_x2apic = true,
                                 .has_tsc_deadline = true,
                                 .host_cpuid = no_host};
    return x86_cpuid_new(&c);
}

static struct table amd(void)
{
    struct table t = {.nent = 0};
    const uint32_t idx = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    add(&t, 0, 0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65); /* AuthenticAMD */
    add(&t, 1, 0, 0, 0x800f12, 0, 1u << 0 | 1u << 21 | 1u << 30, 0x078bfbff);
    add(&t, 7, 0, idx, 0, 1u << 0 | 1u << 8 | 1u << 16 /* AVX-512 */, 0, 1u << 31 | 1u << 16);
    add(&t, 0xd, 0, idx, 3, 0, 0, 0);
    add(&t, 0xd, 1, idx, 1, 0, 0, 0);
    add(&t, 0x40000001, 0, 0, 0xffffffff, 0, 0, 0xffffffff);
    add(&t, 0x80000001, 0, 0, 0, 0, 1u << 0, 1u << 29 | 1u << 11);
    add(&t, 0x80000008, 0, 0, 0x3030 | 48, 1u << 12 | 1u << 0, 0, 0);
    return t;
}

static void cpuid_is_the_intersection(void **s)
{
    struct x86_cpuid_policy *p = policy();
    struct table k = amd();
    struct kvm_cpuid_entry2 e[128];
    struct kvm_cpuid_target t = {.index = 2, .ncpu = 3, .kernel_apic = true, .tsc_deadline = true};
    unsigned n = kvm_cpuid_build(p, (struct kvm_cpuid2 *)&k, &t, e, 128);
    assert_true(n > 20);
    const struct kvm_cpuid_entry2 *l1 = find(e, n, 1, 0), *l7 = find(e, n, 7, 0);
    /* who it is: the hardware's */
    assert_int_equal(find(e, n, 0, 0)->ebx, 0x68747541);
    assert_int_equal(l1->eax, 0x800f12);
    /* features: SSE3 and RDRAND of both; SSSE3 ours alone; x2APIC, TSC deadline, hypervisor; OSXSAVE is KVM's to show
     */
    assert_int_equal(l1->ecx, 1u << 0 | 1u << 21 | 1u << 24 | 1u << 30 | 1u << 31);
    assert_true(l1->edx & 1u << 28);
    assert_int_equal(l1->ebx >> 24, 2);
    assert_int_equal(l7->ebx, 1u << 0 | 1u << 8);
    /* speculation: KVM's as it is, nothing of ours */
    assert_int_equal(l7->edx, 1u << 31);
    assert_int_equal(find(e, n, 0x80000008, 0)->ebx, 1u << 12);
    /* address width: the hardware's; cores: ours */
    assert_int_equal(find(e, n, 0x80000008, 0)->eax & 0xff, 48);
    assert_int_equal(find(e, n, 0x80000008, 0)->ecx, 2 | 2 << 12);
    assert_true(find(e, n, 0x80000001, 0)->ecx & 2);
    assert_int_equal(find(e, n, 0xb, 1)->edx, 2);
    assert_int_equal(find(e, n, 0xb, 1)->ebx, 3);
    /* no AVX state without KVM's */
    assert_int_equal(find(e, n, 0xd, 0)->eax, 3);
    /* Intel's leaves are reserved on others, and TSC is not called invariant when KVM does not */
    assert_int_equal(find(e, n, 4, 0)->eax, 0);
    assert_int_equal(find(e, n, 0x80000007, 0)->edx, 0);
    assert_int_equal(find(e, n, 0x15, 0)->ebx, 0);
    /* paravirtual: no hints, nothing that needs more than we give */
    assert_int_equal(find(e, n, 0x40000001, 0)->edx, 0);
    assert_int_equal(find(e, n, 0x40000001, 0)->eax & (1u << 15 | 1u << 16), 0);
    assert_int_equal(find(e, n, 0x40000000, 0)->ebx, 0x4b4d564b);
    x86_cpuid_free(p);
}

static void cpuid_with_our_apic(void **s)
{
    struct x86_cpuid_policy *p = policy();
    struct table k = amd();
    struct kvm_cpuid_entry2 e[128];
    struct kvm_cpuid_target t = {.ncpu = 1, .tsc_deadline = true};
    unsigned n = kvm_cpuid_build(p, (struct kvm_cpuid2 *)&k, &t, e, 128);
    assert_int_equal(find(e, n, 1, 0)->ecx & (1u << 21 | 1u << 24), 0);
    assert_int_equal(find(e, n, 0x40000001, 0)->eax, 0x100000b);
    /* too little room is told, not overrun */
    struct kvm_cpuid_entry2 few[4];
    memset(few, 0x5a, sizeof(few));
    assert_int_equal(kvm_cpuid_build(p, (struct kvm_cpuid2 *)&k, &t, few, 3), 0);
    assert_int_equal(few[3].function, 0x5a5a5a5a);
    x86_cpuid_free(p);
}

/* --- conversions --------------------------------------------------------------------------- */

static void scramble(void *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)p)[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
}

static struct x86_cpu *new_cpu(void) /* calloc does not align enough */
{
    struct x86_cpu *c = aligned_alloc(_Alignof(struct x86_cpu), sizeof(*c));
    assert_non_null(c);
    return memset(c, 0, sizeof(*c));
}

static void regs_round_trip(void **s)
{
    struct x86_cpu *c = new_cpu(), *d = new_cpu();
    struct kvm_regs r;
    scramble(c->gpr, sizeof(c->gpr), 1);
    c->rip = 0xffffffff81000123;
    x86_set_rflags(c, 0x3f7fd7);
    kvm_regs_from(c, &r);
    assert_int_equal(r.rflags, 0x3f7fd7);
    assert_int_equal(r.rbx, c->gpr[X86_RBX]);
    assert_int_equal(r.rsp, c->gpr[X86_RSP]);
    assert_int_equal(r.r15, c->gpr[X86_R15]);
    kvm_regs_to(d, &r);
    assert_memory_equal(c->gpr, d->gpr, sizeof(c->gpr));
    assert_int_equal(d->rip, c->rip);
    assert_int_equal(x86_get_rflags(d), x86_get_rflags(c));
    free(c);
    free(d);
}

static void sregs_round_trip(void **s)
{
    struct x86_cpu *c = new_cpu(), *d = new_cpu();
    struct kvm_sregs2 k, back;
    struct kvm_sregs old;
    for (unsigned i = 0; i < X86_NSEG; i++)
        c->seg[i] =
            (struct x86_seg){0x1000 * i, 0xfffff + i, (uint16_t)(8 * i), (uint16_t)(0xd093 ^ (i & 1 ? X86_AR_DB : 0))};
    c->seg[X86_CS] = (struct x86_seg){0, 0xffffffff, 0x10, 0xa09b};           /* 64-bit code */
    c->seg[X86_FS] = (struct x86_seg){0x7f0000001000, 0, 0, 0x0003 | 3 << 5}; /* null selector */
    c->ldtr = (struct x86_seg){0x5000, 0xff, 0x28, 0x0082};
    c->tr = (struct x86_seg){0xfffffe0000003000, 0x206f, 0x40, 0x008b};
    c->gdtr = (struct x86_dtr){0xfffffe0000001000, 0x7f};
    c->idtr = (struct x86_dtr){0xfffffe0000000000, 0xfff};
    c->cr0 = 0x80050033, c->cr2 = 0xdeadbeef000, c->cr3 = 0x1000, c->cr4 = 0x3506f0, c->efer = 0xd01;
    kvm_sregs_from(c, 0xfee00900, 5, &k);
    assert_int_equal(k.cs.l, 1);
    assert_int_equal(k.cs.db, 0);
    assert_int_equal(k.cs.g, 1);
    assert_int_equal(k.cs.type, 11);
    assert_int_equal(k.cs.s, 1);
    assert_int_equal(k.cs.limit, 0xffffffff);
    assert_int_equal(k.fs.unusable, 1);
    assert_int_equal(k.fs.dpl, 3);
    assert_int_equal(k.ds.unusable, 0);
    assert_int_equal(k.tr.s, 0);
    assert_int_equal(k.cr8, 5);
    assert_int_equal(k.apic_base, 0xfee00900);
    assert_int_equal(k.flags, 0); /* no PDPTRs in long mode */
    kvm_sregs2_to_1(&k, &old);
    kvm_sregs2_from_1(&old, &back);
    assert_memory_equal(&k, &back, sizeof(k));
    kvm_sregs_to(d, &back);
    assert_memory_equal(c->seg, d->seg, sizeof(c->seg));
    assert_memory_equal(&c->tr, &d->tr, sizeof(c->tr));
    assert_memory_equal(&c->ldtr, &d->ldtr, sizeof(c->ldtr));
    assert_true(d->gdtr.base == c->gdtr.base && d->gdtr.limit == c->gdtr.limit);
    assert_true(d->idtr.base == c->idtr.base && d->idtr.limit == c->idtr.limit);
    assert_true(d->cr0 == c->cr0 && d->cr2 == c->cr2 && d->cr3 == c->cr3 && d->cr4 == c->cr4 && d->efer == c->efer);
    /* PAE paging: the registers go along */
    c->efer = 0;
    c->pdptr_valid = 1;
    c->pdptr[2] = 0x3001;
    kvm_sregs_from(c, 0, 0, &k);
    assert_int_equal(k.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
    kvm_sregs_to(d, &k);
    assert_true(d->pdptr_valid && d->pdptr[2] == 0x3001);
    /* a task register that is not busy cannot be entered with */
    c->tr.ar = 0x0089;
    kvm_sregs_from(c, 0, 0, &k);
    assert_int_equal(k.tr.type, 11);
    free(c);
    free(d);
}

static void debug_and_events(void **s)
{
    struct x86_cpu *c = new_cpu(), *d = new_cpu();
    struct kvm_debugregs r;
    struct kvm_vcpu_events e;
    scramble(c->dr, sizeof(c->dr), 7);
    c->dr6 = 0xffff4ff1;
    c->dr7 = 0x10401;
    kvm_debugregs_from(c, &r);
    kvm_debugregs_to(d, &r);
    assert_memory_equal(c->dr, d->dr, sizeof(c->dr));
    assert_true(d->dr6 == c->dr6 && d->dr7 == c->dr7);
    for (unsigned shadow = 0; shadow < 3; shadow++)
        for (unsigned nmi = 0; nmi < 2; nmi++) {
            c->inhibit_irq = (uint8_t)shadow;
            c->nmi_blocked = nmi;
            kvm_events_from(c, &e);
            assert_false(e.exception.injected || e.interrupt.injected || e.nmi.injected);
            kvm_events_to(d, &e);
            assert_int_equal(d->inhibit_irq, shadow);
            assert_int_equal(d->nmi_blocked, nmi);
        }
    free(c);
    free(d);
}

static void msr_table(void **s)
{
    struct kvm_msr_field f, g;
    unsigned n = 0;
    bool star = false, last_mtrr = false;
    for (; kvm_msr_field(n, &f); n++) {
        assert_true(f.offset % 8 == 0 && f.offset + 8u <= sizeof(struct x86_cpu));
        for (unsigned i = 0; i < n; i++) {
            assert_true(kvm_msr_field(i, &g));
            assert_true(g.msr != f.msr && g.offset != f.offset);
        }
        star |= f.msr == 0xc0000081 && f.offset == offsetof(struct x86_cpu, star);
        last_mtrr |= f.msr == 0x20f && f.offset == offsetof(struct x86_cpu, mtrr_var[15]);
    }
    assert_true(star && last_mtrr);
    assert_false(kvm_msr_field(n + 1, &f));
}

static uint32_t reg(const struct kvm_lapic_state *l, unsigned off)
{
    uint32_t v;
    memcpy(&v, l->regs + off, 4);
    return v;
}

static void lapic_power_up(void **s)
{
    struct kvm_lapic_state l;
    kvm_lapic_power_up(&l, 3, false);
    assert_int_equal(reg(&l, 0x20), 3u << 24);
    assert_int_equal(reg(&l, 0xf0), 0xff);
    assert_int_equal(reg(&l, 0xe0), 0xffffffff);
    assert_int_equal(reg(&l, 0x320), 0x10000);
    assert_int_equal(reg(&l, 0x350), 0x10000);
    kvm_lapic_power_up(&l, 0, true);
    assert_int_equal(reg(&l, 0xf0), 0x1ff);
    assert_int_equal(reg(&l, 0x350), 0x700);
    assert_int_equal(reg(&l, 0x360), 0x400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(works),
        cmocka_unit_test(cannot_open),
        cmocka_unit_test(wrong_interface),
        cmocka_unit_test(emulates),
        cmocka_unit_test(breaks),
        cmocka_unit_test(garbage),
        cmocka_unit_test(real_probe),
        cmocka_unit_test(cpuid_is_the_intersection),
        cmocka_unit_test(cpuid_with_our_apic),
        cmocka_unit_test(regs_round_trip),
        cmocka_unit_test(sregs_round_trip),
        cmocka_unit_test(debug_and_events),
        cmocka_unit_test(msr_table),
        cmocka_unit_test(lapic_power_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
