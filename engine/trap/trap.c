/*
 * Trap-and-emulate: the loop.
 *
 * Guest code of a privilege level runs in a world (sandbox/): kernel code in one, user code in another, so that each has the rights
 * of its level. A fault of the host is either a translation the world does not have yet, or the guest's own fault, or an
 * instruction that trapped; the last is executed once by the interpreter on the canonical state, which also raises every
 * exception exactly, and direct execution goes on. IF, IOPL and CPL are virtual; the hardware runs at CPL 3 with interrupts on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/trap/trap.h"
#include "x86/mmu.h"

#define LOW_PAGES 16u /* hosts let nobody map the first 64 KiB */
#define RUN_MAX 512u  /* pages mapped around a fault in a large page */
#define WRITES_MAX 256u
#define BURST 200u /* instructions interpreted after one that trapped, when replacing (docs/engines.md) */

/* Flags the guest's own code may change at CPL 3 with what it does there. */
#define DIRECT_FLAGS (X86_FL_ARITH | X86_FL_DF)

static struct trap_vm *tvm(const struct vm *vm)
{
    return vm->engine_priv;
}

/* --- which states -------------------------------------------------------------------- */

static bool trap_can_run(const struct vcpu *v)
{
    const struct x86_cpu *c = &v->cpu;

    return x86_pe(c) && !x86_v86(c) && !x86_lma(c) &&
           !(c->cr0 & (X86_CR0_TS | X86_CR0_EM)) &&         /* no host lets user code see #NM */
           !(c->fl_sys & X86_FL_TF) && !c->inhibit_irq && !c->pending_dbg && !(c->dr7 & 0xff) &&
           !((c->fl_sys & X86_FL_AC) && c->cpl == 3 && (c->cr0 & X86_CR0_AM)) && trap_segs_ok(c);
}

/* --- flushes ------------------------------------------------------------------------- */

/* What the architecture flushed since the last look is unmapped. */
static void sync_tlb(struct trap *t)
{
    const struct x86_mmu *m = &t->v->cpu.mmu;
    const uint64_t pages = m->page_flushes - t->seen_page;

    if (m->all_flushes != t->seen_all || pages > 1) {
        for (unsigned i = 0; i < NWORLDS; i++)
            space_flush(&t->space[i], true);
    } else {
        if (m->nonglobal_flushes != t->seen_nonglobal)
            for (unsigned i = 0; i < NWORLDS; i++)
                space_flush(&t->space[i], false);
        if (pages && m->flushed_page >> 32 == 0)
            for (unsigned i = 0; i < NWORLDS; i++)
                space_flush_page(&t->space[i], (uint32_t)(m->flushed_page >> 12));
    }
    t->seen_all = m->all_flushes;
    t->seen_nonglobal = m->nonglobal_flushes;
    t->seen_page = m->page_flushes;
}

/* --- one instruction by the interpreter ------------------------------------------------ */

static unsigned op_at(struct vcpu *v)
{
    struct x86_cpu *c = &v->cpu;
    const uint32_t lin = (uint32_t)(c->seg[X86_CS].base + c->rip);
    uint8_t b[X86_MAX_INSN];
    struct x86_insn in;
    uint64_t gpa;
    unsigned n = 0x1000 - (lin & 0xfff) < sizeof(b) ? 0x1000 - (lin & 0xfff) : sizeof(b);
    const uint8_t *h = x86_walk_peek(c, lin, &gpa) ? gpa_host(c->mmu.map, gpa, n, false) : NULL;
    if (!h)
        return X86_OP_INVALID;
    memcpy(b, h, n);
    return x86_decode(&in, b, n, (enum x86_mode_bits)c->mode, false, x86_feature_bits(c->cpuid)) == X86_DEC_OK ? in.op : X86_OP_INVALID;
}

static void step(struct trap *t, struct vcpu_exit *exit)
{
    engine_interp.step(t->v, exit);
    sync_tlb(t);
}

void trap_step_one(struct trap *t, struct vcpu_exit *exit)
{
    step(t, exit);
}

/* The instruction at CS:EIP trapped. */
static void emulate(struct trap *t, struct vcpu_exit *exit)
{
    t->tv->by_op[op_at(t->v)]++;
    t->tv->n.insns_traps++;
    step(t, exit);
    t->burst = t->tv->burst;
}

