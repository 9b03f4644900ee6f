/* Clocks: TSC, PIT modes, RTC, ACPI PM timer, HPET and KVM clock where present; that they agree, and that none goes
 * backwards. */
#include "acpi.h"
#include "attempt.h"

static uint16_t pm_port, pm_evt;
static bool pm_wide;
static uint32_t pm(void)
{
    return inl(pm_port) & (pm_wide ? 0xffffffffu : 0xffffffu);
}
#define PM_HZ 3579545u

static void tsc(void)
{
    uint64_t a = rdtsc(), worst = 0;
    bool ok = true;
    for (int i = 0; i < 20000; i++) {
        uint64_t b = rdtsc();
        ok &= b >= a;
        if (b - a > worst)
            worst = b - a;
        a = b;
    }
    CHECK("TSC never goes backwards", ok && worst);
    wrmsr(0x10, 0x1000000000000ull);
    a = rdtsc();
    LAX("ignores it");
    CHECK("TSC by MSR", a >= 0x1000000000000ull && a < 0x1000000000000ull + (1ull << 40));
    LAX("ignores writes");
    CHECK("RDMSR and RDTSC agree", rdmsr(0x10) >= a);
    uint32_t r[4];
    cpuid(0x80000001, 0, r);
    if (r[3] >> 27 & 1) {
        uint32_t lo, hi, aux;
        wrmsr(0xc0000103, 0x1234567);
        __asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
        CHECK("RDTSCP: time and TSC_AUX", aux == 0x1234567 && (lo | (uint64_t)hi << 32) >= a);
    }
    cpuid(7, 0, r);
    if (r[1] >> 1 & 1) {
        uint64_t adj = rdmsr(0x3b);
        wrmsr(0x3b, adj + (1ull << 50));
        CHECK("TSC_ADJUST moves the TSC", rdtsc() >= (1ull << 50));
        wrmsr(0x3b, adj);
    }
}

static unsigned latch0(void)
{
    outb(0x43, 0);
    unsigned lo = inb(0x40);
    return lo | (unsigned)inb(0x40) << 8;
}

static void pit(void)
{
    outb(0x43, 0x34);
    outb(0x40, 0);
    outb(0x40, 0);
    delay_us(100);
    unsigned a = latch0();
    delay_us(1000);
    unsigned b = latch0();
    CHECK("mode 2 counts down", b != a && ((a - b) & 0xffff) > 1000);
    outb(0x43, 0xe2); /* read-back, status of counter 0 */
    unsigned st = inb(0x40);
    CHECK_EQ("read-back: mode 2, both bytes, binary", st & 0x3f, 0x34);
    outb(0x43, 0xc2); /* status and count */
    st = inb(0x40);
    unsigned lo = inb(0x40), hi = inb(0x40);
    CHECK("read-back: status, then the latched count", (st & 0x3f) == 0x34 && (lo | hi << 8) <= 0xffff);
    outb(0x43, 0); /* a latched count stands until read */
    delay_us(500);
    lo = inb(0x40);
    hi = inb(0x40);
    unsigned now = latch0();
    CHECK("latched count", (((lo | hi << 8) - now) & 0xffff) > 300);
    /* channel 2, mode 0: OUT low, then high; gate */
    outb(0x61, inb(0x61) & ~3u);
    outb(0x43, 0xb0);
    outb(0x42, 0x54);
    outb(0x42, 2); /* 0.5 ms */
    delay_us(0);
    for (int i = 0; i < 3000; i++)
        (void)inb(0x61);
    LAX("counts on with the gate low (8254, mode 0)");
    CHECK_EQ("mode 0 with the gate low: OUT stays low", inb(0x61) & 0x20, 0);
    outb(0x61, (inb(0x61) & ~2u) | 1);
    unsigned spins = 0;
    while (!(inb(0x61) & 0x20) && spins < 10000000)
        spins++;
    CHECK("mode 0: OUT goes high at the end", inb(0x61) & 0x20);
    /* mode 3 toggles OUT */
    outb(0x43, 0xb6);
    outb(0x42, 0x54);
    outb(0x42, 2);
    unsigned edges = 0, last = inb(0x61) & 0x20;
    for (unsigned i = 0; i < 10000000 && edges < 6; i++) {
        unsigned o = inb(0x61) & 0x20;
        edges += o != last;
        last = o;
    }
    CHECK_EQ("mode 3: a square wave", edges, 6);
    /* BCD */
    outb(0x43, 0x35);
    outb(0x40, 0);
    outb(0x40, 0x10);
    bool bcd = true;
    for (int i = 0; i < 200; i++) {
        unsigned v = latch0();
        bcd &= v <= 0x1000 && (v & 15) < 10 && (v >> 4 & 15) < 10 && (v >> 8 & 15) < 10;
    }
    LAX("counts in binary");
    CHECK("BCD counting", bcd);
    outb(0x43, 0x14); /* low byte only */
    outb(0x40, 100);
    bool small = true;
    for (int i = 0; i < 100; i++) {
        outb(0x43, 0);
        small &= inb(0x40) <= 100;
    }
    CHECK("low byte access", small);
    outb(0x43, 0x34);
    outb(0x40, 0);
    outb(0x40, 0);
}

