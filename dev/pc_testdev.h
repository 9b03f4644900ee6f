/*
 * Test device for bare-metal test guests written for QEMU ("pc-testdev"). Only
 * on request.
 *   bank PC_TESTDEV_IO     ports 0xe0-0xe3: a register that can be read back at any size
 *   bank PC_TESTDEV_FLUSH  port 0xe4, 4 ports: accesses have no effect
 *   bank PC_TESTDEV_BYTE   ports 0xe8-0xeb: the same register, a byte at a time (the debug console may cover 0xe9)
 *   bank PC_TESTDEV_IRQ    ports 0x2000-0x2017: writing sets the level of interrupt line (port - 0x2000)
 *   bank PC_TESTDEV_MEM    64 KiB at 0xff000000: memory behind an access handler
 */
#ifndef DEV_PC_TESTDEV_H
#define DEV_PC_TESTDEV_H

#include "ringer/dev.h"

enum { PC_TESTDEV_IO, PC_TESTDEV_FLUSH, PC_TESTDEV_BYTE, PC_TESTDEV_IRQ, PC_TESTDEV_MEM };
#define PC_TESTDEV_NIRQ 24
#define PC_TESTDEV_MEM_SIZE 0x10000

struct dev *pc_testdev_new(const struct irq_line irq[PC_TESTDEV_NIRQ]);

#endif
