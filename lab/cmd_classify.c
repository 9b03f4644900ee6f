/* `ringer classify`. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "boot/elf.h"
#include "boot/loader.h"
#include "cli/cli.h"
#include "lab/classify_out.h"
#include "lab/disasm.h"
#include "ringer/host.h"

#define MAX_FILE (1ull << 30)
#define SITES_SHOWN 20

static void usage(void)
{
    fputs("usage: ringer classify [options] FILE...\n"
          "Count the instructions of ELF files, kernel modules, Linux bzImages and flat images by their Popek-Goldberg "
          "class.\n"
          "  --sites N|all     list so many of the sensitive but unprivileged instructions (default 20)\n"
          "  --mode 16|32|64   the files are flat images of such code\n"
          "  --base ADDR       a flat image's first address (default 0)\n"
          "  --sweep           decode all executable bytes, also where no function is known\n"
          "  --json            the report as JSON, one array\n",
          stdout);
}

struct request {
    struct lab_options o;
    uint64_t sites;
    bool json, sweep, based;
};

/* How a machine would start the image; the loaders of `ringer run` decide. */
static const char *boots(const struct lab_image *im, const struct request *q, const uint8_t *file, size_t len)
{
    struct elf_image elf;
    size_t header;
    if (q->o.flat)
        return q->o.mode == X86_MODE_16 ? "boots as a flat image" : "flat images boot in 16-bit mode only";
    if (lab_is_bzimage(file, len))
        return "boots through Linux's boot protocol";
    if (multiboot_probe(file, len, &header))
        return "boots through Multiboot";
    if (elf_probe(file, len) && !elf_parse(file, len, &elf) && elf.has_pvh)
        return "boots through PVH";
    return im->module ? "a module, loaded by a guest's kernel"
                      : "no boot header: runs inside a guest, or linked into a kernel";
}

static int one(const char *path, const struct request *q, struct json_object *all)
{
    uint8_t *file = NULL;
    size_t len = 0;
    char err[200];
    struct lab_image im;
    struct lab_classified c;
    int e = host_file_slurp(path, MAX_FILE, &file, &len), status = STATUS_OK;
    if (e)
        return cli_error("classify: %s: %s", path, strerror(-e));
    if (lab_image_open(&im, file, len, &q->o, err, sizeof(err))) {
        free(file);
        return cli_error("classify: %s: %s", path, err);
    }
    if (lab_classify(&im, q->sweep, &c)) {
        cli_error("classify: %s: out of memory", path);
        status = STATUS_ERROR;
    } else {
        struct lab_classify_report r = {path, &im, &c, boots(&im, q, file, len), q->sites};
        if (all)
            json_object_array_add(all, lab_classify_json(&r));
        else
            lab_classify_print(&r, stdout);
        lab_classified_free(&c);
    }
    lab_image_close(&im);
    free(file);
    return status;
}

static bool number(const char *s, uint64_t *v)
{
    char *end;
    errno = 0;
    *v = strtoull(s, &end, 0);
    return isdigit((unsigned char)*s) && !*end && !errno;
}

/* 0; 1 when help was printed; -1 after an error. */
static int parse(int argc, char **argv, struct request *q)
{
    enum { O_SITES = 256, O_MODE, O_BASE, O_SWEEP, O_JSON, O_HELP };
    static const struct option opts[] = {{"sites", required_argument, NULL, O_SITES},
                                         {"mode", required_argument, NULL, O_MODE},
                                         {"base", required_argument, NULL, O_BASE},
                                         {"sweep", no_argument, NULL, O_SWEEP},
                                         {"json", no_argument, NULL, O_JSON},
                                         {"help", no_argument, NULL, O_HELP},
                                         {0}};
    int c;
    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, ":", opts, NULL)) != -1) {
        switch (c) {
        case O_SITES:
            q->sites = UINT64_MAX;
            if (strcmp(optarg, "all") && !number(optarg, &q->sites))
                return cli_error("classify: --sites: '%s' is neither a number nor 'all'", optarg), -1;
            break;
        case O_MODE:
            q->o.flat = true;
            if (strcmp(optarg, "16") && strcmp(optarg, "32") && strcmp(optarg, "64"))
                return cli_error("classify: --mode: '%s' is not 16, 32 or 64", optarg), -1;
            q->o.mode = *optarg == '1' ? X86_MODE_16 : *optarg == '3' ? X86_MODE_32 : X86_MODE_64;
            break;
        case O_BASE:
            q->based = true;
            if (!number(optarg, &q->o.base))
                return cli_error("classify: --base: '%s' is not an address", optarg), -1;
            break;
        case O_SWEEP: q->sweep = true; break;
        case O_JSON: q->json = true; break;
        case O_HELP: usage(); return 1;
        case ':': return cli_error("classify: option '%s' needs an argument", argv[optind - 1]), -1;
        default: return cli_error("classify: unknown option '%s'; see ringer classify --help", argv[optind - 1]), -1;
        }
    }
    if (q->based && !q->o.flat)
        return cli_error("classify: --base needs --mode"), -1;
    if (q->o.flat && q->o.mode != X86_MODE_64 && q->o.base > UINT32_MAX)
        return cli_error("classify: --base: a 16- or 32-bit image lies below 4 GiB"), -1;
    if (optind == argc)
        return cli_error("classify: no file named; see ringer classify --help"), -1;
    return 0;
}

int cli_classify(int argc, char **argv)
{
    struct request q = {.sites = SITES_SHOWN};
    int status = STATUS_OK, r = parse(argc, argv, &q);
    if (r)
        return r < 0 ? STATUS_USAGE : STATUS_OK;
    if (!disasm_complete) { /* what the table has not would be counted as data */
        cli_error("classify: this program is built without a disassembler (STATIC=1)");
        return STATUS_USAGE;
    }
    struct json_object *all = q.json ? json_object_new_array() : NULL;
    for (int i = optind; i < argc; i++) {
        if (i > optind && !q.json)
            putchar('\n');
        int s = one(argv[i], &q, all);
        if (s)
            status = s;
    }
    if (all) {
        puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
        json_object_put(all);
    }
    if (fflush(stdout) || ferror(stdout)) {
        cli_error("classify: standard output: %s", strerror(errno));
        return STATUS_ERROR;
    }
    return status;
}
