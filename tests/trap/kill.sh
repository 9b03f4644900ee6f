#!/bin/sh
# Worlds and the monitor: a killed world ends the machine with a message, a killed monitor takes its worlds along.
# kill.sh RINGER IMAGE
set -eu
ringer=$1 image=$2
if ! "$ringer" engines | grep -q "^trap  *usable"; then
    echo "engine trap does not work here"
    exit 77
fi
# Two for 32-bit code; in a 64-bit image, kernel code in two address spaces besides, that of the start and the one it spins in.
case $image in
*64*) count=4 ;;
*) count=2 ;;
esac
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
start() {
    "$ringer" run --engine trap --kernel "$image" --append spin --memory 64M --console none --stdin-eof ignore </dev/null 2>"$tmp/err" &
    pid=$!
    i=0
    while [ $i -lt 150 ]; do
        worlds=$(pgrep -P $pid || true)
        [ "$(echo $worlds | wc -w)" = $count ] && return
        sleep 0.2
        i=$((i + 1))
    done
    echo "not $count worlds: $worlds"
    kill -9 $pid
    exit 1
}
start
sleep 0.2
for w in $worlds; do kill -9 $w; done
st=0
i=0
while kill -0 $pid 2>/dev/null && [ $i -lt 150 ]; do sleep 0.2; i=$((i + 1)); done
wait $pid || st=$?
cat "$tmp/err"
[ $st = 4 ] && grep -q 'sandboxed process was ended by signal 9' "$tmp/err" || { echo "killed worlds: status $st"; exit 1; }

start
kill -9 $pid
wait $pid || true
i=0
while [ $i -lt 150 ]; do
    left=
    for w in $worlds; do kill -0 $w 2>/dev/null && left="$left $w"; done
    [ -z "$left" ] && exit 0
    sleep 0.2
    i=$((i + 1))
done
echo "worlds outlive the monitor:$left"
exit 1
