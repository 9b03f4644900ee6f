/* See acpi.h. Found through the RSDP below 1 MiB (ACPI 6.4, 5.2.5). */
#include "acpi.h"

static bool sums_to_zero(const void *p, uint32_t n)
{
    uint8_t s = 0;
    for (uint32_t i = 0; i < n; i++)
        s = (uint8_t)(s + ((const uint8_t *)p)[i]);
    return !s;
}

const struct acpi_header *acpi_find(const char sig[4])
{
    const uint8_t *rsdp = NULL;
    for (uint64_t a = 0xe0000; a < 0x100000 && !rsdp; a += 16)
        if (!memcmp((void *)a, "RSD PTR ", 8) && sums_to_zero((void *)a, 20))
            rsdp = (void *)a;
    if (!rsdp)
        return NULL;
    bool x = rsdp[15] >= 2 && *(uint64_t *)(rsdp + 24);
    const struct acpi_header *root = (void *)(x ? *(uint64_t *)(rsdp + 24) : (uint64_t) * (uint32_t *)(rsdp + 16));
    if (!sums_to_zero(root, root->length))
        return NULL;
    const uint8_t *e = (const uint8_t *)(root + 1), *end = (const uint8_t *)root + root->length;
    for (; e < end; e += x ? 8 : 4) {
        const struct acpi_header *h = (void *)(x ? *(uint64_t *)e : (uint64_t) * (uint32_t *)e);
        if (!memcmp(h->sig, sig, 4) && sums_to_zero(h, h->length))
            return h;
    }
    return NULL;
}
