/* User code as 64-bit systems run it: CS 0x33, SS 0x2b, null data segments, interrupts on, SYSCALL and SYSRET. */
#ifndef USER_H
#define USER_H

#include "guest.h"

#define UCODE 0x555555554000ull  /* the fragments, read-only and executable */
#define USTACK 0x7ffff7000000ull /* top of the stack, of 4 pages */
#define SYS 0x100                /* f->vector of a system call */

/* User code: position-independent, copied to UCODE from a section of its own. USER_AT: its address there, of this or any label inside. Far
 * enough apart that an engine which looks for instructions before it runs a page sees where they are. */
#define USER_CODE(name, code)                                                                                          \
    __asm__(".pushsection frags, \"ax\"\n.balign 128, 0x90\n.globl " #name "\n" #name ":\n" code "\n.popsection\n");          \
    extern uint8_t name[]
#define USER_LABEL(name) extern uint8_t name[]
extern uint8_t __start_frags[] __attribute__((weak)), __stop_frags[] __attribute__((weak)); /* not every guest has fragments */
#define USER_AT(name) (UCODE + (uint64_t)((name) - __start_frags))

/* Set everything up. False: the processor lacks what it takes (XSAVE, AVX, FSGSBASE); says so. */
bool user_init(void);
/* A frame with registers that tell each other apart. */
struct frame user_regs(uint64_t rip);
/* Run from f until an exception, interrupt or system call that user_event does not take (returning true: go on from the frame as it is
 * then); *f is the state there. CR2 as it was is in user_cr2. */
void user_run(struct frame *f);
extern bool (*user_event)(struct frame *f);
extern volatile uint64_t user_cr2;
/* System calls return by SYSRET (else IRET). */
extern volatile bool user_sysret;

/* The run ended with this vector and error code at this RIP. */
void user_expect_at(const char *name, const struct frame *f, uint64_t vector, uint64_t error, uint64_t rip, const char *file, int line);
#define USER_EXPECT(name, f, vector, error, rip) user_expect_at(name, f, vector, error, rip, __FILE__, __LINE__)
/* With #PF. */
void user_expect_pf_at(const char *name, const struct frame *f, uint64_t error, uint64_t cr2, uint64_t rip, const char *file, int line);
#define USER_EXPECT_PF(name, f, error, cr2, rip) user_expect_pf_at(name, f, error, cr2, rip, __FILE__, __LINE__)

#endif
