/* Disassembly by Zydis. */
#include "lab/disasm.h"

#include <Zydis/Zydis.h>

#include "x86/decode.h"

const bool disasm_complete = true;

static void init(ZydisDecoder *z, uint8_t mode)
{
    static const ZydisMachineMode modes[] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32,
                                             ZYDIS_MACHINE_MODE_LONG_64};
    static const ZydisStackWidth widths[] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64};
    unsigned i = mode <= X86_MODE_64 ? mode : X86_MODE_64;
    ZydisDecoderInit(z, modes[i], widths[i]);
}

unsigned disasm_length(uint8_t mode, const uint8_t *p, size_t n)
{
    ZydisDecoder z;
    ZydisDecodedInstruction in;
    init(&z, mode);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&z, NULL, p, n, &in)) ? in.length : 0;
}

unsigned disasm_text(uint8_t mode, const uint8_t *p, size_t n, uint64_t addr, char *buf, size_t cap)
{
    ZydisDecoder z;
    ZydisFormatter fmt;
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    if (cap)
        *buf = 0;
    init(&z, mode);
    ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&z, p, n, &in, ops)))
        return 0;
    ZydisFormatterFormatInstruction(&fmt, &in, ops, in.operand_count_visible, buf, cap, addr, ZYAN_NULL);
    return in.length;
}
