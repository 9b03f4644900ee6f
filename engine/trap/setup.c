/* The engines' other entry points: probes, set-up, statistics. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/trap/trap.h"

static struct trap_vm *tvm(const struct vm *vm)
{
    return vm->engine_priv;
}

static void trap_step(struct vcpu *v, struct vcpu_exit *exit)
{
    trap_step_one(v->engine_priv, exit);
}

static void trap_kick(struct vcpu *v)
{
    struct trap *t = __atomic_load_n(&v->engine_priv, __ATOMIC_ACQUIRE);
    struct world *w = t ? atomic_load(&t->current) : NULL;

    engine_interp.kick(v);
    if (w)
        world_kick(w);
    if (t && t->d)
        direct_kick(t->d);
}

/* What the worlds have goes with the flush that VREQ_TLB brings to every vCPU. */
static int trap_map_commit(struct vm *vm)
{
    return engine_interp.map_commit(vm);
}

/* The counters are plain words, each stored whole by the vCPU's thread. */
__attribute__((no_sanitize("thread"))) static unsigned trap_stats(const struct vm *vm, struct engine_stat *out, unsigned cap)
{
    const struct trap_vm *tv = tvm(vm);
    if (!tv)
        return 0;
    const struct trap_counts *n = &tv->n;
    const struct engine_stat all[] = {
        {"entries into direct execution", n->runs[WORLD_KERNEL] + n->runs[WORLD_USER]},
        {"of these, into user code", n->runs[WORLD_USER]},
        {"instructions trapped", n->insns_traps},
        {"of these, replaced ones", n->patched},
        {"system calls, by way of the host's", n->syscalls},
        {"INT3, single steps", n->ints},
        {"worlds of 64-bit code made", n->worlds64},
        {"translations filled", n->faults_tlb},
        {"page faults of the guest", n->faults_guest},
        {"interrupted to be served", n->kicks},
        {"kernel instructions interpreted because it is faster", n->burst[0]},
        {"user instructions likewise", n->burst[1]},
        {"times direct execution did not pay", n->given_up},
        {"instructions interpreted for other reasons", n->interpreted},
        {"segment registers loaded unseen", n->lost},
        {"stores to patched pages", n->code_writes},
        {"instructions scanned", tv->patch.scanned},
        {"of these, before the first ran", tv->patch.prepared},
        {"sites replaced", tv->patch.sites},
        {"patched pages invalidated", tv->patch.invals},
        {"nanoseconds of direct execution", n->direct_ns},
    };
    unsigned have = sizeof(all) / sizeof(all[0]);
    for (unsigned i = 0; i < have && i < cap; i++)
        out[i] = all[i];
    /* The instructions that trapped most often. */
    uint64_t below = UINT64_MAX;
    for (unsigned k = 0; k < 10; k++) {
        unsigned best = 0;
        for (unsigned op = 1; op < X86_NOP_COUNT; op++)
            if (tv->by_op[op] < below && (!best || tv->by_op[op] > tv->by_op[best]))
                best = op;
        if (!best || !tv->by_op[best])
            break;
        below = tv->by_op[best];
        if (have < cap)
            out[have] = (struct engine_stat){x86_op_name(best), below};
        have++;
    }
    return have;
}

/* --- set-up ----------------------------------------------------------------------------------------- */

static void trap_vm_fini(struct vm *vm)
{
    struct trap_vm *tv = tvm(vm);

    if (!tv)
        return;
    if (tv->report && tv->sensitive)
        trap_report_print(vm, tv);
    free(tv->sensitive);
    if (tv->patching)
        patches_fini(&tv->patch);
    free(tv);
    vm->engine_priv = NULL;
    engine_interp.vm_fini(vm);
}

static int trap_vm_init(struct vm *vm)
{
    if (vm->ncpu > 1) {
        vm_log(vm, "engine %s runs one CPU, not %u", vm->engine->name, vm->ncpu);
        return -1;
    }
    struct trap_vm *tv = calloc(1, sizeof(*tv));
    if (!tv || engine_interp.vm_init(vm) != 0) {
        free(tv);
        return -1;
    }
    vm->engine_priv = tv;
    tv->eager = vm->engine == &engine_patch;
    tv->report = vm->engine_cfg.report_sensitive && !tv->eager && !vm->engine_cfg.patch_lazy; /* with replacement nothing is left to report */
    tv->patching = tv->eager || vm->engine_cfg.patch_lazy || tv->report;
    tv->adaptive = tv->patching && !tv->report && !vm->engine_cfg.always_direct;
    if (tv->report && !(tv->sensitive = calloc(X86_NOP_COUNT, sizeof(*tv->sensitive))))
        return -1;
    if (tv->patching && patches_init(&tv->patch, vm->ram_size >> 12) != 0)
        return -1;
    return 0;
}

static int trap_vm_start(struct vm *vm)
{
    tvm(vm)->prepare = tvm(vm)->eager;
    return 0;
}

