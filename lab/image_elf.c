/* ELF for x86: executables, shared objects and relocatables, 32 and 64 bit. */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab/image.h"

struct shdr {
    uint32_t name, type, link, info;
    uint64_t flags, addr, off, size, entsize;
    uint64_t at; /* address given to it; sections of relocatables have none of their own */
    bool kept;   /* allocated, with bytes */
    uint8_t *copy;
};

struct elf {
    struct lab_image *im;
    const uint8_t *f;
    size_t len;
    bool is64, rel;
    uint16_t type;
    uint64_t entry, shoff, phoff;
    unsigned phnum, shentsize, phentsize;
    unsigned nsh, shstrndx;
    struct shdr *sh;
};

bool lab_is_elf(const uint8_t *f, size_t len)
{
    return len >= 4 && !memcmp(f, "\177ELF", 4);
}

static bool inside(const struct elf *e, uint64_t off, uint64_t size)
{
    return off <= e->len && size <= e->len - off;
}

static uint64_t word(const struct elf *e, const uint8_t *p)
{
    return e->is64 ? lab64(p) : lab32(p);
}

static void read_shdr(const struct elf *e, uint64_t off, struct shdr *s)
{
    const uint8_t *p = e->f + off;
    unsigned w = e->is64 ? 8 : 4;
    *s = (struct shdr){.name = lab32(p),
                       .type = lab32(p + 4),
                       .flags = word(e, p + 8),
                       .addr = word(e, p + 8 + w),
                       .off = word(e, p + 8 + 2 * w),
                       .size = word(e, p + 8 + 3 * w),
                       .link = lab32(p + 8 + 4 * w),
                       .info = lab32(p + 12 + 4 * w),
                       .entsize = word(e, p + 16 + 5 * w)};
}

static int read_header(struct elf *e)
{
    const uint8_t *f = e->f;
    if (e->len < 20 || e->len < (f[4] == ELFCLASS64 ? 64u : 52u))
        return lab_fail(e->im, "truncated ELF header");
    if (f[4] != ELFCLASS32 && f[4] != ELFCLASS64)
        return lab_fail(e->im, "ELF class %u is neither 32 nor 64 bit", f[4]);
    if (f[5] != ELFDATA2LSB)
        return lab_fail(e->im, "big-endian ELF, not x86");
    uint16_t machine = lab16(f + 18);
    if (machine != EM_386 && machine != EM_X86_64)
        return lab_fail(e->im, "ELF for machine %u, not x86", machine);
    e->is64 = f[4] == ELFCLASS64;
    e->type = lab16(f + 16);
    if (e->type != ET_EXEC && e->type != ET_DYN && e->type != ET_REL)
        return lab_fail(e->im, "ELF type %u is not an executable, shared object or relocatable file", e->type);
    e->rel = e->type == ET_REL;
    e->im->relocatable = e->rel;
    e->im->mode = machine == EM_X86_64 ? X86_MODE_64 : X86_MODE_32;
    e->entry = word(e, f + 24);
    e->phoff = word(e, f + (e->is64 ? 32 : 28));
    e->shoff = word(e, f + (e->is64 ? 40 : 32));
    const uint8_t *q = f + (e->is64 ? 54 : 42);
    e->phentsize = lab16(q);
    e->phnum = lab16(q + 2);
    e->shentsize = lab16(q + 4);
    e->nsh = lab16(q + 6);
    e->shstrndx = lab16(q + 8);
    return 0;
}

static int read_sections(struct elf *e)
{
    unsigned want = e->is64 ? 64 : 40;
    if (!e->shoff)
        e->nsh = 0;
    else if (e->shentsize != want || !inside(e, e->shoff, want))
        return lab_fail(e->im, "ELF section headers lie behind the file: truncated");
    if (e->shoff) {
        struct shdr zero;
        read_shdr(e, e->shoff, &zero);
        if (!e->nsh) /* too many for the header's field */
            e->nsh = zero.size > LAB_MAX_SECTIONS ? LAB_MAX_SECTIONS + 1 : (unsigned)zero.size;
        if (e->shstrndx == SHN_XINDEX)
            e->shstrndx = zero.link;
    }
    if (e->nsh > LAB_MAX_SECTIONS)
        return lab_fail(e->im, "more than %u ELF sections", LAB_MAX_SECTIONS);
    if (e->nsh && !inside(e, e->shoff, (uint64_t)e->nsh * want))
        return lab_fail(e->im, "ELF section headers lie behind the file: truncated");
    e->sh = calloc(e->nsh + 1, sizeof(*e->sh));
    if (!e->sh)
        return lab_fail(e->im, "out of memory");
    for (unsigned i = 0; i < e->nsh; i++) {
        read_shdr(e, e->shoff + (uint64_t)i * want, &e->sh[i]);
        if (e->sh[i].type == SHT_NULL || e->sh[i].type == SHT_NOBITS)
            continue;
        if (!inside(e, e->sh[i].off, e->sh[i].size))
            return lab_fail(e->im, "ELF section %u lies behind the file: truncated", i);
    }
    return 0;
}

