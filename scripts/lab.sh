#!/bin/sh
# The whole lab in one go: lab.sh RINGER TEACHDIR OUTDIR. Runs what docs/lab.md shows on this machine and writes OUTDIR/index.html, the role of a
# hypervisor (equivalence, efficiency, resource control) as measured, with the other pages beside it.
# Status 0: everything that works here was as the theory says. LAB_QUICK=1: without the machines side by side.
set -eu
ringer=$1 teach=$2 out=$3
mkdir -p "$out"
failed=0
bad() { echo "lab: $*"; failed=1; }
machine="--memory 64M --isa-debug-exit --no-reboot"
esc() { sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g'; }

echo "lab: probe"
"$ringer" probe >"$out/probe.txt" && "$ringer" probe --html "$out/probe.html"

# compare KIND OPTIONS...: KIND.txt, KIND.html; prints the status
compare() {
    image=$1 page=$2
    shift 2
    echo "lab: compare $image"
    st=0
    "$ringer" compare "$teach/$image.elf" --all-engines $machine "$@" --report "$out/$page.html" >"$out/$page.txt" </dev/null || st=$?
}
compare teach32 work --append victim
[ $st = 0 ] || bad "a computation differs between engines (status $st)"
# Efficiency in the theory's sense: what is innocuous runs without the monitor.
awk -F'  +' 'NR == 1 { for (i = 2; i <= NF; i++) if ($i == "trap") t = i } $1 == "executed directly" { d = $t } $1 == "instructions by the monitor" { gsub(",", "", $t); m = $t }
    END { exit d != "-" && m > 4000000 }' "$out/work.txt" || bad "under trap, more than a hundredth of a computation was the monitor's"
compare teach32 plain
[ $st = 1 ] || grep -q '^trap: not run' "$out/plain.txt" || bad "the plain kernel was right under bare trap (status $st)"
compare teach32-adapted adapted --hypercalls
[ $st = 0 ] || bad "the adapted kernel differs between engines (status $st)"
compare teach64 plain64
[ $st = 1 ] || grep -q '^trap: not run' "$out/plain64.txt" || bad "the plain 64-bit kernel was right under bare trap (status $st)"
compare teach64-adapted adapted64 --hypercalls
[ $st = 0 ] || bad "the adapted 64-bit kernel differs between engines (status $st)"

: >"$out/separate.txt"
for e in kvm translate interp patch trap trap/64; do
    [ -z "${LAB_QUICK:-}" ] || continue
    echo "lab: two machines, engine $e"
    printf '%s: ' "$e" >>"$out/separate.txt"
    st=0
    image=teach32
    [ "$e" = "${e%/64}" ] || image=teach64
    sh tests/lab/separate.sh "$ringer" "${e%/64}" "$teach/$image.elf" >"$out/one.txt" 2>&1 || st=$?
    case $st in
    0) echo "the victim's work was right (memory, sum, ticks); $(grep holds "$out/one.txt"); $(tail -n 1 "$out/one.txt")" ;;
    77) echo "not usable here" ;;
    *)
        echo "FAILED: $(tail -n 1 "$out/one.txt")"
        bad "separation under $e"
        ;;
    esac >>"$out/separate.txt"
done
rm -f "$out/one.txt"

