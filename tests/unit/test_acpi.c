/* Every table read back as a guest would: checksums, lengths, pointers; the AML by a small parser. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/loader.h"

#define BASE 0xe0000u
#define CAP 0x10000u

static const struct acpi_config config = {
    .base = BASE,
    .ncpu = 5,
    .lapic_addr = 0xfee00000,
    .ioapic_addr = 0xfec00000,
    .ioapic_id = 7,
    .pm_evt = 0x600,
    .pm_cnt = 0x604,
    .pm_tmr = 0x608,
    .gpe0 = 0x620,
    .gpe0_len = 4,
    .sci_gsi = 9,
    .reset_port = 0xcf9,
    .reset_value = 6,
    .slp_typ_s5 = 0,
    .pci = true,
    .ecam_base = 0xb0000000,
    .pci_bus_end = 255,
    .mmio32_base = 0xc0000000,
    .mmio32_size = 0x3ec00000,
    .mmio64_base = 0x8000000000,
    .mmio64_size = 0x100000000,
    .intx_gsi = {16, 17, 18, 19},
    .hpet_addr = 0xfed00000,
    .serial = {{0x3f8, 4}, {0x2f8, 3}},
    .rtc = true,
    .i8042 = true,
    .pvpanic_port = 0x505,
    .debugcon_port = 0xe9,
    .spcr = true,
};

struct built {
    uint8_t buf[CAP];
    size_t len;
    uint64_t rsdp;
};

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    while (n--)
        s = (uint8_t)(s + *p++);
    return s;
}

static const uint8_t *at(const struct built *b, uint64_t gpa, size_t n)
{
    assert_in_range(gpa, BASE, BASE + b->len);
    assert_true(n <= BASE + b->len - gpa);
    return b->buf + (gpa - BASE);
}

static const uint8_t *table(const struct built *b, uint64_t gpa, const char *sig)
{
    const uint8_t *t = at(b, gpa, 36);
    assert_memory_equal(t, sig, 4);
    at(b, gpa, get32(t + 4));
    assert_int_equal(sum(t, get32(t + 4)), 0);
    return t;
}

static const uint8_t *find(const struct built *b, const char *sig)
{
    const uint8_t *r = at(b, b->rsdp, 36), *x = table(b, get64(r + 24), "XSDT");
    for (size_t i = 36; i < get32(x + 4); i += 8) {
        const uint8_t *t = at(b, get64(x + i), 36);
        if (!memcmp(t, sig, 4))
            return table(b, get64(x + i), sig);
    }
    return NULL;
}

static struct built *build(const struct acpi_config *c)
{
    struct built *b = calloc(1, sizeof(*b));
    b->len = acpi_build(c, b->buf, CAP, &b->rsdp);
    assert_true(b->len > 0);
    return b;
}

static void roots(void **state)
{
    struct built *b = build(&config);
    const uint8_t *r = at(b, b->rsdp, 36);
    assert_int_equal(b->rsdp % 16, 0);
    assert_memory_equal(r, "RSD PTR ", 8);
    assert_int_equal(sum(r, 20), 0);
    assert_int_equal(sum(r, 36), 0);
    const uint8_t *x = table(b, get64(r + 24), "XSDT"), *rs = table(b, get32(r + 16), "RSDT");
    assert_int_equal((get32(x + 4) - 36) / 8, 5);
    assert_int_equal((get32(rs + 4) - 36) / 4, 5);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(get64(x + 36 + 8 * i), get32(rs + 36 + 4 * i));
    free(b);
}

static void fadt(void **state)
{
    struct built *b = build(&config);
    const uint8_t *f = find(b, "FACP");
    assert_int_equal(get32(f + 4), 276);
    const uint8_t *facs = at(b, get32(f + 36), 64);
    assert_memory_equal(facs, "FACS", 4);
    assert_int_equal(get32(f + 36) % 64, 0);
    assert_int_equal(get32(f + 40), get64(f + 140));
    assert_int_equal(get16(f + 46), 9);
    assert_int_equal(get32(f + 48), 0); /* no SMI command: always in ACPI mode */
    assert_int_equal(get32(f + 56), 0x600);
    assert_int_equal(get32(f + 64), 0x604);
    assert_int_equal(get32(f + 76), 0x608);
    assert_int_equal(get32(f + 80), 0x620);
    assert_int_equal(f[88], 4);
    assert_int_equal(f[89], 2);
    assert_int_equal(f[91], 4);
    assert_int_equal(f[92], 4);
    assert_true(get32(f + 112) & 1u << 8);   /* 32-bit timer */
    assert_true(get32(f + 112) & 1u << 10);  /* reset register */
    assert_false(get32(f + 112) & 1u << 20); /* not hardware-reduced */
    assert_int_equal(f[116], 1);
    assert_int_equal(get64(f + 120), 0xcf9);
    assert_int_equal(f[128], 6);
    const struct {
        unsigned off;
        uint32_t addr;
    } gas[] = {{148, 0x600}, {172, 0x604}, {208, 0x608}, {220, 0x620}};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(f[gas[i].off], 1);
        assert_int_equal(get64(f + gas[i].off + 4), gas[i].addr);
    }
    free(b);
}

