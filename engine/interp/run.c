/*
 * The engine's entry points: the dispatcher, one exact instruction, set-up.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/interp/interp.h"

/* --- state ------------------------------------------------------------------- */

static bool plain(const struct x86_seg *s) { return (s->ar & 0x9e) == 0x92; }
static bool flat_data(const struct x86_seg *s) { return !s->base && s->limit == 0xffffffffu && plain(s); }

static uint16_t mode_of(const struct x86_cpu *c)
{
    const struct x86_seg *s = c->seg;
    uint16_t m = c->mode;
    uint32_t least = 0;

    if ((c->cr4 & X86_CR4_OSFXSR) && !(c->cr0 & (X86_CR0_EM | X86_CR0_TS)))
        m |= MODE_SSE;
    if ((c->cr4 & X86_CR4_OSXSAVE) && (c->xcr0 & 6) == 6 && x86_pe(c) && !x86_v86(c) && !(c->cr0 & X86_CR0_TS))
        m |= MODE_AVX;

    if (c->mode == X86_MODE_64)
        return m;
    if (s[X86_SS].ar & X86_AR_DB)
        m |= MODE_SS32;
    if (!x86_pe(c) || x86_v86(c))
        m |= MODE_REAL;
    if (!s[X86_CS].base && s[X86_CS].limit == 0xffffffffu && flat_data(&s[X86_DS]) && flat_data(&s[X86_ES]) && flat_data(&s[X86_SS])) {
        m |= MODE_FLAT;
        least = 0xffffffffu;
    } else if (plain(&s[X86_DS]) && plain(&s[X86_ES]) && plain(&s[X86_SS])) {
        m |= MODE_PLAIN;
    } else {
        return m;
    }
    if (s[X86_FS].limit >= least && plain(&s[X86_FS]))
        m |= MODE_FS;
    if (s[X86_GS].limit >= least && plain(&s[X86_GS]))
        m |= MODE_GS;
    return m;
}

bool interp_needs_steps(const struct x86_cpu *c)
{
    if (c->inhibit_irq || (c->fl_sys & X86_FL_TF))
        return true;
    if ((c->fl_sys & X86_FL_AC) && c->cpl == 3 && (c->cr0 & X86_CR0_AM))
        return true;
    if (c->dr7 & 0xff) /* code breakpoints; data breakpoints are met on the slow path of accesses */
        for (unsigned i = 0; i < 4; i++)
            if ((c->dr7 >> (2 * i) & 3) && !(c->dr7 >> (16 + 4 * i) & 3))
                return true;
    return false;
}

void interp_deliver(struct x86_cpu *c)
{
    if (x86_deliver(c) != X86_OK)
        c->activity = X86_SHUTDOWN;
}

/* --- one instruction, exactly ------------------------------------------------------ */

void interp_step_one(struct interp *it)
{
    struct vcpu *v = it->v;
    struct x86_cpu *c = &v->cpu;
    const uint32_t rf = c->fl_sys & X86_FL_RF;
    bool tf = c->fl_sys & X86_FL_TF;
    const struct x86_insn *in;
    int r;

    it->stepped++;
    if ((c->dr7 & 0xff) && x86_debug_before(c))
        goto fault;
    in = interp_fetch_known(it);
    if (!in)
        goto fault;
    x86_count_trap(c, x86_isa[in->row].pg, c->rip, in->op);

    const x86_exec_fn fn = ((struct interp_vm *)v->vm->interp_priv)->exec[in->op];
    const uint8_t shadow = c->inhibit_irq;

    /* The shadow and RF last for this instruction, which may set them anew. */
    c->inhibit_irq = 0;
    c->fl_sys &= ~(uint32_t)X86_FL_RF;
    r = fn ? fn(c, in) : x86_raise(c, X86_UD);
    switch (r) {
    case X86_UNDEF:
        x86_raise(c, X86_UD);
        /* fall through */
    case X86_FAULT:
        c->inhibit_irq = shadow;
        c->fl_sys |= rf;
        goto fault;
    case X86_REPEAT: /* what arrives between iterations pushes RF, so that a code breakpoint is met once (SDM Vol. 3B, 17.3.1.1) */
        c->fl_sys |= X86_FL_RF;
        break;
    case X86_BRANCH:
        v->insns++;
        break;
    default: /* X86_OK, X86_EXIT */
        c->rip += in->len;
        if (c->mode != X86_MODE_64)
            c->rip = (uint32_t)c->rip;
        v->insns++;
        break;
    }
    /* SYSCALL and SYSRET: the TF they load decides at once (SDM Vol. 2B, SYSRET; masked by IA32_FMASK for SYSCALL). */
    if (in->op == X86_OP_SYSRET || in->op == X86_OP_SYSCALL)
        tf = c->fl_sys & X86_FL_TF;
    if ((c->debugctl & X86_DEBUGCTL_BTF) && r != X86_BRANCH)
        tf = false; /* single-step on branches */
    if ((tf || c->pending_dbg) && x86_debug_after(c, tf))
        goto fault;
    return;
fault:
    interp_deliver(c);
}

