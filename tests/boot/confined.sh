#!/bin/sh
# The process that runs a guest is confined, and needs nothing that a container or an ordinary user lacks. confined.sh RINGER ENGINE
set -eu
ringer=$1 engine=$2
tmp=$(mktemp -d)
chmod 755 "$tmp"
pid=
trap '[ -z "$pid" ] || kill -9 $pid 2>/dev/null; rm -rf "$tmp"' EXIT
fail() { echo "FAIL: $*"; cat "$tmp/err"; exit 1; }
cp out/kernel/vmlinuz out/root/initrd.cpio "$tmp/"
cp "$ringer" "$tmp/ringer" # an ordinary user may not get at where we are
mkfifo "$tmp/in"
exec 5>/dev/null 6</etc/passwd # what a careless parent leaves open
"$tmp/ringer" run --engine "$engine" --kernel "$tmp/vmlinuz" --initrd "$tmp/initrd.cpio" --append "console=ttyS0 quiet ringer.script" --cpus 2 \
    --stats-file "$tmp/stats" --stdin-eof ctrl-d <"$tmp/in" >"$tmp/out" 2>"$tmp/err" &
pid=$!
exec 7>"$tmp/in"
echo 'echo up-$((6 * 7))' >&7
i=0
until grep -q '^up-42' "$tmp/out"; do
    i=$((i + 1))
    [ $i -lt 900 ] && kill -0 $pid 2>/dev/null || fail "the guest does not come up"
    sleep 0.1
done
for t in /proc/$pid/task/*; do
    grep -q '^Seccomp:[[:space:]]*2$' "$t/status" || fail "a thread without a filter: $(cat "$t/status")"
    grep -q '^NoNewPrivs:[[:space:]]*1$' "$t/status" || fail "a thread that may gain privileges"
done
[ "$(ls /proc/$pid/task | wc -l)" -gt 4 ] || fail "where are the threads?"
if [ "$(id -u)" = 0 ]; then # nobody else may look: the process is not dumpable
    for f in /proc/$pid/fd/*; do
        l=$(readlink "$f")
        case $l in
        /dev/null | */passwd) [ "${f##*/}" -le 2 ] || fail "an inherited descriptor is open: $f $l" ;;
        esac
    done
else
    ! ls /proc/$pid/fd >/dev/null 2>&1 || fail "others may look into the process"
fi
# Statistics on request go on working.
kill -USR1 $pid
i=0
until [ -s "$tmp/stats" ]; do
    i=$((i + 1))
    [ $i -lt 100 ] || fail "no statistics after SIGUSR1"
    sleep 0.1
done
exec 7>&-
st=0
wait $pid || st=$?
pid=
[ $st = 0 ] || fail "status $st"
[ "$(grep -c '^--- ringer statistics' "$tmp/stats")" -ge 2 ] || fail "no statistics at the end"

# A container: a filter and no privileges already there.
cat >"$tmp/container.py" <<'P'
import ctypes, os, struct, sys
AUDIT, ALLOW, EPERM = 0xc000003e, 0x7fff0000, 0x00050001
refused = [101, 323, 272, 308, 165, 166, 155, 321, 298, 246, 248, 249, 250, 310, 311, 169, 304, 425] # ptrace, userfaultfd, unshare, setns, mount, ..., io_uring_setup
f = [(0x20, 0, 0, 4), (0x15, 1, 0, AUDIT), (6, 0, 0, ALLOW), (0x20, 0, 0, 0)]
for nr in refused:
    f += [(0x15, 0, 1, nr), (6, 0, 0, EPERM)]
f += [(0x15, 0, 3, 56), (0x20, 0, 0, 16), (0x45, 0, 1, 0x7e020000), (6, 0, 0, EPERM), (0x15, 0, 1, 435), (6, 0, 0, 0x00050026), (6, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *x) for x in f))
prog = struct.pack('HxxxxxxQ', len(f), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
assert libc.prctl(38, 1, 0, 0, 0) == 0
buf = ctypes.create_string_buffer(prog)
assert libc.prctl(22, 2, buf) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
P
st=0
echo 'id -u; echo in-$((6 * 7))' | timeout 120 python3 "$tmp/container.py" "$tmp/ringer" run --engine "$engine" --kernel "$tmp/vmlinuz" --initrd "$tmp/initrd.cpio" \
    --append "console=ttyS0 quiet ringer.script" --stdin-eof ctrl-d >"$tmp/out" 2>"$tmp/err" || st=$?
[ $st = 0 ] && tr -d '\r' <"$tmp/out" | grep -q '^in-42$' || fail "in a container, as an ordinary user: status $st"

# Killed without warning: nothing is left of the machine.
"$tmp/ringer" run --engine "$engine" --kernel "$tmp/vmlinuz" --initrd "$tmp/initrd.cpio" --append "console=ttyS0 quiet" --stdin-eof ignore --console none </dev/null 2>"$tmp/err" &
pid=$!
sleep 1
group=$(pgrep -P $pid || true)
kill -9 $pid
st=0
wait $pid 2>/dev/null || st=$?
[ $st = 137 ] || fail "killed: status $st"
for g in $group; do
    i=0
    while kill -0 "$g" 2>/dev/null; do
        i=$((i + 1))
        [ $i -lt 50 ] || fail "process $g outlives the machine"
        sleep 0.1
    done
done
pid=
echo "ok confined"
