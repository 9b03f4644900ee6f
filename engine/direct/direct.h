/*
 * Direct execution of 64-bit guest user code, in a nutshell. An address space that computes runs in a user world
 * (sandbox/user64.h): unmodified, at its own addresses, by the processor itself. The world's mappings are a TLB: a fault of the host is
 * looked up in the guest's page tables and either becomes a mapping or the guest's own #PF. What the guest flushes is unmapped, or, when
 * much was flushed at once, compared with the page tables anew before the next entry. Every other trap is one instruction for the
 * interpreter. Kernel code, and user code that makes system calls all the time, stays with the engine that uses this (translate).
 *
 * Which address spaces run here is decided by sampling (policy.c).
 *
 * Threads: everything on the vCPU's thread, except direct_kick.
 */
#ifndef ENGINE_DIRECT_H
#define ENGINE_DIRECT_H

#include <stdatomic.h>

#include "engine/interp/interp.h"
#include "sandbox/user64.h"

#define DIRECT_SPACES 32u /* address spaces known by name */
#define DIRECT_COPIES 4096u /* code pages that have a copy with instructions replaced */
#define DIRECT_WORLDS 6u  /* of them with a world, per vCPU */

/* --- map.c: which pages a world has ------------------------------------------------------- */

enum { DMAP_W = 1, DMAP_X = 2, DMAP_RIGHTS = 3, DMAP_LARGE = 4 /* part of a large page of the guest's */, DMAP_COPY = 8 };
struct dmap_entry {
    uint64_t lin; /* page address; 0: empty. Page 0 is never mapped */
    uint64_t off; /* of its page in the RAM file */
    uint64_t gpa; /* page address | DMAP_* */
};
struct dmap {
    struct dmap_entry *e;
    unsigned bits, n;
};
int dmap_init(struct dmap *m);
void dmap_fini(struct dmap *m);
void dmap_clear(struct dmap *m);
struct dmap_entry *dmap_find(const struct dmap *m, uint64_t lin);
/* Enter or overwrite. False: out of memory. */
bool dmap_put(struct dmap *m, const struct dmap_entry *e);
/* Entries after it may move towards the front: iterate from the end. */
void dmap_del(struct dmap *m, struct dmap_entry *e);
static inline unsigned dmap_cap(const struct dmap *m) { return 1u << m->bits; }

/* --- one guest address space ------------------------------------------------------------------ */

struct dspace {
    uint64_t pgd;   /* CR3 without PCID and flags; NO_PAGE: none */
    bool super;     /* with the rights of CPL 0 to 2: only under engine trap */
    uint8_t key;    /* what look depends on, as of the code that is mapped */
    bool open;      /* ... and these include user pages, as AC says under SMAP */
    uint16_t pcid;  /* what the mappings are tagged with */
    bool promoted;  /* user code runs directly */
    bool banned;    /* never: it uses what the world needs for itself, or attacked it */
    bool large, huge; /* maps parts of 2 MiB, 1 GiB pages, which one INVLPG flushes as a whole */
    bool stale;     /* compare all mappings with the page tables before the next entry */
    int score;      /* policy.c */
    unsigned demotions;
    uint64_t mean;  /* of the TSC cycles between entry and exit, lately */
    int64_t balance; /* TSC cycles: computed, less what runs cost */
    unsigned first_fills; /* still free of charge */
    unsigned entries, refused;
    uint64_t seen;  /* TLB events */
    uint64_t used;  /* least recently used goes first */
    uint64_t fault; /* address of the #PF that the guest is handling; NO_PAGE: none */
    uint8_t fault_access;
    struct user64 *w;
    struct dmap map;
};

struct direct_stats {
    /* In the order of their names in stats.c. */
    uint64_t cycles, entries, kicks, syscalls, page_faults, fills, prefills, mapped, unmapped, flushed, checks, emulated, code_writes, scans,
        sensitive, sensitive_runs, promoted, demoted, worlds, crashed;
};
struct direct_samples {
    uint64_t n[ENGINE_TIERS];
};