static uint8_t cmos(uint8_t r)
{
    outb(0x70, r);
    return inb(0x71);
}

static void rtc(void)
{
    CHECK("RTC: valid RAM and time", cmos(0x0d) & 0x80);
    uint8_t b = cmos(0x0b);
    CHECK("RTC: 24 hours", b & 2);
    for (int i = 0; i < 1000000 && (cmos(0x0a) & 0x80); i++)
        ;
    uint8_t f[6] = {cmos(0), cmos(2), cmos(4), cmos(7), cmos(8), cmos(9)};
    if (!(b & 4))
        for (int i = 0; i < 6; i++)
            f[i] = (uint8_t)((f[i] >> 4) * 10 + (f[i] & 15));
    CHECK("RTC: a sane date",
          f[0] < 60 && f[1] < 60 && f[2] < 24 && f[3] >= 1 && f[3] <= 31 && f[4] >= 1 && f[4] <= 12 && f[5] < 100);
    outb(0x70, 0x50);
    uint8_t keep = inb(0x71);
    outb(0x70, 0x50);
    outb(0x71, 0xa7);
    CHECK_EQ("CMOS RAM", cmos(0x50), 0xa7);
    outb(0x70, 0x50);
    outb(0x71, keep);
    /* SET stops the update: the time can be written */
    outb(0x70, 0x0b);
    outb(0x71, b | 0x80);
    outb(0x70, 0);
    outb(0x71, 0x23);
    CHECK_EQ("RTC: written seconds", cmos(0), 0x23);
    CHECK_EQ("RTC: no update while SET", cmos(0x0a) & 0x80, 0);
    outb(0x70, 0x0b);
    outb(0x71, b);
}

static void pm_timer(void)
{
    const uint8_t *fadt = (const uint8_t *)acpi_find("FACP");
    CHECK("FADT", fadt);
    if (!fadt)
        return;
    pm_port = (uint16_t) * (const uint32_t *)(fadt + 76);
    pm_evt = (uint16_t) * (const uint32_t *)(fadt + 56);
    pm_wide = *(const uint32_t *)(fadt + 112) >> 8 & 1;
    CHECK("PM timer has a port", pm_port);
    if (!pm_port)
        return;
    uint32_t a = pm(), mask = pm_wide ? 0xffffffffu : 0xffffffu;
    bool ok = true;
    for (int i = 0; i < 5000; i++) {
        uint32_t b = pm();
        ok &= ((b - a) & mask) < mask / 2;
        a = b;
    }
    CHECK("PM timer never goes backwards", ok);
    /* against the PIT: the best of a few, a host may stop us anywhere */
    uint64_t best = ~0ull;
    for (int i = 0; i < 60 && best > PM_HZ / 100 * 11 / 10; i++) {
        a = pm();
        delay_us(10000);
        uint64_t d = (pm() - a) & mask;
        if (d < best)
            best = d;
    }
    print("  10 ms by the PIT are %lu PM ticks\n", best);
    CHECK("PM timer and PIT agree", best > PM_HZ / 100 * 9 / 10 && best < PM_HZ / 100 * 3 / 2);
}

