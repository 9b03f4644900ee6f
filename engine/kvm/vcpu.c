/* Running a vCPU: KVM_RUN, its exits, accesses to the bus, interrupts of ours. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "engine/kvm/kvm_sys.h"

#define MSR_APIC_BASE 0x1b

/* --- accesses ------------------------------------------------------------------------ */

static void begin_pio(struct kvm_vcpu *kv)
{
    struct kvm_run *run = kv->run;
    kv->io.addr = run->io.port;
    kv->io.data = (uint8_t *)run + run->io.data_offset;
    kv->io.left = (uint32_t)run->io.size * run->io.count;
    kv->io.step = run->io.size;
    kv->io.write = run->io.direction == KVM_EXIT_IO_OUT;
    kv->io.mmio = false;
}

static void begin_mmio(struct kvm_vcpu *kv)
{
    struct kvm_run *run = kv->run;
    kv->io.addr = run->mmio.phys_addr;
    kv->io.data = run->mmio.data;
    kv->io.left = run->mmio.len <= 8 ? run->mmio.len : 8;
    kv->io.step = 0;
    kv->io.write = run->mmio.is_write;
    kv->io.mmio = true;
}

/* The largest naturally aligned piece of a memory access. */
static uint8_t piece(uint64_t addr, uint32_t left)
{
    uint8_t n = 8;
    while (n > left || addr % n)
        n /= 2;
    return n;
}

/* Hand the next piece to the core; false if there is none. */
static bool next_piece(struct kvm_vcpu *kv, struct vcpu_exit *exit)
{
    if (!kv->io.left)
        return false;
    uint8_t size = kv->io.step ? kv->io.step : piece(kv->io.addr, kv->io.left);
    exit->kind = EXIT_IO;
    exit->io = (struct x86_io){.addr = kv->io.addr, .size = size, .write = kv->io.write, .mmio = kv->io.mmio};
    if (kv->io.write)
        memcpy(&exit->io.data, kv->io.data, size);
    kv->io.waiting = true;
    return true;
}

/* The core has performed the piece. */
static void take_piece(struct kvm_vcpu *kv, const struct vcpu_exit *exit)
{
    uint8_t size = exit->io.size;
    kv->io.waiting = false;
    if (!kv->io.write)
        memcpy(kv->io.data, &exit->io.data, size);
    kv->io.data += size;
    kv->io.left -= size;
    if (!kv->io.step)
        kv->io.addr += size;
}

