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
echo @READY
