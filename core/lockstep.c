/* Two machines in lockstep; see lockstep.h for the mechanism. */
#include "core/lockstep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "x86/mmu.h"

/* A repeated string instruction may have been left in the middle, which neither count tells. */
#define REP_STEPS 100000u
/* Pages whose comparison costs about as much as a few slices: memory is compared that much less often when there are many. */
#define PAGES_SLICE 8u

static struct vcpu *cpu(const struct lockstep *ls, unsigned i) { return ls->vm[i]->cpu[0]; }

static void differ(struct lockstep *ls, const char *name, uint64_t a, uint64_t b)
{
    struct lockstep_diff *d = &ls->diff;
    if (d->n == LS_DIFFS)
        return;
    snprintf(d->item[d->n].name, sizeof(d->item[0].name), "%s", name);
    d->item[d->n].val[LS_SUBJECT] = a;
    d->item[d->n++].val[LS_REFERENCE] = b;
}

/* --- state ---------------------------------------------------------------- */

static void compare_seg(struct lockstep *ls, const char *name, const struct x86_seg *a, const struct x86_seg *b)
{
    char s[24];
    if (a->sel != b->sel)
        differ(ls, name, a->sel, b->sel);
    if (a->base != b->base)
        snprintf(s, sizeof(s), "%s base", name), differ(ls, s, a->base, b->base);
    if (a->limit != b->limit)
        snprintf(s, sizeof(s), "%s limit", name), differ(ls, s, a->limit, b->limit);
    if (a->ar != b->ar)
        snprintf(s, sizeof(s), "%s rights", name), differ(ls, s, a->ar, b->ar);
}

static void compare_vectors(struct lockstep *ls, const struct x86_fpu *a, const struct x86_fpu *b)
{
    static const struct { const char *name; const size_t off; unsigned n; } part[] = {
        {"st", offsetof(struct x86_fpu, st), 8}, {"xmm", offsetof(struct x86_fpu, xmm), 16}, {"ymmh", offsetof(struct x86_fpu, ymmh), 16}};
    for (unsigned p = 0; p < 3; p++)
        for (unsigned i = 0; i < 2 * part[p].n; i++) {
            uint64_t x, y;
            char s[24];
            memcpy(&x, a->raw + part[p].off + 8 * i, 8);
            memcpy(&y, b->raw + part[p].off + 8 * i, 8);
            if (x == y)
                continue;
            snprintf(s, sizeof(s), "%s%u.%s", part[p].name, i / 2, i & 1 ? "high" : "low");
            differ(ls, s, x, y);
        }
}

/* Everything a program can see. Not RF, which no program can before it is pushed, and not the shadow of STI, which engines
 * may leave out when no interrupt waits. */
