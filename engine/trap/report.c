/*
 * --report-sensitive: what each unprivileged sensitive instruction did, measured.
 *
 * Code pages are looked at as for patching, so that every execution of such an instruction stops before it. There the interpreter
 * executes it, which gives the result of a processor of the guest's own; that is undone, the original byte put back, and the
 * instruction executed by the host's processor in the world with the trap flag set. Its result is compared and stands: the
 * guest goes wrong exactly as it would unwatched.
 *
 * 64-bit code has no second view of its pages, so there the interpreter goes from one such instruction to the next (what is innocuous is the same
 * for both), and the page shows a copy while the processor executes it.
 */
#include <stdio.h>
#include <string.h>

#include "engine/trap/trap.h"
#include "x86/mmu.h"
#include "x86/seg.h"

#define WATCH 64

struct watch { /* a few bytes of guest memory the instruction may write */
    uint64_t lin;
    unsigned n;
    uint8_t bytes[WATCH];
};

struct saved {
    uint64_t gpr[16], rip;
    uint32_t fl_sys;
    uint16_t cc;
    struct x86_seg seg[X86_NSEG], ldtr, tr;
    uint8_t cpl, mode, inhibit, activity;
    bool nmi_blocked;
    struct watch mem[2];
};

static uint8_t *byte_at(const struct trap *t, uint64_t lin)
{
    const struct x86_cpu *c = &t->v->cpu;
    uint64_t gpa;
    return x86_walk_peek(c, lin, &gpa) ? gpa_host(c->mmu.map, gpa, 1, true) : NULL;
}

/* As far as addresses reach in this mode. */
static uint64_t here(const struct trap *t, uint64_t lin) { return t->v->cpu.mode == X86_MODE_64 ? lin : (uint32_t)lin; }

static void peek(const struct trap *t, struct watch *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        const uint8_t *p = byte_at(t, here(t, w->lin + i));
        w->bytes[i] = p ? *p : 0;
    }
}

static void put_back(const struct trap *t, const struct watch *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        uint8_t *p = byte_at(t, here(t, w->lin + i));
        if (p && *p != w->bytes[i])
            *p = w->bytes[i];
    }
}

static void save(const struct trap *t, struct saved *s)
{
    const struct x86_cpu *c = &t->v->cpu;
    memcpy(s->gpr, c->gpr, sizeof(s->gpr));
    memcpy(s->seg, c->seg, sizeof(s->seg));
    s->rip = c->rip;
    s->fl_sys = c->fl_sys;
    s->cc = c->cc;
    s->ldtr = c->ldtr;
    s->tr = c->tr;
    s->cpl = c->cpl;
    s->mode = c->mode;
    s->inhibit = c->inhibit_irq;
    s->activity = c->activity;
    s->nmi_blocked = c->nmi_blocked;
    for (unsigned i = 0; i < 2; i++)
        peek(t, &s->mem[i]);
}

static void restore(struct trap *t, const struct saved *s)
{
    struct x86_cpu *c = &t->v->cpu;
    for (unsigned i = 0; i < 2; i++)
        put_back(t, &s->mem[i]);
    memcpy(c->gpr, s->gpr, sizeof(s->gpr));
    memcpy(c->seg, s->seg, sizeof(s->seg));
    c->rip = s->rip;
    c->fl_sys = s->fl_sys;
    c->cc = s->cc;
    c->ldtr = s->ldtr;
    c->tr = s->tr;
    c->cpl = s->cpl;
    c->mode = s->mode;
    c->inhibit_irq = s->inhibit;
    c->activity = s->activity;
    c->nmi_blocked = s->nmi_blocked;
    x86_mmu_update_ctx(c);
}

