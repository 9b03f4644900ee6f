/* virtio 1.x over PCI: a small driver for the block device, polled and by MSI-X and INTx; error cases (virtio 1.1,
 * 2, 4.1, 5.2). */
/* guest-options: --disk 1M */
#include "attempt.h"
#include "pci.h"

#define QSIZE 16
struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
static struct {
    volatile uint8_t *common, *notify, *isr, *device;
    uint32_t notify_mult;
    unsigned bdf;
    struct desc *desc;
    volatile uint16_t *avail, *used; /* used: flags, idx, then pairs of 32 bits */
    uint16_t seen;
    unsigned qsize;
} d;
static uint64_t features;
#define C8(o) (*(volatile uint8_t *)(d.common + (o)))
#define C16(o) (*(volatile uint16_t *)(d.common + (o)))
#define C32(o) (*(volatile uint32_t *)(d.common + (o)))
enum { ACK = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64 };

static bool find_regions(void)
{
    for (unsigned n = 0; n < 16; n++) {
        unsigned at = pci_cap(d.bdf, 9, n);
        if (!at)
            break;
        unsigned type = pci_read(d.bdf, at) >> 24, bar = pci_read(d.bdf, at + 4) & 0xff;
        if (type < 1 || type > 4 || bar > 5)
            continue;
        volatile uint8_t *p = (volatile uint8_t *)pci_bar(d.bdf, bar) + pci_read(d.bdf, at + 8);
        if (type == 1)
            d.common = p;
        if (type == 2) {
            d.notify = p;
            d.notify_mult = pci_read(d.bdf, at + 16);
        }
        if (type == 3)
            d.isr = p;
        if (type == 4)
            d.device = p;
    }
    return d.common && d.notify && d.isr && d.device;
}

static void queue_up(unsigned q, uint16_t vector)
{
    C16(22) = (uint16_t)q;
    d.qsize = QSIZE;
    C16(24) = QSIZE;
    d.desc = page_alloc();
    d.avail = page_alloc();
    d.used = page_alloc();
    d.seen = 0;
    *(volatile uint64_t *)(d.common + 32) = (uint64_t)d.desc;
    C32(40) = (uint32_t)(uint64_t)d.avail;
    C32(44) = 0;
    C32(48) = (uint32_t)(uint64_t)d.used;
    C32(52) = 0;
    C16(26) = vector;
    C16(28) = 1;
}

static void bring_up(uint16_t vector)
{
    C8(20) = 0;
    while (C8(20))
        ;
    C8(20) = ACK;
    C8(20) = ACK | DRIVER;
    C32(0) = 0;
    features = C32(4);
    C32(0) = 1;
    features |= (uint64_t)C32(4) << 32;
    C32(8) = 0;
    C32(12) = (uint32_t)features & ~(1u << 28 | 1u << 29); /* no indirect descriptors, no event index */
    C32(8) = 1;
    C32(12) = 1;
    C8(20) = ACK | DRIVER | FEATURES_OK;
    queue_up(0, vector);
    C8(20) = ACK | DRIVER | FEATURES_OK | DRIVER_OK;
}

static void kick(unsigned q)
{
    C16(22) = (uint16_t)q;
    *(volatile uint16_t *)(d.notify + C16(30) * d.notify_mult) = (uint16_t)q;
}

static void offer(uint16_t head)
{
    d.avail[2 + d.avail[1] % QSIZE] = head;
    __asm__ volatile("mfence" ::: "memory");
    d.avail[1]++;
    kick(0);
}

static bool used_one(uint32_t *id, uint32_t *len)
{
    for (int i = 0; i < 20000 && d.used[1] == d.seen; i++)
        delay_us(20);
    if (d.used[1] == d.seen)
        return false;
    volatile uint32_t *e = (volatile uint32_t *)(d.used + 2) + 2 * (d.seen % QSIZE);
    *id = e[0];
    *len = e[1];
    d.seen++;
    return true;
}

static struct {
    uint32_t type, prio;
    uint64_t sector;
} req;
static volatile uint8_t status;
static uint32_t used_len;