static void deliver(struct trap *t)
{
    if (x86_deliver(&t->v->cpu) != X86_OK)
        t->v->cpu.activity = X86_SHUTDOWN;
    sync_tlb(t);
}

/* --- code pages -------------------------------------------------------------------------- */

static void drop_everywhere(struct trap *t, uint64_t gpn, unsigned flags)
{
    for (unsigned i = 0; i < NWORLDS; i++)
        space_drop(&t->space[i], gpn, flags);
}

/* The patched copy of a RAM page, made if need be. */
static struct ppage *code_page(struct trap *t, const struct gpa_range *r, uint64_t gpa)
{
    struct patches *p = &t->tv->patch;
    const uint64_t off = gpa - r->start, page = (r->host_off + off) >> 12;
    struct ppage *g = patches_find(p, page);
    uint32_t *flags = &r->page_flags[off >> 12];

    if (g)
        return g;
    /* Code first, then nobody writes it unseen: the bytes are read after that. */
    uint32_t old = __atomic_fetch_or(flags, GPA_PF_CODE, __ATOMIC_SEQ_CST);
    if (old & ~GPA_PF_CODE) {
        drop_everywhere(t, gpa >> 12, SPACE_W);
        x86_tlb_unwrite(&t->v->cpu, gpa & ~0xfffull);
        __atomic_fetch_and(flags, GPA_PF_CODE, __ATOMIC_SEQ_CST);
    }
    g = patches_add(p, page, gpa >> 12, r->host + off);
    if (!g) { /* full: begin anew */
        for (uint64_t i = 0; i < p->nram; i++)
            if (p->of[i]) {
                uint32_t *f = gpa_page_flags(t->v->vm->mem, p->page[p->of[i] - 1].gpn << 12);
                if (f)
                    __atomic_fetch_and(f, ~GPA_PF_CODE, __ATOMIC_SEQ_CST);
                patches_del(p, i);
            }
        for (unsigned i = 0; i < NWORLDS; i++)
            space_flush(&t->space[i], true);
        __atomic_fetch_or(flags, GPA_PF_CODE, __ATOMIC_SEQ_CST);
        g = patches_add(p, page, gpa >> 12, r->host + off);
    }
    return g;
}

/* A trap byte was met at CS:EIP, or the page there is executed for the first time: look at the code.
 * True: it can run now. */
static bool look(struct trap *t, struct ppage *g)
{
    struct x86_cpu *c = &t->v->cpu;
    const unsigned off = (uint32_t)(c->seg[X86_CS].base + c->rip) & 0xfff;

    host_lock(t->tv->patch.lock);
    const bool ok = patches_scan(&t->tv->patch, g, off, (enum x86_mode_bits)c->mode, x86_feature_bits(c->cpuid));
    host_unlock(t->tv->patch.lock);
    return ok;
}

/* Engine patch, before the first instruction: replace wherever direct control flow leads from the entry. What is reached
 * otherwise is still all trap bytes and looked at before it runs. */
static void prepare(struct trap *t)
{
    enum { TARGETS = 1 << 16 };
    struct vcpu *v = t->v;
    const struct x86_cpu *c = &v->cpu;
    struct patches *p = &t->tv->patch;
    uint32_t *todo = malloc(TARGETS * sizeof(*todo)), n = 0;
    uint32_t *out = malloc(4096 * sizeof(*out));

    t->tv->prepare = false;
    if (todo && out && x86_pe(c) && !(c->cr0 & X86_CR0_PG) && c->mode == X86_MODE_32 && !c->seg[X86_CS].base)
        todo[n++] = (uint32_t)c->rip;
    while (n) {
        const uint32_t at = todo[--n];
        const struct gpa_range *r = gpa_find(v->vm->mem, at);
        struct ppage *g = r && r->kind == GPA_RAM ? code_page(t, r, at & ~0xfffu) : NULL;
        if (!g)
            continue;
        host_lock(p->lock);
        const uint64_t before = p->scanned;
        p->out = out;
        p->out_cap = 4096;
        p->nout = 0;
        p->base = at & ~0xfffu;
        patches_scan(p, g, at & 0xfff, X86_MODE_32, x86_feature_bits(c->cpuid));
        p->out = NULL;
        p->prepared += p->scanned - before;
        host_unlock(p->lock);
        for (uint32_t i = 0; i < p->nout && n < TARGETS; i++)
            todo[n++] = (at & ~0xfffu) + out[i];
    }
    free(todo);
    free(out);
}

