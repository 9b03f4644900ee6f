#!/bin/sh
# A quick look at single loops: bench/loops.sh [LOOP...] [options of loops.py]
# By default the interpreter against Bochs, once; e.g. bench/loops.sh alu mixed, or bench/loops.sh --monitors interp --reps 5 call
set -eu
cd "$(dirname "$0")/.."
make -s all bench-loops-files
case " $* " in *" --monitors"*) ;; *) set -- --monitors interp,bochs "$@" ;; esac
case " $* " in *" --reps"*) ;; *) set -- --reps 1 "$@" ;; esac
exec python3 bench/loops.py --json out/bench/loops-quick.json "$@"
