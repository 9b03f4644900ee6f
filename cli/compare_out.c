/* The comparison as a table, as JSON and as a page. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/compare.h"
#include "cli/html.h"
#include "cli/report.h"

#define DIRECT_NS REPORT_DIRECT_NS

static double number(struct json_object *o, const char *key)
{
    struct json_object *v = json_at(o, key);
    return v ? json_object_get_double(v) : 0;
}

static const char *result(const struct compare *c, unsigned i)
{
    const struct compare_run *r = &c->run[i];
    return r->skipped[0] ? "not run" : !r->equal ? "DIFFERENT" : i == c->reference ? "reference" : "equal";
}

static void end_text(const struct compare_run *r, char *buf, size_t cap)
{
    struct json_object *e = json_at(r->data, "end");
    if (r->skipped[0])
        *buf = 0;
    else if (r->timed_out)
        snprintf(buf, cap, "out of time");
    else if (r->status >= 256)
        snprintf(buf, cap, "signal %d", r->status - 256);
    else
        snprintf(buf, cap, "%.40s, %d", e ? json_object_get_string(e) : "error", r->status);
}

/* What the host's CPU executed by itself. Hardware does not count instructions: its share is of time. */
static void direct_text(const struct compare_run *r, char *buf, size_t cap)
{
    struct json_object *d = r->data, *k = json_at(d, "engine_counters"), *t = json_at(d, "time");
    double insns = number(json_at(d, "instructions"), "total");
    *buf = 0;
    if (!d)
        return;
    if (r->engine == &engine_interp) {
        snprintf(buf, cap, "none");
    } else if (r->engine->caps & ENGINE_CAP_HARDWARE) {
        double guest = number(t, "guest_seconds"), all = guest + number(t, "device_seconds");
        snprintf(buf, cap, "%.2f%% of time", all > 0 ? 100 * guest / all : 0);
    } else if (r->engine == &engine_translate && insns > 0) {
        double not = number(k, "executor_calls") + number(k, "done_exactly") + number(k, "single_steps") + number(k, "interpreter_insns");
        snprintf(buf, cap, "%.2f%%, translated", not < insns ? 100 * (1 - not / insns) : 0.0);
    } else if (json_at(k, DIRECT_NS)) {
        double all = number(t, "guest_seconds") + number(t, "device_seconds");
        snprintf(buf, cap, "%.2f%% of time", all > 0 ? number(k, DIRECT_NS) / 1e7 / all : 0.0);
    } else {
        snprintf(buf, cap, "not counted");
    }
}

/* How many instructions the guest's work takes, if that can be said: guests that wait for time execute more of them on a faster engine, so two that
 * count have to agree within 2%. 0: cannot be said. */
static double work(const struct compare *c)
{
    const struct compare_run *ref = &c->run[c->reference];
    const double all = number(json_at(ref->data, "instructions"), "total");
    for (unsigned i = 0; i < c->n && (ref->engine->caps & ENGINE_CAP_COUNT); i++) {
        const struct compare_run *r = &c->run[i];
        const double n = number(json_at(r->data, "instructions"), "total");
        if (r != ref && r->equal && (r->engine->caps & ENGINE_CAP_COUNT) && n > 0.98 * all && n < 1.02 * all)
            return all;
    }
    return 0;
}

/* Direct execution: the instructions that trapped or were interpreted, and the share of the others. */
static void left_alone(const struct compare_run *r, double all, char *not, char *share, size_t cap)
{
    char num[32];
    if (!json_at(json_at(r->data, "engine_counters"), DIRECT_NS))
        return;
    const uint64_t n = json_u64(json_at(r->data, "instructions"), "total");
    snprintf(not, cap, "%s", html_digits(n, num));
    if (r->equal && (double)n < all)
        snprintf(share, cap, "%.3f%%", 100 * (1 - (double)n / all));
}

static unsigned find(struct compare_metric *m, unsigned first, unsigned *n, const char *name)
{
    for (unsigned i = first; i < *n; i++)
        if (!strcmp(m[i].name, name))
            return i;
    if (*n == COMPARE_METRICS)
        return COMPARE_METRICS;
    memset(&m[*n], 0, sizeof(*m));
    snprintf(m[*n].name, sizeof(m->name), "%.63s", name);
    return (*n)++;
}