static struct ppage *code_page_at(struct trap *t, uint64_t gpn)
{
    const struct gpa_range *r = gpa_find(t->v->vm->mem, gpn << 12);
    return r && r->kind == GPA_RAM ? patches_find(&t->tv->patch, (r->host_off + (gpn << 12) - r->start) >> 12) : NULL;
}

/* --- faults --------------------------------------------------------------------------------- */

/* A page fault of the host at lin. */
static void page_fault(struct trap *t, uint32_t lin, uint32_t err, struct vcpu_exit *exit)
{
    struct vcpu *v = t->v;
    struct x86_cpu *c = &v->cpu;
    const bool user = c->cpl == 3;
    struct space *s = &t->space[user ? WORLD_USER : WORLD_KERNEL];
    const int access = err & 16 ? X86_EXEC : err & 2 ? X86_WRITE : X86_READ;
    const uint32_t page = lin >> 12;
    const uint64_t had = s->map[page];
    struct x86_xlat x;

    if (x86_walk(c, lin, access, user, false, &x) != X86_OK) {
        t->tv->n.faults_guest++;
        deliver(t);
        return;
    }
    const struct gpa_range *r = gpa_find(v->vm->mem, x.gpa);
    if (!r || r->kind != GPA_RAM || page < LOW_PAGES)
        goto interpret;
    const uint64_t gpa = x.gpa & ~0xfffull, roff = gpa - r->start;
    uint32_t *flags = &r->page_flags[roff >> 12];
    unsigned f = (x.global && (c->cr4 & X86_CR4_PGE) ? SPACE_GLOBAL : 0) | (x.page_size > 4096 ? SPACE_LARGE : 0);

    t->tv->n.faults_tlb++;
    if (t->tv->patching && access == X86_EXEC) {
        struct ppage *g = code_page(t, r, gpa);
        if (!g)
            goto interpret;
        if (lin == (uint32_t)(c->seg[X86_CS].base + c->rip))
            look(t, g);
        if (had >> 8 == gpa >> 12 && (had & SPACE_CODE))
            goto interpret;
        space_map(s, page, 1, gpa >> 12, (uint64_t)(g - t->tv->patch.page) << 12, f | SPACE_CODE);
        return;
    }
    if (__atomic_load_n(flags, __ATOMIC_RELAXED) & GPA_PF_CODE) {
        if (access == X86_WRITE) {
            struct ppage *g = code_page_at(t, gpa >> 12);
            t->tv->n.code_writes++;
            if (g && ++g->writes > WRITES_MAX) { /* more data than code: it is taken for data until it is executed again */
                host_lock(t->tv->patch.lock);
                patches_del(&t->tv->patch, (r->host_off + roff) >> 12);
                host_unlock(t->tv->patch.lock);
                drop_everywhere(t, gpa >> 12, SPACE_CODE);
                __atomic_fetch_and(flags, ~GPA_PF_CODE, __ATOMIC_SEQ_CST);
            }
            goto interpret;
        }
        if (had & SPACE_CODE) {
            t->tv->n.code_reads++;
            goto interpret;
        }
    } else if (x.writable) {
        __atomic_fetch_or(flags, GPA_PF_WRITER(v->index), __ATOMIC_SEQ_CST);
        f |= SPACE_W;
    }
    if (!t->tv->patching && (access == X86_EXEC || (had & SPACE_X && had >> 8 == gpa >> 12) || !(c->efer & X86_EFER_NXE)))
        f |= SPACE_X;
    if (had >> 8 == gpa >> 12 && (had & (SPACE_W | SPACE_X | SPACE_GLOBAL | SPACE_LARGE | SPACE_CODE)) == f)
        goto interpret; /* the host has it already: no progress that way */

    /* The rest of a large page comes along as far as it is plain. */
    uint32_t n = 1;
    if (x.page_size > 4096) {
        const uint32_t last = page | ((uint32_t)(x.page_size >> 12) - 1);
        while (n < RUN_MAX && page + n <= last && !s->map[page + n] && roff + ((uint64_t)n << 12) < r->size) {
            uint32_t *pf = &r->page_flags[(roff >> 12) + n];
            if (__atomic_load_n(pf, __ATOMIC_RELAXED) & GPA_PF_CODE)
                break;
            if (f & SPACE_W)
                __atomic_fetch_or(pf, GPA_PF_WRITER(v->index), __ATOMIC_SEQ_CST);
            n++;
        }
    }
    space_map(s, page, n, gpa >> 12, r->host_off + roff, f);
    return;
interpret:
    t->tv->n.interpreted++;
    step(t, exit);
}

