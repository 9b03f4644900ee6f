/*
 * System instructions and bit strings inline: random programs at CPL 0 in blocks and one instruction at a
 * time; registers, flags, memory, segment bases, the context of the TLB and all counts must agree.
 */
#include <stdio.h>

#define IM_ENGINE engine_translate
#include "engine/translate/translate.h"
#define RANDOM_SEED 0x2545f4914f6cdd1dull
#include "tests/random.h"
#include "tests/unit/translate_fixture.h"

static unsigned put(uint8_t *p, const char *bytes, unsigned n)
{
    memcpy(p, bytes, n);
    return n;
}
#define PUT(s) return n + put(p + n, s, sizeof(s) - 1)

/* mov r32, imm32 */
static unsigned set(uint8_t *p, unsigned reg, uint32_t v)
{
    unsigned n = 0;

    if (reg & 8)
        p[n++] = 0x41;
    p[n++] = (uint8_t)(0xb8 | (reg & 7));
    memcpy(p + n, &v, 4);
    return n + 4;
}

/* RBX is the base of memory operands, RSI their bit offset or nothing. */
static unsigned emit(uint8_t *p)
{
    static const uint8_t bits[] = {0xa3, 0xab, 0xb3, 0xbb}, crs[] = {0, 2, 3, 4};
    unsigned n = 0;

    switch (rnd() % 20) {
    case 0: PUT("\x9c\x58");             /* pushf; pop rax */
    case 1: PUT("\x9c\x41\x5a");         /* pushf; pop r10 */
    case 2: PUT("\xfa");                 /* cli */
    case 3: PUT("\xfb\x90");             /* sti; nop */
    case 4: PUT("\x0f\x01\xf8");         /* swapgs */
    case 5: PUT("\x0f\x01\xcb");         /* stac */
    case 6: PUT("\x0f\x01\xca");         /* clac */
    case 7:                              /* mov r64, cr */
        p[n++] = (uint8_t)(0x40 | (rnd() & 1));
        p[n++] = 0x0f;
        p[n++] = 0x20;
        p[n++] = (uint8_t)(0xc0 | crs[rnd() % 4] << 3 | (p[0] & 1 ? 2 : 0)); /* r10 or rax */
        return n;
    case 8: PUT("\xf3\x48\x0f\xae\xc2"); /* rdfsbase rdx */
    case 9: PUT("\xf3\x41\x0f\xae\xca"); /* rdgsbase r10d */
    case 10: PUT("\x0f\xae\xe8");
    case 11: PUT("\x0f\xae\xf0");
    case 12: PUT("\xf3\x90");
    case 13: PUT("\x9c\x9d");            /* pushf; popf */
    case 14: case 15:                    /* cmpxchg8b, cmpxchg16b [rbx] */
        n += set(p + n, X86_RBX, IM_DATA + 0x800 + (uint32_t)(rnd() % 4 ? rnd() % 16 * 16 : rnd() % 256));
        if (rnd() & 1) /* often equal */
            n += put(p + n, "\x48\x8b\x03\x48\x8b\x53\x08", 7); /* mov rax, [rbx]; mov rdx, [rbx + 8] */
        if (rnd() & 1)
            p[n++] = 0xf0;
        if (rnd() & 1)
            p[n++] = 0x48;
        p[n++] = 0x0f;
        p[n++] = 0xc7;
        p[n++] = 0x0b;
        return n;
    case 16: case 17: case 18: {         /* bt, bts, btr, btc [rbx], reg */
        const bool wide = rnd() & 1, r11 = rnd() & 1;
        const uint8_t op = bits[rnd() % 4];

        n += set(p + n, X86_RBX, IM_DATA + 0x800 + (uint32_t)(rnd() % 256 & ~(rnd() & 1 ? 7u : 0u)));
        n += set(p + n, r11 ? X86_R11 : X86_RSI, (uint32_t)(rnd() % 0x4000) - 0x2000);
        if (wide) { /* movsxd, for negative ones */
            p[n++] = r11 ? 0x4d : 0x48;
            p[n++] = 0x63;
            p[n++] = r11 ? 0xdb : 0xf6;
        }
        if (op != 0xa3 && (rnd() & 1))
            p[n++] = 0xf0;
        if (wide || r11)
            p[n++] = (uint8_t)(0x40 | wide << 3 | r11 << 2);
        p[n++] = 0x0f;
        p[n++] = op;
        p[n++] = r11 ? 0x1b : 0x33;
        return n;
    }
    default: /* other flags: add eax, imm32 */
        p[n++] = 0x05;
        for (unsigned i = 0; i < 4; i++)
            p[n++] = (uint8_t)rnd();
        return n;
    }
}

struct result {
    uint64_t gpr[16], rip, flags, insns, gs, kgs, ctx, pg[8], exceptions;
    uint8_t data[0x1000], stack[0x100];
};

