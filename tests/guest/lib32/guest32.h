/* The library of 32-bit self-checking guests (*_32.c): as lib/guest.h and lib/attempt.h, in protected mode without
 * paging. */
#ifndef GUEST32_H
#define GUEST32_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As the stubs and the processor push it; esp and ss only from another level, the last four from virtual-8086 mode. */
struct frame {
    uint32_t gs, fs, es, ds, edi, esi, ebp, unused, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss, v_es,
        v_ds, v_fs, v_gs;
};

void guest_main(void);
void print(const char *fmt, ...); /* %s %u %x */
__attribute__((noreturn)) void finish(void);
void check_at(bool ok, const char *name, const char *file, int line);
#define CHECK(name, cond) check_at((cond), (name), __FILE__, __LINE__)
void check_eq_at(uint32_t got, uint32_t want, const char *name, const char *file, int line);
#define CHECK_EQ(name, got, want) check_eq_at((uint32_t)(got), (uint32_t)(want), (name), __FILE__, __LINE__)
bool under_qemu(void);
extern const char *lax_why;
#define LAX(why) (lax_why = (why)) /* a failure of the next check is known of TCG */
bool lax(const char *name, const char *why);
void skip(const char *name, const char *why);

struct fault {
    bool happened;
    uint8_t vector;
    uint32_t error, eip, cr2, eflags, cs;
};
extern volatile struct fault fault;
extern volatile uint32_t site, site_next, try_resume, try_esp;
/* Label 1 at the instruction meant to fault, 2 behind it. EAX is clobbered first; the rest is inputs. */
#define ATTEMPT(code, ...)                                                                                             \
    do {                                                                                                               \
        fault.happened = false;                                                                                        \
        __asm__ volatile("movl $1f, site; movl $2f, site_next; movl $2f, try_resume; movl %%esp, try_esp\n" code       \
                         "\n movl try_esp, %%esp" ::__VA_ARGS__                                                        \
                         : "eax", "memory", "cc");                                                                     \
        try_resume = 0;                                                                                                \
    } while (0)
void expect_at(const char *name, unsigned vector, uint32_t error, uint32_t eip, const char *file, int line);
void expect_none_at(const char *name, const char *file, int line);
#define EXPECT_FAULT(name, vector, error) expect_at(name, vector, error, site, __FILE__, __LINE__)
#define EXPECT_TRAP(name, vector, error) expect_at(name, vector, error, site_next, __FILE__, __LINE__)
#define EXPECT_NONE(name) expect_none_at(name, __FILE__, __LINE__)

/* Load every register from *f, go there by IRET, come back at the first exception or INT 0x80 (DPL 3) with the state in
 * *f and in fault. */
void run_frame(struct frame *f);
struct frame user_frame(const void *eip); /* flat ring 3 */

void init(void); /* IDT, TSS in TR with ring 0 stack */
extern uint8_t stubs[];
extern uint32_t tss[];
extern uint64_t gdt[64];
extern uint64_t idt[256];
uint64_t segment(uint32_t base, uint32_t limit, unsigned access, unsigned flags); /* flags: G 8, D/B 4 */
uint64_t gate(unsigned sel, const void *off, unsigned access);
void set_idt(unsigned v, uint64_t g);
void *page_alloc(void);

static inline void outb(uint16_t p, uint8_t v)
{
    __asm__ volatile("outb %0,%1" ::"a"(v), "Nd"(p));
}
static inline void outw(uint16_t p, uint16_t v)
{
    __asm__ volatile("outw %0,%1" ::"a"(v), "Nd"(p));
}
static inline uint8_t inb(uint16_t p)
{
    uint8_t v;
    __asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(p));
    return v;
}
static inline uint64_t rdmsr(uint32_t m)
{
    uint64_t v;
    __asm__ volatile("rdmsr" : "=A"(v) : "c"(m));
    return v;
}
static inline void wrmsr(uint32_t m, uint64_t v)
{
    __asm__ volatile("wrmsr" ::"c"(m), "A"(v) : "memory");
}
#define CR_RW(n)                                                                                                       \
    static inline uint32_t read_cr##n(void)                                                                            \
    {                                                                                                                  \
        uint32_t v;                                                                                                    \
        __asm__ volatile("movl %%cr" #n ",%0" : "=r"(v));                                                              \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void write_cr##n(uint32_t v)                                                                         \
    {                                                                                                                  \
        __asm__ volatile("movl %0,%%cr" #n ::"r"(v) : "memory");                                                       \
    }
CR_RW(0) CR_RW(2) CR_RW(3) CR_RW(4) static inline void cpuid(uint32_t l, uint32_t s, uint32_t r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(l), "c"(s));
}
void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);
#endif
