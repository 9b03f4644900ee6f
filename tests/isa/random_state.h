/* Random register contents, with the values at which instructions change their ways. Include after samples.h. */
#ifndef RANDOM_STATE_H
#define RANDOM_STATE_H

#include <stdint.h>
#include <string.h>

#include "native.h"
#include "samples.h"

static uint64_t rnd_int(void)
{
    uint64_t v = rnd();

    switch (below(8)) {
    case 0:
        return below(4) - 1u + 0ull;
    case 1:
        return 1ull << below(64);
    case 2:
        return (1ull << below(64)) - 1;
    case 3:
        return (uint64_t)(int64_t)(int8_t)v;
    case 4:
        return v >> below(64);
    case 5:
        return (uint64_t)((int64_t)v >> below(64));
    default:
        return v;
    }
}

static void rnd_float(uint8_t *p)
{
    static const uint32_t special[] = {0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001, 0x7f800001,
                                       0xffa00000, 1, 0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0xcf000000, 0x3f7fffff,
                                       0x5f000000, 0x33800000, 0x40490fdb};
    uint32_t v = below(2) ? special[below(sizeof(special) / 4)] : (uint32_t)rnd();

    if (below(3) == 0)
        v = (v & 0x807fffff) | (uint32_t)(120 + below(16)) << 23; /* magnitudes near one: inexact results */
    memcpy(p, &v, 4);
}

static void rnd_double(uint8_t *p)
{
    static const uint64_t special[] = {0, 1ull << 63, 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000, 0xfff0000000000000,
                                       0x7ff8000000000000, 0xfff8000000000001, 0x7ff0000000000001, 0xfff4000000000000, 1,
                                       0x000fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff, 0x43e0000000000000, 0xc1e0000000000000,
                                       0x41dfffffffc00000, 0x36a0000000000000, 0x47efffffe0000000, 0x3810000000000000};
    uint64_t v = below(2) ? special[below(sizeof(special) / 8)] : rnd();

    if (below(3) == 0)
        v = (v & 0x800fffffffffffff) | (uint64_t)(1016 + below(16)) << 52;
    memcpy(p, &v, 8);
}

static void rnd_ext(uint8_t *p)
{
    uint64_t m = rnd() | 1ull << 63;
    uint16_t se = (uint16_t)((rnd() & 0x8000) | (16383 - 8 + below(20)));

    switch (below(12)) {
    case 0:
        m = 0, se &= 0x8000;
        break;
    case 1:
        m = 1ull << 63, se = (uint16_t)(se & 0x8000) | 0x7fff;
        break;
    case 2:
        m = rnd() | 3ull << 62, se = (uint16_t)(se & 0x8000) | 0x7fff;
        break;
    case 3:
        m = (rnd() >> 2) | 1ull << 63, se = (uint16_t)(se & 0x8000) | 0x7fff;
        break;
    case 4:
        m = rnd() >> 1, se &= 0x8000; /* denormal */
        break;
    case 5:
        m = rnd(), se = (uint16_t)rnd(); /* anything, unsupported formats included */
        break;
    case 6:
        m = 1ull << 63, se = (uint16_t)((se & 0x8000) | 16383);
        break;
    case 7:
        m = below(1000) + 1, se = (uint16_t)((se & 0x8000) | (16383 + 63));
        while (!(m >> 63))
            m <<= 1, se--;
        break;
    default:
        break;
    }
    memcpy(p, &m, 8);
    memcpy(p + 8, &se, 2);
}

static void rnd_bytes(uint8_t *p, unsigned n)
{
    unsigned kind = below(6);

    for (unsigned i = 0; i < n; i += 8) {
        uint64_t v = kind == 0 ? rnd_int() : rnd();

        if (kind == 1)
            v &= 0x0303030303030303;
        memcpy(p + i, &v, n - i < 8 ? n - i : 8);
        if (kind == 2 && n - i >= 8)
            rnd_float(p + i), rnd_float(p + i + 4);
        if (kind == 3 && n - i >= 8)
            rnd_double(p + i);
        if (kind == 4 && n - i >= 8 && below(2))
            memset(p + i, 0, 8);
    }
}

static void put16(uint8_t *p, unsigned v) { memcpy(p, &(uint16_t){(uint16_t)v}, 2); }
static void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static void put64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }

static unsigned rnd_fcw(void) { return below(2) ? 0x37f : (below(2) ? 0x7f : 0x40 | below(64)) | below(4) << 8 | below(4) << 10; }

static inline void rnd_fx(uint8_t *fx)
{
    unsigned fcw = rnd_fcw(), fsw = below(8) << 11 | (unsigned)(rnd() & 0x4700), flags = below(64), mx;

    memset(fx, 0, XSTATE_SIZE);
    if (below(8))
        flags &= fcw; /* mostly nothing pending */
    fsw |= flags | (flags & ~fcw ? 0x8080 : 0);
    if (below(4) == 0)
        fsw |= 0x40;
    if ((fsw & ~fcw & 0x3f))
        fsw |= 0x8080;
    put16(fx, fcw);
    put16(fx + 2, fsw);
    fx[4] = below(3) ? 0xff : (uint8_t)rnd();
    put16(fx + 6, (unsigned)rnd() & 0x7ff);
    put64(fx + 8, rnd() >> 17);
    put64(fx + 16, rnd() >> 17);
    for (unsigned i = 0; i < 8; i++)
        rnd_ext(fx + 32 + 16 * i);
    mx = 0x1f80;
    if (below(2))
        mx |= (unsigned)rnd() & 0xe07f;
    if (below(5) == 0)
        mx &= ~0x1f80u | (unsigned)rnd();
    put32(fx + 24, mx);
    for (unsigned i = 0; i < 16; i++) {
        rnd_bytes(fx + 160 + 16 * i, 16);
        rnd_bytes(fx + 576 + 16 * i, 16);
    }
    put64(fx + 512, 7);
}

#endif
