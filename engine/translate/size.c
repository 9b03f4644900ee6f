/*
 * How much code a vCPU keeps. What is translated while a guest boots and as programs come and go is mostly not run again, and translating is
 * cheap: some three microseconds a block. So the cache is small and emptied when it is full. Where that turns out to hurt,
 * since it is full again soon and more than half of what it has then had been there before, it doubles; where it fills slowly it
 * shrinks again. Whether a block had been there is remembered for one in eight.
 */
#include <string.h>

#include "engine/translate/translate.h"

#define SOON_NS 2000000000ull /* some twenty times what filling the smallest takes */
#define SELDOM_NS 30000000000ull

static unsigned hash(const struct tr_block *b) { return (unsigned)((b->gpa ^ (uint64_t)b->key << 56) * 0x9e3779b97f4a7c15ull >> 40); }
_Static_assert(TR_SEEN <= 1u << (24 - 3), "hash");

void tr_size_built(struct translate *x, const struct tr_block *b)
{
    const unsigned h = hash(b), bit = h >> 3 & (TR_SEEN - 1);
    struct tr_size *s = &x->size;

    if (h & 7)
        return;
    s->built++;
    s->again += s->seen[1][bit / 64] >> (bit % 64) & 1;
    s->seen[0][bit / 64] |= 1ull << (bit % 64);
}

size_t tr_size_next(size_t cap, unsigned built, unsigned again, uint64_t ns)
{
    if (ns < SOON_NS && again > built / 2 && cap < TR_CODE_SIZE)
        return cap * 2 < TR_CODE_SIZE ? cap * 2 : TR_CODE_SIZE;
    if (ns > SELDOM_NS && cap > TR_CODE_LEAST)
        return cap / 2 > TR_CODE_LEAST ? cap / 2 : TR_CODE_LEAST;
    return cap;
}

void tr_size_full(struct translate *x, uint64_t now)
{
    struct tr_size *s = &x->size;
    const size_t cap = tr_size_next(s->cap, s->built, s->again, now - (now > s->since ? s->since : 0));

    if (cap < s->cap) {
        host_ram_discard(x->rw + cap, s->cap - cap);
        host_ram_discard(x->arena + TR_ARENA_FOR(cap), TR_ARENA_FOR(s->cap) - TR_ARENA_FOR(cap));
    }
    s->cap = cap;
    s->since = now;
    s->built = s->again = 0;
    /* Of several fillings, for what is used in turns comes back after some; of so many that few blocks are taken for others. */
    unsigned n = 0;

    for (unsigned i = 0; i < TR_SEEN / 64; i++)
        n += (unsigned)__builtin_popcountll(s->seen[1][i] | s->seen[0][i]);
    for (unsigned i = 0; i < TR_SEEN / 64; i++)
        s->seen[1][i] = s->seen[0][i] | (n < TR_SEEN / 4 ? s->seen[1][i] : 0);
    memset(s->seen[0], 0, sizeof(s->seen[0]));
}
