/*
 * Integer executors: shifts and rotates. A count of zero leaves every flag as it
 * was, a count beyond the size gives flags the manual leaves undefined: both come
 * out right because the host's instruction runs with the guest's flags loaded.
 */
#include "x86/exec_int.h"

typedef uint16_t (*shift_fn)(void *p, uint8_t n, uint16_t cc);
typedef uint16_t (*double_fn)(void *p, uint64_t s, uint8_t n, uint16_t cc);

#define SH1(name, op, sfx, T)                                                                                          \
    static uint16_t name(void *p, uint8_t n, uint16_t cc)                                                              \
    {                                                                                                                  \
        __asm__ volatile(X86_FLAGS_IN op sfx " %%cl, %0" X86_FLAGS_OUT                                                 \
                         : "+m"(*(T *)p), "+&a"(cc)                                                                    \
                         : "c"(n)                                                                                      \
                         : "cc", "memory");                                                                            \
        return cc;                                                                                                     \
    }
#define SH(name)                                                                                                       \
    SH1(h_##name##_1, #name, "b", uint8_t)                                                                             \
    SH1(h_##name##_2, #name, "w", x86_u16)                                                                             \
    SH1(h_##name##_4, #name, "l", x86_u32)                                                                             \
    SH1(h_##name##_8, #name, "q", x86_u64)                                                                             \
    EXEC(name)                                                                                                         \
    {                                                                                                                  \
        static const shift_fn f[4] = {h_##name##_1, h_##name##_2, h_##name##_4, h_##name##_8};                         \
        return shift(c, in, f);                                                                                        \
    }

static unsigned size_index(unsigned size) { return size == 8 ? 3 : size == 4 ? 2 : size == 2 ? 1 : 0; }

static int shift(struct x86_cpu *c, const struct x86_insn *in, const shift_fn f[4])
{
    const unsigned cnt = x86_explicit(in, 1);
    struct x86_dst d;
    uint64_t n = 1;
    uint16_t cc;
    int r;

    if (in->opnd[cnt].kind != X86_OPND_NONE && (r = x86_opnd_read(c, in, cnt, &n)))
        return r;
    if ((r = x86_dst_begin(c, in, 0, false, &d)))
        return r;
    cc = f[size_index(d.size)](d.p, (uint8_t)n, c->cc);
    if ((r = x86_dst_end(c, &d, true)))
        return r;
    c->cc = cc;
    return X86_OK;
}

SH(rol)
SH(ror)
SH(rcl)
SH(rcr)
SH(shl)
SH(shr)
SH(sar)

#define SD1(name, op, sfx, T, m)                                                                                       \
    static uint16_t name(void *p, uint64_t s, uint8_t n, uint16_t cc)                                                  \
    {                                                                                                                  \
        __asm__ volatile(X86_FLAGS_IN op sfx " %%cl, %" m "2, %0" X86_FLAGS_OUT                                        \
                         : "+m"(*(T *)p), "+&a"(cc)                                                                    \
                         : "r"(s), "c"(n)                                                                              \
                         : "cc", "memory");                                                                            \
        return cc;                                                                                                     \
    }
#define SD(name)                                                                                                       \
    SD1(h_##name##_2, #name, "w", x86_u16, "w")                                                                        \
    SD1(h_##name##_4, #name, "l", x86_u32, "k")                                                                        \
    SD1(h_##name##_8, #name, "q", x86_u64, "q")                                                                        \
    EXEC(name)                                                                                                         \
    {                                                                                                                  \
        static const double_fn f[4] = {h_##name##_2, h_##name##_2, h_##name##_4, h_##name##_8};                        \
        return shift_double(c, in, f);                                                                                 \
    }

static int shift_double(struct x86_cpu *c, const struct x86_insn *in, const double_fn f[4])
{
    struct x86_dst d;
    uint64_t s, n;
    uint16_t cc;
    int r;

    x86_opnd_read(c, in, 1, &s);
    x86_opnd_read(c, in, 2, &n);
    if ((r = x86_dst_begin(c, in, 0, false, &d)))
        return r;
    cc = f[size_index(d.size)](d.p, s, (uint8_t)n, c->cc);
    if ((r = x86_dst_end(c, &d, true)))
        return r;
    c->cc = cc;
    return X86_OK;
}

SD(shld)
SD(shrd)

/* BMI2: no flags; dest, source, count. */
static int shiftx(struct x86_cpu *c, const struct x86_insn *in, int kind)
{
    const unsigned size = in->opnd[0].size, bits = size * 8;
    uint64_t s, n;
    int r;

    if ((r = x86_opnd_read(c, in, 1, &s)) || (r = x86_opnd_read(c, in, 2, &n)))
        return r;
    n &= bits - 1;
    switch (kind) {
    case 0: s = s << n; break;
    case 1: s = s >> n; break;
    case 2: s = size == 8 ? (uint64_t)((int64_t)s >> n) : (uint32_t)((int32_t)s >> n); break;
    default: s = n ? s >> n | s << (bits - n) : s; break;
    }
    return x86_opnd_write(c, in, 0, s);
}
EXEC(shlx) { return shiftx(c, in, 0); }
EXEC(shrx) { return shiftx(c, in, 1); }
EXEC(sarx) { return shiftx(c, in, 2); }
EXEC(rorx) { return shiftx(c, in, 3); }
