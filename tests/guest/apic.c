/* Local APIC (xAPIC, x2APIC), I/O APIC and 8259: delivery, priorities, EOI, timer modes, routing (SDM Vol. 3A, 10;
 * 82093AA; 8259A). */
#include "attempt.h"

static volatile unsigned count[256], nseq;
static volatile uint8_t seq[64];
static volatile bool do_eoi = true;
static bool x2;

static uint32_t rd(unsigned r)
{
    return x2 ? (uint32_t)rdmsr(0x800 + r / 16) : apic_read(r);
}
static void wr(unsigned r, uint32_t v)
{
    if (x2)
        wrmsr(0x800 + r / 16, v);
    else
        apic_write(r, v);
}
static void self_ipi(unsigned v)
{
    if (x2)
        wrmsr(0x83f, v);
    else
        apic_write(0x300, 0x44000 | v);
}
static void eoi(void)
{
    wr(0xb0, 0);
}

static void on_irq(struct frame *f)
{
    count[f->vector]++;
    if (nseq < sizeof(seq))
        seq[nseq] = (uint8_t)f->vector;
    nseq++;
    if (do_eoi)
        eoi();
}

static void reset_counts(void)
{
    for (int i = 0; i < 256; i++)
        count[i] = 0;
    nseq = 0;
}
static void open_window(void)
{
    __asm__ volatile("sti; nop; nop; cli" ::: "memory");
}
static bool bit(unsigned reg, unsigned v)
{
    return rd(reg + v / 32 * 16) >> (v % 32) & 1;
}
static bool wait_for(volatile unsigned *c, unsigned n, unsigned ms)
{
    __asm__ volatile("sti" ::: "memory");
    for (unsigned i = 0; i < ms * 10 && *c < n; i++)
        delay_us(100);
    __asm__ volatile("cli" ::: "memory");
    return *c >= n;
}

static void local(void)
{
    CHECK("version: integrated APIC, 6 or more LVT entries",
          (rd(0x30) & 0xff) >= 0x10 && (rd(0x30) & 0xff) < 0x20 && (rd(0x30) >> 16 & 0xff) >= 4);
    wr(0x80, 0);
    reset_counts();
    self_ipi(0x50);
    CHECK("self IPI is in IRR while IF is 0", bit(0x200, 0x50) && !count[0x50]);
    do_eoi = false;
    open_window();
    CHECK("delivered", count[0x50] == 1 && !bit(0x200, 0x50));
    CHECK("in service until EOI", bit(0x100, 0x50));
    CHECK_EQ("PPR is the class in service", rd(0xa0) & 0xf0, 0x50);
    self_ipi(0x51);
    open_window();
    CHECK_EQ("same class waits", count[0x51], 0);
    self_ipi(0x60);
    open_window();
    CHECK_EQ("a higher class nests", count[0x60], 1);
    eoi();
    CHECK("EOI ends the highest in service", !bit(0x100, 0x60) && bit(0x100, 0x50));
    open_window();
    CHECK_EQ("still waits", count[0x51], 0);
    eoi();
    open_window();
    CHECK_EQ("delivered after EOI", count[0x51], 1);
    eoi();
    do_eoi = true;
    /* order */
    reset_counts();
    self_ipi(0x45);
    self_ipi(0x91);
    self_ipi(0x77);
    self_ipi(0x77);
    __asm__ volatile("sti; nop; nop; nop; nop; nop; cli" ::: "memory");
    CHECK("highest first", nseq == 3 && seq[0] == 0x91 && seq[1] == 0x77 && seq[2] == 0x45);
    CHECK_EQ("the same vector twice in IRR is one interrupt", count[0x77], 1);
    /* TPR and CR8 */
    reset_counts();
    wr(0x80, 0x60);
    CHECK_EQ("CR8 mirrors TPR", read_cr8(), 6);
    CHECK_EQ("PPR follows TPR", rd(0xa0), 0x60);
    self_ipi(0x6f);
    self_ipi(0x70);
    open_window();
    CHECK("TPR holds its class and below", count[0x70] == 1 && count[0x6f] == 0);
    write_cr8(5);
    CHECK_EQ("TPR by CR8", rd(0x80), 0x50);
    open_window();
    CHECK_EQ("lowered by CR8: delivered", count[0x6f], 1);
    write_cr8(0);
    ATTEMPT("1: movq %%rcx, %%cr8\n2:", "c"(16));
    LAX("keeps the low bits");
    EXPECT_FAULT("CR8 reserved bits: #GP", 13, 0);
    write_cr8(0);
    /* illegal vectors */
    if (!lax("vector 15 by IPI", "delivers it (SDM Vol. 3A, 10.5.3)")) {
        wr(0x280, 0);
        wr(0x280, 0);
        reset_counts();
        self_ipi(0x0f);
        open_window();
        wr(0x280, 0);
        CHECK("vector 15: send-illegal or receive-illegal error, no interrupt", nseq == 0 && (rd(0x280) & 0x60));
    }
    /* software disable */
    wr(0x320, 0x10040);
    wr(0xf0, 0xff);
    wr(0x320, 0x00040);
    LAX("lets the mask be cleared (SDM Vol. 3A, 10.4.7.2)");
    CHECK_EQ("software-disabled: LVT masks stay set", rd(0x320) >> 16 & 1, 1);
    wr(0xf0, 0x1ff);
    LAX("lets the mask be cleared (SDM Vol. 3A, 10.4.7.2)");
    CHECK_EQ("enabled again: still masked", rd(0x320) >> 16 & 1, 1);
}

