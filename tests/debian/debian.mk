# Debian programs in the guest (check-full): stress-ng, gdb, strace, and programs of our own that need a whole system around them.
DEBIAN := out/debian
DEBIAN_BINS := $(foreach p,signals jit bpf times compat32 traced,$(DEBIAN)/extra/tests/$p)
DEBIAN_FILES := $(patsubst tests/debian/%,$(DEBIAN)/extra/tests/%,$(wildcard tests/debian/*.sh)) $(DEBIAN_BINS) $(DEBIAN)/extra/tests/busybox-i386 \
                $(DEBIAN)/extra/tests/modules/loop.ko $(DEBIAN)/extra/tests/modules/dummy.ko
DEBIAN_CFLAGS := -O2 -Wall -Wextra -Werror

$(DEBIAN)/extra/tests/%.sh: tests/debian/%.sh
	@mkdir -p $(@D)
	@cp $< $@
$(DEBIAN)/extra/tests/compat32: tests/debian/compat32.c
	@mkdir -p $(@D)
	@gcc $(DEBIAN_CFLAGS) -O1 -m32 -msse2 -ffreestanding -fno-pic -no-pie -fno-stack-protector -nostdlib -static -Wl,--build-id=none -Wl,-z,noexecstack -o $@ $<
$(DEBIAN)/extra/tests/traced: tests/debian/traced.c
	@mkdir -p $(@D)
	@gcc $(DEBIAN_CFLAGS) -O1 -g -o $@ $<
$(DEBIAN)/extra/tests/%: tests/debian/%.c tests/debian/check.h
	@mkdir -p $(@D)
	@gcc $(DEBIAN_CFLAGS) -static -pthread -o $@ $<
$(DEBIAN)/extra/tests/busybox-i386: $(BUSYBOX32_DIR)/bin/busybox
	@mkdir -p $(@D)
	@cp $< $@
$(DEBIAN)/extra/tests/modules/%.ko: $(KERNEL_DIR)/vmlinuz
	@mkdir -p $(@D)
	@cp $$(find -L $(KERNEL_DIR)/modules -name $*.ko) $@
$(DEBIAN)/root.img: scripts/mkdebian.sh $(DEBIAN_FILES)
	@sh scripts/mkdebian.sh $(DEBIAN) stress-ng gdb strace e2fsprogs bash
	@touch $@
debian: $(DEBIAN)/root.img guest
.PHONY: debian

DEBIAN_RUN = CHECK_TIMEOUT=900@GUEST_TIMEOUT=880@GUEST_APPEND=vsyscall=emulate@python3@tests/debian/run.py@$(O)/ringer
CHECKS_FULL += $(foreach c,programs kernel gdb,$(foreach e,interp translate,debian/$e/$c:$(DEBIAN_RUN)@$e@$c@--cpus@2))
CHECKS_FULL += $(foreach c,programs gdb,$(foreach u,translated direct,debian/$u/$c:$(DEBIAN_RUN)@translate@$c@--cpus@2@--user-code=$u))
# Each stressor for two seconds: three minutes or more
CHECKS_FULL += $(foreach n,1 2,debian/translate/stress-$n:$(DEBIAN_RUN)@translate@stress@--cpus@$n)
CHECKS_FULL += debian/direct/stress:$(DEBIAN_RUN)@translate@stress@--cpus@2@--user-code=direct
# Each instruction of the boot and of these beside the interpreter's: two thousand million
CHECKS_FULL += debian/verify/programs:$(subst 900,1500,$(subst 880,1480,$(DEBIAN_RUN)))@translate@programs@--verify
CHECK_FULL_DEPS += debian
