/* Mnemonics by our own table, for the program without shared libraries. */
#include "lab/disasm.h"

#include <stdio.h>

#include "x86/decode.h"

const bool disasm_complete = false;

unsigned disasm_text(uint8_t mode, const uint8_t *p, size_t n, uint64_t addr, char *buf, size_t cap)
{
    struct x86_insn in;
    unsigned avail = n < X86_MAX_INSN ? (unsigned)n : X86_MAX_INSN;
    bool ok = x86_decode(&in, p, avail, mode <= X86_MODE_64 ? mode : X86_MODE_64, false, NULL) == X86_DEC_OK;
    snprintf(buf, cap, "%s", ok ? x86_op_name(in.op) : "");
    return ok ? in.len : 0;
}

unsigned disasm_length(uint8_t mode, const uint8_t *p, size_t n)
{
    return disasm_text(mode, p, n, 0, NULL, 0);
}
