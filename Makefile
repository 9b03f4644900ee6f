# Ringer: one non-recursive makefile. `make` builds out/rel and ./ringer;
# MODE=dbg|asan|ubsan|tsan|cov picks another build, CC=clang the compiler, STATIC=1 a program without shared libraries.
MODE ?= rel
CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
O := out/$(MODE)

WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-unused-parameter
CPPFLAGS := -I. -Iinclude -I$(O)/gen -D_GNU_SOURCE
CFLAGS_rel := -O2 -g
CFLAGS_dbg := -O1 -g3 -DRINGER_DEBUG=1
CFLAGS_asan := -O1 -g -fsanitize=address -fno-omit-frame-pointer -DRINGER_DEBUG=1
CFLAGS_ubsan := -O1 -g -fsanitize=undefined -fno-sanitize-recover=all -DRINGER_DEBUG=1
# gcc warns that it does not model fences; where we use them, what they order is atomic itself.
CFLAGS_tsan := -O1 -g -fsanitize=thread $(if $(findstring clang,$(CC)),,-Wno-tsan)
CFLAGS_cov := -O1 -g --coverage
CFLAGS_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -DRINGER_DEBUG=1
CFLAGS := -std=gnu11 -pthread -fno-strict-aliasing -fno-math-errno $(WARN) $(CFLAGS_$(MODE)) $(EXTRA_CFLAGS)
LDFLAGS := -pthread $(filter -fsanitize% --coverage,$(CFLAGS_$(MODE)))
LIBS_STATIC := -ljson-c -llzma -lz -lzstd -llz4
LIBS := -lZydis -lZycore $(LIBS_STATIC)

ifeq ($(filter $(MODE),rel dbg asan ubsan tsan cov fuzz),)
$(error MODE must be one of rel dbg asan ubsan tsan cov fuzz, not '$(MODE)')
endif

# The static program has a name of its own: both come from the same objects, but for the disassembler (lab/disasm.h).
PROGRAM := $(O)/ringer$(if $(STATIC),.static)
all: $(PROGRAM) ringer

# Each directory says what it builds.
LIB_SRC :=
CLI_SRC :=
include $(wildcard */*.mk */*/*.mk)

LIB_OBJ := $(LIB_SRC:%.c=$(O)/%.o)
CLI_OBJ := $(CLI_SRC:%.c=$(O)/%.o)

$(O)/libringer.a: $(LIB_OBJ)
	@rm -f $@
	@ar rcs $@ $(LIB_OBJ)

$(O)/ringer: $(CLI_OBJ) $(O)/libringer.a
	@echo "  LD    $@"
	@$(CC) $(LDFLAGS) -o $@ $(CLI_OBJ) $(O)/libringer.a $(LIBS)

$(O)/ringer.static: $(CLI_OBJ) $(O)/lab/static/disasm.o $(O)/libringer.a
	@echo "  LD    $@"
	@$(CC) $(LDFLAGS) -static -o $@ $^ $(LIBS_STATIC)

$(O)/%.o: %.c | deps
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(CFLAGS_$(subst /,_,$(basename $<))) -MMD -MP -c -o $@ $<

ifeq ($(MODE),rel)
ringer: $(PROGRAM)
	@ln -sfn $(PROGRAM) ringer
else
ringer:
endif

# Packages needed to build and test; installs what is missing (scripts/deps.sh).
deps: | out/.deps-build
out/.deps-build: scripts/deps.sh
	@mkdir -p out
	@sh scripts/deps.sh build && touch $@

# Every part has said by now what it adds to the tests (prerequisites are expanded where they are read).
check: all check-deps
	@sh scripts/check.sh $(foreach c,$(CHECKS),'$(c)')
check-deps: $(CHECK_DEPS)
check-unit: $(UNIT_BIN)
	@sh scripts/check.sh $(foreach b,$(UNIT_BIN),'$(patsubst $(O)/tests/%,%,$(b)):$(b)')

# Longer runs: more fuzzing, more random instructions, longer boots.
check-full: check
	@sh scripts/check.sh $(foreach c,$(CHECKS_FULL),'$(c)')
check-full: $(CHECK_FULL_DEPS)
.PHONY: check check-deps check-unit check-full

clean:
	rm -rf out ringer

.PHONY: all deps clean ringer
.DELETE_ON_ERROR:
-include $(O)/lab/static/disasm.d $(LIB_OBJ:.o=.d) $(CLI_OBJ:.o=.d) $(TEST_DEPS)
