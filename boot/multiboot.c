/*
 * Multiboot 1 (specification 0.6.96): 32-bit ELF executables and images that
 * carry their load addresses in the header (the a.out kludge).
 */
#include <stdlib.h>
#include <string.h>

#include "boot/elf.h"
#include "boot/loader.h"

#define MB_MAGIC 0x1badb002u
#define MB_SEARCH 8192u
#define LOADER_NAME "ringer"
enum { MB_HAS_ADDRESSES = 1 << 16, MB_REQUIRED = 0xffff, MB_KNOWN = 7 /* page-aligned modules, memory, video */ };
enum { INFO_MEMORY = 1, INFO_CMDLINE = 4, INFO_MODS = 8, INFO_MMAP = 64, INFO_LOADER = 512 };
enum { INFO_SIZE = 120, MOD_SIZE = 16, MMAP_SIZE = 24 };

bool multiboot_probe(const uint8_t *p, size_t len, size_t *header)
{
    for (size_t i = 0; i + 12 <= len && i + 12 <= MB_SEARCH; i += 4) {
        if (get32(p + i) != MB_MAGIC || (uint32_t)(MB_MAGIC + get32(p + i + 4) + get32(p + i + 8)))
            continue;
        if (header)
            *header = i;
        return true;
    }
    return false;
}

static int load_by_header(struct loader *l, size_t hdr, uint64_t *entry, uint64_t *end)
{
    const uint8_t *p = l->spec->kernel;
    uint64_t len = l->spec->kernel_len;
    if (hdr + 32 > len)
        return load_fail(l, NULL, "truncated Multiboot image: it ends inside its header");
    uint64_t header_addr = get32(p + hdr + 12), load = get32(p + hdr + 16), load_end = get32(p + hdr + 20),
             bss_end = get32(p + hdr + 24);
    *entry = get32(p + hdr + 28);
    if (load > header_addr || header_addr - load > hdr)
        return load_fail(l, NULL, "damaged Multiboot image: its header is not where the header says");
    uint64_t off = hdr - (header_addr - load);
    if (load_end && load_end < load)
        return load_fail(l, NULL, "damaged Multiboot image: it ends before it begins");
    uint64_t n = load_end ? load_end - load : len - off;
    if (n > len - off)
        return load_fail(l, NULL, "truncated Multiboot image: %llu bytes, its header says %llu",
                         (unsigned long long)len, (unsigned long long)(off + n));
    *end = load + n;
    if (bss_end && bss_end < *end)
        return load_fail(l, NULL, "damaged Multiboot image: its zeroed part begins after its end");
    if (bss_end)
        *end = bss_end;
    if (*end == load || *end > LOAD_4G || load_claim(l, load, *end - load))
        return load_fail(l, NULL, "0x%llx-0x%llx does not fit in the machine's memory", (unsigned long long)load,
                         (unsigned long long)*end);
    if (load_write(l, load, p + off, n) || load_write(l, load + n, NULL, *end - load - n))
        return load_fail(l, NULL, "cannot write guest memory");
    return 0;
}

static int load_by_elf(struct loader *l, uint64_t *entry, uint64_t *end)
{
    struct elf_image elf;
    const char *why = elf_parse(l->spec->kernel, l->spec->kernel_len, &elf);
    if (why)
        return load_fail(l, NULL, "%s", why);
    if (elf.is64)
        return load_fail(l, NULL, "a 64-bit ELF file with a Multiboot header, which needs a 32-bit one");
    *entry = elf.entry;
    return elf_load(l, &elf, end);
}

/* Strings the kernel gets: a command line begins with the file's name, as boot loaders do it. */
static size_t put_string(uint8_t *at, const char *name, const char *args)
{
    size_t n = strlen(name), a = args ? strlen(args) : 0;
    if (at) {
        memcpy(at, name, n);
        at[n] = a ? ' ' : 0;
        if (a)
            memcpy(at + n + 1, args, a + 1);
    }
    return n + 1 + (a ? a + 1 : 0);
}

static size_t put_module_string(uint8_t *at, const struct boot_module *m)
{
    return put_string(at, m->cmdline ? m->cmdline : m->name ? m->name : "", NULL);
}

