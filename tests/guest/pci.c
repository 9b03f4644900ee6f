/* PCI: configuration mechanism 1 and ECAM, BAR sizing, capabilities, MSI-X, ACPI tables (PCI 3.0, 6; PCIe 7.2.2). */
/* guest-options: --disk 1M */
#include "acpi.h"
#include "attempt.h"
#include "pci.h"

static void mechanism1(void)
{
    uint32_t old = inl(0xcf8);
    outl(0xcf8, 0x80000000);
    CHECK_EQ("CONFIG_ADDRESS reads back", inl(0xcf8), 0x80000000);
    CHECK("host bridge at 00:00.0", inl(0xcfc) != 0xffffffff && pci_read(0, 8) >> 16 == 0x0600);
    outb(0xcf8, 0x12);
    outl(0xcf8, 0x80000000);
    outw(0xcf8, 0x1234);
    CHECK_EQ("CONFIG_ADDRESS takes 32-bit writes only", inl(0xcf8), 0x80000000);
    outl(0xcf8, 0);
    CHECK_EQ("disabled: reads give all ones", inl(0xcfc), 0xffffffff);
    CHECK_EQ("missing device", pci_read(31 << 3 | 7, 0), 0xffffffff);
    CHECK_EQ("missing bus", pci_read(0xff00, 0), 0xffffffff);
    uint32_t id = pci_read(0, 0);
    outl(0xcf8, 0x80000000);
    CHECK_EQ("16-bit access to the upper half", inw(0xcfe), id >> 16);
    CHECK_EQ("byte access", inb(0xcfd), id >> 8 & 0xff);
    pci_write(0, 0, 0);
    CHECK_EQ("vendor and device are read-only", pci_read(0, 0), id);
    outl(0xcf8, old);
}

static void device(void)
{
    unsigned bdf = pci_find(0x10421af4, 0);
    CHECK("virtio-blk is there", bdf);
    if (!bdf)
        return;
    CHECK_EQ("subsystem vendor", pci_read(bdf, 0x2c) & 0xffff, 0x1af4);
    CHECK_EQ("header type 0", pci_read(bdf, 0xc) >> 16 & 0x7f, 0);
    pci_write16(bdf, 4, 0);
    unsigned bars = 0;
    for (unsigned i = 0; i < 6; i++) {
        unsigned reg = 0x10 + 4 * i;
        uint32_t was = pci_read(bdf, reg), hi = 0;
        pci_write(bdf, reg, 0xffffffff);
        uint32_t mask = pci_read(bdf, reg);
        if (!mask)
            continue;
        bars++;
        bool io = mask & 1, wide = !io && (mask & 6) == 4;
        uint32_t size = ~(mask & (io ? ~3u : ~15u)) + 1;
        CHECK("BAR size is a power of two", size && !(size & (size - 1)));
        CHECK("memory BARs have at least 16 bytes", io || size >= 16);
        CHECK_EQ("BAR type bits are read-only", mask & (io ? 3 : 15), was & (io ? 3 : 15));
        pci_write(bdf, reg, 0x12345678);
        CHECK_EQ("BAR keeps bits above its size", pci_read(bdf, reg) & (io ? ~3u : ~15u), 0x12345678 & ~(size - 1));
        pci_write(bdf, reg, was);
        if (wide) {
            hi = pci_read(bdf, reg + 4);
            pci_write(bdf, reg + 4, 0xffffffff);
            CHECK_EQ("upper half of a 64-bit BAR", pci_read(bdf, reg + 4), 0xffffffff);
            pci_write(bdf, reg + 4, hi);
            i++;
        }
    }
    CHECK("has BARs", bars);
    pci_write(bdf, 0x30, 0);
    /* virtio capabilities: common, notify, ISR, device, PCI access */
    unsigned kinds = 0;
    for (unsigned n = 0; n < 16; n++) {
        unsigned at = pci_cap(bdf, 9, n);
        if (!at)
            break;
        kinds |= 1u << (pci_read(bdf, at) >> 24);
    }
    CHECK_EQ("virtio capabilities 1 to 4", kinds & 0x1e, 0x1e);
    unsigned msix = pci_cap(bdf, 0x11, 0);
    CHECK("MSI-X capability", msix);
    if (!msix)
        return;
    unsigned n = (pci_read(bdf, msix) >> 16 & 0x7ff) + 1;
    CHECK("MSI-X: two vectors at least", n >= 2);
    pci_write16(bdf, msix + 2, 0xc000);
    CHECK_EQ("MSI-X: enable and function mask are writable, the size is not", pci_read(bdf, msix) >> 16,
             0xc000 | (n - 1));
    uint32_t table = pci_read(bdf, msix + 4), pba = pci_read(bdf, msix + 8);
    CHECK("MSI-X: table and PBA are in BARs", (table & 7) < 6 && (pba & 7) < 6);
    volatile uint32_t *t = (volatile uint32_t *)((volatile uint8_t *)pci_bar(bdf, table & 7) + (table & ~7u));
    CHECK_EQ("MSI-X: entries are masked after reset", t[3] & 1, 1);
    t[0] = 0xfee00000;
    t[1] = 0;
    t[2] = 0x61;
    CHECK("MSI-X: entry reads back", t[0] == 0xfee00000 && t[1] == 0 && t[2] == 0x61);
    t[4 * (n - 1) + 2] = 0x99;
    CHECK_EQ("MSI-X: last entry reads back", t[4 * (n - 1) + 2], 0x99);
    pci_write16(bdf, msix + 2, 0);
    pci_write16(bdf, 4, 0);
    pci_write16(bdf, 4, 0x407);
    CHECK_EQ("command register", pci_read(bdf, 4) & 0x406, 0x406);
    pci_write(bdf, 4, 0xffff0006);
    CHECK_EQ("status: capabilities list bit stays", pci_read(bdf, 4) >> 20 & 1, 1);
}

