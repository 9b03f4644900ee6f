/* See report.h. A low-rate thread reads the counters the vCPUs keep anyway; only the table of sites and the time of device accesses are kept for
 * reports alone. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/report.h"
#include "cli/sites.h"

#define INTERVAL 50000000ull
#define TOP_SITES 40u

struct report {
    struct vm *vm;
    const struct run_options *o;
    FILE *page;
    const struct symbols *sym;
    struct host_thread *thread;
    struct host_event *stop;
    uint64_t interval;
    const char *cause[REPORT_CAUSES];
    unsigned ncause;
    unsigned n;
    struct report_sample s[REPORT_SAMPLES];
};

uint64_t json_u64(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_uint64(v) : 0;
}

struct json_object *json_at(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

void json_add_u64(struct json_object *o, const char *key, uint64_t v)
{
    json_object_object_add(o, key, json_object_new_uint64(v));
}

void json_add_text(struct json_object *o, const char *key, const char *v)
{
    json_object_object_add(o, key, json_object_new_string(v));
}

static uint64_t accesses(const struct gpa_map *m)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < m->n; i++)
        if (m->r[i].kind == GPA_IO && m->r[i].counters)
            n += counter_read(&m->r[i].counters[0]) + counter_read(&m->r[i].counters[1]);
    return n;
}

static void cause(struct report_causes *c, const char *name, uint64_t n)
{
    if (c->count < REPORT_CAUSES) {
        c->name[c->count] = name;
        c->n[c->count++] = n;
    }
}

void report_count(struct vm *vm, struct report_causes *c)
{
    struct engine_stat row[64];
    c->count = 0;
    /* Hardware names its exits itself; their order is that of the engine, so a cause that comes later gets the next place. */
    unsigned n = (vm->engine->caps & ENGINE_CAP_HARDWARE) && vm->engine->stats ? vm->engine->stats(vm, row, 64) : 0, named = 0;
    for (unsigned i = 0; i < n && i < 64; i++)
        if (!strncmp(row[i].name, "exit ", 5)) {
            cause(c, row[i].name + 5, row[i].value);
            named++;
        }
    if (named)
        return;
    struct totals t;
    uint64_t exceptions = 0, exits = 0;
    totals_sum(vm, &t);
    for (unsigned k = 0; k < 32; k++)
        exceptions += t.exceptions[k];
    for (unsigned k = 0; k < 16; k++)
        exits += t.exits[k];
    cause(c, "port I/O", accesses(vm->pio) + counter_read(&vm->unmapped[2]) + counter_read(&vm->unmapped[3]));
    cause(c, "memory-mapped I/O", accesses(vm->mem) + counter_read(&vm->unmapped[0]) + counter_read(&vm->unmapped[1]));
    cause(c, "halt", t.exits[EXIT_HLT]);
    cause(c, "interrupt", t.interrupts);
    cause(c, "page fault", t.exceptions[X86_PF]);
    cause(c, "other exception", exceptions - t.exceptions[X86_PF]);
    cause(c, "request", t.exits[EXIT_KICK]);
    cause(c, "other exit", exits - t.exits[EXIT_HLT] - t.exits[EXIT_KICK]);
}

static void take(struct report *r)
{
    struct vm *vm = r->vm;
    struct report_causes c;
    if (r->n == REPORT_SAMPLES) {
        for (unsigned i = 0; i < REPORT_SAMPLES / 2; i++)
            r->s[i] = r->s[2 * i];
        r->n = REPORT_SAMPLES / 2;
        r->interval *= 2;
    }
    struct report_sample *s = &r->s[r->n++];
    memset(s, 0, sizeof(*s));
    host_lock(vm->device_lock);
    report_count(vm, &c);
    host_unlock(vm->device_lock);
    s->t = host_now() - vm->start_ns;
    for (unsigned i = 0; i < vm->ncpu; i++) {
        const struct vcpu *v = vm->cpu[i];
        s->insns += v->insns;
        for (unsigned k = 1; k < 8; k++)
            *(k & X86_PG_PRIVILEGED ? &s->privileged : &s->unprivileged) += v->cpu.pg_count[k];
    }
    for (unsigned i = 0; i < c.count; i++) {
        unsigned k = 0;
        while (k < r->ncause && strcmp(r->cause[k], c.name[i]))
            k++;
        if (k == r->ncause && k < REPORT_CAUSES)
            r->cause[r->ncause++] = c.name[i];
        if (k < REPORT_CAUSES)
            s->cause[k] = c.n[i];
    }
}

static void sampler(void *arg)
{
    struct report *r = arg;
    do
        take(r);
    while (!host_event_wait(r->stop, host_now() + r->interval));
}

struct report *report_new(struct vm *vm, const struct run_options *o, const struct symbols *sym, char *err, size_t cap)
{
    struct report *r = calloc(1, sizeof(*r));
    if (!r) {
        snprintf(err, cap, "out of memory");
        return NULL;
    }
    *r = (struct report){.vm = vm, .o = o, .sym = sym, .interval = INTERVAL, .stop = host_event_new()};
    snprintf(err, cap, "out of memory");
    bool ok = r->stop;
    if (ok && o->report && !(r->page = fopen(o->report, "we"))) {
        snprintf(err, cap, "--report: %s: %s", o->report, strerror(errno));
        ok = false;
    }
    if (ok)
        ok = sites_keep(vm, false) == 0;
    vm->timed = true;
    if (!ok) {
        report_free(r);
        return NULL;
    }
    return r;
}

