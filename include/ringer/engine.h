/*
 * The engine boundary. An engine runs one vCPU until something needs the rest of
 * the VMM. It knows no device; devices know no engine.
 *
 * Threads: probe, vm_init, vm_fini, map_commit on the thread that owns the VM;
 * vcpu_init, run, state_pull, state_push, vcpu_fini on the vCPU's thread; kick and
 * code_inval from any thread at any time between vcpu_init and vcpu_fini.
 */
#ifndef RINGER_ENGINE_H
#define RINGER_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ringer/exit.h"

struct vm;
struct vcpu;

/* Parts of the canonical state (struct x86_cpu) for pull and push. */
enum {
    STATE_GPR = 1 << 0, /* gpr, rip, rflags */
    STATE_SREG = 1 << 1, /* segments, descriptor tables, CR0-4, EFER, PDPTRs */
    STATE_FPU = 1 << 2, /* xsave area, XCR0 */
    STATE_DEBUG = 1 << 3,
    STATE_MSR = 1 << 4,
    STATE_EVENTS = 1 << 5, /* pending exception, interrupt shadow, NMI blocking, activity */
    STATE_APIC = 1 << 6,
    STATE_ALL = 0x7f,
};

enum {
    ENGINE_CAP_SMP = 1 << 0,
    ENGINE_CAP_STEP = 1 << 1,      /* can execute exactly one instruction */
    ENGINE_CAP_COUNT = 1 << 2,     /* counts instructions by class */
    ENGINE_CAP_TRACE = 1 << 3,     /* can trace instructions */
    ENGINE_CAP_OWN_INTC = 1 << 4,  /* brings its own local APICs (in-kernel irqchip) */
    ENGINE_CAP_HARDWARE = 1 << 5,  /* uses hardware virtualization */
};

struct engine_ops {
    const char *name;    /* as in --engine */
    const char *summary; /* one line for `ringer engines` */
    uint32_t caps;
    unsigned rank;       /* auto tries higher ranks first; 0: never chosen by auto */

    /* Can it work on this host at all? Found by running something. 0, or -1 with a printable reason. NULL: always. */
    int (*probe)(char *reason, size_t cap);

    /* Per-VM and per-vCPU private data behind vm->engine_priv / vcpu->engine_priv. 0 or -1 (message logged). */
    int (*vm_init)(struct vm *vm);
    void (*vm_fini)(struct vm *vm);
    int (*vcpu_init)(struct vcpu *v);
    void (*vcpu_fini)(struct vcpu *v);

    /* The only home of the rules which state this engine can run. NULL: any. */
    bool (*can_run)(const struct vcpu *v);

    /* Run until an exit. Interrupts: engines without ENGINE_CAP_OWN_INTC poll vcpu->requests at instruction
     * boundaries and inject through vcpu_take_interrupt. 0 with *exit filled; never fails otherwise (EXIT_FAIL). */
    void (*run)(struct vcpu *v, struct vcpu_exit *exit);

    /* Execute exactly one instruction (one iteration, or some, of a repeated one) from the canonical state; events are the
     * caller's (vcpu_poll). NULL if !CAP_STEP. An engine that falls back on engine_interp.step calls the interpreter's
     * vm_init and vcpu_init from its own; the two keep apart (interp_priv). */
    void (*step)(struct vcpu *v, struct vcpu_exit *exit);

    /* Make run return soon. Async-signal-safe, sticky: if run is not active, the next run returns at once. */
    void (*kick)(struct vcpu *v);

    /* Move state between the engine and struct x86_cpu. NULL: the canonical state is the engine's own. */
    int (*state_pull)(struct vcpu *v, uint32_t mask);
    int (*state_push)(struct vcpu *v, uint32_t mask);

    /* The guest-physical map was replaced (all vCPUs are at a safe point). */
    int (*map_commit)(struct vm *vm);

    /* Guest-physical bytes changed that may have been translated (page flag GPA_PF_CODE). writer: the vCPU that
     * stored, or NULL for a device. NULL hook: the engine needs no notice. */
    void (*code_inval)(struct vm *vm, struct vcpu *writer, uint64_t gpa, uint32_t len);
};

/* All engines built in, highest rank first, NULL-terminated (core/engines.c). */
extern const struct engine_ops *const ringer_engines[];
extern const struct engine_ops engine_interp;

#endif
