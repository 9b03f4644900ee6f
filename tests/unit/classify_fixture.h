/* Images made in memory: what the tests of ringer classify and its fuzzer begin with. */
#ifndef CLASSIFY_FIXTURE_H
#define CLASSIFY_FIXTURE_H

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "boot/loader.h"

#define FIX_TEXT 0x401000u
#define FIX_DATA 0x410000u

struct fix_sym {
    const char *name;
    uint32_t value, size;
    uint8_t type;  /* STT_* */
    uint8_t shndx; /* 1 .text, 2 .data, 0 undefined */
};
struct fix_rel {
    uint32_t off;
    uint8_t sym, type; /* symbol number, from 1 */
    int32_t addend;
    bool in_data;
};
struct fix_elf {
    bool is64;
    uint16_t type; /* ET_* */
    const uint8_t *text, *data;
    size_t ntext, ndata;
    const struct fix_sym *sym;
    unsigned nsym;
    const struct fix_rel *rel;
    unsigned nrel;
    uint32_t entry;
    const char *data_name; /* default .data */
};

static inline void fix_word(uint8_t *p, bool is64, uint64_t v)
{
    if (is64)
        put64(p, v);
    else
        put32(p, (uint32_t)v);
}

static inline size_t fix_shdr(uint8_t *b, size_t at, bool is64, unsigned i, uint32_t name, uint32_t type,
                              uint64_t flags, uint64_t addr, uint64_t off, uint64_t size, uint32_t link, uint32_t info)
{
    unsigned w = is64 ? 8 : 4;
    uint8_t *p = b + at + i * (is64 ? 64 : 40);
    put32(p, name);
    put32(p + 4, type);
    fix_word(p + 8, is64, flags);
    fix_word(p + 8 + w, is64, addr);
    fix_word(p + 8 + 2 * w, is64, off);
    fix_word(p + 8 + 3 * w, is64, size);
    put32(p + 8 + 4 * w, link);
    put32(p + 12 + 4 * w, info);
    return size;
}

static inline size_t fix_rels(const struct fix_elf *e, uint8_t *b, size_t at, bool in_data)
{
    size_t n = 0, step = e->is64 ? 24 : 8;
    for (unsigned i = 0; i < e->nrel; i++) {
        const struct fix_rel *r = &e->rel[i];
        if (r->in_data != in_data)
            continue;
        uint8_t *p = b + at + n;
        fix_word(p, e->is64, r->off);
        fix_word(p + (e->is64 ? 8 : 4), e->is64,
                 e->is64 ? (uint64_t)r->sym << 32 | r->type : (uint32_t)r->sym << 8 | r->type);
        if (e->is64)
            put64(p + 16, (uint64_t)(int64_t)r->addend);
        n += step;
    }
    return n;
}

/* Sections: 1 .text, 2 .data, 3 .symtab, 4 .strtab, 5 and 6 relocations of .text and .data, 7 section names. b is
 * zeroed and large enough; returns the file's length. */
static inline size_t fix_make_elf(const struct fix_elf *e, uint8_t *b)
{
    static const char names[] = "\0.text\0.data\0.symtab\0.strtab\0.rel\0.eh_frame";
    bool is64 = e->is64, rel = e->type == ET_REL;
    size_t at = 0x80, off[8] = {0}, size[8] = {0};
    memcpy(b, "\177ELF", 4);
    b[4] = is64 ? ELFCLASS64 : ELFCLASS32;
    b[5] = ELFDATA2LSB;
    b[6] = 1;
    put16(b + 16, e->type);
    put16(b + 18, is64 ? EM_X86_64 : EM_386);
    put32(b + 20, 1);
    fix_word(b + 24, is64, e->entry);
    for (unsigned i = 1; i < 8; i++) {
        off[i] = at;
        switch (i) {
        case 1: memcpy(b + at, e->text, size[i] = e->ntext); break;
        case 2:
            if (e->ndata)
                memcpy(b + at, e->data, e->ndata);
            size[i] = e->ndata;
            break;
        case 3:
            for (unsigned k = 0; k < e->nsym; k++) {
                uint8_t *p = b + at + (k + 1) * (is64 ? 24u : 16u);
                uint32_t base = rel || !e->sym[k].shndx ? 0 : e->sym[k].shndx == 1 ? FIX_TEXT : FIX_DATA;
                put32(p, 1 + 16 * k);
                p[is64 ? 4 : 12] = (uint8_t)(STB_GLOBAL << 4 | e->sym[k].type);
                put16(p + (is64 ? 6 : 14), e->sym[k].shndx);
                fix_word(p + (is64 ? 8 : 4), is64, base + e->sym[k].value);
                fix_word(p + (is64 ? 16 : 8), is64, e->sym[k].size);
            }
            size[i] = e->nsym ? (e->nsym + 1) * (is64 ? 24u : 16u) : 0;
            break;
        case 4:
            for (unsigned k = 0; k < e->nsym; k++)
                strcpy((char *)b + at + 1 + 16 * k, e->sym[k].name);
            size[i] = 1 + 16 * e->nsym;
            break;
        case 5:
        case 6: size[i] = fix_rels(e, b, at, i == 6); break;
        case 7: memcpy(b + at, names, size[i] = sizeof(names)); break;
        }
        at = (at + size[i] + 7) & ~(size_t)7;
    }
    fix_word(b + (is64 ? 40 : 32), is64, at);
    put16(b + (is64 ? 52 : 40), is64 ? 64 : 52);
    put16(b + (is64 ? 58 : 46), is64 ? 64 : 40);
    put16(b + (is64 ? 60 : 48), 8);
    put16(b + (is64 ? 62 : 50), 7);
    uint32_t rt = is64 ? SHT_RELA : SHT_REL, dn = e->data_name ? 34 : 7;
    fix_shdr(b, at, is64, 1, 1, SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, rel ? 0 : FIX_TEXT, off[1], size[1], 0, 0);
    fix_shdr(b, at, is64, 2, dn, SHT_PROGBITS, SHF_ALLOC, rel ? 0 : FIX_DATA, off[2], size[2], 0, 0);
    fix_shdr(b, at, is64, 3, 13, SHT_SYMTAB, 0, 0, off[3], size[3], 4, 1);
    fix_shdr(b, at, is64, 4, 21, SHT_STRTAB, 0, 0, off[4], size[4], 0, 0);
    fix_shdr(b, at, is64, 5, 29, rt, 0, 0, off[5], size[5], 3, 1);
    fix_shdr(b, at, is64, 6, 29, rt, 0, 0, off[6], size[6], 3, 2);
    fix_shdr(b, at, is64, 7, 29, SHT_STRTAB, 0, 0, off[7], size[7], 0, 0);
    return at + 8 * (is64 ? 64 : 40);
}

