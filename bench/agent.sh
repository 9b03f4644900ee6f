# shellcheck shell=sh disable=SC2154
# The shell that does what bench.py asks, one command a line, in a guest or on the bare host.
# $dir: where files go, in memory.
# b COMMAND...: run it between two marks. The second one gives the status.
b() {
    echo @B
    "$@"
    echo "@E $?"
}
loop() {
    i=0
    while [ $i -lt "$1" ]; do i=$((i + 1)); done
}
sha() {
    i=0
    while [ $i -lt "$1" ]; do
        sha256sum "$dir"/data >/dev/null || return
        i=$((i + 1))
    done
}
zip() {
    i=0
    while [ $i -lt "$1" ]; do
        gzip -c "$dir"/mix >/dev/null || return
        i=$((i + 1))
    done
}
syscalls() { dd if=/dev/zero of=/dev/null bs=1 count="$1" 2>/dev/null; }
prepare() {
    work fill 2048 "$dir"/mix && cat "$dir"/mix "$dir"/mix "$dir"/mix "$dir"/mix >"$dir"/data
}
check() {
    work check
    sha256sum <"$dir"/data
    gzip -nc "$dir"/mix | sha256sum
}
# The compiler out of its archive (scripts/fetch-gcc.sh), a file or a disk. It runs in its own tree; only its dynamic linker must be where
# programs look for it.
tools() {
    mkdir "$dir"/gcc && tar -xf "$1" -C "$dir"/gcc && cp "$2" "$dir"/program.c || return
    libs=$dir/gcc/usr/lib/x86_64-linux-gnu
    [ -e /lib64/ld-linux-x86-64.so.2 ] && return
    libs=$libs:$dir/gcc/lib/x86_64-linux-gnu
    mkdir -p /lib64 && ln -s "$dir"/gcc/lib64/ld-linux-x86-64.so.2 /lib64/
}
compile() {
    i=0
    while [ $i -lt "$1" ]; do
        (cd "$dir" && PATH=$dir/gcc/usr/bin LD_LIBRARY_PATH=$libs TMPDIR=$dir gcc --sysroot="$dir"/gcc -B"$dir"/gcc/usr/bin -O2 -o program program.c) || return
        i=$((i + 1))
    done
}
compiled() {
    sha256sum <"$dir"/program && LD_LIBRARY_PATH=$libs "$dir"/program
}
# N processes at once: together N COMMAND...
together() {
    n=$1 i=0 status=0 pids=
    shift
    while [ $i -lt "$n" ]; do
        "$@" &
        pids="$pids $!"
        i=$((i + 1))
    done
    for p in $pids; do wait "$p" || status=1; done
    return $status
}
echo @READY
