/*
 * Random sequences of instructions (sequences.h) on the host CPU, in the interpreter, in translated code of user and
 * of kernel privilege, cold and warm, and directly in a user world: all registers, flags, vector and x87 state, memory, self-modified
 * code, and the fault that ends a sequence must agree.
 *
 * RINGER_ROUNDS: how many (default 1200). RINGER_SEED: the first one's seed, as printed when one fails.
 */
#include "ringer/engine.h"

static const struct engine_ops *which;
#define IM_ENGINE (*which)
#include "host_cpu.h"
#include "mirror.h"
#include "ringer/host.h"
#include "sequences.h"
#include "x86/thunk.h"

enum way { HOST, INTERP, INTERP_KERNEL, TRANSLATE, TRANSLATE_AGAIN, TRANSLATE_KERNEL, DIRECT, WAYS };
static const char *const way_name[WAYS] = {"host",       "interp, CPL 3", "interp, CPL 0", "translate, CPL 3", "translate, CPL 3, again", "translate, CPL 0",
                                           "directly"};

struct result {
    struct outcome o;
    uint8_t data[DATA_RW_SIZE], stack[SEQ_STACK_SIZE], code[SEQ_CODE_SIZE];
};

static struct tester {
    struct seq_source source;
    struct im *m[WAYS];
    const struct engine_ops *engine[WAYS];
    struct state s;
    uint8_t data[DATA_RW_SIZE], stack[SEQ_STACK_SIZE];
    struct seq seq;
    struct result r[WAYS];
    bool flush[WAYS];
} t;

static uint64_t first_seed = 0x2545f4914f6cdd1d;
static unsigned rounds = 1200;

/* --- running ------------------------------------------------------------------------------------ */

static void on_host(void)
{
    struct result *r = &t.r[HOST];

    memcpy((void *)SEQ_CODE, t.seq.code, SEQ_CODE_SIZE);
    memcpy((void *)DATA_RW, t.data, DATA_RW_SIZE);
    memcpy((void *)SEQ_STACK, t.stack, SEQ_STACK_SIZE);
    native_run(&t.s, false, &r->o);
    memcpy(r->code, (void *)SEQ_CODE, SEQ_CODE_SIZE);
    memcpy(r->data, (void *)DATA_RW, DATA_RW_SIZE);
    memcpy(r->stack, (void *)SEQ_STACK, SEQ_STACK_SIZE);
}

static void on_guest(enum way w)
{
    struct result *r = &t.r[w];
    struct im *m = t.m[w];
    struct x86_cpu *c = &m->v->cpu;
    uint8_t *ram = m->vm->ram;
    const bool kernel = w == INTERP_KERNEL || w == TRANSLATE_KERNEL;

    which = t.engine[w];
    /* What is translated stays so, unless the sequence changed itself. */
    if (memcmp(ram + GPA_OF(SEQ_CODE), t.seq.code, SEQ_CODE_SIZE))
        im_put(m, GPA_OF(SEQ_CODE), t.seq.code, SEQ_CODE_SIZE);
    im_put(m, GPA_OF(DATA_RW), t.data, DATA_RW_SIZE);
    im_put(m, GPA_OF(SEQ_STACK), t.stack, SEQ_STACK_SIZE);
    memcpy(c->gpr, t.s.gpr, sizeof(c->gpr));
    c->rip = t.s.rip;
    x86_set_rflags(c, t.s.rflags);
    memcpy(c->fpu.raw, t.s.fx, XSTATE_SIZE);
    c->fpu.fcs = c->fpu.fds = 0;
    c->cr2 = 0;
    mirror_segments(c, kernel ? KERNEL_CS : USER_CS64);
    for (unsigned i = 0; i < X86_NSEG; i++)
        if (i != X86_CS && i != X86_SS)
            c->seg[i].sel = 0; /* as 64-bit programs have them */
    if (t.flush[w])
        x86_tlb_flush_all(c);
    if (mirror_run(m, &r->o)) {
        if (kernel && r->o.vector == X86_PF)
            r->o.err |= 4;
        native_classify(&t.s, &r->o);
    }
    memcpy(r->code, ram + GPA_OF(SEQ_CODE), SEQ_CODE_SIZE);
    memcpy(r->data, ram + GPA_OF(DATA_RW), DATA_RW_SIZE);
    memcpy(r->stack, ram + GPA_OF(SEQ_STACK), SEQ_STACK_SIZE);
}