/* One request; the status byte, or 0xff when nothing came back. parts: the data is split over so many descriptors. */
static uint8_t request(uint32_t type, uint64_t sector, void *data, uint32_t len, bool to_device, unsigned parts)
{
    unsigned n = 0;
    req.type = type;
    req.prio = 0;
    req.sector = sector;
    status = 0xee;
    d.desc[n++] = (struct desc){(uint64_t)&req, 16, 1, 1};
    for (unsigned i = 0; len && i < parts; i++, n++) {
        uint32_t from = len / parts * i, to = i + 1 == parts ? len : len / parts * (i + 1);
        d.desc[n] =
            (struct desc){(uint64_t)data + from, to - from, (uint16_t)(1 | (to_device ? 0 : 2)), (uint16_t)(n + 1)};
    }
    d.desc[n] = (struct desc){(uint64_t)&status, 1, 2, 0};
    offer(0);
    uint32_t id;
    if (!used_one(&id, &used_len) || id)
        return 0xff;
    return status;
}

static uint8_t a[65536] __attribute__((aligned(4096))), b[65536] __attribute__((aligned(4096)));

static void transport(void)
{
    C8(20) = 0;
    CHECK_EQ("reset: status 0", C8(20), 0);
    CHECK_EQ("one queue or more", C16(18) >= 1, 1);
    C16(22) = 0;
    CHECK("queue 0 has a size that is a power of two", C16(24) && !(C16(24) & (C16(24) - 1)));
    CHECK_EQ("queue disabled after reset", C16(28), 0);
    C16(22) = 0x4000;
    LAX("ignores the selection");
    CHECK_EQ("queue out of range: size 0", C16(24), 0);
    C8(20) = ACK | DRIVER;
    C32(0) = 1;
    CHECK("offers VERSION_1", C32(4) & 1);
    C32(0) = 2;
    CHECK_EQ("feature word 2", C32(4), 0);
    C32(8) = 0;
    C32(12) = 0;
    C32(8) = 1;
    C32(12) = 0;
    C8(20) = ACK | DRIVER | FEATURES_OK;
    LAX("is lenient");
    CHECK("without VERSION_1 FEATURES_OK does not stay", !(C8(20) & FEATURES_OK));
    C8(20) = 0;
    CHECK_EQ("capacity", *(volatile uint64_t *)d.device, 2048);
}

