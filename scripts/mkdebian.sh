#!/bin/sh
# A Debian root file system for tests, as a disk image: mkdebian.sh DIR PACKAGE...
# Downloads the packages with all they depend on and unpacks them into DIR/tree; their scripts are not run, nothing is installed, no root is
# needed. The shell and the small tools are busybox's. DIR/extra, if there, is copied over it. DIR/root.img is the result (ext4, /dev/vda).
# Does nothing if the image is newer than DIR/extra and has the packages.
set -eu
dir=$1
shift
for tool in apt-get dpkg-deb mke2fs busybox; do
    command -v $tool >/dev/null || PATH=$PATH:/sbin:/usr/sbin
    command -v $tool >/dev/null || { echo "mkdebian.sh: $tool is missing (packages apt, dpkg, e2fsprogs, busybox-static)" >&2; exit 1; }
done
mkdir -p "$dir/debs"
dir=$(cd "$dir" && pwd)
opts=""
[ "$(id -u)" != 0 ] || opts="-o APT::Sandbox::User=root"

# With nothing installed, what apt would fetch is all that is needed.
: >"$dir/status"
needed()
{
    # shellcheck disable=SC2086
    apt-get $opts -o Dir::State::status="$dir/status" -qq -s --no-install-recommends install "$@" | sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p'
}
if [ "$(cat "$dir/packages" 2>/dev/null)" != "$*" ] || [ ! -d "$dir/tree" ]; then
    names=$(needed "$@" 2>/dev/null || true)
    if [ -z "$names" ]; then # package lists of our own
        mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
        opts="$opts -o Dir::State::Lists=$dir/apt/lists -o Dir::Cache=$dir/apt/cache"
        # shellcheck disable=SC2086
        apt-get $opts -qq update || echo "some package lists could not be read" >&2
        names=$(needed "$@")
    fi
    # shellcheck disable=SC2086
    (cd "$dir/debs" && rm -f ./*.deb && apt-get $opts -qq download $names)
    rm -rf "$dir/tree.new" "$dir/tree"
    mkdir "$dir/tree.new"
    for f in "$dir"/debs/*.deb; do
        dpkg-deb -x "$f" "$dir/tree.new"
    done
    t=$dir/tree.new
    rm -rf "$dir/debs" "$dir/apt" "$t/usr/share/doc" "$t/usr/share/man" "$t/usr/share/locale" "$t/usr/share/info"
    mkdir -p "$t/proc" "$t/sys" "$t/dev" "$t/tmp" "$t/root" "$t/run" "$t/var/tmp" "$t/etc" "$t/bin" "$t/usr/bin"
    cp "$(command -v busybox)" "$t/bin/busybox"
    for applet in $(busybox --list); do
        [ -e "$t/bin/$applet" ] || [ -e "$t/usr/bin/$applet" ] || [ -e "$t/sbin/$applet" ] || [ -e "$t/usr/sbin/$applet" ] || ln -s busybox "$t/bin/$applet"
    done
    echo "root::0:0:root:/root:/bin/sh" >"$t/etc/passwd"
    echo "root:x:0:" >"$t/etc/group"
    mv "$t" "$dir/tree"
    echo "$*" >"$dir/packages"
    rm -f "$dir/root.img"
fi
rm -f "$dir/status"
if [ ! -e "$dir/root.img" ] || [ -n "$(find "$dir/extra" -newer "$dir/root.img" 2>/dev/null | head -n 1)" ]; then
    [ ! -d "$dir/extra" ] || cp -a "$dir/extra/." "$dir/tree/"
    size=$(($(du -sm "$dir/tree" | cut -f1) * 3 / 2 + 128))
    rm -f "$dir/root.new"
    truncate -s "${size}M" "$dir/root.new"
    mke2fs -q -t ext4 -F -E root_owner=0:0,lazy_itable_init=0 -O ^has_journal -d "$dir/tree" "$dir/root.new"
    mv "$dir/root.new" "$dir/root.img"
fi
