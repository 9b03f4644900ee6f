/*
 * The page walk (SDM Vol. 3A, chapter 4).
 *
 * In a nutshell: descend from CR3 (or a PDPTR) collecting entries and combined
 * rights, stop at the first entry that is not present or has reserved bits set,
 * then check the access against the rights, and only when it is allowed set A
 * (and D) with compare-exchange. Losing such a race restarts the walk, as another
 * processor may have changed the entry altogether.
 */
#include "ringer/gpa.h"
#include "x86/cpuid.h"
#include "x86/mmu.h"

enum { PTE_P = 1, PTE_RW = 2, PTE_US = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80, PTE_G = 0x100 };
enum { PF_P = 1, PF_WR = 2, PF_US = 4, PF_RSVD = 8, PF_ID = 16 };

struct path {
    unsigned n;     /* entries visited; the last one is the leaf */
    unsigned shift; /* log2 of the page size */
    unsigned esize; /* bytes per entry */
    uint64_t ea[4], e[4];
    uint64_t base; /* physical address of the page */
    bool rw, us, nx;
};

/* Where an entry lies: host pointer for RAM and ROM, else NULL. */
static inline uint8_t *entry_host(const struct x86_cpu *c, uint64_t gpa, bool write)
{
    if (__builtin_expect(gpa - c->mmu.ram_start < c->mmu.ram_size, 1))
        return c->mmu.ram_host + (gpa - c->mmu.ram_start);
    return gpa_host(c->mmu.map, gpa, 8 - (gpa & 4), write);
}

static uint64_t entry_load(const uint8_t *p, unsigned esize)
{
    return esize == 8 ? __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE)
                      : __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE);
}

static uint64_t entry_io(struct x86_cpu *c, uint64_t gpa, unsigned esize)
{
    struct x86_io io = {.addr = gpa, .size = esize, .mmio = true};

    c->ops->io(c->env, &io);
    return esize == 8 ? io.data : (uint32_t)io.data;
}

