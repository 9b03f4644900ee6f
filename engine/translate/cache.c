/*
 * Translated blocks: found, made, killed. Self-modifying code follows the interpreter's
 * protocol (engine/interp/cache.c), which marks pages and tells us of stores into code; a killed block's
 * first instruction becomes a jump to its exit, or to its successor once there is one, so links to it stay.
 */
#include <cpuid.h>
#include <stdlib.h>

#include "engine/translate/translate.h"

#define OFFS 0xfffull
#define MASK_PAGE (~OFFS)

/* Neighbours share a line. */
static unsigned block_slot(const struct translate *x, uint64_t gpa, uint8_t key)
{
    const uint64_t line = ((gpa >> 5) ^ (uint64_t)key << 52) * 0x9e3779b97f4a7c15ull >> (66 - x->hash_bits);

    return (unsigned)line << 2 | (gpa >> 3 & 3);
}
static unsigned page_slot(uint64_t gpa) { return (unsigned)((gpa >> 12) * 0x9e3779b97f4a7c15ull >> (64 - TR_PAGE_BITS)); }

/* Code was changed through one address and will be run through another: serialise (SDM Vol. 3A, 9.1.3) without leaving the guest of
 * whatever hypervisor we may be in, as CPUID would. */
void tr_serialise(void)
{
    uint64_t tmp;

    __asm__ volatile("mov %%ss, %k0; sub $128, %%rsp; lea 8(%%rsp), %%r8; push %0; push %%r8; pushfq; mov %%cs, %k0; push %0; lea 1f(%%rip), %0; push %0; iretq; 1: add $120, %%rsp"
                     : "=&r"(tmp)
                     :
                     : "r8", "memory", "cc");
}

/* An entry of zeros would match address one, which has slot one. */
static void drop_jump(struct translate *x, unsigned ctx, unsigned slot)
{
    x->room->jump[ctx][slot] = (struct tr_jump){.nlin = slot == x->one ? 0 - 1ull : 0};
}

static void clear_jump(struct translate *x, unsigned ctx)
{
    memset(x->room->jump[ctx], 0, sizeof(x->room->jump[ctx]));
    drop_jump(x, ctx, x->one);
    x->jump_log[ctx].n = 0;
}

void tr_forget_jumps(struct translate *x)
{
    for (unsigned i = 0; i < X86_TLB_NCTX; i++)
        clear_jump(x, i);
    memset(x->jump_pages, 0, sizeof(x->jump_pages));
    tr_park_forget(x);
}

void tr_log(struct tr_log *l, unsigned slot)
{
    if (l->n < TR_LOG)
        l->slot[l->n++] = (uint16_t)slot;
}

static unsigned page_hash(uint64_t lin) { return (unsigned)((lin >> 12) * 0x9e3779b97f4a7c15ull >> 50); }
_Static_assert(TR_PAGE_SET == 1u << (64 - 50), "page_hash");
void tr_jumps_to(struct translate *x, uint64_t lin, bool global)
{
    x->jump_pages[global][page_hash(lin) / 64] |= 1ull << (page_hash(lin) % 64);
}
static bool jumped_to(const struct translate *x, uint64_t lin)
{
    const unsigned h = page_hash(lin);

    return (x->jump_pages[0][h / 64] | x->jump_pages[1][h / 64]) >> (h % 64) & 1;
}

static void drop_page(struct translate *x, uint64_t page)
{
    for (unsigned c = 0; c < X86_TLB_NCTX; c++) {
        tr_tlb_drop_page(x, c, page);
        if (jumped_to(x, page) || jumped_to(x, page - 0x1000)) /* blocks may reach into the page from the one before */
            for (unsigned i = 0; i < TR_JUMP_SIZE; i++)
                if (page - x->room->jump[c][i].page <= 0x1000)
                    drop_jump(x, c, i);
    }
}

