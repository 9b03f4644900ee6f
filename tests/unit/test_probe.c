/* ringer probe: the cases cover the table, the sandbox holds, and what cannot differ between hosts is found. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lab/probe.h"
#include "lab/probe_out.h"
#include "x86/cpu.h"

/* Every encoding the table calls privileged or sensitive is tried in some mode. */
static void test_cases_cover_table(void **state)
{
    unsigned wanted = 0;
    bool *seen = calloc(x86_isa_count, sizeof(*seen));
    assert_non_null(seen);
    for (unsigned i = 0; i < probe_ncases; i++)
        for (unsigned m32 = 0; m32 < 2; m32++) {
            const struct x86_isa_row *r = probe_row(&probe_cases[i], m32);
            if (!(probe_cases[i].modes & (m32 ? PROBE_32 : PROBE_64)))
                continue;
            if (!r)
                fail_msg("%s (%u-bit): the decoder does not know it", probe_cases[i].form, m32 ? 32 : 64);
            if (!r->pg)
                fail_msg("%s (%u-bit): the table calls it innocuous", probe_cases[i].form, m32 ? 32 : 64);
            seen[r - x86_isa] = true;
        }
    for (unsigned i = 0; i < x86_isa_count; i++) {
        wanted += x86_isa[i].pg != 0;
        if (x86_isa[i].pg && !seen[i])
            fail_msg("row %u, %s, opcode %02x: no case", i, x86_isa[i].name, x86_isa[i].opcode);
    }
    assert_true(wanted > 80);
    free(seen);
}

static const struct probe_case *find(const char *form)
{
    for (unsigned i = 0; i < probe_ncases; i++)
        if (!strcmp(probe_cases[i].form, form) && (probe_cases[i].modes & PROBE_64))
            return &probe_cases[i];
    fail_msg("no case %s", form);
    return NULL;
}

static struct probe_result run64(const char *form)
{
    static const struct probe_report no_umip;
    struct probe_raw raw;
    struct probe_result res;
    assert_int_equal(probe_run(find(form), false, &raw), 0);
    probe_judge(&no_umip, find(form), false, &raw, &res);
    return res;
}

/* True of every x86 at CPL 3 with IOPL 0. */
static void test_certain_outcomes(void **state)
{
    static const struct {
        const char *form;
        enum probe_verdict v;
    } sure[] = {
        {"hlt", PV_TRAPPED},
        {"cli", PV_TRAPPED},
        {"mov rax, cr0", PV_TRAPPED},
        {"in al, 0x80", PV_TRAPPED},
        {"lgdt [rbx]", PV_TRAPPED},
        {"wbinvd", PV_TRAPPED},
        {"rdmsr, IA32_TSC", PV_TRAPPED},
        {"int3", PV_TRAPPED},
        {"rsm", PV_UNDEFINED},
        {"popf, IF cleared", PV_DIFFERENT},
        {"popf, IOPL 3", PV_DIFFERENT},
        {"popf, CF set", PV_EXECUTED},
        {"iret, IF cleared", PV_DIFFERENT},
        {"pushf", PV_HOST},
        {"mov eax, cs", PV_HOST},
        {"push gs", PV_HOST},
        {"mov ds, ax = 0", PV_EXECUTED},
        {"lar eax, own CS", PV_HOST},
        {"jmp far [rbx+0x20]", PV_HOST},
    };
    for (unsigned i = 0; i < sizeof(sure) / sizeof(sure[0]); i++) {
        struct probe_result r = run64(sure[i].form);
        if (r.verdict != sure[i].v)
            fail_msg("%s: %s (%s), expected %s", sure[i].form, probe_verdict_name[r.verdict], r.text,
                     probe_verdict_name[sure[i].v]);
    }
}

static void test_exception_is_reported(void **state)
{
    struct probe_raw raw;
    assert_int_equal(probe_run(find("int 0x21"), false, &raw), 0);
    assert_int_equal(raw.end, RAW_SIGNAL);
    assert_int_equal(raw.vector, X86_GP);
    assert_int_equal(raw.err, 0x21 << 3 | 2);
    assert_int_equal(raw.sig, SIGSEGV);
    assert_true(raw.at_insn);
}

/* Nothing of a case reaches the host's kernel. */
static void test_system_calls_are_stopped(void **state)
{
    struct probe_raw raw;
    assert_int_equal(probe_run(find("syscall"), false, &raw), 0);
    if (raw.end == RAW_DONE)
        skip(); /* no seccomp here */
    assert_true(raw.system_call);
    assert_int_equal(raw.sig, SIGSYS);
}

