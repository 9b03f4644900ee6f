/* ACPI tables; see the header. Layouts are those of ACPI 6.4, 5.2. */
#include "boot/acpi.h"

#include <stdio.h>
#include <string.h>

#include "boot/aml.h"
#include "boot/loader.h"

#define HEADER 36u
#define RSDP_SIZE 36u
#define FADT_SIZE 276u
#define FACS_SIZE 64u
#define MAX_TABLES 8

enum { GAS_MEMORY = 0, GAS_IO = 1 };

struct build {
    const struct acpi_config *cfg;
    struct aml a;
    uint64_t table[MAX_TABLES]; /* what the XSDT lists */
    unsigned ntables;
};

static void align_to(struct aml *a, size_t n)
{
    while (a->len % n && !a->full)
        aml_u8(a, 0);
}

static uint8_t checksum(const uint8_t *p, size_t n)
{
    uint8_t sum = 0;
    while (n--)
        sum = (uint8_t)(sum + *p++);
    return (uint8_t)-sum;
}

/* A system description table: header now, length and checksum when it is complete. */
static size_t table_begin(struct aml *a, const char sig[4], uint8_t revision)
{
    align_to(a, 16);
    size_t at = a->len;
    aml_bytes(a, sig, 4);
    aml_u32(a, 0);
    aml_u8(a, revision);
    aml_u8(a, 0);
    aml_bytes(a, "RINGER", 6);
    aml_bytes(a, "RINGERPC", 8);
    aml_u32(a, 1);
    aml_bytes(a, "RNGR", 4);
    aml_u32(a, 1);
    return at;
}

static uint64_t table_end(struct build *b, size_t at)
{
    struct aml *a = &b->a;
    if (a->full)
        return 0;
    put32(a->buf + at + 4, (uint32_t)(a->len - at));
    a->buf[at + 9] = checksum(a->buf + at, a->len - at);
    return b->cfg->base + at;
}

static void list_table(struct build *b, uint64_t gpa)
{
    b->table[b->ntables++] = gpa;
}

static void put_gas(uint8_t *p, uint8_t space, uint8_t bytes, uint64_t addr)
{
    p[0] = space;
    p[1] = (uint8_t)(8 * bytes);
    p[2] = 0;
    p[3] = bytes == 1 ? 1 : bytes == 2 ? 2 : bytes == 4 ? 3 : 0; /* access size */
    put64(p + 4, addr);
}

/* --- DSDT ------------------------------------------------------------------- */

static void device_ids(struct aml *a, const char *hid, unsigned uid)
{
    aml_name(a, "_HID");
    aml_eisa_id(a, hid);
    aml_name_integer(a, "_UID", uid);
}

static void dsdt_pci(struct aml *a, const struct acpi_config *c)
{
    size_t dev = aml_device(a, "PCI0");
    aml_name(a, "_HID");
    aml_eisa_id(a, "PNP0A08");
    aml_name(a, "_CID");
    aml_eisa_id(a, "PNP0A03");
    aml_name_integer(a, "_UID", 0);
    aml_name_integer(a, "_SEG", 0);
    aml_name_integer(a, "_BBN", 0);
    aml_name(a, "_CRS");
    struct aml_resources r = aml_resources_begin(a);
    aml_bus_window(a, 0, c->pci_bus_end);
    aml_io(a, 0xcf8, 8);
    aml_io_window(a, 0x0000, 0x0cf7);
    aml_io_window(a, 0x0d00, 0xffff);
    if (c->mmio32_size)
        aml_memory32_window(a, c->mmio32_base, c->mmio32_base + (c->mmio32_size - 1));
    if (c->mmio64_size)
        aml_memory64_window(a, c->mmio64_base, c->mmio64_base + (c->mmio64_size - 1));
    aml_resources_end(a, r);

    aml_name(a, "_PRT");
    size_t prt = aml_package(a, 32 * 4);
    for (unsigned slot = 0; slot < 32; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            size_t e = aml_package(a, 4);
            aml_integer(a, slot << 16 | 0xffff); /* any function */
            aml_integer(a, pin);
            aml_integer(a, 0); /* hard-wired to a global interrupt */
            aml_integer(a, c->intx_gsi[(slot + pin) % 4]);
            aml_close(a, e);
        }
    }
    aml_close(a, prt);
    aml_close(a, dev);
}

