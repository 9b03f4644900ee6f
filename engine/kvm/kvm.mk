LIB_SRC += $(wildcard engine/kvm/*.c)

# Engine kvm under an emulated processor with AMD-V: scripts/check-kvm.sh. Three minutes and more on two cores, by how busy they are, so it is part of make check-full;
# CHECK_KVM_FULL adds boots.
CHECK_KVM = sh@scripts/check-kvm.sh@$(O)/ringer@$(KERNEL_DIR)@$(ROOT_DIR)/initrd.cpio@out/guest@$(KVM_LIVE)
KVM_LIVE = $(O)/tests/kvm/live

check-kvm: all guests teach guest $(KVM_LIVE)
	@$(subst @, ,$(CHECK_KVM))
.PHONY: check-kvm

$(KVM_LIVE): tests/kvm/live.c $(O)/libringer.a | out/.deps-test
	@mkdir -p $(@D)
	@echo "  TEST  $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(LDFLAGS) $(O)/libringer.a -lcmocka $(LIBS)
TEST_DEPS += $(KVM_LIVE).d

CHECKS += kvm/live:$(KVM_LIVE)
CHECKS_FULL += check-kvm:CHECK_KVM_LIMIT=290@$(CHECK_KVM)
CHECK_DEPS += $(KVM_LIVE) guests teach guest
CHECKS_FULL += check-kvm/boots:CHECK_KVM_FULL=1@CHECK_KVM_WHAT=debian@CHECK_KVM_LIMIT=290@$(CHECK_KVM)
CHECKS += engines:sh@tests/kvm/engines.sh@$(O)/ringer
