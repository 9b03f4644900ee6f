/*
 * --report-sensitive: what each unprivileged sensitive instruction did, measured.
 *
 * Code pages are looked at as for patching, so that every execution of such an instruction stops before it. There the interpreter
 * executes it, which gives the result of a processor of the guest's own; that is undone, the original byte put back, and the
 * instruction executed by the host's processor in the world with the trap flag set. Its result is compared and stands: the
 * guest goes wrong exactly as it would unwatched.
 */
#include <stdio.h>
#include <string.h>

#include "engine/trap/trap.h"
#include "x86/mmu.h"

#define WATCH 32

struct watch { /* a few bytes of guest memory the instruction may write */
    uint32_t lin;
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

static uint8_t *byte_at(const struct trap *t, uint32_t lin)
{
    const struct x86_cpu *c = &t->v->cpu;
    uint64_t gpa;
    return x86_walk_peek(c, lin, &gpa) ? gpa_host(c->mmu.map, gpa, 1, true) : NULL;
}

static void peek(const struct trap *t, struct watch *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        const uint8_t *p = byte_at(t, w->lin + i);
        w->bytes[i] = p ? *p : 0;
    }
}

static void put_back(const struct trap *t, const struct watch *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        uint8_t *p = byte_at(t, w->lin + i);
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
    static const char *const gpr[] = {"EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"}, *const seg[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
    *text = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((uint32_t)right->gpr[i] != (uint32_t)bare->gpr[i]) {
            snprintf(text, cap, "%s %08x, right is %08x", gpr[i], (uint32_t)bare->gpr[i], (uint32_t)right->gpr[i]);
            return;
        }
    if (right->rip != bare->rip) {
        snprintf(text, cap, "EIP %08x, right is %08x", (uint32_t)bare->rip, (uint32_t)right->rip);
        return;
    }
    const uint32_t rf = (right->fl_sys & ~X86_FL_RF) | right->cc >> 8 | (right->cc & 1) << 11, bf = (bare->fl_sys & ~X86_FL_RF) | bare->cc >> 8 | (bare->cc & 1) << 11;
    if (rf != bf) {
        snprintf(text, cap, "EFLAGS %08x, right is %08x", bf, rf);
        return;
    }
    for (unsigned i = 0; i < X86_NSEG; i++)
        if (right->seg[i].sel != bare->seg[i].sel || right->seg[i].base != bare->seg[i].base || right->seg[i].limit != bare->seg[i].limit) {
            snprintf(text, cap, "%s %04x base %08x, right is %04x base %08x", seg[i], bare->seg[i].sel, (uint32_t)bare->seg[i].base, right->seg[i].sel,
                     (uint32_t)right->seg[i].base);
            return;
        }
    for (unsigned m = 0; m < 2; m++)
        for (unsigned i = 0; i < right->mem[m].n; i++)
            if (right->mem[m].bytes[i] != bare->mem[m].bytes[i]) {
                snprintf(text, cap, "stored %02x at %08x, right is %02x", bare->mem[m].bytes[i], right->mem[m].lin + i, right->mem[m].bytes[i]);
                return;
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
    memset(&before, 0, sizeof(before));
    before.mem[0] = (struct watch){.lin = (uint32_t)(c->seg[X86_SS].base + c->gpr[X86_RSP] - WATCH), .n = WATCH};
    for (unsigned i = 0; i < in.nopnd; i++)
        if (in.opnd[i].kind == X86_OPND_MEM && (in.opnd[i].access & X86_ACC_W))
            before.mem[1] = (struct watch){.lin = (uint32_t)(c->seg[in.mem.seg].base + x86_ea(c, &in)), .n = 8};
    right.mem[0] = bare.mem[0] = before.mem[0];
    right.mem[1] = bare.mem[1] = before.mem[1];

    save(t, &before);
    trap_step_one(t, exit);
    save(t, &right);
    restore(t, &before);

    const struct world_ctl *k = world_ctl(t->world[c->cpl == 3 ? WORLD_USER : WORLD_KERNEL]);
    const uint8_t behind = fence ? g->bytes[next] : 0;
    g->bytes[off] = g->ram[off];
    if (fence)
        g->bytes[next] = 0xf4;
    const int r = trap_enter(t, fence ? 0 : X86_FL_TF, exit);
    g->bytes[off] = 0xf4;
    if (fence)
        g->bytes[next] = behind;
    if (r != 0) { /* not entered, or over: it comes here again */
        s->runs--;
        return;
    }
    const bool done = fence ? k->trapno == 13 && c->rip == (uint32_t)(before.rip + in.len) : k->sig == WORLD_SIG_TRAP && k->trapno == 1;
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
    save(t, &bare);
    char text[sizeof(s->first)];
    compare(&right, &bare, text, sizeof(text));
    if (*text && !s->wrong++) {
        s->first_eip = (uint32_t)before.rip;
        memcpy(s->first, text, sizeof(text));
    }
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
            snprintf(more, sizeof(more), "; first at %08x: %s", s->first_eip, s->first);
        else if (s->unmeasured)
            snprintf(more, sizeof(more), "; %llu interpreted", (unsigned long long)s->unmeasured);
        vm_log(vm, "  %-10s %10llu %10llu %10llu%s", x86_op_name(op), (unsigned long long)s->runs, (unsigned long long)s->wrong,
               (unsigned long long)s->trapped, more);
    }
}
