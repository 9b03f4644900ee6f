/* Block back ends for disks. */
#ifndef CORE_BLOCKDEV_H
#define CORE_BLOCKDEV_H

#include "ringer/dev.h"

/* A raw image: the file's bytes are the disk's, its size never changes. Takes an advisory lock: exclusive, or shared
 * when readonly. 0 with *bd filled in, or -1 with one line in err. Calls into *bd may come from any one thread at a
 * time. */
int blockdev_raw_open(struct blockdev *bd, const char *path, bool readonly, char *err, size_t errcap);
/* Flush and close. The devices that use it are gone or stopped. 0, or -errno: not everything written may be on the disk. */
int blockdev_raw_close(struct blockdev *bd);

/* What is written stays in memory, and is gone with the overlay: base is only read, and may be shared by several overlays used on
 * one thread. 0, or -1 when out of memory. */
int blockdev_overlay_new(struct blockdev *bd, const struct blockdev *base, bool readonly);
void blockdev_overlay_free(struct blockdev *bd);

#endif
