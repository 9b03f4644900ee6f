/*
 * Engine `trap`: guest kernel and user code run directly at CPL 3; what traps is interpreted. The parts of it.
 */
#ifndef ENGINE_TRAP_TRAP_H
#define ENGINE_TRAP_TRAP_H

#include <stdatomic.h>

#include "ringer/vm.h"
#include "sandbox/world.h"
#include "x86/decode.h"

/* --- space.c: a world's address space as a TLB -------------------------------------- */

enum { SPACE_W = 1, SPACE_CODE = 2, SPACE_GLOBAL = 4, SPACE_LARGE = 8, SPACE_X = 16, SPACE_PRESENT = 32 };
#define SPACE_PAGES (1u << 20)

struct space {
    struct world *w;
    uint64_t *map;  /* by linear page: guest-physical page << 8 | SPACE_*; 0: nothing mapped */
    uint32_t *list; /* linear pages that are mapped, in no order */
    uint32_t *pos;  /* by linear page: its place in the list */
    uint32_t n;
    uint32_t lo[2], hi[2]; /* extent of mapped pages, [1]: of global ones; empty: lo > hi */
    unsigned queued;
    uint64_t ldt[8192]; /* descriptors the world has, as queued; 0: none */
    uint64_t maps, unmaps, flushes, full;
};

int space_init(struct space *s, struct world *w);
void space_fini(struct space *s);
/* Map n pages from linear page lin to guest-physical page gpn, which is at off in the RAM file (or of the code file, SPACE_CODE). */
void space_map(struct space *s, uint32_t lin, uint32_t n, uint64_t gpn, uint64_t off, unsigned flags);
void space_unmap(struct space *s, uint32_t lin);
void space_flush(struct space *s, bool global);
/* INVLPG: the whole region a large page may have been mapped by goes. */
void space_flush_page(struct space *s, uint32_t lin);
/* Unmap wherever guest-physical page gpn is mapped with one of these flags. */
void space_drop(struct space *s, uint64_t gpn, unsigned flags);

/* --- patch.c: pages of patched code ------------------------------------------------- */

struct ppage {
    uint64_t gpn;
    uint8_t *bytes;     /* the patched page; what has not been seen is trap bytes */
    const uint8_t *ram; /* the original */
    uint8_t mode;       /* enum x86_mode_bits it was scanned for */
    uint32_t writes;
    uint64_t used[64];  /* bytes that belong to an instruction seen */
    uint64_t start[64]; /* its first byte */
};

enum { PATCH_PAGES = 16384 };

struct patches {
    struct host_mutex *lock;
    uint8_t *mem; /* the code file */
    int fd;
    uint32_t *of; /* by RAM page (offset in the RAM file): 1 + index, 0: none */
    uint64_t nram;
    struct ppage *page;
    uint32_t n; /* in use */
    uint32_t *free;
    uint32_t nfree;
    uint64_t sites, scanned, invals, prepared;
    uint32_t *out;   /* where direct branches left the page, relative to it; NULL: nobody asks */
    uint32_t nout, out_cap, base; /* base: linear address of the page, meanwhile */
};

int patches_init(struct patches *p, uint64_t ram_pages);
void patches_fini(struct patches *p);
struct ppage *patches_find(struct patches *p, uint64_t ram_page);
/* A new page, all trap bytes. NULL: none left. */
struct ppage *patches_add(struct patches *p, uint64_t ram_page, uint64_t gpn, const uint8_t *ram);
void patches_del(struct patches *p, uint64_t ram_page);
/* Take over what runs from off on without leaving the page. True if the instruction at off is now there to run (false: it
 * stays a trap). */
bool patches_scan(struct patches *p, struct ppage *g, unsigned off, enum x86_mode_bits mode, const uint64_t *features);
/* Bytes changed: forget the page's instructions if they are among them. */
void patches_inval(struct patches *p, struct ppage *g, unsigned off, unsigned len);
/* Does the instruction run unseen at CPL 3 although its effect or result depends on privilege or configuration? */
bool trap_is_offender(const struct x86_insn *in);

/* --- trap.c -------------------------------------------------------------------------- */

enum trap_world { WORLD_KERNEL, WORLD_USER, NWORLDS };

struct trap_counts {
    uint64_t runs, insns_traps, faults_guest, faults_tlb, syscalls, ints, kicks, patched, code_reads, code_writes, interpreted, burst, lost;
    uint64_t direct_ns; /* spent in worlds, entering and leaving included; only if vm->timed */
};

/* What --report-sensitive knows of a mnemonic. */
struct sensitive {
    uint64_t runs, wrong, trapped, unmeasured;
    uint32_t first_eip;
    char first[96]; /* how the first wrong result differed */
};

struct trap_vm {
    struct patches patch;
    bool patching; /* worlds run patched copies of code pages */
    bool report, eager;
    bool prepare; /* eager: the boot image is loaded and not yet looked at */
    unsigned burst;
    struct trap_counts n;
    uint64_t by_op[X86_NOP_COUNT]; /* instructions interpreted after a trap */
    struct sensitive *sensitive;   /* by enum x86_op; report only */
};

struct trap {
    struct vcpu *v;
    struct trap_vm *tv;
    struct space space[NWORLDS];
    struct world *world[NWORLDS];
    _Atomic(struct world *) current; /* the one to kick */
    _Atomic bool kicked;
    uint64_t seen_all, seen_nonglobal, seen_page;
    bool user_access;  /* the kernel's world was filled with SMAP suspended */
    uint16_t loaded[6]; /* selectors the world was entered with */
    unsigned burst;     /* instructions still to interpret before going back to direct execution */
};

/* One run in the current world from the canonical state, which it brings up to date. 0: an exit is in the control page;
 * else *exit or the state already says what comes next. eflags: more host flags to run with. */
int trap_enter(struct trap *t, uint32_t eflags, struct vcpu_exit *exit);
void trap_step_one(struct trap *t, struct vcpu_exit *exit);
/* A page fault of the host in the control page: serve it. True: what faulted may be tried again. */
bool trap_fill(struct trap *t, const struct world_ctl *k, struct vcpu_exit *exit);

/* report.c: at an offender whose first byte is *patched in its page: what the processor does with it, beside what is right.
 * The processor's result stands. */
void trap_report_one(struct trap *t, struct ppage *g, unsigned off, struct vcpu_exit *exit);
void trap_report_print(struct vm *vm, const struct trap_vm *tv);

/* segs.c: segments as descriptors of the world's LDT. */
bool trap_segs_ok(const struct x86_cpu *c);
void trap_segs_load(struct trap *t, struct space *s, struct world_ctl *k);
/* Take over what the guest loaded unseen. False: it left 32-bit code. */
bool trap_segs_back(struct trap *t, const struct world_ctl *k);

#endif
