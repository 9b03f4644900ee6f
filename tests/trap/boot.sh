#!/bin/sh
# Debian's unmodified i386 kernel with direct execution: to a shell, programs that compute what they compute on the host, power-off.
# boot.sh RINGER ENGINE OPTIONS...
set -eu
ringer=$1 engine=$2
shift 2
if here=$("$ringer" engines | grep "^$engine " || :) && ! echo "$here" | grep -q "^$engine  *usable"; then
    echo "engine $engine does not work here: $here"
    exit 77
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
st=0
cat >"$tmp/script" <<'EOS'
uname -m
seq 1 30000 >/tmp/s; echo sum=$(sha256sum </tmp/s | cut -c1-64); gzip -c /tmp/s >/tmp/g; gunzip -c /tmp/g | cmp - /tmp/s && echo same
awk "BEGIN{for(i=1;i<=20000;i++)s+=i*i/7-i/3;printf \"float=%.6f\n\",s}"
n=0; while [ $n -lt 5000 ]; do n=$((n+1)); done; echo count=$n
(exit 7); echo st=$?
EOS
timeout -k 5 "${BOOT_TIMEOUT:-250}" "$ringer" run --engine "$engine" "$@" --kernel out/kernel-686/vmlinuz --initrd out/root-686/initrd.cpio \
    --append "console=ttyS0 quiet ringer.script" --stdin-eof ctrl-d --stats=json --stats-file "$tmp/stats" <"$tmp/script" >"$tmp/out" 2>"$tmp/err" || st=$?
tr -d '\r' <"$tmp/out" >"$tmp/clean"
die() { echo "FAIL: $*"; tail -n 30 "$tmp/clean"; cat "$tmp/err"; exit 1; }
want() { grep -q -- "$1" "$tmp/clean" || die "no '$1' in the guest's output"; }
[ $st = 0 ] || die "exit status $st"
want '^i686$'
want "^sum=$(seq 1 30000 | sha256sum | cut -c1-64)\$"
want '^same$'
want "^float=$(awk 'BEGIN{for(i=1;i<=20000;i++)s+=i*i/7-i/3;printf "%.6f",s}')\$"
want '^count=5000$'
want '^st=7$'
# And it was direct execution that did it.
python3 - "$tmp/stats" <<'EOS' || die "not executed directly"
import json, sys
s = json.dumps(json.load(open(sys.argv[1])))
import re
assert int(re.search(r'"entries into direct execution": (\d+)', s).group(1)) > 500, s
EOS
