/* User worlds (sandbox/user64.h): registers both ways, mappings, what guest code cannot do there. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "sandbox/user64.h"
#include "sandbox/user64_layout.h"

#define CODE 0x400000ull
#define DATA 0x7f0000000000ull

struct fix {
    int fd;
    uint8_t *ram; /* page 0: code, 1: data, 2: what the world must not get */
    struct user64 *w;
    struct user64_regs r;
    struct user64_exit e;
};

static void begin(struct fix *f, const uint8_t *code, size_t n)
{
    char why[128] = "";

    f->fd = memfd_create("test-ram", 0);
    assert_true(f->fd >= 0);
    assert_int_equal(ftruncate(f->fd, 3 * 4096), 0);
    f->ram = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    assert_true(f->ram != MAP_FAILED);
    memcpy(f->ram, code, n);
    f->w = user64_new(f->fd, f->fd, why, sizeof(why));
    if (!f->w)
        fail_msg("%s", why);
    memset(&f->r, 0, sizeof(f->r));
    f->r.fp[0] = 0x7f, f->r.fp[1] = 0x03;
    f->r.fp[24] = 0x80, f->r.fp[25] = 0x1f;
    f->r.rip = CODE;
    f->r.rflags = 0x202;
    assert_true(user64_map(f->w, CODE, 4096, 0, USER64_R | USER64_X));
    assert_true(user64_map(f->w, DATA, 4096, 4096, USER64_R | USER64_W));
}
static void end(struct fix *f)
{
    user64_free(f->w);
    munmap(f->ram, 3 * 4096);
    close(f->fd);
}
static void run(struct fix *f)
{
    const enum user64_result how = user64_run(f->w, &f->r, &f->e);

    if (how != USER64_OK)
        fail_msg("result %d: %s", how, user64_why(f->w));
}

static void test_registers(void **state)
{
    /* add $1 to every register but rsp; movdqa %xmm1, %xmm2; mov %fs:0, %rax is left out; syscall */
    static const uint8_t code[] = {
        0x48, 0xff, 0xc0, 0x48, 0xff, 0xc1, 0x48, 0xff, 0xc2, 0x48, 0xff, 0xc3, 0x48, 0xff, 0xc5, 0x48, 0xff, 0xc6, 0x48, 0xff, 0xc7, 0x49, 0xff, 0xc0,
        0x49, 0xff, 0xc1, 0x49, 0xff, 0xc2, 0x49, 0xff, 0xc3, 0x49, 0xff, 0xc4, 0x49, 0xff, 0xc5, 0x49, 0xff, 0xc6, 0x49, 0xff, 0xc7,
        0x66, 0x0f, 0x6f, 0xd1, /* movdqa xmm2, xmm1 */
        0xf9,                   /* stc */
        0x0f, 0x05,
    };
    struct fix f;

    begin(&f, code, sizeof(code));
    for (unsigned i = 0; i < 16; i++)
        f.r.gpr[i] = 0x1111111111111111ull * i;
    f.r.gpr[4] = 0xdead0000dead0000ull; /* not canonical: nobody pushes */
    f.r.fs_base = 0x123456789000ull;
    f.r.gs_base = 0xffff888000001000ull;
    for (unsigned i = 0; i < 32; i++)
        f.r.fp[160 + i] = (uint8_t)(i + 3);
    memset(f.r.fp + 576, 0x5a, 256);
    run(&f);
    assert_int_equal(f.e.sig, SIGSYS);
    assert_false(f.e.foul);
    assert_int_equal(f.r.rip, CODE + sizeof(code));
    for (unsigned i = 0; i < 16; i++)
        if (i == 1)
            assert_int_equal(f.r.gpr[i], CODE + sizeof(code));
        else if (i == 4)
            assert_int_equal(f.r.gpr[i], 0xdead0000dead0000ull);
        else if (i != 11)
            assert_int_equal(f.r.gpr[i], 0x1111111111111111ull * i + 1);
    assert_true(f.r.rflags & 1);
    assert_int_equal(f.r.gpr[11] & 0x8d5, f.r.rflags & 0x8d5);
    assert_int_equal(f.r.fs_base, 0x123456789000ull);
    assert_int_equal(f.r.gs_base, 0xffff888000001000ull);
    assert_memory_equal(f.r.fp + 192, f.r.fp + 176, 16);
    assert_int_equal(f.r.fp[576 + 255], 0x5a);
    end(&f);
}

static void test_faults_and_mappings(void **state)
{
    /* mov %rbx, (%rsi); mov (%rdi), %rax; ud2 */
    static const uint8_t code[] = {0x48, 0x89, 0x1e, 0x48, 0x8b, 0x07, 0x0f, 0x0b};
    struct fix f;

    begin(&f, code, sizeof(code));
    f.r.gpr[3] = 42;
    f.r.gpr[6] = DATA + 8;
    f.r.gpr[7] = DATA + 0x1008;
    run(&f);
    assert_int_equal(f.e.sig, SIGSEGV);
    assert_int_equal(f.e.trapno, 14);
    assert_int_equal(f.e.cr2, DATA + 0x1008);
    assert_int_equal(f.e.err, 4);
    assert_int_equal(f.r.rip, CODE + 3);
    assert_int_equal(f.ram[4096 + 8], 42);
    f.ram[2 * 4096 + 8] = 99;
    assert_true(user64_map(f.w, DATA + 4096, 4096, 8192, USER64_R));
    run(&f);
    assert_int_equal(f.e.sig, SIGILL);
    assert_int_equal(f.r.gpr[0], 99);
    /* A write to the read-only one, then to nothing at all */
    f.r.rip = CODE;
    f.r.gpr[6] = DATA + 4096;
    run(&f);
    assert_int_equal(f.e.sig, SIGSEGV);
    assert_int_equal(f.e.err, 7);
    user64_unmap_all(f.w);
    assert_true(user64_map(f.w, CODE, 4096, 0, USER64_R | USER64_X));
    run(&f);
    assert_int_equal(f.e.err, 6);
    end(&f);
}

