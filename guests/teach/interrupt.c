/* Interrupts and exceptions: the stubs come here with the interrupted frame and go on with the one returned. */
#include "machine.h"

volatile u32 ticks, user_gp, user_fault_error;
volatile word user_fault_addr;

static void unexpected(const struct frame *f)
{
    print("unexpected exception ");
    print_dec((u32)f->vector);
    print(" error ");
    print_hex(f->error, 8);
    print(" at ");
    print_hex(f->cs, 4);
    print(":");
    print_hex(f->ip, 8);
    print(" CR2 ");
    print_hex(cr2(), 8);
    print("\n");
    power_off(1);
}

static struct frame *handle(struct frame *f)
{
    switch (f->vector) {
    case 3: return f;
    case 13: /* CLI in user code: counted and skipped */
        if (!from_user(f) || *(u8 *)f->ip != 0xfa)
            unexpected(f);
        user_gp++;
        f->ip++;
        return f;
    case 14: /* the user code reads the kernel's memory with a two-byte instruction */
        if (!from_user(f))
            unexpected(f);
        user_fault_error = (u32)f->error;
        user_fault_addr = cr2();
        f->ip += 2;
        return f;
    case 0x80: return system_call(f);
    default:
        if (f->vector < 32)
            unexpected(f);
        return f;
    }
}

struct frame *interrupt(struct frame *f)
{
    const int entered = interrupt_enter(f->vector);
    if (entered & ENTER_TICK) {
        tick();
        if (running && from_user(f))
            f = schedule(f);
    } else {
        f = handle(f);
    }
    while (interrupt_leave(from_user(f) || (entered & ENTER_WAS_OPEN))) {
        tick();
        if (running && from_user(f))
            f = schedule(f);
    }
    return f;
}
