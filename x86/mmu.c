/*
 * The software TLB and every memory access that goes through it.
 *
 * In a nutshell: a hit costs one compare (x86/mmu.h). A miss walks the page
 * tables, fills the entry if the page is RAM or ROM, and makes the access by
 * guest-physical address, so that nothing here holds a host pointer across a
 * bus access (during which the guest-physical map may be replaced).
 *
 * Write translations and translated code: tag_w is filled only after this vCPU's
 * writer bit is in the page's flag word and GPA_PF_CODE was seen clear in the same
 * word; a store outside tag_w looks at GPA_PF_CODE after it. A translator that sets
 * GPA_PF_CODE first and then looks at the writer bits misses neither.
 */
#include "x86/mmu.h"

#include <string.h>

#include "ringer/gpa.h"
#include "x86/exec.h"

#define PAGE 4096u
#define OFFS (PAGE - 1)

/* --- TLB maintenance ---------------------------------------------------- */

void x86_mmu_update_ctx(struct x86_cpu *c)
{
    enum x86_tlb_ctx ctx = X86_TLB_SUPER;

    if (c->cpl == 3)
        ctx = X86_TLB_USER;
    else if ((c->cr4 & X86_CR4_SMAP) && (c->fl_sys & X86_FL_AC))
        ctx = X86_TLB_SUPER_AC;
    c->mmu.cur = c->mmu.tlb[ctx];
}

static void forget_large(struct x86_large *l)
{
    memset(l->filter, 0, sizeof(l->filter));
    l->huge_lo = UINT64_MAX;
    l->huge_hi = 0;
}

void x86_tlb_event(struct x86_cpu *c, enum x86_tlb_event_kind kind, uint64_t arg)
{
    struct x86_tlb_events *l = &c->mmu.events;

    l->ev[l->seq++ % X86_TLB_EVENTS] = (struct x86_tlb_event){kind, arg};
}

void x86_tlb_flush_all(struct x86_cpu *c)
{
    struct x86_mmu *m = &c->mmu;

    x86_tlb_event(c, X86_TLB_EV_ALL, 0);

    m->flushes++;
    m->all_flushes++;
    m->version++;
    m->hard++;
    if (++m->gen > OFFS) { /* generations are used up: entries of old ones must really go */
        m->gen = 1;
        memset(m->tlb, 0, sizeof(m->tlb));
        memset(m->itlb, 0, sizeof(m->itlb));
    }
    memset(m->global, 0, sizeof(m->global));
    memset(m->iglobal, 0, sizeof(m->iglobal));
    memset(m->local, 0, sizeof(m->local));
    memset(m->ilocal, 0, sizeof(m->ilocal));
    m->ram_size = 0;
    forget_large(&m->large[0]);
    forget_large(&m->large[1]);
    x86_tlb_forget_pcids(c);
}

void x86_tlb_flush_nonglobal(struct x86_cpu *c)
{
    struct x86_mmu *m = &c->mmu;

    if (!(c->cr4 & X86_CR4_PGE)) {
        x86_tlb_flush_all(c);
        return;
    }
    m->flushes++;
    m->nonglobal_flushes++;
    m->version++;
    m->parked_as = m->unparked = 0;
    forget_large(&m->large[0]);
    /* A context switch mostly finds few of them. */
    for (unsigned x = 0; x < X86_TLB_NCTX; x++)
        for (unsigned w = 0; w < X86_TLB_SIZE / 64; w++) {
            for (uint64_t bits = m->local[x][w]; bits; bits &= bits - 1) {
                struct x86_tlb_entry *e = &m->tlb[x][w * 64 + (unsigned)__builtin_ctzll(bits)];

                e->tag_r = e->tag_w = 0;
            }
            m->local[x][w] = 0;
        }
    for (unsigned u = 0; u < 2; u++)
        for (unsigned w = 0; w < X86_ITLB_SIZE / 64; w++) {
            for (uint64_t bits = m->ilocal[u][w]; bits; bits &= bits - 1)
                m->itlb[u][w * 64 + (unsigned)__builtin_ctzll(bits)].tag = 0;
            m->ilocal[u][w] = 0;
        }
}

void x86_mmu_init(struct x86_cpu *c, const struct gpa_map *map, unsigned vcpu_index)
{
    memset(&c->mmu, 0, sizeof(c->mmu));
    c->mmu.map = map;
    c->mmu.page_bit = GPA_PF_WRITER(vcpu_index);
    x86_tlb_flush_all(c);
    c->mmu.flushes = 0;
    x86_mmu_update_ctx(c);
}

