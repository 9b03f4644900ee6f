#!/usr/bin/env python3
"""The same kernel, root and workloads under every monitor, beside the bare host, with interleaved repetitions.

All guests run at once (an idle one costs nothing) and are asked for one piece of work at a time through their consoles, the bare host's
shell through a pipe; wall and CPU time are taken here, outside the guests. Every workload is scaled per monitor to take about --seconds.
"""
import argparse
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import monitors as m

KERNEL = "out/kernel/vmlinuz"
INITRD = "out/bench/initrd.cpio"
HOST = "out/bench/host"
ARCHIVE = "out/bench/gcc/gcc.tar"
PROGRAM = "out/bench/program.c"
MEMORY = 512 # MiB
# Its fastest model for a boot (bench.py --qemu-models measures them)
QEMU_CPU = "qemu64"
APPEND = 'console=ttyS0 quiet panic=-1 rdinit=/bin/work ringer.script="stty -echo; dir=/tmp; . /bench/agent.sh; . /proc/self/fd/0"'
# name, command, unit, units the command does per count, count to begin with
WORK = [
    ("shell loop", "loop {}", "iteration", 1, 500),
    ("sha256", "sha {}", "MiB", 8, 1),
    ("gzip", "zip {}", "MiB", 2, 1),
    ("integer C", "work int {}", "round", 1, 10),
    ("floating-point C", "work float {}", "round", 1, 1),
    ("memory copy", "work copy {}", "MiB", 1, 10),
    ("getppid", "work getppid {}", "call", 1, 2000),
    ("dd bs=1", "syscalls {}", "call", 2, 500),
    ("page fault", "work fault {}", "page", 1, 500),
    ("fork+wait", "work fork {}", "process", 1, 5),
    ("fork+exec+wait", "work exec {}", "process", 1, 2),
    ("pipe ping-pong", "work pipe {}", "round trip", 1, 100),
    ("gcc -O2, 10k lines", "compile {}", "compilation", 1, 1),
]
# A calibrating run shorter than this says little
SHORT = 0.05


