/* ringer classify's report, as text and as JSON. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lab/classify_out.h"
#include "lab/engines.h"

/* P C B and !, as ringer probe prints them. */
const char *lab_class(unsigned pg, char buf[8]);

struct op_count {
    uint64_t n;
    unsigned op;
};

static int by_count(const void *a, const void *b)
{
    const struct op_count *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n ? 1 : -1) : (int)x->op - (int)y->op;
}

/* Instructions that occur, most frequent first; returns how many. */
static unsigned ranked(const struct lab_classified *c, struct op_count *out)
{
    unsigned n = 0;
    for (unsigned op = 0; op < X86_NOP_COUNT; op++)
        if (c->n.op_count[op])
            out[n++] = (struct op_count){c->n.op_count[op], op};
    if (n)
        qsort(out, n, sizeof(*out), by_count);
    return n;
}

static void op_text(unsigned op, char buf[24])
{
    snprintf(buf, 24, "%s", x86_op_name(op));
    for (char *p = buf; *p; p++)
        *p = *p == '_' ? ' ' : *p >= 'A' && *p <= 'Z' ? (char)(*p | 0x20) : *p;
}

/* Names come from the file: what a terminal would not print as a character is replaced. */
static void clean(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || (unsigned char)*s > '~')
            *s = '?';
}

static void place(const struct lab_image *im, uint64_t addr, char *buf, size_t cap)
{
    uint64_t off;
    const struct lab_seed *d = lab_function_at(im, addr, &off);
    const struct lab_section *s = lab_section_at(im, addr);
    if (d)
        snprintf(buf, cap, "%.100s+0x%" PRIx64, d->name, off);
    else
        snprintf(buf, cap, "%.40s+0x%" PRIx64, s->name, addr - s->addr);
    clean(buf);
}

/* The address as the file has it: a relocatable file's are offsets in a section. */
static void address(const struct lab_image *im, uint64_t addr, char *buf, size_t cap)
{
    const struct lab_section *s = lab_section_at(im, addr);
    if (im->relocatable)
        snprintf(buf, cap, "%.30s:%06" PRIx64, s->name, addr - s->addr);
    else
        snprintf(buf, cap, im->mode == X86_MODE_64 ? "%016" PRIx64 : "%08" PRIx64, addr);
    clean(buf);
}

static void share(FILE *f, const char *what, uint64_t n, uint64_t of)
{
    fprintf(f, "  %-42s %12" PRIu64 "  %6.2f%%\n", what, n, of ? 100.0 * (double)n / (double)of : 0.0);
}

/* What it does about the sites: about most of them, and instructions it treats otherwise. */
static void print_remedies(const struct lab_classify_report *r, const struct engine_ops *e, FILE *f)
{
    const char *most = lab_engine_remedy(e, X86_OP_INVALID);
    uint64_t left = r->c->n.offending;
    char name[24];
    for (unsigned op = 0; op < X86_NOP_COUNT; op++)
        if (strcmp(lab_engine_remedy(e, op), most))
            left -= r->c->n.op_count[op] < left ? r->c->n.op_count[op] : left;
    fprintf(f, "  %-9s can run it; %" PRIu64 " of the %" PRIu64 " sites: %s\n", e->name, left, r->c->n.offending, most);
    for (unsigned op = 0; op < X86_NOP_COUNT; op++)
        if (r->c->n.op_count[op] && strcmp(lab_engine_remedy(e, op), most)) {
            op_text(op, name);
            fprintf(f, "  %-9s   %" PRIu64 " %s: %s\n", "", r->c->n.op_count[op], name, lab_engine_remedy(e, op));
        }
}

/* Where the code is when it runs. */
static uint64_t code_at(const struct lab_image *im)
{
    const struct lab_section *big = NULL;

    if (im->mode != X86_MODE_64)
        return 0;
    if (im->module) /* Linux puts them next to itself, in the topmost 2 GiB */
        return 0xffffffff80000000ull;
    for (unsigned i = 0; i < im->nsec; i++)
        if (im->sec[i].exec && (!big || im->sec[i].size > big->size))
            big = &im->sec[i];
    return big ? big->addr : 0;
}

