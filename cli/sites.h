/* Hottest sites: where a guest's sensitive instructions were executed, or where the engine had to step in. */
#ifndef CLI_SITES_H
#define CLI_SITES_H

#include <json-c/json.h>

#include "cli/symbols.h"
#include "ringer/vm.h"

/* Of a complete machine, before vm_start: keep tables of sites; traps as in struct x86_sites. 0, or -1 when out of memory. */
int sites_keep(struct vm *vm, bool traps);
void sites_drop(struct vm *vm);
/* Are there any? */
bool sites_kept(const struct vm *vm);

/* How far from where it was linked the guest's kernel is, by its system call entry (IA32_LSTAR) and the symbol of that name: KASLR moves
 * by whole 2 MiB. SITES_FOREIGN: the symbols are another kernel's; SITES_UNKNOWN: cannot be told (no such symbol, or not 64-bit Linux). */
enum sites_slide { SITES_FOUND, SITES_UNKNOWN, SITES_FOREIGN };
enum sites_slide sites_slide(const struct vm *vm, const struct symbols *sym, uint64_t *slide);

/* The hottest `top` sites as an array, and figures about them (sites_seen, sites_dropped; with symbols: symbols, symbols_match, kernel_slide) in
 * data. sym may be NULL. */
struct json_object *sites_json(struct vm *vm, const struct symbols *sym, unsigned top, struct json_object *data);
/* The same as lines of text. */
void sites_print(struct vm *vm, const struct symbols *sym, unsigned top, FILE *f);

#endif
