#!/bin/sh
# Build a small root file system for the guest: mkroot.sh [KERNELDIR [OUTDIR]]
# One static busybox, an init script, and from KERNELDIR/modules the virtio
# drivers with what they depend on. OUTDIR/initrd.gz (and .cpio, the same
# uncompressed) come out identical for identical inputs.
# BUSYBOX names another binary than the system's, for a guest of another architecture.
set -eu
kernel=${1:-out/kernel}
out=${2:-out/root}
drivers="virtio_pci virtio_blk virtio_console virtio-rng pvpanic-mmio"

die()
{
    echo "mkroot.sh: $*" >&2
    exit 1
}

here=$(dirname "$0")
busybox=${BUSYBOX:-$(command -v busybox || true)}
[ -n "$busybox" ] || die "busybox is missing (package busybox-static)"
command -v cpio >/dev/null || die "cpio is missing (package cpio)"
command -v gzip >/dev/null || die "gzip is missing"

root=$out/tree
rm -rf "$root"
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/root" "$root/etc" "$root/mnt" \
    "$root/lib/modules"
ln -s bin "$root/sbin"
mkdir "$root/usr"
ln -s ../bin "$root/usr/bin"
ln -s ../bin "$root/usr/sbin"
cp "$busybox" "$root/bin/busybox"
# A binary that does not run here is assumed to have the applets of the one that does.
applets=$("$busybox" --list 2>/dev/null || busybox --list) || die "$busybox cannot be run, nor another busybox"
for applet in $applets; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
cp "$here/guest-init.sh" "$root/init"
chmod 755 "$root/init" "$root/bin/busybox"
echo "root::0:0:root:/root:/bin/sh" >"$root/etc/passwd"
echo "root:x:0:" >"$root/etc/group"

# Modules in the order they must be loaded; what is built into the kernel has no file.
add_module()
{
    name=$(echo "$1" | tr - _)
    case " $added " in *" $name "*) return ;; esac
    added="$added $name"
    pattern=$(echo "$name" | sed 's/_/[_-]/g')
    file=$(find -L "$kernel/modules" -name "$pattern.ko*" | sort | head -n 1)
    [ -n "$file" ] || return 0
    case $file in
    *.xz) xz -dc "$file" ;;
    *.zst) zstd -dqc "$file" ;;
    *) cat "$file" ;;
    esac >"$root/lib/modules/$name.ko"
    # The assignments below change $name in the recursion, so the list is extended by the positional parameter.
    for dep in $(tr '\0' '\n' <"$root/lib/modules/$name.ko" | sed -n 's/^depends=//p' | tr , ' '); do
        add_module "$dep"
    done
    echo "$1" | tr - _ >>"$root/lib/modules/load"
}
added=""
: >"$root/lib/modules/load"
if [ -d "$kernel/modules/" ]; then
    for m in $drivers; do add_module "$m"; done
fi

find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet) >"$out/initrd.cpio.new"
gzip -n -9 <"$out/initrd.cpio.new" >"$out/initrd.gz.new"
mv "$out/initrd.cpio.new" "$out/initrd.cpio"
mv "$out/initrd.gz.new" "$out/initrd.gz"
rm -rf "$root"