static void dsdt_isa(struct aml *a, const struct acpi_config *c)
{
    for (unsigned i = 0; i < ACPI_MAX_SERIAL; i++) {
        if (!c->serial[i].port)
            continue;
        char name[5] = {'C', 'O', 'M', (char)('1' + i), 0};
        size_t dev = aml_device(a, name);
        device_ids(a, "PNP0501", i + 1);
        aml_name(a, "_CRS");
        struct aml_resources r = aml_resources_begin(a);
        aml_io(a, c->serial[i].port, 8);
        aml_irq(a, c->serial[i].irq);
        aml_resources_end(a, r);
        aml_close(a, dev);
    }
    if (c->rtc) {
        size_t dev = aml_device(a, "RTC");
        device_ids(a, "PNP0B00", 0);
        aml_name(a, "_CRS");
        struct aml_resources r = aml_resources_begin(a);
        aml_io(a, 0x70, 2);
        aml_irq(a, 8);
        aml_resources_end(a, r);
        aml_close(a, dev);
    }
    if (c->i8042) {
        size_t dev = aml_device(a, "KBD");
        device_ids(a, "PNP0303", 0);
        aml_name(a, "_CRS");
        struct aml_resources r = aml_resources_begin(a);
        aml_io(a, 0x60, 1);
        aml_io(a, 0x64, 1);
        aml_irq(a, 1);
        aml_resources_end(a, r);
        aml_close(a, dev);
    }
    if (c->hpet_addr) {
        size_t dev = aml_device(a, "HPET");
        device_ids(a, "PNP0103", 0);
        aml_name(a, "_CRS");
        struct aml_resources r = aml_resources_begin(a);
        aml_memory32_fixed(a, c->hpet_addr, 0x400);
        aml_resources_end(a, r);
        aml_close(a, dev);
    }
    if (c->pvpanic_port) {
        size_t dev = aml_device(a, "PVP");
        aml_name(a, "_HID");
        aml_string(a, "QEMU0001"); /* the id guests know the interface by */
        aml_name_integer(a, "_UID", 0);
        aml_name(a, "_CRS");
        struct aml_resources r = aml_resources_begin(a);
        aml_io(a, c->pvpanic_port, 1);
        aml_resources_end(a, r);
        aml_close(a, dev);
    }
}

/* What belongs to the board and nobody may allocate. Linux uses ECAM only if it is reserved so. */
static void dsdt_board(struct aml *a, const struct acpi_config *c)
{
    size_t dev = aml_device(a, "MBRD");
    device_ids(a, "PNP0C02", 0);
    aml_name(a, "_CRS");
    struct aml_resources r = aml_resources_begin(a);
    if (c->ecam_base && c->ecam_base + ((uint64_t)c->pci_bus_end + 1) * 0x100000 <= LOAD_4G)
        aml_memory32_fixed(a, (uint32_t)c->ecam_base, ((uint32_t)c->pci_bus_end + 1) * 0x100000);
    if (c->pm_evt)
        aml_io(a, c->pm_evt, 4);
    if (c->pm_cnt)
        aml_io(a, c->pm_cnt, 2);
    if (c->pm_tmr)
        aml_io(a, c->pm_tmr, 4);
    if (c->gpe0_len)
        aml_io(a, c->gpe0, c->gpe0_len);
    if (c->debugcon_port)
        aml_io(a, c->debugcon_port, 1);
    aml_resources_end(a, r);
    aml_close(a, dev);
}