/* Set bits in an entry that was read as old. False: it has changed meanwhile. */
static bool entry_set(struct x86_cpu *c, uint64_t gpa, unsigned esize, uint64_t old, uint64_t bits)
{
    uint8_t *p = entry_host(c, gpa, true);
    uint32_t *flags;
    bool ok;

    if (!p) {
        if (!entry_host(c, gpa, false)) { /* tables in device memory: no atomicity to be had; ROM: dropped */
            struct x86_io io = {.addr = gpa, .data = old | bits, .size = esize, .write = true, .mmio = true};

            c->ops->io(c->env, &io);
        }
        return true;
    }
    if (esize == 8) {
        uint64_t expect = old;

        ok = __atomic_compare_exchange_n((uint64_t *)p, &expect, old | bits, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        uint32_t expect = (uint32_t)old;

        ok = __atomic_compare_exchange_n((uint32_t *)p, &expect, (uint32_t)(old | bits), false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST);
    }
    flags = gpa_page_flags(c->mmu.map, gpa);
    if (ok && flags && (__atomic_load_n(flags, __ATOMIC_SEQ_CST) & GPA_PF_CODE))
        c->ops->code_write(c->env, gpa, esize);
    return ok;
}

/* Bits that must be zero in a present entry of this level (SDM Vol. 3A, 4.3-4.5). level: 4 PML4E .. 1 PTE.
 * high: those that depend only on the paging mode. */
static inline uint64_t reserved_bits(const struct x86_cpu *c, unsigned esize, unsigned level, uint64_t e, uint64_t high)
{
    if (esize == 4) {
        unsigned m;

        if (level != 2 || !(e & PTE_PS) || !(c->cr4 & X86_CR4_PSE))
            return 0;
        /* PSE-36: bits 20:13 hold address bits 39:32 as far as MAXPHYADDR goes */
        m = x86_phys_bits(c->cpuid);
        m = m > 40 ? 40 : m;
        return 0x3fe000 & ~((1ull << (m - 19)) - 1);
    }
    if (!(e & PTE_PS) || level == 1)
        return high;
    return high | (level == 4 ? PTE_PS : level == 3 ? 0x3fffe000 : 0x1fe000);
}

static inline bool is_leaf(const struct x86_cpu *c, unsigned esize, unsigned level, uint64_t e)
{
    return level == 1 || ((e & PTE_PS) && (esize == 8 || (c->cr4 & X86_CR4_PSE)));
}

/* Follow the tables. Returns 0, or the P and RSVD bits of the fault plus 0x100 (so that "not present" is not 0).
 * rw may be NULL: then no access to device memory is made (c is only read). */
static unsigned descend(const struct x86_cpu *c, struct x86_cpu *rw, uint64_t lin, struct path *p)
{
    uint64_t addr_mask = ((1ull << x86_phys_bits(c->cpuid)) - 1) & ~0xfffull, table;
    uint64_t high = ~(addr_mask | 0xfff) & (x86_lma(c) ? 0x000fffffffffffff : 0x7fffffffffffffff);
    unsigned level, bits;

    if (!(c->efer & X86_EFER_NXE))
        high |= 1ull << 63;
    p->n = 0;
    p->rw = p->us = true;
    p->nx = false;
    if (x86_lma(c)) {
        table = c->cr3 & addr_mask;
        level = 4;
        bits = 9;
        p->esize = 8;
    } else if (c->cr4 & X86_CR4_PAE) {
        uint64_t pdpte = c->pdptr[(lin >> 30) & 3];

        if (!(pdpte & PTE_P))
            return 0x100;
        table = pdpte & addr_mask;
        level = 2;
        bits = 9;
        p->esize = 8;
    } else {
        table = c->cr3 & 0xfffff000;
        addr_mask = 0xfffff000;
        level = 2;
        bits = 10;
        p->esize = 4;
    }
    for (;; level--) {
        unsigned shift = 12 + (level - 1) * bits;
        uint64_t ea = table + ((lin >> shift) & ((1u << bits) - 1)) * p->esize, e;
        const uint8_t *host = entry_host(c, ea, false);

        if (host)
            e = entry_load(host, p->esize);
        else if (rw)
            e = entry_io(rw, ea, p->esize);
        else
            return 0x100;
        if (!(e & PTE_P))
            return 0x100;
        if (e & reserved_bits(c, p->esize, level, e, high))
            return 0x100 | PF_P | PF_RSVD;
        p->ea[p->n] = ea;
        p->e[p->n++] = e;
        p->rw &= !!(e & PTE_RW);
        p->us &= !!(e & PTE_US);
        p->nx |= e >> 63; /* without NXE the bit is reserved; 4-byte entries have none */
        if (is_leaf(c, p->esize, level, e)) {
            uint64_t size = 1ull << shift;

            p->shift = shift;
            p->base = e & addr_mask & ~(size - 1);
            if (p->esize == 4 && level == 2)
                p->base |= ((e >> 13) & 0xff) << 32;
            return 0;
        }
        table = e & addr_mask;
    }
}

/* SDM Vol. 3A, 4.6.1. */
static bool allowed(const struct x86_cpu *c, const struct path *p, int access, bool user, bool implicit)
{
    if (access == X86_EXEC && p->nx)
        return false;
    if (user)
        return p->us && (access != X86_WRITE || p->rw);
    if (p->us) {
        if (access == X86_EXEC)
            return !(c->cr4 & X86_CR4_SMEP);
        if ((c->cr4 & X86_CR4_SMAP) && (implicit || !(c->fl_sys & X86_FL_AC)))
            return false;
    }
    return access != X86_WRITE || p->rw || !(c->cr0 & X86_CR0_WP);
}

static int page_fault(struct x86_cpu *c, uint64_t lin, int access, bool user, unsigned bits)
{
    uint32_t err = bits & (PF_P | PF_RSVD);

    if (access == X86_WRITE)
        err |= PF_WR;
    if (user)
        err |= PF_US;
    if (access == X86_EXEC && ((c->cr4 & X86_CR4_SMEP) || ((c->cr4 & X86_CR4_PAE) && (c->efer & X86_EFER_NXE))))
        err |= PF_ID;
    c->exc = (struct x86_exc){.vector = X86_PF, .has_error = true, .error = err, .cr2 = lin};
    return X86_FAULT;
}

int x86_walk(struct x86_cpu *c, uint64_t lin, int access, bool user, bool implicit, struct x86_xlat *out)
{
    struct path p;
    unsigned bad;
    uint64_t leaf;

    if (!(c->cr0 & X86_CR0_PG)) {
        *out = (struct x86_xlat){.gpa = lin, .page_size = 4096, .writable = true};
        return X86_OK;
    }
    c->mmu.walks++;
restart:
    bad = descend(c, c, lin, &p);
    if (bad)
        return page_fault(c, lin, access, user, bad);
    if (!allowed(c, &p, access, user, implicit))
        return page_fault(c, lin, access, user, PF_P);
    for (unsigned i = 0; i < p.n; i++) {
        uint64_t want = PTE_A | (i == p.n - 1 && access == X86_WRITE ? PTE_D : 0);

        if ((p.e[i] & want) != want && !entry_set(c, p.ea[i], p.esize, p.e[i], want))
            goto restart;
        p.e[i] |= want;
    }
    leaf = p.e[p.n - 1];
    out->page_size = 1ull << p.shift;
    out->gpa = p.base | (lin & (out->page_size - 1));
    out->writable = access != X86_EXEC && (leaf & PTE_D) && allowed(c, &p, X86_WRITE, user, implicit);
    out->global = (c->cr4 & X86_CR4_PGE) && (leaf & PTE_G);
    return X86_OK;
}

bool x86_walk_peek(const struct x86_cpu *c, uint64_t lin, uint64_t *gpa)
{
    struct path p;

    if (!(c->cr0 & X86_CR0_PG)) {
        *gpa = lin;
        return true;
    }
    if (descend(c, NULL, lin, &p))
        return false;
    *gpa = p.base | (lin & ((1ull << p.shift) - 1));
    return true;
}

bool x86_walk_look(const struct x86_cpu *c, uint64_t lin, struct x86_look *out)
{
    struct path p;
    bool accessed = true;

    if (!(c->cr0 & X86_CR0_PG) || descend(c, NULL, lin, &p))
        return false;
    for (unsigned i = 0; i < p.n; i++)
        accessed &= !!(p.e[i] & PTE_A);
    *out = (struct x86_look){
        .gpa = p.base | (lin & ((1ull << p.shift) - 1)),
        .page_size = 1ull << p.shift,
        .user = p.us,
        .write = p.rw,
        .nx = p.nx,
        .accessed = accessed,
        .dirty = p.e[p.n - 1] & PTE_D,
        .global = (c->cr4 & X86_CR4_PGE) && (p.e[p.n - 1] & PTE_G),
    };
    return true;
}
