/*
 * Why an engine stopped running a vCPU: one tagged union for every engine,
 * never a vendor's code.
 */
#ifndef RINGER_EXIT_H
#define RINGER_EXIT_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/cpu.h"

enum vcpu_exit_kind {
    EXIT_KICK,       /* vcpu->requests has something the engine does not handle itself, or engine->kick was called */
    EXIT_IO,         /* engines that cannot perform an access in mid-instruction: the core performs exit.io
                        (vcpu_io) and calls run again with the same exit, which completes the instruction */
    EXIT_HLT,        /* cpu.activity = X86_HALTED; the instruction is complete */
    EXIT_IRQ_WINDOW, /* interrupts became deliverable and the engine does not inject by itself */
    EXIT_EMULATE,    /* state is at an instruction boundary: execute this one instruction with the interpreter */
    EXIT_SWITCH,     /* can_run() no longer holds: the core chooses another engine */
    EXIT_DEBUG,      /* a debugger's breakpoint or step */
    EXIT_SHUTDOWN,   /* triple fault: cpu.activity = X86_SHUTDOWN */
    EXIT_FAIL,       /* the engine cannot go on; exit.fail.why says so in one line */
};

struct vcpu_exit {
    enum vcpu_exit_kind kind;
    union {
        struct x86_io io;
        struct {
            char why[160];
        } fail;
    };
};

#endif
