/* The pages a world has: open addressing, linear probing, deletion by shifting back. */
#include <stdlib.h>
#include <string.h>

#include "engine/direct/direct.h"

#define LEAST_BITS 10

static unsigned slot(const struct dmap *m, uint64_t lin) { return (unsigned)((lin >> 12) * 0x9e3779b97f4a7c15ull >> (64 - m->bits)); }

int dmap_init(struct dmap *m)
{
    m->bits = LEAST_BITS;
    m->n = 0;
    m->e = calloc(dmap_cap(m), sizeof(*m->e));
    return m->e ? 0 : -1;
}

void dmap_fini(struct dmap *m)
{
    free(m->e);
    m->e = NULL;
}

void dmap_clear(struct dmap *m)
{
    struct dmap least;

    if (m->bits > LEAST_BITS && !dmap_init(&least)) { /* the next program may be a small one */
        dmap_fini(m);
        *m = least;
        return;
    }
    if (m->n)
        memset(m->e, 0, dmap_cap(m) * sizeof(*m->e));
    m->n = 0;
}

struct dmap_entry *dmap_find(const struct dmap *m, uint64_t lin)
{
    const unsigned mask = dmap_cap(m) - 1;

    for (unsigned i = slot(m, lin); m->e[i].lin; i = (i + 1) & mask)
        if (m->e[i].lin == lin)
            return &m->e[i];
    return NULL;
}

static bool grow(struct dmap *m)
{
    struct dmap big = {.bits = m->bits + 1};

    big.e = calloc(dmap_cap(&big), sizeof(*big.e));
    if (!big.e)
        return false;
    for (unsigned i = 0; i < dmap_cap(m); i++)
        if (m->e[i].lin)
            dmap_put(&big, &m->e[i]);
    free(m->e);
    *m = big;
    return true;
}

bool dmap_put(struct dmap *m, const struct dmap_entry *e)
{
    struct dmap_entry *old = dmap_find(m, e->lin);
    unsigned i;

    if (old) {
        *old = *e;
        return true;
    }
    if (m->n >= dmap_cap(m) / 2 && !grow(m))
        return false;
    for (i = slot(m, e->lin); m->e[i].lin; i = (i + 1) & (dmap_cap(m) - 1))
        ;
    m->e[i] = *e;
    m->n++;
    return true;
}

void dmap_del(struct dmap *m, struct dmap_entry *e)
{
    const unsigned mask = dmap_cap(m) - 1;
    unsigned hole = (unsigned)(e - m->e);

    m->n--;
    for (unsigned i = (hole + 1) & mask; m->e[i].lin; i = (i + 1) & mask) {
        const unsigned home = slot(m, m->e[i].lin);

        /* May it move into the hole? Only if its home is not behind it. */
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            m->e[hole] = m->e[i];
            hole = i;
        }
    }
    m->e[hole].lin = 0;
}