static void run(struct im *m, bool single, const uint8_t *code, unsigned n, uint64_t seed, struct result *out)
{
    struct vcpu *v = m->v;
    struct x86_cpu *c = &v->cpu;
    uint64_t keep = rng;

    rng = seed;
    for (unsigned i = 0; i < 0x1000; i++)
        m->vm->ram[IM_DATA + i] = (uint8_t)rnd();
    memset(m->vm->ram + IM_STACK - 0x100, 0, 0x100);
    im_put(m, IM_CODE, code, n);
    im_long(m, v);
    for (unsigned i = 0; i < 16; i++)
        if (i != X86_RSP)
            c->gpr[i] = rnd();
    c->gpr[X86_RSP] = IM_STACK - 0x80;
    x86_set_rflags(c, (rnd() & X86_FL_ARITH) | X86_FL_1);
    c->cr4 &= ~(uint64_t)(X86_CR4_SMAP | X86_CR4_FSGSBASE);
    c->cr4 |= (rnd() % 4 ? X86_CR4_SMAP : 0) | (rnd() % 4 ? X86_CR4_FSGSBASE : 0);
    c->cr2 = rnd();
    c->seg[X86_GS].base = rnd() >> 20;
    c->seg[X86_FS].base = rnd() >> 20;
    c->kernel_gs_base = rnd() >> 20;
    c->idtr = (struct x86_dtr){0, 0};
    uint64_t *pd = (uint64_t *)(void *)(m->vm->ram + 0x3000);

    pd[0] = 0x83; /* code and stack are the supervisor's, the data at times the user's: only with AC, under SMAP */
    if (rnd() % 4)
        pd[IM_DATA >> 21] &= ~4ull;
    x86_tlb_flush_all(c);
    x86_mmu_update_ctx(c);
    rng = keep;
    v->insns = 0;
    memset(c->pg_count, 0, sizeof(c->pg_count));
    memset(v->exceptions, 0, sizeof(v->exceptions));
    im_single(m, single);
    im_run(m, v);
    memset(out, 0, sizeof(*out));
    memcpy(out->gpr, c->gpr, sizeof(out->gpr));
    memcpy(out->pg, c->pg_count, sizeof(out->pg));
    out->rip = c->rip;
    out->flags = x86_get_rflags(c) & ~(uint64_t)X86_FL_RF;
    out->insns = v->insns;
    out->gs = c->seg[X86_GS].base;
    out->kgs = c->kernel_gs_base;
    out->ctx = (uint64_t)(c->mmu.cur - c->mmu.tlb[0]);
    for (unsigned i = 0; i < 32; i++)
        out->exceptions = out->exceptions * 3 + v->exceptions[i];
    memcpy(out->data, m->vm->ram + IM_DATA, sizeof(out->data));
    memcpy(out->stack, m->vm->ram + IM_STACK - 0x100, sizeof(out->stack));
}

static void programs(void **state)
{
    static struct result a, b;
    struct im *m = im_new(1);
    unsigned ends = 0;
    const unsigned rounds = random_rounds(3000);

    (void)state;
    for (unsigned r = 0; r < rounds; r++) {
        if (r == rounds / 2)
            im_checks(m, !translate_of(m->v)->one);
        uint8_t code[2048];
        unsigned n = 0;

        for (unsigned i = 1 + (unsigned)(rnd() % 40); i; i--)
            n += emit(code + n);
        code[n++] = 0xf4;
        const uint64_t seed = rnd() | 1;

        run(m, false, code, n, seed, &a);
        run(m, true, code, n, seed, &b);
        ends += a.rip == IM_CODE + n;
        if (memcmp(&a, &b, sizeof(a))) {
            for (unsigned i = 0; i < 16; i++)
                if (a.gpr[i] != b.gpr[i])
                    fprintf(stderr, "r%u: %llx %llx\n", i, (unsigned long long)a.gpr[i], (unsigned long long)b.gpr[i]);
            for (unsigned i = 0; i < 8; i++)
                if (a.pg[i] != b.pg[i])
                    fprintf(stderr, "count %u: %llu %llu\n", i, (unsigned long long)a.pg[i], (unsigned long long)b.pg[i]);
            fprintf(stderr, "rip %llx %llx flags %llx %llx insns %llu %llu gs %d ctx %llu %llu data %d stack %d\n", (unsigned long long)a.rip,
                    (unsigned long long)b.rip, (unsigned long long)a.flags, (unsigned long long)b.flags, (unsigned long long)a.insns,
                    (unsigned long long)b.insns, a.gs != b.gs || a.kgs != b.kgs, (unsigned long long)a.ctx, (unsigned long long)b.ctx,
                    memcmp(a.data, b.data, sizeof(a.data)), memcmp(a.stack, b.stack, sizeof(a.stack)));
            for (unsigned i = 0; i < n; i++)
                fprintf(stderr, "%02x ", code[i]);
            fail_msg("round %u differs", r);
        }
    }
    assert_true(ends > rounds / 3);
    im_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(programs)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
