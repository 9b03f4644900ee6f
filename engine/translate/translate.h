/*
 * The translation engine, in a nutshell. 64-bit guest code, user and kernel, is
 * copied block by block into a code cache of the vCPU; most instructions stay what they
 * are. Everything else (other modes, single-stepping, breakpoints) runs in the
 * interpreter, block by block; rare instructions call their generic executor.
 *
 * Registers. Twelve guest registers live in host registers, most in their own:
 *
 *   host  rax rdx rbx rbp rsi rdi r8 r12 r13 r14 | r9  r15 | rcx r10 r11 | rsp
 *   guest rax rdx rbx rbp rsi rdi r8 r12 r13 r14 | rcx rsp |  scratch    | state
 *
 * guest r9 r10 r11 r15 stay in struct x86_cpu. Host RSP points into the room below struct vcpu
 * (struct room), so it reaches all state, and has stack below for signal frames. It is
 * 12 modulo 64: SHRX by RSP is a shift by the page size that leaves flags alone.
 *
 * Flags. The guest's arithmetic flags are in RFLAGS all the time, inside blocks, across them and at
 * every point where an instruction can fault: nothing the translator adds changes flags (LEA, MOV, BMI2
 * shifts, PDEP, LOOP or JRCXZ). So a fault needs no reconstruction at all.
 *
 * RIP. cpu->rip holds the page of the running block; the offset in the page is a constant of the code.
 * Blocks stay valid in every address space: they know no linear address but those of links between pages, which check theirs (far.c).
 *
 * Counting. A block passes conditional branches forward; instructions are counted at its exits, those that were run, if anybody asks. Requests are
 * looked at where a cycle can close: branches backward and indirect ones.
 *
 * Memory. A linear address is looked up in a table of its own (struct room.tlb, derived from the software
 * TLB of x86/mmu.h, emptied whenever mmu.version moves) by eight instructions without a flag. Misses go out
 * of line to xl_miss, which fills the entry and starts the instruction anew, or has the generic executor do it.
 */
#ifndef ENGINE_TRANSLATE_H
#define ENGINE_TRANSLATE_H

#include "engine/direct/direct.h"
#include "engine/interp/interp.h"
#include "engine/translate/emit.h"

#define TR_TLB_SIZE 2048u
#define TR_JUMP_SIZE 8192u
#define TR_LOG 512u
#define TR_PAGE_SET 16384u
#define TR_WINDOWS 8u
#define TR_CODE_LEAST (12u << 20) /* see size.c */
#define TR_CODE_SIZE (32u << 20)
#define TR_ARENA_FOR(code) ((code) / 8 * 3) /* what blocks that have so much code need, with some to spare */
#define TR_ARENA_SIZE TR_ARENA_FOR(TR_CODE_SIZE)
#define TR_SEEN 65536u
#define TR_BLOCK_CODE (48u << 10) /* no block is longer */
#define TR_EXTEND 24u             /* instructions after which no further conditional branch is passed */
#define TR_BLOCK_MAX (TR_EXTEND - 1 + BLOCK_MAX)

/* A page's entry is in the slot that its address says, where code looks it up, or in TR_OTHER of that, where another page has
 * displaced it to: a lookup that fails looks there and exchanges the two (tlb.c). No page is in both.
 *
 * nread, nwrite: minus the linear page address, if the access is allowed, plus a page where checks want 1 (translate.one). An entry
 * matches if the sum of it and the address of the access's last byte, shifted by the page size, is that. */
struct tr_tlb {
    uint64_t nread, nwrite, addend;
    uint64_t local; /* not 0: of a page that is not global */
};
#define TR_WAYS (TR_TLB_SIZE / 2)
#define TR_OTHER(slot) ((slot) ^ TR_WAYS)
/* nlin: minus the linear address, plus what checks want. */
struct tr_jump {
    uint64_t nlin, page;
    const uint8_t *code;
    uint64_t local; /* not 0: wholly in a page that is not global */
};

