/* Counters of direct execution by name. */
#include "engine/direct/direct.h"

static const char *const names[] = {
    "direct_us", "direct_entries", "direct_kicks", "direct_syscalls", "direct_page_faults", "direct_fills", "direct_prefills", "direct_pages_mapped",
    "direct_pages_unmapped", "direct_flushes", "direct_checks", "direct_emulated", "direct_code_writes", "direct_pages_scanned",
    "direct_pages_sensitive", "direct_sensitive_runs", "direct_promotions", "direct_demotions", "direct_worlds", "direct_crashes",
};
#define N (sizeof(names) / sizeof(names[0]))
_Static_assert(sizeof(struct direct_stats) == N * sizeof(uint64_t), "a name each");

/* Of a vCPU that may be running, each word stored whole by its one writer; so below. */
__attribute__((no_sanitize("thread"))) void direct_stats_add(struct direct_stats *to, const struct direct_stats *s)
{
    for (unsigned i = 0; i < N; i++)
        ((uint64_t *)to)[i] += ((const uint64_t *)s)[i];
}

__attribute__((no_sanitize("thread"))) uint64_t direct_mapped(const struct direct *d)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < DIRECT_SPACES; i++)
        n += d->space[i].map.n;
    return n;
}

unsigned direct_stats_list(const struct direct_stats *s, uint64_t tsc_khz, struct engine_stat *out, unsigned cap)
{
    for (unsigned i = 0; i < N && i < cap; i++)
        out[i] = (struct engine_stat){names[i], ((const uint64_t *)s)[i]};
    if (cap && tsc_khz >= 1000)
        out[0].value /= tsc_khz / 1000;
    return N;
}
