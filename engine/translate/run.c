/* The engine's entry points: the dispatcher and set-up. */
#include <stdlib.h>
#include <string.h>

#include "engine/translate/translate.h"

/* What the vCPU's state asks of blocks. */
static uint8_t key_of(const struct x86_cpu *c)
{
    uint8_t key = tr_ctx(c);

    if (c->cr4 & X86_CR4_SMAP)
        key |= TR_SMAP;
    if (!(c->cr0 & (X86_CR0_TS | X86_CR0_EM)) && (c->cr4 & X86_CR4_OSFXSR)) {
        key |= TR_SSE;
        if ((c->cr4 & X86_CR4_OSXSAVE) && (c->xcr0 & 6) == 6)
            key |= TR_AVX;
        if ((c->fpu.mxcsr & 0x1f80) == 0x1f80)
            key |= TR_FP;
    }
    return key;
}

bool tr_can_run(const struct vcpu *v) { return v->cpu.mode == X86_MODE_64 && (v->cpu.cpl == 0 || v->cpu.cpl == 3) && !interp_needs_steps(&v->cpu); }

/* The block at cpu->rip, surely alive. */
static uintptr_t look_up(struct translate *x)
{
    struct tr_found at;
    const uint8_t *code = tr_lookup(x, &at);

    if (UNLIKELY(!code)) {
        x->turn = !x->it->again;
        return 0;
    }
    x->v->cpu.rip &= ~0xfffull;
    return (uintptr_t)code;
}

void tr_see_space(struct translate *x)
{
    x->cr3 = x->v->cpu.cr3;
    x->room->direct = direct_wanted(x->direct);
}

static inline bool ready(struct translate *x)
{
    struct vcpu *v = x->v;
    struct x86_cpu *c = &v->cpu;

    x->turn = false;
    vcpu_irq_rearm(v);
    if (UNLIKELY(vcpu_requests(v)) || UNLIKELY(c->activity != X86_RUNNING) || UNLIKELY(!tr_can_run(v)))
        return false;
    if (UNLIKELY(x->cr3 != c->cr3))
        tr_see_space(x);
    if (UNLIKELY(x->room->direct) && direct_ready(x->direct))
        return false;

    const uint8_t key = key_of(c);

    if (UNLIKELY(x->version != c->mmu.version))
        tr_sync(x);
    if (UNLIKELY((key ^ x->key) & ~TR_CTX))
        tr_forget_jumps(x); /* entries do not say whether FP is on */
    x->key = key;
    c->fl_sys &= ~(uint32_t)X86_FL_RF;

    return true;
}

bool tr_ready(struct translate *x) { return ready(x); }

uintptr_t tr_next(struct translate *x)
{
    struct x86_cpu *c = &x->v->cpu;

    if (!ready(x))
        return 0;

    const struct tr_jump *j = tr_jump_entry(x, c->rip);

    if (LIKELY(c->rip + j->nlin == x->one)) { /* a block that is dead leads to the dispatcher */
        c->rip = j->page;
        return (uintptr_t)j->code;
    }
    return look_up(x);
}

/* Run blocks from cpu->rip on. False: the interpreter's turn. */
static bool blocks(struct translate *x)
{
    const uintptr_t code = ready(x) ? look_up(x) : 0;

    if (code) {
        x->st.entered++;
        x->room->aux = 0;
        x->enter((uint8_t *)x->room - ROOM_BIAS, (const uint8_t *)code);
        x->v->cpu.rip += (uint32_t)x->room->aux; /* of leave_stub: the offset in the page */
    }
    return !x->turn;
}

