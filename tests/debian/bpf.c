/* Random BPF programs through the kernel's BPF JIT, results against an interpreter of our own. */
#define _GNU_SOURCE
#include <linux/bpf.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../random.h"
#include "check.h"

#define MAX 220
static struct bpf_insn prog[MAX];
static unsigned n;
static uint8_t packet[64];

static void put(uint8_t code, unsigned dst, unsigned src, int16_t off, int32_t imm)
{
    prog[n++] = (struct bpf_insn){.code = code, .dst_reg = dst & 15, .src_reg = src & 15, .off = off, .imm = imm};
}

/* R0, R2-R5, R7-R9 are numbers, R6 the packet. */
static const uint8_t regs[] = {0, 2, 3, 4, 5, 7, 8, 9};
static unsigned reg(void) { return regs[rnd() % 8]; }

static void make(void)
{
    static const uint8_t ops[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD, BPF_XOR, BPF_MOV, BPF_ARSH};
    static const uint8_t jumps[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JLT, BPF_JLE, BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE};

    n = 0;
    put(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0);
    for (unsigned i = 0; i < 8; i++) {
        put(BPF_LD | BPF_IMM | BPF_DW, regs[i], 0, 0, (int32_t)rnd());
        put(0, 0, 0, 0, (int32_t)rnd() >> (rnd() % 32));
    }
    for (unsigned i = 0; i < 8; i++) /* the stack, to be read below */
        put(BPF_STX | BPF_MEM | BPF_DW, 10, reg(), (int16_t)(-8 - 8 * (int)i), 0);
    const unsigned end = n + 20 + (unsigned)(rnd() % 120);
    while (n < end) {
        const unsigned kind = (unsigned)(rnd() % 12);
        if (kind < 6) {
            const uint8_t op = ops[rnd() % sizeof(ops)], cls = rnd() & 1 ? BPF_ALU64 : BPF_ALU;
            int32_t imm = (int32_t)rnd();
            const unsigned bits = cls == BPF_ALU64 ? 64 : 32, r = reg();
            const int shift = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;

            if (rnd() & 1 && !shift) {
                put(cls | op | BPF_X, r, reg(), 0, 0);
            } else if (shift && rnd() & 1) { /* by a register whose value is in range */
                const unsigned by = reg();
                if (by == r)
                    continue;
                put(BPF_ALU64 | BPF_AND | BPF_K, by, 0, 0, (int32_t)bits - 1);
                put(cls | op | BPF_X, r, by, 0, 0);
            } else {
                if (shift)
                    imm = (int32_t)(rnd() % bits);
                if ((op == BPF_DIV || op == BPF_MOD) && !imm)
                    imm = 3;
                put(cls | op | BPF_K, r, 0, 0, imm);
            }
        } else if (kind == 6) {
            put((rnd() & 1 ? BPF_ALU64 : BPF_ALU) | BPF_NEG, reg(), 0, 0, 0);
        } else if (kind == 7) {
            static const int32_t widths[] = {16, 32, 64};
            put(BPF_ALU | BPF_END | (rnd() & 1 ? BPF_TO_BE : BPF_TO_LE), reg(), 0, 0, widths[rnd() % 3]);
        } else if (kind == 8) {
            put(BPF_STX | BPF_MEM | (rnd() & 1 ? BPF_DW : BPF_W), 10, reg(), (int16_t)(-8 - 8 * (int)(rnd() % 8)), 0);
        } else if (kind == 9) {
            put(BPF_LDX | BPF_MEM | BPF_DW, reg(), 10, (int16_t)(-8 - 8 * (int)(rnd() % 8)), 0);
        } else { /* over some instructions */
            const uint8_t cls = rnd() & 1 ? BPF_JMP : BPF_JMP32;
            const int16_t over = (int16_t)(rnd() % 6);
            if (rnd() & 1)
                put(cls | jumps[rnd() % sizeof(jumps)] | BPF_X, reg(), reg(), over, 0);
            else
                put(cls | jumps[rnd() % sizeof(jumps)] | BPF_K, reg(), 0, over, (int32_t)rnd() >> (rnd() % 32));
        }
    }
    for (unsigned i = 0; i < 6; i++)
        put(BPF_ALU64 | BPF_MOV | BPF_K, 9, 0, 0, (int32_t)i); /* what the last jumps reach */
    for (unsigned i = 1; i < 8; i++) {
        put(BPF_ALU64 | BPF_MUL | BPF_K, 0, 0, 0, 31);
        put(BPF_ALU64 | BPF_XOR | BPF_X, 0, regs[i], 0, 0);
    }
    put(BPF_ALU64 | BPF_MOV | BPF_X, 1, 0, 0, 0); /* both halves */
    put(BPF_ALU64 | BPF_RSH | BPF_K, 1, 0, 0, 32);
    put(BPF_ALU64 | BPF_XOR | BPF_X, 0, 1, 0, 0);
    put(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static uint64_t alu(unsigned op, uint64_t a, uint64_t b, int wide)
{
    const unsigned m = wide ? 63 : 31;

    if (!wide)
        a = (uint32_t)a, b = (uint32_t)b;
    switch (op) {
    case BPF_ADD: a += b; break;
    case BPF_SUB: a -= b; break;
    case BPF_MUL: a *= b; break;
    case BPF_DIV: a = b ? a / b : 0; break;
    case BPF_MOD: a = b ? a % b : a; break;
    case BPF_OR: a |= b; break;
    case BPF_AND: a &= b; break;
    case BPF_XOR: a ^= b; break;
    case BPF_MOV: a = b; break;
    case BPF_LSH: a <<= b & m; break;
    case BPF_RSH: a >>= b & m; break;
    case BPF_ARSH: a = wide ? (uint64_t)((int64_t)a >> (b & m)) : (uint32_t)((int32_t)a >> (b & m)); break;
    case BPF_NEG: a = -a; break;
    }
    return wide ? a : (uint32_t)a;
}

static int taken(unsigned op, uint64_t a, uint64_t b, int wide)
{
    int64_t x = (int64_t)a, y = (int64_t)b;

    if (!wide) {
        x = (int32_t)a, y = (int32_t)b;
        a = (uint32_t)a, b = (uint32_t)b;
    }
    switch (op) {
    case BPF_JEQ: return a == b;
    case BPF_JNE: return a != b;
    case BPF_JGT: return a > b;
    case BPF_JGE: return a >= b;
    case BPF_JLT: return a < b;
    case BPF_JLE: return a <= b;
    case BPF_JSET: return (a & b) != 0;
    case BPF_JSGT: return x > y;
    case BPF_JSGE: return x >= y;
    case BPF_JSLT: return x < y;
    default: return x <= y;
    }
}

static uint32_t interpret(void)
{
    uint64_t r[11] = {0};
    uint8_t stack[512] = {0};

    for (unsigned i = 0;; i++) {
        const struct bpf_insn *p = &prog[i];
        const unsigned cls = BPF_CLASS(p->code);
        const uint64_t b = BPF_SRC(p->code) == BPF_X ? r[p->src_reg] : (uint64_t)(int64_t)p->imm;

        switch (cls) {
        case BPF_ALU:
        case BPF_ALU64:
            if (BPF_OP(p->code) == BPF_END) {
                uint64_t v = r[p->dst_reg];
                if (BPF_SRC(p->code) == BPF_TO_BE)
                    v = p->imm == 16 ? __builtin_bswap16((uint16_t)v) : p->imm == 32 ? __builtin_bswap32((uint32_t)v) : __builtin_bswap64(v);
                else
                    v = p->imm == 16 ? (uint16_t)v : p->imm == 32 ? (uint32_t)v : v;
                r[p->dst_reg] = v;
            } else {
                r[p->dst_reg] = alu(BPF_OP(p->code), r[p->dst_reg], b, cls == BPF_ALU64);
            }
            break;
        case BPF_LD:
            r[p->dst_reg] = (uint32_t)p->imm | (uint64_t)(uint32_t)prog[++i].imm << 32;
            break;
        case BPF_STX: memcpy(stack + 512 + p->off, &r[p->src_reg], BPF_SIZE(p->code) == BPF_DW ? 8 : 4); break;
        case BPF_LDX: memcpy(&r[p->dst_reg], stack + 512 + p->off, 8); break;
        default:
            if (BPF_OP(p->code) == BPF_EXIT && cls == BPF_JMP)
                return (uint32_t)r[0];
            if (taken(BPF_OP(p->code), r[p->dst_reg], b, cls == BPF_JMP))
                i += (unsigned)p->off;
        }
    }
}

static int bpf(int cmd, union bpf_attr *a) { return (int)syscall(SYS_bpf, cmd, a, sizeof(*a)); }

int main(int argc, char **argv)
{
    const unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 300;
    unsigned loaded = 0, jitted = 0;

    for (unsigned i = 0; i < rounds; i++) {
        union bpf_attr a;
        uint8_t out[64];

        make();
        memset(&a, 0, sizeof(a));
        a.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
        a.insn_cnt = n;
        a.insns = (uintptr_t)prog;
        a.license = (uintptr_t) "GPL";
        const int fd = bpf(BPF_PROG_LOAD, &a);
        if (fd < 0) { /* the verifier's right: too complex */
            CHECK(errno == E2BIG || errno == EINVAL || errno == EACCES, "load: %d", errno);
            continue;
        }
        loaded++;
        struct bpf_prog_info info;
        memset(&info, 0, sizeof(info));
        memset(&a, 0, sizeof(a));
        a.info.bpf_fd = (uint32_t)fd;
        a.info.info_len = sizeof(info);
        a.info.info = (uintptr_t)&info;
        if (!bpf(BPF_OBJ_GET_INFO_BY_FD, &a))
            jitted += info.jited_prog_len != 0;
        memset(&a, 0, sizeof(a));
        a.test.prog_fd = (uint32_t)fd;
        a.test.data_in = (uintptr_t)packet;
        a.test.data_size_in = sizeof(packet);
        a.test.data_out = (uintptr_t)out;
        a.test.data_size_out = sizeof(out);
        a.test.repeat = 3;
        CHECK(!bpf(BPF_PROG_TEST_RUN, &a), "run: %d", errno);
        CHECK(a.test.retval == interpret(), "program %u of %u instructions: %x, not %x", i, n, a.test.retval, interpret());
        close(fd);
    }
    printf("%u programs, %u compiled\n", loaded, jitted);
    CHECK(loaded > rounds / 2 && jitted == loaded, "of %u", rounds);
    return check_end("bpf");
}