int report_start(struct report *r)
{
    r->thread = host_thread_start("report", sampler, r);
    return r->thread ? 0 : -1;
}

static void stop(struct report *r)
{
    if (!r->thread)
        return;
    host_event_set(r->stop);
    host_thread_join(r->thread);
    r->thread = NULL;
}

static struct json_object *machine(const struct report *r)
{
    const struct run_options *o = r->o;
    struct json_object *m = json_object_new_object(), *list = json_object_new_array();
    json_add_text(m, "kernel", o->kernel);
    for (unsigned i = 0; i < o->ninitrd; i++)
        json_object_array_add(list, json_object_new_string(o->initrd[i]));
    json_object_object_add(m, "initrd", list);
    json_add_text(m, "append", o->append);
    json_add_u64(m, "memory_bytes", o->memory);
    list = json_object_new_array();
    for (unsigned i = 0; i < o->ndisk; i++)
        json_object_array_add(list, json_object_new_string(o->disk[i].path));
    json_object_object_add(m, "disks", list);
    json_add_text(m, "engine_chosen", o->engine);
    json_add_text(m, "engine_summary", r->vm->engine->summary);
    return m;
}

static struct json_object *samples(const struct report *r)
{
    struct json_object *o = json_object_new_object(), *t = json_object_new_array(), *n = json_object_new_array(), *c = json_object_new_object();
    for (unsigned i = 0; i < r->n; i++) {
        json_object_array_add(t, json_object_new_double((double)r->s[i].t / 1e9));
        json_object_array_add(n, json_object_new_uint64(r->s[i].insns));
    }
    for (unsigned k = 0; k < r->ncause; k++) {
        struct json_object *a = json_object_new_array();
        for (unsigned i = 0; i < r->n; i++)
            json_object_array_add(a, json_object_new_uint64(r->s[i].cause[k]));
        json_object_object_add(c, r->cause[k], a);
    }
    json_object_object_add(o, "seconds", t);
    json_object_object_add(o, "instructions", n);
    json_object_object_add(o, "exits", c);
    return o;
}

static struct json_object *times(const struct vm *vm, uint64_t wall)
{
    struct json_object *o = json_object_new_object();
    uint64_t io = 0, halted = 0, parked = 0, all = wall * vm->ncpu;
    for (unsigned i = 0; i < vm->ncpu; i++) {
        io += vm->cpu[i]->io_ns;
        halted += vm->cpu[i]->halted_ns;
        parked += vm->cpu[i]->parked_ns;
    }
    const uint64_t others = io + halted + parked;
    json_object_object_add(o, "guest_seconds", json_object_new_double((double)(all > others ? all - others : 0) / 1e9));
    json_object_object_add(o, "device_seconds", json_object_new_double((double)io / 1e9));
    json_object_object_add(o, "halted_seconds", json_object_new_double((double)halted / 1e9));
    json_object_object_add(o, "parked_seconds", json_object_new_double((double)parked / 1e9));
    return o;
}

static int written(FILE *f, const char *what)
{
    if ((fflush(f) | ferror(f)) == 0)
        return 0;
    cli_error("%s: %s", what, strerror(errno));
    return -1;
}

int report_finish(struct report *r, const char *end, int status)
{
    struct vm *vm = r->vm;
    int res = 0;
    stop(r);
    if (r->n > 1 && host_now() - vm->start_ns - r->s[r->n - 1].t < r->interval / 2)
        r->n--; /* a rate over next to nothing would tower above all others */
    take(r);
    struct json_object *d = stats_json(vm), *x = json_object_new_object();
    const struct report_sample *last = &r->s[r->n - 1];
    json_add_text(d, "end", end);
    json_object_object_add(d, "exit_status", json_object_new_int(status));
    json_object_object_add(d, "machine", machine(r));
    json_object_object_add(d, "counts_instructions", json_object_new_boolean(!!(vm->engine->caps & ENGINE_CAP_COUNT)));
    json_object_object_add(d, "time", times(vm, last->t));
    for (unsigned k = 0; k < r->ncause; k++)
        json_add_u64(x, r->cause[k], last->cause[k]);
    json_object_object_add(d, "exits", x);
    json_object_object_add(d, "sites", sites_json(vm, r->sym, TOP_SITES, d));
    json_object_object_add(d, "samples", samples(r));
    if (r->page) {
        struct report_view v = {r->o, r->s, r->n, r->cause, r->ncause, vm->engine->caps & ENGINE_CAP_COUNT};
        report_html(r->page, d, &v);
        res |= written(r->page, "--report");
    }
    if (r->o->data_fd) {
        FILE *f = fdopen(dup(r->o->data_fd), "w");
        if (f) {
            fputs(json_object_to_json_string(d), f);
            res |= written(f, "compare");
            fclose(f);
        }
    }
    json_object_put(d);
    return res;
}

void report_free(struct report *r)
{
    if (!r)
        return;
    stop(r);
    if (r->page)
        fclose(r->page);
    host_event_free(r->stop);
    free(r);
}
