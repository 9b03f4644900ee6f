/*
 * The code between C and translated code: entering, leaving, calling helpers.
 * All guest registers and flags go to struct x86_cpu and come back, so helpers see the canonical state
 * (cpu->rip holds the page only; they add the site's offset).
 */
#include "engine/translate/translate.h"

const uint8_t tr_host[X86_NGPR] = {H_AX, H_GCX, H_DX, H_BX, H_GSP, H_BP, H_SI, H_DI, H_R8, NOREG, NOREG, NOREG, H_R12, H_R13, H_R14, NOREG};

static void save(struct emit *e, const struct translate *x)
{
    for (unsigned g = 0; g < X86_NGPR; g++)
        if (tr_host[g] != NOREG)
            e_store(e, tr_host[g], AT_CPU(gpr[g]));
    e1(e, 0x9f);                       /* lahf */
    e_rr(e, E_0F, 0x90, 0, H_AX);      /* seto al */
    e_rm(e, E_66, 0x89, H_AX, AT_CPU(cc));
    e_rm(e, 0, 0x83, 7, AT_ROOM(xmm_dead)), e1(e, 0); /* cmp */
    uint8_t *dead = e_jcc(e, 5, NULL);
    e_call(e, x->vector_save_stub);
    e_patch(dead, e->p);
}

static void restore(struct emit *e)
{
    e_rm(e, E_66, 0x8b, H_AX, AT_CPU(cc));
    e1(e, 0x04), e1(e, 127); /* add al, 127 */
    e1(e, 0x9e);             /* sahf */
    for (unsigned g = 0; g < X86_NGPR; g++)
        if (tr_host[g] != NOREG)
            e_load(e, tr_host[g], AT_CPU(gpr[g]));
}

static const uint8_t kept[] = {H_BX, H_BP, H_R12, H_R13, H_R14, H_GSP};

static void push(struct emit *e, unsigned r)
{
    if (r & 8)
        e1(e, 0x41);
    e1(e, 0x50 | (r & 7));
}
static void pop(struct emit *e, unsigned r)
{
    if (r & 8)
        e1(e, 0x41);
    e1(e, 0x58 | (r & 7));
}

/* Back to the caller of enter; the state is saved. */
static void leave(struct emit *e)
{
    e_load(e, H_STATE, AT_ROOM(host_sp));
    e_rr(e, E_W, 0x83, 0, H_STATE), e1(e, 8);
    for (unsigned i = sizeof(kept); i-- > 0;)
        pop(e, kept[i]);
    e1(e, 0xc3);
}

/* Call fn, or what the site says, with R11D the site's offset, and do as it says; code that follows is for XL_ON. */
static void call_site(struct emit *e, const struct translate *x, tr_fn *fn)
{
    save(e, x);
    e_imm(e, H_SI, (uintptr_t)x->arena);
    e_rr(e, E_W, 0x01, H_S1, H_SI);
    e_imm(e, H_DI, (uintptr_t)x->v);
    if (fn)
        e_imm(e, H_AX, (uintptr_t)fn);
    else
        e_load(e, H_AX, (struct hmem){H_SI, NOREG, 1, (int32_t)offsetof(struct tr_exec, fn)});
    e_mov(e, H_BX, H_STATE);
    e_load(e, H_STATE, (struct hmem){H_BX, NOREG, 1, AT_ROOM(host_sp).disp});
    e_rr(e, 0, 0xff, 2, H_AX); /* call rax */
    e_mov(e, H_STATE, H_BX);
    uint8_t *on = NULL;
    if (!fn) {
        e_rr(e, E_W, 0x85, H_AX, H_AX);
        on = e_jcc(e, 4, NULL);
    }
    e_store(e, H_AX, AT_ROOM(lin));
    e_rr(e, E_W, 0x83, 7, H_AX), e1(e, XL_LEAVE);
    uint8_t *go = e_jcc(e, 4, NULL);

    restore(e);
    e_jmp_mem(e, AT_ROOM(lin));
    e_patch(go, e->p);
    leave(e);
    if (on)
        e_patch(on, e->p);
}

static uint8_t *align(struct emit *e)
{
    while ((uintptr_t)e->p & 15)
        e1(e, 0xcc);
    return e->p;
}

void tr_make_stubs(struct translate *x)
{
    struct emit em = {x->rw, x->rw, x->rx - x->rw}, *e = &em;

    uint8_t *p = align(e);
    memcpy(&x->enter, &(uint8_t *){p + e->rx}, sizeof(x->enter));
    for (unsigned i = 0; i < sizeof(kept); i++)
        push(e, kept[i]);
    e_rr(e, E_W, 0x83, 5, H_STATE), e1(e, 8);
    e_store(e, H_STATE, (struct hmem){H_DI, NOREG, 1, AT_ROOM(host_sp).disp});
    e_store(e, H_SI, (struct hmem){H_DI, NOREG, 1, AT_ROOM(ret).disp});
    e_mov(e, H_STATE, H_DI);
    restore(e);
    e_jmp_mem(e, AT_ROOM(ret));

    align(e);
    tr_make_vector_stubs(x, e);

    x->exec_stub = align(e);
    e_rm(e, 0, 0x8f, 0, AT_ROOM(ret)); /* pop: the address is that of RSP after it */
    call_site(e, x, NULL);
    restore(e);
    e_rm(e, 0, 0xff, 6, AT_ROOM(ret)); /* push; ret: in step with the host's return prediction */
    e1(e, 0xc3);

    const struct {
        uint8_t **stub;
        tr_fn *fn;
    } out[] = {{&x->miss_stub, xl_miss}, {&x->window_stub, xl_window}, {&x->goto_stub, xl_goto}, {&x->chain_stub, xl_chain}, {&x->far_stub, xl_far}};

    for (unsigned i = 0; i < sizeof(out) / sizeof(out[0]); i++) {
        *out[i].stub = align(e);
        e_store(e, H_S0, AT_ROOM(lin));
        call_site(e, x, out[i].fn);
    }
    align(e);
    tr_make_way_stubs(x, e);
    align(e);
    tr_make_table_stubs(x, e);
    x->leave_stub = align(e);
    e_store(e, H_S1, AT_ROOM(aux));
    save(e, x);
    leave(e);
    align(e);
    x->base = x->used = (size_t)(e->p - x->rw);
}
