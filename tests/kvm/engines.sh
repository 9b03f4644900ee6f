#!/bin/sh
# The choice of engine: engines.sh RINGER. Right with no /dev/kvm, with a file that is none, with a forbidden one, and with this host's.
set -eu
ringer=$1
guest=out/guest/string.elf
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAIL: $*"; exit 1; }

# auto OPTIONS...: the engine that ran
auto() {
    timeout -k 1 60 "$ringer" run --engine auto "$@" --kernel $guest --console none --debugcon /dev/null --isa-debug-exit --no-reboot --stats \
        </dev/null 2>"$tmp/stats" || :
    sed -n 's/.*statistics, engine //p' "$tmp/stats"
}

# state OPTIONS...: what `ringer engines` says of kvm
state() {
    timeout -k 1 20 "$ringer" engines "$@" >"$tmp/engines" || fail "ringer engines $*: status $?"
    grep -q '^interp *usable' "$tmp/engines" || fail "interp is not usable"
    sed -n 's/^kvm *\(usable\|not usable\) .*/\1/p' "$tmp/engines"
}

# refused REASON OPTIONS...: --engine kvm says so, in one line, within a second
refused() {
    reason=$1
    shift
    st=0
    t=$(date +%s%N)
    timeout -k 1 20 "$ringer" run --engine kvm "$@" --kernel $guest >"$tmp/out" 2>"$tmp/err" </dev/null || st=$?
    t=$((($(date +%s%N) - t) / 1000000))
    [ "$st" = 2 ] || fail "refusal with status $st"
    [ "$(wc -l <"$tmp/err")" = 1 ] && [ ! -s "$tmp/out" ] || fail "refusal is not one line"
    grep -q "not usable here: .*$reason" "$tmp/err" || fail "'$(cat "$tmp/err")' does not say '$reason'"
    [ "$t" -lt 15000 ] || fail "refusal took $t ms"
}

best=$(auto --kvm-device "$tmp/none")
[ -n "$best" ] && [ "$best" != kvm ] || fail "auto without a device: '$best'"
if "$ringer" engines | grep -q '^translate *usable'; then
    [ "$best" = translate ] || fail "translate works, and auto takes $best"
fi
[ "$(state --kvm-device "$tmp/none")" = 'not usable' ] || fail "a missing device is usable"
refused 'does not exist' --kvm-device "$tmp/none"
: >"$tmp/file"
[ "$(auto --kvm-device "$tmp/file")" = "$best" ] || fail "auto with a file for a device"
refused 'is no KVM device' --kvm-device "$tmp/file"
refused 'is no KVM device' --kvm-device /dev/null
if [ "$(id -u)" != 0 ]; then
    chmod 000 "$tmp/file"
    refused 'permission denied' --kvm-device "$tmp/file"
fi
case $(state) in
usable)
    [ "$(auto)" = kvm ] || fail "KVM works, and auto takes $(auto)"
    echo "this host's KVM works"
    ;;
'not usable')
    [ "$(auto)" = "$best" ] || fail "KVM does not work, and auto takes $(auto)"
    refused '/dev/kvm' --irqchip split
    sed -n 's/^kvm */this host: /p' "$tmp/engines"
    ;;
*) fail "ringer engines does not list kvm" ;;
esac
# Options that ask for what an engine has not
for o in "--irqchip kernel" "--irqchip nonesuch"; do
    st=0
    timeout -k 1 20 "$ringer" run --engine interp $o --kernel $guest >"$tmp/out" 2>"$tmp/err" </dev/null || st=$?
    [ "$st" = 2 ] && grep -q irqchip "$tmp/err" || fail "$o: status $st"
done
echo passed
