/*
 * What the monitor and a world (a sandboxed host process that runs guest code directly) say to each other: one shared page group.
 *
 * The world answers each request of the monitor with one exit. A request is a list of changes to the world's address space
 * and local descriptor table, then the registers to run with; an exit is the registers after a fault, trap or signal.
 * The monitor believes nothing it finds here: the world is assumed compromised by its guest.
 */
#ifndef SANDBOX_PROTO_H
#define SANDBOX_PROTO_H

#include <stdint.h>

enum { WORLD_FD_RAM = 3, WORLD_FD_CODE = 4, WORLD_FD_CTL = 5 };

enum world_op_kind {
    WORLD_MAP_RAM, /* [lin, lin + len) from the RAM file at off */
    WORLD_MAP_CODE, /* the same from the file of patched code */
    WORLD_UNMAP,
    WORLD_LDT, /* descriptor lin := (base off, limit len, flags prot: those of struct user_desc) */
};

struct world_op {
    uint32_t kind, prot;
    uint64_t lin, len, off;
};

#define WORLD_OPS 128
#define WORLD_FP_SIZE 832 /* XSAVE standard format: legacy, header, AVX */

struct world_ctl {
    /* Hand-over: each side advances its own word; sleepers say so first. */
    uint32_t request __attribute__((aligned(64)));
    uint32_t world_sleeps;
    uint32_t answer __attribute__((aligned(64)));
    uint32_t monitor_sleeps;

    uint32_t parent;   /* the monitor's process, so that a world whose monitor died at once notices */
    uint32_t patience; /* turns the world waits awake; looked at in each */
    uint32_t no_cpuid; /* set by the world: CPUID traps */

    uint32_t nops;
    uint32_t failed; /* 1 + index of the request's change that failed, nothing after it was done and nothing ran; 0: none */
    int32_t error;   /* its -errno */

    /* Registers, both ways. */
    uint32_t gpr[8], eip, eflags;
    uint16_t sel[6]; /* in the order of enum x86_seg_reg; 64-bit code selectors mean that the guest left 32-bit mode */
    uint32_t load_fp;

    /* Exit */
    uint32_t sig, code, trapno, err;
    uint32_t arch; /* SIGSYS: AUDIT_ARCH of the call */
    uint64_t cr2, rip;

    uint8_t fp[WORLD_FP_SIZE] __attribute__((aligned(64)));
    struct world_op op[WORLD_OPS];
};

#endif