static void dsdt_cpus(struct aml *a, const struct acpi_config *c)
{
    for (unsigned i = 0; i < c->ncpu; i++) {
        char name[5];
        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        size_t dev = aml_device(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        aml_name_integer(a, "_UID", i);
        aml_close(a, dev);
    }
}

static uint64_t build_dsdt(struct build *b)
{
    struct aml *a = &b->a;
    const struct acpi_config *c = b->cfg;
    size_t at = table_begin(a, "DSDT", 2);
    if (c->pm_cnt) {
        aml_name(a, "\\_S5");
        size_t p = aml_package(a, 4);
        aml_integer(a, c->slp_typ_s5);
        aml_integer(a, c->slp_typ_s5);
        aml_integer(a, 0);
        aml_integer(a, 0);
        aml_close(a, p);
    }
    size_t sb = aml_scope(a, "\\_SB");
    dsdt_cpus(a, c);
    if (c->pci)
        dsdt_pci(a, c);
    dsdt_isa(a, c);
    dsdt_board(a, c);
    aml_close(a, sb);
    return table_end(b, at);
}

/* --- the other tables ---------------------------------------------------- */

static uint64_t build_facs(struct build *b)
{
    uint8_t f[FACS_SIZE] = {'F', 'A', 'C', 'S'};
    align_to(&b->a, 64);
    uint64_t at = b->cfg->base + b->a.len;
    put32(f + 4, FACS_SIZE);
    f[32] = 2; /* version */
    aml_bytes(&b->a, f, sizeof(f));
    return at;
}

enum { ARCH_LEGACY = 1, ARCH_8042 = 2, ARCH_NO_VGA = 4, ARCH_NO_ASPM = 16, ARCH_NO_RTC = 32 };
enum {
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_NO_SLP_BUTTON = 1 << 5,
    FADT_RTC_NO_WAKE = 1 << 6,
    FADT_TMR_32 = 1 << 8,
    FADT_RESET = 1 << 10
};

static uint64_t build_fadt(struct build *b, uint64_t facs, uint64_t dsdt)
{
    const struct acpi_config *c = b->cfg;
    uint8_t f[FADT_SIZE] = {0};
    put32(f + 36, (uint32_t)facs);
    put32(f + 40, (uint32_t)dsdt);
    f[45] = 1; /* desktop */
    put16(f + 46, c->sci_gsi);
    put32(f + 56, c->pm_evt);
    put32(f + 64, c->pm_cnt);
    put32(f + 76, c->pm_tmr);
    f[88] = c->pm_evt ? 4 : 0;
    f[89] = c->pm_cnt ? 2 : 0;
    f[91] = c->pm_tmr ? 4 : 0;
    if (c->gpe0_len) {
        put32(f + 80, c->gpe0);
        f[92] = c->gpe0_len;
        put_gas(f + 220, GAS_IO, c->gpe0_len, c->gpe0);
        f[223] = 1; /* accessed by bytes */
    }
    put16(f + 96, 0xfff);       /* no C2 */
    put16(f + 98, 0xffff);      /* no C3 */
    f[108] = c->rtc ? 0x32 : 0; /* century byte in CMOS */
    put16(f + 109, (uint16_t)(ARCH_LEGACY | ARCH_NO_VGA | ARCH_NO_ASPM | (c->i8042 ? ARCH_8042 : 0) |
                              (c->rtc ? 0 : ARCH_NO_RTC)));
    put32(f + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLP_BUTTON | FADT_RTC_NO_WAKE | FADT_TMR_32 |
                       (c->reset_port ? FADT_RESET : 0));
    if (c->reset_port) {
        put_gas(f + 116, GAS_IO, 1, c->reset_port);
        f[128] = c->reset_value;
    }
    f[131] = 4; /* minor version: ACPI 6.4 */
    put64(f + 140, dsdt);
    if (c->pm_evt)
        put_gas(f + 148, GAS_IO, 4, c->pm_evt);
    if (c->pm_evt)
        f[151] = 2; /* two 16-bit registers */
    if (c->pm_cnt)
        put_gas(f + 172, GAS_IO, 2, c->pm_cnt);
    if (c->pm_tmr)
        put_gas(f + 208, GAS_IO, 4, c->pm_tmr);
    size_t at = table_begin(&b->a, "FACP", 6);
    aml_bytes(&b->a, f + HEADER, sizeof(f) - HEADER);
    return table_end(b, at);
}

/* Interrupt source override: bus-relative IRQ, where it goes, polarity and trigger (0: as the ISA bus has it). */
enum { MPS_LEVEL_HIGH = 0x0d };

static void madt_override(struct aml *a, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    aml_u8(a, 2);
    aml_u8(a, 10);
    aml_u8(a, 0);
    aml_u8(a, irq);
    aml_u32(a, gsi);
    aml_u16(a, flags);
}

static uint64_t build_madt(struct build *b)
{
    struct aml *a = &b->a;
    const struct acpi_config *c = b->cfg;
    size_t at = table_begin(a, "APIC", 5);
    aml_u32(a, c->lapic_addr);
    aml_u32(a, 1); /* 8259s are there too */
    for (unsigned i = 0; i < c->ncpu; i++) {
        if (i < 255) {
            aml_u8(a, 0);
            aml_u8(a, 8);
            aml_u8(a, (uint8_t)i);
            aml_u8(a, (uint8_t)i);
            aml_u32(a, 1); /* enabled */
        } else {
            aml_u8(a, 9);
            aml_u8(a, 16);
            aml_u16(a, 0);
            aml_u32(a, i);
            aml_u32(a, 1);
            aml_u32(a, i);
        }
    }
    aml_u8(a, 1);
    aml_u8(a, 12);
    aml_u8(a, c->ioapic_id);
    aml_u8(a, 0);
    aml_u32(a, c->ioapic_addr);
    aml_u32(a, 0);
    madt_override(a, 0, 2, 0); /* the PIT is wired to pin 2 */
    uint32_t level = 0;        /* ISA numbers with level-triggered users */
    if (c->pm_evt && c->sci_gsi < 16)
        level |= 1u << c->sci_gsi;
    for (unsigned i = 0; i < 4 && c->pci; i++)
        if (c->intx_gsi[i] && c->intx_gsi[i] < 16)
            level |= 1u << c->intx_gsi[i];
    for (uint8_t i = 0; i < 16; i++)
        if (level & 1u << i)
            madt_override(a, i, i, MPS_LEVEL_HIGH);
    aml_u8(a, 4); /* NMI: LINT1 of every processor */
    aml_u8(a, 6);
    aml_u8(a, 0xff);
    aml_u16(a, 0);
    aml_u8(a, 1);
    return table_end(b, at);
}

static uint64_t build_mcfg(struct build *b)
{
    struct aml *a = &b->a;
    size_t at = table_begin(a, "MCFG", 1);
    aml_u64(a, 0);
    aml_u64(a, b->cfg->ecam_base);
    aml_u16(a, 0);
    aml_u8(a, 0);
    aml_u8(a, b->cfg->pci_bus_end);
    aml_u32(a, 0);
    return table_end(b, at);
}

static uint64_t build_hpet(struct build *b)
{
    struct aml *a = &b->a;
    uint8_t gas[12];
    size_t at = table_begin(a, "HPET", 1);
    aml_u32(a, 0x8086a201); /* revision 1, 3 comparators, 64-bit counter, legacy replacement */
    put_gas(gas, GAS_MEMORY, 8, b->cfg->hpet_addr);
    gas[3] = 0;
    aml_bytes(a, gas, sizeof(gas));
    aml_u8(a, 0);     /* number */
    aml_u16(a, 0x80); /* least period in periodic mode */
    aml_u8(a, 0);
    return table_end(b, at);
}

static uint64_t build_spcr(struct build *b)
{
    struct aml *a = &b->a;
    uint8_t gas[12];
    size_t at = table_begin(a, "SPCR", 2);
    aml_u32(a, 0); /* 16550, three reserved bytes */
    put_gas(gas, GAS_IO, 1, b->cfg->serial[0].port);
    aml_bytes(a, gas, sizeof(gas));
    aml_u8(a, 3); /* 8259 and I/O APIC */
    aml_u8(a, b->cfg->serial[0].irq);
    aml_u32(a, b->cfg->serial[0].irq);
    aml_u8(a, 7); /* 115200 */
    aml_u8(a, 0); /* no parity */
    aml_u8(a, 1); /* one stop bit */
    aml_u8(a, 0); /* no flow control */
    aml_u8(a, 3); /* ANSI terminal */
    aml_u8(a, 0);
    aml_u16(a, 0xffff); /* not a PCI device */
    aml_u16(a, 0xffff);
    aml_u8(a, 0);
    aml_u8(a, 0);
    aml_u8(a, 0);
    aml_u32(a, 0);
    aml_u8(a, 0);
    aml_u32(a, 0);
    return table_end(b, at);
}

static uint64_t build_root(struct build *b, const char sig[4], bool wide)
{
    size_t at = table_begin(&b->a, sig, 1);
    for (unsigned i = 0; i < b->ntables; i++) {
        if (wide)
            aml_u64(&b->a, b->table[i]);
        else
            aml_u32(&b->a, (uint32_t)b->table[i]);
    }
    return table_end(b, at);
}

size_t acpi_build(const struct acpi_config *cfg, uint8_t *buf, size_t cap, uint64_t *rsdp)
{
    struct build b = {.cfg = cfg, .a = {.buf = buf, .cap = cap}};
    uint8_t root[RSDP_SIZE] = {0};
    aml_bytes(&b.a, root, sizeof(root)); /* filled in last */
    uint64_t facs = build_facs(&b), dsdt = build_dsdt(&b);
    list_table(&b, build_fadt(&b, facs, dsdt));
    list_table(&b, build_madt(&b));
    if (cfg->pci && cfg->ecam_base)
        list_table(&b, build_mcfg(&b));
    if (cfg->hpet_addr)
        list_table(&b, build_hpet(&b));
    if (cfg->spcr && cfg->serial[0].port)
        list_table(&b, build_spcr(&b));
    uint64_t rsdt = build_root(&b, "RSDT", false), xsdt = build_root(&b, "XSDT", true);
    if (b.a.full)
        return 0;

    memcpy(root, "RSD PTR ", 8);
    memcpy(root + 9, "RINGER", 6);
    root[15] = 2; /* revision */
    put32(root + 16, (uint32_t)rsdt);
    put32(root + 20, RSDP_SIZE);
    put64(root + 24, xsdt);
    root[8] = checksum(root, 20);
    root[32] = checksum(root, RSDP_SIZE);
    memcpy(buf, root, sizeof(root));
    *rsdp = cfg->base;
    return b.a.len;
}
