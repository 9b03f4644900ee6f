LIB_SRC += $(wildcard engine/direct/*.c)
