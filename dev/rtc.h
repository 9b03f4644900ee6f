/* MC146818 real-time clock with 128 bytes of CMOS RAM. One bank of 2 ports (0x70 index, 0x71 data). */
#ifndef DEV_RTC_H
#define DEV_RTC_H

#include "ringer/dev.h"

struct dev *rtc_new(const struct dev_env *env, struct irq_line irq);
/* Set a byte of CMOS RAM (index 0x0e to 0x7f), as firmware would; survives reset. */
void rtc_cmos_set(struct dev *d, uint8_t index, uint8_t val);
/* Memory size in the places where firmware leaves it. */
void rtc_set_memory(struct dev *d, uint64_t below_4g, uint64_t above_4g);

#endif
