/* Linux bzImage: the payload, and the decompression of it and of whole files. */
#include <lz4.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "lab/image.h"

/* Output that grows up to a limit. */
struct sink {
    struct lab_image *im;
    uint8_t *buf;
    size_t len, cap, max;
};

/* Room for more; false if the limit or memory is reached. */
static bool grow(struct sink *s)
{
    size_t cap = s->cap ? 2 * s->cap : 1u << 20;
    if (cap > s->max)
        cap = s->max;
    if (cap == s->cap) {
        lab_fail(s->im, "decompresses to more than %zu MiB", s->max >> 20);
        return false;
    }
    uint8_t *p = realloc(s->buf, cap);
    if (!p) {
        lab_fail(s->im, "out of memory");
        return false;
    }
    s->buf = p;
    s->cap = cap;
    return true;
}

static int damaged(struct sink *s, const char *what)
{
    return lab_fail(s->im, "%s data is damaged or truncated", what);
}

static int un_gzip(struct sink *s, const uint8_t *p, size_t len)
{
    z_stream z = {.next_in = (Bytef *)p, .avail_in = (uInt)len};
    if (len > UINT32_MAX || inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return lab_fail(s->im, "out of memory");
    int r = Z_OK;
    bool full = false;
    while (r == Z_OK) {
        if (s->len == s->cap && (full = !grow(s)))
            break;
        z.next_out = s->buf + s->len;
        z.avail_out = s->cap - s->len > 1u << 30 ? 1u << 30 : (uInt)(s->cap - s->len);
        r = inflate(&z, Z_NO_FLUSH);
        s->len = (size_t)(z.next_out - s->buf);
    }
    inflateEnd(&z);
    return full ? -1 : r == Z_STREAM_END ? 0 : damaged(s, "gzip");
}

static int un_lzma(struct sink *s, const uint8_t *p, size_t len, bool xz)
{
    lzma_stream z = LZMA_STREAM_INIT;
    uint64_t memory = 1u << 30;
    bool full = false;
    lzma_ret r = xz ? lzma_stream_decoder(&z, memory, 0) : lzma_alone_decoder(&z, memory);
    z.next_in = p;
    z.avail_in = len;
    while (r == LZMA_OK) {
        if (s->len == s->cap && (full = !grow(s)))
            break;
        z.next_out = s->buf + s->len;
        z.avail_out = s->cap - s->len;
        r = lzma_code(&z, LZMA_RUN);
        s->len = (size_t)(z.next_out - s->buf);
    }
    lzma_end(&z);
    return full ? -1 : r == LZMA_STREAM_END ? 0 : damaged(s, xz ? "xz" : "lzma");
}

static int un_zstd(struct sink *s, const uint8_t *p, size_t len)
{
    ZSTD_DStream *z = ZSTD_createDStream();
    ZSTD_inBuffer in = {p, len, 0};
    size_t r = 1;
    bool full = false;
    if (!z)
        return lab_fail(s->im, "out of memory");
    while (r && !ZSTD_isError(r)) {
        if (s->len == s->cap && (full = !grow(s)))
            break;
        ZSTD_outBuffer out = {s->buf + s->len, s->cap - s->len, 0};
        size_t before = in.pos;
        r = ZSTD_decompressStream(z, &out, &in);
        s->len += out.pos;
        if (r && !ZSTD_isError(r) && !out.pos && in.pos == before)
            break; /* wants input that is not there */
    }
    ZSTD_freeDStream(z);
    return full ? -1 : r == 0 ? 0 : damaged(s, "zstd");
}

/* The legacy frame, which is what Linux uses: blocks of at most 8 MiB, each behind its length, with no end mark. */
static int un_lz4(struct sink *s, const uint8_t *p, size_t len)
{
    enum { BLOCK = 8 << 20 };
    size_t at = 4;
    while (len - at > 4) {
        uint32_t n = lab32(p + at);
        if (n > len - at - 4 || n > INT32_MAX)
            break;
        at += 4;
        while (s->cap - s->len < BLOCK && s->cap < s->max)
            if (!grow(s))
                return -1;
        size_t room = s->cap - s->len < BLOCK ? s->cap - s->len : BLOCK;
        int got = LZ4_decompress_safe((const char *)p + at, (char *)s->buf + s->len, (int)n, (int)room);
        if (got < 0)
            return damaged(s, "lz4");
        s->len += (size_t)got;
        at += n;
        if (got < BLOCK)
            return 0;
    }
    return s->len ? 0 : damaged(s, "lz4");
}

static const struct {
    const char *name;
    uint8_t n, magic[6];
} formats[] = {
    {"gzip", 2, {0x1f, 0x8b}},
    {"xz", 6, {0xfd, '7', 'z', 'X', 'Z', 0}},
    {"zstd", 4, {0x28, 0xb5, 0x2f, 0xfd}},
    {"lz4", 4, {0x02, 0x21, 0x4c, 0x18}},
    {"lzma", 3, {0x5d, 0, 0}},
    {"bzip2", 3, {'B', 'Z', 'h'}},
    {"lzo", 4, {0x89, 'L', 'Z', 'O'}},
};

const char *lab_compression(const uint8_t *p, size_t len)
{
    for (unsigned i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        if (len >= formats[i].n && !memcmp(p, formats[i].magic, formats[i].n))
            return formats[i].name;
    return NULL;
}

int lab_decompress(struct lab_image *im, const uint8_t *p, size_t len, size_t max, const uint8_t **out, size_t *outlen)
{
    const char *how = lab_compression(p, len);
    struct sink s = {.im = im, .max = max};
    int r;
    if (!how)
        return lab_fail(im, "compressed in a way that is not known");
    if (!strcmp(how, "gzip"))
        r = un_gzip(&s, p, len);
    else if (!strcmp(how, "xz") || !strcmp(how, "lzma"))
        r = un_lzma(&s, p, len, how[0] == 'x');
    else if (!strcmp(how, "zstd"))
        r = un_zstd(&s, p, len);
    else if (!strcmp(how, "lz4"))
        r = un_lz4(&s, p, len);
    else
        r = lab_fail(im, "compressed with %s, which is not supported: decompress it first", how);
    uint8_t *keep = r ? NULL : lab_alloc(im, s.len ? s.len : 1);
    if (keep) {
        memcpy(keep, s.buf, s.len);
        *out = keep;
        *outlen = s.len;
    }
    free(s.buf);
    return keep ? 0 : -1;
}

/* Linux's boot protocol (Documentation/arch/x86/boot.rst): the header at 0x1f1. */
bool lab_is_bzimage(const uint8_t *f, size_t len)
{
    return len >= 0x264 && lab16(f + 0x1fe) == 0xaa55 && !memcmp(f + 0x202, "HdrS", 4);
}

static void version(const uint8_t *f, size_t len, char *buf, size_t cap)
{
    size_t at = (size_t)lab16(f + 0x20e) + 0x200, n = 0;
    for (; lab16(f + 0x20e) && at < len && n + 1 < cap && f[at] > ' ' && f[at] <= '~'; at++)
        buf[n++] = (char)f[at];
    buf[n] = 0;
}

/* Where relocations were kept for a kernel that moves itself: behind the ELF file, lists of 32-bit addresses that are
 * read backwards, each ended by 0; what they point at holds an address. */
static int moved_addresses(struct lab_image *im, const uint8_t *p, size_t len, size_t elf_end)
{
    unsigned zeros = 0;
    for (size_t at = len & ~(size_t)3; at >= elf_end + 4 && zeros < 3; at -= 4) {
        uint64_t where = (uint64_t)(int64_t)(int32_t)lab32(p + at - 4), to;
        if (!where) {
            zeros++;
            continue;
        }
        if (im->mode != X86_MODE_64)
            where = (uint32_t)where;
        const struct lab_section *s = lab_section_at(im, where);
        if (!s || s->exec || s->size - (where - s->addr) < 8)
            continue;
        const uint8_t *v = s->data + (where - s->addr);
        to = im->mode != X86_MODE_64 ? lab32(v) : zeros == 2 ? lab64(v) : (uint64_t)(int64_t)(int32_t)lab32(v);
        if (lab_add_code(im, to, MEANS_RELOC))
            return -1;
    }
    return 0;
}

/* Where the ELF file inside the payload ends: behind its section headers, which linkers put last. */
static size_t elf_end(const uint8_t *p, size_t len)
{
    bool is64 = p[4] == 2;
    if (len < 64)
        return len;
    uint64_t off = is64 ? lab64(p + 40) : lab32(p + 32);
    uint64_t n = (uint64_t)lab16(p + (is64 ? 60 : 48)) * (is64 ? 64 : 40);
    return off < len && n <= len - off ? (size_t)(off + n + 3) & ~(size_t)3 : len;
}

int lab_bzimage_open(struct lab_image *im, const uint8_t *f, size_t len, size_t max)
{
    char ver[64];
    unsigned protocol = lab16(f + 0x206);
    if (protocol < 0x208)
        return lab_fail(im, "Linux boot protocol %u.%02u does not say where the payload is (2.08 does)", protocol >> 8,
                        protocol & 255);
    size_t sects = f[0x1f1] ? f[0x1f1] : 4;
    uint64_t at = (sects + 1) * 512 + (uint64_t)lab32(f + 0x248), n = lab32(f + 0x24c);
    if (at >= len || n > len - at || n < 8)
        return lab_fail(im, "bzImage is truncated: its payload ends behind the file");
    const char *how = lab_compression(f + at, (size_t)n);
    const uint8_t *p;
    size_t plen;
    if (lab_is_elf(f + at, (size_t)n)) {
        how = "nothing";
        p = f + at;
        plen = (size_t)n;
    } else if (lab_decompress(im, f + at, (size_t)n, max, &p, &plen)) {
        return -1;
    }
    if (!lab_is_elf(p, plen))
        return lab_fail(im, "the bzImage's payload is not an ELF file");
    if (lab_elf_open(im, p, plen))
        return -1;
    if (moved_addresses(im, p, plen, elf_end(p, plen)))
        return -1;
    version(f, len, ver, sizeof(ver));
    im->kernel = true;
    snprintf(im->kind, sizeof(im->kind),
             "Linux bzImage %s, %s-bit kernel compressed with %s, %zu bytes (its 16-bit setup and its decompressor are "
             "not looked at)",
             ver, im->mode == X86_MODE_64 ? "64" : "32", how, plen);
    return 0;
}