static void tr_run(struct vcpu *v, struct vcpu_exit *exit)
{
    struct translate *x = translate_of(v);

    for (;;) {
        vcpu_irq_rearm(v);
        if (!interp_serve(x->it, exit))
            return;
        struct vm_trace *t = v->vm->trace;

        direct_sample(x->direct);
        tr_see_space(x);
        if (UNLIKELY(t && t->insns)) {
            if (t->insn)
                t->insn(t, v);
            interp_step_one(x->it);
            x->st.steps++;
        } else if (!tr_can_run(v)) {
            const uint64_t before = v->insns;

            x->direct->interprets = true;
            if (interp_needs_steps(&v->cpu)) {
                interp_step_one(x->it);
            } else {
                if (UNLIKELY(v->paced))
                    atomic_fetch_or(&v->requests, VREQ_ENGINE); /* one block */
                interp_blocks(x->it);
            }
            x->st.interp_blocks++;
            x->direct->interprets = false;
            x->st.interp_insns += v->insns - before;
        } else if (x->room->direct && direct_ready(x->direct)) {
            if (!direct_run(x->direct, exit))
                return;
            tr_see_space(x);
        } else if (!blocks(x)) {
            x->direct->interprets = true;
            interp_step_one(x->it);
            x->direct->interprets = false;
            x->st.steps++;
        }
    }
}

/* A running vCPU's own counters are plain words, each stored whole by its one writer. */
#define COUNTS __attribute__((no_sanitize("thread"))) static void
COUNTS add(uint64_t *to, const uint64_t *from, size_t size)
{
    for (unsigned i = 0; i < size / sizeof(*to); i++)
        to[i] += from[i];
}

COUNTS add_counts(struct translate_counts *to, const struct translate *x)
{
    add((uint64_t *)&to->st, (const uint64_t *)&x->st, sizeof(to->st));
    to->st.cache_bytes += x->used;
    if (x->direct) {
        direct_stats_add(&to->direct, &x->direct->st);
        add(to->samples.n, x->direct->samples.n, sizeof(to->samples));
        to->mapped += direct_mapped(x->direct);
    }
}

/* Of vCPUs that are and that were. Any thread may ask, while others come and go. */
static bool sum(const struct vm *vm, struct translate_counts *t)
{
    struct translate_vm *tv = vm->engine_priv;

    if (!tv)
        return false;
    host_lock(tv->lock);
    *t = tv->gone;
    for (unsigned i = 0; i < vm->ncpu; i++)
        if (vm->cpu[i] && vm->cpu[i]->engine_priv)
            add_counts(t, translate_of(vm->cpu[i]));
    host_unlock(tv->lock);
    return true;
}

/* The vCPU's state is x, from now on; or no more, and what it counted is kept. */
static void set_state(struct vcpu *v, struct translate *x)
{
    struct translate_vm *tv = v->vm->engine_priv;

    host_lock(tv->lock);
    if (!x)
        add_counts(&tv->gone, v->engine_priv);
    v->engine_priv = x;
    host_unlock(tv->lock);
}

static void tr_vcpu_fini(struct vcpu *v)
{
    struct translate *x = translate_of(v);

    if (x) {
        if (x->it)
            x->it->also = (struct code_user){0};
        set_state(v, NULL);
        tr_cache_fini(x);
        direct_free(x->direct);
        free(x);
    }
    engine_interp.vcpu_fini(v);
}

static int tr_vcpu_init(struct vcpu *v)
{
    struct translate *x;

    if (engine_interp.vcpu_init(v))
        return -1;
    x = calloc(1, sizeof(*x));
    if (!x) {
        engine_interp.vcpu_fini(v);
        return -1;
    }
    x->v = v;
    set_state(v, x);
    x->it = v->interp_priv;
    x->room = room_of(v);
    x->uncounted = v->vm->engine_cfg.uncounted && !v->paced;
    vcpu_enter_guest(v); /* an exclusive section of another's may write to our TLB */
    x->version = v->cpu.mmu.version;
    x->hard = v->cpu.mmu.hard;
    vcpu_leave_guest(v);
    x->direct = direct_new(x->it);
    if (x->direct)
        tr_see_space(x);
    if (!x->direct || tr_cache_init(x, -1)) {
        tr_vcpu_fini(v);
        return -1;
    }
    x->direct->code_at = (uintptr_t)x->rx + x->base; /* behind the stubs */
    x->direct->code_size = TR_CODE_SIZE - x->base;
    x->it->also = (struct code_user){.inval = tr_inval, .flush = tr_flush, .ctx = x};
    return 0;
}

