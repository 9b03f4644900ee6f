/*
 * System instructions inline. What a block knows of its state (supervisor or user, SMAP, AC) decides
 * at translation what the executors decide at run time; all else is left to them. Flags of struct x86_cpu (fl_sys)
 * are changed by PEXT and PDEP, which leave the arithmetic flags alone.
 */
#include "engine/translate/select.h"

static bool kernel(const struct tr *t) { return (t->b->key & TR_CTX) != X86_TLB_USER; }

void sel_tally(struct tr *t)
{
    const unsigned pg = x86_isa[t->in->row].pg & 7;
    struct hmem m = AT_CPU(pg_count);
    struct emit *e = &t->e;

    if (!x86_isa[t->in->row].pg)
        return;
    m.disp += 8 * (int32_t)pg;
    e_load(e, H_CX, m);
    e_lea(e, H_CX, (struct hmem){H_CX, NOREG, 1, 1});
    e_store(e, H_CX, m);
}

/* fl_sys without IF, plus add. RCX is lost. */
static void set_if(struct tr *t, int32_t add)
{
    struct emit *e = &t->e;

    e_rm(e, 0, 0x8b, H_CX, AT_CPU(fl_sys));
    PEXT(H_CX, H_CX, AT_ROOM(not_if));
    PDEP(H_CX, H_CX, AT_ROOM(not_if));
    if (add)
        e_rm(e, 0, 0x8d, H_CX, (struct hmem){H_CX, NOREG, 1, add});
    e_rm(e, 0, 0x89, H_CX, AT_CPU(fl_sys));
}

static bool cli(struct tr *t)
{
    if (!kernel(t))
        return false;
    set_if(t, 0);
    sel_tally(t);
    return true;
}

static bool cld(struct tr *t)
{
    struct emit *e = &t->e;

    e_rm(e, 0, 0x8b, H_CX, AT_CPU(fl_sys));
    PEXT(H_CX, H_CX, AT_ROOM(not_df));
    PDEP(H_CX, H_CX, AT_ROOM(not_df));
    e_rm(e, 0, 0x89, H_CX, AT_CPU(fl_sys));
    return true;
}

/* The shadow needs an instruction behind it in the block; while something waits for IF the executor has it. */
static bool sti(struct tr *t)
{
    struct emit *e = &t->e;
    struct tr_site *s;

    if (!kernel(t) || t->idx + 1 >= t->n)
        return false;
    s = sel_site(t);
    s->redo = true;
    e_rm(e, 0, 0x8b, H_CX, AT_VCPU(requests));
    e_rm(e, E_0F, 0xb6, H_S0, AT_VCPU(irq_waiting));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    sel_unless_zero(t, s, t->x->miss_stub);
    set_if(t, X86_FL_IF);
    sel_tally(t);
    return true;
}

/* In a block VM and RF are 0. */
static bool pushf(struct tr *t)
{
    struct emit *e = &t->e;

    if (t->in->stacksize != 8)
        return false;
    e_lea(e, H_S0, (struct hmem){H_GSP, NOREG, 1, -8});
    sel_lookup(t, true, 8, true);
    e_mov(e, H_GSP, H_S0);
    e_lea(e, H_S1, sel_operand);
    e1(e, 0x9c); /* pushfq; pop rcx */
    e1(e, 0x59);
    PEXT(H_CX, H_CX, AT_ROOM(arith));
    PDEP(H_CX, H_CX, AT_ROOM(arith));
    e_rm(e, 0, 0x8b, H_S0, AT_CPU(fl_sys));
    e_lea(e, H_CX, (struct hmem){H_CX, H_S0, 1, 0});
    e_store(e, H_CX, (struct hmem){H_S1, NOREG, 1, 0});
    sel_tally(t);
    return true;
}