static void madt(void **state)
{
    struct acpi_config c = config;
    c.intx_gsi[1] = 10;
    struct built *b = build(&c);
    const uint8_t *m = find(b, "APIC");
    unsigned cpus = 0, ioapics = 0, irq0 = 0, level = 0, nmi = 0;
    size_t i = 44;
    assert_int_equal(get32(m + 36), 0xfee00000);
    while (i < get32(m + 4)) {
        const uint8_t *e = m + i;
        assert_true(e[1] >= 6 && i + e[1] <= get32(m + 4));
        switch (e[0]) {
        case 0:
            assert_int_equal(e[3], cpus++);
            assert_int_equal(get32(e + 4), 1);
            break;
        case 1:
            ioapics++;
            assert_int_equal(e[2], 7);
            assert_int_equal(get32(e + 4), 0xfec00000);
            assert_int_equal(get32(e + 8), 0);
            break;
        case 2:
            if (e[3] == 0) {
                irq0++;
                assert_int_equal(get32(e + 4), 2);
            } else {
                level |= 1u << e[3];
                assert_int_equal(get32(e + 4), e[3]);
                assert_int_equal(get16(e + 8), 0xd);
            }
            break;
        case 4:
            nmi++;
            assert_int_equal(e[5], 1);
            break;
        default: fail();
        }
        i += e[1];
    }
    assert_int_equal(i, get32(m + 4));
    assert_int_equal(cpus, 5);
    assert_int_equal(ioapics, 1);
    assert_int_equal(irq0, 1);
    assert_int_equal(level, 1u << 9 | 1u << 10);
    assert_int_equal(nmi, 1);
    free(b);
}

static void mcfg_hpet_spcr(void **state)
{
    struct built *b = build(&config);
    const uint8_t *m = find(b, "MCFG"), *h = find(b, "HPET"), *s = find(b, "SPCR");
    assert_int_equal(get32(m + 4), 60);
    assert_int_equal(get64(m + 44), 0xb0000000);
    assert_int_equal(m[54], 0);
    assert_int_equal(m[55], 255);
    assert_int_equal(get32(h + 4), 56);
    assert_int_equal(h[40], 0);
    assert_int_equal(get64(h + 44), 0xfed00000);
    assert_int_equal(get32(s + 4), 80);
    assert_int_equal(get64(s + 44), 0x3f8);
    free(b);
    struct acpi_config c = config;
    c.hpet_addr = 0;
    c.ecam_base = 0;
    c.spcr = false;
    b = build(&c);
    assert_null(find(b, "MCFG"));
    assert_null(find(b, "HPET"));
    assert_null(find(b, "SPCR"));
    free(b);
}

/* --- a reader of AML ------------------------------------------------------ */

