/*
 * What the monitor and a user world say to each other (sandbox/user64.h). The monitor believes nothing it finds here.
 */
#ifndef SANDBOX_USER64_PROTO_H
#define SANDBOX_USER64_PROTO_H

#include <stddef.h>
#include <stdint.h>

#include "sandbox/user64_layout.h"

/* One system call of the world's: nr is that of MMAP or MUNMAP; the secret goes above arg[4]. */
struct user64_op {
    uint64_t nr, arg[6];
};

struct user64_ctl {
    uint32_t request; /* the monitor's: number of the request to serve */
    uint32_t pad0[15];
    uint32_t world_sleeps, monitor_sleeps;
    uint32_t seq; /* the world's: request it has served last */
    uint32_t nops;
    uint32_t failed; /* an operation failed, nothing after it was done and nothing ran; */
    int32_t error;   /* with this -errno */
    uint64_t secret; /* in the upper half */
    uint64_t fs_base, gs_base;
    uint16_t sel[4]; /* DS, ES, FS, GS */
    uint64_t at;     /* address of the signal frame */
    uint32_t spin, no_cpuid;
    uint64_t base;
    uint32_t parent;
    uint32_t pad1[27];
    struct user64_op op[U64_NOPS_MAX];
};

#define U64_CHECK(field, off) _Static_assert(offsetof(struct user64_ctl, field) == (off), #field)
U64_CHECK(request, U64_REQUEST);
U64_CHECK(world_sleeps, U64_WORLD_SLEEPS);
U64_CHECK(monitor_sleeps, U64_MONITOR_SLEEPS);
U64_CHECK(seq, U64_SEQ);
U64_CHECK(nops, U64_NOPS);
U64_CHECK(failed, U64_FAILED);
U64_CHECK(error, U64_ERROR);
U64_CHECK(secret, U64_SECRET);
U64_CHECK(fs_base, U64_FS_BASE);
U64_CHECK(gs_base, U64_GS_BASE);
U64_CHECK(sel, U64_SEL);
U64_CHECK(at, U64_AT);
U64_CHECK(spin, U64_SPIN);
U64_CHECK(op, U64_OPS);
_Static_assert(sizeof(struct user64_op) == U64_OP_SIZE, "operations");
_Static_assert(sizeof(struct user64_ctl) <= U64_CTL_SIZE, "control area");

#endif