static void drop_nonglobal(struct translate *x)
{
    struct tr_parked *p = tr_park_begin(x);

    memset(x->jump_pages[0], 0, sizeof(x->jump_pages[0]));
    for (unsigned c = 0; c < X86_TLB_NCTX; c++) {
        struct tr_log *j = &x->jump_log[c];

        tr_tlb_drop_local(x, c, p);
        if (j->n == TR_LOG)
            clear_jump(x, c);
        for (unsigned i = 0; i < j->n; i++) {
            tr_park_jump(p, c, j->slot[i], &x->room->jump[c][j->slot[i]]);
            drop_jump(x, c, j->slot[i]);
        }
        j->n = 0;
    }
    tr_unpark(x);
}

void tr_sync(struct translate *x)
{
    const struct x86_mmu *m = &x->v->cpu.mmu;

    const uint64_t walks = m->all_flushes + m->nonglobal_flushes + m->page_flushes;

    if (m->hard == x->hard) {
        drop_nonglobal(x);
    } else if (m->version == x->version + 1 && m->page_version == m->version) {
        drop_page(x, m->flushed_page);
        tr_far_check_page(x, m->flushed_page);
    } else {
        for (unsigned i = 0; i < X86_TLB_NCTX; i++)
            tr_tlb_clear(x, i);
        tr_park_forget(x);
        if (walks != x->walks) { /* else write translations alone were taken away */
            tr_forget_jumps(x);
            tr_far_check_all(x);
        }
        x->st.cleared++;
    }
    x->walks = walks;
    x->version = m->version;
    x->hard = m->hard;
    x->st.syncs++;
}

/* LOOP is one or two operations on AMD's processors, some seven on Intel's. */
static bool loop_is_fast(void)
{
    uint32_t r[4];

    __cpuid(0, r[0], r[1], r[2], r[3]);
    return (r[1] == 0x68747541 && r[2] == 0x444d4163) || (r[1] == 0x6f677948 && r[2] == 0x656e6975); /* AuthenticAMD, HygonGenuine */
}

int tr_cache_init(struct translate *x, int one)
{
    void *rw, *rx;

    x->one = one < 0 ? loop_is_fast() : (uint8_t)one;

    x->arena = host_ram_alloc(TR_ARENA_SIZE, NULL);
    x->hash_bits = TR_HASH_BITS(TR_CODE_LEAST);
    x->hash = calloc(1u << x->hash_bits, sizeof(*x->hash));
    if (!x->arena || !x->hash || tr_park_init(x) || host_exec_alloc(TR_CODE_SIZE, &rw, &rx))
        return -1;
    x->rw = rw;
    x->rx = rx;
    x->taken = 64;
    x->size = (struct tr_size){.cap = TR_CODE_LEAST};
    x->room->tlb_mask = (uint64_t)(TR_TLB_SIZE - 1) * sizeof(struct tr_tlb);
    x->room->jump_mask = (uint64_t)(TR_JUMP_SIZE - 1) * sizeof(struct tr_jump);
    x->room->host_mxcsr = 0x1f80;
    x->room->xmm_dead = x->room->ymm_dead = 1;
    x->room->not_if = 0xffffffffu & ~(uint32_t)X86_FL_IF;
    x->room->arith = X86_FL_ARITH;
    x->room->fsgsbase = X86_CR4_FSGSBASE;
    x->room->df = X86_FL_DF;
    x->room->sce = X86_EFER_SCE;
    x->room->masked = X86_FL_ARITH | X86_FL_AC;
    x->room->upper = ~0ull << 47;
    x->room->stepped = X86_FL_TF | X86_FL_AC;
    x->room->not_df = 0xffffffffu & ~(uint32_t)X86_FL_DF;
    for (unsigned i = 0; i < 7; i++)
        x->room->align_mask[i] = (1u << i) - 1;
    tr_tlb_init(x);
    tr_forget_jumps(x);
    tr_make_stubs(x);
    return 0;
}

