/* A VM in KVM: creation, memory slots, start, statistics. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/cpuid.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/kvm_sys.h"
#include "engine/kvm/probe.h"

/* Three pages for VT-x without real mode, and its identity map: nothing else of the PC is there. */
#define IDENTITY_MAP 0xfeffc000ull
#define TSS_PAGES 0xfeffd000ul

static bool has(struct kvm_vm *k, int cap)
{
    return kvm_sys_ioctl_val(k->kvm, KVM_CHECK_EXTENSION, (unsigned long)cap) > 0;
}

static int failed(struct kvm_vm *k, const char *what, long err)
{
    vm_log(k->vm, "engine kvm: %s: %s", what, strerror((int)-err));
    return -1;
}

/* --- memory --------------------------------------------------------------------------- */

static uint32_t slot_flags(const struct kvm_vm *k, const struct kvm_slot *s)
{
    return s->readonly ? KVM_MEM_READONLY : k->dirty_logging ? KVM_MEM_LOG_DIRTY_PAGES : 0;
}

static int set_slot(struct kvm_vm *k, unsigned i, uint64_t size)
{
    const struct kvm_slot *s = &k->slot[i];
    struct kvm_userspace_memory_region m = {.slot = i,
                                            .flags = size ? slot_flags(k, s) : 0,
                                            .guest_phys_addr = s->gpa,
                                            .memory_size = size,
                                            .userspace_addr = (uintptr_t)s->host};
    return (int)kvm_sys_ioctl(k->fd, KVM_SET_USER_MEMORY_REGION, &m);
}

/* The slots the map asks for: neighbours that are neighbours in the host too are one. */
static unsigned wanted(struct kvm_vm *k, struct kvm_slot *w)
{
    const struct gpa_map *m = k->vm->mem;
    unsigned n = 0;
    for (unsigned i = 0; i < m->n; i++) {
        const struct gpa_range *r = &m->r[i];
        struct kvm_slot s = {
            .gpa = r->start, .size = r->size, .host = r->host, .readonly = r->kind == GPA_ROM, .used = true};
        if ((r->kind != GPA_RAM && r->kind != GPA_ROM) || (s.readonly && !k->readonly_mem))
            continue;
        if (n && w[n - 1].gpa + w[n - 1].size == s.gpa && w[n - 1].host + w[n - 1].size == s.host &&
            w[n - 1].readonly == s.readonly)
            w[n - 1].size += s.size;
        else if (n < KVM_MAX_SLOTS)
            w[n++] = s;
        else
            return KVM_MAX_SLOTS + 1;
    }
    return n;
}

static bool same(const struct kvm_slot *a, const struct kvm_slot *b)
{
    return a->gpa == b->gpa && a->size == b->size && a->host == b->host && a->readonly == b->readonly;
}

int kvm_slots_update(struct kvm_vm *k)
{
    struct kvm_slot w[KVM_MAX_SLOTS];
    unsigned n = wanted(k, w);
    int err = 0;
    if (n > KVM_MAX_SLOTS)
        return failed(k, "guest memory in too many pieces", -ENOSPC);
    for (unsigned i = 0; i < KVM_MAX_SLOTS; i++) {
        bool keep = false;
        for (unsigned j = 0; k->slot[i].used && j < n; j++)
            if (w[j].used && same(&k->slot[i], &w[j])) {
                keep = true;
                w[j].used = false; /* there already */
            }
        if (k->slot[i].used && !keep) {
            set_slot(k, i, 0);
            k->slot[i].used = false;
        }
    }
    for (unsigned j = 0, i = 0; j < n && !err; j++) {
        if (!w[j].used)
            continue;
        while (k->slot[i].used)
            i++;
        k->slot[i] = w[j];
        err = set_slot(k, i, w[j].size);
        if (err)
            k->slot[i].used = false;
    }
    return err ? failed(k, "KVM_SET_USER_MEMORY_REGION", err) : 0;
}

static int map_commit(struct vm *vm)
{
    if (kvm_slots_update(kvm_of(vm)) == 0)
        return 0;
    vm_request_end(vm, VM_END_ERROR, 0);
    return -1;
}

