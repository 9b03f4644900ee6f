#!/usr/bin/env python3
"""How work for two processes scales from one processor to two: two virtual CPUs against one, and the bare host's likewise.

Two shells for each monitor, with one CPU and with two, take turns; each is asked for the same two processes at once.
"""
import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time

import bench
import monitors as m

WORK = [
    ("integer C", "together 2 work int {}", 10),
    ("floating-point C", "together 2 work float {}", 1),
    ("sha256", "together 2 sha {}", 1),
    ("getppid", "together 2 work getppid {}", 2000),
    ("page fault", "together 2 work fault {}", 500),
    ("fork+wait", "together 2 work fork {}", 5),
]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--monitors", default="translate,qemu", help="comma-separated (default %(default)s)")
    ap.add_argument("--only", help="comma-separated parts of workloads' names")
    ap.add_argument("--reps", type=int, default=3, help="interleaved repetitions (default 3)")
    ap.add_argument("--seconds", type=float, default=1, help="length of one workload on one CPU (default 1)")
    ap.add_argument("--qemu-cpu", default=bench.QEMU_CPU, help="CPU model of QEMU TCG (default %(default)s)")
    ap.add_argument("--json", default="out/bench/smp.json", help="where results go (default %(default)s)")
    args = ap.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        m.fail("one processor scales to nothing")
    work = [w for w in WORK if not args.only or any(o in w[0] for o in args.only.split(","))]
    names = ["native"] + args.monitors.split(",")
    tmp = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    targets, samples = {}, {n: {w[0]: [] for w in work} for n in names}
    try:
        for name in names:
            for cpus in (1, 2):
                args.cpus = cpus
                targets[name, cpus] = bench.bare_host(tmp, cpus) if name == "native" else bench.boot(name, args)[0]
        for t in targets.values():
            t.run("prepare")
        counts = {(n, w[0]): bench.calibrate(targets[n, 1], w[1], w[2], args.seconds) for n in names for w in work}
        for _ in range(args.reps):
            for title, command, _first in work:
                for n in names:
                    took = [targets[n, cpus].run(command.format(counts[n, title]))[:2] for cpus in (1, 2)]
                    samples[n][title].append({"count": counts[n, title], "one_cpu_s": took[0][0], "two_cpus_s": took[1][0],
                                              "speedup": took[0][0] / took[1][0], "cpu_time_ratio": took[1][1] / took[0][1] if took[0][1] else None})
    finally:
        for t in targets.values():
            t.end()
        shutil.rmtree(tmp)
    print(f"Two processes at once: times as fast on two CPUs as on one, medians of {args.reps} pairs")
    print("and what it takes of CPU time on two, times that on one (1: nothing is lost; says so on a busy host, too):")
    rows = [["workload"] + [x for n in names for x in (n, "CPU time")]]
    for title, _c, _f in work:
        ratios = {n: [s["cpu_time_ratio"] for s in samples[n][title] if s["cpu_time_ratio"]] for n in names}
        rows.append([title] + [x for n in names for x in (m.significant(m.median([s["speedup"] for s in samples[n][title]])), m.significant(m.median(ratios[n])))])
    m.table(rows)
    os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
    with open(args.json, "w") as f:
        json.dump({"host": m.host(), "seconds": args.seconds, "reps": args.reps, "work": samples}, f, indent=1)
    print("written:", args.json)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