void tr_cache_fini(struct translate *x)
{
    host_exec_free(x->rw, x->rx, TR_CODE_SIZE);
    host_ram_free(x->arena, TR_ARENA_SIZE, -1);
    free(x->hash);
    free(x->parked);
}

/* Of translations, when they have filled the cache. Pages stay marked as code, so what worlds execute is still told of stores. */
static void empty(struct translate *x)
{
    const unsigned bits = TR_HASH_BITS(x->size.cap);
    struct tr_slot *other = bits != x->hash_bits ? calloc(1u << bits, sizeof(*other)) : NULL;

    if (other) {
        free(x->hash);
        x->hash = other;
        x->hash_bits = bits;
    } else {
        memset(x->hash, 0, sizeof(*x->hash) << x->hash_bits);
    }
    x->nhash = 0;
    memset(x->pages, 0, sizeof(x->pages));
    memset(x->far, 0, sizeof(x->far));
    tr_forget_jumps(x);
    x->used = x->base;
    x->taken = 64;
    x->st.flushed++;
    tr_serialise();
}

void tr_flush(void *ctx)
{
    struct translate *x = ctx;

    empty(x);
    direct_flush(x->direct);
}

void *tr_take(struct translate *x, size_t size)
{
    void *p = x->arena + x->taken;

    x->taken += (size + 7) & ~(size_t)7;
    return p;
}

static struct tr_page *find_page(struct translate *x, uint64_t page)
{
    struct tr_page *p = x->pages[page_slot(page)];

    while (p && p->gpa != page)
        p = p->next;
    return p;
}

static struct tr_page *get_page(struct translate *x, uint64_t page)
{
    struct tr_page *p = find_page(x, page), **head = &x->pages[page_slot(page)];

    if (p)
        return p;
    p = tr_take(x, sizeof(*p));
    *p = (struct tr_page){.gpa = page, .next = *head};
    *head = p;
    return p;
}

/* --- the hash -------------------------------------------------------------------------- */

static struct tr_block *block_of_slot(const struct translate *x, const struct tr_slot *h)
{
    return tr_block_at(x, (h->block & ~TR_SLOT_CROSSES) * 8);
}

static struct tr_slot *after(const struct translate *x, struct tr_slot *h) { return x->hash + ((h - x->hash + 1) & ((1 << x->hash_bits) - 1)); }

/* The slot of b or of a dead one like it, else an empty one. */
static struct tr_slot *slot_for(const struct translate *x, const struct tr_block *b)
{
    const uint64_t tag = TR_SLOT_TAG(b->gpa, b->key);
    struct tr_slot *h = &x->hash[block_slot(x, b->gpa, b->key)];

    while (h->tag && (h->tag != tag || tr_gpa2(block_of_slot(x, h)) != tr_gpa2(b)))
        h = after(x, h);
    return h;
}

static void put(struct translate *x, struct tr_slot *h, const struct tr_block *b)
{
    x->nhash += !h->tag;
    h->tag = TR_SLOT_TAG(b->gpa, b->key);
    h->block = tr_arena_off(x, b) / 8 | (b->crosses ? TR_SLOT_CROSSES : 0);
    h->code = b->code;
}

/* Forget dead blocks. False: there are too many live ones. */
static bool rehash(struct translate *x)
{
    struct tr_slot *old = x->hash, *fresh = calloc(1u << x->hash_bits, sizeof(*fresh));

    if (!fresh)
        return false;
    x->hash = fresh;
    x->nhash = 0;
    for (unsigned i = 0; i < 1u << x->hash_bits; i++)
        if (old[i].code) {
            const struct tr_block *b = block_of_slot(x, &old[i]);

            put(x, slot_for(x, b), b);
        }
    free(old);
    return x->nhash < TR_HASH_MAX(x->hash_bits) / 8 * 7;
}

/* --- invalidation ------------------------------------------------------------------ */