bool trap_fill(struct trap *t, const struct world_ctl *k, struct vcpu_exit *exit)
{
    page_fault(t, (uint32_t)k->cr2, k->err, exit);
    return true;
}

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
            emulate(t, exit);
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
            emulate(t, exit);
            return;
        }
        /* A single step that POPF or IRET asked for at CPL 3. */
        if (x86_debug_after(c, true) != X86_OK)
            deliver(t);
        return;
    case WORLD_SIG_SEGV:
    case WORLD_SIG_BUS:
        if (trapno == 14) {
            page_fault(t, (uint32_t)k->cr2, k->err, exit);
            return;
        }
        if (trapno == 4) { /* INTO */
            c->rip = (uint32_t)(c->rip - 1);
            emulate(t, exit);
            return;
        }
        if (trapno == 17 && !(c->fl_sys & X86_FL_AC))
            return; /* the hardware's AC, which the next entry clears */
        break;
    default: break;
    }
    if (t->tv->patching && trapno == 13) {
        const uint32_t lin = (uint32_t)(c->seg[X86_CS].base + c->rip);
        const uint64_t m = t->space[c->cpl == 3].map[lin >> 12];
        struct ppage *g = m & SPACE_CODE ? code_page_at(t, m >> 8) : NULL;
        if (g) {
            const bool seen = g->start[(lin & 0xfff) / 64] >> (lin & 63) & 1;
            if (!seen && look(t, g))
                return;
            if (g->bytes[lin & 0xfff] == 0xf4 && g->ram[lin & 0xfff] != 0xf4)
                t->tv->n.patched++;
            if (t->tv->report && g->bytes[lin & 0xfff] == 0xf4 && g->ram[lin & 0xfff] != 0xf4 && (g->start[(lin & 0xfff) / 64] >> (lin & 63) & 1)) {
                trap_report_one(t, g, lin & 0xfff, exit);
                return;
            }
        }
    }
    emulate(t, exit);
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
    struct space *s = &t->space[which];
    struct world *w = t->world[which];
    struct world_ctl *k = world_ctl(w);

    if (which == WORLD_KERNEL && (c->cr4 & X86_CR4_SMAP)) {
        const bool open = c->fl_sys & X86_FL_AC;
        if (open != t->user_access)
            space_flush(s, true);
        t->user_access = open;
    }
    for (unsigned i = 0; i < 8; i++)
        k->gpr[i] = (uint32_t)c->gpr[i];
    k->eip = (uint32_t)c->rip;
    k->eflags = ((uint32_t)x86_get_rflags(c) & DIRECT_FLAGS) | X86_FL_1 | X86_FL_IF | eflags;
    trap_segs_load(t, s, k);
    memcpy(k->fp, c->fpu.raw, WORLD_FP_SIZE);
    k->load_fp = 1;

    /* Announce whom to kick, then look: a request made in between kicks us out at once. */
    atomic_store(&t->current, w);
    if (vcpu_requests(v) || atomic_load(&t->kicked)) {
        atomic_store(&t->current, NULL);
        /* What was queued stays queued. */
        return 1;
    }
    t->tv->n.runs++;
    const uint64_t t0 = v->vm->timed ? host_now() : 0;
    const int r = world_run(w);
    if (v->vm->timed)
        t->tv->n.direct_ns += host_now() - t0;
    atomic_store(&t->current, NULL);
    if (r < 0) {
        fail(exit, world_why(w));
        return 1;
    }
    if (r > 0) { /* out of mappings or memory, or an address the host will not map: start over, and get past this instruction */
        memset(s->ldt, 0, sizeof(s->ldt));
        space_flush(s, true);
        t->tv->n.interpreted++;
        step(t, exit);
        return 1;
    }
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = k->gpr[i];
    c->rip = k->eip;
    const uint32_t fl = k->eflags;
    /* AC and ID go with POPF at any privilege; where POPF is replaced they cannot have changed. */
    const uint32_t take = DIRECT_FLAGS | (t->tv->patching && !t->tv->report ? 0 : X86_FL_TF | X86_FL_NT);
    x86_set_rflags(c, (x86_get_rflags(c) & ~(uint64_t)take) | (fl & take));
    memcpy(c->fpu.raw, k->fp, 464);
    memcpy(c->fpu.raw + 576, k->fp + 576, 256);
    c->fpu.mxcsr &= 0xffff; /* what the host loads must be loadable, whatever the world says */
    c->fpu.xstate_bv = (c->fpu.xstate_bv & ~7ull) | (((const struct x86_fpu *)(const void *)k->fp)->xstate_bv & 7);
    if (!trap_segs_back(t, k) || k->rip >> 32) {
        x86_raise_err(c, X86_GP, 0x30);
        deliver(t);
        return 1;
    }
    if (c->seg[X86_CS].ar & X86_AR_DB)
        c->mode = X86_MODE_32;
    else
        c->mode = X86_MODE_16;
    return 0;
}