struct direct {
    struct vcpu *v;
    struct interp *it;
    bool off;              /* no worlds on this host */
    bool always;           /* USER_CODE_DIRECT */
    bool bare;             /* code is not looked at, and may be writable: engine trap without replacement */
    bool levels;           /* kernel code has spaces, too: engine trap */
    bool forced;           /* whoever runs it does so whether it pays or not */
    uint8_t (*look)(void *ctx, uint64_t lin, uint64_t gpa, uint32_t *flags, const uint8_t *host); /* in the place of direct_code_kind; NULL */
    void *look_ctx;
    bool ends_plain;       /* what look said holds for instructions across the ends of the page, too */
    bool shows_cpuid;
    unsigned host_cpus;
    bool int1_at;          /* the host reports INT1 at the instruction (as last seen where it could be told) */
    struct dspace *cur;    /* of the CR3 below, once looked up */
    uint64_t cur_cr3;
    unsigned promoted;     /* spaces that are; never 0 with always */
    unsigned nworlds;
    uint64_t clock;
    uint64_t sensitive, cpu_ns; /* instructions that were, CPU time, up to the last tick */
    uint64_t least;        /* cycles that entering and leaving takes by itself */
    uint64_t hold;         /* sampling ticks until which user code stays translated */
    uint64_t ticks;
    _Atomic(struct user64 *) running;
    struct user64 *last; /* that ran; NULL: none */
    _Atomic bool ticked;
    /* For samples of what runs: translated code, and does the interpreter have its turn? */
    uintptr_t code_at, code_size;
    volatile bool interprets;
    struct host_alarm *alarm;
    bool armed;
    uint8_t *code;         /* per RAM page: DCODE_* */
    uint16_t *copy;        /* per RAM page: 1 + number of its copy, 0: none yet */
    uint8_t *copies;       /* DIRECT_COPIES pages */
    int copies_fd;
    unsigned ncopies;
    uint8_t *writes;       /* per RAM page: stores into it that were done for the world because it holds code */
    uint64_t *mapped;      /* per RAM page, a bit: some world of this vCPU may have it */
    struct dspace space[DIRECT_SPACES];
    struct direct_stats st;
    struct direct_samples samples;
};

/* Pages that worlds have now. */
uint64_t direct_mapped(const struct direct *d);
/* Add up counters; name them (at most cap), with cycles turned into microseconds. Returns how many there are. */
void direct_stats_add(struct direct_stats *to, const struct direct_stats *s);
unsigned direct_stats_list(const struct direct_stats *s, uint64_t tsc_khz, struct engine_stat *out, unsigned cap);

/* What is known of a RAM page as code. */
enum { DCODE_UNKNOWN, DCODE_PLAIN, DCODE_COPY, DCODE_SENSITIVE };

/* NULL when out of memory. */
struct direct *direct_new(struct interp *it);
void direct_free(struct direct *d);

/* Is the address space at hand to run directly, and can the state? Call before user code is run in any other way. */
bool direct_ready(struct direct *d);
/* Might direct_ready say yes while CR3 stays what it is? Changes with promotions, too. */
bool direct_wanted(const struct direct *d);
/* The one rule which states run directly and unchanged as far as it is known what the code does: what it could see of the host is what it would
 * see of its own processor. */
bool direct_can_run(const struct x86_cpu *c);
/* Segment registers that user code has loaded from the host's tables. False: a fault is in c->exc. */
bool direct_reload(struct x86_cpu *c, const struct user64_regs *r);
/* Run user code until something else is to be done; the canonical state is complete before and after. False: *exit is EXIT_FAIL. */
bool direct_run(struct direct *d, struct vcpu_exit *exit);
/* Before guest code runs in whatever way: keeps the sampling clock going, and judges when it has ticked. */
void direct_judge(struct direct *d);
static inline void direct_sample(struct direct *d)
{
    if (UNLIKELY(!d->armed || atomic_load_explicit(&d->ticked, memory_order_relaxed)))
        direct_judge(d);
}
/* Code bytes changed (struct code_user). */
void direct_inval(struct direct *d, uint64_t gpa, uint32_t len);
/* What was known of code is no longer (struct code_user). */
void direct_flush(struct direct *d);

/* --- direct.c, for other loops than direct_run --------------------------------------------------- */

/* Flags that code at CPL 3 changes; what is loaded besides is the host's. */
#define DIRECT_FLAGS (X86_FL_ARITH | X86_FL_DF | X86_FL_NT | X86_FL_ID)
/* The selectors hosts give to 64-bit programs; programs see them. */
#define HOST_CS 0x33
#define HOST_SS 0x2b