/* Counts in 2^20 TSC ticks. */
static uint64_t timer_rate(uint32_t divide)
{
    uint64_t best_span = ~0ull, rate = 0;
    wr(0x3e0, divide);
    for (int i = 0; i < 8; i++) {
        uint64_t t0 = rdtsc();
        wr(0x380, 0xffffffff);
        uint64_t t1 = rdtsc();
        while (rdtsc() - t1 < 1000000)
            __asm__ volatile("pause");
        uint64_t t2 = rdtsc();
        uint32_t n = 0xffffffff - rd(0x390);
        uint64_t t3 = rdtsc(), slack = (t1 - t0) + (t3 - t2);
        if (slack < best_span) {
            best_span = slack;
            rate = ((uint64_t)n << 20) / (t2 - t1);
        }
    }
    wr(0x380, 0);
    return rate;
}

static void timer(void)
{
    reset_counts();
    wr(0x3e0, 0xb);
    wr(0x320, 0x41);
    CHECK_EQ("timer stopped", rd(0x390), 0);
    wr(0x380, 100000);
    uint32_t c1 = rd(0x390);
    CHECK("timer counts down", c1 <= 100000);
    CHECK("one-shot comes", wait_for(&count[0x41], 1, 200));
    CHECK_EQ("one-shot: count is zero then", rd(0x390), 0);
    delay_us(2000);
    open_window();
    CHECK_EQ("one-shot comes once", count[0x41], 1);
    /* divide ratios, against the TSC; the best of a few tries, since a host may stop us anywhere */
    wr(0x320, 0x10041);
    uint64_t d1 = timer_rate(0xb), d4 = timer_rate(1);
    CHECK("divide by 4 counts a quarter", d1 > 3 * d4 && d1 < 5 * d4);
    wr(0x380, 0);
    wr(0x3e0, 0xb);
    reset_counts();
    wr(0x320, 0x20042);
    wr(0x380, 1000000);
    CHECK("periodic", wait_for(&count[0x42], 5, 500));
    CHECK_EQ("initial count reads back", rd(0x380), 1000000);
    wr(0x320, 0x30042);
    delay_us(3000);
    unsigned n = count[0x42];
    open_window();
    CHECK("masked: at most one that was pending", count[0x42] <= n + 1);
    wr(0x380, 0);
    uint32_t r[4];
    cpuid(1, 0, r);
    if (r[2] >> 24 & 1) {
        reset_counts();
        wr(0x320, 0x40043);
        uint64_t want = rdtsc() + 50000000000ull;
        wrmsr(0x6e0, want);
        CHECK_EQ("deadline is armed", rdmsr(0x6e0), want);
        CHECK_EQ("deadline mode: the count register reads zero", rd(0x390), 0);
        want = rdtsc() + 1000000;
        wrmsr(0x6e0, want);
        CHECK("TSC deadline comes", wait_for(&count[0x43], 1, 500));
        CHECK("not before its time", rdtsc() >= want);
        CHECK_EQ("deadline is cleared", rdmsr(0x6e0), 0);
        wrmsr(0x6e0, 1);
        CHECK("a deadline in the past comes at once", wait_for(&count[0x43], 2, 100));
        wrmsr(0x6e0, rdtsc() + 50000000000ull);
        wrmsr(0x6e0, 0);
        open_window();
        CHECK_EQ("zero disarms", count[0x43], 2);
        wrmsr(0x6e0, rdtsc() + 50000000000ull);
        wr(0x320, 0x10043);
        CHECK_EQ("changing the mode disarms", rdmsr(0x6e0), 0);
        wrmsr(0x6e0, rdtsc() + 50000000000ull);
        CHECK_EQ("outside deadline mode the MSR reads zero", rdmsr(0x6e0), 0);
    } else
        skip("TSC deadline", "not offered");
    wr(0x320, 0x10000);
}