void kvm_vcpu_settle(struct kvm_vcpu *kv, bool perform)
{
    struct vcpu_exit e = {.kind = EXIT_KICK};
    if (!kv->entered)
        return;
    kv->io.waiting = false;
    do {
        while (perform && next_piece(kv, &e)) {
            vcpu_io(kv->v, &e.io);
            take_piece(kv, &e);
        }
        if (kv->io.left && !kv->io.write)
            memset(kv->io.data, 0xff, kv->io.left);
        kv->io.left = 0;
        /* Returns at once, the instruction done; unless it has more accesses to make. */
        __atomic_store_n(&kv->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        if (kvm_sys_ioctl_val(kv->fd, KVM_RUN, 0) < 0)
            break;
        if (kv->run->exit_reason == KVM_EXIT_IO)
            begin_pio(kv);
        else if (kv->run->exit_reason == KVM_EXIT_MMIO)
            begin_mmio(kv);
    } while (kv->io.left);
    kv->entered = false;
}

/* --- interrupts of ours ------------------------------------------------------------------ */

/*
 * VM_INTC_OURS: local APIC; VM_INTC_SPLIT: 8259A. Give KVM what it can take now, else ask to be told when it can. With its own
 * local APIC KVM may say that it is ready while it still holds one: a KVM_RUN that a kick ended at once has not delivered it.
 * It refuses the next (EEXIST), which has been acknowledged and must not be lost: it goes first the next time.
 */
static void inject(struct kvm_vcpu *kv)
{
    struct vcpu *v = kv->v;
    struct vm *vm = v->vm;
    struct kvm_run *run = kv->run;
    run->request_interrupt_window = 0;
    if (kv->refused < 0 && !vm->intc.pending(v))
        return;
    if (run->ready_for_interrupt_injection) {
        int vec = kv->refused >= 0 ? kv->refused : vm->intc.ack(v);
        if (vec < 0)
            return;
        struct kvm_interrupt irq = {.irq = (uint32_t)vec};
        run->ready_for_interrupt_injection = 0;
        kv->refused = -1;
        if (kvm_sys_ioctl(kv->fd, KVM_INTERRUPT, &irq) < 0) {
            kv->refused = vec;
        } else {
            kv->injected++;
            v->interrupts[vec & 255]++;
        }
        if (kv->refused < 0 && !vm->intc.pending(v))
            return;
    }
    run->request_interrupt_window = 1;
}

/* VM_INTC_OURS: what the guest did to CR8 and IA32_APIC_BASE reaches our APIC. */
static void apic_out(struct kvm_vcpu *kv, uint64_t cr8)
{
    struct vcpu *v = kv->v;
    if (kv->run->cr8 != cr8)
        v->vm->intc.cr8_write(v, kv->run->cr8);
    if (kv->run->apic_base != kv->apic_base) {
        kv->apic_base = kv->run->apic_base;
        v->vm->intc.wrmsr(v, MSR_APIC_BASE, kv->apic_base);
    }
}

/* VM_INTC_OURS: the core decides by IF and NMI blocking when to wake. */
static void halted(struct kvm_vcpu *kv)
{
    struct vcpu *v = kv->v;
    struct kvm_vcpu_events e = {0};
    v->cpu.fl_sys = (v->cpu.fl_sys & ~(uint32_t)X86_FL_IF) | (kv->run->if_flag ? X86_FL_IF : 0);
    v->cpu.nmi_blocked = kvm_sys_ioctl(kv->fd, KVM_GET_VCPU_EVENTS, &e) == 0 && e.nmi.masked;
    v->cpu.activity = X86_HALTED;
}

/* --- requests ------------------------------------------------------------------------------ */

/* DEV_HALT. True: halted in the canonical state, the core waits. Else KVM does, on the next entry. */
static bool halt(struct kvm_vcpu *kv)
{
    struct vcpu *v = kv->v;
    if (v->vm->intc_kind == VM_INTC_OURS) {
        halted(kv);
        return true;
    }
    struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_HALTED};
    kvm_sys_ioctl(kv->fd, KVM_SET_MP_STATE, &mp);
    return false;
}

/* True: leave with EXIT_KICK. */
static bool serve(struct kvm_vcpu *kv)
{
    struct vcpu *v = kv->v;
    for (;;) {
        uint32_t r = atomic_load(&v->requests);
        if (r & (VREQ_STOP | VREQ_INIT | VREQ_SIPI | VREQ_DEBUG))
            return true;
        if (r & VREQ_SAFEPOINT) {
            atomic_fetch_and(&v->requests, ~VREQ_SAFEPOINT);
            vcpu_leave_guest(v);
            vcpu_enter_guest(v);
        } else if (r & VREQ_HALT) {
            atomic_fetch_and(&v->requests, ~VREQ_HALT);
            if (halt(kv))
                return true;
        } else if (r & VREQ_NMI) {
            atomic_fetch_and(&v->requests, ~VREQ_NMI);
            kvm_sys_ioctl_val(kv->fd, KVM_NMI, 0);
        } else if (r) {
            /* Interrupts are looked at before each entry; the memory slots are current; no code is translated. */
            atomic_fetch_and(&v->requests, ~(uint32_t)(VREQ_INTR | VREQ_TLB | VREQ_CODE | VREQ_ENGINE));
        } else {
            return false;
        }
    }
}

/* --- exits ------------------------------------------------------------------------------------ */

static void fail(struct vcpu_exit *exit, uint32_t reason, uint64_t detail)
{
    exit->kind = EXIT_FAIL;
    kvm_exit_text(reason, detail, exit->fail.why, sizeof(exit->fail.why));
}

