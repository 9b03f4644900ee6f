/*
 * A teaching kernel: paging, two user processes, system calls, timer preemption, console; then a self-test of what a monitor can get wrong.
 * Command line: "bench" measures costs, "victim" and "hostile" are for two machines side by side, "spin" loops for ever.
 */
#include "machine.h"

void kernel_main(u32 info);

static int has_word(const char *s, const char *w)
{
    for (; *s; s++) {
        u32 i = 0;
        while (w[i] && s[i] == w[i])
            i++;
        if (!w[i])
            return 1;
    }
    return 0;
}

void kernel_main(u32 info)
{
    const u32 *in = (const u32 *)(word)info;
    const u32 words_at = in[0] == 0x336ec578 ? in[6] /* PVH: magic, ... */ : in[0] & 4 ? in[4] /* Multiboot: flags, ... */ : 0;
    const char *words = words_at ? (const char *)(word)words_at : "";

    machine_init();
    print("teach: " BITS "-bit teaching kernel, ");
    print(machine_name);
    print("\n");
    tables_init();
    paging_init();
    timer_init();
    if (has_word(words, "spin"))
        for (;;)
            __asm__ volatile("");
    if (has_word(words, "hostile"))
        hostile();
    if (has_word(words, "bench")) {
        bench();
        power_off(0);
    }
    if (has_word(words, "victim")) {
        victim();
    } else {
        test_machine();
#ifndef ADAPTED
        test_sensitive();
#endif
        test_processes();
    }
    print("teach: ");
    print_dec(right);
    print(" right, ");
    print_dec(wrong);
    print(" wrong\n");
    power_off(wrong != 0);
}
