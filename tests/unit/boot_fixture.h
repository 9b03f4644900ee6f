/* A machine that has memory and nothing else, and images made to measure. */
#ifndef TESTS_UNIT_BOOT_FIXTURE_H
#define TESTS_UNIT_BOOT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"
#include "boot/loader.h"
#include "ringer/vm.h"

#define RAM_SIZE (64u << 20)

struct boot_fixture {
    struct vm *vm;
    uint8_t *ram;
    uint32_t *flags;
    struct x86_cpuid_policy *policy;
};

static inline void fixture_map(struct boot_fixture *f, struct gpa_map *m, uint64_t start, uint64_t end)
{
    struct gpa_range r = {.start = start,
                          .size = end - start,
                          .kind = GPA_RAM,
                          .host = f->ram + start,
                          .page_flags = f->flags + start / 4096,
                          .name = "ram"};
    if (gpa_add(m, &r))
        abort();
}

static inline void boot_fixture_init(struct boot_fixture *f)
{
    f->vm = calloc(1, sizeof(*f->vm));
    f->ram = calloc(1, RAM_SIZE);
    f->flags = calloc(RAM_SIZE / 4096, sizeof(uint32_t));
    struct gpa_map *m = gpa_begin(NULL, 1ull << 40);
    fixture_map(f, m, 0, 0xa0000);
    fixture_map(f, m, 0xe0000, RAM_SIZE);
    f->vm->mem = m;
    f->vm->ram_size = RAM_SIZE;
    f->vm->ram = f->ram;
}

static inline void boot_fixture_free(struct boot_fixture *f)
{
    gpa_free(f->vm->mem);
    free(f->vm);
    free(f->ram);
    free(f->flags);
}

/* A bzImage of protocol 2.15 with `code` bytes of protected-mode code, all 0xcc. Caller frees. */
static inline uint8_t *make_bzimage(size_t code, bool is64, size_t *len)
{
    unsigned sects = 3;
    *len = (sects + 1) * 512 + code;
    uint8_t *p = calloc(1, *len);
    memset(p + (sects + 1) * 512, 0xcc, code);
    p[0x1f1] = (uint8_t)sects;
    put32(p + 0x1f4, (uint32_t)((code + 15) / 16));
    put16(p + 0x1fe, 0xaa55);
    p[0x200] = 0xeb;
    p[0x201] = 0x268 - 0x202;
    memcpy(p + 0x202, "HdrS", 4);
    put16(p + 0x206, 0x20f);
    p[0x211] = 1;
    put32(p + 0x214, 0x100000);
    put32(p + 0x22c, 0x7fffffff);
    put32(p + 0x230, 0x200000);
    p[0x234] = 1;
    put16(p + 0x236, is64 ? 1 : 0);
    put32(p + 0x238, 100);
    put64(p + 0x258, 0x1000000);
    put32(p + 0x260, (uint32_t)code + 0x10000);
    return p;
}

/* An ELF executable with one loadable segment at paddr (text 0x90) and, if pvh, a Xen note. Caller frees. */
static inline uint8_t *make_elf(bool is64, uint64_t paddr, uint32_t filesz, uint32_t memsz, uint32_t pvh, size_t *len)
{
    size_t text = 0x200;
    *len = text + filesz;
    uint8_t *p = calloc(1, *len);
    memcpy(p, "\177ELF", 4);
    p[4] = is64 ? 2 : 1;
    p[5] = p[6] = 1;
    put16(p + 16, 2);
    put16(p + 18, is64 ? 62 : 3);
    put32(p + 20, 1);
    unsigned ph = is64 ? 64 : 52, phsize = is64 ? 56 : 32;
    uint64_t vaddr = paddr + (is64 ? 0xffffffff80000000ull : 0xc0000000u);
    if (is64) {
        put64(p + 24, vaddr + 0x10);
        put64(p + 32, ph);
    } else {
        put32(p + 24, (uint32_t)vaddr + 0x10);
        put32(p + 28, ph);
    }
    put16(p + (is64 ? 54 : 42), (uint16_t)phsize);
    put16(p + (is64 ? 56 : 44), pvh ? 2 : 1);
    uint8_t *h = p + ph;
    put32(h, 1);
    if (is64) {
        put32(h + 4, 5);
        put64(h + 8, text);
        put64(h + 16, vaddr);
        put64(h + 24, paddr);
        put64(h + 32, filesz);
        put64(h + 40, memsz);
    } else {
        put32(h + 4, (uint32_t)text);
        put32(h + 8, (uint32_t)vaddr);
        put32(h + 12, (uint32_t)paddr);
        put32(h + 16, filesz);
        put32(h + 20, memsz);
        put32(h + 24, 5);
    }
    memset(p + text, 0x90, filesz);
    if (pvh) {
        uint8_t *n = p + 0x180;
        h += phsize;
        put32(h, 4);
        if (is64) {
            put64(h + 8, 0x180);
            put64(h + 32, 20);
        } else {
            put32(h + 4, 0x180);
            put32(h + 16, 20);
        }
        put32(n, 4);
        put32(n + 4, 4);
        put32(n + 8, 18);
        memcpy(n + 12, "Xen", 4);
        put32(n + 16, pvh);
    }
    return p;
}

static inline void put_multiboot(uint8_t *p, uint32_t flags)
{
    put32(p, 0x1badb002);
    put32(p + 4, flags);
    put32(p + 8, -(0x1badb002u + flags));
}

#endif
