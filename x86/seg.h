/*
 * Segmentation inside the x86 layer: descriptors, checked segment loads, and
 * stack frames built with the rights of another privilege level.
 *
 * `ext` is bit 0 of selector error codes: 1 while an event external to the
 * program is delivered (SDM Vol. 3A, 6.13).
 */
#ifndef X86_SEG_H
#define X86_SEG_H

#include <string.h>

#include "x86/exec.h"

/* System descriptor types (SDM Vol. 3A, table 3-2) */
enum {
    X86_SYS_TSS16 = 1, X86_SYS_LDT = 2, X86_SYS_TSS16_BUSY = 3, X86_SYS_CALL16 = 4, X86_SYS_TASK = 5, X86_SYS_INT16 = 6,
    X86_SYS_TRAP16 = 7, X86_SYS_TSS = 9, X86_SYS_TSS_BUSY = 11, X86_SYS_CALL = 12, X86_SYS_INT = 14, X86_SYS_TRAP = 15,
};

/* A descriptor as it lies in memory; hi is the second half of the 16-byte system descriptors of IA-32e mode. */
struct x86_desc {
    uint64_t lo, hi;
    uint64_t lin; /* where it was read */
};

static inline unsigned x86_desc_type(const struct x86_desc *d) { return (d->lo >> 40) & 15; }
static inline bool x86_desc_s(const struct x86_desc *d) { return (d->lo >> 44) & 1; }
static inline unsigned x86_desc_dpl(const struct x86_desc *d) { return (d->lo >> 45) & 3; }
static inline bool x86_desc_p(const struct x86_desc *d) { return (d->lo >> 47) & 1; }
static inline bool x86_desc_code(const struct x86_desc *d) { return ((d->lo >> 43) & 3) == 3; }
static inline bool x86_desc_conforming(const struct x86_desc *d) { return (d->lo >> 42) & 1; }
static inline bool x86_desc_l(const struct x86_desc *d) { return (d->lo >> 53) & 1; }
static inline bool x86_desc_db(const struct x86_desc *d) { return (d->lo >> 54) & 1; }
/* Gates */
static inline uint16_t x86_gate_sel(const struct x86_desc *d) { return (uint16_t)(d->lo >> 16); }
static inline uint64_t x86_gate_off(const struct x86_desc *d)
{
    return (d->lo & 0xffff) | (d->lo >> 48) << 16 | (d->hi & 0xffffffff) << 32;
}

static inline bool x86_sel_null(uint16_t sel) { return !(sel & 0xfffc); }
static inline uint32_t x86_sel_err(uint16_t sel, unsigned ext) { return (sel & 0xfffcu) | ext; }

/* Read up to 16 bytes at lin with supervisor rights; the TLB hit is inline. */
static inline int x86_sys_read_fast(struct x86_cpu *c, uint64_t lin, void *buf, unsigned len)
{
    const struct x86_tlb_entry *e = &c->mmu.tlb[X86_TLB_SUPER][(lin >> 12) & (X86_TLB_SIZE - 1)];

    if (__builtin_expect((((lin + len - 1) & ~0xfffull) | c->mmu.gen) == e->tag_r, 1)) {
        memcpy(buf, (const void *)(uintptr_t)(lin + e->addend), len);
        return X86_OK;
    }
    return x86_sys_read(c, lin, buf, len);
}

/* Fetch the descriptor of a non-null selector: X86_OK, X86_FAULT (page fault), or -1 when it lies outside its table. */
int x86_desc_try(struct x86_cpu *c, uint16_t sel, struct x86_desc *d);
/* The same; outside the table raises vec(sel). */
int x86_desc_fetch(struct x86_cpu *c, uint16_t sel, struct x86_desc *d, uint8_t vec, unsigned ext);
/* In IA-32e mode, fetch the second half of a system descriptor and check its reserved type field; raises #GP(sel). */
int x86_desc_fetch_hi(struct x86_cpu *c, uint16_t sel, struct x86_desc *d);
/* The hidden part of a segment register; the accessed bit of code and data segments reads as set. */
struct x86_seg x86_desc_seg(const struct x86_desc *d, uint16_t sel);
/* Atomically set and clear bits of byte 5 (type, accessed, busy). */
int x86_desc_update(struct x86_cpu *c, const struct x86_desc *d, uint8_t set, uint8_t clear);
/* Set the accessed bit of a code or data descriptor if it is clear. */
static inline int x86_desc_accessed(struct x86_cpu *c, const struct x86_desc *d)
{
    return (d->lo >> 40) & 1 ? X86_OK : x86_desc_update(c, d, 1, 0);
}
/* Would a supervisor access to [lin, lin+len) succeed? len <= 4096. */
int x86_sys_probe(struct x86_cpu *c, uint64_t lin, uint32_t len, int access);

