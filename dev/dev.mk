LIB_SRC += $(wildcard dev/*.c)
