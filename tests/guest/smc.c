/* Self-modifying code: what one processor stores it executes at once (SDM Vol. 3A, 11.6, with the same linear address
 * or after a serialising branch or instruction for an alias). */
#include "attempt.h"

#define ALIAS 0x8000000000ull
static uint8_t code[3 * 4096] __attribute__((aligned(4096)));
typedef uint64_t (*fn)(uint64_t, uint64_t);

static uint64_t run(const void *at)
{
    return ((fn)at)((uint64_t)code, 0x1234);
}
#define PUT(at, s) memcpy(code + (at), s, sizeof(s) - 1)

static void basic(void)
{
    PUT(0, "\xb8\x01\0\0\0\xc3"); /* mov $1, %eax; ret */
    CHECK_EQ("first version", run(code), 1);
    *(volatile uint32_t *)(code + 1) = 2;
    CHECK_EQ("immediate rewritten", run(code), 2);
    bool ok = true;
    for (uint32_t i = 0; i < 300; i++) {
        *(volatile uint32_t *)(code + 1) = i * 77;
        ok &= run(code) == i * 77;
    }
    CHECK("rewritten 300 times", ok);
    PUT(0, "\x31\xc0\x05\x10\0\0\0\xc3");
    CHECK_EQ("other instructions in the same bytes", run(code), 0x10);
}

/* The store changes an instruction of the same straight-line code, ahead of it. */
static void ahead(void)
{
    /* movb $0x55, 7+1(%rdi): c6 47 disp8 imm8 ; mov $imm32, %eax ; ret */
    PUT(0, "\xc6\x47\x05\x55\xb8\x11\0\0\0\xc3");
    CHECK_EQ("store into the next instruction's immediate", run(code), 0x55);
    code[5] = 0x11;
    CHECK_EQ("and again", run(code), 0x55);
    /* store a whole instruction over the next one: movl $0xc3c03190 (nop; xor %eax,%eax; ret), 7(%rdi) */
    PUT(0, "\xc7\x47\x07\x90\x31\xc0\xc3\xb8\x11\0\0\0\xc3");
    CHECK_EQ("store over the next instruction", run(code), 0);
    /* with a few instructions between */
    PUT(0, "\xc6\x47\x09\x66\x90\x90\x90\x90\xb8\x11\0\0\0\xc3");
    CHECK_EQ("store four instructions ahead", run(code), 0x66);
    /* of the register kind: opcode changed from inc to dec of eax: ff c0 -> ff c8 */
    PUT(0, "\xb8\x05\0\0\0\xc6\x47\x0a\xc8\xff\xc0\xc3");
    CHECK_EQ("ModRM of the next instruction rewritten", run(code), 4);
    /* backwards: an instruction behind is changed, then jumped to */
    /* mov $1,%eax; test %rsi,%rsi; jz out; movl $7,1(%rdi); xor %esi,%esi; jmp start; out: ret */
    PUT(0, "\xb8\x01\0\0\0\x48\x85\xf6\x74\x0b\xc7\x47\x01\x07\0\0\0\x31\xf6\xeb\xeb\xc3");
    CHECK_EQ("a loop that rewrites its own head", run(code), 7);
    /* the stack is the code: mov %rsp,%r8; lea 24(%rdi),%rsp; mov %rsi,%rax; push %rax; mov %r8,%rsp; nop; nop; then
     * what was pushed */
    PUT(0, "\x49\x89\xe0\x48\x8d\x67\x18\x48\x89\xf0\x50\x4c\x89\xc4\x90\x90\xb8\x11\0\0\0\xc3\x90\x90");
    CHECK_EQ("PUSH into the instructions ahead", ((fn)code)((uint64_t)code, 0xc300000021b8ull), 0x21);
}

