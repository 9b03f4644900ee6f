/*
 * A virtual machine: memory, map, vCPUs, devices, clock, and the ways it can end.
 * No file-scope state: two VMs fit in one process.
 *
 * Lock order (outermost first): vm->device_lock, then a device's own lock
 * (local APIC), then the clock's heap lock. vm_exclusive is taken with no lock
 * held or with the device lock held.
 */
#ifndef RINGER_VM_H
#define RINGER_VM_H

#include <stdatomic.h>

#include "ringer/dev.h"
#include "ringer/gpa.h"
#include "ringer/host.h"
#include "ringer/vcpu.h"

#define VM_MAX_CPUS 64
#define VM_MAX_DEVS 64

enum vm_end {
    VM_END_NONE,
    VM_END_POWEROFF,     /* ACPI S5, or Ctrl-A x */
    VM_END_RESET,        /* guest reset with --no-reboot */
    VM_END_TRIPLE_FAULT, /* with --no-reboot or always when nothing handles it */
    VM_END_PANIC,        /* guest said it panicked (pvpanic) */
    VM_END_DEBUG_EXIT,   /* isa-debug-exit; vm->end_code holds the value */
    VM_END_QUIT,         /* the user asked (escape sequence, SIGTERM) */
    VM_END_ERROR,        /* our own error; message already logged */
};

struct vm;

/* Observers of a running machine (core/trace.h makes one that writes text). Any hook may be NULL; called on the vCPU's thread. */
struct vm_trace {
    bool insns; /* engines: run one instruction at a time and report each */
    void (*insn)(struct vm_trace *t, struct vcpu *v);                    /* before the instruction at cpu.rip */
    void (*event)(struct vm_trace *t, struct vcpu *v, const struct x86_exc *exc);
    void (*io)(struct vm_trace *t, struct vcpu *v, const struct x86_io *io, const char *dev);
    void (*exit)(struct vm_trace *t, struct vcpu *v, const struct vcpu_exit *exit);
};

/* Who has the interrupt controllers of a VM. */
enum vm_intc_kind {
    VM_INTC_OURS,   /* dev/intc.h, all of it */
    VM_INTC_SPLIT,  /* the engine has the local APICs; I/O APIC and 8259A are ours */
    VM_INTC_ENGINE, /* the engine has them all */
};

struct vm {
    struct gpa_map *mem, *pio;
    struct gpa_map *ram_map;  /* the RAM of mem alone; never changes, so that DMA needs no lock */
    uint64_t ram_size;
    uint8_t *ram;             /* one host mapping of all RAM */
    int ram_fd;               /* host file handle of it, -1 if none */
    uint32_t *ram_flags;

    unsigned ncpu;
    struct vcpu *cpu[VM_MAX_CPUS];
    const struct engine_ops *engine;
    void *engine_priv;
    void *interp_priv; /* the interpreter's: it may be set up beside another engine, as its fallback */
    struct engine_config engine_cfg;
    bool engine_ready;        /* vm_init was called */
    enum vm_intc_kind intc_kind;
    bool engine_msrs;         /* MSR accesses never reach vm->intc: no x2APIC, TSC deadline or paravirtual clock of ours */
    struct x86_cpuid_policy *cpuid;

    struct host_mutex *device_lock;
    struct clock *clock;
    struct clock_counter *counter; /* of struct vm_config */
    int (*random)(void *ctx, void *buf, size_t n); /* for RDRAND and RDSEED: 0 or -errno; NULL: the host's */
    void *random_ctx;
    uint64_t tsc_khz;
    struct tsc_scale *tsc; /* core/clock.h: virtual time to time-stamp counter */

    /* The interrupt controller, provided by the board. pending must be callable from any thread. In a VM_INTC_SPLIT machine only
     * pending, ack (of the 8259A, for CPU 0) and eoi are there, in a VM_INTC_ENGINE machine nothing. */
    struct {
        bool (*pending)(struct vcpu *v);      /* a maskable interrupt could be taken if IF allows */
        int (*ack)(struct vcpu *v);           /* take it: vector, or -1 if it went away */
        int (*rdmsr)(struct vcpu *v, uint32_t msr, uint64_t *val); /* APIC_BASE, x2APIC, TSC_DEADLINE, paravirtual */
        int (*wrmsr)(struct vcpu *v, uint32_t msr, uint64_t val);
        uint64_t (*cr8_read)(struct vcpu *v);
        void (*cr8_write)(struct vcpu *v, uint64_t val);
        void (*reset)(struct vcpu *v, bool init);
        /* Guest-physical page of the vCPU's own local APIC registers; UINT64_MAX: not mapped. */
        uint64_t (*local_page)(struct vcpu *v);
        /* The guest changed IA32_TSC (tsc_offset); may be NULL. */
        void (*tsc_changed)(struct vcpu *v);
        /* VM_INTC_SPLIT: the guest ended a level-triggered interrupt of the I/O APIC. */
        void (*eoi)(struct vcpu *v, uint8_t vector);
    } intc;
    void (*ferr)(struct vcpu *v); /* FERR# was asserted (struct x86_env_ops); no lock held; NULL: not wired */
    struct intc *irq; /* dev/intc.h; NULL when the engine brings its own */

