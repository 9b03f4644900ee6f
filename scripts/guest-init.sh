#!/bin/sh
# First process of the guest. On the kernel's command line:
#   (nothing)                an interactive shell on the console
#   ringer.script            lines from the console are run as a script, without echo, until end of file (Ctrl-D)
#   ringer.script="a; b"     run this
# When the shell ends, or somebody says poweroff, the machine is switched off.
export PATH=/bin HOME=/root TERM="${TERM:-vt100}"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
hostname guest
for m in $(cat /lib/modules/load); do
    insmod "/lib/modules/$m.ko"
done

# The console by its own name: /dev/console gives no job control, and if its driver was a module it was not there before.
cmdline=$(cat /proc/cmdline)
tty=""
for word in $cmdline; do
    case $word in console=*) tty=${word#console=} tty=${tty%%,*} ;; esac
done
[ -c "/dev/$tty" ] || tty=$(sed 's/.* //' /sys/class/tty/console/active)
[ -c "/dev/$tty" ] || tty=console
exec <"/dev/$tty" >"/dev/$tty" 2>&1

trap 'poweroff -f' USR2 # what poweroff, halt and reboot send to the first process
trap 'halt -f' USR1
trap 'reboot -f' TERM

cd /root
case " $cmdline " in
*' ringer.script="'*)
    script=${cmdline#*ringer.script=\"}
    sh -c "${script%%\"*}" <"/dev/$tty" &
    ;;
*' ringer.script='*)
    script=${cmdline#*ringer.script=}
    sh -c "${script%% *}" <"/dev/$tty" &
    ;;
*' "ringer.script='*) # some boot loaders quote the whole word
    script=${cmdline#*\"ringer.script=}
    sh -c "${script%%\"*}" <"/dev/$tty" &
    ;;
*' ringer.script '*)
    stty -echo
    # Not cat: it moves data by sendfile, which holds the pipe's lock while it waits for the next line.
    dd bs=4k <"/dev/$tty" 2>/dev/null | sh &
    ;;
*)
    # In the foreground, because a background job would ignore Ctrl-C; then this process hears no signals while it
    # waits, so poweroff and its like act at once.
    for c in poweroff halt reboot; do
        printf '%s() { sync; busybox %s -f; }\n' $c $c
    done >/etc/shrc
    ENV=/etc/shrc setsid -c sh -i <"/dev/$tty"
    poweroff -f
    ;;
esac
wait $!
poweroff -f
