/*
 * Translated blocks: found, made, killed. Self-modifying code follows the interpreter's
 * protocol (engine/interp/cache.c), which marks pages and tells us of stores into code; a killed block's
 * first instruction becomes a jump to its exit, or to its successor once there is one, so links to it stay.
 */
#include <stdlib.h>

#include "engine/translate/translate.h"

#define OFFS 0xfffull
#define MASK_PAGE (~OFFS)

static unsigned block_slot(uint64_t gpa, uint8_t key)
{
    return (unsigned)((gpa * 0x9e3779b97f4a7c15ull + key * 0x632be5abull) >> (64 - TR_HASH_BITS));
}
static unsigned page_slot(uint64_t gpa) { return (unsigned)((gpa >> 12) * 0x9e3779b97f4a7c15ull >> (64 - TR_PAGE_BITS)); }

/* Code was changed through one address and will be run through another: serialise (SDM Vol. 3A, 9.1.3) without leaving the guest of
 * whatever hypervisor we may be in, as CPUID would. */
static void serialise(void)
{
    uint64_t tmp;

    __asm__ volatile("mov %%ss, %k0; sub $128, %%rsp; lea 8(%%rsp), %%r8; push %0; push %%r8; pushfq; mov %%cs, %k0; push %0; lea 1f(%%rip), %0; push %0; iretq; 1: add $120, %%rsp"
                     : "=&r"(tmp)
                     :
                     : "r8", "memory", "cc");
}

/* Slot 0 of the jump tables would match address 0; address 1 has another slot. */
static const struct tr_jump no_jump0 = {.nlin = 0 - 1ull};

static void clear_tlb(struct translate *x, unsigned ctx)
{
    struct tr_tlb *t = x->room->tlb[ctx];

    memset(t, 0, sizeof(x->room->tlb[ctx]));
    for (unsigned i = 0; i < TR_TLB_SIZE; i += TR_TLB_SIZE - 1)
        t[i].nread = t[i].nwrite = TR_NONE(i);
    x->tlb_log[ctx].n = 0;
}

static void clear_jump(struct translate *x, unsigned ctx)
{
    memset(x->room->jump[ctx], 0, sizeof(x->room->jump[ctx]));
    x->room->jump[ctx][0] = no_jump0;
    x->jump_log[ctx].n = 0;
}

void tr_forget_jumps(struct translate *x)
{
    for (unsigned i = 0; i < X86_TLB_NCTX; i++)
        clear_jump(x, i);
    memset(x->jump_pages, 0, sizeof(x->jump_pages));
}

void tr_log(struct tr_log *l, unsigned slot)
{
    if (l->n < TR_LOG)
        l->slot[l->n++] = (uint16_t)slot;
}

static void drop_tlb(struct translate *x, unsigned ctx, unsigned slot)
{
    x->room->tlb[ctx][slot].nread = x->room->tlb[ctx][slot].nwrite = TR_NONE(slot);
}
static void drop_jump(struct translate *x, unsigned ctx, unsigned slot)
{
    x->room->jump[ctx][slot] = slot ? (struct tr_jump){0} : no_jump0;
}

static unsigned page_hash(uint64_t lin) { return (unsigned)((lin >> 12) * 0x9e3779b97f4a7c15ull >> 52); }
static bool jumped_to(const struct translate *x, uint64_t lin)
{
    return x->jump_pages[page_hash(lin) / 64] >> (page_hash(lin) % 64) & 1;
}

static void drop_page(struct translate *x, uint64_t page)
{
    for (unsigned c = 0; c < X86_TLB_NCTX; c++) {
        drop_tlb(x, c, page >> 12 & (TR_TLB_SIZE - 1));
        if (jumped_to(x, page) || jumped_to(x, page - 0x1000)) /* blocks may reach into the page from the one before */
            for (unsigned i = 0; i < TR_JUMP_SIZE; i++)
                if (page - x->room->jump[c][i].page <= 0x1000)
                    drop_jump(x, c, i);
    }
}

static void drop_nonglobal(struct translate *x)
{
    for (unsigned c = 0; c < X86_TLB_NCTX; c++) {
        struct tr_log *t = &x->tlb_log[c], *j = &x->jump_log[c];

        if (t->n == TR_LOG)
            clear_tlb(x, c);
        for (unsigned i = 0; i < t->n; i++)
            drop_tlb(x, c, t->slot[i]);
        t->n = 0;
        if (j->n == TR_LOG)
            clear_jump(x, c);
        for (unsigned i = 0; i < j->n; i++)
            drop_jump(x, c, j->slot[i]);
        j->n = 0;
    }
}

void tr_sync(struct translate *x)
{
    const struct x86_mmu *m = &x->v->cpu.mmu;

    if (m->hard == x->hard) {
        drop_nonglobal(x);
    } else if (m->version == x->version + 1 && m->page_version == m->version) {
        drop_page(x, m->flushed_page);
    } else {
        for (unsigned i = 0; i < X86_TLB_NCTX; i++)
            clear_tlb(x, i);
        tr_forget_jumps(x);
        x->st.cleared++;
    }
    x->version = m->version;
    x->hard = m->hard;
    x->st.syncs++;
}

int tr_cache_init(struct translate *x)
{
    void *rw, *rx;

    x->arena = aligned_alloc(64, TR_ARENA_SIZE);
    if (!x->arena || host_exec_alloc(TR_CODE_SIZE, &rw, &rx))
        return -1;
    x->rw = rw;
    x->rx = rx;
    x->taken = 64;
    x->room->tlb_mask = (uint64_t)(TR_TLB_SIZE - 1) * sizeof(struct tr_tlb);
    x->room->jump_mask = (uint64_t)(TR_JUMP_SIZE - 1) * sizeof(struct tr_jump);
    x->room->host_mxcsr = 0x1f80;
    for (unsigned i = 0; i < 6; i++)
        x->room->align_mask[i] = (1u << i) - 1;
    for (unsigned i = 0; i < X86_TLB_NCTX; i++)
        clear_tlb(x, i);
    tr_forget_jumps(x);
    tr_make_stubs(x);
    return 0;
}