static void transfers(void)
{
    bring_up(0xffff);
    CHECK_EQ("driver is up", C8(20), ACK | DRIVER | FEATURES_OK | DRIVER_OK);
    for (unsigned i = 0; i < sizeof(a); i++)
        a[i] = (uint8_t)(i * 13 + (i >> 8));
    memset(b, 1, 512);
    CHECK_EQ("read", request(0, 0, b, 512, false, 1), 0);
    CHECK_EQ("read: used length counts data and status", used_len, 513);
    bool zero = true;
    for (int i = 0; i < 512; i++)
        zero &= !b[i];
    CHECK("a fresh disk reads zero", zero);
    CHECK_EQ("write", request(1, 5, a, 4096, true, 1), 0);
    CHECK_EQ("write: used length is the status byte", used_len, 1);
    CHECK_EQ("read back", request(0, 5, b, 4096, false, 1), 0);
    CHECK("same data", !memcmp(a, b, 4096));
    CHECK_EQ("write in 5 pieces", request(1, 100, a + 512, 32768, true, 5), 0);
    memset(b, 0, sizeof(b));
    CHECK_EQ("read in 7 pieces", request(0, 100, b, 32768, false, 7), 0);
    CHECK("same data, other pieces", !memcmp(a + 512, b, 32768));
    CHECK_EQ("the last sector", request(1, 2047, a, 512, true, 1), 0);
    CHECK_EQ("beyond the end: IOERR", request(0, 2048, b, 512, false, 1), 1);
    CHECK_EQ("over the end: IOERR", request(1, 2047, a, 1024, true, 1), 1);
    CHECK_EQ("far beyond, overflowing: IOERR", request(0, ~0ull, b, 512, false, 1), 1);
    CHECK_EQ("unknown request: UNSUPP", request(0x1234, 0, b, 512, false, 1), 2);
    if (features >> 9 & 1)
        CHECK_EQ("flush", request(4, 0, NULL, 0, true, 1), 0);
    else
        skip("flush", "not offered");
    memset(b, 0, 32);
    CHECK_EQ("get id", request(8, 0, b, 20, false, 1), 0);
    b[20] = 0;
    print("  id '%s'\n", (char *)b);
    if (features >> 13 & 1) {
        struct {
            uint64_t sector;
            uint32_t num, flags;
        } seg = {100, 8, 0};
        CHECK_EQ("discard", request(11, 0, &seg, 16, true, 1), 0);
        CHECK_EQ("discarded sectors still read", request(0, 100, b, 4096, false, 1), 0);
        CHECK_EQ("their neighbours stay", request(0, 108, b, 512, false, 1) || memcmp(b, a + 512 + 4096, 512), 0);
        seg.sector = 1 << 20;
        CHECK_EQ("discard beyond the end: IOERR", request(11, 0, &seg, 16, true, 1), 1);
        seg.sector = 0;
        seg.flags = 1;
        CHECK_EQ("discard with the unmap flag: UNSUPP", request(11, 0, &seg, 16, true, 1), 2);
    } else
        skip("discard", "not offered");
    if (features >> 14 & 1) {
        struct {
            uint64_t sector;
            uint32_t num, flags;
        } seg = {5, 1, 0};
        CHECK_EQ("write zeroes", request(13, 0, &seg, 16, true, 1), 0);
        memset(b, 1, 1024);
        CHECK_EQ("read", request(0, 5, b, 1024, false, 1), 0);
        bool ok = true;
        for (int i = 0; i < 512; i++)
            ok &= !b[i];
        CHECK("zeroed, and no more", ok && !memcmp(b + 512, a + 512, 512));
    }
    /* a batch: several requests at once */
    static struct {
        uint32_t type, prio;
        uint64_t sector;
    } r4[4];
    static volatile uint8_t st[4];
    for (unsigned i = 0; i < 4; i++) {
        r4[i].type = 0;
        r4[i].prio = 0;
        r4[i].sector = 100 + i;
        st[i] = 0xee;
        d.desc[4 * i] = (struct desc){(uint64_t)&r4[i], 16, 1, (uint16_t)(4 * i + 1)};
        d.desc[4 * i + 1] = (struct desc){(uint64_t)b + 512 * i, 512, 3, (uint16_t)(4 * i + 2)};
        d.desc[4 * i + 2] = (struct desc){(uint64_t)&st[i], 1, 2, 0};
        d.avail[2 + (d.avail[1] + i) % QSIZE] = (uint16_t)(4 * i);
    }
    __asm__ volatile("mfence" ::: "memory");
    d.avail[1] = (uint16_t)(d.avail[1] + 4);
    kick(0);
    uint32_t ids = 0, id, len;
    for (int i = 0; i < 4; i++)
        if (used_one(&id, &len))
            ids |= 1u << (id / 4);
    CHECK("four requests in one notification", ids == 15 && !st[0] && !st[1] && !st[2] && !st[3]);
    /* many, so that the rings wrap */
    bool ok = true;
    for (unsigned i = 0; i < 100; i++) {
        a[0] = (uint8_t)i;
        ok &= request(1, i, a, 512, true, 1) == 0 && request(0, i, b, 512, false, 1) == 0 && b[0] == (uint8_t)i;
    }
    CHECK("rings wrap", ok);
}

static volatile unsigned irqs;
static void on_msi(struct frame *f)
{
    irqs++;
    apic_write(0xb0, 0);
}

