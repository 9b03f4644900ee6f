/* What an MSI costs under KVM: by KVM_SIGNAL_MSI, as engine kvm sends it, and by an irqfd. A system call of the host's
 * beside. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define CALLS 20000
#define REPS 9
#define GSI 50

static void need(int r, const char *what)
{
    if (r >= 0)
        return;
    perror(what);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double median_ns(uint64_t *v)
{
    qsort(v, REPS, sizeof(*v), order);
    return (double)v[REPS / 2] / CALLS;
}

int main(void)
{
    struct {
        uint32_t nr, flags; /* struct kvm_irq_routing */
        struct kvm_irq_routing_entry entry;
    } route = {1, 0, {.gsi = GSI, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = 0x52}}};
    struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x51};
    struct kvm_lapic_state apic;
    uint64_t t[3][REPS];
    const uint64_t one = 1;
    const uint32_t on = 0x1ff;
    int kvm, vm, cpu, fd = eventfd(0, 0);
    struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = GSI};

    need(kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    need(vm = ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    need(ioctl(vm, KVM_SET_TSS_ADDR, 0xfeffd000), "KVM_SET_TSS_ADDR");
    need(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    need(cpu = ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    need(ioctl(cpu, KVM_GET_LAPIC, &apic), "KVM_GET_LAPIC");
    memcpy(apic.regs + 0xf0, &on, sizeof(on)); /* a local APIC that is off takes no message */
    need(ioctl(cpu, KVM_SET_LAPIC, &apic), "KVM_SET_LAPIC");
    need(ioctl(vm, KVM_SET_GSI_ROUTING, &route), "KVM_SET_GSI_ROUTING");
    need(ioctl(vm, KVM_IRQFD, &irqfd), "KVM_IRQFD");
    for (unsigned rep = 0; rep < REPS; rep++) {
        uint64_t t0 = now();
        for (unsigned i = 0; i < CALLS; i++)
            need(ioctl(vm, KVM_SIGNAL_MSI, &msi), "KVM_SIGNAL_MSI");
        uint64_t t1 = now();
        for (unsigned i = 0; i < CALLS; i++)
            need((int)write(fd, &one, sizeof(one)), "irqfd");
        uint64_t t2 = now();
        for (unsigned i = 0; i < CALLS; i++)
            (void)getppid();
        t[0][rep] = t1 - t0;
        t[1][rep] = t2 - t1;
        t[2][rep] = now() - t2;
    }
    need(ioctl(cpu, KVM_GET_LAPIC, &apic), "KVM_GET_LAPIC");
    if ((apic.regs[0x222] & 6) != 6) { /* vectors 0x51 and 0x52 are requested */
        fprintf(stderr, "a message did not arrive\n");
        return 1;
    }
    printf("MSI: KVM_SIGNAL_MSI %.0f ns, irqfd %.0f ns; getppid %.0f ns\n", median_ns(t[0]), median_ns(t[1]),
           median_ns(t[2]));
    return 0;
}
