#!/bin/sh
# The teaching kernel: teach.sh RINGER right|wrong IMAGE OPTIONS..., the first two options being --engine NAME; RINGER qemu: QEMU's TCG, no options.
# right: everything it saw is what a processor of its own shows. wrong: what Popek and Goldberg's theorem says goes wrong did, and
# nothing else. An adapted image runs with --hypercalls.
set -eu
ringer=$1 want=$2 image=$3
shift 3
engine=${2:-}
if [ "$ringer" = qemu ]; then
    command -v qemu-system-x86_64 >/dev/null || { echo "qemu-system-x86_64 is missing (package qemu-system-x86)"; exit 77; }
elif here=$("$ringer" engines | grep "^$engine " || :) && ! echo "$here" | grep -q "^$engine  *usable"; then
    echo "engine $engine does not work here: $here"
    exit 77
fi
case $image in
*adapted*) count=13; set -- "$@" --hypercalls ;;
*) count=40 ;;
esac
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
st=0
if [ "$ringer" = qemu ]; then
    set -- qemu-system-x86_64 -accel tcg -cpu max -m 64 -nodefaults -display none -no-reboot -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4
else
    set -- "$ringer" run "$@" --memory 64M --isa-debug-exit --no-reboot
fi
flag=--kernel
[ "$ringer" != qemu ] || flag=-kernel
# 64-bit code must have run directly where that was asked for.
direct=
case "$image $engine $*" in
*64*" trap "*--patch=lazy*--direct=always* | *64*" patch "*--direct=always*) direct=1 ;;
*64*" trap "*--patch* | *64*" patch "*) ;;
*64*" trap "*) direct=1 ;;
esac
[ -z "$direct" ] || set -- "$@" --stats=json --stats-file "$tmp/stats"
timeout 100 "$@" $flag "$image" </dev/null | tr -d '\r' >"$tmp/out" || st=$?
cat "$tmp/out"
tail -n 1 "$tmp/out" | grep -Eq '^teach: [0-9]+ right, [0-9]+ wrong$' || { echo "the self-test did not end"; exit 1; }
if [ -n "$direct" ] && ! grep -Eq '"worlds of 64-bit code made": *[4-9]' "$tmp/stats"; then
    echo "64-bit code was not executed directly, kernel and user code of each address space apart"
    exit 1
fi
if [ "$want" = right ]; then
    [ "$(grep -c '^right  ' "$tmp/out")" = $count ] && grep -q "^teach: $count right, 0 wrong\$" "$tmp/out" && exit 0
    echo "expected all right under $*"
    exit 1
fi
# Unprivileged and sensitive: these cannot be right at CPL 3. (SGDT, SIDT, SLDT, STR and SMSW depend on the host: UMIP may make them trap.)
{
    cat <<'EOT'
CS after IRET to the same privilege
CS after JMP far
LAR of kernel code
LSL of the TSS
MOV from DS in user code
MOV from SS
MOV to GS of selector 2b, then a load through it
POP FS of selector 2b, then a load through it
PUSHF after CLI, IF
PUSHF after POPF set IOPL to 3
VERR of kernel data, ZF
VERW of kernel data, ZF
the interrupt flag while closed
timer interrupts arrive after POPF cleared IF
timer interrupts arrive after POPF set IF
EOT
    case $image in
    *64*) printf 'MOV from CS\nMOV from CS in user code\nPUSH FS\n' ;;
    *) printf 'PUSH CS\nPUSH CS in user code\nPUSH DS\n' ;;
    esac
} | LC_ALL=C sort >"$tmp/must"
grep '^WRONG' "$tmp/out" | sed 's/^WRONG  \(.*\): [0-9a-f]*, a .*/\1/' | grep -Ev '^(SGDT base|SIDT base|SLDT|STR|SMSW)$' | LC_ALL=C sort >"$tmp/got"
diff "$tmp/must" "$tmp/got" && exit 0
echo "expected wrong (<) and what was wrong (>) differ"
exit 1
