/* Encodings that AMD's processors read otherwise than Intel's: guests see Intel's whatever the host is, in translated code, too. */
#define IM_ENGINE engine_translate
#include "tests/unit/translate_fixture.h"

static const struct {
    const char *name;
    uint8_t code[14];
    uint8_t n;
} t[] = {
#define C(name, ...) {name, {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__})}
    C("PAUSE with REX.B is no XCHG", 0xf3, 0x41, 0x90),
    C("PAUSE with REX.WB", 0xf3, 0x49, 0x90),
    C("PREFETCH with a register is a NOP", 0x0f, 0x0d, 0xc8),
    C("PREFETCHW with a register", 0x41, 0x0f, 0x0d, 0xcb),
    C("LOOPE with REPNE", 0xf2, 0xe1, 0x02, 0xff, 0xc3, 0xff, 0xc3),
    C("LOOPNE with REPE", 0xf3, 0xe0, 0x02, 0xff, 0xc3, 0xff, 0xc3),
    C("LOOP with REPE", 0xf3, 0xe2, 0x02, 0xff, 0xc3, 0xff, 0xc3),
    C("JMP with 66", 0x66, 0xe9, 0x02, 0x00, 0x00, 0x00, 0xff, 0xc3, 0xff, 0xc3),
    C("JZ with 66", 0x66, 0x0f, 0x84, 0x02, 0x00, 0x00, 0x00, 0xff, 0xc3, 0xff, 0xc3),
    C("CALL with 66", 0x66, 0xe8, 0x00, 0x00, 0x00, 0x00, 0x58),
    C("CALL by register with 66, RET with 66", 0x48, 0x8d, 0x05, 0x04, 0x00, 0x00, 0x00, 0x66, 0xff, 0xd0, 0xf4, 0x66, 0xc3),
    C("TZCNT and LZCNT with 66 in both orders", 0x66, 0xf3, 0x0f, 0xbc, 0xc3, 0xf3, 0x66, 0x0f, 0xbd, 0xd3),
    C("SHA256MSG1 from where it is not aligned", 0x0f, 0x38, 0xcc, 0x4e, 0x04),
    C("MOVSXD to 16 bits, up to the end of memory", 0x66, 0x63, 0x47, 0xfe),
#undef C
};

struct result {
    struct im_seen seen;
    uint8_t xmm[256];
};

static void run(struct im *m, bool single, unsigned i, unsigned way, struct result *out)
{
    struct x86_cpu *c = &m->v->cpu;
    uint8_t code[32];

    memset(code, 0xf4, sizeof(code));
    memcpy(code, t[i].code, t[i].n);
    im_put(m, IM_CODE, code, sizeof(code));
    im_long(m, m->v);
    for (unsigned k = 0; k < 16; k++)
        if (k != X86_RSP)
            c->gpr[k] = 0x1111111111111111ull * k + 3;
    c->gpr[X86_RCX] = 1 + (way & 1);
    c->gpr[X86_RSI] = IM_DATA;
    c->gpr[X86_RDI] = IM_RAM; /* nothing is mapped from there on */
    x86_set_rflags(c, X86_FL_1 | (way & 2 ? X86_FL_ZF : 0));
    for (unsigned k = 0; k < 256; k++)
        c->fpu.xmm[k / 16][k % 16] = (uint8_t)(k * 7);
    memset(out, 0, sizeof(*out));
    im_see(m, single, &out->seen);
    out->seen.flags &= X86_FL_ARITH;
    memcpy(out->xmm, c->fpu.xmm, 256);
}

static void vendors(void **state)
{
    struct im *m = im_new_as(1, USER_CODE_TRANSLATED);
    struct result a, b;
    unsigned bad = 0;

    (void)state;
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        for (unsigned way = 0; way < 4; way++) {
            run(m, false, i, way, &a);
            run(m, true, i, way, &b);
            if (!memcmp(&a, &b, sizeof(a)))
                continue;
            bad++;
            printf("%s: rip %llx, not %llx; rax %llx, not %llx\n", t[i].name, (unsigned long long)a.seen.rip, (unsigned long long)b.seen.rip,
                   (unsigned long long)a.seen.gpr[0], (unsigned long long)b.seen.gpr[0]);
        }
    im_free(m);
    assert_int_equal(bad, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(vendors)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
