/*
 * A guest whose code and data lie at the addresses that native.h uses in the host process, in long mode, with an IDT
 * whose handlers halt: what runs on the host CPU runs in it too and can be compared.
 */
#ifndef MIRROR_H
#define MIRROR_H

#include "native.h"
#include "random_state.h"
#include "tests/unit/interp_fixture.h"

#define KERNEL_CS 0x08

/* Guest-physical layout: system structures, mapped for the supervisor at SYS_BASE; then the pages of code and data. */
#define SYS_BASE 0x3fe00000ul
#define SYS_IDT 0x8000u
#define SYS_GDT 0x9000u
#define SYS_TSS 0xa000u
#define SYS_STACK 0xc000u
#define SYS_HANDLERS 0xd000u
#define GPA_OF(lin) (0x100000 + ((lin) - CODE_BASE))

/* Flat; USER_CS64 and USER_CS32: CPL 3 as the host runs us; KERNEL_CS: CPL 0. */
static void mirror_segments(struct x86_cpu *c, uint16_t cs)
{
    const bool user = cs != KERNEL_CS;

    for (unsigned i = 0; i < X86_NSEG; i++)
        c->seg[i] = (struct x86_seg){.limit = 0xffffffff, .sel = user ? USER_DS : 0, .ar = user ? 0xc0f3 : 0xc093};
    c->seg[X86_CS] = (struct x86_seg){.limit = 0xffffffff, .sel = cs, .ar = cs == USER_CS32 ? 0xc0fb : user ? 0xa0fb : 0xa09b};
    x86_recompute(c);
}

/* Page tables over the addresses the host process uses too, long mode at CPL 3, as the host runs us. */
static void mirror_setup(struct im *m)
{
    struct x86_cpu *c = &m->v->cpu;
    uint8_t *ram = m->vm->ram;

    put64(ram + 0x1000, 0x2007);
    put64(ram + 0x2000, 0x3007);
    put64(ram + 0x3000 + 8 * (CODE_BASE >> 21), 0x4007);
    put64(ram + 0x3000 + 8 * (SYS_BASE >> 21), 0x83);
    for (uint64_t a = CODE_BASE; a < DATA_END; a += 4096)
        if (a == CODE_BASE || a == DATA_RO || a >= DATA_RW)
            put64(ram + 0x4000 + 8 * ((a >> 12) & 511), GPA_OF(a) | (a == DATA_RO ? 5 : 7) | (a == CODE_BASE ? 0 : 1ull << 63));
    put64(ram + SYS_GDT + 8, 0x00af9b000000ffff);
    put64(ram + SYS_GDT + 0x20, 0x00cffb000000ffff);
    put64(ram + SYS_GDT + 0x28, 0x00cff3000000ffff);
    put64(ram + SYS_GDT + 0x30, 0x00affb000000ffff);
    put64(ram + SYS_TSS + 36, SYS_BASE + SYS_STACK); /* IST 1, for code at CPL 0 has its stack in the data */
    for (unsigned v = 0; v < 32; v++) {
        uint64_t h = SYS_BASE + SYS_HANDLERS + 16 * v;

        put64(ram + SYS_IDT + 16 * v, (h & 0xffff) | 0x80000 | (v == 3 ? 0xee01ull : 0x8e01ull) << 32 | (h >> 16 & 0xffff) << 48);
        put64(ram + SYS_IDT + 16 * v + 8, h >> 32);
        ram[SYS_HANDLERS + 16 * v] = 0xf4; /* HLT */
    }
    c->gdtr = (struct x86_dtr){SYS_BASE + SYS_GDT, 0x4f};
    c->idtr = (struct x86_dtr){SYS_BASE + SYS_IDT, 0x1ff};
    c->tr = (struct x86_seg){.base = SYS_BASE + SYS_TSS, .limit = 0x67, .sel = 0x40, .ar = 0x8b};
    c->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
    c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_FSGSBASE;
    c->cr3 = 0x1000;
    c->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    c->xcr0 = 7;
    x86_fpu_reset(c);
    mirror_segments(c, USER_CS64);
    memset(ram + GPA_OF(CODE_BASE), 0xcc, 4096);
    memcpy(ram + GPA_OF(DATA_RO), (void *)DATA_RO, 4096);
}

/* Run, until the exception that ends it is delivered: its handler halts. False: it ended otherwise. */
static bool mirror_run(struct im *m, struct outcome *o)
{
    struct x86_cpu *c = &m->v->cpu;
    uint64_t frame[6];
    unsigned n = 0;

    c->activity = X86_RUNNING;
    if (im_run(m, m->v) != EXIT_HLT || c->rip - (SYS_BASE + SYS_HANDLERS) >= 16 * 32) {
        o->vector = 2000;
        return false;
    }
    o->vector = (int)((c->rip - (SYS_BASE + SYS_HANDLERS)) / 16);
    memcpy(frame, m->vm->ram + (c->gpr[X86_RSP] - SYS_BASE), sizeof(frame));
    if (o->vector == X86_DF || (o->vector >= X86_TS && o->vector <= X86_PF) || o->vector == X86_AC)
        n = 1;
    o->err = n ? (uint32_t)frame[0] : 0;
    o->cr2 = o->vector == X86_PF ? c->cr2 : 0;
    memcpy(o->s.gpr, c->gpr, sizeof(c->gpr));
    memcpy(frame, m->vm->ram + (c->gpr[X86_RSP] - SYS_BASE) + 8 * n, 5 * 8);
    o->s.rip = frame[0];
    o->s.rflags = frame[2];
    o->s.gpr[X86_RSP] = frame[3];
    memcpy(o->s.fx, c->fpu.raw, XSTATE_SIZE);
    return true;
}

#endif
