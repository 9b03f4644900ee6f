/* Attempts that may fault, with exact checks of vector, error code and RIP; and code run from a whole register frame at
 * any privilege. */
#ifndef ATTEMPT_H
#define ATTEMPT_H

#include "guest.h"

/* The code puts label 1 at the instruction meant to fault and label 2 behind it; after a fault it goes on at label 2
 * with RSP as it was before the code, so clean-up that both ways need can follow. RAX is clobbered before label 1;
 * R8-R11 are free. The rest is asm inputs. */
extern volatile uint64_t site, site_next;
#define ATTEMPT(code, ...)                                                                                             \
    do {                                                                                                               \
        fault.happened = false;                                                                                        \
        __asm__ volatile("leaq 1f(%%rip), %%rax; movq %%rax, site(%%rip)\n"                                            \
                         "leaq 2f(%%rip), %%rax; movq %%rax, site_next(%%rip); movq %%rax, try_resume(%%rip)\n"        \
                         "movq %%rsp, try_rsp(%%rip)\n" code "\n movq try_rsp(%%rip), %%rsp\n" ::__VA_ARGS__           \
                         : "rax", "r8", "r9", "r10", "r11", "memory", "cc");                                           \
        try_resume = 0;                                                                                                \
        try_rsp = 0;                                                                                                   \
    } while (0)

void expect_at(const char *name, unsigned vector, uint64_t error, uint64_t rip, const char *file, int line);
void expect_pf_at(const char *name, uint64_t error, uint64_t addr, const char *file, int line);
void expect_none_at(const char *name, const char *file, int line);
/* The last attempt faulted at label 1 / trapped to label 2 / went through. */
#define EXPECT_FAULT(name, vector, error) expect_at(name, vector, error, site, __FILE__, __LINE__)
#define EXPECT_TRAP(name, vector, error) expect_at(name, vector, error, site_next, __FILE__, __LINE__)
#define EXPECT_NONE(name) expect_none_at(name, __FILE__, __LINE__)
/* With #PF: CR2 as well. */
#define EXPECT_PF(name, error, addr) expect_pf_at(name, error, (uint64_t)(addr), __FILE__, __LINE__) /* with CR2 */

/* One check that is left out, with the reason. */
void skip(const char *name, const char *why);
/* For checks that would upset QEMU: `if (!lax(name, why)) { … }`. LAX (guest.h) is for the others. */
bool lax(const char *name, const char *why);

/* Load every register from *f (vector and error are ignored), run from there, and return at the first exception or INT
 * 0x80 with the state and the vector in *f. User code must leave by an exception too: INT 0x80 has DPL 3. */
void run_frame(struct frame *f);
/* The faults that come with a broken stack go to a stack of their own (IST 1) or not. */
void use_ist(unsigned vector, bool on);
/* A frame for user code at rip with the library's user stack. */
struct frame user_frame(const void *rip);

#endif