static bool swapgs(struct tr *t)
{
    struct emit *e = &t->e;

    if (!kernel(t))
        return false;
    e_load(e, H_S0, AT_CPU(kernel_gs_base));
    e_load(e, H_S1, AT_CPU(seg[X86_GS].base));
    e_store(e, H_S0, AT_CPU(seg[X86_GS].base));
    e_store(e, H_S1, AT_CPU(kernel_gs_base));
    sel_tally(t);
    return true;
}

/* Blocks of the other context follow, by a link. Which context it is says what AC is while there is SMAP. */
static bool ac(struct tr *t, bool set)
{
    const unsigned now = t->b->key & TR_CTX, then = set ? X86_TLB_SUPER_AC : X86_TLB_SUPER;
    struct emit *e = &t->e;

    if (!kernel(t) || !(t->b->key & TR_SMAP) || t->off + t->in->len > 0xfff)
        return false;
    if (now != then) {
        struct hmem tlb = AT_CPU(mmu.tlb);

        tlb.disp += (int32_t)(then * sizeof(t->x->v->cpu.mmu.tlb[0]));
        e_rm(e, 0, 0x8b, H_CX, AT_CPU(fl_sys));
        e_rm(e, 0, 0x8d, H_CX, (struct hmem){H_CX, NOREG, 1, set ? X86_FL_AC : -X86_FL_AC});
        e_rm(e, 0, 0x89, H_CX, AT_CPU(fl_sys));
        e_lea(e, H_CX, tlb);
        e_store(e, H_CX, AT_CPU(mmu.cur));
    }
    sel_tally(t);
    sel_go_on(t);
    return true;
}

static bool read_cr(struct tr *t)
{
    const struct x86_operand *d = &t->in->opnd[0], *s = &t->in->opnd[1];
    struct hmem m;

    if (!kernel(t) || d->kind != X86_OPND_GPR || d->size != 8)
        return false;
    switch (s->reg) {
    case 0: m = AT_CPU(cr0); break;
    case 2: m = AT_CPU(cr2); break;
    case 3: m = AT_CPU(cr3); break;
    case 4: m = AT_CPU(cr4); break;
    default: return false;
    }
    const unsigned h = tr_host[d->reg] == NOREG ? H_S0 : tr_host[d->reg];

    e_load(&t->e, h, m);
    sel_put_back(t, d->reg, h);
    sel_tally(t);
    return true;
}

static bool read_base(struct tr *t, unsigned seg)
{
    const struct x86_operand *d = &t->in->opnd[0];
    struct hmem m = seg == X86_FS ? AT_CPU(seg[X86_FS].base) : AT_CPU(seg[X86_GS].base);
    struct emit *e = &t->e;
    struct tr_site *s;

    if (d->kind != X86_OPND_GPR)
        return false;
    s = sel_site(t);
    s->redo = true;
    e_rm(e, 0, 0x8b, H_CX, AT_CPU(cr4));
    e_rr(e, 0, 0xf7, 2, H_CX); /* not ecx */
    PEXT(H_CX, H_CX, AT_ROOM(fsgsbase));
    sel_unless_zero(t, s, t->x->miss_stub);

    const unsigned h = tr_host[d->reg] == NOREG ? H_S0 : tr_host[d->reg];

    e_rm(e, d->size == 8 ? E_W : 0, 0x8b, h, m);
    sel_put_back(t, d->reg, h);
    sel_tally(t);
    return true;
}

/* CMPXCHG8B and CMPXCHG16B, where aligned: the latter must be, the former might cross a cache line. */
static bool cmpxchg_pair(struct tr *t, bool wide)
{
    struct emit *e = &t->e;
    const unsigned size = wide ? 16 : 8;

    const struct sel_where at = sel_operand_of(t->in);

    if (!sel_aligned(t, size) || !sel_address(t, H_S0, &at, 0))
        return false;
    sel_lookup(t, true, size, true);
    e_mov(e, H_CX, H_GCX);
    e_rm(e, E_0F | (wide ? E_W : 0) | (t->in->lock ? E_LOCK : 0), 0xc7, 1, sel_operand);
    return true;
}