/* Load ES, SS, DS, FS or GS as MOV does in the current mode. No interrupt shadow. */
int x86_load_seg(struct x86_cpu *c, unsigned seg, uint16_t sel);
/* Protected mode: a non-null or null selector into a data segment register at the privilege cpl; vec is #GP or #TS. */
int x86_load_data(struct x86_cpu *c, unsigned seg, uint16_t sel, unsigned cpl, uint8_t vec, unsigned ext);
/* Check a stack segment for privilege cpl and give its hidden part; a null selector raises vec. */
int x86_check_ss(struct x86_cpu *c, uint16_t sel, unsigned cpl, uint8_t vec, unsigned ext, struct x86_seg *out);
/* Real and virtual-8086 mode: the selector is the base. */
void x86_load_seg16(struct x86_cpu *c, unsigned seg, uint16_t sel);
/* The null segment; its DPL remembers the privilege (SS in 64-bit mode). */
static inline struct x86_seg x86_null_seg(uint16_t sel, unsigned dpl)
{
    return (struct x86_seg){.sel = sel, .ar = (uint16_t)(dpl << 5)};
}
/* After a return to an outer level: null the data segments the new level may not use. */
void x86_null_inner_segs(struct x86_cpu *c, unsigned cpl);
int x86_lldt(struct x86_cpu *c, uint16_t sel, uint8_t vec, unsigned ext);
int x86_ltr(struct x86_cpu *c, uint16_t sel);

/* --- frames on a stack that is not (yet) SS:RSP ------------------------- */

struct x86_stack {
    struct x86_seg ss;
    uint64_t sp;   /* whole register; only the low `width` bytes move */
    uint8_t width; /* 2, 4, 8 */
    uint8_t cpl;   /* privilege of the accesses */
    uint32_t err;  /* error code of #SS for a limit violation */
};

/* The stack of the current state. */
struct x86_stack x86_stack_cur(const struct x86_cpu *c);
static inline uint8_t x86_stack_width(bool long64, const struct x86_seg *ss) { return long64 ? 8 : ss->ar & X86_AR_DB ? 4 : 2; }
/* Would n pushes of size bytes stay inside the stack segment? Raises #SS(err). Far transfers check this, then the target
 * instruction pointer, then write. */
int x86_stack_check(struct x86_cpu *c, const struct x86_stack *st, unsigned n, unsigned size);
/* Write n values of size bytes, v[0] at the highest address, as n pushes would; all or nothing. st->sp moves. */
int x86_stack_push(struct x86_cpu *c, struct x86_stack *st, const uint64_t *v, unsigned n, unsigned size);
/* Read n values of size bytes from the stack top, v[0] at the lowest address; st->sp moves past them. */
int x86_stack_pop(struct x86_cpu *c, struct x86_stack *st, uint64_t *v, unsigned n, unsigned size);
/* Commit SS and RSP. */
static inline void x86_stack_commit(struct x86_cpu *c, const struct x86_stack *st)
{
    c->seg[X86_SS] = st->ss;
    c->gpr[X86_RSP] = st->sp;
}
/* RSP with its low `width` bytes replaced. */
static inline uint64_t x86_sp_set(uint64_t old, unsigned width, uint64_t sp)
{
    return width == 8 ? sp : width == 4 ? (uint32_t)sp : (old & ~0xffffull) | (uint16_t)sp;
}
static inline uint64_t x86_sp_add(uint64_t sp, unsigned width, uint64_t n)
{
    return width == 8 ? sp + n : width == 4 ? (uint32_t)(sp + n) : (sp & ~0xffffull) | (uint16_t)(sp + n);
}

/* Stack pointer for privilege dpl from the current TSS, for CALL and interrupts to an inner level (not IA-32e mode). */
int x86_tss_stack(struct x86_cpu *c, unsigned dpl, unsigned ext, struct x86_stack *out);
/* 64-bit TSS: RSPn (n 0-2) or IST (n 1-7). */
int x86_tss_rsp(struct x86_cpu *c, unsigned n, bool ist, unsigned ext, uint64_t *rsp);

/* --- far transfers, shared -------------------------------------------- */

/* Commit CS with CPL = the new SS.DPL; the caller has set SS. RPL of CS.sel is replaced by cpl. */
static inline void x86_set_cs(struct x86_cpu *c, const struct x86_seg *cs, unsigned cpl)
{
    c->seg[X86_CS] = *cs;
    c->seg[X86_CS].sel = (uint16_t)((cs->sel & ~3u) | cpl);
}
/* Is rip a legal target in the code segment? Raises #GP(ext). */
int x86_check_rip(struct x86_cpu *c, const struct x86_seg *cs, uint64_t rip, unsigned ext);

/* --- tasks -------------------------------------------------------------- */

enum x86_task_why { X86_TASK_JMP, X86_TASK_CALL, X86_TASK_INT, X86_TASK_IRET };
/* Switch to the task a task gate names: checks the TSS descriptor. next_rip and flags are what the old TSS keeps. */
int x86_task_gate(struct x86_cpu *c, uint16_t sel, enum x86_task_why why, uint64_t next_rip, uint64_t flags, unsigned ext);
/* Switch to the task of a TSS descriptor whose type and privilege the caller has checked (not its P bit). X86_FAULT either
 * from the old task, unchanged, or from the new one, whose state is then in force (SDM Vol. 3A, 7.3). */
int x86_task_switch(struct x86_cpu *c, uint16_t sel, const struct x86_desc *d, enum x86_task_why why, uint64_t next_rip,
                    uint64_t flags, unsigned ext);
/* IRET with NT set. */
int x86_task_return(struct x86_cpu *c, uint64_t next_rip);

/* --- interrupts --------------------------------------------------------- */

/* Virtual-8086 software interrupt through the 8086 vector table at linear 0, as the VME redirection map allows. */
int x86_vme_int(struct x86_cpu *c, uint8_t vector, uint64_t next_rip);

#endif
