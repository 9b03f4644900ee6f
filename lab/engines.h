/* What the lab says of the engines built in. */
#ifndef LAB_ENGINES_H
#define LAB_ENGINES_H

#include "ringer/engine.h"

/* Does it work on this host, with its usual settings? why (may be NULL) gets the reason if not. */
bool lab_engine_usable(const struct engine_ops *e, char *why, size_t cap);
/* Does its own way of running code (not a fallback) fit a kernel's code of this mode (enum x86_mode_bits) at this address? The engine's
 * rules decide. */
bool lab_engine_fits(const struct engine_ops *e, unsigned mode, uint64_t at);
/* What it does about an instruction that is sensitive and does not trap; op: enum x86_op, X86_OP_INVALID for any such.
 */
const char *lab_engine_remedy(const struct engine_ops *e, unsigned op);

#endif
