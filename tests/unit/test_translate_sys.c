/*
 * System instructions and bit strings inline: random programs at CPL 0 in blocks and one instruction at a
 * time; registers, flags, memory, segment bases, the context of the TLB and all counts must agree.
 */
#define IM_ENGINE engine_translate
#define RANDOM_SEED 0x2545f4914f6cdd1dull
#include "tests/unit/translate_random.h"

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
    struct im_seen seen;
    uint64_t gs, kgs, ctx, pg[8], exceptions;
    uint8_t data[0x1000], stack[0x100];
};

static void begin(struct im *m, const uint8_t *code, unsigned n)
{
    struct vcpu *v = m->v;
    struct x86_cpu *c = &v->cpu;

    im_random_bytes(m->vm->ram + IM_DATA, 0x1000);
    memset(m->vm->ram + IM_STACK - 0x100, 0, 0x100);
    im_put(m, IM_CODE, code, n);
    im_long(m, v);
    im_random_gpr(c, false);
    c->gpr[X86_RSP] = IM_STACK - 0x80;
    x86_set_rflags(c, (rnd() & X86_FL_ARITH) | X86_FL_1);
    c->cr4 &= ~(uint64_t)(X86_CR4_SMAP | X86_CR4_FSGSBASE);
    c->cr4 |= (rnd() % 4 ? X86_CR4_SMAP : 0) | (rnd() % 4 ? X86_CR4_FSGSBASE : 0);
    c->cr2 = rnd();
    c->seg[X86_GS].base = rnd() >> 20;
    c->seg[X86_FS].base = rnd() >> 20;
    c->kernel_gs_base = rnd() >> 20;
    uint64_t *pd = im_pd(m);

    pd[0] = 0x83; /* code and stack are the supervisor's, the data at times the user's: only with AC, under SMAP */
    if (rnd() % 4)
        pd[IM_DATA >> 21] &= ~4ull;
    x86_tlb_flush_all(c);
    x86_mmu_update_ctx(c);
    memset(c->pg_count, 0, sizeof(c->pg_count));
    memset(v->exceptions, 0, sizeof(v->exceptions));
}

static void see(struct im *m, struct result *out)
{
    const struct x86_cpu *c = &m->v->cpu;

    memcpy(out->pg, c->pg_count, sizeof(out->pg));
    out->gs = c->seg[X86_GS].base;
    out->kgs = c->kernel_gs_base;
    out->ctx = (uint64_t)(c->mmu.cur - c->mmu.tlb[0]);
    for (unsigned i = 0; i < 32; i++)
        out->exceptions = out->exceptions * 3 + m->v->exceptions[i];
    memcpy(out->data, m->vm->ram + IM_DATA, sizeof(out->data));
    memcpy(out->stack, m->vm->ram + IM_STACK - 0x100, sizeof(out->stack));
}

static void print(const struct result *a, const struct result *b)
{
    for (unsigned i = 0; i < 8; i++)
        im_print_pair("count", i, a->pg[i], b->pg[i]);
    im_print_pair("gs", 0, a->gs, b->gs);
    im_print_pair("gs", 1, a->kgs, b->kgs);
    im_print_pair("ctx", 0, a->ctx, b->ctx);
    im_print_pair("exceptions", 0, a->exceptions, b->exceptions);
    if (memcmp(a->data, b->data, sizeof(a->data)))
        fprintf(stderr, "data differ\n");
    if (memcmp(a->stack, b->stack, sizeof(a->stack)))
        fprintf(stderr, "the stack differs\n");
}

static struct result translated, single;
static const struct im_test test = {begin, see, print, &translated, &single, sizeof(struct result)};

static bool one_round(struct im *m, unsigned r)
{
    uint8_t code[2048];
    unsigned n = 0;

    for (unsigned i = 1 + (unsigned)(rnd() % 40); i; i--)
        n += emit(code + n);
    code[n++] = 0xf4;
    return im_compare(m, r, code, n, &test)->rip == IM_CODE + n;
}

static void programs(void **state)
{
    const unsigned rounds = random_rounds(3000);

    (void)state;
    assert_true(im_rounds(rounds, one_round) > rounds / 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(programs)};

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
