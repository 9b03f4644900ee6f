/* A VM without board or devices, whose processors run programs through the interpreter on the test's own thread. */
#ifndef INTERP_FIXTURE_H
#define INTERP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ringer/vm.h"
#include "x86/cpuid.h"
#include "x86/exec.h"

/* Which engine the fixture runs: a test may define it before. */
#ifndef IM_ENGINE
#define IM_ENGINE engine_interp
#endif

#define IM_RAM (32u << 20)
#define IM_CODE 0x10000u
#define IM_DATA 0x200000u
#define IM_STACK 0x180000u

struct im {
    struct vm *vm;
    struct vcpu *v;
    struct vm_trace trace;
};

/* Guest code, assembled by the compiler. Mode directives (.code32, .code16) may be given in the text. */
#define PROGRAM(name, text)                                                                                            \
    __asm__(".pushsection .rodata\n" #name "_begin:\n" text "\n" #name "_end:\n.code64\n.popsection");                 \
    extern const uint8_t name##_begin[], name##_end[]

static inline struct im *im_new_as(unsigned ncpu, enum engine_user_code user_code)
{
    struct im *m = calloc(1, sizeof(*m));
    struct vm_config cfg = {.ram_size = IM_RAM, .ncpu = ncpu, .engine = &IM_ENGINE, .engine_cfg.user_code = user_code, .no_reboot = true};
    struct x86_cpuid_config cc = {.ncpu = ncpu, .tsc_khz = 2000000, .phys_bits = 39, .apic_hz = 1000000000};
    char err[128] = "";

    m->vm = vm_new(&cfg, err, sizeof(err));
    assert_non_null(m->vm);
    m->vm->cpuid = x86_cpuid_new(&cc);
    assert_non_null(m->vm->cpuid);
    for (unsigned i = 0; i < ncpu; i++) {
        m->vm->cpu[i] = vcpu_new(m->vm, i);
        assert_non_null(m->vm->cpu[i]);
    }
    assert_int_equal(IM_ENGINE.vm_init(m->vm), 0);
    for (unsigned i = 0; i < ncpu; i++)
        assert_int_equal(IM_ENGINE.vcpu_init(m->vm->cpu[i]), 0);
    m->v = m->vm->cpu[0];
    return m;
}

static inline struct im *im_new(unsigned ncpu) { return im_new_as(ncpu, USER_CODE_AUTO); }

static inline void im_free(struct im *m)
{
    for (unsigned i = 0; i < m->vm->ncpu; i++)
        IM_ENGINE.vcpu_fini(m->vm->cpu[i]);
    IM_ENGINE.vm_fini(m->vm);
    vm_free(m->vm);
    free(m);
}

static inline void im_put(struct im *m, uint64_t gpa, const void *p, size_t n)
{
    memcpy(m->vm->ram + gpa, p, n);
    vm_ram_written(m->vm, NULL, gpa, n);
}
#define IM_LOAD(m, name) im_put(m, IM_CODE, name##_begin, (size_t)(name##_end - name##_begin))

static inline void im_seg(struct x86_cpu *c, unsigned s, uint16_t sel, uint64_t base, uint32_t limit, uint16_t ar)
{
    c->seg[s] = (struct x86_seg){.base = base, .limit = limit, .sel = sel, .ar = ar};
}

static inline void im_common(struct vcpu *v, uint64_t rip)
{
    struct x86_cpu *c = &v->cpu;

    memset(c->gpr, 0, sizeof(c->gpr));
    c->gpr[X86_RSP] = IM_STACK;
    c->rip = rip;
    c->activity = X86_RUNNING;
    x86_set_rflags(c, X86_FL_1);
    x86_tlb_flush_all(c);
    x86_recompute(c);
}

/* 64-bit mode, ring 0, the first 32 MiB mapped as they are, once low and once at the top of the address space. */
static inline void im_long(struct im *m, struct vcpu *v)
{
    uint64_t *pml4 = (uint64_t *)(m->vm->ram + 0x1000), *pdpt = pml4 + 512, *pd = pdpt + 512;
    struct x86_cpu *c = &v->cpu;

    pml4[0] = pml4[511] = 0x2007;
    pdpt[0] = pdpt[511] = 0x3007;
    for (unsigned i = 0; i < 16; i++)
        pd[i] = pd[i + 496] = i * 0x200000ull | 0x87;
    c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_MP;
    c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    c->cr3 = 0x1000;
    c->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
    im_seg(c, X86_CS, 0x08, 0, 0xffffffff, 0xa09b);
    for (unsigned s = 0; s < X86_NSEG; s++)
        if (s != X86_CS)
            im_seg(c, s, 0x10, 0, 0xffffffff, 0xc093);
    im_common(v, IM_CODE);
}

/* 32-bit protected mode, flat, ring 0, no paging. */
static inline void im_prot(struct vcpu *v)
{
    struct x86_cpu *c = &v->cpu;

    c->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
    c->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    c->efer = 0;
    im_seg(c, X86_CS, 0x08, 0, 0xffffffff, 0xc09b);
    for (unsigned s = 0; s < X86_NSEG; s++)
        if (s != X86_CS)
            im_seg(c, s, 0x10, 0, 0xffffffff, 0xc093);
    im_common(v, IM_CODE);
}

/* Real mode; code at 1000:0000, data 2000:, stack 3000:. */
static inline void im_real(struct vcpu *v)
{
    struct x86_cpu *c = &v->cpu;

    c->cr0 = X86_CR0_ET;
    c->cr4 = 0;
    c->efer = 0;
    im_seg(c, X86_CS, 0x1000, 0x10000, 0xffff, 0x9b);
    for (unsigned s = 0; s < X86_NSEG; s++)
        if (s != X86_CS)
            im_seg(c, s, s == X86_SS ? 0x3000 : 0x2000, s == X86_SS ? 0x30000 : 0x20000, 0xffff, 0x93);
    im_common(v, 0);
    c->gpr[X86_RSP] = 0x8000;
}

/* Run until the guest halts or dies. */
static inline enum vcpu_exit_kind im_run(struct im *m, struct vcpu *v)
{
    struct vcpu_exit e;

    (void)m;
    vcpu_enter_guest(v);
    do
        IM_ENGINE.run(v, &e);
    while (e.kind == EXIT_KICK);
    vcpu_leave_guest(v);
    return e.kind;
}

/* One instruction at a time from now on, or no longer. */
static inline void im_single(struct im *m, bool on)
{
    m->trace = (struct vm_trace){.insns = on};
    m->vm->trace = on ? &m->trace : NULL;
}

#endif
