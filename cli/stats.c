/* Statistics of a machine, as text or JSON. Counters are written by the vCPU threads without locks; a reading while they run
 * is a snapshot good to a few events. */
#include <unistd.h>
#include <fcntl.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "cli/report.h"
#include "cli/sites.h"

static const char *const vector_names[32] = {
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP", "#PF", "15",
    "#MF", "#AC", "#MC", "#XM", "#VE", "#CP", "22", "23", "24", "25", "26", "27", "28", "29", "30", "31",
};

const char *vector_name(unsigned vector) { return vector < 32 ? vector_names[vector] : "?"; }

/* The vCPUs' own counters are plain words, each stored whole by its one writer. */
__attribute__((no_sanitize("thread"))) void totals_sum(const struct vm *vm, struct totals *t)
{
    memset(t, 0, sizeof(*t));
    for (unsigned i = 0; i < vm->ncpu; i++) {
        const struct vcpu *v = vm->cpu[i];
        t->insns += v->insns;
        t->halted_ns += v->halted_ns;
        t->parked_ns += v->parked_ns;
        t->walks += v->cpu.mmu.walks;
        t->flushes += v->cpu.mmu.flushes;
        for (int k = 0; k < 8; k++)
            t->pg[k] += v->cpu.pg_count[k];
        for (int k = 0; k < 32; k++)
            t->exceptions[k] += v->exceptions[k];
        for (int k = 0; k < 16; k++)
            t->exits[k] += v->exits[k];
        for (int k = 0; k < 256; k++)
            t->interrupts += v->interrupts[k];
    }
}

/* Classes overlap (LGDT is privileged and control-sensitive): each figure counts every instruction of that class. */
static uint64_t class_count(const struct totals *t, unsigned bit)
{
    uint64_t n = 0;
    for (unsigned k = 0; k < 8; k++)
        if (k & bit)
            n += t->pg[k];
    return n;
}

static uint64_t sensitive_total(const struct totals *t)
{
    uint64_t n = 0;
    for (unsigned k = 1; k < 8; k++)
        n += t->pg[k];
    return n;
}

/* Instructions that faulted are in their class, but were not executed. */
static uint64_t innocuous(const struct totals *t)
{
    const uint64_t n = sensitive_total(t);
    return t->insns > n ? t->insns - n : 0;
}

/* S without P: what trap-and-emulate cannot see. */
static uint64_t unprivileged_sensitive(const struct totals *t)
{
    uint64_t n = 0;
    for (unsigned k = 1; k < 8; k++)
        if (!(k & X86_PG_PRIVILEGED))
            n += t->pg[k];
    return n;
}

struct dev_count {
    const char *name;
    uint64_t read, written;
};

/* Ranges of one name (banks, BARs) are one row. */
static unsigned collect(const struct gpa_map *m, struct dev_count *d, unsigned cap)
{
    unsigned n = 0;
    for (unsigned i = 0; i < m->n; i++) {
        const struct gpa_range *r = &m->r[i];
        unsigned k = 0;
        if (r->kind != GPA_IO || !r->counters)
            continue;
        while (k < n && strcmp(d[k].name, r->name))
            k++;
        if (k == n) {
            if (n == cap)
                continue;
            d[n++] = (struct dev_count){.name = r->name};
        }
        d[k].read += counter_read(&r->counters[0]);
        d[k].written += counter_read(&r->counters[1]);
    }
    return n;
}

#define MAX_ROWS 128

static unsigned engine_rows(const struct vm *vm, struct engine_stat row[MAX_ROWS])
{
    unsigned n = vm->engine->stats ? vm->engine->stats(vm, row, MAX_ROWS) : 0;
    return n < MAX_ROWS ? n : MAX_ROWS;
}

#define TOP_TRAPS 20u

/* Seconds by what the vCPUs were at. Running is what is neither halted nor held up; what of it was not measured is shared out by samples. */
struct tiers {
    double direct, part[ENGINE_TIERS];
    uint64_t samples;
};

static bool tiers(const struct vm *vm, const struct totals *t, double wall, struct tiers *out)
{
    struct engine_times e;
    if (!vm->engine->times)
        return false;
    vm->engine->times(vm, &e);
    *out = (struct tiers){.direct = (double)e.direct_ns / 1e9};
    for (unsigned i = 0; i < ENGINE_TIERS; i++)
        out->samples += e.samples[i];
    double rest = wall * vm->ncpu - (double)(t->halted_ns + t->parked_ns) / 1e9 - out->direct;
    for (unsigned i = 0; i < ENGINE_TIERS && rest > 0; i++)
        out->part[i] = out->samples ? rest * (double)e.samples[i] / (double)out->samples : i == ENGINE_MONITOR ? rest : 0;
    return true;
}

static const struct {
    const char *text, *json;
} tier_names[ENGINE_TIERS] = {
    [ENGINE_USER] = {"translated user code", "translated_user_seconds"},
    [ENGINE_KERNEL] = {"translated kernel code", "translated_kernel_seconds"},
    [ENGINE_INTERPRETED] = {"interpreted", "interpreted_seconds"},
    [ENGINE_MONITOR] = {"in the monitor", "monitor_seconds"},
};