static void forward(const uint8_t *to, uint8_t *code)
{
    struct emit e = {code, code, 0};

    e_jmp(&e, to);
}

static void drop(struct translate *x, struct tr_block *b)
{
    uint8_t *const code = x->rw + b->code;

    b->dead = true;
    slot_for(x, b)->code = 0;
    forward(code + b->leave, code);
    x->st.killed++;
}

static bool touches(const struct tr_block *b, uint64_t page, uint64_t lo, uint64_t hi)
{
    const uint64_t first = MASK_PAGE & b->gpa, end = b->gpa + b->bytes;

    if (first == page && b->gpa < hi && end > lo)
        return true;
    return tr_gpa2(b) == page && lo < page + (end - first - 0x1000);
}

void tr_inval(void *ctx, uint64_t gpa, uint32_t len)
{
    struct translate *x = ctx;
    const uint64_t page = gpa & MASK_PAGE, lo = gpa & ~63ull, hi = (gpa + len + 63) & ~63ull;
    struct tr_page *p = find_page(x, page);
    bool hit = false;

    direct_inval(x->direct, gpa, len);
    if (!p)
        return;
    for (uint32_t *l = &p->blocks; *l;) {
        struct tr_block *b = tr_block_at(x, *l);
        uint32_t *next = (b->gpa & MASK_PAGE) != page ? &b->pnext2 : &b->pnext;

        if (!b->dead && touches(b, page, lo, hi)) {
            drop(x, b);
            hit = true;
        }
        if (b->dead)
            *l = *next;
        else
            l = next;
    }
    if (hit) {
        p->kills++;
        tr_serialise();
    }
}

/* --- making ---------------------------------------------------------------------------- */

static void enter(struct translate *x, struct tr_block *b)
{
    struct tr_slot *h = slot_for(x, b);
    struct tr_page *p;

    if (h->tag)
        forward(x->rw + b->code, x->rw + block_of_slot(x, h)->code);
    put(x, h, b);
    p = get_page(x, b->gpa & MASK_PAGE);
    b->pnext = p->blocks;
    p->blocks = tr_arena_off(x, b);
    if (b->crosses) {
        p = get_page(x, b->gpa2);
        b->pnext2 = p->blocks;
        p->blocks = tr_arena_off(x, b);
    }
    tr_size_built(x, b);
    x->st.built++;
}

static struct tr_block *build(struct translate *x, struct source *s, uint64_t lin)
{
    struct x86_insn ins[TR_BLOCK_MAX];
    const size_t worst = 2048 + TR_BLOCK_MAX * (sizeof(struct tr_exec) + 8 * sizeof(struct tr_far_exit));
    unsigned n, bytes;

    x->it->mode = X86_MODE_64;
    x->it->again = false;
    n = interp_discover(x->it, s, lin, ins, &bytes);
    if (!n)
        return NULL;
    for (unsigned at = bytes; s->gpa2 == NO_PAGE && n < TR_EXTEND && at + X86_MAX_INSN < s->room; at += bytes) {
        struct source more = {.host = s->host + at, .gpa = s->gpa + at, .gpa2 = NO_PAGE, .room = s->room - at};

        if (!tr_passes(&ins[n - 1], (unsigned)((s->gpa & OFFS) + at) - ins[n - 1].len))
            break;
        const unsigned k = interp_discover(x->it, &more, lin + at, &ins[n], &bytes);

        if (!k && x->it->again)
            return NULL;
        if (!k)
            break;
        n += k;
    }
    if (x->taken + worst > TR_ARENA_FOR(x->size.cap) || x->used + TR_BLOCK_CODE > x->size.cap || (x->nhash >= TR_HASH_MAX(x->hash_bits) && !rehash(x))) {
        tr_size_full(x, host_thread_cpu_ns());
        empty(x);
    }
    const bool crosses = s->gpa2 != NO_PAGE;
    struct tr_block *b = tr_take(x, tr_block_size(crosses));

