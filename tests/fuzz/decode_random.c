/*
 * The decoder against Zydis on random byte strings: decode_random [count [seed]].
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
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000, seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1, bad = 0;
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
    return bad != 0;
}
