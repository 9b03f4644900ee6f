/* Entering and leaving a user world: registers, what ends a run, one instruction at a time. */
#include "engine/direct/direct.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#include "ringer/gpa.h"
#include "x86/mmu.h"
#include "x86/seg.h"

enum { SIG_ILL = 4, SIG_TRAP = 5, SIG_BUS = 7, SIG_FPE = 8, SIG_KICK = 10, SIG_SEGV = 11, SIG_SYS = 31 };
#define ARCH_I386 0x40000003u
#define ARCH_X86_64 0xc000003eu
enum { PF_WRITE = 2, PF_FETCH = 16 };
#define VSYSCALL 0xffffffffff600000ull
#define TICK_NS 1000000u
#define REFUSED_MAX 16u /* times that execution came to a page that must not run directly, before the address space is translated again */

bool direct_can_run(const struct x86_cpu *c)
{
    return c->cpl == 3 && c->mode == X86_MODE_64 && c->seg[X86_CS].sel == HOST_CS && c->seg[X86_SS].sel == HOST_SS &&
           !(c->seg[X86_DS].sel | c->seg[X86_ES].sel | c->seg[X86_FS].sel | c->seg[X86_GS].sel) &&
           !(c->cr0 & (X86_CR0_TS | X86_CR0_EM)) && (c->cr0 & X86_CR0_NE) && (c->cr4 & X86_CR4_OSFXSR) && (c->cr4 & X86_CR4_OSXMMEXCPT) &&
           (c->cr4 & X86_CR4_OSXSAVE) && (c->xcr0 & 7) == 7 && (c->cr4 & X86_CR4_FSGSBASE) &&
           (c->fl_sys & (X86_FL_IF | X86_FL_IOPL | X86_FL_TF | X86_FL_AC | X86_FL_VIF | X86_FL_VIP)) == X86_FL_IF &&
           !c->inhibit_irq && !c->pending_dbg && !(c->dr7 & 0xff);
}

bool direct_ready(struct direct *d)
{
    const struct x86_cpu *c = &d->v->cpu;

    if (!d->promoted || !direct_can_run(c) || d->hold > d->ticks)
        return false;
    struct dspace *s = space_of(d);

    if (UNLIKELY(d->always) && !s->promoted && !s->banned && s->score >= 0)
        policy_promote(d, s);
    return s->promoted && !s->banned;
}

bool direct_wanted(const struct direct *d)
{
    const uint64_t pgd = d->v->cpu.cr3 & 0x000ffffffffff000ull;

    if (!d->promoted || d->always)
        return d->promoted;
    for (const struct dspace *s = d->space; s < d->space + DIRECT_SPACES; s++)
        if (s->pgd == pgd)
            return s->promoted && !s->banned;
    return false;
}

/* --- registers ------------------------------------------------------------------------------ */

void direct_load(const struct x86_cpu *c, struct user64_regs *r)
{
    memcpy(r->gpr, c->gpr, sizeof(r->gpr));
    r->rip = c->rip;
    r->rflags = (x86_get_rflags(c) & DIRECT_FLAGS) | X86_FL_1 | X86_FL_IF;
    r->fs_base = c->seg[X86_FS].base;
    r->gs_base = c->seg[X86_GS].base;
    memcpy(r->fp, c->fpu.raw, USER64_FP_SIZE);
}

/* Selectors other than those we started with: guest code loaded them from the host's tables. False: a fault is in c->exc. */
bool direct_reload(struct x86_cpu *c, const struct user64_regs *r)
{
    if (!(r->ds | r->es | r->fs | r->gs) && r->cs == HOST_CS && r->ss == HOST_SS)
        return true;
    const uint16_t sel[4] = {r->ds, r->es, r->fs, r->gs};
    static const uint8_t seg[4] = {X86_DS, X86_ES, X86_FS, X86_GS};

    for (unsigned i = 0; i < 4; i++)
        if (!x86_sel_null(sel[i]) && x86_load_seg(c, seg[i], sel[i]) != X86_OK)
            return false;
        else
            c->seg[seg[i]].sel = sel[i];
    if (r->cs != HOST_CS) { /* a far transfer */
        struct x86_desc desc;

        if (x86_desc_fetch(c, r->cs, &desc, X86_GP, 0) != X86_OK)
            return false;
        if (!x86_desc_code(&desc) || !x86_desc_p(&desc) || x86_desc_dpl(&desc) != 3) {
            x86_raise_err(c, X86_GP, x86_sel_err(r->cs, 0));
            return false;
        }
        if (x86_desc_accessed(c, &desc) != X86_OK)
            return false;
        const struct x86_seg cs = x86_desc_seg(&desc, r->cs);
        x86_set_cs(c, &cs, 3);
        x86_recompute(c);
    }
    return r->ss == HOST_SS || x86_load_seg(c, X86_SS, r->ss) == X86_OK;
}