/* --- comparing ---------------------------------------------------------------------------------- */

static void say(bool print, enum way a, enum way b, const char *what, uint64_t x, uint64_t y)
{
    if (print)
        printf("    %-8s %s: %016llx, %s: %016llx\n", what, way_name[a], (unsigned long long)x, way_name[b], (unsigned long long)y);
}

static unsigned differ(const char *what, enum way a, enum way b, const uint8_t *x, const uint8_t *y, unsigned n, unsigned step, bool print)
{
    unsigned bad = 0;

    for (unsigned i = 0; i < n; i += step) {
        uint64_t u = 0, v = 0;
        char name[24];

        if (!memcmp(x + i, y + i, step))
            continue;
        memcpy(&u, x + i, step < 8 ? step : 8);
        memcpy(&v, y + i, step < 8 ? step : 8);
        snprintf(name, sizeof(name), "%s+%x", what, i);
        if (bad++ < 4)
            say(print, a, b, name, u, v);
    }
    return bad;
}

static unsigned compare(enum way wa, enum way wb, bool print)
{
    static const char *const gpr_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    const struct result *a = &t.r[wa], *b = &t.r[wb];
    const uint64_t fl = X86_FL_ARITH | X86_FL_DF | X86_FL_AC | X86_FL_NT | X86_FL_ID;
    const unsigned shown = t.m[INTERP]->v->cpu.thunks && t.m[INTERP]->v->cpu.thunks->hides_pointers ? 6 : 24;
    unsigned bad = 0;
#define SAME(what, x, y)                                                                                               \
    do {                                                                                                               \
        if ((x) != (y)) {                                                                                              \
            bad++;                                                                                                     \
            say(print, wa, wb, what, (uint64_t)(x), (uint64_t)(y));                                                    \
        }                                                                                                              \
    } while (0)

    SAME("vector", a->o.vector, b->o.vector);
    SAME("error", a->o.err, b->o.err);
    if (wa == HOST) /* which byte of an access faults is the processor's choice, but not its page */
        SAME("cr2", a->o.cr2 >> 12, b->o.cr2 >> 12);
    else
        SAME("cr2", a->o.cr2, b->o.cr2);
    SAME("rip", a->o.s.rip, b->o.s.rip);
    SAME("rflags", a->o.s.rflags & fl, b->o.s.rflags & fl);
    for (unsigned i = 0; i < 16; i++)
        SAME(gpr_name[i], a->o.s.gpr[i], b->o.s.gpr[i]);
    bad += differ("x87", wa, wb, a->o.s.fx, b->o.s.fx, shown, 2, print);
    bad += differ("mxcsr", wa, wb, a->o.s.fx + 24, b->o.s.fx + 24, 4, 4, print);
    for (unsigned i = 0; i < 8; i++)
        bad += differ("st", wa, wb, a->o.s.fx + 32 + 16 * i, b->o.s.fx + 32 + 16 * i, 10, 10, print);
    bad += differ("xmm", wa, wb, a->o.s.fx + 160, b->o.s.fx + 160, 256, 8, print);
    bad += differ("ymmh", wa, wb, a->o.s.fx + 576, b->o.s.fx + 576, 256, 8, print);
    bad += differ("data", wa, wb, a->data, b->data, DATA_RW_SIZE, 8, print);
    bad += differ("stack", wa, wb, a->stack, b->stack, SEQ_STACK_SIZE, 8, print);
    bad += differ("code", wa, wb, a->code, b->code, SEQ_CODE_SIZE, 1, print);
    return bad;
}

