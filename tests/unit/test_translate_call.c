/*
 * SYSCALL and SYSRET inline (engine/translate/select_call.c): round trips with random flags, masks, selectors and return addresses, EFER.SCE
 * and SMAP on and off, against the interpreter one instruction at a time. All registers that they touch must agree, and where it ends.
 */
#include <stdio.h>

#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x452821e638d01377ull
#include "tests/random.h"
#include "tests/unit/translate_fixture.h"
#include "x86/mmu.h"

#define KERNEL (IM_CODE + 0x1000u)

struct result {
    uint64_t gpr[16], rip, flags, cpl, insns, ctx, pg[8];
    struct x86_seg cs, ss;
};

static void run(struct im *m, bool single, unsigned kind, uint64_t seed, struct result *out)
{
    static const uint8_t user[] = {0x0f, 0x05, 0x48, 0x01, 0xd8, 0x49, 0xff, 0xcf, 0x75, 0xf6, 0xf4}; /* syscall; add %rbx, %rax; dec %r15; jnz; hlt */
    const uint64_t keep = rng;
    struct x86_cpu *c = &m->v->cpu;
    uint8_t kernel[64];
    unsigned n = 0;

    rng = seed;
    memset(m->vm->ram + IM_CODE, 0xf4, 0x2000);
    im_put(m, IM_CODE, user, sizeof(user));
    if (kind & 1) { /* or %rdi, %r11: flags for the return */
        memcpy(kernel + n, "\x49\x09\xfb", 3);
        n += 3;
    }
    if (kind & 2) { /* add %r8, %rcx; carry and overflow are the return's */
        memcpy(kernel + n, "\x4c\x01\xc1", 3);
        n += 3;
    }
    if (kind & 4) { /* and $imm, %r11d */
        memcpy(kernel + n, "\x41\x81\xe3", 3);
        memcpy(kernel + n + 3, &(uint32_t){(uint32_t)rnd()}, 4);
        n += 7;
    }
    if (!(kind & 8) || rnd() % 4) /* mostly sysretq */
        kernel[n++] = 0x48;
    kernel[n++] = 0x0f;
    kernel[n++] = 0x07;
    im_put(m, KERNEL, kernel, n);
    im_long(m, m->v);
    for (unsigned i = 0; i < 16; i++)
        c->gpr[i] = rnd();
    c->gpr[X86_R15] = 1 + rnd() % 5;
    c->gpr[X86_RDI] &= rnd() & rnd() & rnd() & (rnd() % 4 ? 0xcd5 : 0x3fffff);
    c->gpr[X86_R8] = rnd() % 4 ? 0 : rnd() % 2 ? 0x800000000000 : rnd();
    c->star = rnd();
    c->lstar = KERNEL;
    c->sfmask = rnd() % 4 ? rnd() | X86_FL_ARITH | X86_FL_AC : rnd();
    if (rnd() % 16 == 0)
        c->efer &= ~(uint64_t)X86_EFER_SCE;
    if (rnd() % 2)
        c->cr4 |= X86_CR4_SMAP;
    c->cpl = 3;
    im_seg(c, X86_CS, 0x33, 0, 0xffffffff, 0xa0fb);
    im_seg(c, X86_SS, 0x2b, 0, 0xffffffff, 0xc0f3);
    x86_set_rflags(c, (rnd() & (X86_FL_ARITH | X86_FL_IF | X86_FL_DF | X86_FL_NT | X86_FL_IOPL | X86_FL_ID | X86_FL_AC)) | X86_FL_1);
    x86_mmu_update_ctx(c);
    c->idtr = (struct x86_dtr){0, 0}; /* a fault is the end */
    memset(c->pg_count, 0, sizeof(c->pg_count));
    rng = keep;
    m->v->insns = 0;
    im_single(m, single);
    im_run(m, m->v);
    memset(out, 0, sizeof(*out));
    memcpy(out->gpr, c->gpr, sizeof(out->gpr));
    memcpy(out->pg, c->pg_count, sizeof(out->pg));
    out->rip = c->rip;
    out->flags = x86_get_rflags(c) & ~(uint64_t)X86_FL_RF;
    out->cpl = c->cpl;
    out->insns = m->v->insns;
    out->ctx = (uint64_t)(c->mmu.cur - c->mmu.tlb[0]);
    out->cs = c->seg[X86_CS];
    out->ss = c->seg[X86_SS];
}

static void trips(void **state)
{
    static struct result a, b;
    const unsigned rounds = random_rounds(4000);
    struct im *m = im_new(1);
    unsigned whole = 0;

    (void)state;
    for (unsigned r = 0; r < rounds; r++) {
        const unsigned kind = (unsigned)rnd() & 15;
        const uint64_t seed = rnd() | 1;

        if (r == rounds / 2)
            im_checks(m, !translate_of(m->v)->one);
        run(m, false, kind, seed, &a);
        run(m, true, kind, seed, &b);
        whole += a.gpr[X86_R15] == 0;
        if (memcmp(&a, &b, sizeof(a))) {
            for (unsigned i = 0; i < 16; i++)
                if (a.gpr[i] != b.gpr[i])
                    fprintf(stderr, "r%u: %llx %llx\n", i, (unsigned long long)a.gpr[i], (unsigned long long)b.gpr[i]);
            for (unsigned i = 0; i < 8; i++)
                if (a.pg[i] != b.pg[i])
                    fprintf(stderr, "count %u: %llu %llu\n", i, (unsigned long long)a.pg[i], (unsigned long long)b.pg[i]);
            fprintf(stderr, "kind %u rip %llx %llx flags %llx %llx cpl %llu %llu insns %llu %llu ctx %llu %llu cs %x/%x %x/%x ss %x/%x %x/%x\n", kind,
                    (unsigned long long)a.rip, (unsigned long long)b.rip, (unsigned long long)a.flags, (unsigned long long)b.flags,
                    (unsigned long long)a.cpl, (unsigned long long)b.cpl, (unsigned long long)a.insns, (unsigned long long)b.insns,
                    (unsigned long long)a.ctx, (unsigned long long)b.ctx, a.cs.sel, a.cs.ar, b.cs.sel, b.cs.ar, a.ss.sel, a.ss.ar, b.ss.sel, b.ss.ar);
            fail_msg("round %u differs", r);
        }
    }
    assert_true(whole > rounds / 4);
    im_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(trips)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
