/*
 * Guest code that addresses what the monitor has at the same addresses: the state of the processor, the tables below it, both views of
 * translated code, guest RAM, stack, program, libc. By loads, stores, stacks, strings, jumps, returns and far transfers, at both
 * privileges, it gets the guest's page fault, or the guest's own page once its page tables map one there. The monitor's memory stays as it was.
 */
#include <sys/auxv.h>
#include <sys/mman.h>

#include "ringer/engine.h"

static const struct engine_ops *which;
#define IM_ENGINE (*which)
#include "engine/translate/translate.h"
#include "tests/isa/mirror.h"

#define PAGE_GPA 0x700000u /* what the guest maps over the monitor */
#define TABLES 0x600000u
#define SLOT (DATA_RW + 0x800) /* of an address in memory */

/* Each begins with X, the address under attack, in RDI, and INT3 behind it. */
enum kind { READ = 0, WRITE = 2, FETCH = 16, NONE = -1 };
static const struct attack {
    const char *name;
    uint8_t code[16], n;
    int kind;
    int16_t off;    /* what it accesses, relative to X */
    uint8_t at;     /* offset of the instruction that faults */
    bool stack;     /* RSP is X */
    bool cpl3_only, cpl0_only;
} attacks[] = {
#define C(...) {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__})
    {"load of a byte", C(0x8a, 0x07), READ, 0, 0, 0, 0, 0},
    {"load", C(0x48, 0x8b, 0x47, 0x18), READ, 0x18, 0, 0, 0, 0},
    {"load with index", C(0x31, 0xc9, 0x8b, 0x44, 0x8f, 0x40), READ, 0x40, 2, 0, 0, 0},
    {"load by MOV with 64-bit address", C(0x48, 0xa1, 0, 0, 0, 0, 0, 0, 0, 0), READ, 0, 0, 0, 0, 0}, /* the address is put there */
    {"store of a byte", C(0x88, 0x07), WRITE, 0, 0, 0, 0, 0},
    {"store", C(0x48, 0x89, 0x47, 0x20), WRITE, 0x20, 0, 0, 0, 0},
    {"two stores", C(0x48, 0x89, 0x07, 0x48, 0x89, 0x47, 0x08), WRITE, 0, 0, 0, 0, 0},
    {"read-modify-write", C(0x01, 0x07), WRITE, 0, 0, 0, 0, 0},
    {"locked", C(0xf0, 0xff, 0x07), WRITE, 0, 0, 0, 0, 0},
    {"XCHG", C(0x48, 0x87, 0x07), WRITE, 0, 0, 0, 0, 0},
    {"CMPXCHG16B", C(0x48, 0x0f, 0xc7, 0x0f), WRITE, 0, 0, 0, 0, 0},
    {"BTS far away", C(0xb8, 0x00, 0x08, 0x00, 0x00, 0x48, 0x0f, 0xab, 0x07), WRITE, 0x100, 5, 0, 0, 0},
    {"MOVUPS load", C(0x0f, 0x10, 0x07), READ, 0, 0, 0, 0, 0},
    {"MOVUPS store", C(0x0f, 0x11, 0x07), WRITE, 0, 0, 0, 0, 0},
    {"VMOVUPS store", C(0xc5, 0xfc, 0x11, 0x07), WRITE, 0, 0, 0, 0, 0},
    {"FXSAVE", C(0x48, 0x0f, 0xae, 0x07), WRITE, 0, 0, 0, 0, 0},
    {"FSTP", C(0xd9, 0xee, 0xdd, 0x1f), WRITE, 0, 2, 0, 0, 0},
    {"MOVS from", C(0x48, 0x87, 0xfe, 0xbf, 0x00, 0x14, 0x01, 0x10, 0xa4), READ, 0, 8, 0, 0, 0},
    {"REP STOS", C(0xb9, 0x10, 0x00, 0x00, 0x00, 0xf3, 0x48, 0xab), WRITE, 0, 5, 0, 0, 0},
    {"PUSH", C(0x50), WRITE, -8, 0, 1, 0, 0},
    {"PUSHF", C(0x9c), WRITE, -8, 0, 1, 0, 0},
    {"POP", C(0x58), READ, 0, 0, 1, 0, 0},
    {"ENTER", C(0xc8, 0x10, 0x00, 0x00), WRITE, -8, 0, 1, 0, 0},
    {"LEAVE", C(0x48, 0x89, 0xfd, 0xc9), READ, 0, 3, 0, 0, 0},
    {"CALL", C(0xe8, 0x00, 0x00, 0x00, 0x00), WRITE, -8, 0, 1, 0, 0},
    {"RET on it", C(0xc3), READ, 0, 0, 1, 0, 0},
    {"IRETQ on it", C(0x48, 0xcf), READ, 0, 0, 1, 0, 0},
    {"JMP", C(0xff, 0xe7), FETCH, 0, 0, 0, 0, 0},
    {"CALL by register", C(0xff, 0xd7), FETCH, 0, 0, 0, 0, 0},
    {"JMP through memory", C(0xff, 0x24, 0x25, 0x00, 0x18, 0x01, 0x10), FETCH, 0, 0, 0, 0, 0},
    {"JMP with the table there", C(0xff, 0x27), READ, 0, 0, 0, 0, 0},
    {"RET", C(0x57, 0xc3), FETCH, 0, 0, 0, 0, 0},
    {"far JMP", C(0x48, 0xff, 0x2c, 0x25, 0x00, 0x18, 0x01, 0x10), FETCH, 0, 0, 0, 0, 0},
    {"far JMP with the pointer there", C(0x48, 0xff, 0x2f), READ, 0, 0, 0, 0, 0},
    {"far RET", C(0x53, 0x57, 0x48, 0xcb), FETCH, 0, 0, 0, 0, 0}, /* RBX: CS */
    {"IRETQ", C(0x52, 0x41, 0x50, 0x41, 0x51, 0x53, 0x57, 0x48, 0xcf), FETCH, 0, 0, 0, 0, 0}, /* RDX, R8, R9, RBX: SS, RSP, RFLAGS, CS */
    {"FS base", C(0x64, 0x8b, 0x04, 0x25, 0, 0, 0, 0), READ, 0, 0, 0, 0, 0},
    {"GS base", C(0x65, 0x89, 0x04, 0x25, 0, 0, 0, 0), WRITE, 0, 0, 0, 0, 0},
    {"XLAT", C(0x31, 0xc0, 0x48, 0x89, 0xfb, 0xd7), READ, 0, 5, 0, 0, 0},
    {"LGDT", C(0x0f, 0x01, 0x17), READ, 0, 0, 0, 0, 1},
    {"LIDT", C(0x0f, 0x01, 0x1f), READ, 0, 0, 0, 0, 1},
    {"WBINVD, INVLPG", C(0x0f, 0x09, 0x0f, 0x01, 0x3f), NONE, 0, 0, 0, 0, 1},
    {"PREFETCH", C(0x0f, 0x18, 0x0f), NONE, 0, 0, 0, 0, 0},
#undef C
};

