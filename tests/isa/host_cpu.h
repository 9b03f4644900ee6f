/* What the host's processor lacks or does otherwise than the one that guests see. */
#ifndef HOST_CPU_H
#define HOST_CPU_H

#include <cpuid.h>
#include <stdbool.h>
#include <stdint.h>

#include "x86/decode.h"

static struct host {
    bool amd;
    bool hides_pointers; /* FOP, FIP and FDP are only stored while an exception is pending */
    uint32_t l1[4], l7[4], ld1[4];
} host_cpu;

static void look_at_host(void)
{
    uint32_t r[4];

    __cpuid(0, r[0], r[1], r[2], r[3]);
    host_cpu.amd = r[2] == 0x444d4163; /* "cAMD" */
    __cpuid(1, host_cpu.l1[0], host_cpu.l1[1], host_cpu.l1[2], host_cpu.l1[3]);
    __cpuid_count(7, 0, host_cpu.l7[0], host_cpu.l7[1], host_cpu.l7[2], host_cpu.l7[3]);
    __cpuid_count(0xd, 1, host_cpu.ld1[0], host_cpu.ld1[1], host_cpu.ld1[2], host_cpu.ld1[3]);
}

/* Features that guests have on every host, because nothing of them runs on it. */
static bool host_lacks(unsigned feature)
{
    switch (feature) {
    case X86_FEAT_MOVBE: return !(host_cpu.l1[2] & 1u << 22);
    case X86_FEAT_XSAVE: return !(host_cpu.l1[2] & 1u << 27);
    case X86_FEAT_CLFLUSHOPT: return !(host_cpu.l7[1] & 1u << 23);
    case X86_FEAT_CLWB: return !(host_cpu.l7[1] & 1u << 24);
    case X86_FEAT_SERIALIZE: return !(host_cpu.l7[3] & 1u << 14);
    case X86_FEAT_XSAVEOPT: return !(host_cpu.ld1[0] & 1u << 0);
    case X86_FEAT_XSAVEC: return !(host_cpu.ld1[0] & 1u << 1);
    default: return false;
    }
}

/* Rows that cannot be compared, and why. NULL: compare. */
static const char *skip_reason(const struct x86_isa_row *row)
{
    if (row->pg)
        return "not innocuous";
    if (host_lacks(row->feature))
        return "this host has none";
    switch (row->op) {
    case X86_OP_RDRAND:
    case X86_OP_RDSEED:
        return "random result";
    case X86_OP_WRFSBASE:
    case X86_OP_WRGSBASE:
    case X86_OP_RDFSBASE:
    case X86_OP_RDGSBASE:
        return "base of the test's own thread";
    case X86_OP_XGETBV:
        return "XCR0 of the host";
    case X86_OP_INT1:
    case X86_OP_INT3:
        return "the test's own trap";
    default:
        return NULL;
    }
}

#endif
