/* A clock that moves by hand, an interrupt line that counts edges, and a character back end that remembers. */
#ifndef TESTS_UNIT_ISA_FIXTURE_H
#define TESTS_UNIT_ISA_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/clock.h"
#include "ringer/dev.h"

struct fake_line {
    bool level;
    unsigned rises;
};

struct fake_out {
    char buf[4096];
    size_t n, limit; /* bytes taken before it is full; SIZE_MAX: never */
    unsigned accepts;
};

struct isa_fixture {
    uint64_t ns;
    struct clock *clock;
    struct dev_env env;
    struct fake_line line[4];
    struct fake_out out;
    struct dev *dev;
};

static uint64_t fixture_now(void *ctx)
{
    return ((struct isa_fixture *)ctx)->ns;
}

static void fixture_line(void *ctx, unsigned pin, bool level)
{
    struct fake_line *l = &((struct isa_fixture *)ctx)->line[pin];
    l->rises += level && !l->level;
    l->level = level;
}

static inline struct irq_line fixture_irq(struct isa_fixture *f, unsigned pin)
{
    return (struct irq_line){.set = fixture_line, .ctx = f, .pin = pin};
}

static size_t fixture_write(void *ctx, const uint8_t *buf, size_t n)
{
    struct fake_out *o = &((struct isa_fixture *)ctx)->out;
    size_t room = o->limit - o->n;
    if (n > room)
        n = room;
    assert_true(o->n + n < sizeof(o->buf));
    memcpy(o->buf + o->n, buf, n);
    o->n += n;
    return n;
}

static void fixture_accept(void *ctx)
{
    ((struct isa_fixture *)ctx)->out.accepts++;
}

static inline struct chardev fixture_chardev(struct isa_fixture *f)
{
    return (struct chardev){.ctx = f, .write = fixture_write, .accept = fixture_accept};
}

static inline struct isa_fixture *fixture_new(uint64_t wall_base)
{
    struct isa_fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->clock = clock_new_source(NULL, &(struct clock_source){fixture_now, f}, wall_base);
    assert_non_null(f->clock);
    f->env.clock = f->clock;
    f->out.limit = SIZE_MAX;
    return f;
}

static inline void fixture_free(struct isa_fixture *f)
{
    if (f->dev)
        f->dev->ops->fini(f->dev);
    clock_free(f->clock);
    free(f);
}

static inline void fixture_advance(struct isa_fixture *f, uint64_t ns)
{
    uint64_t end = f->ns + ns;
    for (;;) {
        uint64_t next = clock_next(f->clock);
        if (next > end)
            break;
        if (next > f->ns)
            f->ns = next;
        clock_run(f->clock);
    }
    f->ns = end;
}

static inline uint64_t dev_in(struct dev *d, uint32_t bank, uint64_t off, unsigned size)
{
    uint64_t v = 0;
    assert_int_equal(d->ops->read(d, bank, off, size, &v), DEV_OK);
    return v;
}

static inline void dev_out(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t v)
{
    assert_int_equal(d->ops->write(d, bank, off, size, v), DEV_OK);
}

#endif
