/* Application processors: INIT-SIPI start-up, locked instructions, inter-processor interrupts, cross-modifying code. */
/* guest-options: --cpus 4 */
#include "guest.h"

#define ROUNDS 20000
static volatile uint64_t locked_sum, xadd_sum, cas_sum, bits;
static volatile uint32_t go, done, ipis, split_bad;
static uint8_t split_page[8192] __attribute__((aligned(4096)));

static void work(unsigned index)
{
    uint64_t *split = (uint64_t *)(split_page + 4092); /* across a page boundary */
    for (unsigned i = 0; i < ROUNDS; i++) {
        __asm__ volatile("lock incq %0" : "+m"(locked_sum));
        uint64_t one = 1, old, new;
        __asm__ volatile("lock xaddq %0,%1" : "+r"(one), "+m"(xadd_sum));
        do {
            old = cas_sum;
            new = old + 3;
        } while (!__sync_bool_compare_and_swap(&cas_sum, old, new));
    }
    for (unsigned i = 0; i < 200; i++)
        __asm__ volatile("lock addq $1,%0" : "+m"(*split));
    __asm__ volatile("lock btsq %1,%0" : "+m"(bits) : "r"((uint64_t)index));
}

static void on_ipi(struct frame *f)
{
    __sync_fetch_and_add(&ipis, 1);
    apic_write(0xb0, 0);
}

/* mov $imm32, %eax; ret */
static uint8_t code[64] __attribute__((aligned(4096))) = {0xb8, 0, 0, 0, 0, 0xc3};
static volatile uint32_t code_version, code_seen[4];

static void ap(unsigned index)
{
    apic_write(0xf0, 0x1ff);
    while (!go)
        __asm__ volatile("pause");
    work(index);
    __sync_fetch_and_add(&done, 1);
    /* Wait for each new version of the code, serialise, run it. */
    for (uint32_t v = 1; v <= 50; v++) {
        uint32_t r[4];
        while (code_version < v)
            __asm__ volatile("pause");
        cpuid(0, 0, r);
        uint32_t got = ((uint32_t(*)(void))code)();
        if (got != v)
            __sync_fetch_and_add(&split_bad, 1);
        __sync_fetch_and_add(&code_seen[index], 1);
    }
    __asm__ volatile("sti");
    for (;;)
        __asm__ volatile("hlt");
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    set_handler(0x40, on_ipi);
    unsigned n = start_aps(ap);
    CHECK_EQ("three application processors", n, 3);
    go = 1;
    work(0);
    while (done < n)
        __asm__ volatile("pause");
    CHECK_EQ("lock inc", locked_sum, (n + 1) * (uint64_t)ROUNDS);
    CHECK_EQ("lock xadd", xadd_sum, (n + 1) * (uint64_t)ROUNDS);
    CHECK_EQ("lock cmpxchg", cas_sum, (n + 1) * 3ull * ROUNDS);
    CHECK_EQ("lock bts", bits, (1u << (n + 1)) - 1);
    CHECK_EQ("lock add across pages", *(uint64_t *)(split_page + 4092), (n + 1) * 200ull);
    for (uint32_t v = 1; v <= 50; v++) {
        *(volatile uint32_t *)(code + 1) = v;
        code_version = v;
        for (unsigned i = 1; i <= n; i++)
            while (code_seen[i] < v)
                __asm__ volatile("pause");
    }
    CHECK_EQ("cross-modified code is seen", split_bad, 0);
    /* All excluding self, then one by id. */
    apic_write(0x300, 0xc4040);
    for (int i = 0; i < 2000 && ipis < n; i++)
        delay_us(1000);
    CHECK_EQ("IPI to all others", ipis, n);
    apic_write(0x310, 1u << 24);
    apic_write(0x300, 0x4040);
    for (int i = 0; i < 2000 && ipis < n + 1; i++)
        delay_us(1000);
    CHECK_EQ("IPI to one", ipis, n + 1);
    finish();
}
