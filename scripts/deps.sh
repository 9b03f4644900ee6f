#!/bin/sh
# Install the Debian packages Ringer needs: deps.sh build | run | test | bench | bench32 | browser.
# As root or through sudo; otherwise prints the one command to run.
set -eu
build="gcc make libc6-dev libzydis-dev libjson-c-dev liblzma-dev zlib1g-dev libzstd-dev liblz4-dev"
test="python3 procps e2fsprogs libcmocka-dev nasm clang cpio xz-utils zstd busybox-static libclang-rt-14-dev binutils qemu-system-x86"
bench="bochs bochsbios vgabios nasm qemu-system-x86 busybox-static cpio hyperfine python3"
run="busybox-static cpio xz-utils"
bench32="$bench gcc-multilib libc6-dev-i386"
browser="chromium python3"
want=""
for set in "${@:-build}"; do
    case $set in
    build) want="$want $build" ;;
    run) want="$want $build $run" ;;
    test) want="$want $build $run $test" ;;
    bench) want="$want $build $run $bench" ;;
    bench32) want="$want $build $run $bench32" ;;
    browser) want="$want $browser" ;;
    *) echo "deps.sh: unknown set '$set'" >&2; exit 2 ;;
    esac
done
missing=""
for p in $want; do
    case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) in
    "install ok installed") ;;
    *) case " $missing " in *" $p "*) ;; *) missing="$missing $p" ;; esac ;;
    esac
done
[ -n "$missing" ] || exit 0
cmd="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then sudo=""; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo="sudo"; else
    echo "Ringer needs packages that are not installed. Run this once, then try again:" >&2
    echo "  sudo apt-get update && sudo $cmd" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive $cmd -qq >/dev/null
