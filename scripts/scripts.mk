# A guest to run: Debian's kernel as it is, and a small root file system.
KERNEL_DIR := out/kernel
ROOT_DIR := out/root

out/.deps-run: scripts/deps.sh
	@mkdir -p out
	@sh scripts/deps.sh run && touch $@

$(KERNEL_DIR)/vmlinuz: | out/.deps-run
	@sh scripts/fetch-kernel.sh linux-image-cloud-amd64 $(KERNEL_DIR)

$(ROOT_DIR)/initrd.gz $(ROOT_DIR)/initrd.cpio &: scripts/mkroot.sh scripts/guest-init.sh $(KERNEL_DIR)/vmlinuz | out/.deps-run
	@sh scripts/mkroot.sh $(KERNEL_DIR) $(ROOT_DIR)

# The same for 32 bits with PAE.
KERNEL32_DIR := out/kernel-686
ROOT32_DIR := out/root-686
BUSYBOX32_DIR := out/busybox-i386
$(KERNEL32_DIR)/vmlinuz: | out/.deps-run
	@sh scripts/fetch-kernel.sh linux-image-686-pae:i386 $(KERNEL32_DIR)
$(BUSYBOX32_DIR)/bin/busybox: | out/.deps-run
	@sh scripts/fetch-busybox.sh i386 $(BUSYBOX32_DIR)
$(ROOT32_DIR)/initrd.gz $(ROOT32_DIR)/initrd.cpio &: scripts/mkroot.sh scripts/guest-init.sh $(KERNEL32_DIR)/vmlinuz $(BUSYBOX32_DIR)/bin/busybox
	@BUSYBOX=$(BUSYBOX32_DIR)/bin/busybox sh scripts/mkroot.sh $(KERNEL32_DIR) $(ROOT32_DIR)
guest-i386: $(KERNEL32_DIR)/vmlinuz $(ROOT32_DIR)/initrd.cpio

out/xen/xen: | out/.deps-run
	@sh scripts/fetch-xen.sh out/xen

guest: $(KERNEL_DIR)/vmlinuz $(ROOT_DIR)/initrd.cpio

# A shell in the guest; with something piped in, its lines are run there and the guest is switched off.
# RUN_ARGS: further options of `ringer run`.
run: all guest
	@sh scripts/run.sh $(O)/ringer $(KERNEL_DIR)/vmlinuz $(ROOT_DIR)/initrd.cpio $(RUN_ARGS)

.PHONY: guest guest-i386 run
