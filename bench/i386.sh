#!/bin/sh
# Debian's unmodified i386 kernel and programs: seconds by the guest's clock under engines of Ringer and QEMU's TCG, side by side.
# i386.sh [REPS [ENGINE...]]; ENGINE: interp, patch, ..., qemu. Repetitions are interleaved; the least of each is shown.
set -eu
reps=${1:-3}
[ $# = 0 ] || shift
[ $# != 0 ] || set -- patch interp qemu
kernel=out/kernel-686/vmlinuz root=out/root-686/initrd.cpio
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cat >"$tmp/bench.sh" <<'EOS'
t() { read a b </proc/uptime; "$@" >/dev/null 2>&1; read c d </proc/uptime; echo "TIME $1 $(awk "BEGIN{print $c-$a}")"; }
loop() { n=0; while [ $n -lt 100000 ]; do n=$((n+1)); done; }
fp() { awk "BEGIN{for(i=1;i<=300000;i++)s+=i*i/7-i/3;print s}"; }
head -c 4194304 /dev/urandom >/tmp/r
sha256() { sha256sum /tmp/r /tmp/r /tmp/r /tmp/r; }
gzip_() { gzip -c /tmp/r; seq 1 300000 | gzip -c; }
spawn() { for i in $(seq 50); do /bin/busybox true; done; }
syscall() { dd if=/dev/zero of=/dev/null bs=1 count=50000; }
for w in loop sha256 gzip_ fp spawn syscall; do t $w; done
poweroff -f
EOS
(cd "$tmp" && echo bench.sh | cpio -o -H newc --quiet) >"$tmp/extra.cpio"
cat "$root" "$tmp/extra.cpio" >"$tmp/initrd"
append='console=ttyS0 quiet ringer.script="sh /bench.sh"'
for rep in $(seq "$reps"); do
    for e in "$@"; do
        start=$(date +%s.%N)
        if [ "$e" = qemu ]; then
            timeout 600 qemu-system-i386 -accel tcg -cpu max -m 256M -nographic -no-reboot -kernel "$kernel" -initrd "$tmp/initrd" -append "$append"
        else
            timeout 600 ./ringer run --engine "$e" --memory 256M --kernel "$kernel" --initrd "$tmp/initrd" --append "$append"
        fi </dev/null 2>/dev/null | tr -d '\r' | sed -n "s/.*TIME /$e /p" >>"$tmp/times"
        echo "$e all $(echo "$(date +%s.%N) - $start" | bc)" >>"$tmp/times"
    done
done
awk -v who="$*" 'BEGIN { n = split(who, w, " "); printf "%-10s", "seconds"; for (i = 1; i <= n; i++) printf "%10s", w[i]; print "" }
    !(($1, $2) in t) || $3 < t[$1, $2] { t[$1, $2] = $3 } !($2 in seen) { seen[$2] = 1; order[++k] = $2 }
    END { for (j = 1; j <= k; j++) { x = order[j]; sub(/_$/, "", x); printf "%-10s", x; for (i = 1; i <= n; i++) printf "%10.2f", t[w[i], order[j]]; print "" } }' "$tmp/times"
