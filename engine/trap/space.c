/*
 * The address space of a world as a TLB.
 *
 * Mappings are guest translations the guest has not flushed; dropping one is always right. Changes are queued and travel with the
 * next entry. When the queue is full, everything is forgotten and unmapped at once.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/trap/trap.h"

#define RESERVE 8 /* places in the queue for descriptors */

static void reset_extent(struct space *s)
{
    for (unsigned g = 0; g < 2; g++)
        s->lo[g] = SPACE_PAGES, s->hi[g] = 0;
}

int space_init(struct space *s, struct world *w)
{
    s->w = w;
    s->map = calloc(SPACE_PAGES, sizeof(*s->map));
    s->list = calloc(SPACE_PAGES, sizeof(*s->list));
    s->pos = calloc(SPACE_PAGES, sizeof(*s->pos));
    reset_extent(s);
    return s->map && s->list && s->pos ? 0 : -1;
}

void space_fini(struct space *s)
{
    free(s->map);
    free(s->list);
    free(s->pos);
    s->map = NULL;
    s->list = s->pos = NULL;
}

static void forget(struct space *s, uint32_t lin)
{
    const uint32_t at = s->pos[lin], last = s->list[--s->n];

    s->map[lin] = 0;
    s->list[at] = last;
    s->pos[last] = at;
}

static void unmap_all(struct space *s)
{
    const struct world_op op = {.kind = WORLD_UNMAP, .lin = 0, .len = 1ull << 32};

    for (uint32_t i = 0; i < s->n; i++)
        s->map[s->list[i]] = 0;
    s->n = 0;
    reset_extent(s);
    world_queue(s->w, &op);
    s->full++;
}

/* Room for a change, making it if need be: what was queued for pages is pointless once all of them go. */
static void enqueue(struct space *s, const struct world_op *op)
{
    if (world_queued(s->w) >= WORLD_OPS - RESERVE) {
        world_clear(s->w);
        unmap_all(s);
        if (op->kind == WORLD_UNMAP)
            return;
    }
    world_queue(s->w, op);
}

void space_map(struct space *s, uint32_t lin, uint32_t n, uint64_t gpn, uint64_t off, unsigned flags)
{
    const struct world_op op = {
        .kind = flags & SPACE_CODE ? WORLD_MAP_CODE : WORLD_MAP_RAM,
        .prot = flags & SPACE_CODE ? WORLD_X : WORLD_R | (flags & SPACE_W ? WORLD_W : 0) | (flags & SPACE_X ? WORLD_X : 0),
        .lin = (uint64_t)lin << 12,
        .len = (uint64_t)n << 12,
        .off = off,
    };
    const unsigned g = !!(flags & SPACE_GLOBAL);

    enqueue(s, &op); /* may forget everything: enter the pages after it */
    for (uint32_t i = 0; i < n; i++) {
        if (!s->map[lin + i]) {
            s->pos[lin + i] = s->n;
            s->list[s->n++] = lin + i;
        }
        s->map[lin + i] = (gpn + i) << 8 | SPACE_PRESENT | flags;
    }
    if (lin < s->lo[g])
        s->lo[g] = lin;
    if (lin + n - 1 > s->hi[g])
        s->hi[g] = lin + n - 1;
    s->maps++;
}

void space_unmap(struct space *s, uint32_t lin)
{
    const struct world_op op = {.kind = WORLD_UNMAP, .lin = (uint64_t)lin << 12, .len = 4096};

    if (!s->map[lin])
        return;
    forget(s, lin);
    enqueue(s, &op);
    s->unmaps++;
}

void space_flush(struct space *s, bool global)
{
    if (!s->n)
        return;
    s->flushes++;
    const bool keep = !global && s->lo[1] <= s->hi[1];
    if (!keep || (s->lo[0] <= s->hi[0] && s->lo[0] <= s->hi[1] && s->lo[1] <= s->hi[0])) {
        world_clear(s->w);
        unmap_all(s);
        return;
    }
    if (s->lo[0] > s->hi[0])
        return;
    const struct world_op op = {.kind = WORLD_UNMAP, .lin = (uint64_t)s->lo[0] << 12, .len = (uint64_t)(s->hi[0] - s->lo[0] + 1) << 12};
    for (uint32_t i = 0; i < s->n;) {
        const uint32_t lin = s->list[i];
        if (lin >= s->lo[0] && lin <= s->hi[0])
            forget(s, lin);
        else
            i++;
    }
    s->lo[0] = SPACE_PAGES;
    s->hi[0] = 0;
    enqueue(s, &op);
}

void space_flush_page(struct space *s, uint32_t lin)
{
    if (s->map[lin] & SPACE_LARGE) {
        const uint32_t first = lin & ~1023u;
        const struct world_op op = {.kind = WORLD_UNMAP, .lin = (uint64_t)first << 12, .len = 1024ull << 12};
        for (uint32_t i = first; i < first + 1024; i++)
            if (s->map[i])
                forget(s, i);
        enqueue(s, &op);
        s->unmaps++;
    } else {
        space_unmap(s, lin);
    }
}

void space_drop(struct space *s, uint64_t gpn, unsigned flags)
{
    for (uint32_t i = 0; i < s->n;) {
        const uint32_t lin = s->list[i];
        const uint64_t m = s->map[lin];
        if (m >> 8 == gpn && (m & flags)) {
            const uint32_t before = s->n;
            space_unmap(s, lin);
            if (s->n + 1 != before)
                return; /* everything went */
        } else {
            i++;
        }
    }
}
