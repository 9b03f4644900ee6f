# Unit tests: every tests/unit/test_*.c and tests/isa/test_*.c is one cmocka program.
UNIT_SRC := $(wildcard tests/unit/test_*.c tests/isa/test_*.c)
UNIT_BIN := $(UNIT_SRC:%.c=$(O)/%)
TEST_DEPS += $(UNIT_BIN:=.d)

out/.deps-test: scripts/deps.sh
	@mkdir -p out
	@sh scripts/deps.sh test && touch $@

$(UNIT_BIN): $(O)/%: %.c $(O)/libringer.a | out/.deps-test
	@mkdir -p $(@D)
	@echo "  TEST  $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(LDFLAGS) $(O)/libringer.a -lcmocka $(LIBS)

unit-bins: $(UNIT_BIN)
.PHONY: unit-bins

# make check: every test that fits a quarter of an hour on two cores. Other .mk files add NAME:COMMAND words to CHECKS
# (and their prerequisites to CHECK_DEPS).
CHECKS += $(foreach b,$(UNIT_BIN),$(patsubst $(O)/tests/%,%,$(b)):$(b))
CHECK_DEPS += $(UNIT_BIN)

# Unit tests, guests, machines stopped and ended, and boots with two CPUs under each sanitizer: half an hour on two cores.
check-sanitizers:
	@$(MAKE) --no-print-directory MODE=asan CC=clang check-sanitized
	@$(MAKE) --no-print-directory MODE=ubsan CC=clang check-sanitized
	@$(MAKE) --no-print-directory MODE=tsan CC=gcc check-sanitized
SANITIZED = $(foreach b,$(UNIT_BIN),$(MODE)/$(patsubst $(O)/tests/%,%,$(b)):$(b)) \
            $(foreach e,interp translate,$(foreach g,$(GUESTS),$(MODE)/guest/$e/$(basename $(notdir $(g))):sh@tests/guest/run.sh@$(O)/ringer@$e@$(g))) \
            $(MODE)/boot/interp/disk:CHECK_TIMEOUT=1800@BOOT_TIMEOUT=1700@sh@tests/boot/boot.sh@$(O)/ringer@interp@disk \
            $(foreach c,disk work,$(MODE)/boot/translate/$c:sh@tests/boot/boot.sh@$(O)/ringer@translate@$c) \
            $(foreach i,32 64,$(MODE)/teach/$i/lazy:sh@tests/trap/teach.sh@$(O)/ringer@right@$(T)/teach$i.elf@--engine@trap@--patch=lazy \
                              $(MODE)/teach/$i/patch-direct:sh@tests/trap/teach.sh@$(O)/ringer@right@$(T)/teach$i.elf@--engine@patch@--direct=always) \
            $(MODE)/stop:STOP_LIMIT=$(if $(filter tsan,$(MODE)),15,3)@python3@tests/stop/stop.py@$(O)/ringer@$(SPIN_DIR) \
            $(if $(filter tsan,$(MODE)),,$(MODE)/ends:python3@tests/boot/ends.py@$(O)/ringer@$(KERNEL_DIR)/vmlinuz@$(ROOT_DIR)/initrd.cpio) \
            $(MODE)/boot/direct/work:BOOT_OPTIONS="--cpus@2@--user-code=direct"@sh@tests/boot/boot.sh@$(O)/ringer@translate@work
check-sanitized: all $(UNIT_BIN) guests teach spin guest
	@CHECK_TIMEOUT=900 GUEST_TIMEOUT=600 BOOT_TIMEOUT=800 BOOT_OPTIONS="--cpus 2" TSAN_OPTIONS=exitcode=66 \
	    sh scripts/check.sh $(foreach c,$(SANITIZED),'$(c)')
check-full: check-sanitizers
.PHONY: check-sanitizers check-sanitized
# Random programs, more of them and others
MORE := isa/test_sequences:40000 unit/test_translate_spaces:100000 unit/test_translate_windows:50000 unit/test_translate_simd:30000 unit/test_translate_sys:30000 \
        unit/test_translate_str:60000 unit/test_translate_call:100000 unit/test_translate_diff:12000 unit/test_interp_diff:12000
CHECKS_FULL += $(foreach m,$(MORE),$(firstword $(subst :, ,$m))-more:RINGER_SEED=0x5851f42d4c957f2d@RINGER_ROUNDS=$(lastword $(subst :, ,$m))@$(O)/tests/$(firstword $(subst :, ,$m)))
