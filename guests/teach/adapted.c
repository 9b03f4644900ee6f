/*
 * The machine as an interface: hypercalls (docs/hypercalls.md). The processor's interrupt flag stays set for good; ours is in memory that the
 * monitor reads. Nothing here is sensitive and fails to trap: one OUT, and plain loads and stores.
 */
#include "machine.h"
#include "ringer/hypercall.h"

const char machine_name[] = "adapted";
const u8 gate_type = 0x8f;

#define VECTOR 0x25 /* interrupt 5 of the 8259A */

static struct hc_events events __attribute__((aligned(HC_EVENTS_ALIGN)));
static u32 features;

static void __attribute__((noreturn)) stop(u8 why)
{
    outb(0xf4, why);
    for (;;)
        __asm__ volatile("hlt");
}

static u64 hypercall(u32 nr, u64 a0, u64 a1, u64 a2)
{
    struct hc_call call __attribute__((aligned(8))) = {.nr = nr, .status = HC_ENOSYS, .arg = {a0, a1, a2}}; /* linear is physical here */
    __asm__ volatile("outl %0, %1" : : "a"((u32)(word)&call), "Nd"((u16)HC_PORT) : "memory");
    if (call.status != HC_OK) /* a mistake of ours; nothing can be printed by what just failed */
        stop(3);
    return call.result;
}

void console_write(const char *s, u32 n)
{
    for (u32 i = 0; i < n;) { /* LF becomes CR LF, as the serial console has it */
        u32 k = i;
        while (k < n && s[k] != '\n')
            k++;
        while (i < k)
            i += (u32)hypercall(HC_CONSOLE_WRITE, (word)(s + i), k - i, 0);
        if (i < n && s[i] == '\n') {
            for (u32 done = 0; done < 2;)
                done += (u32)hypercall(HC_CONSOLE_WRITE, (word)("\r\n" + done), 2 - done, 0);
            i++;
        }
    }
}

void machine_init(void)
{
    /* CPUID would tell, too, but is itself one of those that do not trap everywhere. */
    if (inl(HC_PORT) != HC_MAGIC) {
        static const char no[] = "teach: no hypercalls here (--hypercalls)\r\n";
        for (u32 i = 0; no[i]; i++)
            outb(0x3f8, (u8)no[i]);
        stop(2);
    }
    features = inl(HC_PORT_FEATURES);
    static const u8 icw[] = {0x11, 0x20, 4, 3, 0x11, 0x28, 2, 3}; /* automatic end of interrupt */
    for (unsigned i = 0; i < 8; i++)
        outb((u16)((i < 4 ? 0x20 : 0xa0) + (i % 4 != 0)), icw[i]);
    outb(0x21, 0xff & ~(1u << (VECTOR - 0x20)));
    outb(0xa1, 0xff);
    hypercall(HC_EVENTS, (word)&events, 0, 0);
}

static u64 now(void) { return hypercall(HC_TIME, 0, 0, 0); }

void timer_init(void)
{
    hypercall(HC_TIMER, now() + TICK_US * 1000, TICK_US * 1000, 0);
    __asm__ volatile("sti"); /* and never again CLI */
}

/* --- the interrupt flag ----------------------------------------------------------- */

static int take_events(void) { return !!(__atomic_exchange_n(&events.pending, 0, __ATOMIC_SEQ_CST) & HC_EV_TIMER); }

void interrupts_close(void) { __atomic_store_n(&events.enabled, 0, __ATOMIC_SEQ_CST); }
void interrupts_open(void)
{
    __atomic_store_n(&events.enabled, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&events.pending, __ATOMIC_SEQ_CST))
        hypercall(HC_DELIVER, 0, 0, 0);
}
int interrupts_are_open(void) { return (int)events.enabled; }

int interrupt_enter(word vector)
{
    if (!events.enabled) /* if this is the bell, it was on its way when we closed: the bit stays in pending */
        return 0;
    interrupts_close();
    return ENTER_WAS_OPEN | (vector == VECTOR && take_events() ? ENTER_TICK : 0);
}

int interrupt_leave(int open)
{
    if (!open)
        return 0;
    /* Not HC_DELIVER for what comes meanwhile: where each exit takes longer than a tick, interrupts would nest until the stack ends. */
    for (;;) {
        if (take_events())
            return 1;
        __atomic_store_n(&events.enabled, 1, __ATOMIC_SEQ_CST);
        if (!__atomic_load_n(&events.pending, __ATOMIC_SEQ_CST))
            return 0;
        interrupts_close();
    }
}

/* --- the rest -------------------------------------------------------------------------- */

void wait_ticks(u32 n)
{
    const u64 end = now() + (u64)n * TICK_US * 1000;
    while (now() < end)
        ;
}

void idle(void) { hypercall(HC_HALT, 0, 0, 0); }

void page_table_update(const struct pte_change *c, u32 n)
{
    static struct hc_mmu batch[MAP_MAX];
    for (u32 i = 0; i < n; i++)
        batch[i] = (struct hc_mmu){(word)c[i].entry, c[i].value, c[i].linear};
    hypercall(HC_MMU_UPDATE, (word)batch, n, sizeof(word));
    for (u32 i = 0; i < n && !(features & HC_F_MMU_FLUSH); i++) /* hardware does paging, and this costs nothing */
        __asm__ volatile("invlpg (%0)" : : "r"(c[i].linear) : "memory");
}

void power_off(int failed)
{
    if (failed)
        outb(0xf4, 1);
    hypercall(HC_POWEROFF, 0, 0, 0);
    for (;;)
        __asm__ volatile("hlt");
}
