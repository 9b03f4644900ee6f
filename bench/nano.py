#!/usr/bin/env python3
"""The nanobenchmarks of Adams & Agesen (ASPLOS 2006) under every monitor, in cycles of the guest's time-stamp counter.

Beside them stands the column they published for their binary translator. Its cycles are those of the Pentium 4
they used: the costs compare by order of magnitude only.
"""
import argparse
import json
import os
import select
import subprocess
import sys
import time

import monitors as m

IMAGE = "out/bench/nano.elf"
PUBLISHED = {"syscall": 2308, "in": 216, "cr8wr": 35, "call/ret": 51, "pgfault": 3927, "divzero": 3223, "ptemod": 391}


def command(monitor, cpu):
    if monitor.startswith("qemu"):
        return ["qemu-system-x86_64"] + (["-accel", "kvm", "-cpu", "host"] if monitor == "qemu-kvm" else ["-accel", "tcg", "-cpu", cpu]) + [
            "-m", "64", "-nodefaults", "-display", "none", "-no-reboot", "-chardev", "stdio,id=c,signal=off",
            "-device", "isa-debugcon,chardev=c", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", IMAGE]
    return [m.RINGER, "run", "--engine", monitor, "--kernel", IMAGE, "--memory", "64M", "--console", "none", "--debugcon", "/dev/stdout",
            "--isa-debug-exit", "--no-reboot"]


def run(monitor, cpu, timeout=120):
    """({name: median cycles}, rate of the guest's counter in MHz by the host's clock)"""
    p = subprocess.Popen(command(monitor, cpu), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    got, text, begun, ended, counter, deadline = {}, b"", None, None, 0, time.monotonic() + timeout
    try:
        while True:
            if not select.select([p.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                m.fail(f"{monitor}: nanobenchmarks do not end in {timeout} s")
            data, now = os.read(p.stdout.fileno(), 65536), time.monotonic()
            if not data:
                break
            *lines, text = (text + data).split(b"\n")
            for words in (line.decode(errors="replace").split() for line in lines):
                if words[:1] == ["nano-begin"]:
                    begun = now
                elif words[:1] == ["nano"]:
                    got[words[1]] = int(words[3]) / 100
                elif words[:1] == ["nano-end"]:
                    ended, counter = now, int(words[1])
        if p.wait(10) != 1 or not ended or set(got) != set(PUBLISHED):
            m.fail(f"{monitor}: the nanobenchmarks failed")
        return got, counter / (ended - begun) / 1e6
    finally:
        m.end(p)
        p.stdin.close()
        p.stdout.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--monitors", help="comma-separated: qemu, qemu-kvm and Ringer's engines (default: all that work here)")
    ap.add_argument("--reps", type=int, default=3, help="interleaved repetitions (default 3)")
    ap.add_argument("--qemu-cpu", default="qemu64", help="CPU model of QEMU TCG (default %(default)s)")
    ap.add_argument("--json", default="out/bench/nano.json", help="where results go (default %(default)s)")
    args = ap.parse_args()
    usable, _refused = m.engines()
    who = args.monitors.split(",") if args.monitors else usable + (
        ["qemu"] + (["qemu-kvm"] if "kvm" in usable else []) if m.have("qemu-system-x86_64") else [])
    runs = {w: [] for w in who}
    for _ in range(args.reps):
        for w in who:
            runs[w].append(run(w, args.qemu_cpu))
    print(f"Cycles of the guest's time-stamp counter, medians of {args.reps} x 9; last column as published in 2006")
    rows = [["operation"] + who + ["binary translation 2006"]]
    for name, published in PUBLISHED.items():
        rows.append([name] + [m.significant(m.median([r[0][name] for r in runs[w]])) for w in who] + [str(published)])
    rows.append(["counter, MHz"] + [f"{m.median([r[1] for r in runs[w]]):.0f}" for w in who] + ["-"])
    m.table(rows)
    os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
    with open(args.json, "w") as f:
        json.dump({"host": m.host(), "reps": args.reps, "published": PUBLISHED,
                   "runs": {w: [{"cycles": c, "counter_mhz": mhz} for c, mhz in r] for w, r in runs.items()}}, f, indent=1)
    print("written:", args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
