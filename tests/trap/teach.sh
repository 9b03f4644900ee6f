#!/bin/sh
# The teaching kernel under one engine: teach.sh RINGER right|wrong IMAGE OPTIONS...
# right: everything it saw is what a processor of its own shows. wrong: what Popek and Goldberg's theorem says goes wrong did, and
# nothing else.
set -eu
ringer=$1 want=$2 image=$3
shift 3
engine=$2
if ! "$ringer" engines | grep -q "^$engine  *usable"; then
    echo "engine $engine does not work here: $("$ringer" engines | grep "^$engine ")"
    exit 77
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
st=0
timeout 100 "$ringer" run "$@" --kernel "$image" --memory 64M --isa-debug-exit --no-reboot </dev/null | tr -d '\r' >"$tmp/out" || st=$?
cat "$tmp/out"
tail -n 1 "$tmp/out" | grep -Eq '^teach: [0-9]+ right, [0-9]+ wrong$' || { echo "the self-test did not end"; exit 1; }
if [ "$want" = right ]; then
    grep -q '^teach: 32 right, 0 wrong$' "$tmp/out" && exit 0
    echo "expected all right under $*"
    exit 1
fi
# Unprivileged and sensitive: these cannot be right at CPL 3. (SGDT, SIDT, SLDT, STR and SMSW depend on the host: UMIP may make them trap.)
cat >"$tmp/must" <<'EOF'
CS after IRET to the same privilege
CS after JMP far
LAR of kernel code
LSL of the TSS
MOV from DS in user code
MOV from SS
MOV to GS of selector 2b, then a load through it
POP FS of selector 2b, then a load through it
PUSH CS
PUSH CS in user code
PUSH DS
PUSHF after CLI, IF
PUSHF after POPF set IOPL to 3
VERR of kernel data, ZF
VERW of kernel data, ZF
timer interrupts arrive after POPF cleared IF
timer interrupts arrive after POPF set IF
EOF
grep '^WRONG' "$tmp/out" | sed 's/^WRONG  \(.*\): [0-9a-f]*, a .*/\1/' | grep -Ev '^(SGDT base|SIDT base|SLDT|STR|SMSW)$' | LC_ALL=C sort >"$tmp/got"
diff "$tmp/must" "$tmp/got" && exit 0
echo "expected wrong (<) and what was wrong (>) differ"
exit 1
