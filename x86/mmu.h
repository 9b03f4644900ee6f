/*
 * Paging and the software TLB (SDM Vol. 3A, chapter 4).
 *
 * Locking: everything here runs on the vCPU's own thread. Page tables are read
 * and A/D bits set atomically, as other vCPUs do the same.
 *
 * Errors: functions return X86_OK, or X86_FAULT with cpu->exc filled in and no
 * other architectural change (A bits of upper levels may have been set, as on silicon).
 */
#ifndef X86_MMU_H
#define X86_MMU_H

#include "x86/cpu.h"

/* Result of a translation. */
struct x86_xlat {
    uint64_t gpa;
    uint64_t page_size; /* bytes: 4 KiB, 2 MiB, 4 MiB, 1 GiB */
    bool writable;      /* a write with the same privilege would succeed and D is already set */
    bool global;
};

/* Translate one linear address. access: enum x86_access. user: the access is made with CPL 3 rights
 * (implicit supervisor accesses to GDT/IDT/TSS pass false at any CPL). Sets A (and D for writes).
 * With paging off the result is the address itself (truncated to 32 bits outside long mode by the caller). */
int x86_walk(struct x86_cpu *c, uint64_t lin, int access, bool user, bool implicit, struct x86_xlat *out);

/* As x86_walk but without any side effect and without raising: returns false if not mapped. For debuggers, traces. */
bool x86_walk_peek(const struct x86_cpu *c, uint64_t lin, uint64_t *gpa);

/* Linear memory access of up to 4096 bytes with the current CPL's rights (x86_lin_*),
 * or with supervisor rights whatever CPL is (x86_sys_*: descriptor tables, TSS; SDM 4.6 "implicit").
 * May cross a page: both pages are checked before anything is written, so a faulting
 * write has changed nothing. MMIO is performed through ops->io in naturally aligned pieces
 * of at most 8 bytes. Alignment checking (#AC) is done by the caller. */
int x86_lin_read(struct x86_cpu *c, uint64_t lin, void *buf, uint32_t len);
int x86_lin_write(struct x86_cpu *c, uint64_t lin, const void *buf, uint32_t len);
int x86_sys_read(struct x86_cpu *c, uint64_t lin, void *buf, uint32_t len);
int x86_sys_write(struct x86_cpu *c, uint64_t lin, const void *buf, uint32_t len);
/* Check that a later access would succeed (both pages), raising as it would. */
int x86_lin_probe(struct x86_cpu *c, uint64_t lin, uint32_t len, int access);

/* A single RAM page for a locked or repeated access: translate for access and return the host address in
 * *host, or NULL in *host with X86_OK if the page is not plain RAM (MMIO, ROM for write) or, for writes,
 * holds translated code: then use x86_lin_*. Valid until the next call that can flush. */
int x86_lin_host(struct x86_cpu *c, uint64_t lin, int access, void **host);

/* Guest-physical accesses that bypass paging. RAM and ROM directly, else ops->io. Never fault. */
void x86_phys_read(struct x86_cpu *c, uint64_t gpa, void *buf, uint32_t len);
void x86_phys_write(struct x86_cpu *c, uint64_t gpa, const void *buf, uint32_t len);

/* Instruction fetch: translate the page of lin for execution. *host is the start of the page in host memory,
 * or NULL if the page is not RAM/ROM (then fetch with x86_fetch_bytes). *gpa is the page's address. */
int x86_fetch_page(struct x86_cpu *c, uint64_t lin, const uint8_t **host, uint64_t *gpa);

/* TLB maintenance; semantics of the instruction or register write they serve (SDM Vol. 3A, 4.10.4). */
void x86_tlb_flush_all(struct x86_cpu *c);
void x86_tlb_flush_nonglobal(struct x86_cpu *c); /* MOV to CR3, with CR4.PGE */
void x86_tlb_flush_page(struct x86_cpu *c, uint64_t lin); /* INVLPG */
/* MOV to CR3 with CR4.PCIDE: from one PCID to another. keep: bit 63 was set, what is known of the new one stays (x86/mmu_pcid.c). */
void x86_tlb_switch_pcid(struct x86_cpu *c, unsigned from, unsigned to, bool keep);
/* Forget what was set aside of a PCID that is not the current one; of all of them. */
void x86_tlb_forget_pcid(struct x86_cpu *c, unsigned pcid);
void x86_tlb_forget_pcids(struct x86_cpu *c);
/* Drop write rights to one guest-physical page from the TLB (it now holds translated code). */
void x86_tlb_unwrite(struct x86_cpu *c, uint64_t gpa_page);
/* Recompute mmu.cur after CPL, RFLAGS.AC, CR0/CR4 changes. Cheap; call it from every place that changes them. */
void x86_mmu_update_ctx(struct x86_cpu *c);

/* Add to the event log (mmu_state.h). The functions above do it themselves, except x86_tlb_flush_nonglobal, whose callers say which PCID. */
void x86_tlb_event(struct x86_cpu *c, enum x86_tlb_event_kind kind, uint64_t arg);

/* Look at the translation of a linear address in 64-bit mode without any effect: no A or D bit is set, no fault is recorded, nothing
 * is cached, page tables in device memory are not read. False: not present, reserved bits, or not to be had that way. */
struct x86_look {
    uint64_t gpa;             /* of the byte */
    uint64_t page_size;       /* bytes */
    bool user, write, nx;     /* combined rights of all levels */
    bool accessed, dirty;     /* A at all levels; D of the leaf */
    bool global;
};
bool x86_walk_look(const struct x86_cpu *c, uint64_t lin, struct x86_look *out);

void x86_mmu_init(struct x86_cpu *c, const struct gpa_map *map, unsigned vcpu_index);

/* Fast path: host address for an access of size bytes at lin, or 0 on a miss. One compare covers page, crossing, rights and generation. */
static inline uint64_t x86_tlb_host_r(const struct x86_cpu *c, uint64_t lin, unsigned size)
{
    const struct x86_tlb_entry *e = &c->mmu.cur[(lin >> 12) & (X86_TLB_SIZE - 1)];
    if (__builtin_expect(((((lin + size - 1) & ~0xfffull) | c->mmu.gen) == e->tag_r), 1))
        return lin + e->addend;
    return 0;
}
static inline uint64_t x86_tlb_host_w(const struct x86_cpu *c, uint64_t lin, unsigned size)
{
    const struct x86_tlb_entry *e = &c->mmu.cur[(lin >> 12) & (X86_TLB_SIZE - 1)];
    if (__builtin_expect(((((lin + size - 1) & ~0xfffull) | c->mmu.gen) == e->tag_w), 1))
        return lin + e->addend;
    return 0;
}

#endif
