#!/bin/sh
# Run engine kvm's tests on a machine that may have no hardware virtualization:
# check-kvm.sh RINGER KERNELDIR INITRD GUESTDIR [TEST-PROGRAM...]
# QEMU's TCG emulates a processor with AMD-V and nested paging; in it runs Debian's kernel with kvm-amd, and on that
# ringer, statically linked, with its guests (scripts/check-kvm-init.sh). Lines of results come back over the serial port.
# CHECK_KVM_FULL=1: more boots. CHECK_KVM_WHAT=PREFIX: only the tests whose names begin so. CHECK_KVM_LIMIT: seconds.
# CHECK_KVM_BENCH=OPTIONS: bench/bench.py with these options instead of the tests, QEMU-KVM beside engine kvm.
# Exit status 77: skipped, the last line says why.
set -eu
ringer=$1 kernel=$2 initrd=$3 guests=$4
shift 4
limit=${CHECK_KVM_LIMIT:-1200}
memory=1024

skip()
{
    echo "SKIPPED: engine kvm was NOT tested: $*"
    exit 77
}

die()
{
    echo "check-kvm.sh: $*" >&2
    exit 1
}

command -v qemu-system-x86_64 >/dev/null || skip "qemu-system-x86_64 is missing (package qemu-system-x86)"
command -v cpio >/dev/null || skip "cpio is missing (package cpio)"
busybox=${BUSYBOX:-$(command -v busybox || true)}
[ -n "$busybox" ] || skip "busybox is missing (package busybox-static)"
[ -e "$kernel/vmlinuz" ] || skip "no kernel in $kernel (make guest fetches one)"
[ -e "$initrd" ] || skip "no $initrd (make guest builds it)"
[ -n "$(find -L "$kernel/modules" -name 'kvm-amd.ko*' | head -n 1)" ] || skip "the kernel in $kernel has no kvm-amd module"
[ -e "$ringer" ] || die "no $ringer"

if [ "${CHECK_KVM_BENCH:-}" ]; then
    [ -x /usr/bin/python3 ] || skip "/usr/bin/python3 is missing (package python3)"
    [ -e out/bench/initrd.cpio ] || die "no out/bench/initrd.cpio (make bench-files)"
fi

here=$(dirname "$0")
out=${CHECK_KVM_DIR:-out/check-kvm}
root=$out/tree
rm -rf "$out"
teach=${TEACH_DIR:-out/guests/teach}
mkdir -p "$root/bin" "$root/tests/trap" "$root/teach" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/modules" "$root/tests/guest" "$root/guest" "$root/unit"
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done

# A program with the libraries it names.
add_program()
{
    cp "$1" "$2"
    add_libs "$1"
}

add_libs()
{
    for lib in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
        mkdir -p "$root$(dirname "$lib")"
        [ -e "$root$lib" ] || cp -L "$lib" "$root$lib"
    done
}

add_module()
{
    file=$(find -L "$kernel/modules" -name "$1.ko*" | head -n 1)
    [ -n "$file" ] || return 0
    case $file in
    *.xz) xz -dc "$file" ;;
    *.zst) zstd -dqc "$file" ;;
    *) cat "$file" ;;
    esac >"$root/modules/$1.ko"
    echo "$1" >>"$root/modules/load"
}

for m in irqbypass ccp kvm kvm-amd; do add_module "$m"; done
add_program "$ringer" "$root/bin/ringer"
for t in "$@"; do add_program "$t" "$root/unit/"; done
cp tests/guest/run.sh tests/guest/*.c tests/guest/*.asm "$root/tests/guest/" 2>/dev/null || :
for g in "$guests"/*.elf "$guests"/*.bin; do
    [ ! -e "$g" ] || cp "$g" "$root/guest/"
done
cp tests/trap/teach.sh "$root/tests/trap/"
for g in "$teach"/*.elf; do
    [ ! -e "$g" ] || cp "$g" "$root/teach/"
done
mkdir -p "$root/stop"
cp "$guests"/../stop/spin*.bin "$root/stop/" 2>/dev/null || :
# bench.py and what it runs: Python, QEMU with its firmware, the guest and the bare host's programs.
if [ "${CHECK_KVM_BENCH:-}" ]; then
    memory=3072
    python=$(readlink -f /usr/bin/python3)
    mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/share" "$root/bench" "$root/out/kernel" "$root/out/bench"
    add_program "$python" "$root/usr/bin/python3"
    cp -r "/usr/lib/${python##*/}" "$root/usr/lib/"
    for lib in "$root/usr/lib/${python##*/}"/lib-dynload/*.so; do add_libs "$lib"; done
    add_program "$(command -v qemu-system-x86_64)" "$root/usr/bin/" # finds its firmware from there
    cp out/bench/msi "$root/usr/bin/"
    cp -rL /usr/share/qemu /usr/share/seabios "$root/usr/share/"
    cp bench/*.py bench/agent.sh "$root/bench/"
    cp -L "$kernel/vmlinuz" "$root/out/kernel/"
    cp -r out/bench/initrd.cpio out/bench/host "$root/out/bench/"
    printf '%s\n' "$CHECK_KVM_BENCH" >"$root/bench/options"
fi
cp -L "$kernel/vmlinuz" "$root/vmlinuz"
cp "$initrd" "$root/initrd.cpio"
cp "$here/check-kvm-init.sh" "$root/init"
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) >"$out/initrd.cpio"
rm -rf "$root"

# no_timer_check: Linux finds that "IO-APIC + timer doesn't work" and panics if a busy host runs TCG too seldom while it looks (under KVM it does not look).
# QEMU 7.2 has been seen to crash here by itself, once in many runs: that says nothing about us, so it gets a second chance.
start=$(date +%s)
for chance in 1 2 3; do
    st=0
    timeout -k 2 "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu "${CHECK_KVM_CPU:-EPYC,-xsave}" -machine pc -smp 2 -m $memory -nodefaults -no-reboot \
        -display none -kernel "$kernel/vmlinuz" -initrd "$out/initrd.cpio" -append "console=ttyS0 quiet panic=-1 no_timer_check ${CHECK_KVM_FULL:+full }${CHECK_KVM_WHAT:+what=$CHECK_KVM_WHAT}" \
        -serial "file:$out/serial.log" </dev/null >"$out/qemu.log" 2>&1 || st=$?
    [ $st = 139 ] && [ $chance != 3 ] || break
    echo "QEMU crashed behind '$(tail -n 1 "$out/serial.log" | tr -d '\r')'; once more"
done
tr -d '\r' <"$out/serial.log" >"$out/log"
sed -n '/^check-kvm: begin/,$p' "$out/log"
echo "took $(($(date +%s) - start)) s"
[ "$st" = 0 ] || { grep -v "TCG doesn't support" "$out/qemu.log" || :; die "QEMU ended with status $st (124: after $limit s)"; }
grep -q '^check-kvm: [1-9][0-9]* passed, 0 failed' "$out/log" || die "not everything passed; see $out/log"