static void hpet(void)
{
    const uint8_t *t = (const uint8_t *)acpi_find("HPET");
    if (!t) {
        skip("HPET", "not there");
        return;
    }
    volatile uint32_t *h = (volatile uint32_t *)*(const uint64_t *)(t + 44);
    CHECK("HPET period", h[1] && h[1] <= 100000000);
    h[4] |= 1;
    uint32_t a = h[0xf0 / 4];
    delay_us(2000);
    CHECK("HPET counts", h[0xf0 / 4] != a);
    h[4] &= ~1u;
    a = h[0xf0 / 4];
    delay_us(1000);
    CHECK_EQ("HPET stops", h[0xf0 / 4], a);
    h[0xf0 / 4] = 0;
    h[0xf4 / 4] = 0;
    CHECK_EQ("HPET counter is writable when stopped", h[0xf0 / 4], 0);
}

/* The pvclock structure of MSR KVM_SYSTEM_TIME_NEW (Linux, Documentation/virt/kvm/x86/msr.rst). */
static volatile struct {
    uint32_t version, pad;
    uint64_t tsc, ns;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad2[2];
} pv __attribute__((aligned(64)));

static uint64_t pv_now(void)
{
    uint64_t ns;
    uint32_t v;
    do {
        v = pv.version;
        __asm__ volatile("" ::: "memory");
        uint64_t d = rdtsc() - pv.tsc;
        d = pv.shift < 0 ? d >> -pv.shift : d << pv.shift;
        ns = pv.ns + (uint64_t)(((unsigned __int128)d * pv.mul) >> 32);
        __asm__ volatile("" ::: "memory");
    } while ((v & 1) || v != pv.version);
    return ns;
}

static void pvclock(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    cpuid(r[2] >> 31 ? 0x40000000 : 0, 0, r);
    char sig[13];
    memcpy(sig, &r[1], 4);
    memcpy(sig + 4, &r[2], 4);
    memcpy(sig + 8, &r[3], 4);
    if (memcmp(sig, "KVMKVMKVM", 9)) {
        skip("KVM clock", "no KVM signature");
        return;
    }
    cpuid(0x40000001, 0, r);
    CHECK("feature: clock source 2", r[0] >> 3 & 1);
    wrmsr(0x4b564d01, (uint64_t)&pv | 1);
    CHECK("system time is filled in", pv.version && !(pv.version & 1) && pv.mul);
    uint64_t a = pv_now();
    bool ok = true;
    for (int i = 0; i < 2000; i++) {
        uint64_t b = pv_now();
        ok &= b >= a;
        a = b;
    }
    CHECK("KVM clock never goes backwards", ok);
    uint64_t best = ~0ull;
    for (int i = 0; i < 60 && best > 11000000; i++) {
        a = pv_now();
        delay_us(10000);
        uint64_t d = pv_now() - a;
        if (d < best)
            best = d;
    }
    print("  10 ms by the PIT are %lu ns\n", best);
    CHECK("KVM clock and PIT agree", best > 9000000 && best < 15000000);
    static volatile struct {
        uint32_t version, sec, nsec;
    } wall __attribute__((aligned(64)));
    wrmsr(0x4b564d00, (uint64_t)&wall);
    CHECK("wall clock: after 2020",
          wall.version && !(wall.version & 1) && wall.sec > 1577836800u && wall.nsec < 1000000000u);
    /* moving the TSC must not move the clock */
    a = pv_now();
    wrmsr(0x10, rdtsc() + (1ull << 40));
    uint64_t b = pv_now();
    LAX_KVM(KVM_ANY, "leaves the page as it was until its next update");
    CHECK("KVM clock survives a TSC write", b >= a && b - a < 1000000000ull);
    wrmsr(0x4b564d01, 0);
    ATTEMPT("xorl %%eax, %%eax\n1: wrmsr\n2:", "c"(0x4b564d7f), "d"(0));
    EXPECT_FAULT("unknown KVM MSR: #GP", 13, 0);
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    tsc();
    pit();
    rtc();
    pm_timer();
    hpet();
    pvclock();
    finish();
}