/* The host's result against the interpreter's, the interpreter's against all others. */
static unsigned compare_all(bool print)
{
    unsigned bad = compare(HOST, INTERP, print);

    for (enum way w = INTERP_KERNEL; w < WAYS; w++)
        bad += compare(INTERP, w, print);
    return bad;
}

static unsigned run_all(void)
{
    on_host();
    for (enum way w = INTERP; w < WAYS; w++)
        on_guest(w);
    return compare_all(false);
}

/* --- one sequence --------------------------------------------------------------------------------- */

static void make(uint64_t seed)
{
    rng = seed | 1;
    for (unsigned i = 0; i < 8; i++)
        (void)rnd();
    seq_make(&t.seq, &t.source);
    for (unsigned i = 0; i < 16; i++)
        t.s.gpr[i] = rnd_int();
    t.s.gpr[X86_RSP] = SEQ_RSP;
    t.s.rip = SEQ_CODE + t.seq.start;
    t.s.rflags = (rnd() & X86_FL_ARITH) | 0x202 | (below(8) ? 0 : X86_FL_DF);
    rnd_fx(t.s.fx);
    if (below(4)) { /* no exception pending, all masked */
        put16(t.s.fx, 0x37f);
        put16(t.s.fx + 2, 0);
        put32(t.s.fx + 24, 0x1f80);
    }
    for (unsigned i = 0; i < DATA_RW_SIZE; i += 64)
        rnd_bytes(t.data + i, 64);
    for (unsigned i = 0; i < SEQ_STACK_SIZE; i += 64)
        rnd_bytes(t.stack + i, 64);
    for (enum way w = HOST; w < WAYS; w++)
        t.flush[w] = below(4) == 0;
}

/* What differs, and the sequence: shortened by an INT3 as far as it still does, if it does so again (what ran before may matter). */
static void report(uint64_t seed)
{
    struct x86_insn in;
    unsigned at = t.seq.start, end = t.seq.n;

    printf("RINGER_SEED=0x%llx RINGER_ROUNDS=1 runs the sequence that differs:\n", (unsigned long long)seed);
    compare_all(true);
    printf("    host: vector %d error %x cr2 %llx rip %llx\n", t.r[HOST].o.vector, t.r[HOST].o.err, (unsigned long long)t.r[HOST].o.cr2,
           (unsigned long long)t.r[HOST].o.s.rip);
    if (!run_all())
        printf("  (not when run again)\n");
    else
        while (at < t.seq.n) {
            const uint8_t old = t.seq.code[at];

            t.seq.code[at] = 0xcc;
            if (run_all()) {
                printf("  shortened:\n");
                compare_all(true);
                end = at;
                break;
            }
            t.seq.code[at] = old;
            at += x86_decode(&in, t.seq.code + at, 15, X86_MODE_64, false, t.source.features) == X86_DEC_OK ? in.len : 1;
        }
    for (at = t.seq.start; at <= end; at += in.len) {
        if (x86_decode(&in, t.seq.code + at, 15, X86_MODE_64, false, t.source.features) != X86_DEC_OK)
            in.len = 1;
        printf("  %lx:", SEQ_CODE + at);
        for (unsigned i = 0; i < in.len; i++)
            printf(" %02x", t.seq.code[at + i]);
        printf("  %s\n", in.op == X86_OP_INVALID ? "?" : x86_op_name(in.op));
    }
}