static void direct(struct trap *t, struct vcpu_exit *exit)
{
    const unsigned which = t->v->cpu.cpl == 3 ? WORLD_USER : WORLD_KERNEL;
    if (trap_enter(t, 0, exit) == 0)
        handle(t, world_ctl(t->world[which]), exit);
}

/* --- the loop ------------------------------------------------------------------------------------ */

static bool serve(struct trap *t, struct vcpu_exit *exit)
{
    struct vcpu *v = t->v;

    if (vcpu_requests(v)) {
        const uint32_t own = VREQ_CODE | VREQ_ENGINE;
        if (atomic_fetch_and(&v->requests, ~own) & ~own)
            switch (vcpu_poll(v)) {
            case X86_EXIT: exit->kind = EXIT_KICK; return false;
            case X86_FAULT: v->cpu.activity = X86_SHUTDOWN; break;
            default: break;
            }
        sync_tlb(t);
    }
    if (atomic_exchange(&t->kicked, false)) {
        exit->kind = EXIT_KICK;
        return false;
    }
    switch (v->cpu.activity) {
    case X86_RUNNING: return true;
    case X86_HALTED: exit->kind = EXIT_HLT; return false;
    case X86_SHUTDOWN: exit->kind = EXIT_SHUTDOWN; return false;
    default: exit->kind = EXIT_KICK; return false;
    }
}

static uint64_t sensitive_count(const struct x86_cpu *c)
{
    uint64_t n = 0;
    for (unsigned i = 1; i < 8; i++)
        n += c->pg_count[i];
    return n;
}

static void trap_run(struct vcpu *v, struct vcpu_exit *exit)
{
    struct trap *t = v->engine_priv;

    if (t->tv->prepare)
        prepare(t);
    sync_tlb(t); /* whoever had the state in between may have flushed */
    for (;;) {
        vcpu_irq_rearm(v);
        if (!serve(t, exit))
            return;
        exit->kind = EXIT_KICK;
        if (t->burst) {
            /* Where one instruction trapped the next that would is often near: a few more cost less than a hand-over each. */
            const uint64_t before = sensitive_count(&v->cpu);
            t->burst--;
            t->tv->n.burst++;
            step(t, exit);
            if (sensitive_count(&v->cpu) != before)
                t->burst = t->tv->burst;
        } else if (trap_can_run(v)) {
            direct(t, exit);
            if (exit->kind == EXIT_FAIL)
                return;
        } else {
            t->tv->n.interpreted++;
            step(t, exit);
        }
    }
}

static void trap_step(struct vcpu *v, struct vcpu_exit *exit)
{
    step(v->engine_priv, exit);
}

static void trap_kick(struct vcpu *v)
{
    struct trap *t = __atomic_load_n(&v->engine_priv, __ATOMIC_ACQUIRE);
    struct world *w = t ? atomic_load(&t->current) : NULL;

    /* vcpu_request has set its bit; only code that runs directly needs more. */
    if (w)
        world_kick(w);
}

static void trap_code_inval(struct vm *vm, struct vcpu *writer, uint64_t gpa, uint32_t len)
{
    struct trap_vm *tv = tvm(vm);
    const struct gpa_range *r = gpa_find(vm->ram_map, gpa);

    if (!tv || !tv->patching || !r)
        return;
    host_lock(tv->patch.lock);
    struct ppage *g = patches_find(&tv->patch, (r->host_off + gpa - r->start) >> 12);
    if (g)
        patches_inval(&tv->patch, g, gpa & 0xfff, len);
    host_unlock(tv->patch.lock);
}

