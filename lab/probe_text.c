/* ringer probe's report as text and as JSON. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "lab/engines.h"
#include "lab/probe_out.h"

const char *probe_pretty(const char *name, char buf[24])
{
    snprintf(buf, 24, "%s", name);
    for (char *p = buf; *p; p++)
        if (*p == '_')
            *p = ' ';
    return buf;
}

bool probe_in(const struct probe_op *o, enum probe_set set)
{
    const bool p = o->pg & X86_PG_PRIVILEGED, s = o->pg & (X86_PG_CONTROL | X86_PG_BEHAVIOUR),
               ran = o->trapped + o->untrapped;
    switch (set) {
    case SET_P_TABLE: return p;
    case SET_S_TABLE: return s;
    case SET_C_TABLE: return o->pg & X86_PG_CONTROL;
    case SET_B_TABLE: return o->pg & X86_PG_BEHAVIOUR;
    case SET_OFFENDERS_TABLE: return s && !p;
    case SET_P_FOUND: return ran && !o->untrapped && o->undefined < o->trapped;
    case SET_ABSENT: return ran && !o->untrapped && o->undefined == o->trapped;
    case SET_OFFENDERS_FOUND: return probe_offender(o);
    case SET_TRAPS_UNEXPECTED: return s && !p && ran && !o->untrapped;
    case SET_RUNS_UNEXPECTED: return p && o->untrapped;
    default: return false;
    }
}

const struct probe_set_text probe_sets[SET_COUNT] = {
    [SET_P_TABLE] = {"p_table", "P by the table (privileged: trap at CPL 3)"},
    [SET_C_TABLE] = {"c_table", "C by the table (control-sensitive)"},
    [SET_B_TABLE] = {"b_table", "B by the table (behaviour-sensitive)"},
    [SET_S_TABLE] = {"s_table", "S = C u B by the table"},
    [SET_OFFENDERS_TABLE] = {"s_minus_p_table", "S \\ P by the table"},
    [SET_P_FOUND] = {"p_found", "P as found: every form that matters trapped"},
    [SET_ABSENT] = {"undefined_found", "Undefined here at CPL 3 (#UD)"},
    [SET_OFFENDERS_FOUND] = {"s_minus_p_found", "S \\ P as found: some form did not trap"},
    [SET_TRAPS_UNEXPECTED] = {"trap_beyond_table", "Sensitive and not privileged by the table, but trapped here"},
    [SET_RUNS_UNEXPECTED] = {"run_beyond_table", "Privileged by the table, but did not trap here"},
};

unsigned probe_count(const struct probe_report *rep, enum probe_set set)
{
    unsigned n = 0;
    for (unsigned i = 0; i < rep->nops; i++)
        n += probe_in(&rep->op[i], set);
    return n;
}

const char *probe_facts(const struct probe_report *rep, char *buf, size_t cap)
{
    snprintf(buf, cap, "UMIP %s; CPUID faulting %s; TSC disable %s; hypervisor below: %s%s%s; 32-bit code: %s",
             rep->umip ? "on" : "off", rep->cpuid_faulting ? "works" : "not offered",
             rep->tsc_disable ? "works" : "not offered", rep->hypervisor ? "yes (\"" : "none seen",
             rep->hypervisor ? rep->below : "", rep->hypervisor ? "\")" : "", rep->mode32 ? "yes" : rep->why32);
    return buf;
}

void probe_verdict(const struct probe_report *rep, char *buf, size_t cap)
{
    unsigned n = probe_count(rep, SET_OFFENDERS_FOUND);
    if (n)
        snprintf(buf, cap,
                 "S is not a subset of P: %u sensitive instructions do not trap. Popek and Goldberg's condition (1974, "
                 "theorem 1) "
                 "fails on this CPU and host: a monitor by trap-and-emulate alone is not possible, each offender below "
                 "is a way a "
                 "guest would go wrong.",
                 n);
    else
        snprintf(buf, cap,
                 "S is a subset of P as far as tried: every sensitive instruction trapped. The condition of Popek and "
                 "Goldberg's theorem 1 holds: a monitor by trap-and-emulate alone is possible.");
}

void probe_robin_irvine(const struct probe_report *rep, unsigned n[2])
{
    for (unsigned i = 0; i < rep->nops; i++)
        if (rep->op[i].pg & X86_PG_ROBIN_IRVINE) {
            n[0]++;
            n[1] += probe_offender(&rep->op[i]);
        }
}

static void print_set(const struct probe_report *rep, enum probe_set set, FILE *f)
{
    char name[24];
    unsigned col = 4;
    fprintf(f, "%s: %u\n   ", probe_sets[set].title, probe_count(rep, set));
    for (unsigned i = 0; i < rep->nops; i++) {
        if (!probe_in(&rep->op[i], set))
            continue;
        probe_pretty(rep->op[i].name, name);
        bool ri = rep->op[i].pg & X86_PG_ROBIN_IRVINE;
        unsigned n = (unsigned)strlen(name) + ri + 2;
        if (col + n > 110) {
            fputs("\n   ", f);
            col = 4;
        }
        fprintf(f, " %s%s,", name, ri ? "!" : "");
        col += n;
    }
    fputc('\n', f);
}

void probe_print(const struct probe_report *rep, FILE *f)
{
    char line[600], cls[8], name[24], cyc[12];
    fprintf(f, "CPU:  %s\nHost: %s\n      %s\n", rep->cpu, rep->kernel, probe_facts(rep, line, sizeof(line)));
    if (!rep->seccomp)
        fputs("      no seccomp: system calls of the cases were really made (getpid)\n", f);
    fputs("\nClass: P privileged, C control-sensitive, B behaviour-sensitive, ! of Robin and Irvine's list (2000). "
          "Cycles: least of some "
          "runs, with fences and set-up.\n\n",
          f);
    fprintf(f, "%-5s %-9s %-4s %-36s %-13s %7s  %s\n", "class", "instr", "mode", "form", "outcome", "cycles",
            "what happened");
    for (unsigned i = 0; i < rep->nresults; i++) {
        const struct probe_result *r = &rep->result[i];
        snprintf(cyc, sizeof(cyc), r->cycles ? "%u" : "-", r->cycles);
        fprintf(f, "%-5s %-9s %-4s %-36s %-13s %7s  %s\n", r->row ? lab_class(r->row->pg, cls) : "?",
                r->row ? probe_pretty(r->row->name, name) : "?", r->m32 ? "32" : "64", r->c->form,
                probe_verdict_name[r->verdict], cyc, r->text);
    }
    fputc('\n', f);
    for (unsigned s = 0; s < SET_COUNT; s++)
        print_set(rep, s, f);
    unsigned ri[2] = {0};
    probe_robin_irvine(rep, ri);
    fprintf(f, "Of Robin and Irvine's list (2000; %u mnemonics here): %u did not trap in some form\n", ri[0], ri[1]);
    probe_verdict(rep, line, sizeof(line));
    fprintf(f, "\nVerdict: %s\n\nOffenders:\n", line);
    for (unsigned i = 0; i < rep->nops; i++) {
        const struct probe_op *o = &rep->op[i];
        if (probe_offender(o))
            fprintf(f, "  %-9s %-4s %s-bit %s: %s%s\n", probe_pretty(o->name, name), lab_class(o->pg, cls),
                    o->witness->m32 ? "32" : "64", o->witness->c->form, o->witness->text,
                    o->configurable ? " [a host setting makes it trap]" : "");
    }
    fputs("\nWhat the engines of this program do about every offender:\n", f);
    for (unsigned i = 0; ringer_engines[i]; i++)
        fprintf(f, "  %-9s %s%s\n", ringer_engines[i]->name, lab_engine_remedy(ringer_engines[i], X86_OP_INVALID),
                lab_engine_usable(ringer_engines[i], NULL, 0) ? "" : " (not usable on this host)");
    /* Engines that treat some of them otherwise. */
    for (unsigned k = 0; ringer_engines[k]; k++)
        for (unsigned i = 0; i < rep->nops; i++) {
            const char *how = lab_engine_remedy(ringer_engines[k], rep->op[i].op);
            if (probe_offender(&rep->op[i]) && strcmp(how, lab_engine_remedy(ringer_engines[k], X86_OP_INVALID)))
                fprintf(f, "  %-9s %s: %s\n", ringer_engines[k]->name, probe_pretty(rep->op[i].name, name), how);
        }
}

