/* What the forms of ringer probe's report share. */
#ifndef LAB_PROBE_OUT_H
#define LAB_PROBE_OUT_H

#include "lab/probe.h"

enum probe_set {
    SET_P_TABLE,
    SET_C_TABLE,
    SET_B_TABLE,
    SET_S_TABLE,
    SET_OFFENDERS_TABLE,
    SET_P_FOUND,
    SET_ABSENT,
    SET_OFFENDERS_FOUND,
    SET_TRAPS_UNEXPECTED,
    SET_RUNS_UNEXPECTED,
    SET_COUNT,
};
struct probe_set_text {
    const char *key, *title;
};
extern const struct probe_set_text probe_sets[SET_COUNT];

bool probe_in(const struct probe_op *o, enum probe_set set);
unsigned probe_count(const struct probe_report *rep, enum probe_set set);
/* "push_seg" as "push seg". */
const char *probe_pretty(const char *name, char buf[24]);
/* n[0]: mnemonics of Robin and Irvine's list that were tried, n[1]: of these, how many did not trap in some form. */
void probe_robin_irvine(const struct probe_report *rep, unsigned n[2]);
const char *probe_facts(const struct probe_report *rep, char *buf, size_t cap);
void probe_verdict(const struct probe_report *rep, char *buf, size_t cap);

#endif
