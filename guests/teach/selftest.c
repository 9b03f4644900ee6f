/* The self-test: it prints what it saw beside what a processor of its own shows. */
#include "machine.h"

u32 right, wrong;

void saw(const char *what, word value, word expected)
{
    const int ok = value == expected, digits = (value | expected) >> 16 >> 16 ? 16 : 8;
    print(ok ? "right  " : "WRONG  ");
    print(what);
    print(": ");
    print_hex(value, digits);
    if (!ok) {
        print(", a processor of its own shows ");
        print_hex(expected, digits);
    }
    print("\n");
    if (ok)
        right++;
    else
        wrong++;
}

/* Reported by system calls of user_main. */
void saw_in_user(u32 i, word value)
{
#ifdef __x86_64__
    static const char *const what[] = {"MOV from CS in user code", "MOV from DS in user code", "PUSHF in user code, IF"};
#else
    static const char *const what[] = {"PUSH CS in user code", "MOV from DS in user code", "PUSHF in user code, IF"};
#endif
    static const word expect[] = {USER_CS, USER_DS, FLAG_IF};
    if (i < 3)
        saw(what[i], value, expect[i]);
}

/* Within half a second: a host may be busy with others. */
int a_tick_comes(void)
{
    const u32 t = ticks;
    for (u32 i = 0; i < 50 && ticks == t; i++)
        wait_ticks(1);
    return ticks > t;
}

/* The same for both builds: interrupts, idling, a page table changed under way. */
void test_machine(void)
{
    interrupts_close();
    wait_ticks(1);
    u32 t = ticks;
    wait_ticks(3);
    saw("timer interrupts arrive while closed", ticks > t, 0);
    interrupts_open();
    saw("timer interrupts arrive while open", (word)a_tick_comes(), 1);
    saw("the interrupt flag while open", (word)interrupts_are_open(), 1);
    t = ticks;
    while (ticks < t + 2)
        idle();
    saw("an interrupt ends idling", ticks >= t + 2, 1);
    interrupts_close();
    saw("the interrupt flag while closed", (word)interrupts_are_open(), 0);

    volatile u32 *const a = (u32 *)(USER_DATA + 0x1000), *const b = (u32 *)(USER_DATA + 0x2000);
    u32 *const p0 = (u32 *)(void *)user_page(0), *const p1 = (u32 *)(void *)user_page(1);
    use_space(0);
    *p0 = 0x11111111;
    *p1 = 0x22222222;
    map_pages((struct mapping[]){{0, (word)a, (word)p0}, {0, (word)b, (word)p1}}, 2);
    saw("two pages after they were mapped", *a == 0x11111111 && *b == 0x22222222, 1);
    map_pages((struct mapping[]){{0, (word)a, (word)p1}, {0, (word)b, (word)p0}}, 2);
    saw("the same addresses after an exchange", *a == 0x22222222 && *b == 0x11111111, 1);
    *a = 0x33333333;
    saw("a store through one of them", *p1, 0x33333333);
    map_pages((struct mapping[]){{0, (word)a, 0}, {0, (word)b, 0}}, 2);
    *p0 = *p1 = 0;
    use_space(NPROC);
}

void test_processes(void)
{
    for (u32 p = 0; p < NPROC; p++)
        spawn(p, user_main);
    stop_processes_at(ticks + 20);
    run_processes();
    saw("CLI in user code raises #GP, per process", user_gp, NPROC);
    saw("kernel page in user code: error code", user_fault_error, 5);
    saw("kernel page in user code: CR2", user_fault_addr, 0x100000);
    saw("both processes computed at one address", shared_of(0)->count && shared_of(1)->count, 1);
    saw("they were preempted", switches >= 4, 1);
}
