#!/bin/sh
# Run every fuzz target built by `make fuzz-bins` on a fixed number of inputs from a fixed seed, FUZZ_SEED or 1.
# usage: smoke.sh [runs]     A failing input is left as out/check/fuzz_NAME-crash-...
set -u
runs=${1:-${RUNS:-20000}} failed=0 n=0
mkdir -p out/check
for t in out/fuzz/tests/fuzz/fuzz_*; do
    case $t in *.d) continue ;; esac
    [ -x "$t" ] || continue
    n=$((n + 1))
    name=${t##*/}
    if "$t" -seed="${FUZZ_SEED:-1}" -runs="$runs" -max_len=2048 -timeout=100 -artifact_prefix="out/check/$name-" >"out/check/$name.log" 2>&1; then
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
        tail -n 30 "out/check/$name.log"
    fi
done
echo "$n fuzz targets, $failed failed"
[ "$n" -gt 0 ] && [ "$failed" = 0 ]
