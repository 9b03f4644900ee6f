/*
 * Engine `trap`: guest kernel and user code run directly at CPL 3; what traps is interpreted. The parts of it.
 */
#ifndef ENGINE_TRAP_TRAP_H
#define ENGINE_TRAP_TRAP_H

#include <stdatomic.h>

#include "engine/direct/direct.h"
#include "ringer/vm.h"
#include "engine/trap/long_scan.h"
#include "sandbox/world.h"
#include "x86/decode.h"

/* --- space.c: a world's address space as a TLB -------------------------------------- */

enum { SPACE_W = 1, SPACE_CODE = 2, SPACE_GLOBAL = 4, SPACE_LARGE = 8, SPACE_X = 16, SPACE_PRESENT = 32 };
#define SPACE_PAGES (1u << 20)

/* Where copies of code are executed (space.c). High windows: the guest's data below 3 GiB lies shift further on in the world, so a GiB there is
 * free for code. Low windows: data is where it is, less the bottom. Whoever accesses data beyond, which the segments' limits
 * notice, is interpreted. */
#define WINDOW_SIZE (64u << 20)
#define WINDOWS 16u
#define WINDOWS_LOW 2u
#define WINDOWS_HIGH (0u - WINDOWS * WINDOW_SIZE)

struct window {
    uint32_t code; /* guest-linear address of the first byte */
    uint32_t at;   /* where the world sees it */
    uint32_t used; /* 0: not in use; else larger the later */
};

/* When direct execution pays, for policy.c. */
struct level {
    bool direct;
    bool sampled;           /* direct, but just now interpreted to see whether it still pays */
    uint32_t patience;
    uint32_t runs, fills;   /* since the last sample; of these, begun with changes of the world's mappings */
    uint32_t until;         /* so many to the next one */
    uint64_t mean;          /* of the TSC cycles runs took lately */
    uint64_t insns, events; /* interpreted */
};

struct space {
    struct world *w;
    uint64_t key;  /* of user code: the address space */
    uint64_t used; /* by user code: the larger, the later */
    bool stale;    /* compare all mappings with the page tables before the next entry */
    struct level level;
    uint64_t *map;  /* by linear page of the world: guest-physical page << 8 | SPACE_*; 0: nothing mapped */
    uint32_t *list; /* linear pages that are mapped, in no order */
    uint32_t *pos;  /* by linear page: its place in the list */
    uint32_t n;
    uint32_t lo[4], hi[4]; /* extent of mapped pages: of data, of global data, of code, of global code; empty: lo > hi */
    uint16_t large[SPACE_PAGES >> 10]; /* by 4 MiB: pages mapped from large ones */
    bool split;            /* code and data apart */
    bool low;
    bool placed;    /* low and shift are decided */
    uint32_t shift; /* from guest-linear addresses of data to the world's: whole GiB; 0 if low */
    uint64_t spent[4]; /* TSC cycles of runs lately, by the GiB their code was in */
    bool left;      /* the last run ended because control left its window */
    int8_t trips;   /* had short ones into other code to be interpreted success lately? */
    uint8_t untried;
    struct window win[WINDOWS];
    uint32_t clock;
    uint64_t ldt[8192];        /* descriptors the world has, as queued; 0: none */
    struct x86_seg orig[8192]; /* what they stand for */
    uint64_t maps, unmaps, flushes, full;
};

/* The world is the space's from now on; NULL: -1. */
int space_init(struct space *s, struct world *w);
void space_fini(struct space *s); /* the world, too */
/* Map n pages from linear page lin to guest-physical page gpn, which is at off in the RAM file (or of the code file, SPACE_CODE). */
void space_map(struct space *s, uint32_t lin, uint32_t n, uint64_t gpn, uint64_t off, unsigned flags);
void space_unmap(struct space *s, uint32_t lin);
void space_flush(struct space *s, bool global);
/* Does code at guest-linear address lin run, or would it, at its own address in the world? */
bool space_at_home(const struct space *s, uint32_t lin);
/* The window through which the world runs code at guest-linear address lin, made if need be. Valid until the next call. */
const struct window *space_window(struct space *s, uint32_t lin, bool low);
/* INVLPG: the whole region a large page may have been mapped by goes. */
void space_flush_page(struct space *s, uint32_t lin);
/* Unmap wherever guest-physical page gpn is mapped with one of these flags. */
void space_drop(struct space *s, uint64_t gpn, unsigned flags);

/* --- patch.c: pages of patched code ------------------------------------------------- */

struct ppage {
    uint64_t gpn;
    uint8_t *bytes;     /* the patched page; what has not been seen is trap bytes */
    const uint8_t *ram; /* the original */
    uint8_t mode;       /* enum x86_mode_bits it was scanned for, */
    bool user;          /* and for CPL 3? */
    struct ppage *next, *prev; /* the pages an instruction that crosses into them, out of them, was copied to and from */
    uint16_t cross;     /* where in this page it begins */
    uint8_t tail;       /* bytes of it in the next */
    uint64_t used[64];  /* bytes that belong to an instruction seen */
    uint64_t start[64]; /* its first byte */
    uint64_t sure[64];  /* as used, of instructions that are code of this mode: without what may be reached in another one, through a far jump or a return */
};

