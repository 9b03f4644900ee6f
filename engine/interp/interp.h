/*
 * The interpreter engine, in a nutshell. Guest code is decoded once into blocks
 * of micro-operations (struct uop), each a handler and its operands. A handler does
 * its work and jumps to the next one (direct threading by sibling calls). The last
 * one of a block finds the next block through a link, or by linear address
 * in the jump cache; everything unusual returns to the dispatcher (run.c).
 *
 * Blocks belong to one vCPU and are keyed by guest-physical address and mode,
 * so they are independent of linear addresses: cpu->rip holds the RIP of the running
 * block's start, and a uop knows its instruction's offset from there. The exact
 * RIP is made at faults, exits and calls of generic executors.
 *
 * Fast handlers never fault by themselves: on a TLB miss they go to interp_miss,
 * which fills the TLB and runs the handler again, or decodes the instruction
 * anew and gives it to the generic executors of x86/, which are exact.
 */
#ifndef ENGINE_INTERP_H
#define ENGINE_INTERP_H

#include "ringer/vm.h"
#include "x86/decode.h"
#include "x86/exec.h"
#include "x86/exec_int.h"
#include "x86/mmu.h"

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

struct uop;
typedef const struct uop *(*uop_fn)(struct x86_cpu *c, const struct uop *u);

struct uop {
    uop_fn fn;
    union {
        int64_t imm;
        const struct x86_insn *in;      /* generic, PICK_KEEP */
        const struct uop *link;         /* branches: where taken goes, NULL when not known yet */
    };
    union {
        struct {
            int32_t disp;
            uint8_t dst, src;    /* byte offsets into struct x86_cpu of registers (gpr is first; AH is 1) */
            uint8_t base, index; /* likewise; c->rip or c->zero where there is none */
        };
        x86_exec_fn exec;        /* generic */
        const struct uop *link2; /* branches: fall-through */
    };
    union {
        struct {
            uint8_t seg;   /* byte offset of the segment base, or of c->zero */
            uint8_t scale; /* shift */
            uint8_t aux;
            uint8_t pg;    /* Popek-Goldberg bits */
        };
        int32_t delta; /* branches: target relative to the start of the block */
    };
    uint16_t off; /* of the instruction from the start of the block */
    uint8_t idx;  /* number of the instruction in the block */
    uint8_t len;
};
_Static_assert(sizeof(struct uop) == 32, "two uops a cache line");
_Static_assert(offsetof(struct x86_cpu, gpr) == 0, "register offsets are byte offsets");
_Static_assert(offsetof(struct x86_cpu, seg) + sizeof(struct x86_seg) * X86_NSEG <= 256, "segment bases fit a byte");

#define BLOCK_MAX 48 /* instructions */
#define BLOCK_BYTES (BLOCK_MAX * X86_MAX_INSN)

struct block {
    struct block *hnext;    /* hash chain */
    struct block *pnext[2]; /* lists of blocks by page: of the first page, of the second */
    uint64_t gpa;           /* of the first byte */
    uint64_t gpa2;          /* second page, for the one instruction that crosses into it; else NO_PAGE */
    uint16_t bytes;
    uint8_t n;              /* instructions; instruction i is u[i], and u[n] goes on when the last one falls through */
    uint16_t key;           /* MODE_* */
    bool dead;
    _Alignas(64) struct uop u[];
};
static inline struct block *block_of(const struct uop *u)
{
    return (struct block *)(uintptr_t)((const char *)(u - u->idx) - offsetof(struct block, u));
}
#define NO_PAGE UINT64_MAX

