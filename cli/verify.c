/*
 * `ringer run --verify`: the machine twice (core/lockstep.h), one under the engine in question, one under the interpreter, and where they
 * first differ. Everything that enters the machines is the same each time: time and random numbers by computation, input by a
 * log, disks from the image with writes kept in memory. So a difference is searched by running again from the start: first for the slice in which it appears, then
 * for the block.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "board/pc.h"
#include "cli/cli.h"
#include "core/blockdev.h"
#include "core/clock.h"
#include "core/lockstep.h"
#include "lab/disasm.h"
#include "x86/mmu.h"

#define MEMORY_EVERY 512u /* slices between comparisons of memory */
#define INPUT_EVERY 64u   /* slices between looks at the input */
#define TRACE_MAX 128u

struct input {
    uint64_t slice;
    uint8_t byte;
};

struct verify {
    const struct run_options *o;
    const struct engine_ops *engine;
    const struct pc_config *cfg;
    bool replay; /* output was shown, input comes from the log */
    bool ctrl_d, eof, mid_line;
    struct input *log;
    size_t nlog, cap, at;

    struct side {
        struct vm *vm;
        struct pc *pc;
        struct clock_counter time;
        uint64_t random, written, hash;
        bool show;
        struct chardev out; /* the user's debug console; write == NULL: none */
        struct blockdev disk[MAX_DISKS];
    } side[2];
    struct lockstep ls;

    /* Of the block looked into: the reference before each of its instructions. */
    struct step {
        struct x86_cpu cpu; /* without what is behind the registers */
        uint8_t code[X86_MAX_INSN], n;
    } *step;
    unsigned nstep;
};
#define STEP_SIZE offsetof(struct x86_cpu, fpu)

/* --- what surrounds the machines -------------------------------------------------- */

static void note(struct side *s, const uint8_t *buf, size_t n)
{
    for (size_t i = 0; i < n; i++)
        s->hash = (s->hash ^ buf[i]) * 0x100000001b3ull;
    s->written += n;
}

static size_t debug_write(void *ctx, const uint8_t *buf, size_t n)
{
    struct side *s = ctx;
    note(s, buf, n);
    return s->show && s->out.write ? s->out.write(s->out.ctx, buf, n) : n;
}

static size_t console_write(void *ctx, const uint8_t *buf, size_t n)
{
    struct side *s = ctx;
    note(s, buf, n);
    for (size_t done = 0; s->show && done < n;) {
        const ssize_t w = write(1, buf + done, n - done);
        if (w <= 0)
            break;
        done += (size_t)w;
    }
    return n;
}

static void console_accept(void *ctx) { (void)ctx; }

static int fill(void *ctx, void *buf, size_t n)
{
    struct side *s = ctx;
    for (size_t i = 0; i < n; i++) {
        s->random = s->random * 6364136223846793005ull + 1442695040888963407ull;
        ((uint8_t *)buf)[i] = (uint8_t)(s->random >> 56);
    }
    return 0;
}

static void quiet(void *ctx, const char *line) { (void)ctx, (void)line; }

static void unmake(struct verify *v)
{
    lockstep_fini(&v->ls);
    for (unsigned i = 0; i < 2; i++) {
        struct side *s = &v->side[i];
        if (s->vm && s->vm->clock)
            clock_stop(s->vm->clock);
        if (s->pc)
            pc_free(s->pc);
        vm_free(s->vm);
        for (unsigned k = 0; k < v->cfg->ndisk; k++)
            blockdev_overlay_free(&s->disk[k]);
    }
    memset(v->side, 0, sizeof(v->side));
    memset(&v->ls, 0, sizeof(v->ls));
}