/* What translated code addresses by host RSP; directly below struct vcpu. */
struct room {
    /* The first 76 bytes are reached by short displacements. */
    uint64_t window[TR_WINDOWS]; /* of the running block: from linear to host addresses */
    uint64_t tlb_mask, jump_mask; /* operands of PDEP and PEXT */
    uint64_t host_sp, ret, lin, aux; /* of the C caller; where a helper goes back to; address that missed or jump target; argument */
    uint64_t tmp[3], host_mxcsr;
    uint64_t align_mask[7], not_if, arith, fsgsbase, df, not_df, sce, masked, upper, stepped; /* operands of PDEP and PEXT */
    uint64_t direct; /* not 0: whoever enters CPL 3 in the current address space leaves to the dispatcher, which may run that code directly */
    uint32_t xmm_dead, ymm_dead; /* not 0: vector registers, their upper halves, are in struct x86_cpu, not in the host's */
    uint64_t kept[3]; /* registers, by way_stub */
    uint64_t spare;
    struct tr_jump jump[X86_TLB_NCTX][TR_JUMP_SIZE];
    struct tr_tlb tlb[X86_TLB_NCTX][TR_TLB_SIZE];
};
#define ROOM_BIAS 52 /* RSP is this much below the room */
_Static_assert((sizeof(struct room) + ROOM_BIAS) % 64 == 52 && sizeof(struct room) % 64 == 0, "RSP is 12 modulo 64");
_Static_assert(sizeof(struct room) + ROOM_BIAS + (128u << 10) <= VCPU_ROOM, "room for a stack below");

static inline struct room *room_of(struct vcpu *v) { return (struct room *)(void *)((uint8_t *)v - sizeof(struct room)); }

/* State as a memory operand of translated code. */
#define AT_ROOM(f) ((struct hmem){H_STATE, NOREG, 1, ROOM_BIAS + (int32_t)offsetof(struct room, f)})
#define AT_VCPU(f) ((struct hmem){H_STATE, NOREG, 1, ROOM_BIAS + (int32_t)(sizeof(struct room) + offsetof(struct vcpu, f))})
#define AT_CPU(f) AT_VCPU(cpu.f)

enum { /* host registers */
    H_AX, H_CX, H_DX, H_BX, H_STATE, H_BP, H_SI, H_DI, H_R8, H_GCX, H_S0, H_S1, H_R12, H_R13, H_R14, H_GSP,
};
/* Host register of a guest register; NOREG: in memory. */
extern const uint8_t tr_host[X86_NGPR];

/* What a block depends on besides its bytes. */
enum {
    TR_CTX = 3,      /* enum x86_tlb_ctx */
    TR_SSE = 1 << 2, /* SSE instructions raise neither #UD nor #NM */
    TR_AVX = 1 << 3,
    TR_SMAP = 1 << 6, /* CR4.SMAP: the context says what RFLAGS.AC is */
    TR_FP = 1 << 4,  /* all SIMD floating-point exceptions are masked */
    TR_PLAIN = 1 << 5, /* every access is looked up by itself */
};

/* In the arena, by offset. Its code is in the writable view at code, an exit to the dispatcher before the first instruction leave behind that. */
struct tr_block {
    uint64_t gpa;
    uint32_t pnext; /* of those of the page; 0: none */
    uint32_t code;
    uint16_t leave, bytes;
    uint8_t n, key;
    bool dead, crosses;
    /* Of a block that crosses into a second page only */
    uint64_t gpa2;
    uint32_t pnext2;
};
static inline size_t tr_block_size(bool crosses) { return crosses ? sizeof(struct tr_block) : offsetof(struct tr_block, gpa2); }
static inline uint64_t tr_gpa2(const struct tr_block *b) { return b->crosses ? b->gpa2 : NO_PAGE; }

/* Open addressing, four slots a cache line: a block is found without a look at it. */
struct tr_slot {
    uint64_t tag;   /* guest-physical address, TR_SLOT, key; 0: empty */
    uint32_t block; /* offset in the arena, in units of 8; TR_SLOT_* */
    uint32_t code;  /* offset in the code; 0: dead */
};
#define TR_SLOT_TAG(gpa, key) ((gpa) | 1ull << 55 | (uint64_t)(key) << 56)
#define TR_SLOT_CROSSES (1u << 31) /* into a second page */

/* What a function called by translated code returns: go on behind the call, leave to the dispatcher, or the code to go on at. */
struct tr_site;
typedef uintptr_t tr_fn(struct vcpu *v, struct tr_site *s);
enum { XL_ON, XL_LEAVE };

