/* The command line: what the parts of it share. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/boot.h"
#include "ringer/vm.h"

#define RINGER_VERSION "0.1"

/* Exit statuses. All even: isa-debug-exit's are odd by its rule, (value << 1) | 1. */
enum {
    STATUS_OK = 0,           /* guest power-off, or the user quit */
    STATUS_USAGE = 2,        /* wrong options, files or images */
    STATUS_ERROR = 4,        /* our own error while running */
    STATUS_RESET = 6,        /* guest reset with --no-reboot */
    STATUS_TRIPLE_FAULT = 8, /* triple fault with --no-reboot */
    STATUS_PANIC = 10,       /* the guest reported a panic (pvpanic) */
    STATUS_DIFFERS = 12,     /* --verify: the engine and the interpreter differ */
};

#define MAX_DISKS 16
#define MAX_INITRDS 16
#define MAX_INHERITED 1024

enum console_kind { CONSOLE_SERIAL, CONSOLE_VIRTIO, CONSOLE_NONE };
enum eof_kind { EOF_AUTO, EOF_IGNORE, EOF_CTRL_D };
enum stats_kind { STATS_OFF, STATS_TEXT, STATS_JSON };

struct disk_option {
    const char *path;
    bool readonly;
};

struct run_options {
    const char *kernel;
    const char *initrd[MAX_INITRDS];
    unsigned ninitrd;
    const char *append;
    enum boot_kind format;
    bool load_at;
    uint32_t load_addr, entry;
    uint64_t memory;
    unsigned cpus;
    struct disk_option disk[MAX_DISKS];
    unsigned ndisk;
    const char *engine;
    unsigned cpu_limit; /* percent of a core; 0: none */
    struct engine_config engine_cfg;
    enum console_kind console;
    enum eof_kind eof;
    bool no_reboot, hpet, pc_testdev, hypercalls, on_tcg;
    uint16_t debug_exit_port; /* 0: none */
    const char *debugcon;     /* NULL: standard output with the console */
    enum stats_kind stats;
    const char *stats_file;
    const char *trace_file;
    const char *report, *symbols; /* page to write; names for its addresses and those of stats */
    int data_fd;                  /* 0, or where to write the report's data as JSON (ringer compare) */
    unsigned trace_what; /* TRACE_* */
    bool no_sandbox;
    uint64_t inherited[MAX_INHERITED / 64]; /* descriptors that were open when the program began, but for 0 to 2 */
    bool verify;
    uint64_t verify_insns; /* end after so many instructions; 0: with the guest */
};
enum { TRACE_EXITS = 1, TRACE_EXCEPTIONS = 2, TRACE_INSNS = 4, TRACE_IO = 8 };

/* Parse `ringer run` options. 0; or -1 after one line on stderr (exit status 2); or 1 when help was printed. */
int cli_parse_run(int argc, char **argv, struct run_options *o);
void cli_usage(void);
int cli_run(const struct run_options *o);
/* --verify (cli/verify.c): the machine under engine beside one under the interpreter. cfg has boot image and disks. */
struct pc_config;
int cli_verify(const struct run_options *o, const struct engine_ops *engine, const struct pc_config *cfg, int stats_fd);
/* Exit status of a machine that ended by itself. */
int cli_end_status(int end, int code);
int cli_engines(const struct engine_config *cfg);
/* The lab (lab/cmd_*.c). argv[0] is the command's name. */
int cli_probe(int argc, char **argv);
int cli_classify(int argc, char **argv);
int cli_compare(int argc, char **argv);
/* Options of ringer compare alone; parsed with those of run. */
struct compare_options {
    bool all_engines, json;
    unsigned timeout; /* seconds; 0: none */
};
int cli_parse_compare(int argc, char **argv, struct run_options *o, struct compare_options *c);
/* "512M", "1G", "4096" (MiB) to bytes; false if it is not a size. */
bool cli_parse_size(const char *s, uint64_t *bytes);
/* One line on stderr; returns STATUS_USAGE. */
int cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The user's terminal as a character back end (cli/term.c). */
struct term;
/* quit: the escape sequence asked to end. ending: the machine is about to end, output need not wait for its reader any more. */
struct term *term_new(struct host_loop *loop, enum eof_kind eof, void (*quit)(void *), bool (*ending)(void *), void *ctx);
/* Connect input to a device. lock: taken around the sink's calls. */
void term_connect(struct term *t, const struct chardev_sink *sink, struct host_mutex *lock);
struct chardev term_chardev(struct term *t);
int term_start(struct term *t);
/* Give up writing when nobody reads: output still in the buffer is dropped once the reader stalls. */
void term_free(struct term *t);

/* Output to a file, unbuffered towards the guest (debug console). */
struct file_out {
    int fd; /* non-blocking */
    bool (*ending)(void *);
    void *ctx;
};
struct chardev file_chardev(struct file_out *f); /* f is not copied */

/* fd: where to (not closed), named name in messages; -1: standard error. sym: names for addresses, or NULL. */
struct symbols;
void stats_print(struct vm *vm, enum stats_kind kind, const struct symbols *sym, int fd, const char *name);
/* Open the file of --stats-file for appending: a descriptor, or -1 with a line in err. */
int stats_open(const char *name, char *err, size_t cap);

struct vm_trace *trace_open(const char *path, unsigned what, char *err, size_t cap);
/* 0, or -1 when not everything could be written, which it has said. */
int trace_close(struct vm_trace *t);

#endif
