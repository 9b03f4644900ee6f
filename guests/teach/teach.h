/* The teaching kernel's parts and what they offer each other. README.md walks through them. */
#ifndef TEACH_H
#define TEACH_H

#include "arch.h"

/* console.c */
void print(const char *s);
void print_hex(word v, int digits);
void print_dec(u32 v);

/* tables.c: descriptor tables, interrupt gates */
extern u64 gdt[], idt[];
void tables_init(void);
void descriptor(unsigned selector, word base, u32 limit, u32 bits);
void set_kernel_stack(word top); /* for entries from user code */

/* interrupt.c */
extern volatile u32 ticks;                     /* timer interrupts */
extern volatile u32 user_gp, user_fault_error; /* what the user code's offences led to */
extern volatile word user_fault_addr;
struct frame *interrupt(struct frame *f);

/* paging.c: 8 MiB of identity-mapped kernel; a page of each process' own at USER_DATA */
#define NPROC 2u
#define USER_DATA 0x800000u
void paging_init(void);
void use_space(u32 p); /* p == NPROC: the kernel alone */
struct mapping {
    u32 p;
    word addr; /* page at USER_DATA or behind it */
    word page; /* physical; 0: not present */
};
void map_pages(const struct mapping *m, u32 n); /* at most MAP_MAX */
#define MAP_MAX 64u
u8 *user_page(u32 p);

/* process.c */
enum { SYS_EXIT, SYS_SAW, SYS_NULL, SYS_YIELD };
extern volatile u32 switches, syscalls;
extern u32 running; /* user code runs, or the kernel on its behalf */
struct frame *schedule(struct frame *f);
struct frame *system_call(struct frame *f);
void spawn(u32 p, void (*fn)(void));
void run_processes(void); /* returns when all have ended */
struct shared {           /* at USER_DATA, private to each process */
    volatile u32 count, stop, result[16];
};
static inline struct shared *shared_of(u32 p) { return (struct shared *)(void *)user_page(p); }
void stop_processes_at(u32 tick);
void tick(void);

/* user.c */
void user_main(void);
void user_bench(void);

/* selftest.c, sensitive.c, bench.c, hostile.c */
void saw(const char *what, word value, word expected);
void saw_in_user(u32 i, word value);
extern u32 right, wrong;
int a_tick_comes(void);
void test_machine(void);
void test_sensitive(void);
void test_processes(void);
void bench(void);
void victim(void);
void hostile(void) __attribute__((noreturn));

/* start32.S, start64.S */
extern u8 stubs[], stub_syscall[], user_start[], user_end[];
void enter(struct frame *f);
void leave(void) __attribute__((noreturn));

#endif
