/* Engine kvm on a KVM that works (status 77 where none does): state, accesses, kicks, the dirty log, doorbells. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/irq.h"
#include "engine/kvm/probe.h"
#include "ringer/vm.h"
#include "x86/cpuid.h"

#define CODE 0x1000u
#define HOLE 0xa0000u /* no memory: accesses exit */

static struct vm *make(enum engine_irqchip irqchip, const char *code, size_t n)
{
    char err[200] = "";
    struct vm_config cfg = {.ram_size = 1 << 20, .ncpu = 1, .engine = &engine_kvm, .engine_cfg = {.irqchip = irqchip}};
    struct vm *vm = vm_new(&cfg, err, sizeof(err));
    assert_non_null(vm);
    assert_int_equal(vm_engine_init(vm, err, sizeof(err)), 0);
    vm->cpuid = x86_cpuid_new(&(struct x86_cpuid_config){.ncpu = 1, .tsc_khz = vm->tsc_khz, .kvm_leaves = true});
    assert_non_null(vm->cpuid);
    vm->cpu[0] = vcpu_new(vm, 0);
    assert_non_null(vm->cpu[0]);
    assert_int_equal(vm_irq_attach(vm, &(struct vm_irq_config){.phys_bits = 40, .ioapic_id = 1}), 0);
    assert_int_equal(gpa_del(vm->mem, HOLE, 0x10000), 0);
    memcpy(vm->ram + CODE, code, n);
    struct x86_cpu *c = &vm->cpu[0]->cpu;
    c->seg[X86_CS] = (struct x86_seg){.limit = 0xffff, .ar = 0x9b};
    c->rip = CODE;
    c->activity = X86_RUNNING;
    x86_recompute(c);
    assert_int_equal(vm->engine->vm_start(vm), 0);
    assert_int_equal(vm->engine->vcpu_init(vm->cpu[0]), 0);
    return vm;
}
#define MAKE(code) make(IRQCHIP_USER, code, sizeof(code) - 1)

static void drop(struct vm *vm)
{
    vm->engine->vcpu_fini(vm->cpu[0]);
    vm_irq_detach(vm);
    vm_free(vm);
}

static enum vcpu_exit_kind run(struct vm *vm, struct vcpu_exit *e)
{
    vcpu_enter_guest(vm->cpu[0]);
    vm->engine->run(vm->cpu[0], e);
    vcpu_leave_guest(vm->cpu[0]);
    if (e->kind == EXIT_FAIL)
        fail_msg("%s", e->fail.why);
    return e->kind;
}

/* The next access; kicks left over from settling do not count. */
static void expect_io(struct vm *vm, struct vcpu_exit *e, bool mmio, bool write, uint64_t addr, unsigned size)
{
    while (run(vm, e) == EXIT_KICK)
        ;
    assert_int_equal(e->kind, EXIT_IO);
    assert_int_equal(e->io.mmio, mmio);
    assert_int_equal(e->io.write, write);
    assert_int_equal(e->io.addr, addr);
    assert_int_equal(e->io.size, size);
}

static void expect_halt(struct vm *vm, struct vcpu_exit *e)
{
    while (run(vm, e) == EXIT_KICK)
        ;
    assert_int_equal(e->kind, EXIT_HLT);
}

/* mov al,5a; out 80,al; in al,81; mov [2000],al; hlt */
static void ports(void **s)
{
    struct vm *vm = MAKE("\xb0\x5a\xe6\x80\xe4\x81\xa2\x00\x20\xf4");
    struct vcpu_exit e;
    expect_io(vm, &e, false, true, 0x80, 1);
    assert_int_equal(e.io.data, 0x5a);
    expect_io(vm, &e, false, false, 0x81, 1);
    e.io.data = 0xc3;
    expect_halt(vm, &e);
    assert_int_equal(vm->ram[0x2000], 0xc3);
    drop(vm);
}

/* mov si,3000; mov cx,10; mov dx,80; cld; rep outsb; mov di,4000; mov cx,3; rep insw; hlt */
static void strings(void **s)
{
    struct vm *vm = MAKE("\xbe\x00\x30\xb9\x0a\x00\xba\x80\x00\xfc\xf3\x6e\xbf\x00\x40\xb9\x03\x00\xf3\x6d\xf4");
    struct vcpu_exit e;
    memcpy(vm->ram + 0x3000, "0123456789", 10);
    for (unsigned i = 0; i < 10; i++) {
        expect_io(vm, &e, false, true, 0x80, 1);
        assert_int_equal(e.io.data, '0' + i);
    }
    for (unsigned i = 0; i < 3; i++) {
        expect_io(vm, &e, false, false, 0x80, 2);
        e.io.data = 0x1100 + i;
    }
    expect_halt(vm, &e);
    uint16_t w[4];
    memcpy(w, vm->ram + 0x4000, 8);
    assert_int_equal(w[0], 0x1100);
    assert_int_equal(w[2], 0x1102);
    assert_int_equal(w[3], 0);
    drop(vm);
}

