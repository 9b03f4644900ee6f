/*
 * The guest-physical map: sorted, non-overlapping, immutable ranges. A change
 * makes a new map (gpa_begin, gpa_add..., gpa_commit); readers keep the old one
 * until every vCPU has passed a safe point (core/vm.c does the swap under
 * vm_exclusive). Port I/O is a second instance.
 */
#ifndef RINGER_GPA_H
#define RINGER_GPA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gpa_kind { GPA_RAM, GPA_ROM, GPA_IO, GPA_RESERVED };

struct dev;

/* Per-page flags of RAM and ROM, one atomic word per 4 KiB page. */
#define GPA_PF_CODE 0x80000000u       /* some engine holds decoded or translated code of this page */
#define GPA_PF_WRITER(i) (1u << ((i) % 31)) /* vCPU i may hold a write translation of this page */

struct gpa_range {
    uint64_t start, size; /* bytes; RAM and ROM: multiples of 4096 */
    uint8_t kind;         /* enum gpa_kind */
    bool nolock;          /* GPA_IO: the device locks for itself; no VM device lock is taken */
    bool percpu;          /* GPA_IO: answered by the accessing vCPU's own local APIC (vcpu->lapic), dev is unused */
    uint8_t *host;        /* RAM, ROM */
    uint32_t *page_flags; /* RAM, ROM: one word per page, shared by all maps over the same memory */
    uint64_t host_off;    /* RAM: offset in the VM's RAM file (hosts that map it elsewhere: KVM, sandbox).
                             GPA_IO: offset in the bank of the range's first byte (0 unless the range was split) */
    struct dev *dev;      /* GPA_IO */
    uint32_t bank;        /* GPA_IO: which of the device's register banks (BAR number etc.) */
    const char *name;     /* static string, for statistics and trace */
    uint64_t *counters;   /* GPA_IO: [0] reads, [1] writes; atomic relaxed; may be NULL */
};

struct gpa_map {
    unsigned n, cap;
    uint64_t limit; /* addresses at or above are unmapped: 65536 for ports, 1 << MAXPHYADDR for memory */
    struct gpa_range *r;
};

/* The range that holds addr, or NULL. O(log n). */
const struct gpa_range *gpa_find(const struct gpa_map *m, uint64_t addr);

/* Host address of [addr, addr + len) if it lies inside one RAM range (or ROM when !write), else NULL.
 * Bounds-checked, overflow-safe. The caller that writes must call vm_ram_written (core) for pages with GPA_PF_CODE. */
void *gpa_host(const struct gpa_map *m, uint64_t addr, uint64_t len, bool write);

/* The flag word of the page of addr, or NULL if addr is no RAM or ROM. */
uint32_t *gpa_page_flags(const struct gpa_map *m, uint64_t addr);

/* Building. gpa_begin copies src (NULL: empty) into a new private map. gpa_add replaces whatever it overlaps
 * (later wins; partial overlaps are split). gpa_del removes. Errors: -1 when out of memory, wraps, beyond limit,
 * or unaligned RAM. gpa_free frees the map, not the memory or devices behind it. */
struct gpa_map *gpa_begin(const struct gpa_map *src, uint64_t limit);
int gpa_add(struct gpa_map *m, const struct gpa_range *r);
int gpa_del(struct gpa_map *m, uint64_t start, uint64_t size);
void gpa_free(struct gpa_map *m);

#endif