/* A string of a string table, or NULL: it must end inside the table. */
static const char *string_at(const struct elf *e, unsigned table, uint64_t off)
{
    if (table >= e->nsh || e->sh[table].type != SHT_STRTAB || off >= e->sh[table].size)
        return NULL;
    const char *s = (const char *)e->f + e->sh[table].off + off;
    return memchr(s, 0, (size_t)(e->sh[table].size - off)) ? s : NULL;
}

static int by_start(const void *a, const void *b)
{
    const struct lab_section *x = a, *y = b;
    return x->addr != y->addr ? (x->addr < y->addr ? -1 : 1) : 0;
}

/* Sections must not overlap: an address means one byte. */
static int settle(struct lab_image *im)
{
    qsort(im->sec, im->nsec, sizeof(*im->sec), by_start);
    for (unsigned i = 0; i < im->nsec; i++) {
        struct lab_section *s = &im->sec[i];
        if (s->addr + s->size < s->addr)
            return lab_fail(im, "section %.40s wraps around the end of memory", s->name);
        if (i && s[-1].addr + s[-1].size > s->addr)
            return lab_fail(im, "sections %.40s and %.40s overlap", s[-1].name, s->name);
    }
    return 0;
}

/* Without section headers, the loadable segments are all that is known. */
static int use_segments(struct elf *e)
{
    unsigned want = e->is64 ? 56 : 32;
    if (e->phnum && (e->phentsize != want || !inside(e, e->phoff, (uint64_t)e->phnum * want)))
        return lab_fail(e->im, "ELF program headers lie behind the file: truncated");
    e->im->sec = calloc(e->phnum + 1u, sizeof(*e->im->sec));
    if (!e->im->sec)
        return lab_fail(e->im, "out of memory");
    for (unsigned i = 0; i < e->phnum; i++) {
        const uint8_t *p = e->f + e->phoff + (uint64_t)i * want;
        uint64_t off = e->is64 ? lab64(p + 8) : lab32(p + 4), va = e->is64 ? lab64(p + 16) : lab32(p + 8);
        uint64_t size = e->is64 ? lab64(p + 32) : lab32(p + 16);
        uint32_t flags = lab32(p + (e->is64 ? 4 : 24));
        if (lab32(p) != PT_LOAD || !size)
            continue;
        if (!inside(e, off, size))
            return lab_fail(e->im, "ELF segment %u lies behind the file: truncated", i);
        char *name = lab_alloc(e->im, 24);
        if (!name)
            return -1;
        snprintf(name, 24, "segment %u", i);
        e->im->sec[e->im->nsec++] = (struct lab_section){name, e->f + off, va, size, flags & PF_X};
    }
    return settle(e->im);
}

/* Allocated sections with bytes; those of a relocatable file are laid out one behind the other, in copies to be
 * relocated. */
static int use_sections(struct elf *e)
{
    uint64_t at = LAB_REL_BASE, total = 0;
    e->im->sec = calloc(e->nsh + 1u, sizeof(*e->im->sec));
    if (!e->im->sec)
        return lab_fail(e->im, "out of memory");
    for (unsigned i = 0; i < e->nsh; i++) {
        struct shdr *s = &e->sh[i];
        s->at = s->addr;
        if (!(s->flags & SHF_ALLOC) || (s->flags & SHF_TLS) || s->type == SHT_NULL || s->type == SHT_NOBITS || !s->size)
            continue;
        const char *name = string_at(e, e->shstrndx, s->name);
        const uint8_t *data = e->f + s->off;
        if (e->rel) {
            total += s->size; /* sections of a file may share its bytes; their copies do not */
            if (total > 4 * (uint64_t)e->len + (1u << 20))
                return lab_fail(e->im, "ELF sections overlap in the file");
            s->copy = lab_alloc(e->im, (size_t)s->size);
            if (!s->copy)
                return -1;
            memcpy(s->copy, data, (size_t)s->size);
            data = s->copy;
            s->at = at;
            at += (s->size + 63) & ~63ull;
        }
        s->kept = true;
        e->im->sec[e->im->nsec++] =
            (struct lab_section){name && *name ? name : "?", data, s->at, s->size, s->flags & SHF_EXECINSTR};
        if (name && !strcmp(name, ".gnu.linkonce.this_module"))
            e->im->module = true;
    }
    return settle(e->im);
}