static int dirty_log(struct vm *vm, bool on)
{
    struct kvm_vm *k = kvm_of(vm);
    int err = 0;
    k->dirty_logging = on;
    for (unsigned i = 0; i < KVM_MAX_SLOTS && !err; i++)
        if (k->slot[i].used && !k->slot[i].readonly)
            err = set_slot(k, i, k->slot[i].size);
    return err ? -1 : 0;
}

static int dirty_fetch(struct vm *vm, uint64_t *bitmap)
{
    struct kvm_vm *k = kvm_of(vm);
    for (unsigned i = 0; i < KVM_MAX_SLOTS; i++) {
        const struct kvm_slot *s = &k->slot[i];
        if (!s->used || s->readonly)
            continue;
        uint64_t pages = s->size >> 12, first = (uint64_t)(s->host - vm->ram) >> 12;
        uint64_t *bits = calloc((pages + 63) / 64, sizeof(*bits));
        struct kvm_dirty_log log = {.slot = i, .dirty_bitmap = bits};
        long err = bits ? kvm_sys_ioctl(k->fd, KVM_GET_DIRTY_LOG, &log) : -ENOMEM;
        for (uint64_t p = 0; !err && p < pages; p++)
            if (bits[p / 64] >> (p % 64) & 1)
                bitmap[(first + p) / 64] |= 1ull << ((first + p) % 64);
        free(bits);
        if (err)
            return -1;
    }
    return 0;
}

/* --- creation ---------------------------------------------------------------------------- */

static void vm_fini(struct vm *vm)
{
    struct kvm_vm *k = kvm_of(vm);
    if (!k)
        return;
    for (unsigned i = 0; i < k->ncpu; i++) {
        kvm_sys_unmap(k->cpu[i].run, k->run_size);
        kvm_sys_close(k->cpu[i].fd);
        if (vm->cpu[i])
            vm->cpu[i]->engine_priv = NULL;
    }
    kvm_sys_close(k->fd);
    kvm_sys_close(k->kvm);
    if (k->route_lock)
        host_mutex_free(k->route_lock);
    free(k->supported);
    free(k->msrs);
    free(k);
    vm->engine_priv = NULL;
}

/* Lists whose length KVM tells by E2BIG: for CPUID one asks for more than there can be, for MSRs one asks twice. */
static int read_lists(struct kvm_vm *k)
{
    const unsigned max = 256;
    struct kvm_msr_list head = {0}, *list;
    k->supported = calloc(1, sizeof(*k->supported) + max * sizeof(k->supported->entries[0]));
    if (!k->supported)
        return failed(k, "CPUID", -ENOMEM);
    k->supported->nent = max;
    long err = kvm_sys_ioctl(k->kvm, KVM_GET_SUPPORTED_CPUID, k->supported);
    if (err < 0)
        return failed(k, "KVM_GET_SUPPORTED_CPUID", err);
    k->xfeatures = 3;
    for (unsigned i = 0; i < k->supported->nent; i++)
        if (k->supported->entries[i].function == 0xd && k->supported->entries[i].index == 0)
            k->xfeatures |= k->supported->entries[i].eax | (uint64_t)k->supported->entries[i].edx << 32;
    err = kvm_sys_ioctl(k->kvm, KVM_GET_MSR_INDEX_LIST, &head);
    if (err < 0 && err != -E2BIG)
        return failed(k, "KVM_GET_MSR_INDEX_LIST", err);
    list = calloc(1, sizeof(*list) + head.nmsrs * sizeof(uint32_t));
    k->msrs = calloc(head.nmsrs + 1, sizeof(uint32_t));
    if (list && k->msrs) {
        list->nmsrs = head.nmsrs;
        err = kvm_sys_ioctl(k->kvm, KVM_GET_MSR_INDEX_LIST, list);
        if (err >= 0) {
            k->nmsrs = list->nmsrs < head.nmsrs ? list->nmsrs : head.nmsrs;
            memcpy(k->msrs, list->indices, k->nmsrs * sizeof(uint32_t));
        }
    }
    free(list);
    return k->msrs && err >= 0 ? 0 : failed(k, "KVM_GET_MSR_INDEX_LIST", err < 0 ? err : -ENOMEM);
}

