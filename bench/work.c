/*
 * Workloads for the bare host and for guests, one static program:
 * work NAME COUNT [FILE]. It prints nothing but `check`, whose lines must be the
 * same everywhere. Time is taken outside (bench.py).
 */
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* --- the kernel's work --- */

static uint64_t do_getppid(long n)
{
    for (; n > 0; n--)
        syscall(SYS_getppid);
    return 0;
}

static void wait_for(pid_t pid)
{
    int status;
    if (pid < 0)
        fail("fork");
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status))
        fail("child");
}

static uint64_t do_fork(long n)
{
    for (; n > 0; n--) {
        pid_t pid = fork();
        if (!pid)
            _exit(0);
        wait_for(pid);
    }
    return 0;
}

static uint64_t do_exec(long n)
{
    for (; n > 0; n--) {
        pid_t pid = fork();
        if (!pid) {
            execl("/proc/self/exe", "work", "nothing", "1", (char *)NULL);
            _exit(1);
        }
        wait_for(pid);
    }
    return 0;
}

static uint64_t do_nothing(long n)
{
    return (uint64_t)n;
}

/* Fresh anonymous pages of 4 KiB, 1024 at a time */
static uint64_t do_fault(long n)
{
    const size_t chunk = 1024, size = 4096;
    while (n > 0) {
        char *p = mmap(NULL, chunk * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            fail("mmap");
        madvise(p, chunk * size, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < chunk && n > 0; i++, n--)
            *(volatile char *)(p + i * size) = 1;
        munmap(p, chunk * size);
    }
    return 0;
}

/* One byte to the other process and back */
static uint64_t do_pipe(long n)
{
    int there[2], back[2];
    char c = 0;
    if (pipe(there) || pipe(back))
        fail("pipe");
    pid_t pid = fork();
    if (!pid) {
        for (; n > 0; n--)
            if (read(there[0], &c, 1) != 1 || write(back[1], &c, 1) != 1)
                _exit(1);
        _exit(0);
    }
    for (; n > 0; n--)
        if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
            fail("pipe");
    wait_for(pid);
    return 0;
}

/* --- computing --- */

static int compare(const void *a, const void *b)
{
    uint32_t x, y;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    return x < y ? -1 : x > y;
}

/* Integers: primes, sorting through a function pointer, bit counting, division, hashing of strings */
static uint64_t do_int(long n)
{
    enum { SIEVE = 8192, SORT = 1024 };
    static uint8_t composite[SIEVE];
    static uint32_t v[SORT];
    uint64_t seed = 88172645463325252u, sum = 0;
    for (; n > 0; n--) {
        memset(composite, 0, sizeof(composite));
        for (unsigned i = 2; i < SIEVE; i++) {
            if (composite[i])
                continue;
            sum += i;
            for (unsigned k = i * i; k < SIEVE && i < 91; k += i)
                composite[k] = 1;
        }
        for (unsigned i = 0; i < SORT; i++)
            v[i] = (uint32_t)next_random(&seed);
        qsort(v, SORT, sizeof(v[0]), compare);
        for (unsigned i = 1; i < SORT; i++) {
            sum = sum * 31 + v[i] % (v[i - 1] % 1000 + 1);
            sum ^= (uint64_t)__builtin_popcount(v[i]) << (i & 31);
        }
        char text[32];
        for (unsigned i = 0; i < 64; i++) {
            uint32_t h = 2166136261u;
            for (int k = snprintf(text, sizeof(text), "%u-%x", v[i], v[i + 1]); k-- > 0;)
                h = (h ^ (uint8_t)text[k]) * 16777619u;
            sum += h;
        }
    }
    return sum;
}

/* Floating point: matrix product, orbits (square roots, divisions), a polynomial */
static uint64_t do_float(long n)
{
    enum { M = 48 };
    static double a[M][M], b[M][M], c[M][M];
    double total = 0;
    for (; n > 0; n--) {
        for (int i = 0; i < M; i++)
            for (int j = 0; j < M; j++) {
                a[i][j] = (i * 7 + j * 3) % 11 / 11.0;
                b[i][j] = (i * 5 + j) % 13 / 13.0;
            }
        for (int i = 0; i < M; i++)
            for (int j = 0; j < M; j++) {
                double s = 0;
                for (int k = 0; k < M; k++)
                    s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
        double x = 1, y = 0, vx = 0, vy = 1, dt = 0.01;
        for (int i = 0; i < 2000; i++) {
            double r2 = x * x + y * y, f = -1 / (r2 * sqrt(r2));
            vx += f * x * dt;
            vy += f * y * dt;
            x += vx * dt;
            y += vy * dt;
        }
        double p = 0;
        for (int i = 0; i < 2000; i++)
            p = p * 0.999 + (i & 15) * 0.125 - p * p * 1e-6;
        total = total * 0.5 + c[M / 2][M / 3] + x + y + p;
    }
    uint64_t bits;
    memcpy(&bits, &total, sizeof(bits));
    return bits;
}

/* One MiB at a time between two buffers of 8 MiB */
static uint64_t do_copy(long n)
{
    const size_t mib = 1 << 20, size = 8 * mib;
    char *a = malloc(size), *b = malloc(size);
    if (!a || !b)
        fail("malloc");
    memset(a, 1, size);
    memset(b, 2, size);
    for (size_t at = 0; n > 0; n--, at = (at + mib) % size)
        memcpy(n & 8 ? a + at : b + at, n & 8 ? b + at : a + at, mib);
    uint64_t r = (uint8_t)a[size - 1] + (uint64_t)(uint8_t)b[size - 1];
    free(a);
    free(b);
    return r;
}

/* A file of `n` KiB: blocks of 64 KiB, every other one of zeros and of noise */
static void do_fill(long n, const char *file)
{
    static uint64_t block[1024 / 8];
    uint64_t seed = 1234567890123456789u;
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        fail(file);
    for (long i = 0; i < n; i++) {
        for (unsigned k = 0; k < sizeof(block) / 8; k++)
            block[k] = i & 64 ? 0 : next_random(&seed);
        if (write(fd, block, sizeof(block)) != sizeof(block))
            fail(file);
    }
    close(fd);
}

static const struct {
    const char *name;
    uint64_t (*run)(long n);
} works[] = {
    {"getppid", do_getppid}, {"fork", do_fork}, {"exec", do_exec}, {"nothing", do_nothing}, {"fault", do_fault},
    {"pipe", do_pipe}, {"int", do_int}, {"float", do_float}, {"copy", do_copy},
};

/* As the first process of a guest: say so, and go on with the usual one. */
static int be_init(char **argv)
{
    static const char mark[] = "@INIT\n";
    if (write(1, mark, sizeof(mark) - 1) < 0)
        return 1;
    execv("/init", argv);
    return 1;
}

int main(int argc, char **argv)
{
    if (getpid() == 1)
        return be_init(argv);
    if (argc == 2 && !strcmp(argv[1], "check")) {
        printf("int %016llx\n", (unsigned long long)do_int(3));
        printf("float %016llx\n", (unsigned long long)do_float(3));
        printf("copy %016llx\n", (unsigned long long)do_copy(11));
        return 0;
    }
    long n = argc > 2 ? atol(argv[2]) : 0;
    if (n > 0 && argc == 4 && !strcmp(argv[1], "fill")) {
        do_fill(n, argv[3]);
        return 0;
    }
    for (unsigned i = 0; n > 0 && i < sizeof(works) / sizeof(works[0]); i++) {
        if (!strcmp(argv[1], works[i].name)) {
            volatile uint64_t result = works[i].run(n);
            (void)result;
            return 0;
        }
    }
    fprintf(stderr, "usage: work NAME COUNT | work fill KIB FILE | work check\n");
    return 2;
}
