/* Processes: a kernel stack each, switched by going on with another one's frame; and their system calls. */
#include "machine.h"

static u8 stack[NPROC][4096] __attribute__((aligned(16)));
static struct frame *proc[NPROC];
static u8 alive[NPROC];
static u32 current, stop_at;
u32 running;
volatile u32 switches, syscalls;

static word stack_top(u32 p) { return (word)(stack[p] + sizeof(stack[p])); }

static struct frame *switch_to(u32 p)
{
    current = p;
    set_kernel_stack(stack_top(p));
    use_space(p);
    return proc[p];
}

/* The next process after this one that is alive. None: back into run_processes. */
struct frame *schedule(struct frame *f)
{
    proc[current] = f;
    for (u32 i = 1; i <= NPROC; i++) {
        const u32 n = (current + i) % NPROC;
        if (!alive[n])
            continue;
        if (n == current)
            return f;
        switches++;
        return switch_to(n);
    }
    use_space(NPROC);
    running = 0;
    leave();
}

void stop_processes_at(u32 t) { stop_at = t; }

void tick(void)
{
    ticks++;
    if (running && ticks >= stop_at)
        for (u32 p = 0; p < NPROC; p++)
            shared_of(p)->stop = 1;
}

struct frame *system_call(struct frame *f)
{
    syscalls++;
    switch (f->ax) {
    case SYS_EXIT: alive[current] = 0; return schedule(f);
    case SYS_YIELD: return schedule(f);
    case SYS_SAW:
        if (current == 0)
            saw_in_user((u32)f->bx, f->cx);
        return f;
    default: return f;
    }
}

void spawn(u32 p, void (*fn)(void))
{
    struct frame *f = (struct frame *)(stack_top(p) - sizeof(*f));
    *f = (struct frame){.ip = (word)fn, .cs = USER_CS, .flags = FLAG_IF | 2, .sp = USER_DATA + 4096 - sizeof(word), .ss = USER_DS};
#ifndef __x86_64__
    f->ds = f->es = USER_DS;
#endif
    proc[p] = f;
    alive[p] = 1;
}

void run_processes(void)
{
    interrupts_close();
    for (u32 p = 0; p < NPROC; p++)
        if (alive[p]) {
            running = 1;
            struct frame *f = switch_to(p);
            while (interrupt_leave(1))
                tick();
            enter(f);
            break;
        }
    interrupts_close();
}
