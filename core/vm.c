/* A virtual machine: creation, start, end, reset, map changes, exclusive sections, DMA. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/limit.h"
#include "ringer/vm.h"
#include "x86/cpuid.h"
#include "x86/mmu.h"

void vm_log(struct vm *vm, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (vm && vm->log)
        vm->log(vm->log_ctx, line);
    else
        host_log("%s", line);
}

/* PC layout: RAM below 3 GiB stays there, the rest begins at 4 GiB. */
#define LOW_RAM_MAX (3ull << 30)
#define HIGH_RAM (4ull << 30)
/* 2026-01-01 00:00 UTC in nanoseconds: when machines on a counter start. */
#define COUNTED_WALL 1767225600000000000ull

static int add_ram(struct vm *vm, uint64_t start, uint64_t off, uint64_t size)
{
    struct gpa_range r = {.start = start,
                          .size = size,
                          .kind = GPA_RAM,
                          .host = vm->ram + off,
                          .page_flags = vm->ram_flags + (off >> 12),
                          .host_off = off,
                          .name = "ram"};
    return gpa_add(vm->mem, &r);
}

struct vm *vm_new(const struct vm_config *cfg, char *err, size_t errcap)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    if (!vm) {
        snprintf(err, errcap, "out of memory");
        return NULL;
    }
    vm->ram_fd = -1;
    vm->engine = cfg->engine;
    vm->engine_cfg = cfg->engine_cfg;
    vm->ncpu = cfg->ncpu;
    vm->no_reboot = cfg->no_reboot;
    vm->ram_size = cfg->ram_size;
    vm->device_lock = host_mutex_new();
    vm->state_lock = host_mutex_new();
    vm->excl_lock = host_mutex_new();
    vm->excl_cond = host_cond_new();
    vm->done = host_event_new();
    vm->counter = cfg->counter;
    vm->tsc_khz = vm->counter ? 1000000 : host_tsc_khz();
    vm->tsc = malloc(sizeof(*vm->tsc));
    if (vm->tsc)
        *vm->tsc = tsc_scale_make(vm->tsc_khz);
    vm->start_ns = host_now();
    vm->ram = host_ram_alloc(cfg->ram_size, &vm->ram_fd);
    if (!vm->ram) {
        snprintf(err, errcap, "cannot get %llu MiB of memory for the guest", (unsigned long long)(cfg->ram_size >> 20));
        vm_free(vm);
        return NULL;
    }
    vm->ram_flags = host_ram_alloc((cfg->ram_size >> 12) * sizeof(uint32_t), NULL);
    vm->mem = gpa_begin(NULL, 1ull << 46);
    vm->pio = gpa_begin(NULL, 0x10000);
    if (vm->device_lock && vm->counter)
        vm->clock = clock_new_source(vm->device_lock, &(struct clock_source){clock_counter_source(vm->counter).now, vm->counter}, COUNTED_WALL);
    else if (vm->device_lock)
        vm->clock = clock_new(vm->device_lock);
    uint64_t low = cfg->ram_size < LOW_RAM_MAX ? cfg->ram_size : LOW_RAM_MAX;
    bool ok = vm->device_lock && vm->state_lock && vm->excl_lock && vm->excl_cond && vm->done && vm->ram_flags && vm->mem &&
              vm->pio && vm->clock && vm->tsc && add_ram(vm, 0, 0, low) == 0 &&
              (low == cfg->ram_size || add_ram(vm, HIGH_RAM, low, cfg->ram_size - low) == 0);
    if (ok)
        vm->ram_map = gpa_begin(vm->mem, vm->mem->limit);
    if (!ok || !vm->ram_map) {
        snprintf(err, errcap, "out of memory");
        vm_free(vm);
        return NULL;
    }
    return vm;
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    if (vm->engine_ready && vm->engine->vm_fini)
        vm->engine->vm_fini(vm);
    for (unsigned i = 0; i < vm->ncpu; i++)
        vcpu_free(vm->cpu[i]);
    if (vm->clock)
        clock_free(vm->clock);
    gpa_free(vm->mem);
    gpa_free(vm->pio);
    gpa_free(vm->ram_map);
    if (vm->cpuid)
        x86_cpuid_free(vm->cpuid);
    if (vm->ram_flags)
        host_ram_free(vm->ram_flags, (vm->ram_size >> 12) * sizeof(uint32_t), -1);
    if (vm->ram)
        host_ram_free(vm->ram, vm->ram_size, vm->ram_fd);
    host_event_free(vm->done);
    host_cond_free(vm->excl_cond);
    host_mutex_free(vm->excl_lock);
    host_mutex_free(vm->state_lock);
    host_mutex_free(vm->device_lock);
    free(vm->tsc);
    free(vm);
}

/* --- running --- */

static void stop_threads(struct vm *vm)
{
    for (unsigned i = 0; i < vm->ncpu; i++)
        if (vm->cpu[i])
            vcpu_request(vm->cpu[i], VREQ_STOP);
    for (unsigned i = 0; i < vm->ncpu; i++)
        if (vm->cpu[i] && vm->cpu[i]->thread) {
            host_thread_join(vm->cpu[i]->thread);
            vm->cpu[i]->thread = NULL;
        }
}

