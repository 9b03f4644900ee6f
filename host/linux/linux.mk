LIB_SRC += $(wildcard host/linux/*.c)
