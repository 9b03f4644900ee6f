# Fuzzing. Every tests/fuzz/fuzz_*.c is one libFuzzer target; they need clang and a sanitizer build of the library:
#   make MODE=asan CC=clang fuzz-bins && out/asan/tests/fuzz/fuzz_decode -max_total_time=60
# decode_random compares the decoder with Zydis on as many random strings as asked for.
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN := $(FUZZ_SRC:%.c=$(O)/%)
TEST_DEPS += $(FUZZ_BIN:=.d) $(O)/tests/fuzz/decode_random.d

$(FUZZ_BIN): $(O)/%: %.c $(O)/libringer.a | out/.deps-test
	@mkdir -p $(@D)
	@echo "  FUZZ  $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer -MMD -MP -MF $@.d -o $@ $< $(LDFLAGS) $(O)/libringer.a $(LIBS)
fuzz-bins: $(FUZZ_BIN)

$(O)/tests/fuzz/decode_random: tests/fuzz/decode_random.c $(O)/libringer.a | out/.deps-test
	@mkdir -p $(@D)
	@echo "  TEST  $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(LDFLAGS) $(O)/libringer.a $(LIBS)

CHECKS_FULL += decode_random:$(O)/tests/fuzz/decode_random
CHECK_FULL_DEPS += $(O)/tests/fuzz/decode_random
.PHONY: fuzz-bins