    memset(b, 0, tr_block_size(crosses));
    b->gpa = s->gpa;
    b->key = x->key;
    b->crosses = crosses;
    if (crosses)
        b->gpa2 = s->gpa2;
    tr_select(x, b, ins, n);
    enter(x, b);
    return b;
}

static bool hot(struct translate *x, uint64_t page)
{
    const struct tr_page *p = find_page(x, page);

    if (!p || p->kills < HOT_KILLS)
        return false;
    if (++x->hot_steps >= HOT_STEPS) {
        x->hot_steps = 0;
        for (unsigned i = 0; i < 1u << TR_PAGE_BITS; i++)
            for (struct tr_page *q = x->pages[i]; q; q = q->next)
                q->kills = 0;
    }
    return true;
}

/* The slot of the block with the bytes at s. NULL: none. Looks up s->gpa2 if it has to, *fault if it cannot. */
static const struct tr_slot *find(struct translate *x, struct source *s, uint64_t lin, bool *fault)
{
    const uint64_t tag = TR_SLOT_TAG(s->gpa, x->key);

    for (struct tr_slot *h = &x->hash[block_slot(x, s->gpa, x->key)]; h->tag; h = after(x, h)) {
        if (h->tag != tag || !h->code)
            continue;
        if (LIKELY(!(h->block & TR_SLOT_CROSSES)))
            return h;
        if (s->gpa2 == NO_PAGE && (x86_fetch_page(&x->v->cpu, (lin | OFFS) + 1, &s->host2, &s->gpa2) || !s->host2)) {
            *fault = true;
            return NULL;
        }
        if (tr_gpa2(block_of_slot(x, h)) == s->gpa2)
            return h;
    }
    return NULL;
}

const uint8_t *tr_lookup(struct translate *x, struct tr_found *at)
{
    struct x86_cpu *c = &x->v->cpu;
    const uint64_t lin = c->rip;
    struct source s = {.gpa2 = NO_PAGE};
    bool crosses, fault = false;
    const uint8_t *code;

    x->it->again = false;
    if (!x86_canonical(lin) || x86_fetch_page(c, lin, &s.host, &s.gpa) || !s.host)
        return NULL;
    s.host += lin & OFFS;
    s.gpa |= lin & OFFS;
    s.room = 0x1000 - (unsigned)(lin & OFFS);
    at->gpa = s.gpa;

    const struct tr_slot *h = find(x, &s, lin, &fault);

    if (LIKELY(h != NULL)) {
        crosses = h->block & TR_SLOT_CROSSES;
        code = x->rx + h->code;
    } else {
        s.gpa2 = NO_PAGE;
        if (fault || hot(x, s.gpa & MASK_PAGE))
            return NULL;

        const struct tr_block *b = build(x, &s, lin);

        if (!b)
            return NULL;
        /* Becoming code has taken write translations of the page away: the tables may not have them either when the block runs. */
        if (UNLIKELY(x->version != c->mmu.version))
            tr_sync(x);
        crosses = b->crosses;
        code = x->rx + b->code;
    }
    at->alone = !crosses;
    if (x->key & TR_PLAIN) /* for a link alone */
        return code;
    const unsigned ctx = x->key & TR_CTX;
    const unsigned slot = tr_jump_slot(lin), i = lin >> 12 & (X86_ITLB_SIZE - 1);
    const uint64_t *global = c->mmu.iglobal[c->cpl == 3];

    const bool keep = !crosses && (global[i / 64] >> (i % 64) & 1);

    if (!keep)
        tr_log(&x->jump_log[ctx], slot);
    tr_jumps_to(x, lin, keep);
    x->room->jump[ctx][slot] = (struct tr_jump){.nlin = x->one - lin, .page = lin & MASK_PAGE, .code = code, .local = !keep && !crosses};
    return code;
}
