/* Choosing a loader, the guest's memory map, and the first processor's registers. */
#include "boot/boot.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/elf.h"
#include "boot/loader.h"
#include "ringer/vm.h"
#include "x86/cpu.h"
#include "x86/mmu.h"

int load_fail(struct loader *l, const char *file, const char *fmt, ...)
{
    char msg[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    if (!file)
        file = l->spec->name ? l->spec->name : "kernel";
    snprintf(l->err, l->errcap, "%s: %s", file, msg);
    return -1;
}

/* --- guest memory ------------------------------------------------------- */

int load_write(struct loader *l, uint64_t gpa, const void *data, uint64_t len)
{
    const uint8_t *src = data;
    while (len) {
        const struct gpa_range *r = gpa_find(l->vm->mem, gpa);
        if (!r || (r->kind != GPA_RAM && r->kind != GPA_ROM))
            return -1;
        uint64_t n = r->size - (gpa - r->start);
        if (n > len)
            n = len;
        uint8_t *dst = r->host + (gpa - r->start);
        if (src)
            memcpy(dst, src, n);
        else
            memset(dst, 0, n);
        if (r->kind == GPA_RAM)
            vm_ram_written(l->vm, NULL, gpa, n);
        src = src ? src + n : NULL;
        gpa += n;
        len -= n;
    }
    return 0;
}

static int map_add(struct loader *l, uint64_t start, uint64_t end, uint32_t type)
{
    if (start >= end)
        return 0;
    if (l->nmap == LOAD_MAX_MAP)
        return load_fail(l, NULL, "the machine's memory map has too many parts");
    l->map[l->nmap++] = (struct boot_region){start, end - start, type};
    return 0;
}

/* Remove [start, end) from the map, splitting what it cuts. */
static int map_cut(struct loader *l, uint64_t start, uint64_t end)
{
    for (unsigned i = 0; i < l->nmap; i++) {
        struct boot_region *r = &l->map[i];
        uint64_t rend = r->start + r->size;
        if (start >= rend || end <= r->start)
            continue;
        if (end < rend && map_add(l, end, rend, r->type))
            return -1;
        r->size = start > r->start ? start - r->start : 0;
    }
    return 0;
}

static int by_start(const void *a, const void *b)
{
    uint64_t x = ((const struct boot_region *)a)->start, y = ((const struct boot_region *)b)->start;
    return x < y ? -1 : x > y;
}

/* RAM as the machine has it, less the legacy hole, less what the board reserves. */
static int build_map(struct loader *l)
{
    const struct gpa_map *mem = l->vm->mem;
    for (unsigned i = 0; i < mem->n; i++) {
        const struct gpa_range *r = &mem->r[i];
        if (r->kind != GPA_RAM)
            continue;
        struct boot_region *last = l->nmap ? &l->map[l->nmap - 1] : NULL;
        if (last && last->start + last->size == r->start)
            last->size += r->size;
        else if (map_add(l, r->start, r->start + r->size, BOOT_MEM_RAM))
            return -1;
    }
    if (map_cut(l, LOAD_LOW_END, 0x100000) || map_add(l, LOAD_LOW_END, 0xa0000, BOOT_MEM_RESERVED) ||
        map_add(l, 0xe0000, 0xf0000, BOOT_MEM_RESERVED) || map_add(l, 0xf0000, 0x100000, LOAD_MEM_ROM))
        return -1;
    for (unsigned i = 0; i < l->spec->nreserved; i++) {
        const struct boot_region *r = &l->spec->reserved[i];
        if (r->start + r->size < r->start)
            return load_fail(l, NULL, "a reserved memory range wraps");
        if (map_cut(l, r->start, r->start + r->size) || map_add(l, r->start, r->start + r->size, r->type))
            return -1;
    }
    unsigned n = 0;
    for (unsigned i = 0; i < l->nmap; i++)
        if (l->map[i].size)
            l->map[n++] = l->map[i];
    l->nmap = n;
    qsort(l->map, n, sizeof(l->map[0]), by_start);
    return 0;
}

/* The claim that overlaps [start, end), or -1. */
static int overlap(const struct loader *l, uint64_t start, uint64_t end)
{
    for (unsigned i = 0; i < l->nclaims; i++)
        if (start < l->claim[i].end && end > l->claim[i].start)
            return (int)i;
    return -1;
}

int load_claim(struct loader *l, uint64_t start, uint64_t len)
{
    uint64_t end = start + len, covered = start;
    if (end < start || l->nclaims == LOAD_MAX_CLAIMS || overlap(l, start, end) >= 0)
        return -1;
    for (unsigned i = 0; i < l->nmap && covered < end; i++) {
        const struct boot_region *r = &l->map[i];
        bool usable = r->type == BOOT_MEM_RAM || r->type == LOAD_MEM_ROM;
        if (usable && covered >= r->start && covered < r->start + r->size)
            covered = r->start + r->size;
    }
    if (covered < end)
        return -1;
    l->claim[l->nclaims].start = start;
    l->claim[l->nclaims++].end = end;
    return 0;
}

uint32_t load_type(const struct boot_region *r)
{
    return r->type == LOAD_MEM_ROM ? BOOT_MEM_RESERVED : r->type;
}

int load_claim_low(struct loader *l, uint64_t len, uint64_t align, uint64_t min, uint64_t max, uint64_t *start)
{
    for (unsigned i = 0; i < l->nmap; i++) {
        const struct boot_region *r = &l->map[i];
        uint64_t end = r->start + r->size < max ? r->start + r->size : max;
        if (r->type != BOOT_MEM_RAM)
            continue;
        uint64_t at = r->start > min ? r->start : min;
        for (;;) {
            uint64_t up = (at + align - 1) & ~(align - 1);
            if (up < at || up > end || len > end - up)
                break;
            int c = overlap(l, up, up + len);
            if (c < 0) {
                *start = up;
                return load_claim(l, up, len);
            }
            at = l->claim[c].end;
        }
    }
    return -1;
}

int load_claim_high(struct loader *l, uint64_t len, uint64_t align, uint64_t min, uint64_t max, uint64_t *start)
{
    for (unsigned i = l->nmap; i-- > 0;) {
        const struct boot_region *r = &l->map[i];
        uint64_t top = r->start + r->size < max ? r->start + r->size : max, low = r->start > min ? r->start : min;
        if (r->type != BOOT_MEM_RAM)
            continue;
        while (top >= len) {
            uint64_t at = (top - len) & ~(align - 1);
            if (at < low)
                break;
            int c = overlap(l, at, at + len);
            if (c < 0) {
                *start = at;
                return load_claim(l, at, len);
            }
            top = l->claim[c].start;
        }
    }
    return -1;
}

void load_gdt(uint8_t gdt[BOOT_GDT_SIZE], bool long_mode)
{
    memset(gdt, 0, BOOT_GDT_SIZE);
    put64(gdt + BOOT_CS, long_mode ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull);
    put64(gdt + BOOT_DS, 0x00cf93000000ffffull);
    put64(gdt + BOOT_TR, 0x00008b0000000067ull);
}

/* The BIOS data area as a BIOS leaves it: kernels of every kind look there for the serial port and the end of low memory. */
static int load_bda(struct loader *l)
{
    uint8_t bda[0x100] = {0};
    put16(bda, 0x3f8);                   /* COM1 */
    put16(bda + 0x10, 1u << 9 | 2);      /* equipment: one serial port, a coprocessor */
    put16(bda + 0x0e, LOAD_LOW_END >> 4);  /* segment of the extended BIOS data area */
    put16(bda + 0x13, LOAD_LOW_END >> 10); /* KiB of conventional memory */
    if (load_write(l, 0x400, bda, sizeof(bda)))
        return load_fail(l, NULL, "the machine has no memory for the BIOS data area");
    return 0;
}

/* --- what is it? ---------------------------------------------------------- */

const char *boot_kind_name(enum boot_kind k)
{
    static const char *const name[] = {"unknown", "Linux bzImage", "PVH ELF", "Multiboot", "flat"};
    return (unsigned)k < sizeof(name) / sizeof(name[0]) ? name[k] : "unknown";
}

enum boot_kind boot_guess(const uint8_t *image, size_t len)
{
    struct elf_image elf;
    bool is_elf = elf_probe(image, len), pvh = is_elf && !elf_parse(image, len, &elf) && elf.has_pvh;
    if (linux_probe(image, len))
        return BOOT_LINUX;
    /* An image with both headers: a 64-bit ELF is no Multiboot executable. */
    if (pvh && elf.is64)
        return BOOT_PVH;
    if (multiboot_probe(image, len, NULL))
        return BOOT_MULTIBOOT;
    if (is_elf) /* without the note, or broken: the PVH loader says which */
        return BOOT_PVH;
    if (len >= 512 && image[510] == 0x55 && image[511] == 0xaa)
        return BOOT_FLAT;
    return BOOT_AUTO;
}

int boot_load(struct vm *vm, const struct boot_spec *spec, struct boot_entry *entry, char *err, size_t errcap)
{
    struct loader l = {.vm = vm, .spec = spec, .entry = entry, .err = err, .errcap = errcap};
    enum boot_kind kind = spec->kind;
    *entry = (struct boot_entry){0};
    if (!spec->kernel_len)
        return load_fail(&l, NULL, "the file is empty");
    if (kind == BOOT_AUTO && spec->flat_at)
        kind = BOOT_FLAT;
    if (kind == BOOT_AUTO)
        kind = boot_guess(spec->kernel, spec->kernel_len);
    if (kind == BOOT_AUTO)
        return load_fail(&l, NULL,
                         "not a kernel this machine can boot: no Linux bzImage, ELF, Multiboot or boot sector");
    if (build_map(&l) || load_bda(&l))
        return -1;
    entry->kind = kind;
    switch (kind) {
    case BOOT_LINUX: return load_linux(&l);
    case BOOT_PVH: return load_pvh(&l);
    case BOOT_MULTIBOOT: return load_multiboot(&l);
    case BOOT_FLAT: return load_flat(&l);
    default: return load_fail(&l, NULL, "unknown kind of image asked for");
    }
}

/* --- registers --------------------------------------------------------------- */

#define AR_CODE (0xb | X86_AR_S | X86_AR_P)
#define AR_DATA (0x3 | X86_AR_S | X86_AR_P)
#define MTRR_ON_WB 0x806 /* IA32_MTRR_DEF_TYPE: enabled, write-back, as firmware leaves RAM */

static void start_real(const struct boot_entry *e, struct x86_cpu *c)
{
    for (int i = 0; i < X86_NSEG; i++)
        c->seg[i] = (struct x86_seg){.limit = 0xffff, .ar = AR_DATA};
    uint16_t cs = (uint16_t)((e->rip & 0xf0000) >> 4);
    c->seg[X86_CS] = (struct x86_seg){.sel = cs, .base = (uint64_t)cs << 4, .limit = 0xffff, .ar = AR_CODE};
    c->rip = e->rip & 0xffff;
    c->idtr = (struct x86_dtr){.base = 0, .limit = 0x3ff};
    c->gpr[X86_RDX] = 0x80; /* first hard disk */
    c->gpr[X86_RSP] = e->info;
    c->mode = X86_MODE_16;
}

static void start_protected(const struct boot_entry *e, struct x86_cpu *c)
{
    for (int i = 0; i < X86_NSEG; i++)
        c->seg[i] = (struct x86_seg){.sel = BOOT_DS, .limit = 0xffffffff, .ar = AR_DATA | X86_AR_DB | X86_AR_G};
    c->seg[X86_CS] = (struct x86_seg){
        .sel = BOOT_CS, .limit = 0xffffffff, .ar = AR_CODE | X86_AR_G | (e->long_mode ? X86_AR_L : X86_AR_DB)};
    c->tr = (struct x86_seg){.sel = BOOT_TR, .limit = 0x67, .ar = 0xb | X86_AR_P};
    c->ldtr = (struct x86_seg){.limit = 0xffff};
    c->gdtr = (struct x86_dtr){.base = e->gdt, .limit = BOOT_GDT_SIZE - 1};
    c->idtr = (struct x86_dtr){0};
    c->cr0 = X86_CR0_PE | X86_CR0_ET;
    c->rip = e->rip;
    c->mode = X86_MODE_32;
    switch (e->kind) {
    case BOOT_LINUX: c->gpr[X86_RSI] = e->info; break;
    case BOOT_MULTIBOOT: c->gpr[X86_RAX] = 0x2badb002; /* fall through */
    default: c->gpr[X86_RBX] = e->info;
    }
    if (e->long_mode) {
        c->cr0 |= X86_CR0_PG;
        c->cr3 = e->cr3;
        c->cr4 = X86_CR4_PAE;
        c->efer = X86_EFER_LME | X86_EFER_LMA;
        c->mode = X86_MODE_64;
    }
}

void boot_start(const struct boot_entry *e, struct x86_cpu *c)
{
    memset(c->gpr, 0, sizeof(c->gpr));
    x86_set_rflags(c, X86_FL_1);
    c->cpl = 0;
    c->mtrr_deftype = MTRR_ON_WB;
    c->activity = X86_RUNNING;
    if (e->kind == BOOT_FLAT)
        start_real(e, c);
    else
        start_protected(e, c);
    x86_tlb_flush_all(c);
    x86_mmu_update_ctx(c);
}