void tr_cache_fini(struct translate *x)
{
    host_exec_free(x->rw, x->rx, TR_CODE_SIZE);
    free(x->arena);
}

void tr_flush(void *ctx)
{
    struct translate *x = ctx;

    memset(x->hash, 0, sizeof(x->hash));
    memset(x->pages, 0, sizeof(x->pages));
    tr_forget_jumps(x);
    x->used = x->base;
    x->taken = 64;
    x->st.flushed++;
    serialise();
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

/* --- invalidation ------------------------------------------------------------------ */

static void forward(const uint8_t *to, uint8_t *code)
{
    struct emit e = {code, code, 0};

    e_jmp(&e, to);
}

static void drop(struct translate *x, struct tr_block *b)
{
    b->dead = true;
    forward(b->leave, b->code);
    x->st.killed++;
}

static bool touches(const struct tr_block *b, uint64_t page, uint64_t lo, uint64_t hi)
{
    const uint64_t first = MASK_PAGE & b->gpa, end = b->gpa + b->bytes;

    if (first == page && b->gpa < hi && end > lo)
        return true;
    return b->gpa2 == page && lo < page + (end - first - 0x1000);
}

void tr_inval(void *ctx, uint64_t gpa, uint32_t len)
{
    struct translate *x = ctx;
    const uint64_t page = gpa & MASK_PAGE, lo = gpa & ~63ull, hi = (gpa + len + 63) & ~63ull;
    struct tr_page *p = find_page(x, page);
    bool hit = false;

    if (!p)
        return;
    for (struct tr_block **l = &p->blocks, *b; (b = *l);) {
        struct tr_block **next = &b->pnext[(b->gpa & MASK_PAGE) != page];

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
        serialise();
    }
}

/* --- making ---------------------------------------------------------------------------- */

static void enter(struct translate *x, struct tr_block *b)
{
    struct tr_block **head = &x->hash[block_slot(b->gpa, b->key)];
    struct tr_page *p;

    for (struct tr_block **l = head, *o; (o = *l);) {
        if (!o->dead) {
            l = &o->hnext;
            continue;
        }
        if (o->gpa == b->gpa && o->key == b->key && o->gpa2 == b->gpa2)
            forward(b->code, o->code);
        *l = o->hnext;
    }
    b->hnext = *head;
    *head = b;
    p = get_page(x, b->gpa & MASK_PAGE);
    b->pnext[0] = p->blocks;
    p->blocks = b;
    if (b->gpa2 != NO_PAGE) {
        p = get_page(x, b->gpa2);
        b->pnext[1] = p->blocks;
        p->blocks = b;
    }
    x->st.built++;
}

static struct tr_block *build(struct translate *x, struct source *s, uint64_t lin)
{
    struct x86_insn ins[TR_BLOCK_MAX];
    const size_t worst = 2048 + TR_BLOCK_MAX * (sizeof(struct x86_insn) + 8 * sizeof(struct tr_site));
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
    if (x->taken + worst > TR_ARENA_SIZE || x->used + TR_BLOCK_CODE > TR_CODE_SIZE)
        tr_flush(x);
    struct tr_block *b = tr_take(x, sizeof(*b));

    *b = (struct tr_block){.gpa = s->gpa, .gpa2 = s->gpa2, .key = x->key};
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

struct tr_block *tr_lookup(struct translate *x)
{
    struct x86_cpu *c = &x->v->cpu;
    const uint64_t lin = c->rip;
    struct source s = {.gpa2 = NO_PAGE};
    struct tr_block *b;

    x->it->again = false;
    if (!x86_canonical(lin) || x86_fetch_page(c, lin, &s.host, &s.gpa) || !s.host)
        return NULL;
    s.host += lin & OFFS;
    s.gpa |= lin & OFFS;
    s.room = 0x1000 - (unsigned)(lin & OFFS);
    for (b = x->hash[block_slot(s.gpa, x->key)]; b; b = b->hnext) {
        if (b->gpa != s.gpa || b->key != x->key || b->dead)
            continue;
        if (b->gpa2 != NO_PAGE) {
            if (s.gpa2 == NO_PAGE && (x86_fetch_page(c, (lin | OFFS) + 1, &s.host2, &s.gpa2) || !s.host2))
                return NULL;
            if (s.gpa2 != b->gpa2)
                continue;
        }
        break;
    }
    if (!b) {
        s.gpa2 = NO_PAGE;
        if (hot(x, s.gpa & MASK_PAGE))
            return NULL;
        b = build(x, &s, lin);
        if (!b)
            return NULL;
    }
    const unsigned ctx = x->key & TR_CTX;
    const unsigned slot = tr_jump_slot(lin), i = lin >> 12 & (X86_ITLB_SIZE - 1);
    const uint64_t *global = c->mmu.iglobal[c->cpl == 3];

    if (b->gpa2 != NO_PAGE || !(global[i / 64] >> (i % 64) & 1))
        tr_log(&x->jump_log[ctx], slot);
    x->jump_pages[page_hash(lin) / 64] |= 1ull << (page_hash(lin) % 64);
    x->room->jump[ctx][slot] = (struct tr_jump){.nlin = 0 - lin, .page = lin & MASK_PAGE, .code = b->code + (x->rx - x->rw)};
    return b;
}
