/*
 * Links between pages. A branch to another page, in kernel code, compares the linear address of the page it is in with the one
 * it was linked at, stores the page it goes to, and jumps. So such a link says where a linear address leads, and
 * must go when that changes: links are listed by the page they lead to, and a flush looks the pages concerned up in the page tables. Those that
 * still lead to the same code stay, as translations that a processor reads again at once. Only to global pages, since a MOV to CR3 looks at none,
 * and only between addresses that are sign-extended 32-bit numbers.
 */
#include "engine/translate/translate.h"
#include "x86/mmu.h"

static unsigned bucket(uint64_t page) { return (unsigned)((page >> 12) * 0x9e3779b97f4a7c15ull >> (64 - TR_FAR_BITS)); }

static void put32(uint8_t *at, uint64_t v)
{
    *(e_disp32 *)(void *)at = (uint32_t)v;
}

/* Does the page lead to gpa as it did when it was linked? */
static bool leads(const struct translate *x, uint64_t lin, uint64_t gpa)
{
    struct x86_look l;

    return x86_walk_look(&x->v->cpu, lin, &l) && l.global && l.accessed && !l.nx && !l.user && ((l.gpa ^ gpa) & ~0xfffull) == 0;
}

/* False: links were taken away. */
static bool check(struct translate *x, struct tr_far_page *p)
{
    if (!p->links || leads(x, p->lin, p->gpa))
        return true;
    for (const struct tr_far *f = p->links; f; f = f->next)
        put32(f->at, TR_FAR_NEVER);
    p->links = NULL;
    return false;
}

static struct tr_far_page *find(const struct translate *x, uint64_t page)
{
    struct tr_far_page *p = x->far[bucket(page)];

    while (p && p->lin != page)
        p = p->next;
    return p;
}

void tr_far_check_page(struct translate *x, uint64_t page)
{
    struct tr_far_page *p = find(x, page);

    if (p && !check(x, p))
        tr_serialise();
}

void tr_far_check_all(struct translate *x)
{
    bool all = true;

    for (unsigned i = 0; i < 1u << TR_FAR_BITS; i++)
        for (struct tr_far_page *p = x->far[i]; p; p = p->next)
            all &= check(x, p);
    if (!all)
        tr_serialise();
}

static bool narrow(uint64_t v) { return v == (uint64_t)(int64_t)(int32_t)v; }

void tr_far_link(struct translate *x, struct tr_far_exit *s, uint64_t from, uint64_t lin, const uint8_t *code, uint64_t gpa)
{
    const uint64_t page = lin & ~0xfffull;
    struct tr_far_page *p = find(x, page);
    uint8_t *link = x->rw + s->link;
    struct tr_far *f;

    if (++s->tries >= TR_FAR_TRIES) /* from now on by the jump table */
        e_patch(x->rw + s->s.at, x->rw + s->next);
    if (!narrow(x->one - from) || !narrow(page) || !leads(x, lin, gpa) || (p && check(x, p) && p->links && ((p->gpa ^ gpa) & ~0xfffull)) ||
        x->taken + sizeof(*p) + sizeof(*f) > TR_ARENA_SIZE)
        return;
    if (!p) {
        p = tr_take(x, sizeof(*p));
        *p = (struct tr_far_page){.lin = page, .next = x->far[bucket(page)]};
        x->far[bucket(page)] = p;
    }
    p->gpa = gpa & ~0xfffull;
    f = tr_take(x, sizeof(*f));
    *f = (struct tr_far){.next = p->links, .at = link};
    p->links = f;
    put32(link + s->gap, page);
    e_patch(link + s->gap + TR_FAR_TO, code - (x->rx - x->rw));
    put32(link, x->one - from);
    tr_serialise();
}
