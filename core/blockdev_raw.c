/* Raw image file as a block back end. */
#include "core/blockdev.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ringer/host.h"

static int raw_read(void *ctx, uint64_t off, void *buf, size_t len)
{
    return host_file_read(ctx, off, buf, len);
}
static int raw_write(void *ctx, uint64_t off, const void *buf, size_t len)
{
    return host_file_write(ctx, off, buf, len);
}
static int raw_flush(void *ctx)
{
    return host_file_flush(ctx);
}
static int raw_discard(void *ctx, uint64_t off, uint64_t len)
{
    return host_file_discard(ctx, off, len);
}

static int raw_zero(void *ctx, uint64_t off, uint64_t len)
{
    static const uint8_t zeroes[65536];
    int rc = host_file_zero(ctx, off, len);
    if (rc != -ENOTSUP)
        return rc;
    while (len) {
        size_t n = len < sizeof zeroes ? (size_t)len : sizeof zeroes;
        rc = host_file_write(ctx, off, zeroes, n);
        if (rc)
            return rc;
        off += n;
        len -= n;
    }
    return 0;
}

int blockdev_raw_open(struct blockdev *bd, const char *path, bool readonly, char *err, size_t errcap)
{
    int e = 0;
    struct host_file *f = host_file_open(path, readonly ? "r" : "rw", &e);
    if (!f) {
        snprintf(err, errcap, "cannot open disk %s: %s", path, strerror(e < 0 ? -e : e));
        return -1;
    }
    uint64_t size = host_file_size(f);
    if (host_file_lock(f, !readonly)) {
        snprintf(err, errcap, "disk %s is in use by another program", path);
    } else if (!size || size % 512) {
        snprintf(err, errcap, "disk %s: its size, %llu bytes, is not a multiple of 512%s", path,
                 (unsigned long long)size, size ? "" : " above zero");
    } else {
        *bd = (struct blockdev){.ctx = f,
                                .size = size,
                                .readonly = readonly,
                                .read = raw_read,
                                .write = raw_write,
                                .flush = raw_flush,
                                .discard = raw_discard,
                                .write_zeroes = raw_zero};
        return 0;
    }
    host_file_close(f);
    return -1;
}

int blockdev_raw_close(struct blockdev *bd)
{
    int rc = 0;
    if (!bd->ctx)
        return 0;
    if (!bd->readonly)
        rc = host_file_flush(bd->ctx);
    host_file_close(bd->ctx);
    bd->ctx = NULL;
    return rc;
}
