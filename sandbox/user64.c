/* User worlds: making the process, handing over, its end. */
#include "ringer/host.h"
#include "sandbox/user64.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sandbox/awake.h"
#include "sandbox/spawn.h"
#include "sandbox/user64_proto.h"

/* The kernel's signal frame (struct rt_sigframe of arch/x86): return address, ucontext, siginfo. Stable, since programs see it. */
enum {
    F_R8, F_R9, F_R10, F_R11, F_R12, F_R13, F_R14, F_R15, F_RDI, F_RSI, F_RBP, F_RBX, F_RDX, F_RAX, F_RCX, F_RSP, F_RIP, F_EFL, F_CSGSFS,
    F_ERR, F_TRAPNO, F_OLDMASK, F_CR2, F_COUNT
};
enum { FL_NT = 1 << 14, FL_ID = 1 << 21 };
struct sigframe {
    uint64_t restorer; /* on the way in: flags for the handler to load */
    uint64_t flags, link, ss_sp, ss_flags, ss_size;
    uint64_t greg[F_COUNT];
    uint64_t fpstate, rsvd[8];
    uint64_t mask;
    int32_t signo, err, code, pad;
    uint64_t call_addr;
    int32_t syscall;
    uint32_t arch;
    uint8_t rest[128 - 32];
};
_Static_assert(offsetof(struct sigframe, greg) == 48 && offsetof(struct sigframe, mask) == 304, "signal frame");
static const uint8_t greg_of[16] = {F_RAX, F_RCX, F_RDX, F_RBX, F_RSP, F_RBP, F_RSI, F_RDI, F_R8, F_R9, F_R10, F_R11, F_R12, F_R13, F_R14, F_R15};

struct user64 {
    uint8_t *area; /* the world's from U64_CTL on */
    volatile uint32_t *note;
    pid_t pid;
    uint32_t seq, secret;
    struct awake awake;
    uint32_t patience, w_patience; /* in turns of waiting: ours, the world's */
    uint64_t base;
    bool shows_cpuid;
    unsigned nops;
    uint32_t fp_size; /* of the whole FP state in a frame */
    struct sigframe frame; /* as the first one was: what all others must say besides registers */
    uint8_t fp[U64_FRAME_SIZE - U64_FRAME_FP];
    char why[128];
    struct user64_op queue[U64_NOPS_MAX]; /* ours: the shared area is only written when it is handed over */
};

static struct user64_ctl *ctl_of(const struct user64 *w) { return (struct user64_ctl *)(void *)w->area; }
static uint8_t *area_of(const struct user64 *w, unsigned off) { return w->area + (off - U64_CTL); }

const char *user64_why(const struct user64 *w) { return w->why; }
bool user64_shows_cpuid(const struct user64 *w) { return w->shows_cpuid; }
unsigned user64_room(const struct user64 *w) { return U64_NOPS_MAX - w->nops; }

static long futex(volatile uint32_t *word, int op, uint32_t val, const struct timespec *t)
{
    return syscall(SYS_futex, word, op, val, t, NULL, 0);
}

/* --- the process -------------------------------------------------------------------------- */

/* Has it ended? */
static bool gone(struct user64 *w, enum user64_result *how)
{
    int st;
    const pid_t p = w->pid > 0 ? waitpid(w->pid, &st, WNOHANG) : -1;

    if (p == 0 || (p < 0 && errno == EINTR))
        return false;
    *how = USER64_GONE;
    if (p < 0) {
        snprintf(w->why, sizeof(w->why), "the sandboxed process is gone");
    } else if (WIFSIGNALED(st)) {
        snprintf(w->why, sizeof(w->why), "the sandboxed process was ended by signal %d (%s)", WTERMSIG(st), strsignal(WTERMSIG(st)));
        if (WTERMSIG(st) == SIGSEGV || WTERMSIG(st) == SIGSYS || WTERMSIG(st) == SIGILL || WTERMSIG(st) == SIGBUS || WTERMSIG(st) == SIGTRAP)
            *how = USER64_CRASHED; /* a signal frame the kernel could not use, and the like */
    } else {
        snprintf(w->why, sizeof(w->why), "the sandboxed process ended with status %d", WEXITSTATUS(st));
        *how = USER64_CRASHED;
    }
    host_child(w->pid, false);
    w->pid = -1;
    return true;
}