/* A point in a block that may call C, or an exit: what the code passes is its offset in the arena. There is one for nearly every access to memory, so
 * they are small: code by its offset in the cache, blocks by theirs, and what only some kinds have behind it, in a struct that begins with it. */
struct tr_site {
    uint32_t at;       /* code: to start the instruction anew. Exits: the displacement to link */
    uint16_t off;      /* in the page: of the instruction, or where the exit goes */
    uint8_t idx;       /* number of the instruction in the block */
    uint8_t size;
    union {
        struct {
            uint16_t next; /* code: behind the instruction, from at on */
            uint16_t op;
        };
        uint32_t block;    /* exits, windows */
    };
    uint8_t pg;
    uint8_t len : 4;
    uint8_t rep : 4;       /* string instructions with REP: bytes of an element; all RCX of them are accessed, size is 1 */
    uint8_t access : 2;
    bool redo : 1;         /* not a miss: the generic executor must do it */
    bool pair : 1;         /* memory at RSI and RDI is accessed; the entry of one must not displace that of the other */
};
struct tr_exec {
    struct tr_site s;
    tr_fn *fn;
    x86_exec_fn exec;
    struct x86_insn in;
};
struct tr_window {
    struct tr_site s;
    uint32_t link;           /* the displacement to patch */
    uint8_t own, own_size;   /* the instruction's own access in the window, which is what size and access are of otherwise */
    bool wide_write;         /* must be writable as a whole */
};
struct tr_far_exit {
    struct tr_site s;  /* at: the displacement of the jump that fails the check */
    uint32_t link, next; /* the displacement of the check; what is behind the block */
    int32_t to;        /* relative to the page */
    uint8_t tries, gap; /* links made or not to be made; see TR_FAR_* */
};
_Static_assert(sizeof(struct tr_site) == 16 && sizeof(struct tr_window) == 24 && sizeof(struct tr_far_exit) == 32, "most of the arena");

struct tr_page {
    uint64_t gpa;
    struct tr_page *next;
    uint32_t blocks, kills;
};

/* A far exit's code: LEA of minus the page it is valid in (its displacement; TR_FAR_NEVER: in none) and a check, then, gap behind the
 * displacement, MOV of the page it leads to, and TR_FAR_TO behind that operand a jump. */
enum { TR_FAR_NEVER = 2, TR_FAR_TO = 5, TR_FAR_TRIES = 16 };
/* Far links into a page, by linear address. */
struct tr_far {
    struct tr_far *next;
    uint8_t *at;
};
struct tr_far_page {
    uint64_t lin, gpa;
    struct tr_far_page *next;
    struct tr_far *links;
};
#define TR_FAR_BITS 8

#define TR_HASH_BITS(code) ((code) > TR_CODE_LEAST ? 17u : 16u)
#define TR_HASH_MAX(bits) (7u << ((bits) - 3)) /* slots in use */
#define TR_PAGE_BITS 10

struct tr_size {
    size_t cap; /* bytes of code at which the cache is emptied; whole pages */
    uint64_t since; /* CPU time of the thread when it was emptied last */
    unsigned built, again; /* of the blocks looked at: made since then, and had been there before */
    uint64_t seen[2][TR_SEEN / 64]; /* hashed sets of them: since then, and before */
};

struct tr_stats {
    uint64_t built, flushed, killed, misses, redone, calls, interp_blocks, interp_insns, steps, syncs, cleared;
    uint64_t entered, jumps, links; /* by the dispatcher; jump table misses; first uses of links */
    uint64_t cache_bytes;            /* of code, when last looked at */
    uint64_t by_op[X86_NOP_COUNT]; /* executor calls */
};
struct translate_counts {
    struct tr_stats st;
    struct direct_stats direct;
    struct direct_samples samples;
    uint64_t mapped; /* pages in worlds */
};

/* Per VM: counters of vCPUs that are gone. */
struct translate_vm {
    struct host_mutex *lock; /* vCPUs go at the same time */
    struct translate_counts gone;
};

