/*
 * The probe: a guest that goes from real through protected to long mode, runs an
 * SSE instruction, takes a page fault and spins a counted loop, telling of each
 * by a byte to port 0x50.
 *
 * It runs in a process of its own that is ended when time is up: a KVM that
 * hangs cannot take us along, and whatever it got to is in shared memory.
 */
#include "engine/kvm/probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>

#include "engine/kvm/kvm_sys.h"
#include "ringer/host.h"

#define MEM_SIZE 0x10000u
#define CODE 0x8000u
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define RESULT 0x6000u /* SSE result, CR2, error code */
#define PORT 0x50
#define LOOPS 3

/* The guest. Assembled here, copied to CODE; addresses are computed relative to its start. */
__asm__(".pushsection .rodata\n"
        ".set GB, 0x8000\n"
        "kvm_probe_guest:\n"
        ".code16\n"
        "    cli\n"
        "    xorw %ax, %ax\n"
        "    movw %ax, %ds\n"
        "    movb $1, %al\n"
        "    outb %al, $0x50\n"
        "    lgdtl GB + (9f - kvm_probe_guest)\n"
        "    movl %cr0, %eax\n"
        "    orl $1, %eax\n"
        "    movl %eax, %cr0\n"
        "    ljmpl $8, $(GB + (1f - kvm_probe_guest))\n"
        ".code32\n"
        "1:  movw $0x10, %ax\n"
        "    movw %ax, %ds\n"
        "    movw %ax, %es\n"
        "    movw %ax, %ss\n"
        "    movl $0x7ff0, %esp\n"
        "    movb $2, %al\n"
        "    outb %al, $0x50\n"
        "    movl %cr4, %eax\n"
        "    orl $0x620, %eax\n" /* PAE, OSFXSR, OSXMMEXCPT */
        "    movl %eax, %cr4\n"
        "    movl $0x1000, %eax\n"
        "    movl %eax, %cr3\n"
        "    movl $0xc0000080, %ecx\n"
        "    rdmsr\n"
        "    orl $0x100, %eax\n" /* LME */
        "    wrmsr\n"
        "    movl %cr0, %eax\n"
        "    orl $0x80000002, %eax\n" /* PG, MP */
        "    movl %eax, %cr0\n"
        "    ljmpl $0x18, $(GB + (2f - kvm_probe_guest))\n"
        ".code64\n"
        "2:  movb $3, %al\n"
        "    outb %al, $0x50\n"
        "    movl $1, %eax\n"
        "    movd %eax, %xmm0\n"
        "    movl $2, %eax\n"
        "    movd %eax, %xmm1\n"
        "    punpckldq %xmm1, %xmm0\n"     /* {1, 2} */
        "    pshufd $0x50, %xmm1, %xmm1\n" /* {2, 2, ...} */
        "    paddd %xmm1, %xmm0\n"         /* {3, 4} */
        "    movq %xmm0, 0x6000\n"
        "    movb $4, %al\n"
        "    outb %al, $0x50\n"
        /* IDT entry 14 at 0x5000: this handler */
        "    movl $(GB + (5f - kvm_probe_guest)), %eax\n"
        "    movl %eax, %edx\n"
        "    andl $0xffff, %eax\n"
        "    orl $0x180000, %eax\n"
        "    movl %eax, 0x50e0\n"
        "    andl $0xffff0000, %edx\n"
        "    orl $0x8e00, %edx\n"
        "    movl %edx, 0x50e4\n"
        "    movl $0, 0x50e8\n"
        "    movl $0, 0x50ec\n"
        "    lidt GB + (8f - kvm_probe_guest)\n"
        "    movl $0x40000000, %ebx\n"
        "    movl %eax, (%rbx)\n" /* 2 bytes; faults */
        "    movb $5, %al\n"
        "    outb %al, $0x50\n"
        "    movl $3, %esi\n"
        "3:  movb $6, %al\n"
        "    outb %al, $0x50\n"
        "    movl $1000000, %ecx\n"
        "4:  decl %ecx\n"
        "    jnz 4b\n"
        "    movb $7, %al\n"
        "    outb %al, $0x50\n"
        "    decl %esi\n"
        "    jnz 3b\n"
        "    movb $8, %al\n"
        "    outb %al, $0x50\n"
        "6:  hlt\n"
        "    jmp 6b\n"
        "5:  popq 0x6010\n" /* error code */
        "    movq %cr2, %rdx\n"
        "    movq %rdx, 0x6008\n"
        "    addq $2, (%rsp)\n"
        "    iretq\n"
        ".balign 8\n"
        "7:  .quad 0\n"
        "    .quad 0x00cf9b000000ffff\n" /* 0x08: 32-bit code */
        "    .quad 0x00cf93000000ffff\n" /* 0x10: data */
        "    .quad 0x00af9b000000ffff\n" /* 0x18: 64-bit code */
        "9:  .word 31\n"
        "    .long GB + (7b - kvm_probe_guest)\n"
        "8:  .word 0xfff\n"
        "    .quad 0x5000\n"
        "kvm_probe_guest_end:\n"
        ".code64\n"
        ".popsection\n");
