#!/bin/sh
# Run test programs one after another and end with counts.
# usage: check.sh NAME:COMMAND ...   (@ stands for a space in COMMAND; exit status 77 means skipped; CHECK_TIMEOUT=SECONDS in front: its own limit)
# Output of a failing test is shown; of a passing one, only its name.
set -u
dir=${CHECK_LOG_DIR:-out/check}
mkdir -p "$dir"
passed=0 failed=0 skipped=0
for t in "$@"; do
    name=${t%%:*} cmd=$(echo "${t#*:}" | tr '@' ' ')
    log=$dir/$(echo "$name" | tr '/ ' '__').log
    start=$(date +%s)
    limit=$(expr "$cmd" : 'CHECK_TIMEOUT=\([0-9]*\) ' || true)
    timeout "${limit:-${CHECK_TIMEOUT:-300}}" sh -c "$cmd" >"$log" 2>&1 </dev/null
    st=$?
    took=$(($(date +%s) - start))
    case $st in
    0) passed=$((passed + 1)); echo "ok      $name (${took}s)" ;;
    77) skipped=$((skipped + 1)); echo "SKIPPED $name: $(tail -n 1 "$log")" ;;
    *) failed=$((failed + 1)); echo "FAILED  $name (status $st, ${took}s)"; tail -n 40 "$log" | sed 's/^/    /' ;;
    esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
