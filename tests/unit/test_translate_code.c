/*
 * What the translator makes of some instructions: the host code of one block, disassembled, against the expected
 * text. State is named: @rip, @gpr9, @tlb.r (of the block's context), ...
 */
#include <Zydis/Zydis.h>
#include <stdio.h>

#define IM_ENGINE engine_translate
#include "tests/unit/translate_fixture.h"

static void name(char *out, size_t cap, int64_t disp)
{
    const struct {
        int64_t at, size;
        const char *name;
    } t[] = {
#define F(m, n) {(m).disp, 8, n}
        F(AT_CPU(rip), "rip"), F(AT_VCPU(requests), "requests"), F(AT_VCPU(insns), "insns"), F(AT_CPU(gpr[9]), "gpr9"),
        F(AT_CPU(gpr[10]), "gpr10"), F(AT_CPU(seg[X86_GS].base), "gs"), F(AT_ROOM(tlb_mask), "tlb_mask"), F(AT_ROOM(jump_mask), "jump_mask"),
        F(AT_ROOM(align_mask[2]), "align4"), F(AT_ROOM(window[0]), "window0"), F(AT_ROOM(window[1]), "window1"),
        {AT_ROOM(tlb[X86_TLB_SUPER][0].nread).disp, 8, "tlb.r"}, {AT_ROOM(tlb[X86_TLB_SUPER][0].nwrite).disp, 8, "tlb.w"},
        {AT_ROOM(tlb[X86_TLB_SUPER][0].addend).disp, 8, "tlb.addend"}, {AT_ROOM(jump[X86_TLB_SUPER][0].nlin).disp, 8, "jump.nlin"},
        {AT_ROOM(jump[X86_TLB_SUPER][0].page).disp, 8, "jump.page"}, {AT_ROOM(jump[X86_TLB_SUPER][0].code).disp, 8, "jump.code"},
    };
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        if (t[i].at == disp) {
            snprintf(out, cap, "@%s", t[i].name);
            return;
        }
    snprintf(out, cap, "@?");
}

/* Code of the block that starts at IM_CODE, one instruction per line. */
static void text(struct im *m, char *out, size_t cap)
{
    struct translate *x = m->v->engine_priv;
    const struct tr_block *b = NULL;
    ZydisFormatter f;
    size_t n = 0;

    for (unsigned i = 0; i < 1u << x->hash_bits && !b; i++) /* in supervisor mode, alive */
        if (x->hash[i].code && (x->hash[i].tag & 0xfffffffffffffull) == IM_CODE)
            b = (const void *)(x->arena + (size_t)(x->hash[i].block & ~TR_SLOT_CROSSES) * 8);
    assert_non_null(b);
    ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
    for (const uint8_t *p = x->rw + b->code, *end = p + b->leave; p < end;) {
        ZydisDisassembledInstruction d;
        char line[128], at[32] = "";

        assert_true(ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, 0, p, 15, &d)));
        p += d.info.length;
        snprintf(line, sizeof(line), "%s", d.text);
        for (unsigned i = 0; i < d.info.operand_count; i++) {
            const ZydisDecodedOperand *o = &d.operands[i];

            if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.base == ZYDIS_REGISTER_RSP && o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
                char *open = strchr(line, '['), *close = strchr(line, ']');

                name(at, sizeof(at), o->mem.disp.value);
                snprintf(line, sizeof(line), "%.*s%s%s%s", (int)(open - line), d.text, at,
                         o->mem.index != ZYDIS_REGISTER_NONE ? "+" : "",
                         o->mem.index != ZYDIS_REGISTER_NONE ? ZydisRegisterGetString(o->mem.index) : "");
                snprintf(line + strlen(line), sizeof(line) - strlen(line), "%s", d.text + (close + 1 - line));
            }
            if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative)
                snprintf(line, sizeof(line), "%s %s", ZydisMnemonicGetString(d.info.mnemonic), o->imm.value.s == 5 && d.info.length == 2 ? "over" : "out");
        }
        n += (size_t)snprintf(out + n, cap - n, "%s\n", line);
    }
}

