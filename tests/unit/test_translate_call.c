/*
 * SYSCALL and SYSRET inline (engine/translate/select_call.c): round trips with random flags, masks, selectors and return addresses, EFER.SCE
 * and SMAP on and off, against the interpreter one instruction at a time. All registers that they touch must agree, and where it ends.
 */
#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x452821e638d01377ull
#include "tests/unit/translate_random.h"
#include "x86/mmu.h"

#define KERNEL (IM_CODE + 0x1000u)

struct result {
    struct im_seen seen;
    uint64_t cpl, ctx, pg[8];
    struct x86_seg cs, ss;
};

static unsigned kind; /* bits: what the kernel does before its SYSRET */

static void begin(struct im *m, const uint8_t *none, unsigned size) /* it makes the program itself */
{
    static const uint8_t user[] = {0x0f, 0x05, 0x48, 0x01, 0xd8, 0x49, 0xff, 0xcf, 0x75, 0xf6, 0xf4}; /* syscall; add %rbx, %rax; dec %r15; jnz; hlt */
    struct x86_cpu *c = &m->v->cpu;
    uint8_t kernel[64];
    unsigned n = 0;

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
    im_random_gpr(c, true);
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
    memset(c->pg_count, 0, sizeof(c->pg_count));
}

static void see(struct im *m, struct result *out)
{
    const struct x86_cpu *c = &m->v->cpu;

    memcpy(out->pg, c->pg_count, sizeof(out->pg));
    out->cpl = c->cpl;
    out->ctx = (uint64_t)(c->mmu.cur - c->mmu.tlb[0]);
    out->cs = c->seg[X86_CS];
    out->ss = c->seg[X86_SS];
}

static void print(const struct result *a, const struct result *b)
{
    for (unsigned i = 0; i < 8; i++)
        im_print_pair("count", i, a->pg[i], b->pg[i]);
    fprintf(stderr, "kind %u cpl %llu %llu ctx %llu %llu cs %x/%x %x/%x ss %x/%x %x/%x\n", kind, (unsigned long long)a->cpl,
            (unsigned long long)b->cpl, (unsigned long long)a->ctx, (unsigned long long)b->ctx, a->cs.sel, a->cs.ar, b->cs.sel, b->cs.ar, a->ss.sel,
            a->ss.ar, b->ss.sel, b->ss.ar);
}

static struct result translated, single;
static const struct im_test test = {begin, see, print, &translated, &single, sizeof(struct result)};

static bool one_round(struct im *m, unsigned r)
{
    kind = (unsigned)rnd() & 15;
    return im_compare(m, r, NULL, 0, &test)->gpr[X86_R15] == 0;
}

static void trips(void **state)
{
    const unsigned rounds = random_rounds(4000);

    (void)state;
    assert_true(im_rounds(rounds, one_round) > rounds / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(trips)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
