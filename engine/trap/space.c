/*
 * The address space of a world as a TLB.
 *
 * Mappings are guest translations the guest has not flushed; dropping one is always right. Changes are queued and travel with the
 * next entry. When the queue is full, everything is forgotten and unmapped at once.
 *
 * Code and data apart (s->split): instructions are fetched from windows, where the copies of code pages are mapped; data segments end
 * before the windows. So one guest address shows its copy to who executes it and RAM to who reads it. A window shows WINDOW_SIZE bytes of
 * guest addresses; which, is decided by what is executed.
 *
 * Processors are much slower with a code segment that has a base (4 times was measured), and hardly with data segments that have one. So code runs at
 * its own addresses, and data is moved: by so many GiB that the GiB in which a program spends most of its time is free of data. Code from
 * elsewhere takes turns in one window with a base. For code in the last GiB (or half, at CPL 0), whose data is there too, windows are at the bottom,
 * with a base.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/trap/trap.h"

#define RESERVE 8 /* places in the queue for descriptors */

enum { EXT_GLOBAL = 1, EXT_CODE = 2 };

static void reset_extent(struct space *s)
{
    for (unsigned g = 0; g < 4; g++)
        s->lo[g] = SPACE_PAGES, s->hi[g] = 0;
}

int space_init(struct space *s, struct world *w)
{
    if (!w)
        return -1;
    s->w = w;
    s->map = calloc(SPACE_PAGES, sizeof(*s->map));
    s->list = calloc(SPACE_PAGES, sizeof(*s->list));
    s->pos = calloc(SPACE_PAGES, sizeof(*s->pos));
    reset_extent(s);
    return s->map && s->list && s->pos ? 0 : -1;
}

void space_fini(struct space *s)
{
    world_free(s->w);
    s->w = NULL;
    free(s->map);
    free(s->list);
    free(s->pos);
    s->map = NULL;
    s->list = s->pos = NULL;
}

