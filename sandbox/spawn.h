/* Starting the small programs that this one carries inside. */
#ifndef SANDBOX_SPAWN_H
#define SANDBOX_SPAWN_H

#include <stddef.h>
#include <sys/types.h>

/* Run the program in image[0..len) as a process of the given name with fds[i] as its descriptor 3 + i and nothing else but /dev/null
 * open. It leads a session of its own, so that terminal signals are not for it. Returns the process or -errno. The caller reaps it. All
 * signals are blocked in it; it ends when it pleases, or by PR_SET_PDEATHSIG if it asks for that. */
pid_t spawn_image(const void *image, size_t len, const char *name, const int *fds, unsigned nfds);

#endif
