/* User code that changes: written and run in one page, through a second mapping, between mprotects, by a second process and a second thread,
 * with frames and jumps that leave it by longjmp. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

typedef uint32_t (*fn)(uint32_t);

/* mov $k, %eax; add %edi, %eax; ret */
static void put(uint8_t *p, uint32_t k)
{
    p[0] = 0xb8;
    memcpy(p + 1, &k, 4);
    memcpy(p + 5, "\x01\xf8\xc3", 3);
}

static void in_place(void)
{
    uint8_t *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (uint32_t i = 0; i < 3000; i++) {
        uint8_t *at = p + (i % 3 ? 4096 - 1 - i % 8 : 64 * (i % 60)); /* over the pages' border, too */
        put(at, i);
        CHECK(((fn)(void *)at)(5) == i + 5, "%u", i);
        memcpy(at + 1, &(uint32_t){i * 3}, 4);
        CHECK(((fn)(void *)at)(5) == i * 3 + 5, "%u, the constant alone", i);
    }
    munmap(p, 8192);
}

/* A function that changes the instruction behind the store, each time round. */
static void itself(void)
{
    static const uint8_t code[] = {
        0x31, 0xc0,                               /* xor %eax, %eax */
        0x89, 0x3d, 0x03, 0x00, 0x00, 0x00,       /* 1: mov %edi, 3(%rip): the constant */
        0x90, 0x90, 0x05, 0, 0, 0, 0,             /* nop; nop; add $constant, %eax */
        0xff, 0xcf, 0x75, 0xef,                   /* dec %edi; jnz 1b */
        0xc3,
    };
    uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memcpy(p, code, sizeof(code));
    for (uint32_t n = 1; n < 200; n++) {
        const uint32_t sum = ((fn)(void *)p)(n);
        CHECK(sum == n * (n + 1) / 2, "%u: %u", n, sum);
    }
    munmap(p, 4096);
}

static void two_names(void)
{
    const int fd = memfd_create("code", 0);
    CHECK(ftruncate(fd, 4096) == 0, "memfd");
    uint8_t *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);

    for (uint32_t i = 0; i < 2000; i++) {
        put(w + 16 * (i % 200), i);
        CHECK(((fn)(void *)(x + 16 * (i % 200)))(1) == i + 1, "%u", i);
    }
    /* Written by a process that does not execute it */
    for (uint32_t i = 0; i < 60; i++) {
        const pid_t c = fork();
        if (!c) {
            put(w, 100000 + i);
            _exit(0);
        }
        waitpid(c, NULL, 0);
        CHECK(((fn)(void *)x)(1) == 100001 + i, "%u", i);
        pwrite(fd, &(uint32_t){200000 + i}, 4, 1); /* and by the kernel */
        CHECK(((fn)(void *)x)(1) == 200001 + i, "%u by write", i);
    }
    munmap(w, 4096);
    munmap(x, 4096);
    close(fd);
}

static void by_turns(void)
{
    uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (uint32_t i = 0; i < 500; i++) {
        mprotect(p, 4096, PROT_READ | PROT_WRITE);
        put(p, i);
        mprotect(p, 4096, PROT_READ | PROT_EXEC);
        CHECK(((fn)(void *)p)(2) == i + 2, "%u", i);
        if (i % 50 == 0) { /* other memory at the same address */
            munmap(p, 4096);
            CHECK(mmap(p, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p, "map");
        }
    }
    munmap(p, 4096);
}

/* One thread runs what another changes; four bytes that are aligned are one constant or the other. */
static uint8_t *shared;
static volatile int stop;
static void *runner(void *arg)
{
    (void)arg;
    uint32_t last = 0;
    while (!stop) {
        const uint32_t v = ((fn)(void *)(shared + 3))(0);
        CHECK(v >= last && v < 100000, "%u behind %u", v, last);
        last = v;
    }
    return NULL;
}

static void across_threads(void)
{
    pthread_t t;

    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    put(shared + 3, 0);
    pthread_create(&t, NULL, runner, NULL);
    for (uint32_t i = 1; i < 3000; i++) {
        __atomic_store_n((uint32_t *)(void *)(shared + 4), i, __ATOMIC_SEQ_CST);
        CHECK(((fn)(void *)(shared + 3))(0) == i, "%u", i);
    }
    stop = 1;
    pthread_join(t, NULL);
    munmap(shared, 4096);
}

static jmp_buf env;
static void leave(int v) { longjmp(env, v); }
static void jumps(void)
{
    uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile unsigned n = 0;

    for (volatile int i = 1; i < 500; i++) { /* mov $leave, %rax; call *%rax: out of generated code, never back */
        void (*to)(int) = leave;
        memcpy(p, "\x48\xb8", 2);
        memcpy(p + 2, &to, 8);
        memcpy(p + 10, "\x55\x48\x89\xe5\xff\xd0\x0f\x0b", 8);
        const int v = setjmp(env);
        if (!v)
            ((void (*)(int))(void *)p)(i);
        CHECK(v == i, "%d", v);
        n++;
    }
    CHECK(n == 499, "%u", n);
    munmap(p, 4096);
}

int main(void)
{
    in_place();
    itself();
    two_names();
    by_turns();
    across_threads();
    jumps();
    return check_end("jit");
}
