#!/bin/sh
# In the guest: gdb and strace on a small program.
cd /tests || exit 1
fail() { echo "FAIL $*"; cat /tmp/out; }
export HOME=/tmp
cat >/tmp/cmds <<'G'
set pagination off
set confirm off
set debuginfod enabled off
break leaf
run
backtrace
info registers rip
stepi
stepi
stepi
stepi
x/i $pc
print n
finish
delete
watch watched
continue
continue
print watched
delete 2
awatch table[3]
continue
delete
break middle
continue
backtrace 2
delete
tbreak outer
continue
print n
next
set var watched = 7
call leaf(4)
print $mxcsr
continue
G
gdb -batch -nx -x /tmp/cmds ./traced >/tmp/out 2>&1 </dev/null || fail "gdb: status $?"
for want in 'Breakpoint 1, leaf' '#2 .*outer' '#3 .*main' 'Value returned is .* = 0' 'Hardware watchpoint 2: watched' 'Old value = 0' 'New value = 35' 'New value = 70' '= 70' \
    'Hardware access (read/write) watchpoint 3: table' 'middle (n=' 'Temporary breakpoint' '= 12' '= \[ IM DM ZM OM UM PM \]' 'result 175 watched 175' 'exited normally'; do
    grep -q "$want" /tmp/out || fail "gdb: no '$want'"
done
# Single steps, many, against a count that does not depend on the machine
gdb -batch -nx -ex 'set debuginfod enabled off' -ex 'break outer' -ex run -ex 'python
import gdb
n = 0
while gdb.selected_frame().name() != "main" and n < 3000:
    gdb.execute("stepi", to_string=True)
    n += 1
print("steps", n > 50 and n < 3000)' -ex continue -ex 'delete' -ex continue ./traced >/tmp/out 2>&1 </dev/null
grep -q 'steps True' /tmp/out || fail "gdb: single steps"
# Attached to and let go
sh -c 'i=0; while [ $i -lt 100000000 ]; do i=$((i + 1)); done' &
p=$!
gdb -batch -nx -ex 'set debuginfod enabled off' -p $p -ex 'info registers rip' -ex 'stepi' -ex 'stepi' -ex detach >/tmp/out 2>&1 </dev/null
grep -q 'rip  *0x' /tmp/out && grep -q 'detached' /tmp/out || fail "gdb: attach"
kill -0 $p || fail "what was attached to is gone"
kill -9 $p
wait $p 2>/dev/null
strace -f -o /tmp/trace sh -c './traced; echo $((6 * 7)) >/dev/null; ls / >/dev/null' >/tmp/out 2>&1 || fail "strace: status $?"
grep -q 'write(1, "result 175 watched 175\\n", 23) = 23' /tmp/trace && grep -q 'exited with 0' /tmp/trace && grep -q 'execve("./traced"' /tmp/trace || {
    cat /tmp/trace >/tmp/out
    fail "strace: not what the program does"
}
strace -c -o /tmp/trace ./traced >/tmp/out 2>&1 && grep -q ' mmap' /tmp/trace || fail "strace -c"
echo "gdb: done"
