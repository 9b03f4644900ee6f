/*
 * Trap-and-emulate: the loop.
 *
 * Guest code of a privilege level runs in a world (sandbox/): kernel code in one, user code in another, so that each has the rights
 * of its level. A fault of the host is either a translation the world does not have yet, or the guest's own fault, or an
 * instruction that trapped; the last is executed once by the interpreter on the canonical state, which also raises every
 * exception exactly, and direct execution goes on. IF, IOPL and CPL are virtual; the hardware runs at CPL 3 with interrupts on.
 *
 * Where instructions are replaced, direct execution must pay (policy.c): a level whose code traps too often is interpreted for a while.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#include "engine/trap/trap.h"
#include "x86/mmu.h"

/* Flags the guest's own code may change at CPL 3 with what it does there. */
#define DIRECT_FLAGS_32 (X86_FL_ARITH | X86_FL_DF)

/* --- which states -------------------------------------------------------------------- */

bool trap_can_run(const struct vcpu *v)
{
    const struct x86_cpu *c = &v->cpu;

    const struct trap *t = v->engine_priv;

    /* 64-bit code where a host process can have code; compatibility mode not. Asked of a state alone (the classifier): worlds can be had. */
    if (x86_lma(c) && (c->mode != X86_MODE_64 || c->rip >= USER64_HIGH || (t && (!t->d || t->d->off))))
        return false;
    return x86_pe(c) && !x86_v86(c) &&
           !(c->cr0 & (X86_CR0_TS | X86_CR0_EM)) &&         /* no host lets user code see #NM */
           !(c->fl_sys & X86_FL_TF) && !c->inhibit_irq && !c->pending_dbg && !(c->dr7 & 0xff) &&
           !((c->fl_sys & X86_FL_AC) && c->cpl == 3 && (c->cr0 & X86_CR0_AM)) &&
           (x86_lma(c) || !t || trap_segs_ok(t)); /* of a state alone: segments are flat */
}

/* --- one instruction by the interpreter ------------------------------------------------ */

bool trap_insn_at(struct vcpu *v, struct x86_insn *in)
{
    struct x86_cpu *c = &v->cpu;
    const uint64_t lin = c->mode == X86_MODE_64 ? c->rip : (uint32_t)(c->seg[X86_CS].base + c->rip);
    uint8_t b[X86_MAX_INSN];
    uint64_t gpa;
    unsigned n = 0x1000 - (lin & 0xfff) < sizeof(b) ? 0x1000 - (lin & 0xfff) : sizeof(b);
    const uint8_t *h = x86_walk_peek(c, lin, &gpa) ? gpa_host(c->mmu.map, gpa, n, false) : NULL;
    if (!h)
        return false;
    memcpy(b, h, n);
    return x86_decode(in, b, n, (enum x86_mode_bits)c->mode, false, x86_feature_bits(c->cpuid)) == X86_DEC_OK;
}

void trap_step_one(struct trap *t, struct vcpu_exit *exit)
{
    engine_interp.step(t->v, exit);
    trap_sync_tlb(t);
}

void trap_emulate(struct trap *t, struct vcpu_exit *exit)
{
    struct x86_insn in;

    if (trap_insn_at(t->v, &in)) {
        t->tv->by_op[in.op]++;
        /* Through a segment of which the world has one part: perhaps it is the other that is wanted. */
        for (unsigned i = 0; i < in.nopnd; i++)
            if (in.opnd[i].kind == X86_OPND_MEM && t->parts[in.mem.seg] == 2)
                t->upper[in.mem.seg] = !t->upper[in.mem.seg];
    } else {
        t->tv->by_op[X86_OP_INVALID]++;
    }
    t->tv->n.insns_traps++;
    trap_step_one(t, exit);
}

void trap_deliver(struct trap *t)
{
    if (x86_deliver(&t->v->cpu) != X86_OK)
        t->v->cpu.activity = X86_SHUTDOWN;
    trap_sync_tlb(t);
}

/* --- what came out ---------------------------------------------------------------------------- */

/* Bytes of code behind CS:EIP, to find the beginning of an instruction that trapped after itself. */
static bool before(struct trap *t, unsigned n, uint8_t *b)
{
    struct x86_cpu *c = &t->v->cpu;
    uint64_t gpa;
    for (unsigned i = 0; i < n; i++) {
        const uint8_t *h = x86_walk_peek(c, (uint32_t)(c->seg[X86_CS].base + c->rip - n + i), &gpa) ? gpa_host(c->mmu.map, gpa, 1, false) : NULL;
        if (!h)
            return false;
        b[i] = *h;
    }
    return true;
}

