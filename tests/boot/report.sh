#!/bin/sh
# Reports and comparisons: what the page holds, that what it shows is what happened, and every way to be refused. report.sh RINGER GUESTS
set -eu
ringer=$1 g=$2 n=0
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAIL: $*"; exit 1; }
ok() { n=$((n + 1)); }
machine="--memory 64M --console none --isa-debug-exit --no-reboot"
# status WANTED COMMAND...
status() {
    want=$1; shift
    st=0
    timeout -k 1 100 "$@" >"$tmp/out" 2>"$tmp/err" </dev/null || st=$?
    [ "$st" = "$want" ] || fail "'$*': status $st, not $want: $(cat "$tmp/err")"
    ok
}
# refused PATTERN ARGS...
refused() {
    pattern=$1; shift
    status 2 "$ringer" "$@"
    [ "$(wc -l <"$tmp/err")" = 1 ] && [ ! -s "$tmp/out" ] || fail "'$*': not one line: $(cat "$tmp/err")"
    grep -q -- "$pattern" "$tmp/err" || fail "'$*': '$(cat "$tmp/err")' does not mention '$pattern'"
}

# --- run --report: the statistics of the same run are the witness
evil='</script><script>alert("1")</script><b>&'
status 1 "$ringer" run --engine interp --kernel "$g/exc.elf" $machine --append "$evil" --report "$tmp/page.html" --symbols "$g/exc.elf.64" \
    --stats=json --stats-file "$tmp/stats"
