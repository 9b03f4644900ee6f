/* ringer classify: formats, finding code, classes, names, and files that are not what they say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

#include "lab/classify.h"
#include "lab/engines.h"
#include "tests/unit/classify_fixture.h"

static const struct lab_options as_is;

struct opened {
    struct lab_image im;
    struct lab_classified c;
    uint8_t *file; /* of its exact size, so that a sanitizer sees reads beyond it */
};

static int try_open(struct opened *o, const uint8_t *b, size_t len, const struct lab_options *opt, char *err)
{
    o->file = malloc(len ? len : 1);
    assert_non_null(o->file);
    memcpy(o->file, b, len);
    strcpy(err, "");
    if (!lab_image_open(&o->im, o->file, len, opt, err, 200)) {
        assert_int_equal(lab_classify(&o->im, false, &o->c), 0);
        return 0;
    }
    assert_true(err[0]);
    assert_null(strchr(err, '\n'));
    free(o->file);
    return -1;
}

static void open_ok(struct opened *o, const uint8_t *b, size_t len, const struct lab_options *opt)
{
    char err[200];
    if (try_open(o, b, len, opt, err))
        fail_msg("%s", err);
}

static void close_it(struct opened *o)
{
    lab_classified_free(&o->c);
    lab_image_close(&o->im);
    free(o->file);
}

static void refused(const uint8_t *b, size_t len, const struct lab_options *opt, const char *why)
{
    struct opened o;
    char err[200];
    if (!try_open(&o, b, len, opt, err))
        fail_msg("accepted, expected '%s'", why);
    if (!strstr(err, why))
        fail_msg("'%s', expected '%s'", err, why);
}

static const struct lab_site *site_of(const struct opened *o, const char *function, uint64_t off)
{
    for (size_t i = 0; i < o->c.nsite; i++) {
        uint64_t at;
        const struct lab_seed *d = lab_function_at(&o->im, o->c.site[i].addr, &at);
        if (d && !strcmp(d->name, function) && at == off)
            return &o->c.site[i];
    }
    fail_msg("no site %s+%#llx", function, (unsigned long long)off);
    return NULL;
}

static size_t elf64(uint8_t *b)
{
    /* main: pushf; cli; cpuid; mov cr0,rax; sgdt [rax]; call leaf; ret; int3 int3; leaf: popf; jmp rax; in al,dx; ret
     */
    static const uint8_t text[] = {0x9c, 0xfa, 0x0f, 0xa2, 0x0f, 0x22, 0xc0, 0x0f, 0x01, 0x00, 0xe8, 0x03,
                                   0,    0,    0,    0xc3, 0xcc, 0xcc, 0x9d, 0xff, 0xe0, 0xec, 0xc3};
    static const struct fix_sym sym[] = {
        {"main", 0, 16, STT_FUNC, 1}, {"leaf", 18, 5, STT_FUNC, 1}, {"object", 0, 4, STT_OBJECT, 2}};
    const struct fix_elf e = {
        .is64 = true, .type = ET_EXEC, .text = text, .ntext = sizeof(text), .sym = sym, .nsym = 3, .entry = FIX_TEXT};
    return fix_make_elf(&e, b);
}

static void test_counts(void **state)
{
    uint8_t b[4096] = {0};
    struct opened o;
    char text[96];
    open_ok(&o, b, elf64(b), &as_is);
    const struct lab_counts *n = &o.c.n;
    assert_int_equal(o.im.mode, X86_MODE_64);
    assert_int_equal(n->exec_bytes, 23);
    assert_int_equal(n->insns, 11);
    assert_int_equal(n->innocuous, 4);  /* call, two ret, jmp */
    assert_int_equal(n->privileged, 3); /* cli, mov cr0, in */
    assert_int_equal(n->offending, 4);  /* pushf, cpuid, sgdt, popf */
    assert_int_equal(n->robin_irvine, 3);
    assert_int_equal(n->sensitive, 7);
    assert_int_equal(n->padding, 2);
    assert_int_equal(n->uncovered, 0);
    assert_int_equal(n->means_bytes[MEANS_ENTRY], 19);
    assert_int_equal(n->means_bytes[MEANS_SWEEP], 2); /* behind the indirect jump, inside leaf's bounds */
    assert_int_equal(n->op_count[X86_OP_PUSHF], 1);
    assert_int_equal(n->op_count[X86_OP_CLI], 0);
    assert_int_equal(site_of(&o, "leaf", 0)->addr, FIX_TEXT + 18);
    assert_int_equal(x86_isa[site_of(&o, "main", 2)->row].op, X86_OP_CPUID);
    lab_disassemble(&o.im, site_of(&o, "main", 7)->addr, text, sizeof(text));
    assert_string_equal(text, "sgdt [rax]");
    close_it(&o);
}

