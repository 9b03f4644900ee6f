/* `ringer probe`. */
#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "cli/cli.h"
#include "lab/probe.h"

static void usage(void)
{
    fputs("usage: ringer probe [--json | --html FILE]\n"
          "Execute every privileged and sensitive instruction at CPL 3 and set what happens beside its class.\n"
          "  --json        the report as JSON\n"
          "  --html FILE   the report as one self-contained page\n",
          stdout);
}

static int write_html(const struct probe_report *rep, const char *path)
{
    FILE *f = fopen(path, "w");
    if (!f)
        return cli_error("probe: %s: %s", path, strerror(errno));
    probe_print_html(rep, f);
    bool bad = ferror(f);
    if (fclose(f) || bad) {
        cli_error("probe: %s: %s", path, strerror(errno));
        return STATUS_ERROR;
    }
    return STATUS_OK;
}

int cli_probe(int argc, char **argv)
{
    static const struct option opts[] = {{"json", no_argument, NULL, 'j'},
                                         {"html", required_argument, NULL, 'h'},
                                         {"help", no_argument, NULL, '?' + 128},
                                         {0}};
    const char *html = NULL;
    bool json = false;
    int c;
    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, ":", opts, NULL)) != -1) {
        switch (c) {
        case 'j': json = true; break;
        case 'h': html = optarg; break;
        case '?' + 128: usage(); return STATUS_OK;
        case ':': return cli_error("probe: option '%s' needs an argument", argv[optind - 1]);
        default: return cli_error("probe: unknown option '%s'; see ringer probe --help", argv[optind - 1]);
        }
    }
    if (optind < argc)
        return cli_error("probe: unexpected argument '%s'", argv[optind]);
    if (json && html)
        return cli_error("probe: --json and --html exclude each other");
    struct probe_report rep;
    int e = probe_all(&rep), status = STATUS_OK;
    if (e) {
        probe_free(&rep);
        cli_error("probe: %s", strerror(-e));
        return STATUS_ERROR;
    }
    if (html)
        status = write_html(&rep, html);
    else if (json)
        probe_print_json(&rep, stdout);
    else
        probe_print(&rep, stdout);
    probe_free(&rep);
    if (fflush(stdout) || ferror(stdout)) {
        cli_error("probe: standard output: %s", strerror(errno));
        return STATUS_ERROR;
    }
    return status;
}
