#!/bin/sh
# A self-checking guest under an engine that may not work on this host: guest.sh RINGER ENGINE IMAGE.
set -eu
if ! "$1" engines | grep -q "^$2  *usable"; then
    echo "engine $2 does not work here: $("$1" engines | grep "^$2 ")"
    exit 77
fi
exec sh tests/guest/run.sh "$@"