static void print_tiers(FILE *f, const struct tiers *w)
{
    double all = w->direct;
    for (unsigned i = 0; i < ENGINE_TIERS; i++)
        all += w->part[i];
    const double percent = all > 0 ? 100 / all : 0;
    fprintf(f, "guest time    %-22s %8.3f s  %5.1f %%\n", "direct", w->direct, w->direct * percent);
    for (unsigned i = 0; i < ENGINE_TIERS; i++)
        fprintf(f, "guest time    %-22s %8.3f s  %5.1f %%\n", tier_names[i].text, w->part[i], w->part[i] * percent);
    fprintf(f, "guest time    (all but direct by %" PRIu64 " samples)\n", w->samples);
}

static void print_insns(FILE *f, const struct totals *t, double wall, bool counted)
{
    if (counted) {
        fprintf(f, "instructions  %" PRIu64 " (%.1f million/s)\n", t->insns, wall > 0 ? (double)t->insns / wall / 1e6 : 0.0);
        fprintf(f, "  innocuous            %" PRIu64 "\n", innocuous(t));
    } else {
        fprintf(f, "instructions  not counted without --stats\n");
    }
    fprintf(f, "  privileged           %" PRIu64 "\n", class_count(t, X86_PG_PRIVILEGED));
    fprintf(f, "  control-sensitive    %" PRIu64 "\n", class_count(t, X86_PG_CONTROL));
    fprintf(f, "  behaviour-sensitive  %" PRIu64 "\n", class_count(t, X86_PG_BEHAVIOUR));
    fprintf(f, "  sensitive, not privileged  %" PRIu64 "\n", unprivileged_sensitive(t));
    fprintf(f, "exceptions   ");
    for (int k = 0; k < 32; k++)
        if (t->exceptions[k])
            fprintf(f, " %s %" PRIu64, vector_names[k], t->exceptions[k]);
    fprintf(f, "\ninterrupts    %" PRIu64 "\n", t->interrupts);
    fprintf(f, "paging        %" PRIu64 " walks, %" PRIu64 " TLB flushes\n", t->walks, t->flushes);
}

static void print_text(struct vm *vm, FILE *f, const struct totals *t, const struct symbols *sym, double wall, double cpu)
{
    struct report_causes c;
    struct tiers w;
    struct dev_count d[MAX_ROWS];
    fprintf(f, "--- ringer statistics, engine %s\n", vm->engine->name);
    fprintf(f, "time          %.3f s wall, %.3f s host CPU, %.3f s halted\n", wall, cpu, (double)t->halted_ns / 1e9);
    if (vm->cpu_limit)
        fprintf(f, "limit         %u %% of a core; virtual CPUs held up for %.3f s\n", vm->cpu_limit, (double)t->parked_ns / 1e9);
    /* The processor counts nothing for us. */
    if (!(vm->engine->caps & ENGINE_CAP_HARDWARE))
        print_insns(f, t, wall, !vm->engine_cfg.uncounted);
    if (tiers(vm, t, wall, &w))
        print_tiers(f, &w);
    report_count(vm, &c);
    for (unsigned i = 0; i < c.count; i++)
        fprintf(f, "exit          %-20s %" PRIu64 "\n", c.name[i], c.n[i]);
    struct engine_stat row[MAX_ROWS];
    unsigned rows = engine_rows(vm, row);
    for (unsigned i = 0; i < rows; i++)
        fprintf(f, "engine        %-20s %" PRIu64 "\n", row[i].name, row[i].value);
    for (int pass = 0; pass < 2; pass++) {
        unsigned n = collect(pass ? vm->mem : vm->pio, d, MAX_ROWS);
        for (unsigned i = 0; i < n; i++)
            if (d[i].read || d[i].written)
                fprintf(f, "%s  %-18s %" PRIu64 " reads, %" PRIu64 " writes\n", pass ? "mmio" : "port", d[i].name, d[i].read, d[i].written);
        if (counter_read(&vm->unmapped[pass ? 0 : 2]) || counter_read(&vm->unmapped[pass ? 1 : 3]))
            fprintf(f, "%s  %-18s %" PRIu64 " reads, %" PRIu64 " writes\n", pass ? "mmio" : "port", "(unmapped)",
                    counter_read(&vm->unmapped[pass ? 0 : 2]), counter_read(&vm->unmapped[pass ? 1 : 3]));
    }
    if (sites_kept(vm))
        sites_print(vm, sym, TOP_TRAPS, f);
}

static struct json_object *json_io(const struct gpa_map *m, uint64_t unmapped_r, uint64_t unmapped_w)
{
    struct dev_count d[MAX_ROWS];
    struct json_object *o = json_object_new_object();
    unsigned n = collect(m, d, MAX_ROWS - 1);
    d[n++] = (struct dev_count){"unmapped", unmapped_r, unmapped_w};
    for (unsigned i = 0; i < n; i++) {
        struct json_object *e = json_object_new_object();
        json_add_u64(e, "reads", d[i].read);
        json_add_u64(e, "writes", d[i].written);
        json_object_object_add(o, d[i].name, e);
    }
    return o;
}

