/* A bare CPU with 32 MiB of RAM, one page of ROM and one device page, for tests of the x86 layer. */
#ifndef CPU_FIXTURE_H
#define CPU_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ringer/gpa.h"
#include "x86/cpuid.h"
#include "x86/exec.h"

#define FX_RAM 0x2000000u
#define FX_ROM 0x3000000u /* guest-physical */
#define FX_DEV 0x4000000u

struct fx {
    struct x86_cpu *c;
    struct gpa_map *map;
    uint8_t *ram, *rom;
    uint32_t *flags, rom_flags[1];
    struct x86_cpuid_policy *policy;
    uint64_t tsc;
    /* log of bus accesses */
    struct x86_io io[64];
    unsigned nio;
    uint64_t io_answer;
    uint64_t code_gpa;
    uint32_t code_len, ncode;
    uint64_t cr8;
};

static inline uint64_t fx_tsc(void *env)
{
    return ((struct fx *)env)->tsc;
}
static inline void fx_io(void *env, struct x86_io *io)
{
    struct fx *f = env;

    if (!io->write)
        io->data = io->size == 8 ? f->io_answer : f->io_answer & ((1ull << (8 * io->size)) - 1);
    if (f->nio < 64)
        f->io[f->nio++] = *io;
}
static inline int fx_rdmsr(void *env, uint32_t msr, uint64_t *val)
{
    if (msr != 0x1b)
        return X86_FAULT;
    *val = 0xfee00900;
    return X86_OK;
}
static inline int fx_wrmsr(void *env, uint32_t msr, uint64_t val)
{
    return msr == 0x1b ? X86_OK : X86_FAULT;
}
static inline uint64_t fx_cr8_read(void *env)
{
    return ((struct fx *)env)->cr8;
}
static inline void fx_cr8_write(void *env, uint64_t v)
{
    ((struct fx *)env)->cr8 = v;
}
static inline void fx_code_write(void *env, uint64_t gpa, uint32_t len)
{
    struct fx *f = env;

    f->code_gpa = gpa;
    f->code_len = len;
    f->ncode++;
}
static inline void fx_excl(void *env)
{
    (void)env;
}
static inline bool fx_random(void *env, uint64_t *v)
{
    *v = 0x0123456789abcdef;
    return true;
}
static const struct x86_env_ops fx_ops = {
    .tsc = fx_tsc,
    .io = fx_io,
    .rdmsr = fx_rdmsr,
    .wrmsr = fx_wrmsr,
    .cr8_read = fx_cr8_read,
    .cr8_write = fx_cr8_write,
    .code_write = fx_code_write,
    .exclusive_begin = fx_excl,
    .exclusive_end = fx_excl,
    .random = fx_random,
};

static inline struct fx *fx_new(unsigned phys_bits)
{
    struct fx *f = calloc(1, sizeof(*f));
    struct x86_cpuid_config cfg = {.ncpu = 2,
                                   .tsc_khz = 2000000,
                                   .phys_bits = phys_bits,
                                   .apic_hz = 1000000000,
                                   .kvm_leaves = true,
                                   .kvm_features = 0x01000009,
                                   .has_x2apic = true,
                                   .has_tsc_deadline = true};
    struct gpa_range r;

    f->c = aligned_alloc(64, (sizeof(*f->c) + 63) / 64 * 64);
    memset(f->c, 0, sizeof(*f->c));
    f->ram = aligned_alloc(4096, FX_RAM);
    memset(f->ram, 0, FX_RAM);
    f->rom = aligned_alloc(4096, 4096);
    memset(f->rom, 0x5a, 4096);
    f->flags = calloc(FX_RAM / 4096, 4);
    f->policy = x86_cpuid_new(&cfg);
    f->map = gpa_begin(NULL, 1ull << phys_bits);
    r = (struct gpa_range){.start = 0, .size = FX_RAM, .kind = GPA_RAM, .host = f->ram, .page_flags = f->flags};
    gpa_add(f->map, &r);
    r = (struct gpa_range){.start = FX_ROM, .size = 4096, .kind = GPA_ROM, .host = f->rom, .page_flags = f->rom_flags};
    gpa_add(f->map, &r);
    r = (struct gpa_range){.start = FX_DEV, .size = 4096, .kind = GPA_IO};
    gpa_add(f->map, &r);
    f->c->cpuid = f->policy;
    f->c->ops = &fx_ops;
    f->c->env = f;
    f->c->cr0 = X86_CR0_PE | X86_CR0_ET;
    f->c->fl_sys = X86_FL_1;
    f->c->xcr0 = 1;
    f->c->dr6 = 0xffff0ff0;
    f->c->dr7 = 0x400;
    x86_mmu_init(f->c, f->map, 3);
    return f;
}

static inline void fx_free(struct fx *f)
{
    gpa_free(f->map);
    x86_cpuid_free(f->policy);
    free(f->c);
    free(f->ram);
    free(f->rom);
    free(f->flags);
    free(f);
}

static inline void fx_put64(struct fx *f, uint64_t gpa, uint64_t v)
{
    memcpy(f->ram + gpa, &v, 8);
}
static inline void fx_put32(struct fx *f, uint64_t gpa, uint32_t v)
{
    memcpy(f->ram + gpa, &v, 4);
}
static inline uint64_t fx_get64(struct fx *f, uint64_t gpa)
{
    uint64_t v;

    memcpy(&v, f->ram + gpa, 8);
    return v;
}
static inline uint32_t fx_get32(struct fx *f, uint64_t gpa)
{
    return (uint32_t)fx_get64(f, gpa);
}

#endif