/* What decoding and handler choice depend on. */
enum {
    MODE_BITS = 3,       /* enum x86_mode_bits */
    MODE_REAL = 1 << 2,  /* real or virtual-8086 */
    MODE_SS32 = 1 << 3,  /* 32-bit stack */
    MODE_FLAT = 1 << 4,  /* outside 64-bit mode: CS, DS, ES, SS have base 0, limit 4 GiB and plain types */
    MODE_FS = 1 << 5,    /* likewise FS, any base; with MODE_PLAIN any limit */
    MODE_GS = 1 << 6,
    MODE_PLAIN = 1 << 7, /* not flat, but DS, ES and SS are writable data segments that do not expand down */
    MODE_SSE = 1 << 8,   /* CR0 and CR4 let SSE instructions run */
    MODE_AVX = 1 << 9,   /* likewise those with VEX, by CR4 and XCR0 */
    MODE_USER = 1 << 10, /* only in the jump cache's key */
};
#define MODE_SHIFT 16 /* of mmu.version in the jump cache's key */

/* How branches and the stack work: 64-bit mode; flat 32-bit code; 16-bit code and stack, or 32-bit ones, in segments. */
enum flow { FLOW_NONE = -1, FLOW_64, FLOW_32, FLOW_SEG16, FLOW_SEG32, FLOW_COUNT };
static inline enum flow interp_flow(unsigned mode)
{
    const bool ss32 = mode & MODE_SS32;

    switch (mode & MODE_BITS) {
    case X86_MODE_64: return FLOW_64;
    case X86_MODE_32: return !ss32 ? FLOW_NONE : mode & MODE_FLAT ? FLOW_32 : mode & MODE_PLAIN ? FLOW_SEG32 : FLOW_NONE;
    default: return !ss32 && (mode & MODE_PLAIN) ? FLOW_SEG16 : FLOW_NONE;
    }
}
static inline unsigned interp_flow_size(enum flow f) { return f == FLOW_64 ? 8 : f == FLOW_SEG16 ? 2 : 4; }

struct jump {
    uint64_t lin, key;
    const struct uop *u;
};
#define JUMP_BITS 12
static inline unsigned jump_slot(uint64_t lin) { return (unsigned)((lin ^ lin >> JUMP_BITS) & ((1u << JUMP_BITS) - 1)); }

/* A guest-physical page from which blocks of this vCPU were made. */
struct cpage {
    uint64_t gpa;
    struct cpage *next;
    struct block *blocks;
    uint32_t kills; /* stores that hit code */
};

#define BLOCK_HASH_BITS 14
#define PAGE_HASH_BITS 10
#define ARENA_SIZE (32u << 20)
#define INVAL_QUEUE 256
#define HOT_KILLS 128u /* more of them and the page is no longer cached */
#define HOT_STEPS 100000u

struct inval {
    uint64_t gpa;
    uint32_t len;
};

/* An instruction that was decoded for a step (fetch.c). */
struct known {
    uint64_t bytes[2], mask[2]; /* what it was made of; the mask says which of them are its own */
    uint8_t how;                /* mode, and whether real or virtual-8086 */
    struct x86_insn in;         /* len 0: none */
};
#define KNOWN_BITS 12

/* A second cache of the same vCPU (of an engine that falls back on this one) that lives by the same code map: told of what is
 * invalidated, on the vCPU's own thread, or, flush, at a safe point. */
struct code_user {
    void (*inval)(void *ctx, uint64_t gpa, uint32_t len); /* whole 64-byte chunks around it have lost their mark */
    void (*flush)(void *ctx);
    void (*unwrite)(void *ctx, uint64_t page); /* a page becomes code: write translations of it the engine has elsewhere must go. May be NULL */
    void *ctx;
};

struct interp {
    struct vcpu *v;
    uint64_t key;      /* jump cache key: mmu.version and mode; set by the dispatcher */
    uint16_t mode;     /* MODE_*, without MODE_USER */
    struct code_user also;
    const struct uop *missed; /* the last uop that missed the TLB */
    bool again;        /* the lookup failed because of something that has been seen to: try again */
    struct jump jump[1u << JUMP_BITS];

    struct block *hash[1u << BLOCK_HASH_BITS];
    struct cpage *pages[1u << PAGE_HASH_BITS];
    uint8_t *arena;
    size_t used;
    struct known *known; /* 1 << KNOWN_BITS */
    uint32_t hot_steps;
    _Atomic bool kicked;