/* The same byte is another instruction in another mode. */
static void test_modes(void **state)
{
    static const uint8_t text[] = {0x06, 0x0f, 0x31, 0xc3};
    uint8_t b[4096] = {0};
    struct fix_elf e = {.type = ET_EXEC, .text = text, .ntext = 4, .entry = FIX_TEXT};
    struct opened o;
    open_ok(&o, b, fix_make_elf(&e, b), &as_is);
    assert_int_equal(o.im.mode, X86_MODE_32);
    assert_int_equal(o.c.n.op_count[X86_OP_PUSH_SEG], 1);
    assert_int_equal(o.c.n.op_count[X86_OP_RDTSC], 1);
    close_it(&o);
    memset(b, 0, sizeof(b));
    e.is64 = true;
    open_ok(&o, b, fix_make_elf(&e, b), &as_is);
    assert_int_equal(o.c.n.insns, 0); /* PUSH ES is undefined: the path ends */
    assert_int_equal(o.c.n.uncovered, 4);
    close_it(&o);
}

static void test_relocatable(void **state)
{
    /* a: call b (relocated); call elsewhere; ret. b, without a symbol of its own: str eax; ret. c, known by data only:
     * xgetbv; ret */
    static const uint8_t text[] = {0xe8, 0,    0,    0,    0,    0xe8, 0,    0,    0,   0,
                                   0xc3, 0x0f, 0x00, 0xc8, 0xc3, 0x0f, 0x01, 0xd0, 0xc3};
    static const uint8_t data[8] = {0};
    static const struct fix_sym sym[] = {
        {"a", 0, 11, STT_FUNC, 1}, {"text", 0, 0, STT_SECTION, 1}, {"elsewhere", 0, 0, STT_NOTYPE, 0}};
    static const struct fix_rel rel[] = {{1, 2, R_X86_64_PC32, 11 - 4, false},
                                         {6, 3, R_X86_64_PLT32, -4, false},
                                         {0, 2, R_X86_64_64, 15, true},
                                         {999, 2, R_X86_64_64, 15, true},
                                         {0, 77, R_X86_64_64, 15, true}};
    struct fix_elf e = {true, ET_REL, text, data, sizeof(text), 8, sym, 3, rel, 5, 0, NULL};
    uint8_t b[4096] = {0};
    struct opened o;
    open_ok(&o, b, fix_make_elf(&e, b), &as_is);
    assert_true(o.im.relocatable);
    assert_int_equal(o.c.n.op_count[X86_OP_STR], 1);
    assert_int_equal(o.c.n.op_count[X86_OP_XGETBV], 1);
    assert_int_equal(o.c.n.means_bytes[MEANS_SYMBOL], 15);
    assert_int_equal(o.c.n.means_bytes[MEANS_RELOC], 4);
    assert_int_equal(o.c.n.uncovered, 0);
    close_it(&o);
    /* 32 bit: the addend is in the place relocated. */
    static const uint8_t text32[] = {0xe8, 3, 0, 0, 0, 0xc3, 0x90, 0x0f, 0x00, 0xc8, 0xc3};
    static const struct fix_rel rel32[] = {{1, 2, R_386_PC32, 0, false}};
    memset(b, 0, sizeof(b));
    e = (struct fix_elf){
        .type = ET_REL, .text = text32, .ntext = sizeof(text32), .sym = sym, .nsym = 3, .rel = rel32, .nrel = 1};
    open_ok(&o, b, fix_make_elf(&e, b), &as_is);
    assert_int_equal(o.c.n.means_bytes[MEANS_SYMBOL], 10); /* section + 3, relative to the field: 7 */
    assert_int_equal(o.c.n.op_count[X86_OP_STR], 1);
    assert_int_equal(o.c.n.padding, 1);
    close_it(&o);
}

