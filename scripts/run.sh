#!/bin/sh
# Start the guest of `make run`: run.sh RINGER KERNEL INITRD [OPTIONS of ringer run]
set -eu
ringer=$1 kernel=$2 initrd=$3
shift 3
append="console=ttyS0 quiet"
if [ ! -t 0 ]; then
    append="$append ringer.script"
    set -- --stdin-eof ctrl-d "$@" # also at the end of /dev/null
fi
exec "$ringer" run --kernel "$kernel" --initrd "$initrd" --append "$append" "$@"
