/*
 * Text and length of instructions for people: traces, `ringer classify`. By Zydis (disasm.c); a program without shared
 * libraries has the table's mnemonics instead (static/disasm.c), since Debian's Zydis is a shared library only.
 */
#ifndef LAB_DISASM_H
#define LAB_DISASM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Knows instructions that our own table has not. */
extern const bool disasm_complete;

/* Length in bytes of the instruction at p, 0 if there is none in the n bytes. mode: enum x86_mode, 16, 32 or 64 bits.
 * Like disasm_text, no state, any thread. */
unsigned disasm_length(uint8_t mode, const uint8_t *p, size_t n);

/* The same, and its text for address addr in buf; the text is "" if there is none. */
unsigned disasm_text(uint8_t mode, const uint8_t *p, size_t n, uint64_t addr, char *buf, size_t cap);

#endif
