#!/bin/sh
# Start the guest of `make run`: run.sh RINGER KERNEL INITRD [OPTIONS of ringer run]
set -eu
ringer=$1 kernel=$2 initrd=$3
shift 3
append="console=ttyS0 quiet"
[ -t 0 ] || append="$append ringer.script"
exec "$ringer" run --kernel "$kernel" --initrd "$initrd" --append "$append" "$@"
