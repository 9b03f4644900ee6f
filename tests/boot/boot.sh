#!/bin/sh
# Boot tests of an unmodified Debian kernel: boot.sh RINGER ENGINE CASE
# Each case drives the guest's shell through the serial console and checks what comes back.
set -eu
ringer=$1 engine=$2 case=$3
kernel=out/kernel/vmlinuz initrd=out/root/initrd.cpio
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
die() { echo "FAIL: $*"; [ ! -f "$tmp/out" ] || tail -n 30 "$tmp/out"; exit 1; }
# guest SCRIPT OPTIONS...: run the script's lines; output in $tmp/out, status in $st
guest() {
    script=$1; shift
    st=0
    printf '%s\n' "$script" | timeout -k 5 "${BOOT_TIMEOUT:-150}" "$ringer" run --engine "$engine" --kernel "$kernel" --initrd "$initrd" \
        --append "console=ttyS0 quiet ringer.script" --stdin-eof ctrl-d ${BOOT_OPTIONS:-} "$@" >"$tmp/out" 2>"$tmp/err" || st=$?
    tr -d '\r' <"$tmp/out" >"$tmp/clean"
}
want() { grep -q -- "$1" "$tmp/clean" || die "no '$1' in the guest's output"; }
status() { [ "$st" = "$1" ] || { cat "$tmp/err"; die "exit status $st, not $1"; }; }

case $case in
cpu1)
    guest 'uname -r; echo cpus=$(nproc); cat /sys/devices/system/clocksource/clocksource0/available_clocksource; echo $((6 * 7)) is the answer'
    status 0; want '^[0-9.]*-.*amd64'; want '^cpus=1$'; want kvm-clock; want '^42 is the answer$' ;;
cpu4)
    guest 'echo cpus=$(nproc); for i in 1 2 3 4; do (n=0; while [ $n -lt 2000 ]; do n=$((n+1)); done; echo done$i) & done; wait; echo all' --cpus 4
    status 0; want '^cpus=4$'; for i in 1 2 3 4; do want "^done$i\$"; done; want '^all$' ;;
work)
    # Programs compute what they compute on the host; on two processors, with processes coming and going.
    guest 'seq 1 30000 >/tmp/s; echo sum=$(sha256sum </tmp/s | cut -c1-64); gzip -c /tmp/s >/tmp/g; gunzip -c /tmp/g | cmp - /tmp/s && echo same
n=0; for i in $(seq 1 60); do n=$((n + $(echo $i | awk "{print \$1 * \$1}"))); done; echo squares=$n
awk "BEGIN{for(i=1;i<=2000;i++)s+=i*i/7-i/3;printf \"float=%.6f\\n\",s}"; echo $(md5sum </bin/busybox) >/tmp/a
for j in 1 2 3; do (for i in 1 2 3; do echo $(md5sum </bin/busybox) | cmp - /tmp/a || echo torn; done) & done; wait; echo end' --cpus 2
    status 0; want "^sum=$(seq 1 30000 | sha256sum | cut -c1-64)\$"; want '^same$'; want '^squares=73810$'
    want "^float=$(awk 'BEGIN{for(i=1;i<=2000;i++)s+=i*i/7-i/3;printf "%.6f",s}')\$"; want '^end$'
    ! grep -q '^torn' "$tmp/clean" || die "two runs of one program differ" ;;
compute)
    # One static program here and there: integers, floating point and copies to the last bit; alone and two at a time.
    mkdir -p "$tmp/tree/bin"
    gcc -O2 -static -o "$tmp/tree/bin/work" bench/work.c -lm
    (cd "$tmp/tree" && find . | cpio -o -H newc -R 0:0 --quiet) | cat "$initrd" - >"$tmp/initrd"
    initrd=$tmp/initrd
    guest 'work check; work check >/tmp/1 & work check >/tmp/2; wait; cmp /tmp/1 /tmp/2 && echo alike; work fork 30 && work exec 10 && work fault 3000 && work pipe 300 && echo works' \
        --cpus 2 --stats=json --stats-file "$tmp/stats"
    status 0; want '^alike$'; want '^works$'
    "$tmp/tree/bin/work" check >"$tmp/here"
    while read -r line; do want "^$line\$"; done <"$tmp/here"
    case ${BOOT_OPTIONS:-} in
    *user-code=direct*) python3 -c 'import sys
n = int(open(sys.argv[1]).read().split("\"direct_entries\":")[1].split(",")[0])
assert n > 1000, n' "$tmp/stats" || die "user code did not run directly" ;;
    esac ;;
