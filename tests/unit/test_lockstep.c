/*
 * Lockstep: machines that agree are seen to agree, and bugs put into translated code, or into what an engine
 * leaves behind, are found, down to the block. The command line's part (cli/verify.c) is compiled in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/unit/interp_fixture.h"

#include "cli/verify.c"
#include "engine/translate/translate.h"

/* What verify.c needs of the rest of cli/. */
int cli_error(const char *fmt, ...) { return (void)fmt, STATUS_USAGE; }
int cli_end_status(int end, int code) { return end == VM_END_DEBUG_EXIT ? code & 0xff : end == VM_END_POWEROFF ? STATUS_OK : STATUS_ERROR; }
void stats_print(struct vm *vm, enum stats_kind kind, const struct symbols *sym, int fd, const char *name) { (void)vm, (void)kind, (void)sym, (void)fd, (void)name; }

PROGRAM(sums, "mov $0x200000, %edi\nmov $20000, %ecx\n"
              "1: add $0x11223344, %rax\nmovl $0x55667788, 8(%rdi)\nmov %rax, (%rdi)\nimul $3, %rax, %rbx\npush %rbx\npop %rdx\ndec %ecx\njnz 1b\nhlt\n");

struct pair {
    struct im *m[2];
    struct clock_counter time[2];
    struct lockstep ls;
};

static struct im *machine(const struct engine_ops *engine, struct clock_counter *time)
{
    struct im *m = calloc(1, sizeof(*m));
    struct vm_config cfg = {.ram_size = IM_RAM, .ncpu = 1, .engine = engine, .no_reboot = true, .counter = time};
    struct x86_cpuid_config cc = {.ncpu = 1, .tsc_khz = 1000000, .phys_bits = 39, .apic_hz = 1000000000};
    char err[128] = "";

    time->insns_per_us = 1000;
    m->vm = vm_new(&cfg, err, sizeof(err));
    assert_non_null(m->vm);
    m->vm->cpuid = x86_cpuid_new(&cc);
    m->vm->cpu[0] = m->v = vcpu_new(m->vm, 0);
    assert_non_null(m->v);
    IM_LOAD(m, sums);
    im_long(m, m->v);
    return m;
}

static void begin(struct pair *p)
{
    char err[128] = "";

    memset(p, 0, sizeof(*p));
    p->m[0] = machine(&engine_translate, &p->time[0]);
    p->m[1] = machine(&engine_interp, &p->time[1]);
    p->ls.memory_every = 1;
    assert_int_equal(lockstep_init(&p->ls, p->m[0]->vm, p->m[1]->vm, err, sizeof(err)), 0);
}

static void end(struct pair *p)
{
    lockstep_fini(&p->ls);
    for (unsigned i = 0; i < 2; i++) {
        vm_free(p->m[i]->vm);
        free(p->m[i]);
    }
}

/* Change one byte of the code translated so far, as a wrong translation would: the one place that holds these four. */
static unsigned break_code(struct vcpu *v, uint32_t find)
{
    struct translate *x = translate_of(v);
    unsigned n = 0;

    for (uint8_t *p = x->rw + x->base; p + 4 <= x->rw + x->used; p++)
        if (!memcmp(p, &find, 4)) {
            *p ^= 1;
            n++;
        }
    return n;
}

static enum lockstep_result go(struct pair *p, uint64_t n)
{
    enum lockstep_result r;

    do
        r = lockstep_slice(&p->ls, n);
    while (r == LS_SAME);
    return r;
}

static void agree(void **state)
{
    struct pair p;

    (void)state;
    begin(&p);
    assert_int_equal(go(&p, 0), LS_IDLE);
    assert_int_equal(lockstep_insns(&p.ls), 3 + 8 * 20000);
    assert_int_equal(p.ls.diff.n, 0);
    /* Time is the instructions. */
    assert_int_equal(atomic_load(&p.time[0].insns), atomic_load(&p.time[1].insns));
    assert_in_range(clock_now(p.m[0]->vm->clock), 8 * 20000 - 5000, 8 * 20000 + 10);
    end(&p);
}

