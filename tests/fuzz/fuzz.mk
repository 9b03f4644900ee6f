# Fuzz targets: every tests/fuzz/fuzz_*.c is one libFuzzer program, built with clang, ASan and UBSan against a library
# instrumented the same way (MODE=fuzz).
#   make fuzz-bins                 build them all, into out/fuzz/tests/fuzz/
#   make fuzz-smoke [RUNS=n]       run each for a fixed number of inputs from a fixed seed
#   out/fuzz/tests/fuzz/fuzz_decode -max_total_time=60
# decode_random compares the decoder with Zydis on as many random strings as asked for.
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN := $(FUZZ_SRC:%.c=out/fuzz/%)
RUNS ?= 20000
TEST_DEPS += $(O)/tests/fuzz/decode_random.d

ifeq ($(MODE),fuzz)
TEST_DEPS += $(FUZZ_BIN:=.d)
$(FUZZ_BIN): out/fuzz/%: %.c $(O)/libringer.a
	@mkdir -p $(@D)
	@echo "  FUZZ  $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< -pthread -fsanitize=fuzzer,address,undefined $(O)/libringer.a $(LIBS)
fuzz-bins: $(FUZZ_BIN)
else
fuzz-bins: | out/.deps-test
	@$(MAKE) --no-print-directory MODE=fuzz CC=clang fuzz-bins
endif

fuzz-smoke: fuzz-bins
	@RUNS=$(RUNS) tests/fuzz/smoke.sh

CHECKS += fuzz-smoke:tests/fuzz/smoke.sh
CHECK_DEPS += fuzz-bins

$(O)/tests/fuzz/decode_random: tests/fuzz/decode_random.c $(O)/libringer.a | out/.deps-test
	@mkdir -p $(@D)
	@echo "  TEST  $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(LDFLAGS) $(O)/libringer.a $(LIBS)

# Other inputs, and more of them
CHECKS_FULL += fuzz-more:CHECK_TIMEOUT=1800@FUZZ_SEED=77@RUNS=300000@tests/fuzz/smoke.sh
CHECKS_FULL += decode_random:$(O)/tests/fuzz/decode_random
CHECK_FULL_DEPS += $(O)/tests/fuzz/decode_random
.PHONY: fuzz-bins fuzz-smoke
