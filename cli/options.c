/* Parsing of options. Wrong input: one line on stderr, status 2. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

int cli_error(const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    /* Names may hold newlines; the message stays one line. */
    for (char *p = line; *p; p++)
        if (iscntrl((unsigned char)*p))
            *p = '?';
    fprintf(stderr, "ringer: %s\n", line);
    return STATUS_USAGE;
}

bool cli_parse_size(const char *s, uint64_t *bytes)
{
    char *end;
    if (!isdigit((unsigned char)*s))
        return false;
    errno = 0;
    unsigned long long v = strtoull(s, &end, 0);
    unsigned shift = 20; /* a bare number is MiB, as QEMU has it */
    switch (*end) {
    case 'k':
    case 'K': shift = 10; end++; break;
    case 'm':
    case 'M': shift = 20; end++; break;
    case 'g':
    case 'G': shift = 30; end++; break;
    case 't':
    case 'T': shift = 40; end++; break;
    default: break;
    }
    if (*end || errno || v > (UINT64_MAX >> shift))
        return false;
    *bytes = (uint64_t)v << shift;
    return true;
}

static bool parse_number(const char *s, uint64_t max, uint64_t *v)
{
    char *end;
    if (!isdigit((unsigned char)*s))
        return false;
    errno = 0;
    *v = strtoull(s, &end, 0);
    return !*end && !errno && *v <= max;
}

/* 2000000, 20M or 1G: decimal multiples, nothing to do with memory. */
static bool parse_insns(const char *s, uint64_t *n)
{
    char digits[24];
    const size_t len = strlen(s);
    uint64_t unit = 1;
    if (!len || len >= sizeof(digits))
        return false;
    strcpy(digits, s);
    switch (digits[len - 1]) {
    case 'k': unit = 1000; break;
    case 'M': unit = 1000000; break;
    case 'G': unit = 1000000000; break;
    default: break;
    }
    if (unit > 1)
        digits[len - 1] = 0;
    if (!parse_number(digits, INT64_MAX / 1000000000, n) || !*n)
        return false;
    *n *= unit;
    return true;
}

void cli_usage(void)
{
    fputs("usage: ringer run --kernel FILE [options]    run a guest\n"
          "       ringer compare GUEST [options]       run a guest under all usable engines and compare\n"
          "       ringer engines                       list the engines and whether they work here\n"
          "       ringer probe [--json | --html FILE]  what privileged and sensitive instructions do on this CPU at CPL 3\n"
          "       ringer classify [options] FILE...    count an image's instructions by their Popek-Goldberg class\n"
          "           [--sites N|all] [--json] [--sweep] [--mode 16|32|64 --base ADDR]\n"
          "       ringer --help | --version\n"
          "\n"
          "Guest:\n"
          "  --kernel FILE          Linux bzImage, PVH ELF, Multiboot image or flat real-mode image\n"
          "  --initrd FILE          initial RAM disk or boot module (repeatable)\n"
          "  --append STRING        kernel command line\n"
          "  --format KIND          auto, linux, pvh, multiboot or flat (default auto)\n"
          "  --load ADDR[:ENTRY]    flat image: load address and entry (default 0x7c00)\n"
          "Machine:\n"
          "  --memory SIZE          guest RAM, e.g. 512M or 2G (default 512M)\n"
          "  --cpus N               virtual CPUs (default 1)\n"
          "  --disk FILE[,ro]       virtio block device on a raw image (repeatable)\n"
          "  --console KIND         the terminal is serial (ttyS0, default), virtio (hvc0) or none\n"
          "  --stdin-eof ACTION     at end of input: ignore, or send ctrl-d (default: ctrl-d for pipes and files)\n"
          "  --hpet                 add a high-precision event timer\n"
          "  --debugcon FILE        write the debug console (port 0xe9) to FILE, not to standard output\n"
          "  --isa-debug-exit[=PORT] add the exit device of test guests (default port 0xf4)\n"
          "  --hypercalls           add the hypercall interface, for guests adapted to it\n"
          "  --pc-testdev           add the test device of test guests\n"
          "  --no-reboot            end on guest reset and triple fault\n"
          "Running:\n"
          "  --engine NAME          auto, or one of `ringer engines` (default auto)\n"
          "  --no-sandbox           do not confine the process; for debugging only\n"
          "  --verify[=N]           run the interpreter beside the engine and stop where they differ; N: end after N instructions (30M)\n"
          "  --patch=lazy           engine trap: replace sensitive instructions before they run\n"
          "  --direct WHEN          patched code: auto (where it pays; default) or always\n"
          "  --report-sensitive     engine trap: tell what unprivileged sensitive instructions did\n"
          "  --user-code HOW        engine translate: auto (default), translated or direct\n"
          "  --cpu-limit PERCENT    take no more CPU time than this share of one core, whatever the engine\n"
          "  --irqchip KIND         engine kvm's interrupt controllers: kernel (default), split or user\n"
          "  --stats[=json]         print statistics at the end, and on SIGUSR1\n"
          "  --stats-file FILE      write them to FILE, not to standard error\n"
          "  --trace FILE           write a trace to FILE\n"
          "  --trace-what LIST      exits,exceptions,io,insns (default exits,exceptions,io)\n"
          "  --report FILE.html     write a page about the run: time, instructions, exits, devices, hottest sites\n"
          "  --symbols FILE         System.map or vmlinux: names for addresses in statistics and page\n"
          "Comparing:\n"
          "  --all-engines          also engines that auto never chooses\n"
          "  --json                 print the comparison as JSON\n"
          "  --timeout SECONDS      end an engine's run after this time\n"
          "\n"
          "On the terminal, Ctrl-A x quits and Ctrl-A h shows the other keys.\n"
          "Exit status: 0 power-off or quit, 2 wrong usage, 4 error of ours, 6 reset and 8 triple fault (--no-reboot),\n"
          "10 guest panic, 12 --verify found a difference, (value << 1) | 1 from isa-debug-exit.\n"
          "compare: 0 all results equal, 1 results differ, 2 wrong usage, 4 error of ours.\n",
          stdout);
}

