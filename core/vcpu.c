/* A virtual CPU's life: requests, safe points, interrupt delivery, bus accesses, and the thread that drives its engine. */
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "ringer/vm.h"
#include "x86/exec.h"

static struct vcpu *env_vcpu(void *env)
{
    return env;
}

/* --- what the x86 layer asks of its surroundings --- */

static uint64_t env_tsc(void *env)
{
    struct vm *vm = env_vcpu(env)->vm;
    return tsc_from_ns(vm->tsc, clock_now(vm->clock));
}

static void env_io(void *env, struct x86_io *io)
{
    vcpu_io(env_vcpu(env), io);
}

static int env_rdmsr(void *env, uint32_t msr, uint64_t *val)
{
    struct vcpu *v = env_vcpu(env);
    if (v->vm->intc.rdmsr && v->vm->intc.rdmsr(v, msr, val) == 0)
        return X86_OK;
    return x86_raise_err(&v->cpu, X86_GP, 0);
}

static int env_wrmsr(void *env, uint32_t msr, uint64_t val)
{
    struct vcpu *v = env_vcpu(env);
    if (v->vm->intc.wrmsr && v->vm->intc.wrmsr(v, msr, val) == 0)
        return X86_OK;
    return x86_raise_err(&v->cpu, X86_GP, 0);
}

static uint64_t env_cr8_read(void *env)
{
    struct vcpu *v = env_vcpu(env);
    return v->vm->intc.cr8_read ? v->vm->intc.cr8_read(v) : 0;
}

static void env_cr8_write(void *env, uint64_t val)
{
    struct vcpu *v = env_vcpu(env);
    if (v->vm->intc.cr8_write)
        v->vm->intc.cr8_write(v, val);
}

static void env_code_write(void *env, uint64_t gpa, uint32_t len)
{
    struct vcpu *v = env_vcpu(env);
    vm_ram_written(v->vm, v, gpa, len);
}

static void env_exclusive_begin(void *env)
{
    struct vcpu *v = env_vcpu(env);
    vm_exclusive_begin(v->vm, v);
}

static void env_exclusive_end(void *env)
{
    struct vcpu *v = env_vcpu(env);
    vm_exclusive_end(v->vm, v);
}

static bool env_random(void *env, uint64_t *val)
{
    const struct vm *vm = env_vcpu(env)->vm;
    return (vm->random ? vm->random(vm->random_ctx, val, sizeof(*val)) : host_random(val, sizeof(*val))) == 0;
}

static void env_tsc_changed(void *env)
{
    struct vcpu *v = env_vcpu(env);
    if (v->vm->intc.tsc_changed)
        v->vm->intc.tsc_changed(v);
}

static void env_ferr(void *env)
{
    struct vcpu *v = env_vcpu(env);
    if (v->vm->ferr)
        v->vm->ferr(v);
}

static void env_event(void *env, const struct x86_exc *exc)
{
    struct vcpu *v = env_vcpu(env);
    v->events++;
    if (exc->kind == X86_EXC_EXTINT)
        v->interrupts[exc->vector]++;
    else if (exc->vector < 32 && exc->kind != X86_EXC_SOFT) {
        v->exceptions[exc->vector]++;
        x86_count_trap(&v->cpu, 0, v->cpu.rip, X86_SITE_EXC + exc->vector);
    }
    struct vm_trace *t = v->vm->trace;
    if (t && t->event)
        t->event(t, v, exc);
}

static const struct x86_env_ops vcpu_env_ops = {
    .tsc = env_tsc,
    .io = env_io,
    .rdmsr = env_rdmsr,
    .wrmsr = env_wrmsr,
    .cr8_read = env_cr8_read,
    .cr8_write = env_cr8_write,
    .code_write = env_code_write,
    .exclusive_begin = env_exclusive_begin,
    .exclusive_end = env_exclusive_end,
    .random = env_random,
    .tsc_changed = env_tsc_changed,
    .event = env_event,
    .ferr = env_ferr,
};

/* --- life --- */