static void forget(struct space *s, uint32_t lin)
{
    const uint32_t at = s->pos[lin], last = s->list[--s->n];

    if (s->map[lin] & SPACE_LARGE)
        s->large[lin >> 10]--;
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
    memset(s->large, 0, sizeof(s->large));
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
        .prot = flags & SPACE_CODE ? WORLD_R | WORLD_X : WORLD_R | (flags & SPACE_W ? WORLD_W : 0) | (flags & SPACE_X ? WORLD_X : 0),
        .lin = (uint64_t)lin << 12,
        .len = (uint64_t)n << 12,
        .off = off,
    };
    const unsigned g = (flags & SPACE_GLOBAL ? EXT_GLOBAL : 0) | (flags & SPACE_CODE ? EXT_CODE : 0);

    enqueue(s, &op); /* may forget everything: enter the pages after it */
    for (uint32_t i = 0; i < n; i++) {
        if (s->map[lin + i])
            forget(s, lin + i);
        s->pos[lin + i] = s->n;
        s->list[s->n++] = lin + i;
        if (flags & SPACE_LARGE)
            s->large[(lin + i) >> 10]++;
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

static bool meets(const struct space *s, unsigned a, unsigned b)
{
    return s->lo[a] <= s->hi[a] && s->lo[b] <= s->hi[b] && s->lo[a] <= s->hi[b] && s->lo[b] <= s->hi[a];
}

/* Everything in a range of pages. */
static void unmap_range(struct space *s, uint32_t first, uint32_t n)
{
    const struct world_op op = {.kind = WORLD_UNMAP, .lin = (uint64_t)first << 12, .len = (uint64_t)n << 12};
    bool any = false;

    if (n > s->n) {
        for (uint32_t i = 0; i < s->n;)
            if (s->list[i] - first < n)
                forget(s, s->list[i]), any = true;
            else
                i++;
    } else {
        for (uint32_t i = first; i < first + n; i++)
            if (s->map[i])
                forget(s, i), any = true;
    }
    if (any) {
        enqueue(s, &op);
        s->unmaps++;
    }
}

void space_flush(struct space *s, bool global)
{
    if (!s->n)
        return;
    s->flushes++;
    const bool keep = !global && (s->lo[EXT_GLOBAL] <= s->hi[EXT_GLOBAL] || s->lo[EXT_GLOBAL | EXT_CODE] <= s->hi[EXT_GLOBAL | EXT_CODE]);
    for (unsigned g = 0; g < 4 && keep; g += 2)
        if (meets(s, g, EXT_GLOBAL) || meets(s, g, EXT_GLOBAL | EXT_CODE))
            goto all;
    if (!keep)
        goto all;
    for (unsigned g = 0; g < 4; g += 2)
        if (s->lo[g] <= s->hi[g]) {
            const uint32_t lo = s->lo[g], hi = s->hi[g];
            s->lo[g] = SPACE_PAGES;
            s->hi[g] = 0;
            unmap_range(s, lo, hi - lo + 1);
        }
    return;
all:
    world_clear(s->w);
    unmap_all(s);
}

static void flush_place(struct space *s, uint32_t page, bool code)
{
    if (s->large[page >> 10]) /* whatever is left of a large page's translation goes */
        unmap_range(s, page & ~1023u, 1024);
    else if (!(s->map[page] & SPACE_CODE) == !code)
        space_unmap(s, page);
}

void space_flush_page(struct space *s, uint32_t lin)
{
    flush_place(s, (lin + (s->shift >> 12)) & (SPACE_PAGES - 1), false);
    for (unsigned i = 0; i < WINDOWS; i++) {
        const struct window *w = &s->win[i];
        if (w->used && (lin << 12) - w->code < WINDOW_SIZE)
            flush_place(s, (w->at + (lin << 12) - w->code) >> 12, true);
    }
}

/* --- windows ------------------------------------------------------------------------- */

static uint32_t hole(const struct space *s)
{
    return s->shift - WINDOWS * WINDOW_SIZE;
}

bool space_at_home(const struct space *s, uint32_t lin)
{
    return s->placed && !s->low && lin - hole(s) < WINDOWS * WINDOW_SIZE;
}

static void drop_window(struct space *s, struct window *w)
{
    if (w->used)
        unmap_range(s, w->at >> 12, WINDOW_SIZE >> 12);
    w->used = 0;
}

/* Decide where data and windows are, for code at lin. */
static void place(struct space *s, uint32_t lin, bool low)
{
    space_flush(s, true);
    memset(s->win, 0, sizeof(s->win));
    memset(s->spent, 0, sizeof(s->spent));
    s->low = low;
    s->shift = low ? 0 : (lin & WINDOWS_HIGH) + WINDOWS * WINDOW_SIZE;
    s->placed = true;
}

const struct window *space_window(struct space *s, uint32_t lin, bool low)
{
    const uint32_t code = lin & ~(WINDOW_SIZE - 1);
    struct window *w = s->win;
    uint32_t at;

    if (!s->placed || low != s->low)
        place(s, lin, low);
    if (low) {
        for (unsigned i = 0; i < WINDOWS_LOW; i++)
            if (s->win[i].used && s->win[i].code == code) {
                w = &s->win[i];
                break;
            } else if (s->win[i].used < w->used) {
                w = &s->win[i];
            }
        at = (uint32_t)(w - s->win) * WINDOW_SIZE;
    } else {
        /* Code from elsewhere is in the first window, so that what is below is data and its segment's limit cuts off what is above. */
        if (space_at_home(s, code)) {
            if (w->code != w->at)
                drop_window(s, w);
            w += (code - hole(s)) / WINDOW_SIZE;
        }
        at = hole(s) + (uint32_t)(w - s->win) * WINDOW_SIZE;
    }
    if (!w->used || w->code != code) {
        drop_window(s, w);
        *w = (struct window){.code = code, .at = at};
    }
    w->used = ++s->clock;
    return w;
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
