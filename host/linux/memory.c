/* Memory: guest RAM as a memfd (so that other processes and KVM can map it), executable memory as two views of one memfd. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ringer/host.h"

/* Guests race on their own memory as they like; that is not ours to report. */
#if defined(__SANITIZE_THREAD__)
#define TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#endif
#ifdef TSAN
void AnnotateBenignRaceSized(const char *file, int line, const volatile void *mem, uintptr_t size, const char *desc);
#else
#define AnnotateBenignRaceSized(...) ((void)0)
#endif

/* By default the first large block that is freed, here the guest's kernel once it is loaded, teaches the allocator to keep blocks of that size. */
void host_memory_init(void) { mallopt(M_MMAP_THRESHOLD, 128 << 10); }

void *host_ram_alloc(size_t size, int *fd)
{
    void *p;
    if (!fd) {
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    *fd = memfd_create("ringer-ram", MFD_CLOEXEC);
    if (*fd < 0)
        return NULL;
    if (ftruncate(*fd, (off_t)size) != 0)
        goto fail;
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, *fd, 0);
    if (p == MAP_FAILED)
        goto fail;
    madvise(p, size, MADV_DONTDUMP);
    AnnotateBenignRaceSized(__FILE__, __LINE__, p, size, "guest RAM");
    return p;
fail:
    close(*fd);
    *fd = -1;
    return NULL;
}

void host_ram_free(void *p, size_t size, int fd)
{
    if (p)
        munmap(p, size);
    if (fd >= 0)
        close(fd);
}

void host_ram_discard(void *p, size_t size)
{
    /* Shared memory needs the hole punched; private memory only has to forget. */
    if (madvise(p, size, MADV_REMOVE) != 0)
        madvise(p, size, MADV_DONTNEED);
}

int host_exec_alloc(size_t size, void **rw, void **rx)
{
    int err, fd = memfd_create("ringer-code", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) != 0)
        goto fail;
    *rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*rw == MAP_FAILED)
        goto fail;
    *rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (*rx == MAP_FAILED) {
        err = errno;
        munmap(*rw, size);
        close(fd);
        return -err;
    }
    close(fd);
    return 0;
fail:
    err = errno;
    close(fd);
    return -err;
}

void host_exec_free(void *rw, void *rx, size_t size)
{
    if (rw)
        munmap(rw, size);
    if (rx)
        munmap(rx, size);
}
