"""What the measurements have in common: processes and their CPU time, the monitors to compare, tables."""
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

RINGER = os.environ.get("RINGER", "out/rel/ringer")


def fail(text):
    print("bench: " + text, file=sys.stderr)
    sys.exit(1)


def tree(pid):
    """A process and its descendants."""
    found, todo = [], [pid]
    while todo:
        p = todo.pop()
        found.append(p)
        try:
            for t in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{t}/children") as f:
                    todo += [int(c) for c in f.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def cpu_ns(pid):
    """CPU time of a process and its descendants, in ns: exact for living threads, in ticks of 10 ms for children that have ended.
    Time spent waiting for a CPU does not count."""
    total = 0
    for p in tree(pid):
        try:
            with open(f"/proc/{p}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            total += (int(fields[13]) + int(fields[14])) * (10 ** 9 // os.sysconf("SC_CLK_TCK"))
            for t in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{t}/schedstat") as f:
                    total += int(f.read().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total


def end(process):
    """End a process we started, with everything it started."""
    pids = tree(process.pid)
    for sig, patience in ((signal.SIGTERM, 2), (signal.SIGKILL, 5)):
        for p in pids:
            try:
                os.kill(p, sig)
            except ProcessLookupError:
                pass
        try:
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            pass


def engines():
    """Ringer's engines that work here, best first: [name]; and [(name, reason)] of the others."""
    out = subprocess.run([RINGER, "engines"], capture_output=True, text=True, check=True).stdout
    usable, refused = [], []
    for line in out.splitlines():
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.startswith("usable"):
            usable.append(name)
        elif rest.startswith("not usable"):
            refused.append((name, rest[len("not usable"):].strip()))
    return usable, refused


def have(program):
    return shutil.which(program) is not None


def median(values):
    return statistics.median(values) if values else None


def geometric_mean(values):
    return statistics.geometric_mean(values)


def significant(v, digits=3):
    """A number with so many significant digits, without exponent."""
    if v is None:
        return "-"
    if v == 0:
        return "0"
    if abs(v) >= 10 ** (digits - 1):
        return f"{v:.0f}"
    places = digits - 1
    x = abs(v)
    while x < 1 and places < 9:
        x *= 10
        places += 1
    while x >= 10:
        x /= 10
        places -= 1
    return f"{v:.{max(places, 0)}f}"


def table(rows, file=sys.stdout):
    """Markdown; the first row is the heading, the first column left-aligned."""
    width = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for n, r in enumerate(rows):
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, width))]
        print("| " + " | ".join(cells) + " |", file=file)
        if n == 0:
            print("|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(width)) + "|", file=file)


def host():
    """What the figures were measured on, without naming anybody's machine."""
    model = ""
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": os.uname().release, "load": os.getloadavg()[0],
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
