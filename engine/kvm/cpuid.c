/* CPUID under KVM. */
#include "engine/kvm/cpuid.h"

#include <stdlib.h>
#include <string.h>

#include "ringer/hypercall.h"
#include "x86/cpu.h"

enum { EAX, EBX, ECX, EDX };

/* Registers that are sets of features: bits of `both` need our policy and KVM, bits of `kvm` are the hardware's, the
 * rest is our policy's. */
static const struct rule {
    uint32_t leaf, sub;
    uint8_t reg;
    uint32_t both, kvm;
} rules[] = {
    /* ours: TSC deadline (24, see below), the OSXSAVE mirror (27), hypervisor (31) */
    {1, 0, ECX, ~(1u << 24 | 1u << 27 | 1u << 31), 0},
    {1, 0, EDX, ~(1u << 28), 0}, /* ours: several APIC ids */
    {7, 0, EBX, ~0u, 0},
    {7, 0, ECX, ~0u, 0},
    /* MD_CLEAR, IBRS and IBPB, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD */
    {7, 0, EDX, ~(1u << 10 | 0xbu << 26 | 1u << 28 | 1u << 31), 1u << 10 | 0xbu << 26 | 1u << 28 | 1u << 31},
    {0xd, 0, EAX, ~0u, 0},
    {0xd, 1, EAX, ~0u, 0},
    {0x80000001, 0, ECX, ~0u, 0},
    {0x80000001, 0, EDX, ~0u, 0},
    {0x80000007, 0, EDX, ~0u, 0},
    /* IBPB, IBRS, STIBP and their preferences, SSBD and its variants, PSFD */
    {0x80000008, 0, EBX, ~(0x1fu << 12 | 1u << 18 | 1u << 19 | 7u << 24 | 1u << 28),
     0x1fu << 12 | 1u << 18 | 1u << 19 | 7u << 24 | 1u << 28},
};

