/*
 * KVM paravirtual clock: per-vCPU time page and wall-clock page in guest memory
 * (Documentation/virt/kvm/x86/msr.rst, cpuid.rst). Needs no lock: each vCPU's
 * state is touched by its own thread only.
 *
 * One function of the TSC serves all vCPUs (system time 0 at counter 0), so the
 * clock is stable across them by construction.
 */
#ifndef DEV_KVMCLOCK_H
#define DEV_KVMCLOCK_H

#include <stdint.h>

#include "core/clock.h"
#include "ringer/dev.h"

#define MSR_KVM_WALL_CLOCK 0x11
#define MSR_KVM_SYSTEM_TIME 0x12
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01

/* Leaf 0x40000001 EAX: clock source at both MSR pairs, no delay needed after port I/O, stable bit valid. */
#define KVMCLOCK_FEATURES (1u << 0 | 1u << 1 | 1u << 3 | 1u << 24)

struct kvmclock;

struct kvmclock *kvmclock_new(unsigned ncpu, const struct clock *clock, const struct tsc_scale *tsc,
                              const struct dma *dma);
void kvmclock_free(struct kvmclock *k);
void kvmclock_reset(struct kvmclock *k, unsigned cpu);
/* 0, or -1: not ours, or #GP(0). tsc_offset: this vCPU's IA32_TSC minus the VM's counter. */
int kvmclock_rdmsr(struct kvmclock *k, unsigned cpu, uint32_t msr, uint64_t *val);
int kvmclock_wrmsr(struct kvmclock *k, unsigned cpu, uint32_t msr, uint64_t val, uint64_t tsc_offset);
/* The guest wrote IA32_TSC: publish again. */
void kvmclock_update(struct kvmclock *k, unsigned cpu, uint64_t tsc_offset);

/* Scale of the page: ns = (delta << shift or >> -shift) * mul >> 32. */
void kvmclock_scale(uint64_t tsc_khz, uint32_t *mul, int8_t *shift);

#endif
