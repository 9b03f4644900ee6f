/* What no sane guest does. The machine must answer as hardware would or with a fault, and go on; the run ends with a triple fault
 * through an interrupt table outside RAM. */
/* guest-options: --cpus 4 */
/* guest-ends: triple-fault */
/* guest-not-qemu: its machine moves BARs over RAM and local APICs in other ways */
#include "attempt.h"
#include "pci.h"

#define HOLE 0xd8000000ull    /* in the PCI window, where no BAR is */
#define BEYOND 0x3000000000ull /* above everything */
#define ECAM 0xe0000000ull
#define NO_SLOT (ECAM + (31u << 15)) /* configuration space of an absent function: all ones, through a device */
#define LAPIC 0xfee00000ull

/* --- tables and code outside RAM --- */

static void tables_outside(void)
{
    static const struct {
        const char *name;
        uint64_t at;
    } where[] = {
        {"page table in the local APIC", LAPIC}, {"page table in configuration space", ECAM},
        {"page table in an absent function", NO_SLOT}, {"page table in a hole", HOLE}, {"page table beyond everything", BEYOND},
    };
    uint64_t *pml4 = (uint64_t *)(read_cr3() & ~0xfffull);
    for (unsigned i = 0; i < sizeof(where) / sizeof(where[0]); i++) {
        pml4[256] = where[i].at | PTE_P | PTE_W;
        write_cr3(read_cr3());
        bool ended = true;
        for (uint64_t a = 0xffff800000000000ull; a < 0xffff800000000000ull + (8ull << 30); a += (1ull << 30) + 0x1008)
            TRY("1: movb (%0),%%al; movb %%al,(%0); lock incb (%0); 2:", "r"(a));
        CHECK(where[i].name, ended);
    }
    /* All ones: reserved bits, the architecture says. */
    pml4[256] = HOLE | PTE_P | PTE_W;
    write_cr3(read_cr3());
    TRY("1: movb (%0),%%al; 2:", "r"(0xffff800000000000ull));
    CHECK("reserved bits of what is not there", fault.happened && fault.vector == 14 && fault.error == 9);
    pml4[256] = (uint64_t)pml4 | PTE_P | PTE_W; /* tables that map themselves */
    write_cr3(read_cr3());
    uint64_t self = 0xffff800000000000ull | 256ull << 30 | 256ull << 21 | 256ull << 12;
    CHECK("recursive page table", ((volatile uint64_t *)self)[256] == pml4[256]);
    pml4[256] = 0;
    write_cr3(read_cr3());

    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) old, d = {0xffff, 0};
    static const uint64_t gdts[] = {ECAM, NO_SLOT, LAPIC, HOLE, BEYOND};
    unsigned faults = 0;
    __asm__ volatile("sgdt %0" : "=m"(old));
    uint64_t sel = 0x10;
    pml4[256] = 0;
    for (unsigned i = 0; i < 4; i++) {
        d.base = gdts[i];
        /* The handler needs the code segment, so the real table is back before anything else happens. */
        __asm__ volatile("lgdt %0; lar %w2,%%eax; lsl %w2,%%ecx; verr %w2; verw %w2; lgdt %1" ::"m"(d), "m"(old), "r"(sel) : "rax", "rcx", "cc");
        faults++;
    }
    CHECK_EQ("descriptors outside RAM", faults, 4);
}

