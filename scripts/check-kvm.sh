#!/bin/sh
# Run engine kvm's tests on a machine that may have no hardware virtualization:
# check-kvm.sh RINGER KERNELDIR INITRD GUESTDIR [TEST-PROGRAM...]
# QEMU's TCG emulates a processor with AMD-V and nested paging; in it runs Debian's kernel with kvm-amd, and on that
# ringer with its guests (scripts/check-kvm-init.sh). Lines of results come back over the serial port.
# CHECK_KVM_FULL=1: more boots. CHECK_KVM_WHAT=PREFIX: only the tests whose names begin so. CHECK_KVM_LIMIT: seconds.
# Exit status 77: skipped, the last line says why.
set -eu
ringer=$1 kernel=$2 initrd=$3 guests=$4
shift 4
limit=${CHECK_KVM_LIMIT:-600}

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
cp -L "$kernel/vmlinuz" "$root/vmlinuz"
cp "$initrd" "$root/initrd.cpio"
cp "$here/check-kvm-init.sh" "$root/init"
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) >"$out/initrd.cpio"
rm -rf "$root"

start=$(date +%s)
st=0
timeout -k 2 "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu "${CHECK_KVM_CPU:-EPYC,-xsave}" -machine pc -smp 2 -m 1024 -nodefaults -no-reboot \
    -display none -kernel "$kernel/vmlinuz" -initrd "$out/initrd.cpio" -append "console=ttyS0 quiet panic=-1 ${CHECK_KVM_FULL:+full }${CHECK_KVM_WHAT:+what=$CHECK_KVM_WHAT}" \
    -serial "file:$out/serial.log" </dev/null >"$out/qemu.log" 2>&1 || st=$?
tr -d '\r' <"$out/serial.log" >"$out/log"
sed -n '/^check-kvm: begin/,$p' "$out/log"
echo "took $(($(date +%s) - start)) s"
[ "$st" = 0 ] || { grep -v "TCG doesn't support" "$out/qemu.log" || :; die "QEMU ended with status $st (124: after $limit s)"; }
grep -q '^check-kvm: [1-9][0-9]* passed, 0 failed' "$out/log" || die "not everything passed; see $out/log"