enum {
    O_KERNEL = 256, O_INITRD, O_APPEND, O_FORMAT, O_LOAD, O_MEMORY, O_CPUS, O_DISK, O_CONSOLE, O_EOF, O_HPET,
    O_DEBUGCON, O_DEBUG_EXIT, O_TESTDEV, O_HYPERCALLS, O_ON_TCG, O_NO_REBOOT, O_ENGINE, O_CPU_LIMIT, O_IRQCHIP, O_KVM_DEVICE, O_STATS, O_STATS_FILE, O_TRACE, O_TRACE_WHAT, O_PATCH, O_DIRECT, O_REPORT_SENSITIVE, O_USER_CODE, O_REPORT, O_SYMBOLS, O_VERIFY, O_NO_SANDBOX,
    O_HELP, O_ALL_ENGINES, O_JSON, O_TIMEOUT,
};

static const struct option run_opts[] = {
    {"kernel", required_argument, NULL, O_KERNEL},
    {"initrd", required_argument, NULL, O_INITRD},
    {"append", required_argument, NULL, O_APPEND},
    {"format", required_argument, NULL, O_FORMAT},
    {"load", required_argument, NULL, O_LOAD},
    {"memory", required_argument, NULL, O_MEMORY},
    {"cpus", required_argument, NULL, O_CPUS},
    {"disk", required_argument, NULL, O_DISK},
    {"console", required_argument, NULL, O_CONSOLE},
    {"stdin-eof", required_argument, NULL, O_EOF},
    {"hpet", no_argument, NULL, O_HPET},
    {"debugcon", required_argument, NULL, O_DEBUGCON},
    {"isa-debug-exit", optional_argument, NULL, O_DEBUG_EXIT},
    {"hypercalls", no_argument, NULL, O_HYPERCALLS},
    {"pc-testdev", no_argument, NULL, O_TESTDEV},
    {"on-tcg", no_argument, NULL, O_ON_TCG},
    {"no-reboot", no_argument, NULL, O_NO_REBOOT},
    {"engine", required_argument, NULL, O_ENGINE},
    {"cpu-limit", required_argument, NULL, O_CPU_LIMIT},
    {"irqchip", required_argument, NULL, O_IRQCHIP},
    {"kvm-device", required_argument, NULL, O_KVM_DEVICE},
    {"stats", optional_argument, NULL, O_STATS},
    {"stats-file", required_argument, NULL, O_STATS_FILE},
    {"trace", required_argument, NULL, O_TRACE},
    {"trace-what", required_argument, NULL, O_TRACE_WHAT},
    {"patch", required_argument, NULL, O_PATCH},
    {"direct", required_argument, NULL, O_DIRECT},
    {"report-sensitive", no_argument, NULL, O_REPORT_SENSITIVE},
    {"user-code", required_argument, NULL, O_USER_CODE},
    {"report", required_argument, NULL, O_REPORT},
    {"symbols", required_argument, NULL, O_SYMBOLS},
    {"no-sandbox", no_argument, NULL, O_NO_SANDBOX},
    {"verify", optional_argument, NULL, O_VERIFY},
    {"help", no_argument, NULL, O_HELP},
    /* compare */
    {"all-engines", no_argument, NULL, O_ALL_ENGINES},
    {"json", no_argument, NULL, O_JSON},
    {"timeout", required_argument, NULL, O_TIMEOUT},
    {NULL, 0, NULL, 0},
};

