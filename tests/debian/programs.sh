#!/bin/sh
# In the guest, programs.sh [PROGRAMS]: programs of our own, and if none are named Debian's 32-bit busybox.
cd /tmp || exit 1
echo 1 >/proc/sys/net/core/bpf_jit_enable
for p in ${1:-signals jit compat32 bpf times}; do
    /tests/$p || echo "FAIL $p: status $?"
done
b=/tests/busybox-i386
if [ -x $b ] && [ $# = 0 ]; then
    [ "$($b uname -m)" = x86_64 ] || echo "FAIL uname of 32-bit busybox"
    $b seq 1 20000 >s
    [ "$($b sha256sum <s)" = "$(sha256sum <s)" ] || echo "FAIL sha256sum"
    [ "$($b awk 'BEGIN { for (i = 1; i <= 3000; i++) s += i * i / 7 - i / 3; printf "%.6f", s }')" = "$(awk 'BEGIN { for (i = 1; i <= 3000; i++) s += i * i / 7 - i / 3; printf "%.6f", s }')" ] || echo "FAIL awk"
    $b gzip -c s >g && $b gunzip -c g | cmp - s || echo "FAIL gzip"
    [ "$($b sh -c 'n=0; for i in $(seq 1 40); do n=$((n + $(echo $i | '$b' awk "{print \$1 * \$1}"))); done; echo $n')" = 22140 ] || echo "FAIL shell"
    echo "busybox: well"
fi
