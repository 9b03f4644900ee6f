/* ringer: the command line's entry. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "ringer/host.h"

int main(int argc, char **argv)
{
    host_memory_init();
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away is an error of write, not our death */
    if (argc < 2)
        return cli_error("no command given; see ringer --help");
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        cli_usage();
        return STATUS_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        puts("ringer " RINGER_VERSION);
        return STATUS_OK;
    }
    if (!strcmp(argv[1], "run")) {
        struct run_options o;
        int r = cli_parse_run(argc - 1, argv + 1, &o);
        if (r)
            return r < 0 ? STATUS_USAGE : STATUS_OK;
        for (int fd = 3; fd < MAX_INHERITED; fd++)
            if (fcntl(fd, F_GETFD) >= 0)
                o.inherited[fd / 64] |= 1ull << (fd % 64);
        return cli_run(&o);
    }
    if (!strcmp(argv[1], "engines")) {
        struct engine_config cfg = {0};
        if (argc == 4 && !strcmp(argv[2], "--kvm-device"))
            cfg.kvm_device = argv[3];
        else if (argc > 2)
            return cli_error("engines: unexpected argument '%s'", argv[2]);
        return cli_engines(&cfg);
    }
    if (!strcmp(argv[1], "compare"))
        return cli_compare(argc - 1, argv + 1);
    if (!strcmp(argv[1], "probe"))
        return cli_probe(argc - 1, argv + 1);
    if (!strcmp(argv[1], "classify"))
        return cli_classify(argc - 1, argv + 1);
    return cli_error("unknown command '%s'; see ringer --help", argv[1]);
}