static void code_outside(void)
{
    static uint8_t scratch[64];
    static const struct {
        const char *name;
        uint64_t at;
        uint8_t vector;
    } where[] = {{"code in a hole", HOLE, 6}, {"code in an absent function", NO_SLOT, 6}, {"code at a hole's last byte", HOLE + 0xfff, 6}};
    for (unsigned i = 0; i < sizeof(where) / sizeof(where[0]); i++) {
        TRY("1: jmp *%0; 2:", "r"(where[i].at), "b"(scratch));
        CHECK(where[i].name, fault.happened && fault.vector == where[i].vector && fault.rip == where[i].at);
    }
    /* From RAM into what is not, in the middle of an instruction; and over the top of the lower half. */
    uint8_t *page = page_alloc();
    map_page(0x7ffffffff000ull, (uint64_t)page, PTE_P | PTE_W);
    map_page(0x7fffffffe000ull, HOLE, PTE_P | PTE_W);
    memset(page, 0x90, 4096);
    TRY("1: jmp *%0; 2:", "r"(0x7ffffffffff0ull));
    CHECK("running over the canonical boundary", fault.happened && fault.vector == 13 && fault.rip == 0x800000000000ull);
    uint8_t *low = page_alloc();
    map_page(0x600000000000ull, (uint64_t)low, PTE_P | PTE_W);
    map_page(0x600000001000ull, HOLE, PTE_P | PTE_W);
    low[4095] = 0x0f; /* 0F FF: UD0 with a ModRM byte of FF */
    TRY("1: jmp *%0; 2:", "r"(0x600000000fffull));
    CHECK("instruction that ends outside RAM", fault.happened && fault.vector == 6 && fault.rip == 0x600000000fffull);
    /* Locked accesses: across a line inside a device, across RAM and device. */
    volatile uint8_t *ecam = (volatile uint8_t *)ECAM;
    for (unsigned i = 0; i < 200; i++) {
        __asm__ volatile("lock addl $0,%0" : "+m"(*(volatile uint32_t *)(ecam + 0x3e)));
        __asm__ volatile("lock orq $0,%0" : "+m"(*(volatile uint64_t *)(ecam + 0x7c)));
        __asm__ volatile("lock addq $0,%0" : "+m"(*(volatile uint64_t *)0x600000000ffcull));
        __asm__ volatile("lock cmpxchg16b %0" : "+m"(*(volatile unsigned __int128 *)(ecam + 0x40))::"rax", "rbx", "rcx", "rdx", "cc");
    }
    CHECK("locked accesses across lines of devices", true);
}

/* --- storms: each processor does one wrong thing, all at once --- */

static volatile uint32_t go[4], stop, working, woken, starts, bad;
static volatile uint8_t *moving; /* where the BAR may be */
static uint8_t code[4096] __attribute__((aligned(4096))) = {0x90, 0x90, 0x90, 0xb8, 1, 0, 0, 0, 0xc3}; /* mov $imm, %eax; ret */
static unsigned bdf, bar;

static void move_bars(void)
{
    static const uint32_t to[] = {0xc4000000, 0x00100000, 0xe0000000, 0xfee00000, 0xfec00000, 0xc0000000, 0xfffff000, 0, 0xd8000000, 0xc0001000};
    unsigned n = 0;
    uint32_t was = pci_read(bdf, bar), was_high = pci_read(bdf, bar + 4);
    while (!stop) {
        pci_write(bdf, bar, to[n++ % (sizeof(to) / sizeof(to[0]))]);
        pci_write(bdf, bar + 4, n % 7 == 0 ? 0x10 : 0);
        pci_write16(bdf, 4, n % 5 ? 6 : 0);
        /* The high half through an access that hangs over the end of the data port. */
        outl(0xcf8, 0x80000000u | bdf << 8 | bar);
        outl(0xcfe, 0xc123);
        outl(0xcfd, 0xc123);
    }
    pci_write(bdf, bar, was);
    pci_write(bdf, bar + 4, was_high);
    pci_write16(bdf, 4, 6);
}

static void move_apic(void)
{
    uint64_t was = rdmsr(0x1b), n = 0;
    while (!stop) {
        static const uint32_t to[] = {0xfee00000, 0xd8000000, 0xe0000000, 0xc0000000, 0x03000000, 0xfec00000};
        uint64_t page = n++ % 3 ? to[n % 6] : 0x40000000 + (n * 0x1000 & 0x3ffff000);
        wrmsr(0x1b, (was & 0xfff) | page);
        *(volatile uint32_t *)(page + 0x80);
        *(volatile uint32_t *)(page + 0x300) = 0;
        __asm__ volatile("lock addl $1,%0" : "+m"(*(volatile uint32_t *)(NO_SLOT + 0x3e)));
    }
    wrmsr(0x1b, was);
}

static void rewrite_code(unsigned index)
{
    uint32_t last = 0;
    while (!stop) {
        *(volatile uint32_t *)(code + 4) = last + 1;
        uint32_t got = ((uint32_t(*)(void))code)();
        if (!got) /* never again what it was at first */
            bad++;
        last = got;
        *(volatile uint32_t *)(moving + (last * 4 & 0x3ffc)) = last;
        *(volatile uint32_t *)(moving + (last * 4 & 0x3ffc));
    }
}

static void ap(unsigned nth)
{
    unsigned index = apic_read(0x20) >> 24 & 3;
    __sync_fetch_and_add(&starts, 1);
    apic_write(0xf0, 0x1ff);
    while (!go[index])
        __asm__ volatile("pause");
    __sync_fetch_and_add(&working, 1);
    switch (go[index]) {
    case 1: move_bars(); break;
    case 2: move_apic(); break;
    case 3: rewrite_code(index); break;
    case 4:
        __asm__ volatile("cli; hlt");
        __sync_fetch_and_add(&woken, 1);
    }
    __sync_fetch_and_sub(&working, 1);
    __asm__ volatile("cli");
    for (;;)
        __asm__ volatile("hlt");
}