struct reader {
    const uint8_t *p, *end;
    char path[64];
    unsigned devices;
    /* what was found */
    char seen[2048];
    unsigned prt_entries, prt_gsis, resources;
};

static uint8_t byte(struct reader *r)
{
    assert_true(r->p < r->end);
    return *r->p++;
}

static const uint8_t *package_end(struct reader *r)
{
    const uint8_t *start = r->p;
    uint8_t lead = byte(r);
    size_t n = lead >> 6 ? lead & 15u : lead & 63u;
    for (unsigned i = 0; i < lead >> 6; i++)
        n |= (size_t)byte(r) << (4 + 8 * i);
    assert_true(n <= (size_t)(r->end - start));
    return start + n;
}

static void name_string(struct reader *r, char out[64])
{
    unsigned segs = 1, n = 0;
    if (*r->p == '\\')
        out[n++] = (char)byte(r);
    if (*r->p == 0x2e) {
        byte(r);
        segs = 2;
    } else if (*r->p == 0x2f) {
        byte(r);
        segs = byte(r);
    }
    assert_in_range(segs, 1, 8);
    while (segs--) {
        for (unsigned i = 0; i < 4; i++) {
            char c = (char)byte(r);
            assert_true((c >= 'A' && c <= 'Z') || c == '_' || (i && c >= '0' && c <= '9'));
            out[n++] = c;
        }
        if (segs)
            out[n++] = '.';
    }
    out[n] = 0;
}

static uint64_t integer(struct reader *r)
{
    uint8_t op = byte(r);
    uint64_t v = 0;
    unsigned n = op == 0x0a ? 1 : op == 0x0b ? 2 : op == 0x0c ? 4 : op == 0x0e ? 8 : 0;
    if (op <= 1)
        return op;
    assert_true(n);
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)byte(r) << (8 * i);
    return v;
}

static void resource_template(struct reader *r, const uint8_t *end)
{
    bool ended = false;
    assert_true(end <= r->end);
    while (r->p < end) {
        uint8_t tag = byte(r);
        assert_false(ended);
        size_t n = tag & 7;
        if (tag & 0x80) {
            n = byte(r);
            n |= (size_t)byte(r) << 8;
        }
        assert_true(n <= (size_t)(end - r->p));
        if (tag == 0x79)
            ended = true;
        else
            r->resources++;
        if (tag == 0x88 || tag == 0x87 || tag == 0x8a) { /* windows: length = max - min + 1 */
            unsigned w = tag == 0x88 ? 2 : tag == 0x87 ? 4 : 8;
            uint64_t f[5] = {0};
            assert_int_equal(n, 3 + 5 * w);
            for (unsigned i = 0; i < 5; i++)
                for (unsigned j = 0; j < w; j++)
                    f[i] |= (uint64_t)r->p[3 + i * w + j] << (8 * j);
            uint64_t len = f[2] - f[1] + 1;
            assert_true(w == 2 ? f[4] == (len & 0xffff) : f[4] == len);
        }
        r->p += n;
    }
    assert_true(ended);
}

static void object(struct reader *r, const char *name);

static void package(struct reader *r, const char *name)
{
    const uint8_t *end = package_end(r);
    unsigned n = byte(r);
    if (!strcmp(name, "_PRT")) {
        while (n--) {
            assert_int_equal(byte(r), 0x12);
            const uint8_t *e = package_end(r);
            assert_int_equal(byte(r), 4);
            uint64_t addr = integer(r), pin = integer(r), source = integer(r), gsi = integer(r);
            assert_int_equal(addr & 0xffff, 0xffff);
            assert_int_equal(source, 0);
            assert_int_equal(gsi, 16 + ((addr >> 16) + pin) % 4);
            assert_ptr_equal(r->p, e);
            r->prt_entries++;
        }
    } else {
        while (n--)
            object(r, "");
    }
    assert_ptr_equal(r->p, end);
}

