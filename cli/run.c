/* `ringer run`: from options to a running machine to an exit status. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "board/pc.h"
#include "cli/report.h"
#include "cli/sites.h"
#include "core/blockdev.h"
#include "core/clock.h"

#define MAX_IMAGE (2ull << 30)

struct run {
    const struct run_options *o;
    struct vm *vm;
    struct pc *pc;
    struct host_loop *loop, *disk_loop;
    struct host_thread *loop_thread, *disk_thread;
    struct term *term;
    struct blockdev disk[MAX_DISKS];
    unsigned ndisk;
    uint8_t *kernel, *initrd[MAX_INITRDS];
    struct boot_module mod[MAX_INITRDS];
    int sigfd, end_signal, stats_fd;
    struct file_out debugcon;
    struct report *report;
    struct symbols *sym;
};

static void loop_main(void *loop)
{
    host_loop_run(loop);
}

static void defer_disk(void *ctx, void (*fn)(void *), void *arg)
{
    host_loop_post(ctx, fn, arg);
}

/* Both take the device lock, which a vCPU may hold while it waits for the reader of its output. Not on the terminal's thread then: it
 * must stay awake for what ends such a wait. */
static void print_stats(void *ctx)
{
    struct run *r = ctx;
    stats_print(r->vm, r->o->stats == STATS_JSON ? STATS_JSON : STATS_TEXT, r->sym, r->stats_fd, r->o->stats_file);
}

static void power_button(void *ctx)
{
    pc_power_button(((struct run *)ctx)->pc);
}

static bool on_signal(void *ctx)
{
    struct run *r = ctx;
    struct signalfd_siginfo si;
    if (read(r->sigfd, &si, sizeof(si)) != (ssize_t)sizeof(si))
        return true;
    if (si.ssi_signo == SIGUSR1) {
        host_loop_post(r->disk_loop, print_stats, r);
    } else if (si.ssi_signo == SIGUSR2) {
        host_loop_post(r->disk_loop, power_button, r);
    } else if (si.ssi_signo == SIGTSTP) {
        host_tty_stop();
    } else if (si.ssi_signo == SIGCONT) {
        host_tty_continue();
    } else {
        r->end_signal = (int)si.ssi_signo;
        vm_request_end(r->vm, VM_END_QUIT, 0);
    }
    return true;
}

static void on_quit(void *ctx)
{
    vm_request_end(ctx, VM_END_QUIT, 0);
}

static bool is_ending(void *ctx)
{
    const struct vm *vm = ctx;
    return vm && atomic_load(&vm->end) != VM_END_NONE;
}

/* Signals come in through a descriptor; every thread started later inherits the mask. */
static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTSTP);
    sigaddset(&set, SIGCONT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC);
}

static const struct engine_ops *choose_engine(const char *name, const struct engine_config *cfg, uint32_t need, char *err, size_t cap)
{
    char why[200];
    bool any = !strcmp(name, "auto");
    for (unsigned i = 0; ringer_engines[i]; i++) {
        const struct engine_ops *e = ringer_engines[i];
        if (any ? !e->rank || (e->caps & need) != need : strcmp(e->name, name))
            continue;
        if ((e->caps & need) != need) {
            snprintf(err, cap, e->caps & ENGINE_CAP_PACE ? "--trace-what insns: engine %s runs instructions unseen" : "--verify: engine %s cannot be stopped at an instruction", name);
            return NULL;
        }
        if (!any && cfg->irqchip != IRQCHIP_DEFAULT && cfg->irqchip != IRQCHIP_USER && !(e->caps & ENGINE_CAP_OWN_INTC)) {
            snprintf(err, cap, "--irqchip: engine %s has no interrupt controllers of its own", name);
            return NULL;
        }
        if (!e->probe || e->probe(cfg, why, sizeof(why)) == 0)
            return e;
        if (!any) {
            snprintf(err, cap, "--engine %s: not usable here: %s", name, why);
            return NULL;
        }
    }
    if (any) {
        snprintf(err, cap, "--engine auto: no engine works on this machine; see ringer engines");
        return NULL;
    }
    size_t n = (size_t)snprintf(err, cap, "--engine: unknown engine '%s' (auto", name);
    for (unsigned i = 0; ringer_engines[i] && n < cap; i++)
        n += (size_t)snprintf(err + n, cap - n, ", %s", ringer_engines[i]->name);
    if (n < cap)
        snprintf(err + n, cap - n, ")");
    return NULL;
}