enum way { INTERP, INTERP_KERNEL, TRANSLATE, TRANSLATE_KERNEL, DIRECT, WAYS };
static const char *const way_name[WAYS] = {"interp, CPL 3", "interp, CPL 0", "translate, CPL 3", "translate, CPL 0", "directly"};
static struct {
    struct im *m;
    const struct engine_ops *engine;
} guests[WAYS];

struct target {
    const char *name;
    uint64_t at;
    bool readable; /* by the test, to see that nothing changed */
};
static struct target targets[32];
static unsigned ntargets;

static void target(const char *name, const void *p, bool readable)
{
    uint64_t x = (uint64_t)(uintptr_t)p;

    /* Nothing reaches over its page's ends. */
    if ((x & 0xfff) < 64)
        x += 64;
    if ((x & 0xfff) > 0xc00)
        x -= 0x400;
    targets[ntargets++] = (struct target){name, x, readable};
}

/* Map the page of X, or no longer. */
static void map(struct im *m, uint64_t x, bool on)
{
    uint8_t *ram = m->vm->ram;
    uint64_t *pml4 = (uint64_t *)(void *)(ram + 0x1000), *t = (uint64_t *)(void *)(ram + TABLES);

    assert_true(x >> 39 & 511);
    memset(t, 0, 3 * 4096);
    memset(ram + PAGE_GPA, 0xcc, 4096);
    pml4[x >> 39 & 511] = on ? TABLES | 7 : 0;
    t[x >> 30 & 511] = (TABLES + 0x1000) | 7;
    t[512 + (x >> 21 & 511)] = (TABLES + 0x2000) | 7;
    t[1024 + (x >> 12 & 511)] = PAGE_GPA | 7;
    vm_ram_written(m->vm, NULL, TABLES, 3 * 4096);
    vm_ram_written(m->vm, NULL, PAGE_GPA, 4096);
    vm_ram_written(m->vm, NULL, 0x1000, 4096);
    x86_tlb_flush_all(&m->v->cpu);
}

