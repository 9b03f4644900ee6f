/*
 * The block cache of a vCPU, and self-modifying code.
 *
 * In a nutshell: before the bytes of a RAM page are decoded, its GPA_PF_CODE is set
 * and every write translation of the page is taken out of all TLBs, so that each
 * store to it comes through x86_lin_write and ends in interp_code_inval. There a
 * map of 64-byte chunks, one word per page for the whole VM, tells stores into
 * code from stores beside it. A hit kills the blocks of the storing vCPU at once
 * (its current block ends behind the store) and is queued to the others, which apply
 * it at their next block boundary. Chunk bits and GPA_PF_CODE are cleared as they are hit,
 * so a page that is no longer code becomes plain memory again.
 *
 * Locks: interp_vm.lock guards chunk bits together with GPA_PF_CODE, interp.qlock a
 * vCPU's queue. Neither is held while another is taken or anything is waited for.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/interp/interp.h"

#define OFFS 0xfffull
#define MASK_PAGE (~OFFS)

static unsigned block_slot(uint64_t gpa, unsigned key)
{
    return (unsigned)((gpa * 0x9e3779b97f4a7c15ull + key * 0x632be5abull) >> (64 - BLOCK_HASH_BITS));
}
static unsigned page_slot(uint64_t gpa) { return (unsigned)((gpa >> 12) * 0x9e3779b97f4a7c15ull >> (64 - PAGE_HASH_BITS)); }

int interp_cache_init(struct interp *it)
{
    it->arena = aligned_alloc(64, ARENA_SIZE);
    it->known = calloc(1u << KNOWN_BITS, sizeof(*it->known));
    it->qlock = host_mutex_new();
    return it->arena && it->known && it->qlock ? 0 : -1;
}

void interp_cache_fini(struct interp *it)
{
    if (it->qlock)
        host_mutex_free(it->qlock);
    free(it->known);
    free(it->arena);
}

void interp_cache_flush(struct interp *it)
{
    memset(it->hash, 0, sizeof(it->hash));
    memset(it->pages, 0, sizeof(it->pages));
    memset(it->jump, 0, sizeof(it->jump));
    it->used = 0;
    it->flushed++;
    if (it->also.flush)
        it->also.flush(it->also.ctx);
}

static void *take(struct interp *it, size_t size)
{
    void *p = it->arena + it->used;

    it->used += (size + 63) & ~(size_t)63;
    return p;
}

static struct cpage *find_page(struct interp *it, uint64_t page)
{
    struct cpage *p = it->pages[page_slot(page)];

    while (p && p->gpa != page)
        p = p->next;
    return p;
}

static struct cpage *get_page(struct interp *it, uint64_t page)
{
    struct cpage *p = find_page(it, page), **head = &it->pages[page_slot(page)];

    if (p)
        return p;
    p = take(it, sizeof(*p));
    *p = (struct cpage){.gpa = page, .next = *head};
    *head = p;
    return p;
}

/* --- invalidation ------------------------------------------------------------- */

static void kill(struct interp *it, struct block *b)
{
    b->dead = true;
    b->u[0].fn = interp_dead; /* the rest stays: it may be the very instruction whose store this is, and its length counts */
    it->killed++;
}

/* Does the block have a byte in [lo, hi) of the page? */
static bool touches(const struct block *b, uint64_t page, uint64_t lo, uint64_t hi)
{
    const uint64_t first = MASK_PAGE & b->gpa;

    if (first == page) {
        const uint64_t end = b->gpa + b->bytes;

        if (b->gpa < hi && end > lo)
            return true;
    }
    if (b->gpa2 == page) /* the tail of the crossing instruction is at the page's start */
        return lo < page + (b->gpa + b->bytes - first - 0x1000);
    return false;
}

