/* What a run looked like: samples of its counters, and the page made of them. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <json-c/json.h>
#include <stdio.h>

#include "cli/cli.h"

struct report;

/* Of a complete machine, before vm_start. Opens o->report, keeps tables of sites (cli/sites.h); sym may be NULL and must live as long. NULL with
 * one line in err. */
struct symbols;
struct report *report_new(struct vm *vm, const struct run_options *o, const struct symbols *sym, char *err, size_t cap);
/* With the machine running: start sampling. 0 or -1. */
int report_start(struct report *r);
/* The machine has ended: stop sampling, write the page and o->data_fd. 0, or -1 after one line on stderr. */
int report_finish(struct report *r, const char *end, int status);
void report_free(struct report *r);

/* Sums of a machine's counters by cause; under the device lock. */
#define REPORT_CAUSES 8
struct report_causes {
    const char *name[REPORT_CAUSES];
    uint64_t n[REPORT_CAUSES];
    unsigned count;
};
void report_count(struct vm *vm, struct report_causes *c);

/* Samples: cumulative counters at moments, at most REPORT_SAMPLES of them; on overflow every second one goes and the interval doubles. */
#define REPORT_SAMPLES 400u
struct report_sample {
    uint64_t t; /* ns since the machine's creation */
    uint64_t insns, privileged, unprivileged; /* instructions: all, privileged, sensitive but not privileged */
    uint64_t cause[REPORT_CAUSES];
};
struct report_view {
    const struct run_options *o;
    const struct report_sample *sample;
    unsigned nsample;
    const char *const *cause;
    unsigned ncause;
    bool counts; /* the engine counts instructions */
};
/* The page (cli/report_html.c), drawn from the data alone and the samples. */
void report_html(FILE *f, struct json_object *data, const struct report_view *v);

struct json_object *stats_json(struct vm *vm); /* takes the device lock; the caller puts the object */
/* What all vCPUs have counted, good to a few events while they run. */
struct totals {
    uint64_t insns, pg[8], exceptions[32], exits[16], interrupts, halted_ns, parked_ns, walks, flushes;
};
void totals_sum(const struct vm *vm, struct totals *t);
/* A counter that all threads add to atomically. */
static inline uint64_t counter_read(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }

const char *vector_name(unsigned vector); /* of an exception, "#PF" or the number */
uint64_t json_u64(struct json_object *o, const char *key); /* 0 if it is not there */
struct json_object *json_at(struct json_object *o, const char *key); /* or NULL */
void json_add_u64(struct json_object *o, const char *key, uint64_t v);
void json_add_text(struct json_object *o, const char *key, const char *v); /* copied */

/* Engine counter of the time in direct execution, for engines that leave the monitor's process. */
#define REPORT_DIRECT_NS "nanoseconds of direct execution"

#endif