/* --- JSON --------------------------------------------------------------- */

static void add_str(struct json_object *o, const char *k, const char *v)
{
    json_object_object_add(o, k, json_object_new_string(v));
}

static void add_bool(struct json_object *o, const char *k, bool v)
{
    json_object_object_add(o, k, json_object_new_boolean(v));
}

static struct json_object *json_class(unsigned pg)
{
    struct json_object *o = json_object_new_object();
    add_bool(o, "privileged", pg & X86_PG_PRIVILEGED);
    add_bool(o, "control_sensitive", pg & X86_PG_CONTROL);
    add_bool(o, "behaviour_sensitive", pg & X86_PG_BEHAVIOUR);
    add_bool(o, "robin_irvine", pg & X86_PG_ROBIN_IRVINE);
    return o;
}

static struct json_object *json_result(const struct probe_result *r)
{
    struct json_object *o = json_object_new_object();
    struct probe_code pc;
    char hexs[2 * sizeof(pc.bytes) + 1] = "";
    probe_assemble(r->c, r->m32, &pc);
    for (unsigned i = pc.insn; i < pc.len; i++)
        snprintf(hexs + 2 * (i - pc.insn), 3, "%02x", pc.bytes[i]);
    add_str(o, "instruction", r->row ? r->row->name : "");
    json_object_object_add(o, "mode", json_object_new_int(r->m32 ? 32 : 64));
    add_str(o, "form", r->c->form);
    add_str(o, "bytes", hexs);
    json_object_object_add(o, "class", json_class(r->row ? r->row->pg : 0));
    add_str(o, "outcome", probe_verdict_name[r->verdict]);
    add_bool(o, "trapped", probe_traps(r->verdict));
    add_str(o, "text", r->text);
    if (r->cycles)
        json_object_object_add(o, "cycles", json_object_new_int64(r->cycles));
    return o;
}

