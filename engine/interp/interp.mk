LIB_SRC += $(wildcard engine/interp/*.c)
