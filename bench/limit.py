#!/usr/bin/env python3
"""How exactly --cpu-limit holds and how soon a guest that never gives the processor back can be stopped, under each usable engine.

The limit: CPU time of all the monitor's processes over --seconds, in percent of a core; beside it the largest share of any 0.5 s.
Stopping: SIGTERM to the end of the process; "freely" and held up by --cpu-limit 10. A guest that computes in the background keeps to its
limit only if the host has that much to give; the CPU time without a limit is shown for that.
"""
import argparse
import signal
import subprocess
import time

import monitors as m

SPIN = "out/stop"
LIMITS = (5, 25, 50, 90)


def start(engine, image, *more):
    p = subprocess.Popen([m.RINGER, "run", "--engine", engine, "--memory", "32M", "--console", "none", "--kernel", f"{SPIN}/spin{image}.bin", *more],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while b"s\n" not in p.stdout.readline():
        if p.poll() is not None:
            m.fail(f"{engine}, {image}: ended")
    return p


def share(p, seconds):
    """(percent of a core over the time, largest percent of half a second)"""
    samples = [(time.monotonic(), m.cpu_ns(p.pid))]
    end = samples[0][0] + seconds
    while samples[-1][0] < end:
        time.sleep(min(0.5, max(0.01, end - samples[-1][0])))
        samples.append((time.monotonic(), m.cpu_ns(p.pid)))
    percent = lambda a, b: (b[1] - a[1]) / (b[0] - a[0]) / 1e7
    halves = [percent(a, b) for a, b in zip(samples, samples[1:]) if b[0] - a[0] > 0.4]
    return percent(samples[0], samples[-1]), max(halves)


def stop_ms(engine, image, *more):
    p = start(engine, image, *more)
    time.sleep(0.1)
    t = time.monotonic()
    p.send_signal(signal.SIGTERM)
    p.wait(20)
    t = time.monotonic() - t
    p.stdout.close()
    return t * 1e3


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--engines", help="comma-separated (default: all that work here)")
    ap.add_argument("--images", default="64-jmp,32-rep,16-io", help="guests of tests/stop (default %(default)s)")
    ap.add_argument("--seconds", type=float, default=3, help="length of one measurement (default 3)")
    ap.add_argument("--reps", type=int, default=5, help="stops per figure (default 5)")
    args = ap.parse_args()
    engines = args.engines.split(",") if args.engines else m.engines()[0]
    rows = [["engine, guest", "no limit, %"] + [f"{n} %" for n in LIMITS] + ["worst miss, points", "stop freely, ms", "stop held up, ms"]]
    for e in engines:
        for image in args.images.split(","):
            row, worst = [f"{e}, {image}"], 0
            for n in (None,) + LIMITS:
                p = start(e, image, *(["--cpu-limit", str(n)] if n else []))
                got, most = share(p, args.seconds if n else 1)
                m.end(p)
                p.stdout.close()
                row.append(f"{got:.1f} (max {most:.1f})" if n else f"{got:.0f}")
                if n:
                    worst = max(worst, abs(got - n))
            row.append(f"{worst:.1f}")
            for more in ([], ["--cpu-limit", "10"]):
                row.append(f"{m.median([stop_ms(e, image, *more) for _ in range(args.reps)]):.1f}")
            rows.append(row)
    m.table(rows)


if __name__ == "__main__":
    main()
