# Resource control: whatever a guest does, it can be stopped and limited, under every engine. stop.py says whether; how exactly and how soon
# is measured by bench/limit.py (make check-full, make bench-limit).
SPIN_DIR := out/stop
SPIN := $(foreach m,16 32 64,$(foreach l,jmp rep io hlt,$(SPIN_DIR)/spin$(m)-$(l).bin)) $(foreach l,jmp rep io,$(SPIN_DIR)/spinuser-$(l).bin)
$(SPIN): tests/stop/spin.asm | out/.deps-test
	@mkdir -p $(@D)
	@nasm -f bin -DMODE=$(subst spin,,$(firstword $(subst -, ,$(basename $(notdir $@))))) -DLOOP=$(lastword $(subst -, ,$(basename $(notdir $@)))) -o $@ $<
CHECKS += stop:python3@tests/stop/stop.py@$(O)/ringer@$(SPIN_DIR)
CHECK_DEPS += spin
spin: $(SPIN)
.PHONY: spin
