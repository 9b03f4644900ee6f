/*
 * The host: the only interface through which the rest reaches an operating
 * system (host/linux/) or, later, bare metal (host/metal/). Nothing else in the
 * tree makes a system call or uses stdio for output to the user.
 *
 * Errors: functions returning int give 0 or -errno; pointers NULL on failure.
 */
#ifndef RINGER_HOST_H
#define RINGER_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- memory ----------------------------------------------------------- */
/* Once, before there are threads: what malloc gives from 128 KiB on goes back to the host when it is freed. */
void host_memory_init(void);
/* Zeroed, page-aligned memory shared through a file handle (*fd, may be NULL: private). Not charged until touched. */
void *host_ram_alloc(size_t size, int *fd);
void host_ram_free(void *p, size_t size, int fd);
/* Drop the contents of a page-aligned part: reads give zero afterwards (balloon, discard). */
void host_ram_discard(void *p, size_t size);
/* Executable memory, W^X: *rw is writable, *rx is the same memory executable. */
int host_exec_alloc(size_t size, void **rw, void **rx);
void host_exec_free(void *rw, void *rx, size_t size);

/* --- threads ------------------------------------------------------------ */
struct host_thread;
struct host_mutex;
struct host_cond;
struct host_event; /* auto-reset binary event */
struct host_thread *host_thread_start(const char *name, void (*fn)(void *), void *arg);
void host_thread_join(struct host_thread *t); /* and free */
struct host_mutex *host_mutex_new(void);
void host_mutex_free(struct host_mutex *m);
void host_lock(struct host_mutex *m);
bool host_trylock(struct host_mutex *m); /* true: locked */
void host_unlock(struct host_mutex *m);
bool host_locked_by_me(struct host_mutex *m); /* for assertions; exact in debug builds, true in release */
struct host_cond *host_cond_new(void);
void host_cond_free(struct host_cond *c);
void host_cond_wait(struct host_cond *c, struct host_mutex *m);
void host_cond_broadcast(struct host_cond *c);
struct host_event *host_event_new(void);
void host_event_free(struct host_event *e);
void host_event_set(struct host_event *e); /* async-signal-safe */
/* Wait until set or until host_now() >= deadline_ns (UINT64_MAX: for ever). True if it was set. */
bool host_event_wait(struct host_event *e, uint64_t deadline_ns);

/* An alarm of the calling thread's: some time after host_alarm_set, once, fn(arg, at) is called on it in a signal handler; it may only do what
 * is async-signal-safe. at: the address of the instruction the thread had come to. Set and freed on the same thread; NULL: the host has none to give. */
struct host_alarm;
struct host_alarm *host_alarm_new(void (*fn)(void *arg, uintptr_t at), void *arg);
void host_alarm_set(struct host_alarm *t, uint64_t ns);
void host_alarm_free(struct host_alarm *t);

/* Processors this program may use. */
unsigned host_cpus(void);

/* --- time ---------------------------------------------------------------- */
uint64_t host_now(void);       /* monotonic ns */
uint64_t host_wall(void);      /* ns since 1970-01-01 UTC */
uint64_t host_cpu_ns(void);    /* CPU time of the process */
uint64_t host_thread_cpu_ns(void); /* of the calling thread */
/* The same with its children, those that have ended included. While one ends it may be missing for a moment. */
uint64_t host_cpu_tree_ns(void);
/* A process was made, or has ended and been waited for: how a confined process knows its children for host_cpu_tree_ns. Any thread. */
void host_child(int pid, bool alive);

/* --- random, log ------------------------------------------------------- */
int host_random(void *buf, size_t len);
/* One line on stderr, prefixed "ringer: ". Restores nothing, adds the newline; safe from any thread. */
void host_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* --- guarded execution ------------------------------------------------- */
/* Call fn(arg) so that a CPU fault inside it comes back as a result instead of ending the process:
 * returns -1 if it completed, else the x86 vector (0 #DE, 6 #UD, 13 #GP, 14 #PF, 16 #MF, 17 #AC, 19 #XM) with *addr the faulting data address
 * (19 #XM: the MXCSR at the fault, flags of the exception included).
 * fn runs with callee-saved registers restored as by longjmp; it must hold no lock. The thread's MXCSR and x87 control are restored. */
int host_guarded(void (*fn)(void *), void *arg, uint64_t *addr);

/* --- confinement ------------------------------------------------------- */
enum {
    HOST_JAIL_WORLDS = 1 << 0, /* it still makes sandboxed processes from memory files (sandbox/) */
    HOST_JAIL_KVM = 1 << 1,    /* it still uses KVM descriptors it has */
};
/* Confine this process, all its threads, for good: no file can be opened, no program started, no process but worlds made or looked into, no
 * socket made, (without worlds) no memory be writable and executable. Descriptors that are open go on working. What is not allowed fails with EPERM.
 * Builds with sanitizers stay as they are. 0 or -errno. */
int host_jail(unsigned flags);

/* --- files --------------------------------------------------------------- */
struct host_file;
/* mode "r": read-only; "rw": read-write, fails if it does not exist or is not a regular file or block device. */
struct host_file *host_file_open(const char *path, const char *mode, int *err);
void host_file_close(struct host_file *f);
uint64_t host_file_size(struct host_file *f);
/* Take an advisory lock (exclusive for writers, shared for readers). -EAGAIN if somebody else has it. */
int host_file_lock(struct host_file *f, bool exclusive);
/* Whole transfers or an error; short reads at the end of file are -EIO. */
int host_file_read(struct host_file *f, uint64_t off, void *buf, size_t len);
int host_file_write(struct host_file *f, uint64_t off, const void *buf, size_t len);
int host_file_flush(struct host_file *f);
int host_file_discard(struct host_file *f, uint64_t off, uint64_t len);
int host_file_zero(struct host_file *f, uint64_t off, uint64_t len);
/* Read a whole file (at most max bytes). Caller frees with free(). */
int host_file_slurp(const char *path, size_t max, uint8_t **buf, size_t *len);

/* --- terminal and event loop ------------------------------------------ */
/* The loop runs on one thread; handlers are called on it. */
struct host_loop;
struct host_loop *host_loop_new(void);
void host_loop_free(struct host_loop *l);
/* Call fn(ctx) when fd is readable; fn returns false to stop watching. */
int host_loop_add_fd(struct host_loop *l, int fd, bool (*fn)(void *ctx), void *ctx);
void host_loop_del_fd(struct host_loop *l, int fd);
/* Post fn(arg) to the loop's thread; any thread. */
void host_loop_post(struct host_loop *l, void (*fn)(void *), void *arg);
void host_loop_run(struct host_loop *l);  /* until host_loop_stop */
void host_loop_stop(struct host_loop *l); /* any thread; async-signal-safe */

/* A descriptor that counts signals from outside the process's code (an engine's doorbell); readable while the count is not zero.
 * take: the count since the last take. -errno or the descriptor. */
int host_signal_new(void);
uint64_t host_signal_take(int fd);
void host_signal_free(int fd);

/* Put the terminal on fd into raw mode if it is one; restored by host_tty_restore, at exit and on fatal signals. */
int host_tty_raw(int fd);
void host_tty_restore(void);
/* Job control, for whoever takes SIGTSTP and SIGCONT: give the terminal back and stop the process; raw again, once the process is in the
 * foreground. Event loop's thread only. */
void host_tty_stop(void);
void host_tty_continue(void);

/* Host CPU's TSC frequency in kHz (measured if the host does not say). */
uint64_t host_tsc_khz(void);

#endif