/* mov ax,a000; mov ds,ax; mov eax,[10]; mov [13],ax; hlt */
static void memory_accesses(void **s)
{
    struct vm *vm = MAKE("\xb8\x00\xa0\x8e\xd8\x66\xa1\x10\x00\xa3\x13\x00\xf4");
    struct vcpu_exit e;
    expect_io(vm, &e, true, false, HOLE + 0x10, 4);
    e.io.data = 0x44332211;
    /* misaligned: naturally aligned pieces */
    expect_io(vm, &e, true, true, HOLE + 0x13, 1);
    assert_int_equal(e.io.data, 0x11);
    expect_io(vm, &e, true, true, HOLE + 0x14, 1);
    assert_int_equal(e.io.data, 0x22);
    expect_halt(vm, &e);
    assert_int_equal(vm->engine->state_pull(vm->cpu[0], STATE_GPR), 0);
    assert_int_equal(vm->cpu[0]->cpu.gpr[X86_RAX], 0x44332211);
    drop(vm);
}

/* Pulling state while an access is with us performs it (nothing answers here) and stops at the boundary behind it. */
static void pull_in_mid_instruction(void **s)
{
    struct vm *vm = MAKE("\xb0\x5a\xe4\x81\xa2\x00\x20\xf4"); /* mov al,5a; in al,81; mov [2000],al; hlt */
    struct vcpu_exit e;
    struct vcpu *v = vm->cpu[0];
    expect_io(vm, &e, false, false, 0x81, 1);
    assert_int_equal(vm->engine->state_pull(v, STATE_ALL), 0);
    assert_int_equal(v->cpu.rip, CODE + 4);
    assert_int_equal(v->cpu.gpr[X86_RAX] & 0xff, 0xff);
    v->cpu.gpr[X86_RAX] = 0x77;
    assert_int_equal(vm->engine->state_push(v, STATE_GPR), 0);
    expect_halt(vm, &e);
    assert_int_equal(vm->ram[0x2000], 0x77);
    drop(vm);
}

static void state_round_trip(void **s)
{
    struct vm *vm = MAKE("\xf4");
    struct vcpu *v = vm->cpu[0];
    struct x86_cpu *c = &v->cpu;
    uint64_t gpr[16];
    uint8_t xmm[256];
    for (unsigned i = 0; i < 16; i++)
        gpr[i] = c->gpr[i] = 0x0123456789abcdefull * (i + 1);
    for (unsigned i = 0; i < 256; i++)
        xmm[i] = ((uint8_t *)c->fpu.xmm)[i] = (uint8_t)(i * 7);
    c->fpu.fcw = 0x27f;
    c->fpu.mxcsr = 0x1fa0;
    c->lstar = 0xffffffff81234567;
    c->star = 0x23001000000000;
    c->kernel_gs_base = 0xffff888000001000;
    c->pat = 0x0407050600070106;
    c->mtrr_deftype = 0xc06;
    c->mtrr_fix[3] = 0x0505050505050505;
    c->dr[1] = 0x1234;
    c->nmi_blocked = true;
    c->idtr = (struct x86_dtr){0x9000, 0x3ff};
    c->seg[X86_ES].base = 0x54320;
    c->seg[X86_ES].sel = 0x5432;
    x86_set_rflags(c, 0xa93);
    assert_int_equal(vm->engine->state_push(v, STATE_ALL), 0);
    memset(c->gpr, 0, sizeof(c->gpr));
    memset(c->fpu.raw, 0, sizeof(c->fpu.raw));
    c->lstar = c->star = c->kernel_gs_base = c->pat = c->mtrr_deftype = c->mtrr_fix[3] = c->dr[1] = c->rip = 0;
    c->nmi_blocked = false;
    memset(&c->seg[X86_ES], 0, sizeof(c->seg[X86_ES]));
    memset(&c->idtr, 0, sizeof(c->idtr));
    x86_set_rflags(c, 2);
    assert_int_equal(vm->engine->state_pull(v, STATE_ALL), 0);
    assert_memory_equal(c->gpr, gpr, sizeof(gpr));
    assert_memory_equal(c->fpu.xmm, xmm, sizeof(xmm));
    assert_int_equal(c->fpu.fcw, 0x27f);
    assert_int_equal(c->fpu.mxcsr, 0x1fa0);
    assert_int_equal(c->rip, CODE);
    assert_int_equal(x86_get_rflags(c), 0xa93);
    assert_true(c->lstar == 0xffffffff81234567 && c->star == 0x23001000000000 &&
                c->kernel_gs_base == 0xffff888000001000);
    assert_true(c->pat == 0x0407050600070106 && c->mtrr_deftype == 0xc06 && c->mtrr_fix[3] == 0x0505050505050505);
    assert_true(c->dr[1] == 0x1234 && c->nmi_blocked && c->idtr.base == 0x9000 && c->idtr.limit == 0x3ff);
    assert_true(c->seg[X86_ES].base == 0x54320 && c->seg[X86_ES].sel == 0x5432 && c->seg[X86_ES].limit == 0xffff);
    drop(vm);
}