static int start_threads(struct vm *vm, char *err, size_t errcap)
{
    char name[16];
    for (unsigned i = 0; i < vm->ncpu; i++) {
        struct vcpu *v = vm->cpu[i];
        /* What the local APIC has already accepted is looked at; everything else of before is over. */
        atomic_store(&v->requests, VREQ_INTR);
        v->irq_waiting = v->nmi_pending = false;
    }
    if (vm->engine->vm_start && vm->engine->vm_start(vm) != 0) {
        snprintf(err, errcap, "engine %s cannot start the machine", vm->engine->name);
        return -1;
    }
    for (unsigned i = 0; i < vm->ncpu; i++) {
        snprintf(name, sizeof(name), "vcpu%u", i);
        vm->cpu[i]->thread = host_thread_start(name, vcpu_thread, vm->cpu[i]);
        if (!vm->cpu[i]->thread) {
            snprintf(err, errcap, "cannot start the thread of cpu %u", i);
            stop_threads(vm);
            return -1;
        }
    }
    return 0;
}

int vm_engine_init(struct vm *vm, char *err, size_t errcap)
{
    if (vm->engine_ready)
        return 0;
    if (vm->engine->vm_init && vm->engine->vm_init(vm) != 0) {
        snprintf(err, errcap, "engine %s cannot be set up", vm->engine->name);
        return -1;
    }
    vm->engine_ready = true;
    *vm->tsc = tsc_scale_make(vm->tsc_khz);
    return 0;
}

int vm_start(struct vm *vm, char *err, size_t errcap)
{
    if (vm_engine_init(vm, err, errcap) != 0)
        return -1;
    clock_resume(vm->clock);
    if (start_threads(vm, err, errcap) != 0)
        return -1;
    if (vm->cpu_limit && !(vm->limit = limit_start(vm, vm->cpu_limit))) {
        snprintf(err, errcap, "cannot start the thread of the CPU limit");
        stop_threads(vm);
        return -1;
    }
    return 0;
}

void vm_reset(struct vm *vm)
{
    atomic_store(&vm->reset_wanted, false);
    host_lock(vm->device_lock);
    for (unsigned i = 0; i < vm->ncpu; i++)
        x86_reset(&vm->cpu[i]->cpu, false);
    if (vm->reset_machine)
        vm->reset_machine(vm);
    host_unlock(vm->device_lock);
}

enum vm_end vm_wait(struct vm *vm)
{
    char err[160];
    for (;;) {
        host_event_wait(vm->done, UINT64_MAX);
        int end = atomic_load(&vm->end);
        if (end == VM_END_NONE && !atomic_load(&vm->reset_wanted))
            continue;
        stop_threads(vm);
        end = atomic_load(&vm->end);
        if (end != VM_END_NONE)
            break;
        vm_reset(vm);
        if (start_threads(vm, err, sizeof(err)) != 0) {
            vm_log(vm, "%s", err);
            vm_request_end(vm, VM_END_ERROR, 0);
        }
    }
    limit_stop(vm->limit);
    vm->limit = NULL;
    clock_pause(vm->clock);
    return (enum vm_end)atomic_load(&vm->end);
}

void vm_request_end(struct vm *vm, enum vm_end why, int code)
{
    int none = VM_END_NONE;
    if (atomic_compare_exchange_strong(&vm->end, &none, (int)why))
        vm->end_code = code;
    for (unsigned i = 0; i < vm->ncpu; i++)
        if (vm->cpu[i])
            vcpu_request(vm->cpu[i], VREQ_STOP);
    host_event_set(vm->done);
}

void vm_request_reset(struct vm *vm)
{
    if (vm->no_reboot) {
        vm_request_end(vm, VM_END_RESET, 0);
        return;
    }
    atomic_store(&vm->reset_wanted, true);
    for (unsigned i = 0; i < vm->ncpu; i++)
        if (vm->cpu[i])
            vcpu_request(vm->cpu[i], VREQ_STOP);
    host_event_set(vm->done);
}

/* --- exclusive sections --- */

void vm_exclusive_begin(struct vm *vm, struct vcpu *self)
{
    if (self)
        vcpu_leave_guest(self);
    host_lock(vm->excl_lock);
    while (atomic_load(&vm->excl_wanted))
        host_cond_wait(vm->excl_cond, vm->excl_lock);
    atomic_store(&vm->excl_wanted, 1);
    for (unsigned i = 0; i < vm->ncpu; i++) {
        struct vcpu *v = vm->cpu[i];
        if (!v || v == self)
            continue;
        if (atomic_load(&v->in_guest))
            vcpu_request(v, VREQ_SAFEPOINT);
        while (atomic_load(&v->in_guest))
            host_cond_wait(vm->excl_cond, vm->excl_lock);
    }
    host_unlock(vm->excl_lock);
    if (self)
        self->exclusive = true;
}