static bool pick(const char *s, const char *const names[], int *out)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(s, names[i])) {
            *out = i;
            return true;
        }
    return false;
}

static int parse_disk(struct run_options *o, char *arg)
{
    if (o->ndisk == MAX_DISKS) {
        cli_error("--disk: at most %d disks", MAX_DISKS);
        return -1;
    }
    struct disk_option *d = &o->disk[o->ndisk++];
    char *comma = strrchr(arg, ',');
    if (comma) {
        if (strcmp(comma + 1, "ro") && strcmp(comma + 1, "rw")) {
            cli_error("--disk: unknown flag '%s' (only 'ro' and 'rw' follow a comma)", comma + 1);
            return -1;
        }
        d->readonly = comma[1] == 'r' && comma[2] == 'o';
        *comma = 0;
    }
    d->path = arg;
    if (!*arg) {
        cli_error("--disk: no file named");
        return -1;
    }
    return 0;
}

/* With the 64-bit PCI window behind it, within the processor's 40 address bits (board/pc.c). */
#define MAX_MEMORY (512ull << 30)

static int parse_trace_what(struct run_options *o, char *arg)
{
    static const char *const names[] = {"exits", "exceptions", "insns", "io", NULL};
    o->trace_what = 0;
    for (char *save = NULL, *w = strtok_r(arg, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        int i;
        if (!pick(w, names, &i)) {
            cli_error("--trace-what: unknown word '%s' (exits, exceptions, io, insns)", w);
            return -1;
        }
        o->trace_what |= 1u << i;
    }
    if (!o->trace_what) {
        cli_error("--trace-what: nothing named (exits, exceptions, io, insns)");
        return -1;
    }
    return 0;
}

static int parse_load(struct run_options *o, char *arg)
{
    uint64_t a, e;
    char *colon = strchr(arg, ':');
    if (colon)
        *colon++ = 0;
    if (!parse_number(arg, UINT32_MAX, &a) || (colon && !parse_number(colon, 0xfffff, &e)) || (!colon && a > 0xfffff)) {
        cli_error("--load: expected ADDR[:ENTRY], the entry below 1 MiB");
        return -1;
    }
    o->load_at = true;
    o->load_addr = (uint32_t)a;
    o->entry = colon ? (uint32_t)e : (uint32_t)a;
    return 0;
}

static int set_option(struct run_options *o, int opt, char *arg)
{
    static const char *const formats[] = {"auto", "linux", "pvh", "multiboot", "flat", NULL};
    static const char *const consoles[] = {"serial", "virtio", "none", NULL};
    static const char *const irqchips[] = {"kernel", "split", "user", NULL};
    static const char *const eofs[] = {"auto", "ignore", "ctrl-d", NULL};
    uint64_t n;
    int i;
    switch (opt) {
    case O_KERNEL: o->kernel = arg; return 0;
    case O_INITRD:
        if (o->ninitrd == MAX_INITRDS) {
            cli_error("--initrd: at most %d files", MAX_INITRDS);
            return -1;
        }
        o->initrd[o->ninitrd++] = arg;
        return 0;
    case O_APPEND: o->append = arg; return 0;
    case O_FORMAT:
        if (!pick(arg, formats, &i)) {
            cli_error("--format: '%s' is none of auto, linux, pvh, multiboot, flat", arg);
            return -1;
        }
        o->format = (enum boot_kind)i;
        return 0;
    case O_LOAD: return parse_load(o, arg);
    case O_MEMORY:
        if (!cli_parse_size(arg, &n) || n < (1u << 20) || n > MAX_MEMORY || n % 4096) {
            cli_error("--memory: '%s' is no size between 1M and 512G (whole pages)", arg);
            return -1;
        }
        o->memory = n;
        return 0;
    case O_CPUS:
        if (!parse_number(arg, VM_MAX_CPUS, &n) || n < 1) {
            cli_error("--cpus: '%s' is no number from 1 to %d", arg, VM_MAX_CPUS);
            return -1;
        }
        o->cpus = (unsigned)n;
        return 0;
    case O_DISK: return parse_disk(o, arg);
    case O_CONSOLE:
        if (!pick(arg, consoles, &i)) {
            cli_error("--console: '%s' is none of serial, virtio, none", arg);
            return -1;
        }
        o->console = (enum console_kind)i;
        return 0;
    case O_EOF:
        if (!pick(arg, eofs, &i)) {
            cli_error("--stdin-eof: '%s' is none of auto, ignore, ctrl-d", arg);
            return -1;
        }
        o->eof = (enum eof_kind)i;
        return 0;
    case O_HPET: o->hpet = true; return 0;
    case O_DEBUGCON: o->debugcon = arg; return 0;
    case O_DEBUG_EXIT:
        n = 0xf4;
        if (arg && (!parse_number(arg, 0xfffc, &n) || n == 0)) {
            cli_error("--isa-debug-exit: '%s' is no port", arg);
            return -1;
        }
        o->debug_exit_port = (uint16_t)n;
        return 0;
    case O_HYPERCALLS: o->hypercalls = true; return 0;
    case O_TESTDEV: o->pc_testdev = true; return 0;
    case O_ON_TCG: o->on_tcg = true; return 0;
    case O_NO_REBOOT: o->no_reboot = true; return 0;
    case O_ENGINE: o->engine = arg; return 0;
    case O_CPU_LIMIT:
        if (!parse_number(arg, 100 * VM_MAX_CPUS, &n) || n < 1) {
            cli_error("--cpu-limit: '%s' is no percentage from 1 to %d", arg, 100 * VM_MAX_CPUS);
            return -1;
        }
        o->cpu_limit = (unsigned)n;
        return 0;
    case O_IRQCHIP:
        if (!pick(arg, irqchips, &i)) {
            cli_error("--irqchip: '%s' is none of kernel, split, user", arg);
            return -1;
        }
        o->engine_cfg.irqchip = (enum engine_irqchip)(IRQCHIP_KERNEL + i);
        return 0;
    case O_KVM_DEVICE: o->engine_cfg.kvm_device = arg; return 0;
    case O_STATS:
        if (arg && strcmp(arg, "json") && strcmp(arg, "text")) {
            cli_error("--stats: '%s' is neither text nor json", arg);
            return -1;
        }
        o->stats = arg && !strcmp(arg, "json") ? STATS_JSON : STATS_TEXT;
        return 0;
    case O_STATS_FILE: o->stats_file = arg; return 0;
    case O_TRACE: o->trace_file = arg; return 0;
    case O_TRACE_WHAT: return parse_trace_what(o, arg);
    case O_PATCH:
        if (strcmp(arg, "lazy")) {
            cli_error("--patch: '%s' is not lazy; to replace at load, use --engine patch", arg);
            return -1;
        }
        o->engine_cfg.patch_lazy = true;
        return 0;
    case O_USER_CODE:
        if (!strcmp(arg, "auto"))
            o->engine_cfg.user_code = USER_CODE_AUTO;
        else if (!strcmp(arg, "translated"))
            o->engine_cfg.user_code = USER_CODE_TRANSLATED;
        else if (!strcmp(arg, "direct"))
            o->engine_cfg.user_code = USER_CODE_DIRECT;
        else {
            cli_error("--user-code: '%s' is none of auto, translated, direct", arg);
            return -1;
        }
        return 0;
    case O_DIRECT:
        if (strcmp(arg, "auto") && strcmp(arg, "always")) {
            cli_error("--direct: '%s' is neither auto nor always", arg);
            return -1;
        }
        o->engine_cfg.always_direct = !strcmp(arg, "always");
        return 0;
    case O_REPORT_SENSITIVE: o->engine_cfg.report_sensitive = true; return 0;
    case O_REPORT: o->report = arg; return 0;
    case O_SYMBOLS: o->symbols = arg; return 0;
    case O_NO_SANDBOX: o->no_sandbox = true; return 0;
    case O_VERIFY:
        if (arg && !parse_insns(arg, &o->verify_insns)) {
            cli_error("--verify: '%s' is no number of instructions", arg);
            return -1;
        }
        o->verify = true;
        return 0;
    case 'h':
    case O_HELP: cli_usage(); return 1;
    default: return -1;
    }
}

static int set_compare(struct compare_options *c, int opt, const char *arg)
{
    uint64_t n;
    switch (opt) {
    case O_ALL_ENGINES: c->all_engines = true; return 0;
    case O_JSON: c->json = true; return 0;
    default:
        if (!parse_number(arg, 1000000, &n) || n < 1) {
            cli_error("--timeout: '%s' is no number of seconds", arg);
            return -1;
        }
        c->timeout = (unsigned)n;
        return 0;
    }
}

/* guest: of compare, named before the options. */
static int parse(int argc, char **argv, struct run_options *o, struct compare_options *cmp, const char *guest)
{
    *o = (struct run_options){.memory = 512u << 20,
                              .cpus = 1,
                              .engine = "auto",
                              .append = "",
                              .trace_what = TRACE_EXITS | TRACE_EXCEPTIONS | TRACE_IO};
    o->kernel = guest;
    opterr = 0;
    optind = 1;
    for (;;) {
        int at = optind, c = getopt_long(argc, argv, "+:h", run_opts, NULL);
        if (c == -1)
            break;
        if (c == '?' || c == ':') {
            const char *word = argv[at < argc ? at : argc - 1];
            cli_error(c == ':' ? "option %s needs an argument" : "option %s is unknown or takes no argument; see ringer --help", word);
            return -1;
        }
        if (c > O_HELP && !cmp) {
            cli_error("option %s is of ringer compare", argv[at]);
            return -1;
        }
        int r = c > O_HELP ? set_compare(cmp, c, optarg) : set_option(o, c, optarg);
        if (r)
            return r;
    }
    if (cmp && optind < argc && !o->kernel)
        o->kernel = argv[optind++];
    if (optind < argc) {
        cli_error("unexpected argument '%s'; see ringer --help", argv[optind]);
        return -1;
    }
    if (!o->kernel) {
        cli_error("%s; see ringer --help", cmp ? "compare: no guest given" : "run: no --kernel given");
        return -1;
    }
    if (o->stats_file && o->stats == STATS_OFF)
        o->stats = STATS_TEXT;
    const char *not = o->trace_file ? "--trace" : o->report ? "--report" : o->symbols ? "--symbols" : o->data_fd ? "the data" : o->console == CONSOLE_VIRTIO ? "--console virtio" : NULL;
    if (o->verify && (o->cpus != 1 || not)) {
        cli_error(not ? "--verify: not together with %s" : "--verify: needs one CPU", not);
        return -1;
    }
    if (o->symbols && !o->report && o->stats == STATS_OFF) {
        cli_error("--symbols: names are for --stats and the page of --report");
        return -1;
    }
    return 0;
}

int cli_parse_run(int argc, char **argv, struct run_options *o)
{
    return parse(argc, argv, o, NULL, NULL);
}

int cli_parse_compare(int argc, char **argv, struct run_options *o, struct compare_options *c)
{
    *c = (struct compare_options){0};
    char *guest = argc > 1 && argv[1][0] != '-' ? argv[1] : NULL;
    if (guest) { /* before the options */
        argv[1] = argv[0];
        argc--;
        argv++;
    }
    int r = parse(argc, argv, o, c, guest);
    if (r)
        return r;
    const char *no = o->stats != STATS_OFF ? "--stats" : o->trace_file ? "--trace" : o->debugcon ? "--debugcon" : o->symbols ? "--symbols" : NULL;
    if (no) {
        cli_error("compare: %s is for ringer run", no);
        return -1;
    }
    for (unsigned i = 0; i < o->ndisk; i++)
        if (!o->disk[i].readonly) {
            cli_error("compare: disk %s: add ',ro'; an engine must not find what another one wrote", o->disk[i].path);
            return -1;
        }
    return 0;
}