#define PV_CLOCK (1u << 0 | 1u << 1 | 1u << 3 | 1u << 24)
/* Also: asynchronous page faults (4, 10, 14), steal time, EOI, unhalt, TLB flush, IPIs, polling control, yield */
#define PV_KERNEL                                                                                                      \
    (PV_CLOCK | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 9 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14)

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *s, uint32_t leaf, uint32_t sub)
{
    for (unsigned i = 0; i < s->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &s->entries[i];
        if (e->function == leaf && (e->index == sub || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
            return e;
    }
    return NULL;
}

static void get(const struct kvm_cpuid2 *s, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    const struct kvm_cpuid_entry2 *e = find(s, leaf, sub);
    memset(r, 0, 16);
    if (e)
        r[EAX] = e->eax, r[EBX] = e->ebx, r[ECX] = e->ecx, r[EDX] = e->edx;
}

static bool indexed(uint32_t leaf)
{
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd;
}

struct build {
    struct x86_cpu *c;
    const struct kvm_cpuid2 *kvm;
    const struct kvm_cpuid_target *t;
    bool intel, invariant; /* vendor; TSC that never stops */
    struct kvm_cpuid_entry2 *out;
    unsigned n, cap;
};

/* Registers that are no feature sets. */
static void special(const struct build *b, uint32_t leaf, uint32_t r[4], const uint32_t k[4])
{
    switch (leaf) {
    case 0: r[EBX] = k[EBX], r[ECX] = k[ECX], r[EDX] = k[EDX]; break;
    case 1:
        r[EAX] = k[EAX];
        if (!b->t->kernel_apic)
            r[ECX] &= ~(1u << 21); /* x2APIC: its MSRs would not reach our APIC */
        if (!b->t->kernel_apic || !b->t->tsc_deadline)
            r[ECX] &= ~(1u << 24);
        r[ECX] &= ~(1u << 27); /* KVM mirrors CR4.OSXSAVE itself */
        break;
    case 2:
    case 4:
    case 5:
        if (!b->intel)
            memset(r, 0, 16); /* reserved there */
        break;
    case 0x15:
    case 0x16:
        if (!b->intel || !b->invariant)
            memset(r, 0, 16);
        break;
    case 0x40000001: r[EAX] = k[EAX] & (b->t->kernel_apic ? PV_KERNEL : PV_CLOCK); break;
    case 0x80000001:
        if (!b->intel && b->t->ncpu > 1)
            r[ECX] |= 1u << 1; /* CmpLegacy: HTT means cores */
        break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        if (b->t->name[0])
            memcpy(r, b->t->name + 4 * (leaf - 0x80000002), 16);
        break;
    case 0x80000005:
    case 0x80000006:
        if (k[EAX] || k[EBX] || k[ECX] || k[EDX])
            memcpy(r, k, 16);
        break;
    case 0x80000008: {
        unsigned bits = 0;
        while ((1u << bits) < b->t->ncpu)
            bits++;
        /* Reserved bits of page-table entries are checked by the hardware, at its own width. */
        if (k[EAX] & 0xff)
            r[EAX] = (r[EAX] & ~0xffu) | (k[EAX] & 0xff);
        if (!b->intel)
            r[ECX] = (b->t->ncpu - 1) | bits << 12;
        break;
    }
    }
}

static void add(struct build *b, uint32_t leaf, uint32_t sub)
{
    uint32_t r[4], k[4];
    x86_cpuid(b->c, leaf, sub, r);
    get(b->kvm, leaf, sub, k);
    for (unsigned i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        if (rules[i].leaf == leaf && rules[i].sub == sub) {
            uint32_t *v = &r[rules[i].reg], kv = k[rules[i].reg];
            *v = (*v & ~rules[i].both & ~rules[i].kvm) | (*v & kv & rules[i].both) | (kv & rules[i].kvm);
        }
    special(b, leaf, r, k);
    if (b->n++ >= b->cap)
        return;
    b->out[b->n - 1] = (struct kvm_cpuid_entry2){.function = leaf,
                                                 .index = sub,
                                                 .flags = indexed(leaf) ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
                                                 .eax = r[EAX],
                                                 .ebx = r[EBX],
                                                 .ecx = r[ECX],
                                                 .edx = r[EDX]};
}

unsigned kvm_cpuid_build(const struct x86_cpuid_policy *p, const struct kvm_cpuid2 *supported,
                         const struct kvm_cpuid_target *t, struct kvm_cpuid_entry2 *out, unsigned cap)
{
    uint32_t r[4];
    /* The policy answers for a processor in some state: 64-bit mode, everything on. */
    struct build b = {.kvm = supported, .t = t, .out = out, .cap = cap};
    b.c = aligned_alloc(_Alignof(struct x86_cpu), sizeof(*b.c));
    if (!b.c)
        return 0;
    memset(b.c, 0, sizeof(*b.c));
    b.c->cpuid = p;
    b.c->apic_id = t->index;
    b.c->mode = X86_MODE_64;
    b.c->misc_enable = X86_MISC_MONITOR;
    b.c->xcr0 = x86_xcr0_mask(p);
    get(supported, 0, 0, r);
    b.intel = r[EBX] == 0x756e6547;
    get(supported, 0x80000007, 0, r);
    b.invariant = r[EDX] >> 8 & 1;

    x86_cpuid(b.c, 0, 0, r);
    for (uint32_t leaf = 0, max = r[EAX]; leaf <= max; leaf++)
        for (uint32_t sub = 0; sub < (leaf == 4 ? 5 : leaf == 0xb || leaf == 0xd ? 3 : 1); sub++)
            add(&b, leaf, sub);
    add(&b, 0x40000000, 0);
    add(&b, 0x40000001, 0);
    add(&b, 0x40000010, 0);
    if (x86_cpuid_hypercalls(p)) {
        add(&b, HC_LEAF, 0);
        add(&b, HC_LEAF + 1, 0);
    }
    x86_cpuid(b.c, 0x80000000, 0, r);
    for (uint32_t leaf = 0x80000000, max = r[EAX]; leaf <= max; leaf++)
        add(&b, leaf, 0);
    free(b.c);
    return b.n <= cap ? b.n : 0;
}
