/* The engines built into this binary, highest rank first. */
#include "ringer/engine.h"

const struct engine_ops *const ringer_engines[] = {
    &engine_kvm,
    &engine_translate,
    &engine_interp,
    &engine_patch,
    &engine_trap,
    NULL,
};