    /* Invalidations by others, for this vCPU to apply at a block boundary. */
    struct host_mutex *qlock;
    unsigned nq;
    bool qfull; /* more than fit: drop everything */
    struct inval q[INVAL_QUEUE];

    uint64_t built, flushed, killed, stepped;
};

/* Per VM. The chunk map says which 64-byte parts of a RAM page some vCPU has blocks of; guarded with the page's GPA_PF_CODE by lock. */
struct interp_vm {
    x86_exec_fn exec[X86_NOP_COUNT];
    struct host_mutex *lock;
    const struct gpa_map *ram;
    uint64_t *chunks; /* one word per page of guest RAM */
    struct gpa_range *memory; /* RAM and ROM of the map last committed */
    unsigned nmemory;
};

static inline struct interp *interp_of(struct x86_cpu *c) { return vcpu_of(c)->interp_priv; }
static inline struct interp_vm *interp_vm_of(struct x86_cpu *c) { return vcpu_of(c)->vm->interp_priv; }

/* --- handlers ------------------------------------------------------------- */

#define UOP(name) const struct uop *name(struct x86_cpu *c, const struct uop *u)
#if defined(INTERP_TAIL_CALLS) && defined(__has_attribute) && __has_attribute(musttail)
#define GOTO(p)                                                                                                        \
    do {                                                                                                               \
        const struct uop *p_ = (p);                                                                                    \
        __attribute__((musttail)) return p_->fn(c, p_);                                                                \
    } while (0)
#elif defined(INTERP_TAIL_CALLS) /* -foptimize-sibling-calls makes a jump of it */
#define GOTO(p)                                                                                                        \
    do {                                                                                                               \
        const struct uop *p_ = (p);                                                                                    \
        return p_->fn(c, p_);                                                                                          \
    } while (0)
#else /* the dispatcher calls what is returned */
#define GOTO(p) return (p)
#endif
#define NEXT GOTO(u + 1)

#define AT(T, o) (*(T *)((char *)c + (o)))
#define R8(o) AT(uint8_t, o)
#define R16(o) AT(uint16_t, o)
#define R32(o) AT(uint32_t, o)
#define R64(o) AT(uint64_t, o)

/* Linear address of the memory operand of n bytes. B: base and displacement, G: everything, W and L: likewise modulo
 * 4 GiB, S: in a segment with a limit; beyond it, an address that is in no TLB and no mode. */
#define NO_LIN (1ull << 63)
#define LIN_B(n) (R64(u->base) + (uint64_t)(int64_t)u->disp)
#define LIN_G(n) (R64(u->base) + (R64(u->index) << u->scale) + (uint64_t)(int64_t)u->disp + R64(u->seg))
#define LIN_L(n) ((uint64_t)(uint32_t)LIN_G(n))
#define LIN_W(n) ((uint64_t)(uint32_t)LIN_B(n))
#define LIN_S(n) interp_in_seg(c, u->seg, OFF_S, (n))
/* The offset alone, 16 or 32 bits of it. */
#define OFF_S ((uint32_t)(R64(u->base) + (R64(u->index) << u->scale) + (uint64_t)(int64_t)u->disp) << u->aux >> u->aux)
_Static_assert(offsetof(struct x86_seg, limit) == 8 && offsetof(struct x86_seg, base) == 0, "see interp_in_seg");
static inline uint64_t interp_in_seg(const struct x86_cpu *c, unsigned seg, uint32_t off, unsigned n)
{
    const struct x86_seg *s = (const struct x86_seg *)((const char *)c + seg);

    return UNLIKELY((uint64_t)off + n - 1 > s->limit) ? NO_LIN : (uint32_t)(off + s->base);
}