enum { PATCH_PAGES = 16384 };

/* Offsets that scanned instructions have in themselves for operands through FS or GS: small ones of either sign, and others. */
#define REACH_NEAR (16 << 20)
struct reach {
    int32_t near_lo, near_hi;
    uint32_t far_lo, far_hi; /* lo > hi: none */
};

struct patches {
    uint8_t *mem; /* the code file */
    int fd;
    uint32_t *of; /* by RAM page (offset in the RAM file): 1 + index, 0: none */
    uint64_t nram;
    struct ppage *page;
    uint32_t n; /* in use */
    uint32_t *free;
    uint32_t nfree;
    struct reach reach[2]; /* FS, GS */
    uint64_t sites, scanned, invals, prepared;
    uint32_t *out;   /* where direct branches left the page, relative to it; NULL: nobody asks */
    uint32_t *far, nfar; /* likewise of what is not sure, linear addresses */
    bool guess;          /* what is scanned is not sure */
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
bool patches_scan(struct patches *p, struct ppage *g, unsigned off, enum x86_mode_bits mode, bool user, const uint64_t *features);
/* Take over the instruction at off that crosses into page b, which follows in the current address space. */
bool patches_cross(struct patches *p, struct ppage *a, unsigned off, struct ppage *b, const uint64_t *features);
/* It is a trap again, since another page follows somewhere or one of the two changed. */
void patches_uncross(struct ppage *a);
void patches_forget(struct patches *p); /* every page is all trap bytes again */
/* Bytes changed: forget the page's instructions if they are among them. */
void patches_inval(struct patches *p, struct ppage *g, unsigned off, unsigned len);
/* Does the instruction run unseen at CPL 3 although its effect or result depends on privilege or configuration? */
bool trap_is_offender(const struct x86_insn *in);

/* --- trap.c -------------------------------------------------------------------------- */

enum trap_world { WORLD_KERNEL, WORLD_USER, NWORLDS }; /* privilege levels, */
enum { NSPACES = WORLD_USER + 6 }; /* and worlds: the kernel's, then those of users */

struct trap_counts {
    uint64_t runs[NWORLDS], insns_traps, faults_guest, faults_tlb, syscalls, ints, kicks, patched, code_writes, interpreted, burst[NWORLDS], given_up, lost, worlds64;
    uint64_t direct_ns; /* spent in worlds, entering and leaving included; only if vm->timed */
};

/* What --report-sensitive knows of a mnemonic. */
struct sensitive {
    uint64_t runs, wrong, trapped, unmeasured;
    uint64_t first_rip;
    char first[96]; /* how the first wrong result differed */
};

struct trap_vm {
    struct patches patch;
    bool patching; /* worlds run patched copies of code pages */
    bool report, eager;
    bool prepare; /* eager: the boot image is loaded and not yet looked at */
    bool adaptive; /* direct execution only where it pays */
    struct trap_counts n;
    uint64_t by_op[X86_NOP_COUNT]; /* instructions interpreted after a trap */
    struct sensitive *sensitive;   /* by enum x86_op; report only */
};

struct trap {
    struct vcpu *v;
    struct trap_vm *tv;
    struct space space[NSPACES];
    unsigned nspaces;    /* that have a world */
    struct space *user;  /* of user code: the one last used */
    uint64_t clock;
    _Atomic(struct world *) current; /* the one to kick */
    struct world *last; /* entered, and perhaps waiting awake */
    uint64_t seen; /* TLB events */
    const struct gpa_map *map;
    bool user_access;   /* the kernel's world was filled with SMAP suspended */
    uint16_t loaded[6]; /* selectors the world was entered with */
    uint32_t delta;     /* from guest-linear addresses to where the world fetches instructions */
    uint32_t code;      /* beginning of the guest-linear region it fetches from, if code and data are apart */
    struct direct *d;   /* worlds of 64-bit code (long.c) */
    struct lpage **lpages; /* by RAM page; with replacement only */
    bool long_prepared;
    uint64_t long_cycles, long_fills; /* TSC cycles of the last run in them; runs that only filled mappings */
    uint8_t parts[6];   /* what the world has of each segment: nothing, all it may have, or one of two parts */
    bool upper[6];      /* the upper of two */
    uint64_t *wmapped;  /* by RAM page: some world may have it writable */

