/* Finding and counting instructions; see classify.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab/classify.h"
#include "lab/disasm.h"

/* A byte's entry in the map of an executable section: how it was found, and whether an instruction begins there. */
enum { MAP_NONE = 0, MAP_MEANS = 0x0f, MAP_PADDING = 0x10, MAP_START = 0x80 };

struct finder {
    const struct lab_image *im;
    uint8_t **map;  /* by section; NULL if not executable */
    uint64_t *todo; /* addresses to descend from */
    size_t ntodo, todo_cap;
    uint64_t overlaps;
    bool failed;
};

enum kind { KIND_BAD, KIND_TABLE, KIND_UNKNOWN }; /* not code; in the table; code that the table has not */

/* The decoder of the machine decides. What it refuses because no CPU of ours presents it (VMLAUNCH, UD2) is classified
 * by its row; what is not in the table at all is code only if the disassembler says so. */
static enum kind decode(const struct finder *f, const uint8_t *p, uint64_t avail, struct x86_insn *in)
{
    unsigned n = avail < X86_MAX_INSN ? (unsigned)avail : X86_MAX_INSN;
    enum x86_decode_result r = x86_decode(in, p, n, f->im->mode, false, NULL);
    if (r == X86_DEC_OK)
        return KIND_TABLE;
    if (r == X86_DEC_UD && in->op != X86_OP_INVALID && x86_isa[in->row].feature == X86_FEAT_NEVER && in->len <= n)
        return KIND_TABLE;
    unsigned len = r == X86_DEC_UD ? disasm_length(f->im->mode, p, n) : 0;
    if (!len)
        return KIND_BAD;
    /* Where the two differ on what is legal in this mode, ours stands: then these bytes are data. */
    if (in->op != X86_OP_INVALID)
        return KIND_BAD;
    in->len = (uint8_t)len;
    return KIND_UNKNOWN;
}

static void push(struct finder *f, uint64_t addr)
{
    if (f->ntodo == f->todo_cap) {
        size_t cap = f->todo_cap ? 2 * f->todo_cap : 4096;
        uint64_t *p = realloc(f->todo, cap * sizeof(*p));
        if (!p) {
            f->failed = true;
            return;
        }
        f->todo = p;
        f->todo_cap = cap;
    }
    f->todo[f->ntodo++] = addr;
}

/* False if some of the bytes are already something else. */
static bool mark(struct finder *f, uint8_t *map, uint64_t at, unsigned len, uint8_t means)
{
    for (unsigned i = 0; i < len; i++)
        if (map[at + i]) {
            f->overlaps++;
            return false;
        }
    memset(map + at, means + 1, len);
    map[at] |= MAP_START;
    return true;
}

static uint64_t wrap(const struct lab_image *im, uint64_t addr)
{
    return im->mode == X86_MODE_64 ? addr : (uint32_t)addr;
}

/* After it, control does not go on to the next instruction. */
static bool ends_flow(const struct x86_insn *in)
{
    switch (in->op) {
    case X86_OP_JMP:
    case X86_OP_JMP_FAR:
    case X86_OP_RET:
    case X86_OP_RET_FAR:
    case X86_OP_IRET:
    case X86_OP_SYSRET:
    case X86_OP_SYSEXIT:
    case X86_OP_RSM:
    case X86_OP_UD0:
    case X86_OP_UD1:
    case X86_OP_UD2: return true;
    default: return false;
    }
}

static void descend(struct finder *f, uint64_t addr, uint8_t means)
{
    const struct lab_section *s = lab_section_at(f->im, addr);
    bool after_call = false;
    if (!s || !s->exec)
        return;
    uint8_t *map = f->map[s - f->im->sec];
    for (uint64_t at = addr - s->addr; at < s->size;) {
        struct x86_insn in;
        if (map[at] & MAP_START)
            return;
        enum kind k = decode(f, s->data + at, s->size - at, &in);
        if (k == KIND_BAD)
            return;
        /* INT3 behind a call that does not return, or more than one of it, is filling. */
        if (k == KIND_TABLE && in.op == X86_OP_INT3 && (after_call || (at + 1 < s->size && s->data[at + 1] == 0xcc)))
            return;
        if (!mark(f, map, at, in.len, means))
            return;
        at += in.len;
        if (k == KIND_UNKNOWN)
            continue;
        for (unsigned i = 0; i < in.nopnd; i++)
            if (in.opnd[i].kind == X86_OPND_REL)
                push(f, wrap(f->im, s->addr + at + (uint64_t)in.imm));
        if (ends_flow(&in))
            return;
        after_call = in.op == X86_OP_CALL;
    }
}