/* Whole chunks, since the chunk's bit is cleared. */
void interp_inval_own(struct interp *it, uint64_t gpa, uint32_t len)
{
    const uint64_t page = gpa & MASK_PAGE, lo = gpa & ~63ull, hi = (gpa + len + 63) & ~63ull;
    struct cpage *p = find_page(it, page);
    bool hit = false;

    if (it->also.inval)
        it->also.inval(it->also.ctx, gpa, len);
    if (!p)
        return;
    for (struct block **l = &p->blocks, *b; (b = *l);) {
        struct block **next = &b->pnext[(b->gpa & MASK_PAGE) != page];

        if (!b->dead && touches(b, page, lo, hi)) {
            kill(it, b);
            hit = true;
        }
        if (b->dead)
            *l = *next;
        else
            l = next;
    }
    if (hit)
        p->kills++;
}

void interp_inval_queued(struct interp *it)
{
    struct inval q[INVAL_QUEUE];
    unsigned n;
    bool full;

    host_lock(it->qlock);
    n = it->nq;
    full = it->qfull;
    memcpy(q, it->q, n * sizeof(q[0]));
    it->nq = 0;
    it->qfull = false;
    host_unlock(it->qlock);
    if (full)
        interp_cache_flush(it);
    else
        for (unsigned i = 0; i < n; i++)
            interp_inval_own(it, q[i].gpa, q[i].len);
}

static void enqueue(struct interp *it, uint64_t gpa, uint32_t len)
{
    host_lock(it->qlock);
    if (it->nq < INVAL_QUEUE)
        it->q[it->nq++] = (struct inval){gpa, len};
    else
        it->qfull = true;
    host_unlock(it->qlock);
    vcpu_request(it->v, VREQ_CODE);
}

/* Chunks of one page that [gpa, gpa + len) touches. */
static uint64_t chunk_mask(uint64_t gpa, uint32_t len)
{
    const unsigned a = (gpa & OFFS) >> 6, b = ((gpa & OFFS) + len - 1) >> 6;

    return (b >= 63 ? ~0ull : (1ull << (b + 1)) - 1) & ~((1ull << a) - 1);
}

static uint64_t *chunks_of(struct vm *vm, struct interp_vm *iv, uint64_t gpa)
{
    uint32_t *f = gpa_page_flags(vm->ram_map, gpa);

    return f ? &iv->chunks[f - vm->ram_flags] : NULL;
}

/* len stays inside the page. */
void interp_code_inval(struct vm *vm, struct vcpu *writer, uint64_t gpa, uint32_t len)
{
    struct interp_vm *iv = vm->interp_priv;
    const uint64_t mask = chunk_mask(gpa, len);
    uint64_t *ch = chunks_of(vm, iv, gpa);

    if (!ch || !(__atomic_load_n(ch, __ATOMIC_SEQ_CST) & mask))
        return;
    host_lock(iv->lock);
    if (!(__atomic_and_fetch(ch, ~mask, __ATOMIC_SEQ_CST)))
        __atomic_fetch_and(gpa_page_flags(vm->ram_map, gpa), ~GPA_PF_CODE, __ATOMIC_SEQ_CST);
    host_unlock(iv->lock);
    for (unsigned i = 0; i < vm->ncpu; i++) {
        struct interp *it = vm->cpu[i] ? __atomic_load_n(&vm->cpu[i]->interp_priv, __ATOMIC_ACQUIRE) : NULL;

        if (!it)
            continue;
        if (vm->cpu[i] == writer) {
            interp_inval_own(it, gpa, len);
            /* Makes the running block end behind the storing instruction. */
            atomic_fetch_or(&writer->requests, VREQ_ENGINE);
        } else {
            enqueue(it, gpa, len);
        }
    }
}

/* --- marking pages as code ------------------------------------------------------- */

/* Take the page out of everybody's TLB for writing. Its chunks are marked at once, for who asked may not come again: without chunks no store
 * would ever take GPA_PF_CODE away. */
