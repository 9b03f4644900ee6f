/*
 * libFuzzer: boot loaders. The first byte chooses the format asked for (or guessing) and how many modules there are,
 * the second the way the fuzzer's bytes are dressed up so that it gets past the magic numbers. Whatever the image, the loader
 * may write guest RAM only, and what it accepts must start inside it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"
#include "boot/elf.h"
#include "boot/loader.h"
#include "ringer/vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM (4u << 20)
#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x))                                                                                                      \
            __builtin_trap();                                                                                          \
    } while (0)

static void add_ram(struct gpa_map *m, uint8_t *ram, uint64_t start, uint64_t end)
{
    struct gpa_range r = {.start = start, .size = end - start, .kind = GPA_RAM, .host = ram + start, .name = "ram"};
    CHECK(!gpa_add(m, &r));
}

static void dress(uint8_t *img, size_t len, uint8_t how)
{
    if ((how & 1) && len >= 0x268) {
        put16(img + 0x1fe, 0xaa55);
        memcpy(img + 0x202, "HdrS", 4);
        img[0x207] = 2;
        img[0x211] |= 1;
    }
    if ((how & 2) && len >= 64) {
        memcpy(img, "\177ELF", 4);
        img[4] = how & 4 ? 1 : 2;
        img[5] = 1;
        put16(img + 16, 2);
        put16(img + 18, how & 4 ? 3 : 62);
    }
    if ((how & 8) && len >= 0x280)
        put32(img + 0x248, -(0x1badb002u + get32(img + 0x244)));
    if ((how & 8) && len >= 0x280)
        put32(img + 0x240, 0x1badb002u);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    /* Image and modules in blocks of their own size, so that the sanitizer sees every byte read beyond them. */
    size_t len = size - 2;
    uint8_t *img = malloc(len), *ram = calloc(1, RAM);
    struct gpa_map *m = gpa_begin(NULL, 1ull << 36);
    struct vm *vm = calloc(1, sizeof(*vm));
    CHECK(img && ram && m && vm);
    memcpy(img, data + 2, len);
    dress(img, len, data[1]);
    add_ram(m, ram, 0, 0xa0000);
    add_ram(m, ram, 0xe0000, RAM);
    vm->mem = m;

    struct boot_module mod[3] = {{.name = "a", .data = img, .len = len},
                                 {.name = "b", .cmdline = "x", .data = img, .len = len / 2},
                                 {.name = "c", .data = img, .len = 0}};
    const struct boot_region res[1] = {{0xe0000, 0x10000, BOOT_MEM_ACPI}};
    struct boot_spec spec = {.kind = data[0] % 5,
                             .name = "img",
                             .kernel = img,
                             .kernel_len = len,
                             .mod = mod,
                             .nmod = (data[0] >> 4) % 4,
                             .cmdline = data[0] & 0x80 ? "a b c" : NULL,
                             .rsdp = 0xe0000,
                             .reserved = res,
                             .nreserved = 1};
    struct boot_entry e;
    char err[128] = "";
    if (boot_load(vm, &spec, &e, err, sizeof(err)) == 0) {
        CHECK(e.kind != BOOT_AUTO && e.info < RAM && e.gdt < RAM);
        CHECK(e.kind != BOOT_LINUX || e.rip < RAM);
    } else {
        CHECK(!strncmp(err, "img: ", 5) || err[1] == ':');
        CHECK(!strchr(err, '\n'));
    }
    for (size_t i = 0xe0000; i < 0xf0000; i += 4096) /* the firmware's tables are nobody's to overwrite */
        CHECK(!ram[i]);
    gpa_free(m);
    free(vm);
    free(ram);
    free(img);
    return 0;
}
