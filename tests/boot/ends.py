#!/usr/bin/env python3
"""However a run ends, it ends: ends.py RINGER KERNEL INITRD [ROUNDS]

Closed descriptors, output nobody reads, signals at random moments, the terminal's modes afterwards.
"""
import os
import pty
import random
import select
import signal
import subprocess
import sys
import termios
import time

ringer, kernel, initrd = sys.argv[1:4]
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 12
rng = random.Random(20)
checks = 0


def command(*more, append="console=ttyS0"):
    return [ringer, "run", "--kernel", kernel, "--initrd", initrd, "--append", append, *more]


def check(what, good, seen=""):
    global checks
    if not good:
        sys.exit(f"FAIL: {what}: {seen}")
    checks += 1


def status_of(p, seconds, what):
    try:
        return p.wait(seconds)
    except subprocess.TimeoutExpired:
        p.kill()
        p.wait()
        sys.exit(f"FAIL: {what}: still running after {seconds} s")


def signals():
    """SIGTERM, SIGINT and SIGHUP at random moments of a boot with four CPUs."""
    for i in range(rounds):
        sig = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[i % 3]
        p = subprocess.Popen(command("--cpus", "4"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        delay = rng.random() * (0.05 if i % 2 else 4)
        time.sleep(delay)
        p.send_signal(sig)
        st = status_of(p, 10, f"{sig.name} after {delay:.3f} s")
        check(f"{sig.name} after {delay:.3f} s", st in (128 + sig, -sig), st)


def blocked_output():
    """A full pipe that nobody reads holds the guest up, but not its end."""
    r, w = os.pipe()
    p = subprocess.Popen(command("--cpus", "2", append="console=ttyS0 ringer.script=yes"), stdin=subprocess.PIPE, stdout=w, stderr=subprocess.DEVNULL)
    os.close(w)
    deadline = time.time() + 60
    ticks = -1
    while time.time() < deadline:  # until it stands still
        time.sleep(1)
        with open(f"/proc/{p.pid}/stat") as f:
            now = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        if now - ticks <= 2 and now > 100:
            break
        ticks = now
    p.stdin.write(b"x" * 100)
    p.stdin.flush()
    time.sleep(0.3)
    p.send_signal(signal.SIGUSR1)  # statistics must wait, but hold up nothing
    p.send_signal(signal.SIGUSR2)
    time.sleep(0.3)
    p.send_signal(signal.SIGTERM)
    st = status_of(p, 15, "SIGTERM with blocked output")
    check("SIGTERM with blocked output", st == 143, st)
    os.close(r)


def closed():
    """Descriptors that are closed, or lead nowhere."""
    cases = {
        "standard input closed": "<&-",
        "standard output closed": ">&-",
        "standard error closed": "2>&-",
        "all closed": "<&- >&- 2>&-",
        "standard output full": ">/dev/full",
    }
    for what, how in cases.items():
        line = " ".join(f"'{a}'" for a in command(append="console=ttyS0 ringer.script=true"))
        p = subprocess.Popen(["sh", "-c", f"exec {line} {how}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        st = status_of(p, 90, what)
        check(what, st == 0, st)
    p = subprocess.Popen(command("--trace", "/dev/full", append="console=ttyS0 ringer.script=true"), stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = p.stderr.read()
    st = status_of(p, 90, "trace that cannot be written")
    check("trace that cannot be written", st == 4 and b"not everything" in said, (st, said))


def terminal():
    """Raw while the guest runs, as it was afterwards."""
    def run(what, act, append, want, seconds=60):
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        p = subprocess.Popen(command(append=append), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                             preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0))
        end = time.time() + seconds
        seen, acted = b"", False
        while p.poll() is None and time.time() < end:
            if select.select([master], [], [], 0.1)[0]:
                seen += os.read(master, 65536)
            if not acted and len(seen) > 2000:
                check(f"{what}: raw mode", not termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON))
                act(master, slave, p, before)
                acted = True
        st = status_of(p, 1, what)
        check(what, st == want, (st, seen[-300:]))
        after = termios.tcgetattr(slave)
        check(f"{what}: the terminal's modes", before == after, after)
        os.close(master)
        os.close(slave)
        return seen

    run("Ctrl-A x", lambda m, s, p, b: os.write(m, b"\x01x"), "console=ttyS0", 0)
    seen = run("Ctrl-A h, Ctrl-A x", lambda m, s, p, b: os.write(m, b"\x01h\x01x"), "console=ttyS0", 0)
    check("help", b"this help" in seen, seen[-300:])
    run("SIGTERM on a terminal", lambda m, s, p, b: p.send_signal(signal.SIGTERM), "console=ttyS0", 143)
    run("SIGQUIT on a terminal", lambda m, s, p, b: p.send_signal(signal.SIGQUIT), "console=ttyS0", -signal.SIGQUIT)

    # Job control: the terminal is the user's while the job is stopped, raw again behind it. SIGSTOP cannot be seen coming.
    def stop_and_go(sig):
        def act(m, tty, p, before):
            p.send_signal(sig)
            end = time.time() + 10
            while b"State:\tT" not in open(f"/proc/{p.pid}/status", "rb").read() and time.time() < end:
                time.sleep(0.05)
            if sig == signal.SIGTSTP:
                check("stopped: the terminal's modes", termios.tcgetattr(tty)[3] & termios.ICANON)
            else:  # as a shell would
                termios.tcsetattr(tty, termios.TCSANOW, before)
            p.send_signal(signal.SIGCONT)
            end = time.time() + 10
            while termios.tcgetattr(tty)[3] & termios.ICANON and time.time() < end:
                time.sleep(0.05)
            check("continued: raw mode", not termios.tcgetattr(tty)[3] & termios.ICANON)
            os.write(m, b"\x01x")
        return act

    run("SIGTSTP", stop_and_go(signal.SIGTSTP), "console=ttyS0", 0)
    run("SIGSTOP", stop_and_go(signal.SIGSTOP), "console=ttyS0", 0)
    run("power-off on a terminal", lambda m, s, p, b: None, "console=ttyS0 ringer.script=true", 0)


for part in (signals, blocked_output, closed, terminal):
    start = time.time()
    part()
    print(f"{part.__name__}: {time.time() - start:.1f} s", flush=True)
print(f"{checks} checks")