/* --- the dispatcher ------------------------------------------------------------------ */

bool interp_serve(struct interp *it, struct vcpu_exit *exit)
{
    struct vcpu *v = it->v;

    if (vcpu_requests(v)) {
        const uint32_t own = VREQ_CODE | VREQ_ENGINE, r = atomic_fetch_and(&v->requests, ~own);

        if (r & VREQ_CODE)
            interp_inval_queued(it);
        if (r & ~own) {
            switch (vcpu_poll(v)) {
            case X86_EXIT: exit->kind = EXIT_KICK; return false;
            case X86_FAULT: v->cpu.activity = X86_SHUTDOWN; break;
            default: break;
            }
        }
    }
    if (atomic_load_explicit(&it->kicked, memory_order_relaxed)) {
        atomic_store(&it->kicked, false);
        exit->kind = EXIT_KICK;
        return false;
    }
    switch (v->cpu.activity) {
    case X86_RUNNING:
        if (UNLIKELY(v->paced) && v->insns >= v->stop) {
            exit->kind = EXIT_KICK;
            return false;
        }
        return true;
    case X86_HALTED: exit->kind = EXIT_HLT; return false;
    case X86_SHUTDOWN: exit->kind = EXIT_SHUTDOWN; return false;
    default: exit->kind = EXIT_KICK; return false;
    }
}

void interp_blocks(struct interp *it)
{
    struct x86_cpu *c = &it->v->cpu;

    c->fl_sys &= ~(uint32_t)X86_FL_RF; /* no code breakpoint is armed; faults set it by themselves */
    it->mode = mode_of(c);
    it->key = c->mmu.version << MODE_SHIFT | it->mode | (c->cpl == 3 ? MODE_USER : 0u);
    const struct uop *u = interp_lookup(it);

    if (!u) {
        if (!it->again)
            interp_step_one(it);
        return;
    }
    do
        u = u->fn(c, u);
    while (u);
}

static void interp_run(struct vcpu *v, struct vcpu_exit *exit)
{
    struct interp *it = v->interp_priv;
    struct x86_cpu *c = &v->cpu;

    for (;;) {
        vcpu_irq_rearm(v);
        if (!interp_serve(it, exit))
            return;
        struct vm_trace *t = v->vm->trace;

        if (UNLIKELY(t && t->insns)) {
            if (t->insn)
                t->insn(t, v);
            interp_step_one(it);
            continue;
        }
        if (UNLIKELY(interp_needs_steps(c))) {
            interp_step_one(it);
            continue;
        }
        if (UNLIKELY(v->paced))
            atomic_fetch_or(&v->requests, VREQ_ENGINE); /* one block */
        interp_blocks(it);
    }
}

static void interp_step(struct vcpu *v, struct vcpu_exit *exit)
{
    struct interp *it = v->interp_priv;

    /* What the caller handles at boundaries (vcpu_poll) it has handled; code invalidations are ours. */
    if ((vcpu_requests(v) & (VREQ_CODE | VREQ_ENGINE)) && atomic_fetch_and(&v->requests, ~(uint32_t)(VREQ_CODE | VREQ_ENGINE)) & VREQ_CODE)
        interp_inval_queued(it);
    if (v->cpu.activity == X86_RUNNING)
        interp_step_one(it);
    exit->kind = v->cpu.activity == X86_HALTED ? EXIT_HLT : v->cpu.activity == X86_SHUTDOWN ? EXIT_SHUTDOWN : EXIT_KICK;
}

static void interp_kick(struct vcpu *v)
{
    struct interp *it = __atomic_load_n(&v->interp_priv, __ATOMIC_ACQUIRE);

    if (it)
        atomic_store(&it->kicked, true);
    atomic_fetch_or(&v->requests, VREQ_ENGINE);
}

/* --- set-up ----------------------------------------------------------------------------- */