static void handle(struct trap *t, const struct world_ctl *k, struct vcpu_exit *exit)
{
    struct x86_cpu *c = &t->v->cpu;
    const uint32_t sig = k->sig, trapno = k->trapno;
    uint8_t b[2];

    switch (sig) {
    case WORLD_SIG_KICK:
        t->tv->n.kicks++;
        return;
    case WORLD_SIG_SYS:
        /* INT 0x80 entered the host's kernel, which turned it away behind the instruction. SYSENTER and SYSCALL keep no return address. */
        if (k->arch == WORLD_ARCH_I386 && before(t, 2, b) && b[0] == 0xcd && b[1] == 0x80) {
            t->tv->n.syscalls++;
            c->rip = (uint32_t)(c->rip - 2);
            trap_emulate(t, exit);
            return;
        }
        exit->kind = EXIT_FAIL;
        snprintf(exit->fail.why, sizeof(exit->fail.why), "the guest used SYSENTER or SYSCALL, which cannot be undone once executed (see --patch=lazy)");
        return;
    case WORLD_SIG_TRAP:
        t->tv->n.ints++;
        if (trapno == 3) {
            if (before(t, 2, b))
                c->rip = (uint32_t)(c->rip - (b[1] == 0xcc ? 1 : 2));
            trap_emulate(t, exit);
            return;
        }
        /* A single step that POPF or IRET asked for at CPL 3. */
        if (x86_debug_after(c, true) != X86_OK)
            trap_deliver(t);
        return;
    case WORLD_SIG_SEGV:
    case WORLD_SIG_BUS:
        if (trapno == 14 && k->cr2 >> 32) { /* an operand across the end of the world's segment, which is in the middle of the guest's */
            trap_emulate(t, exit);
            return;
        }
        if (trapno == 14) {
            trap_page_fault(t, (uint32_t)k->cr2, k->err, exit);
            return;
        }
        if (trapno == 4) { /* INTO */
            c->rip = (uint32_t)(c->rip - 1);
            trap_emulate(t, exit);
            return;
        }
        if (trapno == 17 && !(c->fl_sys & X86_FL_AC))
            return; /* the hardware's AC, which the next entry clears */
        break;
    default: break;
    }
    if (t->tv->patching && trapno == 13) {
        const uint32_t lin = (uint32_t)(c->seg[X86_CS].base + c->rip);
        const uint64_t m = trap_space(t)->map[(uint32_t)(lin + t->delta) >> 12];
        struct ppage *g = m & SPACE_CODE ? trap_code_page(t, m >> 8) : NULL;
        if (g) {
            const bool seen = g->start[(lin & 0xfff) / 64] >> (lin & 63) & 1;
            if (!seen && trap_look(t, g))
                return;
            if (g->bytes[lin & 0xfff] == 0xf4 && g->ram[lin & 0xfff] != 0xf4)
                t->tv->n.patched++;
            if (t->tv->report && g->bytes[lin & 0xfff] == 0xf4 && g->ram[lin & 0xfff] != 0xf4 && (g->start[(lin & 0xfff) / 64] >> (lin & 63) & 1)) {
                trap_report_one(t, g, lin & 0xfff, exit);
                return;
            }
        }
    }
    trap_emulate(t, exit);
}

/* --- direct execution -------------------------------------------------------------------------- */

static void fail(struct vcpu_exit *exit, const char *why)
{
    exit->kind = EXIT_FAIL;
    snprintf(exit->fail.why, sizeof(exit->fail.why), "%s", why);
}

int trap_enter(struct trap *t, uint32_t eflags, struct vcpu_exit *exit)
{
    struct vcpu *v = t->v;
    struct x86_cpu *c = &v->cpu;
    const unsigned which = c->cpl == 3 ? WORLD_USER : WORLD_KERNEL;
    struct space *s = trap_space(t);
    struct world *w = s->w;
    struct world_ctl *k = world_ctl(w);

    if (which == WORLD_KERNEL && (c->cr4 & X86_CR4_SMAP)) {
        const bool open = c->fl_sys & X86_FL_AC;
        if (open != t->user_access)
            space_flush(s, true);
        t->user_access = open;
    }
    if (s->stale)
        trap_revalidate(t, s);
    for (unsigned i = 0; i < 8; i++)
        k->gpr[i] = (uint32_t)c->gpr[i];
    k->eip = (uint32_t)c->rip;
    k->eflags = ((uint32_t)x86_get_rflags(c) & DIRECT_FLAGS_32) | X86_FL_1 | X86_FL_IF | eflags;
    trap_segs_load(t, s, k);
    memcpy(k->fp, c->fpu.raw, WORLD_FP_SIZE);
    k->load_fp = 1;

    /* Announce whom to kick, then look: a request made in between kicks us out at once. */
    atomic_store(&t->current, w);
    if (vcpu_requests(v)) {
        atomic_store(&t->current, NULL);
        /* What was queued stays queued. */
        return 1;
    }
    t->tv->n.runs[which]++;
    const bool filled = world_queued(w);
    const uint64_t t0 = v->vm->timed ? host_now() : 0, tsc = __rdtsc();
    const int r = world_run(w, t->last);
    t->last = w;
    if (v->vm->timed)
        t->tv->n.direct_ns += host_now() - t0;
    atomic_store(&t->current, NULL);
    if (!r && k->sig != WORLD_SIG_KICK)
        trap_policy_ran(t, s, filled, __rdtsc() - tsc);
    if (r < 0) {
        fail(exit, world_why(w));
        return 1;
    }
    if (r > 0) { /* out of mappings or memory, or an address the host will not map: start over, and get past this instruction */
        memset(s->ldt, 0, sizeof(s->ldt));
        space_flush(s, true);
        t->tv->n.interpreted++;
        trap_step_one(t, exit);
        return 1;
    }
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = k->gpr[i];
    c->rip = k->eip;
    const uint32_t fl = k->eflags;
    /* AC and ID go with POPF at any privilege; where POPF is replaced they cannot have changed. */
    const uint32_t take = DIRECT_FLAGS_32 | (t->tv->patching && !t->tv->report ? 0 : X86_FL_TF | X86_FL_NT);
    x86_set_rflags(c, (x86_get_rflags(c) & ~(uint64_t)take) | (fl & take));
    memcpy(c->fpu.raw, k->fp, 464);
    memcpy(c->fpu.raw + 576, k->fp + 576, 256);
    c->fpu.mxcsr &= 0xffff; /* what the host loads must be loadable, whatever the world says */
    c->fpu.xstate_bv = (c->fpu.xstate_bv & ~7ull) | (((const struct x86_fpu *)(const void *)k->fp)->xstate_bv & 7);
    if (!trap_segs_back(t, k) || k->rip >> 32) {
        x86_raise_err(c, X86_GP, 0x30);
        trap_deliver(t);
        return 1;
    }
    if (c->seg[X86_CS].ar & X86_AR_DB)
        c->mode = X86_MODE_32;
    else
        c->mode = X86_MODE_16;
    return 0;
}

