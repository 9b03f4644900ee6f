/*
 * Debug registers: matching breakpoints (SDM Vol. 3B, 18.2-18.3).
 */
#include "x86/exec.h"

/* LEN field to bytes: 00 1, 01 2, 10 8, 11 4. */
static unsigned bp_len(uint64_t dr7, unsigned i)
{
    static const uint8_t len[4] = {1, 2, 8, 4};

    return len[dr7 >> (18 + 4 * i) & 3];
}

static unsigned bp_rw(uint64_t dr7, unsigned i)
{
    return dr7 >> (16 + 4 * i) & 3;
}
static bool bp_on(uint64_t dr7, unsigned i)
{
    return dr7 >> (2 * i) & 3;
}

void x86_debug_data(struct x86_cpu *c, uint64_t lin, uint32_t len, bool write)
{
    if (!(c->dr7 & 0xff) || !len)
        return;
    for (unsigned i = 0; i < 4; i++) {
        unsigned rw = bp_rw(c->dr7, i), n = bp_len(c->dr7, i);
        uint64_t at = c->dr[i] & ~(uint64_t)(n - 1);

        if (bp_on(c->dr7, i) && (rw == 3 || (rw == 1 && write)) && (at - lin < len || lin - at < n))
            c->pending_dbg |= 1u << i;
    }
}

void x86_debug_io(struct x86_cpu *c, uint16_t port, uint32_t len)
{
    if (!(c->dr7 & 0xff) || !(c->cr4 & X86_CR4_DE))
        return;
    for (unsigned i = 0; i < 4; i++) {
        unsigned n = bp_len(c->dr7, i);
        uint64_t at = c->dr[i] & ~(uint64_t)(n - 1);

        if (bp_on(c->dr7, i) && bp_rw(c->dr7, i) == 2 && (at - port < len || port - at < n))
            c->pending_dbg |= 1u << i;
    }
}

static int raise_db(struct x86_cpu *c, uint64_t dr6)
{
    c->exc = (struct x86_exc){.vector = X86_DB, .dr6 = dr6};
    return X86_FAULT;
}

int x86_debug_before(struct x86_cpu *c)
{
    uint64_t lin = c->rip, hit = 0;

    /* RF, and the instruction after MOV SS or POP SS, hide code breakpoints */
    if (!(c->dr7 & 0xff) || (c->fl_sys & X86_FL_RF) || c->inhibit_irq == 2)
        return X86_OK;
    if (c->mode != X86_MODE_64)
        lin = (uint32_t)(c->seg[X86_CS].base + (uint32_t)lin);
    for (unsigned i = 0; i < 4; i++)
        if (bp_on(c->dr7, i) && bp_rw(c->dr7, i) == 0 && c->dr[i] == lin)
            hit |= 1u << i;
    return hit ? raise_db(c, hit) : X86_OK;
}

int x86_debug_after(struct x86_cpu *c, bool tf_before)
{
    uint64_t hit = c->pending_dbg;

    /* After MOV SS or POP SS data breakpoints wait for the end of the next instruction; its own single-step trap is
     * lost. */
    if (c->inhibit_irq == 2)
        return X86_OK;
    if (tf_before)
        hit |= X86_DR6_BS;
    if (!hit)
        return X86_OK;
    c->pending_dbg = 0;
    return raise_db(c, hit);
}
