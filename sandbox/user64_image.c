/* The program of user worlds (sandbox/user64_stub.c), carried inside this one. */
#include "sandbox/user64.h"

__asm__(".section .rodata\n"
        ".globl user64_stub_image, user64_stub_image_end\n"
        ".balign 16\n"
        "user64_stub_image: .incbin \"" USER64_FILE "\"\n"
        "user64_stub_image_end: .byte 0\n"
        ".previous\n");