static int make_vcpus(struct kvm_vm *k)
{
    long size = kvm_sys_ioctl_val(k->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (long)sizeof(struct kvm_run))
        return failed(k, "KVM_GET_VCPU_MMAP_SIZE", size < 0 ? size : -EINVAL);
    k->run_size = (size_t)size;
    for (unsigned i = 0; i < k->ncpu; i++) {
        long fd = kvm_sys_ioctl_val(k->fd, KVM_CREATE_VCPU, i);
        if (fd < 0)
            return failed(k, "KVM_CREATE_VCPU", fd);
        k->cpu[i].fd = (int)fd;
        k->cpu[i].run = kvm_sys_map((int)fd, k->run_size);
        if (!k->cpu[i].run)
            return failed(k, "a vCPU's pages", -ENOMEM);
    }
    return 0;
}

static int create(struct kvm_vm *k, const char *device)
{
    const uint64_t identity = IDENTITY_MAP;
    long err;
    k->kvm = kvm_sys_open(device);
    if (k->kvm < 0)
        return failed(k, device, k->kvm);
    k->fd = (int)kvm_sys_ioctl_val(k->kvm, KVM_CREATE_VM, 0);
    if (k->fd < 0)
        return failed(k, "KVM_CREATE_VM", k->fd);
    if (has(k, KVM_CAP_SET_IDENTITY_MAP_ADDR) && (err = kvm_sys_ioctl(k->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity)) < 0)
        return failed(k, "KVM_SET_IDENTITY_MAP_ADDR", err);
    if ((err = kvm_sys_ioctl_val(k->fd, KVM_SET_TSS_ADDR, TSS_PAGES)) < 0)
        return failed(k, "KVM_SET_TSS_ADDR", err);
    k->readonly_mem = has(k, KVM_CAP_READONLY_MEM);
    k->sregs2 = has(k, KVM_CAP_SREGS2);
    k->xcrs = has(k, KVM_CAP_XCRS); /* not on processors without XSAVE */
    if ((err = kvm_sys_kick_init()) < 0)
        return failed(k, "kick signal", err);
    if (read_lists(k) || kvm_irq_init(k, k->vm->engine_cfg.irqchip) || make_vcpus(k))
        return -1;
    long khz = kvm_sys_ioctl_val(k->cpu[0].fd, KVM_GET_TSC_KHZ, 0);
    if (khz > 0)
        k->vm->tsc_khz = (uint64_t)khz;
    return 0;
}

static int vm_init(struct vm *vm)
{
    struct kvm_vm *k = calloc(1, sizeof(*k) + vm->ncpu * sizeof(k->cpu[0]));
    if (!k)
        return -1;
    vm->engine_priv = k;
    k->vm = vm;
    k->ncpu = vm->ncpu;
    k->kvm = k->fd = -1;
    for (unsigned i = 0; i < k->ncpu; i++)
        k->cpu[i].fd = k->cpu[i].refused = -1;
    k->route_lock = host_mutex_new();
    if (k->route_lock && create(k, vm->engine_cfg.kvm_device ? vm->engine_cfg.kvm_device : "/dev/kvm") == 0)
        return 0;
    vm_fini(vm);
    return -1;
}

/* --- start --------------------------------------------------------------------------------- */

static int set_cpuid(struct kvm_vm *k, unsigned i)
{
    const unsigned cap = 128;
    struct kvm_cpuid_target t = {.index = i,
                                 .ncpu = k->ncpu,
                                 .kernel_apic = k->vm->intc_kind != VM_INTC_OURS,
                                 .tsc_deadline = has(k, KVM_CAP_TSC_DEADLINE_TIMER)};
    struct kvm_cpuid2 *id = calloc(1, sizeof(*id) + cap * sizeof(id->entries[0]));
    long err = -ENOMEM;
    if ((unsigned)__get_cpuid_max(0x80000000, NULL) >= 0x80000004)
        for (uint32_t leaf = 0, *n = t.name; leaf < 3; leaf++, n += 4)
            __cpuid(0x80000002 + leaf, n[0], n[1], n[2], n[3]);
    if (id) {
        id->nent = kvm_cpuid_build(k->vm->cpuid, k->supported, &t, id->entries, cap);
        if (id->nent)
            err = kvm_sys_ioctl(k->cpu[i].fd, KVM_SET_CPUID2, id);
    }
    free(id);
    return err < 0 ? failed(k, "KVM_SET_CPUID2", err) : 0;
}

