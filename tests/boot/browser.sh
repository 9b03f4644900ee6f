#!/bin/sh
# The pages in a real browser: laid out, drawn, nothing fetched, nothing run that came from the guest. browser.sh RINGER GUESTS
set -eu
ringer=$1 g=$2
sh scripts/deps.sh browser >/dev/null 2>&1 || { echo "chromium cannot be installed"; exit 77; }
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAIL: $*"; exit 1; }
machine="--memory 64M --console none --isa-debug-exit --no-reboot"
evil='</script><script>document.title="run"</script><img src=x onerror=alert(1)>'
st=0; "$ringer" run --engine interp --kernel "$g/time.elf" $machine --append "$evil" --report "$tmp/run.html" --symbols "$g/time.elf.64" >/dev/null </dev/null || st=$?
[ "$st" = 1 ] || fail "run: status $st"
pages=run
if "$ringer" engines | grep -q '^translate *usable'; then
    "$ringer" compare "$g/exc.elf" --engine interp,translate $machine --append "$evil" --report "$tmp/compare.html" >/dev/null </dev/null || fail "compare: status $?"
    pages="run compare"
fi
"$ringer" probe --html "$tmp/probe.html" || fail "probe: status $?"
LAB_QUICK=1 sh scripts/lab.sh "$ringer" out/guests/teach "$tmp/lab" >"$tmp/lab.log" 2>&1 || fail "lab: $(tail -n 1 "$tmp/lab.log")"
browse() { timeout -k 2 60 chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$tmp/profile" --window-size=1100,1600 "$@" 2>"$tmp/err"; }
for p in $pages; do
    # The page as it is, and behind it a script that looks at what the browser made of it.
    cp "$tmp/$p.html" "$tmp/$p-look.html"
    cat >>"$tmp/$p-look.html" <<'J'
<script>
const out = {}, over = [];
const data = JSON.parse(document.getElementById('data').textContent);
out.engine = data.engine || data.reference;
out.fetched = performance.getEntriesByType('resource').length;
out.images = document.images.length;
out.scripts = document.scripts.length;
out.title = document.title;
let drawn = 0;
for (const s of document.querySelectorAll('svg')) {
  const v = s.viewBox.baseVal;
  for (const e of s.querySelectorAll('rect,path,text')) {
    const b = e.getBBox();
    if (b.width > 0 && e.tagName !== 'text') drawn++;
    if (b.x < -1 || b.x + b.width > v.width + 1 || b.y < -1 || b.y + b.height > v.height + 1) over.push(e.tagName + ':' + e.textContent);
  }
}
out.drawn = drawn;
out.over = over;
out.wide = document.documentElement.scrollWidth > innerWidth;
document.body.dataset.look = btoa(JSON.stringify(out));
</script>
J
    browse --dump-dom "file://$tmp/$p-look.html" >"$tmp/dom" || fail "$p: the browser failed: $(tail -n 3 "$tmp/err")"
    browse --screenshot="$tmp/$p.png" "file://$tmp/$p.html" >/dev/null || fail "$p: no screenshot"
    browse --blink-settings=preferredColorScheme=0 --screenshot="$tmp/$p-dark.png" "file://$tmp/$p.html" >/dev/null || fail "$p: no dark screenshot"
    python3 - "$tmp/dom" "$tmp/$p.png" "$tmp/$p-dark.png" <<'P' || fail "$p"
import base64, json, re, struct, sys, zlib
d = json.loads(base64.b64decode(re.search(r'data-look="([^"]+)"', open(sys.argv[1]).read()).group(1)))
print(d)
assert d['engine'] == 'interp' and d['fetched'] == 0 and d['images'] == 0 and d['scripts'] == 2
assert 'under' in d['title'] and d['drawn'] >= 4 and d['over'] == [] and not d['wide']
def pixels(path):
    b = open(path, 'rb').read()
    assert b[:8] == b'\x89PNG\r\n\x1a\n'
    w, h, depth, kind = struct.unpack('>IIBB', b[16:26])
    assert depth == 8 and kind in (2, 6), (depth, kind)
    at, z = 8, b''
    while at < len(b):
        n, = struct.unpack('>I', b[at:at + 4])
        if b[at + 4:at + 8] == b'IDAT':
            z += b[at + 8:at + 8 + n]
        at += 12 + n
    k = 3 if kind == 2 else 4
    raw, stride, prev, colours = zlib.decompress(z), w * k + 1, bytes(w * k), {}
    for y in range(h):
        f, row = raw[y * stride], bytearray(raw[y * stride + 1:(y + 1) * stride])
        for i in range(len(row)):
            a, u, c = row[i - k] if i >= k else 0, prev[i], prev[i - k] if i >= k else 0
            if f == 1: row[i] = row[i] + a & 255
            elif f == 2: row[i] = row[i] + u & 255
            elif f == 3: row[i] = row[i] + (a + u) // 2 & 255
            elif f == 4:
                pa, pu, pc = abs(u - c), abs(a - c), abs(a + u - 2 * c)
                row[i] = row[i] + (a if pa <= pu and pa <= pc else u if pu <= pc else c) & 255
        prev = row
        for i in range(0, len(row), 5 * k):
            q = bytes(row[i:i + 3])
            colours[q] = colours.get(q, 0) + 1
    return colours
light, dark = pixels(sys.argv[2]), pixels(sys.argv[3])
assert len(light) > 30, len(light)
for c, where in ((b'\x2b\x6c\xb8', light), (b'\xfc\xfc\xfb', light), (b'\x5b\x9b\xe0', dark), (b'\x16\x18\x1c', dark)):
    assert where.get(c, 0) > 50, (c, where.get(c))
P
done
# Pages without data for scripts: laid out within the window, headings and tables there, nothing fetched, not blank.
for p in probe lab/index lab/plain; do
    cp "$tmp/$p.html" "$tmp/look.html"
    cat >>"$tmp/look.html" <<'J'
<script>
let out = 0, cells = 0;
for (const e of document.querySelectorAll('td,rect,text')) { const b = e.getBoundingClientRect(); cells += b.width > 0 && b.height > 0; out += b.right > document.documentElement.scrollWidth + 1; }
document.body.dataset.look = [document.documentElement.scrollWidth <= innerWidth, performance.getEntriesByType('resource').length, cells > 20, out, document.querySelectorAll('h1,h2').length > 2].join();
</script>
J
    browse --dump-dom "file://$tmp/look.html" >"$tmp/dom" || fail "$p: the browser failed: $(tail -n 3 "$tmp/err")"
    grep -q 'data-look="true,0,true,0,true"' "$tmp/dom" || fail "$p: laid out wrong: $(grep -o 'data-look="[^"]*"' "$tmp/dom")"
    browse --screenshot="$tmp/p.png" "file://$tmp/$p.html" >/dev/null || fail "$p: no screenshot"
    [ "$(wc -c <"$tmp/p.png")" -gt 30000 ] || fail "$p: nearly blank"
    pages="$pages $p"
done
echo "pages looked at: $pages"