/* Two bits a region: few of the others have both, or a guest whose stack has those of one of its kernel's large pages would
 * pay for a whole flush at each INVLPG. */
static unsigned filter_bit(uint64_t lin, unsigned which)
{
    return (unsigned)(((lin >> 22) * 0x9e3779b97f4a7c15ull) >> (which ? 40 : 52)) & (X86_LARGE_FILTER_BITS - 1);
}
_Static_assert(X86_LARGE_FILTER_BITS == 1u << (64 - 52), "filter hash");

static bool may_be_large(const struct x86_large *l, uint64_t lin)
{
    const unsigned a = filter_bit(lin, 0), b = filter_bit(lin, 1);

    return l->filter[a / 64] >> (a % 64) & l->filter[b / 64] >> (b % 64) & 1;
}

/* Drop every cached page in [lo, lo + size), size a power of two and at least a page. */
static void flush_range(struct x86_cpu *c, uint64_t lo, uint64_t size)
{
    struct x86_mmu *m = &c->mmu;

    for (unsigned x = 0; x < X86_TLB_NCTX; x++)
        for (unsigned i = 0; i < X86_TLB_SIZE; i++) {
            struct x86_tlb_entry *e = &m->tlb[x][i];

            if ((e->tag_r | e->tag_w) && ((e->tag_r | e->tag_w) - lo) < size)
                e->tag_r = e->tag_w = 0;
        }
    for (unsigned u = 0; u < 2; u++)
        for (unsigned i = 0; i < X86_ITLB_SIZE; i++)
            if (m->itlb[u][i].tag && m->itlb[u][i].tag - lo < size)
                m->itlb[u][i].tag = 0;
}

void x86_tlb_flush_page(struct x86_cpu *c, uint64_t lin)
{
    struct x86_mmu *m = &c->mmu;
    uint64_t page = lin & ~(uint64_t)OFFS;

    x86_tlb_event(c, X86_TLB_EV_PAGE, page);
    m->version++;
    m->page_flushes++;
    m->flushed_page = page;
    m->hard++;

    for (unsigned g = 0; g < 2; g++)
        if (lin >= m->large[g].huge_lo && lin <= m->large[g].huge_hi) {
            x86_tlb_flush_all(c);
            return;
        }
    if (may_be_large(&m->large[0], lin) || may_be_large(&m->large[1], lin)) {
        flush_range(c, lin & ~0x3fffffull, 0x400000);
        return;
    }
    m->page_version = m->version;
    for (unsigned way = 0; way < 2; way++) {
        const unsigned slot = (lin >> 12) & (X86_TLB_SIZE - 1), code = (lin >> 12) & (X86_ITLB_SIZE - 1);

        for (unsigned x = 0; x < X86_TLB_NCTX; x++) {
            struct x86_tlb_entry *e = &m->tlb[x][way ? X86_TLB_OTHER(slot) : slot];

            if (((e->tag_r | e->tag_w) & ~(uint64_t)OFFS) == page)
                e->tag_r = e->tag_w = 0;
        }
        for (unsigned u = 0; u < 2; u++) {
            struct x86_itlb_entry *e = &m->itlb[u][way ? X86_ITLB_OTHER(code) : code];

            if ((e->tag & ~(uint64_t)OFFS) == page)
                e->tag = 0;
        }
    }
}

void x86_tlb_unwrite(struct x86_cpu *c, uint64_t gpa_page)
{
    gpa_page &= ~(uint64_t)OFFS;
    x86_tlb_event(c, X86_TLB_EV_UNWRITE, gpa_page);
    c->mmu.hard++;
    c->mmu.version++; /* engines may hold translations derived from ours */
    for (unsigned x = 0; x < X86_TLB_NCTX; x++)
        for (unsigned i = 0; i < X86_TLB_SIZE; i++)
            if (c->mmu.tlb[x][i].gpa == gpa_page)
                c->mmu.tlb[x][i].tag_w = 0;
    for (unsigned p = 0; p < X86_PARKED_PCIDS; p++)
        for (unsigned i = 0; i < c->mmu.parked[p].n; i++)
            if (c->mmu.parked[p].page[i].e.gpa == gpa_page)
                c->mmu.parked[p].page[i].e.tag_w = 0;
}

