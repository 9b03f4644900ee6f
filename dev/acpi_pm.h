/*
 * ACPI fixed hardware (ACPI 6.4, 4.8) in one bank of ACPI_PM_SIZE ports, at the
 * offsets the board puts into the FADT, and the reset control register.
 */
#ifndef DEV_ACPI_PM_H
#define DEV_ACPI_PM_H

#include "ringer/dev.h"

#define ACPI_PM_EVT 0x00  /* PM1a_STS, PM1a_EN: 2 + 2 bytes */
#define ACPI_PM_CNT 0x04  /* PM1a_CNT: 2 bytes */
#define ACPI_PM_TMR 0x08  /* PM_TMR: 4 bytes, 32 bits wide, 3.579545 MHz */
#define ACPI_PM_GPE0 0x20 /* GPE0_STS, GPE0_EN */
#define ACPI_PM_GPE0_LEN 4
#define ACPI_PM_SIZE 0x40
#define ACPI_PM_S5 0 /* SLP_TYP of S5 */

struct acpi_pm_config {
    struct irq_line sci; /* level */
    void (*poweroff)(void *ctx);
    void *ctx;
};
struct dev *acpi_pm_new(const struct dev_env *env, const struct acpi_pm_config *cfg);
/* The user pressed the power button: fixed event, SCI. Under the device lock. */
void acpi_pm_power_button(struct dev *d);
/* Raise general-purpose event n (0 to 15). Under the device lock. */
void acpi_pm_gpe(struct dev *d, unsigned n);

/* Reset control register, one port (0xcf9). */
#define RESET_CF9_VALUE 0x06 /* what to write for a hard reset */
struct dev *reset_cf9_new(void (*reset)(void *ctx), void *ctx);

#endif