static void unwrite_all(struct interp *it, uint32_t *flags, uint64_t page, uint64_t chunks)
{
    struct x86_cpu *c = &it->v->cpu;
    struct vm *vm = it->v->vm;
    struct interp_vm *iv = vm->interp_priv;

    c->ops->exclusive_begin(c->env);
    host_lock(iv->lock);
    __atomic_store_n(flags, GPA_PF_CODE, __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&iv->chunks[flags - vm->ram_flags], chunks, __ATOMIC_SEQ_CST);
    host_unlock(iv->lock);
    for (unsigned i = 0; i < vm->ncpu; i++)
        if (vm->cpu[i])
            x86_tlb_unwrite(&vm->cpu[i]->cpu, page);
    if (it->also.unwrite)
        it->also.unwrite(it->also.ctx, page);
    c->ops->exclusive_end(c->env);
}

bool interp_mark(struct interp *it, uint64_t gpa, uint32_t len)
{
    struct vm *vm = it->v->vm;
    struct interp_vm *iv = vm->interp_priv;
    uint32_t *flags = gpa_page_flags(vm->ram_map, gpa);
    const uint32_t own = it->v->cpu.mmu.page_bit;
    const bool shared_bit = vm->ncpu > 31;

    if (!flags) /* ROM */
        return true;
    for (;;) {
        uint32_t f = __atomic_load_n(flags, __ATOMIC_SEQ_CST);

        if (!(f & GPA_PF_CODE)) {
            if (f & (shared_bit ? ~0u : ~own)) {
                unwrite_all(it, flags, gpa & MASK_PAGE, chunk_mask(gpa, len));
                return false;
            }
            if (!__atomic_compare_exchange_n(flags, &f, GPA_PF_CODE, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                continue;
            if (f & own) {
                x86_tlb_unwrite(&it->v->cpu, gpa & MASK_PAGE);
                if (it->also.unwrite)
                    it->also.unwrite(it->also.ctx, gpa & MASK_PAGE);
            }
        }
        host_lock(iv->lock);
        if (__atomic_load_n(flags, __ATOMIC_SEQ_CST) & GPA_PF_CODE) {
            __atomic_fetch_or(&iv->chunks[flags - vm->ram_flags], chunk_mask(gpa, len), __ATOMIC_SEQ_CST);
            host_unlock(iv->lock);
            return true;
        }
        host_unlock(iv->lock);
    }
}

/* --- building --------------------------------------------------------------------- */

/* The instruction that crosses into the next page: both parts into buf. */
static int join(struct interp *it, struct source *s, uint64_t lin, uint8_t buf[X86_MAX_INSN])
{
    struct x86_cpu *c = &it->v->cpu;
    uint64_t next = (lin | OFFS) + 1;

    if (s->gpa2 == NO_PAGE) {
        if (c->mode != X86_MODE_64)
            next = (uint32_t)next;
        else if (!x86_canonical(next))
            return -1;
        if (x86_fetch_page(c, next, &s->host2, &s->gpa2) || !s->host2)
            return -1;
    }
    memcpy(buf, s->host, s->room);
    memcpy(buf + s->room, s->host2, X86_MAX_INSN - s->room);
    return 0;
}

static enum x86_decode_result decode(struct interp *it, struct x86_insn *in, const uint8_t *p, unsigned avail)
{
    const struct x86_cpu *c = &it->v->cpu;

    return x86_decode(in, p, avail, (enum x86_mode_bits)(it->mode & MODE_BITS), it->mode & MODE_REAL, x86_feature_bits(c->cpuid));
}

/* Does the instruction end a block whatever handler it gets? */
static bool ends(const struct x86_insn *in) { return x86_isa[in->row].attr & (X86_ATTR_BRANCH | X86_ATTR_SERIALIZING); }

/* Decode from the source into ins; returns the count and the bytes. */
static unsigned decode_run(struct interp *it, struct source *s, uint64_t lin, struct x86_insn ins[BLOCK_MAX], unsigned *bytes)
{
    uint8_t buf[X86_MAX_INSN];
    unsigned n = 0, pos = 0;

    while (n < BLOCK_MAX && pos < s->room) {
        enum x86_decode_result r = decode(it, &ins[n], s->host + pos, s->room - pos < X86_MAX_INSN ? s->room - pos : X86_MAX_INSN);

        if (r == X86_DEC_MORE && n == 0 && s->room < X86_MAX_INSN) {
            /* A block of this one instruction. */
            if (join(it, s, lin, buf) || decode(it, &ins[0], buf, X86_MAX_INSN) != X86_DEC_OK)
                break;
            *bytes = ins[0].len;
            return 1;
        }
        if (r != X86_DEC_OK)
            break;
        pos += ins[n].len;
        if (ends(&ins[n++]))
            break;
    }
    *bytes = pos;
    return n;
}

static bool innocent(const struct x86_insn *in, const struct uop *u)
{
    if (u->fn == interp_generic || u->fn == interp_generic_end || (x86_isa[in->row].attr & (X86_ATTR_SSE | X86_ATTR_AVX)))
        return false;
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == X86_OPND_MEM && in->opnd[i].size && in->op != X86_OP_NOP)
            return false;
    switch (in->op) {
    case X86_OP_PUSH: case X86_OP_POP: case X86_OP_LEAVE: case X86_OP_PUSHF: case X86_OP_POPF: case X86_OP_DIV: case X86_OP_IDIV:
    case X86_OP_CLI: case X86_OP_STI:
        return false;
    default:
        return !(x86_isa[in->row].attr & X86_ATTR_BRANCH);
    }
}

/* Are the flags that instruction i leaves overwritten before anything can see them? */
static bool flags_dead(const struct x86_insn *ins, const struct uop *u, unsigned i, unsigned n)
{
    for (unsigned j = i + 1; j < n; j++) {
        const struct x86_isa_row *row = &x86_isa[ins[j].row];

        if ((row->flags_read & X86_FL_ARITH) || !innocent(&ins[j], &u[j]))
            return false;
        switch (ins[j].op) {
        case X86_OP_ADD: case X86_OP_SUB: case X86_OP_AND: case X86_OP_OR: case X86_OP_XOR: case X86_OP_CMP: case X86_OP_TEST: case X86_OP_NEG:
            return true;
        default:
            break;
        }
    }
    return false;
}

static struct block *assemble(struct interp *it, const struct source *s, const struct x86_insn *ins, unsigned n, unsigned bytes)
{
    const struct interp_vm *iv = it->v->vm->interp_priv;
    const enum flow flow = interp_flow(it->mode);
    struct block *b = take(it, sizeof(*b) + (n + 1) * sizeof(struct uop));
    enum pick_result r = PICK_NEXT;
    unsigned off = 0, i;

    memset(b, 0, sizeof(*b) + (n + 1) * sizeof(struct uop));
    b->gpa = s->gpa;
    b->gpa2 = s->gpa2;
    b->key = it->mode;
    for (i = 0; i < n && r != PICK_END && r != PICK_GENERIC_END; i++) {
        struct uop *u = &b->u[i];
        const struct pick p = {.in = &ins[i], .u = u, .mode = it->mode, .exec = iv->exec[ins[i].op] ? iv->exec[ins[i].op] : x86_i_ud};

        u->off = (uint16_t)off;
        u->idx = (uint8_t)i;
        u->len = ins[i].len;
        r = interp_pick(&p);
        if (r == PICK_GENERIC || r == PICK_GENERIC_END || r == PICK_KEEP) {
            struct x86_insn *copy = take(it, sizeof(*copy));

            *copy = ins[i];
            u->in = copy;
        }
        off += ins[i].len;
    }
    n = i;
    bytes = off;
    if (r == PICK_END) {
        struct uop *u = &b->u[n - 1];
        const unsigned at = (unsigned)(s->gpa & OFFS);

        if (n > 1)
            interp_fuse(u - 1, &ins[n - 2], &ins[n - 1], it->mode);
        if (ins[n - 1].opnd[x86_explicit(&ins[n - 1], 0)].kind == X86_OPND_REL) {
            const int64_t target = (int64_t)at + u->delta;

            if (target < 0 || target > 0xfff || b->gpa2 != NO_PAGE) {
                u->link = &interp_far_link[flow];
                if (flow == FLOW_64) {
                    u[1] = *u;
                    u[1].fn = interp_far_taken;
                    u->link = u + 1;
                }
            }
            if (at + off > 0xfff)
                u->link2 = &interp_far_link[flow];
        }
    } else if (r != PICK_GENERIC_END) {
        struct uop *u = &b->u[n];

        if (b->u[n - 1].fn == interp_sti) {
            struct x86_insn *copy = take(it, sizeof(*copy));

            *copy = ins[n - 1];
            b->u[n - 1].fn = interp_generic_end;
            b->u[n - 1].in = copy;
            b->u[n - 1].exec = iv->exec[X86_OP_STI];
        }
        u->off = (uint16_t)off;
        u->idx = (uint8_t)n;
        u->fn = flow >= 0 ? interp_fall[flow] : interp_stop;
        if (u->fn != interp_stop && (s->gpa & OFFS) + off > 0xfff)
            u->link2 = &interp_far_link[flow];
    }
    for (i = 0; i + 1 < n; i++) {
        uop_fn f = interp_flagless(&ins[i]);

        if (f && !ins[i].lock && flags_dead(ins, b->u, i, n))
            b->u[i].fn = f;
    }
    b->n = (uint8_t)n;
    b->bytes = (uint16_t)bytes;
    return b;
}

static void enter(struct interp *it, struct block *b)
{
    struct block **head = &it->hash[block_slot(b->gpa, b->key)];
    struct cpage *p = get_page(it, b->gpa & MASK_PAGE);

    /* Dead blocks of the same place lead here from now on; the others go. */
    for (struct block **l = head, *o; (o = *l);) {
        if (!o->dead) {
            l = &o->hnext;
            continue;
        }
        if (o->gpa == b->gpa && o->key == b->key && b->gpa2 == NO_PAGE && o->gpa2 == NO_PAGE)
            o->u[0] = (struct uop){.fn = interp_forward, .link = b->u};
        *l = o->hnext;
    }
    b->hnext = *head;
    *head = b;
    b->pnext[0] = p->blocks;
    p->blocks = b;
    if (b->gpa2 != NO_PAGE) {
        p = get_page(it, b->gpa2);
        b->pnext[1] = p->blocks;
        p->blocks = b;
    }
    it->built++;
}

static bool same_bytes(const struct source *s, const struct x86_insn *ins, unsigned n)
{
    unsigned pos = 0;

    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < ins[i].len; k++, pos++)
            if ((pos < s->room ? s->host[pos] : s->host2[pos - s->room]) != ins[i].bytes[k])
                return false;
    }
    return true;
}

