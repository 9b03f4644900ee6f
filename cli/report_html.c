/* The page of ringer run --report. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/html.h"
#include "cli/report.h"

#define MAX_BARS 40u

static double seconds(struct json_object *o, const char *key)
{
    struct json_object *v = json_at(o, key);
    return v ? json_object_get_double(v) : 0;
}

static const char *text(struct json_object *o, const char *key)
{
    struct json_object *v = json_at(o, key);
    const char *s = v ? json_object_get_string(v) : NULL;
    return s ? s : "";
}

static void row(FILE *f, const char *what, const char *value)
{
    if (!*value)
        return;
    fprintf(f, "<tr><th>%s</th><td><code>", what);
    html_esc(f, value);
    fputs("</code></td></tr>\n", f);
}

static void rows(FILE *f, const char *what, struct json_object *list)
{
    for (size_t i = 0; list && i < json_object_array_length(list); i++)
        row(f, what, json_object_get_string(json_object_array_get_idx(list, i)));
}

static void machine(FILE *f, struct json_object *d)
{
    struct json_object *m = json_at(d, "machine");
    char buf[160];
    fputs("<h2>Machine</h2>\n<div class=\"wrap\"><table><tbody>\n", f);
    row(f, "kernel", text(m, "kernel"));
    rows(f, "initial RAM disk", json_at(m, "initrd"));
    row(f, "command line", text(m, "append"));
    snprintf(buf, sizeof(buf), "%" PRIu64 " MiB", json_u64(m, "memory_bytes") >> 20);
    row(f, "memory", buf);
    snprintf(buf, sizeof(buf), "%" PRIu64, json_u64(d, "cpus"));
    row(f, "CPUs", buf);
    rows(f, "disk", json_at(m, "disks"));
    snprintf(buf, sizeof(buf), "%s (asked for: %s); %s", text(d, "engine"), text(m, "engine_chosen"), text(m, "engine_summary"));
    row(f, "engine", buf);
    snprintf(buf, sizeof(buf), "%s, exit status %" PRIu64, text(d, "end"), json_u64(d, "exit_status"));
    row(f, "end", buf);
    fputs("</tbody></table></div>\n", f);
}

static void times(FILE *f, struct json_object *d)
{
    static const char *const keys[] = {"guest_seconds", "device_seconds", "halted_seconds", "parked_seconds"};
    static const char *const names[] = {"guest execution", "devices", "halted", "held up by --cpu-limit"};
    static const unsigned color[] = {0, 1, 7, 3};
    struct json_object *t = json_at(d, "time"), *direct = json_at(json_at(d, "engine_counters"), REPORT_DIRECT_NS);
    struct html_bar b[5];
    char s[5][32];
    unsigned n = 0, parts = seconds(t, keys[3]) > 0 ? 4 : 3;
    double in = direct ? json_object_get_double(direct) / 1e9 : 0;
    if (in > seconds(t, keys[0]))
        in = seconds(t, keys[0]);
    if (direct) { /* the engine's tiers: on the processor, and all it takes to have it there */
        snprintf(s[n], sizeof(s[n]), "%.3f s", in);
        b[n] = (struct html_bar){"direct execution", in, s[n], 2};
        n++;
    }
    for (unsigned i = 0; i < parts; i++, n++) {
        double v = seconds(t, keys[i]) - (i ? 0 : in);
        snprintf(s[n], sizeof(s[n]), "%.3f s", v);
        b[n] = (struct html_bar){direct && !i ? "monitor and interpreter" : names[i], v, s[n], color[i]};
    }
    fputs("<h2>Time by kind</h2>\n", f);
    html_split(f, "Time by kind", b, n);
    fprintf(f, "<p class=\"dim\">Of all virtual CPUs together, from the machine&rsquo;s creation to its end. %s "
               "An engine with interrupt controllers of its own halts inside it.</p>\n",
            direct ? "Direct execution includes entering and leaving the sandboxed process; monitor and interpreter is the rest, with set-up and time the host gave to others."
                   : "Guest execution is the rest: the engine with all it does, set-up, and time the host gave to others.");
}