static void trap_vcpu_fini(struct vcpu *v)
{
    struct trap *t = v->engine_priv;

    if (!t)
        return;
    trap_policy_fini(t);
    if (v->interp_priv)
        ((struct interp *)v->interp_priv)->also = (struct code_user){0};
    __atomic_store_n(&v->engine_priv, NULL, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < t->nspaces; i++)
        space_fini(&t->space[i]);
    trap_long_fini(t);
    free(t->wmapped);
    free(t);
    engine_interp.vcpu_fini(v);
}

static int trap_vcpu_init(struct vcpu *v)
{
    struct trap *t = calloc(1, sizeof(*t));
    char why[160] = "out of memory";

    if (!t || engine_interp.vcpu_init(v) != 0) {
        free(t);
        return -1;
    }
    t->v = v;
    t->tv = tvm(v->vm);
    t->seen = v->cpu.mmu.events.seq;
    t->map = v->cpu.mmu.map;
    t->user = &t->space[WORLD_USER];
    v->engine_priv = t;
    for (unsigned i = 0; i < NWORLDS; i++) {
        if (trap_space_open(t, &t->space[i], why, sizeof(why)) != 0) {
            vm_log(v->vm, "engine %s: %s", v->engine->name, why);
            trap_vcpu_fini(v);
            return -1;
        }
        trap_policy_begin(&t->space[i], true);
    }
    t->wmapped = calloc((v->vm->ram_size >> 18) + 1, sizeof(*t->wmapped));
    if (!t->wmapped || trap_long_init(t) != 0 || trap_policy_init(t) != 0) {
        trap_vcpu_fini(v);
        return -1;
    }
    ((struct interp *)v->interp_priv)->also = (struct code_user){.inval = trap_inval, .flush = trap_forget_code, .unwrite = trap_unwrite, .ctx = t};
    return 0;
}

static int trap_probe(const struct engine_config *cfg, char *reason, size_t cap)
{
    struct world *w;
    int fd;
    void *ram = host_ram_alloc(1 << 20, &fd);

    if (!ram) {
        snprintf(reason, cap, "no memory");
        return -1;
    }
    int r = -1;
    w = world_new(fd, fd, reason, cap);
    if (w) {
        /* A descriptor, a page, HLT: must come back as #GP. */
        static const struct x86_seg code = {.limit = 0xffffffffu, .sel = 8, .ar = 0x9b | X86_AR_DB | X86_AR_G};
        struct world_ctl *k = world_ctl(w);
        const struct world_op map = {.kind = WORLD_MAP_RAM, .lin = 0x100000, .len = 4096, .prot = WORLD_R | WORLD_X};
        const struct world_op ldt = {.kind = WORLD_LDT, .lin = code.sel >> 3, .len = 0xfffff, .prot = 1 | 2 << 1 | 1 << 4};
        ((uint8_t *)ram)[0] = 0xf4;
        world_queue(w, &map);
        world_queue(w, &ldt);
        memset(k->gpr, 0, sizeof(k->gpr));
        memset(k->sel, 0, sizeof(k->sel));
        k->eip = 0x100000;
        k->eflags = X86_FL_1 | X86_FL_IF;
        k->sel[X86_CS] = 0xf;
        k->sel[X86_SS] = 0x2b;
        k->load_fp = 0;
        switch (world_run(w, NULL)) {
        case 0:
            if (k->sig == WORLD_SIG_SEGV && k->trapno == 13)
                r = 0;
            else
                snprintf(reason, cap, "HLT at CPL 3 gave signal %u, trap %u", k->sig, k->trapno);
            break;
        case 1: snprintf(reason, cap, "the host refuses modify_ldt or mappings (error %d)", -k->error); break;
        default: snprintf(reason, cap, "%s", world_why(w)); break;
        }
        world_free(w);
    }
    host_ram_free(ram, 1 << 20, fd);
    return r;
}

#define OPS                                                                                                                              \
    .caps = ENGINE_CAP_STEP | ENGINE_CAP_WORLDS, .rank = 0, .vm_init = trap_vm_init, .vm_start = trap_vm_start, .vm_fini = trap_vm_fini, .vcpu_init = trap_vcpu_init,                   \
    .vcpu_fini = trap_vcpu_fini, .can_run = trap_can_run, .run = trap_run, .step = trap_step, .kick = trap_kick,                         \
    .map_commit = trap_map_commit, .code_inval = interp_code_inval, .stats = trap_stats

const struct engine_ops engine_trap = {
    .name = "trap",
    .summary = "trap-and-emulate: guests run directly at CPL 3; wrong where sensitive instructions do not trap",
    .probe = trap_probe,
    OPS,
};

const struct engine_ops engine_patch = {
    .name = "patch",
    .summary = "trap-and-emulate with sensitive instructions replaced before they run",
    .probe = trap_probe,
    OPS,
};