static int make(struct verify *v, bool *usage, char *err, size_t cap)
{
    for (unsigned i = 0; i < 2; i++) {
        struct side *s = &v->side[i];
        *s = (struct side){.time = {.insns_per_us = 1000}, .random = 1, .show = i == LS_SUBJECT && !v->replay};
        const struct vm_config vc = {.ram_size = v->o->memory, .ncpu = 1, .engine = i == LS_SUBJECT ? v->engine : &engine_interp,
                                     .engine_cfg = v->o->engine_cfg, .no_reboot = v->o->no_reboot, .counter = &s->time};
        struct pc_config pc = *v->cfg;
        s->vm = vm_new(&vc, err, cap);
        if (!s->vm)
            return -1;
        s->vm->random = fill;
        s->vm->random_ctx = s;
        if (!s->show)
            s->vm->log = quiet;
        const struct chardev con = {.ctx = s, .write = console_write, .accept = console_accept};
        if (v->o->console == CONSOLE_SERIAL)
            pc.serial = con;
        s->out = v->cfg->debugcon;
        pc.debugcon = s->out.write ? (struct chardev){.ctx = s, .write = debug_write, .accept = console_accept} : con;
        for (unsigned k = 0; k < pc.ndisk; k++) {
            if (blockdev_overlay_new(&s->disk[k], pc.disk[k], v->o->disk[k].readonly) != 0) {
                snprintf(err, cap, "out of memory");
                return -1;
            }
            pc.disk[k] = &s->disk[k];
        }
        pc.entropy = (struct entropy){.ctx = s, .fill = fill};
        s->pc = pc_new(s->vm, &pc, usage, err, cap);
        if (!s->pc)
            return -1;
    }
    v->ls.memory_every = MEMORY_EVERY;
    v->at = 0;
    return lockstep_init(&v->ls, v->side[0].vm, v->side[1].vm, err, cap);
}

static bool room(struct verify *v)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct chardev_sink s = pc_serial_sink(v->side[i].pc);
        if (!s.room(s.ctx))
            return false;
    }
    return true;
}

static void give(struct verify *v, uint8_t c)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct chardev_sink s = pc_serial_sink(v->side[i].pc);
        host_lock(v->side[i].vm->device_lock);
        s.input(s.ctx, &c, 1);
        host_unlock(v->side[i].vm->device_lock);
    }
}

/* Input for the coming slice: new and logged, or from the log. wait: nothing else will happen. False: nor will any come. */
static bool input(struct verify *v, bool wait)
{
    struct pollfd p = {.fd = 0, .events = POLLIN};
    uint8_t c;

    if (v->o->console != CONSOLE_SERIAL)
        return !wait;
    if (v->replay) {
        for (; v->at < v->nlog && v->log[v->at].slice == v->ls.slices; v->at++)
            give(v, v->log[v->at].byte);
        return true;
    }
    while (room(v) && !v->eof && poll(&p, 1, wait ? -1 : 0) > 0) {
        if (read(0, &c, 1) != 1) {
            v->eof = true;
            if (!v->ctrl_d)
                break;
            if (v->mid_line)
                c = 4, v->mid_line = false, v->eof = false; /* again: the file's end is still there */
            else
                c = 4;
        } else {
            v->mid_line = c != '\n';
        }
        if (v->nlog == v->cap) {
            struct input *more = realloc(v->log, (v->cap ? 2 * v->cap : 4096) * sizeof(*more));
            if (!more)
                break;
            v->log = more;
            v->cap = v->cap ? 2 * v->cap : 4096;
        }
        v->log[v->nlog++] = (struct input){v->ls.slices, c};
        give(v, c);
        wait = false;
    }
    return !(wait && v->eof);
}

/* --- running ---------------------------------------------------------------------- */

/* Until something else than LS_SAME, the limit of instructions, or so many slices are done. */
static enum lockstep_result run(struct verify *v, uint64_t slices)
{
    bool idle = false;
    while (v->ls.slices < slices) {
        if ((v->ls.slices % INPUT_EVERY == 0 || idle) && !input(v, idle))
            return LS_IDLE;
        idle = false;
        const enum lockstep_result r = lockstep_slice(&v->ls, 0);
        if (r == LS_IDLE) {
            idle = true;
            continue;
        }
        if (r != LS_SAME)
            return r;
        if (v->side[0].hash != v->side[1].hash || v->side[0].written != v->side[1].written) {
            struct lockstep_diff *d = &v->ls.diff;
            *d = (struct lockstep_diff){.n = 1, .item = {{.name = "console output, bytes", .val = {v->side[0].written, v->side[1].written}}}};
            return LS_DIFFER;
        }
        if (v->o->verify_insns && lockstep_insns(&v->ls) >= v->o->verify_insns)
            return lockstep_memory(&v->ls) ? LS_ENDED : LS_DIFFER;
    }
    return LS_SAME;
}