static void test_unwind_table(void **state)
{
    /* Two functions without symbols; the second one is known to the unwind table alone. */
    static const uint8_t text[] = {0xc3, 0x90, 0x90, 0x90, 0x0f, 0xa2, 0xff, 0xe0, 0x9c, 0xc3};
    uint8_t data[64] = {0};
    put32(data, 16); /* CIE: version 1, "zR", pc-relative 4-byte pointers */
    data[8] = 1;
    memcpy(data + 9, "zR", 3);
    data[12] = 1;
    data[13] = 0x78;
    data[14] = 16;
    data[15] = 1;
    data[16] = 0x1b;
    put32(data + 20, 16); /* FDE */
    put32(data + 24, 24);
    put32(data + 28, (uint32_t)(FIX_TEXT + 4 - (FIX_DATA + 28)));
    put32(data + 32, 6);
    struct fix_elf e = {.is64 = true,
                        .type = ET_EXEC,
                        .text = text,
                        .ntext = sizeof(text),
                        .data = data,
                        .ndata = 44,
                        .entry = FIX_TEXT,
                        .data_name = ".eh_frame"};
    uint8_t b[4096] = {0};
    struct opened o;
    open_ok(&o, b, fix_make_elf(&e, b), &as_is);
    assert_int_equal(o.c.n.means_bytes[MEANS_UNWIND], 4);
    assert_int_equal(o.c.n.means_bytes[MEANS_SWEEP], 2); /* pushf, ret behind the jump */
    assert_int_equal(o.c.n.op_count[X86_OP_CPUID], 1);
    assert_int_equal(o.c.n.op_count[X86_OP_PUSHF], 1);
    close_it(&o);
    /* Every damaged byte of it is survived. */
    for (unsigned i = 0; i < 44; i++)
        for (unsigned v = 0; v < 256; v += 51) {
            char err[200];
            uint8_t was = data[i];
            data[i] = (uint8_t)v;
            memset(b, 0, sizeof(b));
            if (!try_open(&o, b, fix_make_elf(&e, b), &as_is, err))
                close_it(&o);
            data[i] = was;
        }
}

static void test_kallsyms(void **state)
{
    enum { N = 600, STEP = 8 };
    static uint8_t text[N * STEP], data[32768], b[65536];
    for (unsigned i = 0; i < N; i++)
        memcpy(text + i * STEP, "\x0f\x31\xc3\xcc\xcc\xcc\xcc\xcc", STEP); /* rdtsc; ret */
    for (unsigned k = 0; k < 8; k++) {
        bool is64 = k & 1, recent = k & 2, percpu = k & 4;
        struct opened o;
        memset(b, 0, sizeof(b));
        memset(data, 0, sizeof(data));
        struct fix_elf e = {
            .is64 = is64, .type = ET_EXEC, .text = text, .ntext = sizeof(text), .data = data, .entry = FIX_TEXT};
        e.ndata = fix_make_kallsyms(data, is64, recent, percpu, N, FIX_TEXT, STEP);
        assert_true(e.ndata < sizeof(data));
        open_ok(&o, b, fix_make_elf(&e, b), &as_is);
        assert_int_equal(o.c.nsite, N);
        assert_int_equal(o.c.n.padding, N * 5);
        assert_int_equal(site_of(&o, "f0599", 0)->addr, FIX_TEXT + 599 * STEP);
        assert_int_equal(site_of(&o, "f0257", 0)->means, MEANS_KALLSYMS);
        close_it(&o);
    }
}

