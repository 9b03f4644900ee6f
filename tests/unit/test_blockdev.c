/* The raw image back end. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/blockdev.h"

static char path[64];
static char err[256];

static int setup(void **st)
{
    snprintf(path, sizeof path, "/tmp/ringer-disk-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    uint8_t buf[4096];
    memset(buf, 0x5a, sizeof buf);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(write(fd, buf, sizeof buf), sizeof buf);
    close(fd);
    err[0] = 0;
    return 0;
}
static int teardown(void **st)
{
    unlink(path);
    return 0;
}
static uint64_t size_of(const char *p)
{
    struct stat s;
    assert_int_equal(stat(p, &s), 0);
    return (uint64_t)s.st_size;
}

static void test_io(void **st)
{
    struct blockdev bd;
    uint8_t a[1024], b[1024];
    assert_int_equal(blockdev_raw_open(&bd, path, false, err, sizeof err), 0);
    assert_true(bd.size == 64 * 4096 && !bd.readonly);
    for (unsigned i = 0; i < sizeof a; i++)
        a[i] = (uint8_t)(i * 5);
    assert_int_equal(bd.write(bd.ctx, 512, a, sizeof a), 0);
    assert_int_equal(bd.flush(bd.ctx), 0);
    assert_int_equal(bd.read(bd.ctx, 512, b, sizeof b), 0);
    assert_memory_equal(a, b, sizeof a);
    assert_int_equal(bd.read(bd.ctx, bd.size - 512, b, 1024), -EIO); /* past the end */
    assert_int_equal(bd.write_zeroes(bd.ctx, 1000, 70000), 0);
    uint8_t *all = malloc(bd.size);
    assert_int_equal(bd.read(bd.ctx, 0, all, bd.size), 0);
    for (unsigned i = 1000; i < 71000; i++)
        assert_int_equal(all[i], 0);
    assert_int_equal(all[999], a[999 - 512]);
    assert_int_equal(all[71000], 0x5a);
    int rc = bd.discard(bd.ctx, 131072, 65536);
    assert_true(rc == 0 || rc == -ENOTSUP);
    assert_int_equal(bd.read(bd.ctx, 131072, all, 65536), 0);
    assert_int_equal(all[0], rc ? 0x5a : 0);
    assert_int_equal(bd.write_zeroes(bd.ctx, bd.size - 4096, 4096), 0);
    free(all);
    blockdev_raw_close(&bd);
    blockdev_raw_close(&bd); /* once is enough */
    assert_true(size_of(path) == 64 * 4096);
}

static void test_locks(void **st)
{
    struct blockdev a, b;
    assert_int_equal(blockdev_raw_open(&a, path, false, err, sizeof err), 0);
    assert_int_equal(blockdev_raw_open(&b, path, false, err, sizeof err), -1);
    assert_non_null(strstr(err, "in use"));
    assert_int_equal(blockdev_raw_open(&b, path, true, err, sizeof err), -1);
    blockdev_raw_close(&a);
    assert_int_equal(blockdev_raw_open(&a, path, true, err, sizeof err), 0);
    assert_int_equal(blockdev_raw_open(&b, path, true, err, sizeof err), 0); /* readers share */
    uint8_t x[512] = {0};
    assert_true(a.readonly && a.write(a.ctx, 0, x, 512) != 0);
    blockdev_raw_close(&a);
    blockdev_raw_close(&b);
}

static void test_refusals(void **st)
{
    struct blockdev bd;
    assert_int_equal(truncate(path, 1000), 0);
    assert_int_equal(blockdev_raw_open(&bd, path, false, err, sizeof err), -1);
    assert_non_null(strstr(err, "multiple of 512"));
    assert_true(size_of(path) == 1000);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(blockdev_raw_open(&bd, path, false, err, sizeof err), -1);
    assert_int_equal(blockdev_raw_open(&bd, "/tmp", true, err, sizeof err), -1);
    assert_int_equal(blockdev_raw_open(&bd, "/dev/null", false, err, sizeof err), -1);
    unlink(path);
    assert_int_equal(blockdev_raw_open(&bd, path, false, err, sizeof err), -1);
    assert_non_null(strstr(err, "No such file"));
    assert_int_equal(access(path, F_OK), -1); /* not created */
}

int main(void)
{
#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_io), T(test_locks), T(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
