#!/bin/sh
# Resource control: two machines side by side on one processor. One takes all it can reach (interrupts off, every port, memory it does not have,
# hypercalls with any address), the other fills its memory, computes and looks whether all is still its own.
# separate.sh RINGER ENGINE IMAGE [OPTIONS...]
set -eu
ringer=$1 engine=$2 image=$3
shift 3
if here=$("$ringer" engines | grep "^$engine " || :) && ! echo "$here" | grep -q "^$engine  *usable"; then
    echo "engine $engine does not work here: $here"
    exit 77
fi
tmp=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill -9 $pid 2>/dev/null || :; rm -rf "$tmp"' EXIT
fail() { echo "FAIL: $*"; exit 1; }
# One processor for both, so that whoever does not give it up would keep it.
one=$(taskset -pc $$ 2>/dev/null | sed 's/.*: *\([0-9]*\).*/\1/') || one=
[ -n "$one" ] && taskset -pc "$one" $$ >/dev/null

"$ringer" run --engine "$engine" "$@" --memory 64M --isa-debug-exit --no-reboot --kernel "$image" --append hostile </dev/null --stdin-eof ignore >"$tmp/hostile" 2>&1 &
pid=$!
i=0
until grep -q 'hostile: begins' "$tmp/hostile"; do
    i=$((i + 1))
    [ $i -lt 300 ] && kill -0 $pid 2>/dev/null || fail "the hostile machine did not begin: $(cat "$tmp/hostile")"
    sleep 0.1
done

# Separation, equivalence: the victim sees nothing of it.
timeout 100 "$ringer" run --engine "$engine" "$@" --memory 64M --isa-debug-exit --no-reboot --kernel "$image" --append victim </dev/null 2>&1 | tr -d '\r' >"$tmp/victim" || :
cat "$tmp/victim"
grep -q '^teach: 3 right, 0 wrong$' "$tmp/victim" || fail "the victim was disturbed"

# Allocation: what the hostile one holds is its own memory and the monitor, not more.
kill -0 $pid 2>/dev/null || fail "the hostile machine is gone: $(cat "$tmp/hostile")"
held=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' /proc/$pid/status)
echo "the hostile machine holds ${held:?} KiB at most"
case $(basename "$(dirname "$ringer")") in
asan | tsan) ;;
*) [ "$held" -lt $(((64 + 64) * 1024)) ] || fail "it holds $held KiB with 64 MiB of memory" ;;
esac

# Preemption: it has interrupts off and loops, and ends when its owner says so.
kill -TERM $pid
i=0
while kill -0 $pid 2>/dev/null; do
    i=$((i + 1))
    [ $i -lt 100 ] || fail "the hostile machine does not end"
    sleep 0.1
done
st=0
wait $pid || st=$?
pid=
[ $st = 143 ] || fail "the hostile machine ended with status $st: $(cat "$tmp/hostile")"
echo "ended by its owner"