void direct_store(struct x86_cpu *c, const struct user64_regs *r)
{
    memcpy(c->gpr, r->gpr, sizeof(c->gpr));
    c->rip = r->rip;
    x86_set_rflags(c, (x86_get_rflags(c) & ~(uint64_t)DIRECT_FLAGS) | (r->rflags & DIRECT_FLAGS));
    if (x86_canonical(r->fs_base)) /* it is a claim */
        c->seg[X86_FS].base = r->fs_base;
    if (x86_canonical(r->gs_base))
        c->seg[X86_GS].base = r->gs_base;
    memcpy(c->fpu.raw, r->fp, 464);
    memcpy(c->fpu.raw + 576, r->fp + 576, USER64_FP_SIZE - 576);
    c->fpu.mxcsr &= 0xffff;
}

static bool store(struct x86_cpu *c, const struct user64_regs *r)
{
    direct_store(c, r);
    x86_set_rflags(c, (x86_get_rflags(c) & ~(uint64_t)(X86_FL_TF | X86_FL_AC)) | (r->rflags & (X86_FL_TF | X86_FL_AC)));
    return direct_reload(c, r);
}

/* --- what ended the run ------------------------------------------------------------------------- */

static void emulate(struct direct *d)
{
    d->st.emulated++;
    interp_step_one(d->it);
}

/* The byte of code at a linear address, if it can be had without any effect. */
static int peek(const struct x86_cpu *c, uint64_t lin)
{
    struct x86_look l;
    const uint8_t *h = x86_walk_look(c, lin, &l) && (l.user || c->cpl != 3) ? gpa_host(c->mmu.map, l.gpa, 1, false) : NULL;

    return h ? *h : -1;
}

/* Code in a page that must not run directly: translated until the next tick. */
static void sensitive(struct direct *d, struct dspace *s)
{
    d->st.sensitive_runs++;
    x86_count_trap(&d->v->cpu, 0, d->v->cpu.rip, X86_SITE_AWAY);
    d->hold = d->ticks + 1;
    if (++s->refused >= REFUSED_MAX)
        policy_demote(d, s);
}

static void page_fault(struct direct *d, struct dspace *s, uint64_t lin, uint32_t err)
{
    const int access = err & PF_FETCH ? X86_EXEC : err & PF_WRITE ? X86_WRITE : X86_READ;

    d->st.page_faults++;
    switch (space_fill(d, s, lin, access)) {
    case FILL_DONE: x86_count_trap(&d->v->cpu, 0, d->v->cpu.rip, X86_SITE_FILL); break;
    case FILL_FAULT:
        s->fault = lin;
        s->fault_access = (uint8_t)access;
        interp_deliver(&d->v->cpu);
        break;
    case FILL_EMULATE: emulate(d); break;
    case FILL_SENSITIVE: sensitive(d, s); break;
    }
}

enum direct_event direct_event(struct direct *d, const struct user64_exit *e, uint64_t *lin, uint32_t *err)
{
    struct x86_cpu *c = &d->v->cpu;

