LIB_SRC += $(wildcard engine/kvm/*.c)

# Engine kvm under an emulated processor with AMD-V: scripts/check-kvm.sh. Minutes on two cores, many more when they are busy, so it is part of
# make check-full, in parts with a limit of their own. Without what it needs it says that it was skipped.
CHECK_KVM = sh@scripts/check-kvm.sh@$(O)/ringer.static@$(KERNEL_DIR)@$(ROOT_DIR)/initrd.cpio@out/guest@$(KVM_LIVE)
KVM_LIVE = $(O)/tests/kvm/live
SPACED_CHECK_KVM = $(subst @, ,$(CHECK_KVM)) || [ $$? = 77 ]

check-kvm: $(O)/ringer.static guests teach spin $(KVM_LIVE)
	@$(MAKE) --no-print-directory guest || echo "no guest to boot"
	@$(SPACED_CHECK_KVM)
# bench/bench.py in there: engine kvm beside QEMU-KVM where this machine has no hardware for either. What it shows is that the measuring works.
CHECK_KVM_BENCH ?= --monitors kvm,qemu-kvm --reps 1 --seconds 0.2 --only getppid,fork+wait
check-kvm-bench: $(O)/ringer.static guest bench-files
	@CHECK_KVM_BENCH='$(CHECK_KVM_BENCH)' CHECK_KVM_LIMIT=1200 $(SPACED_CHECK_KVM)
.PHONY: check-kvm check-kvm-bench

$(KVM_LIVE): tests/kvm/live.c $(O)/libringer.a | out/.deps-test
	@mkdir -p $(@D)
	@echo "  TEST  $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(LDFLAGS) $(O)/libringer.a -lcmocka $(LIBS)
TEST_DEPS += $(KVM_LIVE).d

CHECKS += kvm/live:$(KVM_LIVE)
CHECKS += engines:sh@tests/kvm/engines.sh@$(O)/ringer
CHECK_DEPS += $(KVM_LIVE) guests teach guest
CHECKS_FULL += $(foreach w,engine guest teach debian/1 debian/2 debian/4,check-kvm/$(w):CHECK_TIMEOUT=1200@CHECK_KVM_WHAT=$(w)@CHECK_KVM_FULL=1@CHECK_KVM_LIMIT=1180@$(CHECK_KVM))
CHECKS_FULL += check-kvm/bench:CHECK_TIMEOUT=1200@CHECK_KVM_BENCH="--monitors=kvm,qemu-kvm@--reps=1@--only=none"@CHECK_KVM_LIMIT=1180@$(CHECK_KVM)
CHECK_FULL_DEPS += $(O)/ringer.static bench-files spin
# The program without shared libraries (make STATIC=1); sanitizers have none
ifneq ($(filter rel dbg,$(MODE)),)
CHECKS += static:sh@tests/guest/run.sh@$(O)/ringer.static@interp@out/guest/string.elf
CHECK_DEPS += $(O)/ringer.static
endif
