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

# check NAME COMMAND...: output is shown if it fails.
check()
{
    name=$1
    shift
    case $name in "$what"*) ;; *) return ;; esac
    t=$(now)
    "$@" >/tmp/log 2>&1 </dev/null
    st=$?
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

# TCG's VMRUN loads DR7 without arming what it says, so a breakpoint is missed if an exit comes between its set-up and its use.
guest_debug()
{
    guest "$@" || guest "$@" || guest "$@"
}

debian() # CPUS IRQCHIP
{
    timeout 60 ringer run --engine kvm --irqchip "$2" --cpus "$1" --kernel /vmlinuz --initrd /initrd.cpio --memory 256M --stats \
        --append 'console=ttyS0 quiet ringer.script="nproc | sed s/^/cpus:/; cat /sys/devices/system/clocksource/clocksource0/current_clocksource"' \
        </dev/null 2>/tmp/stats | tr -d '\r' >/tmp/out
    cat /tmp/out /tmp/stats
    grep -q "^cpus:$1\$" /tmp/out && grep -q '^kvm-clock$' /tmp/out && grep -q 'engine kvm' /tmp/stats && grep -q 'reboot: Power down' /tmp/out
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

picks() # ENGINE [OPTIONS]: what auto takes
{
    want=$1
    shift
    ringer run "$@" --kernel /guest/string.elf --console none --debugcon /tmp/dbg --isa-debug-exit --no-reboot --on-tcg --stats 2>&1 | tee /tmp/auto
    grep -Eq "engine ($want)\$" /tmp/auto
}

refused() # OPTIONS: --engine kvm fails with a reason and status 2
{
    ringer run --engine kvm "$@" --kernel /guest/string.elf >/tmp/auto 2>&1
    st=$?
    cat /tmp/auto
    [ $st = 2 ] && grep -q 'not usable here' /tmp/auto
}

echo "check-kvm: begin"
check engines usable
check auto picks kvm --engine auto
check auto-absent picks "translate|interp" --engine auto --kvm-device /nope
check auto-no-kvm-device picks "translate|interp" --engine auto --kvm-device /dev/null
check refused-absent refused --kvm-device /nope
for u in /unit/*; do
    [ ! -e "$u" ] || check "unit/${u##*/}" "$u"
done
for g in /guest/*; do
    n=${g##*/}
    n=${n%.*}
    case $n in
    debug) check "guest/$n" guest_debug "$g" kernel ;;
    *) check "guest/$n" guest "$g" kernel ;;
    esac
    case $n in
    apic | smp | virtio | pci)
        check "guest/$n/split" guest "$g" split
        check "guest/$n/user" guest "$g" user
        ;;
    esac
done
for g in /teach/*; do # right under hardware virtualization, plain and adapted
    n=${g##*/}
    n=${n%.elf}
    check "teach/$n" sh tests/trap/teach.sh ringer right "$g" --engine kvm
    case $n in
    *32-adapted) # halting and interrupts are elsewhere
        check "teach/$n/split" sh tests/trap/teach.sh ringer right "$g" --engine kvm --irqchip split
        check "teach/$n/user" sh tests/trap/teach.sh ringer right "$g" --engine kvm --irqchip user
        ;;
    esac
done
check debian/1 debian 1 kernel
check debian/2/reboot reboot
if [ "$full" ]; then
    check debian/2 debian 2 kernel
    check debian/2/split debian 2 split
    check debian/2/user debian 2 user
fi
echo "check-kvm: $passed passed, $failed failed, $skipped skipped"
poweroff -f