# A table of a comparison: engine, result, slowdown with a bar, share left alone.
table() {
    awk -F'  +' '
        NR == 1 { n = NF; for (i = 2; i <= NF; i++) name[i] = $i }
        $1 == "result" { for (i = 2; i <= n; i++) res[i] = $i }
        $1 == "relative to the fastest" { for (i = 2; i <= n; i++) { rel[i] = $i; if ($i + 0 > max) max = $i + 0 } }
        $1 == "executed directly" { for (i = 2; i <= n; i++) dir[i] = $i }
        $1 == "instructions by the monitor" { for (i = 2; i <= n; i++) mon[i] = $i }
        $1 == "instructions left alone" { for (i = 2; i <= n; i++) left[i] = $i }
        END {
            print "<table><tr><th>engine</th><th>result</th><th>time, relative to the fastest</th><th>executed directly</th><th>instructions by the monitor</th><th>left alone</th></tr>"
            for (i = 2; i <= n; i++) {
                w = max > 0 ? 230 * rel[i] / max : 0
                printf "<tr><td>%s</td><td class=\"%s\">%s</td><td><svg width=\"300\" height=\"16\"><rect x=\"0\" y=\"2\" width=\"%.0f\" height=\"12\" rx=\"2\"/><text x=\"%.0f\" y=\"12\">%s</text></svg></td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
                    name[i], res[i] == "DIFFERENT" ? "bad" : res[i] ~ /equal|reference/ ? "ok" : "", res[i], w, w + 6, rel[i] == "-" ? "" : rel[i], dir[i], mon[i], left[i]
            }
            print "</table>"
        }' "$1"
    sed -n 's/^\([a-z-]*: .*\)/\1/p' "$1" | grep -Ev '^(results|exits):' | esc | sed 's/.*/<p class="dim">&<\/p>/'
}
{
    cat <<'H'
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>The role of a hypervisor, measured</title>
<style>
:root{color-scheme:light dark;--bg:#fcfcfb;--fg:#1c1d20;--dim:#666a73;--line:#dfe1e5;--card:#fff;--head:#f1f2f4;--bar:#2b6cb8;--ok:#1a7f4b;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--bg:#16181c;--fg:#e6e7ea;--dim:#9aa0ab;--line:#30343c;--card:#1d2026;--head:#262a31;--bar:#5b9be0;--ok:#5fd39a;--bad:#ff8a80}}
body{margin:0 auto;max-width:1040px;padding:28px 20px 60px;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6em}h2{font-size:1.2em;margin:32px 0 8px}h3{font-size:1em;margin:18px 0 6px}.dim{color:var(--dim);margin:4px 0}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line)}th,td{padding:5px 10px;text-align:left;border-bottom:1px solid var(--line)}
th{background:var(--head)}.ok{color:var(--ok);font-weight:600}.bad{color:var(--bad);font-weight:600}rect{fill:var(--bar)}text{fill:var(--fg);font-size:12px}
pre{background:var(--card);border:1px solid var(--line);padding:10px 14px;overflow-x:auto}a{color:var(--bar)}
</style></head><body>
<h1>The role of a hypervisor, measured</h1>
<p>Popek and Goldberg ask three things of a virtual machine monitor: a program behaves as on a machine of its own (equivalence), most instructions run without the
monitor (efficiency), and the monitor alone decides about resources (resource control).</p>
<h2>Equivalence</h2>
<p>One kernel that examines the processor and prints what it saw, under every engine. Bare trap-and-emulate is wrong where instructions are sensitive and do not trap; replaced
(patch, trap-lazy), translated, interpreted or in hardware they are right; a kernel adapted to hypercalls does not use them.</p>
H
    echo '<h3>Plain kernel, 32 bits (<a href="plain.html">page</a>)</h3>'
    table "$out/plain.txt"
    echo '<h3>Adapted kernel, 32 bits (<a href="adapted.html">page</a>)</h3>'
    table "$out/adapted.txt"
    echo '<h3>Plain kernel, 64 bits (<a href="plain64.html">page</a>)</h3>'
    table "$out/plain64.txt"
    echo '<h3>Adapted kernel, 64 bits (<a href="adapted64.html">page</a>)</h3>'
    table "$out/adapted64.txt"
    echo '<h2>Efficiency</h2><p>A computation (20 million steps, 4 MiB filled and read 20 times): innocuous instructions, with ticks arriving meanwhile. What is left alone ran on the processor'
    echo 'without the monitor (<a href="work.html">page</a>).</p>'
    table "$out/work.txt"
    echo '<h2>Resource control</h2>'
    echo '<p>Two machines of 64 MiB on one processor. One has interrupts off and tries every port and physical address for ever. The other fills its memory, computes, and looks whether all is
its own (separation) and whether ticks reach it (preemption). Then the owner of the first one takes the processor back; what it held at most is allocation.</p><pre>'
    esc <"$out/separate.txt"
    echo '</pre><h2>Why</h2><p>'
    grep '^Verdict' "$out/probe.txt" | esc
    echo '</p><p><a href="probe.html">Every privileged and sensitive instruction on this processor</a></p></body></html>'
} >"$out/index.html"
cat "$out/separate.txt"
[ $failed = 0 ] && echo "lab: all as the theory says; $out/index.html"
exit $failed