/* All of it before any vCPU runs: one of them may send interrupts to another at once. */
static int start(struct vm *vm)
{
    struct kvm_vm *k = kvm_of(vm);
    if (kvm_slots_update(k))
        return -1;
    for (unsigned i = 0; i < k->ncpu; i++) {
        struct kvm_vcpu *kv = &k->cpu[i];
        bool first = !kv->v;
        kv->v = vm->cpu[i];
        __atomic_store_n(&vm->cpu[i]->engine_priv, kv, __ATOMIC_RELEASE);
        if (first && set_cpuid(k, i)) /* never changes, and may not once a vCPU has run */
            return -1;
        if (kvm_state_reset(kv) || kvm_state_push(vm->cpu[i], STATE_ALL))
            return -1;
    }
    return 0;
}

static int vcpu_init(struct vcpu *v)
{
    atomic_store(&kvcpu_of(v)->thread, kvm_sys_thread());
    return 0;
}

static void vcpu_fini(struct vcpu *v)
{
    struct kvm_vcpu *kv = kvcpu_of(v);
    if (!kv)
        return;
    kvm_vcpu_settle(kv, false);
    atomic_store(&kv->thread, 0);
}

/* immediate_exit before the signal: if the thread is about to enter KVM_RUN, it comes back at once; if it is inside,
 * the signal gets it out. It stays set until a run has returned for it. */
static void kick(struct vcpu *v)
{
    struct kvm_vcpu *kv = kvcpu_of(v);
    if (!kv)
        return;
    __atomic_store_n(&kv->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    int thread = atomic_load(&kv->thread);
    if (thread)
        kvm_sys_kick(thread);
}

static unsigned stats(const struct vm *vm, struct engine_stat *out, unsigned cap)
{
    const struct kvm_vm *k = kvm_of(vm);
    unsigned n = 0;
    uint64_t interrupted = 0, injected = 0;
    if (!k)
        return 0;
#define STAT(text, val)                                                                                                \
    do {                                                                                                               \
        if (n++ < cap)                                                                                                 \
            out[n - 1] = (struct engine_stat){text, val};                                                              \
    } while (0)
    for (unsigned r = 0; r < KVM_NREASONS; r++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < k->ncpu; i++)
            sum += k->cpu[i].exits[r];
        if (sum)
            STAT(kvm_reason_name(r) ? kvm_reason_name(r) : "exit (other)", sum);
    }
    for (unsigned i = 0; i < k->ncpu; i++) {
        interrupted += k->cpu[i].interrupted;
        injected += k->cpu[i].injected;
    }
    STAT("exit kick", interrupted);
    STAT("interrupts injected", injected);
    STAT("messages sent", atomic_load_explicit(&k->messages, memory_order_relaxed));
    STAT("doorbells", atomic_load_explicit(&k->doorbells, memory_order_relaxed));
#undef STAT
    return n;
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .summary = "hardware virtualization through KVM",
    .caps = ENGINE_CAP_SMP | ENGINE_CAP_OWN_INTC | ENGINE_CAP_HARDWARE,
    .rank = 100,
    .probe = kvm_probe,
    .vm_init = vm_init,
    .vm_fini = vm_fini,
    .vm_start = start,
    .vcpu_init = vcpu_init,
    .vcpu_fini = vcpu_fini,
    .run = kvm_vcpu_run,
    .kick = kick,
    .state_pull = kvm_state_pull,
    .state_push = kvm_state_push,
    .map_commit = map_commit,
    .irq_isa = kvm_irq_isa,
    .irq_pin = kvm_irq_pin,
    .irq_message = kvm_irq_message,
    .msi = kvm_irq_msi,
    .intc_reset = kvm_irq_reset,
    .doorbell = kvm_doorbell,
    .dirty_log = dirty_log,
    .dirty_fetch = dirty_fetch,
    .stats = stats,
};
