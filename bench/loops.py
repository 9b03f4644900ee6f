#!/usr/bin/env python3
"""Millions of guest instructions per second in small loops: Ringer's engines, Bochs, QEMU TCG and the bare host.

The guest (loops_boot.asm) marks the begin and end of each loop on port 0xe9; time and CPU time are taken here, between the marks, so
start-up, firmware and the monitor's own idea of time do not count. Every monitor must come to the bare host's results.
"""
import argparse
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import time

import monitors as m

IMAGE = "out/bench/loops.img"
NATIVE = "out/bench/loops_native"
BOCHS_FILES = ("/usr/share/bochs/BIOS-bochs-latest", "/usr/share/bochs/VGABIOS-lgpl-latest")
# Iterations of the first, calibrating run, the same for all, whose results are compared
FIRST = 50000
SHORT = 20_000_000 # ns: calibrating runs below it are repeated with more iterations
FLOPPY = 1474560


def read_table(image):
    """{name: (offset of its iteration count, work per iteration)}; work is instructions, or bytes if negative."""
    loops, at = {}, image.index(b"alu" + bytes(9))
    while image[at]:
        name, work = struct.unpack_from("<12si", image, at)
        loops[name.rstrip(b"\0").decode()] = (at + 24, work)
        at += 32
    return loops


def write_image(path, image, loops, counts):
    data = bytearray(image)
    for name, n in counts.items():
        struct.pack_into("<Q", data, loops[name][0], n)
    with open(path, "wb") as f:
        f.write(data)
        f.truncate(FLOPPY)


def bochs_command(tmp):
    with open(f"{tmp}/bochsrc", "w") as f:
        f.write(f"""megs: 32
romimage: file={BOCHS_FILES[0]}
vgaromimage: file={BOCHS_FILES[1]}
floppya: 1_44={tmp}/image, status=inserted, write_protected=1
boot: floppy
port_e9_hack: enabled=1
display_library: rfb, options="timeout=0"
clock: sync=none
cpu: ips=200000000
sound: driver=dummy
speaker: enabled=0, mode=none
log: {tmp}/log
""")
    with open(f"{tmp}/rc", "w") as f:
        f.write("c\n")  # Debian's Bochs has its debugger built in, which would wait for a command
    return ["bochs", "-q", "-f", f"{tmp}/bochsrc", "-rc", f"{tmp}/rc"]


def command(monitor, tmp):
    if monitor == "bochs":
        return bochs_command(tmp)
    if monitor == "qemu":
        return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "32", "-nodefaults", "-display", "none", "-no-reboot",
                "-chardev", "stdio,id=c,signal=off", "-device", "isa-debugcon,chardev=c", "-drive",
                f"file={tmp}/image,format=raw,if=floppy,readonly=on"]
    # The disk's padding is not part of a flat image
    os.truncate(f"{tmp}/image", os.path.getsize(IMAGE))
    return [m.RINGER, "run", "--engine", monitor, "--kernel", f"{tmp}/image", "--format", "flat", "--memory", "32M", "--console", "none", "--debugcon", "/dev/stdout",
            "--no-reboot"]


def run_native(counts):
    out = subprocess.run([NATIVE] + [f"{k}={v}" for k, v in counts.items()], capture_output=True, text=True, check=True).stdout
    got = {}
    for line in out.splitlines():
        name, result, wall, cpu = line.split()
        got[name] = (int(wall), int(cpu), result)
    return got