/* BT, BTS, BTR, BTC of a bit string in memory: the offset in a register selects the word, too. */
static bool bit_string(struct tr *t)
{
    const struct x86_operand *m = &t->in->opnd[0], *o = &t->in->opnd[1];
    const unsigned size = m->size, log = size == 8 ? 6 : 5;
    const struct sel_where at = sel_operand_of(t->in);
    struct hmem mask = AT_ROOM(align_mask);
    struct emit *e = &t->e;

    if (m->kind != X86_OPND_MEM || o->kind != X86_OPND_GPR || size < 4 || t->in->addrsize != 8 || !sel_address(t, H_S0, &at, 0))
        return false;
    e_imm32(e, H_CX, log);
    if (size == 8)
        e_mov(e, H_S1, sel_fetch(t, o->reg, H_S1));
    else
        e_rr(e, E_W, 0x63, H_S1, sel_fetch(t, o->reg, H_S1)); /* movsxd */
    e_vrr(e, 2, V_F3, true, 0xf7, H_S1, H_CX, H_S1);          /* sarx */
    e_lea(e, H_S0, (struct hmem){H_S0, H_S1, (uint8_t)size, 0});
    if (t->in->lock) { /* an access that is not aligned might cross a cache line */
        struct hmem low = AT_ROOM(align_mask);
        struct tr_site *s = sel_site(t);

        s->redo = true;
        low.disp += size == 8 ? 24 : 16;
        PEXT(H_CX, H_S0, low);
        sel_unless_zero(t, s, t->x->miss_stub);
    }
    sel_lookup(t, m->access & X86_ACC_W, size, true);
    mask.disp += 8 * (int32_t)log;
    const unsigned h = sel_fetch(t, o->reg, H_CX);
    PEXT(H_CX, h, mask);
    e_rm(e, E_0F | (size == 8 ? E_W : 0) | (t->in->lock ? E_LOCK : 0), t->in->opcode, H_CX, sel_operand);
    return true;
}

static bool verbatim(struct tr *t)
{
    for (unsigned i = 0; i < t->in->len; i++)
        e1(&t->e, t->in->bytes[i]);
    return true;
}

enum sel_result sel_system(struct tr *t)
{
    bool ok = false, ends = false;

    if (x86_watches_sensitive(&t->x->v->cpu) && x86_isa[t->in->row].pg) /* somebody counts by address */
        return NONE;
    switch (t->in->op) {
    case X86_OP_CLI: ok = cli(t); break;
    case X86_OP_STI: ok = sti(t); break;
    case X86_OP_CLD: ok = cld(t); break;
    case X86_OP_PUSHF: ok = pushf(t); break;
    case X86_OP_SWAPGS: ok = swapgs(t); break;
    case X86_OP_STAC: ok = ends = ac(t, true); break;
    case X86_OP_CLAC: ok = ends = ac(t, false); break;
    case X86_OP_SYSCALL: return sel_syscall(t);
    case X86_OP_SYSRET: return sel_sysret(t);
    case X86_OP_MOV_CR: ok = read_cr(t); break;
    case X86_OP_RDFSBASE: ok = read_base(t, X86_FS); break;
    case X86_OP_RDGSBASE: ok = read_base(t, X86_GS); break;
    case X86_OP_CMPXCHG8B: ok = cmpxchg_pair(t, false); break;
    case X86_OP_CMPXCHG16B: ok = cmpxchg_pair(t, true); break;
    case X86_OP_BT: case X86_OP_BTS: case X86_OP_BTR: case X86_OP_BTC: ok = bit_string(t); break;
    case X86_OP_LFENCE: case X86_OP_SFENCE: case X86_OP_MFENCE: ok = verbatim(t); break;
    case X86_OP_PAUSE: /* without its other prefixes: with REX.B, AMD's processors read XCHG */
        e1(&t->e, 0xf3);
        e1(&t->e, 0x90);
        ok = true;
        break;
    default: break;
    }
    if (ok)
        t->s1 = -1;
    return !ok ? NONE : ends ? END : GO_ON;
}