world-killed)
    # A process in which user code runs ends by force: so does the machine, at once, and says why.
    echo 'echo looping; while :; do :; done' >"$tmp/in"
    "$ringer" run --engine "$engine" --kernel "$kernel" --initrd "$initrd" \
        --append "console=ttyS0 quiet ringer.script" ${BOOT_OPTIONS:-} <"$tmp/in" >"$tmp/out" 2>"$tmp/err" &
    p=$!
    trap 'kill -9 $p 2>/dev/null || true; rm -rf "$tmp"' EXIT
    for i in $(seq 300); do grep -q '^looping' "$tmp/out" && break; sleep 0.2; done
    grep -q '^looping' "$tmp/out" || die "the guest never looped"
    sleep 1
    worlds=$(pgrep -P $p -x ringer-user) || die "no process of user code"
    kill -9 $(echo "$worlds" | head -n 1)
    [ "$(echo "$worlds" | wc -l)" = 1 ] || { sleep 0.2; kill -9 $worlds 2>/dev/null || true; }
    runs() { grep -q '^State:.[^Z]' "/proc/$p/status" 2>/dev/null; } # the shell may have reaped it already
    for i in $(seq 100); do runs || break; sleep 0.2; done
    ! runs || die "it goes on"
    st=0; wait $p || st=$?
    status 4
    [ "$(grep -c . "$tmp/err")" = 1 ] && grep -q 'ended by signal 9' "$tmp/err" || { cat "$tmp/err"; die "not one clear line"; }
    for w in $worlds; do [ ! -e "/proc/$w" ] || die "a process is left"; done ;;
verify)
    # The kernel's first instructions, each compared with the interpreter's. VERIFY: how many.
    guest 'true' --verify="${VERIFY:-30M}"
    status 0; grep -q 'verify: [0-9]* instructions .* no difference' "$tmp/err" || { cat "$tmp/err"; die "not verified"; } ;;
cpu8)
    guest 'echo cpus=$(nproc)' --cpus 8
    status 0; want '^cpus=8$' ;;
i386)
    # A 32-bit kernel with PAE and a 32-bit user world, x87 included (awk computes in it).
    kernel=out/kernel-686/vmlinuz initrd=out/root-686/initrd.cpio
    guest 'uname -m; echo cpus=$(nproc); grep -c " pae " /proc/cpuinfo; echo abc | sha256sum; awk "BEGIN { printf \"%.6f\\n\", 355 / 113 }"; (exit 7); echo st=$?' --cpus 2
    status 0; want '^i686$'; want '^cpus=2$'; want '^2$'; want '^edeaaff3f1774ad2888673770c6d64097e391bc362d7d6fb34982ddf0efd18cb '
    want "^3.141593\$"; want '^st=7$' ;;
xen)
    # Another hypervisor underneath: Xen's Multiboot entry, segments and NMIs, and Debian's kernel as its first domain in ring 3.
    kernel=out/xen/xen
    st=0
    timeout -k 5 "${BOOT_TIMEOUT:-280}" "$ringer" run --engine "$engine" --kernel "$kernel" --initrd out/kernel/vmlinuz --initrd "$initrd" --memory 1G \
        --cpus 2 --no-reboot --append 'no-real-mode com1=115200,8n1 console=com1 -- console=hvc0 earlyprintk=xen,keep quiet ringer.script="echo \
\<1\>domain=$(cat /sys/hypervisor/type) cpus=$(nproc) sum=$(seq 1 5000 | sha256sum | cut -c1-64) >/dev/kmsg; reboot -f"' \
        </dev/null >"$tmp/out" 2>"$tmp/err" || st=$?
    tr -d '\r' <"$tmp/out" >"$tmp/clean"
    status 6; want 'Brought up 2 CPUs'; want "domain=xen cpus=2 sum=$(seq 1 5000 | sha256sum | cut -c1-64)" ;;
disk)
    # Written, flushed, read back: inside the guest, then by the host.
    truncate -s 8M "$tmp/disk"
    guest 'dd if=/dev/urandom of=/tmp/r bs=64k count=32 2>/dev/null; dd if=/tmp/r of=/dev/vda bs=64k 2>/dev/null; sync
