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
