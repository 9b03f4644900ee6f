LIB_SRC += $(wildcard engine/translate/*.c)