unsigned compare_metrics(const struct compare *c, struct compare_metric m[COMPARE_METRICS])
{
    enum { RESULT, END, WALL, RELATIVE, CPU, INSNS, PRIV, SENS, DIRECT, MONITOR, SHARE, FIXED };
    static const char *const names[FIXED] = {"result", "end, exit status", "wall time", "relative to the fastest", "host CPU time", "instructions", "privileged",
                                             "sensitive, unprivileged", "executed directly", "instructions by the monitor", "instructions left alone"};
    const double all = work(c);
    double best = 0;
    for (unsigned i = 0; i < c->n; i++) {
        const double w = number(c->run[i].data, "wall_seconds");
        if (c->run[i].data && w > 0 && (best <= 0 || w < best))
            best = w;
    }
    unsigned n = 0;
    char num[32];
    for (unsigned k = 0; k < FIXED; k++)
        find(m, 0, &n, names[k]);
    for (unsigned i = 0; i < c->n; i++) {
        const struct compare_run *r = &c->run[i];
        struct json_object *in = json_at(r->data, "instructions"), *x = json_at(r->data, "exits");
        const size_t w = sizeof(m->value[0]);
        snprintf(m[RESULT].value[i], w, "%s", result(c, i));
        end_text(r, m[END].value[i], w);
        if (!r->data)
            continue;
        snprintf(m[WALL].value[i], w, "%.3f s", number(r->data, "wall_seconds"));
        if (best > 0)
            snprintf(m[RELATIVE].value[i], w, "%.2f", number(r->data, "wall_seconds") / best);
        snprintf(m[CPU].value[i], w, "%.3f s", number(r->data, "host_cpu_seconds"));
        bool counts = r->engine->caps & ENGINE_CAP_COUNT;
        snprintf(m[INSNS].value[i], w, "%s", counts ? html_digits(json_u64(in, "total"), num) : "not counted");
        if (counts) {
            snprintf(m[PRIV].value[i], w, "%s", html_digits(json_u64(in, "privileged"), num));
            snprintf(m[SENS].value[i], w, "%s", html_digits(json_u64(in, "sensitive_unprivileged"), num));
        }
        direct_text(r, m[DIRECT].value[i], w);
        left_alone(r, all, m[MONITOR].value[i], m[SHARE].value[i], w);
        if (!x)
            continue;
        json_object_object_foreach(x, key, val)
        {
            char name[64];
            uint64_t v = json_object_get_uint64(val);
            snprintf(name, sizeof(name), "exits: %.50s", key);
            unsigned k = v ? find(m, FIXED, &n, name) : COMPARE_METRICS;
            if (k < COMPARE_METRICS)
                snprintf(m[k].value[i], w, "%s", html_digits(v, num));
        }
        /* Direct execution leaves by traps, which only the engine sees. */
        struct json_object *own = json_at(r->data, "engine_counters");
        if (counts || (r->engine->caps & ENGINE_CAP_HARDWARE) || !own)
            continue;
        json_object_object_foreach(own, name, count)
        {
            uint64_t v = json_object_get_uint64(count);
            unsigned k = v && strcmp(name, DIRECT_NS) ? find(m, FIXED, &n, name) : COMPARE_METRICS;
            if (k < COMPARE_METRICS)
                snprintf(m[k].value[i], w, "%s", html_digits(v, num));
        }
    }
    return n;
}

void compare_text(FILE *f, const struct compare *c)
{
    struct compare_metric *m = calloc(COMPARE_METRICS, sizeof(*m));
    unsigned n = m ? compare_metrics(c, m) : 0, width[COMPARE_ENGINES], first = 0;
    for (unsigned k = 0; k < n; k++)
        first = strlen(m[k].name) > first ? (unsigned)strlen(m[k].name) : first;
    for (unsigned i = 0; i < c->n; i++) {
        width[i] = (unsigned)strlen(c->run[i].name);
        for (unsigned k = 0; k < n; k++)
            if (strlen(m[k].value[i]) > width[i])
                width[i] = (unsigned)strlen(m[k].value[i]);
    }
    fprintf(f, "%-*s", (int)first, "");
    for (unsigned i = 0; i < c->n; i++)
        fprintf(f, "  %*s", (int)width[i], c->run[i].name);
    fputc('\n', f);
    for (unsigned k = 0; k < n; k++) {
        fprintf(f, "%-*s", (int)first, m[k].name);
        for (unsigned i = 0; i < c->n; i++)
            fprintf(f, "  %*s", (int)width[i], m[k].value[i][0] ? m[k].value[i] : "-");
        fputc('\n', f);
    }
    for (unsigned i = 0; i < c->n; i++) {
        const struct compare_run *r = &c->run[i];
        if (r->skipped[0])
            fprintf(f, "%s: not run: %s\n", r->name, r->skipped);
        if (r->difference[0])
            fprintf(f, "%s: %s\n", r->name, r->difference);
        if (r->message[0])
            fprintf(f, "%s said: %s\n", r->name, r->message);
    }
    fprintf(f, "results: %s\n", c->equal ? "equal" : "different");
    free(m);
}