cat >"$tmp/check.py" <<'P'
import html.parser, json, re, sys
page = open(sys.argv[1], encoding='utf-8').read()
class P(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.data, self.inside, self.text, self.h2 = [], '', False, '', []
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        a = dict(attrs)
        for k in ('src', 'href', 'xlink:href', 'onload', 'onclick'):
            assert k not in a, (tag, a)
        self.inside = tag == 'script'
        assert tag != 'script' or a == {'type': 'application/json', 'id': 'data'}, a
    def handle_data(self, d):
        if self.inside:
            self.data += d
        else:
            self.text += d
            if self.tags and self.tags[-1] == 'h2':
                self.h2.append(d)
    def handle_endtag(self, tag):
        self.inside = False
p = P()
p.feed(page)
assert 'url(' not in page and '@import' not in page and 'prefers-color-scheme:dark' in page
assert p.tags.count('script') == 1 and 'alert' in p.text
d = json.loads(p.data)
if len(sys.argv) == 4:
    assert d['machine']['append'] == sys.argv[3], d['machine']['append']
    s = json.load(open(sys.argv[2]))
    for k in ('instructions', 'exceptions', 'interrupts', 'ports', 'mmio', 'engine'):
        assert d[k] == s[k], k
    assert d['end'] == 'isa-debug-exit' and d['exit_status'] == 1
    assert p.tags.count('svg') >= 4, p.tags.count('svg')
    sites, i = d['sites'], d['instructions']
    counts = [x['count'] for x in sites]
    assert counts == sorted(counts, reverse=True) and counts[0] > 0
    assert sum(counts) <= i['total'] - i['innocuous']
    if d['sites_seen'] <= len(sites):
        assert sum(counts) + d['sites_dropped'] == i['total'] - i['innocuous'], (sum(counts), i)
    assert any('symbol' in x for x in sites)
    m = d['samples']
    t = m['seconds']
    assert t == sorted(t) and len(t) == len(m['instructions']) and m['instructions'][-1] == i['total']
    for k, v in m['exits'].items():
        assert v == sorted(v) and v[-1] == d['exits'][k], k
    assert d['exits']['port I/O'] == sum(x['reads'] + x['writes'] for x in d['ports'].values())
    w = d['time']
    assert abs(w['guest_seconds'] + w['device_seconds'] + w['halted_seconds'] - t[-1]) < 1e-6
P
python3 "$tmp/check.py" "$tmp/page.html" "$tmp/stats" "$evil" || fail "the page of run"
ok
# All sites of a guest with few of them add up.
cat >"$tmp/sites.asm" <<'A'
bits 16
    mov cx, 1000
again:
    cli
    sti
    pushf
    pop ax
    loop again
    mov al, 0
    out 0xf4, al
A
nasm -f bin -o "$tmp/sites.bin" "$tmp/sites.asm"
status 1 "$ringer" run --engine interp --kernel "$tmp/sites.bin" --format flat $machine --report "$tmp/sites.html"
python3 - "$tmp/sites.html" <<'P' || fail "the sites"
import json, re, sys
d = json.loads(re.search(r'id="data">(.*?)</script>', open(sys.argv[1]).read(), re.S).group(1))
s = {(x['address'], x['instruction']): x['count'] for x in d['sites']}
assert s == {('0x7c03', 'CLI'): 1000, ('0x7c04', 'STI'): 1000, ('0x7c05', 'PUSHF'): 1000, ('0x7c0b', 'OUT'): 1}, s
P
ok
echo 'ffffffff81000000 T _text' >"$tmp/good.map"
echo 'hello world' >"$tmp/bad.map"
printf 'ffffffff81000000 T a\nffffffff8100000g T b\n' >"$tmp/bad2.map"
head -c 3000 "$g/exc.elf" >"$tmp/short.elf"
: >"$tmp/empty"
run="run --kernel $g/exc.elf $machine --report $tmp/x.html"
status 1 "$ringer" $run --symbols "$tmp/good.map"
refused 'no/such' run --kernel "$g/exc.elf" $machine --report "$tmp/no/such/page"
refused 'for --stats and' run --kernel "$g/exc.elf" --symbols "$tmp/good.map"
refused nonesuch $run --symbols nonesuch
refused 'line 1' $run --symbols "$tmp/bad.map"
refused 'line 2' $run --symbols "$tmp/bad2.map"
refused 'short.elf' $run --symbols "$tmp/short.elf"
refused 'no symbols' $run --symbols "$tmp/empty"
head -c 100000 /dev/urandom >"$tmp/noise"
refused noise $run --symbols "$tmp/noise"

# --- compare
two="--engine interp,translate"
"$ringer" engines | grep -q '^translate *usable' || { echo "$n checks; no second engine here"; exit 0; }
status 0 "$ringer" compare "$g/exc.elf" $two $machine --report "$tmp/compare.html" --append "$evil"
grep -q '^results: equal$' "$tmp/out" || fail "no verdict"
status 0 "$ringer" compare $two $machine --kernel "$g/exc.elf" --json
python3 - "$tmp/out" "$tmp/compare.html" <<'P' || fail "the comparison"
import json, re, sys
d = json.load(open(sys.argv[1]))
e = {x['engine']: x for x in d['engines']}
assert d['equal'] and d['reference'] == 'interp' and set(e) == {'interp', 'translate'}
assert e['interp']['result'] == 'reference' and e['translate']['result'] == 'equal'
for x in e.values():
    assert x['exit_status'] == 1 and x['console_bytes'] > 1000 and x['run']['wall_seconds'] > 0
page = open(sys.argv[2]).read()
h = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))
assert h['equal'] and len(h['engines']) == 2 and page.count('<script') == 1
assert 'src=' not in page and 'href=' not in page
P
ok
# Guests that tell what no two runs share: the time-stamp counter, and one that never ends.
printf 'bits 16\n mov cx, 8\na: rdtsc\n out 0xe9, al\n mov al, ah\n out 0xe9, al\n loop a\n mov al, 0\n out 0xf4, al\n' >"$tmp/tsc.asm"
nasm -f bin -o "$tmp/tsc.bin" "$tmp/tsc.asm"
status 1 "$ringer" compare "$tmp/tsc.bin" --format flat $two $machine --report "$tmp/diff.html"
grep -q DIFFERENT "$tmp/out" && grep -q '^translate: console line' "$tmp/out" && grep -q '^results: different$' "$tmp/out" || fail "a difference is not told: $(cat "$tmp/out")"
grep -q 'Results differ' "$tmp/diff.html" || fail "the page does not tell of the difference"
printf 'bits 16\n mov al, 1\n out 0xe9, al\na: jmp a\n' >"$tmp/loop.asm"
nasm -f bin -o "$tmp/loop.bin" "$tmp/loop.asm"
status 1 "$ringer" compare "$tmp/loop.bin" --format flat $two $machine --timeout 1
grep -q 'out of time' "$tmp/out" || fail "out of time: $(cat "$tmp/out")"
# Input reaches all engines alike.
printf 'bits 16\na: mov dx, 0x3fd\n in al, dx\n test al, 1\n jz a\n mov dx, 0x3f8\n in al, dx\n out 0xe9, al\n cmp al, 0x71\n jne a\n out 0xf4, al\n' >"$tmp/echo.asm"
nasm -f bin -o "$tmp/echo.bin" "$tmp/echo.asm"
st=0
echo abcq | timeout 60 "$ringer" compare "$tmp/echo.bin" --format flat $two --memory 64M --isa-debug-exit --no-reboot --timeout 20 --json >"$tmp/out" || st=$?
[ "$st" = 0 ] || fail "input: status $st: $(cat "$tmp/out")"
[ "$(grep -c '"console_bytes":4' "$tmp/out")" = 2 ] || fail "input does not reach both: $(grep console_bytes "$tmp/out")"
ok
truncate -s 4096 "$tmp/disk"
refused 'no guest' compare
refused nonesuch compare nonesuch $two
refused steam compare "$g/exc.elf" --engine steam,interp
refused 'two are needed' compare "$g/exc.elf" --engine interp
refused ',ro' compare "$g/exc.elf" --disk "$tmp/disk"
refused timeout compare "$g/exc.elf" --timeout 0
refused 'ringer run' compare "$g/exc.elf" --stats
refused 'ringer run' compare "$g/exc.elf" --trace "$tmp/t"
refused 'no/such' compare "$g/exc.elf" $two --report "$tmp/no/such/page"
refused extra compare "$g/exc.elf" extra
refused 'of ringer compare' run --kernel "$g/exc.elf" --json
echo "$n checks"
