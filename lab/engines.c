/* What the engines do about what the probe and the classifier find. */
#include <stdlib.h>
#include <string.h>

#include "lab/engines.h"
#include "ringer/vcpu.h"
#include "x86/decode.h"

bool lab_engine_usable(const struct engine_ops *e, char *why, size_t cap)
{
    struct engine_config cfg = {0};
    char unused[200];
    return !e->probe || e->probe(&cfg, why ? why : unused, why ? cap : sizeof(unused)) == 0;
}

/* The state a kernel of this mode runs in: flat segments, paging on (16 bit: real mode). */
static void kernel_state(struct x86_cpu *c, unsigned mode)
{
    const bool real = mode == X86_MODE_16, lm = mode == X86_MODE_64;
    c->mode = (uint8_t)mode;
    c->cr0 = X86_CR0_ET | X86_CR0_NE | (real ? 0 : X86_CR0_PE | X86_CR0_WP | (uint64_t)1 << 31);
    c->cr4 = lm ? X86_CR4_PAE : 0;
    c->efer = lm ? X86_EFER_LME | X86_EFER_LMA : 0;
    c->fl_sys = X86_FL_1 | X86_FL_IF;
    c->dr7 = X86_DR7_FIXED;
    for (unsigned i = 0; i < X86_NSEG; i++) {
        const bool code = i == X86_CS;
        c->seg[i] = (struct x86_seg){.limit = real ? 0xffff : UINT32_MAX, .sel = real ? 0 : code ? 0x60 : 0x68};
        c->seg[i].ar = X86_AR_P | X86_AR_S | (code ? 0xb : 3);
        if (!real)
            c->seg[i].ar |= X86_AR_G | (code && lm ? X86_AR_L : X86_AR_DB);
    }
}

bool lab_engine_fits(const struct engine_ops *e, unsigned mode, uint64_t at)
{
    if (!e->can_run)
        return true;
    struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~(size_t)63);
    if (!v)
        return false;
    memset(v, 0, sizeof(*v));
    kernel_state(&v->cpu, mode);
    v->cpu.rip = at;
    const bool fits = e->can_run(v);
    free(v);
    return fits;
}

/* What Linux can be asked to make trap, and what enters its kernel through a gate that a sandbox watches. */
static const char *trapped_by_host(unsigned op)
{
    switch (op) {
    case X86_OP_RDTSC:
    case X86_OP_RDTSCP: return "made to trap (PR_SET_TSC), then interpreted";
    case X86_OP_CPUID: return "made to trap where the CPU has CPUID faulting, then interpreted; else the host's";
    case X86_OP_SYSCALL:
    case X86_OP_SYSENTER:
    case X86_OP_INT: return "trapped: the sandbox turns entries into the host's kernel into exits; then interpreted";
    default: return NULL;
    }
}

const char *lab_engine_remedy(const struct engine_ops *e, unsigned op)
{
    const char *host = trapped_by_host(op);
    if (e->caps & ENGINE_CAP_HARDWARE)
        return "executed in hardware guest mode on the guest's own state; what the hypervisor asked for exits to it";
    if (!strcmp(e->name, "interp"))
        return "interpreted on the guest's own state, like every other instruction";
    if (!strcmp(e->name, "translate"))
        return "not copied but executed by a helper on the guest's own state";
    if (!strcmp(e->name, "patch"))
        return "replaced before it first runs by an instruction that traps, then interpreted";
    if (!strcmp(e->name, "trap"))
        return host ? host : "not noticed: runs on the host's state and goes wrong, as the probe shows";
    return e->summary;
}
