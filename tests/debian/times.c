/* Time by vDSO and vsyscall page against the system calls. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static int64_t ns(const struct timespec *t) { return t->tv_sec * 1000000000ll + t->tv_nsec; }

int main(void)
{
    static const clockid_t ids[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME};
    long (*vtime)(long *) = (long (*)(long *))0xffffffffff600400;
    int (*vtod)(struct timeval *, void *) = (int (*)(struct timeval *, void *))0xffffffffff600000;
    long (*vcpu)(unsigned *, unsigned *, void *) = (long (*)(unsigned *, unsigned *, void *))0xffffffffff600800;

    CHECK(getauxval(AT_SYSINFO_EHDR), "no vDSO");
    for (unsigned i = 0; i < 5; i++)
        for (unsigned k = 0; k < 5000; k++) {
            struct timespec a, b, c;
            syscall(SYS_clock_gettime, ids[i], &a);
            clock_gettime(ids[i], &b);
            syscall(SYS_clock_gettime, ids[i], &c);
            CHECK(ns(&a) <= ns(&b) && ns(&b) <= ns(&c), "clock %d: %ld %ld %ld", ids[i], ns(&a), ns(&b), ns(&c));
            if (check_failed)
                return check_end("times");
        }
    for (unsigned k = 0; k < 2000; k++) {
        struct timespec a, c;
        struct timeval b;
        unsigned cpu = 99;

        syscall(SYS_clock_gettime, CLOCK_REALTIME, &a);
        CHECK(vtod(&b, NULL) == 0, "vsyscall gettimeofday");
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &c);
        CHECK(ns(&a) / 1000 <= b.tv_sec * 1000000ll + b.tv_usec && b.tv_sec * 1000000ll + b.tv_usec <= ns(&c) / 1000, "vsyscall's time");
        const long t = vtime(NULL);
        CHECK(t - c.tv_sec <= 1 && t >= a.tv_sec - 1, "vsyscall time: %ld, %ld", t, c.tv_sec);
        CHECK(vcpu(&cpu, NULL, NULL) == 0 && cpu < 64, "vsyscall getcpu: %u", cpu);
        CHECK(sched_getcpu() >= 0, "getcpu");
    }
    return check_end("times");
}
