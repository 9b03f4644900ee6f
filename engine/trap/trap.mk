LIB_SRC += $(wildcard engine/trap/*.c)