void vm_exclusive_end(struct vm *vm, struct vcpu *self)
{
    if (self)
        self->exclusive = false;
    host_lock(vm->excl_lock);
    atomic_store(&vm->excl_wanted, 0);
    host_cond_broadcast(vm->excl_cond);
    host_unlock(vm->excl_lock);
    if (self)
        vcpu_enter_guest(self);
}

void vm_park(struct vm *vm, bool on)
{
    if (atomic_exchange(&vm->parked, on) == on)
        return;
    for (unsigned i = 0; i < vm->ncpu; i++) {
        struct vcpu *v = vm->cpu[i];
        if (!v)
            continue;
        if (on && atomic_load(&v->in_guest))
            vcpu_request(v, VREQ_SAFEPOINT);
        else if (!on && atomic_load(&v->sleeping))
            host_event_set(v->wake);
    }
}

/* --- map changes --- */

static void swap_map(struct vm *vm, struct gpa_map **slot, struct gpa_map *new, bool mem)
{
    vm_exclusive_begin(vm, NULL);
    struct gpa_map *old = *slot;
    *slot = new;
    if (mem)
        for (unsigned i = 0; i < vm->ncpu; i++)
            if (vm->cpu[i]) {
                vm->cpu[i]->cpu.mmu.map = new;
                vcpu_request(vm->cpu[i], VREQ_TLB);
            }
    if (mem && vm->engine_priv && vm->engine->map_commit)
        vm->engine->map_commit(vm);
    vm_exclusive_end(vm, NULL);
    gpa_free(old);
}

void vm_set_map(struct vm *vm, struct gpa_map *mem)
{
    swap_map(vm, &vm->mem, mem, true);
}

void vm_set_pio(struct vm *vm, struct gpa_map *pio)
{
    swap_map(vm, &vm->pio, pio, false);
}

/* As every vCPU had executed INVLPG; engines see it where they look for flushes of the guest's own. */
void vm_flush_pages(struct vm *vm, const uint64_t *lin, unsigned n)
{
    vm_exclusive_begin(vm, NULL);
    for (unsigned i = 0; i < vm->ncpu; i++)
        for (unsigned k = 0; vm->cpu[i] && k < n; k++)
            x86_tlb_flush_page(&vm->cpu[i]->cpu, lin[k]);
    vm_exclusive_end(vm, NULL);
}

/* --- memory written from outside, DMA --- */

static void mark_written(struct vm *vm, uint64_t gpa, uint64_t len)
{
    for (uint64_t p = gpa & ~0xfffull; p < gpa + len; p += 0x1000) {
        uint32_t *f = gpa_page_flags(vm->ram_map, p);
        if (f)
            __atomic_fetch_or(f, GPA_PF_WRITER(1), __ATOMIC_RELAXED);
    }
}

void vm_ram_written(struct vm *vm, struct vcpu *writer, uint64_t gpa, uint64_t len)
{
    if (!len || !vm->engine || !vm->engine->code_inval)
        return;
    if (vm->counter) /* comparisons look at pages that have flags */
        mark_written(vm, gpa, len);
    /* The store must be visible before the flag is read: the translator sets the flag before it reads code. */
    atomic_thread_fence(memory_order_seq_cst);
    for (uint64_t end = gpa + len; gpa < end;) {
        uint64_t next = (gpa | 0xfff) + 1;
        if (next > end)
            next = end;
        const uint32_t *f = gpa_page_flags(vm->ram_map, gpa);
        if (f && (__atomic_load_n(f, __ATOMIC_RELAXED) & GPA_PF_CODE))
            vm->engine->code_inval(vm, writer, gpa, (uint32_t)(next - gpa));
        gpa = next;
    }
}

static int dma_copy(struct vm *vm, uint64_t gpa, void *buf, size_t len, bool write)
{
    uint8_t *p = buf;
    while (len) {
        const struct gpa_range *r = gpa_find(vm->ram_map, gpa);
        if (!r)
            return -1;
        uint64_t off = gpa - r->start, n = r->size - off;
        if (n > len)
            n = len;
        if (write) {
            memcpy(r->host + off, p, n);
            vm_ram_written(vm, NULL, gpa, n);
        } else {
            memcpy(p, r->host + off, n);
        }
        p += n;
        gpa += n;
        len -= n;
    }
    return 0;
}

static int dma_read(void *ctx, uint64_t gpa, void *buf, size_t len)
{
    return dma_copy(ctx, gpa, buf, len, false);
}

static int dma_write(void *ctx, uint64_t gpa, const void *buf, size_t len)
{
    return dma_copy(ctx, gpa, (void *)(uintptr_t)buf, len, true);
}

static void *dma_map(void *ctx, uint64_t gpa, size_t len, bool write)
{
    struct vm *vm = ctx;
    return gpa_host(vm->ram_map, gpa, len, write);
}

static void dma_dirty(void *ctx, uint64_t gpa, size_t len)
{
    vm_ram_written(ctx, NULL, gpa, len);
}

struct dma vm_dma(struct vm *vm)
{
    return (struct dma){.ctx = vm, .read = dma_read, .write = dma_write, .map = dma_map, .dirty = dma_dirty};
}
