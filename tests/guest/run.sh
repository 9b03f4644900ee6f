#!/bin/sh
# Run one self-checking guest: run.sh RINGER ENGINE IMAGE, or run.sh qemu - IMAGE.
# The source may hold a line "guest-options: --cpus 4 --memory 64M --disk 1M ..." (a subset that QEMU has too)
# and "guest-not-qemu: REASON" / "guest-not-ENGINE: REASON". RINGER_ARGS: further options of ringer run. WANT_STAT=NAME=N: the run is
# nothing worth if this counter of the engine stays below N.
set -eu
ringer=$1 engine=$2 image=$3
name=$(basename "$image"); name=${name%.*}
src=$(ls tests/guest/"$name".c tests/guest/"$name".asm 2>/dev/null | head -n 1)
who=$engine; [ "$ringer" = qemu ] && who=qemu
why=$(sed -n "s/.*guest-not-$who: *\(.*[^ *\/]\) *\(\*\/\)*$/\1/p" "$src" | head -n 1)
if [ -n "$why" ]; then echo "skipped under $who: $why"; exit 77; fi
opts=$(sed -n 's/.*guest-options: *\(.*[^ *\/]\) *\(\*\/\)*$/\1/p' "$src" | head -n 1)
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
out=$tmp/out
cpus=1 mem=64M fmt=auto disk=
set -- $opts
while [ $# -gt 0 ]; do
    case $1 in
    --cpus) cpus=$2; shift 2 ;;
    --memory) mem=$2; shift 2 ;;
    --format) fmt=$2; shift 2 ;;
    --disk) truncate -s "$2" "$tmp/disk"; disk=$tmp/disk; shift 2 ;;
    *) echo "unknown guest option $1"; exit 1 ;;
    esac
done
st=0
if [ "$ringer" = qemu ]; then
    set -- qemu-system-x86_64 -accel tcg -cpu max -machine pc -m "$mem" -smp "$cpus" -nodefaults -display none -no-reboot \
        -debugcon "file:$out" -device isa-debug-exit,iobase=0xf4,iosize=4
    if [ "$fmt" = flat ]; then set -- "$@" -drive "file=$image,format=raw,if=floppy,readonly=on"; else set -- "$@" -kernel "$image"; fi
    [ -z "$disk" ] || set -- "$@" -drive "file=$disk,format=raw,if=none,id=d" -device virtio-blk-pci,drive=d,disable-legacy=on
else
    set -- "$ringer" run --engine "$engine" --kernel "$image" --format "$fmt" --memory "$mem" --cpus "$cpus" --console none --debugcon "$out" \
        --isa-debug-exit --no-reboot ${RINGER_ARGS:-} ${WANT_STAT:+--stats=json --stats-file "$tmp/stats"}
    [ -z "$disk" ] || set -- "$@" --disk "$disk"
fi
timeout "${GUEST_TIMEOUT:-120}" "$@" </dev/null || st=$?
cat "$out" 2>/dev/null || true
if [ -n "${WANT_STAT:-}" ]; then
    n=$(grep -o "\"${WANT_STAT%=*}\": *[0-9]*" "$tmp/stats" | grep -o '[0-9]*$' || true)
    [ "${n:-0}" -ge "${WANT_STAT#*=}" ] || { echo "${WANT_STAT%=*} is ${n:-missing}, less than ${WANT_STAT#*=}"; exit 1; }
fi
# "guest-ends: triple-fault": the machine ends by itself (QEMU: -no-reboot, status 0; Ringer: 8) behind a last line without failures.
if grep -q 'guest-ends: triple-fault' "$src"; then
    want=8; [ "$ringer" = qemu ] && want=0
    if [ "$st" = "$want" ] && tail -n 1 "$out" | grep -q '^[1-9][0-9]* passed, 0 failed$'; then exit 0; fi
    echo "guest ended with status $st, not by a triple fault ($want)"; exit 1
fi
# Passed: status 1 = (0 << 1) | 1, and the guest's own last line agrees.
[ "$st" = 1 ] && grep -q '^[1-9][0-9]* passed, 0 failed$' "$out" && exit 0
echo "guest ended with status $st"
exit 1