static void run(enum way w, const struct attack *a, uint64_t x, struct outcome *o)
{
    struct im *m = guests[w].m;
    struct x86_cpu *c = &m->v->cpu;
    uint8_t code[32];
    const bool kernel = w == INTERP_KERNEL || w == TRANSLATE_KERNEL;
    const uint16_t cs = kernel ? KERNEL_CS : USER_CS64;
    struct { uint64_t ip; uint16_t cs; } __attribute__((packed)) far = {x, cs};

    which = guests[w].engine;
    memset(code, 0xcc, sizeof(code));
    memcpy(code, a->code, a->n);
    if (a->code[1] == 0xa1)
        memcpy(code + 2, &x, 8);
    im_put(m, GPA_OF(CODE_AT), code, sizeof(code));
    im_put(m, GPA_OF(SLOT), &far, sizeof(far));
    memset(c->gpr, 0, sizeof(c->gpr));
    c->gpr[X86_RAX] = 0x1122334455667788;
    c->gpr[X86_RDI] = x;
    c->gpr[X86_RSP] = a->stack ? x : DATA_RW + 0x1800;
    c->gpr[X86_RBX] = cs;
    c->gpr[X86_RDX] = kernel ? 0 : USER_DS;
    if (a->code[1] == 0x0f && a->code[2] == 0xc7) /* what it compares with is there */
        c->gpr[X86_RAX] = c->gpr[X86_RDX] = 0xcccccccccccccccc;
    c->gpr[X86_R8] = DATA_RW + 0x1000;
    c->gpr[X86_R9] = 0x202;
    c->rip = CODE_AT;
    x86_set_rflags(c, 0x202);
    c->cr2 = 0;
    x86_fpu_reset(c);
    put16(c->fpu.raw, 0x37f);
    mirror_segments(c, cs);
    for (unsigned i = 0; i < X86_NSEG; i++)
        if (i != X86_CS && i != X86_SS)
            c->seg[i].sel = 0;
    c->seg[X86_FS].base = c->seg[X86_GS].base = x;
    const struct x86_dtr gdtr = c->gdtr, idtr = c->idtr;

    mirror_run(m, o);
    c->gdtr = gdtr;
    c->idtr = idtr;
    if (o->vector == X86_BP) {
        o->vector = -1;
        o->s.rip--;
    }
}

static bool canonical(uint64_t x) { return (uint64_t)((int64_t)(x << 16) >> 16) == x; }

static void one(enum way w, const struct attack *a, const struct target *t)
{
    const bool kernel = w == INTERP_KERNEL || w == TRANSLATE_KERNEL;
    const uint64_t x = t->at;
    uint8_t before[64], *host = (uint8_t *)(uintptr_t)x;
    struct outcome o = {.vector = -1};
    const char *wrong = NULL;

    if ((a->cpl0_only && !kernel) || (a->cpl3_only && kernel))
        return;
    which = guests[w].engine;
    if (t->readable)
        memcpy(before, host, sizeof(before));
    run(w, a, x, &o);
    if (a->kind == NONE)
        wrong = o.vector == -1 ? NULL : "it faults";
    else if (!canonical(x)) /* jumps and returns: when they are taken */
        wrong = o.vector == X86_GP || (a->stack && o.vector == X86_SSF) || (a->name[0] == 'L' && a->name[1] == 'E' && o.vector == X86_SSF) ? NULL : "no #GP";
    else if (o.vector != X86_PF || o.err != ((unsigned)a->kind | (kernel ? 0u : 4u)))
        wrong = "not the right fault";
    else if ((w == DIRECT ? (o.cr2 ^ (x + (uint64_t)a->off)) >> 12 : o.cr2 ^ (x + (uint64_t)a->off)) || /* which byte is the processor's choice */
             o.s.rip != (a->kind == FETCH ? x : CODE_AT + a->at))
        wrong = "a fault at another place";
    if (wrong)
        fail_msg("%s, %s, %s (%llx): %s: vector %d error %x cr2 %llx rip %llx", way_name[w], a->name, t->name, (unsigned long long)x, wrong, o.vector, o.err,
                 (unsigned long long)o.cr2, (unsigned long long)o.s.rip);
    if (!canonical(x) || !(x >> 39 & 511))
        return;
    /* Now there is something, of the guest. */
    map(guests[w].m, x, true);
    const uint8_t *own = guests[w].m->vm->ram + PAGE_GPA + (x & 0xfff);
    run(w, a, x, &o);
    if (a->kind == WRITE && o.vector == -1 && own[a->off] == 0xcc && own[a->off + 1] == 0xcc && own[a->off + 32] == 0xcc)
        wrong = "the guest's page is as it was";
    if (a->kind == WRITE && o.vector != -1)
        wrong = "it faults";
    if (a->kind == FETCH && (o.vector != -1 || o.s.rip != x))
        wrong = "it does not run there";
    if (a->kind == READ && o.vector == -1 && !a->stack && (a->code[0] == 0x8a) && (o.s.gpr[X86_RAX] & 0xff) != 0xcc)
        wrong = "it reads something else";
    if (a->kind == READ && o.vector == X86_PF && o.cr2 - (x & ~0xfffull) < 4096)
        wrong = "it faults";
    if (wrong)
        fail_msg("%s, %s, %s (%llx), mapped: %s: vector %d error %x cr2 %llx rip %llx", way_name[w], a->name, t->name, (unsigned long long)x, wrong, o.vector, o.err,
                 (unsigned long long)o.cr2, (unsigned long long)o.s.rip);
    map(guests[w].m, x, false);
    if (t->readable && memcmp(before, host, sizeof(before)))
        fail_msg("%s, %s, %s (%llx): the monitor's memory has changed", way_name[w], a->name, t->name, (unsigned long long)x);
}