/* Wait until the world has noted request w->seq. */
static enum user64_result await(struct user64 *w)
{
    struct user64_ctl *c = ctl_of(w);
    enum user64_result how;

    for (uint32_t i = 0; i < w->patience; i++) {
        if (__atomic_load_n(w->note, __ATOMIC_ACQUIRE) == w->seq)
            return USER64_OK;
        awake_turn();
    }
    for (;;) {
        const struct timespec t = {.tv_nsec = 100000000};
        const uint32_t a = __atomic_load_n(w->note, __ATOMIC_ACQUIRE);

        if (a == w->seq)
            return USER64_OK;
        __atomic_store_n(&c->monitor_sleeps, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(w->note, __ATOMIC_SEQ_CST) == a)
            futex(w->note, FUTEX_WAIT, a, &t);
        __atomic_store_n(&c->monitor_sleeps, 0, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(w->note, __ATOMIC_ACQUIRE) != w->seq && gone(w, &how))
            return how;
    }
}

/* The frame the world reports: a copy, with its place checked. */
static bool read_frame(struct user64 *w, struct sigframe *f, const uint8_t **fp)
{
    const uint64_t alt = w->base + U64_ALT, at = __atomic_load_n(&ctl_of(w)->at, __ATOMIC_RELAXED) - alt;

    if (at > U64_ALT_SIZE - sizeof(*f) || at % 8)
        return false;
    memcpy(f, area_of(w, U64_ALT) + at, sizeof(*f));
    const uint64_t fat = f->fpstate - alt;
    if (fat > U64_ALT_SIZE - w->fp_size || fat % 64)
        return false;
    *fp = area_of(w, U64_ALT) + fat;
    return true;
}

/* What the first fault shows of the host's frames. */
static bool learn(struct user64 *w)
{
    const uint8_t *fp;
    uint32_t size;
    uint64_t features;

    w->fp_size = 576;
    if (!read_frame(w, &w->frame, &fp))
        return false;
    memcpy(&size, fp + 468, 4); /* struct _fpx_sw_bytes: magic1, extended_size, features, xstate_size */
    memcpy(&features, fp + 472, 8);
    if (size < USER64_FP_SIZE || size > sizeof(w->fp) || (uint64_t)(fp - area_of(w, U64_ALT)) + size > U64_ALT_SIZE || (features & 7) != 7)
        return false;
    w->fp_size = size;
    memcpy(w->fp, fp, size);
    memset(w->fp + 512, 0, 64); /* every component as at reset, unless the guest says else */
    return true;
}

void user64_patience(struct user64 *w, unsigned monitor_us, unsigned world_us)
{
    w->patience = w->awake.per_us * monitor_us;
    w->w_patience = w->awake.per_us * world_us;
    awake_apart(&w->awake, w->pid, w->patience | w->w_patience);
}

static uint64_t random_base(void)
{
    uint64_t r;

    /* Anywhere; what is taken already makes the world's own start fail. Not in the first part, which programs like most. */
    if (getrandom(&r, sizeof(r), 0) != sizeof(r))
        return 0;
    return 0x100000000000ull + (r % (0x7e0000000000ull - 0x100000000000ull) & ~0xfffull);
}

static struct user64 *start(int ram_fd, int copies_fd, char *reason, size_t cap)
{
    struct user64 *w = calloc(1, sizeof(*w));
    const int ctl_fd = memfd_create("ringer-user-ctl", MFD_CLOEXEC), note_fd = memfd_create("ringer-user-note", MFD_CLOEXEC);

