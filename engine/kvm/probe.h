/*
 * Does KVM work on this host? Found by running a small guest in a VM that is
 * thrown away (probe.c) in a process that can be ended; judged by a pure
 * function of what was seen (verdict.c).
 */
#ifndef ENGINE_KVM_PROBE_H
#define ENGINE_KVM_PROBE_H

#include <stddef.h>
#include <stdint.h>

#include "ringer/engine.h"

#define PROBE_LIMIT_MS 850
#define PROBE_LOOP 1000000u
/* A guest loop slower than this many times the native one is no hardware virtualization: the interpreter is as fast. */
#define PROBE_MAX_RATIO 50

/* How far the guest came: what it has shown to work. */
enum probe_stage {
    PROBE_NONE,
    PROBE_REAL, /* real mode */
    PROBE_PROT, /* protected mode */
    PROBE_LONG, /* long mode */
    PROBE_SSE,
    PROBE_FAULT, /* page fault delivered, IRETQ */
    PROBE_LOOP_BEGIN,
    PROBE_LOOP_END,
    PROBE_DONE,
};

#define PROBE_SSE_RESULT 0x0000000400000003ull
#define PROBE_FAULT_ADDR 0x40000000ull
#define PROBE_FAULT_ERROR 2u /* supervisor write, not present */

/* Host calls before the guest runs, in order. */
enum probe_step {
    PROBE_OPEN,
    PROBE_API,
    PROBE_CAPS,
    PROBE_CREATE_VM,
    PROBE_TSS,
    PROBE_CREATE_VCPU,
    PROBE_MEMORY,
    PROBE_CPUID,
    PROBE_STATE,
    PROBE_RUN,
    PROBE_NSTEPS,
};

struct probe_result {
    int step;                              /* enum probe_step reached */
    int error;                             /* errno of that step, 0 if none */
    int api;                               /* KVM_GET_API_VERSION */
    const char *missing;                   /* a capability that is not there */
    int stage;                             /* enum probe_stage */
    uint32_t exit_reason;                  /* KVM_EXIT_* that ended the run if the guest did not; UINT32_MAX: none */
    uint64_t detail;                       /* its suberror or hardware reason */
    uint64_t native_ns, guest_ns;          /* best of the timed loops; 0: not measured */
    uint64_t sse, fault_addr, fault_error; /* what the guest found */
    int killed;                            /* did not end by itself in time */
};

/* 0 if the engine can be used; else -1 with one line in reason. device: as the user knows it. */
int kvm_verdict(const struct probe_result *r, const char *device, char *reason, size_t cap);

int kvm_probe(const struct engine_config *cfg, char *reason, size_t cap);

/* Capabilities the engine cannot do without; ended by {0, NULL}. */
struct kvm_need {
    int cap;
    const char *name;
};
extern const struct kvm_need kvm_needs[];

#endif