    switch (e->sig) {
    case SIG_KICK: d->st.kicks++; return DIRECT_KICKED;
    case SIG_SYS:
        d->st.syscalls++;
        if (e->call_addr - VSYSCALL < 4096 && e->arch == ARCH_X86_64) { /* the host has emulated the return of its own page */
            c->rip = e->call_addr;
            c->gpr[X86_RSP] -= 8;
        } else {
            c->rip -= 2; /* SYSCALL, or INT 80: behind the instruction */
            if (d->bare && (e->arch == ARCH_X86_64 ? peek(c, c->rip) != 0x0f || peek(c, c->rip + 1) != 0x05 : peek(c, c->rip) != 0xcd || peek(c, c->rip + 1) != 0x80))
                return DIRECT_LOST;
        }
        return DIRECT_INSN;
    case SIG_TRAP:
        if (e->trapno == 3) {
            c->rip -= peek(c, c->rip - 1) == 0xcc ? 1 : 2;
        } else if (c->fl_sys & X86_FL_TF) { /* POPF set it, and the instruction behind it is done */
            return DIRECT_STEP;
        } else { /* INT1: hosts that are virtual machines themselves may report the place of the instruction, not the one behind */
            const bool at = peek(c, c->rip) == 0xf1, behind = peek(c, c->rip - 1) == 0xf1;

            if (at != behind)
                d->int1_at = at;
            c->rip -= !d->int1_at;
        }
        return DIRECT_INSN;
    case SIG_SEGV:
    case SIG_BUS:
        if (e->trapno == 4) /* INT 4, which the host's gate lets through: behind it */
            c->rip -= 2;
        if (e->trapno != 14)
            break;
        *lin = e->cr2;
        *err = e->err;
        if (c->rip - VSYSCALL < 4096) { /* the host may report what its own page's calls would do */
            *lin = c->rip;
            *err = PF_FETCH;
        }
        return DIRECT_FAULT;
    default: break;
    }
    return DIRECT_INSN;
}

static void handle(struct direct *d, struct dspace *s, const struct user64_exit *e)
{
    struct x86_cpu *c = &d->v->cpu;
    uint64_t lin;
    uint32_t err;

    if (e->foul) { /* whatever is there for the guest, translated code will find */
        s->banned = true;
        policy_withdraw(d, s);
        return;
    }
    switch (direct_event(d, e, &lin, &err)) {
    case DIRECT_KICKED: return;
    case DIRECT_FAULT: page_fault(d, s, lin, err); return;
    case DIRECT_STEP:
        if (x86_debug_after(c, true) != X86_OK)
            interp_deliver(c);
        return;
    case DIRECT_LOST:
    case DIRECT_INSN: emulate(d); /* which raises what there is to raise, exactly */
    }
}

void direct_prefill(struct direct *d, struct dspace *s)
{
    const uint64_t lin = s->fault;
    struct x86_look l;

    s->fault = NO_PAGE;
    if (lin == NO_PAGE || !x86_walk_look(&d->v->cpu, lin, &l) || !l.accessed || !space_allows(d, s, &l, s->fault_access) || (s->fault_access == X86_WRITE && !l.dirty))
        return;
    const struct dmap_entry *e = dmap_find(&s->map, lin & ~0xfffull);
    if (e && (s->fault_access != X86_WRITE || (e->gpa & DMAP_W)) && (s->fault_access != X86_EXEC || (e->gpa & DMAP_X)))
        return;
    d->st.prefills++;
    space_fill(d, s, lin, s->fault_access);
}

int direct_enter(struct direct *d, struct dspace *s, struct user64_regs *r, struct user64_exit *e, uint64_t *cycles)
{
    /* Announce whom to kick, then look: a request made in between kicks us out at once. */
    atomic_store(&d->running, s->w);
    if (vcpu_requests(d->v)) {
        atomic_store(&d->running, NULL);
        return -1; /* what was queued stays queued */
    }
    if (d->last && d->last != s->w)
        user64_hush(d->last);
    d->last = s->w;
    d->st.entries++;
    const uint64_t t0 = __rdtsc();
    const enum user64_result how = user64_run(s->w, r, e);
    *cycles = __rdtsc() - t0;
    atomic_store(&d->running, NULL);
    d->st.cycles += *cycles;
    return (int)how;
}

void direct_crashed(struct direct *d, struct dspace *s)
{
    d->st.crashed++;
    d->last = NULL;
    user64_free(s->w);
    s->w = NULL;
    d->nworlds--;
    dmap_clear(&s->map);
    policy_withdraw(d, s);
    s->banned = true;
}

