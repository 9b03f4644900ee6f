/* Private to the decoder: lookup of the rows to try for an opcode (generated from isa.def). */
#ifndef X86_DECODE_TABLES_H
#define X86_DECODE_TABLES_H

#include "x86/decode.h"

/* The rows that may apply; X86_DEC_UD tells that none is defined for this opcode, mode and prefix. */
struct x86_rows {
    const uint16_t *row;
    uint8_t n;
};

enum x86_lookup { X86_LOOKUP_NONE, X86_LOOKUP_PLAIN, X86_LOOKUP_MODRM };

/* Is anything defined, and does it have a ModRM byte? pfx: 0 none, 1 66, 2 F3, 3 F2. */
enum x86_lookup x86_rows_probe(bool vex, unsigned map, uint8_t opcode, unsigned pfx, bool mode64);
/* The rows to try in order; reg: ModRM.reg. */
struct x86_rows x86_rows_get(bool vex, unsigned map, uint8_t opcode, unsigned pfx, unsigned reg);

#endif