static void free_vm(struct vm *vm)
{
    struct translate_vm *tv = vm->engine_priv;

    if (tv && tv->lock)
        host_mutex_free(tv->lock);
    free(tv);
    vm->engine_priv = NULL;
}
static void tr_vm_fini(struct vm *vm)
{
    free_vm(vm);
    engine_interp.vm_fini(vm);
}
static int tr_vm_init(struct vm *vm)
{
    struct translate_vm *tv = calloc(1, sizeof(*tv));

    vm->engine_priv = tv;
    if (!tv || !(tv->lock = host_mutex_new()) || engine_interp.vm_init(vm)) {
        free_vm(vm);
        return -1;
    }
    return 0;
}
static void tr_step(struct vcpu *v, struct vcpu_exit *exit) { engine_interp.step(v, exit); }
static void tr_kick(struct vcpu *v)
{
    const struct translate *x = __atomic_load_n(&v->engine_priv, __ATOMIC_ACQUIRE);

    engine_interp.kick(v);
    if (x && x->direct)
        direct_kick(x->direct);
}
static int tr_map_commit(struct vm *vm) { return engine_interp.map_commit(vm); }

static unsigned tr_counters(const struct vm *vm, struct engine_stat *out, unsigned cap)
{
    static const char *const names[] = {"blocks_translated", "blocks_killed", "cache_flushes", "cache_bytes", "entries", "jump_misses", "links", "executor_calls", "lookup_misses",
                                        "done_exactly", "tlb_syncs", "tlb_clears", "interpreter_turns", "interpreter_insns", "single_steps"};
    struct translate_counts t;
    unsigned n = 0;

    if (!sum(vm, &t))
        return 0;
    const struct tr_stats *st = &t.st;
    const uint64_t val[] = {st->built, st->killed, st->flushed, st->cache_bytes, st->entered, st->jumps, st->links, st->calls, st->misses, st->redone, st->syncs, st->cleared, st->interp_blocks, st->interp_insns,
                            st->steps};
    _Static_assert(sizeof(val) / sizeof(val[0]) == sizeof(names) / sizeof(names[0]), "a name each");
    uint64_t *calls = t.st.by_op;

    for (; n < sizeof(names) / sizeof(names[0]); n++)
        if (n < cap)
            out[n] = (struct engine_stat){names[n], val[n]};
    n += direct_stats_list(&t.direct, vm->tsc_khz, out + n, n < cap ? cap - n : 0);
    if (n < cap)
        out[n] = (struct engine_stat){"direct_pages_now", t.mapped};
    n++;
    /* The instructions most often left to their executors. */
    for (unsigned k = 0; k < 12; k++) {
        unsigned best = 0;

        for (unsigned op = 1; op < X86_NOP_COUNT; op++)
            if (calls[op] > calls[best])
                best = op;
        if (!calls[best])
            break;
        if (n < cap)
            out[n] = (struct engine_stat){x86_op_name(best), calls[best]};
        n++;
        calls[best] = 0;
    }
    return n;
}

static void tr_times(const struct vm *vm, struct engine_times *out)
{
    struct translate_counts t;

    *out = (struct engine_times){0};
    if (!sum(vm, &t))
        return;
    memcpy(out->samples, t.samples.n, sizeof(out->samples));
    if (vm->tsc_khz)
        out->direct_ns = (uint64_t)((double)t.direct.cycles * 1e6 / (double)vm->tsc_khz);
}

const struct engine_ops engine_translate = {
    .name = "translate",
    .summary = "run-time translation of 64-bit code with a software TLB; the interpreter for the rest",
    .caps = ENGINE_CAP_SMP | ENGINE_CAP_STEP | ENGINE_CAP_COUNT | ENGINE_CAP_TRACE | ENGINE_CAP_PACE | ENGINE_CAP_WORLDS,
    .rank = 50,
    .probe = tr_probe,
    .vm_init = tr_vm_init,
    .vm_fini = tr_vm_fini,
    .vcpu_init = tr_vcpu_init,
    .vcpu_fini = tr_vcpu_fini,
    .can_run = tr_can_run,
    .run = tr_run,
    .step = tr_step,
    .kick = tr_kick,
    .map_commit = tr_map_commit,
    .code_inval = interp_code_inval,
    .stats = tr_counters,
    .times = tr_times,
};
