/*
 * libFuzzer: the hypercall device. The input is guest RAM followed by a list of port accesses and steps of time: records, batches and event pages
 * lie anywhere, overlap, and change what later calls read. Nothing outside RAM may be touched, and each call has one of the documented answers.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "dev/hypercall.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x))                                                                                                      \
            __builtin_trap();                                                                                          \
    } while (0)

#define RAM 4096u

struct world {
    uint64_t ns;
    uint8_t *ram; /* of its own, so that the sanitizer guards its ends */
    unsigned taken;
};

static uint64_t now(void *ctx) { return ((struct world *)ctx)->ns; }
static void line(void *ctx, unsigned pin, bool level) { CHECK(pin == 3); }
static bool inside(uint64_t gpa, size_t len) { return gpa <= RAM && len <= RAM - gpa; }
static int mem_read(void *ctx, uint64_t gpa, void *buf, size_t len)
{
    if (!inside(gpa, len))
        return -1;
    memcpy(buf, ((struct world *)ctx)->ram + gpa, len);
    return 0;
}
static int mem_write(void *ctx, uint64_t gpa, const void *buf, size_t len)
{
    if (!inside(gpa, len))
        return -1;
    memcpy(((struct world *)ctx)->ram + gpa, buf, len);
    return 0;
}
static void *mem_map(void *ctx, uint64_t gpa, size_t len, bool write)
{
    return inside(gpa, len) ? ((struct world *)ctx)->ram + gpa : NULL;
}
static void mem_dirty(void *ctx, uint64_t gpa, size_t len) { CHECK(inside(gpa, len)); }
static size_t take(void *ctx, const uint8_t *buf, size_t n)
{
    struct world *w = ctx;
    for (size_t i = 0; i < n; i++)
        w->taken += buf[i];
    return w->taken % 7 ? n : n / 2;
}
static void flush(void *ctx, const uint64_t *lin, unsigned n)
{
    CHECK(n && n <= HC_MMU_MAX);
    for (unsigned i = 0; i < n; i++)
        CHECK(lin[i] != HC_MMU_NO_ADDRESS);
}
static void off(void *ctx) { ((struct world *)ctx)->taken++; }

static void pass(struct world *w, struct clock *ck, uint64_t ns)
{
    const uint64_t end = w->ns + ns;
    for (unsigned i = 0; i < 1000 && clock_next(ck) <= end; i++) {
        if (clock_next(ck) > w->ns)
            w->ns = clock_next(ck);
        clock_run(ck);
    }
    w->ns = end;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {.ram = aligned_alloc(64, RAM)};
    struct clock *ck = clock_new_source(NULL, &(struct clock_source){now, &w}, 0);
    struct dev_env env = {.clock = ck, .dma = {&w, mem_read, mem_write, mem_map, mem_dirty}};
    struct hypercall_config cfg = {.console = {.ctx = &w, .write = take}, .irq = {line, &w, 3}, .flush = flush, .poweroff = off, .ctx = &w};
    struct dev *d = w.ram && ck ? hypercall_new(&env, &cfg) : NULL;
    CHECK(d);
    memset(w.ram, 0, RAM);
    const size_t fill = size < RAM / 4 ? size / 2 : RAM / 4; /* the same bytes at several places */
    for (unsigned i = 0; i < 4 && fill; i++)
        memcpy(w.ram + i * (RAM / 4), data, fill);
    for (size_t at = fill; at + 4 <= size; at += 4) {
        const uint8_t *p = data + at;
        const uint32_t arg = (uint32_t)p[1] | (uint32_t)p[2] << 8;
        uint64_t v = 0;
        switch (p[0] % 8) {
        case 0: d->ops->write(d, 0, p[3], 1u << (p[1] % 4), arg); break;
        case 1: d->ops->read(d, 0, p[3], 1u << (p[1] % 4), &v); break;
        case 2: pass(&w, ck, (uint64_t)arg * 1000); break;
        case 3:
            if (p[3] == 0)
                d->ops->reset(d);
            break;
        case 4: w.ram[arg % RAM] = p[3]; break;
        default: { /* a call, its number and small arguments made likely */
            const uint32_t rec = arg % (RAM + 64) & ~7u;
            if (rec + sizeof(struct hc_call) <= RAM && p[3] & 16)
                w.ram[rec] = p[3] % 10;
            int r = d->ops->write(d, 0, 0, 4, rec);
            CHECK(r == DEV_OK || r == DEV_HALT);
            CHECK(d->ops->read(d, 0, 8, 4, &v) == DEV_OK && v <= HC_ENOTSUP);
        }
        }
    }
    d->ops->fini(d);
    clock_free(ck);
    free(w.ram);
    return 0;
}
