#!/bin/sh
# The command line: wrong input gives exactly one line on standard error, nothing on standard output, exit status 2. cli.sh RINGER
set -eu
ringer=$1 n=0
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAIL: $*"; exit 1; }
# refused PATTERN ARGS...
refused() {
    pattern=$1; shift
    st=0
    timeout -k 1 20 "$ringer" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null || st=$?
    [ "$st" = 2 ] || fail "'$*': exit status $st"
    [ "$(wc -l <"$tmp/err")" = 1 ] || fail "'$*': not one line: $(cat "$tmp/err")"
    [ ! -s "$tmp/out" ] || fail "'$*': something on standard output"
    grep -q -- "$pattern" "$tmp/err" || fail "'$*': '$(cat "$tmp/err")' does not mention '$pattern'"
    n=$((n + 1))
}
k=out/kernel/vmlinuz
: >"$tmp/empty"
head -c 100000 $k >"$tmp/short"
head -c 1000000 /dev/urandom >"$tmp/noise"
head -c 1000 /dev/zero >"$tmp/odd"
head -c 4096 /dev/zero >"$tmp/disk"
printf '\177ELF\002\001\001' >"$tmp/elf"
refused 'no command'
refused frobnicate frobnicate
refused kernel run
refused nonesuch run --kernel nonesuch
refused 'needs an argument' run --kernel
refused --frob run --kernel $k --frob
refused extra run --kernel $k extra
refused "$tmp" run --kernel "$tmp"
refused empty run --kernel "$tmp/empty"
refused short run --kernel "$tmp/short"
refused noise run --kernel "$tmp/noise"
refused elf run --kernel "$tmp/elf"
refused nonesuch run --kernel $k --initrd nonesuch
refused memory run --kernel $k --memory 12x
refused memory run --kernel $k --memory 0
refused memory run --kernel $k --memory 513G
refused 'belongs to serial' run --kernel $k --isa-debug-exit=0x3f5
refused cpus run --kernel $k --cpus 0
refused cpus run --kernel $k --cpus 1000
refused engine run --kernel $k --engine steam
refused nonesuch run --kernel $k --disk nonesuch
refused 512 run --kernel $k --disk "$tmp/odd"
refused flag run --kernel $k --disk "$tmp/disk,fast"
refused console run --kernel $k --console teletype
refused stats run --kernel $k --stats=xml
refused trace run --kernel $k --trace "$tmp/no/such/dir"
refused trace-what run --kernel $k --trace-what everything
refused trace-what run --kernel $k --trace-what ,
refused load run --kernel $k --load banana
refused debugcon run --kernel $k --debugcon "$tmp/no/such/dir"
refused memory run --kernel $k --memory 1M
refused memory run --kernel $k --memory 64M
mkfifo "$tmp/fifo"
refused 'neither a file' run --kernel "$tmp/fifo"
long=$(head -c 200000 /dev/zero | tr '\0' x)
refused 'command line' run --kernel $k --append "$(printf %s "$long" | head -c 100000)"
# The same disk twice: the lock holds within one machine too.
refused "$tmp/disk" run --kernel $k --disk "$tmp/disk" --disk "$tmp/disk"
for w in --help --version engines; do
    "$ringer" $w >"$tmp/out" 2>"$tmp/err" || fail "$w: exit status $?"
    [ -s "$tmp/out" ] && [ ! -s "$tmp/err" ] || fail "$w: wrong output"
    n=$((n + 1))
done
# Every option of --help is in the manual page, and the other way round.
"$ringer" --help | grep -o -- '--[a-z][a-z-]*' | sort -u >"$tmp/help"
sed 's/\\-/-/g' man/ringer.1 | grep -o -- '--[a-z][a-z-]*' | sort -u >"$tmp/man"
diff "$tmp/help" "$tmp/man" || fail "--help and the manual page name different options"
echo "$n checks"
