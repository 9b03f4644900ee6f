/* ringer classify's report. */
#ifndef LAB_CLASSIFY_OUT_H
#define LAB_CLASSIFY_OUT_H

#include <json-c/json.h>
#include <stdio.h>

#include "lab/classify.h"

struct lab_classify_report {
    const char *file;
    const struct lab_image *im;
    const struct lab_classified *c;
    const char *boots; /* how a machine could start it, or why not */
    uint64_t sites;    /* at most so many are listed */
};
void lab_classify_print(const struct lab_classify_report *r, FILE *f);
struct json_object *lab_classify_json(const struct lab_classify_report *r);

#endif