unsigned interp_discover(struct interp *it, struct source *s, uint64_t lin, struct x86_insn ins[BLOCK_MAX], unsigned *bytes)
{
    const unsigned n = decode_run(it, s, lin, ins, bytes);

    if (!n)
        return 0;
    /* Bytes decoded before the page was marked may have changed: what counts is what is there after. */
    if (!interp_mark(it, s->gpa, *bytes < s->room ? *bytes : s->room) || (*bytes > s->room && !interp_mark(it, s->gpa2, *bytes - s->room)) ||
        !same_bytes(s, ins, n)) {
        it->again = true;
        return 0;
    }
    if (*bytes <= s->room)
        s->gpa2 = NO_PAGE;
    return n;
}

static struct block *build(struct interp *it, struct source *s, uint64_t lin)
{
    struct x86_insn ins[BLOCK_MAX];
    const size_t worst = sizeof(struct block) + (BLOCK_MAX + 2) * sizeof(struct uop) +
                         (BLOCK_MAX + 1) * ((sizeof(struct x86_insn) + 63) & ~(size_t)63) + 4 * sizeof(struct cpage) + 1024;
    unsigned n, bytes;

    n = interp_discover(it, s, lin, ins, &bytes);
    if (!n)
        return NULL;
    if (it->used + worst > ARENA_SIZE)
        interp_cache_flush(it);
    struct block *b = assemble(it, s, ins, n, bytes);

