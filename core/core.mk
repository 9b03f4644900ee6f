LIB_SRC += $(wildcard core/*.c)
