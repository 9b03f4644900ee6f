/*
 * 64-bit guest code in worlds: kernel code (CPL 0 to 2) and user code of every address space in a world each, whose mappings are a
 * TLB filled with the rights of that privilege (engine/direct/space.c). CS and SS are the host's, DS and ES null, as 64-bit code needs none; FS and GS
 * null with the guest's bases. So code that looks sees selectors, flags and tables of the host's, and what it loads unseen is the host's.
 */
#include <stdio.h>

#include "engine/trap/trap.h"
#include "x86/seg.h"

enum { PF_WRITE = 2, PF_FETCH = 16 };
#define FILLS_COUNT 8u /* of so many runs that only fill mappings, one counts */

int trap_long_init(struct trap *t)
{
    if (!(t->d = direct_new(t->v->interp_priv)))
        return -1;
    t->d->levels = true;
    t->d->forced = !t->tv->adaptive;
    t->d->bare = !t->tv->patching || t->tv->report;
    return t->d->bare ? 0 : trap_long_code_init(t);
}

void trap_long_fini(struct trap *t)
{
    direct_free(t->d);
    trap_long_code_fini(t);
}

bool trap_long_pays(struct trap *t)
{
    direct_sample(t->d);
    return space_of(t->d)->promoted;
}

/* Segment registers that guest code has loaded unseen have what the host's table says. */
static void segments_back(struct trap *t, const struct user64_regs *r)
{
    const uint16_t sel[4] = {r->ds, r->es, r->fs, r->gs};
    static const uint8_t seg[4] = {X86_DS, X86_ES, X86_FS, X86_GS};
    struct x86_cpu *c = &t->v->cpu;

    for (unsigned i = 0; i < 4; i++)
        if (sel[i] & 0xfffc) {
            const uint64_t base = seg[i] < X86_FS ? 0 : c->seg[seg[i]].base;

            t->tv->n.lost++;
            c->seg[seg[i]] = (struct x86_seg){.sel = sel[i], .base = base, .limit = UINT32_MAX, .ar = 0xf3 | X86_AR_DB | X86_AR_G};
        }
    if (r->cs != HOST_CS) { /* a far transfer to the host's 32-bit code */
        const struct x86_seg cs = {.sel = r->cs, .limit = UINT32_MAX, .ar = 0xfb | X86_AR_DB | X86_AR_G};

        t->tv->n.lost++;
        x86_set_cs(c, &cs, c->cpl);
        x86_recompute(c);
    }
}

bool trap_long_page_fault(struct trap *t, struct dspace *s, uint64_t lin, uint32_t err, struct vcpu_exit *exit)
{
    const int access = err & PF_FETCH ? X86_EXEC : err & PF_WRITE ? X86_WRITE : X86_READ;

    switch (space_fill(t->d, s, lin, access)) {
    case FILL_DONE: t->tv->n.faults_tlb++; return true;
    case FILL_FAULT:
        t->tv->n.faults_guest++;
        s->fault = lin;
        s->fault_access = (uint8_t)access;
        trap_deliver(t);
        return false;
    case FILL_SENSITIVE:
    case FILL_EMULATE: break;
    }
    t->tv->n.interpreted++;
    trap_step_one(t, exit);
    return false;
}

/* True if all that was wanting was a translation. */
static bool handle(struct trap *t, struct dspace *s, const struct user64_exit *e, uint32_t rflags, struct vcpu_exit *exit)
{
    struct x86_cpu *c = &t->v->cpu;
    uint64_t lin;
    uint32_t err;

    if (e->foul) { /* it was in the world's own text: whatever is there for the guest, the interpreter will find */
        s->banned = true;
        policy_withdraw(t->d, s);
        return false;
    }
    switch (direct_event(t->d, e, &lin, &err)) {
    case DIRECT_KICKED: t->tv->n.kicks++; break;
    case DIRECT_STEP:
        t->tv->n.ints++;
        c->fl_sys |= rflags & X86_FL_RF; /* between iterations */
        if (x86_debug_after(c, true) != X86_OK)
            trap_deliver(t);
        break;
    case DIRECT_FAULT: return trap_long_page_fault(t, s, lin, err, exit);
    case DIRECT_LOST:
        exit->kind = EXIT_FAIL;
        snprintf(exit->fail.why, sizeof(exit->fail.why), "the guest used SYSENTER, which cannot be undone once executed");
        break;
    case DIRECT_INSN:
        if (!t->d->bare && e->trapno == 13)
            trap_long_met(t);
        t->tv->n.syscalls += e->arch != 0;
        trap_emulate(t, exit);
    }
    return false;
}