/* KVM gives the bytes it could not emulate with newer versions. */
static void fail_internal(struct kvm_vcpu *kv, struct vcpu_exit *exit)
{
    struct kvm_run *run = kv->run;
    struct kvm_regs g = {0};
    fail(exit, KVM_EXIT_INTERNAL_ERROR, run->internal.suberror);
    size_t n = strlen(exit->fail.why), cap = sizeof(exit->fail.why);
    if (kvm_sys_ioctl(kv->fd, KVM_GET_REGS, &g) == 0)
        n += (size_t)snprintf(exit->fail.why + n, cap - n, " at rip %#llx", (unsigned long long)g.rip);
    if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION || run->emulation_failure.ndata < 3 ||
        !(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
        return;
    n += (size_t)snprintf(exit->fail.why + n, cap - n, ":");
    for (unsigned i = 0; i < run->emulation_failure.insn_size && i < 15 && n + 4 < cap; i++)
        n += (size_t)snprintf(exit->fail.why + n, cap - n, " %02x", run->emulation_failure.insn_bytes[i]);
}

/* True: exit is filled. */
static bool take_exit(struct kvm_vcpu *kv, struct vcpu_exit *exit)
{
    struct vcpu *v = kv->v;
    struct kvm_run *run = kv->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO: begin_pio(kv); return next_piece(kv, exit);
    case KVM_EXIT_MMIO: begin_mmio(kv); return next_piece(kv, exit);
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR: return false;
    case KVM_EXIT_IOAPIC_EOI:
        if (v->vm->intc.eoi)
            v->vm->intc.eoi(v, run->eoi.vector);
        return false;
    case KVM_EXIT_HLT:
        halted(kv);
        exit->kind = EXIT_HLT;
        return true;
    case KVM_EXIT_SHUTDOWN:
        v->cpu.activity = X86_SHUTDOWN;
        exit->kind = EXIT_SHUTDOWN;
        return true;
    case KVM_EXIT_INTERNAL_ERROR: fail_internal(kv, exit); return true;
    case KVM_EXIT_FAIL_ENTRY: fail(exit, run->exit_reason, run->fail_entry.hardware_entry_failure_reason); return true;
    default: fail(exit, run->exit_reason, run->hw.hardware_exit_reason); return true;
    }
}

static void run_loop(struct kvm_vcpu *kv, struct vcpu_exit *exit)
{
    struct vcpu *v = kv->v;
    struct kvm_run *run = kv->run;
    bool ours = v->vm->intc_kind == VM_INTC_OURS, inject_here = v->vm->intc_kind != VM_INTC_ENGINE;
    uint64_t cr8 = 0;
    for (;;) {
        if (atomic_load_explicit(&v->requests, memory_order_seq_cst) && serve(kv)) {
            exit->kind = EXIT_KICK;
            return;
        }
        if (inject_here)
            inject(kv);
        if (ours)
            run->cr8 = cr8 = v->vm->intc.cr8_read(v);
        kv->entered = true;
        long r = kvm_sys_ioctl_val(kv->fd, KVM_RUN, 0);
        if (ours)
            apic_out(kv, cr8);
        if (r == -EINTR) {
            /* A kick stays in immediate_exit until it has made a run return: none is lost. Whoever kicks after this has
             * set its request before, and requests are read before the next entry. */
            kv->interrupted++;
            __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
            exit->kind = EXIT_KICK;
            return;
        }
        if (r == -EAGAIN) /* woken while waiting for SIPI */
            continue;
        if (r < 0) {
            exit->kind = EXIT_FAIL;
            snprintf(exit->fail.why, sizeof(exit->fail.why), "KVM_RUN: %s", strerror((int)-r));
            return;
        }
        if (run->exit_reason < KVM_NREASONS)
            kv->exits[run->exit_reason]++;
        if (take_exit(kv, exit))
            return;
    }
}

void kvm_vcpu_run(struct vcpu *v, struct vcpu_exit *exit)
{
    struct kvm_vcpu *kv = kvcpu_of(v);
    if (kv->io.waiting)
        take_piece(kv, exit);
    if (next_piece(kv, exit))
        return;
    run_loop(kv, exit);
    if (v->vm->trace && v->vm->trace->exit) {
        struct kvm_regs g = {0};
        if (kvm_sys_ioctl(kv->fd, KVM_GET_REGS, &g) == 0)
            v->cpu.rip = g.rip;
    }
}