static void sequences(void **state)
{
    unsigned failed = 0, whole = 0, ran = 0, insns = 0, faults[32] = {0};

    (void)state;
    native_take_signals(false); /* from cmocka */
    for (unsigned i = 0; i < rounds && failed < 3; i++) {
        ran++;
        const uint64_t seed = first_seed + i * 0x9e3779b97f4a7c15ull;

        make(seed);
        insns += t.seq.ninsn;
        if (run_all()) {
            failed++;
            report(seed);
        }
        if (t.r[HOST].o.vector < 0)
            whole++;
        else
            faults[t.r[HOST].o.vector & 31]++;
    }
    printf("%u sequences of %u instructions on average, %u ran to their end; faults:", ran, insns / (ran ? ran : 1), whole);
    for (unsigned i = 0; i < 32; i++)
        if (faults[i])
            printf(" %u of vector %u", faults[i], i);
    printf("\n");
    assert_int_equal(failed, 0);
    if (rounds >= 500) { /* it is worth something */
        assert_in_range(whole, rounds / 2, rounds - rounds / 20);
        assert_true(faults[X86_DE] && faults[X86_UD] && faults[X86_GP] && faults[X86_PF] && faults[X86_XM]);
    }
}

/* --- setting up -------------------------------------------------------------------------------------- */

static void add_guest(enum way w, enum way same_as, const struct engine_ops *engine, enum engine_user_code user_code)
{
    uint8_t *ram;

    which = t.engine[w] = engine;
    if (same_as != w) {
        t.m[w] = t.m[same_as];
        return;
    }
    t.m[w] = im_new_as(1, user_code);
    mirror_setup(t.m[w]);
    ram = t.m[w]->vm->ram;
    for (uint64_t a = SEQ_CODE; a < SEQ_CODE + SEQ_CODE_SIZE; a += 4096)
        put64(ram + 0x4000 + 8 * ((a >> 12) & 511), GPA_OF(a) | 7);
    put64(ram + 0x4000 + 8 * ((SEQ_STACK >> 12) & 511), GPA_OF(SEQ_STACK) | 7 | 1ull << 63);
}

static void nothing(void *arg) { (void)arg; }

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sequences)};
    const char *s = getenv("RINGER_SEED");
    int r;

    if (s)
        first_seed = strtoull(s, NULL, 0);
    rounds = random_rounds(rounds);
    setvbuf(stdout, NULL, _IOLBF, 0);
    look_at_host();
    host_guarded(nothing, NULL, NULL); /* the guard's handlers first: ours pass on what they do not want */
    native_init();
    native_map(SEQ_CODE + 0x1000, SEQ_CODE_SIZE - 0x1000, PROT_READ | PROT_WRITE | PROT_EXEC);
    native_map(SEQ_STACK, SEQ_STACK_SIZE, PROT_READ | PROT_WRITE);
    rng = 88172645463325252ull;
    for (unsigned i = 0; i < 4096; i++)
        ((uint8_t *)DATA_RO)[i] = (uint8_t)rnd();
    mprotect((void *)DATA_RO, 4096, PROT_READ);
    add_guest(INTERP, INTERP, &engine_interp, USER_CODE_AUTO);
    add_guest(INTERP_KERNEL, INTERP, &engine_interp, USER_CODE_AUTO);
    add_guest(TRANSLATE, TRANSLATE, &engine_translate, USER_CODE_TRANSLATED);
    add_guest(TRANSLATE_AGAIN, TRANSLATE, &engine_translate, USER_CODE_TRANSLATED);
    add_guest(TRANSLATE_KERNEL, TRANSLATE, &engine_translate, USER_CODE_TRANSLATED);
    add_guest(DIRECT, DIRECT, &engine_translate, USER_CODE_DIRECT);
    seq_source_init(&t.source, x86_feature_bits(t.m[INTERP]->vm->cpuid));
    r = cmocka_run_group_tests(tests, NULL, NULL);
    seq_source_free(&t.source);
    for (enum way w = INTERP; w < WAYS; w++) {
        which = t.engine[w];
        if (w == INTERP || w == TRANSLATE || w == DIRECT)
            im_free(t.m[w]);
    }
    return r;
}
