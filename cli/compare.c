/* `ringer compare`: each engine's run is a child process, so that one that fails takes nothing else along. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/compare.h"
#include "cli/report.h"

#define MAX_OUTPUT (64u << 20)
#define MAX_INPUT (64u << 20)

static void keep(struct compare_run *r, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\r')
            continue;
        r->total++;
        if (r->len == r->cap && r->cap < MAX_OUTPUT) {
            size_t cap = r->cap ? 2 * r->cap : 65536;
            char *q = realloc(r->out, cap);
            if (q) {
                r->out = q;
                r->cap = cap;
            }
        }
        if (r->len < r->cap)
            r->out[r->len++] = p[i];
    }
}

/* The last whole line is what counts; earlier ones are overwritten. */
static void keep_message(struct compare_run *r, const char *p, size_t n, bool *fresh)
{
    size_t len = strlen(r->message);
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\n') {
            *fresh = true;
            continue;
        }
        if (*fresh)
            len = 0;
        *fresh = false;
        if (len + 1 < sizeof(r->message))
            r->message[len++] = p[i] >= ' ' && p[i] <= '~' ? p[i] : '?';
        r->message[len] = 0;
    }
}

static struct json_object *read_data(FILE *f)
{
    struct json_tokener *tok = json_tokener_new();
    struct json_object *o = NULL;
    char buf[65536];
    size_t n;
    rewind(f);
    while (tok && (n = fread(buf, 1, sizeof(buf), f)) > 0) {
        o = json_tokener_parse_ex(tok, buf, (int)n);
        if (json_tokener_get_error(tok) != json_tokener_continue)
            break;
    }
    if (tok)
        json_tokener_free(tok);
    return o;
}

