#include "boot_fixture.h"

#include <stdio.h>

#include <cmocka.h>

#include "boot/elf.h"
#include "x86/cpu.h"
#include "x86/cpuid.h"
#include "x86/mmu.h"

static int setup(void **state)
{
    struct boot_fixture *f = calloc(1, sizeof(*f));
    boot_fixture_init(f);
    f->policy = x86_cpuid_new(&(struct x86_cpuid_config){.ncpu = 1, .tsc_khz = 1000000, .phys_bits = 40});
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct boot_fixture *f = *state;
    x86_cpuid_free(f->policy);
    boot_fixture_free(f);
    free(f);
    return 0;
}

static struct x86_cpu *start(struct boot_fixture *f, const struct boot_entry *e)
{
    struct x86_cpu *c = aligned_alloc(64, (sizeof(*c) + 63) & ~63ull);
    memset(c, 0, sizeof(*c));
    c->cpuid = f->policy;
    x86_mmu_init(c, f->vm->mem, 0);
    boot_start(e, c);
    return c;
}

static void refuse(struct boot_fixture *f, const struct boot_spec *spec, const char *words)
{
    struct boot_entry e;
    char err[256] = "";
    assert_int_equal(boot_load(f->vm, spec, &e, err, sizeof(err)), -1);
    if (strncmp(err, "img: ", 5) || !strstr(err, words) || strchr(err, '\n'))
        fail_msg("message '%s' should begin with the file's name and say '%s'", err, words);
}

static void accept(struct boot_fixture *f, const struct boot_spec *spec, struct boot_entry *e)
{
    char err[256] = "";
    memset(f->ram + 0x400, 0xee, 0x100);
    if (boot_load(f->vm, spec, e, err, sizeof(err)))
        fail_msg("%s", err);
    /* Whatever the kind, the BIOS data area tells the serial port and the end of low memory. */
    assert_int_equal(get16(f->ram + 0x400), 0x3f8);
    assert_int_equal(get16(f->ram + 0x413), LOAD_LOW_END >> 10);
    assert_int_equal(get16(f->ram + 0x40e), LOAD_LOW_END >> 4);
}

static void expect_flat(const struct x86_seg *s, unsigned type)
{
    assert_int_equal(s->base, 0);
    assert_int_equal(s->limit, 0xffffffff);
    assert_int_equal(s->ar & 0x9f, type | X86_AR_S | X86_AR_P);
}

static const struct boot_region *e820(const uint8_t *zp, unsigned i)
{
    static struct boot_region r;
    assert_true(i < zp[0x1e8]);
    r = (struct boot_region){get64(zp + 0x2d0 + 20 * i), get64(zp + 0x2d8 + 20 * i), get32(zp + 0x2e0 + 20 * i)};
    return &r;
}

