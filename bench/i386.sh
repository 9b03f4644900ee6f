#!/bin/sh
# Debian's unmodified i386 kernel and programs: seconds by the guest's clock under engines of Ringer and QEMU's TCG, side by side.
# i386.sh [REPS [ENGINE...]]; ENGINE: interp, patch, ..., qemu. Repetitions are interleaved; the least of each is shown. int and float are C programs
# (bench/work.c for i386, static), which must also give what they give here.
set -eu
reps=${1:-3}
[ $# = 0 ] || shift
[ $# != 0 ] || set -- patch interp qemu
kernel=out/kernel-686/vmlinuz root=out/root-686/initrd.cpio
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
if ! gcc -m32 -O2 -static -o "$tmp/work" bench/work.c -lm 2>"$tmp/err"; then
    echo "no 32-bit C programs here (sh scripts/deps.sh bench32): $(head -n 1 "$tmp/err")"
    exit 2
fi
cat >"$tmp/bench.sh" <<'EOS'
t() { read a b </proc/uptime; "$@" >/dev/null 2>&1; read c d </proc/uptime; echo "TIME $1 $(awk "BEGIN{print $c-$a}")"; }
loop() { n=0; while [ $n -lt 100000 ]; do n=$((n+1)); done; }
fp() { awk "BEGIN{for(i=1;i<=300000;i++)s+=i*i/7-i/3;print s}"; }
head -c 4194304 /dev/urandom >/tmp/r
sha256() { sha256sum /tmp/r /tmp/r /tmp/r /tmp/r; }
gzip_() { gzip -c /tmp/r; seq 1 300000 | gzip -c; }
spawn() { for i in $(seq 50); do /bin/busybox true; done; }
int() { /work int 5000; }
float() { /work float 5000; }
syscall() { dd if=/dev/zero of=/dev/null bs=1 count=50000; }
for w in loop sha256 gzip_ fp int float spawn syscall; do t $w; done
/work check | sed "s/^/CHECK /"
poweroff -f
EOS
"$tmp/work" check >"$tmp/right"
(cd "$tmp" && printf 'bench.sh\nwork\n' | cpio -o -H newc --quiet) >"$tmp/extra.cpio"
cat "$root" "$tmp/extra.cpio" >"$tmp/initrd"
append='console=ttyS0 quiet ringer.script="sh /bench.sh"'
for rep in $(seq "$reps"); do
    for e in "$@"; do
        start=$(date +%s.%N)
        if [ "$e" = qemu ]; then
            timeout 600 qemu-system-i386 -accel tcg -cpu max -m 256M -nographic -no-reboot -kernel "$kernel" -initrd "$tmp/initrd" -append "$append"
        else
            timeout 600 ./ringer run --engine "$e" --memory 256M --kernel "$kernel" --initrd "$tmp/initrd" --append "$append"
        fi </dev/null 2>/dev/null | tr -d '\r' >"$tmp/out"
        sed -n "s/.*TIME /$e /p" "$tmp/out" >>"$tmp/times"
        sed -n 's/^CHECK //p' "$tmp/out" | cmp -s - "$tmp/right" || echo "$e: the C programs gave something else"
        echo "$e all $(echo "$(date +%s.%N) - $start" | bc)" >>"$tmp/times"
    done
done
awk -v who="$*" 'BEGIN { n = split(who, w, " "); printf "%-10s", "seconds"; for (i = 1; i <= n; i++) printf "%10s", w[i]; print "" }
    !(($1, $2) in t) || $3 < t[$1, $2] { t[$1, $2] = $3 } !($2 in seen) { seen[$2] = 1; order[++k] = $2 }
    END { for (j = 1; j <= k; j++) { x = order[j]; sub(/_$/, "", x); printf "%-10s", x; for (i = 1; i <= n; i++) printf "%10.2f", t[w[i], order[j]]; print "" } }' "$tmp/times"
