/* Time, random numbers and the log line. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <cpuid.h>
#include <x86intrin.h>

#include "ringer/host.h"

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t host_now(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t host_wall(void)
{
    return clock_ns(CLOCK_REALTIME);
}

uint64_t host_cpu_ns(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t host_thread_cpu_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* The processes this one has made; like the process itself, there is one such table. */
static _Atomic int children[256];

void host_child(int pid, bool alive)
{
    for (unsigned i = 0; i < sizeof(children) / sizeof(children[0]); i++) {
        int want = alive ? 0 : pid;
        if (atomic_compare_exchange_strong(&children[i], &want, alive ? pid : 0))
            return;
    }
}

static uint64_t children_ns(void)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < sizeof(children) / sizeof(children[0]); i++) {
        const int pid = atomic_load(&children[i]);
        clockid_t id;
        struct timespec ts;
        if (pid > 0 && clock_getcpuclockid(pid, &id) == 0 && clock_gettime(id, &ts) == 0)
            sum += (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
    }
    return sum;
}

/* The CPU time of the processes that a file of /proc lists; they may be gone. */
static uint64_t listed_ns(const char *path)
{
    char list[4096], *p = list;
    clockid_t id;
    uint64_t sum = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, list, sizeof(list) - 1);
    if (fd >= 0)
        close(fd);
    list[n > 0 ? n : 0] = 0;
    for (char *end; (n = strtol(p, &end, 10)) > 0; p = end) {
        struct timespec ts;
        if (clock_getcpuclockid((pid_t)n, &id) == 0 && clock_gettime(id, &ts) == 0)
            sum += (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
    }
    return sum;
}

uint64_t host_cpu_tree_ns(void)
{
    struct rusage ended;
    char path[64];
    uint64_t sum = 0;
    /* Those that have ended first: whoever ends in between is missed rather than counted twice. */
    if (getrusage(RUSAGE_CHILDREN, &ended) == 0)
        sum = (uint64_t)(ended.ru_utime.tv_sec + ended.ru_stime.tv_sec) * 1000000000u +
              (uint64_t)(ended.ru_utime.tv_usec + ended.ru_stime.tv_usec) * 1000u;
    DIR *d = opendir("/proc/self/task"); /* children are listed by the thread that made them */
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/self/task/%.16s/children", e->d_name);
        sum += listed_ns(path);
    }
    if (d)
        closedir(d);
    else /* confined */
        sum += children_ns();
    return sum + host_cpu_ns();
}

uint64_t host_tsc_khz(void)
{
    unsigned a, b, c, d;
    /* CPUID 15H gives the ratio to the core crystal clock where its frequency is stated. */
    if (__get_cpuid_max(0, NULL) >= 0x15 && __get_cpuid(0x15, &a, &b, &c, &d) && a && b && c)
        return (uint64_t)c * b / a / 1000;
    if (__get_cpuid(0x40000000, &a, &b, &c, &d) && a >= 0x40000010) {
        __cpuid(0x40000010, a, b, c, d);
        if (a)
            return a;
    }
    /* Measure: 10 ms against the monotonic clock is good to about 0.01 %. */
    uint64_t t0 = host_now(), c0 = __rdtsc(), t1;
    do
        t1 = host_now();
    while (t1 - t0 < 10000000);
    return (__rdtsc() - c0) * 1000000u / (t1 - t0);
}

int host_random(void *buf, size_t len)
{
    uint8_t *p = buf;
    while (len) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

void host_log(const char *fmt, ...)
{
    char line[1024] = "ringer: ";
    size_t n = strlen(line);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof(line) - n - 2, fmt, ap);
    va_end(ap);
    if (m < 0)
        return;
    n += (size_t)m < sizeof(line) - n - 2 ? (size_t)m : sizeof(line) - n - 3;
    /* A raw terminal does not return the carriage by itself. */
    if (isatty(2))
        line[n++] = '\r';
    line[n++] = '\n';
    ssize_t r = write(2, line, n);
    (void)r;
}
