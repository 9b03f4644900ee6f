#include "boot/elf.h"

#include <string.h>

#include "boot/loader.h"

enum { ET_EXEC = 2, ET_DYN = 3, EM_386 = 3, EM_X86_64 = 62, PT_LOAD = 1, PT_NOTE = 4, PF_X = 1 };
#define XEN_ELFNOTE_PHYS32_ENTRY 18

bool elf_probe(const uint8_t *p, size_t len)
{
    return len >= 20 && !memcmp(p, "\177ELF", 4);
}

static bool inside(uint64_t off, uint64_t n, uint64_t len)
{
    return off <= len && n <= len - off;
}

/* The Xen note that holds the 32-bit physical entry. Names and contents are padded to 4 bytes. */
static void find_pvh_note(const uint8_t *p, uint64_t n, struct elf_image *out)
{
    while (n >= 12) {
        uint64_t namesz = get32(p), descsz = get32(p + 4);
        uint32_t type = get32(p + 8);
        uint64_t name_len = (namesz + 3) & ~3ull, desc_len = (descsz + 3) & ~3ull;
        p += 12;
        n -= 12;
        if (name_len > n || descsz > n - name_len)
            return;
        if (type == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(p, "Xen", 4) && (descsz == 4 || descsz == 8)) {
            out->pvh_entry = descsz == 8 ? get64(p + name_len) : get32(p + name_len);
            out->has_pvh = true;
        }
        if (desc_len > n - name_len)
            return;
        p += name_len + desc_len;
        n -= name_len + desc_len;
    }
}

const char *elf_parse(const uint8_t *p, size_t len, struct elf_image *out)
{
    memset(out, 0, sizeof(*out));
    if (!elf_probe(p, len))
        return "not an ELF file";
    if (p[4] != 1 && p[4] != 2)
        return "damaged ELF file: neither 32 nor 64 bit";
    if (p[5] != 1)
        return "a big-endian ELF file, not for x86";
    out->is64 = p[4] == 2;
    if (len < (out->is64 ? 64u : 52u))
        return "truncated ELF file: it ends inside the header";
    if (get16(p + 18) != EM_386 && get16(p + 18) != EM_X86_64)
        return "an ELF file for another processor";
    if (get16(p + 16) != ET_EXEC && get16(p + 16) != ET_DYN)
        return "an ELF file that is not an executable (an object or core file)";
    uint64_t virt_entry = out->is64 ? get64(p + 24) : get32(p + 24);
    uint64_t phoff = out->is64 ? get64(p + 32) : get32(p + 28);
    unsigned phentsize = get16(p + (out->is64 ? 54 : 42)), phnum = get16(p + (out->is64 ? 56 : 44));
    if (phentsize < (out->is64 ? 56u : 32u) && phnum)
        return "damaged ELF file: program headers too small";
    if (!inside(phoff, (uint64_t)phnum * phentsize, len))
        return "truncated ELF file: program headers beyond its end";
    out->entry = virt_entry;
    for (unsigned i = 0; i < phnum; i++) {
        const uint8_t *h = p + phoff + (uint64_t)i * phentsize;
        uint32_t type = get32(h), flags = get32(h + (out->is64 ? 4 : 24));
        struct elf_seg s;
        uint64_t vaddr;
        if (out->is64) {
            s = (struct elf_seg){get64(h + 8), get64(h + 32), get64(h + 24), get64(h + 40)};
            vaddr = get64(h + 16);
        } else {
            s = (struct elf_seg){get32(h + 4), get32(h + 16), get32(h + 12), get32(h + 20)};
            vaddr = get32(h + 8);
        }
        if (type != PT_LOAD && type != PT_NOTE)
            continue;
        if (!inside(s.off, s.filesz, len))
            return type == PT_LOAD ? "truncated ELF file: a segment lies beyond its end"
                                   : "truncated ELF file: its notes lie beyond its end";
        if (type == PT_NOTE) {
            find_pvh_note(p + s.off, s.filesz, out);
            continue;
        }
        if (s.memsz < s.filesz)
            return "damaged ELF file: a segment larger in the file than in memory";
        if (s.paddr + s.memsz < s.paddr)
            return "damaged ELF file: a segment wraps around the address space";
        if (!s.memsz)
            continue;
        if (out->nseg == ELF_MAX_SEG)
            return "an ELF file with too many segments";
        out->seg[out->nseg++] = s;
        if ((flags & PF_X) && virt_entry >= vaddr && virt_entry - vaddr < s.memsz)
            out->entry = virt_entry - vaddr + s.paddr;
    }
    return out->nseg ? NULL : "an ELF file with nothing to load";
}

int elf_load(struct loader *l, const struct elf_image *elf, uint64_t *end)
{
    *end = 0;
    for (unsigned i = 0; i < elf->nseg; i++) {
        const struct elf_seg *s = &elf->seg[i];
        if (s->paddr + s->memsz > LOAD_4G || load_claim(l, s->paddr, s->memsz))
            return load_fail(l, NULL, "segment 0x%llx-0x%llx does not fit in the machine's memory",
                             (unsigned long long)s->paddr, (unsigned long long)(s->paddr + s->memsz));
        if (load_write(l, s->paddr, l->spec->kernel + s->off, s->filesz) ||
            load_write(l, s->paddr + s->filesz, NULL, s->memsz - s->filesz))
            return load_fail(l, NULL, "cannot write guest memory");
        if (s->paddr + s->memsz > *end)
            *end = s->paddr + s->memsz;
    }
    return 0;
}