/* --- kicks ------------------------------------------------------------------------------- */

static void kick_before(void **s)
{
    struct vm *vm = MAKE("\xeb\xfe"); /* jmp . */
    struct vcpu_exit e;
    for (int i = 0; i < 50; i++) {
        vm->engine->kick(vm->cpu[0]);
        assert_int_equal(run(vm, &e), EXIT_KICK);
    }
    drop(vm);
}

#define KICKS 300
static void kicker(void *arg)
{
    struct vm *vm = arg;
    struct vcpu *v = vm->cpu[0];
    for (unsigned i = 0; i < KICKS; i++) {
        /* The next one only when this one was seen: a lost one hangs the test. */
        vcpu_request(v, VREQ_DEBUG);
        while (vcpu_requests(v) & VREQ_DEBUG)
            usleep(i % 7 * 20);
    }
    vcpu_request(v, VREQ_STOP);
}

static void no_kick_is_lost(void **s)
{
    struct vm *vm = MAKE("\xeb\xfe");
    struct vcpu *v = vm->cpu[0];
    struct vcpu_exit e;
    unsigned seen = 0;
    struct host_thread *t = host_thread_start("kicker", kicker, vm);
    alarm(120);
    do {
        assert_int_equal(run(vm, &e), EXIT_KICK);
        if (atomic_fetch_and(&v->requests, ~(uint32_t)VREQ_DEBUG) & VREQ_DEBUG)
            seen++;
    } while (!(vcpu_requests(v) & VREQ_STOP));
    alarm(0);
    host_thread_join(t);
    assert_int_equal(seen, KICKS);
    drop(vm);
}

/* --- dirty log, doorbells ------------------------------------------------------------------- */

static bool bit(const uint64_t *m, unsigned page)
{
    return m[page / 64] >> (page % 64) & 1;
}

/* 1: mov byte [5000],1; mov byte [8000],1; out 80,al; jmp 1b */
static void dirty_log(void **s)
{
    struct vm *vm = MAKE("\xc6\x06\x00\x50\x01\xc6\x06\x00\x80\x01\xe6\x80\xeb\xf2");
    struct vcpu_exit e;
    uint64_t m[4] = {0};
    expect_io(vm, &e, false, true, 0x80, 1); /* not logged yet */
    assert_int_equal(vm->engine->dirty_log(vm, true), 0);
    assert_int_equal(vm->engine->dirty_fetch(vm, m), 0);
    memset(m, 0, sizeof(m));
    expect_io(vm, &e, false, true, 0x80, 1);
    assert_int_equal(vm->engine->dirty_fetch(vm, m), 0);
    assert_true(bit(m, 5) && bit(m, 8));
    assert_false(bit(m, 6) || bit(m, 4) || bit(m, 100));
    memset(m, 0, sizeof(m));
    assert_int_equal(vm->engine->dirty_fetch(vm, m), 0);
    assert_false(bit(m, 5) || bit(m, 8));
    expect_io(vm, &e, false, true, 0x80, 1);
    assert_int_equal(vm->engine->dirty_fetch(vm, m), 0);
    assert_true(bit(m, 5) && bit(m, 8));
    assert_int_equal(vm->engine->dirty_log(vm, false), 0);
    drop(vm);
}

static bool rung(int fd)
{
    uint64_t n;
    return read(fd, &n, sizeof(n)) == (ssize_t)sizeof(n);
}