static void linux64(void **state)
{
    struct boot_fixture *f = *state;
    size_t len;
    uint8_t *img = make_bzimage(100000, true, &len);
    static const uint8_t rd1[] = {1, 2, 3, 4, 5}, rd2[] = {6, 7};
    struct boot_module mod[] = {{.name = "rd1", .data = rd1, .len = 5}, {.name = "rd2", .data = rd2, .len = 2}};
    struct boot_region res[] = {{0xe0000, 0x10000, BOOT_MEM_ACPI}, {0xb0000000, 0x10000000, BOOT_MEM_RESERVED}};
    struct boot_spec spec = {.name = "img",
                             .kernel = img,
                             .kernel_len = len,
                             .cmdline = "console=ttyS0",
                             .mod = mod,
                             .nmod = 2,
                             .rsdp = 0xe0000,
                             .reserved = res,
                             .nreserved = 2};
    struct boot_entry e;
    assert_int_equal(boot_guess(img, len), BOOT_LINUX);
    accept(f, &spec, &e);
    assert_int_equal(e.kind, BOOT_LINUX);
    assert_true(e.long_mode);
    assert_int_equal(e.rip, 0x1000200);
    assert_int_equal(f->ram[0x1000000], 0xcc);
    assert_int_equal(f->ram[0x1000000 + 99999], 0xcc);
    assert_int_equal(f->ram[0x1000000 + 100000], 0);

    const uint8_t *zp = f->ram + e.info;
    assert_memory_equal(zp + 0x202, "HdrS", 4);
    assert_int_equal(zp[0x210], 0xff);
    assert_string_equal((char *)f->ram + get32(zp + 0x228), "console=ttyS0");
    uint32_t rd = get32(zp + 0x218);
    assert_int_equal(get32(zp + 0x21c), 10);
    assert_int_equal(rd % 4096, 0);
    assert_true(rd + 4096 <= RAM_SIZE && rd >= RAM_SIZE - 0x10000); /* as high as possible */
    assert_memory_equal(f->ram + rd, "\1\2\3\4\5\0\0\0\6\7", 10);
    assert_int_equal(get64(zp + 0x70), 0xe0000);
    uint64_t end = 0, ram = 0;
    bool acpi = false, ecam = false;
    for (unsigned i = 0; i < zp[0x1e8]; i++) {
        const struct boot_region *r = e820(zp, i);
        assert_true(r->start >= end && r->size);
        end = r->start + r->size;
        ram += r->type == BOOT_MEM_RAM ? r->size : 0;
        acpi |= r->start == 0xe0000 && r->size == 0x10000 && r->type == BOOT_MEM_ACPI;
        ecam |= r->start == 0xb0000000 && r->type == BOOT_MEM_RESERVED;
    }
    assert_int_equal(ram, 0x9fc00 + RAM_SIZE - 0x100000);
    assert_true(acpi && ecam);

    struct x86_cpu *c = start(f, &e);
    assert_int_equal(c->rip, 0x1000200);
    assert_int_equal(c->gpr[X86_RSI], e.info);
    assert_int_equal(x86_get_rflags(c), 2);
    assert_int_equal(c->cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE | X86_CR0_PG);
    assert_int_equal(c->efer & 0x500, 0x500);
    assert_true(c->cr4 & X86_CR4_PAE);
    assert_int_equal(c->seg[X86_CS].sel, 0x10);
    assert_int_equal(c->seg[X86_CS].ar & (X86_AR_L | X86_AR_DB), X86_AR_L);
    expect_flat(&c->seg[X86_DS], 3);
    assert_int_equal(c->seg[X86_SS].sel, 0x18);
    assert_int_equal(c->mode, X86_MODE_64);
    /* The GDT in memory says what the registers hold, so that they can be loaded again. */
    assert_int_equal(get64(f->ram + c->gdtr.base + 0x10), 0x00af9b000000ffffull);
    uint64_t gpa, probe[] = {0, e.info, 0x1000200, 0x3ffffff, 0xfee00000, 0xffffffff};
    for (unsigned i = 0; i < sizeof(probe) / sizeof(probe[0]); i++) {
        assert_true(x86_walk_peek(c, probe[i], &gpa));
        assert_int_equal(gpa, probe[i]);
    }
    assert_false(x86_walk_peek(c, 0x100000000, &gpa));
    free(c);
    free(img);
}