static void interrupts(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    apic_write(0xf0, 0x1ff);
    set_handler(0x61, on_msi);
    unsigned msix = pci_cap(d.bdf, 0x11, 0);
    if (!msix)
        return;
    uint32_t table = pci_read(d.bdf, msix + 4);
    volatile uint32_t *t = (volatile uint32_t *)((volatile uint8_t *)pci_bar(d.bdf, table & 7) + (table & ~7u));
    t[4] = 0xfee00000 | apic_read(0x20) >> 24 << 12;
    t[5] = 0;
    t[6] = 0x61;
    t[7] = 0;
    pci_write16(d.bdf, msix + 2, 0x8000);
    bring_up(1);
    C16(22) = 0;
    CHECK_EQ("MSI-X vector of the queue reads back", C16(26), 1);
    C16(26) = 0x700;
    CHECK_EQ("vector out of range: NO_VECTOR", C16(26), 0xffff);
    C16(26) = 1;
    irqs = 0;
    CHECK_EQ("read", request(0, 0, b, 512, false, 1), 0);
    for (int i = 0; i < 2000 && !irqs; i++) {
        __asm__ volatile("sti; nop; nop; cli" ::: "memory");
        delay_us(50);
    }
    CHECK_EQ("MSI-X interrupt", irqs, 1);
    /* masked: pending bit, delivered on unmask */
    t[7] = 1;
    CHECK_EQ("read", request(0, 0, b, 512, false, 1), 0);
    uint32_t pba = pci_read(d.bdf, msix + 8);
    volatile uint32_t *p = (volatile uint32_t *)((volatile uint8_t *)pci_bar(d.bdf, pba & 7) + (pba & ~7u));
    for (int i = 0; i < 2000 && !(*p & 2); i++)
        delay_us(50);
    __asm__ volatile("sti; nop; nop; cli" ::: "memory");
    CHECK("masked entry: pending, no interrupt", irqs == 1 && (*p & 2));
    t[7] = 0;
    __asm__ volatile("sti; nop; nop; cli" ::: "memory");
    CHECK("unmasked: delivered, no longer pending", irqs == 2 && !(*p & 2));
    d.avail[0] = 1;
    CHECK_EQ("read", request(0, 0, b, 512, false, 1), 0);
    delay_us(2000);
    __asm__ volatile("sti; nop; nop; cli" ::: "memory");
    CHECK_EQ("VIRTQ_AVAIL_F_NO_INTERRUPT", irqs, 2);
    pci_write16(d.bdf, msix + 2, 0);
    /* INTx: the ISR register */
    bring_up(0xffff);
    (void)*d.isr;
    CHECK_EQ("read", request(0, 0, b, 512, false, 1), 0);
    unsigned isr = 0;
    for (int i = 0; i < 2000 && !isr; i++) {
        isr = *d.isr;
        delay_us(20);
    }
    CHECK_EQ("ISR says queue", isr & 1, 1);
    CHECK_EQ("ISR is cleared by reading", *d.isr, 0);
}

/* A broken driver must not upset anything but its own device. */
static void broken(void)
{
    bring_up(0xffff);
    d.desc[0] = (struct desc){(uint64_t)&req, 16, 1, 1};
    d.desc[1] = (struct desc){0xfffffffffffff000ull, 0x2000, 3, 2};
    d.desc[2] = (struct desc){(uint64_t)&status, 1, 2, 0};
    req.type = 0;
    req.sector = 0;
    offer(0);
    delay_us(3000);
    bring_up(0xffff);
    CHECK_EQ("works again after a buffer outside memory", request(0, 0, b, 512, false, 1), 0);
    d.desc[0] = (struct desc){(uint64_t)&req, 16, 1, 0}; /* loop */
    offer(0);
    delay_us(3000);
    bring_up(0xffff);
    CHECK_EQ("works again after a descriptor loop", request(0, 0, b, 512, false, 1), 0);
    offer(0x7777);
    delay_us(3000);
    bring_up(0xffff);
    CHECK_EQ("works again after a head out of range", request(0, 0, b, 512, false, 1), 0);
    d.desc[0] = (struct desc){(uint64_t)&req, 8, 1, 1};
    d.desc[1] = (struct desc){(uint64_t)&status, 1, 2, 0};
    offer(0);
    delay_us(3000);
    bring_up(0xffff);
    CHECK_EQ("works again after a short header", request(0, 0, b, 512, false, 1), 0);
    C8(20) = 0;
    CHECK_EQ("reset", C8(20), 0);
}

static void entropy(void)
{
    d.bdf = pci_find(0x10441af4, 0);
    if (!d.bdf || !find_regions()) {
        skip("virtio-rng", "not there");
        return;
    }
    bring_up(0xffff);
    memset(a, 0, 64);
    d.desc[0] = (struct desc){(uint64_t)a, 64, 2, 0};
    offer(0);
    uint32_t id, len;
    CHECK("entropy comes", used_one(&id, &len) && len && len <= 64);
    unsigned nonzero = 0;
    for (int i = 0; i < 64; i++)
        nonzero += a[i] != 0;
    CHECK("and is not zeros", nonzero > 20);
    C8(20) = 0;
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    d.bdf = pci_find(0x10421af4, 0);
    CHECK("virtio-blk is there", d.bdf);
    if (d.bdf && find_regions()) {
        transport();
        transfers();
        interrupts();
        broken();
    } else
        CHECK("its regions", false);
    entropy();
    finish();
}