struct sym {
    uint32_t name;
    uint8_t type, bind;
    uint16_t shndx;
    uint64_t value, size;
};

static unsigned sym_size(const struct elf *e)
{
    return e->is64 ? 24 : 16;
}

static void read_sym(const struct elf *e, const struct shdr *tab, uint64_t i, struct sym *s)
{
    const uint8_t *p = e->f + tab->off + i * sym_size(e);
    uint8_t info = e->is64 ? p[4] : p[12];
    *s = (struct sym){lab32(p),
                      info & 15,
                      info >> 4,
                      lab16(p + (e->is64 ? 6 : 14)),
                      e->is64 ? lab64(p + 8) : lab32(p + 4),
                      e->is64 ? lab64(p + 16) : lab32(p + 8)};
}

/* The address of a symbol of this file; false if it is defined elsewhere or is no address. */
static bool sym_addr(const struct elf *e, const struct sym *s, uint64_t *addr)
{
    if (s->shndx == SHN_UNDEF || s->shndx >= SHN_LORESERVE || s->shndx >= e->nsh)
        return false;
    *addr = e->rel ? e->sh[s->shndx].at + s->value : s->value;
    return !e->rel || e->sh[s->shndx].kept;
}

static int use_symbols(struct elf *e)
{
    for (unsigned t = 0; t < e->nsh; t++) {
        const struct shdr *tab = &e->sh[t];
        if (tab->type != SHT_SYMTAB && tab->type != SHT_DYNSYM)
            continue;
        for (uint64_t i = 1; i < tab->size / sym_size(e); i++) {
            struct sym s;
            uint64_t addr;
            read_sym(e, tab, i, &s);
            bool func = s.type == STT_FUNC || s.type == STT_GNU_IFUNC;
            if ((!func && s.type != STT_NOTYPE) || !sym_addr(e, &s, &addr))
                continue;
            const struct lab_section *in = lab_section_at(e->im, addr);
            const char *name = string_at(e, tab->link, s.name);
            /* Labels of hand-written code count if they have a name of their own; $x and .L are the assembler's. */
            if (!in || !in->exec || !name || !*name || *name == '.' || *name == '$')
                continue;
            uint64_t room = in->size - (addr - in->addr), size = s.size < room ? s.size : room;
            if (lab_add_seed(e->im, addr, size, name, MEANS_SYMBOL, func || s.bind == STB_GLOBAL))
                return -1;
        }
    }
    return 0;
}

/* How a relocation computes what it stores: width, and whether it is relative to the place. */
static bool reloc_kind(const struct elf *e, uint32_t type, unsigned *width, bool *pc)
{
    *pc = false;
    *width = 4;
    if (e->im->mode == X86_MODE_64) {
        switch (type) {
        case R_X86_64_64: *width = 8; return true;
        case R_X86_64_PC64:
            *width = 8;
            *pc = true;
            return true;
        case R_X86_64_32:
        case R_X86_64_32S: return true;
        case R_X86_64_PC32:
        case R_X86_64_PLT32: *pc = true; return true;
        default: return false;
        }
    }
    *pc = type == R_386_PC32 || type == R_386_PLT32;
    return *pc || type == R_386_32;
}

struct reloc {
    uint64_t off, sym;
    uint32_t type;
    int64_t addend;
};

static void read_reloc(const struct elf *e, const struct shdr *s, uint64_t i, struct reloc *r)
{
    bool a = s->type == SHT_RELA;
    unsigned w = e->is64 ? 8 : 4;
    const uint8_t *p = e->f + s->off + i * (a ? 3 * w : 2 * w);
    uint64_t info = word(e, p + w);
    *r = (struct reloc){word(e, p), e->is64 ? info >> 32 : info >> 8, e->is64 ? (uint32_t)info : info & 255,
                        !a        ? 0
                        : e->is64 ? (int64_t)lab64(p + 16)
                                  : (int64_t)(int32_t)lab32(p + 8)};
}

static uint64_t reloc_count(const struct elf *e, const struct shdr *s)
{
    unsigned w = e->is64 ? 8 : 4;
    return s->type == SHT_RELA ? s->size / (3 * w) : s->type == SHT_REL ? s->size / (2 * w) : 0;
}

/* Relocatable files: store what the linker would, so that branches lead where they will. Symbols of other files get an
 * address at which nothing lies. */
