#!/bin/sh
# Get Debian's C compiler with what it needs to compile and link a program: fetch-gcc.sh DIR makes DIR/gcc.tar. Nothing is installed.
# The archive is also a disk image: its size is a multiple of 512 bytes, and tar in the guest reads the device.
set -eu
dir=$1
mkdir -p "$dir"
[ ! -e "$dir/gcc.tar" ] || exit 0
opts=""
[ "$(id -u)" != 0 ] || opts="-o APT::Sandbox::User=root"
packages="gcc-12 cpp-12 libgcc-12-dev libgcc-s1 binutils-x86-64-linux-gnu libbinutils libctf0 libctf-nobfd0 libjansson4 libisl23 libmpc3 libmpfr6
    libgmp10 libzstd1 zlib1g libc6 libc6-dev linux-libc-dev"
rm -rf "$dir/debs" "$dir/root"
mkdir -p "$dir/debs" "$dir/root"
# shellcheck disable=SC2086
(cd "$dir/debs" && apt-get $opts -qq download $packages)
for d in "$dir"/debs/*.deb; do
    dpkg-deb -x "$d" "$dir/root"
done
# What C programs do not need: other compilers' passes, sanitizers, documents.
gcc=$dir/root/usr/lib/gcc/x86_64-linux-gnu/12
rm -rf "$dir"/root/usr/share "$dir"/root/etc "$dir"/root/usr/lib/x86_64-linux-gnu/gconv "$gcc"/lto1 "$gcc"/g++-mapper-server "$gcc"/plugin \
    "$gcc"/lib*san* "$gcc"/libgomp* "$gcc"/libitm* "$gcc"/libquadmath* "$gcc"/libatomic* "$gcc"/libgcov* "$gcc"/libcc1* "$gcc"/libbacktrace*
# The dynamic linker is found by a link that leads out of the tree.
ln -sf ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$dir/root/lib64/ld-linux-x86-64.so.2"
mv "$dir/root/usr/bin/x86_64-linux-gnu-gcc-12" "$dir/root/usr/bin/x86_64-linux-gnu-as" "$dir/root/usr/bin/x86_64-linux-gnu-ld.bfd" "$dir"
rm -rf "$dir/root/usr/bin"
mkdir "$dir/root/usr/bin"
mv "$dir/x86_64-linux-gnu-gcc-12" "$dir/root/usr/bin/gcc"
mv "$dir/x86_64-linux-gnu-as" "$dir/root/usr/bin/as"
mv "$dir/x86_64-linux-gnu-ld.bfd" "$dir/root/usr/bin/ld"
tar -C "$dir/root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$dir/gcc.tar.new" .
mv "$dir/gcc.tar.new" "$dir/gcc.tar"
rm -rf "$dir/root" "$dir/debs"
