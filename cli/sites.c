/* See sites.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/report.h"
#include "cli/sites.h"
#include "x86/decode.h"

#define ALIGN_SLIDE ((2ull << 20) - 1)

int sites_keep(struct vm *vm, bool traps)
{
    for (unsigned i = 0; i < vm->ncpu; i++) {
        struct x86_sites *s = calloc(1, sizeof(*s));
        if (!s)
            return -1;
        s->traps = traps;
        vm->cpu[i]->cpu.sites = s;
    }
    return 0;
}

void sites_drop(struct vm *vm)
{
    for (unsigned i = 0; i < vm->ncpu; i++) {
        if (!vm->cpu[i])
            continue;
        free(vm->cpu[i]->cpu.sites);
        vm->cpu[i]->cpu.sites = NULL;
    }
}

bool sites_kept(const struct vm *vm)
{
    return vm->ncpu && vm->cpu[0] && vm->cpu[0]->cpu.sites;
}

enum sites_slide sites_slide(const struct vm *vm, const struct symbols *sym, uint64_t *slide)
{
    const uint64_t entry = symbols_address(sym, "entry_SYSCALL_64"), lstar = vm->cpu[0]->cpu.lstar;
    *slide = 0;
    if (!entry || !lstar)
        return SITES_UNKNOWN;
    if ((lstar - entry) & ALIGN_SLIDE)
        return SITES_FOREIGN;
    *slide = lstar - entry;
    return SITES_FOUND;
}

static int hotter(const void *a, const void *b)
{
    const struct x86_site *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count ? 1 : -1) : x->rip < y->rip ? -1 : x->rip > y->rip;
}

static int by_place(const void *a, const void *b)
{
    const struct x86_site *x = a, *y = b;
    return x->rip != y->rip ? (x->rip < y->rip ? -1 : 1) : (int)x->op - (int)y->op;
}

/* All vCPUs' tables as one list, hottest first; the caller frees it. The vCPUs may be writing: a count read together with another site's
 * address is what such a snapshot can show. */
__attribute__((no_sanitize("thread"))) static struct x86_site *gather(const struct vm *vm, unsigned *n, uint64_t *dropped)
{
    struct x86_site *s = calloc((size_t)vm->ncpu * X86_SITES, sizeof(*s));
    *n = 0;
    *dropped = 0;
    for (unsigned i = 0; s && i < vm->ncpu; i++) {
        const struct x86_sites *t = vm->cpu[i]->cpu.sites;
        *dropped += t->dropped;
        for (unsigned k = 0; k < X86_SITES; k++)
            if (t->e[k].count)
                s[(*n)++] = t->e[k];
    }
    if (!s || !*n)
        return s;
    qsort(s, *n, sizeof(*s), by_place);
    unsigned m = 0;
    for (unsigned i = 1; i < *n; i++) {
        if (by_place(&s[m], &s[i]) == 0)
            s[m].count += s[i].count;
        else
            s[++m] = s[i];
    }
    *n = m + 1;
    qsort(s, *n, sizeof(*s), hotter);
    return s;
}

static const char *what(const struct x86_site *s, char *buf, size_t cap)
{
    if (s->op == X86_SITE_FILL)
        snprintf(buf, cap, "page not mapped yet");
    else if (s->op == X86_SITE_AWAY)
        snprintf(buf, cap, "not to run directly");
    else if (s->op >= X86_SITE_EXC && s->op < X86_SITE_EXC + 32)
        snprintf(buf, cap, "%s", vector_name(s->op - X86_SITE_EXC));
    else
        snprintf(buf, cap, "%s", s->op < X86_NOP_COUNT ? x86_op_name(s->op) : "?");
    for (char *p = buf; *p; p++)
        *p = *p == '_' ? ' ' : *p;
    return buf;
}

static const char *class(const struct x86_site *s, char buf[4])
{
    snprintf(buf, 4, "%s%s%s", s->pg & X86_PG_PRIVILEGED ? "P" : "", s->pg & X86_PG_CONTROL ? "C" : "", s->pg & X86_PG_BEHAVIOUR ? "B" : "");
    return buf;
}

static void name(const struct symbols *sym, enum sites_slide how, uint64_t slide, uint64_t rip, char *buf, size_t cap)
{
    *buf = 0;
    if (sym && how != SITES_FOREIGN && (!slide || rip >> 63)) /* what moved is the kernel */
        symbols_name(sym, rip - slide, buf, cap);
}

struct json_object *sites_json(struct vm *vm, const struct symbols *sym, unsigned top, struct json_object *data)
{
    struct json_object *list = json_object_new_array();
    uint64_t dropped, slide = 0;
    enum sites_slide how = SITES_UNKNOWN;
    unsigned n;
    struct x86_site *s = gather(vm, &n, &dropped);
    if (sym) {
        how = sites_slide(vm, sym, &slide);
        json_add_u64(data, "symbols", symbols_count(sym));
        json_add_text(data, "symbols_match", how == SITES_FOUND ? "yes" : how == SITES_FOREIGN ? "no" : "unknown");
        json_add_u64(data, "kernel_slide", slide);
    }
    json_add_u64(data, "sites_seen", n);
    json_add_u64(data, "sites_dropped", dropped);
    for (unsigned i = 0; i < n && i < top; i++) {
        struct json_object *e = json_object_new_object();
        char text[240];
        snprintf(text, sizeof(text), "0x%" PRIx64, s[i].rip);
        json_add_text(e, "address", text);
        name(sym, how, slide, s[i].rip, text, sizeof(text));
        if (*text)
            json_add_text(e, "symbol", text);
        json_add_text(e, "instruction", what(&s[i], text, sizeof(text)));
        json_add_text(e, "class", class(&s[i], text));
        json_add_u64(e, "cpl", s[i].cpl);
        json_add_u64(e, "count", s[i].count);
        json_object_array_add(list, e);
    }
    free(s);
    return list;
}

void sites_print(struct vm *vm, const struct symbols *sym, unsigned top, FILE *f)
{
    uint64_t dropped, slide = 0;
    enum sites_slide how = SITES_UNKNOWN;
    unsigned n;
    struct x86_site *s = gather(vm, &n, &dropped);
    if (sym) {
        how = sites_slide(vm, sym, &slide);
        if (how == SITES_FOREIGN)
            fprintf(f, "symbols       of another kernel than the guest's: its system call entry is elsewhere; no names\n");
        else if (how == SITES_UNKNOWN)
            fprintf(f, "symbols       taken where they were linked: no 64-bit Linux system call entry tells where the kernel is\n");
        else
            fprintf(f, "symbols       moved by %s0x%" PRIx64 "\n", slide >> 63 ? "-" : "", slide >> 63 ? -slide : slide);
    }
    const char *label = vm->cpu[0]->cpu.sites->traps ? "trap site" : "sensitive";
    for (unsigned i = 0; i < n && i < top; i++) {
        char op[40], text[240], cl[4];
        name(sym, how, slide, s[i].rip, text, sizeof(text));
        fprintf(f, "%s     %-10" PRIu64 " 0x%016" PRIx64 " CPL %u  %-20s %-3s %s\n", label, s[i].count, s[i].rip, s[i].cpl, what(&s[i], op, sizeof(op)), class(&s[i], cl), text);
    }
    if (dropped)
        fprintf(f, "%s     %-10" PRIu64 " at places beyond the table\n", label, dropped);
    free(s);
}
