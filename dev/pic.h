/*
 * The pair of 8259A interrupt controllers of a PC, with the ELCR. Runs under the
 * VM's device lock throughout, pic_ack included.
 */
#ifndef DEV_PIC_H
#define DEV_PIC_H

#include "ringer/dev.h"

struct pic;

/* Register banks. */
enum {
    PIC_BANK_MASTER, /* 2 bytes, ports 0x20-0x21 */
    PIC_BANK_SLAVE,  /* 2 bytes, ports 0xa0-0xa1 */
    PIC_BANK_ELCR,   /* 2 bytes, ports 0x4d0-0x4d1 */
};

/* out: INTR of the master. */
struct pic *pic_new(struct irq_line out);
struct dev *pic_dev(struct pic *p);
/* Pin 0-15; pin 2 is the cascade and ignored. */
void pic_set(struct pic *p, unsigned pin, bool level);
struct irq_line pic_line(struct pic *p, unsigned pin);
/* Two INTA cycles: the vector, spurious IRQ7/15 included. */
uint8_t pic_ack(struct pic *p);
bool pic_intr(const struct pic *p);

#endif
