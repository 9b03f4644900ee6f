/*
 * The decoder against Zydis on random byte strings: decode_random [count, by default 100 million [seed]]. Ends with the decoder's own speed.
 * Prints every kind of difference once, with its first example. Exit status 1 if there is any.
 */
#include <stdlib.h>
#include <time.h>

#include "tests/fuzz/decode_compare.h"
#include "tests/fuzz/decode_gen.h"

#define MAX_KINDS 300

int main(int argc, char **argv)
{
    static struct cmp c;
    static struct {
        char why[200];
        uint64_t n;
    } kinds[MAX_KINDS];
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 100000000, seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1, bad = 0;
    unsigned nkinds = 0;
    static const char *const mode_name[] = {"16", "32", "64", "real"};

    cmp_init(&c);
    for (uint64_t i = 0; i < count; i++) {
        uint8_t b[GEN_BYTES];
        gen_insn(&seed, b);
        enum cmp_mode mode = (enum cmp_mode)(i % 5 == 4 ? CMP_64 : i % 5);
        if (cmp_decode(&c, b, 16, mode))
            continue;
        bad++;
        char key[200];
        unsigned k;
        snprintf(key, sizeof(key), "%.40s %s", c.zi.mnemonic && c.zi.mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE ? ZydisMnemonicGetString(c.zi.mnemonic) : "?", c.why);
        for (k = 0; k < nkinds && strncmp(kinds[k].why, key, 30); k++)
            ;
        if (k == nkinds && nkinds < MAX_KINDS) {
            nkinds++;
            memcpy(kinds[k].why, key, sizeof(key));
            printf("mode %s:", mode_name[mode]);
            for (unsigned j = 0; j < 15; j++)
                printf(" %02x", b[j]);
            printf("  %s\n", key);
        }
        if (k < nkinds)
            kinds[k].n++;
    }
    printf("%llu strings: %llu decoded, %llu refused by both, %llu by rule, %llu differ\n", (unsigned long long)count,
           (unsigned long long)c.ok, (unsigned long long)c.refused, (unsigned long long)c.ruled, (unsigned long long)bad);

    /* Speed on what it meets: table rows, few prefixes, decoded again and again. */
    static uint8_t text[4096][GEN_BYTES];
    for (unsigned i = 0; i < 4096; i++) {
        gen_insn(&seed, text[i]);
        gen_row_of(&seed, text[i], &x86_isa[gen_next(&seed) % x86_isa_count], false);
    }
    struct timespec t0, t1;
    unsigned rounds = 500, sum = 0;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t0);
    for (unsigned k = 0; k < rounds; k++)
        for (unsigned i = 0; i < 4096; i++) {
            x86_decode(&c.in, text[i], 16, X86_MODE_64, false, NULL);
            sum += c.in.len;
        }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t1);
    double sec = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
    printf("%.1f million instructions per second, %.2f bytes each\n", rounds * 4096 / sec * 1e-6, (double)sum / (rounds * 4096));
    return bad != 0;
}