static void test_hang_ends(void **state)
{
    static const struct probe_case loop = {.form = "jmp $", .modes = PROBE_64, .pre = "", .code = "ebfe"};
    struct probe_raw raw;
    struct probe_result res;
    struct probe_report rep = {0};
    assert_int_equal(probe_run(&loop, false, &raw), 0);
    assert_int_equal(raw.end, RAW_DIED);
    probe_judge(&rep, &loop, false, &raw, &res);
    assert_int_equal(res.verdict, PV_FAILED);
}

static struct probe_raw made(enum probe_effect fx, const char *code, struct probe_case *c)
{
    *c = (struct probe_case){.form = "made", .modes = PROBE_64, .effect = fx, .pre = "", .code = code};
    return (struct probe_raw){.end = RAW_DONE};
}

static void test_umip_dummies(void **state)
{
    struct probe_report rep = {.umip = true};
    struct probe_case c;
    struct probe_result res;
    struct probe_raw raw = made(FX_GDT, "0f0103", &c);
    uint64_t dummy = 0xfffffffffffe0000, real = 0xfffffe0000001000;
    memcpy(raw.data + 2, &dummy, 8);
    probe_judge(&rep, &c, false, &raw, &res);
    assert_int_equal(res.verdict, PV_EMULATED);
    raw.data[0] = 0x7f;
    memcpy(raw.data + 2, &real, 8);
    probe_judge(&rep, &c, false, &raw, &res);
    assert_int_equal(res.verdict, PV_HOST);
    assert_non_null(strstr(res.text, "0xfffffe0000001000 limit 0x7f"));
    raw = made(FX_TR, "0f00c9", &c);
    raw.gpr[X86_RCX] = 0x40;
    probe_judge(&rep, &c, false, &raw, &res);
    assert_int_equal(res.verdict, PV_EMULATED);
    rep.umip = false;
    probe_judge(&rep, &c, false, &raw, &res);
    assert_int_equal(res.verdict, PV_HOST);
}

static const struct probe_op *op_named(const struct probe_report *rep, const char *name)
{
    for (unsigned i = 0; i < rep->nops; i++)
        if (!strcmp(rep->op[i].name, name))
            return &rep->op[i];
    fail_msg("no instruction %s", name);
    return NULL;
}

static void test_whole_report(void **state)
{
    struct probe_report rep;
    char line[600];
    assert_int_equal(probe_all(&rep), 0);
    for (unsigned i = 0; i < rep.nresults; i++) {
        if (rep.result[i].verdict == PV_FAILED)
            fail_msg("%s: %s", rep.result[i].c->form, rep.result[i].text);
        assert_true(rep.result[i].text[0]);
    }
    assert_true(probe_in(op_named(&rep, "popf"), SET_OFFENDERS_FOUND));
    assert_true(probe_in(op_named(&rep, "hlt"), SET_P_FOUND));
    assert_false(probe_in(op_named(&rep, "hlt"), SET_OFFENDERS_FOUND));
    assert_true(probe_in(op_named(&rep, "rsm"), SET_ABSENT));
    probe_verdict(&rep, line, sizeof(line));
    assert_non_null(strstr(line, "not a subset"));
    /* INTO that does nothing is no offence; one that traps makes it privileged here. */
    if (rep.mode32) {
        assert_false(probe_in(op_named(&rep, "into"), SET_OFFENDERS_FOUND));
        assert_true(probe_in(op_named(&rep, "into"), SET_P_FOUND));
    }
    probe_free(&rep);
}

/* Were every sensitive instruction to trap, the verdict would be the other one. */
static void test_verdict_can_be_good(void **state)
{
    struct probe_report rep = {0};
    struct probe_result r[2] = {{.c = find("hlt"), .row = probe_row(find("hlt"), false), .verdict = PV_TRAPPED},
                                {.c = find("pushf"), .row = probe_row(find("pushf"), false), .verdict = PV_TRAPPED}};
    char line[600];
    rep.result = r;
    rep.nresults = 2;
    assert_int_equal(probe_gather(&rep), 0);
    assert_int_equal(rep.nops, 2);
    probe_verdict(&rep, line, sizeof(line));
    assert_non_null(strstr(line, "S is a subset"));
    assert_true(probe_in(op_named(&rep, "pushf"), SET_TRAPS_UNEXPECTED));
    free(rep.op);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases_cover_table),
        cmocka_unit_test(test_certain_outcomes),
        cmocka_unit_test(test_exception_is_reported),
        cmocka_unit_test(test_system_calls_are_stopped),
        cmocka_unit_test(test_hang_ends),
        cmocka_unit_test(test_umip_dummies),
        cmocka_unit_test(test_whole_report),
        cmocka_unit_test(test_verdict_can_be_good),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