/* Remember that a fragment of a large page is cached. */
static void note_large(struct x86_mmu *m, uint64_t lin, const struct x86_xlat *x)
{
    struct x86_large *l = &m->large[x->global];

    if (x->page_size <= PAGE)
        return;
    if (x->page_size > 0x400000) {
        uint64_t lo = lin & ~(x->page_size - 1), hi = lo + (x->page_size - 1);

        if (lo < l->huge_lo)
            l->huge_lo = lo;
        if (hi > l->huge_hi)
            l->huge_hi = hi;
    } else {
        for (unsigned i = 0; i < 2; i++)
            l->filter[filter_bit(lin, i) / 64] |= 1ull << (filter_bit(lin, i) % 64);
    }
}

static void note_global(uint64_t *global_set, uint64_t *local_set, unsigned i, bool global)
{
    const uint64_t bit = 1ull << (i % 64);

    (global ? global_set : local_set)[i / 64] |= bit;
    (global ? local_set : global_set)[i / 64] &= ~bit;
}

/* Is a data breakpoint armed anywhere in the page? Then its accesses must take the slow path. Breakpoints are aligned
 * to their length, so that none crosses a page; MOV to DR flushes when it arms one. */
static bool page_watched(const struct x86_cpu *c, uint64_t lin)
{
    if (__builtin_expect(!(c->dr7 & 0xff), 1))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if ((c->dr7 >> (2 * i) & 3) && (c->dr7 >> (16 + 4 * i) & 1) && ((c->dr[i] ^ lin) & ~(uint64_t)OFFS) == 0)
            return true;
    return false;
}

/* --- physical accesses ---------------------------------------------------- */

/* Aligned accesses of machine sizes are single host accesses, as other vCPUs must see them whole. */
static inline void ram_load(void *buf, const uint8_t *p, uint32_t len)
{
    uintptr_t a = (uintptr_t)p;

    if (len == 8 && !(a & 7)) {
        uint64_t v = __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
        memcpy(buf, &v, 8);
    } else if (len == 4 && !(a & 3)) {
        uint32_t v = __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
        memcpy(buf, &v, 4);
    } else if (len == 2 && !(a & 1)) {
        uint16_t v = __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
        memcpy(buf, &v, 2);
    } else if (len == 1) {
        *(uint8_t *)buf = __atomic_load_n(p, __ATOMIC_RELAXED);
    } else {
        memcpy(buf, p, len);
    }
}

static inline void ram_store(uint8_t *p, const void *buf, uint32_t len)
{
    uintptr_t a = (uintptr_t)p;

    if (len == 8 && !(a & 7)) {
        uint64_t v;
        memcpy(&v, buf, 8);
        __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED);
    } else if (len == 4 && !(a & 3)) {
        uint32_t v;
        memcpy(&v, buf, 4);
        __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED);
    } else if (len == 2 && !(a & 1)) {
        uint16_t v;
        memcpy(&v, buf, 2);
        __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED);
    } else if (len == 1) {
        __atomic_store_n(p, *(const uint8_t *)buf, __ATOMIC_RELAXED);
    } else {
        memcpy(p, buf, len);
    }
}

/* Naturally aligned bus accesses of at most 8 bytes. */
static void bus(struct x86_cpu *c, uint64_t gpa, uint8_t *buf, uint32_t len, bool write)
{
    while (len) {
        struct x86_io io = {.addr = gpa, .size = 8, .write = write, .mmio = true};

        while (io.size > len || (gpa & (io.size - 1)))
            io.size >>= 1;
        if (write)
            memcpy(&io.data, buf, io.size);
        c->ops->io(c->env, &io);
        if (!write)
            memcpy(buf, &io.data, io.size);
        gpa += io.size;
        buf += io.size;
        len -= io.size;
    }
}

/* How much of [gpa, gpa + len) lies in one page: the unit in which memory changes its kind. */
static uint32_t page_part(uint64_t gpa, uint32_t len)
{
    uint32_t room = PAGE - (uint32_t)(gpa & OFFS);

    return len < room ? len : room;
}

void x86_phys_read(struct x86_cpu *c, uint64_t gpa, void *buf, uint32_t len)
{
    uint8_t *b = buf;

    while (len) {
        uint32_t n = page_part(gpa, len);
        const uint8_t *p = gpa_host(c->mmu.map, gpa, n, false);

        if (p)
            ram_load(b, p, n);
        else
            bus(c, gpa, b, n, false);
        gpa += n;
        b += n;
        len -= n;
    }
}

