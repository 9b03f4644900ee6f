/*
 * libFuzzer: ringer classify. The first byte chooses what the file is: the input's bytes as they are, flat code of some
 * mode, or a sound image (ELF executable, relocatable, with unwind or kernel symbol table, bzImage) that the input
 * damages in places of its choice. Whatever the file, every byte of its executable sections is accounted for exactly
 * once.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab/classify.h"
#include "tests/unit/classify_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x))                                                                                                      \
            __builtin_trap();                                                                                          \
    } while (0)
#define CAP 32768u

static const uint8_t text[] = {0x9c, 0xfa, 0x0f, 0xa2, 0x0f, 0x22, 0xc0, 0x0f, 0x01, 0x00, 0xe8,
                               0x03, 0,    0,    0,    0xc3, 0xcc, 0xcc, 0x9d, 0xff, 0xe0, 0xec,
                               0xc3, 0x74, 0xf0, 0xeb, 0xfe, 0x0f, 0x31, 0x0f, 0x0b};
static const struct fix_sym syms[] = {
    {"main", 0, 16, STT_FUNC, 1}, {"text", 0, 0, STT_SECTION, 1}, {"far", 0, 0, STT_NOTYPE, 0}};
static const struct fix_rel rels[] = {
    {11, 2, R_X86_64_PC32, 14, false}, {0, 2, R_X86_64_64, 15, true}, {8, 3, R_X86_64_64, 1, true}};

static size_t unwind_data(uint8_t *d)
{
    put32(d, 16);
    d[8] = d[12] = d[15] = 1;
    memcpy(d + 9, "zR", 3);
    d[13] = 0x78;
    d[14] = 16;
    d[16] = 0x1b;
    put32(d + 20, 16);
    put32(d + 24, 24);
    put32(d + 28, (uint32_t)(FIX_TEXT + 4 - (FIX_DATA + 28)));
    put32(d + 32, 6);
    return 44;
}

static size_t sound(uint8_t how, uint8_t *b)
{
    static uint8_t d[CAP / 2], elf[CAP / 2];
    struct fix_elf e = {.is64 = how & 0x10,
                        .type = ET_EXEC,
                        .text = text,
                        .ntext = sizeof(text),
                        .data = d,
                        .ndata = 16,
                        .sym = syms,
                        .nsym = 3,
                        .rel = rels,
                        .nrel = 3,
                        .entry = FIX_TEXT};
    memset(d, 0, sizeof(d));
    switch (how % 6) {
    case 1: break;
    case 2: e.type = ET_REL; break;
    case 3:
        e.ndata = unwind_data(d);
        e.data_name = ".eh_frame";
        break;
    case 4:
        e.nsym = 0;
        e.ndata = fix_make_kallsyms(d, e.is64, how & 0x20, how & 0x40, 513, FIX_TEXT, 0);
        break;
    default: {
        memset(elf, 0, sizeof(elf));
        size_t n = fix_make_elf(&e, elf);
        put32(elf + n + 4, FIX_DATA); /* where an address lies */
        return fix_make_bzimage(b, elf, n + 8);
    }
    }
    return fix_make_elf(&e, b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    static uint8_t b[CAP];
    struct lab_options o = {.max_size = 1u << 20};
    uint8_t how = *data++;
    size_t len = --size;
    if (how % 6) {
        memset(b, 0, sizeof(b));
        len = sound(how, b);
        for (; size >= 6; data += 6, size -= 6) { /* offset, width, value */
            size_t off = (get16(data) & 0x7fff) % len, n = 1u << (data[2] & 3);
            if (data[1] & 0x80) /* most of what matters is at either end */
                off = data[2] & 0x40 ? len - 1 - off % 0x240 % len : off % 0x100;
            for (size_t i = 0; i < n && off + i < len; i++)
                b[off + i] = i < 3 ? data[3 + i] : data[2] & 0x80 ? 0xff : 0;
        }
        if (size == 1)
            len = len * data[0] / 255;
        data = b;
    } else if (how & 0x80) {
        o.flat = true;
        o.mode = how / 6 % 3;
        o.base = how & 0x40 ? 0x7c00 : 0;
    }
    uint8_t *file = malloc(len ? len : 1);
    struct lab_image im;
    struct lab_classified c;
    char err[160] = "";
    CHECK(file);
    memcpy(file, data, len);
    if (lab_image_open(&im, file, len, &o, err, sizeof(err))) {
        CHECK(err[0] && !strchr(err, '\n'));
    } else {
        CHECK(!lab_classify(&im, how & 0x40, &c));
        uint64_t sum = c.n.padding + c.n.uncovered, exec = 0;
        for (unsigned m = 0; m < MEANS_COUNT; m++)
            sum += c.n.means_bytes[m];
        for (unsigned i = 0; i < im.nsec; i++)
            exec += im.sec[i].exec ? im.sec[i].size : 0;
        CHECK(sum == exec && exec == c.n.exec_bytes);
        for (size_t i = 0; i < c.nsite; i++) {
            char line[128];
            uint64_t off;
            CHECK(lab_section_at(&im, c.site[i].addr));
            lab_disassemble(&im, c.site[i].addr, line, sizeof(line));
            lab_function_at(&im, c.site[i].addr, &off);
        }
        lab_classified_free(&c);
        lab_image_close(&im);
    }
    free(file);
    return 0;
}