/* Stores of other kinds, each into the instruction right behind. */
static void kinds(void)
{
    PUT(64, "\xb8\x77\0\0\0\xc3");
    /* rep movsb of 6 bytes from code+64 over what follows */
    PUT(0, "\x48\x8d\x77\x40\x48\x83\xc7\x11\xb9\x06\0\0\0\xf3\xa4\x90\x90\xb8\x11\0\0\0\xc3");
    CHECK_EQ("REP MOVSB over the instructions ahead", run(code), 0x77);
    /* stosb into the immediate: mov $0x22,%eax; add $15,%rdi; stosb; mov $0x11,%eax; ret */
    PUT(0, "\xb8\x22\0\0\0\x48\x83\xc7\x0b\xaa\xb8\x11\0\0\0\xc3");
    CHECK_EQ("STOSB into the next immediate", run(code), 0x22);
    /* lock addb $1, 5(%rdi): f0 80 47 06 01 ; mov $0x11 */
    PUT(0, "\xf0\x80\x47\x06\x01\xb8\x11\0\0\0\xc3");
    CHECK_EQ("locked add to the next immediate", run(code), 0x12);
    /* xchg %al, 6(%rdi) : mov $0x44,%eax ; xchg */
    PUT(0, "\xb0\x44\x86\x47\x06\xb8\x11\0\0\0\xc3");
    CHECK_EQ("XCHG with the next immediate", run(code), 0x44);
    PUT(0, "\xfe\x47\x04\xb8\x11\0\0\0\xc3");
    CHECK_EQ("INC of the next immediate", run(code), 0x12);
    /* cmpxchg: mov $0x11,%al ; mov $0x66,%cl ; cmpxchg %cl, 9(%rdi) ; mov $0x11,%eax ; ret */
    PUT(0, "\xb0\x11\xb1\x66\x0f\xb0\x4f\x09\xb8\x11\0\0\0\xc3");
    CHECK_EQ("CMPXCHG with the next immediate", run(code), 0x66);
    /* bts $3, 8(%rdi) */
    PUT(0, "\x0f\xba\x6f\x06\x03\xb8\x11\0\0\0\xc3");
    CHECK_EQ("BTS in the next immediate", run(code), 0x19);
    /* setz: xor eax,eax ; sete 7(%rdi) */
    PUT(0, "\x31\xc0\x0f\x94\x47\x07\xb8\x11\0\0\0\xc3");
    CHECK_EQ("SETcc into the next immediate", run(code), 1);
    /* call pushes its return address into code: covered by PUSH */
    PUT(0, "\xdb\xe3\xd9\x7f\x06\xb8\x11\0\0\0\xc3");
    CHECK_EQ("FNSTCW into the next immediate", run(code), 0x37f);
    write_cr4(read_cr4() | 0x600);
    PUT(0, "\x66\x0f\x6e\xc6\x66\x0f\x7e\x47\x0a\xb8\x11\0\0\0\xc3");
    CHECK_EQ("MOVD from XMM into the next immediate", run(code), 0x1234);
}

/* Read-modify-write of a byte beside the code, as the first instruction behind a call: done once, not again. */
static void beside(void)
{
    static const struct {
        const char *name, *code;
        uint8_t n, before, after;
    } t[] = {
#define C(name, s, b, a) {name, s, sizeof(s) - 1, b, a}
        C("INC", "\xfe\x47\x20", 1, 2),
        C("NOT", "\xf6\x57\x20", 0x0f, 0xf0),
        C("NEG", "\xf6\x5f\x20", 1, 0xff),
        C("ADD imm", "\x80\x47\x20\x05", 1, 6),
        C("XOR reg", "\x40\x30\x77\x20", 0x35, 1),
        C("ADC", "\x80\x57\x20\x05", 1, 6),
        C("SHL", "\xd0\x67\x20", 1, 2),
        C("ROL", "\xd0\x47\x20", 1, 2),
        C("RCL", "\xd0\x57\x20", 1, 2),
        C("SAR by CL", "\xd2\x7f\x20", 0x40, 0x10),
        C("BTC", "\x0f\xba\x7f\x20\x00", 1, 0),
        C("XADD", "\x0f\xc0\x4f\x20", 1, 3),
        C("LOCK XADD", "\xf0\x0f\xc0\x4f\x20", 1, 3),
        C("LOCK INC", "\xf0\xfe\x47\x20", 1, 2),
        C("LOCK BTC", "\xf0\x0f\xba\x7f\x20\x00", 1, 0),
        C("SHLD", "\x0f\xa4\x47\x20\x01", 1, 2),
#undef C
    };
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        bool ok = true;
        for (int round = 0; round < 3; round++) {
            memset(code, 0x90, 64);
            memcpy(code, t[i].code, t[i].n);
            code[t[i].n] = 0xc3;
            *(volatile uint64_t *)(code + 0x20) = t[i].before;
            uint64_t flags;
            __asm__ volatile("xorl %%eax, %%eax; call *%1; pushfq; popq %0"
                             : "=r"(flags)
                             : "r"(code), "D"(code), "S"(0x34), "c"(2)
                             : "rax", "memory", "cc");
            ok &= code[0x20] == t[i].after;
        }
        CHECK(t[i].name, ok);
    }
}

