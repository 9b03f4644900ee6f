#!/bin/sh
# Get a Debian kernel, unmodified: fetch-kernel.sh [PACKAGE [DIR]]
# Downloads PACKAGE (or, if it is an empty one that depends on the current
# kernel, what it depends on) and unpacks it into DIR; nothing is installed and
# no root is needed. Afterwards DIR/vmlinuz is the kernel and DIR/modules its
# modules. Does nothing if they are there.
# PACKAGE may name an architecture: linux-image-686-pae:i386.
set -eu
package=${1:-linux-image-cloud-amd64}
dir=${2:-out/kernel}

die()
{
    echo "fetch-kernel.sh: $*" >&2
    exit 1
}

[ -e "$dir/vmlinuz" ] && [ -d "$dir/modules/" ] && exit 0
for tool in apt-get apt-cache dpkg-deb; do
    command -v $tool >/dev/null || die "$tool is missing: this needs Debian or a derivative"
done
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
opts=""
[ "$(id -u)" != 0 ] || opts="-o APT::Sandbox::User=root"

# Use package lists of our own: the system's may be missing, stale, or not ours to refresh.
own_lists()
{
    arch=$(dpkg --print-architecture)
    case $package in *:*) [ "${package#*:}" = "$arch" ] || arch="$arch,${package#*:}" ;; esac
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
    opts="$opts -o APT::Architectures=$arch -o Dir::State::Lists=$dir/apt/lists -o Dir::Cache=$dir/apt/cache"
    echo "reading package lists..."
    # One source that fails does not matter if another has the package.
    # shellcheck disable=SC2086
    apt-get $opts -qq update || echo "some package lists could not be read" >&2
}

# The package that holds the kernel itself.
resolve()
{
    # shellcheck disable=SC2086
    apt-cache $opts show "$package" 2>/dev/null | awk -F': ' '
        /^Package:/ { name = $2 }
        /^Architecture:/ { arch = $2 }
        /^Depends:/ && name !~ /[0-9]\.[0-9]/ { split($2, d, /[ ,(|]+/); name = d[1] }
        /^$/ { exit }
        END { if (name != "") print name ":" arch }'
}

download()
{
    real=$(resolve)
    [ -n "$real" ] || return 1
    # shellcheck disable=SC2086
    (cd "$dir" && rm -f ./*.deb && apt-get $opts -qq download "$real" 2>"$dir/log")
}

download || { own_lists && download; } || {
    [ ! -s "$dir/log" ] || cat "$dir/log" >&2
    die "cannot get $package: no network, or the package sources do not have it. Put a kernel and its modules into $dir/vmlinuz and $dir/modules instead."
}
deb=$(echo "$dir"/*.deb)
rm -rf "$dir/root" "$dir/log" "$dir/apt"
dpkg-deb -x "$deb" "$dir/root"
rm -f "$deb"
version=$(basename "$dir"/root/boot/vmlinuz-* | sed 's/^vmlinuz-//')
[ -e "$dir/root/boot/vmlinuz-$version" ] || die "$real holds no kernel"
moddir=root/lib/modules
[ -d "$dir/$moddir" ] || moddir=root/usr/lib/modules
ln -sfn "$moddir/$version" "$dir/modules"
ln -sfn "root/boot/vmlinuz-$version" "$dir/vmlinuz"
echo "kernel $version"
