#include "boot/aml.h"

#include <string.h>

enum {
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_DUAL_NAME = 0x2e,
    OP_MULTI_NAME = 0x2f,
    OP_EXT = 0x5b,
    OP_EXT_DEVICE = 0x82,
};

void aml_bytes(struct aml *a, const void *p, size_t n)
{
    if (n > a->cap - a->len) {
        a->full = true;
        return;
    }
    memcpy(a->buf + a->len, p, n);
    a->len += n;
}

void aml_u8(struct aml *a, uint8_t v)
{
    aml_bytes(a, &v, 1);
}

static void little_endian(struct aml *a, uint64_t v, unsigned n)
{
    for (; n; n--, v >>= 8)
        aml_u8(a, (uint8_t)v);
}

void aml_u16(struct aml *a, uint16_t v)
{
    little_endian(a, v, 2);
}

void aml_u32(struct aml *a, uint32_t v)
{
    little_endian(a, v, 4);
}

void aml_u64(struct aml *a, uint64_t v)
{
    little_endian(a, v, 8);
}

void aml_name_string(struct aml *a, const char *path)
{
    if (*path == '\\') {
        aml_u8(a, '\\');
        path++;
    }
    unsigned segs = *path ? 1 : 0;
    for (const char *p = path; *p; p++)
        segs += *p == '.';
    if (segs == 0) {
        aml_u8(a, 0);
        return;
    }
    if (segs == 2) {
        aml_u8(a, OP_DUAL_NAME);
    } else if (segs > 2) {
        aml_u8(a, OP_MULTI_NAME);
        aml_u8(a, (uint8_t)segs);
    }
    while (segs--) {
        char seg[4] = {'_', '_', '_', '_'};
        for (unsigned i = 0; *path && *path != '.'; path++)
            if (i < 4)
                seg[i++] = *path;
        path += *path == '.';
        aml_bytes(a, seg, 4);
    }
}

void aml_integer(struct aml *a, uint64_t v)
{
    if (v <= 1) {
        aml_u8(a, (uint8_t)v); /* ZeroOp, OneOp */
    } else if (v <= 0xff) {
        aml_u8(a, OP_BYTE);
        aml_u8(a, (uint8_t)v);
    } else if (v <= 0xffff) {
        aml_u8(a, OP_WORD);
        aml_u16(a, (uint16_t)v);
    } else if (v <= 0xffffffff) {
        aml_u8(a, OP_DWORD);
        aml_u32(a, (uint32_t)v);
    } else {
        aml_u8(a, OP_QWORD);
        aml_u64(a, v);
    }
}

void aml_string(struct aml *a, const char *s)
{
    aml_u8(a, OP_STRING);
    aml_bytes(a, s, strlen(s) + 1);
}

static unsigned hex(char c)
{
    return c >= 'A' ? (unsigned)(c - 'A' + 10) : (unsigned)(c - '0');
}

/* Three 5-bit letters and four hexadecimal digits, stored big-endian (ACPI 6.4, 19.3.4). */
void aml_eisa_id(struct aml *a, const char *id)
{
    unsigned v = (id[0] & 31u) << 26 | (id[1] & 31u) << 21 | (id[2] & 31u) << 16 | hex(id[3]) << 12 | hex(id[4]) << 8 |
                 hex(id[5]) << 4 | hex(id[6]);
    aml_u8(a, OP_DWORD);
    aml_u32(a, __builtin_bswap32(v));
}

void aml_name(struct aml *a, const char *path)
{
    aml_u8(a, OP_NAME);
    aml_name_string(a, path);
}

void aml_name_integer(struct aml *a, const char *path, uint64_t v)
{
    aml_name(a, path);
    aml_integer(a, v);
}

/* PkgLength always takes the three-byte form here, so that it can be filled in afterwards. */
static size_t open_pkg(struct aml *a)
{
    static const uint8_t room[3];
    size_t mark = a->len;
    aml_bytes(a, room, sizeof(room));
    return mark;
}