struct translate {
    struct vcpu *v;
    struct interp *it;
    struct direct *direct; /* runs user code directly where that pays */
    struct room *room;
    uint64_t version, hard; /* mmu.version and mmu.hard the room's tables belong to */
    /* What RCX must be for translated code to go on where it checks something. 1: it does so by LOOP, which falls through then, and else jumps to a
     * jump nearby. 0: by JRCXZ over a jump, on processors where LOOP is slow. A taken branch for each lookup is what code with many blocks
     * suffers from most: more than processors remember. */
    uint8_t one;
    uint64_t cr3; /* room->direct is about */
    uint8_t key;
    bool turn; /* the interpreter's */
    bool uncounted; /* blocks do not count instructions */
    /* Slots in use whose page is not global: what a MOV to CR3 takes away. Of the TLB either slot of a pair stands for both. */
    struct tr_log {
        unsigned n; /* TR_LOG: too many to list */
        uint16_t slot[TR_LOG];
    } tlb_log[X86_TLB_NCTX], jump_log[X86_TLB_NCTX];
    uint64_t tlb_used[X86_TLB_NCTX][TR_WAYS / 64]; /* pairs of slots that may have pages */
    struct tr_parked *parked; /* TR_PARKED of them (park.c) */
    uint64_t jump_pages[2][TR_PAGE_SET / 64]; /* hashed sets of pages that were entered in the jump tables; [1]: global */

    uint8_t *rw, *rx;
    struct tr_size size;
    size_t used, base; /* code bytes; the first base are stubs */
    uint8_t *arena;
    size_t taken;
    struct tr_slot *hash;
    unsigned hash_bits;
    uint32_t nhash; /* slots in use, also by dead blocks */
    struct tr_page *pages[1u << TR_PAGE_BITS];
    struct tr_far_page *far[1u << TR_FAR_BITS];
    uint64_t walks; /* mmu's flushes that changed where addresses lead, when the room's tables were last brought up to date */
    uint32_t hot_steps;

    /* stubs, writable view */
    uint8_t *exec_stub, *miss_stub, *window_stub, *xmm_stub, *ymm_stub, *vector_save_stub, *leave_stub, *chain_stub, *goto_stub, *far_stub, *table_stub[X86_TLB_NCTX];
    uint8_t *way_stub[X86_TLB_NCTX][2], *window_way_stub[X86_TLB_NCTX][2]; /* by context and whether it is a write */
    void (*enter)(void *rsp, const uint8_t *code);

    struct tr_stats st;
};
static inline struct translate *translate_of(struct vcpu *v) { return v->engine_priv; }
static inline uint32_t tr_code_off(const struct translate *x, const uint8_t *writable) { return (uint32_t)(writable - x->rw); }
static inline uint32_t tr_arena_off(const struct translate *x, const void *p) { return (uint32_t)((const uint8_t *)p - x->arena); }
static inline struct tr_block *tr_block_at(const struct translate *x, uint32_t off) { return (void *)(x->arena + off); }
static inline uint8_t tr_ctx(const struct x86_cpu *c) { return (uint8_t)((unsigned)(c->mmu.cur - c->mmu.tlb[0]) / X86_TLB_SIZE); }
static inline unsigned tr_jump_slot(uint64_t lin) { return ((lin >> 12 | lin << 52) + lin) & (TR_JUMP_SIZE - 1); }
static inline const struct tr_jump *tr_jump_entry(const struct translate *x, uint64_t lin)
{
    return &x->room->jump[x->key & TR_CTX][tr_jump_slot(lin)];
}

/* --- stubs.c --- */
void tr_make_stubs(struct translate *x);

/* --- select.c --- */
/* Can a block go on behind the instruction, at offset off in its page, though it is a branch? */
bool tr_passes(const struct x86_insn *in, unsigned off);
/* Translate a decoded run; the code's place is in b->code. */
void tr_select(struct translate *x, struct tr_block *b, const struct x86_insn *ins, unsigned n);

/* --- select_branch.c --- */
/* The target in S0, the site's offset in tmp[2]: go there by the jump table. */
void tr_make_table_stubs(struct translate *x, struct emit *e);

/* --- tlb.c: the table of pages (struct tr_tlb) --- */
/* Enter a page, by its linear address, in its slot; what was there goes to the other. read, write: what is allowed, one at least; addend: from
 * linear to host addresses; local: it is not global. */