static void classes(FILE *f, struct json_object *d, bool counts)
{
    static const struct {
        const char *key, *name;
    } c[] = {{"innocuous", "innocuous"},
             {"privileged", "privileged (P)"},
             {"control_sensitive", "control-sensitive (C)"},
             {"behaviour_sensitive", "behaviour-sensitive (B)"},
             {"sensitive_unprivileged", "sensitive, not privileged"}};
    struct json_object *n = json_at(d, "instructions");
    char num[32], share[64];
    uint64_t total = json_u64(n, "total");
    fputs("<h2>Instructions by Popek&ndash;Goldberg class</h2>\n", f);
    if (!counts) {
        fputs("<p>This engine runs instructions unseen and does not count them.</p>\n", f);
        return;
    }
    fputs("<div class=\"wrap\"><table><thead><tr><th>class</th><th class=\"n\">executed</th><th class=\"n\">share</th></tr></thead><tbody>\n", f);
    for (unsigned i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        uint64_t v = json_u64(n, c[i].key);
        snprintf(share, sizeof(share), "%.4f%%", total ? 100.0 * (double)v / (double)total : 0.0);
        fprintf(f, "<tr><td>%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td></tr>\n", c[i].name, html_digits(v, num), share);
    }
    fputs("</tbody></table></div>\n<p class=\"dim\">Classes overlap: LGDT is privileged and control-sensitive. The last row is what trap-and-emulate alone cannot see.</p>\n", f);
}

/* Rates between samples: column k of the chart from what get returns. */
static void rates(FILE *f, const char *title, const struct report_view *v, const char *const *name, const unsigned *from, unsigned series, bool insns,
                  const char *unit)
{
    unsigned n = v->nsample ? v->nsample - 1 : 0;
    double *t = calloc(n + 2u, sizeof(*t)), *y = calloc((size_t)(n + 1) * (series + 1u), sizeof(*y));
    struct html_area a = {.series = series, .n = n, .t = t, .y = y, .unit = unit};
    for (unsigned k = 0; k < series; k++)
        a.name[k] = name[k];
    for (unsigned i = 0; t && y && i < v->nsample; i++) {
        const struct report_sample *s = &v->sample[i];
        t[i] = (double)s->t / 1e9;
        if (!i)
            continue;
        double dt = t[i] - t[i - 1];
        for (unsigned k = 0; k < series && dt > 0; k++) {
            const struct report_sample *p = s - 1;
            uint64_t sens = s->privileged + s->unprivileged, psens = p->privileged + p->unprivileged;
            uint64_t x = !insns ? s->cause[from[k]] - p->cause[from[k]] : k == 0 ? s->privileged - p->privileged : k == 1 ? s->unprivileged - p->unprivileged
                                : (s->insns - p->insns) - (sens - psens);
            y[(i - 1) * series + k] = (int64_t)x > 0 ? (double)x / dt : 0; /* counters are read while they move */
        }
    }
    if (t && y && n)
        html_areas(f, title, &a);
    else
        fputs("<p>The run was too short for samples.</p>\n", f);
    free(t);
    free(y);
}

static void over_time(FILE *f, const struct report_view *v)
{
    static const char *const kinds[] = {"privileged", "sensitive, not privileged", "innocuous"};
    const char *name[REPORT_CAUSES];
    unsigned from[REPORT_CAUSES], n = 0;
    const struct report_sample *last = &v->sample[v->nsample - 1];
    for (unsigned k = 0; k < v->ncause && n < HTML_SERIES; k++)
        if (last->cause[k]) {
            name[n] = v->cause[k];
            from[n++] = k;
        }
    fputs("<h2>Exits by cause over time</h2>\n", f);
    if (n)
        rates(f, "Exits by cause over time", v, name, from, n, false, "Events per second, stacked; seconds since the machine was created.");
    else
        fputs("<p>There were none.</p>\n", f);
    if (v->counts) {
        fputs("<h2>Instructions over time</h2>\n", f);
        rates(f, "Instructions over time", v, kinds, NULL, 3, true, "Instructions per second, stacked.");
    }
}

static int higher(const void *a, const void *b)
{
    const struct html_bar *x = a, *y = b;
    return x->value != y->value ? (x->value < y->value ? 1 : -1) : strcmp(x->label, y->label);
}

static void bars(FILE *f, const char *title, struct html_bar *b, unsigned n)
{
    fprintf(f, "<h2>%s</h2>\n", title);
    if (n) {
        qsort(b, n, sizeof(*b), higher);
        html_bars(f, title, b, n);
    } else {
        fputs("<p>There were none.</p>\n", f);
    }
}

static void events(FILE *f, struct json_object *d)
{
    struct html_bar b[MAX_BARS];
    unsigned n = 0;
    uint64_t irqs = json_u64(d, "interrupts");
    struct json_object *e = json_at(d, "exceptions");
    json_object_object_foreach(e, key, val)
    {
        if (n < MAX_BARS - 1)
            b[n++] = (struct html_bar){.label = key, .value = (double)json_object_get_uint64(val), .color = 3};
    }
    if (irqs)
        b[n++] = (struct html_bar){.label = "external interrupts", .value = (double)irqs, .color = 0};
    bars(f, "Exceptions and interrupts", b, n);
}

