/*
 * Keyboard controller with an optional silent keyboard on its first port and
 * nothing on its second.
 *
 * Two queues: what the controller itself answers, and what the keyboard sends.
 * The output buffer shows the head of the first, else of the second if the
 * keyboard's clock is not disabled. An absent device is reported as hardware
 * does: 0xfe with the time-out bit of the status register, at once.
 */
#include "dev/i8042.h"

#include <stdlib.h>
#include <string.h>

#include "dev/isa.h"

#define QUEUE 16

enum { STAT_OBF = 1, STAT_SYS = 4, STAT_CMD = 8, STAT_UNLOCKED = 16, STAT_AUX = 32, STAT_TIMEOUT = 64 };
enum { CTR_KBD_INT = 1, CTR_AUX_INT = 2, CTR_SYS = 4, CTR_KBD_DIS = 16, CTR_AUX_DIS = 32 };
enum { OUT_NO_RESET = 1, OUT_A20 = 2, OUT_OBF = 16 };
enum { KBD_ACK = 0xfa, KBD_RESEND = 0xfe, KBD_SELF_TEST_OK = 0xaa, KBD_ECHO = 0xee };

struct byte {
    uint8_t val, flags; /* STAT_AUX, STAT_TIMEOUT */
};
struct queue {
    struct byte b[QUEUE];
    unsigned head, n;
};

struct i8042 {
    struct dev dev;
    struct i8042_config cfg;
    struct queue ctl, kbd;
    uint8_t ram[32];    /* ram[0] is the command byte */
    uint8_t expect;     /* controller command waiting for its data byte, 0: none */
    uint8_t kbd_expect; /* keyboard command waiting for its parameter */
    uint8_t kbd_last, scan_set;
    uint8_t last_data; /* what port 0x60 shows when the buffer is empty */
    bool last_was_cmd, a20, sys;
};

static void put(struct queue *q, uint8_t val, uint8_t flags)
{
    if (q->n < QUEUE)
        q->b[(q->head + q->n++) % QUEUE] = (struct byte){val, flags};
}

static struct queue *front(struct i8042 *k)
{
    if (k->ctl.n)
        return &k->ctl;
    return k->kbd.n && !(k->ram[0] & CTR_KBD_DIS) ? &k->kbd : NULL;
}

static void update_irq(struct i8042 *k)
{
    struct queue *q = front(k);
    bool aux = q && (q->b[q->head].flags & STAT_AUX);
    irq_set(&k->cfg.irq_kbd, q && !aux && (k->ram[0] & CTR_KBD_INT));
    irq_set(&k->cfg.irq_aux, aux && (k->ram[0] & CTR_AUX_INT));
}

static uint8_t read_data(struct i8042 *k)
{
    struct queue *q = front(k);
    if (q) {
        k->last_data = q->b[q->head].val;
        q->head = (q->head + 1) % QUEUE;
        q->n--;
        /* The line falls between two bytes, so that an edge-triggered input sees both. */
        irq_set(&k->cfg.irq_kbd, false);
        irq_set(&k->cfg.irq_aux, false);
        update_irq(k);
    }
    return k->last_data;
}

static uint8_t read_status(struct i8042 *k)
{
    struct queue *q = front(k);
    return STAT_UNLOCKED | (k->sys ? STAT_SYS : 0) | (k->last_was_cmd ? STAT_CMD : 0) |
           (q ? STAT_OBF | q->b[q->head].flags : 0);
}

static void kbd_send(struct i8042 *k, uint8_t v)
{
    put(&k->kbd, v, 0);
    if (v != KBD_RESEND)
        k->kbd_last = v;
}

static void kbd_command(struct i8042 *k, uint8_t v)
{
    if (!k->cfg.keyboard) {
        put(&k->kbd, KBD_RESEND, STAT_TIMEOUT);
        return;
    }
    uint8_t cmd = k->kbd_expect;
    if (cmd && v < 0xed) { /* a parameter; a command byte instead would cancel */
        k->kbd_expect = 0;
        kbd_send(k, KBD_ACK);
        if (cmd == 0xf0 && v == 0)
            kbd_send(k, k->scan_set);
        else if (cmd == 0xf0 && v <= 3)
            k->scan_set = v;
        return;
    }
    k->kbd_expect = 0;
    switch (v) {
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typematic rate */
    case 0xfb: /* key type by scan code: parameter is a scan code */
    case 0xfc:
    case 0xfd:
        k->kbd_expect = v;
        kbd_send(k, KBD_ACK);
        break;
    case 0xee: kbd_send(k, KBD_ECHO); break;
    case 0xf2:
        kbd_send(k, KBD_ACK);
        kbd_send(k, 0xab);
        kbd_send(k, 0x83);
        break;
    case 0xf6: k->scan_set = 2; /* fall through */
    case 0xf4:
    case 0xf5:
    case 0xf7:
    case 0xf8:
    case 0xf9:
    case 0xfa: kbd_send(k, KBD_ACK); break;
    case 0xfe: kbd_send(k, k->kbd_last); break;
    case 0xff:
        k->kbd.n = 0;
        k->scan_set = 2;
        kbd_send(k, KBD_ACK);
        kbd_send(k, KBD_SELF_TEST_OK);
        break;
    default: kbd_send(k, KBD_RESEND);
    }
}

