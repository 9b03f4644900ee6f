/*
 * The engine boundary. An engine runs one vCPU until something needs the rest of
 * the VMM. It knows no device; devices know no engine.
 *
 * Threads: probe, vm_init, vm_start, vm_fini, map_commit on the thread that owns the VM (map_commit also on
 * a vCPU's, in an exclusive section); vcpu_init, run, state_pull, state_push, vcpu_fini on the vCPU's thread; kick and
 * code_inval from any thread at any time between vcpu_init and vcpu_fini; irq_*, msi, doorbell and stats from any
 * thread between vm_init and vm_fini.
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
    ENGINE_CAP_OWN_INTC = 1 << 4,  /* can bring its own interrupt controllers; vm->intc_kind says what one VM has */
    ENGINE_CAP_HARDWARE = 1 << 5,  /* uses hardware virtualization */
    ENGINE_CAP_WORLDS = 1 << 7,    /* makes sandboxed processes (sandbox/) while it runs */
    ENGINE_CAP_PACE = 1 << 6,      /* heeds vcpu->stop; runs the canonical state, with exact insns and events at every exit */
};

/* Which interrupt controllers the engine is asked to bring. */
enum engine_irqchip {
    IRQCHIP_DEFAULT, /* the most the engine has */
    IRQCHIP_KERNEL,  /* local APICs, I/O APIC and 8259A */
    IRQCHIP_SPLIT,   /* local APICs only */
    IRQCHIP_USER,    /* none: ours */
};

/* How engine translate runs 64-bit user code. */
enum engine_user_code {
    USER_CODE_AUTO,       /* translated or directly, by what pays */
    USER_CODE_TRANSLATED, /* always translated: every instruction is seen and counted */
    USER_CODE_DIRECT,     /* directly wherever the state allows */
};

/* What the user may say about engines. All zero: defaults. */
struct engine_config {
    enum engine_irqchip irqchip;
    const char *kvm_device; /* NULL: /dev/kvm */
    bool patch_lazy;        /* engine trap: replace what does not trap, page by page before first execution */
    enum engine_user_code user_code;
    bool always_direct; /* engines trap and patch: execute directly what can be, whether it pays or not */
    bool uncounted;         /* nobody reads vcpu->insns: engine translate need not keep it (machines without vm_config.counter) */
    bool report_sensitive;  /* engine trap: report each execution of an unprivileged sensitive instruction */
};

struct engine_stat {
    const char *name; /* static */
    uint64_t value;
};

/* Where a machine's running time went, for engines with several ways to run a guest. Direct execution is measured, with entering and
 * leaving; of the rest the engine looks every millisecond or so what it is at. */
enum { ENGINE_USER, ENGINE_KERNEL, ENGINE_INTERPRETED, ENGINE_MONITOR, ENGINE_TIERS };
struct engine_times {
    uint64_t direct_ns;
    uint64_t samples[ENGINE_TIERS]; /* translated user code, translated kernel code, interpreter, all else */
};

struct engine_ops {
    const char *name;    /* as in --engine */
    const char *summary; /* one line for `ringer engines` */
    uint32_t caps;
    unsigned rank;       /* auto tries higher ranks first; 0: never chosen by auto */

    /* Can it work on this host at all? Found by running something. 0, or -1 with a printable reason. NULL: always. */
    int (*probe)(const struct engine_config *cfg, char *reason, size_t cap);

    /* Per-VM and per-vCPU private data behind vm->engine_priv / vcpu->engine_priv. 0 or -1 (message logged).
     * vm_init comes when the VM has its RAM but neither CPUID policy, vCPUs nor devices: it settles vm->intc_kind,
     * vm->engine_msrs and, if the engine decides it, vm->tsc_khz. vm_fini comes after the devices are gone. */
    int (*vm_init)(struct vm *vm);
    /* Before the vCPU threads start, at first and after each reset: the canonical states of all vCPUs and the map are
     * complete. May be NULL. 0 or -1 (message logged). */
    int (*vm_start)(struct vm *vm);
    void (*vm_fini)(struct vm *vm);
    int (*vcpu_init)(struct vcpu *v);
    void (*vcpu_fini)(struct vcpu *v);

    /* The only home of the rules which state this engine can run. NULL: any. Also asked of a vCPU that was never set up (engine_priv and vm
     * NULL): then of the registers alone. */
    bool (*can_run)(const struct vcpu *v);

    /* Run until an exit, with *exit filled; failures are EXIT_FAIL. While vm->intc_kind is VM_INTC_OURS the engine polls
     * vcpu->requests at instruction boundaries and injects what vm->intc has (vcpu_poll does both for engines that run the canonical
     * state). After EXIT_IO, *exit is passed again with exit->io completed. */
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

    /* Engines with ENGINE_CAP_OWN_INTC. VM_INTC_ENGINE: set the level of an ISA interrupt (0 to 15, wired to 8259A and I/O APIC as in
     * dev/intc.h) or of an I/O APIC pin alone. VM_INTC_SPLIT: a message of our I/O APIC's pin, in the form of an MSI.
     * intc_reset: 8259A and I/O APIC to power-up state, under the device lock with the vCPUs stopped. */
    void (*irq_isa)(struct vm *vm, unsigned irq, bool level);
    void (*irq_pin)(struct vm *vm, unsigned pin, bool level);
    void (*irq_message)(struct vm *vm, unsigned pin, uint64_t addr, uint32_t data);
    void (*msi)(struct vm *vm, uint64_t addr, uint32_t data);
    void (*intc_reset)(struct vm *vm);

    /* Writes of any size to this guest-physical address signal the event descriptor fd instead of an EXIT_IO, until taken back
     * (on = false). 0, or -1 if it cannot: accesses then exit as ever. May be NULL. */
    int (*doorbell)(struct vm *vm, uint64_t gpa, int fd, bool on);

    /* Log which RAM pages the guest writes; fetch sets the bits of pages (by offset in the VM's RAM, in 4 KiB pages) written since the
     * last fetch. Stores of devices are not the engine's. 0 or -1. May be NULL. */
    int (*dirty_log)(struct vm *vm, bool on);
    int (*dirty_fetch)(struct vm *vm, uint64_t *bitmap);

    /* The engine's own counters; returns how many there are, fills at most cap. May be NULL. */
    unsigned (*stats)(const struct vm *vm, struct engine_stat *out, unsigned cap);
    /* All vCPUs together. May be NULL. */
    void (*times)(const struct vm *vm, struct engine_times *out);
};

/* All engines built in, highest rank first, NULL-terminated (core/engines.c). */
extern const struct engine_ops *const ringer_engines[];
extern const struct engine_ops engine_interp;
extern const struct engine_ops engine_kvm;
extern const struct engine_ops engine_translate;
extern const struct engine_ops engine_trap, engine_patch; /* direct execution at CPL 3 (engine/trap/) */

#endif
