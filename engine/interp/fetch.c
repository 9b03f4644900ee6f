/*
 * Fetching and decoding one instruction. Steps, which have no blocks, remember what they decoded. Decoding is a pure function
 * of the bytes, the mode and the features, so an entry is good when the bytes in memory are still those it was made of: nobody need
 * tell it of stores, flushes or other spaces.
 */
#include <string.h>

#include "engine/interp/interp.h"

int interp_fetch(struct x86_cpu *c, struct x86_insn *in)
{
    const bool m64 = c->mode == X86_MODE_64;
    const uint64_t lin = m64 ? c->rip : (uint32_t)(c->rip + c->seg[X86_CS].base);
    unsigned avail = X86_MAX_INSN, n;
    uint8_t buf[X86_MAX_INSN];
    const uint8_t *host;
    uint64_t gpa;

    if (m64) {
        if (!x86_canonical(lin))
            return x86_raise_err(c, X86_GP, 0);
    } else {
        if (c->rip > c->seg[X86_CS].limit)
            return x86_raise_err(c, X86_GP, 0);
        if (c->seg[X86_CS].limit - c->rip < X86_MAX_INSN - 1)
            avail = (unsigned)(c->seg[X86_CS].limit - c->rip) + 1;
    }
    n = 0x1000 - (unsigned)(lin & 0xfff);
    n = n < avail ? n : avail;
    if (x86_fetch_page(c, lin, &host, &gpa))
        return X86_FAULT;
    if (host)
        memcpy(buf, host + (lin & 0xfff), n);
    else
        x86_phys_read(c, gpa | (lin & 0xfff), buf, n);
    for (;;) {
        switch (x86_decode(in, buf, n, (enum x86_mode_bits)c->mode, !x86_pe(c) || x86_v86(c), x86_feature_bits(c->cpuid))) {
        case X86_DEC_OK: return X86_OK;
        case X86_DEC_UD: return x86_raise(c, X86_UD);
        case X86_DEC_GP: return x86_raise_err(c, X86_GP, 0);
        case X86_DEC_MORE: break;
        }
        if (n == avail) /* beyond the limit of CS */
            return x86_raise_err(c, X86_GP, 0);
        const uint64_t next = m64 ? lin + n : (uint32_t)(lin + n);

        if (m64 && !x86_canonical(next))
            return x86_raise_err(c, X86_GP, 0);
        if (x86_fetch_page(c, next, &host, &gpa))
            return X86_FAULT;
        if (host)
            memcpy(buf + n, host, avail - n);
        else
            x86_phys_read(c, gpa, buf + n, avail - n);
        n = avail;
    }
}

static uint64_t head(unsigned n) { return n >= 8 ? ~0ull : (1ull << 8 * n) - 1; }

const struct x86_insn *interp_fetch_known(struct interp *it)
{
    struct x86_cpu *c = &it->v->cpu;
    const bool m64 = c->mode == X86_MODE_64;
    const uint64_t lin = m64 ? c->rip : (uint32_t)(c->rip + c->seg[X86_CS].base);
    const unsigned off = lin & 0xfff;
    const uint8_t how = (uint8_t)((unsigned)c->mode << 1 | (!x86_pe(c) || x86_v86(c)));
    struct known *k = &it->known[(lin ^ lin >> KNOWN_BITS) & ((1u << KNOWN_BITS) - 1)];
    const bool whole = off <= 0x1000 - 16 &&
                       (m64 ? x86_canonical(lin) : c->rip <= c->seg[X86_CS].limit && c->seg[X86_CS].limit - c->rip >= X86_MAX_INSN - 1);
    uint64_t gpa, b[2];
    const uint8_t *host;

    if (whole) {
        if (x86_fetch_page(c, lin, &host, &gpa))
            return NULL;
        if (host) {
            memcpy(b, host + off, sizeof(b));
            if (k->in.len && k->how == how && !(((b[0] ^ k->bytes[0]) & k->mask[0]) | ((b[1] ^ k->bytes[1]) & k->mask[1])))
                return &k->in;
        }
    }
    k->in.len = 0;
    if (interp_fetch(c, &k->in)) {
        k->in.len = 0;
        return NULL;
    }
    k->how = how;
    k->mask[0] = head(k->in.len);
    k->mask[1] = k->in.len > 8 ? head(k->in.len - 8u) : 0;
    memcpy(k->bytes, k->in.bytes, sizeof(k->bytes));
    return &k->in;
}