static void write_output_port(struct i8042 *k, uint8_t v)
{
    k->a20 = v & OUT_A20;
    if (!(v & OUT_NO_RESET))
        k->cfg.reset(k->cfg.ctx);
}

static void write_command_byte(struct i8042 *k, uint8_t v)
{
    k->ram[0] = v;
    k->sys = v & CTR_SYS;
}

static void controller_command(struct i8042 *k, uint8_t v)
{
    k->expect = 0;
    switch (v) {
    case 0xa7: k->ram[0] |= CTR_AUX_DIS; break;
    case 0xa8: k->ram[0] &= (uint8_t)~CTR_AUX_DIS; break;
    case 0xa9: put(&k->ctl, 0x03, 0); break; /* second port: data line stuck, nothing there */
    case 0xaa:
        k->ctl.n = k->kbd.n = 0;
        k->ram[0] |= CTR_KBD_DIS | CTR_AUX_DIS;
        k->sys = true;
        put(&k->ctl, 0x55, 0);
        break;
    case 0xab: put(&k->ctl, 0x00, 0); break; /* first port: no error */
    case 0xad: k->ram[0] |= CTR_KBD_DIS; break;
    case 0xae: k->ram[0] &= (uint8_t)~CTR_KBD_DIS; break;
    case 0xc0: put(&k->ctl, 0xa0, 0); break; /* input port: not locked */
    case 0xd0: put(&k->ctl, OUT_NO_RESET | (k->a20 ? OUT_A20 : 0) | (front(k) ? OUT_OBF : 0), 0); break;
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xd4: k->expect = v; break;
    case 0xdd: k->a20 = false; break;
    case 0xdf: k->a20 = true; break;
    case 0xe0: put(&k->ctl, 0x00, 0); break; /* test inputs */
    default:
        if (v >= 0x20 && v <= 0x3f)
            put(&k->ctl, k->ram[v & 31], 0);
        else if (v >= 0x60 && v <= 0x7f)
            k->expect = v;
        else if (v >= 0xf0 && !(v & OUT_NO_RESET)) /* pulse the lines whose bit is clear */
            k->cfg.reset(k->cfg.ctx);
    }
}

static void controller_data(struct i8042 *k, uint8_t v)
{
    uint8_t cmd = k->expect;
    k->expect = 0;
    switch (cmd) {
    case 0:
        k->ram[0] &= (uint8_t)~CTR_KBD_DIS; /* sending enables the clock */
        kbd_command(k, v);
        break;
    case 0x60: write_command_byte(k, v); break;
    case 0xd1: write_output_port(k, v); break;
    case 0xd2: put(&k->ctl, v, 0); break;
    case 0xd3: put(&k->ctl, v, 0); break; /* no second port: the byte does not come back marked as its */
    case 0xd4: put(&k->ctl, KBD_RESEND, STAT_AUX | STAT_TIMEOUT); break;
    default: k->ram[cmd & 31] = v;
    }
}

static int i8042_read(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t *val)
{
    struct i8042 *k = (struct i8042 *)d;
    if (off || bank > 1)
        return DEV_UNMAPPED;
    uint64_t float_high = size > 1 ? (size >= 8 ? ~0ull : (1ull << (8 * size)) - 1) & ~0xffull : 0;
    *val = (bank == 0 ? read_data(k) : read_status(k)) | float_high;
    return DEV_OK;
}

static int i8042_write(struct dev *d, uint32_t bank, uint64_t off, unsigned size, uint64_t val)
{
    struct i8042 *k = (struct i8042 *)d;
    if (off || bank > 1)
        return DEV_UNMAPPED;
    k->last_was_cmd = bank == 1;
    if (bank == 0)
        controller_data(k, (uint8_t)val);
    else
        controller_command(k, (uint8_t)val);
    update_irq(k);
    return DEV_OK;
}

static void i8042_reset(struct dev *d)
{
    struct i8042 *k = (struct i8042 *)d;
    k->ctl.n = k->kbd.n = 0;
    memset(k->ram, 0, sizeof(k->ram));
    /* As firmware leaves it after its self-test. */
    write_command_byte(k, CTR_SYS | CTR_AUX_DIS);
    k->expect = k->kbd_expect = k->kbd_last = k->last_data = 0;
    k->scan_set = 2;
    k->last_was_cmd = false;
    k->a20 = true;
    update_irq(k);
}

static void i8042_fini(struct dev *d)
{
    free(d);
}

static const struct dev_ops i8042_ops = {
    .name = "i8042", .reset = i8042_reset, .read = i8042_read, .write = i8042_write, .fini = i8042_fini};

struct dev *i8042_new(const struct dev_env *env, const struct i8042_config *cfg)
{
    struct i8042 *k = calloc(1, sizeof(*k));
    if (!k)
        return NULL;
    k->dev.ops = &i8042_ops;
    k->cfg = *cfg;
    i8042_reset(&k->dev);
    return &k->dev;
}