/* mov ax,a000; mov ds,ax; 1: mov [20],al; mov [20],ax; out 80,al; jmp 1b */
static void doorbells(void **s)
{
    struct vm *vm = MAKE("\xb8\x00\xa0\x8e\xd8\xa2\x20\x00\xa3\x20\x00\xe6\x80\xeb\xf6");
    struct vcpu_exit e;
    int fd = eventfd(0, EFD_NONBLOCK);
    assert_int_equal(vm->engine->doorbell(vm, HOLE + 0x20, fd, true), 0);
    expect_io(vm, &e, false, true, 0x80, 1); /* both writes went to the bell */
    assert_true(rung(fd));
    assert_false(rung(fd));
    assert_int_equal(vm->engine->doorbell(vm, HOLE + 0x20, fd, false), 0);
    expect_io(vm, &e, true, true, HOLE + 0x20, 1);
    expect_io(vm, &e, true, true, HOLE + 0x20, 2);
    expect_io(vm, &e, false, true, 0x80, 1);
    assert_false(rung(fd));
    close(fd);
    drop(vm);
}

/* --- memory slots, kinds of interrupt controllers, triple fault ------------------------------- */

/* mov ax,a000; mov ds,ax; mov al,[0]; out 80,al; mov al,[0]; out 80,al */
static void map_changes(void **s)
{
    struct vm *vm = MAKE("\xb8\x00\xa0\x8e\xd8\xa0\x00\x00\xe6\x80\xa2\x00\x00\xa0\x00\x00\xe6\x80");
    struct vcpu_exit e;
    expect_io(vm, &e, true, false, HOLE, 1);
    e.io.data = 0x42;
    expect_io(vm, &e, false, true, 0x80, 1);
    assert_int_equal(e.io.data, 0x42);
    /* A read-only copy of another page comes there: read directly, written through an exit that changes nothing. */
    struct gpa_map *m = gpa_begin(vm->mem, vm->mem->limit);
    struct gpa_range r = {.start = HOLE,
                          .size = 0x1000,
                          .kind = GPA_ROM,
                          .host = vm->ram + 0x9000,
                          .page_flags = vm->ram_flags + 9,
                          .name = "rom"};
    assert_int_equal(gpa_add(m, &r), 0);
    vm->ram[0x9000] = 0x99;
    vm_set_map(vm, m);
    expect_io(vm, &e, true, true, HOLE, 1);
    expect_io(vm, &e, false, true, 0x80, 1);
    assert_int_equal(e.io.data, 0x99);
    assert_int_equal(vm->ram[0x9000], 0x99);
    drop(vm);
}

static void irqchips(void **s)
{
    static const struct {
        enum engine_irqchip want;
        enum vm_intc_kind got;
    } t[] = {{IRQCHIP_DEFAULT, VM_INTC_ENGINE},
             {IRQCHIP_KERNEL, VM_INTC_ENGINE},
             {IRQCHIP_SPLIT, VM_INTC_SPLIT},
             {IRQCHIP_USER, VM_INTC_OURS}};
    for (unsigned i = 0; i < 4; i++) {
        struct vm *vm = make(t[i].want, "\xe6\x80\xf4", 3);
        struct vcpu_exit e;
        assert_int_equal(vm->intc_kind, t[i].got);
        expect_io(vm, &e, false, true, 0x80, 1);
        assert_int_equal(vm->engine->state_pull(vm->cpu[0], STATE_ALL), 0);
        /* A second start, as after a reset. */
        assert_int_equal(vm->engine->vm_start(vm), 0);
        drop(vm);
    }
}

/* lidt [2000] (zeros: no IDT); int3 */
static void triple_fault(void **s)
{
    struct vm *vm = MAKE("\x0f\x01\x1e\x00\x20\xcc");
    struct vcpu_exit e;
    while (run(vm, &e) == EXIT_KICK)
        ;
    assert_int_equal(e.kind, EXIT_SHUTDOWN);
    drop(vm);
}

int main(void)
{
    char why[200];
    if (kvm_probe(NULL, why, sizeof(why)) != 0) {
        printf("SKIPPED: %s\n", why);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports),
        cmocka_unit_test(strings),
        cmocka_unit_test(memory_accesses),
        cmocka_unit_test(pull_in_mid_instruction),
        cmocka_unit_test(state_round_trip),
        cmocka_unit_test(kick_before),
        cmocka_unit_test(no_kick_is_lost),
        cmocka_unit_test(dirty_log),
        cmocka_unit_test(doorbells),
        cmocka_unit_test(map_changes),
        cmocka_unit_test(irqchips),
        cmocka_unit_test(triple_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
