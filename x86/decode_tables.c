/* The rows of isa.def and the index from opcode to rows, as scripts/isagen.c wrote them. */
#include "x86/decode_tables.h"

enum { SLOT_BY_REG = 1, SLOT_MODRM = 2, SLOT_64 = 4, SLOT_LEGACY = 8 };

struct slot {
    uint16_t first; /* into candidates[], or sub_slots[] with SLOT_BY_REG */
    uint8_t n, flags;
};
struct sub_slot {
    uint16_t first;
    uint8_t n;
};

#include "x86_isa_tables.inc"

enum x86_lookup x86_rows_probe(bool vex, unsigned map, uint8_t opcode, unsigned pfx, bool mode64)
{
    uint8_t flags = slots[vex][map][opcode][pfx].flags;
    if (!(flags & (mode64 ? SLOT_64 : SLOT_LEGACY)))
        return X86_LOOKUP_NONE;
    return flags & SLOT_MODRM ? X86_LOOKUP_MODRM : X86_LOOKUP_PLAIN;
}

struct x86_rows x86_rows_get(bool vex, unsigned map, uint8_t opcode, unsigned pfx, unsigned reg)
{
    const struct slot *s = &slots[vex][map][opcode][pfx];
    if (s->flags & SLOT_BY_REG) {
        const struct sub_slot *b = &sub_slots[s->first][reg];
        return (struct x86_rows){&candidates[b->first], b->n};
    }
    return (struct x86_rows){&candidates[s->first], s->n};
}

const char *x86_op_name(unsigned op)
{
    static const char *const names[] = {
        "(invalid)",
#define X86_MNEMONIC(name) #name,
#include "x86/mnemonics.def"
#undef X86_MNEMONIC
    };
    return op < sizeof(names) / sizeof(names[0]) ? names[op] : names[0];
}
