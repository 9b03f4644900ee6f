/*
 * libFuzzer target: the decoder against Zydis, and its promises about bytes it
 * does not have yet. First input byte: mode.
 */
#include <stdlib.h>

#include "tests/fuzz/decode_compare.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cmp c;
    static bool ready;
    if (!ready) {
        cmp_init(&c);
        ready = true;
    }
    if (size < 2)
        return 0;
    enum cmp_mode mode = data[0] & 3;
    unsigned n = size - 1 > 16 ? 16 : (unsigned)size - 1;
    /* An exact allocation, so that the sanitizer sees a byte read too many. */
    uint8_t *b = malloc(n);
    memcpy(b, data + 1, n);
    bool good = cmp_decode(&c, b, n, mode) && cmp_bounds(&c, b, n, mode);
    if (!good) {
        fprintf(stderr, "%s\n", c.why);
        abort();
    }
    free(b);
    return 0;
}
