/*
 * A user world: a sandboxed host process in which 64-bit guest user code runs directly, at its own addresses, at CPL 3. Its
 * address space is a TLB of one guest address space; besides guest pages it holds U64_SIZE bytes at a random place (user64_layout.h).
 *
 * Guest code can reach that place, so the world is assumed to be the guest's, and what it says is a claim. What it cannot do is make a
 * system call of its own, or have the monitor's requests carried out in any other way than the monitor meant (user64_handler.S).
 *
 * Threads: everything on the vCPU's thread, which must live as long as the world (it dies with the thread that made it), except
 * user64_kick.
 */
#ifndef SANDBOX_USER64_H
#define SANDBOX_USER64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define USER64_FP_SIZE 832 /* XSAVE standard format: legacy, header, AVX */
/* What hosts give to programs; the upper end is not included. */
#define USER64_LOW 0x10000ull
#define USER64_HIGH 0x7ffffffff000ull

enum { USER64_R = 1, USER64_W = 2, USER64_X = 4, USER64_COPY = 8 /* from the file of copies */ };

/* Registers, both ways; gpr in the order of the encoding. */
struct user64_regs {
    uint64_t gpr[16], rip, rflags, fs_base, gs_base;
    uint16_t cs, ss, ds, es, fs, gs; /* ignored on the way in: the host's flat user segments, and null ones */
    uint8_t fp[USER64_FP_SIZE] __attribute__((aligned(64))); /* all components live: XSTATE_BV is neither looked at nor set */
};

/* What ended a run: the numbers of signals and exceptions as the kernel gives them. */
struct user64_exit {
    int sig;
    uint32_t trapno, err, arch; /* arch: SIGSYS, AUDIT_ARCH of the call */
    uint64_t cr2, call_addr; /* call_addr: SIGSYS, where the call was made */
    bool foul; /* the world was in its own text: guest code must have jumped there */
};

enum user64_result {
    USER64_OK,
    USER64_REFUSED, /* a queued change failed and nothing ran; the state of the address space is unknown: user64_unmap_all */
    USER64_CRASHED, /* the world ended by what its guest code did: the registers are those of the last entry */
    USER64_GONE,    /* the world was ended from outside; user64_why says how */
};

struct user64;

/* Start one. ram_fd, copies_fd: the files user64_map maps. NULL with a printable reason. */
struct user64 *user64_new(int ram_fd, int copies_fd, char *reason, size_t cap);
void user64_free(struct user64 *w);
/* Can guest code execute CPUID unseen? Else it traps. */
bool user64_shows_cpuid(const struct user64 *w);
/* Does [lin, lin + len) touch what the world needs for itself? Then it cannot be mapped. */
bool user64_collides(const struct user64 *w, uint64_t lin, uint64_t len);

/* Queue changes for the next run. False: the queue is full. */
bool user64_map(struct user64 *w, uint64_t lin, uint64_t len, uint64_t off, unsigned prot);
bool user64_unmap(struct user64 *w, uint64_t lin, uint64_t len);
/* Forget what is queued, and unmap everything. */
void user64_unmap_all(struct user64 *w);
unsigned user64_room(const struct user64 *w); /* in the queue */

enum user64_result user64_run(struct user64 *w, struct user64_regs *r, struct user64_exit *e);
const char *user64_why(const struct user64 *w);
/* How long each side of a hand-over looks for the other's answer before it sleeps: about so many microseconds. Waking a process on an idle
 * processor takes tens of them; looking takes a processor from others. */
void user64_patience(struct user64 *w, unsigned monitor_us, unsigned world_us);
/* It need not wait awake for the next run: another world runs first. */
void user64_hush(struct user64 *w);
/* Make a run in progress or the next one end with SIGUSR1. Any thread. */
void user64_kick(struct user64 *w);

extern const unsigned char user64_stub_image[], user64_stub_image_end[];

#endif
