/*
 * Linux bzImage (Documentation/arch/x86/boot.rst): the 64-bit entry where the
 * kernel has one, else the 32-bit entry. The real-mode setup code is not run;
 * this loader fills the zero page in its place.
 */
#include <stdlib.h>
#include <string.h>

#include "boot/loader.h"
#include "ringer/vm.h"

/* Offsets in the setup header, which starts at 0x1f1 in the file and in the zero page alike. */
enum {
    H_SETUP_SECTS = 0x1f1,
    H_SYSSIZE = 0x1f4,
    H_BOOT_FLAG = 0x1fe,
    H_JUMP = 0x200,
    H_MAGIC = 0x202,
    H_VERSION = 0x206,
    H_TYPE_OF_LOADER = 0x210,
    H_LOADFLAGS = 0x211,
    H_CODE32_START = 0x214,
    H_RAMDISK_IMAGE = 0x218,
    H_RAMDISK_SIZE = 0x21c,
    H_CMD_LINE_PTR = 0x228,
    H_INITRD_ADDR_MAX = 0x22c,
    H_ALIGNMENT = 0x230,
    H_RELOCATABLE = 0x234,
    H_XLOADFLAGS = 0x236,
    H_CMDLINE_SIZE = 0x238,
    H_PREF_ADDRESS = 0x258,
    H_INIT_SIZE = 0x260,
    H_MAX = 0x290,
};
/* Offsets in the zero page (struct boot_params). */
enum {
    ZP_RSDP = 0x070,
    ZP_ALT_MEM_K = 0x1e0,
    ZP_E820_N = 0x1e8,
    ZP_EXT_MEM_K = 0x002,
    ZP_E820 = 0x2d0,
    ZP_SIZE = 0x1000
};
enum { LOADED_HIGH = 1, XLF_KERNEL_64 = 1 };

#define PD_COUNT 4u /* 4 GiB in 2 MiB pages */
#define TABLES_SIZE ((2 + PD_COUNT) * 0x1000u)

bool linux_probe(const uint8_t *p, size_t len)
{
    return len >= H_VERSION && get16(p + H_BOOT_FLAG) == 0xaa55 && !memcmp(p + H_MAGIC, "HdrS", 4);
}

struct header {
    uint8_t raw[H_MAX]; /* the file's first bytes, zero beyond the header's own end */
    unsigned end;
    unsigned version;
    bool is64, relocatable;
    uint64_t code_off, code_len; /* protected-mode code in the file */
    uint64_t align, pref, init_size;
    uint32_t initrd_max, cmdline_max;
};

