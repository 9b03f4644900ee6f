/* Code at addresses far apart that calls, jumps and reads across: what a monitor that gives code and data places of their own must get right.
 * (Engines trap and patch: engine/trap/space.c.) */
#include "guest32.h"

enum { P = 1, W = 2, U = 4 };
#define LEAF 0x40
#define LOAD 0x80
#define STORE 0xa0
#define JUMP 0xc0
#define WORK 0xe0

static uint32_t *pd;
static uint8_t *frame_of[8];
static const uint32_t place[] = {0x10000000, 0x14000000, 0x56600000, 0xa7c00000, 0xb7c00000, 0x01000000};
enum { N = sizeof(place) / sizeof(place[0]) };
#define SELF 0x1000000u /* value that page i's leaf returns: i + this */

static void map(uint32_t lin, const void *frame)
{
    uint32_t *d = &pd[lin >> 22];

    if (!(*d & P))
        *d = (uint32_t)page_alloc() | P | W | U;
    ((uint32_t *)(*d & ~0xfffu))[lin >> 12 & 1023] = frame ? (uint32_t)frame | P | W | U : 0;
}

static void put(uint8_t *at, const char *code, unsigned n)
{
    memcpy(at, code, n);
}
#define PUT(at, s) put(at, s, sizeof(s) - 1)

/* The same routines on every page, but for what the leaf returns. */
static void fill(uint8_t *c, uint32_t i)
{
    const uint32_t value = SELF + i;

    PUT(c, "\x31\xd2\xff\xd3\x01\xc2\x49\x75\xf9\xcd\x80"); /* xor %edx,%edx; 1: call *%ebx; add %eax,%edx; dec %ecx; jnz 1b; int $0x80 */
    PUT(c + LEAF, "\xb8\0\0\0\0\xc3");                        /* mov $value,%eax; ret */
    memcpy(c + LEAF + 1, &value, 4);
    PUT(c + LOAD, "\x8b\x03\xcd\x80");     /* mov (%ebx),%eax; int $0x80 */
    PUT(c + STORE, "\x89\x03\x31\xc0\x8b\x03\xcd\x80"); /* mov %eax,(%ebx); xor %eax,%eax; mov (%ebx),%eax; int $0x80 */
    PUT(c + JUMP, "\xff\xe3");             /* jmp *%ebx */
    /* xor %eax,%eax; 1: add %ecx,%eax; rol $3,%eax; xor (%ebx),%eax; dec %ecx; jnz 1b; int $0x80 */
    PUT(c + WORK, "\x31\xc0\x01\xc8\xc1\xc0\x03\x33\x03\x49\x75\xf6\xcd\x80");
}

static struct frame run(uint32_t eip, uint32_t ebx, uint32_t ecx)
{
    struct frame f = user_frame((const void *)eip);

    f.ebx = ebx;
    f.ecx = ecx;
    f.eax = 0x5a5a1234;
    fault.happened = false;
    run_frame(&f);
    return f;
}

static bool ended(void)
{
    return !fault.happened || fault.vector == 0x80;
}

static uint32_t work(uint32_t n, uint32_t x)
{
    uint32_t a = 0;

    for (; n; n--) {
        a += n;
        a = (a << 3 | a >> 29) ^ x;
    }
    return a;
}

void guest_main(void)
{
    init();
    pd = page_alloc();
    for (uint32_t i = 0; i < 4096; i++) /* 16 MiB, identity */
        map(i << 12, (void *)(i << 12));
    uint8_t *data[4];
    for (unsigned i = 0; i < N; i++) {
        frame_of[i] = page_alloc();
        fill(frame_of[i], i);
        map(place[i], frame_of[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        data[i] = page_alloc();
    map(0x7ffff000, data[0]);
    map(0x80000000, data[1]);
    map(0x3ffff000, data[2]);
    map(0x40000000, data[3]);
    write_cr3((uint32_t)pd);
    write_cr0(read_cr0() | 0x80000000);

    unsigned bad = 0, reads = 0, stores = 0, works = 0, jumps = 0;
    for (unsigned round = 0; round < 2; round++)
        for (unsigned a = 0; a < N; a++) {
            /* long enough to be worth executing directly */
            const uint32_t n = 2000000;
            if (run(place[a] + WORK, 0x3ffff010, n).eax != work(n, 0))
                works++;
            for (unsigned b = 0; b < N; b++) {
                const struct frame f = run(place[a], place[b] + LEAF, 8);

                bad += f.edx != 8 * (SELF + b) || !ended();
                reads += run(place[a] + LOAD, place[b] + LEAF + 1, 0).eax != SELF + b;
                /* control goes where nothing is, although code that was executed is 64 MiB or 1 GiB away */
                static const uint32_t away[] = {0x4000000, 0u - 0x4000000, 0x40000000, 0xc000000};
                for (unsigned k = 0; k < 4; k++) {
                    const uint32_t to = place[b] + away[k] + LEAF;
                    bool there = to >= 0xc0000000u || to < 0x1000000;
                    for (unsigned i = 0; i < N; i++)
                        there |= to - place[i] < 4096;
                    if (there)
                        continue;
                    run(place[a] + JUMP, to, 0);
                    if (!fault.happened || fault.vector != 14 || fault.cr2 != to || fault.eip != to || !(fault.error & 4))
                        if (jumps++ < 5)
                            print("  from %x to %x: vector %u at %x, cr2 %x\n", place[a], to, fault.vector, fault.eip, fault.cr2);
                }
            }
            static const uint32_t across[] = {0x7ffffffe, 0x3fffffff};
            for (unsigned k = 0; k < 2; k++) {
                stores += run(place[a] + STORE, across[k], 0).eax != 0x5a5a1234;
                stores += k == 0 ? data[0][4094] != 0x34 || data[1][1] != 0x5a : data[2][4095] != 0x34 || data[3][2] != 0x5a;
                memset(data[k * 2], 0, 4096);
                memset(data[k * 2 + 1], 0, 4096);
            }
        }
    CHECK_EQ("long loops in every region", works, 0);
    CHECK_EQ("calls between all regions", bad, 0);
    CHECK_EQ("code read as data", reads, 0);
    CHECK_EQ("jumps to where nothing is", jumps, 0);
    CHECK_EQ("operands across a GiB boundary", stores, 0);

    /* code that changes is noticed wherever it is executed */
    bad = 0;
    for (unsigned a = 0; a < N; a++)
        for (unsigned b = 0; b < N; b++) {
            const uint32_t v = 0x777000 + a * 16 + b;
            memcpy(frame_of[b] + LEAF + 1, &v, 4);
            bad += run(place[a], place[b] + LEAF, 3).edx != 3 * v;
        }
    CHECK_EQ("changed code", bad, 0);

    /* and code that moves */
    for (unsigned b = 0; b < N; b++)
        map(place[b], frame_of[(b + 1) % N]);
    write_cr3((uint32_t)pd);
    bad = 0;
    for (unsigned b = 0; b < N; b++) {
        uint32_t want;
        memcpy(&want, frame_of[(b + 1) % N] + LEAF + 1, 4);
        bad += run(place[0], place[b] + LEAF, 2).edx != 2 * want;
    }
    CHECK_EQ("code that moved", bad, 0);
    finish();
}