static uint32_t io_rd(unsigned r)
{
    *(volatile uint32_t *)0xfec00000ull = r;
    return *(volatile uint32_t *)0xfec00010ull;
}
static void io_wr(unsigned r, uint32_t v)
{
    *(volatile uint32_t *)0xfec00000ull = r;
    *(volatile uint32_t *)0xfec00010ull = v;
}

static void pit_period(unsigned count)
{
    outb(0x43, 0x34);
    outb(0x40, (uint8_t)count);
    outb(0x40, (uint8_t)(count >> 8));
}

/* All that reads of register C showed: one interrupt that was on its way when C was last read finds nothing there. */
static volatile uint8_t rtc_c;
static void on_rtc(struct frame *f)
{
    outb(0x70, 0x0c);
    rtc_c |= inb(0x71);
    on_irq(f);
}

static void ioapic(void)
{
    CHECK("I/O APIC version and 24 entries", (io_rd(1) & 0xff) >= 0x11 && (io_rd(1) >> 16 & 0xff) == 23);
    reset_counts();
    io_wr(0x10 + 16, 0x10000);
    io_wr(0x11 + 16, 0xff000000);
    CHECK_EQ("redirection entry reads back", io_rd(0x11 + 16), 0xff000000);
    /* PIT: ISA IRQ 0 is pin 2 (MADT override on a PC) */
    uint32_t id = x2 ? rd(0x20) : rd(0x20) >> 24;
    io_wr(0x15, id << 24);
    io_wr(0x14, 0x10055);
    pit_period(1193);
    delay_us(3000);
    open_window();
    CHECK_EQ("masked pin", count[0x55], 0);
    io_wr(0x14, 0x55);
    CHECK("PIT through the I/O APIC", wait_for(&count[0x55], 3, 500));
    io_wr(0x14, 0x10055);
    open_window();
    reset_counts();
    delay_us(3000);
    open_window();
    CHECK_EQ("masked again", count[0x55], 0);
    /* logical destination */
    if (!x2) {
        wr(0xe0, 0xffffffff);
        wr(0xd0, 0x04000000);
        io_wr(0x15, 0x04000000);
        io_wr(0x14, 0x856);
        CHECK("logical destination", wait_for(&count[0x56], 1, 500));
        io_wr(0x15, 0x02000000);
        open_window();
        reset_counts();
        delay_us(3000);
        open_window();
        CHECK_EQ("another logical destination: not for us", count[0x56], 0);
        io_wr(0x14, 0x10056);
    }
    /* RTC periodic interrupt on pin 8 */
    io_wr(0x21, id << 24);
    io_wr(0x20, 0x58);
    outb(0x70, 0x0a);
    outb(0x71, 0x26);
    outb(0x70, 0x0b);
    uint8_t b = inb(0x71);
    outb(0x70, 0x0b);
    outb(0x71, b | 0x40);
    outb(0x70, 0x0c);
    (void)inb(0x71);
    set_handler(0x58, on_rtc);
    reset_counts();
    CHECK("RTC periodic interrupt through the I/O APIC, again after C is read", wait_for(&count[0x58], 3, 500));
    CHECK_EQ("RTC register C says periodic", rtc_c & 0xc0, 0xc0);
    set_handler(0x58, on_irq);
    outb(0x70, 0x0b);
    outb(0x71, b);
    outb(0x70, 0x0c);
    (void)inb(0x71);
    io_wr(0x20, 0x10000);
}

static void pic_eoi(struct frame *f)
{
    count[f->vector]++;
    outb(0x20, 0x20);
}

static volatile unsigned in_service;
static void pic_isr(struct frame *f)
{
    count[f->vector]++;
    outb(0x20, 0x0b);
    in_service = inb(0x20);
    outb(0x20, 0x20);
}