/* Replace the first occurrence of a from *at on; *at goes behind it. False: there is none. */
static bool replace(char *s, size_t *at, const char *a, const char *b)
{
    char *p = strstr(s + *at, a), tail[8192];

    if (!p)
        return false;
    snprintf(tail, sizeof(tail), "%s", p + strlen(a));
    *at = (size_t)(p - s) + strlen(b);
    memcpy(p, b, strlen(b));
    strcpy(p + strlen(b), tail);
    return true;
}

/* What is expected where checks are by LOOP, from what it is where they are by JRCXZ. */
static const char *by_loop(const char *want, char out[8192])
{
    static const char *const to[][2] = {
        {"pext rcx, r10, @align4\njrcxz over\njmp out\n", "pext rcx, r10, @align4\nlea rcx, [rcx+0x01]\nloop out\n"},
        {"mov ecx, @requests\njrcxz over\njmp out\n", "mov ecx, @requests\nlea ecx, [rcx+0x01]\nloop out\n"},
        {"jrcxz over\njmp out\n", "loop out\n"},
    };

    snprintf(out, 8192, "%s", want);
    for (unsigned i = 0; i < 3; i++)
        for (size_t at = 0; replace(out, &at, to[i][0], to[i][1]);)
            ;
    return out;
}

static void check_one(const uint8_t *begin, const uint8_t *end, const char *want, int one)
{
    struct im *m = im_new(1);
    char got[8192];

    im_checks(m, one);

    im_put(m, IM_CODE, begin, (size_t)(end - begin));
    im_long(m, m->v);
    m->v->cpu.gpr[X86_RBX] = IM_DATA;
    assert_int_equal(im_run(m, m->v), EXIT_HLT);
    text(m, got, sizeof(got));
    if (strncmp(got, want, strlen(want)))
        fail_msg("got:\n%swanted:\n%s", got, want);
    im_free(m);
}
static void check(const uint8_t *begin, const uint8_t *end, const char *want)
{
    char out[8192];

    check_one(begin, end, want, 0);
    check_one(begin, end, by_loop(want, out), 1);
}
#define GOLDEN(fn, source, want)                                                                                       \
    PROGRAM(code_##fn, source "\nhlt");                                                                                \
    static void fn(void **state)                                                                                       \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        check(code_##fn##_begin, code_##fn##_end, want);                                                               \
    }

GOLDEN(registers, "add %rbx, %rax; sub %ecx, %edx; imul $5, %rsp, %rsi; setc %dil",
       "add rax, rbx\nsub edx, r9d\nimul rsi, r15, 0x05\nsetb dil\n")
GOLDEN(in_memory, "xor %r9d, %r9d; lea 8(%rax,%r10,4), %rdx; shl %cl, %rax",
       "mov r10, @gpr9\nmov r11, @gpr9\nxor r10d, r11d\nmov @gpr9, r10\n"
       "mov r11, @gpr10\nlea rdx, [rax+r11*4+0x08]\nmov rcx, r9\nshl rax, cl\n")
GOLDEN(load, "mov 16(%rbx), %eax",
       "lea r10, [rbx+0x10]\nshrx r11, r10, rsp\npdep r11, r11, @tlb_mask\nmov rcx, @tlb.r+r11\n"
       "lea rcx, [rcx+r10*1+0x03]\nshrx rcx, rcx, rsp\njrcxz over\njmp out\nmov r11, @tlb.addend+r11\n"
       "mov eax, [r10+r11*1]\n")
GOLDEN(modify, "addb $1, (%rbx)",
       "mov r10, rbx\nshrx r11, r10, rsp\npdep r11, r11, @tlb_mask\nmov rcx, @tlb.w+r11\n"
       "lea rcx, [rcx+r10*1]\nshrx rcx, rcx, rsp\njrcxz over\njmp out\nmov r11, @tlb.addend+r11\n"
       "add byte ptr [r10+r11*1], 0x01\n")
GOLDEN(locked, "lock incl %gs:(%rbx)",
       "mov r10, rbx\nmov r11, @gs\nlea r10, [r10+r11*1]\npext rcx, r10, @align4\njrcxz over\njmp out\n"
       "shrx r11, r10, rsp\npdep r11, r11, @tlb_mask\nmov rcx, @tlb.w+r11\nlea rcx, [rcx+r10*1+0x03]\n"
       "shrx rcx, rcx, rsp\njrcxz over\njmp out\nmov r11, @tlb.addend+r11\nlock inc [r10+r11*1]\n")
GOLDEN(call, "call 1f; 1:",
       "lea r10, [r15-0x08]\nshrx r11, r10, rsp\npdep r11, r11, @tlb_mask\nmov rcx, @tlb.w+r11\n"
       "lea rcx, [rcx+r10*1+0x07]\nshrx rcx, rcx, rsp\njrcxz over\njmp out\nmov r11, @tlb.addend+r11\n"
       "mov rcx, @rip\nlea rcx, [rcx+0x05]\nmov [r10+r11*1], rcx\nlea r15, [r15-0x08]\n"
       "mov rcx, @insns\nlea rcx, [rcx+0x01]\nmov @insns, rcx\njmp out\n")
GOLDEN(window, "push %rax; mov 8(%rbx), %eax; mov %ecx, 16(%rbx); pop %rdx",
       "lea r10, [r15-0x08]\nshrx r11, r10, rsp\npdep r11, r11, @tlb_mask\nmov rcx, @tlb.w+r11\n"
       "lea rcx, [rcx+r10*1+0x07]\nshrx rcx, rcx, rsp\njrcxz over\njmp out\nmov r11, @tlb.addend+r11\nmov @window0, r11\n"
       "mov [r10+r11*1], rax\nlea r15, [r15-0x08]\n"
       "lea r10, [rbx+0x08]\nshrx r11, r10, rsp\npdep r11, r11, @tlb_mask\nmov rcx, @tlb.w+r11\n"
       "lea rcx, [rcx+r10*1+0x0B]\nshrx rcx, rcx, rsp\njrcxz over\njmp out\nmov r11, @tlb.addend+r11\nmov @window1, r11\n"
       "mov eax, [r10+r11*1]\nmov [rbx+r11*1+0x10], r9d\nmov r11, @window0\nmov rdx, [r15+r11*1]\nlea r15, [r15+0x08]\n")
GOLDEN(superblock, "test %eax, %eax; js 1f; inc %eax; 1: cmp $3, %eax; ja 1b; jmp 2f; 2:",
       "test eax, eax\njs out\ninc eax\ncmp eax, 0x03\nmov ecx, @requests\njrcxz over\njmp out\n"
       "mov rcx, @insns\nlea rcx, [rcx+0x05]\nmov @insns, rcx\njnbe out\njmp out\n")
GOLDEN(indirect, "lea 1f(%rip), %rax; jmp *%rax; 1:",
       "mov r10, @rip\nlea rax, [r10+0x09]\nmov ecx, @requests\njrcxz over\njmp out\nmov r10, rax\n"
       "mov rcx, @insns\nlea rcx, [rcx+0x02]\nmov @insns, rcx\nrorx rcx, r10, 0x0C\nlea rcx, [rcx+r10*1]\n"
       "pdep r11, rcx, @jump_mask\nmov rcx, @jump.nlin+r11\nlea rcx, [rcx+r10*1]\njrcxz over\njmp out\n"
       "mov rcx, @jump.page+r11\nmov @rip, rcx\njmp @jump.code+r11\n")

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(registers), cmocka_unit_test(in_memory), cmocka_unit_test(load),
                                       cmocka_unit_test(modify),    cmocka_unit_test(locked),    cmocka_unit_test(call),
                                       cmocka_unit_test(superblock), cmocka_unit_test(window),
                                       cmocka_unit_test(indirect)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
