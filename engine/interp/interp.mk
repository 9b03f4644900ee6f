LIB_SRC += $(wildcard engine/interp/*.c)

# The handlers chain by sibling calls where the build can promise them; other builds return to a loop.
ifeq ($(MODE),rel)
$(foreach f,h_alu h_mem h_flow h_sse h_sys,$(eval CFLAGS_engine_interp_$f := -DINTERP_TAIL_CALLS -foptimize-sibling-calls -fomit-frame-pointer -fno-stack-protector))
endif