static struct json_object *make_json(struct vm *vm, const struct totals *t, double wall, double cpu)
{
    struct json_object *o = json_object_new_object(), *i = json_object_new_object(), *e = json_object_new_object();
    json_object_object_add(o, "engine", json_object_new_string(vm->engine->name));
    json_add_u64(o, "cpus", vm->ncpu);
    json_object_object_add(o, "wall_seconds", json_object_new_double(wall));
    json_object_object_add(o, "host_cpu_seconds", json_object_new_double(cpu));
    json_object_object_add(o, "halted_seconds", json_object_new_double((double)t->halted_ns / 1e9));
    json_object_object_add(o, "parked_seconds", json_object_new_double((double)t->parked_ns / 1e9));
    json_add_u64(i, "total", t->insns);
    json_add_u64(i, "innocuous", innocuous(t));
    json_add_u64(i, "privileged", class_count(t, X86_PG_PRIVILEGED));
    json_add_u64(i, "control_sensitive", class_count(t, X86_PG_CONTROL));
    json_add_u64(i, "behaviour_sensitive", class_count(t, X86_PG_BEHAVIOUR));
    json_add_u64(i, "sensitive_unprivileged", unprivileged_sensitive(t));
    json_object_object_add(o, "instructions", i);
    for (int k = 0; k < 32; k++)
        if (t->exceptions[k])
            json_add_u64(e, vector_names[k], t->exceptions[k]);
    json_object_object_add(o, "exceptions", e);
    json_add_u64(o, "interrupts", t->interrupts);
    json_add_u64(o, "page_walks", t->walks);
    struct engine_stat row[MAX_ROWS];
    unsigned rows = engine_rows(vm, row);
    struct json_object *g = json_object_new_object();
    for (unsigned k = 0; k < rows; k++)
        json_add_u64(g, row[k].name, row[k].value);
    json_object_object_add(o, "engine_counters", g);
    json_add_u64(o, "tlb_flushes", t->flushes);
    struct tiers tier;
    if (tiers(vm, t, wall, &tier)) {
        struct json_object *w = json_object_new_object();
        json_object_object_add(w, "direct_seconds", json_object_new_double(tier.direct));
        for (unsigned k = 0; k < ENGINE_TIERS; k++)
            json_object_object_add(w, tier_names[k].json, json_object_new_double(tier.part[k]));
        json_add_u64(w, "samples", tier.samples);
        json_object_object_add(o, "guest_time", w);
    }
    struct report_causes c;
    struct json_object *x = json_object_new_object();
    report_count(vm, &c);
    for (unsigned k = 0; k < c.count; k++)
        json_add_u64(x, c.name[k], c.n[k]);
    json_object_object_add(o, "exits", x);
    json_object_object_add(o, "ports", json_io(vm->pio, counter_read(&vm->unmapped[2]), counter_read(&vm->unmapped[3])));
    json_object_object_add(o, "mmio", json_io(vm->mem, counter_read(&vm->unmapped[0]), counter_read(&vm->unmapped[1])));
    return o;
}

static void print_json(struct vm *vm, FILE *f, const struct totals *t, const struct symbols *sym, double wall, double cpu)
{
    struct json_object *o = make_json(vm, t, wall, cpu);
    if (sites_kept(vm))
        json_object_object_add(o, vm->cpu[0]->cpu.sites->traps ? "trap_sites" : "sites", sites_json(vm, sym, TOP_TRAPS, o));
    fprintf(f, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY));
    json_object_put(o);
}

struct json_object *stats_json(struct vm *vm)
{
    struct totals t;
    double wall = (double)(host_now() - vm->start_ns) / 1e9, cpu = (double)host_cpu_tree_ns() / 1e9;
    host_lock(vm->device_lock);
    totals_sum(vm, &t);
    struct json_object *o = make_json(vm, &t, wall, cpu);
    host_unlock(vm->device_lock);
    return o;
}

int stats_open(const char *name, char *err, size_t cap)
{
    const int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0)
        snprintf(err, cap, "--stats-file: %s: %s", name, strerror(errno));
    return fd;
}

void stats_print(struct vm *vm, enum stats_kind kind, const struct symbols *sym, int fd, const char *file)
{
    struct totals t;
    double wall = (double)(host_now() - vm->start_ns) / 1e9, cpu = (double)host_cpu_tree_ns() / 1e9;
    FILE *f = stderr;
    if (fd >= 0) {
        const int own = dup(fd);
        f = own < 0 ? NULL : fdopen(own, "a");
        if (!f) {
            host_log("--stats-file: %s: %s", file, strerror(errno));
            return;
        }
    }
    /* The maps may be replaced only under the device lock. */
    host_lock(vm->device_lock);
    totals_sum(vm, &t);
    (kind == STATS_JSON ? print_json : print_text)(vm, f, &t, sym, wall, cpu);
    host_unlock(vm->device_lock);
    bool bad = ferror(f) != 0;
    if (fd >= 0)
        bad |= fclose(f) != 0;
    else
        fflush(f);
    if (fd >= 0 && bad)
        host_log("--stats-file: %s: %s", file, strerror(errno));
}
