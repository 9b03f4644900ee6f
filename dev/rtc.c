/*
 * MC146818 real-time clock. The clock's time is the wall clock plus an offset
 * the guest sets by writing the time registers. While updates are inhibited
 * (SET, or the divider held in reset) the registers hold what was written.
 *
 * Flags in register C are computed from the time passed since they were last
 * looked at; a timer runs only while an enabled interrupt has not happened yet.
 */
#include "dev/rtc.h"

#include <stdlib.h>
#include <string.h>

#include "dev/isa.h"

#define NS_PER_S 1000000000ull
#define UIP_NS 244141u /* update-in-progress rises this long before the update: 8 cycles of 32.768 kHz */
#define DAY 86400

enum {
    R_SEC,
    R_SEC_AL,
    R_MIN,
    R_MIN_AL,
    R_HOUR,
    R_HOUR_AL,
    R_WDAY,
    R_MDAY,
    R_MON,
    R_YEAR,
    R_A,
    R_B,
    R_C,
    R_D,
    R_CENTURY = 0x32
};
enum { A_UIP = 0x80, A_DV = 0x70, A_DV_32K = 0x20, A_DV_RESET = 0x60 };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_SQWE = 0x08, B_BINARY = 0x04, B_24H = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };
enum { D_VRT = 0x80 };

/* The year 0000 to 9999 fits the registers; times are kept inside. */
#define SECONDS_MIN (-62167219200ll)
#define SECONDS_MAX 253402300799ll

struct rtc {
    struct dev dev;
    struct clock *clock;
    struct irq_line irq;
    struct timer timer;
    uint8_t ram[128]; /* alarm, A, B, C and CMOS RAM; the time registers while frozen */
    uint8_t index;
    int64_t offset;  /* RTC time = wall time + offset, ns */
    uint64_t synced; /* phase time (see phase_now) up to which register C is computed */
};

/* Nanoseconds since the epoch that the chip's divider chain counts. */
static int64_t rtc_ns(const struct rtc *r)
{
    return (int64_t)(clock_wall_base(r->clock) + clock_now(r->clock)) + r->offset;
}

static bool frozen(const struct rtc *r)
{
    return (r->ram[R_B] & B_SET) || (r->ram[R_A] & A_DV) != A_DV_32K;
}

/* --- calendar: proleptic Gregorian, days counted from 0000-03-01 in eras of 400 years --- */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

struct date {
    int year, month, day;
};

static struct date date_of(int64_t days) /* days since 1970-01-01 */
{
    int64_t z = days + 719468, era = floor_div(z, 146097), doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    struct date t = {(int)(yoe + era * 400), (int)(mp < 10 ? mp + 3 : mp - 9), (int)(doy - (153 * mp + 2) / 5 + 1)};
    t.year += t.month <= 2;
    return t;
}

