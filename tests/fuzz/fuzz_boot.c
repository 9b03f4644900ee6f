/*
 * libFuzzer: boot loaders. The first byte chooses the format asked for (or guessing) and how many modules there are,
 * the second what the image is: the input's bytes as they are, or a sound image of some format that the input
 * damages in places of its choice. Whatever the image, the loader may write guest RAM only, must leave the
 * firmware's tables alone, and what it accepts must start inside memory.
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

static void sound_linux(uint8_t *p, size_t len)
{
    p[0x1f1] = 1;
    put32(p + 0x1f4, (uint32_t)((len - 1024) / 16));
    put16(p + 0x1fe, 0xaa55);
    p[0x200] = 0xeb;
    p[0x201] = 0x66;
    memcpy(p + 0x202, "HdrS", 4);
    put16(p + 0x206, 0x20f);
    p[0x211] = p[0x234] = p[0x236] = 1;
    put32(p + 0x22c, 0x7fffffff);
    put32(p + 0x230, 0x1000);
    put32(p + 0x238, 64);
    put64(p + 0x258, 0x100000);
    put32(p + 0x260, 0x4000);
}

static void sound_elf(uint8_t *p, size_t len, bool is64, bool multiboot)
{
    memcpy(p, "\177ELF", 4);
    p[4] = is64 ? 2 : 1;
    p[5] = 1;
    put16(p + 16, 2);
    put16(p + 18, is64 ? 62 : 3);
    put16(p + (is64 ? 54 : 42), is64 ? 56 : 32);
    put16(p + (is64 ? 56 : 44), 2);
    uint8_t *h = p + (is64 ? 64 : 52), *note = p + 0x140;
    if (is64) {
        put64(p + 32, 64);
        put32(h, 1);
        put64(h + 8, 0x100);
        put64(h + 24, 0x100000);
        put64(h + 32, len - 0x100);
        put64(h + 40, len);
        put32(h + 56, 4);
        put64(h + 56 + 8, 0x140);
        put64(h + 56 + 32, 20);
    } else {
        put32(p + 28, 52);
        put32(h, 1);
        put32(h + 4, 0x100);
        put32(h + 12, 0x100000);
        put32(h + 16, (uint32_t)len - 0x100);
        put32(h + 20, (uint32_t)len);
        put32(h + 32, 4);
        put32(h + 32 + 4, 0x140);
        put32(h + 32 + 16, 20);
    }
    put32(note, 4);
    put32(note + 4, 4);
    put32(note + 8, 18);
    memcpy(note + 12, "Xen", 4);
    put32(note + 16, 0x100010);
    if (multiboot) {
        put32(p + 0x180, 0x1badb002);
        put32(p + 0x184, 3);
        put32(p + 0x188, -(0x1badb002u + 3));
    }
}

static void sound_kludge(uint8_t *p, size_t len)
{
    static const uint32_t header[8] = {0x1badb002, 0x10003, -(0x1badb002u + 0x10003), 0x100000, 0x100000, 0x100400,
                                       0x100800,   0x100020};
    for (unsigned i = 0; i < 8; i++)
        put32(p + 4 * i, header[i]);
}

#define SOUND_LEN 2048u

/* The image, in a block of its own size so that the sanitizer sees every byte read beyond it. */
static uint8_t *make_image(uint8_t how, const uint8_t *data, size_t size, size_t *len)
{
    if (how % 6 == 0) {
        uint8_t *p = malloc(size ? size : 1);
        CHECK(p);
        memcpy(p, data, size);
        *len = size;
        return p;
    }
    uint8_t sound[SOUND_LEN] = {0};
    switch (how % 6) {
    case 1: sound_linux(sound, SOUND_LEN); break;
    case 2: sound_elf(sound, SOUND_LEN, true, how & 0x80); break;
    case 3: sound_elf(sound, SOUND_LEN, false, how & 0x80); break;
    case 4: sound_kludge(sound, SOUND_LEN); break;
    default: put16(sound + 510, 0xaa55);
    }
    for (; size >= 7; data += 7, size -= 7) { /* offset, width, value */
        unsigned off = get16(data) % SOUND_LEN, n = 1u << (data[2] & 3);
        if (data[2] & 0x80) /* most fields are near the beginning */
            off %= 0x280;
        for (unsigned i = 0; i < n && off + i < SOUND_LEN; i++)
            sound[off + i] = i < 4 ? data[3 + i] : data[2] & 0x40 ? 0xff : 0;
    }
    *len = size ? SOUND_LEN * data[0] / 255 : SOUND_LEN; /* cut short */
    uint8_t *p = malloc(*len ? *len : 1);
    CHECK(p);
    memcpy(p, sound, *len);
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    static uint8_t ram[RAM]; /* not cleared between runs: what matters of it is checked to stay zero */
    size_t len;
    uint8_t *img = make_image(data[1], data + 2, size - 2, &len);
    struct gpa_map *m = gpa_begin(NULL, 1ull << 36);
    struct vm *vm = calloc(1, sizeof(*vm));
    CHECK(m && vm);
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
    free(img);
    return 0;
}
