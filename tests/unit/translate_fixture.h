/* For tests of engine translate that run on either kind of its checks (struct translate.one), whatever the host prefers. */
#ifndef TESTS_TRANSLATE_FIXTURE_H
#define TESTS_TRANSLATE_FIXTURE_H

#include "engine/translate/translate.h"
#include "tests/unit/interp_fixture.h"

static inline void im_checks(struct im *m, int one)
{
    struct translate *x = translate_of(m->v);

    tr_flush(x);
    tr_cache_fini(x);
    assert_int_equal(tr_cache_init(x, one), 0);
}

#endif
