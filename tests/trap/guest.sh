#!/bin/sh
# A self-checking guest under an engine that may not work on this host: guest.sh RINGER ENGINE IMAGE. Engine lazy: trap with --patch=lazy.
set -eu
ringer=$1 engine=$2 image=$3
if [ "$engine" = lazy ]; then
    engine=trap
    RINGER_ARGS="${RINGER_ARGS:-} --patch=lazy"
    export RINGER_ARGS
fi
if here=$("$ringer" engines | grep "^$engine " || :) && ! echo "$here" | grep -q "^$engine  *usable"; then
    echo "engine $engine does not work here: $here"
    exit 77
fi
exec sh tests/guest/run.sh "$ringer" "$engine" "$image"