static int64_t days_of(int year, int month, int day)
{
    int64_t y = year - (month <= 2), era = floor_div(y, 400), yoe = y - era * 400;
    int64_t doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

/* --- register encodings ------------------------------------------------- */

static uint8_t enc(const struct rtc *r, int v)
{
    return (uint8_t)(r->ram[R_B] & B_BINARY ? v : (v / 10) << 4 | v % 10);
}

static int dec(const struct rtc *r, uint8_t v)
{
    return r->ram[R_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t enc_hour(const struct rtc *r, int h)
{
    if (r->ram[R_B] & B_24H)
        return enc(r, h);
    return enc(r, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0);
}

static int dec_hour(const struct rtc *r, uint8_t v)
{
    if (r->ram[R_B] & B_24H)
        return dec(r, v);
    int h = dec(r, v & 0x7f) % 12;
    return v & 0x80 ? h + 12 : h;
}

static void time_to_regs(const struct rtc *r, int64_t sec, uint8_t *ram)
{
    if (sec < SECONDS_MIN)
        sec = SECONDS_MIN;
    if (sec > SECONDS_MAX)
        sec = SECONDS_MAX;
    int64_t days = floor_div(sec, DAY);
    int tod = (int)(sec - days * DAY);
    struct date t = date_of(days);
    ram[R_SEC] = enc(r, tod % 60);
    ram[R_MIN] = enc(r, tod / 60 % 60);
    ram[R_HOUR] = enc_hour(r, tod / 3600);
    ram[R_WDAY] = enc(r, (int)(((days + 4) % 7 + 7) % 7) + 1);
    ram[R_MDAY] = enc(r, t.day);
    ram[R_MON] = enc(r, t.month);
    ram[R_YEAR] = enc(r, t.year % 100);
    ram[R_CENTURY] = (uint8_t)((t.year / 1000) << 4 | t.year / 100 % 10); /* always BCD, as firmware keeps it */
}

static int64_t regs_to_time(const struct rtc *r, const uint8_t *ram)
{
    int month = dec(r, ram[R_MON]);
    if (month < 1 || month > 12) /* nonsense written by the guest must not index anything */
        month = 1;
    int year = dec(r, ram[R_YEAR]) + 100 * ((ram[R_CENTURY] >> 4) * 10 + (ram[R_CENTURY] & 15));
    return days_of(year, month, dec(r, ram[R_MDAY])) * DAY + dec_hour(r, ram[R_HOUR]) * 3600 + dec(r, ram[R_MIN]) * 60 +
           dec(r, ram[R_SEC]);
}

/* Make the clock show the registers now, with frac ns of the current second gone. */
static void set_time(struct rtc *r, int64_t frac)
{
    int64_t sec = regs_to_time(r, r->ram);
    if (sec < SECONDS_MIN)
        sec = SECONDS_MIN;
    if (sec > SECONDS_MAX)
        sec = SECONDS_MAX;
    /* Years beyond what 64-bit nanoseconds hold are cut off: the clock stops short in 2262 and before 1678. */
    if (sec > INT64_MAX / (int64_t)NS_PER_S - DAY)
        sec = INT64_MAX / (int64_t)NS_PER_S - DAY;
    if (sec < INT64_MIN / (int64_t)NS_PER_S + DAY)
        sec = INT64_MIN / (int64_t)NS_PER_S + DAY;
    int64_t want = sec * (int64_t)NS_PER_S + frac;
    int64_t wall = (int64_t)(clock_wall_base(r->clock) + clock_now(r->clock));
    if (__builtin_sub_overflow(want, wall, &r->offset))
        r->offset = 0;
}

static int64_t second_fraction(int64_t ns)
{
    return ns - floor_div(ns, NS_PER_S) * (int64_t)NS_PER_S;
}

/* --- register C ----------------------------------------------------------- */

/* Period of the periodic interrupt in 32.768 kHz cycles, 0: off. */
static unsigned period_cycles(const struct rtc *r)
{
    unsigned rs = r->ram[R_A] & 15;
    if (!rs || (r->ram[R_A] & A_DV_RESET) == A_DV_RESET)
        return 0;
    return rs < 3 ? 1u << (rs + 6) : 1u << (rs - 1);
}

static uint64_t cycles_of(uint64_t ns)
{
    return ns / NS_PER_S * 32768 + ns % NS_PER_S * 32768 / NS_PER_S;
}

static uint64_t ns_of_cycles(uint64_t c)
{
    return c / 32768 * NS_PER_S + (c % 32768 * NS_PER_S + 32767) / 32768;
}

static bool alarm_matches(const struct rtc *r, int tod)
{
    static const uint8_t reg[3] = {R_SEC_AL, R_MIN_AL, R_HOUR_AL};
    int now[3] = {tod % 60, tod / 60 % 60, tod / 3600};
    for (int i = 0; i < 3; i++) {
        uint8_t al = r->ram[reg[i]];
        if (al < 0xc0 && (i == 2 ? dec_hour(r, al) : dec(r, al)) != now[i]) /* 11xxxxxx: every */
            return false;
    }
    return true;
}

/* Seconds from after `tod` (exclusive) to the next alarm, 1 to a day; 0 if none. */
static int alarm_in(const struct rtc *r, int tod)
{
    for (int i = 1; i <= DAY; i++)
        if (alarm_matches(r, (tod + i) % DAY))
            return i;
    return 0;
}

static void update_irq(struct rtc *r)
{
    uint8_t c = r->ram[R_C] & (C_PF | C_AF | C_UF);
    r->ram[R_C] = c | (c & r->ram[R_B] ? C_IRQF : 0);
    irq_set(&r->irq, r->ram[R_C] & C_IRQF);
}

/* Virtual time is the periodic interrupt's phase; seconds come from the RTC's own time. */
static void collect_flags(struct rtc *r)
{
    uint64_t now = clock_now(r->clock), then = r->synced;
    r->synced = now;
    unsigned p = period_cycles(r);
    if (p && cycles_of(now) / p != cycles_of(then) / p)
        r->ram[R_C] |= C_PF;
    if (!frozen(r)) {
        int64_t t = rtc_ns(r), s1 = floor_div(t, NS_PER_S), s0 = floor_div(t - (int64_t)(now - then), NS_PER_S);
        if (s1 != s0) {
            r->ram[R_C] |= C_UF;
            int first = alarm_in(r, (int)(s0 - floor_div(s0, DAY) * DAY));
            if (first && s1 - s0 >= first)
                r->ram[R_C] |= C_AF;
        }
    }
}

static void sync_flags(struct rtc *r)
{
    collect_flags(r);
    update_irq(r);
}

static void rearm(struct rtc *r)
{
    uint64_t now = clock_now(r->clock), when = UINT64_MAX;
    uint8_t want = r->ram[R_B] & (C_PF | C_AF | C_UF) & ~r->ram[R_C];
    if (!(r->ram[R_C] & C_IRQF)) {
        unsigned p = period_cycles(r);
        if ((want & C_PF) && p)
            when = ns_of_cycles((cycles_of(now) / p + 1) * p);
        if ((want & (C_AF | C_UF)) && !frozen(r)) {
            int64_t t = rtc_ns(r), sec = floor_div(t, NS_PER_S);
            int wait = want & C_UF ? 1 : alarm_in(r, (int)(sec - floor_div(sec, DAY) * DAY));
            uint64_t next = now + (uint64_t)wait * NS_PER_S - (uint64_t)second_fraction(t);
            if (wait && next < when)
                when = next;
        }
    }
    if (when != UINT64_MAX)
        timer_arm(r->clock, &r->timer, when);
    else
        timer_cancel(r->clock, &r->timer);
}

static void timer_fired(void *ctx)
{
    sync_flags(ctx);
    rearm(ctx);
}

/* --- ports ---------------------------------------------------------------- */

static bool is_time(uint8_t i)
{
    return i == R_CENTURY || (i <= R_YEAR && i != R_SEC_AL && i != R_MIN_AL && i != R_HOUR_AL);
}

static uint8_t read_reg(struct rtc *r, uint8_t i)
{
    if (is_time(i) && !frozen(r))
        time_to_regs(r, floor_div(rtc_ns(r), NS_PER_S), r->ram);
    if (i == R_A)
        return r->ram[R_A] | (!frozen(r) && second_fraction(rtc_ns(r)) >= (int64_t)(NS_PER_S - UIP_NS) ? A_UIP : 0);
    if (i == R_C) {
        /* A flag that comes up in the very read that takes it must not pulse the line: an edge-triggered input would keep the edge. */
        collect_flags(r);
        uint8_t c = r->ram[R_C] & (C_PF | C_AF | C_UF), v = c | (c & r->ram[R_B] ? C_IRQF : 0);
        r->ram[R_C] = 0;
        update_irq(r);
        rearm(r);
        return v;
    }
    return i == R_D ? D_VRT : r->ram[i];
}

static void write_reg(struct rtc *r, uint8_t i, uint8_t v)
{
    if (i == R_C || i == R_D)
        return;
    sync_flags(r);
    if (i == R_A || i == R_B) {
        bool was = frozen(r), divider_was_held = (r->ram[R_A] & A_DV_RESET) == A_DV_RESET;
        if (!was) /* in the old encoding: a change of BCD or 12/24 h does not convert */
            time_to_regs(r, floor_div(rtc_ns(r), NS_PER_S), r->ram);
        if (i == R_A) {
            r->ram[R_A] = v & ~A_UIP;
        } else {
            r->ram[R_B] = v & B_SET ? v & ~B_UIE : v; /* SET clears UIE */
        }
        if (was && !frozen(r)) /* the first update follows half a second after the divider is released */
            set_time(r, divider_was_held ? (int64_t)NS_PER_S / 2 : second_fraction(rtc_ns(r)));
        else if (!was && !frozen(r) && i == R_B)
            set_time(r, second_fraction(rtc_ns(r)));
        update_irq(r);
    } else if (is_time(i) && !frozen(r)) {
        time_to_regs(r, floor_div(rtc_ns(r), NS_PER_S), r->ram);
        r->ram[i] = v;
        set_time(r, second_fraction(rtc_ns(r)));
    } else {
        r->ram[i] = v;
    }
    rearm(r);
}

static uint8_t rtc_read8(struct dev *d, unsigned port)
{
    struct rtc *r = (struct rtc *)d;
    return port == 0 ? 0xff : read_reg(r, r->index); /* the index is write-only */
}

static void rtc_write8(struct dev *d, unsigned port, uint8_t v)
{
    struct rtc *r = (struct rtc *)d;
    if (port == 0)
        r->index = v & 0x7f; /* bit 7 masks NMI, which nothing raises */
    else
        write_reg(r, r->index, v);
}

static int rtc_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    return isa_read_bytes(d, off, size, val, 2, rtc_read8);
}

static int rtc_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    return isa_write_bytes(d, off, size, val, 2, rtc_write8);
}

/* The chip runs on its battery: time and RAM stay, interrupts are off. */
static void rtc_reset(struct dev *d)
{
    struct rtc *r = (struct rtc *)d;
    r->ram[R_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    r->ram[R_C] = 0;
    r->index = 0;
    r->synced = clock_now(r->clock);
    update_irq(r);
    rearm(r);
}

static void rtc_fini(struct dev *d)
{
    struct rtc *r = (struct rtc *)d;
    timer_cancel(r->clock, &r->timer);
    free(r);
}

static const struct dev_ops rtc_ops = {
    .name = "rtc", .reset = rtc_reset, .read = rtc_read, .write = rtc_write, .fini = rtc_fini};

struct dev *rtc_new(const struct dev_env *env, struct irq_line irq)
{
    struct rtc *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->dev.ops = &rtc_ops;
    r->clock = env->clock;
    r->irq = irq;
    r->ram[R_A] = A_DV_32K | 6; /* 1024 Hz */
    r->ram[R_B] = B_24H;
    r->ram[0x0f] = 0; /* shutdown status: normal */
    timer_init(&r->timer, timer_fired, r);
    rtc_reset(&r->dev);
    return &r->dev;
}

void rtc_cmos_set(struct dev *d, uint8_t index, uint8_t val)
{
    struct rtc *r = (struct rtc *)d;
    if (index > R_D && index < sizeof(r->ram) && index != R_CENTURY)
        r->ram[index] = val;
}

void rtc_set_memory(struct dev *d, uint64_t below_4g, uint64_t above_4g)
{
    uint64_t kib = below_4g >> 10, ext = kib > 1024 ? kib - 1024 : 0;
    if (ext > 65535)
        ext = 65535;
    uint64_t high = below_4g > (16u << 20) ? (below_4g - (16u << 20)) >> 16 : 0; /* in 64 KiB above 16 MiB */
    if (high > 65535)
        high = 65535;
    uint64_t above = above_4g >> 16; /* in 64 KiB */
    const struct {
        uint8_t reg;
        uint64_t v;
    } w[] = {{0x15, 640}, {0x17, ext}, {0x30, ext}, {0x34, high}};
    for (size_t i = 0; i < sizeof(w) / sizeof(w[0]); i++) {
        rtc_cmos_set(d, w[i].reg, (uint8_t)w[i].v);
        rtc_cmos_set(d, w[i].reg + 1, (uint8_t)(w[i].v >> 8));
    }
    for (unsigned i = 0; i < 3; i++)
        rtc_cmos_set(d, (uint8_t)(0x5b + i), (uint8_t)(above >> (8 * i)));
}