#define VCPU_SIZE ((sizeof(struct vcpu) + 0xfff) & ~(size_t)0xfff)
static void vcpu_release(struct vcpu *v) { host_ram_free((uint8_t *)v - VCPU_ROOM, VCPU_ROOM + VCPU_SIZE, -1); }

struct vcpu *vcpu_new(struct vm *vm, unsigned index)
{
    uint8_t *room = host_ram_alloc(VCPU_ROOM + VCPU_SIZE, NULL);
    if (!room)
        return NULL;
    struct vcpu *v = (struct vcpu *)(void *)(room + VCPU_ROOM);
    v->vm = vm;
    v->index = index;
    v->engine = vm->engine;
    v->paced = vm->counter != NULL;
    v->wake = host_event_new();
    if (!v->wake || x86_fpu_init(&v->cpu) != 0) {
        host_event_free(v->wake);
        vcpu_release(v);
        return NULL;
    }
    v->cpu.ops = &vcpu_env_ops;
    v->cpu.env = v;
    v->cpu.cpuid = vm->cpuid;
    v->cpu.apic_id = index;
    v->cpu.is_bsp = index == 0;
    x86_mmu_init(&v->cpu, vm->mem, index);
    x86_reset(&v->cpu, false);
    return v;
}

void vcpu_free(struct vcpu *v)
{
    if (!v)
        return;
    x86_fpu_fini(&v->cpu);
    host_event_free(v->wake);
    vcpu_release(v);
}

/* --- requests --- */

void vcpu_request(struct vcpu *v, uint32_t bits)
{
    uint32_t old = atomic_fetch_or(&v->requests, bits);
    if ((old & bits) == bits && !atomic_load(&v->sleeping))
        return;
    if (atomic_load(&v->sleeping)) {
        host_event_set(v->wake);
    } else if (v->engine && v->engine->kick) {
        atomic_fetch_add(&v->kickers, 1);
        if (atomic_load(&v->in_guest))
            v->engine->kick(v);
        atomic_fetch_sub(&v->kickers, 1);
    }
}

/* Outside the guest: nobody begins a kick any more, and those that have begun end soon. */
static void wait_for_kickers(struct vcpu *v)
{
    while (atomic_load(&v->kickers))
        host_event_wait(v->wake, host_now() + 50000);
}

static bool own_intc(const struct vcpu *v)
{
    return v->vm->intc_kind != VM_INTC_OURS;
}

static bool irq_pending(const struct vcpu *v)
{
    return v->vm->intc.pending && v->vm->intc.pending((struct vcpu *)v);
}

/* An NMI or interrupt that would be taken now: what ends HLT. */
static bool wakes(const struct vcpu *v)
{
    if (((vcpu_requests(v) & VREQ_NMI) || v->nmi_pending) && !v->cpu.nmi_blocked)
        return true;
    return (v->cpu.fl_sys & X86_FL_IF) && irq_pending(v);
}

bool vcpu_has_work(const struct vcpu *v)
{
    uint32_t r = vcpu_requests(v);
    if (r & (VREQ_STOP | VREQ_INIT | VREQ_DEBUG))
        return true;
    if (v->cpu.activity == X86_WAIT_SIPI)
        return r & VREQ_SIPI;
    if (v->cpu.activity == X86_SHUTDOWN)
        return false;
    return wakes(v);
}