    if (!w || ctl_fd < 0 || note_fd < 0 || ftruncate(ctl_fd, U64_SIZE - U64_CTL) != 0 || ftruncate(note_fd, 4096) != 0) {
        snprintf(reason, cap, "cannot make a memory file: %s", strerror(errno));
        goto fail;
    }
    w->area = mmap(NULL, U64_SIZE - U64_CTL, PROT_READ | PROT_WRITE, MAP_SHARED, ctl_fd, 0);
    void *note = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, note_fd, 0);
    if (w->area == MAP_FAILED || note == MAP_FAILED) {
        w->area = w->area == MAP_FAILED ? NULL : w->area;
        snprintf(reason, cap, "cannot map: %s", strerror(errno));
        goto fail;
    }
    w->note = note;
    *w->note = UINT32_MAX;
    awake_init(&w->awake);
    w->base = random_base();
    if (!w->base || getrandom(&w->secret, sizeof(w->secret), 0) != sizeof(w->secret)) {
        snprintf(reason, cap, "no random numbers");
        goto fail;
    }
    w->secret |= 1;
    *ctl_of(w) = (struct user64_ctl){.secret = (uint64_t)w->secret << 32, .spin = w->w_patience, .base = w->base, .parent = (uint32_t)getpid()};
    const int fds[] = {ram_fd, note_fd, copies_fd, ctl_fd};
    w->pid = spawn_image(user64_stub_image, (size_t)(user64_stub_image_end - user64_stub_image), "ringer-user", fds, 4);
    if (w->pid > 0)
        host_child(w->pid, true);
    if (w->pid < 0) {
        snprintf(reason, cap, "cannot make a process: %s", strerror(-w->pid));
        goto fail;
    }
    if (await(w) != USER64_OK) { /* its first note is for request 0 */
        snprintf(reason, cap, "%s", w->why);
        goto fail;
    }
    if (!learn(w)) {
        snprintf(reason, cap, "the host's signal frames are not as expected");
        goto fail;
    }
    w->shows_cpuid = !ctl_of(w)->no_cpuid;
    memset(ctl_of(w)->op, 0, sizeof(ctl_of(w)->op)); /* the filter was there, and the secret is in it */
    ctl_of(w)->secret = 0;
    close(ctl_fd);
    close(note_fd);
    return w;
fail:
    if (ctl_fd >= 0)
        close(ctl_fd);
    if (note_fd >= 0)
        close(note_fd);
    user64_free(w);
    return NULL;
}

struct user64 *user64_new(int ram_fd, int copies_fd, char *reason, size_t cap)
{
    struct user64 *w = NULL;

    for (unsigned i = 0; !w && i < 3; i++) /* the place may have been taken */
        w = start(ram_fd, copies_fd, reason, cap);
    return w;
}

void user64_free(struct user64 *w)
{
    if (!w)
        return;
    if (w->pid > 0) {
        kill(w->pid, SIGKILL);
        while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR)
            ;
        host_child(w->pid, false);
    }
    if (w->area)
        munmap(w->area, U64_SIZE - U64_CTL);
    if (w->note)
        munmap((void *)(uintptr_t)w->note, 4096);
    free(w);
}

/* --- changes -------------------------------------------------------------------------------- */

bool user64_collides(const struct user64 *w, uint64_t lin, uint64_t len) { return lin < w->base + U64_SIZE && lin + len > w->base; }

static bool queue(struct user64 *w, const struct user64_op *op)
{
    if (w->nops == U64_NOPS_MAX)
        return false;
    w->queue[w->nops++] = *op;
    return true;
}

bool user64_map(struct user64 *w, uint64_t lin, uint64_t len, uint64_t off, unsigned prot)
{
    const struct user64_op op = {SYS_mmap, {lin, len, prot & 7, MAP_SHARED | MAP_FIXED | MAP_POPULATE, prot & USER64_COPY ? U64_FD_COPIES : U64_FD_RAM, off}};

    return queue(w, &op);
}

bool user64_unmap(struct user64 *w, uint64_t lin, uint64_t len)
{
    const struct user64_op op = {SYS_munmap, {lin, len}};

    return queue(w, &op);
}

void user64_unmap_all(struct user64 *w)
{
    w->nops = 0;
    user64_unmap(w, 0, w->base);
    user64_unmap(w, w->base + U64_SIZE, USER64_HIGH - (w->base + U64_SIZE));
}

/* --- running ---------------------------------------------------------------------------------- */

