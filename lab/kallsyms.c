/*
 * Function names from the symbol table Linux carries for itself (kernel/kallsyms.c, scripts/kallsyms.c), which stays
 * when a kernel is stripped. In a nutshell: names are strings of tokens, token_table holds what 256 tokens stand for
 * and token_index where; addresses are 32-bit offsets from relative_base. Nothing points at the tables, so they are
 * found by their form: the tokens of the ten digits stand for themselves, one behind the other.
 *
 *   before 6.4: offsets, relative_base, num_syms, names, markers, [seqs], token_table, token_index
 *   since:      num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs
 */
#include <stdlib.h>
#include <string.h>

#include "lab/image.h"

#define WORK_LIMIT (256u << 20) /* bytes of names looked at while searching, whatever the file says */

struct tables {
    struct lab_image *im;
    const struct lab_section *s;
    unsigned word;                 /* size of an address, and alignment of every table */
    uint64_t tokens, index, after; /* offsets in the section; after: behind token_index */
    uint16_t token_at[256];
    uint64_t names, num_at;
    uint32_t num;
    uint64_t offsets;
    uint64_t base;
    bool percpu; /* negative offsets are relative, others absolute */
    uint64_t work;
};

static uint64_t align(const struct tables *t, uint64_t at)
{
    uint64_t mask = t->word - 1; /* tables are aligned in memory */
    return ((at + t->s->addr + mask) & ~mask) - t->s->addr;
}

/* token_table at `at`: 256 strings, and behind them the index that says the same. */
static bool check_tokens(struct tables *t, uint64_t at)
{
    const uint8_t *d = t->s->data;
    uint64_t p = at;
    for (unsigned i = 0; i < 256; i++) {
        if (p - at > UINT16_MAX)
            return false;
        t->token_at[i] = (uint16_t)(p - at);
        const uint8_t *z = p < t->s->size ? memchr(d + p, 0, (size_t)(t->s->size - p)) : NULL;
        if (!z || z - (d + p) > 64)
            return false;
        p = (uint64_t)(z - d) + 1;
    }
    t->tokens = at;
    t->index = align(t, p);
    t->after = t->index + 512;
    if (t->after > t->s->size)
        return false;
    for (unsigned i = 0; i < 256; i++)
        if (lab16(d + t->index + 2 * i) != t->token_at[i])
            return false;
    return true;
}

static bool find_tokens(struct tables *t)
{
    static const uint8_t digits[] = "0\0001\0002\0003\0004\0005\0006\0007\0008\0009"; /* and its own NUL */
    const uint8_t *d = t->s->data, *p = d, *end = d + t->s->size;
    while ((p = memmem(p, (size_t)(end - p), digits, sizeof(digits)))) {
        /* '0' is token 0x30: go back over 48 strings to where the first begins. */
        const uint8_t *q = p;
        unsigned n = 0;
        while (q > d && n <= 48 && p - q < 4096) {
            if (q[-1] == 0 && ++n == 49)
                break;
            q--;
        }
        if (check_tokens(t, (uint64_t)(q - d)))
            return true;
        p++;
    }
    return false;
}

/* Length of the name at *p (in tokens) and step over the length; 0 if it is none. */
static unsigned name_len(struct tables *t, uint64_t *p, uint64_t end)
{
    const uint8_t *d = t->s->data;
    if (*p + 2 > end)
        return 0;
    unsigned n = d[(*p)++];
    if (n & 0x80)
        n = (n & 0x7f) | (unsigned)d[(*p)++] << 7;
    return n && n <= end - *p && n < 2048 ? n : 0;
}