static void test_flat(void **state)
{
    /* 16 bit: mov ax, 0x9090; smsw ax; jmp over data; lgdt [0x7c00]; hlt */
    static const uint8_t boot[] = {0xb8, 0x90, 0x90, 0x0f, 0x01, 0xe0, 0xeb, 0x02, 0x9c,
                                   0x9c, 0x0f, 0x01, 0x16, 0x00, 0x7c, 0xf4, 0xeb, 0xfe};
    struct lab_options flat = {.flat = true, .mode = X86_MODE_16, .base = 0x7c00};
    struct opened o;
    open_ok(&o, boot, sizeof(boot), &flat);
    assert_int_equal(o.c.n.op_count[X86_OP_SMSW], 1);
    assert_int_equal(o.c.n.op_count[X86_OP_PUSHF], 0);
    assert_int_equal(o.c.n.privileged, 2);
    assert_int_equal(o.c.n.uncovered, 2);
    assert_int_equal(o.c.site[0].addr, 0x7c03);
    lab_classified_free(&o.c);
    assert_int_equal(lab_classify(&o.im, true, &o.c), 0); /* swept: the data is taken for code */
    assert_int_equal(o.c.n.op_count[X86_OP_PUSHF], 2);
    close_it(&o);
    flat.mode = X86_MODE_64;
    flat.base = UINT64_MAX - 4;
    refused(boot, sizeof(boot), &flat, "does not fit");
}

static size_t squeeze(unsigned how, const uint8_t *p, size_t n, uint8_t *out, size_t cap)
{
    size_t len = 0;
    if (how == 0) {
        z_stream z = {.next_in = (Bytef *)p, .avail_in = (uInt)n, .next_out = out, .avail_out = (uInt)cap};
        assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        len = z.total_out;
        deflateEnd(&z);
    } else if (how == 1) {
        assert_int_equal(lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, NULL, p, n, out, &len, cap), LZMA_OK);
    } else if (how == 2) {
        len = ZSTD_compress(out, cap, p, n, 3);
        assert_false(ZSTD_isError(len));
    } else {
        int k = LZ4_compress_default((const char *)p, (char *)out + 8, (int)n, (int)cap - 8);
        assert_true(k > 0);
        put32(out, 0x184c2102);
        put32(out + 4, (uint32_t)k);
        len = (size_t)k + 8;
    }
    put32(out + len, (uint32_t)n); /* Linux puts the size behind */
    return len + 4;
}

static const char *const squeezers[] = {"gzip", "xz", "zstd", "lz4"};

static void test_bzimage(void **state)
{
    uint8_t b[4096] = {0}, z[4096], k[8192];
    size_t n = elf64(b);
    struct opened o;
    for (unsigned how = 0; how < 4; how++) {
        size_t zn = squeeze(how, b, n, z, sizeof(z)), kn = fix_make_bzimage(k, z, zn);
        open_ok(&o, k, kn, &as_is);
        assert_non_null(strstr(o.im.kind, "6.1.0-test"));
        assert_non_null(strstr(o.im.kind, squeezers[how]));
        assert_int_equal(o.c.n.insns, 11);
        close_it(&o);
        refused(k, kn - 1, &as_is, "truncated");
        open_ok(&o, z, zn, &as_is); /* a compressed file, as modules are */
        assert_non_null(strstr(o.im.kind, squeezers[how]));
        close_it(&o);
        kn = fix_make_bzimage(k, z, zn / 2);
        refused(k, kn, &as_is, "damaged or truncated");
        kn = fix_make_bzimage(k, z, zn);
        refused(k, kn, &(struct lab_options){.max_size = 256}, how == 3 ? "damaged" : "decompresses to more than");
    }
    size_t kn = fix_make_bzimage(k, (const uint8_t *)"BZh91AY&SY", 10);
    refused(k, kn, &as_is, "bzip2, which is not supported");
    kn = fix_make_bzimage(k, (const uint8_t *)"0123456789", 10);
    refused(k, kn, &as_is, "not known");
    put16(k + 0x206, 0x207);
    refused(k, kn, &as_is, "protocol 2.07");
    kn = fix_make_bzimage(k, b, n); /* not compressed */
    open_ok(&o, k, kn, &as_is);
    assert_int_equal(o.c.n.insns, 11);
    close_it(&o);
}

