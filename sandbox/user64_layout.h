/*
 * Where things are in a user world (sandbox/user64.h): offsets from its base, for C and assembly.
 *
 *   text    read, execute   the handler (user64_handler.S)
 *   note    read            one word, written by the handler through its file only
 *   ctl     read, write     shared with the monitor: struct user64_ctl
 *   frame   read, write     the signal frame from which guest code is resumed, written by the monitor
 *   alt     read, write     the stack on which the kernel puts signal frames, read by the monitor
 */
#ifndef SANDBOX_USER64_LAYOUT_H
#define SANDBOX_USER64_LAYOUT_H

#define U64_NOTE 0x1000
#define U64_CTL 0x2000
#define U64_CTL_SIZE 0x3000
#define U64_FRAME 0x5000
#define U64_FRAME_SIZE 0x5000
#define U64_ALT 0xa000
#define U64_ALT_SIZE 0xa000
#define U64_SIZE 0x14000

#define U64_FD_RAM 3
#define U64_FD_NOTE 4
#define U64_FD_COPIES 5
#define U64_FD_CTL 6

/* struct user64_ctl */
#define U64_REQUEST 0x00
#define U64_WORLD_SLEEPS 0x40
#define U64_MONITOR_SLEEPS 0x44
#define U64_SEQ 0x48
#define U64_NOPS 0x4c
#define U64_FAILED 0x50
#define U64_ERROR 0x54
#define U64_SECRET 0x58
#define U64_FS_BASE 0x60
#define U64_GS_BASE 0x68
#define U64_SEL 0x70
#define U64_AT 0x78
#define U64_SPIN 0x80
#define U64_OPS 0x100
#define U64_OP_SIZE 56
#define U64_NOPS_MAX 200

/* In the frame area: the frame, and the FP state it points to. */
#define U64_FRAME_FP 0x400

#endif