/* Stack in handlers named by operand size: 8 and 4 flat, 2 and 5 (4 bytes) in a segment. */
#define STACK_OFF8(v) (v)
#define STACK_OFF4(v) ((uint64_t)(uint32_t)(v))
#define STACK_OFF2(v) ((uint64_t)(uint16_t)(v))
#define STACK_OFF5 STACK_OFF4
#define STACK_LIN8(off, n) (off)
#define STACK_LIN4(off, n) (off)
#define STACK_LIN2(off, n) interp_in_seg(c, offsetof(struct x86_cpu, seg[X86_SS]), (uint32_t)(off), (n))
#define STACK_LIN5 STACK_LIN2
#define STACK_SET8(v) (R64(X86_RSP * 8) = (v))
#define STACK_SET4(v) (R64(X86_RSP * 8) = (uint32_t)(v))
#define STACK_SET2(v) (R16(X86_RSP * 8) = (uint16_t)(v))
#define STACK_SET5 STACK_SET4
#define STACK_PUT8(o, v) (R64(o) = (v))
#define STACK_PUT4(o, v) (R64(o) = (uint32_t)(v))
#define STACK_PUT2(o, v) (R16(o) = (uint16_t)(v))
#define STACK_PUT5 STACK_PUT4

/* how: access | size << 8 */
UOP(interp_generic);
UOP(interp_generic_end);
const struct uop *interp_insn(struct x86_cpu *c, const struct uop *u); /* the exact way, for uops that keep their instruction */
UOP(interp_redo);
const struct uop *interp_miss(struct x86_cpu *c, const struct uop *u, uint64_t lin, unsigned how);
/* Branch to another instruction of the same page, not linked yet; link is in the branch's uop. */
const struct uop *interp_chain(struct x86_cpu *c, const struct uop **link);
/* Not in the jump cache. */
const struct uop *interp_chain_far(struct x86_cpu *c);
/* Links to other pages point here: the jump cache knows whether the linear address still leads there. */
extern const struct uop interp_far_link[FLOW_COUNT];
/* Likewise, for a taken branch in 64-bit mode: a copy of the branch with this handler, which looks at the target first. */
UOP(interp_far_taken);

