LIB_SRC += $(wildcard board/*.c)
