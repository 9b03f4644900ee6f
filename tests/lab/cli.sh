#!/bin/sh
# ringer probe and ringer classify from the shell: reports, and one line with status 2 for what is wrong.
# usage: cli.sh RINGER
set -u
ringer=$1 failed=0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

bad()
{
    echo "FAILED: $*"
    failed=$((failed + 1))
}

# refuse WORDS ARGUMENT...: exit status 2, nothing on standard output, one line on standard error that has WORDS.
refuse()
{
    words=$1
    shift
    "$ringer" "$@" >"$dir/out" 2>"$dir/err"
    st=$?
    [ $st = 2 ] || bad "$* : status $st, not 2"
    [ ! -s "$dir/out" ] || bad "$* : wrote to standard output"
    [ "$(wc -l <"$dir/err")" = 1 ] || bad "$* : not one line on standard error"
    grep -q -- "$words" "$dir/err" || bad "$* : no '$words' in: $(cat "$dir/err")"
}

# has WORDS: the last report has them.
has()
{
    grep -q -- "$1" "$dir/out" || bad "no '$1' in the report"
}

accept()
{
    "$ringer" "$@" >"$dir/out" 2>"$dir/err" || bad "$* : status $?: $(cat "$dir/err")"
    [ ! -s "$dir/err" ] || bad "$* : $(cat "$dir/err")"
}

accept probe
has 'popf, IF cleared .*no trap, and IF is still 1'
has '^PC .* hlt .*trapped.*#GP(0)'
has 'Verdict: S is not a subset of P'
accept probe --json
has '"trap_and_emulate_suffices":false'
accept probe --html "$dir/page.html"
grep -q '<h1>' "$dir/page.html" || bad "no page"
tail -n 1 "$dir/page.html" | grep -q '</html>' || bad "the page is not complete"
grep -Eq '(src|href)=|@import|url\(' "$dir/page.html" && bad "the page refers to something outside"
refuse "unknown option '--nonsense'" probe --nonsense
refuse "unexpected argument" probe file
refuse "needs an argument" probe --html
refuse "exclude each other" probe --json --html "$dir/x"
refuse "No such file" probe --html "$dir/no/such/x"

accept classify "$ringer"
has '64-bit ELF'
has 'cpuid'
accept classify --sites all "$ringer"
has 'sites (\([0-9]*\) of \1)'
accept classify --json --sites 1 "$ringer"
has '"nsites"'
printf '\234\017\242\364' >"$dir/flat"
accept classify --mode 16 --base 0x7c00 "$dir/flat"
has '00007c01  B .*cpuid'
has 'boots as a flat image'
: >"$dir/empty"
head -c 100 "$ringer" >"$dir/cut"
head -c 4000 /dev/urandom >"$dir/noise"
printf 'BZh91AY' >"$dir/bz"
gzip -c <"$ringer" | head -c 5000 >"$dir/cut.gz"
refuse "no file named" classify
refuse "No such file" classify "$dir/none"
refuse "empty file" classify "$dir/empty"
refuse "truncated" classify "$dir/cut"
refuse "neither ELF nor" classify "$dir/flat"
refuse "bzip2, which is not supported" classify "$dir/bz"
refuse "damaged or truncated" classify "$dir/cut.gz"
refuse "directory" classify "$dir"
refuse "not 16, 32 or 64" classify --mode 8 "$dir/flat"
refuse "needs --mode" classify --base 0 "$dir/flat"
refuse "not an address" classify --mode 16 --base here "$dir/flat"
refuse "below 4 GiB" classify --mode 32 --base 0x100000000 "$dir/flat"
refuse "neither a number nor" classify --sites many "$dir/flat"
accept classify --mode 64 "$dir/noise"
# One wrong file among others: the others are reported.
"$ringer" classify "$dir/empty" "$ringer" >"$dir/out" 2>"$dir/err"
[ $? = 2 ] || bad "a wrong file among others: status not 2"
has '64-bit ELF'

# A guest adapted to hypercalls on a machine without them says so; with them it runs.
adapted=out/guests/teach/teach32-adapted.elf
if [ -e $adapted ]; then
    "$ringer" run --engine interp --isa-debug-exit --no-reboot --memory 64M --kernel $adapted </dev/null >"$dir/out" 2>"$dir/err"
    st=$?
    [ $st = 5 ] && grep -q 'no hypercalls here' "$dir/out" || bad "adapted kernel without --hypercalls: status $st, $(cat "$dir/out")"
    accept run --engine interp --hypercalls --no-reboot --memory 64M --kernel $adapted
    has '^teach: 13 right, 0 wrong'
    accept classify --sites all $adapted
    grep -Eq ' (popfd|pushfd|sgdt|sidt|smsw|sldt|str|lar|lsl|verr|verw) ' "$dir/out" && bad "the adapted kernel has instructions of Robin and Irvine's list that never trap"
    accept classify --sites all out/guests/teach/teach64.elf
    has ' test_sensitive.* sgdt'
fi

[ $failed = 0 ] && echo "all as it should be"
[ $failed = 0 ]