static bool same_state(struct lockstep *ls)
{
    static const char *const gpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg[X86_NSEG] = {[X86_ES] = "es", [X86_CS] = "cs", [X86_SS] = "ss", [X86_DS] = "ds", [X86_FS] = "fs", [X86_GS] = "gs"};
    const struct vcpu *v = cpu(ls, 0), *w = cpu(ls, 1);
    const struct x86_cpu *a = &v->cpu, *b = &w->cpu;
    const uint64_t fa = x86_get_rflags(a) & ~(uint64_t)X86_FL_RF, fb = x86_get_rflags(b) & ~(uint64_t)X86_FL_RF;

    if (v->insns != w->insns)
        differ(ls, "instructions", v->insns, w->insns);
    if (v->events != w->events)
        differ(ls, "events", v->events, w->events);
#define FIELD(f)                                                                                                       \
    if (a->f != b->f)                                                                                                  \
    differ(ls, #f, a->f, b->f)
    FIELD(rip);
    if (fa != fb)
        differ(ls, "rflags", fa, fb);
    for (unsigned i = 0; i < 16; i++)
        if (a->gpr[i] != b->gpr[i])
            differ(ls, gpr[i], a->gpr[i], b->gpr[i]);
    for (unsigned i = 0; i < X86_NSEG; i++)
        compare_seg(ls, seg[i], &a->seg[i], &b->seg[i]);
    compare_seg(ls, "ldtr", &a->ldtr, &b->ldtr);
    compare_seg(ls, "tr", &a->tr, &b->tr);
    FIELD(gdtr.base); FIELD(gdtr.limit); FIELD(idtr.base); FIELD(idtr.limit);
    FIELD(cr0); FIELD(cr2); FIELD(cr3); FIELD(cr4); FIELD(efer); FIELD(xcr0);
    for (unsigned i = 0; i < 4; i++) {
        FIELD(dr[i]); FIELD(pdptr[i]);
    }
    FIELD(dr6); FIELD(dr7);
    FIELD(cpl); FIELD(mode); FIELD(activity); FIELD(nmi_blocked); FIELD(pending_dbg);
    if ((a->inhibit_irq ^ b->inhibit_irq) & 2)
        FIELD(inhibit_irq);
    FIELD(star); FIELD(lstar); FIELD(cstar); FIELD(sfmask); FIELD(kernel_gs_base);
    FIELD(sysenter_cs); FIELD(sysenter_esp); FIELD(sysenter_eip);
    FIELD(tsc_offset); FIELD(tsc_adjust); FIELD(tsc_aux); FIELD(pat);
    FIELD(misc_enable); FIELD(misc_feature_enables); FIELD(debugctl); FIELD(spec_ctrl);
    FIELD(fpu.fcw); FIELD(fpu.fsw); FIELD(fpu.ftw); FIELD(fpu.fop); FIELD(fpu.fip); FIELD(fpu.fdp);
    FIELD(fpu.mxcsr); FIELD(fpu.xstate_bv);
    compare_vectors(ls, &a->fpu, &b->fpu);
#undef FIELD
    return !ls->diff.n;
}

bool lockstep_memory(struct lockstep *ls)
{
    struct vm *s = ls->vm[0], *r = ls->vm[1];
    ls->compared++;
    ls->pages = 0;
    for (uint64_t p = 0; p < s->ram_size >> 12; p++) {
        if (s->ram_flags[p] || r->ram_flags[p])
            ls->touched[p / 8] |= (uint8_t)(1u << (p % 8));
        if (!(ls->touched[p / 8] >> (p % 8) & 1))
            continue;
        ls->pages++;
        if (!memcmp(s->ram + (p << 12), r->ram + (p << 12), 0x1000))
            continue;
        for (uint64_t o = p << 12;; o += 8) {
            uint64_t x, y;
            memcpy(&x, s->ram + o, 8);
            memcpy(&y, r->ram + o, 8);
            if (x == y)
                continue;
            ls->diff.memory = true;
            ls->diff.gpa = o < 3ull << 30 ? o : o + (1ull << 30); /* RAM ends below 3 GiB and goes on at 4 (core/vm.c) */
            differ(ls, "memory", x, y);
            return false;
        }
    }
    ls->memory_equal = ls->slices;
    return true;
}

static bool memory_due(const struct lockstep *ls)
{
    const uint64_t every = ls->memory_every > 1 && ls->pages / PAGES_SLICE > ls->memory_every ? ls->pages / PAGES_SLICE : ls->memory_every;
    return every && ls->slices - ls->memory_equal >= every;
}

/* --- driving -------------------------------------------------------------- */

/* Take what can be taken now, as both engines do before each instruction. */
static void settle(struct vcpu *v)
{
    vcpu_enter_guest(v);
    for (;;) {
        vcpu_irq_rearm(v);
        if (!(vcpu_requests(v) & (VREQ_INTR | VREQ_NMI | VREQ_TLB)))
            break;
        const int r = vcpu_poll(v);
        if (r == X86_FAULT)
            v->cpu.activity = X86_SHUTDOWN;
        if (r != X86_OK)
            break;
    }
    vcpu_leave_guest(v);
}

static bool step(struct lockstep *ls, struct vcpu *v, struct vcpu_exit *e)
{
    vcpu_irq_rearm(v);
    if (vcpu_requests(v) & ~(uint32_t)(VREQ_CODE | VREQ_ENGINE)) {
        const uint64_t before = v->events;
        const int r = vcpu_poll(v);
        if (r == X86_EXIT)
            return false;
        if (r == X86_FAULT)
            v->cpu.activity = X86_SHUTDOWN;
        if (v->events != before)
            return true; /* perhaps the place to be */
    }
    if (v->cpu.activity != X86_RUNNING)
        return false;
    if (ls->on_step)
        ls->on_step(ls->ctx, v);
    v->engine->step(v, e);
    return true;
}

/* Is the next instruction a repeated string instruction? */
static bool at_rep(const struct x86_cpu *c)
{
    const uint64_t lin = c->mode == X86_MODE_64 ? c->rip : (uint32_t)(c->rip + c->seg[X86_CS].base);
    bool rep = false;
    for (unsigned i = 0; i < X86_MAX_INSN; i++) {
        uint64_t gpa;
        const uint8_t *p = x86_walk_peek(c, lin + i, &gpa) ? gpa_host(c->mmu.map, gpa, 1, false) : NULL;
        if (!p)
            return false;
        switch (*p) {
        case 0xf2: case 0xf3: rep = true; break;
        case 0x66: case 0x67: case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: break;
        default:
            if (c->mode == X86_MODE_64 && (*p & 0xf0) == 0x40)
                break;
            return rep && ((*p >= 0x6c && *p <= 0x6f) || (*p >= 0xa4 && *p <= 0xa7) || (*p >= 0xaa && *p <= 0xaf));
        }
    }
    return false;
}

/* Take the reference to where the subject is. False: it cannot get there. */
static bool follow(struct lockstep *ls)
{
    struct vcpu *s = cpu(ls, LS_SUBJECT), *r = cpu(ls, LS_REFERENCE);
    struct vcpu_exit e = {.kind = EXIT_KICK};

    vcpu_enter_guest(r);
    while ((r->insns != s->insns || r->events != s->events) && r->insns <= s->insns && r->events <= s->events && step(ls, r, &e))
        ;
    for (unsigned i = 0; i < REP_STEPS && r->insns == s->insns && r->cpu.rip == s->cpu.rip && r->cpu.gpr[X86_RCX] > s->cpu.gpr[X86_RCX] &&
                         at_rep(&r->cpu) && step(ls, r, &e);
         i++)
        ;
    vcpu_leave_guest(r);
    if (r->cpu.activity == X86_SHUTDOWN) {
        e.kind = EXIT_SHUTDOWN;
        return vcpu_exited(r, &e);
    }
    return true;
}

static enum lockstep_result restart(struct lockstep *ls)
{
    struct vm *a = ls->vm[0], *b = ls->vm[1];
    const int end[2] = {atomic_load(&a->end), atomic_load(&b->end)};

    if (end[0] != end[1] || (end[0] && a->end_code != b->end_code) || atomic_load(&a->reset_wanted) != atomic_load(&b->reset_wanted)) {
        differ(ls, "end of the machine", (uint64_t)end[0], (uint64_t)end[1]);
        return LS_DIFFER;
    }
    if (end[0])
        return lockstep_memory(ls) ? LS_ENDED : LS_DIFFER;
    for (unsigned i = 0; i < 2; i++) {
        struct vcpu *v = cpu(ls, i);
        if (v->engine->vcpu_fini)
            v->engine->vcpu_fini(v);
        vm_reset(ls->vm[i]);
        atomic_store(&v->requests, VREQ_INTR);
        v->irq_waiting = v->nmi_pending = false;
        if (v->engine->vcpu_init && v->engine->vcpu_init(v) != 0)
            return LS_FAILED;
    }
    memset(ls->touched, 0xff, (ls->vm[0]->ram_size >> 12) / 8);
    return LS_SAME;
}

static uint64_t length(struct lockstep *ls)
{
    ls->seed ^= ls->seed << 13;
    ls->seed ^= ls->seed >> 7;
    ls->seed ^= ls->seed << 17;
    return 1 + (ls->seed >> 20) % ((ls->seed & 7) ? 4000 : 40);
}

/* Time passes for both. */
static void pass(struct lockstep *ls, uint64_t insns)
{
    for (unsigned i = 0; i < 2; i++) {
        clock_counter_add(ls->vm[i]->counter, insns);
        clock_run(ls->vm[i]->clock);
    }
}

static enum lockstep_result idle(struct lockstep *ls)
{
    const uint64_t next = clock_next(ls->vm[0]->clock), other = clock_next(ls->vm[1]->clock);

    if (next != other) {
        differ(ls, "next timer", next, other);
        return LS_DIFFER;
    }
    if (next == UINT64_MAX)
        return LS_IDLE;
    for (unsigned i = 0; i < 2; i++) {
        clock_counter_skip_to(ls->vm[i]->counter, ls->vm[i]->clock, next);
        clock_run(ls->vm[i]->clock);
    }
    return LS_SAME;
}

enum lockstep_result lockstep_slice(struct lockstep *ls, uint64_t n)
{
    struct vcpu *s = cpu(ls, LS_SUBJECT), *r = cpu(ls, LS_REFERENCE);
    struct vcpu_exit e = {.kind = EXIT_KICK};
    const uint64_t before = s->insns;

    memset(&ls->diff, 0, sizeof(ls->diff));
    if (!n)
        n = length(ls);
    const enum vcpu_next next = vcpu_next(s), other = vcpu_next(r);

    if (next != other) {
        differ(ls, "ready to run", next, other);
        return LS_DIFFER;
    }
    ls->slices++;
    if (next == VCPU_END)
        return restart(ls);
    if (next == VCPU_WAIT)
        return idle(ls);

    s->stop = s->insns + n;
    vcpu_enter_guest(s);
    s->engine->run(s, &e);
    vcpu_leave_guest(s);
    if (!vcpu_exited(s, &e) || !follow(ls))
        return LS_FAILED;
    const bool shadow = s->cpu.inhibit_irq != r->cpu.inhibit_irq;

    if (!shadow) {
        settle(s);
        settle(r);
    }
    if (!same_state(ls))
        return LS_DIFFER;
    if (memory_due(ls) && !lockstep_memory(ls))
        return LS_DIFFER;
    if (!ls->hold && !shadow)
        pass(ls, s->insns - before);
    return LS_SAME;
}

/* --- life ------------------------------------------------------------------- */

int lockstep_init(struct lockstep *ls, struct vm *subject, struct vm *reference, char *err, size_t cap)
{
    ls->vm[LS_SUBJECT] = subject;
    ls->vm[LS_REFERENCE] = reference;
    if (!ls->seed)
        ls->seed = 0x9e3779b97f4a7c15ull;
    ls->touched = malloc((subject->ram_size >> 12) / 8 + 1);
    if (!ls->touched) {
        snprintf(err, cap, "out of memory");
        return -1;
    }
    memset(ls->touched, 0, (subject->ram_size >> 12) / 8 + 1);
    for (unsigned i = 0; i < 2; i++) {
        struct vm *vm = ls->vm[i];
        struct vcpu *v = vm->cpu[0];
        if (vm_engine_init(vm, err, cap) != 0)
            return -1;
        clock_resume(vm->clock);
        atomic_store(&v->requests, VREQ_INTR);
        if (v->engine->vcpu_init && v->engine->vcpu_init(v) != 0) {
            snprintf(err, cap, "engine %s cannot be set up", v->engine->name);
            return -1;
        }
    }
    return 0;
}

void lockstep_fini(struct lockstep *ls)
{
    for (unsigned i = 0; i < 2 && ls->vm[i]; i++)
        if (ls->vm[i]->engine_ready && cpu(ls, i)->engine->vcpu_fini)
            cpu(ls, i)->engine->vcpu_fini(cpu(ls, i));
    free(ls->touched);
    ls->touched = NULL;
}
