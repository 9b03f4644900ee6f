#!/usr/bin/env python3
"""Debian programs in a guest: run.py RINGER ENGINE CASE [further options of ringer run]

The root is out/debian/root.img (scripts/mkdebian.sh). The guest runs /tests/CASE.sh and ends; it must print "all is well" last, no line
with FAIL, and its kernel must have nothing to complain about. Case stress also watches the monitor: its memory beyond the guest's after a
minute and at the end, and the number of its mappings. Environment: STRESS_SECONDS a stressor, STRESSORS instead
of all, PROGRAMS instead of all, GUEST_TIMEOUT in all."""
import os, re, signal, subprocess, sys, time

STRESSORS = """vm fork vfork clone exec spawn mmap mremap munmap mprotect fault switch sigsegv sigq signal signest sigfpe sigtrap sigrt sigchld sigabrt pipe
context bad-altstack far-branch goto icache longjmp opcode priv-instr ptrace regs sysbadaddr x86syscall x86cpuid vecfp vecmath vecshuf vecwide fp fp-error cpu
memcpy tlb-shootdown userfaultfd vdso pthread futex brk stack madvise msync mincore memfd shm pageswap rmap vm-splice vm-segv vm-rw personality kill itimer
hrtimers alarm rseq membarrier mcontend lockbus misaligned atomic crypt zlib cacheline dynlib""".split()
COMPLAINTS = re.compile(r"BUG:|BUG at|Oops|WARNING:|general protection|segfault|rcu.*(stall|kthread starved)|soft lockup|double fault|unable to handle|traps:.*trap|invalid opcode|Kernel panic|hung_task|blocked for more than")
# What stressors make programs do on purpose is logged too.
MEANT = re.compile(r"stress-ng|show_unhandled")

ringer, engine, case, *options = sys.argv[1:]
memory = "256M" if case == "stress" else "512M"
if "--memory" not in options:
    options += ["--memory", memory]
args = os.environ.get("STRESS_SECONDS", "2") + " " + " ".join(os.environ.get("STRESSORS", "").split() or STRESSORS) if case == "stress" else "few" if case == "kernel" and engine == "interp" else ""
if case == "programs" and os.environ.get("PROGRAMS"):
    args = "'%s'" % os.environ["PROGRAMS"]
script = ("mount -o ro /dev/vda /mnt; for d in proc sys dev; do mount --bind /$d /mnt/$d; done; mount -t tmpfs t /mnt/tmp; mount -t tmpfs t /mnt/run; "
          "export PATH=/usr/bin:/bin:/usr/sbin:/sbin; chroot /mnt sh /tests/%s.sh %s; dmesg >/mnt/run/log; grep -n . /mnt/run/log | sed s/^/kmsg:/; echo all is well; poweroff -f" % (case, args))
extra_append = os.environ.get("GUEST_APPEND", "")
cmd = [ringer, "run", "--engine", engine, "--no-reboot", "--kernel", "out/kernel/vmlinuz", "--initrd", "out/root/initrd.cpio", "--disk", "out/debian/root.img,ro",
       "--append", 'console=ttyS0 panic=-1 quiet %s ringer.script="%s"' % (extra_append, script)] + options
start = time.monotonic()
p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
limit = float(os.environ.get("GUEST_TIMEOUT", "280"))


def family():
    """The monitor and the processes that it has made."""
    pids, todo = [], [p.pid]
    while todo:
        pid = todo.pop()
        pids.append(pid)
        try:
            for t in os.listdir("/proc/%d/task" % pid):
                todo += [int(c) for c in open("/proc/%d/task/%s/children" % (pid, t)).read().split()]
        except OSError:
            pass
    return pids


def beyond_guest():
    """KiB that are not pages of the memory file, which all processes share, of the guest's RAM."""
    total = 0
    for pid in family():
        try:
            for line in open("/proc/%d/status" % pid):
                if line.startswith(("RssAnon:", "RssFile:")):
                    total += int(line.split()[1])
        except OSError:
            pass
    return total


def mappings():
    most = 0
    for pid in family():
        try:
            most = max(most, sum(1 for _ in open("/proc/%d/maps" % pid)))
        except OSError: # another's: the process is confined
            pass
    return most


lines, faults, at_minute, at_end, most = [], [], None, None, 0
os.set_blocking(p.stdout.fileno(), False)
rest = b""
while True:
    data = p.stdout.read()
    if data == b"":
        break
    if data:
        rest += data
        *done, rest = rest.split(b"\n")
        for line in done:
            line = line.decode(errors="replace").replace("\r", "")
            lines.append(line)
            if not line.startswith("kmsg:"):
                print("%6.1f %s" % (time.monotonic() - start, line), flush=True)
    now = time.monotonic() - start
    if now > limit:
        p.kill()
        faults.append("not done after %d seconds" % limit)
        break
    time.sleep(0.1)
    if case == "stress" and p.poll() is None and int(now * 10) % 20 == 0:
        memory_now = beyond_guest()
        if memory_now: # the last look may be at a process that ends
            at_end = memory_now if now > 60 else None
            if now > 60 and at_minute is None:
                at_minute = at_end
        most = max(most, mappings())
status = p.wait()

if status != 0:
    faults.append("exit status %d" % status)
if "all is well" not in lines:
    faults.append("the guest did not get to its end")
faults += [l for l in lines if "FAIL" in l and not l.startswith("kmsg:")]
faults += [l for l in lines if COMPLAINTS.search(l) and not MEANT.search(l)]
if case == "stress":
    print("beyond the guest's memory: %s KiB after a minute, %s KiB at the end; at most %d mappings" % (at_minute, at_end, most))
    if at_minute is None:
        faults.append("it ran less than a minute")
    elif at_end > at_minute + 8192 and at_end > 80 * 1024: # what describes translated code fills up to 12 MiB for each processor, worlds' tables some more
        faults.append("the monitor grows")
    allowed = int(open("/proc/sys/vm/max_map_count").read())
    if most >= allowed:
        faults.append("%d mappings" % most)
    if not any(re.match(r"stress: \d+ ran, 0 failed", l) for l in lines):
        faults.append("no result of the stressors")
for f in faults[:20]:
    print("FAIL: " + f)
sys.exit(1 if faults else 0)