static void put_regs(struct user64 *w, const struct user64_regs *r)
{
    struct sigframe *f = (struct sigframe *)(void *)area_of(w, U64_FRAME);
    uint8_t *fp = area_of(w, U64_FRAME + U64_FRAME_FP);
    const uint64_t bv = 7;

    *f = w->frame; /* flags, alternate stack, signal mask, segments: whatever guest code may have written here */
    for (unsigned i = 0; i < 16; i++)
        f->greg[greg_of[i]] = r->gpr[i];
    f->restorer = (r->rflags & (FL_NT | FL_ID)) | 0x202;
    f->greg[F_RIP] = r->rip;
    f->greg[F_EFL] = r->rflags;
    f->fpstate = w->base + U64_FRAME + U64_FRAME_FP;
    memcpy(fp, r->fp, 464);
    memcpy(fp + 464, w->fp + 464, USER64_FP_SIZE - 464);
    memcpy(fp + 512, &bv, 8);
    memcpy(fp + 576, r->fp + 576, USER64_FP_SIZE - 576);
    memcpy(fp + w->fp_size - 4, w->fp + w->fp_size - 4, 4); /* magic2 */
}

static bool get_regs(struct user64 *w, struct user64_regs *r, struct user64_exit *e)
{
    const struct user64_ctl *c = ctl_of(w);
    struct sigframe f;
    const uint8_t *fp;
    uint64_t bv;

    if (!read_frame(w, &f, &fp))
        return false;
    for (unsigned i = 0; i < 16; i++)
        r->gpr[i] = f.greg[greg_of[i]];
    r->rip = f.greg[F_RIP];
    r->rflags = f.greg[F_EFL];
    r->cs = (uint16_t)f.greg[F_CSGSFS];
    r->ss = (uint16_t)(f.greg[F_CSGSFS] >> 48);
    r->ds = c->sel[0];
    r->es = c->sel[1];
    r->fs = c->sel[2];
    r->gs = c->sel[3];
    r->fs_base = c->fs_base;
    r->gs_base = c->gs_base;
    memcpy(r->fp, fp, 464);
    memset(r->fp + 464, 0, USER64_FP_SIZE - 464);
    memcpy(r->fp + 576, fp + 576, USER64_FP_SIZE - 576);
    /* Components in their initial state need not have been written. MXCSR always is. */
    memcpy(&bv, fp + 512, 8);
    if (!(bv & 1)) {
        memset(r->fp, 0, 24);
        memset(r->fp + 32, 0, 128);
        r->fp[0] = 0x7f;
        r->fp[1] = 0x03;
    }
    if (!(bv & 2))
        memset(r->fp + 160, 0, 256);
    if (!(bv & 4))
        memset(r->fp + 576, 0, USER64_FP_SIZE - 576);
    *e = (struct user64_exit){
        .sig = f.signo,
        .trapno = (uint32_t)f.greg[F_TRAPNO],
        .err = (uint32_t)f.greg[F_ERR],
        .arch = f.signo == SIGSYS ? f.arch : 0,
        .cr2 = f.greg[F_CR2],
        .call_addr = f.signo == SIGSYS ? f.call_addr : 0,
        .foul = r->rip - w->base < U64_NOTE,
    };
    return true;
}

enum user64_result user64_run(struct user64 *w, struct user64_regs *r, struct user64_exit *e)
{
    struct user64_ctl *c = ctl_of(w);
    enum user64_result how = USER64_GONE;

    if (w->pid <= 0)
        return USER64_GONE;
    put_regs(w, r);
    memcpy(c->op, w->queue, w->nops * sizeof(w->queue[0]));
    c->nops = w->nops;
    c->fs_base = r->fs_base;
    c->gs_base = r->gs_base;
    c->spin = w->w_patience;
    c->secret = (uint64_t)w->secret << 32;
    w->nops = 0;
    __atomic_store_n(&c->request, ++w->seq, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&c->world_sleeps, __ATOMIC_SEQ_CST))
        futex(&c->request, FUTEX_WAKE, 1, NULL);
    how = await(w);
    if (how != USER64_OK)
        return how;
    if (c->failed)
        return USER64_REFUSED;
    if (!get_regs(w, r, e))
        return USER64_CRASHED;
    return USER64_OK;
}

void user64_hush(struct user64 *w) { __atomic_store_n(&ctl_of(w)->spin, 0, __ATOMIC_RELAXED); }

void user64_kick(struct user64 *w)
{
    if (w->pid > 0)
        kill(w->pid, SIGUSR1); /* not reaped before user64_free: the number stays ours */
}
