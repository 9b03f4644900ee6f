# Self-checking guests: every tests/guest/*.c (64-bit C on lib/; *_32.c: 32-bit C on lib32/) and *.asm (nasm: whole image, Multiboot or flat) is one guest.
# They are engine-independent: guest-tests-ENGINE runs them all under one engine, guest-tests-qemu under QEMU as a cross-check.
G := out/guest
GUEST_C32 := $(patsubst tests/guest/%.c,$(G)/%.elf,$(wildcard tests/guest/*_32.c))
GUEST_C := $(filter-out $(GUEST_C32),$(patsubst tests/guest/%.c,$(G)/%.elf,$(wildcard tests/guest/*.c)))
GUEST_ASM := $(patsubst tests/guest/%.asm,$(G)/%.bin,$(wildcard tests/guest/*.asm))
GUESTS := $(GUEST_C) $(GUEST_C32) $(GUEST_ASM)
GUEST_CFLAGS := -m64 -ffreestanding -fno-pic -no-pie -mno-red-zone -mgeneral-regs-only -O1 -fno-stack-protector -fno-asynchronous-unwind-tables \
                -fno-strict-aliasing -Wall -Wextra -Werror -Wno-unused-parameter
GUEST_LIB := $(wildcard tests/guest/lib/*)

# QEMU's loader takes 32-bit ELF files only, so the 64-bit image is wrapped as one.
$(GUEST_C): $(G)/%.elf: tests/guest/%.c $(GUEST_LIB) | out/.deps-test
	@mkdir -p $(G)
	@echo "  GUEST $<"
	@gcc $(GUEST_CFLAGS) -nostdlib -static -Wl,--build-id=none -Wl,--no-warn-rwx-segments -Wl,-T,tests/guest/lib/link.ld -Itests/guest/lib \
	    tests/guest/lib/start64.S $(wildcard tests/guest/lib/*.c) $< -o $@.64
	@objcopy -O elf32-i386 $@.64 $@

$(GUEST_C32): $(G)/%.elf: tests/guest/%.c $(wildcard tests/guest/lib32/*) | out/.deps-test
	@mkdir -p $(G)
	@echo "  GUEST $<"
	@gcc $(filter-out -m64 -mno-red-zone,$(GUEST_CFLAGS)) -m32 -nostdlib -static -Wl,--build-id=none -Wl,--no-warn-rwx-segments -Wl,-T,tests/guest/lib32/link.ld \
	    -Itests/guest/lib32 tests/guest/lib32/start32.S tests/guest/lib32/guest32.c $< -o $@

$(GUEST_ASM): $(G)/%.bin: tests/guest/%.asm $(wildcard tests/guest/lib/*.inc) | out/.deps-test
	@mkdir -p $(G)
	@echo "  GUEST $<"
	@nasm -f bin -Itests/guest/lib/ -o $@ $<

guests: $(GUESTS)
guest-tests: all guests
	@sh scripts/check.sh $(foreach g,$(GUESTS),'guest/$(basename $(notdir $(g))):sh@tests/guest/run.sh@$(O)/ringer@$(or $(ENGINE),interp)@$(g)')
guest-tests-qemu: guests
	@sh scripts/check.sh $(foreach g,$(GUESTS),'qemu/$(basename $(notdir $(g))):sh@tests/guest/run.sh@qemu@-@$(g)')
.PHONY: guests guest-tests guest-tests-qemu

CHECKS += $(foreach g,$(GUESTS),guest/interp/$(basename $(notdir $(g))):sh@tests/guest/run.sh@$(O)/ringer@interp@$(g))
CHECKS += $(foreach g,$(GUESTS),guest/translate/$(basename $(notdir $(g))):sh@tests/guest/run.sh@$(O)/ringer@translate@$(g))
# User code directly on the processor, from the first instruction on; the others have none that could be.
CHECKS += $(foreach n,user user_mem addresses,guest/direct/$n:RINGER_ARGS=--user-code=direct@WANT_STAT=direct_entries=300@sh@tests/guest/run.sh@$(O)/ringer@translate@$(G)/$n.elf)
# Each instruction compared with the interpreter's; machines with one CPU only. What waits long goes into check-full.
VERIFY_SLOW := apic time
VERIFY_RUN = guest/verify/$1:RINGER_ARGS=--verify@sh@tests/guest/run.sh@$(O)/ringer@translate@$2
CHECKS += $(foreach g,$(filter-out $(foreach n,hostile smp $(VERIFY_SLOW),$(G)/$n.elf),$(GUESTS)),$(call VERIFY_RUN,$(basename $(notdir $(g))),$(g)))
CHECKS_FULL += $(foreach n,$(VERIFY_SLOW),$(call VERIFY_RUN,$n,$(G)/$n.elf))
CHECK_DEPS += guests
