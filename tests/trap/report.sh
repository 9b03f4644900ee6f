#!/bin/sh
# --report-sensitive: the instructions no host can make right at CPL 3 are counted as wrong, those that trap anyway are not.
# report.sh RINGER IMAGE
set -eu
ringer=$1 image=$2
if here=$("$ringer" engines | grep "^trap " || :) && ! echo "$here" | grep -q "^trap  *usable"; then
    echo "engine trap does not work here: $here"
    exit 77
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
timeout 100 "$ringer" run --engine trap --report-sensitive --kernel "$image" --memory 64M --console none --isa-debug-exit --no-reboot </dev/null 2>"$tmp/err" || true
cat "$tmp/err"
for op in PUSHF POPF PUSH_SEG MOV_SEG LAR LSL VERR VERW; do
    grep -Eiq "  $op +[1-9][0-9]* +[1-9][0-9]* +[0-9]+; first at" "$tmp/err" || { echo "$op: no wrong execution reported"; exit 1; }
done
for op in INT CALL_FAR; do
    grep -Eiq "  $op +([1-9][0-9]*) +0 +\1\$" "$tmp/err" || { echo "$op: should have trapped each time"; exit 1; }
done
# The kernel adapted to hypercalls executes none that goes wrong.
timeout 100 "$ringer" run --engine trap --report-sensitive --hypercalls --kernel "${image%.elf}-adapted.elf" --memory 64M --console none --isa-debug-exit --no-reboot </dev/null 2>"$tmp/err"
cat "$tmp/err"
grep -Eq "  IRET +([1-9][0-9]*) +0 +\1\$" "$tmp/err" || { echo "the adapted kernel: IRET should have trapped each time"; exit 1; }
! grep -E '^(ringer: )?  [A-Z_]+ +[0-9]+ +[1-9]' "$tmp/err" || { echo "the adapted kernel: these went wrong"; exit 1; }