/* num_syms at `at`, names behind it, and markers that say where every 256th name is. */
static bool check_names(struct tables *t, uint64_t at)
{
    uint64_t p = at + t->word, end = t->tokens, mark[2] = {0};
    uint32_t num = lab32(t->s->data + at);
    if (num < 512 || num > LAB_MAX_SYMBOLS || (t->word == 8 && lab32(t->s->data + at + 4)))
        return false;
    uint64_t first = p;
    for (uint32_t i = 0; i < num; i++) {
        if (i % 256 == 0 && i / 256 < 2)
            mark[i / 256] = p - first;
        unsigned n = name_len(t, &p, end);
        t->work += n + 1;
        if (!n || t->work > WORK_LIMIT)
            return false;
        p += n;
    }
    p = align(t, p);
    if (p + 8 > end || lab32(t->s->data + p) != mark[0] || lab32(t->s->data + p + 4) != mark[1])
        return false;
    t->num_at = at;
    t->names = first;
    t->num = num;
    return true;
}

static bool find_names(struct tables *t)
{
    for (uint64_t at = align(t, t->tokens) - t->word; at >= t->word && at < t->tokens; at -= t->word) {
        if (check_names(t, at))
            return true;
        if (t->work > WORK_LIMIT)
            return false;
    }
    return false;
}

static uint64_t address(const struct tables *t, uint32_t i)
{
    int32_t off = (int32_t)lab32(t->s->data + t->offsets + 4 * (uint64_t)i);
    uint64_t a = !t->percpu ? t->base + (uint32_t)off : off >= 0 ? (uint64_t)off : t->base - 1 - (uint64_t)(int64_t)off;
    return t->word == 4 ? (uint32_t)a : a;
}

/* Offsets at `at`, relative_base at `base`: addresses must be in order and mostly lie in this image. */
static bool check_offsets(struct tables *t, uint64_t at, uint64_t base)
{
    const uint8_t *d = t->s->data;
    if (at > t->s->size || 4 * (uint64_t)t->num > t->s->size - at || base > t->s->size || t->word > t->s->size - base)
        return false;
    t->offsets = at;
    t->base = t->word == 8 ? lab64(d + base) : lab32(d + base);
    uint32_t negative = 0, inside = 0;
    for (uint32_t i = 0; i < t->num; i++)
        negative += (int32_t)lab32(d + at + 4 * (uint64_t)i) < 0;
    t->percpu = negative > t->num / 2;
    for (uint32_t i = 0; i < t->num; i++)
        inside += lab_section_at(t->im, address(t, i)) != NULL;
    return inside > t->num / 2;
}

static bool find_offsets(struct tables *t)
{
    uint64_t len = (4 * (uint64_t)t->num + t->word - 1) & ~(uint64_t)(t->word - 1);
    uint64_t base = t->num_at - t->word, at = align(t, t->after);
    if (t->num_at >= t->word && base >= len && check_offsets(t, base - len, base))
        return true;
    return check_offsets(t, at, at + len);
}

static int use(struct tables *t)
{
    uint64_t p = t->names;
    const uint8_t *d = t->s->data;
    for (uint32_t i = 0; i < t->num; i++) {
        char name[512];
        size_t len = 0;
        unsigned n = name_len(t, &p, t->tokens);
        for (unsigned k = 0; k < n; k++) {
            const char *tok = (const char *)d + t->tokens + t->token_at[d[p + k]];
            size_t m = strlen(tok);
            if (len + m >= sizeof(name))
                break;
            memcpy(name + len, tok, m);
            len += m;
        }
        name[len] = 0;
        p += n;
        /* The first letter is the type, as nm prints it. */
        const struct lab_section *s = lab_section_at(t->im, address(t, i));
        if (len < 2 || !strchr("tTwW", name[0]) || !s || !s->exec)
            continue;
        char *keep = lab_alloc(t->im, len);
        if (!keep)
            return -1;
        memcpy(keep, name + 1, len);
        if (lab_add_seed(t->im, address(t, i), 0, keep, MEANS_KALLSYMS, true))
            return -1;
    }
    return 0;
}

int lab_kallsyms(struct lab_image *im)
{
    for (unsigned i = 0; i < im->nsec; i++) {
        struct tables t = {.im = im, .s = &im->sec[i], .word = im->mode == X86_MODE_64 ? 8 : 4};
        if (im->sec[i].exec || im->sec[i].size < 4096)
            continue;
        if (find_tokens(&t) && find_names(&t) && find_offsets(&t))
            return use(&t);
    }
    return 0;
}
