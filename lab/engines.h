/* What the lab says of the engines built in. */
#ifndef LAB_ENGINES_H
#define LAB_ENGINES_H

#include "ringer/engine.h"

/* Does it work on this host, with its usual settings? why (may be NULL) gets the reason if not. */
bool lab_engine_usable(const struct engine_ops *e, char *why, size_t cap);
/* What it does about an instruction that is sensitive and does not trap. */
const char *lab_engine_remedy(const struct engine_ops *e);

#endif
