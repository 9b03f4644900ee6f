#!/usr/bin/env python3
"""A guest that never gives the processor back can be stopped and held: stop.py RINGER SPINDIR [ENGINE...]

Under every usable engine, in every mode: SIGTERM and Ctrl-A x end it, freely running and under --cpu-limit; the limit holds it
up; statistics on SIGUSR1 come while it spins. How exactly and how soon is for bench/limit.py to measure.
"""
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

ringer, spin = sys.argv[1:3]
PATIENCE = 20
LIMIT = int(os.environ.get("STOP_LIMIT", "3"))  # percent; sanitizers' threads take some of it
checks = 0


processes = []


def spawn(*args, **more):
    processes.append(subprocess.Popen(*args, **more))
    return processes[-1]


def check(what, good, seen=""):
    global checks
    if not good:
        sys.exit(f"FAIL: {what}: {seen}")
    checks += 1


def usable():
    out = subprocess.run([ringer, "engines"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in out.splitlines() if line.split()[1] == "usable"]


def command(engine, image, *more):
    return [ringer, "run", "--engine", engine, "--memory", "32M", "--kernel", f"{spin}/spin{image}.bin", *more]


def until(fd, mark, what):
    """Read until mark comes."""
    seen = b""
    end = time.monotonic() + PATIENCE
    while mark not in seen:
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            sys.exit(f"FAIL: {what}: no {mark} in {PATIENCE} s, only {seen[-200:]}")
        data = os.read(fd, 4096)
        if not data:
            sys.exit(f"FAIL: {what}: ended without {mark}: {seen[-200:]}")
        seen += data
    return seen


def status(p, what):
    try:
        return p.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        p.kill()
        p.wait()
        sys.exit(f"FAIL: {what}: still running after {PATIENCE} s")


def by_signal(engine, image, *more):
    what = f"{engine}, {image}, {' '.join(more)}, SIGTERM"
    p = spawn(command(engine, image, "--console", "none", "--stats", *more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)
    until(p.stdout.fileno(), b"s\n", what)
    time.sleep(0.05)
    p.send_signal(signal.SIGUSR1)
    until(p.stdout.fileno(), b"--- ringer statistics", what)
    p.send_signal(signal.SIGTERM)
    rest = p.stdout.read().decode()
    check(what, status(p, what) in (128 + signal.SIGTERM, -signal.SIGTERM), p.returncode)
    if more[:1] == ("--cpu-limit",) and "hlt" not in image:
        check(what + ": held up", any(line.startswith("limit ") and not line.endswith(" 0.000 s") for line in rest.splitlines()), rest)


def by_key(engine, image, *more):
    what = f"{engine}, {image}, {' '.join(more)}, Ctrl-A x"
    master, slave = pty.openpty()
    p = spawn(command(engine, image, *more), stdin=slave, stdout=slave, stderr=subprocess.PIPE, start_new_session=True,
                         preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(slave)
    until(master, b"s\r\n", what)
    os.write(master, b"\x01x")
    until(master, b"ringer: quit", what)
    check(what, status(p, what) == 0, (p.returncode, p.stderr.read()))
    os.close(master)


try:
    for e in sys.argv[3:] or usable():
        for mode in "16", "32", "64", "user":
            for loop in ("jmp", "rep", "io") + (("hlt",) if mode != "user" else ()):
                by_signal(e, f"{mode}-{loop}")
            by_signal(e, f"{mode}-jmp", "--cpu-limit", str(LIMIT + 2))
            by_key(e, f"{mode}-jmp")
            by_key(e, f"{mode}-jmp", "--cpu-limit", str(LIMIT))
        print("ok", e)
finally:
    for p in processes:
        if p.poll() is None:
            p.kill()
bad = subprocess.run([ringer, "run", "--kernel", f"{spin}/spin16-jmp.bin", "--cpu-limit", "0"], capture_output=True, text=True)
check("--cpu-limit 0", bad.returncode == 2 and bad.stderr.count("\n") == 1 and "--cpu-limit" in bad.stderr, bad)
print(f"{checks} passed, 0 failed")