/* How two results differ; the empty string if they do not. */
static void compare(const struct saved *right, const struct saved *bare, char *text, size_t cap)
{
    static const char gpr[16][4] = {"AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", "8", "9", "10", "11", "12", "13", "14", "15"};
    static const char *const seg[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
    const char wide = bare->mode == X86_MODE_64 ? 'R' : 'E';
    const uint64_t mask = wide == 'R' ? UINT64_MAX : UINT32_MAX;

    *text = 0;
    for (unsigned i = 0; i < 16; i++)
        if ((right->gpr[i] ^ bare->gpr[i]) & mask) {
            snprintf(text, cap, "%c%s %08llx, right is %08llx", wide, gpr[i], (unsigned long long)(bare->gpr[i] & mask), (unsigned long long)(right->gpr[i] & mask));
            return;
        }
    if (right->rip != bare->rip) {
        snprintf(text, cap, "%cIP %08llx, right is %08llx", wide, (unsigned long long)bare->rip, (unsigned long long)right->rip);
        return;
    }
    const uint32_t rf = (right->fl_sys & ~X86_FL_RF) | right->cc >> 8 | (right->cc & 1) << 11, bf = (bare->fl_sys & ~X86_FL_RF) | bare->cc >> 8 | (bare->cc & 1) << 11;
    if (rf != bf) {
        snprintf(text, cap, "%cFLAGS %08x, right is %08x", wide, bf, rf);
        return;
    }
    for (unsigned i = 0; i < X86_NSEG; i++) {
        if (x86_sel_null(right->seg[i].sel) && x86_sel_null(bare->seg[i].sel) && (wide == 'E' || i < X86_FS || right->seg[i].base == bare->seg[i].base))
            continue;
        if (right->seg[i].sel != bare->seg[i].sel || right->seg[i].base != bare->seg[i].base || right->seg[i].limit != bare->seg[i].limit) {
            snprintf(text, cap, "%s %04x base %08x, right is %04x base %08x", seg[i], bare->seg[i].sel, (uint32_t)bare->seg[i].base, right->seg[i].sel,
                     (uint32_t)right->seg[i].base);
            return;
        }
    }
    for (unsigned m = 0; m < 2; m++)
        for (unsigned i = 0; i < right->mem[m].n; i++)
            if (right->mem[m].bytes[i] != bare->mem[m].bytes[i]) {
                snprintf(text, cap, "stored %02x at %08llx, right is %02x", bare->mem[m].bytes[i], (unsigned long long)right->mem[m].lin + i, right->mem[m].bytes[i]);
                return;
            }
}

/*
 * The interpreter's result of in, which comes next: into right; then all is as before again. It and the processor's are compared below the stack
 * pointer and where in stores.
 */
static void run_right(struct trap *t, const struct x86_insn *in, struct saved *before, struct saved *right, struct saved *bare, struct vcpu_exit *exit)
{
    const struct x86_cpu *c = &t->v->cpu;
    const bool wide = c->mode == X86_MODE_64; /* most segments have no base; SGDT and SIDT store 10 bytes */
    const uint64_t mask = wide ? UINT64_MAX : UINT32_MAX;

    memset(before, 0, sizeof(*before));
    before->mem[0] = (struct watch){.lin = ((wide ? 0 : c->seg[X86_SS].base) + c->gpr[X86_RSP] - WATCH) & mask, .n = WATCH};
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == X86_OPND_MEM && (in->opnd[i].access & X86_ACC_W))
            before->mem[1] = (struct watch){.lin = ((wide && in->mem.seg < X86_FS ? 0 : c->seg[in->mem.seg].base) + x86_ea(c, in)) & mask, .n = wide ? 10 : 8};
    memcpy(right->mem, before->mem, sizeof(right->mem));
    memcpy(bare->mem, before->mem, sizeof(bare->mem));
    save(t, before);
    trap_step_one(t, exit);
    save(t, right);
    restore(t, before);
}

/* The processor has executed it: was that right? */
static void judge(const struct trap *t, struct sensitive *k, uint64_t rip, const struct saved *right, struct saved *bare)
{
    char text[sizeof(k->first)];

    save(t, bare);
    compare(right, bare, text, sizeof(text));
    if (*text && !k->wrong++) {
        k->first_rip = rip;
        memcpy(k->first, text, sizeof(text));
    }
}

void trap_report_one(struct trap *t, struct ppage *g, unsigned off, struct vcpu_exit *exit)
{
    struct x86_cpu *c = &t->v->cpu;
    struct saved before, right, bare;
    struct x86_insn in;
    const unsigned avail = 4096 - off < X86_MAX_INSN ? 4096 - off : X86_MAX_INSN;

    if (x86_decode(&in, g->ram + off, avail, (enum x86_mode_bits)c->mode, false, x86_feature_bits(c->cpuid)) != X86_DEC_OK || !trap_is_offender(&in)) {
        trap_step_one(t, exit);
        return;
    }
    struct sensitive *s = &t->tv->sensitive[in.op];
    s->runs++;
    /* It ends at a trap byte behind it, where nothing but that can follow; else by the trap flag. (The flag strikes an instruction
     * late behind loads of SS and where the host's kernel emulates, and shows in what PUSHF stores.) */
    const unsigned next = off + in.len;
    const bool fence = !(x86_isa[in.row].attr & X86_ATTR_BRANCH) && next < 4096;
    if (!fence && !(x86_isa[in.row].attr & X86_ATTR_BRANCH)) {
        s->unmeasured++;
        trap_step_one(t, exit);
        return;
    }
    run_right(t, &in, &before, &right, &bare, exit);

    const struct world_ctl *k = world_ctl(trap_space(t)->w);
    const uint8_t behind = fence ? g->bytes[next] : 0;
    g->bytes[off] = g->ram[off];
    if (fence)
        g->bytes[next] = 0xf4;
    const uint32_t tf = fence || in.op == X86_OP_INT1 ? 0 : X86_FL_TF; /* INT1 traps in the same way by itself */
    const int r = trap_enter(t, tf, exit);
    g->bytes[off] = 0xf4;
    if (fence)
        g->bytes[next] = behind;
    if (r != 0) { /* not entered, or over: it comes here again */
        s->runs--;
        return;
    }
    const bool done = fence ? k->trapno == 13 && c->rip == (uint32_t)(before.rip + in.len) : tf && k->sig == WORLD_SIG_TRAP && k->trapno == 1;
    if (!done) {
        restore(t, &before);
        const bool fault = k->trapno == 14;
        if (fault)
            trap_page_fault(t, (uint32_t)k->cr2, k->err, exit);
        if (k->sig == WORLD_SIG_KICK || fault) {
            s->runs--; /* it comes here again */
            return;
        }
        s->trapped++;
        trap_step_one(t, exit);
        return;
    }
    if (!fence)
        c->fl_sys &= ~(uint32_t)X86_FL_TF;
    judge(t, s, before.rip, &right, &bare);
}

