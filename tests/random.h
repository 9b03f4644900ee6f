/*
 * Pseudo-random numbers for tests (xorshift64*), the same in every run. A test may define RANDOM_SEED, not 0, before it includes this;
 * RINGER_SEED and RINGER_ROUNDS in the environment make other runs of it.
 */
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include <stdint.h>
#include <stdlib.h>

#ifndef RANDOM_SEED
#define RANDOM_SEED 88172645463325252ull
#endif

static uint64_t rng = RANDOM_SEED;

static inline uint64_t rnd(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng * 0x2545f4914f6cdd1dull;
}

static inline unsigned below(unsigned n) { return (unsigned)((rnd() >> 32) % n); }

/* Begin as RINGER_SEED says, if it does. */
static inline void random_begin(void)
{
    const char *s = getenv("RINGER_SEED");
    const uint64_t seed = s ? strtoull(s, NULL, 0) : rng;

    rng = seed ? seed : 1;
}

/* RINGER_ROUNDS, or so many. */
static inline unsigned random_rounds(unsigned usual)
{
    const char *s = getenv("RINGER_ROUNDS");

    return s ? (unsigned)strtoul(s, NULL, 0) : usual;
}

#endif
