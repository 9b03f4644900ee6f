/*
 * A virtual CPU: canonical state, requests from outside, life cycle.
 */
#ifndef RINGER_VCPU_H
#define RINGER_VCPU_H

#include <stdatomic.h>

#include "ringer/engine.h"
#include "ringer/exit.h"
#include "x86/cpu.h"
#include "x86/exec.h"

struct vm;
struct host_thread;
struct host_event;

/* Sticky request bits (vcpu->requests). Set with vcpu_request from any thread. */
enum {
    VREQ_INTR = 1 << 0,   /* the interrupt controller has a deliverable maskable interrupt (level: recomputed) */
    VREQ_NMI = 1 << 1,
    VREQ_INIT = 1 << 2,
    VREQ_SIPI = 1 << 3,   /* vector in vcpu->sipi_vector */
    VREQ_SAFEPOINT = 1 << 4, /* leave guest code and pass vcpu_safepoint: somebody wants exclusive access */
    VREQ_STOP = 1 << 5,   /* the VM ends or pauses: leave run with EXIT_KICK */
    VREQ_TLB = 1 << 6,    /* flush the whole TLB (map changed) */
    VREQ_CODE = 1 << 7,   /* the engine has queued code invalidations for this vCPU */
    VREQ_ENGINE = 1 << 8, /* engine-private */
    VREQ_DEBUG = 1 << 9,
    VREQ_HALT = 1 << 10, /* own thread: wait as HLT does once the instruction is complete (DEV_HALT) */
};

struct vcpu {
    struct x86_cpu cpu; /* first: engines convert between the two */
    struct vm *vm;
    unsigned index;

    _Atomic uint32_t requests;
    _Atomic uint8_t sipi_vector;
    _Atomic bool sleeping; /* waiting on wake: requests must set it */
    bool irq_waiting;      /* an interrupt is pending that IF or the shadow held back; see vcpu_irq_rearm */
    bool nmi_pending;      /* an NMI was taken from requests but is blocked */
    bool exclusive;        /* this vCPU holds the VM's exclusive section */
    _Atomic bool in_guest; /* executing guest code: holds TLB pointers; false at safe points, in vcpu_io, when halted */

    const struct engine_ops *engine;
    void *engine_priv;
    void *interp_priv; /* see struct vm */

    /* Paced (struct vm_config.counter; engines with ENGINE_CAP_PACE): run returns EXIT_KICK at the first boundary of its blocks where
     * insns >= stop. */
    bool paced;
    uint64_t stop;

    struct dev *lapic;
    bool lock_from_guest;  /* core/irq.c: in guest code before it took the device lock */
    struct host_thread *thread;
    struct host_event *wake;
    _Atomic unsigned kickers; /* threads in engine->kick: what they look at stays until they are out */

    /* statistics; written by the vCPU's thread only */
    uint64_t insns;        /* instructions executed, all classes (cpu.pg_count has those not innocuous) */
    uint64_t events;       /* exceptions and interrupts delivered, software interrupts included: with insns, a place in the execution */
    uint64_t exceptions[32];
    uint64_t interrupts[256];
    uint64_t exits[16];
    uint64_t halted_ns, io_ns, parked_ns;
};

/* Below every struct vcpu lies this much zeroed memory of the engine's, so that one base register reaches both (and a stack
 * may grow down in it). Not charged until touched. */
#define VCPU_ROOM (5u << 18)

static inline struct vcpu *vcpu_of(struct x86_cpu *c) { return (struct vcpu *)c; }

/* Set request bits, and make the vCPU notice: wake it if halted, kick its engine if running. Any thread; no locks needed. */
void vcpu_request(struct vcpu *v, uint32_t bits);

/* Engines: bits that must be looked at before the next instruction. One relaxed load. */
static inline uint32_t vcpu_requests(const struct vcpu *v)
{
    return atomic_load_explicit(&v->requests, memory_order_relaxed);
}

/* Engines that inject by themselves: call after every instruction that may have made a held-back interrupt or NMI deliverable
 * (STI, POPF, IRET, SYSRET, end of an interrupt shadow, task switch, ...); raises the request again. Own thread only. */
static inline void vcpu_irq_rearm(struct vcpu *v)
{
    if (__builtin_expect(v->irq_waiting && x86_irq_allowed(&v->cpu), 0)) {
        v->irq_waiting = false;
        atomic_fetch_or(&v->requests, VREQ_INTR);
    }
    if (__builtin_expect(v->nmi_pending && x86_nmi_allowed(&v->cpu), 0)) {
        v->nmi_pending = false;
        atomic_fetch_or(&v->requests, VREQ_NMI);
    }
}

/* Engines without their own interrupt controller, at an instruction boundary with a request pending: handle what can be handled here
 * (TLB flush, safe point, NMI and interrupt delivery when allowed by IF, shadow and blocking).
 * Returns X86_OK: go on at cpu.rip (state may have changed completely);
 * X86_EXIT: leave run with EXIT_KICK; X86_FAULT: delivery ended in shutdown (activity = X86_SHUTDOWN). */
int vcpu_poll(struct vcpu *v);

/* Would an interrupt or NMI be taken now? For halted vCPUs. */
bool vcpu_has_work(const struct vcpu *v);

/* Perform one port or MMIO access for this vCPU (statistics, device lock, trace). The vCPU is at a safe point meanwhile. */
void vcpu_io(struct vcpu *v, struct x86_io *io);

/* Leave/enter guest code around anything that blocks. */
void vcpu_leave_guest(struct vcpu *v);
void vcpu_enter_guest(struct vcpu *v);

/* Create vCPU index of vm (state after power-up reset) / free. NULL when out of memory. */
struct vcpu *vcpu_new(struct vm *vm, unsigned index);
void vcpu_free(struct vcpu *v);

/* The parts of a vCPU thread, for those that drive a vCPU by themselves (core/lockstep.h), on the thread that does. Before run:
 * INIT, SIPI, waking up. VCPU_RUN: enter the guest and run; VCPU_WAIT: halted and nothing to do; VCPU_END: the machine ends or is reset. */
enum vcpu_next { VCPU_RUN, VCPU_WAIT, VCPU_END };
enum vcpu_next vcpu_next(struct vcpu *v);
/* After run, outside the guest: what the exit asks for. False: the vCPU cannot go on. */
bool vcpu_exited(struct vcpu *v, struct vcpu_exit *e);

/* Body of the vCPU's thread: runs until the VM stops. */
void vcpu_thread(void *vcpu);

#endif
