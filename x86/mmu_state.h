/*
 * Software TLB: state embedded in struct x86_cpu (see x86/mmu.h for the functions).
 *
 * In a nutshell: a cache of linear page -> host pointer, looked up in one slot, with
 * a second one for what another page has displaced from it (a miss looks there before it walks, and exchanges the two). It is three
 * contexts deep because the same page has other rights for user accesses,
 * supervisor accesses, and supervisor accesses with SMAP suspended
 * (RFLAGS.AC = 1). An entry's tag is the linear page address with the current
 * generation in its low 12 bits, so that a full flush is one increment and a
 * page-crossing or stale access simply misses. Pages in which a data breakpoint
 * is armed are never cached, so the fast path need not look at DR7.
 */
#ifndef X86_MMU_STATE_H
#define X86_MMU_STATE_H

#include <stdbool.h>
#include <stdint.h>

#define X86_TLB_BITS 11
#define X86_TLB_SIZE (1u << X86_TLB_BITS)
#define X86_ITLB_SIZE 1024u
#define X86_TLB_OTHER(slot) ((slot) ^ X86_TLB_SIZE / 2)
#define X86_ITLB_OTHER(slot) ((slot) ^ X86_ITLB_SIZE / 2)
#define X86_LARGE_FILTER_BITS 4096u

enum x86_tlb_ctx { X86_TLB_USER, X86_TLB_SUPER, X86_TLB_SUPER_AC, X86_TLB_NCTX };

struct x86_tlb_entry {
    uint64_t tag_r, tag_w; /* linear page | generation; 0 = never matches */
    uint64_t addend;       /* host address = linear address + addend */
    uint64_t gpa;          /* guest-physical page address */
};

/* Instruction-fetch translations; only RAM and ROM (anything else is fetched bytewise, uncached). */
struct x86_itlb_entry {
    uint64_t tag; /* linear page | generation */
    uint64_t gpa; /* guest-physical page address */
    const uint8_t *host;
};

/* What happened to cached translations, in order, for engines that keep some elsewhere (in a host address space, say). Who has seen
 * events up to seq finds the later ones in ev[n % X86_TLB_EVENTS], or, if more than X86_TLB_EVENTS have come, must forget everything. */
#define X86_TLB_EVENTS 64u
enum x86_tlb_event_kind {
    X86_TLB_EV_ALL,     /* everything, global pages included; guest-physical addresses may mean something else */
    X86_TLB_EV_PCID,    /* all but global pages of one PCID (arg), or of everything without PCIDs */
    X86_TLB_EV_PAGE,    /* the page of linear address arg, in every address space */
    X86_TLB_EV_UNWRITE, /* guest-physical page arg may not be written any more without looking at GPA_PF_CODE */
};
struct x86_tlb_events {
    uint64_t seq;
    struct x86_tlb_event {
        uint64_t kind, arg;
    } ev[X86_TLB_EVENTS];
};

/* Which linear addresses may have fragments of large pages cached, for INVLPG: a hashed set of 4 MiB regions for
 * 2 and 4 MiB pages, and one range for 1 GiB pages (empty: lo > hi). */
struct x86_large {
    uint64_t filter[X86_LARGE_FILTER_BITS / 64];
    uint64_t huge_lo, huge_hi;
};

/* Translations of a PCID that is not the current one, set aside by a MOV to CR3 that leaves it: tags are page addresses, no generation. */
#define X86_PARKED_PCIDS 6u
#define X86_PARKED_PAGES 96u
#define X86_PARKED_CODE 48u
struct x86_parked {
    bool used;
    uint16_t pcid, n, ncode;
    uint64_t age;
    struct {
        uint16_t ctx, slot;
        struct x86_tlb_entry e;
    } page[X86_PARKED_PAGES];
    struct {
        uint16_t user, slot;
        struct x86_itlb_entry e;
    } code[X86_PARKED_CODE];
    struct x86_large large;
};

struct x86_mmu {
    struct x86_tlb_entry *cur; /* = tlb[context of CPL/AC/SMAP]; kept by x86_mmu_update_ctx */
    uint64_t gen;              /* 1..4095, never 0 */
    uint64_t version;          /* counts flushes, of a page or all: what was found by linear address must be looked up again */
    /* For caches derived from this one: hard counts like version, except flushes that keep global pages; version was page_version
     * after the last flush that concerned nothing but the 4 KiB page flushed_page. */
    uint64_t hard, page_version;
    const struct gpa_map *map; /* current guest-physical map; whoever replaces it flushes the TLB */
    /* The RAM range last used, so that page walks need not search the map. Emptied by a full flush. */
    uint64_t ram_start, ram_size;
    uint8_t *ram_host;
    uint32_t *ram_flags;
    uint32_t page_bit;         /* this vCPU's bit in gpa page flags (GPA_PF_WRITER) */
    uint64_t flushes, walks;   /* statistics */
    /* Counts of flushes by kind, for engines that keep translations elsewhere: everything, all but global pages, one page (the last). */
    uint64_t all_flushes, nonglobal_flushes, page_flushes, flushed_page;
    struct x86_large large[2]; /* [1]: of global pages */
    /* Entries of global pages, which a MOV to CR3 keeps, and of others; bits may be set for entries that are gone. */
    uint64_t global[X86_TLB_NCTX][X86_TLB_SIZE / 64], iglobal[2][X86_ITLB_SIZE / 64];
    uint64_t local[X86_TLB_NCTX][X86_TLB_SIZE / 64], ilocal[2][X86_ITLB_SIZE / 64];
    struct x86_tlb_events events;
    struct x86_parked parked[X86_PARKED_PCIDS];
    uint64_t parkings;
    /* By the last flush that kept global pages: the age under which what it took was set aside, and that of what has come back; 0: nothing. For
     * caches derived from this one that set theirs aside, too: an age names one set of translations, and never comes back when they were flushed. */
    uint64_t parked_as, unparked;
    struct x86_tlb_entry tlb[X86_TLB_NCTX][X86_TLB_SIZE];
    struct x86_itlb_entry itlb[2][X86_ITLB_SIZE]; /* [user?] */
};

#endif