static int parse(struct loader *l, struct header *h)
{
    const uint8_t *p = l->spec->kernel;
    uint64_t len = l->spec->kernel_len;
    if (!linux_probe(p, len))
        return load_fail(l, NULL, "not a Linux bzImage: no setup header");
    memset(h, 0, sizeof(*h));
    if (len < 0x250)
        return load_fail(l, NULL, "truncated Linux bzImage: it ends inside the setup header");
    h->end = H_MAGIC + p[H_JUMP + 1]; /* the short jump at 0x200 leads over the header */
    if (h->end > H_MAX)
        h->end = H_MAX; /* newer fields than this loader knows */
    if (h->end > len)
        return load_fail(l, NULL, "truncated Linux bzImage: it ends inside the setup header");
    if (h->end < H_INITRD_ADDR_MAX + 4)
        return load_fail(l, NULL, "damaged Linux bzImage: its setup header is too short");
    memcpy(h->raw + H_SETUP_SECTS, p + H_SETUP_SECTS, h->end - H_SETUP_SECTS);
    h->version = get16(h->raw + H_VERSION);
    if (h->version < 0x204)
        return load_fail(l, NULL, "Linux boot protocol %u.%02u is too old (2.04 needed)", h->version >> 8,
                         h->version & 0xff);
    if (!(h->raw[H_LOADFLAGS] & LOADED_HIGH))
        return load_fail(l, NULL, "a Linux zImage (loaded low) is not supported, only bzImage");

    unsigned sects = h->raw[H_SETUP_SECTS] ? h->raw[H_SETUP_SECTS] : 4;
    h->code_off = (sects + 1) * 512ull;
    h->code_len = get32(h->raw + H_SYSSIZE) * 16ull;
    if (!h->code_len)
        return load_fail(l, NULL, "damaged Linux bzImage: no protected-mode code");
    /* The size is in paragraphs, so the last one may be cut short by the file's end. */
    if (h->code_off >= len || h->code_len > len - h->code_off + 15)
        return load_fail(l, NULL, "truncated Linux bzImage: %llu bytes, its header says %llu", (unsigned long long)len,
                         (unsigned long long)(h->code_off + h->code_len));
    if (h->code_len > len - h->code_off)
        h->code_len = len - h->code_off;

    h->relocatable = h->version >= 0x205 && h->raw[H_RELOCATABLE];
    h->align = h->version >= 0x205 ? get32(h->raw + H_ALIGNMENT) : 0;
    if (h->relocatable && (!h->align || (h->align & (h->align - 1))))
        return load_fail(l, NULL, "damaged Linux bzImage: alignment 0x%llx", (unsigned long long)h->align);
    h->is64 = h->version >= 0x20c && (get16(h->raw + H_XLOADFLAGS) & XLF_KERNEL_64);
    h->cmdline_max = h->version >= 0x206 ? get32(h->raw + H_CMDLINE_SIZE) : 255;
    h->initrd_max = get32(h->raw + H_INITRD_ADDR_MAX);
    h->pref = h->version >= 0x20a ? get64(h->raw + H_PREF_ADDRESS) : 0x100000;
    /* Room the kernel needs to unpack itself; older ones do not say. */
    h->init_size = h->version >= 0x20a ? get32(h->raw + H_INIT_SIZE) : h->code_len * 5;
    if (h->init_size < h->code_len)
        h->init_size = h->code_len;
    return 0;
}

static int place_kernel(struct loader *l, const struct header *h, uint64_t *load)
{
    *load = h->relocatable || h->version >= 0x20a ? h->pref : 0x100000;
    if (*load >= 0x100000 && *load < LOAD_4G && h->init_size <= LOAD_4G - *load && !load_claim(l, *load, h->init_size))
        return 0;
    /* Relocatable means upwards: decompression moves a kernel that is loaded lower to the preferred address, whatever is there. */
    const uint64_t lowest = h->pref > 0x100000 ? h->pref : 0x100000;
    if (h->relocatable && !load_claim_low(l, h->init_size, h->align, lowest, LOAD_4G, load))
        return 0;
    return load_fail(l, NULL, "this kernel needs %llu MiB of memory at 0x%llx, the machine has not that much",
                     (unsigned long long)((h->init_size + 0xfffff) >> 20), (unsigned long long)h->pref);
}

/* All initrds one after the other: the kernel takes a concatenation. */
static int place_initrd(struct loader *l, const struct header *h, uint64_t *start, uint64_t *size)
{
    uint64_t total = 0;
    *start = *size = 0;
    for (unsigned i = 0; i < l->spec->nmod; i++) {
        total = (total + 3) & ~3ull;
        if (l->spec->mod[i].len >= LOAD_4G)
            return load_fail(l, l->spec->mod[i].name, "initrd is too large");
        total += l->spec->mod[i].len;
    }
    if (!total)
        return 0;
    if (load_claim_high(l, total, 0x1000, 0x100000, (uint64_t)h->initrd_max + 1, start))
        return load_fail(l, l->spec->mod[0].name, "no room for an initrd of %llu MiB: more memory is needed",
                         (unsigned long long)((total + 0xfffff) >> 20));
    *size = total;
    uint64_t at = *start;
    for (unsigned i = 0; i < l->spec->nmod; i++) {
        uint64_t pad = -(at - *start) & 3;
        if (load_write(l, at, NULL, pad) || load_write(l, at + pad, l->spec->mod[i].data, l->spec->mod[i].len))
            return load_fail(l, l->spec->mod[i].name, "cannot write guest memory");
        at += pad + l->spec->mod[i].len;
    }
    return 0;
}

static void identity_tables(uint8_t *t, uint64_t gpa)
{
    put64(t, (gpa + 0x1000) | 3);
    for (unsigned i = 0; i < PD_COUNT; i++)
        put64(t + 0x1000 + 8 * i, (gpa + 0x2000 + 0x1000ull * i) | 3);
    for (unsigned i = 0; i < PD_COUNT * 512; i++)
        put64(t + 0x2000 + 8 * i, ((uint64_t)i << 21) | 0x83);
}

