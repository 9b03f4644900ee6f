# Boot tests on Debian's cloud kernel, and the command line's own behaviour.
BOOT_CASES := cpu1 cpu4 disk virtio-console reset reboot panic stats idle
CHECKS += $(foreach c,$(BOOT_CASES),boot/interp/$(c):sh@tests/boot/boot.sh@$(O)/ringer@interp@$(c))
TRANSLATE_CASES := cpu1 cpu4 disk reboot work idle verify sites
CHECKS += $(foreach c,$(TRANSLATE_CASES),boot/translate/$(c):sh@tests/boot/boot.sh@$(O)/ringer@translate@$(c))
# All user code directly on the processor, from the first instruction of init on
DIRECT_CASES := cpu1 work compute world-killed
CHECKS += $(foreach c,$(DIRECT_CASES),boot/direct/$(c):BOOT_OPTIONS=--user-code=direct@sh@tests/boot/boot.sh@$(O)/ringer@translate@$(c))
CHECKS += boot/translate/compute:sh@tests/boot/boot.sh@$(O)/ringer@translate@compute
CHECKS += boot/auto/cpu1:sh@tests/boot/boot.sh@$(O)/ringer@auto@cpu1
CHECKS += boot/interp/work:sh@tests/boot/boot.sh@$(O)/ringer@interp@work
CHECKS += $(foreach e,interp translate,boot/$e/confined:sh@tests/boot/confined.sh@$(O)/ringer@$e)
CHECKS += cli:sh@tests/boot/cli.sh@$(O)/ringer
CHECK_DEPS += guest
CHECKS_FULL += boot/interp/i386:sh@tests/boot/boot.sh@$(O)/ringer@interp@i386
CHECKS_FULL += boot/translate/i386:sh@tests/boot/boot.sh@$(O)/ringer@translate@i386
CHECKS_FULL += boot/translate/verify-longer:VERIFY=800M@BOOT_TIMEOUT=280@sh@tests/boot/boot.sh@$(O)/ringer@translate@verify
CHECKS_FULL += boot/translate/cpu8:sh@tests/boot/boot.sh@$(O)/ringer@translate@cpu8
CHECK_FULL_DEPS += guest-i386
CHECKS_FULL += boot/interp/xen:sh@tests/boot/boot.sh@$(O)/ringer@interp@xen
CHECK_FULL_DEPS += out/xen/xen
CHECKS_FULL += boot/interp/kill:sh@tests/boot/boot.sh@$(O)/ringer@interp@kill
CHECKS_FULL += boot/interp/cpu8:sh@tests/boot/boot.sh@$(O)/ringer@interp@cpu8
CHECKS += ends:python3@tests/boot/ends.py@$(O)/ringer@out/kernel/vmlinuz@out/root/initrd.cpio
CHECKS_FULL += ends-often:python3@tests/boot/ends.py@$(O)/ringer@out/kernel/vmlinuz@out/root/initrd.cpio@60
CHECKS += report:sh@tests/boot/report.sh@$(O)/ringer@out/guest
CHECKS_FULL += report-browser:sh@tests/boot/browser.sh@$(O)/ringer@out/guest
CHECK_DEPS += guests