static void run_todo(struct finder *f, uint8_t means)
{
    while (f->ntodo && !f->failed)
        descend(f, f->todo[--f->ntodo], means);
}

static bool is_padding(const struct x86_insn *in)
{
    return in->op == X86_OP_INT3 || in->op == X86_OP_NOP;
}

/* Decode what is left of [at, end) of a section; branches found there are followed too. */
static void sweep(struct finder *f, const struct lab_section *s, uint64_t at, uint64_t end)
{
    uint8_t *map = f->map[s - f->im->sec];
    while (at < end && !f->failed) {
        struct x86_insn in;
        if (map[at]) {
            at++;
            continue;
        }
        enum kind k = decode(f, s->data + at, end - at, &in);
        if (k == KIND_TABLE && is_padding(&in)) {
            for (unsigned i = 0; i < in.len && !map[at]; i++)
                map[at++] = MAP_PADDING;
            continue;
        }
        unsigned n = 1;
        while (k != KIND_BAD && n < in.len && !map[at + n])
            n++;
        /* Zero bytes decode as additions to memory; runs of them are filling or data. */
        bool zeros = k != KIND_BAD && in.len == 2 && !s->data[at] && !s->data[at + 1];
        if (k == KIND_BAD || n < in.len || zeros) {
            at++;
            continue;
        }
        push(f, s->addr + at);
        run_todo(f, MEANS_SWEEP);
        if (!map[at]) /* nothing came of it */
            at++;
    }
}

/* Between the bounds of functions: their size, or up to the next one. Seeds are sorted, so that what an earlier
 * function's bounds held needs no second look. */
static void sweep_functions(struct finder *f)
{
    const struct lab_image *im = f->im;
    uint64_t swept = 0; /* up to this address */
    for (size_t i = 0, next = 0; i < im->nseed && !f->failed; i++) {
        const struct lab_seed *d = &im->seed[i];
        const struct lab_section *s = lab_section_at(im, d->addr);
        if (!d->function || !s || !s->exec)
            continue;
        while (next < im->nseed && (!im->seed[next].function || im->seed[next].addr <= d->addr))
            next++;
        uint64_t at = d->addr - s->addr, end = s->size;
        if (d->size)
            end = d->size < s->size - at ? at + d->size : s->size;
        else if (next < im->nseed && im->seed[next].addr - s->addr < s->size)
            end = im->seed[next].addr - s->addr;
        if (swept > d->addr)
            at = swept - s->addr < s->size ? swept - s->addr : s->size;
        if (at < end) {
            sweep(f, s, at, end);
            swept = s->addr + end;
        }
    }
}

/* Filling between functions, which no function's bounds hold. */
static void find_padding(struct finder *f, const struct lab_section *s)
{
    uint8_t *map = f->map[s - f->im->sec];
    for (uint64_t at = 0; at < s->size;) {
        struct x86_insn in;
        uint64_t room = 0;
        if (map[at]) {
            at++;
            continue;
        }
        while (room < X86_MAX_INSN && at + room < s->size && !map[at + room])
            room++;
        if (s->data[at] == 0) {
            map[at++] = MAP_PADDING;
        } else if (decode(f, s->data + at, room, &in) == KIND_TABLE && is_padding(&in)) {
            memset(map + at, MAP_PADDING, in.len);
            at += in.len;
        } else {
            while (at < s->size && !map[at]) /* data: not padding, though it may hold such bytes */
                at++;
        }
    }
}

static int add_site(struct lab_classified *c, uint64_t addr, const struct x86_insn *in, uint8_t means)
{
    if (c->nsite == c->site_cap) {
        size_t cap = c->site_cap ? 2 * c->site_cap : 1024;
        struct lab_site *p = realloc(c->site, cap * sizeof(*p));
        if (!p)
            return -1;
        c->site = p;
        c->site_cap = cap;
    }
    c->site[c->nsite++] = (struct lab_site){addr, in->row, in->len, means};
    return 0;
}

