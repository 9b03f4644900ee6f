/*
 * The encoder: host instructions into a buffer. Registers are numbers 0-15 as in
 * ModRM and REX. Knows nothing of guests.
 */
#ifndef ENGINE_TRANSLATE_EMIT_H
#define ENGINE_TRANSLATE_EMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct emit {
    uint8_t *p;        /* next byte, in the writable view */
    uint8_t *start;
    ptrdiff_t rx;      /* add to a writable address to get the one it runs at */
};

#define NOREG 0xff
struct hmem {
    uint8_t base, index; /* NOREG: none */
    uint8_t scale;       /* 1, 2, 4, 8 */
    int32_t disp;
};

/* What surrounds the opcode byte. */
enum {
    E_W = 8,          /* REX.W */
    E_MAP = 3 << 4,   /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A */
    E_0F = 1 << 4,
    E_66 = 1 << 6,
    E_F2 = 1 << 7,
    E_F3 = 1 << 8,
    E_LOCK = 1 << 9,
    E_REX = 1 << 10,  /* byte registers 4-7 are SPL..DIL */
};

static inline void e1(struct emit *e, unsigned v) { *e->p++ = (uint8_t)v; }
static inline void e4(struct emit *e, uint32_t v)
{
    memcpy(e->p, &v, 4);
    e->p += 4;
}
static inline void e8(struct emit *e, uint64_t v)
{
    memcpy(e->p, &v, 8);
    e->p += 8;
}

/* opcode reg, rm with both in registers; immediates follow by the caller. */
void e_rr(struct emit *e, unsigned how, unsigned opcode, unsigned reg, unsigned rm);
/* opcode reg, [mem] */
void e_rm(struct emit *e, unsigned how, unsigned opcode, unsigned reg, struct hmem m);
/* VEX.L0 instructions on general registers: pp 0 none, 1 66, 2 F3, 3 F2. */
enum { V_NP, V_66, V_F3, V_F2 };
void e_vrr(struct emit *e, unsigned map, unsigned pp, bool w, unsigned opcode, unsigned reg, unsigned vvvv, unsigned rm);
void e_vrm(struct emit *e, unsigned map, unsigned pp, bool w, unsigned opcode, unsigned reg, unsigned vvvv, struct hmem m);

/* 64-bit moves that leave flags alone. */
static inline void e_mov(struct emit *e, unsigned dst, unsigned src)
{
    if (dst != src)
        e_rr(e, E_W, 0x89, src, dst);
}
static inline void e_load(struct emit *e, unsigned dst, struct hmem m) { e_rm(e, E_W, 0x8b, dst, m); }
static inline void e_store(struct emit *e, unsigned src, struct hmem m) { e_rm(e, E_W, 0x89, src, m); }
static inline void e_lea(struct emit *e, unsigned dst, struct hmem m) { e_rm(e, E_W, 0x8d, dst, m); }
void e_imm(struct emit *e, unsigned dst, uint64_t v);
void e_imm32(struct emit *e, unsigned dst, uint32_t v);
/* JMP, Jcc rel32 to a place in the writable view; NULL: patched later. Returns where the displacement is. */
uint8_t *e_jmp(struct emit *e, const uint8_t *to);
uint8_t *e_jcc(struct emit *e, unsigned cc, const uint8_t *to);
void e_call(struct emit *e, const uint8_t *to);
void e_jmp_mem(struct emit *e, struct hmem m);
/* JRCXZ over what follows: returns where the displacement is; e_here completes it. */
uint8_t *e_jrcxz(struct emit *e);
static inline void e_here(struct emit *e, uint8_t *disp) { *disp = (uint8_t)(e->p - disp - 1); }
typedef volatile uint32_t __attribute__((aligned(1))) e_disp32; /* written whole: one store, wherever it lies */
static inline void e_patch(uint8_t *disp, const uint8_t *to)
{
    const int32_t d = (int32_t)(to - (disp + 4));

    *(e_disp32 *)(void *)disp = (uint32_t)d;
}

#endif
