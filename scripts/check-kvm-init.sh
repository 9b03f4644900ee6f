#!/bin/sh
# First process of the machine that scripts/check-kvm.sh emulates: engine kvm's tests.
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
exec </dev/null >/dev/ttyS0 2>&1
for m in $(cat /modules/load); do
    insmod "/modules/$m.ko"
done
cd /
what=$(sed -n 's/.* what=\([^ ]*\).*/\1/p' /proc/cmdline)
full=$(sed -n 's/.* \(full\).*/\1/p' /proc/cmdline)
passed=0 failed=0 skipped=0
now() { cut -d' ' -f1 /proc/uptime | tr -d .; }

# check NAME COMMAND...: output is shown if it fails. When this machine is so slow at the moment that the probe refuses it, again a little
# later.
check()
{
    name=$1
    shift
    case $name in "$what"*) ;; *) return ;; esac
    t=$(now)
    for chance in 1 2 3 4 5 6; do
        "$@" >/tmp/log 2>&1 </dev/null
        st=$?
        [ $st != 0 ] && grep -q '/dev/kvm \(only emulates\|hangs\)' /tmp/log || break
        sleep 2
    done
    t=$((($(now) - t) / 10))
    t=$((t / 10)).$((t % 10))
    case $st in
    0) passed=$((passed + 1)); echo "ok      $name (${t} s)" ;;
    77) skipped=$((skipped + 1)); echo "SKIPPED $name: $(tail -n 1 /tmp/log)" ;;
    *)
        failed=$((failed + 1))
        echo "FAILED  $name (status $st, ${t} s)"
        grep -v '^ok ' /tmp/log | tail -n 40 | sed 's/^/    /'
        ;;
    esac
}

guest() # GUEST IRQCHIP
{
    GUEST_TIMEOUT=60 RINGER_ARGS="--on-tcg --irqchip $2" sh tests/guest/run.sh ringer kvm "$1"
}

# TCG's VMRUN loads DR7 without arming what it says, so a breakpoint is missed if an exit comes between its set-up and its use;
# and clocks are compared with each other, which needs this machine to run without long breaks.
guest_patiently()
{
    guest "$@" || guest "$@" || guest "$@"
}

# Debian to power-off; with DISK, a file written there is read back by the guest and found by the host.
debian() # CPUS IRQCHIP [DISK]
{
    script='nproc | sed s/^/cpus:/; cat /sys/devices/system/clocksource/clocksource0/current_clocksource'
    if [ "${3:-}" ]; then
        truncate -s 16M /tmp/disk
        script="$script; (cat /bin/busybox /bin/busybox /bin/busybox /bin/busybox | head -c 4194304; echo end) | dd of=/dev/vda bs=64k conv=fsync 2>/dev/null"
        script="$script; echo 3 >/proc/sys/vm/drop_caches; head -c 4194308 /dev/vda | sha256sum | sed s/^/disk:/"
    fi
    timeout 120 ringer run --engine kvm --irqchip "$2" --cpus "$1" --kernel /vmlinuz --initrd /initrd.cpio --memory 256M --stats ${3:+--disk /tmp/disk} \
        --append "console=ttyS0 quiet ringer.script=\"$script\"" </dev/null 2>/tmp/stats | tr -d '\r' >/tmp/out
    cat /tmp/out /tmp/stats
    grep -q "^cpus:$1\$" /tmp/out && grep -q '^kvm-clock$' /tmp/out && grep -q 'engine kvm' /tmp/stats && grep -q 'reboot: Power down' /tmp/out || return 1
    [ ! "${3:-}" ] && return
    [ "$(head -c 4194308 /tmp/disk | tail -c 4)" = end ] && grep -q "^disk:$(head -c 4194308 /tmp/disk | sha256sum)" /tmp/out
}

reboot() # a disk is written and flushed, the guest resets itself, and the second boot reads it back
{
    truncate -s 4M /tmp/disk
    timeout 120 ringer run --engine kvm --cpus 2 --kernel /vmlinuz --initrd /initrd.cpio --memory 256M --disk /tmp/disk --stats \
        --append 'console=ttyS0 quiet ringer.script="if [ x$(head -c 4 /dev/vda) = xdone ]; then echo second:$(nproc); else echo first; echo done | dd of=/dev/vda conv=sync,fsync; reboot -f; fi"' \
        </dev/null 2>/tmp/stats | tr -d '\r' >/tmp/out
    cat /tmp/out /tmp/stats
    [ "$(head -c 4 /tmp/disk)" = done ] && grep -q '^first$' /tmp/out && grep -q '^second:2$' /tmp/out && grep -q 'reboot: Power down' /tmp/out &&
        grep -q 'doorbells  *[1-9]' /tmp/stats
}