int cli_engines(const struct engine_config *cfg)
{
    for (unsigned i = 0; ringer_engines[i]; i++) {
        const struct engine_ops *e = ringer_engines[i];
        char why[200] = "";
        bool ok = !e->probe || e->probe(cfg, why, sizeof(why)) == 0;
        printf("%-10s %-10s %s%s%s\n", e->name, ok ? "usable" : "not usable", e->summary, ok ? "" : ": ", ok ? "" : why);
    }
    return STATUS_OK;
}

static const char *why(int e)
{
    return e == -ENODEV ? "neither a file nor a block device" : strerror(-e);
}

/* Everything the user named is opened and checked before the machine exists. */
static int load_files(struct run *r, struct pc_config *cfg, char *err, size_t cap)
{
    const struct run_options *o = r->o;
    size_t len;
    int e = host_file_slurp(o->kernel, MAX_IMAGE, &r->kernel, &len);
    if (e) {
        snprintf(err, cap, "--kernel: %s: %s", o->kernel, why(e));
        return -1;
    }
    cfg->boot = (struct boot_spec){.kind = o->format, .name = o->kernel, .kernel = r->kernel, .kernel_len = len, .cmdline = o->append,
                                   .flat_at = o->load_at, .flat_addr = o->load_addr, .flat_entry = o->entry};
    if (o->load_at && o->format == BOOT_AUTO)
        cfg->boot.kind = BOOT_FLAT;
    for (unsigned i = 0; i < o->ninitrd; i++) {
        e = host_file_slurp(o->initrd[i], MAX_IMAGE, &r->initrd[i], &len);
        if (e) {
            snprintf(err, cap, "--initrd: %s: %s", o->initrd[i], why(e));
            return -1;
        }
        r->mod[i] = (struct boot_module){.name = o->initrd[i], .data = r->initrd[i], .len = len};
    }
    cfg->boot.mod = r->mod;
    cfg->boot.nmod = o->ninitrd;
    for (unsigned i = 0; i < o->ndisk; i++) {
        if (blockdev_raw_open(&r->disk[i], o->disk[i].path, o->disk[i].readonly || o->verify, err, cap) != 0)
            return -1;
        r->ndisk++;
        cfg->disk[cfg->ndisk++] = &r->disk[i];
    }
    if (o->debugcon) {
        r->debugcon.fd = open(o->debugcon, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (r->debugcon.fd < 0 || fcntl(r->debugcon.fd, F_SETFL, O_NONBLOCK) != 0) {
            snprintf(err, cap, "--debugcon: %s: %s", o->debugcon, strerror(errno));
            return -1;
        }
    }
    if (o->stats_file && (r->stats_fd = stats_open(o->stats_file, err, cap)) < 0)
        return -1;
    if (o->symbols && !(r->sym = symbols_open(o->symbols, err, cap)))
        return -1;
    /* Names of descriptors (/dev/fd/5) have served: what is open now is the machine's own. */
    for (int fd = 3; fd < MAX_INHERITED; fd++)
        if (o->inherited[fd / 64] >> (fd % 64) & 1)
            close(fd);
    return 0;
}

int cli_end_status(int end, int code)
{
    switch (end) {
    case VM_END_POWEROFF:
    case VM_END_QUIT: return STATUS_OK;
    case VM_END_RESET: return STATUS_RESET;
    case VM_END_TRIPLE_FAULT: return STATUS_TRIPLE_FAULT;
    case VM_END_PANIC: return STATUS_PANIC;
    case VM_END_DEBUG_EXIT: return code & 0xff;
    default: return STATUS_ERROR;
    }
}

static int exit_status(struct run *r, enum vm_end end)
{
    return end == VM_END_QUIT && r->end_signal ? 128 + r->end_signal : cli_end_status(end, r->vm->end_code);
}

static const char *end_name(enum vm_end end)
{
    switch (end) {
    case VM_END_POWEROFF: return "power-off";
    case VM_END_QUIT: return "quit";
    case VM_END_RESET: return "reset";
    case VM_END_TRIPLE_FAULT: return "triple fault";
    case VM_END_PANIC: return "guest panic";
    case VM_END_DEBUG_EXIT: return "isa-debug-exit";
    case VM_END_NONE:
    case VM_END_ERROR: break;
    }
    return "error";
}

/* False: something that was to be written is not, as has been said. */
static bool release(struct run *r)
{
    bool good = true;
    /* Input first, then what it feeds. */
    if (r->loop_thread) {
        host_loop_stop(r->loop);
        host_thread_join(r->loop_thread);
    }
    if (r->vm && r->vm->clock)
        clock_stop(r->vm->clock);
    if (r->disk_thread) {
        host_loop_stop(r->disk_loop);
        host_thread_join(r->disk_thread);
    }
    report_free(r->report);
    if (r->vm)
        sites_drop(r->vm);
    symbols_free(r->sym);
    term_free(r->term);
    if (r->vm && r->vm->trace && trace_close(r->vm->trace) != 0)
        good = false;
    if (r->pc)
        pc_free(r->pc);
    vm_free(r->vm);
    host_loop_free(r->disk_loop);
    host_loop_free(r->loop);
    for (unsigned i = 0; i < r->ndisk; i++) {
        int e = blockdev_raw_close(&r->disk[i]);
        if (e) {
            cli_error("disk %s: not everything could be written: %s", r->o->disk[i].path, strerror(-e));
            good = false;
        }
    }
    for (unsigned i = 0; i < MAX_INITRDS; i++)
        free(r->initrd[i]);
    free(r->kernel);
    if (r->sigfd >= 0)
        close(r->sigfd);
    if (r->debugcon.fd >= 0)
        close(r->debugcon.fd);
    if (r->stats_fd >= 0)
        close(r->stats_fd);
    return good;
}

static int fail(struct run *r, int status, const char *err)
{
    release(r);
    cli_error("%s", err);
    return status;
}

static int fill_random(void *ctx, void *buf, size_t n)
{
    return host_random(buf, n);
}

static void free_images(struct run *r)
{
    for (unsigned i = 0; i < r->o->ninitrd; i++) {
        free(r->initrd[i]);
        r->initrd[i] = NULL;
    }
    free(r->kernel);
    r->kernel = NULL;
}

/* From here on the process can do no more than run this machine. */
static int confine(const struct run_options *o, const struct engine_ops *engine, char *err, size_t cap)
{
    if (o->no_sandbox)
        return 0;
    const bool translated = engine == &engine_translate && (o->engine_cfg.user_code == USER_CODE_TRANSLATED || o->verify); /* makes none */
    const int e = host_jail((engine->caps & ENGINE_CAP_WORLDS && !translated ? HOST_JAIL_WORLDS : 0) | (engine->caps & ENGINE_CAP_HARDWARE ? HOST_JAIL_KVM : 0));
    if (e)
        snprintf(err, cap, "cannot confine this process: %s (--no-sandbox runs it unconfined)", strerror(-e));
    return e;
}

int cli_run(const struct run_options *o)
{
    struct run r = {.o = o, .sigfd = -1, .stats_fd = -1, .debugcon = {.fd = -1, .ending = is_ending}};
    struct pc_config cfg = {.hpet = o->hpet, .pc_testdev = o->pc_testdev, .hypercalls = o->hypercalls, .fw_signature = o->on_tcg, .debug_exit_port = o->debug_exit_port, .entropy = {.fill = fill_random}};
    char err[512] = "";
    const uint32_t need = (o->trace_file && (o->trace_what & TRACE_INSNS) ? ENGINE_CAP_TRACE : 0) | (o->verify ? ENGINE_CAP_PACE : 0);
    const struct engine_ops *engine = choose_engine(o->engine, &o->engine_cfg, need, err, sizeof(err));
    if (!engine)
        return fail(&r, STATUS_USAGE, err);
    if (load_files(&r, &cfg, err, sizeof(err)) != 0)
        return fail(&r, STATUS_USAGE, err);
    if (o->verify) {
        if (r.debugcon.fd >= 0)
            cfg.debugcon = file_chardev(&r.debugcon);
        if (confine(o, engine, err, sizeof(err)) != 0)
            return fail(&r, STATUS_ERROR, err);
        int st = cli_verify(o, engine, &cfg, r.stats_fd);
        release(&r);
        return st;
    }

    struct vm_config vc = {.ram_size = o->memory, .ncpu = o->cpus, .engine = engine, .engine_cfg = o->engine_cfg, .no_reboot = o->no_reboot};
    vc.engine_cfg.uncounted = engine == &engine_translate && o->stats == STATS_OFF && !o->report && !o->data_fd && !o->trace_file;
    r.vm = vm_new(&vc, err, sizeof(err));
    if (!r.vm)
        return fail(&r, STATUS_ERROR, err);
    r.vm->cpu_limit = o->cpu_limit;
    r.debugcon.ctx = r.vm;
    r.sigfd = open_signals();
    r.loop = host_loop_new();
    r.disk_loop = host_loop_new();
    r.term = r.loop ? term_new(r.loop, o->eof, on_quit, is_ending, r.vm) : NULL;
    if (r.sigfd < 0 || !r.loop || !r.disk_loop || !r.term)
        return fail(&r, STATUS_ERROR, "out of memory or descriptors");
    if (o->trace_file) {
        r.vm->trace = trace_open(o->trace_file, o->trace_what, err, sizeof(err));
        if (!r.vm->trace)
            return fail(&r, STATUS_USAGE, err);
    }

    struct chardev console = term_chardev(r.term);
    if (o->console == CONSOLE_SERIAL)
        cfg.serial = console;
    if (o->console == CONSOLE_VIRTIO)
        cfg.virtio_console = console;
    cfg.debugcon = r.debugcon.fd >= 0 ? file_chardev(&r.debugcon) : console;
    cfg.defer = defer_disk;
    cfg.defer_ctx = r.disk_loop;
    cfg.loop = r.loop;
    bool usage = false;
    r.pc = pc_new(r.vm, &cfg, &usage, err, sizeof(err));
    if (!r.pc)
        return fail(&r, usage ? STATUS_USAGE : STATUS_ERROR, err);
    if (o->report || o->data_fd) {
        r.report = report_new(r.vm, o, r.sym, err, sizeof(err));
        if (!r.report)
            return fail(&r, STATUS_USAGE, err);
    } else if (o->stats != STATS_OFF && !(engine->caps & ENGINE_CAP_HARDWARE) && sites_keep(r.vm, true) != 0) {
        return fail(&r, STATUS_ERROR, "out of memory");
    }

    if (o->console != CONSOLE_NONE) {
        struct chardev_sink sink = o->console == CONSOLE_SERIAL ? pc_serial_sink(r.pc) : pc_virtio_console_sink(r.pc);
        term_connect(r.term, &sink, r.vm->device_lock);
    }
    if (host_loop_add_fd(r.loop, r.sigfd, on_signal, &r) != 0 || term_start(r.term) != 0)
        return fail(&r, STATUS_ERROR, "cannot watch the terminal");
    r.loop_thread = host_thread_start("io", loop_main, r.loop);
    r.disk_thread = host_thread_start("disk", loop_main, r.disk_loop);
    if (r.loop_thread && r.disk_thread && confine(o, engine, err, sizeof(err)) != 0)
        return fail(&r, STATUS_ERROR, err);
    if (!r.loop_thread || !r.disk_thread || vm_start(r.vm, err, sizeof(err)) != 0)
        return fail(&r, STATUS_ERROR, err[0] ? err : "cannot start threads");

    if (o->no_reboot) /* they are loaded, and never will be again */
        free_images(&r);
    if (r.report && report_start(r.report) != 0)
        vm_request_end(r.vm, VM_END_ERROR, 0);
    enum vm_end end = vm_wait(r.vm);
    int status = exit_status(&r, end);
    host_tty_restore();
    if (o->stats != STATS_OFF)
        stats_print(r.vm, o->stats, r.sym, r.stats_fd, o->stats_file);
    if (r.report && report_finish(r.report, end_name(end), status) != 0)
        status = STATUS_ERROR;
    return release(&r) || status != STATUS_OK ? status : STATUS_ERROR;
}
