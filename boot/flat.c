/*
 * Flat real-mode images: a boot sector at 0x7c00, or any image at a given
 * place. No BIOS exists; so that a stray INT or interrupt does no harm, every
 * vector leads to a small stub in the ROM area that acknowledges hardware
 * interrupts and refuses services with carry set and AH = 0x86 ("unsupported").
 */
#include <string.h>

#include "boot/loader.h"

#define ROM 0xf0000u
#define ROM_SEG 0xf000u
#define RESET_VECTOR 0xffff0u

static const uint8_t stub_iret[] = {0xcf};
static const uint8_t stub_irq[] = {0x50, 0xb0, 0x20, 0xe6,
                                   0x20, 0x58, 0xcf}; /* push ax; mov al,20; out 20,al; pop ax; iret */
static const uint8_t stub_irq2[] = {0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf};
/* push bp; mov bp,sp; or byte [bp+6],1 (FLAGS.CF on the stack); pop bp; mov ah,86; iret */
static const uint8_t stub_service[] = {0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x01, 0x5d, 0xb4, 0x86, 0xcf};
static const uint8_t stub_stop[] = {0xfa, 0xf4, 0xeb, 0xfc}; /* cli; hlt; jmp to cli */

enum { OFF_IRET = 0x00, OFF_IRQ = 0x10, OFF_IRQ2 = 0x20, OFF_SERVICE = 0x30 };

static uint16_t vector_target(unsigned v)
{
    if (v >= 0x08 && v <= 0x0f)
        return OFF_IRQ;
    if (v >= 0x70 && v <= 0x77)
        return OFF_IRQ2;
    return v >= 0x10 && v <= 0x1a ? OFF_SERVICE : OFF_IRET;
}

int load_flat(struct loader *l)
{
    const struct boot_spec *spec = l->spec;
    uint64_t addr = spec->flat_at ? spec->flat_addr : BOOT_FLAT_ADDR;
    uint64_t entry = spec->flat_at ? spec->flat_entry : BOOT_FLAT_ADDR;
    if (entry >= 0x100000)
        return load_fail(l, NULL, "entry 0x%llx of a flat image is beyond real mode's first MiB",
                         (unsigned long long)entry);
    if (addr < 0x500 || load_claim(l, addr, spec->kernel_len) || load_write(l, addr, spec->kernel, spec->kernel_len))
        return load_fail(l, NULL, "a flat image of %zu bytes does not fit at 0x%llx", spec->kernel_len,
                         (unsigned long long)addr);

    uint8_t ivt[0x400], rom[0x40] = {0};
    for (unsigned v = 0; v < 256; v++) {
        put16(ivt + 4 * v, vector_target(v));
        put16(ivt + 4 * v + 2, ROM_SEG);
    }
    memcpy(rom + OFF_IRET, stub_iret, sizeof(stub_iret));
    memcpy(rom + OFF_IRQ, stub_irq, sizeof(stub_irq));
    memcpy(rom + OFF_IRQ2, stub_irq2, sizeof(stub_irq2));
    memcpy(rom + OFF_SERVICE, stub_service, sizeof(stub_service));
    if (load_write(l, 0, ivt, sizeof(ivt)) || load_write(l, ROM, rom, sizeof(rom)) ||
        load_write(l, RESET_VECTOR, stub_stop, sizeof(stub_stop)))
        return load_fail(l, NULL, "the machine has no memory for the real-mode stubs");

    /* The stack grows down from 0x7c00 as after a BIOS, unless the image lies there. */
    uint64_t sp = BOOT_FLAT_ADDR;
    if (addr < sp && addr + spec->kernel_len > 0x1000)
        sp = 0xfffe;
    *l->entry = (struct boot_entry){.kind = BOOT_FLAT, .rip = entry, .info = sp};
    return 0;
}
