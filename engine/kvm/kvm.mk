LIB_SRC += $(wildcard engine/kvm/*.c)