    void (*reset_machine)(struct vm *vm); /* board: devices and guest memory back to boot state */
    void *board;

    struct host_mutex *state_lock;
    struct host_event *done; /* set on end and on a wanted reset */
    _Atomic int end;      /* enum vm_end */
    int end_code;
    _Atomic bool reset_wanted;
    bool no_reboot;

    /* exclusive section */
    struct host_mutex *excl_lock;
    struct host_cond *excl_cond;
    _Atomic int excl_wanted;

    _Atomic bool parked; /* vm_park */
    uint32_t cpu_limit;  /* percent of one host core, 0: none; set before vm_start */
    struct limit *limit; /* core/limit.h */

    struct vm_trace *trace; /* NULL: off */
    bool timed;             /* take the time of each device access (vcpu->io_ns); set before vm_start */
    uint64_t unmapped[4]; /* accesses nothing answered: memory read, write, port read, write; relaxed atomics */
    uint64_t start_ns;    /* host_now() at creation */
    void (*log)(void *ctx, const char *line);
    void *log_ctx;
};

struct vm_config {
    uint64_t ram_size; /* bytes, multiple of 2 MiB is best, 1 MiB least */
    unsigned ncpu;
    const struct engine_ops *engine;
    struct engine_config engine_cfg;
    bool no_reboot;
    /* Deterministic time: it is what the counter says, and whoever drives the machine advances it and calls clock_run. NULL: the host's.
     * With it the TSC runs at 1 GHz and the wall clock starts at a fixed date. */
    struct clock_counter *counter;
};

struct vm *vm_new(const struct vm_config *cfg, char *err, size_t errcap);
void vm_free(struct vm *vm);

/* Set the engine up (once; further calls do nothing). The board calls it before it builds anything; vm_start does if nobody did. */
int vm_engine_init(struct vm *vm, char *err, size_t errcap);

/* Start all vCPU threads; wait for the end; stop and join the threads. vm_wait returns the end reason. */
int vm_start(struct vm *vm, char *err, size_t errcap);
/* A wanted reset, with the vCPUs stopped: processors and board to power-up state, the boot image loaded again. vm_wait does it. */
void vm_reset(struct vm *vm);
enum vm_end vm_wait(struct vm *vm);
/* Ask for the end, from any thread, lock-free, async-signal-safe up to the wake-up. The first reason wins. */
void vm_request_end(struct vm *vm, enum vm_end why, int code);
/* Ask for a machine reset (keyboard controller, ACPI reset register, triple fault): ends the VM when no_reboot. */
void vm_request_reset(struct vm *vm);

/* Replace the guest-physical map (or the port map): takes an exclusive section, flushes TLBs, tells the engine. */
void vm_set_map(struct vm *vm, struct gpa_map *mem);
void vm_set_pio(struct vm *vm, struct gpa_map *pio);

/* Invalidate the translations of n linear addresses on every vCPU, which are at a safe point meanwhile (the caller's own included: call it
 * outside guest code, e.g. from a device). Engines whose paging is hardware's do not see it. */
void vm_flush_pages(struct vm *vm, const uint64_t *lin, unsigned n);

/* Exclusive section: on return every other vCPU is at a safe point and stays there. self: the calling vCPU or NULL. Nests not. */
void vm_exclusive_begin(struct vm *vm, struct vcpu *self);
void vm_exclusive_end(struct vm *vm, struct vcpu *self);

/* Keep all vCPUs at safe points, where they take no CPU time, until called with on = false; they can still be stopped. Does
 * not wait for them. One thread at a time. */
void vm_park(struct vm *vm, bool on);

/* RAM was written behind the engine's back (device DMA, loader). Cheap when the pages hold no code. */
void vm_ram_written(struct vm *vm, struct vcpu *writer, uint64_t gpa, uint64_t len);

/* A DMA view of this VM for devices. */
struct dma vm_dma(struct vm *vm);

void vm_log(struct vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