int vcpu_poll(struct vcpu *v)
{
    struct x86_cpu *c = &v->cpu;
    for (;;) {
        uint32_t r = atomic_load(&v->requests);
        if (r & (VREQ_STOP | VREQ_INIT | VREQ_SIPI | VREQ_DEBUG))
            return X86_EXIT;
        if (r & VREQ_SAFEPOINT) {
            atomic_fetch_and(&v->requests, ~VREQ_SAFEPOINT);
            vcpu_leave_guest(v);
            vcpu_enter_guest(v);
            continue;
        }
        if (r & VREQ_TLB) {
            atomic_fetch_and(&v->requests, ~VREQ_TLB);
            c->mmu.map = v->vm->mem;
            x86_tlb_flush_all(c);
            continue;
        }
        if (r & VREQ_HALT) { /* before events: they end it */
            atomic_fetch_and(&v->requests, ~VREQ_HALT);
            c->activity = X86_HALTED;
            return X86_EXIT;
        }
        if (r & VREQ_NMI) {
            atomic_fetch_and(&v->requests, ~VREQ_NMI);
            if (!x86_nmi_allowed(c)) {
                v->nmi_pending = true;
                continue;
            }
            return x86_nmi(c) == X86_OK ? X86_OK : X86_FAULT;
        }
        if (r & VREQ_INTR) {
            /* Clear before looking: what arrives later sets it again. */
            atomic_fetch_and(&v->requests, ~VREQ_INTR);
            v->irq_waiting = false;
            if (own_intc(v) || !irq_pending(v))
                continue;
            if (!x86_irq_allowed(c)) {
                v->irq_waiting = true;
                continue;
            }
            int vec = v->vm->intc.ack(v);
            if (vec < 0)
                continue;
            v->irq_waiting = irq_pending(v);
            return x86_interrupt(c, (uint8_t)vec) == X86_OK ? X86_OK : X86_FAULT;
        }
        return X86_OK;
    }
}

/* --- safe points --- */

void vcpu_leave_guest(struct vcpu *v)
{
    atomic_store(&v->in_guest, false);
    if (atomic_load(&v->vm->excl_wanted)) {
        host_lock(v->vm->excl_lock);
        host_cond_broadcast(v->vm->excl_cond);
        host_unlock(v->vm->excl_lock);
    }
}

static bool held(const struct vcpu *v)
{
    return atomic_load(&v->vm->parked) && !(atomic_load(&v->requests) & VREQ_STOP);
}

static void wait_parked(struct vcpu *v)
{
    uint64_t t0 = host_now();
    for (;;) {
        atomic_store(&v->sleeping, true);
        if (!held(v))
            break;
        host_event_wait(v->wake, UINT64_MAX);
    }
    atomic_store(&v->sleeping, false);
    v->parked_ns += host_now() - t0;
}

void vcpu_enter_guest(struct vcpu *v)
{
    struct vm *vm = v->vm;
    for (;;) {
        atomic_store(&v->in_guest, true);
        if (!atomic_load(&vm->excl_wanted) && !held(v))
            return;
        atomic_store(&v->in_guest, false);
        host_lock(vm->excl_lock);
        host_cond_broadcast(vm->excl_cond);
        while (atomic_load(&vm->excl_wanted))
            host_cond_wait(vm->excl_cond, vm->excl_lock);
        host_unlock(vm->excl_lock);
        if (held(v))
            wait_parked(v);
    }
}

/* --- the bus --- */

