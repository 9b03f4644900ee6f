/* See symbols.h. The file is untrusted: lines and names are bounded, a System.map that is none is refused with the line's number. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/symbols.h"
#include "lab/image.h"
#include "ringer/host.h"

#define MAX_FILE (1ull << 30)
#define NEAR (1u << 20) /* nothing further behind a symbol is its code */

struct symbol {
    uint64_t addr;
    const char *name;
};

struct symbols {
    uint8_t *file;
    struct lab_image im;
    struct symbol *s; /* sorted by address */
    size_t n, cap;
};

static int add(struct symbols *t, uint64_t addr, const char *name)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 4096;
        struct symbol *p = realloc(t->s, cap * sizeof(*p));
        if (!p)
            return -1;
        t->s = p;
        t->cap = cap;
    }
    t->s[t->n++] = (struct symbol){addr, name};
    return 0;
}

static int by_addr(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;
    return x->addr != y->addr ? (x->addr < y->addr ? -1 : 1) : strcmp(x->name, y->name);
}

/* "ffffffff81000000 T _text", one a line. */
static int parse_map(struct symbols *t, char *text, size_t len, const char *path, char *err, size_t cap)
{
    unsigned line = 0;
    for (char *p = text, *end = text + len, *next; p < end; p = next) {
        char *nl = memchr(p, '\n', (size_t)(end - p)), *q;
        next = nl ? nl + 1 : end;
        if (nl)
            *nl = 0; /* the file has a spare byte at its end */
        line++;
        if (!*p && nl)
            continue;
        errno = 0;
        uint64_t addr = strtoull(p, &q, 16);
        if (q == p || q - p > 16 || errno || q[0] != ' ' || !q[1] || q[2] != ' ' || q[3] <= ' ' || strlen(q + 3) > 512 ||
            (!nl && q + 3 + strlen(q + 3) != end)) {
            snprintf(err, cap, "--symbols: %s: line %u is not 'ADDRESS TYPE NAME'", path, line);
            return -1;
        }
        /* Of code, by type; modules' lines have a further word. */
        if (!strchr("tTwW", q[1]))
            continue;
        q[3 + strcspn(q + 3, " \t\r")] = 0;
        if (add(t, addr, q + 3) != 0) {
            snprintf(err, cap, "--symbols: out of memory");
            return -1;
        }
    }
    return 0;
}

struct symbols *symbols_open(const char *path, char *err, size_t cap)
{
    struct symbols *t = calloc(1, sizeof(*t));
    size_t len = 0;
    char why[200];
    int r = -1;
    if (!t) {
        snprintf(err, cap, "out of memory");
        return NULL;
    }
    int e = host_file_slurp(path, MAX_FILE, &t->file, &len);
    if (e) {
        snprintf(err, cap, "--symbols: %s: %s", path, strerror(-e));
    } else if (lab_is_elf(t->file, len) || lab_is_bzimage(t->file, len)) {
        struct lab_options o = {0};
        r = lab_image_open(&t->im, t->file, len, &o, why, sizeof(why));
        if (r)
            snprintf(err, cap, "--symbols: %s: %s", path, why);
        for (size_t i = 0; !r && i < t->im.nnamed; i++) {
            const struct lab_seed *d = &t->im.seed[t->im.named[i]];
            r = add(t, d->addr, d->name);
        }
    } else {
        uint8_t *p = realloc(t->file, len + 1);
        if (p) {
            t->file = p;
            p[len] = 0;
            r = parse_map(t, (char *)p, len, path, err, cap);
        }
    }
    if (!r && !t->n) {
        snprintf(err, cap, "--symbols: %s: no symbols of code", path);
        r = -1;
    }
    if (r) {
        symbols_free(t);
        return NULL;
    }
    qsort(t->s, t->n, sizeof(*t->s), by_addr);
    return t;
}

void symbols_free(struct symbols *t)
{
    if (!t)
        return;
    lab_image_close(&t->im);
    free(t->s);
    free(t->file);
    free(t);
}

size_t symbols_count(const struct symbols *t)
{
    return t->n;
}

uint64_t symbols_address(const struct symbols *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (!strcmp(t->s[i].name, name))
            return t->s[i].addr;
    return 0;
}

void symbols_name(const struct symbols *t, uint64_t addr, char *buf, size_t cap)
{
    size_t lo = 0, hi = t->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (t->s[mid].addr <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    *buf = 0;
    if (!lo || addr - t->s[lo - 1].addr >= NEAR)
        return;
    snprintf(buf, cap, "%.160s+0x%" PRIx64, t->s[lo - 1].name, addr - t->s[lo - 1].addr);
}