static int trap_map_commit(struct vm *vm)
{
    /* VREQ_TLB follows for every vCPU, and with it a flush of everything. */
    return 0;
}

static unsigned trap_stats(const struct vm *vm, struct engine_stat *out, unsigned cap)
{
    const struct trap_vm *tv = tvm(vm);
    if (!tv)
        return 0;
    const struct trap_counts *n = &tv->n;
    const struct engine_stat all[] = {
        {"entries into direct execution", n->runs},
        {"instructions trapped", n->insns_traps},
        {"of these, replaced ones", n->patched},
        {"INT 80 by way of the host's system call", n->syscalls},
        {"INT3, single steps", n->ints},
        {"translations filled", n->faults_tlb},
        {"page faults of the guest", n->faults_guest},
        {"interrupted to be served", n->kicks},
        {"interpreted after a trap", n->burst},
        {"instructions interpreted for other reasons", n->interpreted},
        {"segment registers loaded unseen", n->lost},
        {"loads from patched pages", n->code_reads},
        {"stores to patched pages", n->code_writes},
        {"instructions scanned", tv->patch.scanned},
        {"of these, before the first ran", tv->patch.prepared},
        {"sites replaced", tv->patch.sites},
        {"patched pages invalidated", tv->patch.invals},
        {"nanoseconds of direct execution", n->direct_ns},
    };
    const unsigned have = sizeof(all) / sizeof(all[0]);
    for (unsigned i = 0; i < have && i < cap; i++)
        out[i] = all[i];
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
    tv->burst = tv->patching && !tv->report ? BURST : 0;
    if (tv->report && !(tv->sensitive = calloc(X86_NOP_COUNT, sizeof(*tv->sensitive))))
        return -1;
    if (tv->patching) {
        if (patches_init(&tv->patch, vm->ram_size >> 12) != 0)
            return -1;
        if (!world_has_execute_only()) {
            vm_log(vm, "engine %s: replacing instructions needs execute-only pages, which this CPU (no protection keys) cannot give", vm->engine->name);
            return -1;
        }
    }
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
    __atomic_store_n(&v->engine_priv, NULL, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < NWORLDS; i++) {
        space_fini(&t->space[i]);
        world_free(t->world[i]);
    }
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
    t->seen_all = v->cpu.mmu.all_flushes;
    t->seen_nonglobal = v->cpu.mmu.nonglobal_flushes;
    t->seen_page = v->cpu.mmu.page_flushes;
    v->engine_priv = t;
    for (unsigned i = 0; i < NWORLDS; i++) {
        t->world[i] = world_new(v->vm->ram_fd, t->tv->patching ? t->tv->patch.fd : v->vm->ram_fd, why, sizeof(why));
        if (!t->world[i] || space_init(&t->space[i], t->world[i]) != 0) {
            vm_log(v->vm, "engine %s: %s", v->engine->name, why);
            trap_vcpu_fini(v);
            return -1;
        }
    }
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
        switch (world_run(w)) {
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

static int patch_probe(const struct engine_config *cfg, char *reason, size_t cap)
{
    if (!world_has_execute_only()) {
        snprintf(reason, cap, "replacing instructions needs execute-only pages, which this CPU (no protection keys) cannot give");
        return -1;
    }
    return trap_probe(cfg, reason, cap);
}

#define OPS                                                                                                                              \
    .caps = ENGINE_CAP_STEP, .rank = 0, .vm_init = trap_vm_init, .vm_start = trap_vm_start, .vm_fini = trap_vm_fini, .vcpu_init = trap_vcpu_init,                   \
    .vcpu_fini = trap_vcpu_fini, .can_run = trap_can_run, .run = trap_run, .step = trap_step, .kick = trap_kick,                         \
    .map_commit = trap_map_commit, .code_inval = trap_code_inval, .stats = trap_stats

const struct engine_ops engine_trap = {
    .name = "trap",
    .summary = "trap-and-emulate: 32-bit guests run directly at CPL 3; wrong where sensitive instructions do not trap",
    .probe = trap_probe,
    OPS,
};

const struct engine_ops engine_patch = {
    .name = "patch",
    .summary = "trap-and-emulate with sensitive instructions replaced before they run",
    .probe = patch_probe,
    OPS,
};