static void put_memory_map(const struct loader *l, uint8_t *info, uint8_t *map)
{
    uint64_t lower = 0, upper = 0;
    for (unsigned i = 0; i < l->nmap; i++) {
        uint8_t *e = map + i * MMAP_SIZE;
        put32(e, MMAP_SIZE - 4); /* the size field does not count itself */
        put64(e + 4, l->map[i].start);
        put64(e + 12, l->map[i].size);
        put32(e + 20, load_type(&l->map[i]));
        if (l->map[i].type == BOOT_MEM_RAM && l->map[i].start == 0)
            lower = l->map[i].size >> 10;
        if (l->map[i].type == BOOT_MEM_RAM && l->map[i].start == 0x100000)
            upper = l->map[i].size >> 10;
    }
    put32(info + 4, lower < 640 ? (uint32_t)lower : 640);
    put32(info + 8, upper < UINT32_MAX ? (uint32_t)upper : UINT32_MAX);
}

int load_multiboot(struct loader *l)
{
    const struct boot_spec *spec = l->spec;
    size_t hdr;
    uint64_t entry, end, base;
    if (!multiboot_probe(spec->kernel, spec->kernel_len, &hdr))
        return load_fail(l, NULL, "no Multiboot header in its first 8 KiB");
    uint32_t flags = get32(spec->kernel + hdr + 4);
    if (flags & MB_REQUIRED & ~MB_KNOWN)
        return load_fail(l, NULL, "Multiboot image asks for features nobody knows (flags 0x%x)", flags);
    if (flags & MB_HAS_ADDRESSES ? load_by_header(l, hdr, &entry, &end) : load_by_elf(l, &entry, &end))
        return -1;

    const char *name = spec->name ? spec->name : "kernel";
    size_t info = BOOT_GDT_SIZE, map = info + INFO_SIZE, mods = map + l->nmap * MMAP_SIZE,
           str = mods + spec->nmod * MOD_SIZE,
           total = str + put_string(NULL, name, spec->cmdline) + sizeof(LOADER_NAME);
    for (unsigned i = 0; i < spec->nmod; i++)
        total += put_module_string(NULL, &spec->mod[i]);
    if (load_claim_low(l, total, 16, LOAD_LOW_MIN, LOAD_4G, &base))
        return load_fail(l, NULL, "no room for the boot parameters");
    uint8_t *b = calloc(1, total);
    if (!b)
        return load_fail(l, NULL, "out of memory");
    load_gdt(b, false);
    put32(b + info, INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER);
    put_memory_map(l, b + info, b + map);
    put32(b + info + 20, spec->nmod);
    put32(b + info + 24, (uint32_t)(base + mods));
    put32(b + info + 44, l->nmap * MMAP_SIZE);
    put32(b + info + 48, (uint32_t)(base + map));
    put32(b + info + 16, (uint32_t)(base + str));
    str += put_string(b + str, name, spec->cmdline);
    put32(b + info + 64, (uint32_t)(base + str));
    str += put_string(b + str, LOADER_NAME, NULL);

    int r = 0;
    for (unsigned i = 0; i < spec->nmod && !r; i++) {
        uint64_t at;
        if (load_claim_low(l, spec->mod[i].len, 0x1000, end, LOAD_4G, &at) ||
            load_write(l, at, spec->mod[i].data, spec->mod[i].len)) {
            r = load_fail(l, spec->mod[i].name, "no room for this module: more memory is needed");
            break;
        }
        uint8_t *e = b + mods + i * MOD_SIZE;
        put32(e, (uint32_t)at);
        put32(e + 4, (uint32_t)(at + spec->mod[i].len));
        put32(e + 8, (uint32_t)(base + str));
        str += put_module_string(b + str, &spec->mod[i]);
    }
    if (!r && load_write(l, base, b, total))
        r = load_fail(l, NULL, "cannot write guest memory");
    free(b);
    *l->entry = (struct boot_entry){.kind = BOOT_MULTIBOOT, .rip = entry, .info = base + info, .gdt = base};
    return r;
}
