/* Names of a guest's code, for reports. */
#ifndef CLI_SYMBOLS_H
#define CLI_SYMBOLS_H

#include <stddef.h>
#include <stdint.h>

struct symbols;
/* A System.map, or an image with symbols (vmlinux, bzImage, ELF). NULL with one line in err. */
struct symbols *symbols_open(const char *path, char *err, size_t cap);
void symbols_free(struct symbols *s);
size_t symbols_count(const struct symbols *s);
/* Address of the symbol of this name; 0 if there is none. */
uint64_t symbols_address(const struct symbols *s, const char *name);
/* "name+0x12" of the code at addr, or "" where no symbol is near. buf is always a string. */
void symbols_name(const struct symbols *s, uint64_t addr, char *buf, size_t cap);

#endif
