#include <string.h>

#include "lab/engines.h"

bool lab_engine_usable(const struct engine_ops *e, char *why, size_t cap)
{
    struct engine_config cfg = {0};
    char unused[200];
    return !e->probe || e->probe(&cfg, why ? why : unused, why ? cap : sizeof(unused)) == 0;
}

const char *lab_engine_remedy(const struct engine_ops *e)
{
    if (e->caps & ENGINE_CAP_HARDWARE)
        return "executed in hardware guest mode on the guest's own state; what the hypervisor asked for exits to it";
    if (!strcmp(e->name, "interp"))
        return "interpreted on the guest's own state, like every other instruction";
    return e->summary;
}
