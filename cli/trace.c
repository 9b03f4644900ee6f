/* A text trace of what a machine does: exits, exceptions and interrupts, device accesses, instructions with disassembly. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lab/disasm.h"

struct text_trace {
    struct vm_trace t; /* first */
    FILE *f;
    struct host_mutex *lock;
};

static const char *const exit_names[] = {
    [EXIT_KICK] = "kick", [EXIT_IO] = "io", [EXIT_HLT] = "hlt", [EXIT_IRQ_WINDOW] = "irq-window",
    [EXIT_EMULATE] = "emulate", [EXIT_SWITCH] = "switch", [EXIT_DEBUG] = "debug",
    [EXIT_SHUTDOWN] = "shutdown", [EXIT_FAIL] = "fail",
};

/* Bytes at the current instruction, as many as are mapped (up to 15). */
static unsigned peek_code(struct vcpu *v, uint8_t *buf)
{
    struct x86_cpu *c = &v->cpu;
    uint64_t lin = c->mode == X86_MODE_64 ? c->rip : (uint32_t)(c->rip + c->seg[X86_CS].base), gpa;
    unsigned n = 0;
    for (; n < X86_MAX_INSN; n++) {
        const uint8_t *p;
        if (!x86_walk_peek(c, lin + n, &gpa) || !(p = gpa_host(c->mmu.map, gpa, 1, false)))
            break;
        buf[n] = *p;
    }
    return n;
}

static void on_insn(struct vm_trace *t, struct vcpu *v)
{
    struct text_trace *tt = (struct text_trace *)t;
    const struct x86_cpu *c = &v->cpu;
    uint8_t code[X86_MAX_INSN];
    char text[160] = "(not mapped)", hex[2 * X86_MAX_INSN + 1] = "";
    unsigned n = peek_code(v, code), len = n ? disasm_text(c->mode, code, n, c->rip, text, sizeof(text)) : 0;
    if (len)
        n = len;
    else if (n)
        strcpy(text, "(bad)");
    for (unsigned i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", code[i]);
    host_lock(tt->lock);
    fprintf(tt->f, "%u insn %04x:%016" PRIx64 " %-24s %-44s fl=%05" PRIx64 " ax=%" PRIx64 " bx=%" PRIx64 " cx=%" PRIx64 " dx=%" PRIx64
            " si=%" PRIx64 " di=%" PRIx64 " bp=%" PRIx64 " sp=%" PRIx64 "\n",
            v->index, c->seg[X86_CS].sel, c->rip, hex, text, x86_get_rflags(c), c->gpr[X86_RAX], c->gpr[X86_RBX], c->gpr[X86_RCX],
            c->gpr[X86_RDX], c->gpr[X86_RSI], c->gpr[X86_RDI], c->gpr[X86_RBP], c->gpr[X86_RSP]);
    host_unlock(tt->lock);
}

static void on_event(struct vm_trace *t, struct vcpu *v, const struct x86_exc *e)
{
    static const char *const kinds[] = {"exception", "softint", "interrupt", "nmi", "icebp"};
    struct text_trace *tt = (struct text_trace *)t;
    host_lock(tt->lock);
    fprintf(tt->f, "%u %s %u", v->index, kinds[e->kind < 5 ? e->kind : 0], e->vector);
    if (e->has_error)
        fprintf(tt->f, " error=%x", e->error);
    if (e->vector == X86_PF && e->kind == X86_EXC_FAULT)
        fprintf(tt->f, " cr2=%" PRIx64, e->cr2);
    fprintf(tt->f, " at %04x:%" PRIx64 " cpl=%u\n", v->cpu.seg[X86_CS].sel, v->cpu.rip, v->cpu.cpl);
    host_unlock(tt->lock);
}

static void on_io(struct vm_trace *t, struct vcpu *v, const struct x86_io *io, const char *dev)
{
    struct text_trace *tt = (struct text_trace *)t;
    host_lock(tt->lock);
    fprintf(tt->f, "%u %s %s %" PRIx64 " size=%u data=%" PRIx64 " %s\n", v->index, io->mmio ? "mmio" : "port",
            io->write ? "write" : "read", io->addr, io->size, io->data, dev);
    host_unlock(tt->lock);
}

static void on_vcpu_exit(struct vm_trace *t, struct vcpu *v, const struct vcpu_exit *e)
{
    struct text_trace *tt = (struct text_trace *)t;
    host_lock(tt->lock);
    fprintf(tt->f, "%u exit %s rip=%" PRIx64 "\n", v->index, exit_names[e->kind] ? exit_names[e->kind] : "?", v->cpu.rip);
    host_unlock(tt->lock);
}

struct vm_trace *trace_open(const char *path, unsigned what, char *err, size_t cap)
{
    struct text_trace *t = calloc(1, sizeof(*t));
    if (t)
        t->lock = host_mutex_new();
    if (!t || !t->lock) {
        snprintf(err, cap, "out of memory");
        free(t);
        return NULL;
    }
    t->f = fopen(path, "we");
    if (!t->f) {
        snprintf(err, cap, "--trace: %s: %s", path, strerror(errno));
        host_mutex_free(t->lock);
        free(t);
        return NULL;
    }
    setvbuf(t->f, NULL, _IOFBF, 1 << 16);
    t->t = (struct vm_trace){
        .insns = what & TRACE_INSNS,
        .insn = what & TRACE_INSNS ? on_insn : NULL,
        .event = what & TRACE_EXCEPTIONS ? on_event : NULL,
        .io = what & TRACE_IO ? on_io : NULL,
        .exit = what & TRACE_EXITS ? on_vcpu_exit : NULL,
    };
    return &t->t;
}

int trace_close(struct vm_trace *vt)
{
    struct text_trace *t = (struct text_trace *)vt;
    if (!t)
        return 0;
    bool bad = ferror(t->f) != 0;
    bad |= fclose(t->f) != 0;
    if (bad)
        cli_error("--trace: not everything could be written");
    host_mutex_free(t->lock);
    free(t);
    return bad ? -1 : 0;
}