static struct json_object *json_sets(const struct probe_report *rep)
{
    struct json_object *sets = json_object_new_object();
    for (unsigned s = 0; s < SET_COUNT; s++) {
        struct json_object *a = json_object_new_array();
        for (unsigned i = 0; i < rep->nops; i++)
            if (probe_in(&rep->op[i], s))
                json_object_array_add(a, json_object_new_string(rep->op[i].name));
        json_object_object_add(sets, probe_sets[s].key, a);
    }
    return sets;
}

static struct json_object *json_theorem(const struct probe_report *rep)
{
    struct json_object *t = json_object_new_object(), *a = json_object_new_array();
    char line[600];
    probe_verdict(rep, line, sizeof(line));
    add_bool(t, "trap_and_emulate_suffices", !probe_count(rep, SET_OFFENDERS_FOUND));
    add_str(t, "verdict", line);
    for (unsigned i = 0; i < rep->nops; i++) {
        const struct probe_op *op = &rep->op[i];
        if (!probe_offender(op))
            continue;
        struct json_object *o = json_object_new_object();
        add_str(o, "instruction", op->name);
        add_bool(o, "robin_irvine", op->pg & X86_PG_ROBIN_IRVINE);
        add_bool(o, "host_can_make_it_trap", op->configurable);
        add_str(o, "form", op->witness->c->form);
        json_object_object_add(o, "mode", json_object_new_int(op->witness->m32 ? 32 : 64));
        add_str(o, "text", op->witness->text);
        struct json_object *eng = json_object_new_object();
        for (unsigned k = 0; ringer_engines[k]; k++)
            add_str(eng, ringer_engines[k]->name, lab_engine_remedy(ringer_engines[k], op->op));
        json_object_object_add(o, "engines", eng);
        json_object_array_add(a, o);
    }
    json_object_object_add(t, "offenders", a);
    return t;
}

void probe_print_json(const struct probe_report *rep, FILE *f)
{
    struct json_object *o = json_object_new_object(), *res = json_object_new_array(), *eng = json_object_new_array();
    add_str(o, "cpu", rep->cpu);
    add_str(o, "host", rep->kernel);
    add_bool(o, "umip", rep->umip);
    add_bool(o, "cpuid_faulting", rep->cpuid_faulting);
    add_bool(o, "tsc_disable", rep->tsc_disable);
    add_bool(o, "hypervisor", rep->hypervisor);
    add_bool(o, "mode_32", rep->mode32);
    for (unsigned i = 0; i < rep->nresults; i++)
        json_object_array_add(res, json_result(&rep->result[i]));
    json_object_object_add(o, "results", res);
    json_object_object_add(o, "sets", json_sets(rep));
    json_object_object_add(o, "theorem", json_theorem(rep));
    for (unsigned i = 0; ringer_engines[i]; i++) {
        struct json_object *e = json_object_new_object();
        add_str(e, "name", ringer_engines[i]->name);
        add_bool(e, "usable", lab_engine_usable(ringer_engines[i], NULL, 0));
        add_str(e, "offenders", lab_engine_remedy(ringer_engines[i], X86_OP_INVALID));
        json_object_array_add(eng, e);
    }
    json_object_object_add(o, "engines", eng);
    fprintf(f, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
}