static void pages(void)
{
    /* store on one page changes an instruction that crosses into it */
    uint8_t *at = code + 4096 - 3;
    PUT(4096 - 3, "\xb8\x01\x02\x03\x04\xc3");
    CHECK_EQ("instruction over a page boundary", run(at), 0x04030201);
    code[4096] = 0x99;
    CHECK_EQ("its second page rewritten", run(at), 0x04990201);
    code[4095] = 0x88;
    CHECK_EQ("its first page rewritten", run(at), 0x04998801);
    *(volatile uint32_t *)(code + 4094) = 0xaabbccdd;
    CHECK_EQ("rewritten by a store over the boundary", run(at), 0xaabbccdd);
    /* code that runs over the boundary and rewrites the other page ahead: movb $0x5a, 4096+8 (rdi) */
    PUT(4096 - 7, "\xc6\x87\x05\x10\0\0\x5a\x90\x90\x90\x90\xb8\x11\0\0\0\xc3");
    CHECK_EQ("store ahead into the next page", run(code + 4096 - 7), 0x5a);
    /* alias: same frame at another linear address */
    for (int i = 0; i < 3; i++)
        map_page(ALIAS + 4096u * (unsigned)i, (uint64_t)code + 4096u * (unsigned)i, 7);
    PUT(0, "\xb8\x01\0\0\0\xc3");
    CHECK_EQ("run", run(code), 1);
    volatile uint8_t *alias = (uint8_t *)ALIAS;
    alias[1] = 0x33;
    CHECK_EQ("rewritten through an alias", run(code), 0x33);
    CHECK_EQ("run at the alias", run((void *)ALIAS), 0x33);
    code[1] = 0x34;
    CHECK_EQ("rewritten at the first address, run at the alias", run((void *)ALIAS), 0x34);
    bool ok = true;
    for (uint8_t i = 1; i < 100; i++) {
        alias[1] = i;
        ok &= run(code) == i;
        code[1] = (uint8_t)(i + 100);
        ok &= run((void *)ALIAS) == (uint8_t)(i + 100);
    }
    CHECK("alternating", ok);
    /* the mapping changes, not the memory: two frames take turns under one address */
    uint8_t *f1 = page_alloc(), *f2 = page_alloc();
    memcpy(f1, "\xb8\x01\0\0\0\xc3", 6);
    memcpy(f2, "\xb8\x02\0\0\0\xc3", 6);
    ok = true;
    for (int i = 0; i < 20; i++) {
        map_page(ALIAS + 0x10000, (uint64_t)(i & 1 ? f2 : f1), 7);
        ok &= run((void *)(ALIAS + 0x10000)) == (i & 1 ? 2u : 1u);
    }
    CHECK("remapped code", ok);
    /* same bytes, entered in the middle: b8 b0 05 c3 .. : mov $..,%eax vs mov $5,%al; ret */
    PUT(0, "\xb8\xb0\x05\xc3\0\xc3");
    CHECK_EQ("from the start", run(code), 0xc305b0);
    CHECK_EQ("entered in the middle", run(code + 1) & 0xff, 5);
    code[2] = 6;
    CHECK_EQ("rewritten: from the start", run(code), 0xc306b0);
    CHECK_EQ("rewritten: in the middle", run(code + 1) & 0xff, 6);
    /* code and data on one page: data writes beside code must not disturb it */
    ok = true;
    PUT(0x800, "\x8b\x87\x00\x0c\0\0\xff\x87\x00\x0c\0\0\xc3"); /* mov 0xc00(%rdi),%eax; incl 0xc00(%rdi); ret */
    *(volatile uint32_t *)(code + 0xc00) = 0;
    for (uint32_t i = 0; i < 5000; i++)
        ok &= run(code + 0x800) == i;
    CHECK("code that counts in its own page", ok);
    CHECK_EQ("the count", *(volatile uint32_t *)(code + 0xc00), 5000);
    /* generator: new code at moving addresses */
    ok = true;
    for (uint32_t i = 0; i < 3000; i++) {
        uint8_t *p = code + (i * 37) % 8000;
        p[0] = 0xb8;
        *(volatile uint32_t *)(p + 1) = i;
        p[5] = 0xc3;
        ok &= run(p) == i;
    }
    CHECK("3000 little functions", ok);
}

void guest_main(uint32_t info, uint32_t magic)
{
    idt_init();
    basic();
    ahead();
    kinds();
    beside();
    pages();
    finish();
}
