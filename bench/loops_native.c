/*
 * The loops on the bare host: loops_native NAME=ITERATIONS... prints for each
 * "NAME RESULT WALL_NS CPU_NS".
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct loop {
    char name[12];
    int32_t per_iteration;
    void *code;
    uint64_t iterations;
};
extern const struct loop loops_table[];
uint64_t loops_run(void *code, uint64_t iterations, void *memory);

static uint64_t now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
    static _Alignas(4096) uint8_t memory[1 << 16];
    for (int i = 1; i < argc; i++) {
        char *eq = strchr(argv[i], '=');
        const struct loop *l = loops_table;
        while (eq && l->code && (strlen(l->name) != (size_t)(eq - argv[i]) || strncmp(l->name, argv[i], (size_t)(eq - argv[i]))))
            l++;
        uint64_t n = eq ? strtoull(eq + 1, NULL, 0) : 0;
        if (!n || !l->code) {
            fprintf(stderr, "loops_native: '%s' is not LOOP=ITERATIONS\n", argv[i]);
            return 2;
        }
        uint64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
        uint64_t result = loops_run(l->code, n, memory);
        cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        wall = now(CLOCK_MONOTONIC) - wall;
        printf("%s %016llx %llu %llu\n", l->name, (unsigned long long)result, (unsigned long long)wall, (unsigned long long)cpu);
    }
    return 0;
}
