/* The random programs of test_interp_diff.c, translated, against the interpreter one instruction at a time. */
#define IM_ENGINE engine_translate
#include "tests/unit/test_interp_diff.c"
