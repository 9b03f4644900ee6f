#!/bin/sh
# Get Debian's Xen hypervisor, unmodified: fetch-xen.sh DIR makes DIR/xen, a Multiboot image. Nothing is installed.
set -eu
dir=$1
mkdir -p "$dir"
[ ! -e "$dir/xen" ] || exit 0
opts=""
[ "$(id -u)" != 0 ] || opts="-o APT::Sandbox::User=root"
package=$(apt-cache search --names-only '^xen-hypervisor-[0-9.]*-amd64$' | awk '{ print $1 }' | sort -V | tail -n 1)
[ -n "$package" ] || { echo "fetch-xen.sh: no xen-hypervisor-*-amd64 in the package lists (apt-get update?)" >&2; exit 1; }
# shellcheck disable=SC2086
(cd "$dir" && rm -rf ./*.deb root && apt-get $opts -qq download "$package" && dpkg-deb -x "$package"_*.deb root)
gzip -dc "$dir"/root/boot/xen-*-amd64.gz >"$dir/xen.new"
mv "$dir/xen.new" "$dir/xen"
rm -rf "$dir/root" "$dir"/*.deb
echo "$package"
