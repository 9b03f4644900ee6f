/*
 * libFuzzer: the simple ISA devices. The input is a list of port accesses, input bytes and steps of time; interrupt
 * lines and timers must stay sane, and nothing may be read beyond what a device has room for.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "dev/acpi_pm.h"
#include "dev/i8042.h"
#include "dev/misc.h"
#include "dev/pc_testdev.h"
#include "dev/rtc.h"
#include "dev/serial.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x))                                                                                                      \
            __builtin_trap();                                                                                          \
    } while (0)

enum { SERIAL, RTC, KBD, KBD_ABSENT, PM, CF9, PORT92, DEBUGCON, EXIT, PVPANIC, POST, TESTDEV, NDEV };

struct world {
    uint64_t ns;
    unsigned events;
    uint8_t full; /* the character back end takes this many bytes at most */
    bool level[32];
};

static uint64_t now(void *ctx)
{
    return ((struct world *)ctx)->ns;
}

static void line(void *ctx, unsigned pin, bool level)
{
    CHECK(pin < 32);
    ((struct world *)ctx)->level[pin] = level;
}

static void event(void *ctx)
{
    ((struct world *)ctx)->events++;
}

static void ended(void *ctx, int status)
{
    CHECK(status & 1);
    event(ctx);
}

static void panicked(void *ctx, uint32_t bits)
{
    CHECK(bits && bits <= 3);
    event(ctx);
}

static size_t take(void *ctx, const uint8_t *buf, size_t n)
{
    struct world *w = ctx;
    for (size_t i = 0; i < n; i++) /* every byte is really there */
        w->events += buf[i];
    return n < w->full ? n : w->full;
}

static struct irq_line irq(struct world *w, unsigned pin)
{
    return (struct irq_line){.set = line, .ctx = w, .pin = pin};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {.full = 255};
    struct dev *d[NDEV];
    struct dev_env env = {.clock = clock_new_source(NULL, &(struct clock_source){now, &w}, 1700000000000000000ull)};
    struct chardev out = {.ctx = &w, .write = take, .accept = event};
    struct irq_line pins[PC_TESTDEV_NIRQ];
    for (unsigned i = 0; i < PC_TESTDEV_NIRQ; i++)
        pins[i] = irq(&w, 8 + i);
    CHECK(env.clock);
    d[SERIAL] = serial_new(&env, irq(&w, 0), out);
    d[RTC] = rtc_new(&env, irq(&w, 1));
    for (unsigned i = KBD; i <= KBD_ABSENT; i++)
        d[i] = i8042_new(
            &env, &(struct i8042_config){
                      .irq_kbd = irq(&w, 2), .irq_aux = irq(&w, 3), .keyboard = i == KBD, .reset = event, .ctx = &w});
    d[PM] = acpi_pm_new(&env, &(struct acpi_pm_config){.sci = irq(&w, 4), .poweroff = event, .ctx = &w});
    d[CF9] = reset_cf9_new(event, &w);
    d[PORT92] = port92_new(event, &w);
    d[DEBUGCON] = debugcon_new(out);
    d[EXIT] = isa_debug_exit_new(ended, &w);
    d[PVPANIC] = pvpanic_new(panicked, &w);
    d[POST] = post_port_new();
    d[TESTDEV] = pc_testdev_new(pins);

    /* Five bytes each: device and action, bank and size, offset, value. */
    for (; size >= 5; data += 5, size -= 5) {
        struct dev *x = d[(data[0] & 15) % NDEV];
        unsigned n = 1u << (data[1] & 3);
        uint32_t bank = data[1] >> 2 & 7;
        uint64_t off = data[2], val = data[3] * 0x0101010101010101ull;
        if (data[1] & 0x80)
            off |= (uint64_t)data[4] << 8;
        else
            val ^= (uint64_t)data[4] << 8;
        switch (data[0] >> 4 & 7) {
        case 0:
        case 1: {
            uint64_t v = 0;
            int r = x->ops->read(x, bank, off, n, &v);
            CHECK(r == DEV_OK || r == DEV_UNMAPPED);
            CHECK(r != DEV_OK || n == 8 || v >> (8 * n) == 0);
            break;
        }
        case 2:
        case 3:
        case 4: {
            int r = x->ops->write(x, bank, off, n, n == 8 ? val : val & ((1ull << (8 * n)) - 1));
            CHECK(r == DEV_OK || r == DEV_UNMAPPED);
            break;
        }
        case 5: {
            struct chardev_sink s = serial_sink(d[SERIAL]);
            uint8_t buf[16];
            size_t room = s.room(s.ctx);
            CHECK(room <= sizeof(buf));
            memset(buf, data[3], sizeof(buf));
            s.input(s.ctx, buf, data[4] & 0x80 ? sizeof(buf) : room); /* a back end that ignores room() must not hurt */
            w.full = data[2];
            break;
        }
        case 6: {
            uint64_t end = w.ns + ((uint64_t)data[2] << (data[3] & 31));
            for (unsigned fired = 0; fired < 64; fired++) {
                uint64_t next = clock_next(env.clock);
                if (next > end)
                    break;
                w.ns = next > w.ns ? next : w.ns;
                clock_run(env.clock);
            }
            w.ns = end;
            break;
        }
        default:
            if (data[1] & 1)
                x->ops->reset(x);
            else if (data[1] & 2)
                acpi_pm_power_button(d[PM]);
            else
                acpi_pm_gpe(d[PM], data[2]);
        }
    }
    for (unsigned i = 0; i < NDEV; i++)
        d[i]->ops->fini(d[i]);
    CHECK(clock_next(env.clock) == UINT64_MAX); /* no timer outlives its device */
    clock_free(env.clock);
    return 0;
}