extern const uint8_t kvm_probe_guest[], kvm_probe_guest_end[];

const struct kvm_need kvm_needs[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, "KVM_CAP_DESTROY_MEMORY_REGION_WORKS"},
    {KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT (Linux 4.13)"},
    {0, NULL},
};

static void native_loop(void)
{
    uint32_t n = PROBE_LOOP;
    __asm__ volatile("1: decl %0\n jnz 1b" : "+r"(n)::"cc");
}

static uint64_t best(uint64_t old, uint64_t now)
{
    return !old || now < old ? now : old;
}

static void measure_native(struct probe_result *r)
{
    for (int i = 0; i < LOOPS; i++) {
        uint64_t t = host_now();
        native_loop();
        t = host_now() - t;
        r->native_ns = best(r->native_ns, t ? t : 1);
    }
}

static void put64(uint8_t *mem, uint32_t at, uint64_t v)
{
    memcpy(mem + at, &v, 8);
}

static void load_guest(uint8_t *mem)
{
    memcpy(mem + CODE, kvm_probe_guest, (size_t)(kvm_probe_guest_end - kvm_probe_guest));
    put64(mem, PML4, PDPT | 3);
    put64(mem, PDPT, PD | 3);
    put64(mem, PD, 0x83); /* the first 2 MiB */
}

/* A step's result: remembered if it failed. */
static int step(struct probe_result *r, enum probe_step s, long ret)
{
    r->step = s;
    r->error = ret < 0 ? (int)-ret : 0;
    return ret < 0 ? -1 : 0;
}

static int set_cpuid(struct probe_result *r, int kvm, int vcpu)
{
    struct {
        uint32_t nent, padding; /* struct kvm_cpuid2 */
        struct kvm_cpuid_entry2 entry[256];
    } id = {.nent = 256};
    r->step = PROBE_CPUID;
    if (step(r, PROBE_CPUID, kvm_sys_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &id)))
        return -1;
    return step(r, PROBE_CPUID, kvm_sys_ioctl(vcpu, KVM_SET_CPUID2, &id));
}

static int set_state(struct probe_result *r, int vcpu)
{
    struct kvm_sregs s = {0};
    struct kvm_regs g = {.rip = CODE, .rflags = 2};
    r->step = PROBE_STATE;
    if (step(r, PROBE_STATE, kvm_sys_ioctl(vcpu, KVM_GET_SREGS, &s)))
        return -1;
    s.cs.selector = 0;
    s.cs.base = 0;
    return step(r, PROBE_STATE, kvm_sys_ioctl(vcpu, KVM_SET_SREGS, &s)) ||
           step(r, PROBE_STATE, kvm_sys_ioctl(vcpu, KVM_SET_REGS, &g));
}