void tr_tlb_put(struct translate *x, unsigned ctx, uint64_t page, bool read, bool write, uint64_t addend, bool local);
/* Enter a page that had slot or the other one, unless other pages have both. */
void tr_tlb_put_back(struct translate *x, unsigned ctx, unsigned slot, const struct tr_tlb *e);
void tr_tlb_init(struct translate *x);
void tr_tlb_clear(struct translate *x, unsigned ctx);
void tr_tlb_drop_page(struct translate *x, unsigned ctx, uint64_t page);
/* What is not of global pages goes; to p, if that is not NULL. */
void tr_tlb_drop_local(struct translate *x, unsigned ctx, struct tr_parked *p);
/* way_stub, window_way_stub */
void tr_make_way_stubs(struct translate *x, struct emit *e);

/* --- park.c: what a MOV to CR3 takes from the tables, until the address space comes back --- */
int tr_park_init(struct translate *x);
/* Where to set aside what is taken now; NULL: nowhere. */
struct tr_parked *tr_park_begin(struct translate *x);
void tr_park_tlb(struct tr_parked *p, unsigned ctx, unsigned slot, const struct tr_tlb *e);
void tr_park_jump(struct tr_parked *p, unsigned ctx, unsigned slot, const struct tr_jump *e);
/* Put back what belongs to the address space that has come back, if anything. */
void tr_unpark(struct translate *x);
void tr_park_forget(struct translate *x);

/* --- size.c --- */
void tr_size_built(struct translate *x, const struct tr_block *b);
/* The cache is full and about to be emptied. now: CPU time of the thread, ns. */
void tr_size_full(struct translate *x, uint64_t now);
/* What the cache should hold, after ns of CPU time in which so many blocks were made, some of which had been there before. */
size_t tr_size_next(size_t cap, unsigned built, unsigned again, uint64_t ns);

/* --- windows.c --- */
/* From now on the lookup of w, if it fails, leads to code, of the rest of its block, in the executable view. */
void tr_link_window(struct translate *x, const struct tr_window *w, const uint8_t *code);

/* --- far.c: links between pages --- */
/* The exit of s, at the page's linear address from, was taken and leads to code at lin; cpu is there. Link it if that will hold. */
void tr_far_link(struct translate *x, struct tr_far_exit *s, uint64_t from, uint64_t lin, const uint8_t *code, uint64_t gpa);
/* What is linked may have gone from linear page page; from anywhere. */
void tr_far_check_page(struct translate *x, uint64_t page);
void tr_far_check_all(struct translate *x);

/* --- probe.c --- */
int tr_probe(const struct engine_config *cfg, char *reason, size_t cap);

/* --- select_simd.c --- */
void tr_make_vector_stubs(struct translate *x, struct emit *e);

/* --- cache.c --- */
/* one: see struct translate; -1: what suits the host. */
int tr_cache_init(struct translate *x, int one);
void tr_cache_fini(struct translate *x);
void tr_flush(void *x);
void tr_inval(void *x, uint64_t gpa, uint32_t len);
void tr_log(struct tr_log *l, unsigned slot);
/* The jump tables of a context have an entry of a page. */
void tr_jumps_to(struct translate *x, uint64_t lin, bool global);
/* Empty the jump tables. */
void tr_forget_jumps(struct translate *x);
/* Bring the room's tables up to date with mmu.version. */
void tr_sync(struct translate *x);
/* From the arena, aligned to 8. */
void *tr_take(struct translate *x, size_t size);
/* The code of the block at cpu->rip, executable view; *at is the block's address. NULL: the interpreter's turn, unless it->again. */
struct tr_found {
    uint64_t gpa;
    bool alone; /* in its page */
};
const uint8_t *tr_lookup(struct translate *x, struct tr_found *at);
/* Make the processor see code that was just changed. */
void tr_serialise(void);

/* --- run.c --- */
/* Is the state one that can be translated? The only such rule. */
bool tr_can_run(const struct vcpu *v);
/* CR3 changed, or what is run directly. */
void tr_see_space(struct translate *x);
/* May translated code run now? Brings the tables up to date. */
bool tr_ready(struct translate *x);
/* Where to go on at cpu->rip, exact on entry: the address of its code, cpu->rip becoming its page. 0: the dispatcher must see to
 * something first (requests, another mode), or, x->turn, it is the interpreter's turn. */
uintptr_t tr_next(struct translate *x);

/* --- helpers.c: called by translated code --- */
tr_fn xl_exec, xl_exec_end, xl_miss, xl_window, xl_goto, xl_chain, xl_far, xl_cli, xl_sti, xl_popf;

#endif
