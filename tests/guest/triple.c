/* A triple fault ends the guest: a page fault whose double fault finds no gate either. */
/* guest-ends: triple-fault */
#include "attempt.h"

void guest_main(uint32_t info, uint32_t magic)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = {0, 0};
    idt_init();
    ATTEMPT("1: ud2\n2:", "c"(0));
    EXPECT_FAULT("before: exceptions are delivered", 6, 0);
    print("1 passed, 0 failed\n");
    __asm__ volatile("lidt %0; ud2" ::"m"(none));
    print("FAIL went on behind a triple fault\n");
    for (;;)
        outb(0xf4, 1);
}
