/* The world's program (sandbox/stub.c), carried inside this one. */
#include "sandbox/world.h"

__asm__(".section .rodata\n"
        ".globl world_stub_start, world_stub_end\n"
        ".balign 16\n"
        "world_stub_start: .incbin \"" STUB_FILE "\"\n"
        "world_stub_end: .byte 0\n"
        ".previous\n");