static void pic(void)
{
    /* virtual wire: ExtINT through LINT0 */
    set_handler(0x20, pic_eoi);
    set_handler(0x27, on_irq);
    outb(0x20, 0x11);
    outb(0x21, 0x20);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0xa0, 0x11);
    outb(0xa1, 0x28);
    outb(0xa1, 2);
    outb(0xa1, 1);
    outb(0x21, 0xfe);
    outb(0xa1, 0xff);
    CHECK_EQ("PIC mask reads back", inb(0x21), 0xfe);
    wr(0x350, 0x700);
    reset_counts();
    pit_period(1193);
    CHECK("PIT through the PIC and LINT0", wait_for(&count[0x20], 3, 500));
    set_handler(0x20, pic_isr);
    unsigned n = count[0x20];
    CHECK("and again", wait_for(&count[0x20], n + 1, 500));
    CHECK_EQ("PIC ISR during the handler", in_service & 1, 1);
    outb(0x21, 0xff);
    outb(0x20, 0x0a);
    delay_us(2000);
    CHECK_EQ("PIC IRR shows the masked request", inb(0x20) & 1, 1);
    open_window();
    n = count[0x20];
    delay_us(3000);
    open_window();
    CHECK_EQ("masked in the PIC", count[0x20], n);
    wr(0x350, 0x10000);
}

static void x2apic(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 21 & 1)) {
        skip("x2APIC", "not offered");
        return;
    }
    uint32_t id = apic_read(0x20) >> 24;
    uint64_t base = rdmsr(0x1b);
    CHECK("IA32_APIC_BASE: BSP, enabled, default address", (base & 0xffffff900ull) == 0xfee00900ull);
    ATTEMPT("1: rdmsr\n2:", "c"(0x802));
    EXPECT_FAULT("x2APIC MSR in xAPIC mode: #GP", 13, 0);
    wrmsr(0x1b, base | 0x400);
    x2 = true;
    CHECK_EQ("x2APIC id", rd(0x20), id);
    CHECK_EQ("x2APIC logical id", rd(0xd0), (id >> 4 << 16) | 1u << (id & 15));
    ATTEMPT("xorl %%eax, %%eax\n1: wrmsr\n2:", "c"(0x802), "d"(0));
    EXPECT_FAULT("x2APIC id is read-only: #GP", 13, 0);
    ATTEMPT("1: rdmsr\n2:", "c"(0x80e));
    EXPECT_FAULT("no destination format register: #GP", 13, 0);
    ATTEMPT("1: rdmsr\n2:", "c"(0x80b));
    EXPECT_FAULT("EOI is write-only: #GP", 13, 0);
    ATTEMPT("movl $1, %%eax\n1: wrmsr\n2:", "c"(0x80b), "d"(0));
    LAX_KVM(KVM_APIC, "ignores the value");
    EXPECT_FAULT("EOI with a value: #GP", 13, 0);
    ATTEMPT("movl $0x100, %%eax\n1: wrmsr\n2:", "c"(0x808), "d"(0));
    LAX_KVM(KVM_APIC, "ignores reserved bits");
    EXPECT_FAULT("TPR reserved bits: #GP", 13, 0);
    ATTEMPT("movl %%ecx, %%eax; andl $0, %%eax; orl $0xfee00900, %%eax\n1: wrmsr\n2:", "c"(0x1b), "d"(0));
    EXPECT_FAULT("x2APIC back to xAPIC directly: #GP", 13, 0);
    local();
    timer();
    ioapic();
    /* ICR is one 64-bit register */
    reset_counts();
    wrmsr(0x830, (uint64_t)id << 32 | 0x4059);
    open_window();
    CHECK_EQ("x2APIC ICR, physical destination", count[0x59], 1);
    wrmsr(0x830, (uint64_t)((id >> 4 << 16) | 1u << (id & 15)) << 32 | 0x485a);
    open_window();
    CHECK_EQ("x2APIC ICR, logical destination", count[0x5a], 1);
    wrmsr(0x1b, base & ~0xc00ull);
    x2 = false;
    CHECK_EQ("APIC off: CPUID hides it", (cpuid(1, 0, r), r[3] >> 9 & 1), 0);
    wrmsr(0x1b, base);
    LAX_KVM(KVM_APIC, "keeps the registers");
    CHECK_EQ("on again: software-disabled", apic_read(0xf0) & 0x100, 0);
    CHECK_EQ("on again: id kept", apic_read(0x20) >> 24, id);
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    tss_init();
    for (unsigned v = 0x30; v < 0x100; v++)
        if (v != 0x80)
            set_handler(v, on_irq);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    wr(0xf0, 0x1ff);
    local();
    timer();
    ioapic();
    pic();
    x2apic();
    finish();
}