/* Other code than where the program is at home is often left again at once, as the stub of a system call is: interpret a few instructions,
 * unless that seldom helped. False: it is somewhere to stay. */
static bool short_trip(struct trap *t, struct space *s, struct vcpu_exit *exit)
{
    enum { STEPS = 12, TRUST = 8, RETRY = 64 };
    struct vcpu *v = t->v;
    struct x86_cpu *c = &v->cpu;
    unsigned n = 0;

    if (!t->tv->adaptive || c->cpl != 3 || !s->placed || s->low || space_at_home(s, (uint32_t)(c->seg[X86_CS].base + c->rip)) ||
        (s->trips < 0 && ++s->untried % RETRY))
        return false;
    do {
        trap_step_one(t, exit);
        n++;
    } while (n < STEPS && exit->kind == EXIT_KICK && c->cpl == 3 && !vcpu_requests(v) && trap_space(t) == s &&
             !space_at_home(s, (uint32_t)(c->seg[X86_CS].base + c->rip)));
    t->tv->n.interpreted += n;
    s->trips = (int8_t)(n < STEPS ? s->trips + (s->trips < TRUST) : s->trips - (s->trips > -TRUST ? 2 : 0));
    return true;
}

static void direct(struct trap *t, struct vcpu_exit *exit)
{
    struct space *s = trap_space(t);
    struct world *w = s->w;
    const bool left = s->left;

    if (x86_lma(&t->v->cpu)) {
        trap_long_run(t, exit);
        return;
    }
    s->left = false;
    if (short_trip(t, s, exit))
        return;
    s->level.fills += left && s->level.fills < s->level.runs; /* changing windows is not computing */
    if (trap_enter(t, 0, exit) == 0)
        handle(t, world_ctl(w), exit);
}

/* --- the loop ------------------------------------------------------------------------------------ */

/* Code that the interpreter has until something returns to its dispatcher: privileged instructions, faults, requests. */
void trap_interpret(struct trap *t, struct space *s)
{
    struct vcpu *v = t->v;
    struct interp *it = v->interp_priv;
    const uint64_t insns = v->insns;

    trap_policy_interprets(t);
    if (interp_needs_steps(&v->cpu))
        interp_step_one(it);
    else
        interp_blocks(it);
    trap_sync_tlb(t);
    t->tv->n.burst[s == &t->space[WORLD_KERNEL] ? WORLD_KERNEL : WORLD_USER] += v->insns - insns;
    trap_policy_interpreted(t, s, v->insns - insns);
}

void trap_run(struct vcpu *v, struct vcpu_exit *exit)
{
    struct trap *t = v->engine_priv;

    if (t->tv->prepare) {
        t->tv->prepare = false;
        trap_prepare(t);
    }
    trap_sync_tlb(t); /* whoever had the state in between may have flushed */
    for (;;) {
        vcpu_irq_rearm(v);
        const bool go_on = interp_serve(v->interp_priv, exit);
        trap_sync_tlb(t);
        if (!go_on)
            return;
        exit->kind = EXIT_KICK;
        struct space *s = trap_space(t);
        const bool can = trap_can_run(v);
        if (can && (!t->tv->adaptive || (x86_lma(&v->cpu) ? trap_long_pays(t) : s->level.direct && !s->level.sampled))) {
            direct(t, exit);
            if (exit->kind == EXIT_FAIL)
                return;
        } else if (t->tv->adaptive) {
            trap_interpret(t, s);
        } else {
            t->tv->n.interpreted++;
            trap_step_one(t, exit);
        }
    }
}