void trap_report_long(struct trap *t, struct dspace *s, struct vcpu_exit *exit)
{
    struct x86_cpu *c = &t->v->cpu;
    struct saved before, right, bare;
    struct user64_regs r;
    struct user64_exit e;
    struct x86_insn in;
    uint64_t gpa, lin;
    uint32_t err;

    const uint64_t page = c->rip & ~0xfffull;
    const unsigned off = c->rip & 0xfff;
    const uint8_t *code = x86_walk_peek(c, page, &gpa) ? gpa_host(c->mmu.map, gpa, 4096, false) : NULL;
    const bool known = code && trap_insn_at(t->v, &in);

    if (!known || !trap_is_offender(&in)) {
        if (known && x86_isa[in.row].pg)
            trap_emulate(t, exit);
        else
            trap_step_one(t, exit);
        return;
    }
    struct sensitive *k = &t->tv->sensitive[in.op];
    k->runs++;
    const unsigned next = off + in.len;
    const bool fence = !(x86_isa[in.row].attr & X86_ATTR_BRANCH);
    struct x86_xlat x;
    if ((fence && next >= 4096) || !s || page < USER64_LOW || user64_collides(s->w, page, 4096)) {
        k->unmeasured++;
        trap_step_one(t, exit);
        return;
    }
    if (x86_walk(c, c->rip, X86_EXEC, !s->super, false, &x) != X86_OK) {
        k->runs--;
        trap_deliver(t);
        return;
    }
    run_right(t, &in, &before, &right, &bare, exit);

    memcpy(t->d->copies, code, 4096);
    if (fence)
        t->d->copies[next] = 0xf4;
    const uint32_t tf = fence || in.op == X86_OP_INT1 ? 0 : X86_FL_TF;
    if (!trap_long_enter(t, s, tf, page, &r, &e, exit)) {
        k->runs--;
        return;
    }
    const bool done = fence ? e.sig == WORLD_SIG_SEGV && e.trapno == 13 && c->rip == before.rip + in.len : tf && e.sig == WORLD_SIG_TRAP && e.trapno == 1;
    if (!done) {
        const enum direct_event what = direct_event(t->d, &e, &lin, &err);

        restore(t, &before);
        if (what == DIRECT_KICKED) {
            k->runs--;
        } else if (what == DIRECT_FAULT && lin - page >= 4096) {
            k->runs--;
            trap_long_page_fault(t, s, lin, err, exit);
        } else if (what == DIRECT_FAULT) { /* it writes where it is, which the copy does not show */
            k->unmeasured++;
            trap_step_one(t, exit);
        } else {
            k->trapped++;
            trap_emulate(t, exit);
        }
        return;
    }
    if (!fence)
        c->fl_sys &= ~(uint32_t)X86_FL_TF;
    /* A null selector is the one that cannot be told from those the world was entered with. */
    const uint16_t sel[X86_NSEG] = {[X86_DS] = r.ds, [X86_ES] = r.es, [X86_FS] = r.fs, [X86_GS] = r.gs};
    for (unsigned i = 0; i < X86_NSEG; i++)
        if (i != X86_CS && i != X86_SS && x86_sel_null(sel[i]) && x86_sel_null(right.seg[i].sel) && !x86_sel_null(before.seg[i].sel))
            c->seg[i].sel = sel[i];
    judge(t, k, before.rip, &right, &bare);
}

void trap_report_print(struct vm *vm, const struct trap_vm *tv)
{
    vm_log(vm, "sensitive instructions that do not trap by definition: executed, wrong, trapped here all the same");
    for (unsigned op = 0; op < X86_NOP_COUNT; op++) {
        const struct sensitive *s = &tv->sensitive[op];
        if (!s->runs)
            continue;
        char more[200] = "";
        if (s->wrong)
            snprintf(more, sizeof(more), "; first at %08llx: %s", (unsigned long long)s->first_rip, s->first);
        else if (s->unmeasured)
            snprintf(more, sizeof(more), "; %llu interpreted", (unsigned long long)s->unmeasured);
        vm_log(vm, "  %-10s %10llu %10llu %10llu%s", x86_op_name(op), (unsigned long long)s->runs, (unsigned long long)s->wrong,
               (unsigned long long)s->trapped, more);
    }
}
