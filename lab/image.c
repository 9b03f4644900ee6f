/* Images: what kind a file is, and what every reader shares. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab/image.h"

const char *const lab_means_text[MEANS_COUNT] = {
    [MEANS_ENTRY] = "entry points",   [MEANS_SYMBOL] = "symbols",    [MEANS_KALLSYMS] = "the kernel's own symbol table",
    [MEANS_UNWIND] = "unwind tables", [MEANS_RELOC] = "relocations", [MEANS_SWEEP] = "linear sweep inside functions",
};

struct lab_block {
    struct lab_block *next;
    _Alignas(16) uint8_t data[];
};

int lab_fail(struct lab_image *im, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(im->err, im->errcap, fmt, ap);
    va_end(ap);
    for (char *p = im->err; *p; p++) /* names of sections are the file's */
        if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
            *p = '?';
    return -1;
}

void *lab_alloc(struct lab_image *im, size_t n)
{
    struct lab_block *b = n > SIZE_MAX / 2 ? NULL : malloc(sizeof(*b) + n);
    if (!b) {
        lab_fail(im, "out of memory");
        return NULL;
    }
    b->next = im->mem;
    im->mem = b;
    return b->data;
}

int lab_add_seed(struct lab_image *im, uint64_t addr, uint64_t size, const char *name, enum lab_means means,
                 bool function)
{
    if (im->nseed == LAB_MAX_SYMBOLS)
        return lab_fail(im, "more than %u symbols and relocations", LAB_MAX_SYMBOLS);
    if (im->nseed == im->seed_cap) {
        size_t cap = im->seed_cap ? 2 * im->seed_cap : 1024;
        struct lab_seed *s = realloc(im->seed, cap * sizeof(*s));
        if (!s)
            return lab_fail(im, "out of memory");
        im->seed = s;
        im->seed_cap = cap;
    }
    im->seed[im->nseed++] = (struct lab_seed){addr, size, name, means, function};
    return 0;
}

const struct lab_section *lab_section_at(const struct lab_image *im, uint64_t addr)
{
    unsigned lo = 0, hi = im->nsec;
    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        if (im->sec[mid].addr <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo && addr - im->sec[lo - 1].addr < im->sec[lo - 1].size ? &im->sec[lo - 1] : NULL;
}

int lab_add_code(struct lab_image *im, uint64_t addr, enum lab_means means)
{
    const struct lab_section *s = lab_section_at(im, addr);
    return s && s->exec ? lab_add_seed(im, addr, 0, NULL, means, false) : 0;
}

static int by_addr(const void *a, const void *b)
{
    const struct lab_seed *x = a, *y = b;
    if (x->addr != y->addr)
        return x->addr < y->addr ? -1 : 1;
    if (!x->name != !y->name)
        return !x->name - !y->name;
    if (x->means != y->means)
        return x->means - y->means;
    if (x->size != y->size)
        return x->size > y->size ? -1 : 1;
    return x->name ? strcmp(x->name, y->name) : 0;
}

static int flat_open(struct lab_image *im, const uint8_t *file, size_t len, const struct lab_options *o)
{
    static const char *const bits[] = {"16", "32", "64"};
    if (o->base + len - 1 < o->base)
        return lab_fail(im, "does not fit at address %#llx", (unsigned long long)o->base);
    im->sec = calloc(1, sizeof(*im->sec));
    if (!im->sec)
        return lab_fail(im, "out of memory");
    im->sec[0] = (struct lab_section){"image", file, o->base, len, true};
    im->nsec = 1;
    im->mode = o->mode;
    snprintf(im->kind, sizeof(im->kind), "flat %s-bit image at %#llx", bits[o->mode], (unsigned long long)o->base);
    return lab_add_seed(im, o->base, 0, "start", MEANS_ENTRY, false);
}

static int open_as(struct lab_image *im, const uint8_t *file, size_t len, const struct lab_options *o)
{
    const char *how;
    if (!len)
        return lab_fail(im, "empty file");
    if (o->flat)
        return flat_open(im, file, len, o);
    if (lab_is_elf(file, len))
        return lab_elf_open(im, file, len);
    if (lab_is_bzimage(file, len))
        return lab_bzimage_open(im, file, len, o->max_size);
    how = lab_compression(file, len);
    if (!how)
        return lab_fail(im, "neither ELF nor a Linux bzImage; for a flat image give --mode 16, 32 or 64");
    if (lab_decompress(im, file, len, o->max_size, &file, &len))
        return -1;
    if (!lab_is_elf(file, len))
        return lab_fail(im, "%s data that does not hold an ELF file", how);
    if (lab_elf_open(im, file, len))
        return -1;
    size_t n = strlen(im->kind);
    snprintf(im->kind + n, sizeof(im->kind) - n, ", compressed with %s", how);
    return 0;
}

static int settle_seeds(struct lab_image *im)
{
    if (!im->nseed)
        return 0;
    qsort(im->seed, im->nseed, sizeof(*im->seed), by_addr);
    im->named = malloc(im->nseed * sizeof(*im->named));
    if (!im->named)
        return lab_fail(im, "out of memory");
    for (size_t i = 0; i < im->nseed; i++)
        if (im->seed[i].name && (!im->nnamed || im->seed[im->named[im->nnamed - 1]].addr != im->seed[i].addr))
            im->named[im->nnamed++] = (uint32_t)i;
    return 0;
}

int lab_image_open(struct lab_image *im, const uint8_t *file, size_t len, const struct lab_options *o, char *err,
                   size_t cap)
{
    struct lab_options opt = *o;
    memset(im, 0, sizeof(*im));
    im->err = err;
    im->errcap = cap;
    if (!opt.max_size)
        opt.max_size = 512u << 20;
    int r = open_as(im, file, len, &opt);
    if (!r) {
        bool code = false;
        for (unsigned i = 0; i < im->nsec; i++)
            code |= im->sec[i].exec && im->sec[i].size;
        if (!code)
            r = lab_fail(im, "no executable sections");
    }
    if (!r)
        r = settle_seeds(im);
    if (r)
        lab_image_close(im);
    return r;
}

void lab_image_close(struct lab_image *im)
{
    for (struct lab_block *b = im->mem, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(im->sec);
    free(im->seed);
    free(im->named);
    im->sec = NULL;
    im->seed = NULL;
    im->named = NULL;
    im->nnamed = 0;
    im->mem = NULL;
    im->nsec = 0;
    im->nseed = im->seed_cap = 0;
}