    enter(it, b);
    return b;
}

/* --- lookup ------------------------------------------------------------------------ */

static bool hot(struct interp *it, uint64_t page)
{
    const struct cpage *p = find_page(it, page);

    if (!p || p->kills < HOT_KILLS)
        return false;
    if (++it->hot_steps >= HOT_STEPS) { /* give them another chance */
        it->hot_steps = 0;
        for (unsigned i = 0; i < 1u << PAGE_HASH_BITS; i++)
            for (struct cpage *q = it->pages[i]; q; q = q->next)
                q->kills = 0;
    }
    return true;
}

const struct uop *interp_lookup(struct interp *it)
{
    struct x86_cpu *c = &it->v->cpu;
    const bool m64 = (it->mode & MODE_BITS) == X86_MODE_64, flow = interp_flow(it->mode) >= 0;
    const bool limited = !m64 && !(it->mode & MODE_FLAT);
    const uint64_t lin = m64 ? c->rip : (uint32_t)(c->rip + c->seg[X86_CS].base);
    struct source s = {.gpa2 = NO_PAGE};
    struct jump *j = &it->jump[jump_slot(lin)];
    struct block *b;

    it->again = false;
    if (flow && j->lin == lin && j->key == it->key && j->u && j->u->fn != interp_dead &&
        (!limited || c->rip + BLOCK_BYTES <= c->seg[X86_CS].limit))
        return j->u;
    if (m64 && !x86_canonical(lin))
        return NULL;
    if (x86_fetch_page(c, lin, &s.host, &s.gpa) || !s.host)
        return NULL;
    s.host += lin & OFFS;
    s.gpa |= lin & OFFS;
    s.room = 0x1000 - (unsigned)(lin & OFFS);
    for (b = it->hash[block_slot(s.gpa, it->mode)]; b; b = b->hnext) {
        if (b->gpa != s.gpa || b->key != it->mode || b->dead)
            continue;
        if (b->gpa2 != NO_PAGE) {
            uint64_t next = (lin | OFFS) + 1;

            if (!m64)
                next = (uint32_t)next;
            if (s.gpa2 == NO_PAGE && (x86_fetch_page(c, next, &s.host2, &s.gpa2) || !s.host2))
                return NULL;
            if (s.gpa2 != b->gpa2)
                continue;
        }
        break;
    }
    if (!b) {
        s.gpa2 = NO_PAGE;
        if (hot(it, s.gpa & MASK_PAGE))
            return NULL;
        b = build(it, &s, lin);
        if (!b)
            return NULL;
    }
    /* The code segment's limit is checked at each entry; what sticks out goes the exact way. */
    if (limited && c->rip + b->bytes - 1 > c->seg[X86_CS].limit)
        return NULL;
    if (flow)
        *j = (struct jump){.lin = lin, .key = it->key, .u = b->u};
    return b->u;
}

const struct uop *interp_chain(struct x86_cpu *c, const struct uop **link)
{
    struct interp *it = interp_of(c);
    const bool taken = ((uintptr_t)link & (sizeof(struct uop) - 1)) == offsetof(struct uop, link);
    const struct uop *u = (const struct uop *)((uintptr_t)link & ~(sizeof(struct uop) - 1));
    const struct block *b = block_of(u);
    const uint64_t base = c->mode == X86_MODE_64 ? 0 : c->seg[X86_CS].base, flushed = it->flushed;
    const uint64_t start = c->rip - (taken ? (uint64_t)(int64_t)u->delta : (uint64_t)u->off + u->len);
    const struct uop *t = interp_lookup(it);

    if (!t || it->flushed != flushed)
        return t;
    const struct block *to = block_of(t);

    if (!b->dead && b->gpa2 == NO_PAGE && to->gpa2 == NO_PAGE && (b->gpa & MASK_PAGE) == (to->gpa & MASK_PAGE) &&
        ((start + base) & MASK_PAGE) == ((c->rip + base) & MASK_PAGE))
        *link = t;
    return t;
}

const struct uop *interp_chain_far(struct x86_cpu *c) { return interp_lookup(interp_of(c)); }