def run_guest(monitor, image, loops, counts, timeout):
    """{loop: (wall ns, CPU ns, result)}"""
    names = list(loops)
    with tempfile.TemporaryDirectory() as tmp:
        write_image(f"{tmp}/image", image, loops, counts)
        p = subprocess.Popen(command(monitor, tmp), stdin=subprocess.DEVNULL if monitor != "qemu" else subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        got, begin, mark, digits, deadline = {}, None, None, "", time.monotonic() + timeout
        try:
            while True:
                if not select.select([p.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                    m.fail(f"{monitor}: no answer in {timeout} s")
                data = os.read(p.stdout.fileno(), 4096)
                now = (time.monotonic_ns(), m.cpu_ns(p.pid))
                if not data:
                    m.fail(f"{monitor} ended before the loops did")
                for b in data:
                    if 0x80 <= b < 0xa0:
                        begin, digits = now, ""
                    elif 0xc0 <= b < 0xe0 and begin:
                        mark = (names[b - 0xc0], now[0] - begin[0], now[1] - begin[1])
                    elif 0xa0 <= b < 0xb0 and mark:
                        digits += f"{b & 15:x}"
                        if len(digits) == 16:
                            got[mark[0]], mark = mark[1:] + (digits,), None
                    elif b == 0xff and len(got) == len([n for n in counts.values() if n]):
                        return got
        finally:
            m.end(p)
            p.stdout.close()


def rate(loops, name, count, ns):
    """Millions of instructions or bytes per second."""
    return count * abs(loops[name][1]) * 1000 / max(ns, 1)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("loops", nargs="*", help="loops to run (default: all)")
    ap.add_argument("--monitors", help="comma-separated: native, bochs, qemu, and Ringer's engines (default: all that work here)")
    ap.add_argument("--reps", type=int, default=3, help="interleaved repetitions (default 3)")
    ap.add_argument("--seconds", type=float, default=0.3, help="length of one loop (default 0.3)")
    ap.add_argument("--json", default="out/bench/loops.json", help="where results go (default %(default)s)")
    args = ap.parse_args()

    with open(IMAGE, "rb") as f:
        image = f.read()
    loops = read_table(image)
    wanted = args.loops or list(loops)
    for name in wanted:
        if name not in loops:
            m.fail(f"no loop '{name}'; there are {' '.join(loops)}")
    usable, refused = m.engines()
    if args.monitors:
        who = args.monitors.split(",")
    else:
        who = ["native"] + usable
        who += ["bochs"] if m.have("bochs") and all(os.path.exists(f) for f in BOCHS_FILES) else []
        who += ["qemu"] if m.have("qemu-system-x86_64") else []
        for name, reason in refused:
            print(f"skipped: engine {name}: {reason}")

    def run(monitor, counts):
        counts = {n: counts[n] for n in wanted}
        return run_native(counts) if monitor == "native" else run_guest(monitor, image, loops, counts, 60)

    # The first run gives the results, and how often each loop must run. The bare host is too fast for it to tell.
    first = {n: FIRST for n in wanted}
    expected = run_native(first)
    counts = {}
    for monitor in who:
        got = run(monitor, first)
        for n in wanted:
            if got[n][2] != expected[n][2]:
                m.fail(f"{monitor}: loop {n} came to {got[n][2]}, the bare host to {expected[n][2]}")
        # Short runs say little: marks arrive together, and they hold what is done once. Approach the length in steps.
        n = dict(first)
        while True:
            short = [k for k in wanted if got[k][0] < SHORT]
            n = {k: max(1, n[k] * 25 if k in short else int(n[k] * args.seconds * 1e9 / got[k][0])) for k in wanted}
            if not short:
                break
            got = run(monitor, {k: n[k] if k in short else 1 for k in wanted})
            got = {k: got[k] if k in short else (int(args.seconds * 1e9), 0, "") for k in wanted}
        counts[monitor] = n

    samples = {monitor: {n: [] for n in wanted} for monitor in who}
    for _ in range(args.reps):
        for monitor in who:
            got = run(monitor, counts[monitor])
            for n in wanted:
                samples[monitor][n].append({"wall_ns": got[n][0], "cpu_ns": got[n][1],
                                            "rate": rate(loops, n, counts[monitor][n], got[n][1])})

    best = {mon: {n: m.median([s["rate"] for s in samples[mon][n]]) for n in wanted} for mon in who}
    print("Millions of instructions per second of CPU time (repmovs: megabytes), medians of", args.reps)
    ours = [w for w in who if w in usable]
    heads = [f"{o} / {t}" for o in ours for t in ("bochs", "qemu") if t in who]
    rows = [["loop"] + who + heads]
    for n in wanted:
        r = [n] + [m.significant(best[w][n]) for w in who]
        r += [m.significant(best[o][n] / best[t][n]) for o in ours for t in ("bochs", "qemu") if t in who]
        rows.append(r)
    counted = [n for n in wanted if loops[n][1] > 0]
    if len(counted) > 1 and heads:
        def mean(o, t):
            return m.geometric_mean([best[o][n] / best[t][n] for n in counted])
        rows.append(["geometric mean without repmovs"] + [""] * len(who) + [m.significant(mean(o, t)) for o in ours for t in ("bochs", "qemu") if t in who])
    m.table(rows)
    os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
    with open(args.json, "w") as f:
        json.dump({"host": m.host(), "seconds": args.seconds, "reps": args.reps, "unit": "M instructions (repmovs: bytes) per CPU second",
                   "counts": counts, "median": best, "samples": samples}, f, indent=1)
    print("written:", args.json)


if __name__ == "__main__":
    sys.exit(main())
