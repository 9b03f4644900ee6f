/*
 * The hypercall interface, for guests and the monitor alike: nothing here needs more than fixed-width integers.
 * docs/hypercalls.md is its manual.
 *
 * A call is a struct hc_call in guest RAM and an OUT of its physical address: a privileged instruction, so that it reaches the
 * monitor under every engine, and only from where the guest's kernel lets port accesses through.
 */
#ifndef RINGER_HYPERCALL_H
#define RINGER_HYPERCALL_H

#include <stdint.h>

/* Is it there? CPUID leaf HC_LEAF: EAX the highest leaf of this range, EBX ECX EDX "RingerRinger"; leaf HC_LEAF + 1: EAX the
 * features, EBX the port, ECX the ISA interrupt of events. CPUID does not trap everywhere, so the port tells the same. */
#define HC_LEAF 0x40000100u
#define HC_PORT 0x560u          /* 4 bytes, OUT: address of a struct hc_call below 4 GiB; IN: HC_MAGIC. Where nobody is: all ones */
#define HC_PORT_FEATURES 0x564u /* 4 bytes, IN */
#define HC_PORT_STATUS 0x568u   /* 4 bytes, IN: status of the last call, also where its address was no good */
#define HC_PORTS 12u
#define HC_MAGIC 0x31434852u /* "RHC1" */

/* Features */
#define HC_F_CONSOLE (1u << 0)
#define HC_F_EVENTS (1u << 1) /* interrupt flag in shared memory, HC_EVENTS, HC_DELIVER */
#define HC_F_HALT (1u << 2)
#define HC_F_TIMER (1u << 3)
#define HC_F_MMU (1u << 4)
#define HC_F_MMU_FLUSH (1u << 5) /* HC_MMU_UPDATE also invalidates; without it (hardware does paging) the guest does */
#define HC_F_POWEROFF (1u << 6)

enum {
    HC_CONSOLE_WRITE = 1, /* arg 0: address, 1: bytes, at most HC_CONSOLE_MAX. result: bytes taken */
    HC_EVENTS = 2,        /* arg 0: address of a struct hc_events, a multiple of HC_EVENTS_ALIGN; 0: no events any more */
    HC_DELIVER = 3,       /* after opening the flag with something pending: interrupt now */
    HC_HALT = 4,          /* open the flag; unless something is pending, wait for an interrupt as HLT does */
    HC_TIMER = 5,         /* arg 0: machine time of the first event in ns, HC_TIMER_OFF: none. 1: period, 0 or HC_TIMER_MIN at least */
    HC_TIME = 6,          /* result: machine time in ns */
    HC_MMU_UPDATE = 7,    /* arg 0: address of struct hc_mmu [n], 1: n, at most HC_MMU_MAX, 2: bytes of an entry, 4 or 8. result: n */
    HC_POWEROFF = 8,
};
#define HC_CONSOLE_MAX 4096u
#define HC_EVENTS_ALIGN 64u
#define HC_TIMER_OFF (~0ull)
#define HC_TIMER_MIN 50000u
#define HC_MMU_MAX 512u
#define HC_MMU_NO_ADDRESS (~0ull)

/* Status */
enum {
    HC_OK = 0,
    HC_ENOSYS = 1, /* no such call */
    HC_EINVAL = 2, /* an argument out of range; nothing was done */
    HC_EFAULT = 3, /* an address that is not RAM; nothing was done */
    HC_ENOTSUP = 4, /* a call that needs HC_EVENTS first */
};

/* A multiple of 8 bytes in guest-physical memory. */
struct hc_call {
    uint32_t nr;     /* HC_... */
    uint32_t status; /* out */
    uint64_t arg[4];
    uint64_t result; /* out; 0 unless HC_OK */
};

/* The interrupt flag in shared memory. The monitor sets bits of pending and, if enabled is not 0, then interrupts. Both sides use atomic
 * operations: guest stores to enabled before it reads pending, the monitor the other way round. */
struct hc_events {
    uint32_t enabled; /* the guest's */
    uint32_t pending; /* HC_EV_...; the guest takes bits away */
    uint32_t timer;   /* timer events since HC_EVENTS, modulo 2^32 */
    uint32_t reserved[13];
};
#define HC_EV_TIMER (1u << 0)

/* One change of a page table. */
struct hc_mmu {
    uint64_t entry;  /* physical address of the entry, a multiple of its size */
    uint64_t value;
    uint64_t linear; /* a linear address whose translation this changes, or HC_MMU_NO_ADDRESS */
};

#endif