static int count(struct finder *f, const struct lab_section *s, struct lab_classified *c)
{
    const uint8_t *map = f->map[s - f->im->sec];
    struct lab_counts *n = &c->n;
    n->exec_bytes += s->size;
    for (uint64_t at = 0; at < s->size; at++) {
        struct x86_insn in;
        if (map[at] == MAP_PADDING)
            n->padding++;
        else if (!map[at])
            n->uncovered++;
        else
            n->means_bytes[(map[at] & MAP_MEANS) - 1]++;
        if (!(map[at] & MAP_START))
            continue;
        n->insns++;
        if (decode(f, s->data + at, s->size - at, &in) != KIND_TABLE) {
            n->unknown++;
            continue;
        }
        unsigned pg = x86_isa[in.row].pg, sens = pg & (X86_PG_CONTROL | X86_PG_BEHAVIOUR);
        n->innocuous += !pg;
        n->privileged += !!(pg & X86_PG_PRIVILEGED);
        n->control += !!(pg & X86_PG_CONTROL);
        n->behaviour += !!(pg & X86_PG_BEHAVIOUR);
        n->sensitive += !!sens;
        n->robin_irvine += !!(pg & X86_PG_ROBIN_IRVINE);
        if (sens && !(pg & X86_PG_PRIVILEGED)) {
            n->offending++;
            n->op_count[in.op]++;
            if (add_site(c, s->addr + at, &in, (map[at] & MAP_MEANS) - 1))
                return -1;
        }
    }
    return 0;
}

static int find(struct finder *f, bool sweep_all)
{
    const struct lab_image *im = f->im;
    for (unsigned i = 0; i < im->nsec; i++)
        if (im->sec[i].exec && !(f->map[i] = calloc(1, (size_t)im->sec[i].size)))
            return -1;
    for (unsigned means = 0; means < MEANS_SWEEP; means++)
        for (size_t i = 0; i < im->nseed && !f->failed; i++)
            if (im->seed[i].means == means) {
                push(f, im->seed[i].addr);
                run_todo(f, (uint8_t)means);
            }
    sweep_functions(f);
    for (unsigned i = 0; i < im->nsec && sweep_all; i++)
        if (im->sec[i].exec)
            sweep(f, &im->sec[i], 0, im->sec[i].size);
    for (unsigned i = 0; i < im->nsec; i++)
        if (im->sec[i].exec)
            find_padding(f, &im->sec[i]);
    return f->failed ? -1 : 0;
}

int lab_classify(const struct lab_image *im, bool sweep_all, struct lab_classified *out)
{
    struct finder f = {.im = im, .map = calloc(im->nsec + 1u, sizeof(*f.map))};
    memset(out, 0, sizeof(*out));
    out->n.op_count = calloc(X86_NOP_COUNT, sizeof(*out->n.op_count));
    int r = f.map && out->n.op_count ? find(&f, sweep_all) : -1;
    for (unsigned i = 0; !r && i < im->nsec; i++)
        if (im->sec[i].exec)
            r = count(&f, &im->sec[i], out);
    out->n.overlaps = f.overlaps;
    for (unsigned i = 0; f.map && i < im->nsec; i++)
        free(f.map[i]);
    free(f.map);
    free(f.todo);
    if (r)
        lab_classified_free(out);
    return r;
}

void lab_classified_free(struct lab_classified *c)
{
    free(c->site);
    free(c->n.op_count);
    memset(c, 0, sizeof(*c));
}

const struct lab_seed *lab_function_at(const struct lab_image *im, uint64_t addr, uint64_t *off)
{
    size_t lo = 0, hi = im->nnamed;
    const struct lab_section *s = lab_section_at(im, addr);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (im->seed[im->named[mid]].addr <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (!lo || !s || im->seed[im->named[lo - 1]].addr < s->addr)
        return NULL;
    const struct lab_seed *d = &im->seed[im->named[lo - 1]];
    *off = addr - d->addr;
    return d;
}

void lab_disassemble(const struct lab_image *im, uint64_t addr, char *buf, size_t cap)
{
    const struct lab_section *s = lab_section_at(im, addr);
    uint64_t n = s ? s->size - (addr - s->addr) : 0;
    if (!s || !disasm_text(im->mode, s->data + (addr - s->addr), n < X86_MAX_INSN ? n : X86_MAX_INSN, addr, buf, cap))
        snprintf(buf, cap, "?");
}
