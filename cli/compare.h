/* One guest under several engines: what each run left, and the reports about them. */
#ifndef CLI_COMPARE_H
#define CLI_COMPARE_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "ringer/engine.h"

#define COMPARE_ENGINES 16

struct compare_run {
    const struct engine_ops *engine;
    const char *name; /* the engine's, or of a variant of it */
    bool lazy;        /* trap --patch=lazy */
    char skipped[240]; /* why it did not run; "": it did */
    int status;        /* exit status; 256 + N: ended by signal N */
    bool timed_out;
    char *out;         /* console output without carriage returns, what fitted */
    size_t len, cap;
    unsigned long long total; /* all of it */
    char message[512]; /* last line on standard error */
    struct json_object *data; /* the run's figures; NULL if it left none */
    bool equal;
    char difference[400];
};

struct compare {
    const char *guest;
    struct compare_run run[COMPARE_ENGINES];
    unsigned n, reference; /* index of the run the others are held against */
    bool equal;
};

#define COMPARE_METRICS 64
/* A figure of the table: its name, and its text for one run ("" if it has none). */
struct compare_metric {
    char name[64];
    char value[COMPARE_ENGINES][64];
};
unsigned compare_metrics(const struct compare *c, struct compare_metric m[COMPARE_METRICS]);
void compare_text(FILE *f, const struct compare *c);
struct json_object *compare_json(const struct compare *c);
void compare_html(FILE *f, const struct compare *c);

#endif