echo 3 >/proc/sys/vm/drop_caches; echo sum=$(head -c 2097152 /dev/vda | sha256sum | cut -d" " -f1) was=$(sha256sum </tmp/r | cut -d" " -f1)
dd if=/dev/vdb of=/dev/null bs=512 count=1 2>/dev/null && echo ro-read; echo x >/dev/vdb 2>/dev/null || echo ro-kept; blockdev --getsz /dev/vda' \
        --disk "$tmp/disk" --disk README.md,ro
    # README.md is no multiple of 512 bytes: refused. The real run has a padded copy.
    status 2
    cp README.md "$tmp/ro"; truncate -s 4096 "$tmp/ro"
    before=$(sha256sum <"$tmp/ro")
    guest 'dd if=/dev/urandom of=/tmp/r bs=64k count=32 2>/dev/null; dd if=/tmp/r of=/dev/vda bs=64k 2>/dev/null; sync
echo 3 >/proc/sys/vm/drop_caches; echo sum=$(head -c 2097152 /dev/vda | sha256sum | cut -d" " -f1) was=$(sha256sum </tmp/r | cut -d" " -f1)
dd if=/dev/vdb of=/dev/null bs=512 count=1 2>/dev/null && echo ro-read; echo x 2>/dev/null >/dev/vdb || echo ro-kept' \
        --disk "$tmp/disk" --disk "$tmp/ro,ro"
    status 0
    sum=$(sed -n 's/^sum=\([0-9a-f]*\) was=.*/\1/p' "$tmp/clean") was=$(sed -n 's/.* was=\([0-9a-f]*\)$/\1/p' "$tmp/clean")
    [ -n "$sum" ] && [ "$sum" = "$was" ] || die "the guest reads other bytes than it wrote"
    [ "$(head -c 2097152 "$tmp/disk" | sha256sum | cut -d' ' -f1)" = "$sum" ] || die "the image holds other bytes than the guest wrote"
    [ "$(stat -c %s "$tmp/disk")" = 8388608 ] || die "the image changed its size"
    [ "$(sha256sum <"$tmp/ro")" = "$before" ] || die "the read-only image changed"
    want ro-read; want ro-kept ;;
virtio-console)
    st=0
    printf 'echo on $(cat /sys/class/tty/console/active) $((6 * 7))\n' | timeout -k 5 150 "$ringer" run --engine "$engine" --kernel "$kernel" --initrd "$initrd" --console virtio \
        --append "console=hvc0 quiet ringer.script" --stdin-eof ctrl-d >"$tmp/out" 2>"$tmp/err" || st=$?
    tr -d '\r' <"$tmp/out" >"$tmp/clean"
    status 0; want '^on hvc0 42$' ;;
reset)
    guest 'reboot -f' --no-reboot
    status 6 ;;
reboot)
    # The machine comes up again after a reset: the marker on the disk tells the second boot from the first.
    truncate -s 1M "$tmp/disk"
    printf 'if [ "$(head -c 4 /dev/vda)" = done ]; then echo second boot; poweroff -f; fi\nprintf done >/dev/vda; sync; reboot -f\n' >"$tmp/script"
    st=0
    (cat "$tmp/script"; sleep 3; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 3; head -n 1 "$tmp/script" 2>/dev/null || exit; done) | timeout -k 5 150 "$ringer" run \
        --engine "$engine" --kernel "$kernel" --initrd "$initrd" --append "console=ttyS0 quiet ringer.script" --disk "$tmp/disk" >"$tmp/out" 2>"$tmp/err" || st=$?
    tr -d '\r' <"$tmp/out" >"$tmp/clean"
    status 0; want '^second boot$' ;;
panic)
    guest 'echo c >/proc/sysrq-trigger' --no-reboot
    [ "$st" = 10 ] || [ "$st" = 6 ] || die "exit status $st after a panic" ;;
stats)
    guest 'true' --stats=json --stats-file "$tmp/stats"
    status 0
    python3 -c 'import json,sys
s = json.load(open(sys.argv[1]))
i = s["instructions"]
assert i["total"] > 100000000 and i["privileged"] > 1000 and i["behaviour_sensitive"] > 1000, i
assert i["innocuous"] < i["total"] and s["exceptions"]["#PF"] > 100 and s["interrupts"] > 50, s
assert s["ports"]["serial"]["writes"] > 10' "$tmp/stats" || die "the statistics are not what a boot makes" ;;
sites)
    # Where time goes adds up, and trap sites bear the names the guest itself has for their addresses, wherever KASLR put it: symbols
    # are one boot's, addresses another's.
    for k in 1 2; do
        guest 'grep " [tTwW] " /proc/kallsyms; i=0; while [ $i -lt 400000 ]; do i=$((i + 1)); done; dd if=/dev/zero of=/dev/null bs=1 count=2000 2>/dev/null; echo done' \
            $([ $k = 1 ] || echo --symbols "$tmp/map1" --stats=json --stats-file "$tmp/stats")
        status 0; want '^done$'
        grep -E '^[0-9a-f]{16} [tTwW] ' "$tmp/clean" >"$tmp/map$k"
    done
    python3 - "$tmp/stats" "$tmp/map1" "$tmp/map2" <<'P' || die "the statistics tell something else"