static void attack_all(void **state)
{
    (void)state;
    native_take_signals(false);
    for (enum way w = INTERP; w < WAYS; w++)
        for (unsigned i = 0; i < ntargets; i++)
            for (unsigned k = 0; k < sizeof(attacks) / sizeof(attacks[0]); k++)
                one(w, &attacks[k], &targets[i]);
}

static void add_guest(enum way w, enum way same_as, const struct engine_ops *engine, enum engine_user_code user_code)
{
    which = guests[w].engine = engine;
    guests[w].m = same_as == w ? im_new_as(1, user_code) : guests[same_as].m;
    if (same_as == w)
        mirror_setup(guests[w].m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(attack_all)};
    static _Alignas(64) uint8_t statics[128];
    _Alignas(64) uint8_t locals[128] = {1, 2, 3};
    uint8_t *heap = aligned_alloc(4096, 8192), *own = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int r;

    native_init();
    add_guest(INTERP, INTERP, &engine_interp, USER_CODE_AUTO);
    add_guest(INTERP_KERNEL, INTERP, &engine_interp, USER_CODE_AUTO);
    add_guest(TRANSLATE, TRANSLATE, &engine_translate, USER_CODE_TRANSLATED);
    add_guest(TRANSLATE_KERNEL, TRANSLATE, &engine_translate, USER_CODE_TRANSLATED);
    add_guest(DIRECT, DIRECT, &engine_translate, USER_CODE_DIRECT);

    for (unsigned i = 0; i < 2; i++) { /* the monitor of translated code, and of direct execution */
        struct vcpu *v = guests[i ? DIRECT : TRANSLATE].m->v;
        const struct translate *x = v->engine_priv;

        target("a processor's state", (void *)((uintptr_t)&v->cpu & ~63ul), false);
        target("the tables below it", (void *)((uintptr_t)v - 0x1000), false);
        target("translated code, to execute", x->rx, true);
        target("translated code, to write", x->rw, true);
        target("descriptions of blocks", x->arena, true);
        target("guest RAM", v->vm->ram, true);
        target("guest RAM's page of code", v->vm->ram + (GPA_OF(CODE_AT) & ~0xffful) - 4096, true);
        target("the last of guest RAM", v->vm->ram + v->vm->ram_size - 4096, true);
        target("words on pages", v->vm->ram_flags, false);
    }
    memset(heap, 0x5a, 8192);
    target("heap", heap, true);
    target("a mapping", own, true);
    target("the program's data", statics, true);
    target("the stack", locals, true);
    target("the program", (void *)((uintptr_t)&main & ~63ul), true);
    target("the C library", (void *)((uintptr_t)&memcpy & ~63ul), true);
    target("the vDSO", (void *)(uintptr_t)getauxval(AT_SYSINFO_EHDR), true);
    target("the host's vsyscall page", (void *)0xffffffffff600000ul, false);
    target("the host's kernel", (void *)0xffff888000000000ul, false);
    target("what is not canonical", (void *)(0x0001000000000000ul | ((uintptr_t)own & ~0xfffful)), false);
    target("what is not canonical, from the other side", (void *)(0xffff000000000000ul | ((uintptr_t)own & 0x7ffffffff000ul)), false);
    r = cmocka_run_group_tests(tests, NULL, NULL);
    for (enum way w = INTERP; w < WAYS; w++) {
        which = guests[w].engine;
        if (w == INTERP || w == TRANSLATE || w == DIRECT)
            im_free(guests[w].m);
    }
    free(heap);
    return r;
}