static void print_engines(const struct lab_classify_report *r, FILE *f)
{
    static const char *const bits[] = {"16", "32", "64"};
    char why[200];
    fprintf(f, "engines (%s-bit code; %s)\n", bits[r->im->mode], r->boots);
    for (unsigned i = 0; ringer_engines[i]; i++) {
        const struct engine_ops *e = ringer_engines[i];
        if (!lab_engine_usable(e, why, sizeof(why)))
            fprintf(f, "  %-9s not usable on this host: %s\n", e->name, why);
        else if (!lab_engine_fits(e, r->im->mode, code_at(r->im)))
            fprintf(f, "  %-9s can run it, but such code only through its fallback, the interpreter\n", e->name);
        else
            print_remedies(r, e, f);
    }
}

void lab_classify_print(const struct lab_classify_report *r, FILE *f)
{
    const struct lab_counts *n = &r->c->n;
    char name[160], line[128], addr[64], cls[8], kind[sizeof(r->im->kind)];
    struct op_count *ops = calloc(X86_NOP_COUNT, sizeof(*ops));
    unsigned nops = ops ? ranked(r->c, ops) : 0;
    unsigned nexec = 0;
    for (unsigned i = 0; i < r->im->nsec; i++)
        nexec += r->im->sec[i].exec;
    snprintf(kind, sizeof(kind), "%s", r->im->kind);
    clean(kind);
    fprintf(f, "%s: %s\n\ncode: %" PRIu64 " bytes in %u executable sections, found by\n", r->file, kind, n->exec_bytes,
            nexec);
    for (unsigned m = 0; m < MEANS_COUNT; m++)
        if (n->means_bytes[m]) {
            snprintf(line, sizeof(line), m == MEANS_SWEEP ? "%s" : "descent from %s", lab_means_text[m]);
            share(f, line, n->means_bytes[m], n->exec_bytes);
        }
    share(f, "padding", n->padding, n->exec_bytes);
    share(f, "not covered (data, or code not found)", n->uncovered, n->exec_bytes);
    fprintf(f, "\ninstructions: %" PRIu64 "\n", n->insns);
    share(f, "innocuous", n->innocuous, n->insns);
    share(f, "privileged (P)", n->privileged, n->insns);
    share(f, "control-sensitive (C)", n->control, n->insns);
    share(f, "behaviour-sensitive (B)", n->behaviour, n->insns);
    share(f, "sensitive but unprivileged (S \\ P)", n->offending, n->insns);
    share(f, "on Robin and Irvine's list (!)", n->robin_irvine, n->insns);
    share(f, "not in the table", n->unknown, n->insns);
    if (n->overlaps)
        fprintf(f, "  (%" PRIu64 " paths given up: they lead into the middle of an instruction)\n", n->overlaps);
    fputs("\nsensitive but unprivileged, by instruction\n", f);
    for (unsigned i = 0; i < nops; i++) {
        unsigned pg = 0;
        for (unsigned k = 0; k < x86_isa_count; k++)
            if (x86_isa[k].op == ops[i].op)
                pg |= x86_isa[k].pg;
        op_text(ops[i].op, name);
        fprintf(f, "  %-12s %-5s %10" PRIu64 "\n", name, lab_class(pg, cls), ops[i].n);
    }
    free(ops);
    uint64_t shown = r->c->nsite < r->sites ? r->c->nsite : r->sites;
    if (shown)
        fprintf(f, "\nsites (%" PRIu64 " of %zu)\n", shown, r->c->nsite);
    for (uint64_t i = 0; i < shown; i++) {
        const struct lab_site *s = &r->c->site[i];
        address(r->im, s->addr, addr, sizeof(addr));
        place(r->im, s->addr, name, sizeof(name));
        lab_disassemble(r->im, s->addr, line, sizeof(line));
        fprintf(f, "  %s  %-4s %-44s %s\n", addr, lab_class(x86_isa[s->row].pg, cls), name, line);
    }
    fputc('\n', f);
    print_engines(r, f);
}

/* --- JSON ------------------------------------------------------------- */