static uint64_t ones(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

static void count(uint64_t *p)
{
    __atomic_fetch_add(p, 1, __ATOMIC_RELAXED);
}

/* What answers at the access's first byte: a copy, as the map may be replaced as soon as guest state is left. */
static bool io_range(struct vcpu *v, const struct x86_io *io, struct gpa_range *r)
{
    const struct gpa_range *f = gpa_find(io->mmio ? v->vm->mem : v->vm->pio, io->addr);
    if (!f || f->kind != GPA_IO)
        return false;
    *r = *f;
    return true;
}

/* One access that lies inside one range. Returns false if nothing answered. In guest state on entry and on return, but at a
 * safe point while the device lock is waited for and held: its holder may stop all vCPUs to change the map. */
static bool range_io(struct vcpu *v, const struct gpa_range *r, struct x86_io *io)
{
    struct dev *d = r->dev;
    if (r->percpu) {
        if (!v->lapic || v->vm->intc.local_page(v) != r->start)
            return false;
        d = v->lapic;
    }
    uint64_t off = io->addr - r->start + r->host_off, val = 0;
    int res;
    if (r->counters)
        count(&r->counters[io->write]);
    if (!r->nolock) {
        vcpu_leave_guest(v);
        host_lock(v->vm->device_lock);
    }
    if (io->write)
        res = d->ops->write ? d->ops->write(d, r->bank, off, io->size, io->data & ones(io->size)) : DEV_UNMAPPED;
    else
        res = d->ops->read ? d->ops->read(d, r->bank, off, io->size, &val) : DEV_UNMAPPED;
    if (!r->nolock) {
        host_unlock(v->vm->device_lock);
        vcpu_enter_guest(v);
    }
    if (res == DEV_ERROR) {
        vm_log(v->vm, "device %s failed", d->ops->name);
        vm_request_end(v->vm, VM_END_ERROR, 0);
    }
    if (res == DEV_HALT)
        atomic_fetch_or(&v->requests, VREQ_HALT);
    if (!io->write)
        io->data = res == DEV_OK ? val & ones(io->size) : ones(io->size);
    return res != DEV_UNMAPPED;
}

/* An access wider than what answers is split into bytes, as the bus does. */
static void split_io(struct vcpu *v, struct x86_io *io)
{
    uint64_t data = io->write ? io->data : 0;
    for (unsigned i = 0; i < io->size; i++) {
        struct x86_io b = {.addr = io->addr + i, .size = 1, .write = io->write, .mmio = io->mmio, .data = data >> (8 * i) & 0xff};
        struct gpa_range r;
        if (io_range(v, &b, &r))
            range_io(v, &r, &b);
        else
            b.data = 0xff;
        if (!io->write)
            data |= (b.data & 0xff) << (8 * i);
    }
    io->data = data;
}

void vcpu_io(struct vcpu *v, struct x86_io *io)
{
    struct vm *vm = v->vm;
    uint64_t t0 = vm->timed ? host_now() - v->parked_ns : 0; /* not time held up on the way back */
    /* Device work under the exclusive section could wait for a lock whose holder waits for the section. A locked access
     * to a device has no atomicity to lose. */
    bool excl = v->exclusive, outside = !excl && !atomic_load_explicit(&v->in_guest, memory_order_relaxed);
    if (excl)
        vm_exclusive_end(vm, v);
    else if (outside) /* an exit served by the core: only in guest state does the map stay */
        vcpu_enter_guest(v);
    struct gpa_range r;
    bool found = io_range(v, io, &r), whole = found && io->addr - r.start + io->size <= r.size;
    if (!(whole && range_io(v, &r, io))) {
        if (found && io->size > 1 && (!whole || !io->mmio)) {
            split_io(v, io);
        } else {
            count(&vm->unmapped[(io->mmio ? 0 : 2) + io->write]);
            if (!io->write)
                io->data = ones(io->size);
        }
    }
    if (excl)
        vm_exclusive_begin(vm, v);
    else if (outside)
        vcpu_leave_guest(v);
    if (vm->timed)
        v->io_ns += host_now() - v->parked_ns - t0;
    struct vm_trace *t = vm->trace;
    if (t && t->io)
        t->io(t, v, io, found ? r.name : "unmapped");
}

/* --- the thread --- */

/* Wait until something makes the vCPU runnable. */
static void wait_for_work(struct vcpu *v)
{
    uint64_t t0 = host_now();
    for (;;) {
        atomic_store(&v->sleeping, true);
        if (vcpu_has_work(v))
            break;
        host_event_wait(v->wake, UINT64_MAX);
        /* Bits that need no waking (safe point, TLB) are handled on entry. */
    }
    atomic_store(&v->sleeping, false);
    v->halted_ns += host_now() - t0;
}

static void handle_init_sipi(struct vcpu *v)
{
    uint32_t r = atomic_load(&v->requests);
    if (r & VREQ_INIT) {
        /* A SIPI that came before this INIT is lost with it; one that comes after finds us waiting. */
        atomic_fetch_and(&v->requests, ~VREQ_INIT);
        if (v->engine->state_pull) /* INIT keeps the floating-point state and MSRs */
            v->engine->state_pull(v, STATE_ALL);
        x86_reset(&v->cpu, true);
        v->nmi_pending = v->irq_waiting = false;
        if (v->vm->intc.reset)
            v->vm->intc.reset(v, true);
        v->cpu.activity = v->cpu.is_bsp ? X86_RUNNING : X86_WAIT_SIPI;
        if (v->engine->state_push)
            v->engine->state_push(v, STATE_ALL);
    }
    if (atomic_load(&v->requests) & VREQ_SIPI) {
        atomic_fetch_and(&v->requests, ~VREQ_SIPI);
        if (v->cpu.activity == X86_WAIT_SIPI) {
            x86_sipi(&v->cpu, atomic_load(&v->sipi_vector));
            v->cpu.activity = X86_RUNNING;
            if (v->engine->state_push)
                v->engine->state_push(v, STATE_ALL);
        }
    }
}

bool vcpu_exited(struct vcpu *v, struct vcpu_exit *e)
{
    struct vm *vm = v->vm;
    v->exits[e->kind & 15]++;
    if (vm->trace && vm->trace->exit)
        vm->trace->exit(vm->trace, v, e);
    switch (e->kind) {
    case EXIT_KICK:
    case EXIT_HLT:
    case EXIT_IRQ_WINDOW:
        return true;
    case EXIT_IO:
        vcpu_io(v, &e->io);
        return true;
    case EXIT_SHUTDOWN:
        v->cpu.activity = X86_SHUTDOWN;
        if (vm->no_reboot)
            vm_request_end(vm, VM_END_TRIPLE_FAULT, 0);
        else
            vm_request_reset(vm);
        return true;
    case EXIT_FAIL:
        vm_log(vm, "engine %s: cpu %u: %s", v->engine->name, v->index, e->fail.why);
        vm_request_end(vm, VM_END_ERROR, 0);
        return false;
    case EXIT_EMULATE:
    case EXIT_SWITCH:
    case EXIT_DEBUG:
        break;
    }
    vm_log(vm, "engine %s: cpu %u: exit %d has no handler", v->engine->name, v->index, (int)e->kind);
    vm_request_end(vm, VM_END_ERROR, 0);
    return false;
}

enum vcpu_next vcpu_next(struct vcpu *v)
{
    for (;;) {
        uint32_t r = atomic_load(&v->requests);
        if (r & VREQ_STOP)
            return VCPU_END;
        if (r & (VREQ_INIT | VREQ_SIPI)) {
            /* In guest state, since an exclusive section of another's may look at our TLB. */
            vcpu_enter_guest(v);
            handle_init_sipi(v);
            vcpu_leave_guest(v);
        }
        /* An engine with local APICs of its own halts and starts vCPUs by itself. */
        if (v->cpu.activity == X86_RUNNING || (own_intc(v) && v->cpu.activity != X86_SHUTDOWN))
            return VCPU_RUN;
        if (!vcpu_has_work(v))
            return VCPU_WAIT;
        if (v->cpu.activity == X86_HALTED && wakes(v)) {
            v->cpu.activity = X86_RUNNING;
            /* What woke us must be seen by the poll even if its request bit was consumed while it was held back. */
            v->irq_waiting = false;
            atomic_fetch_or(&v->requests, VREQ_INTR | (v->nmi_pending ? VREQ_NMI : 0));
            v->nmi_pending = false;
            return VCPU_RUN;
        }
    }
}

void vcpu_thread(void *arg)
{
    struct vcpu *v = arg;
    struct vm *vm = v->vm;
    struct vcpu_exit e = {.kind = EXIT_KICK};
    if (v->engine->vcpu_init && v->engine->vcpu_init(v) != 0) {
        vm_request_end(vm, VM_END_ERROR, 0);
        return;
    }
    for (;;) {
        const enum vcpu_next next = vcpu_next(v);
        if (next == VCPU_END)
            break;
        if (next == VCPU_WAIT) {
            wait_for_work(v);
            continue;
        }
        vcpu_enter_guest(v);
        v->engine->run(v, &e);
        vcpu_leave_guest(v);
        if (!vcpu_exited(v, &e))
            break;
    }
    wait_for_kickers(v);
    if (v->engine->vcpu_fini)
        v->engine->vcpu_fini(v);
}