/* True if the guest came to its end. */
static bool run_guest(struct probe_result *r, int vcpu, struct kvm_run *run)
{
    uint64_t begin = 0;
    r->step = PROBE_RUN;
    r->exit_reason = UINT32_MAX;
    for (;;) {
        long ret = kvm_sys_ioctl_val(vcpu, KVM_RUN, 0);
        uint64_t now = host_now();
        if (ret == -EINTR || ret == -EAGAIN)
            continue;
        if (ret < 0) {
            r->error = (int)-ret;
            return false;
        }
        uint8_t value = run->exit_reason == KVM_EXIT_IO ? ((uint8_t *)run)[run->io.data_offset] : 0;
        if (run->exit_reason != KVM_EXIT_IO || run->io.port != PORT || value <= PROBE_NONE || value > PROBE_DONE) {
            r->exit_reason = run->exit_reason;
            r->detail = run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? run->internal.suberror
                        : run->exit_reason == KVM_EXIT_FAIL_ENTRY   ? run->fail_entry.hardware_entry_failure_reason
                                                                    : run->hw.hardware_exit_reason;
            return false;
        }
        if (value == PROBE_DONE)
            return true;
        r->stage = value;
        if (value == PROBE_LOOP_BEGIN)
            begin = now;
        if (value == PROBE_LOOP_END)
            r->guest_ns = best(r->guest_ns, now - begin ? now - begin : 1);
    }
}

static void with_vcpu(struct probe_result *r, int kvm, int vm, int vcpu)
{
    long size = kvm_sys_ioctl_val(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = size < (long)sizeof(*run) ? NULL : kvm_sys_map(vcpu, (size_t)size);
    uint8_t *mem = kvm_sys_memory(MEM_SIZE);
    struct kvm_userspace_memory_region slot = {.memory_size = MEM_SIZE, .userspace_addr = (uintptr_t)mem};
    if (!run || !mem) {
        step(r, PROBE_CREATE_VCPU, -ENOMEM);
        return;
    }
    load_guest(mem);
    r->step = PROBE_MEMORY;
    if (step(r, PROBE_MEMORY, kvm_sys_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot)) || set_cpuid(r, kvm, vcpu) ||
        set_state(r, vcpu))
        return;
    if (!run_guest(r, vcpu, run))
        return;
    memcpy(&r->sse, mem + RESULT, 8);
    memcpy(&r->fault_addr, mem + RESULT + 8, 8);
    memcpy(&r->fault_error, mem + RESULT + 16, 8);
    __atomic_store_n(&r->stage, PROBE_DONE, __ATOMIC_RELEASE); /* the rest is there */
}

/* In the trial's process, which ends afterwards and takes every descriptor and mapping with it. */
static void trial(void *shared, const void *device)
{
    struct probe_result *r = shared;
    int kvm = kvm_sys_open(device), vm, vcpu;
    if (step(r, PROBE_OPEN, kvm))
        return;
    r->step = PROBE_API;
    r->api = (int)kvm_sys_ioctl_val(kvm, KVM_GET_API_VERSION, 0);
    if (step(r, PROBE_API, r->api) || r->api != KVM_API_VERSION)
        return;
    r->step = PROBE_CAPS;
    for (const struct kvm_need *n = kvm_needs; n->name; n++)
        if (kvm_sys_ioctl_val(kvm, KVM_CHECK_EXTENSION, (unsigned long)n->cap) <= 0) {
            r->missing = n->name; /* the same address in both processes */
            return;
        }
    measure_native(r);
    r->step = PROBE_CREATE_VM;
    vm = (int)kvm_sys_ioctl_val(kvm, KVM_CREATE_VM, 0);
    if (step(r, PROBE_CREATE_VM, vm))
        return;
    if (step(r, PROBE_TSS, kvm_sys_ioctl_val(vm, KVM_SET_TSS_ADDR, 0xfffbd000)))
        return;
    r->step = PROBE_CREATE_VCPU;
    vcpu = (int)kvm_sys_ioctl_val(vm, KVM_CREATE_VCPU, 0);
    if (!step(r, PROBE_CREATE_VCPU, vcpu))
        with_vcpu(r, kvm, vm, vcpu);
}

int kvm_probe(const struct engine_config *cfg, char *reason, size_t cap)
{
    const char *device = cfg && cfg->kvm_device ? cfg->kvm_device : "/dev/kvm";
    struct probe_result *r;
    int res = kvm_sys_trial(trial, device, (void **)&r, sizeof(*r), PROBE_LIMIT_MS);
    if (res < 0) {
        snprintf(reason, cap, "%s cannot be tried: %s", device, strerror(-res));
        return -1;
    }
    r->killed = res;
    res = kvm_verdict(r, device, reason, cap);
    kvm_sys_unmap(r, sizeof(*r));
    return res;
}
