/* Judging what the probe saw. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>

#include "engine/kvm/kvm_text.h"
#include "engine/kvm/probe.h"

static const char *const steps[PROBE_NSTEPS] = {
    [PROBE_OPEN] = "open",
    [PROBE_API] = "KVM_GET_API_VERSION",
    [PROBE_CAPS] = "KVM_CHECK_EXTENSION",
    [PROBE_CREATE_VM] = "KVM_CREATE_VM",
    [PROBE_TSS] = "KVM_SET_TSS_ADDR",
    [PROBE_CREATE_VCPU] = "KVM_CREATE_VCPU",
    [PROBE_MEMORY] = "KVM_SET_USER_MEMORY_REGION",
    [PROBE_CPUID] = "KVM_SET_CPUID2",
    [PROBE_STATE] = "KVM_SET_SREGS",
    [PROBE_RUN] = "KVM_RUN",
};

/* What the guest was doing when it had passed a stage. */
static const char *const doing[] = {
    [PROBE_NONE] = "real mode",
    [PROBE_REAL] = "entering protected mode",
    [PROBE_PROT] = "entering long mode",
    [PROBE_LONG] = "an SSE instruction",
    [PROBE_SSE] = "a page fault",
    [PROBE_FAULT] = "port output",
    [PROBE_LOOP_BEGIN] = "a loop",
    [PROBE_LOOP_END] = "port output",
    [PROBE_DONE] = "the end",
};

static int refuse(char *reason, size_t cap, const char *device, const char *why)
{
    snprintf(reason, cap, "%s %s", device, why);
    return -1;
}

static int open_failed(const struct probe_result *r, const char *device, char *reason, size_t cap)
{
    char text[160];
    switch (r->error) {
    case ENOENT:
        return refuse(reason, cap, device, "does not exist: no hardware virtualization, or its driver is not loaded");
    case EACCES:
    case EPERM: return refuse(reason, cap, device, "may not be opened: permission denied (is the user in group kvm?)");
    case ENODEV:
    case ENXIO: return refuse(reason, cap, device, "has no driver behind it");
    default:
        snprintf(text, sizeof(text), "cannot be opened: %s", strerror(r->error));
        return refuse(reason, cap, device, text);
    }
}

static int too_slow(const struct probe_result *r, const char *device, char *reason, size_t cap)
{
    char text[160];
    double native = (double)r->native_ns;
    if (r->killed)
        snprintf(text, sizeof(text), "only emulates: a loop that takes %.1f ms natively did not end in %d ms",
                 native / 1e6, PROBE_LIMIT_MS);
    else
        snprintf(text, sizeof(text), "only emulates: a loop is %.0f times slower than natively (%.1f ms, not %.2f)",
                 (double)r->guest_ns / native, (double)r->guest_ns / 1e6, native / 1e6);
    return refuse(reason, cap, device, text);
}

int kvm_verdict(const struct probe_result *r, const char *device, char *reason, size_t cap)
{
    char text[200];
    int step = r->step >= 0 && r->step < PROBE_NSTEPS ? r->step : PROBE_RUN;
    int stage = r->stage >= PROBE_NONE && r->stage <= PROBE_DONE ? r->stage : PROBE_NONE;
    if (step == PROBE_OPEN && r->error)
        return open_failed(r, device, reason, cap);
    if (step == PROBE_API && r->error == ENOTTY)
        return refuse(reason, cap, device, "is no KVM device");
    if (step == PROBE_API && !r->error && r->api != KVM_API_VERSION) {
        snprintf(text, sizeof(text), "speaks version %d of KVM's interface, not %d", r->api, KVM_API_VERSION);
        return refuse(reason, cap, device, text);
    }
    if (r->missing) {
        snprintf(text, sizeof(text), "is too old: it lacks %s", r->missing);
        return refuse(reason, cap, device, text);
    }
    if (r->error) {
        snprintf(text, sizeof(text), "fails: %s: %s", steps[step], strerror(r->error));
        return refuse(reason, cap, device, text);
    }
    if (r->killed && stage == PROBE_LOOP_BEGIN && r->native_ns)
        return too_slow(r, device, reason, cap);
    if (r->killed && stage != PROBE_DONE) {
        if (step < PROBE_RUN)
            snprintf(text, sizeof(text), "hangs in %s", steps[step]);
        else
            snprintf(text, sizeof(text),
                     "only emulates, or hangs: a guest of a few instructions did not get past %s in %d ms",
                     doing[stage], PROBE_LIMIT_MS);
        return refuse(reason, cap, device, text);
    }
    if (stage != PROBE_DONE) {
        char what[120];
        kvm_exit_text(r->exit_reason, r->detail, what, sizeof(what));
        bool emulation = r->exit_reason == KVM_EXIT_INTERNAL_ERROR && r->detail == KVM_INTERNAL_ERROR_EMULATION;
        snprintf(text, sizeof(text), "%s: %s at %s", emulation ? "only emulates" : "cannot run a small guest", what,
                 doing[stage]);
        return refuse(reason, cap, device, text);
    }
    if (r->sse != PROBE_SSE_RESULT)
        return refuse(reason, cap, device, "computes wrongly: an SSE instruction's result is not right");
    if (r->fault_addr != PROBE_FAULT_ADDR || r->fault_error != PROBE_FAULT_ERROR)
        return refuse(reason, cap, device, "is inexact: a page fault's address or error code is not right");
    if (!r->native_ns || !r->guest_ns || r->guest_ns / PROBE_MAX_RATIO >= r->native_ns)
        return r->native_ns ? too_slow(r, device, reason, cap) : refuse(reason, cap, device, "could not be measured");
    return 0;
}
