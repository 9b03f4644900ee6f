LIB_SRC += $(wildcard x86/*.c)