/* A bzImage around a payload; returns its length. */
static inline size_t fix_make_bzimage(uint8_t *b, const uint8_t *payload, size_t n)
{
    memset(b, 0, 1024);
    b[0x1f1] = 1;
    put16(b + 0x1fe, 0xaa55);
    memcpy(b + 0x202, "HdrS", 4);
    put16(b + 0x206, 0x20f);
    put16(b + 0x20e, 0x80);
    strcpy((char *)b + 0x280, "6.1.0-test (someone)");
    put32(b + 0x248, 0);
    put32(b + 0x24c, (uint32_t)n);
    memcpy(b + 1024, payload, n);
    return 1024 + n;
}

/* Linux's symbol table for n functions f0000, f0001, ... at base, base + step, ...; recent: the order since 6.4.
 * Returns its length. */
static inline size_t fix_make_kallsyms(uint8_t *b, bool is64, bool recent, bool percpu, unsigned n, uint64_t base,
                                       unsigned step)
{
    unsigned word = is64 ? 8 : 4;
    size_t at = 64, mark_at, index[256];
    uint32_t mark[64] = {0};
    memset(b, 1, 64); /* something before, not 0 */
    b[63] = 0;
#define FIX_ALIGN() at = (at + word - 1) & ~(size_t)(word - 1)
    for (unsigned pass = 0; pass < 2; pass++) {
        if (pass == (recent ? 1u : 0u)) {
            for (unsigned i = 0; i < n; i++, at += 4)
                put32(b + at, percpu ? (uint32_t)-1 - i * step : i * step);
            FIX_ALIGN();
            fix_word(b + at, is64, base);
            at += word;
            continue;
        }
        fix_word(b + at, is64, n);
        at += word;
        size_t names = at;
        for (unsigned i = 0; i < n; i++) {
            if (i % 256 == 0)
                mark[i / 256] = (uint32_t)(at - names);
            b[at++] = 6;
            memcpy(b + at, "Tf", 2);
            for (unsigned k = 0; k < 4; k++)
                b[at + 2 + k] = (uint8_t)('0' + i / (k == 0 ? 1000 : k == 1 ? 100 : k == 2 ? 10 : 1) % 10);
            at += 6;
        }
        FIX_ALIGN();
        for (mark_at = 0; mark_at < (n + 255) / 256; mark_at++, at += 4)
            put32(b + at, mark[mark_at]);
        FIX_ALIGN();
        size_t tokens = at;
        for (unsigned i = 0; i < 256; i++) {
            index[i] = at - tokens;
            b[at++] = (i >= '0' && i <= '9') || (i >= 'A' && i <= 'z') ? (uint8_t)i : 'x';
            if (i < '0')
                b[at++] = 'y';
            b[at++] = 0;
        }
        FIX_ALIGN();
        for (unsigned i = 0; i < 256; i++, at += 2)
            put16(b + at, (uint16_t)index[i]);
        FIX_ALIGN();
    }
#undef FIX_ALIGN
    return at;
}

#endif