static void linux32(void **state)
{
    struct boot_fixture *f = *state;
    size_t len;
    uint8_t *img = make_bzimage(5000, false, &len);
    struct boot_spec spec = {.name = "img", .kernel = img, .kernel_len = len};
    struct boot_entry e;
    accept(f, &spec, &e);
    assert_false(e.long_mode);
    struct x86_cpu *c = start(f, &e);
    assert_int_equal(c->rip, 0x1000000);
    assert_int_equal(c->cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    assert_int_equal(c->mode, X86_MODE_32);
    assert_int_equal(c->gpr[X86_RSI], e.info);
    assert_int_equal(c->gpr[X86_RBX] | c->gpr[X86_RBP] | c->gpr[X86_RDI], 0);
    expect_flat(&c->seg[X86_CS], 0xb);
    assert_true(c->seg[X86_CS].ar & X86_AR_DB);
    assert_int_equal(get64(f->ram + c->gdtr.base + 0x10), 0x00cf9b000000ffffull);
    free(c);
    put16(img + 0x206, 0x204); /* an old kernel: not relocatable, at 1 MiB */
    accept(f, &spec, &e);
    assert_int_equal(e.rip, 0x100000);
    free(img);
}

static void linux_refused(void **state)
{
    struct boot_fixture *f = *state;
    size_t len;
    uint8_t *img = make_bzimage(100000, true, &len), save;
    struct boot_spec spec = {.name = "img", .kernel = img, .kernel_len = len};
    char *line = calloc(1, 200);
    struct boot_entry e;
    memset(line, 'x', 100);
    spec.cmdline = line;
    accept(f, &spec, &e);
    line[100] = 'x';
    refuse(f, &spec, "command line has 101 bytes, this kernel takes at most 100");
    spec.cmdline = NULL;
    for (size_t n = 0x206; n < len - 15; n += n < 0x2000 ? 1 : 777) {
        spec.kernel_len = n;
        refuse(f, &spec, "truncated");
    }
    spec.kernel_len = 0;
    refuse(f, &spec, "empty");
    spec.kernel_len = len;
    put32(img + 0x260, 0x7f000000);
    refuse(f, &spec, "memory");
    put32(img + 0x260, 0xffffffff);
    put64(img + 0x258, ~0ull);
    refuse(f, &spec, "memory");
    put32(img + 0x260, 0x10000);
    put64(img + 0x258, 0x1000000);
    save = img[0x211];
    img[0x211] = 0;
    refuse(f, &spec, "zImage");
    img[0x211] = save;
    put16(img + 0x206, 0x203);
    refuse(f, &spec, "too old");
    put16(img + 0x206, 0x20f);
    put32(img + 0x230, 0x300000);
    refuse(f, &spec, "alignment");
    put32(img + 0x230, 0x200000);
    uint8_t *big = calloc(1, RAM_SIZE);
    struct boot_module mod = {.name = "img", .data = big, .len = RAM_SIZE};
    spec.mod = &mod;
    spec.nmod = 1;
    refuse(f, &spec, "initrd");
    mod.len = 30u << 20;
    accept(f, &spec, &e);
    put32(img + 0x22c, 0x1ffffff); /* initrd only below 32 MiB: beside the kernel at 16 it does not fit */
    refuse(f, &spec, "initrd");
    mod.len = 10u << 20;
    accept(f, &spec, &e);
    uint32_t rd = get32(f->ram + e.info + 0x218);
    assert_true(rd + (10u << 20) <= 0x2000000);
    free(big);
    free(line);
    free(img);
}

static void pvh(void **state)
{
    struct boot_fixture *f = *state;
    for (int is64 = 0; is64 < 2; is64++) {
        size_t len;
        uint8_t *img = make_elf(is64, 0x200000, 0x1000, 0x3000, 0x200040, &len);
        static const uint8_t rd[] = {9, 8, 7};
        struct boot_module mod = {.name = "rd", .cmdline = "args", .data = rd, .len = 3};
        struct boot_spec spec = {
            .name = "img", .kernel = img, .kernel_len = len, .cmdline = "a b", .mod = &mod, .nmod = 1, .rsdp = 0xe1230};
        struct boot_entry e;
        memset(f->ram + 0x200000, 0xee, 0x4000);
        assert_int_equal(boot_guess(img, len), BOOT_PVH);
        accept(f, &spec, &e);
        assert_int_equal(e.rip, 0x200040);
        assert_int_equal(f->ram[0x200fff], 0x90);
        assert_int_equal(f->ram[0x201000], 0);
        assert_int_equal(f->ram[0x202fff], 0);
        assert_int_equal(f->ram[0x203003], 0xee); /* behind the module */
        const uint8_t *s = f->ram + e.info;
        assert_int_equal(get32(s), 0x336ec578);
        assert_int_equal(get32(s + 4), 1);
        assert_int_equal(get32(s + 12), 1);
        const uint8_t *m = f->ram + get64(s + 16);
        assert_memory_equal(f->ram + get64(m), rd, 3);
        assert_int_equal(get64(m + 8), 3);
        assert_string_equal((char *)f->ram + get64(m + 16), "args");
        assert_string_equal((char *)f->ram + get64(s + 24), "a b");
        assert_int_equal(get64(s + 32), 0xe1230);
        const uint8_t *map = f->ram + get64(s + 40);
        assert_true(get32(s + 48) >= 3);
        assert_int_equal(get64(map), 0);
        assert_int_equal(get64(map + 8), 0x9fc00);
        assert_int_equal(get32(map + 16), BOOT_MEM_RAM);
        struct x86_cpu *c = start(f, &e);
        assert_int_equal(c->gpr[X86_RBX], e.info);
        assert_int_equal(c->mode, X86_MODE_32);
        assert_int_equal(c->cr4, 0);
        assert_int_equal(c->tr.limit, 0x67);
        assert_int_equal(c->tr.ar, 0x8b);
        free(c);
        free(img);
    }
}

static void elf_refused(void **state)
{
    struct boot_fixture *f = *state;
    size_t len;
    uint8_t *img = make_elf(true, 0x200000, 0x1000, 0x3000, 0, &len);
    struct boot_spec spec = {.name = "img", .kernel = img, .kernel_len = len};
    refuse(f, &spec, "without a PVH entry");
    free(img);
    img = make_elf(true, 0x200000, 0x1000, 0x3000, 0x200000, &len);
    spec.kernel = img;
    for (size_t n = 20; n < len; n += 7) {
        spec.kernel_len = n;
        refuse(f, &spec, "truncated");
    }
    spec.kernel_len = len;
    put16(img + 18, 183);
    refuse(f, &spec, "another processor");
    put16(img + 18, 62);
    put16(img + 16, 1);
    refuse(f, &spec, "not an executable");
    put16(img + 16, 2);
    put64(img + 64 + 40, 1);
    refuse(f, &spec, "larger in the file");
    put64(img + 64 + 40, ~0ull);
    refuse(f, &spec, "wraps");
    put64(img + 64 + 40, RAM_SIZE);
    refuse(f, &spec, "does not fit");
    put64(img + 64 + 40, 0x3000);
    put64(img + 64 + 24, 0xef000);
    refuse(f, &spec, "does not fit"); /* on top of the firmware's area */
    put64(img + 64 + 24, 0x200000);
    put64(img + 64 + 8, ~0ull - 10);
    refuse(f, &spec, "truncated");
    free(img);
}

static void expect_multiboot(struct boot_fixture *f, const struct boot_entry *e, uint64_t rip)
{
    const uint8_t *i = f->ram + e->info;
    assert_int_equal(e->kind, BOOT_MULTIBOOT);
    assert_int_equal(e->rip, rip);
    assert_int_equal(get32(i) & 0x24d, 0x24d);
    assert_int_equal(get32(i + 4), 639);
    assert_int_equal(get32(i + 8), (RAM_SIZE >> 10) - 1024);
    assert_string_equal((char *)f->ram + get32(i + 16), "img one two");
    assert_string_equal((char *)f->ram + get32(i + 64), "ringer");
    assert_int_equal(get32(i + 20), 1);
    const uint8_t *m = f->ram + get32(i + 24);
    assert_int_equal(get32(m) % 4096, 0);
    assert_int_equal(get32(m + 4) - get32(m), 4);
    assert_memory_equal(f->ram + get32(m), "mod!", 4);
    assert_string_equal((char *)f->ram + get32(m + 8), "rd x");
    uint64_t ram = 0;
    for (uint32_t at = 0; at < get32(i + 44);) {
        const uint8_t *r = f->ram + get32(i + 48) + at;
        ram += get32(r + 20) == 1 ? get64(r + 12) : 0;
        at += get32(r) + 4;
    }
    assert_int_equal(ram, 0x9fc00 + RAM_SIZE - 0x100000);
    struct x86_cpu *c = start(f, e);
    assert_int_equal(c->gpr[X86_RAX], 0x2badb002);
    assert_int_equal(c->gpr[X86_RBX], e->info);
    assert_int_equal(c->cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    assert_int_equal(x86_get_rflags(c) & (X86_FL_IF | X86_FL_VM), 0);
    expect_flat(&c->seg[X86_CS], 0xb);
    expect_flat(&c->seg[X86_SS], 3);
    free(c);
}

static void multiboot(void **state)
{
    struct boot_fixture *f = *state;
    size_t len;
    struct boot_module mod = {.name = "rd", .cmdline = "rd x", .data = (const uint8_t *)"mod!", .len = 4};
    struct boot_spec spec = {.name = "img", .cmdline = "one two", .mod = &mod, .nmod = 1};
    struct boot_entry e;
    /* 32-bit ELF: the entry is virtual, the segment says where that is */
    uint8_t *img = make_elf(false, 0x100000, 0x1000, 0x2000, 0, &len);
    put_multiboot(img + 0x200, 3);
    spec.kernel = img;
    spec.kernel_len = len;
    assert_int_equal(boot_guess(img, len), BOOT_MULTIBOOT);
    accept(f, &spec, &e);
    expect_multiboot(f, &e, 0x100010);
    assert_int_equal(get32(f->ram + 0x100000), 0x1badb002);
    put32(img + 52 + 12, 0xff000); /* headers of the file below 1 MiB, as linkers lay it out */
    accept(f, &spec, &e);
    assert_int_equal(get32(f->ram + 0xff000), 0x1badb002);
    put32(img + 52 + 12, 0xef800);
    refuse(f, &spec, "does not fit");
    put32(img + 52 + 12, 0x100000);
    put_multiboot(img + 0x200, 0x13);
    refuse(f, &spec, "features");
    free(img);
    img = make_elf(true, 0x100000, 0x1000, 0x2000, 0, &len);
    put_multiboot(img + 0x200, 3);
    spec.kernel = img;
    refuse(f, &spec, "64-bit");
    free(img);

    /* addresses in the header */
    uint8_t flat[0x1000] = {0};
    memset(flat, 0x77, sizeof(flat));
    put_multiboot(flat + 0x40, 0x10003);
    put32(flat + 0x40 + 12, 0x100040);
    put32(flat + 0x40 + 16, 0x100010); /* loads from file offset 0x10 */
    put32(flat + 0x40 + 20, 0x100800);
    put32(flat + 0x40 + 24, 0x101000);
    put32(flat + 0x40 + 28, 0x100123);
    spec.kernel = flat;
    spec.kernel_len = sizeof(flat);
    memset(f->ram + 0x100000, 0xee, 0x3000);
    accept(f, &spec, &e);
    expect_multiboot(f, &e, 0x100123);
    assert_int_equal(f->ram[0x10000f], 0xee);
    assert_int_equal(f->ram[0x100010], 0x77);
    assert_int_equal(f->ram[0x1007ff], 0x77);
    assert_int_equal(f->ram[0x100800], 0);
    assert_int_equal(f->ram[0x100fff], 0);
    put32(flat + 0x40 + 20, 0x102000);
    refuse(f, &spec, "truncated");
    put32(flat + 0x40 + 20, 0x100000);
    refuse(f, &spec, "ends before");
    put32(flat + 0x40 + 20, 0x100800);
    put32(flat + 0x40 + 24, 0xf0000000);
    refuse(f, &spec, "does not fit");
    put32(flat + 0x40 + 24, 0x101000);
    put32(flat + 0x40 + 12, 0x100200);
    refuse(f, &spec, "header is not where");
    spec.kernel_len = 0x40 + 20;
    refuse(f, &spec, "truncated");
}

static void flat(void **state)
{
    struct boot_fixture *f = *state;
    uint8_t img[512] = {0xeb, 0xfe};
    struct boot_spec spec = {.name = "img", .kernel = img, .kernel_len = sizeof(img)};
    struct boot_entry e;
    refuse(f, &spec, "not a kernel");
    img[510] = 0x55;
    img[511] = 0xaa;
    accept(f, &spec, &e);
    assert_int_equal(e.kind, BOOT_FLAT);
    assert_memory_equal(f->ram + 0x7c00, img, 512);
    struct x86_cpu *c = start(f, &e);
    assert_int_equal(c->seg[X86_CS].sel, 0);
    assert_int_equal(c->rip, 0x7c00);
    assert_int_equal(c->gpr[X86_RDX] & 0xff, 0x80);
    assert_int_equal(c->gpr[X86_RSP], 0x7c00);
    assert_int_equal(c->cr0 & X86_CR0_PE, 0);
    assert_int_equal(c->mode, X86_MODE_16);
    free(c);
    for (unsigned v = 0; v < 256; v++) { /* every vector ends in an IRET soon */
        const uint8_t *code = f->ram + get16(f->ram + 4 * v) + 16u * get16(f->ram + 4 * v + 2);
        assert_int_equal(get16(f->ram + 4 * v + 2), 0xf000);
        assert_non_null(memchr(code, 0xcf, 12));
    }
    spec.flat_at = true;
    spec.flat_addr = 0x200000;
    spec.flat_entry = 0x12345;
    accept(f, &spec, &e);
    assert_memory_equal(f->ram + 0x200000, img, 512);
    c = start(f, &e);
    assert_int_equal(c->seg[X86_CS].base, 0x10000);
    assert_int_equal(c->rip, 0x2345);
    free(c);
    spec.flat_entry = 0x100000;
    refuse(f, &spec, "real mode");
    spec.flat_entry = 0;
    spec.flat_addr = 0x9fb00;
    refuse(f, &spec, "does not fit");
    spec.flat_addr = 0x80;
    refuse(f, &spec, "does not fit");
}

/* The same image with both headers: 64-bit goes through PVH, 32-bit through Multiboot. */
static void guessing(void **state)
{
    size_t len;
    for (int is64 = 0; is64 < 2; is64++) {
        uint8_t *img = make_elf(is64, 0x100000, 0x1000, 0x2000, 0x100000, &len);
        put_multiboot(img + 0x200, 3);
        assert_int_equal(boot_guess(img, len), is64 ? BOOT_PVH : BOOT_MULTIBOOT);
        free(img);
    }
    assert_int_equal(boot_guess((const uint8_t *)"", 0), BOOT_AUTO);
    assert_int_equal(boot_guess((const uint8_t *)"#!/bin/sh\n", 10), BOOT_AUTO);
}

static void claims(void **state)
{
    struct loader l = {.nmap = 2, .map = {{0x1000, 0x4000, BOOT_MEM_RAM}, {0x10000, 0x10000, BOOT_MEM_RAM}}};
    uint64_t at;
    assert_int_equal(load_claim(&l, 0x2000, 0x1000), 0);
    assert_int_equal(load_claim(&l, 0x2fff, 1), -1);
    assert_int_equal(load_claim(&l, 0x4fff, 2), -1);
    assert_int_equal(load_claim(&l, UINT64_MAX, 2), -1);
    assert_int_equal(load_claim_low(&l, 0x1800, 0x1000, 0, UINT64_MAX, &at), 0);
    assert_int_equal(at, 0x3000);
    assert_int_equal(load_claim_low(&l, 0x1800, 0x1000, 0, 0x10800, &at), -1);
    assert_int_equal(load_claim_high(&l, 0x800, 0x1000, 0, 0x12000, &at), 0);
    assert_int_equal(at, 0x11000);
    assert_int_equal(load_claim_high(&l, 0x800, 0x1000, 0, 0x12000, &at), 0);
    assert_int_equal(at, 0x10000);
    assert_int_equal(load_claim_high(&l, 0x800, 0x1000, 0, 0x12000, &at), 0);
    assert_int_equal(at, 0x1000);
    assert_int_equal(load_claim_high(&l, 0xf000, 1, 0, UINT64_MAX, &at), -1);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(linux64), T(linux32),  T(linux_refused),         T(pvh), T(elf_refused), T(multiboot),
        T(flat),    T(guessing), cmocka_unit_test(claims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