static void wrong_register(void **state)
{
    struct pair p;

    (void)state;
    begin(&p);
    assert_int_equal(lockstep_slice(&p.ls, 1000), LS_SAME);
    const uint64_t before = lockstep_insns(&p.ls);

    assert_int_equal(break_code(p.m[0]->v, 0x11223344), 2); /* the loop, and its first round behind what comes before */
    assert_int_equal(go(&p, 1), LS_DIFFER);
    assert_int_equal(lockstep_insns(&p.ls), before + 8); /* the very first block with it */
    bool rax = false;

    for (unsigned i = 0; i < p.ls.diff.n; i++)
        if (!strcmp(p.ls.diff.item[i].name, "rax")) {
            rax = true;
            assert_int_equal(p.ls.diff.item[i].val[LS_SUBJECT], p.ls.diff.item[i].val[LS_REFERENCE] + 1);
        }
    assert_true(rax);
    end(&p);
}

static void wrong_memory(void **state)
{
    struct pair p;

    (void)state;
    begin(&p);
    assert_int_equal(lockstep_slice(&p.ls, 1000), LS_SAME);
    assert_in_range(break_code(p.m[0]->v, 0x55667788), 1, 2);
    assert_int_equal(go(&p, 1), LS_DIFFER);
    assert_int_equal(p.ls.diff.n, 1);
    assert_true(p.ls.diff.memory);
    assert_int_equal(p.ls.diff.gpa, IM_DATA + 8);
    end(&p);
}

/* --- through the command line's part: found again from the start, and told --- */

static struct engine_ops bad;

/* Forgets to keep RBX in one block after 50000 instructions. */
static void bad_run(struct vcpu *v, struct vcpu_exit *exit)
{
    const uint64_t before = v->insns;

    engine_interp.run(v, exit);
    if (before <= 50000 && v->insns > 50000)
        v->cpu.gpr[X86_RBX] ^= 4;
}

PROGRAM(sector, ".code16\ncli\nxor %ecx, %ecx\nmov $7, %ebx\n1: add %ebx, %eax\ninc %cx\njnz 1b\nmov $3, %al\nmov $0xf4, %dx\nout %al, %dx\nhlt\n");

static int verify(const struct engine_ops *engine, char *text, size_t cap)
{
    const struct run_options o = {.memory = 2u << 20, .cpus = 1, .console = CONSOLE_NONE, .verify = true, .no_reboot = true};
    struct pc_config cfg = {.debug_exit_port = 0xf4, .boot = {.kind = BOOT_FLAT, .name = "sector", .cmdline = "", .flat_addr = 0x7c00, .flat_entry = 0x7c00,
                                                              .flat_at = true, .kernel = sector_begin, .kernel_len = (size_t)(sector_end - sector_begin)}};
    FILE *f = tmpfile();
    const int keep = dup(2);

    assert_non_null(f);
    dup2(fileno(f), 2);
    const int status = cli_verify(&o, engine, &cfg, -1);
    fflush(stderr);
    dup2(keep, 2);
    close(keep);
    rewind(f);
    text[fread(text, 1, cap - 1, f)] = 0;
    fclose(f);
    return status;
}

static void command(void **state)
{
    char text[8192];

    (void)state;
    assert_int_equal(verify(&engine_translate, text, sizeof(text)), (3 << 1) | 1);
    assert_non_null(strstr(text, "no difference"));

    bad = engine_interp;
    bad.run = bad_run;
    assert_int_equal(verify(&bad, text, sizeof(text)), STATUS_DIFFERS);
    if (getenv("RINGER_SHOW"))
        fputs(text, stdout);
    assert_non_null(strstr(text, "differ after 50001 instructions, in this block"));
    assert_non_null(strstr(text, "add eax, ebx"));
    assert_non_null(strstr(text, "jnz"));
    assert_non_null(strstr(text, "\nrbx                                       3                  7"));
    assert_non_null(strstr(text, "\ninterpreter:\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(agree), cmocka_unit_test(wrong_register), cmocka_unit_test(wrong_memory), cmocka_unit_test(command)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