void x86_phys_write(struct x86_cpu *c, uint64_t gpa, const void *buf, uint32_t len)
{
    const uint8_t *b = buf;

    while (len) {
        uint32_t n = page_part(gpa, len);
        const struct gpa_range *r = gpa_find(c->mmu.map, gpa);

        if (r && r->kind == GPA_RAM) {
            uint32_t *flags = r->page_flags ? r->page_flags + (gpa - r->start) / PAGE : NULL;

            ram_store(r->host + (gpa - r->start), b, n);
            /* full barrier: the store is visible before the flag is looked at */
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            if (flags && (__atomic_load_n(flags, __ATOMIC_RELAXED) & GPA_PF_CODE))
                c->ops->code_write(c->env, gpa, n);
        } else if (!r || r->kind != GPA_ROM) {
            bus(c, gpa, (uint8_t *)b, n, true);
        }
        gpa += n;
        b += n;
        len -= n;
    }
}

/* --- translation with caching -------------------------------------------- */

static enum x86_tlb_ctx ctx_of(const struct x86_cpu *c, const struct x86_tlb_entry *tlb)
{
    return (enum x86_tlb_ctx)((tlb - c->mmu.tlb[0]) / X86_TLB_SIZE);
}

/* Host address and flag words of the memory at gpa; NULL if it is neither RAM nor ROM. */
static uint8_t *memory_at(struct x86_cpu *c, uint64_t gpa, bool *ram, uint32_t **page_flags)
{
    struct x86_mmu *m = &c->mmu;
    const struct gpa_range *r;

    if (__builtin_expect(gpa - m->ram_start >= m->ram_size, 0)) {
        r = gpa_find(m->map, gpa);
        if (!r || (r->kind != GPA_RAM && r->kind != GPA_ROM))
            return NULL;
        if (r->kind == GPA_ROM) {
            *ram = false;
            *page_flags = NULL;
            return r->host + (gpa - r->start);
        }
        m->ram_start = r->start;
        m->ram_size = r->size;
        m->ram_host = r->host;
        m->ram_flags = r->page_flags;
    }
    *ram = true;
    *page_flags = m->ram_flags ? m->ram_flags + (gpa - m->ram_start) / PAGE : NULL;
    return m->ram_host + (gpa - m->ram_start);
}

/* Announce a write translation of a page. False: the page holds translated code and must not have one. */
static bool become_writer(const struct x86_cpu *c, uint32_t *page_flags)
{
    uint32_t flags;

    if (!page_flags)
        return true;
    flags = __atomic_load_n(page_flags, __ATOMIC_RELAXED);
    if (!(flags & c->mmu.page_bit))
        flags = __atomic_fetch_or(page_flags, c->mmu.page_bit, __ATOMIC_SEQ_CST);
    return !(flags & GPA_PF_CODE);
}

static void swap_bits(uint64_t *set, unsigned a, unsigned b)
{
    const uint64_t diff = (set[a / 64] >> (a % 64) ^ set[b / 64] >> (b % 64)) & 1;

    set[a / 64] ^= diff << (a % 64);
    set[b / 64] ^= diff << (b % 64);
}

/* Exchange what a page's slot holds with what the other slot does in which it may be kept. */
static void swap_ways(struct x86_mmu *m, enum x86_tlb_ctx ctx, unsigned slot)
{
    const struct x86_tlb_entry e = m->tlb[ctx][slot];
    const unsigned other = X86_TLB_OTHER(slot);

    m->tlb[ctx][slot] = m->tlb[ctx][other];
    m->tlb[ctx][other] = e;
    swap_bits(m->global[ctx], slot, other);
    swap_bits(m->local[ctx], slot, other);
}

static void swap_code_ways(struct x86_mmu *m, bool user, unsigned slot)
{
    const struct x86_itlb_entry e = m->itlb[user][slot];
    const unsigned other = X86_ITLB_OTHER(slot);

    m->itlb[user][slot] = m->itlb[user][other];
    m->itlb[user][other] = e;
    swap_bits(m->iglobal[user], slot, other);
    swap_bits(m->ilocal[user], slot, other);
}