    uint64_t sensitive;
    struct host_thread *ticker;
    struct host_event *tick_event;
    _Atomic bool interprets, ticked, parked, stop;
};

/* The only rule which states run directly. */
bool trap_can_run(const struct vcpu *v);
void trap_run(struct vcpu *v, struct vcpu_exit *exit);
/* One run in the current world from the canonical state, which it brings up to date. 0: an exit is in the control page;
 * else *exit or the state already says what comes next. eflags: more host flags to run with. */
int trap_enter(struct trap *t, uint32_t eflags, struct vcpu_exit *exit);
void trap_step_one(struct trap *t, struct vcpu_exit *exit);
/* Code of a privilege level that the interpreter has until something returns to its dispatcher. */
void trap_interpret(struct trap *t, struct space *s);
/* The instruction at CS:RIP trapped: count and interpret it. */
void trap_emulate(struct trap *t, struct vcpu_exit *exit);
/* The instruction at CS:RIP, if it lies in one page. */
bool trap_insn_at(struct vcpu *v, struct x86_insn *in);
/* Raise what cpu->exc says. */
void trap_deliver(struct trap *t);

/* fault.c: a page fault of the host at the world's linear address hw, with the hardware's error code: serve it. */
void trap_page_fault(struct trap *t, uint32_t hw, uint32_t err, struct vcpu_exit *exit);
/* The copy of a guest-physical page, if there is one; look at the code at CS:EIP in its copy. */
struct ppage *trap_code_page(struct trap *t, uint64_t gpn);
bool trap_look(struct trap *t, struct ppage *g);
void trap_prepare(struct trap *t);
/* Code page g is about to be, or was, mapped at a world's page: instructions that cross between it and its neighbours must be theirs. */
void trap_check_neighbours(struct trap *t, const struct space *s, uint32_t page, struct ppage *g);
/* For struct code_user; ctx is the struct trap. */
void trap_inval(void *ctx, uint64_t gpa, uint32_t len);
void trap_forget_code(void *ctx);
void trap_unwrite(void *ctx, uint64_t page);

/* long.c: 64-bit code. In the place of trap_enter and what follows it. */
int trap_long_init(struct trap *t);
void trap_long_fini(struct trap *t);
/* Is 64-bit code at hand to be executed directly, by the sampling policy? */
bool trap_long_pays(struct trap *t);
/* One run from the canonical state, which it brings up to date, in the world that is ready; page: 0, or a page that shows the first of the copies
 * meanwhile. False: *exit or the state already says what comes next. */
bool trap_long_enter(struct trap *t, struct dspace *s, uint64_t rflags, uint64_t page, struct user64_regs *r, struct user64_exit *e, struct vcpu_exit *exit);
/* A page fault of the host in it. True: there is a translation now. */
bool trap_long_page_fault(struct trap *t, struct dspace *s, uint64_t lin, uint32_t err, struct vcpu_exit *exit);
void trap_long_run(struct trap *t, struct vcpu_exit *exit);

/* spaces.c: where code of the current privilege level and address space runs. Valid until either changes. */
struct space *trap_space(struct trap *t);
int trap_space_open(struct trap *t, struct space *s, char *why, size_t cap);
/* A run that took so many TSC cycles: is the code at home where most time is spent? */
void trap_space_spent(const struct trap *t, struct space *s, uint64_t cycles);
/* Do to the worlds' mappings what was done to the TLB since the last call. */
void trap_sync_tlb(struct trap *t);
/* Drop of a user's mappings what is no longer as the page tables say. The address space is the current one. */
void trap_revalidate(struct trap *t, struct space *s);

/* long_code.c: pages of 64-bit code with replacement. */
int trap_long_code_init(struct trap *t);
/* LONG_* of the state at hand. */
unsigned trap_long_key(const struct trap *t);
void trap_long_code_fini(struct trap *t);
/* Can the code at RIP not be executed directly, as far as it has been seen? */
bool trap_long_doubtful(struct trap *t);
/* Execution came to RIP by itself. */
void trap_long_met(struct trap *t);
/* Replace wherever direct control flow leads from RIP. */
void trap_long_prepare(struct trap *t);

/* policy.c */
int trap_policy_init(struct trap *t);
void trap_policy_fini(struct trap *t);
/* A run ended by itself that began with changes of mappings or not, and took so many TSC cycles. */
void trap_policy_ran(struct trap *t, struct space *s, bool filled, uint64_t cycles);
/* Nothing is known of its code: run it directly at once, or after it was interpreted for a while? */
void trap_policy_begin(struct space *s, bool direct);
/* Before and after the interpreter runs. */
void trap_policy_interprets(struct trap *t);
void trap_policy_interpreted(struct trap *t, struct space *s, uint64_t insns);

/* report.c: at an offender whose first byte is *patched in its page: what the processor does with it, beside what is right.
 * The processor's result stands. */
void trap_report_one(struct trap *t, struct ppage *g, unsigned off, struct vcpu_exit *exit);
/* One instruction of 64-bit code: likewise if it is an offender, else interpreted. */
void trap_report_long(struct trap *t, struct dspace *s, struct vcpu_exit *exit);
void trap_report_print(struct vm *vm, const struct trap_vm *tv);

/* segs.c: segments as descriptors of the world's LDT. */
bool trap_segs_ok(const struct trap *t);
void trap_segs_load(struct trap *t, struct space *s, struct world_ctl *k);
/* Take over what the guest loaded unseen. False: it left 32-bit code. */
bool trap_segs_back(struct trap *t, const struct world_ctl *k);

#endif