static void child(struct run_options o, const struct compare_run *r, int out, int err, int in, int data)
{
    /* Not of the terminal's: Ctrl-C is for the parent, which then ends us. */
    setpgid(0, 0);
    int null = open("/dev/null", O_RDONLY);
    if (in >= 0)
        lseek(in, 0, SEEK_SET);
    if (dup2(in >= 0 ? in : null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        _exit(STATUS_ERROR);
    o.engine = r->engine->name;
    o.engine_cfg.patch_lazy |= r->lazy;
    o.report = NULL;
    o.data_fd = data;
    int status = cli_run(&o);
    fflush(NULL);
    _exit(status);
}

/* Read both pipes until the child has closed them or its time is over. */
static void listen_to(struct compare_run *r, pid_t pid, int out, int err, unsigned timeout)
{
    uint64_t deadline = timeout ? host_now() + timeout * 1000000000ull : UINT64_MAX;
    struct pollfd p[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    bool fresh = false;
    char buf[16384];
    while (p[0].fd >= 0 || p[1].fd >= 0) {
        uint64_t now = host_now();
        if (now >= deadline) {
            kill(pid, r->timed_out ? SIGKILL : SIGTERM);
            deadline = r->timed_out ? UINT64_MAX : now + 3000000000ull;
            r->timed_out = true;
        }
        if (poll(p, 2, deadline == UINT64_MAX ? -1 : (int)((deadline - now) / 1000000) + 1) < 0 && errno != EINTR)
            break;
        for (int i = 0; i < 2; i++) {
            if (p[i].fd < 0 || !p[i].revents)
                continue;
            ssize_t n = read(p[i].fd, buf, sizeof(buf));
            if (n > 0 && i == 0)
                keep(r, buf, (size_t)n);
            else if (n > 0)
                keep_message(r, buf, (size_t)n, &fresh);
            else if (n == 0 || errno != EINTR)
                p[i].fd = -1;
        }
    }
}

static int run_one(struct compare_run *r, const struct run_options *o, int in, unsigned timeout)
{
    int out[2], err[2], st;
    FILE *data = tmpfile();
    if (!data || pipe2(out, O_CLOEXEC) != 0)
        return -1;
    if (pipe2(err, O_CLOEXEC) != 0) {
        close(out[0]);
        close(out[1]);
        fclose(data);
        return -1;
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        child(*o, r, out[1], err[1], in, fileno(data));
    close(out[1]);
    close(err[1]);
    if (pid > 0) {
        listen_to(r, pid, out[0], err[0], timeout);
        while (waitpid(pid, &st, 0) < 0 && errno == EINTR)
            ;
        r->status = WIFEXITED(st) ? WEXITSTATUS(st) : 256 + WTERMSIG(st);
        r->data = read_data(data);
    }
    close(out[0]);
    close(err[0]);
    fclose(data);
    return pid > 0 ? 0 : -1;
}

/* Input that a pipe or file holds goes to every engine alike. */
static int open_input(void)
{
    struct stat st;
    char buf[65536];
    ssize_t n;
    size_t total = 0;
    if (fstat(0, &st) != 0 || !(S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode)))
        return -1;
    FILE *f = tmpfile();
    if (!f)
        return -1;
    while (total < MAX_INPUT && ((n = read(0, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)))
        if (n > 0)
            total += fwrite(buf, 1, (size_t)n, f);
    fflush(f);
    int fd = total ? dup(fileno(f)) : -1;
    fclose(f);
    return fd;
}

static size_t line_at(const struct compare_run *r, size_t start, size_t *end)
{
    const char *nl = start < r->len ? memchr(r->out + start, '\n', r->len - start) : NULL;
    *end = nl ? (size_t)(nl - r->out) : r->len;
    return start;
}

static void judge(struct compare_run *r, const struct compare_run *ref)
{
    size_t same = 0, min = r->len < ref->len ? r->len : ref->len, line = 1, start = 0, e1, e2;
    if (!r->data || r->timed_out) {
        snprintf(r->difference, sizeof(r->difference), "%s", r->timed_out ? "did not end in time" : "did not run to an end of the machine");
        return;
    }
    while (same < min && r->out[same] == ref->out[same])
        same++;
    if (same < min || r->len != ref->len || r->total != ref->total) {
        for (size_t i = 0; i < same; i++)
            if (r->out[i] == '\n') {
                line++;
                start = i + 1;
            }
        line_at(r, start, &e1);
        line_at(ref, start, &e2);
        snprintf(r->difference, sizeof(r->difference), "console line %zu: '%.*s', with %s '%.*s'", line, (int)(e1 - start > 120 ? 120 : e1 - start),
                 r->len ? r->out + start : "", ref->name, (int)(e2 - start > 120 ? 120 : e2 - start), ref->len ? ref->out + start : "");
        for (char *p = r->difference; *p; p++)
            if (*p < ' ' || *p > '~')
                *p = '?';
    } else if (r->status != ref->status) {
        snprintf(r->difference, sizeof(r->difference), "exit status %d, with %s %d", r->status, ref->name, ref->status);
    } else {
        r->equal = true;
    }
}

static bool named(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (!strncmp(p, name, n) && (p[n] == ',' || !p[n]))
            return true;
    return false;
}

#define LAZY "trap-lazy" /* engine trap with --patch=lazy, as an engine of its own */

static void add(struct compare *c, const struct run_options *o, const struct engine_ops *e, const char *name, unsigned *usable)
{
    if (c->n == COMPARE_ENGINES)
        return;
    struct compare_run *r = &c->run[c->n++];
    struct engine_config cfg = o->engine_cfg;
    r->engine = e;
    r->name = name;
    r->lazy = !strcmp(name, LAZY);
    cfg.patch_lazy |= r->lazy;
    if (r->lazy)
        e = &engine_patch; /* replacing needs the same of the host, whenever it is done */
    if (e->probe && e->probe(&cfg, r->skipped, sizeof(r->skipped)) != 0) {
        if (!r->skipped[0])
            snprintf(r->skipped, sizeof(r->skipped), "not usable here");
    } else {
        ++*usable;
    }
}

/* --engine auto: all that auto would consider; a list: those. 0 or a status. */
static int choose(struct compare *c, const struct run_options *o, bool all, unsigned *usable)
{
    bool any = !strcmp(o->engine, "auto");
    char word[64];
    for (const char *p = any ? NULL : o->engine; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
        bool known = false;
        snprintf(word, sizeof(word), "%.*s", (int)strcspn(p, ","), p);
        for (unsigned i = 0; ringer_engines[i]; i++)
            known |= !strcmp(ringer_engines[i]->name, word) || !strcmp(LAZY, word);
        if (!known)
            return cli_error("--engine: unknown engine '%s'; see ringer engines", word);
    }
    for (unsigned i = 0; ringer_engines[i]; i++) {
        const struct engine_ops *e = ringer_engines[i];
        if (any ? e->rank || all : named(o->engine, e->name))
            add(c, o, e, e->name, usable);
        if (e == &engine_trap && !o->engine_cfg.patch_lazy && (any ? e->rank || all : named(o->engine, LAZY)))
            add(c, o, e, LAZY, usable);
    }
    return 0;
}

static int write_page(const struct compare *c, FILE *f, const char *path)
{
    compare_html(f, c);
    bool bad = ferror(f);
    if ((fclose(f) != 0) | bad) {
        cli_error("--report: %s: %s", path, strerror(errno));
        return -1;
    }
    return 0;
}

static int compare(const struct run_options *o, const struct compare_options *opt, struct compare *c, int in)
{
    unsigned usable = 0;
    int st = choose(c, o, opt->all_engines, &usable);
    if (st)
        return st;
    if (usable < 2)
        return cli_error("compare: %u of the engines asked for %s usable here, two are needed; see ringer engines, --engine and --all-engines", usable,
                         usable == 1 ? "is" : "are");
    FILE *page = o->report ? fopen(o->report, "we") : NULL;
    if (o->report && !page)
        return cli_error("--report: %s: %s", o->report, strerror(errno));
    for (unsigned i = 0; i < c->n; i++) {
        struct compare_run *r = &c->run[i];
        if (r->skipped[0])
            continue;
        st = run_one(r, o, in, opt->timeout) != 0 ? STATUS_ERROR : !r->data && r->status == STATUS_USAGE ? STATUS_USAGE : 0;
        if (st) {
            if (page)
                fclose(page);
            const char *m = r->message;
            cli_error("%s", st == STATUS_ERROR ? "compare: cannot start a process" : strncmp(m, "ringer: ", 8) ? m : m + 8);
            return st;
        }
    }
    /* The interpreter is what is exact by construction; without it, whoever is first. */
    c->reference = c->n;
    for (unsigned i = 0; i < c->n; i++)
        if (!c->run[i].skipped[0] && (c->reference == c->n || c->run[i].engine == &engine_interp))
            c->reference = i;
    c->equal = true;
    for (unsigned i = 0; i < c->n; i++)
        if (!c->run[i].skipped[0]) {
            judge(&c->run[i], &c->run[c->reference]);
            c->equal &= c->run[i].equal;
        }
    if (opt->json) {
        struct json_object *j = compare_json(c);
        puts(json_object_to_json_string_ext(j, JSON_C_TO_STRING_PRETTY));
        json_object_put(j);
    } else {
        compare_text(stdout, c);
    }
    if (page && write_page(c, page, o->report) != 0)
        return STATUS_ERROR;
    return c->equal ? 0 : 1;
}

int cli_compare(int argc, char **argv)
{
    struct run_options o;
    struct compare_options opt;
    int r = cli_parse_compare(argc, argv, &o, &opt);
    if (r)
        return r < 0 ? STATUS_USAGE : STATUS_OK;
    struct compare *c = calloc(1, sizeof(*c));
    if (!c)
        return STATUS_ERROR;
    c->guest = o.kernel;
    int in = open_input(), status = compare(&o, &opt, c, in);
    if (in >= 0)
        close(in);
    for (unsigned i = 0; i < c->n; i++) {
        free(c->run[i].out);
        json_object_put(c->run[i].data);
    }
    free(c);
    return status;
}
