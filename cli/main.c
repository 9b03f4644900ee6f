/* ringer: the command line's entry. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("ringer 0.1");
        return 0;
    }
    fputs("ringer: no command given; try 'ringer --help'\n", stderr);
    return 2;
}