/* Translate for an access in the context tlb and cache the result if the page can be cached. */
static int translate(struct x86_cpu *c, struct x86_tlb_entry *tlb, uint64_t lin, int access, uint64_t *gpa)
{
    enum x86_tlb_ctx ctx = ctx_of(c, tlb);
    const unsigned slot = (lin >> 12) & (X86_TLB_SIZE - 1);
    struct x86_tlb_entry *e = &tlb[slot];
    uint64_t tag = (lin & ~(uint64_t)OFFS) | c->mmu.gen;
    struct x86_xlat x;
    uint32_t *page_flags;
    uint8_t *host;
    bool ram;

    if (e->tag_r != tag && tlb[X86_TLB_OTHER(slot)].tag_r == tag) {
        swap_ways(&c->mmu, ctx, slot);
        if ((access == X86_WRITE ? e->tag_w : e->tag_r) == tag) {
            *gpa = e->gpa | (lin & OFFS);
            return X86_OK;
        }
    }
    /* X86_TLB_SUPER is supervisor without AC, which is also what an implicit access is */
    if (x86_walk(c, lin, access, ctx == X86_TLB_USER, ctx == X86_TLB_SUPER, &x) != X86_OK)
        return X86_FAULT;
    *gpa = x.gpa;
    host = memory_at(c, x.gpa, &ram, &page_flags);
    if (!host || page_watched(c, lin))
        return X86_OK;
    tag = (lin & ~(uint64_t)OFFS) | c->mmu.gen; /* a bus access of the walk's may have flushed */
    if (e->tag_r != tag && (e->tag_r & OFFS) == c->mmu.gen)
        swap_ways(&c->mmu, ctx, slot);
    e->gpa = x.gpa & ~(uint64_t)OFFS;
    e->addend = (uint64_t)(uintptr_t)host - lin;
    e->tag_r = tag;
    e->tag_w = x.writable && ram && become_writer(c, page_flags) ? tag : 0;
    note_large(&c->mmu, lin, &x);
    note_global(c->mmu.global[ctx], c->mmu.local[ctx], slot, x.global);
    return X86_OK;
}

/* The guest-physical address for an access; from the cache where it can be. A write needs D, which only a write
 * translation proves, so writes to pages with code walk every time. */
static int locate(struct x86_cpu *c, struct x86_tlb_entry *tlb, uint64_t lin, int access, uint64_t *gpa)
{
    const struct x86_tlb_entry *e = &tlb[(lin >> 12) & (X86_TLB_SIZE - 1)];
    uint64_t tag = (lin & ~(uint64_t)OFFS) | c->mmu.gen;

    if ((access == X86_WRITE ? e->tag_w : e->tag_r) == tag) {
        *gpa = e->gpa | (lin & OFFS);
        return X86_OK;
    }
    return translate(c, tlb, lin, access, gpa);
}

/* --- linear accesses -------------------------------------------------------- */

/* The linear address that follows the end of a page; outside IA-32e mode addresses wrap at 4 GiB. */
static inline uint64_t next_page(const struct x86_cpu *c, uint64_t lin)
{
    uint64_t a = (lin | OFFS) + 1;

    return x86_lma(c) ? a : (uint32_t)a;
}

static int lin_read(struct x86_cpu *c, struct x86_tlb_entry *tlb, uint64_t lin, void *buf, uint32_t len, bool watch)
{
    const struct x86_tlb_entry *e = &tlb[(lin >> 12) & (X86_TLB_SIZE - 1)];
    uint32_t n = page_part(lin, len);
    uint64_t gpa, gpa2 = 0;

    if (n == len && e->tag_r == ((lin & ~(uint64_t)OFFS) | c->mmu.gen)) {
        ram_load(buf, (const uint8_t *)(uintptr_t)(lin + e->addend), len);
        return X86_OK;
    }
    if (locate(c, tlb, lin, X86_READ, &gpa) != X86_OK)
        return X86_FAULT;
    if (n < len && locate(c, tlb, next_page(c, lin), X86_READ, &gpa2) != X86_OK)
        return X86_FAULT;
    x86_phys_read(c, gpa, buf, n);
    if (n < len)
        x86_phys_read(c, gpa2, (uint8_t *)buf + n, len - n);
    if (watch && (c->dr7 & 0xff))
        x86_debug_data(c, lin, len, false);
    return X86_OK;
}

static int lin_write(struct x86_cpu *c, struct x86_tlb_entry *tlb, uint64_t lin, const void *buf, uint32_t len,
                     bool watch)
{
    const struct x86_tlb_entry *e = &tlb[(lin >> 12) & (X86_TLB_SIZE - 1)];
    uint32_t n = page_part(lin, len);
    uint64_t gpa, gpa2 = 0;

    if (n == len && e->tag_w == ((lin & ~(uint64_t)OFFS) | c->mmu.gen)) {
        ram_store((uint8_t *)(uintptr_t)(lin + e->addend), buf, len);
        return X86_OK;
    }
    if (locate(c, tlb, lin, X86_WRITE, &gpa) != X86_OK)
        return X86_FAULT;
    if (n < len && locate(c, tlb, next_page(c, lin), X86_WRITE, &gpa2) != X86_OK)
        return X86_FAULT;
    x86_phys_write(c, gpa, buf, n);
    if (n < len)
        x86_phys_write(c, gpa2, (const uint8_t *)buf + n, len - n);
    if (watch && (c->dr7 & 0xff))
        x86_debug_data(c, lin, len, true);
    return X86_OK;
}