static void merge(struct interp_vm *iv, const struct x86_exec_entry *e)
{
    for (; e->fn; e++)
        if (e->op < X86_NOP_COUNT && !iv->exec[e->op])
            iv->exec[e->op] = e->fn;
}

static void interp_vm_fini(struct vm *vm)
{
    struct interp_vm *iv = vm->interp_priv;

    if (!iv)
        return;
    for (unsigned i = 0; i < vm->ncpu; i++) {
        struct interp *it = vm->cpu[i] ? vm->cpu[i]->interp_priv : NULL;

        if (it) {
            interp_cache_fini(it);
            free(it);
            vm->cpu[i]->interp_priv = NULL;
        }
    }
    if (iv->lock)
        host_mutex_free(iv->lock);
    free(iv->chunks);
    free(iv->memory);
    free(iv);
    vm->interp_priv = NULL;
    if (vm->engine == &engine_interp)
        vm->engine_priv = NULL;
}

static int interp_vm_init(struct vm *vm)
{
    struct interp_vm *iv = calloc(1, sizeof(*iv));

    vm->interp_priv = iv;
    if (vm->engine == &engine_interp)
        vm->engine_priv = iv;
    if (!iv)
        return -1;
    merge(iv, x86_exec_int);
    merge(iv, x86_exec_far);
    merge(iv, x86_exec_sys);
    merge(iv, x86_exec_fpu);
    iv->lock = host_mutex_new();
    iv->chunks = calloc((vm->ram_size >> 12) + 1, sizeof(*iv->chunks));
    if (!iv->lock || !iv->chunks) {
        interp_vm_fini(vm);
        return -1;
    }
    return 0;
}

/* The memory stays until vm_fini: other vCPUs and DMA may just be queueing invalidations here. */
static void interp_vcpu_fini(struct vcpu *v)
{
    if (v->interp_priv)
        interp_cache_flush(v->interp_priv);
}

static int interp_vcpu_init(struct vcpu *v)
{
    if (v->interp_priv) /* from before a reset */
        return 0;
    struct interp *it = aligned_alloc(64, (sizeof(*it) + 63) & ~(size_t)63);

    if (!it)
        return -1;
    memset(it, 0, sizeof(*it));
    it->v = v;
    if (interp_cache_init(it)) {
        interp_cache_fini(it);
        free(it);
        return -1;
    }
    __atomic_store_n(&v->interp_priv, it, __ATOMIC_RELEASE);
    return 0;
}

/* The memory behind guest-physical addresses changed; all vCPUs are stopped. */
/* Has what code can be fetched from changed since the last time? Guests move their devices about, rarely memory. */
static bool memory_changed(struct interp_vm *iv, const struct gpa_map *map)
{
    struct gpa_range *now = calloc(map->n + 1, sizeof(*now));
    unsigned n = 0;
    bool same;

    if (!now)
        return true;
    for (unsigned i = 0; i < map->n; i++)
        if (map->r[i].kind == GPA_RAM || map->r[i].kind == GPA_ROM) {
            const struct gpa_range *r = &map->r[i];

            now[n++] = (struct gpa_range){.start = r->start, .size = r->size, .kind = r->kind, .host = r->host};
        }
    same = iv->memory && n == iv->nmemory;
    for (unsigned i = 0; same && i < n; i++)
        same = now[i].start == iv->memory[i].start && now[i].size == iv->memory[i].size && now[i].kind == iv->memory[i].kind &&
               now[i].host == iv->memory[i].host;
    free(iv->memory);
    iv->memory = now;
    iv->nmemory = n;
    return !same;
}

static int interp_map_commit(struct vm *vm)
{
    if (!memory_changed(vm->interp_priv, vm->mem))
        return 0;
    for (unsigned i = 0; i < vm->ncpu; i++)
        if (vm->cpu[i] && vm->cpu[i]->interp_priv)
            interp_cache_flush(vm->cpu[i]->interp_priv);
    return 0;
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .summary = "interpreter: every instruction in software, any state, exact",
    .caps = ENGINE_CAP_SMP | ENGINE_CAP_STEP | ENGINE_CAP_COUNT | ENGINE_CAP_TRACE | ENGINE_CAP_PACE,
    .rank = 1,
    .vm_init = interp_vm_init,
    .vm_fini = interp_vm_fini,
    .vcpu_init = interp_vcpu_init,
    .vcpu_fini = interp_vcpu_fini,
    .run = interp_run,
    .step = interp_step,
    .kick = interp_kick,
    .map_commit = interp_map_commit,
    .code_inval = interp_code_inval,
};
