#!/bin/sh
# In the guest, kernel.sh [few]: a kernel that changes itself. Modules come and go, tracers, probes and static keys patch its text, under load.
cd /tmp || exit 1
fail() { echo "FAIL $*"; }
load() { while :; do ls -lR /usr/bin | sha256sum; seq 1 500 | sort -n | tail -n 1; done >/dev/null 2>&1; }
load & l1=$!
load & l2=$!

m=/tests/modules
ip link set lo up
for i in $(seq 1 6); do
    insmod $m/loop.ko || fail "insmod loop"
    insmod $m/dummy.ko || fail "insmod dummy"
    ip link add dummy9 type dummy && ip link set dummy9 up && ip addr add 10.9.9.9/24 dev dummy9 && ping -c 1 -w 5 10.9.9.9 >/dev/null || fail "dummy"
    ip link del dummy9
    if [ $((i % 5)) = 1 ]; then
        dd if=/dev/zero of=img bs=1M count=8 2>/dev/null
        losetup /dev/loop0 img && /sbin/mke2fs -q -t ext4 -F /dev/loop0 && mkdir -p m && mount -t ext4 /dev/loop0 m || fail "loop"
        cp /bin/busybox m/ && sync && cmp /bin/busybox m/busybox || fail "ext4 on loop"
        umount m
        losetup -d /dev/loop0
    fi
    sleep 0.1
    rmmod dummy || fail "rmmod dummy"
    rmmod loop || fail "rmmod loop"
done
echo "modules: done"

mount -t tracefs t /sys/kernel/tracing 2>/dev/null || mount -t tracefs t /sys/kernel/debug/tracing
t=/sys/kernel/tracing
[ -e $t/current_tracer ] || t=/sys/kernel/debug/tracing
for i in $(seq 1 3); do
    [ "${1:-}" != few ] || echo 'vfs_* sched_* do_sys_* ext4_*' >$t/set_ftrace_filter # of all functions, it takes minutes in slow engines
    for tracer in function function_graph; do
        echo $tracer >$t/current_tracer || fail "$tracer"
        ls / >/dev/null
        sleep 0.2
        [ "$(head -n 100 $t/trace | wc -l)" -ge 100 ] || fail "$tracer: no trace"
        echo nop >$t/current_tracer
    done
    echo 'vfs_*' >$t/set_ftrace_filter
    echo function >$t/current_tracer
    cat /etc/passwd >/dev/null
    head -n 400 $t/trace | grep -q vfs_read || fail "filtered function tracer"
    head -n 400 $t/trace | grep -v '^#' | grep -qv vfs_ && fail "the filter does not hold"
    echo nop >$t/current_tracer
    echo >$t/set_ftrace_filter
done
echo "tracers: done"

for i in $(seq 1 8); do
    echo 'p:ring do_sys_openat2 name=+0($arg2):string' >$t/kprobe_events 2>/dev/null || echo 'p:ring do_sys_openat2' >$t/kprobe_events || fail "kprobe"
    echo 'p:inside do_sys_openat2+0x5' >>$t/kprobe_events 2>/dev/null
    echo 'r:back do_sys_openat2 ret=$retval' >>$t/kprobe_events || fail "kretprobe"
    echo 1 >$t/events/kprobes/enable
    cat /etc/passwd >/dev/null
    echo 0 >$t/events/kprobes/enable
    grep -q 'ring:' $t/trace || fail "the probe was not hit"
    grep -q 'back:.*ret=0x' $t/trace || fail "the return probe was not hit"
    echo >$t/kprobe_events
    echo >$t/trace
done
echo "probes: done"

# Static keys
for i in $(seq 1 40); do
    echo $((i % 2)) >/proc/sys/kernel/sched_schedstats
    echo $((i % 2)) >$t/events/sched/enable
    echo $((i % 2)) >$t/events/syscalls/enable
    ls / >/dev/null
done
echo 0 >$t/events/enable
echo "keys: done"
kill $l1 $l2
wait