int x86_lin_read(struct x86_cpu *c, uint64_t lin, void *buf, uint32_t len)
{
    return lin_read(c, c->mmu.cur, lin, buf, len, true);
}

int x86_lin_write(struct x86_cpu *c, uint64_t lin, const void *buf, uint32_t len)
{
    return lin_write(c, c->mmu.cur, lin, buf, len, true);
}

int x86_sys_read(struct x86_cpu *c, uint64_t lin, void *buf, uint32_t len)
{
    return lin_read(c, c->mmu.tlb[X86_TLB_SUPER], lin, buf, len, false);
}

int x86_sys_write(struct x86_cpu *c, uint64_t lin, const void *buf, uint32_t len)
{
    return lin_write(c, c->mmu.tlb[X86_TLB_SUPER], lin, buf, len, false);
}

int x86_lin_probe(struct x86_cpu *c, uint64_t lin, uint32_t len, int access)
{
    uint64_t gpa;

    if (!len)
        return X86_OK;
    if (access == X86_EXEC) {
        const uint8_t *host;

        if (x86_fetch_page(c, lin, &host, &gpa) != X86_OK)
            return X86_FAULT;
        return page_part(lin, len) < len ? x86_fetch_page(c, next_page(c, lin), &host, &gpa) : X86_OK;
    }
    if (locate(c, c->mmu.cur, lin, access, &gpa) != X86_OK)
        return X86_FAULT;
    return page_part(lin, len) < len ? locate(c, c->mmu.cur, next_page(c, lin), access, &gpa) : X86_OK;
}

int x86_lin_host(struct x86_cpu *c, uint64_t lin, int access, void **host)
{
    const struct x86_tlb_entry *e = &c->mmu.cur[(lin >> 12) & (X86_TLB_SIZE - 1)];
    uint64_t tag = (lin & ~(uint64_t)OFFS) | c->mmu.gen, gpa;

    if ((access == X86_WRITE ? e->tag_w : e->tag_r) != tag) {
        if (translate(c, c->mmu.cur, lin, access, &gpa) != X86_OK)
            return X86_FAULT;
        if ((access == X86_WRITE ? e->tag_w : e->tag_r) != tag) {
            *host = NULL;
            return X86_OK;
        }
    }
    *host = (void *)(uintptr_t)(lin + e->addend);
    return X86_OK;
}

int x86_fetch_page(struct x86_cpu *c, uint64_t lin, const uint8_t **host, uint64_t *gpa)
{
    bool user = c->cpl == 3;
    const unsigned slot = (lin >> 12) & (X86_ITLB_SIZE - 1);
    struct x86_itlb_entry *e = &c->mmu.itlb[user][slot];
    uint64_t tag = (lin & ~(uint64_t)OFFS) | c->mmu.gen;
    uint32_t *page_flags;
    struct x86_xlat x;
    uint8_t *mem;
    bool ram;

    if (e->tag != tag && c->mmu.itlb[user][X86_ITLB_OTHER(slot)].tag == tag)
        swap_code_ways(&c->mmu, user, slot);
    if (e->tag != tag) {
        if (x86_walk(c, lin, X86_EXEC, user, false, &x) != X86_OK)
            return X86_FAULT;
        *gpa = x.gpa & ~(uint64_t)OFFS;
        mem = memory_at(c, *gpa, &ram, &page_flags);
        if (!mem) {
            *host = NULL;
            return X86_OK;
        }
        tag = (lin & ~(uint64_t)OFFS) | c->mmu.gen; /* a bus access of the walk's may have flushed */
        if (e->tag != tag && (e->tag & OFFS) == c->mmu.gen)
            swap_code_ways(&c->mmu, user, slot);
        e->gpa = *gpa;
        e->host = mem;
        e->tag = tag;
        note_large(&c->mmu, lin, &x);
        note_global(c->mmu.iglobal[user], c->mmu.ilocal[user], slot, x.global);
    }
    *gpa = e->gpa;
    *host = e->host;
    return X86_OK;
}