static void test_sensitive_traps(void **state)
{
    static const struct {
        uint8_t code[4];
        int sig;
        uint8_t len;
    } t[] = {
        {{0x0f, 0x31}, SIGSEGV, 0},       /* rdtsc */
        {{0x0f, 0x01, 0xf9}, SIGSEGV, 0}, /* rdtscp */
        {{0xcd, 0x80}, SIGSYS, 2},        /* int $0x80 */
        {{0xf4}, SIGSEGV, 0},             /* hlt */
        {{0xcc}, SIGTRAP, 1},
        {{0xfa}, SIGSEGV, 0}, /* cli */
    };
    struct fix f;

    begin(&f, t[0].code, 2);
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        memcpy(f.ram, t[i].code, 4);
        f.r.rip = CODE;
        run(&f);
        assert_int_equal(f.e.sig, t[i].sig);
        assert_int_equal(f.r.rip, CODE + t[i].len);
    }
    end(&f);
}

/* Where it is, only the test knows: guest code would have to search. */
static uint64_t find_base(const struct user64 *w)
{
    for (uint64_t at = 0x100000000000ull;; at += 1ull << 36) {
        assert_true(at < 0x7f0000000000ull);
        if (!user64_collides(w, at, 1ull << 36))
            continue;
        for (unsigned shift = 35; shift >= 12; shift--)
            if (!user64_collides(w, at, 1ull << shift))
                at += 1ull << shift;
        return at;
    }
}

/* Every byte of the world's own text as a place to jump to, with registers that try to map page 2 of RAM: the monitor hears of each
 * attempt, the world ends, or guest code goes on, but the page is never there. */
static void test_own_text(void **state)
{
    /* mov (%rdi), %rax; syscall */
    static const uint8_t code[] = {0x48, 0x8b, 0x07, 0x0f, 0x05};
    static const unsigned nrs[] = {9, 15};
    unsigned crashed = 0, foul = 0;
    char why[128];
    struct fix f;

    begin(&f, code, sizeof(code));
    f.r.gpr[7] = DATA;
    run(&f);
    memset(f.ram + 8192, 0x77, 4096);
    uint64_t base = find_base(f.w);
    for (unsigned n = 0; n < 0x200 * 2; n++) {
        enum user64_result how;
        unsigned tries = 0;

        /* The second kick is for code that waits for ever in there. */
        do {
            memset(f.r.gpr, 0, sizeof(f.r.gpr));
            f.r.gpr[0] = nrs[n & 1];
            f.r.gpr[7] = 0x500000;
            f.r.gpr[6] = 4096;
            f.r.gpr[2] = 3;
            f.r.gpr[10] = 0x11;
            f.r.gpr[8] = U64_FD_RAM;
            f.r.gpr[9] = 8192;
            f.r.gpr[3] = base;
            f.r.gpr[4] = DATA + 2048;
            f.r.rip = base + n / 2;
            user64_kick(f.w);
            alarm(20);
            how = user64_run(f.w, &f.r, &f.e);
        } while (how == USER64_OK && f.e.sig == SIGUSR1 && !f.e.foul && tries++ < 1);
        foul += how == USER64_OK && f.e.foul;
        if (how != USER64_OK) {
            assert_int_not_equal(how, USER64_GONE);
            crashed++;
            user64_free(f.w);
            f.w = user64_new(f.fd, f.fd, why, sizeof(why));
            assert_non_null(f.w);
            base = find_base(f.w);
        }
        assert_true(user64_map(f.w, CODE, 4096, 0, USER64_R | USER64_X));
        do { /* without the page? */
            memset(f.r.gpr, 0, sizeof(f.r.gpr));
            f.r.gpr[7] = 0x500000;
            f.r.rip = CODE;
            alarm(20);
            assert_int_equal(user64_run(f.w, &f.r, &f.e), USER64_OK);
        } while (f.e.sig == SIGUSR1);
        assert_int_equal(f.e.sig, SIGSEGV);
        assert_int_equal(f.e.trapno, 14);
        assert_int_equal(f.e.cr2, 0x500000);
    }
    alarm(0);
    assert_true(foul > 100);
    (void)crashed;
    end(&f);
}

static void test_kick(void **state)
{
    static const uint8_t code[] = {0xeb, 0xfe}; /* for ever */
    struct fix f;

    begin(&f, code, sizeof(code));
    for (unsigned i = 0; i < 100; i++) {
        f.r.rip = CODE;
        user64_kick(f.w); /* sticky: before the run */
        alarm(20);
        run(&f);
        alarm(0);
        assert_int_equal(f.e.sig, SIGUSR1);
        assert_int_equal(f.r.rip, CODE);
    }
    end(&f);
}

static void test_killed(void **state)
{
    static const uint8_t code[] = {0xeb, 0xfe};
    struct fix f;
    char cmd[64];

    begin(&f, code, sizeof(code));
    snprintf(cmd, sizeof(cmd), "sleep 0.2; pkill -KILL -P %d ringer-user", getpid());
    const pid_t p = fork();
    if (p == 0) {
        execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
        _exit(1);
    }
    alarm(20);
    assert_int_equal(user64_run(f.w, &f.r, &f.e), USER64_GONE);
    alarm(0);
    assert_non_null(strstr(user64_why(f.w), "signal 9"));
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers), cmocka_unit_test(test_faults_and_mappings), cmocka_unit_test(test_sensitive_traps),
        cmocka_unit_test(test_own_text),  cmocka_unit_test(test_kick),                cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