static void on_step(void *ctx, struct vcpu *vcpu)
{
    struct verify *v = ctx;
    if (v->nstep == TRACE_MAX)
        return;
    struct step *s = &v->step[v->nstep++];
    const struct x86_cpu *c = &vcpu->cpu;
    const uint64_t lin = c->mode == X86_MODE_64 ? c->rip : (uint32_t)(c->rip + c->seg[X86_CS].base);
    uint64_t gpa;
    memcpy(&s->cpu, c, STEP_SIZE);
    for (s->n = 0; s->n < X86_MAX_INSN; s->n++) {
        const uint8_t *p;
        if (!x86_walk_peek(c, lin + s->n, &gpa) || !(p = gpa_host(c->mmu.map, gpa, 1, false)))
            break;
        s->code[s->n] = *p;
    }
}

/* --- telling ------------------------------------------------------------------------ */

static void show_step(const struct step *s, const char *mark)
{
    const uint8_t mode = s->cpu.mode <= X86_MODE_64 ? s->cpu.mode : X86_MODE_64;
    char text[160] = "(not mapped)", hex[2 * X86_MAX_INSN + 1] = "";
    unsigned n = s->n, len = n ? disasm_text(mode, s->code, n, s->cpu.rip, text, sizeof(text)) : 0;

    if (len)
        n = len;
    else if (n)
        strcpy(text, "(bad)");
    for (unsigned i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", s->code[i]);
    fprintf(stderr, "  %04x:%016" PRIx64 "  %-20s %-40s%s\n", s->cpu.seg[X86_CS].sel, s->cpu.rip, hex, text, mark);
}

static void show_state(const char *who, const struct x86_cpu *c)
{
    static const char *const gpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
    fprintf(stderr, "%s:\n", who);
    for (unsigned i = 0; i < 16; i++)
        fprintf(stderr, "%s%s %016" PRIx64 "%s", i % 4 ? "  " : "  ", gpr[i], c->gpr[i], i % 4 == 3 ? "\n" : "");
    fprintf(stderr, "  rip %016" PRIx64 "  rflags %08" PRIx64 "  cpl %u  cr0 %" PRIx64 "  cr2 %" PRIx64 "  cr3 %" PRIx64 "  cr4 %" PRIx64 "  efer %" PRIx64 "\n",
            c->rip, x86_get_rflags(c), c->cpl, c->cr0, c->cr2, c->cr3, c->cr4, c->efer);
    fprintf(stderr, "  cs %04x ss %04x ds %04x es %04x fs %04x %" PRIx64 " gs %04x %" PRIx64 "  mxcsr %x\n", c->seg[X86_CS].sel, c->seg[X86_SS].sel,
            c->seg[X86_DS].sel, c->seg[X86_ES].sel, c->seg[X86_FS].sel, c->seg[X86_FS].base, c->seg[X86_GS].sel, c->seg[X86_GS].base, c->fpu.mxcsr);
}

/* The instruction of the block that last changed what differs: the likely culprit. For memory, the last one that stores is not known. */
static unsigned culprit(const struct verify *v)
{
    const struct x86_cpu *end = &v->side[LS_REFERENCE].vm->cpu[0]->cpu, *bad = &v->side[LS_SUBJECT].vm->cpu[0]->cpu;
    unsigned best = TRACE_MAX;
    for (unsigned r = 0; r < 17; r++) {
        if (r < 16 ? bad->gpr[r] == end->gpr[r] : bad->cc == end->cc)
            continue;
        for (unsigned i = v->nstep; i-- > 0;) {
            const struct x86_cpu *a = &v->step[i].cpu, *b = i + 1 < v->nstep ? &v->step[i + 1].cpu : end;
            if (r < 16 ? a->gpr[r] != b->gpr[r] : a->cc != b->cc) {
                if (i < best)
                    best = i;
                break;
            }
        }
    }
    return best;
}

static void tell(struct verify *v, bool found)
{
    const struct lockstep_diff *d = &v->ls.diff;
    const uint64_t insns = lockstep_insns(&v->ls);
    const unsigned at = found ? culprit(v) : TRACE_MAX;

    fflush(stdout);
    fprintf(stderr, "\nringer: verify: engine %s and the interpreter differ after %" PRIu64 " instructions%s\n", v->engine->name, insns,
            found ? ", in this block" : ", and do not when looked at block by block");
    for (unsigned i = 0; found && i < v->nstep; i++)
        show_step(&v->step[i], i == at ? " <- what differs was last changed here" : "");
    fprintf(stderr, "%-24s %18s %18s %18s\n", "", v->engine->name, "interpreter", "before the block");
    for (unsigned i = 0; i < d->n; i++) {
        char before[24] = "";
        static const char *const gpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
        for (unsigned r = 0; found && v->nstep && r < 16; r++)
            if (!strcmp(d->item[i].name, gpr[r]))
                snprintf(before, sizeof(before), "%" PRIx64, v->step[0].cpu.gpr[r]);
        fprintf(stderr, "%-24s %18" PRIx64 " %18" PRIx64 " %18s\n", d->item[i].name, d->item[i].val[LS_SUBJECT], d->item[i].val[LS_REFERENCE], before);
    }
    if (d->memory)
        fprintf(stderr, "the first 8 bytes that differ are at guest-physical %#" PRIx64 "\n", d->gpa);
    show_state(v->engine->name, &v->side[LS_SUBJECT].vm->cpu[0]->cpu);
    show_state("interpreter", &v->side[LS_REFERENCE].vm->cpu[0]->cpu);
}

/* After a difference in the slice before ls.slices: from the start again, with a closer look. */
static void search(struct verify *v)
{
    const uint64_t known = v->ls.memory_equal;
    bool usage, found = false;
    char err[200];
    uint64_t slice = v->ls.slices;

    v->replay = true;
    unmake(v);
    if (make(v, &usage, err, sizeof(err)) != 0 || run(v, known) != LS_SAME)
        goto lost;
    v->ls.memory_every = 1;
    if (run(v, slice) != LS_DIFFER)
        goto lost;
    slice = v->ls.slices;
    /* Once more, to the slice in question, and into it. */
    const uint64_t end = lockstep_insns(&v->ls);
    unmake(v);
    if (make(v, &usage, err, sizeof(err)) != 0 || run(v, slice - 1) != LS_SAME)
        goto lost;
    if ((slice - 1) % INPUT_EVERY == 0)
        input(v, false);
    v->step = aligned_alloc(_Alignof(struct step), TRACE_MAX * sizeof(*v->step)); /* what is read of it was written */
    v->ls.memory_every = 1;
    v->ls.hold = true;
    v->ls.on_step = v->step ? on_step : NULL;
    v->ls.ctx = v;
    enum lockstep_result r;
    do {
        v->nstep = 0;
        r = lockstep_slice(&v->ls, 1);
    } while (r == LS_SAME && lockstep_insns(&v->ls) <= end);
    found = r == LS_DIFFER;
    tell(v, found);
    free(v->step);
    return;
lost:
    fprintf(stderr, "\nringer: verify: a difference after %" PRIu64 " slices did not come again when run once more: input that is not the same each time?\n", slice);
}

int cli_verify(const struct run_options *o, const struct engine_ops *engine, const struct pc_config *cfg, int stats_fd)
{
    struct verify v = {.o = o, .engine = engine, .cfg = cfg};
    bool usage = false;
    char err[300] = "";
    struct stat st;
    int status = STATUS_ERROR;

    v.ctrl_d = o->eof == EOF_CTRL_D || (o->eof == EOF_AUTO && fstat(0, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode)));
    if (make(&v, &usage, err, sizeof(err)) != 0) {
        cli_error("%s", err);
        unmake(&v);
        return usage ? STATUS_USAGE : STATUS_ERROR;
    }
    const enum lockstep_result r = run(&v, UINT64_MAX);
    struct vm *vm = v.side[LS_SUBJECT].vm;
    switch (r) {
    case LS_ENDED: status = atomic_load(&vm->end) ? cli_end_status(atomic_load(&vm->end), vm->end_code) : STATUS_OK; break;
    case LS_IDLE: status = STATUS_OK; break;
    case LS_DIFFER: status = STATUS_DIFFERS; break;
    default: break;
    }
    if (r == LS_DIFFER) {
        search(&v);
    } else {
        fprintf(stderr, "ringer: verify: %" PRIu64 " instructions in %" PRIu64 " slices, memory compared %" PRIu64 " times: no difference%s\n", lockstep_insns(&v.ls),
                v.ls.slices, v.ls.compared, r == LS_IDLE ? "; the guest halted for ever" : "");
        if (o->stats != STATS_OFF)
            stats_print(vm, o->stats, NULL, stats_fd, o->stats_file);
    }
    unmake(&v);
    free(v.log);
    return status;
}