bool direct_run(struct direct *d, struct vcpu_exit *exit)
{
    struct x86_cpu *c = &d->v->cpu;
    struct dspace *s = space_of(d);
    struct user64_regs r;
    struct user64_exit e;
    uint64_t t;

    space_sync(d, s);
    if (!s->promoted)
        return true;
    direct_prefill(d, s);
    direct_load(c, &r);
    c->fl_sys &= ~(uint32_t)X86_FL_RF;
    switch (direct_enter(d, s, &r, &e, &t)) {
    case USER64_OK: break;
    case USER64_REFUSED: /* out of mappings or memory, or an address the host will not map: start over, and get past this instruction */
        space_forget(d, s);
        emulate(d);
        return true;
    case USER64_CRASHED: /* only what attacks a world can end it */
        direct_crashed(d, s);
        x86_raise_err(c, X86_GP, 0);
        interp_deliver(c);
        return true;
    case USER64_GONE:
        exit->kind = EXIT_FAIL;
        snprintf(exit->fail.why, sizeof(exit->fail.why), "%s", user64_why(s->w));
        return false;
    default: return true;
    }
    if (!store(c, &r)) {
        interp_deliver(c);
        return true;
    }
    const uint64_t fills = d->st.fills;

    handle(d, s, &e);
    if (e.sig != SIG_KICK)
        policy_exit(d, s, t, d->st.fills != fills);
    return true;
}

void direct_kick(struct direct *d)
{
    struct user64 *w = atomic_load(&d->running);

    if (w)
        user64_kick(w);
}

/* --- set-up ---------------------------------------------------------------------------------------- */

/* What the vCPU is at, in a signal handler on its thread. */
static void sample(struct direct *d, uintptr_t at)
{
    const struct vcpu *v = d->v;

    if (atomic_load_explicit(&d->running, memory_order_relaxed) || atomic_load_explicit(&v->sleeping, memory_order_relaxed))
        return; /* measured exactly */
    if (at - d->code_at < d->code_size)
        d->samples.n[v->cpu.cpl == 3 ? ENGINE_USER : ENGINE_KERNEL]++;
    else
        d->samples.n[d->interprets && atomic_load_explicit(&v->in_guest, memory_order_relaxed) ? ENGINE_INTERPRETED : ENGINE_MONITOR]++;
}

static void tick(void *ctx, uintptr_t at)
{
    struct direct *d = ctx;

    sample(d, at);
    atomic_store(&d->ticked, true);
    atomic_fetch_or(&d->v->requests, VREQ_ENGINE);
}

void direct_judge(struct direct *d)
{
    if (atomic_exchange(&d->ticked, false))
        policy_tick(d, host_thread_cpu_ns());
    /* Armed again only by guest code that runs: a halted processor has no clock to wake it. */
    if (d->alarm)
        host_alarm_set(d->alarm, TICK_NS);
    d->armed = true;
}

struct direct *direct_new(struct interp *it)
{
    struct direct *d = calloc(1, sizeof(*d));
    const struct vm *vm = it->v->vm;
    const uint64_t pages = vm->ram_size >> 12;

    if (!d)
        return NULL;
    d->v = it->v;
    d->host_cpus = host_cpus();
    d->it = it;
    d->code = calloc(pages, 1);
    d->copy = calloc(pages, sizeof(*d->copy));
    d->copies = host_ram_alloc(DIRECT_COPIES << 12, &d->copies_fd);
    d->writes = calloc(pages, 1);
    d->mapped = calloc((pages + 63) / 64, 8);
    for (unsigned i = 0; i < DIRECT_SPACES; i++)
        d->space[i].pgd = d->space[i].fault = NO_PAGE;
    if (!d->code || !d->copy || !d->copies || !d->writes || !d->mapped) {
        direct_free(d);
        return NULL;
    }
    d->off = vm->ram_fd < 0 || vm->engine_cfg.user_code == USER_CODE_TRANSLATED || it->v->paced;
    d->always = !d->off && vm->engine_cfg.user_code == USER_CODE_DIRECT;
    d->promoted = d->always;
    if (!it->v->paced && !(d->alarm = host_alarm_new(tick, d)))
        d->off = true;
    return d;
}

void direct_free(struct direct *d)
{
    if (!d)
        return;
    if (d->alarm)
        host_alarm_free(d->alarm);
    for (unsigned i = 0; i < DIRECT_SPACES; i++) {
        user64_free(d->space[i].w);
        if (d->space[i].map.e)
            dmap_fini(&d->space[i].map);
    }
    if (d->copies)
        host_ram_free(d->copies, DIRECT_COPIES << 12, d->copies_fd);
    free(d->copy);
    free(d->code);
    free(d->writes);
    free(d->mapped);
    free(d);
}
