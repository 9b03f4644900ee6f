LIB_SRC += $(wildcard x86/*.c)

# The decoder's tables come from the instruction table; the generator runs on the build machine.
ISA_DEF := $(wildcard x86/isa*.def)
$(O)/gen/isagen: scripts/isagen.c
	@mkdir -p $(@D)
	@$(CC) -O1 -std=gnu11 -Wall -Wextra -o $@ $<
$(O)/gen/x86_isa_tables.inc: $(O)/gen/isagen $(ISA_DEF)
	@echo "  GEN   $@"
	@$(O)/gen/isagen x86/isa.def > $@
$(O)/x86/decode_tables.o: $(O)/gen/x86_isa_tables.inc
