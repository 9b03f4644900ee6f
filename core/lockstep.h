/*
 * Two machines side by side: a subject under any engine with ENGINE_CAP_PACE, and a reference that the interpreter takes
 * through the same execution one instruction at a time. In a nutshell: the subject runs a slice of some instructions
 * and stops at a boundary of its own choice; the reference steps to the same place (instructions and events counted), and the
 * two must be in the same state. Time moves between slices only, by the instructions executed, so both see the same
 * time, and interrupts come where slices end. The whole is deterministic: made again from the same inputs, it repeats.
 *
 * Threads: all on one thread. Both machines: one vCPU, made with vm_config.counter, built alike, not started; their devices use no
 * other thread and no host state.
 */
#ifndef CORE_LOCKSTEP_H
#define CORE_LOCKSTEP_H

#include "ringer/vm.h"

enum { LS_SUBJECT, LS_REFERENCE };

enum lockstep_result {
    LS_SAME,   /* go on */
    LS_IDLE,   /* both halted and no timer is armed: only input helps */
    LS_ENDED,  /* both machines ended alike (vm->end, vm->end_code) */
    LS_DIFFER, /* ls->diff says in what */
    LS_FAILED, /* an engine gave up; its message is logged */
};

#define LS_DIFFS 64
struct lockstep_diff {
    unsigned n;
    struct {
        char name[24];
        uint64_t val[2];
    } item[LS_DIFFS];
    bool memory;     /* RAM differs, first at gpa (8 bytes, the last item) */
    uint64_t gpa;
};

struct lockstep {
    struct vm *vm[2];
    uint64_t seed;      /* lengths of slices */
    uint64_t slices, compared; /* done; comparisons of memory */
    uint64_t memory_every;     /* slices between comparisons of memory, more when it is large; 1: after each */
    uint64_t memory_equal;     /* slices done when it was last compared and equal */
    bool hold;          /* time stands still: for looking into a slice in smaller ones */
    uint64_t pages;     /* compared the last time */
    uint8_t *touched;   /* a bit for each RAM page that may not be zero or as loaded any more */
    struct lockstep_diff diff;
    /* Called before each of the reference's instructions; may be NULL. */
    void (*on_step)(void *ctx, struct vcpu *v);
    void *ctx;
};

/* Start both machines on this thread. 0, or -1 with a message. */
int lockstep_init(struct lockstep *ls, struct vm *subject, struct vm *reference, char *err, size_t cap);
void lockstep_fini(struct lockstep *ls);
/* One slice of about n instructions, 0: a length of its own choice. */
enum lockstep_result lockstep_slice(struct lockstep *ls, uint64_t n);
/* Compare all RAM that was touched. False: diff says where. */
bool lockstep_memory(struct lockstep *ls);
/* Instructions executed. */
static inline uint64_t lockstep_insns(const struct lockstep *ls) { return ls->vm[LS_REFERENCE]->cpu[0]->insns; }

#endif