#define LOAD(T, var, lin)                                                                                              \
    const uint64_t lin_##var = (lin);                                                                                  \
    const uint64_t host_##var = x86_tlb_host_r(c, lin_##var, sizeof(T));                                               \
    if (UNLIKELY(!host_##var))                                                                                         \
        return interp_miss(c, u, lin_##var, X86_READ | sizeof(T) << 8);                                                \
    const T var = *(const T *)host_##var
#define PLACE(T, ptr, lin)                                                                                             \
    const uint64_t lin_##ptr = (lin);                                                                                  \
    T *const ptr = (T *)x86_tlb_host_w(c, lin_##ptr, sizeof(T));                                                       \
    if (UNLIKELY(!ptr))                                                                                                \
    return interp_miss(c, u, lin_##ptr, X86_WRITE | sizeof(T) << 8)

/* For locked instructions: across cache lines they go the exact way (x86_dst_begin_lin). */
#define PLACE_LOCKED(T, ptr, lin)                                                                                      \
    const uint64_t at_##ptr = (lin);                                                                                   \
    if (UNLIKELY((at_##ptr & 63) + sizeof(T) > 64))                                                                    \
        return interp_redo(c, u);                                                                                      \
    PLACE(T, ptr, at_##ptr)

#define FLAGS_OUT X86_FLAGS_OUT
/* Source operands: gcc takes memory when that saves a load, clang would spill to have it. */
#ifdef __clang__
#define SRC "q"
#else
#define SRC "qm"
#endif

/* Tables of handlers for the selector (select.c). Sizes 1, 2, 4, 8 bytes are columns 0-3; addressing: see LIN_B. */
enum { AM_B, AM_G, AM_L, AM_W, AM_S, AM_COUNT };
enum { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST, ALU_COUNT };
extern const uop_fn interp_alu_rr[ALU_COUNT][4], interp_alu_ri[ALU_COUNT][4];
extern const uop_fn interp_alu_rr_nf[ALU_COUNT][4], interp_alu_ri_nf[ALU_COUNT][4]; /* flags dead; NULL: none */
extern const uop_fn interp_alu_rm[ALU_COUNT][4][AM_COUNT], interp_alu_mr[ALU_COUNT][4][AM_COUNT],
    interp_alu_mi[ALU_COUNT][4][AM_COUNT];
enum { UN_INC, UN_DEC, UN_NEG, UN_NOT, UN_COUNT };
extern const uop_fn interp_un_r[UN_COUNT][4], interp_un_m[UN_COUNT][4][AM_COUNT];
enum { SH_SHL, SH_SHR, SH_SAR, SH_ROL, SH_ROR, SH_COUNT };
extern const uop_fn interp_sh_ri[SH_COUNT][4], interp_sh_rc[SH_COUNT][4];
extern const uop_fn interp_shld[2], interp_shrd[2]; /* r, r, imm: 4, 8 bytes */
extern const uop_fn interp_imul_rr[3], interp_imul_rri[3], interp_imul_rm[3][AM_COUNT], interp_imul_rmi[3][AM_COUNT]; /* 2, 4, 8 bytes */
extern const uop_fn interp_mul1[2][2], interp_div1[2][2]; /* [signed][8 bytes], register operand */
extern const uop_fn interp_bt_ri[4][2]; /* bt bts btr btc; 4, 8 bytes */
extern const uop_fn interp_bt_rr[2];
enum { SCAN_BSF, SCAN_BSR, SCAN_TZCNT, SCAN_LZCNT, SCAN_POPCNT, SCAN_COUNT };
extern const uop_fn interp_scan[SCAN_COUNT][2];

extern const uop_fn interp_mov_rr[4], interp_mov_ri[4], interp_mov_rm[4][AM_COUNT], interp_mov_mr[4][AM_COUNT],
    interp_mov_mi[4][AM_COUNT];
/* [signed][source 0: byte 1: word 2: dword][destination size column] */
extern const uop_fn interp_movx_rr[2][3][4], interp_movx_rm[2][3][4][AM_COUNT];
extern const uop_fn interp_lea[4][AM_COUNT]; /* AM_L, AM_W: address size 4; AM_S: no segment is added */
extern const uop_fn interp_xchg_rr[4], interp_xchg_rm[4][AM_COUNT];
extern const uop_fn interp_cmpxchg[4][2][AM_COUNT], interp_xadd_lock[4][AM_COUNT], interp_alu_lock_mr[ALU_COUNT][4][AM_COUNT],
    interp_alu_lock_mi[ALU_COUNT][4][AM_COUNT], interp_un_lock_m[UN_COUNT][4][AM_COUNT];
extern const uop_fn interp_widen[2][4]; /* CBW, CWD by operand size column */
extern const uop_fn interp_setcc[16], interp_cmov_rr[16][4], interp_cmov_rm[16][4][AM_COUNT];
extern const uop_fn interp_push_r[FLOW_COUNT], interp_push_i[FLOW_COUNT], interp_push_m[FLOW_COUNT][AM_COUNT], interp_pop_r[FLOW_COUNT],
    interp_leave[FLOW_COUNT];
UOP(interp_nop);
UOP(interp_bswap4);
UOP(interp_bswap8);

extern const uop_fn interp_jcc[FLOW_COUNT][16], interp_call[FLOW_COUNT], interp_jmp[FLOW_COUNT], interp_ret[FLOW_COUNT],
    interp_ret_imm[FLOW_COUNT], interp_jmp_r[FLOW_COUNT], interp_call_r[FLOW_COUNT], interp_jmp_m[FLOW_COUNT][AM_COUNT],
    interp_call_m[FLOW_COUNT][AM_COUNT], interp_fall[FLOW_COUNT], interp_loop[FLOW_COUNT], interp_jcxz[FLOW_COUNT];
/* Compare or test fused with the conditional branch in the next uop. [0] cmp [1] test, [size], [condition]; memory by its simplest address. */
extern const uop_fn interp_fuse_rr[FLOW_COUNT][2][4][16], interp_fuse_ri[FLOW_COUNT][2][4][16], interp_fuse_mi[FLOW_COUNT][2][4][16],
    interp_fuse_rm[FLOW_COUNT][2][4][16];
/* [0] 4 bytes, [1] 8 bytes in 64-bit mode, [2] 4 bytes in 32-bit mode; NULL where there is none */
extern const uop_fn interp_fuse_alu_rr[ALU_COUNT][3][16], interp_fuse_alu_ri[ALU_COUNT][3][16], interp_fuse_un[2][3][16];

UOP(interp_cli);
UOP(interp_sti);
UOP(interp_stop);
extern const uop_fn interp_pushf[2], interp_popf[2];
UOP(interp_dead);
UOP(interp_forward);

/* --- select.c --------------------------------------------------------------- */

/* What the builder passes on. */
struct pick {
    const struct x86_insn *in;
    struct uop *u;         /* where the uop goes: zeroed, with off, idx and len filled in */
    uint16_t mode;         /* MODE_* */
    x86_exec_fn exec;      /* generic executor */
};
enum pick_result {
    PICK_NEXT,    /* falls through to the next uop */
    PICK_KEEP,    /* likewise, and uop.in is wanted */
    PICK_END,     /* ends the block */
    PICK_GENERIC, /* no fast handler: a generic uop, falls through */
    PICK_GENERIC_END,
};
enum pick_result interp_pick(const struct pick *p);
bool interp_pick_sse(const struct x86_insn *in, struct uop *u, unsigned mode, int am); /* h_sse.c */
/* Join a compare in u[0] and the conditional branch in u[1], if there is a handler for the pair. */
void interp_fuse(struct uop *u, const struct x86_insn *cmp, const struct x86_insn *jcc, unsigned mode);
/* The same operation without storing flags, or NULL. */
uop_fn interp_flagless(const struct x86_insn *in);

/* --- cache.c ------------------------------------------------------------------ */

int interp_cache_init(struct interp *it);
void interp_cache_fini(struct interp *it);
void interp_cache_flush(struct interp *it);
/* The block at the current CS:RIP, built if need be. NULL: execute one instruction without the cache (or it faults), unless it->again. */
const struct uop *interp_lookup(struct interp *it);
void interp_inval_own(struct interp *it, uint64_t gpa, uint32_t len);
void interp_inval_queued(struct interp *it);
void interp_code_inval(struct vm *vm, struct vcpu *writer, uint64_t gpa, uint32_t len);

/* Where the bytes of a block come from. */
struct source {
    uint64_t gpa, gpa2; /* of the first byte; page of the continuation, NO_PAGE until it is needed */
    const uint8_t *host, *host2;
    unsigned room; /* bytes to the end of the first page */
};
/* Announce that [gpa, gpa + len), inside one page, is about to be decoded. False: others had to be stopped, and this
 * vCPU's own view may have changed meanwhile: look up anew. */
bool interp_mark(struct interp *it, uint64_t gpa, uint32_t len);
/* Decode a run of instructions at lin, at most BLOCK_MAX, in it->mode, and mark their bytes as code. 0: none; it->again as above. */
unsigned interp_discover(struct interp *it, struct source *s, uint64_t lin, struct x86_insn ins[BLOCK_MAX], unsigned *bytes);

/* --- for engines that fall back on this one ------------------------------------------ */

/* Serve requests. False: leave run, *exit says why. */
bool interp_serve(struct interp *it, struct vcpu_exit *exit);
/* Conditions that blocks do not look at: one instruction at a time while they hold. */
bool interp_needs_steps(const struct x86_cpu *c);
/* Exactly one instruction; blocks from here until something returns to the dispatcher. */
void interp_step_one(struct interp *it);
void interp_blocks(struct interp *it);
/* Must a block end behind an instruction that is left to its generic executor? */
bool interp_generic_ends(const struct x86_insn *in, uint8_t mode, x86_exec_fn exec);

/* --- run.c ---------------------------------------------------------------------- */

/* Raise what cpu->exc says. */
void interp_deliver(struct x86_cpu *c);
/* Fetch and decode at CS:RIP, through page boundaries. X86_OK or X86_FAULT. */
int interp_fetch(struct x86_cpu *c, struct x86_insn *in);
/* Likewise, for steps: decoded only if these bytes were not, here and in this mode. NULL: it faulted. Valid until the next call. */
const struct x86_insn *interp_fetch_known(struct interp *it);

#endif