void aml_close(struct aml *a, size_t mark)
{
    if (a->full)
        return;
    size_t n = a->len - mark; /* counts itself */
    if (n >= 1u << 20) {
        a->full = true;
        return;
    }
    a->buf[mark] = (uint8_t)(2 << 6 | (n & 15));
    a->buf[mark + 1] = (uint8_t)(n >> 4);
    a->buf[mark + 2] = (uint8_t)(n >> 12);
}

size_t aml_scope(struct aml *a, const char *path)
{
    aml_u8(a, OP_SCOPE);
    size_t mark = open_pkg(a);
    aml_name_string(a, path);
    return mark;
}

size_t aml_device(struct aml *a, const char *name)
{
    aml_u8(a, OP_EXT);
    aml_u8(a, OP_EXT_DEVICE);
    size_t mark = open_pkg(a);
    aml_name_string(a, name);
    return mark;
}

size_t aml_package(struct aml *a, uint8_t elements)
{
    aml_u8(a, OP_PACKAGE);
    size_t mark = open_pkg(a);
    aml_u8(a, elements);
    return mark;
}

/* --- resource descriptors ------------------------------------------------ */

struct aml_resources aml_resources_begin(struct aml *a)
{
    struct aml_resources r;
    aml_u8(a, OP_BUFFER);
    r.pkg = open_pkg(a);
    aml_u8(a, OP_WORD);
    r.size_at = a->len;
    aml_u16(a, 0);
    r.start = a->len;
    return r;
}

void aml_resources_end(struct aml *a, struct aml_resources r)
{
    aml_u8(a, 0x79); /* end tag */
    aml_u8(a, 0);    /* no checksum */
    if (a->full)
        return;
    size_t n = a->len - r.start;
    a->buf[r.size_at] = (uint8_t)n;
    a->buf[r.size_at + 1] = (uint8_t)(n >> 8);
    aml_close(a, r.pkg);
}

void aml_io(struct aml *a, uint16_t port, uint8_t len)
{
    aml_u8(a, 0x47);
    aml_u8(a, 1); /* decodes 16 bits */
    aml_u16(a, port);
    aml_u16(a, port);
    aml_u8(a, 1); /* alignment */
    aml_u8(a, len);
}

void aml_irq(struct aml *a, uint8_t irq)
{
    aml_u8(a, 0x22);
    aml_u16(a, (uint16_t)(1u << (irq & 15)));
}

void aml_memory32_fixed(struct aml *a, uint32_t base, uint32_t len)
{
    aml_u8(a, 0x86);
    aml_u16(a, 9);
    aml_u8(a, 1); /* read-write */
    aml_u32(a, base);
    aml_u32(a, len);
}

enum { SPACE_MEMORY = 0, SPACE_IO = 1, SPACE_BUS = 2 };

/* Address space descriptors: fixed range, produced (forwarded) by the bridge, of width 2, 4 or 8 bytes. */
static void window(struct aml *a, uint8_t tag, unsigned width, uint8_t space, uint8_t flags, uint64_t first,
                   uint64_t last)
{
    aml_u8(a, tag);
    aml_u16(a, (uint16_t)(3 + 5 * width));
    aml_u8(a, space);
    aml_u8(a, 0x0c); /* minimum and maximum fixed, positive decode, producer */
    aml_u8(a, flags);
    little_endian(a, 0, width); /* granularity */
    little_endian(a, first, width);
    little_endian(a, last, width);
    little_endian(a, 0, width); /* translation */
    little_endian(a, last - first + 1, width);
}

void aml_bus_window(struct aml *a, uint16_t first, uint16_t last)
{
    window(a, 0x88, 2, SPACE_BUS, 0, first, last);
}

void aml_io_window(struct aml *a, uint16_t first, uint16_t last)
{
    window(a, 0x88, 2, SPACE_IO, 3, first, last); /* whole range, ISA and not */
}

void aml_memory32_window(struct aml *a, uint32_t first, uint32_t last)
{
    window(a, 0x87, 4, SPACE_MEMORY, 1, first, last); /* read-write, not cached */
}

void aml_memory64_window(struct aml *a, uint64_t first, uint64_t last)
{
    window(a, 0x8a, 8, SPACE_MEMORY, 1, first, last);
}
