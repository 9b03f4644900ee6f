/* Function bounds from .eh_frame (the DWARF call frame information of the System V ABI; Linux Standard Base, 10.6). */
#include "lab/image.h"

struct cur {
    const struct lab_section *s;
    uint64_t at, end; /* offsets in the section */
    bool bad;
};

static uint64_t fixed(struct cur *c, unsigned n)
{
    uint64_t v = 0;
    if (n > c->end - c->at) {
        c->bad = true;
        return 0;
    }
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)c->s->data[c->at + i] << 8 * i;
    c->at += n;
    return v;
}

static uint64_t uleb(struct cur *c)
{
    uint64_t v = 0, b;
    unsigned shift = 0;
    do {
        b = fixed(c, 1);
        if (shift < 64)
            v |= (b & 127) << shift;
        shift += 7;
    } while ((b & 128) && !c->bad);
    return v;
}

/* Width of a pointer encoding, 0 if not one of those compilers use for code; sign: it is sign-extended. */
static unsigned encoded_width(uint8_t enc, bool m64, bool *sign)
{
    *sign = enc & 8;
    switch (enc & 7) {
    case 0: return m64 ? 8 : 4;
    case 2: return 2;
    case 3: return 4;
    case 4: return 8;
    default: return 0;
    }
}

static uint64_t extend(uint64_t v, unsigned width, bool sign)
{
    unsigned sh = 64 - 8 * width;
    return sign ? (uint64_t)((int64_t)(v << sh) >> sh) : v;
}

/* The encoding of code addresses that a CIE's augmentation states; 0 (absolute) if it does not, 0xff if it cannot be
 * read. */
static uint8_t cie_encoding(struct cur c, bool m64)
{
    char aug[8];
    unsigned n = 0;
    bool sign;
    fixed(&c, 1);
    do
        aug[n] = (char)fixed(&c, 1);
    while (aug[n] && ++n < sizeof(aug) && !c.bad);
    if (n == sizeof(aug) || c.bad)
        return 0xff;
    uleb(&c);
    uleb(&c);
    uleb(&c);
    if (aug[0] != 'z')
        return aug[0] ? 0xff : 0;
    uleb(&c);
    for (unsigned i = 1; i < n; i++) {
        if (aug[i] == 'R')
            return (uint8_t)fixed(&c, 1);
        if (aug[i] == 'L')
            fixed(&c, 1);
        else if (aug[i] == 'P')
            fixed(&c, encoded_width((uint8_t)fixed(&c, 1), m64, &sign));
        else if (aug[i] != 'S' && aug[i] != 'B')
            return 0xff;
    }
    return c.bad ? 0xff : 0;
}

static int frame(struct lab_image *im, struct cur c, uint64_t id_at, uint64_t id, bool m64)
{
    const struct lab_section *s = c.s;
    bool sign;
    if (id > id_at) /* the CIE lies id bytes before this field */
        return 0;
    struct cur cie = {s, id_at - id, s->size, false};
    uint64_t n = fixed(&cie, 4);
    if (!n || n == 0xffffffff || n > cie.end - cie.at || fixed(&cie, 4) || cie.bad)
        return 0;
    cie.end = cie.at - 4 + n;
    uint8_t enc = cie_encoding(cie, m64), base = enc & 0x70;
    unsigned w = encoded_width(enc, m64, &sign);
    if (enc == 0xff || !w || (base && base != 0x10))
        return 0;
    uint64_t here = s->addr + c.at, start = extend(fixed(&c, w), w, sign), size = fixed(&c, w);
    if (base == 0x10)
        start += here;
    if (!m64)
        start = (uint32_t)start;
    const struct lab_section *in = lab_section_at(im, start);
    if (c.bad || !in || !in->exec || !size || size > in->size - (start - in->addr))
        return 0;
    return lab_add_seed(im, start, size, NULL, MEANS_UNWIND, true);
}

int lab_eh_frame(struct lab_image *im, const struct lab_section *s)
{
    struct cur c = {s, 0, s->size, false};
    while (!c.bad && c.at < s->size) {
        uint64_t n = fixed(&c, 4), id_at = c.at;
        if (n == 0xffffffff || n < 4 || n > s->size - c.at)
            break; /* the end, or a 64-bit form nobody writes */
        uint64_t id = fixed(&c, 4);
        struct cur entry = {s, c.at, id_at + n, false};
        if (id && frame(im, entry, id_at, id, im->mode == X86_MODE_64))
            return -1;
        c.at = id_at + n;
    }
    return 0;
}