static void fill_zero_page(struct loader *l, const struct header *h, uint8_t *zp)
{
    memcpy(zp + H_SETUP_SECTS, h->raw + H_SETUP_SECTS, h->end - H_SETUP_SECTS);
    zp[H_TYPE_OF_LOADER] = 0xff; /* no assigned id */
    uint64_t above = 0;
    for (unsigned i = 0; i < l->nmap; i++) {
        uint8_t *e = zp + ZP_E820 + 20 * i;
        put64(e, l->map[i].start);
        put64(e + 8, l->map[i].size);
        put32(e + 16, load_type(&l->map[i]));
        if (l->map[i].type == BOOT_MEM_RAM && l->map[i].start == 0x100000)
            above = l->map[i].size >> 10;
    }
    zp[ZP_E820_N] = (uint8_t)l->nmap;
    put32(zp + ZP_ALT_MEM_K, above > UINT32_MAX ? UINT32_MAX : (uint32_t)above);
    put16(zp + ZP_EXT_MEM_K, above > 0xfc00 ? 0xfc00 : (uint16_t)above);
    put64(zp + ZP_RSDP, l->spec->rsdp);
}

int load_linux(struct loader *l)
{
    struct header h;
    if (parse(l, &h))
        return -1;
    const char *cmdline = l->spec->cmdline ? l->spec->cmdline : "";
    uint64_t cmdlen = strlen(cmdline) + 1;
    if (cmdlen - 1 > h.cmdline_max)
        return load_fail(l, NULL, "the command line has %llu bytes, this kernel takes at most %u",
                         (unsigned long long)cmdlen - 1, h.cmdline_max);

    uint64_t load, zp_gpa, tables, gdt_gpa, cmd_gpa, rd_start, rd_size;
    if (load_claim_low(l, ZP_SIZE, 0x1000, LOAD_LOW_MIN, LOAD_LOW_END, &zp_gpa) ||
        load_claim_low(l, TABLES_SIZE, 0x1000, LOAD_LOW_MIN, LOAD_LOW_END, &tables) ||
        load_claim_low(l, BOOT_GDT_SIZE, 16, LOAD_LOW_MIN, LOAD_LOW_END, &gdt_gpa) ||
        load_claim_low(l, cmdlen, 16, LOAD_LOW_MIN, LOAD_LOW_END, &cmd_gpa))
        return load_fail(l, NULL, "no room for the boot parameters below 640 KiB");
    if (place_kernel(l, &h, &load) || place_initrd(l, &h, &rd_start, &rd_size))
        return -1;

    uint8_t zp[ZP_SIZE] = {0}, gdt[BOOT_GDT_SIZE];
    fill_zero_page(l, &h, zp);
    put32(zp + H_CODE32_START, (uint32_t)load);
    put32(zp + H_CMD_LINE_PTR, (uint32_t)cmd_gpa);
    put32(zp + H_RAMDISK_IMAGE, (uint32_t)rd_start);
    put32(zp + H_RAMDISK_SIZE, (uint32_t)rd_size);
    load_gdt(gdt, h.is64);
    uint8_t *t = calloc(1, TABLES_SIZE);
    if (!t)
        return load_fail(l, NULL, "out of memory");
    identity_tables(t, tables);
    int r = load_write(l, zp_gpa, zp, sizeof(zp)) || load_write(l, gdt_gpa, gdt, sizeof(gdt)) ||
            load_write(l, cmd_gpa, cmdline, cmdlen) || load_write(l, tables, t, TABLES_SIZE) ||
            load_write(l, load, l->spec->kernel + h.code_off, h.code_len);
    free(t);
    if (r)
        return load_fail(l, NULL, "cannot write guest memory");
    *l->entry = (struct boot_entry){.kind = BOOT_LINUX,
                                    .long_mode = h.is64,
                                    .rip = h.is64 ? load + 0x200 : load,
                                    .cr3 = tables,
                                    .info = zp_gpa,
                                    .gdt = gdt_gpa};
    return 0;
}