usable() { ringer engines | tee /tmp/engines; grep -q '^kvm *usable' /tmp/engines; }

picks() # kvm|other [OPTIONS]: what auto takes
{
    want=$1
    shift
    ringer run "$@" --kernel /guest/string.elf --console none --debugcon /tmp/dbg --isa-debug-exit --no-reboot --on-tcg --stats 2>&1 | tee /tmp/auto
    case $want in
    kvm) grep -q 'engine kvm$' /tmp/auto ;;
    other) grep -q 'engine [a-z]*$' /tmp/auto && ! grep -q 'engine kvm$' /tmp/auto ;;
    esac
}

refused() # OPTIONS: --engine kvm fails with a reason and status 2
{
    ringer run --engine kvm "$@" --kernel /guest/string.elf >/tmp/auto 2>&1
    st=$?
    cat /tmp/auto
    [ $st = 2 ] && grep -q 'not usable here' /tmp/auto
}

tests()
{
    ringer engines >/dev/null # TCG's first VM takes longer than a probe may
    check engine/usable usable
    check engine/auto picks kvm --engine auto
    check engine/auto-absent picks other --engine auto --kvm-device /nope
    check engine/auto-no-kvm-device picks other --engine auto --kvm-device /dev/null
    check engine/refused-absent refused --kvm-device /nope
    for u in /unit/*; do
        [ ! -e "$u" ] || check "engine/${u##*/}" "$u"
    done
    for s in /stop/*; do
        [ ! -e "$s" ] || check "engine/stop/${s##*/}" stopped "$s"
    done
    check engine/limit stopped /stop/spin64-jmp.bin --cpu-limit 10
    for g in /guest/*; do
        n=${g##*/}
        n=${n%.*}
        for irqchip in kernel split user; do
            case $n in
            debug | time) check "guest/$n/$irqchip" guest_patiently "$g" $irqchip ;;
            *) check "guest/$n/$irqchip" guest "$g" $irqchip ;;
            esac
        done
    done
    for g in /teach/*; do # right under hardware virtualization, plain and adapted
        n=${g##*/}
        n=${n%.elf}
        for irqchip in kernel split user; do
            check "teach/$n/$irqchip" sh tests/trap/teach.sh ringer right "$g" --engine kvm --irqchip $irqchip
        done
    done
    check debian/1/kernel debian 1 kernel
    check debian/2/kernel/reboot reboot
    check debian/4/kernel/disk debian 4 kernel disk
    [ "$full" ] || return
    check debian/1/user/disk debian 1 user disk
    check debian/2/user debian 2 user
    check debian/4/split/disk debian 4 split disk
}

bench() # as bench/README.md says; the figures are an emulated processor's
{
    msi || return
    RINGER=/bin/ringer sh -c "exec python3 bench/bench.py $(cat /bench/options)" 2>&1 | tee /tmp/bench
    for word in "boot (median" "^| kvm " "^| qemu-kvm " "beyond guest RAM" "^written:"; do
        grep -q "$word" /tmp/bench || return 1
    done
}

# A guest that spins with interrupts off ends at SIGTERM; with OPTIONS (--cpu-limit) it was held up before.
stopped() # IMAGE [OPTIONS]
{
    image=$1
    shift
    rm -f /tmp/dbg
    ringer run --engine kvm --memory 32M --kernel "$image" --console none --debugcon /tmp/dbg --stats "$@" >/tmp/stop 2>&1 &
    pid=$!
    for i in $(seq 100); do
        [ ! -s /tmp/dbg ] || break
        usleep 100000
    done
    usleep 300000
    kill -TERM $pid
    wait $pid
    st=$?
    cat /tmp/stop
    [ -s /tmp/dbg ] && [ $st = 143 ] || return 1
    [ $# = 0 ] || { grep -q '^limit ' /tmp/stop && ! grep -q ' 0.000 s$' /tmp/stop; }
}

echo "check-kvm: begin"
if [ -e /bench/options ]; then
    export PATH=/bin:/usr/bin
    bench && passed=1 || failed=1
else
    tests
fi
echo "check-kvm: $passed passed, $failed failed, $skipped skipped"
poweroff -f
