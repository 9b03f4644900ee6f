/*
 * MMX, SSE and AVX instructions that a thunk runs on the host CPU (x86/thunk.h).
 *
 * Order of exceptions (SDM Vol. 2A, 2.4 to 2.9): #UD, #NM, #MF, segment and
 * alignment #GP/#SS/#AC, #PF, then #XM. A fault leaves registers as they were,
 * but as on silicon TOP becomes 0 before the store of an MMX register
 * faults, MMX state is entered before #XM is raised, and MXCSR keeps the flags of a conversion whose store faults.
 */
#include <string.h>

#include "ringer/host.h"
#include "x86/fpu.h"

int x86_fpu_lin(struct x86_cpu *c, const struct x86_insn *in, uint32_t size, int access, uint32_t ac, uint32_t align, uint64_t *lin)
{
    int r = x86_seg_lin(c, in->mem.seg, x86_ea(c, in), size, access, ac, lin);

    if (r)
        return r;
    if (align > 1 && (*lin & (align - 1)))
        return x86_raise_err(c, X86_GP, 0);
    return X86_OK;
}

struct thunk_call {
    const struct x86_thunk *t;
    struct x86_cpu *c;
    void *mem;
};

static void call(void *arg)
{
    struct thunk_call *k = arg;

    k->t->code(k->c, k->mem);
}

/* With an unmasked SIMD exception the host may fault: the thunk has then stored nothing. */
static int run_unmasked(struct x86_cpu *c, const struct x86_thunk *t, void *mem)
{
    struct thunk_call k = {t, c, mem};
    uint64_t mxcsr;
    int v = host_guarded(call, &k, &mxcsr);

    if (v < 0)
        return X86_OK;
    if (t->flags & X86_TH_MMX)
        __asm__ volatile("emms");
    if (v != X86_XM)
        return x86_raise(c, X86_UD); /* the host refuses the instruction itself: the guest's CPU has none such */
    if (!(c->cr4 & X86_CR4_OSXMMEXCPT))
        return x86_raise(c, X86_UD);
    c->fpu.mxcsr |= (uint32_t)mxcsr & 0x3f;
    return x86_raise(c, X86_XM);
}

static inline int run(struct x86_cpu *c, const struct x86_thunk *t, void *mem)
{
    if ((t->flags & X86_TH_MXCSR) && __builtin_expect((c->fpu.mxcsr & 0x1f80) != 0x1f80, 0))
        return run_unmasked(c, t, mem);
    t->code(c, mem);
    return X86_OK;
}

/* The memory operand is not in a cached page of plain RAM, or there is MMX state to enter. */
static int slow(struct x86_cpu *c, const struct x86_insn *in, const struct x86_thunk *t)
{
    uint8_t *buf = c->thunks->bounce;
    uint64_t lin = 0;
    bool mem = t->flags & (X86_TH_MEM_R | X86_TH_MEM_W);
    bool late = (t->flags & (X86_TH_MXCSR | X86_TH_MEM_W)) == (X86_TH_MXCSR | X86_TH_MEM_W);
    int r, access = t->flags & X86_TH_MEM_W ? X86_WRITE : X86_READ;

    if ((t->flags & (X86_TH_MMX | X86_TH_MEM_W)) == (X86_TH_MMX | X86_TH_MEM_W))
        x86_fpu_rotate(&c->fpu, 0);
    /* A store that converts (VCVTPS2PH) raises #XM before the store is tried. */
    if (mem && !late && (r = x86_fpu_lin(c, in, t->size, access, t->ac, t->align, &lin)))
        return r;
    if (t->flags & X86_TH_MEM_R && (r = x86_lin_read(c, lin, buf, t->size)))
        return r;
    if (t->flags & X86_TH_MMX) {
        x86_fpu_rotate(&c->fpu, 0);
        if (!(t->flags & X86_TH_MEM_W))
            c->fpu.ftw = 0xff;
    }
    r = run(c, t, buf);
    if (!r && late)
        r = x86_fpu_lin(c, in, t->size, access, t->ac, t->align, &lin);
    if (!r && (t->flags & X86_TH_MEM_W))
        r = x86_lin_write(c, lin, buf, t->size);
    if (!r && (t->flags & X86_TH_MMX))
        c->fpu.ftw = 0xff;
    return r;
}

static inline uint64_t ea(const struct x86_cpu *c, const struct x86_insn *in)
{
    const struct x86_memref *m = &in->mem;
    uint64_t a = (uint64_t)m->disp;

    if (m->base < X86_NGPR)
        a += c->gpr[m->base];
    else if (m->base == X86_REG_RIP)
        a += c->rip + in->len;
    if (m->index < X86_NGPR)
        a += c->gpr[m->index] * m->scale;
    return in->addrsize == 8 ? a : (uint32_t)a;
}

int x86_exec_simd(struct x86_cpu *c, const struct x86_insn *in)
{
    const struct x86_thunk *t = x86_thunk(c, in);
    int r;

    if (__builtin_expect(!t, 0))
        return x86_raise(c, X86_UD);
    if (t->flags & X86_TH_VEX) {
        if ((r = x86_check_avx(c)))
            return r;
    } else if (t->flags & X86_TH_XMM) {
        if ((r = x86_check_sse(c)))
            return r;
    }
    if (t->flags & X86_TH_MMX) {
        if (c->cr0 & X86_CR0_EM)
            return x86_raise(c, X86_UD);
        if (c->cr0 & X86_CR0_TS)
            return x86_raise(c, X86_NM);
        if (x86_fpu_pending(&c->fpu) && (r = x86_fpu_wait(c)))
            return r;
        return slow(c, in, t);
    }
    if (!(t->flags & (X86_TH_MEM_R | X86_TH_MEM_W)))
        return run(c, t, NULL);

    /* 64-bit mode, no alignment checking: one TLB look-up (pages with a watchpoint or code to guard are never in it). */
    if (__builtin_expect(c->mode == X86_MODE_64 && !(c->fl_sys & X86_FL_AC), 1)) {
        uint64_t lin = ea(c, in), host;

        if (in->mem.seg >= X86_FS)
            lin += c->seg[in->mem.seg].base;
        if (__builtin_expect(!(lin & (t->align - 1u)), 1)) {
            host = t->flags & X86_TH_MEM_W ? x86_tlb_host_w(c, lin, t->size) : x86_tlb_host_r(c, lin, t->size);
            if (__builtin_expect(host != 0, 1))
                return run(c, t, (void *)(uintptr_t)host);
        }
    }
    return slow(c, in, t);
}
