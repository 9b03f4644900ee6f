/*
 * ELF kernels through the Xen PVH entry (xen/include/public/arch-x86/hvm/start_info.h):
 * 32-bit protected mode, paging off, EBX -> hvm_start_info version 1.
 */
#include <stdlib.h>
#include <string.h>

#include "boot/elf.h"
#include "boot/loader.h"

#define START_MAGIC 0x336ec578
enum { START_SIZE = 56, MODULE_SIZE = 32, MEMMAP_SIZE = 24 };

static const char *module_string(const struct boot_module *m)
{
    return m->cmdline ? m->cmdline : m->name ? m->name : "";
}

int load_pvh(struct loader *l)
{
    const struct boot_spec *spec = l->spec;
    struct elf_image elf;
    const char *why = elf_parse(spec->kernel, spec->kernel_len, &elf);
    uint64_t end, base, *mod_at;
    if (why)
        return load_fail(l, NULL, "%s", why);
    if (!elf.has_pvh)
        return load_fail(l, NULL, "an ELF file without a PVH entry note and without a Multiboot header");
    if (elf.pvh_entry >= LOAD_4G)
        return load_fail(l, NULL, "damaged ELF file: PVH entry above 4 GiB");
    if (elf_load(l, &elf, &end))
        return -1;

    const char *cmdline = spec->cmdline ? spec->cmdline : "";
    size_t total = BOOT_GDT_SIZE + START_SIZE + l->nmap * MEMMAP_SIZE + strlen(cmdline) + 1;
    for (unsigned i = 0; i < spec->nmod; i++)
        total += MODULE_SIZE + strlen(module_string(&spec->mod[i])) + 1;
    if (load_claim_low(l, total, 16, LOAD_LOW_MIN, LOAD_4G, &base))
        return load_fail(l, NULL, "no room for the boot parameters");
    uint8_t *b = calloc(1, total);
    mod_at = calloc(spec->nmod + 1, sizeof(*mod_at));
    int r = -1;
    if (!b || !mod_at) {
        load_fail(l, NULL, "out of memory");
        goto out;
    }
    for (unsigned i = 0; i < spec->nmod; i++) {
        if (load_claim_low(l, spec->mod[i].len, 0x1000, end, LOAD_4G, &mod_at[i]) ||
            load_write(l, mod_at[i], spec->mod[i].data, spec->mod[i].len)) {
            load_fail(l, spec->mod[i].name, "no room for this module: more memory is needed");
            goto out;
        }
    }

    size_t info = BOOT_GDT_SIZE, map = info + START_SIZE, mods = map + l->nmap * MEMMAP_SIZE,
           str = mods + spec->nmod * MODULE_SIZE;
    load_gdt(b, false);
    put32(b + info, START_MAGIC);
    put32(b + info + 4, 1);
    put32(b + info + 12, spec->nmod);
    put64(b + info + 16, spec->nmod ? base + mods : 0);
    put64(b + info + 24, base + str);
    put64(b + info + 32, spec->rsdp);
    put64(b + info + 40, base + map);
    put32(b + info + 48, l->nmap);
    for (unsigned i = 0; i < l->nmap; i++) {
        uint8_t *e = b + map + i * MEMMAP_SIZE;
        put64(e, l->map[i].start);
        put64(e + 8, l->map[i].size);
        put32(e + 16, load_type(&l->map[i]));
    }
    memcpy(b + str, cmdline, strlen(cmdline) + 1);
    str += strlen(cmdline) + 1;
    for (unsigned i = 0; i < spec->nmod; i++) {
        const char *s = module_string(&spec->mod[i]);
        uint8_t *e = b + mods + i * MODULE_SIZE;
        put64(e, mod_at[i]);
        put64(e + 8, spec->mod[i].len);
        put64(e + 16, base + str);
        memcpy(b + str, s, strlen(s) + 1);
        str += strlen(s) + 1;
    }
    r = load_write(l, base, b, total);
    if (r)
        load_fail(l, NULL, "cannot write guest memory");
    *l->entry = (struct boot_entry){.kind = BOOT_PVH, .rip = elf.pvh_entry, .info = base + info, .gdt = base};
out:
    free(b);
    free(mod_at);
    return r;
}