static void test_wrong_files(void **state)
{
    static const struct {
        unsigned off, width;
        uint64_t value;
        const char *why;
    } bad[] = {
        {4, 1, 3, "class 3"},       {5, 1, 2, "big-endian"},        {18, 2, EM_ARM, "machine 40"},
        {16, 2, ET_CORE, "type 4"}, {40, 8, 1u << 20, "truncated"}, {40, 8, UINT64_MAX - 3, "truncated"},
        {58, 2, 63, "truncated"},   {60, 2, 60000, "truncated"},
    };
    uint8_t b[4096] = {0}, c[4096];
    size_t n = elf64(b), sh = (size_t)get64(b + 40);
    refused(b, 0, &as_is, "empty file");
    refused((const uint8_t *)"hello, world", 12, &as_is, "neither ELF nor");
    refused(b, 4, &as_is, "truncated ELF header");
    refused(b, 63, &as_is, "truncated ELF header");
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        memcpy(c, b, n);
        for (unsigned k = 0; k < bad[i].width; k++)
            c[bad[i].off + k] = (uint8_t)(bad[i].value >> 8 * k);
        refused(c, n, &as_is, bad[i].why);
    }
    memcpy(c, b, n);
    put64(c + sh + 64 + 24, n); /* .text's offset */
    refused(c, n, &as_is, "section 1 lies behind the file");
    memcpy(c, b, n);
    put64(c + sh + 64 + 16, UINT64_MAX - 2); /* .text's address */
    refused(c, n, &as_is, "wraps around");
    memcpy(c, b, n);
    put64(c + sh + 64 + 8, SHF_ALLOC); /* .text is not code */
    refused(c, n, &as_is, "no executable sections");
    for (size_t len = 0; len < n; len++) /* cut anywhere: an error, since section headers come last */
        refused(b, len, &as_is, "");
}

/* Any byte of a sound file changed: an error or a report, nothing else. */
static void test_damaged(void **state)
{
    uint8_t b[4096] = {0};
    size_t n = elf64(b);
    struct opened o;
    char err[200];
    unsigned fine = 0, not = 0;
    for (size_t i = 0; i < n; i++)
        for (unsigned k = 0; k < 3; k++) {
            uint8_t was = b[i];
            b[i] = (uint8_t)(k == 0 ? 0xff : k == 1 ? was + 1 : was ^ 0x80);
            if (!try_open(&o, b, n, &as_is, err)) {
                uint64_t sum = o.c.n.padding + o.c.n.uncovered;
                for (unsigned m = 0; m < MEANS_COUNT; m++)
                    sum += o.c.n.means_bytes[m];
                assert_int_equal(sum, o.c.n.exec_bytes);
                close_it(&o);
                fine++;
            } else {
                not ++;
            }
            b[i] = was;
        }
    assert_true(fine > 100 && not > 10);
}

/* Word sizes are the engines' own rules. */
static void test_engines(void **state)
{
    unsigned n = 0;
    for (unsigned i = 0; ringer_engines[i]; i++, n++) {
        const struct engine_ops *e = ringer_engines[i];
        assert_true(lab_engine_remedy(e, X86_OP_POPF)[0]);
        if (!strcmp(e->name, "interp") || (e->caps & ENGINE_CAP_HARDWARE))
            assert_true(lab_engine_fits(e, X86_MODE_16, 0) && lab_engine_fits(e, X86_MODE_32, 0) &&
                        lab_engine_fits(e, X86_MODE_64, 0));
        if (!strcmp(e->name, "trap")) {
            assert_false(lab_engine_fits(e, X86_MODE_16, 0));
            assert_true(lab_engine_fits(e, X86_MODE_32, 0x100000));
            assert_true(lab_engine_fits(e, X86_MODE_64, 0x100000));
            assert_true(lab_engine_fits(e, X86_MODE_64, 0x7fffffff0000));
            assert_false(lab_engine_fits(e, X86_MODE_64, 0xffffffff81000000));
            assert_string_not_equal(lab_engine_remedy(e, X86_OP_RDTSC), lab_engine_remedy(e, X86_OP_POPF));
        }
        if (!strcmp(e->name, "translate"))
            assert_true(lab_engine_fits(e, X86_MODE_64, 0));
    }
    assert_true(n > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),       cmocka_unit_test(test_modes),       cmocka_unit_test(test_relocatable),
        cmocka_unit_test(test_unwind_table), cmocka_unit_test(test_kallsyms),    cmocka_unit_test(test_flat),
        cmocka_unit_test(test_bzimage),      cmocka_unit_test(test_wrong_files), cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_engines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
