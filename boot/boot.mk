LIB_SRC += $(wildcard boot/*.c)