static uint64_t now_ms(void)
{
    static uint32_t last;
    static uint64_t high;
    uint32_t t = inl(0x608) & 0xffffff; /* the ACPI timer, 3.579545 MHz */
    if (t < last)
        high += 1 << 24;
    last = t;
    return (high + t) / 3580;
}

/* All application processors anew, with these roles. */
static unsigned storm(unsigned a, unsigned b, unsigned c)
{
    stop = working = 0;
    go[1] = a, go[2] = b, go[3] = c;
    unsigned before = starts;
    start_aps(ap);
    return starts - before;
}

static void end_storm(void)
{
    stop = 1;
    for (uint64_t end = now_ms() + 20000; working && now_ms() < end;)
        ;
}

static void storms(void)
{
    for (bdf = 8; bdf < 256; bdf += 8) /* a virtio function */
        if ((pci_read(bdf, 0) & 0xffff) == 0x1af4)
            break;
    CHECK("a virtio function", bdf < 256);
    for (bar = 0x10; bar < 0x24; bar += 4)
        if ((pci_read(bdf, bar) & 1) == 0 && pci_read(bdf, bar))
            break;
    moving = (volatile uint8_t *)(uint64_t)(pci_read(bdf, bar) & ~15u);
    CHECK("its memory BAR", bar < 0x24 && moving);

    CHECK_EQ("storm of BARs, APIC pages and code", storm(1, 2, 3), 3);
    for (uint64_t end = now_ms() + 1500; now_ms() < end;) {
        (void)moving[0x14];
        apic_write(0x300, 0x000c0081); /* all but self, a vector they hold back */
        uint32_t v = ((uint32_t(*)(void))code)();
        if (!v)
            bad++;
    }
    end_storm();
    CHECK_EQ("all came back", working, 0);
    CHECK_EQ("no stale code", bad, 0);

    CHECK_EQ("HLT without interrupts", storm(4, 2, 3), 3);
    while (working < 3)
        ;
    for (uint64_t end = now_ms() + 700; now_ms() < end;) {
        apic_write(0x310, 1 << 24);
        apic_write(0x300, 0x4081);
        __asm__ volatile("lock addl $0,%0" : "+m"(*(volatile uint32_t *)(ECAM + 0x3e)));
    }
    CHECK_EQ("no interrupt wakes it", woken, 0);
    apic_write(0x310, 1 << 24);
    apic_write(0x300, 0x4400); /* an NMI does */
    for (uint64_t end = now_ms() + 20000; !woken && now_ms() < end;)
        ;
    CHECK_EQ("an NMI does", woken, 1);
    end_storm();

    /* INIT and SIPI to processors at any point of their start, between each other as well. */
    unsigned before = starts, n = 0;
    go[1] = go[2] = go[3] = 0;
    uint64_t from = now_ms();
    for (uint64_t t = from; t < from + 700 || (starts <= before + 3 && t < from + 20000); t = now_ms(), n++) {
        apic_write(0x310, (1 + n % 3) << 24);
        apic_write(0x300, n % 5 ? 0x4608 : 0x4500);
        apic_write(0x300, n % 7 ? 0x000c4608 : 0x000c4500);
    }
    CHECK("processors start through it", starts > before + 3);
    /* A virtual processor takes an INIT when its thread gets to run: one that comes late may still count itself as started. */
    unsigned got = 0;
    for (unsigned tries = 0; got != 3 && tries < 8; tries++) {
        apic_write(0x300, 0x000c4500);
        delay_us(200000u << tries);
        before = starts;
        got = start_aps(ap) ? starts - before : 0;
    }
    CHECK_EQ("and after it", got, 3);
}

static void on_nmi(struct frame *f)
{
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    set_handler(2, on_nmi);
    set_handler(0x81, on_nmi);
    static struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) d = {0xffff, NO_SLOT};
    if (under_kvm(KVM_ANY)) { /* ends the machine with a message */
        skip("tables and code outside RAM", "KVM's emulator gives up on them");
        d.limit = 0;
    } else {
        tables_outside();
        code_outside();
    }
    storms();
    summary();
    __asm__ volatile("lidt %0; int3" ::"m"(d));
    finish();
}