static void add_num(struct json_object *o, const char *k, uint64_t v)
{
    json_object_object_add(o, k, json_object_new_uint64(v));
}

static void add_str(struct json_object *o, const char *k, const char *v)
{
    char text[512];
    snprintf(text, sizeof(text), "%s", v);
    clean(text);
    json_object_object_add(o, k, json_object_new_string(text));
}

static struct json_object *json_sites(const struct lab_classify_report *r)
{
    struct json_object *a = json_object_new_array();
    for (uint64_t i = 0; i < r->c->nsite && i < r->sites; i++) {
        const struct lab_site *s = &r->c->site[i];
        struct json_object *o = json_object_new_object();
        char text[160], cls[8];
        address(r->im, s->addr, text, sizeof(text));
        add_str(o, "address", text);
        place(r->im, s->addr, text, sizeof(text));
        add_str(o, "where", text);
        add_str(o, "instruction", x86_isa[s->row].name);
        add_str(o, "class", lab_class(x86_isa[s->row].pg, cls));
        lab_disassemble(r->im, s->addr, text, sizeof(text));
        add_str(o, "text", text);
        add_str(o, "found_by", lab_means_text[s->means]);
        json_object_array_add(a, o);
    }
    return a;
}

static struct json_object *json_engines(const struct lab_image *im)
{
    struct json_object *a = json_object_new_array();
    for (unsigned i = 0; ringer_engines[i]; i++) {
        const struct engine_ops *e = ringer_engines[i];
        struct json_object *o = json_object_new_object();
        char why[200] = "";
        bool ok = lab_engine_usable(e, why, sizeof(why));
        add_str(o, "name", e->name);
        json_object_object_add(o, "can_run", json_object_new_boolean(ok));
        if (ok)
            json_object_object_add(o, "only_by_fallback", json_object_new_boolean(!lab_engine_fits(e, im->mode, code_at(im))));
        add_str(o, ok ? "sites" : "reason", ok ? lab_engine_remedy(e, X86_OP_INVALID) : why);
        json_object_array_add(a, o);
    }
    return a;
}

struct json_object *lab_classify_json(const struct lab_classify_report *r)
{
    static const int bits[] = {16, 32, 64};
    static const char *const keys[MEANS_COUNT] = {"entry", "symbols", "kallsyms", "unwind", "relocations", "sweep"};
    const struct lab_counts *n = &r->c->n;
    struct json_object *o = json_object_new_object(), *code = json_object_new_object(), *in = json_object_new_object(),
                       *by = json_object_new_object();
    add_str(o, "file", r->file);
    add_str(o, "kind", r->im->kind);
    json_object_object_add(o, "bits", json_object_new_int(bits[r->im->mode]));
    add_num(code, "executable_bytes", n->exec_bytes);
    for (unsigned m = 0; m < MEANS_COUNT; m++)
        add_num(code, keys[m], n->means_bytes[m]);
    add_num(code, "padding", n->padding);
    add_num(code, "not_covered", n->uncovered);
    json_object_object_add(o, "code", code);
    add_num(in, "total", n->insns);
    add_num(in, "innocuous", n->innocuous);
    add_num(in, "privileged", n->privileged);
    add_num(in, "control_sensitive", n->control);
    add_num(in, "behaviour_sensitive", n->behaviour);
    add_num(in, "sensitive", n->sensitive);
    add_num(in, "sensitive_unprivileged", n->offending);
    add_num(in, "robin_irvine", n->robin_irvine);
    add_num(in, "not_in_table", n->unknown);
    json_object_object_add(o, "instructions", in);
    for (unsigned op = 0; op < X86_NOP_COUNT; op++)
        if (n->op_count[op]) {
            char name[24];
            op_text(op, name);
            add_num(by, name, n->op_count[op]);
        }
    json_object_object_add(o, "sensitive_unprivileged", by);
    add_num(o, "nsites", r->c->nsite);
    json_object_object_add(o, "sites", json_sites(r));
    add_str(o, "boots", r->boots);
    json_object_object_add(o, "engines", json_engines(r->im));
    return o;
}