static void devices(FILE *f, struct json_object *d)
{
    struct html_bar b[MAX_BARS];
    char label[MAX_BARS][64], value[MAX_BARS][96], r[32], w[32];
    unsigned n = 0;
    for (unsigned pass = 0; pass < 2; pass++) {
        struct json_object *o = json_at(d, pass ? "mmio" : "ports");
        json_object_object_foreach(o, key, val)
        {
            uint64_t rd = json_u64(val, "reads"), wr = json_u64(val, "writes");
            if (!(rd + wr) || n == MAX_BARS)
                continue;
            snprintf(label[n], sizeof(label[n]), "%.40s (%s)", key, pass ? "memory" : "ports");
            snprintf(value[n], sizeof(value[n]), "%s reads, %s writes", html_digits(rd, r), html_digits(wr, w));
            b[n] = (struct html_bar){label[n], (double)(rd + wr), value[n], pass ? 1 : 0};
            n++;
        }
    }
    bars(f, "Accesses by device", b, n);
}

static void hot_sites(FILE *f, struct json_object *d, bool counts)
{
    struct json_object *list = json_at(d, "sites");
    size_t n = json_object_array_length(list);
    char num[32];
    fputs("<h2>Hottest sites of sensitive instructions</h2>\n", f);
    if (!n) {
        fprintf(f, "<p>%s</p>\n", counts ? "No sensitive instruction was executed." : "This engine does not see where they are.");
        return;
    }
    bool named = json_at(d, "symbols");
    fprintf(f, "<div class=\"wrap\"><table><thead><tr><th class=\"n\">executed</th><th>instruction</th><th>class</th><th>CPL</th><th>address</th>%s</tr></thead><tbody>\n",
            named ? "<th>symbol</th>" : "");
    for (size_t i = 0; i < n; i++) {
        struct json_object *s = json_object_array_get_idx(list, i);
        fprintf(f, "<tr><td class=\"n\">%s</td><td><code>", html_digits(json_u64(s, "count"), num));
        html_esc(f, text(s, "instruction"));
        fprintf(f, "</code></td><td>%s</td><td>%" PRIu64 "</td><td><code>%s</code></td>", text(s, "class"), json_u64(s, "cpl"), text(s, "address"));
        if (named) {
            fputs("<td><code>", f);
            html_esc(f, text(s, "symbol"));
            fputs("</code></td>", f);
        }
        fputs("</tr>\n", f);
    }
    fprintf(f, "</tbody></table></div>\n<p class=\"dim\">%zu of %s sites. P privileged, C control-sensitive, B behaviour-sensitive.", n,
            html_digits(json_u64(d, "sites_seen"), num));
    if (json_u64(d, "sites_dropped"))
        fprintf(f, " %s executions elsewhere found no place in the table.", html_digits(json_u64(d, "sites_dropped"), num));
    if (json_u64(d, "kernel_slide"))
        fprintf(f, " The kernel runs 0x%" PRIx64 " above its link address.", json_u64(d, "kernel_slide"));
    fputs("</p>\n", f);
}

void report_html(FILE *f, struct json_object *d, const struct report_view *v)
{
    char title[400], buf[64], num[24];
    const char *slash = strrchr(v->o->kernel, '/'), *guest = slash ? slash + 1 : v->o->kernel;
    double wall = seconds(d, "wall_seconds");
    uint64_t insns = json_u64(json_at(d, "instructions"), "total");
    snprintf(title, sizeof(title), "%.200s under %s", guest, text(d, "engine"));
    html_begin(f, title, title, "A run of ringer");
    fputs("<div class=\"cards\">\n", f);
    snprintf(buf, sizeof(buf), "%.2f s", wall);
    html_card(f, buf, "wall time");
    snprintf(buf, sizeof(buf), "%.2f s", seconds(d, "host_cpu_seconds"));
    html_card(f, buf, "host CPU time");
    html_card(f, v->counts ? html_count((double)insns, num) : "not counted", "instructions");
    if (v->counts)
        html_card(f, html_count(wall > 0 ? (double)insns / wall : 0, num), "instructions per second");
    html_card(f, text(d, "end"), "how it ended");
    fputs("</div>\n", f);
    machine(f, d);
    times(f, d);
    classes(f, d, v->counts);
    over_time(f, v);
    events(f, d);
    devices(f, d);
    hot_sites(f, d, v->counts);
    html_end(f, d);
}
