/*
 * The guest-physical map: a sorted array of disjoint ranges.
 */
#include "ringer/gpa.h"

#include <stdlib.h>
#include <string.h>

#define PAGE 4096u

static inline uint64_t range_end(const struct gpa_range *r)
{
    return r->start + r->size;
}

/* Index of the first range that ends above addr; m->n if none. */
static unsigned lower(const struct gpa_map *m, uint64_t addr)
{
    unsigned lo = 0, hi = m->n;

    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;

        /* start + size cannot wrap: gpa_add checked */
        if (range_end(&m->r[mid]) <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct gpa_range *gpa_find(const struct gpa_map *m, uint64_t addr)
{
    unsigned i = lower(m, addr);

    return i < m->n && m->r[i].start <= addr ? &m->r[i] : NULL;
}

void *gpa_host(const struct gpa_map *m, uint64_t addr, uint64_t len, bool write)
{
    const struct gpa_range *r = gpa_find(m, addr);

    if (!r || !(r->kind == GPA_RAM || (r->kind == GPA_ROM && !write)))
        return NULL;
    if (len > r->size - (addr - r->start))
        return NULL;
    return r->host + (addr - r->start);
}

uint32_t *gpa_page_flags(const struct gpa_map *m, uint64_t addr)
{
    const struct gpa_range *r = gpa_find(m, addr);

    if (!r || !(r->kind == GPA_RAM || r->kind == GPA_ROM) || !r->page_flags)
        return NULL;
    return r->page_flags + (addr - r->start) / PAGE;
}

struct gpa_map *gpa_begin(const struct gpa_map *src, uint64_t limit)
{
    struct gpa_map *m = calloc(1, sizeof(*m));

    if (!m)
        return NULL;
    m->limit = limit;
    m->cap = src && src->n > 8 ? src->n + 8 : 16;
    m->r = malloc(m->cap * sizeof(*m->r));
    if (!m->r) {
        free(m);
        return NULL;
    }
    if (src && src->n) {
        memcpy(m->r, src->r, src->n * sizeof(*m->r));
        m->n = src->n;
    }
    return m;
}

void gpa_free(struct gpa_map *m)
{
    if (m) {
        free(m->r);
        free(m);
    }
}

static int reserve(struct gpa_map *m, unsigned n)
{
    struct gpa_range *r;
    unsigned cap;

    if (n <= m->cap)
        return 0;
    cap = n * 2;
    r = realloc(m->r, cap * sizeof(*r));
    if (!r)
        return -1;
    m->r = r;
    m->cap = cap;
    return 0;
}

static bool has_pages(const struct gpa_range *r)
{
    return r->kind == GPA_RAM || r->kind == GPA_ROM;
}

/* Move the start of a range up by n bytes; what it refers to moves along. */
static void advance(struct gpa_range *r, uint64_t n)
{
    r->start += n;
    r->size -= n;
    if (has_pages(r)) {
        r->host += n;
        if (r->page_flags)
            r->page_flags += n / PAGE;
    }
    r->host_off += n; /* for GPA_IO: the register offset of the first byte */
}

static bool check_bounds(const struct gpa_map *m, uint64_t start, uint64_t size)
{
    return size != 0 && start < m->limit && size <= m->limit - start;
}

/* Would cutting [start, end) leave RAM or ROM that is not page-aligned? */
static bool cut_unaligned(const struct gpa_map *m, uint64_t start, uint64_t end)
{
    for (unsigned i = lower(m, start); i < m->n && m->r[i].start < end; i++) {
        const struct gpa_range *r = &m->r[i];

        if (has_pages(r) && ((r->start < start && start % PAGE) || (range_end(r) > end && end % PAGE)))
            return true;
    }
    return false;
}

int gpa_del(struct gpa_map *m, uint64_t start, uint64_t size)
{
    uint64_t end = start + size;
    unsigned i, j;

    if (!check_bounds(m, start, size) || cut_unaligned(m, start, end))
        return -1;
    i = lower(m, start);
    if (i == m->n)
        return 0;
    if (m->r[i].start < start) {
        struct gpa_range tail = m->r[i];

        if (range_end(&tail) > end) { /* a hole in the middle: two ranges from one */
            if (reserve(m, m->n + 1))
                return -1;
            m->r[i].size = start - m->r[i].start;
            advance(&tail, end - tail.start);
            memmove(&m->r[i + 2], &m->r[i + 1], (m->n - i - 1) * sizeof(*m->r));
            m->r[i + 1] = tail;
            m->n++;
            return 0;
        }
        m->r[i].size = start - m->r[i].start;
        i++;
    }
    for (j = i; j < m->n && range_end(&m->r[j]) <= end; j++)
        ;
    if (j < m->n && m->r[j].start < end)
        advance(&m->r[j], end - m->r[j].start);
    memmove(&m->r[i], &m->r[j], (m->n - j) * sizeof(*m->r));
    m->n -= j - i;
    return 0;
}

int gpa_add(struct gpa_map *m, const struct gpa_range *r)
{
    unsigned i;

    if (!check_bounds(m, r->start, r->size))
        return -1;
    if (has_pages(r) && (!r->host || r->start % PAGE || r->size % PAGE))
        return -1;
    if (reserve(m, m->n + 2)) /* before anything changes: a failed add leaves the map as it was */
        return -1;
    if (gpa_del(m, r->start, r->size))
        return -1;
    i = lower(m, r->start);
    memmove(&m->r[i + 1], &m->r[i], (m->n - i) * sizeof(*m->r));
    m->r[i] = *r;
    m->n++;
    return 0;
}
