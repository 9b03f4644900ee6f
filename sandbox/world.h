/*
 * A world: a sandboxed host process whose address space below 4 GiB is a TLB of guest translations and in which guest code runs
 * directly at CPL 3. The only file besides host/ that calls an operating system.
 *
 * Threads: everything on the vCPU's thread, which must live as long as the world (it dies with the thread that made it), except
 * world_kick.
 */
#ifndef SANDBOX_WORLD_H
#define SANDBOX_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sandbox/proto.h"

enum { WORLD_R = 1, WORLD_W = 2, WORLD_X = 4 };

/* The signal and exception numbers of exits, as the kernel gives them. */
enum { WORLD_SIG_ILL = 4, WORLD_SIG_TRAP = 5, WORLD_SIG_BUS = 7, WORLD_SIG_FPE = 8, WORLD_SIG_KICK = 10, WORLD_SIG_SEGV = 11, WORLD_SIG_SYS = 31 };
#define WORLD_ARCH_I386 0x40000003u

struct world;

/* Start one. ram_fd, code_fd: the files MAP_RAM and MAP_CODE map. NULL with a printable reason. */
struct world *world_new(int ram_fd, int code_fd, char *reason, size_t cap);
void world_free(struct world *w);

/* The shared page: fill registers, then world_run. */
struct world_ctl *world_ctl(struct world *w);
/* Queue a change for the next run; -1 when WORLD_OPS are queued. */
int world_queue(struct world *w, const struct world_op *op);
unsigned world_queued(const struct world *w);
void world_clear(struct world *w); /* forget queued changes of the address space; descriptors stay */
/* Run guest code with the registers in the control page until an exit. 0; 1: a queued change failed and nothing ran
 * (ctl->error; the state of the address space is unknown: unmap everything); -1: the world is gone, world_why says how.
 * last: the world that may still wait awake, or NULL; another one stops that when this one has been woken. */
int world_run(struct world *w, struct world *last);
const char *world_why(const struct world *w);
/* Make a world_run in progress or the next one return with WORLD_SIG_KICK. Any thread. */
void world_kick(struct world *w);

/* How long each side of a hand-over looks for the other's answer before it sleeps: about so many microseconds; 0 at first. Looking takes
 * a processor from others. */
void world_patience(struct world *w, unsigned monitor_us, unsigned world_us);
/* Calls of world_run. */
uint64_t world_runs(const struct world *w);

extern const unsigned char world_stub_start[], world_stub_end[];

#endif
