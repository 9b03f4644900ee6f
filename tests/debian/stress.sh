#!/bin/sh
# In the guest: stress.sh SECONDS STRESSOR...
# Each stressor in two instances with its own checks, while others fill memory. Last line: "stress: N ran, N failed".
seconds=$1
shift
cd /tmp || exit 1
stress-ng --vm 1 --vm-bytes 48M --vm-method all --verify --oomable --timeout 0 >/tmp/vm.log 2>&1 &
vm=$!
ran=0 failed=0
for s in "$@"; do
    st=0
    # stress-ng: 0 well, 3 lacking something, 4 not for this kernel; 2 is a failure
    stress-ng --temp-path /tmp --verify --oomable --timeout "$seconds" --vm-bytes 24M --mmap-bytes 24M --mremap-bytes 16M --memfd-bytes 16M --shm-bytes 8M --shm-objs 4 --memrate-bytes 16M \
        --malloc-bytes 16M --pthread-max 64 --bigheap-growth 64K --stack-fill --"$s" 2 >/tmp/log 2>&1 || st=$?
    ran=$((ran + 1))
    case $st in
    0) echo "ran $s" ;;
    3 | 4) echo "left out $s: $(grep -v 'info:.*dispatching\|info:.*setting to' /tmp/log | tail -n 1)" ;;
    esac
    if { [ $st != 0 ] && [ $st != 3 ] && [ $st != 4 ]; } || grep -q 'fail:\|unsuccessful' /tmp/log; then
        failed=$((failed + 1))
        echo "FAILED $s: status $st"
        grep -v 'info: .*dispatching' /tmp/log | head -n 20
    fi
done
kill $vm 2>/dev/null
wait $vm
if grep 'fail:' /tmp/vm.log; then
    failed=$((failed + 1))
    echo "FAILED vm in the background"
fi
echo "stress: $ran ran, $failed failed"
