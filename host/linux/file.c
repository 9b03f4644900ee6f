/* Files. Whole transfers or an error; nothing here truncates. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ringer/host.h"

struct host_file {
    int fd;
    bool block;
    uint64_t size;
};

struct host_file *host_file_open(const char *path, const char *mode, int *err)
{
    struct stat st;
    struct host_file *f = NULL;
    bool rw = !strcmp(mode, "rw");
    int fd = open(path, (rw ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0)
        goto fail;
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        errno = S_ISDIR(st.st_mode) ? EISDIR : ENODEV;
        goto fail;
    }
    f = calloc(1, sizeof(*f));
    if (!f)
        goto fail;
    f->fd = fd;
    f->block = S_ISBLK(st.st_mode);
    f->size = (uint64_t)st.st_size;
    if (f->block && ioctl(fd, BLKGETSIZE64, &f->size) != 0)
        goto fail;
    return f;
fail:
    *err = -errno;
    free(f);
    if (fd >= 0)
        close(fd);
    return NULL;
}

void host_file_close(struct host_file *f)
{
    if (!f)
        return;
    close(f->fd);
    free(f);
}

uint64_t host_file_size(struct host_file *f)
{
    return f->size;
}

int host_file_lock(struct host_file *f, bool exclusive)
{
    if (flock(f->fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

int host_file_read(struct host_file *f, uint64_t off, void *buf, size_t len)
{
    uint8_t *p = buf;
    while (len) {
        ssize_t n = pread(f->fd, p, len, (off_t)off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        off += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int host_file_write(struct host_file *f, uint64_t off, const void *buf, size_t len)
{
    const uint8_t *p = buf;
    while (len) {
        ssize_t n = pwrite(f->fd, p, len, (off_t)off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        off += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int host_file_flush(struct host_file *f)
{
    return fdatasync(f->fd) == 0 ? 0 : -errno;
}

static int range_ioctl(struct host_file *f, unsigned long req, uint64_t off, uint64_t len)
{
    uint64_t r[2] = {off, len};
    if (ioctl(f->fd, req, r) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == EINVAL || errno == ENOTTY ? -ENOTSUP : -errno;
}

int host_file_discard(struct host_file *f, uint64_t off, uint64_t len)
{
    if (f->block)
        return range_ioctl(f, BLKDISCARD, off, len);
    if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? -ENOTSUP : -errno;
}

int host_file_zero(struct host_file *f, uint64_t off, uint64_t len)
{
    if (f->block)
        return range_ioctl(f, BLKZEROOUT, off, len);
    if (fallocate(f->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) == 0 ||
        fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? -ENOTSUP : -errno;
}

int host_file_slurp(const char *path, size_t max, uint8_t **buf, size_t *len)
{
    int err = 0;
    struct host_file *f = host_file_open(path, "r", &err);
    if (!f)
        return err;
    err = f->size > max ? -EFBIG : 0;
    if (!err) {
        *len = (size_t)f->size;
        *buf = malloc(*len + 1);
        err = *buf ? host_file_read(f, 0, *buf, *len) : -ENOMEM;
        if (err)
            free(*buf);
        else
            (*buf)[*len] = 0;
    }
    host_file_close(f);
    return err;
}