/* The world of the state at hand, ready to be entered. NULL: there is none. */
static struct dspace *ready(struct trap *t)
{
    const struct x86_cpu *c = &t->v->cpu;
    struct direct *d = t->d;
    struct dspace *s = space_of(d);

    if (d->forced && !s->promoted && !s->banned && s->score >= 0)
        policy_promote(d, s);
    if (!s->promoted || s->banned)
        return NULL;
    if (s->super && (c->cr4 & X86_CR4_SMAP) && s->open != !!(c->fl_sys & X86_FL_AC)) {
        s->open = !s->open;
        s->stale = true;
    }
    space_sync(d, s);
    if (!d->bare && s->key != trap_long_key(t)) {
        space_forget_code(d, s);
        s->key = (uint8_t)trap_long_key(t);
    }
    return s->promoted ? s : NULL;
}

bool trap_long_enter(struct trap *t, struct dspace *s, uint64_t rflags, uint64_t page, struct user64_regs *r, struct user64_exit *e, struct vcpu_exit *exit)
{
    struct vcpu *v = t->v;
    struct x86_cpu *c = &v->cpu;
    struct direct *d = t->d;
    uint64_t cycles;

    direct_load(c, r);
    /* With AC the host checks alignment whether or not the guest does: that traps, and is interpreted. */
    r->rflags |= rflags | (c->fl_sys & X86_FL_AC);
    c->fl_sys &= ~(uint32_t)X86_FL_RF;
    if (page) {
        struct dmap_entry *had = dmap_find(&s->map, page);

        if (user64_room(s->w) < 2)
            space_forget(d, s);
        else if (had)
            dmap_del(&s->map, had);
        user64_map(s->w, page, 4096, 0, USER64_COPY | USER64_R | USER64_X);
    }
    const uint64_t t0 = v->vm->timed ? host_now() : 0;
    const int how = direct_enter(d, s, r, e, &cycles);
    if (v->vm->timed)
        t->tv->n.direct_ns += host_now() - t0;
    if (page && how == USER64_OK)
        user64_unmap(s->w, page, 4096);
    switch (how) {
    case USER64_OK: break;
    case USER64_REFUSED: /* out of mappings or memory, or an address the host will not map: start over, and get past this instruction */
        space_forget(d, s);
        t->tv->n.interpreted++;
        trap_step_one(t, exit);
        return false;
    case USER64_CRASHED: /* only what attacks a world can end it */
        direct_crashed(d, s);
        x86_raise_err(c, X86_GP, 0);
        trap_deliver(t);
        return false;
    case USER64_GONE:
        exit->kind = EXIT_FAIL;
        snprintf(exit->fail.why, sizeof(exit->fail.why), "%s", user64_why(s->w));
        return false;
    default: /* requests */
        if (page)
            space_forget(d, s);
        return false;
    }
    t->tv->n.runs[s->super ? WORLD_KERNEL : WORLD_USER]++;
    direct_store(c, r);
    const uint32_t also = X86_FL_TF | X86_FL_AC; /* POPF changes them at any privilege; TF was not set */
    c->fl_sys = (c->fl_sys & ~also) | ((uint32_t)r->rflags & also);
    x86_mmu_update_ctx(c);
    if (d->bare) {
        segments_back(t, r);
    } else if (!direct_reload(c, r)) {
        trap_deliver(t);
        return false;
    }
    t->long_cycles = cycles;
    return true;
}

void trap_long_run(struct trap *t, struct vcpu_exit *exit)
{
    struct user64_regs r;
    struct user64_exit e;
    struct dspace *s;

    if (t->tv->eager && !t->long_prepared) {
        t->long_prepared = true;
        trap_long_prepare(t);
    }
    if (!t->d->bare && trap_long_doubtful(t)) {
        if (t->tv->adaptive) {
            trap_interpret(t, trap_space(t));
        } else {
            t->tv->n.interpreted++;
            trap_step_one(t, exit);
        }
        return;
    }
    s = ready(t);
    t->tv->n.worlds64 = t->d->st.worlds;
    if (t->tv->report) {
        trap_report_long(t, s, exit);
        return;
    }
    if (!s) {
        t->tv->n.interpreted++;
        trap_step_one(t, exit);
        return;
    }
    direct_prefill(t->d, s);
    if (!trap_long_enter(t, s, 0, 0, &r, &e, exit))
        return;
    /* A program that begins, or goes on to other data, fills its mappings before it can show whether it computes: most such runs do not count. */
    const bool filled = handle(t, s, &e, (uint32_t)r.rflags, exit);
    if (e.sig != WORLD_SIG_KICK && s->promoted && !(filled && ++t->long_fills % FILLS_COUNT))
        policy_exit(t->d, s, t->long_cycles, false);
}