class Target:
    """One shell: a guest's or the bare host's."""

    def __init__(self, name, command, env=None, pin=None):
        self.name, self.begun = name, time.monotonic()
        self.log = b""
        self.pending = b""
        self.p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                                  preexec_fn=(lambda: os.sched_setaffinity(0, pin)) if pin is not None else None)

    def line(self, timeout):
        """The next line of output without its end, and when it came (wall s, CPU s)."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.pending:
            if not select.select([self.p.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                self.die(f"no answer in {timeout} s")
            data = os.read(self.p.stdout.fileno(), 65536)
            self.now = (time.monotonic(), m.cpu_ns(self.p.pid) / 1e9)
            if not data:
                self.die("ended")
            self.pending += data
            self.log = (self.log + data)[-4096:]
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode(errors="replace").strip("\r"), self.now

    def die(self, why):
        sys.stderr.write(self.log.decode(errors="replace") + "\n")
        m.fail(f"{self.name}: {why}; its last output is above")

    def until(self, mark, timeout):
        """Skip to a line that ends in a mark (the kernel may have begun the line); (wall s, CPU s) when it came."""
        while True:
            text, now = self.line(timeout)
            if text.endswith(mark):
                return now

    def tell(self, text):
        self.p.stdin.write(text.encode() + b"\n")
        self.p.stdin.flush()

    def run(self, command, timeout=300):
        """Run a command between marks: (wall s, CPU s, output lines)."""
        self.tell("b " + command)
        wall, cpu = self.until("@B", timeout)
        out = []
        while True:
            text, now = self.line(timeout)
            if "@E " in text:
                if not text.endswith("@E 0"):
                    self.die(f"'{command}' failed: {text}")
                return now[0] - wall, now[1] - cpu, out
            out.append(text)

    def end(self):
        m.end(self.p)
        self.p.stdin.close()
        self.p.stdout.close()


def guest_command(monitor, args):
    disk, cpus = getattr(args, "disk", None), str(getattr(args, "cpus", 1))
    if monitor.startswith("qemu"):
        accel = ["-accel", "kvm", "-cpu", "host"] if monitor == "qemu-kvm" else ["-accel", "tcg", "-cpu", args.qemu_cpu]
        return ["qemu-system-x86_64"] + accel + ["-machine", "pc", "-m", str(MEMORY), "-smp", cpus, "-nodefaults", "-display", "none", "-no-reboot",
                "-chardev", "stdio,id=c,signal=off", "-serial", "chardev:c", "-device", "virtio-rng-pci",
                "-kernel", KERNEL, "-initrd", INITRD, "-append", APPEND] + (
                    ["-drive", f"file={disk},if=none,id=d,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=d"] if disk else [])
    return [m.RINGER, "run", "--engine", monitor, "--memory", f"{MEMORY}M", "--cpus", cpus, "--no-reboot", "--kernel", KERNEL, "--initrd", INITRD,
            "--append", APPEND] + (["--disk", f"{disk},ro"] if disk else [])


def boot(monitor, args, timeout=120):
    """A guest with its shell waiting: (target, [seconds to the first process, to the shell, CPU seconds to the shell])"""
    t = Target(monitor, guest_command(monitor, args))
    try:
        init = t.until("@INIT", timeout)
        ready = t.until("@READY", timeout)
    except BaseException:
        t.end()
        raise
    return t, [init[0] - t.begun, ready[0] - t.begun, ready[1]]


def bare_host(tmp, cpus=1):
    """The same shell from the same files, on as many CPUs as the guests have."""
    bin_dir = os.path.abspath(HOST)
    env = {"PATH": bin_dir, "dir": tmp, "HOME": tmp}
    t = Target("native", [f"{bin_dir}/sh", "-c", ". bench/agent.sh; . /proc/self/fd/0"], env,
               set(sorted(os.sched_getaffinity(0))[-cpus:]))
    t.until("@READY", 10)
    return t


def memory_beyond(target):
    """KiB of host memory that a monitor's processes hold beside the guest's RAM (shared pages divided among their users), and its RAM."""
    beside = ram = 0
    for pid in m.tree(target.p.pid):
        is_ram = False
        with open(f"/proc/{pid}/smaps") as f:
            for line in f:
                head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line)
                if head:
                    size = int(head[2], 16) - int(head[1], 16)
                    is_ram = "memfd:ringer-ram" in head[3] or size == MEMORY << 20
                elif line.startswith("Pss:"):
                    kib = int(line.split()[1])
                    if is_ram:
                        ram += kib
                    else:
                        beside += kib
    return beside, ram


def same(results):
    """All must have come to the first one's result, the bare host's."""
    for name, got in results:
        if got != results[0][1] or not got:
            m.fail(f"{name} does not compute what the bare host does: {got} instead of {results[0][1]}")


def calibrate(target, command, count, seconds):
    while True:
        wall, cpu, _ = target.run(command.format(count))
        if wall >= max(SHORT, seconds / 3) or count > 10 ** 9: # less may be all start-up
            return max(1, int(count * seconds / wall))
        count *= 10


def qemu_models(args):
    """Boot time by CPU model, interleaved."""
    times = {c: [] for c in args.qemu_models.split(",")}
    for _ in range(args.reps):
        for c in times:
            args.qemu_cpu = c
            t, boots = boot("qemu", args)
            t.end()
            times[c].append(boots)
    rows = [["CPU model", "first process, s", "shell, s", "CPU time, s"]]
    for c, v in sorted(times.items(), key=lambda i: m.median([b[2] for b in i[1]])):
        rows.append([c] + [f"{m.median([b[k] for b in v]):.2f}" for k in range(3)])
    m.table(rows)
    return 0


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--monitors", help="comma-separated: qemu, qemu-kvm and Ringer's engines (default: all that work here)")
    ap.add_argument("--only", help="comma-separated parts of workloads' names; 'none' for boot alone")
    ap.add_argument("--reps", type=int, default=3, help="interleaved repetitions (default 3)")
    ap.add_argument("--seconds", type=float, default=0.5, help="length of one workload (default 0.5)")
    ap.add_argument("--qemu-cpu", default=QEMU_CPU, help="CPU model of QEMU TCG (default %(default)s)")
    ap.add_argument("--qemu-models", help="compare boots under these models of QEMU TCG instead, comma-separated")
    ap.add_argument("--json", default=time.strftime("out/bench/results-%Y%m%d-%H%M%S.json"), help="where results go (default %(default)s)")
    args = ap.parse_args()
    if args.qemu_models:
        return qemu_models(args)

    usable, refused = m.engines()
    if args.monitors:
        who = args.monitors.split(",")
    else:
        who = list(usable)
        for name, reason in refused:
            print(f"skipped: engine {name}: {reason}")
        if m.have("qemu-system-x86_64"):
            who += ["qemu"] + (["qemu-kvm"] if "kvm" in usable else [])
        else:
            print("skipped: qemu: not installed")
    work = [w for w in WORK if not args.only or any(o in w[0] for o in args.only.split(","))]
    compiles = any(w[1].startswith("compile") for w in work)
    args.disk = ARCHIVE if compiles else None

    boots = {w: [] for w in who}
    targets = {}
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    tmp = tempfile.mkdtemp(dir=shm)
    result = {"host": m.host(), "memory_mib": MEMORY, "seconds": args.seconds, "reps": args.reps, "qemu_cpu": args.qemu_cpu,
              "boot": boots, "work": {}}
    try:
        for rep in range(args.reps):
            for w in who:
                t, b = boot(w, args)
                boots[w].append(b)
                if rep == args.reps - 1:
                    targets[w] = t
                else:
                    t.end()
        rows = [["boot (median of %d), s" % args.reps, "first process", "shell", "CPU time"]]
        for w in who:
            rows.append([w] + [f"{m.median([b[k] for b in boots[w]]):.2f}" for k in range(3)])
        m.table(rows)
        print(flush=True)

        targets = everyone = {"native": bare_host(tmp), **targets}
        for t in everyone.values():
            t.run("prepare")
        same([(name, t.run("check")[2]) for name, t in everyone.items()])
        for name, t in everyone.items():
            if compiles:
                t.run(f"tools {ARCHIVE} {PROGRAM}" if name == "native" else "tools /dev/vda /bench/program.c")
        counts = {name: {w[0]: calibrate(t, w[1], w[4], args.seconds) for w in work} for name, t in everyone.items()}
        if compiles:
            same([(name, t.run("compiled")[2]) for name, t in everyone.items()])
        samples = {name: {w[0]: [] for w in work} for name in everyone}
        for _ in range(args.reps):
            for title, command, unit, per, _first in work:
                for name, t in everyone.items():
                    n = counts[name][title]
                    wall, cpu, _out = t.run(command.format(n))
                    samples[name][title].append({"count": n, "wall_s": wall, "cpu_s": cpu, "wall_per_unit": wall / (n * per),
                                                 "cpu_per_unit": cpu / (n * per)})
        result["work"] = samples
        if work:
            print_work(work, list(everyone), samples)
        beyond = {name: memory_beyond(t) for name, t in everyone.items() if name != "native"}
        result["memory_beyond_ram_kib"] = beyond
        rows = [["memory, MiB", "beyond guest RAM", "guest RAM touched"]]
        rows += [[name, f"{b / 1024:.1f}", f"{r / 1024:.0f}"] for name, (b, r) in beyond.items()]
        m.table(rows)
    finally:
        for t in targets.values():
            t.end()
        shutil.rmtree(tmp)
    os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
    with open(args.json, "w") as f:
        json.dump(result, f, indent=1)
    print("\nwritten:", args.json)
    return 0


def print_work(work, names, samples):
    """Ratios to the bare host, by wall and by CPU time, and what one unit takes."""
    def per(name, title, key):
        return m.median([s[key] for s in samples[name][title]])
    guests = [n for n in names if n != "native"]
    rows = [["workload", "native, one unit"] + [x for g in guests for x in (g, g + " CPU")]]
    for title, _c, unit, _p, _f in work:
        r = [title, seconds(per("native", title, "wall_per_unit")) + "/" + unit]
        for g in guests:
            r.append(m.significant(per(g, title, "wall_per_unit") / per("native", title, "wall_per_unit")))
            cpu = per("native", title, "cpu_per_unit")
            r.append(m.significant(per(g, title, "cpu_per_unit") / cpu) if cpu else "-")
        rows.append(r)
    print("Times the bare host's time, by wall clock and by CPU time of the monitor's processes:")
    m.table(rows)
    print("\nOne unit:")
    rows = [["workload", "unit"] + names]
    for title, _c, unit, _p, _f in work:
        rows.append([title, unit] + [seconds(per(n, title, "wall_per_unit")) for n in names])
    m.table(rows)
    print()


def seconds(s):
    for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if s >= scale:
            return m.significant(s / scale) + " " + unit
    return m.significant(s * 1e9) + " ns"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