enum direct_event {
    DIRECT_KICKED,
    DIRECT_INSN,  /* an instruction trapped: RIP is at it */
    DIRECT_STEP,  /* the instruction behind one that set TF is done */
    DIRECT_FAULT, /* a page fault of the host, at *lin with *err */
    DIRECT_LOST,  /* the host's kernel was entered, and where from is not known (SYSENTER) */
};
/* What ended a run; puts RIP where the interpreter is to go on. */
enum direct_event direct_event(struct direct *d, const struct user64_exit *e, uint64_t *lin, uint32_t *err);
/* Registers, without segments, TF and AC, from the canonical state, and to it. */
void direct_load(const struct x86_cpu *c, struct user64_regs *r);
void direct_store(struct x86_cpu *c, const struct user64_regs *r);
/* A page fault of the host that the guest has handled since: what it mapped will be wanted at once. */
void direct_prefill(struct direct *d, struct dspace *s);
/* One entry between load and store; the space is in sync. USER64_OK and the like, or -1: requests wait. */
int direct_enter(struct direct *d, struct dspace *s, struct user64_regs *r, struct user64_exit *e, uint64_t *cycles);
/* The world ended by what its guest code did. */
void direct_crashed(struct direct *d, struct dspace *s);

/* End a direct_run in progress. Async-signal-safe; any thread. */
void direct_kick(struct direct *d);

/* --- space.c ------------------------------------------------------------------------------- */

/* Of the address space at hand (CR3, CPL). */
struct dspace *space_of(struct direct *d);
/* Do the page tables allow an access (enum x86_access) with the rights of the space? */
bool space_allows(const struct direct *d, const struct dspace *s, const struct x86_look *l, unsigned access);
/* Bring the mappings up to date with what the guest flushed. */
void space_sync(struct direct *d, struct dspace *s);
void space_forget(struct direct *d, struct dspace *s);
/* Take away execution of all pages. */
void space_forget_code(struct direct *d, struct dspace *s);
enum space_fill_result {
    FILL_DONE,      /* mapped: go on */
    FILL_FAULT,     /* the guest's own fault, in cpu->exc */
    FILL_EMULATE,   /* one instruction for the interpreter */
    FILL_SENSITIVE, /* code that must not run directly */
};
/* The host has no translation of lin for access (enum x86_access). */
enum space_fill_result space_fill(struct direct *d, struct dspace *s, uint64_t lin, int access);

/* What is known of a page of RAM as code, finding it out if need be: DCODE_*; UNKNOWN: try again. flags: of the page, host: its bytes. */
uint8_t direct_code_kind(struct direct *d, uint64_t gpa, uint32_t *flags, const uint8_t *host);
/* Forget it, and take away its execution everywhere. */
void direct_code_forget(struct direct *d, uint64_t gpa, const uint32_t *flags);
/* The copy of a page: 1 + number; 0: there are no more. */
uint16_t direct_copy_of(struct direct *d, const uint32_t *flags);
static inline uint64_t direct_page(const struct direct *d, const uint32_t *flags) { return (uint64_t)(flags - d->v->vm->ram_flags); }

/* --- scan.c: code that a processor would execute without a trap, and wrongly ------------------- */

#define SCAN_SITES 64
/* How many instructions of the page must be replaced, and where they begin; -1: too many, or it cannot be told. See the file for what is
 * looked for, and how. */
int scan_page(const uint8_t *page, bool cpuid_traps, const uint64_t *features, uint16_t at[SCAN_SITES]);
/* Is what lies across the end of a page that next follows free of them? */
bool scan_joint(const uint8_t *page, const uint8_t *next, bool cpuid_traps, const uint64_t *features);

/* --- policy.c ------------------------------------------------------------------------------------ */

/* cpu_ns: CPU time of the thread up to now. */
void policy_tick(struct direct *d, uint64_t cpu_ns);
/* An entry into s ended after so many cycles; filled: for a page that it can have, as it turned out. */
void policy_exit(struct direct *d, struct dspace *s, uint64_t cycles, bool filled);
void policy_promote(struct direct *d, struct dspace *s);
void policy_withdraw(struct direct *d, struct dspace *s); /* no longer directly, for now */
void policy_demote(struct direct *d, struct dspace *s);   /* because it does not pay: it has to wait */

#endif
