/*
 * Devices. A device sees offsets inside its own register banks, interrupt
 * lines, a clock and guest memory through a DMA view: no vCPU, no engine, no
 * host clock, no host file except through a back end handed to it.
 *
 * Locking: unless its range is marked nolock, read, write, timers and back-end
 * callbacks run under the VM's device lock, one at a time. Calling irq_set,
 * dma_*, timer_* from there is allowed.
 */
#ifndef RINGER_DEV_H
#define RINGER_DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dev_result {
    DEV_OK,
    DEV_UNMAPPED, /* no register there: reads float to all ones, writes are dropped; counted */
    DEV_HALT,     /* writes: as DEV_OK, and the processor that made the access is to wait for its next interrupt as HLT does */
    DEV_ERROR,    /* the device has failed and asks for the VM to stop with an error (host trouble, never guest input) */
};

struct dev;

struct dev_ops {
    const char *name; /* static; statistics key */
    void (*reset)(struct dev *d);
    /* size 1, 2, 4, 8; off is relative to the bank; *val zero-extended. */
    int (*read)(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val);
    int (*write)(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val);
    /* Serialise state for snapshots: returns bytes needed; writes at most cap. NULL: not supported. */
    size_t (*save)(struct dev *d, void *buf, size_t cap);
    int (*load)(struct dev *d, const void *buf, size_t len);
    void (*fini)(struct dev *d); /* frees the device */
};

/* First member of every device's own struct. */
struct dev {
    const struct dev_ops *ops;
};

/* --- interrupts ------------------------------------------------------- */

/* A level: devices set it, the board decides where it goes. Edge-triggered inputs see the transitions. */
struct irq_line {
    void (*set)(void *ctx, unsigned pin, bool level);
    void *ctx;
    unsigned pin;
};
static inline void irq_set(const struct irq_line *l, bool level)
{
    if (l->set)
        l->set(l->ctx, l->pin, level);
}

/* A message-signalled interrupt: addr/data as the guest programmed them (SDM Vol. 3A, 10.11). */
struct msi_sink {
    void (*send)(void *ctx, uint64_t addr, uint32_t data);
    void *ctx;
};

/* --- time --------------------------------------------------------------- */

/* The VM's one virtual clock, in nanoseconds since the machine was created; stops when the VM is paused. */
struct clock;
uint64_t clock_now(const struct clock *ck);
/* Wall-clock time in nanoseconds since 1970-01-01 UTC that belongs to clock_now() == 0. */
uint64_t clock_wall_base(const struct clock *ck);

/* A one-shot timer. Embed it; fn runs under the VM's device lock on the timer thread (nolock timers: without it). */
struct timer {
    void (*fn)(void *ctx);
    void *ctx;
    uint64_t when;   /* absolute virtual ns; valid while armed */
    int heap_index;  /* -1 when not armed; private to clock.c */
    bool nolock;
};
void timer_init(struct timer *t, void (*fn)(void *ctx), void *ctx);
/* Arm or re-arm for an absolute virtual time; a time in the past fires at once (asynchronously). Thread-safe. */
void timer_arm(struct clock *ck, struct timer *t, uint64_t when);
/* Disarm. With the device lock held (or for nolock timers: their device's own lock not needed by fn) it has not fired and will not. */
void timer_cancel(struct clock *ck, struct timer *t);

/* --- guest memory as a device sees it -------------------------------- */

struct dma {
    void *ctx;
    /* Copy between guest-physical memory and buf. 0, or -1 if any byte is not RAM (nothing is guaranteed copied).
     * Writes invalidate translated code. len up to 4 GiB. */
    int (*read)(void *ctx, uint64_t gpa, void *buf, size_t len);
    int (*write)(void *ctx, uint64_t gpa, const void *buf, size_t len);
    /* A stable host pointer to [gpa, gpa+len) of RAM, or NULL. For zero-copy back ends and atomic ring indices;
     * after writing through it call dirty(). */
    void *(*map)(void *ctx, uint64_t gpa, size_t len, bool write);
    void (*dirty)(void *ctx, uint64_t gpa, size_t len);
};

/* What the board hands every device at creation. */
struct dev_env {
    struct clock *clock;
    struct dma dma;
    struct msi_sink msi;
    /* Defer work to the I/O thread, off the vCPU: fn runs there without the device lock. May be NULL (run inline). */
    void (*defer)(void *ctx, void (*fn)(void *arg), void *arg);
    void *defer_ctx;
    /* Take/release the VM's device lock, for completions on the I/O thread. */
    void (*lock)(void *ctx);
    void (*unlock)(void *ctx);
    void *lock_ctx;
    /* Log one line for the user (guest misbehaviour worth knowing); rate-limited by the callee. */
    void (*log)(void *ctx, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
    void *log_ctx;
};

/* Character back end of serial ports and consoles. */
struct chardev {
    void *ctx;
    /* Guest to host. Must not block for long; returns bytes taken (may be < n when the host side is full). */
    size_t (*write)(void *ctx, const uint8_t *buf, size_t n);
    /* Host to guest is pushed: the back end calls the front end's sink under the device lock. can_receive tells how
     * many bytes the device takes now; after it frees room it calls ctx's `accept` so that input resumes. */
    void (*accept)(void *ctx);
};
struct chardev_sink {
    void *ctx;
    size_t (*room)(void *ctx);
    void (*input)(void *ctx, const uint8_t *buf, size_t n);
};

/* Block back end. Offsets and lengths in bytes. Calls block; the device calls them off the vCPU threads where it can.
 * Return 0 or -errno. */
struct blockdev {
    void *ctx;
    uint64_t size; /* bytes, multiple of 512 */
    bool readonly;
    int (*read)(void *ctx, uint64_t off, void *buf, size_t len);
    int (*write)(void *ctx, uint64_t off, const void *buf, size_t len);
    int (*flush)(void *ctx);                                  /* durable when it returns */
    int (*discard)(void *ctx, uint64_t off, uint64_t len);    /* contents become undefined or zero; -ENOTSUP */
    int (*write_zeroes)(void *ctx, uint64_t off, uint64_t len);
};

#endif