static void object(struct reader *r, const char *name)
{
    uint8_t op = *r->p;
    if (op == 0x12) {
        byte(r);
        package(r, name);
    } else if (op == 0x11) {
        byte(r);
        const uint8_t *end = package_end(r);
        uint64_t n = integer(r);
        assert_int_equal(n, end - r->p);
        resource_template(r, end);
    } else if (op == 0x0d) {
        byte(r);
        while (byte(r))
            ;
    } else {
        integer(r);
    }
}

static void terms(struct reader *r, const uint8_t *end)
{
    char name[64];
    while (r->p < end) {
        uint8_t op = byte(r);
        if (op == 0x08) {
            name_string(r, name);
            strcat(strcat(r->seen, name), " ");
            object(r, name);
        } else if (op == 0x10 || (op == 0x5b && byte(r) == 0x82)) {
            const uint8_t *e = package_end(r);
            name_string(r, name);
            r->devices += op == 0x5b;
            if (name[0] != 'C' || name[1] == 'O')
                strcat(strcat(r->seen, name), "{ ");
            terms(r, e);
            assert_ptr_equal(r->p, e);
        } else {
            fail_msg("unknown opcode 0x%02x", op);
        }
    }
}

static void dsdt(void **state)
{
    struct built *b = build(&config);
    const uint8_t *f = find(b, "FACP"), *d = table(b, get32(f + 40), "DSDT");
    struct reader r = {.p = d + 36, .end = d + get32(d + 4)};
    terms(&r, r.end);
    assert_int_equal(r.prt_entries, 128);
    assert_int_equal(r.devices, 5 + 8); /* processors; PCI0 COM1 COM2 RTC KBD HPET PVP MBRD */
    for (const char *const *n = (const char *const[]){"\\_S5_ ", "\\_SB_{ ", "PCI0{ ", "COM1{ ", "COM2{ ", "RTC_{ ",
                                                      "KBD_{ ", "HPET{ ", "PVP_{ ", "MBRD{ ", NULL};
         *n; n++)
        assert_non_null(strstr(r.seen, *n));
    free(b);
}

static void encodings(void **state)
{
    uint8_t buf[64];
    struct aml a = {.buf = buf, .cap = sizeof(buf)};
    aml_eisa_id(&a, "PNP0A03");
    assert_memory_equal(buf, "\x0c\x41\xd0\x0a\x03", 5);
    a.len = 0;
    aml_name_string(&a, "\\_SB.PCI0.ISA");
    assert_memory_equal(buf, "\\\x2f\x03_SB_PCI0ISA_", 15);
    a.len = 0;
    aml_name_string(&a, "\\");
    assert_int_equal(a.len, 2);
    assert_memory_equal(buf, "\\\0", 2);
    a.len = 0;
    aml_integer(&a, 0x12345);
    assert_memory_equal(buf, "\x0c\x45\x23\x01\x00", 5);
}

/* Whatever room there is, it is never overrun. */
static void no_room(void **state)
{
    struct built *b = build(&config);
    size_t need = b->len;
    free(b);
    for (size_t cap = 0; cap < need; cap += 13) {
        uint64_t rsdp;
        uint8_t *buf = malloc(cap + 1);
        buf[cap] = 0xa5;
        assert_int_equal(acpi_build(&config, buf, cap, &rsdp), 0);
        assert_int_equal(buf[cap], 0xa5);
        free(buf);
    }
    struct acpi_config c = config;
    c.ncpu = 64;
    b = build(&c);
    free(b);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--dump")) { /* the DSDT, for a disassembler */
        struct built *b = build(&config);
        const uint8_t *f = find(b, "FACP"), *d = table(b, get32(f + 40), "DSDT");
        FILE *o = fopen(argv[2], "wb");
        return !o || fwrite(d, get32(d + 4), 1, o) != 1 || fclose(o);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roots),          cmocka_unit_test(fadt), cmocka_unit_test(madt),
        cmocka_unit_test(mcfg_hpet_spcr), cmocka_unit_test(dsdt), cmocka_unit_test(encodings),
        cmocka_unit_test(no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