static void ecam(void)
{
    const struct acpi_header *m = acpi_find("MCFG");
    if (!m) {
        skip("ECAM", "no MCFG");
        return;
    }
    uint64_t base = *(const uint64_t *)((const uint8_t *)m + 44);
    CHECK("ECAM is 1 MiB aligned and in reach", base && !(base & 0xfffff) && !(base >> 32));
    bool same = true;
    for (unsigned bdf = 0; bdf < 256; bdf++)
        for (unsigned r = 0; r < 256; r += 4)
            same &= *(volatile uint32_t *)(base + (bdf << 12) + r) == pci_read(bdf, r);
    CHECK("ECAM and mechanism 1 agree", same);
    CHECK_EQ("ECAM: bytes", *(volatile uint8_t *)(base + 1), pci_read(0, 1) & 0xff);
    CHECK_EQ("ECAM: words", *(volatile uint16_t *)(base + 2), pci_read(0, 2) & 0xffff);
    unsigned bdf = pci_find(0x10421af4, 0);
    *(volatile uint8_t *)(base + (bdf << 12) + 0x3c) = 0x5a;
    CHECK_EQ("ECAM: write seen by mechanism 1", pci_read(bdf, 0x3c) & 0xff, 0x5a);
    CHECK("ECAM: extended space of a conventional device",
          *(volatile uint32_t *)(base + (bdf << 12) + 0x100) == 0xffffffff ||
              *(volatile uint32_t *)(base + (bdf << 12) + 0x100) == 0);
}

static void tables(void)
{
    static const char sigs[2][5] = {"FACP", "APIC"};
    for (int i = 0; i < 2; i++)
        CHECK(sigs[i], acpi_find(sigs[i]));
    const uint8_t *madt = (const uint8_t *)acpi_find("APIC");
    if (!madt)
        return;
    unsigned cpus = 0, ioapics = 0;
    for (const uint8_t *e = madt + 44; e < madt + ((const struct acpi_header *)madt)->length && e[1]; e += e[1]) {
        cpus += e[0] == 0 && (e[4] & 1);
        ioapics += e[0] == 1 && *(const uint32_t *)(e + 4) == 0xfec00000;
    }
    CHECK_EQ("MADT: one processor", cpus, 1);
    CHECK_EQ("MADT: one I/O APIC at its place", ioapics, 1);
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    mechanism1();
    device();
    ecam();
    tables();
    finish();
}