static int apply(struct elf *e, const struct shdr *rs)
{
    struct shdr *to = rs->info < e->nsh ? &e->sh[rs->info] : NULL;
    const struct shdr *tab = rs->link < e->nsh && e->sh[rs->link].type == SHT_SYMTAB ? &e->sh[rs->link] : NULL;
    if (!to || !to->kept || !tab)
        return 0;
    for (uint64_t i = 0; i < reloc_count(e, rs); i++) {
        struct reloc r;
        struct sym s;
        unsigned width;
        bool pc;
        uint64_t addr = 0;
        read_reloc(e, rs, i, &r);
        if (!reloc_kind(e, r.type, &width, &pc) || r.off > to->size || width > to->size - r.off ||
            r.sym >= tab->size / sym_size(e))
            continue;
        read_sym(e, tab, r.sym, &s);
        bool ours = sym_addr(e, &s, &addr);
        uint8_t *p = to->copy + r.off;
        if (rs->type == SHT_REL)
            r.addend = (int32_t)lab32(p);
        uint64_t v = addr + (uint64_t)r.addend - (pc ? to->at + r.off : 0);
        for (unsigned k = 0; k < width; k++)
            p[k] = (uint8_t)(v >> 8 * k);
        /* In code, a relative one is a branch (followed as such) or data's address. */
        if (ours && !(pc && (to->flags & SHF_EXECINSTR)) && lab_add_code(e->im, addr + (uint64_t)r.addend, MEANS_RELOC))
            return -1;
    }
    return 0;
}

/* Linked files: addresses the loader adjusts are often those of functions. */
static int follow(struct elf *e, const struct shdr *rs)
{
    bool m64 = e->im->mode == X86_MODE_64;
    for (uint64_t i = 0; i < reloc_count(e, rs); i++) {
        struct reloc r;
        read_reloc(e, rs, i, &r);
        if (m64 ? r.type != R_X86_64_RELATIVE && r.type != R_X86_64_IRELATIVE
                : r.type != R_386_RELATIVE && r.type != R_386_IRELATIVE)
            continue;
        uint64_t v = (uint64_t)r.addend;
        if (rs->type == SHT_REL) {
            const struct lab_section *s = lab_section_at(e->im, r.off);
            if (!s || s->size - (r.off - s->addr) < 4)
                continue;
            v = lab32(s->data + (r.off - s->addr));
        }
        if (lab_add_code(e->im, v, MEANS_RELOC))
            return -1;
    }
    return 0;
}

/* Arrays of pointers to functions. */
static int use_arrays(struct elf *e, const struct shdr *s)
{
    unsigned w = e->is64 ? 8 : 4;
    for (uint64_t i = 0; i + w <= s->size; i += w)
        if (lab_add_code(e->im, word(e, (s->copy ? s->copy : e->f + s->off) + i), MEANS_ENTRY))
            return -1;
    return 0;
}

static int gather(struct elf *e)
{
    if (!e->rel && lab_add_code(e->im, e->entry, MEANS_ENTRY))
        return -1;
    if (use_symbols(e))
        return -1;
    for (unsigned i = 0; i < e->nsh; i++)
        if ((e->sh[i].type == SHT_REL || e->sh[i].type == SHT_RELA) &&
            (e->rel ? apply(e, &e->sh[i]) : follow(e, &e->sh[i])))
            return -1;
    for (unsigned i = 0; i < e->nsh; i++) {
        const struct shdr *s = &e->sh[i];
        if ((s->type == SHT_INIT_ARRAY || s->type == SHT_FINI_ARRAY || s->type == SHT_PREINIT_ARRAY) && s->kept &&
            use_arrays(e, s))
            return -1;
    }
    for (unsigned i = 0; i < e->im->nsec; i++)
        if (!strcmp(e->im->sec[i].name, ".eh_frame") && lab_eh_frame(e->im, &e->im->sec[i]))
            return -1;
    for (size_t i = 0; i < e->im->nseed; i++)
        if (e->im->seed[i].means == MEANS_SYMBOL)
            return 0;
    return lab_kallsyms(e->im);
}

int lab_elf_open(struct lab_image *im, const uint8_t *file, size_t len)
{
    struct elf e = {.im = im, .f = file, .len = len};
    int r = read_header(&e);
    if (!r)
        r = read_sections(&e);
    if (!r)
        r = e.nsh > 1 ? use_sections(&e) : use_segments(&e);
    if (!r)
        r = gather(&e);
    free(e.sh);
    if (r)
        return r;
    snprintf(im->kind, sizeof(im->kind), "%s-bit ELF %s", im->mode == X86_MODE_64 ? "64" : "32",
             im->module          ? "kernel module"
             : e.rel             ? "relocatable file"
             : e.type == ET_EXEC ? "executable"
                                 : "shared object or position-independent executable");
    return 0;
}