import bisect, json, sys
s = json.load(open(sys.argv[1]))
w = s["guest_time"]
parts = [w[k] for k in ("direct_seconds", "translated_user_seconds", "translated_kernel_seconds", "interpreted_seconds", "monitor_seconds")]
assert min(parts) >= 0 and parts[0] > 0 and parts[2] > 0 and w["samples"] > 20, w
assert abs(sum(parts) - (s["wall_seconds"] - s["halted_seconds"])) < 1e-3, (w, s["wall_seconds"], s["halted_seconds"])
assert s["exits"]["page fault"] == s["exceptions"]["#PF"] and s["engine_counters"]["cache_bytes"] > 100000
linked, now = ({l[2]: int(l[0], 16) for l in map(str.split, open(f))} for f in sys.argv[2:])
assert s["symbols_match"] == "yes" and linked["_text"] + s["kernel_slide"] & (1 << 64) - 1 == now["_text"], hex(s["kernel_slide"])
names = {}
for n, a in ((l[2], int(l[0], 16)) for l in map(str.split, open(sys.argv[3])) if len(l) == 3): # without modules
    names.setdefault(a, set()).add(n)
at, kernel = sorted(names), 0
for x in s["trap_sites"]:
    a = int(x["address"], 16)
    if now["_text"] <= a < now["_etext"]:
        p = at[bisect.bisect_right(at, a) - 1]
        assert x["symbol"] in {f"{n}+0x{a - p:x}" for n in names[p]}, (x, names[p])
        kernel += 1
counts = [x["count"] for x in s["trap_sites"]]
assert kernel > 5 and counts == sorted(counts, reverse=True), s["trap_sites"]
P
    sed 's/^\(.*\)0 T entry_SYSCALL_64$/\18 T entry_SYSCALL_64/' "$tmp/map1" >"$tmp/other"
    ! cmp -s "$tmp/map1" "$tmp/other" || die "no system call entry among the symbols"
    guest true --symbols "$tmp/other" --stats
    status 0
    grep -q '^symbols  *of another kernel' "$tmp/err" && ! grep -q '^trap site.*+0x' "$tmp/err" || die "another kernel's symbols are used" ;;
kill)
    # Killed in the middle of writing: the image keeps its size and what was flushed before.
    truncate -s 4M "$tmp/disk"
    (printf 'printf marker >/dev/vda; sync; echo flushed; while true; do dd if=/dev/urandom of=/dev/vda bs=64k seek=1 count=60 conv=fsync 2>/dev/null; done\n'; for i in $(seq 50); do sleep 2; echo; done) |
        "$ringer" run --engine "$engine" --kernel "$kernel" --initrd "$initrd" --append "console=ttyS0 quiet ringer.script" --disk "$tmp/disk" >"$tmp/out" 2>&1 &
    for i in $(seq 120); do grep -q "^flushed" "$tmp/out" && break; sleep 1; done
    grep -q "^flushed" "$tmp/out" || die "the guest never wrote"
    sleep 1
    pkill -KILL -f "$tmp/disk" || die "nothing to kill"
    [ "$(stat -c %s "$tmp/disk")" = 4194304 ] || die "the image changed its size"
    [ "$(head -c 6 "$tmp/disk")" = marker ] || die "flushed data is gone" ;;
idle)
    # A halted guest costs no host CPU: five idle seconds.
    (sleep 15; echo poweroff) | "$ringer" run --engine "$engine" --kernel "$kernel" --initrd "$initrd" --append "console=ttyS0 quiet" --cpus 2 \
        >"$tmp/out" 2>&1 &
    for i in $(seq 60); do grep -q 'shell (ash)' "$tmp/out" && break; sleep 0.5; done
    p=$(pgrep -n -f "run --engine $engine --kernel $kernel --initrd $initrd --append console=ttyS0 quiet --cpus 2") || die "no process"
    sleep 2
    a=$(awk '{print $14 + $15}' "/proc/$p/stat"); sleep 4; b=$(awk '{print $14 + $15}' "/proc/$p/stat")
    wait || true
    echo "idle: $((b - a)) ticks in 4 s"
    [ $((b - a)) -le 20 ] || die "an idle guest used $((b - a)) of 400 ticks" ;;
*) echo "unknown case $case"; exit 1 ;;
esac
echo "ok $case"
