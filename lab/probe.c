/* All cases, and the sets they make. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "lab/probe.h"

static bool cpuinfo_has(const char *flag)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char *line = NULL;
    size_t cap = 0, n = strlen(flag);
    bool found = false;
    while (f && !found && getline(&line, &cap, f) > 0) {
        if (strncmp(line, "flags", 5))
            continue;
        for (char *p = line; !found && (p = strstr(p, flag)); p += n)
            found = p[-1] == ' ' && (p[n] == ' ' || p[n] == '\n');
        break;
    }
    free(line);
    if (f)
        fclose(f);
    return found;
}

static void describe(struct probe_report *rep)
{
    uint32_t r[12], a, b, c, d;
    struct utsname u;
    memset(rep->cpu, 0, sizeof(rep->cpu));
    strcpy(rep->cpu, "unknown processor");
    if ((unsigned)__get_cpuid_max(0x80000000, NULL) >= 0x80000004) {
        for (unsigned i = 0; i < 3; i++)
            __get_cpuid(0x80000002 + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
        memcpy(rep->cpu, r, 48);
        rep->cpu[48] = 0;
        for (char *p = rep->cpu; *p; p++)
            if (*p < ' ' || *p > '~')
                *p = '?';
    }
    char *s = rep->cpu + strspn(rep->cpu, " ");
    memmove(rep->cpu, s, strlen(s) + 1);
    if (__get_cpuid(1, &a, &b, &c, &d) && c >> 31) {
        rep->hypervisor = true;
        __cpuid(0x40000000, a, b, c, d);
        uint32_t id[3] = {b, c, d};
        memcpy(rep->below, id, 12);
        for (char *p = rep->below; *p; p++)
            if (*p < ' ' || *p > '~')
                *p = '?';
    }
    if (!uname(&u))
        snprintf(rep->kernel, sizeof(rep->kernel), "%s %s", u.sysname, u.release);
    rep->umip = cpuinfo_has("umip");
}

/* INC EAX is one byte in 32-bit code and a REX prefix in 64-bit code: proof of the mode. */
static const struct probe_case mode_case = {.form = "inc eax", .modes = PROBE_32, .pre = "", .code = "40", .eax = 41};

static int find_mode32(struct probe_report *rep)
{
    struct probe_raw raw;
    int e = probe_run(&mode_case, true, &raw);
    if (e)
        return e;
    rep->mode32 = raw.end == RAW_DONE && raw.gpr[X86_RAX] == 42 && raw.cs == 0x23;
    if (!rep->mode32)
        snprintf(rep->why32, sizeof(rep->why32),
                 "the host runs no 32-bit code through selector 0x23 (signal %d, CS = %#x)", raw.sig, raw.cs);
    return 0;
}

int probe_all(struct probe_report *rep)
{
    memset(rep, 0, sizeof(*rep));
    describe(rep);
    int e = find_mode32(rep);
    rep->result = calloc(2 * probe_ncases, sizeof(*rep->result));
    if (!rep->result)
        e = -ENOMEM;
    for (unsigned m32 = 0; !e && m32 < 2; m32++) {
        if (m32 && !rep->mode32)
            break;
        for (unsigned i = 0; !e && i < probe_ncases; i++) {
            const struct probe_case *c = &probe_cases[i];
            struct probe_raw raw;
            if (!(c->modes & (m32 ? PROBE_32 : PROBE_64)))
                continue;
            e = probe_run(c, m32, &raw);
            if (e)
                break;
            struct probe_result *res = &rep->result[rep->nresults++];
            probe_judge(rep, c, m32, &raw, res);
            if (raw.system_call)
                rep->seccomp = true;
            if (c->setup == PROBE_NO_CPUID && res->verdict == PV_TRAPPED)
                rep->cpuid_faulting = true;
            if (c->setup == PROBE_NO_TSC && res->verdict == PV_TRAPPED)
                rep->tsc_disable = true;
        }
    }
    return e ? e : probe_gather(rep);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct probe_op *)a)->name, ((const struct probe_op *)b)->name);
}

int probe_gather(struct probe_report *rep)
{
    free(rep->op);
    rep->nops = 0;
    rep->op = calloc(rep->nresults + 1, sizeof(*rep->op));
    if (!rep->op)
        return -ENOMEM;
    for (unsigned i = 0; i < rep->nresults; i++) {
        const struct probe_result *r = &rep->result[i];
        unsigned k = 0;
        if (!r->row || !probe_ran(r->verdict))
            continue;
        while (k < rep->nops && rep->op[k].op != r->row->op)
            k++;
        struct probe_op *o = &rep->op[k];
        if (k == rep->nops) {
            rep->nops++;
            o->op = r->row->op;
            o->name = r->row->name;
        }
        o->pg |= r->row->pg;
        if (r->c->setup != PROBE_PLAIN) {
            o->configurable |= probe_traps(r->verdict);
        } else if (probe_traps(r->verdict)) {
            o->trapped++;
            o->undefined += r->verdict == PV_UNDEFINED;
        } else if (r->verdict != PV_EXECUTED || (r->row->pg & X86_PG_PRIVILEGED)) {
            if (!o->untrapped++)
                o->witness = r;
        }
    }
    qsort(rep->op, rep->nops, sizeof(*rep->op), by_name);
    return 0;
}

void probe_free(struct probe_report *rep)
{
    free(rep->result);
    free(rep->op);
    rep->result = NULL;
    rep->op = NULL;
}

const char *lab_class(unsigned pg, char buf[8])
{
    char *p = buf;
    if (!pg)
        *p++ = 'I';
    if (pg & X86_PG_PRIVILEGED)
        *p++ = 'P';
    if (pg & X86_PG_CONTROL)
        *p++ = 'C';
    if (pg & X86_PG_BEHAVIOUR)
        *p++ = 'B';
    if (pg & X86_PG_ROBIN_IRVINE)
        *p++ = '!';
    *p = 0;
    return buf;
}
