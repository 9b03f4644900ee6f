/* Code that translated code has just written, and that changes itself: the tables of the translator must not remember that the page was data. */
#define IM_ENGINE engine_translate
#include "tests/unit/interp_fixture.h"

#define FRESH 0x300000u

/* Copies 20 bytes from RSI to RDI, which fills the table's entry for writing, and calls them with EDI = R8. */
PROGRAM(copy_and_call, "movq %rdi, %r9\n movl $20, %ecx\n 1: movb (%rsi), %al\n movb %al, (%rdi)\n incq %rsi\n incq %rdi\n decl %ecx\n jnz 1b\n"
                       "movl %r8d, %edi\n call *%r9\n hlt\n");
/* The sum of EDI, EDI - 1, ... 1, each put into the ADD before. */
PROGRAM(sum, "xorl %eax, %eax\n 1: movl %edi, 3(%rip)\n nop\n nop\n .byte 0x05, 0, 0, 0, 0\n decl %edi\n jnz 1b\n ret\n");

static void written_then_run(void **state)
{
    struct im *m = im_new(1);
    struct x86_cpu *c = &m->v->cpu;

    (void)state;
    IM_LOAD(m, copy_and_call);
    im_put(m, IM_DATA, sum_begin, (size_t)(sum_end - sum_begin));
    for (unsigned n = 1; n < 60; n++) {
        /* Other pages and the same again; often enough for them to be written too often to stay translated */
        for (unsigned page = 0; page < 3; page++) {
            im_long(m, m->v);
            c->gpr[X86_RSI] = IM_DATA;
            c->gpr[X86_RDI] = FRESH + page * 0x1000 + 8 * (n % 4);
            c->gpr[X86_R8] = n;
            assert_int_equal(im_run(m, m->v), EXIT_HLT);
            assert_int_equal(c->gpr[X86_RAX], n * (n + 1) / 2);
        }
    }
    im_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(written_then_run)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
