#!/bin/sh
# Get Debian's static busybox of another architecture: fetch-busybox.sh ARCH DIR
# Unpacks it into DIR (DIR/bin/busybox); nothing is installed and no root is needed. Does nothing if it is there.
set -eu
arch=$1 dir=$2
[ ! -x "$dir/bin/busybox" ] || exit 0
for tool in apt-get dpkg dpkg-deb; do
    command -v $tool >/dev/null || { echo "fetch-busybox.sh: $tool is missing: this needs Debian or a derivative" >&2; exit 1; }
done
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
opts="-o APT::Architectures=$(dpkg --print-architecture),$arch -o Dir::State::Lists=$dir/apt/lists -o Dir::Cache=$dir/apt/cache"
[ "$(id -u)" != 0 ] || opts="$opts -o APT::Sandbox::User=root"
# One source that fails does not matter if another has the package.
# shellcheck disable=SC2086
apt-get $opts -qq update || echo "some package lists could not be read" >&2
# shellcheck disable=SC2086
(cd "$dir" && rm -f ./*.deb && apt-get $opts -qq download "busybox-static:$arch")
dpkg-deb -x "$dir"/busybox-static_*.deb "$dir/root"
rm -rf "$dir/apt"
rm -f "$dir"/*.deb
mkdir -p "$dir/bin"
cp "$(find "$dir/root" -name busybox -type f -perm -100 | head -n 1)" "$dir/bin/busybox"
rm -rf "$dir/root"
