/* A block back end whose writes stay in memory. */
#include "core/blockdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ringer/host.h"

#define CHUNK 4096u

struct overlay {
    const struct blockdev *base;
    uint64_t size; /* of mem: whole chunks */
    uint8_t *mem;
    uint8_t *here; /* a bit for each chunk that was copied */
};

static uint64_t chunk_end(const struct overlay *o, uint64_t c)
{
    return (c + 1) * CHUNK < o->base->size ? (c + 1) * CHUNK : o->base->size;
}

static bool is_here(const struct overlay *o, uint64_t c) { return o->here[c / 8] >> (c % 8) & 1; }

static int overlay_read(void *ctx, uint64_t off, void *buf, size_t len)
{
    struct overlay *o = ctx;
    uint8_t *p = buf;
    while (len) {
        const uint64_t c = off / CHUNK, left = chunk_end(o, c) - off, n = len < left ? len : left;
        if (is_here(o, c)) {
            memcpy(p, o->mem + off, n);
        } else {
            const int e = o->base->read(o->base->ctx, off, p, n);
            if (e)
                return e;
        }
        p += n;
        off += n;
        len -= n;
    }
    return 0;
}

/* buf NULL: zeroes. */
static int put(struct overlay *o, uint64_t off, const uint8_t *buf, uint64_t len)
{
    while (len) {
        const uint64_t c = off / CHUNK, end = chunk_end(o, c), n = len < end - off ? len : end - off;
        if (!is_here(o, c)) {
            const int e = n == end - c * CHUNK ? 0 : o->base->read(o->base->ctx, c * CHUNK, o->mem + c * CHUNK, end - c * CHUNK);
            if (e)
                return e;
            o->here[c / 8] |= (uint8_t)(1u << (c % 8));
        }
        if (buf)
            memcpy(o->mem + off, buf, n), buf += n;
        else
            memset(o->mem + off, 0, n);
        off += n;
        len -= n;
    }
    return 0;
}

static int overlay_write(void *ctx, uint64_t off, const void *buf, size_t len) { return put(ctx, off, buf, len); }
static int overlay_zero(void *ctx, uint64_t off, uint64_t len) { return put(ctx, off, NULL, len); }
static int overlay_flush(void *ctx) { return ctx ? 0 : -EIO; }

int blockdev_overlay_new(struct blockdev *bd, const struct blockdev *base, bool readonly)
{
    struct overlay *o = calloc(1, sizeof(*o));
    if (!o)
        return -1;
    o->base = base;
    o->size = (base->size + CHUNK - 1) / CHUNK * CHUNK;
    o->mem = host_ram_alloc(o->size, NULL);
    o->here = calloc(o->size / CHUNK / 8 + 1, 1);
    *bd = (struct blockdev){.ctx = o, .size = base->size, .readonly = readonly, .read = overlay_read, .write = overlay_write, .flush = overlay_flush,
                            .discard = overlay_zero, .write_zeroes = overlay_zero};
    if (o->mem && o->here)
        return 0;
    blockdev_overlay_free(bd);
    return -1;
}

void blockdev_overlay_free(struct blockdev *bd)
{
    struct overlay *o = bd->ctx;
    if (!o)
        return;
    if (o->mem)
        host_ram_free(o->mem, o->size, -1);
    free(o->here);
    free(o);
    bd->ctx = NULL;
}