struct json_object *compare_json(const struct compare *c)
{
    struct json_object *o = json_object_new_object(), *list = json_object_new_array();
    json_object_object_add(o, "guest", json_object_new_string(c->guest));
    json_object_object_add(o, "equal", json_object_new_boolean(c->equal));
    json_object_object_add(o, "reference", json_object_new_string(c->run[c->reference].name));
    for (unsigned i = 0; i < c->n; i++) {
        const struct compare_run *r = &c->run[i];
        struct json_object *e = json_object_new_object();
        char buf[64];
        json_object_object_add(e, "engine", json_object_new_string(r->name));
        json_object_object_add(e, "result", json_object_new_string(result(c, i)));
        if (r->skipped[0]) {
            json_object_object_add(e, "reason", json_object_new_string(r->skipped));
        } else {
            json_object_object_add(e, "exit_status", json_object_new_int(r->status));
            json_object_object_add(e, "timed_out", json_object_new_boolean(r->timed_out));
            json_object_object_add(e, "console_bytes", json_object_new_uint64(r->total));
            json_object_object_add(e, "message", json_object_new_string(r->message));
            json_object_object_add(e, "difference", json_object_new_string(r->difference));
            direct_text(r, buf, sizeof(buf));
            json_object_object_add(e, "executed_directly", json_object_new_string(buf));
            json_object_object_add(e, "run", json_object_get(r->data));
        }
        json_object_array_add(list, e);
    }
    json_object_object_add(o, "engines", list);
    return o;
}

static void bars(FILE *f, const struct compare *c, const char *title, const char *key, unsigned color)
{
    struct html_bar b[COMPARE_ENGINES];
    char text[COMPARE_ENGINES][32];
    unsigned n = 0;
    for (unsigned i = 0; i < c->n; i++)
        if (c->run[i].data) {
            double v = number(c->run[i].data, key);
            snprintf(text[n], sizeof(text[n]), "%.3f s", v);
            b[n] = (struct html_bar){c->run[i].name, v, text[n], color};
            n++;
        }
    fprintf(f, "<h2>%s</h2>\n", title);
    html_bars(f, title, b, n);
}

void compare_html(FILE *f, const struct compare *c)
{
    struct compare_metric *m = calloc(COMPARE_METRICS, sizeof(*m));
    unsigned n = m ? compare_metrics(c, m) : 0, ran = 0;
    const char *slash = strrchr(c->guest, '/');
    const struct compare_run *ref = &c->run[c->reference];
    char title[300];
    for (unsigned i = 0; i < c->n; i++)
        ran += !c->run[i].skipped[0];
    snprintf(title, sizeof(title), "%.200s under %u engines", slash ? slash + 1 : c->guest, ran);
    html_begin(f, title, title, "A comparison by ringer: the same guest, one engine after the other");
    fprintf(f, "<p class=\"verdict%s\">%s</p>\n", c->equal ? " good" : "",
            c->equal ? "All results are equal: console output, carriage returns aside, and exit status." : "Results differ.");
    bars(f, c, "Wall time", "wall_seconds", 0);
    bars(f, c, "Host CPU time", "host_cpu_seconds", 2);
    fputs("<h2>Figures</h2>\n<div class=\"wrap\"><table><thead><tr><th></th>", f);
    for (unsigned i = 0; i < c->n; i++)
        fprintf(f, "<th class=\"n\">%s</th>", c->run[i].name);
    fputs("</tr></thead><tbody>\n", f);
    for (unsigned k = 0; k < n; k++) {
        fputs("<tr><td>", f);
        html_esc(f, m[k].name);
        fputs("</td>", f);
        for (unsigned i = 0; i < c->n; i++) {
            const char *cls = k || c->run[i].skipped[0] ? "n" : c->run[i].equal ? "n ok" : "n bad";
            fprintf(f, "<td class=\"%s\">", cls);
            html_esc(f, m[k].value[i]);
            fputs("</td>", f);
        }
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table></div>\n", f);
    for (unsigned i = 0; i < c->n; i++) {
        const struct compare_run *r = &c->run[i];
        const char *note[] = {r->skipped, r->difference, r->message};
        for (unsigned k = 0; k < 3; k++)
            if (note[k][0]) {
                fprintf(f, "<p><b>%s</b>%s ", r->name, k == 0 ? ", not run:" : k == 1 ? ", different:" : " said:");
                html_esc(f, note[k]);
                fputs("</p>\n", f);
            }
    }
    size_t from = ref->len > 8192 ? ref->len - 8192 : 0;
    fprintf(f, "<h2>Console output%s, with %s</h2>\n<pre>", from ? " (its end)" : "", ref->name);
    html_escn(f, ref->out ? ref->out + from : "", ref->len - from);
    fputs("</pre>\n", f);
    struct json_object *j = compare_json(c);
    html_end(f, j);
    json_object_put(j);
    free(m);
}
